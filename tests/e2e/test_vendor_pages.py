"""Every curl line of the vendors' pages, as printed there, against the demo; only the address is ours.

Sources: Huawei Cloud ModelArts, "Specifications for Custom Images Used for Importing Models"; AWS Marketplace Seller
Guide, "Model package images".
"""

from __future__ import annotations

import json
import os
import shlex
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from serving import Server, clean_environ, free_port, serve

ROOT = Path(__file__).parents[2]
pytestmark = pytest.mark.skipif(shutil.which("curl") is None, reason="needs curl")


def curl(line: str, server: Server, cwd: Path) -> str:
    """Run a line of a page: `{host}` stands for the address in it."""
    words = shlex.split(line.replace("{host}", f"127.0.0.1:{server.port}"))
    done = subprocess.run([*words, "--silent", "--show-error"], cwd=cwd, capture_output=True, text=True, check=True)
    return done.stdout


@contextmanager
def demo(example: str) -> Iterator[Server]:
    """`sh scripts/demo EXAMPLE` where the suite runs on the environment that it makes; else what it would run."""
    if os.environ.get("SERVEKIT_TEST_INSTALLED") != "1":
        with serve(str(ROOT / "examples" / example), platform="all") as server:
            yield server
        return
    port = free_port()
    # The interpreter that the environment was made with: another one would make it anew, under our feet.
    environ = clean_environ({name: os.environ[name] for name in ("SERVEKIT_PYTHON",) if name in os.environ})
    process = subprocess.Popen(
        ["sh", "scripts/demo", example, str(port)], cwd=ROOT, env=environ, stdout=subprocess.DEVNULL
    )
    server = Server(process, port, Path(os.devnull))
    try:
        server.wait_until("/ping")
        yield server
        process.terminate()
        assert process.wait(40) == 0
    finally:
        process.kill()
        process.wait()


@pytest.mark.slow
def test_digits() -> None:
    folder = ROOT / "examples" / "digits"
    with demo("digits") as server:
        answer = curl("curl -X POST http://{host}/ -F images=@seven.jpg", server, folder)
        assert json.loads(answer) == {"mnist_result": 7}
        assert curl("curl -X GET http://{host}/health", server, folder) == '{"health":"true"}'
        assert curl("curl --include http://{host}/ping", server, folder).startswith("HTTP/1.1 200 OK\n")


@pytest.mark.slow
def test_hello() -> None:
    with demo("hello") as server:
        answer = curl('curl --request POST --data "hello world" http://{host}/invocations', server, ROOT)
        assert json.loads(answer) == {"prediction": "a", "text": "hello world"}
        assert curl("curl --include http://{host}/ping", server, ROOT).startswith("HTTP/1.1 200 OK\n")
