"""`servekit publish sagemaker`, `deploy sagemaker`, `undeploy sagemaker`."""

from __future__ import annotations

import sys
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from servekit.cli.control import Command, control_options, wait_options

if TYPE_CHECKING:
    from servekit.containers import Product
    from servekit.publish.engine import LocalImage
    from servekit.publish.report import Report
    from servekit.publish.sagemaker.aws import Account
    from servekit.publish.sagemaker.ecr import Image, Wanted
    from servekit.publish.sagemaker.package import Package, Specification
    from servekit.publish.sagemaker.preflight import Finding
    from servekit.publish.sagemaker.s3 import Bucket, File


def _aws_options(command: Command) -> Command:
    """Where and as whom; never with what secret."""
    for option in (
        click.option("--endpoint-url", metavar="URL", help="AWS's API, for an emulator  [default: as boto3 has it]"),
        click.option("--profile", metavar="NAME", help="of ~/.aws  [default: as boto3 has it]"),
        click.option("--region", metavar="NAME", help="of AWS  [default: as boto3 has it]"),
    ):
        command = option(command)
    return command


@dataclass(frozen=True, slots=True)
class _Asked:
    """The options of `publish`, as they were typed."""

    image: str
    region: str | None
    profile: str | None
    endpoint_url: str | None
    repository: str | None
    push: bool
    create_repository: bool
    artifact: str | None
    model_data_url: str | None
    bucket: str | None
    prefix: str | None
    group: str | None
    package_name: str | None
    target: str | None
    description: str | None
    approve: bool
    certify: bool
    transform_instance_types: tuple[str, ...]
    realtime_instance_types: tuple[str, ...]
    content_types: tuple[str, ...]
    response_types: tuple[str, ...]
    sample: str | None
    sample_content_type: str | None
    domain: str | None
    task: str | None
    role: str | None
    environment: tuple[str, ...]
    wait_s: float


@click.command(context_settings={"max_content_width": 110})
@click.argument("image")
@_aws_options
@click.option("--repository", metavar="NAME", help="of ECR  [default: IMAGE's name]")
@click.option("--push/--no-push", default=True, help="push the image from this machine, if it has it  [default: push]")
@click.option("--create-repository", is_flag=True, help="make the repository if it is not there")
@click.option("--artifact", metavar="FILE", help="model.tar.gz, to be uploaded; without it the image has the model")
@click.option("--model-data-url", metavar="S3URL", help="a model.tar.gz that is in S3 already")
@click.option("--bucket", metavar="NAME", help="for what is uploaded  [default: sagemaker-REGION-ACCOUNT]")
@click.option("--prefix", metavar="PATH", help="in the bucket  [default: servekit/NAME]")
@click.option("--group", metavar="NAME", help="make a version in this group  [default: the project's name]")
@click.option("--package-name", metavar="NAME", help="make a model package without a group, as Marketplace takes it")
@click.option("--target", metavar="TARGET", help="predictor to read the media types from  [default: the project here]")
@click.option("--description", metavar="TEXT", help="[default: the project's summary]")
@click.option("--content-types", multiple=True, metavar="TYPES", help="[default: what the predictor's inputs allow]")
@click.option("--response-types", multiple=True, metavar="TYPES", help="[default: what its outputs allow]")
@click.option("--transform-instance-types", multiple=True, metavar="TYPES", help="for batches, such as ml.m5.large")
@click.option("--realtime-instance-types", multiple=True, metavar="TYPES", help="for endpoints, such as ml.c7i.large")
@click.option("--environment", multiple=True, metavar="NAME=VALUE", help="variable of the container; no secrets")
@click.option("--sample", metavar="FILE", help="body of a request, for load tests and validation")
@click.option("--sample-content-type", metavar="TYPE", help="[default: by its name]")
@click.option("--role", metavar="ARN", help="run a batch transform of the sample as this role, to validate")
@click.option("--domain", metavar="TEXT", help="such as COMPUTER_VISION")
@click.option("--task", metavar="TEXT", help="such as IMAGE_CLASSIFICATION")
@click.option("--approve", is_flag=True, help="approve the version once it is completed")
@click.option("--certify", is_flag=True, help="for AWS Marketplace: looks at what it demands before anything is made")
@wait_options
@control_options
def publish(*, report: Report, insecure_http: bool, **options: Any) -> None:
    """Push IMAGE to ECR and make a SageMaker model package of it, with its model data in S3.

    IMAGE is one of this machine, or one in ECR already. What is there is not made twice.
    """
    asked = _Asked(**options)
    _Publication(asked, report, insecure_http=insecure_http).run()


class _Publication:
    """One run of `publish`."""

    def __init__(self, asked: _Asked, report: Report, *, insecure_http: bool) -> None:
        self.asked, self.report, self.insecure_http = asked, report, insecure_http

    def run(self) -> None:
        from servekit.publish.sagemaker import ecr, fields, package, preflight

        asked, report = self.asked, self.report
        _check_together(asked)
        place = ecr.wanted(asked.image, asked.repository)
        archive, sample = self._files()
        product = self._product()
        draft = self._draft(place, product, sample)
        prefix = fields.prefix("--prefix", asked.prefix or f"servekit/{draft.group or draft.name}")
        account = self._account()
        local = self._local(place)
        bucket, trouble = self._bucket_or_trouble(account, needed=bool(archive or sample))
        findings = self._look(account, place, local, bucket, draft, trouble)
        image = ecr.hand_over(account, place, local, push=asked.push, create=asked.create_repository, report=report)
        self._check_length(image)
        draft = self._uploaded(account, bucket, prefix, (archive, sample), replace(draft, image=image.uri))
        if draft.group:
            package.ensure_group(account, draft.group, draft.description, report)
        found = package.ensure(account, draft, report)
        if asked.wait_s:
            found = package.wait(account, found.arn, limit_s=asked.wait_s, report=report)
            if asked.approve:
                found = package.approve(account, found, report)
        self._result(account, image, draft, found, preflight.document(findings))

    def _account(self) -> Account:
        from servekit.publish.sagemaker import aws

        asked = self.asked
        found = aws.account(asked.region, asked.profile, asked.endpoint_url, insecure_http=self.insecure_http)
        self.report.say("account", f"{found.id} in {found.region}, as {found.arn}")
        return found

    def _files(self) -> tuple[File | None, File | None]:
        from servekit.publish.sagemaker import s3

        asked = self.asked
        archive = s3.archive("--artifact", asked.artifact) if asked.artifact else None
        return archive, s3.sample("--sample", asked.sample) if asked.sample else None

    def _product(self) -> Product | None:
        """None where all that it would tell was typed."""
        asked = self.asked
        named = asked.group or asked.package_name
        if asked.target is None and named and asked.content_types and asked.response_types:
            return None
        from servekit.images import project

        found = project.find(asked.target, Path.cwd()).product
        self.report.say("project", f"{found.name} {found.version}")
        return found

    def _draft(self, place: Wanted, product: Product | None, sample: File | None) -> Specification:
        """All of it but what the platform answers."""
        from servekit.publish.sagemaker import fields, types
        from servekit.publish.sagemaker.package import Specification

        asked = self.asked
        signature = product.signature if product is not None else None
        content = fields.media_types("--content-types", asked.content_types, fields.MAX_CONTENT_TYPE_CHARS)
        response = fields.media_types("--response-types", asked.response_types, fields.MAX_RESPONSE_TYPE_CHARS)
        description = asked.description if asked.description is not None else (product.summary if product else "")
        name = fields.name("--package-name", asked.package_name) if asked.package_name else ""
        if asked.model_data_url:
            fields.model_data_url("--model-data-url", asked.model_data_url)
        if asked.bucket:
            fields.bucket("--bucket", asked.bucket)
        sample_type = ""
        if sample is not None:
            named = (asked.sample_content_type,) if asked.sample_content_type else ()
            typed = fields.media_types("--sample-content-type", named, fields.MAX_CONTENT_TYPE_CHARS)
            sample_type = typed[0] if typed else types.of_sample(sample.path, signature)
        return Specification(
            image=str(place),
            group=""
            if name
            else fields.name("--group", asked.group or fields.as_name(product.name if product else "")),
            name=name,
            content_types=content or (types.content_types(signature) if signature else ()),
            response_types=response or (types.response_types(signature) if signature else ()),
            transform_types=fields.instance_types("--transform-instance-types", asked.transform_instance_types),
            realtime_types=fields.instance_types("--realtime-instance-types", asked.realtime_instance_types),
            environment=fields.environment("--environment", asked.environment),
            description=_description(description),
            domain=asked.domain or "",
            task=asked.task or "",
            sample_type=sample_type,
            sample_bytes=sample.size if sample is not None else 0,
            validation=(fields.role("--role", asked.role), "", "") if asked.role else None,
            model_data_url=asked.model_data_url or "",
            certify=asked.certify,
        )

    def _local(self, place: Wanted) -> LocalImage | None:
        from servekit.publish import engine
        from servekit.publish.sagemaker.ecr import describe

        found = engine.local_image(place.source) if self.asked.push else None
        if found is not None:
            self.report.say("local", f"{place.source}: {describe(found)}")
        return found

    def _bucket_or_trouble(self, account: Account, *, needed: bool) -> tuple[Bucket | None, list[Finding]]:
        """With --certify all that is wrong is told at once, this as well."""
        from servekit.publish.failures import Forbidden, Missing, Refused
        from servekit.publish.sagemaker.preflight import Finding

        try:
            return self._bucket(account, needed=needed), []
        except (Missing, Forbidden, Refused) as error:
            if not self.asked.certify:
                raise
            return None, [Finding("must", error.message, error.hint)]

    def _bucket(self, account: Account, *, needed: bool) -> Bucket | None:
        from servekit.publish.sagemaker import fields, s3

        asked = self.asked
        if asked.model_data_url:
            data = s3.bucket(account, fields.model_data_url("--model-data-url", asked.model_data_url)[0], own=False)
            s3.check_region(data, account.region)
        if asked.model_data_url and not needed:
            return data
        if not needed:
            return None
        named = asked.bucket or s3.default_bucket(account)
        found = s3.bucket(account, named, own=asked.bucket is None)
        s3.warn_of_the_public(account, found, self.report)
        return found

    def _look(
        self,
        account: Account,
        place: Wanted,
        local: LocalImage | None,
        bucket: Bucket | None,
        draft: Specification,
        trouble: list[Finding],
    ) -> list[Finding]:
        from servekit.publish.sagemaker import preflight

        findings = preflight.look(
            preflight.Plan(
                certify=draft.certify,
                account=account.id,
                region=account.region,
                versioned=bool(draft.group),
                registry_account=place.account or account.id,
                registry_region=place.region,
                bucket_region=bucket.region if bucket is not None else "",
                transform_types=draft.transform_types,
                realtime_types=draft.realtime_types,
                content_types=draft.content_types,
                response_types=draft.response_types,
                role=draft.validation[0] if draft.validation else "",
                sample_type=draft.sample_type,
                sample_bytes=draft.sample_bytes,
                has_sample=bool(draft.sample_bytes),
                architecture=local.architecture if local is not None else "",
                labels=local.labels if local is not None else None,
                image_bytes=local.size_bytes if local is not None else 0,
            )
        )
        findings = trouble + findings
        preflight.report_all(findings, self.report)
        return findings

    def _check_length(self, image: Image) -> None:
        from servekit.errors import ConfigError
        from servekit.publish.sagemaker.fields import MAX_IMAGE_CHARS

        if len(image.uri) > MAX_IMAGE_CHARS:
            raise ConfigError(f"--repository: expected an image of at most {MAX_IMAGE_CHARS} characters: {image.uri}")

    def _uploaded(
        self,
        account: Account,
        bucket: Bucket | None,
        prefix: str,
        files: tuple[File | None, File | None],
        draft: Specification,
    ) -> Specification:
        from servekit.publish.sagemaker import s3

        report = self.report
        archive, sample = files
        if bucket is None or not (archive or sample):
            return draft
        if archive is not None:
            url = s3.upload(account, bucket, archive, prefix, "model.tar.gz", report)
            draft = replace(draft, model_data_url=url)
        if sample is not None and draft.validation is not None:
            url = s3.upload(account, bucket, sample, f"{prefix}/samples", _object_name(sample), report)
            results = f"s3://{bucket.name}/{prefix}/validation/"
            draft = replace(draft, validation=(draft.validation[0], url, results))
        if sample is not None and draft.group:
            url = s3.upload(account, bucket, s3.packed(sample), f"{prefix}/samples", "sample.tar.gz", report)
            draft = replace(draft, sample_url=url)
        return draft

    def _result(
        self, account: Account, image: Image, draft: Specification, found: Package, findings: list[dict[str, Any]]
    ) -> None:
        report = self.report
        if found.status == "Completed" and not draft.certify:
            approved = found.approval in ("", "Approved")
            report.say(
                "next",
                f"servekit deploy sagemaker {found.arn} --endpoint-name NAME --instance-type TYPE --role ARN"
                if approved
                else "approve it: the same command with --approve",
            )
        elif draft.certify and found.status == "Completed":
            report.say("next", "list it in the AWS Marketplace Management Portal, with this ARN")
        else:
            report.say("next", "the same command looks again, and waits")
        report.result(
            {
                "package": found.document(),
                "image": {"uri": image.uri, "digest": image.digest},
                "model_data_url": draft.model_data_url or None,
                "sample_url": draft.sample_url or None,
                "content_types": list(draft.content_types),
                "response_types": list(draft.response_types),
                "region": account.region,
                "account": account.id,
                "findings": findings,
            },
            found.arn,
        )


@click.command(context_settings={"max_content_width": 110})
@click.argument("model", metavar="PACKAGE-ARN|IMAGE")
@_aws_options
@click.option("--endpoint-name", required=True, metavar="NAME", help="the endpoint to make, or to update")
@click.option("--role", required=True, metavar="ARN", help="role that the containers run as")
@click.option("--instance-type", metavar="TYPE", help="such as ml.m5.large")
@click.option("--instance-count", type=click.IntRange(1, 1000), default=1, show_default=True)
@click.option("--serverless", metavar="MB,CALLS", help="without instances: memory, and calls at once, such as 2048,10")
@click.option("--model-data-url", metavar="S3URL", help="model.tar.gz in S3, for an IMAGE")
@click.option("--environment", multiple=True, metavar="NAME=VALUE", help="variable of the container; no secrets")
@click.option("--network-isolation", is_flag=True, help="no network for the container")
@click.option("--health-check-timeout-s", type=click.IntRange(60, 3600), help="time for the container to be healthy")
@click.option("--model-download-timeout-s", type=click.IntRange(60, 3600), help="time for the model data to arrive")
@wait_options
@control_options
def deploy(
    model: str, *, report: Report, insecure_http: bool, region: str | None, profile: str | None,
    endpoint_url: str | None, wait_s: float, **options: Any,
) -> None:  # fmt: skip
    """Make or update an endpoint that serves a model package, or an IMAGE in ECR.

    The same command again finds what is there, and waits on.
    """
    from servekit.errors import ConfigError
    from servekit.publish.sagemaker import aws, ecr, endpoint, fields
    from servekit.publish.sagemaker.endpoint import Deployment

    if bool(options["instance_type"]) == bool(options["serverless"]):
        raise ConfigError("--instance-type or --serverless: expected one of them")
    serverless = fields.serverless("--serverless", options["serverless"]) if options["serverless"] else None
    for option in ("network_isolation", "health_check_timeout_s", "model_download_timeout_s"):
        if serverless is not None and options[option]:
            raise ConfigError(f"--{option.replace('_', '-')}: serverless endpoints have no such thing")
    package = fields.PACKAGE_ARN.fullmatch(model)
    if model.startswith("arn:") and package is None:
        raise ConfigError(f"PACKAGE-ARN {model[:200]!r}: expected arn:aws:sagemaker:REGION:ACCOUNT:model-package/NAME")
    if options["model_data_url"]:
        fields.model_data_url("--model-data-url", options["model_data_url"])
        if package is not None:
            raise ConfigError("--model-data-url: a model package brings its own")
    wanted = Deployment(
        endpoint=fields.name("--endpoint-name", options["endpoint_name"]),
        role=fields.role("--role", options["role"]),
        image="" if package is not None else model,
        package=model if package is not None else "",
        model_data_url=options["model_data_url"] or "",
        environment=fields.environment("--environment", options["environment"]),
        network_isolation=options["network_isolation"],
        instance_type=fields.instance_types("--instance-type", (options["instance_type"],))[0]
        if not serverless
        else "",
        instance_count=options["instance_count"],
        serverless=serverless,
        health_check_timeout_s=options["health_check_timeout_s"],
        model_download_timeout_s=options["model_download_timeout_s"],
    )
    if package is None:
        ecr.wanted(model, None)
    elif region is not None and package["region"] != region:
        raise ConfigError(f"--region {region}: expected {package['region']}, which the model package is in")
    account = aws.account(
        region or (package["region"] if package else None), profile, endpoint_url, insecure_http=insecure_http
    )
    report.say("account", f"{account.id} in {account.region}, as {account.arn}")
    wanted = (
        endpoint.checked(account, wanted)
        if package is not None
        else replace(wanted, image=ecr.resolved(account, model))
    )
    state = endpoint.deploy(account, wanted, wait_s=wait_s, report=report)
    report.say("logs", endpoint.logs(account, state.name))
    report.result({**state.document(), "model": wanted.model_name, "region": account.region}, state.arn or state.name)


@click.command(context_settings={"max_content_width": 110})
@click.argument("name")
@_aws_options
@click.option("--yes", is_flag=True, help="do not ask")
@control_options
def undeploy(
    name: str, *, report: Report, insecure_http: bool, region: str | None, profile: str | None,
    endpoint_url: str | None, yes: bool,
) -> None:  # fmt: skip
    """Remove the endpoint NAME, with the configurations and models that `deploy` made for it."""
    from servekit.errors import ConfigError
    from servekit.publish.sagemaker import aws, endpoint, fields

    fields.name("NAME", name)
    account = aws.account(region, profile, endpoint_url, insecure_http=insecure_http)
    report.say("account", f"{account.id} in {account.region}, as {account.arn}")
    found = endpoint.parts(account, name)
    if found and not yes:
        what = [f"endpoint {name}"] if found.endpoint else []
        what += [f"config {config}" for config in found.configs] + [f"model {model}" for model in found.models]
        if not sys.stdin.isatty():
            raise ConfigError(f"--yes: expected, as nobody is here to be asked; it would remove {', '.join(what)}")
        click.confirm(f"Remove {', '.join(what)} of account {account.id} in {account.region}?", abort=True, err=True)
    if found:
        endpoint.remove(account, name, found, report)
    else:
        report.say("endpoint", f"{name} is not there, nor anything that `deploy` made for it")
    for command in found.left:
        report.say("left", f"not made by servekit; to remove it: {command}")
    report.say("left", f"the logs: /aws/sagemaker/Endpoints/{name}; model packages, images and model data stay")
    report.result(
        {
            "endpoint": name, "removed": bool(found), "configs": list(found.configs), "models": list(found.models),
            "left": list(found.left), "region": account.region,
        },
        name if found else "nothing to remove",
    )  # fmt: skip


# --- options ---


def _check_together(asked: _Asked) -> None:
    from servekit.errors import ConfigError

    for one, other in (
        ("group", "package_name"),
        ("artifact", "model_data_url"),
    ):
        if getattr(asked, one) and getattr(asked, other):
            raise ConfigError(f"--{one.replace('_', '-')} and --{other.replace('_', '-')}: expected one of them")
    if asked.approve and asked.package_name:
        raise ConfigError("--approve: only versions in a group are approved")
    if asked.approve and not asked.wait_s:
        raise ConfigError("--approve: expected --wait-s above 0, as only a completed version is approved")
    if asked.create_repository and not asked.push:
        raise ConfigError("--create-repository: an image in a new repository has to be pushed")
    if asked.sample_content_type and not asked.sample:
        raise ConfigError("--sample-content-type: expected --sample as well")


def _description(text: str) -> str:
    from servekit.errors import ConfigError
    from servekit.publish.sagemaker.fields import MAX_DESCRIPTION_CHARS

    if len(text) > MAX_DESCRIPTION_CHARS or not text.isprintable():
        raise ConfigError(f"--description: expected one line of at most {MAX_DESCRIPTION_CHARS} characters")
    return text


def _object_name(sample: File) -> str:
    """The sample's own name where S3 takes it without further ado."""
    name = sample.path.name
    return name if name.isascii() and name.isprintable() and " " not in name else f"sample{sample.path.suffix}"
