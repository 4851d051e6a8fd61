"""Starting a server in its environment, waiting until it answers, and stopping all of it."""

from __future__ import annotations

import http.client
import json
import os
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from benchmarks import processes
from benchmarks.environments import PEERS
from benchmarks.nouns import Place, Server, Target

READY_S = 60.0
SLOW_READY_S = 180.0
STOP_GRACE_S = 3.0
MAX_BATCH = 64
TOLERANCE = 1e-2


class NotServing(Exception):
    """A server that did not start, or does not answer as it should."""


@dataclass(frozen=True)
class Running:
    """A server that answers."""

    server: Server
    workload: str
    workers: int
    port: int
    pid: int
    fixtures: Path
    counts: Path
    start_s: float

    @property
    def target(self) -> Target:
        return self.server.targets[self.workload]

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}{self.target.path}"

    @property
    def body(self) -> Path:
        return self.fixtures / f"{self.workload}.{self.target.form}"

    def cpu_s(self) -> float:
        return processes.cpu_s(processes.tree(self.pid))

    def pss_mib(self) -> float:
        return processes.pss_mib(processes.tree(self.pid))

    def batches(self) -> tuple[int, int]:
        """Calls of the model so far, and rows in them, by the model's own count; zeros when it does not count."""
        calls = rows = 0
        for file in self.counts.iterdir():
            content = file.read_bytes()
            calls += int.from_bytes(content[:8], "little")
            rows += int.from_bytes(content[8:16], "little")
        return calls, rows


@contextmanager
def running(server: Server, bin_directory: Path, workload: str, workers: int, fixtures: Path) -> Iterator[Running]:
    """The server on free ports, once its replies are right. Raises NotServing with the end of its log."""
    ports = _free_ports(3)
    folder = PEERS / server.folder
    with tempfile.TemporaryDirectory(prefix="servekit-bench-") as scratch:
        counts = Path(scratch) / "counts"
        counts.mkdir()
        environ = {
            name: value for name, value in os.environ.items() if not name.startswith(("SERVEKIT_", "BENCH_", "PYTHON"))
        }
        environ |= {
            "PYTHONPATH": str(PEERS),
            "BENCH_WORKLOAD": workload,
            "BENCH_WORKERS": str(workers),
            "BENCH_PORTS": ",".join(map(str, ports)),
            "BENCH_FIXTURES": str(fixtures),
            "BENCH_MAX_BATCH": str(MAX_BATCH),
            "BENCH_COUNTS": str(counts),
            **server.environ,
        }
        place = Place(bin_directory, folder, ports, workers, workload, fixtures)
        with (Path(scratch) / "log").open("w+b") as log:
            started_s = time.perf_counter()
            process = subprocess.Popen(
                server.command(place), cwd=folder, env=environ, stdout=log, stderr=log, start_new_session=True
            )
            try:
                _wait(server, ports[0], process)
                yielded = Running(
                    server, workload, workers, ports[0], process.pid, fixtures, counts, time.perf_counter() - started_s
                )
                answer(yielded)
                yield yielded
            except NotServing as error:
                log.seek(0)
                tail = log.read()[-600:].decode(errors="replace").strip().splitlines()[-3:]
                raise NotServing(f"{error}: {' | '.join(tail)}") from error
            finally:
                processes.stop(process.pid, STOP_GRACE_S)


def answer(server: Running) -> int:
    """Send the body once and hold the numbers of the reply against what the model gives.

    Returns the size of the whole reply in bytes, head and body. Raises NotServing when it is not right.
    """
    connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=30)
    try:
        connection.request(
            "POST", server.target.path, server.body.read_bytes(), {"Content-Type": server.target.content_type}
        )
        reply = connection.getresponse()
        text = reply.read()
    except (OSError, http.client.HTTPException) as error:
        raise NotServing(f"no reply: {error}") from error
    finally:
        connection.close()
    if reply.status != 200:
        raise NotServing(f"answered {reply.status}: {text[:200]!r}")
    if server.server.role != "limit":
        expected = json.loads((server.fixtures / "expected.json").read_text()).get(server.workload)
        if (wrong := wrong_numbers(text, expected)) is not None:
            raise NotServing(wrong)
    return reply_bytes(reply.reason, reply.getheaders(), text)


def reply_bytes(reason: str, headers: list[tuple[str, str]], body: bytes) -> int:
    """What such a reply takes on the wire; a chunked one takes a few bytes more."""
    head = len("HTTP/1.1 200 ") + len(reason) + sum(len(name) + len(value) + 4 for name, value in headers)
    return head + len("\r\n" * 2) + len(body)


def wrong_numbers(text: bytes, expected: list[float] | None) -> str | None:
    """What is wrong with a reply of JSON, None when nothing is."""
    try:
        found = numbers(json.loads(text))
    except ValueError:
        return f"not JSON: {text[:200]!r}"
    if expected is None:
        return None
    wrong = len(found) < len(expected) or any(
        abs(a - b) > TOLERANCE * max(1.0, abs(b)) for a, b in zip(found[-len(expected) :], expected, strict=True)
    )
    return f"wrong numbers: {found[:10]}, expected {expected[:10]}" if wrong else None


def numbers(document: object) -> list[float]:
    """The numbers of the results in any peer's form, in order."""
    if isinstance(document, dict):
        for key in ("predictions", "outputs", "data", "y"):
            if key in document:
                return numbers(document[key])
        return []
    if isinstance(document, list):
        return [number for item in document for number in numbers(item)]
    return [float(document)] if isinstance(document, (int, float)) else []


def _wait(server: Server, port: int, process: subprocess.Popen[bytes]) -> None:
    deadline_s = time.monotonic() + (SLOW_READY_S if server.slow_start else READY_S)
    while time.monotonic() < deadline_s:
        if process.poll() is not None:
            raise NotServing(f"ended with {process.returncode} at start")
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=5)
        try:
            connection.request("GET", server.ready)
            if connection.getresponse().status == 200:
                return
        except (OSError, http.client.HTTPException):
            pass  # not listening yet
        finally:
            connection.close()
        time.sleep(0.02)
    raise NotServing("was not ready in time")


def _free_ports(count: int) -> tuple[int, ...]:
    sockets = [socket.socket() for _ in range(count)]
    try:
        for each in sockets:
            each.bind(("127.0.0.1", 0))
        return tuple(each.getsockname()[1] for each in sockets)
    finally:
        for each in sockets:
            each.close()
