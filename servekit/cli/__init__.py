"""The commands. Each verb has a file of its own, which imports what it needs only when it runs."""

from servekit.cli.main import main, serve

__all__ = ["main", "serve"]
