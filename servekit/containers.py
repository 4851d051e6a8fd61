"""The nouns of container images: what one is made for, and what a platform demands of it.

A platform's `container` function is pure, like the rest of its contract: from a `Product` to a `Container`. What is
written to disk, and built, is the business of `servekit.images`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from servekit.signature import Signature


@dataclass(frozen=True, slots=True)
class Product:
    """The model that an image is made for.

    name: letters, digits and `. _ -`, beginning with a letter; also the image's default tag.
    version: three integers with dots between them.
    batch: the platform's batch services are to be served too, where they need something of the image.
    """

    name: str
    version: str
    signature: Signature
    summary: str = ""
    details: str = ""
    author: str = ""
    batch: bool = False


@dataclass(frozen=True, slots=True)
class BootFile:
    """A file at a place that a platform knows."""

    content: bytes
    executable: bool = False


@dataclass(frozen=True, slots=True)
class Container:
    """What a platform demands of an image.

    command: what runs when nobody says otherwise, in exec form.
    environment, labels: of the image. environment holds no secrets: whoever has the image can read it.
    ports: what it listens on, in the first place.
    user: `uid:gid`; "" for root.
    packages: of the base image's distribution (Debian's names), beside what Python needs.
    setup: shell commands that run as root while the image is built, before any file of the product is there.
    files: by absolute path.
    manifests: by file name; they lie beside the target, where `routes` of the platform reads them, unless the project
        has its own.
    """

    command: tuple[str, ...]
    environment: Mapping[str, str] = field(default_factory=dict)
    labels: Mapping[str, str] = field(default_factory=dict)
    ports: tuple[int, ...] = (8080,)
    user: str = ""
    packages: tuple[str, ...] = ()
    setup: tuple[str, ...] = ()
    files: Mapping[str, BootFile] = field(default_factory=dict)
    manifests: Mapping[str, bytes] = field(default_factory=dict)
