"""Making copies: alone, at the same time, and when it cannot be done."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import models
import pytest

from servekit.backends.onnxfile import read_weights
from servekit.backends.prepack import make
from servekit.backends.prepacked import DATA, GRAPH, MANIFEST, PUBLIC, Identity, Place, Refused, beside, find, identity
from servekit.backends.turns import Notes


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return models.dense(tmp_path_factory.mktemp("model") / "model.onnx", layers=2)


@pytest.fixture(scope="module")
def wanted(model: Path) -> Identity:
    return identity(model, read_weights(model), Notes())


def test_makers_that_know_nothing_of_each_other_make_one_copy(tmp_path: Path, model: Path, wanted: Identity) -> None:
    place = Place(tmp_path / "a" / "b", beside(model).owners)
    with ThreadPoolExecutor(4) as pool:
        for outcome in [pool.submit(make, model, place, wanted) for _ in range(4)]:
            outcome.result()
    assert [path.name for path in place.root.iterdir()] == [wanted.key]
    copy = find(place, wanted, Notes())
    assert copy is not None
    assert copy.is_untouched()


def test_what_a_killed_maker_left_is_cleared_away(tmp_path: Path, model: Path, wanted: Identity) -> None:
    place = Place(tmp_path / "root", beside(model).owners)
    place.root.mkdir(mode=0o700)
    (place.root / ".making-abc").mkdir()
    (place.root / ".making-abc" / DATA).write_bytes(b"half")
    make(model, place, wanted)
    assert [path.name for path in place.root.iterdir()] == [wanted.key]


@pytest.mark.parametrize("mode", [0o700, PUBLIC])
def test_permissions_do_not_depend_on_who_made_it_first(
    tmp_path: Path, model: Path, wanted: Identity, mode: int
) -> None:
    owners = beside(model).owners
    make(model, Place(tmp_path / "root", owners), wanted)
    make(model, Place(tmp_path / "root", owners, mode), wanted)
    folder = tmp_path / "root" / wanted.key
    assert [path.stat().st_mode & 0o777 for path in (folder.parent, folder)] == [mode, mode]
    assert {(folder / name).stat().st_mode & 0o777 for name in (GRAPH, DATA, MANIFEST)} == {mode & 0o644}


def test_a_manifest_that_travels_names_no_path(tmp_path: Path, model: Path, wanted: Identity) -> None:
    make(model, Place(tmp_path / "root", beside(model).owners, PUBLIC), wanted)
    text = (tmp_path / "root" / wanted.key / MANIFEST).read_text()
    assert '"model": "model.onnx"' in text
    assert str(model.parent) not in text


def test_a_model_that_onnxruntime_refuses_leaves_nothing(tmp_path: Path, wanted: Identity) -> None:
    broken = tmp_path / "broken.onnx"
    broken.write_bytes(b"\x08\x07")
    place = Place(tmp_path / "root", beside(broken).owners)
    with pytest.raises(Refused) as caught:
        make(broken, place, wanted)
    assert "Traceback" not in str(caught.value)
    assert list(place.root.iterdir()) == []


def test_a_model_without_tensors_to_share_has_no_copy(tmp_path: Path, wanted: Identity) -> None:
    tiny = models.dense(tmp_path / "tiny.onnx", layers=1, width=8)
    with pytest.raises(Refused, match="no weights outside of the graph"):
        make(tiny, Place(tmp_path / "root", beside(tiny).owners), wanted)
