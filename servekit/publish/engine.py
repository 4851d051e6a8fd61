"""The image on this machine, and its way into a registry: docker, podman or buildah push it, with a login of our own.

The login is an authentication file in a temporary directory: the user's own logins are not touched, no password is in
any process's arguments, and nothing is left when it ends.
"""

from __future__ import annotations

import base64
import json
import os
import re
import shutil
import tempfile
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from servekit.errors import ConfigError
from servekit.images import programs
from servekit.images.builder import Builder
from servekit.publish.failures import (
    Busy,
    Failed,
    Forbidden,
    Missing,
    PublishError,
    Refused,
    Unauthorised,
    Unreachable,
)
from servekit.publish.http import is_loopback
from servekit.publish.reference import DIGEST, Reference
from servekit.publish.report import Advance, Report
from servekit.publish.secrets import Secret, hidden

# buildah last: it and podman share their images, and podman tells more of them.
ORDER = ("docker", "podman", "buildah")
# Hours on a slow line, and not for ever.
MAX_PUSH_S = 6 * 3600.0
MAX_CONFIG_BYTES = 1024 * 1024
NAME = re.compile(r"[A-Za-z0-9\[][A-Za-z0-9._:/@\[\]-]{0,511}")
# `trying to reuse blob ...: checking whether ...: unauthorized: authentication required`: what comes last says most.
# The status is what the registry answered then; where there was none, nobody knows what it has.
KINDS: Sequence[tuple[re.Pattern[str], type[PublishError], int | None, str]] = tuple(
    (re.compile(pattern, re.IGNORECASE), kind, status, hint)
    for pattern, kind, status, hint in (
        (r"unauthorized|no basic auth credentials|authentication required|token has expired", Unauthorised, 401,
         "the registry does not take this login: is it expired, or another account's?"),
        (r"denied|forbidden|not authorized", Forbidden, 403, "ask whoever manages the registry for the right to push"),
        (r"immutable", Refused, 400, "the repository keeps its tags: push under another tag"),
        (r"name unknown|repository .*(?:does not exist|not found)", Missing, 404, "make the repository first"),
        (r"toomanyrequests", Busy, 429, "try again later"),
        (r"\b50[0234]\b", Busy, None, "try again later"),
        (r"x509|certificate", Unreachable, None, "the registry's certificate is not good for this machine"),
        (r"HTTP response to HTTPS client", Unreachable, None,
         "the registry speaks plain http, which is for loopback only"),
        (r"connection refused|no such host|timeout|timed out|unreachable|connection reset|EOF", Unreachable, None,
         "check the network, and the registry's name"),
    )
)  # fmt: skip
DOCKER_DIGEST = re.compile(r": digest: (sha256:[0-9a-f]{64}) size: \d+")
DOCKER_LAYER = re.compile(r"[0-9a-f]{12,64}: (?P<state>Pushed|Layer already exists|Mounted from .*)")
PODMAN_LAYER = re.compile(r"Copying blob (?:sha256:)?(?P<layer>[0-9a-f]{12,64})")
LAYERS_SHARE = 95.0


class NoEngine(ConfigError):
    """Nothing here knows images."""


@dataclass(frozen=True, slots=True)
class LocalImage:
    """
    id: sha256 of its configuration, which no push changes. size_bytes: unpacked; buildah tells it to three digits.
    repo_digests: `NAME@sha256:...`, of manifests that it has or had somewhere. layers: how many there are.
    """

    id: str
    repo_digests: tuple[str, ...]
    architecture: str
    size_bytes: int
    labels: Mapping[str, str]
    engine: Builder
    layers: int = 0
    tags: tuple[str, ...] = ()


def local_image(name: str, *, by: str | None = None) -> LocalImage | None:
    """The image of this name or id, where an engine of this machine has it. None also where there is no engine.

    by: the one engine that is asked; default: all.
    """
    if not NAME.fullmatch(name):
        return None  # it might be an option
    try:
        found = engines(by)
    except NoEngine:
        return None
    for engine in found:
        image = _inspected(engine, name)
        if image is not None:
            return image
    return None


def engines(by: str | None = None) -> tuple[Builder, ...]:
    """Those that work. Raises NoEngine with what is wrong with each."""
    found, refused = [], []
    for name in ORDER if by is None else (by,):
        engine = _tried(name)
        if isinstance(engine, Builder):
            found.append(engine)
        else:
            refused.append(f"{name}: {engine}")
    if not found:
        raise NoEngine(f"nothing here pushes images ({'; '.join(refused)})")
    return tuple(found)


def push(
    source: str, destination: Reference, user: str, password: Secret, report: Report, *, by: str | None = None,
    form: str = "",
) -> str:  # fmt: skip
    """Push the local image `source`; the digest of its manifest, as the registry has it.

    destination: with a registry and a tag. docker keeps it as a further name of the image. by: the one engine that is
    asked; default: the first that has the image. form: of the manifest, where the registry takes one only; docker has
    its own.
    Raises NoEngine, Missing where no engine has the image, and what the registry says.
    """
    if not destination.registry or not destination.tag:
        raise ConfigError(f"cannot push to {str(destination)!r}: expected REGISTRY/NAME:TAG")
    engines(by)  # to say what is wrong with each
    image = local_image(source, by=by)
    if image is None:
        raise Missing(
            f"no engine here has the image {source}",
            hint="`docker images` or `podman images` lists them; `servekit build` makes one",
        )
    with (
        _login(destination.registry, user, password) as folder,
        report.bar("push", f"{source} to {destination} by {image.engine.name}") as advance,
    ):
        progress = _Progress(image, advance)
        if image.engine.name == "docker":
            digest = _docker(image, source, destination, folder, progress)
        else:
            digest = _podman(image, source, destination, folder, progress, form)
        advance(100, "pushed")
    return digest


# --- one engine's words ---


def _tried(name: str) -> Builder | str:
    """The engine, or what is wrong with it. A docker without its plugin buildx does not build, but pushes."""
    program = shutil.which(name)
    if program is None:
        return "no such program"
    # Something that takes the daemon, or the storage.
    question = ["version", "--format", "{{.Server.Version}}"] if name == "docker" else ["info"]
    try:
        ended = programs.ask([program, *question])
    except ConfigError as error:
        return error.message
    if ended.returncode != 0:
        return programs.last(ended.stderr.splitlines()) or f"`{name} {question[0]}` ended with {ended.returncode}"
    return Builder(name, program)


def _inspected(engine: Builder, name: str) -> LocalImage | None:
    if engine.name == "buildah":
        return _inspected_by_buildah(engine, name)
    documents = _asked(engine, "image", "inspect", name)
    if not isinstance(documents, list) or not documents or not isinstance(documents[0], dict):
        return None
    found = documents[0]
    config = found.get("Config") or {}
    return LocalImage(
        id=_digest(found.get("Id")),
        repo_digests=_texts(found.get("RepoDigests")),
        architecture=str(found.get("Architecture") or ""),
        size_bytes=_number(found.get("Size")),
        labels=_labels(config.get("Labels")),
        engine=engine,
        layers=len((found.get("RootFS") or {}).get("Layers") or ()),
        tags=_texts(found.get("RepoTags")),
    )


def _inspected_by_buildah(engine: Builder, name: str) -> LocalImage | None:
    found = _asked(engine, "inspect", "--type", "image", name)
    if not isinstance(found, dict):
        return None
    docker = found.get("Docker") or {}
    listed = _asked(engine, "images", "--json", name)
    listed = listed[0] if isinstance(listed, list) and listed and isinstance(listed[0], dict) else {}
    tags, digest = _texts(listed.get("names")), _digest(found.get("FromImageDigest"))
    return LocalImage(
        id=_digest(found.get("FromImageID")),
        repo_digests=tuple(f"{tag.rpartition(':')[0]}@{digest}" for tag in tags) if digest else (),
        architecture=str(docker.get("architecture") or ""),
        size_bytes=_written_size(str(listed.get("size") or "")),
        labels=_labels((docker.get("config") or {}).get("Labels")),
        engine=engine,
        layers=len((docker.get("rootfs") or {}).get("diff_ids") or ()),
        tags=tags,
    )


def _docker(image: LocalImage, source: str, destination: Reference, folder: Path, progress: _Progress) -> str:
    program = image.engine.program
    target = str(destination)
    _run([program, "tag", source, target], os.environ, progress, target)
    _run([program, "push", target], os.environ | {"DOCKER_CONFIG": str(folder)}, progress, target)
    if not progress.digest:
        raise Failed(f"docker pushed {target}, and did not say under which digest")
    return progress.digest


def _podman(
    image: LocalImage, source: str, destination: Reference, folder: Path, progress: _Progress, form: str
) -> str:
    said = folder / "digest"
    command = [
        *(image.engine.program, "push", "--authfile", str(folder / "config.json"), "--digestfile", str(said)),
        # Docker does the same by itself.
        *(("--tls-verify=false",) if _is_here(destination.registry) else ()),
        *(("--format", form) if form else ()),
        *(source, f"docker://{destination}"),
    ]
    _run(command, os.environ, progress, str(destination))
    digest = said.read_text().strip() if said.is_file() else ""
    if not DIGEST.fullmatch(digest):
        raise Failed(f"{image.engine.name} pushed {destination}, and did not say under which digest")
    return digest


def _run(command: Sequence[str], environ: Mapping[str, str], progress: _Progress, target: str) -> None:
    try:
        status = programs.run(command, environ, progress.take, limit_s=MAX_PUSH_S)
    except OSError as error:
        raise ConfigError(f"{Path(command[0]).name}: cannot be started: {error.strerror or error}") from error
    if status != 0:
        raise _failure(Path(command[0]).name, target, programs.last(progress.said) or f"exit code {status}")


def _failure(name: str, target: str, text: str) -> PublishError:
    for pattern, kind, status, hint in KINDS:
        if pattern.search(text):
            return kind(f"{name} could not push {target}: {text}", hint=hint, status=status)
    return Failed(f"{name} could not push {target}: {text}")


@dataclass(slots=True)
class _Progress:
    """An engine's output, line by line. podman says when a layer begins, docker when it has ended."""

    image: LocalImage
    advance: Advance
    digest: str = ""
    said: deque[str] = field(default_factory=lambda: deque(maxlen=20))
    _layers: set[str] = field(default_factory=set)

    def take(self, line: str) -> None:
        line = hidden(line)
        self.said.append(line)
        if found := DOCKER_DIGEST.search(line):
            self.digest = found[1]
        if DOCKER_LAYER.fullmatch(line.strip()):
            self._step(line.strip().partition(":")[0], "pushed")
        elif found := PODMAN_LAYER.match(line):
            self._step(found["layer"][:12], "begun")

    def _step(self, layer: str, what: str) -> None:
        self._layers.add(layer)
        total = max(self.image.layers, len(self._layers))
        # The last one of podman's has only begun.
        share = len(self._layers) - (what == "begun")
        self.advance(LAYERS_SHARE * share / total, f"{len(self._layers)} of {total} layers {what}")


# --- the login ---


@contextmanager
def _login(registry: str, user: str, password: Secret) -> Iterator[Path]:
    """A folder for DOCKER_CONFIG, whose config.json is an authentication file of podman's as well."""
    folder = Path(tempfile.mkdtemp(prefix="servekit-login-"))
    try:
        own = Path(os.environ.get("DOCKER_CONFIG") or "~/.docker").expanduser()
        config = _config(own / "config.json")
        # Without the user's other logins, and without helpers, which would be asked before this file.
        for name in ("auths", "credsStore", "credHelpers"):
            config.pop(name, None)
        pair = base64.b64encode(f"{user}:{password.reveal()}".encode()).decode()
        Secret(pair)  # hides it as well
        config["auths"] = {registry: {"auth": pair}}
        with os.fdopen(os.open(folder / "config.json", os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as file:
            json.dump(config, file)
        # Which daemon it is that docker talks to.
        if (own / "contexts").is_dir():
            (folder / "contexts").symlink_to((own / "contexts").resolve())
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _config(file: Path) -> dict[str, Any]:
    """The user's, {} where there is none that can be read."""
    try:
        with file.open("rb") as opened:
            document = json.loads(opened.read(MAX_CONFIG_BYTES))
    except (OSError, ValueError, RecursionError):
        return {}
    return document if isinstance(document, dict) else {}


def _is_here(registry: str) -> bool:
    host = registry if registry.endswith("]") else registry.rpartition(":")[0] or registry
    return is_loopback(host)


# --- what they answer ---


def _asked(engine: Builder, *question: str) -> Any:
    """None where it says no, or nothing that is understood."""
    ended = programs.ask([engine.program, *question])
    if ended.returncode != 0:
        return None
    try:
        return json.loads(ended.stdout)
    except (ValueError, RecursionError):
        return None


def _digest(text: Any) -> str:
    """Some leave the algorithm out."""
    if not isinstance(text, str) or not text:
        return ""
    return text if ":" in text else f"sha256:{text}"


def _texts(values: Any) -> tuple[str, ...]:
    return tuple(value for value in values if isinstance(value, str)) if isinstance(values, list) else ()


def _labels(values: Any) -> dict[str, str]:
    return {str(name): str(value) for name, value in values.items()} if isinstance(values, dict) else {}


def _number(value: Any) -> int:
    return value if isinstance(value, int) and not isinstance(value, bool) and value >= 0 else 0


def _written_size(text: str) -> int:
    """`199 MB` and the like."""
    found = re.fullmatch(r"(\d+(?:\.\d+)?) ?([KMGT]?)B", text, re.IGNORECASE)
    return int(float(found[1]) * 1000 ** " KMGT".index(found[2].upper() or " ")) if found else 0
