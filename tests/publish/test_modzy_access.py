"""Where the platform is, who asks, and who may pull the image: each place, its order, and what is wrong with it."""

from __future__ import annotations

import base64
import json
import sys
from pathlib import Path
from typing import Any

import pytest

from servekit.cli.modzy import _linked
from servekit.errors import ConfigError
from servekit.publish.failures import Unauthorised
from servekit.publish.modzy.client import connected
from servekit.publish.modzy.credentials import access, registry
from servekit.publish.reference import parse

URL = "https://modzy.example.com"
DIGEST = f"sha256:{'a' * 64}"
KEY, OTHER = "prefixof.example-body", "another1.example-body"


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A home folder of the test's, and none of the variables."""
    for name in ("SERVEKIT_MODZY_ENDPOINT", "MODZY_BASE_URL", "MODZY_API_KEY", "MODZY_TEAM_ID", "MODZY_TEAM_TOKEN",
                 "SERVEKIT_REGISTRY_USERNAME", "SERVEKIT_REGISTRY_PASSWORD"):  # fmt: skip
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / ".modzy").mkdir()
    return tmp_path


def profile(home: Path, text: str, name: str = "default") -> None:
    (home / f".modzy/{name}.yaml").write_text(text)


@pytest.mark.parametrize(
    ("endpoint", "whole"),
    [(URL, f"{URL}/api"), (f"{URL}/", f"{URL}/api"), (f"{URL}/api", f"{URL}/api"), (f"{URL}/api/", f"{URL}/api")],
)
def test_the_endpoint_is_the_platforms_or_its_apis(endpoint: str, whole: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MODZY_API_KEY", KEY)
    assert access(endpoint, "default", insecure_http=False).endpoint == whole


def test_an_option_beats_our_variable_which_beats_the_vendors_which_beats_its_file(
    home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def found(endpoint: str | None = None) -> str:
        return access(endpoint, "default", insecure_http=False).endpoint

    profile(home, f"base-url: https://file.example.com\napi-key: {KEY}\n")
    assert found() == "https://file.example.com/api"
    monkeypatch.setenv("MODZY_BASE_URL", "https://theirs.example.com/api")
    assert found() == "https://theirs.example.com/api"
    monkeypatch.setenv("SERVEKIT_MODZY_ENDPOINT", "https://ours.example.com")
    assert found() == "https://ours.example.com/api"
    assert found(URL) == f"{URL}/api"


def test_the_key_of_the_environment_beats_the_files_and_a_team_is_good_as_well(
    home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    profile(home, f"api-key: {OTHER}\n")
    assert access(URL, "default", insecure_http=False).headers() == {"Authorization": f"ApiKey {OTHER}"}
    profile(home, f"team-id: team1\nteam-token: {OTHER}\n", "team")
    assert access(URL, "team", insecure_http=False).headers() == {
        "Authorization": f"Bearer {OTHER}", "Modzy-Team-Id": "team1",
    }  # fmt: skip
    monkeypatch.setenv("MODZY_API_KEY", KEY)
    found = access(URL, "team", insecure_http=False)
    assert found.headers() == {"Authorization": f"ApiKey {KEY}"}
    assert KEY not in repr(found)


def test_without_a_key_and_somebody_to_ask_it_says_where_to_put_one() -> None:
    with pytest.raises(Unauthorised, match="no API key") as caught:
        access(URL, "default", insecure_http=False)
    assert "MODZY_API_KEY" in caught.value.hint


def test_a_file_of_the_current_folder_is_not_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    work = tmp_path / "work"
    work.mkdir()
    (work / ".env").write_text(f"MODZY_BASE_URL=https://elsewhere.example.com\nMODZY_API_KEY={KEY}\n")
    (work / "default.yaml").write_text(f"base-url: https://elsewhere.example.com\napi-key: {KEY}\n")
    monkeypatch.chdir(work)
    with pytest.raises(ConfigError, match="--endpoint: expected the address of your Modzy"):
        access(None, "default", insecure_http=False)


@pytest.mark.parametrize(
    ("text", "name", "said"),
    [
        (f"- api-key: {KEY}", "default", "expected YAML with base-url and api-key"),
        (f"api-key: [{KEY}", "default", "it is damaged"),
        ("", "../default", "--profile: expected letters"),
        ("", ".hidden", "--profile: expected letters"),
        ("", "none", "--profile 'none': expected a file"),
        ("api-key: 'two words'", "default", "expected the key as Modzy gives it"),
        ('api-key: "line\\nX-Evil: 1"', "default", "expected the key as Modzy gives it"),
        ("#" * 1_100_000, "default", "expected at most 1048576 bytes"),
    ],
)
def test_a_bad_file_or_profile_is_refused_without_its_content(home: Path, text: str, name: str, said: str) -> None:
    if text:
        profile(home, text)
    with pytest.raises(ConfigError) as caught:
        access(URL, name, insecure_http=False)
    assert said in caught.value.message
    assert KEY not in caught.value.message
    assert "Evil" not in caught.value.message


def test_plain_http_is_for_this_machine_unless_it_is_allowed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MODZY_API_KEY", KEY)
    monkeypatch.setenv("MODZY_BASE_URL", "http://modzy.example.com")
    with pytest.raises(ConfigError, match="MODZY_BASE_URL: expected https"):
        access(None, "default", insecure_http=False)
    assert access(None, "default", insecure_http=True).endpoint == "http://modzy.example.com/api"
    assert access("http://127.0.0.1:1", "default", insecure_http=False).endpoint == "http://127.0.0.1:1/api"


def test_without_the_extra_it_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MODZY_API_KEY", KEY)
    monkeypatch.setitem(sys.modules, "urllib3", None)
    with (
        pytest.raises(ConfigError, match="pip install") as caught,
        connected(access(URL, "default", insecure_http=False)),
    ):
        pass
    assert "servekit[modzy]" in caught.value.message


# --- the registry ---

IMAGE = parse("registry.example.com:5000/team/mean:1.0.0")
AUTH = base64.b64encode(b"somebody:example:password").decode()


def credentials(tmp_path: Path, document: Any, image: str = str(IMAGE)) -> tuple[str, str]:
    file = tmp_path / "credentials.json"
    file.write_text(document if isinstance(document, str) else json.dumps(document))
    found = registry(file, parse(image))
    assert found is not None
    assert "example" not in repr(found)
    return found.username, found.password.reveal()


@pytest.mark.parametrize(
    ("document", "image"),
    [
        ({"username": "somebody", "password": "example:password"}, str(IMAGE)),
        ({"auths": {"registry.example.com:5000": {"auth": AUTH}}}, str(IMAGE)),
        ({"auths": {"https://registry.example.com:5000": {"auth": AUTH}}}, str(IMAGE)),
        ({"auths": {"https://index.docker.io/v1/": {"auth": AUTH}}}, "team/mean:1"),
        ({"auths": {"docker.io": {"username": "somebody", "password": "example:password"}}}, "docker.io/team/mean:1"),
    ],
)
def test_credentials_of_a_registry_from_a_file(document: Any, image: str, tmp_path: Path) -> None:
    assert credentials(tmp_path, document, image) == ("somebody", "example:password")


@pytest.mark.parametrize(
    ("document", "said"),
    [
        ("username: somebody", "expected JSON with username and password"),
        ([], "expected a JSON object"),
        ({"username": "somebody"}, "expected a username and a password"),
        (
            {"auths": {"elsewhere.example.com": {"auth": AUTH}}},
            "expected credentials for registry.example.com:5000, got",
        ),
        ({"auths": {"registry.example.com:5000": {}}, "credsStore": "desktop"}, "they are in a credential store"),
        ({"auths": {"registry.example.com:5000": {"auth": "%"}}}, "expected USER:PASSWORD in base64"),
        ({"auths": {"registry.example.com:5000": {"auth": "c29tZWJvZHk="}}}, "expected a username and a password"),
    ],
)
def test_bad_credentials_of_a_registry(document: Any, said: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError) as caught:
        credentials(tmp_path, document)
    assert said in caught.value.message
    assert caught.value.message.startswith("--registry-credentials-file")


def test_credentials_of_a_registry_from_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    assert registry(None, IMAGE) is None
    monkeypatch.setenv("SERVEKIT_REGISTRY_USERNAME", "somebody")
    with pytest.raises(ConfigError, match="expected both"):
        registry(None, IMAGE)
    monkeypatch.setenv("SERVEKIT_REGISTRY_PASSWORD", "example:password")
    found = registry(None, IMAGE)
    assert found is not None
    assert (found.username, found.password.reveal()) == ("somebody", "example:password")


@pytest.mark.parametrize(
    ("image", "form", "url"),
    [
        ("r.example.com/team/x:1", "pull", "r.example.com/team/x:1"),
        # The tag may mean another image by now.
        (f"r.example.com/team/x:1@{DIGEST}", "pull", f"r.example.com/team/x@{DIGEST}"),
        (f"r.example.com/team/x@{DIGEST}", "pull", f"r.example.com/team/x@{DIGEST}"),
        (f"r.example.com/team/x:1@{DIGEST}", "manifest", f"https://r.example.com/v2/team/x/manifests/{DIGEST}"),
        ("x:1", "manifest", "https://registry.hub.docker.com/v2/library/x/manifests/1"),
    ],
)
def test_how_the_platform_is_told_the_image(image: str, form: str, url: str) -> None:
    assert _linked(image, {"registry_credentials_file": None, "registry_form": form}).url == url
