"""`servekit init NAME`."""

from __future__ import annotations

import math
import os
import re
import secrets
import shlex
import shutil
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from servekit.backends.onnx import OnnxPredictor
    from servekit.signature import Signature, Tensor

USAGE_ERROR = 2
# It also becomes the name of a distribution (packaging's own rules: letters and digits at both ends) and of an image.
NAME = re.compile(r"[A-Za-z](?:[A-Za-z0-9_-]*[A-Za-z0-9])?")
MAX_NAME = 64
# Numbers and texts of a sample: some megabytes of JSON.
MAX_SAMPLE_ELEMENTS = 2**22
# In the new project. A folder of its own: what external data is called is the model's choice, and beside predictor.py
# a file called json.py or conftest.py would be run.
MODEL = Path("model", "model.onnx")


@dataclass(frozen=True, slots=True)
class _Project:
    """What will be written: texts and copies, by relative path. answered: the model has answered the sample."""

    texts: Mapping[str, str]
    copies: Mapping[Path, Path] = field(default_factory=dict)
    answered: bool = True


@click.command(context_settings={"max_content_width": 110})
@click.argument("name")
@click.option("--from", "model", metavar="MODEL", default=None, help="an .onnx file to write the project around")
@click.option("--directory", metavar="DIR", default=".", help="where the folder NAME goes; default: here")
def init(name: str, model: str | None, directory: str) -> None:
    """Write a new project into a new folder NAME: a predictor, its test, a sample request, a README.

    With --from the project holds a copy of the model, with its external data, and serves it as `servekit run MODEL`
    does; the inputs and outputs are written out, to be seen and changed.
    """
    from servekit.errors import ServeError

    try:
        target = _target(name, Path(directory))
        project = _plain(name) if model is None else _around(name, Path(model))
        _write(project, target)
    except (ServeError, OSError) as error:
        reason = error.message if isinstance(error, ServeError) else f"{error.filename}: {error.strerror}"
        click.echo(f"servekit: {reason}", err=True)
        sys.exit(USAGE_ERROR)
    if not project.answered:
        click.echo(
            "servekit: the model answers neither zeros nor ones: its test fails until sample.json and sample/ hold a "
            "request that it takes",
            err=True,
        )
    click.echo(
        f"cd {shlex.quote(str(target))} && pip install -r requirements-dev.txt && python -m pytest\n"
        "servekit run . --platform all            # README.md says how to send it the sample\n"
        "servekit build --platform sagemaker      # or modelarts, modzy, all"
    )


def _target(name: str, directory: Path) -> Path:
    """The folder to be made. Raises ConfigError when it is not to be."""
    from servekit.errors import ConfigError

    if not NAME.fullmatch(name) or len(name) > MAX_NAME:
        raise ConfigError(
            f"NAME: expected at most {MAX_NAME} letters, digits, - and _, beginning with a letter and ending with a "
            f"letter or digit, got {name[: 2 * MAX_NAME]!r}"
        )
    if _normal(name) in _required():
        raise ConfigError(
            f"NAME {name!r}: servekit, or a package that it needs, has this name, and pip would take one for the "
            f"other: expected another one, such as {name + '-model'!r}"
        )
    if not directory.is_dir():
        raise ConfigError(f"--directory: expected a directory, got {str(directory)!r}")
    target = directory / name
    if target.is_symlink() or (target.exists() and not target.is_dir()):
        raise ConfigError(f"NAME: {str(target)!r} exists and is no directory: expected a new name")
    if target.is_dir() and any(target.iterdir()):
        raise ConfigError(f"NAME: {str(target)!r} exists and is not empty: expected a new name")
    return target


def _required() -> set[str]:
    """servekit, and what it requires in any of its extras, as package indexes spell them.

    Any other module may have the project's name: the folder is no package, so `import` finds the module.
    """
    from importlib.metadata import requires

    lines = requires("servekit") or []
    return {"servekit", *(_normal(found[0]) for line in lines if (found := re.match(r"[A-Za-z0-9._-]+", line)))}


def _normal(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


def _plain(name: str) -> _Project:
    from servekit.templates import plain

    return _Project(plain(name))


def _around(name: str, model: Path) -> _Project:
    """Raises ConfigError, LoadFailed, OSError."""
    from servekit.backends.onnx import OnnxPredictor, predictor_class
    from servekit.errors import ConfigError
    from servekit.platforms.modzy.files import default_inputs
    from servekit.signature import Signature
    from servekit.templates import around_onnx

    if model.suffix != ".onnx" or not model.is_file():
        raise ConfigError(f"--from: expected an .onnx file, got {str(model)!r}")
    made = predictor_class(model)
    assert issubclass(made, OnnxPredictor)  # noqa: S101 - they all are
    copies = _copies(model)
    signature = Signature(made.inputs, made.outputs)
    row, answered = _sample(made, signature)
    texts = around_onnx(
        name,
        signature,
        row,
        {str(file.input): file.filename for file in default_inputs(signature)},
        max_size=made.batching.max_size,
        fixed_rows=made.fixed_rows,
        whole=made.whole,
    )
    return _Project(texts, copies, answered)


def _copies(model: Path) -> dict[Path, Path]:
    """The model and its external data: where each goes, and what is copied there. Raises ConfigError, LoadFailed."""
    from servekit.backends.onnxfile import external_file, read_weights
    from servekit.errors import ConfigError

    copies = {MODEL: model}
    for location in read_weights(model).external:
        place, source = MODEL.parent / os.path.normpath(location), external_file(model, location)
        if any(part.startswith(".") for part in place.parts) or not copies.get(place, source).samefile(source):
            raise ConfigError(
                f"{model.name}: external data {location!r}: expected a name that does not begin with a dot and is not "
                f"{MODEL.name}"
            )
        copies[place] = source
    return copies


def _sample(made: type[OnnxPredictor], signature: Signature) -> tuple[dict[str, Any], bool]:
    """A row by input name, as JSON has it, and whether the model has answered it.

    Zeros or ones, with free dimensions of 1 if the model takes that; where it takes none of them, zeros.
    """
    from servekit.backends.onnx import Session
    from servekit.errors import ConfigError

    rows = _rows(made.inputs)
    first = next(rows, None)
    if first is None:
        raise ConfigError(
            f"{made.path.name}: expected inputs of at most {MAX_SAMPLE_ELEMENTS} values in a row, which a sample in "
            "JSON can hold; `servekit run` serves the file without a project"
        )
    predictor = made()
    predictor.session = Session(made.path, optimize=False)
    answered = next((row for row in chain([first], rows) if _answers(predictor, row, signature)), None)
    row = first if answered is None else answered
    return {name: array[0].tolist() for name, array in row.items()}, answered is not None


def _rows(inputs: Mapping[str, Tensor]) -> Iterator[dict[str, NDArray[Any]]]:
    """What may do for a sample: batches of one row."""
    import numpy as np

    from servekit.backends.onnx import TRIAL_SIZES

    has_free = any(None in spec.shape for spec in inputs.values())
    for size in TRIAL_SIZES if has_free else TRIAL_SIZES[:1]:
        shapes = {name: tuple(size if dim is None else dim for dim in spec.shape) for name, spec in inputs.items()}
        if sum(map(math.prod, shapes.values())) > MAX_SAMPLE_ELEMENTS:
            return
        for value in (0, 1):
            yield {
                name: np.full((1, *shapes[name]), str(value), object)
                if spec.dtype == "str"
                else np.full((1, *shapes[name]), value, spec.dtype)
                for name, spec in inputs.items()
            }


def _answers(predictor: OnnxPredictor, row: Mapping[str, NDArray[Any]], signature: Signature) -> bool:
    """Does it answer, with something that JSON can carry?"""
    from servekit.codecs import result_object
    from servekit.engine.results import columns_of

    try:
        result_object(signature, columns_of(predictor.predict(**row), 1, signature), 0)
    except Exception:  # noqa: BLE001 - onnxruntime's errors have no common base
        return False
    return True


def _write(project: _Project, target: Path) -> None:
    """All of it, or nothing: beside `target` first, then renamed. Raises ConfigError."""
    from servekit.errors import ConfigError

    partial = target.with_name(f".{target.name}.{secrets.token_hex(8)}")
    try:
        try:
            partial.mkdir()
            for name, text in project.texts.items():
                path = partial / name
                path.parent.mkdir(exist_ok=True)
                path.write_text(text, "utf-8")
            for place, source in project.copies.items():
                path = partial / place
                path.parent.mkdir(parents=True, exist_ok=True)
                shutil.copyfile(source, path)
            # An empty directory is replaced; anything that has come there meanwhile makes this fail.
            partial.rename(target)
        except BaseException:
            shutil.rmtree(partial, ignore_errors=True)
            raise
    except OSError as error:
        raise ConfigError(f"NAME: {str(target)!r} cannot be written: {error.strerror or error}") from error
