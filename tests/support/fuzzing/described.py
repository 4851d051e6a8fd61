"""Requests made by schemathesis from a server's own OpenAPI description."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import hypothesis
import schemathesis
from hypothesis import HealthCheck, Phase, given, settings
from schemathesis import GenerationMode

from fuzzing.judge import BUSY, LEAK

PREDICTORS = Path(__file__).parents[2] / "fuzz" / "predictors.py"
# Each platform's adapter, before a predictor of another kind.
SERVED = {"sagemaker": "Sum", "modelarts": "Mixed", "modzy": "Anything"}
# It ends the server, as it should.
LEFT_OUT = {("POST", "/shutdown")}


def arguments(platform: str) -> list[str]:
    """Of the server that is to be described."""
    return [f"{PREDICTORS}:{SERVED[platform]}", "--docs", "on", "--workers", "1", "--log-format", "text"]


def hit(url: str, examples: int, seed: int = 0) -> tuple[Counter[int], list[str]]:
    """Send up to so many requests of each kind to each operation. Returns the statuses, and what was wrong."""
    statuses: Counter[int] = Counter()
    findings: list[str] = []
    found = [result.ok() for result in schemathesis.openapi.from_url(f"{url}/openapi.json").get_all_operations()]
    for operation in found:
        if (operation.method.upper(), operation.path) in LEFT_OUT:
            continue
        _hit(operation, GenerationMode.POSITIVE, url, examples, seed, statuses, findings)
        if operation.body:  # nothing else of a request can be wrong
            _hit(operation, GenerationMode.NEGATIVE, url, examples, seed, statuses, findings)
    return statuses, findings


def _hit(
    operation: Any,
    mode: GenerationMode,
    url: str,
    examples: int,
    seed: int,
    statuses: Counter[int],
    findings: list[str],
) -> None:
    @given(case=operation.as_strategy(generation_mode=mode))
    @settings(
        max_examples=examples,
        deadline=None,
        suppress_health_check=list(HealthCheck),
        phases=[Phase.explicit, Phase.generate],
        database=None,
    )
    def check(case: Any) -> None:
        reply = case.call(base_url=url)
        statuses[reply.status_code] += 1
        if reply.status_code >= 500 and reply.status_code not in BUSY:
            findings.append(f"status {reply.status_code}: {case.as_curl_command()}: {reply.content!r}")
        if reply.status_code >= 400:
            sent = str(case.as_curl_command()).encode()
            findings.extend(
                f"leak: {leak!r} in {reply.content!r}" for leak in LEAK.findall(reply.content) if leak not in sent
            )

    hypothesis.seed(seed)(check)()
