"""application/json: the forms of a body, found by the keys it has."""

from __future__ import annotations

from typing import Any

import orjson

from servekit.codecs import quick, v2
from servekit.codecs.media import shown
from servekit.codecs.nouns import ITEM, Decoded, Form, Limits
from servekit.codecs.values import Where, check_rows, column_of, describe
from servekit.contract import Envelope, Infer
from servekit.errors import InvalidInput, TooLarge
from servekit.signature import Json, Signature, Tensor, Text

MISSING = object()
BYTE_ORDER_MARK = b"\xef\xbb\xbf"
# What Python takes for a list, an object or a text, though each may be three bytes of JSON.
OBJECT_BYTES = 64
# Shorter documents cannot cost much, and are not counted.
COUNTED_BYTES = 1024 * 1024


def parse(body: bytes | str) -> Any:
    """A JSON document (RFC 8259: no NaN, no Infinity). Raises InvalidInput that says where it breaks.

    A byte order mark before it is ignored, as RFC 8259 allows (8.1) and editors on Windows write it.
    """
    try:
        return orjson.loads(body.removeprefix(BYTE_ORDER_MARK) if isinstance(body, bytes) else body)
    except orjson.JSONDecodeError as error:
        raise InvalidInput(f"body: expected JSON, got an error: {error}", cause=error) from error


def check_objects(body: bytes | str, limits: Limits) -> None:
    """Raises TooLarge for a document of which Python would make more than `max_array_bytes` of lists and texts."""
    if len(body) < COUNTED_BYTES:
        return
    if isinstance(body, bytes):
        count = body.count(b"[") + body.count(b"{") + body.count(b'"') // 2
    else:
        count = body.count("[") + body.count("{") + body.count('"') // 2
    most = limits.max_array_bytes // OBJECT_BYTES
    if count > most:
        raise TooLarge(f"body: expected JSON of at most {most} lists, objects and texts, got {count}")


def may_hold_bools(body: bytes | str) -> bool:
    """Could the document hold true or false? numpy would read them as 1 and 0."""
    if isinstance(body, str):
        return "true" in body or "false" in body
    # A single byte is found many times as fast as a word.
    return (b"u" in body and b"true" in body) or (b"l" in body and b"false" in body)


def decode(call: Infer, body: bytes | str, signature: Signature, limits: Limits) -> Decoded:
    """The rows of a JSON body. Raises InvalidInput, TooLarge."""
    if isinstance(body, bytes):
        decoded = quick.decode(call, body, signature, limits)
        if decoded is not None:
            return decoded
    check_objects(body, limits)
    return decode_document(call, parse(body), signature, limits, bools=may_hold_bools(body))


def decode_document(call: Infer, document: Any, signature: Signature, limits: Limits, *, bools: bool) -> Decoded:
    """The rows of a parsed JSON body. Raises InvalidInput, TooLarge."""
    if isinstance(document, dict):
        if v2.is_request(document, signature) and any(envelope.rows_at == ("inputs",) for envelope in call.envelopes):
            return v2.decode(document, memoryview(b""), signature, limits, bools=bools)
        for envelope in call.envelopes:
            value = _dig(document, envelope.rows_at) if envelope.rows_at else MISSING
            if value is MISSING:
                continue
            decoded = _enveloped(document, value, envelope, signature, limits, bools=bools)
            if decoded is not None:
                return decoded
        if any(name in document for name in signature.inputs):
            return item(document, signature, limits, "body", bools=bools)
    elif isinstance(document, list):
        for envelope in call.envelopes:
            if not envelope.rows_at:
                return _rows(document, "body", Form("rows", envelope), signature, limits, bools=bools)
    only = signature.only_input
    scalar = not isinstance(document, (dict, list))
    if only and (isinstance(only[1], Json) or (scalar and isinstance(only[1], (Text, Tensor)))):
        column = column_of([document], only[1], lambda _: only[0], limits, may_hold_bools=bools)
        return Decoded(1, {only[0]: column}, ITEM)
    raise InvalidInput(f"body: expected {_forms(call, signature)}, got {_keys(document)}")


def item(document: Any, signature: Signature, limits: Limits, where: str, *, bools: bool = True) -> Decoded:
    """One item: an object of all inputs by name. Raises InvalidInput."""
    _check_names(document, signature, where)
    return Decoded(
        1,
        {
            name: column_of([document[name]], spec, _member(lambda _: where, name), limits, may_hold_bools=bools)
            for name, spec in signature.inputs.items()
        },
        ITEM,
    )


def rows(values: list[Any], where: Where, signature: Signature, limits: Limits, *, bools: bool) -> dict[str, Any]:
    """Columns from a list of rows: values when there is one input, objects by input name otherwise."""
    only = signature.only_input
    if only is not None:
        name, spec = only
        if not isinstance(spec, Json) and dict in set(map(type, values)):
            values = [_unwrap(value, name, spec) for value in values]
        return {name: column_of(values, spec, lambda i: f"{name} at {where(i)}", limits, may_hold_bools=bools)}
    for i, value in enumerate(values):
        _check_names(value, signature, where(i))
    return {
        name: column_of(
            [value[name] for value in values],
            spec,
            _member(where, name),
            limits,
            may_hold_bools=bools,
        )
        for name, spec in signature.inputs.items()
    }


def _member(where: Where, name: str) -> Where:
    return lambda i: f"{where(i)}.{name}"


def _element(path: str) -> Where:
    return lambda i: f"{path}[{i}]"


def _enveloped(
    document: Any, value: Any, envelope: Envelope, signature: Signature, limits: Limits, *, bools: bool
) -> Decoded | None:
    path = ".".join(envelope.rows_at)
    echo = {key: document[key] for key in envelope.echo if key in document}
    if not envelope.columns:
        if _is_one_item(document, envelope.rows_at[0], signature):
            return None
        return _rows(value, path, Form("rows", envelope, echo), signature, limits, bools=bools)
    named = isinstance(value, dict) and bool(value) and set(value) <= set(signature.inputs)
    if not named and envelope.rows_at[0] in signature.inputs:
        return None  # an input of that name: the body is one item
    return _columns(value, path, Form("columns", envelope, echo), signature, limits, bools=bools)


def _is_one_item(document: Any, key: str, signature: Signature) -> bool:
    """Is `key` an input beside all the others, and not the place of the rows?"""
    return len(signature.inputs) > 1 and key in signature.inputs and all(name in document for name in signature.inputs)


def _rows(value: Any, path: str, form: Form, signature: Signature, limits: Limits, *, bools: bool) -> Decoded:
    if not isinstance(value, list):
        raise InvalidInput(f"{path}: expected a list of rows, got {describe(value)}")
    check_rows(len(value), path, limits)
    columns = rows(value, _element(path), signature, limits, bools=bools)
    return Decoded(len(value), columns, form)


def _columns(value: Any, path: str, form: Form, signature: Signature, limits: Limits, *, bools: bool) -> Decoded:
    only = signature.only_input
    if only is not None and not isinstance(value, dict):
        value = {only[0]: value}
    _check_names(value, signature, path)
    lengths = {}
    for name in signature.inputs:
        if not isinstance(value[name], list):
            raise InvalidInput(f"{path}.{name}: expected a list of rows, got {describe(value[name])}")
        lengths[name] = len(value[name])
    count = next(iter(lengths.values()))
    if len(set(lengths.values())) > 1:
        got = ", ".join(f"{name} {length}" for name, length in lengths.items())
        raise InvalidInput(f"{path}: expected as many rows for every input, got {got}")
    check_rows(count, path, limits)
    columns = {
        name: column_of(
            value[name],
            spec,
            _element(f"{path}.{name}"),
            limits,
            may_hold_bools=bools,
        )
        for name, spec in signature.inputs.items()
    }
    return Decoded(count, columns, form)


def _check_names(value: Any, signature: Signature, where: str) -> None:
    if not isinstance(value, dict):
        raise InvalidInput(f"{where}: expected an object with {_names(signature)}, got {describe(value)}")
    for name, spec in signature.inputs.items():
        if name not in value:
            raise InvalidInput(f"{where}.{name}: expected {spec}, got nothing ({_keys(value)})")
    for name in value:
        if name not in signature.inputs:
            raise InvalidInput(f"{where}.{shown(name)}: unknown input, expected {_names(signature)}")


def _unwrap(value: Any, name: str, spec: object) -> Any:
    """`{"x": value}` means value; so does the `{"features": value}` of SageMaker's built-in algorithms."""
    if isinstance(value, dict) and len(value) == 1:
        if name in value:
            return value[name]
        if isinstance(spec, Tensor) and "features" in value:
            return value["features"]
    return value


def _dig(document: Any, path: tuple[str, ...]) -> Any:
    for key in path:
        if not isinstance(document, dict) or key not in document:
            return MISSING
        document = document[key]
    return document


def _names(signature: Signature) -> str:
    return ", ".join(signature.inputs)


def _keys(document: Any) -> str:
    if not isinstance(document, dict):
        return describe(document)
    return "an object with " + (", ".join(shown(key) for key in list(document)[:10]) or "no keys")


def _forms(call: Infer, signature: Signature) -> str:
    paths = [".".join(envelope.rows_at) for envelope in call.envelopes if envelope.rows_at]
    forms = [f"an object with {' or '.join(paths)}"] if paths else []
    if any(not envelope.rows_at for envelope in call.envelopes):
        forms.append("a list of rows")
    forms.append(f"an object with the inputs {_names(signature)}")
    return ", ".join(forms[:-1]) + (" or " if forms[:-1] else "") + forms[-1]
