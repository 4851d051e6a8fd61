"""The nouns of `servekit check`: what a platform demands of a running container, as data that can be tried.

A platform's `Terms` say how it starts a container, asks it and stops it, and hold its clauses: each is one line of the
contract, with the vendor's page, what is tried, what is expected, and how to mend what is wrong. They are pure: what is
tried is named here, and done by `servekit.check`.
"""

from __future__ import annotations

import enum
import json
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol


class Level(enum.StrEnum):
    """must: the platform breaks, or loses requests, without it. should: it says so itself. may: it is wiser."""

    MUST = "must"
    SHOULD = "should"
    MAY = "may"


# --- one request and its answer ---------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Send:
    """One request. chunked: its body goes in chunks, without Content-Length."""

    method: str
    path: str
    headers: tuple[tuple[str, str], ...] = ()
    body: bytes = b""
    chunked: bool = False


@dataclass(frozen=True, slots=True)
class Seen:
    """One answer. headers: names in lower case. closes: the server ends the connection after it."""

    status: int
    headers: tuple[tuple[str, str], ...]
    body: bytes
    seconds: float
    closes: bool = False

    def header(self, name: str) -> str | None:
        return next((value for key, value in self.headers if key == name), None)

    def json(self) -> Any:
        """Raises ValueError."""
        return json.loads(self.body)


@dataclass(frozen=True, slots=True)
class Expectation:
    """text: in words, after `expected`. complaint: what is wrong with an answer, or None."""

    text: str
    complaint: Callable[[Seen], str | None]

    def __and__(self, other: Expectation) -> Expectation:
        def complaint(seen: Seen) -> str | None:
            return self.complaint(seen) or other.complaint(seen)

        return Expectation(f"{self.text}, {other.text}", complaint)


def status(*wanted: int) -> Expectation:
    return Expectation(
        f"status {' or '.join(map(str, wanted))}",
        lambda seen: None if seen.status in wanted else f"status {seen.status}",
    )


def status_from(lowest: int, highest: int) -> Expectation:
    return Expectation(
        f"a status from {lowest} to {highest}",
        lambda seen: None if lowest <= seen.status <= highest else f"status {seen.status}",
    )


def media_type(wanted: str, *, exact: bool = False) -> Expectation:
    """exact: no parameters such as a charset."""

    def complaint(seen: Seen) -> str | None:
        got = seen.header("content-type")
        if got is None:
            return "no Content-Type"
        plain = got if exact else got.partition(";")[0].strip().lower()
        return None if plain == wanted else f"Content-Type {got!r}"

    return Expectation(f"Content-Type {wanted}{' without parameters' if exact else ''}", complaint)


def json_object(*, keys: Collection[str] = ()) -> Expectation:
    def complaint(seen: Seen) -> str | None:
        try:
            value = seen.json()
        except ValueError:
            return f"a body that is no JSON: {seen.body[:80]!r}"
        if not isinstance(value, dict):
            return f"JSON that is no object: {seen.body[:80]!r}"
        missing = [key for key in keys if key not in value]
        return f"no {', '.join(missing)} in {seen.body[:200]!r}" if missing else None

    return Expectation(f"a JSON object{' with ' + ', '.join(keys) if keys else ''}", complaint)


def at_most(max_bytes: int) -> Expectation:
    return Expectation(
        f"a body of at most {max_bytes} bytes",
        lambda seen: None if len(seen.body) <= max_bytes else f"{len(seen.body)} bytes",
    )


TRACES = (b"Traceback (most recent call last)", b"\tat java.", b"goroutine 1 [")


def no_traceback() -> Expectation:
    return Expectation(
        "no traceback",
        lambda seen: "a traceback" if any(trace in seen.body for trace in TRACES) else None,
    )


def within(seconds: float) -> Expectation:
    return Expectation(
        f"within {seconds:g} s",
        lambda seen: None if seen.seconds <= seconds else f"an answer after {seen.seconds:.2f} s",
    )


# --- what is tried ----------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Sample:
    """A prediction that must succeed.

    files: by name, where data moves through files. input, output: the folders of one such prediction, as the container
    sees them; filled in when it is sent.
    """

    body: bytes = b""
    content_type: str = "application/json"
    files: Mapping[str, bytes] = field(default_factory=dict)
    input: str = ""
    output: str = ""


@dataclass(frozen=True, slots=True)
class Ask:
    """One request, one answer.

    send: may depend on the sample, and then needs one.
    predicts: it is a prediction with something added to it, which says nothing where plain ones fail already.
    """

    send: Send | Callable[[Sample], Send]
    expect: Expectation
    predicts: bool = False


@dataclass(frozen=True, slots=True)
class Asks:
    """Several of them, which must all hold."""

    asks: tuple[Ask, ...]


@dataclass(frozen=True, slots=True)
class Named:
    """A behaviour that takes more than one request: `servekit.check.scenarios` knows it by its name."""

    scenario: str
    parameters: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Clause:
    """One line of a contract.

    id: PLATFORM-NUMBER, for ever the same. title: what is so when it is kept. says: what the vendor demands, in our
    words. page: the vendor's page. fix: what to do when it is broken.
    """

    id: str
    level: Level
    title: str
    says: str
    page: str
    fix: str
    test: Ask | Asks | Named


class Image(Protocol):
    """The image that a container is made of."""

    def labels(self) -> Mapping[str, str]: ...

    def entrypoint(self) -> Sequence[str]: ...

    def command(self) -> Sequence[str]: ...

    def user(self) -> str: ...

    def environ(self) -> Mapping[str, str]: ...

    def exposed_ports(self) -> Sequence[int]: ...

    def working_directory(self) -> str: ...

    def nbytes(self) -> int: ...

    def read(self, path: str) -> bytes | None:
        """The content of a file in it; None when there is none."""

    def is_executable(self, path: str) -> bool: ...


def which(image: Image, program: str) -> str | None:
    """Where a program is found on the image's PATH."""
    path = image.environ().get("PATH") or "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
    places = (f"{folder.rstrip('/')}/{program}" for folder in path.split(":") if folder.startswith("/"))
    return next((place for place in places if image.is_executable(place)), None)


def is_shell_form(words: Sequence[str]) -> bool:
    """Written without brackets in a Dockerfile: a shell is process 1, and hands no signal on."""
    return len(words) == 3 and words[0].rpartition("/")[2] in ("sh", "bash") and words[1] == "-c"


@dataclass(frozen=True, slots=True)
class Start:
    """How the platform starts a container.

    arguments: behind the image's name. user: `uid:gid`, "" for the image's own. read_only: folders that cannot be
    written to. port_variable: says where to listen. ready_within_s: then the platform gives up.
    """

    arguments: tuple[str, ...] = ()
    environ: Mapping[str, str] = field(default_factory=dict)
    user: str = ""
    read_only: tuple[str, ...] = ()
    port: int = 8080
    port_variable: str = ""
    ready_within_s: float = 600.0


@dataclass(frozen=True, slots=True)
class Terms:
    """
    probe, ready: how the platform learns that a container can take work.
    predict, answered: the sample as this platform sends it, and what a success looks like.
    probe_within_s, answer_within_s: then the platform gives a probe, or a prediction, up.
    kill_after_s: SIGKILL follows SIGTERM after so long.
    stop: what the platform sends to end a container, where that is not SIGTERM.
    moves_files: a prediction names a folder with the sample's files, and one for its results.
    outputs: names of the files of a result, where they are known.
    files: names of files in which the container describes itself; places: folders of an image where they may lie,
    beside its working directory.
    adapted: the terms for a container with these files. What is wrong in them is the business of a clause.
    """

    start: Start
    probe: Send
    ready: Expectation
    predict: Callable[[Sample], Send]
    answered: Expectation
    kill_after_s: float
    clauses: tuple[Clause, ...]
    probe_within_s: float = 10.0
    answer_within_s: float = 60.0
    stop: Send | None = None
    moves_files: bool = False
    outputs: tuple[str, ...] = ()
    files: tuple[str, ...] = ()
    places: tuple[str, ...] = ()
    adapted: Callable[[Terms, Mapping[str, bytes]], Terms] | None = None
