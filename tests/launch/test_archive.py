"""Model archives: what is unpacked, and what stops the unpacking with nothing left behind."""

from __future__ import annotations

import gzip
import io
import os
import stat
import subprocess
import sys
import tarfile
import tempfile
from pathlib import Path
from typing import Any

import httpx2
import pytest
from serving import serve

from servekit.errors import ConfigError
from servekit.launch.archive import MAX_MEMBERS, unpack
from servekit.launch.platforms import installed
from servekit.launch.settings import resolve

MAX_BYTES = 2**30
PREDICTOR = """
from servekit import Predictor, Text

class Mine(Predictor):
    inputs = {"text": Text()}

    def predict(self, text):
        return text
"""
Member = tuple[tarfile.TarInfo, bytes]


def member(name: str, body: bytes = b"", **attributes: Any) -> Member:
    info = tarfile.TarInfo(name)
    info.size = len(body)
    for key, value in attributes.items():
        setattr(info, key, value)
    return info, body


def directory(name: str) -> Member:
    return member(name, type=tarfile.DIRTYPE, mode=0o755)


def tar_of(*members: Member | bytes, form: int = tarfile.PAX_FORMAT) -> bytes:
    """Written header by header, since `tarfile` would not write all that a caller may send; bytes as they are."""
    out = io.BytesIO()
    for each in members:
        if isinstance(each, bytes):
            out.write(each)
            continue
        info, body = each
        out.write(info.tobuf(form))
        out.write(body + bytes(-len(body) % tarfile.BLOCKSIZE))
    out.write(bytes(2 * tarfile.BLOCKSIZE))
    return out.getvalue()


def write(path: Path, *members: Member | bytes, **how: Any) -> Path:
    body = tar_of(*members, **how)
    path.write_bytes(body if path.name.endswith(".tar") else gzip.compress(body, 1))
    return path


@pytest.fixture(autouse=True)
def _temporary(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A temporary directory of each test's own, so that it can tell what is left there."""
    (tmp_path / "temporary").mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "temporary"))


def left(tmp_path: Path) -> list[Path]:
    return list((tmp_path / "temporary").iterdir())


def tree(root: Path) -> dict[str, bytes | None]:
    return {str(path.relative_to(root)): None if path.is_dir() else path.read_bytes() for path in root.rglob("*")}


@pytest.mark.parametrize("name", ["model.tar.gz", "model.tgz", "model.tar"])
@pytest.mark.parametrize("form", [tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])
def test_what_archives_hold(tmp_path: Path, name: str, form: int) -> None:
    members = [
        directory("./"),
        member("./model.onnx", b"weights" * 100_000),
        directory("code"),
        member("code/predictor.py", PREDICTOR.encode()),
        member("not/announced/before/file", b"x"),
        member("empty"),
        member("long/" * 30 + "name", b"deep"),
        member("run", b"#!", mode=0o755),
        member("open", b"", mode=0o4777),
    ]
    unpacked = unpack(write(tmp_path / name, *members, form=form), MAX_BYTES)
    found = tree(unpacked)
    assert {name: body for name, body in found.items() if body is not None} == {
        os.path.normpath(info.name): body for info, body in members if not info.isdir()
    }
    modes = {path: stat.S_IMODE((unpacked / path).stat().st_mode) for path in ("model.onnx", "run", "open", "code")}
    assert modes == {"model.onnx": 0o600, "run": 0o700, "open": 0o700, "code": 0o700}
    assert stat.S_IMODE(unpacked.stat().st_mode) == 0o700


def test_an_archive_made_by_tar(tmp_path: Path) -> None:
    (tmp_path / "in" / "code").mkdir(parents=True)
    (tmp_path / "in" / "code" / "predictor.py").write_text(PREDICTOR)
    (tmp_path / "in" / "weights").write_bytes(os.urandom(300_000))
    subprocess.run(["tar", "-C", str(tmp_path / "in"), "-czf", str(tmp_path / "model.tar.gz"), "."], check=True)
    assert tree(unpack(tmp_path / "model.tar.gz", MAX_BYTES)) == tree(tmp_path / "in")


ABSOLUTE = "expected a name that stays"
REFUSED: dict[str, tuple[list[Member | bytes], str]] = {
    "a symbolic link": ([member("x", type=tarfile.SYMTYPE, linkname="y")], "'x': .* got a symbolic link"),
    "a link to outside": ([member("x", type=tarfile.SYMTYPE, linkname="/etc")], "got a symbolic link"),
    "a hard link": ([member("y", b"1"), member("x", type=tarfile.LNKTYPE, linkname="y")], "'x': .* got a hard link"),
    "a hard link to outside": ([member("x", type=tarfile.LNKTYPE, linkname="../../etc/passwd")], "got a hard link"),
    "through a link": ([member("d", type=tarfile.SYMTYPE, linkname="/tmp"), member("d/x", b"1")], "got a symbolic"),
    "a character device": ([member("x", type=tarfile.CHRTYPE, devmajor=1, devminor=3)], "got a device"),
    "a block device": ([member("x", type=tarfile.BLKTYPE, devmajor=8)], "got a device"),
    "a fifo": ([member("x", type=tarfile.FIFOTYPE)], "got a fifo"),
    "a type of its own": ([member("x", type=b"Z")], "got something else"),
    "a sparse file": ([member("x", type=tarfile.GNUTYPE_SPARSE)], "got a sparse file"),
    "sparse, in records": (
        [
            member(
                "x",
                b"1\n0\n1\n".ljust(512, b"\0") + b"1",
                pax_headers={"GNU.sparse.major": "1", "GNU.sparse.minor": "0", "GNU.sparse.realsize": str(10 * 2**30)},
            )
        ],
        "got a sparse file",
    ),
    "an absolute name": ([member("/etc/x", b"1")], ABSOLUTE),
    "an absolute name in records": ([member("x", b"1", pax_headers={"path": "/etc/x"})], ABSOLUTE),
    "up": ([member("../x", b"1")], ABSOLUTE),
    "up from below": ([member("a/b/../../../x", b"1")], ABSOLUTE),
    "up and down": ([member("a/../b", b"1")], ABSOLUTE),
    "a directory up": ([directory("..")], ABSOLUTE),
    "NUL": ([member("x", b"1", pax_headers={"path": "a\0b"})], ABSOLUTE),
    "a long name": ([member("x/" * 600, b"1", pax_headers={"path": "x/" * 600 + "y"})], "names of at most 1024 bytes"),
    "a long part": ([member("y" * 300, b"1")], "cannot be written: File name too long"),
    "no name": ([member("./", b"1", type=tarfile.REGTYPE, pax_headers={"path": "."})], "expected a name"),
    "twice": ([member("x", b"1"), member("x", b"2")], "expected each name once"),
    "a file for a directory": ([member("x", b"1"), member("x/y", b"2")], "expected each name once"),
    "a directory for a file": ([directory("x"), member("x", b"2")], "expected each name once"),
    "too many": ([directory("d") for _ in range(MAX_MEMBERS + 1)], "at most 10000 members"),
    "too many, unannounced": ([member(f"{i}/" + "x/" * 40 + "y") for i in range(300)], "at most 10000 directories"),
    "records without end": ([member("x", pax_headers={"comment": "x" * 1_000_000})], "headers of at most"),
    "many global records": (
        [*(tarfile.TarInfo.create_pax_global_header({f"k{i}": "v"}) for i in range(101)), member("x", b"1")],
        "at most 100 global records",
    ),
}  # fmt: skip


@pytest.mark.parametrize("ending", [".tar", ".tar.gz"])
@pytest.mark.parametrize("name", REFUSED)
def test_what_is_refused(tmp_path: Path, name: str, ending: str) -> None:
    members, says = REFUSED[name]
    # The first one is fine, and goes as well.
    archive = write(tmp_path / f"model{ending}", member("fine", b"fine"), *members)
    with pytest.raises(ConfigError, match=says) as caught:
        unpack(archive, MAX_BYTES)
    assert caught.value.message.startswith(f"model{ending}: ")
    assert str(tmp_path) not in caught.value.message
    assert left(tmp_path) == []


def test_nothing_of_what_is_too_large_is_written(tmp_path: Path) -> None:
    """The claim in the header is what counts, whatever follows."""
    archive = tmp_path / "model.tar"
    large = tarfile.TarInfo("large")
    large.size = 10 * 2**30
    archive.write_bytes(large.tobuf() + b"x" * 10_000)
    with pytest.raises(ConfigError, match=r"'large': expected at most 1000 bytes of files, got 10737418240"):
        unpack(archive, 1000)
    assert left(tmp_path) == []


def test_all_files_together(tmp_path: Path) -> None:
    members = [member(name, b"x" * 400) for name in "abc"]
    with pytest.raises(ConfigError, match=r"'c': expected at most 1000 bytes of files, got 1200 with this one"):
        unpack(write(tmp_path / "model.tar.gz", *members), 1000)
    assert sorted(tree(unpack(tmp_path / "model.tar.gz", 1200))) == ["a", "b", "c"]


def test_a_bomb(tmp_path: Path) -> None:
    """300 MiB of zeros in 300 KiB, under a limit that would let them pass."""
    archive = tmp_path / "model.tar.gz"
    zeros = bytes(2**20)
    with gzip.open(archive, "wb", 1) as out:
        info = tarfile.TarInfo("zeros")
        info.size = 300 * 2**20
        out.write(info.tobuf())
        for _ in range(300):
            out.write(zeros)
    # Level 1 packs zeros 225 : 1.
    assert info.size > 200 * archive.stat().st_size
    with pytest.raises(ConfigError, match="more than 200 times its size"):
        unpack(archive, MAX_BYTES)
    assert left(tmp_path) == []


def test_below_64_mib_anything_may_expand(tmp_path: Path) -> None:
    unpacked = unpack(write(tmp_path / "model.tar.gz", member("zeros", bytes(20 * 2**20))), MAX_BYTES)
    assert (unpacked / "zeros").stat().st_size == 20 * 2**20


def test_every_cut_of_an_archive_is_refused(tmp_path: Path) -> None:
    whole = tar_of(member("a", b"x" * 600), member("long/" * 40 + "b", b"y" * 600), directory("c"))
    end = len(whole) - 2 * tarfile.BLOCKSIZE
    for name, body, cuts in (
        ("model.tar", whole, range(0, end + 1, 64)),
        ("model.tar.gz", gzip.compress(whole), range(0, len(gzip.compress(whole)) - 60, 7)),
    ):
        for cut in cuts:
            (tmp_path / name).write_bytes(body[:cut])
            with pytest.raises(ConfigError, match="damaged"):
                unpack(tmp_path / name, MAX_BYTES)
    assert left(tmp_path) == []


def test_a_damaged_header_does_not_end_an_archive_early(tmp_path: Path) -> None:
    body = bytearray(tar_of(member("a", b"x"), member("b", b"y")))
    body[2 * tarfile.BLOCKSIZE + 150] ^= 1  # the checksum of the second
    (tmp_path / "model.tar").write_bytes(body)
    with pytest.raises(ConfigError, match="damaged"):
        unpack(tmp_path / "model.tar", MAX_BYTES)


@pytest.mark.parametrize("body", [b"", b"\x1f\x8b", b"\x1f\x8b" + b"x" * 100, b"PK\x03\x04" + b"x" * 1000, b"x" * 2000])
def test_what_is_no_archive(tmp_path: Path, body: bytes) -> None:
    (tmp_path / "model.tar.gz").write_bytes(body)
    with pytest.raises(ConfigError, match=r"model.tar.gz: expected a tar archive, got a damaged file"):
        unpack(tmp_path / "model.tar.gz", MAX_BYTES)


def test_a_size_below_nothing(tmp_path: Path) -> None:
    archive = write(tmp_path / "model.tar", member("a", b"1"), member("x", pax_headers={"size": "-1024"}))
    with pytest.raises(ConfigError, match=r"expected a name and a size|damaged"):
        unpack(archive, MAX_BYTES)
    assert left(tmp_path) == []


def test_where_there_is_no_room(tmp_path: Path) -> None:
    """A limit of this process on the size of files stands for a full disk."""
    archive = write(tmp_path / "model.tar", member("large", b"x" * 100_000))
    code = (
        "import resource, signal, sys, pathlib, tempfile\n"
        "from servekit.errors import ConfigError\n"
        "from servekit.launch.archive import unpack\n"
        "signal.signal(signal.SIGXFSZ, signal.SIG_IGN)\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (50_000, 50_000))\n"
        "try:\n    unpack(pathlib.Path(sys.argv[1]), 10**9)\nexcept ConfigError as error:\n    print(error.message)\n"
    )
    environ = os.environ | {"TMPDIR": str(tmp_path / "temporary")}
    said = subprocess.run(
        [sys.executable, "-c", code, str(archive)], env=environ, capture_output=True, text=True, check=True
    ).stdout
    assert said == "model.tar: 'large': cannot be written: File too large\n"
    assert left(tmp_path) == []


def test_it_goes_with_the_process_that_unpacked_it(tmp_path: Path) -> None:
    archive = write(tmp_path / "model.tar.gz", member("x", b"1"))
    code = (
        "import os, sys, pathlib\n"
        "from servekit.launch.archive import unpack\n"
        "directory = unpack(pathlib.Path(sys.argv[1]), 10**9)\n"
        "if (child := os.fork()) == 0:\n    sys.exit(0)\n"
        "os.waitpid(child, 0)\n"
        "print((directory / 'x').read_text())\n"
    )
    environ = os.environ | {"TMPDIR": str(tmp_path / "temporary")}
    ended = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", code, str(archive)],
        env=environ,
        capture_output=True,
        text=True,
        check=True,
    )
    assert ended.stdout == "1\n"
    assert left(tmp_path) == []


# --- as a model directory --------------------------------------------------------------------------------------


def settings_of(tmp_path: Path, environ: dict[str, str] | None = None, **flags: str | None) -> Any:
    return resolve({"platform": "sagemaker", "target": None, **flags}, environ or {}, installed(), tmp_path)


def test_an_archive_as_the_model_directory(tmp_path: Path) -> None:
    write(tmp_path / "model.tar.gz", member("code/inference.py", PREDICTOR.encode()), member("weights", b"1"))
    settings = settings_of(tmp_path, model_dir="model.tar.gz")
    assert (settings.model_dir / "weights").read_bytes() == b"1"
    assert settings.target.path == settings.model_dir.resolve() / "code" / "inference.py"
    assert settings.origins["model_dir"] == "--model-dir, unpacked from model.tar.gz"


@pytest.mark.parametrize("worker", ["uvicorn", "gevent"])
def test_it_is_served_and_goes_with_the_server(tmp_path: Path, worker: str) -> None:
    archive = write(tmp_path / "model.tar.gz", member("code/inference.py", PREDICTOR.encode()))
    environ = {"TMPDIR": str(tmp_path / "temporary")}
    arguments = ["--model-dir", str(archive), "--worker", worker, "--workers", "2", "--drain-s", "0"]
    with serve(*arguments, platform="sagemaker", environ=environ) as server:
        reply = httpx2.post(server.url + "/invocations", content=b"hello", headers={"Content-Type": "text/plain"})
        assert reply.status_code == 200, reply.text
        assert [path.name for path in left(tmp_path) if path.name.startswith("servekit-model-")] != []
        server.terminate()
        assert server.wait(15) == 0
    assert [path.name for path in left(tmp_path) if path.name.startswith("servekit-model-")] == []


def test_an_archive_that_is_refused_ends_the_start_with_a_line(tmp_path: Path) -> None:
    archive = write(tmp_path / "model.tar.gz", member("predictor.py", type=tarfile.SYMTYPE, linkname="/etc/passwd"))
    environ = {"TMPDIR": str(tmp_path / "temporary")}
    with serve("--model-dir", str(archive), platform="sagemaker", environ=environ, ready=False) as server:
        assert server.wait(15) == 2
        assert server.log == (
            "servekit: model.tar.gz: 'predictor.py': expected a plain file or directory, got a symbolic link\n"
        )
    assert left(tmp_path) == []


def test_its_limit_is_an_option(tmp_path: Path) -> None:
    write(tmp_path / "model.tgz", member("predictor.py", PREDICTOR.encode()))
    with pytest.raises(ConfigError, match="expected at most 10 bytes of files"):
        settings_of(tmp_path, model_dir="model.tgz", max_model_bytes="10")
    assert left(tmp_path) == []


def test_an_archive_that_a_platform_left_packed(tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    write(tmp_path / "data" / "model.tar.gz", member("predictor.py", PREDICTOR.encode()))
    (tmp_path / "data" / ".hidden").touch()
    environ = {"SM_MODEL_DIR": str(tmp_path / "data")}
    settings = settings_of(tmp_path, environ)
    assert settings.target.path == settings.model_dir.resolve() / "predictor.py"
    assert settings.origins["model_dir"] == "SM_MODEL_DIR, unpacked from model.tar.gz"
    # A directory that the user names is what they mean, and so is an archive that has company.
    (tmp_path / "data" / "predictor.py").write_text(PREDICTOR)
    assert settings_of(tmp_path, environ).model_dir == tmp_path / "data"
    assert settings_of(tmp_path, model_dir="data").model_dir == tmp_path / "data"


@pytest.mark.parametrize("name", ["model.zip", "model.tar.bz2", "nothing.tar.gz"])
def test_other_files_are_no_model_directories(tmp_path: Path, name: str) -> None:
    if "nothing" not in name:
        (tmp_path / name).touch()
    with pytest.raises(ConfigError, match=r"model_dir: expected a directory or a \.tar\.gz file"):
        settings_of(tmp_path, model_dir=name)


def test_an_archive_as_the_target_is_told_where_to_go(tmp_path: Path) -> None:
    write(tmp_path / "model.tar.gz", member("predictor.py", PREDICTOR.encode()))
    with pytest.raises(ConfigError, match="an archive goes to --model-dir"):
        settings_of(tmp_path, target="model.tar.gz")
