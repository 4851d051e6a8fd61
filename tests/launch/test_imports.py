"""What a start does not pay for: a worker imports what its run needs, and nothing else."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import httpx2
import pytest
from serving import serve

from servekit.launch.cpus import usable_cpus

WORKER = "import servekit.launch.uvicorn_worker, servekit.launch.service, servekit.backends.onnx"
MASTER = (
    "import servekit.cli, servekit.launch.gunicorn, servekit.launch.logs; "
    "from servekit.launch.platforms import installed; installed()"
)
# Of no use before somebody asks for the schema or the metrics, sends a picture, or has a model.yaml.
NEVER = ("fastapi", "starlette", "pydantic", "prometheus_client", "gevent", "yaml", "PIL", "simplejpeg")
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
        (
            "import servekit",
            ("numpy", "click", "orjson", "multipart", "asyncio", "gunicorn", "importlib.metadata", "servekit.launch"),
        ),
        (WORKER, (*NEVER, "servekit.cli", "servekit.backends.sharing")),
        (MASTER, (*NEVER, "numpy", "onnxruntime", "uvicorn", "servekit.cli.inspect", "servekit.cli.optimize")),
        (SERVES, (*NEVER, "onnxruntime")),
    ],
    ids=["import servekit", "worker", "master", "a request"],
)
def test_heavy_modules_wait_until_somebody_needs_them(code: str, left_out: tuple[str, ...]) -> None:
    program = f"import sys\n{code}\nprint([name for name in {left_out!r} if name in sys.modules])"
    ran = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60, check=False)
    assert ran.returncode == 0, ran.stderr
    assert ran.stdout.strip() == "[]"


SEES = """
import gc, os, sys
from servekit import Json, Predictor

class Sees(Predictor):
    inputs = {"x": Json()}
    outputs = {"seen": Json()}
    def predict(self, x):
        threads = os.environ["OMP_NUM_THREADS"]
        return [[gc.isenabled(), gc.get_freeze_count() > 0, threads, sorted(sys.modules)]] * len(x)
"""


def seen(folder: Path, *arguments: str, platform: str, omp_num_threads: str) -> tuple[bool, bool, str, list[str]]:
    """What a predictor sees in a worker: does the collector run, is anything frozen, threads, modules."""
    predictor = folder / "predictor.py"
    predictor.write_text(SEES)
    environ = {"OMP_NUM_THREADS": omp_num_threads}
    with serve(str(predictor), *arguments, platform=platform, environ=environ) as server:
        reply = httpx2.post(f"{server.url}/invocations", json={"instances": [1]})
    [[collects, frozen, threads, modules]] = reply.json()["predictions"]
    return collects, frozen, threads, modules


@pytest.mark.parametrize("docs", ["on", "off"])
def test_a_server_of_all_platforms_serves_without_them(tmp_path: Path, docs: str) -> None:
    collects, frozen, threads, modules = seen(
        tmp_path, "--workers", "1", "--docs", docs, platform="all", omp_num_threads="3"
    )
    assert collects, "turned off for the imports only"
    assert frozen, "what the master imported is left alone"
    assert threads == "3", "the user's number beats ours"
    assert set(modules).isdisjoint((*NEVER, "onnxruntime", "servekit.http.metrics", "servekit.http.openapi"))


def test_libraries_use_as_many_threads_as_there_are_cpus_for_each_worker(tmp_path: Path) -> None:
    _, _, threads, _ = seen(tmp_path, "--workers", "2", platform="sagemaker", omp_num_threads="")
    assert threads == str(max(1, usable_cpus() // 2))
