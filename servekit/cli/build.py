"""`servekit build [TARGET] --platform NAME`."""

from __future__ import annotations

import platform as machine
import re
import shutil
import sys
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any, Literal

import click

if TYPE_CHECKING:
    from servekit.containers import Container
    from servekit.images.builder import Builder
    from servekit.images.context import Collected, Copied, Entry
    from servekit.images.own import Own
    from servekit.images.project import Project

USAGE_ERROR = 2
MEBIBYTE = 1024 * 1024
SHOWN_NAMES = 8
MACHINES: Mapping[str, Literal["amd64", "arm64"]] = {
    "x86_64": "amd64", "AMD64": "amd64", "aarch64": "arm64", "arm64": "arm64",
}  # fmt: skip
# The official image, and mirrors of it: python:3.12-slim, registry.example.com/library/python:3.12.4
OFFICIAL = re.compile(r"(?:.*/)?python:(3\.[0-9]+)(?:[.@-].*)?")
MAX_MICRO = 100
BUILDER_ARGUMENTS = "servekit.builder_arguments"


class _Build(click.Command):
    """What stands behind `--` goes to the builder, and is no TARGET."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        if "--" in args:
            place = args.index("--")
            ctx.meta[BUILDER_ARGUMENTS] = tuple(args[place + 1 :])
            args = args[:place]
        return super().parse_args(ctx, args)

    def collect_usage_pieces(self, ctx: click.Context) -> list[str]:
        return [*super().collect_usage_pieces(ctx), "[-- BUILDER ARGUMENTS]"]


@dataclass(frozen=True, slots=True)
class _Asked:
    """The options, as they were typed."""

    target: str | None
    platform: str | None
    tag: str | None
    base: str | None
    requirements: str | None
    offline: str | None
    arch: Literal["amd64", "arm64"] | None
    output: str | None
    batch: bool
    save: str | None
    artifact: str | None
    builder: str | None
    pip_config: str | None
    python: str | None
    exclude: tuple[str, ...]
    upgrade: bool
    arguments: tuple[str, ...] = ()

    @property
    def builds(self) -> bool:
        """--output alone stops before; what only an image can have says that one is wanted."""
        return not self.output or bool(self.tag or self.save or self.builder or self.arguments)


@click.command(cls=_Build, context_settings={"max_content_width": 110})
@click.argument("target", required=False)
@click.option("--platform", metavar="NAME", help="sagemaker, modelarts, modzy, or all of them in one image")
@click.option("-t", "--tag", metavar="TAG", help="name of the image  [default: the project's name and version]")
@click.option("--base", metavar="IMAGE", help="image to build on  [default: python:X.Y-slim-bookworm]")
@click.option("--python", metavar="X.Y", help="Python of the base image  [default: by its name, else the one here]")
@click.option("--arch", type=click.Choice(["amd64", "arm64"]), help="processor of the image  [default: the one here]")
@click.option(
    "--requirements", metavar="FILE", help="what the predictor needs  [default: requirements.txt, else pyproject.toml]"
)
@click.option("--upgrade", is_flag=True, help="make requirements.lock anew, with the newest versions")
@click.option("--offline", metavar="WHEELHOUSE", help="folder of wheels to install from, instead of an index")
@click.option("--pip-config", metavar="FILE", help="pip.conf with the indexes to use; it does not enter the image")
@click.option("--exclude", multiple=True, metavar="PATTERN", help="files to leave out, as in .gitignore; also !PATTERN")
@click.option("--batch", is_flag=True, help="what batch services of the platform need, too")
@click.option("--output", metavar="DIR", help="write the build context there; without -t nothing is built")
@click.option("--save", metavar="TAR", help="save the image, as `docker save` does")
@click.option("--artifact", metavar="FILE", help="write the target's folder as model.tar.gz; needs no --platform")
@click.option("--builder", type=click.Choice(["docker", "buildah", "podman"]), help="[default: the first that works]")
@click.pass_context
def build(ctx: click.Context, /, **options: Any) -> None:
    """Make a container image of TARGET, as a platform accepts it.

    TARGET is what `servekit run` takes, within the project that the current directory lies in; without it, the one
    that this directory holds, or else the project. What stands behind -- goes to the builder.
    """
    from servekit.errors import ServeError

    asked = _Asked(**options, arguments=ctx.meta.get(BUILDER_ARGUMENTS, ()))
    try:
        _check_installed()
        from servekit.images.programs import terminable

        with terminable():
            _build(asked)
    except (ServeError, OSError) as error:
        reason = error.message if isinstance(error, ServeError) else str(error)
        click.echo(f"servekit: {_printable(' '.join(reason.split()))}", err=True)
        sys.exit(USAGE_ERROR)


def _build(asked: _Asked) -> None:
    """Raises ConfigError, LoadFailed, OSError."""
    from servekit.images import artifact, context, project
    from servekit.images.builder import check_tag

    _check_empty(asked)
    platforms = _platforms(asked)
    # What can be wrong is looked at before anything is done.
    if asked.tag:
        check_tag(asked.tag)
    if asked.artifact:
        artifact.check(Path(asked.artifact))
    for option, name in (("--pip-config", asked.pip_config), ("--save", asked.save)):
        _check_file(option, name)
    found = project.find(
        asked.target, Path.cwd(), requirements=None if asked.requirements is None else Path(asked.requirements)
    )
    found = replace(found, product=replace(found.product, batch=asked.batch))
    if asked.output:
        context.check_output(Path(asked.output), found)
    _say("project", f"{found.product.name} {found.product.version} in {found.root}")
    _say("target", f"{found.target} ({found.predictor})")
    apart = [Path(name) for name in (asked.output, asked.artifact, asked.save, asked.pip_config) if name]
    collected = context.collect(found, asked.exclude, apart=apart)
    _check_target(found, collected)
    if asked.artifact:
        size = artifact.write(collected.files, found.directory, Path(asked.artifact))
        _say("artifact", f"{asked.artifact}, {_mebibytes(size)}")
    if not platforms:
        _say_left_out(collected)
        click.echo(asked.artifact)
        return
    files = _context(asked, found, _containers(platforms, found), collected)
    _check_manifests(platforms, found, files)
    _say_left_out(collected)
    if asked.output:
        context.write(files, Path(asked.output))
        _say("context", f"{len(files)} files in {asked.output}")
    if not asked.builds:
        click.echo(asked.output)
        return
    _image(asked, found, files)


# --- what is asked for ---


def _check_installed() -> None:
    from importlib.util import find_spec

    from servekit.errors import ConfigError

    if find_spec("pathspec") is None:
        raise ConfigError('the package pathspec is not installed: pip install "servekit[build]"')


def _check_empty(asked: _Asked) -> None:
    """A variable of a script that is not set must not turn --output into a build."""
    from servekit.errors import ConfigError

    for item in fields(asked):
        if getattr(asked, item.name) == "":
            name = "TARGET" if item.name == "target" else f"--{item.name.replace('_', '-')}"
            raise ConfigError(f"{name}: expected a value, got ''")


def _platforms(asked: _Asked) -> Mapping[str, Any]:
    """By name; none where only an artifact is wanted."""
    from servekit.errors import ConfigError
    from servekit.launch.platforms import installed

    known = installed()
    able = {name: platform for name, platform in known.items() if platform.container is not None}
    if asked.platform is None:
        if asked.artifact and not (asked.output or asked.tag or asked.save):
            return {}
        raise ConfigError(f"--platform: expected one of {', '.join(able)}, all")
    name = asked.platform.strip().lower()
    if name == "all":
        return able
    if name not in known:
        raise ConfigError(f"--platform: expected one of {', '.join(able)}, all, got {asked.platform!r}")
    return {name: known[name]}


def _containers(platforms: Mapping[str, Any], project: Project) -> dict[str, Container]:
    from servekit.images.recipe import demands

    return demands(platforms, project.product)


def _check_file(option: str, name: str | None) -> None:
    from servekit.errors import ConfigError

    if name is None:
        return
    path = Path(name)
    if option == "--save" and (path.is_dir() or not path.absolute().parent.is_dir()):
        raise ConfigError(f"{option} {name!r}: expected a file in a folder that exists")
    if option != "--save" and not path.is_file():
        raise ConfigError(f"{option} {name!r}: no such file")
    if option != "--save" and "," in str(path.resolve()):
        raise ConfigError(f"{option} {name!r}: expected a path without commas, which builders take for an end")


def _check_target(project: Project, collected: Collected) -> None:
    from servekit.errors import ConfigError

    name, _, _ = project.target.partition(":")
    if project.import_from is not None:
        path = "/".join(part for part in (project.import_from, *name.split(".")) if part)
        there = any(file in collected.files for file in (f"{path}.py", f"{path}/__init__.py"))
    else:
        there = name in collected.files or name == "." or any(file.startswith(f"{name}/") for file in collected.files)
    if not there:
        raise ConfigError(
            f"TARGET {project.target!r}: it is left out of the image: change --exclude or .servekitignore"
        )


def _base_and_python(asked: _Asked) -> tuple[str, str]:
    """The base image, and the Python that it is expected to have."""
    from servekit.errors import ConfigError

    named = OFFICIAL.fullmatch(asked.base or "")
    python = asked.python or (named[1] if named else f"{sys.version_info.major}.{sys.version_info.minor}")
    if named and named[1] != python:
        raise ConfigError(f"--python {python}: expected {named[1]}, which --base {asked.base} has")
    return asked.base or f"python:{python}-slim-bookworm", python


def _check_python(project: Project, python: str) -> None:
    from packaging.specifiers import SpecifierSet

    from servekit.errors import ConfigError

    # Which 3.12 it is only the base image knows.
    if not any(SpecifierSet(project.python).contains(f"{python}.{micro}") for micro in range(MAX_MICRO)):
        raise ConfigError(
            f"pyproject.toml: project.requires-python is {project.python!r}, and the image has Python {python}: name "
            "another by --python or --base"
        )


def _arch(asked: _Asked) -> Literal["amd64", "arm64"]:
    from servekit.errors import ConfigError

    arch = asked.arch or MACHINES.get(machine.machine())
    if arch is None:
        raise ConfigError(f"--arch: expected amd64 or arm64, and this machine is {machine.machine()!r}: name one")
    return arch


# --- the context ---


def _context(
    asked: _Asked, project: Project, containers: Mapping[str, Container], collected: Collected
) -> dict[str, Entry]:
    from servekit.images import pins, recipe

    base, python = _base_and_python(asked)
    arch = _arch(asked)
    # What a recipe refuses is said before a lock is made.
    recipe.check(containers, base, python)
    _check_python(project, python)
    _say("platform", ", ".join(containers))
    _say("base", f"{base}, Python {python}, {arch}")
    own = _own(project)
    requirements = (*project.requirements, *own.requirements)
    hashes = [f"{name} {text}" for name, given in sorted(project.hashes.items()) for text in sorted(given)]
    wheelhouse = None if asked.offline is None else Path(asked.offline)

    def make() -> str:
        from servekit.images import lock

        _say("lock", "resolving the requirements ...")
        pip_config = None if asked.pip_config is None else Path(asked.pip_config)
        made = lock.make(requirements, python=python, arch=arch, wheelhouse=wheelhouse, pip_config=pip_config)
        return pins.narrowed(made, project.hashes) if project.hashes else made

    kept = pins.keep(project.root, (*requirements, *hashes), python=python, arch=arch, upgrade=asked.upgrade, make=make)
    _say("lock", f"{kept.said} (from {project.source or 'servekit alone'})")
    wheels: dict[str, bytes | Copied] = {} if own.wheel is None else {own.wheel.name: own.wheel.content}
    if wheelhouse is not None:
        wheels |= _wheels(kept.text, wheelhouse, python, arch)
        _say("offline", f"{len(wheels)} wheels from {asked.offline}")
    return recipe.context(
        project, containers, base=base, python=python, lock=kept.text, wheels=wheels, files=collected.files
    )


def _check_manifests(platforms: Mapping[str, Any], project: Project, files: Mapping[str, Entry]) -> None:
    """Will the servers start with the project's own config.json or model.yaml? Better asked here than there."""
    from servekit.containers import BootFile
    from servekit.contract import Site
    from servekit.errors import ConfigError

    folder = PurePosixPath("project", project.directory)
    for name, platform in platforms.items():
        entries = {file: files[str(folder / file)] for file in platform.files if str(folder / file) in files}
        read = {
            file: entry.content if isinstance(entry, BootFile) else entry.path.read_bytes()
            for file, entry in entries.items()
        }
        try:
            platform.routes(Site(project.product.signature, read))
        except ConfigError as error:
            raise ConfigError(f"{name} would not start: {error.message}", cause=error) from error


def _own(project: Project) -> Own:
    """servekit as it is here, unless the project wants another version."""
    from packaging.requirements import Requirement

    from servekit import __version__
    from servekit.images.own import Own, own

    wanted = Requirement(project.servekit or "servekit")
    if wanted.specifier.contains(__version__, prereleases=True):
        return own(project.extras)
    extras = f"[{','.join(project.extras)}]" if project.extras else ""
    _say("servekit", f"{wanted.specifier} from the index, as the project has it; this is {__version__}")
    return Own((f"servekit{extras}{wanted.specifier}",), None)


def _wheels(text: str, wheelhouse: Path, python: str, arch: Literal["amd64", "arm64"]) -> dict[str, Copied]:
    from servekit.images import lock
    from servekit.images.context import Copied

    found = lock.wheels(text, wheelhouse, python=python, arch=arch)
    return {name: Copied(path.resolve(), path.stat().st_size) for name, path in found.items()}


# --- the image ---


def _image(asked: _Asked, project: Project, files: Mapping[str, Entry]) -> None:
    from servekit.errors import ServeError
    from servekit.images import builder, context

    tag = asked.tag or f"{_repository(project.product.name)}:{project.product.version}"
    folder = Path(asked.output) if asked.output else Path(tempfile.mkdtemp(prefix="servekit-build-"), "context")
    try:
        if not asked.output:
            context.write(files, folder)
        chosen = builder.find(asked.builder)
        _say("builder", f"{chosen.name} {chosen.version}".rstrip())
        _run(chosen, asked, folder, tag)
        if asked.save:
            chosen.save(tag, Path(asked.save))
            _say("saved", f"{asked.save}, {_mebibytes(Path(asked.save).stat().st_size)}")
    except (ServeError, OSError):
        if folder.is_dir():
            _say("context", f"kept in {folder}")
        else:
            _remove(asked, folder)
        raise
    except BaseException:
        # Ended by its user, who wants nothing of it.
        _remove(asked, folder)
        raise
    _remove(asked, folder)
    _say("image", tag)
    click.echo(tag)


def _remove(asked: _Asked, folder: Path) -> None:
    if not asked.output:
        shutil.rmtree(folder.parent, ignore_errors=True)


def _run(chosen: Builder, asked: _Asked, folder: Path, tag: str) -> None:
    arguments: dict[str, Any] = {
        "tag": tag,
        "arch": _arch(asked),
        "pip_config": None if asked.pip_config is None else Path(asked.pip_config),
        "arguments": asked.arguments,
    }
    if not sys.stderr.isatty():
        chosen.build(folder, **arguments, step=_line)
        return
    with click.progressbar(length=1, label="building", file=sys.stderr, item_show_func=lambda text: text) as bar:

        def step(done: int, total: int, text: str) -> None:
            bar.length = max(total, 1)
            bar.update(done - bar.pos, _printable(text[:60]))

        chosen.build(folder, **arguments, step=step)


def _line(done: int, total: int, text: str) -> None:
    if text:
        _say("step", f"{done + 1}/{total} {text}")


def _repository(name: str) -> str:
    """A name as registries take it, in lower case."""
    return re.sub(r"[^a-z0-9]+", "-", name.lower()).strip("-") or "model"


# --- words ---


def _say(what: str, text: str) -> None:
    click.echo(f"{what:<9} {_printable(text)}", err=True)


def _printable(text: str) -> str:
    """Names of files may hold anything."""
    return "".join(character if character.isprintable() else ascii(character)[1:-1] for character in text)


def _say_left_out(collected: Collected) -> None:
    _say("files", f"{len(collected.files)} of the project, {_mebibytes(collected.nbytes)}")
    for what, names in (
        ("left out", collected.left_out),
        ("secrets", collected.secrets),
        ("secrets", collected.secrets_within),
    ):
        if not names:
            continue
        shown = ", ".join(names[:SHOWN_NAMES]) + (
            f" and {len(names) - SHOWN_NAMES} more" if len(names) > SHOWN_NAMES else ""
        )
        said = ""
        if names is collected.secrets:
            said = "left out, since they look like secrets: "
        elif what == "secrets":
            said = "in the image, though they look like secrets, since you say so: "
        _say(what, said + shown)


def _mebibytes(nbytes: int) -> str:
    return f"{nbytes / MEBIBYTE:.1f} MiB"
