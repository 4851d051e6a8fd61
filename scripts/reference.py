"""Write the reference pages that follow from tables in the code. Called by scripts/docs."""

from __future__ import annotations

import sys
from pathlib import Path

from servekit.launch.drain import KUBERNETES, SHARED
from servekit.launch.platforms import installed
from servekit.launch.settings import OPTIONS, POD_VARIABLE, PREFIX, Option

PAGE = Path(__file__).parents[1] / "docs" / "reference" / "options.md"
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


if __name__ == "__main__":
    PAGE.write_text(options_page())
    print(f"wrote {PAGE.relative_to(Path.cwd())}", file=sys.stderr)
