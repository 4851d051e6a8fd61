"""The platforms that are installed: ours and a stranger's come through the same entry point."""

from __future__ import annotations

from functools import cache
from importlib.metadata import entry_points

from servekit.contract import Platform
from servekit.errors import ConfigError

GROUP = "servekit.platforms"


@cache
def installed() -> dict[str, Platform]:
    """Platforms by name, in a fixed order. Raises ConfigError when a plug-in is not a Platform."""
    found: dict[str, Platform] = {}
    for entry in sorted(entry_points(group=GROUP), key=lambda entry: entry.name):
        platform = entry.load()
        if not isinstance(platform, Platform):
            raise ConfigError(f"entry point {entry.name} of {GROUP}: expected a Platform, got {platform!r}")
        found[entry.name] = platform
    return found
