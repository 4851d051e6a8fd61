"""Where credentials are found, what is asked for, and how a token is kept."""

from __future__ import annotations

import json
import stat
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from servekit.errors import ConfigError
from servekit.publish.failures import Unauthorised
from servekit.publish.modelarts import credentials, endpoints
from servekit.publish.modelarts.credentials import Login, Tokens
from servekit.publish.modelarts.signer import KeyPair
from servekit.publish.secrets import Secret

EVERYTHING = {
    "HUAWEICLOUD_SDK_AK": "key-of-sdk",
    "HUAWEICLOUD_SDK_SK": "secret-of-sdk",
    "OS_USERNAME": "ada",
    "OS_PASSWORD": "word-of-ada",
    "OS_USER_DOMAIN_NAME": "OTC-EU-DE-1",
    "OS_PROJECT_NAME": "eu-de_digits",
    "OS_AUTH_URL": "https://iam.eu-de.otc.t-systems.com:443/v3",
}


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("HOME", str(tmp_path))
    return tmp_path


@pytest.mark.parametrize(
    ("access", "secret", "token"),
    [
        ("HUAWEICLOUD_SDK_AK", "HUAWEICLOUD_SDK_SK", "HUAWEICLOUD_SDK_SECURITY_TOKEN"),
        ("HW_ACCESS_KEY", "HW_SECRET_KEY", "HW_SECURITY_TOKEN"),
        ("OS_ACCESS_KEY", "OS_SECRET_KEY", "OS_SECURITY_TOKEN"),
    ],
)
def test_a_key_pair_by_the_names_of_the_vendors_tools(access: str, secret: str, token: str) -> None:
    who = credentials.find(None, {access: "key", secret: "secret-key", token: "temporary"}).who
    assert isinstance(who, KeyPair)
    assert who.security_token is not None
    assert (who.access_key, who.secret_key.reveal(), who.security_token.reveal()) == ("key", "secret-key", "temporary")


def test_a_key_pair_comes_before_a_user_unless_asked_otherwise() -> None:
    assert isinstance(credentials.find(None, EVERYTHING).who, KeyPair)
    found = credentials.find("token", EVERYTHING)
    assert isinstance(found.who, Login)
    assert (found.who.user, found.who.domain, found.who.project) == ("ada", "OTC-EU-DE-1", "eu-de_digits")
    assert found.iam_endpoint == "https://iam.eu-de.otc.t-systems.com:443"


@pytest.mark.parametrize(
    ("environ", "said"),
    [
        ({}, "set HUAWEICLOUD_SDK_AK and HUAWEICLOUD_SDK_SK"),
        ({"HW_ACCESS_KEY": "key"}, "HW_ACCESS_KEY is set, and HUAWEICLOUD_SDK_SK is not"),
        ({"HUAWEICLOUD_SDK_SK": "secret-key"}, "HUAWEICLOUD_SDK_SK is set, and HUAWEICLOUD_SDK_AK is not"),
        ({"OS_USERNAME": "ada", "OS_USER_DOMAIN_NAME": "x"}, "IAM user ada: no password"),
        ({"OS_USERNAME": "ada", "OS_PASSWORD": "word-of-ada"}, "the account's name is not known"),
    ],
)
def test_what_is_missing_is_said(environ: dict[str, str], said: str) -> None:
    with pytest.raises(Unauthorised) as caught:
        credentials.find(None, environ)
    assert said in caught.value.message


def test_the_sdks_file(home: Path) -> None:
    folder = home / ".huaweicloud"
    folder.mkdir()
    text = "[basic]\nak = key-in-file\nsk = secret%in%file\nproject_id = 0123\niam_endpoint = https://iam.example.com\n"
    (folder / "credentials").write_text(text)
    found = credentials.find(None, {})
    assert isinstance(found.who, KeyPair)
    assert (found.who.access_key, found.who.secret_key.reveal()) == ("key-in-file", "secret%in%file")
    assert (found.project_id, found.iam_endpoint) == ("0123", "https://iam.example.com")
    assert isinstance(credentials.find(None, {"HUAWEICLOUD_SDK_AK": "a", "HUAWEICLOUD_SDK_SK": "b"}).who, KeyPair)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("secret-without-section", "expected an INI file"),
        ("[global]\nak = a\nsk = b\n", "expected a section [basic]"),
        ("[basic]\nak = a\n", "[basic]: expected ak and sk"),
        ("[basic]\nak = a\nak = secret-twice\n", "expected an INI file"),
    ],
)
def test_a_bad_file_is_told_without_its_content(home: Path, text: str, said: str) -> None:
    file = home / "mine"
    file.write_text(text)
    with pytest.raises(ConfigError) as caught:
        credentials.find(None, {"HUAWEICLOUD_SDK_CREDENTIALS_FILE": str(file)})
    assert said in caught.value.message
    assert "secret" not in caught.value.message


def test_a_named_file_that_is_not_there(home: Path) -> None:
    with pytest.raises(ConfigError, match="No such file"):
        credentials.find(None, {"HUAWEICLOUD_SDK_CREDENTIALS_FILE": str(home / "none")})


def test_clouds_yaml_with_its_secure_part(home: Path) -> None:
    folder = home / ".config" / "openstack"
    folder.mkdir(parents=True)
    (folder / "clouds.yaml").write_text(
        "clouds:\n  otc:\n    auth:\n      username: ada\n      user_domain_name: D\n      project_id: p1\n"
        "      auth_url: https://iam.eu-de.otc.t-systems.com/v3\n  keys:\n    ak: a1\n    sk: secret-of-a1\n"
    )
    (folder / "secure.yaml").write_text("clouds:\n  otc:\n    auth:\n      password: word-of-ada\n")
    found = credentials.find(None, {"OS_CLOUD": "otc"})
    assert isinstance(found.who, Login)
    assert (found.who.user, found.who.password.reveal()) == ("ada", "word-of-ada")
    assert (found.project_id, found.iam_endpoint) == ("p1", "https://iam.eu-de.otc.t-systems.com")
    keys = credentials.find(None, {"OS_CLOUD": "keys"}).who
    assert isinstance(keys, KeyPair)
    assert keys.access_key == "a1"
    with pytest.raises(ConfigError, match="has no such cloud"):
        credentials.find(None, {"OS_CLOUD": "other"})


def test_a_clouds_yaml_in_the_current_folder_is_not_read(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    here = home / "somebody-elses-repository"
    here.mkdir()
    (here / "clouds.yaml").write_text("clouds:\n  otc:\n    ak: a\n    sk: b\n    auth_url: https://example.com\n")
    monkeypatch.chdir(here)
    with pytest.raises(ConfigError, match="expected a file"):
        credentials.find(None, {"OS_CLOUD": "otc"})


# --- the cache of tokens ---


def tokens(cache: Path | None, iam: str = "https://iam.example.com", user: str = "ada") -> Tokens:
    return Tokens(Login(user, "D", Secret("word-of-ada")), iam, "eu-de", "p1", cache)


def kept(cache: Path, until: datetime) -> Tokens:
    asked = tokens(cache)
    asked._keep(Secret("token-of-ada"), until)
    return asked


def test_a_kept_token_is_found_again_and_only_by_the_same(tmp_path: Path) -> None:
    cache = tmp_path / "a" / "tokens"
    kept(cache, datetime.now(UTC) + timedelta(hours=20))
    (file,) = cache.iterdir()
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    assert stat.S_IMODE(cache.stat().st_mode) == 0o700
    assert "ada" not in file.name
    found = tokens(cache)._kept()
    assert found is not None
    assert found[0].reveal() == "token-of-ada"
    assert tokens(cache, iam="https://iam.example.org")._kept() is None
    assert tokens(cache, user="bob")._kept() is None


def test_a_token_that_ends_soon_is_not_used(tmp_path: Path) -> None:
    assert kept(tmp_path, datetime.now(UTC) + timedelta(minutes=9))._kept() is None


def test_a_file_that_others_can_read_is_not_used(tmp_path: Path) -> None:
    asked = kept(tmp_path, datetime.now(UTC) + timedelta(hours=20))
    (file,) = tmp_path.iterdir()
    file.chmod(0o640)
    assert asked._kept() is None


@pytest.mark.parametrize(
    "content", [b"", b"{", b"[]", b"{}", b'{"token": 7, "until": "2099-01-01T00:00:00+00:00"}', b"[" * 60_000,
                b'{"token": "a\\nb", "until": "2099-01-01T00:00:00+00:00"}', b'{"token": "abc", "until": "2099-01-01"}'],
)  # fmt: skip
def test_a_damaged_file_is_no_token(tmp_path: Path, content: bytes) -> None:
    asked = kept(tmp_path, datetime.now(UTC) + timedelta(hours=20))
    (file,) = tmp_path.iterdir()
    file.write_bytes(content)
    assert asked._kept() is None


def test_a_link_is_not_followed(tmp_path: Path) -> None:
    asked = kept(tmp_path / "tokens", datetime.now(UTC) + timedelta(hours=20))
    (file,) = (tmp_path / "tokens").iterdir()
    file.rename(tmp_path / "elsewhere")
    file.symlink_to(tmp_path / "elsewhere")
    assert asked._kept() is None


def test_a_renewed_token_is_forgotten(tmp_path: Path) -> None:
    asked = kept(tmp_path, datetime.now(UTC) + timedelta(hours=20))
    assert asked.renew()
    assert list(tmp_path.iterdir()) == []
    assert asked.renew()


def test_a_token_lasts_a_day_at_most() -> None:
    latest = datetime.now(UTC) + timedelta(hours=24, seconds=1)
    assert credentials._expiry({"token": {"expires_at": "2099-01-01T00:00:00.000000Z"}}) < latest
    assert credentials._expiry({"token": {}}) < latest
    soon = datetime.now(UTC) + timedelta(hours=1)
    assert credentials._expiry({"token": {"expires_at": soon.isoformat()}}) == soon


def test_a_token_is_not_shown(tmp_path: Path) -> None:
    asked = kept(tmp_path, datetime.now(UTC) + timedelta(hours=20))
    assert asked._current().reveal() == "token-of-ada"
    assert "token-of-ada" not in repr(asked)
    assert "word-of-ada" not in repr(asked)
    assert json.loads(next(tmp_path.iterdir()).read_text()).keys() == {"token", "until"}


# --- endpoints ---


@pytest.mark.parametrize(
    ("region", "expected"),
    [
        ("cn-north-4", ("modelarts.cn-north-4.myhuaweicloud.com", "iam.cn-north-4.myhuaweicloud.com",
                        "swr-api.cn-north-4.myhuaweicloud.com", "swr.cn-north-4.myhuaweicloud.com")),
        ("eu-west-101", ("modelarts.eu-west-101.myhuaweicloud.eu", "iam.eu-west-101.myhuaweicloud.eu",
                         "swr-api.eu-west-101.myhuaweicloud.eu", "swr.eu-west-101.myhuaweicloud.eu")),
        ("eu-de", ("modelarts.eu-de.otc.t-systems.com", "iam.eu-de.otc.t-systems.com",
                   "swr-api.eu-de.otc.t-systems.com", "swr.eu-de.otc.t-systems.com")),
        ("eu-ch2", ("modelarts.eu-ch2.sc.otc.t-systems.com", "iam-pub.eu-ch2.sc.otc.t-systems.com",
                    "swr-api.eu-ch2.sc.otc.t-systems.com", "swr.eu-ch2.sc.otc.t-systems.com")),
    ],
)  # fmt: skip
def test_the_hosts_of_a_region(region: str, expected: tuple[str, str, str, str]) -> None:
    found = endpoints.find(region, environ={})
    modelarts, iam, swr, registry = expected
    assert (found.modelarts, found.iam, found.swr, found.registry) == (
        f"https://{modelarts}", f"https://{iam}", f"https://{swr}", registry,
    )  # fmt: skip


@pytest.mark.parametrize(
    "region", ["", "CN-NORTH-4", "cn_north_4", "cn-north-4.evil.com", "cn-north-4/x", "x" * 80, "cn"]
)
def test_a_region_is_a_part_of_a_host(region: str) -> None:
    with pytest.raises(ConfigError, match="--region"):
        endpoints.find(region, environ={})


def test_an_option_beats_its_variable_which_beats_the_region() -> None:
    environ = {
        endpoints.ENDPOINT_VARIABLE: "https://a.example.com/base/",
        endpoints.IAM_VARIABLE: "https://i.example.com",
    }
    found = endpoints.find("eu-de", environ=environ, iam_endpoint="https://b.example.com")
    assert (found.modelarts, found.iam) == ("https://a.example.com/base", "https://b.example.com")
    assert found.swr == "https://swr-api.eu-de.otc.t-systems.com"


def test_an_emulator_on_this_machine_stands_for_all_three() -> None:
    found = endpoints.find("eu-de", environ={endpoints.ENDPOINT_VARIABLE: "http://127.0.0.1:8099"})
    assert {found.modelarts, found.iam, found.swr} == {"http://127.0.0.1:8099"}


@pytest.mark.parametrize("option", ["endpoint", "iam_endpoint", "swr_endpoint"])
def test_plain_http_elsewhere_has_to_be_allowed(option: str) -> None:
    url = {option: "http://modelarts.example.com"}
    with pytest.raises(ConfigError, match="--insecure-http allows it"):
        endpoints.find("eu-de", environ={}, **url)  # type: ignore[arg-type]
    endpoints.find("eu-de", environ={}, insecure_http=True, **url)  # type: ignore[arg-type]


@pytest.mark.parametrize("project_id", ["", "a/b", "../x", "x" * 65])
def test_a_project_id_is_a_part_of_a_path(project_id: str) -> None:
    with pytest.raises(ConfigError, match="--project-id"):
        endpoints.check_project(project_id)


def test_a_private_cloud_is_known_as_one() -> None:
    found = endpoints.find("eu-de", environ={}, endpoint="https://modelarts.example.com")
    assert (found.private, found.iam_given) == (True, False)
    found = endpoints.find("eu-de", environ={}, endpoint="https://a.example.com", iam_endpoint="https://b.example.com")
    assert (found.private, found.iam_given) == (True, True)
    assert not endpoints.find("eu-de", environ={}).private
