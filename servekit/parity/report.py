"""What came of it, as a person reads it and as JSON."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from servekit.parity.answers import Answered, Failed, NotExpressible, Outcome
from servekit.parity.runner import Compared, words


def line(compared: Compared) -> str:
    """One sample in one line: the answer that the platforms share, or that they do not."""
    said = {name: outcome for name, outcome in compared.outcomes.items() if not isinstance(outcome, NotExpressible)}
    if not said:
        return f"-       {compared.sample.name}: no platform can express it"
    if not compared.equal:
        return f"DIFFERS {compared.sample.name}"
    first = next(iter(said.values()))
    shared = words(first) if isinstance(first, Answered) else _kinds(list(said.values()))
    sign, which = ("equal  ", ", ".join(said)) if len(said) > 1 else ("alone  ", f"{next(iter(said))} only")
    return f"{sign} {compared.sample.name}: {shared} ({which})"


def details(compared: Compared) -> list[str]:
    """Where they differ, and what was not expressible where."""
    lines = [f"        {text}" for text in compared.complaints]
    for name, outcome in compared.outcomes.items():
        if isinstance(outcome, NotExpressible):
            lines.append(f"        not expressible on {name}: {outcome.reason}")
    return lines


def summary(found: Sequence[Compared], platforms: Sequence[str]) -> str:
    differ = sum(not compared.equal for compared in found)
    silent = sum(isinstance(outcome, NotExpressible) for compared in found for outcome in compared.outcomes.values())
    return (
        f"{len(found)} samples on {', '.join(platforms)}: {len(found) - differ} equal, {differ} differ; "
        f"{silent} not expressible"
    )


def document(found: Sequence[Compared], platforms: Sequence[str], changes: Mapping[str, list[str]]) -> dict[str, Any]:
    return {
        "ok": all(compared.equal for compared in found) and not changes,
        "platforms": list(platforms),
        "samples": [
            {
                "name": compared.sample.name,
                "equal": compared.equal,
                "differences": compared.complaints,
                "snapshot": changes.get(compared.sample.name, []),
                "outcomes": {name: _outcome(outcome) for name, outcome in compared.outcomes.items()},
            }
            for compared in found
        ],
        "removed": [name for name in changes if name not in {compared.sample.name for compared in found}],
    }


def _outcome(outcome: Outcome) -> dict[str, Any]:
    match outcome:
        case Answered():
            return {"answered": outcome.rows}
        case Failed():
            return {"error": sorted(outcome.kinds), "status": outcome.status, "message": outcome.message}
        case NotExpressible():
            return {"not_expressible": outcome.reason}


def _kinds(outcomes: Sequence[Outcome]) -> str:
    kinds = [outcome.kinds for outcome in outcomes if isinstance(outcome, Failed)]
    return " or ".join(sorted(frozenset.intersection(*kinds)))
