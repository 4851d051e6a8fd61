"""TAR files of `docker save`: what is told of a good one, and why each bad one is refused."""

from __future__ import annotations

import gzip
import hashlib
import io
import json
import tarfile
import tempfile
from collections.abc import Callable
from pathlib import Path

import pytest
from containers import Store, why_not
from saved import CONFIG, save, write

from servekit.errors import ConfigError
from servekit.images.builder import find
from servekit.publish import archive
from servekit.publish.modzy import digests
from servekit.publish.reference import parse

CONTENT = json.dumps(CONFIG).encode()
DIGEST = hashlib.sha256(CONTENT).hexdigest()
GIBIBYTE = 1024**3


def manifest(**changed: object) -> bytes:
    entry = {"Config": f"{DIGEST}.json", "RepoTags": ["a/mean:1.0.0"], "Layers": ["1/layer.tar"]} | changed
    return json.dumps([entry]).encode()


def test_a_good_one_tells_its_digest_tags_size_and_architecture(tmp_path: Path) -> None:
    digest = save(tmp_path / "mean.tar", tag="registry.example.com/a/mean:1.0.0", layer_bytes=5000)
    saved = archive.read(tmp_path / "mean.tar")
    assert saved.digest == digest == f"sha256:{DIGEST}"
    assert saved.tags == ("registry.example.com/a/mean:1.0.0",)
    assert saved.nbytes == (tmp_path / "mean.tar").stat().st_size
    assert saved.architecture == "amd64"


def test_the_layout_of_newer_engines_is_read_as_well(tmp_path: Path) -> None:
    blob = f"blobs/sha256/{DIGEST}"
    members = {blob: CONTENT, "manifest.json": manifest(Config=blob, RepoTags=None), "index.json": b"{}"}
    write(tmp_path / "mean.tar", members)
    saved = archive.read(tmp_path / "mean.tar")
    assert (saved.digest, saved.tags) == (f"sha256:{DIGEST}", ())


def test_a_large_layer_is_passed_over(tmp_path: Path) -> None:
    save(tmp_path / "large.tar", layer_bytes=4 * GIBIBYTE)
    assert archive.read(tmp_path / "large.tar").nbytes > 4 * GIBIBYTE
    assert (tmp_path / "large.tar").stat().st_blocks * 512 < GIBIBYTE  # the file has a hole, and it took no time


def test_a_tar_is_told_from_a_reference(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "image").write_bytes(b"")
    assert archive.is_named("image")
    assert archive.is_named("missing.tar")
    assert not archive.is_named("mean:1.0.0")
    assert not archive.is_named("registry.example.com/team/mean:1.0.0")


def bad(name: str) -> Callable[[Path], None]:
    good = {f"{DIGEST}.json": CONTENT}

    def damaged(path: Path) -> None:
        save(path, layer_bytes=2000)
        path.write_bytes(path.read_bytes()[:1500])

    def without_end(path: Path) -> None:
        save(path)
        path.write_bytes(path.read_bytes()[:-1024])

    def packed(path: Path) -> None:
        save(path)
        path.write_bytes(gzip.compress(path.read_bytes()))

    def long_name(path: Path) -> None:
        with tarfile.open(path, "w", format=tarfile.GNU_FORMAT) as tar:
            tar.addfile(tarfile.TarInfo("a" * 100_000))

    def link(path: Path) -> None:
        member = tarfile.TarInfo("manifest.json")
        member.type, member.linkname = tarfile.SYMTYPE, "/etc/passwd"
        with tarfile.open(path, "w") as tar:
            tar.addfile(member)

    def twice(path: Path) -> None:
        write(path, good | {"manifest.json": json.dumps(json.loads(manifest()) * 2).encode()})

    def many(path: Path) -> None:
        with tarfile.open(path, "w") as tar:
            for i in range(archive.MAX_MEMBERS + 1):
                tar.addfile(tarfile.TarInfo(str(i)))

    def huge_manifest(path: Path) -> None:
        content = b"[" + b" " * archive.MAX_MANIFEST_BYTES + b"]"
        write(path, good | {"manifest.json": content})

    made: dict[str, Callable[[Path], None]] = {
        "no file": lambda path: None,
        "a folder": lambda path: path.mkdir(),
        "empty": lambda path: path.write_bytes(b"") and None,
        "no tar": lambda path: path.write_bytes(b"FROM scratch\n" * 100) and None,
        "zeros": lambda path: path.write_bytes(bytes(10_240)) and None,
        "damaged": damaged,
        "without end": without_end,
        "packed": packed,
        "long name": long_name,
        "link": link,
        "twice": twice,
        "many": many,
        "huge manifest": huge_manifest,
        "no manifest": lambda path: write(path, good),
        "not JSON": lambda path: write(path, good | {"manifest.json": b"[{"}),
        "deep JSON": lambda path: write(path, good | {"manifest.json": b"[" * 100_000}),
        "no list": lambda path: write(path, good | {"manifest.json": b"{}"}),
        "no config": lambda path: write(path, {"manifest.json": manifest()}),
        "config above": lambda path: write(path, {"manifest.json": manifest(Config="../../etc/passwd")}),
        "other config": lambda path: write(path, {f"{DIGEST}.json": b"{}", "manifest.json": manifest()}),
        "no layer": lambda path: write(path, good | {"manifest.json": manifest(Layers=["2/layer.tar"])}),
        "tags": lambda path: write(path, good | {"manifest.json": manifest(RepoTags=[1])}),
    }
    return made[name]


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("no file", "no such file"),
        ("a folder", "expected a file, got a folder"),
        ("empty", "damaged one or another file"),
        ("no tar", "damaged one or another file"),
        ("zeros", "without manifest.json"),
        ("damaged", "damaged one or another file"),
        ("without end", "ends before its end mark"),
        ("packed", "packed with gzip: unpack it first"),
        ("long name", "a header has more than 65536 bytes"),
        ("link", "expected the file 'manifest.json' in it"),
        ("twice", "expected one image, got 2"),
        ("many", "expected at most 10000 files"),
        ("huge manifest", "expected at most 1048576 bytes"),
        ("no manifest", "without manifest.json"),
        ("not JSON", "expected a list of images"),
        ("deep JSON", "expected a list of images"),
        ("no list", "expected a list of images"),
        ("no config", f"expected the file '{DIGEST}.json'"),
        ("config above", "expected the file '../../etc/passwd' in it"),
        ("other config", "its content has another SHA-256 than its name"),
        ("no layer", "expected the layer '2/layer.tar'"),
        ("tags", "expected a list of images"),
    ],
)
def test_a_bad_one_is_refused_in_one_line(name: str, said: str, tmp_path: Path) -> None:
    path = tmp_path / "image.tar"
    bad(name)(path)
    with pytest.raises(ConfigError) as caught:
        archive.read(path)
    assert caught.value.message.startswith(f"TAR {str(path)!r}: ")
    assert said in caught.value.message
    assert "\n" not in caught.value.message


def test_what_tarfile_itself_writes_is_read(tmp_path: Path) -> None:
    with tarfile.open(tmp_path / "mean.tar", "w", format=tarfile.PAX_FORMAT) as tar:
        for name, content in {
            "1/layer.tar": b"x" * 600,
            f"./{DIGEST}.json": CONTENT,
            "manifest.json": manifest(RepoTags=["ü/mean:1"]),
        }.items():
            member = tarfile.TarInfo(name)
            member.size = len(content)
            tar.addfile(member, io.BytesIO(content))
    assert archive.read(tmp_path / "mean.tar").tags == ("ü/mean:1",)


@pytest.mark.images
def test_what_the_engines_save_has_the_digest_that_they_show(monkeypatch: pytest.MonkeyPatch) -> None:
    """An image that was uploaded is known again when it is linked: the file and the engine name the same digest."""
    if (reason := why_not()) is not None:
        pytest.skip(reason)
    folder = Path(tempfile.mkdtemp(prefix="servekit-archive-", dir="/var/tmp"))
    store = Store(folder, "vfs")
    try:
        (folder / "context").mkdir()
        (folder / "context/weights").write_bytes(bytes(20_000))
        (folder / "context/Dockerfile").write_text("FROM scratch\nCOPY weights /\n")
        name = "localhost/servekit-test/saved:1.0.0"
        store.buildah("build", "--format", "docker", "--tag", name, str(folder / "context"))
        for variable, text in store.environ.items():
            monkeypatch.setenv(variable, text)
        find("buildah").save(name, folder / "buildah.tar")
        store.podman("save", "--quiet", "--output", str(folder / "podman.tar"), name)
        known, architecture = digests.local(parse(name))
        for file in ("buildah.tar", "podman.tar"):
            saved = archive.read(folder / file)
            assert saved.tags == (name,)
            assert saved.digest in known
            assert saved.architecture == architecture != ""
    finally:
        store.remove()
