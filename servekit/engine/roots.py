"""Directories that a caller names: which of them jobs may use, and how one is opened without being led elsewhere.

The rules, for every path that comes from outside:

- absolute, without `..`, without NUL, at most 4096 bytes (PATH_MAX of Linux);
- below one of the roots, and not in a tree that is kept from jobs: the system's, the server's code, the model's;
- opened one name at a time, each from the descriptor of the one before, and no symbolic link is followed on the way:
  what is swapped meanwhile changes nothing about the descriptors that are held (openat(2): "to avoid race conditions");
- files are regular files that have one name. A second name (a hard link) may be that of a file elsewhere, and nothing
  tells which name was the first.

Links on the way to a root itself are its owner's business: a root is resolved once, when the server starts.
"""

from __future__ import annotations

import os
import stat
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from servekit.errors import ConfigError, InvalidInput

MAX_PATH_BYTES = 4096
MAX_SHOWN = 200
# Where a system keeps itself, its devices and what it tells of its processes; /run holds a container's secrets.
SYSTEM = (
    *("/proc", "/sys", "/dev", "/run", "/var/run", "/etc", "/boot", "/usr"),
    *("/bin", "/sbin", "/lib", "/lib32", "/lib64", "/libx32"),
)
# O_PATH: to go through a directory takes no right to list it.
WALK = getattr(os, "O_PATH", os.O_RDONLY) | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
# O_NONBLOCK: should a fifo take the place of the file that was looked at, opening it must not hang.
READ = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC
KINDS = {
    stat.S_IFLNK: "a symbolic link",
    stat.S_IFDIR: "a directory",
    stat.S_IFIFO: "a fifo",
    stat.S_IFSOCK: "a socket",
    stat.S_IFCHR: "a device",
    stat.S_IFBLK: "a device",
}

# A directory by its resolved path, or by its device and inode, which a second mount of it has as well.
Place = str | tuple[int, int]


@dataclass(frozen=True, slots=True)
class Root:
    """A directory under which jobs may use directories. named: as it was given; real: the same without links.

    kept: places below it, with everything in them, that are kept from jobs, and whose they are. alone: the same for
    places whose directories are not.
    """

    named: str
    real: str
    kept: Mapping[Place, str]
    alone: Mapping[Place, str]


def job_roots(
    directories: Sequence[str] = (), model: Iterable[Path] = (), alone: Iterable[Path] = ()
) -> tuple[Root, ...]:
    """The roots for jobs: `directories` (absolute paths), or without any the whole file system.

    Kept from jobs are the system's directories, those of Python and servekit, and those in `model`, unless a root lies
    inside of them: who names that as a root wants it used. Those in `alone` are kept, but what is in them is not: a
    predictor is often tried out beside its jobs. Raises ConfigError for what is no directory.
    """
    code = (sys.prefix, sys.base_prefix, sys.exec_prefix, Path(__file__).parents[1])
    kept = {os.path.realpath(path): "the system" for path in SYSTEM}
    kept |= {os.path.realpath(path): "the server's code" for path in code}
    kept |= {os.path.realpath(path): "the model" for path in model}
    by_themselves = dict.fromkeys(map(os.path.realpath, alone), "the model")
    roots = []
    for named in directories or ("/",):
        if not Path(named).is_absolute() or not Path(named).is_dir():
            raise ConfigError(f"files_roots: expected absolute paths of directories, got {_shown(named)}")
        real = os.path.realpath(named)
        places: dict[Place, str] = {}
        for path, whose in kept.items():
            if not Path(real).is_relative_to(path):
                places |= dict.fromkeys(_places(path), whose)
        apart: dict[Place, str] = {}
        for path, whose in by_themselves.items():
            apart |= dict.fromkeys(_places(path), whose)
        roots.append(Root(named, real, places, apart))
    return tuple(roots)


@contextmanager
def open_under(roots: Sequence[Root], path: str, field: str, *, make: bool = False) -> Iterator[int]:
    """A descriptor of the directory `path`, for use as `dir_fd`; with `make` it and its parents are made.

    Raises InvalidInput that names `field` and the reason.
    """
    names = _names(path, field)
    root, below = _root_of(roots, names, path, field)
    descriptor = _opened(None, root.real, path, field)
    try:
        at = root.real
        for name in below:
            at = os.path.join(at, name)  # noqa: PTH118 - a name of bytes that Path would normalise
            _refuse_kept(root.kept.get(at), path, field)
            above = descriptor
            try:
                descriptor = _opened(above, name, path, field, make=make)
            finally:
                if descriptor != above:
                    os.close(above)
            status = os.fstat(descriptor)
            _refuse_kept(root.kept.get((status.st_dev, status.st_ino)), path, field)
        status = os.fstat(descriptor)
        _refuse_kept(root.alone.get((status.st_dev, status.st_ino)), path, field)
        yield descriptor
    finally:
        os.close(descriptor)


def open_file(directory: int, name: str, path: str, field: str) -> tuple[int, int]:
    """A descriptor to read the file `name` in `directory` with, and its size in bytes. `path` is for messages.

    Raises InvalidInput unless it is a regular file with one name.
    """
    try:
        # Looked at first: to open a device may do something already.
        _check_file(os.stat(name, dir_fd=directory, follow_symlinks=False), path, field)
        descriptor = os.open(name, READ, dir_fd=directory)
    except (OSError, ValueError) as error:
        raise InvalidInput(f"{field}: cannot open the file {_shown(path)}: {reason(error)}", cause=error) from error
    try:
        status = os.fstat(descriptor)
        _check_file(status, path, field)
    except BaseException:
        os.close(descriptor)
        raise
    return descriptor, status.st_size


def reason(error: OSError | ValueError) -> str:
    """The system's words without its own copy of the path."""
    return (error.strerror if isinstance(error, OSError) else None) or str(error)


def _names(path: str, field: str) -> list[str]:
    if not path.startswith("/"):
        raise InvalidInput(f"{field}: expected an absolute path, got {_shown(path)}")
    if "\0" in path:
        raise InvalidInput(f"{field}: expected a path without NUL, got {_shown(path)}")
    try:
        size = len(os.fsencode(path))
    except ValueError as error:
        raise InvalidInput(f"{field}: expected a path in UTF-8, got {_shown(path)}", cause=error) from error
    if size > MAX_PATH_BYTES:
        raise InvalidInput(f"{field}: expected a path of at most {MAX_PATH_BYTES} bytes, got {size}")
    names = [name for name in path.split("/") if name not in ("", ".")]
    if ".." in names:
        raise InvalidInput(f"{field}: expected a path without .., got {_shown(path)}")
    return names


def _root_of(roots: Sequence[Root], names: list[str], path: str, field: str) -> tuple[Root, list[str]]:
    """The innermost root that the path is in, and the names below it."""
    best: tuple[Root, list[str]] | None = None
    for root in roots:
        for spelling in (root.named, root.real):
            prefix = [name for name in spelling.split("/") if name]
            if names[: len(prefix)] == prefix and (best is None or len(names) - len(prefix) < len(best[1])):
                best = root, names[len(prefix) :]
    if best is None:
        raise InvalidInput(f"{field}: {_shown(path)} is in none of the directories that jobs may use")
    return best


def _opened(above: int | None, name: str, path: str, field: str, *, make: bool = False) -> int:
    try:
        try:
            return os.open(name, WALK, dir_fd=above)
        except FileNotFoundError:
            if not make:
                raise
        # Another job may make it just now; whatever is there then is opened with the same care.
        with suppress(FileExistsError):
            os.mkdir(name, dir_fd=above)
        return os.open(name, WALK, dir_fd=above)
    except OSError as error:
        found = _kind(name, above) if isinstance(error, NotADirectoryError) else None
        why = f"{_shown(name)} is {found}" if found else reason(error)
        action = "make" if make else "open"
        raise InvalidInput(f"{field}: cannot {action} the directory {_shown(path)}: {why}", cause=error) from error


def _kind(name: str, above: int | None) -> str | None:
    try:
        mode = os.stat(name, dir_fd=above, follow_symlinks=False).st_mode
    except OSError:
        return None  # it went meanwhile
    return KINDS.get(stat.S_IFMT(mode), "no directory")


def _refuse_kept(whose: str | None, path: str, field: str) -> None:
    if whose is not None:
        raise InvalidInput(f"{field}: {_shown(path)} is a directory of {whose}: expected one for jobs (files_roots)")


def _check_file(status: os.stat_result, path: str, field: str) -> None:
    if not stat.S_ISREG(status.st_mode):
        kind = KINDS.get(stat.S_IFMT(status.st_mode), "something else")
        raise InvalidInput(f"{field}: expected a regular file at {_shown(path)}, got {kind}")
    if status.st_nlink > 1:
        raise InvalidInput(
            f"{field}: expected a file with one name at {_shown(path)}, got one with {status.st_nlink} (hard links)"
        )


def _places(path: str) -> list[Place]:
    try:
        status = os.stat(path)  # noqa: PTH116 - a resolved text already
    except OSError:
        return [path]  # it is not there, or not yet
    return [path, (status.st_dev, status.st_ino)]


def _shown(text: str) -> str:
    """Text from a caller, safe in a message: escaped and cut."""
    shown = ascii(text)
    return shown if len(shown) <= MAX_SHOWN else shown[:MAX_SHOWN] + "..."
