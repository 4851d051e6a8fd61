"""What SageMaker's fields may hold, checked before anything is sent. Source: botocore's service model of SageMaker."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable

from servekit.errors import ConfigError
from servekit.publish.secrets import Secret

NAME = re.compile(r"[a-zA-Z0-9](-*[a-zA-Z0-9]){0,62}")
ROLE = re.compile(r"arn:aws[a-z-]*:iam::\d{12}:role/?[a-zA-Z_0-9+=,.@\-_/]+")
PACKAGE_ARN = re.compile(
    r"arn:aws[a-z-]*:sagemaker:(?P<region>[a-z0-9-]{9,16}):(?P<account>\d{12}):model-package/(?P<name>[A-Za-z0-9-]{1,63})"
    r"(?:/(?P<version>\d{1,9}))?"
)
INSTANCE_TYPE = re.compile(r"ml\.(?P<family>[a-z]+\d+[a-z0-9-]*)\.[a-z0-9-]+")
# `c7g`, `m6gd`: a g behind the generation is Graviton; in `g4dn` it stands before.
GRAVITON = re.compile(r"[a-z]+\d+[a-z]*g[a-z]*|a1")
GPU = re.compile(r"[pg]\d.*")
VARIABLE = re.compile(r"[a-zA-Z_][a-zA-Z0-9_]*")
MEDIA_TYPE = re.compile(r"[-\w]+/[^\s,;]+(?:;[^,]*)?")
BUCKET = re.compile(r"[a-z0-9][a-z0-9.-]{1,61}[a-z0-9]")
S3_URL = re.compile(rf"s3://(?P<bucket>{BUCKET.pattern})/(?P<key>.+)")
REPOSITORY = re.compile(r"(?:[a-z0-9]+(?:[._-][a-z0-9]+)*/)*[a-z0-9]+(?:[._-][a-z0-9]+)*")

MAX_IMAGE_CHARS = 255
MAX_URL_CHARS = 1024
MAX_DESCRIPTION_CHARS = 1024
MAX_CONTENT_TYPE_CHARS = 256
MAX_RESPONSE_TYPE_CHARS = 1024
MAX_VARIABLES = 100
MAX_VARIABLE_BYTES = 1024
MAX_ENVIRONMENT_BYTES = 32 * 1024
MIN_TIMEOUT_S, MAX_TIMEOUT_S = 60, 3600
MIN_SERVERLESS_MB, MAX_SERVERLESS_MB, SERVERLESS_STEP_MB = 1024, 6144, 1024
MAX_SERVERLESS_CONCURRENCY = 200
MAX_NAME_CHARS = 63
DIGEST_CHARS = 12

# Whoever may describe the model can read its variables.
SECRET_NAME = re.compile(
    r"(?:^|_)(?:SECRET|PASSWORD|PASSWD|TOKEN|CREDENTIALS?|(?:API|ACCESS|PRIVATE)_?KEY(?:_ID)?)(?:$|_)", re.IGNORECASE
)
SECRET_VALUE = re.compile(r"(?:AKIA|ASIA)[A-Z0-9]{16}|-----BEGIN [A-Z ]*PRIVATE KEY-----|\bgh[pousr]_[A-Za-z0-9]{30,}")


def name(option: str, text: str) -> str:
    if len(text) > MAX_NAME_CHARS or not NAME.fullmatch(text):
        raise ConfigError(
            f"{option} {text[:100]!r}: expected 1 to {MAX_NAME_CHARS} letters, digits and hyphens, with a letter or "
            "digit at both ends"
        )
    return text


def role(option: str, text: str) -> str:
    if not ROLE.fullmatch(text) or not 20 <= len(text) <= 2048:
        raise ConfigError(f"{option} {text[:200]!r}: expected an ARN such as arn:aws:iam::123456789012:role/SageMaker")
    return text


def instance_types(option: str, texts: Iterable[str]) -> tuple[str, ...]:
    """Which there are AWS knows, and has more of them every month."""
    found = _list(texts)
    for text in found:
        if not INSTANCE_TYPE.fullmatch(text):
            raise ConfigError(f"{option} {text[:100]!r}: expected instance types such as ml.m5.large")
    return found


def media_types(option: str, texts: Iterable[str], limit: int) -> tuple[str, ...]:
    found = _list(texts)
    for text in found:
        if not MEDIA_TYPE.fullmatch(text) or len(text) > limit:
            raise ConfigError(
                f"{option} {text[:100]!r}: expected media types such as application/json, of at most {limit} characters"
            )
    return found


def bucket(option: str, text: str) -> str:
    if not BUCKET.fullmatch(text):
        raise ConfigError(f"{option} {text[:100]!r}: expected the name of an S3 bucket, without s3://")
    return text


def prefix(option: str, text: str) -> str:
    cleaned = text.strip("/")
    parts = cleaned.split("/")
    if len(cleaned) > 512 or not cleaned.isprintable() or (cleaned and any(p in ("", ".", "..") for p in parts)):
        raise ConfigError(f"{option} {text[:100]!r}: expected a path such as models/digits, of at most 512 characters")
    return cleaned


def model_data_url(option: str, text: str) -> tuple[str, str]:
    """Bucket and key."""
    found = S3_URL.fullmatch(text)
    if found is None or not text.endswith(".tar.gz") or len(text) > MAX_URL_CHARS:
        raise ConfigError(f"{option} {text[:200]!r}: expected s3://BUCKET/PATH/model.tar.gz")
    return found["bucket"], found["key"]


def repository(option: str, text: str) -> str:
    if not REPOSITORY.fullmatch(text) or not 2 <= len(text) <= 256:
        raise ConfigError(
            f"{option} {text[:100]!r}: expected a repository of ECR such as team/digits, 2 to 256 characters in lower "
            "case"
        )
    return text


def environment(option: str, texts: Iterable[str]) -> dict[str, str]:
    """`NAME=VALUE`, none of which may be a secret."""
    found: dict[str, str] = {}
    for text in texts:
        key, equals, value = text.partition("=")
        if not equals or not VARIABLE.fullmatch(key):
            # Whatever it is, it is not shown: it may be a value.
            raise ConfigError(f"{option}: expected NAME=VALUE, with letters, digits and _ in NAME")
        if SECRET_NAME.search(key) or SECRET_VALUE.search(value):
            Secret(value)
            raise ConfigError(
                f"{option} {key}: it looks like a secret, and everybody who may describe the model would read it: let "
                "the model fetch it from AWS Secrets Manager"
            )
        if max(len(key.encode()), len(value.encode())) > MAX_VARIABLE_BYTES:
            raise ConfigError(f"{option} {key[:100]}: expected at most {MAX_VARIABLE_BYTES} bytes")
        found[key] = value
    if len(found) > MAX_VARIABLES or sum(len(f"{k}{v}".encode()) for k, v in found.items()) > MAX_ENVIRONMENT_BYTES:
        raise ConfigError(f"{option}: expected at most {MAX_VARIABLES} variables and {MAX_ENVIRONMENT_BYTES} bytes")
    return found


def serverless(option: str, text: str) -> dict[str, int]:
    """`2048,10`: memory in MB, and calls at the same time."""
    memory, comma, concurrency = text.partition(",")
    wrong = ConfigError(
        f"{option} {text[:50]!r}: expected MEMORY,CONCURRENCY such as 2048,10: {MIN_SERVERLESS_MB} to "
        f"{MAX_SERVERLESS_MB} MB in steps of {SERVERLESS_STEP_MB}, and 1 to {MAX_SERVERLESS_CONCURRENCY}"
    )
    if not comma or not re.fullmatch(r"\d{1,6}", memory) or not re.fullmatch(r"\d{1,6}", concurrency):
        raise wrong
    size, calls = int(memory), int(concurrency)
    if not MIN_SERVERLESS_MB <= size <= MAX_SERVERLESS_MB or size % SERVERLESS_STEP_MB:
        raise wrong
    if not 1 <= calls <= MAX_SERVERLESS_CONCURRENCY:
        raise wrong
    return {"MemorySizeInMB": size, "MaxConcurrency": calls}


def is_graviton(instance_type: str) -> bool:
    found = INSTANCE_TYPE.fullmatch(instance_type)
    return found is not None and GRAVITON.fullmatch(found["family"]) is not None


def is_gpu(instance_type: str) -> bool:
    found = INSTANCE_TYPE.fullmatch(instance_type)
    return found is not None and GPU.fullmatch(found["family"]) is not None


def as_name(text: str) -> str:
    """A name such as SageMaker's of any other."""
    return re.sub(r"-{2,}", "-", re.sub(r"[^a-zA-Z0-9-]", "-", text))[:MAX_NAME_CHARS].strip("-") or "model"


def derived(start: str, digest: str) -> str:
    """A name for a part of `start`, which tells by its end what it is made of."""
    room = MAX_NAME_CHARS - 1 - DIGEST_CHARS
    if len(start) > room:
        # Two long names that begin alike.
        start = f"{start[: room - 9].rstrip('-')}-{hashlib.sha256(start.encode()).hexdigest()[:8]}"
    return f"{start}-{digest[:DIGEST_CHARS]}"


def is_derived(text: str, start: str) -> bool:
    return (
        re.fullmatch(rf"{re.escape(derived(start, 'x').removesuffix('x'))}[0-9a-f]{{{DIGEST_CHARS}}}", text) is not None
    )


def _list(texts: Iterable[str]) -> tuple[str, ...]:
    """Given several times, or with commas."""
    return tuple(dict.fromkeys(part.strip() for text in texts for part in text.split(",") if part.strip()))
