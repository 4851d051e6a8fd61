"""What is sent for models and services, and what is refused before."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from servekit.errors import ConfigError
from servekit.publish.modelarts import models, services
from servekit.publish.modelarts.models import ModelRequest
from servekit.publish.modelarts.services import Service1, Service2

PATH = "swr.cn-north-4.myhuaweicloud.com/team/digits:1.0.0"
CONFIG = json.dumps({"model_type": "Image", "apis": []})


def test_a_model_sends_config_json_as_text() -> None:
    request = ModelRequest("digits", "1.2.3", PATH, CONFIG, description="Digits", workspace_id="0")
    request.check()
    assert request.document() == {
        "model_name": "digits", "model_version": "1.2.3", "model_type": "Image", "source_location": PATH,
        "source_copy": "true", "install_type": ["real-time", "batch"], "initial_config": CONFIG,
        "description": "Digits", "workspace_id": "0",
    }  # fmt: skip


@pytest.mark.parametrize("version", ["0.0.1", "99.99.99", "1.0.10"])
def test_versions_that_are_good(version: str) -> None:
    ModelRequest("digits", version, PATH).check()


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ({"name": "a b"}, "model_name: expected"),
        ({"name": "x" * 65}, "model_name: expected"),
        ({"version": "1.0"}, "model_version: expected"),
        ({"version": "1.0.100"}, "model_version: expected"),
        ({"version": "01.0.0"}, "model_version: expected"),
        ({"swr_path": "digits:1"}, "swr_path: expected"),
        ({"description": "x" * 101}, "model description: expected at most 100"),
        ({"install_type": ["edges"]}, "install_type: expected"),
        ({"install_type": []}, "install_type: expected"),
        ({"config": "{"}, "config.json: expected JSON"),
        ({"config": "[]"}, "config.json: expected a JSON object"),
        ({"config": '{"dependencies": []}'}, "config.json: dependencies: this is for the vendor's own engines"),
        ({"config": '{"runtime": "python3.7"}'}, "config.json: runtime: this is for"),
    ],
)
def test_a_bad_model_is_refused(values: dict[str, Any], said: str) -> None:
    request = ModelRequest(**{"name": "digits", "version": "1.0.0", "swr_path": PATH, **values})
    with pytest.raises(ConfigError) as caught:
        request.check()
    assert said in caught.value.message


def test_config_json_of_a_context(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="expected a folder of `servekit build --output`"):
        models.config_of_context(tmp_path)
    folder = tmp_path / "project" / "model"
    folder.mkdir(parents=True)
    (folder / "config.json").write_text(CONFIG)
    assert models.config_of_context(tmp_path) == CONFIG
    (tmp_path / "project" / "config.json").write_text(CONFIG)
    with pytest.raises(ConfigError, match=r"expected one config\.json, got project/config\.json, project/model/config"):
        models.config_of_context(tmp_path)
    (tmp_path / "config.json").write_text('{"model_type": "Image"}')
    assert models.config_of_context(tmp_path) == '{"model_type": "Image"}'


@pytest.mark.parametrize("content", [b"\xff", b"[" * 100_000, b" " * 1024 * 1025])
def test_a_config_json_that_is_none(tmp_path: Path, content: bytes) -> None:
    file = tmp_path / "config.json"
    file.write_bytes(content)
    with pytest.raises(ConfigError, match=r"config\.json: expected"):
        models.read_config(file)


def test_a_service_of_a_model() -> None:
    request = Service1("digits", "m1", envs={"A": "b"}, pool="p1", timeout_minutes=30, workspace_id="0")
    request.check()
    assert request.document() == {
        "service_name": "digits",
        "infer_type": "real-time",
        "workspace_id": "0",
        "config": [
            {
                "model_id": "m1", "specification": "modelarts.vm.cpu.2u", "instance_count": 1, "weight": 100,
                "envs": {"A": "b"}, "pool_name": "p1", "deploy_timeout_in_seconds": 1800,
            }
        ],
    }  # fmt: skip
    custom = Service1("digits", "m1", "custom", cpu=2, memory_mb=4096, infer_type="batch").document()["config"][0]
    assert custom["custom_spec"] == {"cpu": 2, "memory": 4096}
    assert "weight" not in custom


def test_a_service_of_an_image() -> None:
    request = Service2("digits", PATH, cpu=2, memory_mb=4096, pool="p1", timeout_minutes=30)
    request.check()
    document = request.document()
    assert (document["type"], document["deploy_type"], document["deploy_timeout_minutes"]) == (
        "REAL_TIME",
        "SINGLE",
        30,
    )
    (group,) = document["group_configs"]
    (unit,) = group["unit_configs"]
    assert (group["pool_id"], group["weight"], group["count"]) == ("p1", 100, 1)
    assert unit["image"] == {"source": "SWR", "swr_path": PATH}
    assert unit["custom_spec"] == {"cpu": 2, "memory": 4096}
    assert unit["port"] == 8080
    for probe in ("startup_health", "readiness_health", "liveness_health"):
        assert (unit[probe]["check_method"], unit[probe]["url"]) == ("HTTP", "/health")
    # More than servekit takes to end.
    assert unit["termination_grace"]["termination_grace_period_seconds"] > 90
    assert document["runtime_config"] == {
        "service_invoke": {"port": 8080, "protocol": "HTTP", "auth_type": "TOKEN"},
        "service_limit": {
            "rate_limit": {"num": 100, "unit": "SECONDS"}, "request_size_limit": 12, "request_timeout": 60,
        },
    }  # fmt: skip
    assert "flavor" in Service2("digits", PATH, "small").document()["group_configs"][0]["unit_configs"][0]


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ({"name": "a/b"}, "service name: expected"),
        ({"instances": 0}, "--instances: expected"),
        ({"instances": 129}, "--instances: expected"),
        ({"flavor": ""}, "--flavor: expected"),
        ({"port": 0}, "port: expected 1 to 65535"),
        ({"protocol": "FTP"}, "protocol: expected"),
        ({"auth_type": "PASSWORD"}, "auth_type: expected"),
        ({"rate": 10_001}, "rate_limit: expected"),
        ({"request_mb": 51}, "request_size_limit: expected"),
        ({"request_s": 7201}, "request_timeout: expected"),
        ({"timeout_minutes": 2}, "--deploy-timeout-minutes: expected"),
        ({"envs": {"1A": "x"}}, "--env '1A': expected"),
        ({"envs": {"A": "a<b>c"}}, "--env A: expected a value without"),
        ({"swr_path": "digits"}, "swr_path: expected"),
    ],
)
def test_a_bad_service_is_refused(values: dict[str, Any], said: str) -> None:
    request = Service2(**{"name": "digits", "swr_path": PATH, "flavor": "small", **values})
    with pytest.raises(ConfigError) as caught:
        request.check()
    assert said in caught.value.message


def test_a_bad_service_of_a_model_is_refused() -> None:
    with pytest.raises(ConfigError, match="infer_type: expected"):
        Service1("digits", "m1", infer_type="edge").check()
    with pytest.raises(ConfigError, match="--flavor custom: expected --cpu and --memory-mb"):
        Service1("digits", "m1", "custom", cpu=1).check()


def test_both_generations_are_read_alike() -> None:
    first = services.read({"service_id": "a", "service_name": "n", "status": "deploying", "progress": 30,
                           "access_address": "https://a"})  # fmt: skip
    second = services.read({"id": "a", "name": "n", "status": "FAILED", "failure_reason": "no room",
                            "predict_url": [{"type": "INTERNET", "urls": ["https://a", "https://b"]}, {}, None]})  # fmt: skip
    assert (first.id, first.progress, first.urls) == ("a", 30, ("https://a",))
    assert (second.name, second.state, second.reason, second.urls) == (
        "n",
        "failed",
        "no room",
        ("https://a", "https://b"),
    )


def test_whose_service_it_is() -> None:
    assert Service1("n", "m1").is_of({"config": [{"model_id": "m1"}]})
    assert not Service1("n", "m1").is_of({"config": [{"model_id": "m2"}]})
    assert Service2("n", PATH).is_of({"version": {"units": [{"image": {"swr_path": PATH}}]}})
    assert not Service2("n", PATH).is_of({"version": {"units": [{"image": {"swr_path": f"{PATH}.1"}}]}})
    # Nothing is said about it.
    assert Service2("n", PATH).is_of({})
