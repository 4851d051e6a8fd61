"""What config.json says of a container: its routes with their schemas, and its health check.

Read without a predictor, as the platform reads it: whoever wrote the container. The vendor's own samples misspell keys,
write `items` as a list and numbers as strings; all that is taken.
Source: Huawei Cloud, "Specifications for Editing a Model Configuration File".
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from servekit.errors import ConfigError

URL = re.compile(r"/[A-Za-z0-9\-._~/:]*")
METHODS = ("GET", "POST")
MAX_BYTES = 1024 * 1024
MAX_SECONDS = 86400.0
SHOWN_CHARS = 80


@dataclass(frozen=True, slots=True)
class Api:
    """request_type, request: None where they are not declared. is_whole: no part is missing."""

    method: str
    url: str
    request_type: str | None
    request: Mapping[str, Any] | None
    is_whole: bool

    def __str__(self) -> str:
        return f"{self.method} {self.url}"


@dataclass(frozen=True, slots=True)
class Health:
    """The numbers of the platform's console, where config.json has none; it knows no default of the time limit."""

    url: str = "/health"
    initial_delay_s: float = 12.0
    timeout_s: float = 10.0
    period_s: float = 5.0
    failures: int = 12


@dataclass(frozen=True, slots=True)
class Declared:
    """health: None where nothing checks it."""

    apis: tuple[Api, ...]
    health: Health | None = None


def load(path: Path) -> Declared:
    """Raises ConfigError."""
    try:
        with path.open("rb") as file:
            body = file.read(MAX_BYTES + 1)
    except OSError as error:
        raise ConfigError(f"--config {path}: expected the image's config.json: {error.strerror or error}") from error
    if len(body) > MAX_BYTES:
        raise ConfigError(f"--config {path}: expected at most {MAX_BYTES} bytes")
    return read(body)


def read(body: bytes) -> Declared:
    """Raises ConfigError that names the key, what came and what was expected."""
    document = _object(parsed(body, "config.json"), "config.json")
    apis = document.get("apis", [])
    if not isinstance(apis, list):
        raise wrong("apis", "a list", apis)
    found = tuple(_api(api, f"apis[{i}]") for i, api in enumerate(apis))
    health = document.get("health")
    return Declared(found or (Api("POST", "/", None, None, False),), None if health is None else _health(health))


def parsed(body: bytes, what: str) -> Any:
    """Raises ConfigError."""
    try:
        return json.loads(body)
    except (ValueError, RecursionError) as error:
        raise ConfigError(f"{what}: expected JSON, got an error: {error}") from error


def _api(api: Any, where: str) -> Api:
    api = _object(api, where)
    url = api.get("url", "/")
    if not isinstance(url, str) or not URL.fullmatch(url):
        raise wrong(f"{where}.url", "a path that starts with /", url)
    method = api.get("method", "post")
    if not isinstance(method, str) or method.upper() not in METHODS:
        raise wrong(f"{where}.method", "post or get", method)
    kind, data = _side(api, "request", where)
    answer_kind, answer = _side(api, "response", where)
    return Api(method.upper(), url, kind, data, None not in (kind, data, answer_kind, answer))


def _side(api: Mapping[str, Any], side: str, where: str) -> tuple[str | None, Mapping[str, Any] | None]:
    """Content type and schema; older files hold the schema as text."""
    where = f"{where}.{side}"
    value = _object(api.get(side, {}), where)
    kind = next((value[key] for key in value if key.lower() == "content-type"), None)
    if kind is not None and not isinstance(kind, str):
        raise wrong(f"{where}.Content-type", "a content type", kind)
    data = value.get("data")
    if isinstance(data, str):
        data = parsed(data.encode(), f"config.json: {where}.data")
    return kind, None if data is None else _object(data, f"{where}.data")


def _health(health: Any) -> Health:
    health = _object(health, "health")
    known = Health()
    url = health.get("url", known.url)
    if not isinstance(url, str) or not URL.fullmatch(url):
        raise wrong("health.url", "a path such as /health", url)

    def seconds(key: str, default: float) -> float:
        value = health.get(key, default)
        if isinstance(value, bool) or not str(value).replace(".", "", 1).isdecimal() or float(value) > MAX_SECONDS:
            raise wrong(f"health.{key}", 'a number of seconds as a string, such as "12"', value)
        return float(value)

    return Health(
        url, seconds("initial_delay_seconds", known.initial_delay_s), seconds("timeout_seconds", known.timeout_s),
        seconds("period_seconds", known.period_s), max(1, int(seconds("failure_threshold", known.failures))),
    )  # fmt: skip


def _object(value: Any, where: str) -> Mapping[str, Any]:
    if not isinstance(value, dict):
        raise wrong(where.removeprefix("config.json"), "an object", value)
    return value


def wrong(where: str, expected: str, got: Any, file: str = "config.json") -> ConfigError:
    shown = json.dumps(got)
    shown = shown if len(shown) <= SHOWN_CHARS else shown[:SHOWN_CHARS] + "..."
    return ConfigError(f"{file}: {where + ': ' if where else ''}expected {expected}, got {shown}")
