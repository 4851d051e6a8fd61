"""The vendors' own clients, unchanged, against the emulators as processes."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
from clients import needs_clients, run_client
from emulated import API_KEY, PROJECT_ID, emulate
from serving import script

HELLO = Path(__file__).parents[2] / "examples" / "hello"

MODELARTS = """
import json, sys, time
from huaweicloudsdkcore.auth.credentials import BasicCredentials
from huaweicloudsdkcore.exceptions.exceptions import ClientRequestException
from huaweicloudsdkcore.region.region import Region
from huaweicloudsdkmodelarts.v1 import *
url, project = sys.argv[1:]

def client(secret="SKEXAMPLE", project=project, token=None):
    keys = BasicCredentials("AKEXAMPLE", secret, project)
    if token:
        keys = keys.with_security_token(token)
    return ModelArtsClient.new_builder().with_credentials(keys).with_endpoints([url]).build()

def refused(call):
    try:
        call()
    except ClientRequestException as error:
        return [error.status_code, error.error_code, error.error_msg, bool(error.request_id)]
    return "not refused"

own = client()
said = {}
made = own.register_image(RegisterImageRequest(body=ImageRegRequest(
    swr_path="swr.cn-north-4.myhuaweicloud.com/team/digits:1.0.0", description="d\\u00e9j\\u00e0 vu", arch="AARCH64",
    service_type="INFERENCE", resource_category=["CPU"], services=["SSH"], visibility="PRIVATE", workspace_id="0")))
said["made"] = [made.arch, made.description, made.service_type, made.resource_categories, made.dev_services, made.type]
while own.show_image(ShowImageRequest(id=made.id)).status in ("INIT", "CREATING"):
    pass
shown = own.show_image(ShowImageRequest(id=made.id))
said["shown"] = [shown.id == made.id, shown.status, shown.size]
listed = own.list_image(ListImageRequest(type="DEDICATED", name="dig", name_fuzzy_match=True, limit=10, offset=0, sort_dir="ASC"))
said["listed"] = [listed.total, listed.data[0].swr_path]
said["built_in"] = own.list_image(ListImageRequest()).data[0].type
said["group"] = own.list_image_group(ListImageGroupRequest(name="digits")).data[0].version_count
said["synced"] = own.sync_image(SyncImageRequest(image_id=made.id)).status
said["twice"] = refused(lambda: own.register_image(RegisterImageRequest(body=ImageRegRequest(swr_path=made.swr_path))))
said["wrong"] = refused(lambda: own.register_image(RegisterImageRequest(body=ImageRegRequest(swr_path="short"))))
said["secret"] = refused(lambda: client("SKANOTHER").list_image(ListImageRequest()))
said["temporary"] = client(token="TEMPORARY").list_image(ListImageRequest(type="DEDICATED")).total
# Without a project id the SDK asks IAM for it.
keys = BasicCredentials("AKEXAMPLE", "SKEXAMPLE").with_iam_endpoint(url)
found = ModelArtsClient.new_builder().with_credentials(keys).with_region(Region("cn-north-4", url)).build()
said["project"] = found.list_image(ListImageRequest()).data[0].type
said["service"] = own.create_infer_service(CreateInferServiceRequest(body=ServiceCreateRequest(
    name="digits", type="REAL_TIME", deploy_type="SINGLE",
    group_configs=[GroupConfig(name="g", weight=100, count=1, unit_configs=[UnitConfig(
        image=ImageInfo(source="SWR", swr_path=made.swr_path), flavor="modelarts.vm.cpu.2u", port=8080)])],
    runtime_config=RuntimeConfigCreateRequest(
        service_invoke=ServiceInvokeCreateRequest(port=8080, protocol="HTTP", auth_type="TOKEN"),
        service_limit=ServiceLimit(rate_limit=RateLimit(num=100, unit="SECONDS"), request_size_limit=12, request_timeout=60)),
))).id != ""
deleted = own.delete_image(DeleteImageRequest(id=made.id, body=DeleteImageRequestBody(is_force=True)))
said["deleted"] = [deleted.id == made.id, deleted.status]
said["gone"] = refused(lambda: own.show_image(ShowImageRequest(id=made.id)))
print(json.dumps(said))
"""


@needs_clients
def test_huaweis_sdk_registers_lists_shows_and_deletes() -> None:
    with emulate("modelarts") as emulator:
        said = run_client(MODELARTS, emulator.url, PROJECT_ID)
        assert emulator.stop() == 0
        assert "Traceback" not in emulator.log
    assert said["made"] == ["aarch64", "déjà vu", "INFERENCE", ["CPU"], ["SSH"], "DEDICATED"]
    assert said["shown"] == [True, "ACTIVE", 3376133259]
    assert said["listed"] == [1, "swr.cn-north-4.myhuaweicloud.com/team/digits:1.0.0"]
    assert said["project"] == "BUILD_IN"
    assert (said["built_in"], said["group"], said["synced"]) == ("BUILD_IN", 1, "ACTIVE")
    assert (said["temporary"], said["service"], said["deleted"]) == (1, True, [True, "DELETED"])
    for case, status, code in [
        ("twice", 400, "ModelArts.6737"),
        ("wrong", 400, "ModelArts.6336"),
        ("secret", 401, "APIGW.0301"),
        ("gone", 404, "ModelArts.6797"),
    ]:
        assert (*said[case][:2], said[case][3]) == (status, code, True)
    assert "verify aksk signature fail" in said["secret"][2]


MODZY = """
import json, sys
from modzy import ApiClient
from modzy.error import UnauthorizedError
url, key, sample = sys.argv[1:]
said = {}
client = ApiClient(base_url=f"{url}/api", api_key=key)
inputs = [{"name": "text.txt", "acceptedMediaTypes": "text/plain", "maximumSize": 1000, "description": "a text"}]
made = client.models.deploy(
    "registry.example.com/team/hello:1.0.0", "hello", "1.0.0", sample_input_file=sample, run_timeout="60",
    status_timeout="60", short_description="says hello", tags=["text"], long_description="long", input_details=inputs,
    credentials={"user": "u", "pass": "p"})
version = json.loads(made["model_data"])
model = client.models.get_by_name("hello")
said["model"] = [model.modelId == version["modelId"], model.latestActiveVersion, model.description, model.tags]
said["version"] = client.models.get_version(model, "1.0.0").inputs[0]["name"]
said["run"] = version["runStatus"]["result"]["results.json"]

def outputs(job):
    result = client.results.block_until_complete(job, timeout=30, poll_interval=0.05)
    return result.get_first_outputs()["results.json"]

said["text"] = outputs(client.jobs.submit_text(model, "1.0.0", {"one": {"text.txt": "by text"}}))
said["embedded"] = outputs(client.jobs.submit_embedded(model, "1.0.0", {"one": {"text.txt": b"embedded"}}))
job = client.jobs.submit_file(model, "1.0.0", {"one": {"text.txt": sample}})
said["file"] = outputs(job)
said["status"] = client.jobs.block_until_complete(job, poll_interval=0.05).status
said["history"] = len(client.jobs.get_history(model=model.modelId))
failed = client.jobs.submit_text(model, "1.0.0", {"one": {"other.txt": "x"}})
said["failures"] = client.results.block_until_complete(failed, timeout=30, poll_interval=0.05).failures["one"]["error"]
said["engines"] = client.models.get_minimum_engines()
said["tags"] = [tag.identifier for tag in client.tags.get_all()]
try:
    ApiClient(base_url=f"{url}/api", api_key=f"{key}x")
except ValueError as error:
    said["key"] = str(error)
print(json.dumps(said))
"""


@pytest.mark.slow  # the client itself sleeps for seconds between its looks
@needs_clients
def test_modzys_sdk_deploys_a_linked_image_submits_jobs_and_reads_results(tmp_path: Path) -> None:
    """Behind the emulator is what a user runs: servekit with an example's predictor, started by the emulator."""
    sample = tmp_path / "sample.txt"
    sample.write_text("hello world")
    command = f"{sys.executable} {script('servekit')} run {HELLO} --platform modzy"
    with emulate("modzy", "--command", command, "--advance-s", "0") as emulator:
        said = run_client(MODZY, emulator.url, API_KEY, str(sample))
        assert emulator.stop() == 0
        assert "Traceback" not in emulator.log

    def answer(text: str) -> dict[str, object]:
        return {"data": {"result": {"prediction": "a", "text": text}, "explanation": None, "drift": None}}

    assert said["model"] == [True, "1.0.0", "says hello", ["text"]]
    assert (said["version"], said["tags"], said["engines"]) == ("text.txt", ["text"], 0)
    assert said["run"] == said["file"] == answer("hello world")
    assert (said["text"], said["embedded"]) == (answer("by text"), answer("embedded"))
    assert (said["status"], said["history"]) == ("COMPLETED", 3)
    assert "'text.txt' is missing" in said["failures"]
    assert "valid key" in said["key"]
