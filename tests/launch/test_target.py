"""TARGET in all its forms, and what is said when it is none of them."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from servekit.errors import ConfigError, LoadFailed
from servekit.launch.target import load_class, locate

PREDICTOR = """
from servekit import Predictor, Text

class {name}(Predictor):
    inputs = {{"text": Text()}}

    def predict(self, text):
        return text
"""


@pytest.fixture(autouse=True)
def _imports() -> Iterator[None]:
    path, modules, flag = list(sys.path), set(sys.modules), sys.dont_write_bytecode
    yield
    sys.path[:] = path
    sys.dont_write_bytecode = flag
    for name in set(sys.modules) - modules:
        del sys.modules[name]


def write(path: Path, *names: str, before: str = "") -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(before + "".join(PREDICTOR.format(name=name) for name in names or ("Mine",)))
    return path


def class_of(text: str | None, cwd: Path, model_dir: Path | None = None) -> str:
    return load_class(locate(text, model_dir, cwd)).__name__


@pytest.mark.parametrize(
    "text", ["mine.py", "mine.py:Mine", "./mine.py", "mine:Mine", ".", "sub", "sub/", "sub/deep.py:Mine"]
)
def test_forms(tmp_path: Path, text: str) -> None:
    write(tmp_path / "mine.py")
    write(tmp_path / "sub" / "deep.py")
    assert class_of(text, tmp_path) == "Mine"


def test_an_absolute_path_does_not_depend_on_the_directory(tmp_path: Path) -> None:
    assert class_of(str(write(tmp_path / "a" / "mine.py")), Path("/")) == "Mine"


@pytest.mark.parametrize(
    "name", ["predictor.py", "code/predictor.py", "inference.py", "code/inference.py", "anything.py"]
)
def test_what_a_directory_may_hold(tmp_path: Path, name: str) -> None:
    write(tmp_path / name)
    (tmp_path / "helper.py").write_text("x = 1\n")
    target = locate(str(tmp_path), None, Path("/"))
    assert target.path == tmp_path / name
    assert target.directory == tmp_path
    assert class_of(None, Path("/"), model_dir=tmp_path) == "Mine"


def test_a_well_known_name_comes_first(tmp_path: Path) -> None:
    write(tmp_path / "predictor.py")
    write(tmp_path / "other.py", "Other")
    (tmp_path / "model.onnx").touch()
    assert class_of(str(tmp_path), Path("/")) == "Mine"


def test_an_onnx_file_alone(tmp_path: Path) -> None:
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "net.onnx").touch()
    assert locate(str(tmp_path), None, Path("/")).kind == "onnx"
    assert locate(str(tmp_path / "model" / "net.onnx"), None, Path("/")).directory == tmp_path / "model"


def test_siblings_can_be_imported_and_nothing_is_written(tmp_path: Path) -> None:
    write(tmp_path / "mine.py", before="from beside import VALUE\n")
    (tmp_path / "beside.py").write_text("VALUE = 3\n")
    assert class_of("mine.py", tmp_path) == "Mine"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["beside.py", "mine.py"]


def test_imported_and_abstract_predictors_do_not_count(tmp_path: Path) -> None:
    write(tmp_path / "base.py", "Base")
    (tmp_path / "mine.py").write_text(
        "from base import Base\nclass Middle(Base):\n    pass\nclass Mine(Middle):\n    pass\n"
    )
    assert class_of("mine.py", tmp_path) == "Mine"


def test_a_file_named_like_another_module_does_not_replace_it(tmp_path: Path) -> None:
    write(tmp_path / "json.py")
    write(tmp_path / "one" / "predictor.py", "One")
    write(tmp_path / "two" / "predictor.py", "Two")
    classes = [load_class(locate(text, None, tmp_path)) for text in ("json.py", "one", "two")]
    assert sys.modules["json"] is json
    assert [sys.modules[cls.__module__].__dict__[cls.__name__] for cls in classes] == classes


def test_the_same_file_keeps_its_module_name(tmp_path: Path) -> None:
    write(tmp_path / "mine.py")
    names = {load_class(locate("mine.py", None, tmp_path)).__module__ for _ in range(2)}
    assert names == {"mine"}


def test_links_that_stay_in_the_directory(tmp_path: Path) -> None:
    """As Kubernetes mounts a volume, reached by a link itself."""
    write(tmp_path / "volume" / "..2026" / "predictor.py")
    (tmp_path / "volume" / "..data").symlink_to("..2026")
    (tmp_path / "volume" / "predictor.py").symlink_to("..data/predictor.py")
    (tmp_path / "model").symlink_to("volume")
    assert class_of(str(tmp_path / "model"), Path("/")) == "Mine"
    assert class_of(None, tmp_path, model_dir=Path("model")) == "Mine"


@pytest.mark.parametrize("name", ["predictor.py", "code/predictor.py", "other.py", "net.onnx", "1/net.onnx"])
@pytest.mark.parametrize("whole", [False, True], ids=["file", "directory"])
def test_links_that_leave_the_directory(tmp_path: Path, name: str, whole: bool) -> None:
    outside, inside = tmp_path / "outside" / name, tmp_path / "model" / name
    write(outside)
    inside.parent.mkdir(parents=True)
    if whole and inside.parent != tmp_path / "model":
        inside.parent.rmdir()
        inside.parent.symlink_to(outside.parent)
    else:
        inside.symlink_to(outside)
    for text, model_dir in ((str(tmp_path / "model"), None), (None, tmp_path / "model")):
        with pytest.raises(ConfigError, match=f"'{name}' is reached by a symbolic link that leads out"):
            locate(text, model_dir, Path("/"))
    # A file that the user names is theirs to choose.
    assert locate(str(inside), None, Path("/")).kind in ("file", "onnx")


def test_a_model_in_a_hubs_cache_keeps_its_name(tmp_path: Path) -> None:
    (tmp_path / "blobs").mkdir()
    (tmp_path / "blobs" / "8f3a").touch()
    (tmp_path / "snapshot").mkdir()
    (tmp_path / "snapshot" / "model.onnx").symlink_to("../blobs/8f3a")
    target = locate("snapshot/model.onnx", None, tmp_path)
    assert (target.kind, target.path, target.directory) == (
        "onnx",
        tmp_path / "snapshot" / "model.onnx",
        tmp_path / "snapshot",
    )


def test_what_only_has_the_name_of_a_file_is_not_read(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.py")
    (tmp_path / "endless.py").symlink_to("/dev/zero")
    write(tmp_path / "mine.py")
    assert locate(str(tmp_path), None, Path("/")).path == tmp_path / "mine.py"


def test_hidden_files_are_no_candidates(tmp_path: Path) -> None:
    for name in ("net.onnx", "._net.onnx"):
        (tmp_path / name).touch()
    (tmp_path / "._mine.py").write_bytes(b"\x00\x05\x16\x07")
    assert locate(str(tmp_path), None, Path("/")).path == tmp_path / "net.onnx"


def test_a_relative_model_dir_is_under_the_given_directory(tmp_path: Path) -> None:
    write(tmp_path / "model" / "predictor.py")
    assert locate(None, Path("model"), tmp_path).path == tmp_path / "model" / "predictor.py"


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("nothing.py", "no such file"),
        ("nothing", "there is no file or directory"),
        ("notes.txt", "expected a .py or .onnx file"),
        ("mine.py:3x", "class name"),
        ("empty", "holds no predictor.py"),
        ("several", r"several candidates \(a.py, b.py\)"),
        ("model.onnx:Net", "no classes"),
        ("long/" + "x" * 5000, "TARGET"),
        (None, "no TARGET"),
    ],
)
def test_what_cannot_be_located(tmp_path: Path, text: str | None, says: str) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "notes.txt").touch()
    (tmp_path / "model.onnx").touch()
    write(tmp_path / "mine.py")
    write(tmp_path / "several" / "a.py")
    write(tmp_path / "several" / "b.py")
    with pytest.raises(ConfigError, match=says):
        locate(text, None, tmp_path)


@pytest.mark.parametrize(
    ("source", "kind", "says"),
    [
        ("x = 1\n", ConfigError, "no subclass of servekit.Predictor"),
        (PREDICTOR.format(name="A") + PREDICTOR.format(name="B"), ConfigError, r"several predictors \(A, B\)"),
        ("import no_such_module\n", LoadFailed, "ModuleNotFoundError: No module named 'no_such_module'"),
        ("1 / 0\n", LoadFailed, "ZeroDivisionError"),
        ("def broken(:\n", LoadFailed, "SyntaxError"),
        ("raise SystemExit('no weights')\n", LoadFailed, "SystemExit: no weights"),
    ],
)
def test_what_cannot_be_loaded(tmp_path: Path, source: str, kind: type[Exception], says: str) -> None:
    (tmp_path / "mine.py").write_text(source)
    with pytest.raises(kind, match=says):
        class_of("mine.py", tmp_path)


def test_a_missing_dependency_is_not_taken_for_the_target(tmp_path: Path) -> None:
    write(tmp_path / "nosuch_model.py", before="import nosuch\n")
    with pytest.raises(LoadFailed, match="No module named 'nosuch'"):
        class_of("nosuch_model:Mine", tmp_path)


@pytest.mark.parametrize(
    ("text", "says"),
    [("mine.py:Other", "expected a Predictor subclass Other"), ("no_such:Mine", "no module 'no_such'")],
)
def test_names_that_are_not_there(tmp_path: Path, text: str, says: str) -> None:
    write(tmp_path / "mine.py")
    with pytest.raises(ConfigError, match=says):
        class_of(text, tmp_path)
