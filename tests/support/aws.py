"""AWS's control planes for tests: moto's server as a process, and a door before it that changes the answers it is told to.

moto knows S3, ECR, STS and SageMaker, where everything succeeds at once. What the door adds: statuses that advance and
fail, refusals, cut connections, and UpdateEndpoint, which moto has not.
"""

from __future__ import annotations

import http.client
import json
import os
import re
import socket
import struct
import subprocess
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs

import boto3
import botocore.session
import httpx2
import pytest
from botocore.config import Config
from click.testing import CliRunner
from clients import clients_python
from serving import clean_environ, free_port, script

from servekit.cli import main

START_S = 60.0
MAX_S = 90
REGION, ACCOUNT = "us-east-1", "123456789012"
ROLE = f"arn:aws:iam::{ACCOUNT}:role/SageMakerExecution"
ACCESS_KEY, SECRET_KEY, TOKEN = (
    "AKIAEXAMPLEEXAMPLE00",
    "example/secret/key/of/forty/characters00",
    "example-session-token",
)
REQUEST_ID = "0f1e2d3c-example-request"

Change = Callable[[dict[str, Any]], dict[str, Any]]


@dataclass
class Rule:
    """operation: a regex of all of `DescribeModelPackage`, or of `PUT /bucket/key` for S3.

    One of: error (status, code, message); change of the JSON that moto answers; cut: no answer, before or after moto
    has done it; hang: none until `released`; body: these bytes instead.
    """

    operation: re.Pattern[str]
    times: int
    error: tuple[int, str, str] | None = None
    change: Change | None = None
    cut: str = ""
    body: bytes | None = None
    hang: bool = False


@dataclass
class Cloud:
    """url: of the door. moto_url: behind it. asked: the operations that came, in order."""

    url: str
    moto_url: str
    rules: list[Rule] = field(default_factory=list)
    asked: list[str] = field(default_factory=list)
    bodies: list[tuple[str, dict[str, Any]]] = field(default_factory=list)
    reached: threading.Event = field(default_factory=threading.Event)
    released: threading.Event = field(default_factory=threading.Event)
    lock: threading.Lock = field(default_factory=threading.Lock)

    def rule(self, operation: str, *, times: int = 1, **what: Any) -> None:
        with self.lock:
            self.rules.append(Rule(re.compile(operation), times, **what))

    def forget(self) -> None:
        with self.lock:
            self.rules.clear()
            self.asked.clear()
            self.bodies.clear()
            self.reached.clear()
            self.released.clear()

    def bodies_of(self, operation: str) -> list[dict[str, Any]]:
        return [body for name, body in self.bodies if name == operation]

    def client(self, service: str) -> Any:
        """Straight to moto."""
        # This machine's own profile is none of our business.
        session = botocore.session.Session(session_vars={"profile": (None, None, None, None)})
        return boto3.Session(botocore_session=session).client(
            service, region_name=REGION, endpoint_url=self.moto_url, aws_access_key_id=ACCESS_KEY,
            aws_secret_access_key=SECRET_KEY, config=Config(retries={"total_max_attempts": 1}),
        )  # fmt: skip

    def environ(self, **more: str) -> dict[str, str]:
        """For the command: nothing of this machine's AWS."""
        return (
            _environ()
            | {
                "NO_PROXY": "127.0.0.1",
                "AWS_ENDPOINT_URL": self.url,
                "AWS_DEFAULT_REGION": REGION,
                "AWS_ACCESS_KEY_ID": ACCESS_KEY,
                "AWS_SECRET_ACCESS_KEY": SECRET_KEY,
                "AWS_SESSION_TOKEN": TOKEN,
                "AWS_CONFIG_FILE": "/nonexistent",
                "AWS_SHARED_CREDENTIALS_FILE": "/nonexistent",
                "AWS_EC2_METADATA_DISABLED": "true",
                "AWS_MAX_ATTEMPTS": "2",
            }
            | more
        )


@dataclass(frozen=True)
class Ended:
    code: int
    out: str
    err: str

    @property
    def document(self) -> dict[str, Any]:
        found = json.loads(self.out)
        assert isinstance(found, dict)
        return found


def command(cloud: Cloud, *arguments: str, cwd: Path | None = None, environ: Mapping[str, str] | None = None) -> Ended:
    """The real command, whose output never holds a credential."""
    ended = subprocess.run(
        [script("servekit"), *arguments],
        env=cloud.environ(**(environ or {})), cwd=cwd, stdin=subprocess.DEVNULL,
        capture_output=True, text=True, timeout=MAX_S, check=False,
    )  # fmt: skip
    for secret in (SECRET_KEY, TOKEN):
        assert secret not in ended.stdout + ended.stderr
    assert "Traceback" not in ended.stderr, ended.stderr
    return Ended(ended.returncode, ended.stdout, ended.stderr)


def inside(cloud: Cloud, *arguments: str, cwd: Path | None = None, environ: Mapping[str, str] | None = None) -> Ended:
    """The same within this process, which starts faster: for tables of small cases."""
    assert cwd is None
    wanted = cloud.environ(**(environ or {}))
    # None takes a variable away.
    ended = CliRunner(env={**dict.fromkeys(os.environ.keys() - wanted.keys()), **wanted}).invoke(main, list(arguments))
    if ended.exception is not None and not isinstance(ended.exception, SystemExit):
        raise ended.exception
    for secret in (SECRET_KEY, TOKEN):
        assert secret not in ended.output
    return Ended(ended.exit_code, ended.stdout, ended.stderr)


@contextmanager
def cloud() -> Iterator[Cloud]:
    """moto's server and the door before it, on free ports."""
    python = clients_python()
    if python is None:
        pytest.skip("moto is not installed: sh scripts/setup-clients")
    port = free_port()
    with tempfile.NamedTemporaryFile("wb", suffix=".log") as log:
        process = subprocess.Popen(
            [python, "-W", "ignore", "-m", "moto.server", "-H", "127.0.0.1", "-p", str(port)],
            env=_environ(), stdout=log, stderr=subprocess.STDOUT,
        )  # fmt: skip
        try:
            _wait(process, port, Path(log.name))
            with _door(port) as made:
                yield made
        finally:
            process.terminate()
            with suppress(subprocess.TimeoutExpired):
                process.wait(20)
            process.kill()
            process.wait()


def _environ() -> dict[str, str]:
    return {name: value for name, value in clean_environ().items() if not name.startswith("AWS_")}


def _wait(process: subprocess.Popen[bytes], port: int, log: Path) -> None:
    end_s = time.monotonic() + START_S
    while True:
        assert process.poll() is None, log.read_text(errors="replace")
        assert time.monotonic() < end_s, log.read_text(errors="replace")
        with suppress(httpx2.TransportError):
            if httpx2.get(f"http://127.0.0.1:{port}/moto-api/data.json").status_code == 200:
                return
        time.sleep(0.05)


@contextmanager
def _door(moto_port: int) -> Iterator[Cloud]:
    server = _Server(("127.0.0.1", 0), _Handler)
    server.moto_port = moto_port
    server.cloud = Cloud(f"http://127.0.0.1:{server.server_port}", f"http://127.0.0.1:{moto_port}")
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True)
    thread.start()
    try:
        yield server.cloud
    finally:
        server.cloud.released.set()
        server.shutdown()
        thread.join(10)
        server.server_close()


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    moto_port: int
    cloud: Cloud

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Callers that leave are what some tests are about."""


class _Handler(BaseHTTPRequestHandler):
    server: _Server
    protocol_version = "HTTP/1.1"

    def _answer(self) -> None:
        cloud = self.server.cloud
        body = self._body()
        operation = self._operation(body)
        with cloud.lock:
            cloud.asked.append(operation)
            with suppress(ValueError):
                cloud.bodies.append((operation, json.loads(body)))
            rule = next((rule for rule in cloud.rules if rule.times > 0 and rule.operation.fullmatch(operation)), None)
            if rule is not None:
                rule.times -= 1
        if rule is not None and rule.hang:
            cloud.reached.set()
            cloud.released.wait(MAX_S)
        if rule is not None and rule.cut == "before":
            return self._cut()
        if rule is not None and rule.error is not None:
            return self._refuse(*rule.error)
        if rule is not None and rule.body is not None:
            return self._say(200, {"content-type": "text/html"}, rule.body)
        status, headers, answer = self._update(body) if operation == "UpdateEndpoint" else self._forward(body)
        if rule is not None and rule.cut == "after":
            return self._cut()
        if rule is not None and rule.change is not None and status == 200:
            answer = json.dumps(rule.change(json.loads(answer))).encode()
        return self._say(status, headers, answer)

    do_GET = do_PUT = do_POST = do_HEAD = do_DELETE = _answer  # noqa: N815 - http.server's names

    def log_message(self, *_: Any) -> None:
        """Silent."""

    def _body(self) -> bytes:
        if "chunked" not in self.headers.get("transfer-encoding", ""):
            if self.headers.get("expect", "").lower() == "100-continue":
                pass  # http.server has answered it
            return self.rfile.read(int(self.headers.get("content-length") or 0))
        chunks = []
        while size := int(self.rfile.readline().split(b";")[0], 16):
            chunks.append(self.rfile.read(size))
            self.rfile.readline()
        while self.rfile.readline().strip():
            pass
        return b"".join(chunks)

    def _operation(self, body: bytes) -> str:
        target = self.headers.get("x-amz-target", "")
        if target:
            return str(target.rpartition(".")[2])
        action = parse_qs(body[:2000].decode("latin-1")).get("Action") if self.command == "POST" else None
        return action[0] if action else f"{self.command} {self.path}"

    def _forward(self, body: bytes, target: str | None = None) -> tuple[int, dict[str, str], bytes]:
        headers = {
            name: value
            for name, value in self.headers.items()
            if name.lower() not in ("transfer-encoding", "content-length", "expect", "connection")
        }
        if target is not None:
            headers["X-Amz-Target"] = f"SageMaker.{target}"
        connection = http.client.HTTPConnection("127.0.0.1", self.server.moto_port, timeout=MAX_S)
        try:
            connection.request(self.command, self.path, body, headers | {"Content-Length": str(len(body))})
            reply = connection.getresponse()
            return reply.status, {name.lower(): value for name, value in reply.getheaders()}, reply.read()
        finally:
            connection.close()

    def _update(self, body: bytes) -> tuple[int, dict[str, str], bytes]:
        """The endpoint with another configuration."""
        name = json.dumps({"EndpointName": json.loads(body)["EndpointName"]}).encode()
        status, headers, answer = self._forward(name, "DeleteEndpoint")
        return (status, headers, answer) if status != 200 else self._forward(body, "CreateEndpoint")

    def _refuse(self, status: int, code: str, message: str) -> None:
        if self.headers.get("x-amz-target"):
            body, kind = json.dumps({"__type": code, "message": message}).encode(), "application/x-amz-json-1.1"
        elif self.command == "POST" and self.path == "/":
            error = f"<Error><Type>Sender</Type><Code>{code}</Code><Message>{message}</Message></Error>"
            body = f"<ErrorResponse>{error}<RequestId>{REQUEST_ID}</RequestId></ErrorResponse>".encode()
            kind = "text/xml"
        else:
            body = f"<Error><Code>{code}</Code><Message>{message}</Message></Error>".encode()
            kind = "application/xml"
        self._say(status, {"content-type": kind, "x-amzn-requestid": REQUEST_ID, "x-amz-request-id": REQUEST_ID}, body)

    def _say(self, status: int, headers: Mapping[str, str], body: bytes) -> None:
        self.send_response_only(status)
        for name, value in headers.items():
            if name not in ("transfer-encoding", "connection", "content-length"):
                self.send_header(name, value)
        length = headers.get("content-length", "0") if self.command == "HEAD" else str(len(body))
        self.send_header("content-length", length)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def _cut(self) -> None:
        self.close_connection = True
        self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.connection.close()
