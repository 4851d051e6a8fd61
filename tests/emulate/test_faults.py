"""Each fault, on a platform that is well otherwise."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator

import httpx2
import pytest
from emulated import PROJECT_ID, Emulator, connect, emulate, token

IMAGES = f"/v1/{PROJECT_ID}/images"
PATH = "swr.example.com/team/faulty"


@pytest.fixture(scope="module")
def emulator() -> Iterator[Emulator]:
    with emulate("modelarts") as running:
        yield running
        assert "Traceback" not in running.log


@pytest.fixture(scope="module")
def client(emulator: Emulator) -> Iterator[httpx2.Client]:
    with connect(emulator.url, {"X-Auth-Token": token(emulator)}) as client:
        yield client


@pytest.fixture(autouse=True)
def clean(emulator: Emulator) -> Iterator[None]:
    yield
    emulator.no_faults()


def own(client: httpx2.Client, tag: str) -> list[str]:
    listed = client.get(IMAGES, params={"type": "DEDICATED"}).json()["data"]
    return [image["status"] for image in listed if image["tag"] == tag]


@pytest.mark.parametrize(
    ("status", "code"),
    [(401, "APIGW.0301"), (403, "ModelArts.0112"), (404, "APIGW.0101"), (429, "APIGW.0308"), (500, "ModelArts.0010"),
     (503, "ModelArts.0010")],
)  # fmt: skip
def test_a_status_comes_in_the_platforms_form_and_goes_away(
    status: int, code: str, emulator: Emulator, client: httpx2.Client
) -> None:
    emulator.faults("status", path=IMAGES, status=status, times=2, message="no")
    for _ in range(2):
        answer = client.get(IMAGES)
        assert answer.status_code == status
        assert answer.json() == {"error_code": code, "error_msg": "no"}
    assert client.get(IMAGES).status_code == 200


def test_a_status_has_the_body_and_headers_that_are_asked_for(emulator: Emulator, client: httpx2.Client) -> None:
    emulator.faults("status", status=429, headers={"Retry-After": "3"}, body={"code": 1})
    answer = client.post(IMAGES, json={"swr_path": f"{PATH}:1"})
    assert (answer.status_code, answer.headers["retry-after"], answer.json()) == (429, "3", {"code": 1})


def test_only_the_request_that_fits_is_hit(emulator: Emulator, client: httpx2.Client) -> None:
    emulator.faults("status", method="POST", path="/v1/.*/images", status=500)
    assert client.get(IMAGES).status_code == 200
    assert client.get(f"{IMAGES}/group").status_code == 200
    assert client.post(IMAGES, json={"swr_path": f"{PATH}:1"}).status_code == 500


def test_zero_times_is_until_it_is_removed(emulator: Emulator, client: httpx2.Client) -> None:
    emulator.faults("status", status=500, times=0)
    assert {client.get(IMAGES).status_code for _ in range(5)} == {500}


def test_slow_is_an_answer_that_comes_later(emulator: Emulator, client: httpx2.Client) -> None:
    emulator.faults("slow", seconds=0.3)
    began_s = time.monotonic()
    assert client.get(IMAGES).status_code == 200
    assert time.monotonic() - began_s >= 0.3


def test_close_does_nothing(emulator: Emulator, client: httpx2.Client) -> None:
    emulator.faults("close", method="POST")
    with pytest.raises(httpx2.TransportError):
        client.post(IMAGES, json={"swr_path": f"{PATH}:close"})
    assert own(client, "close") == []


def test_lost_answer_does_it_all_the_same(emulator: Emulator, client: httpx2.Client) -> None:
    emulator.faults("lost-answer", method="POST")
    with pytest.raises(httpx2.TransportError):
        client.post(IMAGES, json={"swr_path": f"{PATH}:lost"})
    assert len(own(client, "lost")) == 1


def test_truncate_promises_more_than_it_sends(emulator: Emulator, client: httpx2.Client) -> None:
    emulator.faults("truncate")
    with pytest.raises(httpx2.RemoteProtocolError):
        client.get(IMAGES)
    assert client.get(IMAGES).status_code == 200


def test_not_json_is_a_page(emulator: Emulator, client: httpx2.Client) -> None:
    emulator.faults("not-json")
    answer = client.get(IMAGES)
    assert (answer.status_code, answer.headers["content-type"]) == (200, "text/html; charset=utf-8")
    with pytest.raises(json.JSONDecodeError):
        answer.json()


def test_create_failed_is_made_and_then_fails(emulator: Emulator, client: httpx2.Client) -> None:
    emulator.faults("create-failed", method="POST", message="the image is too large")
    made = client.post(IMAGES, json={"swr_path": f"{PATH}:failed"})
    assert made.status_code == 200
    while (image := client.get(f"{IMAGES}/{made.json()['id']}").json())["status"] in ("INIT", "CREATING"):
        pass
    assert (image["status"], image["status_message"]) == ("CREATE_FAILED", "the image is too large")


def test_skew_is_a_clock_that_is_off(emulator: Emulator, client: httpx2.Client) -> None:
    """Here by more than a day: the token has expired by it."""
    emulator.faults("skew", seconds=25 * 3600)
    answer = client.get(IMAGES)
    assert (answer.status_code, answer.json()["error_code"]) == (401, "ModelArts.0202")
    assert client.get(IMAGES).status_code == 200
