"""What each platform demands of an image, and the files that are started in it, as real processes."""

from __future__ import annotations

import http.server
import os
import re
import subprocess
import sys
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from serving import clean_environ, free_port, serve

from servekit.containers import Container, Product
from servekit.launch.platforms import installed
from servekit.platforms.modelarts.container import BOOT, HEALTH, SETUP
from servekit.signature import Image, Signature, Tensor

DIGITS = Product("digits", "1.0.0", Signature({"images": Image("L", 28, 28)}, {"mnist_result": Tensor("int64")}))
HELLO = Path(__file__).parents[2] / "examples" / "hello"


def demanded(platform: str, product: Product = DIGITS) -> Container:
    make = installed()[platform].container
    assert make is not None
    return make(product)


# --- the demands -----------------------------------------------------------------------------------------------


def test_sagemaker() -> None:
    assert demanded("sagemaker") == Container(
        command=("serve",),
        environment={"SERVEKIT_PLATFORM": "sagemaker"},
        labels={"com.amazonaws.sagemaker.capabilities.accept-bind-to-port": "true"},
        ports=(8080,),
    )


def test_modelarts() -> None:
    container = demanded("modelarts")
    assert container.command == ("sh", "/home/run.sh")
    assert container.user == "1000:100"
    assert container.environment == {"SERVEKIT_PLATFORM": "modelarts"}
    assert (container.ports, container.packages, container.labels) == ((8080,), (), {})
    assert set(container.files) == {"/home/run.sh", "/home/mind/run.sh", "/home/ma-user/health.sh"}
    assert container.files["/home/run.sh"] == container.files["/home/mind/run.sh"]
    for file in container.files.values():
        assert file.executable
        assert file.content.startswith(b"#!/bin/sh\n")
    assert set(container.manifests) == {"config.json"}


def test_modelarts_for_batch_services() -> None:
    batch = Product(DIGITS.name, DIGITS.version, DIGITS.signature, batch=True)
    assert demanded("modelarts", batch).packages == ("default-jre-headless", "zip")


def test_modzy() -> None:
    container = demanded("modzy")
    assert container.command == ("servekit", "run")
    assert container.environment == {"SERVEKIT_PLATFORM": "modzy", "PSC_MODEL_PORT": "8080"}
    assert (container.ports, container.user, container.packages, container.files) == ((8080,), "", (), {})
    assert set(container.manifests) == {"model.yaml"}


@pytest.mark.parametrize("platform", ["sagemaker", "modelarts", "modzy"])
def test_of_any_platform(platform: str) -> None:
    container = demanded(platform)
    assert demanded(platform) == container, "pure"
    for command in container.setup:
        assert "\n" not in command, "a line of a Dockerfile"
    for path in container.files:
        assert path.startswith("/")
        assert ".." not in path
    for name in container.manifests:
        assert "/" not in name
        assert name in installed()[platform].files, "what is written is what is read"


def test_a_server_that_starts_loads_nothing_of_it() -> None:
    left_out = (
        "servekit.containers",
        "yaml",
        "servekit.platforms.modelarts.config_out",
        "servekit.platforms.modzy.manifest_out",
    )
    code = "import sys\n" + "".join(
        f"import servekit.platforms.{name}\n" for name in ("sagemaker", "modelarts", "modzy")
    )
    code += f"print([name for name in {left_out!r} if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60)
    assert done.stdout.strip() == "[]"


# --- run.sh ----------------------------------------------------------------------------------------------------


@pytest.fixture
def boot(tmp_path: Path) -> Path:
    path = tmp_path / "run.sh"
    path.write_text(BOOT)
    return path


def probe(tmp_path: Path, *arguments: str, **environ: str) -> subprocess.CompletedProcess[str]:
    script = tmp_path / "health.sh"
    script.write_text(HEALTH)
    return subprocess.run(
        ["/bin/sh", str(script), *arguments],
        cwd=tmp_path, env=clean_environ(on_path(environ)), capture_output=True, text=True, timeout=30, check=False,
    )  # fmt: skip


def on_path(environ: Mapping[str, str]) -> dict[str, str]:
    """With the commands of the environment that runs the tests, as an image has its own."""
    return {"PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}", "SERVEKIT_TARGET": str(HELLO), **environ}


def test_run_sh_becomes_the_server_and_health_sh_finds_it(boot: Path, tmp_path: Path) -> None:
    environ = on_path({"SERVEKIT_PORT": "{port}", "SERVEKIT_WORKERS": "1", "SERVEKIT_DRAIN_S": "0"})
    with serve(command=("sh", str(boot)), environ=environ, pass_port=False, ready=False) as server:
        server.wait_until("/health")
        assert "platform=modelarts (SERVEKIT_PLATFORM)" in server.log
        # The process that was the shell is the server.
        assert Path(f"/proc/{server.process.pid}/exe").resolve().name.startswith("python")
        port = str(server.port)
        assert probe(tmp_path, SERVEKIT_PORT=port).returncode == 0
        assert probe(tmp_path, SERVEKIT_PORT=port, SERVEKIT_HOST="0.0.0.0").returncode == 0
        missing = probe(tmp_path, "/alive", SERVEKIT_PORT=port)
        assert (missing.returncode, missing.stderr) == (1, "health: status 404\n")
        server.terminate()
        assert server.wait(20) == 0
        refused = probe(tmp_path, SERVEKIT_PORT=port)
        assert refused.returncode == 1
        assert refused.stderr.startswith("health: ConnectionRefusedError")


@pytest.mark.parametrize(
    ("environ", "platform"),
    [
        ({}, "modelarts"),
        ({"SERVEKIT_PLATFORM": ""}, "modelarts"),
        ({"SERVEKIT_PLATFORM": "all"}, "all"),
        ({"PSC_MODEL_PORT": "8080"}, None),
        ({"PSC_MODEL_PORT": "8080", "SERVEKIT_PLATFORM": "modelarts"}, "modelarts"),
        ({"SAGEMAKER_BIND_TO_PORT": "8080"}, "modelarts"),
    ],
)
def test_run_sh_chooses_the_platform(environ: dict[str, str], platform: str | None, boot: Path, tmp_path: Path) -> None:
    # A command called servekit that says how it was called.
    told = tmp_path / "bin" / "servekit"
    told.parent.mkdir()
    told.write_text('#!/bin/sh\nprintf "%s\\n" "${SERVEKIT_PLATFORM:-none}" "$@"\n')
    told.chmod(0o755)
    done = subprocess.run(
        ["sh", str(boot), "--workers", "a b"],
        env=clean_environ({**environ, "PATH": f"{told.parent}:/usr/bin:/bin"}),
        capture_output=True, text=True, timeout=30, check=True,
    )  # fmt: skip
    assert done.stdout.splitlines() == [platform or "none", "run", "--workers", "a b"]


def test_with_modzys_port_auto_finds_modzy(boot: Path) -> None:
    environ = on_path({"PSC_MODEL_PORT": "{port}"})
    with serve(command=("sh", str(boot)), environ=environ, pass_port=False, ready=False) as server:
        server.wait_until("/status")
        assert "platform=modzy (auto: PSC_MODEL_PORT is set)" in server.log


# --- health.sh -------------------------------------------------------------------------------------------------


@contextmanager
def answering(status: int) -> Iterator[int]:
    """A server on a free port that answers everything with `status`."""

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(status)
            self.send_header("Content-Length", "0")
            self.end_headers()

        def log_message(self, *arguments: Any) -> None:
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield server.server_address[1]
        server.shutdown()
        thread.join()


@pytest.mark.parametrize(("status", "code"), [(200, 0), (204, 1), (302, 1), (404, 1), (503, 1)])
def test_health_sh_takes_200_alone(status: int, code: int, tmp_path: Path) -> None:
    with answering(status) as port:
        assert probe(tmp_path, SERVEKIT_PORT=str(port)).returncode == code


def test_health_sh_goes_through_no_proxy_and_imports_nothing_of_others(tmp_path: Path) -> None:
    (tmp_path / "http.py").write_text("raise SystemExit(0)")
    proxy = f"http://127.0.0.1:{free_port()}"
    with answering(200) as port:
        done = probe(tmp_path, SERVEKIT_PORT=str(port), http_proxy=proxy, HTTP_PROXY=proxy, PYTHONPATH=str(tmp_path))
        assert done.returncode == 0
    with answering(503) as port:
        done = probe(tmp_path, SERVEKIT_PORT=str(port), PYTHONPATH=str(tmp_path))
        assert (done.returncode, done.stderr) == (1, "health: status 503\n")


def test_health_sh_needs_nothing_but_sh_and_python(tmp_path: Path) -> None:
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin" / "python3").symlink_to(sys.executable)
    with answering(200) as port:
        done = probe(tmp_path, SERVEKIT_PORT=str(port), PATH=str(tmp_path / "bin"))
    assert done.returncode == 0, done.stderr


def test_a_port_that_is_none_fails_in_one_line(tmp_path: Path) -> None:
    done = probe(tmp_path, SERVEKIT_PORT="http")
    assert done.returncode == 1
    assert done.stderr.startswith("health: ValueError")
    assert len(done.stderr.splitlines()) == 1


# --- the user --------------------------------------------------------------------------------------------------

ROOT_USER, ROOT_GROUP = "root:x:0:0:root:/root:/bin/bash", "root:x:0:"
MA_USER = "ma-user:*:1000:100::/home/ma-user:/bin/sh"


def set_up(root: Path, passwd: list[str], group: list[str], *, times: int = 1) -> tuple[list[str], list[str]]:
    """/etc/passwd and /etc/group after the commands, which here run in `root`."""
    for path, lines in (("etc/passwd", passwd), ("etc/group", group)):
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        (root / path).write_text("".join(line + "\n" for line in lines))
    for command in SETUP * times:
        inside = re.sub(r"(?<=[ >])/(?=(?:etc|home|tmp)\b)", f"{root}/", command)
        assert inside != command
        if "chown" in inside and os.geteuid() != 0:
            continue  # nobody else may give files away
        subprocess.run(["sh", "-euc", inside], check=True, timeout=30, capture_output=True)
    return (root / "etc/passwd").read_text().splitlines(), (root / "etc/group").read_text().splitlines()


@pytest.mark.parametrize("times", [1, 2])
@pytest.mark.parametrize(
    ("passwd", "group", "expected_passwd", "expected_group"),
    [
        pytest.param([ROOT_USER], [ROOT_GROUP], [ROOT_USER, MA_USER], [ROOT_GROUP, "ma-group:x:100:"], id="bare"),
        pytest.param(
            [ROOT_USER], [ROOT_GROUP, "users:x:100:", "nogroup:x:65534:"],
            [ROOT_USER, MA_USER], [ROOT_GROUP, "ma-group:x:100:", "nogroup:x:65534:"], id="Debian",
        ),
        pytest.param(
            [ROOT_USER, "ubuntu:x:1000:1000:Ubuntu:/home/ubuntu:/bin/bash"], [ROOT_GROUP, "users:x:100:ubuntu", "ubuntu:x:1000:"],
            [ROOT_USER, "ma-user:*:1000:100:Ubuntu:/home/ma-user:/bin/bash"], [ROOT_GROUP, "ma-group:x:100:ubuntu", "ubuntu:x:1000:"], id="uid taken",
        ),
        pytest.param(
            ["ma-user:x:1000:100::/home/ma-user:/bin/bash"], ["ma-group:x:100:"],
            ["ma-user:*:1000:100::/home/ma-user:/bin/bash"], ["ma-group:x:100:"], id="already there",
        ),
        pytest.param(
            ["ma-user:x:1001:1001::/home/ma-user:/bin/sh", "app:x:1000:1000::/app:/bin/sh"], ["ma-group:x:1001:", "app:x:1000:", "users:x:100:"],
            [MA_USER], ["app:x:1000:", "ma-group:x:100:"], id="names with other numbers",
        ),
        pytest.param(
            ["a:x:10001:100::/:/bin/sh", "b:x:100:1000::/:/bin/sh"], ["c:x:1000:", "d:x:10:100", "e:x:1100:"],
            ["a:x:10001:100::/:/bin/sh", "b:x:100:1000::/:/bin/sh", MA_USER], ["c:x:1000:", "d:x:10:100", "e:x:1100:", "ma-group:x:100:"], id="numbers alike",
        ),
    ],
)  # fmt: skip
def test_ma_user(
    passwd: list[str],
    group: list[str],
    expected_passwd: list[str],
    expected_group: list[str],
    times: int,
    tmp_path: Path,
) -> None:
    assert set_up(tmp_path, passwd, group, times=times) == (expected_passwd, expected_group)


@pytest.mark.skipif(os.geteuid() != 0, reason="gives a directory to another user, which needs root")
def test_the_home_is_his_and_what_lies_in_it_stays(tmp_path: Path) -> None:
    kept = tmp_path / "home" / "ma-user" / "kept"
    kept.mkdir(parents=True)
    kept.chmod(0o700)
    kept.parent.chmod(0o700)
    set_up(tmp_path, [ROOT_USER], [ROOT_GROUP])
    home = kept.parent.stat()
    assert (home.st_uid, home.st_gid, home.st_mode & 0o7777) == (1000, 100, 0o755)
    assert (kept.stat().st_uid, kept.stat().st_mode & 0o7777) == (0, 0o700)
    assert (tmp_path / "tmp").stat().st_mode & 0o7777 == 0o1777
