"""docker, buildah, podman and others as programs: asked, run with their output read line by line, and ended with all
that they have started."""

from __future__ import annotations

import contextlib
import os
import re
import signal
import subprocess
import threading
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from types import FrameType
from typing import IO, NoReturn

from servekit.errors import ConfigError

MAX_ASKING_S = 30.0
MAX_ENDING_S = 15.0
MAX_LINE_BYTES = 64 * 1024
MAX_CAUSE_CHARS = 500

COLOURS = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]")
# A password may hold an @, too. The scheme before is not looked for: a line without an end to it would take minutes.
PASSWORD = re.compile(r"://[^\s/]+@")


def ask(command: Sequence[str], *, limit_s: float = MAX_ASKING_S) -> subprocess.CompletedProcess[str]:
    """A question that is answered at once. Raises ConfigError when it is not."""
    name = Path(command[0]).name
    try:
        return subprocess.run(  # noqa: S603 - a list of arguments, no shell
            command,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            errors="replace",
            timeout=limit_s,
            check=False,
        )
    except subprocess.TimeoutExpired as error:
        raise ConfigError(f"`{name} {command[1]}` gave no answer within {limit_s:.0f} s") from error
    except OSError as error:
        raise ConfigError(f"{name} cannot be started: {error.strerror or error}") from error


def run(
    command: Sequence[str],
    environ: Mapping[str, str],
    take: Callable[[str], object],
    *,
    cwd: Path | None = None,
    limit_s: float | None = None,
) -> int:
    """The exit code; `take` gets every line. Whatever ends this process's wait ends the program's processes first.

    limit_s: None where only who waits for it knows how long it may take, as for a build.
    """
    with terminable():
        process = subprocess.Popen(  # noqa: S603 - a list of arguments, no shell
            command,
            env=environ,
            cwd=cwd,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
        timer = threading.Timer(limit_s, _signal_group, (process, signal.SIGKILL)) if limit_s is not None else None
        try:
            if timer is not None:
                timer.daemon = True
                timer.start()
            assert process.stdout is not None  # noqa: S101 - it is a pipe
            for line in _lines(process.stdout):
                take(line)
            return process.wait()
        except BaseException:
            end(process)
            raise
        finally:
            if timer is not None:
                timer.cancel()
            if process.stdout is not None:
                process.stdout.close()


def _lines(stream: IO[bytes]) -> Iterator[str]:
    """Lines without colours; of one that a carriage return drew over, the last state."""
    while piece := stream.readline(MAX_LINE_BYTES):
        text = piece.decode(errors="replace").rstrip("\r\n").rpartition("\r")[2]
        yield PASSWORD.sub("://***@", COLOURS.sub("", text))


@contextlib.contextmanager
def terminable() -> Iterator[None]:
    """SIGTERM and SIGHUP leave by an exception, unless somebody else handles them: nothing may go on by itself."""

    def leave(number: int, frame: FrameType | None) -> NoReturn:  # noqa: ARG001 - Python passes it
        raise SystemExit(128 + number)

    if threading.current_thread() is not threading.main_thread():
        yield
        return
    ours = [number for number in (signal.SIGTERM, signal.SIGHUP) if signal.getsignal(number) is signal.SIG_DFL]
    for number in ours:
        signal.signal(number, leave)
    try:
        yield
    finally:
        for number in ours:
            signal.signal(number, signal.SIG_DFL)


@contextlib.contextmanager
def held_back() -> Iterator[None]:
    """Ctrl-C and SIGTERM come after what must not be cut in two: a process that is started, and not yet known."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    came: list[int] = []
    handlers = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)}
    try:
        for number in handlers:
            signal.signal(number, lambda number, _frame: came.append(number))
        yield
    finally:
        for number, handler in handlers.items():
            signal.signal(number, signal.SIG_DFL if handler is None else handler)
    for each in came:
        signal.raise_signal(each)


def end(process: subprocess.Popen[bytes]) -> None:
    """End all that was started, and wait for it. A second Ctrl-C makes it hurry.

    The command in the image goes first, which may have a session of its own: the builder then fails as it does when a
    command fails, and removes what it has half made. Without one it is told to end.
    """
    family = _family(process.pid)
    # Its last words may be more than a pipe holds.
    rest = threading.Thread(target=_drain, args=(process.stdout,), daemon=True)
    rest.start()
    try:
        if family:
            _kill(family)
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(MAX_ENDING_S)
                return
        _signal_group(process, signal.SIGTERM)
        process.wait(MAX_ENDING_S)
    except (subprocess.TimeoutExpired, KeyboardInterrupt, SystemExit):
        pass
    finally:
        family |= _family(process.pid)
        _signal_group(process, signal.SIGKILL)
        process.wait()
        _kill(family)
        rest.join(MAX_ENDING_S)


def _drain(stream: IO[bytes]) -> None:
    while stream.read(MAX_LINE_BYTES):
        pass


def _family(pid: int) -> dict[int, str]:
    """The processes below this one, with the time at which each began; none where /proc does not tell."""
    parents: dict[int, tuple[int, str]] = {}
    for entry in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError, ValueError, IndexError):
            # The second field is a name in parentheses, and may hold anything.
            fields = entry.read_text(errors="replace").rpartition(")")[2].split()
            parents[int(entry.parent.name)] = int(fields[1]), fields[19]
    found: dict[int, str] = {}
    generation = {pid}
    while generation:
        generation = {child for child, (parent, _) in parents.items() if parent in generation and child not in found}
        found |= {child: parents[child][1] for child in generation}
    return found


def _kill(family: Mapping[int, str]) -> None:
    for pid, began in family.items():
        with contextlib.suppress(OSError, IndexError):
            # Unless it is another process by now.
            if Path(f"/proc/{pid}/stat").read_text(errors="replace").rpartition(")")[2].split()[19] == began:
                os.kill(pid, signal.SIGKILL)


def _signal_group(process: subprocess.Popen[bytes], number: signal.Signals) -> None:
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(process.pid, number)


def last(lines: Sequence[str] | deque[str]) -> str:
    """The last line that says anything."""
    said = [line.strip() for line in lines if line.strip()]
    return short(re.sub(r"^(?:Error|ERROR|error): ", "", PASSWORD.sub("://***@", said[-1]))) if said else ""


def short(text: str) -> str:
    """A cause, in a line of bounded length."""
    text = " ".join(text.split())
    return text if len(text) <= MAX_CAUSE_CHARS else text[:MAX_CAUSE_CHARS] + " ..."
