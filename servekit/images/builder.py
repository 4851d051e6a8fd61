"""docker, buildah or podman: the first one that works builds the image, and saves it.

They are started as programs, with this process's environment as it is (STORAGE_DRIVER, BUILDAH_ISOLATION, DOCKER_HOST
and the like are theirs), and their output is read line by line: for the steps, and for the cause when they fail.
"""

from __future__ import annotations

import os
import re
import shutil
import signal
import tempfile
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from servekit.errors import ConfigError
from servekit.images import programs
from servekit.images.lock import without_urls

NAMES = ("docker", "buildah", "podman")
# Names with a host and folders before them, as registries take them.
TAG = re.compile(
    r"(?:[A-Za-z0-9][A-Za-z0-9.-]*(?::\d{1,5})?/)?[a-z0-9]+(?:[._/-]+[a-z0-9]+)*(?::[A-Za-z0-9_][A-Za-z0-9_.-]{0,127})?"
)
MAX_TAG_CHARS = 255
# Before, the client had BuildKit's part within.
BUILDX_NEEDED = 23
MAX_SAVING_S = 1800.0
MAX_LOG_HEAD_BYTES = 8 * 1024 * 1024
MAX_LOG_TAIL_LINES = 2000
MAX_PIPS_LINES = 3
MAX_STEP_CHARS = 200

# buildah and podman: `STEP 3/12: RUN ...`, with `[1/2] ` in front when there are several stages.
STEP = re.compile(r"(?:\[(?P<stage>\d+)/\d+\] )?STEP (?P<number>\d+)/(?P<total>\d+): (?P<text>.*)")
# docker: `#7 [final 3/9] RUN ...`, `#7 [linux/arm64 final 3/9] RUN ...`; then `#7 0.831 output`, `#7 DONE 1.2s`.
VERTEX = re.compile(r"#(?P<vertex>\d+) (?P<rest>.*)")
HEAD = re.compile(r"\[(?P<stage>(?:[^\]]* )?)(?P<number>\d+)/(?P<total>\d+)\] (?P<text>.*)")
TIMED = re.compile(r"\d+\.\d+ ?(?P<text>.*)")
IDENTITY = re.compile(r"(?:sha256:)?[0-9a-f]{64}")
OURS = "servekit: "
PIPS = "ERROR: "
# What docker says outside of its steps; before BuildKit 0.11 nothing marked it as an error.
DOCKERS = re.compile(
    r"(?:error|ERROR|Error): |failed to |executor failed |unknown (?:shorthand )?flag|invalid argument|Cannot connect"
)
# The parts of BuildKit through which an error came.
THROUGH = re.compile(
    r"^(?:ERRO\[\d+\] |(?:error|ERROR|Error): |failed to build: |failed to solve(?: with frontend \S+)?: "
    r"|failed to create LLB definition: )+"
)
BUILDERS = re.compile(r"(?:error|ERROR|Error)(?:: | building at )|ERRO\[")
# What a builder says when a command in the image failed: the command's own words tell more.
COMMAND_FAILED = re.compile(r"exit (?:status|code:) \d+|did not complete successfully")
# What buildah and podman log beside their output.
LOGGED = re.compile(r'time="[^"]*" level=\w+ msg=|subprocess exited with status \d+$')
CAUSES = re.compile(
    r"^E: |\b(?:error|failed|failure|fatal|cannot|could not|unable|denied|not found|no such)\b", re.IGNORECASE
)
UNREACHABLE = re.compile(
    r"Failed to establish a new connection|Name or service not known|Temporary failure in name resolution"
    r"|Network is unreachable|NewConnectionError|Connection refused"
)


class NoBuilder(ConfigError):
    """None that works."""


class BuildFailed(ConfigError):
    """`log` is the file that holds the builder's whole output, if it could be written."""

    def __init__(self, message: str, *, log: Path | None = None, cause: BaseException | None = None) -> None:
        super().__init__(message, cause=cause)
        self.log = log


@dataclass(frozen=True, slots=True)
class Builder:
    """name: docker, buildah or podman. buildx: docker has the plugin of this name."""

    name: str
    program: str
    version: str = ""
    buildx: bool = False

    def build(
        self,
        context: Path,
        *,
        tag: str,
        arch: str,
        pip_config: Path | None,
        arguments: Sequence[str],
        step: Callable[[int, int, str], None],
    ) -> None:
        """Build the Dockerfile in `context`. step: (steps begun before, steps in all, the one that begins).

        arguments: further ones of the builder's. Raises BuildFailed with the cause.
        """
        check_tag(tag)
        if pip_config is not None and not pip_config.is_file():
            raise ConfigError(f"--pip-config {str(pip_config)!r}: no such file")
        output = _Output(self.name, _instructions(context / "Dockerfile", docker=self.name == "docker"), step)
        try:
            status = programs.run(
                self._command(context, tag, arch, pip_config, arguments), self._environ(), output.take
            )
        except OSError as error:
            raise BuildFailed(f"{self.name}: cannot be started: {error.strerror or error}", cause=error) from error
        if status != 0 or not output.complete:
            log = output.log.write()
            where = f"the whole log is {log}" if log is not None else "its log could not be kept"
            raise BuildFailed(f"{self.name} could not build {tag}: {output.cause(status, arch)} ({where})", log=log)
        output.end()

    def save(self, tag: str, file: Path) -> None:
        """The image as a TAR file that `docker load` takes. The file is whole, or as it was."""
        check_tag(tag)
        # A name that means nothing to these programs, in their working directory: some read a colon in a path.
        try:
            folder = Path(tempfile.mkdtemp(prefix=".servekit-", dir=file.absolute().parent))
        except OSError as error:
            raise ConfigError(f"--save {str(file)!r}: {error.strerror}", cause=error) from error
        partial = folder / "image.tar"
        if self.name == "docker":
            command = [self.program, "save", "--output", partial.name, tag]
        else:
            command = [self.program, "push", "--quiet", tag, f"docker-archive:{partial.name}:{_with_version(tag)}"]
        try:
            said: deque[str] = deque(maxlen=20)
            status = programs.run(command, dict(os.environ), said.append, cwd=folder, limit_s=MAX_SAVING_S)
            if status != 0 or not partial.is_file():
                reason = programs.last(said) or f"exit code {status}"
                raise ConfigError(f"--save {str(file)!r}: {self.name} cannot save {tag}: {reason}")
            partial.chmod(0o644)
            partial.replace(file)
        except OSError as error:
            raise ConfigError(f"--save {str(file)!r}: {error.strerror or error}", cause=error) from error
        finally:
            shutil.rmtree(folder, ignore_errors=True)

    def _command(
        self, context: Path, tag: str, arch: str, pip_config: Path | None, arguments: Sequence[str]
    ) -> list[str]:
        common = ["--platform", f"linux/{arch}", "--tag", tag]
        if pip_config is not None:
            common += ["--secret", f"id=pip.conf,src={pip_config.resolve()}"]
        common += [*arguments, str(context.resolve())]
        if self.name != "docker":
            # Layers kept, or every build would begin at the first step, and nothing else when a command fails; podman
            # does both anyway.
            return [self.program, "build", "--format", "docker", "--layers", "--force-rm", *common]
        if not self.buildx:
            return [self.program, "build", "--progress=plain", *common]
        # One manifest in docker's own format: there are registries that take no index and no OCI types.
        return [
            *(self.program, "buildx", "build", "--progress=plain", "--provenance=false", "--sbom=false"),
            *("--output", "type=docker,oci-mediatypes=false", *common),
        ]

    def _environ(self) -> dict[str, str]:
        environ = dict(os.environ)
        if self.name == "docker" and not self.buildx:
            environ["DOCKER_BUILDKIT"] = "1"
        return environ


def find(name: str | None = None) -> Builder:
    """The first builder that works, or the one of this name. Raises NoBuilder with what was wrong with each."""
    if name is not None and name not in NAMES:
        raise NoBuilder(f"--builder {name!r}: expected one of {', '.join(NAMES)}")
    refused = []
    for candidate in NAMES if name is None else (name,):
        found = _tried(candidate)
        if isinstance(found, Builder):
            return found
        refused.append(f"{candidate}: {found}")
    if name is not None:
        raise NoBuilder(f"--builder {refused[0]}")
    raise NoBuilder(
        f"nothing here builds images ({'; '.join(refused)}): install docker, buildah or podman, or build the context "
        "elsewhere"
    )


def check_tag(tag: str) -> None:
    if len(tag) > MAX_TAG_CHARS or not TAG.fullmatch(tag):
        raise ConfigError(
            f"--tag {tag[:MAX_TAG_CHARS]!r}: expected an image name in lower case, such as digits:1.0 or "
            "registry.example.com/team/digits:1.0"
        )


def _tried(name: str) -> Builder | str:
    """The builder, or what is wrong with it."""
    program = shutil.which(name)
    if program is None:
        return "no such program"
    # Something that takes the daemon, or the storage, and changes nothing.
    question = ["version", "--format", "{{.Client.Version}} {{.Server.Version}}"] if name == "docker" else ["info"]
    try:
        ended = programs.ask([program, *question])
        if ended.returncode != 0:
            return programs.last(ended.stderr.splitlines()) or f"`{name} {question[0]}` ended with {ended.returncode}"
        if name == "docker":
            client, _, server = ended.stdout.strip().partition(" ")
            buildx = programs.ask([program, "buildx", "version"]).returncode == 0
            if not buildx and int(client.partition(".")[0]) >= BUILDX_NEEDED:
                return f"docker {client} needs its plugin buildx, which is not installed"
            return Builder(name, program, server, buildx)
        version = re.search(r"\d+(?:\.\d+)+", programs.ask([program, "--version"]).stdout)
    except ConfigError as error:
        return error.message
    except ValueError:
        return f"expected a version, got {ended.stdout[:100]!r}"
    return Builder(name, program, version[0] if version else "")


# --- what it says ---


class _Log:
    """The output: its beginning, and its end when it is longer than anybody reads."""

    def __init__(self) -> None:
        self._head: list[str] = []
        self._head_bytes = 0
        self._tail: deque[str] = deque(maxlen=MAX_LOG_TAIL_LINES)
        self._left_out = 0

    def add(self, line: str) -> None:
        if self._head_bytes < MAX_LOG_HEAD_BYTES:
            self._head.append(line)
            self._head_bytes += len(line) + 1
            return
        self._left_out += len(self._tail) == MAX_LOG_TAIL_LINES
        self._tail.append(line[: MAX_LOG_HEAD_BYTES // MAX_LOG_TAIL_LINES])

    def write(self) -> Path | None:
        """Into a file that only this user can read."""
        gap = [f"... {self._left_out} lines left out ..."] if self._left_out else []
        text = "\n".join([*self._head, *gap, *self._tail]) + "\n"
        try:
            handle, name = tempfile.mkstemp(prefix="servekit-build-", suffix=".log")
            with os.fdopen(handle, "w", encoding="utf-8", errors="replace") as file:
                file.write(text)
        except OSError:
            return None
        return Path(name)


class _Said:
    """What the commands of one step said that may be a cause."""

    def __init__(self) -> None:
        self.ours = ""
        self.pips: deque[str] = deque(maxlen=MAX_PIPS_LINES)
        self.last = ""
        self.unreachable = False

    def take(self, text: str) -> None:
        if not text.strip() or LOGGED.match(text):
            return
        if text.startswith(OURS):
            self.ours = text.removeprefix(OURS)
        elif text.startswith(PIPS):
            self.pips.append(without_urls(text.removeprefix(PIPS)))
        elif self.pips and self.pips[-1].startswith("THESE PACKAGES DO NOT MATCH"):
            # Which ones is said below, indented.
            self.pips[-1] = f"a file has another hash than the lock: {without_urls(text.strip())}"
        self.unreachable |= UNREACHABLE.search(text) is not None
        if CAUSES.search(text) or not CAUSES.search(self.last):
            # Not simply the last one: what came on stderr and on stdout may be told in another order.
            self.last = text.strip()


class _Output:
    """The builder's output, line by line: steps as they begin, and the causes of a failure."""

    def __init__(self, builder: str, instructions: int, step: Callable[[int, int, str], None]) -> None:
        self.log = _Log()
        self._docker = builder == "docker"
        self._step = step
        self._instructions = instructions
        self._totals: dict[str, int] = {}
        self._begun: set[tuple[str, int]] = set()
        self._said: dict[str, _Said] = {"": _Said()}
        self._current = ""
        self._failed: str | None = None
        self._last = ""
        self._error = ""

    def take(self, line: str) -> None:
        self.log.add(line)
        self._last = line.strip() or self._last
        if self._docker:
            self._take_docker(line)
        elif found := STEP.fullmatch(line):
            stage = found["stage"] or "1"
            self._current = f"{stage} {found['number']}"
            self._said[self._current] = _Said()
            self._begin(stage, int(found["number"]), int(found["total"]), found["text"])
        elif BUILDERS.match(line) and not line.startswith(PIPS):
            self._take_error(line)
        else:
            self._said[self._current].take(line)

    def cause(self, status: int, arch: str) -> str:
        """Why it failed, on one line."""
        said = self._said[self._current if self._failed is None else self._failed]
        if said.ours:
            return programs.short(said.ours)
        whole = f"{self._error} {said.last}".lower()
        if "exec format error" in whole:
            return (
                f"linux/{arch} programs do not run on this machine: install qemu-user-static, or build on such a "
                f"machine ({programs.short(self._error)})"
            )
        if said.pips:
            found = "; ".join(dict.fromkeys(said.pips))
            return programs.short(f"the index could not be reached: {found}" if said.unreachable else found)
        if said.last and (not self._error or COMMAND_FAILED.search(self._error)):
            return programs.short(f"{said.last} ({self._error})" if self._error else said.last)
        if self._error:
            return programs.short(self._error)
        if status == 0:
            return "it ended before the image was there"
        return f"ended by {signal.Signals(-status).name}" if status < 0 else f"exit code {status}"

    @property
    def complete(self) -> bool:
        """podman exits with 0 when it is told to end; it and buildah have built when their last word is the image."""
        return self._docker or IDENTITY.fullmatch(self._last) is not None

    def end(self) -> None:
        total = self._total()
        self._step(total, total, "")

    def _take_docker(self, line: str) -> None:
        found = VERTEX.fullmatch(line)
        if found is None:
            # Outside of any step: the summary at the end repeats the step's output, then says what failed.
            if DOCKERS.match(line):
                self._take_error(line)
            return
        vertex, rest = found["vertex"], found["rest"]
        said = self._said.setdefault(vertex, _Said())
        if timed := TIMED.fullmatch(rest):
            said.take(timed["text"])
        elif rest.startswith("ERROR: "):
            self._failed = vertex
            self._take_error(rest)
        elif head := HEAD.fullmatch(rest):
            # Said again when another step's output came between.
            self._begin(head["stage"].strip(), int(head["number"]), int(head["total"]), head["text"])

    def _take_error(self, line: str) -> None:
        if not line.startswith("ERRO[") or not self._error:
            self._error = THROUGH.sub("", line)

    def _begin(self, stage: str, number: int, total: int, text: str) -> None:
        self._totals[stage] = total
        if (stage, number) in self._begun:
            return
        self._begun.add((stage, number))
        self._step(len(self._begun) - 1, self._total(), " ".join(text.split())[:MAX_STEP_CHARS])

    def _total(self) -> int:
        return max(self._instructions, sum(self._totals.values()), len(self._begun))


def _instructions(dockerfile: Path, *, docker: bool) -> int:
    """How many steps the builder will count, so that a progress bar never jumps back; 0 when that is not known.

    docker counts those that make files, the others all from the first FROM on.
    """
    try:
        text = dockerfile.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return 0
    found = 0
    stages = {"scratch"}
    for line in re.sub(r"\\[ \t]*\n(?:[ \t]*#[^\n]*\n)*", " ", text).splitlines():
        word, *rest = line.split() or ["#"]
        word = word.upper()
        if word.startswith("#") or (found == 0 and len(stages) == 1 and word != "FROM"):
            continue
        if docker and word == "FROM":
            found += not stages & {part.lower() for part in rest[:1]}
            stages.add(rest[-1].lower() if rest else "")
        else:
            found += not docker or word in ("RUN", "COPY", "ADD", "WORKDIR")
    return found


def _with_version(tag: str) -> str:
    return tag if ":" in tag.rpartition("/")[2] else f"{tag}:latest"
