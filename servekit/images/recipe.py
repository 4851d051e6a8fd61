"""From a project, what platforms demand, and a lock to the files of a build context. Pure: same input, same bytes.

The image has two stages. The first makes a virtual environment of the locked dependencies; the second copies it whole
and puts what changes most last, so that a changed predictor rebuilds no dependencies.
"""

from __future__ import annotations

import fnmatch
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import PurePosixPath
from typing import TypeVar

from servekit.containers import BootFile, Container, Product
from servekit.contract import Platform
from servekit.errors import ConfigError
from servekit.images.context import Copied, Entry
from servekit.images.pins import LOCK, pinned
from servekit.images.project import Project

PROJECT, ENVIRONMENT = "/opt/project", "/opt/servekit"
PLATFORM_VARIABLE = "SERVEKIT_PLATFORM"
# What an image reference is made of; no blanks, quotes or dollars, so that it may stand in a shell's text.
BASE = re.compile(r"[A-Za-z0-9][A-Za-z0-9._/:@-]{0,511}")
PYTHON = re.compile(r"3\.[0-9]{1,2}")
VARIABLE = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
LABEL = re.compile(r"[A-Za-z0-9]([A-Za-z0-9._/-]*[A-Za-z0-9])?")
PACKAGE = re.compile(r"[a-z0-9][a-z0-9+.:~=-]*")
USER = re.compile(r"[0-9]{1,10}:[0-9]{1,10}")
PLACE = re.compile(r"(/[A-Za-z0-9_+@-][A-Za-z0-9._+@-]*)+")
FILE = re.compile(r"[A-Za-z0-9][A-Za-z0-9._+!-]*")
RUNTIME = {"PYTHONDONTWRITEBYTECODE": "1", "PYTHONUNBUFFERED": "1"}
OLDEST = (3, 11)
SECRET = "--mount=type=secret,id=pip.conf,target=/etc/pip.conf"  # noqa: S105 - no password
CACHE = "--mount=type=cache,target=/var/cache/servekit-pip"
PIP = (
    f"python3 -m pip --python {ENVIRONMENT}/bin/python3 --disable-pip-version-check --no-input \\\n"
    "    install --no-deps --compile"
)
# Of packages that servekit needs itself; there are others that import their own tests.
TRIMMED = ("gevent", "greenlet", "numpy", "zope")
TRIM = (
    'python3 -c "import pathlib, shutil; \\\n'
    f"    [shutil.rmtree(path) for name in {TRIMMED} \\\n"
    f"    for path in sorted(pathlib.Path('{ENVIRONMENT}').glob('lib/*/site-packages/' + name + '/**/tests')) \\\n"
    '    if path.is_dir()]"'
)
DEFAULT_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"

Value = TypeVar("Value")


def demands(platforms: Mapping[str, Platform], product: Product) -> dict[str, Container]:
    """What each of the platforms demands. Raises ConfigError when one says nothing of images.

    For several at once no variable may say which one it is: that is told by the environment at the start.
    """
    found = {}
    for name, platform in platforms.items():
        if platform.container is None:
            raise ConfigError(f"--platform {name}: it says nothing of images: expected one that has a `container`")
        found[name] = platform.container(product)
    if len(found) == 1:
        [(name, container)] = found.items()
        return {name: replace(container, environment={PLATFORM_VARIABLE: name, **container.environment})}
    signs = [PLATFORM_VARIABLE, *(sign for platform in platforms.values() for sign in platform.detect)]
    return {
        name: replace(container, environment=_without(container.environment, signs))
        for name, container in found.items()
    }


def _without(environment: Mapping[str, str], signs: Sequence[str]) -> dict[str, str]:
    return {
        name: value for name, value in environment.items() if not any(fnmatch.fnmatchcase(name, sign) for sign in signs)
    }


def merged(containers: Mapping[str, Container]) -> Container:
    """One container that does for all. Raises ConfigError where they contradict each other."""
    parts = list(containers.values())
    users = {container.user for container in parts}
    return Container(
        command=_command(containers),
        environment=_union("the variable", {name: part.environment for name, part in containers.items()}),
        labels=_union("the label", {name: part.labels for name, part in containers.items()}),
        ports=tuple(sorted({port for part in parts for port in part.ports})),
        # Whoever wants another user than root names it at the start; what runs as root runs for those who do not.
        user=users.pop() if len(users) == 1 else "",
        packages=tuple(sorted({package for part in parts for package in part.packages})),
        setup=tuple(dict.fromkeys(command for part in parts for command in part.setup)),
        files=_union("the file", {name: part.files for name, part in containers.items()}),
        manifests=_union("the manifest", {name: part.manifests for name, part in containers.items()}),
    )


def _command(containers: Mapping[str, Container]) -> tuple[str, ...]:
    """That of the boot file, which looks at the environment; else the one that all agree on."""
    commands = {container.command for container in containers.values()}
    booting = {
        container.command
        for container in containers.values()
        if any(argument in container.files for argument in container.command)
    }
    chosen = booting or commands
    if len(chosen) != 1:
        names = ", ".join(f"{name} {' '.join(container.command)!r}" for name, container in containers.items())
        raise ConfigError(f"--platform: one image cannot have several commands ({names}): build an image for each")
    return chosen.pop()


def _union(what: str, parts: Mapping[str, Mapping[str, Value]]) -> dict[str, Value]:
    found: dict[str, Value] = {}
    origins: dict[str, str] = {}
    for platform, values in parts.items():
        for name, value in values.items():
            if found.setdefault(name, value) != value:
                raise ConfigError(
                    f"--platform: {what} {name} is one thing for {origins[name]} and another for {platform}: build an "
                    "image for each"
                )
            origins.setdefault(name, platform)
    return dict(sorted(found.items()))


def context(
    project: Project,
    containers: Mapping[str, Container],
    *,
    base: str,
    python: str,
    lock: str,
    wheels: Mapping[str, bytes | Copied],
    files: Mapping[str, Entry],
) -> dict[str, Entry]:
    """Every file of the context by its path in it.

    python: such as 3.12. wheels: servekit's own, if no index has it, and those of the lock, if none is to be asked.
    files: of the project, by path relative to its root. Raises ConfigError.
    """
    container = merged(containers)
    _check(container, base, python)
    beside = PurePosixPath("project", project.directory)
    made: dict[str, Entry] = {
        LOCK: BootFile(lock.encode()),
        **{f"wheels/{_checked(FILE, name, 'wheel')}": _entry(content) for name, content in wheels.items()},
        **{f"boot{path}": file for path, file in container.files.items()},
        # Those that the project has itself, below, replace them.
        **{
            str(beside / _checked(FILE, name, "manifest")): BootFile(content)
            for name, content in container.manifests.items()
        },
        **{f"project/{path}": file for path, file in files.items()},
    }
    tops = sorted({name.partition("/")[0] for name in made} | {"Dockerfile"})
    made["Dockerfile"] = BootFile(
        _dockerfile(project, containers, container, base, python, _wheels(lock, wheels)).encode()
    )
    made[".dockerignore"] = BootFile(
        "".join(["# Nothing but what the Dockerfile needs.\n", "*\n", *(f"!{top}\n" for top in tops)]).encode()
    )
    return dict(sorted(made.items()))


def _entry(content: bytes | Copied) -> Entry:
    return BootFile(content) if isinstance(content, bytes) else content


def _wheels(lock: str, wheels: Mapping[str, bytes | Copied]) -> tuple[str | None, bool]:
    """The name of servekit's own wheel, if it is no package of the lock; and are there others?"""
    own = None if "servekit" in pinned(lock) else next((name for name in wheels if name.startswith("servekit-")), None)
    return own, len(wheels) > (own is not None)


def check(containers: Mapping[str, Container], base: str, python: str) -> None:
    """Raises ConfigError when no image can be made of these."""
    _check(merged(containers), base, python)


def _check(container: Container, base: str, python: str) -> None:
    _checked(BASE, base, "--base: an image such as python:3.12-slim-bookworm")
    if base == "scratch":
        raise ConfigError("--base scratch: expected an image with Python, such as python:3.12-slim-bookworm")
    _checked(PYTHON, python, "--python: a version such as 3.12")
    if tuple(int(part) for part in python.split(".")) < OLDEST:
        raise ConfigError(f"--python {python}: expected {OLDEST[0]}.{OLDEST[1]} or newer")
    for name, value in container.environment.items():
        _checked(VARIABLE, name, "variable")
        if not value.isprintable():
            raise ConfigError(f"the variable {name}: expected one line, got {value!r}")
    for name in container.labels:
        _checked(LABEL, name, "label")
    for path in container.files:
        _checked(PLACE, path, "boot file")
    for package in container.packages:
        _checked(PACKAGE, package, "package")
    if container.user:
        _checked(USER, container.user, "user: two numbers")
    for port in container.ports:
        if not 1 <= port <= 65535:
            raise ConfigError(f"port: expected 1 to 65535, got {port}")
    for command in container.setup:
        # `<<` would begin a document of the Dockerfile's own.
        if not command.isprintable() or "<<" in command or command.startswith("#") or command.endswith("\\"):
            raise ConfigError(f"setup: expected a shell command on one line, got {command!r}")


def _checked(pattern: re.Pattern[str], text: str, what: str) -> str:
    if not pattern.fullmatch(text):
        raise ConfigError(f"{what}: expected {pattern.pattern}, got {text!r}")
    return text


# --- the Dockerfile ---


def _dockerfile(
    project: Project,
    containers: Mapping[str, Container],
    container: Container,
    base: str,
    python: str,
    wheels: tuple[str | None, bool],
) -> str:
    product = project.product
    stanzas = [
        _comment(
            "Made by `servekit build`, which writes this folder anew: change the project instead.",
            f"{product.name} {product.version} for {', '.join(containers)}.",
        ),
        _comment("The dependencies, in a virtual environment that is copied whole.")
        + f"FROM {base} AS dependencies\nUSER 0\n",
        _comment("The lock is for one version of Python.") + _environment_stage(base, python),
        *_installs(*wheels),
        _comment("The image: what changes most comes last.") + f"FROM {base}\nUSER 0\n",
        *_packages(container, base),
        *_setup(container),
        f"COPY --from=dependencies {ENVIRONMENT} {ENVIRONMENT}\n",
        *_boot(container),
        _comment("What is asked of the image, and what it tells those who start it.")
        + _pairs("LABEL", _labels(product) | dict(container.labels)),
        _environment(project, container),
        f"WORKDIR {_quoted(_place(project.directory))}\n" if project.import_from is not None else "WORKDIR /\n",
        f"EXPOSE {' '.join(map(str, container.ports))}\n" if container.ports else "",
        # The base's own would stand in front of the command, or end the process in another way.
        _comment("Whatever the base has of these.") + "STOPSIGNAL SIGTERM\nENTRYPOINT []\n"
        f"CMD {json.dumps(list(container.command), ensure_ascii=False)}\n",
        f"COPY project/ {PROJECT}/\n" + (f"USER {container.user}\n" if container.user else ""),
    ]
    return "\n".join(stanza for stanza in stanzas if stanza)


def _comment(*lines: str) -> str:
    return "".join(f"# {line}\n" for line in lines)


def _environment_stage(base: str, python: str) -> str:
    """Each complaint is a line that begins with `servekit: `, which is what is shown of a build that fails there."""
    image = f"servekit: the base image {base}"
    expected = f"expected Python {python} with pip, as in python:{python}-slim-bookworm"
    return _run(
        _or_else("command -v python3 >/dev/null", f"{image} has no python3: {expected}"),
        "python3 -c \"import sys; found = '%d.%d' % sys.version_info[:2]; \\\n"
        f"        sys.exit(found != '{python}' and \\\n"
        f"        '{image} has Python ' + found + ': expected {python}, or --python ' + found)\"",
        _or_else("python3 -m pip --version >/dev/null 2>&1", f"{image} has no pip: {expected}"),
        f"python3 -m venv --without-pip {ENVIRONMENT}",
    )


def _run(*commands: str) -> str:
    """The first that fails ends it."""
    return "RUN set -e; \\\n" + "; \\\n".join(f"    {command}" for command in commands) + "\n"


def _or_else(command: str, complaint: str) -> str:
    return f'{command} || {{ \\\n        echo "{complaint}" >&2; exit 1; }}'


def _installs(own: str | None, offline: bool) -> list[str]:
    """The lock first; servekit's own wheel after it, which changes more often where there is one."""
    if offline:
        copied = f"COPY wheels/ /build/wheels/\nCOPY {LOCK} /build/\n"
        mounts, source = "", "--no-cache-dir --no-index --find-links /build/wheels"
    else:
        copied = _comment("--pip-config brings pip.conf, which stays in no layer; without it there is none.")
        copied += f"COPY {LOCK} /build/\n"
        mounts, source = f"{SECRET} \\\n    {CACHE} \\\n    ", "--cache-dir /var/cache/servekit-pip"
    stanzas = [
        # Nobody runs these packages' tests there, and they are a tenth of it.
        f"{copied}RUN {mounts}{PIP} {source} \\\n    --require-hashes -r /build/{LOCK} \\\n && {TRIM}\n",
    ]
    if own is not None:
        stanzas.append(
            _comment("servekit as it is where this was made.") + f"COPY wheels/{own} /build/own/\n"
            f"RUN {PIP} --no-cache-dir --no-index /build/own/{own}\n"
        )
    return stanzas


def _packages(container: Container, base: str) -> list[str]:
    if not container.packages:
        return []
    complaint = f"servekit: the base image {base} has no apt-get: expected one of Debian or Ubuntu"
    return [
        _run(
            _or_else("command -v apt-get >/dev/null", complaint),
            "export DEBIAN_FRONTEND=noninteractive",
            "apt-get update",
            f"apt-get install -y --no-install-recommends {' '.join(container.packages)}",
            "rm -rf /var/lib/apt/lists/*",
        )
    ]


def _setup(container: Container) -> list[str]:
    # In braces, since a command may be an alternative itself.
    return (
        ["RUN " + " \\\n && ".join(f"{{ {command}; }}" for command in container.setup) + "\n"]
        if container.setup
        else []
    )


def _boot(container: Container) -> list[str]:
    """Each by itself: a folder would change the modes of those that the base has."""
    return ["".join(f"COPY boot{path} {path}\n" for path in sorted(container.files))] if container.files else []


def _labels(product: Product) -> dict[str, str]:
    labels = {
        "org.opencontainers.image.title": product.name,
        "org.opencontainers.image.version": product.version,
        "org.opencontainers.image.description": product.summary,
        "org.opencontainers.image.authors": product.author,
    }
    return {name: value for name, value in labels.items() if value}


def _environment(project: Project, container: Container) -> str:
    own = dict(RUNTIME)
    if project.import_from is None:
        own["SERVEKIT_TARGET"] = _place(project.target)
    else:
        own["SERVEKIT_TARGET"] = project.target
        if project.import_from != project.directory:
            own["PYTHONPATH"] = _place(project.import_from)
    for name, value in container.environment.items():
        if own.setdefault(name, value) != value:
            raise ConfigError(f"the variable {name}: expected a platform to leave it alone, got {value!r}")
    return f"ENV PATH={ENVIRONMENT}/bin:${{PATH:-{DEFAULT_PATH}}} \\\n" + _pairs("   ", own)


def _place(relative: str) -> str:
    """In the image. "" and "." are the project itself; :Class may stand behind."""
    path, colon, name = relative.partition(":")
    place = PROJECT if path in ("", ".") else f"{PROJECT}/{path}"
    return f"{place}{colon}{name}"


def _pairs(instruction: str, values: Mapping[str, str]) -> str:
    lines = [f"{name}={_quoted(value)}" for name, value in sorted(values.items())]
    return f"{instruction} " + " \\\n    ".join(lines) + "\n"


def _quoted(value: str) -> str:
    """A value in Docker's double quotes, where a backslash takes the meaning of `"`, `$` and itself.

    A line end or another control character cannot be said there; it becomes a blank.
    """
    plain = "".join(character if character.isprintable() else " " for character in value)
    return '"' + re.sub(r'([\\"$])', r"\\\1", plain) + '"'
