"""A job on this machine: a directory of files per item in, the outputs and the platform's document of results out.

The container is called as the platform calls it: `/status` first, then `/run` for one item after another with fresh
directories, `/shutdown` at the end of one that was started here.
Source: docs.modzy.com, "Container specifications (REST)", "Create a job", "Get results".
"""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import time
import uuid
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from servekit.check.subject import Subject
from servekit.check.wire import NoAnswer
from servekit.emulate.bodies import value
from servekit.emulate.modzy.calls import instant
from servekit.emulate.modzy.container import Container, ContainerFailed
from servekit.emulate.sagemaker.pool import Pool
from servekit.emulate.sagemaker.storage import replacing
from servekit.errors import ConfigError
from servekit.publish.modzy.metadata import Metadata

MAX_ITEMS = 100_000
ASK_EVERY_S = 0.1
SHUTDOWN_S, EXIT_S = 5.0, 30.0
USER_AGENT = "servekit-emulate-modzy"
RESULTS, ITEMS = "results.json", "items"
WAITING, SUCCESSFUL, FAILED = "WAITING", "SUCCESSFUL", "FAILED"

Advance = Callable[[float, str], None]


@dataclass(frozen=True, slots=True)
class Job:
    """files: where the container sees items' files under the same path; None: the temporary directory."""

    input: Path
    output: Path
    model: Metadata
    files: Path | None = None
    ready_within_s: float = 600.0

    @property
    def outputs(self) -> list[str]:
        return [str(output["name"]) for output in self.model.document["outputs"]]


@dataclass(slots=True)
class Item:
    """path: its directory; for a model of one input also that file itself. document: as the platform shows it."""

    name: str
    path: Path = field(repr=False)
    state: str = WAITING
    reason: str = ""
    document: dict[str, Any] = field(default_factory=dict)


class NeverReady(Exception):
    """The message says why."""


def found(job: Job) -> list[Item]:
    """Raises ConfigError."""
    if not job.input.is_dir():
        raise ConfigError(f"--input {job.input}: expected a folder with a directory for each item")
    if job.output.resolve().is_relative_to(job.input.resolve()):
        raise ConfigError(f"--output {job.output}: expected a folder outside of the input's, or it would be input, too")
    paths = sorted(job.input.iterdir(), key=lambda path: path.name)
    if not paths:
        raise ConfigError(f"--input {job.input}: expected a directory for each item, got an empty folder")
    if len(paths) > MAX_ITEMS:
        raise ConfigError(f"--input {job.input}: expected at most {MAX_ITEMS} items, got {len(paths)}")
    return [Item(path.name, path) for path in paths]


class Runner:
    """items: what became of each, also when it breaks off. shutdown: how the container ended, where it was begun."""

    def __init__(self, job: Job, subject: Subject) -> None:
        """Raises ConfigError."""
        self._job, self._subject = job, subject
        # A container of another user, which sees this folder only.
        files = job.files or (subject.folder if subject.image is not None else None)
        self._container = Container(url=str(subject.address), files=files)
        self.items = found(job)
        self.identifier = str(uuid.uuid4())
        self.shutdown: dict[str, Any] | None = None
        self._submitted_s = time.time()
        self._is_finished = False
        self._submitted_s = 0.0

    def close(self) -> None:
        self._container.end()

    async def prepare(self) -> None:
        """The first /status, in which a model may load. Raises NeverReady."""
        end_s = time.monotonic() + self._job.ready_within_s
        while True:
            try:
                await self._container.status(self._job.model.status_timeout_s)
                return
            except ContainerFailed as error:
                process, cause = self._subject.process, error.__cause__
                if process is not None and process.exit_code is not None:
                    raise NeverReady(
                        f"the container ended with {process.exit_code} before it answered /status"
                    ) from error
                # One that was just started does not listen yet.
                is_early = isinstance(cause, OSError) and not isinstance(cause, TimeoutError) and process is not None
                if not is_early or time.monotonic() >= end_s:
                    limit = f" (timeout.status: {self._job.model.status_timeout_s:g} s)"
                    raise NeverReady(f"{error.text}{limit if isinstance(cause, TimeoutError) else ''}") from error
            await asyncio.sleep(ASK_EVERY_S)

    async def run(self, advance: Advance) -> None:
        """Raises OSError."""
        (self._job.output / ITEMS).mkdir(parents=True, exist_ok=True)
        self._submitted_s = time.time()
        for number, item in enumerate(self.items, 1):
            await self._one(item)
            advance(100.0 * number / len(self.items), f"{number} of {len(self.items)} items")
        self._is_finished = True

    async def _one(self, item: Item) -> None:
        began_s, started_s = time.time(), time.monotonic()
        # Of an earlier job: what is there afterwards is this one's.
        folder = self._job.output / ITEMS / item.name
        shutil.rmtree(folder, ignore_errors=True)
        try:
            inputs = self._inputs(item)
            fetched_s = time.monotonic()
            answered = await self._answered(inputs)
            ended_s = time.monotonic()
            results = {name: self._result(item, name, content) for name, content in answered.items()}
        except ContainerFailed as error:
            item.state, item.reason = FAILED, error.text
            item.document = {
                "error": error.text, "status": FAILED, "startTime": instant(began_s), "endTime": instant(time.time()),
                "technicalInformation": error.technical or error.text,
            }  # fmt: skip
            return
        for name, content in answered.items():
            with replacing(folder / name) as file:
                file.write(content)
        now = instant(time.time())
        item.state = SUCCESSFUL
        item.document = {
            "status": SUCCESSFUL, "engine": "emulated", "inputFetching": _ms(fetched_s - started_s),
            "outputUploading": _ms(time.monotonic() - ended_s), "modelLatency": _ms(ended_s - fetched_s),
            "queueTime": _ms(began_s - self._submitted_s), "startTime": instant(began_s), "updateTime": now,
            "endTime": now, "voting": {"up": 0, "down": 0}, **results,
        }  # fmt: skip

    async def _answered(self, inputs: Mapping[str, bytes]) -> dict[str, bytes]:
        """Raises ContainerFailed."""
        limit_s = self._job.model.run_timeout_s
        try:
            return await self._container.run(inputs, self._job.outputs, limit_s)
        except ContainerFailed as error:
            if isinstance(error.__cause__, TimeoutError):
                raise ContainerFailed(f"/run did not answer within {limit_s:g} s (timeout.run)") from error
            process = self._subject.process
            if process is not None and process.exit_code is not None:
                raise ContainerFailed(f"the container ended with {process.exit_code}: {error.text}") from error
            raise

    def _inputs(self, item: Item) -> dict[str, bytes]:
        """Raises ContainerFailed."""
        declared = self._job.model.inputs
        names = ", ".join(declared)
        if item.path.is_dir():
            files = {path.name: path for path in item.path.iterdir()}
        elif len(declared) == 1:
            files = dict.fromkeys(declared, item.path)
        else:
            raise ContainerFailed(f"expected a directory with {names}, got a file")
        for name in declared:
            if name not in files:
                raise ContainerFailed(
                    f"the input {name!r} is missing; the item has {', '.join(sorted(files)) or 'none'}"
                )
        for name in sorted(files):
            if name not in declared:
                raise ContainerFailed(f"the model has no input {name!r}; it has {names}")
        return {name: _read(files[name], name, most) for name, most in declared.items()}

    def _result(self, item: Item, name: str, content: bytes) -> Any:
        """JSON as it is, other text as text, all else where it lies. Raises ContainerFailed."""
        if name.lower().endswith(".json"):
            try:
                return value(content)
            except ValueError as error:
                raise ContainerFailed(f"the output {name!r} is no JSON: {error}") from error
        try:
            return content.decode() if name.lower().endswith((".txt", ".csv")) else f"{ITEMS}/{item.name}/{name}"
        except UnicodeDecodeError:
            return f"{ITEMS}/{item.name}/{name}"

    # --- at the end ---

    def end(self) -> None:
        """POST /shutdown, where the container was started here, and see how it goes."""
        process = self._subject.process
        if process is None or process.exit_code is not None:
            return
        pool = Pool(self._subject.address, user_agent=USER_AGENT, most_idle=0)
        status: int | None = None
        try:
            with pool.send("POST", "/shutdown", timeout_s=SHUTDOWN_S) as answer:
                status = answer.status
                while answer.read():
                    pass
        except NoAnswer:
            pass  # It may drop the connection.
        self.shutdown = {"status": status, "exit_code": process.wait(EXIT_S)}

    def document(self) -> dict[str, Any]:
        """As GET /results/{job} of the platform."""
        results = {item.name: item.document for item in self.items if item.state == SUCCESSFUL}
        failures = {item.name: item.document for item in self.items if item.state == FAILED}
        return {
            "jobIdentifier": self.identifier, "total": len(self.items), "completed": len(results),
            "failed": len(failures), "finished": self._is_finished, "explained": False, "results": results,
            "failures": failures,
        }  # fmt: skip

    def write(self) -> Path:
        """The document, as OUTPUT/results.json. Raises OSError."""
        path = self._job.output / RESULTS
        with replacing(path) as file:
            file.write(json.dumps(self.document(), indent=2, ensure_ascii=False).encode("utf-8", "backslashreplace"))
        return path


def _read(path: Path, name: str, most: int) -> bytes:
    """Raises ContainerFailed."""
    try:
        # A pipe would wait for ever.
        with open(os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC), "rb") as file:  # noqa: PTH123 - a descriptor
            content = file.read(most + 1)
    except OSError as error:
        raise ContainerFailed(f"the input {name!r} cannot be read: {error.strerror or error}") from error
    if len(content) > most:
        raise ContainerFailed(f"the input {name!r} has more than {most} bytes, its maxSize in model.yaml")
    return content


def _ms(seconds: float) -> int:
    return max(0, int(seconds * 1000))
