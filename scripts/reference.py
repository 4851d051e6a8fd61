"""Write the reference pages that follow from tables in the code. Called by scripts/docs."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import click

from servekit.cli.main import main
from servekit.launch.drain import KUBERNETES, SHARED
from servekit.launch.platforms import installed
from servekit.launch.settings import OPTIONS, POD_VARIABLE, PREFIX, Option
from servekit.publish import failures

REFERENCE = Path(__file__).parents[1] / "docs" / "reference"
PAGE = REFERENCE / "options.md"
PUBLISH_PAGE = REFERENCE / "publish.md"
BUILT_IN = ("sagemaker", "modelarts", "modzy")
# Where the default is not a constant.
DEFAULTS = {
    "workers": "auto: one for each usable CPU up to 4; for Modzy 1",
    "model_dir": "the platform's model directory if it holds anything, else the target's directory",
    "cache_dir": "beside the model, or `servekit` in `XDG_CACHE_HOME`, or a directory in the temporary one",
    "max_bodies_bytes": "256 MiB, or four of the largest body",
    "admin_port": "none",
    "drain_s": "the platform's, below",
    "finish_s": "the platform's, below",
}
HEAD = f"""\
<!-- Made by scripts/docs from servekit/launch/settings.py and servekit/platforms/. Do not edit. -->

# Options

`servekit run TARGET [OPTIONS]`, and `serve [OPTIONS]` with the target from `{PREFIX}TARGET` or the model directory.

A flag beats its `{PREFIX}` variable, which beats the platform's variable, which beats the default. An empty variable
counts as not set. The start-up log says in one line what was chosen and why.
"""

PUBLISH_VERBS = ("publish", "images", "deploy", "undeploy", "emulate")
PUBLISH_HEAD = """\
<!-- Made by scripts/docs from servekit/cli/ and servekit/publish/failures.py. Do not edit. -->

# Publishing: commands and exit codes

How: [ModelArts](../how-to/publish-modelarts.md), [Modzy](../how-to/publish-modzy.md),
[SageMaker](../how-to/publish-sagemaker.md); without an account, against [emulators](../how-to/emulate.md).

Progress goes to standard error: a bar on a terminal, plain lines elsewhere. Standard output is the result alone: a line
for a person, or one JSON object with `--json`, also when it fails. An API is asked again, with pauses that grow, after
429 and 5xx, and after no other refusal; what makes something is asked again only when it is sure, or has been looked
up, that nothing was made.

Credentials come from the environment, the vendors' own files or a prompt. No option takes one, and nothing shows one.

## Exit codes

| code | meaning |
|---|---|
| 0 | done |
| 1 | a fault of servekit's own |
| 2 | a wrong option, file or project: nothing was asked of the platform |
"""


def options_page() -> str:
    """docs/reference/options.md, whole."""
    lines = [HEAD, "| flag | variable | default | meaning |", "|---|---|---|---|"]
    lines += [
        f"| `{option.flag} {_cell(option.metavar)}` | `{option.variable}` | {_default(option)} | {_cell(option.help)} |"
        for option in OPTIONS
    ]
    lines += ["", "## What a platform's own variables set", "", "| variable | platform | option |", "|---|---|---|"]
    platforms = installed()
    for name in BUILT_IN:
        for option, variables in platforms[name].variables.items():
            lines += [f"| `{variable}` | {name} | `{option}` |" for variable, _ in variables]
    lines += ["", "## How `--platform auto` decides", "", "| variable that is set | platform |", "|---|---|"]
    lines += [f"| `{pattern}` | {name} |" for name in BUILT_IN for pattern in platforms[name].detect]
    lines += [
        "",
        "None of them: all platforms on one port; the command `serve` takes SageMaker then. "
        "Variables of several platforms: the start is refused.",
    ]
    lines += [
        "",
        "## Seconds after SIGTERM",
        "",
        "| platform | go on accepting | finish requests | margin | the platform kills after |",
    ]
    lines += ["|---|---|---|---|---|"]
    budgets = {name: platforms[name].drain for name in BUILT_IN}
    budgets |= {"all of them": SHARED, f"all of them, `{POD_VARIABLE}` is set": KUBERNETES}
    for name, drain in budgets.items():
        kill = "not said" if drain.kill_s is None else f"{drain.kill_s:g}"
        lines += [f"| {name} | {drain.linger_s:g} | {drain.finish_s:g} | {drain.margin_s:g} | {kill} |"]
    return "\n".join(lines) + "\n"


def _default(option: Option) -> str:
    if option.name in DEFAULTS:
        return DEFAULTS[option.name]
    return f"`{option.default}`"


def _cell(text: str) -> str:
    return text.replace("|", "\\|")


# --- publishing ---


def publish_page() -> str:
    """docs/reference/publish.md, whole."""
    lines = [PUBLISH_HEAD.rstrip("\n")]
    lines += [f"| {kind.exit_code} | {EXITS[kind]} |" for kind in EXITS]
    lines += ["| 130, 143, 129 | Ctrl-C, SIGTERM, SIGHUP: what is there, or may be there, is said |"]
    for path, command in _commands(main, ()):
        if path[0] in PUBLISH_VERBS:
            lines += ["", *_command(path, command)]
    return "\n".join(lines) + "\n"


EXITS = {
    failures.Unauthorised: "there are no credentials, or the platform does not take them",
    failures.Forbidden: "the credentials are good, but not for this",
    failures.Missing: "what was named is not there",
    failures.Refused: "the platform does not take this request",
    failures.Busy: "429 or 5xx, after all attempts",
    failures.Unreachable: "no connection, or a broken one",
    failures.NotUnderstood: "an answer that was cut off, or is not what the platform's pages say",
    failures.Failed: "the platform took the request, tried, and says that it failed",
    failures.StillGoing: "it neither failed nor ended within `--wait-s`",
}


def _commands(command: click.Command, path: tuple[str, ...]) -> Iterator[tuple[tuple[str, ...], click.Command]]:
    if not isinstance(command, click.Group):
        yield path, command
        return
    context = click.Context(command)
    for name in command.list_commands(context):
        within = command.get_command(context, name)
        if within is not None:
            yield from _commands(within, (*path, name))


def _command(path: tuple[str, ...], command: click.Command) -> list[str]:
    context = click.Context(command, info_name=" ".join(("servekit", *path)))
    arguments = [
        parameter.make_metavar(context) for parameter in command.params if isinstance(parameter, click.Argument)
    ]
    lines = [f"## `{' '.join(('servekit', *path, *arguments))}`", ""]
    lines += [" ".join(paragraph.split()) + "\n" for paragraph in (command.help or "").split("\n\n")]
    lines += ["| option | meaning |", "|---|---|"]
    for parameter in command.params:
        record = parameter.get_help_record(context)
        if isinstance(parameter, click.Option) and record is not None and "--help" not in parameter.opts:
            lines.append(f"| `{_cell(record[0])}` | {_cell(' '.join(record[1].split()))} |")
    return lines


if __name__ == "__main__":
    for page, content in ((PAGE, options_page()), (PUBLISH_PAGE, publish_page())):
        page.write_text(content)
        print(f"wrote {page.relative_to(Path.cwd())}", file=sys.stderr)
