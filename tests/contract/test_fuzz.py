"""Whatever comes in, the answer is a reply of the contract: never a 5xx, never a trace."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import httpx2
import numpy as np
import pytest
from cases import assert_no_leak, multipart, npy, npz, png
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from servekit.testing import Client

PREDICTORS = Path(__file__).with_name("predictors.py")
TARGETS = ("Sum", "Pair", "Picture", "Says", "Anything", "Bytes")
FORM, FORM_HEADERS = multipart(("picture", "a.png", "image/png", png(3, 3)), ("a", None, None, b"1"))
SEEDS: list[tuple[str, bytes]] = [
    ("application/json", b'{"instances": [[1, 2, 3, 4]], "x": null}'),
    ("application/json", b'{"data": {"req_data": [{"a": 1, "b": [2.5]}]}, "meta": {"uuid": "u"}}'),
    ("application/json; charset=utf-16", '{"inputs": {"x": [[1, 2, 3, 4]]}}'.encode("utf-16")),
    ("application/jsonlines", b'[1, 2, 3, 4]\n{"x": [1, 2, 3, 4]}\n'),
    ("text/csv", b'1,2,3,4\n"5",6,7,8\n'),
    ("application/x-npy", npy(np.ones((2, 4)))),
    ("application/x-npz", npz(a=np.ones(2), b=np.ones((2, 3)))),
    ("image/png", png(5, 5, value=3)),
    ("text/plain", "grüße".encode()),
    ("application/octet-stream", b"\0\1\2"),
    ("application/x-www-form-urlencoded", b"a=1&b=[2]&x=%5B1%5D"),
    (FORM_HEADERS["Content-Type"], FORM),
    ("", b"hello"),
]

json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda children: st.lists(children, max_size=4) | st.dictionaries(st.sampled_from("axb"), children, max_size=3),
    max_leaves=12,
)
FUZZ = settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


@pytest.fixture(scope="module")
def clients() -> Iterator[dict[str, httpx2.Client]]:
    with ExitStack() as stack:
        yield {target: stack.enter_context(Client(f"{PREDICTORS}:{target}", platform="all")) for target in TARGETS}


def check(client: httpx2.Client, content_type: str, body: bytes, accept: str = "*/*") -> None:
    headers = {"Accept": accept} | ({"Content-Type": content_type} if content_type else {})
    for path in ("/invocations", "/", "/run"):
        reply = client.post(path, content=body, headers=headers)
        assert reply.status_code < 500, (path, reply.text)
        assert_no_leak(reply, content_type + accept + body.decode("latin-1"))
        if reply.status_code >= 400:
            assert reply.headers["content-type"] == "application/json"
            assert isinstance(json.loads(reply.content), dict)


@pytest.mark.parametrize("target", TARGETS)
@given(seed=st.sampled_from(SEEDS), data=st.data())
@FUZZ
def test_damaged_bodies(
    clients: dict[str, httpx2.Client], target: str, seed: tuple[str, bytes], data: st.DataObject
) -> None:
    content_type, body = seed
    damaged = bytearray(body)
    for _ in range(data.draw(st.integers(0, 4))):
        at = data.draw(st.integers(0, len(damaged)))
        kind = data.draw(st.sampled_from(["cut", "drop", "change", "insert"]))
        if kind == "cut":
            del damaged[at:]
        elif kind == "drop":
            del damaged[at : at + data.draw(st.integers(1, 8))]
        elif kind == "insert":
            damaged[at:at] = data.draw(st.binary(max_size=8))
        elif at < len(damaged):
            damaged[at] = data.draw(st.integers(0, 255))
    check(clients[target], content_type, bytes(damaged))


@pytest.mark.parametrize("target", TARGETS)
@given(value=json_values, wrapped=st.sampled_from(["instances", "inputs", "req_data", None]))
@FUZZ
def test_any_json(clients: dict[str, httpx2.Client], target: str, value: object, wrapped: str | None) -> None:
    document = value if wrapped is None else {wrapped: value}
    try:
        body = json.dumps(document).encode()
    except UnicodeEncodeError:
        return
    check(clients[target], "application/json", body)


@pytest.mark.parametrize("target", TARGETS)
@given(
    content_type=st.text(st.characters(min_codepoint=32, max_codepoint=126), max_size=60),
    accept=st.text(st.characters(min_codepoint=32, max_codepoint=126), max_size=60),
    body=st.binary(max_size=60),
)
@FUZZ
def test_any_headers(
    clients: dict[str, httpx2.Client], target: str, content_type: str, accept: str, body: bytes
) -> None:
    check(clients[target], content_type.strip(), body, accept.strip())
