"""Modzy's v1 container contract: `/status`, `/run`, `/shutdown`.

Source: Modzy documentation, "Container image" and "Container specification (REST)"; the reference is Modzy's Python
model template.
"""

from __future__ import annotations

import json
import re
from typing import Any

from servekit.contract import Call, InferFiles, Load, Reply, Request, Route, Site, Stop
from servekit.errors import InvalidInput, PredictFailed, ServeError, UnsupportedMediaType
from servekit.platforms._reply import error_headers, json_reply
from servekit.platforms.modzy.files import files_of

# The words of the reference, which newer Python versions spell differently in part ("Unprocessable Content").
STATUS_TEXT = {
    200: "OK",
    202: "Accepted",
    400: "Bad Request",
    404: "Not Found",
    405: "Method Not Allowed",
    406: "Not Acceptable",
    408: "Request Timeout",
    413: "Request Entity Too Large",
    414: "Request URI Too Long",
    415: "Unsupported Media Type",
    422: "Unprocessable Entity",
    429: "Too Many Requests",
    431: "Request Header Fields Too Large",
    500: "Internal Server Error",
    503: "Service Unavailable",
    504: "Gateway Timeout",
}
JSON = "application/json"
# What browsers add to every POST that a page makes (Fetch standard, 3.2; Fetch Metadata), and programs do not.
OF_A_PAGE = (b"origin", b"sec-fetch-site")
SERVER_ERROR = "server error"
# Absolute paths in an exception's text tell a caller how the image is laid out.
PATH = re.compile(r"(?<![\w/.])/(?:[\w.+@%~-]+/)+([\w.+@%~-]+)")


def routes(site: Site) -> tuple[Route, ...]:
    """The routes of every v1 container; model.yaml names the files. Raises ConfigError."""
    inputs, outputs = files_of(site)

    def parse_run(request: Request) -> InferFiles:
        _refuse_pages(request)
        job = _job(request)
        if job.get("type") != "file":
            raise InvalidInput(f'type: expected "file", got {_shown(job.get("type"))}')
        for key in ("input", "output"):
            if not isinstance(job.get(key), str):
                raise InvalidInput(f"{key}: expected the path of a directory, got {_shown(job.get(key))}")
        return InferFiles(job["input"], job["output"], inputs, outputs, summary)

    def parse_shutdown(request: Request) -> Stop:
        _refuse_pages(request)
        return Stop()

    return (
        Route(("GET",), "/status", lambda _request: Load(), _renderer(200, "ready"), "load the model and say so"),
        Route(("POST",), "/run", parse_run, _renderer(200, "success"), "predict on files", takes_body=True),
        Route(
            ("POST",),
            "/shutdown",
            parse_shutdown,
            _renderer(202, "exiting"),
            "end the process with exit code 0",
            local_only=True,
        ),
    )


def summary(result: Any) -> dict[str, Any]:
    """The default layout of results.json."""
    return {"data": {"result": result, "explanation": None, "drift": None}}


def _refuse_pages(request: Request) -> None:
    """The contract knows no secret and no required header, so a page that somebody on this machine, or inside of the
    network, looks at could have their browser end the server or write files. No part of the platform is a browser."""
    for name in OF_A_PAGE:
        if request.header(name) is not None:
            raise InvalidInput(f"{name.decode().title()}: expected none: {request.path} is not for web pages")


def _job(request: Request) -> dict[str, Any]:
    """The job, read as JSON whatever the content type says; only then does the type decide how the refusal reads."""
    try:
        job = json.loads(request.body)
    except (ValueError, RecursionError):
        job = None
    if isinstance(job, dict):
        return job
    content_type = request.header(b"content-type") or ""
    if content_type.split(";")[0].strip().lower() == JSON:
        raise InvalidInput("body: expected a JSON object with type, input and output")
    raise UnsupportedMediaType(f"Content-Type: expected {JSON}, got {_shown(content_type)}")


def _renderer(status: int, message: str) -> Any:
    reply = _reply(status, message)

    def render(_request: Request, _call: Call, _value: Any) -> Reply:
        return reply

    return render


def render_error(error: ServeError, _request: Request) -> Reply:
    """Every error has the reply form of the contract, and `technicalInformation`."""
    status, message = error.status, error.message
    cause = error.cause
    if isinstance(error, PredictFailed) and cause is not None:
        # The template's default validation exception; anything else is the model's own fault.
        status = 422 if isinstance(cause, ValueError) else 500
        message = _clean(str(cause)) or SERVER_ERROR
    elif status == 500:
        message = _clean(message) or SERVER_ERROR
    technical = f"{type(cause).__name__}: {_clean(str(cause))}" if cause is not None else f"{error.kind}: {message}"
    return _reply(status, message or SERVER_ERROR, technical, error_headers(error))


def _reply(status: int, message: str, technical: str | None = None, headers: tuple[tuple[str, str], ...] = ()) -> Reply:
    # A predictor's own error may have any status; RFC 9110, 15: an unknown code reads as the first of its class.
    text = STATUS_TEXT.get(status) or STATUS_TEXT[400 if status < 500 else 500]
    document: dict[str, Any] = {"statusCode": status, "status": text, "message": message}
    if technical is not None:
        document["technicalInformation"] = technical
    return json_reply(status, document, headers)


def _clean(text: str) -> str:
    """An exception's text with directories cut from its paths."""
    return PATH.sub(r"\1", text)


def _shown(value: Any) -> str:
    shown = json.dumps(value)
    return shown if len(shown) <= 100 else shown[:100] + "..."
