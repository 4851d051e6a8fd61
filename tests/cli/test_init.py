"""`servekit init` as a process, and what the projects that it writes do: their own tests, real servers, curl."""

from __future__ import annotations

import json
import re
import resource
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import models
import numpy as np
import onnx
import pytest
from models import value
from onnx import TensorProto, helper
from serving import clean_environ, script, serve

from servekit.backends.onnx import OnnxPredictor, predictor_class
from servekit.launch.target import load_class, locate
from servekit.testing import Client

ROOT = Path(__file__).parents[2]
INT64, STRING, BOOL = TensorProto.INT64, TensorProto.STRING, TensorProto.BOOL
FILES = [
    ".gitignore",
    ".servekitignore",
    "README.md",
    "predictor.py",
    "pyproject.toml",
    "requirements-dev.txt",
    "requirements.txt",
    "sample",
    "sample.json",
    "test_predictor.py",
]
# As in an environment of the project's own, where pytest has no plugins.
BARE = {"PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1"}
SH = re.compile(r"^```sh\n(.*?)^```", re.DOTALL | re.MULTILINE)


def init(*arguments: str, cwd: Path, **options: Any) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [script("servekit"), "init", *arguments],
        cwd=cwd, env=clean_environ(), capture_output=True, text=True, timeout=60, check=False, **options,
    )  # fmt: skip


def own_tests(project: Path) -> str:
    """What the project's own tests say."""
    ended = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider"],
        cwd=project, env=clean_environ(BARE), capture_output=True, text=True, timeout=100, check=False,
    )  # fmt: skip
    assert ended.returncode == 0, ended.stdout + ended.stderr
    return ended.stdout


def tree(directory: Path) -> dict[str, bytes]:
    return {
        str(path.relative_to(directory)): path.read_bytes() for path in sorted(directory.rglob("*")) if path.is_file()
    }


# --- models ---


def dense(path: Path) -> None:
    models.dense(path, layers=1, width=4)


def digits(path: Path) -> None:
    shutil.copy(ROOT / "examples" / "digits" / "model.onnx", path)


def odd_names(path: Path) -> None:
    """Two inputs and two outputs; no name is one that Python would take, and some look like code."""
    one, two = 'a/b:0"', "'b.c\n\\ d);import os #"
    nodes = [helper.make_node("Add", [one, two], ["größe"]), helper.make_node("Sub", [one, two], ["{x}$name"])]
    models.save(
        path,
        nodes,
        [value(one, ["N", 2]), value(two, ["N", 2])],
        [value("größe", ["N", 2]), value("{x}$name", ["N", 2])],
        {},
    )


def alike(path: Path) -> None:
    names = ["a/b", "a_b"]
    models.save(
        path, [helper.make_node("Sum", names, ["y"])], [value(name, ["N"]) for name in names], [value("y", ["N"])], {}
    )


def taken_names(path: Path) -> None:
    """Names that mean something to Python, to servekit's predictors, and to the forms of a request."""
    names = ["self", "context", "instances", "class"]
    nodes = [helper.make_node("Sum", names, ["outputs"])]
    models.save(path, nodes, [value(name, ["N", 2]) for name in names], [value("outputs", ["N", 2])], {})


def instances(path: Path) -> None:
    """One input, called as the rows of a request are."""
    nodes = [helper.make_node("Relu", ["instances"], ["inputs"])]
    models.save(path, nodes, [value("instances", ["N", 2])], [value("inputs", ["N", 2])], {})


def only_zero(path: Path) -> None:
    """A table of one row: index 1 is an error."""
    nodes = [helper.make_node("Gather", ["table", "ids"], ["row"])]
    tensors = {"table": np.ones((1, 3), np.float32)}
    models.save(path, nodes, [value("ids", ["N"], INT64)], [value("row", ["N", 3])], tensors)


def not_zero(path: Path) -> None:
    """1 / 0 is nothing that JSON could carry."""
    nodes = [helper.make_node("Reciprocal", ["x"], ["y"])]
    models.save(path, nodes, [value("x", ["N", 2])], [value("y", ["N", 2])], {})


def not_small(path: Path) -> None:
    """Free dimensions, of which a kernel of 5 x 5 wants at least 5."""
    nodes = [
        helper.make_node("Conv", ["x", "w"], ["c"]),
        helper.make_node("GlobalAveragePool", ["c"], ["y"]),
    ]
    shape = ["N", 3, "height", "width"]
    models.save(path, nodes, [value("x", shape)], [value("y", ["N", 2, 1, 1])], {"w": models.normal(2, 3, 5, 5)})


def free(path: Path) -> None:
    nodes = [helper.make_node("ReduceMax", ["x"], ["top"], axes=[1], keepdims=0)]
    models.save(path, nodes, [value("x", ["N", "length"])], [value("top", ["N"])], {})


def fixed(path: Path) -> None:
    nodes = [helper.make_node("And", ["x", "y"], ["both"])]
    models.save(path, nodes, [value("x", [4, 2], BOOL), value("y", [4, 2], BOOL)], [value("both", [4, 2], BOOL)], {})


def whole(path: Path) -> None:
    nodes = [helper.make_node("ReduceSum", ["x"], ["total"], keepdims=0), helper.make_node("Relu", ["x"], ["y"])]
    models.save(path, nodes, [value("x", ["N", 2])], [value("total", []), value("y", ["N", 2])], {})


def words(path: Path) -> None:
    """What scikit-learn's converters make: a text, and a map of probabilities for each row."""
    kind = helper.make_map_type_proto(STRING, helper.make_tensor_type_proto(TensorProto.FLOAT, []))
    graph = helper.make_graph(
        [
            helper.make_node("Identity", ["words"], ["same"]),
            helper.make_node("ZipMap", ["scores"], ["map"], domain="ai.onnx.ml", classlabels_strings=["no", "yes"]),
        ],
        "test",
        [value("words", ["N", 1], STRING), value("scores", ["N", 2])],
        [value("same", ["N", 1], STRING), helper.make_value_info("map", helper.make_sequence_type_proto(kind))],
    )
    opsets = [helper.make_opsetid("", 17), helper.make_opsetid("ai.onnx.ml", 3)]
    onnx.save(helper.make_model(graph, opset_imports=opsets, ir_version=8), path)


def long_shape(path: Path) -> None:
    """Lines that formatters break."""
    name = "a_name_that_some_exporter_made_of_the_modules_it_went_through"
    shape = ["N", 1, 2, 1, 2, 1, 2, 1]
    models.save(path, [helper.make_node("Relu", [name], ["y"])], [value(name, shape)], [value("y", shape)], {})


MODELS = [
    dense,
    digits,
    odd_names,
    alike,
    taken_names,
    instances,
    only_zero,
    not_zero,
    not_small,
    free,
    fixed,
    whole,
    words,
    long_shape,
]


@pytest.fixture(scope="module")
def projects(tmp_path_factory: pytest.TempPathFactory) -> Callable[[Callable[[Path], None]], Path]:
    """The project around a model, made once; the model lies beside it as `original.onnx`."""
    made: dict[str, Path] = {}

    def project(model: Callable[[Path], None]) -> Path:
        name = model.__name__
        if name not in made:
            work = tmp_path_factory.mktemp(name)
            model(work / "original.onnx")
            ended = init("my-model", "--from", "original.onnx", cwd=work)
            assert (ended.returncode, ended.stderr) == (0, "")
            made[name] = work / "my-model"
            assert sorted(path.name for path in made[name].iterdir()) == sorted([*FILES, "model"])
        return made[name]

    return project


# --- a project to be filled ---


def test_a_new_project(tmp_path: Path) -> None:
    ended = init("iris-model", cwd=tmp_path)
    assert (ended.returncode, ended.stderr) == (0, "")
    assert ended.stdout.splitlines()[0] == "cd iris-model && pip install -r requirements-dev.txt && python -m pytest"
    assert ended.stdout.count("\n") == 3
    assert [path.name for path in tmp_path.iterdir()] == ["iris-model"]
    project = tmp_path / "iris-model"
    assert sorted(path.name for path in project.iterdir()) == FILES
    assert "class IrisModel(Predictor):" in (project / "predictor.py").read_text()
    # Others may read it where they may read what one writes.
    mode = (project / "predictor.py").stat().st_mode & 0o777
    (tmp_path / "usual").write_text("")
    assert mode == (tmp_path / "usual").stat().st_mode & 0o777
    assert "13 passed" in own_tests(project)


def follow(readme: Path, port: int) -> list[str]:
    """What the curl commands of a README print, in its folder."""
    printed = []
    for block in SH.findall(readme.read_text()):
        if "curl" not in block:
            continue
        ended = subprocess.run(
            ["sh", "-eu", "-c", block.replace("localhost:8080", f"127.0.0.1:{port}")],
            cwd=readme.parent, capture_output=True, text=True, timeout=60, check=False,
        )  # fmt: skip
        assert ended.returncode == 0, ended.stderr
        printed.append(ended.stdout)
    return printed


@pytest.mark.skipif(shutil.which("curl") is None, reason="curl is not installed")
def test_its_readme_is_true(tmp_path: Path) -> None:
    assert init("flowers", cwd=tmp_path).returncode == 0
    with serve(".", platform="all", cwd=tmp_path / "flowers") as server:
        sagemaker, modelarts, modzy = follow(tmp_path / "flowers" / "README.md", server.port)
    assert json.loads(sagemaker) == {"predictions": [2.5]}
    assert json.loads(modelarts) == {"predictions": [2.5]}
    assert '"statusCode":200' in modzy.replace(" ", "")
    assert modzy.replace(" ", "").endswith('{"data":{"result":{"score":2.5},"explanation":null,"drift":null}}')


@pytest.mark.parametrize("name", ["a", "json", "none", "tensor", "exception", "build", "My_Model-2"])
def test_any_name_does(tmp_path: Path, name: str) -> None:
    assert init(name, cwd=tmp_path).returncode == 0
    assert "13 passed" in own_tests(tmp_path / name)
    # Beside the folder, too: it hides no module.
    code = f"import json, servekit; json.dumps; servekit.Predictor; open({name!r} + '/README.md').read()"
    subprocess.run([sys.executable, "-c", code], cwd=tmp_path, check=True, timeout=30)


@pytest.mark.parametrize(
    "name",
    ["", ".", "..", "../x", "/tmp/x", "a/b", "2fast", "_x", "ümlaut", "a b", "a.b", "a-", "a_", "x" * 65, "a\n"],
)
def test_names_that_are_none(tmp_path: Path, name: str) -> None:
    ended = init("--", name, cwd=tmp_path)
    assert (ended.returncode, ended.stdout, ended.stderr.count("\n")) == (2, "", 1)
    assert ended.stderr.startswith("servekit: NAME: expected at most 64 letters, digits, - and _,")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("name", ["servekit", "numpy", "NumPy", "import_linter", "onnxruntime", "pytest"])
def test_names_that_pip_would_mix_up(tmp_path: Path, name: str) -> None:
    ended = init(name, cwd=tmp_path)
    assert (ended.returncode, ended.stdout, ended.stderr.count("\n")) == (2, "", 1)
    assert f"such as '{name}-model'" in ended.stderr
    assert list(tmp_path.iterdir()) == []
    assert init(f"{name}-model", cwd=tmp_path).returncode == 0


def test_the_same_again_is_the_same(tmp_path: Path) -> None:
    odd_names(tmp_path / "model.onnx")
    for directory in ("one", "two"):
        (tmp_path / directory).mkdir()
        assert init("plain", "--directory", directory, cwd=tmp_path).returncode == 0
        assert init("around", "--from", "model.onnx", "--directory", directory, cwd=tmp_path).returncode == 0
    assert tree(tmp_path / "one") == tree(tmp_path / "two")
    assert len(tree(tmp_path / "one")) > 20


# --- around a model ---


@pytest.mark.parametrize("model", MODELS)
def test_a_project_around_a_model_passes_its_own_tests(projects: Any, model: Any, tmp_path: Path) -> None:
    project = projects(model)
    assert (project / "model" / "model.onnx").read_bytes() == (project.parent / "original.onnx").read_bytes()
    shutil.copytree(project, tmp_path / "copy")
    assert "13 passed" in own_tests(tmp_path / "copy")


@pytest.mark.parametrize("model", MODELS)
def test_it_serves_what_the_model_serves(projects: Any, model: Any, tmp_path: Path) -> None:
    project = projects(model)
    original = predictor_class(project.parent / "original.onnx")
    assert issubclass(original, OnnxPredictor)
    ours = load_class(locate(str(project), None, tmp_path))
    assert issubclass(ours, OnnxPredictor)
    for name in ("inputs", "outputs", "batching", "fixed_rows", "whole"):
        assert getattr(ours, name) == getattr(original, name), name

    sample = json.loads((project / "sample.json").read_bytes())
    [row] = sample["instances"]
    bodies = [
        sample,
        {"instances": [row] * 5},
        {"data": {"req_data": [row, row]}},
        [row],
        {"instances": [row, {"other": 1}]},
        {"instances": [[[[row]]]]},
        {"inputs": {}},
    ]
    shutil.copytree(project / "sample", tmp_path / "in")
    job = {"type": "file", "input": str(tmp_path / "in"), "output": str(tmp_path / "out")}
    answers = []
    for target in (project, project.parent / "original.onnx"):
        with Client(target, platform="all") as client:
            replies = [client.post(path, json=body) for path in ("/invocations", "/") for body in bodies]
            assert [reply.status_code for reply in replies[:4]] == [200, 200, 400, 200]
            assert client.post("/run", json=job).status_code == 200
            texts = [re.sub(r'"request_id":"[^"]*"', "", reply.text) for reply in replies]
            answers.append((texts, (tmp_path / "out" / "results.json").read_bytes()))
    assert answers[0] == answers[1]


@pytest.mark.skipif(shutil.which("curl") is None, reason="curl is not installed")
@pytest.mark.parametrize("model", [digits, odd_names, not_small, fixed, words])
def test_its_readme_is_true_around_a_model(projects: Any, model: Any) -> None:
    project = projects(model)
    outputs = set(predictor_class(project.parent / "original.onnx").outputs)
    with serve(".", platform="all", cwd=project) as server:
        sagemaker, modelarts, modzy = follow(project / "README.md", server.port)
    assert sagemaker == modelarts
    assert len(json.loads(sagemaker)["predictions"]) == 1
    assert '"statusCode":200' in modzy.replace(" ", "")
    written = json.loads((project / "out" / "results.json").read_bytes())
    shutil.rmtree(project / "out")
    assert set(written["data"]["result"]) == outputs


def test_the_sample_is_what_the_model_takes(projects: Any) -> None:
    def row(model: Any) -> Any:
        [row] = json.loads((projects(model) / "sample.json").read_bytes())["instances"]
        return row

    assert row(dense) == [0.0] * 4
    assert row(only_zero) == 0
    assert row(not_zero) == [1.0, 1.0]
    assert row(free) == [0.0]
    assert np.shape(row(not_small)) == (3, 16, 16)
    assert row(fixed) == {"x": [False, False], "y": [False, False]}
    assert row(words) == {"words": ["0"], "scores": [0.0, 0.0]}


def test_a_model_that_answers_no_sample_is_said(tmp_path: Path) -> None:
    """sqrt(-1 - x * x) is no number for any x."""
    nodes = [
        helper.make_node("Mul", ["x", "x"], ["square"]),
        helper.make_node("Sub", ["minus", "square"], ["below"]),
        helper.make_node("Sqrt", ["below"], ["y"]),
    ]
    models.save(tmp_path / "m.onnx", nodes, [value("x", ["N", 2])], [value("y", ["N", 2])], {"minus": np.float32(-1)})
    ended = init("none-fits", "--from", "m.onnx", cwd=tmp_path)
    assert ended.returncode == 0
    assert "until sample.json and sample/ hold a request that it takes" in ended.stderr
    assert json.loads((tmp_path / "none-fits" / "sample.json").read_bytes()) == {"instances": [[0.0, 0.0]]}


@pytest.mark.parametrize("linked", [False, True])
def test_external_data_comes_along(tmp_path: Path, linked: bool) -> None:
    """From a folder as a hub's cache has it, too, where every name is a link."""
    store = tmp_path / "store"
    models.external(store / "net.onnx")
    models.point_external_data_at(store / "net.onnx", "weights/json.py")
    (store / "weights").mkdir()
    (store / "net.data").rename(store / "weights" / "json.py")
    source = store / "net.onnx"
    if linked:
        (store / "weights" / "json.py").rename(store / "blob-1")
        (store / "weights" / "json.py").symlink_to("../blob-1")
        source = source.rename(store / "blob-2")
        (store / "net.onnx").symlink_to("blob-2")
        source = store / "net.onnx"
    assert init("net", "--from", str(source), cwd=tmp_path).returncode == 0
    copies = tmp_path / "net" / "model"
    assert sorted(str(path.relative_to(copies)) for path in copies.rglob("*")) == [
        "model.onnx",
        "weights",
        "weights/json.py",
    ]
    assert not any(path.is_symlink() for path in copies.rglob("*"))
    shutil.rmtree(store)
    assert "13 passed" in own_tests(tmp_path / "net")


def test_a_model_in_the_model_directory_goes_first(projects: Any, tmp_path: Path) -> None:
    """As SageMaker mounts one beside the image's own."""
    models.save(
        tmp_path / "model.onnx",
        [helper.make_node("Neg", ["x"], ["y"])],
        [value("x", ["N", 4])],
        [value("y", ["N", 4])],
        {},
    )
    with Client(projects(dense), platform="sagemaker", model_dir=tmp_path) as client:
        reply = client.post("/invocations", json={"instances": [[1, 2, 3, 4]]})
    assert reply.json() == {"predictions": [[-1, -2, -3, -4]]}


@pytest.mark.slow
@pytest.mark.parametrize("model", [None, dense, odd_names, taken_names, fixed, whole, words, long_shape])
def test_linters_and_formatters_have_nothing_to_say(
    tmp_path: Path, tmp_path_factory: pytest.TempPathFactory, projects: Any, model: Any
) -> None:
    cache = tmp_path_factory.getbasetemp() / "mypy"
    if model is None:
        assert init("plain", cwd=tmp_path).returncode == 0
    project = tmp_path / "plain" if model is None else projects(model)
    rules = "A,ARG,B,C4,E,F,FURB,I,N,PERF,PIE,PT,PTH,RET,RUF,SIM,T20,UP,W"
    # Predictors take what their caller passes; names and shapes are as long as the model has them.
    ignored = "ARG002,E501,RUF012"
    for command in (
        [script("ruff"), "check", "--no-cache", "."],
        [script("ruff"), "check", "--no-cache", "--select", rules, "--ignore", ignored, "."],
        [script("ruff"), "format", "--no-cache", "--check", "."],
        [script("mypy"), "--strict", "--cache-dir", str(cache), "predictor.py", "test_predictor.py"],
    ):
        ended = subprocess.run(command, cwd=project, capture_output=True, text=True, timeout=110, check=False)
        assert ended.returncode == 0, f"{command}\n{ended.stdout}{ended.stderr}"


# --- bad input ---


@pytest.mark.parametrize(
    ("there", "says"),
    [
        (lambda path: (path.mkdir(), (path / "mine").write_text("mine")), "exists and is not empty"),
        (lambda path: path.write_text("mine"), "exists and is no directory"),
        (lambda path: path.symlink_to("nowhere"), "exists and is no directory"),
        (lambda path: (path.with_name("other").mkdir(), path.symlink_to("other")), "exists and is no directory"),
    ],
)
def test_what_is_there_is_not_touched(tmp_path: Path, there: Any, says: str) -> None:
    there(tmp_path / "here")
    before = {path: path.lstat().st_mtime_ns for path in tmp_path.rglob("*")}
    ended = init("here", cwd=tmp_path)
    assert (ended.returncode, ended.stdout, ended.stderr.count("\n")) == (2, "", 1)
    assert says in ended.stderr
    assert {path: path.lstat().st_mtime_ns for path in tmp_path.rglob("*")} == before


def test_an_empty_folder_is_filled(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    assert init("empty", cwd=tmp_path).returncode == 0
    assert sorted(path.name for path in (tmp_path / "empty").iterdir()) == FILES


def shapeless(path: Path) -> None:
    models.save(path, [helper.make_node("Relu", ["x"], ["y"])], [value("x", [])], [value("y", [])], {})


def complex_numbers(path: Path) -> None:
    kind = TensorProto.COMPLEX64
    models.save(
        path, [helper.make_node("Identity", ["x"], ["y"])], [value("x", ["N"], kind)], [value("y", ["N"], kind)], {}
    )


def huge(path: Path) -> None:
    shape = ["N", 3, 2000, 2000]
    models.save(path, [helper.make_node("Relu", ["x"], ["y"])], [value("x", shape)], [value("y", shape)], {})


def no_text(path: Path) -> None:
    """A name that is no UTF-8."""
    models.save(path, [helper.make_node("Relu", ["xname"], ["y"])], [value("xname", ["N"])], [value("y", ["N"])], {})
    path.write_bytes(path.read_bytes().replace(b"xname", b"x\xff\xfe\xfd\xfc"))


def pointing_at(location: str) -> Callable[[Path], None]:
    def model(path: Path) -> None:
        models.external(path)
        models.point_external_data_at(path, location)
        if not location.startswith(("/", "..")):
            path.with_name("model.data").rename(path.with_name(location))

    return model


@pytest.mark.parametrize(
    ("name", "model", "says"),
    [
        ("missing.onnx", None, "--from: expected an .onnx file, got 'missing.onnx'"),
        ("model.pt", lambda path: path.write_bytes(b"x"), "--from: expected an .onnx file, got 'model.pt'"),
        ("folder.onnx", lambda path: path.mkdir(), "--from: expected an .onnx file, got 'folder.onnx'"),
        ("empty.onnx", lambda path: path.write_bytes(b""), "empty.onnx: not a"),
        ("broken.onnx", lambda path: path.write_bytes(b"not protobuf"), "broken.onnx: not a model"),
        ("model.onnx", shapeless, "input 'x' is a scalar, expected a batch dimension first"),
        ("model.onnx", complex_numbers, "model.onnx: "),
        ("model.onnx", huge, "expected inputs of at most 4194304 values in a row"),
        ("model.onnx", no_text, "model.onnx: expected names in UTF-8"),
        ("model.onnx", pointing_at("/etc/passwd"), "expected a file in the model's directory"),
        ("model.onnx", pointing_at("../other"), "expected a file in the model's directory"),
        ("model.onnx", pointing_at(".hidden"), "expected a name that does not begin with a dot"),
    ],
)
def test_bad_models_are_one_line_and_leave_nothing(tmp_path: Path, name: str, model: Any, says: str) -> None:
    (tmp_path / "models").mkdir()
    (tmp_path / "work").mkdir()
    if model is not None:
        model(tmp_path / "models" / name)
    source = f"../models/{name}"
    ended = init("project", "--from", source, cwd=tmp_path / "work")
    assert (ended.returncode, ended.stdout, ended.stderr.count("\n")) == (2, "", 1), ended.stderr
    assert ended.stderr.startswith("servekit: ")
    assert says.replace(f"'{name}'", f"'{source}'") in ended.stderr
    assert list((tmp_path / "work").iterdir()) == []


def test_a_disk_that_takes_no_more_is_one_line_and_leaves_nothing(tmp_path: Path) -> None:
    models.dense(tmp_path / "model.onnx")
    (tmp_path / "work").mkdir()
    limit = 1024 * 1024
    ended = init(
        "project", "--from", "../model.onnx", cwd=tmp_path / "work",
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit)),
    )  # fmt: skip
    assert (ended.returncode, ended.stdout) == (2, "")
    assert ended.stderr == "servekit: NAME: 'project' cannot be written: File too large\n"
    assert list((tmp_path / "work").iterdir()) == []


@pytest.mark.parametrize(
    ("directory", "says"),
    [
        ("missing", "--directory: expected a directory, got 'missing'"),
        ("file", "--directory: expected a directory, got 'file'"),
        ("/proc", "NAME: '/proc/project' cannot be written: "),
    ],
)
def test_bad_directories(tmp_path: Path, directory: str, says: str) -> None:
    (tmp_path / "file").write_text("")
    ended = init("project", "--directory", directory, cwd=tmp_path)
    assert (ended.returncode, ended.stdout, ended.stderr.count("\n")) == (2, "", 1)
    assert says in ended.stderr
    assert [path.name for path in tmp_path.iterdir()] == ["file"]
