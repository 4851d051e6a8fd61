"""The files of one item: as model.yaml has them, or, without one, named after the signature."""

from __future__ import annotations

from servekit.contract import InputFile, OutputFile, Site
from servekit.errors import ConfigError
from servekit.signature import File, Image, Signature, Spec, Text

RESULTS = "results.json"


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

    Names of graph inputs may hold slashes; a file name must not. Raises ConfigError when two become alike.
    """
    stems = {name: name.replace("/", "_") for name in signature.inputs}
    if len(set(stems.values())) < len(stems):
        raise ConfigError(f"inputs: expected names that differ by more than a slash, got {', '.join(stems)}")
    return tuple(InputFile(stems[name] + _ending(spec), name) for name, spec in signature.inputs.items())


def _ending(spec: Spec) -> str:
    if isinstance(spec, (Image, File)):
        return ""
    return ".txt" if isinstance(spec, Text) else ".json"
