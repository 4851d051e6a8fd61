"""The forms of a JSON body, and what is said of those that are none."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from servekit.codecs import Decoded, Limits
from servekit.codecs.jsonbody import decode
from servekit.contract import BARE_LIST, COLUMNS, COMMON_ENVELOPES, INSTANCES, Envelope, Infer
from servekit.errors import InvalidInput, ServeError, TooLarge
from servekit.signature import File, Image, Json, Signature, Spec, Tensor, Text

REQ_DATA = Envelope(("data", "req_data"), ("data", "resp_data"), echo=("meta",), results_as_objects=True)
X: dict[str, Spec] = {"x": Tensor("float32", (2,))}
PAIR: dict[str, Spec] = {"a": Tensor("int64"), "t": Text()}


def read(
    body: str | bytes, inputs: dict[str, Spec], envelopes: tuple[Envelope, ...] = COMMON_ENVELOPES, **limits: int
) -> Decoded:
    data = body.encode() if isinstance(body, str) else body
    call = Infer(data, "application/json", None, envelopes)
    return decode(call, data, Signature(inputs, {"y": Json()}), Limits(**limits))


def plain(decoded: Decoded) -> dict[str, list[Any]]:
    return {
        name: [item.tolist() if hasattr(item, "tolist") else item for item in column]
        for name, column in decoded.columns.items()
    }


@pytest.mark.parametrize(
    ("body", "inputs", "envelope", "expected"),
    [
        ('{"instances": [[1, 2], [3, 4]]}', X, INSTANCES, {"x": [[1, 2], [3, 4]]}),
        ('{"instances": [{"x": [1, 2]}, [3, 4]]}', X, INSTANCES, {"x": [[1, 2], [3, 4]]}),
        ('{"instances": [{"features": [1, 2]}]}', X, INSTANCES, {"x": [[1, 2]]}),
        ('{"instances": [[1, 2]], "parameters": {}}', X, INSTANCES, {"x": [[1, 2]]}),
        ('{"instances": [{"a": 1, "t": "b"}]}', PAIR, INSTANCES, {"a": [1], "t": ["b"]}),
        ("[[1, 2], [3, 4]]", X, BARE_LIST, {"x": [[1, 2], [3, 4]]}),
        ('[{"a": 1, "t": "b"}]', PAIR, BARE_LIST, {"a": [1], "t": ["b"]}),
        ("[1, null]", {"x": Json()}, BARE_LIST, {"x": [1, None]}),
        ('{"inputs": {"x": [[1, 2]]}}', X, COLUMNS, {"x": [[1, 2]]}),
        ('{"inputs": [[1, 2], [3, 4]]}', X, COLUMNS, {"x": [[1, 2], [3, 4]]}),
        ('{"inputs": {"a": [1, 2], "t": ["b", "c"]}}', PAIR, COLUMNS, {"a": [1, 2], "t": ["b", "c"]}),
        ('{"x": [1, 2]}', X, None, {"x": [[1, 2]]}),
        ('{"a": 1, "t": "b"}', PAIR, None, {"a": [1], "t": ["b"]}),
        ('"hello"', {"t": Text()}, None, {"t": ["hello"]}),
        ("7", {"n": Tensor("int64")}, None, {"n": [7]}),
        ('{"free": true}', {"j": Json()}, None, {"j": [{"free": True}]}),
        (b'\xef\xbb\xbf{"instances": [[1, 2]]}', X, INSTANCES, {"x": [[1, 2]]}),
        ('{"instances": [{"b64": "AAE="}, "AAE="]}', {"f": File()}, INSTANCES, {"f": [b"\0\1", b"\0\1"]}),
        ('{"instances": [[[9]]]}', {"p": Image("L", 1, 1)}, INSTANCES, {"p": [[[9]]]}),
        # Inputs that are called like an envelope.
        ('{"inputs": [1, 2]}', {"inputs": Tensor("int64", (2,))}, None, {"inputs": [[1, 2]]}),
        ('{"inputs": {"inputs": [[1, 2]]}}', {"inputs": Tensor("int64", (2,))}, COLUMNS, {"inputs": [[1, 2]]}),
        ('{"instances": [[1, 2]]}', {"instances": Tensor("int64", (2,))}, INSTANCES, {"instances": [[1, 2]]}),
        ('{"instances": [1, 2], "a": 3}', {"instances": Tensor("int64", (2,)), "a": Json()}, None, {"instances": [[1, 2]], "a": [3]}),
    ],
)  # fmt: skip
def test_forms(body: str | bytes, inputs: dict[str, Spec], envelope: Envelope | None, expected: dict[str, Any]) -> None:
    decoded = read(body, inputs)
    assert plain(decoded) == expected
    assert decoded.form.envelope == envelope
    assert decoded.form.kind == ("item" if envelope is None else "columns" if envelope.columns else "rows")
    assert decoded.rows == len(next(iter(expected.values())))


def test_what_is_echoed() -> None:
    body = '{"meta": {"uuid": "u"}, "data": {"req_data": [[1, 2]]}, "other": 1}'
    assert read(body, X, (REQ_DATA,)).form.echo == {"meta": {"uuid": "u"}}
    assert read('{"data": {"req_data": [[1, 2]]}}', X, (REQ_DATA,)).form.echo == {}


def test_a_list_is_a_json_value_where_no_bare_list_is_meant() -> None:
    assert plain(read("[1, 2]", {"j": Json()}, (REQ_DATA,))) == {"j": [[1, 2]]}


@pytest.mark.parametrize(
    ("body", "inputs", "says"),
    [
        ("", X, "body: expected JSON"),
        ("{", X, "body: expected JSON"),
        (b'"\xff"', X, "body: expected JSON"),
        ('{"instances": [[1, NaN]]}', X, "body: expected JSON"),
        ('{"instances": [[1, Infinity]]}', X, "body: expected JSON"),
        ('{"instances": [[1, 1e999]]}', X, "body: expected JSON"),
        ('{"instances": [[1, ' + "9" * 5000 + "]]}", X, "body: expected JSON"),
        ('"\\ud800"', {"t": Text()}, "body: expected JSON"),
        (b"\xef\xbb\xbf\xef\xbb\xbf{}", X, "body: expected JSON"),
        (b" \xef\xbb\xbf{}", X, "body: expected JSON"),
        ("[" * 100_000, X, "body: expected JSON"),
        ('{"instances": []}', X, "instances: expected at least 1 row, got 0 rows"),
        ("[]", X, "body: expected at least 1 row, got 0 rows"),
        ('{"instances": {}}', X, "instances: expected a list of rows, got an object"),
        ('{"instances": null}', X, "instances: expected a list of rows, got null"),
        ('{"instances": [[1, 2], [3]]}', X, "x at instances[1]: expected float32 of shape (2,), got shape (1,)"),
        ('{"instances": [[1, "abc"]]}', X, 'x at instances[0][1]: expected float32 of shape (2,) (a number), got the string "abc"'),
        ('{"instances": [[1, null]]}', X, "x at instances[0][1]"),
        ('{"instances": [[true, 2]]}', X, "x at instances[0][0]: expected float32 of shape (2,) (a number), got true"),
        ('{"instances": [[-9223372036854775809, 1]]}', {"x": Tensor("int64", (2,))}, "x at instances[0][0]"),
        ('{"instances": [{"y": [1, 2]}]}', X, "x at instances[0]"),
        ('{"inputs": {}}', X, "inputs.x: expected float32 of shape (2,), got nothing"),
        ('{"inputs": {"x": []}}', X, "inputs: expected at least 1 row, got 0 rows"),
        ('{"inputs": {"x": 1}}', X, "inputs.x: expected a list of rows, got 1"),
        ('{"inputs": {"a": [1, 2], "t": ["b"]}}', PAIR, "inputs: expected as many rows for every input, got a 2, t 1"),
        ('{"instances": [1]}', PAIR, "instances[0]: expected an object with a, t, got 1"),
        ('{"instances": [{"a": 1}]}', PAIR, "instances[0].t: expected a text, got nothing"),
        ('{"instances": [{"a": 1, "t": "b", "z": 0}]}', PAIR, "instances[0].z: unknown input, expected a, t"),
        ('{"a": 1}', PAIR, "body.t: expected a text, got nothing"),
        ('{"z": 1}', PAIR, "body: expected an object with instances or inputs, a list of rows or an object with the inputs a, t, got an object with z"),
        ("7", PAIR, "got 7"),
        ('{"instances": ["?"]}', {"f": File()}, "f at instances[0]: expected a file as a base64 string"),
        ('{"instances": [{"b64": 1}]}', {"p": Image()}, "p at instances[0]: expected a RGB image of any size as a base64 string"),
        ('{"instances": ["AAAA"]}', {"p": Image()}, "p at instances[0]: expected an image"),
        ('{"instances": [1]}', {"t": Text()}, "t at instances[0]: expected a text, got 1"),
    ],
)  # fmt: skip
def test_what_is_refused(body: str | bytes, inputs: dict[str, Spec], says: str) -> None:
    with pytest.raises(InvalidInput) as caught:
        read(body, inputs)
    assert says in caught.value.message
    assert len(caught.value.message) < 400


@pytest.mark.parametrize("body", ['{"instances": [1, 2, 3]}', '{"inputs": [1, 2, 3]}', "[1, 2, 3]"])
def test_rows_are_bounded(body: str) -> None:
    with pytest.raises(TooLarge, match="at most 2 rows, got 3"):
        read(body, {"x": Tensor()}, max_rows=2)


numbers = (
    st.integers(-(2**70), 2**70)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.sampled_from([0, 1, 1.0, 2**53 + 1, 2**63 + 1, 2**64 - 1])
)


@given(st.lists(numbers, min_size=1, max_size=4), st.sampled_from(["int64", "uint64", "int8"]))
def test_an_integer_is_read_exactly_or_not_at_all(values: list[int | float], dtype: str) -> None:
    try:
        decoded = read(f'{{"instances": {values!r}}}', {"x": Tensor(dtype)})
    except ServeError:
        return
    assert plain(decoded) == {"x": values}
