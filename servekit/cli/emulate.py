"""`servekit emulate modelarts` and `servekit emulate modzy`."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import urlsplit

import click

from servekit.cli.values import PathValue, check_values

USAGE_ERROR = 2
# Example keys, which open nothing: an emulator listens on this machine alone unless it is told otherwise.
ACCESS_KEY, SECRET_KEY, API_KEY = "AKEXAMPLE", "SKEXAMPLE", "AKEXAMPLE.SKEXAMPLE"

Command = Callable[..., None]


def _common(command: Command) -> Command:
    for option in (
        click.option(
            "--advance-s", type=click.FloatRange(0, 86400), default=1.0, show_default=True, metavar="SECONDS",
            help="how long a state lasts that passes by itself, such as CREATING",
        ),
        click.option(
            "--state", type=PathValue(path_type=Path, dir_okay=False), default=None, metavar="FILE",
            help="keep what is made in this file, and go on from it; default: forget it at the end",
        ),
        click.option(
            "--host", default="127.0.0.1", show_default=True, metavar="ADDRESS", help="the address to listen on"
        ),
        click.option(
            "--port", type=click.IntRange(0, 65535), required=True, metavar="PORT", help="0: one that is free"
        ),
    ):  # fmt: skip
        command = option(command)
    return command


@click.command(context_settings={"max_content_width": 110})
@click.option(
    "--service", default="", metavar="URL", help="a running container: it answers for every service that runs"
)
@click.option(
    "--registry", default="", metavar="HOST[:PORT]", help="the registry that SWR's login is for; default: the region's"
)
@_common
def modelarts(port: int, host: str, state: Path | None, advance_s: float, service: str, registry: str) -> None:
    """The control plane of Huawei Cloud ModelArts: images, models, services, tokens, and SWR's login.

    The key pair is SERVEKIT_EMULATE_AK and SERVEKIT_EMULATE_SK, AKEXAMPLE and SKEXAMPLE by default; a token's user and
    password are the same two. Any project id is good. Faults on request: see docs/how-to/emulate.md.
    """
    with _ending():
        from servekit.emulate.modelarts.app import make
        from servekit.emulate.modelarts.calls import World
        from servekit.emulate.server import listen, serve
        from servekit.emulate.store import opened

        access, secret = _secret("SERVEKIT_EMULATE_AK", ACCESS_KEY), _secret("SERVEKIT_EMULATE_SK", SECRET_KEY)
        with opened("modelarts", state) as store, listen(host, port) as listener:
            world = World(store, access, secret, advance_s, _url("--service", service), registry)
            serve(make(world), "modelarts", listener)


@click.command(context_settings={"max_content_width": 110})
@click.option(
    "--container",
    "url",
    default=None,
    metavar="URL",
    help="a running container: load tests, run tests and jobs call its /status and /run",
)
@click.option(
    "--command",
    default=None,
    metavar="COMMAND",
    help="start this for them, with PSC_MODEL_PORT set to a free port, and end it at the end",
)
@click.option(
    "--files",
    type=PathValue(path_type=Path, file_okay=False),
    default=None,
    metavar="DIR",
    help="where jobs' files go; the container must see it under the same path  [default: the temporary directory]",
)
@_common
def modzy(
    port: int, host: str, state: Path | None, advance_s: float, url: str | None, command: str | None, files: Path | None
) -> None:
    """The control plane of Modzy: models, container images, load and run tests, jobs and results.

    The API key is SERVEKIT_EMULATE_API_KEY, AKEXAMPLE.SKEXAMPLE by default. Faults on request: see
    docs/how-to/emulate.md.
    """
    with _ending():
        from servekit.emulate.modzy.app import make
        from servekit.emulate.modzy.calls import World
        from servekit.emulate.modzy.container import parse
        from servekit.emulate.server import listen, serve
        from servekit.emulate.store import opened

        container = parse(_url("--container", url or ""), command, files)
        with opened("modzy", state) as store, listen(host, port) as listener:
            world = World(store, _secret("SERVEKIT_EMULATE_API_KEY", API_KEY), container, advance_s)
            try:
                serve(make(world), "modzy", listener)
            finally:
                if container is not None:
                    container.end()


@contextmanager
def _ending() -> Iterator[None]:
    """A wrong option or file is one line, and exit code 2."""
    from servekit.errors import ServeError

    try:
        check_values(click.get_current_context())
        yield
    except ServeError as error:
        click.echo(f"servekit: {error.message}", err=True)
        sys.exit(USAGE_ERROR)


def _url(option: str, url: str) -> str:
    """Of a running container, or "". Raises ConfigError."""
    from servekit.errors import ConfigError

    try:
        parts = urlsplit(url)
        good = parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
    except ValueError:
        good = False
    if url and not good:
        raise ConfigError(f"{option}: expected http://HOST:PORT of a running container, got {url[:200]!r}")
    return url


def _secret(variable: str, default: str) -> str:
    return os.environ.get(variable, "") or default
