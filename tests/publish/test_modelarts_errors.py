"""Every documented refusal becomes a cause and a next step."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from typing import Any

import pytest

from servekit.publish.failures import Busy, Forbidden, Missing, PublishError, Refused, Unauthorised
from servekit.publish.http import Answer
from servekit.publish.modelarts import errors


def answer(status: int, document: Any, **headers: str) -> Answer:
    body = document if isinstance(document, bytes) else json.dumps(document).encode()
    return Answer(status, {name.replace("_", "-"): value for name, value in headers.items()}, body)


@pytest.mark.parametrize("status", [400, 401, 403, 404, 405, 409, 413, 429, 500, 503])
def test_each_status_of_the_page_has_a_next_step_without_a_code(status: int) -> None:
    said = errors.explain(answer(status, b"<html>no</html>"))
    assert said.hint
    assert "<html>no</html>" in said.text


@pytest.mark.parametrize("number", sorted(errors.MODELARTS))
def test_each_code_of_modelarts_has_a_cause_and_a_next_step(number: str) -> None:
    said = errors.explain(answer(400, {"error_code": f"ModelArts.{number}", "error_msg": "their words"}))
    cause, hint = errors.MODELARTS[number]
    assert said.text == f"{cause}: their words"
    assert said.hint == hint != ""
    assert said.code == f"ModelArts.{number}"


@pytest.mark.parametrize("service", ["APIGW", "APIG"])
@pytest.mark.parametrize("number", sorted(errors.GATEWAY))
def test_each_code_of_the_gateway_has_a_cause_and_a_next_step(service: str, number: str) -> None:
    said = errors.explain(answer(502, {"error_code": f"{service}.{number}", "error_msg": "x", "request_id": "r"}))
    assert said.text == f"{errors.GATEWAY[number][0]}: x"
    assert said.hint


@pytest.mark.parametrize(("status", "cause"), [(413, "too large"), (504, "does not answer"), (400, "")])
def test_one_code_of_the_gateway_means_several_things(status: int, cause: str) -> None:
    said = errors.explain(answer(status, {"error_code": "APIG.0201", "error_msg": "their words"}))
    assert cause in said.text
    assert said.text.endswith("their words")
    assert said.hint


@pytest.mark.parametrize(
    ("message", "step"),
    [
        ("Incorrect IAM authentication information: verify aksk signature fail", errors.KEYS),
        ("verify aksk signature fail, canonicalRequest:GET|/|x-security-token:***|x-sdk-date:2026", errors.KEYS),
        ("Incorrect IAM authentication information: Get secretKey failed,ak:X,err:ak not exist", errors.KEYS),
        ("Incorrect IAM authentication information: decrypt token fail", errors.TOKEN),
        ("calc aksk signature fail:signature expired, signature time:20260101T000000Z", errors.CLOCK),
        ("AK access failed to reach the limit,forbidden.", "locked for five minutes"),
    ],
)
def test_refused_credentials_are_told_apart(message: str, step: str) -> None:
    assert step in errors.explain(answer(401, {"error_code": "APIGW.0301", "error_msg": message})).hint


@pytest.mark.parametrize(
    "document",
    [
        {"error_code": "ModelArts.0104", "error_msg": "arch"},
        {"errorCode": "ModelArts.0104", "errorMsg": "arch"},
        {"code": "ModelArts.0104", "message": "arch"},
        {"error": {"code": "ModelArts.0104", "message": "arch"}},
        {"errors": [{"errorCode": "ModelArts.0104", "errorMessage": "arch", "detail": ""}]},
    ],
)
def test_each_form_of_an_error_is_read(document: Any) -> None:
    said = errors.explain(answer(400, document, x_request_id="42"))
    assert (said.code, said.text, said.request_id) == ("ModelArts.0104", "a parameter is wrong: arch", "42")


@pytest.mark.parametrize("document", [[], 7, None, {}, {"a": {"b": {"c": {"d": {"code": 1, "message": ""}}}}}])
def test_a_body_that_says_nothing_is_no_problem(document: Any) -> None:
    said = errors.explain(answer(403, document))
    assert said.hint == errors.RIGHTS
    assert said.code == ""


@pytest.mark.parametrize(("minutes", "way"), [(20, "20 minutes behind"), (-20, "20 minutes ahead of")])
def test_a_wrong_clock_shows_in_the_answers_date(minutes: int, way: str) -> None:
    theirs = format_datetime(datetime.now(UTC) + timedelta(minutes=minutes), usegmt=True)
    said = errors.explain(answer(401, {"error_code": "APIGW.0301", "error_msg": "no"}, date=theirs))
    assert way in said.hint


@pytest.mark.parametrize("date", ["", "soon", "Mon, 99 Nov 2026 00:00:00 GMT"])
def test_an_answer_without_a_good_date_accuses_no_clock(date: str) -> None:
    assert errors.explain(answer(401, {}, date=date)).hint == errors.KEYS


@pytest.mark.parametrize(
    ("code", "before", "kind"),
    [
        ("ModelArts.6797", Refused, Missing),
        ("ModelArts.0109", Busy, Forbidden),
        ("APIG.0308", Refused, Busy),
        ("APIGW.0301", Refused, Unauthorised),
        ("ModelArts.0104", Refused, Refused),
    ],
)
def test_a_code_may_say_more_than_the_status(code: str, before: type[PublishError], kind: type[PublishError]) -> None:
    error = before("text", hint="hint", status=400, code=code, request_id="r", details="d")
    better = errors.of_kind(error)
    assert type(better) is kind
    assert better.document() == {**error.document(), "kind": kind.kind}
