"""config.json: which routes it declares, and whether this predictor can serve them.

Read leniently (the vendor's own samples misspell keys and write `items` as a list), refuse what cannot work.
Source: Huawei Cloud, "Specifications for Editing a Model Configuration File".
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from servekit.errors import ConfigError
from servekit.signature import File, Image, Json, Signature

MODEL_ALGORITHM = re.compile(r"[A-Za-z][^&!'\"<>=\u4e00-\u9fff]{0,35}")
# No percent: a request's path is matched after it is decoded.
URL = re.compile(r"/[A-Za-z0-9\-._~/:]*")
JSON_TYPE, FORM_TYPE = "application/json", "multipart/form-data"
# Keys under which the rows of a table lie; everything else in a schema is an input by name.
WRAPPERS = frozenset(["data", "req_data", "meta", "instances", "inputs"])
RESPONSE_WRAPPERS = frozenset(["data", "resp_data", "meta", "predictions", "outputs"])


@dataclass(frozen=True, slots=True)
class Declared:
    """What config.json says about routes: (method, path) of every api, and the health check's path."""

    apis: tuple[tuple[str, str], ...]
    health_url: str


def read(body: bytes, signature: Signature) -> Declared:
    """Raises ConfigError that names the key, what came and what was expected."""
    try:
        document = json.loads(body)
    except (ValueError, RecursionError) as error:
        raise ConfigError(f"config.json: expected JSON, got an error: {error}") from error
    if not isinstance(document, dict):
        raise _wrong("", "an object", document)
    algorithm = document.get("model_algorithm")
    if algorithm is not None and not (isinstance(algorithm, str) and MODEL_ALGORITHM.fullmatch(algorithm)):
        raise _wrong("model_algorithm", "1 to 36 characters that start with a letter, none of &!'\"<>=", algorithm)
    if not isinstance(document.get("model_type", ""), str):
        raise _wrong("model_type", "a string", document["model_type"])
    health_url = _health(document.get("health"))
    apis = document.get("apis", [])
    if not isinstance(apis, list):
        raise _wrong("apis", "a list", apis)
    routes = tuple(_api(api, f"apis[{i}]", signature) for i, api in enumerate(apis)) or (("POST", "/"),)
    for i, (method, path) in enumerate(routes):
        if path == health_url:
            raise ConfigError(f"config.json: apis[{i}].url: {path} is the health check's url; expected another one")
        if (method, path) in routes[:i]:
            raise ConfigError(f"config.json: apis[{i}]: {method} {path} is declared twice")
    return Declared(routes, health_url)


def _health(health: Any) -> str:
    if health is None:
        return "/health"
    if not isinstance(health, dict):
        raise _wrong("health", "an object", health)
    url = health.get("url", "/health")
    if not isinstance(url, str) or not URL.fullmatch(url):
        raise _wrong("health.url", "a path such as /health", url)
    if str(health.get("protocol", "http")).lower() not in ("http", "https"):
        raise _wrong("health.protocol", "http or https", health["protocol"])
    for key in ("initial_delay_seconds", "timeout_seconds", "period_seconds", "failure_threshold"):
        value = health.get(key)
        if value is not None and not (isinstance(value, (str, int)) and str(value).isdigit()):
            raise _wrong(f"health.{key}", 'a number of seconds as a string, such as "12"', value)
    return url


def _api(api: Any, where: str, signature: Signature) -> tuple[str, str]:
    if not isinstance(api, dict):
        raise _wrong(where, "an object", api)
    url = api.get("url", "/")
    if not isinstance(url, str) or not URL.fullmatch(url):
        raise _wrong(f"{where}.url", "a path that starts with /, of letters, digits and -._~:", url)
    method = api.get("method", "post")
    if not isinstance(method, str) or method.upper() not in ("GET", "POST"):
        raise _wrong(f"{where}.method", "post or get", method)
    method = method.upper()
    if method == "GET" and any(isinstance(spec, (Image, File)) for spec in signature.inputs.values()):
        raise ConfigError(f"config.json: {where}.method: a GET cannot carry the inputs {', '.join(signature.inputs)}")
    request, content_type = _side(api, "request", where)
    data = _schema(request.get("data"), f"{where}.request.data")
    if content_type == FORM_TYPE:
        _check_form(data, f"{where}.request.data", signature)
    elif not _takes_any_json(signature):
        _check_names(data, f"{where}.request.data", signature.inputs, WRAPPERS, "input", all_needed=True)
    response, _ = _side(api, "response", where)
    data = _schema(response.get("data"), f"{where}.response.data")
    _check_names(data, f"{where}.response.data", signature.outputs, RESPONSE_WRAPPERS, "output")
    return method, url


def _side(api: Mapping[str, Any], side: str, where: str) -> tuple[Mapping[str, Any], str]:
    value = api.get(side, {})
    if not isinstance(value, dict):
        raise _wrong(f"{where}.{side}", "an object", value)
    content_type = next((value[key] for key in value if key.lower() == "content-type"), JSON_TYPE)
    plain = content_type.split(";")[0].strip().lower() if isinstance(content_type, str) else ""
    if plain == "applicaton/json":  # so misspelt in the vendor's samples
        plain = JSON_TYPE
    allowed = (JSON_TYPE, FORM_TYPE) if side == "request" else None
    if allowed is not None and plain not in allowed:
        raise _wrong(f"{where}.{side}.Content-type", " or ".join(allowed), content_type)
    return value, plain


def _schema(data: Any, where: str) -> Mapping[str, Any]:
    """The schema as an object; older files hold it as text."""
    if data is None:
        return {}
    if isinstance(data, str):
        try:
            data = json.loads(data)
        except (ValueError, RecursionError) as error:
            raise ConfigError(f"config.json: {where}: expected a JSON schema, got an error: {error}") from error
    if not isinstance(data, dict):
        raise _wrong(where, "an object", data)
    return data


def _check_form(data: Mapping[str, Any], where: str, signature: Signature) -> None:
    properties = _properties(data, where)
    for name, schema in properties.items():
        at = f"{where}.properties.{name}"
        is_file = isinstance(schema, dict) and schema.get("type") == "file"
        spec = signature.inputs.get(name)
        if spec is None:
            if is_file:
                raise ConfigError(
                    f"config.json: {at}: the predictor has no input {name}, only {_list(signature.inputs)}"
                )
        elif isinstance(spec, (Image, File)) and not is_file:
            raise ConfigError(f'config.json: {at}.type: expected "file", since the input is {spec}')
    missing = [name for name in signature.inputs if name not in properties]
    # A nested object (batch services map CSV rows to JSON under this type) says nothing of form fields.
    if properties and missing and not WRAPPERS & set(properties):
        raise ConfigError(f"config.json: {where}.properties: expected {_list(signature.inputs)}, got no {missing[0]}")


def _takes_any_json(signature: Signature) -> bool:
    """A single Json input is the whole document, or a whole row: its keys are the predictor's own."""
    only = signature.only_input
    return only is not None and isinstance(only[1], Json)


def _check_names(
    data: Mapping[str, Any],
    where: str,
    known: Mapping[str, Any],
    wrappers: frozenset[str],
    kind: str,
    *,
    all_needed: bool = False,
) -> None:
    properties = _properties(data, where)
    for name, schema in properties.items():
        at = f"{where}.properties.{name}"
        if name in wrappers and name not in known:
            # What lies in meta is the caller's own; it is only echoed.
            if isinstance(schema, dict) and name != "meta":
                inner = _row(schema)
                _check_names(inner, at, known, wrappers, kind, all_needed=all_needed)
        elif name not in known:
            raise ConfigError(f"config.json: {at}: the predictor has no {kind} {name}, only {_list(known)}")
    missing = [name for name in known if name not in properties]
    if all_needed and missing and len(missing) < len(known):
        raise ConfigError(f"config.json: {where}.properties: expected {_list(known)}, got no {missing[0]}")


def _row(schema: Mapping[str, Any]) -> Mapping[str, Any]:
    """The schema of one row of an array; `items` is a one-element list in the vendor's dialect, sometimes `item`."""
    items = schema.get("items", schema.get("item"))
    if isinstance(items, list):
        items = items[0] if items else None
    return items if isinstance(items, dict) else schema


def _properties(data: Mapping[str, Any], where: str) -> Mapping[str, Any]:
    properties = data.get("properties", {})
    if not isinstance(properties, dict):
        raise _wrong(f"{where}.properties", "an object", properties)
    return properties


def _list(names: Mapping[str, Any]) -> str:
    return ", ".join(names)


def _wrong(where: str, expected: str, got: Any) -> ConfigError:
    shown = json.dumps(got)
    shown = shown if len(shown) <= 80 else shown[:80] + "..."
    return ConfigError(f"config.json: {where + ': ' if where else ''}expected {expected}, got {shown}")
