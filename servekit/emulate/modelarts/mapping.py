"""The JSON body that a batch service's mapping rule makes of a row of CSV.

A rule is the api's schema, in which every leaf has the `index` of the column that it takes its value from:

    {"type": "object", "properties": {"req_data": {"type": "array", "items": [
        {"type": "object", "properties": {"width": {"type": "number", "index": 0}}}]}}}

makes of the row `5.1` the body {"req_data": [{"width": 5.1}]}. An index of -1, one that no column has, or none at all:
the parameter is left out.
Source: Huawei Cloud, "Deploying as a Batch Service", "Creating a Service".
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from servekit.emulate.modelarts.declared import MAX_BYTES, parsed, wrong
from servekit.errors import ConfigError

FILE = "the mapping rule"
MAX_DEPTH = 32
MAX_NUMBER_CHARS = 100
SHOWN_CHARS = 60
NUMBER = re.compile(r"[+-]?(?:[0-9]+\.?[0-9]*|\.[0-9]+)(?:[eE][+-]?[0-9]+)?")
INTEGER = re.compile(r"[+-]?[0-9]+")
LEFT_OUT = object()


class BadRow(Exception):
    """The message says which column, what was expected and what came."""


@dataclass(frozen=True, slots=True)
class _Leaf:
    where: str
    kind: str
    index: int

    def made(self, row: Sequence[str]) -> Any:
        if not 0 <= self.index < len(row):
            return LEFT_OUT
        text = row[self.index]
        try:
            return LEAVES[self.kind](text)
        except ValueError as error:
            raise BadRow(
                f"column {self.index} is {self.where}: expected {EXPECTED[self.kind]}, got {text[:SHOWN_CHARS]!r}"
            ) from error


@dataclass(frozen=True, slots=True)
class _Object:
    members: Mapping[str, _Node]

    def made(self, row: Sequence[str]) -> Any:
        found = {name: member.made(row) for name, member in self.members.items()}
        return {name: value for name, value in found.items() if value is not LEFT_OUT}


@dataclass(frozen=True, slots=True)
class _Array:
    """One element for each schema in `items`: the platform's own rules have one."""

    items: tuple[_Node, ...]

    def made(self, row: Sequence[str]) -> Any:
        return [value for value in (item.made(row) for item in self.items) if value is not LEFT_OUT]


_Node = _Leaf | _Object | _Array


@dataclass(frozen=True, slots=True)
class Rule:
    root: _Node

    def body(self, row: Sequence[str]) -> Any:
        """Raises BadRow."""
        return self.root.made(row)

    @property
    def columns(self) -> int:
        """How many a row needs, so that nothing is left out for want of it."""
        return max((leaf.index + 1 for leaf in _leaves(self.root)), default=0)


def load(path: Path) -> Rule:
    """Raises ConfigError."""
    try:
        with path.open("rb") as file:
            body = file.read(MAX_BYTES + 1)
    except OSError as error:
        raise ConfigError(f"--mapping-rule {path}: expected a JSON file: {error.strerror or error}") from error
    if len(body) > MAX_BYTES:
        raise ConfigError(f"--mapping-rule {path}: expected at most {MAX_BYTES} bytes")
    document = parsed(body, f"--mapping-rule {path}")
    if isinstance(document, dict) and "mapping_rule" in document:
        document = document["mapping_rule"]
    return parse(document)


def parse(document: Any) -> Rule:
    """Raises ConfigError."""
    rule = Rule(_node(document, "", 0))
    if isinstance(rule.root, _Leaf):
        raise wrong("", 'an object or an array, such as {"type": "object", "properties": {...}}', document, FILE)
    if not any(leaf.index >= 0 for leaf in _leaves(rule.root)):
        raise ConfigError(
            f'{FILE}: expected an "index" from 0 in its leaves, got none: every parameter would be left out'
        )
    return rule


def has_index(schema: Any) -> bool:
    """Is this schema a rule as well?"""
    try:
        return any(leaf.index >= 0 for leaf in _leaves(_node(schema, "", 0)))
    except ConfigError:
        return False


def _leaves(node: _Node) -> list[_Leaf]:
    if isinstance(node, _Leaf):
        return [node]
    inner = node.members.values() if isinstance(node, _Object) else node.items
    return [leaf for member in inner for leaf in _leaves(member)]


def _node(schema: Any, where: str, depth: int) -> _Node:
    if not isinstance(schema, dict):
        raise wrong(where, "an object with a type", schema, FILE)
    if depth > MAX_DEPTH:
        raise ConfigError(f"{FILE}: expected at most {MAX_DEPTH} objects and arrays in each other")
    items = schema.get("items", schema.get("item"))
    kind = schema.get("type") or ("object" if "properties" in schema else "array" if items is not None else None)
    if kind == "object":
        properties = schema.get("properties", {})
        if not isinstance(properties, dict):
            raise wrong(_under(where, "properties"), "an object", properties, FILE)
        return _Object({name: _node(inner, _under(where, name), depth + 1) for name, inner in properties.items()})
    if kind == "array":
        schemas = items if isinstance(items, list) else [items]
        return _Array(tuple(_node(inner, f"{where}[{i}]", depth + 1) for i, inner in enumerate(schemas)))
    if not isinstance(kind, str) or kind not in LEAVES:
        raise wrong(_under(where, "type"), f"one of object, array, {', '.join(LEAVES)}", kind, FILE)
    index = schema.get("index", -1)
    # As the platform has it, an index that cannot be one drops the parameter.
    return _Leaf(where, kind, index if isinstance(index, int) and not isinstance(index, bool) else -1)


def _under(where: str, name: str) -> str:
    return f"{where}.{name}" if where else name


def _number(text: str) -> float:
    text = text.strip()
    if INTEGER.fullmatch(text):
        return _integer(text)
    if len(text) > MAX_NUMBER_CHARS or not NUMBER.fullmatch(text) or not math.isfinite(float(text)):
        raise ValueError(text)
    return float(text)


def _integer(text: str) -> int:
    text = text.strip()
    if len(text) > MAX_NUMBER_CHARS or not INTEGER.fullmatch(text):
        raise ValueError(text)
    return int(text)


def _boolean(text: str) -> bool:
    known = {"true": True, "false": False}
    if (word := text.strip().lower()) not in known:
        raise ValueError(text)
    return known[word]


LEAVES: Mapping[str, Callable[[str], Any]] = {
    "string": str, "number": _number, "integer": _integer, "boolean": _boolean,
}  # fmt: skip
EXPECTED = {"number": "a number", "integer": "a whole number", "boolean": "true or false"}
