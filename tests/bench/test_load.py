"""The load generator against servers that do what they should not."""

from __future__ import annotations

import asyncio
import itertools
import socket
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from servekit.bench import load, subject
from servekit.bench.load import Aim
from servekit.errors import ConfigError
from servekit.parity.served import NotServing

OK = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n{}"
TIMED = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nX-Servekit-Timing: queue;dur=1, batch;rows=4;closed=full\r\n\r\n{}"
BUSY = b"HTTP/1.1 503 Busy\r\nContent-Length: 9\r\n\r\nnot today"
LAST = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nConnection: close\r\n\r\n{}"
ENDLESS = b"HTTP/1.1 200 OK\r\nConnection: close\r\n\r\nwith the connection"
CHUNKED = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\n{}\r\n0\r\n\r\n"
CUT = b"HTTP/1.1 200 OK\r\nContent-Length: 50\r\n\r\n{}"
SLOW_S = 0.05


class Server:
    """Answers by the path of the request, one thread for all connections."""

    def __init__(self) -> None:
        self.port = 0
        self.seen = itertools.count()
        self.connections = 0
        self._loop = asyncio.new_event_loop()
        self._ready = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()
        self._ready.wait()

    def _run(self) -> None:
        asyncio.set_event_loop(self._loop)
        server = self._loop.run_until_complete(asyncio.start_server(self._serve, "127.0.0.1", 0))
        self.port = server.sockets[0].getsockname()[1]
        self._ready.set()
        self._loop.run_forever()
        server.close()
        for task in asyncio.all_tasks(self._loop):
            task.cancel()
        self._loop.run_until_complete(asyncio.sleep(0.01))
        self._loop.close()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        try:
            while True:
                head = await reader.readuntil(b"\r\n\r\n")
                number = next(self.seen)
                path = head.split(b" ")[1].decode()
                if path == "/never":
                    await asyncio.sleep(60)
                if path == "/slow":
                    await asyncio.sleep(SLOW_S)
                if path == "/metrics":
                    writer.write(b"HTTP/1.1 404 No\r\nContent-Length: 0\r\n\r\n")
                    continue
                whole = {
                    "/busy": BUSY, "/last": LAST, "/endless": ENDLESS, "/chunked": CHUNKED, "/cut": CUT,
                    "/noise": b"hello there\r\n\r\n", "/mixed": BUSY if number % 2 else OK,
                    "/timed": TIMED if b"x-servekit-timing" in head.lower() else OK,
                }.get(path, OK)  # fmt: skip
                if path == "/close":
                    break
                writer.write(whole)
                if path in ("/last", "/endless", "/cut"):
                    break
            await writer.drain()
        except (asyncio.IncompleteReadError, ConnectionError):
            pass
        finally:
            writer.close()

    def close(self) -> None:
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    running = Server()
    yield running
    running.close()


def aim(server: Server, path: str, **changes: object) -> Aim:
    message = f"GET {path} HTTP/1.1\r\nHost: test\r\n\r\n".encode()
    return Aim("127.0.0.1", server.port, message, timeout_s=2.0, **changes)  # type: ignore[arg-type]


def check(tally: load.Tally) -> None:
    """What was sent came to one end or another."""
    assert tally.sent > 0
    assert tally.sent == len(tally.seconds_each) + tally.errors.total()
    assert tally.in_time <= len(tally.seconds_each)


@pytest.mark.parametrize("path", ["/ok", "/chunked", "/last"])
def test_answers_are_counted(server: Server, path: str) -> None:
    before = server.connections
    tally = load.closed(aim(server, path), 4, 0.1)
    check(tally)
    assert not tally.errors
    # Connections are kept for as long as the server keeps them.
    assert (server.connections - before == 4) is (path != "/last")
    stage = tally.stage("closed", 4)
    assert stage.ok == stage.latency.count == sum(count for _, count in stage.histogram)  # type: ignore[union-attr]
    assert 0 < stage.per_s <= stage.ok / 0.09


def test_an_answer_that_ends_with_its_connection(server: Server) -> None:
    check(tally := load.closed(aim(server, "/endless", ends_with_connection=True), 2, 0.1))
    assert not tally.errors
    check(tally := load.closed(aim(server, "/endless"), 2, 0.1))
    assert set(tally.errors) == {"closed"}


@pytest.mark.parametrize(
    ("path", "kind"), [("/busy", "status 503"), ("/close", "closed"), ("/cut", "closed"), ("/noise", "not http")]
)
@pytest.mark.parametrize("rate", [None, 100.0])
def test_errors_are_counted_by_kind(server: Server, path: str, kind: str, rate: float | None) -> None:
    target = aim(server, path)
    tally = load.closed(target, 3, 0.1) if rate is None else load.open_(target, rate, 0.1, 4)
    check(tally)
    assert not tally.seconds_each
    assert set(tally.errors) == {kind}
    assert tally.wrong == ("503: not today" if path == "/busy" else "")
    assert tally.stage("closed", 3).latency is None


def test_good_and_bad_ones_are_told_apart(server: Server) -> None:
    check(tally := load.closed(aim(server, "/mixed"), 2, 0.1))
    assert tally.errors["status 503"] > 0
    assert len(tally.seconds_each) > 0


def test_nobody_listens() -> None:
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    for tally in (
        load.closed(Aim("127.0.0.1", port, b""), 2, 0.1),
        load.open_(Aim("127.0.0.1", port, b""), 50, 0.1, 2),
    ):
        check(tally)
        assert set(tally.errors) == {"refused"}


def test_what_is_never_answered_is_given_up(server: Server) -> None:
    quick = Aim("127.0.0.1", server.port, aim(server, "/never").message, timeout_s=0.15)
    check(tally := load.closed(quick, 2, 0.2))
    assert set(tally.errors) <= {"timeout", "unanswered"}
    check(tally := load.open_(quick, 50, 0.1, 2))
    assert tally.sent == 5
    assert set(tally.errors) <= {"timeout", "unanswered"}


def test_an_open_loop_sends_what_is_due_whatever_comes_back(server: Server) -> None:
    check(tally := load.open_(aim(server, "/ok"), 200, 0.25, 8))
    assert (tally.sent, not tally.errors, len(tally.late_s)) == (50, True, 50)


def test_latency_counts_from_when_a_request_was_due(server: Server) -> None:
    """One connection answers 20 requests a second, and 100 a second are due: they queue up, and it shows."""
    check(closed := load.closed(aim(server, "/slow"), 1, 0.3))
    check(queued := load.open_(aim(server, "/slow"), 100, 0.3, 1))
    assert min(closed.seconds_each) >= SLOW_S
    assert queued.sent == 30
    assert max(queued.seconds_each) > 10 * SLOW_S
    assert sorted(queued.seconds_each) == list(queued.seconds_each)


def test_answers_tell_of_their_batches(server: Server) -> None:
    what = subject.Ask("GET", "/timed", (), b"", "a test")
    found = subject.aim("127.0.0.1", server.port, what, 5.0)
    assert b"X-Servekit-Timing: 1" in found.timed
    check(tally := load.closed(found, 2, 0.1))
    assert set(tally.rows) == {4}
    assert len(tally.rows) < tally.sent
    assert subject.aim("127.0.0.1", server.port, subject.Ask("GET", "/ok", (), b"", "a test"), 5.0).timed == b""


def test_the_first_answer_decides_whether_there_is_something_to_measure(server: Server) -> None:
    with pytest.raises(subject.WrongAnswer, match=r"the first request \(a test\) was answered 503: not today"):
        subject.aim("127.0.0.1", server.port, subject.Ask("GET", "/busy", (), b"", "a test"), 5.0)
    with pytest.raises(NotServing, match="GET /never was not answered: timed out"):
        subject.aim("127.0.0.1", server.port, subject.Ask("GET", "/never", (), b"", "a test"), 0.2)
    with pytest.raises(NotServing, match="GET /close was not answered"):
        subject.aim("127.0.0.1", server.port, subject.Ask("GET", "/close", (), b"", "a test"), 5.0)


def test_a_loop_ends_in_its_time_and_says_where_it_is(server: Server) -> None:
    ticks: list[tuple[float, int]] = []
    load.closed(aim(server, "/ok"), 1, 0.35, lambda now_s, answered: ticks.append((now_s, answered)))
    assert ticks == sorted(ticks)
    assert all(0 <= now_s <= 0.35 for now_s, _ in ticks)
    assert ticks[-1][1] > 0


def test_the_number_of_requests_has_a_bound(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(load, "MAX_REQUESTS", 10)
    check(tally := load.closed(aim(server, "/ok"), 2, 60.0))
    assert 10 <= tally.sent <= 12


@pytest.mark.parametrize(
    ("url", "platform", "path"),
    [
        ("http://h", None, "/"),
        ("http://h:81/a?b=c", None, "/a?b=c"),
        ("http://h:81", "sagemaker", "/invocations"),
        ("http://h:81/", "modzy", "/run"),
        ("http://h:81/own", "sagemaker", "/own"),
    ],
)
def test_where_a_url_leads(tmp_path: Path, url: str, platform: str | None, path: str) -> None:
    sample = tmp_path / "s.json"
    sample.write_text("[1]")
    host, port, ask = subject.at_url(url, platform, sample, None)
    assert (host, port, ask.method, ask.path, ask.body) == ("h", 81 if ":81" in url else 80, "POST", path, b"[1]")
    message = ask.message(host, port)
    assert message.startswith(f"POST {path} HTTP/1.1\r\nHost: h:".encode())
    assert b"Content-Length: 3\r\n\r\n[1]" in message


@pytest.mark.parametrize(
    "url",
    [
        "https://h/",
        "http://",
        "http://h:x/",
        "http://u:p@h/",
        "http://h/#a",
        "http://h/a b",
        "http://h/\r\nX: y",
        "ftp://h",
    ],
)
def test_other_urls_are_refused(url: str) -> None:
    with pytest.raises(ConfigError, match="URL: expected http://HOST"):
        subject.at_url(url, None, None, None)
