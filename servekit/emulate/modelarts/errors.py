"""The platform's refusals: an error code, a message, and the request's id, which its support asks for."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

# The codes of the gateway before the platform.
NO_SUCH_ROUTE = "APIGW.0101"
TOO_LARGE = "APIGW.0201"
NOT_AUTHENTICATED = "APIGW.0301"
THROTTLED = "APIGW.0308"
# Those of the platform's list of error codes; the texts are our own.
INTERNAL = "ModelArts.0010"
WORKSPACE_MISSING = "ModelArts.0102"
PARAMETER = "ModelArts.0104"
NOT_PERMITTED = "ModelArts.0112"
TOKEN_MISSING = "ModelArts.0201"  # noqa: S105 - the name of an error
TOKEN_EXPIRED = "ModelArts.0202"  # noqa: S105
TOKEN_INVALID = "ModelArts.0203"  # noqa: S105
TOKEN_WITHOUT_PROJECT = "ModelArts.0207"  # noqa: S105
TOKEN_OF_OTHER_PROJECT = "ModelArts.0210"  # noqa: S105
PARAMETERS = "ModelArts.0107"
MODEL_MISSING = "ModelArts.3001"
MODEL_EXISTS = "ModelArts.3002"
MODEL_IN_USE = "ModelArts.3009"
CONFIG_INVALID = "ModelArts.3015"
CONFIG_UNREADABLE = "ModelArts.3016"
SOURCE_LOCATION = "ModelArts.3017"
MODEL_PARAMETER_MISSING = "ModelArts.3036"
MODEL_PARAMETER = "ModelArts.3037"
SERVICE_MISSING = "ModelArts.3502"
SERVICE_EXISTS = "ModelArts.3503"
SERVICE_MODEL_MISSING = "ModelArts.3507"
MODEL_NOT_READY = "ModelArts.3515"
SAME_VERSIONS = "ModelArts.3516"
HEALTH = "ModelArts.3592"
SERVICE_STATE = "ModelArts.3519"
UNAVAILABLE = "ModelArts.4203"
BACKEND = "ModelArts.4503"
TIMED_OUT = "ModelArts.4205"
SORTING = "ModelArts.6303"
TYPE = "ModelArts.6332"
MISSING = "ModelArts.6335"
VALUE = "ModelArts.6336"
PAYLOAD = "ModelArts.6400"
SAME_TAG = "ModelArts.6737"
IMAGE_MISSING = "ModelArts.6797"
VERSION_USED = "ModelArts.8031"
RATE_LIMIT = "ModelArts.8037"
BY_STATUS = {
    400: PARAMETER, 401: NOT_AUTHENTICATED, 403: NOT_PERMITTED, 404: NO_SUCH_ROUTE, 413: TOO_LARGE, 429: THROTTLED,
}  # fmt: skip


class PlatformError(Exception):
    """status: HTTP's. code, text: the platform's."""

    def __init__(self, status: int, code: str, text: str) -> None:
        super().__init__(text)
        self.status, self.code, self.text = status, code, text


def body(status: int, text: str) -> Mapping[str, Any]:
    """Of a status that somebody asked for."""
    return {"error_code": BY_STATUS.get(status, INTERNAL), "error_msg": text}
