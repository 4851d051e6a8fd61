"""A variable of a script that is not set, and numbers that are none: no command takes them for what they are not."""

from __future__ import annotations

import subprocess

import pytest
from serving import script


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["emulate", "modelarts", "--port", "0", "--state", ""], "'--state': expected a path, got ''"),
        (["emulate", "modelarts", "--port", "0", "--advance-s", "nan"], "--advance-s: expected a number, got nan"),
        (["emulate", "modzy", "--port", "0", "--container", ""], "--container: expected a value, got ''"),
        (["emulate", "sagemaker", "--port", "0", "--container", ""], "--container: expected a value, got ''"),
        (["emulate", "sagemaker-transform", "--input", "", "--output", "out"], "'--input': expected a path, got ''"),
        (["emulate", "modelarts-batch", "--input", "in", "--output", ""], "'--output': expected a path, got ''"),
        (["parity", "", "--samples", "s"], "TARGET: expected a value, got ''"),
        (["parity", "x", "--samples", "s", "--tolerance", "nan"], "--tolerance: expected a number, got nan"),
        (["bench", "x", "--html", ""], "--html: expected a value, got ''"),
        (["bench", "x", "--seconds", "nan"], "--seconds: expected a number, got nan"),
        (["publish", "modzy", "", "--model-name", "m"], "IMAGE|TAR: expected a value, got ''"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_no_command_takes_nothing_for_a_value(arguments: list[str], says: str) -> None:
    ended = subprocess.run([script("servekit"), *arguments], capture_output=True, text=True, timeout=60)
    assert ended.returncode == 2
    assert says in ended.stderr
    assert "Traceback" not in ended.stderr
