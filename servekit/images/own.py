"""How servekit itself gets into an image: from the index it came from, or as a wheel made of what is installed here."""

from __future__ import annotations

import base64
import hashlib
import io
import os
import re
import tomllib
import zipfile
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import Distribution, PackageNotFoundError, distribution
from pathlib import Path
from typing import Any

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

import servekit
from servekit.errors import ConfigError

NAME = "servekit"
# What an installer leaves beside the wheel's own files, and what is written anew.
INSTALLERS_OWN = frozenset({"INSTALLER", "REQUESTED", "RECORD", "WHEEL", "direct_url.json", "uv_cache.json"})
BYTECODE = (".pyc", ".pyo")
# The first moment that a ZIP file can name.
TIME = (1980, 1, 1, 0, 0, 0)
UNIX = 3
FILE_MODE, PROGRAM_MODE = 0o100644, 0o100755
EXTRA = re.compile(r'extra == "([^"]+)"')
TAG = "py3-none-any"
WHEEL_FILE = f"Wheel-Version: 1.0\nGenerator: servekit\nRoot-Is-Purelib: true\nTag: {TAG}\n"
AGAIN = "install servekit again with pip"


@dataclass(frozen=True, slots=True)
class Wheel:
    name: str
    content: bytes


@dataclass(frozen=True, slots=True)
class Own:
    """requirements: lines for the lock. wheel: goes into the image as it is, since no index has it."""

    requirements: tuple[str, ...]
    wheel: Wheel | None


@dataclass(frozen=True, slots=True)
class _File:
    content: bytes
    executable: bool = False


def own(extras: Sequence[str]) -> Own:
    """The servekit that runs here, with these of its extras. Raises ConfigError."""
    try:
        installed = distribution(NAME)
    except PackageNotFoundError as error:
        raise ConfigError(f"servekit is not installed, only its files are found: {AGAIN}") from error
    runs = Path(servekit.__file__).resolve().parent
    files = _listed(installed)
    in_place = f"{NAME}/__init__.py" in files and files[f"{NAME}/__init__.py"].resolve().parent == runs
    required = (None if in_place else _declared(runs)) or installed.requires or ()
    wanted = _known(required, extras)
    if installed.version != servekit.__version__:
        raise ConfigError(
            f"servekit is version {servekit.__version__}, its installed metadata says {installed.version}: {AGAIN}"
        )
    if in_place and _from_index(installed):
        names = f"[{','.join(wanted)}]" if wanted else ""
        return Own((f"{NAME}{names}=={installed.version}",), None)
    requirements = _requirements(required, wanted)
    if not in_place:
        # An editable install lists a pointer to the package; what runs is what goes into the image.
        files = {name: path for name, path in files.items() if not name.startswith(f"{NAME}/")} | _package(runs)
    return Own(requirements, _wheel(installed.version, _read(files)))


def _known(required: Iterable[str], extras: Sequence[str]) -> tuple[str, ...]:
    markers = " ".join(str(Requirement(line).marker) for line in required)
    there = {str(canonicalize_name(name)) for name in EXTRA.findall(markers)}
    wanted = sorted({str(canonicalize_name(name)) for name in extras})
    for name in wanted:
        if name not in there:
            raise ConfigError(f"servekit[{name}]: expected one of servekit's extras ({', '.join(sorted(there))})")
    return tuple(wanted)


def _declared(package: Path) -> list[str] | None:
    """What the checkout around the package requires. Its metadata is as old as the last `pip install --editable`."""
    try:
        project = tomllib.loads((package.parent / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    except (OSError, ValueError, KeyError):
        return None
    if project.get("name") != NAME:
        return None
    lines = list(project.get("dependencies", ()))
    for extra, optional in project.get("optional-dependencies", {}).items():
        for requirement in map(Requirement, optional):
            marker = f'extra == "{extra}"'
            lines.append(_line(requirement, f"({requirement.marker}) and {marker}" if requirement.marker else marker))
    return lines


def _from_index(installed: Distribution) -> bool:
    """pip and uv write direct_url.json for whatever they were given by path or URL."""
    return installed.read_text("direct_url.json") is None and installed.read_text("INSTALLER") is not None


# --- what it needs ---


def _requirements(lines: Iterable[str], extras: Sequence[str]) -> tuple[str, ...]:
    """The lines that hold for the extras. What a marker says of Python and the platform stays for the resolver."""
    parsed = [Requirement(line) for line in lines]
    chosen = {""} | set(extras)
    while True:
        kept = [(requirement, _without_extra(requirement, chosen)) for requirement in parsed]
        # An extra may be made of others: `servekit[fast,image]; extra == "dev"`.
        more = {
            str(canonicalize_name(name))
            for requirement, marker in kept
            if marker is not None and canonicalize_name(requirement.name) == NAME
            for name in requirement.extras
        }
        if more <= chosen:
            break
        chosen |= more
    found = {
        _line(requirement, marker)
        for requirement, marker in kept
        if marker is not None and canonicalize_name(requirement.name) != NAME
    }
    return tuple(sorted(found))


def _line(requirement: Requirement, marker: str) -> str:
    requirement.marker = None
    return f"{requirement}; {marker}" if marker else str(requirement)


def _without_extra(requirement: Requirement, extras: Iterable[str]) -> str | None:
    """What is left of the marker with these extras: "" when it holds anyway, None when it cannot."""
    if requirement.marker is None:
        return ""
    # Public names only evaluate a marker for one environment, whole.
    tree: Any = requirement.marker._markers
    left = {_left(tree, extra) for extra in sorted(extras)}
    if True in left:
        return ""
    return " or ".join(sorted(text for text in left if isinstance(text, str))) or None


def _left(tree: Any, extra: str) -> str | bool:
    """A marker with `extra` put in: lists of comparisons, which are triples, with "and" and "or" between them."""
    if isinstance(tree, tuple):
        left, comparison, right = tree
        if "extra" not in (left.serialize(), right.serialize()):
            return " ".join(part.serialize() for part in tree)
        name = right.value if left.serialize() == "extra" else left.value
        return bool((canonicalize_name(name) == extra) == (comparison.value == "=="))
    either: list[list[str | bool]] = [[]]
    for part in tree:
        if part == "or":
            either.append([])
        elif part != "and":
            either[-1].append(_left(part, extra))
    terms = [_all(terms) for terms in either]
    if True in terms:
        return True
    texts = [text for text in terms if isinstance(text, str)]
    if len(texts) < 2:
        return texts[0] if texts else False
    return f"({' or '.join(texts)})"


def _all(terms: Sequence[str | bool]) -> str | bool:
    if False in terms:
        return False
    return " and ".join(text for text in terms if isinstance(text, str)) or True


# --- the wheel ---


def _listed(installed: Distribution) -> dict[str, Path]:
    """The wheel's own files by their names in it, as RECORD has them."""
    listed = installed.files
    if listed is None:
        raise ConfigError(f"servekit's installed metadata has no RECORD of its files: {AGAIN}")
    found = {}
    for file in listed:
        top, _, rest = file.as_posix().partition("/")
        if ".." in file.parts or file.suffix in BYTECODE or not rest:
            continue  # a command of bin/, a .pth file
        if top.endswith(".dist-info") and rest not in INSTALLERS_OWN:
            found[f"{_metadata_folder(installed.version)}/{rest}"] = Path(str(file.locate()))
        elif top == NAME:
            found[file.as_posix()] = Path(str(file.locate()))
    return found


def _package(folder: Path) -> dict[str, Path]:
    """The files of a package folder that somebody works in; hidden ones are none of the package's."""
    found = {}
    for directory, below, names in os.walk(folder):
        below[:] = [name for name in below if name != "__pycache__" and not name.startswith(".")]
        for name in names:
            path = Path(directory, name)
            if path.suffix in BYTECODE or name.startswith(".") or name.endswith("~"):
                continue
            if path.is_symlink() or not path.is_file():
                continue
            found[f"{NAME}/{path.relative_to(folder).as_posix()}"] = path
    return found


def _read(files: Mapping[str, Path]) -> dict[str, _File]:
    try:
        return {name: _File(path.read_bytes(), bool(path.stat().st_mode & 0o100)) for name, path in files.items()}
    except OSError as error:
        raise ConfigError(f"servekit's own file {error.filename}: {error.strerror}: {AGAIN}", cause=error) from error


def _wheel(version: str, files: Mapping[str, _File]) -> Wheel:
    """The same bytes for the same files: no time, no owner, no order of a directory, and no zlib of this machine."""
    folder = _metadata_folder(version)
    everything = dict(sorted(files.items())) | {f"{folder}/WHEEL": _File(WHEEL_FILE.encode())}
    record = "".join(f"{name},{_digest(file.content)},{len(file.content)}\n" for name, file in everything.items())
    everything[f"{folder}/RECORD"] = _File(f"{record}{folder}/RECORD,,\n".encode())
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_STORED) as archive:
        for name, file in everything.items():
            member = zipfile.ZipInfo(name, TIME)
            member.create_system = UNIX
            member.external_attr = (PROGRAM_MODE if file.executable else FILE_MODE) << 16
            archive.writestr(member, file.content, zipfile.ZIP_STORED)
    return Wheel(f"{folder.removesuffix('.dist-info')}-{TAG}.whl", buffer.getvalue())


def _metadata_folder(version: str) -> str:
    return f"{NAME}-{version.replace('-', '_')}.dist-info"


def _digest(content: bytes) -> str:
    return "sha256=" + base64.urlsafe_b64encode(hashlib.sha256(content).digest()).rstrip(b"=").decode()
