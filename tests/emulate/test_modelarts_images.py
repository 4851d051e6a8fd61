"""Image management, as the vendor's page and its client describe it."""

from __future__ import annotations

import re
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx2
import pytest
from emulated import ACCESS_KEY, PROJECT_ID, SECRET_KEY, Emulator, ask, connect, emulate, token

from servekit.publish.http import Request
from servekit.publish.modelarts.signer import KeyPair, Signer
from servekit.publish.secrets import Secret

IMAGES = f"/v1/{PROJECT_ID}/images"
REGISTRY = "swr.example.com/team"


@pytest.fixture(scope="module")
def emulator() -> Iterator[Emulator]:
    with emulate("modelarts") as running:
        yield running
        assert "Traceback" not in running.log


@pytest.fixture(scope="module")
def client(emulator: Emulator) -> Iterator[httpx2.Client]:
    with connect(emulator.url, {"X-Auth-Token": token(emulator)}) as client:
        yield client


def registered(client: httpx2.Client, path: str, **asked: Any) -> dict[str, Any]:
    answer = client.post(IMAGES, json={"swr_path": path, **asked})
    assert answer.status_code == 200, answer.text
    image: dict[str, Any] = answer.json()
    return image


def ended(client: httpx2.Client, image: dict[str, Any]) -> dict[str, Any]:
    while (image := client.get(f"{IMAGES}/{image['id']}").json())["status"] in ("INIT", "CREATING"):
        pass
    return image


# --- the page's example ---

EXAMPLE_PATH = "swr.xxx.com/op_svc_modelarts_container2/pytorch_1_8:train-pytorch_1.8.0-cuda_10.2-py_3.7"
EXAMPLE_REQUEST = {"description": "", "resource_category": ["CPU"], "arch": "X86_64", "swr_path": EXAMPLE_PATH}
EXAMPLE_RESPONSE = {
    "arch": "x86_64", "create_at": 1671708630448, "description": "", "dev_services": ["NOTEBOOK", "SSH"],
    "id": "708ca95d-c601-4dc7-86b9-670adfd5e818", "name": "pytorch_1_8", "namespace": "op_svc_modelarts_container2",
    "origin": "CUSTOMIZE", "resource_categories": ["CPU"], "service_type": "UNKNOWN", "size": 3376133259,
    "status": "ACTIVE", "swr_path": EXAMPLE_PATH, "tag": "train-pytorch_1.8.0-cuda_10.2-py_3.7", "type": "DEDICATED",
    "update_at": 1671708630448, "visibility": "PRIVATE", "workspace_id": "0",
}  # fmt: skip
ITS_OWN = ("id", "create_at", "update_at")


def test_the_pages_example_request_gets_its_example_response(emulator: Emulator, client: httpx2.Client) -> None:
    made = registered(
        client, EXAMPLE_PATH, **{key: EXAMPLE_REQUEST[key] for key in EXAMPLE_REQUEST if key != "swr_path"}
    )
    image = ended(client, made)
    assert image.keys() == EXAMPLE_RESPONSE.keys()
    assert {key: image[key] for key in image if key not in ITS_OWN} == {
        key: EXAMPLE_RESPONSE[key] for key in EXAMPLE_RESPONSE if key not in ITS_OWN
    }
    assert re.fullmatch(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}", image["id"])
    # Both are times in ms of these days, and in this order.
    assert 1_700_000_000_000 < image["create_at"] <= image["update_at"] < 10_000_000_000_000


def test_everything_that_is_asked_for_comes_back_under_its_other_name(client: httpx2.Client) -> None:
    image = registered(
        client, f"{REGISTRY}/all:1", arch="AARCH64", description="é" * 512, origin="IMAGE_SAVE",
        resource_category=["ASCEND"], service_type="INFERENCE", services=["SSH"], visibility="PUBLIC",
        workspace_id="a1" * 16, flavor_type="ASCEND_SNT9B", unknown="is passed over",
    )  # fmt: skip
    expected = {
        "arch": "aarch64", "description": "é" * 512, "origin": "IMAGE_SAVE", "resource_categories": ["ASCEND"],
        "service_type": "INFERENCE", "dev_services": ["SSH"], "visibility": "PUBLIC", "workspace_id": "a1" * 16,
        "flavor_type": "ASCEND_SNT9B", "type": "DEDICATED", "name": "all", "namespace": "team", "tag": "1",
    }  # fmt: skip
    assert {key: image[key] for key in expected} == expected
    assert "unknown" not in image
    assert "size" in ended(client, image)


def test_what_is_left_out_has_the_documented_default(client: httpx2.Client) -> None:
    image = registered(client, f"{REGISTRY}/defaults:1")
    assert (image["arch"], image["origin"], image["service_type"]) == ("x86_64", "CUSTOMIZE", "UNKNOWN")
    assert (image["resource_categories"], image["dev_services"]) == (["CPU", "GPU"], ["NOTEBOOK", "SSH"])
    assert (image["visibility"], image["workspace_id"], image["description"]) == ("PRIVATE", "0", "")


@pytest.mark.parametrize(
    ("asked", "code"),
    [
        ({}, "ModelArts.6335"),
        ({"swr_path": None}, "ModelArts.6335"),
        ({"swr_path": "r.io/n/a:1"}, "ModelArts.6336"),  # 10 characters
        ({"swr_path": f"swr.example.com/team/{'a' * 2048}:1"}, "ModelArts.6336"),
        ({"swr_path": "swr.example.com/team/image"}, "ModelArts.6336"),
        ({"swr_path": "swr.example.com/image:1"}, "ModelArts.6336"),
        ({"swr_path": "swr.example.com/team/Image:1"}, "ModelArts.6336"),
        ({"swr_path": "https://swr.example.com/team/image:1"}, "ModelArts.6336"),
        ({"swr_path": "swr.example.com/team/image:1\n"}, "ModelArts.6336"),
        ({"swr_path": ["swr.example.com/team/image:1"]}, "ModelArts.6332"),
        ({"description": "x" * 513}, "ModelArts.6336"),
        ({"description": 3}, "ModelArts.6332"),
        ({"arch": "x86_64"}, "ModelArts.6336"),
        ({"origin": "OTHER"}, "ModelArts.6336"),
        ({"service_type": "SERVE"}, "ModelArts.6336"),
        ({"visibility": "SECRET"}, "ModelArts.6336"),
        ({"resource_category": "CPU"}, "ModelArts.6332"),
        ({"resource_category": ["TPU"]}, "ModelArts.6336"),
        ({"services": [["SSH"]]}, "ModelArts.6336"),
        ({"workspace_id": "1"}, "ModelArts.0102"),
        ({"workspace_id": "A" * 32}, "ModelArts.0102"),
        ({"tags": ["x"] * 21}, "ModelArts.6336"),
        ({"read_me": "x" * 3001}, "ModelArts.6336"),
    ],
)
def test_what_is_not_as_documented_is_refused(asked: dict[str, Any], code: str, client: httpx2.Client) -> None:
    complete = {"swr_path": f"{REGISTRY}/refused:1", **asked} if asked else asked
    answer = client.post(IMAGES, json=complete)
    assert (answer.status_code, answer.json()["error_code"]) == (400, code)
    assert answer.headers["x-request-id"]
    assert client.get(IMAGES, params={"type": "DEDICATED", "name": "refused"}).json()["total"] == 0


@pytest.mark.parametrize("body", [b"{", b"[]", b"null", b'{"a": NaN}', b'{"a": "\\ud800"}', b"[" * 100_000, b"\xff"])
def test_a_body_that_is_no_json_object_is_refused(body: bytes, client: httpx2.Client) -> None:
    answer = client.post(IMAGES, content=body, headers={"Content-Type": "application/json"})
    assert (answer.status_code, answer.json()["error_code"]) == (400, "ModelArts.6400")


def test_a_body_that_is_too_large_is_refused(client: httpx2.Client) -> None:
    answer = client.post(IMAGES, content=b" " * (1024 * 1024 + 1))
    assert (answer.status_code, answer.json()["error_code"]) == (413, "APIGW.0201")


def test_the_same_path_is_registered_once_in_a_project(client: httpx2.Client) -> None:
    registered(client, f"{REGISTRY}/twice:1")
    answer = client.post(IMAGES, json={"swr_path": f"{REGISTRY}/twice:1", "arch": "AARCH64"})
    assert (answer.status_code, answer.json()["error_code"]) == (400, "ModelArts.6737")
    registered(client, f"{REGISTRY}/twice:2")
    assert client.post("/v1/another/images", json={"swr_path": f"{REGISTRY}/twice:1"}).status_code == 200
    assert client.get(IMAGES, params={"type": "DEDICATED", "name": "twice"}).json()["total"] == 2


def test_of_many_at_once_one_is_registered(emulator: Emulator) -> None:
    given = {"X-Auth-Token": token(emulator)}

    def register(_: int) -> int:
        document = {"swr_path": f"{REGISTRY}/raced:1"}
        return ask("POST", emulator.url + IMAGES, json=document, headers=given).status_code

    with ThreadPoolExecutor(8) as pool:
        assert sorted(pool.map(register, range(16))) == [200] + [400] * 15


# --- the list ---


def test_the_list_has_built_in_images_unless_others_are_asked_for(client: httpx2.Client) -> None:
    listed = client.get(IMAGES).json()
    assert {image["type"] for image in listed["data"]} == {"BUILD_IN"}
    # A value that no list of values has: a client has to live with it.
    assert any("AI_FLOW" in image["dev_services"] for image in listed["data"])
    assert client.get(f"{IMAGES}/{listed['data'][0]['id']}").json() == listed["data"][0]
    assert client.delete(f"{IMAGES}/{listed['data'][0]['id']}").status_code == 403


def test_the_list_is_filtered_sorted_and_paged(client: httpx2.Client) -> None:
    for tag in ("1", "2", "3"):
        registered(client, f"swr.example.com/listed/listed-a:{tag}", service_type="INFERENCE")
    registered(client, "swr.example.com/listed/listed-b:1", workspace_id="b2" * 16)

    def listed(**query: Any) -> list[str]:
        answer = client.get(IMAGES, params={"type": "DEDICATED", "namespace": "listed", **query})
        assert answer.status_code == 200, answer.text
        return [f"{image['name']}:{image['tag']}" for image in answer.json()["data"]]

    every = ["listed-a:3", "listed-a:2", "listed-a:1"]
    assert listed(sort_key="create_at,tag") == every
    assert listed(sort_key="tag", sort_dir="ASC") == every[::-1]
    assert listed(name="ed-a", sort_key="tag") == every
    assert listed(name="ed-a", name_fuzzy_match="false") == []
    assert listed(name="listed-a", name_fuzzy_match="false", sort_key="tag") == every
    assert listed(service_type="TRAIN") == []
    assert listed(workspace_id="b2" * 16) == ["listed-b:1"]
    assert listed(sort_key="tag", limit="2") == every[:2]
    page = client.get(
        IMAGES, params={"type": "DEDICATED", "namespace": "listed", "limit": "2", "offset": "2", "sort_key": "tag"}
    ).json()
    assert (page["current"], page["pages"], page["size"], page["total"]) == (2, 2, 1, 3)
    assert [image["tag"] for image in page["data"]] == ["1"]


@pytest.mark.parametrize(
    ("query", "code"),
    [("limit=0", "ModelArts.6336"), ("limit=x", "ModelArts.6336"), ("offset=-1", "ModelArts.6336"),
     ("limit=99999999999", "ModelArts.6336"), ("type=MINE", "ModelArts.6336"), ("sort_dir=UP", "ModelArts.6336"),
     ("name_fuzzy_match=True", "ModelArts.6336"), ("sort_key=password", "ModelArts.6303"),
     ("workspace_id=x", "ModelArts.0102")],
)  # fmt: skip
def test_a_wrong_query_is_refused(query: str, code: str, client: httpx2.Client) -> None:
    answer = client.get(f"{IMAGES}?{query}")
    assert (answer.status_code, answer.json()["error_code"]) == (400, code)


# --- the others ---


@pytest.mark.parametrize("form", ["neither", "query", "body"])
def test_it_is_deleted_in_both_documented_forms(form: str, client: httpx2.Client) -> None:
    image = registered(client, f"{REGISTRY}/deleted-{form}:1")
    where = f"{IMAGES}/{image['id']}"
    if form == "body":
        answer = client.request("DELETE", where, json={"is_force": True})
    else:
        answer = client.delete(where, params={"force": "true"} if form == "query" else {})
    assert (answer.status_code, answer.json()["status"], answer.json()["id"]) == (200, "DELETED", image["id"])
    gone = client.get(where)
    assert (gone.status_code, gone.json()["error_code"]) == (404, "ModelArts.6797")
    assert client.delete(where).status_code == 404
    registered(client, f"{REGISTRY}/deleted-{form}:1")


def test_a_wrong_way_of_deleting_is_refused(client: httpx2.Client) -> None:
    where = f"{IMAGES}/{registered(client, f'{REGISTRY}/kept:1')['id']}"
    assert client.delete(where, params={"force": "maybe"}).json()["error_code"] == "ModelArts.6336"
    assert client.request("DELETE", where, json={"is_force": "yes"}).json()["error_code"] == "ModelArts.6332"
    assert client.get(where).status_code == 200


def test_a_public_image_is_read_by_others_and_not_deleted(client: httpx2.Client) -> None:
    public = registered(client, f"{REGISTRY}/public:1", visibility="PUBLIC")["id"]
    private = registered(client, f"{REGISTRY}/private:1")["id"]
    assert client.get(f"/v1/another/images/{public}").status_code == 200
    assert client.delete(f"/v1/another/images/{public}").status_code == 404
    assert client.get(f"/v1/another/images/{private}").status_code == 404


def test_sync_looks_again(client: httpx2.Client) -> None:
    image = ended(client, registered(client, f"{REGISTRY}/synced:1"))
    synced = client.post(f"{IMAGES}/{image['id']}/sync")
    assert (synced.status_code, synced.json()["status"]) == (200, "ACTIVE")
    assert synced.json()["update_at"] >= image["update_at"]
    assert client.post(f"{IMAGES}/none/sync").status_code == 404


def test_groups_are_all_tags_of_a_name(client: httpx2.Client) -> None:
    for tag in ("1", "2"):
        registered(client, f"swr.example.com/grouped/group:{tag}", description=f"of {tag}")
    query = {"namespace": "grouped"}
    [group] = client.get(f"{IMAGES}/group", params=query).json()["data"]
    assert (group["name"], group["namespace"], group["version_count"]) == ("group", "grouped", 2)
    assert client.put(f"{IMAGES}/group/{group['id']}", json={"read_me": "# Read"}).status_code == 200
    too_long = client.put(f"{IMAGES}/group/{group['id']}", json={"read_me": "x" * 30_001})
    assert (too_long.status_code, too_long.json()["error_code"]) == (400, "ModelArts.6336")
    assert client.get(f"{IMAGES}/group", params=query).json()["data"][0]["read_me"] == "# Read"
    assert client.request("DELETE", f"{IMAGES}/group/{group['id']}", json={"is_force": False}).status_code == 200
    assert client.get(f"{IMAGES}/group", params=query).json()["total"] == 0
    assert client.get(IMAGES, params={"type": "DEDICATED", **query}).json()["total"] == 0


def test_an_unknown_route_is_the_gateways_error(client: httpx2.Client) -> None:
    for answer in (client.get("/v1/p/unknown"), client.put(IMAGES, json={}), client.get("/")):
        assert (answer.status_code, answer.json()["error_code"]) == (404, "APIGW.0101")
        assert answer.json()["request_id"] == answer.headers["x-request-id"]


# --- who asks ---


def signed(
    emulator: Emulator, *, secret: str = SECRET_KEY, body: bytes = b"", project: str = PROJECT_ID
) -> httpx2.Response:
    """A list, or a registration, by our own signer; project: of the header."""
    method = "POST" if body else "GET"
    headers = {"content-type": "application/json"} if body else {}
    request = Request(method, f"127.0.0.1:{emulator.port}", IMAGES, (), headers, body)
    proof = Signer(KeyPair(ACCESS_KEY, Secret(secret)), project)(request)
    return ask(method, emulator.url + IMAGES, headers={**headers, **proof}, content=body)


def test_our_signature_is_good_and_another_keys_is_not(emulator: Emulator) -> None:
    assert signed(emulator).status_code == 200
    assert signed(emulator, body=b'{"swr_path": "swr.example.com/team/signed:1"}').status_code == 200
    refused = signed(emulator, secret="SKANOTHER")  # noqa: S106 - an example
    assert (refused.status_code, refused.json()["error_code"]) == (401, "APIGW.0301")
    assert "verify aksk signature fail" in refused.json()["error_msg"]
    assert signed(emulator, project="f" * 32).status_code == 403


def test_a_clock_that_is_too_far_off_is_refused(emulator: Emulator) -> None:
    for seconds, status in ((-890, 200), (-910, 401), (910, 401)):
        emulator.faults("skew", seconds=seconds)
        answer = signed(emulator)
        assert answer.status_code == status
    assert "signature expired" in answer.json()["error_msg"]


def test_a_token_is_needed_and_has_to_be_known(emulator: Emulator) -> None:
    missing = ask("GET", emulator.url + IMAGES)
    unknown = ask("GET", emulator.url + IMAGES, headers={"X-Auth-Token": "x" * 40})
    assert (missing.status_code, missing.json()["error_code"]) == (401, "APIGW.0301")
    assert (unknown.status_code, unknown.json()["error_code"]) == (401, "ModelArts.0203")


def test_the_state_survives_a_restart_and_holds_no_secret(tmp_path: Path) -> None:
    state, keys = tmp_path / "state", {"SERVEKIT_EMULATE_AK": "AK-OWN-KEY", "SERVEKIT_EMULATE_SK": "SK-OWN-SECRET"}

    def own_token(emulator: Emulator) -> str:
        user = {"name": "AK-OWN-KEY", "password": "SK-OWN-SECRET", "domain": {"name": "d"}}
        identity = {"methods": ["password"], "password": {"user": user}}
        auth = {"auth": {"identity": identity, "scope": {"project": {"id": PROJECT_ID}}}}
        answer = ask("POST", f"{emulator.url}/v3/auth/tokens", json=auth)
        assert answer.status_code == 201, answer.text
        return str(answer.headers["x-subject-token"])

    with emulate("modelarts", "--state", str(state), environ=keys) as emulator:
        given = own_token(emulator)
        with connect(emulator.url, {"X-Auth-Token": given}) as client:
            image = ended(client, registered(client, f"{REGISTRY}/survives:1"))
            assert client.get("/v1/another/images").json()["error_code"] == "ModelArts.0210"
            login = client.post("/v2/manage/utils/secret", json={}).json()["auths"].popitem()[1]["auth"]
        assert emulator.stop() == 0
        log = emulator.log
    with emulate("modelarts", "--state", str(state), environ=keys) as emulator:
        # The token, too, is as good as it was.
        again = ask("GET", f"{emulator.url}{IMAGES}/{image['id']}", headers={"X-Auth-Token": given})
        assert again.json() == image
        log += emulator.log
    for text in ("SK-OWN-SECRET", given, login):
        assert text.encode() not in state.read_bytes()
        assert text not in log
