"""A server, inputs, and the tally: what `tests/fuzz` runs with few inputs and `scripts/fuzz` with many."""

from __future__ import annotations

import asyncio
import os
import re
import time
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from serving import Server, serve

from fuzzing import client
from fuzzing.corpus import ANSWER, CLOSE, HOST, WHOLE
from fuzzing.judge import Outcome, judge
from fuzzing.mutate import input_of
from fuzzing.reference import replies
from servekit.launch.settings import BY_NAME

PREDICTORS = Path(__file__).parents[2] / "fuzz" / "predictors.py"
KINDS = {
    "fast lane": ("--worker", "uvicorn"),
    "uvicorn": ("--worker", "uvicorn", "--no-fast-lane"),
    "gevent": ("--worker", "gevent"),
}
# Short, so that what does not end by itself ends soon. Only those that there are.
QUICK = {"header_timeout_s": "1", "keep_alive_s": "1", "body_timeout_s": "2", "body_grace_s": "1"}
MAX_FINDINGS = 20
MAX_HASTY = 1000
TROUBLE = re.compile(r"^\d\d:\d\d:\S+ (?:ERROR|CRITICAL) .*(?:\n(?!\d\d:\d\d:).*)*", re.MULTILINE)


@dataclass
class Tally:
    """What came of a campaign. findings: (number of the input, the input, what was wrong with the outcome)."""

    inputs: int = 0
    statuses: Counter[int] = field(default_factory=Counter)
    notes: Counter[str] = field(default_factory=Counter)
    findings: list[tuple[int, bytes, str]] = field(default_factory=list)
    unanswered: int = 0
    seconds: float = 0.0
    grew_kib: int = 0

    def summary(self) -> str:
        statuses = " ".join(f"{status}:{count}" for status, count in sorted(self.statuses.items()))
        notes = ", ".join(f"{note} {count}" for note, count in sorted(self.notes.items()) if count) or "none"
        rate = self.inputs / self.seconds if self.seconds else 0
        return (
            f"{self.inputs} inputs in {self.seconds:.0f} s ({rate:.0f}/s), replies {statuses}; closed without a reply "
            f"{self.unanswered}; differences that are allowed: {notes}; memory {self.grew_kib:+d} KiB; "
            f"findings {len(self.findings)}"
        )

    def report(self, most: int = 20) -> str:
        """The first findings, each with its input, as it can be repeated with `scripts/fuzz --show`."""
        lines = [f"input {number}: {finding}\n    {data[:300]!r}" for number, data, finding in self.findings[:most]]
        return "\n".join([self.summary(), *lines])


def quick_options() -> list[str]:
    return [word for name, value in QUICK.items() if name in BY_NAME for word in (BY_NAME[name].flag, value)]


@contextmanager
def fuzzed(kind: str, target: str | None = None, environ: Mapping[str, str] | None = None) -> Iterator[Server]:
    """A server of one worker whose patience is short."""
    options = [*KINDS[kind], "--workers", "1", "--log-format", "text", *quick_options()]
    with serve(target or f"{PREDICTORS}:Sum", *options, platform="sagemaker", environ=environ) as server:
        yield server


def workers(server: Server) -> set[int]:
    """The process ids of the workers: the children of the process that was started."""
    found = set()
    for status in Path("/proc").glob("[0-9]*/stat"):
        try:
            parent = int(status.read_text().rpartition(")")[2].split()[1])
        except (OSError, IndexError):
            continue  # it has ended meanwhile
        if parent == server.process.pid:
            found.add(int(status.parent.name))
    return found


def resident_kib(pids: set[int]) -> int:
    page_kib = os.sysconf("SC_PAGE_SIZE") // 1024
    return sum(int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * page_kib for pid in pids)


def troubles(server: Server) -> list[str]:
    """What the log calls an error, each with the lines behind it. What callers do wrong is a warning at most."""
    return [f"{found[0]}"[:2000] for found in TROUBLE.finditer(server.log)][:5]


def answers_well(server: Server) -> bool:
    """Does the server give the right answer to a good request?"""
    outcome = asyncio.run(client.exchange(server.port, [WHOLE.replace(HOST, HOST + CLOSE, 1)]))
    got = replies(outcome.got, [b"POST"])
    return len(got) == 1 and got[0].status == 200 and got[0].body == ANSWER


def bombard(
    server: Server, numbers: Sequence[int], *, seed: int = 0, connections: int = 256, max_findings: int = MAX_FINDINGS
) -> Tally:
    """Send these inputs and judge what comes back; then see whether the server is what it was."""
    tally = Tally()
    # What a client also sees that was too slow for the server's short patience: tried once more, alone.
    hasty: list[tuple[int, bytes, str]] = []
    before = workers(server)
    before_kib = resident_kib(before)

    def use(number: int, data: bytes, outcome: Outcome) -> bool:
        tally.inputs += 1
        verdict = judge(data, outcome)
        tally.statuses.update(answer.status for answer in verdict.answers)
        tally.unanswered += not verdict.answers
        if verdict.note:
            tally.notes[verdict.note] += 1
        for finding in verdict.findings:
            (hasty if finding.startswith(("lost", "held")) else tally.findings).append((number, data, finding))
        return len(tally.findings) < max_findings and len(hasty) < MAX_HASTY

    started_s = time.monotonic()
    inputs = ((number, input_of(seed, number)) for number in numbers)
    asyncio.run(client.each(server.port, inputs, use, connections=connections))
    tally.seconds = time.monotonic() - started_s
    for number, data, finding in hasty:
        again = judge(data, asyncio.run(client.exchange(server.port, input_of(seed, number))))
        tally.findings += [(number, data, found) for found in again.findings]
        tally.notes[f"not repeated: {finding[:4]}"] += not again.findings
    if server.process.poll() is not None:
        tally.findings.append((-1, b"", f"the server ended with {server.process.returncode}"))
        return tally
    after = workers(server)
    if after != before:
        tally.findings.append((-1, b"", f"workers died: {before} became {after}"))
        return tally
    tally.grew_kib = resident_kib(after) - before_kib
    if not answers_well(server):
        tally.findings.append((-1, b"", "a good request is not answered well afterwards"))
    tally.findings += [(-1, b"", f"in the log: {trouble}") for trouble in troubles(server)]
    return tally
