"""The part of JSONPath that batch transform's filters know. It is smaller than any library's, and not the same.

`$['a','b']` makes an object of the two and no list; a slice counts its end in (the developer guide says so three
times); an index that is not there is an error; `..`, `?()`, an underscore, or a list with a slice in it are refused. So
these lines say what the platform says, where a library would quietly do something else.

Source: developer guide, "Associate Prediction Results with Input Records"; the messages that the platform refuses with.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any

from servekit.errors import ConfigError

MAX_CHARS = 63
# The platform names these, letters and digits in its refusals.
FORBIDDEN = re.compile(r"[^A-Za-z0-9$\[\]*. ,:'-]")
NAME = r"[A-Za-z0-9][A-Za-z0-9 -]*"
NUMBER = r"-?[0-9]{1,9}"
STEP = re.compile(
    rf"\.?\[\s*(?P<names>'{NAME}'(?:\s*,\s*'{NAME}')*)\s*\]"
    rf"|\[\s*(?P<indexes>{NUMBER}(?:\s*,\s*{NUMBER})*)\s*\]"
    rf"|\[\s*(?P<start>{NUMBER})?\s*:\s*(?P<end>{NUMBER})?\s*\]"
    r"|\.\*|\[\s*\*\s*\]"
    r"|\.(?P<name>[A-Za-z0-9][A-Za-z0-9-]*)"
)


class NotThere(Exception):
    """The message says what is missing in the record."""


@dataclass(frozen=True, slots=True)
class Names:
    names: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Indexes:
    indexes: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Slice:
    """end counts in."""

    start: int | None
    end: int | None


@dataclass(frozen=True, slots=True)
class Everything:
    pass


Step = Names | Indexes | Slice | Everything


@dataclass(frozen=True, slots=True)
class JsonPath:
    text: str
    steps: tuple[Step, ...]

    @property
    def is_all(self) -> bool:
        return not self.steps

    @property
    def has_end(self) -> bool:
        """Is there a slice that says where it ends?"""
        return any(isinstance(step, Slice) and step.end is not None for step in self.steps)

    @property
    def is_of_rows(self) -> bool:
        """One step of numbers: what a row of CSV can be asked for."""
        return len(self.steps) <= 1 and not any(isinstance(step, Names) for step in self.steps)

    def of(self, document: Any) -> Any:
        """Raises NotThere."""
        found, is_many = [document], False
        for step in self.steps:
            taken: list[Any] = []
            for value in found:
                taken += self._take(step, value)
            found = taken
            is_many = is_many or _makes_many(step)
        return found if is_many else found[0]

    def _take(self, step: Step, value: Any) -> list[Any]:
        if isinstance(step, Names):
            if not isinstance(value, dict):
                raise NotThere(f"{self.text}: expected an object that has {step.names[0]!r}, got {_kind(value)}")
            absent = [name for name in step.names if name not in value]
            if absent:
                raise NotThere(f"{self.text}: there is no {absent[0]!r}")
            return [value[step.names[0]]] if len(step.names) == 1 else [{name: value[name] for name in step.names}]
        if isinstance(step, Everything):
            if isinstance(value, dict):
                return list(value.values())
            return list(self._list(value))
        items = self._list(value)
        if isinstance(step, Indexes):
            return [items[self._index(index, len(items))] for index in step.indexes]
        start = 0 if step.start is None else self._index(step.start, len(items))
        end = len(items) - 1 if step.end is None else self._index(step.end, len(items))
        return items[start : end + 1]

    def _list(self, value: Any) -> list[Any]:
        if not isinstance(value, list):
            raise NotThere(f"{self.text}: expected a list, got {_kind(value)}")
        return value

    def _index(self, index: int, size: int) -> int:
        if not -size <= index < size:
            raise NotThere(f"{self.text}: there is no index {index} in {size} elements")
        return index + size if index < 0 else index


def _makes_many(step: Step) -> bool:
    return isinstance(step, (Slice, Everything)) or (isinstance(step, Indexes) and len(step.indexes) > 1)


def _kind(value: Any) -> str:
    names = {dict: "an object", list: "a list", str: "a text", bool: "a truth value", type(None): "null"}
    return names.get(type(value), "a number")


def parse(option: str, text: str) -> JsonPath:
    """Raises ConfigError."""

    def refuse(why: str) -> ConfigError:
        return ConfigError(f"{option} {text!r}: {why}")

    if len(text) > MAX_CHARS:
        raise refuse(f"expected at most {MAX_CHARS} characters, got {len(text)}")
    if not text.startswith("$"):
        raise refuse("expected $, the record, at its beginning")
    if found := FORBIDDEN.search(text):
        raise refuse(f"the platform takes no {found[0]!r}; expected letters, digits and $ [ ] * . , : - '")
    steps: list[Step] = []
    at = 1
    while at < len(text):
        step = STEP.match(text, at)
        if step is None:
            if re.match(r"\[[^\]']*:[^\]]*,|\[[^\]']*,[^\]]*:", text[at:]):
                raise refuse("the platform takes one range such as [1:5], or indexes such as [0,2], not both in one")
            raise refuse(f"expected .name, ['name','name'], [0,1], [1:5] or * at {text[at:]!r}")
        at = step.end()
        steps.append(_step(step))
    if any(isinstance(step, Names) and len(step.names) > 1 for step in steps[:-1]):
        raise refuse("expected nothing behind several names")
    return JsonPath(text, tuple(steps))


def _step(found: re.Match[str]) -> Step:
    if found["name"] is not None:
        return Names((found["name"],))
    if found["names"] is not None:
        return Names(tuple(re.findall(rf"'({NAME})'", found["names"])))
    if found["indexes"] is not None:
        return Indexes(tuple(int(number) for number in found["indexes"].split(",")))
    if ":" in found[0]:
        start, end = found["start"], found["end"]
        return Slice(None if start is None else int(start), None if end is None else int(end))
    return Everything()
