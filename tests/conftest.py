"""How the suite is spread over several processes, file by file (scripts/test), and what all of it relies on."""

from __future__ import annotations

import signal

import pytest

# A shell that starts the suite in the background has it ignore Ctrl-C, which the commands that are tested inherit.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Files with slow tests go first: one that began last would keep its process busy while the others have ended."""
    if hasattr(config, "workerinput"):
        slow = {item.path for item in items if item.get_closest_marker("slow")}
        items.sort(key=lambda item: item.path not in slow)
