"""How a server is configured and started: targets, variables, `serve`, and what is refused."""

from __future__ import annotations

import json
import subprocess
import tarfile
from pathlib import Path
from typing import Any

import httpx2
import pytest
from serving import clean_environ, script, serve

ROOT = Path(__file__).parents[2]
SLOW = f"{Path(__file__).with_name('predictors.py')}:Slow"
HELLO = ROOT / "examples" / "hello"


def refused(*arguments: str, environ: dict[str, str] | None = None, command: str = "servekit") -> str:
    """The one line that a start which is refused prints."""
    full = [script(command), *(["run"] if command == "servekit" else []), *arguments]
    done = subprocess.run(full, capture_output=True, text=True, env=clean_environ(environ), timeout=30, check=False)
    assert done.returncode == 2, done
    assert "Traceback" not in done.stderr
    return done.stderr


@pytest.mark.parametrize(
    ("arguments", "environ", "says"),
    [
        (["nowhere.py"], {}, ["nowhere.py", "no such file"]),
        (["no.such:thing.at.all"], {}, ["class name"]),
        ([], {}, ["TARGET"]),
        ([SLOW, "--platform", "vertex"], {}, ["platform", "'vertex'", "sagemaker"]),
        ([SLOW, "--port", "http"], {}, ["port", "'http'", "--port"]),
        ([SLOW], {"SERVEKIT_PORT": "99999"}, ["port", "'99999'", "SERVEKIT_PORT"]),
        ([SLOW], {"PSC_MODEL_PORT": "x"}, ["port", "'x'", "PSC_MODEL_PORT"]),
        ([SLOW, "--worker", "sync"], {}, ["worker", "uvicorn, gevent"]),
        ([SLOW, "--workers", "0"], {}, ["workers", "'0'"]),
        ([SLOW, "--model-dir", "/nowhere"], {}, ["model_dir", "/nowhere"]),
        ([SLOW, "--platform", "sagemaker", "--drain-s", "40"], {}, ["40 s to linger", "30 s after SIGTERM"]),
        ([SLOW, "--platform", "sagemaker", "--finish-s", "25"], {}, ["8 s to linger + 25 s to finish + 2 s margin"]),
        (
            [SLOW],
            {"SAGEMAKER_BIND_TO_PORT": "8080", "PSC_MODEL_PORT": "8080"},
            ["auto", "SAGEMAKER_BIND_TO_PORT says sagemaker", "PSC_MODEL_PORT says modzy"],
        ),
    ],
)  # fmt: skip
def test_a_start_that_makes_no_sense_is_refused_in_one_line(
    arguments: list[str], environ: dict[str, str], says: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    line = refused(*arguments, environ=environ)
    for text in says:
        assert text in line


def test_flag_beats_variable_beats_platform_variable_beats_default() -> None:
    environ = {"SERVEKIT_WORKERS": "1", "SAGEMAKER_MODEL_SERVER_WORKERS": "3", "SAGEMAKER_MAX_PAYLOAD_IN_MB": "7"}
    with serve(SLOW, "--log-format", "text", environ=environ | {"SERVEKIT_KEEP_ALIV_S": "1"}) as server:
        line = next(line for line in server.log.splitlines() if "servekit 0." in line)
        assert f"port={server.port} (--port)" in line
        assert "workers=1 (SERVEKIT_WORKERS)" in line
        assert f"max_body_bytes={7 * 1024 * 1024} (SAGEMAKER_MAX_PAYLOAD_IN_MB)" in line
        assert "platform=sagemaker (auto: SAGEMAKER_MAX_PAYLOAD_IN_MB is set)" in line
        assert "host=0.0.0.0 (default)" in line
        assert "drain=8+18+2s (sagemaker)" in line
        assert "no such options: SERVEKIT_KEEP_ALIV_S" in server.log


@pytest.mark.parametrize(
    ("variable", "platform", "path"),
    [("SAGEMAKER_BIND_TO_PORT", "sagemaker", "/ping"), ("PSC_MODEL_PORT", "modzy", "/status")],
)
def test_the_platform_chooses_the_port(variable: str, platform: str, path: str) -> None:
    with serve(SLOW, environ={variable: "{port}"}, pass_port=False, ready=False) as server:
        server.wait_until(path)
        assert f"platform={platform} (auto: {variable} is set)" in server.log


def test_serve_takes_its_target_from_the_environment() -> None:
    environ = {"SERVEKIT_TARGET": str(HELLO), "SERVEKIT_PORT": "{port}", "SERVEKIT_PLATFORM": "sagemaker"}
    with serve(command=[script("serve")], environ=environ, pass_port=False, ready=False) as server:
        server.wait_until("/ping")
        reply = httpx2.post(server.url + "/invocations", content=b"hello world")
        assert reply.json() == {"prediction": "a", "text": "hello world"}


def test_serve_takes_its_target_from_a_model_archive(tmp_path: Path) -> None:
    """model.tar.gz: artifacts at the top, code in code/; unpacked, read-only, and untouched afterwards."""
    packed, model = tmp_path / "model.tar.gz", tmp_path / "opt" / "ml" / "model"
    weights = tmp_path / "weights.txt"
    weights.write_text("42")
    code = tmp_path / "inference.py"
    code.write_text(
        "from helper import double\n"
        "from servekit import Predictor, Tensor\n"
        "class Times(Predictor):\n"
        "    inputs = {'x': Tensor('float32')}\n"
        "    outputs = {'y': Tensor('float32')}\n"
        "    def load(self, model_dir):\n"
        "        self.factor = double(int((model_dir / 'weights.txt').read_text()))\n"
        "    def predict(self, x):\n"
        "        return x * self.factor\n"
    )
    helper = tmp_path / "helper.py"
    helper.write_text("def double(x):\n    return 2 * x\n")
    with tarfile.open(packed, "w:gz") as archive:
        archive.add(weights, "weights.txt")
        archive.add(code, "code/inference.py")
        archive.add(helper, "code/helper.py")
    model.mkdir(parents=True)
    # Python before 3.11.4 has no filters; the archive is our own.
    safely: dict[str, Any] = {"filter": "data"} if hasattr(tarfile, "data_filter") else {}
    with tarfile.open(packed) as archive:
        archive.extractall(model, **safely)  # noqa: S202 - made a few lines above
    for path in [*model.rglob("*"), model]:
        path.chmod(0o555 if path.is_dir() else 0o444)
    before = sorted(path.relative_to(model) for path in model.rglob("*"))
    try:
        environ = {"SAGEMAKER_BASE_DIR": str(tmp_path / "opt" / "ml"), "SAGEMAKER_BIND_TO_PORT": "{port}"}
        with serve(command=[script("serve")], environ=environ, pass_port=False, ready=False) as server:
            server.wait_until("/ping")
            reply = httpx2.post(server.url + "/invocations", json={"instances": [1, 2]})
            assert reply.json() == {"predictions": [84.0, 168.0]}
        assert sorted(path.relative_to(model) for path in model.rglob("*")) == before
    finally:
        for path in [model, *model.rglob("*")]:
            path.chmod(0o755)


def test_gunicorn_settings_from_outside_change_nothing(tmp_path: Path) -> None:
    (tmp_path / "gunicorn.conf.py").write_text("raise SystemExit('gunicorn.conf.py was run')\n")
    environ = {"GUNICORN_CMD_ARGS": "--bind 127.0.0.1:1", "WEB_CONCURRENCY": "7"}
    with serve(str(HELLO), "--workers", "1", platform="sagemaker", environ=environ, cwd=tmp_path) as server:
        assert httpx2.get(server.url + "/ping").status_code == 200
        assert "was run" not in server.log


def test_a_relative_target_and_a_module_target(tmp_path: Path) -> None:
    (tmp_path / "mine.py").write_text((HELLO / "predictor.py").read_text())
    for target in ("mine.py", "mine.py:Hello", "mine:Hello", "."):
        with serve(target, "--workers", "1", platform="sagemaker", cwd=tmp_path) as server:
            reply = httpx2.post(server.url + "/invocations", content=b"hi")
            assert reply.json()["text"] == "hi", target


def test_logs_are_json_lines_when_stdout_is_no_terminal() -> None:
    with serve(str(HELLO), "--workers", "1", "--drain-s", "0", platform="sagemaker") as server:
        httpx2.post(server.url + "/invocations", content=b"hi", headers={"X-Request-Id": "me-1"})
        httpx2.get(server.url + "/nothing%0d%0ahere", headers={"X-Request-Id": "me-2"})
        server.terminate()
        assert server.wait(20) == 0
        records = [json.loads(line) for line in server.log.splitlines()]
        assert all({"time", "level", "logger", "message"} <= set(record) for record in records)
        [mine] = [record for record in records if record.get("request_id") == "me-1"]
        assert (mine["method"], mine["path"], mine["status"]) == ("POST", "/invocations", 200)
        assert [record["status"] for record in records if record.get("request_id") == "me-2"] == [404]
