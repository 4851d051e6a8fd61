"""The room that turns a project into a build context and an image."""
