"""For the tests of image builds: small packages, an index that asks for a password, and builders with their own store."""

from __future__ import annotations

import base64
import functools
import http.server
import importlib.util
import io
import json
import os
import re
import shutil
import subprocess
import sys
import tarfile
import threading
import zipfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from servekit.images.builder import Builder

MAX_S = 60


@dataclass(frozen=True)
class Image:
    """What an image says of itself. size_bytes is unpacked; buildah tells it to three digits."""

    user: str
    command: tuple[str, ...]
    entrypoint: tuple[str, ...]
    environment: Mapping[str, str]
    labels: Mapping[str, str]
    ports: tuple[int, ...]
    architecture: str
    layers: tuple[str, ...]
    size_bytes: int


def inspect(tool: Builder, tag: str) -> Image:
    def asked(*arguments: str) -> Any:
        command = [tool.program, *arguments, tag]
        return json.loads(subprocess.run(command, capture_output=True, text=True, timeout=MAX_S, check=True).stdout)

    if tool.name == "buildah":
        found = asked("inspect", "--type", "image")["Docker"]
        config, architecture, layers = found["config"], found["architecture"], found["rootfs"]["diff_ids"]
        # `199 MB` and the like.
        number, unit = asked("images", "--json")[0]["size"].split()
        size_bytes = int(float(number) * 1000 ** ["B", "KB", "MB", "GB"].index(unit.upper()))
    else:
        [found] = asked("image", "inspect")
        config, architecture, layers = found["Config"], found["Architecture"], found["RootFS"]["Layers"]
        size_bytes = found["Size"]
    return Image(
        user=config.get("User") or "",
        command=tuple(config.get("Cmd") or ()),
        entrypoint=tuple(config.get("Entrypoint") or ()),
        environment=dict(line.split("=", 1) for line in config.get("Env") or ()),
        labels=dict(config.get("Labels") or {}),
        ports=tuple(sorted(int(port.partition("/")[0]) for port in config.get("ExposedPorts") or {})),
        architecture=architecture,
        layers=tuple(layers),
        size_bytes=size_bytes,
    )


# --- packages ---


def pip() -> list[str]:
    """The environment's own, or the one on PATH: an environment may have none."""
    if importlib.util.find_spec("pip") is not None:
        return [sys.executable, "-m", "pip"]
    found = shutil.which("pip")
    assert found is not None, "these tests need pip"
    return [found]


def wheel(folder: Path, name: str, version: str, *, requires: Sequence[str] = (), tag: str = "py3-none-any") -> Path:
    """A wheel that pip installs, with one module in it."""
    module, info = name.replace("-", "_"), f"{name.replace('-', '_')}-{version}.dist-info"
    lines = [f"Requires-Dist: {line}" for line in requires]
    files = {
        f"{module}.py": f"VERSION = {version!r}\n",
        f"{info}/METADATA": "\n".join(["Metadata-Version: 2.1", f"Name: {name}", f"Version: {version}", *lines, ""]),
        f"{info}/WHEEL": f"Wheel-Version: 1.0\nGenerator: tests\nRoot-Is-Purelib: true\nTag: {tag}\n",
    }
    files[f"{info}/RECORD"] = "".join(f"{file},,\n" for file in [*files, f"{info}/RECORD"])
    path = folder / f"{module}-{version}-{tag}.whl"
    with zipfile.ZipFile(path, "w") as archive:
        for file, text in files.items():
            archive.writestr(zipfile.ZipInfo(file, (1980, 1, 1, 0, 0, 0)), text)
    return path


def sdist(folder: Path, name: str, version: str) -> Path:
    """A source archive that nobody can build without running it."""
    path = folder / f"{name}-{version}.tar.gz"
    top = f"{name}-{version}"
    files = {"PKG-INFO": f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n", "setup.py": "raise SystemExit\n"}
    with tarfile.open(path, "w:gz") as archive:
        for file, text in files.items():
            member = tarfile.TarInfo(f"{top}/{file}")
            member.size = len(text)
            archive.addfile(member, io.BytesIO(text.encode()))
    return path


class _Index(http.server.SimpleHTTPRequestHandler):
    """An index as installers know it: a page of links for each name, for who knows the password."""

    authorization = ""

    def do_GET(self) -> None:
        if self.authorization and self.headers.get("Authorization") != self.authorization:
            self.send_response(401)
            self.send_header("WWW-Authenticate", 'Basic realm="index"')
            self.send_header("Content-Length", "0")
            self.end_headers()
            return
        if self.path.startswith("/simple/"):
            self._links(self.path.split("/")[2])
        else:
            super().do_GET()

    def _links(self, name: str) -> None:
        files = [
            path.name
            for path in sorted(Path(self.directory).iterdir())
            if re.sub(r"[-_.]+", "-", path.name.lower()).startswith(f"{name}-")
        ]
        body = "".join(f'<a href="/{file}">{file}</a>\n' for file in files).encode()
        self.send_response(200 if files else 404)
        self.send_header("Content-Type", "text/html")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *arguments: object) -> None:
        pass


@contextmanager
def index(folder: Path, password: str = "") -> Iterator[str]:
    """Its URL, with the user and the password in it when there is one."""
    user = f"user:{password}"
    header = f"Basic {base64.b64encode(user.encode()).decode()}" if password else ""
    handler = type("Index", (_Index,), {"authorization": header})
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(handler, directory=folder)) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            yield f"http://{user + '@' if password else ''}127.0.0.1:{server.server_port}/simple"
        finally:
            server.shutdown()
            thread.join()


# --- builders ---


def why_not(name: str) -> str | None:
    """Why this builder cannot be used by tests here; None when it can."""
    if os.name != "posix" or not Path("/proc/self").exists():
        return "image builds are tested on Linux"
    if os.geteuid() != 0:
        return f"{name} is tested as root"
    if shutil.which(name) is None:
        return f"{name} is not installed"
    return None


def own_store(folder: Path) -> Mapping[str, str]:
    """Variables that make buildah and podman keep their images in this folder, and run commands on any kernel."""
    config = folder / "storage.conf"
    config.write_text(f'[storage]\ndriver = "vfs"\ngraphroot = "{folder}/images"\nrunroot = "{folder}/run"\n')
    return {
        "CONTAINERS_STORAGE_CONF": str(config),
        "STORAGE_DRIVER": "vfs",
        "BUILDAH_ISOLATION": "chroot",
        "TMPDIR": str(folder),
    }


def context(folder: Path, dockerfile: str, files: Mapping[str, str] | None = None) -> Path:
    """A build context whose Dockerfile has a shell: `FROM scratch` and `COPY root /` are put in front."""
    root = folder / "root"
    for program in ("sh", "sleep"):
        found = shutil.which(program, path="/bin:/usr/bin")
        assert found is not None
        _put(Path(found), root / "bin" / program)
        listed = subprocess.run(["ldd", found], capture_output=True, text=True, timeout=MAX_S, check=True).stdout
        for library in re.findall(r"(/\S+) \(0x", listed):
            _put(Path(library), root / library.lstrip("/"))
    for name, text in (files or {}).items():
        (folder / name).write_text(text)
    (folder / "Dockerfile").write_text(f"FROM scratch AS first\nCOPY root /\n{dockerfile}")
    return folder


def _put(source: Path, target: Path) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    if not target.exists():
        shutil.copy(source, target)
