"""model.yaml: which files hold the inputs and outputs of one item.

Source: the `model.yaml` of Modzy's model templates (specification 0.3 and 0.4).
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import PurePosixPath
from typing import Annotated, Any

import yaml
from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError

from servekit.contract import InputFile, OutputFile, Site
from servekit.errors import ConfigError
from servekit.signature import File, Image, Signature, Spec, Text

RESULTS = "results.json"
SIZE = re.compile(r"(\d+(?:\.\d+)?)\s*([KMGT]?)(i?)B?", re.IGNORECASE)
FILENAME = re.compile(r"[^/\x00]{1,255}")


def _bytes(size: Any) -> int | None:
    """`5M` and `512Mi` as bytes."""
    if size is None:
        return None
    found = None if isinstance(size, bool) else SIZE.fullmatch(str(size).strip())
    if found is None:
        raise ValueError('a size such as "5M" or "512Mi"')
    number, prefix, binary = found.groups()
    return int(float(number) * (1024 if binary else 1000) ** " KMGT".index(prefix.upper() or " "))


def _block(value: Any) -> Any:
    """A key that nothing follows is null in YAML; it means a block without entries."""
    return {} if value is None else value


Size = Annotated[int | None, BeforeValidator(_bytes)]


class _InputFile(BaseModel):
    model_config = ConfigDict(extra="allow")
    acceptedMediaTypes: list[str] = Field(default_factory=list)  # noqa: N815 - the file's own key
    maxSize: Size = None  # noqa: N815 - the file's own key


class _OutputFile(BaseModel):
    model_config = ConfigDict(extra="allow")
    mediaType: str = "application/json"  # noqa: N815 - the file's own key
    maxSize: Size = None  # noqa: N815 - the file's own key


class Manifest(BaseModel):
    """The parts of model.yaml that say how to serve; everything else in it is for the platform."""

    model_config = ConfigDict(extra="allow")
    inputs: Annotated[dict[str, Annotated[_InputFile, BeforeValidator(_block)]], BeforeValidator(_block)] = {}
    outputs: Annotated[dict[str, Annotated[_OutputFile, BeforeValidator(_block)]], BeforeValidator(_block)] = {}


# What a wrong value should have been, by pydantic's word for the mistake.
EXPECTED = {
    "dict_type": "a mapping",
    "model_type": "a mapping",
    "list_type": "a list",
    "string_type": "text",
}


class _Loader(yaml.SafeLoader):
    """SafeLoader, but a key that is there twice is a mistake, not the last one's victory (YAML 1.2, 3.2.1.3)."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        keys = [key.value for key, _ in node.value if isinstance(key, yaml.ScalarNode)]
        for key in keys:
            if keys.count(key) > 1:
                raise yaml.MarkedYAMLError(problem=f"the key {key} is there twice", problem_mark=node.start_mark)
        return super().construct_mapping(node, deep)


def files_of(site: Site) -> tuple[tuple[InputFile, ...], tuple[OutputFile, ...]]:
    """The input and output files of one item, from model.yaml or by default. Raises ConfigError."""
    body = site.files.get("model.yaml")
    manifest = Manifest() if body is None else read(body)
    inputs = _inputs(manifest, site.signature) if manifest.inputs else default_inputs(site.signature)
    outputs = _outputs(manifest, site.signature) if manifest.outputs else (OutputFile(RESULTS, None),)
    return inputs, outputs


def read(body: bytes) -> Manifest:
    """Raises ConfigError that names the key, what came and what was expected."""
    try:
        document = yaml.load(body, Loader=_Loader)  # noqa: S506 - a SafeLoader
    except (yaml.YAMLError, RecursionError, ValueError) as error:
        raise ConfigError(f"model.yaml: expected YAML, got an error: {' '.join(str(error).split())}") from error
    if not isinstance(document, dict):
        raise ConfigError("model.yaml: expected a mapping with inputs and outputs")
    try:
        manifest = Manifest.model_validate(document)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"] if part != "[key]")
        expected = first.get("ctx", {}).get("error") or EXPECTED.get(first["type"], first["msg"])
        raise ConfigError(f"model.yaml: {where}: expected {expected}, got {_shown(first['input'])}") from error
    for side, names in (("inputs", list(manifest.inputs)), ("outputs", list(manifest.outputs))):
        for name in names:
            if not FILENAME.fullmatch(name) or name in (".", ".."):
                raise ConfigError(f"model.yaml: {side}: expected file names without a path, got {name!r}")
        stems = [_stem(name) for name in names]
        for name, stem in zip(names, stems, strict=True):
            if stems.count(stem) > 1:
                raise ConfigError(
                    f"model.yaml: {side}: expected names that differ by more than their ending, got {name}"
                )
    return manifest


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


def _inputs(manifest: Manifest, signature: Signature) -> tuple[InputFile, ...]:
    names = list(manifest.inputs)
    matched = _matched(names, list(signature.inputs), "inputs")
    if matched is None:
        if len(names) != 1:
            raise ConfigError(
                f"model.yaml: inputs: expected a file for each of {', '.join(signature.inputs)}, or one JSON file of "
                f"all, got {', '.join(names)}"
            )
        matched = [None]
    return tuple(
        InputFile(name, input_name, tuple(manifest.inputs[name].acceptedMediaTypes), manifest.inputs[name].maxSize)
        for name, input_name in zip(names, matched, strict=True)
    )


def _outputs(manifest: Manifest, signature: Signature) -> tuple[OutputFile, ...]:
    files: list[OutputFile] = []
    by_name = _by_name(list(signature.outputs))
    rest = [name for name in manifest.outputs if _find(name, by_name) is None and name != RESULTS]
    summary = rest[0] if len(manifest.outputs) == 1 and rest else RESULTS
    left = [name for name in signature.outputs if all(_find(file, by_name) != name for file in manifest.outputs)]
    others = [name for name in rest if name != summary]
    if others and len(others) != len(left):
        raise ConfigError(
            f"model.yaml: outputs: expected {RESULTS} or files named after {', '.join(signature.outputs)}, "
            f"got {', '.join(others)}"
        )
    by_order = dict(zip(others, left, strict=False))
    for name, output in manifest.outputs.items():
        found = _find(name, by_name)
        if name == summary and found is None:
            files.append(OutputFile(name, None))
        else:
            files.append(OutputFile(name, found or by_order[name], output.mediaType))
    return tuple(files)


def _matched(names: Sequence[str], known: Sequence[str], side: str) -> list[str | None] | None:
    """The input of each file: by name or stem, else by order when there are as many."""
    by_name = _by_name(known)
    found = [_find(name, by_name) for name in names]
    if all(found) and len(set(found)) == len(names):
        if len(found) < len(known):
            missing = [name for name in known if name not in found]
            raise ConfigError(f"model.yaml: {side}: expected a file for every {side[:-1]}, got none for {missing[0]}")
        return found
    return list(known) if len(names) == len(known) else None


def _by_name(known: Sequence[str]) -> Mapping[str, str]:
    return {name: name for name in known}


def _find(filename: str, by_name: Mapping[str, str]) -> str | None:
    return by_name.get(filename) or by_name.get(_stem(filename))


def _stem(filename: str) -> str:
    return PurePosixPath(filename).stem


def _shown(value: Any) -> str:
    shown = repr(value)
    return shown if len(shown) <= 80 else shown[:80] + "..."
