"""Endpoints: CreateModel, CreateEndpointConfig, CreateEndpoint, and what takes them away again.

Models and configurations have names that end with a digest of what they are made of: the same command finds them
again, and another one makes new ones beside them, as SageMaker wants it for an update without a gap.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from servekit.publish.failures import Failed, Missing, PublishError, Refused
from servekit.publish.polling import until
from servekit.publish.report import Report
from servekit.publish.sagemaker import fields
from servekit.publish.sagemaker.aws import Account, explained, is_there, said

VARIANT = "AllTraffic"
IN_SERVICE, FAILED = "InService", "Failed"
# Known: OutOfService, Creating, Updating, SystemUpdating, RollingBack, InService, Deleting, Failed,
# UpdateRollbackFailed. What is new goes on.
ENDED = frozenset([IN_SERVICE, FAILED, "OutOfService", "UpdateRollbackFailed"])
MAX_LISTED = 100
# Looks at an endpoint that was told to update and says nothing of it.
MAX_STALE = 3
DELETE_LIMIT_S = 900.0


@dataclass(frozen=True, slots=True)
class Deployment:
    """
    image or package: one of them; image with its digest, package its ARN. serverless: in place of instances.
    """

    endpoint: str
    role: str
    image: str = ""
    package: str = ""
    model_data_url: str = ""
    environment: Mapping[str, str] = field(default_factory=dict)
    network_isolation: bool = False
    instance_type: str = ""
    instance_count: int = 1
    serverless: Mapping[str, int] | None = None
    health_check_timeout_s: int | None = None
    model_download_timeout_s: int | None = None

    def model(self) -> dict[str, Any]:
        """CreateModel's parameters, without the name."""
        container: dict[str, Any] = {"ModelPackageName": self.package} if self.package else {"Image": self.image}
        if self.model_data_url:
            container["ModelDataUrl"] = self.model_data_url
        if self.environment:
            container["Environment"] = dict(self.environment)
        return {
            "PrimaryContainer": container,
            "ExecutionRoleArn": self.role,
            "EnableNetworkIsolation": self.network_isolation,
        }

    def variant(self) -> dict[str, Any]:
        """The one production variant, without the model."""
        document: dict[str, Any] = {"VariantName": VARIANT, "InitialVariantWeight": 1.0}
        if self.serverless is not None:
            return document | {"ServerlessConfig": dict(self.serverless)}
        document |= {"InstanceType": self.instance_type, "InitialInstanceCount": self.instance_count}
        if self.health_check_timeout_s is not None:
            document["ContainerStartupHealthCheckTimeoutInSeconds"] = self.health_check_timeout_s
        if self.model_download_timeout_s is not None:
            document["ModelDataDownloadTimeoutInSeconds"] = self.model_download_timeout_s
        return document

    @property
    def model_name(self) -> str:
        return fields.derived(self.endpoint, _digest(self.model()))

    @property
    def config_name(self) -> str:
        return fields.derived(self.endpoint, _digest([self.model_name, self.variant()]))


@dataclass(frozen=True, slots=True)
class State:
    """As DescribeEndpoint has it. pending: the configuration that an update leads to."""

    name: str
    arn: str
    status: str
    config: str
    reason: str = ""
    pending: str = ""

    def document(self) -> dict[str, Any]:
        return {"endpoint": self.name, "arn": self.arn, "status": self.status, "config": self.config}


def deploy(account: Account, wanted: Deployment, *, wait_s: float, report: Report) -> State:
    """Until it is InService; with wait_s 0, until SageMaker has begun. Raises Failed with the reason, StillGoing."""
    found = look(account, wanted.endpoint)
    if found is not None and found.status == FAILED:
        raise _failure(account, found, made_now=False)
    _ensure_model(account, wanted, report)
    _ensure_config(account, wanted, report)
    if found is not None and found.status not in ENDED and wanted.config_name not in (found.config, found.pending):
        if not wait_s:
            raise Refused(
                f"endpoint {found.name} is {found.status}, and cannot be updated meanwhile", hint="wait with --wait-s"
            )
        report.say("endpoint", f"{found.name} is {found.status}: waiting, before it can be updated")
        found = wait(account, wanted.endpoint, limit_s=wait_s, report=report)
        if found is not None and found.status == FAILED:
            raise _failure(account, found, made_now=False)
    if found is None:
        _create(account, wanted, report)
    elif wanted.config_name in (found.config, found.pending):
        report.say("endpoint", f"{found.name} is there already, with the same model and configuration")
    else:
        report.say("endpoint", f"{found.name} has {found.config}; updating to {wanted.config_name}")
        _update(account, wanted)
    if not wait_s:
        now = look(account, wanted.endpoint)
        return now or State(wanted.endpoint, "", "Creating", wanted.config_name)
    state = wait(account, wanted.endpoint, limit_s=wait_s, report=report, config=wanted.config_name)
    if state is None:
        raise Failed(f"endpoint {wanted.endpoint} was removed while it was waited for")
    if state.status != IN_SERVICE or state.config != wanted.config_name:
        raise _failure(account, state, made_now=True)
    return state


def look(account: Account, name: str) -> State | None:
    what = f"endpoint {name}"
    try:
        with explained(what):
            answer: Mapping[str, Any] = dict(account.sagemaker.describe_endpoint(EndpointName=name))
    except Missing:
        return None
    return State(
        name,
        said(answer, "EndpointArn", what),
        said(answer, "EndpointStatus", what),
        str(answer.get("EndpointConfigName") or ""),
        str(answer.get("FailureReason") or ""),
        str((answer.get("PendingDeploymentSummary") or {}).get("EndpointConfigName") or ""),
    )


def wait(account: Account, name: str, *, limit_s: float, report: Report, config: str = "") -> State | None:
    """None when it is gone.

    config: the one that is wanted; an endpoint that still serves another may not have begun to update.
    """
    told, stale = "", 0

    def ended(state: State | None) -> bool:
        nonlocal stale
        if state is None or state.status not in ENDED:
            stale = MAX_STALE  # it has begun
            return state is None
        if state.status == IN_SERVICE and config and state.config != config and stale < MAX_STALE:
            stale += 1
            return bool(state.reason)
        return True

    def seen(state: State | None) -> None:
        nonlocal told
        status = "gone" if state is None else state.status
        if status != told:
            told = status
            report.say("status", status + (f": {state.reason}" if state is not None and state.reason else ""))

    return until(
        lambda: look(account, name), ended, limit_s=limit_s, seen=seen,
        what=f"endpoint {name}", resume="the same command goes on waiting; --wait-s sets for how long",
    )  # fmt: skip


def logs(account: Account, name: str) -> str:
    return f"aws logs tail /aws/sagemaker/Endpoints/{name} --since 1h --region {account.region}"


def checked(account: Account, wanted: Deployment) -> Deployment:
    """What SageMaker would refuse of a model package, or later fail with. Raises Refused, Missing."""
    with explained(f"model package {wanted.package}"):
        package: Mapping[str, Any] = dict(account.sagemaker.describe_model_package(ModelPackageName=wanted.package))
    status = package.get("ModelPackageStatus")
    if status != "Completed":
        raise Refused(
            f"model package {wanted.package} is {status}",
            hint="`servekit publish sagemaker` waits until it is Completed",
        )
    approval = package.get("ModelApprovalStatus")
    if approval not in (None, "Approved"):
        raise Refused(
            f"model package {wanted.package} is {approval}",
            hint="approve it: servekit publish sagemaker ... --approve, or aws sagemaker update-model-package "
            f"--model-package-arn {wanted.package} --model-approval-status Approved --region {account.region}",
        )
    if package.get("CertifyForMarketplace") and wanted.serverless is not None:
        raise Refused(
            f"model package {wanted.package} is for AWS Marketplace, whose models run on no serverless endpoint",
            hint="--instance-type",
        )
    types = (package.get("InferenceSpecification") or {}).get("SupportedRealtimeInferenceInstanceTypes") or ()
    if wanted.instance_type and types and wanted.instance_type not in types:
        raise Refused(f"--instance-type {wanted.instance_type}: the model package is for {', '.join(types)}")
    # Marketplace's models run without a network, whoever deploys them.
    return replace(wanted, network_isolation=True) if package.get("CertifyForMarketplace") else wanted


# --- making ---


def _ensure_model(account: Account, wanted: Deployment, report: Report) -> None:
    name, client = wanted.model_name, account.sagemaker
    _ensure(
        account, "model", name, "model",
        lambda: client.describe_model(ModelName=name), lambda: client.create_model(ModelName=name, **wanted.model()),
        report,
    )  # fmt: skip


def _ensure_config(account: Account, wanted: Deployment, report: Report) -> None:
    name, client = wanted.config_name, account.sagemaker
    variants: Any = [wanted.variant() | {"ModelName": wanted.model_name}]
    _ensure(
        account, "config", name, "endpoint-config",
        lambda: client.describe_endpoint_config(EndpointConfigName=name),
        lambda: client.create_endpoint_config(EndpointConfigName=name, ProductionVariants=variants),
        report,
    )  # fmt: skip


def _create(account: Account, wanted: Deployment, report: Report) -> None:
    name, client = wanted.endpoint, account.sagemaker
    with report.making("endpoint", name, look=_aws(account, "describe", "endpoint", name)) as made:
        try:
            with explained(f"endpoint {name}"):
                client.create_endpoint(EndpointName=name, EndpointConfigName=wanted.config_name)
        except Refused as error:
            if not is_there(error):
                raise
        made.undo = f"servekit undeploy sagemaker {name} --region {account.region}"
    report.say("endpoint", name)


def _update(account: Account, wanted: Deployment) -> None:
    with explained(f"endpoint {wanted.endpoint}"):
        account.sagemaker.update_endpoint(EndpointName=wanted.endpoint, EndpointConfigName=wanted.config_name)


def _ensure(
    account: Account, what: str, name: str, noun: str, describe: Callable[[], object], create: Callable[[], object],
    report: Report,
) -> None:  # fmt: skip
    try:
        with explained(f"{what} {name}"):
            describe()
    except Missing:
        pass
    else:
        report.say(what, f"{name} is there already")
        return
    with report.making(what, name, look=_aws(account, "describe", noun, name)) as made:
        try:
            with explained(f"{what} {name}"):
                create()
        except Refused as error:
            # Made by the first of two requests, whose answer got lost.
            if not is_there(error):
                raise
        made.undo = _aws(account, "delete", noun, name)
    report.say(what, name)


def _failure(account: Account, state: State, *, made_now: bool) -> PublishError:
    if state.status == IN_SERVICE:
        return Failed(
            f"endpoint {state.name} was rolled back to {state.config}: {state.reason or 'SageMaker gives no reason'}",
            hint=f"it serves the model from before; its logs: {logs(account, state.name)}",
        )
    then = "" if made_now else " from an earlier deployment"
    return Failed(
        f"endpoint {state.name} is {state.status}{then}: {state.reason or 'SageMaker gives no reason'}",
        hint=f"see its logs: {logs(account, state.name)}; then servekit undeploy sagemaker {state.name} "
        f"--region {account.region}, and again",
    )


# --- removing ---


@dataclass(frozen=True, slots=True)
class Parts:
    """What belongs to an endpoint. left: not made by `servekit deploy`, with the commands that remove it."""

    endpoint: bool
    configs: tuple[str, ...]
    models: tuple[str, ...]
    left: tuple[str, ...] = ()

    def __bool__(self) -> bool:
        return self.endpoint or bool(self.configs or self.models)


def parts(account: Account, name: str) -> Parts:
    """Also those of a removal that was broken off, and of updates."""
    found = look(account, name)
    client = account.sagemaker
    start = fields.derived(name, "x").removesuffix("-x")
    with explained(f"configurations of {name}"):
        listed = client.list_endpoint_configs(NameContains=start, MaxResults=MAX_LISTED)
        configs = {item["EndpointConfigName"] for item in listed["EndpointConfigs"]}
    with explained(f"models of {name}"):
        listed_models = client.list_models(NameContains=start, MaxResults=MAX_LISTED)
        models = {item["ModelName"] for item in listed_models["Models"]}
    left: list[str] = []
    if found is not None and found.config and not fields.is_derived(found.config, name):
        left.append(_aws(account, "delete", "endpoint-config", found.config))
        left += [_aws(account, "delete", "model", model) for model in _models_of(account, found.config)]
    return Parts(
        found is not None,
        tuple(sorted(config for config in configs if fields.is_derived(config, name))),
        tuple(sorted(model for model in models if fields.is_derived(model, name))),
        tuple(left),
    )


def remove(account: Account, name: str, found: Parts, report: Report) -> None:
    client = account.sagemaker
    if found.endpoint:
        _delete(f"endpoint {name}", lambda: client.delete_endpoint(EndpointName=name))
        until(
            lambda: look(account, name), lambda state: state is None, limit_s=DELETE_LIMIT_S,
            what=f"the removal of endpoint {name}", resume="the same command goes on",
        )  # fmt: skip
        report.say("removed", f"endpoint {name}")
    for config in found.configs:
        _delete(f"config {config}", lambda config=config: client.delete_endpoint_config(EndpointConfigName=config))  # type: ignore[misc]
        report.say("removed", f"config {config}")
    for model in found.models:
        _delete(f"model {model}", lambda model=model: client.delete_model(ModelName=model))  # type: ignore[misc]
        report.say("removed", f"model {model}")


def _delete(what: str, delete: Callable[[], object]) -> None:
    try:
        with explained(what):
            delete()
    except Missing:
        return  # gone already


def _models_of(account: Account, config: str) -> Sequence[str]:
    try:
        with explained(f"config {config}"):
            answer = account.sagemaker.describe_endpoint_config(EndpointConfigName=config)
    except Missing:
        return ()
    return [variant["ModelName"] for variant in answer["ProductionVariants"] if variant.get("ModelName")]


def _aws(account: Account, verb: str, noun: str, name: str) -> str:
    return f"aws sagemaker {verb}-{noun} --{noun}-name {name} --region {account.region}"


def _digest(document: Any) -> str:
    return hashlib.sha256(json.dumps(document, sort_keys=True).encode()).hexdigest()
