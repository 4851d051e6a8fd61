"""Credentials are used and never shown."""

from __future__ import annotations

import json
import os
import pty
import subprocess
import sys
from pathlib import Path

import pytest

from servekit.publish.failures import Refused
from servekit.publish.secrets import Secret, from_environment, from_prompt, hidden


def test_a_secret_shows_as_stars() -> None:
    secret = Secret("wJalrXUtnFEMI")
    for shown in (str(secret), repr(secret), f"{secret}", json.dumps({"key": secret}, default=str), repr([secret])):
        assert "wJalr" not in shown
        assert "***" in shown
    assert secret.reveal() == "wJalrXUtnFEMI"


def test_a_strangers_echo_is_masked_everywhere() -> None:
    Secret("echoed-secret-key")
    Secret("echoed-secret-key-and-more")
    error = Refused(
        "no such key echoed-secret-key-and-more", hint="not echoed-secret-key", code="echoed-secret-key",
        details="first\nechoed-secret-key",
    )  # fmt: skip
    assert "echoed" not in json.dumps(error.document())
    assert error.message == "no such key ***"
    assert error.details == "first\n***"


def test_in_other_spellings_it_is_masked_as_well() -> None:
    Secret('pass\n"word"/1')
    for shown in (repr('pass\n"word"/1'), json.dumps('pass\n"word"/1'), "https://x/pass%0A%22word%22%2F1"):
        assert "word" not in hidden(shown)
    assert hidden("proxy http://me:pass@word@proxy:3128") == "proxy http://***@proxy:3128"


def test_short_ones_do_not_mask_words() -> None:
    Secret("a")
    assert hidden("a banana") == "a banana"


def test_the_first_variable_that_is_set() -> None:
    assert from_environment(["A", "B"], {"A": " ", "B": " secret-of-b\n"}).reveal() == "secret-of-b"  # type: ignore[union-attr]
    assert from_environment(["A", "B"], {}) is None


def test_nobody_to_ask() -> None:
    assert from_prompt("key") is None or sys.stdin.isatty()


PROMPT = """
from servekit.publish.secrets import from_prompt
secret = from_prompt("API key")
print("asked", secret, len(secret.reveal()), flush=True)
"""


def test_a_person_types_it_and_nothing_is_echoed(tmp_path: Path) -> None:
    leader, follower = pty.openpty()
    process = subprocess.Popen(
        [sys.executable, "-c", PROMPT], stdin=follower, stdout=follower, stderr=follower, start_new_session=True,
        cwd=tmp_path,
    )  # fmt: skip
    os.close(follower)
    seen = b""
    try:
        while b"API key: " not in seen:
            seen += os.read(leader, 1024)
        os.write(leader, b"typed-secret\n")
        while b"asked" not in seen or not seen.endswith(b"\n"):
            seen += os.read(leader, 1024)
        assert process.wait(20) == 0
    finally:
        process.kill()
        process.wait()
        os.close(leader)
    assert b"typed-secret" not in seen
    assert b"asked *** 12" in seen


@pytest.mark.parametrize("text", ["\x1b[31mred\x1b[0m", "a\rb", "a\x00b", "line\u2028break"])
def test_a_strangers_text_cannot_move_the_cursor(text: str) -> None:
    message = Refused(text).message
    assert message.isprintable()
