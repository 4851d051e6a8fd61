"""A second port for what is not the platform's."""

from __future__ import annotations

from pathlib import Path

import httpx2
import pytest
from serving import free_port, serve

PREDICTORS = Path(__file__).parents[1] / "contract" / "predictors.py"
GOOD = {"instances": [[1, 2, 3, 4]]}


@pytest.mark.slow
@pytest.mark.parametrize("door", [(), ("--no-fast-lane",), ("--worker", "gevent")], ids=str)
def test_it_has_the_metrics_and_the_schema_to_itself(door: tuple[str, ...]) -> None:
    port = free_port()
    options = [*door, "--workers", "2", "--admin-port", str(port), "--docs", "on"]
    with serve(f"{PREDICTORS}:Sum", *options, platform="sagemaker") as server:
        admin = f"http://127.0.0.1:{port}"
        assert httpx2.post(f"{server.url}/invocations", json=GOOD).json() == {"predictions": [10.0]}
        assert "servekit_requests_total" in httpx2.get(f"{admin}/metrics").text
        for path in ("/metrics", "/docs", "/openapi.json"):
            assert httpx2.get(server.url + path).status_code == 404
        assert httpx2.post(f"{admin}/invocations", json=GOOD).status_code == 404
        assert httpx2.post(f"{admin}/metrics", content=b"x").status_code in (405, 413)
        if "gevent" not in door:
            assert "/invocations" in httpx2.get(f"{admin}/openapi.json").json()["paths"]
            assert httpx2.get(f"{admin}/docs").status_code == 200
        server.terminate()
        assert server.wait(30) == 0


def test_without_metrics_and_docs_it_has_nothing() -> None:
    port = free_port()
    options = ["--workers", "1", "--admin-port", str(port), "--no-metrics"]
    with serve(f"{PREDICTORS}:Sum", *options, platform="sagemaker"):
        assert httpx2.get(f"http://127.0.0.1:{port}/metrics").status_code == 404
