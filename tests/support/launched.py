"""Starts `fake_server.py` as a process of its own, and asks it things."""

from __future__ import annotations

import http.client
import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from serving import clean_environ, free_port

PROGRAM = Path(__file__).with_name("fake_server.py")


def until(condition: Callable[[], Any], timeout_s: float = 15.0) -> Any:
    """The first truthy value of `condition`."""
    deadline_s = time.monotonic() + timeout_s
    while not (value := condition()):
        assert time.monotonic() < deadline_s, "waited in vain"
        time.sleep(0.02)
    return value


@dataclass(frozen=True)
class Answer:
    status: int
    body: bytes
    is_last: bool


class Launched:
    """A master, its workers, and what they logged."""

    def __init__(self, process: subprocess.Popen[bytes], port: int, control: Path, log: Path) -> None:
        self.process, self.port, self.control, self._log = process, port, control, log

    @property
    def log(self) -> str:
        return self._log.read_text(errors="replace")

    @contextmanager
    def connect(self) -> Iterator[http.client.HTTPConnection]:
        with closing(http.client.HTTPConnection("127.0.0.1", self.port, timeout=30)) as connection:
            yield connection

    def get(self, path: str) -> Answer:
        """On a connection of its own."""
        with self.connect() as connection:
            return ask(connection, path)

    def ready(self) -> bool:
        assert self.process.poll() is None, f"ended with {self.process.returncode}:\n{self.log}"
        try:
            return self.get("/ready").status == 200
        except OSError:
            return False

    def pids(self, count: int) -> set[int]:
        """The workers' process ids, once `count` different ones have answered."""
        seen: set[int] = set()

        def enough() -> bool:
            seen.add(int(self.get("/pid").body))
            return len(seen) >= count

        until(enough)
        return seen

    def raw(self, data: bytes, timeout_s: float = 10.0) -> bytes:
        """What comes back on one connection until the server closes it."""
        with socket.create_connection(("127.0.0.1", self.port), timeout=timeout_s) as client:
            with suppress(BrokenPipeError, ConnectionResetError):
                client.sendall(data)
            return receive(client)

    def refuses(self) -> bool:
        try:
            socket.create_connection(("127.0.0.1", self.port), timeout=5).close()
        except ConnectionRefusedError:
            return True
        except ConnectionResetError:
            return False
        return False


def receive(client: socket.socket) -> bytes:
    got = b""
    with suppress(ConnectionResetError):
        while chunk := client.recv(65536):
            got += chunk
    return got


def ask(connection: http.client.HTTPConnection, path: str) -> Answer:
    connection.request("GET", path)
    with connection.getresponse() as reply:
        return Answer(reply.status, reply.read(), reply.getheader("connection") == "close")


@contextmanager
def launch(
    control: Path,
    *,
    ready: bool = True,
    environ: Mapping[str, str] | None = None,
    cwd: Path | None = None,
    command: Sequence[str] = (),
    **options: Any,
) -> Iterator[Launched]:
    """A server that is ready (or just started); killed as a group at the end."""
    port = free_port()
    log = control.with_name(control.name + ".log")
    control.mkdir(exist_ok=True)
    arguments = [*command, sys.executable, str(PROGRAM), json.dumps(options | {"port": port, "control": str(control)})]
    with log.open("wb") as out:
        process = subprocess.Popen(
            arguments, stdout=out, stderr=out, env=clean_environ(environ), cwd=cwd, start_new_session=True
        )
    server = Launched(process, port, control, log)
    try:
        if ready:
            until(server.ready)
        yield server
    finally:
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()
