"""A real builder pushes into a registry that asks for the password, which SWR's API has given away; then it is published."""

from __future__ import annotations

import base64
import hashlib
import http.server
import json
import os
import re
import subprocess
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import pytest
from builders import own_store, why_not
from emulated import ACCESS_KEY, PROJECT_ID, SECRET_KEY, emulate
from projects import write
from serving import clean_environ, script

from servekit.images.builder import find
from servekit.publish.failures import NotUnderstood, Unauthorised
from servekit.publish.http import Transport
from servekit.publish.modelarts import push
from servekit.publish.modelarts.client import Caller
from servekit.publish.modelarts.credentials import Keys
from servekit.publish.modelarts.signer import KeyPair, Signer
from servekit.publish.secrets import Secret

MAX_S = 90
TOOLS = ["buildah", "podman"]
UPLOADS = re.compile(r"/v2/(?P<name>.+)/blobs/uploads/?(?P<id>[0-9]*)")
BLOB = re.compile(r"/v2/(?P<name>.+)/blobs/(?P<digest>sha256:[0-9a-f]{64})")
MANIFEST = re.compile(r"/v2/(?P<name>.+)/manifests/(?P<reference>.+)")


@dataclass
class Registry:
    """logins: of all who came. manifests: by name:reference. types: of the manifests."""

    port: int = 0
    logins: list[str] = field(default_factory=list)
    blobs: dict[str, bytes] = field(default_factory=dict)
    uploads: dict[str, bytes] = field(default_factory=dict)
    manifests: dict[str, bytes] = field(default_factory=dict)
    types: list[str] = field(default_factory=list)


class Handler(http.server.BaseHTTPRequestHandler):
    """As much of the registry's protocol as a push takes. Whoever has some user and password gets in."""

    protocol_version = "HTTP/1.1"
    registry: Registry

    def answer(self, status: int, content: bytes = b"", **headers: str) -> None:
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name.replace("_", "-"), value)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(content)

    def body(self) -> bytes:
        if "chunked" in self.headers.get("Transfer-Encoding", ""):
            whole = b""
            while size := int(self.rfile.readline().partition(b";")[0], 16):
                whole += self.rfile.read(size)
                self.rfile.readline()
            self.rfile.readline()
            return whole
        return self.rfile.read(int(self.headers.get("Content-Length", 0)))

    def handle_one(self) -> None:
        content = self.body()
        given = self.headers.get("Authorization", "")
        if not given.startswith("Basic "):
            self.answer(401, WWW_Authenticate='Basic realm="test"')
            return
        self.registry.logins.append(base64.b64decode(given[6:]).decode())
        parts = urlsplit(self.path)
        if parts.path == "/v2/":
            self.answer(200, b"{}")
        elif found := UPLOADS.fullmatch(parts.path):
            self.upload(found["name"], found["id"], content, parse_qs(parts.query).get("digest", [""])[0])
        elif found := BLOB.fullmatch(parts.path):
            known = self.registry.blobs.get(found["digest"])
            self.answer(404 if known is None else 200, known or b"", Docker_Content_Digest=found["digest"])
        elif found := MANIFEST.fullmatch(parts.path):
            self.manifest(f"{found['name']}:{found['reference']}", content)
        else:
            self.answer(404)

    def upload(self, name: str, number: str, content: bytes, digest: str) -> None:
        uploads = self.registry.uploads
        if self.command == "POST":
            number = str(len(uploads) + 1)
            uploads[number] = b""
        uploads[number] += content
        if digest:
            assert digest == f"sha256:{hashlib.sha256(uploads[number]).hexdigest()}"
            self.registry.blobs[digest] = uploads[number]
        where = f"/v2/{name}/blobs/uploads/{number}"
        self.answer(201 if digest else 202, Location=where, Range=f"0-{max(len(uploads[number]) - 1, 0)}")

    def manifest(self, key: str, content: bytes) -> None:
        if self.command == "PUT":
            self.registry.manifests[key] = content
            self.registry.types.append(self.headers["Content-Type"])
            self.answer(201, Docker_Content_Digest=f"sha256:{hashlib.sha256(content).hexdigest()}")
        else:
            self.answer(404)

    do_GET = do_HEAD = do_POST = do_PATCH = do_PUT = handle_one  # noqa: N815 - as the base class calls them

    def log_message(self, *arguments: Any) -> None:
        pass


@contextmanager
def registry() -> Iterator[Registry]:
    made = Registry()

    class Bound(Handler):
        registry = made

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Bound) as server:
        made.port = server.server_port
        threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()
        try:
            yield made
        finally:
            server.shutdown()


@pytest.mark.images
@pytest.mark.parametrize("name", TOOLS)
def test_push_logs_in_by_itself_and_publishes_what_it_has_pushed(name: str, tmp_path: Path) -> None:
    reason = why_not(name)
    if reason is not None:
        pytest.skip(f"{name}: {reason}")
    environ: dict[str, str] = dict(os.environ) | dict(own_store(tmp_path))
    folder = write(tmp_path / "context", {"Dockerfile": "FROM scratch\nCOPY hello /hello\n", "hello": "world"})
    tool = find(name)
    subprocess.run(
        [tool.program, "build", "--format", "docker", "--tag", "localhost/digits:1.0.0", str(folder)],
        env=environ, capture_output=True, timeout=MAX_S, check=True,
    )  # fmt: skip
    with registry() as target, emulate("modelarts", "--registry", f"127.0.0.1:{target.port}") as emulator:
        path = f"127.0.0.1:{target.port}/team/digits:1.0.0"
        subprocess.run(
            [tool.program, "tag", "localhost/digits:1.0.0", path], env=environ, capture_output=True, timeout=MAX_S,
            check=True,
        )  # fmt: skip
        auth = tmp_path / "auth.json"
        auth.write_text("{}")
        variables = clean_environ({
            **environ, "SERVEKIT_MODELARTS_ENDPOINT": emulator.url, "SERVEKIT_MODELARTS_REGION": "cn-north-4",
            "SERVEKIT_MODELARTS_PROJECT_ID": PROJECT_ID, "HUAWEICLOUD_SDK_AK": ACCESS_KEY,
            "HUAWEICLOUD_SDK_SK": SECRET_KEY, "REGISTRY_AUTH_FILE": str(auth),
        })  # fmt: skip
        command = [script("servekit"), "publish", "modelarts", path, "--builder", name, "--json"]
        done = subprocess.run([*command, "--push"], env=variables, capture_output=True, text=True, timeout=MAX_S)
        # The digest of what is kept here is another one, and says nothing about the registry's.
        again = subprocess.run(command, env=variables, capture_output=True, text=True, timeout=MAX_S)
    assert done.returncode == 0, done.stderr
    assert again.returncode == 0, again.stderr
    document = json.loads(done.stdout)
    assert json.loads(again.stdout)["image"]["id"] == document["image"]["id"]
    assert document["made"][0]["what"] == "image in SWR"
    manifest = target.manifests["team/digits:1.0.0"]
    assert document["digest"] == f"sha256:{hashlib.sha256(manifest).hexdigest()}"
    assert document["image"]["status"] == "ACTIVE"
    # Docker's own form, which is all that SWR takes.
    assert set(target.types) == {"application/vnd.docker.distribution.manifest.v2+json"}
    logins = set(target.logins)
    ((user, _, password),) = [login.partition(":") for login in logins]
    assert user == f"cn-north-4@{ACCESS_KEY}"
    assert password not in done.stdout + done.stderr
    # The user's own logins are as they were.
    assert auth.read_text() == "{}"


# --- the answer of SWR ---


@contextmanager
def swr(document: Any) -> Iterator[Caller]:
    class Page(http.server.BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            assert self.path == "/v2/manage/utils/secret?projectname=eu-de"
            content = json.dumps(document).encode()
            self.send_response(200)
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)

        def log_message(self, *arguments: Any) -> None:
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Page) as server:
        threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()
        keys = Keys(Signer(KeyPair("key", Secret("secret-key"))))
        with Caller(Transport(f"http://127.0.0.1:{server.server_port}", authorise=keys), keys) as caller:
            yield caller
        server.shutdown()


def entry(login: str) -> Mapping[str, str]:
    return {"auth": base64.b64encode(login.encode()).decode()}


def test_a_password_may_hold_a_colon() -> None:
    with swr({"auths": {"swr.eu-de.otc.t-systems.com": entry("eu-de@KEY:pass:word")}}) as caller:
        login = push.registry_login(caller, "swr.eu-de.otc.t-systems.com", "eu-de")
    assert (login.user, login.password.reveal()) == ("eu-de@KEY", "pass:word")
    assert "pass:word" not in repr(login)


@pytest.mark.parametrize(
    "document",
    [{}, {"auths": []}, {"auths": {}}, {"auths": {"r.example.com": {}}}, {"auths": {"r.example.com": None}},
     {"auths": {"r.example.com": {"auth": "%"}}}, {"auths": {"r.example.com": entry("nobody")}},
     {"auths": {"r.example.com": entry("user:")}}, {"auths": {"r.example.com": entry("user:a\nb")}}],
)  # fmt: skip
def test_an_answer_without_a_login(document: Any) -> None:
    with swr(document) as caller, pytest.raises(NotUnderstood, match="expected auths"):
        push.registry_login(caller, "r.example.com", "eu-de")


def test_a_login_for_another_registry_is_not_used() -> None:
    with (
        swr({"auths": {"swr.eu-de.otc.t-systems.com": entry("user:password")}}) as caller,
        pytest.raises(Unauthorised, match=r"the image is for swr\.example\.com"),
    ):
        push.registry_login(caller, "swr.example.com", "eu-de")
