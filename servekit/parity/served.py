"""`servekit run` as a process of this machine, for a while: started, waited for, and gone in the end.

It accepts from this machine only, and ends at once when it is told to: nothing balances load in front of it.
"""

from __future__ import annotations

import http.client
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Self

from servekit.check.logs import Log
from servekit.contract import Load, Ready, Reply, Request, Route
from servekit.errors import ConfigError, ServeError
from servekit.images import programs

HOST = "127.0.0.1"
START_TIMEOUT_S = 600.0
END_S = 10.0
POLL_S = 0.05
SHOWN_LINES = 30
MAX_ANSWER_BYTES = 256 * 1024 * 1024
# The script `servekit` may not be on the path of who calls us.
COMMAND = (sys.executable, "-c", "from servekit.cli import main; main()", "run")
TICKS_PER_S = os.sysconf("SC_CLK_TCK")
# Of /proc/PID/stat, counted behind the process's name, which may hold spaces itself (proc_pid_stat(5)).
SESSION, CPU = 3, slice(11, 15)


class NotServing(ServeError):
    """A server that did not start, or ended. lines: the last of its log."""

    def __init__(self, message: str, lines: Sequence[str] = ()) -> None:
        super().__init__(message)
        self.lines = tuple(lines[-SHOWN_LINES:])


def free_port() -> int:
    with socket.create_server((HOST, 0)) as listener:
        port: int = listener.getsockname()[1]
        return port


def ready_path(routes: Iterable[Route]) -> str:
    """Where the platform asks whether the model is loaded. Raises ConfigError."""
    for route in routes:
        if "GET" in route.methods and isinstance(route.parse(Request("GET", route.path)), (Ready, Load)):
            return route.path
    raise ConfigError("the platform has no route that says whether the model is loaded")


class Served:
    """A server of `target`. Raises ConfigError, NotServing."""

    def __init__(
        self, target: str, platform: str, ready: str, *options: str, environ: Mapping[str, str] | None = None,
        timeout_s: float = START_TIMEOUT_S,
    ) -> None:  # fmt: skip
        self.port = free_port()
        arguments = (*options, "--platform", platform, "--host", HOST, "--port", str(self.port))
        # No balancer has to learn that it ends.
        arguments += ("--drain-s", "0", "--finish-s", "1", "--log-format", "text")
        self._process: subprocess.Popen[bytes] | None = None
        try:
            with programs.held_back():
                self._process = subprocess.Popen(  # noqa: S603 - our own command, and the target that the user wants
                    [*COMMAND, *arguments, "--", target],
                    env={**os.environ, **(environ or {})}, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
                    stderr=subprocess.STDOUT, start_new_session=True,
                )  # fmt: skip
                assert self._process.stdout is not None  # noqa: S101 - it is a pipe
                self._log = Log(self._process.stdout)
            self._wait(self._process, ready, timeout_s)
        except BaseException:
            self.close()
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    @property
    def lines(self) -> list[str]:
        """The last of its log."""
        return self._log.lines()

    def ask(
        self, method: str, path: str, headers: Sequence[tuple[str, str]] = (), body: bytes = b"", *,
        timeout_s: float = 120.0,
    ) -> Reply:  # fmt: skip
        """One request on a connection of its own. Raises NotServing."""
        return ask(HOST, self.port, method, path, headers, body, timeout_s=timeout_s)

    def cpu_s(self) -> float:
        """CPU seconds of its processes, with those that have ended; 0 where there is no /proc."""
        ticks = 0
        for stat in Path("/proc").glob("[0-9]*/stat"):
            with suppress(OSError, ValueError, IndexError):
                fields = stat.read_text().rpartition(")")[2].split()
                if self._process is not None and int(fields[SESSION]) == self._process.pid:
                    ticks += sum(map(int, fields[CPU]))
        return ticks / TICKS_PER_S

    def close(self) -> None:
        """A second Ctrl-C makes it hurry."""
        process = self._process
        if process is None:
            return
        try:
            _signal(process, signal.SIGTERM)
            with suppress(subprocess.TimeoutExpired):
                process.wait(END_S)
        finally:
            # What it has left behind is in its session, too.
            _signal(process, signal.SIGKILL)
            process.wait()
            self._log.wait(END_S)
            if process.stdout is not None:
                process.stdout.close()

    def _wait(self, process: subprocess.Popen[bytes], ready: str, timeout_s: float) -> None:
        deadline_s = time.monotonic() + timeout_s
        failed: Reply | None = None
        while time.monotonic() < deadline_s:
            code = process.poll()
            if code is not None:
                self._log.wait(1.0)
                lines = [line for line in self.lines if f"GET {ready} 503" not in line]
                raise NotServing(f"the server ended with exit code {code} before it was ready", lines)
            with suppress(NotServing):
                reply = self.ask("GET", ready, timeout_s=timeout_s)
                if reply.status == 200:
                    return
                if reply.status == 500:  # it stays, and says why the model did not load
                    failed = reply
                    break
            time.sleep(POLL_S)
        if failed is not None:
            text = failed.body[:500].decode("utf-8", "replace")
            raise NotServing(f"the model did not load: GET {ready} was answered 500: {text}", self.lines)
        raise NotServing(f"the server was not ready within {timeout_s:g} s", self.lines)


def _signal(process: subprocess.Popen[bytes], number: signal.Signals) -> None:
    with suppress(ProcessLookupError, PermissionError):
        os.killpg(process.pid, number)


def ask(
    host: str, port: int, method: str, path: str, headers: Sequence[tuple[str, str]] = (), body: bytes = b"", *,
    timeout_s: float,
) -> Reply:  # fmt: skip
    """One request on a connection of its own. Raises NotServing."""
    connection = http.client.HTTPConnection(host, port, timeout=timeout_s)
    try:
        connection.request(method, path, body or None, dict(headers))
        with connection.getresponse() as answer:
            content = answer.read(MAX_ANSWER_BYTES + 1)
            if len(content) > MAX_ANSWER_BYTES:
                raise NotServing(f"{method} {path}: expected an answer of at most {MAX_ANSWER_BYTES} bytes, got more")
            media_type = answer.getheader("Content-Type", "")
            return Reply(answer.status, content, media_type, tuple(answer.getheaders()))
    except (OSError, http.client.HTTPException) as error:
        reason = getattr(error, "strerror", None) or str(error) or type(error).__name__
        raise NotServing(f"http://{host}:{port}: {method} {path} was not answered: {reason}") from error
    finally:
        connection.close()
