"""Real servers as processes on free ports, for end-to-end tests."""

from __future__ import annotations

import fcntl
import os
import random
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

import httpx2

READY_PATHS = {"sagemaker": "/ping", "modelarts": "/health", "modzy": "/status", "all": "/ping"}
START_TIMEOUT_S = 60.0
# Variables that would choose a platform or an option behind a test's back.
CLEAN_PREFIXES = ("SERVEKIT_", "SAGEMAKER_", "SM_MODEL_DIR", "MODELARTS_", "PSC_", "GUNICORN_", "WEB_CONCURRENCY")


# One byte for each port; whoever runs tests beside this process has locked those of its own servers.
_given = os.open(
    Path(tempfile.gettempdir()) / f"servekit-test-ports-{os.geteuid()}",
    os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC,
    0o600,
)
_given_here: set[int] = set()


def free_port() -> int:
    """One that no outgoing connection gets while its server is not there, and no other server of tests, until the
    process that runs these has ended."""
    lowest = int(Path("/proc/sys/net/ipv4/ip_local_port_range").read_text().split()[0])
    while True:
        port = 10_000 + random.randrange(max(1000, lowest - 10_000))  # noqa: S311
        with socket.socket() as probe, suppress(OSError):
            probe.bind(("0.0.0.0", port))
            fcntl.lockf(_given, fcntl.LOCK_EX | fcntl.LOCK_NB, 1, port)
            if port not in _given_here:
                _given_here.add(port)
                return port


def script(name: str) -> str:
    """A console script of the environment that runs the tests."""
    return str(Path(sys.executable).parent / name)


def clean_environ(extra: Mapping[str, str] | None = None) -> dict[str, str]:
    environ = {name: value for name, value in os.environ.items() if not name.startswith(CLEAN_PREFIXES)}
    return environ | dict(extra or {})


class Server:
    """One `servekit run` (or `serve`) process group and its log."""

    def __init__(self, process: subprocess.Popen[bytes], port: int, log_path: Path) -> None:
        self.process = process
        self.port = port
        self.log_path = log_path
        self.url = f"http://127.0.0.1:{port}"

    @property
    def log(self) -> str:
        return self.log_path.read_text(errors="replace")

    def wait_until(self, path: str, status: int = 200, timeout_s: float = START_TIMEOUT_S) -> None:
        """Wait for GET `path` to answer `status`; fails at once if the process ends."""
        deadline_s = time.monotonic() + timeout_s
        while time.monotonic() < deadline_s:
            if self.process.poll() is not None:
                raise AssertionError(f"the server ended with {self.process.returncode}:\n{self.log}")
            try:
                if httpx2.get(self.url + path, timeout=30).status_code == status:
                    return
            except httpx2.TransportError:
                pass
            time.sleep(0.05)
        raise AssertionError(f"{path} did not answer {status} within {timeout_s} s:\n{self.log}")

    def wait(self, timeout_s: float) -> int:
        return self.process.wait(timeout_s)

    def terminate(self) -> None:
        self.process.send_signal(signal.SIGTERM)


@contextmanager
def serve(
    *arguments: str,
    platform: str | None = None,
    environ: Mapping[str, str] | None = None,
    command: Sequence[str] | None = None,
    cwd: Path | None = None,
    ready: bool = True,
    pass_port: bool = True,
) -> Iterator[Server]:
    """Start a server on a free port; with `ready`, yield once its platform's probe answers 200."""
    port = free_port()
    full = list(command or (script("servekit"), "run"))
    full += arguments
    if platform is not None:
        full += ["--platform", platform]
    if pass_port:
        full += ["--port", str(port)]
    full_environ = clean_environ(environ)
    if not pass_port:
        full_environ = {name: value.replace("{port}", str(port)) for name, value in full_environ.items()}
    with tempfile.NamedTemporaryFile("wb", suffix=".log") as log:
        process = subprocess.Popen(
            full,
            stdout=log,
            stderr=subprocess.STDOUT,
            env=full_environ,
            cwd=cwd,
            start_new_session=True,
        )
        server = Server(process, port, Path(log.name))
        try:
            if ready:
                server.wait_until(READY_PATHS[platform or "all"])
            yield server
        finally:
            _end(process)


def _end(process: subprocess.Popen[bytes]) -> None:
    if process.poll() is None:
        process.send_signal(signal.SIGINT)
        with suppress(subprocess.TimeoutExpired):
            process.wait(10)
    with suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()
