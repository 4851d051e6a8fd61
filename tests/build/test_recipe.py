"""From a project, platforms and a lock to the files of a build context: a pure function, tested as one."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from builders import own_store, why_not
from projects import PINS, write

from servekit.containers import BootFile, Container, Product
from servekit.contract import Platform
from servekit.errors import ConfigError
from servekit.images import recipe
from servekit.images.context import Copied, Entry
from servekit.images.project import Project
from servekit.launch.platforms import installed
from servekit.signature import Signature, Text

PRODUCT = Product("digits", "1.2.0", Signature({"x": Text()}, {"y": Text()}), summary="Reads a digit.", author="Ada")
PROJECT = Project(Path("/no/such/place"), "predictor.py", PRODUCT, ("numpy",), ())
FILES: Mapping[str, Entry] = {"predictor.py": BootFile(b"code"), "model.onnx": Copied(Path("/no/such/model"), 3)}
OWN = {"servekit-0.1.0-py3-none-any.whl": b"wheel"}
# What docker, buildah and podman all take values in: nothing in it may be lost, or mean anything.
NASTY = [
    "two words",
    "$HOME ${HOME} \\$HOME",
    'it\'s "quoted"',
    "back\\slash\\",
    "ünï 模型 🙂",
    "#no comment",
    "a=b c=d",
    "`id` $(id)",
    "",
]


def made(
    *names: str, project: Project = PROJECT, containers: Mapping[str, Container] | None = None, **changes: Any
) -> dict[str, Entry]:
    if containers is None:
        containers = recipe.demands({name: installed()[name] for name in names}, project.product)
    asked = {
        "base": "python:3.12-slim-bookworm",
        "python": "3.12",
        "lock": PINS,
        "wheels": OWN,
        "files": FILES,
    } | changes
    return recipe.context(project, containers, **asked)


def text(files: Mapping[str, Entry], name: str = "Dockerfile") -> str:
    entry = files[name]
    assert isinstance(entry, BootFile)
    return entry.content.decode()


def instructions(dockerfile: str) -> list[tuple[str, str]]:
    """As a builder reads it: comments gone, lines joined."""
    lines = [line for line in dockerfile.splitlines() if not line.startswith("#")]
    joined = re.sub(r"\\\n", "", "\n".join(lines))
    return [
        (word, rest.strip()) for word, _, rest in (line.partition(" ") for line in joined.splitlines() if line.strip())
    ]


def values(dockerfile: str, instruction: str) -> list[str]:
    return [rest for word, rest in instructions(dockerfile) if word == instruction]


def pairs(dockerfile: str, instruction: str) -> dict[str, str]:
    """The values of ENV and LABEL, by the rules of Docker's reference for double quotes."""
    found = {}
    for rest in values(dockerfile, instruction):
        for name, value in re.findall(r'([A-Za-z_][\w./-]*)="((?:[^"\\]|\\.)*)"', rest):
            found[name] = re.sub(r'\\(["$\\])', r"\1", value)
    return found


# --- the whole ---


def test_the_files_of_a_context() -> None:
    files = made("sagemaker", "modelarts", "modzy")
    assert list(files) == sorted(files)
    assert set(files) == {
        ".dockerignore", "Dockerfile", "requirements.lock", "wheels/servekit-0.1.0-py3-none-any.whl",
        "boot/home/run.sh", "boot/home/mind/run.sh", "boot/home/ma-user/health.sh",
        "project/predictor.py", "project/model.onnx", "project/config.json", "project/model.yaml",
    }  # fmt: skip
    assert files["project/model.onnx"] == FILES["model.onnx"]
    assert text(files, "requirements.lock") == PINS
    for name in ("boot/home/run.sh", "boot/home/mind/run.sh", "boot/home/ma-user/health.sh"):
        entry = files[name]
        assert isinstance(entry, BootFile)
        assert entry.executable


def test_the_same_input_is_the_same_output() -> None:
    one = made("sagemaker", "modelarts", "modzy")
    two = made("modzy", "sagemaker", "modelarts", files=dict(reversed(FILES.items())))
    two["Dockerfile"] = BootFile(
        text(two).replace("modzy, sagemaker, modelarts", "sagemaker, modelarts, modzy").encode()
    )
    assert one == two


def test_nothing_but_what_is_needed_reaches_the_builder() -> None:
    lines = [
        line for line in text(made("sagemaker", wheels={}), ".dockerignore").splitlines() if not line.startswith("#")
    ]
    assert lines == ["*", "!Dockerfile", "!project", "!requirements.lock"]


@pytest.mark.parametrize("names", [("sagemaker",), ("modelarts",), ("modzy",), ("sagemaker", "modelarts", "modzy")])
def test_what_changes_most_comes_last(names: tuple[str, ...]) -> None:
    told = instructions(text(made(*names)))
    words = [word for word, _ in told]
    assert words.count("FROM") == 2
    final = words.index("FROM", 1)
    copies = [(place, rest) for place, (word, rest) in enumerate(told) if word == "COPY"]
    # In the first stage the lock goes before our own wheel; nothing of the project is there.
    assert [rest for place, rest in copies if place < final] == [
        "requirements.lock /build/", "wheels/servekit-0.1.0-py3-none-any.whl /build/own/",
    ]  # fmt: skip
    of_final = [rest for place, rest in copies if place > final]
    assert of_final[0] == "--from=dependencies /opt/servekit /opt/servekit"
    assert of_final[-1] == "project/ /opt/project/"
    assert not any(word in ("RUN", "COPY") for word in words[copies[-1][0] + 1 :])


@pytest.mark.parametrize(
    ("names", "command", "user", "environment"),
    [
        (("sagemaker",), ["serve"], None, {"SERVEKIT_PLATFORM": "sagemaker"}),
        (("modelarts",), ["sh", "/home/run.sh"], "1000:100", {"SERVEKIT_PLATFORM": "modelarts"}),
        (("modzy",), ["servekit", "run"], None, {"SERVEKIT_PLATFORM": "modzy", "PSC_MODEL_PORT": "8080"}),
        (("sagemaker", "modelarts", "modzy"), ["sh", "/home/run.sh"], None, {}),
    ],
)
def test_what_the_image_does(
    names: tuple[str, ...], command: list[str], user: str | None, environment: dict[str, str]
) -> None:
    dockerfile = text(made(*names))
    assert json.loads(values(dockerfile, "CMD")[0]) == command
    assert values(dockerfile, "USER") == ["0", "0"] + ([user] if user else [])
    assert pairs(dockerfile, "ENV") == {
        "PYTHONDONTWRITEBYTECODE": "1", "PYTHONUNBUFFERED": "1", "SERVEKIT_TARGET": "/opt/project/predictor.py", **environment,
    }  # fmt: skip
    assert values(dockerfile, "ENV")[0].startswith("PATH=/opt/servekit/bin:")
    assert (values(dockerfile, "WORKDIR"), values(dockerfile, "EXPOSE")) == (["/"], ["8080"])
    assert values(dockerfile, "ENTRYPOINT") == ["[]"]
    assert values(dockerfile, "STOPSIGNAL") == ["SIGTERM"]
    labels = pairs(dockerfile, "LABEL")
    assert labels.pop("com.amazonaws.sagemaker.capabilities.accept-bind-to-port", None) == (
        "true" if "sagemaker" in names else None
    )
    assert labels == {
        "org.opencontainers.image.title": "digits", "org.opencontainers.image.version": "1.2.0",
        "org.opencontainers.image.description": "Reads a digit.", "org.opencontainers.image.authors": "Ada",
    }  # fmt: skip


def test_the_last_user_stands_behind_the_last_copy() -> None:
    words = [word for word, _ in instructions(text(made("modelarts")))]
    assert words[-2:] == ["COPY", "USER"]


def test_batch_services_get_their_packages() -> None:
    project = replace(PROJECT, product=replace(PRODUCT, batch=True))
    runs = values(text(made("modelarts", project=project)), "RUN")
    assert any("apt-get install -y --no-install-recommends default-jre-headless zip" in run for run in runs)
    assert not any("apt-get" in run for run in values(text(made("modelarts")), "RUN"))


def test_dependencies_come_hashed_from_the_lock() -> None:
    install, own = [run for run in values(text(made("sagemaker")), "RUN") if " install " in run]
    for option in (
        "--require-hashes",
        "--no-deps",
        "-r /build/requirements.lock",
        "--mount=type=secret,id=pip.conf,target=/etc/pip.conf",
    ):
        assert option in install
    assert own.endswith("--no-index /build/own/servekit-0.1.0-py3-none-any.whl")
    assert "--no-deps" in own


def test_offline_nobody_is_asked() -> None:
    wheels = OWN | {"numpy-2.0.0-cp312-cp312-manylinux_2_28_x86_64.whl": b"numpy"}
    files = made("sagemaker", wheels=wheels)
    assert {name for name in files if name.startswith("wheels/")} == {f"wheels/{name}" for name in wheels}
    installs = [run for run in values(text(files), "RUN") if " install " in run]
    assert len(installs) == 2
    assert all("--no-index" in run and "--mount" not in run for run in installs)
    assert "--find-links /build/wheels" in installs[0]
    assert "--require-hashes" in installs[0]


def test_a_servekit_of_the_index_is_a_package_of_the_lock() -> None:
    lock = PINS + f"servekit==0.1.0 --hash=sha256:{'1' * 64}\n"
    assert len([run for run in values(text(made("sagemaker", lock=lock, wheels={})), "RUN") if " install " in run]) == 1
    [install] = [run for run in values(text(made("sagemaker", lock=lock, wheels=OWN)), "RUN") if " install " in run]
    assert "--find-links" in install


HERE = f"{sys.version_info.major}.{sys.version_info.minor}"


@pytest.mark.parametrize(
    ("program", "python", "says"),
    [
        ("", HERE, f"has no python3: expected Python {HERE} with pip, as in python:{HERE}-slim-bookworm"),
        ('exec {python} "$@"', "3.99", f"has Python {HERE}: expected 3.99, or --python {HERE}"),
        ('[ "$2" = pip ] && exit 1; exec {python} "$@"', HERE, f"has no pip: expected Python {HERE} with pip"),
        ('exec {python} "$@"', HERE, ""),
    ],
)
def test_what_is_wrong_with_a_base_is_said(tmp_path: Path, program: str, python: str, says: str) -> None:
    """The command itself, in a shell that has what the base would have."""
    if program:
        (tmp_path / "python3").write_text(f"#!/bin/sh\n{program.replace('{python}', sys.executable)}\n")
        (tmp_path / "python3").chmod(0o755)
    command = values(text(made("modzy", base="acme/base:1", python=python)), "RUN")[0]
    ran = subprocess.run(
        ["/bin/sh", "-c", command.replace("/opt/servekit", str(tmp_path / "made"))],
        env={"PATH": str(tmp_path)}, capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip
    if says:
        assert ran.returncode == 1
        [line] = [line for line in ran.stderr.splitlines() if line.startswith("servekit: ")]
        assert line.startswith(f"servekit: the base image acme/base:1 {says}")
    else:
        assert (ran.returncode, ran.stderr) == (0, "")
    assert (tmp_path / "made" / "bin" / "python3").exists() == (not says)


def test_the_tests_of_known_packages_go(tmp_path: Path) -> None:
    packages = tmp_path / "lib" / "python3.12" / "site-packages"
    write(
        packages,
        {
            "numpy/__init__.py": "",
            "numpy/tests/test_a.py": "",
            "numpy/b/tests/tests/x.py": "",
            "numpy/testing/x.py": "",
            "tests.py": "",
            # As astropy has it, which runs no more without them.
            "other/__init__.py": "from .tests.runner import run",
            "other/tests/runner.py": "",
        },
    )
    install = next(run for run in values(text(made("modzy")), "RUN") if "--require-hashes" in run)
    command = install.partition(" && ")[2]
    assert command.startswith("python3 -c")
    subprocess.run(["/bin/sh", "-c", command.replace("/opt/servekit", str(tmp_path))], check=True, timeout=60)
    found = {path.relative_to(packages).as_posix() for path in packages.rglob("*") if path.is_file()}
    assert found == {
        "numpy/__init__.py", "numpy/testing/x.py", "tests.py", "other/__init__.py", "other/tests/runner.py",
    }  # fmt: skip


@pytest.mark.parametrize(
    ("first", "code", "left"), [("false || true", 0, "b"), ("true && false", 1, ""), ("cd /none && true", 2, "")]
)
def test_the_first_command_of_a_platform_that_fails_ends_the_build(
    tmp_path: Path, first: str, code: int, left: str
) -> None:
    container = Container(command=("serve",), setup=(first, f"printf b >{tmp_path}/b"))
    command = values(text(made(containers={"own": container})), "RUN")[-1]
    assert (subprocess.run(["/bin/sh", "-c", command], timeout=60, check=False).returncode != 0) == (code != 0)
    assert (tmp_path / "b").exists() == bool(left)


# --- targets ---


@pytest.mark.parametrize(
    ("changes", "target", "more"),
    [
        ({"target": "a/b.py:C", "directory": "a"}, "/opt/project/a/b.py:C", {}),
        ({"target": "."}, "/opt/project", {}),
        ({"target": ".:C"}, "/opt/project:C", {}),
        ({"target": "pack.mod:C", "import_from": "", "directory": ""}, "pack.mod:C", {}),
        (
            {"target": "pack.mod:C", "import_from": "src", "directory": ""},
            "pack.mod:C",
            {"PYTHONPATH": "/opt/project/src"},
        ),
    ],
)
def test_where_the_target_is(changes: dict[str, Any], target: str, more: dict[str, str]) -> None:
    environment = pairs(text(made("sagemaker", project=replace(PROJECT, **changes))), "ENV")
    found = {name: value for name, value in environment.items() if name in ("SERVEKIT_TARGET", "PYTHONPATH")}
    assert found == {"SERVEKIT_TARGET": target, **more}


def test_a_module_is_imported_from_its_folder() -> None:
    project = replace(PROJECT, target="pack.mod:C", import_from="sub", directory="sub dir")
    dockerfile = text(made("sagemaker", project=project))
    assert values(dockerfile, "WORKDIR") == ['"/opt/project/sub dir"']


@pytest.mark.parametrize("directory", ["", "models/a"])
def test_manifests_lie_beside_the_target_unless_the_project_has_its_own(directory: str) -> None:
    project = replace(PROJECT, directory=directory)
    name = f"{directory}/config.json".lstrip("/")
    files = made("modelarts", project=project)
    assert json.loads(text(files, f"project/{name}"))["apis"]
    own = made("modelarts", project=project, files={**FILES, name: BootFile(b"own")})
    assert text(own, f"project/{name}") == "own"


# --- values ---


@pytest.mark.parametrize("nasty", NASTY)
def test_values_come_through_unchanged(nasty: str) -> None:
    product = replace(PRODUCT, summary=nasty, author=nasty)
    project = replace(PROJECT, product=product, target=f"{nasty}.py")
    dockerfile = text(
        made(
            project=project,
            containers={"own": Container(command=("serve", nasty), environment={"X": nasty}, labels={"l": nasty})},
        )
    )
    assert pairs(dockerfile, "ENV")["X"] == nasty
    assert pairs(dockerfile, "ENV")["SERVEKIT_TARGET"] == f"/opt/project/{nasty}.py"
    labels = pairs(dockerfile, "LABEL")
    assert labels["l"] == nasty
    assert labels.get("org.opencontainers.image.description", "") == nasty
    assert json.loads(values(dockerfile, "CMD")[0]) == ["serve", nasty]


@pytest.mark.parametrize("nasty", ["a\nRUN id", "a\r\nb", "a\x00b", "a\tb", "a\x1b[31mb", "a\u2028b"])
def test_a_line_end_in_a_description_begins_no_instruction(nasty: str) -> None:
    dockerfile = text(made("sagemaker", project=replace(PROJECT, product=replace(PRODUCT, summary=nasty))))
    assert [word for word, _ in instructions(dockerfile)] == [word for word, _ in instructions(text(made("sagemaker")))]
    assert pairs(dockerfile, "LABEL")["org.opencontainers.image.description"].startswith("a ")
    with pytest.raises(ConfigError, match="the variable X: expected one line"):
        made(containers={"own": Container(command=("serve",), environment={"X": nasty})})


@pytest.mark.skipif(why_not("buildah") is not None, reason=str(why_not("buildah")))
def test_a_builder_reads_the_values_as_they_were_meant(tmp_path: Path) -> None:
    labels = {f"label.{number}": value for number, value in enumerate(NASTY)}
    environment = {f"V{number}": value for number, value in enumerate(NASTY)}
    project = replace(PROJECT, target='my "model"/$HOME\'s.py', product=replace(PRODUCT, summary="a\\\nb \\"))
    dockerfile = text(
        made(
            project=project,
            containers={"own": Container(command=("serve", *NASTY), environment=environment, labels=labels)},
        )
    )
    # Only what needs no base image: from its labels on, without what is copied.
    kept = "\n".join(
        line for line in dockerfile[dockerfile.index("LABEL") :].splitlines() if not line.startswith("COPY")
    )
    (tmp_path / "Dockerfile").write_text(f"FROM scratch\nENV HOME=/root\n{kept}\n")
    store = {**own_store(tmp_path), "PATH": "/usr/sbin:/usr/bin:/sbin:/bin"}
    (tmp_path / "context").mkdir()

    def buildah(*arguments: str) -> str:
        ran = subprocess.run(
            ["buildah", *arguments], env=store, capture_output=True, text=True, timeout=100, check=False
        )
        assert ran.returncode == 0, ran.stderr
        return ran.stdout

    buildah("build", "--format", "docker", "-t", "nasty", "-f", str(tmp_path / "Dockerfile"), str(tmp_path / "context"))
    config = json.loads(buildah("inspect", "--type", "image", "nasty"))["Docker"]["config"]
    found = dict(line.split("=", 1) for line in config["Env"])
    assert {name: found[name] for name in environment} == environment
    assert found["SERVEKIT_TARGET"] == '/opt/project/my "model"/$HOME\'s.py'
    assert found["PATH"] == f"/opt/servekit/bin:{recipe.DEFAULT_PATH}"
    assert {name: config["Labels"][name] for name in labels} == labels
    assert config["Labels"]["org.opencontainers.image.description"] == "a\\ b \\"
    assert config["Cmd"] == ["serve", *NASTY]
    assert not config.get("Entrypoint")
    assert config["WorkingDir"] == "/"
    assert config["ExposedPorts"] == {"8080/tcp": {}}


# --- what cannot be said ---


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"base": "python 3.12"}, "--base: an image such as"),
        ({"base": "--platform=x"}, "--base: an image such as"),
        ({"base": "python:3\nRUN id"}, "--base: an image such as"),
        ({"base": "$BASE"}, "--base: an image such as"),
        ({"base": ""}, "--base: an image such as"),
        ({"base": "scratch"}, "--base scratch: expected an image with Python"),
        ({"python": "3"}, "--python: a version such as 3.12"),
        ({"python": "2.7"}, "--python: a version such as 3.12"),
        ({"python": "3.12.1"}, "--python: a version such as 3.12"),
        ({"python": "3.10"}, "--python 3.10: expected 3.11 or newer"),
        ({"wheels": {"../x.whl": b""}}, "wheel: expected"),
        ({"lock": "--index-url https://example.com\n"}, "requirements.lock: expected name==version and hashes, got"),
    ],
)
def test_options_that_are_refused(changes: dict[str, Any], says: str) -> None:
    with pytest.raises(ConfigError, match=f"^{re.escape(says)}"):
        made("sagemaker", **changes)


@pytest.mark.parametrize(
    "changes",
    [
        {"environment": {"A B": "x"}},
        {"environment": {"SERVEKIT_TARGET": "x"}},
        {"labels": {"a b": "x"}},
        {"files": {"home/run.sh": BootFile(b"")}},
        {"files": {"/home/../etc/passwd": BootFile(b"")}},
        {"files": {"/home/two words": BootFile(b"")}},
        {"manifests": {"../config.json": b""}},
        {"packages": ("zip; id",)},
        {"user": "root"},
        {"ports": (0,)},
        {"setup": ("a\nb",)},
        {"setup": ("cat <<END",)},
        {"setup": ("true \\",)},
    ],
)
def test_a_platform_that_demands_what_cannot_be_said_is_refused(changes: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match="expected"):
        made(containers={"own": Container(**({"command": ("serve",)} | changes))})


# --- several platforms ---

A = Container(
    command=("serve",), environment={"A": "1"}, labels={"l": "1"}, files={"/f": BootFile(b"1")}, manifests={"m": b"1"}
)


@pytest.mark.parametrize(
    ("other", "says"),
    [
        ({"environment": {"A": "2"}}, "the variable A is one thing for a and another for b"),
        ({"labels": {"l": "2"}}, "the label l is one thing for a and another for b"),
        ({"files": {"/f": BootFile(b"2")}}, "the file /f is one thing for a and another for b"),
        ({"files": {"/f": BootFile(b"1", executable=True)}}, "the file /f is one thing for a and another for b"),
        ({"manifests": {"m": b"2"}}, "the manifest m is one thing for a and another for b"),
        ({"command": ("run",)}, "one image cannot have several commands (a 'serve', b 'run')"),
    ],
)
def test_contradictions_are_refused(other: dict[str, Any], says: str) -> None:
    with pytest.raises(ConfigError, match=re.escape(says)):
        recipe.merged({"a": A, "b": Container(**({"command": ("serve",)} | other))})


def test_platforms_are_put_together() -> None:
    boot = Container(
        command=("sh", "/run.sh"), files={"/run.sh": BootFile(b"")}, user="1000:100", packages=("zip",), ports=(8080, 9), setup=("x", "y")
    )  # fmt: skip
    found = recipe.merged({"a": replace(A, setup=("y",), packages=("jre",)), "b": boot})
    assert (found.command, found.user, found.packages, found.ports, found.setup) == (
        ("sh", "/run.sh"), "", ("jre", "zip"), (9, 8080), ("y", "x"),
    )  # fmt: skip
    assert set(found.files) == {"/f", "/run.sh"}
    assert recipe.merged({"b": boot}).user == "1000:100"


def test_a_platform_without_a_container_is_refused() -> None:
    plain = replace(installed()["modzy"], container=None)
    with pytest.raises(ConfigError, match="--platform plain: it says nothing of images"):
        recipe.demands({"plain": plain}, PRODUCT)


def test_a_strangers_platform_is_one_like_ours() -> None:
    own = Container(command=("serve",), environment={"ACME_PORT": "80"}, ports=(80,))
    stranger: Platform = replace(installed()["modzy"], name="acme", detect=("ACME_*",), container=lambda _product: own)
    alone = recipe.demands({"acme": stranger}, PRODUCT)
    assert alone["acme"].environment == {"SERVEKIT_PLATFORM": "acme", "ACME_PORT": "80"}
    both = recipe.demands({"acme": stranger, "sagemaker": installed()["sagemaker"]}, PRODUCT)
    assert both["acme"].environment == {}
    assert values(text(made(containers=alone)), "EXPOSE") == ["80"]
