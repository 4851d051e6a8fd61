"""`servekit publish`, `images`, `deploy` and `undeploy`, each with the platform `modelarts`."""

from __future__ import annotations

import os
import shlex
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

import click

from servekit.cli.control import control_options, wait_options

if TYPE_CHECKING:
    from servekit.containers import Product
    from servekit.publish.modelarts.client import Caller, ModelArts
    from servekit.publish.modelarts.endpoints import Endpoints
    from servekit.publish.modelarts.flow import Place, Wish
    from servekit.publish.modelarts.images import Group, Image
    from servekit.publish.modelarts.models import Model
    from servekit.publish.modelarts.services import Service
    from servekit.publish.reference import Reference
    from servekit.publish.report import Report

Command = Callable[..., Any]
# To see whether there is room for one.
ANY_DIGEST = f"sha256:{'0' * 64}"

ARCH_HELP = "processor that the image is for: X86_64 or AARCH64 (amd64 and arm64 will do)"


@dataclass(frozen=True)
class _Session:
    client: ModelArts
    endpoints: Endpoints
    place: Place
    swr: Caller


# --- options ---


def _stacked(*options: Callable[[Command], Command]) -> Callable[[Command], Command]:
    def decorate(command: Command) -> Command:
        for option in reversed(options):
            command = option(command)
        return command

    return decorate


place_options = _stacked(
    click.option("--region", metavar="REGION", help="such as cn-north-4 or eu-de; also "
                 "HUAWEICLOUD_REGION, OS_REGION_NAME"),
    click.option("--project-id", metavar="ID", help="also HUAWEICLOUD_SDK_PROJECT_ID, OS_PROJECT_ID"),
    click.option("--auth", type=click.Choice(["aksk", "token"]), help="sign with a key pair, or get a token with an "
                 "IAM user's password; default: what there are credentials for"),
    click.option("--endpoint", metavar="URL", help="ModelArts' API, instead of the region's; also "
                 "SERVEKIT_MODELARTS_ENDPOINT"),
    click.option("--iam-endpoint", metavar="URL", help="IAM, instead of the region's"),
    click.option("--swr-endpoint", metavar="URL", help="SWR's API, instead of the region's"),
    click.option("--cloud", type=click.Choice(["huawei", "otc"]), help="default: by the region"),
)  # fmt: skip

image_options = _stacked(
    click.option("--arch", metavar="ARCH", help=ARCH_HELP),
    click.option("--description", metavar="TEXT", help="at most 512 characters, the image's digest included"),
    click.option("--origin", metavar="ORIGIN", help="CUSTOMIZE or IMAGE_SAVE"),
    click.option("--resource-category", "resource_category", multiple=True, metavar="KIND", help="CPU, GPU or ASCEND; "
                 "may be repeated"),
    click.option("--service-type", metavar="TYPE", help="COMMON, INFERENCE, TRAIN, DEV or UNKNOWN; default: "
                 "INFERENCE where you publish, else the platform's"),
    click.option("--services", multiple=True, metavar="SERVICE", help="NOTEBOOK or SSH; may be repeated"),
    click.option("--visibility", metavar="VISIBILITY", help="PRIVATE or PUBLIC"),
    click.option("--workspace-id", metavar="ID", help="0, the default one, or 32 letters and digits"),
    click.option("--flavor-type", metavar="TYPE", help="of Ascend processors, such as ASCEND_SNT9B"),
    click.option("--tag", "tags", multiple=True, metavar="TAG", help="of the registration; may be repeated, 20 times"),
    click.option("--swr-instance-id", metavar="ID", help="of SWR Enterprise"),
    click.option("--read-me", type=click.Path(exists=True, dir_okay=False), metavar="FILE", help="its text, at most "
                 "3000 characters"),
)  # fmt: skip

digest_options = _stacked(
    click.option("--digest", metavar="sha256:...", help="of the image behind the tag; default: what docker on this "
                 "machine knows"),
    click.option("--replace", is_flag=True, help="register it anew where it is registered with another digest, or "
                 "has failed"),
)  # fmt: skip

model_options = _stacked(
    click.option("--target", metavar="TARGET", help="the project's predictor: name, version and config.json come from "
                 "it"),
    click.option("--context", type=click.Path(exists=True, file_okay=False), metavar="DIR", help="a folder of "
                 "`servekit build --output`: config.json comes from it"),
    click.option("--config", type=click.Path(exists=True, dir_okay=False), metavar="FILE", help="config.json itself"),
    click.option("--model-name", metavar="NAME", help="default: the project's name, else the image's"),
    click.option("--model-version", metavar="X.Y.Z", help="default: the project's version, else the image's tag"),
    click.option("--install-type", multiple=True, metavar="KIND", help="real-time, batch or edge; may be repeated"),
)  # fmt: skip

service_options = _stacked(
    click.option("--service-name", metavar="NAME", help="default: the model's name"),
    click.option("--flavor", metavar="NAME", help="of the instances; custom with --cpu and --memory-mb"),
    click.option("--cpu", type=click.FloatRange(min=0.01), metavar="CORES"),
    click.option("--memory-mb", type=click.IntRange(min=1), metavar="MB"),
    click.option("--instances", type=int, default=1, show_default=True),
    click.option("--pool", metavar="ID", default="", help="a dedicated resource pool; default: the public one"),
    click.option("--env", "envs", multiple=True, metavar="NAME=VALUE", help="a variable of the container; may be "
                 "repeated; not for secrets"),
    click.option("--infer-type", metavar="TYPE", default="real-time", show_default=True, help="v1: real-time or batch"),
    click.option("--port", type=int, default=8080, show_default=True, help="v2: that the container listens on"),
    click.option("--protocol", metavar="PROTOCOL", default="HTTP", show_default=True, help="v2: HTTP, HTTPS, WS or "
                 "WSS"),
    click.option("--service-auth", metavar="TYPE", default="TOKEN", show_default=True, help="v2: TOKEN, API_KEY or "
                 "NONE"),
    click.option("--rate-limit", type=int, default=100, show_default=True, help="v2: requests in a second"),
    click.option("--request-mb", type=int, default=12, show_default=True, help="v2: the largest body"),
    click.option("--request-s", type=int, default=60, show_default=True, help="v2: the longest request"),
    click.option("--deploy-timeout-minutes", type=int, metavar="MINUTES"),
)  # fmt: skip


# --- publish ---


@click.command()
@click.argument("image")
@place_options
@image_options
@digest_options
@click.option("--push", is_flag=True, help="push the image into SWR first")
@click.option("--organization", metavar="NAME", help="in SWR, where IMAGE is a name without a registry")
@click.option("--builder", type=click.Choice(["docker", "buildah", "podman"]), help="that has the image; default: the "
              "first that works")  # fmt: skip
@click.option("--create-model", is_flag=True, help="make a model (v1) of it, too")
@click.option("--deploy", "deploy_api", type=click.Choice(["v1", "v2"]), help="make a service of it, too: v1 of a "
              "model, v2 of the image itself")  # fmt: skip
@model_options
@service_options
@wait_options
@control_options
def publish(
    image: str, *, report: Report, insecure_http: bool, wait_s: float, push: bool, organization: str | None,
    builder: str | None, create_model: bool, deploy_api: str | None, **options: Any,
) -> None:  # fmt: skip
    """Register IMAGE with ModelArts Image Management, and wait until it can be used.

    IMAGE is its address in SWR: REGISTRY/ORGANIZATION/NAME:TAG. The same command may be given again: it goes on where
    it stopped, and registers nothing twice.
    """
    from servekit.publish.modelarts import flow

    endpoints = _endpoints(options, insecure_http)
    source, path = _path(image, organization, endpoints)
    wish = _wish(path, options, service_type=options["service_type"] or "INFERENCE")
    wish.check(ascend=endpoints.cloud != "otc")
    wants_model = create_model or deploy_api == "v1"
    plan = _Plan.of(path, options, wants_model=wants_model) if wants_model or deploy_api else None
    if plan is not None:
        if wait_s <= 0:
            _wrong("--wait-s 0: expected time for the image, which the next steps need")
        plan.check(deploy_api, wants_model=wants_model)
    if push and endpoints.private and not endpoints.swr_given:
        _wrong("--swr-endpoint: expected, beside an --endpoint that is not the region's: --push logs in there")
    _tell_region(path, endpoints, report)
    with _session(report, endpoints, options, insecure_http) as session:
        digest = wish.digest
        if push:
            flow.Wish(wish.registration, ANY_DIGEST).check()
            digest = _push(session, source, path, builder, report)
            if wish.digest not in ("", digest):
                _wrong(f"--digest: expected {digest}, which has just been pushed, got {wish.digest}")
        elif not digest:
            digest = _local_digest(path, builder, report)
        wish = flow.Wish(wish.registration, digest, wish.replace)
        wish.check()
        registered = flow.publish(session.client, wish, report, session.place, wait_s=wait_s)
        document: dict[str, Any] = {"image": registered.document(), "digest": digest or registered.digest}
        text = [f"{registered.id}"]
        model = plan.model(session, report, wait_s) if plan is not None and wants_model else None
        if model is not None:
            document["model"] = model.raw
            text.append(model.id)
        if plan is not None and deploy_api is not None:
            service = plan.service(session, report, wait_s, api=deploy_api, model_id=model.id if model else "")
            document["service"] = service.raw
            text += [service.id, *service.urls]
        report.result(document, "\n".join(text))


# --- images ---


@click.group()
def images() -> None:
    """The images that ModelArts knows."""


@images.command(name="list")
@place_options
@click.option("--name", default="", metavar="NAME", help="of the image, without its tag")
@click.option("--fuzzy", is_flag=True, help="names that hold NAME")
@click.option("--namespace", default="", metavar="NAME", help="the organisation in SWR")
@click.option("--type", "kind", default="DEDICATED", show_default=True, metavar="TYPE", help="DEDICATED, your own, or "
              "BUILD_IN, the platform's")  # fmt: skip
@click.option("--service-type", default="", metavar="TYPE")
@click.option("--workspace-id", default="", metavar="ID")
@click.option("--groups", is_flag=True, help="one line for each name, not for each tag")
@control_options
def list_images(
    *, report: Report, insecure_http: bool, name: str, fuzzy: bool, namespace: str, kind: str, service_type: str,
    workspace_id: str, groups: bool, **options: Any,
) -> None:  # fmt: skip
    """List them: your own, unless --type says otherwise."""
    with _session(report, _endpoints(options, insecure_http), options, insecure_http) as session:
        if groups:
            grouped = list(session.client.groups(type=kind, name=name, namespace=namespace))
            report.result({"groups": [each.document() for each in grouped]}, _groups_table(grouped))
            return
        found = list(
            session.client.images(
                type=kind, name=name, fuzzy=fuzzy, namespace=namespace, service_type=service_type,
                workspace_id=workspace_id,
            )
        )  # fmt: skip
        report.result({"images": [each.document() for each in found]}, _table(found))


@images.command()
@click.argument("image")
@place_options
@click.option("--sync", is_flag=True, help="have the platform look at SWR again first")
@control_options
def show(image: str, *, report: Report, insecure_http: bool, sync: bool, **options: Any) -> None:
    """Show IMAGE, its ID or its address in SWR."""
    endpoints = _endpoints(options, insecure_http)
    _check_id_or_path(image)
    with _session(report, endpoints, options, insecure_http) as session:
        found = _found(session.client, image)
        if sync:
            session.client.sync(found.id)
            found = session.client.show(found.id)
        report.result({"image": found.document(), "digest": found.digest}, _shown(found))


@images.command()
@click.argument("image")
@place_options
@click.option("--force", is_flag=True, help="its content in SWR goes, too")
@click.option("--yes", is_flag=True, help="do not ask")
@control_options
def delete(image: str, *, report: Report, insecure_http: bool, force: bool, yes: bool, **options: Any) -> None:
    """Remove the registration of IMAGE, its ID or its address in SWR."""
    from servekit.publish.failures import Missing

    endpoints = _endpoints(options, insecure_http)
    _check_id_or_path(image)
    _check_somebody(yes=yes)
    with _session(report, endpoints, options, insecure_http) as session:
        found = _found(session.client, image)
        name = found.swr_path or found.id
        what = f"the registration of {name} ({found.id})" + (", and its content in SWR" if force else "")
        if not (yes or click.confirm(f"Remove {what}?", err=True)):
            report.result({"image": found.document(), "deleted": False}, "nothing removed")
            return
        try:
            deleted = session.client.delete(found.id, force=force) or found
        except Missing:
            # It was there a moment ago: the answer to the first attempt got lost, or somebody was faster.
            deleted = found
        report.say("image", f"{what}: removed")
        report.result({"image": deleted.document(), "deleted": True}, found.id)


@images.command()
@click.argument("swr_path")
@place_options
@image_options
@control_options
def register(swr_path: str, *, report: Report, insecure_http: bool, **options: Any) -> None:
    """Register SWR_PATH as the API does it: once, without waiting, and without looking whether it is there.

    `servekit publish modelarts` does all of that.
    """
    from servekit.publish.modelarts import flow

    endpoints = _endpoints(options, insecure_http)
    wish = _wish(swr_path, options, service_type=options["service_type"])
    wish.check(ascend=endpoints.cloud != "otc")
    with _session(report, endpoints, options, insecure_http) as session:
        found = flow.register(session.client, wish, report, session.place)
        report.result({"image": found.document()}, found.id)


# --- deploy ---


@click.command()
@click.argument("image", required=False)
@place_options
@click.option("--api", type=click.Choice(["v1", "v2"]), help="v1: a model, and a service of it; v2: a service of the "
              "image itself; default: v2, and v1 on Open Telekom Cloud")  # fmt: skip
@click.option("--model-id", metavar="ID", help="v1: a model that is there already, instead of IMAGE")
@click.option("--workspace-id", metavar="ID", help="0, the default one, or 32 letters and digits")
@model_options
@service_options
@wait_options
@control_options
def deploy(
    image: str | None, *, report: Report, insecure_http: bool, wait_s: float, api: str | None, model_id: str | None,
    **options: Any,
) -> None:  # fmt: skip
    """Start a service of IMAGE, its address in SWR, and wait until it runs."""
    from servekit.publish.modelarts.images import check_id

    endpoints = _endpoints(options, insecure_http)
    chosen = api or ("v1" if endpoints.cloud == "otc" or model_id else "v2")
    if (image is None) == (model_id is None):
        _wrong("expected an IMAGE, or a --model-id instead")
    if model_id is not None:
        if chosen == "v2":
            _wrong("--model-id: expected --api v1: v2 has no models")
        check_id(model_id, "--model-id")
    wants_model = chosen == "v1" and model_id is None
    plan = _Plan.of(image or "", options, wants_model=wants_model)
    plan.check(chosen, wants_model=wants_model)
    if wants_model and wait_s <= 0:
        _wrong("--wait-s 0: expected time for the model, which the service needs")
    with _session(report, endpoints, options, insecure_http) as session:
        document: dict[str, Any] = {}
        if chosen == "v1" and model_id is None:
            model = plan.model(session, report, wait_s)
            document["model"], model_id = model.raw, model.id
        service = plan.service(session, report, wait_s, api=chosen, model_id=model_id or "")
        report.result(document | {"service": service.raw}, "\n".join((service.id, *service.urls)))


@click.command()
@click.argument("service")
@place_options
@click.option("--api", type=click.Choice(["v1", "v2"]), help="default: v2, and v1 on Open Telekom Cloud")
@click.option("--yes", is_flag=True, help="do not ask")
@wait_options
@control_options
def undeploy(
    service: str, *, report: Report, insecure_http: bool, wait_s: float, api: str | None, yes: bool, **options: Any
) -> None:
    """Remove SERVICE, its name or ID. The model and the image stay."""
    from servekit.publish.modelarts import services
    from servekit.publish.modelarts.images import check_id

    endpoints = _endpoints(options, insecure_http)
    chosen: services.Api = "v1" if api == "v1" or (api is None and endpoints.cloud == "otc") else "v2"
    check_id(service, "SERVICE")
    _check_somebody(yes=yes)
    with _session(report, endpoints, options, insecure_http) as session:
        if not (yes or click.confirm(f"Remove the service {service}?", err=True)):
            report.result({"deleted": False}, "nothing removed")
            return
        removed = services.undeploy(session.client, chosen, service, report, wait_s=wait_s)
        report.result({"service": {"id": removed.id, "name": removed.name}, "deleted": True}, removed.id)


# --- the next steps ---


@dataclass(frozen=True)
class _Plan:
    """What is to be made of an image, besides its registration."""

    path: str
    options: dict[str, Any]
    name: str
    version: str
    config: str

    @classmethod
    def of(cls, path: str, options: dict[str, Any], *, wants_model: bool) -> _Plan:
        from servekit.publish import reference
        from servekit.publish.modelarts import models

        parsed = reference.parse(path) if path else None
        name, version, config = options["model_name"], options["model_version"], ""
        if options["config"]:
            config = models.read_config(Path(options["config"]))
        elif options["context"]:
            config = models.config_of_context(Path(options["context"]))
        else:
            product = _product(options["target"]) if wants_model or options["target"] else None
            if product is not None:
                config, name, version = _config_of(product), name or product.name, version or product.version
        fallback = "" if parsed is None else parsed.name
        tag = "" if parsed is None else parsed.tag
        return cls(path, options, (name or fallback).replace(".", "-"), version or tag, config)

    def check(self, api: str | None, *, wants_model: bool) -> None:
        if wants_model:
            self._model().check()
        if api is not None:
            self._service(api, "to-be-made").check()

    def model(self, session: _Session, report: Report, wait_s: float) -> Model:
        from servekit.publish.modelarts import models

        return models.publish(session.client, self._model(), report, wait_s=wait_s, look=_again())

    def service(self, session: _Session, report: Report, wait_s: float, *, api: str, model_id: str) -> Service:
        from servekit.publish.modelarts import services

        request = self._service(api, model_id)
        return services.deploy(session.client, request, report, session.place, wait_s=wait_s, look=_again())

    def _model(self) -> Any:
        from servekit.publish.modelarts.models import ModelRequest

        return ModelRequest(
            self.name, self.version, self.path, self.config,
            install_type=self.options["install_type"] or ("real-time", "batch"),
            workspace_id=self.options["workspace_id"] or "",
        )  # fmt: skip

    def _service(self, api: str, model_id: str) -> Any:
        from servekit.publish.modelarts.services import Service1, Service2

        options = self.options
        name = options["service_name"] or self.name or "servekit"
        common: dict[str, Any] = {
            "instances": options["instances"], "envs": _envs(options["envs"]), "pool": options["pool"],
            "cpu": options["cpu"], "memory_mb": options["memory_mb"],
            "timeout_minutes": options["deploy_timeout_minutes"], "workspace_id": options["workspace_id"] or "",
        }  # fmt: skip
        if api == "v1":
            sized = options["cpu"] is not None and options["memory_mb"] is not None
            specification = options["flavor"] or ("custom" if sized else "modelarts.vm.cpu.2u")
            return Service1(name, model_id, specification, infer_type=options["infer_type"], **common)
        flavor = "" if options["flavor"] == "custom" else options["flavor"] or ""
        return Service2(
            name, self.path, flavor, port=options["port"], protocol=options["protocol"],
            auth_type=options["service_auth"], rate=options["rate_limit"], request_mb=options["request_mb"],
            request_s=options["request_s"], **common,
        )  # fmt: skip


def _again() -> str:
    """The command as it was given: it finds what is there, and makes nothing twice."""
    return shlex.join(["servekit", *sys.argv[1:]])


def _product(target: str | None) -> Product | None:
    """Of the target, else of the project that the current folder is in, if there is one."""
    from servekit.errors import ConfigError
    from servekit.images import project

    try:
        return project.find(target, Path.cwd()).product
    except ConfigError:
        if target is not None:
            raise
        return None


def _config_of(product: Product) -> str:
    """As `servekit build` writes it."""
    from servekit.platforms.modelarts import platform

    if platform.container is None:
        return ""
    return platform.container(product).manifests["config.json"].decode()


def _envs(given: Sequence[str]) -> dict[str, str]:
    pairs = [each.partition("=") for each in given]
    for name, equals, _ in pairs:
        if not equals:
            _wrong(f"--env {name!r}: expected NAME=VALUE")
    return {name: value for name, _, value in pairs}


# --- where, who, what ---


def _endpoints(options: dict[str, Any], insecure_http: bool) -> Endpoints:
    """Checks the options that every command has. Raises ConfigError."""
    from servekit.publish.modelarts import endpoints
    from servekit.publish.secrets import variable

    options["region"] = options["region"] or variable(endpoints.REGION_VARIABLES)
    if not options["region"]:
        _wrong(f"--region: expected a region; also by {', '.join(endpoints.REGION_VARIABLES[1:])}")
    if options["project_id"]:
        endpoints.check_project(options["project_id"])
    return endpoints.find(
        options["region"], environ=os.environ, endpoint=options["endpoint"], iam_endpoint=options["iam_endpoint"],
        swr_endpoint=options["swr_endpoint"], cloud=options["cloud"], insecure_http=insecure_http,
    )  # fmt: skip


@contextmanager
def _session(report: Report, endpoints: Endpoints, options: dict[str, Any], insecure_http: bool) -> Iterator[_Session]:
    from dataclasses import replace

    from servekit.publish.http import check_endpoint, check_installed
    from servekit.publish.modelarts import credentials
    from servekit.publish.modelarts.client import caller, connect
    from servekit.publish.modelarts.endpoints import IAM_VARIABLE, PROJECT_VARIABLES, check_project
    from servekit.publish.modelarts.flow import Place
    from servekit.publish.secrets import variable

    check_installed("modelarts")
    found = credentials.find(options["auth"])
    project_id = options["project_id"] or variable(PROJECT_VARIABLES) or found.project_id
    if not project_id:
        _wrong(f"--project-id: expected the project's ID; also by {', '.join(PROJECT_VARIABLES[1:])}")
    check_project(project_id)
    if found.iam_endpoint and not options["iam_endpoint"] and not os.environ.get(IAM_VARIABLE):
        iam = check_endpoint(f"{found.origin}: auth_url", found.iam_endpoint, insecure_http=insecure_http)
        endpoints = replace(endpoints, iam=iam)
    elif isinstance(found.who, credentials.Login) and endpoints.private and not endpoints.iam_given:
        _wrong("--iam-endpoint: expected, beside an --endpoint that is not the region's: the password goes there")

    def tell(text: str) -> None:
        report.say("retry", text)

    client, authoriser = connect(endpoints, project_id, found.who, cache=credentials.cache_folder(), tell=tell)
    names = ("endpoint", "iam_endpoint", "swr_endpoint", "cloud", "auth")
    given = [word for name in names if options[name] for word in (f"--{name.replace('_', '-')}", options[name])]
    place = Place(("--region", endpoints.region, "--project-id", project_id, *given))
    with ExitStack() as stack:
        stack.enter_context(client)
        swr = stack.enter_context(caller(endpoints.swr, authoriser, tell))
        yield _Session(client, endpoints, place, swr)


def _path(image: str, organization: str | None, endpoints: Endpoints) -> tuple[str, str]:
    """The image's name here, and its address in SWR, both without a digest."""
    from servekit.publish import reference

    parsed = reference.parse(image)
    source = parsed.with_tag(parsed.tag)
    if parsed.registry or not organization:
        if organization:
            _wrong(f"--organization: expected IMAGE to be a name without a registry, got {image!r}")
        return str(source), f"{source}{'@' + parsed.digest if parsed.digest else ''}"
    if parsed.namespace:
        _wrong(f"--organization: expected IMAGE to be a name without a namespace, got {image!r}")
    target = reference.parse(f"{endpoints.registry}/{organization}/{source}", option="--organization")
    return str(source), f"{target}{'@' + parsed.digest if parsed.digest else ''}"


def _wish(path: str, options: dict[str, Any], *, service_type: str | None) -> Wish:
    from servekit.publish.modelarts import flow, images
    from servekit.publish.reference import DIGEST

    path, _, digest = path.partition("@")
    asked = options.get("digest") or digest
    if asked and not DIGEST.fullmatch(asked):
        _wrong(f"--digest: expected sha256: and 64 hexadecimal digits, got {asked[:100]!r}")
    if digest and asked != digest:
        _wrong(f"--digest: expected {digest}, as in IMAGE, got {asked}")
    registration = images.Registration(
        swr_path=path,
        arch=images.arch_named(options["arch"]) if options["arch"] else None,
        description=options["description"],
        origin=options["origin"],
        resource_category=options["resource_category"] or None,
        service_type=service_type,
        services=options["services"] or None,
        visibility=options["visibility"],
        workspace_id=options["workspace_id"],
        flavor_type=options["flavor_type"],
        tags=options["tags"] or None,
        swr_instance_id=options["swr_instance_id"],
        read_me=_read_me(options["read_me"]),
    )
    return flow.Wish(registration, asked or "", bool(options.get("replace")))


def _read_me(path: str | None) -> str | None:
    from servekit.publish import files

    return None if path is None else files.text(Path(path), f"--read-me {path!r}")


def _push(session: _Session, source: str, path: str, builder: str | None, report: Report) -> str:
    from servekit.publish.modelarts import push

    target = _target(path)
    login = push.registry_login(session.swr, target.registry, session.endpoints.region)
    digest = push.push(source, target, login, report, by=builder)
    report.say("push", f"{target} is {digest}")
    return digest


def _local_digest(path: str, builder: str | None, report: Report) -> str:
    from servekit.publish.modelarts import push

    digest = push.local_digest(_target(path), builder)
    if not digest:
        report.say(
            "digest", "not known here: a new build under the same tag would be taken for the same; --digest names it"
        )
    return digest


def _tell_region(path: str, endpoints: Endpoints, report: Report) -> None:
    """ModelArts takes images of its own region alone; registries of enterprises have names of their own."""
    registry = _target(path).registry
    domain = endpoints.registry.partition(".")[2].partition(".")[2]
    if registry != endpoints.registry and registry.startswith("swr.") and registry.endswith(domain):
        report.say("region", f"the image is in {registry}, and --region {endpoints.region} has {endpoints.registry}")


def _target(path: str) -> Reference:
    from servekit.publish.modelarts import images

    return images.check_path(path.partition("@")[0])


def _check_id_or_path(image: str) -> None:
    from servekit.publish.modelarts import images

    if "/" in image:
        images.check_path(image)
    else:
        images.check_id(image, "IMAGE")


def _found(client: ModelArts, image: str) -> Image:
    from servekit.publish.failures import Missing
    from servekit.publish.modelarts import flow
    from servekit.publish.modelarts.images import Registration

    if "/" not in image:
        return client.show(image)
    found = flow.find(client, Registration(image))
    if found is None:
        raise Missing(f"{image} is not registered in this project", hint="servekit images modelarts list shows what is")
    return found


def _check_somebody(*, yes: bool) -> None:
    if not yes and not (sys.stdin.isatty() and sys.stderr.isatty()):
        _wrong("--yes: expected, where nobody is there to be asked")


def _wrong(text: str) -> NoReturn:
    from servekit.errors import ConfigError

    raise ConfigError(text)


# --- for people ---


def _table(found: Sequence[Image]) -> str:
    from servekit.publish.modelarts.images import size_text, time_text

    rows = [("ID", "NAME", "STATUS", "ARCH", "SIZE", "CREATED")]
    for each in found:
        name = f"{each.namespace}/" if each.namespace else ""
        name += f"{each.name or ''}:{each.tag or ''}" if each.tag else each.name or each.swr_path or ""
        size = size_text(each.size).partition(" (")[0]
        rows.append((each.id, name, each.status or "", each.arch or "", size, time_text(each.create_at)))
    return _aligned(rows)


def _groups_table(found: Sequence[Group]) -> str:
    from servekit.publish.modelarts.images import time_text

    rows = [("NAME", "VERSIONS", "UPDATED")]
    for each in found:
        name = f"{each.namespace}/{each.name}" if each.namespace else each.name
        rows.append((name, str(each.version_count or ""), time_text(each.update_at)))
    return _aligned(rows)


def _shown(image: Image) -> str:
    from servekit.publish.modelarts.images import size_text, time_text

    rows = []
    for name, value in image.document().items():
        if name == "size":
            text = size_text(image.size)
        elif name in ("create_at", "update_at"):
            text = time_text(value)
        elif isinstance(value, list):
            text = ", ".join(map(str, value))
        else:
            text = str(value)
        rows.append((name, text))
    return _aligned(rows)


def _aligned(rows: Sequence[Sequence[str]]) -> str:
    """What strangers have written must not move the cursor."""
    from servekit.publish.failures import line

    clean = [[line(cell) for cell in row] for row in rows]
    widths = [max(len(row[column]) for row in clean) for column in range(len(clean[0]))] if clean else []
    return "\n".join(
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in clean
    )
