"""Servers that are started, killed and started again, on a port that stays theirs, and the balancers before them."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any

import pytest
from launched import until
from load import ask, connect, get, message
from serving import START_TIMEOUT_S, clean_environ, free_port, script

ROOM = Path(__file__).parents[1] / "reliability"
PREDICTORS = Path(__file__).with_name("faulty.py")
LAUNCHER = Path(__file__).with_name("launcher.py")
KINDS = ("uvicorn", "gevent")
BALANCER_START_S = 20.0
CHECK_S = 0.2  # between two probes of a balancer; two in a row decide
STOCK = {
    "uvicorn": ["--worker-class", "uvicorn_worker.UvicornWorker", "app:asgi"],
    "gevent": ["--worker-class", "gevent", "app:wsgi"],
}


class Replica:
    """One server, of `command` (without the port); `log` holds what all its lives wrote."""

    def __init__(self, command: Sequence[str], directory: Path, port_option: str, environ: Mapping[str, str]) -> None:
        self.port = free_port()
        self.directory = directory
        directory.mkdir(parents=True, exist_ok=True)
        self.log_path = directory / f"{self.port}.log"
        self._command = [*command, *port_option.format(port=self.port).split()]
        self._environ = clean_environ(environ)
        self.process: subprocess.Popen[bytes]

    @property
    def log(self) -> str:
        return self.log_path.read_text(errors="replace")

    def start(self, *, ready: bool = True, stdout: int | None = None, **options: Any) -> None:
        """options: for subprocess.Popen."""
        with self.log_path.open("ab") as log:
            out = log if stdout is None else stdout
            self.process = subprocess.Popen(
                self._command, stdout=out, stderr=out, env=self._environ, start_new_session=True, **options
            )
        if ready:
            until(self.is_ready, START_TIMEOUT_S)

    def is_ready(self) -> bool:
        assert self.process.poll() is None, f"ended with {self.process.returncode}:\n{self.log[-5000:]}"
        return self.status() == 200

    def status(self, path: str = "/ping") -> int:
        """0 when nobody answers."""
        try:
            return get(self.port, path).status
        except (OSError, EOFError):
            return 0

    def workers(self) -> list[int]:
        return children(self.process.pid)

    def wait_for_workers(self, count: int, without: int = 0) -> list[int]:
        """`count` workers that serve, none of them the process `without`."""

        def there() -> list[int]:
            pids = self.workers()
            return pids if len(pids) == count and without not in pids and self.ready_workers() == count else []

        pids: list[int] = until(there, 60.0)
        return pids

    def ready_workers(self) -> int:
        """As /metrics counts them."""
        try:
            text = get(self.port, "/metrics").body.decode()
        except (OSError, EOFError):
            return 0
        for line in text.splitlines():
            if line.startswith("servekit_workers{") and 'state="ready"' in line:
                return int(float(line.split()[-1]))
        return 0

    def terminate(self) -> None:
        self.process.send_signal(signal.SIGTERM)

    def listens(self) -> bool:
        with suppress(ConnectionRefusedError), socket.create_connection(("127.0.0.1", self.port), timeout=5):
            return True
        return False

    def end(self) -> None:
        """Whatever is left of it."""
        if hasattr(self, "process"):
            with suppress(ProcessLookupError):
                os.killpg(self.process.pid, signal.SIGKILL)
            self.process.wait()


def children(pid: int) -> list[int]:
    try:
        return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
    except FileNotFoundError:
        return []


@contextmanager
def replica(
    predictor: str,
    directory: Path,
    *options: str,
    faults: str = "",
    environ: Mapping[str, str] | None = None,
    before: Sequence[str] = (),
    start: bool = True,
    **popen: Any,
) -> Iterator[Replica]:
    """A servekit server of faulty.py. faults: see launcher.py; before: of the command line."""
    command = [sys.executable, str(LAUNCHER), faults] if faults else [script("servekit"), "run"]
    server = Replica(
        [*before, *command, f"{PREDICTORS}:{predictor}", "--platform", "sagemaker", *options],
        directory,
        "--port {port}",
        {"LEDGER": str(directory / "ledger")} | dict(environ or {}),
    )
    yield from _running(server, start, popen)


@contextmanager
def stock(
    kind: str,
    directory: Path,
    *options: str,
    faults: str = '{"stock": true}',
    environ: Mapping[str, str] | None = None,
    start: bool = True,
    **popen: Any,
) -> Iterator[Replica]:
    """gunicorn as it comes, with the same service: what the tests of servekit must catch it at."""
    if kind == "uvicorn":
        pytest.importorskip("uvicorn_worker")
    common = ["--chdir", str(ROOM / "stock"), "--keep-alive", "200", "--no-control-socket"]
    server = Replica(
        [sys.executable, str(LAUNCHER), faults, *common, *options, *STOCK[kind]],
        directory,
        "--bind 127.0.0.1:{port}",
        {"LEDGER": str(directory / "ledger")} | dict(environ or {}),
    )
    yield from _running(server, start, popen)


def _running(server: Replica, start: bool, popen: Mapping[str, Any]) -> Iterator[Replica]:
    try:
        if start:
            server.start(**popen)
        yield server
    finally:
        server.end()


def memory_bytes(pid: int) -> int:
    """What it holds of physical memory, its own and shared."""
    return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def descriptors(pid: int) -> int:
    return len(list(Path(f"/proc/{pid}/fd").iterdir()))


def threads(pid: int) -> int:
    return len(list(Path(f"/proc/{pid}/task").iterdir()))


def cpu_s(pid: int) -> float:
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def is_gone(pid: int) -> bool:
    """No such process, or nothing left of it but its exit code."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] in "ZX"
    except (FileNotFoundError, ProcessLookupError):
        return True


# --- balancers ---


def tool(name: str) -> str:
    """Where a program of Debian's is; tests that need one that is missing say so and skip."""
    path = shutil.which(name) or shutil.which(name, path="/usr/sbin:/sbin")
    if path is None:
        pytest.skip(f"needs {name} (Debian: apt-get install {name})")
    return path


HAPROXY = """
global
    maxconn 1000
    stats socket {directory}/stats mode 600
defaults
    mode http
    timeout connect 5s
    timeout client 60s
    timeout server 60s
    retries 0
    no option redispatch
listen all
    bind 127.0.0.1:{port}
    balance roundrobin
    option httpchk GET /ping
    http-check expect status 200
    http-reuse always
    default-server check inter {check_ms:.0f} fall 2 rise 2
{servers}
"""


class Balancer:
    """port: where callers go; the replicas are known by their ports."""

    def __init__(self, port: int, in_use: Callable[[Replica], bool]) -> None:
        self.port = port
        self._in_use = in_use

    def wait_until_in(self, replica: Replica) -> None:
        until(lambda: self._in_use(replica), BALANCER_START_S)

    def wait_until_out(self, replica: Replica) -> None:
        until(lambda: not self._in_use(replica), BALANCER_START_S)


@contextmanager
def haproxy(directory: Path, replicas: Sequence[Replica]) -> Iterator[Balancer]:
    """Strict: one attempt for each request, connections to the servers kept and shared, the platform's probe asked."""
    program = tool("haproxy")
    directory.mkdir(exist_ok=True)
    port = free_port()
    servers = "\n".join(f"    server s{replica.port} 127.0.0.1:{replica.port}" for replica in replicas)
    config = directory / "haproxy.cfg"
    config.write_text(HAPROXY.format(directory=directory, port=port, check_ms=CHECK_S * 1000, servers=servers))

    def in_use(replica: Replica) -> bool:
        with socket.socket(socket.AF_UNIX) as stats:
            stats.connect(str(directory / "stats"))
            stats.sendall(b"show stat\n")
            text = b"".join(iter(lambda: stats.recv(65536), b"")).decode()
        names, *rows = (line.split(",") for line in text.strip().splitlines())
        [row] = [row for row in rows if row[1] == f"s{replica.port}"]
        return dict(zip(names, row, strict=True))["status"].startswith("UP")

    with _balancer([program, "-db", "-f", str(config)], directory):
        until(lambda: (directory / "stats").exists())
        balancer = Balancer(port, in_use)
        for replica in replicas:
            balancer.wait_until_in(replica)
        yield balancer


NGINX = """
{user}
daemon off;
worker_processes 1;
pid {directory}/pid;
error_log {directory}/error.log;
events {{ worker_connections 1000; }}
http {{
    access_log off;
    keepalive_requests 1000000;
    client_body_temp_path {directory}/t1;
    proxy_temp_path {directory}/t2;
    fastcgi_temp_path {directory}/t3;
    uwsgi_temp_path {directory}/t4;
    scgi_temp_path {directory}/t5;
    proxy_http_version 1.1;
    proxy_set_header Connection "";
    proxy_next_upstream off;
    {upstreams}
    server {{
        listen 127.0.0.1:{port};
        set $servers all;
        {choices}
        location / {{ proxy_pass http://$servers; }}
    }}
}}
"""


class Watch(threading.Thread):
    """Asks the replicas' probe as a platform does, and writes down who may not be used."""

    def __init__(self, directory: Path, replicas: Sequence[Replica]) -> None:
        super().__init__(daemon=True)
        self._directory, self._replicas = directory, replicas
        self._failed = dict.fromkeys(replicas, 0)
        self._ended = threading.Event()

    def run(self) -> None:
        while not self._ended.wait(CHECK_S):
            for replica in self._replicas:
                healthy = replica.status() == 200
                self._failed[replica] = 0 if healthy else self._failed[replica] + 1
                if healthy:
                    self.mark(replica).unlink(missing_ok=True)
                elif self._failed[replica] >= 2:
                    self.mark(replica).touch()

    def mark(self, replica: Replica) -> Path:
        return self._directory / f"{replica.port}.out"

    def end(self) -> None:
        self._ended.set()
        self.join()


@contextmanager
def nginx(directory: Path, replicas: Sequence[Replica]) -> Iterator[Balancer]:
    """One attempt for each request, kept connections to the servers; who is unhealthy is looked up for each request.

    nginx itself asks no probes, so that is done beside it, as an orchestrator does.
    """
    program = tool("nginx")
    directory.mkdir(exist_ok=True)
    port = free_port()
    [one, two] = replicas
    lines = {replica: f"server 127.0.0.1:{replica.port} max_fails=0;" for replica in replicas}
    groups = {"all": lines[one] + lines[two], "only_one": lines[one], "only_two": lines[two]}
    upstreams = "\n".join(f"upstream {name} {{ {servers} keepalive 16; }}" for name, servers in groups.items())
    watch = Watch(directory, replicas)
    choices = "\n".join(
        f"if (-f {watch.mark(out)}) {{ set $servers {group}; }}"
        for out, group in ((one, "only_two"), (two, "only_one"))
    )
    config = directory / "nginx.conf"
    # As root it would give its rights away to a user who cannot read the directories of tests.
    user = "user root;" if os.geteuid() == 0 else ""
    config.write_text(NGINX.format(directory=directory, port=port, upstreams=upstreams, choices=choices, user=user))
    with _balancer([program, "-p", str(directory), "-c", str(config)], directory):
        watch.start()
        balancer = Balancer(port, lambda replica: not watch.mark(replica).exists())
        until(lambda: _accepts(port), BALANCER_START_S)
        try:
            yield balancer
        finally:
            watch.end()


def _accepts(port: int) -> bool:
    with suppress(OSError), socket.create_connection(("127.0.0.1", port), timeout=5):
        return True
    return False


@contextmanager
def _balancer(command: Sequence[str], directory: Path) -> Iterator[None]:
    with (directory / "balancer.log").open("wb") as log:
        process = subprocess.Popen(command, stdout=log, stderr=log, start_new_session=True)
    try:
        yield
    finally:
        assert process.poll() is None, (directory / "balancer.log").read_text()
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def restart(server: Replica, balancer: Balancer) -> None:
    """SIGTERM, the end in order, a new start, and back into the balancer."""
    server.terminate()
    balancer.wait_until_out(server)
    assert server.process.wait(60) == 0
    server.start()
    balancer.wait_until_in(server)


@contextmanager
def connections(port: int, count: int, path: str = "") -> Iterator[list[socket.socket]]:
    """So many connections; each has asked for `path` already, and is kept."""
    with ExitStack() as stack:
        opened = [stack.enter_context(connect(port)) for _ in range(count)]
        for client in opened if path else ():
            assert ask(client, message("GET", path)).status == 200
        yield opened


@contextmanager
def busy_processes(count: int) -> Iterator[None]:
    """Processes that do nothing but compute."""
    spinning = [subprocess.Popen([sys.executable, "-c", "while True: pass"]) for _ in range(count)]
    try:
        time.sleep(0.5)
        assert all(process.poll() is None for process in spinning)
        yield
    finally:
        for process in spinning:
            process.kill()
            process.wait()
