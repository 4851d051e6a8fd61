"""Signatures: what the vendor's own signer makes is good, and nothing else is."""

from __future__ import annotations

import base64
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from urllib.parse import quote

import pytest
from clients import needs_clients, run_client

from servekit.emulate.modelarts.verify import NotSigned, check

PROJECT = "0123456789abcdef0123456789abcdef"
DATE = "20260102T030405Z"
NOW = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)
HOST = "modelarts.cn-north-4.myhuaweicloud.com"
BODY = b'{"swr_path":"swr.cn-north-4.myhuaweicloud.com/org/img:1"}'
POSTED = "196755b30ff7abf1133024ba78677cd934ecf73239c4bd6cfb8663984887c394"
LISTED = "9ce6e6ad6f0e17f211a8f9f089f9e4b650b66a16bcbc8e9c84f6fb850c2f5e79"
Headers = list[tuple[bytes, bytes]]


def headers(signature: str, *, names: str = "content-type;host;x-project-id;x-sdk-date", **changed: str) -> Headers:
    values = {
        "content-type": "application/json", "host": HOST, "x-project-id": PROJECT, "x-sdk-date": DATE,
        "authorization": f"SDK-HMAC-SHA256 Access=AKEXAMPLE, SignedHeaders={names}, Signature={signature}",
    }  # fmt: skip
    values |= {name.replace("_", "-"): value for name, value in changed.items()}
    return [(name.encode(), value.encode()) for name, value in values.items() if value]


def verify(
    sent: Headers, *, method: str = "POST", path: str = f"/v1/{PROJECT}/images", query: str = "", body: bytes = BODY,
    now: datetime = NOW,
) -> None:  # fmt: skip
    check(
        method, path.encode(), query.encode(), sent, body, secret_of={"AKEXAMPLE": "SKEXAMPLE"}.get, now=now,
    )  # fmt: skip


def test_the_golden_vectors_are_good() -> None:
    verify(headers(POSTED))
    names = "host;x-project-id;x-sdk-date"
    verify(headers(LISTED, names=names), method="GET", query="limit=10&name_fuzzy_match=true", body=b"")
    # The order on the wire does not count, nor how much of it is quoted.
    verify(headers(LISTED, names=names), method="GET", query="name%5Ffuzzy_match=true&limit=10", body=b"")


@pytest.mark.parametrize(
    "changed",
    [
        {"method": "PUT"},
        {"path": f"/v1/{PROJECT}/models"},
        {"query": "limit=1"},
        {"body": BODY + b" "},
        {"body": b""},
    ],
)
def test_another_request_is_not_what_was_signed(changed: dict[str, str]) -> None:
    with pytest.raises(NotSigned, match="verify aksk signature fail"):
        verify(headers(POSTED), **changed)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("sent", "words"),
    [
        (headers(POSTED[:-1] + "5"), "verify aksk signature fail, canonicalRequest:POST|"),
        (headers(POSTED[:-1]), "verify aksk signature fail, canonicalRequest"),
        (headers(POSTED, host="elsewhere"), "verify aksk signature fail"),
        (headers(POSTED, x_project_id="f" * 32), "verify aksk signature fail"),
        (headers(POSTED, content_type=""), "SignedHeaders: content-type"),
        (headers(POSTED, names="host;content-type;x-project-id;x-sdk-date"), "SignedHeaders: not sorted"),
        (headers(POSTED, names="content-type;x-sdk-date"), "SignedHeaders: host"),
        (headers(POSTED, x_sdk_date="20260102T030405"), "expected YYYYMMDDTHHMMSSZ"),
        (headers(POSTED, x_sdk_date=""), "expected YYYYMMDDTHHMMSSZ"),
        (headers(POSTED, x_sdk_content_sha256="0" * 64), "is not the body's hash"),
        (headers(POSTED, authorization=""), "authorization not found"),
        (headers(POSTED, authorization="Basic QTpC"), "expected SDK-HMAC-SHA256 Access="),
        (
            headers(POSTED, authorization=f"SDK-HMAC-SHA256 Access=OTHER, SignedHeaders=host;x-sdk-date, Signature={POSTED}"),
            "ak OTHER not exist",
        ),
        (
            headers(
                POSTED,
                authorization="SDK-HMAC-SHA256 Credential=AKEXAMPLE/20260102/cn-north-4/modelarts/sdk_request, "
                f"SignedHeaders=host;x-sdk-date, Signature={POSTED}",
            ),
            "a form with Credential=, such as older pages print",
        ),
    ],
)  # fmt: skip
def test_a_bad_signature_says_what_is_bad(sent: Headers, words: str) -> None:
    with pytest.raises(NotSigned) as caught:
        verify(sent)
    assert words in str(caught.value)
    assert "SKEXAMPLE" not in str(caught.value)


@pytest.mark.parametrize(("off", "is_good"), [(-901, False), (-900, True), (900, True), (901, False)])
def test_a_clock_may_be_a_quarter_of_an_hour_off(off: int, is_good: bool) -> None:
    now = NOW + timedelta(seconds=off)
    if is_good:
        verify(headers(POSTED), now=now)
        return
    with pytest.raises(NotSigned, match="signature expired, signature time:20260102T030405Z,server time:2026"):
        verify(headers(POSTED), now=now)


def test_a_temporary_keys_token_is_not_shown() -> None:
    more = {"x_security_token": "TEMPORARYTOKEN"}
    sent = headers(POSTED, names="host;x-sdk-date;x-security-token", **more)
    with pytest.raises(NotSigned) as caught:
        verify(sent)
    assert "x-security-token:***" in str(caught.value)
    assert "TEMPORARYTOKEN" not in str(caught.value)


SIGNING = """
import base64, json, random, string, sys
from huaweicloudsdkcore.sdk_request import SdkRequest
from huaweicloudsdkcore.signer.signer import Signer

class Keys:
    ak, sk = "AKEXAMPLE", "SKEXAMPLE"

chance = random.Random(20261121)
letters = string.ascii_letters + string.digits + "-._~ /+%&=?*:;,é漢"
def text(most):
    return "".join(chance.choice(letters) for _ in range(chance.randint(1, most)))

made = []
for number in range(200):
    method = chance.choice(["GET", "POST", "PUT", "DELETE", "PATCH"])
    path = "/v1/" + "/".join(text(8).replace("/", "").replace("%", "").replace("?", "") or "x" for _ in range(chance.randint(1, 4)))
    query = [(text(5), chance.choice([text(8), chance.randint(0, 99), True, False])) for _ in range(chance.randint(0, 3))]
    if len({name for name, _ in query}) != len(query):
        continue
    body = text(40) if method in ("POST", "PUT", "PATCH") and chance.random() < 0.8 else ""
    headers = {"X-Project-Id": "p", "X_Skipped": "x"}
    if body:
        headers["Content-Type"] = chance.choice(["application/json", "application/json;charset=UTF-8", "text/plain"])
    if chance.random() < 0.3:
        headers["X-Security-Token"] = text(20).strip() or "t"
    request = SdkRequest(method=method, schema="https", host="example.com", resource_path=path, uri=None,
                         query_params=query, header_params=headers, body=body, stream=False, signing_algorithm=None)
    signed = Signer(Keys()).sign(request)
    sent = [[name, value.decode("latin-1") if isinstance(value, bytes) else str(value)] for name, value in signed.header_params.items()]
    made.append([method, path, signed.uri.partition("?")[2], sent, base64.b64encode((body or "").encode()).decode()])
print(json.dumps(made))
"""


@needs_clients
def test_what_the_vendors_signer_signs_is_good_and_with_one_byte_changed_is_not() -> None:
    made = run_client(SIGNING)
    assert len(made) > 100
    for method, path, query, sent, encoded in made:
        body = base64.b64decode(encoded)
        # As a client's HTTP library sends it: the vendor's signer leaves text in headers as if it were latin-1.
        raw: Sequence[tuple[bytes, bytes]] = [(name.lower().encode(), value.encode("latin-1")) for name, value in sent]
        values = {name.decode(): value.decode() for name, value in raw}
        now = datetime.strptime(values["x-sdk-date"], "%Y%m%dT%H%M%SZ").replace(tzinfo=UTC)

        def good(method: str = method, path: str = path, raw: Sequence[tuple[bytes, bytes]] = raw,
                 query: str = query, body: bytes = body, now: datetime = now) -> None:  # fmt: skip
            check(method, quote(path, safe="/").encode(), query.encode(), raw, body,
                  secret_of={"AKEXAMPLE": "SKEXAMPLE"}.get, now=now)  # fmt: skip

        good()
        with pytest.raises(NotSigned):
            good(path=f"{path}x")
        with pytest.raises(NotSigned):
            good(query=f"{query}&x=1" if query else "x=1")
        with pytest.raises(NotSigned):
            good(raw=[(name, value + b"x" if name == b"host" else value) for name, value in raw])
        if body and "x-sdk-content-sha256" not in values:
            with pytest.raises(NotSigned):
                good(body=body + b" ")
