"""The oldest versions of other packages that servekit runs on: those that pyproject.toml names, held to at the start.

Images are put together by many hands; a parser or a supervisor that is older than its last security fix is better
refused at the start than found out later.
"""

from __future__ import annotations

from collections.abc import Iterable
from importlib import metadata

from packaging.requirements import Requirement

from servekit.errors import ConfigError

# The others are for development.
SERVING_EXTRAS = ("fast", "image")


def check_floors(requirements: Iterable[str] | None = None) -> None:
    """Every requirement of servekit that applies here, and those of its extras for serving that are installed.

    Raises ConfigError.

    requirements: as in pyproject.toml; by default those of the installed servekit.
    """
    if requirements is None:
        requirements = metadata.requires("servekit") or ()
    wrong = []
    for text in requirements:
        requirement = Requirement(text)
        marker = requirement.marker
        needed = marker is None or marker.evaluate()
        if not needed and not any(marker and marker.evaluate({"extra": extra}) for extra in SERVING_EXTRAS):
            continue
        try:
            version = metadata.version(requirement.name)
        except metadata.PackageNotFoundError:
            if needed:
                wrong.append(f"{requirement.name}: expected {requirement.specifier}, found none")
            continue
        if not requirement.specifier.contains(version, prereleases=True):
            wrong.append(f"{requirement.name}: expected {requirement.specifier}, found {version}")
    if wrong:
        raise ConfigError(f"packages that servekit does not run on: {'; '.join(wrong)}")
