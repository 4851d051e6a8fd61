"""The build context: which files of the project enter it, and writing it in one go."""

from __future__ import annotations

import os
import shutil
import stat
import tempfile
from collections.abc import Iterator, Mapping, Sequence, Set
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from servekit.containers import BootFile
from servekit.errors import ConfigError
from servekit.images.ignore import FILE, KEY_BYTES, Rules, Verdict
from servekit.images.pins import LOCK
from servekit.images.project import Project

GIBIBYTE = 1024**3
# What the strictest registry takes: ModelArts, "Custom Image Specifications".
MAX_FILE_BYTES = 10 * GIBIBYTE
MAX_CONTEXT_BYTES = 50 * GIBIBYTE
MAX_FILES = 100_000
MAX_FOLDERS = 20_000
MAX_DEPTH = 64
FILE_MODE, PROGRAM_MODE, FOLDER_MODE = 0o644, 0o755, 0o755
# The first second that a ZIP file can name. One time for all, so that no builder sees a change where there is none.
TIME_S = 315_532_800
CHUNK_BYTES = 1024 * 1024
# Everything that a context of ours has at its top, and how its Dockerfile begins.
OURS = frozenset({"Dockerfile", ".dockerignore", "requirements.lock", "wheels", "boot", "project"})
FIRST_LINE = b"# Made by `servekit build`"


@dataclass(frozen=True, slots=True)
class Copied:
    """A file that lies elsewhere, and is copied when the context is written: models are large."""

    path: Path
    size: int
    executable: bool = False


Entry = BootFile | Copied


@dataclass(frozen=True, slots=True)
class Collected:
    """files: by path relative to the project's root. The others are what stayed out (folders end with /), what of that
    looks like a secret, and what looks like one and enters since the user says so.
    """

    files: Mapping[str, Copied]
    left_out: tuple[str, ...] = ()
    secrets: tuple[str, ...] = ()
    secrets_within: tuple[str, ...] = ()

    @property
    def nbytes(self) -> int:
        return sum(file.size for file in self.files.values())


def collect(project: Project, exclude: Sequence[str], *, apart: Sequence[Path] = ()) -> Collected:
    """Every regular file of the project but those that the rules keep out.

    apart: what this command writes, should it lie within the project. Raises ConfigError.
    """
    # By both names, if one is a link.
    names = {name for path in apart for name in (path.resolve(), path.parent.resolve() / path.name)}
    walk = _Walk(project.root, Rules(project.root / FILE, exclude), names)
    try:
        walk.folder(project.root, "", ())
    except OSError as error:
        raise ConfigError(f"the project: {_said(error)}", cause=error) from error
    files = dict(sorted(walk.files.items()))
    total = sum(file.size for file in files.values())
    if total > MAX_CONTEXT_BYTES:
        raise ConfigError(
            f"the project: expected at most {MAX_CONTEXT_BYTES} bytes of files, got {total}: leave some out by "
            "--exclude"
        )
    return Collected(files, *(tuple(sorted(names)) for names in (walk.left_out, walk.secrets, walk.within)))


class _Walk:
    def __init__(self, root: Path, rules: Rules, apart: Set[Path]) -> None:
        self.files: dict[str, Copied] = {}
        self.left_out: list[str] = []
        self.secrets: list[str] = []
        self.within: list[str] = []
        self._root = root
        self._rules = rules
        self._apart = apart
        self._folders = 0

    def folder(self, real: Path, name: str, above: tuple[Path, ...]) -> None:
        """real: without links. name: what it is called in the context, with / at its end. above: those it lies in."""
        if len(above) > MAX_DEPTH:
            raise ConfigError(f"{name}: expected folders at most {MAX_DEPTH} deep")
        self._folders += 1
        if self._folders > MAX_FOLDERS:
            # A few links to folders that hold links make as many as one likes.
            raise ConfigError(f"the project: expected at most {MAX_FOLDERS} folders: leave some out by --exclude")
        for entry in sorted(os.scandir(real), key=lambda entry: entry.name):
            path = Path(entry.path)
            try:
                entry.name.encode()
            except UnicodeEncodeError:
                raise ConfigError(f"{name + entry.name!a}: expected names in UTF-8") from None
            if path in self._apart or (not name and entry.name == LOCK):
                continue
            shown = name + entry.name
            target = self._resolved(path, shown) if entry.is_symlink() else path
            if target is None or target in self._apart:
                continue
            try:
                mode = target.lstat().st_mode
            except FileNotFoundError:
                continue  # gone meanwhile, as the half-written lock of another build
            if stat.S_ISDIR(mode):
                if target == real or target in above:
                    raise ConfigError(f"{shown}: a link to a folder that it lies in: leave it out by --exclude")
                if self._enters(shown, target, "/") and not self._is_made(target, shown):
                    self.folder(target, f"{shown}/", (*above, real))
            elif not stat.S_ISREG(mode):
                self.left_out.append(shown)
            elif self._enters(shown, target, ""):
                self._file(target, shown)

    def _enters(self, shown: str, target: Path, end: str) -> bool:
        """By its name, and by that of the file that a link leads to."""
        verdicts = [self._rules.judge(shown + end)]
        within = target.relative_to(self._root).as_posix()
        if within != shown and verdicts[0] is Verdict.ENTERS:
            names = within.split("/")
            verdicts += [self._rules.judge("/".join(names[:depth]) + "/") for depth in range(1, len(names))]
            verdicts.append(self._rules.judge(within + end))
        return self._note(shown + end, verdicts)

    def _note(self, shown: str, verdicts: Sequence[Verdict]) -> bool:
        if Verdict.SECRET in verdicts:
            self.secrets.append(shown)
        elif Verdict.LEFT_OUT in verdicts:
            self.left_out.append(shown)
        else:
            if Verdict.SECRET_ENTERS in verdicts:
                self.within.append(shown)
            return True
        return False

    def _is_made(self, folder: Path, shown: str) -> bool:
        """A virtual environment, or a context of an earlier build, whatever it is called."""
        if (folder / "pyvenv.cfg").is_file() or _has_our_dockerfile(folder):
            self.left_out.append(f"{shown}/")
            return True
        return False

    def _resolved(self, path: Path, shown: str) -> Path | None:
        """Where a link leads; None when its name keeps it out anyway."""
        judged = [self._rules.judge(shown), self._rules.judge(f"{shown}/")]
        if any(verdict in (Verdict.SECRET, Verdict.LEFT_OUT) for verdict in judged):
            self._note(shown, judged)
            return None
        try:
            target = path.resolve(strict=True)
        except (OSError, RuntimeError) as error:
            raise ConfigError(f"{shown}: a link that leads nowhere: leave it out by --exclude", cause=error) from error
        if not target.is_relative_to(self._root):
            raise ConfigError(
                f"{shown}: a link that leads out of the project: put the file itself into it, or leave it out by "
                "--exclude"
            )
        return target

    def _file(self, path: Path, shown: str) -> None:
        found = path.stat()
        if found.st_size > MAX_FILE_BYTES:
            raise ConfigError(
                f"{shown}: expected files of at most {MAX_FILE_BYTES} bytes, got {found.st_size}: leave it out by "
                "--exclude"
            )
        if found.st_size <= KEY_BYTES:
            with path.open("rb") as opened:
                verdict = self._rules.judge_content(shown, opened.read(KEY_BYTES))
            if not self._note(shown, [verdict]):
                return
        if len(self.files) >= MAX_FILES:
            raise ConfigError(f"the project: expected at most {MAX_FILES} files: leave some out by --exclude")
        self.files[shown] = Copied(path, found.st_size, bool(found.st_mode & stat.S_IXUSR))


# --- writing ---


def check_output(output: Path, project: Project) -> None:
    """Raises ConfigError unless a context may be written there."""
    real = output.resolve()
    if project.root.is_relative_to(real):
        raise ConfigError(f"--output {str(output)!r}: expected a folder of its own, got one that the project lies in")
    _is_ours(real, str(output))


def _has_our_dockerfile(folder: Path) -> bool:
    try:
        with (folder / "Dockerfile").open("rb") as file:
            return file.read(len(FIRST_LINE)) == FIRST_LINE
    except OSError:
        return False


def _is_ours(folder: Path, shown: str) -> bool:
    """Is there a context? Raises ConfigError when there is anything else."""
    try:
        if not folder.exists():
            return False
        if not folder.is_dir():
            raise ConfigError(f"--output {shown!r}: expected a folder, got a file")
        names = {path.name for path in folder.iterdir()}
        if not names:
            return False
        if not _has_our_dockerfile(folder):
            raise ConfigError(
                f"--output {shown!r}: expected an empty folder or a context that `servekit build` has written, got "
                "something else"
            )
    except OSError as error:
        raise ConfigError(f"--output {shown!r}: {error.strerror}", cause=error) from error
    others = sorted(names - OURS)
    if others:
        raise ConfigError(
            f"--output {shown!r}: {others[0]!r} is not of a context's files, and would be lost: move it elsewhere"
        )
    return True


def write(files: Mapping[str, Entry], output: Path) -> None:
    """The context, whole: written beside `output`, then put in its place. After any error `output` is as it was.

    Raises ConfigError.
    """
    real = output.resolve()
    there = _is_ours(real, str(output)) or real.exists()
    try:
        real.parent.mkdir(parents=True, exist_ok=True)
        partial = Path(tempfile.mkdtemp(prefix=".servekit-build-", dir=real.parent))
    except OSError as error:
        raise ConfigError(f"the context in {str(output)!r}: {error.strerror}", cause=error) from error
    try:
        new = partial / "new"
        _fill(new, files)
        old = partial / "old"
        if there:
            real.rename(old)
        try:
            new.rename(real)
        except BaseException:
            if there:
                old.rename(real)
            raise
    except OSError as error:
        raise ConfigError(f"the context in {str(output)!r}: {_said(error)}", cause=error) from error
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def _said(error: OSError) -> str:
    return f"{error.filename}: {error.strerror}" if error.filename else error.strerror or str(error)


def _fill(folder: Path, files: Mapping[str, Entry]) -> None:
    """Modes and times are fixed: neither those of the project's files nor this process's umask count."""
    _make(folder)
    folders = {folder}
    for name, entry in sorted(files.items()):
        path = folder.joinpath(*_parts(name))
        for above in reversed([above for above in path.parents if above.is_relative_to(folder)]):
            if above not in folders:
                _make(above)
                folders.add(above)
        with path.open("xb") as opened:
            if isinstance(entry, Copied):
                for chunk in chunks(name, entry):
                    opened.write(chunk)
            else:
                opened.write(entry.content)
        path.chmod(PROGRAM_MODE if entry.executable else FILE_MODE)
        os.utime(path, (TIME_S, TIME_S))
    for made in folders:
        os.utime(made, (TIME_S, TIME_S))


def _make(folder: Path) -> None:
    folder.mkdir()
    folder.chmod(FOLDER_MODE)


def _parts(name: str) -> tuple[str, ...]:
    parts = PurePosixPath(name).parts
    if not parts or name.startswith("/") or ".." in parts or "\0" in name:
        raise ConfigError(f"{name!a}: expected a name that stays in the context")
    return parts


def chunks(name: str, file: Copied) -> Iterator[bytes]:
    """Its content, which must be as long as it was when the project was looked at. Raises ConfigError."""
    left = file.size
    # It was no link, and must not have become one.
    with os.fdopen(os.open(file.path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC), "rb") as opened:
        while chunk := opened.read(CHUNK_BYTES):
            left -= len(chunk)
            if left < 0:
                break
            yield chunk
    if left:
        raise ConfigError(f"{name}: it has changed while it was copied: try again")
