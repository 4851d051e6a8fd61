"""From model.yaml to what the version is told, and what is refused before the platform hears of it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

from servekit.errors import ConfigError
from servekit.publish import files
from servekit.publish.modzy import metadata
from servekit.publish.modzy.objects import Requirement

GIBIBYTE = 1024**3
# As the vendor's model template has it.
TEMPLATE: dict[str, Any] = {
    "specification": "0.3",
    "type": "file",
    "source": "bah",
    "version": "2.1.0",
    "name": "Example",
    "author": "Nobody",
    "description": {"summary": "Short.", "details": "Long.", "technical": "How.", "performance": "How well."},
    "releaseNotes": "First.",
    "tags": ["computer vision", 7, None],
    "metrics": [{"label": "Accuracy", "type": "Accuracy", "value": 0.91, "description": "Of the test set"}],
    "inputs": {
        "input.txt": {"acceptedMediaTypes": ["text/plain", "text/csv"], "maxSize": "1M", "description": "A text"}
    },
    "outputs": {"results.json": {"mediaType": "application/json", "maxSize": "128Ki", "description": "The result"}},
    "resources": {"memory": {"size": "512M"}, "cpu": {"count": 1.5}, "gpu": {"count": 0}},
    "timeout": {"status": "20s", "run": "1.5m"},
    "internal": {"recommended": False, "experimental": False, "available": True},
}
SMALL = Requirement(1, 1, GIBIBYTE, 0)
LARGE = Requirement(3, 8, 16 * GIBIBYTE, 0)
GPU = Requirement(-6, 4, 16 * GIBIBYTE, 1)
ARM = Requirement(-99, 2, 2 * GIBIBYTE, 0)


def of(**changed: Any) -> metadata.Metadata:
    return metadata.of_body(yaml.safe_dump(TEMPLATE | changed).encode())


def test_every_block_of_the_template_arrives() -> None:
    found = of()
    assert found.document == {
        "inputs": [
            {"name": "input.txt", "acceptedMediaTypes": "text/plain,text/csv", "maximumSize": 1_000_000,
             "description": "A text"},
        ],
        "outputs": [
            {"name": "results.json", "mediaType": "application/json", "maximumSize": 131_072,
             "description": "The result"},
        ],
        "statistics": [{"label": "Accuracy", "type": "Accuracy", "value": 0.91, "description": "Of the test set"}],
        "processing": {"minimumParallelCapacity": 0, "maximumParallelCapacity": 1},
        "longDescription": "Long.",
        "technicalDetails": "How.",
        "performanceSummary": "How well.",
    }  # fmt: skip
    assert (found.version, found.summary, found.release_notes) == ("2.1.0", "Short.", "First.")
    assert found.tags == ("computer vision", "7")
    assert (found.status_timeout_s, found.run_timeout_s) == (20, 90)
    assert (found.cpus, found.memory_bytes, found.gpus) == (1.5, 512_000_000, 0)
    assert found.inputs == {"input.txt": 1_000_000}


def test_a_short_one_gets_the_sizes_and_times_of_the_vendors_client() -> None:
    found = metadata.of_body(b"inputs: {image: {}}\noutputs: {results.json: }\n")
    assert found.document["inputs"][0] == {
        "name": "image", "acceptedMediaTypes": "", "maximumSize": 1_000_000, "description": "",
    }  # fmt: skip
    assert found.document["outputs"][0]["maximumSize"] == 1_000_000
    assert (found.version, found.run_timeout_s, found.cpus, found.memory_bytes) == ("", 60, None, None)


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"inputs": {}}, "inputs: expected at least one file"),
        ({"outputs": None}, "outputs: expected at least one file"),
        ({"inputs": {"../x": {}}}, "inputs: expected file names without a path"),
        ({"outputs": {"results.json": {"maxSize": "big"}}}, "outputs.results.json.maxSize: expected a size"),
        ({"description": "text"}, "description: expected a mapping, got 'text'"),
        ({"description": {"details": []}}, "description.details: expected text"),
        ({"releaseNotes": True}, "releaseNotes: expected text, got True"),
        ({"tags": "a, b"}, "tags: expected a list"),
        ({"metrics": {}}, "metrics: expected a list"),
        ({"metrics": [1]}, "metrics.0: expected a mapping"),
        ({"metrics": [{"value": "high"}]}, "metrics.0.value: expected a number, got 'high'"),
        ({"resources": {"cpu": {"count": "two"}}}, "resources.cpu.count: expected a number from 0"),
        ({"resources": {"gpu": {"count": -1}}}, "resources.gpu.count: expected a number from 0"),
        ({"resources": {"memory": {"size": "lots"}}}, "resources.memory.size: expected a size"),
        ({"resources": {"memory": "512M"}}, "resources.memory: expected a mapping"),
        ({"timeout": {"run": "soon"}}, 'timeout.run: expected a time such as "60s"'),
        ({"timeout": {"status": 0}}, "timeout.status: expected a time"),
        ({"timeout": {"status": "2000h"}}, "timeout.status: expected a time"),
    ],
)
def test_what_is_wrong_is_named(changed: dict[str, Any], said: str) -> None:
    with pytest.raises(ConfigError) as caught:
        of(**changed)
    assert said in caught.value.message


@pytest.mark.parametrize("text", ["20s", "20", 20, "20000ms"])
def test_times_have_several_units(text: Any) -> None:
    assert of(timeout={"status": text}).status_timeout_s == 20


@pytest.mark.parametrize(
    ("resources", "offered", "identifier"),
    [
        ({"cpu": {"count": 1}, "memory": {"size": "512M"}}, [LARGE, ARM, GPU, SMALL], 1),
        ({"cpu": {"count": 1}, "memory": {"size": "2G"}}, [SMALL, ARM, GPU, LARGE], 3),
        ({"cpu": {"count": 2}, "gpu": {"count": 1}}, [SMALL, LARGE, GPU], -6),
        ({"gpu": {"count": 1}}, [SMALL], -6),
        ({"cpu": {"count": 4}}, [], 1),
        ({"cpu": {"count": 4}}, [Requirement(5, None, None)], 1),
        ({}, [LARGE], 1),
    ],
)
def test_the_machine_is_the_smallest_with_room(
    resources: dict[str, Any], offered: list[Requirement], identifier: int
) -> None:
    assert metadata.chosen(of(resources=resources), offered) == identifier


def test_where_no_machine_has_room_those_on_offer_are_named() -> None:
    with pytest.raises(ConfigError) as caught:
        metadata.chosen(of(resources={"cpu": {"count": 64}, "memory": {"size": "1Gi"}}), [SMALL, LARGE])
    assert "got 64 CPU, 1.0 GiB; on offer are 1 (1 CPU, 1.0 GiB); 3 (8 CPU, 16.0 GiB)" in caught.value.message
    assert "--requirement" in caught.value.message


@pytest.mark.parametrize("text", ["1.2.0", "0.0.1", "10.20.30"])
def test_good_versions(text: str) -> None:
    assert metadata.check_version(text, "--version") == text


@pytest.mark.parametrize("text", ["1.2", "v1.2.0", "1.02.0", "1.2.0-rc1", "", "1.2.0/../..", "1.2.0\n", "٣.1.0"])
def test_bad_versions(text: str) -> None:
    with pytest.raises(ConfigError, match="--version: expected three integers"):
        metadata.check_version(text, "--version")


# --- where it comes from ---

PREDICTOR = """
from servekit import Predictor, Tensor

class Mean(Predictor):
    inputs = {"x": Tensor("float32", (4,))}
    outputs = {"mean": Tensor("float32", ())}

    def predict(self, x):
        return x.mean(axis=1)
"""


@pytest.fixture
def project(tmp_path: Path) -> Path:
    (tmp_path / "requirements.txt").write_text("")
    (tmp_path / "predictor.py").write_text(PREDICTOR)
    return tmp_path


def test_a_project_without_a_model_yaml_has_the_one_that_build_would_write(project: Path) -> None:
    (project / "pyproject.toml").write_text('[project]\nname = "mean"\nversion = "1.2"\ndescription = "The mean"\n')
    found = metadata.of_target(None, project)
    assert list(found.inputs) == ["x.json"]
    assert (found.version, found.summary) == ("1.2.0", "The mean")


def test_the_projects_own_model_yaml_wins(project: Path) -> None:
    (project / "model.yaml").write_text(yaml.safe_dump(TEMPLATE))
    assert metadata.of_target(None, project).version == "2.1.0"


def test_a_context_that_build_wrote_is_a_target(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    context = tmp_path / "context"
    (context / "project/model").mkdir(parents=True)
    (context / "Dockerfile").write_text("FROM scratch\n")
    with pytest.raises(ConfigError, match=r"expected a context with one model\.yaml, got none"):
        metadata.of_target("context", tmp_path)
    (context / "project/model/model.yaml").write_text(yaml.safe_dump(TEMPLATE))
    assert metadata.of_target("context", tmp_path).version == "2.1.0"
    (context / "project/model.yaml").write_text(yaml.safe_dump(TEMPLATE | {"version": "3.0.0"}))
    assert metadata.of_target("context", tmp_path).version == "3.0.0"


def test_a_file_that_is_too_long_or_missing_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="No such file"):
        metadata.of_file(tmp_path / "model.yaml")
    (tmp_path / "model.yaml").write_bytes(b"#" * (files.MAX_BYTES + 1))
    with pytest.raises(ConfigError, match="expected at most 1048576 bytes"):
        metadata.of_file(tmp_path / "model.yaml")
