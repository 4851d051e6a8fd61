"""model.tar.gz: what SageMaker unpacks, and what servekit itself would unpack."""

from __future__ import annotations

import gzip
import os
import stat
import subprocess
import tarfile
from collections.abc import Mapping
from pathlib import Path

import pytest
from projects import project, tree, write

from servekit.errors import ConfigError
from servekit.images import artifact
from servekit.images.context import Copied
from servekit.launch.archive import extract

MEBIBYTE = 1024 * 1024
NASTY = ["name with spaces", "ünï-模型.bin", "a'b\"c$d\\e", "-rf", "x" * 200, "line\nend", "deep/" + "d" * 150 + "/f"]


def files(root: Path) -> dict[str, Copied]:
    return {
        path.relative_to(root).as_posix(): Copied(path, path.stat().st_size, bool(path.stat().st_mode & stat.S_IXUSR))
        for path in root.rglob("*")
        if path.is_file()
    }


def extracted(archive: Path, folder: Path) -> dict[str, bytes]:
    folder.mkdir()
    extract(archive, folder, 2**40)
    return {name: content for name, (mode, _, content) in tree(folder).items() if stat.S_ISREG(mode)}


@pytest.fixture
def model(tmp_path: Path) -> Mapping[str, Copied]:
    root = project(
        tmp_path / "m", {"weights.bin": "w" * 1000, "code/run.sh": "#!/bin/sh\n", **dict.fromkeys(NASTY, "n")}
    )
    (root / "code" / "run.sh").chmod(0o700)
    return files(root)


def test_servekit_reads_what_it_writes(tmp_path: Path, model: Mapping[str, Copied]) -> None:
    size = artifact.write(model, "", tmp_path / "model.tar.gz")
    assert size == (tmp_path / "model.tar.gz").stat().st_size
    found = extracted(tmp_path / "model.tar.gz", tmp_path / "there")
    assert found == {name: file.path.read_bytes() for name, file in model.items()}
    assert (tmp_path / "there" / "code" / "run.sh").stat().st_mode & 0o100


def test_tar_reads_it_too(tmp_path: Path, model: Mapping[str, Copied]) -> None:
    artifact.write(model, "", tmp_path / "model.tar.gz")
    (tmp_path / "there").mkdir()
    subprocess.run(["tar", "-xzf", tmp_path / "model.tar.gz", "-C", tmp_path / "there"], check=True, timeout=60)
    assert {name: file.read_bytes() for name, file in ((name, tmp_path / "there" / name) for name in model)} == {
        name: file.path.read_bytes() for name, file in model.items()
    }


def test_the_folder_of_the_target_is_its_top(tmp_path: Path) -> None:
    root = write(tmp_path / "m", {"models/a/m.onnx": "a", "models/ab/m.onnx": "b", "README": "r"})
    artifact.write(files(root), "models/a", tmp_path / "model.tgz")
    assert extracted(tmp_path / "model.tgz", tmp_path / "there") == {"m.onnx": b"a"}


def test_the_same_files_are_the_same_bytes(tmp_path: Path, model: Mapping[str, Copied]) -> None:
    artifact.write(model, "", tmp_path / "one.tar.gz")
    for file in model.values():
        os.utime(file.path, (1, 1))
    before = os.umask(0o077)
    try:
        artifact.write(dict(reversed(model.items())), "", tmp_path / "two.tar.gz")
    finally:
        os.umask(before)
    one = (tmp_path / "one.tar.gz").read_bytes()
    assert one == (tmp_path / "two.tar.gz").read_bytes()
    # No time and no name in the head (RFC 1952, 2.3): only then do all machines agree.
    assert one[3] == 0
    assert one[4:8] == bytes(4)
    with tarfile.open(tmp_path / "one.tar.gz") as tar:
        members = tar.getmembers()
    assert [member.name for member in members] == sorted(model)
    assert {(member.mtime, member.uid, member.gid, member.uname, member.gname) for member in members} == {
        (0, 0, 0, "", "")
    }
    assert {member.mode for member in members} == {0o644, 0o755}
    assert stat.S_IMODE((tmp_path / "two.tar.gz").stat().st_mode) == 0o644


def test_zeros_are_not_taken_for_a_bomb(tmp_path: Path) -> None:
    root = write(tmp_path / "m", {"a.bin": "", "weights.bin": ""})
    os.truncate(root / "weights.bin", 80 * MEBIBYTE)
    size = artifact.write(files(root), "", tmp_path / "model.tar.gz")
    assert size > 80 * MEBIBYTE
    (tmp_path / "there").mkdir()
    extract(tmp_path / "model.tar.gz", tmp_path / "there", 2**40)
    assert (tmp_path / "there" / "weights.bin").stat().st_size == 80 * MEBIBYTE


def test_text_shrinks(tmp_path: Path) -> None:
    root = write(tmp_path / "m", {"vocabulary.txt": "word\n" * 100_000})
    assert artifact.write(files(root), "", tmp_path / "model.tar.gz") < 100_000
    assert len(gzip.decompress((tmp_path / "model.tar.gz").read_bytes())) > 500_000


@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("model.zip", r"expected a name that ends with \.tar\.gz or \.tgz"),
        ("folder.tar.gz", "expected a file, got a folder"),
    ],
)
def test_names_that_are_refused(tmp_path: Path, model: Mapping[str, Copied], name: str, says: str) -> None:
    (tmp_path / "folder.tar.gz").mkdir()
    with pytest.raises(ConfigError, match=says):
        artifact.write(model, "", tmp_path / name)


def test_after_an_error_the_older_one_is_as_it_was(tmp_path: Path, model: Mapping[str, Copied]) -> None:
    write(tmp_path / "out", {"model.tar.gz": "older"})
    model["weights.bin"].path.write_text("changed")
    with pytest.raises(ConfigError, match=r"weights\.bin: it has changed"):
        artifact.write(model, "", tmp_path / "out" / "model.tar.gz")
    assert tree(tmp_path / "out")["model.tar.gz"][2] == b"older"
    assert len(tree(tmp_path / "out")) == 1


def test_an_empty_folder_and_too_many_files_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="expected a target whose folder holds files"):
        artifact.write({}, "", tmp_path / "model.tar.gz")
    root = write(tmp_path / "m", {"a": ""})
    many = {f"{number}": Copied(root / "a", 0) for number in range(10_001)}
    with pytest.raises(ConfigError, match="expected at most 10000 files, got 10001"):
        artifact.write(many, "", tmp_path / "model.tar.gz")
    assert not (tmp_path / "model.tar.gz").exists()
