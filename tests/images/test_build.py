"""What `servekit build` makes of the digits example: size, layers, versions; and bases that will not do."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path

import pytest
from builders import context
from containers import BASE, LIMITS, PYTHON, Images, Store, mounted
from projects import refused, tree

from servekit import __version__

pytestmark = [pytest.mark.images, pytest.mark.timeout(900)]

PLATFORMS = ("sagemaker", "modelarts", "modzy", "all")
MAX_ADDED_BYTES = 210 * 1000**2
VERSIONS = """
import importlib.metadata, json, sys
json.dump({found.metadata["Name"].lower().replace("_", "-").replace(".", "-"): found.version for found in importlib.metadata.distributions()}, sys.stdout)
"""


@pytest.mark.parametrize("platform", PLATFORMS)
def test_the_image_adds_little_to_its_base(place: Store, images: Images, platform: str) -> None:
    added = place.inspect(images[platform].tag)["Size"] - place.inspect(BASE)["Size"]
    assert 100 * 1000**2 < added <= MAX_ADDED_BYTES


@pytest.mark.parametrize("platform", PLATFORMS)
def test_the_locked_versions_and_no_others_are_in_the_image(
    place: Store, images: Images, project: Path, platform: str
) -> None:
    """`all` was built without any cache, so its dependencies were installed again."""
    tag = images[platform].tag
    ended = place.podman("run", "--rm", "--network", "none", *LIMITS, tag, "python3", "-I", "-c", VERSIONS)
    lock = (project / "requirements.lock").read_text()
    locked = dict(re.findall(r"^([a-z0-9-]+)==(\S+)", lock, re.MULTILINE))
    assert len(locked) > 20
    assert json.loads(ended.stdout) == locked | {"servekit": __version__}
    assert (images[platform].context / "requirements.lock").read_text() == lock


def test_a_changed_predictor_rebuilds_no_dependencies(place: Store, images: Images, project: Path) -> None:
    changed = place.folder / "changed"
    shutil.copytree(project, changed)
    predictor = changed / "predictor.py"
    predictor.write_text(predictor.read_text() + "\n# another version\n")
    before = place.inspect(images["sagemaker"].tag)["RootFS"]["Layers"]
    again = images.build("sagemaker", project=changed, name="changed")
    after = place.inspect(again.tag)["RootFS"]["Layers"]
    assert len(before) == len(after)
    assert [i for i, (old, new) in enumerate(zip(before, after, strict=True)) if old != new] == [len(before) - 1]
    read = place.podman("run", "--rm", "--network", "none", *LIMITS, again.tag, "cat", "/opt/project/predictor.py")
    assert read.stdout == predictor.read_text()


def test_a_build_that_changes_nothing_makes_the_same_image(place: Store, images: Images) -> None:
    first = images["sagemaker"]
    again = images.build("sagemaker", name="again")
    one, two = tree(first.context), tree(again.context)
    assert one == two
    assert "requirements.lock" in one
    assert place.inspect(again.tag)["RootFS"] == place.inspect(first.tag)["RootFS"]


def test_a_base_without_python(place: Store, project: Path, tmp_path: Path) -> None:
    bare = "localhost/servekit-test/bare:1"
    place.buildah("build", "--tag", bare, str(context(mounted(tmp_path / "bare"), "")))
    out = tmp_path / "out"
    ended = place.build(
        "--platform", "sagemaker", "--python", PYTHON, "--tag", "localhost/servekit-test/none:1", "--output", out,
        cwd=project, base=bare,
    )  # fmt: skip
    reason = refused(ended)
    assert f"the base image {bare} has no python3: expected Python {PYTHON} with pip" in reason
    assert f"context   kept in {out}" in ended.stderr
    assert (out / "Dockerfile").is_file()


def test_a_base_with_another_python(place: Store, project: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    changed = tmp_path / "project"
    shutil.copytree(project, changed)
    (changed / "requirements.lock").unlink(missing_ok=True)
    ended = place.build(
        "--platform", "modzy", "--python", "3.12", "--tag", "localhost/servekit-test/none:1", "--output", out,
        cwd=changed, base=place.alias("localhost/servekit-test/snake:1"),
    )  # fmt: skip
    reason = refused(ended)
    assert "has Python 3.11: expected 3.12, or --python 3.11" in reason
    assert (out / "Dockerfile").is_file()
