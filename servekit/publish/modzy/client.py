"""Modzy's API as far as a model is deployed by it: one method for each call, in the order of the vendor's page.

Sources: the page of the model deployment, and the vendor's own client, which says what the platform really takes.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from servekit.errors import ConfigError
from servekit.publish.failures import Missing, NotUnderstood
from servekit.publish.http import Answer, Said, Transport, check_installed, say_nothing
from servekit.publish.modzy import objects
from servekit.publish.modzy.credentials import Access, Registry
from servekit.publish.modzy.upload import Form, Sent, tell_nobody

# It goes into paths: ten letters and digits by the page.
IDENTIFIER = re.compile(r"[A-Za-z0-9_-]{1,64}")
PER_PAGE = 1000
MAX_LOOKED_AT = 50
# The platform may unpack an image before it answers.
UPLOAD_TIMEOUT_S = 900.0
MAX_WHOLE_BYTES = 8 * 1024 * 1024
# Around what the container may take itself.
TEST_MARGIN_S = 60.0
MAX_SAID_CHARS = 300
TAGS = re.compile(r"<[^>]{0,200}>")
HINTS = {
    400: "the platform finds something wrong with the request; see what it says",
    401: "the API key is missing, wrong or inactive: check MODZY_API_KEY",
    403: "the API key lacks the role for it: only a Data Scientist may deploy, and only its creator may change a model",
    404: "check --model-id and --version, and that --endpoint is the platform's address",
    413: "the image is too large to be sent: push it to a registry, and publish that reference",
}


@dataclass(frozen=True, slots=True)
class Client:
    transport: Transport

    # --- models ---

    def named(self, name: str) -> list[objects.Model]:
        """The models of exactly this name; the platform may find more by it."""
        query = [("name", name), ("per-page", str(PER_PAGE))]
        listed = self.transport.call("GET", "/models", query=query).json()
        if not isinstance(listed, list):
            raise NotUnderstood(f"GET /models: expected a list of models, got {type(listed).__name__}")
        found = [model for model in map(objects.model, listed) if model is not None]
        # The list may leave out the names.
        if sum(not model.name for model in found) > MAX_LOOKED_AT:
            raise NotUnderstood(
                f"GET /models: {len(found)} models have something like {name!r} in their names, and the list does not "
                "tell which",
                hint="name the model by --model-id",
            )
        whole = [model if model.name else self.model(model.identifier) for model in found]
        return [model for model in whole if model.name == name]

    def model(self, identifier: str) -> objects.Model:
        return _model(self.transport.call("GET", f"/models/{_segment(identifier)}").document())

    def create_model(self, name: str, version: str) -> objects.Model:
        """With its first version."""
        answer = self.transport.call("POST", "/models", document={"name": name, "version": version})
        return _model(answer.document())

    def change_model(self, identifier: str, document: Mapping[str, Any]) -> None:
        self._done("PATCH", f"/models/{_segment(identifier)}", document=document, repeatable=True)

    # --- versions ---

    def version(self, identifier: str, version: str) -> objects.Version | None:
        """None where there is none."""
        try:
            document = self.transport.call("GET", _path(identifier, version)).document()
        except Missing:
            return None
        return objects.version(document, version)

    def create_version(self, identifier: str, version: str) -> None:
        self._done("POST", f"/models/{_segment(identifier)}/versions", document={"version": version})

    def change_version(self, identifier: str, version: str, document: Mapping[str, Any]) -> None:
        """It overwrites: what `document` holds is then so, whole."""
        self._done("PATCH", _path(identifier, version), document=document, repeatable=True)

    def requirements(self) -> list[objects.Requirement]:
        listed = self.transport.call("GET", "/models/requirements/account").json()
        if not isinstance(listed, list):
            raise NotUnderstood(f"GET /models/requirements/account: expected a list, got {type(listed).__name__}")
        return [found for found in map(objects.requirement, listed) if found is not None]

    # --- the image ---

    def container_image(self, identifier: str, version: str) -> objects.ContainerImage:
        path = f"{_path(identifier, version)}/container-image"
        return objects.container_image(self.transport.call("GET", path).document())

    def link(self, identifier: str, version: str, url: str, registry: Registry | None) -> None:
        named: dict[str, str] = {"url": url}
        if registry is not None:
            named |= {"username": registry.username, "password": registry.password.reveal()}
        path = f"{_path(identifier, version)}/container-image"
        self._done("POST", path, document={"registry": named})

    def upload(self, identifier: str, version: str, form: Form, sent: Sent) -> None:
        """Sent once: who sees it break looks at what the platform has before it is sent again."""
        path = f"{_path(identifier, version)}/container-image"
        self._done("POST", path, body=form.chunks(sent), headers=form.headers, read_timeout_s=UPLOAD_TIMEOUT_S)

    # --- the tests ---

    def load(self, identifier: str, version: str, timeout_s: float) -> objects.Steps:
        """It ends when the container's /status has answered."""
        path = f"{_path(identifier, version)}/load-process"
        answer = self.transport.call("POST", path, read_timeout_s=timeout_s + TEST_MARGIN_S)
        return objects.steps(answer.json())

    def put_input(self, identifier: str, version: str, name: str, form: Form) -> None:
        """It takes the place of the one that is there. A small one is tried again."""
        body = b"".join(form.chunks(tell_nobody)) if form.nbytes <= MAX_WHOLE_BYTES else form.chunks(tell_nobody)
        path = f"{_path(identifier, version)}/testInput"
        query = [("name", name)]
        self._done("POST", path, query=query, body=body, headers=form.headers, repeatable=True)

    def run(self, identifier: str, version: str, timeout_s: float) -> objects.Steps:
        path = f"{_path(identifier, version)}/run-process"
        return objects.steps(self.transport.call("POST", path, read_timeout_s=timeout_s + TEST_MARGIN_S).json())

    def run_state(self, identifier: str, version: str) -> objects.Steps:
        return objects.steps(self.transport.call("GET", f"{_path(identifier, version)}/run-process").document())

    def put_sample(self, identifier: str, version: str, which: str, document: Mapping[str, Any]) -> None:
        """which: input or output."""
        self._done("PUT", f"{_path(identifier, version)}/sample-{which}", document=document)

    def _done(self, method: str, path: str, **request: Any) -> None:
        """What it answers is not needed; but a login page's is no success."""
        self.transport.call(method, path, **request).json()


@contextmanager
def connected(access: Access, tell: Callable[[str], None] = say_nothing) -> Iterator[Client]:
    """Raises ConfigError where the package that it needs is not installed."""
    check_installed("modzy")
    with Transport(access.endpoint, authorise=lambda _: access.headers(), explain=explain, tell=tell) as transport:
        yield Client(transport)


def explain(answer: Answer) -> Said:
    """{statusCode, status, error, message, technicalInformation}, all of them optional."""
    try:
        document = json.loads(answer.body)
    except (ValueError, RecursionError):
        document = None
    hint = HINTS.get(answer.status, "")
    request_id = answer.headers.get("x-request-id", "")
    if not isinstance(document, dict):
        words = " ".join(TAGS.sub(" ", answer.body[:4096].decode("utf-8", "replace")).split())
        return Said(words[:MAX_SAID_CHARS], hint=hint, request_id=request_id)
    texts = [document[key] for key in ("message", "error", "status") if isinstance(document.get(key), str)]
    code = document.get("errorCode") or document.get("code")
    return Said(
        next((text for text in texts if text.strip()), ""),
        code=str(code) if isinstance(code, (str, int)) else "",
        request_id=request_id,
        hint=hint,
        details=objects.technical_information(document),
    )


def check_identifier(text: str, where: str) -> str:
    if not IDENTIFIER.fullmatch(text):
        raise ConfigError(f"{where}: expected letters, digits, - and _, such as ed542963de, got {text[:80]!r}")
    return text


def _model(document: Mapping[str, Any]) -> objects.Model:
    found = objects.model(document)
    if found is None or not IDENTIFIER.fullmatch(found.identifier):
        raise NotUnderstood("expected a model with an identifier, got one without")
    return found


def _segment(identifier: str) -> str:
    if not IDENTIFIER.fullmatch(identifier):
        raise NotUnderstood(f"expected a model's identifier of letters, digits, - and _, got {identifier[:80]!r}")
    return identifier


def _path(identifier: str, version: str) -> str:
    return f"/models/{_segment(identifier)}/versions/{version}"


def registry_url(registry: str, repository: str, tag: str, digest: str) -> str:
    """As platforms before 1.9 want an image named: by the registry's own address of its manifest."""
    if registry in ("", "docker.io", "index.docker.io"):
        registry = "registry.hub.docker.com"
        repository = repository if "/" in repository else f"library/{repository}"
    return f"https://{registry}/v2/{repository}/manifests/{digest or tag}"
