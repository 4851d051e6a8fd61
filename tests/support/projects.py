"""Projects for `servekit build`, and the command as a process."""

from __future__ import annotations

import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path

from builders import wheel
from packaging.requirements import Requirement
from serving import clean_environ, script

from servekit.images import pins
from servekit.images.own import own

PYTHON = "3.11"
ARCH = "amd64"
PREDICTOR = """\
from servekit import Predictor, Tensor


class Mean(Predictor):
    inputs = {"x": Tensor("float32", (4,))}
    outputs = {"mean": Tensor("float32", ())}

    def predict(self, x):
        return x.mean(axis=1)
"""
PICTURES = PREDICTOR.replace('Tensor("float32", (4,))', 'Image("L", 8, 8)').replace("Tensor", "Image, Tensor", 1)
PINS = f"numpy==2.0.0 \\\n    --hash=sha256:{'0' * 64}\n"


def write(folder: Path, files: Mapping[str, str | bytes]) -> Path:
    for name, content in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return folder


def project(folder: Path, files: Mapping[str, str | bytes] | None = None) -> Path:
    """A project with a predictor; `files` come on top."""
    return write(folder, {"predictor.py": PREDICTOR, "requirements.txt": "numpy>=2\n", **(files or {})})


def locked(root: Path, *requirements: str, extras: Sequence[str] = (), python: str = PYTHON) -> Path:
    """The project with a lock for these requirements and servekit's own, as an earlier build would have left it."""
    pins.keep(
        root, (*requirements, *own(extras).requirements), python=python, arch=ARCH, make=lambda: PINS, upgrade=True
    )
    return root


def wheelhouse(folder: Path, *names: str, extras: Sequence[str] = ()) -> Path:
    """A folder with a wheel for everything that servekit needs, and for `names`; none of them does anything."""
    folder.mkdir(exist_ok=True)
    for name in {Requirement(line).name for line in own(extras).requirements} | set(names):
        wheel(folder, name, "9000.0")
    return folder


def build(
    *arguments: str | Path, cwd: Path, environ: Mapping[str, str] | None = None, umask: int = 0o022
) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [script("servekit"), "build", *map(str, arguments)],
        cwd=cwd, env=clean_environ(environ), umask=umask, stdin=subprocess.DEVNULL,
        capture_output=True, text=True, timeout=100, check=False,
    )  # fmt: skip


def refused(ended: subprocess.CompletedProcess[str]) -> str:
    """What it was refused with: the last line; there is no traceback and nothing on standard output."""
    assert ended.returncode == 2, ended.stderr
    assert ended.stdout == ""
    assert "Traceback" not in ended.stderr
    last = ended.stderr.splitlines()[-1]
    assert last.startswith("servekit: ")
    return last.removeprefix("servekit: ")


def tree(folder: Path) -> dict[str, tuple[int, int, bytes]]:
    """Mode, time and content of everything below."""
    found = {}
    for path in sorted(folder.rglob("*")):
        status = path.lstat()
        content = path.read_bytes() if path.is_file() else b""
        found[path.relative_to(folder).as_posix()] = (status.st_mode, int(status.st_mtime), content)
    return found
