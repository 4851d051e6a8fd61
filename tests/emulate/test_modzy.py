"""Modzy's control plane: models, container images, the two tests, jobs and results; behind it a real container."""

from __future__ import annotations

import base64
import copy
import io
import json
import re
import socket
import tarfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx2
import pytest
from emulated import API_KEY, Emulator, ask, connect, emulate
from serving import serve

HELLO = Path(__file__).parents[2] / "examples" / "hello"
KEY = {"Authorization": f"ApiKey {API_KEY}"}
LINK = {"registry": {"url": "registry.example.com/team/hello:1.0.0", "username": "u", "password": "REGISTRYPASSWORD"}}
INPUT = {"name": "text.txt", "acceptedMediaTypes": "text/plain", "maximumSize": 1000, "description": ""}


@pytest.fixture(scope="module")
def container() -> Iterator[str]:
    with serve(str(HELLO), platform="modzy") as server:
        yield server.url


@pytest.fixture(scope="module")
def emulator(container: str) -> Iterator[Emulator]:
    with emulate("modzy", "--container", container) as running:
        yield running
        assert "Traceback" not in running.log


@pytest.fixture(scope="module")
def client(emulator: Emulator) -> Iterator[httpx2.Client]:
    with connect(f"{emulator.url}/api", KEY) as client:
        yield client


def good(answer: httpx2.Response) -> Any:
    assert answer.status_code == 200, answer.text
    return answer.json() if answer.content else None


def is_refused(answer: httpx2.Response, status: int, words: str) -> bool:
    document = answer.json()
    assert document["statusCode"] == answer.status_code
    return answer.status_code == status and words in document["message"]


def made(client: httpx2.Client, name: str = "hello") -> str:
    """Where its version is."""
    return (
        f"/models/{good(client.post('/models', json={'name': name, 'version': '1.0.0'}))['identifier']}/versions/1.0.0"
    )


def uploaded(client: httpx2.Client, version: str) -> dict[str, Any]:
    while (image := good(client.get(f"{version}/container-image")))["uploadPercentage"] < 100:
        pass
    found: dict[str, Any] = image
    return found


def ran(client: httpx2.Client, version: str) -> dict[str, Any]:
    while (run := good(client.get(f"{version}/run-process")))["percentage"] < 100:
        pass
    result: dict[str, Any] = run["result"]
    return result


def loaded(client: httpx2.Client, **changed: Any) -> str:
    version = made(client)
    good(client.post(f"{version}/container-image", json=LINK))
    uploaded(client, version)
    good(client.patch(version, json={"inputs": [INPUT]} | changed))
    good(client.post(f"{version}/load-process"))
    return version


def run_test(client: httpx2.Client, version: str, sample: bytes = b"hello world") -> dict[str, Any]:
    good(client.post(f"{version}/testInput", params={"name": "text.txt"}, files={"file": sample}))
    assert good(client.post(f"{version}/run-process")) is None
    return ran(client, version)


@pytest.fixture(scope="module")
def active(client: httpx2.Client) -> dict[str, str]:
    version = loaded(client)
    run_test(client, version)
    assert good(client.patch(version, json={"status": "active"}))["isActive"] is True
    return {"identifier": version.split("/")[2], "version": "1.0.0"}


# --- who asks ---


@pytest.mark.parametrize(
    ("header", "words"),
    [
        ("", "API key is missing"),
        ("ApiKey", "API key is missing"),
        (f"Bearer {API_KEY}", "expected the scheme ApiKey"),
        ("ApiKey AKEXAMPLE.WRONG", "not valid"),
        ("ApiKey AKEXAMPLE", "not valid"),
    ],
)
def test_the_key_is_needed(header: str, words: str, emulator: Emulator) -> None:
    answer = ask("GET", f"{emulator.url}/api/models", headers={"Authorization": header} if header else {})
    assert is_refused(answer, 401, words)
    assert "SKEXAMPLE" not in answer.text


def test_an_unknown_route_is_an_error_of_the_platforms_form(client: httpx2.Client) -> None:
    assert is_refused(client.get("/unknown"), 404, "no such route")
    assert is_refused(client.put("/models"), 405, "no such route")


# --- models and versions ---


def test_a_model_is_made_found_and_described(client: httpx2.Client) -> None:
    model = good(client.post("/models", json={"name": "described", "version": "0.1.0"}))
    assert re.fullmatch("[a-z0-9]{10}", model["identifier"])
    where = f"/models/{model['identifier']}"
    good(client.patch(where, json={"description": "d", "tags": ["own-a", "own-b"]}))
    good(client.post(f"{where}/image", params={"description": "card"}, files={"file": b"png"}))
    shown = good(client.get(where))
    assert (shown["description"], shown["tags"], shown["latestVersion"], shown["isActive"]) == (
        "d",
        ["own-a", "own-b"],
        "0.1.0",
        False,
    )
    assert [each["identifier"] for each in good(client.get("/models", params={"name": "described"}))] == [
        model["identifier"]
    ]
    assert {"own-a", "own-b"} <= {tag["identifier"] for tag in good(client.get("/models/tags"))}
    assert good(client.get("/models/tags/own-a,x"))["models"][0]["identifier"] == model["identifier"]
    assert is_refused(client.get("/models/none"), 404, "does not exist")
    assert client.delete(where).status_code == 204
    assert client.get(where).status_code == 404


@pytest.mark.parametrize(
    ("document", "words"),
    [
        ({"version": "1.0.0"}, "name: expected"),
        ({"name": "a/b", "version": "1.0.0"}, "name: expected"),
        ({"name": "a", "version": "1.0"}, "version: expected three numbers"),
        ({"name": "a", "version": "01.0.0"}, "version: expected three numbers"),
        ({"name": "a"}, "version: expected three numbers"),
    ],
)
def test_a_wrong_model_is_refused(document: Any, words: str, client: httpx2.Client) -> None:
    assert is_refused(client.post("/models", json=document), 400, words)


def test_a_version_is_made_once_and_is_partial(client: httpx2.Client) -> None:
    model = made(client).split("/")[2]
    second = good(client.post(f"/models/{model}/versions", json={"version": "1.0.10", "longDescription": "l"}))
    assert (second["status"], second["longDescription"]) == ("partial", "l")
    good(client.post(f"/models/{model}/versions", json={"version": "1.0.9"}))
    listed = [each["version"] for each in good(client.get(f"/models/{model}/versions"))]
    assert listed == ["1.0.0", "1.0.9", "1.0.10"]
    assert is_refused(client.post(f"/models/{model}/versions", json={"version": "1.0.9"}), 400, "already exists")
    assert is_refused(client.get(f"/models/{model}/versions/2.0.0"), 404, "does not exist")


def test_a_patch_overwrites_what_it_names_and_nothing_else(client: httpx2.Client) -> None:
    version = made(client)
    outputs = [{"name": "results.json", "mediaType": "application/json", "maximumSize": 9, "description": ""}]
    patched = good(client.patch(version, json={"inputs": [INPUT], "outputs": outputs, "technicalDetails": "t"}))
    assert (patched["inputs"], patched["outputs"], patched["technicalDetails"]) == ([INPUT], outputs, "t")
    patched = good(client.patch(version, json={"inputs": None, "processing": {"minimumParallelCapacity": 1}}))
    assert (patched["inputs"], patched["outputs"]) == ([], outputs)
    good(client.patch(f"{version}/processing", json={"maximumParallelCapacity": 3}))
    assert good(client.get(version))["processing"] == {"minimumParallelCapacity": 1, "maximumParallelCapacity": 3}
    good(client.put(f"{version}/sample-input", json={"input": {}}))
    assert good(client.get(f"{version}/sample-input")) == {"input": {}}
    assert client.get(f"{version}/sample-output").status_code == 404


@pytest.mark.parametrize(
    "document",
    [
        {"inputs": {}},
        {"inputs": [{"name": "../x"}]},
        {"inputs": [{"name": "x", "maximumSize": "1M"}]},
        {"timeout": {"run": 0}},
        {"requirement": {"requirementId": 77}},
        {"requirement": {"requirementId": [1]}},
        {"processing": {"minimumParallelCapacity": 2, "maximumParallelCapacity": 1}},
        {"status": "retired"},
        {"status": "active"},  # it has not been tested
    ],
)
def test_a_wrong_patch_is_refused(document: Any, client: httpx2.Client) -> None:
    version = made(client)
    before = good(client.get(version))
    assert client.patch(version, json=document).status_code == 400
    assert good(client.get(version)) == before


# --- the container image ---


def test_a_linked_image_has_the_pages_fields(client: httpx2.Client) -> None:
    version = made(client)
    assert is_refused(client.get(f"{version}/container-image"), 404, "no container image")
    good(client.post(f"{version}/container-image", json=LINK))
    image = uploaded(client, version)
    assert image["percentage"] == image["uploadPercentage"] == 100
    assert {key: image[key] for key in ("registryHost", "repositoryNamespace", "imagePrefix", "repositoryName")} == {
        "registryHost": "registry.example.com", "repositoryNamespace": "team",
        "imagePrefix": "registry.example.com/team", "repositoryName": "hello:1.0.0",
    }  # fmt: skip
    assert (image["loadPercentage"], image["containerImageSize"]) == (0, 0)
    assert good(client.get(version))["containerImage"] == image


@pytest.mark.parametrize(
    ("url", "expected"),
    [
        ("hello", ("docker.io", "", "hello")),
        ("team/hello:1", ("docker.io", "team", "hello:1")),
        ("localhost:5000/a/b/hello@sha256:00", ("localhost:5000", "a/b", "hello@sha256:00")),
        ("https://registry.hub.docker.com/v2/team/hello/manifests/1.0.0", ("registry.hub.docker.com", "team", "hello:1.0.0")),
    ],
)  # fmt: skip
def test_both_forms_of_an_address_are_taken(url: str, expected: tuple[str, str, str], client: httpx2.Client) -> None:
    image = good(client.post(f"{made(client)}/container-image", json={"registry": {"url": url}}))
    assert (image["registryHost"], image["repositoryNamespace"], image["repositoryName"]) == expected


@pytest.mark.parametrize(
    "document", [{}, {"registry": "x"}, {"registry": {"url": ""}}, {"registry": {"url": "a b"}},
                 {"registry": {"url": "a", "password": 3}}],
)  # fmt: skip
def test_a_wrong_address_is_refused(document: Any, client: httpx2.Client) -> None:
    assert is_refused(client.post(f"{made(client)}/container-image", json=document), 400, "registry.")


def archive(size: int) -> bytes:
    written = io.BytesIO()
    with tarfile.open(fileobj=written, mode="w") as tar:
        member = tarfile.TarInfo("layer.tar")
        member.size = size
        tar.addfile(member, io.BytesIO(b"\xff" * size))
    return written.getvalue()


@pytest.mark.parametrize("form", ["multipart", "raw"])
def test_an_archive_is_uploaded_in_both_forms(form: str, client: httpx2.Client) -> None:
    version, content = made(client), archive(300_000)
    if form == "multipart":
        answer = client.post(
            f"{version}/container-image", files={"anything": ("image.tar", content, "application/x-tar")}
        )
    else:
        answer = client.post(
            f"{version}/container-image", content=content, headers={"Content-Type": "application/x-tar"}
        )
    assert good(answer)["containerImageSize"] == len(content)
    image = uploaded(client, version)
    assert image["containerImageSize"] == len(content)
    assert "registryHost" not in image


@pytest.mark.parametrize(
    ("sent", "status", "words"),
    [
        ({"content": b"no tar" * 200, "headers": {"Content-Type": "application/x-tar"}}, 400, "expected a TAR"),
        ({"files": {"file": b"no tar"}}, 400, "expected a TAR"),
        ({"files": [("a", archive(1)), ("b", archive(1))]}, 400, "expected one file"),
        ({"content": b"x", "headers": {"Content-Type": "multipart/form-data; boundary=b"}}, 400, "cannot be read"),
        ({"content": b"x", "headers": {"Content-Type": "text/plain"}}, 415, "expected multipart/form-data"),
    ],
)
def test_what_is_no_archive_is_refused(sent: dict[str, Any], status: int, words: str, client: httpx2.Client) -> None:
    version = made(client)
    assert is_refused(client.post(f"{version}/container-image", **sent), status, words)
    assert client.get(f"{version}/container-image").status_code == 404


def test_an_uploads_share_is_told_by_its_bytes(emulator: Emulator, client: httpx2.Client) -> None:
    version, content = made(client), archive(1_000_000)
    head = (
        f"POST /api{version}/container-image HTTP/1.1\r\nHost: localhost\r\nAuthorization: ApiKey {API_KEY}\r\n"
        f"Content-Type: application/x-tar\r\nContent-Length: {len(content)}\r\n\r\n"
    )
    with socket.create_connection(("127.0.0.1", emulator.port)) as half:
        half.sendall(head.encode() + content[: len(content) // 2])
        where = f"{version}/container-image"
        while (answer := client.get(where)).status_code == 404 or answer.json()["uploadPercentage"] < 49:
            pass
        image = good(answer)
        assert (image["uploadPercentage"], image["uploadStatus"]) in (
            (49, "Uploading container image"),
            (50, "Uploading container image"),
        )
    # It broke off, and may be begun again.
    while client.get(where).status_code != 404:
        pass
    assert good(client.post(where, content=content, headers={"Content-Type": "application/x-tar"}))


def test_a_link_may_fail(emulator: Emulator, client: httpx2.Client) -> None:
    emulator.faults("create-failed", method="POST", path=".*/container-image", message="unauthorized: no pull access")
    version = made(client)
    good(client.post(f"{version}/container-image", json=LINK))
    while "technicalInformation" not in (image := good(client.get(f"{version}/container-image"))):
        pass
    assert image["technicalInformation"] == "unauthorized: no pull access"
    assert image["uploadPercentage"] == 50


# --- the tests ---


def test_the_steps_follow_each_other(client: httpx2.Client) -> None:
    version = made(client)
    assert is_refused(client.post(f"{version}/load-process"), 400, "upload has not ended")
    assert is_refused(client.post(f"{version}/run-process"), 400, "load test has not passed")
    version = loaded(client)
    assert good(client.get(f"{version}/load-process")) == {"step": 3, "stepName": "Completed", "percentage": 100}
    image = good(client.get(f"{version}/container-image"))
    assert (image["loadPercentage"], image["loadStatus"]) == (100, "3: Completed (100%)")
    assert is_refused(client.post(f"{version}/run-process"), 400, "sample of the input 'text.txt' is missing")
    wrong = client.post(f"{version}/testInput", params={"name": "other"}, files={"file": b"x"})
    assert is_refused(wrong, 400, "expected one of the version's inputs")
    assert is_refused(client.patch(version, json={"status": "active"}), 400, "run test has not passed")
    result = run_test(client, version)
    assert (result["status"], result["error"], result["inputSize"]) == ("SUCCESSFUL", None, 11)
    assert result["results.json"]["data"]["result"] == {"prediction": "a", "text": "hello world"}


def test_a_run_that_the_container_refuses_fails_with_its_words(client: httpx2.Client) -> None:
    result = run_test(client, loaded(client), b"\xff\xfe")
    assert result["status"] == "FAILED"
    assert "text.txt" in result["error"]
    assert json.loads(result["technicalInformation"])["statusCode"] in (400, 422)


def test_an_output_that_is_not_written_fails(client: httpx2.Client) -> None:
    result = run_test(client, loaded(client, outputs=[{"name": "other.json"}]))
    assert (result["status"], "'other.json' is missing" in result["error"]) == ("FAILED", True)


def test_a_load_may_fail(emulator: Emulator, client: httpx2.Client) -> None:
    emulator.faults("create-failed", method="POST", path=".*/load-process", message="out of memory")
    version = made(client)
    good(client.post(f"{version}/container-image", json=LINK))
    uploaded(client, version)
    answer = client.post(f"{version}/load-process")
    assert is_refused(answer, 400, "out of memory")
    assert answer.json()["technicalInformation"] == "out of memory"
    assert "FAILED: out of memory" in good(client.get(f"{version}/container-image"))["loadStatus"]
    good(client.post(f"{version}/load-process"))


def test_a_run_may_fail(emulator: Emulator, client: httpx2.Client) -> None:
    version = loaded(client)
    emulator.faults("create-failed", method="POST", path=".*/run-process", message="no engine is free")
    result = run_test(client, version)
    assert (result["status"], result["error"]) == ("FAILED", "no engine is free")
    assert is_refused(client.patch(version, json={"status": "active"}), 400, "run test has not passed")


def test_an_arm_version_is_activated_without_a_run(client: httpx2.Client) -> None:
    version = loaded(client, requirement={"requirementId": -99})
    assert good(client.patch(version, json={"status": "active"}))["status"] == "active"
    assert any(engine["ready"] >= 1 for engine in good(client.get("/resources/processing/engines")))


# --- jobs ---


def submit(client: httpx2.Client, model: dict[str, str], **asked: Any) -> dict[str, Any]:
    job: dict[str, Any] = good(client.post("/jobs", json={"model": model, **asked}))
    return job


def finished(client: httpx2.Client, job: dict[str, Any]) -> dict[str, Any]:
    where = f"/results/{job['jobIdentifier']}"
    while (answer := client.get(where)).status_code == 404 or not answer.json()["finished"]:
        assert answer.status_code in (200, 404)
    results: dict[str, Any] = answer.json()
    return results


def text(**items: str) -> dict[str, Any]:
    return {"type": "text", "sources": {item: {"text.txt": value} for item, value in items.items()}}


def test_a_text_job_has_a_result_for_each_item(client: httpx2.Client, active: dict[str, str]) -> None:
    job = submit(client, active, input=text(one="1", two="2"), explain=True)
    assert (job["status"], job["totalInputs"], job["jobType"], job["accessKey"]) == (
        "SUBMITTED",
        2,
        "batch",
        "AKEXAMPLE",
    )
    results = finished(client, job)
    assert (results["total"], results["completed"], results["failed"], results["explained"]) == (2, 2, 0, True)
    one = results["results"]["one"]
    assert (one["status"], one["results.json"]["data"]["result"]["text"]) == ("SUCCESSFUL", "1")
    raw = client.get(f"/results/{job['jobIdentifier']}/two/results.json")
    assert json.loads(raw.content)["data"]["result"]["text"] == "2"
    assert good(client.get(f"/jobs/{job['jobIdentifier']}"))["status"] == "COMPLETED"
    assert is_refused(client.delete(f"/jobs/{job['jobIdentifier']}"), 400, "has ended already")


def test_an_embedded_job_has_bytes(client: httpx2.Client, active: dict[str, str]) -> None:
    data = f"data:text/plain;base64,{base64.b64encode(b'embedded').decode()}"
    job = submit(client, active, input={"type": "embedded", "sources": {"job": {"text.txt": data}}})
    assert finished(client, job)["results"]["job"]["results.json"]["data"]["result"]["text"] == "embedded"


def test_an_open_job_takes_pieces_until_it_is_closed(client: httpx2.Client, active: dict[str, str]) -> None:
    job = submit(client, active)
    where = f"/jobs/{job['jobIdentifier']}"
    assert job["status"] == "OPEN"
    assert is_refused(client.post(f"{where}/close"), 400, "has no inputs")
    for piece in (b"piece ", b"by piece"):
        good(client.post(f"{where}/item/text.txt", files={"input": piece}))
    too_large = client.post(f"{where}/item/text.txt", files={"input": b"x" * 1_000_001})
    assert is_refused(too_large, 413, "too large")
    assert good(client.post(f"{where}/close"))["status"] == "SUBMITTED"
    assert is_refused(client.post(f"{where}/item/text.txt", files={"input": b"x"}), 400, "takes no more inputs")
    assert finished(client, job)["results"]["item"]["results.json"]["data"]["result"]["text"] == "piece by piece"


def test_what_an_item_lacks_is_told_under_failures(client: httpx2.Client, active: dict[str, str]) -> None:
    sources = {"good": {"text.txt": "x"}, "other": {"other.txt": "x"}, "large": {"text.txt": "x" * 1001}}
    results = finished(client, submit(client, active, input={"type": "text", "sources": sources}))
    assert list(results["results"]) == ["good"]
    assert "'text.txt' is missing" in results["failures"]["other"]["error"]
    assert "maximumSize is 1000" in results["failures"]["large"]["error"]
    assert results["failed"] == 2


def test_a_job_is_canceled(emulator: Emulator, client: httpx2.Client, active: dict[str, str]) -> None:
    job = submit(client, active)
    where = f"/jobs/{job['jobIdentifier']}"
    assert good(client.delete(where))["status"] == "CANCELED"
    assert is_refused(client.post(f"{where}/close"), 400, "is not open")
    assert good(client.get(f"/results/{job['jobIdentifier']}"))["finished"] is True


def test_a_job_may_fail(emulator: Emulator, client: httpx2.Client, active: dict[str, str]) -> None:
    emulator.faults("create-failed", method="POST", path="/api/jobs", message="no engine is free")
    results = finished(client, submit(client, active, input=text(job="x")))
    assert results["failures"]["job"]["error"] == "no engine is free"


def test_the_history_is_filtered(client: httpx2.Client, active: dict[str, str]) -> None:
    waits = submit(client, active)["jobIdentifier"]
    ended = submit(client, active, input=text(job="x"))
    finished(client, ended)

    def listed(**query: str) -> list[str]:
        return [job["jobIdentifier"] for job in good(client.get("/jobs/history", params=query))]

    assert waits in listed(status="pending")
    assert ended["jobIdentifier"] not in listed(status="pending")
    assert ended["jobIdentifier"] in listed(status="terminated", model=active["identifier"])
    assert listed(model="none") == []
    assert len(listed(**{"per-page": "1", "page": "2"})) == 1
    assert listed(startDate="2999-01-01") == []
    assert is_refused(client.get("/jobs/history", params={"status": "x"}), 400, "status: expected")
    assert is_refused(client.get("/jobs/history", params={"page": "0"}), 400, "page: expected")


@pytest.mark.parametrize(
    ("changed", "status"),
    [
        ({"model": None}, 400),
        ({"model": {"identifier": "none", "version": "1.0.0"}}, 404),
        ({"input": {"type": "aws-s3", "secretAccessKey": "S3SECRETKEY", "sources": {}}}, 400),
        ({"input": {"type": "text", "sources": {}}}, 400),
        ({"input": {"type": "text", "sources": {"a": {"../x": "y"}}}}, 400),
        ({"input": {"type": "text", "sources": {"a/b": {"x": "y"}}}}, 400),
        ({"input": {"type": "text", "sources": {"a": {"x": 3}}}}, 400),
        ({"input": {"type": "embedded", "sources": {"a": {"x": "plain"}}}}, 400),
        ({"input": {"type": "embedded", "sources": {"a": {"x": "data:;base64,*"}}}}, 400),
        ({"explain": "yes", "input": {"type": "text", "sources": {"a": {"x": "y"}}}}, 400),
    ],
)
def test_a_wrong_job_is_refused(
    changed: dict[str, Any], status: int, client: httpx2.Client, active: dict[str, str]
) -> None:
    before = len(good(client.get("/jobs/history")))
    assert client.post("/jobs", json={"model": active} | changed).status_code == status
    assert len(good(client.get("/jobs/history"))) == before


def test_only_an_active_version_takes_jobs(client: httpx2.Client) -> None:
    model = made(client).split("/")[2]
    answer = client.post("/jobs", json={"model": {"identifier": model, "version": "1.0.0"}, "input": text(a="b")})
    assert is_refused(answer, 400, "is not active: it is partial")


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


@pytest.mark.parametrize("path", ["model", "image", "version", "tags", "sample", "job", "link"])
def test_an_odd_value_anywhere_is_taken_or_refused(path: str, client: httpx2.Client, active: dict[str, str]) -> None:
    """And never stumbled over."""
    version = made(client)
    model = version.rpartition("/versions/")[0]
    whole = {
        "inputs": [INPUT], "outputs": [{"name": "results.json"}], "statistics": [{"label": "f1", "value": 1}],
        "timeout": {"run": 1, "status": 1}, "requirement": {"requirementId": 1}, "status": "inactive",
        "processing": {"minimumParallelCapacity": 0, "maximumParallelCapacity": 1},
    }  # fmt: skip
    routes: dict[str, tuple[str, str, Any]] = {
        "model": ("POST", "/models", {"name": "odd", "version": "1.0.0"}),
        "image": ("POST", f"{version}/container-image", LINK),
        "version": ("PATCH", version, whole),
        "tags": ("PATCH", model, {"tags": ["a"], "description": "d", "name": "n"}),
        "sample": ("PUT", f"{version}/sample-input", {"input": {}}),
        "job": ("POST", "/jobs", {"model": active, "explain": False, "input": {"type": "text", "sources": {"a": {"b": "c"}}}}),
        "link": ("POST", f"{model}/versions", {"version": "1.0.1"}),
    }  # fmt: skip
    method, where, document = routes[path]
    answers = [client.request(method, where, json=variant) for variant in variants(document)]
    shown = [
        client.get(other)
        for other in (version, model, "/models", "/models/tags", "/models/processing-engines", "/jobs/history")
    ]
    assert {answer.status_code for answer in answers} <= {200, 400, 404}
    assert {answer.status_code for answer in shown} == {200}


# --- without a container, and after a restart ---


def test_without_a_container_the_tests_say_so_and_the_state_survives(container: str, tmp_path: Path) -> None:
    state = tmp_path / "state"
    log = ""

    @contextmanager
    def restarted(*options: str) -> Iterator[httpx2.Client]:
        nonlocal log
        with emulate("modzy", "--state", str(state), *options) as emulator:
            with connect(f"{emulator.url}/api", KEY) as client:
                yield client
            assert emulator.stop() == 0
            log += emulator.log

    with restarted("--advance-s", "0") as client:
        version = made(client)
        good(client.post(f"{version}/container-image", json=LINK))
        answer = client.post(f"{version}/load-process")
        assert is_refused(answer, 400, "no container to call")
        assert "--container URL" in answer.json()["technicalInformation"]
        good(client.patch(version, json={"inputs": [INPUT], "requirement": {"requirementId": -99}}))
        good(client.post(f"{version}/load-process"))
        good(client.patch(version, json={"status": "active"}))
    with restarted("--advance-s", "3600") as client:
        job = submit(client, {"identifier": version.split("/")[2], "version": "1.0.0"}, input=text(job="x"))
        assert is_refused(client.get(f"/results/{job['jobIdentifier']}"), 404, "it is SUBMITTED")
    with restarted("--container", container) as client:
        assert finished(client, job)["results"]["job"]["results.json"]["data"]["result"]["text"] == "x"
    for secret in ("REGISTRYPASSWORD", API_KEY):
        assert secret.encode() not in state.read_bytes()
        assert secret not in log
