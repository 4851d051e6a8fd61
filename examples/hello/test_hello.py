"""The hello example on its three platforms."""

from __future__ import annotations

import json
from pathlib import Path

from servekit.testing import Client

HERE = Path(__file__).parent
SAMPLE = (HERE / "sample.txt").read_bytes()
EXPECTED = {"prediction": "a", "text": "hello world"}


def test_sagemaker() -> None:
    with Client(HERE, platform="sagemaker") as client:
        curl = {"Content-Type": "application/x-www-form-urlencoded"}  # what curl says of --data
        assert client.post("/invocations", content=SAMPLE, headers=curl).json() == EXPECTED
        assert client.post("/invocations", json={"instances": ["hello world"]}).json() == {"predictions": [EXPECTED]}


def test_modelarts() -> None:
    with Client(HERE, platform="modelarts") as client:
        assert client.post("/", json={"req_data": [{"text": "hello world"}]}).json() == {"resp_data": [EXPECTED]}


def test_modzy(tmp_path: Path) -> None:
    (tmp_path / "text.txt").write_bytes(SAMPLE)
    with Client(HERE, platform="modzy") as client:
        job = {"type": "file", "input": str(tmp_path), "output": str(tmp_path)}
        assert client.post("/run", json=job).status_code == 200
    assert json.loads((tmp_path / "results.json").read_bytes())["data"]["result"] == EXPECTED
