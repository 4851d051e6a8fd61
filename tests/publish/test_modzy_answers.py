"""Platforms answer in more ways than one: a whole publish against a server that says exactly what the test wants."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
from saved import save
from scripted import RESET, Scripted, answer, scripted

from servekit.publish import http, polling
from servekit.publish.archive import read
from servekit.publish.failures import Failed, NotUnderstood, PublishError, Refused, StillGoing, Unreachable
from servekit.publish.modzy import publish as steps
from servekit.publish.modzy.client import Client, connected
from servekit.publish.modzy.credentials import Access, Registry
from servekit.publish.modzy.metadata import of_body
from servekit.publish.report import Report
from servekit.publish.secrets import Secret

A = f"sha256:{'a' * 64}"
MODEL_YAML = b"inputs: {x.json: {acceptedMediaTypes: [application/json]}}\noutputs: {results.json: {}}\n"
ID, VERSION = "ed542963de", "1.0.0"
BASE = f"/api/models/{ID}/versions/{VERSION}"
IMAGE = "registry.example.com/team/mean:1.0.0"
RESULT = {"status": "SUCCESSFUL", "engine": "e", "error": None, "results.json": {"data": {"result": 1}}}


def said(document: Any, status: int = 200) -> bytes:
    return answer(status, b"" if document is None else json.dumps(document).encode(), "Content-Type: application/json")


# In the order of the requests; the words are the test's to change.
MODEL = said({"modelId": ID, "name": "mean"})
FRESH = said({"version": VERSION, "status": "partial", "containerImage": None})
NOTHING = said({"message": "no image"}, 404)
MACHINES = said([{"requirementId": 1, "status": "ACTIVE", "cpuAmount": "1000m", "memoryAmount": "1Gi"}])
DONE = said({})
EMPTY = said(None)
THERE = said({"percentage": 100})
BEGINNING = (MODEL, FRESH, NOTHING, MACHINES, DONE, EMPTY, DONE)
LOADED = said({"version": VERSION, "status": "partial", "loadStatus": {"step": 2, "percentage": 100}})
RAN = said({"step": 5, "stepName": "Completed", "percentage": 100, "result": RESULT})
ACTIVE = said({"version": VERSION, "status": "active"})


@pytest.fixture(autouse=True)
def _quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """The pauses are not what is looked at here."""
    monkeypatch.setattr(http, "BACKOFF_S", 0.0)
    monkeypatch.setattr(polling, "PAUSE_S", 0.0)
    monkeypatch.setattr(steps, "EVERY_S", 0.001)
    monkeypatch.setattr(polling, "MAX_EVERY_S", 0.001)


@pytest.fixture
def sample(tmp_path: Path) -> Path:
    (tmp_path / "x.json").write_text("[1, 2, 3, 4]")
    return tmp_path / "x.json"


def plan(sample: Path, **changed: Any) -> steps.Plan:
    known: dict[str, Any] = {
        "name": "mean", "identifier": ID, "version": VERSION, "image": steps.Linked(IMAGE, IMAGE),
        "digests": frozenset({A}), "metadata": of_body(MODEL_YAML), "run_timeout_s": 60.0, "status_timeout_s": 60.0,
        "samples": {"x.json": sample}, "wait_s": 60.0,
    }  # fmt: skip
    return steps.Plan(**(known | changed))


def client_of(server: Scripted) -> Any:
    return connected(Access(f"{server.url}/api", "ApiKey", Secret("prefixof.example-body")))


def publish(script: Sequence[bytes], plan: steps.Plan) -> tuple[dict[str, Any], list[str], Scripted]:
    """What came of it, the requests as METHOD PATH, and the server."""
    with scripted(*script) as server, client_of(server) as client:
        outcome = steps.publish(client, plan, Report(as_json=True))
    return outcome, requests(server), server


def failing(script: Sequence[bytes], plan: steps.Plan, kind: type[PublishError]) -> PublishError:
    with scripted(*script) as server, client_of(server) as client, pytest.raises(kind) as caught:
        steps.publish(client, plan, Report(as_json=True))
    return caught.value


def requests(server: Scripted) -> list[str]:
    return [" ".join(request.split(b" ", 2)[:2][i].decode() for i in range(2)) for request in server.requests]


def body(server: Scripted, i: int) -> Any:
    return json.loads(server.requests[i].partition(b"\r\n\r\n")[2])


def test_the_requests_of_a_publish_are_those_of_the_vendors_page(sample: Path) -> None:
    script = (*BEGINNING, THERE, EMPTY, LOADED, EMPTY, EMPTY, RAN, DONE, DONE, DONE, DONE, ACTIVE)
    outcome, asked, server = publish(script, plan(sample))
    assert outcome["status"] == "active"
    assert asked == [
        f"GET /api/models/{ID}", f"GET {BASE}", f"GET {BASE}/container-image", "GET /api/models/requirements/account",
        f"PATCH {BASE}", f"POST {BASE}/container-image", f"PATCH {BASE}", f"GET {BASE}/container-image",
        f"POST {BASE}/load-process", f"GET {BASE}", f"POST {BASE}/testInput?name=x.json", f"POST {BASE}/run-process",
        f"GET {BASE}/run-process", f"PUT {BASE}/sample-input", f"PUT {BASE}/sample-output", f"GET {BASE}",
        f"PATCH {BASE}", f"PATCH {BASE}", f"GET {BASE}",
    ]  # fmt: skip
    assert all(b"\r\nauthorization: ApiKey prefixof.example-body\r\n" in request for request in server.requests)
    assert body(server, 5) == {"registry": {"url": IMAGE}}
    # PATCH overwrites: each has the whole.
    assert body(server, 4) | {"versionHistory": ""} == body(server, 6) | {"versionHistory": ""}
    assert body(server, 4)["versionHistory"] == f"servekit image {A}, being sent"
    assert body(server, 6) == body(server, 16)
    assert body(server, 6)["inputs"][0]["name"] == "x.json"
    form = server.requests[10].partition(b"\r\n\r\n")[2]
    assert re.fullmatch(
        rb'--(servekit-[0-9a-f]{32})\r\nContent-Disposition: form-data; name="file"; filename="x\.json"\r\n'
        rb"Content-Type: application/json\r\n\r\n\[1, 2, 3, 4\]\r\n--\1--\r\n",
        form,
    )
    assert body(server, 14)["results"]["0001"] == {
        "status": "SUCCESSFUL", "engine": "e", "error": None, "startTime": None, "endTime": None, "updateTime": None,
        "inputSize": None, "elapsedTime": None, "results.json": {"data": {"result": 1}},
    }  # fmt: skip
    assert body(server, 17) == {"status": "active"}


def test_a_version_that_somebody_made_a_moment_ago_is_taken(sample: Path) -> None:
    only = plan(sample, load_test=False, run_test=False, activate=False)
    exists = said({"message": "it exists"}, 400)
    script = (MODEL, NOTHING, exists, FRESH, NOTHING, MACHINES, DONE, EMPTY, DONE, THERE, DONE)
    assert f"POST /api/models/{ID}/versions" in publish(script, only)[1]
    assert "it exists" in failing((MODEL, NOTHING, exists, NOTHING), only, Refused).message


def test_a_registrys_login_goes_with_the_link(sample: Path) -> None:
    image = steps.Linked(IMAGE, IMAGE, Registry("somebody", Secret("example-password")))
    script = (*BEGINNING, THERE)
    _, _, server = publish(script, plan(sample, image=image, load_test=False, run_test=False, activate=False))
    assert body(server, 5) == {"registry": {"url": IMAGE, "username": "somebody", "password": "example-password"}}


def test_a_platform_that_tells_little_is_enough(sample: Path) -> None:
    """No percentage but uploadPercentage, no load status anywhere, a run without a result, isActive in place of status."""
    there = said({"uploadPercentage": "100", "uploadStatus": "SOMETHING_NEW", "repositoryNameSpace": "team"})
    silent = said({"version": VERSION, "isActive": False})
    script = (*BEGINNING, there, EMPTY, silent, there, EMPTY, EMPTY, said({"percentage": 100}), EMPTY, EMPTY, EMPTY,
              EMPTY, said({"isActive": True}))  # fmt: skip
    outcome, _, _ = publish(script, plan(sample))
    assert outcome["status"] == "active"
    assert outcome["container_image"] == {
        "uploadPercentage": 100, "uploadStatus": "SOMETHING_NEW", "repositoryNamespace": "team",
    }  # fmt: skip


def test_models_of_similar_names_are_told_apart_also_where_the_list_has_no_names(sample: Path) -> None:
    listed = said([{"modelId": "other00001"}, {"identifier": ID}, {"junk": 1}, "junk"])
    script = (listed, said({"modelId": "other00001", "name": "mean-2"}), said({"identifier": ID, "name": "mean"}),
              *BEGINNING[1:], THERE)  # fmt: skip
    outcome, asked, _ = publish(script, plan(sample, identifier="", load_test=False, run_test=False, activate=False))
    assert outcome["model_id"] == ID
    assert asked[0] == "GET /api/models?name=mean&per-page=1000"
    twice = said([{"modelId": ID, "name": "mean"}, {"modelId": "other00001", "name": "mean"}])
    error = failing([twice], plan(sample, identifier=""), Refused)
    assert f"2 models named 'mean': {ID}, other00001" in error.message
    many = said([{"modelId": f"other{i:05}"} for i in range(60)])
    assert "60 models have something like 'mean'" in failing([many], plan(sample, identifier=""), NotUnderstood).message


def test_an_identifier_that_would_leave_its_place_in_a_path_is_not_used(sample: Path) -> None:
    # Each time it is looked for by its name, and is not there.
    script = [*[said([]), said({"identifier": "../../accounting"})] * polling.CREATIONS, said([])]
    error = failing(script, plan(sample, identifier=""), NotUnderstood)
    assert error.message == "expected a model with an identifier, got one without"


@pytest.mark.parametrize(
    ("script", "kind", "message", "details"),
    [
        ([said({"a": 1})], NotUnderstood, "expected a model with an identifier", ""),
        ([said([])], NotUnderstood, "expected a JSON object, got list", ""),
        ([MODEL, answer(200, b"<html>Sign in</html>", "Content-Type: text/html")], NotUnderstood, "expected JSON", ""),
        ([MODEL, answer(200, b'{"version"', "Connection: close", length=100) ], NotUnderstood, "cut off", ""),
        ([MODEL, FRESH, NOTHING, said({"a": 1})], NotUnderstood, "expected a list, got dict", ""),
        ([*BEGINNING, said({"shape": "new"})], NotUnderstood, "neither a percentage nor an uploadStatus", ""),
        ([*BEGINNING, said({"uploadPercentage": 40, "error": {"technicalInformation": "no space"}})], Failed,
         "could not take the image", "no space"),
        ([*BEGINNING, THERE, said({"message": "no", "technicalInformation": "exec format error"}, 500)], Failed,
         "the load test failed: ", "exec format error"),
        ([*BEGINNING, THERE, said({"result": {"technicalInformation": "told at once"}})], Failed,
         "the load test failed", "told at once"),
        ([*BEGINNING, THERE, EMPTY, said({"loadStatus": {"step": 1, "stepName": "Load failed", "percentage": 0}})],
         Failed, "the load test failed: step 1, Load failed", ""),
        ([*BEGINNING, THERE, EMPTY, LOADED, EMPTY, EMPTY,
          said({"percentage": 75, "result": {"status": "FAILED", "error": "boom", "technicalInformation": "a\nb"}})],
         Failed, "the run test failed at a step that is not told: boom", "a\nb"),
        ([*BEGINNING, THERE, EMPTY, LOADED, EMPTY, said({"message": "no sample"}, 400)], Refused, "no sample", ""),
        ([*BEGINNING, THERE, EMPTY, LOADED, EMPTY, EMPTY, RAN, DONE, DONE, DONE, DONE, said({"status": "rejected"})],
         Failed, "was not activated: the platform says rejected", ""),
    ],
)  # fmt: skip
def test_what_goes_wrong_is_said_with_what_the_platform_tells(
    script: list[bytes], kind: type[PublishError], message: str, details: str, sample: Path
) -> None:
    error = failing(script, plan(sample), kind)
    assert message in error.message
    assert error.details == details


def test_a_gateway_that_gives_up_on_the_load_test_is_not_the_end_of_it(sample: Path) -> None:
    half = said({"loadStatus": {"step": 1, "percentage": 50}})
    only = plan(sample, run_test=False, activate=False)
    _, asked, _ = publish((*BEGINNING, THERE, said({}, 504), half, LOADED, DONE), only)
    assert asked[-5:] == [f"POST {BASE}/load-process", *[f"GET {BASE}"] * 3, f"PATCH {BASE}"]
    # Where nothing is known of a load test, the error is the platform's.
    error = failing((*BEGINNING, THERE, RESET, FRESH, said({"percentage": 100})), only, Unreachable)
    assert "load-process" in error.message


def test_an_image_that_another_command_began_to_send_is_sent_again_and_a_linked_one_is_waited_for(
    sample: Path, tmp_path: Path
) -> None:
    digest = save(tmp_path / "mean.tar")
    half = {"uploadStatus": "Uploading container image", "uploadPercentage": 37}
    only = {"load_test": False, "run_test": False, "activate": False}

    def version(digest: str, note: str) -> bytes:
        return said({"status": "partial", "containerImage": half, "versionHistory": f"servekit image {digest}{note}"})

    saved = plan(sample, image=read(tmp_path / "mean.tar"), digests=frozenset({digest}), **only)
    script = (MODEL, version(digest, ", being sent"), MACHINES, DONE, EMPTY, DONE, THERE, DONE)
    assert publish(script, saved)[1].count(f"POST {BASE}/container-image") == 1
    script = (MODEL, version(digest, ""), MACHINES, DONE, said(half), THERE, DONE)
    assert publish(script, saved)[1].count(f"POST {BASE}/container-image") == 0
    script = (MODEL, version(A, ", being sent"), MACHINES, DONE, said(half), THERE, DONE)
    assert publish(script, plan(sample, **only))[1].count(f"POST {BASE}/container-image") == 0
    error = failing((MODEL, version(f"sha256:{'c' * 64}", "")), saved, Refused)
    assert "has another image already" in error.message
    unnoted = said({"status": "partial", "containerImage": half, "versionHistory": "by hand"})
    assert "of which the release notes name no digest" in failing((MODEL, unnoted), saved, Refused).message


def test_a_file_that_shrinks_while_it_is_sent_is_an_error(tmp_path: Path) -> None:
    from servekit.errors import ConfigError
    from servekit.publish.modzy.upload import Form

    file = tmp_path / "image.tar"
    file.write_bytes(b"short")
    with pytest.raises(ConfigError, match="became shorter while it was sent"):
        b"".join(Form(file, 10).chunks())


def test_time_that_runs_out_is_not_a_failure(sample: Path) -> None:
    going = said({"uploadStatus": "Uploading container image", "percentage": 5})
    error = failing((*BEGINNING, going), plan(sample, wait_s=0.05), StillGoing)
    assert "the container image of 1.0.0 has not ended" in error.message


@pytest.fixture
def client() -> Iterator[tuple[Client, Scripted]]:
    with scripted(said([])) as server, client_of(server) as client:
        yield client, server


def test_a_name_is_quoted_as_a_name(client: tuple[Client, Scripted]) -> None:
    asked, server = client
    assert asked.named("a&name=b/../c d") == []
    assert requests(server) == ["GET /api/models?name=a%26name%3Db%2F..%2Fc%20d&per-page=1000"]
