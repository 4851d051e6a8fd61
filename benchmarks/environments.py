"""One virtual environment for each peer, made where it is missing and kept outside the checkout.

A folder `benchmarks/peers/NAME` with a requirements.txt becomes the environment `ENVS/NAME`. It is made again when
that file, or the interpreter, changes. servekit's own environment holds a wheel of the working tree, built again
whenever the sources changed.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).parents[1]
PEERS = ROOT / "benchmarks" / "peers"
STAMP = "servekit-benchmarks-stamp"
SOURCES_STAMP = "servekit-benchmarks-sources"
# The tools of the harness that the standard library lacks: plots, ONNX files, the open-loop generator.
HARNESS = "harness"
# Ray and Triton bring more than a gigabyte each.
INSTALL_TIMEOUT_S = 1800.0
SYSTEM_PYTHON = "/usr/bin/python3"


class EnvironmentFailed(Exception):
    """An environment that could not be made; the message is the reason that the report prints."""


def default_directory() -> Path:
    """`$XDG_CACHE_HOME/servekit-benchmarks`, by default under `~/.cache`."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "servekit-benchmarks"


def requirements(name: str) -> Path:
    return (ROOT / "benchmarks" if name == HARNESS else PEERS / name) / "requirements.txt"


def prepare(name: str, directory: Path, *, system_python: bool = False) -> Path:
    """The `bin` directory of the environment NAME, made or brought up to date first. Raises EnvironmentFailed."""
    interpreter = SYSTEM_PYTHON if system_python else _base_interpreter()
    home = directory / name
    wanted = _digest([requirements(name)], interpreter)
    if _read(home / STAMP) != wanted:
        print(f"  making the environment {name} in {home}", flush=True)
        shutil.rmtree(home, ignore_errors=True)
        directory.mkdir(parents=True, exist_ok=True)
        _run([interpreter, "-m", "venv", str(home)])
        _run([str(home / "bin" / "python"), "-m", "pip", "install", "-q", "-r", str(requirements(name))])
        (home / STAMP).write_text(wanted)
    if name == "servekit":
        _install_checkout(home)
    return home / "bin"


def prepare_revision(revision: str, directory: Path) -> Path:
    """The `bin` directory of an environment that holds servekit as it was at a git revision.

    Raises EnvironmentFailed when there is no such revision.
    """
    found = subprocess.run(
        ["git", "rev-parse", "--verify", "--quiet", f"{revision}^{{commit}}"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    commit = found.stdout.strip()
    if found.returncode or not commit:
        raise EnvironmentFailed(f"no commit {revision!r} in {ROOT}")
    home = directory / "servekit-revision"
    wanted = _digest([requirements("servekit")], commit)
    if _read(home / STAMP) != wanted:
        print(f"  making an environment of servekit at {commit[:7]} in {home}", flush=True)
        shutil.rmtree(home, ignore_errors=True)
        with tempfile.TemporaryDirectory(prefix="servekit-revision-") as scratch:
            archive, sources = Path(scratch) / "sources.tar", Path(scratch) / "sources"
            _run(["git", "-C", str(ROOT), "archive", "--output", str(archive), commit])
            shutil.unpack_archive(archive, sources, filter="data")
            _run([_base_interpreter(), "-m", "venv", str(home)])
            constraint = ["-c", str(requirements("servekit"))]
            _run([str(home / "bin" / "python"), "-m", "pip", "install", "-q", *constraint, f"{sources}[fast,image]"])
        (home / STAMP).write_text(wanted)
    return home / "bin"


def packages(bin_directory: Path) -> dict[str, str]:
    """What is installed there: name to version."""
    found = "{d.metadata['Name']: d.version for d in m.distributions()}"
    script = f"import importlib.metadata as m, json; print(json.dumps({found}))"
    done = subprocess.run([bin_directory / "python", "-c", script], capture_output=True, text=True, check=True)
    return dict(sorted(json.loads(done.stdout).items()))


def _install_checkout(home: Path) -> None:
    sources = [ROOT / "pyproject.toml", *sorted((ROOT / "servekit").rglob("*.py"))]
    wanted = _digest(sources, "")
    if _read(home / SOURCES_STAMP) == wanted:
        return
    print("  installing servekit from the checkout", flush=True)
    python = str(home / "bin" / "python")
    constraint = ["-c", str(requirements("servekit"))]
    _run([python, "-m", "pip", "install", "-q", *constraint, f"{ROOT}[fast,image]"])
    _run([python, "-m", "pip", "install", "-q", "--no-deps", "--force-reinstall", str(ROOT)])
    (home / SOURCES_STAMP).write_text(wanted)


def _base_interpreter() -> str:
    # Not sys.executable: in a virtual environment that is a link that goes away with it.
    return str(Path(getattr(sys, "_base_executable", sys.executable)).resolve())


def _digest(files: list[Path], salt: str) -> str:
    digest = hashlib.sha256(salt.encode())
    for file in files:
        digest.update(str(file.relative_to(ROOT)).encode())
        digest.update(file.read_bytes())
    return digest.hexdigest()


def _read(file: Path) -> str:
    return file.read_text() if file.is_file() else ""


def _run(command: list[str]) -> None:
    environ = {name: value for name, value in os.environ.items() if name not in ("PYTHONPATH", "PYTHONHOME")}
    try:
        done = subprocess.run(command, capture_output=True, text=True, env=environ, timeout=INSTALL_TIMEOUT_S)
    except (OSError, subprocess.TimeoutExpired) as error:
        raise EnvironmentFailed(f"{command[0]}: {error}") from error
    if done.returncode:
        last = (done.stderr.strip() or done.stdout.strip() or "no output").splitlines()[-1]
        raise EnvironmentFailed(f"{' '.join(command[1:4])} failed: {last}")
