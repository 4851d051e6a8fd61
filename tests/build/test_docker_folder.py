"""docker/ holds what `servekit build` writes for examples/digits: the Dockerfiles, boot files and manifests.

Not the project's own files, the wheel of servekit and the lock, which are no reference for anybody. Run as a program
(sh scripts/docker) this writes the folder again.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path

import pytest
from projects import ARCH, build, locked

ROOT = Path(__file__).parents[2]
DOCKER = ROOT / "docker"
EXAMPLE = ROOT / "examples" / "digits"
PYTHON = "3.13"
MANIFESTS = ("config.json", "model.yaml")
CONTEXTS: Mapping[str, tuple[str, ...]] = {
    "sagemaker": ("--platform", "sagemaker"),
    "modelarts": ("--platform", "modelarts"),
    "modelarts-batch": ("--platform", "modelarts", "--batch"),
    "modzy": ("--platform", "modzy"),
    "all": ("--platform", "all"),
}
Files = dict[str, tuple[bool, bytes]]


def files(folder: Path) -> Files:
    """Is it a program, and its content, by relative path."""
    return {
        path.relative_to(folder).as_posix(): (bool(path.stat().st_mode & 0o100), path.read_bytes())
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


def reference(context: Path) -> Files:
    """What of a context is kept in docker/."""
    kept = ("Dockerfile", ".dockerignore", *(f"project/{name}" for name in MANIFESTS))
    return {name: file for name, file in files(context).items() if name in kept or name.startswith("boot/")}


def make(name: str, folder: Path) -> Files:
    """The context of this name, made in `folder`. The lock is a stand-in: the Dockerfile is the same with any."""
    project = folder / EXAMPLE.name
    shutil.copytree(EXAMPLE, project, ignore=shutil.ignore_patterns("__pycache__", ".servekit", "requirements.lock"))
    locked(project, extras=["image"], python=PYTHON)
    # Those that the example has itself would take the place of the ones that are made.
    without = [word for manifest in MANIFESTS for word in ("--exclude", f"/{manifest}")]
    ended = build(
        *CONTEXTS[name], "--python", PYTHON, "--arch", ARCH, *without, "--output", folder / "context", cwd=project
    )
    assert ended.returncode == 0, ended.stderr
    return reference(folder / "context")


@pytest.mark.parametrize("name", CONTEXTS)
def test_the_folder_is_what_build_writes(name: str, tmp_path: Path) -> None:
    made = make(name, tmp_path)
    assert {"Dockerfile", ".dockerignore"} <= made.keys()
    there = files(DOCKER / name)
    assert there.keys() == made.keys(), "run sh scripts/docker"
    for path, file in made.items():
        assert there[path] == file, f"{name}/{path}: run sh scripts/docker"


def test_nothing_else_is_in_it() -> None:
    assert {path.name for path in DOCKER.iterdir()} == {"README.md", *CONTEXTS}


# --- the README says why each line is there ---

INSTRUCTION = re.compile(r"^[A-Z]+(?= )", re.MULTILINE)
PAIR = re.compile(r"^(?:ENV|LABEL| {3,4}) ?([A-Za-z][\w.-]*)=", re.MULTILINE)


def named() -> set[str]:
    """Instructions, variables, labels, boot files, manifests, packages and commands of all that is in the folder."""
    found = set()
    for name in CONTEXTS:
        folder = DOCKER / name
        text = (folder / "Dockerfile").read_text()
        found |= set(INSTRUCTION.findall(text)) | set(PAIR.findall(text))
        found |= {f"/{path.removeprefix('boot/')}" for path in files(folder) if path.startswith("boot/")}
        found |= {path.removeprefix("project/") for path in files(folder) if path.startswith("project/")}
        found |= {" ".join(json.loads(line)) for line in re.findall(r"^CMD (.+)$", text, re.MULTILINE)}
        for packages in re.findall(r"apt-get install -y --no-install-recommends ([^;]+)", text):
            found |= set(packages.split())
    return found


def test_the_readme_explains_what_is_in_it() -> None:
    found = named()
    assert {"ENTRYPOINT", "PSC_MODEL_PORT", "/home/run.sh", "model.yaml", "zip", "serve"} <= found
    page = (DOCKER / "README.md").read_text()
    # A whole word, in code: `ENV PATH` names both.
    code = set()
    for span in re.findall(r"`([^`]+)`", page):
        code |= {span, *re.split(r"[ =]", span)}
    assert not (found | {f"{name}/" for name in CONTEXTS}) - code


def write() -> None:
    for name in CONTEXTS:
        with tempfile.TemporaryDirectory(prefix="servekit-docker-") as made_in:
            made = make(name, Path(made_in))
        shutil.rmtree(DOCKER / name, ignore_errors=True)
        for path, (executable, content) in made.items():
            file = DOCKER / name / path
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_bytes(content)
            file.chmod(0o755 if executable else 0o644)
        print(f"docker/{name}: {len(made)} files")


if __name__ == "__main__":
    os.chdir(ROOT)
    sys.exit(write())
