"""Every sample through every platform, one platform after the other, so that one copy of the model is in memory."""

from __future__ import annotations

import tempfile
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from servekit.contract import Platform, Reply, Request
from servekit.dispatch import Dispatcher, body_too_large
from servekit.errors import ConfigError, LoadFailed
from servekit.launch.service import Parts, Plan, assemble
from servekit.launch.target import load_class, locate
from servekit.parity import forms
from servekit.parity.answers import Answered, Failed, NotExpressible, Outcome
from servekit.parity.compare import differences
from servekit.parity.forms import Door, Header
from servekit.parity.samples import OK, Sample
from servekit.parity.served import START_TIMEOUT_S, Served, ready_path
from servekit.predictor import Predictor
from servekit.signature import Signature

STOP_TIMEOUT_S = 5.0
REQUEST_TIMEOUT_S = 60.0

Step = Callable[[str, str], None]


@dataclass(frozen=True, slots=True)
class Subject:
    """What is asked. model_dir: what `load` receives; search: where the platforms' own files are looked for."""

    text: str
    predictor: type[Predictor]
    signature: Signature
    model_dir: Path
    search: tuple[Path, ...]


@dataclass(frozen=True, slots=True)
class Compared:
    """One sample: what each platform answered, and where they disagree, or with what the sample expects."""

    sample: Sample
    outcomes: Mapping[str, Outcome]
    complaints: list[str] = field(default_factory=list)

    @property
    def equal(self) -> bool:
        return not self.complaints


def subject(target: str, model_dir: Path | None, cwd: Path) -> Subject:
    """The code is imported, the model is not loaded. Raises ConfigError, LoadFailed."""
    directory = None if model_dir is None else model_dir.resolve()
    if directory is not None and not directory.is_dir():
        raise ConfigError(f"--model-dir: expected a directory, got {str(model_dir)!r}")
    located = locate(target, directory, cwd)
    predictor = load_class(located)
    search = tuple(dict.fromkeys((*([directory] if directory else []), located.directory)))
    return Subject(target, predictor, Signature(predictor.inputs, predictor.outputs), search[0], search)


def site(what: Subject, platform: Platform, name: str) -> tuple[forms.Site, Parts]:
    """Raises ConfigError where the platform cannot serve this predictor, NoRoute where there is nothing to ask."""
    plan = Plan(platforms=[platform], model_dir=what.model_dir, search=what.search, request_timeout_s=REQUEST_TIMEOUT_S)
    parts = assemble(what.predictor, plan)
    routes = [route for mount in parts.dispatcher.mounted for route in mount.routes]
    return forms.site(name, routes, what.signature, what.search), parts


def run(
    what: Subject, platforms: Mapping[str, Platform], samples: Sequence[Sample], *, served: bool = False,
    tolerance: float | None = None, step: Step | None = None,
) -> list[Compared]:  # fmt: skip
    """step is told the platform and the sample before each. Raises ConfigError, LoadFailed, NotServing."""
    outcomes: dict[str, dict[str, Outcome]] = {sample.name: {} for sample in samples}
    for name, platform in platforms.items():
        try:
            where, parts = site(what, platform, name)
        except forms.NoRoute as error:
            for sample in samples:
                outcomes[sample.name][name] = NotExpressible(error.message)
            continue
        with _served(what, name, parts) if served else _pure(parts) as door:
            for sample in samples:
                if step is not None:
                    step(name, sample.name)
                with tempfile.TemporaryDirectory(prefix="servekit-parity-") as folder:
                    outcomes[sample.name][name] = forms.ask(door, where, sample, Path(folder).resolve())
    return [compared(sample, outcomes[sample.name], what.signature, tolerance) for sample in samples]


def compared(
    sample: Sample, outcomes: Mapping[str, Outcome], signature: Signature, tolerance: float | None
) -> Compared:
    """All against the first that answered or failed."""
    said = {name: outcome for name, outcome in outcomes.items() if not isinstance(outcome, NotExpressible)}
    complaints: list[str] = []
    names = list(said)
    for name in names[1:]:
        complaints += _between(names[0], said[names[0]], name, said[name], signature, tolerance)
    allowed = [outcome.kinds for outcome in said.values() if isinstance(outcome, Failed)]
    if len(allowed) > 2 and not complaints and not frozenset.intersection(*allowed):
        complaints.append("the kinds of errors have nothing in common: " + ", ".join(map(str, said.values())))
    for name, outcome in said.items():
        if sample.expect and not _is(outcome, sample.expect):
            complaints.append(f"{name}: expected {sample.expect}, got {words(outcome)}")
    return Compared(sample, outcomes, complaints)


def _is(outcome: Outcome, expected: str) -> bool:
    return expected in outcome.kinds if isinstance(outcome, Failed) else expected == OK


def _between(
    first: str, one: Outcome, second: str, other: Outcome, signature: Signature, tolerance: float | None
) -> list[str]:
    if isinstance(one, Answered) and isinstance(other, Answered):
        found = differences(one.rows, other.rows, signature, tolerance)
        return [f"{first} and {second}: {text}" for text in found]
    if isinstance(one, Failed) and isinstance(other, Failed) and one.kinds & other.kinds:
        return []
    return [f"{first}: {words(one)}", f"{second}: {words(other)}"]


def words(outcome: Outcome) -> str:
    match outcome:
        case Answered():
            return f"answered, {len(outcome.rows)} row{'s' * (len(outcome.rows) != 1)}"
        case Failed():
            return f"{outcome} ({outcome.status}: {outcome.message})"
        case NotExpressible():
            return f"not expressible: {outcome.reason}"


# --- doors ---


class Pure:
    """Without a socket, as `servekit.testing.Client` goes."""

    def __init__(self, dispatcher: Dispatcher) -> None:
        self._dispatcher = dispatcher

    def ask(self, method: str, path: str, headers: Sequence[Header] = (), body: bytes = b"") -> Reply:
        raw = [(name.lower().encode(), value.encode("latin-1", "replace")) for name, value in headers]
        head = Request(method, path, headers=raw, id=self._dispatcher.request_id(raw), peer="127.0.0.1")
        limit = self._dispatcher.max_body_bytes
        if len(body) > limit:
            return self._dispatcher.refuse(head, body_too_large(limit, str(len(body))))
        exchange = self._dispatcher.begin(Request(method, path, "", raw, body, head.id, head.peer))
        done = threading.Event()
        exchange.start(done.set)
        if not done.wait(exchange.left_s):
            exchange.expire()
        reply = exchange.finish()
        exchange.sent()
        return reply


@contextmanager
def _pure(parts: Parts) -> Iterator[Door]:
    parts.performer.batcher.start()
    try:
        ended = threading.Event()
        parts.loader.load(lambda _error: ended.set())
        if not ended.wait(START_TIMEOUT_S):
            raise LoadFailed(f"the model did not load within {START_TIMEOUT_S:g} s")
        if parts.loader.error is not None:
            raise parts.loader.error
        yield Pure(parts.dispatcher)
    finally:
        parts.performer.batcher.stop(STOP_TIMEOUT_S)


@contextmanager
def _served(what: Subject, platform: str, parts: Parts) -> Iterator[Door]:
    routes = [route for mount in parts.dispatcher.mounted for route in mount.routes]
    options = ("--workers", "1", "--model-dir", str(what.model_dir))
    with Served(what.text, platform, ready_path(routes), *options) as server:
        yield server
