"""From what a user typed to a project: its root, its target, its metadata, and what it needs.

The predictor is imported in a process of its own, whose end and whose output are no concern of ours: all that comes
back is the declaration of its inputs and outputs.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import signal
import stat
import subprocess
import sys
import tempfile
import tomllib
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from packaging.requirements import Requirement
from packaging.specifiers import InvalidSpecifier, SpecifierSet
from packaging.version import InvalidVersion, Version

from servekit.containers import Product
from servekit.errors import ConfigError, LoadFailed, ServeError
from servekit.images import requirements as needed
from servekit.launch.target import Target, load_class, locate
from servekit.signature import File, Image, Json, Signature, Spec, Tensor, Text

MARKERS = ("pyproject.toml", "requirements.txt", ".git")
MANIFEST = "model.yaml"
IMPORT_TIMEOUT_S = 300.0
MAX_FILE_BYTES = 1024 * 1024
MAX_ANSWER_BYTES = 16 * 1024 * 1024
MAX_SHOWN = 500
# Of a number that is a name or version; Python refuses to write numbers of many digits.
MAX_BITS = 64
SPECS: dict[str, type[Spec]] = {spec.__name__: spec for spec in (Tensor, Image, Text, Json, File)}
NOT_IN_A_NAME = re.compile(r"[^A-Za-z0-9._-]+")
MAX_NAME = 100
IMPORTS = "import sys; from servekit.images.project import answer; answer(sys.argv[1])"


@dataclass(frozen=True, slots=True)
class Project:
    """
    target: relative to root, as SERVEKIT_TARGET has it below /opt/project; for a module its own text.
    requirements: lines for the lock, without servekit. extras: servekit's own.
    directory: relative to root, "" for root itself: what `load` receives where the platform brings no model; manifests
        lie there.
    import_from: for a module, the folder below root that it is imported from; None for the other targets.
    servekit: the project's own line for it, "" when it has none. source: where the requirements stand.
    hashes: of the only files that may be installed, by normalised name, where the requirements give some.
    python: the versions of Python that the project is for, in pyproject.toml's words; "" for any.
    predictor: the name of the class.
    """

    root: Path
    target: str
    product: Product
    requirements: tuple[str, ...]
    extras: tuple[str, ...]
    directory: str = ""
    import_from: str | None = None
    servekit: str = ""
    source: str = ""
    predictor: str = ""
    hashes: Mapping[str, frozenset[str]] = field(default_factory=dict)
    python: str = ""


def find(
    target: str | None, cwd: Path, *, requirements: Path | None = None, import_timeout_s: float = IMPORT_TIMEOUT_S
) -> Project:
    """The project of `target`, or the one that the current directory lies in. Raises ConfigError, LoadFailed."""
    cwd = cwd.resolve()
    located = _in_project(cwd) if target is None else locate(target, None, cwd)
    text = located.text
    root = _root(located.directory)
    current = _root(cwd)
    if not located.directory.is_relative_to(current):
        raise ConfigError(
            f"TARGET {text!r}: expected a target inside of the current project {str(current)!r}, "
            f"got one in {str(root)!r}: go to its folder first"
        )
    # A project within the project is its own; one around it is not.
    pyproject = _pyproject(root / "pyproject.toml")
    wanted = needed.read(root, None if requirements is None else cwd / requirements, pyproject)
    answered = _ask(text, cwd, import_timeout_s)
    signature = Signature(_specs(answered["inputs"]), _specs(answered["outputs"]))
    extras = (
        {"image"}
        if any(isinstance(spec, Image) for spec in [*signature.inputs.values(), *signature.outputs.values()])
        else set()
    )
    if wanted.servekit:
        extras |= Requirement(wanted.servekit).extras
    return Project(
        root=root,
        target=_target(located, root),
        product=_product(root, located.directory, pyproject, signature),
        requirements=wanted.lines,
        extras=tuple(sorted(extras)),
        directory=_below(located.directory, root, text),
        import_from=_import_from(located, answered["file"], root),
        servekit=wanted.servekit,
        source=wanted.source,
        predictor=answered["class"],
        hashes=wanted.hashes,
        python=_python(pyproject),
    )


# --- where ---


def _in_project(cwd: Path) -> Target:
    """The target of this directory, else of the project around it."""
    try:
        return locate(".", None, cwd)
    except ConfigError as error:
        root = _root(cwd)
        if root != cwd:
            with contextlib.suppress(ConfigError):
                return locate(os.path.relpath(root, cwd), None, cwd)
        raise error from None


def _root(folder: Path) -> Path:
    """The nearest folder from here upwards that looks like a project's, else this one."""
    forbidden = {Path(folder.anchor), _home()}
    for candidate in (folder, *folder.parents):
        # Nobody keeps a project in the home folder itself, but some a .git; anybody may put a file into /tmp.
        if candidate in forbidden or (candidate != folder and candidate.stat().st_mode & stat.S_IWOTH):
            break
        if any((candidate / marker).exists() for marker in MARKERS):
            return candidate
    if folder in forbidden:
        raise ConfigError(
            f"TARGET: expected a folder of its own, since all of it enters the image, got {str(folder)!r}: put the "
            "predictor and its model into one"
        )
    return folder


def _home() -> Path | None:
    try:
        return Path.home().resolve()
    except (RuntimeError, OSError):
        return None


def _below(path: Path, root: Path, text: str) -> str:
    if not path.is_relative_to(root):
        raise ConfigError(f"TARGET {text!r}: expected a file of the project {str(root)!r}, got {str(path)!r}")
    relative = path.relative_to(root).as_posix()
    # In the image it stands in variables, one of which is a list with colons.
    if ":" in relative or not relative.isprintable():
        raise ConfigError(f"TARGET {relative!r}: expected a path without colons and control characters")
    return "" if relative == "." else relative


def _target(located: Target, root: Path) -> str:
    if located.module is not None:
        return f"{located.module}:{located.class_name}"
    assert located.path is not None  # noqa: S101 - a target that is no module has one
    path = _below(located.path, root, located.text)
    # In code/, with the model beside it: only the folder's name says so.
    name = path if located.directory == located.path.parent else _below(located.directory, root, located.text) or "."
    return f"{name}:{located.class_name}" if located.class_name else name


def _import_from(located: Target, file: str | None, root: Path) -> str | None:
    """The folder that the module's first name lies in."""
    if located.module is None:
        return None
    # By its own name, not by that of the file that it links to.
    path = Path(os.path.abspath(file or "."))  # noqa: PTH100 - resolve would follow the link
    if not path.is_relative_to(root):
        path = path.resolve()
    if file is None or not path.is_relative_to(root):
        raise ConfigError(
            f"TARGET {located.text!r}: expected a module of the project {str(root)!r}, got one from {file!r}: a module "
            "of another package needs a file in the project that imports it"
        )
    names = located.module.count(".") + (2 if path.name == "__init__.py" else 1)
    return _below(path.parents[names - 1], root, located.text)


# --- who ---


def _product(root: Path, directory: Path, pyproject: Mapping[str, Any] | None, signature: Signature) -> Product:
    declared = (pyproject or {}).get("project", {})
    manifest = _manifest(directory / MANIFEST)
    description = manifest.get("description")
    description = description if isinstance(description, dict) else {}
    version, said_by = _first(
        (declared.get("version"), "pyproject.toml: project.version"), (manifest.get("version"), f"{MANIFEST}: version")
    )
    return Product(
        name=_name(_first((declared.get("name"), ""), (manifest.get("name"), ""))[0] or root.name),
        version=_version(version, said_by) if version else "1.0.0",
        signature=signature,
        summary=_first((declared.get("description"), ""), (description.get("summary"), ""))[0],
        details=_first((description.get("details"), ""))[0],
        author=_authors(declared.get("authors")) or _first((manifest.get("author"), ""))[0],
    )


def _first(*values: tuple[Any, str]) -> tuple[str, str]:
    """The first that says anything, as text without line ends. YAML makes a number of a version such as 1.0."""
    for value, origin in values:
        if isinstance(value, int) and (isinstance(value, bool) or value.bit_length() > MAX_BITS):
            continue
        if isinstance(value, (str, int, float)) and str(value).strip():
            return " ".join(str(value).split()), origin
    return "", ""


def _authors(people: Any) -> str:
    if not isinstance(people, list):
        return ""
    names = [person.get("name") or person.get("email") for person in people if isinstance(person, dict)]
    return ", ".join(name for name in names if isinstance(name, str))


def _name(text: str) -> str:
    """Letters, digits and . _ -, beginning with a letter."""
    name = re.sub(r"^[^A-Za-z]+", "", NOT_IN_A_NAME.sub("-", text)).strip("-._")
    return name[:MAX_NAME].rstrip("-._") or "model"


def _version(text: str, origin: str) -> str:
    """Three integers, as Modzy has it: `1.2` becomes 1.2.0."""
    wrong = ConfigError(f"{origin}: expected three integers with dots between them, such as 1.2.0, got {text!r}")
    try:
        version = Version(text)
    except InvalidVersion:
        raise wrong from None
    more = version.pre or version.post is not None or version.dev is not None or version.local or version.epoch
    if more or len(version.release) > 3 or max(version.release) >= 10**9:
        raise wrong
    return f"{version.major}.{version.minor}.{version.micro}"


def _python(pyproject: Mapping[str, Any] | None) -> str:
    text = (pyproject or {}).get("project", {}).get("requires-python", "")
    try:
        return str(SpecifierSet(text))
    except (InvalidSpecifier, AttributeError, TypeError) as error:
        raise ConfigError(
            f"pyproject.toml: project.requires-python: expected versions such as '>=3.11', got {text!r}"
        ) from error


def _pyproject(file: Path) -> dict[str, Any] | None:
    content = _content(file)
    if content is None:
        return None
    try:
        document = tomllib.loads(content.decode())
    except (ValueError, RecursionError) as error:
        raise ConfigError(f"pyproject.toml: expected TOML, got an error: {error}", cause=error) from error
    for name in ("project", "tool"):
        if not isinstance(document.get(name, {}), dict):
            raise ConfigError(f"pyproject.toml: {name}: expected a table")
    return document


def _manifest(file: Path) -> dict[str, Any]:
    content = _content(file)
    if content is None:
        return {}
    import yaml

    try:
        document = yaml.safe_load(content)
    except (yaml.YAMLError, RecursionError, ValueError) as error:
        raise ConfigError(f"{file.name}: expected YAML, got an error: {' '.join(str(error).split())}") from error
    return document if isinstance(document, dict) else {}


def _content(file: Path) -> bytes | None:
    try:
        if not file.is_file():
            return None
        with file.open("rb") as opened:
            content = opened.read(MAX_FILE_BYTES + 1)
    except OSError as error:
        raise ConfigError(f"{file.name}: {error.strerror}", cause=error) from error
    if len(content) > MAX_FILE_BYTES:
        raise ConfigError(f"{file.name}: expected at most {MAX_FILE_BYTES} bytes")
    return content


# --- what: the predictor, in a process of its own ---


def answer(text: str) -> None:
    """In the process that imports the target: what it declares, as JSON on standard output."""
    # What the user's code prints goes elsewhere.
    channel = os.dup(1)
    os.dup2(2, 1)
    try:
        located = locate(text, None, Path.cwd())
        predictor = load_class(located)
        signature = Signature(predictor.inputs, predictor.outputs)
        module = sys.modules.get(located.module or "")
        said: dict[str, Any] = {
            "class": predictor.__name__,
            "inputs": _plain(signature.inputs),
            "outputs": _plain(signature.outputs),
            "file": getattr(module, "__file__", None),
        }
    except ServeError as error:
        said = {"error": error.message, "failed": isinstance(error, LoadFailed)}
    with os.fdopen(channel, "w") as opened:
        json.dump(said, opened)
    # Threads and hooks of the user's code have no say in when this ends.
    os._exit(0)


def _plain(specs: Mapping[str, Spec]) -> dict[str, Any]:
    return {name: {"type": type(spec).__name__, **asdict(spec)} for name, spec in specs.items()}


def _specs(plain: Mapping[str, Any]) -> dict[str, Spec]:
    return {
        name: SPECS[spec["type"]](**{key: value for key, value in spec.items() if key != "type"})
        for name, spec in plain.items()
    }


def _ask(text: str, cwd: Path, timeout_s: float) -> dict[str, Any]:
    # Files, since a grandchild may keep a pipe open for ever.
    with tempfile.TemporaryFile() as answered, tempfile.TemporaryFile() as printed:
        child = subprocess.Popen(  # noqa: S603 - our own interpreter and program
            [sys.executable, "-P", "-c", IMPORTS, text],
            cwd=cwd, stdin=subprocess.DEVNULL, stdout=answered, stderr=printed, start_new_session=True,
            env=os.environ | {"PYTHONDONTWRITEBYTECODE": "1"},
        )  # fmt: skip
        try:
            code = child.wait(timeout_s)
        except BaseException as error:
            if child.returncode is None:
                os.killpg(child.pid, signal.SIGKILL)  # with what it has started
                child.wait()
            if not isinstance(error, subprocess.TimeoutExpired):
                raise  # Ctrl-C, which does not reach its session
            raise ConfigError(
                f"TARGET {text!r}: expected it to be imported within {timeout_s:g} s: read the model in `load`, not in "
                "the module"
            ) from error
        answered.seek(0)
        body = answered.read(MAX_ANSWER_BYTES)
        printed.seek(max(0, printed.seek(0, os.SEEK_END) - MAX_FILE_BYTES))
        words = printed.read().decode(errors="replace").strip().splitlines()
    try:
        said: dict[str, Any] = json.loads(body)
    except ValueError:
        why = f"signal {signal.Signals(-code).name}" if code < 0 else f"exit code {code}"
        raise LoadFailed(
            f"{text}: the import ended with {why}: {_short(words[-1] if words else 'no output')}"
        ) from None
    if "error" not in said:
        return said
    if said["failed"]:
        raise LoadFailed(
            f"{_short(said['error'])}; the predictor is imported to learn its inputs and outputs, so what it imports "
            "has to be installed here, and the variables that it reads have to be set"
        )
    raise ConfigError(_short(said["error"]))


def _short(text: str) -> str:
    line = " ".join(text.split())
    return line if len(line) <= MAX_SHOWN else f"{line[:MAX_SHOWN]}..."
