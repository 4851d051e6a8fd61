"""Servers with what no option brings about: `python launcher.py '{"clock": FILE, ...}' ARGUMENTS`.

clock: the wall clock is off by the seconds (a C double) in this file, from one moment to the next, in all processes.
heartbeat_timeout_s: after how long without a heartbeat a worker is replaced.
stock: gunicorn's own command line, with ARGUMENTS; otherwise they are those of `servekit run`.
"""

from __future__ import annotations

import json
import mmap
import os
import struct
import sys
import time
from pathlib import Path
from typing import Any


def bend_the_clock(path: str) -> None:
    page = mmap.mmap(os.open(path, os.O_RDWR), 8)
    seconds, nanoseconds = time.time, time.time_ns
    time.time = lambda: seconds() + struct.unpack("d", page[:8])[0]
    time.time_ns = lambda: nanoseconds() + int(struct.unpack("d", page[:8])[0] * 1e9)


def main(faults: dict[str, Any], arguments: list[str]) -> None:
    if "clock" in faults:
        bend_the_clock(faults["clock"])
    if faults.get("stock"):
        from gunicorn.app.wsgiapp import run as run_stock

        sys.argv[1:] = arguments
        run_stock()
        return
    from servekit.launch import gunicorn, logs
    from servekit.launch.platforms import installed
    from servekit.launch.settings import resolve

    target, *options = arguments
    flags: dict[str, str | None] = {"target": target}
    flags |= {
        name.removeprefix("--").replace("-", "_"): value
        for name, value in zip(options[::2], options[1::2], strict=True)
    }
    settings = resolve(flags, os.environ, installed(), Path.cwd())
    logs.configure(settings.log_format, settings.log_level, access_log=settings.access_log)
    gunicorn.run(settings, heartbeat_timeout_s=faults.get("heartbeat_timeout_s", gunicorn.HEARTBEAT_TIMEOUT_S))


if __name__ == "__main__":
    main(json.loads(sys.argv[1]), sys.argv[2:])
