"""As much of the registry's API as comes before a push: its login, and its organizations."""

from __future__ import annotations

import base64
import re
import secrets
from collections.abc import Sequence
from typing import Any

from servekit.emulate.modelarts.calls import Call, Created, Handler, World
from servekit.emulate.modelarts.errors import PlatformError

KIND = "namespace"
# Of the registry's form; the statuses are documented, the numbers are not.
INVALID, CONFLICT = "SVCSTG.SWR.4000000", "SVCSTG.SWR.4090000"
NAME = re.compile(r"[a-z](?:[a-z0-9]|[._-](?=[a-z0-9])){0,63}")
REGION = re.compile(r"[a-z]{2,3}(?:-[a-z0-9]+)+")
DEFAULT_REGION = "cn-north-4"


def secret(world: World, call: Call) -> Any:
    """A piece of docker's config.json. The password opens nothing, and is not kept."""
    region = call.query.get("projectname", DEFAULT_REGION)
    if not REGION.fullmatch(region):
        raise PlatformError(400, INVALID, "projectname: expected a region's name")
    registry = world.registry or f"swr.{region}.myhuaweicloud.com"
    login = f"{region}@{world.access_key}:{secrets.token_hex(32)}"
    return {"auths": {registry: {"auth": base64.b64encode(login.encode()).decode()}}}


def create(world: World, call: Call) -> Any:
    name = call.document.get("namespace")
    if not isinstance(name, str) or not NAME.fullmatch(name):
        raise PlatformError(400, INVALID, "namespace: expected lower-case letters, digits, and . _ - between them")
    if world.store.get(KIND, name) is not None:
        raise PlatformError(409, CONFLICT, f"There is an organization {name} already.")
    world.store.put(KIND, name, {"name": name, "creator_name": "emulated", "auth": 7})
    return Created({}, 201)


def list_namespaces(world: World, call: Call) -> Any:
    wanted = call.query.get("namespace", "")
    found = [namespace for namespace in world.store.all(KIND) if wanted in ("", namespace["name"])]
    return {"namespaces": found}


TABLE: Sequence[tuple[str, str, Handler]] = (
    ("POST", "/v2/manage/utils/secret", secret),
    ("POST", "/v2/manage/namespaces", create),
    ("GET", "/v2/manage/namespaces", list_namespaces),
)
