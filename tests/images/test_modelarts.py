"""Boot files, ma-user, probes, config.json and the minute after SIGTERM."""

from __future__ import annotations

import json
import time
from concurrent.futures import Future
from pathlib import Path

import pytest
from containers import DIGITS, Farewell, Images, Store, form
from manifests import wrong_in_config

pytestmark = [pytest.mark.images, pytest.mark.timeout(900)]

JPEG = (DIGITS / "seven.jpg").read_bytes()
AS_USER = ("--user", "1000:100")
READ_ONLY = ("--read-only", "--read-only-tmpfs=false", "--tmpfs", "/tmp")
PROBE = "/home/ma-user/health.sh"
# Ready when there is a file; it stands for one that reads its weights for a while.
SLOW = """\
import time
from pathlib import Path

from servekit import Image, Predictor, Tensor


class Slow(Predictor):
    inputs = {"images": Image("L", 28, 28)}
    outputs = {"mnist_result": Tensor("int64", ())}

    def load(self, model_dir):
        while not Path("/tmp/go").exists():
            time.sleep(0.05)

    def predict(self, images):
        return images[:, 0, 0].astype("int64")
"""


@pytest.fixture
def tag(images: Images) -> str:
    return images["modelarts"].tag


@pytest.mark.parametrize(
    ("command", "options"),
    [
        ((), ()),
        (("sh", "/home/run.sh"), (*AS_USER, *READ_ONLY)),
        (("sh", "/home/mind/run.sh"), (*AS_USER, *READ_ONLY)),
    ],
    ids=["image's command", "run.sh", "mind/run.sh"],
)
def test_it_boots(place: Store, tag: str, command: tuple[str, ...], options: tuple[str, ...]) -> None:
    with place.container(tag, *command, options=options) as container:
        reply = container.wait_until("/health")
        assert (reply.status, reply.body) == (200, b'{"health":"true"}')
        found = container.look("/tmp", "/home/ma-user", "/", "/opt/project")
        assert (found["uid"], found["gid"], found["user"], found["group"]) == (1000, 100, "ma-user", "ma-group")
        # The boot file's shell has made room for the server.
        assert found["command"][-2:] == ["/opt/servekit/bin/servekit", "run"]
        assert found["writable"] == {
            "/tmp": True, "/home/ma-user": not options, "/": False, "/opt/project": False,
        }  # fmt: skip
        body, content_type = form("images", "seven.jpg", JPEG)
        assert container.ask("/", body, content_type).json == {"mnist_result": 7}
        assert "platform=modelarts (SERVEKIT_PLATFORM)" in container.settings
        assert "drain=60+28+2s (modelarts)" in container.settings
        assert "Listening at: http://0.0.0.0:8080 (1)" in container.log


def test_the_probe_of_the_kind_exec(place: Store, tag: str, tmp_path: Path) -> None:
    tmp_path.chmod(0o755)
    slow = tmp_path / "predictor.py"
    slow.write_text(SLOW)
    options = [*AS_USER, "--volume", f"{slow}:/opt/project/predictor.py:ro"]
    with place.container(tag, options=options) as container:
        container.wait_until("/health", 503)
        refused = container.execute("sh", PROBE)
        assert (refused.returncode, refused.stderr.strip()) == (1, "health: status 503")
        container.execute("touch", "/tmp/go")
        container.wait_until("/health", 200)
        assert container.execute("sh", PROBE).returncode == 0
        # As the platform starts it: no shell of ours in front.
        assert container.execute(PROBE).returncode == 0
        assert container.execute(PROBE, "/nothing").returncode == 1
        nobody = container.execute(PROBE, options=["--env", "SERVEKIT_PORT=9"])
        assert nobody.returncode == 1
        assert "refused" in nobody.stderr


def test_sigterm_with_a_shorter_minute(place: Store, tag: str) -> None:
    options = [*AS_USER, *READ_ONLY, "--env", "SERVEKIT_DRAIN_S=3"]
    with place.container(tag, "sh", "/home/mind/run.sh", options=options) as container:
        container.wait_until("/health")
        with container.asked_all_the_time("/health") as outcomes:
            time.sleep(0.5)
            told_s = container.signal("TERM")
            assert container.ended(90) == 0
            took_s = time.time() - told_s
    assert 3 <= took_s < 40
    assert {said for began_s, said in outcomes if began_s - told_s < 2.5} == {200}


def test_the_image(place: Store, images: Images, project: Path) -> None:
    found = place.inspect(images["modelarts"].tag)
    config = found["Config"]
    assert (config["User"], config["Cmd"]) == ("1000:100", ["sh", "/home/run.sh"])
    assert config.get("Entrypoint") in (None, [])
    assert list(config["ExposedPorts"]) == ["8080/tcp"]
    assert found["Architecture"] == "amd64"
    said = place.podman(
        "run", "--rm", "--network", "none", "--ulimit", "nofile=4096:8192", "--ulimit", "nproc=2048:4096",
        images["modelarts"].tag, "sh", "-c", "cat /opt/project/config.json; grep -c : /etc/passwd >/dev/null;"
        " getent passwd ma-user >&2; getent group 100 >&2; stat -c '%U:%G %a %n' /home/ma-user /home/run.sh >&2",
    )  # fmt: skip
    body = said.stdout.encode()
    assert wrong_in_config(body, batch=True) == []
    [api] = json.loads(body)["apis"]
    assert api["request"] == {
        "Content-type": "multipart/form-data",
        "data": {"type": "object", "properties": {"images": {"type": "file"}}},
    }
    user, group, home, boot = said.stderr.splitlines()
    assert user.split(":")[2:] == ["1000", "100", "", "/home/ma-user", "/bin/sh"]
    assert group.startswith("ma-group:x:100:")
    assert home == "ma-user:ma-group 755 /home/ma-user"
    assert boot == "root:root 755 /home/run.sh"


def test_one_manifest_in_dockers_format_and_no_index(place: Store, images: Images, tmp_path: Path) -> None:
    """What its registry would get. Pushed to a folder: manifest.json is what the builder sends."""
    tag = images["modelarts"].tag
    place.buildah("push", "--quiet", tag, f"dir:{tmp_path / 'pushed'}")
    manifest = json.loads((tmp_path / "pushed" / "manifest.json").read_bytes())
    assert manifest["schemaVersion"] == 2
    assert manifest["mediaType"] == "application/vnd.docker.distribution.manifest.v2+json"
    assert manifest["config"]["mediaType"] == "application/vnd.docker.container.image.v1+json"
    assert "manifests" not in manifest
    layers = place.inspect(tag)["RootFS"]["Layers"]
    assert len(manifest["layers"]) == len(layers)
    assert {layer["mediaType"].partition("rootfs.")[0] for layer in manifest["layers"]} == {
        "application/vnd.docker.image."
    }


def test_the_minute_after_sigterm(farewell: Future[Farewell]) -> None:
    """It goes on serving for 60 seconds, and is gone within 90."""
    found = farewell.result(200)
    assert found.code == 0
    assert 60 <= found.took_s <= 90
    serving = [said for after_s, said in found.outcomes if after_s < 59]
    assert len(serving) > 60
    assert set(serving) == {200}
    assert max(after_s for after_s, said in found.outcomes if said == 200) > 59
