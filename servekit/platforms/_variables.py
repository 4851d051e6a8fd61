"""Reading the variables that platforms set."""

from __future__ import annotations


def whole(text: str) -> int:
    """A whole number >= 0. Raises ValueError with what was expected."""
    plain = text.strip()
    if not (plain.isascii() and plain.isdigit()) or len(plain) > 18:
        raise ValueError("expected a whole number")
    return int(plain)


def seconds(text: str) -> float:
    """A number of seconds. Raises ValueError with what was expected."""
    try:
        return float(text)
    except ValueError:
        raise ValueError("expected a number of seconds") from None
