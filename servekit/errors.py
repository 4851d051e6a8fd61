"""Every error that servekit raises on purpose.

    ServeError                  .message may be shown to a caller; .cause may not
    ├── CallerError             the request is at fault
    │   ├── InvalidInput        400  malformed, wrong dtype or shape, ... (predictors raise it too)
    │   ├── Unprocessable       422  well-formed, but no answer can be given for it
    │   ├── UnsupportedMediaType 415
    │   ├── NotAcceptable       406
    │   ├── TooLarge            413
    │   ├── UrlTooLong          414
    │   ├── HeadersTooLarge     431
    │   ├── HeadTimeout         408
    │   ├── BodyTimeout         408
    │   ├── NotFound            404
    │   └── MethodNotAllowed    405  .allowed
    ├── NotNow                  the server is at fault for the moment; worth a retry
    │   ├── NotReady            503
    │   ├── Overloaded          503  .retry_after_s
    │   └── DeadlineExceeded    504
    ├── PredictFailed           500  the predictor raised, or returned what it had not declared
    ├── LoadFailed              500
    └── ConfigError             the start is refused; never leaves the process

An error knows its kind and the text a caller may see. Platforms turn kinds into their own codes and bodies;
nothing else does.
"""

from __future__ import annotations


class ServeError(Exception):
    """`status` is HTTP's own code for this kind of error; a platform may choose another."""

    status: int = 500
    kind: str = "internal_error"

    def __init__(self, message: str, *, cause: BaseException | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.cause = cause
        # So that a log shows where it came from, also when the error is made in one thread and raised in another.
        self.__cause__ = cause


class CallerError(ServeError):
    status = 400
    kind = "bad_request"


class InvalidInput(CallerError):
    """The input is malformed or not what the predictor declared.

    Predictors raise it from `decode` or `predict` to blame the caller; the message is shown to the caller.
    """

    kind = "invalid_input"


class Unprocessable(CallerError):
    status = 422
    kind = "unprocessable"


class UnsupportedMediaType(CallerError):
    status = 415
    kind = "unsupported_media_type"


class NotAcceptable(CallerError):
    status = 406
    kind = "not_acceptable"


class TooLarge(CallerError):
    status = 413
    kind = "too_large"


class HeadersTooLarge(CallerError):
    status = 431
    kind = "headers_too_large"


class UrlTooLong(CallerError):
    status = 414
    kind = "url_too_long"


class HeadTimeout(CallerError):
    status = 408
    kind = "head_timeout"


class BodyTimeout(CallerError):
    status = 408
    kind = "body_timeout"


class NotFound(CallerError):
    status = 404
    kind = "not_found"


class MethodNotAllowed(CallerError):
    status = 405
    kind = "method_not_allowed"

    def __init__(self, message: str, *, allowed: tuple[str, ...]) -> None:
        super().__init__(message)
        self.allowed = allowed


class NotNow(ServeError):
    status = 503
    kind = "unavailable"


class NotReady(NotNow):
    kind = "not_ready"


class Overloaded(NotNow):
    kind = "overloaded"

    def __init__(self, message: str, *, retry_after_s: int = 1) -> None:
        super().__init__(message)
        self.retry_after_s = retry_after_s


class DeadlineExceeded(NotNow):
    status = 504
    kind = "deadline_exceeded"


class PredictFailed(ServeError):
    kind = "predict_failed"


class LoadFailed(ServeError):
    kind = "load_failed"


class ConfigError(ServeError):
    kind = "config_error"
