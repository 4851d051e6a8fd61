"""The vendors' own clients, which live in an environment of their own: one of them pins packages that servekit cannot use.

`sh scripts/setup-clients` makes it; SERVEKIT_CLIENTS_PYTHON names another one.
"""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from serving import clean_environ

ROOT = Path(__file__).resolve().parents[2]
MAX_S = 90


def clients_python() -> Path | None:
    """The interpreter that imports the vendors' clients; None where there is none."""
    named = os.environ.get("SERVEKIT_CLIENTS_PYTHON", "")
    python = Path(named) if named else ROOT / ".venv-clients" / "bin" / "python"
    return python if python.exists() else None


needs_clients = pytest.mark.skipif(
    clients_python() is None,
    reason="the vendors' clients are not installed: sh scripts/setup-clients, or name a Python that has them in "
    "SERVEKIT_CLIENTS_PYTHON",
)


def run_client(script: str, *arguments: str, environ: Mapping[str, str] | None = None) -> Any:
    """What this program says in JSON on the last line of its output; it runs where the vendors' clients are."""
    python = clients_python()
    assert python is not None, "mark the test with needs_clients"
    done = subprocess.run(
        [python, "-W", "ignore", "-c", script, *arguments],
        env=clean_environ(environ), capture_output=True, text=True, timeout=MAX_S,
    )  # fmt: skip
    assert done.returncode == 0, f"{done.stdout}\n{done.stderr}"
    return json.loads(done.stdout.splitlines()[-1])
