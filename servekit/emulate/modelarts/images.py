"""Image management: what is registered, listed, shown and deleted."""

from __future__ import annotations

import re
import uuid
from collections.abc import Mapping, Sequence
from typing import Any

from servekit.emulate.modelarts import errors
from servekit.emulate.modelarts.calls import Call, Handler, World
from servekit.emulate.modelarts.errors import PlatformError
from servekit.emulate.store import Document

KIND = "image"
GROUP = "image-group"
MIN_PATH_CHARS, MAX_PATH_CHARS = 16, 2048
MAX_DESCRIPTION_CHARS = 512
MAX_README_CHARS = 3000
MAX_GROUP_README_CHARS = 30_000
MAX_TAGS = 20
MAX_TAG_KEY_CHARS, MAX_TAG_VALUE_CHARS = 128, 255
# registry[:port]/namespace/name:tag
SWR_PATH = re.compile(
    r"[A-Za-z0-9][A-Za-z0-9.-]*(?::[0-9]{1,5})?"
    r"/(?P<namespace>[a-z0-9](?:[a-z0-9._-]{0,62}[a-z0-9])?)"
    r"/(?P<name>[a-z0-9](?:[a-z0-9._-]*[a-z0-9])?)"
    r":(?P<tag>[A-Za-z0-9_][A-Za-z0-9_.-]{0,127})"
)
WORKSPACE = re.compile("0|[0-9a-z]{32}")
CHOICES: Mapping[str, Sequence[str]] = {
    "arch": ("X86_64", "AARCH64"),
    "origin": ("CUSTOMIZE", "IMAGE_SAVE"),
    "service_type": ("COMMON", "INFERENCE", "TRAIN", "DEV", "UNKNOWN"),
    "visibility": ("PRIVATE", "PUBLIC"),
    "flavor_type": ("ASCEND_SNT9", "ASCEND_SNT9B", "ASCEND_SNT3"),
}
LISTS: Mapping[str, Sequence[str]] = {"resource_category": ("CPU", "GPU", "ASCEND"), "services": ("NOTEBOOK", "SSH")}
DEFAULTS: Mapping[str, Any] = {
    "arch": "X86_64", "description": "", "origin": "CUSTOMIZE", "resource_category": ["CPU", "GPU"],
    "service_type": "UNKNOWN", "services": ["NOTEBOOK", "SSH"], "visibility": "PRIVATE", "workspace_id": "0",
}  # fmt: skip
# Named in KB by the vendor's page, whose example shows this.
SIZE = 3376133259
SORTABLE = ("create_at", "update_at", "name", "size", "status", "tag", "namespace", "arch")
LIMIT = 200
BUILT_IN: Sequence[Mapping[str, Any]] = tuple(
    {
        "arch": "x86_64", "create_at": 1638841805439 + number, "description": description, "dev_services": services,
        "id": str(uuid.uuid5(uuid.NAMESPACE_URL, name)), "name": name, "resource_categories": categories,
        "service_type": service_type, "status": "ACTIVE", "swr_path": f"swr.emulated.local/atelier/{name}:{tag}",
        "tag": tag, "type": "BUILD_IN", "update_at": 1638841805439 + number, "workspace_id": "0",
        "show_name": name, "show_tag": tag,
    }
    for number, (name, tag, description, service_type, services, categories) in enumerate(
        [
            ("pytorch1.8-cuda10.2-cudnn7-ubuntu18.04", "1.8.0", "PyTorch with CUDA", "COMMON", ["NOTEBOOK", "SSH"],
             ["GPU", "CPU"]),
            ("mindspore1.7.0-cuda10.1-py3.7-ubuntu18.04", "1.7.0", "MindSpore with CUDA", "TRAIN", ["NOTEBOOK", "SSH"],
             ["GPU", "CPU"]),
            # A service that the list of values on the vendor's page does not have.
            ("modelbox1.3.0-libtorch1.9.1-cuda10.2", "1.3.0", "ModelBox, by SSH alone", "DEV", ["AI_FLOW", "SSH"],
             ["GPU"]),
        ]
    )
)  # fmt: skip


# --- routes ---


def register(world: World, call: Call) -> Any:
    asked = _checked(call.document)
    # Nothing but the path makes an image another one.
    if any(image["swr_path"] == asked["swr_path"] for image in _own(world, call.project)):
        text = f"The image {asked['name']} has a tag {asked['tag']} already."
        raise PlatformError(400, errors.SAME_TAG, text)
    made_ms = world.now_ms()
    kept: Document = {
        "project": call.project, "failure": call.failure, "made_ms": made_ms, "updated_ms": made_ms, **asked,
        "id": str(uuid.uuid4()),
    }  # fmt: skip
    world.store.put(KIND, kept["id"], kept)
    _touch_group(world, call.project, asked)
    return shown(world, kept)


def show(world: World, call: Call) -> Any:
    return _found(world, call, "id")


def delete(world: World, call: Call) -> Any:
    """With or without the content in SWR, asked for by a query argument or in the body: both are documented."""
    if any(call.parameters["id"] == image["id"] for image in BUILT_IN):
        raise PlatformError(403, errors.NOT_PERMITTED, "modelarts:image:delete is not allowed for a built-in image.")
    force = call.query.get("force", "false")
    if force not in ("true", "false"):
        raise wrong("force")
    if not isinstance(call.document.get("is_force", False), bool):
        raise PlatformError(400, errors.TYPE, "is_force: the type should be boolean")
    found = _found(world, call, "id")
    world.store.delete(KIND, found["id"])
    if not any(
        (image["namespace"], image["name"]) == (found["namespace"], found["name"])
        for image in _own(world, call.project)
    ):
        world.store.delete(GROUP, _group_key(call.project, found["namespace"], found["name"]))
    return found | {"status": "DELETED", "update_at": world.now_ms()}


def sync(world: World, call: Call) -> Any:
    found = _found(world, call, "image_id")
    kept = world.store.get(KIND, found["id"])
    if kept is None:
        return found
    world.store.put(KIND, found["id"], kept | {"updated_ms": world.now_ms()})
    return _found(world, call, "image_id")


def list_images(world: World, call: Call) -> Any:
    query = call.query
    kind = _choice(query, "type", ("BUILD_IN", "DEDICATED"), "BUILD_IN")
    images = list(BUILT_IN) if kind == "BUILD_IN" else [shown(world, kept) for kept in _own(world, call.project)]
    workspace = _workspace(query)
    fuzzy = _flag(query, "name_fuzzy_match", default=True)
    service_type = _choice(query, "service_type", CHOICES["service_type"], "")
    images = [
        image
        for image in images
        if image["workspace_id"] == workspace
        and _matches(image.get("name", ""), query.get("name"), fuzzy=fuzzy)
        and query.get("namespace") in (None, image.get("namespace", ""))
        and service_type in ("", image["service_type"])
        and query.get("show_name") in (None, image.get("show_name"))
        and query.get("show_tag") in (None, image.get("show_tag"))
    ]
    return _page(_sorted(images, query), query)


def list_groups(world: World, call: Call) -> Any:
    query = call.query
    kind = _choice(query, "type", ("BUILD_IN", "DEDICATED"), "")
    workspace = _workspace(query)
    fuzzy = _flag(query, "name_fuzzy_match", default=True)
    kept = {} if kind == "BUILD_IN" else {group["id"]: group for group in world.store.all(GROUP)
                                          if group["project"] == call.project}  # fmt: skip
    own = [shown(world, image) for image in _own(world, call.project)]
    groups = []
    for group in kept.values():
        images = [
            image
            for image in own
            if (image["namespace"], image["name"], image["workspace_id"])
            == (group["namespace"], group["name"], workspace)
        ]
        if images and _matches(group["name"], query.get("name"), fuzzy=fuzzy) and query.get("namespace") in (
            None, group["namespace"],
        ):  # fmt: skip
            groups.append(
                {
                    "id": group["id"], "name": group["name"], "namespace": group["namespace"],
                    "version_count": len(images), "description": images[-1]["description"],
                    "read_me": group["read_me"], "create_at": images[0]["create_at"],
                    "update_at": max(image["update_at"] for image in images),
                }
            )  # fmt: skip
    return _page(groups, query) | {"is_swr_enterprise": False}


def update_group(world: World, call: Call) -> Any:
    group = _group(world, call)
    changed: Document = {}
    if "read_me" in call.document:
        changed["read_me"] = _text(call.document, "read_me", MAX_GROUP_README_CHARS)
    if "tags" in call.document:
        changed["tags"] = _group_tags(call.document["tags"])
    world.store.put(GROUP, _group_key(call.project, group["namespace"], group["name"]), group | changed)
    return {}


def delete_group(world: World, call: Call) -> Any:
    group = _group(world, call)
    for kept in _own(world, call.project):
        image = shown(world, kept)
        if (image["namespace"], image["name"]) == (group["namespace"], group["name"]):
            world.store.delete(KIND, image["id"])
    world.store.delete(GROUP, _group_key(call.project, group["namespace"], group["name"]))
    return {}


TABLE: Sequence[tuple[str, str, Handler]] = (
    ("POST", "/v1/{project_id}/images", register),
    ("GET", "/v1/{project_id}/images", list_images),
    ("GET", "/v1/{project_id}/images/group", list_groups),
    ("PUT", "/v1/{project_id}/images/group/{id}", update_group),
    ("DELETE", "/v1/{project_id}/images/group/{id}", delete_group),
    ("GET", "/v1/{project_id}/images/{id}", show),
    ("DELETE", "/v1/{project_id}/images/{id}", delete),
    ("POST", "/v1/{project_id}/images/{image_id}/sync", sync),
)


# --- an image, as it is kept and as it is shown ---


def shown(world: World, kept: Document) -> Document:
    """With the names that the answer has for what was asked, and the state that it has by now."""
    elapsed = world.elapsed(kept["made_ms"])
    if elapsed < 1:
        status = "INIT" if elapsed < 0.5 else "CREATING"
    else:
        status = "CREATE_FAILED" if kept["failure"] else "ACTIVE"
    ended_ms = kept["made_ms"] + int(world.advance_s * 1000) if elapsed >= 1 else kept["made_ms"]
    image = {
        "arch": kept["arch"].lower(), "create_at": kept["made_ms"], "description": kept["description"],
        "dev_services": kept["services"], "id": kept["id"], "name": kept["name"], "namespace": kept["namespace"],
        "origin": kept["origin"], "resource_categories": kept["resource_category"],
        "service_type": kept["service_type"], "status": status, "swr_path": kept["swr_path"], "tag": kept["tag"],
        "type": "DEDICATED", "update_at": max(ended_ms, kept["updated_ms"]), "visibility": kept["visibility"],
        "workspace_id": kept["workspace_id"],
    }  # fmt: skip
    if status == "ACTIVE":
        image["size"] = SIZE
    if status == "CREATE_FAILED":
        image["status_message"] = kept["failure"]
    for name in ("flavor_type", "swr_instance_id"):
        if kept.get(name):
            image[name] = kept[name]
    return image


def _own(world: World, project: str) -> list[Document]:
    return [kept for kept in world.store.all(KIND) if kept["project"] == project]


def _found(world: World, call: Call, parameter: str) -> Document:
    key = call.parameters[parameter]
    for image in BUILT_IN:
        if image["id"] == key:
            return dict(image)
    kept = world.store.get(KIND, key)
    # Another project's public image can be read, and nothing else.
    readable = kept is not None and (
        kept["project"] == call.project or (call.request.method == "GET" and kept["visibility"] == "PUBLIC")
    )
    if kept is None or not readable:
        raise PlatformError(404, errors.IMAGE_MISSING, f"There is no image {key}.")
    return shown(world, kept)


# --- groups: all tags of one name ---


def _group_key(project: str, namespace: str, name: str) -> str:
    return f"{project}/{namespace}/{name}"


def _touch_group(world: World, project: str, asked: Mapping[str, Any]) -> None:
    namespace, name = asked["namespace"], asked["name"]
    key = _group_key(project, namespace, name)
    group = world.store.get(GROUP, key) or {
        "project": project, "namespace": namespace, "name": name, "id": str(uuid.uuid4()), "read_me": "", "tags": [],
    }  # fmt: skip
    world.store.put(GROUP, key, group | ({"read_me": asked["read_me"]} if asked.get("read_me") else {}))


def _group(world: World, call: Call) -> Document:
    for group in world.store.all(GROUP):
        if group["project"] == call.project and group["id"] == call.parameters["id"]:
            return group
    raise PlatformError(404, errors.IMAGE_MISSING, f"There is no image group {call.parameters['id']}.")


def _group_tags(value: Any) -> list[dict[str, str]]:
    if not isinstance(value, list) or len(value) > MAX_TAGS:
        raise wrong("tags")
    for tag in value:
        if not isinstance(tag, dict) or not all(isinstance(tag.get(key, ""), str) for key in ("key", "value")):
            raise wrong("tags")
        if len(tag.get("key", "")) > MAX_TAG_KEY_CHARS or len(tag.get("value", "")) > MAX_TAG_VALUE_CHARS:
            raise wrong("tags")
    return value


# --- what is asked ---


def _checked(document: Mapping[str, Any]) -> Document:
    """With the defaults filled in. Raises PlatformError."""
    asked: Document = {**DEFAULTS, **{key: value for key, value in document.items() if value is not None}}
    if not asked.get("swr_path"):
        raise PlatformError(400, errors.MISSING, "swr_path: is required")
    for name, values in CHOICES.items():
        if name in asked and _typed(asked, name, str, "string") not in values:
            raise wrong(name)
    for name, values in LISTS.items():
        chosen = _typed(asked, name, list, "array")
        if not all(isinstance(value, str) and value in values for value in chosen):
            raise wrong(name)
    path = _text(asked, "swr_path", MAX_PATH_CHARS)
    parts = SWR_PATH.fullmatch(path)
    if len(path) < MIN_PATH_CHARS or parts is None:
        raise wrong("swr_path")
    _text(asked, "description", MAX_DESCRIPTION_CHARS)
    for name in ("read_me", "swr_instance_id"):
        if name in asked:
            _text(asked, name, MAX_README_CHARS)
    if "tags" in asked and (
        len(_typed(asked, "tags", list, "array")) > MAX_TAGS or not all(isinstance(tag, str) for tag in asked["tags"])
    ):
        raise wrong("tags")
    if not WORKSPACE.fullmatch(_typed(asked, "workspace_id", str, "string")):
        raise PlatformError(400, errors.WORKSPACE_MISSING, "There is no such workspace.")
    known = {*DEFAULTS, "swr_path", "flavor_type", "tags", "swr_instance_id", "read_me"}
    return {key: value for key, value in asked.items() if key in known} | {
        key: parts[key] for key in ("namespace", "name", "tag")
    }


def wrong(name: str) -> PlatformError:
    return PlatformError(400, errors.VALUE, f"{name}: the value is not one that is taken")


def _typed(asked: Mapping[str, Any], name: str, kind: type, word: str) -> Any:
    if not isinstance(asked[name], kind):
        raise PlatformError(400, errors.TYPE, f"{name}: the type should be {word}")
    return asked[name]


def _text(asked: Mapping[str, Any], name: str, most: int) -> str:
    text: str = _typed(asked, name, str, "string")
    if len(text) > most:
        raise wrong(name)
    return text


# --- what is listed ---


def _matches(name: str, asked: str | None, *, fuzzy: bool) -> bool:
    if asked is None:
        return True
    return asked in name if fuzzy else asked == name


def _workspace(query: Mapping[str, str]) -> str:
    workspace = query.get("workspace_id", "0")
    if not WORKSPACE.fullmatch(workspace):
        raise PlatformError(400, errors.WORKSPACE_MISSING, "There is no such workspace.")
    return workspace


def _choice(query: Mapping[str, str], name: str, values: Sequence[str], default: str) -> str:
    value = query.get(name, default)
    if value not in (*values, default):
        raise wrong(name)
    return value


def _flag(query: Mapping[str, str], name: str, *, default: bool) -> bool:
    value = _choice(query, name, ("true", "false"), "true" if default else "false")
    return value == "true"


def count(query: Mapping[str, str], name: str, default: int, least: int) -> int:
    text = query.get(name, str(default))
    # So that no arithmetic on it grows beyond reason.
    if not text.isascii() or not text.isdigit() or len(text) > 9 or int(text) < least:
        raise wrong(name)
    return int(text)


def _sorted(images: list[Any], query: Mapping[str, str]) -> list[Any]:
    falling = _choice(query, "sort_dir", ("ASC", "DESC"), "DESC") == "DESC"
    keys = query.get("sort_key", "create_at").split(",")
    for key in keys:
        if key not in SORTABLE:
            raise PlatformError(400, errors.SORTING, f"Images cannot be sorted by {key[:40]}.")
    return sorted(images, key=lambda image: [(key in image, image.get(key, 0)) for key in keys], reverse=falling)


def _page(found: Sequence[Any], query: Mapping[str, str]) -> Document:
    limit, offset = count(query, "limit", LIMIT, 1), count(query, "offset", 0, 0)
    data = list(found[offset : offset + limit])
    return {
        "current": offset // limit + 1, "data": data, "pages": -(-len(found) // limit), "size": len(data),
        "total": len(found),
    }  # fmt: skip
