"""Our signer is the vendor's: on the vectors that its SDK has made, and on random requests beside the SDK itself."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Any
from urllib.parse import quote

import pytest
from clients import clients_python, needs_clients
from hypothesis import given, settings
from hypothesis import strategies as st

from servekit.publish.http import Query, Request
from servekit.publish.modelarts.signer import (
    KeyPair,
    Signer,
    authorisation,
    canonical_request,
    signature,
)
from servekit.publish.secrets import Secret

HOST = "modelarts.cn-north-4.myhuaweicloud.com"
PROJECT = "0123456789abcdef0123456789abcdef"
DATE = "20260102T030405Z"
KEYS = KeyPair("AKEXAMPLE", Secret("SKEXAMPLE"))
BODY = b'{"swr_path":"swr.cn-north-4.myhuaweicloud.com/org/img:1"}'

# Asked a question a line, answers a line: the SDK takes a second to import.
ORACLE = """
import json, sys
from huaweicloudsdkcore.auth.credentials import BasicCredentials
from huaweicloudsdkcore.sdk_request import SdkRequest
from huaweicloudsdkcore.signer.signer import Signer

class Kept(Signer):
    def _process_canonical_request(self, request, signed_headers):
        self.canonical = super()._process_canonical_request(request, signed_headers)
        return self.canonical

for line in sys.stdin:
    asked = json.loads(line)
    keys = BasicCredentials(ak=asked["ak"], sk=asked["sk"], project_id="p")
    signer = Kept(keys)
    request = SdkRequest(
        method=asked["method"], schema="https", host=asked["host"], resource_path=asked["path"], uri="",
        query_params=[tuple(pair) for pair in asked["query"]], header_params=asked["headers"],
        body=bytes.fromhex(asked["body"]),
    )
    signed = signer.sign(request)
    print(json.dumps([signer.canonical, signed.header_params["Authorization"]]), flush=True)
"""


@pytest.fixture(scope="module")
def oracle() -> Iterator[subprocess.Popen[str]]:
    process = subprocess.Popen(
        [str(clients_python()), "-W", "ignore", "-c", ORACLE],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True, encoding="utf-8",
    )  # fmt: skip
    yield process
    assert process.stdin is not None
    assert process.stdout is not None
    process.stdin.close()
    process.wait(30)
    process.stdout.close()


def at_that_time() -> datetime:
    return datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)


@pytest.mark.parametrize(
    ("request_", "names", "expected"),
    [
        pytest.param(
            Request("POST", HOST, f"/v1/{PROJECT}/images", (), {"content-type": "application/json"}, BODY),
            "content-type;host;x-project-id;x-sdk-date",
            "196755b30ff7abf1133024ba78677cd934ecf73239c4bd6cfb8663984887c394",
            id="register",
        ),
        pytest.param(
            Request("GET", HOST, f"/v1/{PROJECT}/images", (("limit", "10"), ("name_fuzzy_match", "true")), {}, b""),
            "host;x-project-id;x-sdk-date",
            "9ce6e6ad6f0e17f211a8f9f089f9e4b650b66a16bcbc8e9c84f6fb850c2f5e79",
            id="list",
        ),
    ],
)
def test_the_vectors_that_the_sdk_has_made(request_: Request, names: str, expected: str) -> None:
    headers = Signer(KEYS, PROJECT, clock=at_that_time)(request_)
    assert headers == {
        "host": HOST,
        "x-sdk-date": DATE,
        "x-project-id": PROJECT,
        "authorization": f"SDK-HMAC-SHA256 Access=AKEXAMPLE, SignedHeaders={names}, Signature={expected}",
    }


def test_a_temporary_key_signs_its_token() -> None:
    keys = KeyPair("AKEXAMPLE", Secret("SKEXAMPLE"), Secret("temporary-token"))
    headers = Signer(keys, PROJECT, clock=at_that_time)(Request("GET", HOST, "/v1/x", (), {}, b""))
    assert headers["x-security-token"] == "temporary-token"
    assert "SignedHeaders=host;x-project-id;x-sdk-date;x-security-token," in headers["authorization"]


def test_a_body_that_is_no_json_is_not_hashed() -> None:
    request = Request("PUT", HOST, "/v1/x", (), {"content-type": "application/octet-stream"}, b"\0\1")
    headers = Signer(KEYS, clock=at_that_time)(request)
    assert headers["x-sdk-content-sha256"] == "UNSIGNED-PAYLOAD"
    assert "SignedHeaders=content-type;host;x-sdk-content-sha256;x-sdk-date," in headers["authorization"]


def test_what_is_signed_changes_the_signature() -> None:
    one = canonical_request("GET", "/a", (("x", "1"),), {"host": HOST, "x-sdk-date": DATE}, b"")
    others = [
        canonical_request("PUT", "/a", (("x", "1"),), {"host": HOST, "x-sdk-date": DATE}, b""),
        canonical_request("GET", "/b", (("x", "1"),), {"host": HOST, "x-sdk-date": DATE}, b""),
        canonical_request("GET", "/a", (("x", "2"),), {"host": HOST, "x-sdk-date": DATE}, b""),
        canonical_request("GET", "/a", (("x", "1"),), {"host": HOST, "x-sdk-date": DATE}, b"{}"),
        canonical_request("GET", "/a", (("x", "1"),), {"host": "h", "x-sdk-date": DATE}, b""),
    ]
    signatures = {signature(KEYS.secret_key, DATE, text) for text in [one, *others]}
    signatures |= {signature(Secret("another"), DATE, one), signature(KEYS.secret_key, "20260102T030406Z", one)}
    assert len(signatures) == len(others) + 3
    assert signature(KEYS.secret_key, DATE, one) == signature(KEYS.secret_key, DATE, one)


def test_a_secret_key_is_not_shown() -> None:
    assert "SKEXAMPLE" not in repr(Signer(KEYS, PROJECT))


# What is hard: what is quoted and what is not, beyond ASCII, and what sorts in another order once it is quoted.
TEXTS = st.text(st.sampled_from("az09-._~%+ /?&=:;@,é你🎈\u0301") | st.characters(codec="utf-8"), max_size=12)
SEGMENTS = TEXTS.map(lambda text: text.replace("/", "_"))
NAMES = st.from_regex(r"[A-Za-z][A-Za-z0-9_-]{0,10}", fullmatch=True)
VALUES = st.text(st.characters(min_codepoint=0x20, max_codepoint=0x7E), max_size=20) | TEXTS
RESERVED = {"host", "content-type", "x-sdk-date", "authorization", "x-sdk-content-sha256", "x-project-id"}
HEADERS = st.dictionaries(NAMES.filter(lambda name: name.lower() not in RESERVED), VALUES, max_size=4).filter(
    lambda headers: len({name.lower() for name in headers}) == len(headers)
)
TYPES = st.sampled_from(["", "application/json", "application/json;charset=UTF-8", "application/bson", "text/plain"])


@needs_clients
@settings(max_examples=150, deadline=None)
@given(
    method=st.sampled_from(["GET", "POST", "PUT", "DELETE", "PATCH", "get", "Head"]),
    segments=st.lists(SEGMENTS, max_size=4),
    slash=st.booleans(),
    query=st.lists(st.tuples(TEXTS, TEXTS), max_size=5),
    headers=HEADERS,
    content_type=TYPES,
    body=st.binary(max_size=50),
)
def test_the_sdk_signs_alike(
    oracle: subprocess.Popen[str], method: str, segments: list[str], slash: bool, query: Query,
    headers: dict[str, str], content_type: str, body: bytes,
) -> None:  # fmt: skip
    path = "/" + "/".join(segments) + ("/" if slash else "")
    signed = {"Host": HOST, "X-Sdk-Date": DATE, "X-Project-Id": PROJECT, **headers}
    if content_type:
        signed["Content-Type"] = content_type
    theirs, their_header = ask(
        oracle,
        ak=KEYS.access_key,
        sk=KEYS.secret_key.reveal(),
        method=method,
        host=HOST,
        # As it travels; the SDK unquotes it.
        path=quote(path, safe="/~"),
        query=list(query),
        headers=signed,
        body=body.hex(),
    )
    if content_type and not content_type.startswith(("application/json", "application/bson")):
        signed["X-Sdk-Content-Sha256"] = "UNSIGNED-PAYLOAD"
    assert canonical_request(method, path, query, signed, body) == theirs
    request = Request(method, HOST, path, tuple(query), {}, body)
    assert authorisation(KEYS, request, signed) == their_header


def ask(oracle: subprocess.Popen[str], **question: Any) -> tuple[str, str]:
    assert oracle.stdin is not None
    assert oracle.stdout is not None
    oracle.stdin.write(json.dumps(question) + "\n")
    oracle.stdin.flush()
    canonical, header = json.loads(oracle.stdout.readline())
    return canonical, header
