"""`servekit emulate modelarts-batch` and `modzy-jobs` with `--image`: a real engine starts it."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from containers import BASE, LIMITS, Store, store, why_not
from serving import free_port

pytestmark = [pytest.mark.images, pytest.mark.timeout(600)]

LIMIT_S = 120
TAG = "localhost/servekit-emulate-test:1"
# The standard library's server, for both platforms.
SERVER = """
import http.server, json, os

class Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_GET(self):
        self.answer(200 if self.path in ("/health", "/status") else 404)

    def do_POST(self):
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        if self.path == "/shutdown":
            self.answer(202)
            os._exit(0)
        if self.path == "/run":
            job = json.loads(body)
            with open(job["input"] + "/x.json") as source, open(job["output"] + "/results.json", "w") as target:
                json.dump(sum(json.load(source)), target)
            return self.answer(200)
        self.answer(200, sum=sum(json.loads(body)["x"]))

    def answer(self, status, **document):
        body = json.dumps(document or {"statusCode": status, "status": "OK", "message": "ready"}).encode()
        self.send_response(status)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

port = int(os.environ.get("PSC_MODEL_PORT") or os.environ["PORT"])
http.server.ThreadingHTTPServer(("0.0.0.0", port), Handler).serve_forever()
"""
COMMANDS = {
    name: [sys.executable, "-c", f"from servekit.cli.{module} import {name} as run; run()"]
    for name, module in (("modelarts_batch", "emulate_modelarts"), ("modzy_jobs", "emulate_modzy"))
}


@pytest.fixture(scope="module")
def place() -> Iterator[Store]:
    if (reason := why_not()) is not None:
        pytest.skip(reason)
    with store() as made:
        # What containers of containers need; whoever has a machine of their own has none of this.
        conf = made.folder / "containers.conf"
        conf.write_text('[engine]\nruntime = "runc"\ncgroup_manager = "cgroupfs"\n')
        made.environ["CONTAINERS_CONF"] = str(conf)
        context = made.folder / "context"
        context.mkdir()
        (context / "server.py").write_text(SERVER)
        (context / "Dockerfile").write_text(f'FROM {BASE}\nCOPY server.py /\nCMD ["python3", "/server.py"]\n')
        made.buildah("build", "--format", "docker", "--tag", TAG, str(context))
        yield made


def run(place: Store, name: str, *options: str | Path) -> tuple[int, dict[str, Any]]:
    port = str(free_port())
    ended = subprocess.run(
        [
            *(*COMMANDS[name], *map(str, options), "--image", TAG, "--engine", "podman", "--container-port", port),
            *("--json", "--", "--network", "host", "--env", f"PORT={port}", *LIMITS),
        ],
        env=place.environ, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=LIMIT_S, check=False,
    )  # fmt: skip
    assert ended.stdout, ended.stderr
    assert place.podman("ps", "--all", "--quiet").stdout.split() == []
    return ended.returncode, json.loads(ended.stdout)


def test_a_batch_service_of_an_image(place: Store, tmp_path: Path) -> None:
    leaves = [{"type": "integer", "index": 0}, {"type": "integer", "index": 1}]
    side = {
        "Content-type": "application/json",
        "data": {"type": "object", "properties": {"x": {"type": "array", "items": leaves}}},
    }
    api = {"url": "/sums", "method": "post", "request": side, "response": side}
    (tmp_path / "config.json").write_text(json.dumps({"apis": [api], "health": {"url": "/health"}}))
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "a.csv").write_text("1,2\n3,4\n")
    code, said = run(
        place, "modelarts_batch", "--input", tmp_path / "in", "--output", tmp_path / "out", "--config",
        tmp_path / "config.json", "--mapping-type", "csv",
    )  # fmt: skip
    assert (code, said["successful"]) == (0, 1)
    assert (tmp_path / "out/infer-result/a.csv_result.txt").read_text() == '{"sum": 3}\n{"sum": 7}\n'


def test_a_job_of_an_image_shares_its_files_and_is_shut_down(place: Store, tmp_path: Path) -> None:
    (tmp_path / "in" / "a").mkdir(parents=True)
    (tmp_path / "in" / "a" / "x.json").write_text("[1, 2]")
    (tmp_path / "model.yaml").write_text("inputs: {x.json: {}}\noutputs: {results.json: {}}\n")
    code, said = run(
        place, "modzy_jobs", "--input", tmp_path / "in", "--output", tmp_path / "out", "--model-yaml",
        tmp_path / "model.yaml",
    )  # fmt: skip
    assert (code, said["results"]["a"]["results.json"]) == (0, 3)
    assert said["shutdown"] == {"status": 202, "exit_code": 0}
