"""`servekit publish modzy` and `servekit images modzy`."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from servekit.cli.control import control_options, wait_options

if TYPE_CHECKING:
    from servekit.publish.archive import Saved
    from servekit.publish.modzy.credentials import Access
    from servekit.publish.modzy.metadata import Metadata
    from servekit.publish.modzy.objects import ContainerImage
    from servekit.publish.modzy.publish import Linked, Plan
    from servekit.publish.report import Report

MAX_NAME_CHARS = 200
FORMS = ("pull", "manifest")


def access_options(command: Callable[..., None]) -> Callable[..., None]:
    for option in (
        click.option("--profile", default="default", show_default=True, metavar="NAME",
                     help="a file of the vendor's command line: ~/.modzy/NAME.yaml"),
        click.option("--endpoint", metavar="URL", help="your Modzy; else SERVEKIT_MODZY_ENDPOINT or MODZY_BASE_URL"),
    ):  # fmt: skip
        command = option(command)
    return command


@click.command()
@click.argument("image", metavar="IMAGE|TAR")
@click.option("--model-name", metavar="NAME", help="the model; made where there is none of this name")
@click.option("--model-id", metavar="ID", help="a model that is there")
@click.option("--version", metavar="X.Y.Z", help="of the model; else the one in model.yaml")
@click.option("--model-yaml", metavar="FILE", help="the model's metadata; else that of --target")
@click.option("--target", metavar="TARGET", help="the project, or a context that `servekit build --output` wrote; "
              "else the project of the current folder")  # fmt: skip
@click.option("--sample", "samples", multiple=True, metavar="[NAME=]FILE", help="for the run test, one for each input")
@click.option("--digest", metavar="sha256:...", help="of the image, where no docker, podman or buildah here has it")
@click.option("--registry-credentials-file", metavar="FILE", help="JSON with username and password, or docker's "
              "config.json; else SERVEKIT_REGISTRY_USERNAME and SERVEKIT_REGISTRY_PASSWORD")  # fmt: skip
@click.option("--registry-form", type=click.Choice(FORMS), default="pull", show_default=True,
              help="manifest: as platforms before 1.9 want images named")  # fmt: skip
@click.option("--requirement", type=int, metavar="ID", help="the machine; else the smallest with room for the model")
@click.option("--run-timeout-s", type=click.FloatRange(0, 86400, min_open=True), metavar="SECONDS",
              help="for /run; else that of model.yaml")  # fmt: skip
@click.option("--status-timeout-s", type=click.FloatRange(0, 86400, min_open=True), metavar="SECONDS",
              help="for /status, with the load; else that of model.yaml")  # fmt: skip
@click.option("--tags", metavar="A,B", help="of the model; else those in model.yaml")
@click.option("--no-load-test", is_flag=True, help="do not have the platform call /status")
@click.option("--no-run-test", is_flag=True, help="do not have the platform call /run with the samples")
@click.option("--no-activate", is_flag=True, help="leave the version as it is after the tests")
@access_options
@wait_options
@control_options
def publish(
    image: str, report: Report, insecure_http: bool, endpoint: str | None, profile: str, **options: Any
) -> None:
    """Make a model's version of IMAGE or TAR on Modzy, test it there, and activate it.

    IMAGE is a reference that the platform can pull, TAR a file of `docker save`. What is there already is kept: the
    same command goes on where it ended. The API key comes from MODZY_API_KEY, ~/.modzy/default.yaml or a prompt.
    """
    from servekit.publish.modzy import client as api
    from servekit.publish.modzy import publish as steps
    from servekit.publish.modzy.credentials import access

    plan = _plan(image, report, options)
    words = ("--endpoint", endpoint) if endpoint else ()
    plan = replace(plan, where=words + (("--profile", profile) if profile != "default" else ()))
    allowed = access(endpoint, profile, insecure_http=insecure_http)
    with api.connected(allowed, lambda text: report.say("again", text)) as client:
        outcome = steps.publish(client, plan, report)
    page = _page(allowed, outcome["model_id"], plan.version)
    text = f"{outcome['model_id']} {plan.version} {outcome['status']}: {page}"
    report.result({**outcome, "url": page}, text)


@click.group()
def images() -> None:
    """The container images of models on Modzy."""


@images.command()
@click.option("--model-id", metavar="ID")
@click.option("--model-name", metavar="NAME", help="instead of --model-id")
@click.option("--version", required=True, metavar="X.Y.Z")
@access_options
@control_options
def show(
    model_id: str | None, model_name: str | None, version: str, endpoint: str | None, profile: str, report: Report,
    insecure_http: bool,
) -> None:  # fmt: skip
    """What the platform says of a version's container image."""
    from servekit.errors import ConfigError
    from servekit.publish.failures import Missing
    from servekit.publish.modzy import client as api
    from servekit.publish.modzy.credentials import access
    from servekit.publish.modzy.metadata import check_version
    from servekit.publish.modzy.publish import find

    if (model_id is None) == (model_name is None):
        raise ConfigError("expected one of --model-id and --model-name")
    check_version(version, "--version")
    if model_id is not None:
        api.check_identifier(model_id, "--model-id")
    with api.connected(access(endpoint, profile, insecure_http=insecure_http)) as client:
        identifier = model_id
        if identifier is None:
            found = find(client, _name(model_name or ""))
            if found is None:
                raise Missing(f"there is no model named {model_name!r}")
            identifier = found.identifier
        image = client.container_image(identifier, version)
    document = {"model_id": identifier, "version": version, "container_image": image.document()}
    report.result(document, _table(image))


# --- what is to be done ---


def _plan(text: str, report: Report, options: Mapping[str, Any]) -> Plan:
    """Raises ConfigError: everything that can be checked here is, before the platform hears of it."""
    from servekit.errors import ConfigError
    from servekit.publish.archive import Saved, is_named, read
    from servekit.publish.modzy import publish as steps
    from servekit.publish.modzy.client import check_identifier
    from servekit.publish.modzy.metadata import ARM, ARM_REQUIREMENT, check_version

    if not options["model_name"] and not options["model_id"]:
        raise ConfigError("--model-name: expected the name of the model, or --model-id, got neither")
    identifier = check_identifier(options["model_id"], "--model-id") if options["model_id"] else ""
    name = _name(options["model_name"]) if options["model_name"] else ""
    is_file = is_named(text)
    image = read(Path(text)) if is_file else _linked(text, options)
    metadata = _metadata(options)
    version = options["version"] or metadata.version
    if not version:
        raise ConfigError("--version: expected three integers such as 1.2.0, and model.yaml has none")
    check_version(version, "--version")
    if isinstance(image, Saved):
        digests, architecture = frozenset({image.digest}), image.architecture
        _check_saved(image, options)
        report.say("image", f"{text}, {', '.join(image.tags) or 'without a tag'}, {image.digest}")
    else:
        digests, architecture = _digests(text, options["digest"], report)
    arm = architecture in ARM
    if arm:
        report.say("image", f"{architecture}: the platform runs no sample on such images")
    return steps.Plan(
        name=name,
        identifier=identifier,
        version=version,
        image=image,
        digests=digests,
        metadata=metadata,
        run_timeout_s=options["run_timeout_s"] or metadata.run_timeout_s,
        status_timeout_s=options["status_timeout_s"] or metadata.status_timeout_s,
        requirement=ARM_REQUIREMENT if arm and options["requirement"] is None else options["requirement"],
        tags=tuple(tag.strip() for tag in (options["tags"] or "").split(",") if tag.strip()),
        samples={} if options["no_run_test"] or arm else _samples(options["samples"], metadata),
        load_test=not options["no_load_test"],
        run_test=not options["no_run_test"] and not arm,
        activate=not options["no_activate"],
        wait_s=options["wait_s"],
    )


def _linked(text: str, options: Mapping[str, Any]) -> Linked:
    from servekit.errors import ConfigError
    from servekit.publish.modzy.client import registry_url
    from servekit.publish.modzy.credentials import registry
    from servekit.publish.modzy.publish import Linked
    from servekit.publish.reference import parse

    reference = parse(text)
    if not reference.tag and not reference.digest:
        raise ConfigError(f"IMAGE {text!r}: expected a tag, such as {text}:1.0.0: what `latest` means changes")
    file = options["registry_credentials_file"]
    credentials = registry(Path(file) if file else None, reference)
    if options["registry_form"] == "manifest":
        url = registry_url(reference.registry, reference.repository, reference.tag, reference.digest)
    else:
        # The platform is told what stands behind `docker pull`: a digest, or a tag, of which the digest says more.
        url = str(replace(reference, tag="") if reference.digest else reference)
    return Linked(url, text, credentials)


def _digests(text: str, option: str | None, report: Report) -> tuple[frozenset[str], str]:
    """And the architecture, where it is known."""
    from servekit.errors import ConfigError
    from servekit.publish.modzy.digests import local
    from servekit.publish.reference import DIGEST, parse

    if option is not None and not DIGEST.fullmatch(option):
        raise ConfigError(f"--digest: expected sha256: and 64 digits of 0-9a-f, got {option[:80]!r}")
    reference = parse(text)
    named = frozenset(digest for digest in (option, reference.digest) if digest)
    if named:
        return named, ""
    found, architecture = local(reference)
    if found:
        report.say("image", f"{text}, {', '.join(sorted(found))}")
    else:
        report.say("image", f"{text}: no docker, podman or buildah here has it, so its digest is not known, and a "
                   "repeated publish cannot go on; --digest names it")  # fmt: skip
    return found, architecture


def _check_saved(image: Saved, options: Mapping[str, Any]) -> None:
    from servekit.errors import ConfigError

    for key in ("digest", "registry_credentials_file"):
        if options[key]:
            raise ConfigError(f"--{key.replace('_', '-')}: expected an IMAGE in a registry, got the file {image.path}")


def _metadata(options: Mapping[str, Any]) -> Metadata:
    from servekit.errors import ConfigError
    from servekit.publish.modzy import metadata

    if options["model_yaml"] and options["target"]:
        raise ConfigError("expected one of --model-yaml and --target, got both")
    if options["model_yaml"]:
        return metadata.of_file(Path(options["model_yaml"]))
    try:
        return metadata.of_target(options["target"], Path.cwd())
    except ConfigError as error:
        if options["target"]:
            raise
        raise ConfigError(
            f"--model-yaml or --target: expected one of them, as the current folder is no project: {error.message}"
        ) from error


def _samples(texts: Sequence[str], metadata: Metadata) -> dict[str, Path]:
    from servekit.errors import ConfigError

    inputs = list(metadata.inputs)
    found: dict[str, Path] = {}
    for text in texts:
        name, equals, file = text.partition("=")
        if not equals or name not in inputs:
            if len(inputs) > 1 or (equals and not Path(text).is_file()):
                raise ConfigError(f"--sample {text!r}: expected NAME=FILE, with a NAME of {', '.join(inputs)}")
            name, file = inputs[0], text
        if name in found:
            raise ConfigError(f"--sample {text!r}: expected one file for {name}, got two")
        path = Path(file)
        if not path.is_file():
            raise ConfigError(f"--sample {text!r}: no such file")
        if path.stat().st_size > metadata.inputs[name]:
            raise ConfigError(
                f"--sample {text!r}: expected at most {metadata.inputs[name]} bytes, as model.yaml has it, got "
                f"{path.stat().st_size}"
            )
        found[name] = path
    missing = [name for name in inputs if name not in found]
    if missing:
        raise ConfigError(
            f"--sample: expected a file for {', '.join(missing)}, for the run test: --sample {missing[0]}=FILE, "
            "or --no-run-test"
        )
    return found


def _name(text: str) -> str:
    from servekit.errors import ConfigError

    if not text.strip() or not text.isprintable() or len(text) > MAX_NAME_CHARS:
        raise ConfigError(f"--model-name: expected 1 to {MAX_NAME_CHARS} printable characters, got {text[:80]!r}")
    return text.strip()


# --- what is said ---


def _page(access: Access, identifier: str, version: str) -> str:
    """The model's page, as the vendor's client names it."""
    return f"{access.endpoint.removesuffix('/api')}/models/{identifier}/{version}"


def _table(image: ContainerImage) -> str:
    rows = image.document()
    if not rows:
        return "no container image"
    width = max(map(len, rows))
    return "\n".join(f"{key:<{width}}  {_cell(value)}" for key, value in rows.items())


def _cell(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:g}"
    return str(value) if isinstance(value, (str, int)) else repr(value)
