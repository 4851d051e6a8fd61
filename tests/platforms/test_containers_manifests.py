"""config.json and model.yaml as `servekit build` writes them: by the contracts' tables, and served as they say."""

from __future__ import annotations

import base64
import io
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import httpx2
import manifests
import numpy as np
import PIL.Image
import pytest
import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from servekit import Predictor
from servekit.containers import Product
from servekit.contract import Site
from servekit.launch.platforms import installed
from servekit.platforms.modelarts.config import read
from servekit.platforms.modzy.files import default_inputs, files_of
from servekit.signature import DTYPES, IMAGE_CHANNELS, File, Image, Json, Signature, Spec, Tensor, Text
from servekit.testing import Client

EXAMPLES = Path(__file__).parents[2] / "examples"
NUMBER, INTEGER, STRING = {"type": "number"}, {"type": "integer"}, {"type": "string"}
DIGITS = Signature({"images": Image("L", 28, 28)}, {"mnist_result": Tensor("int64")})
TABLE = Signature({"a": Tensor(), "b": Tensor("str")}, {"species": Text(), "probability": Tensor()})


def product(signature: Signature, **changes: Any) -> Product:
    return Product(**{"name": "digits", "version": "1.0.0", "signature": signature} | changes)


def written(platform: str, made_for: Product) -> bytes:
    make = installed()[platform].container
    assert make is not None
    [body] = make(made_for).manifests.values()
    return body


# --- what comes out, by example --------------------------------------------------------------------------------


def body(properties: Mapping[str, Any], content_type: str = manifests.JSON_TYPE) -> dict[str, Any]:
    return {"Content-type": content_type, "data": {"type": "object", "properties": properties}}


def form(**properties: Any) -> dict[str, Any]:
    return body(properties, manifests.FORM_TYPE)


def rows(key: str, **columns: Any) -> dict[str, Any]:
    row = {"type": "object", "properties": columns}
    return body({"data": {"type": "object", "properties": {key: {"type": "array", "items": [row]}}}})


def array(item: Any, size: int | None = None) -> dict[str, Any]:
    return {"type": "array", "items": [item]} | ({} if size is None else {"minItems": size, "maxItems": size})


@pytest.mark.parametrize(
    ("signature", "batch", "request_", "response"),
    [
        (DIGITS, False, form(images={"type": "file"}), body({"mnist_result": INTEGER})),
        (DIGITS, True, form(images={"type": "file"}), body({"mnist_result": INTEGER})),
        (TABLE, False, rows("req_data", a=NUMBER, b=STRING), rows("resp_data", species=STRING, probability=NUMBER)),
        (TABLE, True, rows("req_data", a=NUMBER, b=STRING), rows("resp_data", species=STRING, probability=NUMBER)),
        (
            Signature({"x": Tensor("float32", (4,))}, {"y": Tensor("bool", (None, 2))}), False,
            body({"x": array(NUMBER, 4)}), body({"y": array(array({"type": "boolean"}, 2))}),
        ),
        (Signature({"doc": Json()}, {"p": Json()}), False, body({"doc": {"type": "object"}}), body({"p": {"type": "object"}})),
        (
            Signature({"photo": Image(), "scale": Tensor("int8"), "raw": File()}, {"picture": Image()}), False,
            form(photo={"type": "file"}, scale=INTEGER, raw={"type": "file"}), body({"picture": STRING}),
        ),
        # A batch service uploads one file and no more, so that here it makes JSON from the columns of a CSV.
        (
            Signature({"photo": Image(), "scale": Tensor("int8")}, {"size": Tensor("uint64")}), True,
            rows("req_data", photo=STRING, scale=INTEGER), rows("resp_data", size=INTEGER),
        ),
        # Names that mean rows, or where these lie.
        (Signature({"instances": Tensor("float32", (3,))}, {"y": Tensor()}), False, rows("req_data", instances=array(NUMBER, 3)), rows("resp_data", y=NUMBER)),
        (Signature({"req_data": Json()}, {"y": Tensor()}), False, rows("req_data"), rows("resp_data", y=NUMBER)),
        (Signature({"data": Tensor(), "b": Tensor()}, {"y": Tensor()}), False, body({"data": NUMBER, "b": NUMBER}), body({"y": NUMBER})),
    ],
)  # fmt: skip
def test_config_json(signature: Signature, batch: bool, request_: Any, response: Any) -> None:
    text = written("modelarts", product(signature, batch=batch))
    assert json.loads(text) == {
        "model_algorithm": "digits",
        "model_type": "Image",
        "apis": [{"protocol": "http", "url": "/", "method": "post", "request": request_, "response": response}],
        "health": {"url": "/health", "protocol": "http", "initial_delay_seconds": "12", "timeout_seconds": "10"},
    }
    assert manifests.wrong_in_config(text, batch=batch) == []


def test_config_json_is_for_people_too() -> None:
    text = written("modelarts", product(Signature({"图片": Image()}, {"y": Tensor()}), name="n" * 50)).decode()
    assert '\n            "图片": {\n              "type": "file"\n' in text
    assert f'"model_algorithm": "{"n" * 36}"' in text
    assert text.endswith("}\n")


def test_model_yaml() -> None:
    made_for = product(
        DIGITS, summary="Reads a digit.", details="# Title\n\nIt's a *network*: small.\n", author="Ann, Bob: Co."
    )
    assert (
        written("modzy", made_for).decode()
        == """\
specification: '0.3'
type: file
source: servekit
version: 1.0.0
name: digits
author: 'Ann, Bob: Co.'
description:
  summary: Reads a digit.
  details: |
    # Title

    It's a *network*: small.
  technical: 'Inputs: images (a L image of 28x28). Outputs: mnist_result (int64 of shape ()).'
  performance: ''
releaseNotes: ''
tags: []
filters: []
metrics: []
inputs:
  images:
    acceptedMediaTypes:
    - image/png
    - image/jpeg
    - image/webp
    maxSize: 20M
    description: 'The input images: a picture of any size.'
outputs:
  results.json:
    mediaType: application/json
    maxSize: 1M
    description: data.result is an object with mnist_result (int64 of shape ()).
resources:
  memory:
    size: 512M
  cpu:
    count: 1
  gpu:
    count: 0
timeout:
  status: 60s
  run: 60s
internal:
  recommended: false
  experimental: false
  available: true
  features:
    explainable: false
    adversarialDefense: false
"""
    )


@pytest.mark.parametrize(
    ("inputs", "expected"),
    [
        ({"a": Image(), "b": Text(), "c": Tensor(), "d": Json(), "e": File()}, ["a", "b.txt", "c.json", "d.json", "e"]),
        ({"model/x": Tensor(), "y": Tensor()}, ["model_x.json", "y.json"]),
        # Names that would be those of one file, or no names of files.
        ({"a/b": Tensor(), "a_b": Tensor()}, ["input1.json", "input2.json"]),
        ({"a": Text(), "a.b": Image()}, ["input1.txt", "input2"]),
        ({"..": Image(), "y": Text()}, ["input1", "input2.txt"]),
        ({"a\nb": Json()}, ["input1.json"]),
        ({"n" * 250: Json()}, ["n" * 250 + ".json"]),
        ({"é" * 126: Json()}, ["input1.json"]),
    ],
)
def test_files_of_inputs(inputs: dict[str, Spec], expected: list[str]) -> None:
    signature = Signature(inputs, {"y": Tensor()})
    text = written("modzy", product(signature))
    assert list(yaml.safe_load(text)["inputs"]) == expected
    files, _ = files_of(Site(signature, {"model.yaml": text}))
    assert [(file.filename, file.input) for file in files] == list(zip(expected, inputs, strict=True))


@pytest.mark.parametrize("spec", [Image(), Text(), Json(), File(), Tensor()])
def test_the_files_are_those_without_a_model_yaml(spec: Spec) -> None:
    signature = Signature({"x": spec, "other": Text()}, {"y": Json()})
    files, outputs = files_of(Site(signature, {"model.yaml": written("modzy", product(signature))}))
    assert [file.filename for file in files] == [file.filename for file in default_inputs(signature)]
    assert [(output.filename, output.output) for output in outputs] == [("results.json", None)]


@pytest.mark.parametrize(
    ("spec", "size"),
    [
        (Tensor(), "1M"),
        (Tensor("float64", (3, 224, 224)), "5M"),
        (Tensor("float32", (None, 768)), "246M"),
        (Tensor("float32", (10**9, 10**9)), "268M"),
        (Tensor("str", (3,)), "10M"),
        (Image(), "20M"),
        (File(), "100M"),
    ],
)
def test_a_size_is_room_for_what_the_signature_allows(spec: Spec, size: str) -> None:
    document = yaml.safe_load(written("modzy", product(Signature({"x": spec}, {"x": spec}))))
    [file] = document["inputs"].values()
    assert (file["maxSize"], document["outputs"]["results.json"]["maxSize"]) == (size, size)


def test_a_large_tensor_fits_its_size() -> None:
    # Doubles are as long as they get.
    values = np.random.default_rng(0).standard_normal((3, 50, 70)) * -1e-300
    document = yaml.safe_load(
        written("modzy", product(Signature({"x": Tensor("float64", values.shape)}, {"y": Text()})))
    )
    assert (
        len(json.dumps(values.tolist())) <= int(document["inputs"]["x.json"]["maxSize"].removesuffix("M")) * 1_000_000
    )


# --- any signature, any text -----------------------------------------------------------------------------------

# Names that some form of a body gives a meaning to, and names that make odd files.
WORDS = "x y a data req_data resp_data meta instances predictions inputs outputs features results results.json input1"
NAMES = st.sampled_from([*WORDS.split(), "a.b", "a/b", "a_b", "on", "1", "~", "name with spaces", "ключ", "x[]"])
DIMS = st.none() | st.integers(1, 3)
SHAPES = st.one_of(st.just(()), st.tuples(DIMS), st.tuples(DIMS, DIMS))
TENSORS = st.builds(Tensor, st.sampled_from(sorted(DTYPES)), SHAPES)
SIDES = st.none() | st.integers(1, 9)
IMAGES = st.builds(Image, st.sampled_from(list(IMAGE_CHANNELS)), SIDES, SIDES)
SPECS = st.one_of(TENSORS, IMAGES, st.just(Text()), st.just(Json()), st.just(File()))


def signatures(names: st.SearchStrategy[str]) -> st.SearchStrategy[Signature]:
    inputs = st.dictionaries(names, SPECS, min_size=1, max_size=3)
    return st.builds(Signature, inputs, st.dictionaries(NAMES, SPECS, min_size=1, max_size=3))


# Of model data or a project's own files, so: any text at all.
TEXTS = (
    st.text(max_size=60)
    | st.text("a é\n\r\t\"'\\:#-|>{}[]&*!%@`\u2028\x85\x00\U0001f600", max_size=60)
    | st.just("word " * 60)
)
PRODUCTS = st.builds(
    Product,
    name=st.from_regex(r"[A-Za-z][A-Za-z0-9._-]{0,60}", fullmatch=True),
    version=st.from_regex(r"[0-9]{1,3}\.[0-9]{1,3}\.[0-9]{1,3}", fullmatch=True),
    signature=signatures(NAMES | st.text(min_size=1, max_size=20) | st.just("long" * 100)),
    summary=TEXTS,
    details=TEXTS,
    author=TEXTS,
    batch=st.booleans(),
)


# Other processes may hold up the first example.
UNHURRIED = settings(deadline=None)


@UNHURRIED
@given(PRODUCTS)
def test_any_config_json_is_by_the_tables(made_for: Product) -> None:
    text = written("modelarts", made_for)
    assert manifests.wrong_in_config(text, batch=made_for.batch) == []
    declared = read(text, made_for.signature)
    assert (declared.apis, declared.health_url) == ((("POST", "/"),), "/health")
    routes = installed()["modelarts"].routes(Site(made_for.signature, {"config.json": text}))
    assert [(route.methods, route.path) for route in routes] == [(("GET",), "/health"), (("POST",), "/")]
    assert written("modelarts", made_for) == text


@UNHURRIED
@given(PRODUCTS)
def test_any_model_yaml_is_by_the_tables(made_for: Product) -> None:
    text = written("modzy", made_for)
    assert manifests.wrong_in_model_yaml(text) == []
    document = yaml.safe_load(text)
    assert document["author"] == made_for.author
    assert document["description"]["details"] == made_for.details
    assert document["description"]["summary"] == (made_for.summary or made_for.name)
    assert (document["name"], document["version"]) == (made_for.name, made_for.version)
    inputs, outputs = files_of(Site(made_for.signature, {"model.yaml": text}))
    assert [file.input for file in inputs] == list(made_for.signature.inputs)
    assert [(file.filename, file.output) for file in outputs] == [("results.json", None)]
    assert written("modzy", made_for) == text


# --- served ----------------------------------------------------------------------------------------------------


def predictor(signature: Signature) -> type[Predictor]:
    """Takes what is declared, answers something that is declared."""

    def result(spec: Spec, count: int) -> Any:
        match spec:
            case Tensor():
                shape = tuple(2 if dim is None else dim for dim in spec.shape)
                values = np.zeros((count, *shape), object if spec.dtype == "str" else spec.dtype)
                return np.full_like(values, "text") if spec.dtype == "str" else values
            case Image():
                return [np.zeros([2 if dim is None else dim for dim in spec.shape], np.uint8)] * count
            case Text():
                return ["text"] * count
            case Json():
                return [{"any": None}] * count
            case File():
                return [b"bytes"] * count

    def predict(self: Predictor, **columns: Any) -> Any:
        assert set(columns) == set(signature.inputs)
        count = len(next(iter(columns.values())))
        return {name: result(spec, count) for name, spec in signature.outputs.items()}

    return type(
        "Declared", (Predictor,), {"inputs": signature.inputs, "outputs": signature.outputs, "predict": predict}
    )


def picture() -> bytes:
    buffer = io.BytesIO()
    PIL.Image.new("RGB", (5, 4)).save(buffer, "PNG")
    return buffer.getvalue()


# What a text may have to be: a picture in base64.
SAMPLES = {
    "number": 0.5,
    "integer": 1,
    "boolean": True,
    "string": base64.b64encode(picture()).decode(),
    "file": picture(),
}


def sample(schema: Mapping[str, Any]) -> Any:
    """A value that a schema of the dialect describes."""
    match schema["type"]:
        case "object":
            return {name: sample(inner) for name, inner in schema.get("properties", {}).items()}
        case "array":
            return [sample(schema["items"][0])] * schema.get("minItems", 2)
        case kind:
            return SAMPLES[kind]


def fits(value: Any, schema: Mapping[str, Any]) -> bool:
    """Is the value what the schema describes?"""
    match schema["type"]:
        case "object":
            properties = schema.get("properties", {})
            return isinstance(value, dict) and all(
                name in value and fits(value[name], properties[name]) for name in properties
            )
        case "array":
            low, high = schema.get("minItems", 0), schema.get("maxItems", float("inf"))
            return (
                isinstance(value, list)
                and low <= len(value) <= high
                and all(fits(item, schema["items"][0]) for item in value)
            )
        case "boolean":
            return isinstance(value, bool)
        case kind:
            kinds: Any = {"number": (int, float), "integer": int, "string": str}[kind]
            return isinstance(value, kinds) and not isinstance(value, bool)


def call(client: httpx2.Client, api: Mapping[str, Any]) -> httpx2.Response:
    """A request that an api of config.json describes."""
    values = sample(api["request"]["data"])
    # A lone picture would come as a PNG.
    headers = {"Accept": api["response"]["Content-type"]}
    if api["request"]["Content-type"] == manifests.JSON_TYPE:
        return client.request(api["method"].upper(), api["url"], json=values, headers=headers)
    properties = api["request"]["data"]["properties"]
    uploads = {name: values[name] for name in values if properties[name]["type"] == "file"}
    fields = {
        name: value if isinstance(value, str) else json.dumps(value)
        for name, value in values.items()
        if name not in uploads
    }
    return client.request(api["method"].upper(), api["url"], files=uploads, data=fields, headers=headers)


def check_every_route(config: bytes, signature: Signature, model_dir: Path) -> None:
    (model_dir / "config.json").write_bytes(config)
    document = json.loads(config)
    with Client(predictor(signature), platform="modelarts", model_dir=model_dir) as client:
        assert client.get(document["health"]["url"]).json() == {"health": "true"}
        for api in document["apis"]:
            reply = call(client, api)
            assert reply.status_code == 200, reply.text
            assert reply.headers["Content-Type"] == api["response"]["Content-type"]
            assert fits(reply.json(), api["response"]["data"]), reply.text


SERVED = settings(max_examples=80, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


@SERVED
@given(signatures(NAMES), st.booleans())
def test_every_route_of_config_json_is_served_as_described(tmp_path: Path, signature: Signature, batch: bool) -> None:
    check_every_route(written("modelarts", product(signature, batch=batch)), signature, tmp_path)


def test_an_output_called_results() -> None:
    signature = Signature({"x": Text()}, {"results": Text(), "label": Text()})
    _, outputs = files_of(Site(signature, {"model.yaml": written("modzy", product(signature))}))
    assert [(output.filename, output.output) for output in outputs] == [("results.json", None)]


def contents(media_type: str, spec: Spec) -> bytes:
    """What a file of this type holds for an input."""
    if media_type.startswith("image/"):
        return picture()
    if media_type == manifests.JSON_TYPE:
        value: Any = {"any": [None]}
        if isinstance(spec, Tensor):
            value = 1 if spec.dtype != "bool" else True
            value = "text" if spec.dtype == "str" else value
            for dim in reversed(spec.shape):
                value = [value] * (2 if dim is None else dim)
        return json.dumps(value).encode()
    return b"any bytes" if media_type == "application/octet-stream" else "a text, é".encode()


def check_a_job(manifest: bytes, signature: Signature, place: Path) -> None:
    """A job with the files that model.yaml names."""
    model_dir, given_, got = place / "model", place / "in", place / "out"
    for directory in (model_dir, given_, got):
        directory.mkdir(exist_ok=True)
        for left in directory.iterdir():
            left.unlink()
    (model_dir / "model.yaml").write_bytes(manifest)
    document = yaml.safe_load(manifest)
    for (filename, entry), spec in zip(document["inputs"].items(), signature.inputs.values(), strict=True):
        (given_ / filename).write_bytes(contents(entry["acceptedMediaTypes"][0], spec))
    with Client(predictor(signature), platform="modzy", model_dir=model_dir, files_roots=[place]) as client:
        assert client.get("/status").json()["message"] == "ready"
        reply = client.post("/run", json={"type": "file", "input": str(given_), "output": str(got)})
        assert reply.status_code == 200, reply.text
    assert [path.name for path in got.iterdir()] == list(document["outputs"])
    result = json.loads((got / "results.json").read_bytes())["data"]["result"]
    assert set(result) == set(signature.outputs)


@SERVED
@given(signatures(NAMES))
def test_a_job_with_the_files_of_model_yaml_runs(tmp_path: Path, signature: Signature) -> None:
    check_a_job(written("modzy", product(signature)), signature, tmp_path)


@pytest.mark.parametrize("example", ["digits", "iris", "hello"])
def test_the_examples(example: str, tmp_path: Path) -> None:
    with Client(EXAMPLES / example) as client:
        signature = client.dispatcher.performer.signature
    check_every_route(written("modelarts", product(signature)), signature, tmp_path)
    check_a_job(written("modzy", product(signature)), signature, tmp_path)


# --- the tables themselves: the examples' own files are right, and what is wrong is found -----------------------


def test_the_examples_own_manifests() -> None:
    assert manifests.wrong_in_config((EXAMPLES / "digits" / "config.json").read_bytes(), batch=True) == []
    assert manifests.wrong_in_model_yaml((EXAMPLES / "digits" / "model.yaml").read_bytes()) == []


def changed(document: Any, path: tuple[Any, ...], value: Any) -> Any:
    """`document` with another value at `path`; ... takes the key away."""
    inner = document
    for key in path[:-1]:
        inner = inner[key]
    if value is ...:
        del inner[path[-1]]
    else:
        inner[path[-1]] = value
    return document


REQUEST = ("apis", 0, "request")


@pytest.mark.parametrize(
    ("path", "value", "says"),
    [
        (("model_algorithm",), ..., "model_algorithm: missing"),
        (("model_algorithm",), "1st", "model_algorithm: expected text"),
        (("model_algorithm",), "a<b", "model_algorithm: expected text"),
        (("model_algorithm",), "a" * 37, "model_algorithm: expected text"),
        (("model_type",), "PyTorch", "model_type: expected one of"),
        (("apis",), [], "apis: expected a list of at least 1"),
        (("dependencies",), [], "dependencies: unknown"),
        (("runtime",), "python3.7", "runtime: unknown"),
        (("swr_location",), "swr", "swr_location: unknown"),
        (("apis", 0, "method"), "put", "method: expected one of"),
        (("apis", 0, "url"), "predict", "url: expected text"),
        ((*REQUEST, "Content-type"), ..., "Content-type: missing"),
        ((*REQUEST, "Content-type"), "text/csv", "Content-type: expected one of"),
        ((*REQUEST, "Content-Type"), "application/json", "Content-Type: unknown"),
        ((*REQUEST, "data"), ..., "data: missing"),
        ((*REQUEST, "Content-type"), "application/json", "images.type: expected a type of the dialect"),
        ((*REQUEST, "data", "properties", "more"), {"type": "string"}, "expected one parameter, got 2"),
        ((*REQUEST, "data", "properties", "images"), {"type": "array", "items": {"type": "number"}}, "items: expected a list of one"),
        ((*REQUEST, "data", "properties", "images"), {"type": "float"}, "type: expected a type of the dialect"),
        ((*REQUEST, "data", "type"), "array", "data.type: expected object"),
        (("apis", 0, "response"), ..., "response: missing"),
        (("apis", 0, "response", "data"), ..., "data: missing"),
        (("health", "initial_delay_seconds"), 12, "initial_delay_seconds: expected text"),
        (("health", "timeout_seconds"), ..., "timeout_seconds: missing"),
        (("health", "url"), "/ping", "url: expected one of"),
    ],
)  # fmt: skip
def test_what_is_wrong_in_a_config_json_is_found(path: tuple[Any, ...], value: Any, says: str) -> None:
    document = changed(json.loads(written("modelarts", product(DIGITS))), path, value)
    assert any(says in line for line in manifests.wrong_in_config(json.dumps(document).encode(), batch=True))


@pytest.mark.parametrize(
    ("path", "value", "says"),
    [
        (("specification",), 0.3, "specification"),
        (("specification",), "0.4", "specification: expected one of"),
        (("type",), "grpc", "type: expected one of"),
        (("version",), "1.0", "version: expected text"),
        (("name",), ..., "name: missing"),
        (("author",), 3, "author: expected text"),
        (("description", "technical"), ..., "technical: missing"),
        (("inputs",), {}, "inputs: expected entries"),
        (("inputs", "images", "acceptedMediaTypes"), [], "acceptedMediaTypes: expected a list of at least 1"),
        (("inputs", "images", "acceptedMediaTypes", 0), "png", "acceptedMediaTypes[0]: expected text"),
        (("inputs", "images", "maxSize"), 20, "maxSize: expected text"),
        (("inputs", "images", "mediaType"), "a/b", "mediaType: unknown"),
        (("inputs", "images.json"), {}, "differ by more than their ending"),
        (("inputs", "a/b"), {}, "expected a file name"),
        (("inputs", "é" * 128), {}, "at most 255 bytes"),
        (("outputs", "results.json", "mediaType"), ..., "mediaType: missing"),
        (("outputs", "answer.json"), ..., "expected results.json"),
        (("resources", "cpu", "count"), 0, "count: expected a number from"),
        (("resources", "gpu", "count"), 0.5, "count: expected a number from"),
        (("timeout", "run"), 60000, "run: expected text"),
        (("internal", "available"), "yes", "available: expected one of"),
        (("source",), ..., "source: missing"),
        (("tags",), [3], "tags[0]: expected text"),
    ],
)
def test_what_is_wrong_in_a_model_yaml_is_found(path: tuple[Any, ...], value: Any, says: str) -> None:
    document = yaml.safe_load(written("modzy", product(DIGITS)))
    if path == ("outputs", "answer.json"):
        document["outputs"]["answer.json"] = document["outputs"].pop("results.json")
        path, value = ("outputs", "more.json"), document["outputs"]["answer.json"]
    text = yaml.safe_dump(changed(document, path, value), sort_keys=False, allow_unicode=True)
    assert any(says in line for line in manifests.wrong_in_model_yaml(text.encode()))


def test_the_order_of_the_template_is_held() -> None:
    text = yaml.safe_dump(yaml.safe_load(written("modzy", product(DIGITS))))
    assert any("template's order" in line for line in manifests.wrong_in_model_yaml(text.encode()))
