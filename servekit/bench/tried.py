"""A target with another `Batching`, for `servekit run servekit.bench.tried:Tried`: what `servekit bench` tries out.

Which target, and which values, is in the environment: the process that serves it is not the one that tries.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from servekit.errors import ConfigError
from servekit.launch.target import load_class, locate
from servekit.predictor import Predictor

VARIABLE = "BENCH_TRIED"
TARGET = "servekit.bench.tried:Tried"


def environ(target: str, model_dir: Path, cwd: Path, batching: Mapping[str, Any]) -> dict[str, str]:
    """What the process that serves TARGET needs."""
    given = {"target": target, "model_dir": str(model_dir), "cwd": str(cwd), "batching": dict(batching)}
    return {VARIABLE: json.dumps(given)}


def with_batching(predictor: type[Predictor], values: Mapping[str, Any]) -> type[Predictor]:
    """The same predictor, batched otherwise. What cannot be is a ConfigError of Batching."""
    changed = replace(predictor.batching, **values)
    return type(predictor.__name__, (predictor,), {"batching": changed, "__module__": predictor.__module__})


def _tried() -> type[Predictor]:
    try:
        given = json.loads(os.environ[VARIABLE])
        target, model_dir, cwd = given["target"], Path(given["model_dir"]), Path(given["cwd"])
        batching = dict(given["batching"])
    except (KeyError, ValueError, TypeError) as error:
        raise ConfigError(f"{TARGET}: {VARIABLE}: expected what `servekit bench` sets") from error
    return with_batching(load_class(locate(target, model_dir, cwd)), batching)


def __getattr__(name: str) -> Any:
    if name == "Tried":
        return _tried()
    raise AttributeError(name)
