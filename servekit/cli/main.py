"""`servekit VERB`, and `serve` as SageMaker starts it."""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from typing import Any

import click

from servekit import __version__
from servekit.cli.run import serve

__all__ = ["main", "serve"]

# Where each verb is: a start imports the one that runs, and none of the others. A group's verbs are platforms.
Verbs = Mapping[str, "str | Verbs"]
VERBS: Verbs = {
    "run": "servekit.cli.run:run",
    "optimize": "servekit.cli.optimize:optimize",
    "inspect": "servekit.cli.inspect:inspect",
    "build": "servekit.cli.build:build",
    "init": "servekit.cli.init:init",
    "check": "servekit.cli.check:check",
    "parity": "servekit.cli.parity:parity",
    "bench": "servekit.cli.bench:bench",
    "publish": {
        "modelarts": "servekit.cli.modelarts:publish",
        "modzy": "servekit.cli.modzy:publish",
        "sagemaker": "servekit.cli.sagemaker:publish",
    },
    "images": {"modelarts": "servekit.cli.modelarts:images", "modzy": "servekit.cli.modzy:images"},
    "deploy": {"modelarts": "servekit.cli.modelarts:deploy", "sagemaker": "servekit.cli.sagemaker:deploy"},
    "undeploy": {"modelarts": "servekit.cli.modelarts:undeploy", "sagemaker": "servekit.cli.sagemaker:undeploy"},
    "emulate": {
        "modelarts": "servekit.cli.emulate:modelarts",
        "modzy": "servekit.cli.emulate:modzy",
        "sagemaker": "servekit.cli.emulate_sagemaker:sagemaker",
        "sagemaker-transform": "servekit.cli.emulate_sagemaker:transform",
        "modelarts-service": "servekit.cli.emulate_modelarts:modelarts_service",
        "modelarts-batch": "servekit.cli.emulate_modelarts:modelarts_batch",
        "modzy-jobs": "servekit.cli.emulate_modzy:modzy_jobs",
    },
}
# Where a context keeps all that was typed.
ARGUMENTS = "servekit.arguments"
HELP = {
    "publish": "Bring a built image to a platform: register it, or make a model of it.",
    "images": "Look after the images that a platform knows.",
    "deploy": "Start a service of a published model.",
    "undeploy": "Remove what `deploy` made.",
    "emulate": "A platform on this machine, to try things out against.",
}


class _Verbs(click.Group):
    def __init__(self, *args: Any, verbs: Verbs = VERBS, **named: Any) -> None:
        super().__init__(*args, **named)
        self.verbs = verbs

    def list_commands(self, ctx: click.Context) -> list[str]:  # noqa: ARG002 - click passes it
        return list(self.verbs)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:  # noqa: ARG002 - click passes it
        where = self.verbs.get(cmd_name)
        if where is None:
            return None
        if not isinstance(where, str):
            return _Verbs(cmd_name, verbs=where, help=HELP[cmd_name])
        module, _, name = where.partition(":")
        command: click.Command = getattr(importlib.import_module(module), name)
        return command

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        ctx.meta.setdefault(ARGUMENTS, list(args))
        return super().parse_args(ctx, args)

    def invoke(self, ctx: click.Context) -> Any:
        """The ends of a platform's command that never began have their object and exit code, too."""
        arguments = ctx.meta[ARGUMENTS]
        if ctx.parent is not None or not isinstance(self.verbs.get(arguments[0]), Mapping):
            return super().invoke(ctx)
        from servekit.cli.control import before_it_began

        with before_it_began(as_json="--json" in arguments):
            return super().invoke(ctx)


@click.group(cls=_Verbs, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="servekit")
def main() -> None:
    """Write one model predictor, serve it as every hosting platform demands."""
