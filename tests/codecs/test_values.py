"""Values of every dtype and shape: what fits, what does not, and no wrong number in silence."""

from __future__ import annotations

import base64
from typing import Any

import numpy as np
import pytest
from cases import png
from hypothesis import given
from hypothesis import strategies as st

from servekit.codecs.nouns import Limits
from servekit.codecs.values import array_column, cast, column_of
from servekit.errors import InvalidInput, TooLarge
from servekit.signature import Image, Spec, Tensor

LIMITS = Limits()


def column(values: list[Any], spec: Spec, *, bools: bool = True) -> Any:
    return column_of(values, spec, lambda i: f"row[{i}]", LIMITS, may_hold_bools=bools)


@pytest.mark.parametrize("bools", [True, False], ids=["walked", "at once"])
@pytest.mark.parametrize(
    ("values", "spec"),
    [
        ([1, 2.5], Tensor("float32")),
        ([[1, 2], [3, 4]], Tensor("float64", (2,))),
        ([[[1], [2]]], Tensor("int8", (2, 1))),
        ([1.0, 2.0], Tensor("int64")),
        ([255, 0], Tensor("uint8")),
        ([2**64 - 1], Tensor("uint64")),
        ([-(2**63)], Tensor("int64")),
        ([[], []], Tensor("float32", (None,))),
        ([65504], Tensor("float16")),
        ([2**53 + 1, 1.0], Tensor("int64")),
        ([[2**64 - 1, 2.0]], Tensor("uint64", (2,))),
        ([2**53 - 1.0], Tensor("int64")),
        ([2**63 + 1, 1], Tensor("uint64")),
        ([2**63 + 2**20, -1], Tensor("float64")),
    ],
)
def test_numbers_that_fit(values: list[Any], spec: Tensor, bools: bool) -> None:
    found = column(values, spec, bools=bools)
    assert isinstance(found, np.ndarray)
    assert found.dtype == spec.dtype
    assert found.tolist() == values


@pytest.mark.parametrize("bools", [True, False], ids=["walked", "at once"])
@pytest.mark.parametrize(
    ("values", "spec", "says"),
    [
        ([1, "2"], Tensor("float32"), 'row[1]: expected a number, got the string "2"'),
        ([None], Tensor("float32"), "row[0]: expected a number, got null"),
        ([{}], Tensor("float32"), "row[0]: expected a number, got an object"),
        ([[1]], Tensor("float32"), "row[0]: expected a number, got a list"),
        ([1.5], Tensor("int32"), "row[0]: expected a whole number from -2147483648 to 2147483647 (int32), got 1.5"),
        ([256], Tensor("uint8"), "row[0]: expected a whole number from 0 to 255 (uint8), got 256"),
        ([-1], Tensor("uint8"), "row[0]: expected a whole number from 0 to 255 (uint8), got -1"),
        ([2**63], Tensor("int64"), "row[0]"),
        ([1e20], Tensor("int64"), "row[0]"),
        ([2**70], Tensor("int64"), "row[0]"),
        ([2.0**53], Tensor("int64"), "row[0]: expected a whole number"),  # 2**53 + 1 is the same float
        ([-(2.0**63)], Tensor("int64"), "row[0]"),
        ([[1, 2], [3, -1], [-2, 4]], Tensor("uint8", (2,)), "row[1][1]: expected a whole number from 0 to 255 (uint8), got -1"),
        ([[[1.0, 1e39], [1e39, 1.0]]], Tensor("float32", (2, 2)), "row[0][0][1]: expected a float32"),
        ([1e39], Tensor("float32"), "row[0]: expected a float32, at most 3.40282e+38 in size, got 1e+39"),
        ([70000], Tensor("float16"), "row[0]: expected a float16"),
        ([[1, 2], [1]], Tensor("float32", (2,)), "row[1]: expected float32 of shape (2,), got shape (1,)"),
        ([[[1], [2, 3]]], Tensor("float32", (2, None)), "row[0]: expected float32 of shape (2, any), got a ragged list"),
        ([[1, [2]]], Tensor("float32", (2,)), "row[0][1]: expected float32 of shape (2,) (a number), got a list"),
        ([1], Tensor("float32", (1,)), "row[0]: expected float32 of shape (1,), got 1"),
        (["a"], Tensor("float32", (1,)), "row[0]"),
        ([1], Tensor("bool"), "row[0]: expected true or false, got 1"),
        ([True], Tensor("str"), "row[0]: expected a string, got true"),
    ],
)  # fmt: skip
def test_numbers_that_do_not_fit(values: list[Any], spec: Tensor, says: str, bools: bool) -> None:
    with pytest.raises(InvalidInput) as caught:
        column(values, spec, bools=bools)
    assert says in caught.value.message


@pytest.mark.parametrize("values", [[True, 2], [2, True], [1, False]])
def test_true_is_not_1(values: list[Any]) -> None:
    with pytest.raises(InvalidInput, match=r"expected a number, got (true|false)"):
        column(values, Tensor("int64"))


@pytest.mark.parametrize("dtype", ["float32", "int8", "bool"])
def test_a_long_string_among_short_ones_takes_no_memory(dtype: str) -> None:
    # numpy would reserve the longest string's length for each: 400 KB for 500,000 of them.
    with pytest.raises(InvalidInput, match=r"row\[0\]: expected .*, got the string"):
        column(["a" * 100_000] + [""] * 500_000, Tensor(dtype), bools=False)


def test_the_value_at_fault_is_found_among_many() -> None:
    values = [1] * 1_000_000 + [300, 301]
    with pytest.raises(InvalidInput, match=r"row\[0\]\[1000000\]: expected a whole number .*, got 300"):
        column([values], Tensor("int8", (None,)))


def test_strings_and_bools() -> None:
    assert column(["a", "b"], Tensor("str")).tolist() == ["a", "b"]
    assert column([[True], [False]], Tensor("bool", (1,))).tolist() == [[True], [False]]


def test_rows_of_a_free_shape_stay_apart_when_they_differ() -> None:
    found = column([[1, 2], [3]], Tensor("float32", (None,)))
    assert [item.tolist() for item in found] == [[1, 2], [3]]


def test_depth_is_bounded_for_free_json() -> None:
    from servekit.signature import Json

    deep: Any = 1
    for _ in range(101):
        deep = [deep]
    with pytest.raises(InvalidInput, match="at most 100 deep"):
        column([deep], Json())
    assert column([deep[0]], Json()) == [deep[0]]


def test_pictures_of_one_body_are_bounded_together() -> None:
    pictures = [base64.b64encode(png(10, 10)).decode()] * 3
    three = Limits(max_array_bytes=3 * 10 * 10 * 16)
    assert len(column_of(pictures, Image("RGBA"), str, three)) == 3
    with pytest.raises(TooLarge, match="pixels in one body"):
        column_of([*pictures, pictures[0]], Image("RGBA"), str, three)


def test_small_files_of_many_pixels_are_bounded_together() -> None:
    bomb = base64.b64encode(png(1000, 1000)).decode()
    limits = Limits(max_body_pixels=3_000_000)
    assert len(column_of([bomb] * 3, Image("L", 2, 2), str, limits)) == 3
    with pytest.raises(TooLarge, match="3: expected pictures of at most 3000000 pixels in one body, got more"):
        column_of([bomb] * 4, Image("L", 2, 2), str, limits)


def test_pictures_may_come_as_files_and_as_pixels() -> None:
    found = column_of([base64.b64encode(png(1, 1, value=9)).decode(), [[7]]], Image("L", 1, 1), str, LIMITS)
    assert np.asarray(found).tolist() == [[[9]], [[7]]]


def test_an_array_of_the_declared_dtype_is_not_copied() -> None:
    array = np.zeros((3, 2), np.float32)
    found = array_column(array, Tensor("float32", (2,)), "x", LIMITS)
    assert np.shares_memory(array, np.asarray(found))


@pytest.mark.parametrize(
    ("array", "spec", "shape"),
    [
        (np.zeros((3, 2)), Tensor("float32", (2,)), (3, 2)),
        (np.zeros(2), Tensor("float32", (2,)), (1, 2)),
        (np.zeros((3, 7)), Tensor("float32", (None,)), (3, 7)),
        (np.zeros(3, ">f8"), Tensor("float64"), (3,)),
        (np.zeros(3, np.int64), Tensor("float32"), (3,)),
        (np.array(["a"]), Tensor("str"), (1,)),
    ],
)
def test_arrays_that_fit(array: Any, spec: Tensor, shape: tuple[int, ...]) -> None:
    found = array_column(array, spec, "x", LIMITS)
    assert isinstance(found, np.ndarray)
    assert found.shape == shape
    assert found.dtype.isnative


@pytest.mark.parametrize(
    ("array", "spec", "says"),
    [
        (np.zeros((3, 3)), Tensor("float32", (2,)), r"x: expected rows of float32 of shape \(2,\), got rows of shape \(3,\)"),
        (np.zeros((0, 2)), Tensor("float32", (2,)), "0 rows"),
        (np.full(2, 1e300), Tensor("float32"), "do not fit"),
        (np.array([0.5]), Tensor("int64"), "do not fit"),
        (np.array([1]), Tensor("bool"), "do not fit"),
        (np.array([1j]), Tensor("float32"), "do not fit"),
    ],
)  # fmt: skip
def test_arrays_that_do_not_fit(array: Any, spec: Tensor, says: str) -> None:
    with pytest.raises(InvalidInput, match=says):
        array_column(array, spec, "x", LIMITS)


@given(
    st.lists(st.integers(-(2**70), 2**70) | st.sampled_from([0, 1, -1, 2**53 + 1, 2**63 + 1, 2**64 - 1]), min_size=1),
    st.sampled_from(["int8", "uint16", "int64", "uint64"]),
)
def test_no_integer_is_ever_changed(values: list[int], dtype: str) -> None:
    limits = np.iinfo(dtype)
    fit = all(limits.min <= value <= limits.max for value in values)
    try:
        found = column(values, Tensor(dtype), bools=False)
    except InvalidInput:
        assert not fit
    else:
        assert found.tolist() == values


@given(st.lists(st.floats(allow_nan=False, allow_infinity=False), min_size=1, max_size=5))
def test_float64_comes_back_exactly(values: list[float]) -> None:
    assert column(values, Tensor("float64"), bools=False).tolist() == values


def test_cast_leaves_what_fits_alone() -> None:
    array = np.zeros(3, np.float32)
    assert cast(array, "float32") is array
    assert cast(np.array([np.inf]), "float32") is not None, "an infinity that came as such is no overflow"
