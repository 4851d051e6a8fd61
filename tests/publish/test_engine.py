"""The image on this machine: what is known of it, and its push into a real registry, by each engine that is here."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import tempfile
import time
from base64 import b64encode
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import aws
import httpx2
import pytest
from containers import Store, why_not
from serving import free_port

from servekit.errors import ConfigError
from servekit.publish import engine
from servekit.publish.failures import Missing, PublishError, Unauthorised
from servekit.publish.reference import parse
from servekit.publish.report import Report
from servekit.publish.secrets import Secret

pytestmark = [pytest.mark.images]

NAME = "localhost/servekit-test/tiny:1"
USER, PASSWORD = "AWS", "example-password"
# bcrypt of it; Python has lost its own crypt.
HTPASSWD = "AWS:$2b$05$abcdefghijklmnopqrstuutctEcn9jLJdOiC0zNE0sKf5GrTF.I0C\n"
START_S = 20.0
MANIFEST = "application/vnd.docker.distribution.manifest.v2+json"


@dataclass(frozen=True)
class Registry:
    host: str

    def manifest(self, repository: str, tag: str) -> tuple[str, str]:
        """Its digest, and its text."""
        reply = httpx2.get(
            f"http://{self.host}/v2/{repository}/manifests/{tag}", headers={"Accept": MANIFEST}, auth=(USER, PASSWORD)
        )
        assert reply.status_code == 200
        return reply.headers["docker-content-digest"], reply.text


@pytest.fixture(scope="module")
def place() -> Iterator[Store]:
    """A store of images with one tiny image in it; nobody else's is touched."""
    reason = why_not()
    missing = [name for name in ("buildah", "podman", "docker-registry") if shutil.which(name) is None]
    if missing:
        reason = f"there is no {', no '.join(missing)} here"
    if reason is not None:
        pytest.skip(reason)
    folder = Path(tempfile.mkdtemp(prefix="servekit-engine-", dir="/var/tmp"))
    made = Store(folder, "vfs")
    try:
        context = folder / "context"
        context.mkdir()
        (context / "weights").write_bytes(os.urandom(100_000))
        (context / "Dockerfile").write_text('FROM scratch\nLABEL model="tiny" platform="sagemaker"\nCOPY weights /\n')
        made.buildah("build", "--format", "docker", "--tag", NAME, str(context))
        yield made
    finally:
        made.remove()


@pytest.fixture(scope="module")
def registry(place: Store) -> Iterator[Registry]:
    port = free_port()
    config, log = place.folder / "registry.json", place.folder / "registry.log"
    (place.folder / "htpasswd").write_text(HTPASSWD)
    # YAML takes JSON.
    document = {
        "version": 0.1,
        "log": {"accesslog": {"disabled": True}, "level": "error"},
        "storage": {"filesystem": {"rootdirectory": str(place.folder / "registry")}},
        "http": {"addr": f"127.0.0.1:{port}"},
        "auth": {"htpasswd": {"realm": "test", "path": str(place.folder / "htpasswd")}},
    }
    config.write_text(json.dumps(document))
    with log.open("wb") as output:
        process = subprocess.Popen(["docker-registry", "serve", str(config)], stdout=output, stderr=output)
    try:
        _wait(lambda: _answers(f"http://127.0.0.1:{port}/v2/"), process, log)
        yield Registry(f"127.0.0.1:{port}")
    finally:
        process.terminate()
        process.wait(20)


def _wait(condition: object, process: subprocess.Popen[bytes], log: Path) -> None:
    assert callable(condition)
    end_s = time.monotonic() + START_S
    while not condition():
        assert process.poll() is None, log.read_text()
        assert time.monotonic() < end_s, log.read_text()
        time.sleep(0.05)


def _answers(url: str) -> bool:
    try:
        return httpx2.get(url).status_code == 401
    except httpx2.TransportError:
        return False


@contextmanager
def _only(name: str, place: Store, registry: Registry | None, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """No engine but this one is found, and it works in the test's store. docker's client talks to podman's service."""
    program = shutil.which(name)
    if program is None:
        pytest.skip(f"there is no {name} here")
    for variable, value in place.environ.items():
        monkeypatch.setenv(variable, value)
    folder = Path(tempfile.mkdtemp(dir=place.folder))
    (folder / name).symlink_to(program)
    service = None
    try:
        if name == "docker":
            insecure = "" if registry is None else f'[[registry]]\nlocation = "{registry.host}"\ninsecure = true\n'
            (folder / "registries.conf").write_text(insecure)
            socket, log = folder / "s", folder / "service.log"
            with log.open("wb") as output:
                service = subprocess.Popen(
                    ["podman", "system", "service", "--time", "0", f"unix://{socket}"],
                    env=place.environ | {"CONTAINERS_REGISTRIES_CONF": str(folder / "registries.conf")},
                    stdout=output, stderr=output,
                )  # fmt: skip
            _wait(socket.exists, service, log)
            monkeypatch.setenv("DOCKER_HOST", f"unix://{socket}")
        monkeypatch.setenv("PATH", str(folder))
        yield
    finally:
        if service is not None:
            service.terminate()
            with suppress(subprocess.TimeoutExpired):
                service.wait(10)
            service.kill()
            service.wait()


@pytest.mark.parametrize("name", engine.ORDER)
def test_what_is_known_of_a_local_image(name: str, place: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    said = place.inspect(NAME)
    with _only(name, place, None, monkeypatch):
        image = engine.local_image(NAME)
        assert image is not None
        assert image.engine.name == name
        assert image.id == f"sha256:{said['Id']}"
        assert image.architecture == said["Architecture"]
        assert (image.labels["model"], image.labels["platform"]) == ("tiny", "sagemaker")
        assert abs(image.size_bytes - said["Size"]) < 1000
        assert image.layers == 1
        assert NAME in image.tags
        assert engine.local_image("localhost/servekit-test/other:1") is None
        assert engine.local_image("--all") is None


@pytest.mark.parametrize("name", engine.ORDER)
def test_a_push(
    name: str,
    place: Store,
    registry: Registry,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    """The digest is the registry's, the user's logins stay as they are, and the password is nowhere."""
    own = tmp_path / "docker"
    own.mkdir()
    (own / "config.json").write_text('{"auths": {"other.example.com": {"auth": "eA=="}}, "credsStore": "nothing"}')
    temporary = tmp_path / "tmp"
    temporary.mkdir()
    with _only(name, place, registry, monkeypatch):
        monkeypatch.setenv("DOCKER_CONFIG", str(own))
        monkeypatch.setenv("TMPDIR", str(temporary))
        monkeypatch.setattr(tempfile, "tempdir", None)
        image = engine.local_image(NAME)
        assert image is not None
        destination = parse(f"{registry.host}/team/{name}:7")
        digest = engine.push(NAME, destination, USER, Secret(PASSWORD), Report(bars=False))
    found, manifest = registry.manifest(f"team/{name}", "7")
    assert digest == found
    assert json.loads(manifest)["config"]["digest"] == image.id
    assert list(own.iterdir()) == [own / "config.json"]
    assert "nothing" in (own / "config.json").read_text()
    assert list(temporary.glob("servekit-login-*")) == []
    said = capfd.readouterr()
    assert "100 % pushed" in said.err
    for secret in (PASSWORD, b64encode(f"{USER}:{PASSWORD}".encode()).decode()):
        assert secret not in said.err + said.out


def test_publish_sagemaker_pushes_into_ecr(place: Store, registry: Registry, monkeypatch: pytest.MonkeyPatch) -> None:
    """The real command; the real registry stands for ECR's, whose control plane is moto's."""
    with aws.cloud() as cloud, _only("podman", place, registry, monkeypatch):
        ecr = cloud.client("ecr")
        ecr.create_repository(repositoryName="tiny")
        # moto learns of it under another tag: it sees no push.
        digest = engine.push(NAME, parse(f"{registry.host}/before:1"), USER, Secret(PASSWORD), Report(bars=False))
        put = {"repositoryName": "tiny", "imageManifest": registry.manifest("before", "1")[1], "imageDigest": digest}
        ecr.put_image(**put, imageTag="other")
        token = b64encode(f"{USER}:{PASSWORD}".encode()).decode()
        uri = {"repositoryName": "tiny", "repositoryUri": f"{registry.host}/tiny"}
        cloud.rule("DescribeRepositories", times=9, change=lambda _: {"repositories": [uri]})
        cloud.rule("GetAuthorizationToken", change=lambda _: {"authorizationData": [{"authorizationToken": token}]})
        options = (
            "--content-types",
            "text/csv",
            "--response-types",
            "text/csv",
            "--group",
            "tiny",
            "--repository",
            "tiny",
        )
        environ = {name: os.environ[name] for name in (*place.environ, "PATH") if name in os.environ}
        environ = {name: value for name, value in environ.items() if not name.startswith("AWS_")}
        ended = aws.command(cloud, "publish", "sagemaker", NAME, *options, environ=environ)
        assert ended.code == 0, ended.err
        assert registry.manifest("tiny", "1")[0] == digest
        [request] = cloud.bodies_of("CreateModelPackage")
        assert request["InferenceSpecification"]["Containers"][0]["Image"] == f"{registry.host}/tiny@{digest}"
        assert "local     " in ended.err
        assert "100 % pushed" in ended.err
        for secret in (PASSWORD, token):
            assert secret not in ended.err + ended.out

        ecr.put_image(**put, imageTag="1")
        cloud.asked.clear()
        again = aws.command(cloud, "publish", "sagemaker", NAME, *options, environ=environ)
        assert (again.code, again.out) == (0, ended.out), again.err
        assert "in ECR already, the same as" in again.err
        assert "GetAuthorizationToken" not in cloud.asked


REFUSED = (
    ("wrong password", "{host}/team/x:1", NAME, "another-password", Unauthorised),
    ("no such image", "{host}/team/x:1", "localhost/servekit-test/other:1", PASSWORD, Missing),
)


@pytest.mark.parametrize(
    ("host", "source", "password", "kind"), [row[1:] for row in REFUSED], ids=[row[0] for row in REFUSED]
)
def test_a_push_that_is_refused(
    host: str,
    source: str,
    password: str,
    kind: type[PublishError],
    place: Store,
    registry: Registry,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    with _only("podman", place, registry, monkeypatch):
        destination = parse(host.format(host=registry.host))
        with pytest.raises(kind) as raised:
            engine.push(source, destination, USER, Secret(password), Report(bars=False))
    assert source in str(raised.value) or str(destination) in str(raised.value)
    assert password not in str(raised.value)


def test_no_engine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    assert engine.local_image(NAME) is None
    with pytest.raises(engine.NoEngine, match=r"docker: no such program; podman: no such program; buildah: no such"):
        engine.push(NAME, parse("127.0.0.1:9/team/x:1"), USER, Secret(PASSWORD), Report(bars=False))


@pytest.mark.parametrize("text", ["digits:1", "127.0.0.1:9/digits"])
def test_a_destination_has_a_registry_and_a_tag(text: str) -> None:
    with pytest.raises(ConfigError, match="expected REGISTRY/NAME:TAG"):
        engine.push(NAME, parse(text), USER, Secret(PASSWORD), Report(bars=False))


def test_what_engines_say_has_a_kind() -> None:
    """Their words, as docker 28 and podman 4 write them."""
    for text, kind in (
        ("denied: User: arn:aws:iam::1:user/x is not authorized to perform: ecr:InitiateLayerUpload", "forbidden"),
        ("denied: Your authorization token has expired. Reauthenticate and try again.", "unauthorised"),
        ("no basic auth credentials", "unauthorised"),
        ("name unknown: The repository with name 'x' does not exist in the registry with id '1'", "not_found"),
        ("tag invalid: The image tag '1' already exists in the 'x' repository and cannot be overwritten because the repository is immutable.", "refused"),
        ("toomanyrequests: Rate exceeded", "busy"),
        ("received unexpected HTTP status: 503 Service Unavailable", "busy"),
        ("dial tcp: lookup no.such.invalid on 127.0.0.53:53: no such host", "unreachable"),
        ("something else", "failed"),
    ):  # fmt: skip
        assert engine._failure("docker", "registry/x:1", text).kind == kind, text


def test_the_login_is_for_its_owner_only(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    own = tmp_path / "docker"
    (own / "contexts").mkdir(parents=True)
    (own / "config.json").write_text('{"currentContext": "other", "credHelpers": {"r": "h"}, "auths": {"r": {}}}')
    monkeypatch.setenv("DOCKER_CONFIG", str(own))
    with engine._login("r.example.com", USER, Secret(PASSWORD)) as folder:
        config = folder / "config.json"
        assert (folder.stat().st_mode & 0o777, config.stat().st_mode & 0o777) == (0o700, 0o600)
        written = json.loads(config.read_text())
        assert set(written) == {"currentContext", "auths"}
        assert set(written["auths"]) == {"r.example.com"}
        assert (folder / "contexts").resolve() == own / "contexts"
    assert not folder.exists()
    assert os.listdir(own / "contexts") == []  # noqa: PTH208
