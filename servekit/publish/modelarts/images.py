"""The objects of ModelArts Image Management, field by field as the vendor's page has them.

What is sent and what comes back differ: `resource_category` becomes `resource_categories`, `services` becomes
`dev_services`, `arch` comes back in lower case. Values of enumerations are checked when they are sent, and taken as
they are when they come: a newer platform may know more of them.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields
from datetime import UTC, datetime
from typing import Any, Self

from servekit.errors import ConfigError
from servekit.publish import reference
from servekit.publish.failures import NotUnderstood
from servekit.publish.reference import Reference

ARCHES = ("X86_64", "AARCH64")
# As docker and Python call them.
ARCH_NAMES = {"amd64": "X86_64", "x86-64": "X86_64", "arm64": "AARCH64"}
ORIGINS = ("CUSTOMIZE", "IMAGE_SAVE")
RESOURCE_CATEGORIES = ("CPU", "GPU", "ASCEND")
SERVICE_TYPES = ("COMMON", "INFERENCE", "TRAIN", "DEV", "UNKNOWN")
SERVICES = ("NOTEBOOK", "SSH")
VISIBILITIES = ("PRIVATE", "PUBLIC")
FLAVOR_TYPES = ("ASCEND_SNT9", "ASCEND_SNT9B", "ASCEND_SNT3")

READY = "ACTIVE"
FAILED = ("CREATE_FAILED", "ERROR")
DELETED = "DELETED"

MAX_DESCRIPTION_CHARS = 512
MAX_README_CHARS = 3000
MAX_TAGS = 20
MIN_PATH_CHARS, MAX_PATH_CHARS = 16, 2048
WORKSPACE_ID = re.compile(r"0|[0-9a-z]{32}")
INSTANCE_ID = re.compile(r"[0-9A-Za-z-]{1,64}")
ID = re.compile(r"[0-9A-Za-z_-]{1,64}")
# How the digest stands at the end of a description.
DIGEST = re.compile(r" ?\[servekit (sha256:[0-9a-f]{64})\]$")

KIBIBYTE = 1024
# The page has them as Long.
MAX_BITS = 63
# An image of more is refused, so a size beyond it is not in the unit that the page names.
MAX_PLAUSIBLE_BYTES = 1024**4


@dataclass(frozen=True, slots=True)
class Registration:
    """The request body. None is not sent, and the platform's default holds.

    flavor_type, tags, swr_instance_id, read_me: known to the vendor's SDK only.
    """

    swr_path: str
    arch: str | None = None
    description: str | None = None
    origin: str | None = None
    resource_category: Sequence[str] | None = None
    service_type: str | None = None
    services: Sequence[str] | None = None
    visibility: str | None = None
    workspace_id: str | None = None
    flavor_type: str | None = None
    tags: Sequence[str] | None = None
    swr_instance_id: str | None = None
    read_me: str | None = None

    def document(self) -> dict[str, Any]:
        values = {field.name: getattr(self, field.name) for field in fields(self)}
        return {
            name: list(value) if isinstance(value, (list, tuple)) else value
            for name, value in values.items()
            if value is not None
        }

    def check(self, *, ascend: bool = True) -> Reference:
        """The address's parts. ascend: the cloud has such processors. Raises ConfigError that names the field."""
        _one_of("arch", self.arch, ARCHES)
        _one_of("origin", self.origin, ORIGINS)
        _some_of("resource_category", self.resource_category, RESOURCE_CATEGORIES)
        _one_of("service_type", self.service_type, SERVICE_TYPES)
        _some_of("services", self.services, SERVICES)
        _one_of("visibility", self.visibility, VISIBILITIES)
        _one_of("flavor_type", self.flavor_type, FLAVOR_TYPES)
        if not ascend and "ASCEND" in (self.resource_category or ()):
            raise ConfigError("resource_category: expected CPU or GPU, got ASCEND, which this cloud does not have")
        _at_most("description", self.description, MAX_DESCRIPTION_CHARS)
        _at_most("read_me", self.read_me, MAX_README_CHARS)
        _matches(
            "workspace_id",
            self.workspace_id,
            WORKSPACE_ID,
            "0 for the default one, or 32 lower-case letters and digits",
        )
        _matches("swr_instance_id", self.swr_instance_id, INSTANCE_ID, "letters, digits and -, at most 64")
        if self.tags is not None and len(self.tags) > MAX_TAGS:
            raise ConfigError(f"tags: expected at most {MAX_TAGS}, got {len(self.tags)}")
        return check_path(self.swr_path)


def check_path(swr_path: str) -> Reference:
    """registry[:port]/namespace/name:tag. Raises ConfigError."""
    form = "registry[:port]/namespace/name:tag, such as swr.cn-north-4.myhuaweicloud.com/my-organization/my-model:1.0.0"
    if not MIN_PATH_CHARS <= len(swr_path) <= MAX_PATH_CHARS:
        raise ConfigError(
            f"swr_path: expected {form}, of {MIN_PATH_CHARS} to {MAX_PATH_CHARS} characters, got {len(swr_path)} "
            f"characters: {swr_path[:200]!r}"
        )
    parsed = reference.parse(swr_path, option="swr_path")
    missing = [name for name in ("registry", "namespace", "tag") if not getattr(parsed, name)]
    if missing:
        raise ConfigError(f"swr_path {swr_path[:200]!r}: expected {form}, got no {' and no '.join(missing)}")
    if parsed.digest:
        raise ConfigError(f"swr_path {swr_path[:200]!r}: expected a tag alone: ModelArts takes no digest")
    return parsed


def arch_named(text: str) -> str:
    """The platform's word for a processor; anything unknown is left for `check`."""
    upper = text.upper()
    return upper if upper in ARCHES else ARCH_NAMES.get(text.lower(), text)


def described(description: str, digest: str) -> str:
    """The description with the digest at its end, by which a repeated publish knows what is there."""
    if not digest:
        return description
    mark = f"[servekit {digest}]"
    text = f"{description} {mark}" if description else mark
    if len(text) > MAX_DESCRIPTION_CHARS:
        raise ConfigError(
            f"description: expected at most {MAX_DESCRIPTION_CHARS - len(mark) - 1} characters (the platform's "
            f"{MAX_DESCRIPTION_CHARS} without the image's digest, which is kept at its end), got {len(description)}"
        )
    return text


@dataclass(frozen=True, slots=True)
class Image:
    """What comes back. None: not said. more: fields that are on no page that we know."""

    id: str
    name: str | None = None
    namespace: str | None = None
    tag: str | None = None
    swr_path: str | None = None
    arch: str | None = None
    description: str | None = None
    origin: str | None = None
    type: str | None = None
    service_type: str | None = None
    status: str | None = None
    status_message: str | None = None
    visibility: str | None = None
    workspace_id: str | None = None
    size: int | None = None
    create_at: int | None = None
    update_at: int | None = None
    dev_services: tuple[str, ...] | None = None
    resource_categories: tuple[str, ...] | None = None
    support_res_categories: tuple[str, ...] | None = None
    flavor_type: str | None = None
    swr_instance_id: str | None = None
    show_name: str | None = None
    show_tag: str | None = None
    tags: tuple[Any, ...] | None = None
    more: Mapping[str, Any] = field(default_factory=dict)

    @classmethod
    def of(cls, document: Any) -> Self:
        """Raises NotUnderstood."""
        if not isinstance(document, dict) or not isinstance(document.get("id"), str) or not document["id"]:
            raise NotUnderstood(f"expected an image, an object with an id, got {_short(document)}")
        if not ID.fullmatch(document["id"]):
            raise NotUnderstood(f"id: expected letters, digits, - and _, got {_short(document['id'])}")
        known = {each.name for each in fields(cls)} - {"more"}
        values: dict[str, Any] = {}
        for name, value in document.items():
            if name not in known or value is None:
                continue
            if name in ("size", "create_at", "update_at"):
                values[name] = _integer(name, value)
            elif name in LISTS:
                values[name] = _list(name, value)
            else:
                values[name] = _text(name, value)
        return cls(**values, more={name: value for name, value in document.items() if name not in known})

    def document(self) -> dict[str, Any]:
        """As it came."""
        values = {each.name: getattr(self, each.name) for each in fields(self) if each.name != "more"}
        return {
            name: list(value) if isinstance(value, tuple) else value
            for name, value in values.items()
            if value is not None
        } | dict(self.more)

    @property
    def digest(self) -> str:
        found = DIGEST.search(self.description or "")
        return found[1] if found else ""

    @property
    def state(self) -> str:
        return (self.status or "").upper()

    @property
    def going(self) -> bool:
        """Unknown states are not ends: a newer platform may have more steps."""
        return self.state not in (READY, *FAILED, DELETED)


LISTS = ("dev_services", "resource_categories", "support_res_categories", "tags")


@dataclass(frozen=True, slots=True)
class Group:
    """All tags of one name."""

    name: str
    namespace: str | None = None
    version_count: int | None = None
    create_at: int | None = None
    update_at: int | None = None
    id: str | None = None
    description: str | None = None
    more: Mapping[str, Any] = field(default_factory=dict)

    @classmethod
    def of(cls, document: Any) -> Self:
        if not isinstance(document, dict) or not isinstance(document.get("name"), str):
            raise NotUnderstood(f"expected a group of images, an object with a name, got {_short(document)}")
        known = {each.name for each in fields(cls)} - {"more"}
        values = {
            name: _integer(name, value) if name in ("version_count", "create_at", "update_at") else _text(name, value)
            for name, value in document.items()
            if name in known and value is not None
        }
        return cls(**values, more={name: value for name, value in document.items() if name not in known})  # type: ignore[arg-type]

    def document(self) -> dict[str, Any]:
        values = {each.name: getattr(self, each.name) for each in fields(self) if each.name != "more"}
        return {name: value for name, value in values.items() if value is not None} | dict(self.more)


def size_text(size: int | None) -> str:
    """The page says KB, and its own example is in bytes: what cannot be KB is taken as bytes, and both are shown."""
    if size is None or size < 0:
        return "unknown"
    if size * KIBIBYTE <= MAX_PLAUSIBLE_BYTES:
        return f"{binary(size * KIBIBYTE)} ({size} KB)"
    return (
        f"{binary(size)} ({size}, taken as bytes: as KB, which the vendor's page says, it is {binary(size * KIBIBYTE)})"
    )


def binary(nbytes: int) -> str:
    value, unit = float(nbytes), "B"
    for larger in ("KiB", "MiB", "GiB", "TiB"):
        if value < KIBIBYTE:
            break
        value, unit = value / KIBIBYTE, larger
    return f"{value:.1f} {unit}" if unit != "B" else f"{nbytes} B"


def time_text(milliseconds: int | None) -> str:
    if milliseconds is None:
        return ""
    try:
        return datetime.fromtimestamp(milliseconds / 1000, UTC).strftime("%Y-%m-%d %H:%M:%S UTC")
    except (ValueError, OverflowError, OSError):
        return str(milliseconds)


# --- checks before sending ---


def _one_of(name: str, value: str | None, known: Sequence[str]) -> None:
    if value is not None and value not in known:
        raise ConfigError(f"{name}: expected one of {', '.join(known)}, got {value[:100]!r}")


def _some_of(name: str, values: Sequence[str] | None, known: Sequence[str]) -> None:
    if values is None:
        return
    for value in values:
        _one_of(name, value, known)
    if len(set(values)) != len(values):
        raise ConfigError(f"{name}: expected each of {', '.join(known)} once at most, got {', '.join(values)}")


def _at_most(name: str, value: str | None, limit: int) -> None:
    if value is not None and len(value) > limit:
        raise ConfigError(f"{name}: expected at most {limit} characters, got {len(value)}")


def _matches(name: str, value: str | None, form: re.Pattern[str], words: str) -> None:
    if value is not None and not form.fullmatch(value):
        raise ConfigError(f"{name}: expected {words}, got {value[:100]!r}")


def check_id(text: str, option: str) -> str:
    """It becomes a part of a path. Raises ConfigError."""
    if not ID.fullmatch(text):
        raise ConfigError(f"{option}: expected at most 64 letters, digits, - and _, got {text[:100]!r}")
    return text


# --- what came ---


def _text(name: str, value: Any) -> str:
    if isinstance(value, (dict, list)):
        raise NotUnderstood(f"{name}: expected text, got {_short(value)}")
    return value if isinstance(value, str) else str(value)


def _integer(name: str, value: Any) -> int:
    if isinstance(value, bool):
        raise NotUnderstood(f"{name}: expected a number, got {_short(value)}")
    try:
        number = int(value)
    except (TypeError, ValueError, OverflowError):
        raise NotUnderstood(f"{name}: expected a number, got {_short(value)}") from None
    if number.bit_length() > MAX_BITS:
        raise NotUnderstood(f"{name}: expected a number of at most {MAX_BITS} bits, got one of {number.bit_length()}")
    return number


def _list(name: str, value: Any) -> tuple[Any, ...]:
    if not isinstance(value, list):
        raise NotUnderstood(f"{name}: expected a list, got {_short(value)}")
    return tuple(value)


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 120 else f"{text[:120]}..."
