"""Emulated control planes as processes: the real command, on a free port."""

from __future__ import annotations

import os
import re
import signal
import ssl
import subprocess
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx2
from serving import clean_environ, script

START_TIMEOUT_S = 60.0
STOP_TIMEOUT_S = 15.0
REQUEST_TIMEOUT_S = 60.0
ACCESS_KEY, SECRET_KEY = "AKEXAMPLE", "SKEXAMPLE"
API_KEY = "AKEXAMPLE.SKEXAMPLE"
# Any project id is good.
PROJECT_ID = "0123456789abcdef0123456789abcdef"
ADVANCE_S = "0.05"
# Plain http needs no certificates, and reading them takes longer than most tests.
NO_CERTIFICATES = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
ACCEPTS = re.compile(r"^servekit: emulating (\w+) on (http://\S+:(\d+))$", re.MULTILINE)


def connect(url: str = "", headers: Mapping[str, str] | None = None) -> httpx2.Client:
    """A client for plain http; url: before every path."""
    return httpx2.Client(
        base_url=url, headers=dict(headers or {}), verify=NO_CERTIFICATES, trust_env=False, timeout=REQUEST_TIMEOUT_S
    )


def ask(method: str, url: str, **more: Any) -> httpx2.Response:
    """On a connection of its own."""
    with connect() as client:
        return client.request(method, url, **more)


@dataclass(frozen=True)
class Emulator:
    """url: without a slash at its end."""

    port: int
    url: str
    process: subprocess.Popen[bytes]
    log_path: Path

    @property
    def log(self) -> str:
        return self.log_path.read_text(errors="replace")

    def faults(self, fault: str, *, method: str = "*", path: str = ".*", **more: Any) -> None:
        """Ask for a fault: on the next request that fits, or on the next `times`; path is a regex of the whole path."""
        document = {"fault": fault, "method": method, "path": path, **more}
        answer = ask("POST", f"{self.url}/_emulate/faults", json=document)
        assert answer.status_code == 201, answer.text

    def no_faults(self) -> None:
        assert ask("DELETE", f"{self.url}/_emulate/faults").status_code == 204

    def stop(self) -> int:
        """As a supervisor stops it; the exit code."""
        self.process.send_signal(signal.SIGTERM)
        return self.process.wait(STOP_TIMEOUT_S)


@contextmanager
def emulate(
    platform: str, *options: str, environ: Mapping[str, str] | None = None, cwd: Path | None = None
) -> Iterator[Emulator]:
    """`servekit emulate PLATFORM` on a free port, once it accepts; states last 0.05 s unless `options` say otherwise."""
    command = [script("servekit"), "emulate", platform, "--port", "0"]
    if "--advance-s" not in options:
        command += ["--advance-s", ADVANCE_S]
    with tempfile.NamedTemporaryFile("wb", suffix=".log") as log:
        process = subprocess.Popen(
            [*command, *options], stdout=log, stderr=subprocess.STDOUT, env=clean_environ(environ), cwd=cwd,
            start_new_session=True,
        )  # fmt: skip
        try:
            yield _accepting(process, Path(log.name))
        finally:
            if process.poll() is None:
                process.terminate()
                with suppress(subprocess.TimeoutExpired):
                    process.wait(STOP_TIMEOUT_S)
            # Whatever it started, too.
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()


def token(emulator: Emulator, password: str = SECRET_KEY) -> str:
    """Of modelarts' emulator, for X-Auth-Token: its user is the access key, its password the secret key."""
    user = {"name": ACCESS_KEY, "password": password, "domain": {"name": "emulated"}}
    identity = {"methods": ["password"], "password": {"user": user}}
    document = {"auth": {"identity": identity, "scope": {"project": {"name": "cn-north-4"}}}}
    answer = ask("POST", f"{emulator.url}/v3/auth/tokens", json=document)
    assert answer.status_code == 201, answer.text
    return str(answer.headers["x-subject-token"])


def _accepting(process: subprocess.Popen[bytes], log: Path) -> Emulator:
    deadline_s = time.monotonic() + START_TIMEOUT_S
    while time.monotonic() < deadline_s:
        text = log.read_text(errors="replace")
        if found := ACCEPTS.search(text):
            return Emulator(int(found[3]), found[2], process, log)
        assert process.poll() is None, f"the emulator ended with {process.returncode}:\n{text}"
        time.sleep(0.02)
    raise AssertionError(f"the emulator did not accept within {START_TIMEOUT_S} s:\n{log.read_text(errors='replace')}")
