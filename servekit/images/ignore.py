"""Which files of a project stay out of its image: what is no part of it, and what looks like a secret.

Patterns are those of .gitignore. What the user says, in .servekitignore and by --exclude, beats the lists here, so
that `!ca.pem` lets a certificate in; the last pattern that matches counts.
"""

from __future__ import annotations

import enum
import re
from collections.abc import Iterable, Sequence
from pathlib import Path

from pathspec import GitIgnoreSpec

from servekit.errors import ConfigError

FILE = ".servekitignore"
MAX_BYTES = 256 * 1024
# Compared in lower case.
SECRETS = (
    # variables
    ".env", ".env.*", "*.env", ".envrc",
    # keys
    "*.pem", "*.key", "*.p12", "*.pfx", "*.jks", "*.keystore", "*.ppk", "*.kdbx",
    "id_rsa*", "id_dsa*", "id_ecdsa*", "id_ed25519*", ".ssh/", ".gnupg/",
    # passwords of tools
    ".netrc", "_netrc", ".pypirc", ".npmrc", ".yarnrc.yml", "pip.conf", "pip.ini", ".git-credentials", ".htpasswd",
    ".pgpass", ".my.cnf", ".s3cfg", ".boto", ".condarc", ".dockercfg", ".dockerconfigjson", ".docker/", ".vault-token",
    "kubeconfig", ".kube/", "secrets.json", "secrets.toml", "secrets.yaml", "secrets.yml", ".secrets*",
    # hubs of models and data
    ".huggingface/", "kaggle.json", ".kaggle/", ".dvc/config.local",
    # clouds
    ".aws/", ".azure/", ".config/gcloud/", ".huaweicloud/", ".hcloud/", ".databrickscfg",
    ".credentials*", "*credentials*.json", "client_secret*.json", "service-account*.json", "service_account*.json",
    "*.tfstate", "*.tfstate.*", "*.tfvars", ".terraform/",
)  # fmt: skip
NOISE = (
    # versions
    ".git", ".hg", ".svn", ".bzr", ".jj", "_darcs", "CVS/",
    # Python's; other virtual environments are known by their pyvenv.cfg
    "__pycache__/", "*.pyc", "*.pyo", ".venv/", ".tox/", ".nox/", ".eggs/", "*.egg-info/", ".ipynb_checkpoints/",
    ".mypy_cache/", ".pytest_cache/", ".ruff_cache/", ".hypothesis/", ".import_linter_cache/", ".cache/",
    ".coverage", ".coverage.*", "htmlcov/", "node_modules/",
    # copies of models for this machine's CPU, which a run leaves beside them
    ".servekit/",
    # editors' and systems'
    ".idea/", ".vscode/", "*.swp", "*.swo", "*~", ".#*", "\\#*#", ".DS_Store", "._*", "Thumbs.db", "desktop.ini",
    # what was built
    "/build/", "/dist/", "/*.tar", "*.tar.gz", "*.tgz", "*.whl", ".servekit-build-*",
)  # fmt: skip
# How files with keys begin, whatever they are called: there may be a certificate before the key, or an attribute.
KEY_FILE = re.compile(
    rb"(\xef\xbb\xbf)?\s*(-----BEGIN |Bag Attributes|PuTTY-User-Key-File-|# created: |AGE-SECRET-KEY-)"
)
KEY = re.compile(rb"-----BEGIN ([A-Z0-9]+ )*PRIVATE KEY( BLOCK)?-----|PuTTY-User-Key-File-|AGE-SECRET-KEY-1")
# The key of a service account lies in a JSON file.
JSON_KEY = re.compile(rb"-----BEGIN ([A-Z0-9]+ )*PRIVATE KEY-----")
# A password in a URL, as the settings of package indexes have it; not a variable in its place.
URL_PASSWORD = re.compile(rb"://[^\s/:@'\"]*:[^\s/@'\"$<{*]+@")
SETTINGS = (".toml", ".txt", ".cfg", ".ini", ".conf", ".yaml", ".yml", ".lock", "pipfile")
KEY_BYTES = 64 * 1024


class Verdict(enum.Enum):
    ENTERS = "enters"
    # The user has let it in.
    SECRET_ENTERS = "looks like a secret, enters"  # noqa: S105 - no password
    LEFT_OUT = "left out"
    SECRET = "looks like a secret, left out"  # noqa: S105 - no password


class Rules:
    """The lists, and what the user says."""

    def __init__(self, file: Path, exclude: Sequence[str]) -> None:
        """file: .servekitignore, if it is there. Raises ConfigError."""
        self._secrets = GitIgnoreSpec.from_lines(SECRETS)
        self._noise = GitIgnoreSpec.from_lines(NOISE)
        self._user = _spec([*((FILE, line) for line in _lines(file)), *(("--exclude", line) for line in exclude)])

    def judge(self, path: str) -> Verdict:
        """Of a path below the root, with / between its names, and at its end when it is a folder.

        The folders on its way have been judged before: what is in a folder that stays out is not asked for.
        """
        # In the library's expressions a dot matches no line end, which a name may hold.
        path = path.replace("\n", " ")
        secret = self._secrets.match_file(path.lower())
        said = self._user.check_file(path).include
        if said is False:
            return Verdict.SECRET_ENTERS if secret else Verdict.ENTERS
        if secret:
            return Verdict.SECRET
        return Verdict.LEFT_OUT if said or self._noise.match_file(path) else Verdict.ENTERS

    def judge_content(self, path: str, beginning: bytes) -> Verdict:
        """Of a file that enters by its name; `beginning`: its first KEY_BYTES."""
        name = path.lower()
        if (
            (KEY_FILE.match(beginning) and KEY.search(beginning))
            or (name.endswith(".json") and JSON_KEY.search(beginning))
            or (name.endswith(SETTINGS) and URL_PASSWORD.search(beginning))
        ):
            said = self._user.check_file(path.replace("\n", " ")).include
            return Verdict.SECRET_ENTERS if said is False else Verdict.SECRET
        return Verdict.ENTERS


def _lines(file: Path) -> list[str]:
    if not file.is_file():
        return []
    try:
        with file.open("rb") as opened:
            content = opened.read(MAX_BYTES + 1)
        if len(content) > MAX_BYTES:
            raise ConfigError(f"{FILE}: expected at most {MAX_BYTES} bytes")
        return content.decode("utf-8-sig").splitlines()
    except OSError as error:
        raise ConfigError(f"{FILE}: {error.strerror}", cause=error) from error
    except UnicodeDecodeError as error:
        raise ConfigError(f"{FILE}: expected UTF-8 text", cause=error) from error


def _spec(lines: Iterable[tuple[str, str]]) -> GitIgnoreSpec:
    kept = []
    for origin, line in lines:
        try:
            GitIgnoreSpec.from_lines([line])
        except ValueError as error:
            raise ConfigError(f"{origin}: expected a pattern as in .gitignore, got {line!r}", cause=error) from error
        kept.append(line)
    return GitIgnoreSpec.from_lines(kept)
