"""What click lets pass as a value, and no command should take."""

from __future__ import annotations

import math
import os
from typing import Any

import click


class PathValue(click.Path):
    """A path, which is not empty: a variable of a script that is not set must not mean the current folder."""

    def convert(
        self, value: str | os.PathLike[str], param: click.Parameter | None, ctx: click.Context | None
    ) -> Any:  # fmt: skip
        if os.fspath(value) == "":
            self.fail("expected a path, got ''", param, ctx)
        return super().convert(value, param, ctx)


def check_values(ctx: click.Context) -> None:
    """A script's variable that is not set must not change what is made, nor where. A description may be empty.

    click takes `nan` for a number of any range, and to wait for so long is to wait for ever. Raises ConfigError.
    """
    from servekit.errors import ConfigError

    for option in ctx.command.params:
        name = option.name or ""
        value = ctx.params.get(name)
        typed = ctx.get_parameter_source(name) is click.core.ParameterSource.COMMANDLINE
        label = option.opts[0] if isinstance(option, click.Option) else option.human_readable_name
        if typed and name != "description" and (value == "" or (isinstance(value, tuple) and "" in value)):
            raise ConfigError(f"{label}: expected a value, got ''")
        if isinstance(value, float) and not math.isfinite(value):
            raise ConfigError(f"{label}: expected a number, got {value}")
