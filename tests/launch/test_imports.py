"""What a start does not pay for: a worker imports what its run needs, and nothing else."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

WORKER = "import servekit.launch.uvicorn_worker, servekit.launch.service, servekit.backends.onnx"
MASTER = "import servekit.launch.gunicorn, servekit.launch.logs, servekit.launch.platforms, servekit.cli.run"
SERVES = (
    "from servekit.testing import Client; "
    f"client = Client({str(Path(__file__).parents[1] / 'contract' / 'predictors.py') + ':Sum'!r}, platform='sagemaker'); "
    "client.__enter__(); "
    "assert client.get('/ping').status_code == 200; "
    "assert client.post('/invocations', json={'instances': [[1, 2, 3, 4]]}).status_code == 200"
)


@pytest.mark.parametrize(
    ("code", "left_out"),
    [
        (WORKER, ("fastapi", "starlette", "pydantic", "prometheus_client", "gevent", "yaml", "PIL")),
        (
            MASTER,
            ("numpy", "onnxruntime", "uvicorn", "fastapi", "starlette", "gevent", "prometheus_client", "pydantic"),
        ),
        (SERVES, ("fastapi", "starlette", "pydantic", "prometheus_client", "gevent", "onnxruntime", "PIL")),
    ],
    ids=["worker", "master", "a request"],
)
def test_heavy_modules_wait_until_somebody_needs_them(code: str, left_out: tuple[str, ...]) -> None:
    program = f"import sys\n{code}\nprint([name for name in {left_out!r} if name in sys.modules])"
    ran = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60, check=False)
    assert ran.returncode == 0, ran.stderr
    assert ran.stdout.strip() == "[]"
