"""The shared nouns: what is served, by whom, and what one measurement gave."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path


@dataclass(frozen=True)
class Place:
    """Where and how a server is to be started."""

    bin: Path
    folder: Path
    ports: tuple[int, ...]
    workers: int
    workload: str
    fixtures: Path

    @property
    def port(self) -> int:
        return self.ports[0]


@dataclass(frozen=True)
class Target:
    """How one workload is asked of one server: `form` names the body's file, WORKLOAD.FORM."""

    form: str
    path: str
    content_type: str = "application/json"


@dataclass(frozen=True)
class Server:
    """A peer in one of its variants.

    folder: of its app, and the name of its environment.
    command: the program and its arguments.
    targets: by workload; one that is missing is not run.
    ready: the path of its readiness probe.
    role: "subject" is servekit, "variant" servekit with other options, "control" a variant that is only measured in
        turn with servekit, "limit" serves no model.
    slow_start: it takes seconds to start, and is measured at fewer connections.
    """

    name: str
    title: str
    folder: str
    command: Callable[[Place], list[str]]
    targets: Mapping[str, Target]
    ready: str
    workers: tuple[int, ...] = (1, 2)
    environ: Mapping[str, str] = field(default_factory=dict)
    role: str = "peer"
    slow_start: bool = False
    system_python: bool = False


@dataclass(frozen=True)
class Run:
    """One measurement. `load` says what was offered: "128 connections", "1000/s". Units are in the metrics' names.

    wrong: why it does not count, empty when it does.
    """

    workload: str
    server: str
    workers: int
    load: str
    repetition: int
    metrics: Mapping[str, float]
    wrong: str = ""
