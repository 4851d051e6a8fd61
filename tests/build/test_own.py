"""servekit made into a wheel again, by servekits that were installed in every way there is."""

from __future__ import annotations

import base64
import csv
import hashlib
import io
import json
import os
import shutil
import subprocess
import sysconfig
import venv
import zipfile
from collections.abc import Iterator
from importlib.metadata import Distribution
from pathlib import Path
from typing import Any

import builders
import pytest
from packaging.requirements import Requirement

import servekit
from servekit.errors import ConfigError
from servekit.images.own import _requirements, own

CHECKOUT = Path(__file__).parents[2]
MAX_S = 110
# Prints what `own` gives in the environment that runs it.
TELL = """
import base64, json, sys
from servekit.images.own import own
mine = own(sys.argv[1:])
wheel = mine.wheel and [mine.wheel.name, base64.b64encode(mine.wheel.content).decode()]
print(json.dumps([mine.requirements, wheel]))
"""


def run(*command: str | Path, cwd: Path | None = None) -> str:
    environ = {name: value for name, value in os.environ.items() if name not in ("PYTHONPATH", "PYTHONHOME")}
    ended = subprocess.run(
        command, cwd=cwd, env=environ, capture_output=True, text=True, timeout=MAX_S, check=False,
    )  # fmt: skip
    assert ended.returncode == 0, ended.stderr[-2000:]
    return ended.stdout


class Environment:
    """A fresh one, in which servekit is put by pip; its dependencies are those of the environment of the tests."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        venv.create(folder, symlinks=True, with_pip=False)
        self.python = folder / "bin" / "python"
        [packages] = (folder / "lib").glob("python*/site-packages")
        self.packages = packages
        (packages / "dependencies.pth").write_text(f"{sysconfig.get_path('purelib')}\n")

    def install(self, *arguments: str | Path) -> Environment:
        pip = [*builders.pip(), "--python", self.python, "--disable-pip-version-check"]
        run(*pip, "install", "--quiet", "--no-deps", "--ignore-installed", "--no-warn-script-location", *arguments)
        return self

    def tell(self, *extras: str) -> Any:
        return json.loads(run(self.python, "-c", TELL, *extras, cwd=self.folder))


@pytest.fixture(scope="module")
def checkout(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy, so that nothing is built in the real one."""
    folder = tmp_path_factory.mktemp("checkout")
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(CHECKOUT / name, folder)
    shutil.copytree(CHECKOUT / "servekit", folder / "servekit", ignore=shutil.ignore_patterns("__pycache__"))
    return folder


@pytest.fixture(scope="module")
def stock(checkout: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel as its build backend makes it."""
    folder = tmp_path_factory.mktemp("stock")
    run(*builders.pip(), "wheel", "-qq", "--no-deps", "--wheel-dir", folder, checkout)
    [path] = folder.glob("*.whl")
    return path


@pytest.fixture(scope="module")
def from_wheel(stock: Path, tmp_path_factory: pytest.TempPathFactory) -> Environment:
    return Environment(tmp_path_factory.mktemp("wheel")).install(stock)


@pytest.fixture(scope="module")
def editable(checkout: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Environment]:
    return Environment(tmp_path_factory.mktemp("editable")).install("--editable", checkout)


def members(content: bytes) -> dict[str, bytes]:
    with zipfile.ZipFile(io.BytesIO(content)) as archive:
        return {name: archive.read(name) for name in archive.namelist()}


def wheel_of(told: Any) -> bytes:
    return base64.b64decode(told[1][1])


# --- the wheel ---


@pytest.mark.slow
def test_it_holds_what_the_build_backend_puts_in(from_wheel: Environment, stock: Path) -> None:
    ours, theirs = members(wheel_of(from_wheel.tell())), members(stock.read_bytes())
    assert sorted(ours) == sorted(theirs)
    differ = {name.rpartition("/")[2] for name in ours if ours[name] != theirs[name]}
    assert differ <= {"WHEEL", "RECORD"}
    assert {"servekit/py.typed", "servekit/images/own.py"} <= ours.keys()


@pytest.mark.slow
def test_an_editable_install_gives_the_same_wheel_as_an_installed_one(
    editable: Environment, from_wheel: Environment
) -> None:
    assert editable.tell("image") == from_wheel.tell("image")


@pytest.mark.slow
def test_the_same_bytes_again_and_after_installing_it(editable: Environment, tmp_path: Path, checkout: Path) -> None:
    before = editable.tell()
    os.utime(checkout / "servekit" / "errors.py", (1, 1))
    (checkout / "servekit" / "__pycache__").mkdir(exist_ok=True)
    (checkout / "servekit" / "__pycache__" / "junk.pyc").write_bytes(b"junk")
    hidden = [checkout / "servekit" / name for name in (".env", ".predictor.py.swp", "cli/predictor.py~")]
    for path in hidden:
        path.write_bytes(b"junk")
    assert editable.tell() == before
    for path in hidden:
        path.unlink()
    path = tmp_path / before[1][0]
    path.write_bytes(wheel_of(before))
    assert Environment(tmp_path / "next").install(path).tell() == before


@pytest.mark.slow
def test_record_is_right(editable: Environment) -> None:
    content = wheel_of(editable.tell())
    files = members(content)
    [record] = [name for name in files if name.endswith("/RECORD")]
    rows = {name: (digest, size) for name, digest, size in csv.reader(files[record].decode().splitlines())}
    assert rows.keys() == files.keys()
    assert rows.pop(record) == ("", "")
    for name, (digest, size) in rows.items():
        plain = base64.urlsafe_b64encode(hashlib.sha256(files[name]).digest()).rstrip(b"=").decode()
        assert (digest, int(size)) == (f"sha256={plain}", len(files[name]))
    with zipfile.ZipFile(io.BytesIO(content)) as archive:
        assert {member.date_time for member in archive.infolist()} == {(1980, 1, 1, 0, 0, 0)}
        assert not any(member.filename.endswith((".pyc", ".pth", "INSTALLER")) for member in archive.infolist())


@pytest.mark.slow
def test_it_installs_and_works(editable: Environment, tmp_path: Path) -> None:
    told = editable.tell()
    path = tmp_path / told[1][0]
    path.write_bytes(wheel_of(told))
    fresh = Environment(tmp_path / "fresh").install(path)
    where = run(fresh.python, "-c", "import servekit; print(servekit.__file__)", cwd=tmp_path)
    assert Path(where).is_relative_to(fresh.packages)
    assert (fresh.packages / "servekit" / "py.typed").is_file()
    assert servekit.__version__ in run(fresh.folder / "bin" / "servekit", "--version")
    (tmp_path / "predictor.py").write_text(
        "from servekit import Predictor, Tensor\n\n\nclass Same(Predictor):\n"
        "    inputs = {'x': Tensor('float32', ())}\n    outputs = {'y': Tensor('float32', ())}\n\n"
        "    def predict(self, x):\n        return x\n"
    )
    assert "Same" in run(fresh.folder / "bin" / "servekit", "inspect", "predictor.py", cwd=tmp_path)
    # Without a model `serve` says so, which it can only say once everything is loaded.
    said = subprocess.run(
        [fresh.folder / "bin" / "serve"], cwd=tmp_path, capture_output=True, text=True, timeout=MAX_S, check=False,
        env={"PATH": os.environ["PATH"], "SERVEKIT_MODEL_DIR": str(tmp_path / "none")},
    )  # fmt: skip
    assert said.returncode == 2
    assert "SERVEKIT_MODEL_DIR" in said.stderr


@pytest.mark.slow
def test_from_an_index_it_is_a_requirement(stock: Path, tmp_path: Path) -> None:
    installed = Environment(tmp_path / "index").install("--no-index", "--find-links", stock.parent, "servekit")
    assert installed.tell("fast", "image") == [[f"servekit[fast,image]=={servekit.__version__}"], None]
    assert installed.tell() == [[f"servekit=={servekit.__version__}"], None]


def test_this_environment_gives_its_own_package() -> None:
    mine = own(())
    if mine.wheel is None:
        pytest.skip("servekit came from an index here")
    assert (
        members(mine.wheel.content)["servekit/images/own.py"]
        == Path(servekit.__file__).with_name("images").joinpath("own.py").read_bytes()
    )


# --- requirements ---


@pytest.mark.slow
def test_without_extras_nothing_optional_is_required(editable: Environment) -> None:
    plain, more = editable.tell()[0], editable.tell("image")[0]
    assert all("extra" not in line for line in more)
    assert {Requirement(line).name for line in more} - {Requirement(line).name for line in plain} == {"pillow"}
    assert any(line.startswith("numpy") for line in plain)


@pytest.mark.slow
def test_the_requirements_are_those_of_pip(editable: Environment) -> None:
    for extras in ((), ("image",), ("fast", "image"), ("testing",)):
        lines = [Requirement(line) for line in editable.tell(*extras)[0]]
        ours = {line.name for line in lines if line.marker is None or line.marker.evaluate()}
        [installed] = Distribution.discover(name="servekit", path=[str(editable.packages)])
        required = [Requirement(line) for line in installed.requires or ()]
        pips = {
            line.name
            for line in required
            if line.marker is None or any(line.marker.evaluate({"extra": extra}) for extra in extras or ("",))
        }
        assert ours == pips


@pytest.mark.slow
def test_of_a_checkout_what_it_requires_now(stock: Path, tmp_path: Path) -> None:
    """The metadata of an editable install is as old as the install."""
    folder = tmp_path / "checkout"
    with zipfile.ZipFile(stock) as archive:
        archive.extractall(folder)
    [info] = folder.glob("*.dist-info")
    fresh = Environment(tmp_path / "environment")
    info.rename(fresh.packages / info.name)
    (fresh.packages / "servekit.pth").write_text(f"{folder}\n")
    before = fresh.tell("image")
    (folder / "pyproject.toml").write_text(
        "[project]\nname = 'servekit'\ndependencies = ['numpy>=2']\n[project.optional-dependencies]\n"
        "image = ['pillow>=12']\nnew = [\"a; python_version < '3.12' or os_name == 'nt'\", 'servekit[image]']\n"
    )
    assert fresh.tell("image") == [["numpy>=2", "pillow>=12"], before[1]]
    assert fresh.tell("new")[0] == ['a; (python_version < "3.12" or os_name == "nt")', "numpy>=2", "pillow>=12"]


@pytest.mark.parametrize(
    ("line", "extras", "left"),
    [
        ("a>=1", (), ["a>=1"]),
        ("a; extra == 'x'", (), []),
        ("a; extra == 'x'", ("x",), ["a"]),
        ("a; extra == 'x-y'", ("x-y",), ["a"]),
        ("a; extra == 'X_Y'", ("x-y",), ["a"]),
        ("a; extra == 'x'", ("y",), []),
        ("a; 'x' == extra", ("x",), ["a"]),
        ("a[b]>=1,<2; python_version < '3.14' and extra == 'x'", ("x",), ['a[b]<2,>=1; python_version < "3.14"']),
        ("a; python_version < '3.14' and extra == 'x'", (), []),
        ("a; extra == 'x' or extra == 'y'", ("y",), ["a"]),
        ("a; (extra == 'x' or extra == 'y') and os_name == 'nt'", ("y",), ['a; os_name == "nt"']),
        ("a; extra == 'x' or os_name == 'nt'", (), ['a; os_name == "nt"']),
        ("a; extra == 'x' or os_name == 'nt'", ("x",), ["a"]),
        (
            "a; (os_name == 'nt' or os_name == 'posix') and extra == 'x'",
            ("x",),
            ['a; (os_name == "nt" or os_name == "posix")'],
        ),
        (
            "a; (os_name == 'nt' and extra == 'x') or (os_name == 'posix' and extra == 'y')",
            ("x", "y"),
            ['a; os_name == "nt" or os_name == "posix"'],
        ),
        ("servekit[x,y]; extra == 'all'", ("all",), []),
    ],
)
def test_what_is_left_of_a_marker(line: str, extras: tuple[str, ...], left: list[str]) -> None:
    assert list(_requirements([line], extras)) == left


def test_an_extra_made_of_others() -> None:
    lines = ["a", "b; extra == 'x'", "c; extra == 'y'", "servekit[x]; extra == 'y'", "servekit[y]; extra == 'all'"]
    assert _requirements(lines, ("all",)) == ("a", "b", "c")


def test_an_extra_that_does_not_exist() -> None:
    with pytest.raises(ConfigError, match=r"servekit\[gpu\]: expected one of servekit's extras \(.*image.*\)"):
        own(("gpu",))


# --- installs that cannot be right ---


@pytest.mark.slow
def test_a_package_of_another_version_than_its_metadata(
    editable: Environment, checkout: Path, stock: Path, tmp_path: Path
) -> None:
    folder = Environment(tmp_path / "stale").install(stock)
    init = folder.packages / "servekit" / "__init__.py"
    init.write_text(init.read_text().replace(f'"{servekit.__version__}"', '"9.9"'))
    with pytest.raises(
        AssertionError, match=r"is version 9\.9, its installed metadata says .*: install servekit again"
    ):
        folder.tell()


@pytest.mark.slow
def test_a_file_that_is_missing(stock: Path, tmp_path: Path) -> None:
    folder = Environment(tmp_path / "broken").install(stock)
    (folder.packages / "servekit" / "py.typed").unlink()
    with pytest.raises(AssertionError, match=r"py\.typed: No such file or directory: install servekit again"):
        folder.tell()
