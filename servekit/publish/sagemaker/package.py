"""Model packages: what one is made of, the one that is there already, and its way to Completed or Failed."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from servekit.publish.failures import Failed, Missing, PublishError, Refused
from servekit.publish.polling import until
from servekit.publish.report import Report
from servekit.publish.sagemaker.aws import Account, explained, is_there, said

COMPLETED, FAILED = "Completed", "Failed"
# Known: Pending, InProgress, Completed, Failed, Deleting. What is new goes on.
ENDED = frozenset([COMPLETED, FAILED])
APPROVED, PENDING_APPROVAL = "Approved", "PendingManualApproval"
# The versions of a group that are looked at for the same one, newest first.
MAX_LOOKED_AT = 50
PROFILE = "servekit"
MAX_PAYLOAD_MB = 100
DEFAULT_PAYLOAD_MB = 6
MEBIBYTE = 1024 * 1024


@dataclass(frozen=True, slots=True)
class Specification:
    """group or name: one of them. sample_url: of a .tar.gz. validation: (role, S3 URL of the input, of the output)."""

    image: str
    content_types: Sequence[str]
    response_types: Sequence[str]
    group: str = ""
    name: str = ""
    model_data_url: str = ""
    environment: Mapping[str, str] = field(default_factory=dict)
    transform_types: Sequence[str] = ()
    realtime_types: Sequence[str] = ()
    description: str = ""
    domain: str = ""
    task: str = ""
    sample_url: str = ""
    sample_type: str = ""
    sample_bytes: int = 0
    validation: tuple[str, str, str] | None = None
    certify: bool = False

    def inference(self) -> dict[str, Any]:
        """InferenceSpecification."""
        container: dict[str, Any] = {"Image": self.image}
        if self.model_data_url:
            container["ModelDataUrl"] = self.model_data_url
        if self.environment:
            container["Environment"] = dict(self.environment)
        document: dict[str, Any] = {
            "Containers": [container],
            "SupportedContentTypes": list(self.content_types),
            "SupportedResponseMIMETypes": list(self.response_types),
        }
        if self.transform_types:
            document["SupportedTransformInstanceTypes"] = list(self.transform_types)
        if self.realtime_types:
            document["SupportedRealtimeInferenceInstanceTypes"] = list(self.realtime_types)
        return document

    def validated(self) -> dict[str, Any] | None:
        """ValidationSpecification: one batch transform of the sample, one request at a time."""
        if self.validation is None:
            return None
        role, source, result = self.validation
        payload_mb = min(MAX_PAYLOAD_MB, max(DEFAULT_PAYLOAD_MB, -(-self.sample_bytes // MEBIBYTE)))
        job = {
            "MaxConcurrentTransforms": 1,
            "MaxPayloadInMB": payload_mb,
            "BatchStrategy": "SingleRecord",
            "TransformInput": {
                "DataSource": {"S3DataSource": {"S3DataType": "S3Prefix", "S3Uri": source}},
                "ContentType": self.sample_type,
                "CompressionType": "None",
                "SplitType": "None",
            },
            "TransformOutput": {"S3OutputPath": result, "Accept": self.response_types[0], "AssembleWith": "None"},
            "TransformResources": {"InstanceType": self.transform_types[0], "InstanceCount": 1},
        }
        return {
            "ValidationRole": role,
            "ValidationProfiles": [{"ProfileName": PROFILE, "TransformJobDefinition": job}],
        }

    def request(self) -> dict[str, Any]:
        """CreateModelPackage's parameters, without the token."""
        document: dict[str, Any] = {"InferenceSpecification": self.inference()}
        if self.group:
            document |= {"ModelPackageGroupName": self.group, "ModelApprovalStatus": PENDING_APPROVAL}
        else:
            document["ModelPackageName"] = self.name
        validation = self.validated()
        if validation is not None:
            document["ValidationSpecification"] = validation
        for key, value in (
            ("ModelPackageDescription", self.description),
            ("Domain", self.domain),
            ("Task", self.task),
            # Only versions in a group are load tested.
            ("SamplePayloadUrl", self.sample_url if self.group else ""),
        ):
            if value:
                document[key] = value
        if self.certify:
            document["CertifyForMarketplace"] = True
        return document

    def differences(self, found: Mapping[str, Any]) -> list[str]:
        """The fields in which a package that is there is another one. Descriptions do not make a model another."""
        left, right = _comparable(self.request()), _comparable(found)
        return sorted(key for key in left.keys() | right.keys() if left.get(key) != right.get(key))


@dataclass(frozen=True, slots=True)
class Package:
    """As DescribeModelPackage has it; unknown fields stay in `raw`."""

    arn: str
    status: str
    approval: str
    version: int | None
    raw: Mapping[str, Any]

    @property
    def items(self) -> list[tuple[str, str, str, str]]:
        """What is looked at within: (scan or validation, name, status, reason)."""
        details = self.raw.get("ModelPackageStatusDetails") or {}
        return [
            (what, str(item.get("Name", "")), str(item.get("Status", "")), str(item.get("FailureReason") or ""))
            for what, key in (("scan", "ImageScanStatuses"), ("validation", "ValidationStatuses"))
            for item in details.get(key) or ()
        ]

    def document(self) -> dict[str, Any]:
        return {
            "arn": self.arn,
            "status": self.status,
            "approval": self.approval or None,
            "version": self.version,
            "details": [
                {"what": what, "name": name, "status": status, "reason": reason}
                for what, name, status, reason in self.items
            ],
        }


def describe(account: Account, arn: str) -> Package:
    with explained(f"model package {arn}"):
        answer = account.sagemaker.describe_model_package(ModelPackageName=arn)
    raw: Mapping[str, Any] = dict(answer)
    return Package(
        said(raw, "ModelPackageArn", f"model package {arn}"),
        said(raw, "ModelPackageStatus", f"model package {arn}"),
        str(raw.get("ModelApprovalStatus") or ""),
        raw.get("ModelPackageVersion"),
        raw,
    )


def ensure_group(account: Account, name: str, description: str, report: Report) -> None:
    look = f"aws sagemaker describe-model-package-group --model-package-group-name {name} --region {account.region}"
    try:
        with explained(f"model package group {name}"):
            account.sagemaker.describe_model_package_group(ModelPackageGroupName=name)
    except Missing:
        pass
    else:
        report.say("group", f"{name} is there already")
        return
    with report.making("group", name, look=look) as made:
        more: dict[str, Any] = {"ModelPackageGroupDescription": description} if description else {}
        try:
            with explained(f"model package group {name}"):
                account.sagemaker.create_model_package_group(ModelPackageGroupName=name, **more)
        except Refused as error:
            if not is_there(error):
                raise
        made.undo = (
            f"aws sagemaker delete-model-package-group --model-package-group-name {name} --region {account.region}"
        )
    report.say("group", name)


def ensure(account: Account, wanted: Specification, report: Report) -> Package:
    """The package that is there, or a new one. Raises Refused when the name has another one, Failed when it failed."""
    found, failed = _in_group(account, wanted) if wanted.group else (_named(account, wanted), None)
    if found is not None:
        report.say("package", f"{found.arn} is there already, with the same image, model data and specification")
        return found
    return _create(account, wanted, failed, report)


def wait(account: Account, arn: str, *, limit_s: float, report: Report) -> Package:
    """Until it is Completed. Raises Failed with the reasons, StillGoing."""
    told: dict[tuple[str, str], str] = {}

    def seen(package: Package) -> None:
        for what, name, status, reason in package.items:
            if told.get((what, name)) != status:
                told[what, name] = status
                report.say(what, f"{name}: {status}" + (f": {reason}" if reason else ""))
        if told.get(("status", "")) != package.status:
            told["status", ""] = package.status
            report.say("status", package.status)

    package = until(
        lambda: describe(account, arn), lambda package: package.status in ENDED, limit_s=limit_s, seen=seen,
        what=f"model package {arn}", resume="the same command goes on waiting; --wait-s sets for how long",
    )  # fmt: skip
    if package.status == FAILED:
        raise failure(package, account.region)
    return package


def failure(package: Package, region: str) -> Failed:
    reasons = [
        f"{what} of {name}: {reason or 'no reason given'}"
        for what, name, status, reason in package.items
        if status == FAILED
    ]
    name = package.arn.partition(":model-package/")[2]
    return Failed(
        f"model package {name} failed: {'; '.join(reasons) or 'SageMaker gives no reason'}",
        hint=(
            f"mend the cause, then: aws sagemaker delete-model-package --model-package-name {package.arn} "
            f"--region {region}; the logs of a validation are in CloudWatch, /aws/sagemaker/TransformJobs"
        ),
        details="\n".join(reasons) if len(reasons) > 1 else "",
    )


def approve(account: Account, package: Package, report: Report) -> Package:
    if package.approval == APPROVED:
        report.say("approval", "it is approved already")
        return package
    with explained(f"approval of {package.arn}"):
        account.sagemaker.update_model_package(ModelPackageArn=package.arn, ModelApprovalStatus="Approved")
    report.say("approval", "approved")
    return describe(account, package.arn)


# --- the same one ---


def _in_group(account: Account, wanted: Specification) -> tuple[Package | None, Package | None]:
    """The newest that is the same and has not failed; and the newest that is the same and has."""
    with explained(f"model packages of {wanted.group}"):
        answer = account.sagemaker.list_model_packages(
            ModelPackageGroupName=wanted.group, SortBy="CreationTime", SortOrder="Descending", MaxResults=MAX_LOOKED_AT
        )
    failed = None
    for summary in answer["ModelPackageSummaryList"]:
        package = describe(account, said(summary, "ModelPackageArn", f"model packages of {wanted.group}"))
        if wanted.differences(package.raw):
            continue
        if package.status not in (FAILED, "Deleting"):
            return package, None
        failed = failed or package
    return None, failed


def _named(account: Account, wanted: Specification) -> Package | None:
    try:
        package = describe(account, wanted.name)
    except Missing:
        return None
    differences = wanted.differences(package.raw)
    if differences:
        raise Refused(
            f"model package {wanted.name} is there already, with another {', '.join(differences)}",
            hint=f"take another --package-name, or remove it: aws sagemaker delete-model-package --model-package-name "
            f"{wanted.name} --region {account.region}",
        )
    if package.status == FAILED:
        raise failure(package, account.region)
    return package


def _create(account: Account, wanted: Specification, failed: Package | None, report: Report) -> Package:
    what = f"model package {wanted.group or wanted.name}"
    request = wanted.request()
    # Asked again after an answer that got lost, SageMaker answers with the first one. One that failed is not asked for.
    text = json.dumps([request, failed.arn if failed else ""], sort_keys=True)
    request["ClientToken"] = hashlib.sha256(text.encode()).hexdigest()[:32]
    look = (
        f"aws sagemaker list-model-packages --model-package-group-name {wanted.group}"
        if wanted.group
        else f"aws sagemaker describe-model-package --model-package-name {wanted.name}"
    )
    with report.making("package", wanted.group or wanted.name, look=f"{look} --region {account.region}") as made:
        try:
            with explained(what):
                arn = said(account.sagemaker.create_model_package(**request), "ModelPackageArn", what)
        except PublishError as error:
            if not wanted.group and is_there(error):
                # Made by the first of two requests, whose answer got lost.
                found = _named(account, wanted)
                if found is not None:
                    return found
            raise
        made.name = arn
        made.undo = f"aws sagemaker delete-model-package --model-package-name {arn} --region {account.region}"
    report.say("package", arn)
    return describe(account, arn)


def _comparable(document: Mapping[str, Any]) -> dict[str, Any]:
    """The fields that make a model package what it is. SageMaker adds some of its own."""
    inference = document.get("InferenceSpecification") or {}
    containers = inference.get("Containers") or [{}]
    found: dict[str, Any] = {"containers": len(containers)}
    for key in ("Image", "ModelDataUrl", "Environment"):
        found[key] = containers[0].get(key) or None
    for key in (
        *("SupportedContentTypes", "SupportedResponseMIMETypes", "SupportedTransformInstanceTypes"),
        "SupportedRealtimeInferenceInstanceTypes",
    ):
        found[key] = list(inference.get(key) or ())
    found["CertifyForMarketplace"] = bool(document.get("CertifyForMarketplace"))
    validation = document.get("ValidationSpecification") or {}
    found["ValidationRole"] = validation.get("ValidationRole")
    profiles = validation.get("ValidationProfiles") or [{}]
    job = profiles[0].get("TransformJobDefinition") or {}
    source = ((job.get("TransformInput") or {}).get("DataSource") or {}).get("S3DataSource") or {}
    found["the sample"] = source.get("S3Uri")
    return found
