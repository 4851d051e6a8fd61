"""Damaged requests, thousands of them, on a real server of each kind; `scripts/fuzz` sends millions."""

from __future__ import annotations

import pytest
from fuzzing.campaign import KINDS, bombard, fuzzed
from fuzzing.mutate import input_of

INPUTS = 2500

pytestmark = pytest.mark.slow


@pytest.mark.parametrize("kind", KINDS)
def test_no_input_harms_the_server(kind: str) -> None:
    with fuzzed(kind) as server:
        tally = bombard(server, range(INPUTS))
    assert not tally.findings, tally.report()
    assert tally.inputs == INPUTS
    # It was neither all refused nor all answered, or the inputs would show nothing.
    assert tally.statuses[200] > INPUTS / 5
    assert tally.statuses[400] > INPUTS / 5


def test_an_input_is_made_of_its_number() -> None:
    assert input_of(0, 7) == input_of(0, 7)
    assert len({b"".join(input_of(0, number)) for number in range(300)}) > 200
    assert input_of(0, 8) != input_of(1, 8)
