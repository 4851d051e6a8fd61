"""What a predictor may return, and what it is told when it returned something else."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from servekit.engine.results import columns_of, encoded_columns, rows_of
from servekit.errors import PredictFailed
from servekit.signature import Image, Json, Signature, Tensor, Text

X = {"x": Tensor("float32", ())}
ONE = Signature(X, {"y": Tensor("int64", ())})
VECTOR = Signature(X, {"y": Tensor("float32", (3,))})
FREE = Signature(X, {"y": Tensor("float32", (None,))})
TWO = Signature(X, {"label": Text(), "score": Tensor("float32", ())})
JSON = Signature(X, {"y": Json()})


def listed(columns: dict[str, Any]) -> dict[str, Any]:
    return {
        name: [item.tolist() if hasattr(item, "tolist") else item for item in column]
        for name, column in columns.items()
    }


@pytest.mark.parametrize(
    ("signature", "returned", "expected"),
    [
        (ONE, np.array([1, 2]), {"y": [1, 2]}),
        (ONE, np.array([1, 2], np.int32), {"y": [1, 2]}),
        (ONE, [1, 2], {"y": [1, 2]}),
        (ONE, (1, 2), {"y": [1, 2]}),
        (ONE, [np.int64(1), np.int64(2)], {"y": [1, 2]}),
        (ONE, {"y": [1, 2]}, {"y": [1, 2]}),
        (ONE, [{"y": 1}, {"y": 2}], {"y": [1, 2]}),
        (VECTOR, np.zeros((2, 3)), {"y": [[0, 0, 0], [0, 0, 0]]}),
        (VECTOR, [[1, 2, 3], [4, 5, 6]], {"y": [[1, 2, 3], [4, 5, 6]]}),
        (FREE, [np.array([1.0]), np.array([1.0, 2.0])], {"y": [[1.0], [1.0, 2.0]]}),
        (TWO, {"label": ["a", "b"], "score": np.array([0.5, 1.0])}, {"label": ["a", "b"], "score": [0.5, 1.0]}),
        (TWO, [{"label": "a", "score": 0.5}, {"label": "b", "score": 1}], {"label": ["a", "b"], "score": [0.5, 1.0]}),
        (TWO, {"label": np.array(["a", "b"]), "score": [0, 1]}, {"label": ["a", "b"], "score": [0.0, 1.0]}),
        (JSON, [{"any": 1}, None], {"y": [{"any": 1}, None]}),
        (JSON, [{"y": 1}, {"y": 2}], {"y": [1, 2]}),
        (JSON, np.array([1.5, 2.5]), {"y": [1.5, 2.5]}),
    ],
)
def test_accepted(signature: Signature, returned: Any, expected: dict[str, Any]) -> None:
    columns = columns_of(returned, 2, signature)
    assert listed(columns) == expected
    for name, spec in signature.outputs.items():
        if isinstance(spec, Tensor) and None not in spec.shape:
            column = columns[name]
            assert isinstance(column, np.ndarray)
            assert column.dtype == spec.dtype


@pytest.mark.parametrize(
    ("signature", "returned", "message"),
    [
        (ONE, np.array([1, 2, 3]), r"'y'.*\(3,\).*batch of 2 rows"),
        (ONE, np.int64(3), r"'y'.*batch of 2 rows"),
        (ONE, [1], "1 results for a batch of 2 rows"),
        (ONE, np.zeros((2, 3)), r"'y'.*shape \(3,\), expected int64 of shape \(\)"),
        (ONE, np.array([0.5, 1.5]), "'y'.*float64, expected int64"),
        (Signature(X, {"y": Tensor("uint8", ())}), np.array([1, 300]), "'y'.*int64, expected uint8"),
        (ONE, None, "a NoneType: expected an array"),
        (ONE, {"z": [1, 2]}, r"keys \['z'\]: expected 'y'"),
        (TWO, np.zeros(2), "one array, but 2 outputs"),
        (TWO, [{"label": "a"}, {"label": "b"}], r"\['label'\] for row 0: expected a dict of 'label', 'score'"),
        (TWO, ["a", "b"], "a str for row 0"),
        (TWO, {"label": ["a"], "score": [1, 2]}, "'label'.*batch of 2 rows"),
        (TWO, {"label": 3, "score": [1, 2]}, "'label'.*a int, expected an array or a list of 2"),
        (VECTOR, [[1, 2, 3], [1]], "'y'.*different shapes"),
    ],
)
def test_refused(signature: Signature, returned: Any, message: str) -> None:
    with pytest.raises(PredictFailed, match=message):
        columns_of(returned, 2, signature)


def test_images_stay_arrays() -> None:
    signature = Signature(X, {"picture": Image("L")})
    pictures = np.zeros((2, 4, 5), np.uint8)
    assert columns_of(pictures, 2, signature)["picture"] is pictures


@pytest.mark.parametrize(
    ("returned", "expected"),
    [
        (np.array([1, 2]), [1, 2]),
        ([{"a": 1}, {"a": 2}], [{"a": 1}, {"a": 2}]),
        ({"a": np.array([1, 2]), "b": ["x", "y"]}, [{"a": 1, "b": "x"}, {"a": 2, "b": "y"}]),
    ],
)
def test_rows_for_an_encode_hook(returned: Any, expected: list[Any]) -> None:
    assert rows_of(returned, 2) == expected


def test_rows_for_an_encode_hook_must_be_as_many_as_went_in() -> None:
    with pytest.raises(PredictFailed, match="batch of 2 rows"):
        rows_of({"a": [1, 2, 3]}, 2)


def test_encoded_results_must_match_the_declaration() -> None:
    assert listed(encoded_columns([1, 2], lambda value: {"label": str(value), "score": value}, TWO)) == {
        "label": ["1", "2"],
        "score": [1.0, 2.0],
    }
    with pytest.raises(PredictFailed, match="row 0"):
        encoded_columns([1, 2], lambda value: value, TWO)
