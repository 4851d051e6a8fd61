"""What ModelArts and the gateway before it say when they refuse, and what to do about it.

Pure: from an answer, or what it says, to a cause and a next step. The codes are those of the vendor's pages on the
errors of ModelArts, of API Gateway (APIGW, APIG), of IAM and of SWR.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import Any

from servekit.publish.failures import Busy, Forbidden, Missing, PublishError, Refused, Unauthorised
from servekit.publish.http import Answer, Said

MAX_SKEW_S = 15 * 60
# Below it, nobody's clock is wrong: an answer travels, and proxies keep some.
SKEW_TOLD_S = 5 * 60
MAX_DEPTH = 3

KEYS = "check the access key and secret key: HUAWEICLOUD_SDK_AK and HUAWEICLOUD_SDK_SK, or ~/.huaweicloud/credentials"
TOKEN = "the token does not hold (any more): run the command again; it fetches a new one by the IAM user's password"  # noqa: S105 - no token
CLOCK = f"set this machine's clock: a signature holds for {MAX_SKEW_S // 60} minutes around the time that it names"
RIGHTS = "ask whoever manages the account for the right that is named here, in IAM or on the ModelArts workspace"
QUOTA = "delete what is no longer needed, or ask for a larger quota"
LATER = "try again later; the same command goes on where it stopped"
BUSY = "wait a minute, and run the command again"
PROJECT = "check --project-id, and that the account is not in arrears"
ADDRESS = "check the proxy, and the account's rules about IP addresses"
SUPPORT = "try again later, and if it stays so, ask the platform's support with the request id"
OPEN = 'open config.json\'s `health`: url is /health, protocol http, and both times are texts, such as "30"'
FIELD = "correct the field that is named; `servekit publish modelarts --help` lists what is taken"

# By the number behind APIGW. or APIG., which mean the same: cause, next step.
GATEWAY: Mapping[str, tuple[str, str]] = {
    "0101": ("the gateway knows no such API", "check --endpoint and --region: the service may not exist there"),
    "0103": ("the gateway has no service behind this API", SUPPORT),
    "0104": ("the gateway is not set up for this API", SUPPORT),
    "0105": ("the gateway is not set up for this API", SUPPORT),
    "0106": ("the gateway cannot read the request", FIELD),
    "0107": ("an error within the gateway", SUPPORT),
    "0201": ("the gateway does not take the request, or its service does not answer", LATER),
    "0202": ("the service behind the gateway could not be reached", LATER),
    "0203": ("the service behind the gateway gave no answer in time", LATER),
    "0204": (
        "the gateway does not take this version of TLS",
        "look for a proxy between here and there that speaks an old one",
    ),
    "0205": (
        "the gateway does not take the client's certificate",
        "look for a proxy between here and there that shows one",
    ),
    "0301": ("the credentials are not accepted", KEYS),
    "0302": ("this IAM user may not use the API", RIGHTS),
    "0303": ("the credentials are not accepted", KEYS),
    "0304": ("these credentials may not use the API", RIGHTS),
    "0305": ("the credentials are not accepted", KEYS),
    "0306": ("the gateway denies access to the API", RIGHTS),
    "0307": ("the token has to be renewed", TOKEN),
    "0308": ("too many requests in a short time", BUSY),
    "0310": ("the project is not available", PROJECT),
    "0311": ("the credentials are not accepted", KEYS),
    "0312": ("the credentials are not accepted", KEYS),
    "0313": ("the credentials are not accepted", KEYS),
    "0314": ("these credentials may not use the API", RIGHTS),
    "0401": ("the gateway does not know where the request comes from", ADDRESS),
    "0402": ("the gateway does not take requests from this address", ADDRESS),
    "0404": ("the gateway may not reach the service's address", SUPPORT),
    "0405": ("the gateway does not take requests from this address", ADDRESS),
    "0501": ("the quota of requests is used up", QUOTA),
    "0502": ("the account is frozen", "check that it is not in arrears"),
    "0601": ("an error within the gateway", SUPPORT),
    "0602": ("the gateway does not take the request", FIELD),
    "0605": ("the gateway cannot find its service", SUPPORT),
    "0606": ("the gateway is not set up for this API", SUPPORT),
    "0607": ("the gateway does not take this protocol", "name an endpoint with https:// by --endpoint"),
    "0608": ("an error within the gateway", SUPPORT),
    "0609": ("the gateway cannot find its service", SUPPORT),
    "0610": ("the service behind the gateway is not available", LATER),
    "0611": ("the gateway cannot find its service", SUPPORT),
    "0612": ("an error within the gateway", SUPPORT),
    "0613": ("IAM is not available", LATER),
    "0615": ("an error within the gateway", SUPPORT),
    "0616": ("an error within the gateway", SUPPORT),
    "0617": ("an error within the gateway", SUPPORT),
    "0705": ("an error within the gateway", SUPPORT),
    "0802": ("this IAM user may not use the region", "check --region, or have the user allowed there"),
}
TOO_LARGE = ("the request is too large for the gateway", FIELD)

# By the number behind ModelArts.: cause, next step.
MODELARTS: Mapping[str, tuple[str, str]] = {
    "0010": ("an error within ModelArts", SUPPORT),
    "0012": ("ModelArts gave up waiting for one of its services", LATER),
    "0013": ("ModelArts could not reach one of its services", LATER),
    "0101": ("an argument is invalid", FIELD),
    "0102": ("what is named is not there", "check the ID, --project-id and --workspace-id, whose default is 0"),
    "0103": ("the name is taken", "choose another name"),
    "0104": ("a parameter is wrong", FIELD),
    "0105": ("the operation is not allowed here", "`servekit images modelarts show` tells the state"),
    "0107": ("the values of parameters are invalid", FIELD),
    "0108": ("these credentials may not do this", RIGHTS),
    "0109": ("the account is not authorised for ModelArts", "open ModelArts' console once and agree to its agency"),
    "0110": ("these credentials may not do this", RIGHTS),
    "0112": ("a policy forbids this, or the workspace does", RIGHTS),
    "0113": ("the quota is exhausted", QUOTA),
    "0116": ("the quota does not allow as much", QUOTA),
    "0118": ("the quota is exhausted", QUOTA),
    "3015": ("config.json is not as it should be", "`servekit build --platform modelarts --output DIR` writes one"),
    "3016": (
        "config.json has a field, type or form that is not taken",
        "`servekit build --platform modelarts --output DIR` writes a good one, without `dependencies`",
    ),
    "3017": (
        "the image's address cannot be used for a model",
        "it has to be a private image of this account's, in SWR of the same region",
    ),
    "3023": ("a label of the model is invalid", FIELD),
    "3032": ("ModelArts cannot get at the image", "it has to be private, and this account's own"),
    "3036": ("a parameter is missing", FIELD),
    "3037": ("a parameter is invalid", FIELD),
    "3514": ("for batch services config.json needs input_params", "`servekit build --batch` writes them"),
    "3515": ("the model is still being published", LATER),
    "3516": ("two versions of the model are the same", "name each version of a model once"),
    "3518": ("this kind of service is not enabled for the account", "enable or authorise it in the console"),
    "3519": ("the service is in the wrong state", "wait until it has ended what it is doing"),
    "3520": ("there are as many services as the quota allows", QUOTA),
    "3521": ("as many services run as the quota allows", QUOTA),
    "3522": ("there are as many instances as the quota allows", QUOTA),
    "3534": (
        "the security group lets nobody in",
        "give it a rule that allows TCP from 0.0.0.0/0 to port 8080",
    ),
    "3551": ("there is no such path in OBS", "check the path, and its region"),
    "3561": ("there are not enough nodes", QUOTA),
    "3567": ("OBS denies access", "check the agency of ModelArts: it needs to list the bucket and read its objects"),
    "3576": ("the quota of models cannot be read", SUPPORT),
    "3577": ("the quota of models cannot be changed", SUPPORT),
    "3578": ("there are as many models as the quota allows", QUOTA),
    "3589": ("the model is not for this kind of service", "check its install_type"),
    "3592": ("the model's health check is set up wrongly", OPEN),
    "3593": ("the model has expired", "subscribe to it again"),
    "4503": ("ModelArts does not take a parameter", FIELD),
    "6309": ("it is not there (any more)", "`servekit images modelarts list` shows what is there"),
    "6716": ("the flavour is sold out", "choose another one"),
    "6737": (
        "the tag is already registered for this image",
        "`servekit images modelarts list` shows it; a new push needs a new tag, or --replace",
    ),
    "6771": (
        "the image is too large to be registered",
        "make it smaller: a slim base, no caches, the model beside the image and not in it",
    ),
    "6797": (
        "there is no such image",
        "check that it has been pushed to SWR in this region (--push does that), and that the ID is of this project",
    ),
    "8031": ("the version is already used", "name another version"),
    "8037": ("the service needs a rate limit", "name one by --rate-limit"),
    "8118": ("the deployment could not be made", "the service's page in the console has its events"),
}  # fmt: skip

LOGIN = "check the IAM user's name, its domain (the account's name), the password and --project-id"
IAM: Mapping[int, tuple[str, str]] = {
    400: ("IAM does not take the request for a token", LOGIN),
    401: ("IAM does not accept the user or the password", LOGIN),
    403: ("IAM gives this user no token", "the account may be frozen, the user disabled or bound to certain addresses"),
    404: ("IAM does not know what is named", LOGIN),
}

# What a code is, where its HTTP status says something else.
KINDS: Mapping[str, type[PublishError]] = {
    "ModelArts.6797": Missing,
    "ModelArts.6309": Missing,
    "ModelArts.0109": Forbidden,
    "APIGW.0301": Unauthorised,
    "APIG.0301": Unauthorised,
    "APIGW.0307": Unauthorised,
    "APIG.0307": Unauthorised,
    "APIGW.0308": Busy,
    "APIG.0308": Busy,
}

STATUSES: Mapping[int, tuple[str, str]] = {
    401: ("the credentials are missing, wrong or expired", KEYS),
    403: ("these credentials may not do this", RIGHTS),
    404: ("it is not there", "check the ID, --project-id, --region and --endpoint"),
    400: ("", "correct what the message names"),
    405: ("", "check --endpoint: what answers there does not know this call"),
    409: ("", "it is there already, or in the middle of something: look at it, and try again"),
    413: TOO_LARGE,
    414: TOO_LARGE,
    429: ("too many requests in a short time", BUSY),
    494: TOO_LARGE,
}

LOCKED = re.compile(r"reach(?:ed)? the limit|locked", re.IGNORECASE)
SKEWED = re.compile(r"sign\w*(?: has)? expired|skew|clock|x-sdk-date: expected", re.IGNORECASE)
# The gateway repeats what was signed, which may hold the word token.
KEYS_WRONG = re.compile(r"aksk|secretkey|\bak\b", re.IGNORECASE)


def explain(answer: Answer) -> Said:
    """What a refusal says, in words that name the cause and the next step."""
    code, message = _said(answer)
    # The gateway goes on with all that it has signed itself.
    message = message.partition(", canonicalRequest:")[0]
    if code == str(answer.status):
        code = ""  # IAM's form has no better one
    text, hint = meaning(code, message, answer.status)
    skew_s = _skew_s(answer)
    if answer.status == 401 and skew_s is not None and abs(skew_s) > SKEW_TOLD_S:
        way = "behind" if skew_s > 0 else "ahead of"
        hint = f"this machine's clock is {abs(skew_s) / 60:.0f} minutes {way} the platform's: {CLOCK}"
    return Said(text, code, answer.headers.get("x-request-id", ""), hint)


def explain_login(answer: Answer) -> Said:
    """The same for the request for a token, where 401 is about a password."""
    said = explain(answer)
    cause, hint = IAM.get(answer.status, ("", ""))
    if not cause:
        return said
    message = " ".join(_said(answer)[1].split())
    return Said(f"{cause}: {message}" if message else cause, said.code, said.request_id, hint)


def meaning(code: str, message: str, status: int) -> tuple[str, str]:
    """Cause and next step."""
    service, _, number = code.rpartition(".")
    table = {"APIGW": GATEWAY, "APIG": GATEWAY, "ModelArts": MODELARTS}.get(service, {})
    if service in ("APIGW", "APIG") and number == "0201" and status < 500:
        table = {}  # the one code for several things
    cause, hint = table.get(number) or STATUSES.get(status, ("", ""))
    if service in ("APIGW", "APIG") and number == "0301":
        hint = _refused_credentials(message)
    if status >= 500 and not hint:
        cause, hint = "an error at the platform's side", SUPPORT
    return (f"{cause}: {message}" if cause and message else cause or message), hint


def of_kind(error: PublishError) -> PublishError:
    """Where the code says more than the status: the same error, of the kind that fits."""
    kind = KINDS.get(error.code)
    if kind is None or type(error) is kind:
        return error
    return kind(
        error.message,
        hint=error.hint,
        status=error.status,
        code=error.code,
        request_id=error.request_id,
        details=error.details,
    )


def is_taken(error: PublishError) -> bool:
    """The tag is registered already, by somebody who was faster."""
    return isinstance(error, Refused) and error.code == "ModelArts.6737"


def _refused_credentials(message: str) -> str:
    if LOCKED.search(message):
        return "after five wrong signatures the key is locked for five minutes: wait, and then " + KEYS
    if SKEWED.search(message):
        return CLOCK
    return TOKEN if "token" in message.lower() and not KEYS_WRONG.search(message) else KEYS


def _skew_s(answer: Answer) -> float | None:
    """How far this machine is behind."""
    try:
        theirs = parsedate_to_datetime(answer.headers.get("date", ""))
        return (theirs - datetime.now(UTC)).total_seconds()
    except (TypeError, ValueError):
        return None


def _said(answer: Answer) -> tuple[str, str]:
    try:
        document = json.loads(answer.body)
    except (ValueError, RecursionError):
        # A page of some proxy's.
        return "", " ".join(answer.body[:300].decode("utf-8", "replace").split())
    return _code_and_message(document, MAX_DEPTH)


def _code_and_message(document: Any, depth: int) -> tuple[str, str]:
    """The forms that the vendor's services use, all of which its SDK takes."""
    if isinstance(document, list):
        document = next((each for each in document if isinstance(each, dict)), {})
    if not isinstance(document, dict) or depth == 0:
        return "", ""
    for code, message in (
        ("error_code", "error_msg"), ("errorCode", "errorMsg"), ("errorCode", "errorMessage"), ("code", "message"),
    ):  # fmt: skip
        if message in document and code in document:
            return str(document[code] or ""), str(document[message] or "")
    for value in document.values():
        found = _code_and_message(value, depth - 1) if isinstance(value, (dict, list)) else ("", "")
        if any(found):
            return found
    return "", ""
