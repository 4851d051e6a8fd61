"""The documents are true: what they say to type is typed, what they say is printed is compared.

In README.md and docs/ every fenced `sh` block is run, in order, in an empty directory in which `examples` is the
repository's. Comments that a reader of the rendered page does not see steer this:

    <!-- not run: REASON -->      before a block that cannot run here
    <!-- file: NAME -->           before a block: it is written to NAME first
    <!-- server: TARGET ... -->   what follows talks to a server of TARGET (the arguments of `servekit run`)
    <!-- emulator: PLATFORM -->   before a block: from here on a platform's emulator runs, and the environment names its
                                  endpoint and the credentials that it takes
    <!-- locked: FOLDER -->       before a block: the project in FOLDER has been built before, so that it has a lock (a
                                  stand-in) and no package index is asked

A line `servekit run ...` in a block starts that server, too. Servers get a free port, which takes the place of the
one in the URLs that follow. When the next block is `text` or `json`, it is what the commands must print.
"""

from __future__ import annotations

import ast
import importlib.util
import json
import os
import platform
import re
import shlex
import shutil
import subprocess
import sys
import sysconfig
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import pytest
from emulated import ACCESS_KEY, API_KEY, SECRET_KEY, emulate
from projects import PINS
from serving import Server, clean_environ, serve

import servekit
from servekit.cli.build import MACHINES
from servekit.images import pins
from servekit.images.own import own
from servekit.images.project import find

ROOT = Path(__file__).parents[1]
DOCUMENTS = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
OTHER_PAGES = [*ROOT.glob("*.md"), *(ROOT / "docker").glob("*.md"), *(ROOT / "benchmarks").glob("*.md")]
PAGES = sorted({*DOCUMENTS, *OTHER_PAGES, *(ROOT / "examples").glob("*/README.md")})
COMMAND_TIMEOUT_S = 60.0

COMMENT = re.compile(r"<!-- (?P<key>not run|file|server|locked|emulator): (?P<value>.+) -->")
FENCE = re.compile(r"(?P<ticks>`{3,})(?P<tag>\w*)")
LOCAL_URL = re.compile(r"(?:localhost|127\.0\.0\.1):\d+")
LINK = re.compile(r"(?<!!)\[[^\]]*\]\((?P<target>[^)\s]+)\)")
URL_HOST = re.compile(r"https?://([A-Za-z0-9.-]+)")
# Vendors' and standards' own pages, and this machine. Anything else is a host that a reader would have to trust.
KNOWN_HOSTS = {
    "HOST",  # a place to fill in
    "localhost",
    "127.0.0.1",
    "docs.aws.amazon.com",
    "docs.modzy.com",
    "keepachangelog.com",
    "semver.org",
    "support.huaweicloud.com",
    "www.rfc-editor.org",
}


# What the emulators take, as the vendors' tools look for it.
EMULATED = {
    "modelarts": {"HUAWEICLOUD_SDK_AK": ACCESS_KEY, "HUAWEICLOUD_SDK_SK": SECRET_KEY},
    "modzy": {"MODZY_API_KEY": API_KEY},
}


def ident(path: Path) -> str:
    return str(path.relative_to(ROOT))


@dataclass(frozen=True)
class Block:
    """A fenced block, the comments that stand right before it, and its first line's number."""

    tag: str
    text: str
    line: int
    comments: dict[str, str]
    prints: Block | None = None


def blocks(document: str) -> Iterator[Block]:
    """The blocks in order; a `sh` block knows the `text` or `json` block that follows it."""
    found: list[tuple[Block, bool]] = []
    comments: dict[str, str] = {}
    fence: re.Match[str] | None = None
    lines: list[str] = []
    adjacent = False
    for number, line in enumerate(document.splitlines(), 1):
        if fence is not None:
            if line.strip() == fence["ticks"]:
                found.append((Block(fence["tag"], "\n".join(lines), number - len(lines), comments), adjacent))
                fence, comments, lines, adjacent = None, {}, [], True
            else:
                lines.append(line)
        elif opened := FENCE.match(line):
            fence = opened
        elif comment := COMMENT.fullmatch(line.strip()):
            comments[comment["key"]] = comment["value"]
        elif line.strip():
            # A server stays until another takes over; the other comments concern the next block only.
            comments = {key: value for key, value in comments.items() if key == "server"}
            adjacent = False
    assert fence is None, f"line {number}: a fence is not closed"
    for i, (block, _) in enumerate(found):
        after, follows = found[i + 1] if i + 1 < len(found) else (None, False)
        prints = after if follows and after is not None and after.tag in ("text", "json") else None
        yield Block(block.tag, block.text, block.line, block.comments, prints if block.tag == "sh" else None)


class Reader:
    """Someone who follows a document from top to bottom, in `directory`."""

    def __init__(self, directory: Path, stack: ExitStack) -> None:
        self._directory = directory
        self._stack = stack
        self._server: Server | None = None
        scripts = sysconfig.get_path("scripts")
        # `ls` sorts by the locale.
        self._environ = clean_environ(
            {"PATH": scripts + os.pathsep + os.environ["PATH"], "NO_COLOR": "1", "LC_ALL": "C.UTF-8"}
        )

    def read(self, document: str) -> None:
        for block in blocks(document):
            try:
                self._follow(block)
            except AssertionError as error:
                error.add_note(f"in the block at line {block.line}")
                raise

    def _follow(self, block: Block) -> None:
        if target := block.comments.get("server"):
            self._run_server(shlex.split(target))
        if name := block.comments.get("file"):
            (self._directory / name).write_text(block.text + "\n")
        if platform_name := block.comments.get("emulator"):
            emulator = self._stack.enter_context(emulate(platform_name, environ=EMULATED[platform_name]))
            self._environ |= EMULATED[platform_name] | {f"SERVEKIT_{platform_name.upper()}_ENDPOINT": emulator.url}
        if folder := block.comments.get("locked"):
            _lock(self._directory / folder)
        if block.tag != "sh" or "not run" in block.comments:
            return
        printed = ""
        commands: list[str] = []
        for line in block.text.splitlines():
            if line.startswith("servekit run "):
                printed += self._shell(commands)
                commands = []
                self._run_server(shlex.split(line.removesuffix("&"))[2:])
            else:
                commands.append(line)
        printed += self._shell(commands)
        if block.prints is not None:
            _compare(printed, block.prints)

    def _run_server(self, arguments: list[str]) -> None:
        name = _take(arguments, "--platform")
        _take(arguments, "--port")
        self._server = self._stack.enter_context(serve(*arguments, platform=name, cwd=self._directory))

    def _shell(self, commands: list[str]) -> str:
        script = "\n".join(commands)
        if LOCAL_URL.search(script):
            assert self._server is not None, f"no server was started for: {script}"
            script = LOCAL_URL.sub(f"127.0.0.1:{self._server.port}", script)
        ended = subprocess.run(
            ["sh", "-eu", "-c", script],
            cwd=self._directory,
            env=self._environ,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=COMMAND_TIMEOUT_S,
            check=False,
        )
        assert ended.returncode == 0, f"{script}\n{ended.stdout}{ended.stderr}"
        return ended.stdout


def _lock(root: Path) -> None:
    found = find(None, root)
    pins.keep(
        root, (*found.requirements, *own(found.extras).requirements),
        python=f"{sys.version_info.major}.{sys.version_info.minor}", arch=MACHINES[platform.machine()],
        make=lambda: PINS, upgrade=False,
    )  # fmt: skip


def _take(arguments: list[str], option: str) -> str | None:
    """Remove `option` and its value; the value."""
    if option not in arguments:
        return None
    at = arguments.index(option)
    value = arguments[at + 1]
    del arguments[at : at + 2]
    return value


def _compare(printed: str, expected: Block) -> None:
    if expected.tag == "json":
        assert json.loads(printed) == json.loads(expected.text)
    else:
        assert printed.replace("\r\n", "\n").strip() == expected.text.strip()


@pytest.mark.parametrize("path", DOCUMENTS, ids=ident)
def test_what_a_document_says_to_type_works(path: Path, tmp_path: Path) -> None:
    found = list(blocks(path.read_text()))
    if not any(block.tag == "sh" and "not run" not in block.comments for block in found):
        return
    if shutil.which("curl") is None and any("curl" in block.text for block in found if block.tag == "sh"):
        pytest.skip("curl is not installed")
    (tmp_path / "examples").symlink_to(ROOT / "examples")
    with ExitStack() as stack:
        Reader(tmp_path, stack).read(path.read_text())


@pytest.mark.parametrize("path", DOCUMENTS, ids=ident)
def test_blocks_are_well_marked(path: Path) -> None:
    for block in blocks(path.read_text()):
        where = f"line {block.line}"
        assert block.tag not in ("", "console", "shell", "bash"), f"{where}: tag commands as sh, other text as text"
        if block.tag == "python":
            ast.parse(block.text)
        if block.tag == "json":
            json.loads(block.text)
        if "not run" in block.comments:
            assert block.tag == "sh", f"{where}: only sh blocks are run"
            assert len(block.comments["not run"]) > 10, f"{where}: say why it is not run"


@pytest.mark.parametrize(
    "page",
    [
        "```sh\necho 1\n```\n\n```text\n2\n```",
        "```sh\necho '[1]'\n```\n```json\n[2]\n```",
        "```sh\nfalse\n```",
        "```sh\nfalse\ntrue\n```",
        "```sh\ncurl -s http://localhost:8080/\n```",
        "<!-- not run: another block is meant -->\n```sh\ntrue\n```\n\nThen\n\n```sh\nfalse\n```",
    ],
    ids=["text differs", "json differs", "a command fails", "an early command fails", "no server", "not excused"],
)
def test_an_untrue_document_fails(page: str, tmp_path: Path) -> None:
    with ExitStack() as stack, pytest.raises(AssertionError):
        Reader(tmp_path, stack).read(page)


def anchors(page: str) -> set[str]:
    """The anchors of a page's headings, as the usual renderers make them."""
    found: set[str] = set()
    in_fence = False
    for line in page.splitlines():
        if FENCE.match(line):
            in_fence = not in_fence
        elif not in_fence and (heading := re.match(r"#+ (.+)", line)):
            words = re.sub(r"[^\w\- ]", "", heading[1].lower())
            found.add(words.replace(" ", "-"))
    return found


@pytest.mark.parametrize("path", PAGES, ids=ident)
def test_links_lead_somewhere(path: Path) -> None:
    for link in LINK.finditer(path.read_text()):
        target, _, anchor = link["target"].partition("#")
        if "://" in target:
            continue
        goal = (path.parent / target) if target else path
        assert goal.exists(), f"{link[0]} leads nowhere"
        assert goal.resolve().is_relative_to(ROOT), f"{link[0]} leaves the repository"
        if anchor:
            assert anchor in anchors(goal.read_text()), f"{link[0]}: no such heading"


@pytest.mark.parametrize("path", PAGES, ids=ident)
def test_only_known_hosts_are_named(path: Path) -> None:
    named = set(URL_HOST.findall(path.read_text()))
    assert named <= KNOWN_HOSTS, f"add to KNOWN_HOSTS if it belongs there: {sorted(named - KNOWN_HOSTS)}"


@pytest.mark.parametrize("path", PAGES, ids=ident)
def test_no_place_of_the_authors_machine_is_named(path: Path) -> None:
    assert not re.search(r"(?<![\w.])(/work/|/root/|\.\./shared|shared/)", path.read_text())


def test_every_document_is_reached_from_the_index() -> None:
    index = ROOT / "docs" / "index.md"
    seen = {index.resolve()}
    waiting = [index]
    while waiting:
        page = waiting.pop()
        for link in LINK.finditer(page.read_text()):
            goal = (page.parent / link["target"].partition("#")[0]).resolve()
            if "://" not in link["target"] and goal.suffix == ".md" and goal.is_file() and goal not in seen:
                seen.add(goal)
                waiting.append(goal)
    unreached = {path.resolve() for path in DOCUMENTS} - seen - {(ROOT / "README.md").resolve()}
    assert not unreached, sorted(map(str, unreached))


@pytest.mark.parametrize("page", ["options", "publish"])
def test_a_page_that_is_made_is_up_to_date(page: str) -> None:
    spec = importlib.util.spec_from_file_location("reference", ROOT / "scripts" / "reference.py")
    assert spec is not None
    assert spec.loader is not None
    reference = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(reference)
    made = {
        "options": (reference.PAGE, reference.options_page),
        "publish": (reference.PUBLISH_PAGE, reference.publish_page),
    }
    path, make = made[page]
    assert path.read_text() == make(), "run sh scripts/docs"


def test_every_public_name_is_documented() -> None:
    page = (ROOT / "docs" / "reference" / "predictor.md").read_text()
    missing = [name for name in servekit.__all__ if f"`{name}" not in page and f"servekit.{name}" not in page]
    assert not missing
