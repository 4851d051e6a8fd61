"""References to images: `registry[:port]/namespace/name:tag`, and the digest that tells what a tag means today."""

from __future__ import annotations

import re
from dataclasses import dataclass, replace

from servekit.errors import ConfigError

DOCKER_HUB = "docker.io"
DIGEST = re.compile(r"sha256:[0-9a-f]{64}")
COMPONENT = re.compile(r"[a-z0-9]+(?:(?:\.|_|__|-+)[a-z0-9]+)*")
TAG = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,127}")
LABEL = "[A-Za-z0-9](?:[A-Za-z0-9-]*[A-Za-z0-9])?"
REGISTRY = re.compile(rf"(?:{LABEL}(?:\.{LABEL})*|\[[0-9a-fA-F:]+\])(?::[0-9]{{1,5}})?")
MAX_CHARS = 2048


@dataclass(frozen=True, slots=True)
class Reference:
    """registry: with its port; "" where the reference names none. namespace: with slashes, "" for none."""

    registry: str
    namespace: str
    name: str
    tag: str = ""
    digest: str = ""

    @property
    def repository(self) -> str:
        return f"{self.namespace}/{self.name}" if self.namespace else self.name

    def __str__(self) -> str:
        text = f"{self.registry}/{self.repository}" if self.registry else self.repository
        text += f":{self.tag}" if self.tag else ""
        return text + (f"@{self.digest}" if self.digest else "")

    def with_tag(self, tag: str) -> Reference:
        return replace(self, tag=tag, digest="")


def parse(text: str, *, option: str = "IMAGE") -> Reference:
    """As docker reads it: the part before the first slash is a registry if it has a dot or colon, or is localhost.

    Raises ConfigError.
    """
    wrong = f"{option} {text[:200]!r}: expected [REGISTRY[:PORT]/][NAMESPACE/]NAME[:TAG][@sha256:...]"
    if not text or len(text) > MAX_CHARS:
        raise ConfigError(f"{wrong}, of at most {MAX_CHARS} characters")
    if "://" in text:
        raise ConfigError(f"{wrong}, without a scheme such as https://")
    rest, _, digest = text.partition("@")
    if digest and not DIGEST.fullmatch(digest):
        raise ConfigError(f"{wrong}: {digest!r} is no sha256 digest")
    registry = ""
    first, slash, behind = rest.partition("/")
    if slash and ("." in first or ":" in first or first == "localhost"):
        registry, rest = first, behind
        if not REGISTRY.fullmatch(registry):
            raise ConfigError(f"{wrong}: {registry!r} is no host of a registry")
    path, colon, tag = rest.rpartition(":") if ":" in rest else (rest, "", "")
    if colon and not TAG.fullmatch(tag):
        raise ConfigError(f"{wrong}: {tag!r} is no tag")
    *namespace, name = path.split("/")
    for component in (*namespace, name):
        if not COMPONENT.fullmatch(component):
            raise ConfigError(
                f"{wrong}: {component!r} must be lower-case letters and digits, with . _ or - between them"
            )
    return Reference(registry, "/".join(namespace), name, tag, digest)
