"""A file that says what the samples are answered: written once, read by a person, compared from then on.

    format: 1
    samples:
      bad-row.json:
        error: invalid_input
      rows.json:
        answer:
        - {species: setosa, probability: 0.98}

It holds nothing that changes by itself: no time, no version, no path. What is long is shortened: of a text or of bytes
there is the start and the SHA-256. Of N floating-point numbers, which no hash can compare, there are the first, the
extremes, the mean, and a few sums in which each has another weight; they show that one number has changed by more than
about ten times the tolerance times the square root of N, and that some have changed places.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from servekit.errors import ConfigError
from servekit.parity.answers import Answered, Failed, NotExpressible, Outcome, Row
from servekit.parity.compare import DEFAULT_TOLERANCE, TOLERANCES, floats, values
from servekit.signature import Signature, Spec, Tensor

FORMAT = 1
MAX_FILE_BYTES = 16 * 1024 * 1024
# Weights that are nowhere the same, and of which not all are small at one place: cosines of multiples of this angle.
STEP, CHECKS = 2.399963229728653, 4
# Small errors of many numbers add up in a sum.
CHECK_MARGIN = 5.0
MAX_ROWS, MAX_NUMBERS, MAX_CHARS, FIRST = 20, 32, 120, 5
HEAD = "# What each sample is answered, on every platform alike. Written by `servekit parity --update`; review it.\n"

Entry = dict[str, Any]


def entry(outcomes: Mapping[str, Outcome], signature: Signature) -> Entry:
    """One sample of the file; the platforms agree, so the first answer stands for all."""
    said: Entry = {}
    for outcome in outcomes.values():
        if isinstance(outcome, Answered):
            said = {"answer": _rows(outcome.rows, signature)}
            break
        if isinstance(outcome, Failed):
            said = {"error": _kinds(outcomes)}
            break
    reasons = {name: outcome.reason for name, outcome in outcomes.items() if isinstance(outcome, NotExpressible)}
    return said | ({"not_expressible": reasons} if reasons else {})


def _kinds(outcomes: Mapping[str, Outcome]) -> str:
    """The kinds that all platforms' answers allow."""
    kinds = [outcome.kinds for outcome in outcomes.values() if isinstance(outcome, Failed)]
    return " or ".join(sorted(frozenset.intersection(*kinds)))


def write(path: Path, entries: Mapping[str, Entry]) -> None:
    document = {"format": FORMAT, "samples": dict(sorted(entries.items()))}
    text = yaml.safe_dump(document, sort_keys=False, allow_unicode=True, width=110, default_flow_style=None)
    path.write_text(HEAD + text, encoding="utf-8")


def read(path: Path) -> dict[str, Entry]:
    """Raises ConfigError."""
    if not path.is_file():
        raise ConfigError(f"--snapshot: no file {str(path)!r}; --update writes it")
    if path.stat().st_size > MAX_FILE_BYTES:
        raise ConfigError(f"--snapshot: expected at most {MAX_FILE_BYTES} bytes, got {path.stat().st_size}")
    try:
        document = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (ValueError, RecursionError, yaml.YAMLError) as error:
        raise ConfigError(f"{path.name}: expected YAML, got an error: {' '.join(str(error).split())}") from error
    if not isinstance(document, dict) or document.get("format") != FORMAT:
        raise ConfigError(f"{path.name}: expected a snapshot with format: {FORMAT}; --update writes one")
    samples = document.get("samples")
    if not isinstance(samples, dict) or not all(isinstance(value, dict) for value in samples.values()):
        raise ConfigError(f"{path.name}: samples: expected a sample's name: what it is answered")
    return samples


def differences(
    before: Entry | None, now: Entry, signature: Signature, platforms: Sequence[str], tolerance: float | None
) -> list[str]:
    """What changed, as lines of a diff. platforms: those that were asked now."""
    if before is None:
        return [f"+ {line}" for line in _lines(now)]
    expected, found = _of(before, platforms), _of(now, platforms)
    if _same(expected, found, signature, tolerance):
        return []
    old, new = _lines(expected), _lines(found)
    return [*(f"- {line}" for line in old if line not in new), *(f"+ {line}" for line in new if line not in old)]


def _same(one: Entry, other: Entry, signature: Signature, tolerance: float | None) -> bool:
    if {key: value for key, value in one.items() if key != "answer"} != {
        key: value for key, value in other.items() if key != "answer"
    }:
        return False
    return _same_answer(one.get("answer"), other.get("answer"), signature, tolerance)


def _same_answer(one: Any, other: Any, signature: Signature, tolerance: float | None) -> bool:
    if isinstance(one, Mapping) and isinstance(other, Mapping):  # of many rows
        same_rows = one.get("rows") == other.get("rows")
        rows = [one.get("first"), one.get("all")], [other.get("first"), other.get("all")]
        return same_rows and all(
            _same_answer(left if isinstance(left, list) else [left], right if isinstance(right, list) else [right],
                         signature, tolerance)
            for left, right in zip(*rows, strict=True)
        )  # fmt: skip
    if not isinstance(one, list) or not isinstance(other, list) or len(one) != len(other):
        return bool(one == other)
    return all(_same_row(left, right, signature, tolerance) for left, right in zip(one, other, strict=True))


def _same_row(one: Any, other: Any, signature: Signature, tolerance: float | None) -> bool:
    if not isinstance(one, Mapping) or not isinstance(other, Mapping) or set(one) != set(other):
        return bool(one == other)
    outputs = signature.outputs
    return all(_same_output(one[name], other[name], outputs.get(name), tolerance) for name in one)


def _same_output(one: Any, other: Any, spec: Spec | None, tolerance: float | None) -> bool:
    dtype = spec.dtype if isinstance(spec, Tensor) else ""
    limit = TOLERANCES.get(dtype, DEFAULT_TOLERANCE) if tolerance is None else tolerance
    if _is_summary(one) and _is_summary(other):
        return _same_summary(one, other, limit)
    if dtype in TOLERANCES:
        return not floats(one, other, "", limit)
    return not values(one, other, "", limit)


def _is_summary(value: Any) -> bool:
    return isinstance(value, Mapping) and set(value) >= {"shape", "first", "min", "max", "checks"}


def _same_summary(one: Mapping[str, Any], other: Mapping[str, Any], tolerance: float) -> bool:
    if one["shape"] != other["shape"] or one.get("not_finite") != other.get("not_finite"):
        return False
    figures = [[*each["first"], each["min"], each["max"], each["mean"], *each["checks"]] for each in (one, other)]
    try:
        left, right = (np.asarray(each, np.float64) for each in figures)
    except (TypeError, ValueError):
        return False
    scale = max(abs(float(one["min"])), abs(float(one["max"])), abs(float(other["min"])), abs(float(other["max"])))
    return left.shape == right.shape and bool(
        np.isclose(left, right, rtol=1e-8, atol=CHECK_MARGIN * tolerance * scale, equal_nan=True).all()
    )


def _of(said: Entry, platforms: Sequence[str]) -> Entry:
    reasons = {name: text for name, text in (said.get("not_expressible") or {}).items() if name in platforms}
    rest = {key: value for key, value in said.items() if key != "not_expressible"}
    return rest | ({"not_expressible": reasons} if reasons else {})


def _lines(said: Entry) -> list[str]:
    text: str = yaml.safe_dump(said, sort_keys=False, allow_unicode=True, width=110, default_flow_style=None)
    return text.splitlines()


# --- shortening ---


def _rows(rows: Sequence[Row], signature: Signature) -> Any:
    short = [{name: shortened(value) for name, value in row.items()} for row in rows[:MAX_ROWS]]
    if len(rows) <= MAX_ROWS:
        return short
    columns = {name: shortened([row.get(name) for row in rows]) for name in signature.outputs}
    return {"rows": len(rows), "first": short[:FIRST], "all": columns}


def shortened(value: Any) -> Any:
    """The value, or what stands for one that is too long to read."""
    if isinstance(value, str) and len(value) > MAX_CHARS:
        return {"text": f"{value[:40]}...", "chars": len(value), "sha256": _sha256(value)}
    if isinstance(value, Mapping):
        if _count(value) > MAX_NUMBERS * 4:
            return {"keys": list(value)[:FIRST], "sha256": _sha256(_plain(value))}
        return {str(key): shortened(item) for key, item in value.items()}
    if isinstance(value, list) and _count(value) > MAX_NUMBERS:
        return _many(value)
    return [shortened(item) for item in value] if isinstance(value, list) else value


def _many(value: list[Any]) -> Any:
    try:
        array = np.asarray(value)
    except ValueError:
        array = np.asarray([])
    if array.dtype.kind == "f" and array.size:
        flat = array.astype(np.float64).ravel()
        finite = np.where(np.isfinite(flat), flat, 0.0)
        places = np.arange(flat.size)
        checks = [float(finite @ np.cos(STEP * (k + 1) * places)) / math.sqrt(flat.size) for k in range(CHECKS)]
        return {
            "shape": list(array.shape),
            "first": [float(item) for item in flat[:FIRST]],
            **{name: _short(value) for name, value in zip(("min", "max", "mean"), _spread(finite), strict=True)},
            "checks": [_short(check) for check in checks],
            **({"not_finite": int((~np.isfinite(flat)).sum())} if not np.isfinite(flat).all() else {}),
        }
    first = [shortened(item) for item in value[:FIRST]]
    return {"values": len(value), "first": first, "sha256": _sha256(_plain(value))}


def _spread(array: Any) -> tuple[float, float, float]:
    return float(array.min()), float(array.max()), float(array.mean())


def _short(figure: float) -> float:
    return float(f"{figure:.9g}")


def _count(value: Any) -> int:
    if isinstance(value, Mapping):
        return sum(_count(item) for item in value.values())
    return sum(_count(item) for item in value) if isinstance(value, list) else 1


def _plain(value: Any) -> str:
    return json.dumps(value, sort_keys=True)


def _sha256(text: str) -> str:
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()
