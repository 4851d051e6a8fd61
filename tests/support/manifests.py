"""config.json and model.yaml against the tables of the contracts: what is wrong with one, line by line.

ModelArts: "Specifications for Editing a Model Configuration File" and what its image and batch pages add.
Modzy: the `model.yaml` of the model template, specification 0.3.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import Any

import yaml

# Yields what is wrong with a value that lies at a path.
Check = Callable[[Any, str], Iterator[str]]
JSON_TYPE, FORM_TYPE = "application/json", "multipart/form-data"


@dataclass(frozen=True)
class Key:
    name: str
    check: Check
    required: bool = True


def text(pattern: str = r"(?s:.*)") -> Check:
    def check(value: Any, at: str) -> Iterator[str]:
        if not isinstance(value, str) or not re.fullmatch(pattern, value):
            yield f"{at}: expected text like {pattern}, got {value!r}"

    return check


def one_of(*values: Any) -> Check:
    def check(value: Any, at: str) -> Iterator[str]:
        if not any(type(value) is type(known) and value == known for known in values):
            yield f"{at}: expected one of {values}, got {value!r}"

    return check


def number(low: float, *, whole: bool = False) -> Check:
    def check(value: Any, at: str) -> Iterator[str]:
        kinds = int if whole else (int, float)
        if isinstance(value, bool) or not isinstance(value, kinds) or value < low:
            yield f"{at}: expected a number from {low}, got {value!r}"

    return check


def block(*keys: Key, ordered: bool = False) -> Check:
    """An object with these keys and no others."""
    known = {key.name: key for key in keys}

    def check(value: Any, at: str) -> Iterator[str]:
        if not isinstance(value, dict):
            yield f"{at}: expected an object, got {value!r}"
            return
        for key in keys:
            if key.name in value:
                yield from key.check(value[key.name], f"{at}.{key.name}")
            elif key.required:
                yield f"{at}.{key.name}: missing"
        yield from (f"{at}.{name}: unknown" for name in value if name not in known)
        if ordered and list(value) != [name for name in known if name in value]:
            yield f"{at}: expected the keys in the template's order, got {list(value)}"

    return check


def each(item: Check, *, least: int = 0) -> Check:
    def check(value: Any, at: str) -> Iterator[str]:
        if not isinstance(value, list) or len(value) < least:
            yield f"{at}: expected a list of at least {least}, got {value!r}"
            return
        for i, member in enumerate(value):
            yield from item(member, f"{at}[{i}]")

    return check


def files(entry: Check) -> Check:
    """An object by file names, none of which differs from another by its ending only."""

    def check(value: Any, at: str) -> Iterator[str]:
        if not isinstance(value, dict) or not value:
            yield f"{at}: expected entries by file name, got {value!r}"
            return
        stems = [PurePosixPath(str(name)).stem for name in value]
        for name, stem in zip(value, stems, strict=True):
            if not isinstance(name, str) or not re.fullmatch(r"[^/\x00]+", name) or name in (".", ".."):
                yield f"{at}: expected a file name, got {name!r}"
            elif len(name.encode()) > 255:
                yield f"{at}: expected a name of at most 255 bytes, got {len(name.encode())}"
            if stems.count(stem) > 1:
                yield f"{at}: expected names that differ by more than their ending, got {name!r}"
            yield from entry(value[name], f"{at}.{name}")

    return check


# --- config.json -----------------------------------------------------------------------------------------------

SCHEMA_KEYS = {
    "object": {"type", "properties", "required", "index"},
    "array": {"type", "items", "minItems", "maxItems", "index"},
    **{kind: {"type", "index"} for kind in ("string", "number", "integer", "boolean", "file")},
}


def schema(*, may_be_file: bool = False) -> Check:
    """The vendor's dialect of JSON schema: `items` is a list of one, "file" is an upload."""

    def check(value: Any, at: str) -> Iterator[str]:
        kind = value.get("type") if isinstance(value, dict) else None
        if kind not in SCHEMA_KEYS or (kind == "file" and not may_be_file):
            yield f"{at}.type: expected a type of the dialect, got {value!r}"
            return
        yield from (f"{at}.{key}: unknown for {kind}" for key in value if key not in SCHEMA_KEYS[kind])
        if kind == "object":
            properties = value.get("properties", {})
            if not isinstance(properties, dict):
                yield f"{at}.properties: expected an object, got {properties!r}"
                return
            for name, inner in properties.items():
                yield from schema()(inner, f"{at}.properties.{name}")
        if kind == "array":
            items = value.get("items")
            if not isinstance(items, list) or len(items) != 1:
                yield f"{at}.items: expected a list of one schema, got {items!r}"
                return
            yield from schema()(items[0], f"{at}.items[0]")
            for key in ("minItems", "maxItems"):
                if key in value:
                    yield from number(0, whole=True)(value[key], f"{at}.{key}")

    return check


def body_schema(content_type: Any) -> Check:
    def check(value: Any, at: str) -> Iterator[str]:
        if not isinstance(value, dict) or value.get("type") != "object":
            yield f"{at}.type: expected object, got {value!r}"
        elif content_type == FORM_TYPE and isinstance(value.get("properties"), dict):
            for name, inner in value["properties"].items():
                yield from schema(may_be_file=True)(inner, f"{at}.properties.{name}")
        else:
            yield from schema()(value, at)

    return check


def side(*types: str, batch: bool) -> Check:
    def check(value: Any, at: str) -> Iterator[str]:
        content_type = value.get("Content-type") if isinstance(value, dict) else None
        yield from block(
            Key("Content-type", one_of(*types), required=batch),
            Key("data", body_schema(content_type), required=batch),
        )(value, at)

    return check


def api(*, batch: bool) -> Check:
    whole = block(
        Key("protocol", one_of("http", "https"), required=False),
        Key("url", text(r"/[A-Za-z0-9\-._~/:]*"), required=False),
        Key("method", one_of("post", "get"), required=False),
        Key("request", side(JSON_TYPE, FORM_TYPE, batch=batch), required=batch),
        Key("response", side(JSON_TYPE, batch=batch), required=batch),
    )

    def check(value: Any, at: str) -> Iterator[str]:
        wrong = list(whole(value, at))
        yield from wrong
        if wrong or not batch:
            return
        properties = value["request"]["data"].get("properties", {})
        if any(inner["type"] == "file" for inner in properties.values()) and len(properties) != 1:
            yield f"{at}.request.data: a batch service uploads one file, so expected one parameter, got {len(properties)}"

    return check


WHOLE_TEXT = text("[0-9]{1,6}")
HEALTH = block(
    Key("url", one_of("/health")),
    Key("protocol", one_of("http")),
    Key("initial_delay_seconds", WHOLE_TEXT),
    Key("timeout_seconds", WHOLE_TEXT),
)
SHARE = number(0)
METRICS = block(*(Key(name, SHARE, required=False) for name in ("f1", "recall", "precision", "accuracy")))


def wrong_in_config(body: bytes, *, batch: bool = False) -> list[str]:
    """What the contract's tables say against this config.json of a custom image. Empty when it is right.

    runtime, dependencies and swr_location must not be there, and are not in the table.
    """
    document = json.loads(body, object_pairs_hook=_no_key_twice)
    check = block(
        Key("model_algorithm", text(r"[A-Za-z][^&!'\"<>=\u4e00-\u9fff]{0,35}")),
        Key("model_type", one_of("Image")),
        Key("metrics", METRICS, required=False),
        Key("apis", each(api(batch=batch), least=1), required=batch),
        Key("health", HEALTH, required=False),
    )
    return list(check(document, "config.json"))


def _no_key_twice(pairs: Sequence[tuple[str, Any]]) -> dict[str, Any]:
    assert len({name for name, _ in pairs}) == len(pairs), f"a key is there twice: {pairs}"
    return dict(pairs)


# --- model.yaml ------------------------------------------------------------------------------------------------

TEXT, FLAG = text(), one_of(True, False)
SIZE = text("[1-9][0-9]*[KMGT]i?")
MEDIA_TYPE = text(r"[a-z]+/[a-z0-9.+*-]+")
SECONDS = text("[1-9][0-9]*s")
MODEL_YAML = block(
    Key("specification", one_of("0.3")),
    Key("type", one_of("file")),
    Key("source", text(".+")),
    Key("version", text(r"[0-9]+\.[0-9]+\.[0-9]+")),
    Key("name", text("(?s:.+)")),
    Key("author", TEXT),
    Key(
        "description",
        block(*(Key(name, TEXT) for name in ("summary", "details", "technical", "performance")), ordered=True),
    ),
    Key("releaseNotes", TEXT, required=False),
    Key("tags", each(TEXT), required=False),
    Key("filters", each(block(Key("type", TEXT), Key("label", TEXT))), required=False),
    Key(
        "metrics",
        each(block(Key("label", TEXT), Key("type", TEXT), Key("value", SHARE), Key("description", TEXT))),
        required=False,
    ),
    Key(
        "inputs",
        files(
            block(Key("acceptedMediaTypes", each(MEDIA_TYPE, least=1)), Key("maxSize", SIZE), Key("description", TEXT))
        ),
    ),
    Key("outputs", files(block(Key("mediaType", MEDIA_TYPE), Key("maxSize", SIZE), Key("description", TEXT)))),
    Key(
        "resources",
        block(
            Key("memory", block(Key("size", SIZE))),
            Key("cpu", block(Key("count", number(0.01)))),
            Key("gpu", block(Key("count", number(0, whole=True)))),
            ordered=True,
        ),
    ),
    Key("timeout", block(Key("status", SECONDS), Key("run", SECONDS), ordered=True)),
    Key(
        "internal",
        block(
            Key("recommended", FLAG),
            Key("experimental", FLAG),
            Key("available", FLAG),
            Key("features", block(Key("explainable", FLAG), Key("adversarialDefense", FLAG)), required=False),
            ordered=True,
        ),
    ),
    ordered=True,
)


def wrong_in_model_yaml(body: bytes) -> list[str]:
    """What the contract's tables say against this model.yaml of specification 0.3. Empty when it is right."""
    document = yaml.safe_load(body)
    wrong = list(MODEL_YAML(document, "model.yaml"))
    if isinstance(document, dict) and "results.json" not in (document.get("outputs") or {}):
        wrong.append("model.yaml.outputs: expected results.json, which clients of the platform read")
    # Without quotes it is a number, and another one to some readers.
    if b"specification: '0.3'\n" not in body and b'specification: "0.3"\n' not in body:
        wrong.append("model.yaml.specification: expected it in quotes")
    return wrong
