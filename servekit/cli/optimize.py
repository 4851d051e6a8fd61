"""`servekit optimize MODEL -o DIR`."""

from __future__ import annotations

import filecmp
import os
import shutil
import sys
from pathlib import Path

import click

USAGE_ERROR = 2
MEBIBYTE = 1024 * 1024


@click.command(context_settings={"max_content_width": 110})
@click.argument("model")
@click.option("-o", "--output", "directory", required=True, metavar="DIR", help="where the model and its copy go")
def optimize(model: str, directory: str) -> None:
    """Put MODEL, an .onnx file, into DIR with a copy of its weights that worker processes share.

    For image builds: `servekit run DIR` then starts without making the copy itself. The copy serves on CPUs and with
    an onnxruntime like those here; elsewhere the model is used, which therefore lies in DIR as well.
    """
    from servekit.errors import ServeError

    try:
        click.echo(_optimize(Path(model), Path(directory)))
    except (ServeError, OSError) as error:
        reason = error.message if isinstance(error, ServeError) else f"{error.filename}: {error.strerror}"
        click.echo(f"servekit: {reason}", err=True)
        sys.exit(USAGE_ERROR)


def _optimize(model: Path, directory: Path) -> str:
    """What was done, in words. Raises ConfigError, LoadFailed, OSError."""
    from servekit.backends.onnx import Session
    from servekit.backends.onnxfile import MIN_SHARED_BYTES, large_weights, read_weights
    from servekit.backends.prepack import make
    from servekit.backends.prepacked import PUBLIC, Place, Refused, beside, find, identity
    from servekit.backends.turns import Notes
    from servekit.errors import ConfigError

    if model.suffix != ".onnx" or not model.is_file():
        raise ConfigError(f"MODEL: expected an .onnx file, got {str(model)!r}")
    Session(model, optimize=False)  # says what is wrong with a broken model
    weights = read_weights(model)
    kept = _keep(model, weights.external, directory)
    large = large_weights(kept)
    size = f"{model.name}: {weights.nbytes / MEBIBYTE:.1f} MiB of weights"
    if large is None:
        return f"{size}, below {MIN_SHARED_BYTES // MEBIBYTE} MiB nothing is gained by sharing: {kept} is all there is"
    place = Place(beside(kept).root, beside(kept).owners, PUBLIC)
    try:
        wanted = identity(kept, large, Notes())
        make(kept, place, wanted)
        copy = find(place, wanted, Notes())
    except Refused as error:
        raise ConfigError(f"no copy could be made: {error}") from error
    if copy is None:
        raise ConfigError(f"no copy could be made: {place.root} does not hold it")
    return (
        f"{size}, packed in {copy.graph.parent} ({copy.nbytes / MEBIBYTE:.1f} MiB on disk) for onnxruntime "
        f"{wanted.onnxruntime.split(' ')[0]} and {wanted.machine} CPUs like this one.\n"
        f"`servekit run {directory}` shares them; with another onnxruntime or CPU it uses {kept.name} as it is."
    )


def _keep(model: Path, external: tuple[str, ...], directory: Path) -> Path:
    """The model in `directory`, with its external data, copied unless it is there already."""
    from servekit.backends.onnxfile import external_file
    from servekit.errors import ConfigError

    directory.mkdir(parents=True, exist_ok=True)
    for name, source in [*((name, external_file(model, name)) for name in external), (model.name, model)]:
        place = Path(os.path.normpath(name))
        if place.parts[0] == "..":
            raise ConfigError(f"{model.name}: external data {name!r}: expected a name below the model's directory")
        target = directory / place
        if target.exists():
            if not filecmp.cmp(source, target, shallow=False):
                raise ConfigError(f"DIR: {str(target)!r} exists and is another file: expected an empty directory")
            continue
        target.parent.mkdir(parents=True, exist_ok=True)
        partial = target.with_name(f".{target.name}.partial")
        shutil.copyfile(source, partial)
        partial.chmod(0o644)
        partial.rename(target)
    return directory / model.name
