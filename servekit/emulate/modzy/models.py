"""Models and their versions, and the container image of a version."""

from __future__ import annotations

import hashlib
import re
import secrets
from collections.abc import Mapping, Sequence
from typing import Any

from starlette.responses import Response

from servekit.emulate.bodies import TooMuch
from servekit.emulate.modzy.calls import Call, Handler, Refused, World, instant
from servekit.emulate.store import Document
from servekit.emulate.uploads import one_file, pieces

KIND, VERSION = "model", "version"
ALPHABET = "abcdefghijklmnopqrstuvwxyz0123456789"
NAME = re.compile(r"[A-Za-z0-9](?:[A-Za-z0-9 _.-]{0,198}[A-Za-z0-9])?")
SEMANTIC = re.compile(r"(0|[1-9][0-9]{0,5})\.(0|[1-9][0-9]{0,5})\.(0|[1-9][0-9]{0,5})")
MAX_TAR_BYTES = 64 * 1024**3
MAX_PICTURE_BYTES = 10 * 1024 * 1024
MAX_PAGE = 1000
MAX_ENGINES = 1000
TAR_TYPES = ("application/x-tar", "application/tar", "application/octet-stream")
TAR_MAGIC = slice(257, 262)
TAR_BLOCK = 512
GPU, ARM = -6, -99
REQUIREMENTS: Sequence[Mapping[str, Any]] = tuple(
    {
        "requirementId": number, "name": name, "description": name, "status": "ACTIVE", "cpuAmount": cpu,
        "memoryAmount": memory, "gpuUnitsAmount": gpu,
    }
    for number, name, cpu, memory, gpu in [
        (1, "small", "1000m", "1Gi", 0), (2, "medium", "2000m", "4Gi", 0), (3, "large", "8000m", "16Gi", 0),
        (GPU, "gpu", "4000m", "16Gi", 1), (ARM, "arm", "1000m", "1Gi", 0),
    ]
)  # fmt: skip
# What a client may write into a version, and what it is until then.
WRITABLE: Mapping[str, Any] = {
    "longDescription": "", "technicalDetails": "", "performanceSummary": "", "versionHistory": "",
    "inputValidationSchema": "", "inputs": [], "outputs": [], "statistics": [],
    "timeout": {"status": 60000, "run": 60000}, "requirement": {"requirementId": 1},
    "processing": {"minimumParallelCapacity": 0, "maximumParallelCapacity": 1},
}  # fmt: skip
SHAPES: Mapping[str, type] = {key: type(value) for key, value in WRITABLE.items()}


# --- models ---


async def create(world: World, call: Call) -> Any:
    document = await call.document()
    name, version = document.get("name"), document.get("version")
    if not isinstance(name, str) or not NAME.fullmatch(name):
        raise Refused(400, f"name: expected letters, digits, dashes and underscores, got {str(name)[:60]!r}")
    _check_version(version)
    key = "".join(secrets.choice(ALPHABET) for _ in range(10))
    now_s = world.now_s()
    model = {
        "identifier": key, "modelId": key, "name": name, "description": "", "tags": [], "author": "emulated",
        "createdByEmail": "", "createdAt": instant(now_s), "permalink": f"{key}-emulated-{name}", "image": "",
        "isRecommended": False, "isCommercial": False, "visibility": {"scope": "ALL"},
    }  # fmt: skip
    world.store.put(KIND, key, model)
    world.store.put(VERSION, f"{key}/{version}", _fresh(key, str(version), now_s))
    return shown(world, model)


async def list_models(world: World, call: Call) -> Any:
    models = [shown(world, model) for model in world.store.all(KIND)]
    query = call.query
    for argument, key in (("modelId", "modelId"), ("author", "author"), ("createdByEmail", "createdByEmail")):
        if argument in query:
            models = [model for model in models if model[key] == query[argument]]
    for argument in ("name", "description"):
        if argument in query:
            models = [model for model in models if query[argument].lower() in model[argument].lower()]
    for argument in ("isActive", "isRecommended"):
        if argument in query:
            models = [model for model in models if str(model[argument]).lower() == query[argument].lower()]
    return page(sort(models, query, "name"), query)


async def show(world: World, call: Call) -> Any:
    return shown(world, found_model(world, call))


async def update(world: World, call: Call) -> Any:
    model = found_model(world, call)
    document = await call.document()
    for key, kind in (("name", str), ("description", str), ("tags", list)):
        if document.get(key) is not None:
            if not isinstance(document[key], kind):
                raise Refused(400, f"{key}: expected {kind.__name__}, got {type(document[key]).__name__}")
            model[key] = document[key]
    world.store.put(KIND, model["identifier"], model)
    return shown(world, model)


async def delete(world: World, call: Call) -> Any:
    model = found_model(world, call)
    for version in _versions(world, model["identifier"]):
        world.store.delete(VERSION, f"{model['identifier']}/{version['version']}")
    world.store.delete(KIND, model["identifier"])
    return Response(status_code=204)


async def picture(world: World, call: Call) -> Any:
    model = found_model(world, call)
    uploaded = await one_file(call.request, MAX_PICTURE_BYTES)
    model["image"] = f"/models/{model['identifier']}/image"
    model["images"] = [
        {"url": model["image"], "caption": call.query.get("description", "")[:200], "size": len(uploaded.content)}
    ]
    world.store.put(KIND, model["identifier"], model)
    return shown(world, model)


async def related(world: World, call: Call) -> Any:
    found_model(world, call)
    return []


async def requirements(world: World, call: Call) -> Any:  # noqa: ARG001 - as every handler
    return [dict(requirement) for requirement in REQUIREMENTS]


async def tags(world: World, call: Call) -> Any:  # noqa: ARG001 - as every handler
    names = sorted({str(tag) for model in world.store.all(KIND) for tag in model["tags"]})
    return [{"identifier": name, "name": name, "dataType": "Subject", "isCategorical": False} for name in names]


async def tagged(world: World, call: Call) -> Any:
    asked = call.parameters["tags"].split(",")
    every = await tags(world, call)
    models = [shown(world, model) for model in world.store.all(KIND) if set(map(str, model["tags"])) & set(asked)]
    return {"tags": [tag for tag in every if tag["identifier"] in asked], "models": models}


async def engines_sum(world: World, call: Call) -> Any:  # noqa: ARG001 - as every handler
    versions = [version for version in world.store.all(VERSION) if version["status"] == "active"]
    total = sum(int(version["processing"].get("minimumParallelCapacity", 0)) for version in versions)
    return {"minimumProcessingEnginesSum": total}


async def engines(world: World, call: Call) -> Any:  # noqa: ARG001 - as every handler
    return [
        {
            "identifier": version["model"], "version": version["version"],
            "ready": max(1, int(version["processing"].get("minimumParallelCapacity", 0))),
        }
        for version in world.store.all(VERSION)
        if version["status"] == "active"
    ]  # fmt: skip


def shown(world: World, model: Document) -> Document:
    versions = _versions(world, model["identifier"])
    active = [version["version"] for version in versions if version["status"] == "active"]
    return model | {
        "versions": [version["version"] for version in versions],
        "latestVersion": versions[-1]["version"] if versions else "",
        "latestActiveVersion": active[-1] if active else "",
        "isActive": bool(active),
        "isAvailable": bool(active),
    }


def found_model(world: World, call: Call) -> Document:
    model = world.store.get(KIND, call.parameters["model"])
    if model is None:
        raise Refused(404, f"The model {call.parameters['model'][:60]} does not exist")
    return model


def page(found: Sequence[Document], query: Mapping[str, str]) -> list[Document]:
    number, size = _count(query, "page", 1), _count(query, "per-page", MAX_PAGE)
    return list(found[(number - 1) * size : number * size])


def sort(found: list[Document], query: Mapping[str, str], default: str) -> list[Document]:
    key = query.get("sort-by", default)
    falling = query.get("direction", "asc").lower() == "desc"
    return sorted(found, key=lambda document: str(document.get(key, "")), reverse=falling)


def _count(query: Mapping[str, str], name: str, default: int) -> int:
    text = query.get(name, str(default))
    if not text.isascii() or not text.isdigit() or not 1 <= len(text) <= 6 or int(text) < 1:
        raise Refused(400, f"{name}: expected a number from 1, got {text[:20]!r}")
    return int(text)


# --- versions ---


async def create_version(world: World, call: Call) -> Any:
    model = found_model(world, call)
    document = await call.document()
    version = document.get("version")
    _check_version(version)
    key = f"{model['identifier']}/{version}"
    if world.store.get(VERSION, key) is not None:
        raise Refused(400, f"The version {version} of the model {model['identifier']} already exists")
    fresh = _fresh(model["identifier"], str(version), world.now_s())
    if isinstance(document.get("longDescription"), str):
        fresh["longDescription"] = document["longDescription"]
    world.store.put(VERSION, key, fresh)
    return shown_version(world, fresh)


async def list_versions(world: World, call: Call) -> Any:
    model = found_model(world, call)
    return page([shown_version(world, version) for version in _versions(world, model["identifier"])], call.query)


async def show_version(world: World, call: Call) -> Any:
    return shown_version(world, found(world, call))


async def update_version(world: World, call: Call) -> Any:
    """Overwrites what is named."""
    version = found(world, call)
    document = await call.document()
    for key, value in document.items():
        if key in SHAPES:
            if value is not None and not isinstance(value, SHAPES[key]):
                raise Refused(400, f"{key}: expected {SHAPES[key].__name__}, got {type(value).__name__}")
            version[key] = WRITABLE[key] if value is None else value
    _check(version)
    status = document.get("status")
    if status is not None:
        if status not in ("active", "inactive"):
            raise Refused(400, f"status: expected active or inactive, got {str(status)[:40]!r}")
        if status == "active":
            _check_ready(version)
        version["status"] = status
    save(world, version)
    return shown_version(world, version)


async def update_processing(world: World, call: Call) -> Any:
    version = found(world, call)
    version["processing"] = version["processing"] | await call.document()
    _check(version)
    save(world, version)
    return shown_version(world, version)


async def put_sample(world: World, call: Call) -> Any:
    version = found(world, call)
    key = "sampleInput" if call.request.url.path.endswith("sample-input") else "sampleOutput"
    version[key] = await call.document()
    save(world, version)
    return version[key]


async def get_sample(world: World, call: Call) -> Any:
    version = found(world, call)
    key = "sampleInput" if call.request.url.path.endswith("sample-input") else "sampleOutput"
    if key not in version:
        raise Refused(404, f"The version {version['version']} has no {key}")
    return version[key]


def found(world: World, call: Call) -> Document:
    found_model(world, call)
    model, version = call.parameters["model"], call.parameters["version"]
    document = world.store.get(VERSION, f"{model}/{version}")
    if document is None:
        raise Refused(404, f"The version {version[:40]} of the model {model[:40]} does not exist")
    return document


def save(world: World, version: Document) -> None:
    version["updatedAt"] = instant(world.now_s())
    world.store.put(VERSION, f"{version['model']}/{version['version']}", version)


def shown_version(world: World, version: Document) -> Document:
    image = shown_image(world, version)
    document = {key: version[key] for key in (*WRITABLE, "version", "status", "createdAt", "updatedAt")}
    document |= {
        "modelId": version["model"],
        "isActive": version["status"] == "active",
        "isAvailable": version["status"] == "active",
        "containerImage": image,
        "loadStatus": version["load"],
        "runStatus": version["run"],
    }
    return document


def _versions(world: World, model: str) -> list[Document]:
    versions = [version for version in world.store.all(VERSION) if version["model"] == model]
    return sorted(versions, key=lambda version: [int(part) for part in version["version"].split(".")])


def _fresh(model: str, version: str, now_s: float) -> Document:
    return {
        "model": model, "version": version, "status": "partial", "createdAt": instant(now_s),
        "updatedAt": instant(now_s), "image": None, "load": None, "run": None, **WRITABLE,
    }  # fmt: skip


def _check_version(version: Any) -> None:
    if not isinstance(version, str) or not SEMANTIC.fullmatch(version):
        raise Refused(400, f"version: expected three numbers such as 1.0.0, got {str(version)[:40]!r}")


def _check(version: Document) -> None:
    for key in ("inputs", "outputs"):
        for item in version[key]:
            name = item.get("name") if isinstance(item, dict) else None
            if not isinstance(name, str) or not name or "/" in name or name in (".", ".."):
                raise Refused(400, f"{key}: expected objects with a file's name, got {str(item)[:80]!r}")
            size = item.get("maximumSize", 0)
            if isinstance(size, bool) or not isinstance(size, int) or size < 0:
                raise Refused(400, f"{key}: maximumSize: expected a number of bytes, got {str(size)[:40]!r}")
    numbers = [requirement["requirementId"] for requirement in REQUIREMENTS]
    if version["requirement"].get("requirementId") not in numbers:
        raise Refused(400, f"requirementId: expected one of {sorted(numbers)}")
    for key in ("status", "run"):
        limit_ms = version["timeout"].get(key, 60000)
        if isinstance(limit_ms, bool) or not isinstance(limit_ms, int) or not 0 < limit_ms <= 86_400_000:
            raise Refused(400, f"timeout.{key}: expected milliseconds, got {str(limit_ms)[:40]!r}")
    least = version["processing"].get("minimumParallelCapacity", 0)
    most = version["processing"].get("maximumParallelCapacity", least)
    if not all(isinstance(count, int) and 0 <= count <= MAX_ENGINES for count in (least, most)) or least > most:
        raise Refused(400, "processing: expected minimumParallelCapacity up to maximumParallelCapacity")


def _check_ready(version: Document) -> None:
    if (version["load"] or {}).get("percentage") != 100:
        raise Refused(400, "The version cannot be activated: its load test has not passed")
    if is_arm(version):
        return
    if ((version["run"] or {}).get("result") or {}).get("status") != "SUCCESSFUL":
        raise Refused(400, "The version cannot be activated: its run test has not passed")


def is_arm(version: Document) -> bool:
    """Such are not tried: the platform's own machines are of another kind."""
    return bool(version["requirement"].get("requirementId") == ARM)


# --- the container image ---


async def link_or_upload(world: World, call: Call) -> Any:
    version = found(world, call)
    if call.request.headers.get("content-type", "").partition(";")[0].strip().lower() in ("", "application/json"):
        _link(world, version, await call.document(), call.failure)
    else:
        await _upload(world, version, call)
    return shown_image(world, found(world, call))


async def show_image(world: World, call: Call) -> Any:
    version = found(world, call)
    image = shown_image(world, version)
    if image is None:
        raise Refused(404, f"The version {version['version']} has no container image yet")
    return image


def _link(world: World, version: Document, document: Mapping[str, Any], failure: str | None) -> None:
    registry = document.get("registry")
    url = registry.get("url") if isinstance(registry, dict) else None
    if not isinstance(registry, dict) or not isinstance(url, str) or not url.strip():
        raise Refused(400, "registry.url: expected the image's address, such as registry.example.com/team/name:1.0.0")
    for key in ("username", "password"):
        if not isinstance(registry.get(key, ""), str):
            raise Refused(400, f"registry.{key}: expected a text")
    host, namespace, name = _parts(url.strip())
    # The registry's password is used once, here, and kept nowhere.
    _begin(
        world, version, failure,
        {"registryHost": host, "repositoryNamespace": namespace, "imagePrefix": f"{host}/{namespace}".rstrip("/"),
         "repositoryName": name, "containerImageSize": 0},
    )  # fmt: skip


async def _upload(world: World, version: Document, call: Call) -> None:
    expected = int(call.request.headers.get("content-length", "0") or 0)
    if expected > MAX_TAR_BYTES:
        raise TooMuch(f"the TAR is too large: expected at most {MAX_TAR_BYTES} bytes, got {expected}")
    key = f"{version['model']}/{version['version']}"
    digest, size, head = hashlib.sha256(), 0, b""
    world.uploads[key] = (0, expected)
    try:
        async for piece in pieces(call.request, raw_types=TAR_TYPES):
            size += len(piece)
            if size > MAX_TAR_BYTES:
                raise TooMuch(f"the TAR is too large: expected at most {MAX_TAR_BYTES} bytes")
            digest.update(piece)
            if len(head) < TAR_BLOCK:
                head = (head + piece)[:TAR_BLOCK]
            world.uploads[key] = (size, expected)
    finally:
        world.uploads.pop(key, None)
    if head[TAR_MAGIC] != b"ustar":
        raise Refused(400, "expected a TAR of an image, as `docker save` writes it", f"it begins with {head[:16]!r}")
    _begin(world, version, call.failure, {"containerImageSize": size, "digest": f"sha256:{digest.hexdigest()}"})


def _begin(world: World, version: Document, failure: str | None, about: Document) -> None:
    version |= {"image": {"since_s": world.now_s(), "failure": failure, **about}, "load": None, "run": None}
    if version["status"] != "partial":
        version["status"] = "inactive"
    save(world, version)


def shown_image(world: World, version: Document) -> Document | None:
    key = f"{version['model']}/{version['version']}"
    if key in world.uploads:
        received, expected = world.uploads[key]
        percentage = min(99, received * 100 // expected) if expected else 0
        return _image("Uploading container image", percentage, None, received)
    kept = version["image"]
    if kept is None:
        return None
    elapsed = world.elapsed(kept["since_s"])
    percentage = 100 if elapsed >= 1 else max(0, int(elapsed * 100))
    if kept["failure"] and percentage >= 50:
        image = _image("Uploading container image", 50, version["load"], kept["containerImageSize"])
        return image | {"uploadStatus": f"FAILED: {kept['failure']}", "technicalInformation": kept["failure"]}
    status = "Uploading container image" if percentage < 100 else f"Loading model '{version['model']}'"
    if version["load"] is not None:
        status = "Checking status endpoint"
    image = _image(status, percentage, version["load"], kept["containerImageSize"])
    registry = ("registryHost", "repositoryNamespace", "imagePrefix", "repositoryName")
    return image | {name: kept[name] for name in registry if name in kept}


def _image(status: str, percentage: int, load: Document | None, size: int) -> Document:
    """percentage: the name that the vendor's own client reads, for what the page calls uploadPercentage."""
    load = load or {"step": 0, "stepName": "Waiting", "percentage": 0}
    return {
        "uploadStatus": status, "loadStatus": f"{load['step']}: {load['stepName']} ({load['percentage']}%)",
        "uploadPercentage": percentage, "loadPercentage": load["percentage"], "percentage": percentage,
        "containerImageSize": size,
    }  # fmt: skip


def _parts(url: str) -> tuple[str, str, str]:
    """Registry, namespace, and name with its tag; of a pull reference, or of a URL of the registry's manifests."""
    host = "docker.io"
    text = url
    if "://" in url:
        rest = url.partition("://")[2]
        host, _, text = rest.partition("/")
        text = text.removeprefix("v2/").replace("/manifests/", ":")
    else:
        first, slash, behind = url.partition("/")
        if slash and ("." in first or ":" in first or first == "localhost"):
            host, text = first, behind
    namespace, _, name = text.rpartition("/")
    if not name or not re.fullmatch(r"[A-Za-z0-9._/@:-]+", text) or not re.fullmatch(r"[A-Za-z0-9.:-]+", host):
        raise Refused(400, f"registry.url: expected the image's address, got {url[:100]!r}")
    return host, namespace, name


MODEL, ONE = "/models/{model}", "/models/{model}/versions/{version}"
TABLE: Sequence[tuple[str, str, Handler]] = (
    ("GET", "/models", list_models),
    ("POST", "/models", create),
    ("GET", "/models/requirements/account", requirements),
    ("GET", "/models/processing-engines", engines_sum),
    ("GET", "/resources/processing/engines", engines),
    ("GET", "/models/tags", tags),
    ("GET", "/models/tags/{tags}", tagged),
    ("GET", MODEL, show),
    ("PATCH", MODEL, update),
    ("DELETE", MODEL, delete),
    ("POST", f"{MODEL}/image", picture),
    ("GET", f"{MODEL}/related-models", related),
    ("GET", f"{MODEL}/versions", list_versions),
    ("POST", f"{MODEL}/versions", create_version),
    ("GET", ONE, show_version),
    ("PATCH", ONE, update_version),
    ("PATCH", f"{ONE}/processing", update_processing),
    ("GET", f"{ONE}/sample-input", get_sample),
    ("PUT", f"{ONE}/sample-input", put_sample),
    ("GET", f"{ONE}/sample-output", get_sample),
    ("PUT", f"{ONE}/sample-output", put_sample),
    ("GET", f"{ONE}/container-image", show_image),
    ("POST", f"{ONE}/container-image", link_or_upload),
)
