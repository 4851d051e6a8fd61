"""What is public, what it costs to import, and that these tests look at the installed wheel."""

from __future__ import annotations

import ast
import importlib.metadata
import os
import subprocess
import sys
import sysconfig
from pathlib import Path

import pytest

import servekit

PUBLIC = [
    "Batching",
    "Context",
    "File",
    "Image",
    "InvalidInput",
    "Json",
    "Predictor",
    "Tensor",
    "Text",
    "__version__",
]
HEAVY = ("numpy", "fastapi", "starlette", "onnxruntime", "gunicorn", "uvicorn", "gevent", "pydantic", "orjson", "PIL")
COMMANDS = ("servekit", "serve")

on_the_wheel = pytest.mark.skipif(
    os.environ.get("SERVEKIT_TEST_INSTALLED") != "1", reason="about the installed wheel: run with sh scripts/test"
)


def isolated(code: str) -> str:
    """What `code` prints in a fresh interpreter that has the environment's packages and nothing of the checkout."""
    ended = subprocess.run([sys.executable, "-I", "-c", code], capture_output=True, text=True, timeout=60, check=False)
    assert ended.returncode == 0, ended.stderr
    return ended.stdout.strip()


def test_the_public_names() -> None:
    assert sorted(servekit.__all__) == sorted(PUBLIC)
    assert all(hasattr(servekit, name) for name in PUBLIC)


def test_names_without_an_underscore_are_public_or_modules() -> None:
    code = (
        "import servekit, types; print([n for n, v in vars(servekit).items() if not isinstance(v, types.ModuleType)])"
    )
    visible = [name for name in ast.literal_eval(isolated(code)) if not name.startswith("_")]
    assert sorted(visible) == [name for name in PUBLIC if not name.startswith("_")]


def test_importing_servekit_loads_nothing_heavy() -> None:
    loaded = isolated(f"import servekit, sys; print([name for name in {HEAVY!r} if name in sys.modules])")
    assert loaded == "[]"


def test_the_version_is_that_of_the_package() -> None:
    assert servekit.__version__ == importlib.metadata.version("servekit")


@on_the_wheel
def test_the_tests_run_on_the_wheel() -> None:
    installed = Path(sysconfig.get_path("purelib"), "servekit", "__init__.py")
    assert Path(servekit.__file__) == installed
    assert isolated("import servekit; print(servekit.__file__)") == str(installed)


@on_the_wheel
def test_the_wheel_has_its_type_marker_licence_and_no_tests() -> None:
    files = {str(path) for path in importlib.metadata.files("servekit") or ()}
    assert "servekit/py.typed" in files
    assert any(path.endswith("licenses/LICENSE") for path in files)
    assert {path.split("/")[0] for path in files if not path.startswith("..")} == {
        "servekit",
        f"servekit-{servekit.__version__}.dist-info",
    }


@on_the_wheel
@pytest.mark.parametrize("command", COMMANDS)
def test_the_commands_are_installed(command: str) -> None:
    assert os.access(Path(sysconfig.get_path("scripts"), command), os.X_OK)
