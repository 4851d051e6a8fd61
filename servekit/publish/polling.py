"""Looking again and again until something ends, within a time; and making something once, when answers get lost."""

from __future__ import annotations

import random
import time
from collections.abc import Callable
from typing import TypeVar

from servekit.publish.failures import Busy, NotUnderstood, PublishError, StillGoing, Unreachable

State = TypeVar("State")
Thing = TypeVar("Thing")

EVERY_S = 2.0
MAX_EVERY_S = 15.0
# Slower and slower: most ends come soon, and some take hours.
SLOWER = 1.3
CREATIONS = 3
PAUSE_S = 1.0


def until(
    look: Callable[[], State],
    ended: Callable[[State], bool],
    *,
    limit_s: float,
    what: str,
    resume: str,
    seen: Callable[[State], None] | None = None,
    every_s: float | None = None,
) -> State:
    """The first state that has ended. Raises StillGoing after limit_s, and what `look` raises.

    seen: is told each state. what: names it in the error. resume: what to do then. every_s: EVERY_S by default.
    """
    every_s = EVERY_S if every_s is None else every_s
    end_s = time.monotonic() + limit_s
    while True:
        state = look()
        if seen is not None:
            seen(state)
        if ended(state):
            return state
        left_s = end_s - time.monotonic()
        if left_s <= 0:
            raise StillGoing(f"{what} has not ended within {limit_s:g} s", hint=resume)
        # Many that began together do not look together.
        time.sleep(min(left_s, every_s * random.uniform(0.8, 1.2)))  # noqa: S311 - not for secrets
        every_s = min(every_s * SLOWER, MAX_EVERY_S)


def once(create: Callable[[], Thing], find: Callable[[], Thing | None], *, tell: Callable[[str], None]) -> Thing:
    """Make something that must not be there twice: after an answer that got lost, look before trying again.

    Raises what `create` raised last.
    """
    for attempt in range(1, CREATIONS + 1):
        try:
            return create()
        except (Busy, Unreachable, NotUnderstood) as error:
            if error.status == 429:
                raise  # it was tried again already, and never begun
            lost = error
        time.sleep(PAUSE_S * attempt * random.uniform(0.5, 1.5))  # noqa: S311 - not for secrets
        try:
            found = find()
        except PublishError as error:
            # Whatever this one says, nobody knows what became of the first.
            tell(f"and whether it is there cannot be told: {error.message}")
            raise lost from error
        if found is not None:
            tell("the answer got lost, but it is there")
            return found
        if attempt == CREATIONS:
            raise lost
        tell(f"it is not there: {lost.message}; trying again")
    raise AssertionError("not reached")
