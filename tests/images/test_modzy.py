"""No arguments, PSC_MODEL_PORT, no shared memory, half a gigabyte and one processor; model.yaml and the saved TAR."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest
from containers import DIGITS, LIMITS, Container, Images, Store, mounted
from manifests import wrong_in_model_yaml

pytestmark = [pytest.mark.images, pytest.mark.timeout(900)]

MEMORY_BYTES = 512 * 1024**2
SMALL = ("--memory", "512m", "--memory-swap", "512m", "--cpus", "1")
# Of the second version, or of the first: the limit of memory, the limit of processors, and the most memory there was.
CONTROL_GROUPS = """
import json, pathlib, sys
root = pathlib.Path("/sys/fs/cgroup")
new = [root / "memory.max", root / "cpu.max", root / "memory.peak"]
old = [root / "memory/memory.limit_in_bytes", root / "cpu/cpu.cfs_quota_us", root / "memory/memory.max_usage_in_bytes"]
files = new if new[0].exists() else old
json.dump([file.read_text().split()[0] if file.exists() else "" for file in files], sys.stdout)
"""


@pytest.fixture
def tag(images: Images) -> str:
    return images["modzy"].tag


@pytest.fixture
def job(tmp_path: Path) -> Path:
    folder = mounted(tmp_path / "job")
    (folder / "in").mkdir()
    (folder / "in" / "images").write_bytes((DIGITS / "seven.png").read_bytes())
    return folder


def run(container: Container, job: Path) -> object:
    """POST /run on the mounted folder; the result."""
    asked = {"type": "file", "input": "/data/in", "output": "/data/out"}
    reply = container.ask("/run", json.dumps(asked).encode(), "application/json")
    assert (reply.status, reply.json["status"]) == (200, "OK"), reply.body
    return json.loads((job / "out" / "results.json").read_bytes())["data"]["result"]


@pytest.mark.parametrize(
    ("shared_memory", "refuses"),
    [(("--shm-size", "0m"), False), (("--tmpfs", "/dev/shm:ro"), True)],
    ids=["shm-size 0m", "no shared memory at all"],
)
@pytest.mark.parametrize("port", [8080, 9000])
def test_a_whole_life(
    place: Store, tag: str, job: Path, shared_memory: tuple[str, ...], refuses: bool, port: int
) -> None:
    options = [*SMALL, *shared_memory, "--volume", f"{job}:/data"]
    if port != 8080:
        options += ["--env", f"PSC_MODEL_PORT={port}"]
    with place.container(tag, options=options, port=port) as container:
        reply = container.wait_until("/status")
        assert reply.json["statusCode"] == 200
        found = container.look("/dev/shm")
        assert found["command"][-2:] == ["/opt/servekit/bin/servekit", "run"]
        assert (found["network"], found["writable"]["/dev/shm"]) == (["lo"], not refuses)
        assert f"port={port} (PSC_MODEL_PORT)" in container.settings
        assert "platform=modzy (SERVEKIT_PLATFORM)" in container.settings
        assert "workers=1" in container.settings
        assert run(container, job) == {"mnist_result": 7}
        assert container.ask("/shutdown", b"").status in (200, 202)
        assert container.ended(30) == 0
        assert not container.state["State"]["OOMKilled"]


def test_the_limits_hold(place: Store, tag: str, job: Path) -> None:
    """Where control groups are not to be had, the rest of this file has run without them."""
    with place.container(tag, options=[*SMALL, "--volume", f"{job}:/data"]) as container:
        container.wait_until("/status")
        memory, quota, _ = json.loads(container.python(CONTROL_GROUPS))
        if memory in ("", "max") or int(memory) > 2**60:
            pytest.skip("this machine's control groups limit no memory")
        assert (memory, quota) == (str(MEMORY_BYTES), "100000")
        for _ in range(10):
            assert run(container, job) == {"mnist_result": 7}
        # The most that there was; a kernel may not tell it.
        *_, peak = json.loads(container.python(CONTROL_GROUPS))
        assert peak == "" or 0 < int(peak) < MEMORY_BYTES
        assert not container.state["State"]["OOMKilled"]
        assert len(container.workers()) == 1


def test_sigterm(place: Store, tag: str) -> None:
    with place.container(tag, options=SMALL) as container:
        container.wait_until("/status")
        container.signal("TERM")
        assert container.ended(15) == 0


def test_the_image(place: Store, images: Images) -> None:
    found = place.inspect(images["modzy"].tag)
    config = found["Config"]
    assert config.get("Entrypoint") in (None, [])
    assert config["Cmd"] == ["servekit", "run"]
    assert list(config["ExposedPorts"]) == ["8080/tcp"]
    assert "PSC_MODEL_PORT=8080" in config["Env"]
    assert found["ManifestType"] == "application/vnd.docker.distribution.manifest.v2+json"
    listed = place.podman(
        "run", "--rm", "--network", "none", *LIMITS, images["modzy"].tag, "cat", "/opt/project/model.yaml"
    )
    assert wrong_in_model_yaml(listed.stdout.encode()) == []
    assert "version: 1.2.3\n" in listed.stdout


def test_a_saved_image_is_loaded_and_runs(place: Store, images: Images, job: Path) -> None:
    """`--save`, into a store that has nothing."""
    saved = place.folder / "digits.tar"
    built = images.build("modzy", "--save", str(saved), name="saved")
    with place.another() as elsewhere:
        elsewhere.podman("load", "--quiet", "--input", str(saved))
        os.unlink(saved)  # noqa: PTH108
        with elsewhere.container(built.tag, options=[*SMALL, "--volume", f"{job}:/data"]) as container:
            container.wait_until("/status")
            assert run(container, job) == {"mnist_result": 7}
