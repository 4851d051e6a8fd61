"""The behaviours that clauses name: each takes more than one request, and is the same for all platforms.

A scenario is a function of a trial and its parameters. What it learns once for several clauses is kept by
`Trial.once`. It raises NotChecked when it cannot be tried, and NoAnswer when the container is not there.
"""

from __future__ import annotations

import json
import re
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from servekit.check.trial import NotChecked, Trial, Verdict, answer_in_words, broken, in_words, kept
from servekit.check.wire import NoAnswer
from servekit.errors import ConfigError
from servekit.terms import Expectation, Sample, Seen, Send

# The phases of a container's life, in order. Its image can wait: the start cannot.
START, IMAGE, SERVE, BUSY, STOP = range(5)

PROBE_EVERY_S = 0.05
SETTLE_S = 5.0
QUICK_IDLE_S = 6.0
MAX_SEARCHED_BYTES = 16 * 1024
ERROR_WORDS = re.compile(rb"(?i)(?<![a-z])(?:errors?|exception|traceback|fail(?:ed|ure)|invalid|expected)(?![a-z])")
# Of a body that is announced to be far longer.
FIRST_BYTES = 64 * 1024


@dataclass(frozen=True, slots=True)
class Scenario:
    name: str
    phase: int
    run: Callable[..., Verdict]


_known: dict[str, Scenario] = {}


def scenario(phase: int) -> Callable[[Callable[..., Verdict]], Callable[..., Verdict]]:
    """Make a function known by its name. A platform of another package may add its own."""

    def known(function: Callable[..., Verdict]) -> Callable[..., Verdict]:
        _known[function.__name__] = Scenario(function.__name__, phase, function)
        return function

    return known


def find(name: str) -> Scenario:
    """Raises ConfigError for one that nobody made known."""
    if name not in _known:
        raise ConfigError(f"the terms name a scenario {name!r}, expected one of {', '.join(sorted(_known))}")
    return _known[name]


# --- the start ----------------------------------------------------------------------------------------------------


@dataclass(slots=True)
class Beginning:
    """From the start to the first answer that says ready. before: what the probe said until then, without repetitions.

    said_no: the first answer that said not ready. prediction: what a prediction got that was sent at once after ready;
    None without a sample. settled: a later one was answered as it should be.
    """

    ready_s: float | None = None
    before: list[str] = field(default_factory=list)
    said_no: Seen | None = None
    prediction: Seen | NoAnswer | None = None
    settled: bool = False


def beginning(trial: Trial) -> Beginning:
    return trial.once("beginning", lambda: _begin(trial))


def _begin(trial: Trial) -> Beginning:
    found = Beginning()
    began_s = trial.subject.process.started_s if trial.subject.process is not None else time.monotonic()
    end_s = began_s + trial.ready_within_s
    while time.monotonic() < end_s:
        code = trial.died()
        if code is not None:
            found.before.append(f"it ended with exit code {code}")
            return found
        try:
            seen = trial.ask(trial.terms.probe, timeout_s=min(trial.terms.probe_within_s, end_s - time.monotonic()))
            complaint = trial.terms.ready.complaint(seen)
            if complaint is not None and found.said_no is None:
                found.said_no = seen
        except NoAnswer as error:
            complaint = error.message
        if complaint is None:
            found.ready_s = time.monotonic() - began_s
            if trial.sample is not None:
                _predict_at_once(trial, found)
            return found
        if complaint not in found.before:
            found.before.append(complaint)
        time.sleep(PROBE_EVERY_S)
    return found


def _predict_at_once(trial: Trial, found: Beginning) -> None:
    """And again for a while when that is too early: what comes later should not suffer from it."""
    try:
        send = trial.prediction
    except NotChecked:
        return
    end_s = time.monotonic() + SETTLE_S
    while True:
        answer = attempt(trial, send)
        if found.prediction is None:
            found.prediction = answer
        if isinstance(answer, Seen) and trial.terms.answered.complaint(answer) is None:
            found.settled = True
            return
        refused = isinstance(answer, Seen) and 400 <= answer.status < 500 and answer.status not in (404, 408, 425, 429)
        if refused or time.monotonic() > end_s or trial.died() is not None:
            return
        time.sleep(PROBE_EVERY_S * 2)


def attempt(trial: Trial, send: Send) -> Seen | NoAnswer:
    try:
        return trial.ask(send)
    except NoAnswer as error:
        return error


def require_serving(trial: Trial) -> None:
    """Raises NotChecked when the container never became ready, or is gone."""
    if beginning(trial).ready_s is None:
        raise NotChecked("the container never said that it is ready")
    code = trial.died()
    if code is not None:
        raise NotChecked(f"the container has ended, with exit code {code}")


def require_predicting(trial: Trial) -> Seen:
    """A plain prediction's answer. Raises NotChecked when that is no success."""
    require_serving(trial)

    def predict() -> Seen:
        answer = attempt(trial, trial.prediction)
        if isinstance(answer, NoAnswer) or trial.terms.answered.complaint(answer) is not None:
            raise NotChecked("plain predictions fail already, see the clause about them")
        return answer

    return trial.once("prediction", predict)


@scenario(START)
def becomes_ready(trial: Trial) -> Verdict:
    """The probe says ready within the time that the platform gives."""
    found = beginning(trial)
    sent, expected = (
        in_words(trial.terms.probe),
        f"{trial.terms.ready.text} within {trial.ready_within_s:g} s",
    )
    if found.ready_s is None:
        got = "; ".join(found.before) or "nothing"
        lines = trial.subject.process.output()[-5:] if trial.subject.process is not None else []
        return broken(sent, f"{got}{'; its last lines: ' + ' | '.join(lines) if lines else ''}", expected)
    return kept(sent, f"ready after {found.ready_s:.1f} s", expected)


@scenario(START)
def ready_means_ready(trial: Trial) -> Verdict:
    """A prediction sent right after the first answer that says ready succeeds."""
    require_serving(trial)
    sent = f"{in_words(trial.prediction)}, right after {in_words(trial.terms.probe)} said ready for the first time"
    expected = trial.terms.answered.text
    found = beginning(trial)
    match found.prediction:
        case None:
            raise NotChecked("the sample came too late")
        case Seen() as seen if trial.terms.answered.complaint(seen) is None:
            return kept(sent, answer_in_words(seen), expected)
        case _ if not found.settled:
            raise NotChecked("plain predictions fail later, too, see the clause about them")
        case NoAnswer() as error:
            return broken(sent, f"{error.message}; later ones were answered", expected)
        case Seen() as seen:
            complaint = trial.terms.answered.complaint(seen)
            return broken(sent, f"{complaint}; the answer was {answer_in_words(seen)}; later ones were good", expected)


@scenario(START)
def waits_with_its_answer(trial: Trial) -> Verdict:
    """Until the model is loaded the probe gets no answer, instead of one that says not ready."""
    require_serving(trial)
    found = beginning(trial)
    sent, expected = in_words(trial.terms.probe), f"{trial.terms.ready.text} as its first answer"
    if found.said_no is not None:
        return broken(sent, f"{answer_in_words(found.said_no)} first", expected)
    return kept(sent, f"the first answer, {found.ready_s or 0:.1f} s after the start, said ready", expected)


# --- the work -------------------------------------------------------------------------------------------------------


@scenario(SERVE)
def same_in_chunks(trial: Trial) -> Verdict:
    """A body in chunks gets the answer that the same body gets with a Content-Length."""
    first = require_predicting(trial)
    chunked = replace(trial.prediction, chunked=True)
    second = trial.ask(chunked)
    expected = f"the answer that it gets with Content-Length: {answer_in_words(first)}"
    same = (first.status, _value(first)) == (second.status, _value(second))
    # Some models never say the same twice.
    if not same and first.status == second.status:
        same = _value(trial.ask(trial.prediction)) != _value(first)
    return (kept if same else broken)(in_words(chunked), answer_in_words(second), expected)


@scenario(SERVE)
def takes_bodies_of(trial: Trial, *, nbytes: int, shorter: int | None = None) -> Verdict:
    """A prediction whose body is as long as the platform lets it be is taken. shorter: a limit that comes first."""
    require_predicting(trial)
    if shorter is not None and _long_body(trial, shorter)[1] is not None:
        raise NotChecked(f"a body of {shorter} bytes is not taken either, see the clause about it")
    send, complaint = _long_body(trial, nbytes)
    expected = "a success" if _takes_json(send) else "an answer that is not 413"
    return broken(in_words(send), complaint, expected) if complaint is not None else kept(in_words(send), expected)


def _takes_json(send: Send) -> bool:
    return dict(send.headers).get("Content-Type", "").partition(";")[0].strip().lower() == "application/json"


def _long_body(trial: Trial, nbytes: int) -> tuple[Send, str | None]:
    """What is wrong with the answer to one."""

    def complaint() -> tuple[Send, str | None]:
        plain = trial.prediction
        # White space behind a document changes nothing; other forms may be refused, but not for their length.
        filler = b" " if _takes_json(plain) else b"\0"
        send = replace(plain, body=plain.body + filler * max(0, nbytes - len(plain.body)))
        answer = attempt(trial, send)
        if isinstance(answer, NoAnswer):
            return send, answer.message
        wrong = trial.terms.answered.complaint(answer) is not None if _takes_json(plain) else answer.status == 413
        return send, answer_in_words(answer) if wrong else None

    return trial.once(f"a body of {nbytes}", complaint)


@scenario(SERVE)
def refuses_absurd_bodies(trial: Trial, *, nbytes: int, within_s: float) -> Verdict:
    """A body of absurd length is refused before it has come: it is announced, and its beginning sent."""
    require_serving(trial)
    send = trial.prediction
    sent = f"{send.method} {send.path} -H Content-Length: {nbytes} with {FIRST_BYTES} bytes and no more"
    expected = f"a refusal, such as 413, within {within_s:g} s"
    with trial.wire(timeout_s=within_s) as wire:
        try:
            wire.begin(replace(send, body=b""), length=nbytes)
            wire.write(b" " * FIRST_BYTES)
            seen = wire.answer(send, timeout_s=within_s)
        except NoAnswer as error:
            if error.kind == "timeout":
                return broken(sent, "nothing: it waits for the rest", expected)
            return kept(sent, error.message, expected)
    return (kept if seen.status >= 400 else broken)(sent, answer_in_words(seen), expected)


@scenario(SERVE)
def takes_parameters(trial: Trial) -> Verdict:
    """A media type with a parameter is the same media type."""
    first = require_predicting(trial)
    plain = trial.prediction
    kind = dict(plain.headers).get("Content-Type", "")
    if ";" in kind or not kind.startswith(("application/json", "text/")):
        raise NotChecked(f"{kind} has no charset: it needs a sample of JSON or of text")
    send = replace(plain, headers=(("Content-Type", f"{kind}; charset=utf-8"),))
    expected = f"the status that it gets without: {first.status}"
    seen = trial.ask(send)
    return (kept if seen.status == first.status else broken)(in_words(send), answer_in_words(seen), expected)


@scenario(SERVE)
def says_what_it_sends(trial: Trial) -> Verdict:
    """An answer's Content-Type is that of its body."""
    seen = require_predicting(trial)
    sent, expected = in_words(trial.prediction), "the body's own Content-Type"
    kind = (seen.header("content-type") or "").partition(";")[0].strip().lower()
    if not kind and seen.body:
        return broken(sent, "no Content-Type", expected)
    is_json = kind == "application/json" or kind.endswith("+json")
    if (is_json and not _is_json(seen.body)) or (kind == "text/html" and not seen.body.lstrip().startswith(b"<")):
        return broken(sent, f"Content-Type {kind} with the body {answer_in_words(seen)}", expected)
    return kept(sent, answer_in_words(seen), expected)


@scenario(SERVE)
def keeps_connections(trial: Trial, *, idle_s: float, requests: int = 3) -> Verdict:
    """A connection takes several requests, and stays open when nobody asks anything for a while."""
    require_serving(trial)
    waited_s = idle_s if trial.slow else min(idle_s, QUICK_IDLE_S)
    sent = f"{requests} times {in_words(trial.terms.probe)} on one connection, {waited_s:g} s of silence, and once more"
    rest = "" if waited_s >= idle_s else " (the whole time: --slow)"
    expected = f"a connection that stays open for {idle_s:g} s{rest}"
    with trial.wire() as wire:
        for number in range(1, requests + 1):
            try:
                seen = wire.ask(trial.terms.probe)
            except NoAnswer as error:
                if number == 1:
                    raise
                return broken(sent, f"request {number}: {error.message}", expected)
            if seen.closes:
                return broken(sent, f"the connection was closed after answer {number}", expected)
            announced = _announced_s(seen)
            if announced is not None and announced < idle_s:
                return broken(sent, f"Keep-Alive: timeout={announced:g}", expected)
        began_s = time.monotonic()
        if not wire.is_open(waited_s):
            return broken(
                sent, f"the connection was closed after {time.monotonic() - began_s:.1f} s of silence", expected
            )
        try:
            wire.ask(trial.terms.probe)
        except NoAnswer as error:
            return broken(sent, f"after {waited_s:g} s of silence: {error.message}", expected)
    return kept(sent, f"open after {waited_s:g} s", expected)


def _announced_s(seen: Seen) -> float | None:
    for part in (seen.header("keep-alive") or "").split(","):
        name, _, value = part.strip().partition("=")
        if name.lower() == "timeout" and value.isdigit():
            return float(value)
    return None


def _value(seen: Seen) -> Any:
    """What an answer means: two that are written differently may say the same."""
    try:
        return json.loads(seen.body)
    except ValueError:
        return seen.body


def _is_json(body: bytes) -> bool:
    try:
        json.loads(body)
    except ValueError:
        return False
    return True


# --- what it refuses ------------------------------------------------------------------------------------------------


def spoilt(sample: Sample) -> Sample | None:
    """A sample that no model can take: its documents are cut off, its pictures are none. None where anything goes."""
    body = _spoilt(sample.content_type)
    files = {name: _spoilt(_kind(content, sample.content_type)) for name, content in sample.files.items()}
    if body is None and not any(content is not None for content in files.values()):
        return None
    kept_files = {name: sample.files[name] if content is None else content for name, content in files.items()}
    return replace(sample, body=sample.body if body is None else body, files=kept_files)


def _kind(content: bytes, otherwise: str) -> str:
    if content[:1] in (b"{", b"[") and _is_json(content):
        return "application/json"
    if content.startswith((b"\x89PNG", b"\xff\xd8\xff", b"GIF8", b"RIFF")):
        return "image/any"
    return otherwise if not otherwise.startswith(("application/json", "image/")) else ""


def _spoilt(content_type: str) -> bytes | None:
    kind = content_type.partition(";")[0].strip().lower()
    if kind == "application/json" or kind.endswith("+json"):
        return b'{"servekit-check": '
    if kind.startswith("image/") or kind in ("application/x-npy", "multipart/form-data"):
        return b"servekit-check"
    return None


@dataclass(frozen=True, slots=True)
class Refusal:
    """What a request got that cannot succeed. certain: no model may take it."""

    send: Send
    answer: Seen | NoAnswer
    certain: bool = True


def refusals(trial: Trial) -> list[Refusal]:
    """Raises NotChecked."""

    def refuse() -> list[Refusal]:
        require_predicting(trial)
        sample = trial.sample
        assert sample is not None  # noqa: S101 - there was a prediction
        sends = []
        bad = spoilt(sample)
        if bad is not None:
            sends.append((trial.terms.predict(trial.job(bad) if trial.terms.moves_files else bad), True))
        if not trial.terms.moves_files:
            strange = Sample(b"\x00\x01servekit-check", "application/x-servekit-check")
            sends.append((replace(trial.prediction, headers=_typed(strange), body=strange.body), False))
        return [Refusal(send, attempt(trial, send), certain) for send, certain in sends]

    return trial.once("refusals", refuse)


def _typed(sample: Sample) -> tuple[tuple[str, str], ...]:
    return (("Content-Type", sample.content_type),)


@scenario(SERVE)
def refuses_bad_input(trial: Trial) -> Verdict:
    """What no model can take gets no success that says in its body that it was none."""
    expected = "a status of at least 400"
    certain = [refusal for refusal in refusals(trial) if refusal.certain]
    if not certain:
        assert trial.sample is not None  # noqa: S101 - there was a prediction
        raise NotChecked(f"nobody knows what is bad input where {trial.sample.content_type} is good")
    good = require_predicting(trial)
    for refusal in certain:
        answer = refusal.answer
        if isinstance(answer, NoAnswer) or answer.status >= 400:
            continue
        if looks_like_an_error(answer) and not looks_like_an_error(good):
            return broken(in_words(refusal.send), answer_in_words(answer), expected)
        raise NotChecked(f"bad input got status {answer.status} and no word of an error: perhaps anything goes here")
    return kept(in_words(certain[0].send), _said(certain[0].answer), expected)


def looks_like_an_error(seen: Seen) -> bool:
    return ERROR_WORDS.search(seen.body[:MAX_SEARCHED_BYTES]) is not None


@scenario(SERVE)
def blames_the_caller(trial: Trial, *, statuses: Sequence[int] = range(400, 500)) -> Verdict:
    """Bad input is answered with a status that says so, not with one that says the server failed."""
    found = refusals(trial)
    expected = (
        f"a status from {statuses[0]} to {statuses[-1]}"
        if isinstance(statuses, range)
        else f"status {' or '.join(map(str, statuses))}"
    )
    for refusal in found:
        answer = refusal.answer
        if isinstance(answer, NoAnswer) or (answer.status >= 400 and answer.status not in statuses):
            return broken(in_words(refusal.send), _said(answer), expected)
    if not found:
        raise NotChecked("nobody knows what is bad input here")
    return kept("; ".join(in_words(refusal.send) for refusal in found), _said(found[0].answer), expected)


@scenario(SERVE)
def refuses_in_form(trial: Trial, *, form: Expectation) -> Verdict:
    """The answer to bad input has the form that errors have."""
    errors = [
        refusal for refusal in refusals(trial) if isinstance(refusal.answer, Seen) and refusal.answer.status >= 400
    ]
    if not errors:
        raise NotChecked("no request was refused")
    for refusal in errors:
        assert isinstance(refusal.answer, Seen)  # noqa: S101 - only those were taken
        complaint = form.complaint(refusal.answer)
        if complaint is not None:
            return broken(in_words(refusal.send), f"{complaint} with status {refusal.answer.status}", form.text)
    return kept(in_words(errors[0].send), _said(errors[0].answer), form.text)


def _said(answer: Seen | NoAnswer) -> str:
    return answer.message if isinstance(answer, NoAnswer) else answer_in_words(answer)


# --- files that it writes -------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Written:
    """What one prediction left: names in the folder for results, and those that it should have left alone."""

    send: Send
    results: dict[str, str]
    strewn: list[str]


def written(trial: Trial) -> Written:
    def write() -> Written:
        require_predicting(trial)
        assert trial.sample is not None  # noqa: S101 - there was a prediction
        job = trial.job(trial.sample)
        before = _listed(Path(job.input))
        send = trial.terms.predict(job)
        answer = attempt(trial, send)
        if isinstance(answer, NoAnswer) or trial.terms.answered.complaint(answer) is not None:
            raise NotChecked("the same prediction fails in another folder, see the clause about them")
        after = _listed(Path(job.input))
        strewn = [name for name in {*before, *after} if before.get(name) != after.get(name)]
        beside = [path.name for path in Path(job.input).parent.iterdir() if path.name not in ("input", "output")]
        return Written(send, _listed(Path(job.output)), sorted(strewn + beside))

    return trial.once("written", write)


def _listed(folder: Path) -> dict[str, str]:
    """Names, and what they are: `file`, or a size for those that hold something, or another word."""
    return {
        path.name: f"file of {path.stat().st_size} bytes" if path.is_file() and not path.is_symlink() else "no file"
        for path in folder.iterdir()
    }


@scenario(SERVE)
def writes_results(trial: Trial) -> Verdict:
    """A prediction that says success has written its files where it was told to."""
    found = written(trial)
    names = trial.terms.outputs
    expected = f"the file{'s' if len(names) > 1 else ''} {', '.join(names)}" if names else "a file at least"
    got = ", ".join(f"{name} ({kind})" for name, kind in sorted(found.results.items())) or "nothing"
    missing = [name for name in names if not found.results.get(name, "").startswith("file")]
    if missing or not any(kind.startswith("file") for kind in found.results.values()):
        return broken(in_words(found.send), f"{got} in the output folder", f"{expected} there")
    return kept(in_words(found.send), got, f"{expected} in the output folder")


@scenario(SERVE)
def writes_nowhere_else(trial: Trial) -> Verdict:
    """What it was given is as it was, and nothing lies beside it."""
    found = written(trial)
    expected = "an input folder as it was"
    if found.strewn:
        return broken(in_words(found.send), f"other or new: {', '.join(found.strewn)}", expected)
    return kept(in_words(found.send), "as it was", expected)


@scenario(SERVE)
def makes_the_folder(trial: Trial) -> Verdict:
    """A folder for results that is not there yet is made."""
    require_predicting(trial)
    assert trial.sample is not None  # noqa: S101 - there was a prediction
    job = trial.job(trial.sample)
    new = Path(job.output) / "not" / "there"
    send = trial.terms.predict(replace(job, output=str(new)))
    expected = f"{trial.terms.answered.text}, and files in {new}"
    seen = trial.ask(send)
    complaint = trial.terms.answered.complaint(seen)
    if complaint is None and not (new.is_dir() and any(new.iterdir())):
        complaint = "nothing in that folder"
    if complaint is not None:
        return broken(in_words(send), f"{complaint}; the answer was {answer_in_words(seen)}", expected)
    return kept(in_words(send), answer_in_words(seen), expected)


# --- its log --------------------------------------------------------------------------------------------------------


@scenario(BUSY)
def writes_a_log(trial: Trial) -> Verdict:
    """It has written something to its standard output or standard error by now."""
    require_serving(trial)
    process = trial.subject.process
    if process is None:
        raise NotChecked("it needs a container that is started here: --command or --image")
    expected = "something on its standard output or standard error"
    nbytes = process.output_nbytes()
    return (kept if nbytes else broken)("its start and all requests until now", f"{nbytes} bytes", expected)


# --- what it declares -----------------------------------------------------------------------------------------------


@scenario(IMAGE)
def file_is_right(trial: Trial, *, name: str, complaint: Callable[[bytes], str | None]) -> Verdict:
    """A file in which the container describes itself is what the platform takes."""
    found = complaint(_described(trial, name))
    return broken(name, found, f"a {name} that the platform takes") if found is not None else kept(name, "it is right")


@scenario(SERVE)
def serves_what_it_declares(
    trial: Trial, *, name: str, routes: Callable[[bytes], Sequence[tuple[str, str]]]
) -> Verdict:
    """Every route that a file declares is there."""
    declared = routes(_described(trial, name))
    require_serving(trial)
    if not declared:
        raise NotChecked(f"{name} declares no routes, or cannot be read")
    expected = "neither 404 nor 405"
    for method, path in declared:
        send = Send(method, path)
        if method == "POST":
            sample = trial.sample
            send = (
                replace(trial.prediction, path=path)
                if sample is not None
                else Send(method, path, (("Content-Type", "application/json"),), b"{}")
            )
        answer = attempt(trial, send)
        if isinstance(answer, NoAnswer) or answer.status in (404, 405, 501):
            return broken(in_words(send), _said(answer), expected)
    words = ", ".join(f"{method} {path}" for method, path in declared)
    return kept(words, "all are there", expected)


def _described(trial: Trial, name: str) -> bytes:
    content = trial.files.get(name)
    if content is None:
        raise NotChecked(f"it needs the container's {name}: --file {name}=FILE, or --image with the file in it")
    return content


@scenario(IMAGE)
def image_is_right(trial: Trial, *, complaint: Callable[[Any], str | None], expected: str) -> Verdict:
    """What the image says of itself is what the platform looks for."""
    image = trial.subject.image
    if image is None:
        raise NotChecked("it needs the image: --image TAG")
    found = complaint(image)
    return broken("the image", found, expected) if found is not None else kept("the image", expected, expected)
