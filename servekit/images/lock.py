"""Requirements -> one version of every package, with the hashes of its files, for the image's Python and architecture.

uv resolves: it knows other platforms than this one, and needs neither the image nor to install anything. It asks the
indexes that pip is set up for, unless it is set up itself.
"""

from __future__ import annotations

import ast
import importlib
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from hashlib import file_digest
from pathlib import Path
from typing import Literal

from packaging.requirements import InvalidRequirement, Requirement
from packaging.tags import Tag, compatible_tags, cpython_tags
from packaging.utils import InvalidWheelFilename, canonicalize_name, parse_wheel_filename
from packaging.version import Version

from servekit.errors import ConfigError

Arch = Literal["amd64", "arm64"]
MACHINES: Mapping[str, str] = {"amd64": "x86_64", "arm64": "aarch64"}
# The C library that wheels may ask for: 2.28 is what projects build for today, and Debian 10's.
GLIBC = (2, 28)
MAX_RESOLVING_S = 600.0
MAX_ASKING_PIP_S = 30.0
MAX_REASON_CHARS = 400
PINNED = re.compile(r"(?P<name>[A-Za-z0-9][\w.-]*)==(?P<version>[^\s;\\]+)")
HASH = re.compile(r"--hash=(sha256:[0-9a-f]{64})(?=\s|$)")
# What uv draws a tree with, and what it says of every failure.
BRANCHES = "\u00d7\u2570\u2500\u25b6\u251c\u2502 "
NO_SOLUTION = re.compile(r"^No solution found when resolving dependencies[^:]*:\s*")
CONCLUSION = re.compile(
    r",? (?:and )?we can conclude that your requirements are unsatisfiable\."
    r"|\.? And because you require \S+(?: and \S+)?"
    r"(?:\.$|,? we can conclude that your requirements are unsatisfiable\.)"
)
# From where a word begins: to try each of its letters would take minutes for a long one.
URL = re.compile(r"(?<![a-z0-9+])[a-z0-9+]+://(?:[^\s/@`'\"]*@)*(?P<host>[^\s/?#`'\"),;]*)[^\s`'\"),;]*", re.IGNORECASE)
# uv's settings that say where packages come from; with one of them, pip's are left alone.
PIP_SOURCES = ("PIP_INDEX_URL", "PIP_EXTRA_INDEX_URL", "PIP_FIND_LINKS", "PIP_NO_INDEX")
UV_SOURCES = (
    "UV_DEFAULT_INDEX",
    "UV_INDEX",
    "UV_INDEX_URL",
    "UV_EXTRA_INDEX_URL",
    "UV_FIND_LINKS",
    "UV_NO_INDEX",
    "UV_CONFIG_FILE",
)


@dataclass(frozen=True, slots=True)
class _Pinned:
    name: str
    version: str
    hashes: tuple[str, ...]


def make(
    requirements: Sequence[str], *, python: str, arch: Arch, wheelhouse: Path | None, pip_config: Path | None = None
) -> str:
    """The text of a requirements file in which every package is pinned and hashed: the same for the same index.

    python: such as 3.11. wheelhouse: a folder of wheels, instead of an index. pip_config: names the indexes; without it
    they are those of uv's variables, else of pip's settings here. Raises ConfigError with the cause.
    """
    for line in requirements:
        _check(line)
    if not requirements:
        return ""
    if wheelhouse is not None and not wheelhouse.is_dir():
        raise ConfigError(f"--offline {str(wheelhouse)!r}: expected a folder of wheels")
    platform = f"{MACHINES[arch]}-manylinux_{GLIBC[0]}_{GLIBC[1]}"
    command = [
        *(_uv(), "pip", "compile", "-", "--python", sys.executable, "--python-version", python),
        *("--python-platform", platform, "--no-python-downloads", "--color", "never", "--no-progress"),
        # Nothing is built: not here, where it would run a stranger's code, and not in the image, which has no compiler.
        *("--only-binary", ":all:", "--generate-hashes", "--no-header", "--no-annotate"),
        *("--no-emit-index-url", "--no-emit-find-links"),
    ]
    environ = dict(os.environ)
    if wheelhouse is not None:
        for name in UV_SOURCES:
            environ.pop(name, None)
        command += ["--no-config", "--offline", "--no-index", "--find-links", str(wheelhouse.resolve())]
    elif pip_config is not None:
        for name in (*UV_SOURCES, *PIP_SOURCES):
            environ.pop(name, None)
        environ["PIP_CONFIG_FILE"] = str(pip_config.resolve())
        environ |= _sources_of_pip(environ)
    elif not any(environ.get(name) for name in UV_SOURCES):
        # By environment, since others can read a command line.
        environ |= _sources_of_pip(environ)
    try:
        ended = subprocess.run(  # noqa: S603 - a list of arguments, no shell
            command,
            input="".join(f"{line}\n" for line in requirements),
            env=environ,
            capture_output=True,
            text=True,
            errors="replace",
            timeout=MAX_RESOLVING_S,
            check=False,
        )
    except subprocess.TimeoutExpired as error:
        raise ConfigError(f"requirements: no answer from the resolver within {MAX_RESOLVING_S:.0f} s") from error
    except OSError as error:
        raise ConfigError(f"requirements: uv cannot be started: {error.strerror or error}") from error
    if ended.returncode != 0:
        where = f"Python {python} on linux/{arch}" + (f" from {wheelhouse.name}" if wheelhouse is not None else "")
        raise ConfigError(f"{_blamed(requirements, ended.stderr)} for {where}: {_reason(ended.stderr)}")
    return _text(_pins(ended.stdout))


def wheels(lock: str, wheelhouse: Path, *, python: str | None = None, arch: Arch | None = None) -> dict[str, Path]:
    """The files of the wheelhouse that the lock names, by file name.

    With python and arch only the best file for them of each package; else all that the lock allows. Raises ConfigError
    that names the packages of which there is none.
    """
    files: dict[tuple[str, str], list[tuple[Path, frozenset[Tag]]]] = {}
    try:
        for path in sorted(wheelhouse.glob("*.whl")):
            try:
                name, version, _, tags = parse_wheel_filename(path.name)
            except InvalidWheelFilename:
                continue
            files.setdefault((name, str(version)), []).append((path, tags))
        found: dict[str, Path] = {}
        missing = []
        order = _tags(python, arch) if python is not None and arch is not None else None
        for pinned in _pins(lock):
            right = [
                (path, tags)
                for path, tags in files.get((canonicalize_name(pinned.name), str(Version(pinned.version))), ())
                if f"sha256:{_sha256(path)}" in pinned.hashes and (order is None or tags & order.keys())
            ]
            if not right:
                missing.append(f"{pinned.name}=={pinned.version}")
            elif order is not None:
                right.sort(key=lambda file: min(order.get(tag, len(order)) for tag in file[1]))
                del right[1:]
            found |= {path.name: path for path, _ in right}
    except OSError as error:
        raise ConfigError(f"--offline {str(wheelhouse)!r}: {error.filename}: {error.strerror}", cause=error) from error
    if missing:
        raise ConfigError(
            f"--offline {str(wheelhouse)!r}: no wheel with a locked hash of {', '.join(missing)}: expected the files "
            "that the lock was made from; --upgrade makes it anew of those that are there"
        )
    return found


# --- requirements ---


def _check(line: str) -> None:
    """A name, versions and a marker; what else a requirements file may hold cannot be locked, or leads elsewhere."""
    try:
        requirement = Requirement(line)
    except InvalidRequirement as error:
        raise ConfigError(
            f"requirement {_clean(line)!r}: expected a name with versions, such as 'numpy>=2.0'; options, paths and "
            "other files cannot be locked"
        ) from error
    if requirement.url is not None:
        raise ConfigError(
            f"requirement {_clean(line)!r}: expected a name with versions, got a URL: make a wheel of it "
            f"(pip wheel), and put it on an index or into the folder for --offline"
        )


def _blamed(requirements: Sequence[str], said: str) -> str:
    """The requirements that the resolver speaks of."""
    if "Failed to fetch" in said:
        return "requirements: an index cannot be read"
    words = set(re.findall(r"[a-z0-9][a-z0-9._-]*", said.lower()))
    names = {str(canonicalize_name(word.rstrip("."))) for word in words}
    blamed = [line for line in requirements if canonicalize_name(Requirement(line).name) in names]
    if not blamed:
        return "requirements: cannot be locked"
    shown = ", ".join(repr(line) for line in blamed[:4]) + (", ..." if len(blamed) > 4 else "")
    return f"requirement{'s' if len(blamed) > 1 else ''} {shown}: no version fits"


def _reason(said: str) -> str:
    """uv's words on one line: a tree of causes with its branches drawn, wrapped, and hints below."""
    lines = [line.strip().lstrip(BRANCHES) for line in said.strip().splitlines()]
    text = " ".join(line for line in lines if line and not line.startswith(("warning:", "Using ", "Resolved ")))
    text, *hints = text.removeprefix("error: ").split(" hint: ")
    text = NO_SOLUTION.sub("", text)
    text = CONCLUSION.sub(".", text).removeprefix("Because ").rstrip(". ")
    # Options of uv's that nobody can give here.
    hints = [re.sub(r" \(try:? `--[^`]*`\)", "", hint).rstrip(". ") for hint in hints if "--no-build" not in hint]
    if "no usable wheels" in text:
        hints.append("make a wheel of it (pip wheel) and put it on an index, or into the folder for --offline")
    return _clean("; ".join([text, *hints])) or "the resolver gave no reason"


def without_urls(text: str) -> str:
    """No address of an index, and nothing of what may stand in one; its host tells enough."""
    return URL.sub(lambda url: url["host"] or "a local folder", text)


def _clean(text: str) -> str:
    text = without_urls(text)
    return text if len(text) <= MAX_REASON_CHARS else text[:MAX_REASON_CHARS] + " ..."


# --- the lock's text ---


def _pins(text: str) -> list[_Pinned]:
    found = []
    for line in re.sub(r"\\\n", " ", text).splitlines():
        if not line.strip() or line.lstrip().startswith("#"):
            continue
        pinned = PINNED.match(line)
        hashes = tuple(sorted(set(HASH.findall(line))))
        if pinned is None or not hashes:
            raise ConfigError(f"lock: expected name==version with its hashes, got {_clean(line.strip())!r}")
        found.append(_Pinned(str(canonicalize_name(pinned["name"])), pinned["version"], hashes))
    return sorted(found, key=lambda pinned: pinned.name)


def _text(pins: Sequence[_Pinned]) -> str:
    return "".join(
        " \\\n    ".join((f"{pinned.name}=={pinned.version}", *(f"--hash={value}" for value in pinned.hashes))) + "\n"
        for pinned in pins
    )


# --- files ---


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return file_digest(file, "sha256").hexdigest()


def _tags(python: str, arch: Arch) -> dict[Tag, int]:
    """What that Python can install there, the best first."""
    machine = MACHINES[arch]
    platforms = [f"manylinux_{GLIBC[0]}_{minor}_{machine}" for minor in range(GLIBC[1], 16, -1)]
    platforms += [f"manylinux2014_{machine}"]
    if arch == "amd64":
        older = ("2_16", "2_15", "2_14", "2_13", "2_12", "2_11", "2_10", "2_9", "2_8", "2_7", "2_6", "2_5")
        platforms += [f"manylinux_{version}_{machine}" for version in older]
        platforms += [f"manylinux2010_{machine}", f"manylinux1_{machine}"]
    platforms += [f"linux_{machine}"]
    major, minor = (int(part) for part in python.split(".")[:2])
    order = [
        *cpython_tags((major, minor), platforms=platforms),
        *compatible_tags((major, minor), f"cp{major}{minor}", platforms),
    ]
    return {tag: place for place, tag in reversed(list(enumerate(order)))}


# --- uv, and what pip is set up for ---


def _uv() -> str:
    try:
        return str(importlib.import_module("uv").find_uv_bin())
    except (ImportError, OSError):
        found = shutil.which("uv")
    if found is None:
        raise ConfigError('no uv found, which pins the dependencies: pip install "servekit[build]"')
    return found


def _sources_of_pip(environ: Mapping[str, str]) -> dict[str, str]:
    """uv's variables for what pip was told of indexes, proxies and certificates."""
    settings = _settings_of_pip(environ)
    found = {}
    index, more = settings.get("index-url"), settings.get("extra-index-url", "").split()
    if index:
        found["UV_DEFAULT_INDEX"] = index
    if more:
        found["UV_INDEX"] = " ".join(more)
        # As pip does, which takes the best version of all its indexes and installs from this lock later.
        found.setdefault("UV_INDEX_STRATEGY", environ.get("UV_INDEX_STRATEGY", "unsafe-best-match"))
    if links := settings.get("find-links", "").split():
        found["UV_FIND_LINKS"] = ",".join(links)
    if settings.get("no-index", "").lower() in ("1", "true", "yes", "on"):
        found["UV_NO_INDEX"] = "1"
    if hosts := settings.get("trusted-host", "").split():
        found["UV_INSECURE_HOST"] = " ".join(hosts)
    for setting, names in {
        "cert": ("SSL_CERT_FILE",),
        "client-cert": ("SSL_CLIENT_CERT",),
        "proxy": ("HTTPS_PROXY", "HTTP_PROXY"),
    }.items():
        for name in names:
            if settings.get(setting) and not (environ.get(name) or environ.get(name.lower())):
                found[name] = settings[setting]
    return found


def _settings_of_pip(environ: Mapping[str, str]) -> dict[str, str]:
    """By pip's own precedence: a variable, else `pip install`'s section of its files, else the one for all."""
    sections: dict[str, dict[str, str]] = {"global": {}, "install": {}, ":env:": {}}
    for line in _asked_pip(environ):
        place, _, value = line.partition("=")
        section, _, setting = place.rpartition(".")
        if section in sections:
            try:
                sections[section][setting] = str(ast.literal_eval(value))
            except (ValueError, SyntaxError):
                continue
    for name, value in environ.items():
        if name.startswith("PIP_") and value:
            sections[":env:"][name.removeprefix("PIP_").lower().replace("_", "-")] = value
    return sections["global"] | sections["install"] | sections[":env:"]


def _asked_pip(environ: Mapping[str, str]) -> list[str]:
    """`pip config list`, of the pip here or else of the one on PATH; nothing without a pip."""
    candidates = [[sys.executable, "-m", "pip"]]
    if (found := shutil.which("pip")) is not None:
        candidates.append([found])
    for pip in candidates:
        try:
            ended = subprocess.run(  # noqa: S603 - a list of arguments, no shell
                [*pip, "config", "list"],
                env=dict(environ),
                capture_output=True,
                text=True,
                errors="replace",
                timeout=MAX_ASKING_PIP_S,
                check=False,
            )
        except (OSError, subprocess.TimeoutExpired):
            continue
        if ended.returncode == 0:
            return ended.stdout.splitlines()
    return []
