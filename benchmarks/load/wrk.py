"""wrk as the closed-loop load: as many requests at a time as there are connections."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from collections.abc import Mapping
from pathlib import Path

SCRIPT = Path(__file__).with_name("wrk.lua")
GRACE_S = 30.0


def installed() -> bool:
    return shutil.which("wrk") is not None


def run(
    url: str, body: Path, content_type: str, *, connections: int, duration_s: int, vary: bool = False
) -> dict[str, float]:
    """What `done()` in wrk.lua prints. `vary`: another X-Request-Id for each request. Raises RuntimeError."""
    command = ["wrk", "-t1", f"-c{connections}", f"-d{duration_s}s", "--timeout", "10s", "-s", str(SCRIPT), url]
    done = subprocess.run(
        [*command, "--", str(body), content_type],
        capture_output=True,
        text=True,
        env=os.environ | {"BENCH_VARY": "1" if vary else "0"},
        timeout=duration_s + GRACE_S,
        check=False,
    )
    return parse(done.stdout, done.stderr)


def parse(stdout: str, stderr: str = "") -> dict[str, float]:
    """The JSON line among what wrk prints. Raises RuntimeError with what came instead."""
    for line in stdout.splitlines():
        if line.startswith("{"):
            return {name: float(value) for name, value in json.loads(line).items()}
    raise RuntimeError(f"wrk printed no figures: {(stderr or stdout).strip()[-200:]}")


def errors(figures: Mapping[str, float]) -> int:
    """Replies that were not 2xx or 3xx, and connections that broke or waited too long."""
    return int(sum(figures[name] for name in ("status", "connect", "read", "write", "timeout")))
