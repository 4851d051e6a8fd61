"""Real builders on images made from nothing, in a store of their own; and what builders say, as it was recorded."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import tarfile
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import builders
import pytest
from builders import Image, inspect

from servekit.errors import ConfigError
from servekit.images import builder
from servekit.images.builder import Builder, BuildFailed, NoBuilder, find

DOCKERFILE = """\
RUN echo one > /one
FROM first
ENV GREETING="hello there"
LABEL com.example.yes=true com.example.text="a b"
EXPOSE 8080 9000/tcp
USER 1000:100
COPY late /late
CMD ["/bin/sh", "-c", "true"]
"""


@pytest.fixture(params=["docker", "buildah", "podman"])
def tool(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Builder]:
    if (reason := builders.why_not(request.param)) is not None:
        pytest.skip(reason)
    (tmp_path / "store").mkdir()
    for name, value in builders.own_store(tmp_path / "store").items():
        monkeypatch.setenv(name, value)
    # Where logs of failed builds go.
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    try:
        found = find(request.param)
    except NoBuilder as error:
        pytest.skip(error.message)
    yield found
    if found.name == "docker":  # whose store is not ours alone
        subprocess.run(
            [found.program, "image", "rm", "--force", "made:1"], capture_output=True, timeout=60, check=False
        )


@pytest.fixture
def context(tmp_path: Path) -> Path:
    (tmp_path / "context").mkdir()
    return builders.context(tmp_path / "context", DOCKERFILE, {"late": "1\n"})


def built(
    tool: Builder, context: Path, *arguments: str, tag: str = "made:1", **more: Any
) -> list[tuple[int, int, str]]:
    steps: list[tuple[int, int, str]] = []
    options = {"arch": host_arch(), "pip_config": None} | more
    # Its commands would go to a network that a daemon may not have.
    first = ("--network=none",) if tool.name == "docker" else ()
    tool.build(context, tag=tag, arguments=(*first, *arguments), step=lambda *step: steps.append(step), **options)
    return steps


def host_arch() -> str:
    return {"x86_64": "amd64", "aarch64": "arm64"}[os.uname().machine]


def failed(tool: Builder, context: Path, dockerfile: str, *arguments: str) -> BuildFailed:
    builders.context(context, dockerfile)
    with pytest.raises(BuildFailed) as caught:
        built(tool, context, *arguments)
    assert "\n" not in caught.value.message
    return caught.value


# --- building ---


def test_an_image_with_what_the_dockerfile_says(tool: Builder, context: Path) -> None:
    steps = built(tool, context)
    assert [done for done, _, _ in steps] == list(range(len(steps)))
    # docker counts what makes files, the others every line.
    assert {total for _, total, _ in steps} == {len(steps) - 1} == {3 if tool.name == "docker" else 10}
    assert [text for _, _, text in steps if text.startswith("RUN")] == ["RUN echo one > /one"]
    assert steps[-1][2] == ""
    image = inspect(tool, "made:1")
    assert image == Image(
        user="1000:100",
        command=("/bin/sh", "-c", "true"),
        entrypoint=(),
        environment=image.environment,
        labels=image.labels,
        ports=(8080, 9000),
        architecture=host_arch(),
        layers=image.layers,
        size_bytes=image.size_bytes,
    )
    assert image.environment["GREETING"] == "hello there"
    assert image.labels.items() >= {"com.example.yes": "true", "com.example.text": "a b"}.items()
    files = sum(path.stat().st_size for path in (context / "root").rglob("*") if path.is_file())
    assert files <= image.size_bytes <= 1.1 * files + 100_000


@pytest.mark.slow
def test_a_change_at_the_end_leaves_the_layers_before_it(tool: Builder, context: Path) -> None:
    built(tool, context)
    before = inspect(tool, "made:1").layers
    (context / "late").write_text("2\n")
    built(tool, context)
    after = inspect(tool, "made:1").layers
    # `RUN echo` would have made another layer, with another time in it.
    assert len(before) == len(after) >= 3
    assert before[:-1] == after[:-1]
    assert before[-1] != after[-1]


def test_saved_as_dockers_archive_in_dockers_format(tool: Builder, context: Path, tmp_path: Path) -> None:
    built(tool, context)
    folder = tmp_path / "a b:c"  # a path that programs split
    folder.mkdir()
    file = folder / "made.tar"
    file.write_text("an older one")
    tool.save("made:1", file)
    with tarfile.open(file) as archive:
        [entry] = json.load(archive.extractfile("manifest.json"))  # type: ignore[arg-type]
        config = json.load(archive.extractfile(entry["Config"]))  # type: ignore[arg-type]
    assert "made:1" in {name.removeprefix("docker.io/library/") for name in entry["RepoTags"]}
    assert {name.rpartition("/")[2] for name in entry["RepoTags"]} == {"made:1"}
    assert config["rootfs"]["diff_ids"] == list(inspect(tool, "made:1").layers)
    assert config["config"]["User"] == "1000:100"
    assert [path.name for path in folder.iterdir()] == ["made.tar"]
    assert file.stat().st_mode & 0o777 == 0o644
    if tool.name == "docker":
        return
    said = subprocess.run(
        ["buildah", "inspect", "--type", "image", "--format", "{{.Manifest}}", "made:1"],
        capture_output=True, text=True, timeout=60, check=True,
    )  # fmt: skip
    assert json.loads(said.stdout)["mediaType"] == "application/vnd.docker.distribution.manifest.v2+json"


def test_what_cannot_be_saved_leaves_the_file_as_it_was(tool: Builder, tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    file = tmp_path / "out" / "made.tar"
    file.write_text("an older one")
    with pytest.raises(ConfigError, match=rf"^--save '.*made\.tar': {tool.name} cannot save nosuch:1: .+"):
        tool.save("nosuch:1", file)
    assert file.read_text() == "an older one"
    assert [path.name for path in file.parent.iterdir()] == ["made.tar"]
    with pytest.raises(ConfigError, match=r"^--save '.*': No such file or directory"):
        tool.save("nosuch:1", tmp_path / "none" / "made.tar")


def test_another_architecture(tool: Builder, tmp_path: Path) -> None:
    other = "arm64" if host_arch() == "amd64" else "amd64"
    (tmp_path / "context").mkdir()
    builders.context(tmp_path / "context", 'CMD ["/bin/sh"]\n')
    built(tool, tmp_path / "context", arch=other)
    assert inspect(tool, "made:1").architecture == other


def test_a_secret_reaches_a_command_and_no_layer(tool: Builder, tmp_path: Path) -> None:
    context = tmp_path / "context"
    context.mkdir()
    mount = "--mount=type=secret,id=pip.conf,target=/etc/pip.conf"
    builders.context(context, f"RUN {mount} read line < /etc/pip.conf && echo ${{#line}} > /length\n")
    secret = tmp_path / "a pip.conf"
    secret.write_text("hunter2secret\n")
    built(tool, context, pip_config=secret)
    tool.save("made:1", tmp_path / "made.tar")
    found = {}
    with tarfile.open(tmp_path / "made.tar") as archive:
        for member in archive:
            if member.isfile():
                content = archive.extractfile(member).read()  # type: ignore[union-attr]
                assert b"hunter2secret" not in content
                if member.name.endswith(".tar"):
                    with tarfile.open(fileobj=archive.extractfile(member)) as layer:
                        found |= {file.name: layer.extractfile(file).read() for file in layer if file.name == "length"}  # type: ignore[union-attr]
    assert found == {"length": b"13\n"}
    with pytest.raises(ConfigError, match=r"^--pip-config '.*none': no such file"):
        built(tool, context, pip_config=tmp_path / "none")


def test_arguments_of_the_builder(tool: Builder, tmp_path: Path) -> None:
    (tmp_path / "context").mkdir()
    builders.context(tmp_path / "context", "ARG WHO=nobody\nENV WHO=$WHO\n")
    built(tool, tmp_path / "context", "--build-arg", "WHO=me you", "--label", "more=yes")
    image = inspect(tool, "made:1")
    assert image.environment["WHO"] == "me you"
    assert image.labels["more"] == "yes"
    error = failed(tool, tmp_path / "context", "", "--no-such-option")
    assert "no-such-option" in error.message


# --- failing ---


def test_the_line_of_our_own_is_the_cause(tool: Builder, tmp_path: Path) -> None:
    (tmp_path / "context").mkdir()
    error = failed(
        tool,
        tmp_path / "context",
        "RUN echo 'servekit: an older step said this'\n"
        "RUN echo 'ERROR: not this'; echo 'servekit: the base has Python 3.9' >&2; echo not this either; exit 3\n",
    )
    assert error.log is not None
    assert error.message == (
        f"{tool.name} could not build made:1: the base has Python 3.9 (the whole log is {error.log})"
    )
    text = error.log.read_text()
    assert "servekit: an older step said this" in text
    assert "servekit: the base has Python 3.9" in text
    assert half_made(tool) == []
    assert error.log.stat().st_mode & 0o777 == 0o600


def test_pips_words_are_the_cause(tool: Builder, tmp_path: Path) -> None:
    (tmp_path / "context").mkdir()
    first = "Could not find a version that satisfies the requirement nowhere (from versions: none)"
    second = "No matching distribution found for nowhere"
    error = failed(tool, tmp_path / "context", f"RUN echo 'ERROR: {first}'; echo 'ERROR: {second}'; echo bye; exit 1\n")
    assert f"could not build made:1: {first}; {second} (the whole log" in error.message


def test_a_commands_last_words_are_the_cause(tool: Builder, tmp_path: Path) -> None:
    (tmp_path / "context").mkdir()
    error = failed(
        tool, tmp_path / "context", "RUN echo before; echo 'E: Unable to locate package jre' >&2; exit 100\n"
    )
    assert "could not build made:1: E: Unable to locate package jre (" in error.message
    assert re.search(r"exit (status|code:) 100", error.message)


@pytest.mark.parametrize(
    ("dockerfile", "says"),
    [
        ("FROM nosuch.invalid/base:1\n", r"nosuch\.invalid"),
        ("COPY nothing /\n", r"nothing"),
        ("NONSENSE\n", r"(?:NONSENSE|nonsense)"),
    ],
)
def test_the_builders_own_words_are_the_cause(tool: Builder, tmp_path: Path, dockerfile: str, says: str) -> None:
    (tmp_path / "context").mkdir()
    error = failed(tool, tmp_path / "context", dockerfile)
    assert re.search(rf"could not build made:1: .*{says}", error.message)


@pytest.mark.parametrize(
    ("number", "expected"), [(signal.SIGINT, -signal.SIGINT), (signal.SIGTERM, 128 + signal.SIGTERM)]
)
def test_a_signal_ends_the_builder_and_all_it_started(
    tool: Builder, tmp_path: Path, number: signal.Signals, expected: int
) -> None:
    (tmp_path / "context").mkdir()
    seconds = f"9{os.getpid()}"  # by which the process is known
    builders.context(tmp_path / "context", f"RUN sleep {seconds}\n")
    code = (
        "import sys; from pathlib import Path; from servekit.images.builder import find\n"
        "find(sys.argv[1]).build(Path(sys.argv[2]), tag='made:1', arch=sys.argv[3], pip_config=None, arguments=sys.argv[4:],\n"
        "                        step=lambda *step: None)\n"
    )
    process = subprocess.Popen(
        [
            *(sys.executable, "-c", code, tool.name, tmp_path / "context", host_arch()),
            *(["--network=none"] if tool.name == "docker" else []),
        ],
        stderr=subprocess.DEVNULL,
    )
    try:
        wait_for(lambda: running(["sleep", seconds]), "the command in the image never ran")
        process.send_signal(number)
        assert process.wait(30) == expected
        wait_for(lambda: not running(["sleep", seconds]), "the command in the image goes on", 20)
        wait_for(lambda: not running([str(tmp_path / "context")]), "the builder goes on", 20)
        assert half_made(tool) == []
    finally:
        process.kill()
        process.wait()


def test_a_builder_that_somebody_else_ends_has_not_built(tool: Builder, tmp_path: Path) -> None:
    (tmp_path / "context").mkdir()
    seconds = f"8{os.getpid()}"

    def end() -> None:
        wait_for(lambda: running(["sleep", seconds]), "the command in the image never ran")
        [pid, *_] = running([str(tmp_path / "context")])
        os.kill(pid, signal.SIGTERM)

    thread = threading.Thread(target=end)
    thread.start()
    try:
        error = failed(tool, tmp_path / "context", f"RUN sleep {seconds}\n")
    finally:
        thread.join()
        for pid in running(["sleep", seconds]):
            os.kill(pid, signal.SIGKILL)
    assert error.message.startswith(f"{tool.name} could not build made:1: ")


def half_made(tool: Builder) -> list[str]:
    """Containers of builds that did not end."""
    if tool.name == "docker":
        return []
    listing = ["containers", "-q"] if tool.name == "buildah" else ["ps", "-a", "--external", "-q"]
    said = subprocess.run([tool.program, *listing], capture_output=True, text=True, timeout=60, check=True)
    return said.stdout.split()


def wait_for(happens: Callable[[], object], otherwise: str, seconds: float = 60) -> None:
    deadline = time.monotonic() + seconds
    while not happens():
        assert time.monotonic() < deadline, otherwise
        time.sleep(0.05)


def running(words: list[str]) -> list[int]:
    """The processes with these words at the end of their command line."""
    found = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            said = path.read_bytes().decode(errors="replace").split("\0")[:-1]
        except OSError:
            continue
        if said[-len(words) :] == words and said[0] != sys.executable:
            found.append(int(path.parent.name))
    return found


# --- finding one ---


@pytest.fixture
def only(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """A PATH that has these builders, and nothing but what they themselves need."""

    def make(*names: str) -> None:
        folder = tmp_path / "path"
        folder.mkdir()
        for name in names:
            if (reason := builders.why_not(name)) is not None:
                pytest.skip(reason)
            (folder / name).symlink_to(str(shutil.which(name)))
        monkeypatch.setenv("PATH", str(folder))
        (tmp_path / "store").mkdir()
        for name, value in builders.own_store(tmp_path / "store").items():
            monkeypatch.setenv(name, value)
        monkeypatch.setenv("DOCKER_HOST", "unix:///nonexistent/docker.sock")

    return make


def test_the_first_that_works(only: Callable[..., None]) -> None:
    only("buildah", "podman")
    found = find()
    assert (found.name, found.buildx) == ("buildah", False)
    assert re.fullmatch(r"\d+(\.\d+)+", found.version)


def test_a_docker_without_its_daemon_does_not_count(only: Callable[..., None]) -> None:
    only("docker", "podman")
    assert find().name == "podman"
    with pytest.raises(NoBuilder, match=r"^--builder docker: .*(daemon|docker\.sock)"):
        find("docker")


def test_none_says_what_was_tried(only: Callable[..., None]) -> None:
    only("docker")
    with pytest.raises(NoBuilder) as caught:
        find()
    assert re.fullmatch(
        r"nothing here builds images \(docker: .*(daemon|docker\.sock).*; buildah: no such program; "
        r"podman: no such program\): install docker, buildah or podman, or build the context elsewhere",
        caught.value.message,
    )
    with pytest.raises(NoBuilder, match=r"^--builder podman: no such program$"):
        find("podman")


def test_one_whose_storage_does_not_work_says_why(only: Callable[..., None], monkeypatch: pytest.MonkeyPatch) -> None:
    only("buildah")
    monkeypatch.setenv("STORAGE_DRIVER", "nosuchdriver")
    with pytest.raises(NoBuilder, match=r"^--builder buildah: .*nosuchdriver"):
        find("buildah")


def test_a_name_that_is_none() -> None:
    with pytest.raises(NoBuilder, match=r"^--builder 'kaniko': expected one of docker, buildah, podman"):
        find("kaniko")


@pytest.mark.parametrize(
    "tag", ["digits", "digits:1.0", "a/b/c:latest", "registry.example.com:5000/team/digits:V1_x", "a__b--c.d:0"]
)
def test_tags(tag: str) -> None:
    builder.check_tag(tag)


def test_long_lines_take_no_time(tmp_path: Path) -> None:
    """As those with data in base64 are: nothing in them may be looked for again from each letter."""
    program = tmp_path / "buildah"
    program.write_text("#!/bin/sh\nhead -c 2000000 /dev/zero | tr '\\0' a\nexit 1\n")
    program.chmod(0o755)
    started_s = time.monotonic()
    with pytest.raises(BuildFailed, match="aaa"):
        Builder("buildah", str(program)).build(
            tmp_path, tag="m", arch="amd64", pip_config=None, arguments=(), step=lambda *_: None
        )
    assert time.monotonic() - started_s < 20


@pytest.mark.parametrize(
    "tag", ["", "Digits", "-t", "--help", "a b", "a:", ":a", "a:b:c", "a/", "/a", "a\n", "a@sha256:0", "a" * 300, "ä"]
)
def test_what_is_no_tag(tag: str) -> None:
    with pytest.raises(ConfigError, match=r"^--tag .*: expected an image name in lower case"):
        builder.check_tag(tag)


# --- docker's command line ---


@pytest.mark.parametrize("buildx", [True, False])
def test_docker_is_asked_for_one_manifest_in_its_own_format(tmp_path: Path, buildx: bool) -> None:
    docker = Builder("docker", "/usr/bin/docker", buildx=buildx)
    command = docker._command(tmp_path, "made:1", "arm64", tmp_path / "pip.conf", ["--pull"])
    tail = ["--platform", "linux/arm64", "--tag", "made:1", "--secret", f"id=pip.conf,src={tmp_path}/pip.conf"]
    assert command[-len(tail) - 2 :] == [*tail, "--pull", str(tmp_path)]
    options = {"--provenance=false", "--sbom=false", "type=docker,oci-mediatypes=false"}
    assert options <= set(command) if buildx else not options & set(command)
    assert "--progress=plain" in command
    assert docker._environ().get("DOCKER_BUILDKIT") == (None if buildx else "1")


# --- what builders say ---

# In the form of docker's plain progress: vertices by number, which interleave; output with the seconds since the
# vertex began; the failed one's output again at the end, with the place in the Dockerfile. After the samples in
# docker/buildx, issues 1619 and 1714 and pull request 3756.
DOCKER = """\
#0 building with "default" instance using docker driver

#1 [internal] load build definition from Dockerfile
#1 transferring dockerfile: 1.20kB done
#1 DONE 0.0s

#2 [internal] load metadata for docker.io/library/python:3.11-slim-bookworm
#2 DONE 1.2s

#3 [internal] load .dockerignore
#3 DONE 0.0s

#4 [dependencies 1/3] FROM docker.io/library/python:3.11-slim-bookworm@sha256:0123456789abcdef
#4 resolve docker.io/library/python:3.11-slim-bookworm@sha256:0123456789abcdef 0.0s done
#4 sha256:0123456789abcdef 5.81kB / 5.81kB 0.3s done
#4 extracting sha256:0123456789abcdef 2.6s done
#4 DONE 4.1s

#5 [internal] load build context
#5 transferring context: 120.15kB 0.1s done
#5 DONE 0.2s

#6 [dependencies 2/3] RUN python3 -c "import sys"
#6 CACHED

#7 [final 2/4] WORKDIR /opt/project
#7 DONE 0.1s

#8 [dependencies 3/3] RUN pip install --require-hashes -r requirements.lock
#8 0.412 Looking in indexes: https://user:hunter2secret@pypi.internal/simple
"""
DOCKER_FAILS = (
    DOCKER
    + """\
#8 0.831 ERROR: Could not find a version that satisfies the requirement badpkg==99.0 (from versions: none)
#8 0.832 ERROR: No matching distribution found for badpkg==99.0
#8 0.990 [notice] A new release of pip is available
#8 ERROR: process "/bin/sh -c pip install --require-hashes -r requirements.lock" did not complete successfully: exit code: 1

#9 [final 3/4] COPY boot /
#9 CANCELED
------
 > [dependencies 3/3] RUN pip install --require-hashes -r requirements.lock:
0.831 ERROR: Could not find a version that satisfies the requirement badpkg==99.0 (from versions: none)
0.832 ERROR: No matching distribution found for badpkg==99.0
------
Dockerfile:4
--------------------
   2 |     FROM python:3.11-slim-bookworm AS dependencies
   3 |     RUN python3 -c "import sys"
   4 | >>> RUN pip install --require-hashes -r requirements.lock
   5 |
--------------------
ERROR: failed to build: failed to solve: process "/bin/sh -c pip install --require-hashes -r requirements.lock" did not complete successfully: exit code: 1

View build details: docker-desktop://dashboard/build/desktop-linux/desktop-linux/0123456789
"""
)
DOCKER_NO_BASE = """\
#1 [internal] load build definition from Dockerfile
#1 DONE 0.0s

#2 [internal] load metadata for docker.io/library/nosuch:1
#2 ERROR: docker.io/library/nosuch:1: not found
------
 > [internal] load metadata for docker.io/library/nosuch:1:
------
Dockerfile:1
--------------------
   1 | >>> FROM nosuch:1
--------------------
ERROR: failed to solve: nosuch:1: failed to resolve source metadata for docker.io/library/nosuch:1: not found
"""


# Recorded with docker 20.10.24 and the BuildKit within it, which is used without buildx; the digests are shortened.
DOCKER_20_FAILS = """\
#3 [internal] load build context
#3 sha256:e838b6781363
#3 transferring context: 2.31MB 0.0s done
#3 DONE 0.0s

#4 [1/2] COPY root /
#4 sha256:44feb4cd6200
#4 CACHED

#5 [2/2] RUN echo hello; echo 'servekit: bad' >&2; echo bye; exit 3
#5 sha256:7adfd0133d1c
#5 0.043 hello
#5 0.044 servekit: bad
#5 0.044 bye
#5 ERROR: executor failed running [/bin/sh -c echo hello; echo 'servekit: bad' >&2; echo bye; exit 3]: exit code: 3
------
 > [2/2] RUN echo hello; echo 'servekit: bad' >&2; echo bye; exit 3:
------
executor failed running [/bin/sh -c echo hello; echo 'servekit: bad' >&2; echo bye; exit 3]: exit code: 3
"""
DOCKER_20_NONSENSE = """\
#2 [internal] load .dockerignore
#2 sha256:2e1dc4deb55d
#2 transferring context: 2B done
#2 DONE 0.0s
failed to solve with frontend dockerfile.v0: failed to create LLB definition: dockerfile parse error line 3: unknown instruction: NONSENSE
"""
# Recorded with podman 4.3.1.
PODMAN_NO_BASE = """\
[2/2] STEP 1/1: FROM nosuch.invalid/base:1
Trying to pull nosuch.invalid/base:1...
Error: creating build container: initializing source docker://nosuch.invalid/base:1: pinging container registry nosuch.invalid: Get "https://nosuch.invalid/v2/": dial tcp: lookup nosuch.invalid on 192.0.2.53:53: no such host
"""
# Recorded with buildah 1.28.2 and BUILDAH_ISOLATION=chroot.
BUILDAH_FAILS = """\
STEP 1/3: FROM scratch AS first
STEP 2/3: COPY root /
--> d80edd72bfe
STEP 3/3: RUN echo before; echo 'E: Unable to locate package jre' >&2; exit 100
E: Unable to locate package jre
before
subprocess exited with status 100
subprocess exited with status 100
Error: building at STEP "RUN echo before; echo 'E: Unable to locate package jre' >&2; exit 100": exit status 100
"""


def read(name: str, text: str, instructions: int = 0) -> tuple[Any, list[tuple[int, int, str]]]:
    steps: list[tuple[int, int, str]] = []
    output = builder._Output(name, instructions, lambda *step: steps.append(step))
    for line in text.splitlines():
        output.take(line)
    return output, steps


def test_dockers_steps() -> None:
    output, steps = read("docker", DOCKER + "#9 [final 4/4] COPY project /opt/project\n#9 DONE 0.1s\n", 7)
    output.end()
    assert [(done, total, text.split()[0]) for done, total, text in steps[:-1]] == [
        (0, 7, "FROM"), (1, 7, "RUN"), (2, 7, "WORKDIR"), (3, 7, "RUN"), (4, 7, "COPY"),
    ]  # fmt: skip
    assert steps[-1] == (7, 7, "")


def test_dockers_steps_for_another_platform_and_without_a_name() -> None:
    _, steps = read(
        "docker",
        "#7 [linux/arm64 final 2/3] RUN a\n#8 [stage-1 2/2] RUN b\n#9 [1/2] RUN c\n#7 [linux/arm64 final 2/3] RUN a\n",
    )
    assert steps == [(0, 3, "RUN a"), (1, 5, "RUN b"), (2, 7, "RUN c")]


@pytest.mark.parametrize(
    ("name", "text", "status", "cause"),
    [
        (
            "docker", DOCKER_FAILS, 1,
            "Could not find a version that satisfies the requirement badpkg==99.0 (from versions: none); "
            "No matching distribution found for badpkg==99.0",
        ),
        (
            "docker", DOCKER_NO_BASE, 1,
            "nosuch:1: failed to resolve source metadata for docker.io/library/nosuch:1: not found",
        ),
        (
            "docker",
            '#6 [a 2/3] RUN python3\n#6 0.1 servekit: the base has no python3\n#6 0.2 x\n'
            '#6 ERROR: process "/bin/sh -c x" did not complete successfully: exit code: 1\n'
            "#7 [b 1/1] RUN y\n#7 0.3 servekit: another step\nERROR: failed to solve: process x",
            1, "the base has no python3",
        ),
        (
            "docker",
            '#6 [a 2/3] RUN x\n#6 0.1 exec /bin/sh: exec format error\n'
            '#6 ERROR: process "/bin/sh -c x" did not complete successfully: exit code: 1\n',
            1,
            "linux/arm64 programs do not run on this machine: install qemu-user-static, or build on such a machine "
            '(process "/bin/sh -c x" did not complete successfully: exit code: 1)',
        ),
        (
            "docker",
            "#6 [a 2/3] RUN pip\n#6 0.1 WARNING: Retrying (Retry(total=0)) after connection broken by "
            "'NewConnectionError(...: Failed to establish a new connection: [Errno -2] Name or service not known')'\n"
            "#6 0.2 ERROR: No matching distribution found for numpy\n#6 ERROR: process did not complete successfully",
            1, "the index could not be reached: No matching distribution found for numpy",
        ),
        (
            "podman",
            "STEP 1/2: FROM a\nSTEP 2/2: RUN pip\nERROR: THESE PACKAGES DO NOT MATCH THE HASHES FROM THE REQUIREMENTS "
            "FILE. If you have updated the package versions, please update the hashes.\n"
            "    numpy==2.0 from https://user:hunter2secret@pypi.internal/numpy.whl (from -r requirements.lock (line 3)):\n"
            "        Expected sha256 00\n             Got        11\n"
            'Error: building at STEP "RUN pip": while running runtime: exit status 1\n'
            'time="2026-11-21T15:00:00Z" level=error msg="exit status 1"\n',
            1,
            "a file has another hash than the lock: numpy==2.0 from pypi.internal (from -r requirements.lock (line 3)):",
        ),
        (
            "podman",
            'STEP 1/1: FROM a\nError: creating build container: writing blob: storing blob to file "/var/tmp/x": '
            "write /var/tmp/x: no space left on device\n",
            125,
            'creating build container: writing blob: storing blob to file "/var/tmp/x": write /var/tmp/x: no space left '
            "on device",
        ),
        ("docker", DOCKER_20_FAILS, 1, "bad"),
        ("docker", DOCKER_20_NONSENSE, 1, "dockerfile parse error line 3: unknown instruction: NONSENSE"),
        ("docker", "unknown flag: --x\nSee 'docker build --help'.\n", 125, "unknown flag: --x"),
        (
            "podman", PODMAN_NO_BASE, 125,
            "creating build container: initializing source docker://nosuch.invalid/base:1: pinging container registry "
            'nosuch.invalid: Get "https://nosuch.invalid/v2/": dial tcp: lookup nosuch.invalid on 192.0.2.53:53: no '
            "such host",
        ),
        (
            "buildah", BUILDAH_FAILS, 100,
            "E: Unable to locate package jre (building at STEP \"RUN echo before; echo 'E: Unable to locate package jre' "
            '>&2; exit 100": exit status 100)',
        ),
        ("buildah", "", 1, "exit code 1"),
        ("buildah", "", -9, "ended by SIGKILL"),
    ],
)  # fmt: skip
def test_the_cause_in_what_they_say(name: str, text: str, status: int, cause: str) -> None:
    assert read(name, text)[0].cause(status, "arm64") == cause


def test_a_log_is_bounded_and_keeps_its_beginning_and_its_end() -> None:
    output, _ = read("docker", "")
    line = "x" * 1023
    for number in range(20_000):
        output.take(f"{number} {line}")
    path = output.log.write()
    try:
        lines = path.read_text().splitlines()
        assert path.stat().st_size < 12 * 1024 * 1024
        assert lines[0].startswith("0 x")
        assert lines[-1].startswith("19999 x")
        [gap] = [line for line in lines if line.startswith("... ")]
        assert int(gap.split()[1]) + len(lines) - 1 == 20_000
    finally:
        path.unlink()


@pytest.mark.parametrize(
    ("dockerfile", "docker", "others"),
    [
        ("FROM a\n", 1, 1),
        (
            "# FROM x\nARG B=a\nFROM $B AS c\nRUN a \\\n  # said why\n  && b \\\n  && c\nENV A=1 \\\n    B=2\n\nFROM a\ncopy . .\n",
            4,
            5,
        ),
        ("FROM scratch AS a\nFROM a AS B\nRUN x\nFROM b\nFROM c\n", 2, 5),
        ("", 0, 0),
    ],
)
def test_how_many_steps_there_will_be(tmp_path: Path, dockerfile: str, docker: int, others: int) -> None:
    (tmp_path / "Dockerfile").write_text(dockerfile)
    assert builder._instructions(tmp_path / "Dockerfile", docker=True) == docker
    assert builder._instructions(tmp_path / "Dockerfile", docker=False) == others
    assert builder._instructions(tmp_path / "none", docker=False) == 0
