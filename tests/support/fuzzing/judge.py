"""Holds what a server answered against what the reference saw in what it was sent."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass, field

from fuzzing import reference
from fuzzing.reference import Answer, Garbled, Seen, Stream

# Nothing of these may stand in an error, unless the caller sent it.
LEAK = re.compile(
    rb'Traceback|File "|/usr/|/home/|/root/|/tmp/|/work/|/opt/|site-packages|\.py\b|servekit|uvicorn|gunicorn|gevent'
    rb"|httptools|starlette|[Pp]ython|CPython|\bpid\b|0x[0-9a-f]{6,}|Error\(|<class|object at"
)
# Not answers of a server that works: those that only say that it is busy may come.
BUSY = (503, 504)
REQUEST_ID = re.compile(rb"[A-Za-z0-9._:/+=@-]{1,128}")
# Ids that only the fuzzer gives.
OWN_IDS = re.compile(rb"smuggled|probe-[0-9]+")
# What the reference calls bad and a server may read all the same, for nothing about it is in doubt.
LENIENT = {
    "target": "asterisk, absolute and relative targets name no other resource",
    "method": "another method than those of RFC 9110 is refused with 405, if not with 400",
    "empty line": "before a request it says nothing",
    "spaces in the request line": "RFC 9112, 3: a server MAY read lenient whitespace",
    "padded chunk size": "zeros before a size and blanks behind it leave no doubt about it",
    "forbidden trailer": "RFC 9110, 6.5.1: to be ignored",
}


@dataclass(frozen=True)
class Outcome:
    """What came back on one connection. `ended`: the server closed it in time. `reset`: by a reset."""

    got: bytes
    ended: bool
    reset: bool = False


@dataclass
class Verdict:
    findings: list[str] = field(default_factory=list)
    answers: list[Answer] = field(default_factory=list)
    # How the server differed where it may.
    note: str = ""


def judge(data: bytes, outcome: Outcome) -> Verdict:
    """What is wrong with the outcome of sending `data`, if anything."""
    stream = reference.read(data)
    verdict = Verdict()
    try:
        answers = verdict.answers = reference.replies(
            outcome.got, [request.method for request in stream.requests], heads=b"HEAD " in data
        )
    except Garbled as error:
        if outcome.reset:
            verdict.note = "reset"
        elif stream.end == "bad" and stream.why in LENIENT:
            # Behind it are replies to requests of which the reference does not know the methods.
            verdict.note = f"lenient: {stream.why}"
        else:
            verdict.findings.append(f"garbled: {error}")
        return verdict
    if not outcome.ended:
        verdict.findings.append(f"held: neither answered nor closed in time ({stream.end})")
    for answer in answers:
        verdict.findings += wrong(answer, data)
    _count(stream, answers, outcome, verdict)
    for request, answer in zip(stream.requests, answers, strict=False):
        verdict.findings += _mismatch(request, answer)
    return verdict


def wrong(answer: Answer, sent: bytes) -> list[str]:
    """What no reply may be, whatever was asked."""
    findings = []
    if answer.status >= 500 and answer.status not in BUSY:
        findings.append(f"status {answer.status}: {answer.body[:200]!r}")
    if answer.status >= 400:
        text = b"\n".join((*(b"%b: %b" % pair for pair in answer.fields), answer.body))
        findings += [f"leak: {leak!r} in {text!r}" for leak in set(LEAK.findall(text)) if leak not in sent]
    if answer.field(b"server") is not None:
        findings.append(f"names itself: {answer.field(b'server')!r}")
    return findings


def _count(stream: Stream, answers: list[Answer], outcome: Outcome, verdict: Verdict) -> None:
    """As many replies as requests; what is refused is the last."""
    asked, came = len(stream.requests), len(answers)
    refuses = came > 0 and answers[-1].closes and 400 <= answers[-1].status < 500
    if any(answer.closes for answer in answers[:-1]):
        verdict.findings.append("a reply behind one that said that it is the last")
    if stream.end == "open":
        return
    if came < asked:
        if refuses:
            verdict.note = f"stricter: {answers[-1].status}"
        elif outcome.reset:
            verdict.note = "reset"
        else:
            verdict.findings.append(f"lost: {asked} requests, {came} replies")
        return
    if stream.end in ("clean", "last"):
        if came > asked:
            verdict.findings.append(f"smuggled: {asked} requests, {came} replies")
        return
    if came == asked + 1 and refuses:
        return
    if came > asked:
        if stream.end == "bad" and stream.why in LENIENT:
            verdict.note = f"lenient: {stream.why}"
        else:
            verdict.findings.append(f"accepted: {asked} requests, then {stream.end} {stream.why}; {came} replies")


def _mismatch(request: Seen, answer: Answer) -> list[str]:
    """Is this the answer to that request?"""
    findings = []
    given = [value for name, value in request.fields if name in (b"x-request-id", b"x-amzn-sagemaker-inference-id")]
    usable = [value for value in given if REQUEST_ID.fullmatch(value)]
    came = answer.field(b"x-request-id")
    if (
        came is not None
        and came not in given
        and (OWN_IDS.fullmatch(came) or (len(given) == len(usable) == 1 and not answer.closes))
    ):
        findings.append(f"mixed up: the ids {given} came, {came!r} went")
    if answer.status == 200 and request.target.partition(b"?")[0] == b"/invocations":
        total = _total(request)
        if total is not None and answer.field(b"content-type") == b"application/json":
            try:
                said = json.loads(answer.body)["predictions"][0]
            except (ValueError, KeyError, IndexError, TypeError):
                said = None
            if said != total:
                findings.append(f"wrong answer: expected {total} for {request.body!r}, got {answer.body!r}")
    return findings


def _total(request: Seen) -> float | None:
    """The answer to a body of the usual form, if it is one."""
    if any(name == b"content-encoding" for name, _ in request.fields):
        return None
    match = re.fullmatch(rb'\{"instances":\[\[([0-9]),([0-9]),([0-9]),([0-9])\]\]\}', request.body)
    return float(sum(map(int, match.groups()))) if match else None
