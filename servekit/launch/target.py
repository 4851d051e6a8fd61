"""TARGET: from what a user typed to a predictor class.

`locate` only looks at names and source text; `load_class` imports the user's code, inside the worker.
"""

from __future__ import annotations

import ast
import importlib
import importlib.util
import re
import sys
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Literal

from servekit.errors import ConfigError, LoadFailed, ServeError
from servekit.predictor import Predictor

# SageMaker's model.tar.gz keeps code in code/, the model beside it.
WELL_KNOWN = ("predictor.py", "code/predictor.py", "inference.py", "code/inference.py")
FORMS = "module:Class, path/to/file.py[:Class], path/to/model.onnx, or a directory that holds one of them"
ARCHIVES = (".tar.gz", ".tgz", ".tar")
MODULE = re.compile(r"[A-Za-z_]\w*(\.[A-Za-z_]\w*)*")
CLASS = re.compile(r"[A-Za-z_]\w*")


@dataclass(frozen=True, slots=True)
class Target:
    """Where the predictor is. `path` is absolute, and None for a module; `directory` is the default model directory."""

    kind: Literal["module", "file", "onnx"]
    text: str
    directory: Path
    path: Path | None = None
    module: str | None = None
    class_name: str | None = None


def locate(text: str | None, model_dir: Path | None, cwd: Path) -> Target:
    """The target that `text` names; without a text, the one in the model directory.

    Raises ConfigError that says what came and what was expected.
    """
    try:
        return _in_model_dir(model_dir, cwd) if text is None else _named(text, cwd)
    except OSError as error:
        # A directory that this user may not enter, a name that the file system cannot hold.
        raise ConfigError(f"TARGET {text or str(model_dir)!r}: {error.strerror or error}") from error


def _in_model_dir(model_dir: Path | None, cwd: Path) -> Target:
    if model_dir is None:
        raise ConfigError(f"no TARGET and no model directory to look in: expected {FORMS}")
    directory = (cwd / model_dir).resolve()
    if not directory.is_dir():
        raise ConfigError(f"no TARGET, and the model directory {str(model_dir)!r} does not exist: expected {FORMS}")
    return _in_directory(directory, str(model_dir), None)


def _named(text: str, cwd: Path) -> Target:
    name, _, class_name = text.rpartition(":") if ":" in text else (text, "", "")
    if class_name and not CLASS.fullmatch(class_name):
        raise ConfigError(f"TARGET {text!r}: expected a class name after the colon, got {class_name!r}")
    path = (cwd / name).resolve()
    if name.endswith(".onnx"):
        # Its own name, not the one that it links to: external data lies beside the link in a hub's cache.
        path = (cwd / name).parent.resolve() / Path(name).name
    if path.is_dir() and not (class_name and MODULE.fullmatch(name) and not _has_code(path)):
        return _in_directory(path, text, class_name or None)
    if name.endswith((".onnx", ".py")):
        if not path.is_file():
            raise ConfigError(f"TARGET {text!r}: no such file")
        return _of_file(path, text, class_name or None)
    if class_name and MODULE.fullmatch(name):
        return Target("module", text, cwd.resolve(), module=name, class_name=class_name)
    if is_archive(path):
        raise ConfigError(f"TARGET {text!r}: expected a .py or .onnx file; an archive goes to --model-dir")
    if path.exists():
        raise ConfigError(f"TARGET {text!r}: expected a .py or .onnx file, got {path.name!r}")
    raise ConfigError(f"TARGET {text!r}: expected {FORMS}; there is no file or directory of this name")


def is_archive(path: Path) -> bool:
    return path.name.endswith(ARCHIVES) and path.is_file()


def lone_archive(directory: Path) -> Path | None:
    """The archive in a directory that holds nothing else, hidden files aside."""
    try:
        visible = [path for path in directory.iterdir() if not path.name.startswith(".")]
    except OSError:
        return None  # who needs the directory will say what is wrong with it
    return visible[0] if len(visible) == 1 and is_archive(visible[0]) else None


def stays_inside(path: Path, directory: Path) -> bool:
    """Do the symbolic links of `path`, if any, stay in the directory? Those that lead to it may come from anywhere.

    Mounted volumes are full of links that do (Kubernetes has `..data` and a link to it for every file).
    """
    return path.resolve().is_relative_to(directory.resolve())


def load_class(target: Target) -> type[Predictor]:
    """Import the target. Raises ConfigError, and LoadFailed with the cause when the user's code does not import."""
    if target.kind == "onnx":
        from servekit.backends.onnx import predictor_class

        assert target.path is not None  # noqa: S101 - an onnx target always has one
        return predictor_class(target.path)
    try:
        module = _import(target)
    except ServeError:
        raise
    except (Exception, SystemExit) as error:
        # `sys.exit()` in a module would end the worker without a word.
        raise LoadFailed(f"{target.text}: {type(error).__name__}: {error}", cause=error) from error
    if target.class_name is not None:
        found = getattr(module, target.class_name, None)
        if not (isinstance(found, type) and issubclass(found, Predictor)):
            raise ConfigError(
                f"TARGET {target.text!r}: expected a Predictor subclass {target.class_name}, got {found!r}"
            )
        return found
    return _only_predictor(module, target.text)


def _of_file(path: Path, text: str, class_name: str | None) -> Target:
    if path.suffix == ".onnx":
        if class_name:
            raise ConfigError(f"TARGET {text!r}: an .onnx file has no classes")
        return Target("onnx", text, path.parent, path=path)
    return Target("file", text, path.parent, path=path, class_name=class_name)


def _in_directory(directory: Path, text: str, class_name: str | None) -> Target:
    for name in WELL_KNOWN:
        if (directory / name).is_file():
            _refuse_outside(directory / name, directory, text)
            target = _of_file(directory / name, text, class_name)
            # The model lies at the top even when the code is in code/.
            return Target("file", text, directory, path=target.path, class_name=class_name)
    scripts = [path for path in _visible(directory, "*.py") if _defines_predictor(path)]
    models = [] if class_name else _visible(directory, "*.onnx") or _visible(directory, "*/*.onnx")
    candidates = scripts or models
    if len(candidates) == 1:
        _refuse_outside(candidates[0], directory, text)
        return _of_file(candidates[0], text, class_name)
    if not candidates:
        raise ConfigError(
            f"TARGET {text!r}: the directory holds no predictor.py, no other file with a Predictor, and no .onnx file"
        )
    names = ", ".join(str(path.relative_to(directory)) for path in candidates)
    raise ConfigError(f"TARGET {text!r}: the directory holds several candidates ({names}); name one of them")


def _visible(directory: Path, pattern: str) -> list[Path]:
    """Files that match, hidden ones left out: tar on a Mac puts `._model.onnx` beside `model.onnx`."""
    found = sorted(path for path in directory.glob(pattern) if path.is_file())
    return [path for path in found if not any(part.startswith(".") for part in path.relative_to(directory).parts)]


def _refuse_outside(path: Path, directory: Path, text: str) -> None:
    if not stays_inside(path, directory):
        name = path.relative_to(directory)
        raise ConfigError(
            f"TARGET {text!r}: {str(name)!r} is reached by a symbolic link that leads out of the directory: expected a "
            "file in it, or TARGET to name the file itself"
        )


def _has_code(directory: Path) -> bool:
    return any((directory / name).is_file() for name in WELL_KNOWN)


def _defines_predictor(path: Path) -> bool:
    """Does the source define a class with a base called Predictor? Nothing is imported."""
    try:
        tree = ast.parse(path.read_bytes())
    except (SyntaxError, ValueError, OSError):
        return False
    return any(
        isinstance(node, ast.ClassDef)
        and any(
            (isinstance(base, ast.Name) and base.id == "Predictor")
            or (isinstance(base, ast.Attribute) and base.attr == "Predictor")
            for base in node.bases
        )
        for node in tree.body
    )


def _import(target: Target) -> ModuleType:
    if target.module is not None:
        _first_on_path(target.directory)
        try:
            return importlib.import_module(target.module)
        except ModuleNotFoundError as error:
            if error.name is not None and f"{target.module}.".startswith(f"{error.name}."):
                raise ConfigError(f"TARGET {target.text!r}: no module {error.name!r}") from error
            raise
    assert target.path is not None  # noqa: S101 - a file target always has one
    _first_on_path(target.path.parent)
    # The platform's model directory is not ours to write into, and may be read-only.
    sys.dont_write_bytecode = True
    name = _module_name(target.path)
    spec = importlib.util.spec_from_file_location(name, target.path)
    if spec is None or spec.loader is None:
        raise ConfigError(f"TARGET {target.text!r}: expected a Python file")
    module = importlib.util.module_from_spec(spec)
    # Registered before it runs, as the import system does: dataclasses and pickles look themselves up by name.
    previous = sys.modules.get(name)
    sys.modules[name] = module
    try:
        spec.loader.exec_module(module)
    except BaseException:
        if previous is not None:
            sys.modules[name] = previous
        else:
            del sys.modules[name]
        raise
    return module


def _module_name(path: Path) -> str:
    """The file's stem, by which its siblings and pickles know it, made unique where another module has that name."""
    stem = path.stem if path.stem.isidentifier() else "predictor"
    loaded = sys.modules.get(stem)
    if stem not in sys.stdlib_module_names and (loaded is None or getattr(loaded, "__file__", None) == str(path)):
        return stem
    import hashlib  # OpenSSL behind it takes a while, and the name is seldom taken

    return f"{stem}_{hashlib.sha256(bytes(path)).hexdigest()[:12]}"


def _first_on_path(directory: Path) -> None:
    """The folder of the target comes first, so that its siblings can be imported."""
    if sys.path[:1] != [str(directory)]:
        sys.path.insert(0, str(directory))


def _only_predictor(module: ModuleType, text: str) -> type[Predictor]:
    own = [
        value
        for value in vars(module).values()
        if isinstance(value, type)
        and issubclass(value, Predictor)
        and value is not Predictor
        and value.__module__ == module.__name__
    ]
    leaves = [cls for cls in own if not any(other is not cls and issubclass(other, cls) for other in own)]
    if len(leaves) == 1:
        return leaves[0]
    if not leaves:
        raise ConfigError(f"TARGET {text!r}: the file defines no subclass of servekit.Predictor")
    names = ", ".join(cls.__name__ for cls in leaves)
    raise ConfigError(f"TARGET {text!r}: the file defines several predictors ({names}); name one after a colon")
