"""What Modzy answers with, as its pages have it and as they do not; and how an image is known again."""

from __future__ import annotations

import json
from typing import Any

import pytest

from servekit.publish.http import Answer
from servekit.publish.modzy import digests, objects
from servekit.publish.modzy.client import explain, registry_url
from servekit.publish.modzy.objects import ContainerImage, container_image, number, requirement, steps, version
from servekit.publish.secrets import Secret

A, B = f"sha256:{'a' * 64}", f"sha256:{'b' * 64}"
# The object of the vendor's page, with values in the place of its dots.
PAGE = {
    "uploadStatus": "Uploading container image",
    "loadStatus": "1: Checking status endpoint (50%)",
    "uploadPercentage": 100,
    "loadPercentage": 100,
    "containerImageSize": 0,
    "registryHost": "registry.example.com",
    "repositoryNamespace": "team",
    "imagePrefix": "registry.example.com/team",
    "repositoryName": "mean",
}


def test_every_field_of_the_page_is_read_and_shown() -> None:
    image = container_image(PAGE)
    assert image == ContainerImage(
        upload_status="Uploading container image", load_status="1: Checking status endpoint (50%)",
        upload_percentage=100, load_percentage=100, nbytes=0, registry_host="registry.example.com",
        repository_namespace="team", image_prefix="registry.example.com/team", repository_name="mean",
    )  # fmt: skip
    assert image.document() == PAGE
    assert image.there


@pytest.mark.parametrize("key", ["repositoryNamespace", "repositoryNameSpace"])
def test_both_spellings_are_read(key: str) -> None:
    assert container_image({key: "team"}).repository_namespace == "team"
    assert container_image({key: "team"}).document() == {"repositoryNamespace": "team"}


@pytest.mark.parametrize(
    ("document", "done"),
    [
        ({"percentage": 40, "uploadPercentage": 70}, 40),
        ({"uploadPercentage": 70}, 70),
        ({"percentage": "45%"}, 45),
        ({"percentage": "99.5"}, 99.5),
        ({"percentage": None, "uploadPercentage": 10}, 10),
        ({"percentage": True}, None),
        ({"percentage": "much"}, None),
        ({"percentage": [1]}, None),
        ({"percentage": 1e400}, None),
        ({}, None),
    ],
)
def test_the_share_that_is_there_comes_from_whichever_key_is_sent(document: dict[str, Any], done: float | None) -> None:
    assert container_image(document).done == done


@pytest.mark.parametrize(
    ("document", "state"),
    [
        (None, "absent"),
        ([], "absent"),
        ({}, "absent"),
        ({"uploadPercentage": 0, "containerImageSize": 0, "uploadStatus": None}, "absent"),
        ({"uploadPercentage": 0, "uploadStatus": "Uploading container image"}, "going"),
        ({"uploadPercentage": 50, "uploadStatus": "WARMING_UP"}, "going"),
        ({"percentage": 100, "uploadStatus": "Loading model 'x'"}, "there"),
        ({"percentage": 100, "uploadStatus": "Loading model 'error-detection failed'"}, "there"),
        ({"percentage": 100, "technicalInformation": "of an earlier load test"}, "there"),
        ({"percentage": 50, "uploadStatus": "FAILED: no such manifest"}, "failed"),
        ({"percentage": 100, "uploadStatus": "UPLOAD_FAILED"}, "failed"),
        ({"percentage": 50, "technicalInformation": "pull access denied"}, "failed"),
    ],
)
def test_states(document: Any, state: str) -> None:
    image = container_image(document)
    found = [name for name in ("absent", "there", "failed") if getattr(image, name)] or ["going"]
    assert found == [state]


def test_what_is_unknown_is_kept_and_shown() -> None:
    image = container_image({"uploadStatus": "QUARANTINED", "scan": {"severity": "high"}, "percentage": 3})
    assert image.document() == {"uploadStatus": "QUARANTINED", "percentage": 3, "scan": {"severity": "high"}}


def test_load_status_may_be_an_object() -> None:
    image = container_image({"loadStatus": {"step": 2, "stepName": "Checking status endpoint", "percentage": 50}})
    assert (image.load_status, image.load_percentage) == ("step 2, Checking status endpoint", 50)


@pytest.mark.parametrize(
    ("document", "ended", "passed"),
    [
        (None, False, False),
        ({"step": 1, "stepName": "Fetching inputs", "percentage": 25, "result": None}, False, False),
        ({"step": 5, "stepName": "Completed", "percentage": 100, "result": {"status": "SUCCESSFUL"}}, True, True),
        ({"step": 5, "stepName": "Completed", "percentage": 100, "result": {"status": "FAILED"}}, True, False),
        ({"percentage": 100, "result": {"status": "ODD"}}, True, True),
        ({"percentage": 50, "stepName": "Load failed"}, True, False),
        ({"percentage": 75, "technicalInformation": "out of memory"}, True, False),
        ({"percentage": 100, "result": {"status": "SUCCESSFUL", "technicalInformation": None}}, True, True),
    ],
)
def test_steps_of_a_test(document: Any, ended: bool, passed: bool) -> None:
    found = steps(document)
    assert (found.ended, found.passed) == (ended, passed)


def test_technical_information_is_found_wherever_it_sits() -> None:
    deep: Any = {"technicalInformation": "in the deep"}
    for _ in range(8):
        deep = {"error": [deep]}
    document = {
        "message": "no", "technicalInformation": "at the top\nwith two lines", "deep": deep,
        "result": {"technical_information": ["of a list", "of a list", None, 7]},
    }  # fmt: skip
    said = objects.technical_information(document)
    assert said.split("\n") == ["at the top", "with two lines", "in the deep", "of a list", "7"]


def test_an_answer_without_a_bottom_is_read_to_a_depth() -> None:
    deep: Any = {"technicalInformation": "out of reach"}
    for _ in range(300):
        deep = [deep]
    assert objects.technical_information(deep) == ""
    assert "..." in json.dumps(container_image({"more": deep}).document())


@pytest.mark.parametrize(
    ("document", "status", "active"),
    [
        ({"status": "partial"}, "partial", False),
        ({"status": "active", "isActive": False}, "active", True),
        ({"isActive": True}, "active", True),
        ({"isActive": False}, "inactive", False),
        ({"status": "retired"}, "retired", False),
        ({}, "", False),
    ],
)
def test_the_status_of_a_version(document: dict[str, Any], status: str, active: bool) -> None:
    found = version(document, "1.0.0")
    assert (found.status, found.active, found.version) == (status, active, "1.0.0")


def test_a_models_identifier_has_two_names() -> None:
    for key in ("identifier", "modelId"):
        found = objects.model({key: "ed542963de", "name": "mean"})
        assert found is not None
        assert (found.identifier, found.name) == ("ed542963de", "mean")
    assert objects.model({"name": "mean"}) is None
    assert objects.model("ed542963de") is None


@pytest.mark.parametrize(
    ("value", "amount"),
    [("1000m", 1), ("2", 2), (2, 2), ("1Gi", 2**30), ("512M", 512e6), ("0.5", 0.5), ("x", None), (None, None)],
)
def test_amounts(value: Any, amount: float | None) -> None:
    assert objects.amount(value) == amount


def test_requirements_that_are_not_active_or_have_no_number_are_left_out() -> None:
    good = {"requirementId": 3, "status": "ACTIVE", "cpuAmount": "500m", "memoryAmount": "1Gi", "gpuUnits": 1}
    found = requirement(good)
    assert found is not None
    assert str(found) == "3 (0.5 CPU, 1.0 GiB, 1 GPU)"
    assert requirement(good | {"status": "INACTIVE"}) is None
    assert requirement(good | {"requirementId": "3"}) is None
    assert requirement([]) is None


def test_secrets_and_control_characters_do_not_come_back() -> None:
    Secret("prefix.of-an-example-key")
    image = container_image(
        {"uploadStatus": "\x1b[2Jbad key prefix.of-an-example-key", "x": {"prefix.of-an-example-key": 1}}
    )
    assert "prefix.of" not in json.dumps(image.document())
    assert "\x1b" not in (image.upload_status or "")


# --- errors ---


@pytest.mark.parametrize(
    ("body", "text", "details"),
    [
        (
            {"statusCode": 400, "status": "Bad Request", "message": "no name", "technicalInformation": "a\nb"},
            "no name",
            "a\nb",
        ),
        ({"status": "Bad Request", "error": "wrong"}, "wrong", ""),
        ({"status": "Bad Request", "message": ""}, "Bad Request", ""),
        ({"status": 400, "error": {"technicalInformation": "inside"}}, "", "inside"),
        ({}, "", ""),
    ],
)
def test_error_bodies(body: dict[str, Any], text: str, details: str) -> None:
    said = explain(Answer(400, {"x-request-id": "r1"}, json.dumps(body).encode()))
    assert (said.text, said.details, said.request_id) == (text, details, "r1")


def test_an_error_that_is_a_page_of_a_proxy_says_its_words_and_the_next_step() -> None:
    page = b"<html><body><h1>403 Forbidden</h1>Go away" + b" " * 100_000
    said = explain(Answer(403, {}, page))
    assert said.text == "403 Forbidden Go away"
    assert "Data Scientist" in said.hint


# --- the image ---


@pytest.mark.parametrize(
    ("registry", "repository", "url"),
    [
        ("registry.example.com:5000", "team/mean", "https://registry.example.com:5000/v2/team/mean/manifests/1.0.0"),
        ("", "team/mean", "https://registry.hub.docker.com/v2/team/mean/manifests/1.0.0"),
        ("docker.io", "mean", "https://registry.hub.docker.com/v2/library/mean/manifests/1.0.0"),
    ],
)
def test_the_older_way_to_name_an_image(registry: str, repository: str, url: str) -> None:
    assert registry_url(registry, repository, "1.0.0", "") == url
    assert registry_url(registry, repository, "1.0.0", A).endswith(f"/manifests/{A}")


def test_the_line_about_the_image_survives_among_other_notes() -> None:
    sending = digests.with_note("What is new.\n\nMuch.", [B, A], sent=False)
    assert sending == f"What is new.\n\nMuch.\n\nservekit image {A} {B}, being sent"
    assert digests.noted(sending) == digests.Note(frozenset({A, B}), sent=False)
    sent = digests.with_note(sending, [A], sent=True)
    assert sent == f"What is new.\n\nMuch.\n\nservekit image {A}"
    assert digests.noted(sent.replace("\n", "\r\n")) == digests.Note(frozenset({A}), sent=True)


@pytest.mark.parametrize(
    "history",
    ["", "servekit image", f"servekit image {A[:-1]}", f"the servekit image {A}", f"servekit image {A} or so"],
)
def test_what_only_looks_like_the_line_is_none(history: str) -> None:
    assert digests.noted(history) is None


def test_without_a_digest_there_is_no_line() -> None:
    assert digests.with_note("Notes.", [], sent=True) == "Notes."


def test_numbers_of_other_kinds_are_none() -> None:
    assert [number(value) for value in (None, "", "nan%", [], {}, float("nan"))] == [None] * 6
