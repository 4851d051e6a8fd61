"""Services of both generations: of a published model (v1), or straight of an image (v2)."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, Protocol

from servekit.errors import ConfigError
from servekit.publish import polling
from servekit.publish.failures import Failed, Missing, Refused
from servekit.publish.modelarts import images
from servekit.publish.modelarts.client import ModelArts
from servekit.publish.modelarts.flow import Place
from servekit.publish.report import Report

Api = Literal["v1", "v2"]

NAME = re.compile(r"[A-Za-z0-9_-]{1,64}")
ENV_NAME = re.compile(r"[A-Za-z_.-][A-Za-z0-9_.-]{0,63}")
INFER_TYPES = ("real-time", "batch")
AUTH_TYPES = ("TOKEN", "API_KEY", "NONE")
PROTOCOLS = ("HTTP", "HTTPS", "WS", "WSS")
MAX_TIMEOUT_MINUTES = 300
EVERY_S = 0.5
# Ends, in lower case. Alarms (concerning) are none: instances come and go.
RUNNING = ("running", "finished")
ENDED_BADLY = ("failed", "error", "stopped", "deleted")
# servekit goes on for 60 s after SIGTERM, and is gone after 90.
GRACE_S = 100


class ServiceRequest(Protocol):
    """What both generations' requests have in common."""

    @property
    def name(self) -> str: ...
    @property
    def api(self) -> Api: ...
    def check(self) -> None: ...
    def document(self) -> dict[str, Any]: ...
    def is_of(self, document: Mapping[str, Any]) -> bool: ...


@dataclass(frozen=True, slots=True)
class Service1:
    """specification: a flavour's name, or "custom" with cpu and memory_mb."""

    name: str
    model_id: str
    specification: str = "modelarts.vm.cpu.2u"
    instances: int = 1
    infer_type: str = "real-time"
    envs: Mapping[str, str] = field(default_factory=dict)
    pool: str = ""
    cpu: float | None = None
    memory_mb: int | None = None
    timeout_minutes: int | None = None
    workspace_id: str = ""
    api: Api = "v1"

    def check(self) -> None:
        _check(self.name, self.instances, self.envs, self.timeout_minutes)
        if self.infer_type not in INFER_TYPES:
            raise ConfigError(f"infer_type: expected one of {', '.join(INFER_TYPES)}, got {self.infer_type!r}")
        if self.specification == "custom" and (self.cpu is None or self.memory_mb is None):
            raise ConfigError("--flavor custom: expected --cpu and --memory-mb, too")

    def document(self) -> dict[str, Any]:
        config: dict[str, Any] = {
            "model_id": self.model_id, "specification": self.specification, "instance_count": self.instances,
        }  # fmt: skip
        if self.infer_type == "real-time":
            config["weight"] = 100
        if self.specification == "custom":
            config["custom_spec"] = {"cpu": self.cpu, "memory": self.memory_mb}
        if self.envs:
            config["envs"] = dict(self.envs)
        if self.pool:
            config["pool_name"] = self.pool
        if self.timeout_minutes is not None:
            config["deploy_timeout_in_seconds"] = self.timeout_minutes * 60
        document = {"service_name": self.name, "infer_type": self.infer_type, "config": [config]}
        return document | ({"workspace_id": self.workspace_id} if self.workspace_id else {})

    def is_of(self, document: Mapping[str, Any]) -> bool:
        configs = document.get("config")
        ids = [each.get("model_id") for each in configs if isinstance(each, dict)] if isinstance(configs, list) else []
        return not ids or self.model_id in ids


@dataclass(frozen=True, slots=True)
class Service2:
    """flavor: its name, or "" with cpu and memory_mb. rate: requests a second; the platform wants a limit."""

    name: str
    swr_path: str
    flavor: str = ""
    cpu: float | None = None
    memory_mb: int | None = None
    instances: int = 1
    port: int = 8080
    protocol: str = "HTTP"
    auth_type: str = "TOKEN"
    rate: int = 100
    request_mb: int = 12
    request_s: int = 60
    envs: Mapping[str, str] = field(default_factory=dict)
    pool: str = ""
    timeout_minutes: int | None = None
    workspace_id: str = ""
    version: str = ""
    api: Api = "v2"

    def check(self) -> None:
        _check(self.name, self.instances, self.envs, self.timeout_minutes)
        images.check_path(self.swr_path)
        if not self.flavor and (self.cpu is None or self.memory_mb is None):
            raise ConfigError("--flavor: expected a flavour's name, or --cpu and --memory-mb")
        for name, value, known in (
            ("protocol", self.protocol, PROTOCOLS), ("auth_type", self.auth_type, AUTH_TYPES),
        ):  # fmt: skip
            if value not in known:
                raise ConfigError(f"{name}: expected one of {', '.join(known)}, got {value!r}")
        for name, number, least, most in (
            ("port", self.port, 1, 65535),
            ("rate_limit", self.rate, 1, 10000),
            ("request_size_limit", self.request_mb, 1, 50),
            ("request_timeout", self.request_s, 1, 7200),
        ):
            if not least <= number <= most:
                raise ConfigError(f"{name}: expected {least} to {most}, got {number}")

    def document(self) -> dict[str, Any]:
        unit: dict[str, Any] = {
            "image": {"source": "SWR", "swr_path": self.swr_path},
            "role": "COMMON",
            "count": 1,
            "port": self.port,
            # Loading may take a while, and until then the other two must not count.
            "startup_health": _health(self.protocol, period_s=10, failures=60),
            "readiness_health": _health(self.protocol, period_s=10, failures=3),
            "liveness_health": _health(self.protocol, period_s=30, failures=10),
            "termination_grace": {"termination_grace_period_seconds": GRACE_S},
        }
        if self.flavor:
            unit["flavor"] = self.flavor
        else:
            unit["custom_spec"] = {"cpu": self.cpu, "memory": self.memory_mb}
        if self.envs:
            unit["envs"] = dict(self.envs)
        group: dict[str, Any] = {"name": self.name, "weight": 100, "count": self.instances, "unit_configs": [unit]}
        if self.pool:
            group["pool_id"] = self.pool
        document: dict[str, Any] = {
            "name": self.name,
            "type": "REAL_TIME",
            "deploy_type": "SINGLE",
            "group_configs": [group],
            "runtime_config": {
                "service_invoke": {"port": self.port, "protocol": self.protocol, "auth_type": self.auth_type},
                "service_limit": {
                    "rate_limit": {"num": self.rate, "unit": "SECONDS"},
                    "request_size_limit": self.request_mb,
                    "request_timeout": self.request_s,
                },
            },
        }
        if self.timeout_minutes is not None:
            document["deploy_timeout_minutes"] = self.timeout_minutes
        optional = {"workspace_id": self.workspace_id, "version": self.version}
        return document | {name: value for name, value in optional.items() if value}

    def is_of(self, document: Mapping[str, Any]) -> bool:
        paths = list(_values_of("swr_path", document))
        return not paths or self.swr_path in paths


def _health(protocol: str, *, period_s: int, failures: int) -> dict[str, Any]:
    return {
        "check_method": "HTTP",
        "protocol": "HTTPS" if protocol in ("HTTPS", "WSS") else "HTTP",
        "url": "/health",
        "initial_delay_seconds": 1,
        "timeout_seconds": 10,
        "period_seconds": period_s,
        "failure_threshold": failures,
    }


def _check(name: str, instances: int, envs: Mapping[str, str], timeout_minutes: int | None) -> None:
    check_name(name)
    if not 1 <= instances <= 128:
        raise ConfigError(f"--instances: expected 1 to 128, got {instances}")
    for key, value in envs.items():
        if not ENV_NAME.fullmatch(key):
            raise ConfigError(
                f"--env {key[:100]!r}: expected a name of at most 64 letters, digits, _ - and ., without a digit first"
            )
        if re.search(r"<[^>]*>", value):
            raise ConfigError(f"--env {key}: expected a value without <...>, which the platform takes for HTML")
    if timeout_minutes is not None and not 3 <= timeout_minutes <= MAX_TIMEOUT_MINUTES:
        raise ConfigError(f"--deploy-timeout-minutes: expected 3 to {MAX_TIMEOUT_MINUTES}, got {timeout_minutes}")


def check_name(name: str) -> str:
    if not NAME.fullmatch(name):
        raise ConfigError(f"service name: expected 1 to 64 letters, digits, - and _, got {name[:100]!r}")
    return name


@dataclass(frozen=True, slots=True)
class Service:
    """What comes back, of either generation. urls: where it is called. raw: all of it."""

    id: str
    name: str
    status: str
    progress: int | None
    reason: str
    urls: tuple[str, ...]
    raw: Mapping[str, Any]

    @property
    def state(self) -> str:
        return self.status.lower()


def read(document: Mapping[str, Any]) -> Service:
    urls = [document["access_address"]] if document.get("access_address") else []
    predict = document.get("predict_url")
    for each in predict if isinstance(predict, list) else []:
        if isinstance(each, dict) and isinstance(each.get("urls"), list):
            urls += each["urls"]
    progress = document.get("progress")
    return Service(
        id=str(document.get("service_id") or document.get("id") or ""),
        name=str(document.get("service_name") or document.get("name") or ""),
        status=str(document.get("status") or ""),
        progress=progress if isinstance(progress, int) and not isinstance(progress, bool) else None,
        reason=str(document.get("error_msg") or document.get("failure_reason") or ""),
        urls=tuple(str(url) for url in urls),
        raw=document,
    )


def deploy(
    client: ModelArts, request: ServiceRequest, report: Report, place: Place, *, wait_s: float, look: str
) -> Service:
    """The service of this name, made unless it is there, and running. Raises PublishError."""
    request.check()
    show, create = _calls(client, request.api)

    def undo(name: str) -> str:
        return place.command("undeploy", "modelarts", name, "--api", request.api)

    def find_id() -> str | None:
        listed = by_name(client, request.api, request.name)
        return None if listed is None else listed.id

    there = find_id()
    found = None if there is None else show(there)
    if found is not None:
        if not request.is_of(found.raw):
            raise Refused(
                f"service {request.name} is there, of another model or image",
                hint=f"choose another name; or {undo(request.name)} removes it",
            )
        report.say("service", f"{request.name} is there ({found.id}), {found.status}")
    else:
        with report.making("service", request.name, look=look) as made:
            service_id = polling.once(
                lambda: create(request.document()), find_id, tell=lambda text: report.say("service", text)
            )
            made.name = f"{request.name} ({service_id})"
            made.undo = undo(service_id)
        report.say("service", f"{request.name} made: {service_id}")
        found = show(service_id)
    if wait_s <= 0:
        return found
    service_id = found.id
    with report.bar("service", request.name) as advance:
        ended = polling.until(
            lambda: show(service_id),
            lambda service: service.state in (*RUNNING, *ENDED_BADLY),
            limit_s=wait_s,
            what=f"service {request.name}",
            resume="the same command goes on waiting",
            seen=lambda service: advance(
                100 if service.state in RUNNING else service.progress or 0, f"{service.status} {service.reason}".strip()
            ),
            every_s=EVERY_S,
        )
    if ended.state in ENDED_BADLY:
        raise Failed(
            f"service {request.name}: {ended.status}: {ended.reason or 'no reason given'}",
            hint="a service that stays in `deploying` listens on another port, or its /health does not answer 200; its "
            f"log is on the service's page; {undo(service_id)} removes it",
        )
    return ended


def undeploy(client: ModelArts, api: Api, name_or_id: str, report: Report, *, wait_s: float) -> Service:
    """Raises Missing where there is none."""
    show, _ = _calls(client, api)
    found = by_name(client, api, name_or_id)
    if found is None:
        images.check_id(name_or_id, "SERVICE")
        found = show(name_or_id)
    service_id = found.id
    delete = client.delete_service if api == "v1" else client.delete_service2
    # It was there a moment ago: the answer to the first attempt got lost, or somebody was faster.
    with contextlib.suppress(Missing):
        delete(service_id)
    report.say("service", f"{found.name} ({service_id}) is being removed")
    if wait_s > 0:

        def look() -> Service | None:
            try:
                return show(service_id)
            except Missing:
                return None

        polling.until(
            look,
            lambda service: service is None or service.state == "deleted",
            limit_s=wait_s,
            what=f"the removal of service {found.name}",
            resume="the same command goes on",
            every_s=EVERY_S,
        )
    return found


def by_name(client: ModelArts, api: Api, name: str) -> Service | None:
    """The platform's filter takes parts of names."""
    listed = client.services(name) if api == "v1" else client.services2(name)
    # Its ID becomes a part of a path.
    found = [each for each in map(read, listed) if each.name == name and images.ID.fullmatch(each.id)]
    if len(found) > 1:
        raise Refused(f"there are {len(found)} services {name}", hint="name one by its ID")
    return found[0] if found else None


def _calls(client: ModelArts, api: Api) -> tuple[Callable[[str], Service], Callable[[Mapping[str, Any]], str]]:
    if api == "v1":
        return lambda each: read({"service_id": each, **client.service(each)}), client.create_service
    return lambda each: read({"id": each, **client.service2(each)}), client.create_service2


def _values_of(name: str, document: Any, depth: int = 8) -> list[Any]:
    """Of this key, wherever it is."""
    if depth == 0:
        return []
    inner = document.values() if isinstance(document, Mapping) else document if isinstance(document, list) else ()
    own = [document[name]] if isinstance(document, Mapping) and name in document else []
    return own + [value for each in inner for value in _values_of(name, each, depth - 1)]
