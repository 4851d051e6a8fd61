"""Where the platform is and who asks: from the environment and the files that the vendor's own command line reads.

    MODZY_BASE_URL, MODZY_API_KEY, MODZY_TEAM_ID, MODZY_TEAM_TOKEN
    ~/.modzy/PROFILE.yaml, else /etc/modzy/PROFILE.yaml: base-url, api-key, team-id, team-token

Not from a file of the current folder, which may be somebody else's: it could send the key elsewhere.
"""

from __future__ import annotations

import base64
import binascii
import json
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from servekit.errors import ConfigError
from servekit.publish.failures import Unauthorised
from servekit.publish.files import content
from servekit.publish.http import check_endpoint
from servekit.publish.reference import DOCKER_HUB, Reference
from servekit.publish.secrets import Secret, from_environment, from_prompt

ENDPOINT_NAMES = ("SERVEKIT_MODZY_ENDPOINT", "MODZY_BASE_URL")
KEY_NAMES = ("MODZY_API_KEY",)
USER_NAMES = ("SERVEKIT_REGISTRY_USERNAME",)
PASSWORD_NAMES = ("SERVEKIT_REGISTRY_PASSWORD",)
PROFILE = re.compile(r"[A-Za-z0-9_.-]{1,64}")
# Of a header: no spaces, and nothing that ends a line.
KEY = re.compile(r"[!-~]{1,1024}")
API = "/api"
# What docker's own file calls its hub.
HUB_KEYS = ("https://index.docker.io/v1/", "index.docker.io", DOCKER_HUB, "registry.hub.docker.com")


@dataclass(frozen=True, slots=True)
class Access:
    """endpoint: ends with /api. headers: that prove who asks."""

    endpoint: str
    scheme: str
    secret: Secret
    team: str = ""

    def headers(self) -> dict[str, str]:
        headers = {"Authorization": f"{self.scheme} {self.secret.reveal()}"}
        return headers | {"Modzy-Team-Id": self.team} if self.team else headers


@dataclass(frozen=True, slots=True)
class Registry:
    """Who may pull the image."""

    username: str
    password: Secret


def access(endpoint: str | None, profile: str, *, insecure_http: bool) -> Access:
    """Raises ConfigError for what is wrong, Unauthorised when there is nothing to prove who asks by."""
    file, values = _profile(profile)
    url, said_by = _endpoint(endpoint, file, values)
    checked = check_endpoint(said_by, url, insecure_http=insecure_http)
    whole = checked if checked.endswith(API) else f"{checked}{API}"
    key = from_environment(KEY_NAMES)
    if key is not None:
        return Access(whole, "ApiKey", _checked(key, KEY_NAMES[0]))
    team, token = os.environ.get("MODZY_TEAM_ID", "").strip(), from_environment(("MODZY_TEAM_TOKEN",))
    if team and token is not None:
        return Access(whole, "Bearer", _checked(token, "MODZY_TEAM_TOKEN"), _team(team, "MODZY_TEAM_ID"))
    if "api-key" in values:
        return Access(whole, "ApiKey", _checked(Secret(values["api-key"]), f"{file}: api-key"))
    if "team-id" in values and "team-token" in values:
        secret = _checked(Secret(values["team-token"]), f"{file}: team-token")
        return Access(whole, "Bearer", secret, _team(values["team-id"], f"{file}: team-id"))
    typed = from_prompt("Modzy API key")
    if typed is None:
        raise Unauthorised(
            "no API key: there is none in the environment, and nobody to ask",
            hint=f"set MODZY_API_KEY, or put api-key into ~/.modzy/{profile}.yaml",
        )
    return Access(whole, "ApiKey", _checked(typed, "the API key"))


def registry(file: Path | None, reference: Reference) -> Registry | None:
    """Of the file that is named, else of the environment; None: the image may be pulled by all. Raises ConfigError."""
    if file is not None:
        return _registry_file(file, reference)
    password = from_environment(PASSWORD_NAMES)
    username = os.environ.get(USER_NAMES[0], "").strip()
    if (password is None) != (not username):
        raise ConfigError(f"expected both {USER_NAMES[0]} and {PASSWORD_NAMES[0]}, got only one of them")
    return None if password is None else Registry(username, password)


# --- the vendor's file ---


def _profile(profile: str) -> tuple[str, dict[str, str]]:
    """The file, and its texts by key; none where there is no such file."""
    if not PROFILE.fullmatch(profile) or profile.startswith("."):
        raise ConfigError(f"--profile: expected letters, digits and . _ -, got {profile[:80]!r}")
    for folder in (Path("~/.modzy"), Path("/etc/modzy")):
        try:
            file = folder.expanduser() / f"{profile}.yaml"
            if not file.is_file():
                continue
            found = content(file, str(file))
        except RuntimeError:
            continue  # there is no home
        try:
            document = yaml.safe_load(found)
        except (yaml.YAMLError, RecursionError, ValueError) as error:
            # What YAML says of it may repeat a line of it.
            raise ConfigError(f"{file}: expected YAML with base-url and api-key: it is damaged") from error
        if not isinstance(document, dict):
            raise ConfigError(f"{file}: expected YAML with base-url and api-key")
        return str(file), {key: str(value).strip() for key, value in document.items() if isinstance(value, str)}
    if profile != "default":
        raise ConfigError(
            f"--profile {profile!r}: expected a file ~/.modzy/{profile}.yaml or /etc/modzy/{profile}.yaml"
        )
    return "", {}


def _endpoint(option: str | None, file: str, values: Mapping[str, str]) -> tuple[str, str]:
    if option:
        return option, "--endpoint"
    for name in ENDPOINT_NAMES:
        if os.environ.get(name, "").strip():
            return os.environ[name].strip(), name
    if values.get("base-url"):
        return values["base-url"], f"{file}: base-url"
    raise ConfigError(
        "--endpoint: expected the address of your Modzy, such as https://modzy.example.com, got none: name it here, or "
        "set MODZY_BASE_URL"
    )


def _checked(secret: Secret, where: str) -> Secret:
    if not KEY.fullmatch(secret.reveal()):
        raise ConfigError(f"{where}: expected the key as Modzy gives it, PREFIX.BODY, without spaces and line ends")
    return secret


def _team(text: str, where: str) -> str:
    if not KEY.fullmatch(text):
        raise ConfigError(f"{where}: expected a team's identifier without spaces and line ends")
    return text


# --- the registry's ---


def _registry_file(file: Path, reference: Reference) -> Registry:
    """{"username", "password"}, or docker's own config.json."""
    where = f"--registry-credentials-file {str(file)!r}"
    try:
        document = json.loads(content(file, where))
    except (ValueError, RecursionError) as error:
        raise ConfigError(f"{where}: expected JSON with username and password, or docker's config.json") from error
    if not isinstance(document, dict):
        raise ConfigError(f"{where}: expected a JSON object")
    if "auths" not in document and "credHelpers" not in document and "credsStore" not in document:
        return _pair(document.get("username"), document.get("password"), where)
    auths = document.get("auths")
    auths = auths if isinstance(auths, dict) else {}
    names = HUB_KEYS if reference.registry in ("", *HUB_KEYS) else (reference.registry, f"https://{reference.registry}")
    for name in names:
        entry = auths.get(name)
        if isinstance(entry, dict) and entry:
            return _entry(entry, f"{where}: auths.{name}")
    kept = " (they are in a credential store, which is not read: write them into a file of their own)"
    raise ConfigError(
        f"{where}: expected credentials for {names[0]}, got none"
        + (kept if document.get("credsStore") or document.get("credHelpers") else "")
    )


def _entry(entry: Mapping[str, Any], where: str) -> Registry:
    if "auth" not in entry:
        return _pair(entry.get("username"), entry.get("password"), where)
    try:
        text = base64.b64decode(str(entry["auth"]), validate=True).decode()
    except (binascii.Error, ValueError) as error:
        raise ConfigError(f"{where}.auth: expected USER:PASSWORD in base64") from error
    Secret(str(entry["auth"]))
    username, _, password = text.partition(":")
    return _pair(username, password, f"{where}.auth")


def _pair(username: Any, password: Any, where: str) -> Registry:
    if not isinstance(username, str) or not isinstance(password, str) or not username or not password:
        raise ConfigError(f"{where}: expected a username and a password")
    return Registry(username, Secret(password))
