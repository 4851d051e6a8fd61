"""Callers that check every answer, for tests in which no request may be lost, run twice or mixed up.

Each request has a number of its own, which it carries as its input and in its X-Request-Id. The reply must bring the
same id and the number's successor. What ran is in a ledger, a file to which the predictors append the numbers they saw.
"""

from __future__ import annotations

import enum
import itertools
import json
import socket
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

Connections = Literal["kept", "fresh", "both"]


class Outcome(enum.StrEnum):
    OK = "ok"
    STATUS = "status"  # a whole reply, but not 200
    WRONG = "wrong"  # 200 with another request's answer or id
    REFUSED = "refused"
    RESET = "reset"
    EOF = "eof"  # closed before the reply was whole
    TIMEOUT = "timeout"


@dataclass(frozen=True, slots=True)
class Result:
    number: int
    outcome: Outcome
    detail: str
    started_s: float
    ended_s: float


@dataclass(frozen=True, slots=True)
class Answer:
    status: int
    headers: dict[str, str]
    body: bytes

    @property
    def is_last(self) -> bool:
        return self.headers.get("connection", "").lower() == "close"


def connect(port: int, timeout_s: float = 30.0) -> socket.socket:
    client = socket.create_connection(("127.0.0.1", port), timeout=timeout_s)
    client.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return client


def message(method: str, path: str, body: bytes = b"", *headers: str) -> bytes:
    lines = [f"{method} {path} HTTP/1.1", "Host: test", *headers]
    if body:
        lines += ["Content-Type: application/json", f"Content-Length: {len(body)}"]
    return "\r\n".join([*lines, "", ""]).encode() + body


def prediction(number: int, path: str = "/invocations") -> bytes:
    """The request with this number."""
    return message("POST", path, b'{"instances": [%d]}' % number, f"X-Request-Id: n-{number}")


def ask(client: socket.socket, data: bytes) -> Answer:
    """Send one request, read one reply. Raises EOFError when the connection ends first, OSError for the rest."""
    client.sendall(data)
    got = b""
    while b"\r\n\r\n" not in got:
        got += _some(client)
    head, _, body = got.partition(b"\r\n\r\n")
    first, *lines = head.decode("latin-1").split("\r\n")
    headers = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in lines)}
    while len(body) < int(headers["content-length"]):
        body += _some(client)
    return Answer(int(first.split(" ")[1]), headers, body)


def _some(client: socket.socket) -> bytes:
    data = client.recv(65536)
    if not data:
        raise EOFError
    return data


def is_taken(port: int, clients: Sequence[socket.socket]) -> bool:
    """Has the server taken all that they sent? Nothing of it waits in the kernel any more."""
    ports = {client.getsockname()[1] for client in clients}
    rows = [line.split() for line in Path("/proc/net/tcp").read_text().splitlines()[1:]]
    ends = [(int(row[1].partition(":")[2], 16), int(row[2].partition(":")[2], 16), row) for row in rows]
    sent = [row for here, there, row in ends if here in ports and there == port]
    accepted = [row for here, there, row in ends if here == port and there in ports]
    # An inode of 0: nobody has accepted it.
    return (
        len(sent) == len(accepted) == len(ports)
        and all(row[4].startswith("00000000:") for row in sent)
        and all(row[4].endswith(":00000000") and row[9] != "0" for row in accepted)
    )


def get(port: int, path: str, timeout_s: float = 30.0) -> Answer:
    """On a connection of its own."""
    with connect(port, timeout_s) as client:
        return ask(client, message("GET", path, b"", "Connection: close"))


def predict(port: int, number: int, timeout_s: float = 30.0) -> Result:
    """One request on a connection of its own."""
    caller = Caller(port, "fresh", timeout_s)
    return caller.call(number)


class Caller:
    """Makes one request after the other, on one connection for as long as the server keeps it."""

    def __init__(self, port: int, connections: Literal["kept", "fresh"], timeout_s: float = 30.0) -> None:
        self._port = port
        self._keeps = connections == "kept"
        self._timeout_s = timeout_s
        self._client: socket.socket | None = None

    def call(self, number: int) -> Result:
        started_s = time.monotonic()
        outcome, detail = self._call(number)
        if outcome is not Outcome.OK:
            self.close()
        return Result(number, outcome, detail, started_s, time.monotonic())

    def _call(self, number: int) -> tuple[Outcome, str]:
        try:
            if self._client is None:
                self._client = connect(self._port, self._timeout_s)
            answer = ask(self._client, prediction(number))
        except ConnectionRefusedError:
            return Outcome.REFUSED, ""
        except (ConnectionResetError, BrokenPipeError):
            return Outcome.RESET, ""
        except EOFError:
            return Outcome.EOF, ""
        except TimeoutError:
            return Outcome.TIMEOUT, ""
        if answer.is_last or not self._keeps:
            self.close()
        if answer.status != 200:
            return Outcome.STATUS, f"{answer.status} {answer.body[:200]!r}"
        right = answer.headers.get("x-request-id") == f"n-{number}"
        if not right or json.loads(answer.body)["predictions"] != [number + 1]:
            return Outcome.WRONG, f"{answer.headers} {answer.body!r}"
        return Outcome.OK, ""

    def close(self) -> None:
        if self._client is not None:
            self._client.close()
            self._client = None


class Load:
    """Callers that go on until they are told to stop, each waiting `gap_s` between two requests.

    connections: "both" means that every other caller makes a connection for each request.
    """

    def __init__(
        self,
        port: int,
        *,
        callers: int = 6,
        gap_s: float = 0.01,
        connections: Connections = "both",
        timeout_s: float = 30.0,
        first: int = 1,
        on_result: Callable[[Result], None] | None = None,
    ) -> None:
        """on_result: is given the results instead of `results`, in the callers' threads."""
        self._gap_s = gap_s
        self._numbers: Iterator[int] = itertools.count(first)
        self._stop = threading.Event()
        self.results: list[Result] = []
        self._on_result = on_result or self.results.append
        kinds: Sequence[Literal["kept", "fresh"]] = ("kept", "fresh") if connections == "both" else (connections,)
        self._threads = [
            threading.Thread(target=self._run, args=(Caller(port, kind, timeout_s),), daemon=True)
            for kind in itertools.islice(itertools.cycle(kinds), callers)
        ]

    def __enter__(self) -> Load:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def stop(self) -> None:
        self._stop.set()
        for thread in self._threads:
            thread.join()

    def _run(self, caller: Caller) -> None:
        while not self._stop.wait(self._gap_s):
            self._on_result(caller.call(next(self._numbers)))
        caller.close()

    def tally(self) -> Counter[str]:
        return Counter(result.outcome.value for result in self.results)

    @property
    def failed(self) -> list[Result]:
        return [result for result in self.results if result.outcome is not Outcome.OK]


class Ledger:
    """The numbers that were run, one a line; a predictor's warm-up runs number 0, and negative ones are orders."""

    def __init__(self, path: Path) -> None:
        self.path = path
        path.touch()

    def counts(self) -> Counter[int]:
        return Counter(number for number in map(int, self.path.read_text().splitlines()) if number > 0)

    def check(self, results: Sequence[Result]) -> None:
        """Whoever was answered was run once, nobody was run twice."""
        counts = self.counts()
        assert [number for number, times in counts.items() if times > 1] == []
        with suppress(StopIteration):
            never = next(result for result in results if result.outcome is Outcome.OK and not counts[result.number])
            raise AssertionError(f"answered, but not run: {never}")
