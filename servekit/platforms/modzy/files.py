"""The files of one item: as model.yaml has them, or, without one, named after the signature."""

from __future__ import annotations

from pathlib import PurePosixPath

from servekit.contract import InputFile, OutputFile, Site
from servekit.signature import File, Image, Signature, Spec, Text

RESULTS = "results.json"
MAX_NAME_BYTES = 255


def files_of(site: Site) -> tuple[tuple[InputFile, ...], tuple[OutputFile, ...]]:
    """The input and output files of one item, from model.yaml or by default. Raises ConfigError."""
    body = site.files.get("model.yaml")
    if body is None:
        return default_inputs(site.signature), (OutputFile(RESULTS, None),)
    # A YAML parser is of no use to the other starts.
    from servekit.platforms.modzy.manifest import declared_files

    return declared_files(body, site.signature)


def default_inputs(signature: Signature) -> tuple[InputFile, ...]:
    """One file per input: `<name>` for images and files, `<name>.txt` for texts, `<name>.json` otherwise.

    Names of graph inputs may hold slashes; a file name must not. Where such names will not do, or differ by a slash or
    an ending only, the files are numbered: `input1.json` and so on.
    """
    named = [name.replace("/", "_") + _ending(spec) for name, spec in signature.inputs.items()]
    if len({PurePosixPath(name).stem for name in named}) < len(named) or not all(map(_is_filename, named)):
        named = [f"input{i}{_ending(spec)}" for i, spec in enumerate(signature.inputs.values(), 1)]
    return tuple(InputFile(filename, name) for filename, name in zip(named, signature.inputs, strict=True))


def _is_filename(name: str) -> bool:
    # A lone surrogate is not printable either.
    return name.isprintable() and name not in (".", "..") and len(name.encode()) <= MAX_NAME_BYTES


def _ending(spec: Spec) -> str:
    if isinstance(spec, (Image, File)):
        return ""
    return ".txt" if isinstance(spec, Text) else ".json"
