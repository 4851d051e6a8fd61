"""`servekit inspect TARGET`."""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

if TYPE_CHECKING:
    from servekit.signature import Spec

USAGE_ERROR = 2
MEBIBYTE = 1024 * 1024


@click.command(name="inspect", context_settings={"max_content_width": 110})
@click.argument("target")
@click.option("--workers", type=click.IntRange(1, 256), default=None, help="worker processes to plan for")
@click.option(
    "--model-dir", metavar="DIR", default=None, help="directory that `load` would receive, or an archive of it"
)
@click.option("--max-model-bytes", type=click.IntRange(1), default=None, metavar="BYTES", help="most that it may hold")
@click.option("--json", "as_json", is_flag=True, help="print one JSON object")
def inspect(
    target: str, workers: int | None, model_dir: str | None, max_model_bytes: int | None, as_json: bool
) -> None:
    """Say what TARGET takes and gives, how it is batched, and how much memory its weights will take.

    TARGET is what `servekit run` takes. Its code is imported, its model is not loaded.
    """
    from servekit.errors import ServeError

    try:
        facts = _facts(target, workers, None if model_dir is None else Path(model_dir), max_model_bytes)
    except (ServeError, OSError) as error:
        reason = error.message if isinstance(error, ServeError) else f"{error.filename}: {error.strerror}"
        click.echo(f"servekit: {reason}", err=True)
        sys.exit(USAGE_ERROR)
    click.echo(json.dumps(facts, indent=1) if as_json else _page(facts))


def _facts(text: str, workers: int | None, model_dir: Path | None, max_model_bytes: int | None) -> dict[str, Any]:
    """Everything that is printed, as JSON has it. Raises ConfigError, LoadFailed, OSError."""
    from servekit.codecs.decode import accepted_types
    from servekit.codecs.encode import offered_types
    from servekit.errors import ConfigError
    from servekit.launch.archive import unpack
    from servekit.launch.cpus import usable_cpus
    from servekit.launch.settings import MAX_AUTO_WORKERS, MAX_MODEL_BYTES
    from servekit.launch.target import is_archive, load_class, locate
    from servekit.signature import Signature

    if model_dir is not None and not model_dir.is_dir():
        if not is_archive(model_dir):
            raise ConfigError(f"--model-dir: expected a directory or a .tar.gz file, got {str(model_dir)!r}")
        model_dir = unpack(model_dir, max_model_bytes or MAX_MODEL_BYTES)
    target = locate(text, model_dir, Path.cwd())
    predictor = load_class(target)
    signature = Signature(predictor.inputs, predictor.outputs)
    count = workers or min(usable_cpus(), MAX_AUTO_WORKERS)
    models = [target.path] if target.kind == "onnx" and target.path else _models(model_dir or target.directory)
    return {
        "target": text,
        "kind": target.kind,
        "predictor": predictor.__name__,
        "inputs": _specs(signature.inputs),
        "outputs": _specs(signature.outputs),
        "batching": asdict(predictor.batching),
        "accepts": accepted_types(signature),
        "offers": offered_types(signature),
        "workers": count,
        "weights": [_plan(path, count) for path in models],
    }


def _models(directory: Path) -> list[Path]:
    """The .onnx files that a predictor would find; what else it loads cannot be known before."""
    for pattern in ("*.onnx", "*/*.onnx"):
        found = [path for path in sorted(directory.glob(pattern)) if "/." not in f"/{path.relative_to(directory)}"]
        if found:
            return found
    return []


def _plan(path: Path, workers: int) -> dict[str, Any]:
    # Only where there is an ONNX model; a predictor may do without onnxruntime.
    from servekit.backends.plan import memory_plan

    return asdict(memory_plan(path, workers))


def _specs(specs: Mapping[str, Spec]) -> dict[str, Any]:
    return {name: {"type": type(spec).__name__, "text": str(spec), **asdict(spec)} for name, spec in specs.items()}


def _page(facts: Mapping[str, Any]) -> str:
    batching = ", ".join(f"{name}={value}" for name, value in facts["batching"].items() if value is not None)
    lines = [
        f"{facts['predictor']} ({facts['kind']})",
        *(f"input     {name}: {spec['text']}" for name, spec in facts["inputs"].items()),
        *(f"output    {name}: {spec['text']}" for name, spec in facts["outputs"].items()),
        f"batching  {batching}",
        f"accepts   {', '.join(facts['accepts'])}",
        f"offers    {', '.join(facts['offers'])}",
        "",
    ]
    if not facts["weights"]:
        return "\n".join([*lines, "weights   not known: this predictor loads them itself, in each worker"])
    count = facts["workers"]
    lines.append(f"weights   with {count} worker{'s' * (count > 1)}, MiB; the processes themselves come on top")
    for plan in facts["weights"]:
        shared, unique, total, private = (
            f"{plan[name] / MEBIBYTE:.1f}" for name in ("shared_bytes", "unique_bytes", "total_bytes", "private_bytes")
        )
        lines.append(f"  {plan['model']}: {shared} shared + {unique} in each worker = {total} (unshared: {private})")
        lines.append(f"    {plan['why']}")
    if facts["kind"] != "onnx":
        lines.append("  as far as they are opened with servekit.backends.onnx.Session")
    return "\n".join(lines)
