"""Who asks, where, and what AWS's errors mean. boto3 signs, retries and finds the credentials, by its own rules."""

from __future__ import annotations

import functools
import re
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from servekit import __version__
from servekit.errors import ConfigError
from servekit.publish.failures import (
    Busy,
    Forbidden,
    Missing,
    NotUnderstood,
    PublishError,
    Refused,
    Unauthorised,
    Unreachable,
)
from servekit.publish.http import CONNECT_TIMEOUT_S, READ_TIMEOUT_S, check_endpoint, is_loopback
from servekit.publish.secrets import Secret

if TYPE_CHECKING:
    from mypy_boto3_ecr import ECRClient
    from mypy_boto3_s3 import S3Client
    from mypy_boto3_sagemaker import SageMakerClient

INSTALL = 'the package boto3 is not installed: pip install "servekit[sagemaker]"'
LOG_IN = (
    "look at AWS_PROFILE, AWS_ACCESS_KEY_ID and ~/.aws, or log in (`aws sso login`); `aws sts get-caller-identity` "
    "tells who you are"
)
RIGHTS = "ask whoever manages the account for this right, or use another --profile"

UNAUTHORISED = frozenset(
    [
        *("AuthFailure", "ExpiredToken", "ExpiredTokenException", "IncompleteSignature", "InvalidAccessKeyId"),
        *("InvalidClientTokenId", "InvalidSignatureException", "InvalidToken", "MissingAuthenticationToken"),
        *("MissingAuthenticationTokenException", "RequestExpired", "RequestTimeTooSkewed", "SignatureDoesNotMatch"),
        *("TokenRefreshRequired", "UnrecognizedClientException", "InvalidIdToken"),
    ]
)
FORBIDDEN = frozenset(
    [
        *("403", "AccessDenied", "AccessDeniedException", "AllAccessDisabled", "NotAuthorized", "OptInRequired"),
        "UnauthorizedOperation",
    ]
)
MISSING = frozenset(["404", "ImageNotFoundException", "NoSuchBucket", "NoSuchKey", "NotFound", "ResourceNotFound"])
BUSY = re.compile(r"Throttl|TooManyRequests|RequestLimitExceeded|SlowDown|ServiceUnavailable|Internal(?:Failure|Error)")
NOT_THERE = re.compile(r"could not find|does not exist|not found|cannot find", re.IGNORECASE)
ALREADY_THERE = re.compile(r"already exist|already in use|in use", re.IGNORECASE)
BY_CODE = {
    "ExpiredToken": "the session has expired: log in again (`aws sso login`), or get new temporary credentials",
    "RequestTimeTooSkewed": "this machine's clock is wrong: set it",
    "ResourceLimitExceeded": "ask for a higher quota in the Service Quotas console, or use another --instance-type",
    "OptInRequired": "enable this region for the account first",
}


@dataclass(frozen=True, slots=True)
class Account:
    """id, arn: whose credentials they are. Clients are made once, when they are asked for."""

    id: str
    arn: str
    region: str
    session: Any = field(repr=False)
    endpoint_url: str | None = None
    insecure_http: bool = False
    _clients: dict[str, Any] = field(default_factory=dict, repr=False, compare=False)

    @property
    def sagemaker(self) -> SageMakerClient:
        client: SageMakerClient = _client(self, "sagemaker")
        return client

    @property
    def ecr(self) -> ECRClient:
        client: ECRClient = _client(self, "ecr")
        return client

    @property
    def s3(self) -> S3Client:
        client: S3Client = _client(self, "s3")
        return client


def account(region: str | None, profile: str | None, endpoint_url: str | None, *, insecure_http: bool) -> Account:
    """Asks AWS who this is, so that missing and expired credentials are told before anything is done."""
    if endpoint_url is not None:
        check_endpoint("--endpoint-url", endpoint_url, insecure_http=insecure_http)
    try:
        import boto3
    except ImportError as error:
        raise ConfigError(INSTALL) from error
    with explained("the AWS configuration"):
        session = boto3.Session(region_name=region, profile_name=profile)
        if not session.region_name:
            raise ConfigError(
                "--region: expected a region such as eu-west-1, and neither AWS_REGION nor ~/.aws has one"
            )
        found = session.get_credentials()
        if found is None:
            raise Unauthorised("no AWS credentials found", hint=LOG_IN)
        frozen = found.get_frozen_credentials()
        for text in (frozen.access_key, frozen.secret_key, frozen.token):
            Secret(text or "")
            if text and not (text.isascii() and text.isprintable()):
                raise ConfigError(f"the AWS credentials ({found.method}): expected printable ASCII characters alone")
    asking = Account("", "", session.region_name, session, endpoint_url, insecure_http)
    with explained("GetCallerIdentity"):
        who = _client(asking, "sts").get_caller_identity()
    who_id, arn = said(who, "Account", "GetCallerIdentity"), said(who, "Arn", "GetCallerIdentity")
    return Account(who_id, arn, session.region_name, session, endpoint_url, insecure_http)


def _client(account: Account, service: str) -> Any:
    if service not in account._clients:
        account._clients[service] = _new_client(account, service)
    return account._clients[service]


def _new_client(account: Account, service: str) -> Any:
    from botocore.config import Config

    config = Config(
        # How often is boto3's own AWS_MAX_ATTEMPTS.
        retries={"mode": "standard"},
        connect_timeout=CONNECT_TIMEOUT_S,
        read_timeout=READ_TIMEOUT_S,
        user_agent_extra=f"servekit/{__version__}",
    )
    make = functools.partial(
        account.session.client, service, region_name=account.region, endpoint_url=account.endpoint_url
    )
    with explained(f"the client of {service}"):
        client = make(config=config)
        # It may also come from AWS_ENDPOINT_URL, or from a file.
        url = client.meta.endpoint_url
        check_endpoint("the endpoint URL of AWS", url, insecure_http=account.insecure_http)
        if urllib.request.getproxies() and is_loopback(urlsplit(url).hostname or ""):
            # Plain http is for this machine, and not for a proxy that is somewhere else.
            client = make(config=config.merge(Config(proxies={})))
    return client


# --- errors ---


@contextmanager
def explained(what: str) -> Iterator[None]:
    """boto3's exceptions as ours. what: the request, in words."""
    from botocore.exceptions import BotoCoreError, ClientError
    from botocore.parsers import ResponseParserError

    try:
        yield
    except ClientError as error:
        raise of_client_error(what, error.response) from error
    except ResponseParserError as error:
        raise _not_understood(what, str(error)) from error
    except BotoCoreError as error:
        raise _of_core_error(what, error) from error


def of_client_error(what: str, response: Any) -> PublishError:
    """What AWS answered."""
    said = response.get("Error") or {}
    about = response.get("ResponseMetadata") or {}
    code, text = str(said.get("Code") or ""), str(said.get("Message") or "no reason given")
    status = about.get("HTTPStatusCode")
    status = status if isinstance(status, int) else None
    kind = _kind(code, text, status)
    hints = {Unauthorised: LOG_IN, Forbidden: RIGHTS, Busy: "try again later"}
    hint = next((hint for name, hint in BY_CODE.items() if code.startswith(name)), hints.get(kind, ""))
    return kind(
        f"{what}: {code}: {text}" if code else f"{what}: {text}",
        hint=hint, status=status, code=code, request_id=str(about.get("RequestId") or ""),
    )  # fmt: skip


def _kind(code: str, text: str, status: int | None) -> type[PublishError]:
    if code in UNAUTHORISED:
        return Unauthorised
    if code in FORBIDDEN:
        return Forbidden
    if code in MISSING or code.endswith(("NotFoundException", "NotFound")):
        return Missing
    if BUSY.search(code) or status == 429 or (status or 0) >= 500:
        return Busy
    # SageMaker has one code for nearly all that is wrong.
    if code == "ValidationException" and NOT_THERE.search(text):
        return Missing
    return Refused


def _of_core_error(what: str, error: Exception) -> PublishError | ConfigError:
    from botocore import exceptions as core

    text = " ".join(str(error).split())
    if isinstance(error, (core.NoCredentialsError, core.PartialCredentialsError)):
        return Unauthorised(f"{what}: {text}", hint=LOG_IN)
    if isinstance(
        error,
        (core.CredentialRetrievalError, core.TokenRetrievalError, core.SSOError, core.MetadataRetrievalError),
    ):
        return Unauthorised(f"{what}: {text}", hint=LOG_IN)
    if isinstance(error, core.ParamValidationError):
        return ConfigError(f"{what}: {text}")
    if isinstance(error, (core.IncompleteReadError, core.ResponseStreamingError)):
        return _not_understood(what, text)
    if isinstance(error, core.SSLError):
        return Unreachable(
            f"{what}: {text}", hint="if a proxy has an authority of its own, name its file in AWS_CA_BUNDLE"
        )
    if isinstance(error, (core.HTTPClientError, core.ConnectionError)):
        return Unreachable(f"{what}: {text}", hint="check the network, --region and --endpoint-url")
    # A profile that is not there, a file that cannot be read, a region that is none.
    return ConfigError(f"{what}: {text}")


def said(answer: Any, name: str, what: str) -> str:
    """A text that AWS always answers with; what is no JSON at all reads as an answer without it."""
    text = answer.get(name)
    if not isinstance(text, str) or not text:
        raise _not_understood(what, f"{name} is missing")
    return text


def _not_understood(what: str, text: str) -> NotUnderstood:
    return NotUnderstood(
        f"{what}: an answer that was cut off, or is not AWS's: {text}",
        hint="check --endpoint-url: a proxy or login page may answer in its place",
    )


def is_there(error: PublishError) -> bool:
    """Something of this name was made already."""
    return isinstance(error, Refused) and bool(ALREADY_THERE.search(error.message) or error.code == "ConflictException")
