"""Tokens, the registry's login, models, services of both generations, and the gateway to them."""

from __future__ import annotations

import base64
import copy
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx2
import pytest
from emulated import ACCESS_KEY, PROJECT_ID, SECRET_KEY, Emulator, ask, connect, emulate, token
from serving import serve
from told import CLOSE, NOT_HTTP, Said, Told, told

V1, V2 = f"/v1/{PROJECT_ID}", f"/v2/{PROJECT_ID}"
IMAGE = "swr.cn-north-4.myhuaweicloud.com/team/hello:1.0.0"
HELLO = Path(__file__).parents[2] / "examples" / "hello"
CONFIG = {
    "model_algorithm": "predict_analysis",
    "model_type": "Image",
    "apis": [
        {
            "url": "/", "method": "post", "request": {"Content-type": "application/json", "data": {"type": "object"}},
            "response": {"Content-type": "application/json", "data": {"type": "object"}},
        }
    ],
    "health": {"url": "/health", "protocol": "http", "initial_delay_seconds": "12", "timeout_seconds": "10"},
}  # fmt: skip


@pytest.fixture(scope="module")
def emulator() -> Iterator[Emulator]:
    with (
        serve(str(HELLO), platform="modelarts") as server,
        emulate("modelarts", "--service", server.url) as running,
    ):
        yield running
        assert "Traceback" not in running.log


@pytest.fixture(scope="module")
def client(emulator: Emulator) -> Iterator[httpx2.Client]:
    with connect(emulator.url, {"X-Auth-Token": token(emulator)}) as client:
        yield client


def is_refused(answer: httpx2.Response, status: int, code: str) -> bool:
    return (answer.status_code, answer.json()["error_code"]) == (status, code)


def until(client: httpx2.Client, path: str, key: str, *going: str) -> dict[str, Any]:
    while (document := client.get(path).json())[key] in going:
        pass
    found: dict[str, Any] = document
    return found


# --- IAM and SWR ---


def auth(**changed: Any) -> dict[str, Any]:
    user = {"name": ACCESS_KEY, "password": SECRET_KEY, "domain": {"name": "emulated"}} | changed
    identity = {"methods": ["password"], "password": {"user": user}}
    return {"auth": {"identity": identity, "scope": {"project": {"name": "cn-north-4"}}}}


def test_a_token_says_when_it_ends(emulator: Emulator) -> None:
    answer = ask("POST", f"{emulator.url}/v3/auth/tokens", json=auth())
    assert answer.status_code == 201
    said = answer.json()["token"]
    assert said["issued_at"] < said["expires_at"]
    assert said["project"]["name"] == "cn-north-4"
    assert answer.headers["x-subject-token"] not in answer.text


@pytest.mark.parametrize(
    ("document", "status"),
    [
        (auth(password="SKANOTHER"), 401),  # noqa: S106 - an example
        (auth(name="AKANOTHER"), 401),
        (auth(password=None), 400),
        (auth(domain=None), 400),
        ({"auth": {"identity": {"methods": ["token"]}}}, 400),
        ({}, 400),
    ],
)
def test_a_wrong_password_gets_no_token(document: Any, status: int, emulator: Emulator) -> None:
    answer = ask("POST", f"{emulator.url}/v3/auth/tokens", json=document)
    assert (answer.status_code, answer.json()["error"]["code"]) == (status, status)
    assert "x-subject-token" not in answer.headers
    assert "SKANOTHER" not in answer.text


def test_a_token_without_a_project_opens_no_image(emulator: Emulator) -> None:
    document = auth()
    del document["auth"]["scope"]
    given = ask("POST", f"{emulator.url}/v3/auth/tokens", json=document).headers["x-subject-token"]
    answer = ask("GET", f"{emulator.url}{V1}/images", headers={"X-Auth-Token": given})
    assert is_refused(answer, 401, "ModelArts.0207")


def test_the_registrys_login_is_for_the_regions_registry(client: httpx2.Client) -> None:
    answer = client.post("/v2/manage/utils/secret", params={"projectname": "eu-west-101"}, json={})
    [(registry, login)] = answer.json()["auths"].items()
    assert registry == "swr.eu-west-101.myhuaweicloud.com"
    user, _, password = base64.b64decode(login["auth"]).decode().partition(":")
    assert user == f"eu-west-101@{ACCESS_KEY}"
    assert len(password) == 64
    assert client.get("/v2/manage/utils/secret").status_code == 404
    assert client.post("/v2/manage/utils/secret", params={"projectname": "../x"}, json={}).status_code == 400


def test_an_organization_is_made_once(client: httpx2.Client) -> None:
    assert client.post("/v2/manage/namespaces", json={"namespace": "team-a"}).status_code == 201
    assert client.post("/v2/manage/namespaces", json={"namespace": "team-a"}).status_code == 409
    assert client.post("/v2/manage/namespaces", json={"namespace": "Team A"}).status_code == 400


# --- models ---


def model(name: str, **changed: Any) -> dict[str, Any]:
    return {
        "model_name": name, "model_version": "1.0.0", "model_type": "Image", "source_location": IMAGE,
        "initial_config": json.dumps(CONFIG), "description": "d",
    } | changed  # fmt: skip


def published(client: httpx2.Client, name: str, **changed: Any) -> dict[str, Any]:
    made = client.post(f"{V1}/models", json=model(name, **changed))
    assert made.status_code == 200, made.text
    return until(client, f"{V1}/models/{made.json()['model_id']}", "model_status", "publishing", "building")


def test_a_model_is_published_and_its_documents_are_texts(client: httpx2.Client) -> None:
    shown = published(client, "texts")
    assert (shown["model_status"], shown["model_version"], shown["source_location"]) == ("published", "1.0.0", IMAGE)
    assert json.loads(shown["apis"])[0]["url"] == "/"
    assert json.loads(shown["config"]) == CONFIG
    assert json.loads(shown["model_metrics"]) == {}
    assert is_refused(client.post(f"{V1}/models", json=model("texts")), 409, "ModelArts.3002")
    published(client, "texts", model_version="1.0.1")
    listed = client.get(f"{V1}/models", params={"model_name": "texts", "exact_match": "true"}).json()
    assert [each["model_version"] for each in listed["models"]] == ["1.0.1", "1.0.0"]
    deleted = client.delete(f"{V1}/models/{shown['model_id']}").json()
    assert deleted == {"delete_success_list": [shown["model_id"]], "delete_failed_list": []}
    assert is_refused(client.get(f"{V1}/models/{shown['model_id']}"), 404, "ModelArts.3001")


@pytest.mark.parametrize(
    ("changed", "code"),
    [
        ({"model_name": ""}, "ModelArts.3036"),
        ({"source_location": None}, "ModelArts.3036"),
        ({"model_name": "a b"}, "ModelArts.3037"),
        ({"model_version": "1.0"}, "ModelArts.3037"),
        ({"model_version": "1.0.100"}, "ModelArts.3037"),
        ({"model_type": "Other"}, "ModelArts.3037"),
        ({"description": "x" * 101}, "ModelArts.3037"),
        ({"source_location": "hello:1"}, "ModelArts.3017"),
        ({"initial_config": CONFIG}, "ModelArts.3016"),
        ({"initial_config": "{"}, "ModelArts.3016"),
        ({"initial_config": json.dumps(CONFIG | {"model_algorithm": "a&b"})}, "ModelArts.3015"),
        ({"initial_config": json.dumps(CONFIG | {"model_type": "PyTorch"})}, "ModelArts.3015"),
        ({"initial_config": json.dumps(CONFIG | {"dependencies": [{}]})}, "ModelArts.3015"),
        ({"initial_config": json.dumps(CONFIG | {"health": {"url": "/h", "timeout_seconds": 3}})}, "ModelArts.3592"),
        ({"dependencies": [{"installer": "pip"}]}, "ModelArts.3015"),
    ],
)
def test_a_wrong_model_is_refused(changed: dict[str, Any], code: str, client: httpx2.Client) -> None:
    assert is_refused(client.post(f"{V1}/models", json=model("refused", **changed)), 400, code)


def test_a_model_may_fail(emulator: Emulator, client: httpx2.Client) -> None:
    emulator.faults("create-failed", method="POST", path=f"{V1}/models", message="no such image")
    shown = published(client, "fails")
    assert (shown["model_status"], shown["error_msg"]) == ("failed", "no such image")
    assert is_refused(client.post(f"{V1}/services", json=service("of-it", shown)), 400, "ModelArts.3515")


# --- services, first generation ---


@dataclass(frozen=True)
class Broken:
    container: Told
    client: httpx2.Client
    address: str


@pytest.fixture(scope="module")
def broken() -> Iterator[Broken]:
    """A service whose container says what a test wants."""
    with (
        told() as container,
        emulate("modelarts", "--service", container.url) as emulator,
        connect(emulator.url, {"X-Auth-Token": token(emulator)}) as client,
    ):
        shown = running(client, service("broken", published(client, "broken")))
        yield Broken(container, client, shown["access_address"])
        assert "Traceback" not in emulator.log


def service(name: str, of: dict[str, Any], **changed: Any) -> dict[str, Any]:
    config = {"model_id": of["model_id"], "specification": "modelarts.vm.cpu.2u", "weight": "100", "instance_count": 1}
    return {"service_name": name, "infer_type": "real-time", "config": [config | changed]}


def running(client: httpx2.Client, document: dict[str, Any]) -> dict[str, Any]:
    made = client.post(f"{V1}/services", json=document)
    assert made.status_code == 200, made.text
    return until(client, f"{V1}/services/{made.json()['service_id']}", "status", "deploying")


@pytest.fixture(scope="module")
def hello(client: httpx2.Client) -> dict[str, Any]:
    return published(client, "hello")


def test_a_service_runs_answers_stops_and_is_gone(client: httpx2.Client, hello: dict[str, Any]) -> None:
    shown = running(client, service("hello", hello))
    assert (shown["status"], shown["progress"], shown["config"][0]["model_name"]) == ("running", 100, "hello")
    assert client.get(f"{V1}/services", params={"service_name": "hello"}).json()["count"] == 1
    assert is_refused(client.post(f"{V1}/services", json=service("hello", hello)), 409, "ModelArts.3503")
    where = f"{V1}/services/{shown['service_id']}"
    answer = client.post(shown["access_address"], json={"req_data": [{"text": "hi"}]})
    assert (answer.status_code, answer.json()) == (200, {"resp_data": [{"prediction": "a", "text": "hi"}]})
    assert client.get(f"{shown['access_address']}/health").status_code == 200
    assert client.post(f"{shown['access_address']}/nowhere", json={}).status_code == 404
    assert ask("POST", shown["access_address"], json={}).status_code == 401
    in_use = client.delete(f"{V1}/models/{hello['model_id']}").json()
    assert in_use["delete_failed_list"][0]["error_code"] == "ModelArts.3009"
    assert is_refused(client.put(where, json={"status": "stopped", "config": []}), 400, "ModelArts.0107")
    assert client.put(where, json={"status": "stopped"}).json() == {}
    stopped = until(client, where, "status", "stopping")
    assert stopped["status"] == "stopped"
    assert "access_address" not in stopped
    assert is_refused(client.post(shown["access_address"], json={}), 400, "ModelArts.4203")
    assert client.put(where, json={"status": "running"}).json() == {}
    assert until(client, where, "status", "deploying")["status"] == "running"
    assert client.delete(where).json() == {}
    assert is_refused(client.get(where), 404, "ModelArts.3502")


@pytest.mark.parametrize("status", [200, CLOSE, NOT_HTTP])
def test_an_answer_that_breaks_off_is_not_passed_on(status: int, broken: Broken) -> None:
    broken.container.answer = lambda asked: Said(status, b'{"half": ', length=100, then_close=True)
    assert is_refused(broken.client.post(broken.address, json={}), 503, "ModelArts.4503")


def test_a_service_may_fail(emulator: Emulator, client: httpx2.Client, hello: dict[str, Any]) -> None:
    emulator.faults("create-failed", method="POST", path=f"{V1}/services", message="register-agent: no route")
    shown = running(client, service("fails", hello))
    assert (shown["status"], shown["error_msg"]) == ("failed", "register-agent: no route")


def test_a_batch_service_finishes(client: httpx2.Client, hello: dict[str, Any]) -> None:
    shown = running(client, service("batch", hello) | {"infer_type": "batch"})
    assert until(client, f"{V1}/services/{shown['service_id']}", "status", "running")["status"] == "finished"


@pytest.mark.parametrize(
    ("changed", "status", "code"),
    [
        ({"service_name": "a b"}, 400, "ModelArts.0107"),
        ({"infer_type": "online"}, 400, "ModelArts.0107"),
        ({"config": []}, 400, "ModelArts.0107"),
        ({"weight": 50}, 400, "ModelArts.0107"),
        ({"instance_count": 0}, 400, "ModelArts.0107"),
        ({"specification": "custom"}, 400, "ModelArts.0107"),
        ({"envs": {"A": 1}}, 400, "ModelArts.0107"),
        ({"model_id": "none"}, 404, "ModelArts.3507"),
    ],
)
def test_a_wrong_service_is_refused(
    changed: dict[str, Any], status: int, code: str, client: httpx2.Client, hello: dict[str, Any]
) -> None:
    document = service("refused", hello)
    for name, value in changed.items():
        (document if name in document else document["config"][0])[name] = value
    assert is_refused(client.post(f"{V1}/services", json=document), status, code)


# --- whatever is sent ---

ODD: Sequence[Any] = (None, True, -1, 1.5, 10**30, "", "x" * 3000, "é\0", [], [None], [[1]], {}, {"a": [{}]})


def variants(document: Any) -> Iterator[Any]:
    """With one value, wherever it is, replaced by an odd one."""
    yield from ODD
    entries = (
        document.items() if isinstance(document, dict) else enumerate(document) if isinstance(document, list) else ()
    )
    for key, value in list(entries):
        for odd in variants(value):
            changed = copy.copy(document)
            changed[key] = odd
            yield changed


@pytest.mark.parametrize("path", ["images", "models", "services", "services2", "tokens", "namespaces", "secret"])
def test_an_odd_value_anywhere_is_taken_or_refused(path: str, client: httpx2.Client, hello: dict[str, Any]) -> None:
    """And never stumbled over."""
    config = model("odd", initial_config=json.dumps(CONFIG), health={}, apis=[{"url": "/"}])
    routes: dict[str, tuple[str, Any]] = {
        "images": (
            f"{V1}/images",
            {"swr_path": IMAGE, "tags": ["a"], "services": ["SSH"], "arch": "X86_64", "read_me": "r"},
        ),
        "models": (f"{V1}/models", config),
        "services": (f"{V1}/services", service("odd", hello, envs={"a": "b"}, custom_spec={"cpu": 1, "memory": 1})),
        "services2": (f"{V2}/services", service2("odd")),
        "tokens": ("/v3/auth/tokens", auth()),
        "namespaces": ("/v2/manage/namespaces", {"namespace": "odd"}),
        "secret": ("/v2/manage/utils/secret", {}),
    }
    where, document = routes[path]
    answers = [client.post(where, json=variant) for variant in variants(document)]
    listed = [client.get(where)] if path in ("images", "models", "services", "services2") else []
    assert {answer.status_code for answer in [*answers, *listed]} <= {200, 201, 400, 401, 404, 409}
    assert any(answer.status_code == 400 for answer in answers) or path == "secret"


# --- services, second generation ---


def service2(name: str, **changed: Any) -> dict[str, Any]:
    unit = {"image": {"source": "SWR", "swr_path": IMAGE}, "flavor": "modelarts.vm.cpu.2u", "port": 8080}
    limit = {"rate_limit": {"num": 100, "unit": "SECONDS"}, "request_size_limit": 12, "request_timeout": 60}
    return {
        "name": name, "type": "REAL_TIME", "deploy_type": "SINGLE",
        "group_configs": [{"name": "group", "weight": 100, "count": 1, "unit_configs": [unit]}],
        "runtime_config": {
            "service_invoke": {"port": 8080, "protocol": "HTTP", "auth_type": "TOKEN"}, "service_limit": limit,
        },
    } | changed  # fmt: skip


def test_a_service_of_an_image_runs_answers_stops_and_is_gone(client: httpx2.Client) -> None:
    made = client.post(f"{V2}/services", json=service2("second")).json()
    assert "predict_url" not in made
    where = f"{V2}/services/{made['id']}"
    shown = until(client, where, "status", "INIT", "DEPLOYING")
    assert shown["status"] == "RUNNING"
    [url] = shown["predict_url"][0]["urls"]
    assert client.post(url, json={"req_data": [{"text": "hi"}]}).json()["resp_data"][0]["text"] == "hi"
    assert client.get(f"{V2}/services", params={"name": "second"}).json()["total"] == 1
    assert is_refused(client.post(f"{where}/start"), 400, "ModelArts.3519")
    assert is_refused(client.put(where, json={"version": shown["version"]["version"]}), 400, "ModelArts.8031")
    assert client.post(f"{where}/stop").json()["status"] in ("STOPPING", "STOPPED")
    assert until(client, where, "status", "STOPPING")["status"] == "STOPPED"
    deleted = client.post(f"{V2}/services/delete", json={"service_ids": [made["id"]]}).json()
    assert [each["id"] for each in deleted["service_responses"]] == [made["id"]]
    assert is_refused(client.get(where), 404, "ModelArts.3502")


@pytest.mark.parametrize(
    ("changed", "code"),
    [
        ({"type": "BATCH"}, "ModelArts.0107"),
        ({"deploy_type": None}, "ModelArts.0107"),
        ({"group_configs": []}, "ModelArts.0107"),
        ({"group_configs": [{"unit_configs": [{"image": {"source": "SWR", "swr_path": "x"}}]}]}, "ModelArts.0107"),
        ({"runtime_config": {}}, "ModelArts.0107"),
        ({"runtime_config": {"service_invoke": {}, "service_limit": {}}}, "ModelArts.8037"),
        ({"workspace_id": "x"}, "ModelArts.0102"),
    ],
)
def test_a_wrong_service_of_an_image_is_refused(changed: dict[str, Any], code: str, client: httpx2.Client) -> None:
    assert is_refused(client.post(f"{V2}/services", json=service2("refused", **changed)), 400, code)
