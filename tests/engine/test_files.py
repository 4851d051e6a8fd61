"""Reading and writing the files of one item, where they might be traps."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from servekit.codecs import Limits
from servekit.contract import InferFiles, InputFile, OutputFile
from servekit.engine import files
from servekit.engine.roots import job_roots
from servekit.errors import InvalidInput, PredictFailed, ServeError, Unprocessable
from servekit.signature import Json, Signature, Tensor, Text

SIGNATURE = Signature({"x": Tensor("float32", (2,))}, {"y": Tensor("int64", ()), "why": Text()})
LIMITS = Limits(max_array_bytes=1000)
ROOTS = job_roots()


def job(source: Path, target: Path, *inputs: InputFile, outputs: tuple[OutputFile, ...] = ()) -> InferFiles:
    given = inputs or (InputFile("x.json", "x"),)
    return InferFiles(str(source), str(target), given, outputs, lambda result: {"result": result})


@pytest.mark.parametrize(
    ("filename", "body", "media_types"),
    [
        ("x.json", b"[1, 2]", ()),
        ("x.csv", b"1,2\n", ()),
        ("x", b"1,2", ("text/csv",)),
        ("x.npy", b"\x93NUMPY\x01\x00v\x00{'descr': '<f4', 'fortran_order': False, 'shape': (2,), }".ljust(127) + b"\n"
         + np.array([1, 2], "<f4").tobytes(), ()),
    ],
)  # fmt: skip
def test_an_item_in_several_formats(tmp_path: Path, filename: str, body: bytes, media_types: tuple[str, ...]) -> None:
    (tmp_path / filename).write_bytes(body)
    decoded = files.read_inputs(
        job(tmp_path, tmp_path, InputFile(filename, "x", media_types)), SIGNATURE, LIMITS, ROOTS
    )
    assert decoded.rows == 1
    column = decoded.columns["x"]
    assert isinstance(column, np.ndarray)
    assert column.tolist() == [[1, 2]]


def test_one_file_of_all_inputs(tmp_path: Path) -> None:
    signature = Signature({"a": Json(), "b": Text()}, {"y": Json()})
    (tmp_path / "input.json").write_text('{"a": {"k": 1}, "b": "text"}')
    decoded = files.read_inputs(job(tmp_path, tmp_path, InputFile("input.json", None)), signature, LIMITS, ROOTS)
    assert decoded.columns == {"a": [{"k": 1}], "b": ["text"]}


@pytest.mark.parametrize(
    ("dtype", "text", "value"),
    [("float32", "1.5", 1.5), ("int64", "7", 7), ("bool", "true", True), ("str", '"a"', "a")],
)
def test_one_value_is_an_array_as_everywhere(tmp_path: Path, dtype: str, text: str, value: object) -> None:
    """A predictor must not see by the platform how its input came."""
    signature = Signature({"x": Tensor(dtype, ())}, {"y": Json()})
    (tmp_path / "x.json").write_text(text)
    column = files.read_inputs(job(tmp_path, tmp_path), signature, LIMITS, ROOTS).columns["x"]
    assert isinstance(column, np.ndarray)
    assert column.dtype == (object if dtype == "str" else dtype)
    assert column.tolist() == [value]


def link(path: Path) -> None:
    (path.parent / "elsewhere").write_text("[1, 2]")
    path.symlink_to("elsewhere")


@pytest.mark.parametrize(
    ("make", "kind", "says"),
    [
        (lambda path: None, InvalidInput, "x.json"),
        (link, InvalidInput, "x.json"),
        (lambda path: path.mkdir(), InvalidInput, "regular file"),
        (os.mkfifo, InvalidInput, "regular file"),
        (lambda path: path.write_text("[1, 2, 3]"), Unprocessable, "x.json"),
        (lambda path: path.write_text("{"), Unprocessable, "x.json"),
        (lambda path: path.write_bytes(b" " * 1001), Unprocessable, "at most 1000 bytes, got 1001"),
    ],
    ids=["missing", "link", "directory", "fifo", "wrong shape", "no json", "too large"],
)
def test_what_is_refused(tmp_path: Path, make: Callable[[Path], Any], kind: type[ServeError], says: str) -> None:
    make(tmp_path / "x.json")
    with pytest.raises(kind, match=says):
        files.read_inputs(job(tmp_path, tmp_path), SIGNATURE, LIMITS, ROOTS)


def test_an_input_directory_that_is_a_link(tmp_path: Path) -> None:
    (tmp_path / "real").mkdir()
    (tmp_path / "real" / "x.json").write_text("[1, 2]")
    (tmp_path / "link").symlink_to("real")
    with pytest.raises(InvalidInput, match=r"input: .*'link' is a symbolic link"):
        files.read_inputs(job(tmp_path / "link", tmp_path), SIGNATURE, LIMITS, ROOTS)


def test_an_output_directory_that_became_a_link(tmp_path: Path) -> None:
    """It was made when the job began; while the model ran somebody put a link in its place."""
    (tmp_path / "victim").mkdir()
    (tmp_path / "out").symlink_to("victim")
    call = job(tmp_path, tmp_path / "out", outputs=(OutputFile("results.json", None),))
    with pytest.raises(InvalidInput, match=r"output: .*'out' is a symbolic link"):
        files.write_outputs(call, SIGNATURE, {"y": np.array([7]), "why": ["because"]}, ROOTS)
    assert list((tmp_path / "victim").iterdir()) == []


def test_an_output_with_another_name_is_replaced_not_written_through(tmp_path: Path) -> None:
    victim = tmp_path / "victim"
    victim.write_text("untouched")
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "results.json").hardlink_to(victim)
    call = job(tmp_path, tmp_path / "out", outputs=(OutputFile("results.json", None),))
    files.write_outputs(call, SIGNATURE, {"y": np.array([7]), "why": ["because"]}, ROOTS)
    assert victim.read_text() == "untouched"
    assert json.loads((tmp_path / "out" / "results.json").read_bytes())["result"]["y"] == 7


def test_an_output_file_may_have_the_longest_name(tmp_path: Path) -> None:
    name = "x" * 255
    call = job(tmp_path, tmp_path, outputs=(OutputFile(name, None),))
    files.write_outputs(call, SIGNATURE, {"y": np.array([7]), "why": ["because"]}, ROOTS)
    assert [path.name for path in tmp_path.iterdir()] == [name]


def test_max_size_of_an_input_file(tmp_path: Path) -> None:
    (tmp_path / "x.json").write_text("[1, 2]")
    with pytest.raises(Unprocessable, match="at most 5 bytes, got 6"):
        files.read_inputs(job(tmp_path, tmp_path, InputFile("x.json", "x", max_bytes=5)), SIGNATURE, LIMITS, ROOTS)


@pytest.mark.parametrize("path", ["relative/dir", "", "/dev/null/below", "/tmp/nul\0"])
def test_directories_that_cannot_be(path: str) -> None:
    with pytest.raises(InvalidInput, match="output"):
        files.make_output_dir(path, ROOTS)


def test_outputs_are_written_whole(tmp_path: Path) -> None:
    outputs = (OutputFile("results.json", None), OutputFile("why.txt", "why", "text/plain"))
    call = job(tmp_path, tmp_path, outputs=outputs)
    (tmp_path / "results.json").write_text("of an earlier run")
    columns: dict[str, Any] = {"y": np.array([7]), "why": ["because"]}
    written = files.write_outputs(call, SIGNATURE, columns, ROOTS)
    assert written.paths == (str(tmp_path / "results.json"), str(tmp_path / "why.txt"))
    assert json.loads((tmp_path / "results.json").read_bytes()) == {"result": {"y": 7, "why": "because"}}
    assert (tmp_path / "why.txt").read_text() == "because"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["results.json", "why.txt"]


def test_a_link_in_place_of_an_output_is_replaced_not_followed(tmp_path: Path) -> None:
    victim = tmp_path / "victim"
    victim.write_text("untouched")
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "results.json").symlink_to(victim)
    call = job(tmp_path, tmp_path / "out", outputs=(OutputFile("results.json", None),))
    files.write_outputs(call, SIGNATURE, {"y": np.array([7]), "why": ["because"]}, ROOTS)
    assert victim.read_text() == "untouched"
    assert not (tmp_path / "out" / "results.json").is_symlink()


def test_a_failed_write_leaves_nothing_behind(tmp_path: Path) -> None:
    (tmp_path / "why.txt").mkdir()  # a directory cannot be replaced by a file
    outputs = (OutputFile("why.txt", "why", "text/plain"),)
    with pytest.raises(PredictFailed, match="cannot write"):
        files.write_outputs(
            job(tmp_path, tmp_path, outputs=outputs), SIGNATURE, {"y": np.array([7]), "why": ["because"]}, ROOTS
        )
    assert [path.name for path in tmp_path.iterdir()] == ["why.txt"]


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (InvalidInput("too dark"), Unprocessable),
        (PredictFailed("p", cause=OSError(5, "I/O error", "{dir}/x.json")), InvalidInput),
        (PredictFailed("p", cause=OSError("no file in particular")), InvalidInput),
        (PredictFailed("p", cause=OSError(5, "I/O error", "/other")), PredictFailed),
        (PredictFailed("p", cause=KeyError("x")), PredictFailed),
    ],
)
def test_whose_fault_it_is(tmp_path: Path, error: ServeError, expected: type[ServeError]) -> None:
    if isinstance(error.cause, OSError) and error.cause.filename:
        error.cause.filename = error.cause.filename.replace("{dir}", str(tmp_path))
    assert type(files.blame(error, job(tmp_path, tmp_path))) is expected
