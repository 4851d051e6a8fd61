"""The same service as `Counted`, for gunicorn as it comes: an ASGI and a WSGI application.

WEIGHTS, where it is set, names a file without which a worker cannot start.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterable
from pathlib import Path
from typing import Any

if os.environ.get("WEIGHTS"):
    Path(os.environ["WEIGHTS"]).read_bytes()
LEDGER = os.open(os.environ["LEDGER"], os.O_WRONLY | os.O_APPEND | os.O_CREAT)


def answer(path: str, body: bytes) -> bytes:
    if path == "/ping":
        return b'{"status": "Healthy"}'
    [number] = json.loads(body)["instances"]
    os.write(LEDGER, b"%d\n" % number)
    return json.dumps({"predictions": [number + 1]}).encode()


async def asgi(scope: Any, receive: Any, send: Any) -> None:
    if scope["type"] == "lifespan":
        for step in ("startup", "shutdown"):
            await receive()
            await send({"type": f"lifespan.{step}.complete"})
        return
    body = b""
    while True:
        event = await receive()
        body += event.get("body", b"")
        if not event.get("more_body"):
            break
    content = answer(scope["path"], body)
    headers = [(b"content-length", b"%d" % len(content))]
    headers += [header for header in scope["headers"] if header[0] == b"x-request-id"]
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    await send({"type": "http.response.body", "body": content})


def wsgi(environ: dict[str, Any], start_response: Any) -> Iterable[bytes]:
    content = answer(environ["PATH_INFO"], environ["wsgi.input"].read())
    headers = [("Content-Length", str(len(content))), ("X-Request-Id", environ.get("HTTP_X_REQUEST_ID", ""))]
    start_response("200 OK", headers)
    return [content]
