from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from servekit.contract import DrainBudget, Platform, Reply
from servekit.errors import ConfigError
from servekit.launch.platforms import installed
from servekit.launch.settings import OPTIONS, Settings, resolve


def platform(name: str, **values: Any) -> Platform:
    return Platform(
        name=name,
        routes=lambda _site: (),
        render_error=lambda error, _request: Reply(error.status),
        **({"drain": DrainBudget(8, 18, 2, 30)} | values),
    )


def doubled(text: str) -> int:
    return int(text) * 2


KNOWN = {
    "alpha": platform(
        "alpha",
        detect=("ALPHA_*",),
        variables={"port": (("ALPHA_PORT", int), ("ALPHA_OLD_PORT", int)), "max_body_bytes": (("ALPHA_MAX", doubled),)},
    ),
    "beta": platform(
        "beta",
        detect=("BETA_HOME",),
        variables={"port": (("BETA_PORT", int),)},
        drain=DrainBudget(60, 28, 2, 90),
        default_workers=1,
        survives_failed_load=True,
    ),
}


@pytest.fixture
def target(tmp_path: Path) -> Path:
    path = tmp_path / "code" / "predictor.py"
    path.parent.mkdir()
    path.write_text("from servekit import Predictor\nclass P(Predictor): ...\n")
    return path


def settings(target: Path, environ: Mapping[str, str] | None = None, **flags: str) -> Settings:
    return resolve({"target": str(target), **flags}, environ or {}, KNOWN, target.parent.parent)


@pytest.mark.parametrize(
    ("flags", "environ", "value", "origin"),
    [
        ({}, {}, 8080, "default"),
        ({}, {"ALPHA_PORT": "1"}, 1, "ALPHA_PORT"),
        ({}, {"ALPHA_OLD_PORT": "2"}, 2, "ALPHA_OLD_PORT"),
        ({}, {"ALPHA_PORT": "1", "ALPHA_OLD_PORT": "2"}, 1, "ALPHA_PORT"),
        ({}, {"ALPHA_PORT": "", "ALPHA_OLD_PORT": "2"}, 2, "ALPHA_OLD_PORT"),
        ({}, {"ALPHA_PORT": "1", "SERVEKIT_PORT": "3"}, 3, "SERVEKIT_PORT"),
        ({}, {"SERVEKIT_PORT": ""}, 8080, "default"),
        ({"port": "4"}, {"ALPHA_PORT": "1", "SERVEKIT_PORT": "3"}, 4, "--port"),
        ({}, {"BETA_PORT": "5"}, 8080, "default"),
    ],
)
def test_flag_beats_variable_beats_platform_beats_default(
    target: Path, flags: dict[str, str], environ: dict[str, str], value: int, origin: str
) -> None:
    chosen = settings(target, environ, platform="alpha", **flags)
    assert (chosen.port, chosen.origins["port"]) == (value, origin)
    assert f"port={value} ({origin})" in chosen.summary()


@pytest.mark.parametrize("option", OPTIONS, ids=lambda option: option.name)
def test_every_option_has_a_flag_a_variable_and_a_default_that_converts(target: Path, option: Any) -> None:
    assert option.flag == "--" + option.name.replace("_", "-")
    assert option.variable == "SERVEKIT_" + option.name.upper()
    if option.default is not None:
        text = {"platform": "alpha"}.get(option.name, option.default)
        assert settings(target, {option.variable: text}).origins[option.name] != "default"


@pytest.mark.parametrize(
    ("flags", "environ", "words"),
    [
        ({"port": "http"}, {}, ("port", "from 1 to 65535", "'http'", "--port")),
        ({"port": "0"}, {}, ("port", "'0'")),
        ({"port": "²"}, {}, ("port", "whole number")),
        ({}, {"SERVEKIT_WORKERS": "many"}, ("workers", "auto or a whole number", "'many'", "SERVEKIT_WORKERS")),
        ({}, {"ALPHA_PORT": "x"}, ("port", "ALPHA_PORT", "'x'")),
        ({"platform": "alpha"}, {"ALPHA_PORT": "70000"}, ("port", "from 1 to 65535", "ALPHA_PORT")),
        ({"worker": "sync"}, {}, ("worker", "uvicorn, gevent", "'sync'")),
        ({"docs": "maybe"}, {}, ("docs", "on or off")),
        ({"request_timeout_s": "nan"}, {}, ("request_timeout_s", "seconds")),
        ({"drain_s": "-1"}, {}, ("drain_s", "seconds")),
        ({"host": "two words"}, {}, ("host", "address")),
        ({"platform": "gamma"}, {}, ("platform", "alpha, beta, all or auto", "'gamma'", "--platform")),
        ({"model_dir": "nowhere"}, {}, ("model_dir", "directory", "'nowhere'", "--model-dir")),
        ({"drain_s": "29", "platform": "alpha"}, {}, ("29 s to linger", "1 s to finish", "= 32 s", "30 s")),
    ],
)
def test_a_refusal_names_the_option_the_source_and_what_was_expected(
    target: Path, flags: dict[str, str], environ: dict[str, str], words: tuple[str, ...]
) -> None:
    with pytest.raises(ConfigError) as caught:
        settings(target, environ, **flags)
    for word in words:
        assert word in caught.value.message
    assert "invalid literal" not in caught.value.message or "ALPHA_PORT" in caught.value.message


@pytest.mark.parametrize(
    ("environ", "chosen", "why"),
    [
        ({}, "all", "auto: no platform's variables are set"),
        ({"ALPHA_ANYTHING": "1"}, "alpha", "auto: ALPHA_ANYTHING is set"),
        ({"BETA_HOME": "/"}, "beta", "auto: BETA_HOME is set"),
        ({"BETA_HOMES": "/", "ALPHA": "1"}, "all", "auto: no platform's variables are set"),
        ({"BETA_HOME": ""}, "all", "auto: no platform's variables are set"),
        ({"ALPHA_X": "1", "BETA_HOME": "/", "SERVEKIT_PLATFORM": "beta"}, "beta", "SERVEKIT_PLATFORM"),
    ],
)
def test_auto_goes_by_the_platforms_own_variables(target: Path, environ: dict[str, str], chosen: str, why: str) -> None:
    found = settings(target, environ)
    assert (found.platform, found.origins["platform"]) == (chosen, why)


def test_auto_does_not_guess(target: Path) -> None:
    with pytest.raises(ConfigError, match="ALPHA_X says alpha, BETA_HOME says beta; pass --platform"):
        settings(target, {"ALPHA_X": "1", "BETA_HOME": "/"})


def test_all_takes_every_platforms_variables_and_fits_the_shortest_kill(target: Path) -> None:
    chosen = settings(target, {"BETA_PORT": "5"}, platform="all")
    assert chosen.platforms == ("alpha", "beta")
    assert chosen.port == 5
    assert chosen.drain == DrainBudget(8, 18, 2, 30)
    assert not chosen.survives_failed_load
    in_pod = {"KUBERNETES_SERVICE_HOST": "10.0.0.1"}
    assert settings(target, in_pod, platform="all").drain == DrainBudget(10, 18, 2, 30)
    assert settings(target, in_pod, platform="beta").drain == DrainBudget(60, 28, 2, 90), "which runs on it"


def test_workers(target: Path) -> None:
    assert settings(target, platform="beta").workers == 1
    assert settings(target, platform="beta", workers="3").workers == 3
    auto = settings(target, platform="alpha", workers="AUTO")
    assert 1 <= auto.workers <= 4
    assert "CPUs" in auto.origins["workers"]


def test_converted_platform_values(target: Path) -> None:
    assert settings(target, {"ALPHA_MAX": "500"}, platform="alpha").max_body_bytes == 1000


def test_unknown_variables_are_named(target: Path) -> None:
    environ = {"SERVEKIT_PROT": "1", "SERVEKIT_PORT": "2", "SERVEKIT_TARGET": "", "OTHER": "3"}
    assert settings(target, environ).unknown == ("SERVEKIT_PROT",)


def test_where_the_model_is(target: Path, tmp_path: Path) -> None:
    for name in ("flag", "variable", "vendor", "opt"):
        (tmp_path / name).mkdir()
    (tmp_path / "opt" / "weights").write_text("")
    vendor = replace(
        KNOWN["alpha"],
        variables={"model_dir": (("ALPHA_DIR", str),)},
        model_dirs=(str(tmp_path / "empty"), str(tmp_path / "opt")),
    )

    def model_dir(environ: dict[str, str], known: Platform = vendor, **flags: str | None) -> Path:
        return resolve(
            {"target": str(target), "platform": "alpha", **flags}, environ, {"alpha": known}, tmp_path
        ).model_dir

    everything = {"SERVEKIT_MODEL_DIR": "variable", "ALPHA_DIR": str(tmp_path / "vendor")}
    assert model_dir(everything, model_dir="flag") == tmp_path / "flag"
    assert model_dir(everything) == tmp_path / "variable"
    assert model_dir({"ALPHA_DIR": str(tmp_path / "vendor")}) == tmp_path / "vendor"
    assert model_dir({}) == tmp_path / "opt"
    assert model_dir({}, KNOWN["alpha"]) == target.parent
    # A platform's variable may name what is only there when there is model data.
    assert model_dir({"ALPHA_DIR": str(tmp_path / "absent")}) == target.parent


def test_where_the_target_comes_from(target: Path, tmp_path: Path) -> None:
    variable = resolve({"target": None}, {"SERVEKIT_TARGET": str(target)}, KNOWN, tmp_path)
    assert (variable.target.path, variable.origins["target"]) == (target, "SERVEKIT_TARGET")
    directory = resolve({"target": None, "model_dir": "code"}, {}, KNOWN, tmp_path)
    assert (directory.target.path, directory.origins["target"]) == (target, "model directory")
    with pytest.raises(ConfigError, match="no TARGET"):
        resolve({"target": None}, {}, KNOWN, tmp_path)


def test_the_built_in_platforms_come_through_the_entry_point(target: Path, tmp_path: Path) -> None:
    known = installed()
    assert {"sagemaker", "modelarts", "modzy"} <= set(known)
    chosen = resolve({"target": str(target)}, {"PSC_MODEL_PORT": "8081"}, known, tmp_path)
    assert (chosen.platform, chosen.port, chosen.workers) == ("modzy", 8081, 1)
    assert chosen.drain.linger_s == 0
    chosen = resolve({"target": str(target), "platform": "modelarts"}, {}, known, tmp_path)
    assert "drain=60+28+2s (modelarts)" in chosen.summary()


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        ({"request_timeout_s": "30", "finish_s": "10"}, r"30 s \(from --request-timeout-s\).*only 10 s.*--finish-s"),
        ({"max_bodies_bytes": "1000"}, r"max_bodies_bytes: expected at least max_body_bytes, which is 67108864"),
        ({"admin_port": "8080"}, r"admin_port: expected another port than 8080"),
        ({"image_formats": "png,svg"}, r"image_formats: expected some of png, jpeg.*'png,svg'"),
        ({"image_formats": ","}, r"image_formats: expected some of"),
    ],
)
def test_contradictions_are_refused(target: Path, flags: dict[str, str], said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        settings(target, **({"platform": "alpha"} | flags))


def test_a_keep_alive_shorter_than_the_platforms_is_refused(target: Path) -> None:
    known = {"gamma": platform("gamma", min_keep_alive_s=200.0)}
    chosen = {"target": str(target), "platform": "gamma", "keep_alive_s": "199"}
    with pytest.raises(ConfigError, match="at least 200 s, since gamma reuses idle connections"):
        resolve(chosen, {}, known, target.parent)
    assert resolve(chosen | {"keep_alive_s": "200"}, {}, known, target.parent).keep_alive_s == 200


def test_what_the_defaults_cannot_both_keep_is_no_contradiction(target: Path) -> None:
    assert settings(target, platform="alpha").request_timeout_s > settings(target, platform="alpha").drain.finish_s
    assert settings(target, platform="alpha", request_timeout_s="300").request_timeout_s == 300


def test_the_limits_of_bodies(target: Path) -> None:
    chosen = settings(target, platform="alpha", image_formats="JPEG, png", max_rows="7", max_body_bytes="400000000")
    assert chosen.body_limits.image_formats == ("JPEG", "PNG")
    assert chosen.body_limits.max_rows == 7
    assert chosen.max_bodies_bytes == 1_600_000_000
