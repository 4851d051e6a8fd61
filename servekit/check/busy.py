"""A container that is busy, and one that is told to end while it is."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass

from servekit.check.scenarios import (
    BUSY,
    PROBE_EVERY_S,
    STOP,
    attempt,
    require_predicting,
    require_serving,
    scenario,
)
from servekit.check.trial import NotChecked, Result, Trial, Verdict, answer_in_words, broken, in_words, kept
from servekit.check.wire import NoAnswer, Wire
from servekit.terms import Expectation, Seen, Send

CALLERS = 8
BUSY_S = 2.0
FAREWELL_CALLERS = 4
FAREWELL_PAUSE_S = 0.01
BEFORE_STOP_S = 0.3
# What was sent only just before may have met a server that was ending already.
SURELY_SENT_S = 0.05
REST_AFTER_S = 1.0
AFTER_KILL_S = 2.0
ACCEPT_ROUNDS = 3
QUICK_FAREWELL_S = 12.0
# A platform that kills sooner than that is waited for also where there is little time.
QUICK_KILL_S = 40.0
NO_PREDICTIONS = "it needs predictions that succeed: give one by --sample FILE, see the clause about them"


@dataclass(slots=True)
class Call:
    """One request of a load: when it was sent and ended, by the monotonic clock; and what came.

    Answers themselves are not kept: there may be many, and long ones.
    """

    sent_s: float
    ended_s: float
    status: int | None
    complaint: str | None


class Load:
    """Callers that send predictions one after the other, each on its connection, until told to stop."""

    def __init__(self, trial: Trial, callers: int = CALLERS, *, pause_s: float = 0.0) -> None:
        self._trial, self._send, self._pause_s = trial, trial.prediction, pause_s
        self.calls: list[Call] = []
        self._stopping = threading.Event()
        self._threads = [threading.Thread(target=self._call, daemon=True) for _ in range(callers)]

    def __enter__(self) -> Load:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, kind: object, *exc: object) -> None:
        if kind is None:
            self.stop()
        # Ctrl-C waits for nobody.
        self._stopping.set()

    def stop(self) -> None:
        """No new ones; those on the way are waited for."""
        self._stopping.set()
        for thread in self._threads:
            if thread.ident is not None:
                thread.join()

    def _call(self) -> None:
        wire: Wire | None = None
        try:
            while not self._stopping.is_set():
                sent_s = time.monotonic()
                seen: Seen | NoAnswer
                try:
                    if wire is None:
                        wire = self._trial.wire()
                    seen = wire.ask(self._send)
                except NoAnswer as error:
                    seen = error
                self.calls.append(_call(self._trial, sent_s, seen))
                if isinstance(seen, NoAnswer) or seen.closes:
                    if wire is not None:
                        wire.__exit__()
                    wire = None
                pause_s = PROBE_EVERY_S if isinstance(seen, NoAnswer) else self._pause_s
                if pause_s:
                    self._stopping.wait(pause_s)
        finally:
            if wire is not None:
                wire.__exit__()


def _call(trial: Trial, sent_s: float, seen: Seen | NoAnswer) -> Call:
    if isinstance(seen, NoAnswer):
        return Call(sent_s, time.monotonic(), None, seen.message)
    complaint = trial.terms.answered.complaint(seen)
    got = f"{complaint}; the answer was {answer_in_words(seen)}" if complaint is not None else None
    return Call(sent_s, time.monotonic(), seen.status, got)


@scenario(BUSY)
def probe_while_busy(trial: Trial, *, within_s: float, seconds: float = BUSY_S) -> Verdict:
    """The probe is answered in time while predictions occupy the container."""
    require_predicting(trial)
    sent = f"{in_words(trial.terms.probe)} again and again, while {CALLERS} callers send predictions"
    expected = f"{trial.terms.ready.text} within {within_s:g} s each time"
    slowest = 0.0
    idle = attempt(trial, trial.terms.probe)
    if isinstance(idle, NoAnswer) or idle.seconds > within_s:
        raise NotChecked("the probe is too slow already when nothing else happens, see the clause about it")
    with Load(trial):
        end_s = time.monotonic() + seconds
        while time.monotonic() < end_s:
            try:
                seen = trial.ask(trial.terms.probe, timeout_s=within_s)
            except NoAnswer as error:
                return broken(sent, error.message, expected)
            complaint = trial.terms.ready.complaint(seen)
            if complaint is not None:
                return broken(sent, complaint, expected)
            slowest = max(slowest, seen.seconds)
            time.sleep(PROBE_EVERY_S)
    if slowest > within_s:
        return broken(sent, f"an answer after {slowest:.2f} s", expected)
    return kept(sent, f"the slowest answer took {slowest:.2f} s", expected)


@scenario(BUSY)
def accepts_in_time(trial: Trial, *, within_s: float, connections: int = 24) -> Verdict:
    """Connections are accepted at once, also when many come together while predictions run."""
    require_predicting(trial)
    sent = f"{connections} connections, opened one after the other, while {CALLERS} callers send predictions"
    expected = f"each accepted within {within_s * 1000:.0f} ms"
    verdict = None
    with Load(trial):
        time.sleep(PROBE_EVERY_S * 2)
        # This machine may be slow for a moment, too.
        for _ in range(ACCEPT_ROUNDS):
            verdict = _open_many(trial, connections, within_s, sent, expected)
            if verdict.result is Result.KEPT:
                break
    assert verdict is not None  # noqa: S101 - there are rounds
    return verdict


def _open_many(trial: Trial, connections: int, within_s: float, sent: str, expected: str) -> Verdict:
    slowest = 0.0
    with ExitStack() as opened:
        for number in range(1, connections + 1):
            try:
                wire = opened.enter_context(Wire(trial.subject.address, connect_timeout_s=within_s * 4))
            except NoAnswer as error:
                return broken(sent, f"number {number}: {error.message}", expected)
            slowest = max(slowest, wire.connect_s)
    got = f"the slowest took {slowest * 1000:.0f} ms"
    return (kept if slowest <= within_s else broken)(sent, got, expected)


@scenario(BUSY)
def answers_all(trial: Trial, *, seconds: float = BUSY_S) -> Verdict:
    """Predictions that come at the same time are all answered; a refusal for being overloaded is an answer, too."""
    alone = require_predicting(trial)
    with Load(trial) as load:
        time.sleep(seconds)
    sent = f"{len(load.calls)} times {in_words(trial.prediction)} by {CALLERS} callers"
    expected = f"{trial.terms.answered.text}, or 429 or 503, as it was alone: {answer_in_words(alone)}"
    for call in load.calls:
        if call.complaint is not None and call.status not in (429, 503):
            return broken(sent, call.complaint, expected)
    return kept(sent, "all were answered", expected)


# --- the end --------------------------------------------------------------------------------------------------------


@dataclass(slots=True)
class Farewell:
    """What was seen from a moment before a container is told to end until it has.

    asked_s, told_s: when telling it began and was done, by the monotonic clock, as all times here.
    answer: to what was sent to end it, where that is a request.
    half_sent: the answer to a request of which half had been sent before, and the rest a second later; None where
    predictions fail anyway, or there is no sample.
    calls: of a load that went on from before to the end.
    watched_s: for so long; it may still run after that, where there is little time.
    """

    asked_s: float
    told_s: float
    answer: Seen | NoAnswer | None
    half_sent: Seen | NoAnswer | None
    calls: list[Call]
    exit_code: int | None
    ended_s: float | None
    watched_s: float

    @property
    def ran_s(self) -> float | None:
        return None if self.ended_s is None else self.ended_s - self.asked_s


def farewell(trial: Trial) -> Farewell:
    return trial.once("farewell", lambda: _say_farewell(trial))


def _say_farewell(trial: Trial) -> Farewell:
    require_serving(trial)
    process = trial.subject.process
    if process is None:
        raise NotChecked("it needs a container that is started here: --command or --image")
    kill_s = trial.terms.kill_after_s
    whole = trial.slow or kill_s <= QUICK_KILL_S
    watched_s = kill_s + AFTER_KILL_S if whole else QUICK_FAREWELL_S
    half_sent: Seen | NoAnswer | None = None
    with ExitStack() as meanwhile:
        load, rest = _busy(trial, meanwhile)
        time.sleep(BEFORE_STOP_S)
        asked_s = time.monotonic()
        answer = None
        if trial.terms.stop is None:
            process.terminate()
        else:
            answer = attempt(trial, trial.terms.stop)
        told_s = time.monotonic()
        if rest is not None:
            time.sleep(REST_AFTER_S)
            half_sent = rest()
        exit_code = process.wait(asked_s + watched_s - time.monotonic())
        ended_s = time.monotonic() if exit_code is not None else None
    calls = load.calls if load is not None else []
    return Farewell(asked_s, told_s, answer, half_sent, calls, exit_code, ended_s, watched_s)


def _busy(trial: Trial, meanwhile: ExitStack) -> tuple[Load | None, Callable[[], Seen | NoAnswer] | None]:
    """Callers, and half of a request, with what sends its rest; nothing where there are no predictions."""
    try:
        require_predicting(trial)
    except NotChecked:
        return None, None
    send = trial.prediction
    first, second = take_apart(send)
    load = meanwhile.enter_context(Load(trial, FAREWELL_CALLERS, pause_s=FAREWELL_PAUSE_S))
    wire = meanwhile.enter_context(trial.wire())
    wire.begin(send)
    wire.write(first)

    def rest() -> Seen | NoAnswer:
        try:
            wire.write(second)
            wire.finish()
            return wire.answer(send)
        except NoAnswer as error:
            return error

    return load, rest


def _told(trial: Trial) -> str:
    return "SIGTERM" if trial.terms.stop is None else in_words(trial.terms.stop)


@scenario(STOP)
def finishes_what_it_began(trial: Trial) -> Verdict:
    """Requests that were on their way when it was told to end are answered."""
    found = farewell(trial)
    sent = f"{_told(trial)}, while {FAREWELL_CALLERS} callers waited for predictions and half of another was sent"
    expected = f"{trial.terms.answered.text} for each request that was on its way"
    sent_before_s = found.asked_s - SURELY_SENT_S
    on_their_way = [call for call in found.calls if call.sent_s < sent_before_s and found.told_s < call.ended_s]
    half_sent = found.half_sent
    if half_sent is None:
        raise NotChecked(NO_PREDICTIONS)
    wrong = half_sent.message if isinstance(half_sent, NoAnswer) else trial.terms.answered.complaint(half_sent)
    if wrong is not None:
        return broken(sent, f"the half-sent request: {wrong}", expected)
    for call in on_their_way:
        if call.complaint is not None:
            return broken(sent, f"a request that waited for its answer: {call.complaint}", expected)
    return kept(sent, f"{len(on_their_way) + 1} requests were on their way, and answered", expected)


@scenario(STOP)
def ends_in_time(trial: Trial) -> Verdict:
    """It is gone before the platform kills it."""
    found, limit_s = farewell(trial), trial.terms.kill_after_s
    expected = f"an end within {limit_s:g} s"
    if found.ran_s is None and found.watched_s < limit_s:
        raise NotChecked(f"it still ran after {found.watched_s:g} s, which is right: the whole time takes --slow")
    if found.ran_s is None or found.ran_s > limit_s:
        return broken(_told(trial), f"it ran on for more than {limit_s:g} s", expected)
    return kept(_told(trial), f"it ended after {found.ran_s:.1f} s", expected)


@scenario(STOP)
def exits_with(trial: Trial, *, codes: Sequence[int] = (0,)) -> Verdict:
    """Its exit code in the end is a good one."""
    found = farewell(trial)
    expected = f"exit code {' or '.join(map(str, codes))}"
    if found.exit_code is None:
        raise NotChecked("it did not end by itself while it was watched")
    # As a container's exit code has it when a signal ended the process.
    code = found.exit_code if found.exit_code >= 0 else 128 - found.exit_code
    return (kept if code in codes else broken)(_told(trial), f"exit code {code}", expected)


@scenario(STOP)
def serves_on(trial: Trial, *, seconds: float) -> Verdict:
    """It goes on answering new requests for a while, since the platform still sends them."""
    found = farewell(trial)
    if found.half_sent is None:
        raise NotChecked(NO_PREDICTIONS)
    watched_s = min(seconds, found.watched_s)
    sent = f"predictions by {FAREWELL_CALLERS} callers, after {_told(trial)}"
    expected = f"{trial.terms.answered.text} to those of the first {seconds:g} s"
    for call in sorted(found.calls, key=lambda call: call.sent_s):
        after_s = call.sent_s - found.told_s
        if not 0 <= after_s < watched_s:
            continue
        if call.complaint is not None:
            return broken(sent, f"{after_s:.1f} s after {_told(trial)}: {call.complaint}", expected)
    rest = "" if watched_s >= seconds else f", for {watched_s:g} s (the whole time: --slow)"
    return kept(sent, f"all were answered{rest}", expected)


@scenario(STOP)
def confirms_its_end(trial: Trial, *, expect: Expectation) -> Verdict:
    """What told it to end is answered in the platform's form, if at all."""
    found = farewell(trial)
    if isinstance(found.answer, Seen):
        complaint = expect.complaint(found.answer)
        if complaint is not None:
            got = f"{complaint}; the answer was {answer_in_words(found.answer)}"
            return broken(_told(trial), got, f"{expect.text}, or no answer")
        return kept(_told(trial), answer_in_words(found.answer), expect.text)
    return kept(_told(trial), "no answer, which is allowed", expect.text)


def take_apart(send: Send) -> tuple[bytes, bytes]:
    """The two halves of a body."""
    middle = len(send.body) // 2
    return send.body[:middle], send.body[middle:]
