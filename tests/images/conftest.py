"""The digits image for each platform and for all, built once by `servekit build`, and started as each platform does."""

from __future__ import annotations

import shutil
import threading
from collections.abc import Iterator
from concurrent.futures import Future
from pathlib import Path

import pytest
from containers import DIGITS, PYTHON, Farewell, Images, Store, say_farewell, store, why_not

# The manifests are to be made from the signature.
LEFT_OUT = ("__pycache__", "config.json", "model.yaml", "requirements-train.txt", "train.py", "test_digits.py")
REQUIREMENTS = "numpy\nonnxruntime\n"
METADATA = """\
[project]
name = "digits"
version = "1.2.3"
description = "Reads one handwritten digit from a picture."
authors = [{name = "The servekit authors"}]
"""


@pytest.fixture(scope="session")
def place() -> Iterator[Store]:
    reason = why_not()
    if reason is not None:
        pytest.skip(reason)
    with store() as made:
        yield made


@pytest.fixture(scope="session")
def project(place: Store) -> Path:
    """The digits example, as a project of its own."""
    folder = place.folder / "digits"
    shutil.copytree(DIGITS, folder, ignore=shutil.ignore_patterns(*LEFT_OUT))
    (folder / "requirements.txt").write_text(REQUIREMENTS)
    (folder / "pyproject.toml").write_text(f'{METADATA}requires-python = ">={PYTHON}"\n')
    return folder


@pytest.fixture(scope="session")
def images(place: Store, project: Path) -> Images:
    return Images(place, project)


@pytest.fixture(scope="session")
def farewell(place: Store, images: Images) -> Future[Farewell]:
    """ModelArts' whole minute of service after SIGTERM, which passes while other tests run."""
    tag = images["modelarts"].tag
    future: Future[Farewell] = Future()

    def run() -> None:
        try:
            future.set_result(say_farewell(place, tag))
        except BaseException as error:  # noqa: BLE001 - it is raised where the result is asked for
            future.set_exception(error)

    threading.Thread(target=run, daemon=True).start()
    return future


@pytest.fixture(scope="session", autouse=True)
def _the_minute_begins_first(request: pytest.FixtureRequest) -> None:
    if any("farewell" in getattr(item, "fixturenames", ()) for item in request.session.items):
        request.getfixturevalue("farewell")
