"""An image as a container, started by docker or podman as the platform starts it, and removed in the end."""

from __future__ import annotations

import json
import os
import re
import secrets
import subprocess
import tarfile
from collections.abc import Mapping, Sequence
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path, PurePosixPath
from typing import Any

from servekit.check.subject import Running, Subject, free_port, require_free, shared_folder
from servekit.check.wire import Address
from servekit.errors import ConfigError
from servekit.images import programs
from servekit.images.builder import NoBuilder, find
from servekit.terms import Start

ENGINES = ("docker", "podman")
# By name, with a registry and folders, a tag and a digest; or by the first digits of its identity.
REFERENCE = re.compile(r"[A-Za-z0-9][A-Za-z0-9._/:@-]{0,511}")
HOSTS_NETWORK = re.compile(r"--net(?:work)?=host")
MAX_ASKING_S = 60.0
MAX_FILE_BYTES = 16 * 1024 * 1024
MAX_LINKS = 8
MAX_PORT = 65535


@dataclass(frozen=True, slots=True)
class Engine:
    name: str
    program: str

    def ask(self, *arguments: str) -> str:
        """What it prints. Raises ConfigError."""
        ended = programs.ask([self.program, *arguments], limit_s=MAX_ASKING_S)
        if ended.returncode != 0:
            said = ended.stderr.strip().splitlines() or [f"exit code {ended.returncode}"]
            raise ConfigError(f"`{self.name} {arguments[0]}` failed: {said[-1][:500]}")
        return ended.stdout

    def remove(self, name: str) -> None:
        """A container that may be there."""
        hurry = ("--time", "0") if self.name == "podman" else ()
        with suppress(ConfigError):
            self.ask("rm", "--force", *hurry, name)


def engine(name: str | None = None) -> Engine:
    """The first that works, or the one of this name. Raises ConfigError."""
    if name is not None and name not in ENGINES:
        raise ConfigError(f"--engine {name!r}: expected one of {', '.join(ENGINES)}")
    refused = []
    for candidate in ENGINES if name is None else (name,):
        try:
            found = find(candidate)
        except NoBuilder as error:
            refused.append(error.message.removeprefix("--builder "))
        else:
            return Engine(found.name, found.program)
    raise ConfigError(
        f"nothing here runs containers ({'; '.join(refused)}): install docker or podman, or use --command"
    )


class StoredImage:
    """An image of this machine. Its files are read out of a container that never runs."""

    def __init__(self, engine: Engine, tag: str) -> None:
        """Raises ConfigError."""
        if not REFERENCE.fullmatch(tag):
            raise ConfigError(f"--image {tag[:200]!r}: expected the name of an image, such as digits:1.0")
        self._engine, self._tag = engine, tag
        try:
            found = json.loads(engine.ask("image", "inspect", tag))
            self._about: dict[str, Any] = found[0]
            self._config: dict[str, Any] = self._about.get("Config") or {}
        except (ValueError, IndexError, KeyError, TypeError, AttributeError) as error:
            raise ConfigError(f"--image {tag}: `{engine.name} image inspect` gave no description") from error
        except ConfigError as error:
            raise ConfigError(f"--image {tag}: {error.message}; build or pull it first") from error
        self._container: str | None = None
        self._read: dict[str, tuple[tarfile.TarInfo, bytes] | None] = {}

    def labels(self) -> Mapping[str, str]:
        return self._config.get("Labels") or {}

    def entrypoint(self) -> Sequence[str]:
        return _words(self._config.get("Entrypoint"))

    def command(self) -> Sequence[str]:
        return _words(self._config.get("Cmd"))

    def user(self) -> str:
        return str(self._config.get("User") or "")

    def environ(self) -> Mapping[str, str]:
        return dict(line.partition("=")[::2] for line in self._config.get("Env") or ())

    def exposed_ports(self) -> Sequence[int]:
        numbers = (str(port).partition("/")[0] for port in self._config.get("ExposedPorts") or ())
        return sorted(int(number) for number in numbers if number.isdigit())

    def working_directory(self) -> str:
        return str(self._config.get("WorkingDir") or "/")

    def nbytes(self) -> int:
        return int(self._about.get("Size") or 0)

    def read(self, path: str) -> bytes | None:
        found = self._member(path)
        return found[1] if found is not None and found[0].isfile() else None

    def is_executable(self, path: str) -> bool:
        found = self._member(path)
        return found is not None and found[0].isfile() and bool(found[0].mode & 0o111)

    def has(self, path: str) -> bool:
        return self._member(path) is not None

    def close(self) -> None:
        if self._container is not None:
            self._engine.remove(self._container)

    def _member(self, path: str) -> tuple[tarfile.TarInfo, bytes] | None:
        """Links are followed."""
        if path not in self._read:
            here = PurePosixPath("/") / path
            for _ in range(MAX_LINKS):
                found = self._copied(str(here))
                if found is None or not found[0].issym():
                    break
                here = PurePosixPath(os.path.normpath(here.parent / found[0].linkname))
            self._read[path] = found
        return self._read[path]

    def _copied(self, path: str) -> tuple[tarfile.TarInfo, bytes] | None:
        """The first entry of what `cp` sends; of a folder no more is read."""
        if self._container is None:
            name = f"servekit-check-{os.getpid()}-{secrets.token_hex(4)}"
            # A name that exists before it is known could be left behind.
            self._container = name
            self._engine.ask("create", "--name", name, "--network", "none", self._tag, "never-run")
        process = subprocess.Popen(  # noqa: S603 - a list of arguments, no shell
            [self._engine.program, "cp", f"{self._container}:{path}", "-"],
            stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL,
        )  # fmt: skip
        with process, suppress(tarfile.TarError, EOFError):
            try:
                assert process.stdout is not None  # noqa: S101 - it is a pipe
                with tarfile.open(fileobj=process.stdout, mode="r|") as archive:
                    member = archive.next()
                    if member is None:
                        return None
                    content = archive.extractfile(member) if member.isfile() else None
                    return member, content.read(MAX_FILE_BYTES) if content is not None else b""
            finally:
                process.kill()
        return None


def _words(value: Any) -> tuple[str, ...]:
    return tuple(map(str, value)) if isinstance(value, list) else ()


class Container(Subject):
    """An image that runs.

    shares_files: it sees `folder`. model: what the platform puts into it. extra: further arguments of the engine's
    `run`. describes: names of files that are read from the image, in its working directory or in one of `places`.
    """

    def __init__(
        self,
        tag: str,
        start: Start,
        *,
        engine: Engine,
        shares_files: bool = False,
        describes: Sequence[str] = (),
        places: Sequence[str] = (),
        port: int | None = None,
        model: Path | None = None,
        extra: Sequence[str] = (),
    ) -> None:
        """Raises ConfigError."""
        image = StoredImage(engine, tag)
        self._image, self._engine = image, engine
        self._folder = shared_folder()
        self._name = f"servekit-check-{os.getpid()}-{secrets.token_hex(4)}"
        self._running: _Contained | None = None
        try:
            inside = port or _own_port(image, start)
            hosts = any(HOSTS_NETWORK.fullmatch(words) for words in _joined(extra))
            outside = inside if hosts else free_port()
            require_free(outside)
            options = [] if hosts else ["--publish", f"127.0.0.1:{outside}:{inside}"]
            if shares_files:
                options += ["--volume", f"{self._folder.name}:{self._folder.name}"]
            options += self._mounts(start, model)
            options += ["--user", start.user] if start.user else []
            environ = {**start.environ, **({start.port_variable: str(inside)} if start.port_variable else {})}
            options += [word for name, value in environ.items() for word in ("--env", f"{name}={value}")]
            command = [
                *(engine.program, "run", "--rm", "--name", self._name, "--pull", "never", "--log-driver", "none"),
                *options, *extra, tag, *start.arguments,
            ]  # fmt: skip
            # Read now: from its start on, every moment counts.
            files = _described(image, describes, places)
            with programs.held_back():
                process = subprocess.Popen(  # noqa: S603 - a list of arguments, no shell
                    command,
                    stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, start_new_session=True,
                )  # fmt: skip
                self._running = _Contained(process, engine, self._name)
        except OSError as error:
            self._leave()
            raise ConfigError(f"{engine.name} cannot be started: {error.strerror or error}") from error
        except BaseException:
            self.close()
            raise
        super().__init__(
            Address("127.0.0.1", outside),
            process=self._running,
            image=image,
            folder=Path(self._folder.name),
            files=files,
        )

    def _mounts(self, start: Start, model: Path | None) -> list[str]:
        """Read-only: the model, or nothing where the image brings none of its own."""
        if model is not None and not start.read_only:
            raise ConfigError("--model: this platform puts no model into a container; it is part of the image")
        options = []
        for place in start.read_only:
            if model is not None:
                options += ["--volume", f"{model.resolve()}:{place}:ro"]
            elif not self._image.has(place):
                empty = Path(self._folder.name, "nothing")
                empty.mkdir(exist_ok=True)
                empty.chmod(0o755)
                options += ["--volume", f"{empty}:{place}:ro"]
        return options

    def close(self) -> None:
        with ExitStack() as rest:
            rest.callback(self._leave)
            if self._running is not None:
                # `run` itself ends also when Ctrl-C comes once more.
                rest.callback(self._running.end)
                self._engine.remove(self._name)

    def _leave(self) -> None:
        try:
            self._image.close()
        finally:
            # Once more: it may have been on its way when it was asked for.
            self._engine.remove(self._name)
            self._folder.cleanup()


class _Contained(Running):
    """`docker run` in the foreground: its exit code is the container's."""

    def __init__(self, process: subprocess.Popen[bytes], engine: Engine, name: str) -> None:
        super().__init__(process)
        self._engine, self._name = engine, name

    def terminate(self) -> None:
        with suppress(ConfigError):
            self._engine.ask("kill", "--signal", "TERM", self._name)


def _described(image: StoredImage, names: Sequence[str], places: Sequence[str]) -> dict[str, bytes]:
    """The files in which the image describes itself."""
    found: dict[str, bytes] = {}
    for name in names:
        for place in (image.working_directory(), *places):
            content = image.read(f"{place.rstrip('/')}/{name}")
            if content is not None:
                found[name] = content
                break
    return found


def _own_port(image: StoredImage, start: Start) -> int:
    text = image.environ().get(start.port_variable, "") if start.port_variable else ""
    return int(text) if text.isdigit() and 0 < int(text) <= MAX_PORT else start.port


def _joined(words: Sequence[str]) -> list[str]:
    """`--network host` as `--network=host`."""
    return [*words, *(f"{first}={second}" for first, second in pairwise(words))]
