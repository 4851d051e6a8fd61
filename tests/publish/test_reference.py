"""References to images, as docker reads them."""

from __future__ import annotations

import pytest

from servekit.errors import ConfigError
from servekit.publish.reference import Reference, parse

DIGEST = "sha256:" + "0a" * 32


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("digits", Reference("", "", "digits")),
        ("digits:1.0.0", Reference("", "", "digits", "1.0.0")),
        ("team/digits:1", Reference("", "team", "digits", "1")),
        ("localhost/digits", Reference("localhost", "", "digits")),
        ("localhost:5000/a/b/digits:1", Reference("localhost:5000", "a/b", "digits", "1")),
        ("[::1]:5000/a/digits", Reference("[::1]:5000", "a", "digits")),
        (
            "swr.xxx.com/op_svc/pytorch_1_8:train-1.8.0",
            Reference("swr.xxx.com", "op_svc", "pytorch_1_8", "train-1.8.0"),
        ),
        (f"r.example.com/a/b@{DIGEST}", Reference("r.example.com", "a", "b", "", DIGEST)),
        (f"r.example.com/a/b:1@{DIGEST}", Reference("r.example.com", "a", "b", "1", DIGEST)),
    ],
)
def test_what_docker_takes(text: str, expected: Reference) -> None:
    assert parse(text) == expected
    assert str(parse(text)) == text


@pytest.mark.parametrize(
    ("text", "named"),
    [
        ("", "expected"),
        ("https://r.example.com/a:1", "without a scheme"),
        ("Digits", "'Digits'"),
        ("r.example.com/A/b:1", "'A'"),
        ("r.example.com//b", "''"),
        ("a:", "is no tag"),
        ("a:-1", "is no tag"),
        ("a:" + "1" * 129, "is no tag"),
        ("a@sha256:12", "is no sha256 digest"),
        ("-r.example.com/a", "no host of a registry"),
        ("r.example.com:port/a", "no host of a registry"),
        ("a/../b", "'..'"),
        ("a b", "'a b'"),
        ("a" * 2049, "2048"),
        ("." + "a" * 2000 + "./b", "no host"),
    ],
)
def test_what_it_does_not_take(text: str, named: str) -> None:
    with pytest.raises(ConfigError) as caught:
        parse(text, option="--image")
    assert caught.value.message.startswith("--image ")
    assert named in caught.value.message
    assert len(caught.value.message) < 2600
