"""What a person or a machine sees of a long piece of work: a bar on a terminal, plain lines in a log, JSON at the end.

All but the end goes to standard error. With `--json` standard output gets exactly one JSON object, whatever happens.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import click

from servekit.publish.failures import PublishError, line
from servekit.publish.secrets import hidden

LABEL_CHARS = 9
MAX_ITEM_CHARS = 60
# In a log a long step says something so often, and whenever its words change.
LINE_EVERY_S = 10.0
PERCENT = 100

Advance = Callable[[float, str], None]


@dataclass(slots=True)
class Made:
    """Something that is now on the platform. undo: the command that removes it, or ""."""

    what: str
    name: str
    undo: str = ""
    certain: bool = True


@dataclass(slots=True)
class Report:
    """as_json: one JSON object at the end. bars: progress bars may be drawn; else lines are written."""

    as_json: bool = False
    bars: bool = field(default_factory=lambda: sys.stderr.isatty())
    made: list[Made] = field(default_factory=list)

    # --- while it goes on ---

    def say(self, what: str, text: str) -> None:
        click.echo(f"{what:<{LABEL_CHARS}} {line(text)}", err=True)

    @contextmanager
    def bar(self, what: str, text: str) -> Iterator[Advance]:
        """A step of which the share that is done can be told: advance(percentage from 0 to 100, words)."""
        if self.bars and not self.as_json:
            with click.progressbar(
                length=PERCENT, label=f"{what:<{LABEL_CHARS}} {line(text)[:MAX_ITEM_CHARS]}", file=sys.stderr,
                item_show_func=lambda item: item,
            ) as bar:  # fmt: skip

                def draw(percentage: float, words: str) -> None:
                    bar.update(int(min(max(percentage, bar.pos), PERCENT)) - bar.pos, line(words)[:MAX_ITEM_CHARS])

                yield draw
            return
        self.say(what, text)
        said: tuple[str, bool] | None = None
        said_at_s = 0.0

        def write(percentage: float, words: str) -> None:
            nonlocal said, said_at_s
            now_s = time.monotonic()
            news = (words, percentage >= PERCENT)
            if news != said or now_s - said_at_s >= LINE_EVERY_S:
                self.say(what, f"{percentage:.0f} % {words}".rstrip())
                said, said_at_s = news, now_s

        yield write

    # --- what is left behind ---

    @contextmanager
    def making(self, what: str, name: str, *, look: str) -> Iterator[Made]:
        """Around the request that makes something: when it breaks off, nobody knows whether the platform has done it.

        look: the command that tells. Within, set `.name` and `.undo` once the answer is there.
        """
        made = Made(what, name, look, certain=False)
        self.made.append(made)
        try:
            yield made
        except PublishError as error:
            # Of a success that could not be read, nobody knows what it says.
            if error.status is not None and 300 <= error.status < 500:
                self.made.remove(made)  # refused: nothing was made
            raise
        made.certain = True
        if made.undo == look:
            made.undo = ""

    def left_behind(self) -> None:
        """After an error or Ctrl-C: what is there, what may be there, and what to do about it."""
        for made in self.made:
            if made.certain:
                undo = f"; to remove it: {made.undo}" if made.undo else ""
                self.say("is there", f"{made.what} {made.name}{undo}; the same command goes on from there")
            else:
                self.say("unknown", f"{made.what} {made.name} may be there or not; this tells: {made.undo}")

    # --- at the end ---

    def result(self, document: Mapping[str, Any], text: str) -> None:
        """The end of it: for a person the text, for a machine the document."""
        click.echo(dumps({"ok": True, **document, **self._made()}) if self.as_json else text)

    def error(self, error: PublishError) -> None:
        click.echo(f"servekit: {error.message}", err=True)
        for what, text in (("next", error.hint), ("request", error.request_id)):
            if text:
                self.say(what, text)
        if error.details:
            click.echo(error.details, err=True)
        self.failed(error.document(), error.exit_code)

    def failed(self, document: Mapping[str, Any], exit_code: int) -> None:
        self.left_behind()
        if self.as_json:
            click.echo(dumps({"ok": False, "exit_code": exit_code, "error": dict(document), **self._made()}))

    def _made(self) -> dict[str, Any]:
        if not self.made:
            return {}
        return {
            "made": [
                {"what": made.what, "name": made.name, "certain": made.certain, "command": made.undo}
                for made in self.made
            ]
        }


def dumps(document: Any) -> str:
    """Without secrets, and in ASCII: a platform's text may hold what no terminal's or file's encoding has."""
    return json.dumps(_hidden(document), indent=2, default=str)


def _hidden(value: Any) -> Any:
    """Keys are the platform's or ours, and stay."""
    if isinstance(value, str):
        return hidden(value)
    if isinstance(value, Mapping):
        return {key: _hidden(part) for key, part in value.items()}
    return [_hidden(part) for part in value] if isinstance(value, (list, tuple)) else value
