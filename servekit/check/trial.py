"""What a scenario has at hand: the container, the platform's terms, the sample; and what it says in the end."""

from __future__ import annotations

import enum
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, TypeVar

from servekit.check.subject import Subject
from servekit.check.wire import NoAnswer, Wire, ask
from servekit.terms import Sample, Seen, Send, Terms

Record = TypeVar("Record")
MAX_SHOWN_CHARS = 300
STARTED_BEFORE_S = 10.0
TOO_LATE_S = 10.0


class Result(enum.StrEnum):
    """not checked: it could not be tried, and nobody knows."""

    KEPT = "kept"
    BROKEN = "broken"
    NOT_CHECKED = "not checked"


@dataclass(frozen=True, slots=True)
class Verdict:
    """sent, got, expected: in words. reason: why it was not checked."""

    result: Result
    sent: str = ""
    got: str = ""
    expected: str = ""
    reason: str = ""


class NotChecked(Exception):
    """It cannot be tried here; the reason, in words that say what would help."""


@dataclass(slots=True)
class Trial:
    """files: those in which the container describes itself. slow: there is time for minutes of waiting.

    wait_s: how long it may take to become ready, where that is not the platform's time.
    """

    subject: Subject
    terms: Terms
    sample: Sample | None = None
    slow: bool = False
    files: Mapping[str, bytes] = field(default_factory=dict)
    wait_s: float | None = None
    _records: dict[str, Any] = field(default_factory=dict)

    @property
    def ready_within_s(self) -> float:
        if self.wait_s is not None:
            return self.wait_s
        # What is behind a URL was started before.
        return self.terms.start.ready_within_s if self.subject.process is not None else STARTED_BEFORE_S

    def ask(self, send: Send, *, timeout_s: float | None = None) -> Seen:
        """On a connection of its own. Raises NoAnswer."""
        return ask(self.subject.address, send, timeout_s=self.answer_s if timeout_s is None else timeout_s)

    def wire(self, *, timeout_s: float | None = None) -> Wire:
        return Wire(self.subject.address, timeout_s=self.answer_s if timeout_s is None else timeout_s)

    @property
    def answer_s(self) -> float:
        """How long an answer is waited for: longer than the platform does, to see what it does not."""
        return self.terms.answer_within_s + TOO_LATE_S

    @property
    def prediction(self) -> Send:
        """The sample, as this platform sends it. Raises NotChecked."""
        return self.terms.predict(self.given_sample)

    @property
    def given_sample(self) -> Sample:
        if self.sample is None:
            raise NotChecked("it needs a request that must succeed: give one by --sample FILE")
        sample = self.sample
        return self.once("job", lambda: self.job(sample)) if self.terms.moves_files else sample

    def job(self, sample: Sample) -> Sample:
        """The sample in a folder of its own, with an empty one for its results. Raises NotChecked."""
        if self.subject.folder is None:
            raise NotChecked("data moves through files here, so the container must be on this machine")
        room = Path(tempfile.mkdtemp(prefix="job-", dir=self.subject.folder))
        room.chmod(0o777)
        for name, mode in (("input", 0o755), ("output", 0o777)):
            (room / name).mkdir()
            # The container may be another user.
            (room / name).chmod(mode)
        for name, content in sample.files.items():
            (room / "input" / name).write_bytes(content)
            (room / "input" / name).chmod(0o644)
        return replace(sample, input=str(room / "input"), output=str(room / "output"))

    def died(self, within_s: float = 0.0) -> int | None:
        """The exit code of a container that has ended, if it was started here."""
        return self.subject.process.wait(within_s) if self.subject.process is not None else None

    def knows(self, name: str) -> bool:
        return name in self._records

    def once(self, name: str, make: Callable[[], Record]) -> Record:
        """What several clauses look at is done once. An exception is kept, too."""
        if name not in self._records:
            try:
                self._records[name] = make()
            except (NotChecked, NoAnswer) as error:
                self._records[name] = error
        record: Any = self._records[name]
        if isinstance(record, (NotChecked, NoAnswer)):
            raise record
        found: Record = record
        return found


# --- words ---


def kept(sent: str = "", got: str = "", expected: str = "") -> Verdict:
    return Verdict(Result.KEPT, sent, got, expected)


def broken(sent: str, got: str, expected: str) -> Verdict:
    return Verdict(Result.BROKEN, sent, got, expected)


def in_words(send: Send) -> str:
    """A request, as a reader would type it."""
    headers = "".join(f" -H {name}: {value}" for name, value in send.headers)
    body = f" with {len(send.body)} bytes{' in chunks' if send.chunked else ''}" if send.body else ""
    if 0 < len(send.body) <= MAX_SHOWN_CHARS:
        body += f" {shown(send.body)}"
    return f"{send.method} {send.path}{headers}{body}"


def answer_in_words(seen: Seen) -> str:
    kind = seen.header("content-type")
    return f"{seen.status}{f' {kind}' if kind else ''}, {len(seen.body)} bytes {shown(seen.body)}, {seen.seconds:.2f} s"


def shown(body: bytes) -> str:
    text = body[:MAX_SHOWN_CHARS].decode("utf-8", "backslashreplace")
    text = "".join(character if character.isprintable() else " " for character in text)
    return f"{text}..." if len(body) > MAX_SHOWN_CHARS else text
