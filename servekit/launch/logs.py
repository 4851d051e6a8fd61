"""Logs to stdout that never hold up a request: a bounded queue, one writer thread, and a count of what was dropped.

A reader that stops reading fills the pipe; a server that writes its log inline then stands still (and so does the
supervisor). Here only the writer thread does.
"""

from __future__ import annotations

import json
import logging
import os
import queue
import sys
import threading
import time
from datetime import UTC, datetime
from typing import Any, Literal

from gunicorn.glogging import Logger as GunicornLogger

from servekit.engine import current

MAX_QUEUED = 10_000
MAX_LINE_CHARS = 8 * 1024
MAX_EXCEPTION_CHARS = 32 * 1024
FLUSH_S = 2.0


class QueuedStdout(logging.Handler):
    """Formats in the caller's thread, writes in its own; drops, and says so later, rather than wait."""

    def __init__(self) -> None:
        super().__init__()
        self._pid = 0
        self._dropped = 0
        self._queue: queue.SimpleQueue[str] = queue.SimpleQueue()
        self._idle = threading.Event()

    def emit(self, record: logging.LogRecord) -> None:
        if self._pid != os.getpid():
            self._start()
        if self._queue.qsize() >= MAX_QUEUED:
            self._dropped += 1
            return
        try:
            line = self.format(record)
        except Exception:  # noqa: BLE001 - a log line must not raise in the code that logs
            self.handleError(record)
            return
        self._idle.clear()
        self._queue.put(line)

    def _start(self) -> None:
        """A thread of this process: threads and what they were writing stay behind at a fork."""
        self._pid = os.getpid()
        self._queue = queue.SimpleQueue()
        self._idle = threading.Event()
        threading.Thread(target=self._write, args=(self._queue, self._idle), name="servekit-log", daemon=True).start()

    def _write(self, lines: queue.SimpleQueue[str], idle: threading.Event) -> None:
        while True:
            if lines.empty():
                idle.set()
            line = lines.get()
            if self._dropped:
                line += f'\n{{"level":"warning","message":"{self._dropped} log records dropped"}}'
                self._dropped = 0
            try:
                os.write(1, (line + "\n").encode("utf-8", "backslashreplace"))
            except OSError:
                return  # nobody can read any more; the queue fills and then drops

    def flush(self) -> None:
        """Wait until everything is written, but not for long."""
        if self._pid == os.getpid():
            deadline_s = time.monotonic() + FLUSH_S
            while not self._queue.empty() and time.monotonic() < deadline_s:
                time.sleep(0.01)
            self._idle.wait(max(0.0, deadline_s - time.monotonic()))


class _Formatter(logging.Formatter):
    def fields(self, record: logging.LogRecord) -> dict[str, Any]:
        """Time (RFC 3339, UTC), level, logger, message, the requests it is about, and what the caller added."""
        ids = getattr(record, "request_id", None) or ",".join(filter(None, current.request_ids.get()))
        moment = datetime.fromtimestamp(record.created, UTC)
        document: dict[str, Any] = {
            "time": moment.isoformat(timespec="milliseconds").replace("+00:00", "Z"),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": _cut(record.getMessage(), MAX_LINE_CHARS),
        }
        if ids:
            document["request_id"] = _cut(ids, MAX_LINE_CHARS)
        for name, value in getattr(record, "fields", {}).items():
            document[name] = _cut(value, MAX_LINE_CHARS) if isinstance(value, str) else value
        if record.exc_info:
            document["exception"] = _cut(self.formatException(record.exc_info), MAX_EXCEPTION_CHARS)
        return document


class JsonFormatter(_Formatter):
    """One JSON object per record, on one line."""

    def format(self, record: logging.LogRecord) -> str:
        return json.dumps(self.fields(record), default=str)


class TextFormatter(_Formatter):
    """For people: `12:00:00.000 INFO    servekit.launch: message [request id]`, a traceback below it."""

    def format(self, record: logging.LogRecord) -> str:
        document = self.fields(record)
        about = f" [{document['request_id']}]" if "request_id" in document else ""
        message = (
            document["message"].encode("unicode_escape").decode()
            if _has_control(document["message"])
            else (document["message"])
        )
        line = f"{document['time'][11:-1]} {record.levelname:<7} {record.name}: {message}{about}"
        return f"{line}\n{document['exception']}" if "exception" in document else line


def _has_control(text: str) -> bool:
    return any(ord(character) < 32 or ord(character) == 127 for character in text)


def _cut(text: str, limit: int) -> str:
    return text if len(text) <= limit else text[:limit] + "..."


HANDLER = QueuedStdout()


def configure(log_format: Literal["auto", "json", "text"], level: str, *, access_log: bool) -> None:
    """Send every logger of this process, ours, gunicorn's, uvicorn's and the user's, to the one handler."""
    text = log_format == "text" or (log_format == "auto" and sys.stdout.isatty())
    HANDLER.setFormatter(TextFormatter() if text else JsonFormatter())
    root = logging.getLogger()
    root.handlers[:] = [HANDLER]
    root.setLevel(level.upper())
    logging.getLogger("servekit.access").disabled = not access_log
    logging.captureWarnings(True)


class ArbiterLogger(GunicornLogger):  # type: ignore[misc]
    """gunicorn's logger without handlers of its own: its records go to the root's."""

    def setup(self, cfg: Any) -> None:  # noqa: ARG002 - gunicorn passes its settings; ours decide
        for logger in (self.error_log, self.access_log):
            logger.handlers[:] = []
            logger.propagate = True
            logger.setLevel(logging.NOTSET)

    def reopen_files(self) -> None:
        """There are none."""

    def close_on_exec(self) -> None:
        """There is nothing to close."""
