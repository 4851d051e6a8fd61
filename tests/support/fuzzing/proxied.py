"""The same inputs through a proxy: the server may not see more requests than the proxy has sent it."""

from __future__ import annotations

import asyncio
import shutil
import socket
import subprocess
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import httpx2
from serving import Server, free_port, serve

from fuzzing import client
from fuzzing.campaign import KINDS, PREDICTORS, answers_well, troubles, workers
from fuzzing.judge import Outcome
from fuzzing.mutate import input_of

HAPROXY = """
global
    stats socket {directory}/socket
    maxconn 1000
defaults
    mode http
    retries 0
    http-reuse always
    timeout connect 2s
    timeout http-request 2s
    timeout http-keep-alive 1s
    timeout client 4s
    timeout server 20s
frontend front
    bind 127.0.0.1:{front}
    default_backend back
backend back
    server one 127.0.0.1:{back}
"""
NGINX = """
daemon off;
pid {directory}/pid;
error_log {directory}/error.log;
worker_processes 1;
events {{ worker_connections 1000; }}
http {{
    log_format sent "$upstream_bytes_sent";
    access_log {directory}/access.log sent;
    client_body_temp_path {directory}/body;
    proxy_temp_path {directory}/proxy;
    fastcgi_temp_path {directory}/fastcgi;
    uwsgi_temp_path {directory}/uwsgi;
    scgi_temp_path {directory}/scgi;
    keepalive_timeout 1s;
    client_header_timeout 2s;
    client_body_timeout 2s;
    upstream back {{ server 127.0.0.1:{back} max_fails=0; keepalive 64; }}
    server {{
        listen 127.0.0.1:{front};
        location / {{
            proxy_pass http://back;
            proxy_http_version 1.1;
            proxy_set_header Connection "";
            proxy_request_buffering off;
            proxy_next_upstream off;
        }}
    }}
}}
"""
SETTLE_S = 2.0


@dataclass(frozen=True)
class Difference:
    """How many requests the proxy has sent, how many the server has counted, and what else was wrong."""

    sent: int
    seen: int
    findings: list[str]


@contextmanager
def _running(command: Sequence[str], port: int) -> Iterator[None]:
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        deadline_s = time.monotonic() + 10
        while True:
            try:
                socket.create_connection(("127.0.0.1", port), timeout=1).close()
                break
            except OSError:
                if time.monotonic() > deadline_s or process.poll() is not None:
                    raise
                time.sleep(0.05)
        yield
    finally:
        process.terminate()
        process.wait(10)


@contextmanager
def haproxy(directory: Path, back: int) -> Iterator[tuple[int, Callable[[], int]]]:
    """A port, and a function that tells how many requests were sent on."""
    front, config = free_port(), directory / "haproxy.cfg"
    config.write_text(HAPROXY.format(directory=directory, front=front, back=back))

    def sent() -> int:
        with socket.socket(socket.AF_UNIX) as control:
            control.connect(f"{directory}/socket")
            control.sendall(b"show stat\n")
            text = b"".join(iter(lambda: control.recv(65536), b"")).decode()
        names, *rows = [line.lstrip("# ").split(",") for line in text.splitlines() if line]
        [row] = [dict(zip(names, row, strict=False)) for row in rows if row[:2] == ["back", "one"]]
        return int(row["stot"])

    with _running([_tool("haproxy"), "-db", "-f", str(config)], front):
        yield front, sent


@contextmanager
def nginx(directory: Path, back: int) -> Iterator[tuple[int, Callable[[], int]]]:
    """As `haproxy`."""
    front, config = free_port(), directory / "nginx.conf"
    config.write_text(NGINX.format(directory=directory, front=front, back=back))

    def sent() -> int:
        lines = (directory / "access.log").read_text().split("\n")
        return sum(line.isdigit() and int(line) > 0 for line in lines)

    with _running([_tool("nginx"), "-c", str(config)], front):
        yield front, sent


PROXIES = {"haproxy": haproxy, "nginx": nginx}


def _tool(name: str) -> str:
    return shutil.which(name) or shutil.which(name, path="/usr/sbin:/usr/local/sbin") or name


def missing(name: str) -> bool:
    return shutil.which(_tool(name)) is None


def compare(proxy: str, kind: str, numbers: Sequence[int], directory: Path, *, seed: int = 0) -> Difference:
    """Send these inputs through the proxy and compare what both have counted."""
    options = [*KINDS[kind], "--workers", "1", "--log-format", "text", "--keep-alive-s", "30"]
    with (
        serve(f"{PREDICTORS}:Sum", *options, platform="sagemaker") as server,
        PROXIES[proxy](directory, server.port) as (port, sent),
    ):
        time.sleep(SETTLE_S)  # the counts of all that was asked until it was ready
        seen_before, sent_before, pids = counted(server), sent(), workers(server)
        inputs = ((number, input_of(seed, number)) for number in numbers)
        asyncio.run(client.each(port, inputs, _ignore, connections=64))
        time.sleep(SETTLE_S)
        # Asking for the count is one more.
        seen = counted(server) - seen_before - 1
        findings = troubles(server)
        if workers(server) != pids:
            findings.append("a worker died")
        if not answers_well(server):
            findings.append("a good request is not answered well afterwards")
        return Difference(sent() - sent_before, seen, findings)


def _ignore(_number: int, _data: bytes, _outcome: Outcome) -> bool:
    return True


def counted(server: Server) -> int:
    """The replies that the server has counted so far."""
    lines = httpx2.get(f"{server.url}/metrics").text.splitlines()
    return int(sum(float(line.rpartition(" ")[2]) for line in lines if line.startswith("servekit_requests_total{")))
