"""Who asks: a key pair that signs each request, or an IAM user whose password gets a token for a day.

They come from the environment (by the names of the vendor's SDK, of its Terraform provider and of OpenStack's tools),
from the SDK's file of credentials, from OpenStack's clouds.yaml, or from a prompt for the one secret that is missing.
"""

from __future__ import annotations

import configparser
import contextlib
import hashlib
import json
import os
import stat
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, Literal

from servekit.errors import ConfigError
from servekit.publish.failures import NotUnderstood, Unauthorised
from servekit.publish.files import text
from servekit.publish.http import Request, Transport, say_nothing
from servekit.publish.modelarts.errors import explain_login
from servekit.publish.modelarts.signer import KeyPair, Signer
from servekit.publish.secrets import Secret, from_environment, from_prompt, variable

Auth = Literal["aksk", "token"]

ACCESS_KEYS = ("HUAWEICLOUD_SDK_AK", "HW_ACCESS_KEY", "OS_ACCESS_KEY")
SECRET_KEYS = ("HUAWEICLOUD_SDK_SK", "HW_SECRET_KEY", "OS_SECRET_KEY")
SECURITY_TOKENS = ("HUAWEICLOUD_SDK_SECURITY_TOKEN", "HW_SECURITY_TOKEN", "OS_SECURITY_TOKEN")
USERS = ("HW_USER_NAME", "OS_USERNAME")
PASSWORDS = ("HW_USER_PASSWORD", "OS_PASSWORD")
DOMAINS = ("HW_DOMAIN_NAME", "OS_USER_DOMAIN_NAME", "OS_DOMAIN_NAME")
PROJECT_NAMES = ("HW_PROJECT_NAME", "OS_PROJECT_NAME", "OS_TENANT_NAME")
AUTH_URLS = ("HW_AUTH_URL", "OS_AUTH_URL")
FILE_VARIABLE = "HUAWEICLOUD_SDK_CREDENTIALS_FILE"
FILE_SECTION = "basic"
CLOUD_VARIABLE = "OS_CLOUD"
CLOUDS_VARIABLE = "OS_CLIENT_CONFIG_FILE"
# Not the current folder, where OpenStack's tools look first: somebody else's file there could send a password away.
SYSTEMS_CLOUDS = Path("/etc/openstack/clouds.yaml")
MAX_TOKEN_BYTES = 64 * 1024

TOKEN_PATH = "/v3/auth/tokens"  # noqa: S105 - a path
# A token that ends while a request travels is of no use.
MARGIN = timedelta(minutes=10)
MAX_AGE = timedelta(hours=24)

NOWHERE = (
    "no credentials: set HUAWEICLOUD_SDK_AK and HUAWEICLOUD_SDK_SK, or write ak and sk below [basic] into "
    "~/.huaweicloud/credentials, or name an IAM user by OS_USERNAME and OS_USER_DOMAIN_NAME (its password by "
    "OS_PASSWORD, or typed)"
)


@dataclass(frozen=True, slots=True)
class Login:
    """An IAM user. domain: the account's name. project: the name of the project, which is the region's by default."""

    user: str
    domain: str
    password: Secret
    project: str = ""


@dataclass(frozen=True, slots=True)
class Found:
    """who: a key pair or an IAM user. project_id, iam_endpoint: where the same file says so."""

    who: KeyPair | Login
    origin: str
    project_id: str = ""
    iam_endpoint: str = ""


def find(auth: Auth | None, environ: Mapping[str, str] = os.environ) -> Found:
    """A key pair before a user, unless `auth` says which. Raises Unauthorised, ConfigError."""
    for source in (_of_environment, _of_file, _of_clouds):
        found = source(auth, environ)
        if found is not None:
            return found
    raise Unauthorised(NOWHERE if auth is None else f"--auth {auth}: {NOWHERE}")


# --- where they come from ---


def _of_environment(auth: Auth | None, environ: Mapping[str, str]) -> Found | None:
    if auth != "token":
        access, secret = variable(ACCESS_KEYS, environ), from_environment(SECRET_KEYS, environ)
        if access:
            secret = secret or from_prompt(f"secret key of {access}")
            if secret is None:
                raise Unauthorised(f"{_which(ACCESS_KEYS, environ)} is set, and {SECRET_KEYS[0]} is not: set it")
            return Found(KeyPair(access, secret, from_environment(SECURITY_TOKENS, environ)), "the environment")
        if secret:
            raise Unauthorised(f"{_which(SECRET_KEYS, environ)} is set, and {ACCESS_KEYS[0]} is not: set it")
    if auth != "aksk":
        user = variable(USERS, environ)
        if user:
            password, project = from_environment(PASSWORDS, environ), variable(PROJECT_NAMES, environ)
            login = _login(user, variable(DOMAINS, environ), password, project)
            return Found(login, "the environment", iam_endpoint=_base(variable(AUTH_URLS, environ)))
    return None


def _of_file(auth: Auth | None, environ: Mapping[str, str]) -> Found | None:
    """The SDK's: an INI file that holds a key pair."""
    named = environ.get(FILE_VARIABLE, "")
    path = Path(named) if named else _at_home(".huaweicloud/credentials")
    if auth == "token" or path is None or (not named and not path.is_file()):
        return None
    parser = configparser.ConfigParser(interpolation=None)
    try:
        parser.read_string(text(path, str(path)))
    except configparser.Error as error:
        # Its message may repeat a line of the file.
        raise ConfigError(f"{path}: expected an INI file, got a {type(error).__name__}") from None
    if not parser.has_section(FILE_SECTION):
        raise ConfigError(f"{path}: expected a section [{FILE_SECTION}] with ak and sk")
    section = parser[FILE_SECTION]
    access, secret = section.get("ak", "").strip(), section.get("sk", "").strip()
    if not access or not secret:
        raise ConfigError(f"{path}: [{FILE_SECTION}]: expected ak and sk")
    token = section.get("security_token", "").strip()
    return Found(
        KeyPair(access, Secret(secret), Secret(token) if token else None),
        str(path),
        section.get("project_id", "").strip(),
        _base(section.get("iam_endpoint", "").strip()),
    )


def _of_clouds(auth: Auth | None, environ: Mapping[str, str]) -> Found | None:
    """OpenStack's, as Open Telekom Cloud's users have it: the cloud that OS_CLOUD names."""
    name = environ.get(CLOUD_VARIABLE, "")
    if not name:
        return None
    cloud, path = _cloud(name, environ)
    given = cloud.get("auth") if isinstance(cloud.get("auth"), dict) else {}
    assert isinstance(given, dict)  # noqa: S101 - see above

    def said(*names: str) -> str:
        for where in (given, cloud):
            for each in names:
                if isinstance(where.get(each), (str, int)) and str(where[each]).strip():
                    return str(where[each]).strip()
        return ""

    project_id, iam = said("project_id"), _base(said("auth_url"))
    access, secret = said("ak", "access_key"), said("sk", "secret_key")
    if auth != "token" and access and secret:
        token = said("security_token")
        pair = KeyPair(access, Secret(secret), Secret(token) if token else None)
        return Found(pair, str(path), project_id, iam)
    user = said("username")
    if auth != "aksk" and user:
        password = said("password")
        domain = said("user_domain_name", "domain_name")
        login = _login(user, domain, Secret(password) if password else None, said("project_name"))
        return Found(login, str(path), project_id, iam)
    raise ConfigError(f"{path}: clouds.{name}: expected auth.username and auth.password, or ak and sk")


def _cloud(name: str, environ: Mapping[str, str]) -> tuple[dict[str, Any], Path]:
    """With what secure.yaml beside it adds."""
    named = environ.get(CLOUDS_VARIABLE, "")
    own = _at_home(".config/openstack/clouds.yaml")
    candidates = [Path(named)] if named else [path for path in (own, SYSTEMS_CLOUDS) if path is not None]
    for path in candidates:
        if path.is_file():
            cloud = _of_yaml(path, name)
            if cloud is None:
                raise ConfigError(f"{CLOUD_VARIABLE}={name!r}: {path} has no such cloud")
            secure = path.with_name("secure.yaml")
            more = (_of_yaml(secure, name) if secure.is_file() else None) or {}
            both = cloud | more
            if isinstance(cloud.get("auth"), dict) and isinstance(more.get("auth"), dict):
                both["auth"] = cloud["auth"] | more["auth"]
            return both, path
    raise ConfigError(f"{CLOUD_VARIABLE}={name!r}: expected a file {' or '.join(map(str, candidates))}")


def _of_yaml(path: Path, name: str) -> dict[str, Any] | None:
    import yaml

    try:
        document = yaml.safe_load(text(path, str(path)))
    except (yaml.YAMLError, RecursionError, ValueError) as error:
        raise ConfigError(f"{path}: expected YAML, got a {type(error).__name__}") from None
    clouds = document.get("clouds") if isinstance(document, dict) else None
    cloud = clouds.get(name) if isinstance(clouds, dict) else None
    return cloud if isinstance(cloud, dict) else None


def _login(user: str, domain: str, password: Secret | None, project: str) -> Login:
    if not domain:
        raise Unauthorised(f"IAM user {user}: the account's name is not known: set OS_USER_DOMAIN_NAME")
    password = password or from_prompt(f"password of the IAM user {user}")
    if password is None:
        raise Unauthorised(f"IAM user {user}: no password: set OS_PASSWORD, or run the command on a terminal")
    return Login(user, domain, password, project)


def _which(names: tuple[str, ...], environ: Mapping[str, str]) -> str:
    return next((name for name in names if environ.get(name, "").strip()), names[0])


def _base(auth_url: str) -> str:
    """Without the version that OpenStack's tools want at its end."""
    return auth_url.rstrip("/").removesuffix("/v3")


def _at_home(name: str) -> Path | None:
    """None where the user has no home, as in many a container."""
    try:
        return Path.home() / name
    except RuntimeError:
        return None


# --- what they give ---


@dataclass(frozen=True, slots=True)
class Keys:
    """A key pair never has to be renewed."""

    signer: Signer

    def __call__(self, request: Request) -> Mapping[str, str]:
        return self.signer(request)

    def renew(self) -> bool:
        return False


@dataclass(slots=True)
class Tokens:
    """An IAM user's token, from the cache or from IAM.

    cache: a folder; None keeps nothing. tell: is told, in a line, where the token comes from.
    """

    login: Login
    iam: str
    region: str
    project_id: str
    cache: Path | None
    tell: Callable[[str], None] = say_nothing
    _token: Secret | None = field(default=None, repr=False)
    _until: datetime | None = None

    def __call__(self, request: Request) -> Mapping[str, str]:  # noqa: ARG002 - a token does not depend on it
        return {"x-auth-token": self._current().reveal()}

    def renew(self) -> bool:
        """After a 401: what was kept is thrown away, so that the next request gets a new one."""
        self._token = None
        if self.cache is not None:
            with contextlib.suppress(OSError):
                self._file(self.cache).unlink()
        return True

    def _current(self) -> Secret:
        if self._token is not None and self._until is not None and _lasts(self._until):
            return self._token
        kept = self._kept()
        self._token, self._until = kept if kept is not None else self._fetch()
        return self._token

    def _fetch(self) -> tuple[Secret, datetime]:
        login = self.login
        document = {
            "auth": {
                "identity": {
                    "methods": ["password"],
                    "password": {
                        "user": {
                            "name": login.user,
                            "password": login.password.reveal(),
                            "domain": {"name": login.domain},
                        }
                    },
                },
                # The ID is sure; names of projects are the region's, or begin with it.
                "scope": {"project": {"id": self.project_id} if not login.project else {"name": login.project}},
            }
        }
        with Transport(self.iam, explain=explain_login, tell=self.tell) as transport:
            # Asking twice makes two tokens, and the first one ends by itself.
            answer = transport.call("POST", TOKEN_PATH, document=document, repeatable=True)
        text = answer.headers.get("x-subject-token", "")
        if not text or not text.isascii() or not text.isprintable():
            raise NotUnderstood(
                f"POST {TOKEN_PATH}: expected a token in the header X-Subject-Token, got none",
                hint="check --iam-endpoint",
                status=answer.status,
            )
        token, until = Secret(text), _expiry(answer.document())
        self._keep(token, until)
        return token, until

    # --- the cache ---

    def _file(self, cache: Path) -> Path:
        # The endpoint counts: another cloud's token is of no use, and not to be sent there.
        parts = (self.iam, self.login.domain, self.login.user, self.login.project, self.project_id)
        return cache / f"{hashlib.sha256(chr(0).join(parts).encode()).hexdigest()[:32]}.json"

    def _kept(self) -> tuple[Secret, datetime] | None:
        """None for what is not there, not ours alone, damaged, or about to end."""
        if self.cache is None:
            return None
        try:
            descriptor = os.open(self._file(self.cache), os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK)
            with open(descriptor, "rb") as opened:  # noqa: PTH123 - a descriptor
                state = os.fstat(descriptor)
                if not stat.S_ISREG(state.st_mode) or state.st_uid != os.geteuid() or state.st_mode & 0o077:
                    return None
                document = json.loads(opened.read(MAX_TOKEN_BYTES))
            token, until = document["token"], datetime.fromisoformat(document["until"])
            if isinstance(token, str) and token and token.isascii() and token.isprintable() and _lasts(until):
                return Secret(token), until
        except (OSError, ValueError, TypeError, KeyError, RecursionError):
            return None
        return None

    def _keep(self, token: Secret, until: datetime) -> None:
        if self.cache is None:
            return
        try:
            self.cache.mkdir(mode=0o700, parents=True, exist_ok=True)
            # mkstemp makes it for this user alone.
            descriptor, name = tempfile.mkstemp(dir=self.cache, prefix=".token-")
            try:
                with open(descriptor, "w") as opened:  # noqa: PTH123 - a descriptor
                    json.dump({"token": token.reveal(), "until": until.isoformat()}, opened)
                Path(name).replace(self._file(self.cache))
            except BaseException:
                Path(name).unlink(missing_ok=True)
                raise
        except OSError as error:
            self.tell(f"the token cannot be kept for the next time: {error.strerror or error}")


def authoriser(
    who: KeyPair | Login,
    *,
    iam: str,
    region: str,
    project_id: str,
    cache: Path | None,
    tell: Callable[[str], None] = say_nothing,
) -> Keys | Tokens:
    if isinstance(who, KeyPair):
        return Keys(Signer(who, project_id))
    return Tokens(who, iam, region, project_id, cache, tell)


def cache_folder(environ: Mapping[str, str] = os.environ) -> Path | None:
    """None where the user has no home."""
    named = environ.get("XDG_CACHE_HOME", "")
    base = Path(named) if named and Path(named).is_absolute() else _at_home(".cache")
    return None if base is None else base / "servekit" / "modelarts-tokens"


def _lasts(until: datetime) -> bool:
    return datetime.now(UTC) + MARGIN < until


def _expiry(document: Mapping[str, Any]) -> datetime:
    """What IAM says, and at most a day."""
    latest = datetime.now(UTC) + MAX_AGE
    token = document.get("token")
    try:
        until = datetime.fromisoformat(token["expires_at"] if isinstance(token, dict) else "")
        return min(until if until.tzinfo else until.replace(tzinfo=UTC), latest)
    except (ValueError, TypeError, KeyError):
        return latest
