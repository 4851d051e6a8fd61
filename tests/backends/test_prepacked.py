"""What a copy is valid for, and where copies lie."""

from __future__ import annotations

import os
import tempfile
from dataclasses import replace
from pathlib import Path

import models
import pytest

from servekit.backends.onnxfile import read_weights
from servekit.backends.prepacked import Identity, beside, cache, cpu_features, identity, runtime
from servekit.backends.turns import Notes

X86 = """\
processor\t: 0
flags\t\t: fpu sse sse2 ssse3 avx avx2 fma ibrs_enhanced hypervisor

processor\t: 1
flags\t\t: fpu sse sse2 ssse3 avx fma md_clear
"""
ARM = """\
processor\t: 0
Features\t: fp asimd asimddp i8mm
"""


@pytest.mark.parametrize(
    ("cpuinfo", "features"),
    [
        (X86, ("avx", "fma", "sse", "sse2", "ssse3")),
        (ARM, ("asimd", "asimddp", "fp", "i8mm")),
        ("", ()),
        ("flags\n", ()),
    ],
)
def test_cpu_features(tmp_path: Path, cpuinfo: str, features: tuple[str, ...]) -> None:
    (tmp_path / "cpuinfo").write_text(cpuinfo)
    assert cpu_features(tmp_path / "cpuinfo") == features


def test_a_system_that_says_nothing_of_its_cpu(tmp_path: Path) -> None:
    assert cpu_features(tmp_path / "missing") == ()


def test_every_part_of_an_identity_counts() -> None:
    base = Identity("source", "1.0", "x86_64", ("avx", "avx2"))
    others = [
        replace(base, source="other"),
        replace(base, onnxruntime="1.1"),
        replace(base, machine="aarch64"),
        replace(base, cpu=("avx",)),
        replace(base, cpu=("avx,avx2",)),
    ]
    assert len({one.key for one in (base, *others)}) == 6
    assert replace(base).key == base.key


def test_identity_follows_content_not_name_or_time(tmp_path: Path) -> None:
    one = models.dense(tmp_path / "one.onnx", width=64)
    two = models.dense(tmp_path / "two.onnx", width=64)
    other = models.dense(tmp_path / "other.onnx", width=64, seed=1)
    os.utime(two, (0, 0))
    first, second, third = (identity(path, read_weights(path), Notes()) for path in (one, two, other))
    assert first == second
    assert first.onnxruntime == runtime()
    assert first != third


@pytest.mark.parametrize(
    ("environ", "root"),
    [
        ({"SERVEKIT_CACHE_DIR": "/c", "XDG_CACHE_HOME": "/x"}, "/c"),
        ({"SERVEKIT_CACHE_DIR": "", "XDG_CACHE_HOME": "/x"}, "/x/servekit"),
        ({}, f"{tempfile.gettempdir()}/servekit-{os.geteuid()}"),
    ],
)
def test_where_the_cache_is(environ: dict[str, str], root: str) -> None:
    place = cache(environ)
    assert (str(place.root), place.owners, place.mode) == (root, {os.geteuid()}, 0o700)


def test_beside_the_model_its_owner_is_trusted(tmp_path: Path) -> None:
    model = tmp_path / "model.onnx"
    model.touch()
    assert beside(model).root == tmp_path / ".servekit"
    assert beside(model).owners == {0, os.geteuid()}
    if os.geteuid() == 0:
        os.chown(model, 12345, 12345)
        assert beside(model).owners == {0, 12345}
