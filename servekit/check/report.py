"""Findings as a person reads them, as JSON, and as JUnit XML for CI."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any
from xml.etree import ElementTree

from servekit.check.runner import INTERRUPTED, Finding
from servekit.check.trial import Result
from servekit.terms import Level

__all__ = ["INTERRUPTED", "details", "document", "dumps", "junit", "line", "not_checked", "summary"]

SIGNS = {Result.KEPT: "ok", Result.BROKEN: "BROKEN", Result.NOT_CHECKED: "-"}


def line(finding: Finding) -> str:
    """One finding in one line."""
    clause = finding.clause
    return f"{SIGNS[finding.verdict.result]:<6} {clause.id:<6} {clause.level:<6} {clause.title}"


def not_checked(findings: Sequence[Finding]) -> list[str]:
    """A line for each reason, with the clauses that it kept from being checked."""
    reasons: dict[str, list[str]] = {}
    for finding in findings:
        if finding.verdict.result is Result.NOT_CHECKED:
            reasons.setdefault(finding.verdict.reason, []).append(finding.clause.id)
    return [f"{SIGNS[Result.NOT_CHECKED]:<6} {', '.join(ids)}: {reason}" for reason, ids in reasons.items()]


def details(finding: Finding) -> str:
    """What was sent, what came, what was expected, why, and what to do."""
    clause, verdict = finding.clause, finding.verdict
    rows = {
        "sent": verdict.sent, "got": verdict.got, "expected": verdict.expected, "contract": clause.says,
        "page": clause.page, "fix": clause.fix,
    }  # fmt: skip
    return "\n".join(f"       {name:<9} {_plain(text)}" for name, text in rows.items() if text)


def summary(findings: Sequence[Finding], platform: str) -> str:
    counts = {result: sum(finding.verdict.result is result for finding in findings) for result in Result}
    broken = [finding for finding in findings if finding.verdict.result is Result.BROKEN]
    levels = ", ".join(
        f"{number} {level}" for level in Level if (number := sum(finding.clause.level is level for finding in broken))
    )
    return (
        f"{platform}: {counts[Result.KEPT]} kept, {counts[Result.BROKEN]} broken{f' ({levels})' if levels else ''}, "
        f"{counts[Result.NOT_CHECKED]} not checked"
    )


def document(
    findings: Sequence[Finding],
    platform: str,
    *,
    interrupted: bool = False,
    error: str | None = None,
    log: Sequence[str] = (),
) -> dict[str, Any]:
    """ok: no clause that must be kept is broken. error: why nothing could be tried.

    log: the last lines of a container that never became ready.
    """
    return {
        "platform": platform,
        "ok": not interrupted and error is None and not any(finding.fatal for finding in findings),
        "interrupted": interrupted,
        "error": error,
        "log": list(log),
        "clauses": [
            {
                "id": finding.clause.id,
                "level": str(finding.clause.level),
                "title": finding.clause.title,
                "result": str(finding.verdict.result),
                "sent": finding.verdict.sent,
                "got": finding.verdict.got,
                "expected": finding.verdict.expected,
                "reason": finding.verdict.reason,
                "seconds": round(finding.seconds, 3),
                "says": finding.clause.says,
                "page": finding.clause.page,
                "fix": finding.clause.fix,
            }
            for finding in findings
        ],
    }


def dumps(value: Any) -> str:
    return json.dumps(value, indent=2, ensure_ascii=False)


def junit(findings: Sequence[Finding], platform: str) -> bytes:
    """One test case for each clause. A broken `should` or `may` is no failure, but is said in its output."""
    suite = ElementTree.Element(
        "testsuite", name=f"servekit check {platform}", tests=str(len(findings)),
        failures=str(sum(finding.fatal for finding in findings)), errors="0",
        skipped=str(sum(finding.verdict.result is Result.NOT_CHECKED for finding in findings)),
        time=f"{sum(finding.seconds for finding in findings):.3f}",
    )  # fmt: skip
    for finding in findings:
        clause, verdict = finding.clause, finding.verdict
        case = ElementTree.SubElement(
            suite, "testcase", classname=f"{platform}.{clause.level}", name=f"{clause.id} {clause.title}",
            time=f"{finding.seconds:.3f}",
        )  # fmt: skip
        if finding.fatal:
            ElementTree.SubElement(case, "failure", type=str(clause.level), message=_xml(verdict.got)).text = _xml(
                details(finding)
            )
        elif verdict.result is Result.NOT_CHECKED:
            ElementTree.SubElement(case, "skipped", message=_xml(verdict.reason))
        elif verdict.result is Result.BROKEN:
            ElementTree.SubElement(case, "system-out").text = _xml(f"broken, and no must:\n{details(finding)}")
    content: bytes = ElementTree.tostring(suite, encoding="utf-8", xml_declaration=True)
    return content


def _plain(text: str) -> str:
    """Without what would control a terminal."""
    return "".join(character if character.isprintable() else " " for character in text)


def _xml(text: str) -> str:
    """XML has no place for most control characters."""
    return "".join(character if character.isprintable() or character == "\n" else " " for character in text)
