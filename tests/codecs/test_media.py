"""Content-Type and Accept as RFC 9110 has them."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from servekit.codecs.media import best_match, charset_of, decode_text, parse_media_type, shown
from servekit.errors import InvalidInput, UnsupportedMediaType

OFFERED = ["application/json", "text/csv", "application/x-npy"]


@pytest.mark.parametrize(
    ("text", "kind", "parameters"),
    [
        ("text/csv", "text/csv", {}),
        ("Text/CSV; Charset=UTF-8", "text/csv", {"charset": "UTF-8"}),
        ('multipart/form-data; boundary="a b"', "multipart/form-data", {"boundary": "a b"}),
        ("application/json;charset=utf-8;profile=x", "application/json", {"charset": "utf-8", "profile": "x"}),
        ("", "", {}),
        ("nonsense", "nonsense", {}),
        (";", "", {}),
    ],
)
def test_parse(text: str, kind: str, parameters: dict[str, str]) -> None:
    assert parse_media_type(text) == (kind, parameters)


@given(st.text(max_size=80))
def test_parsing_never_raises(text: str) -> None:
    kind, parameters = parse_media_type(text)
    assert isinstance(kind, str)
    assert all(isinstance(value, str) for value in parameters.values())


@pytest.mark.parametrize(("name", "expected"), [("utf-8", "utf-8"), ("UTF8", "utf-8"), ("latin-1", "iso8859-1")])
def test_charsets(name: str, expected: str) -> None:
    assert charset_of({"charset": name}) == expected


@pytest.mark.parametrize(
    "name", ["klingon", "base64", "rot13", "zip", "", "a\0b", "idna", "punycode", "unicode_escape", "undefined"]
)
def test_charsets_that_are_none(name: str) -> None:
    with pytest.raises(UnsupportedMediaType, match="charset"):
        charset_of({"charset": name})


def test_text_is_decoded_without_its_mark() -> None:
    assert decode_text("\ufeffgrün".encode()) == "grün"
    with pytest.raises(InvalidInput, match="UTF-8"):
        decode_text(b"\xff")


@pytest.mark.parametrize(
    ("accept", "expected"),
    [
        ("", "application/json"),
        ("*/*", "application/json"),
        ("text/csv", "text/csv"),
        ("TEXT/CSV", "text/csv"),
        ("text/*", "text/csv"),
        ("application/*", "application/json"),
        ("application/x-npy, application/json", "application/x-npy"),
        ("application/x-npy;q=0.5, application/json", "application/json"),
        ("text/csv;q=0.9, application/json;q=0.1", "text/csv"),
        ("text/html, text/csv;q=0.1", "text/csv"),
        ("*/*;q=0.1, text/csv;q=0.2", "text/csv"),
        ("text/csv;q=0", None),
        ("text/csv;q=0, */*", "application/json"),
        ("application/json;q=0, */*", "text/csv"),
        ("text/*;q=0.3, text/csv;q=0.7, application/json;q=0.5", "text/csv"),
        ("text/html", None),
        ("application/json;q=banana", "application/json"),
        ("application/json;q=7", "application/json"),
        ("text/csv; header=present", "text/csv"),
        ('text/csv; note="a,b"; q=0, */*', "application/json"),
        ('text/csv; note="a, application/x-npy', "text/csv"),
        ("text/csv; Q=0, */*", "application/json"),
        ("application/*;q=0, */*;q=0.1", "text/csv"),
        ("application/json;q=nan", "application/json"),
        (", ,", "application/json"),
    ],
)
def test_accept(accept: str, expected: str | None) -> None:
    assert best_match(accept, OFFERED, "application/json") == expected


def test_the_default_answers_those_who_do_not_care() -> None:
    assert best_match("*/*", OFFERED, "text/csv") == "text/csv"


def test_an_accept_that_is_too_long() -> None:
    with pytest.raises(InvalidInput, match="at most 1024 characters, got 1025"):
        best_match("a" * 1025, OFFERED, "text/csv")


@given(st.text(max_size=60))
def test_negotiation_never_raises_on_short_headers(accept: str) -> None:
    assert best_match(accept, OFFERED, "application/json") in [*OFFERED, None]


def test_shown_is_safe_and_short() -> None:
    assert shown("a\r\nb") == "a\\r\\nb"
    assert len(shown("x" * 1000)) < 110
