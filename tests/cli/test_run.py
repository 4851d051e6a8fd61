"""The two commands as processes, with a real predictor."""

from __future__ import annotations

import fcntl
import json
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

import httpx2
import pytest
from launched import until
from serving import clean_environ, free_port, script, serve

import servekit
from servekit.launch.settings import OPTIONS

ECHO = """
import sys
from servekit import Predictor, Json

print("import says hello", file=sys.stdout, flush=True)

class Echo(Predictor):
    inputs = {"x": Json()}
    outputs = {"y": Json()}
    def load(self, model_dir):
        if (model_dir / "broken").exists():
            raise RuntimeError("the weights are broken")
    def predict(self, x):
        return x
"""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "predictor.py").write_text(ECHO)
    return tmp_path


def run(
    arguments: Sequence[str], cwd: Path, environ: Mapping[str, str] | None = None
) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        arguments, cwd=cwd, env=clean_environ(environ), capture_output=True, text=True, timeout=60, check=False
    )


def test_it_serves_says_what_it_chose_and_ends_with_0(folder: Path) -> None:
    (folder / "gunicorn.conf.py").write_text("raise SystemExit('executed')\n")
    foreign = {"WEB_CONCURRENCY": "many", "FORWARDED_ALLOW_IPS": "*", "GUNICORN_CMD_ARGS": "--workers 7"}
    environ = foreign | {"SERVEKIT_LOG_FORMAT": "json", "SERVEKIT_PROT": "1"}
    arguments = ("predictor.py", "--workers", "1", "--drain-s", "0")
    with serve(*arguments, platform="sagemaker", environ=environ, cwd=folder) as server:
        reply = httpx2.post(server.url + "/invocations", json={"instances": [1]}, headers={"X-Request-Id": "r1"})
        assert reply.json() == {"predictions": [1]}
        until(lambda: '"r1"' in server.log)
        server.terminate()
        assert server.wait(15) == 0
        lines = server.log.splitlines()
        assert "import says hello" in lines
        documents = [json.loads(line) for line in lines if line.startswith("{")]
        assert len(documents) == len(lines) - 1
        messages = [document["message"] for document in documents]
        [summary] = [message for message in messages if message.startswith(f"servekit {servekit.__version__}: ")]
        for word in (
            "target=predictor.py (argument)",
            "platform=sagemaker (--platform)",
            f"port={server.port} (--port)",
            "workers=1 (--workers)",
            "worker=uvicorn (default)",
            f"model_dir={folder} (target's directory)",
            "drain=0+18+2s (--drain-s)",
        ):
            assert word in summary
        assert any("no such options: SERVEKIT_PROT" in message for message in messages)


def test_serve_takes_its_target_from_the_environment_and_ignores_what_it_does_not_know(folder: Path) -> None:
    environ = {"SERVEKIT_TARGET": "predictor.py:Echo", "SERVEKIT_WORKERS": "1", "SAGEMAKER_BIND_TO_PORT": "{port}"}
    command = (script("serve"), "whatever", "--unheard-of")
    with serve(platform=None, command=command, environ=environ, cwd=folder, pass_port=False) as server:
        assert httpx2.get(server.url + "/ping").status_code == 200
        assert "platform=sagemaker (auto: SAGEMAKER_BIND_TO_PORT is set)" in server.log
        server.process.kill()


@pytest.mark.parametrize(
    ("environ", "platform"),
    [
        ({}, "sagemaker (auto: no platform's variables are set)"),
        ({"SERVEKIT_PLATFORM": "auto"}, "sagemaker (auto: no platform's variables are set)"),
        ({"SERVEKIT_PLATFORM": "modelarts"}, "modelarts (SERVEKIT_PLATFORM)"),
        ({"PSC_MODEL_PORT": "{port}"}, "modzy (auto: PSC_MODEL_PORT is set)"),
    ],
)
def test_serve_means_sagemaker_unless_somebody_says_otherwise(
    folder: Path, environ: dict[str, str], platform: str
) -> None:
    environ = {"SERVEKIT_TARGET": "predictor.py", "SERVEKIT_WORKERS": "1", "SERVEKIT_PORT": "{port}", **environ}
    command = (script("serve"),)
    with serve(platform=None, command=command, environ=environ, cwd=folder, ready=False, pass_port=False) as server:
        until(lambda: "target=" in server.log)
        assert f"platform={platform}" in server.log
        server.process.kill()


def test_a_log_that_nobody_reads_stops_nothing(folder: Path) -> None:
    port = free_port()
    arguments = [script("servekit"), "run", "predictor.py", "--platform", "sagemaker", "--drain-s", "0"]
    arguments += ["--workers", "1", "--port", str(port)]
    with subprocess.Popen(arguments, cwd=folder, env=clean_environ(), stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        fcntl.fcntl(process.stdout, fcntl.F_SETPIPE_SZ, 4096)
        try:
            with httpx2.Client(base_url=f"http://127.0.0.1:{port}", timeout=10) as client:
                until(lambda: _answers(client))
                # A line of the access log has more than 100 bytes: the pipe is full long before the end.
                for number in range(200):
                    assert client.post("/invocations", json={"instances": [number]}).json() == {"predictions": [number]}
            process.terminate()
            assert process.wait(20) == 0
        finally:
            process.kill()


def _answers(client: httpx2.Client) -> bool:
    try:
        return client.get("/ping").status_code == 200
    except httpx2.TransportError:
        return False


@pytest.mark.parametrize(
    ("arguments", "environ", "words"),
    [
        (["missing.py"], {}, "missing.py"),
        (["predictor.py", "--port", "x"], {}, "port: expected a whole number from 1 to 65535, got 'x' (from --port)"),
        (["predictor.py", "--platform", "azure"], {}, "platform: expected"),
        (["predictor.py"], {"SAGEMAKER_X": "1", "PSC_MODEL_PORT": "1"}, "auto cannot decide"),
        (["predictor.py", "--platform", "sagemaker", "--drain-s", "40"], {}, "40 s to linger"),
        (["predictor.py", "--no-such-flag"], {}, "--no-such-flag"),
    ],
)
def test_a_usage_error_is_a_clear_line_and_exit_code_2(
    folder: Path, arguments: list[str], environ: dict[str, str], words: str
) -> None:
    ended = run([script("servekit"), "run", *arguments], folder, environ)
    assert ended.returncode == 2
    assert words in ended.stderr.splitlines()[-1]
    assert "Traceback" not in ended.stderr
    assert ended.stdout == ""


def test_serve_without_a_target_says_so(tmp_path: Path) -> None:
    ended = run([script("serve")], tmp_path)
    assert (ended.returncode, ended.stderr.count("\n")) == (2, 1)
    assert "TARGET" in ended.stderr


def test_a_load_that_fails_ends_the_process_with_the_cause_in_the_log(folder: Path) -> None:
    (folder / "broken").touch()
    with serve("predictor.py", platform="sagemaker", cwd=folder, ready=False) as server:
        assert server.wait(30) == 3
        assert "the weights are broken" in server.log


def test_the_version_and_the_help_come_without_heavy_imports(folder: Path) -> None:
    assert run([script("servekit"), "--version"], folder).stdout.strip() == f"servekit, version {servekit.__version__}"
    page = run([script("servekit"), "run", "--help"], folder).stdout
    for option in OPTIONS:
        assert option.flag in page
    heavy = "numpy", "fastapi", "onnxruntime", "uvicorn", "gunicorn", "gevent"
    code = f"import sys, servekit.cli; print([name for name in {heavy!r} if name in sys.modules])"
    assert run([sys.executable, "-c", code], folder).stdout.strip() == "[]"
