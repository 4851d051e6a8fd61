"""What SageMaker, and AWS Marketplace above all, would refuse hours later: looked at before anything is made.

Source: AWS Marketplace guide, "Model package images" and "ML service restrictions and limits"; developer guide, "Create
a Model Package Resource"; botocore's service model.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from servekit.publish.failures import Refused
from servekit.publish.report import Report
from servekit.publish.sagemaker import fields

Level = Literal["must", "should", "note"]

# Regions that an account has to enable first; Marketplace takes no model package from them.
OPT_IN_REGIONS = frozenset(
    [
        *("af-south-1", "ap-east-1", "ap-east-2", "ap-south-2", "ap-southeast-3", "ap-southeast-4", "ap-southeast-5"),
        *("ap-southeast-6", "ap-southeast-7", "ca-west-1", "eu-central-2", "eu-south-1", "eu-south-2", "il-central-1"),
        *("me-central-1", "me-south-1", "mx-central-1"),
    ]
)
# Deep learning containers and built-in algorithms.
AWS_ACCOUNTS = frozenset(["763104351884", "683313688378", "246618743249", "520713654638", "785573368785"])
CAPABILITY = "com.amazonaws.sagemaker.capabilities."
BIND_TO_PORT = f"{CAPABILITY}accept-bind-to-port"
MEBIBYTE = 1024 * 1024
REALTIME_SAMPLE_BYTES = 25 * MEBIBYTE
LARGE_IMAGE_BYTES = 10 * 1024 * MEBIBYTE
ARCHITECTURES = {"amd64": False, "x86_64": False, "arm64": True, "aarch64": True}


@dataclass(frozen=True, slots=True)
class Finding:
    """fix: what to do about it, or ""."""

    level: Level
    text: str
    fix: str = ""

    def __str__(self) -> str:
        return f"{self.level:<6}  {self.text}" + (f": {self.fix}" if self.fix else "")


@dataclass(frozen=True, slots=True)
class Plan:
    """
    What is about to be made. registry_account: "" where nobody knows. bucket_region: "" without a bucket.
    architecture, labels, image_bytes: of the local image, where there is one.
    """

    certify: bool
    account: str
    region: str
    versioned: bool
    registry_account: str = ""
    registry_region: str = ""
    bucket_region: str = ""
    transform_types: Sequence[str] = ()
    realtime_types: Sequence[str] = ()
    content_types: Sequence[str] = ()
    response_types: Sequence[str] = ()
    role: str = ""
    sample_type: str = ""
    sample_bytes: int = 0
    has_sample: bool = False
    architecture: str = ""
    labels: Mapping[str, str] | None = None
    image_bytes: int = 0


def look(plan: Plan) -> list[Finding]:
    found = [*_always(plan), *(_marketplace(plan) if plan.certify else ())]
    order = ("must", "should", "note")
    return sorted(found, key=lambda finding: order.index(finding.level))


def report_all(findings: Sequence[Finding], report: Report) -> None:
    """All of them are said. Raises Refused when there is one that must not be."""
    for finding in findings:
        report.say(finding.level, finding.text + (f": {finding.fix}" if finding.fix else ""))
    musts = [finding for finding in findings if finding.level == "must"]
    if musts:
        more = "" if len(musts) == 1 else f", and {len(musts) - 1} more"
        raise Refused(
            f"not ready for SageMaker, nothing was made: {musts[0].text}{more}",
            hint=musts[0].fix if len(musts) == 1 else "see every `must` above",
            details="\n".join(str(finding) for finding in musts) if len(musts) > 1 else "",
        )


def document(findings: Sequence[Finding]) -> list[dict[str, Any]]:
    return [{"level": finding.level, "text": finding.text, "fix": finding.fix} for finding in findings]


def _always(plan: Plan) -> Iterator[Finding]:
    if plan.registry_region and plan.registry_region != plan.region:
        yield Finding(
            "must", f"the image is in {plan.registry_region}, the model package is to be in {plan.region}",
            "push it to the package's region, or name another --region",
        )  # fmt: skip
    if plan.bucket_region and plan.bucket_region != plan.region:
        yield Finding(
            "must", f"the bucket is in {plan.bucket_region}, the model package is to be in {plan.region}",
            "name another --bucket, or another --region",
        )  # fmt: skip
    if not plan.versioned:
        missing = [
            option
            for option, types in (
                ("--transform-instance-types", plan.transform_types),
                ("--realtime-instance-types", plan.realtime_types),
            )
            if not types
        ]
        if missing:
            yield Finding(
                "must", "a model package without a group says on which instances it runs", " and ".join(missing)
            )
    if not plan.content_types or not plan.response_types:
        yield Finding("must", "there are no content types", "--content-types and --response-types, or --target")
    yield from _processors(plan)
    if plan.role and not (plan.has_sample and plan.transform_types):
        yield Finding(
            "must", "--role is for a validation, which needs something to send and an instance",
            "--sample and --transform-instance-types",
        )  # fmt: skip


def _processors(plan: Plan) -> Iterator[Finding]:
    types = (*plan.transform_types, *plan.realtime_types)
    graviton = [kind for kind in types if fields.is_graviton(kind)]
    arm = ARCHITECTURES.get(plan.architecture)
    if graviton and len(graviton) < len(types):
        yield Finding(
            "must", f"{graviton[0]} is an ARM machine and others are not, and an image is for one of them",
            "one package for each",
        )  # fmt: skip
    elif arm is not None and types and arm != bool(graviton):
        yield Finding(
            "must", f"the image is for {plan.architecture}, and {types[0]} is not",
            "servekit build --arch " + ("amd64" if arm else "arm64"),
        )  # fmt: skip


def _marketplace(plan: Plan) -> Iterator[Finding]:
    if plan.versioned:
        yield Finding("must", "Marketplace takes packages without a group", "--package-name instead of --group")
    if plan.registry_account in AWS_ACCOUNTS:
        yield Finding(
            "must", "the image is one of AWS's own, and Marketplace wants the seller's",
            "push an image of your own: `servekit build` makes one",
        )  # fmt: skip
    elif plan.registry_account and plan.registry_account != plan.account:
        yield Finding(
            "must", f"the image is in account {plan.registry_account}, and the seller is {plan.account}",
            "push it to a repository of your own",
        )  # fmt: skip
    if plan.region in OPT_IN_REGIONS:
        yield Finding(
            "must", f"{plan.region} is a region to opt in to, of which Marketplace takes none", "another --region"
        )
    if not plan.role:
        yield Finding("must", "the validation runs in your account and needs a role", "--role")
    if not plan.has_sample:
        yield Finding("must", "the validation is a batch transform and needs something to send", "--sample")
    elif plan.sample_type not in plan.content_types:
        yield Finding(
            "should", f"the sample is {plan.sample_type}, which is none of the content types",
            "--sample-content-type, or --content-types",
        )  # fmt: skip
    if plan.sample_bytes > REALTIME_SAMPLE_BYTES:
        yield Finding(
            "should",
            f"the sample has {plan.sample_bytes / MEBIBYTE:.0f} MiB, and an endpoint takes 25 MB",
            "a smaller one",
        )
    if plan.labels is not None:
        yield from _labels(plan.labels)
    if plan.image_bytes > LARGE_IMAGE_BYTES:
        yield Finding("should", f"the image has {plan.image_bytes / 1024**3:.0f} GiB unpacked", "buyers wait for it")
    if not plan.architecture:
        yield Finding("note", "the image is not on this machine: its labels and processor were not looked at")
    types = (*plan.transform_types, *plan.realtime_types)
    if any(map(fields.is_gpu, types)) and not all(map(fields.is_gpu, types)):
        yield Finding("should", "some of the instances have GPUs and some have not", "one package for each kind")
    yield Finding(
        "note", "buyers run the container without any network: nothing may be fetched when it starts",
        "try it: docker run --network none IMAGE serve",
    )  # fmt: skip
    yield Finding("note", "buyers cannot deploy it to asynchronous or serverless endpoints")
    yield Finding(
        "note", "AWS scans the image for known holes, and may show the sample to others: no personal data in it"
    )
    yield Finding("note", "an endpoint takes 25 MB and 60 s for each request, a batch 100 MB and 60 min")


def _labels(labels: Mapping[str, str]) -> Iterator[Finding]:
    if labels.get(BIND_TO_PORT) != "true":
        yield Finding(
            "should", f"the image has no label {BIND_TO_PORT}=true: pipelines refuse it",
            "servekit build --platform sagemaker",
        )  # fmt: skip
    for name, what in (("multi-models", "models loaded by request"), ("bidirectional-streaming", "WebSockets")):
        if labels.get(f"{CAPABILITY}{name}") == "true":
            yield Finding("should", f"the image's label {CAPABILITY}{name} promises {what}, which servekit has not")
