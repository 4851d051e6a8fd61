"""Batch transform: a folder of objects in, an `.out` file for each one of which every record succeeded.

Source: developer guide, "Use Batch Transform", "Use Your Own Inference Code with Batch Transform"; API reference,
CreateTransformJob.
"""

from __future__ import annotations

import gzip
import json
import os
import shutil
import tempfile
import threading
import time
import zlib
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path, PurePosixPath
from typing import IO, Any

from servekit.check.subject import Subject
from servekit.check.wire import NoAnswer
from servekit.emulate.sagemaker.joining import BadRecord, Processing
from servekit.emulate.sagemaker.pool import Body, Pool
from servekit.emulate.sagemaker.records import Batch, SplitType, Strategy, batches
from servekit.emulate.sagemaker.storage import part
from servekit.errors import ConfigError

MEBIBYTE = 1024 * 1024
# As the platform's own client has been seen to call itself.
USER_AGENT = "Go-http-client/1.1"
MAX_PRODUCT_MB = 100
DEFAULT_CONCURRENT, DEFAULT_PAYLOAD_MB = 1, 6
MAX_PARAMETERS_BYTES = 64 * 1024
MAX_OBJECTS = 1_000_000
MAX_ERROR_BYTES = 64 * 1024
SHOWN_CHARS = 300
# A result waits in memory for those before it, a large one on disk.
IN_MEMORY_BYTES = 4 * MEBIBYTE
MAX_RESULT_BYTES = 1024 * MEBIBYTE
MAX_UNPACKED_BYTES = 64 * 1024 * MEBIBYTE
# Requests that are on their way or done, for each that may be on its way.
AHEAD = 4
PING_S, PING_EVERY_S, PARAMETERS_S = 2.0, 0.1, 60.0
RETRY_WAIT_S = 0.2
RETRIED = frozenset([429])

COMPLETED, FAILED = "Completed", "Failed"

Advance = Callable[[float, str], None]


@dataclass(frozen=True, slots=True)
class Parameters:
    """What the job says; None: what the container says, else the platform's default."""

    concurrent: int | None = None
    strategy: Strategy | None = None
    payload_mb: int | None = None


@dataclass(frozen=True, slots=True)
class Resolved:
    concurrent: int
    strategy: Strategy
    payload_mb: int


@dataclass(frozen=True, slots=True)
class Job:
    """input: a folder or a file. retries, timeout_s: ModelClientConfig."""

    input: Path
    output: Path
    split: SplitType
    parameters: Parameters
    ends_lines: bool
    processing: Processing
    content_type: str | None = None
    accept: str | None = None
    retries: int = 3
    timeout_s: float = 600.0
    is_gzip: bool = False
    ready_within_s: float = 480.0

    def environ(self) -> dict[str, str]:
        """What the container is started with: that of which the job says nothing is absent."""
        said = self.parameters
        environ = {"SAGEMAKER_BATCH": "true"}
        if said.payload_mb is not None:
            environ["SAGEMAKER_MAX_PAYLOAD_IN_MB"] = str(said.payload_mb)
        if said.strategy is not None:
            environ["SAGEMAKER_BATCH_STRATEGY"] = BY_STRATEGY[said.strategy]
        if said.concurrent:
            environ["SAGEMAKER_MAX_CONCURRENT_TRANSFORMS"] = str(said.concurrent)
        return environ


BY_STRATEGY = {Strategy.SINGLE: "SINGLE_RECORD", Strategy.MULTI: "MULTI_RECORD"}
BY_NAME = {name: strategy for strategy, name in BY_STRATEGY.items()}


@dataclass(slots=True)
class Object:
    """One input object, and what became of it."""

    name: str
    state: str = "Waiting"
    records: int = 0
    requests: int = 0
    retries: int = 0
    reason: str = ""
    output: str | None = None
    size: int = field(default=0, repr=False)
    done: int = field(default=0, repr=False)

    def document(self) -> dict[str, Any]:
        found = {name: value for name, value in asdict(self).items() if name not in ("size", "done")}
        # A file's name need not be text.
        shown = {
            name: found[name].encode("utf-8", "backslashreplace").decode() for name in ("name", "output") if found[name]
        }
        return {**found, **shown}


class NeverReady(Exception):
    """The message says why."""


class Failed(Exception):
    """One request, after all attempts."""


def found(job: Job) -> list[tuple[Path, str]]:
    """The objects and their names, in order. Raises ConfigError."""
    if job.output.exists() and not job.output.is_dir():
        raise ConfigError(f"--output {job.output}: expected a folder, got a file")
    if job.input.is_file():
        return [(job.input, job.input.name)]
    if not job.input.is_dir():
        raise ConfigError(f"--input {job.input}: expected a folder or a file")
    root, output = job.input.resolve(), job.output.resolve()
    if output.is_relative_to(root):
        raise ConfigError(f"--output {job.output}: expected a folder outside of the input's, or it would be input, too")
    paths = sorted((path for path in job.input.rglob("*") if path.is_file()), key=lambda path: path.as_posix())
    if not paths:
        raise ConfigError(f"--input {job.input}: expected files, got an empty folder")
    if len(paths) > MAX_OBJECTS:
        raise ConfigError(f"--input {job.input}: expected at most {MAX_OBJECTS} files, got {len(paths)}")
    names = [path.relative_to(job.input).as_posix() for path in paths]
    # S3 has keys, and no folders that one of them could be.
    results = {f"{name}.out" for name in names}
    for name in names:
        if both := results.intersection(map(str, PurePosixPath(name).parents)):
            raise ConfigError(
                f"--input {job.input}: {name!r}: its folder has the name of another object's result, {both.pop()!r}; "
                "rename one of them"
            )
    return list(zip(paths, names, strict=True))


class Transform:
    """objects: what became of each, also when it breaks off."""

    def __init__(self, job: Job, subject: Subject, say: Callable[[str, str], None]) -> None:
        self._job, self._subject, self._say = job, subject, say
        self._pool = Pool(subject.address, user_agent=USER_AGENT)
        self._inputs = found(job)
        self.objects = [Object(name, size=path.stat().st_size) for path, name in self._inputs]
        self._lock = threading.Lock()
        self._stops = threading.Event()
        self._said_blank = False
        # Sums, as there may be many objects.
        self._size, self._done, self._ended = sum(thing.size for thing in self.objects), 0, 0
        self.resolved = Resolved(DEFAULT_CONCURRENT, Strategy.MULTI, DEFAULT_PAYLOAD_MB)

    def close(self) -> None:
        self._pool.close()

    # --- before ---

    def prepare(self) -> None:
        """Wait for the container, and ask what it wants. Raises NeverReady, ConfigError."""
        end_s = time.monotonic() + self._job.ready_within_s
        while (failure := self._ping()) is not None:
            process = self._subject.process
            if process is not None and process.exit_code is not None:
                raise NeverReady(f"the container ended with {process.exit_code} before it was ready")
            if time.monotonic() >= end_s:
                raise NeverReady(f"the container was not ready within {self._job.ready_within_s:g} s: {failure}")
            time.sleep(PING_EVERY_S)
        self.resolved = resolve(self._job.parameters, self._asked(), self._say)

    def _ping(self) -> str | None:
        try:
            with self._pool.send("GET", "/ping", timeout_s=PING_S) as answer:
                _limited(answer.read, MAX_ERROR_BYTES)
                return None if answer.status == 200 else f"GET /ping: expected 200, got {answer.status}"
        except NoAnswer as error:
            return f"GET /ping: {error.message}"

    def _asked(self) -> dict[str, Any]:
        """What /execution-parameters says; a container need not have it."""
        try:
            with self._pool.send("GET", "/execution-parameters", timeout_s=PARAMETERS_S) as answer:
                body = _limited(answer.read, MAX_PARAMETERS_BYTES)
                if answer.status != 200:
                    return {}
                said = json.loads(body)
        except (NoAnswer, ValueError, RecursionError) as error:
            self._say("ignored", f"the container's /execution-parameters: {error}")
            return {}
        if not isinstance(said, dict):
            self._say("ignored", "the container's /execution-parameters: expected an object")
            return {}
        return said

    # --- the work ---

    def run(self, advance: Advance) -> None:
        """Raises OSError. Whatever it raises, no half-written file is left."""
        waiting: deque[tuple[_Output, Batch, Future[IO[bytes]]]] = deque()
        open_outputs: list[_Output] = []
        threads = ThreadPoolExecutor(self.resolved.concurrent, thread_name_prefix="transform")
        try:
            for (path, _), thing in zip(self._inputs, self.objects, strict=True):
                open_outputs = [output for output in open_outputs if not output.is_over]
                output = _Output(path, self._job, thing)
                open_outputs.append(output)
                for batch in self._batches(output):
                    while len(waiting) >= self.resolved.concurrent * AHEAD:
                        self._take(*waiting.popleft(), advance)
                    if thing.state == FAILED:
                        break
                    output.pending += 1
                    waiting.append((output, batch, threads.submit(self._invoke, batch, thing)))
                output.is_all = True
                self._end(output, advance)
            while waiting:
                self._take(*waiting.popleft(), advance)
        finally:
            self._stops.set()
            self._pool.close()
            threads.shutdown(wait=True, cancel_futures=True)
            # Results that nobody takes any more.
            for _, _, future in waiting:
                if not future.cancelled() and future.exception() is None:
                    future.result().close()
            for output in open_outputs:
                output.drop()

    def _batches(self, output: _Output) -> Iterator[Batch]:
        output.thing.state = "InProgress"
        try:
            yield from batches(
                output.begin(), self._job.split, self.resolved.strategy, self.resolved.payload_mb * MEBIBYTE,
                self._job.processing,
            )  # fmt: skip
        except (BadRecord, EOFError, zlib.error, OSError) as error:
            output.fail(str(error))

    def _take(self, output: _Output, batch: Batch, future: Future[IO[bytes]], advance: Advance) -> None:
        """The next result, in the order of the records."""
        thing = output.thing
        try:
            with future.result() as result:
                if thing.state != FAILED:
                    self._write(output, batch, result)
        except (Failed, BadRecord) as error:
            output.fail(str(error) if str(error).startswith("record ") else f"{batch.what}: {error}")
        output.pending -= 1
        self._advance(thing, thing.done + batch.size)
        self._end(output, advance)

    def _write(self, output: _Output, batch: Batch, result: IO[bytes]) -> None:
        thing, processing = output.thing, self._job.processing
        thing.records += batch.count
        if not processing.is_on:
            if output.add(result) and not self._said_blank:
                self._said_blank = True
                self._say("note", "the container's answers end with a newline; AssembleWith Line adds another to each")
            return
        results = processing.results(result.read(), batch.count)
        for number, (record, made) in enumerate(zip(batch.records, results, strict=True), batch.first):
            try:
                output.write(processing.kept(record, made))
            except BadRecord as error:
                raise BadRecord(f"record {number}: {error}") from error

    def _end(self, output: _Output, advance: Advance) -> None:
        if output.is_all and not output.pending:
            output.finish()
            self._advance(output.thing, output.thing.size)
            self._ended += 1
        whole = 100.0 * self._done / self._size if self._size else 100.0 * self._ended / len(self.objects)
        advance(whole, f"{self._ended} of {len(self.objects)} objects")

    def _advance(self, thing: Object, done: int) -> None:
        done = min(done, thing.size)
        self._done += done - thing.done
        thing.done = done

    # --- one request, in a thread ---

    def _invoke(self, batch: Batch, thing: Object) -> IO[bytes]:
        """Raises Failed."""
        for attempt in range(self._job.retries + 1):
            if thing.state == FAILED:
                raise Failed("not sent: the object has failed already")
            with self._lock:
                thing.requests += 1
                thing.retries += attempt > 0
            failure, may_retry = "", True
            try:
                return self._attempt(batch)
            except NoAnswer as error:
                failure = error.message
                if error.kind == "timeout":
                    failure = f"no answer within {self._job.timeout_s:g} s"
            except OSError as error:
                raise Failed(str(error)) from error
            except _Refusal as error:
                failure = error.text
                may_retry = error.status in RETRIED or error.status >= 500
            process = self._subject.process
            if process is not None and process.exit_code is not None:
                raise Failed(f"the container ended with {process.exit_code}")
            if not may_retry or attempt == self._job.retries or self._stops.wait(RETRY_WAIT_S * 2**attempt):
                break
        raise Failed(failure)

    def _attempt(self, batch: Batch) -> IO[bytes]:
        headers = [
            (name, value)
            for name, value in (("Content-Type", self._job.content_type), ("Accept", self._job.accept))
            if value is not None
        ]
        chunked = self.resolved.payload_mb == 0
        with _opened(batch.body) as (body, length):
            answer = self._pool.send(
                "POST", "/invocations", headers, body, length=length, chunked=chunked, timeout_s=self._job.timeout_s
            )
        with answer:
            if not 200 <= answer.status < 300:
                raise _Refusal(answer.status, _limited(answer.read, MAX_ERROR_BYTES).decode("utf-8", "replace"))
            result = tempfile.SpooledTemporaryFile(IN_MEMORY_BYTES)  # noqa: SIM115 - whoever takes it closes it
            try:
                size = 0
                while data := answer.read():
                    size += len(data)
                    if size > MAX_RESULT_BYTES:
                        raise _Refusal(answer.status, f"its answer is larger than {MAX_RESULT_BYTES} bytes")
                    result.write(data)
            except BaseException:
                result.close()
                raise
        result.seek(0)
        return result


class _Refusal(Exception):
    def __init__(self, status: int, said: str) -> None:
        super().__init__(said)
        self.status = status
        words = " ".join(said.split())
        self.text = f"the container said {status}: {words[:SHOWN_CHARS]}" if words else f"the container said {status}"


class _Output:
    """The `.out` file of an object: there when all is well, and not otherwise.

    pending: requests whose results are not written yet. is_all: no more will come.
    """

    def __init__(self, source: Path, job: Job, thing: Object) -> None:
        self.thing = thing
        self.pending = 0
        self.is_all = self.is_over = False
        self._source, self._job = source, job
        self._path = job.output / f"{thing.name}.out"
        self._unpacked: Path | None = None
        self._path.parent.mkdir(parents=True, exist_ok=True)
        # Of an earlier job: what is there afterwards is this one's.
        self._path.unlink(missing_ok=True)
        self._file, self._part = part(self._path.parent)

    def begin(self) -> Path:
        """The object, unpacked. Raises OSError, EOFError, zlib.error, BadRecord."""
        if not self._job.is_gzip:
            return self._source
        descriptor, name = tempfile.mkstemp(prefix="servekit-transform-")
        self._unpacked = Path(name)
        size = 0
        with open(descriptor, "wb") as plain, gzip.open(self._source) as packed:  # noqa: PTH123 - a descriptor
            while data := packed.read(MEBIBYTE):
                size += len(data)
                if size > MAX_UNPACKED_BYTES:
                    raise BadRecord(f"the object unpacks to more than {MAX_UNPACKED_BYTES} bytes")
                plain.write(data)
        return self._unpacked

    def add(self, result: IO[bytes]) -> bool:
        """Does it bring the end of a line itself, where one is added?"""
        shutil.copyfileobj(result, self._file, MEBIBYTE)
        if not self._job.ends_lines:
            return False
        self._file.write(b"\n")
        if not result.tell():
            return False
        result.seek(-1, os.SEEK_END)
        return result.read(1) == b"\n"

    def write(self, result: bytes) -> None:
        self._file.write(result + b"\n" if self._job.ends_lines else result)

    def fail(self, reason: str) -> None:
        if self.thing.state != FAILED:
            self.thing.state, self.thing.reason = FAILED, reason

    def finish(self) -> None:
        if self.thing.state != FAILED:
            self._file.close()
            self._part.replace(self._path)
            self.thing.state, self.thing.output = COMPLETED, str(self._path)
        self.drop()

    def drop(self) -> None:
        self.is_over = True
        self._file.close()
        self._part.unlink(missing_ok=True)
        if self._unpacked is not None:
            self._unpacked.unlink(missing_ok=True)


@contextmanager
def _opened(body: bytes | Path) -> Iterator[tuple[Body, int]]:
    if isinstance(body, bytes):
        yield body, len(body)
        return
    with body.open("rb") as file:
        yield file, os.fstat(file.fileno()).st_size


def _limited(read: Callable[[], bytes], most: int) -> bytes:
    """No more than the beginning. Raises NoAnswer."""
    data = b""
    while len(data) < most and (piece := read()):
        data += piece
    return data[:most]


def resolve(said: Parameters, asked: Mapping[str, Any], say: Callable[[str, str], None]) -> Resolved:
    """The job's word, else the container's, else the platform's default. Raises ConfigError."""

    def number(name: str, least: int, most: int) -> int | None:
        value = asked.get(name)
        if value is None:
            return None
        if isinstance(value, bool) or not isinstance(value, int) or not least <= value <= most:
            raise ConfigError(
                f"the container's /execution-parameters: {name}: expected a number from {least} to {most}, "
                f"got {value!r}"
            )
        return value

    payload_mb = said.payload_mb
    if payload_mb is None:
        payload_mb = number("MaxPayloadInMB", 0, MAX_PRODUCT_MB)
    if payload_mb is None:
        payload_mb = DEFAULT_PAYLOAD_MB
    concurrent = said.concurrent or number("MaxConcurrentTransforms", 0, 10_000) or DEFAULT_CONCURRENT
    strategy = said.strategy
    if strategy is None and (name := asked.get("BatchStrategy")) is not None:
        if name not in BY_NAME:
            raise ConfigError(
                f"the container's /execution-parameters: BatchStrategy: expected {' or '.join(BY_NAME)}, got {name!r}"
            )
        strategy = BY_NAME[name]
    if concurrent * payload_mb > MAX_PRODUCT_MB:
        if said.concurrent and said.payload_mb:
            raise ConfigError(
                f"--max-concurrent {concurrent} x --max-payload-mb {payload_mb}: expected at most {MAX_PRODUCT_MB} "
                "in all"
            )
        fewer = max(1, MAX_PRODUCT_MB // payload_mb)
        say("note", f"{concurrent} x {payload_mb} MB at once are more than {MAX_PRODUCT_MB} MB: {fewer} go at once")
        concurrent = fewer
    return Resolved(concurrent, strategy or Strategy.MULTI, payload_mb)
