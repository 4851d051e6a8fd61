"""What goes wrong between here and a platform's control plane: the kinds, and the exit code of each.

    PublishError             .exit_code
    ├── Unauthorised     3   no credentials, or the platform does not take them
    ├── Forbidden        4   they are good, and not for this
    ├── Missing          5   what was named is not there
    ├── Refused          6   the platform does not take this request, and never will
    ├── Busy             7   429 or 5xx, after all attempts; worth another try later
    ├── Unreachable      8   no connection, or a broken one
    ├── NotUnderstood    9   an answer that was cut off, or not what the platform's pages say
    ├── Failed          10   the platform took the request, tried, and says that it failed
    └── StillGoing      11   it neither failed nor ended in the time that was given

A wrong option or file is a ConfigError, as everywhere (2). Ctrl-C is 130.
"""

from __future__ import annotations

from typing import Any, ClassVar

from servekit.publish.secrets import hidden

MAX_SHOWN_CHARS = 500


class PublishError(Exception):
    """
    message: what happened, in one line. hint: what to do next, in one line, or "".
    status, code, request_id: the platform's, where it said them; request_id is what its support asks for.
    details: further text of the platform's, such as Modzy's technicalInformation; may have several lines.
    """

    exit_code: ClassVar[int] = 1
    kind: ClassVar[str] = "error"

    def __init__(
        self,
        message: str,
        *,
        hint: str = "",
        status: int | None = None,
        code: str = "",
        request_id: str = "",
        details: str = "",
    ) -> None:
        self.message = line(message)
        self.hint = line(hint)
        self.status = status
        self.code = line(code)
        self.request_id = line(request_id)
        self.details = printable(details)
        super().__init__(self.message)

    def document(self) -> dict[str, Any]:
        """For `--json`; only what is known."""
        known = {
            "kind": self.kind,
            "message": self.message,
            "hint": self.hint,
            "status": self.status,
            "code": self.code,
            "request_id": self.request_id,
            "details": self.details,
        }
        return {key: value for key, value in known.items() if value not in ("", None)}


class Unauthorised(PublishError):
    exit_code = 3
    kind = "unauthorised"


class Forbidden(PublishError):
    exit_code = 4
    kind = "forbidden"


class Missing(PublishError):
    exit_code = 5
    kind = "not_found"


class Refused(PublishError):
    exit_code = 6
    kind = "refused"


class Busy(PublishError):
    exit_code = 7
    kind = "busy"


class Unreachable(PublishError):
    exit_code = 8
    kind = "unreachable"


class NotUnderstood(PublishError):
    exit_code = 9
    kind = "not_understood"


class Failed(PublishError):
    exit_code = 10
    kind = "failed"


class StillGoing(PublishError):
    exit_code = 11
    kind = "still_going"


def of_status(status: int) -> type[PublishError]:
    """The kind of an HTTP status that is no success."""
    by_status: dict[int, type[PublishError]] = {401: Unauthorised, 403: Forbidden, 404: Missing, 429: Busy}
    if status in by_status:
        return by_status[status]
    return Busy if status >= 500 else Refused


def line(text: str) -> str:
    """A stranger's text as one printable line of bounded length, without secrets."""
    text = " ".join(printable(text).split())
    return text if len(text) <= MAX_SHOWN_CHARS else f"{text[:MAX_SHOWN_CHARS]}..."


def printable(text: str) -> str:
    """Without secrets, and without what would move a terminal's cursor."""
    return "".join(
        character if character.isprintable() or character == "\n" else " " if character.isspace() else "?"
        for character in hidden(text)
    )
