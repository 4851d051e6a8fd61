"""The iris example: CSV, JSON rows, ModelArts' req_data, Modzy's files."""

from __future__ import annotations

import json
from pathlib import Path

from servekit.testing import Client

HERE = Path(__file__).parent
CSV = (HERE / "sample.csv").read_bytes()
SPECIES = ["setosa", "versicolor", "virginica"]


def test_sagemaker() -> None:
    with Client(HERE, platform="sagemaker") as client:
        headers = {"Content-Type": "text/csv", "Accept": "text/csv"}
        lines = client.post("/invocations", content=CSV, headers=headers).text.splitlines()
        assert [line.split(",")[0] for line in lines] == SPECIES
        assert all(0.5 < float(line.split(",")[1]) <= 1 for line in lines)

        header = b"petal_width,petal_length,sepal_width,sepal_length\n0.2,1.4,3.5,5.1\n"
        document = client.post("/invocations", content=header, headers={"Content-Type": "text/csv"}).json()
        assert [row["species"] for row in document["predictions"]] == ["setosa"]

        row = {"sepal_length": 6.7, "sepal_width": 3.1, "petal_length": 4.7, "petal_width": 1.5}
        document = client.post("/invocations", json={"instances": [row, row]}).json()
        assert [row["species"] for row in document["predictions"]] == ["versicolor"] * 2

        broken = client.post("/invocations", content=b"5.1,3.5,1.4\n", headers={"Content-Type": "text/csv"})
        assert (broken.status_code, broken.json()["message"]) == (400, "line 1: expected 4 values, got 3")


def test_modelarts() -> None:
    with Client(HERE, platform="modelarts") as client:
        request = json.loads((HERE / "sample.json").read_bytes())
        document = client.post("/", json=request).json()
        assert document["meta"] == request["meta"]
        assert [row["species"] for row in document["data"]["resp_data"]] == ["setosa", "virginica"]


def test_modzy(tmp_path: Path) -> None:
    values = {"sepal_length": 5.1, "sepal_width": 3.5, "petal_length": 1.4, "petal_width": 0.2}
    (tmp_path / "input.json").write_text(json.dumps(values))
    with Client(HERE, platform="modzy") as client:
        job = {"type": "file", "input": str(tmp_path), "output": str(tmp_path)}
        reply = client.post("/run", json=job)
        assert reply.status_code == 200, reply.text
    assert json.loads((tmp_path / "results.json").read_bytes())["data"]["result"]["species"] == "setosa"
