"""Making a copy whose weights can be shared, in a process of its own: `python -m servekit.backends.prepack`.

A process of its own, since onnxruntime needs the weights twice for a moment: what it took is given back whole, and
where memory is short the kernel ends it and not a worker. The copy appears under its name by one rename, complete and
on disk, or not at all.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import asdict, replace
from pathlib import Path

import onnxruntime

from servekit.backends.prepacked import (
    DATA,
    GRAPH,
    MANIFEST,
    PRIVATE,
    PUBLIC,
    Identity,
    Place,
    Refused,
    check_folder,
    find,
    identity_of,
    manifest_of,
    read_manifest,
)
from servekit.backends.turns import Notes

TEMPORARY = ".making-"
MAX_MAKING_S = 600.0
# Smaller tensors stay in the graph, as onnxruntime's documentation has it.
MIN_EXTERNAL_BYTES = 1024
FATAL_LEVEL = 4
OOM_SCORE_ADJ = Path("/proc/self/oom_score_adj")
MAX_OOM_SCORE = "1000"


def make(model: Path, place: Place, made_for: Identity) -> None:
    """Make the copy in another process, and wait for it. Raises Refused with the reason when there is none."""
    task = {"model": str(model), "root": str(place.root), "owners": sorted(place.owners), "mode": place.mode}
    try:
        ended = subprocess.run(
            [sys.executable, "-P", "-m", "servekit.backends.prepack"],
            input=json.dumps(task | {"made_for": asdict(made_for)}),
            capture_output=True,
            text=True,
            timeout=MAX_MAKING_S,
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        raise Refused(f"{place.root}: {error}") from error
    if ended.returncode != 0:
        said = ended.stderr.strip().splitlines()
        reason = said[-1] if said else f"the process that made a copy ended with {ended.returncode}"
        raise Refused(reason if str(place.root) in reason else f"{place.root}: {reason}")


def main() -> None:
    """Do the task that comes on stdin; exit with 1 and one line on stderr when it cannot be done."""
    task = json.load(sys.stdin)
    made_for = Identity(**task["made_for"] | {"cpu": tuple(task["made_for"]["cpu"])})
    with contextlib.suppress(OSError):
        OOM_SCORE_ADJ.write_text(MAX_OOM_SCORE)
    try:
        _make(Path(task["model"]), Place(Path(task["root"]), frozenset(task["owners"]), task["mode"]), made_for)
    except Exception as error:  # noqa: BLE001 - onnxruntime's errors have no common base
        sys.exit(" ".join(str(error).split())[:500] or type(error).__name__)


def _make(model: Path, place: Place, made_for: Identity) -> None:
    with contextlib.suppress(FileExistsError):
        place.root.mkdir(mode=PRIVATE, parents=True)
    check_folder(place.root, place.owners)
    if place.mode == PUBLIC:
        place.root.chmod(PUBLIC)
    with _locked(place.root) as alone:
        with contextlib.suppress(Refused):
            if find(place, made_for, Notes()) is not None:
                _settle_all(place.root / made_for.key, place.mode)
                return
        if alone:
            for left in place.root.glob(TEMPORARY + "*"):
                shutil.rmtree(left, ignore_errors=True)
        folder = Path(tempfile.mkdtemp(prefix=TEMPORARY, dir=place.root))
        try:
            # A path only where nobody but this user can read it.
            label = str(model) if place.mode == PRIVATE else model.name
            _fill(folder, model, manifest_label=label, made_for=made_for, mode=place.mode)
            _put(folder, place.root / made_for.key)
            _drop_stale(place, label, made_for)
        finally:
            shutil.rmtree(folder, ignore_errors=True)


@contextlib.contextmanager
def _locked(root: Path) -> Iterator[bool]:
    """The folder itself is the lock. Some network file systems have none: then the rename alone decides."""
    fd = os.open(root, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
    try:
        try:
            fcntl.flock(fd, fcntl.LOCK_EX)
        except OSError:
            yield False
        else:
            yield True
        os.fsync(fd)
    finally:
        os.close(fd)


def _fill(folder: Path, model: Path, *, manifest_label: str, made_for: Identity, mode: int) -> None:
    options = onnxruntime.SessionOptions()
    options.log_severity_level = FATAL_LEVEL
    options.optimized_model_filepath = str(folder / GRAPH)
    for name, value in {
        "session.optimized_model_external_initializers_file_name": DATA,
        "session.optimized_model_external_initializers_min_size_in_bytes": str(MIN_EXTERNAL_BYTES),
        "session.save_external_prepacked_constant_initializers": "1",
        "session.use_device_allocator_for_initializers": "1",
    }.items():
        options.add_session_config_entry(name, value)
    original = _interface(onnxruntime.InferenceSession(str(model), options, providers=["CPUExecutionProvider"]))
    if {path.name for path in folder.iterdir()} != {GRAPH, DATA}:
        raise Refused("onnxruntime put no weights outside of the graph")
    plain = onnxruntime.SessionOptions()
    plain.log_severity_level = FATAL_LEVEL
    plain.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    copy = _interface(onnxruntime.InferenceSession(str(folder / GRAPH), plain, providers=["CPUExecutionProvider"]))
    if copy != original:
        raise Refused("the optimised graph has other inputs or outputs than the model")
    manifest = manifest_of(folder, manifest_label, made_for)
    (folder / MANIFEST).write_text(json.dumps(manifest, indent=1) + "\n")
    _settle_all(folder, mode)


def _interface(session: onnxruntime.InferenceSession) -> list[tuple[str, str, str]]:
    return [(node.name, node.type, str(node.shape)) for node in (*session.get_inputs(), *session.get_outputs())]


def _settle_all(folder: Path, mode: int) -> None:
    for name in (GRAPH, DATA, MANIFEST):
        _settle(folder / name, mode & 0o644)
    _settle(folder, mode)


def _settle(path: Path, mode: int) -> None:
    """On disk, and readable for whom it is meant, whatever the umask."""
    fd = os.open(path, os.O_RDONLY | os.O_NOFOLLOW)
    try:
        os.fchmod(fd, mode)
        os.fsync(fd)
    finally:
        os.close(fd)


def _put(folder: Path, final: Path) -> None:
    """Give it its name. What had the name and was refused goes; what somebody else put there just now stays."""
    if final.is_symlink() or (final.exists() and not final.is_dir()):
        final.unlink()
    elif final.exists():
        refused = Path(tempfile.mkdtemp(prefix=TEMPORARY, dir=final.parent))
        final.rename(refused / "refused")
        shutil.rmtree(refused, ignore_errors=True)
    folder.rename(final)


def _drop_stale(place: Place, label: str, made_for: Identity) -> None:
    """Remove copies of what the file of this name held before, made for this very CPU and onnxruntime."""
    for folder in place.root.iterdir():
        try:
            check_folder(folder, place.owners)
            manifest = read_manifest(folder, place.owners)
            old = identity_of(manifest)
        except (OSError, Refused, KeyError, TypeError, ValueError):
            continue
        if manifest.get("model") == label and old != made_for and replace(old, source=made_for.source) == made_for:
            shutil.rmtree(folder, ignore_errors=True)


if __name__ == "__main__":
    main()
