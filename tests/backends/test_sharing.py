"""Workers that share one copy of the weights: real files, real processes, and everything that may be wrong with them."""

from __future__ import annotations

import json
import os
import re
import resource
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import models
import numpy as np
import pytest
import sharer
from serving import clean_environ

from servekit.backends.onnx import Session
from servekit.backends.prepacked import DATA, FOLDER, GRAPH, MANIFEST

MEBIBYTE = 1024 * 1024
Names = dict[str, Any]


@pytest.fixture(autouse=True)
def _own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two workers with a thread each, and no directory of the machine that the tests run on."""
    monkeypatch.setenv("SERVEKIT_WORKERS_EFFECTIVE", "2")
    monkeypatch.setenv("SERVEKIT_CPUS_EFFECTIVE", "2")
    monkeypatch.setenv("SERVEKIT_CACHE_DIR", str(tmp_path / "cache"))


@pytest.fixture(scope="session")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model with the copy beside it that a first start made."""
    directory = tmp_path_factory.mktemp("made")
    model = models.dense(directory / "model.onnx")
    subprocess.run(
        [sys.executable, sharer.__file__, model, "2"], env=clean_environ(), stdin=subprocess.DEVNULL, check=True,
        capture_output=True,
    )  # fmt: skip
    assert (directory / FOLDER).is_dir()
    return directory


@pytest.fixture
def model(made: Path, tmp_path: Path) -> Path:
    """The same, for a test that spoils it."""
    shutil.copytree(made, tmp_path / "model")
    return tmp_path / "model" / "model.onnx"


def entry(root: Path) -> Path:
    [found] = [path for path in root.iterdir() if not path.name.startswith(".")]
    return found


def run(session: Session, rows: int = 3) -> Any:
    [node] = session.inputs
    x = np.random.default_rng(rows).standard_normal((rows, *node.shape[1:])).astype("float32")
    return session.run({node.name: x})[session.outputs[0].name]


def plain(model: Path, directory: Path, monkeypatch: pytest.MonkeyPatch) -> Session:
    """A session on the model alone, as one worker opens it."""
    shutil.copytree(model.parent, directory, ignore=shutil.ignore_patterns(FOLDER))
    with monkeypatch.context() as patch:
        patch.setenv("SERVEKIT_WORKERS_EFFECTIVE", "1")
        patch.setenv("SERVEKIT_CPUS_EFFECTIVE", "1")
        session = Session(directory / model.name)
    assert not session.shared
    assert not (directory / FOLDER).exists()
    return session


@contextmanager
def workers(
    model: Path, count: int, environ: Mapping[str, str] | None = None
) -> Iterator[tuple[list[Names], list[str]]]:
    """What each worker says, while all live; and the log, complete afterwards."""
    log: list[str] = []
    with subprocess.Popen(
        [sys.executable, sharer.__file__, model, str(count)],
        env=clean_environ(environ), stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    ) as process:  # fmt: skip
        assert process.stdin is not None
        assert process.stdout is not None
        assert process.stderr is not None
        yield [json.loads(process.stdout.readline()) for _ in range(count)], log
        process.stdin.close()
        log += process.stderr.read().splitlines()


def mapped(pid: int, path: Path) -> dict[str, int]:
    """Bytes of a process's mappings of one file, by the kernel's names (proc(5), smaps)."""
    sums: dict[str, int] = {}
    inside = False
    for line in Path(f"/proc/{pid}/smaps").read_text().splitlines():
        if re.match(r"[0-9a-f]+-[0-9a-f]+ ", line):
            inside = line.endswith(str(path))
        elif inside and line.endswith(" kB"):
            name, _, rest = line.partition(":")
            sums[name] = sums.get(name, 0) + 1024 * int(rest.split()[0])
    return sums


def anonymous(pid: int) -> int:
    text = Path(f"/proc/{pid}/smaps_rollup").read_text()
    found = re.search(r"^Anonymous: +(\d+) kB", text, re.MULTILINE)
    assert found is not None
    return 1024 * int(found.group(1))


def test_workers_have_the_same_pages(made: Path, tmp_path: Path) -> None:
    weights = 12 * MEBIBYTE
    with workers(made / "model.onnx", 3) as (said, _):
        assert all(one["shared"] for one in said)
        data = entry(made / FOLDER) / DATA
        for one in said:
            pages = mapped(one["pid"], data)
            assert pages["Rss"] >= weights
            assert pages["Private_Dirty"] == pages["Anonymous"] == 0
            assert pages["Pss"] < 0.5 * pages["Rss"]
        taken = max(anonymous(one["pid"]) for one in said)
        digests = {one["digest"] for one in said}
    shutil.copyfile(made / "model.onnx", tmp_path / "model.onnx")
    with workers(tmp_path / "model.onnx", 1) as (said, _):
        [alone] = said
        assert not alone["shared"]
        assert anonymous(alone["pid"]) > taken + 0.8 * weights
        assert digests == {alone["digest"]}


def test_eight_workers_make_one_copy(tmp_path: Path) -> None:
    model = models.dense(tmp_path / "model.onnx")
    with workers(model, 8) as (said, log):
        assert all(one["shared"] for one in said)
    assert len([line for line in log if "made a copy" in line]) == 1
    assert [path.name for path in (tmp_path / FOLDER).iterdir()] == [entry(tmp_path / FOLDER).name]
    assert not (tmp_path / "cache").exists()


@pytest.mark.parametrize(
    "build",
    [models.gemm, models.conv, models.quantised, models.half, models.branches, models.external],
    ids=lambda build: build.__name__,
)
def test_the_answers_are_the_same_to_the_last_bit(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, build: Callable[[Path], Path]
) -> None:
    model = build(tmp_path / "own" / "model.onnx")
    shared, private = Session(model), plain(model, tmp_path / "plain", monkeypatch)
    assert shared.shared
    assert [(node.name, node.type, node.shape) for node in (*shared.inputs, *shared.outputs)] == [
        (node.name, node.type, node.shape) for node in (*private.inputs, *private.outputs)
    ]
    for rows in (1, 2, 17):
        np.testing.assert_array_equal(run(shared, rows), run(private, rows))


def test_small_models_and_single_workers_leave_nothing_behind(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    small = models.dense(tmp_path / "small" / "model.onnx", width=64)
    assert not Session(small).shared
    large = models.dense(tmp_path / "large" / "model.onnx")
    monkeypatch.setenv("SERVEKIT_WORKERS_EFFECTIVE", "1")
    assert not Session(large).shared
    assert [path.name for path in tmp_path.rglob("*") if path.is_file()] == ["model.onnx", "model.onnx"]


def test_a_copy_that_is_there_serves_a_single_worker_too(model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SERVEKIT_WORKERS_EFFECTIVE", "1")
    assert Session(model).shared


def test_a_directory_that_takes_no_copy_is_left_alone(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    model = models.dense(tmp_path / "own" / "model.onnx")
    (model.parent / FOLDER).write_text("a file where the folder should be")
    with caplog.at_level("INFO"):
        assert Session(model).shared
    assert entry(tmp_path / "cache").is_dir()
    assert (tmp_path / "cache").stat().st_mode & 0o777 == 0o700
    assert str(tmp_path / "cache") in caplog.text


def test_a_read_only_directory(tmp_path: Path) -> None:
    model = models.dense(tmp_path / "own" / "model.onnx")
    model.parent.chmod(0o555)
    if os.access(model.parent, os.W_OK):
        pytest.skip("this user may write everywhere")
    try:
        assert Session(model).shared
        assert entry(tmp_path / "cache").is_dir()
    finally:
        model.parent.chmod(0o755)


def test_where_nothing_can_be_written_weights_are_private_and_the_log_says_so_once(tmp_path: Path) -> None:
    model = models.dense(tmp_path / "own" / "model.onnx")
    (model.parent / FOLDER).write_text("")
    (tmp_path / "cache").write_text("")
    with workers(model, 3, {"SERVEKIT_CACHE_DIR": str(tmp_path / "cache")}) as (said, log):
        assert [one["shared"] for one in said] == [False, False, False]
        assert len({one["digest"] for one in said}) == 1
    [line] = [line for line in log if "model.onnx" in line]
    assert "each worker has weights of its own" in line
    assert "not a directory" in line


def test_a_full_disk_costs_the_copy_and_nothing_else(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    model = models.dense(tmp_path / "own" / "model.onnx")
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (4 * MEBIBYTE, hard))
    try:
        session = Session(model)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert not session.shared
    assert "each worker has weights of its own" in caplog.text
    assert list((model.parent / FOLDER).iterdir()) == list((tmp_path / "cache").iterdir()) == []
    np.testing.assert_array_equal(run(session), run(plain(model, tmp_path / "plain", monkeypatch)))


def flip(folder: Path, name: str) -> None:
    """One bit, so that neither size nor time tells."""
    path = folder / name
    status = path.stat()
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))


def cut(folder: Path) -> None:
    path = folder / DATA
    os.truncate(path, path.stat().st_size - 1)


def edit(folder: Path, **changes: Any) -> None:
    path = folder / MANIFEST
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def swap_for_link(folder: Path) -> None:
    (folder / DATA).rename(folder.parents[1] / "elsewhere.bin")
    (folder / DATA).symlink_to(folder.parents[1] / "elsewhere.bin")


def swap_folder_for_link(folder: Path) -> None:
    target = folder.parents[1] / "elsewhere"
    folder.rename(target)
    folder.symlink_to(target)


@pytest.mark.parametrize(
    ("spoil", "says"),
    [
        (lambda folder: flip(folder, DATA), "is damaged"),
        (lambda folder: flip(folder, GRAPH), "is damaged"),
        (cut, "not as long as its manifest says"),
        (lambda folder: (folder / DATA).unlink(), "holds other files"),
        (lambda folder: (folder / "more").touch(), "holds other files"),
        (lambda folder: (folder / MANIFEST).unlink(), "cannot be read"),
        (lambda folder: (folder / MANIFEST).write_text("[]"), "not a manifest"),
        (lambda folder: (folder / MANIFEST).write_text("{"), "cannot be read"),
        (lambda folder: (folder / MANIFEST).write_text("[" * 60_000), "cannot be read"),
        (lambda folder: (folder / MANIFEST).write_text(" " * 100_000), "larger than any manifest"),
        (lambda folder: edit(folder, format=2), "format"),
        (lambda folder: edit(folder, source_sha256="0" * 64), "made for something else"),
        (lambda folder: edit(folder, onnxruntime="0.1"), "made for something else"),
        (lambda folder: edit(folder, cpu=["mmx"]), "made for something else"),
        (lambda folder: edit(folder, files={}), "holds other files"),
        (lambda folder: edit(folder, files=7), "cannot be read"),
        (lambda folder: (folder / DATA).chmod(0o666), "can be written by others"),
        (lambda folder: folder.chmod(0o770), "can be written by others"),
        (swap_for_link, "is not a regular file"),
        (swap_folder_for_link, "is not a directory"),
    ],
)
def test_a_copy_that_is_not_what_it_should_be_is_refused_and_made_anew(
    model: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    spoil: Callable[[Path], Any],
    says: str,
) -> None:
    private = run(plain(model, model.parents[1] / "plain", monkeypatch))
    spoil(entry(model.parent / FOLDER))
    with monkeypatch.context() as patch:
        patch.setenv("SERVEKIT_WORKERS_EFFECTIVE", "1")
        alone = Session(model)
    assert not alone.shared
    assert says in caplog.text
    session = Session(model)
    assert session.shared
    np.testing.assert_array_equal(run(session), private)
    np.testing.assert_array_equal(run(alone), private)
    entry(model.parent / FOLDER)  # the only one, no leftovers


@pytest.mark.parametrize("name", [FOLDER, "cache"])
def test_a_folder_that_others_can_write_is_not_used(
    model: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture, name: str
) -> None:
    beside = model.parent / FOLDER
    if name == "cache":
        beside.rename(tmp_path / "cache")
        beside.write_text("")
        folder = tmp_path / "cache"
    else:
        (tmp_path / "cache").write_text("")
        folder = beside
    folder.chmod(0o777)
    assert not Session(model).shared
    assert f"{folder} can be written by others (mode 0777)" in caplog.text
    folder.chmod(0o700)
    assert Session(model).shared


def test_a_link_in_the_place_of_the_folder_is_not_followed(
    model: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (model.parent / FOLDER).rename(tmp_path / "elsewhere")
    (model.parent / FOLDER).symlink_to(tmp_path / "elsewhere")
    (tmp_path / "cache").symlink_to(tmp_path / "elsewhere")
    assert not Session(model).shared
    assert caplog.text.count("symbolic links are not followed") == 2


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give files away")
def test_what_another_user_wrote_is_not_used(model: Path, caplog: pytest.LogCaptureFixture, tmp_path: Path) -> None:
    (tmp_path / "cache").write_text("")
    folder = model.parent / FOLDER
    os.chown(entry(folder) / DATA, 12345, 12345)
    os.chown(folder, 12345, 12345)
    assert not Session(model).shared
    assert f"{folder} belongs to the user id 12345" in caplog.text


def test_a_changed_model_replaces_its_copy(model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = entry(model.parent / FOLDER)
    edit(before, model=str(model))  # the fixture made it elsewhere
    models.dense(model, seed=7)
    session = Session(model)
    assert session.shared
    assert entry(model.parent / FOLDER) != before
    np.testing.assert_array_equal(run(session), run(plain(model, model.parents[1] / "plain", monkeypatch)))


def test_changed_external_data_is_a_changed_model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model = models.external(tmp_path / "own" / "model.onnx")
    first = run(Session(model))
    flip(model.parent, "model.data")
    content = bytearray((model.parent / "model.data").read_bytes())
    content[:4096] = bytes(4096)
    (model.parent / "model.data").write_bytes(content)
    second = Session(model)
    assert second.shared
    assert not np.array_equal(run(second), first)
    np.testing.assert_array_equal(run(second), run(plain(model, tmp_path / "plain", monkeypatch)))
