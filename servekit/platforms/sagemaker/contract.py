"""SageMaker's container contract: `/ping`, `/invocations`, `/execution-parameters`.

Source: AWS developer guide, "Custom Inference Code with Hosting Services" and "... with Batch Transform".
"""

from __future__ import annotations

import re
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
# InvokeEndpoint: at most 1024 visible US-ASCII characters.
ATTRIBUTES_PATTERN = re.compile(r"[\x20-\x7e]{0,1024}")
# The caller sees the body as OriginalMessage, cut after 2048 characters.
MAX_ERROR_CHARS = 1500

# Batch transform: MaxConcurrentTransforms * MaxPayloadInMB may not exceed 100; its own default payload is 6 MB.
MAX_PRODUCT = 100
DEFAULT_PAYLOAD_MB = 6
MEBIBYTE = 1024 * 1024
TRANSFORMS_PER_WORKER = 4


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
        Route(("POST",), "/invocations", parse_invocation, _render_invocation, "predict", takes_body=True),
        Route(
            ("GET",), "/execution-parameters", lambda _request: Describe(), render_parameters, "batch transform limits"
        ),
    )


def execution_parameters(description: Description, site: Site) -> dict[str, Any]:
    """What batch transform should use where the job does not say; the job's own settings come as variables."""
    payload_mb = max(1, min(DEFAULT_PAYLOAD_MB, description.max_body_bytes // MEBIBYTE))
    payload_mb = _number(site, "SAGEMAKER_MAX_PAYLOAD_IN_MB", payload_mb)
    concurrent = min(description.workers * TRANSFORMS_PER_WORKER, MAX_PRODUCT // max(1, payload_mb))
    concurrent = _number(site, "SAGEMAKER_MAX_CONCURRENT_TRANSFORMS", max(1, concurrent))
    strategy = site.environ.get("SAGEMAKER_BATCH_STRATEGY", "").upper()
    if strategy not in ("SINGLE_RECORD", "MULTI_RECORD"):
        strategy = "MULTI_RECORD" if description.takes_rows else "SINGLE_RECORD"
    return {"MaxConcurrentTransforms": concurrent, "BatchStrategy": strategy, "MaxPayloadInMB": payload_mb}


def _number(site: Site, name: str, default: int) -> int:
    text = site.environ.get(name, "")
    return int(text) if text.isdigit() and int(text) > 0 else default


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
    """A short JSON object; callers see it in ModelError.OriginalMessage."""
    message = error.message
    if len(message) > MAX_ERROR_CHARS:
        message = message[:MAX_ERROR_CHARS] + "..."
    document = {"error": error.kind, "message": message, "request_id": request.id}
    return json_reply(error.status, document, error_headers(error) + _echo(request))


def _echo(request: Request) -> tuple[tuple[str, str], ...]:
    """The caller's attributes: SageMaker itself never returns them."""
    attributes = request.header(ATTRIBUTES_RAW)
    if attributes and request.path == "/invocations" and ATTRIBUTES_PATTERN.fullmatch(attributes):
        return ((ATTRIBUTES, attributes),)
    return ()
