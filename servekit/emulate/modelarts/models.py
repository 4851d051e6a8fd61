"""Models of the first generation, which were once called AI applications."""

from __future__ import annotations

import json
import re
import uuid
from collections.abc import Mapping, Sequence
from typing import Any

from servekit.emulate.modelarts import errors
from servekit.emulate.modelarts.calls import Call, Handler, World
from servekit.emulate.modelarts.errors import PlatformError
from servekit.emulate.modelarts.images import SIZE, SWR_PATH, count
from servekit.emulate.store import Document

KIND = "model"
REQUIRED = ("model_name", "model_version", "model_type", "source_location")
NAME = re.compile(r"[A-Za-z0-9_-]{1,64}")
VERSION = re.compile(r"(?:0|[1-9][0-9]?)(?:\.(?:0|[1-9][0-9]?)){2}")
ALGORITHM = re.compile(r"[A-Za-z][^&!'\"<>=\u4e00-\u9fff]{0,35}")
TYPES = ("Image", "TensorFlow", "PyTorch", "MindSpore", "Custom", "Template")
MAX_DESCRIPTION_CHARS = 100
KEPT = (
    "model_name", "model_version", "model_type", "source_location", "description", "model_algorithm", "model_metrics",
    "initial_config", "apis", "install_type", "source_copy", "workspace_id", "health", "cmd",
)  # fmt: skip
LIMIT = 10


def create(world: World, call: Call) -> Any:
    asked = call.document
    for name in REQUIRED:
        if not asked.get(name):
            text = f"The parameter {name} is required."
            raise PlatformError(400, errors.MODEL_PARAMETER_MISSING, text)
    _check(asked)
    name, version = asked["model_name"], asked["model_version"]
    if any((model["model_name"], model["model_version"]) == (name, version) for model in _own(world, call.project)):
        raise PlatformError(409, errors.MODEL_EXISTS, f"There is a model {name} of version {version} already.")
    model = {key: asked[key] for key in KEPT if asked.get(key) is not None} | {
        "model_id": str(uuid.uuid4()), "project": call.project, "failure": call.failure, "made_ms": world.now_ms(),
    }  # fmt: skip
    world.store.put(KIND, model["model_id"], model)
    return {"model_id": model["model_id"]}


def show(world: World, call: Call) -> Any:
    return shown(world, found(world, call.project, call.parameters["model_id"]))


def list_models(world: World, call: Call) -> Any:
    query = call.query
    exact = query.get("exact_match", "false") == "true"
    models = [shown(world, model) for model in reversed(_own(world, call.project))]
    wanted = query.get("model_name", "")
    models = [
        model
        for model in models
        if (wanted == model["model_name"] if exact and wanted else wanted in model["model_name"])
        and query.get("model_version") in (None, model["model_version"])
        and query.get("model_status") in (None, model["model_status"])
        and query.get("model_type") in (None, model["model_type"])
        and query.get("workspace_id") in (None, model["workspace_id"])
    ]
    limit, offset = count(query, "limit", LIMIT, 1), count(query, "offset", 0, 0)
    listed = models[offset * limit : (offset + 1) * limit]
    return {"total_count": len(models), "count": len(listed), "models": [_brief(model) for model in listed]}


def delete(world: World, call: Call) -> Any:
    model = found(world, call.project, call.parameters["model_id"])
    key = model["model_id"]
    for service in world.store.all("service"):
        if service["project"] == call.project and any(config["model_id"] == key for config in service["config"]):
            failed = {
                "error_msg": f"A service is made of the model {key}.",
                "error_code": errors.MODEL_IN_USE, "model_id": key,
            }  # fmt: skip
            return {"delete_success_list": [], "delete_failed_list": [failed]}
    world.store.delete(KIND, key)
    return {"delete_success_list": [key], "delete_failed_list": []}


def found(world: World, project: str, key: str) -> Document:
    model = world.store.get(KIND, key)
    if model is None or model["project"] != project:
        raise PlatformError(404, errors.MODEL_MISSING, f"There is no model {key}.")
    return model


def status_of(world: World, model: Document) -> str:
    elapsed = world.elapsed(model["made_ms"])
    if elapsed < 1:
        return "publishing" if elapsed < 0.5 else "building"
    return "failed" if model["failure"] else "published"


def shown(world: World, model: Document) -> Document:
    """Documents within it are texts, as the platform has it."""
    status = status_of(world, model)
    config = json.loads(model.get("initial_config") or "{}")
    apis = model.get("apis") or [
        {
            "protocol": api.get("protocol", "http"), "url": api.get("url", "/"), "method": api.get("method", "post"),
            "input_params": api.get("request", {}).get("data", {}),
            "output_params": api.get("response", {}).get("data", {}),
        }
        for api in config.get("apis", [])
    ]  # fmt: skip
    document = {
        "model_id": model["model_id"], "model_name": model["model_name"], "model_version": model["model_version"],
        "model_type": model["model_type"], "model_status": status, "model_size": SIZE // 1000,
        "description": model.get("description", ""), "tenant": model["project"], "project": model["project"],
        "owner": model["project"], "source_location": model["source_location"], "create_at": model["made_ms"],
        "apis": json.dumps(apis), "config": json.dumps(config), "model_metrics": model.get("model_metrics") or "{}",
        "install_type": model.get("install_type") or ["real-time", "batch"], "model_labels": [],
        "labels_map": {"labels": []}, "workspace_id": model.get("workspace_id") or "0", "specification": {},
    }  # fmt: skip
    if status == "published":
        document["image_address"] = model["source_location"]
    if status == "failed":
        document["error_msg"] = model["failure"]
    for name in ("health", "cmd"):
        if model.get(name):
            document[name] = model[name]
    return document


def _brief(model: Document) -> Document:
    names = ("model_name", "model_version", "model_id", "model_type", "model_size", "model_status", "tenant", "project",
             "owner", "create_at", "description", "workspace_id", "specification")  # fmt: skip
    return {name: model[name] for name in names}


def _own(world: World, project: str) -> list[Document]:
    return [model for model in world.store.all(KIND) if model["project"] == project]


# --- what is asked ---


def _check(asked: Mapping[str, Any]) -> None:
    texts: Sequence[tuple[str, re.Pattern[str]]] = (("model_name", NAME), ("model_version", VERSION))
    for name, form in texts:
        if not isinstance(asked[name], str) or not form.fullmatch(asked[name]):
            raise _invalid(name, asked[name])
    if asked["model_type"] not in TYPES:
        raise _invalid("model_type", asked["model_type"])
    source = asked["source_location"]
    if not isinstance(source, str) or (asked["model_type"] == "Image" and not SWR_PATH.fullmatch(source)):
        text = "The source_location is not the address of an image in SWR."
        raise PlatformError(400, errors.SOURCE_LOCATION, text)
    description = asked.get("description") or ""
    if not isinstance(description, str) or len(description) > MAX_DESCRIPTION_CHARS:
        raise _invalid("description", f"{len(str(description))} characters")
    if asked.get("source_copy") not in (None, "true", "false"):
        raise _invalid("source_copy", asked["source_copy"])
    for name, kind in (("apis", list), ("install_type", list), ("health", dict), ("model_metrics", str), ("cmd", str),
                       ("workspace_id", str)):  # fmt: skip
        if asked.get(name) is not None and not isinstance(asked[name], kind):
            raise _invalid(name, asked[name])
    if asked["model_type"] == "Image" and asked.get("dependencies"):
        raise PlatformError(400, errors.CONFIG_INVALID, "A model of an image takes no dependencies.")
    if asked.get("initial_config") is not None:
        _check_config(asked["initial_config"], asked["model_type"])


def _check_config(text: Any, model_type: str) -> None:
    """The content of config.json, as a text."""
    try:
        config = json.loads(text) if isinstance(text, str) else None
    except (ValueError, RecursionError):
        config = None
    if not isinstance(config, dict):
        raise PlatformError(400, errors.CONFIG_UNREADABLE, "The initial_config is not the text of a JSON object.")
    wrong = PlatformError(400, errors.CONFIG_INVALID, "The config.json does not have the fields that it should.")
    algorithm = config.get("model_algorithm")
    if not isinstance(algorithm, str) or not ALGORITHM.fullmatch(algorithm) or config.get("model_type") != model_type:
        raise wrong
    if not isinstance(config.get("apis", []), list) or not all(isinstance(api, dict) for api in config.get("apis", [])):
        raise wrong
    for api in config.get("apis", []):
        if not all(isinstance(api.get(side, {}), dict) for side in ("request", "response")):
            raise wrong
    if model_type == "Image":
        if config.get("dependencies"):
            raise PlatformError(400, errors.CONFIG_INVALID, "A model of an image takes no dependencies.")
        health = config.get("health")
        # All of it is text, numbers too.
        if health is not None and not (
            isinstance(health, dict)
            and str(health.get("url", "")).startswith("/")
            and all(isinstance(value, str) for value in health.values())
        ):
            raise PlatformError(400, errors.HEALTH, "The health check needs a path, and its numbers as texts.")


def _invalid(name: str, value: Any) -> PlatformError:
    return PlatformError(400, errors.MODEL_PARAMETER, f"The parameter {name} is invalid: {str(value)[:60]}")


TABLE: Sequence[tuple[str, str, Handler]] = (
    ("POST", "/v1/{project_id}/models", create),
    ("GET", "/v1/{project_id}/models", list_models),
    ("GET", "/v1/{project_id}/models/{model_id}", show),
    ("DELETE", "/v1/{project_id}/models/{model_id}", delete),
)
