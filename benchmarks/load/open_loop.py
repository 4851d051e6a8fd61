"""Requests at a fixed rate, whatever the server does: `python -m benchmarks.load.open_loop --help`.

A closed loop waits for the server and so hides its queue. Here each request has a time at which it is due; its latency
counts from then, also when no connection was free. Runs in the harness's environment (uvloop, httptools). Prints one
JSON object; its `in_time` counts the 200s that came within the deadline and before the last request was due, since
what is answered after the load has ended says nothing about what can be borne.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import random
import time
from collections import Counter, deque
from pathlib import Path

import httptools
import uvloop

DRAIN_S = 3.0
SEED = 1


class Connection(asyncio.Protocol):
    """One keep-alive connection; one request at a time."""

    def __init__(self, load: Load) -> None:
        self._load = load
        self._due_s = 0.0
        self._sent_s = 0.0
        self._bad = False
        self._busy = False
        self._parser = httptools.HttpResponseParser(self)

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = transport
        self._load.open.add(self)
        self._load.free.append(self)

    def close(self) -> None:
        self._transport.close()

    def send(self, due_s: float, *, bad: bool) -> None:
        self._due_s, self._sent_s, self._bad, self._busy = due_s, time.perf_counter(), bad, True
        self._transport.write(self._load.bad if bad else self._load.good)  # type: ignore[attr-defined]

    def data_received(self, data: bytes) -> None:
        self._parser.feed_data(data)

    def on_message_complete(self) -> None:
        now_s = time.perf_counter()
        self._busy = False
        self._load.answered(self._parser.get_status_code(), now_s - self._due_s, now_s - self._sent_s, self._bad)
        if self._parser.should_keep_alive():
            self._load.free_again(self)
        else:
            self._transport.close()

    def connection_lost(self, _error: Exception | None) -> None:
        self._load.open.discard(self)
        if self._busy:
            self._load.broken += 1
        self._load.reconnect(self)


class Load:
    """All connections, the schedule, and what came back."""

    def __init__(self, host: str, port: int, good: bytes, bad: bytes, bad_share: float, deadline_s: float) -> None:
        self.host, self.port, self.good, self.bad, self._bad_share = host, port, good, bad, bad_share
        self._deadline_s = deadline_s
        self._sending = True
        self.free: deque[Connection] = deque()
        self.open: set[Connection] = set()
        self._waiting: deque[tuple[float, bool]] = deque()
        self._random = random.Random(SEED)
        self.latencies: dict[str, list[float]] = {"good": [], "refused": [], "bad": []}
        self.statuses: Counter[str] = Counter()
        self.offered = self.offered_bad = self.broken = self.unanswered = self.in_time = 0
        self._ending = False
        self._tasks: set[asyncio.Task[None]] = set()

    async def connect(self) -> None:
        await asyncio.get_running_loop().create_connection(lambda: Connection(self), self.host, self.port)

    def reconnect(self, connection: Connection) -> None:
        if connection in self.free:
            self.free.remove(connection)
        if not self._ending:
            task = asyncio.ensure_future(self.connect())
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)

    def answered(self, status: int, latency_s: float, service_s: float, bad: bool) -> None:
        self.statuses[f"{'bad ' if bad else ''}{status}"] += 1
        if bad:
            self.latencies["bad"].append(latency_s)
        elif status == 200:
            self.latencies["good"].append(latency_s)
            self.in_time += self._sending and latency_s <= self._deadline_s
        else:
            self.latencies["refused"].append(service_s)

    def free_again(self, connection: Connection) -> None:
        if self._waiting:
            due_s, bad = self._waiting.popleft()
            connection.send(due_s, bad=bad)
        else:
            self.free.append(connection)

    def due(self, due_s: float) -> None:
        bad = self._random.random() < self._bad_share
        self.offered += 1
        self.offered_bad += bad
        if self.free:
            self.free.popleft().send(due_s, bad=bad)
        else:
            self._waiting.append((due_s, bad))

    async def run(self, rate: float, duration_s: float) -> None:
        start_s = time.perf_counter()
        number, total = 0, int(rate * duration_s)
        while number < total:
            now_s = time.perf_counter()
            while number < total and start_s + number / rate <= now_s:
                self.due(start_s + number / rate)
                number += 1
            await asyncio.sleep(0.0005)
        self._sending = False
        give_up_s = time.perf_counter() + DRAIN_S
        while sum(self.statuses.values()) + self.broken < self.offered and time.perf_counter() < give_up_s:
            await asyncio.sleep(0.01)
        self._ending = True
        answered = sum(self.statuses.values())
        self.unanswered = self.offered - answered - self.broken
        for connection in list(self.open):
            connection.close()
        await asyncio.sleep(0.1)


def quantiles_ms(latencies: list[float], prefix: str) -> dict[str, float]:
    if not latencies:
        return {}
    ordered = sorted(latencies)
    at = {"p50": 0.5, "p90": 0.9, "p99": 0.99, "max": 1.0}
    last = len(ordered) - 1
    return {f"{prefix}{name}_ms": ordered[min(last, int(share * len(ordered)))] * 1000 for name, share in at.items()}


def message(host: str, path: str, body: bytes, content_type: str) -> bytes:
    head = (
        f"POST {path} HTTP/1.1\r\nHost: {host}\r\nContent-Type: {content_type}\r\nContent-Length: {len(body)}\r\n\r\n"
    )
    return head.encode() + body


async def main(options: argparse.Namespace) -> dict[str, object]:
    good = message(options.host, options.path, options.body.read_bytes(), options.content_type)
    bad = message(options.host, options.path, options.bad.read_bytes(), options.content_type) if options.bad else good
    load = Load(options.host, options.port, good, bad, options.bad_share, options.deadline_s)
    await asyncio.gather(*(load.connect() for _ in range(options.connections)))
    await load.run(options.rate, options.duration_s)
    return {
        "rate": options.rate,
        "duration_s": options.duration_s,
        "offered": load.offered,
        "offered_bad": load.offered_bad,
        "statuses": dict(load.statuses),
        "in_time": load.in_time,
        "broken": load.broken,
        "unanswered": load.unanswered,
        **quantiles_ms(load.latencies["good"], ""),
        **quantiles_ms(load.latencies["refused"], "refused_"),
    }


def arguments() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--path", required=True)
    parser.add_argument("--body", type=Path, required=True)
    parser.add_argument("--content-type", default="application/json")
    parser.add_argument("--bad", type=Path, help="a body for some of the requests")
    parser.add_argument("--bad-share", type=float, default=0.0)
    parser.add_argument("--rate", type=float, required=True, help="requests per second")
    parser.add_argument("--duration-s", type=float, default=5.0)
    parser.add_argument("--connections", type=int, default=128)
    parser.add_argument("--deadline-s", type=float, default=float("inf"), help="for in_time")
    return parser


if __name__ == "__main__":
    print(json.dumps(uvloop.run(main(arguments().parse_args()))))
