"""The load: many connections that are kept, one thread, and what came back.

A closed loop has so many callers, each of which sends when its answer is there; it shows what fits through, and hides
the queue. An open loop sends at fixed times, whatever the server does, and counts latency from when a request was due,
also where no connection was free: else the slowest answers would keep the generator from asking ("coordinated
omission").
"""

from __future__ import annotations

import asyncio
import re
import signal
import time
from array import array
from collections import Counter, deque
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Literal, cast

import httptools
import uvloop

from servekit.bench.figures import Stage, histogram, latency

# Beyond these a stage ends, whatever its time.
MAX_REQUESTS = 5_000_000
MAX_CONNECTIONS = 1000
CONNECT_TIMEOUT_S = 10.0
# A caller whose request failed tries again after so long.
PAUSE_S = 0.02
TICK_S = 0.1
MIN_SLEEP_S = 0.001
WRONG_BYTES = 500
# Every so many requests ask for the batch's size, where only answers tell it.
ASK_EVERY = 32
ROWS = re.compile(rb"rows=(\d{1,9})")
TIMING = b"x-servekit-timing"

Tick = Callable[[float, int], None]


@dataclass(frozen=True, slots=True)
class Aim:
    """What is sent, and where. timed: the same with the header that asks for the batch, or b"".

    ends_with_connection: an answer has no length of its own, it ends when the server closes.
    """

    host: str
    port: int
    message: bytes
    timed: bytes = b""
    ends_with_connection: bool = False
    timeout_s: float = 30.0


@dataclass(slots=True)
class Tally:
    """sent: all requests. rows: of the batches that answers told."""

    sent: int = 0
    in_time: int = 0
    seconds_each: array[float] = field(default_factory=lambda: array("d"))
    late_s: array[float] = field(default_factory=lambda: array("d"))
    errors: Counter[str] = field(default_factory=Counter)
    rows: list[int] = field(default_factory=list)
    wrong: str = ""
    began_s: float = 0.0
    ended_s: float = 0.0
    generator_cpu: float = 0.0
    interrupted: bool = False
    signal: int = 0

    def stage(self, kind: Literal["closed", "open"], level: float) -> Stage:
        late = latency(self.late_s)
        return Stage(
            kind, level, self.ended_s - self.began_s, self.sent, len(self.seconds_each), self.in_time,
            dict(self.errors), latency(self.seconds_each), histogram(self.seconds_each),
            generator_cpu=self.generator_cpu,
            late_ms=0.0 if late is None else late.strict_p99_ms,
            wrong=self.wrong, interrupted=self.interrupted,
        )  # fmt: skip


def closed(aim: Aim, callers: int, seconds: float, tick: Tick | None = None) -> Tally:
    """So many callers at a time. Ctrl-C ends it early: see `interrupted`."""
    return _run(aim, seconds, min(callers, MAX_CONNECTIONS), None, tick)


def open_(aim: Aim, per_s: float, seconds: float, connections: int, tick: Tick | None = None) -> Tally:
    """So many requests a second, on at most so many connections."""
    return _run(aim, seconds, min(connections, MAX_CONNECTIONS), per_s, tick)


def _run(aim: Aim, seconds: float, connections: int, per_s: float | None, tick: Tick | None) -> Tally:
    # The loop takes the signals; whoever had them before gets them back.
    handlers = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        return uvloop.run(_Load(aim, seconds, connections, per_s, tick).run())
    finally:
        for number, handler in handlers.items():
            with suppress(ValueError, TypeError):  # not in the main thread, or not set from Python
                signal.signal(number, handler)


class _Load:
    """All connections, the schedule, and what came back."""

    def __init__(self, aim: Aim, seconds: float, connections: int, per_s: float | None, tick: Tick | None) -> None:
        self.aim = aim
        self.tally = Tally()
        self._seconds = seconds
        self._connections = connections
        self._per_s = per_s
        self._tick = tick
        self._sending = True
        self._stopping = False
        self._ended = asyncio.Event()
        self._drained = asyncio.Event()
        self._opened = 0
        self._free: list[_Connection] = []
        self.busy: set[_Connection] = set()
        self._all: set[_Connection] = set()
        self._waiting: deque[float] = deque()
        self._tasks: set[asyncio.Task[None]] = set()
        self._made = _TimedConnection if aim.timed else _Connection

    async def run(self) -> Tally:
        loop = asyncio.get_running_loop()
        tally = self.tally
        for number in (signal.SIGINT, signal.SIGTERM):
            with suppress(ValueError, RuntimeError, NotImplementedError):  # not in the main thread
                loop.add_signal_handler(number, self._interrupt, number)
        cpu_s = time.process_time()
        tally.began_s = time.perf_counter()
        watch = loop.create_task(self._watch())
        end_s = tally.began_s + self._seconds
        if self._per_s is None:
            for _ in range(self._connections):
                self.start(time.perf_counter())
            await _within(self._ended, end_s)
        else:
            await self._schedule(self._per_s, tally.began_s)
        self._sending = False
        tally.ended_s = time.perf_counter()
        tally.generator_cpu = (time.process_time() - cpu_s) / max(tally.ended_s - tally.began_s, 1e-9)
        self._look()
        if not tally.interrupted:
            await _within(self._drained, tally.ended_s + self.aim.timeout_s)
        self._stopping = True
        watch.cancel()
        left = tally.sent - len(tally.seconds_each) - tally.errors.total()
        if tally.interrupted:
            tally.sent -= left  # nobody waited for them
        elif left:
            tally.errors["unanswered"] += left
        for task in list(self._tasks):
            task.cancel()
        for connection in list(self._all):
            connection.abort()
        await asyncio.sleep(0)
        return tally

    def _interrupt(self, number: int) -> None:
        self.tally.interrupted = True
        self.tally.signal = number
        self._ended.set()
        self._drained.set()

    def _goes_on(self) -> bool:
        return not self._ended.is_set()

    def _look(self) -> None:
        """Has everything that was sent come to its end?"""
        tally = self.tally
        if not self._sending and tally.sent == len(tally.seconds_each) + tally.errors.total():
            self._drained.set()

    async def _schedule(self, per_s: float, began_s: float) -> None:
        number, total = 0, max(1, int(per_s * self._seconds))
        while number < total and self._goes_on():
            now_s = time.perf_counter()
            while number < total and (due_s := began_s + number / per_s) <= now_s:
                self.tally.late_s.append(time.perf_counter() - due_s)
                self.start(due_s)
                number += 1
            # The loop's clock ticks in milliseconds; less would turn it without a pause.
            await asyncio.sleep(max(MIN_SLEEP_S, min(began_s + number / per_s - now_s, TICK_S)))
        # The last request has its time, too.
        await _within(self._ended, began_s + self._seconds)

    async def _watch(self) -> None:
        while True:
            await asyncio.sleep(TICK_S)
            now_s = time.perf_counter()
            for connection in [each for each in self.busy if now_s - each.sent_s > self.aim.timeout_s]:
                connection.give_up("timeout")
            if self._tick is not None:
                self._tick(min(now_s - self.tally.began_s, self._seconds), self.tally.in_time)

    # --- requests ---

    def start(self, due_s: float) -> None:
        self.tally.sent += 1
        if self.tally.sent >= MAX_REQUESTS:
            self._ended.set()
        self._begin(due_s)

    def _begin(self, due_s: float) -> None:
        if self._free:
            self._free.pop().send(due_s)
        elif self._opened < self._connections:
            self._opened += 1
            task = asyncio.get_running_loop().create_task(self._connect(due_s))
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)
        else:
            self._waiting.append(due_s)

    async def _connect(self, due_s: float) -> None:
        try:
            async with asyncio.timeout(CONNECT_TIMEOUT_S):
                _, connection = await asyncio.get_running_loop().create_connection(
                    lambda: self._made(self), self.aim.host, self.aim.port
                )
        except TimeoutError:
            self._opened -= 1
            self.failed("connect timeout")
        except OSError as error:
            self._opened -= 1
            self.failed("refused" if isinstance(error, ConnectionRefusedError) else "no connection")
        else:
            self._all.add(connection)
            connection.send(due_s)

    def answered(self, connection: _Connection, due_s: float, status: int, *, reusable: bool) -> None:
        now_s = time.perf_counter()
        self.busy.discard(connection)
        tally = self.tally
        if 200 <= status < 300:
            tally.seconds_each.append(now_s - due_s)
            tally.in_time += self._sending
        else:
            tally.errors[f"status {status}"] += 1
            if not tally.wrong:
                tally.wrong = f"{status}: {connection.body.decode('utf-8', 'replace')}"
        if reusable:
            self._free.append(connection)
        self._next()
        self._look()

    def failed(self, kind: str) -> None:
        self.tally.errors[kind] += 1
        self._look()
        if self._sending and self._per_s is None:
            # A server that refuses everybody must not be asked as fast as the loop turns.
            asyncio.get_running_loop().call_later(PAUSE_S, self._again)
        elif self._waiting:
            asyncio.get_running_loop().call_later(PAUSE_S, self._resume)

    def lost(self, connection: _Connection) -> None:
        self._all.discard(connection)
        self.busy.discard(connection)
        self._opened -= 1
        with suppress(ValueError):
            self._free.remove(connection)
        if self._waiting and not self._stopping:
            self._resume()

    @property
    def stopping(self) -> bool:
        return self._stopping

    def _next(self) -> None:
        if self._waiting and self._free:
            self._free.pop().send(self._waiting.popleft())
        elif self._per_s is None:
            self._again()

    def _again(self) -> None:
        if self._sending and self._goes_on():
            self.start(time.perf_counter())

    def _resume(self) -> None:
        if self._waiting and not self._stopping and (self._free or self._opened < self._connections):
            self._begin(self._waiting.popleft())


async def _within(event: asyncio.Event, until_s: float) -> None:
    """Until the event, or until so late."""
    with suppress(TimeoutError):
        await asyncio.wait_for(event.wait(), max(0.0, until_s - time.perf_counter()))


class _Connection(asyncio.Protocol):
    """One connection, one request at a time."""

    def __init__(self, load: _Load) -> None:
        self._load = load
        self._due_s = 0.0
        self._headed = False
        self._busy = False
        self._keeps = False
        self.sent_s = 0.0
        self.body = b""
        self._parser = httptools.HttpResponseParser(self)

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)

    def send(self, due_s: float) -> None:
        self._due_s, self.sent_s, self._busy, self._headed = due_s, time.perf_counter(), True, False
        self._load.busy.add(self)
        self._transport.write(self.message())

    def message(self) -> bytes:
        return self._load.aim.message

    def data_received(self, data: bytes) -> None:
        try:
            self._parser.feed_data(data)
        except (httptools.HttpParserError, httptools.HttpParserUpgrade):
            self.give_up("not http")

    def on_headers_complete(self) -> None:
        self._headed = True
        self.body = b""
        self._keeps = not self._load.tally.wrong and not 200 <= self._parser.get_status_code() < 300

    def on_body(self, body: bytes) -> None:
        if self._keeps and len(self.body) < WRONG_BYTES:
            self.body = (self.body + body)[:WRONG_BYTES]

    def on_message_complete(self) -> None:
        status = self._parser.get_status_code()
        if not self._busy or 100 <= status < 200:
            return
        self._busy = False
        reusable = self._parser.should_keep_alive()
        if not reusable:
            self._transport.close()
        self._load.answered(self, self._due_s, status, reusable=reusable)

    def give_up(self, kind: str) -> None:
        """The request of this connection has failed, and the connection with it."""
        if self._busy:
            self._busy = False
            self._load.busy.discard(self)
            self._load.failed(kind)
        self._transport.abort()

    def abort(self) -> None:
        self._busy = False
        self._transport.abort()

    def connection_lost(self, error: Exception | None) -> None:
        self._load.lost(self)
        if not self._busy:
            return
        self._busy = False
        if self._headed and error is None and self._load.aim.ends_with_connection:
            self._load.answered(self, self._due_s, self._parser.get_status_code(), reusable=False)
        elif not self._load.stopping:
            self._load.failed("reset" if isinstance(error, ConnectionResetError) else "closed")


class _TimedConnection(_Connection):
    """Asks for the batch's size now and then."""

    def __init__(self, load: _Load) -> None:
        super().__init__(load)
        self._number = 0

    def message(self) -> bytes:
        self._number += 1
        return self._load.aim.timed if self._number % ASK_EVERY == 1 else self._load.aim.message

    def on_header(self, name: bytes, value: bytes) -> None:
        if name.lower() == TIMING and (found := ROWS.search(value)):
            self._load.tally.rows.append(int(found[1]))
