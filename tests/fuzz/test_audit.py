"""While a server takes the whole corpus and the good and bad bodies of every codec, it unpickles nothing, starts
nothing, connects to nothing and opens nothing but what belongs to it."""

from __future__ import annotations

import asyncio
import json
import site
import sys
import sysconfig
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from bombs import BOMBS
from cases import multipart, npy, npz, png
from fuzzing import client
from fuzzing.campaign import fuzzed
from fuzzing.corpus import CLOSE, CORPUS, HOST
from fuzzing.judge import Outcome
from fuzzing.reference import replies
from serving import Server

import servekit

AUDITED = Path(__file__).with_name("audited.py")
ROOTS = tuple(
    str(path)
    for path in {
        *map(Path, sysconfig.get_paths().values()),
        Path(sys.prefix),
        Path(sys.base_prefix, "lib"),
        *map(Path, site.getsitepackages()),
        Path(servekit.__file__).parent,
        AUDITED.parent,
        Path("/dev/shm"),
        Path("/usr/lib"),  # the interpreter's shared libraries
        Path("/usr/local/lib"),
        Path("/lib"),
    }
)
# What Python and the libraries look at by themselves.
HARMLESS = (
    "/dev/null",
    "/dev/urandom",
    "/etc/localtime",
    "/etc/mime.types",
    "/etc/httpd/",
    "/etc/apache",
    "/usr/share/zoneinfo",
    "/proc/self/",
    "/proc/cpuinfo",
    "/proc/stat",
    "/proc/meminfo",
    "/sys/devices/system/cpu",
    "/sys/fs/cgroup",
)
LIBRARIES = ("ctypes.dlopen",)
PAIR = {"a": [1], "b": [[1.5, 2]], "words": ["x"]}
BODIES: list[tuple[str, bytes]] = [
    ("application/json", b'{"instances": [[1, 2, 3, 4]]}'),
    ("application/json", b'{"instances": [' + b"[1, 2, 3, 4]," * 2000 + b"[1, 2, 3, 4]]}"),
    ("application/json", json.dumps({"inputs": PAIR}).encode()),
    ("application/json", b"{"),
    ("application/json", b'{"instances": [{"__class__": "os.system", "py/object": "os.system"}]}'),
    ("application/json", b'{"instances": ["file:///etc/passwd", "http://127.0.0.1:9/", "/etc/passwd"]}'),
    ("application/json; charset=utf-16", '{"instances": [[1, 2, 3, 4]]}'.encode("utf-16")),
    ("application/json; charset=../../etc/passwd", b"{}"),
    ("application/json; charset=klingon", b"{}"),
    ("application/jsonlines", b"[1, 2, 3, 4]\n[1, 2, 3"),
    ("text/csv", b"1,2,3,4\n"),
    ("text/csv", b'1,2,"/etc/passwd\n'),
    ("text/csv", b"/etc/passwd"),
    ("application/x-npy", npy(np.ones((1, 4), np.float32))),
    ("application/x-npy", npy(np.array([{}]), allow_pickle=True)),
    ("application/x-npy", b"\x93NUMPY\x01\x00\x1e\x00__import__('os').system('true')\n"),
    ("application/x-npz", npz(x=np.ones((1, 4)))),
    ("application/x-npz", npz(x=np.ones((1, 4)))[:-9]),
    ("application/x-npz", npz(**{"../../x": np.ones(4)})),
    ("application/python-pickle", b"\x80\x04\x95\x17\x00\x00\x00\x00\x00\x00\x00\x8c\x05posix\x8c\x06system\x93."),
    ("application/octet-stream", b"\x80\x04\x95\x17\x00\x00\x00\x00\x00\x00\x00\x8c\x05posix\x8c\x06system\x93."),
    ("application/x-npy", b"\x80\x04\x95\x17\x00\x00\x00\x00\x00\x00\x00\x8c\x05posix\x8c\x06system\x93."),
    ("image/png", png(5, 5, value=3)),
    ("image/png", png(5, 5, truncate=True)),
    ("image/svg+xml", b'<svg><image href="file:///etc/passwd"/></svg>'),
    ("application/postscript", b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n"),
    ("image/x-eps", b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n"),
    ("text/plain", b"/etc/passwd"),
    ("application/x-www-form-urlencoded", b"x=%2Fetc%2Fpasswd&a=1"),
    (multipart()[1]["Content-Type"], multipart(("picture", "/etc/passwd", "image/png", png(3, 3)))[0]),
    (
        multipart()[1]["Content-Type"],
        multipart(("a", None, None, b"1"), ("b", None, None, b"[1]"), ("words", None, None, b"x"))[0],
    ),
    (multipart()[1]["Content-Type"], multipart(("file", "../../x", None, b"\0"), ("file", "x\0y", None, b"\1"))[0]),
    ("", b"hello"),
    *[
        (bomb.content_type, bomb.body())
        for name, bomb in BOMBS.items()
        if name in ("deep lists", "an archive of zeros", "a picture of 10,000 megapixels", "an array of 74 GiB")
    ],
]
ACCEPTS = (
    "*/*",
    "application/json",
    "text/csv",
    "application/x-npy",
    "application/x-npz",
    "application/jsonlines",
    "image/png",
)
TARGETS = ("Sum", "Mixed", "Picture", "Anything", "Bytes")

Events = list[list[Any]]


@contextmanager
def audited(kind: str, target: str, log: Path) -> Iterator[tuple[Server, Callable[[], Events]]]:
    def events() -> Events:
        return [json.loads(line) for line in log.read_text().splitlines()]

    with fuzzed(kind, f"{AUDITED}:{target}", environ={"AUDIT_LOG": str(log)}) as server:
        yield server, events


def send(server: Server, inputs: list[bytes]) -> list[Outcome]:
    found: dict[int, Outcome] = {}

    def use(number: int, _: bytes, outcome: Outcome) -> bool:
        found[number] = outcome
        return True

    asyncio.run(client.each(server.port, [(i, [data]) for i, data in enumerate(inputs)], use, connections=64))
    return [found[number] for number in range(len(inputs))]


def post(content_type: str, body: bytes, accept: str = "*/*") -> bytes:
    named = f"Content-Type: {content_type}\r\n" if content_type else ""
    head = f"{named}Accept: {accept}\r\nContent-Length: {len(body)}\r\n\r\n".encode()
    return b"POST /invocations HTTP/1.1\r\n" + HOST + CLOSE + head + body


def outside(event: list[Any], allowed: Path) -> bool:
    """Is this what a server has no business to do?"""
    name, *arguments = event
    if name in LIBRARIES:
        return False
    if name != "open":
        return True
    path = arguments[0]
    if not isinstance(path, str):
        return False  # a descriptor that is open already
    if not path.startswith("/"):
        return True
    inside = any(path == root or path.startswith(root + "/") for root in (*ROOTS, str(allowed)))
    return not inside and not path.startswith(HARMLESS)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("kind", "target"),
    [*(("fast lane", target) for target in TARGETS), ("gevent", "Sum"), ("gevent", "Picture")],
)
def test_nothing_but_serving_happens(kind: str, target: str, tmp_path: Path) -> None:
    inputs = [post(content_type, body, accept) for content_type, body in BODIES for accept in ("*/*", "text/csv")]
    inputs += [post("application/json", b'{"instances": [[1, 2, 3, 4]]}', accept) for accept in ACCEPTS]
    if target == "Sum":
        inputs += [case.data for case in CORPUS]
    with audited(kind, target, tmp_path / "events") as (server, events):
        outcomes = send(server, inputs)
        assert events(), "the hook saw nothing, not even the imports"
        bad = [event for event in events() if outside(event, tmp_path)]
    assert bad == []
    statuses = {answer.status for outcome in outcomes[: 2 * len(BODIES)] for answer in replies(outcome.got, [])}
    assert 200 in statuses
    assert statuses & {400, 413, 415}


@pytest.mark.parametrize("deed", ["open", "unpickle", "subprocess", "connect"])
def test_the_hook_sees_what_a_server_must_not_do(
    deed: str, misbehaving: tuple[Server, Callable[[], Events], Path]
) -> None:
    server, events, allowed = misbehaving
    before = [event for event in events() if outside(event, allowed)]
    [outcome] = send(server, [post("text/plain", deed.encode())])
    assert outcome.got.startswith(b"HTTP/1.1 200 ")
    after = [event for event in events() if outside(event, allowed)]
    named = {
        "open": "open",
        "unpickle": "pickle.find_class",
        "subprocess": "subprocess.Popen",
        "connect": "socket.connect",
    }
    assert named[deed] in {event[0] for event in after[len(before) :]}


@pytest.fixture(scope="module")
def misbehaving(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Server, Callable[[], Events], Path]]:
    directory = tmp_path_factory.mktemp("audit")
    with audited("fast lane", "Misbehaves", directory / "events") as (server, events):
        yield server, events, directory
