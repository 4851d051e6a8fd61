"""model.yaml: which files hold the inputs and outputs of one item.

Source: the `model.yaml` of Modzy's model templates (specification 0.3 and 0.4).
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import PurePosixPath
from typing import Any

import yaml

from servekit.contract import InputFile, OutputFile
from servekit.errors import ConfigError
from servekit.platforms.modzy.files import RESULTS, default_inputs
from servekit.signature import Signature

SIZE = re.compile(r"(\d{1,15}(?:\.\d{1,15})?)\s*([KMGT]?)(i)?B?", re.IGNORECASE)
FILENAME = re.compile(r"[^/\x00]{1,255}")


@dataclass(frozen=True, slots=True)
class Manifest:
    """The parts of model.yaml that say how to serve: files by name, not yet matched with inputs and outputs."""

    inputs: Mapping[str, InputFile]
    outputs: Mapping[str, OutputFile]


class _Loader(yaml.SafeLoader):
    """SafeLoader, but a key that is there twice is a mistake, not the last one's victory (YAML 1.2, 3.2.1.3)."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        keys = [key.value for key, _ in node.value if isinstance(key, yaml.ScalarNode)]
        for key in keys:
            if keys.count(key) > 1:
                raise yaml.MarkedYAMLError(problem=f"the key {key} is there twice", problem_mark=node.start_mark)
        return super().construct_mapping(node, deep)


def declared_files(body: bytes, signature: Signature) -> tuple[tuple[InputFile, ...], tuple[OutputFile, ...]]:
    """The input and output files of one item, as model.yaml has them. Raises ConfigError."""
    manifest = read(body)
    inputs = _inputs(manifest, signature) if manifest.inputs else default_inputs(signature)
    outputs = _outputs(manifest, signature) if manifest.outputs else (OutputFile(RESULTS, None),)
    return inputs, outputs


def read(body: bytes) -> Manifest:
    """Raises ConfigError that names the key, what came and what was expected."""
    try:
        document = yaml.load(body, Loader=_Loader)  # noqa: S506 - a SafeLoader
    except (yaml.YAMLError, RecursionError, ValueError) as error:
        raise ConfigError(f"model.yaml: expected YAML, got an error: {' '.join(str(error).split())}") from error
    if not isinstance(document, dict):
        raise ConfigError("model.yaml: expected a mapping with inputs and outputs")
    inputs, outputs = _side(document, "inputs"), _side(document, "outputs")
    manifest = Manifest(
        {name: _input_file(name, entry) for name, entry in inputs.items()},
        {name: _output_file(name, entry) for name, entry in outputs.items()},
    )
    _check_names("inputs", list(inputs))
    _check_names("outputs", list(outputs))
    return manifest


def _side(document: Mapping[Any, Any], side: str) -> dict[str, Mapping[Any, Any]]:
    entries = {}
    for name, entry in _mapping(document.get(side), side).items():
        where = f"{side}.{_text(name, f'{side}.{name}')}"
        entries[name] = _mapping(entry, where)
    return entries


def _input_file(name: str, entry: Mapping[Any, Any]) -> InputFile:
    where = f"inputs.{name}"
    types = entry.get("acceptedMediaTypes", [])
    if not isinstance(types, list):
        raise _wrong(f"{where}.acceptedMediaTypes", "a list", types)
    media_types = tuple(_text(text, f"{where}.acceptedMediaTypes.{i}") for i, text in enumerate(types))
    return InputFile(name, None, media_types, size_bytes(entry.get("maxSize"), f"{where}.maxSize"))


def _output_file(name: str, entry: Mapping[Any, Any]) -> OutputFile:
    where = f"outputs.{name}"
    # Read to refuse what is wrong; nothing written is ever cut.
    size_bytes(entry.get("maxSize"), f"{where}.maxSize")
    if "mediaType" not in entry:
        return OutputFile(name, None)
    return OutputFile(name, None, _text(entry["mediaType"], f"{where}.mediaType"))


def _check_names(side: str, names: Sequence[str]) -> None:
    for name in names:
        if not FILENAME.fullmatch(name) or name in (".", ".."):
            raise ConfigError(f"model.yaml: {side}: expected file names without a path, got {name!r}")
    stems = [_stem(name) for name in names]
    for name, stem in zip(names, stems, strict=True):
        if stems.count(stem) > 1:
            raise ConfigError(f"model.yaml: {side}: expected names that differ by more than their ending, got {name}")


def _mapping(value: Any, where: str) -> Mapping[Any, Any]:
    """A key that nothing follows is null in YAML; it means a block without entries."""
    if value is None:
        return {}
    if not isinstance(value, dict):
        raise _wrong(where, "a mapping", value)
    return value


def _text(value: Any, where: str) -> str:
    if not isinstance(value, str):
        raise _wrong(where, "text", value)
    return value


def size_bytes(size: Any, where: str) -> int | None:
    """`5M` and `512Mi` as bytes. where: its name in the manifest. Raises ConfigError."""
    if size is None:
        return None
    found = None if isinstance(size, bool) else SIZE.fullmatch(str(size).strip())
    if found is None:
        raise _wrong(where, 'a size such as "5M" or "512Mi"', size)
    number, prefix, binary = found.groups()
    return int(float(number) * (1024 if binary else 1000) ** " KMGT".index(prefix.upper() or " "))


def _wrong(where: str, expected: str, value: Any) -> ConfigError:
    return ConfigError(f"model.yaml: {where}: expected {expected}, got {_shown(value)}")


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
        replace(manifest.inputs[name], input=input_name) for name, input_name in zip(names, matched, strict=True)
    )


def _outputs(manifest: Manifest, signature: Signature) -> tuple[OutputFile, ...]:
    # Clients of the platform read it as the summary, also where an output is called so.
    if list(manifest.outputs) == [RESULTS]:
        return (OutputFile(RESULTS, None),)
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
            files.append(replace(output, output=found or by_order[name]))
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
