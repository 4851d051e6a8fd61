"""`servekit publish sagemaker` as a process, against moto's server: S3, ECR, STS and SageMaker."""

from __future__ import annotations

import gzip
import hashlib
import json
import os
import signal
import subprocess
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import aws
import pytest
from aws import ACCOUNT, REGION, ROLE, Cloud, Ended, command, inside
from serving import free_port, script

from servekit.publish.sagemaker.aws import account

BUCKET = "models-of-the-tests"
HOST = f"{ACCOUNT}.dkr.ecr.{REGION}.amazonaws.com"
MANIFEST_TYPE = "application/vnd.docker.distribution.manifest.v2+json"
TYPES = ("--content-types", "application/json,text/csv", "--response-types", "application/json")
MACHINES = ("--transform-instance-types", "ml.m5.large", "--realtime-instance-types", "ml.m5.large,ml.c5.large")
PREDICTOR = """
from servekit import Predictor, Tensor

class Mean(Predictor):
    inputs = {"x": Tensor("float32", (4,))}
    outputs = {"mean": Tensor("float32", ())}

    def load(self, model_dir):
        pass

    def predict(self, x):
        return x.mean(axis=1)
"""


@pytest.fixture(scope="module")
def whole() -> Iterator[Cloud]:
    with aws.cloud() as made:
        made.client("s3").create_bucket(Bucket=BUCKET)
        made.client("ecr").create_repository(repositoryName="digits")
        put_image(made, "digits", "1.0", "a")
        yield made


@pytest.fixture
def cloud(whole: Cloud) -> Iterator[Cloud]:
    whole.forget()
    yield whole
    whole.released.set()
    whole.forget()


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("files")
    (folder / "model.tar.gz").write_bytes(gzip.compress(b"weights", mtime=0))
    (folder / "sample.json").write_text('{"instances": [[1, 2, 3, 4]]}')
    return folder


def put_image(cloud: Cloud, repository: str, tag: str, letter: str, media_type: str = MANIFEST_TYPE) -> str:
    config = {
        "mediaType": "application/vnd.docker.container.image.v1+json",
        "size": 1,
        "digest": f"sha256:{letter * 64}",
    }
    manifest = json.dumps({"schemaVersion": 2, "mediaType": media_type, "config": config, "layers": []})
    digest = f"sha256:{hashlib.sha256(manifest.encode()).hexdigest()}"
    answer = cloud.client("ecr").put_image(
        repositoryName=repository, imageManifest=manifest, imageManifestMediaType=media_type, imageTag=tag,
        imageDigest=digest,
    )  # fmt: skip
    found: str = answer["image"]["imageId"]["imageDigest"]
    return found


def publish(
    cloud: Cloud, *options: str, image: str = "digits:1.0", group: str = "", run: Any = inside, **more: Any
) -> Ended:
    named = ("--group", group) if group else ()
    ended: Ended = run(cloud, "publish", "sagemaker", image, "--no-push", *TYPES, *named, *options, **more)
    return ended


def versions(cloud: Cloud, group: str) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = cloud.client("sagemaker").list_model_packages(ModelPackageGroupName=group)[
        "ModelPackageSummaryList"
    ]
    return found


def test_a_version_in_a_group_and_the_same_again(cloud: Cloud, files: Path, tmp_path: Path) -> None:
    """The types are the predictor's; nothing is made or sent twice."""
    (tmp_path / "predictor.py").write_text(PREDICTOR)
    (tmp_path / "pyproject.toml").write_text('[project]\nname = "my_mean"\nversion = "1.0"\ndescription = "A mean."\n')
    options = (
        *(
            "--no-push",
            "--bucket",
            BUCKET,
            "--prefix",
            "teams/one",
            "--artifact",
            str(files / "model.tar.gz"),
            *MACHINES,
        ),
        *("--sample", str(files / "sample.json"), "--role", ROLE, "--environment", "MODE=fast"),
        *("--task", "REGRESSION", "--approve", "--json"),
    )
    first = command(cloud, "publish", "sagemaker", "digits:1.0", *options, cwd=tmp_path)
    assert first.code == 0, first.err
    [request] = cloud.bodies_of("CreateModelPackage")
    inference = request["InferenceSpecification"]
    [container] = inference["Containers"]
    content = (files / "model.tar.gz").read_bytes()
    key = f"teams/one/{hashlib.sha256(content).hexdigest()[:16]}/model.tar.gz"
    assert container["Image"].startswith(f"{HOST}/digits@sha256:")
    assert container["ModelDataUrl"] == f"s3://{BUCKET}/{key}"
    assert container["Environment"] == {"MODE": "fast"}
    assert inference["SupportedContentTypes"][:3] == ["application/json", "application/jsonlines", "text/csv"]
    assert inference["SupportedResponseMIMETypes"][0] == "application/json"
    assert inference["SupportedRealtimeInferenceInstanceTypes"] == ["ml.m5.large", "ml.c5.large"]
    assert (request["ModelPackageGroupName"], request["Task"]) == ("my-mean", "REGRESSION")
    assert request["ModelPackageDescription"] == "A mean."
    [profile] = request["ValidationSpecification"]["ValidationProfiles"]
    job = profile["TransformJobDefinition"]
    assert job["TransformInput"]["ContentType"] == "application/json"
    sample = job["TransformInput"]["DataSource"]["S3DataSource"]["S3Uri"]
    s3 = cloud.client("s3")
    assert s3.get_object(Bucket=BUCKET, Key=key)["Body"].read() == content
    sent = s3.get_object(Bucket=BUCKET, Key=sample.removeprefix(f"s3://{BUCKET}/"))["Body"].read()
    assert sent == (files / "sample.json").read_bytes()
    said = first.document
    assert (said["package"]["status"], said["package"]["approval"], said["package"]["version"]) == (
        "Completed",
        "Approved",
        1,
    )
    assert {made["what"] for made in said["made"]} == {"object", "group", "package"}
    assert "warning   bucket models-of-the-tests does not block public access" in first.err
    assert f"next      servekit deploy sagemaker {said['package']['arn']}" in first.err

    cloud.forget()
    again = command(cloud, "publish", "sagemaker", "digits:1.0", *options, cwd=tmp_path)
    assert again.code == 0, again.err
    assert again.document["package"] == said["package"]
    assert "made" not in again.document
    assert not [name for name in cloud.asked if name.startswith(("Create", "PUT", "Update"))]
    assert len(versions(cloud, "my-mean")) == 1


def test_another_environment_is_another_version(cloud: Cloud) -> None:
    one = publish(cloud, "--environment", "A=1", group="several")
    two = publish(cloud, "--environment", "A=2", group="several")
    assert (one.code, two.code) == (0, 0), two.err
    assert [one.out, two.out] == [f"arn:aws:sagemaker:{REGION}:{ACCOUNT}:model-package/several/{i}\n" for i in (1, 2)]
    assert "next      approve it" in two.err


def test_a_large_archive_goes_in_parts(cloud: Cloud, tmp_path: Path) -> None:
    archive = tmp_path / "model.tar.gz"
    archive.write_bytes(b"\x1f\x8b" + os.urandom(17 * 1024 * 1024))
    ended = publish(cloud, "--artifact", str(archive), "--bucket", BUCKET, "--wait-s", "0", group="large", run=command)
    assert ended.code == 0, ended.err
    assert len([name for name in cloud.asked if "partNumber" in name]) == 3
    url = cloud.bodies_of("CreateModelPackage")[0]["InferenceSpecification"]["Containers"][0]["ModelDataUrl"]
    stored = cloud.client("s3").get_object(Bucket=BUCKET, Key=url.removeprefix(f"s3://{BUCKET}/"))
    assert stored["Body"].read() == archive.read_bytes()
    assert "upload    100 % sent" in ended.err
    # A log is no place for every piece.
    assert len([line for line in ended.err.splitlines() if line.startswith("upload")]) < 10


def _status(status: str, *details: tuple[str, str, str]) -> Any:
    def change(answer: dict[str, Any]) -> dict[str, Any]:
        items = [{"Name": name, "Status": state, "FailureReason": reason} for name, state, reason in details]
        return answer | {
            "ModelPackageStatus": status,
            "ModelPackageStatusDetails": {"ImageScanStatuses": items, "ValidationStatuses": []},
        }

    return change


def test_in_progress_then_failed_then_another_version(cloud: Cloud) -> None:
    # It is looked at once when it is made, and then until it ends.
    cloud.rule("DescribeModelPackage", times=2, change=_status("InProgress", ("digits", "InProgress", "")))
    cloud.rule("DescribeModelPackage", change=_status("Failed", ("digits", "Failed", "CVE-2026-1 is critical")))
    ended = publish(cloud, group="failing", run=command)
    assert ended.code == 10, ended.err
    assert "scan      digits: InProgress" in ended.err
    assert "status    InProgress" in ended.err
    assert "model package failing/1 failed: scan of digits: CVE-2026-1 is critical" in ended.err
    assert "next      mend the cause, then: aws sagemaker delete-model-package" in ended.err
    assert "is there  package" in ended.err

    # What failed is not taken for what is wanted.
    cloud.forget()
    cloud.rule("DescribeModelPackage", change=_status("Failed"))
    ended = publish(cloud, group="failing")
    assert ended.code == 0, ended.err
    assert ended.out.endswith("/failing/2\n")


def test_not_waiting_for_it(cloud: Cloud) -> None:
    cloud.rule("DescribeModelPackage", change=_status("InProgress"))
    ended = publish(cloud, "--wait-s", "0", group="patient")
    assert ended.code == 0, ended.err
    assert "next      the same command looks again, and waits" in ended.err
    cloud.rule("DescribeModelPackage", times=99, change=_status("InProgress"))
    ended = publish(cloud, "--wait-s", "0.01", "--json", group="patient")
    assert ended.code == 11, ended.err
    assert ended.document["error"]["kind"] == "still_going"
    assert len(versions(cloud, "patient")) == 1


def test_an_answer_that_got_lost(cloud: Cloud) -> None:
    """The second attempt carries the same token, by which SageMaker knows it again."""
    cloud.rule("CreateModelPackage", cut="before")
    ended = publish(cloud, group="lost", run=command)
    assert ended.code == 0, ended.err
    tokens = [body["ClientToken"] for body in cloud.bodies_of("CreateModelPackage")]
    assert len(tokens) == 2
    assert len(set(tokens)) == 1


REFUSED: Sequence[tuple[str, dict[str, Any], int, str]] = (
    ("GetCallerIdentity", {"error": (403, "ExpiredToken", "The security token included in the request is expired")}, 3, "log in again"),
    ("DescribeRepositories", {"error": (400, "AccessDeniedException", "User is not authorized")}, 4, "ask whoever manages the account"),
    ("CreateModelPackageGroup", {"error": (400, "ThrottlingException", "Rate exceeded")}, 7, "try again later"),
    ("CreateModelPackageGroup", {"error": (500, "InternalFailure", "x")}, 7, "unknown   group refused may be there or not"),
    ("CreateModelPackageGroup", {"error": (400, "ValidationException", "something is wrong")}, 6, "something is wrong"),
    ("CreateModelPackageGroup", {"cut": "before"}, 8, "unknown   group refused may be there or not"),
    ("GetCallerIdentity", {"body": b"<html>Log in"}, 9, "check --endpoint-url"),
)  # fmt: skip


@pytest.mark.parametrize(("operation", "what", "code", "said"), REFUSED)
def test_what_goes_wrong_at_aws(cloud: Cloud, operation: str, what: dict[str, Any], code: int, said: str) -> None:
    cloud.rule(operation, times=9, **what)
    ended = publish(cloud, "--json", group="refused", environ={"AWS_MAX_ATTEMPTS": "1"})
    assert ended.code == code, ended.err
    assert said in ended.err
    assert ended.document["exit_code"] == code
    if "error" in what:
        assert ended.document["error"]["request_id"] == aws.REQUEST_ID
        assert f"request   {aws.REQUEST_ID}" in ended.err
    assert "CreateModelPackage" not in cloud.asked


def test_no_credentials_and_nobody_there(cloud: Cloud) -> None:
    ended = publish(
        cloud,
        group="g",
        run=command,
        environ={"AWS_ACCESS_KEY_ID": "", "AWS_SECRET_ACCESS_KEY": "", "AWS_SESSION_TOKEN": ""},
    )
    assert (ended.code, "no AWS credentials found" in ended.err) == (3, True), ended.err
    gone = publish(
        cloud, "--endpoint-url", f"http://127.0.0.1:{free_port()}", group="g", environ={"AWS_MAX_ATTEMPTS": "1"}
    )
    assert (gone.code, "check the network" in gone.err) == (8, True), gone.err
    assert cloud.asked == []


def test_plain_http_is_for_loopback(cloud: Cloud) -> None:
    """From wherever the URL comes."""
    for ended in (
        publish(cloud, "--endpoint-url", "http://aws.example.com", group="g"),
        publish(cloud, group="g", environ={"AWS_ENDPOINT_URL": "http://aws.example.com"}),
    ):
        assert (ended.code, "everybody on the way reads the credentials" in ended.err) == (2, True), ended.err


def test_what_is_for_this_machine_goes_through_no_proxy(cloud: Cloud, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in cloud.environ(NO_PROXY="", HTTP_PROXY=f"http://127.0.0.1:{free_port()}").items():
        monkeypatch.setenv(name, value)
    assert account(None, None, None, insecure_http=False).id == ACCOUNT
    assert cloud.asked == ["GetCallerIdentity"]


def test_credentials_that_are_no_header_are_not_shown(cloud: Cloud) -> None:
    ended = inside(cloud, "undeploy", "sagemaker", "x", "--yes", environ={"AWS_SESSION_TOKEN": "hunter2\nhunter2"})
    assert (ended.code, "the AWS credentials (env): expected printable ASCII" in ended.err) == (2, True), ended.err
    assert "hunter2" not in ended.err + ended.out
    assert cloud.asked == []


WRONG = (
    (("--group", "a_b"), "--group 'a_b': expected"),
    (("--group", "a", "--package-name", "b"), "--group and --package-name: expected one of them"),
    (("--group", ""), "--group: expected a value"),
    (("--group", "a", "--environment", "DB_PASSWORD=opensesame"), "--environment DB_PASSWORD: it looks like a secret"),
    (("--group", "a", "--artifact", "model.zip"), "--artifact 'model.zip': expected a .tar.gz"),
    (("--package-name", "a", "--approve"), "--approve: only versions in a group are approved"),
)


@pytest.mark.parametrize(("options", "reason"), WRONG)
def test_options_are_checked_before_anything_is_asked(cloud: Cloud, options: Sequence[str], reason: str) -> None:
    ended = publish(cloud, *options)
    assert (ended.code, reason in ended.err) == (2, True), ended.err
    assert "opensesame" not in ended.err
    assert cloud.asked == []


def test_marketplace_is_looked_at_before_anything_is_made(cloud: Cloud, files: Path) -> None:
    """All that is wrong is told at once."""
    artifact = ("--artifact", str(files / "model.tar.gz"), "--bucket", "no-such-bucket-here")
    ended = publish(cloud, "--certify", "--json", *artifact, group="listed")
    assert ended.code == 6, ended.err
    for level, words in (
        ("must", "Marketplace takes packages without a group"),
        ("must", "aws s3 mb s3://no-such-bucket-here"),
        ("must", "needs a role"),
        ("must", "needs something to send"),
        ("note", "without any network"),
        ("note", "asynchronous or serverless"),
    ):
        assert [line for line in ended.err.splitlines() if line.startswith(f"{level:<9} ") and words in line], words
    assert "nothing was made" in ended.document["error"]["message"]
    assert set(cloud.asked) == {"GetCallerIdentity", "HEAD /no-such-bucket-here"}


def test_a_package_for_marketplace_and_a_conflict(cloud: Cloud, files: Path) -> None:
    options = (
        *("--package-name", "for-sale", "--certify", *MACHINES, "--role", ROLE, "--bucket", BUCKET),
        *("--sample", str(files / "sample.json"), "--json"),
    )
    ended = publish(cloud, *options)
    assert ended.code == 0, ended.err
    [request] = cloud.bodies_of("CreateModelPackage")
    assert request["CertifyForMarketplace"] is True
    assert "ModelPackageGroupName" not in request
    assert {finding["level"] for finding in ended.document["findings"]} == {"note"}
    assert "AWS Marketplace Management Portal" in ended.err

    again = publish(cloud, *options)
    assert (again.code, again.document["package"]["arn"]) == (0, ended.document["package"]["arn"]), again.err
    other = publish(cloud, *options, "--environment", "A=1")
    assert other.code == 6, other.err
    assert "model package for-sale is there already, with another Environment" in other.err
    assert "--package-name" in other.document["error"]["hint"]


def test_an_image_that_is_not_there_or_not_for_sagemaker(cloud: Cloud) -> None:
    index = put_image(cloud, "digits", "index", "b", "application/vnd.oci.image.index.v1+json")
    for image, code, reason in (
        ("digits:9.9", 5, f"{HOST}/digits:9.9 is not in ECR"),
        ("other:1.0", 5, "--create-repository makes it"),
        ("digits:index", 6, f"{HOST}/digits@{index} is an index"),
        (f"{ACCOUNT}.dkr.ecr.eu-west-1.amazonaws.com/digits:1.0", 6, "the image is in eu-west-1"),
    ):
        ended = publish(cloud, image=image, group="none")
        assert (ended.code, reason in ended.err) == (code, True), ended.err
    assert "CreateModelPackageGroup" not in cloud.asked


def test_without_an_engine_the_commands_are_told(cloud: Cloud, tmp_path: Path) -> None:
    """The repository is made when that is asked for."""
    ended = command(
        cloud, "publish", "sagemaker", "fresh:1.0", *TYPES, "--group", "g", "--create-repository",
        environ={"PATH": str(tmp_path)},
    )  # fmt: skip
    assert ended.code == 5, ended.err
    assert "nothing here pushes images (docker: no such program;" in ended.err
    assert f"docker push {HOST}/fresh:1.0" in ended.err
    assert "docker login --username AWS --password-stdin" in ended.err
    assert "is there  repository fresh" in ended.err
    assert cloud.client("ecr").describe_repositories(repositoryNames=["fresh"])["repositories"]


def test_buckets(cloud: Cloud, files: Path) -> None:
    cloud.client("s3").create_bucket(
        Bucket="far-away-models", CreateBucketConfiguration={"LocationConstraint": "eu-west-1"}
    )
    artifact = ("--artifact", str(files / "model.tar.gz"))
    for options, code, reason in (
        ((*artifact, "--bucket", "no-such-bucket-here"), 5, "aws s3 mb s3://no-such-bucket-here"),
        (artifact, 5, f"bucket sagemaker-{REGION}-{ACCOUNT}"),
        ((*artifact, "--bucket", "far-away-models"), 6, "the bucket is in eu-west-1"),
        (("--model-data-url", "s3://far-away-models/model.tar.gz"), 6, "bucket far-away-models is in eu-west-1"),
    ):
        ended = publish(cloud, *options, group="buckets")
        assert (ended.code, reason in ended.err) == (code, True), ended.err
    assert "CreateModelPackageGroup" not in cloud.asked


def test_ctrl_c_takes_back_half_an_upload(cloud: Cloud, tmp_path: Path) -> None:
    archive = tmp_path / "model.tar.gz"
    archive.write_bytes(b"\x1f\x8b" + os.urandom(17 * 1024 * 1024))
    cloud.rule(".*partNumber=2.*", hang=True)
    process = subprocess.Popen(
        [
            *(script("servekit"), "publish", "sagemaker", "digits:1.0", "--no-push", *TYPES, "--group", "half"),
            *("--artifact", str(archive), "--bucket", BUCKET),
        ],
        env=cloud.environ(), stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    try:
        assert cloud.reached.wait(aws.MAX_S)
        process.send_signal(signal.SIGINT)
        # boto3 waits for the parts that are on their way; this one would end the upload.
        time.sleep(0.5)
        cloud.released.set()
        _, err = process.communicate(timeout=aws.MAX_S)
    finally:
        process.kill()
        process.wait()
    assert process.returncode == 130, err
    assert f"unknown   object s3://{BUCKET}/servekit/half/" in err
    assert [name for name in cloud.asked if name.startswith("DELETE") and "uploadId" in name]
    assert "Uploads" not in cloud.client("s3").list_multipart_uploads(Bucket=BUCKET)


def test_ctrl_c_says_what_is_left_behind(cloud: Cloud) -> None:
    cloud.rule("CreateModelPackage", hang=True)
    process = subprocess.Popen(
        [script("servekit"), "publish", "sagemaker", "digits:1.0", "--no-push", *TYPES, "--group", "broken-off", "--json"],
        env=cloud.environ(), stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    try:
        assert cloud.reached.wait(aws.MAX_S)
        process.send_signal(signal.SIGINT)
        out, err = process.communicate(timeout=aws.MAX_S)
    finally:
        process.kill()
        process.wait()
    assert process.returncode == 130, err
    assert "servekit: interrupted" in err
    assert "is there  group broken-off" in err
    assert "unknown   package broken-off may be there or not; this tells: aws sagemaker list-model-packages" in err
    assert json.loads(out)["error"]["kind"] == "interrupted"
    assert aws.SECRET_KEY not in err + out
