"""The predictors of `predictors.py` in a process that writes down what it should not do.

The hook is set when the worker imports this file, and writes a line for each event into the file that
AUDIT_LOG names: JSON of the event's name and its arguments.
"""

from __future__ import annotations

import json
import os
import sys
from typing import Any

from predictors import Anything, Bytes, Mixed, Picture, Sum

from servekit import Predictor, Text

__all__ = ["Anything", "Bytes", "Misbehaves", "Mixed", "Picture", "Sum"]

WATCHED = frozenset(
    [
        "open",
        "pickle.find_class",
        "subprocess.Popen",
        "os.exec",
        "os.fork",
        "os.forkpty",
        "os.posix_spawn",
        "os.spawn",
        "os.system",
        "os.remove",
        "os.rename",
        "os.mkdir",
        "os.rmdir",
        "os.symlink",
        "os.link",
        "os.chmod",
        "os.chown",
        "os.truncate",
        "socket.connect",
        "socket.bind",
        "socket.getaddrinfo",
        "socket.sendto",
        "shutil.unpack_archive",
        "urllib.Request",
        "webbrowser.open",
        "ctypes.dlopen",
    ]
)
_file = os.open(os.environ["AUDIT_LOG"], os.O_WRONLY | os.O_APPEND | os.O_CREAT)


def _shown(value: Any) -> Any:
    if isinstance(value, (str, int, float, type(None))):
        return value
    return os.fsdecode(value) if isinstance(value, bytes) else type(value).__name__


def _record(event: str, arguments: tuple[Any, ...]) -> None:
    if event in WATCHED:
        line = json.dumps([event, *(_shown(argument) for argument in arguments)])
        os.write(_file, line.encode() + b"\n")


sys.addaudithook(_record)


class Misbehaves(Predictor):
    """Does what it is told, to see that the hook sees it."""

    inputs = {"deed": Text()}  # noqa: RUF012
    outputs = {"done": Text()}  # noqa: RUF012

    def predict(self, deed: list[str]) -> list[str]:
        for name in deed:
            if name == "open":
                os.close(os.open("/etc/hostname", os.O_RDONLY))
            elif name == "unpickle":
                import pickle

                pickle.loads(pickle.dumps(os.getcwd))  # noqa: S301
            elif name == "subprocess":
                import subprocess

                subprocess.run(["true"], check=True)
            elif name == "connect":
                import contextlib
                import socket

                with contextlib.suppress(OSError), socket.socket() as client:
                    client.connect(("127.0.0.1", 9))
        return deed
