"""text/csv (RFC 4180) and JSON lines: one row per line."""

from __future__ import annotations

import csv
import io
import math
import re
from collections.abc import Callable
from typing import Any

import numpy as np

from servekit.codecs import jsonbody
from servekit.codecs.media import shown
from servekit.codecs.nouns import Column, Decoded, Form, Limits
from servekit.codecs.values import MAX_EXACT_FLOAT, cast, check_rows, column_of, first_unfit, widened
from servekit.contract import INSTANCES
from servekit.errors import InvalidInput, TooLarge, UnsupportedMediaType
from servekit.signature import Json, Signature, Spec, Tensor, Text

NUMBER = re.compile(r"[+-]?(\d+(\.\d*)?|\.\d+)([eE][+-]?\d+)?", re.ASCII)
WHOLE = re.compile(r"[+-]?[0-9]{1,20}")
BOOLS = {"true": True, "false": False, "1": True, "0": False}
ROWS = Form("rows", INSTANCES)


def decode_csv(text: str, signature: Signature, limits: Limits) -> Decoded:
    """Cells fill the inputs in declared order; a first line of exactly the inputs' names is a header.

    Raises InvalidInput that names line and column, TooLarge, UnsupportedMediaType for inputs that cells cannot hold.
    """
    for name, spec in signature.inputs.items():
        if not isinstance(spec, (Tensor, Text, Json)):
            raise UnsupportedMediaType(f"text/csv cannot carry the input {name} ({spec})")
    _check_lines(text, limits)
    fast = _read_numbers(text, signature, limits)
    if fast is not None:
        return fast
    lines = _read_cells(text, limits)
    names = list(signature.inputs)
    # A lone text may well be the word that is its input's name.
    takes_words = signature.only_input is not None and not _is_numeric(signature.inputs[names[0]])
    if lines and not takes_words and sorted(cell.strip() for cell in lines[0][1]) == sorted(names):
        names = [cell.strip() for cell in lines.pop(0)[1]]
    if not lines:
        raise InvalidInput("body: expected at least 1 line of CSV, got 0 rows")
    widths = _widths(signature, names, len(lines[0][1]))
    total = sum(widths.values())
    for number, row in lines:
        if len(row) != total:
            raise InvalidInput(f"line {number}: expected {total} values, got {len(row)}")
    columns: dict[str, Column] = {}
    start = 0
    for name in names:
        own = [(number, row[start : start + widths[name]]) for number, row in lines]
        columns[name] = _cell_column(own, start, signature.inputs[name], limits)
        start += widths[name]
    return Decoded(len(lines), {name: columns[name] for name in signature.inputs}, ROWS)


def decode_json_lines(text: str, signature: Signature, limits: Limits) -> Decoded:
    """Each line is a row, as in a JSON list of rows. Raises InvalidInput that names the line."""
    _check_lines(text, limits)
    jsonbody.check_objects(text, limits)
    values = []
    numbers = []
    for number, line in enumerate(text.split("\n"), 1):
        if line.strip():
            try:
                values.append(jsonbody.parse(line))
            except InvalidInput as error:
                raise InvalidInput(f"line {number}: {error.message.removeprefix('body: ')}", cause=error) from error
            numbers.append(number)
    check_rows(len(values), "body", limits)
    bools = jsonbody.may_hold_bools(text)
    columns = jsonbody.rows(values, lambda i: f"line {numbers[i]}", signature, limits, bools=bools)
    return Decoded(len(values), columns, ROWS)


def _check_lines(text: str, limits: Limits) -> None:
    """Blank lines are no rows, but reading them takes time. Raises TooLarge."""
    if text.count("\n") + text.count("\r") > 4 * limits.max_rows:
        raise TooLarge(f"body: expected at most {limits.max_rows} rows, got more lines than they can have")


def _read_numbers(text: str, signature: Signature, limits: Limits) -> Decoded | None:
    """numpy's own reader for plain tables of numbers; None when anything at all is unusual."""
    only = signature.only_input
    if only is None or not isinstance(only[1], Tensor) or only[1].dtype in ("bool", "str"):
        return None
    spec = only[1]
    if None in spec.shape or '"' in text or not text.isascii() or not text.strip():
        return None
    if text.count("\n") + text.count("\r") > 2 * limits.max_rows:
        return None
    try:
        table = np.loadtxt(io.StringIO(text), delimiter=",", dtype=np.float64, ndmin=2, comments=None)
    except ValueError:
        return None
    if table.size == 0 or table.shape[1] != math.prod(d for d in spec.shape if d is not None):
        return None
    check_rows(len(table), "body", limits)
    size = np.abs(table).max()
    if not np.isfinite(size) or ("int" in spec.dtype and size >= MAX_EXACT_FLOAT):
        return None
    column = cast(table, spec.dtype)
    if column is None:
        return None
    return Decoded(len(table), {only[0]: column.reshape(len(table), *spec.shape)}, ROWS)


def _read_cells(text: str, limits: Limits) -> list[tuple[int, list[str]]]:
    commas = text.count(",")
    most = limits.max_array_bytes // jsonbody.OBJECT_BYTES
    if commas > most:
        raise TooLarge(f"body: expected at most {most} cells, got {commas}")
    reader = csv.reader(io.StringIO(text, newline=""), strict=True)
    lines = []
    try:
        for cells in reader:
            if cells:  # a blank line has none, an empty value has one
                lines.append((reader.line_num, cells))
            if len(lines) > limits.max_rows:
                raise TooLarge(f"body: expected at most {limits.max_rows} rows, got more")
    except csv.Error as error:
        raise InvalidInput(f"line {reader.line_num}: expected CSV, got an error: {error}", cause=error) from error
    return lines


def _widths(signature: Signature, names: list[str], cells: int) -> dict[str, int]:
    """How many cells each input takes; one free dimension of one input can be told from the first line."""
    widths: dict[str, int] = {}
    free: list[str] = []
    for name in names:
        spec = signature.inputs[name]
        shape = spec.shape if isinstance(spec, Tensor) else ()
        if None in shape:
            free.append(name)
        else:
            widths[name] = math.prod(dim for dim in shape if dim is not None)
    if free:
        spec = signature.inputs[free[0]]
        shape = spec.shape if isinstance(spec, Tensor) else ()
        known = math.prod(dim for dim in shape if dim is not None)
        left = cells - sum(widths.values())
        if len(free) > 1 or shape.count(None) > 1 or known == 0 or left < 0 or left % known:
            raise InvalidInput(f"body: text/csv does not say the shape of {', '.join(free)}; send JSON")
        widths[free[0]] = left
    return widths


def _cell_column(lines: list[tuple[int, list[str]]], start: int, spec: Spec, limits: Limits) -> Column:
    if isinstance(spec, Text):
        return [cells[0] for _, cells in lines]
    if isinstance(spec, Json):
        values = [_json_cell(cells[0]) for _, cells in lines]
        return column_of(values, spec, lambda i: f"line {lines[i][0]}, column {start + 1}", limits)
    if not isinstance(spec, Tensor):
        raise UnsupportedMediaType(f"text/csv cannot carry {spec}")
    parse = _parser(spec)
    table: list[list[Any]] = []
    for number, cells in lines:
        table.append([])
        try:
            for cell in cells:
                table[-1].append(parse(cell))
        except InvalidInput as error:
            where = f"line {number}, column {start + len(table[-1]) + 1}"
            raise InvalidInput(f"{where}: {error.message}", cause=error) from error
    free = len(lines[0][1])
    known = math.prod(dim for dim in spec.shape if dim is not None)
    shape = tuple(free // known if dim is None else dim for dim in spec.shape)
    array = widened(table, spec.dtype)
    if spec.dtype == "str":
        return array.reshape(len(table), *shape)
    column = cast(array, spec.dtype)
    if column is None:
        i, j = first_unfit(array, spec.dtype)
        raise InvalidInput(
            f"line {lines[i][0]}, column {start + j + 1}: expected {spec.dtype}, got {shown(str(table[i][j]))}"
        )
    return column.reshape(len(table), *shape)


def _is_numeric(spec: Spec) -> bool:
    return isinstance(spec, Tensor) and spec.dtype != "str"


def _parser(spec: Tensor) -> Callable[[str], Any]:
    """Reads one cell. It raises InvalidInput without the place, which the caller knows."""

    def real(cell: str) -> float:
        text = cell.strip()
        if not NUMBER.fullmatch(text):
            raise InvalidInput(f'expected a number, got "{shown(cell)}"')
        value = float(text)
        if not math.isfinite(value):
            raise InvalidInput(f'expected a number that {spec.dtype} can hold, got "{shown(cell)}"')
        return value

    def whole(cell: str) -> int:
        text = cell.strip()  # of more than int() strips
        if WHOLE.fullmatch(text):
            return int(text)
        value = real(cell)
        if not value.is_integer() or abs(value) >= MAX_EXACT_FLOAT:
            raise InvalidInput(f"expected {spec.dtype}, got {shown(cell.strip())}")
        return int(value)

    def boolean(cell: str) -> bool:
        value = BOOLS.get(cell.strip().lower())
        if value is None:
            raise InvalidInput(f'expected true or false, got "{shown(cell)}"')
        return value

    if spec.dtype == "str":
        return str
    if spec.dtype == "bool":
        return boolean
    return whole if "int" in spec.dtype else real


def _json_cell(cell: str) -> Any:
    """A cell for a Json input: a number where it looks like one, else the text."""
    if NUMBER.fullmatch(cell):
        value = float(cell)
        return int(cell) if re.fullmatch(r"[+-]?\d{1,18}", cell) else value if math.isfinite(value) else cell
    return cell
