"""The last steps after a build, at each platform's control plane: registering an image, publishing a model of it."""
