"""Models of ModelArts' first generation: an image with a config.json, published before a service can be made of it."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

from servekit.errors import ConfigError
from servekit.publish import polling
from servekit.publish.failures import Failed, NotUnderstood, Refused
from servekit.publish.files import text
from servekit.publish.modelarts import images
from servekit.publish.modelarts.client import ModelArts
from servekit.publish.report import Report

NAME = re.compile(r"[A-Za-z0-9_-]{1,64}")
VERSION = re.compile(r"(?:0|[1-9]\d?)\.(?:0|[1-9]\d?)\.(?:0|[1-9]\d?)")
INSTALL_TYPES = ("real-time", "batch", "edge")
MAX_DESCRIPTION_CHARS = 100
MANIFEST = "config.json"

PUBLISHED = "published"
FAILED = ("failed", "building_failed")
EVERY_S = 0.5
PERCENTAGES = {"publishing": 20, "building": 60, PUBLISHED: 100}


@dataclass(frozen=True, slots=True)
class ModelRequest:
    """config: the text of config.json. install_type: the kinds of service that it is for."""

    name: str
    version: str
    swr_path: str
    config: str = ""
    description: str = ""
    install_type: Sequence[str] = ("real-time", "batch")
    workspace_id: str = ""
    source_copy: bool = True

    def check(self) -> None:
        """Raises ConfigError that names the field."""
        images.check_path(self.swr_path)
        if not NAME.fullmatch(self.name):
            raise ConfigError(f"model_name: expected 1 to 64 letters, digits, - and _, got {self.name[:100]!r}")
        if not VERSION.fullmatch(self.version):
            raise ConfigError(
                f"model_version: expected three numbers from 0 to 99 with dots between them, got {self.version[:100]!r}"
            )
        if len(self.description) > MAX_DESCRIPTION_CHARS:
            raise ConfigError(
                f"model description: expected at most {MAX_DESCRIPTION_CHARS} characters, got {len(self.description)}"
            )
        unknown = [each for each in self.install_type if each not in INSTALL_TYPES]
        if unknown or not self.install_type:
            raise ConfigError(f"install_type: expected some of {', '.join(INSTALL_TYPES)}, got {unknown or 'none'}")
        if self.config:
            check_config(self.config)

    def document(self) -> dict[str, Any]:
        document: dict[str, Any] = {
            "model_name": self.name,
            "model_version": self.version,
            "model_type": "Image",
            "source_location": self.swr_path,
            # A copy: the model stays as it is when the tag is pushed again.
            "source_copy": "true" if self.source_copy else "false",
            "install_type": list(self.install_type),
        }
        optional = {
            "initial_config": self.config, "description": self.description, "workspace_id": self.workspace_id,
        }  # fmt: skip
        return document | {name: value for name, value in optional.items() if value}


@dataclass(frozen=True, slots=True)
class Model:
    """What comes back. raw: all of it."""

    id: str
    name: str
    version: str
    status: str
    swr_path: str
    raw: Mapping[str, Any]

    @classmethod
    def of(cls, document: Mapping[str, Any]) -> Self:
        model_id = document.get("model_id")
        if not isinstance(model_id, str) or not images.ID.fullmatch(model_id):
            raise NotUnderstood(f"expected a model with a model_id, got {list(document)}")
        values = {
            key: str(document.get(name) or "")
            for key, name in (
                ("id", "model_id"), ("name", "model_name"), ("version", "model_version"), ("status", "model_status"),
                ("swr_path", "source_location"),
            )
        }  # fmt: skip
        return cls(**values, raw=document)

    @property
    def reason(self) -> str:
        """Where the platform says why; no page lists a field for it."""
        return next(
            (
                str(self.raw[name])
                for name in ("error_msg", "failed_reason", "publish_error_msg", "model_status_message", "message")
                if self.raw.get(name)
            ),
            "",
        )


def publish(client: ModelArts, request: ModelRequest, report: Report, *, wait_s: float, look: str) -> Model:
    """The model of this name and version, made unless it is there, and published. Raises PublishError."""
    request.check()

    def find() -> Model | None:
        for document in client.models(request.name):
            found = Model.of(document)
            if (found.name, found.version) == (request.name, request.version):
                return found
        return None

    found = find()
    if found is not None:
        found = client_model(client, found.id)  # lists leave out the image
        if found.swr_path not in ("", request.swr_path):
            raise Refused(
                f"model {request.name} {request.version} is there, of another image: {found.swr_path}",
                hint="name another version by --model-version",
            )
        report.say("model", f"{request.name} {request.version} is there ({found.id}), {found.status}")
    else:
        label = f"{request.name} {request.version}"
        with report.making("model", label, look=look) as made:
            model_id = polling.once(
                lambda: client.create_model(request.document()), lambda: _id_of(find()),
                tell=lambda text: report.say("model", text),
            )  # fmt: skip
            made.name = f"{label} ({model_id})"
        report.say("model", f"{label} made: {model_id}")
        found = client_model(client, model_id)
    if wait_s <= 0:
        return found
    with report.bar("model", f"{request.name} {request.version}") as advance:
        ended = polling.until(
            lambda: client_model(client, found.id),
            lambda model: model.status.lower() in (PUBLISHED, *FAILED),
            limit_s=wait_s,
            what=f"model {request.name} {request.version}",
            resume="the same command goes on waiting",
            seen=lambda model: advance(PERCENTAGES.get(model.status.lower(), 0), model.status),
            every_s=EVERY_S,
        )
    if ended.status.lower() in FAILED:
        raise Failed(
            f"model {request.name} {request.version}: {ended.status}: {ended.reason or 'no reason given'}",
            hint="its events are on the model's page in the console; after a repair, name another --model-version",
        )
    return ended


def _id_of(found: Model | None) -> str | None:
    return None if found is None else found.id


def client_model(client: ModelArts, model_id: str) -> Model:
    return Model.of({"model_id": model_id, **client.model(model_id)})


# --- config.json ---


def check_config(config: str) -> None:
    """It is sent as text within JSON: a mistake would show in the platform's events, minutes later."""
    try:
        document = json.loads(config)
    except (ValueError, RecursionError) as error:
        raise ConfigError(f"{MANIFEST}: expected JSON, got an error: {error}") from error
    if not isinstance(document, dict):
        raise ConfigError(f"{MANIFEST}: expected a JSON object")
    for name in ("dependencies", "runtime", "swr_location"):
        if name in document:
            raise ConfigError(f"{MANIFEST}: {name}: this is for the vendor's own engines, not for images: remove it")


def config_of_context(folder: Path) -> str:
    """The config.json in a folder that `servekit build --output` has written. Raises ConfigError."""
    here = folder / MANIFEST
    present = [here] if here.is_file() else sorted((folder / "project").rglob(MANIFEST))
    if not present:
        raise ConfigError(f"--context {str(folder)!r}: expected a folder of `servekit build --output` with {MANIFEST}")
    if len(present) > 1:
        names = ", ".join(str(path.relative_to(folder)) for path in present[:5])
        raise ConfigError(f"--context {str(folder)!r}: expected one {MANIFEST}, got {names}: name it by --config")
    return read_config(present[0])


def read_config(path: Path) -> str:
    found = text(path, str(path))
    check_config(found)
    return found
