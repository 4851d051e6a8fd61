"""Real images and containers for the tests in tests/images: a store of their own, and starts as platforms start them."""

from __future__ import annotations

import base64
import itertools
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from serving import clean_environ, script

ROOT = Path(__file__).parents[2]
DIGITS = ROOT / "examples" / "digits"
# A script that installs buildah, podman and runc, and makes a base image where no registry can be reached.
ENGINE_VARIABLE = "SERVEKIT_CONTAINER_ENGINE"
ENGINE = Path(os.environ.get(ENGINE_VARIABLE) or ROOT.parent / "shared" / "images" / "container-engine.sh")
BASE, PYTHON = "localhost/python:3.11-slim-bookworm", "3.11"
PIP_CONFIG = Path("/etc/pip.conf")
CERTIFICATES = "/etc/ssl/certs"
MAX_SETUP_S, MAX_BUILD_S, MAX_S, MAX_START_S = 600, 600, 120, 60
RUNTIME = ("--runtime", "runc", "--cgroup-manager", "cgroupfs")
# The runtime's own defaults are above what a container of containers may ask for.
LIMITS = ("--ulimit", "nofile=4096:8192", "--ulimit", "nproc=2048:4096")
NUMBERS = itertools.count(1)

# Inside the container, where no network is needed: one request, from standard input to standard output.
ASK = """
import base64, http.client, json, sys
asked = json.load(sys.stdin)
connection = http.client.HTTPConnection("127.0.0.1", asked["port"], timeout=30)
try:
    connection.request(asked["method"], asked["path"], base64.b64decode(asked["body"]), asked["headers"])
    reply = connection.getresponse()
    body = base64.b64encode(reply.read()).decode()
    json.dump({"status": reply.status, "headers": dict(reply.getheaders()), "body": body}, sys.stdout)
except (OSError, http.client.HTTPException) as error:
    json.dump({"error": repr(error)}, sys.stdout)
"""
# One request after the other, each on a connection of its own; a line for each: when it began, and how it went.
KEEP_ASKING = """
import base64, http.client, json, sys, time
asked = json.load(sys.stdin)
end_s = time.time() + asked["seconds"]
while time.time() < end_s:
    began_s = time.time()
    try:
        connection = http.client.HTTPConnection("127.0.0.1", asked["port"], timeout=20)
        connection.request(asked["method"], asked["path"], base64.b64decode(asked["body"]), asked["headers"])
        reply = connection.getresponse()
        reply.read()
        said = reply.status
    except (OSError, http.client.HTTPException) as error:
        said = repr(error)
    print(json.dumps([began_s, said]), flush=True)
    time.sleep(0.1)
"""
# What holds inside: who the server runs as, what can be written, what network there is.
LOOK = """
import grp, json, os, pwd, socket, sys, tempfile
def writable(folder):
    try:
        with tempfile.TemporaryFile(dir=folder) as file:
            file.write(b"x")
            file.flush()
        return True
    except OSError:
        return False
def reachable():
    try:
        socket.create_connection(("192.0.2.1", 9), 2).close()
    except OSError as error:
        return os.strerror(error.errno) if error.errno else repr(error)
    return "reached"
status = dict(line.split(":", 1) for line in open("/proc/1/status"))
uid, gid = int(status["Uid"].split()[0]), int(status["Gid"].split()[0])
def name(ask, number):
    try:
        return ask(number)[0]
    except KeyError:
        return ""
json.dump({
    "command": open("/proc/1/cmdline", "rb").read().decode().split("\\0")[:-1],
    "uid": uid, "gid": gid, "user": name(pwd.getpwuid, uid), "group": name(grp.getgrgid, gid),
    "writable": {folder: writable(folder) for folder in json.load(sys.stdin)},
    "network": os.listdir("/sys/class/net"), "outside": reachable(),
}, sys.stdout)
"""


def why_not() -> str | None:
    """Why images cannot be built and run here; None when they can."""
    if sys.platform != "linux":
        return "containers are tested on Linux"
    if os.geteuid() != 0:
        return "containers are tested as root"
    if not ENGINE.is_file():
        return f"there is no {ENGINE}: name it by {ENGINE_VARIABLE}"
    return None


@dataclass(frozen=True)
class Reply:
    status: int
    headers: Mapping[str, str]
    body: bytes

    @property
    def json(self) -> Any:
        return json.loads(self.body)


class Store:
    """Images and containers in a folder of their own: nobody else's are seen or touched."""

    def __init__(self, folder: Path, driver: str) -> None:
        self.folder, self.driver = folder, driver
        config = folder / "storage.conf"
        config.write_text(
            f'[storage]\ndriver = "{driver}"\ngraphroot = "{folder}/images"\nrunroot = "{folder}/run"\n'
            '[storage.options.overlay]\nskip_mount_home = "true"\n'
        )
        self.environ = clean_environ(
            {"CONTAINERS_STORAGE_CONF": str(config), "BUILDAH_ISOLATION": "chroot", "TMPDIR": str(folder)}
        )

    def podman(self, *arguments: str, asked: str = "", check: bool = True) -> subprocess.CompletedProcess[str]:
        ended = subprocess.run(
            ["podman", *RUNTIME, *arguments],
            env=self.environ, input=asked, capture_output=True, text=True, timeout=MAX_S, check=False,
        )  # fmt: skip
        assert ended.returncode == 0 or not check, f"podman {arguments}: {ended.stderr}"
        return ended

    def buildah(self, *arguments: str) -> str:
        ended = subprocess.run(
            ["buildah", *arguments],
            env=self.environ, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=MAX_S, check=False,
        )  # fmt: skip
        assert ended.returncode == 0, f"buildah {arguments}: {ended.stderr}"
        return ended.stdout

    def build(
        self, *arguments: str | Path, cwd: Path, base: str = BASE, more: Sequence[str] = ()
    ) -> subprocess.CompletedProcess[str]:
        """`servekit build` with this store's builder, and this machine's way to the package index."""
        command = [script("servekit"), "build", *map(str, arguments), "--base", base, "--builder", "buildah"]
        if PIP_CONFIG.is_file():
            command += ["--pip-config", str(PIP_CONFIG)]
        command += ["--", "--volume", f"{CERTIFICATES}:{CERTIFICATES}:ro", *more]
        return subprocess.run(
            command,
            cwd=cwd, env=self.environ, stdin=subprocess.DEVNULL,
            capture_output=True, text=True, timeout=MAX_BUILD_S, check=False,
        )  # fmt: skip

    def write_artifact(self, archive: Path, *, cwd: Path) -> subprocess.CompletedProcess[str]:
        """`servekit build --artifact`, which needs no builder."""
        return subprocess.run(
            [script("servekit"), "build", "--artifact", str(archive)],
            cwd=cwd, env=self.environ, stdin=subprocess.DEVNULL,
            capture_output=True, text=True, timeout=MAX_S, check=False,
        )  # fmt: skip

    def alias(self, name: str) -> str:
        """Another name for the base image: one that tells nothing of its Python."""
        self.podman("tag", BASE, name)
        return name

    @contextmanager
    def another(self) -> Iterator[Store]:
        """A store of the same kind with nothing in it."""
        folder = Path(tempfile.mkdtemp(dir=self.folder))
        made = Store(folder, self.driver)
        try:
            yield made
        finally:
            made.remove()

    def inspect(self, image: str) -> dict[str, Any]:
        [found] = json.loads(self.podman("image", "inspect", image).stdout)
        assert isinstance(found, dict)
        return found

    @contextmanager
    def container(
        self, image: str, *command: str, options: Sequence[str] = (), port: int = 8080
    ) -> Iterator[Container]:
        """Started, not necessarily ready. Without a network: the requests come from inside."""
        name = f"servekit-test-{os.getpid()}-{next(NUMBERS)}"
        try:
            self.podman("run", "--detach", "--name", name, "--network", "none", *LIMITS, *options, image, *command)
            yield Container(self, name, port)
        finally:
            self.podman("rm", "--force", "--time", "0", name, check=False)

    def remove(self) -> None:
        self.podman("rm", "--all", "--force", "--time", "0", check=False)
        self.podman("umount", "--all", check=False)
        shutil.rmtree(self.folder)


class Container:
    """A container whose process 1 is the server."""

    def __init__(self, store: Store, name: str, port: int) -> None:
        self.store, self.name, self.port = store, name, port

    @property
    def log(self) -> str:
        ended = self.store.podman("logs", self.name)
        return ended.stdout + ended.stderr

    @property
    def settings(self) -> str:
        """What the server says of its settings when it starts."""
        [line] = [line for line in self.log.splitlines() if "target=" in line]
        message = json.loads(line)["message"]
        assert isinstance(message, str)
        return message

    @property
    def state(self) -> dict[str, Any]:
        [found] = json.loads(self.store.podman("container", "inspect", self.name).stdout)
        assert isinstance(found, dict)
        return found

    def execute(self, *command: str, asked: str = "", options: Sequence[str] = ()) -> subprocess.CompletedProcess[str]:
        return self.store.podman("exec", "--interactive", *options, self.name, *command, asked=asked, check=False)

    def python(self, program: str, asked: Any = None) -> str:
        ended = self.execute("python3", "-I", "-c", program, asked=json.dumps(asked))
        assert ended.returncode == 0, f"{ended.stderr}\n{self.log}"
        return ended.stdout

    def look(self, *folders: str) -> dict[str, Any]:
        found = json.loads(self.python(LOOK, folders))
        assert isinstance(found, dict)
        return found

    def ask(self, path: str, body: bytes | None = None, content_type: str = "", method: str = "") -> Reply:
        said = json.loads(self.python(ASK, self._request(path, body, content_type, method)))
        if "error" in said:
            raise OSError(said["error"])
        return Reply(said["status"], said["headers"], base64.b64decode(said["body"]))

    def _request(self, path: str, body: bytes | None, content_type: str, method: str = "") -> dict[str, Any]:
        return {
            "method": method or ("GET" if body is None else "POST"),
            "path": path,
            "port": self.port,
            "body": base64.b64encode(body or b"").decode(),
            "headers": {"Content-Type": content_type} if content_type else {},
        }

    def wait_until(self, path: str, status: int = 200) -> Reply:
        """Until GET `path` answers `status`; fails at once when the container ends."""
        deadline_s = time.monotonic() + MAX_START_S
        while time.monotonic() < deadline_s:
            assert self.state["State"]["Running"], f"it ended:\n{self.log}"
            try:
                reply = self.ask(path)
            except OSError:
                time.sleep(0.1)
                continue
            if reply.status == status:
                return reply
            time.sleep(0.1)
        raise AssertionError(f"{path} did not answer {status} within {MAX_START_S} s:\n{self.log}")

    @contextmanager
    def asked_all_the_time(
        self, path: str, body: bytes | None = None, content_type: str = "", seconds: float = MAX_S
    ) -> Iterator[list[tuple[float, int | str]]]:
        """Requests from inside without a pause. The list is filled at the end: (began at, status or error)."""
        asked = self._request(path, body, content_type) | {"seconds": seconds}
        outcomes: list[tuple[float, int | str]] = []
        with tempfile.TemporaryFile("w+", dir=self.store.folder) as lines:
            process = subprocess.Popen(
                ["podman", *RUNTIME, "exec", "--interactive", self.name, "python3", "-I", "-c", KEEP_ASKING],
                env=self.store.environ, stdin=subprocess.PIPE, stdout=lines, stderr=subprocess.DEVNULL, text=True,
            )  # fmt: skip
            try:
                assert process.stdin is not None
                process.stdin.write(json.dumps(asked))
                process.stdin.close()
                yield outcomes
                process.wait(MAX_S)
            finally:
                process.kill()
                process.wait()
            lines.seek(0)
            # The last line may have been cut off, with the process that wrote it.
            outcomes += [(began_s, said) for began_s, said in map(json.loads, lines.read().split("\n")[:-1])]

    def workers(self) -> list[int]:
        return [int(pid) for pid in self.execute("cat", "/proc/1/task/1/children").stdout.split()]

    def signal(self, name: str) -> float:
        """When it was sent."""
        now_s = time.time()
        self.store.podman("kill", "--signal", name, self.name)
        return now_s

    def ended(self, within_s: float) -> int:
        """The exit code. It is waited for; nobody ends it."""
        deadline_s = time.monotonic() + within_s
        while (state := self.state["State"])["Running"]:
            assert time.monotonic() < deadline_s, f"it did not end within {within_s:.1f} s:\n{self.log}"
            time.sleep(0.1)
        code = state["ExitCode"]
        assert isinstance(code, int)
        return code


@contextmanager
def store() -> Iterator[Store]:
    """With the base image in it. Where overlays work, layers are not copied as a whole for every step of a build."""
    folder = Path(tempfile.mkdtemp(prefix="servekit-images-", dir="/var/tmp"))
    found = None
    try:
        _engine("setup", limit_s=MAX_SETUP_S)
        _engine("podman", "save", "--quiet", "--output", str(folder / "base.tar"), BASE, limit_s=MAX_S)
        found = _store(folder)
        yield found
    finally:
        if found is not None:
            found.remove()
        shutil.rmtree(folder, ignore_errors=True)


def _store(folder: Path) -> Store:
    for driver in ("overlay", "vfs"):
        (folder / driver).mkdir()
        made = Store(folder / driver, driver)
        if made.podman("load", "--quiet", "--input", str(folder / "base.tar"), check=False).returncode == 0:
            ended = made.podman("run", "--rm", "--network", "none", *LIMITS, BASE, "true", check=False)
            if ended.returncode == 0:
                return made
        made.remove()
    raise AssertionError(f"no container starts here: {ended.stderr}")


def _engine(*arguments: str, limit_s: float) -> None:
    ended = subprocess.run(
        ["sh", str(ENGINE), *arguments], stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=limit_s
    )
    assert ended.returncode == 0, f"{ENGINE} {arguments[0]}: {ended.stderr}"


@dataclass(frozen=True)
class Built:
    """An image, the context that it was built from, and what `servekit build` said."""

    tag: str
    context: Path
    said: str


class Images:
    """Built when they are asked for; they share the layer of the dependencies."""

    def __init__(self, place: Store, project: Path) -> None:
        self.store, self.project = place, project
        self._built: dict[str, Built] = {}

    def __getitem__(self, platform: str) -> Built:
        if platform not in self._built:
            # One of them from the start: what the lock says must be in it without any help of a cache.
            self._built[platform] = self.build(platform, more=["--no-cache"] if platform == "all" else [])
        return self._built[platform]

    def build(
        self,
        platform: str,
        *options: str,
        project: Path | None = None,
        name: str = "digits",
        more: list[str] | None = None,
    ) -> Built:
        tag = f"localhost/servekit-test/{name}-{platform}:1"
        context = self.store.folder / "contexts" / f"{name}-{platform}"
        context.parent.mkdir(exist_ok=True)
        ended = self.store.build(
            "--platform", platform, "--tag", tag, "--output", context, *options, cwd=project or self.project, more=more or ()
        )  # fmt: skip
        assert ended.returncode == 0, ended.stderr
        assert ended.stdout == f"{tag}\n"
        return Built(tag, context, ended.stderr)


@dataclass(frozen=True)
class Farewell:
    """What came of requests after SIGTERM: (seconds after it, status or error), and the exit code at its time."""

    outcomes: list[tuple[float, int | str]]
    code: int
    took_s: float


def say_farewell(place: Store, tag: str) -> Farewell:
    picture = (DIGITS / "seven.png").read_bytes()
    options = ["--user", "1000:100", "--read-only", "--tmpfs", "/tmp"]
    with place.container(tag, options=options) as container:
        container.wait_until("/health")
        body, content_type = form("images", "seven.png", picture)
        with container.asked_all_the_time("/", body, content_type) as outcomes:
            time.sleep(1)
            told_s = container.signal("TERM")
            code = container.ended(100)
            took_s = time.time() - told_s
        return Farewell([(began_s - told_s, said) for began_s, said in outcomes], code, took_s)


def mounted(folder: Path) -> Path:
    """A folder that any user of a container can look into."""
    folder.mkdir(parents=True)
    folder.chmod(0o755)
    return folder


def until(condition: Callable[[], object]) -> None:
    deadline_s = time.monotonic() + MAX_START_S
    while not condition():
        assert time.monotonic() < deadline_s, "it did not happen in time"
        time.sleep(0.1)


def form(field: str, name: str, content: bytes) -> tuple[bytes, str]:
    """multipart/form-data with one file: the body and its content type."""
    head = f'--xyz\r\nContent-Disposition: form-data; name="{field}"; filename="{name}"\r\n\r\n'
    return head.encode() + content + b"\r\n--xyz--\r\n", "multipart/form-data; boundary=xyz"
