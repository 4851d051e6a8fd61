"""The container that load tests, run tests and jobs use: one that runs already, or a command that is started.

It is called as the platform calls it: `/status`, then `/run` with the directories of one item's files.
"""

from __future__ import annotations

import http.client
import json
import os
import random
import shlex
import shutil
import signal
import socket
import stat
import subprocess
import tempfile
import threading
import time
from collections.abc import Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from servekit.emulate.bodies import value
from servekit.emulate.threads import in_thread
from servekit.errors import ConfigError

MAX_ANSWER_BYTES = 1024 * 1024
MAX_OUTPUT_BYTES = 64 * 1024 * 1024
MAX_NAME_CHARS = 255
TRY_EVERY_S = 0.05
STOP_S = 10.0
PORT_TRIES = 100
CLEAR_UP_S = 2.0
MAX_SHOWN_CHARS = 2000


class ContainerFailed(Exception):
    """text: one line. technical: what the container said."""

    def __init__(self, text: str, technical: str = "") -> None:
        super().__init__(text)
        self.text, self.technical = text, technical[:MAX_SHOWN_CHARS]


@dataclass
class Container:
    """url: of one that runs; else command is started when it is first needed. files: where both see a directory."""

    url: str = ""
    command: Sequence[str] = ()
    files: Path | None = None
    _process: subprocess.Popen[bytes] | None = None
    _socket: socket.socket | None = None
    _ending: bool = False
    # One model, one run at a time; and these are called from threads.
    _lock: threading.Lock = field(default_factory=threading.Lock)

    async def status(self, limit_s: float) -> None:
        """Raises ContainerFailed."""
        await in_thread(lambda: self._status(limit_s))

    async def run(self, inputs: Mapping[str, bytes], outputs: Sequence[str], limit_s: float) -> dict[str, bytes]:
        """The content of the output files. Raises ContainerFailed."""
        return await in_thread(lambda: self._run(inputs, outputs, limit_s))

    def end(self) -> None:
        """What is asked of it now is given up. One that was started here is asked to end, then told, then made to."""
        self._ending = True
        if self._socket is not None:
            with suppress(OSError):
                self._socket.shutdown(socket.SHUT_RDWR)
        # So that who waited can clear up.
        if self._lock.acquire(timeout=CLEAR_UP_S):
            self._lock.release()
        process = self._process
        if process is None:
            return
        if process.poll() is None and self._asked_to_end():
            with suppress(subprocess.TimeoutExpired):
                process.wait(STOP_S)
        if process.poll() is None:
            process.terminate()
            with suppress(subprocess.TimeoutExpired):
                process.wait(STOP_S)
        # What it started, too.
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        self._process = None

    def _asked_to_end(self) -> bool:
        try:
            return self._ask("POST", "/shutdown", None, 2)[0] == 202
        except (OSError, ContainerFailed):
            return False

    # --- in a thread ---

    def _status(self, limit_s: float) -> None:
        with self._lock:
            end_s = time.monotonic() + limit_s
            self._start()
            while True:
                try:
                    status, document = self._ask("GET", "/status", None, max(end_s - time.monotonic(), 1))
                    break
                except OSError as error:
                    # One that was just started does not listen yet.
                    process = self._process
                    if process is not None and process.poll() is not None:
                        raise ContainerFailed(
                            f"the container ended with exit code {process.returncode} before it answered /status"
                        ) from error
                    if process is None or self._ending or time.monotonic() >= end_s:
                        raise ContainerFailed(f"/status did not answer: {_why(error)}") from error
                time.sleep(TRY_EVERY_S)
            if status != 200:
                raise ContainerFailed(f"/status answered {status}: {_message(document)}", json.dumps(document))

    def _run(self, inputs: Mapping[str, bytes], outputs: Sequence[str], limit_s: float) -> dict[str, bytes]:
        with self._lock, self._directories() as (source, target):
            for name, content in inputs.items():
                file = source / checked_name(name)
                try:
                    file.write_bytes(content)
                except OSError as error:
                    raise ContainerFailed(f"the input {name!r} cannot be written: {_why(error)}") from error
            job = {"type": "file", "input": str(source), "output": str(target)}
            try:
                status, document = self._ask("POST", "/run", job, limit_s)
            except OSError as error:
                raise ContainerFailed(f"/run did not answer: {_why(error)}") from error
            if status != 200:
                raise ContainerFailed(_message(document), json.dumps(document))
            return {name: _read(target, name) for name in outputs}

    @contextmanager
    def _directories(self) -> Any:
        # A container that is careful follows no link on the way.
        try:
            folder = Path(tempfile.mkdtemp(prefix="servekit-job-", dir=self.files)).resolve()
        except OSError as error:
            raise ContainerFailed(f"there is no room for the job's files: {_why(error)}") from error
        try:
            source, target = folder / "input", folder / "output"
            source.mkdir()
            target.mkdir()
            if self.files is not None:
                # A directory that is shared on purpose: the container may be another user.
                for path, mode in ((folder, 0o755), (source, 0o755), (target, 0o777)):
                    path.chmod(mode)
            yield source, target
        finally:
            shutil.rmtree(folder, ignore_errors=True)

    def _start(self) -> None:
        if not self.command or (self._process is not None and self._process.poll() is None):
            return
        if self._ending:
            raise ContainerFailed("the emulator ends")
        port = _free_port()
        self.url = f"http://127.0.0.1:{port}"
        hidden = ("SERVEKIT_EMULATE_AK", "SERVEKIT_EMULATE_SK", "SERVEKIT_EMULATE_API_KEY")
        environ = {name: text for name, text in os.environ.items() if name not in hidden}
        try:
            self._process = subprocess.Popen(  # noqa: S603 - the user's own command
                self.command, env=environ | {"PSC_MODEL_PORT": str(port)}, start_new_session=True
            )
        except OSError as error:
            raise ContainerFailed(f"the command {self.command[0]!r} did not start: {_why(error)}") from error

    def _ask(self, method: str, path: str, document: Any, limit_s: float) -> tuple[int, Any]:
        parts = urlsplit(self.url)
        make = http.client.HTTPSConnection if parts.scheme == "https" else http.client.HTTPConnection
        connection = make(parts.hostname or "", parts.port, timeout=limit_s)
        try:
            body = None if document is None else json.dumps(document).encode()
            headers = {} if body is None else {"Content-Type": "application/json"}
            connection.connect()
            self._socket = connection.sock
            try:
                connection.request(method, parts.path.rstrip("/") + path, body, headers)
                answer = connection.getresponse()
                content = answer.read(MAX_ANSWER_BYTES + 1)
            except http.client.HTTPException as error:
                raise ContainerFailed(f"{path} answered with no HTTP: {type(error).__name__}") from error
        finally:
            self._socket = None
            connection.close()
        if len(content) > MAX_ANSWER_BYTES:
            raise ContainerFailed(f"{path} answered with more than {MAX_ANSWER_BYTES} bytes")
        try:
            return answer.status, value(content) if content else {}
        except ValueError as error:
            raise ContainerFailed(
                f"{path} answered {answer.status} with no JSON", content[:MAX_SHOWN_CHARS].decode("utf-8", "replace")
            ) from error


def parse(url: str, command: str | None, files: Path | None) -> Container | None:
    """Of the options. Raises ConfigError."""
    if url and command:
        raise ConfigError("--container and --command: expected one of them, got both")
    if files is not None and not files.is_dir():
        raise ConfigError(f"--files {files}: expected a directory that the container sees under the same path")
    if url:
        return Container(url=url, files=files)
    if command is not None:
        try:
            words = shlex.split(command)
        except ValueError as error:
            raise ConfigError(f"--command: expected a command line, got {command[:200]!r}: {error}") from error
        if not words:
            raise ConfigError("--command: expected a command line, got an empty one")
        return Container(command=words, files=files)
    return None


def _free_port() -> int:
    """Below those that Linux gives to outgoing connections, which may come before the command listens."""
    for _ in range(PORT_TRIES):
        port = random.randrange(10_000, 32_000)  # noqa: S311 - not for secrets
        with socket.socket() as probe, suppress(OSError):
            probe.bind(("127.0.0.1", port))
            return port
    raise ContainerFailed("no port is free for the command")


def checked_name(name: str) -> str:
    """A file's name that stays in its directory. Raises ContainerFailed."""
    if not name or len(name) > MAX_NAME_CHARS or name in (".", "..") or not name.isprintable() or "/" in name:
        raise ContainerFailed(f"the input's name {name[:60]!r} is no file name")
    return name


def _read(folder: Path, name: str) -> bytes:
    missing = ContainerFailed(f"the container said success, and the output {name!r} is missing")
    try:
        descriptor = os.open(folder / checked_name(name), os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError as error:
        raise missing from error
    try:
        if not stat.S_ISREG(os.fstat(descriptor).st_mode):
            raise missing
        with open(descriptor, "rb", closefd=False) as file:
            content = file.read(MAX_OUTPUT_BYTES + 1)
    finally:
        os.close(descriptor)
    if len(content) > MAX_OUTPUT_BYTES:
        raise ContainerFailed(f"the output {name!r} is larger than {MAX_OUTPUT_BYTES} bytes")
    return content


def _message(document: Any) -> str:
    message = document.get("message") if isinstance(document, dict) else None
    return " ".join(str(message).split())[:300] if message else "no reason given"


def _why(error: OSError) -> str:
    return "it took too long" if isinstance(error, TimeoutError) else error.strerror or str(error)
