"""Try every clause, in the order of a container's life: its start, its image, its work, work under load, its end."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import assert_never

from servekit.check import busy as _busy  # noqa: F401 - makes its scenarios known
from servekit.check import scenarios
from servekit.check.trial import NotChecked, Result, Trial, Verdict, answer_in_words, broken, in_words, kept
from servekit.check.wire import NoAnswer
from servekit.terms import Ask, Asks, Clause, Level, Named, Terms

DIES_WITHIN_S = 0.5
SHOWN_LINES = 5
INTERRUPTED = "interrupted before it was tried"


@dataclass(frozen=True, slots=True)
class Finding:
    """seconds: how long it took to find out, with what clauses after it profit from."""

    clause: Clause
    verdict: Verdict
    seconds: float = 0.0

    @property
    def fatal(self) -> bool:
        """It must hold, and does not."""
        return self.clause.level is Level.MUST and self.verdict.result is Result.BROKEN

    @property
    def unknown(self) -> bool:
        """It must hold, and nobody knows."""
        return self.clause.level is Level.MUST and self.verdict.result is Result.NOT_CHECKED


def run(
    trial: Trial, *, trying: Callable[[Clause], None] | None = None, seen: Callable[[Finding], None] | None = None
) -> list[Finding]:
    """A finding for each clause, in the order of the terms. Ctrl-C gets through; `seen` has what was found before."""
    found: list[Finding] = []
    for clause in _in_order(trial):
        if trying is not None:
            trying(clause)
        began_s = time.monotonic()
        finding = Finding(clause, try_clause(trial, clause), time.monotonic() - began_s)
        found.append(finding)
        if seen is not None:
            seen(finding)
    return whole(trial.terms, found)


def whole(terms: Terms, found: Sequence[Finding]) -> list[Finding]:
    """A finding for each clause, in the order of the terms, also when not all were tried."""
    known = {finding.clause.id: finding for finding in found}
    nothing = Verdict(Result.NOT_CHECKED, reason=INTERRUPTED)
    return [known.get(clause.id) or Finding(clause, nothing) for clause in terms.clauses]


def never_ready(trial: Trial) -> bool:
    """It was waited for, and did not become ready."""
    return trial.knows("beginning") and scenarios.beginning(trial).ready_s is None


def try_clause(trial: Trial, clause: Clause) -> Verdict:
    phase = _phase(clause)
    # What ends it before its time is the fault of the clause that was tried, not of those that come after.
    alive = phase in (scenarios.SERVE, scenarios.BUSY) and trial.died() is None
    try:
        verdict = _try(trial, clause)
    except NotChecked as error:
        return Verdict(Result.NOT_CHECKED, reason=str(error))
    except NoAnswer as error:
        verdict = broken(clause.title, error.message, "an answer")
    if alive and trial.died(DIES_WITHIN_S if verdict.result is Result.BROKEN else 0.0) is not None:
        assert trial.subject.process is not None  # noqa: S101 - it has died
        last = " | ".join(trial.subject.process.output()[-SHOWN_LINES:])
        return broken(
            verdict.sent, f"it ended with exit code {trial.died()}; its last lines: {last}", "a container that goes on"
        )
    return verdict


def _try(trial: Trial, clause: Clause) -> Verdict:
    match clause.test:
        case Ask():
            return _ask(trial, clause.test)
        case Asks():
            verdicts = [_ask(trial, ask) for ask in clause.test.asks]
            wrong = next((verdict for verdict in verdicts if verdict.result is Result.BROKEN), None)
            sent, got = ("; ".join(getattr(verdict, name) for verdict in verdicts) for name in ("sent", "got"))
            return wrong or kept(sent, got, verdicts[0].expected)
        case Named():
            return scenarios.find(clause.test.scenario).run(trial, **clause.test.parameters)
        case _:
            assert_never(clause.test)


def _ask(trial: Trial, test: Ask) -> Verdict:
    (scenarios.require_predicting if test.predicts else scenarios.require_serving)(trial)
    send = test.send(trial.given_sample) if callable(test.send) else test.send
    try:
        seen = trial.ask(send)
    except NoAnswer as error:
        return broken(in_words(send), error.message, test.expect.text)
    complaint = test.expect.complaint(seen)
    if complaint is None:
        return kept(in_words(send), answer_in_words(seen), test.expect.text)
    return broken(in_words(send), f"{complaint}; the answer was {answer_in_words(seen)}", test.expect.text)


def _phase(clause: Clause) -> int:
    if isinstance(clause.test, Named):
        return scenarios.find(clause.test.scenario).phase
    return scenarios.SERVE


def _in_order(trial: Trial) -> Iterator[Clause]:
    yield from sorted(trial.terms.clauses, key=_phase)
