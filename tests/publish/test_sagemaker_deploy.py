"""`servekit deploy sagemaker` and `undeploy sagemaker` as processes, against moto's server."""

from __future__ import annotations

import os
import pty
import subprocess
from collections.abc import Iterator
from typing import Any

import aws
import pytest
from aws import ACCOUNT, REGION, ROLE, Cloud, Ended, command, inside
from serving import script

HOST = f"{ACCOUNT}.dkr.ecr.{REGION}.amazonaws.com"
IMAGE = f"{HOST}/digits:1.0"
MANIFEST = '{"schemaVersion": 2, "mediaType": "application/vnd.docker.distribution.manifest.v2+json", "layers": []}'


@pytest.fixture(scope="module")
def whole() -> Iterator[Cloud]:
    with aws.cloud() as made:
        ecr = made.client("ecr")
        ecr.create_repository(repositoryName="digits")
        ecr.put_image(repositoryName="digits", imageManifest=MANIFEST, imageTag="1.0")
        yield made


@pytest.fixture
def cloud(whole: Cloud) -> Iterator[Cloud]:
    whole.forget()
    yield whole
    whole.forget()


def deploy(
    cloud: Cloud,
    name: str,
    *options: str,
    model: str = IMAGE,
    machine: tuple[str, ...] = ("--instance-type", "ml.m5.large"),
    run: Any = inside,
) -> Ended:
    ended: Ended = run(cloud, "deploy", "sagemaker", model, "--endpoint-name", name, "--role", ROLE, *machine, *options)
    return ended


def package(cloud: Cloud, name: str, **more: Any) -> str:
    answer = cloud.client("sagemaker").create_model_package(
        ModelPackageName=name,
        InferenceSpecification={
            "Containers": [{"Image": IMAGE}],
            "SupportedContentTypes": ["text/csv"],
            "SupportedResponseMIMETypes": ["text/csv"],
            "SupportedRealtimeInferenceInstanceTypes": ["ml.m5.large"],
        },
        **more,
    )
    arn: str = answer["ModelPackageArn"]
    return arn


def test_an_image_deployed_updated_and_removed(cloud: Cloud) -> None:
    options = (
        *("--environment", "MODE=fast", "--network-isolation", "--health-check-timeout-s", "600"),
        *("--model-download-timeout-s", "120", "--json"),
    )
    first = deploy(cloud, "digits", *options, run=command)
    assert first.code == 0, first.err
    [model] = cloud.bodies_of("CreateModel")
    container = model["PrimaryContainer"]
    assert container["Image"].startswith(f"{HOST}/digits@sha256:")
    assert container["Environment"] == {"MODE": "fast"}
    assert (model["ExecutionRoleArn"], model["EnableNetworkIsolation"]) == (ROLE, True)
    [config] = cloud.bodies_of("CreateEndpointConfig")
    [variant] = config["ProductionVariants"]
    assert (variant["InstanceType"], variant["InitialInstanceCount"], variant["ModelName"]) == (
        "ml.m5.large",
        1,
        model["ModelName"],
    )
    assert variant["ContainerStartupHealthCheckTimeoutInSeconds"] == 600
    assert variant["ModelDataDownloadTimeoutInSeconds"] == 120
    assert first.document["status"] == "InService"
    assert f"logs      aws logs tail /aws/sagemaker/Endpoints/digits --since 1h --region {REGION}" in first.err

    cloud.forget()
    again = deploy(cloud, "digits", *options)
    assert (again.code, again.document["config"]) == (0, first.document["config"]), again.err
    assert not [name for name in cloud.asked if name.startswith(("Create", "Update"))]

    more = deploy(cloud, "digits", *options, "--instance-count", "2")
    assert more.code == 0, more.err
    assert "updating to" in more.err
    assert cloud.asked.count("UpdateEndpoint") == 1
    assert more.document["model"] == first.document["model"]
    assert more.document["config"] != first.document["config"]
    # Another endpoint's name begins with this one's.
    beside = deploy(cloud, "digits-two", "--json")
    assert beside.code == 0, beside.err

    nobody = inside(cloud, "undeploy", "sagemaker", "digits")
    assert nobody.code == 2
    assert (
        "--yes: expected, as nobody is here to be asked; it would remove endpoint digits, config digits-" in nobody.err
    )
    removed = command(cloud, "undeploy", "sagemaker", "digits", "--yes", "--json")
    assert removed.code == 0, removed.err
    assert set(removed.document["configs"]) == {first.document["config"], more.document["config"]}
    assert removed.document["models"] == [first.document["model"]]
    sagemaker = cloud.client("sagemaker")
    left = {found["EndpointName"] for found in sagemaker.list_endpoints()["Endpoints"]}
    assert "digits" not in left
    assert "digits-two" in left
    models = {found["ModelName"] for found in sagemaker.list_models()["Models"]}
    assert first.document["model"] not in models
    assert beside.document["model"] in models
    gone = inside(cloud, "undeploy", "sagemaker", "digits", "--yes")
    assert (gone.code, gone.out) == (0, "nothing to remove\n"), gone.err


def test_a_serverless_endpoint_of_a_package(cloud: Cloud) -> None:
    arn = package(cloud, "mine")
    ended = deploy(cloud, "small", "--json", model=arn, machine=("--serverless", "2048,5"))
    assert ended.code == 0, ended.err
    [variant] = cloud.bodies_of("CreateEndpointConfig")[0]["ProductionVariants"]
    assert variant["ServerlessConfig"] == {"MemorySizeInMB": 2048, "MaxConcurrency": 5}
    assert "InstanceType" not in variant
    assert cloud.bodies_of("CreateModel")[0]["PrimaryContainer"] == {"ModelPackageName": arn}
    wrong = deploy(cloud, "small", model=arn, machine=("--instance-type", "ml.c5.large"))
    assert (wrong.code, "the model package is for ml.m5.large" in wrong.err) == (6, True), wrong.err


def test_a_package_of_marketplace(cloud: Cloud) -> None:
    """Without a network, and not serverless."""
    arn = package(cloud, "bought", CertifyForMarketplace=True)
    ended = deploy(cloud, "bought", model=arn)
    assert ended.code == 0, ended.err
    assert cloud.bodies_of("CreateModel")[0]["EnableNetworkIsolation"] is True
    wrong = deploy(cloud, "bought", model=arn, machine=("--serverless", "2048,5"))
    assert (wrong.code, "run on no serverless endpoint" in wrong.err) == (6, True), wrong.err


def test_a_version_that_is_not_approved(cloud: Cloud) -> None:
    cloud.client("sagemaker").create_model_package_group(ModelPackageGroupName="waiting")
    answer = cloud.client("sagemaker").create_model_package(
        ModelPackageGroupName="waiting", ModelApprovalStatus="PendingManualApproval",
    )  # fmt: skip
    ended = deploy(cloud, "waiting", model=answer["ModelPackageArn"])
    assert (ended.code, "--approve" in ended.err) == (6, True), ended.err
    assert "CreateModel" not in cloud.asked


def _status(status: str, reason: str = "", **more: Any) -> Any:
    def change(answer: dict[str, Any]) -> dict[str, Any]:
        return answer | {"EndpointStatus": status, **({"FailureReason": reason} if reason else {}), **more}

    return change


def test_an_endpoint_that_fails(cloud: Cloud) -> None:
    # The first look finds none.
    cloud.rule("DescribeEndpoint", error=(400, "ValidationException", "Could not find endpoint"))
    cloud.rule("DescribeEndpoint", change=_status("Creating"))
    cloud.rule(
        "DescribeEndpoint", times=9, change=_status("Failed", "The container did not pass the ping health check.")
    )
    ended = deploy(cloud, "failing", run=command)
    assert ended.code == 10, ended.err
    assert "status    Creating" in ended.err
    assert "endpoint failing is Failed: The container did not pass the ping health check." in ended.err
    assert (
        f"aws logs tail /aws/sagemaker/Endpoints/failing --since 1h --region {REGION}; then servekit undeploy"
        in ended.err
    )
    cloud.asked.clear()
    again = deploy(cloud, "failing")
    assert (again.code, "is Failed from an earlier deployment" in again.err) == (10, True), again.err
    assert "CreateModel" not in cloud.asked


def test_an_update_that_is_rolled_back(cloud: Cloud) -> None:
    before = deploy(cloud, "rolled", "--json")
    assert before.code == 0, before.err
    old = before.document["config"]
    cloud.rule("DescribeEndpoint", change=_status("InService"))
    cloud.rule("DescribeEndpoint", times=9, change=_status("InService", "health check failed", EndpointConfigName=old))
    ended = deploy(cloud, "rolled", "--instance-count", "3")
    assert ended.code == 10, ended.err
    assert f"endpoint rolled was rolled back to {old}: health check failed" in ended.err


def test_an_update_has_to_wait_for_another(cloud: Cloud) -> None:
    before = deploy(cloud, "busy", "--json")
    assert before.code == 0, before.err
    cloud.rule("DescribeEndpoint", times=9, change=_status("Updating"))
    ended = deploy(cloud, "busy", "--instance-count", "2", "--wait-s", "0")
    assert (ended.code, "is Updating, and cannot be updated meanwhile" in ended.err) == (6, True), ended.err
    assert "UpdateEndpoint" not in cloud.asked


def test_what_was_made_by_others_is_left(cloud: Cloud) -> None:
    sagemaker = cloud.client("sagemaker")
    sagemaker.create_model(ModelName="theirs", PrimaryContainer={"Image": IMAGE}, ExecutionRoleArn=ROLE)
    variant: Any = {"VariantName": "a", "ModelName": "theirs", "InitialInstanceCount": 1, "InstanceType": "ml.m5.large"}
    sagemaker.create_endpoint_config(EndpointConfigName="theirs", ProductionVariants=[variant])
    sagemaker.create_endpoint(EndpointName="theirs", EndpointConfigName="theirs")
    ended = inside(cloud, "undeploy", "sagemaker", "theirs", "--yes", "--json")
    assert ended.code == 0, ended.err
    assert (ended.document["configs"], ended.document["models"]) == ([], [])
    assert "left      not made by servekit; to remove it: aws sagemaker delete-model --model-name theirs" in ended.err
    assert sagemaker.describe_model(ModelName="theirs")


def test_a_person_is_asked(cloud: Cloud) -> None:
    made = deploy(cloud, "asked")
    assert made.code == 0, made.err
    master, slave = pty.openpty()
    try:
        os.write(master, b"n\n")
        ended = subprocess.run(
            [script("servekit"), "undeploy", "sagemaker", "asked"],
            env=cloud.environ(), stdin=slave, capture_output=True, text=True, timeout=aws.MAX_S, check=False,
        )  # fmt: skip
    finally:
        os.close(master)
        os.close(slave)
    assert ended.returncode == 130, ended.stderr
    assert f"of account {ACCOUNT} in {REGION}? [y/N]" in ended.stderr
    assert "DeleteEndpoint" not in cloud.asked


WRONG = (
    ((), (), "--instance-type or --serverless: expected one of them"),
    (("--instance-type", "ml.m5.large", "--serverless", "1024,1"), (), "expected one of them"),
    (
        ("--serverless", "1024,1", "--network-isolation"),
        (),
        "--network-isolation: serverless endpoints have no such thing",
    ),
    (("--instance-type", "m5.large"), (), "expected instance types such as ml.m5.large"),
    (("--instance-type", "ml.m5.large"), ("digits:1.0",), "expected an image in ECR"),
    (("--instance-type", "ml.m5.large"), ("arn:aws:sagemaker:x",), "PACKAGE-ARN"),
)


@pytest.mark.parametrize(("machine", "model", "reason"), WRONG)
def test_options_are_checked(cloud: Cloud, machine: tuple[str, ...], model: tuple[str, ...], reason: str) -> None:
    ended = deploy(cloud, "digits", machine=machine, model=model[0] if model else IMAGE)
    assert (ended.code, reason in ended.err) == (2, True), ended.err
    assert not [name for name in cloud.asked if name != "GetCallerIdentity"]
