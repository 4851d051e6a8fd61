"""The platform's refusals, as its clients know them: a JSON body, and the error's name in a header."""

from __future__ import annotations

import uuid
from collections.abc import Mapping
from typing import Any

from starlette.responses import JSONResponse

MAX_MESSAGE_CHARS = 2048
# Of a container that said nothing at all.
NO_STATUS = 0
BY_STATUS = {
    400: "ValidationError", 403: "AccessDeniedException", 404: "UnknownOperationException", 424: "ModelError",
    429: "ModelNotReadyException", 500: "InternalFailure", 503: "ServiceUnavailable",
    530: "InternalDependencyException",
}  # fmt: skip


class PlatformError(Exception):
    """status: HTTP's. code: the error's name."""

    def __init__(self, status: int, code: str, message: str, **more: Any) -> None:
        super().__init__(message)
        self.status, self.code, self.message, self.more = status, code, message[:MAX_MESSAGE_CHARS], more

    def response(self) -> JSONResponse:
        headers = {"x-amzn-ErrorType": self.code, "x-amzn-RequestId": str(uuid.uuid4())}
        return JSONResponse({"Message": self.message, **self.more}, status_code=self.status, headers=headers)


def invalid(message: str) -> PlatformError:
    return PlatformError(400, "ValidationError", message)


def not_ready(message: str) -> PlatformError:
    return PlatformError(429, "ModelNotReadyException", message)


def unavailable(message: str) -> PlatformError:
    return PlatformError(503, "ServiceUnavailable", message)


def unauthenticated() -> PlatformError:
    return PlatformError(
        403, "MissingAuthenticationTokenException", "Missing Authentication Token: no Authorization header came"
    )


def unsigned(scheme: str) -> PlatformError:
    return PlatformError(
        403, "IncompleteSignatureException", f"Authorization: expected AWS4-HMAC-SHA256, got {scheme[:30]!r}"
    )


def model_error(status: int, original: str, log: str, *, is_cut: bool = False) -> PlatformError:
    """status, original: the container's answer; NO_STATUS and what was seen, when there was none."""
    side = "client" if 400 <= status < 500 else "server"
    said = "and could not load the entire response body" if is_cut else f'with message "{original[:1024]}"'
    return PlatformError(
        424, "ModelError", f"Received {side} error ({status}) from primary {said}. See {log}",
        OriginalStatusCode=status, OriginalMessage=original[:MAX_MESSAGE_CHARS], LogStreamArn=log,
    )  # fmt: skip


def body(status: int, text: str) -> Mapping[str, Any]:
    """Of a status that somebody asked for."""
    return {"__type": BY_STATUS.get(status, "InternalFailure"), "Message": text}
