"""config.json: the vendor's dialect, and what makes it impossible to serve."""

from __future__ import annotations

import json
from typing import Any

import pytest

from servekit.errors import ConfigError
from servekit.platforms.modelarts.config import Declared, read
from servekit.signature import Image, Json, Signature, Spec, Tensor, Text

DIGITS = Signature({"images": Image("L", 28, 28)}, {"mnist_result": Tensor("int64")})
ANY = Signature({"row": Json()}, {"prediction": Json()})
TABLE = Signature({"a": Tensor(), "b": Tensor()}, {"species": Text()})
Document = dict[str, Any]


def form(**properties: Any) -> Document:
    return {"Content-type": "multipart/form-data", "data": {"type": "object", "properties": properties}}


def body(**properties: Any) -> Document:
    return {"Content-type": "application/json", "data": {"type": "object", "properties": properties}}


def rows(items: Any, name: str = "req_data", key: str = "items") -> Document:
    return {"type": "object", "properties": {name: {"type": "array", key: items}}}


def row(**properties: Any) -> Document:
    return {"type": "object", "properties": properties}


def api(**changes: Any) -> Document:
    request = form(images={"type": "file"})
    response = body(mnist_result={"type": "integer"})
    return {"protocol": "http", "url": "/", "method": "post", "request": request, "response": response} | changes


def config(*apis: Document, **changes: Any) -> Document:
    health = {"url": "/health", "protocol": "http", "initial_delay_seconds": "12", "timeout_seconds": "10"}
    return {
        "model_algorithm": "image_classification",
        "model_type": "Image",
        "apis": list(apis) or [api()],
        "health": health,
    } | changes


NUMBER = {"type": "number"}
TABLE_API = {
    "url": "/",
    "method": "post",
    "request": body(data=rows([row(a=NUMBER, b=NUMBER)])),
    "response": body(data=rows([row(species={"type": "string"})], "resp_data")),
}


@pytest.mark.parametrize(
    ("document", "signature", "expected"),
    [
        (config(), DIGITS, Declared((("POST", "/"),), "/health")),
        (config(api(url="/a/b"), api(url="/c", method="POST")), DIGITS, Declared((("POST", "/a/b"), ("POST", "/c")), "/health")),
        (config(health={"url": "/alive"}), DIGITS, Declared((("POST", "/"),), "/alive")),
        ({"model_algorithm": "x"}, DIGITS, Declared((("POST", "/"),), "/health")),
        (config(apis=[]), DIGITS, Declared((("POST", "/"),), "/health")),
        (config({}), DIGITS, Declared((("POST", "/"),), "/health")),
        (config(TABLE_API), TABLE, Declared((("POST", "/"),), "/health")),
        (config(TABLE_API | {"method": "get", "url": "/get"}), TABLE, Declared((("GET", "/get"),), "/health")),
        # the vendor's own slips: items as an object, `item`, a misspelt type and key, a schema as text
        (config(TABLE_API | {"request": body(data=rows(row(a=NUMBER, b=NUMBER)))}), TABLE, Declared((("POST", "/"),), "/health")),
        (config(TABLE_API | {"request": body(**rows([row(a=NUMBER, b=NUMBER)], key="item")["properties"])}), TABLE, Declared((("POST", "/"),), "/health")),
        (config(api(procotol="http", response={"Content-type": "applicaton/json"})), DIGITS, Declared((("POST", "/"),), "/health")),
        (config(api(request={"content-type": "multipart/form-data", "data": json.dumps(row(images={"type": "file"}))})), DIGITS, Declared((("POST", "/"),), "/health")),
        # the sample with meta, a row that says nothing of its columns, and a Json input whose keys are its own
        (config(TABLE_API | {"request": body(meta=row(uuid={"type": "string"}), data=rows([row(a=NUMBER, b=NUMBER)]))}), TABLE, Declared((("POST", "/"),), "/health")),
        (config(TABLE_API | {"request": body(data=rows([row()]))}), TABLE, Declared((("POST", "/"),), "/health")),
        (config({"request": body(data=rows([row(attr_1=NUMBER, attr_2=NUMBER)]))}), ANY, Declared((("POST", "/"),), "/health")),
        (config({"request": body(input={"type": "string"})}), ANY, Declared((("POST", "/"),), "/health")),
        # what batch services add
        (config(TABLE_API | {"request": body(data=rows([row(a=NUMBER | {"index": 0}, b=NUMBER | {"index": 1})]))}), TABLE, Declared((("POST", "/"),), "/health")),
        (config(dependencies=[], metrics={"f1": 0.9}, runtime="python3.7", anything=1), DIGITS, Declared((("POST", "/"),), "/health")),
    ],
)  # fmt: skip
def test_what_is_read(document: Document, signature: Signature, expected: Declared) -> None:
    assert read(json.dumps(document).encode(), signature) == expected


@pytest.mark.parametrize(
    ("document", "signature", "says"),
    [
        ([], DIGITS, "expected an object"),
        (config(model_algorithm="1x"), DIGITS, "model_algorithm"),
        (config(model_algorithm="x" * 37), DIGITS, "model_algorithm"),
        (config(model_algorithm="a<b"), DIGITS, "model_algorithm"),
        (config(model_type=3), DIGITS, "model_type"),
        (config(apis={}), DIGITS, "apis: expected a list"),
        (config(apis=["/"]), DIGITS, "apis[0]: expected an object"),
        (config(api(url="predict")), DIGITS, 'apis[0].url: expected a path that starts with /, of letters, digits and -._~:, got "predict"'),
        (config(api(url="/a%20b")), DIGITS, 'apis[0].url: expected a path'),
        (config(api(url="/a?b=1")), DIGITS, "apis[0].url"),
        (config(api(), api(url=3)), DIGITS, "apis[1].url"),
        (config(api(method="put")), DIGITS, 'apis[0].method: expected post or get, got "put"'),
        (config(api(method="get")), DIGITS, "a GET cannot carry the inputs images"),
        (config(api(), api()), DIGITS, "POST / is declared twice"),
        (config(api(url="/health")), DIGITS, "/health is the health check's url"),
        (config(api(request={"Content-type": "text/csv"})), DIGITS, "apis[0].request.Content-type"),
        (config(api(request=[])), DIGITS, "apis[0].request: expected an object"),
        (config(api(request=form(picture={"type": "file"}))), DIGITS, "no input picture, only images"),
        (config(api(request=form(images={"type": "string"}))), DIGITS, 'images.type: expected "file"'),
        (config(api(request=form(note={"type": "string"}))), DIGITS, "expected images, got no images"),
        (config(api(request={"Content-type": "multipart/form-data", "data": "{"})), DIGITS, "request.data: expected a JSON schema"),
        (config(api(request={"data": {"properties": []}})), DIGITS, "properties: expected an object"),
        (config(api(response=body(digit={"type": "integer"}))), DIGITS, "no output digit, only mnist_result"),
        (config(TABLE_API | {"request": body(data=rows([row(a=NUMBER, c=NUMBER)]))}), TABLE, "no input c, only a, b"),
        (config(TABLE_API | {"request": body(data=rows([row(a=NUMBER)]))}), TABLE, "req_data.properties: expected a, b, got no b"),
        (config(TABLE_API | {"request": body(b=NUMBER)}), TABLE, "request.data.properties: expected a, b, got no a"),
        (config(TABLE_API | {"response": body(data=rows([row(flower={})], "resp_data"))}), TABLE, "no output flower"),
        (config(health=[]), DIGITS, "health: expected an object"),
        (config(health={"url": "health"}), DIGITS, "health.url"),
        (config(health={"url": "/health", "protocol": "ftp"}), DIGITS, "health.protocol"),
        (config(health={"url": "/health", "timeout_seconds": "soon"}), DIGITS, "health.timeout_seconds"),
    ],
)  # fmt: skip
def test_what_refuses_the_start(document: Any, signature: Signature, says: str) -> None:
    with pytest.raises(ConfigError) as caught:
        read(json.dumps(document).encode(), signature)
    assert caught.value.message.startswith("config.json")
    assert says in caught.value.message


@pytest.mark.parametrize("text", [b"", b"{", b"\xff\xfe", b"[" * 100_000])
def test_what_is_no_json(text: bytes) -> None:
    with pytest.raises(ConfigError, match=r"config\.json: expected JSON"):
        read(text, DIGITS)


@pytest.mark.parametrize(
    ("inputs", "properties"),
    [
        ({"x": Tensor(), "p": Image()}, {"p": {"type": "file"}, "x": {"type": "number"}}),
        ({"x": Tensor()}, {"x": {"type": "file"}}),
    ],
)
def test_forms_of_several_inputs(inputs: dict[str, Spec], properties: dict[str, Any]) -> None:
    document = config({"url": "/", "method": "post", "request": form(**properties)})
    assert read(json.dumps(document).encode(), Signature(inputs, {"y": Tensor()})).apis == (("POST", "/"),)
