"""Which file holds what: by model.yaml, and without one."""

from __future__ import annotations

import pytest

from servekit.contract import InputFile, OutputFile, Site
from servekit.errors import ConfigError
from servekit.platforms.modzy.files import files_of
from servekit.signature import File, Image, Json, Signature, Spec, Tensor, Text

ONE = Signature({"images": Image()}, {"result": Tensor()})
TWO = Signature({"a": Tensor(), "b": Text()}, {"label": Text(), "scores": Json()})
SUMMARY = OutputFile("results.json", None)


def files(text: str | None, signature: Signature) -> tuple[tuple[InputFile, ...], tuple[OutputFile, ...]]:
    return files_of(Site(signature, {} if text is None else {"model.yaml": text.encode()}))


@pytest.mark.parametrize(
    ("spec", "filename"),
    [(Image(), "x"), (File(), "x"), (Text(), "x.txt"), (Json(), "x.json"), (Tensor(), "x.json")],
)
def test_without_a_file(spec: Spec, filename: str) -> None:
    assert files(None, Signature({"x": spec}, {"y": Json()})) == ((InputFile(filename, "x"),), (SUMMARY,))


def test_a_name_with_slashes_stays_in_the_directory() -> None:
    signature = Signature({"model/x": Tensor(), "../y": Tensor()}, {"z": Json()})
    assert [file.filename for file in files(None, signature)[0]] == ["model_x.json", ".._y.json"]


@pytest.mark.parametrize("names", [("a/b", "a_b"), ("x", "x.json"), ("line\n", "x"), ("n" * 256, "x"), ("\udcff", "x")])
def test_names_that_make_no_files_are_numbered(names: tuple[str, str]) -> None:
    signature = Signature({names[0]: Tensor(), names[1]: File()}, {"z": Json()})
    assert files(None, signature)[0] == (InputFile("input1.json", names[0]), InputFile("input2", names[1]))


@pytest.mark.parametrize(
    "text", ["inputs:\n", "inputs:\noutputs:\n", "inputs:\n  images:\n", "inputs:\n  images: {maxSize:}\n"]
)
def test_a_block_without_entries_is_an_empty_one(text: str) -> None:
    assert files(text, ONE) == ((InputFile("images", "images"),), (SUMMARY,))


@pytest.mark.parametrize(
    ("names", "signature", "expected"),
    [
        (["images"], ONE, [("images", "images")]),
        (["images.png"], ONE, [("images.png", "images")]),
        (["input.jpg"], ONE, [("input.jpg", "images")]),
        (["b.txt", "a.json"], TWO, [("b.txt", "b"), ("a.json", "a")]),
        (["first.json", "second.txt"], TWO, [("first.json", "a"), ("second.txt", "b")]),
        (["input.json"], TWO, [("input.json", None)]),
    ],
)
def test_inputs_by_name_then_by_order_then_all_in_one(
    names: list[str], signature: Signature, expected: list[tuple[str, str | None]]
) -> None:
    text = "inputs:\n" + "".join(f"  {name}: {{maxSize: 1M}}\n" for name in names)
    inputs, _ = files(text, signature)
    assert [(file.filename, file.input) for file in inputs] == expected
    assert inputs[0].max_bytes == 1_000_000


@pytest.mark.parametrize(
    ("names", "expected"),
    [
        (["results.json"], [("results.json", None)]),
        (["answer.json"], [("answer.json", None)]),
        (["label.txt", "results.json"], [("label.txt", "label"), ("results.json", None)]),
        (["scores.json", "label.txt"], [("scores.json", "scores"), ("label.txt", "label")]),
        (["one.txt", "two.json"], [("one.txt", "label"), ("two.json", "scores")]),
    ],
)
def test_outputs(names: list[str], expected: list[tuple[str, str | None]]) -> None:
    text = "outputs:\n" + "".join(f"  {name}: {{mediaType: text/plain}}\n" for name in names)
    _, outputs = files(text, TWO)
    assert [(file.filename, file.output) for file in outputs] == expected


def test_media_types_and_sizes() -> None:
    text = "inputs:\n  images:\n    acceptedMediaTypes: [image/png, image/jpeg]\n    maxSize: 512Ki\n"
    assert files(text, ONE)[0] == (InputFile("images", "images", ("image/png", "image/jpeg"), 512 * 1024),)


@pytest.mark.parametrize(
    ("size", "expected"),
    [("5M", 5_000_000), ("5", 5), ("1.5k", 1500), ("2GB", 2_000_000_000), ("1Mi", 1 << 20), ("3 KiB", 3072)],
)
def test_sizes(size: str, expected: int) -> None:
    assert files(f"inputs:\n  images: {{maxSize: '{size}'}}\n", ONE)[0][0].max_bytes == expected


@pytest.mark.parametrize(
    ("text", "signature", "says"),
    [
        ("", ONE, "expected a mapping"),
        ("- a\n", ONE, "expected a mapping"),
        ("a: [", ONE, "expected YAML"),
        ("inputs: [images]\n", ONE, "inputs: expected a mapping, got ['images']"),
        ("inputs:\n  images: 3\n", ONE, "inputs.images: expected a mapping, got 3"),
        ("inputs:\n  1: {}\n", ONE, "inputs.1: expected text, got 1"),
        (
            "inputs:\n  images: {acceptedMediaTypes: image/png}\n",
            ONE,
            "inputs.images.acceptedMediaTypes: expected a list, got 'image/png'",
        ),
        (
            "inputs:\n  images: {acceptedMediaTypes: [a/b, 3]}\n",
            ONE,
            "images.acceptedMediaTypes.1: expected text, got 3",
        ),
        ("inputs:\n  images: {acceptedMediaTypes:}\n", ONE, "images.acceptedMediaTypes: expected a list, got None"),
        ("outputs:\n  results.json: {mediaType:}\n", ONE, "outputs.results.json.mediaType: expected text, got None"),
        (
            "inputs:\n  images: {maxSize: big}\n",
            ONE,
            'inputs.images.maxSize: expected a size such as "5M" or "512Mi", got \'big\'',
        ),
        ("inputs:\n  images: {maxSize: true}\n", ONE, "inputs.images.maxSize: expected a size"),
        (f"inputs:\n  images: {{maxSize: '{'9' * 400}'}}\n", ONE, "inputs.images.maxSize: expected a size"),
        ("inputs:\n  images: {maxSize: -5}\n", ONE, "inputs.images.maxSize: expected a size"),
        ("outputs:\n  results.json: {maxSize: [1]}\n", ONE, "outputs.results.json.maxSize: expected a size"),
        ("outputs:\n  results.json: {mediaType: 3}\n", ONE, "outputs.results.json.mediaType: expected text, got 3"),
        ("inputs:\n  images: {}\n  images: {}\n", ONE, "the key images is there twice"),
        ("inputs: {}\ninputs: {}\n", ONE, "the key inputs is there twice"),
        ("inputs:\n  a/b: {}\n", ONE, "file names without a path, got 'a/b'"),
        ("inputs:\n  ..: {}\n", ONE, "file names without a path"),
        ("inputs:\n  a.txt: {}\n  a.json: {}\n", TWO, "differ by more than their ending"),
        ("inputs:\n  x: {}\n  y: {}\n  z: {}\n", TWO, "expected a file for each of a, b, or one JSON file of all"),
        ("inputs:\n  a.json: {}\n", TWO, "got none for b"),
        ("outputs:\n  x.txt: {}\n  y.txt: {}\n  z.txt: {}\n", TWO, "got x.txt, y.txt, z.txt"),
        ("x: !!python/object/apply:os.system [true]\n", ONE, "expected YAML"),
    ],
)
def test_what_refuses_the_start(text: str, signature: Signature, says: str) -> None:
    with pytest.raises(ConfigError) as caught:
        files(text, signature)
    assert caught.value.message.startswith("model.yaml")
    assert says in caught.value.message
    assert "_" not in caught.value.message, "no names of ours"


def test_a_whole_model_yaml_of_the_template_is_read() -> None:
    text = """
specification: '0.3'
type: file
source: bah
version: 2.1.0
name: A name
author: An author
description: {summary: s, details: d, technical: t, performance: p}
releaseNotes: none
tags: [a, b]
metrics: [{label: Accuracy, type: percentage, value: 0.99, description: d}]
inputs:
  images:
    acceptedMediaTypes: [image/jpeg]
    maxSize: 5M
    description: The picture.
outputs:
  results.json:
    mediaType: application/json
    maxSize: 128K
    description: The answer.
resources: {memory: {size: 512M}, cpu: {count: 0.5}, gpu: {count: 0}}
timeout: {status: 20s, run: 20s}
internal: {recommended: false, features: {explainable: false}}
"""
    assert files(text, ONE) == ((InputFile("images", "images", ("image/jpeg",), 5_000_000),), (SUMMARY,))
