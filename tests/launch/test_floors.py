"""A server on packages older than their last security fix does not start."""

from __future__ import annotations

from importlib import metadata

import pytest

from servekit.errors import ConfigError
from servekit.launch.floors import check_floors


def test_this_environment_is_new_enough() -> None:
    check_floors()


@pytest.mark.parametrize(
    ("requirement", "said"),
    [
        ("gunicorn>=999", rf"gunicorn: expected >=999, found {metadata.version('gunicorn')}"),
        ("no-such-package-of-ours>=1", "no-such-package-of-ours: expected >=1, found none"),
        ('gunicorn>=999; python_version > "3"', "gunicorn"),
        ('numpy>=999; extra == "fast"', "numpy: expected >=999"),
    ],
)
def test_what_is_too_old_or_missing_is_named(requirement: str, said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        check_floors(["click>=1", requirement])


@pytest.mark.parametrize(
    "requirement",
    [
        'gunicorn>=999; python_version < "3"',
        'pytest>=999; extra == "dev"',
        'no-such-package-of-ours>=1; extra == "fast"',
        "gunicorn",
    ],
)
def test_what_does_not_apply_is_not_asked_for(requirement: str) -> None:
    check_floors([requirement])
