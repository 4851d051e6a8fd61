"""Into SWR with the builder that is here: its registry gives a password for a while, which nobody else gets to see.

The password goes to the builder's standard input, and into a folder of this process's that is removed at the end: the
user's own logins stay as they are.
"""

from __future__ import annotations

import base64
import binascii
import contextlib
import json
import os
import re
import shutil
import subprocess
import tempfile
import threading
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from servekit.errors import ConfigError
from servekit.images.builder import Builder, NoBuilder, find
from servekit.publish.failures import Failed, NotUnderstood, Unauthorised, line
from servekit.publish.http import is_loopback
from servekit.publish.modelarts.client import Caller
from servekit.publish.reference import DIGEST, Reference
from servekit.publish.secrets import Secret

SECRET_PATH = "/v2/manage/utils/secret"  # noqa: S105 - a path
MAX_ASKING_S = 60.0
MAX_PUSHING_S = 6 * 3600.0
MAX_LINE_BYTES = 64 * 1024
KEPT_LINES = 20
PUSHED = re.compile(rf"digest: ({DIGEST.pattern})")


@dataclass(frozen=True, slots=True)
class RegistryLogin:
    user: str
    password: Secret


def registry_login(swr: Caller, registry: str, region: str) -> RegistryLogin:
    """SWR's answer is a piece of docker's config.json. Raises PublishError."""
    # Asking twice makes two passwords, and each of them ends by itself.
    answer = swr.call("POST", SECRET_PATH, query=(("projectname", region),), document={}, repeatable=True)
    auths = answer.document().get("auths")
    if not isinstance(auths, dict):
        auths = {}
    if auths and registry not in auths:
        raise Unauthorised(
            f"POST {SECRET_PATH}: the login is for {', '.join(map(str, auths))}, and the image is for {registry}",
            hint="the image's name has to begin with the registry of the region that --region names",
        )
    try:
        user, colon, password = base64.b64decode(auths[registry]["auth"], validate=True).decode().partition(":")
    except (TypeError, KeyError, ValueError, binascii.Error):
        user, colon, password = "", "", ""
    if not (user and colon and password) or not (user + password).isprintable():
        raise NotUnderstood(
            f"POST {SECRET_PATH}: expected auths with the registry's auth, user:password in base64, got none",
            status=answer.status,
        )
    return RegistryLogin(user, Secret(password))


def push(
    image: Reference, login: RegistryLogin, *, source: str, builder: str | None, tell: Callable[[str], None]
) -> str:
    """The digest. source: the image's name here. Raises NoBuilder, Failed."""
    chosen = find(builder)
    with _account(chosen) as environ:
        tell(f"{chosen.name} logs in to {image.registry}")
        insecure = [] if chosen.name == "docker" or not _is_local(image) else ["--tls-verify=false"]
        _run(
            [chosen.program, "login", *insecure, "--username", login.user, "--password-stdin", image.registry],
            environ, given=login.password.reveal(), limit_s=MAX_ASKING_S, what=f"{chosen.name} login",
        )  # fmt: skip
        target = str(image)
        if source != target:
            command = [chosen.program, "tag", source, target]
            _run(command, environ, limit_s=MAX_ASKING_S, what=f"{chosen.name} tag {source}")
        with tempfile.TemporaryDirectory(prefix="servekit-push-") as folder:
            digest_file = Path(folder) / "digest"
            command = [chosen.program, "push", target]
            if chosen.name != "docker":
                # The registry takes docker's own form of a manifest only.
                options = [*insecure, "--format", "v2s2", "--digestfile", str(digest_file)]
                command = [chosen.program, "push", *options, target]
            said = _run(command, environ, limit_s=MAX_PUSHING_S, what=f"{chosen.name} push {target}", tell=tell)
            text = digest_file.read_text().strip() if digest_file.is_file() else ""
        found = DIGEST.search(text) or PUSHED.search("\n".join(said))
        if found is None:
            raise Failed(f"{chosen.name} push {target}: expected a digest in its output, got none")
        return found[1] if found.re is PUSHED else found[0]


def local_digest(image: Reference, builder: str | None = None) -> str:
    """What this machine's builder knows of the image in its registry; "" where it knows nothing, or none is here."""
    try:
        chosen = find(builder)
    except NoBuilder:
        if builder is not None:
            raise
        return ""
    if chosen.name == "buildah":
        return ""  # it remembers what it has built, not what a registry has
    try:
        ended = subprocess.run(  # noqa: S603 - a list of arguments, no shell
            [chosen.program, "image", "inspect", "--format", "{{json .RepoDigests}}", str(image)],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            errors="replace",
            timeout=MAX_ASKING_S,
            check=False,
        )
        digests = json.loads(ended.stdout) if ended.returncode == 0 else None
    except (OSError, ValueError, subprocess.TimeoutExpired):
        return ""
    repository = f"{image.registry}/{image.repository}"
    for each in digests if isinstance(digests, list) else []:
        name, _, digest = str(each).partition("@")
        if name == repository and DIGEST.fullmatch(digest):
            return digest
    return ""


def _is_local(image: Reference) -> bool:
    return is_loopback(image.registry.rpartition(":")[0] or image.registry)


@contextlib.contextmanager
def _account(builder: Builder) -> Iterator[dict[str, str]]:
    """The environment with a login of its own."""
    folder = Path(tempfile.mkdtemp(prefix="servekit-login-"))
    try:
        environ = dict(os.environ)
        if builder.name == "docker":
            _copy_docker(Path(environ.get("DOCKER_CONFIG") or "~/.docker").expanduser(), folder)
            environ["DOCKER_CONFIG"] = str(folder)
        else:
            (folder / "auth.json").write_text("{}")
            environ["REGISTRY_AUTH_FILE"] = str(folder / "auth.json")
        yield environ
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _copy_docker(theirs: Path, ours: Path) -> None:
    """Which daemon it talks to, and through which proxies; no logins."""
    try:
        document = json.loads((theirs / "config.json").read_bytes())
    except (OSError, ValueError, RecursionError):
        document = {}
    if isinstance(document, dict):
        kept = {key: document[key] for key in ("currentContext", "proxies", "HttpHeaders") if key in document}
        (ours / "config.json").write_text(json.dumps(kept))
    for name in ("contexts", "cli-plugins"):
        if (theirs / name).is_dir():
            (ours / name).symlink_to((theirs / name).resolve())


def _run(
    command: Sequence[str],
    environ: dict[str, str],
    *,
    limit_s: float,
    what: str,
    given: str = "",
    tell: Callable[[str], None] | None = None,
) -> list[str]:
    """The last lines of its output. Raises Failed with them."""
    kept: deque[str] = deque(maxlen=KEPT_LINES)
    try:
        process = subprocess.Popen(  # noqa: S603 - a list of arguments, no shell
            command, env=environ, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
            start_new_session=True,
        )  # fmt: skip
    except OSError as error:
        raise ConfigError(f"{what}: {error.strerror or error}") from error
    timer = threading.Timer(limit_s, process.kill)
    timer.daemon = True
    timer.start()
    try:
        assert process.stdin is not None and process.stdout is not None  # noqa: S101, PT018 - pipes
        with contextlib.suppress(BrokenPipeError):
            process.stdin.write(given.encode())
            process.stdin.close()
        while piece := process.stdout.readline(MAX_LINE_BYTES):
            text = line(piece.decode(errors="replace").rpartition("\r")[2])
            if text:
                kept.append(text)
                if tell is not None:
                    tell(text)
        status = process.wait()
    finally:
        timer.cancel()
        if process.poll() is None:
            process.kill()
            process.wait()
        assert process.stdout is not None  # noqa: S101 - a pipe
        process.stdout.close()
    if status != 0:
        reason = kept[-1] if kept else f"exit code {status}"
        raise Failed(
            f"{what}: {reason}", hint="the organisation has to exist in SWR, and the user to be allowed to push"
        )
    return list(kept)
