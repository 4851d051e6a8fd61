"""Tokens: given for a password, good for a day, and for one project."""

from __future__ import annotations

import secrets
import uuid
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

from servekit.emulate.modelarts import verify
from servekit.emulate.modelarts.calls import Call, Created, Handler, World
from servekit.emulate.modelarts.errors import PlatformError

VALID_S = 24 * 3600
# The cloud's own form of a time.
FORM = "%Y-%m-%dT%H:%M:%S.%fZ"


def token(world: World, call: Call) -> Any:
    """The user's name is the access key, the password is the secret key: there is one user."""
    auth = _object(call.document, "auth")
    identity = _object(auth, "identity")
    methods = identity.get("methods")
    if methods != ["password"]:
        raise PlatformError(400, "IAM.0011", f'methods: expected ["password"], got {str(methods)[:60]}')
    user = _object(_object(identity, "password"), "user")
    name, password = user.get("name"), user.get("password")
    if not isinstance(name, str) or not isinstance(password, str) or not isinstance(user.get("domain"), dict):
        raise PlatformError(400, "IAM.0011", "user: expected name, password and domain.name")
    if not (verify.same(name, world.access_key) & verify.same(password, world.secret_key)):
        raise PlatformError(401, "IAM.0101", "The username or password is wrong.")
    project = auth.get("scope", {}).get("project", {}) if isinstance(auth.get("scope"), dict) else {}
    if not isinstance(project, dict):
        raise PlatformError(400, "IAM.0011", "scope.project: expected an object with a name or an id")
    given = secrets.token_urlsafe(64)
    now_s = world.now_s()
    project_id, project_name = str(project.get("id", ""))[:64], str(project.get("name", ""))[:64]
    world.store.put(
        "token", verify.fingerprint(given),
        {"expires_s": now_s + VALID_S, "project_id": project_id, "project_name": project_name or project_id},
    )  # fmt: skip
    document = {
        "token": {
            "expires_at": datetime.fromtimestamp(now_s + VALID_S, UTC).strftime(FORM),
            "issued_at": datetime.fromtimestamp(now_s, UTC).strftime(FORM),
            "methods": ["password"],
            "user": {"id": uuid.uuid5(uuid.NAMESPACE_OID, name).hex, "name": name, "domain": user["domain"]},
            "project": {"id": project_id or project_of(project_name), "name": project_name},
            "roles": [],
            "catalog": [],
        }
    }
    return Created(document, 201, {"X-Subject-Token": given})


def _object(document: Mapping[str, Any], name: str) -> Mapping[str, Any]:
    value = document.get(name)
    if not isinstance(value, dict):
        raise PlatformError(400, "IAM.0011", f"{name}: expected an object, got {type(value).__name__}")
    return value


def projects(world: World, call: Call) -> Any:  # noqa: ARG001 - as every handler
    """Every name is a project's."""
    name = call.query.get("name", "")[:64] or "cn-north-4"
    return {"projects": [{"id": project_of(name), "name": name, "enabled": True}], "links": {}}


def project_of(name: str) -> str:
    return uuid.uuid5(uuid.NAMESPACE_DNS, name).hex


OPEN: Sequence[tuple[str, str, Handler]] = (("POST", "/v3/auth/tokens", token),)
TABLE: Sequence[tuple[str, str, Handler]] = (("GET", "/v3/projects", projects),)
