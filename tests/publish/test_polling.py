"""Waiting for an end, and making something exactly once."""

from __future__ import annotations

import pytest

import servekit.publish.polling as polling
from servekit.publish.failures import Busy, Forbidden, NotUnderstood, PublishError, Refused, StillGoing, Unreachable
from servekit.publish.polling import once, until


@pytest.fixture(autouse=True)
def _quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(polling, "PAUSE_S", 0.0)


def test_until_it_ends() -> None:
    states = iter(["INIT", "CREATING", "ACTIVE", "never looked at"])
    seen: list[str] = []
    found = until(
        lambda: next(states), lambda state: state == "ACTIVE", limit_s=60, what="image", resume="", seen=seen.append,
        every_s=0,
    )  # fmt: skip
    assert found == "ACTIVE"
    assert seen == ["INIT", "CREATING", "ACTIVE"]


def test_not_for_ever() -> None:
    looks: list[int] = []
    with pytest.raises(StillGoing, match="image 7 has not ended within 0 s") as caught:
        until(lambda: looks.append(1), lambda _: False, limit_s=0, what="image 7", resume="look again", every_s=0)
    assert caught.value.hint == "look again"
    assert len(looks) == 1  # 0 s is one look


class Platform:
    """It loses `answers` before or after the work is done."""

    def __init__(self, *errors: tuple[PublishError, bool]) -> None:
        self.errors = list(errors)
        self.things = 0

    def create(self) -> int:
        error, done = self.errors.pop(0) if self.errors else (None, True)
        self.things += done
        if error is not None:
            raise error
        return self.things

    def find(self) -> int | None:
        return self.things or None


LOST = [Unreachable("cut"), Busy("500", status=500), NotUnderstood("half")]


@pytest.mark.parametrize("error", LOST, ids=lambda error: error.kind)
@pytest.mark.parametrize("done", [True, False])
def test_a_lost_answer_makes_one_thing(error: PublishError, done: bool) -> None:
    platform = Platform((error, done))
    told: list[str] = []
    assert once(platform.create, platform.find, tell=told.append) == 1
    assert platform.things == 1
    assert len(told) == 1


def test_it_gives_up() -> None:
    platform = Platform(*[(error, False) for error in LOST])
    with pytest.raises(NotUnderstood, match="half"):
        once(platform.create, platform.find, tell=lambda _: None)
    assert not platform.errors


@pytest.mark.parametrize("error", [Refused("no", status=400), Busy("later", status=429)])
def test_what_was_refused_is_not_tried_again(error: PublishError) -> None:
    platform = Platform((error, False), (error, False))
    with pytest.raises(type(error)):
        once(platform.create, platform.find, tell=lambda _: None)
    assert len(platform.errors) == 1


def test_when_nobody_can_tell_the_first_error_stays() -> None:
    """It says that nobody knows; what the look says, such as a 403, would mean that nothing was made."""

    def find() -> int | None:
        raise Forbidden("not yours", status=403)

    told: list[str] = []
    with pytest.raises(Unreachable, match="cut"):
        once(Platform((Unreachable("cut"), True)).create, find, tell=told.append)
    assert told == ["and whether it is there cannot be told: not yours"]
