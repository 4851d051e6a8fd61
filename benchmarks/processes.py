"""What a server's processes cost, read from /proc: CPU seconds, and memory as proportional set size (PSS).

PSS divides a page by the number of processes that map it, so that the sum over a tree of processes is the memory that
the tree really takes. Linux only.
"""

from __future__ import annotations

import ctypes
import os
import signal
import time
from dataclasses import dataclass
from pathlib import Path

PROC = Path("/proc")
TICKS_PER_S = os.sysconf("SC_CLK_TCK")
PR_SET_CHILD_SUBREAPER = 36
# In /proc/PID/stat, counted from the field after the process's name, which may itself hold spaces.
STATE, PPID, UTIME, CUTIME_END = 0, 1, 11, 15


@dataclass(frozen=True)
class Stat:
    """CPU seconds are user and system time, with those of the children that have ended and been waited for."""

    pid: int
    ppid: int
    state: str
    cpu_s: float


def adopt_orphans() -> None:
    """Make this process the parent of daemons that its servers leave behind, so that `tree` finds them."""
    ctypes.CDLL(None).prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)


def stat(pid: int) -> Stat | None:
    """None when there is no such process any more."""
    try:
        text = (PROC / str(pid) / "stat").read_text()
    except OSError:
        return None
    return parse_stat(text)


def parse_stat(text: str) -> Stat:
    pid, rest = text.split(" ", 1)
    fields = rest[rest.rindex(")") + 2 :].split()
    cpu_s = sum(map(int, fields[UTIME:CUTIME_END])) / TICKS_PER_S
    return Stat(int(pid), int(fields[PPID]), fields[STATE], cpu_s)


def tree(root: int) -> list[Stat]:
    """`root` and all that descend from it. With this process as root: its descendants, without itself."""
    stats = [found for entry in PROC.iterdir() if entry.name.isdigit() and (found := stat(int(entry.name)))]
    return [each for each in descendants(stats, root) if each.pid != os.getpid()]


def descendants(stats: list[Stat], root: int) -> list[Stat]:
    children: dict[int, list[Stat]] = {}
    for each in stats:
        children.setdefault(each.ppid, []).append(each)
    found = [each for each in stats if each.pid == root]
    queue = [root]
    while queue:
        below = children.get(queue.pop(), [])
        found += below
        queue += [each.pid for each in below]
    return found


def cpu_s(stats: list[Stat]) -> float:
    return sum(each.cpu_s for each in stats)


def pss_mib(stats: list[Stat]) -> float:
    """MiB. Processes that end meanwhile count as nothing."""
    total_kib = 0
    for each in stats:
        try:
            text = (PROC / str(each.pid) / "smaps_rollup").read_text()
        except OSError:
            continue
        total_kib += parse_pss_kib(text)
    return total_kib / 1024


def parse_pss_kib(text: str) -> int:
    return next((int(line.split()[1]) for line in text.splitlines() if line.startswith("Pss:")), 0)


def stop(root: int, grace_s: float) -> None:
    """SIGTERM to `root`, then SIGKILL to what is left of its tree and of what it left behind, and wait for all."""
    known = {each.pid for each in tree(os.getpid())}
    _signal({root}, signal.SIGTERM)
    deadline = time.monotonic() + grace_s
    while time.monotonic() < deadline and _alive(known):
        _reap()
        time.sleep(0.02)
    while left := _alive({each.pid for each in tree(os.getpid())}):
        _signal(left, signal.SIGKILL)
        _reap()
        time.sleep(0.02)
    _reap()


def _alive(pids: set[int]) -> set[int]:
    return {pid for pid in pids if (found := stat(pid)) and found.state != "Z"}


def _signal(pids: set[int], number: int) -> None:
    for pid in pids:
        try:
            os.kill(pid, number)
        except ProcessLookupError:
            continue


def _reap() -> None:
    """Collect children that have ended, ours and adopted ones; else they stay as zombies."""
    try:
        while os.waitpid(-1, os.WNOHANG)[0]:
            pass
    except ChildProcessError:
        return
