"""SageMaker's container contract: `/ping`, `/invocations`, `/execution-parameters`.

Source: AWS developer guide, "Custom Inference Code with Hosting Services" and "... with Batch Transform".
"""

from __future__ import annotations

import re
from bisect import bisect_left
from typing import Any

from servekit.contract import (
    Call,
    Describe,
    Description,
    Encoded,
    Infer,
    Readiness,
    Ready,
    Reply,
    Request,
    Route,
    Site,
    State,
)
from servekit.errors import InvalidInput, ServeError
from servekit.platforms._reply import error_headers, json_reply

ATTRIBUTES = "X-Amzn-SageMaker-Custom-Attributes"
ATTRIBUTES_RAW = ATTRIBUTES.lower().encode()
READS = frozenset([b"content-type", b"contenttype", b"accept", ATTRIBUTES_RAW])
# InvokeEndpoint: at most 1024 visible US-ASCII characters.
ATTRIBUTES_PATTERN = re.compile(r"[\x20-\x7e]{0,1024}")
# The caller sees the body as OriginalMessage, cut after 2048 characters.
MAX_ERROR_BYTES = 2048

# Batch transform: MaxConcurrentTransforms * MaxPayloadInMB may not exceed 100; its own default payload is 6 MB.
MAX_PRODUCT = 100
DEFAULT_PAYLOAD_MB = 6
MEBIBYTE = 1024 * 1024
TRANSFORMS_PER_WORKER = 4
JOB_NUMBER = re.compile(r"[0-9]{1,9}")


def routes(site: Site) -> tuple[Route, ...]:
    """The routes of every SageMaker container."""
    default_accept = site.environ.get("SAGEMAKER_DEFAULT_INVOCATIONS_ACCEPT") or "application/json"

    def parse_invocation(request: Request) -> Infer:
        attributes = request.header(ATTRIBUTES_RAW)
        if attributes is not None and not ATTRIBUTES_PATTERN.fullmatch(attributes):
            raise InvalidInput(
                f"{ATTRIBUTES}: expected at most 1024 visible US-ASCII characters, got {len(attributes)} characters"
            )
        # The vendor's toolkit also takes "ContentType".
        content_type = request.header(b"content-type") or request.header(b"contenttype")
        return Infer(request.body, content_type, request.header(b"accept"), default_accept=default_accept)

    def render_parameters(_request: Request, _call: Call, value: Description) -> Reply:
        return json_reply(200, execution_parameters(value, site))

    return (
        Route(("GET", "POST"), "/ping", lambda _request: Ready(), _render_ping, "health check"),
        Route(("POST",), "/invocations", parse_invocation, _render_invocation, "predict", takes_body=True, reads=READS),
        Route(
            ("GET",), "/execution-parameters", lambda _request: Describe(), render_parameters, "batch transform limits"
        ),
    )


def execution_parameters(description: Description, site: Site) -> dict[str, Any]:
    """What batch transform should use where the job does not say; the job's own settings come as variables."""
    payload_mb = _number(site, "SAGEMAKER_MAX_PAYLOAD_IN_MB")
    concurrent = _number(site, "SAGEMAKER_MAX_CONCURRENT_TRANSFORMS")
    if not payload_mb:
        payload_mb = min(DEFAULT_PAYLOAD_MB, description.max_body_bytes // MEBIBYTE, MAX_PRODUCT // max(1, concurrent))
        payload_mb = max(1, payload_mb)
    if not concurrent:
        concurrent = max(1, min(description.workers * TRANSFORMS_PER_WORKER, MAX_PRODUCT // payload_mb))
    strategy = site.environ.get("SAGEMAKER_BATCH_STRATEGY", "").upper()
    if strategy not in ("SINGLE_RECORD", "MULTI_RECORD"):
        strategy = "MULTI_RECORD" if description.takes_rows else "SINGLE_RECORD"
    return {"MaxConcurrentTransforms": concurrent, "BatchStrategy": strategy, "MaxPayloadInMB": payload_mb}


def _number(site: Site, name: str) -> int:
    """The job's own setting, 0 when it has none."""
    text = site.environ.get(name, "")
    return int(text) if JOB_NUMBER.fullmatch(text) else 0


def _render_ping(_request: Request, _call: Call, value: Readiness) -> Reply:
    if value.ready and value.state is not State.DRAINING:
        return json_reply(200, {"status": "Healthy"})
    reason = value.reason or "the server is stopping"
    return json_reply(503, {"status": "Unhealthy", "reason": reason}, (("Retry-After", "1"),))


def _render_invocation(request: Request, _call: Call, value: Encoded) -> Reply:
    headers = value.headers
    if not any(name.lower() == ATTRIBUTES.lower() for name, _ in headers):
        headers += _echo(request)
    return Reply(200, value.body, value.media_type, headers)


def render_error(error: ServeError, request: Request) -> Reply:
    """A JSON object of less than 2 KB; callers see it in ModelError.OriginalMessage."""
    headers = error_headers(error) + _echo(request)

    def reply(message: str) -> Reply:
        document = {"error": error.kind, "message": message, "request_id": request.id}
        return json_reply(error.status, document, headers)

    whole = reply(error.message)
    if len(whole.body) < MAX_ERROR_BYTES:
        return whole
    # A character takes one to six bytes in JSON, so the longest start that fits has to be tried for.
    message = error.message[:MAX_ERROR_BYTES]
    too_long = bisect_left(
        range(len(message)), MAX_ERROR_BYTES, key=lambda length: len(reply(message[:length] + "...").body)
    )
    return reply(message[: max(0, too_long - 1)] + "...")


def _echo(request: Request) -> tuple[tuple[str, str], ...]:
    """The caller's attributes: SageMaker itself never returns them."""
    attributes = request.header(ATTRIBUTES_RAW)
    if attributes and request.path == "/invocations" and ATTRIBUTES_PATTERN.fullmatch(attributes):
        return ((ATTRIBUTES, attributes),)
    return ()
