"""From model.yaml to what a model's version is told by PATCH, as the vendor's own uploader translates it."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from servekit.errors import ConfigError
from servekit.platforms.modzy.manifest import read, size_bytes
from servekit.publish.files import content
from servekit.publish.modzy.objects import Requirement

MANIFEST = "model.yaml"
# The sizes and times of the vendor's client, where model.yaml has none.
DEFAULT_MAX_BYTES = 1_000_000
DEFAULT_TIMEOUT_S = 60.0
MAX_TIMEOUT_S = 86_400.0
DEFAULT_REQUIREMENT = 1
GPU_REQUIREMENT = -6
ARM_REQUIREMENT = -99
# Machines that the platform's tests do not run on.
ARM = ("arm64", "arm")
VERSION = re.compile(r"(?:0|[1-9]\d{0,8})(?:\.(?:0|[1-9]\d{0,8})){2}")
SPAN = re.compile(r"(\d{1,9}(?:\.\d{1,6})?)\s*(ms|s|m|min|h)?")
SECONDS = {"ms": 0.001, "s": 1, "m": 60, "min": 60, "h": 3600, None: 1}
# A context that `servekit build --output` wrote.
CONTEXT = "project"
MAX_CONTEXT_FILES = 2


@dataclass(frozen=True, slots=True)
class Metadata:
    """document: of the PATCH, but for requirement, timeout and release notes. tags and summary: of the model.

    inputs: the largest file that each takes, in bytes, by name.
    """

    document: Mapping[str, Any]
    inputs: Mapping[str, int]
    version: str = ""
    summary: str = ""
    release_notes: str = ""
    tags: tuple[str, ...] = ()
    run_timeout_s: float = DEFAULT_TIMEOUT_S
    status_timeout_s: float = DEFAULT_TIMEOUT_S
    cpus: float | None = None
    memory_bytes: int | None = None
    gpus: int = 0
    media_types: Mapping[str, str] = field(default_factory=dict)


def of_file(path: Path) -> Metadata:
    """Raises ConfigError."""
    return of_body(content(path, f"--model-yaml {str(path)!r}"))


def of_target(target: str | None, cwd: Path) -> Metadata:
    """Of the project's own model.yaml, else of the one that `servekit build` would write. Raises ConfigError."""
    from servekit.images.project import find
    from servekit.platforms.modzy.manifest_out import manifest

    if target is not None and (found := in_context(Path(target))) is not None:
        return of_file(found)
    project = find(target, cwd)
    own = project.root / project.directory / MANIFEST
    return of_file(own) if own.is_file() else of_body(manifest(project.product))


def in_context(folder: Path) -> Path | None:
    """The model.yaml of a context that `servekit build --output` wrote; None where `folder` is something else."""
    if not (folder / "Dockerfile").is_file() or not (folder / CONTEXT).is_dir():
        return None
    first = folder / CONTEXT / MANIFEST
    found = [first] if first.is_file() else sorted((folder / CONTEXT).glob(f"**/{MANIFEST}"))[:MAX_CONTEXT_FILES]
    if len(found) != 1:
        raise ConfigError(
            f"--target {str(folder)!r}: expected a context with one {MANIFEST}, got {len(found) or 'none'}: name it by "
            "--model-yaml"
        )
    return found[0]


def of_body(body: bytes) -> Metadata:
    """Raises ConfigError that names the key, what came and what was expected."""
    manifest = read(body)
    # It has been read without an error, and a key is there once.
    document: dict[Any, Any] = yaml.safe_load(body)
    description = _block(document, "description")
    texts = {name: _text(description, name, "description.") for name in ("details", "technical", "performance")}
    inputs = {name: file.max_bytes or DEFAULT_MAX_BYTES for name, file in manifest.inputs.items()}
    accepted = {name: ",".join(file.media_types) for name, file in manifest.inputs.items()}
    if not inputs:
        raise ConfigError(f"{MANIFEST}: inputs: expected at least one file")
    outputs = {name: _block(_block(document, "outputs"), name, "outputs.") for name in manifest.outputs}
    if not outputs:
        raise ConfigError(f"{MANIFEST}: outputs: expected at least one file, such as results.json")
    resources = _block(document, "resources")
    timeout = _block(document, "timeout")
    memory = _block(resources, "memory", "resources.").get("size")
    return Metadata(
        document={
            "inputs": [
                {
                    "name": name,
                    "acceptedMediaTypes": accepted[name],
                    "maximumSize": nbytes,
                    "description": _text(_block(_block(document, "inputs"), name), "description", f"inputs.{name}."),
                }
                for name, nbytes in inputs.items()
            ],
            "outputs": [
                {
                    "name": name,
                    "mediaType": manifest.outputs[name].media_type,
                    "maximumSize": size_bytes(output.get("maxSize"), f"outputs.{name}.maxSize") or DEFAULT_MAX_BYTES,
                    "description": _text(output, "description", f"outputs.{name}."),
                }
                for name, output in outputs.items()
            ],
            "statistics": _statistics(document.get("metrics")),
            # As the vendor's client: none runs until there is a job.
            "processing": {"minimumParallelCapacity": 0, "maximumParallelCapacity": 1},
            "longDescription": texts["details"],
            "technicalDetails": texts["technical"],
            "performanceSummary": texts["performance"],
        },
        inputs=inputs,
        version=_version(document.get("version")),
        summary=_text(description, "summary", "description."),
        release_notes=_text(document, "releaseNotes"),
        tags=_tags(document.get("tags")),
        run_timeout_s=_span(timeout.get("run"), "timeout.run"),
        status_timeout_s=_span(timeout.get("status"), "timeout.status"),
        cpus=_count(_block(resources, "cpu", "resources.").get("count"), "resources.cpu.count"),
        memory_bytes=size_bytes(memory, "resources.memory.size"),
        gpus=int(_count(_block(resources, "gpu", "resources.").get("count"), "resources.gpu.count") or 0),
        media_types=accepted,
    )


def chosen(metadata: Metadata, offered: Sequence[Requirement]) -> int:
    """The id of the smallest machine on offer with room for the model. Raises ConfigError when there is none."""
    asked = metadata.gpus or metadata.cpus or metadata.memory_bytes
    told = [one for one in offered if one.cpus is not None and one.memory_bytes is not None]
    if metadata.gpus and not any(one.gpus for one in told):
        # The list of the platform says nothing of GPUs; this is the number that the vendor's client takes for one.
        return GPU_REQUIREMENT
    if not asked or not told:
        return DEFAULT_REQUIREMENT
    fitting = [
        one
        for one in told
        if one.identifier != ARM_REQUIREMENT
        and (one.cpus or 0) >= (metadata.cpus or 0)
        and (one.memory_bytes or 0) >= (metadata.memory_bytes or 0)
        and (one.gpus or 0) >= metadata.gpus
    ]
    if not fitting:
        raise ConfigError(
            f"{MANIFEST}: resources: expected what one of the account's machines has, got {_asked(metadata)}; on offer "
            f"are {'; '.join(map(str, told[:20]))}: ask for less, or choose one by --requirement"
        )
    best = min(fitting, key=lambda one: (one.gpus or 0, one.cpus or 0, one.memory_bytes or 0, one.identifier))
    return best.identifier


def check_version(text: str, where: str) -> str:
    if not VERSION.fullmatch(text):
        raise ConfigError(f"{where}: expected three integers with dots between them, such as 1.2.0, got {text[:80]!r}")
    return text


def _asked(metadata: Metadata) -> str:
    memory = "" if metadata.memory_bytes is None else f"{metadata.memory_bytes / 2**30:.1f} GiB"
    parts = [f"{metadata.cpus or 0:g} CPU", memory, f"{metadata.gpus} GPU" if metadata.gpus else ""]
    return ", ".join(part for part in parts if part)


# --- parts ---


def _block(document: Mapping[Any, Any], key: str, above: str = "") -> Mapping[Any, Any]:
    value = document.get(key)
    if value is None:
        return {}
    if not isinstance(value, dict):
        raise _wrong(f"{above}{key}", "a mapping", value)
    return value


def _text(document: Mapping[Any, Any], key: str, above: str = "") -> str:
    """YAML makes a number of a word such as 1.0."""
    value = document.get(key)
    if value is None:
        return ""
    if isinstance(value, bool) or not isinstance(value, (str, int, float)):
        raise _wrong(f"{above}{key}", "text", value)
    return str(value)


def _version(value: Any) -> str:
    """ "" where there is none, or another kind: --version says it then."""
    text = "" if value is None else str(value)
    return text if VERSION.fullmatch(text) else ""


def _tags(value: Any) -> tuple[str, ...]:
    if value is None:
        return ()
    if not isinstance(value, list):
        raise _wrong("tags", "a list", value)
    return tuple(str(tag) for tag in value if tag is not None)


def _statistics(metrics: Any) -> list[dict[str, Any]]:
    if metrics is None:
        return []
    if not isinstance(metrics, list):
        raise _wrong("metrics", "a list", metrics)
    found = []
    for i, metric in enumerate(metrics):
        if not isinstance(metric, dict):
            raise _wrong(f"metrics.{i}", "a mapping", metric)
        value = metric.get("value")
        if value is not None and (isinstance(value, bool) or not isinstance(value, (int, float))):
            raise _wrong(f"metrics.{i}.value", "a number", value)
        found.append({str(key): part for key, part in metric.items() if isinstance(part, (str, int, float))})
    return found


def _count(value: Any, where: str) -> float | None:
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not 0 <= value < 10**6:
        raise _wrong(where, "a number from 0", value)
    return float(value)


def _span(value: Any, where: str) -> float:
    if value is None:
        return DEFAULT_TIMEOUT_S
    found = None if isinstance(value, bool) else SPAN.fullmatch(str(value).strip())
    seconds = float(found[1]) * SECONDS[found[2]] if found else 0.0
    if not 0 < seconds <= MAX_TIMEOUT_S:
        raise _wrong(where, 'a time such as "60s", of at most a day', value)
    return seconds


def _wrong(where: str, expected: str, value: Any) -> ConfigError:
    shown = repr(value)
    return ConfigError(f"{MANIFEST}: {where}: expected {expected}, got {shown if len(shown) <= 80 else shown[:80]}")
