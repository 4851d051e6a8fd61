"""What SageMaker's fields may hold, the media types of a signature, the pre-flight list, and what AWS's errors mean."""

from __future__ import annotations

import json
import sys
import tarfile
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, ClassVar

import botocore.session
import numpy as np
import pytest
from botocore import exceptions as core

from servekit import Predictor, Tensor
from servekit.errors import ConfigError
from servekit.publish.failures import Failed, PublishError
from servekit.publish.sagemaker import aws, ecr, endpoint, fields, package, preflight, s3, types
from servekit.publish.sagemaker.endpoint import Deployment
from servekit.publish.sagemaker.package import Package, Specification, failure
from servekit.signature import File, Image, Json, Signature, Text
from servekit.testing import Client

ACCOUNT = "123456789012"
ROLE = f"arn:aws:iam::{ACCOUNT}:role/SageMaker"
HOST = f"{ACCOUNT}.dkr.ecr.eu-west-1.amazonaws.com"
DIGEST = "sha256:" + "0" * 64


class Mean(Predictor):
    inputs: ClassVar = {"x": Tensor("float32", (4,))}
    outputs: ClassVar = {"mean": Tensor("float32", ())}

    def load(self, model_dir: Path) -> None:
        """Nothing."""

    def predict(self, x: Any) -> Any:
        return x.mean(axis=1)


class Several(Predictor):
    inputs: ClassVar = {"text": Text(), "more": Json()}
    outputs: ClassVar = {"length": Tensor("int64", ()), "said": Json()}

    def load(self, model_dir: Path) -> None:
        """Nothing."""

    def predict(self, text: list[str], more: list[Any]) -> Any:
        return {"length": np.array([len(one) for one in text]), "said": more}


class Copy(Predictor):
    inputs: ClassVar = {"file": File()}
    outputs: ClassVar = {"file": File()}

    def load(self, model_dir: Path) -> None:
        """Nothing."""

    def predict(self, file: list[bytes]) -> Any:
        return file


# --- media types ---


@pytest.mark.parametrize(
    ("predictor", "body"),
    [
        (Mean, {"instances": [[1, 2, 3, 4]]}),
        (Several, {"instances": [{"text": "a", "more": 1}]}),
        (Copy, {"instances": [{"b64": "QQ=="}]}),
    ],
)
def test_the_declared_types_are_those_that_are_served(predictor: type[Predictor], body: Any) -> None:
    signature = Signature(predictor.inputs, predictor.outputs)
    accepted, offered = types.content_types(signature), types.response_types(signature)
    assert "application/json" in accepted
    assert "application/json" in offered
    with Client(predictor, platform="sagemaker") as client:
        for kind in accepted:
            # Nonsense, for most of them; but of a type that is read.
            reply = client.post("/invocations", content=b"\xff\x00", headers={"Content-Type": kind})
            assert reply.status_code != 415, kind
        assert client.post("/invocations", content=b"x", headers={"Content-Type": "video/mp4"}).status_code == 415
        for kind in offered:
            reply = client.post("/invocations", json=body, headers={"Accept": kind})
            assert (reply.status_code, reply.headers["content-type"].partition(";")[0]) == (200, kind)
        assert client.post("/invocations", json=body, headers={"Accept": "video/mp4"}).status_code == 406


def test_types_of_pictures_and_samples(tmp_path: Path) -> None:
    picture = Signature({"x": Image("L", 8, 8)}, {"y": Tensor("int64", ())})
    found = types.content_types(picture)
    assert found[:3] == ("image/png", "image/jpeg", "application/octet-stream")
    assert not any("*" in kind or "multipart" in kind or "triton" in kind for kind in found)
    assert types.of_sample(Path("seven.PNG"), picture) == "image/png"
    assert types.of_sample(Path("seven"), picture) == "application/octet-stream"
    assert types.of_sample(Path("rows"), Signature(Mean.inputs, Mean.outputs)) == "application/json"
    assert types.of_sample(Path("rows"), None) == "application/octet-stream"


# --- fields ---


def test_names_and_other_fields_are_the_service_models_own() -> None:
    """Whatever we take, botocore's model of SageMaker takes; the limits are read from it."""
    model = botocore.session.get_session().get_service_model("sagemaker")

    def limits(shape: str) -> Mapping[str, Any]:
        found: Mapping[str, Any] = model.shape_for(shape).metadata
        return found

    assert limits("EntityName")["max"] == fields.MAX_NAME_CHARS
    assert limits("EntityName")["pattern"] == fields.NAME.pattern
    assert limits("RoleArn")["pattern"].replace("\\", "") == fields.ROLE.pattern.replace("\\d", "d").replace("\\", "")
    assert limits("ContentType")["max"] == fields.MAX_CONTENT_TYPE_CHARS
    assert limits("ResponseMIMEType")["max"] == fields.MAX_RESPONSE_TYPE_CHARS
    assert limits("ContainerImage")["max"] == fields.MAX_IMAGE_CHARS
    assert limits("Url")["max"] == fields.MAX_URL_CHARS
    assert limits("EntityDescription")["max"] == fields.MAX_DESCRIPTION_CHARS
    assert limits("EnvironmentMap")["max"] == fields.MAX_VARIABLES
    assert limits("EnvironmentKey")["pattern"] == fields.VARIABLE.pattern
    assert limits("ProductionVariantContainerStartupHealthCheckTimeoutInSeconds") == {
        "min": fields.MIN_TIMEOUT_S, "max": fields.MAX_TIMEOUT_S,
    }  # fmt: skip
    memory, calls = limits("ServerlessMemorySizeInMB"), limits("ServerlessMaxConcurrency")
    assert (memory["min"], memory["max"]) == (fields.MIN_SERVERLESS_MB, fields.MAX_SERVERLESS_MB)
    assert calls["max"] == fields.MAX_SERVERLESS_CONCURRENCY
    for kind in limits("TransformInstanceType")["enum"] + limits("ProductionVariantInstanceType")["enum"]:
        assert fields.INSTANCE_TYPE.fullmatch(kind), kind
    assert set(limits("EndpointStatus")["enum"]) > endpoint.ENDED
    assert set(limits("ModelPackageStatus")["enum"]) > package.ENDED


WRONG = (
    (fields.name, "--group", "a_b"),
    (fields.name, "--group", "-a"),
    (fields.name, "--group", "a" * 64),
    (fields.role, "--role", "SageMaker"),
    (fields.role, "--role", "arn:aws:iam::1:role/x"),
    (fields.bucket, "--bucket", "s3://models"),
    (fields.bucket, "--bucket", "Models"),
    (fields.prefix, "--prefix", "a/../b"),
    (fields.prefix, "--prefix", "a//b"),
    (fields.prefix, "--prefix", "a\nb"),
    (fields.model_data_url, "--model-data-url", "s3://models/model.zip"),
    (fields.model_data_url, "--model-data-url", "https://models/model.tar.gz"),
    (fields.repository, "--repository", "Digits"),
    (fields.repository, "--repository", "digits:1"),
    (fields.serverless, "--serverless", "1000,5"),
    (fields.serverless, "--serverless", "7168,5"),
    (fields.serverless, "--serverless", "1024,201"),
    (fields.serverless, "--serverless", "1024"),
)


@pytest.mark.parametrize(("check", "option", "text"), WRONG)
def test_what_is_refused_before_anything_is_sent(check: Any, option: str, text: str) -> None:
    with pytest.raises(ConfigError, match="expected") as raised:
        check(option, text)
    assert raised.value.message.startswith(f"{option} {text[:100]!r}")


def test_lists_of_types() -> None:
    assert fields.instance_types("--x", ["ml.m5.large,ml.c7g.xlarge", "ml.m5.large"]) == (
        "ml.m5.large",
        "ml.c7g.xlarge",
    )
    assert fields.media_types("--x", ["text/csv, application/json"], 256) == ("text/csv", "application/json")
    for wrong in ("m5.large", "ml.m5", "--x"):
        with pytest.raises(ConfigError, match="expected instance types"):
            fields.instance_types("--x", [wrong])
    for wrong in ("json", "text/" + "x" * 256, "text/c v"):
        with pytest.raises(ConfigError, match="expected media types"):
            fields.media_types("--x", [wrong], 256)


def test_environment_holds_no_secrets() -> None:
    assert fields.environment("--environment", ["A=1", "B=x=y", "C="]) == {"A": "1", "B": "x=y", "C": ""}
    for text in (
        "DB_PASSWORD=opensesame", "API_KEY=opensesame", "AWS_SECRET_ACCESS_KEY=opensesame", "HF_TOKEN=opensesame",
        "X=AKIAIOSFODNN7EXAMPLE", "opensesame", "9A=opensesame",
    ):  # fmt: skip
        with pytest.raises(ConfigError) as raised:
            fields.environment("--environment", [text])
        assert "opensesame" not in raised.value.message
        assert "AKIAIOSFODNN7EXAMPLE" not in raised.value.message
    for many in ([f"V{i}=1" for i in range(101)], ["A=" + "x" * 1025], [f"V{i}=" + "x" * 1000 for i in range(40)]):
        with pytest.raises(ConfigError, match="at most"):
            fields.environment("--environment", many)


def test_machines() -> None:
    for kind in ("ml.c7g.large", "ml.m6gd.xlarge", "ml.c6gn.4xlarge", "ml.g5g.xlarge"):
        assert fields.is_graviton(kind), kind
    for kind in ("ml.m5.large", "ml.g4dn.xlarge", "ml.g6e.xlarge", "ml.p4d.24xlarge", "ml.inf2.xlarge", "ml.c7i.large"):
        assert not fields.is_graviton(kind), kind
    assert [fields.is_gpu(kind) for kind in ("ml.g5.xlarge", "ml.p4d.24xlarge", "ml.m5.large")] == [True, True, False]


def test_derived_names_fit_and_are_found_again() -> None:
    for start in ("digits", "a" * 63, "a" * 49 + "-" + "b" * 13):
        name = fields.derived(start, "0123456789abcdef")
        assert fields.name("NAME", name) == name
        assert fields.is_derived(name, start)
    assert not fields.is_derived("digits-two-0123456789ab", "digits")
    assert not fields.is_derived("digits", "digits")
    # Endpoints whose long names begin alike have parts of their own.
    assert fields.derived("a" * 60 + "1", "0" * 12) != fields.derived("a" * 60 + "2", "0" * 12)
    assert fields.as_name("my model_2--x") == "my-model-2-x"


def test_a_deployment_has_another_name_when_it_is_another() -> None:
    one = Deployment("digits", ROLE, image=f"{HOST}/digits@{DIGEST}", instance_type="ml.m5.large")
    assert one.model_name == replace(one, instance_count=2).model_name
    assert one.config_name != replace(one, instance_count=2).config_name
    for other in (
        replace(one, image=one.image.replace("0" * 64, "1" * 64)),
        replace(one, environment={"A": "1"}),
        replace(one, network_isolation=True),
        replace(one, model_data_url="s3://models/model.tar.gz"),
    ):
        assert other.model_name != one.model_name
        assert other.config_name != one.config_name


# --- images ---


def test_where_an_image_goes() -> None:
    for image, repository, expected in (
        ("digits", None, ("digits", "latest", "", "", "")),
        ("localhost:5000/team/digits:1.0", None, ("team/digits", "1.0", "", "", "")),
        ("digits:1.0", "other", ("other", "1.0", "", "", "")),
        (f"{HOST}/team/digits:1.0", None, ("team/digits", "1.0", "", ACCOUNT, "eu-west-1")),
        (f"{HOST}/team/digits@{DIGEST}", None, ("team/digits", "", DIGEST, ACCOUNT, "eu-west-1")),
        (f"{ACCOUNT}.dkr.ecr-fips.us-gov-west-1.amazonaws.com/x-y:1", None, ("x-y", "1", "", ACCOUNT, "us-gov-west-1")),
        (f"{ACCOUNT}.dkr.ecr.cn-north-1.amazonaws.com.cn/x-y:1", None, ("x-y", "1", "", ACCOUNT, "cn-north-1")),
    ):
        place = ecr.wanted(image, repository)
        assert (place.repository, place.tag, place.digest, place.account, place.region) == expected
    for image, repository in (
        (f"digits@{DIGEST}", None),
        (f"{HOST}/digits:1", "other"),
        ("Digits", None),
        ("-x", None),
    ):
        with pytest.raises(ConfigError, match="expected"):
            ecr.wanted(image, repository)


# --- files ---


def test_archives_and_samples(tmp_path: Path) -> None:
    (tmp_path / "sample.json").write_text('{"instances": [1]}')
    sample = s3.sample("--sample", str(tmp_path / "sample.json"))
    packed = s3.packed(sample)
    assert s3.packed(sample).sha256 == packed.sha256
    with tarfile.open(fileobj=packed.open()) as tar:
        [member] = tar.getmembers()
        opened = tar.extractfile(member)
        assert opened is not None
        assert (member.name, json.loads(opened.read())) == ("sample.json", {"instances": [1]})
    (tmp_path / "model.tar.gz").write_bytes(b"PK")
    (tmp_path / "empty").write_bytes(b"")
    for name, reason in (
        ("model.tar.gz", "expected gzip"),
        ("sample.json", "expected a .tar.gz"),
        ("no.tar.gz", "no such file"),
    ):
        with pytest.raises(ConfigError, match=reason):
            s3.archive("--artifact", str(tmp_path / name))
    with pytest.raises(ConfigError, match="expected 1 to"):
        s3.sample("--sample", str(tmp_path / "empty"))


# --- the pre-flight list ---

GOOD = preflight.Plan(
    certify=True, account=ACCOUNT, region="us-east-1", versioned=False, registry_account=ACCOUNT,
    bucket_region="us-east-1", transform_types=("ml.m5.large",), realtime_types=("ml.m5.large",),
    content_types=("application/json",), response_types=("application/json",), role=ROLE,
    sample_type="application/json", sample_bytes=10, has_sample=True, architecture="amd64",
    labels={preflight.BIND_TO_PORT: "true"}, image_bytes=10,
)  # fmt: skip


def test_what_marketplace_takes_has_notes_only() -> None:
    assert {finding.level for finding in preflight.look(GOOD)} == {"note"}
    assert preflight.look(replace(GOOD, certify=False)) == []


BAD: tuple[tuple[Mapping[str, Any], str, str, bool], ...] = (
    ({"versioned": True}, "must", "without a group", True),
    ({"registry_account": "763104351884"}, "must", "AWS's own", True),
    ({"registry_account": "210987654321"}, "must", "account 210987654321", True),
    ({"region": "eu-south-2", "bucket_region": "eu-south-2"}, "must", "opt in", True),
    ({"role": ""}, "must", "needs a role", True),
    ({"registry_region": "eu-west-1"}, "must", "the image is in eu-west-1", False),
    ({"bucket_region": "eu-west-1"}, "must", "the bucket is in eu-west-1", False),
    ({"transform_types": (), "role": ""}, "must", "on which instances", False),
    ({"realtime_types": ()}, "must", "--realtime-instance-types", False),
    ({"content_types": ()}, "must", "no content types", False),
    ({"architecture": "arm64"}, "must", "the image is for arm64", False),
    ({"realtime_types": ("ml.c7g.large",)}, "must", "is an ARM machine", False),
    ({"has_sample": False}, "must", "which needs something to send", False),
    ({"sample_type": "text/csv"}, "should", "none of the content types", True),
    ({"sample_bytes": 30 * 1024**2}, "should", "takes 25 MB", True),
    ({"labels": {}}, "should", "accept-bind-to-port", True),
    (
        {"labels": {**(GOOD.labels or {}), f"{preflight.CAPABILITY}multi-models": "true"}},
        "should",
        "multi-models",
        True,
    ),
    ({"image_bytes": 20 * 1024**3}, "should", "20 GiB", True),
    ({"realtime_types": ("ml.g5.xlarge",)}, "should", "GPUs", True),
    ({"architecture": "", "labels": None}, "note", "not on this machine", True),
)


@pytest.mark.parametrize(("change", "level", "text", "only_marketplace"), BAD)
def test_the_pre_flight_list(change: Mapping[str, Any], level: str, text: str, only_marketplace: bool) -> None:
    def found(plan: preflight.Plan) -> list[preflight.Finding]:
        return [f for f in preflight.look(plan) if f.level == level and text in f"{f.text} {f.fix}"]

    assert len(found(replace(GOOD, **change))) == 1
    assert not found(GOOD)
    assert bool(found(replace(GOOD, certify=False, **change))) is not only_marketplace


# --- packages ---

SPECIFICATION = Specification(
    image=f"{HOST}/digits@{DIGEST}", content_types=("application/json",), response_types=("application/json",),
    group="digits", model_data_url="s3://models/model.tar.gz", environment={"A": "1"}, transform_types=("ml.m5.large",),
    description="Reads digits.", validation=(ROLE, "s3://models/sample.json", "s3://models/out/"),
    sample_type="application/json", sample_bytes=7 * 1024**2 + 1, sample_url="s3://models/sample.tar.gz",
)  # fmt: skip


def test_a_specification_is_what_the_service_model_takes() -> None:
    from botocore.validate import ParamValidator

    shape = (
        botocore.session.get_session().get_service_model("sagemaker").operation_model("CreateModelPackage").input_shape
    )
    for one in (SPECIFICATION, replace(SPECIFICATION, group="", name="digits", certify=True, domain="x", task="OTHER")):
        report = ParamValidator().validate(one.request(), shape)
        assert not report.has_errors(), report.generate_report()
    job = SPECIFICATION.request()["ValidationSpecification"]["ValidationProfiles"][0]["TransformJobDefinition"]
    assert job["MaxPayloadInMB"] == 8
    assert "SamplePayloadUrl" not in replace(SPECIFICATION, group="", name="digits").request()


def test_the_same_package_is_known_again() -> None:
    found = SPECIFICATION.request()
    # What SageMaker adds.
    found["InferenceSpecification"]["Containers"][0] |= {"ImageDigest": DIGEST, "ModelDataETag": "abc"}
    assert SPECIFICATION.differences(found) == []
    assert replace(SPECIFICATION, description="Other words.").differences(found) == []
    assert replace(SPECIFICATION, environment={}).differences(found) == ["Environment"]
    assert replace(SPECIFICATION, image="other").differences(found) == ["Image"]
    assert replace(SPECIFICATION, certify=True).differences(found) == ["CertifyForMarketplace"]
    assert replace(SPECIFICATION, validation=None).differences(found) == ["ValidationRole", "the sample"]
    # One of somebody else's, of another kind.
    assert "Image" in SPECIFICATION.differences({"SourceAlgorithmSpecification": {}})


def test_a_failure_names_every_reason() -> None:
    details = {
        "ImageScanStatuses": [{"Name": "digits", "Status": "Failed", "FailureReason": "CVE-2026-1 is critical"}],
        "ValidationStatuses": [{"Name": "servekit", "Status": "Failed"}, {"Name": "other", "Status": "Invented"}],
    }
    error = failure(
        Package(
            "arn:aws:sagemaker:eu-west-1:1:model-package/digits/3",
            "Failed",
            "",
            3,
            {"ModelPackageStatusDetails": details},
        ),
        "eu-west-1",
    )
    assert isinstance(error, Failed)
    assert "digits/3 failed: scan of digits: CVE-2026-1 is critical; validation of servekit: no reason" in error.message
    assert "delete-model-package" in error.hint


# --- errors ---


@pytest.mark.parametrize(
    ("code", "message", "status", "kind", "hint"),
    [
        ("ExpiredToken", "The security token is expired", 403, "unauthorised", "log in again"),
        ("ExpiredTokenException", "expired", 400, "unauthorised", "log in again"),
        ("UnrecognizedClientException", "invalid", 400, "unauthorised", "aws sts get-caller-identity"),
        ("InvalidClientTokenId", "invalid", 403, "unauthorised", "AWS_PROFILE"),
        ("SignatureDoesNotMatch", "no", 403, "unauthorised", "AWS_PROFILE"),
        ("RequestTimeTooSkewed", "no", 403, "unauthorised", "clock"),
        ("AccessDeniedException", "not authorized to perform: sagemaker:CreateModel", 400, "forbidden", "right"),
        ("AccessDenied", "no", 403, "forbidden", "right"),
        ("403", "Forbidden", 403, "forbidden", "right"),
        ("RepositoryNotFoundException", "no", 400, "not_found", ""),
        ("NoSuchBucket", "no", 404, "not_found", ""),
        ("ValidationException", "Could not find endpoint x", 400, "not_found", ""),
        ("ValidationException", "1 validation error detected", 400, "refused", ""),
        ("ResourceLimitExceeded", "the quota is 0", 400, "refused", "quota"),
        ("ThrottlingException", "Rate exceeded", 400, "busy", "later"),
        ("SlowDown", "no", 503, "busy", "later"),
        ("InternalFailure", "no", 500, "busy", "later"),
        ("", "no", 502, "busy", "later"),
        ("SomethingNew", "no", 400, "refused", ""),
    ],
)
def test_what_aws_answers_has_a_kind(code: str, message: str, status: int, kind: str, hint: str) -> None:
    about = {"HTTPStatusCode": status, "RequestId": "r-1"}
    error = aws.of_client_error("CreateModel", {"Error": {"Code": code, "Message": message}, "ResponseMetadata": about})
    assert (error.kind, error.status, error.request_id) == (kind, status, "r-1")
    assert hint in error.hint
    assert "CreateModel" in error.message
    assert message in error.message


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (core.NoCredentialsError(), 3),
        (core.PartialCredentialsError(provider="env", cred_var="x"), 3),
        (core.CredentialRetrievalError(provider="x", error_msg="y"), 3),
        (core.UnauthorizedSSOTokenError(), 3),
        (core.TokenRetrievalError(provider="sso", error_msg="y"), 3),
        (core.EndpointConnectionError(endpoint_url="https://x"), 8),
        (core.ConnectTimeoutError(endpoint_url="https://x"), 8),
        (core.ReadTimeoutError(endpoint_url="https://x"), 8),
        (core.ConnectionClosedError(endpoint_url="https://x"), 8),
        (core.SSLError(endpoint_url="https://x", error="self-signed"), 8),
        (core.ProxyConnectionError(proxy_url="http://x"), 8),
        (core.IncompleteReadError(actual_bytes=1, expected_bytes=2), 9),
    ],
    ids=lambda value: type(value).__name__,
)
def test_what_boto3_raises_has_a_kind(error: Exception, code: int) -> None:
    with pytest.raises(PublishError) as raised, aws.explained("CreateModel"):
        raise error
    assert raised.value.exit_code == code
    assert "CreateModel" in raised.value.message


@pytest.mark.parametrize(
    "error", [core.ProfileNotFound(profile="x"), core.ParamValidationError(report="x"), core.NoRegionError()]
)
def test_what_the_user_mistyped_is_a_config_error(error: Exception) -> None:
    with pytest.raises(ConfigError, match="CreateModel"), aws.explained("CreateModel"):
        raise error


def test_an_answer_that_is_not_aws_own() -> None:
    from servekit.publish.failures import NotUnderstood

    with pytest.raises(NotUnderstood, match="ModelArn is missing"):
        aws.said({}, "ModelArn", "CreateModel")


def test_without_boto3(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "boto3", None)
    with pytest.raises(ConfigError, match=r'the package boto3 is not installed: pip install "servekit\[sagemaker\]"'):
        aws.account(None, None, None, insecure_http=False)
