"""`docker run IMAGE serve`: model data mounted read-only, no network, root or anybody."""

from __future__ import annotations

import os
import signal
import subprocess
import time
from pathlib import Path

import onnx
import pytest
from containers import DIGITS, MAX_S, ROOT, Images, Store, mounted, until
from onnx import numpy_helper

pytestmark = [pytest.mark.images, pytest.mark.timeout(900)]

SEVEN = (DIGITS / "seven.png").read_bytes()
MODEL = "/opt/ml/model"
# A user that the image does not know, and nothing to write to but /tmp.
ANYBODY = (
    "--passwd=false",
    "--user",
    "12345:54321",
    "--read-only",
    "--read-only-tmpfs=false",
    "--tmpfs",
    "/tmp",
    "--tmpfs",
    "/dev/shm:ro",
)
CAPABILITY = "com.amazonaws.sagemaker.capabilities."


@pytest.fixture
def tag(images: Images) -> str:
    return images["sagemaker"].tag


def threes(path: Path) -> Path:
    """A model that takes every picture for a three: which one is served can be seen."""
    model = onnx.load(DIGITS / "model.onnx")
    [bias] = [tensor for tensor in model.graph.initializer if tensor.name == model.graph.node[-1].input[2]]
    values = numpy_helper.to_array(bias).copy()
    values[3] += 1000
    bias.CopyFrom(numpy_helper.from_array(values, bias.name))
    onnx.save(model, path)
    return path


@pytest.mark.parametrize(
    ("options", "uid", "data", "digit"),
    [((), 0, True, 3), ((), 0, False, 7), (ANYBODY, 12345, True, 3), (ANYBODY, 12345, False, 7)],
    ids=["root, model data", "root, no model data", "anybody, model data", "anybody, no model data"],
)
def test_it_serves_model_data_or_its_own(
    place: Store, tag: str, tmp_path: Path, options: tuple[str, ...], uid: int, data: bool, digit: int
) -> None:
    folder = mounted(tmp_path / "model")
    if data:
        threes(folder / "model.onnx").chmod(0o644)
    with place.container(tag, "serve", options=[*options, "--volume", f"{folder}:{MODEL}:ro"]) as container:
        container.wait_until("/ping")
        found = container.look("/tmp", MODEL, "/opt/project", "/opt/servekit", "/", "/dev/shm", "/var/tmp")
        assert found["command"][-1].endswith("/serve")
        assert (found["uid"], found["network"], found["outside"]) == (uid, ["lo"], "Network is unreachable")
        can = [name for name, it_can in found["writable"].items() if it_can]
        if uid:
            assert can == ["/tmp"]
            assert found["user"] == ""
        else:
            assert "/" in can
            assert MODEL not in can
        reply = container.ask("/invocations", SEVEN, "image/png")
        assert (reply.status, reply.json) == (200, {"mnist_result": digit})
        assert "platform=sagemaker (SERVEKIT_PLATFORM)" in container.settings
        read = f"{MODEL} (sagemaker's model directory)" if data else "/opt/project (target's directory)"
        assert f"model_dir={read} drain=8+18+2s (sagemaker)" in container.settings
        assert "Listening at: http://0.0.0.0:8080 (1)" in container.log


def test_an_artifact_that_the_platform_has_unpacked(
    place: Store, images: Images, project: Path, tmp_path: Path
) -> None:
    """`model.tar.gz` of another version of the model, in the image of this one."""
    other = place.folder / "threes"
    subprocess.run(["cp", "-r", project, other], check=True)
    threes(other / "model.onnx")
    ended = place.write_artifact(tmp_path / "model.tar.gz", cwd=other)
    assert ended.returncode == 0, ended.stderr
    folder = mounted(tmp_path / "model")
    subprocess.run(["tar", "-xzf", tmp_path / "model.tar.gz", "-C", folder], check=True, timeout=MAX_S)
    assert (folder / "predictor.py").is_file()
    options = [*ANYBODY, "--volume", f"{folder}:{MODEL}:ro"]
    with place.container(images["sagemaker"].tag, "serve", options=options) as container:
        container.wait_until("/ping")
        assert container.ask("/invocations", SEVEN, "image/png").json == {"mnist_result": 3}


def test_the_vendors_sample_at_the_port_that_the_platform_names(place: Store, tag: str) -> None:
    """curl --request POST --data "hello world" of the page about inference images, with the example that it is for."""
    options = [
        *("--volume", f"{ROOT / 'examples' / 'hello'}:/opt/project:ro"),
        *("--env", "SAGEMAKER_BIND_TO_PORT=9090"),
    ]
    with place.container(tag, "serve", options=options, port=9090) as container:
        container.wait_until("/ping")
        reply = container.ask("/invocations", b"hello world", "application/x-www-form-urlencoded")
        assert (reply.status, reply.json) == (200, {"prediction": "a", "text": "hello world"})
        container.port = 8080
        with pytest.raises(OSError, match="refused"):
            container.ask("/ping")


def test_what_it_cannot_take_is_named(place: Store, tag: str) -> None:
    with place.container(tag, "serve") as container:
        container.wait_until("/ping")
        reply = container.ask("/invocations", b"hello world", "image/png")
        assert reply.status == 400
        assert "images" in reply.body.decode()
        assert container.ask("/invocations", SEVEN, "image/png").json == {"mnist_result": 7}


def test_sigterm_and_the_30_seconds_after_it(place: Store, tag: str) -> None:
    with place.container(tag, "serve", options=ANYBODY) as container:
        container.wait_until("/ping")
        with container.asked_all_the_time("/invocations", SEVEN, "image/png") as outcomes:
            time.sleep(1)
            told_s = container.signal("TERM")
            assert container.ended(30) == 0
            took_s = time.time() - told_s
    assert 8 <= took_s <= 30
    lingering = [said for began_s, said in outcomes if began_s - told_s < 7.5]
    assert len(lingering) > 10
    assert set(lingering) == {200}
    assert max(began_s - told_s for began_s, said in outcomes if said == 200) > 7


def test_a_killed_worker_is_replaced(place: Store, tag: str) -> None:
    with place.container(tag, "serve", options=[*ANYBODY, "--env", "SAGEMAKER_MODEL_SERVER_WORKERS=2"]) as container:
        container.wait_until("/ping")
        until(lambda: len(container.workers()) == 2)
        with container.asked_all_the_time("/invocations", SEVEN, "image/png", seconds=8) as outcomes:
            time.sleep(1)
            [victim, survivor] = container.workers()
            killed_s = time.time()
            container.python(f"import os; os.kill({victim}, {int(signal.SIGKILL)})")
            until(lambda: victim not in container.workers() and len(container.workers()) == 2)
            assert survivor in container.workers()
            replaced_s = time.time()
        assert container.state["State"]["Running"]
    assert replaced_s - killed_s < 8
    # One may have been in its hands.
    assert sum(said != 200 for _, said in outcomes) <= 1
    assert sum(said == 200 for began_s, said in outcomes if began_s > killed_s) > 10


def test_the_image(place: Store, images: Images) -> None:
    found = place.inspect(images["sagemaker"].tag)
    config = found["Config"]
    assert config["Labels"][f"{CAPABILITY}accept-bind-to-port"] == "true"
    # Only what is true: one model is served, over HTTP.
    assert [name for name in config["Labels"] if name.startswith(CAPABILITY)] == [f"{CAPABILITY}accept-bind-to-port"]
    assert config.get("Entrypoint") in (None, [])
    assert config["Cmd"] == ["serve"]
    assert config.get("User", "") in ("", "0")
    assert list(config["ExposedPorts"]) == ["8080/tcp"]
    assert found["ManifestType"] == "application/vnd.docker.distribution.manifest.v2+json"


def test_serve_is_the_program_itself(place: Store, tag: str) -> None:
    """Exec form: no shell in between, which would keep signals to itself."""
    with place.container(tag, "serve", options=ANYBODY) as container:
        container.wait_until("/ping")
        [python, program] = container.look()["command"]
        assert (os.path.basename(program), os.path.basename(python)) == ("serve", "python3")  # noqa: PTH119
