"""The yardstick itself: held against the corpus, and against h11, a parser of other hands."""

from __future__ import annotations

import h11
import pytest
from fuzzing import reference
from fuzzing.corpus import BODY, CORPUS, GET, HIDDEN, IN_CHUNKS, WHOLE, Raw
from fuzzing.judge import Outcome, judge
from fuzzing.mutate import input_of

OK = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: 22\r\n\r\n" + b'{"predictions":[10.0]}'
REFUSAL = b"HTTP/1.1 400 Bad Request\r\nContent-Length: 2\r\nConnection: close\r\n\r\n{}"
# h11 takes more than the reference does, and so may see more requests; it also refuses what decides nothing here.
H11_INPUTS = 4000


@pytest.mark.parametrize("case", [case for case in CORPUS if case.expect != "either"], ids=str)
def test_the_reference_sees_what_the_corpus_says(case: Raw) -> None:
    stream = reference.read(case.data)
    if case.expect == "answered":
        assert len(stream.requests) == len(case.statuses), (stream.end, stream.why)
        assert stream.end in ("clean", "last", "open")
    else:
        assert len(stream.requests) == case.before
        assert stream.end in ("bad", "head", "body")
        assert stream.end == "bad" or not case.smuggling or case.before, stream


def h11_reads(data: bytes) -> tuple[list[tuple[bytes, bytes, bytes]], bool]:
    """The requests (method, target, body) that h11 sees, and whether it then met what it refuses."""
    connection = h11.Connection(h11.SERVER, max_incomplete_event_size=10**6)
    connection.receive_data(data)
    seen: list[tuple[bytes, bytes, bytes]] = []
    method = target = b""
    body = bytearray()
    try:
        while True:
            match connection.next_event():
                case h11.Request(method=method, target=target):
                    body.clear()
                case h11.Data(data=piece):
                    body += piece
                case h11.EndOfMessage():
                    seen.append((method, target, bytes(body)))
                    connection.send(h11.Response(status_code=404, headers=[("content-length", "0")]))
                    connection.send(h11.EndOfMessage())
                    if connection.our_state is not h11.DONE:
                        return seen, False
                    connection.start_next_cycle()
                case _:
                    return seen, False
    except h11.RemoteProtocolError:
        return seen, True


def test_h11_sees_every_request_that_the_reference_sees() -> None:
    compared = 0
    for number in range(H11_INPUTS):
        data = b"".join(input_of(1, number))
        stream = reference.read(data)
        expected = [(seen.method, seen.target, seen.body) for seen in stream.requests]
        seen, refused = h11_reads(data)
        if refused:
            assert seen == expected[: len(seen)] or len(seen) > len(expected), data
        else:
            assert seen[: len(expected)] == expected, data
        compared += bool(expected)
    assert compared > H11_INPUTS // 5


@pytest.mark.parametrize(
    ("data", "got", "finding"),
    [
        (WHOLE, OK, None),
        (WHOLE + IN_CHUNKS, OK + OK, None),
        (b"nonsense\r\n\r\n", REFUSAL, None),
        (WHOLE, b"HTTP/1.1 100 Continue\r\n\r\n" + OK, None),
        (WHOLE, OK + OK, "smuggled"),
        (WHOLE + WHOLE, OK, "lost"),
        (WHOLE, b"", "lost"),
        (b"nonsense\r\n\r\n", OK, "accepted"),
        (WHOLE[:-1], OK, "accepted"),
        (WHOLE, OK.replace(b"10.0", b"11.0"), "wrong answer"),
        (WHOLE, OK[:-1], "garbled"),
        (WHOLE, OK + b"more", "garbled"),
        (WHOLE, OK.replace(b"200 OK", b"500 Oh"), "status 500"),
        (WHOLE, REFUSAL.replace(b"{}", b"/u") + OK, "behind one that said"),
        (b"nonsense\r\n\r\n", REFUSAL.replace(b"2\r\n", b"9\r\n").replace(b"{}", b"Traceback"), "leak"),
        (WHOLE, OK.replace(b"Content-Type", b"Server: x\r\nContent-Type"), "names itself"),
        (WHOLE, OK.replace(b"Content-Type", b"X-Request-Id: smuggled\r\nContent-Type"), "mixed up"),
    ],
)
def test_the_judge_finds_what_it_should(data: bytes, got: bytes, finding: str | None) -> None:
    findings = judge(data, Outcome(got, ended=True)).findings
    assert any(finding in found for found in findings) if finding else not findings, findings


def test_what_never_ends_is_found() -> None:
    assert "held" in judge(WHOLE, Outcome(OK, ended=False)).findings[0]


def test_a_body_is_read_whole() -> None:
    data = IN_CHUNKS.replace(b"19\r\n" + BODY, b"5;a=b\r\n" + BODY[:5] + b"\r\n14\r\n" + BODY[5:])
    assert [seen.body for seen in reference.read(data + GET + b"\r\n").requests] == [BODY, b""]
    hidden = WHOLE.replace(b"25", b"%d" % len(HIDDEN)).replace(BODY, HIDDEN)
    assert [seen.body for seen in reference.read(hidden).requests] == [HIDDEN]
