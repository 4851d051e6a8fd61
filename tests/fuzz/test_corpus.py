"""Every raw request of the corpus on a real server of each kind: whole, and torn into packets."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path

import pytest
from fuzzing import client, reference
from fuzzing.campaign import KINDS, answers_well, fuzzed, troubles, workers
from fuzzing.corpus import CORPUS, GET, IN_CHUNKS, WHOLE, Raw
from fuzzing.judge import Outcome, judge, wrong
from serving import script, serve

# Heads that the fast lane then knows: what is like them must not profit from it.
FAMILIAR = [WHOLE, IN_CHUNKS, GET + b"\r\n", WHOLE.replace(b"\r\n\r\n", b"\r\nX-A: a\r\n\r\n", 1)]
WAYS = ("whole", "torn")

Outcomes = dict[tuple[str, str], Outcome]
Aftermath = dict[str, object]


@pytest.fixture(scope="module", params=KINDS)
def sent(request: pytest.FixtureRequest) -> Iterator[tuple[Outcomes, Aftermath]]:
    """What came of each case, sent in each way, and what is wrong with the server that has taken all of them."""
    found: Outcomes = {}
    with fuzzed(request.param) as server:
        before = workers(server)
        assert before
        for way in WAYS:
            inputs = [(-1, [data]) for data in FAMILIAR for _ in range(3)]
            inputs += [(i, packets(case.data, i, way)) for i, case in enumerate(CORPUS)]

            def use(number: int, _: bytes, outcome: Outcome, way: str = way) -> bool:
                if number >= 0:
                    found[CORPUS[number].name, way] = outcome
                return True

            # On a busy machine the bytes of a torn request may come after the server's patience has ended: 408, or an
            # end where not even the first had come. That is no answer to the case, which is sent again with fewer others
            # beside it; whatever the last attempt brings stands.
            for connections in (200, 20, 4, 1):
                asyncio.run(client.each(server.port, inputs, use, connections=connections))
                inputs = [(i, packets(case.data, i, way)) for i, case in enumerate(CORPUS) if late(case, found, way)]
        aftermath = {
            "a worker died": workers(server) != before,
            "a good request is not answered well": not answers_well(server),
            "errors in the log": troubles(server),
        }
        yield found, aftermath


def late(case: Raw, found: Outcomes, way: str) -> bool:
    """Did the server's patience end, or ours, where that cannot be the right answer?"""
    outcome = found[case.name, way]
    has_one_answer = case.expect == "answered" or (case.expect == "refused" and case.status is not None)
    return has_one_answer and (b"HTTP/1.1 408 " in outcome.got or not outcome.got or not outcome.ended)


def packets(data: bytes, seed: int, way: str) -> list[bytes]:
    if way == "whole" or len(data) < 2:
        return [data]
    if len(data) <= 600:
        return [data[i : i + 1] for i in range(len(data))]
    chance = random.Random(seed)  # noqa: S311 - chance that can be repeated is the point
    places = [0, *sorted(chance.sample(range(1, len(data)), 7)), len(data)]
    return [data[start:stop] for start, stop in pairwise(places)]


@pytest.mark.parametrize("case", CORPUS, ids=str)
@pytest.mark.parametrize("way", WAYS)
def test_every_request_gets_what_it_deserves(sent: tuple[Outcomes, Aftermath], way: str, case: Raw) -> None:
    outcome = sent[0][case.name, way]
    assert outcome.ended, "neither answered nor closed in time"
    stream = reference.read(case.data)
    if outcome.reset and (case.before or stream.end in ("last", "open")):
        # It went on sending behind what ends the connection, which may lose a reply or the end of one.
        return
    answers = reference.replies(outcome.got, [seen.method for seen in stream.requests])
    statuses = [answer.status for answer in answers]
    assert [finding for answer in answers for finding in wrong(answer, case.data)] == []
    if case.expect == "answered":
        assert tuple(statuses) == case.statuses
        assert judge(case.data, outcome).findings == []
    elif case.expect == "refused":
        refusal = answers[-1]
        # Behind others that are still being answered, theirs may be made the last instead.
        assert len(answers) == case.before + 1 or (case.before and len(answers) == case.before), statuses
        assert statuses[: case.before] == [200] * case.before
        assert refusal.closes
        if len(answers) > case.before:
            assert refusal.status == case.status or (case.status is None and 400 <= refusal.status < 500)
    else:
        assert len(answers) <= max(1, case.at_most)
        assert sum(status < 400 for status in statuses) <= case.at_most


def test_the_server_is_none_the_worse(sent: tuple[Outcomes, Aftermath]) -> None:
    assert {name: trouble for name, trouble in sent[1].items() if trouble} == {}


def test_the_corpus_is_what_was_promised() -> None:
    assert len({case.name for case in CORPUS}) == len(CORPUS) >= 150
    assert len({case.data for case in CORPUS}) == len(CORPUS)
    assert sum(case.smuggling for case in CORPUS) >= 100
    assert all(case.why for case in CORPUS if case.expect == "either")
    assert all(case.status == 400 for case in CORPUS if case.smuggling)


def test_a_stock_server_fails() -> None:
    """The control: what the corpus asks for does not come by itself."""
    command = [script("uvicorn"), "stock:app", "--app-dir", str(Path(__file__).parent), "--log-level", "error"]
    smuggling = [case for case in CORPUS if case.smuggling and case.before == 0]
    accepted: set[str] = set()

    def use(number: int, _: bytes, outcome: Outcome) -> bool:
        if outcome.got.startswith(b"HTTP/1.1 200 "):
            accepted.add(smuggling[number].name)
        return True

    with serve(command=command, ready=False) as server:
        server.wait_until("/")
        inputs = [(number, [case.data]) for number, case in enumerate(smuggling)]
        asyncio.run(client.each(server.port, inputs, use, patience_s=1))
    assert {"headers: two hosts", "coding: in HTTP/1.0", "coding: two headers, an unknown one first"} <= accepted
