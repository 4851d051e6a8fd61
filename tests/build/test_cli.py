"""`servekit build` as a process, up to the context; images are built in tests/images."""

from __future__ import annotations

import hashlib
import os
import pty
import re
import shutil
import signal
import stat
import subprocess
import sys
import time
from collections.abc import Mapping
from pathlib import Path

import pytest
from builders import own_store, why_not
from projects import PICTURES, PINS, PREDICTOR, PYTHON, build, locked, project, refused, tree, wheelhouse, write
from serving import clean_environ, script

from servekit import __version__
from servekit.errors import ConfigError
from servekit.images import pins
from servekit.launch.archive import extract

EXAMPLES = Path(__file__).parents[2] / "examples"
COMMON = ("--python", PYTHON, "--arch", "amd64")
OWN_WHEEL = f"wheels/servekit-{__version__}-py3-none-any.whl"
HAS_UV = shutil.which("uv") is not None or (Path(sys.executable).parent / "uv").exists()


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """A project that has been locked before, so that no index is asked."""
    return locked(project(tmp_path / "m"), "numpy>=2")


def names(folder: Path) -> set[str]:
    return {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}


@pytest.mark.parametrize(
    ("platform", "more"),
    [
        ("sagemaker", set()),
        (
            "modelarts",
            {"boot/home/run.sh", "boot/home/mind/run.sh", "boot/home/ma-user/health.sh", "project/config.json"},
        ),
        ("modzy", {"project/model.yaml"}),
        (
            "ALL",
            {
                "boot/home/run.sh",
                "boot/home/mind/run.sh",
                "boot/home/ma-user/health.sh",
                "project/config.json",
                "project/model.yaml",
            },
        ),
    ],
)
def test_output_alone_writes_a_context_and_stops(root: Path, platform: str, more: set[str]) -> None:
    before = tree(root)
    ended = build("--platform", platform, *COMMON, "--output", "../out", cwd=root, environ={"PATH": "/nonexistent"})
    assert ended.returncode == 0, ended.stderr
    assert ended.stdout == "../out\n"
    assert names(root.parent / "out") == {
        "Dockerfile", ".dockerignore", "requirements.lock", OWN_WHEEL, "project/predictor.py", "project/requirements.txt", *more,
    }  # fmt: skip
    assert (root.parent / "out" / "requirements.lock").read_bytes() == (root / "requirements.lock").read_bytes()
    assert tree(root) == before
    said = dict(line.split(maxsplit=1) for line in ended.stderr.splitlines())
    assert said["project"] == f"m 1.0.0 in {root}"
    assert said["target"] == "predictor.py (Mean)"
    assert said["base"] == "python:3.11-slim-bookworm, Python 3.11, amd64"
    assert said["lock"] == "requirements.lock: 1 packages, as locked before (from requirements.txt)"
    assert said["files"].startswith("2 of the project")


def test_the_same_input_is_the_same_bytes(tmp_path: Path, root: Path) -> None:
    """From another folder, by another name, with other times, modes, umask, locale and environment."""
    (root / "weights.bin").write_bytes(b"w" * 1000)
    first = build("--platform", "all", *COMMON, "--output", tmp_path / "one", cwd=root)
    assert first.returncode == 0, first.stderr
    copy = tmp_path / "elsewhere" / "m"
    shutil.copytree(root, copy)
    for path in copy.rglob("*"):
        os.utime(path, (86400, 86400))
        path.chmod(0o600 if path.is_file() else 0o700)
    (copy / "sub").mkdir()
    environ = {
        "LC_ALL": "C",
        "TZ": "Asia/Tokyo",
        "HOME": str(tmp_path),
        "SOURCE_DATE_EPOCH": "1",
        "PYTHONHASHSEED": "7",
    }
    second = build(
        "../predictor.py", "--platform", "all", *COMMON, "--output", tmp_path / "two", cwd=copy / "sub", environ=environ, umask=0o077
    )  # fmt: skip
    assert second.returncode == 0, second.stderr
    one, two = tree(tmp_path / "one"), tree(tmp_path / "two")
    assert one == two
    assert "project/weights.bin" in one


def test_a_second_build_into_the_same_folder_changes_nothing(tmp_path: Path, root: Path) -> None:
    for _ in range(2):
        ended = build("--platform", "modzy", *COMMON, "--output", "build/context", cwd=root)
        assert ended.returncode == 0, ended.stderr
    assert names(root) - {"predictor.py", "requirements.txt", "requirements.lock"} == {
        f"build/context/{name}"
        for name in ("Dockerfile", ".dockerignore", "requirements.lock", OWN_WHEEL, "project/predictor.py", "project/requirements.txt", "project/model.yaml")
    }  # fmt: skip


def test_secrets_stay_out_and_are_told(root: Path) -> None:
    write(
        root,
        {
            ".env": "TOKEN=hunter2",
            "tls.key": "hunter2",
            ".git/config": "hunter2",
            ".npmrc": "hunter2",
            "ca.pem": "public",
        },
    )
    environ = {"AWS_SECRET_ACCESS_KEY": "hunter2", "PIP_INDEX_URL": "https://u:hunter2@127.0.0.1:1/simple"}
    ended = build(
        "--platform", "all", *COMMON, "--output", "../out", "--exclude", "!ca.pem", cwd=root, environ=environ
    )  # fmt: skip
    assert ended.returncode == 0, ended.stderr
    assert "left out  .git/\n" in ended.stderr
    assert "secrets   left out, since they look like secrets: .env, .npmrc, tls.key\n" in ended.stderr
    assert "secrets   in the image, though they look like secrets, since you say so: ca.pem\n" in ended.stderr
    out = root.parent / "out"
    assert "hunter2" not in ended.stderr
    assert not any(b"hunter2" in content for _, _, content in tree(out).values())
    assert str(root).encode() not in b"".join(
        content for name, (_, _, content) in tree(out).items() if not name.endswith(".whl")
    )
    assert (out / "project" / "ca.pem").exists()


def test_names_that_would_disturb_a_terminal_do_not(root: Path) -> None:
    write(root, {"__pycache__/x": "", "\x1b[31m\nred/.git/x": ""})
    ended = build("--platform", "sagemaker", *COMMON, "--output", "../out", cwd=root)
    assert ended.returncode == 0, ended.stderr
    assert "\x1b" not in ended.stderr
    assert r"left out  \x1b[31m\nred/.git/, __pycache__/" in ended.stderr


@pytest.mark.parametrize("folder", ["two words", 'it\'s "m" $HOME', "ünï 模型", "back\\slash", "-m", "#m"])
def test_projects_with_nasty_names(tmp_path: Path, folder: str) -> None:
    root = locked(
        write(tmp_path / "p", {"requirements.txt": "numpy>=2\n", f"{folder}/predictor.py": PREDICTOR}), "numpy>=2"
    )
    target = f"./{folder}" if folder.startswith("-") else folder
    ended = build(target, "--platform", "all", *COMMON, "--output", "../out", cwd=root)
    assert ended.returncode == 0, ended.stderr
    assert (tmp_path / "out" / "project" / folder / "predictor.py").read_text() == PREDICTOR
    assert (tmp_path / "out" / "project" / folder / "model.yaml").exists()
    assert (
        len([line for line in (tmp_path / "out" / "Dockerfile").read_text().splitlines() if "SERVEKIT_TARGET=" in line])
        == 1
    )


# --- examples of the project itself ---


@pytest.mark.parametrize("example", ["digits", "hello", "iris"])
def test_the_examples(tmp_path: Path, example: str) -> None:
    root = tmp_path / example
    shutil.copytree(EXAMPLES / example, root, ignore=shutil.ignore_patterns("__pycache__", ".servekit"))
    (root / "requirements.txt").touch()
    pictures = "Image(" in (root / "predictor.py").read_text()
    locked(root, extras=["image"] if pictures else [])
    ended = build("--platform", "all", *COMMON, "--output", "../out", cwd=root)
    assert ended.returncode == 0, ended.stderr
    for path in root.iterdir():
        if path.name != "requirements.lock":
            assert (tmp_path / "out" / "project" / path.name).read_bytes() == path.read_bytes()


def test_an_onnx_file_needs_no_code(tmp_path: Path) -> None:
    root = locked(
        write(
            tmp_path / "m", {"requirements.txt": "", "net/model.onnx": (EXAMPLES / "iris" / "model.onnx").read_bytes()}
        )
    )
    ended = build("net/model.onnx", "--platform", "modzy", *COMMON, "--output", "../out", cwd=root)
    assert ended.returncode == 0, ended.stderr
    assert 'SERVEKIT_TARGET="/opt/project/net/model.onnx"' in (tmp_path / "out" / "Dockerfile").read_text()
    assert (tmp_path / "out" / "project" / "net" / "model.yaml").exists()


# --- the lock ---


def test_the_lock_is_kept_until_its_inputs_change(root: Path) -> None:
    """uv is not there and nothing could be resolved, so that a lock made anew is seen as a failure."""
    lock = (root / "requirements.lock").read_bytes()
    nothing = {
        "PATH": "/nonexistent",
        "UV_OFFLINE": "1",
        "UV_CACHE_DIR": str(root.parent / "cache"),
        "PIP_INDEX_URL": "http://127.0.0.1:1/simple",
    }

    def ended(*arguments: str) -> subprocess.CompletedProcess[str]:
        return build("--platform", "sagemaker", *COMMON, "--output", "../out", *arguments, cwd=root, environ=nothing)

    assert ended().returncode == 0
    for changed in (["--python", "3.12"], ["--arch", "arm64"], ["--upgrade"]):
        refused(ended(*changed))
        assert (root / "requirements.lock").read_bytes() == lock
    (root / "requirements.txt").write_text("numpy>=2.1\n")
    refused(ended())
    (root / "requirements.txt").write_text("# a comment\nnumpy >= 2\n")
    assert ended().returncode == 0
    (root / "predictor.py").write_text(PICTURES)  # which needs servekit[image]
    refused(ended())
    assert (root / "requirements.lock").read_bytes() == lock


@pytest.mark.parametrize(
    ("lock", "says"),
    [
        ("numpy==2.0\n", "requirements.lock: expected one that `servekit build` has made, got another: rename it"),
        ("--extra-index-url https://example.com\n", "requirements.lock: expected one that `servekit build` has made"),
        ("{head}numpy==2.0\n", "requirements.lock: expected name==version and hashes, got 'numpy==2.0'"),
        (
            "{head}--index-url https://example.com\n",
            "requirements.lock: expected name==version and hashes, got '--index-url",
        ),
        (
            "{head}x @ https://example.com/x.whl --hash=sha256:{zeros}\n",
            "requirements.lock: expected name==version and hashes",
        ),
    ],
)
def test_a_lock_that_is_not_ours_is_refused(root: Path, lock: str, says: str) -> None:
    head = "".join((root / "requirements.lock").read_text().splitlines(keepends=True)[:2])
    write(root, {"requirements.lock": lock.replace("{head}", head).replace("{zeros}", "0" * 64)})
    before = tree(root)
    assert refused(build("--platform", "sagemaker", *COMMON, "--output", "../out", cwd=root)).startswith(says)
    assert tree(root) == before
    assert not (root.parent / "out").exists()


@pytest.mark.parametrize(
    ("required", "fits"),
    [(">=3.11", True), (">=3.11.4,<3.12", True), ("==3.11.*", True), (">=3.12", False), ("<3.11", False)],
)
def test_the_python_that_the_project_is_for(root: Path, required: str, fits: bool) -> None:
    write(root, {"pyproject.toml": f'[project]\nname = "m"\nrequires-python = "{required}"\n'})
    ended = build("--platform", "modzy", *COMMON, "--output", "../out", cwd=root)
    if fits:
        assert ended.returncode == 0, ended.stderr
    else:
        assert refused(ended).startswith("pyproject.toml: project.requires-python is ")
        assert "the image has Python 3.11: name another by --python or --base" in ended.stderr


def test_line_ends_that_a_checkout_has_made_change_nothing(root: Path) -> None:
    lock = (root / "requirements.lock").read_bytes()
    (root / "requirements.lock").write_bytes(lock.replace(b"\n", b"\r\n"))
    ended = build("--platform", "sagemaker", *COMMON, "--output", "../out", cwd=root)
    assert "as locked before" in ended.stderr
    assert (root.parent / "out" / "requirements.lock").read_bytes() == lock


def test_a_project_that_cannot_be_written_to_is_built_all_the_same(root: Path) -> None:
    """Mounted read-only, in a mount namespace of its own. What is said: the lock is not kept."""
    (root / "requirements.lock").unlink()
    keep = (
        "from servekit.images import pins; from pathlib import Path; print(pins.keep(Path('.'), ('a',), python='3.11', "
    )
    keep += f"arch='amd64', make=lambda: {PINS!r}, upgrade=False).said)"
    command = (
        f'mount --bind {root} {root} && mount -o remount,ro,bind {root} && cd {root} && exec {sys.executable} -c "$0"'
    )
    ended = subprocess.run(
        ["unshare", "--mount", "sh", "-c", command, keep], capture_output=True, text=True, timeout=60, check=False
    )
    if ended.returncode != 0 and "Traceback" not in ended.stderr:
        pytest.skip(f"no mount namespace here: {ended.stderr}")
    assert ended.stdout == (
        "requirements.lock: 1 packages, made, but not kept for the next build: '.': Read-only file system\n"
    ), ended.stderr
    assert names(root) == {"predictor.py", "requirements.txt"}


@pytest.mark.skipif(not HAS_UV, reason="uv is not installed")
def test_offline_the_wheels_come_along(tmp_path: Path) -> None:
    root = project(tmp_path / "m", {"requirements.txt": "numpy>=2\nextra-thing\n"})
    wheelhouse(tmp_path / "wheels", "numpy", "extra-thing", "not-needed")
    for _ in range(2):
        ended = build("--platform", "sagemaker", *COMMON, "--offline", "../wheels", "--output", "../out", cwd=root)
        assert ended.returncode == 0, ended.stderr
    assert "as locked before" in ended.stderr
    found = {name for name in names(tmp_path / "out") if name.startswith("wheels/")}
    assert {"wheels/numpy-9000.0-py3-none-any.whl", "wheels/extra_thing-9000.0-py3-none-any.whl", OWN_WHEEL} <= found
    assert "wheels/not_needed-9000.0-py3-none-any.whl" not in found
    (tmp_path / "wheels" / "extra_thing-9000.0-py3-none-any.whl").unlink()
    said = refused(build("--platform", "sagemaker", *COMMON, "--offline", "../wheels", "--output", "../out", cwd=root))
    assert "extra-thing==9000.0" in said
    assert {name for name in names(tmp_path / "out") if name.startswith("wheels/")} == found


@pytest.mark.skipif(not HAS_UV, reason="uv is not installed")
def test_hashes_of_the_requirements_are_kept(tmp_path: Path) -> None:
    """The lock of another tool, say: no file that has come to the index since then is installed."""
    [found] = wheelhouse(tmp_path / "wheels", "extra-thing").glob("extra_thing-*.whl")
    right = hashlib.sha256(found.read_bytes()).hexdigest()
    root = project(
        tmp_path / "m", {"requirements.txt": f"Extra_Thing==9000.0 --hash=sha256:{right} --hash=sha256:{'0' * 64}\n"}
    )
    arguments = ("--platform", "sagemaker", *COMMON, "--offline", "../wheels", "--output", "../out")
    ended = build(*arguments, cwd=root)
    assert ended.returncode == 0, ended.stderr
    assert right in (root / "requirements.lock").read_text()
    lock = (root / "requirements.lock").read_bytes()
    write(root, {"requirements.txt": f"extra-thing==9000.0 --hash=sha256:{'0' * 64}\n"})
    assert refused(build(*arguments, cwd=root)).startswith(
        "requirements: extra-thing==9000.0: no file of this version has one of the hashes"
    )
    assert (root / "requirements.lock").read_bytes() == lock


def test_a_lock_keeps_the_hashes_that_are_given() -> None:
    one, two, three = ("sha256:" + letter * 64 for letter in "123")
    lock = f"a-b==1 \\\n    --hash={one} \\\n    --hash={two}\nc==2 \\\n    --hash={one}\n"
    assert pins.narrowed(lock, {}) == lock
    assert (
        pins.narrowed(lock, {"a-b": frozenset([two, three])})
        == f"a-b==1 \\\n    --hash={two}\nc==2 \\\n    --hash={one}\n"
    )
    with pytest.raises(ConfigError, match="requirements: c==2: no file of this version has one of the hashes"):
        pins.narrowed(lock, {"c": frozenset([two])})


def test_without_the_packages_that_it_needs_it_says_so(root: Path) -> None:
    program = "import sys; sys.modules['pathspec'] = None; from servekit.cli import main; main(['build', '--platform', 'modzy'])"
    ended = subprocess.run(
        [sys.executable, "-c", program], cwd=root, env=clean_environ(), capture_output=True, text=True, timeout=60, check=False
    )  # fmt: skip
    assert refused(ended) == 'the package pathspec is not installed: pip install "servekit[build]"'


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_build_that_is_ended_leaves_nothing(root: Path, buildah: Mapping[str, str], number: signal.Signals) -> None:
    environ = clean_environ({**buildah, "WAIT": "60"})
    process = subprocess.Popen(
        [script("servekit"), "build", "--platform", "modzy", *COMMON, "--builder", "buildah"],
        cwd=root, env=environ, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
    )  # fmt: skip
    deadline = time.monotonic() + 60
    while not (root / "asked").exists() and time.monotonic() < deadline:
        time.sleep(0.05)
    process.send_signal(number)
    said, _ = process.communicate(timeout=60)
    assert process.returncode not in (0, None), said
    assert b"Traceback" not in said
    assert list(Path(buildah["TMPDIR"]).iterdir()) == []


@pytest.mark.skipif(not HAS_UV, reason="uv is not installed")
def test_a_requirement_that_does_not_resolve(tmp_path: Path) -> None:
    root = project(tmp_path / "m", {"requirements.txt": "numpy>=2\nno-such-thing>=3\n"})
    wheelhouse(tmp_path / "wheels", "numpy")
    said = refused(build("--platform", "sagemaker", *COMMON, "--offline", "../wheels", "--output", "../out", cwd=root))
    assert "no-such-thing" in said
    assert not (root / "requirements.lock").exists()
    assert not (tmp_path / "out").exists()


def test_a_project_that_wants_another_servekit_gets_it(tmp_path: Path) -> None:
    root = project(tmp_path / "m", {"requirements.txt": "servekit[fast]==0.0.1\nnumpy>=2\n"})
    pins.keep(
        root, ("numpy>=2", "servekit[fast]==0.0.1"), python=PYTHON, arch="amd64", upgrade=False,
        make=lambda: PINS + f"servekit==0.0.1 --hash=sha256:{'1' * 64}\n",
    )  # fmt: skip
    ended = build("--platform", "sagemaker", *COMMON, "--output", "../out", cwd=root)
    assert ended.returncode == 0, ended.stderr
    assert f"servekit  ==0.0.1 from the index, as the project has it; this is {__version__}\n" in ended.stderr
    assert not (tmp_path / "out" / "wheels").exists()


# --- the base image ---


@pytest.mark.parametrize(
    ("arguments", "base"),
    [
        ((), f"python:{sys.version_info.major}.{sys.version_info.minor}-slim-bookworm, Python {sys.version_info.major}.{sys.version_info.minor}, "),
        (("--python", "3.13"), "python:3.13-slim-bookworm, Python 3.13, "),
        (("--base", "python:3.12.4-slim"), "python:3.12.4-slim, Python 3.12, "),
        (("--base", "registry.example.com:5000/library/python:3.14@sha256:ab"), "registry.example.com:5000/library/python:3.14@sha256:ab, Python 3.14, "),
        (("--base", "acme/ml:1", "--python", "3.12"), "acme/ml:1, Python 3.12, "),
    ],
)  # fmt: skip
def test_the_base_and_its_python(tmp_path: Path, arguments: tuple[str, ...], base: str) -> None:
    """A foreign lock stops it right behind the line."""
    root = project(tmp_path / "m", {"requirements.lock": "numpy\n"})
    ended = build("--platform", "sagemaker", "--output", "../out", *arguments, cwd=root)
    assert f"base      {base}" in ended.stderr
    refused(ended)


# --- bad input ---


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        ((), "--platform: expected one of modelarts, modzy, sagemaker, all"),
        (("--platform", "nowhere"), "--platform: expected one of modelarts, modzy, sagemaker, all, got 'nowhere'"),
        (("--platform", "modzy", "--output", ""), "--output: expected a value, got ''"),
        (("--platform", "modzy", "--pip-config", ""), "--pip-config: expected a value, got ''"),
        (("--platform", "modzy", ""), "TARGET: expected a value, got ''"),
        (("--platform", "modzy", "missing.py"), "TARGET 'missing.py': no such file"),
        (("--platform", "modzy", "../other"), "TARGET '../other': expected a target inside of the current project"),
        (("--platform", "modzy", "-t", "Upper Case"), "--tag 'Upper Case': expected an image name in lower case"),
        (("--platform", "modzy", "--base", "python:3.12", "--python", "3.11"), "--python 3.11: expected 3.12, which --base python:3.12 has"),
        (("--platform", "modzy", "--base", "no blanks"), "--base: an image such as python:3.12-slim-bookworm: expected"),
        (("--platform", "modzy", "--python", "3.9"), "--python 3.9: expected 3.11 or newer"),
        (("--platform", "modzy", "--python", "three"), "--python: a version such as 3.12: expected"),
        (("--platform", "modzy", "--requirements", "missing.txt"), "missing.txt: No such file or directory"),
        (("--platform", "modzy", "--requirements", "../other/requirements.txt"), "--requirements: expected a file inside of the project"),
        (("--platform", "modzy", "--pip-config", "missing.conf"), "--pip-config 'missing.conf': no such file"),
        (("--platform", "modzy", "--pip-config", "../other/a,b.conf"), "--pip-config '../other/a,b.conf': expected a path without commas"),
        (("--platform", "modzy", "--save", "missing/image.tar"), "--save 'missing/image.tar': expected a file in a folder that exists"),
        (("--platform", "modzy", "--output", "."), "--output '.': expected a folder of its own, got one that the project lies in"),
        (("--platform", "modzy", "--output", "../other"), "--output '../other': expected an empty folder or a context"),
        (("--platform", "modzy", "--output", "../out", "--exclude", "*.py"), "TARGET 'predictor.py': it is left out of the image"),
        (("--platform", "modzy", "--output", "../out", "--exclude", "!"), "--exclude: expected a pattern as in .gitignore, got '!'"),
        (("--platform", "modzy", "--upgrade", "--offline", "missing", "--output", "../out"), "--offline 'missing'"),
        (("--artifact", "model.zip"), "--artifact 'model.zip': expected a name that ends with .tar.gz or .tgz"),
    ],
)  # fmt: skip
def test_bad_input_is_one_line_and_nothing_is_written(root: Path, arguments: tuple[str, ...], says: str) -> None:
    project(root.parent / "other", {"a,b.conf": ""})
    before = tree(root.parent)
    assert refused(build(*arguments, cwd=root)).startswith(says)
    assert tree(root.parent) == before


@pytest.mark.parametrize(
    ("source", "says"),
    [
        ("import no_such_module\n", "ModuleNotFoundError: No module named 'no_such_module'"),
        ("class Broken(\n", "SyntaxError"),
        ("x = 1\n", "the file defines no subclass of servekit.Predictor"),
    ],
)
def test_a_predictor_that_does_not_import(root: Path, source: str, says: str) -> None:
    good = build("--platform", "modzy", *COMMON, "--output", "../out", cwd=root)
    assert good.returncode == 0, good.stderr
    before = tree(root.parent / "out")
    write(root, {"predictor.py": source})
    assert says in refused(build("--platform", "modzy", *COMMON, "--output", "../out", cwd=root))
    assert tree(root.parent / "out") == before


@pytest.mark.parametrize(
    ("name", "content", "platform", "says"),
    [
        ("config.json", "{", "modelarts", "modelarts would not start: config.json"),
        ("model.yaml", "inputs: {a.json: {}, b.json: {}}\n", "modzy", "modzy would not start: model.yaml"),
    ],
)
def test_a_manifest_that_cannot_be_served(root: Path, name: str, content: str, platform: str, says: str) -> None:
    write(root, {name: content})
    assert refused(build("--platform", platform, *COMMON, "--output", "../out", cwd=root)).startswith(says)
    assert not (root.parent / "out").exists()


def test_a_link_that_leads_out_is_refused_by_name(root: Path) -> None:
    write(root.parent, {"outside": "secret"})
    (root / "data").symlink_to("../outside")
    said = refused(build("--platform", "modzy", *COMMON, "--output", "../out", cwd=root))
    assert said.startswith("data: a link that leads out of the project")
    assert not (root.parent / "out").exists()


# --- the builder ---


def kept(ended: subprocess.CompletedProcess[str]) -> Path:
    [line] = [line for line in ended.stderr.splitlines() if line.startswith("context   kept in ")]
    return Path(line.removeprefix("context   kept in "))


def test_without_a_builder_the_context_is_kept(root: Path) -> None:
    environ = {"PATH": "/nonexistent", "TMPDIR": str(root.parent)}
    ended = build("--platform", "modzy", *COMMON, cwd=root, environ=environ)
    said = refused(ended)
    assert all(name in said for name in ("docker", "buildah", "podman"))
    assert kept(ended).is_relative_to(root.parent)
    assert {"Dockerfile", "project/predictor.py"} <= names(kept(ended))
    # The folder is for this user alone.
    assert stat.S_IMODE(kept(ended).parent.stat().st_mode) == 0o700
    ended = build("--platform", "modzy", *COMMON, "--output", "../out", "-t", "m", cwd=root, environ=environ)
    refused(ended)
    assert kept(ended) == Path("../out")
    assert "Dockerfile" in names(root.parent / "out")


def test_a_context_that_cannot_be_written_leaves_nothing(root: Path) -> None:
    """A limit on the size of files does what a full disk does."""
    (root / "weights.bin").write_bytes(bytes(3_000_000))
    (root.parent / "tmp").mkdir()
    command = f"ulimit -f 4000 && exec {script('servekit')} build --platform modzy {' '.join(COMMON)}"
    ended = subprocess.run(
        ["sh", "-c", command], cwd=root, env=clean_environ({"TMPDIR": str(root.parent / "tmp")}),
        stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip
    assert refused(ended).startswith(f"the context in '{root.parent / 'tmp'}")
    assert list((root.parent / "tmp").iterdir()) == []


BUILDAH = """\
#!/bin/sh
# A buildah that writes down what it is asked for; the real one is in the tests of builder.py.
case $1 in
info) exit 0 ;;
--version) echo buildah version 1.2.3 ;;
build) printf '%s\\n' "$@" >asked
    [ -n "$WAIT" ] && sleep "$WAIT"
    [ -n "$FAIL" ] && { echo 'STEP 1/2: FROM x'; echo "servekit: the base image x has no python3"; exit 1; }
    # The last word is the image.
    printf 'STEP 1/2: FROM x\\nSTEP 2/2: RUN y\\n%064d\\n' 7 ;;
esac
"""


@pytest.fixture
def buildah(tmp_path: Path) -> Mapping[str, str]:
    write(tmp_path / "bin", {"buildah": BUILDAH})
    (tmp_path / "bin" / "buildah").chmod(0o755)
    (tmp_path / "tmp").mkdir()
    return {"PATH": f"{tmp_path / 'bin'}:/usr/bin:/bin", "TMPDIR": str(tmp_path / "tmp"), "FAIL": "", "WAIT": ""}


def test_what_stands_behind_the_dashes_goes_to_the_builder(root: Path, buildah: Mapping[str, str]) -> None:
    ended = build(
        "--platform", "modzy", *COMMON, "--builder", "buildah", "--", "--no-cache", "-v", cwd=root, environ=buildah
    )
    assert ended.returncode == 0, ended.stderr
    assert ended.stdout == "m:1.0.0\n"
    asked = (root / "asked").read_text().splitlines()
    assert {"linux/amd64", "m:1.0.0", "--no-cache", "-v"} <= set(asked)
    assert not Path(asked[-1]).exists(), "the context is removed after a build that went well"
    assert list(Path(buildah["TMPDIR"]).iterdir()) == []
    steps = [line for line in ended.stderr.splitlines() if line.startswith("step ")]
    assert [re.sub(r"/[0-9]+", "", line) for line in steps] == ["step      1 FROM x", "step      2 RUN y"]


def test_a_build_that_fails_says_why_and_keeps_the_context(root: Path, buildah: Mapping[str, str]) -> None:
    environ = {**buildah, "FAIL": "1"}
    ended = build("--platform", "modzy", *COMMON, "-t", "acme/m:2", "--builder", "buildah", cwd=root, environ=environ)
    assert "the base image x has no python3" in refused(ended)
    assert "Dockerfile" in names(kept(ended))


def test_a_terminal_gets_a_progress_bar(root: Path, buildah: Mapping[str, str]) -> None:
    main, side = pty.openpty()
    try:
        process = subprocess.Popen(
            [script("servekit"), "build", "--platform", "modzy", *COMMON, "--builder", "buildah"],
            cwd=root, env=clean_environ({**buildah, "TERM": "xterm"}), stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=side,
        )  # fmt: skip
        os.close(side)
        said = b""
        while True:
            try:
                piece = os.read(main, 65536)
            except OSError:
                break
            if not piece:
                break
            said += piece
        out, _ = process.communicate(timeout=60)
    finally:
        os.close(main)
    assert process.returncode == 0, said
    assert out == b"m:1.0.0\n"
    assert b"building" in said
    assert b"100%" in said


@pytest.mark.skipif(why_not("buildah") is not None, reason=str(why_not("buildah")))
def test_a_base_that_is_not_there(root: Path, tmp_path: Path) -> None:
    environ = {**own_store(tmp_path), "PATH": "/usr/sbin:/usr/bin:/sbin:/bin"}
    ended = build(
        "--platform", "modzy", *COMMON, "--base", "localhost/no-such-base:1", "--builder", "buildah", cwd=root, environ=environ
    )  # fmt: skip
    assert "no-such-base" in refused(ended)
    assert "Dockerfile" in names(kept(ended))


# --- the artifact ---


def test_the_artifact_alone(tmp_path: Path) -> None:
    root = project(tmp_path / "m", {"weights.bin": "w" * 100, ".env": "hunter2", "sub/data": "d"})
    for name in ("one.tar.gz", "two.tar.gz"):
        ended = build("--artifact", f"../{name}", cwd=root)
        assert ended.returncode == 0, ended.stderr
        assert ended.stdout == f"../{name}\n"
        assert "secrets   left out, since they look like secrets: .env\n" in ended.stderr
    assert (tmp_path / "one.tar.gz").read_bytes() == (tmp_path / "two.tar.gz").read_bytes()
    (tmp_path / "there").mkdir()
    extract(tmp_path / "one.tar.gz", tmp_path / "there", 2**30)
    assert names(tmp_path / "there") == {"predictor.py", "requirements.txt", "weights.bin", "sub/data"}
    assert not (root / "requirements.lock").exists()


def test_the_artifact_beside_a_context(root: Path) -> None:
    ended = build("--platform", "sagemaker", *COMMON, "--artifact", "model.tgz", "--output", "out", cwd=root)
    assert ended.returncode == 0, ended.stderr
    assert (root / "model.tgz").is_file()
    assert "project/model.tgz" not in names(root / "out")


def test_help_names_every_option() -> None:
    ended = build("--help", cwd=Path.cwd())
    assert ended.returncode == 0
    for option in ("TARGET", "--platform", "--tag", "--base", "--python", "--arch", "--requirements", "--upgrade", "--offline",
                   "--pip-config", "--exclude", "--batch", "--output", "--save", "--artifact", "--builder", "BUILDER ARGUMENTS"):  # fmt: skip
        assert option in ended.stdout
