"""Copies of ONNX models whose weights many processes share: where they lie, and when one may be used.

A copy is a folder with the graph as onnxruntime optimised it and its weights as the kernels want them, in a file that
every process maps read-only, so that all have the same pages. It is valid for one content of the model, one build of
onnxruntime and one set of CPU instructions, all of which its name and its manifest hold: on another CPU the packed
weights would mean something else. What the manifest does not vouch for, byte by byte, is not used.
"""

from __future__ import annotations

import hashlib
import json
import os
import platform
import stat
import tempfile
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import onnxruntime

from servekit.backends.onnxfile import Weights, external_file
from servekit.backends.turns import Notes

FORMAT = 1
PRIVATE, PUBLIC = 0o700, 0o755
FOLDER = ".servekit"
GRAPH, DATA, MANIFEST = "model.onnx", "weights.bin", "manifest.json"
CACHE_VARIABLE = "SERVEKIT_CACHE_DIR"
MAX_MANIFEST_BYTES = 64 * 1024
MAX_ENTRIES = 256
# Names of x86 instruction sets in /proc/cpuinfo that numeric kernels are chosen by; the other flags there come from
# the kernel and the hypervisor, and differ between machines that compute alike.
X86_SETS = ("sse", "ssse", "avx", "fma", "f16c", "bmi", "amx", "popcnt", "movbe", "gfni")
WRITABLE_BY_OTHERS = stat.S_IWGRP | stat.S_IWOTH


class Refused(Exception):
    """A copy or a folder that must not be used; the text says why."""


@dataclass(frozen=True, slots=True)
class Identity:
    """What a copy was made from and for; equal identities mean the same bytes."""

    source: str
    onnxruntime: str
    machine: str
    cpu: tuple[str, ...]

    @property
    def key(self) -> str:
        text = json.dumps([FORMAT, self.source, self.onnxruntime, self.machine, self.cpu])
        return hashlib.sha256(text.encode()).hexdigest()[:32]


@dataclass(frozen=True, slots=True)
class Place:
    """A folder of copies. owners: user ids that are trusted to have written there; mode: of what we make there."""

    root: Path
    owners: frozenset[int]
    mode: int = PRIVATE


@dataclass(frozen=True, slots=True)
class Copy:
    """A copy that may be used. stamp: what tells whether its files have been touched since they were looked at."""

    graph: Path
    nbytes: int
    stamp: str

    def is_untouched(self) -> bool:
        try:
            return stamp_of(self.graph.parent) == self.stamp
        except OSError:
            return False


# --- identity --------------------------------------------------------------------------------------------------


def identity(model: Path, weights: Weights, notes: Notes) -> Identity:
    """The identity that a copy of `model` needs in this process. Reads the whole model, once in a start.

    By content, since sizes and times survive neither an image build nor an archive, and lie where a model is replaced
    in place. Raises Refused where the system does not say what the CPU can do, OSError.
    """
    features = cpu_features()
    if not features:
        raise Refused("this system does not say which instructions its CPU has")
    files = {"": model} | {name: external_file(model, name) for name in sorted(weights.external)}
    stamp = "source " + _digest(json.dumps([[name, str(path), _stat(path)] for name, path in files.items()]))
    known = notes.get(stamp)
    if known is None:
        whole = hashlib.sha256()
        for name, path in files.items():
            whole.update(f"{name}\0{path.stat().st_size}\0{_file_digest(path)}\0".encode())
        known = whole.hexdigest()
        notes.add(stamp, known)
    return Identity(known, runtime(), platform.machine(), features)


def runtime() -> str:
    """onnxruntime's version and build."""
    return f"{onnxruntime.__version__} ({onnxruntime.get_build_info()})"


def cpu_features(cpuinfo: Path = Path("/proc/cpuinfo")) -> tuple[str, ...]:
    """The instruction sets of this CPU, sorted; of the weakest one where they differ. Empty when it is not said."""
    sets: list[set[str]] = []
    if not cpuinfo.is_file():
        return ()
    for line in cpuinfo.read_text(errors="replace").splitlines():
        name, _, words = line.partition(":")
        if name.strip() == "flags":
            sets.append({word for word in words.split() if word.startswith(X86_SETS)})
        elif name.strip() == "Features":
            sets.append(set(words.split()))
    return tuple(sorted(set.intersection(*sets))) if sets else ()


# --- places ----------------------------------------------------------------------------------------------------


def beside(model: Path) -> Place:
    """The folder in the model's own directory: who may write there could as well replace the model."""
    return Place(model.parent / FOLDER, frozenset([0, os.geteuid(), model.stat().st_uid]))


def cache(environ: Mapping[str, str] = os.environ) -> Place:
    """SERVEKIT_CACHE_DIR, else servekit in XDG_CACHE_HOME, else a folder of this user's in the temporary directory."""
    if environ.get(CACHE_VARIABLE):
        root = Path(environ[CACHE_VARIABLE])
    elif environ.get("XDG_CACHE_HOME"):
        root = Path(environ["XDG_CACHE_HOME"]) / "servekit"
    else:
        root = Path(tempfile.gettempdir()) / f"servekit-{os.geteuid()}"
    return Place(root, frozenset([os.geteuid()]))


def check_folder(path: Path, owners: Collection[int]) -> None:
    """Raises Refused unless it is a folder that only trusted users can write; FileNotFoundError when there is none."""
    status = path.lstat()
    if not stat.S_ISDIR(status.st_mode):
        raise Refused(f"{path} is not a directory (symbolic links are not followed)")
    if status.st_uid not in owners:
        raise Refused(f"{path} belongs to the user id {status.st_uid}")
    if status.st_mode & WRITABLE_BY_OTHERS:
        raise Refused(f"{path} can be written by others (mode {stat.S_IMODE(status.st_mode):04o})")


# --- copies ----------------------------------------------------------------------------------------------------


def find(place: Place, wanted: Identity, notes: Notes, *, fresh: bool = False) -> Copy | None:
    """The copy of that identity, None when there is none. Raises Refused with the reason not to use what is there.

    fresh: it was made a moment ago by a process that wrote the manifest from the bytes.
    """
    folder = place.root / wanted.key
    try:
        check_folder(place.root, place.owners)
        check_folder(folder, place.owners)
    except FileNotFoundError:
        return None
    except OSError as error:
        raise Refused(str(error)) from error
    try:
        manifest = read_manifest(folder, place.owners)
        if identity_of(manifest) != wanted:
            raise Refused(f"{folder} was made for something else")
        expected = {name: (int(entry["bytes"]), str(entry["sha256"])) for name, entry in manifest["files"].items()}
        if set(expected) != {GRAPH, DATA} or {path.name for path in folder.iterdir()} != {GRAPH, DATA, MANIFEST}:
            raise Refused(f"{folder} holds other files than its manifest says")
        for name, (nbytes, _) in expected.items():
            _check_file(folder / name, place.owners)
            if (folder / name).stat().st_size != nbytes:
                raise Refused(f"{folder / name} is not as long as its manifest says")
        copy = Copy(folder / GRAPH, expected[DATA][0], stamp_of(folder))
        if not fresh and notes.get(copy.stamp) is None:
            for name, (_, digest) in expected.items():
                if _file_digest(folder / name) != digest:
                    raise Refused(f"{folder / name} is damaged: its content is not what its manifest says")
    except (OSError, KeyError, TypeError, ValueError, AttributeError) as error:
        raise Refused(f"{folder} cannot be read: {error}") from error
    if stamp_of(folder) != copy.stamp:
        raise Refused(f"{folder} changed while it was read")
    notes.add(copy.stamp)
    return copy


def read_manifest(folder: Path, owners: Collection[int]) -> dict[str, Any]:
    """Raises Refused, OSError, and ValueError for anything that is no JSON object."""
    path = folder / MANIFEST
    _check_file(path, owners)
    if path.stat().st_size > MAX_MANIFEST_BYTES:
        raise Refused(f"{path} is larger than any manifest")
    try:
        manifest = json.loads(path.read_bytes())
    except RecursionError as error:
        raise Refused(f"{path} cannot be read: nested too deeply") from error
    if not isinstance(manifest, dict):
        raise Refused(f"{path} is not a manifest")
    return manifest


def manifest_of(folder: Path, model: str, made_for: Identity) -> dict[str, Any]:
    """The manifest of what lies in `folder`."""
    files = {
        name: {"bytes": (folder / name).stat().st_size, "sha256": _file_digest(folder / name)} for name in (GRAPH, DATA)
    }
    return {
        "format": FORMAT,
        "model": model,
        "source_sha256": made_for.source,
        "onnxruntime": made_for.onnxruntime,
        "machine": made_for.machine,
        "cpu": list(made_for.cpu),
        "files": files,
    }


def others(place: Place, wanted: Identity) -> list[str]:
    """Why the copies of this model's content that are in `place` do not fit, in words."""
    reasons = []
    try:
        check_folder(place.root, place.owners)
        folders = sorted(place.root.iterdir())[:MAX_ENTRIES]
    except (OSError, Refused):
        return []
    for folder in folders:
        try:
            check_folder(folder, place.owners)
            made_for = identity_of(read_manifest(folder, place.owners))
        except (OSError, Refused, KeyError, TypeError, ValueError):
            continue
        if made_for.source != wanted.source or made_for == wanted:
            continue
        if made_for.onnxruntime != wanted.onnxruntime:
            reasons.append(f"made with onnxruntime {made_for.onnxruntime}, this is {wanted.onnxruntime}")
        elif made_for.machine != wanted.machine:
            reasons.append(f"made for {made_for.machine}, this is {wanted.machine}")
        else:
            missing = sorted(set(made_for.cpu) - set(wanted.cpu))
            more = sorted(set(wanted.cpu) - set(made_for.cpu))
            told = [f"without {' '.join(missing)}"] * bool(missing) + [f"with {' '.join(more)}"] * bool(more)
            reasons.append(f"made for another CPU, this one is {' and '.join(told)}")
    return reasons


def stamp_of(folder: Path) -> str:
    """Changes whenever one of the copy's files is replaced or written to."""
    return "copy " + _digest(json.dumps([str(folder), [_stat(folder / name) for name in (GRAPH, DATA, MANIFEST)]]))


def identity_of(manifest: Mapping[str, Any]) -> Identity:
    """What a manifest says. Raises Refused, KeyError, TypeError."""
    if manifest["format"] != FORMAT:
        raise Refused(f"the copy has the format {manifest['format']!r}, expected {FORMAT}")
    return Identity(manifest["source_sha256"], manifest["onnxruntime"], manifest["machine"], tuple(manifest["cpu"]))


def _check_file(path: Path, owners: Collection[int]) -> None:
    status = path.lstat()
    if not stat.S_ISREG(status.st_mode):
        raise Refused(f"{path} is not a regular file (symbolic links are not followed)")
    if status.st_uid not in owners:
        raise Refused(f"{path} belongs to the user id {status.st_uid}")
    if status.st_mode & WRITABLE_BY_OTHERS:
        raise Refused(f"{path} can be written by others (mode {stat.S_IMODE(status.st_mode):04o})")


def _stat(path: Path) -> list[int]:
    status = path.stat()
    return [status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns, status.st_ctime_ns]


def _file_digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()
