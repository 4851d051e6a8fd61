"""Logs to stdout that never hold up a request: a bounded queue, one writer thread, and a count of what was dropped.

A reader that stops reading fills the pipe; a server that writes its log inline then stands still (and so does the
supervisor). Here only the writer thread does.
"""

from __future__ import annotations

import json
import logging
import os
import queue
import select
import sys
import threading
import time
from datetime import UTC, datetime
from typing import Any, Literal

from gunicorn.glogging import Logger as GunicornLogger

from servekit.engine import current

STDOUT = 1
MAX_QUEUED_CHARS = 8 * 1024 * 1024
MAX_MESSAGE_CHARS = 4 * 1024
MAX_LINE_CHARS = 8 * 1024
MAX_EXCEPTION_CHARS = 32 * 1024
# A worker's and the master's come one after the other, inside a platform's margin of two seconds.
FLUSH_S = 0.8
# Each time the writer wakes up it needs the interpreter lock, which makes requests wait; so it takes what a short while
# brings at once. Warnings and errors do not wait.
GATHER_S = 0.1
MAX_GATHERED_CHARS = 256 * 1024


class QueuedStdout(logging.Handler):
    """Formats in the caller's thread, writes in its own; drops, and says so later, rather than wait."""

    def __init__(self, fd: int = STDOUT, max_queued_chars: int = MAX_QUEUED_CHARS) -> None:
        super().__init__()
        self._fd = fd
        self._max_queued_chars = max_queued_chars
        self._pid = 0
        self._new()

    def _new(self) -> None:
        self._lines: queue.SimpleQueue[str] = queue.SimpleQueue()
        # Each has one writer: `emit` holds the handler's lock, the other two belong to the thread.
        self._put_chars = 0
        self._written_chars = 0
        self._reported = 0
        self._dropped = 0
        self._urgent = threading.Event()
        self._writer: threading.Thread | None = None

    def emit(self, record: logging.LogRecord) -> None:
        if self._pid != os.getpid():
            # Threads, and what they were writing, stay behind at a fork.
            self._pid = os.getpid()
            self._new()
        if self._writer is None:
            self._start_writer()
        try:
            line = self.format(record) + "\n"
        except Exception:  # noqa: BLE001 - a log line must not raise in the code that logs
            self.handleError(record)
            return
        if self._put_chars - self._written_chars + len(line) > self._max_queued_chars:
            self._dropped += 1
            return
        self._put_chars += len(line)
        self._lines.put(line)
        if record.levelno >= logging.WARNING:
            self._urgent.set()

    def _start_writer(self) -> None:
        writer = threading.Thread(target=self._write_all, name="servekit-log", daemon=True)
        try:
            writer.start()
        except RuntimeError:
            return  # no thread can be had now; what is queued waits, and the next record tries again
        self._writer = writer

    def _write_all(self) -> None:
        while True:
            line = self._lines.get()
            self._urgent.wait(GATHER_S)
            self._urgent.clear()
            dropped = self._dropped - self._reported
            if dropped:
                self._reported += dropped
                self._write(self._report(dropped))
            lines, size = [line], len(line)
            while size < MAX_GATHERED_CHARS and not self._lines.empty():
                lines.append(self._lines.get())
                size += len(lines[-1])
            self._write("".join(lines))
            self._written_chars += size

    def _write(self, text: str) -> None:
        left = memoryview(text.encode("utf-8", "backslashreplace"))
        while left:
            try:
                left = left[os.write(self._fd, left) :]
            except BlockingIOError:
                select.select([], [self._fd], [])
            except OSError:
                return  # nobody reads any more, and there is nobody to tell

    def _report(self, dropped: int) -> str:
        text = f"{dropped} log records dropped: nobody reads fast enough"
        return self.format(logging.LogRecord(__name__, logging.WARNING, __file__, 0, text, None, None)) + "\n"

    def flush(self) -> None:
        """Wait until what is queued by now is written, but not for long."""
        if self._pid == os.getpid():
            goal, deadline_s = self._put_chars, time.monotonic() + FLUSH_S
            self._urgent.set()
            while self._written_chars < goal and time.monotonic() < deadline_s:
                time.sleep(0.005)


class _Formatter(logging.Formatter):
    def fields(self, record: logging.LogRecord) -> dict[str, Any]:
        """Time (RFC 3339, UTC), level, logger, message, the requests it is about, and what the caller added."""
        ids = getattr(record, "request_id", None) or ",".join(filter(None, current.request_ids()))
        moment = datetime.fromtimestamp(record.created, UTC)
        document: dict[str, Any] = {
            "time": moment.isoformat(timespec="milliseconds").replace("+00:00", "Z"),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": _cut(record.getMessage(), MAX_MESSAGE_CHARS),
        }
        if ids:
            document["request_id"] = _cut(ids, MAX_MESSAGE_CHARS // 4)
        for name, value in getattr(record, "fields", {}).items():
            document[name] = _cut(value, MAX_MESSAGE_CHARS // 4) if isinstance(value, str) else value
        if record.exc_info:
            document["exception"] = _tail(self.formatException(record.exc_info), MAX_EXCEPTION_CHARS)
        return document


class JsonFormatter(_Formatter):
    """One JSON object per record, on one line of at most MAX_LINE_CHARS, not counting the exception."""

    def format(self, record: logging.LogRecord) -> str:
        document = self.fields(record)
        line = json.dumps(document, default=str)
        limit = MAX_LINE_CHARS + (MAX_EXCEPTION_CHARS if "exception" in document else 0)
        if len(line) > limit:
            # Escapes are up to six times as long as what they stand for (twelve outside the basic plane).
            cut = {name: _cut(value, 60) for name, value in document.items() if isinstance(value, str)}
            cut["message"] = _cut(document["message"], 400)
            if "exception" in document:
                cut["exception"] = _tail(document["exception"], MAX_EXCEPTION_CHARS // 12)
            line = json.dumps(dict(list(cut.items())[:8]))
        return line


class TextFormatter(_Formatter):
    """For people: `12:00:00.000 INFO    servekit.launch: message [request id]`, a traceback below it."""

    def format(self, record: logging.LogRecord) -> str:
        document = self.fields(record)
        about = f" [{document['request_id']}]" if "request_id" in document else ""
        message = _visible(document["message"])
        line = f"{document['time'][11:-1]} {record.levelname:<7} {record.name}: {message}{about}"
        trace = [_visible(text) for text in document.get("exception", "").splitlines()]
        return "\n".join([line, *trace])


def _visible(text: str) -> str:
    """Without characters that would move a terminal's cursor, or start a line that we did not write."""
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode("ascii") for c in text)


def _cut(text: str, limit: int) -> str:
    return text if len(text) <= limit else text[:limit] + "..."


def _tail(text: str, limit: int) -> str:
    """The end of a traceback is what names the error."""
    return text if len(text) <= limit else "..." + text[-limit:]


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
