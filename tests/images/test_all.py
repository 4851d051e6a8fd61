"""One image, three platforms: the way it is started says which one it is on."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

import pytest
from containers import DIGITS, LIMITS, Container, Images, Store, form, mounted
from manifests import wrong_in_config, wrong_in_model_yaml

pytestmark = [pytest.mark.images, pytest.mark.timeout(900)]

PICTURE = (DIGITS / "seven.png").read_bytes()
SEVEN = {"mnist_result": 7}


@dataclass(frozen=True)
class Way:
    platform: str
    command: tuple[str, ...]
    options: tuple[str, ...]
    uid: int
    ready: str
    drain: str
    port: int = 8080


READ_ONLY = ("--read-only", "--read-only-tmpfs=false", "--tmpfs", "/tmp")
WAYS = [
    Way("sagemaker", ("serve",), (*READ_ONLY, "--user", "12345:54321"), 12345, "/ping", "8+18+2s"),
    Way("modelarts", ("sh", "/home/run.sh"), (*READ_ONLY, "--user", "1000:100"), 1000, "/health", "60+28+2s"),
    Way("modelarts", ("sh", "/home/mind/run.sh"), ("--user", "1000:100"), 1000, "/health", "60+28+2s"),
    Way("modzy", (), ("--env", "PSC_MODEL_PORT=9001", "--memory", "512m"), 0, "/status", "0+10+2s", 9001),
]


@pytest.mark.parametrize("way", WAYS, ids=[" ".join((way.platform, *way.command)) for way in WAYS])
def test_the_same_image_on_each(place: Store, images: Images, tmp_path: Path, way: Way) -> None:
    job = mounted(tmp_path / "job")
    model = mounted(tmp_path / "model")
    options = [*way.options, "--volume", f"{job}:/data", "--volume", f"{model}:/opt/ml/model:ro"]
    with place.container(images["all"].tag, *way.command, options=options, port=way.port) as container:
        container.wait_until(way.ready)
        found = container.look("/opt/ml/model", "/opt/project", "/tmp")
        assert (found["uid"], found["network"]) == (way.uid, ["lo"])
        assert found["writable"] == {"/opt/ml/model": False, "/opt/project": way.uid == 0, "/tmp": True}
        assert f"platform={way.platform} (" in container.settings
        assert f"drain={way.drain} ({way.platform})" in container.settings
        # The others' routes are not there.
        for path in {"/ping", "/health", "/status"} - {way.ready}:
            assert container.ask(path).status == 404
        answers(container, way.platform, job)


def answers(container: Container, platform: str, job: Path) -> None:
    if platform == "sagemaker":
        assert container.ask("/invocations", PICTURE, "image/png").json == SEVEN
    elif platform == "modelarts":
        assert container.ask("/health").body == b'{"health":"true"}'
        assert container.ask("/", *form("images", "seven.png", PICTURE)).json == SEVEN
        assert container.execute("/home/ma-user/health.sh").returncode == 0
    else:
        (job / "in").mkdir()
        (job / "in" / "images").write_bytes(PICTURE)
        asked = json.dumps({"type": "file", "input": "/data/in", "output": "/data/out"}).encode()
        assert container.ask("/run", asked, "application/json").status == 200
        assert json.loads((job / "out" / "results.json").read_bytes())["data"]["result"] == SEVEN
        assert container.ask("/shutdown", b"").status in (200, 202)
        assert container.ended(30) == 0


def test_the_image(place: Store, images: Images) -> None:
    tag = images["all"].tag
    found = place.inspect(tag)
    config = found["Config"]
    assert config.get("User", "") in ("", "0")
    assert config["Cmd"] == ["sh", "/home/run.sh"]
    assert list(config["ExposedPorts"]) == ["8080/tcp"]
    assert config["Labels"]["com.amazonaws.sagemaker.capabilities.accept-bind-to-port"] == "true"
    # Who it is on is told by the environment at the start.
    assert not [line for line in config["Env"] if line.startswith(("SERVEKIT_PLATFORM", "PSC_", "SAGEMAKER_"))]
    for name, check in (("config.json", wrong_in_config), ("model.yaml", wrong_in_model_yaml)):
        listed = place.podman("run", "--rm", "--network", "none", *LIMITS, tag, "cat", f"/opt/project/{name}")
        assert check(listed.stdout.encode()) == []
