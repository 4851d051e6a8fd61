"""The parameters of the three calls: the header each travels in, what it may be, and whether the container sees it.

Source: the service's own model (`sagemaker-runtime`, 2017-05-13). What is not listed here is stripped.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass

from servekit.emulate.sagemaker.errors import invalid

PREFIX = "X-Amzn-SageMaker-"
ATTRIBUTES = f"{PREFIX}Custom-Attributes"
INFERENCE_ID = f"{PREFIX}Inference-Id"
SESSION_ID = f"{PREFIX}Session-Id"
NEW_SESSION_ID = f"{PREFIX}New-Session-Id"
CLOSED_SESSION_ID = f"{PREFIX}Closed-Session-Id"
CONTENT_TYPE = f"{PREFIX}Content-Type"
TARGET_MODEL = f"{PREFIX}Target-Model"
VARIANT = "x-Amzn-Invoked-Production-Variant"

NAME = r"[a-zA-Z0-9](-*[a-zA-Z0-9])*"
ASCII = r"[\x00-\x7f]*"
VISIBLE = r"[\x20-\x7e]*"
PRINTED = r"[\x21-\x7e][\x20-\x7e]*"
MAX_SHOWN_CHARS = 80


@dataclass(frozen=True, slots=True)
class Field:
    """sent_as: the header that the container gets it in; "" is the platform's own."""

    name: str
    header: str
    pattern: str
    most: int
    expected: str
    sent_as: str = ""
    least: int = 0
    is_number: bool = False


def _type(name: str, header: str, sent_as: str) -> Field:
    return Field(name, header, ASCII, 1024, "at most 1024 US-ASCII characters", sent_as)


def _name(name: str, header: str, sent_as: str = "") -> Field:
    return Field(name, header, NAME, 63, "at most 63 letters, digits and hyphens", sent_as)


ENDPOINT = _name("EndpointName", "")
COMMON = (
    Field("CustomAttributes", ATTRIBUTES, VISIBLE, 1024, "at most 1024 visible US-ASCII characters", ATTRIBUTES),
    Field("InferenceId", INFERENCE_ID, PRINTED, 64, "1 to 64 printable US-ASCII characters", INFERENCE_ID, least=1),
)
ROUTED = (
    *COMMON,
    _name("TargetVariant", f"{PREFIX}Target-Variant"),
    _name("TargetContainerHostname", f"{PREFIX}Target-Container-Hostname"),
    _name("InferenceComponentName", f"{PREFIX}Inference-Component"),
    Field("PrefixAwareId", f"{PREFIX}Prefix-Aware-Id", PRINTED, 64, "1 to 64 printable US-ASCII characters", least=1),
)
SESSION = "at most 256 letters, digits and hyphens"
INVOKE = (
    _type("ContentType", "Content-Type", "Content-Type"),
    _type("Accept", "Accept", "Accept"),
    *ROUTED,
    Field(
        "TargetModel", TARGET_MODEL, PRINTED, 1024, "1 to 1024 printable US-ASCII characters", TARGET_MODEL, least=1
    ),
    Field("EnableExplanations", f"{PREFIX}Enable-Explanations", r".*", 64, "1 to 64 characters", least=1),
    Field("SessionId", SESSION_ID, rf"NEW_SESSION|{NAME}", 256, f"NEW_SESSION, or {SESSION}", SESSION_ID),
)  # fmt: skip
STREAM = (
    _type("ContentType", "Content-Type", "Content-Type"),
    _type("Accept", f"{PREFIX}Accept", "Accept"),
    *ROUTED,
    Field("SessionId", SESSION_ID, NAME, 256, f"the id of a session: {SESSION}; a stream cannot begin one", SESSION_ID),
)
ASYNC = (
    _type("ContentType", CONTENT_TYPE, "Content-Type"),
    _type("Accept", f"{PREFIX}Accept", "Accept"),
    *COMMON,
    Field(
        "InputLocation", f"{PREFIX}InputLocation", r"(https|s3)://[^/]+/?.*", 1024, "s3://BUCKET/KEY, at most 1024 "
        "characters", least=1,
    ),
    Field(
        "S3OutputPathExtension", f"{PREFIX}S3OutputPathExtension", r"(?!s3:|https:)[a-zA-Z0-9!_.*'()/-]+", 512,
        "at most 512 letters, digits and !_.*'()/-", least=1,
    ),
    Field(
        "Filename", f"{PREFIX}Filename", r"(?!.*\..*\.)[a-zA-Z0-9][a-zA-Z0-9-_.]*", 32,
        "at most 32 letters, digits, hyphens and underscores, and one dot", least=1,
    ),
    Field(
        "RequestTTLSeconds", f"{PREFIX}RequestTTLSeconds", r"[0-9]{1,9}", 21600, "a whole number from 60 to 21600",
        least=60, is_number=True,
    ),
    Field(
        "InvocationTimeoutSeconds", f"{PREFIX}InvocationTimeoutSeconds", r"[0-9]{1,9}", 3600,
        "a whole number from 1 to 3600", least=1, is_number=True,
    ),
)  # fmt: skip

SESSION_BEGUN = re.compile(rf"{NAME};\sExpires=[0-9]{{4}}-[0-9]{{2}}-[0-9]{{2}}T[0-9]{{2}}:[0-9]{{2}}:[0-9]{{2}}Z")


@dataclass(frozen=True, slots=True)
class Given:
    """values: by the parameters' names, those that came. headers: the container's."""

    values: Mapping[str, str]
    headers: tuple[tuple[str, str], ...]


def read(fields: tuple[Field, ...], headers: Mapping[str, str]) -> Given:
    """Raises PlatformError."""
    values: dict[str, str] = {}
    sent: list[tuple[str, str]] = []
    for field in fields:
        value = headers.get(field.header)
        if value is None:
            continue
        if not field.sent_as:
            value = _text(value)
        check(field, value)
        values[field.name] = value
        if field.sent_as:
            sent.append((field.sent_as, value))
    return Given(values, tuple(sent))


def _text(value: str) -> str:
    """A key of S3 may be any text, and boto3 sends it as UTF-8; Starlette takes every header for Latin-1."""
    try:
        return value.encode("latin-1").decode()
    except UnicodeDecodeError:
        return value


def check(field: Field, value: str) -> None:
    """Raises PlatformError."""
    good = re.fullmatch(field.pattern, value, re.DOTALL) is not None
    if good and not field.least <= (int(value) if field.is_number else len(value)) <= field.most:
        good = False
    if not good:
        shown = value if len(value) <= MAX_SHOWN_CHARS else f"{len(value)} characters"
        raise invalid(f"1 validation error detected: {field.name}: expected {field.expected}, got {shown!r}")


def returned(headers: Mapping[str, str]) -> tuple[dict[str, str], list[str]]:
    """Of the container's headers those that the caller gets, and what is wrong with the others."""
    kept: dict[str, str] = {}
    wrong: list[str] = []
    rules = (
        (ATTRIBUTES, rf"{VISIBLE}", 1024, "at most 1024 visible US-ASCII characters"),
        (NEW_SESSION_ID, SESSION_BEGUN.pattern, 256, "ID; Expires=YYYY-MM-DDTHH:MM:SSZ"),
        (CLOSED_SESSION_ID, NAME, 256, SESSION),
    )
    for header, pattern, most, expected in rules:
        value = headers.get(header.lower())
        if value is None:
            continue
        if len(value) <= most and re.fullmatch(pattern, value):
            kept[header] = value
        else:
            wrong.append(f"{header} of the container: expected {expected}, got {value[:MAX_SHOWN_CHARS]!r}; stripped")
    return kept, wrong
