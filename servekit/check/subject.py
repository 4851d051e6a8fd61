"""What is judged: a container behind a URL, a command that is started here, or an image that is run."""

from __future__ import annotations

import os
import re
import secrets
import shlex
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol
from urllib.parse import urlsplit

from servekit.check.logs import Log
from servekit.check.wire import Address
from servekit.errors import ConfigError
from servekit.images import programs
from servekit.terms import Image, Start

END_S = 2.0
LAST_WORDS_S = 0.5
PORT = "{port}"
HOST = re.compile(r"[A-Za-z0-9._~:%-]+")
PREFIX = re.compile(r"[!-~]*")
# By this variable whatever a command has started is found again, also what has left its session.
MARK = "SERVEKIT_CHECK_MARK"
KILL_ROUNDS = 10
KILLED_S = 0.02


class Process(Protocol):
    """A container that runs here: it can be told to stop, and seen to end."""

    @property
    def started_s(self) -> float:
        """By the monotonic clock."""

    @property
    def exit_code(self) -> int | None:
        """None while it runs; -N when signal N ended it."""

    def terminate(self) -> None:
        """SIGTERM, to its first process."""

    def wait(self, timeout_s: float) -> int | None:
        """Its exit code, or None when it still runs."""

    def output(self) -> list[str]:
        """The last lines of its standard output and standard error."""

    def output_nbytes(self) -> int:
        """Of both, in all."""


@dataclass(slots=True)
class Subject:
    """
    folder: where files may be put that the container sees under the same name.
    files: those of the image in which the container describes itself.
    """

    address: Address
    process: Process | None = None
    image: Image | None = None
    folder: Path | None = None
    files: Mapping[str, bytes] = field(default_factory=dict)

    def close(self) -> None:
        """Nothing that was started here is left."""


def at_url(url: str) -> Subject:
    """Raises ConfigError."""
    try:
        parts = urlsplit(url)
        port = 80 if parts.port is None else parts.port
        # A name in letters of other alphabets has a form for the wire.
        host = (parts.hostname or "").encode("idna").decode()
    except ValueError:
        parts, port, host = urlsplit(""), 0, ""
    wrong = parts.scheme != "http" or not port or parts.query or parts.fragment or parts.username is not None
    if wrong or not HOST.fullmatch(host) or not PREFIX.fullmatch(parts.path):
        raise ConfigError(f"URL: expected http://HOST[:PORT][/PREFIX] of a container, got {url!r}")
    return Remote(Address(host, port, parts.path.rstrip("/")))


class Remote(Subject):
    """What listens somewhere. Files can be handed over only when that is on this machine."""

    def __init__(self, address: Address) -> None:
        here = address.host in ("localhost", "::1") or address.host.startswith("127.")
        self._folder = shared_folder() if here else None
        super().__init__(address, folder=Path(self._folder.name) if self._folder is not None else None)

    def close(self) -> None:
        if self._folder is not None:
            self._folder.cleanup()


def shared_folder() -> tempfile.TemporaryDirectory[str]:
    """One that a container of another user can look into."""
    folder = tempfile.TemporaryDirectory(prefix="servekit-check-", ignore_cleanup_errors=True)
    Path(folder.name).chmod(0o755)
    return folder


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port: int = listener.getsockname()[1]
        return port


def require_free(port: int) -> None:
    """What listens there already would be judged instead. Raises ConfigError."""
    with suppress(OSError), socket.create_connection(("127.0.0.1", port), timeout=1.0):
        raise ConfigError(f"port {port}: something else listens there already; end it, or choose another with --port")


class Command(Subject):
    """A command as a process of its own session: all of it is gone in the end."""

    def __init__(self, command: str, start: Start, *, port: int | None = None) -> None:
        try:
            words = shlex.split(command)
        except ValueError as error:
            raise ConfigError(f"--command {command!r}: expected words as a shell reads them: {error}") from error
        if not words:
            raise ConfigError("--command: expected a command, got ''")
        variable = start.port_variable
        chosen = port or (free_port() if PORT in command or variable else start.port)
        require_free(chosen)
        mark = secrets.token_hex(8)
        environ = {**os.environ, **start.environ, **({variable: str(chosen)} if variable else {}), MARK: mark}
        self._folder = shared_folder()
        self._running: Running | None = None
        try:
            with programs.held_back():
                process = subprocess.Popen(  # noqa: S603 - what the user wants to have judged
                    [word.replace(PORT, str(chosen)) for word in words],
                    env=environ, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
                    start_new_session=True,
                )  # fmt: skip
                self._running = Running(process, mark)
        except OSError as error:
            self._folder.cleanup()
            raise ConfigError(f"--command: {words[0]!r} cannot be started: {error.strerror}") from error
        except BaseException:
            self.close()
            raise
        super().__init__(Address("127.0.0.1", chosen), process=self._running, folder=Path(self._folder.name))

    def close(self) -> None:
        try:
            if self._running is not None:
                self._running.end()
        finally:
            self._folder.cleanup()


class Running:
    """A process of a session of its own, whose output is read as it comes. mark: the value of MARK that it has."""

    def __init__(self, process: subprocess.Popen[bytes], mark: str = "") -> None:
        assert process.stdout is not None  # noqa: S101 - it is a pipe
        self._process, self._mark = process, mark
        self._log = Log(process.stdout)
        self.started_s = time.monotonic()

    @property
    def exit_code(self) -> int | None:
        return self._process.poll()

    def terminate(self) -> None:
        with suppress(ProcessLookupError):
            self._process.send_signal(signal.SIGTERM)

    def wait(self, timeout_s: float) -> int | None:
        try:
            return self._process.wait(max(0.0, timeout_s))
        except subprocess.TimeoutExpired:
            return None

    def output(self) -> list[str]:
        if self.exit_code is not None:
            # Its last words may still be in the pipe.
            self._log.wait(LAST_WORDS_S)
        return self._log.lines()

    def output_nbytes(self) -> int:
        return self._log.nbytes

    def end(self) -> None:
        """With all that it has started: its process group is gone afterwards, and what has left it."""
        try:
            self._signal(signal.SIGTERM)
            self.wait(END_S)
        finally:
            self._signal(signal.SIGKILL)
            self._process.wait()
            _kill_marked(self._mark)
            self._log.close(END_S)

    def _signal(self, number: signal.Signals) -> None:
        with suppress(ProcessLookupError, PermissionError):
            os.killpg(self._process.pid, number)


def _kill_marked(mark: str) -> None:
    """What has this mark, until nothing has it: what is being started may be seen only the next time."""
    wanted = f"{MARK}={mark}".encode()
    for _ in range(KILL_ROUNDS if mark else 0):
        found = [int(environ.parent.name) for environ in Path("/proc").glob("[0-9]*/environ") if _has(environ, wanted)]
        for pid in found:
            with suppress(ProcessLookupError, PermissionError):
                os.kill(pid, signal.SIGKILL)
        if not found:
            return
        time.sleep(KILLED_S)


def _has(environ: Path, line: bytes) -> bool:
    try:
        return line in environ.read_bytes().split(b"\0")
    except OSError:
        # It is another user's, or has ended.
        return False
