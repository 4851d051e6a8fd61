"""Services of both generations, and the gateway that leads to them."""

from __future__ import annotations

import http.client
import re
import uuid
from collections.abc import Mapping, Sequence
from typing import Any
from urllib.parse import urlsplit

from starlette.responses import Response

from servekit.emulate.modelarts import errors, models
from servekit.emulate.modelarts.calls import Call, Handler, World
from servekit.emulate.modelarts.errors import PlatformError
from servekit.emulate.modelarts.images import SWR_PATH, WORKSPACE, count
from servekit.emulate.store import Document
from servekit.emulate.threads import in_thread

KIND, KIND2 = "service", "service2"
NAME = re.compile(r"[A-Za-z0-9_-]{1,64}")
INFER_TYPES = ("real-time", "batch", "edge")
TYPES2, DEPLOY_TYPES2 = ("REAL_TIME", "ASYNC_REAL_TIME"), ("SINGLE", "MULTI")
MAX_INSTANCES = 128
MAX_TEXT_CHARS = 100
LIMIT, LIMIT2 = 10, 200
# Of the gateway.
MAX_REQUEST_BYTES = 12 * 1024 * 1024
MAX_REPLY_BYTES = 64 * 1024 * 1024
REQUEST_S = 60.0
HOP = ("connection", "keep-alive", "transfer-encoding", "content-length", "upgrade", "te", "trailer", "date", "server")
SECRET_HEADERS = ("authorization", "x-auth-token", "x-security-token", "x-sdk-date", "host", "accept-encoding")


# --- a service's life ---


def _begin(world: World, service: Document, going: str, failure: str | None = None) -> None:
    """going: deploying or stopping; where it leads follows from the time."""
    service |= {"going": going, "since_ms": world.now_ms(), "failure": failure}


def status_of(world: World, service: Document) -> str:
    elapsed = world.elapsed(service["since_ms"])
    if elapsed < 1:
        return str(service["going"])
    if service["going"] == "stopping":
        return "stopped"
    if service["failure"]:
        return "failed"
    if service.get("infer_type") == "batch" and elapsed >= 2:
        return "finished"
    return "running"


def _address(call_base: str, version: str, key: str) -> str:
    return f"{call_base}/v1/infers/{key}" if version == "v1" else f"{call_base}/v2/infer/{key}"


def _base(call: Call) -> str:
    return str(call.request.base_url).rstrip("/")


# --- the first generation ---


def create(world: World, call: Call) -> Any:
    asked = call.document
    name = asked.get("service_name")
    if not isinstance(name, str) or not NAME.fullmatch(name):
        raise _invalid("service_name", name)
    infer_type = asked.get("infer_type")
    if infer_type not in INFER_TYPES:
        raise _invalid("infer_type", infer_type)
    if any(service["service_name"] == name for service in _own(world, KIND, call.project)):
        raise PlatformError(409, errors.SERVICE_EXISTS, f"There is a service {name} already.")
    service: Document = {
        "service_id": str(uuid.uuid4()), "service_name": name, "infer_type": infer_type, "project": call.project,
        "description": _text(asked, "description"), "workspace_id": _text(asked, "workspace_id") or "0",
        "config": _configs(world, call.project, infer_type, asked.get("config")), "made_ms": world.now_ms(),
        "base": _base(call),
    }  # fmt: skip
    _begin(world, service, "deploying", call.failure)
    world.store.put(KIND, service["service_id"], service)
    return {"service_id": service["service_id"], "resource_ids": [uuid.uuid4().hex for _ in service["config"]]}


def show(world: World, call: Call) -> Any:
    return shown(world, _found(world, KIND, call))


def list_services(world: World, call: Call) -> Any:
    query = call.query
    services = [shown(world, service) for service in reversed(_own(world, KIND, call.project))]
    services = [
        service
        for service in services
        if query.get("service_name", "") in service["service_name"]
        and query.get("status") in (None, service["status"])
        and query.get("infer_type") in (None, service["infer_type"])
        and query.get("service_id") in (None, service["service_id"])
    ]
    limit, offset = count(query, "limit", LIMIT, 1), count(query, "offset", 0, 0)
    listed = services[offset * limit : (offset + 1) * limit]
    names = ("service_id", "service_name", "description", "infer_type", "status", "project", "tenant", "owner",
             "publish_at", "workspace_id", "invocation_times", "failed_times", "is_shared", "shared_count")  # fmt: skip
    return {
        "total_count": len(services), "count": len(listed),
        "services": [{name: service[name] for name in names} for service in listed],
    }  # fmt: skip


def update(world: World, call: Call) -> Any:
    """Either its state, or what it is made of."""
    service = _found(world, KIND, call)
    asked = call.document
    status = asked.get("status")
    if status is not None and asked.get("config") is not None:
        text = "Of status and config one can be changed at a time."
        raise PlatformError(400, errors.PARAMETERS, text)
    if status not in (None, "running", "stopped"):
        raise _invalid("status", status)
    now = status_of(world, service)
    if now in ("deploying", "stopping") and (status is not None or asked.get("config") is not None):
        text = f"The service {service['service_name']} is {now}, and cannot be changed now."
        raise PlatformError(400, errors.SERVICE_STATE, text)
    if asked.get("description") is not None:
        service["description"] = _text(asked, "description")
    if asked.get("config") is not None:
        service["config"] = _configs(world, call.project, service["infer_type"], asked["config"])
    if status == "stopped" and now not in ("stopped", "finished"):
        _begin(world, service, "stopping")
    elif asked.get("config") is not None or (status == "running" and now != "running"):
        _begin(world, service, "deploying", call.failure)
    world.store.put(KIND, service["service_id"], service)
    return {}


def delete(world: World, call: Call) -> Any:
    world.store.delete(KIND, _found(world, KIND, call)["service_id"])
    return {}


def shown(world: World, service: Document) -> Document:
    status = status_of(world, service)
    elapsed = world.elapsed(service["since_ms"])
    document: Document = {
        "service_id": service["service_id"], "service_name": service["service_name"],
        "description": service["description"], "tenant": service["project"], "project": service["project"],
        "owner": service["project"], "publish_at": service["made_ms"], "update_time": service["since_ms"],
        "infer_type": service["infer_type"], "status": status, "workspace_id": service["workspace_id"],
        "progress": 100 if elapsed >= 1 else int(elapsed * 100), "additional_properties": {}, "is_shared": False,
        "shared_count": 0, "invocation_times": 0, "failed_times": 0, "operation_time": service["since_ms"],
        "transition_at": service["since_ms"], "is_free": False,
        "config": [
            config | {"status": "ready" if status == "running" else "notReady"} for config in service["config"]
        ],
    }  # fmt: skip
    if status == "running" and service["infer_type"] == "real-time":
        document["access_address"] = _address(service["base"], "v1", service["service_id"])
    if status == "failed":
        document["error_msg"] = service["failure"]
    return document


def _configs(world: World, project: str, infer_type: str, asked: Any) -> list[Document]:
    if not isinstance(asked, list) or not asked or not all(isinstance(config, dict) for config in asked):
        raise _invalid("config", asked)
    if infer_type == "batch" and len(asked) != 1:
        raise _invalid("config", f"{len(asked)} models for a batch service")
    configs = [_config(world, project, infer_type, config) for config in asked]
    versions = [config["model_id"] for config in configs]
    if len(set(versions)) != len(versions):
        text = "The same version of a model is named twice."
        raise PlatformError(400, errors.SAME_VERSIONS, text)
    if infer_type == "real-time" and sum(config["weight"] for config in configs) != 100:
        raise _invalid("weight", "the sum is not 100")
    return configs


def _config(world: World, project: str, infer_type: str, asked: Mapping[str, Any]) -> Document:
    model = world.store.get(models.KIND, str(asked.get("model_id")))
    if model is None or model["project"] != project:
        raise PlatformError(404, errors.SERVICE_MODEL_MISSING, f"There is no model {asked.get('model_id')}.")
    if models.status_of(world, model) != "published":
        text = f"The model {model['model_id']} is {models.status_of(world, model)}, and no service can be made of it."
        raise PlatformError(400, errors.MODEL_NOT_READY, text)
    specification = asked.get("specification")
    if not isinstance(specification, str) or not specification:
        raise _invalid("specification", specification)
    custom = asked.get("custom_spec") or {}
    if specification == "custom" and not all(_is_number(custom.get(name)) for name in ("cpu", "memory")):
        raise _invalid("custom_spec", custom)
    instances = asked.get("instance_count")
    if isinstance(instances, bool) or not isinstance(instances, int) or not 1 <= instances <= MAX_INSTANCES:
        raise _invalid("instance_count", instances)
    # The vendor's own examples have it as a number and as a text.
    weight = str(asked.get("weight", "")) if infer_type == "real-time" else "100"
    if not weight.isascii() or not weight.isdigit() or len(weight) > 3:
        raise _invalid("weight", weight)
    envs = asked.get("envs") or {}
    if not isinstance(envs, dict) or not all(isinstance(value, str) for value in envs.values()):
        raise _invalid("envs", "expected texts")
    return {
        "model_id": model["model_id"], "model_name": model["model_name"], "model_version": model["model_version"],
        "specification": specification, "custom_spec": custom, "weight": int(weight), "instance_count": instances,
        "envs": envs, "additional_properties": {}, "scaling": False, "support_debug": False,
    }  # fmt: skip


# --- the second generation ---


def create2(world: World, call: Call) -> Any:
    asked = _checked2(call.document)
    if any(service["name"] == asked["name"] for service in _own(world, KIND2, call.project)):
        raise PlatformError(409, errors.SERVICE_EXISTS, f"There is a service {asked['name']} already.")
    now_ms = world.now_ms()
    service: Document = {
        **asked, "service_id": str(uuid.uuid4()), "version_id": str(uuid.uuid4()), "project": call.project,
        "made_ms": now_ms, "base": _base(call),
    }  # fmt: skip
    _begin(world, service, "deploying", call.failure)
    world.store.put(KIND2, service["service_id"], service)
    document = shown2(world, service)
    # Only its detail has it.
    document.pop("predict_url", None)
    return document


def show2(world: World, call: Call) -> Any:
    return shown2(world, _found(world, KIND2, call))


def list2(world: World, call: Call) -> Any:
    query = call.query
    services = [shown2(world, service) for service in reversed(_own(world, KIND2, call.project))]
    services = [
        service
        for service in services
        if query.get("name", "") in service["name"]
        and query.get("status") in (None, service["status"])
        and query.get("type") in (None, service["type"])
        and query.get("id") in (None, service["id"])
    ]
    limit, offset = count(query, "limit", LIMIT2, 1), count(query, "offset", 0, 0)
    data = services[offset : offset + limit]
    for service in data:
        service.pop("predict_url", None)
    return {
        "data": data, "current": offset // limit + 1, "size": len(data), "pages": -(-len(services) // limit),
        "total": len(services),
    }  # fmt: skip


def update2(world: World, call: Call) -> Any:
    service = _found(world, KIND2, call)
    asked = _checked2({**{key: service[key] for key in KEPT2 if key in service}, **call.document})
    if asked["version"] == service["version"]:
        text = f"The version {asked['version']} of the service {service['name']} has been used already."
        raise PlatformError(400, errors.VERSION_USED, text)
    service |= asked | {"version_id": str(uuid.uuid4())}
    _begin(world, service, "deploying", call.failure)
    world.store.put(KIND2, service["service_id"], service)
    return shown2(world, service)


def start2(world: World, call: Call) -> Any:
    return _turn2(world, call, "deploying", ("STOPPED", "FAILED"))


def stop2(world: World, call: Call) -> Any:
    return _turn2(world, call, "stopping", ("RUNNING", "FAILED"))


def _turn2(world: World, call: Call, going: str, states: Sequence[str]) -> Any:
    service = _found(world, KIND2, call)
    now = status_of(world, service).upper()
    if now not in states:
        text = f"The service {service['name']} is {now}, and cannot be changed now."
        raise PlatformError(400, errors.SERVICE_STATE, text)
    _begin(world, service, going, call.failure if going == "deploying" else None)
    world.store.put(KIND2, service["service_id"], service)
    return shown2(world, service)


def delete2(world: World, call: Call) -> Any:
    service = _found(world, KIND2, call)
    world.store.delete(KIND2, service["service_id"])
    return shown2(world, service) | {"status": "DELETING"}


def delete_several2(world: World, call: Call) -> Any:
    keys = call.document.get("service_ids")
    if not isinstance(keys, list) or not keys or not all(isinstance(key, str) for key in keys):
        raise _invalid("service_ids", keys)
    found = [world.store.get(KIND2, key) for key in keys]
    missing = [key for key, service in zip(keys, found, strict=True)
               if service is None or service["project"] != call.project]  # fmt: skip
    if missing:
        raise PlatformError(404, errors.SERVICE_MISSING, f"There is no service {missing[0]}.")
    for key in keys:
        world.store.delete(KIND2, key)
    return {"service_responses": [shown2(world, service) | {"status": "DELETING"} for service in found if service]}


KEPT2 = ("name", "version", "description", "type", "deploy_type", "group_configs", "runtime_config", "workspace_id",
         "deploy_timeout_minutes")  # fmt: skip


def shown2(world: World, service: Document) -> Document:
    status = status_of(world, service)
    document: Document = {
        "id": service["service_id"], "name": service["name"], "workspace_id": service["workspace_id"],
        "type": service["type"], "deploy_type": service["deploy_type"], "status": status.upper(),
        "version": {
            "id": service["version_id"], "version": service["version"], "description": service["description"],
            "runtime_config": service["runtime_config"], "instance_groups": service["group_configs"],
        },
        "deploy_timeout_minutes": service.get("deploy_timeout_minutes", 20), "tags": [], "schedule": [],
        "create_at": str(service["made_ms"]), "update_at": str(service["since_ms"]),
    }  # fmt: skip
    if status == "running":
        url = _address(service["base"], "v2", service["service_id"])
        document["predict_url"] = [{"type": "PUBLIC", "urls": [url]}]
    if status == "failed":
        document["failure_reason"] = service["failure"]
    return document


def _checked2(asked: Mapping[str, Any]) -> Document:
    if not isinstance(asked.get("name"), str) or not NAME.fullmatch(asked["name"]):
        raise _invalid("name", asked.get("name"))
    for name, values in (("type", TYPES2), ("deploy_type", DEPLOY_TYPES2)):
        if asked.get(name) not in values:
            raise _invalid(name, asked.get(name))
    groups = asked.get("group_configs")
    if not isinstance(groups, list) or len(groups) != 1 or not isinstance(groups[0], dict):
        raise _invalid("group_configs", "expected one group")
    units = groups[0].get("unit_configs")
    if not isinstance(units, list) or not units or not all(isinstance(unit, dict) for unit in units):
        raise _invalid("unit_configs", units)
    for unit in units:
        image = unit.get("image")
        path = image.get("swr_path") if isinstance(image, dict) and image.get("source") == "SWR" else None
        if not isinstance(path, str) or not SWR_PATH.fullmatch(path):
            raise _invalid("image", image)
        if not unit.get("flavor") and not isinstance(unit.get("custom_spec"), dict):
            raise _invalid("flavor", unit.get("flavor"))
        port = unit.get("port", 8080)
        if isinstance(port, bool) or not isinstance(port, int) or not 1 <= port <= 65535:
            raise _invalid("port", port)
    runtime = asked.get("runtime_config")
    limits = runtime.get("service_limit") if isinstance(runtime, dict) else None
    rate = limits.get("rate_limit") if isinstance(limits, dict) else None
    if not isinstance(runtime, dict) or not isinstance(runtime.get("service_invoke"), dict):
        raise _invalid("service_invoke", None)
    if not isinstance(rate, dict) or not _is_number(rate.get("num")):
        raise PlatformError(400, errors.RATE_LIMIT, "rate_limit: is required")
    workspace = asked.get("workspace_id") or "0"
    if not isinstance(workspace, str) or not WORKSPACE.fullmatch(workspace):
        raise PlatformError(400, errors.WORKSPACE_MISSING, "There is no such workspace.")
    kept = {key: asked[key] for key in KEPT2 if asked.get(key) is not None}
    return {"version": "0.0.1", "description": "", **kept, "workspace_id": workspace}


# --- the gateway ---


async def infer(world: World, call: Call) -> Any:
    """Leads to the container, where there is one, as the platform's gateway does."""
    key = call.parameters["service_id"]
    service = world.store.get(KIND, key) or world.store.get(KIND2, key)
    if service is None or status_of(world, service) != "running" or not world.service:
        text = f"The service {key[:64]} is not running, or nothing runs behind it."
        raise PlatformError(400, errors.UNAVAILABLE, text)
    return await in_thread(lambda: _forward(world.service, call))


def _forward(url: str, call: Call) -> Response:
    parts = urlsplit(url)
    make = http.client.HTTPSConnection if parts.scheme == "https" else http.client.HTTPConnection
    connection = make(parts.hostname or "", parts.port, timeout=REQUEST_S)
    path = f"{parts.path.rstrip('/')}/{_rest(call)}"
    headers = {
        name: value for name, value in call.request.headers.items() if name not in (*HOP, *SECRET_HEADERS)
    }  # fmt: skip
    try:
        connection.request(call.request.method, path, call.body, headers)
        reply = connection.getresponse()
        # Read as a piece, it does not say when it breaks off.
        content = reply.read(MAX_REPLY_BYTES + 1)
        if reply.length and len(content) <= MAX_REPLY_BYTES:
            raise http.client.IncompleteRead(content, reply.length)
    except TimeoutError as error:
        raise PlatformError(408, errors.TIMED_OUT, "The container did not answer in time.") from error
    except (OSError, http.client.HTTPException) as error:
        text = "The container refused the connection, or broke it."
        raise PlatformError(503, errors.BACKEND, text) from error
    finally:
        connection.close()
    if len(content) > MAX_REPLY_BYTES:
        raise PlatformError(503, errors.BACKEND, f"The container's answer is larger than {MAX_REPLY_BYTES} bytes.")
    passed = {name: value for name, value in reply.getheaders() if name.lower() not in HOP}
    return Response(content, reply.status, headers=passed)


def _rest(call: Call) -> str:
    """What comes after the service's id, as it was sent."""
    raw: str = call.request.scope["raw_path"].decode("latin-1")
    rest = raw.partition(f"/{call.parameters['service_id']}")[2].lstrip("/")
    query = call.request.scope["query_string"].decode("latin-1")
    return f"{rest}?{query}" if query else rest


# --- common ---


def _own(world: World, kind: str, project: str) -> list[Document]:
    return [service for service in world.store.all(kind) if service["project"] == project]


def _found(world: World, kind: str, call: Call) -> Document:
    key = call.parameters["service_id"]
    service = world.store.get(kind, key)
    if service is None or service["project"] != call.project:
        raise PlatformError(404, errors.SERVICE_MISSING, f"There is no service {key}.")
    return service


def _text(asked: Mapping[str, Any], name: str) -> str:
    value = asked.get(name) or ""
    if not isinstance(value, str) or len(value) > MAX_TEXT_CHARS:
        raise _invalid(name, type(value).__name__)
    return value


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and value > 0


def _invalid(name: str, value: Any) -> PlatformError:
    text = f"{name}: the value is not one that is taken: {str(value)[:60]}"
    return PlatformError(400, errors.PARAMETERS, text)


V1, V2 = "/v1/{project_id}/services", "/v2/{project_id}/services"
TABLE: Sequence[tuple[str, str, Handler]] = (
    ("POST", V1, create),
    ("GET", V1, list_services),
    ("GET", f"{V1}/{{service_id}}", show),
    ("PUT", f"{V1}/{{service_id}}", update),
    ("DELETE", f"{V1}/{{service_id}}", delete),
    ("POST", V2, create2),
    ("GET", V2, list2),
    ("POST", f"{V2}/delete", delete_several2),
    ("GET", f"{V2}/{{service_id}}", show2),
    ("PUT", f"{V2}/{{service_id}}", update2),
    ("DELETE", f"{V2}/{{service_id}}", delete2),
    ("POST", f"{V2}/{{service_id}}/start", start2),
    ("POST", f"{V2}/{{service_id}}/stop", stop2),
)
GATEWAY: Sequence[tuple[str, str, Handler]] = tuple(
    (method, path, infer)
    for path in (
        "/v1/infers/{service_id}", "/v1/infers/{service_id}/{rest:path}", "/v2/infer/{service_id}",
        "/v2/infer/{service_id}/{rest:path}",
    )
    for method in ("GET", "POST")
)  # fmt: skip
