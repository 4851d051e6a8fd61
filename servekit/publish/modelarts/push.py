"""Into SWR with the engine that has the image: SWR gives a password for a while, which nobody else gets to see."""

from __future__ import annotations

import base64
import binascii
from dataclasses import dataclass

from servekit.publish import engine
from servekit.publish.failures import NotUnderstood, PublishError, Unauthorised
from servekit.publish.modelarts.client import Caller
from servekit.publish.reference import DIGEST, Reference
from servekit.publish.report import Report
from servekit.publish.secrets import Secret

SECRET_PATH = "/v2/manage/utils/secret"  # noqa: S105 - a path
# All that SWR takes.
DOCKER_MANIFEST = "v2s2"
# The only engine that remembers what a registry has. The digest that podman and buildah know is that of the layers as
# they keep them, which a push packs.
REMEMBERS = "docker"


@dataclass(frozen=True, slots=True)
class RegistryLogin:
    user: str
    password: Secret


def registry_login(swr: Caller, registry: str, region: str) -> RegistryLogin:
    """SWR's answer is a piece of docker's config.json. Raises PublishError."""
    # Asking twice makes two passwords, and each of them ends by itself.
    answer = swr.call("POST", SECRET_PATH, query=(("projectname", region),), document={}, repeatable=True)
    auths = answer.document().get("auths")
    if not isinstance(auths, dict):
        auths = {}
    if auths and registry not in auths:
        raise Unauthorised(
            f"POST {SECRET_PATH}: the login is for {', '.join(map(str, auths))}, and the image is for {registry}",
            hint="the image's name has to begin with the registry of the region that --region names",
        )
    try:
        user, colon, password = base64.b64decode(auths[registry]["auth"], validate=True).decode().partition(":")
    except (TypeError, KeyError, ValueError, binascii.Error):
        user, colon, password = "", "", ""
    if not (user and colon and password) or not (user + password).isprintable():
        raise NotUnderstood(
            f"POST {SECRET_PATH}: expected auths with the registry's auth, user:password in base64, got none",
            status=answer.status,
        )
    return RegistryLogin(user, Secret(password))


def push(source: str, image: Reference, login: RegistryLogin, report: Report, *, by: str | None) -> str:
    """The digest. source: the image's name here. Raises NoEngine, PublishError."""
    look = f"docker manifest inspect {image}"
    with report.making("image in SWR", str(image), look=look):
        try:
            return engine.push(source, image, login.user, login.password, report, by=by, form=DOCKER_MANIFEST)
        except PublishError as error:
            if error.status in (403, 404):
                error.hint = "the organisation has to exist in SWR, and the user to be allowed to push"
            raise


def local_digest(image: Reference, by: str | None = None) -> str:
    """What this machine's docker knows of the image in its registry; "" where it knows nothing, or is not here."""
    if by not in (None, REMEMBERS):
        return ""
    found = engine.local_image(str(image), by=REMEMBERS)
    repository = f"{image.registry}/{image.repository}"
    for each in found.repo_digests if found is not None else ():
        name, _, digest = each.partition("@")
        if name == repository and DIGEST.fullmatch(digest):
            return digest
    return ""
