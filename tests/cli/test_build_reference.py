"""docs/reference/build.md names the options of `servekit build` and `servekit init`: all of them, and no others."""

from __future__ import annotations

import re
from pathlib import Path

import click
import pytest

from servekit.cli.build import build
from servekit.cli.init import init

PAGE = Path(__file__).parents[2] / "docs" / "reference" / "build.md"
ROW = re.compile(r"^\| (?P<cell>`-.+?) (?<!\\)\| (?P<default>.*?) (?<!\\)\| (?P<meaning>.+) \|$", re.MULTILINE)
FLAG = re.compile(r"--?[a-z][a-z-]*")


def section(verb: str) -> str:
    _, found = PAGE.read_text().split(f"## `servekit {verb} ")
    return found.partition("\n## ")[0]


def options(command: click.Command) -> dict[str, click.Option]:
    return {flag: option for option in command.params if isinstance(option, click.Option) for flag in option.opts}


@pytest.mark.parametrize("command", [build, init], ids=lambda command: str(command.name))
def test_every_option_has_a_row(command: click.Command) -> None:
    rows = [row["cell"] for row in ROW.finditer(section(str(command.name)))]
    named = [flag for cell in rows for flag in FLAG.findall(cell)]
    assert sorted(named) == sorted(options(command))


@pytest.mark.parametrize("command", [build, init], ids=lambda command: str(command.name))
def test_what_a_row_says_of_values_is_true(command: click.Command) -> None:
    known = options(command)
    for row in ROW.finditer(section(str(command.name))):
        option = known[FLAG.findall(row["cell"])[-1]]
        value = row["cell"].split("`")[-2].partition(" ")[2].replace("\\|", "|")
        if isinstance(option.type, click.Choice):
            assert value == "|".join(option.type.choices), row[0]
        else:
            assert value == (option.metavar or ""), row[0]
        assert option.is_flag == (value == ""), row[0]
