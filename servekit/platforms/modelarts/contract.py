"""ModelArts' container contract: `GET /health`, and the routes of config.json (`POST /` without one).

Source: Huawei Cloud, "Specifications for Custom Images Used for Importing Models" and "Specifications for Editing a
Model Configuration File".
"""

from __future__ import annotations

from urllib.parse import parse_qsl

from servekit.contract import (
    COMMON_ENVELOPES,
    Call,
    Encoded,
    Envelope,
    Infer,
    Readiness,
    Ready,
    Reply,
    Request,
    Route,
    Site,
)
from servekit.errors import InvalidInput, Overloaded, ServeError
from servekit.platforms._reply import error_headers, json_reply

WRAPPED = Envelope(("data", "req_data"), ("data", "resp_data"), echo=("meta",), results_as_objects=True)
FLAT = Envelope(("req_data",), ("resp_data",), echo=("meta",), results_as_objects=True)
ENVELOPES = (WRAPPED, FLAT, *COMMON_ENVELOPES)
MAX_QUERY_FIELDS = 100
READS = frozenset([b"content-type", b"accept"])


def routes(site: Site) -> tuple[Route, ...]:
    """The routes that config.json declares, or the default ones. Raises ConfigError."""
    apis: tuple[tuple[str, str], ...] = (("POST", "/"),)
    health = "/health"
    if "config.json" in site.files:
        from servekit.platforms.modelarts.config import read

        declared = read(site.files["config.json"], site.signature)
        apis, health = declared.apis, declared.health_url
    return (
        Route(("GET",), health, lambda _request: Ready(), _render_health, "health check"),
        *(_predict_route(method, path) for method, path in apis),
    )


def _predict_route(method: str, path: str) -> Route:
    # A GET has no body to hand on.
    reads = READS if method == "POST" else None
    return Route((method,), path, _parse, _render, "predict", takes_body=method == "POST", reads=reads)


def _parse(request: Request) -> Infer:
    try:
        fields = tuple(parse_qsl(request.query, keep_blank_values=True, max_num_fields=MAX_QUERY_FIELDS))
    except ValueError as error:
        raise InvalidInput(f"query: expected at most {MAX_QUERY_FIELDS} arguments", cause=error) from error
    body, content_type = request.body, request.header(b"content-type")
    if request.method == "GET":
        # A GET has its values in the query; read them as the fields of an empty form.
        body, content_type = request.query.encode("latin-1"), "application/x-www-form-urlencoded"
    return Infer(body, content_type, request.header(b"accept"), ENVELOPES, fields)


def _render(_request: Request, _call: Call, value: Encoded) -> Reply:
    return Reply(200, value.body, value.media_type, value.headers)


def _render_health(_request: Request, _call: Call, value: Readiness) -> Reply:
    # While draining the container goes on serving, so it stays healthy.
    if value.ready:
        return json_reply(200, {"health": "true"})
    return json_reply(503, {"health": "false", "reason": value.reason}, (("Retry-After", "1"),))


def render_error(error: ServeError, _request: Request) -> Reply:
    """The platform's own error form. An overload answers 429: 5xx would open the gateway's circuit breaker."""
    status = 429 if isinstance(error, Overloaded) else error.status
    document = {"error_code": f"SERVEKIT.{error.kind.upper()}", "error_msg": error.message}
    return json_reply(status, document, error_headers(error))
