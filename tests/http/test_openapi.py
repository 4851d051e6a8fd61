"""The schema follows from routes and signature, and is there only when asked for."""

from __future__ import annotations

from pathlib import Path

import pytest
from starlette.testclient import TestClient

from servekit.http.asgi import build_app
from servekit.http.openapi import item_schema, schema
from servekit.signature import File, Image, Json, Spec, Tensor, Text
from servekit.testing import Client

PREDICTORS = Path(__file__).parents[1] / "contract" / "predictors.py"


@pytest.mark.parametrize(
    ("spec", "expected"),
    [
        (Tensor("float32", ()), {"type": "number"}),
        (Tensor("int8", (2,)), {"type": "array", "items": {"type": "integer"}, "minItems": 2, "maxItems": 2}),
        (Tensor("bool", (None,)), {"type": "array", "items": {"type": "boolean"}}),
        (Tensor("str", ()), {"type": "string"}),
        (Text(), {"type": "string"}),
        (Json(), {}),
        (Image("L"), {"type": "string", "contentEncoding": "base64"}),
        (File(), {"type": "string", "contentEncoding": "base64"}),
    ],
    ids=str,
)
def test_items(spec: Spec, expected: dict[str, object]) -> None:
    assert item_schema(spec) == expected


def test_every_route_of_every_platform_is_described() -> None:
    with Client(f"{PREDICTORS}:Picture", platform="all") as client:
        document = schema(client.dispatcher)
        for mount in client.dispatcher.mounted:
            for route in mount.routes:
                assert {method.lower() for method in route.methods} <= set(document["paths"][route.path])
        contents = document["paths"]["/invocations"]["post"]["requestBody"]["content"]
        assert {"application/json", "multipart/form-data", "image/*"} == set(contents)


def test_docs_are_off_unless_asked_for() -> None:
    with Client(f"{PREDICTORS}:Sum", platform="sagemaker") as client:
        with TestClient(build_app(client.dispatcher)) as plain:
            assert plain.get("/docs").status_code == 404
            assert plain.get("/openapi.json").json()["error"] == "not_found"
        with TestClient(build_app(client.dispatcher, docs=True)) as documented:
            assert documented.get("/openapi.json").json()["openapi"] == "3.1.0"
            assert "swagger" in documented.get("/docs").text.lower()
