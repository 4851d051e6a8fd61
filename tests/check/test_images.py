"""`servekit check --image`: real images, started by a real engine as each platform does, and nothing of them left."""

from __future__ import annotations

import json
import signal
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from containers import BASE, LIMITS, Store, store, why_not
from serving import free_port, script

pytestmark = [pytest.mark.images, pytest.mark.timeout(600)]

LIMIT_S = 120
# The standard library's server, for all three platforms; process 1 gets no signal that it does not handle.
SERVER = """
import http.server, json, os, signal, sys, threading

place = "/opt/ml/model"
try:
    open(place + "/probe", "w").close()
    writable = True
except OSError:
    writable = False
print("model:", sorted(os.listdir(place)) if os.path.isdir(place) else None, "writable:", writable, flush=True)


class Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_GET(self):
        self.answer(200 if self.path in ("/ping", "/health", "/status") and not (writable and "RO" in os.environ) else 404)

    def do_POST(self):
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        if self.path == "/shutdown":
            self.answer(202)
            os._exit(0)
        if self.path == "/run":
            job = json.loads(body)
            numbers = json.load(open(job["input"] + "/x.json"))["x"]
            with open(job["output"] + "/results.json", "w") as file:
                json.dump(sum(numbers), file)
            return self.answer(200)
        if self.path not in ("/invocations", "/v1/sums"):
            return self.answer(404)
        self.answer(200, y=sum(json.loads(body)["x"]))

    def answer(self, status, **document):
        body = json.dumps({"statusCode": status, "status": "OK", "message": "ready", **document}).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)


signal.signal(signal.SIGTERM, lambda *_: os._exit(0))
port = int(os.environ.get("PSC_MODEL_PORT") or os.environ.get("PORT") or 8080)
http.server.ThreadingHTTPServer(("0.0.0.0", port), Handler).serve_forever()
"""
CONFIG = {
    "model_algorithm": "sums", "model_type": "Image", "apis": [{"url": "/v1/sums", "method": "post"}],
    "health": {"url": "/health", "timeout_seconds": "10"},
}  # fmt: skip
MANIFEST = """\
specification: '0.3'
type: file
name: sums
version: 1.0.0
author: tests
description: {summary: adds numbers}
inputs:
  x.json: {acceptedMediaTypes: [application/json], maxSize: 1M, description: numbers}
outputs:
  results.json: {mediaType: application/json, maxSize: 1M, description: their sum}
resources: {memory: {size: 512M}}
timeout: {status: 20s, run: 20s}
"""
DOCKERFILES = {
    "sagemaker": """
        COPY serve.sh /opt/program/serve
        ENV PATH=/opt/program:/usr/local/bin:/usr/bin:/bin
        LABEL com.amazonaws.sagemaker.capabilities.accept-bind-to-port=true
    """,
    "shell": """
        ENTRYPOINT python3 /server.py
    """,
    "python": """
        CMD ["python3", "/server.py"]
    """,
    "ends": """
        ENTRYPOINT ["sh", "-c", "echo no model in /opt/ml/model >&2; exit 9", "sh"]
    """,
    "modelarts": """
        COPY serve.sh /home/run.sh
        COPY config.json /opt/project/
        WORKDIR /opt/project
        USER 1000:100
        CMD ["sh", "/home/run.sh"]
    """,
    "modzy": """
        COPY model.yaml /opt/project/
        WORKDIR /opt/project
        ENV PSC_MODEL_PORT={port}
        EXPOSE {port}
        CMD ["python3", "/server.py"]
    """,
}
MODZY_PORT = free_port()


class Engine:
    """A store with the images, and `servekit check` with it."""

    def __init__(self, place: Store) -> None:
        self.place = place
        # What containers of containers need; whoever has a machine of their own has none of this.
        conf = place.folder / "containers.conf"
        conf.write_text('[engine]\nruntime = "runc"\ncgroup_manager = "cgroupfs"\n')
        self.environ = {**place.environ, "CONTAINERS_CONF": str(conf)}

    def build(self, name: str) -> None:
        context = self.place.folder / f"check-{name}"
        context.mkdir()
        (context / "server.py").write_text(SERVER)
        (context / "serve.sh").write_text("#!/bin/sh\nexec python3 /server.py\n")
        (context / "serve.sh").chmod(0o755)
        (context / "config.json").write_text(json.dumps(CONFIG))
        (context / "model.yaml").write_text(MANIFEST)
        lines = DOCKERFILES[name].format(port=MODZY_PORT)
        (context / "Dockerfile").write_text(f"FROM {BASE}\nCOPY server.py /\n{lines}")
        self.place.buildah("build", "--format", "docker", "--tag", self.tag(name), str(context))

    @staticmethod
    def tag(name: str) -> str:
        return f"localhost/servekit-check-test/{name}:1"

    def command(
        self, name: str, platform: str, *options: str, port: int | None = None, more: tuple[str, ...] = ()
    ) -> list[str]:
        command = [script("servekit"), "check", "--platform", platform, "--image", self.tag(name), "--engine", "podman"]
        command += [*options, "--json"]
        extra = ["--network", "host", *LIMITS, *more]
        if port is not None:
            command += ["--port", str(port)]
            extra += ["--env", f"PORT={port}"]
        return [*command, "--", *extra]

    def check(self, *arguments: Any, **named: Any) -> tuple[int, dict[str, dict[str, str]], dict[str, Any]]:
        """The exit code, the clauses by their ids, and all that was said."""
        ended = subprocess.run(
            self.command(*arguments, **named),
            env=self.environ, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=LIMIT_S,
        )  # fmt: skip
        assert ended.stdout, ended.stderr
        document = json.loads(ended.stdout)
        return ended.returncode, {clause["id"]: clause for clause in document["clauses"]}, document

    def left(self) -> list[str]:
        return self.place.podman("ps", "--all", "--quiet").stdout.split()


@pytest.fixture(scope="module")
def engine() -> Iterator[Engine]:
    reason = why_not()
    if reason is not None:
        pytest.skip(reason)
    with store() as place:
        made = Engine(place)
        for name in DOCKERFILES:
            made.build(name)
        yield made


@pytest.fixture(scope="module")
def sample(tmp_path_factory: pytest.TempPathFactory) -> str:
    file = tmp_path_factory.mktemp("sample") / "x.json"
    file.write_text('{"x": [1, 2]}')
    return str(file)


def results(clauses: dict[str, dict[str, str]]) -> dict[str, str]:
    return {name: clause["result"] for name, clause in clauses.items()}


def test_sagemaker(engine: Engine, sample: str) -> None:
    only = "SM-01,SM-02,SM-05,SM-28,SM-21,SM-22,SM-40,SM-41,SM-42,SM-43"
    code, clauses, _ = engine.check("sagemaker", "sagemaker", "--sample", sample, "--only", only, port=free_port())
    assert set(results(clauses).values()) == {"kept"}, clauses
    assert code == 0
    assert engine.left() == []


def test_modelarts_is_asked_where_its_config_json_says(engine: Engine, sample: str) -> None:
    only = "MA-01,MA-05,MA-30,MA-31,MA-40,MA-41,MA-42,MA-43"
    code, clauses, _ = engine.check("modelarts", "modelarts", "--sample", sample, "--only", only, port=free_port())
    assert results(clauses) == {
        "MA-01": "kept", "MA-05": "kept", "MA-30": "kept", "MA-31": "kept", "MA-40": "kept",
        # Which the base image does not have.
        "MA-41": "broken", "MA-42": "kept", "MA-43": "kept",
    }  # fmt: skip
    assert clauses["MA-05"]["sent"].startswith("POST /v1/sums ")
    assert clauses["MA-41"]["got"] == "no java, zip on its PATH"
    assert code == 0


def test_modzy_sees_the_job_s_folders_and_listens_where_its_image_says(engine: Engine, sample: str) -> None:
    only = "MZ-01,MZ-07,MZ-09,MZ-10,MZ-20,MZ-21,MZ-30,MZ-40,MZ-41,MZ-42"
    code, clauses, _ = engine.check("modzy", "modzy", "--sample", sample, "--only", only)
    broken = {name for name, result in results(clauses).items() if result != "kept"}
    assert broken == {"MZ-42"}, clauses
    assert clauses["MZ-09"]["got"].startswith("results.json (file of ")
    assert code == 0


def test_an_entry_point_in_the_shell_form(engine: Engine) -> None:
    code, clauses, _ = engine.check("shell", "sagemaker", "--only", "SM-40,SM-41", port=free_port())
    assert results(clauses) == {"SM-40": "kept", "SM-41": "broken"}
    assert clauses["SM-41"]["got"] == "ENTRYPOINT ['/bin/sh', '-c', 'python3 /server.py']"
    assert code == 1


def test_an_image_that_knows_no_serve(engine: Engine) -> None:
    code, clauses, document = engine.check("python", "sagemaker", "--only", "SM-01,SM-40", port=free_port())
    assert results(clauses) == {"SM-40": "broken", "SM-01": "broken"}
    assert "no executable `serve` on its PATH" in clauses["SM-40"]["got"]
    assert any("serve" in line for line in document["log"]), document["log"]
    assert code == 3
    assert engine.left() == []


def test_an_image_that_ends_at_once(engine: Engine) -> None:
    code, clauses, document = engine.check("ends", "sagemaker", "--only", "SM-01,SM-05", port=free_port())
    assert code == 3
    assert "it ended with exit code 9; its last lines: no model in /opt/ml/model" in clauses["SM-01"]["got"]
    assert document["log"] == ["no model in /opt/ml/model"]
    assert engine.left() == []


def test_the_model_is_read_only(engine: Engine, tmp_path: Path) -> None:
    """It never becomes ready when it can write there."""
    model = tmp_path / "model"
    model.mkdir(mode=0o777)
    (model / "weights").write_text("1")
    for options in (["--model", str(model)], []):
        code, clauses, _ = engine.check(
            "sagemaker", "sagemaker", "--only", "SM-01", "--wait-s", "20", *options, port=free_port(), more=("--env", "RO=1")
        )  # fmt: skip
        assert (code, results(clauses)) == (0, {"SM-01": "kept"}), clauses
    assert [file.name for file in model.iterdir()] == ["weights"]


def test_ctrl_c_leaves_no_container(engine: Engine) -> None:
    sleeps = ("--entrypoint", '["sh", "-c", "sleep 1000", "sh"]')
    with subprocess.Popen(
        engine.command("ends", "sagemaker", "--only", "SM-01", more=sleeps),
        env=engine.environ, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    ) as process:  # fmt: skip
        try:
            end_s = time.monotonic() + 60
            while not engine.place.podman("ps", "--quiet").stdout.split():
                assert time.monotonic() < end_s
                time.sleep(0.1)
            process.send_signal(signal.SIGINT)
            out, err = process.communicate(timeout=LIMIT_S)
        finally:
            process.kill()
    assert process.returncode == 130, err
    assert json.loads(out)["interrupted"] is True
    assert engine.left() == []


def test_an_image_that_is_not_there(engine: Engine) -> None:
    ended = subprocess.run(
        engine.command("nowhere", "sagemaker"),
        env=engine.environ, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=LIMIT_S,
    )  # fmt: skip
    assert ended.returncode == 2
    assert "servekit: --image localhost/servekit-check-test/nowhere:1: `podman image` failed: " in ended.stderr
    assert ended.stderr.endswith("; build or pull it first\n")
