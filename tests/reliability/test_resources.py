"""A disk that is full, no descriptors, no processes, no processor: the server bears it, and recovers."""

from __future__ import annotations

import os
import resource
import shutil
import signal
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from faults import Replica, busy_processes, connections, cpu_s, descriptors, replica
from launched import until
from load import Caller, Ledger, Load, Outcome, ask, connect, get, message, predict

pytestmark = [pytest.mark.slow, pytest.mark.timeout(120)]

# Somebody whose processes are limited, but who may read the files of whoever runs the tests.
CAPABILITIES = "-all,+dac_override"
NOBODY = ["setpriv", "--reuid=65534", "--clear-groups", "--no-new-privs"]
NOBODY += [f"--inh-caps={CAPABILITIES}", f"--ambient-caps={CAPABILITIES}", f"--bounding-set={CAPABILITIES}"]
OWN_MOUNTS = ["unshare", "--mount"]
# The promise: a health check is answered while the machine is busy with something else. One that is late may be the
# machine's doing, whose other guests can be busy as well; the server's doing would be seen in most of them.
HEALTH_S = 2.0


def kill_a_worker(server: Replica) -> int:
    victim = server.wait_for_workers(2)[0]
    os.kill(victim, signal.SIGKILL)
    until(lambda: victim not in server.workers())
    return victim


def stays_and_recovers(server: Replica, victim: int, lift: Callable[[], object]) -> Load:
    """While no worker can be started the other one serves; afterwards there are two again."""
    with Load(server.port) as load:
        until(lambda: server.log.count("cannot start a worker") >= 2, 30)
        assert server.ready_workers() == 1
        lift()
        server.wait_for_workers(2, without=victim)
    assert server.process.poll() is None
    return load


def test_a_full_disk_for_heartbeats(worker: str, tmp_path: Path, ledger: Ledger) -> None:
    if shutil.which("unshare") is None or subprocess.run([*OWN_MOUNTS, "true"], capture_output=True).returncode != 0:
        pytest.skip("needs the right to make a mount namespace")
    with replica("Counted", tmp_path, "--worker", worker, "--workers", "2", before=OWN_MOUNTS) as server:
        server.wait_for_workers(2)
        enter = ["nsenter", "--mount", "--target", str(server.process.pid)]
        subprocess.run([*enter, "mount", "-t", "tmpfs", "-o", "nr_inodes=1", "tmpfs", "/dev/shm"], check=True)
        victim = kill_a_worker(server)
        load = stays_and_recovers(server, victim, lambda: subprocess.run([*enter, "umount", "/dev/shm"], check=True))
        assert "No space left on device" in server.log
        # What gunicorn changes while it makes a file is changed back when that fails.
        umask = Path(f"/proc/{server.process.pid}/status").read_text().split("Umask:")[1].split()[0]
        assert umask != "0000"
    assert load.failed == []
    ledger.check(load.results)


def test_no_processes(worker: str, tmp_path: Path, ledger: Ledger) -> None:
    if shutil.which("setpriv") is None or subprocess.run([*NOBODY, "true"], capture_output=True).returncode != 0:
        pytest.skip("needs the right to become a user who has a limit of processes")
    options = ("--worker", worker, "--workers", "2")
    with replica("Counted", tmp_path, *options, before=NOBODY) as server:
        server.wait_for_workers(2)
        limit = [*NOBODY, "prlimit", "--pid", str(server.process.pid)]
        before = subprocess.check_output([*limit, "--nproc", "--noheadings", "--output", "SOFT"], text=True).strip()
        subprocess.run([*limit, "--nproc=0:"], check=True)
        victim = kill_a_worker(server)
        load = stays_and_recovers(server, victim, lambda: subprocess.run([*limit, f"--nproc={before}:"], check=True))
    assert load.failed == []
    ledger.check(load.results)


def test_no_descriptors_in_the_master(worker: str, tmp_path: Path, ledger: Ledger) -> None:
    with replica("Counted", tmp_path, "--worker", worker, "--workers", "2") as server:
        server.wait_for_workers(2)
        master = server.process.pid
        before = resource.prlimit(master, resource.RLIMIT_NOFILE)
        resource.prlimit(master, resource.RLIMIT_NOFILE, (3, before[1]))
        victim = kill_a_worker(server)
        load = stays_and_recovers(server, victim, lambda: resource.prlimit(master, resource.RLIMIT_NOFILE, before))
    assert load.failed == []
    ledger.check(load.results)


def test_no_descriptors_in_a_worker(worker: str, tmp_path: Path, ledger: Ledger) -> None:
    with replica("Counted", tmp_path, "--worker", worker, "--workers", "1") as server:
        [pid] = server.wait_for_workers(1)
        caller = Caller(server.port, "kept")
        assert caller.call(1).outcome is Outcome.OK
        before = resource.prlimit(pid, resource.RLIMIT_NOFILE)
        resource.prlimit(pid, resource.RLIMIT_NOFILE, (64, before[1]))
        with connections(server.port, 200):
            # The fault is there: hardly a descriptor is left.
            until(lambda: descriptors(pid) >= 60)
            spent_s = cpu_s(pid)
            # Those who were there first are served, and the wait for descriptors costs next to nothing.
            for number in range(2, 22):
                assert caller.call(number).outcome is Outcome.OK
                time.sleep(0.1)
            assert cpu_s(pid) - spent_s < 0.2 * 2 + 0.2
        until(lambda: predict(server.port, 10**6, timeout_s=5).outcome is Outcome.OK, 15)
        assert server.workers() == [pid]
        caller.close()


@pytest.mark.alone  # it takes the machine's processors away
def test_no_processor(worker: str, tmp_path: Path) -> None:
    options = ("--worker", worker, "--workers", "2")
    with replica("Counted", tmp_path, *options, faults='{"heartbeat_timeout_s": 5}') as server:
        pids = server.wait_for_workers(2)
        late = 0
        with busy_processes(4 * (os.cpu_count() or 2)), connect(server.port) as client:
            for _ in range(20):
                for ask_health in (lambda: get(server.port, "/ping"), lambda: ask(client, message("GET", "/ping"))):
                    started_s = time.monotonic()
                    assert ask_health().status == 200
                    late += time.monotonic() - started_s >= HEALTH_S
                time.sleep(0.2)
        assert late <= 4
        assert server.workers() == pids
        assert "TIMEOUT" not in server.log


def test_a_burst_of_connections(worker: str, tmp_path: Path) -> None:
    """More at a time than can be accepted at once; each is answered."""
    with replica("Counted", tmp_path, "--worker", worker, "--workers", "2") as server:
        server.wait_for_workers(2)
        with connections(server.port, 800) as clients:
            assert [ask(client, message("GET", "/ping")).status for client in clients] == [200] * 800
