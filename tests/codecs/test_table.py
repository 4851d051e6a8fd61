"""CSV and JSON lines: one row per line, errors by line and column."""

from __future__ import annotations

from typing import Any

import pytest

from servekit.codecs.nouns import Limits
from servekit.codecs.table import decode_csv, decode_json_lines
from servekit.errors import InvalidInput, ServeError, TooLarge, UnsupportedMediaType
from servekit.signature import File, Image, Json, Signature, Spec, Tensor, Text

OUT = {"y": Json()}


def signature(**inputs: Spec) -> Signature:
    return Signature(inputs, OUT)


def csv(text: str, **inputs: Spec) -> dict[str, Any]:
    decoded = decode_csv(text, signature(**inputs), Limits(max_rows=100))
    return {
        name: [item.tolist() if hasattr(item, "tolist") else item for item in column]
        for name, column in decoded.columns.items()
    }


@pytest.mark.parametrize(
    ("text", "inputs", "expected"),
    [
        ("1,2\n3,4\n", {"x": Tensor("float32", (2,))}, {"x": [[1, 2], [3, 4]]}),
        ("1,2\r\n3,4", {"x": Tensor("float32", (2,))}, {"x": [[1, 2], [3, 4]]}),
        ("\n1,2\n\n", {"x": Tensor("float32", (2,))}, {"x": [[1, 2]]}),
        ('"1",2\n', {"x": Tensor("float32", (2,))}, {"x": [[1, 2]]}),
        (" 1 , -2e3 \n", {"x": Tensor("float32", (2,))}, {"x": [[1, -2000]]}),
        ("1,2,3,4\n", {"x": Tensor("float32", (2, 2))}, {"x": [[[1, 2], [3, 4]]]}),
        ("5\n6\n", {"x": Tensor("float32")}, {"x": [5, 6]}),
        ("x\n5\n", {"x": Tensor("float32")}, {"x": [5]}),
        ("7\x1e\n", {"x": Tensor("int8")}, {"x": [7]}),
        ("9007199254740993\n", {"x": Tensor("int64")}, {"x": [9007199254740993]}),
        ("3.0\n", {"x": Tensor("int64")}, {"x": [3]}),
        ("true,0\n", {"x": Tensor("bool", (2,))}, {"x": [[True, False]]}),
        ("a,b\n", {"x": Tensor("str", (2,))}, {"x": [["a", "b"]]}),
        ("1,2,3\n4,5,6\n", {"x": Tensor("float32", (None,))}, {"x": [[1, 2, 3], [4, 5, 6]]}),
        ("1,2,3,4\n", {"x": Tensor("float32", (None, 2))}, {"x": [[[1, 2], [3, 4]]]}),
        ('"a,b"\n"c ""d"""\n', {"t": Text()}, {"t": ["a,b", 'c "d"']}),
        ('"two\nlines"\n', {"t": Text()}, {"t": ["two\nlines"]}),
        ("1,hello\n", {"n": Tensor("int8"), "t": Text()}, {"n": [1], "t": ["hello"]}),
        ("t,n\nhello,1\n", {"n": Tensor("int8"), "t": Text()}, {"n": [1], "t": ["hello"]}),
        ("1,2,3,hello\n", {"x": Tensor("float32", (3,)), "t": Text()}, {"x": [[1, 2, 3]], "t": ["hello"]}),
        ("1,2,3\n", {"n": Tensor("int8"), "x": Tensor("float32", (None,))}, {"n": [1], "x": [[2, 3]]}),
        ("1\n1.5\nabc\n", {"j": Json()}, {"j": [1, 1.5, "abc"]}),
        ("9007199254740993,1.0\n", {"x": Tensor("int64", (2,))}, {"x": [[9007199254740993, 1]]}),
        ("-1,2e2\n", {"x": Tensor("int16", (2,))}, {"x": [[-1, 200]]}),
        ("9" * 300 + "\n", {"x": Tensor("float64")}, {"x": [float("9" * 300)]}),
        ('""\na\n\n""\n', {"t": Text()}, {"t": ["", "a", ""]}),
        ("t\na\n", {"t": Text()}, {"t": ["t", "a"]}),  # a word, no header
        ("t\na\n", {"t": Tensor("str")}, {"t": ["t", "a"]}),
    ],
)
def test_csv(text: str, inputs: dict[str, Spec], expected: dict[str, Any]) -> None:
    assert csv(text, **inputs) == expected


X2 = {"x": Tensor("float32", (2,))}


@pytest.mark.parametrize(
    ("text", "inputs", "kind", "says"),
    [
        ("", X2, InvalidInput, "0 rows"),
        ("1,2\n3\n", X2, InvalidInput, "line 2: expected 2 values, got 1"),
        ("1,2\n3,4,5\n", X2, InvalidInput, "line 2: expected 2 values, got 3"),
        ("1,2\n3,\n", X2, InvalidInput, 'line 2, column 2: expected a number, got ""'),
        ("1,2\n,\n3,4\n", X2, InvalidInput, 'line 2, column 1: expected a number, got ""'),
        ("\uff11,2\n", X2, InvalidInput, "line 1, column 1: expected a number"),
        (
            "9007199254740992.0\n",
            {"x": Tensor("int64")},
            InvalidInput,
            "line 1, column 1: expected int64, got 9007199254740992.0",
        ),
        ("1\n" + "9" * 5000 + "\n", {"x": Tensor("int64")}, InvalidInput, "line 2, column 1"),
        ("1,2\n" * 101, X2, TooLarge, "at most 100 rows, got 101"),
        ("1,x\n", X2, InvalidInput, 'line 1, column 2: expected a number, got "x"'),
        ("1,nan\n", X2, InvalidInput, 'expected a number, got "nan"'),
        ("1,inf\n", X2, InvalidInput, 'expected a number, got "inf"'),
        ("1,1_0\n", X2, InvalidInput, 'expected a number, got "1_0"'),
        ("1,0x1\n", X2, InvalidInput, 'expected a number, got "0x1"'),
        ("1,1e999\n", X2, InvalidInput, 'column 2: expected a number that float32 can hold, got "1e999"'),
        ("1,1e99\n", X2, InvalidInput, "column 2: expected float32, got 1e+99"),
        ("a,b\n1,x\n", {"a": Tensor("int8"), "b": Tensor("int8")}, InvalidInput, "line 2, column 2"),
        ("1.5\n", {"x": Tensor("int8")}, InvalidInput, "line 1, column 1: expected int8, got 1.5"),
        ("300\n", {"x": Tensor("int8")}, InvalidInput, "line 1, column 1: expected int8, got 300"),
        ("2\n", {"x": Tensor("bool")}, InvalidInput, "expected true or false"),
        ("1,2,3\n", {"x": Tensor("float32", (None, 2))}, InvalidInput, "does not say the shape of x"),
        ("1,2\n", {"x": Tensor("float32", (None, None))}, InvalidInput, "does not say the shape of x"),
        ('"open\n', {"t": Text()}, InvalidInput, "expected CSV"),
        ("x", {"f": File()}, UnsupportedMediaType, "the input f"),
        ("x", {"p": Image()}, UnsupportedMediaType, "the input p"),
        ("a\n" * 101, {"t": Text()}, TooLarge, "at most 100 rows"),
    ],
)
def test_csv_that_is_refused(text: str, inputs: dict[str, Spec], kind: type[ServeError], says: str) -> None:
    with pytest.raises(kind) as caught:
        csv(text, **inputs)
    assert says in caught.value.message


def test_the_fast_path_reads_what_the_slow_one_reads() -> None:
    text = "1.5,-2\n3e-5,4\n"
    quoted = '"1.5",-2\n3e-5,4\n'
    assert csv(text, **X2) == csv(quoted, **X2)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("[1,2]\n[3,4]\n", [[1, 2], [3, 4]]),
        ('{"x":[1,2]}\r\n\n[3,4]', [[1, 2], [3, 4]]),
        ('{"features": [1, 2]}', [[1, 2]]),
    ],
)
def test_json_lines(text: str, expected: list[Any]) -> None:
    decoded = decode_json_lines(text, signature(**X2), Limits())
    column = decoded.columns["x"]
    assert not isinstance(column, list)
    assert column.tolist() == expected


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("", "0 rows"),
        ("\n \n", "0 rows"),
        ("[1,2]\n\n[3,\n", "line 3: expected JSON"),
        ("[1,2]\n[3]\n", "x at line 2: expected float32 of shape (2,), got shape (1,)"),
        ('[1,2]\n\n[3,"a"]\n', "x at line 3[1]"),
    ],
)
def test_json_lines_that_are_refused(text: str, says: str) -> None:
    with pytest.raises(InvalidInput) as caught:
        decode_json_lines(text, signature(**X2), Limits())
    assert says in caught.value.message
