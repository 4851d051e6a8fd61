"""What a project needs, as lines for the lock: from its requirements.txt or its pyproject.toml.

Only names from an index get through. What a line could lead to otherwise (a folder, a URL, an option with a password in
it) is refused with what to do instead, since neither the lock nor the image could be made again from it.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from packaging.requirements import InvalidRequirement, Requirement
from packaging.utils import canonicalize_name

from servekit.errors import ConfigError

FILE = "requirements.txt"
OWN = "servekit"
MAX_BYTES = 1024 * 1024
MAX_LINES = 5000
MAX_DEPTH = 10
MAX_SHOWN = 2000
COMMENT = re.compile(r"(^|\s)#.*$")
INCLUDE = re.compile(r"(?:-r\s*|--requirement[=\s]\s*)(\S.*)")
HASH = re.compile(r"(?<!\s)\s+--hash[=\s]\s*(\S+)")
SHA256 = re.compile(r"sha256:[0-9a-f]{64}")
# The password may hold what it should not: an @, or a slash.
PASSWORD = re.compile(r"//(?:[^/\s]*:(?!\d+/)\S*|[^/\s]*)@")
QUERY = re.compile(r"(?<=\?)\S+")
PLACE = re.compile(r"[a-z][a-z0-9+.-]*://|[.~/\\]|.*[/\\]|.*\.(whl|zip|tar\.gz|tgz)$", re.IGNORECASE)
INDEXES = (
    "-i",
    "--index-url",
    "--extra-index-url",
    "-f",
    "--find-links",
    "--trusted-host",
    "--no-index",
    "--client-cert",
)
MANY_INDEXES = "pass an index by --pip-config FILE, which does not enter the image, or wheels by --offline WHEELHOUSE"
A_NAME = "expected a name that an index has, such as numpy>=2"
A_CODE = (
    "the project's own files are in the image anyway; another package comes from an index, or by --offline WHEELHOUSE"
)


@dataclass(frozen=True, slots=True)
class Wanted:
    """lines: without servekit's own. servekit: the project's line for it, "" when there is none. source: in words.

    hashes: those that the lines give, by normalised name: other files than these are not to be installed.
    """

    lines: tuple[str, ...]
    servekit: str
    source: str
    hashes: Mapping[str, frozenset[str]]


def read(root: Path, file: Path | None, pyproject: Mapping[str, Any] | None) -> Wanted:
    """The requirements of `file`, else of requirements.txt, else of pyproject.toml. Raises ConfigError."""
    if file is None and (root / FILE).is_file():
        file = root / FILE
    if file is not None:
        lines = [(where, line) for where, line in _lines(file, root, 0)]
        source = str(_inside(file, root, "--requirements"))
    elif pyproject is not None:
        lines, source = _declared(pyproject), "pyproject.toml"
    else:
        lines, source = [], ""
    if len(lines) > MAX_LINES:
        raise ConfigError(f"{source}: expected at most {MAX_LINES} requirements, got {len(lines)}")
    kept, own = [], ""
    hashes: dict[str, frozenset[str]] = {}
    for where, line in lines:
        requirement = _parsed(where, HASH.sub("", line))
        if canonicalize_name(requirement.name) == OWN:
            requirement.url = None
            if own:
                earlier = Requirement(own)
                requirement.extras |= earlier.extras
                requirement.specifier &= earlier.specifier
            own = str(requirement)
        else:
            kept.append(str(requirement))
        if given := HASH.findall(line):
            hashes[canonicalize_name(requirement.name)] = _sha256(where, given)
    return Wanted(tuple(kept), own, source, hashes)


def _declared(pyproject: Mapping[str, Any]) -> list[tuple[str, str]]:
    """[project] dependencies; its extras and groups are for those who develop it."""
    where = "pyproject.toml: project.dependencies"
    project = pyproject.get("project", {})
    dynamic, poetry = project.get("dynamic"), pyproject.get("tool", {}).get("poetry")
    if isinstance(dynamic, list) and "dependencies" in dynamic:
        raise ConfigError(f"{where}: they are dynamic: name them there, in {FILE}, or by --requirements FILE")
    if "dependencies" not in project and isinstance(poetry, dict) and "dependencies" in poetry:
        raise ConfigError(
            f"{where}: expected a list, got those of [tool.poetry] only: name them there, in {FILE}, or by "
            "--requirements FILE"
        )
    dependencies = project.get("dependencies", [])
    if not isinstance(dependencies, list) or not all(isinstance(line, str) for line in dependencies):
        raise ConfigError(f"{where}: expected a list of texts")
    return [(where, line) for line in dependencies]


def _lines(file: Path, root: Path, depth: int) -> Iterator[tuple[str, str]]:
    """Where each requirement stands, and the requirement; comments and `-r` are dealt with."""
    inside = _inside(file, root, "--requirements")
    if depth > MAX_DEPTH:
        raise ConfigError(f"{inside}: expected -r at most {MAX_DEPTH} files deep; does it include itself?")
    pending, start = "", 0
    for number, text in enumerate([*_text(file, inside).splitlines(), ""], 1):
        start = start if pending else number
        pending += COMMENT.sub("", text)
        if pending.endswith("\\"):
            pending = pending[:-1] + " "
            continue
        line, pending = pending.strip(), ""
        if not line:
            continue
        where = f"{inside}, line {start}"
        included = INCLUDE.fullmatch(line)
        if included and "://" in included[1]:
            raise ConfigError(f"{where}: {_shown(line)}: expected a file of the project, got a URL: {MANY_INDEXES}")
        if included:
            _inside(file.parent / included[1], root, f"{where}: -r {included[1]}")
            yield from _lines(file.parent / included[1], root, depth + 1)
        elif line.startswith("-"):
            raise ConfigError(f"{where}: {_option(line)}")
        else:
            yield where, line


def _text(file: Path, shown: Path) -> str:
    try:
        with file.open("rb") as opened:
            content = opened.read(MAX_BYTES + 1)
        if len(content) > MAX_BYTES:
            raise ConfigError(f"{shown}: expected at most {MAX_BYTES} bytes")
        return content.decode("utf-8-sig")
    except OSError as error:
        raise ConfigError(f"{shown}: {error.strerror}", cause=error) from error
    except UnicodeDecodeError as error:
        raise ConfigError(f"{shown}: expected UTF-8 text", cause=error) from error


def _inside(file: Path, root: Path, what: str) -> Path:
    real = file.resolve()
    if not real.is_relative_to(root):
        raise ConfigError(f"{what}: expected a file inside of the project {str(root)!r}, got {str(file)!r}")
    return real.relative_to(root)


def _option(line: str) -> str:
    name = re.split(r"[=\s]", line, maxsplit=1)[0]
    # Short options may stand right before their value: -ihttps://...
    if name.startswith(INDEXES):
        return f"{name.split('h')[0] if not name.startswith('--') else name}: {MANY_INDEXES}"
    if name.startswith(("-e", "--editable")):
        return f"{_shown(line)}: {A_NAME}: {A_CODE}"
    if name.startswith(("-c", "--constraint")):
        return (
            f"{_shown(line)}: expected requirements alone: put the bounds beside their names; the lock keeps what was "
            "chosen"
        )
    return f"{_shown(line)}: expected a requirement, not an option of pip"


def _parsed(where: str, line: str) -> Requirement:
    try:
        requirement = Requirement(line)
    except InvalidRequirement as error:
        if PLACE.match(line):
            raise ConfigError(f"{where}: {_shown(line)}: {A_NAME}, got a path or URL: {A_CODE}") from error
        raise ConfigError(f"{where}: {_shown(line)}: {A_NAME}") from error
    if requirement.url is not None and canonicalize_name(requirement.name) != OWN:
        raise ConfigError(f"{where}: {_shown(line)}: {A_NAME}, got a path or URL: {A_CODE}")
    return requirement


def _sha256(where: str, given: Sequence[str]) -> frozenset[str]:
    for text in given:
        if not SHA256.fullmatch(text):
            raise ConfigError(f"{where}: expected --hash=sha256: and 64 hexadecimal digits, got {_shown(text)}")
    return frozenset(given)


def _shown(line: str) -> str:
    """Without the password or token that a URL may have."""
    shown = ascii(QUERY.sub("***", PASSWORD.sub("//***@", line[:MAX_SHOWN])))
    return shown if len(shown) <= 200 else f"{shown[:200]}..."
