"""What commands over a container share: the options that name one (a URL, a command, an image), and how they end."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from servekit.cli.values import PathValue, check_values

if TYPE_CHECKING:
    from servekit.check.subject import Subject
    from servekit.publish.report import Report
    from servekit.terms import Terms

USAGE_ERROR, INTERRUPTED = 2, 130

Command = Callable[..., None]
NAMES = ("container", "image", "command", "container_port", "engine", "engine_arguments")


@dataclass(frozen=True, slots=True)
class Given:
    container: str | None
    image: str | None
    command: str | None
    container_port: int | None
    engine: str | None
    engine_arguments: tuple[str, ...]
    model: Path | None = None


def options(port: str, *, model: str = "") -> Callable[[Command], Command]:
    """port: where the platform's containers listen, for the help. model: where they see a model; "" for nowhere."""

    def add(command: Command) -> Command:
        seen_as = [
            click.option("--model", type=PathValue(path_type=Path), metavar="DIR", help=f"what --image sees in {model}")
        ]
        for option in [
            click.option("--container", metavar="URL", help="a container that runs already: http://HOST:PORT"),
            click.option("--image", metavar="TAG", help="run this image as the platform does"),
            click.option("--command", metavar="COMMAND", help="start this; {port} in it is replaced by a free port"),
            click.option(
                "--container-port", type=click.IntRange(1, 65535), metavar="PORT",
                help=f"where the command or the image listens, without {{port}}  [default: {port}]",
            ),
            click.option(
                "--engine", metavar="NAME", help="docker or podman, for --image  [default: the first that works]"
            ),
            *(seen_as if model else ()),
            click.argument(
                "engine_arguments", nargs=-1, type=click.UNPROCESSED, metavar="[-- ARGUMENTS OF THE ENGINE]"
            ),
        ][::-1]:  # fmt: skip
            command = option(command)
        return command

    return add


def taken(named: dict[str, Any]) -> Given:
    """Out of a command's options, which are fewer then."""
    return Given(**{name: named.pop(name) for name in (*NAMES, "model") if name in named})


def starter(given: Given, terms: Terms, environ: Mapping[str, str] | None = None) -> Callable[[], Subject]:
    """What begins the container, or finds it, each time it is called. environ: beside the platform's own.

    Raises ConfigError.
    """
    from servekit.check import subject
    from servekit.errors import ConfigError

    container, image, command = given.container, given.image, given.command
    if sum(one is not None for one in (container, image, command)) != 1:
        raise ConfigError("expected --container, --image or --command, and one of them only")
    if given.container_port is not None and container is not None:
        raise ConfigError("--container-port: expected the port in the URL")
    for option, words in (
        ("--engine", given.engine), ("--model", given.model), ("what stands behind --", given.engine_arguments)
    ):  # fmt: skip
        if words and image is None:
            raise ConfigError(f"{option}: expected --image, too")
    if given.model is not None and not given.model.is_dir():
        raise ConfigError(f"--model {given.model}: expected a folder")
    start = replace(terms.start, environ={**terms.start.environ, **(environ or {})})
    if container is not None:
        return lambda: subject.at_url(container)
    if command is not None:
        return lambda: subject.Command(command, start, port=given.container_port)
    assert image is not None  # noqa: S101 - one of them is given
    from servekit.check.container import Container
    from servekit.check.container import engine as engine_of

    found = engine_of(given.engine)
    return lambda: Container(
        image, start, engine=found, shares_files=terms.moves_files, port=given.container_port, model=given.model,
        extra=given.engine_arguments,
    )  # fmt: skip


def ended(report: Report, work: Callable[[], int]) -> int:
    """The exit code; a wrong option or file is one line."""
    from servekit.errors import ServeError
    from servekit.images.programs import terminable
    from servekit.publish.failures import line
    from servekit.publish.report import dumps

    try:
        with terminable():
            check_values(click.get_current_context())
            return work()
    except (ServeError, OSError) as error:
        text = line(error.message if isinstance(error, ServeError) else str(error))
        code, kind = USAGE_ERROR, "usage"
    except (KeyboardInterrupt, SystemExit) as error:
        text = kind = "interrupted"
        code = error.code if isinstance(error, SystemExit) and isinstance(error.code, int) else INTERRUPTED
    click.echo(f"servekit: {text}", err=True)
    if report.as_json:
        click.echo(dumps({"ok": False, "exit_code": code, "error": {"kind": kind, "message": text}}))
    return code
