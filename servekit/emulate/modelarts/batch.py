"""A batch service: a folder of files in, `NAME_result.txt` for each of which every request succeeded.

Source: Huawei Cloud, "Deploying as a Batch Service", "Viewing the Batch Service Prediction Result", "Creating a
Service". The pages do not say how often a request is tried again, how many go at once, nor what becomes of a CSV file
of which one row fails: here its first failed row fails it.
"""

from __future__ import annotations

import csv
import json
import mimetypes
import secrets
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any

from servekit.check.subject import Subject
from servekit.check.wire import NoAnswer
from servekit.emulate.bodies import value
from servekit.emulate.modelarts.declared import Api, Health
from servekit.emulate.modelarts.mapping import BadRow, Rule
from servekit.emulate.sagemaker.pool import Answer, Pool
from servekit.emulate.sagemaker.storage import part, replacing
from servekit.errors import ConfigError
from servekit.platforms.modelarts.terms import form_name

MEBIBYTE = 1024 * 1024
MAX_FILE_BYTES = 12 * MEBIBYTE
MAX_FILES = 1_000_000
MAX_MANIFEST_BYTES = 64 * MEBIBYTE
MAX_ANSWER_BYTES = 64 * MEBIBYTE
MAX_ERROR_BYTES = 64 * 1024
SHOWN_CHARS = 300
# Requests that are on their way or done, for each that may be on its way.
AHEAD = 2
RETRY_WAIT_S, RETRIED = 0.2, frozenset([429])
ASK_EVERY_S, MAX_WAIT_S = 0.1, 5.0
USER_AGENT = "servekit-emulate-modelarts"
OK = 200

FILE, CSV = "file", "csv"
SCHEMES = ("obs://", "s3://")
WAITING, SUCCESSFUL, FAILED = "WAITING", "SUCCESSFUL", "FAILED"
RESULTS, ENDING = "infer-result", "_result.txt"

Advance = Callable[[float, str], None]


@dataclass(frozen=True, slots=True)
class Job:
    """input: a folder, a file, or a manifest. obs: the folder that stands for OBS; its folders are the buckets."""

    input: Path
    output: Path
    api: Api
    task: str
    rule: Rule | None = None
    health: Health | None = None
    concurrent: int = 1
    retries: int = 3
    timeout_s: float = 600.0
    ready_within_s: float = 1200.0
    obs: Path | None = None

    @property
    def mapping(self) -> str:
        return FILE if self.rule is None else CSV


@dataclass(slots=True)
class Item:
    """A file of the input, and what became of it. source: as the manifests call it."""

    name: str
    source: str
    path: Path | None = field(default=None, repr=False)
    state: str = WAITING
    requests: int = 0
    retries: int = 0
    reason: str = ""
    location: str = ""

    def fail(self, reason: str) -> None:
        if self.state != FAILED:
            self.state, self.reason = FAILED, reason

    def document(self) -> dict[str, Any]:
        """A line of the output's manifest."""
        result = {"inference-loc": self.location} if self.state == SUCCESSFUL else {"error_message": self.reason}
        document = {"source": self.source, "result": self.state, **result}
        # A file's name need not be text.
        return {key: text.encode("utf-8", "backslashreplace").decode() for key, text in document.items()}


class NeverReady(Exception):
    """The message says why."""


class RequestFailed(Exception):
    """One request, after all attempts."""


@dataclass(frozen=True, slots=True)
class _Request:
    """what: for an error's message. make: content type and body."""

    what: str
    make: Callable[[], tuple[str, bytes]]


# --- before it begins ---


def form_field(api: Api) -> str:
    """Under which name a file is sent. Raises ConfigError."""
    check(api)
    properties = (api.request or {}).get("properties", {})
    names = list(properties) if isinstance(properties, dict) else []
    first = properties[names[0]] if names else None
    if len(names) != 1 or not isinstance(first, dict) or first.get("type") != "file":
        raise ConfigError(
            f'config.json: {api}: request.data: --mapping-type file needs exactly one parameter, with "type": "file"; '
            f"got {', '.join(names) or 'none'}"
        )
    return str(names[0])


def check(api: Api) -> None:
    """Raises ConfigError."""
    if api.method != "POST":
        raise ConfigError(f"config.json: {api}: expected the method post, which batch services send")
    if not api.is_whole:
        raise ConfigError(
            f"config.json: {api}: expected Content-type and data in request and response: a batch service without "
            "them is refused (ModelArts.3514)"
        )


def found(job: Job) -> list[Item]:
    """The files, in order. Raises ConfigError."""
    if job.input.is_file():
        if job.input.suffix == ".manifest":
            return _listed(job)
        return [Item(job.input.name, job.input.name, job.input)]
    if not job.input.is_dir():
        raise ConfigError(f"--input {job.input}: expected a folder, a file or a .manifest")
    if job.output.resolve().is_relative_to(job.input.resolve()):
        raise ConfigError(f"--output {job.output}: expected a folder outside of the input's, or it would be input, too")
    paths = sorted((path for path in job.input.rglob("*") if path.is_file()), key=lambda path: path.as_posix())
    if not paths:
        raise ConfigError(f"--input {job.input}: expected files, got an empty folder")
    if len(paths) > MAX_FILES:
        raise ConfigError(f"--input {job.input}: expected at most {MAX_FILES} files, got {len(paths)}")
    names = [path.relative_to(job.input).as_posix() for path in paths]
    return [Item(name, name, path) for name, path in zip(names, paths, strict=True)]


def _listed(job: Job) -> list[Item]:
    """What a manifest names, a line for each. A file that is not there fails, and the others go on."""
    with job.input.open("rb") as file:
        body = file.read(MAX_MANIFEST_BYTES + 1)
    if len(body) > MAX_MANIFEST_BYTES:
        raise ConfigError(f"--input {job.input}: expected at most {MAX_MANIFEST_BYTES} bytes")
    items: list[Item] = []
    taken: set[str] = set()
    for number, line in enumerate(body.splitlines(), 1):
        if not line.strip():
            continue
        try:
            entry = value(line)
            source = entry["source"]
            if not isinstance(source, str):
                raise TypeError
        except (ValueError, TypeError, KeyError) as error:
            raise ConfigError(
                f'--input {job.input}: line {number}: expected {{"source": "obs://BUCKET/FILE"}}, '
                f"got {line[:SHOWN_CHARS].decode('utf-8', 'replace')!r}"
            ) from error
        item = _named(job, source)
        if item.name in taken:
            item.fail(f"{item.name}{ENDING} is the result of an earlier line already")
            item.path = None
        taken.add(item.name)
        items.append(item)
    if not items:
        raise ConfigError(f'--input {job.input}: expected lines with a "source", got none')
    if len(items) > MAX_FILES:
        raise ConfigError(f"--input {job.input}: expected at most {MAX_FILES} lines, got {len(items)}")
    return items


def _named(job: Job, source: str) -> Item:
    """A source is obs://BUCKET/FILE below --obs, or a file beside the manifest."""
    scheme = next((scheme for scheme in SCHEMES if source.startswith(scheme)), "")
    item = Item(source, source)
    if not scheme and "://" in source:
        item.fail("expected obs://BUCKET/FILE, or a file beside the manifest: nothing is fetched here")
    elif scheme and job.obs is None:
        item.fail("name the folder that stands for OBS with --obs; its folders are the buckets")
    else:
        root = job.obs if scheme and job.obs is not None else job.input.parent
        parts = source.removeprefix(scheme).split("/")
        if any(word in ("", ".", "..") or "\0" in word for word in parts) or len(parts) <= bool(scheme):
            item.fail("expected a file's name, without '.' and '..' in its path")
            return item
        item.name = "/".join(parts[bool(scheme) :])
        item.path = root.joinpath(*parts)
        if not item.path.resolve().is_relative_to(root.resolve()):
            item.fail(f"leads out of {root}")
        elif not item.path.is_file():
            item.fail(f"there is no file {item.path}")
    return item


# --- the work ---


class Batch:
    """items: what became of each file, also when it breaks off."""

    def __init__(self, job: Job, subject: Subject) -> None:
        """Raises ConfigError."""
        self._job, self._subject = job, subject
        self._pool = Pool(subject.address, user_agent=USER_AGENT)
        self._field = form_field(job.api) if job.rule is None else ""
        check(job.api)
        self.items = found(job)
        self.manifest = job.output / f"{RESULTS}-{job.task}.manifest"
        self._lock = threading.Lock()
        self._stops = threading.Event()

    def close(self) -> None:
        self._stops.set()
        self._pool.close()

    def prepare(self) -> None:
        """Wait for the container, as its health check says. Raises NeverReady."""
        limit_s = self._job.ready_within_s
        end_s = time.monotonic() + limit_s
        while (failure := self._asked(max(ASK_EVERY_S, min(MAX_WAIT_S, end_s - time.monotonic())))) is not None:
            process = self._subject.process
            if process is not None and process.exit_code is not None:
                raise NeverReady(f"the container ended with {process.exit_code} before it was ready")
            if time.monotonic() >= end_s:
                raise NeverReady(f"the container was not ready within {limit_s:g} s: {failure}")
            time.sleep(ASK_EVERY_S)

    def _asked(self, limit_s: float) -> str | None:
        """None when it is ready. Without a health check it is once it answers at all."""
        url = self._job.health.url if self._job.health is not None else "/"
        try:
            with self._pool.send("GET", url, timeout_s=limit_s) as answer:
                _limited(answer, MAX_ERROR_BYTES)
                if self._job.health is None or answer.status == OK:
                    return None
                return f"GET {url}: expected 200, got {answer.status}"
        except NoAnswer as error:
            return f"GET {url}: {error.message}"

    def run(self, advance: Advance) -> None:
        """Raises OSError. Whatever it raises, no half-written file is left."""
        waiting: deque[tuple[_Result, _Request, Future[bytes]]] = deque()
        results: list[_Result] = []
        threads = ThreadPoolExecutor(self._job.concurrent, thread_name_prefix="batch")
        self._job.output.mkdir(parents=True, exist_ok=True)
        try:
            for item in self.items:
                results = [result for result in results if not result.is_over]
                result = _Result(item, self._job)
                results.append(result)
                for request in self._requests(item) if result.begin() else ():
                    while len(waiting) >= self._job.concurrent * AHEAD:
                        self._take(*waiting.popleft(), advance)
                    if item.state == FAILED:
                        break
                    result.pending += 1
                    waiting.append((result, request, threads.submit(self._send, request, item)))
                result.is_all = True
                self._end(result, advance)
            while waiting:
                self._take(*waiting.popleft(), advance)
        finally:
            self.close()
            threads.shutdown(wait=True, cancel_futures=True)
            for result in results:
                result.drop()
        with replacing(self.manifest) as file:
            for item in self.items:
                file.write(json.dumps(item.document(), ensure_ascii=False).encode() + b"\n")

    def _take(self, result: _Result, request: _Request, future: Future[bytes], advance: Advance) -> None:
        """The next answer, in the order of the rows."""
        try:
            result.add(future.result())
        except RequestFailed as error:
            result.item.fail(f"{request.what}{error}")
        result.pending -= 1
        self._end(result, advance)

    def _end(self, result: _Result, advance: Advance) -> None:
        if result.is_all and not result.pending and not result.is_over:
            result.finish()
            done = sum(item.state != WAITING for item in self.items)
            advance(100.0 * done / len(self.items), f"{done} of {len(self.items)} files")

    # --- what is sent ---

    def _requests(self, item: Item) -> Iterator[_Request]:
        path, rule = item.path, self._job.rule
        assert path is not None  # noqa: S101 - a file that is not there has failed before
        try:
            size = path.stat().st_size
            if size > MAX_FILE_BYTES:
                item.fail(f"it has {size} bytes: expected at most {MAX_FILE_BYTES}")
            elif rule is None:
                yield _Request("", lambda: _form(self._field, path))
            elif path.suffix.lower() != ".csv":
                item.fail("expected a name that ends with .csv")
            else:
                yield from _rows(path, rule)
        except BadRow as error:
            item.fail(str(error))
        except (OSError, UnicodeDecodeError, csv.Error) as error:
            item.fail(f"cannot be read: {error.strerror if isinstance(error, OSError) else error}")

    def _send(self, request: _Request, item: Item) -> bytes:
        """In a thread. Raises RequestFailed."""
        try:
            content_type, body = request.make()
        except OSError as error:
            raise RequestFailed(f"cannot be read: {error.strerror or error}") from error
        for attempt in range(self._job.retries + 1):
            if item.state == FAILED or self._stops.is_set():
                raise RequestFailed("not sent")
            with self._lock:
                item.requests += 1
                item.retries += attempt > 0
            may_retry = True
            try:
                return self._attempt(content_type, body)
            except NoAnswer as error:
                limit_s = self._job.timeout_s
                failure = f"no answer within {limit_s:g} s" if error.kind == "timeout" else error.message
            except _Refusal as error:
                failure = str(error)
                may_retry = error.status in RETRIED or error.status >= 500
            process = self._subject.process
            if process is not None and process.exit_code is not None:
                raise RequestFailed(f"the container ended with {process.exit_code}")
            if not may_retry or attempt == self._job.retries or self._stops.wait(RETRY_WAIT_S * 2**attempt):
                break
        raise RequestFailed(failure)

    def _attempt(self, content_type: str, body: bytes) -> bytes:
        """Raises NoAnswer, _Refusal."""
        headers = [("Content-Type", content_type), ("Accept", "*/*")]
        with self._pool.send("POST", self._job.api.url, headers, body, timeout_s=self._job.timeout_s) as answer:
            if not 200 <= answer.status < 300:
                words = " ".join(_limited(answer, MAX_ERROR_BYTES).decode("utf-8", "replace").split())
                said = f": {words[:SHOWN_CHARS]}" if words else ""
                raise _Refusal(answer.status, f"the container said {answer.status}{said}")
            data = _limited(answer, MAX_ANSWER_BYTES + 1)
        if len(data) > MAX_ANSWER_BYTES:
            raise _Refusal(answer.status, f"the container's answer is larger than {MAX_ANSWER_BYTES} bytes")
        return data


class _Refusal(Exception):
    def __init__(self, status: int, text: str) -> None:
        super().__init__(text)
        self.status = status


class _Result:
    """`NAME_result.txt`: there when all is well, and not otherwise.

    pending: requests whose answers are not written yet. is_all: no more will come.
    """

    def __init__(self, item: Item, job: Job) -> None:
        self.item = item
        self.pending = 0
        self.is_all = self.is_over = False
        self._ends_lines = job.rule is not None
        self._location = f"{RESULTS}/{item.name}{ENDING}"
        self._path = job.output / self._location
        self._file: IO[bytes] | None = None
        self._part: Path | None = None

    def begin(self) -> bool:
        """Is there something to do for it?"""
        try:
            # Of an earlier job: what is there afterwards is this one's.
            if self.item.path is not None:
                self._path.unlink(missing_ok=True)
            if self.item.state == FAILED:
                return False
            self._path.parent.mkdir(parents=True, exist_ok=True)
            self._file, self._part = part(self._path.parent)
        except OSError as error:
            self.item.fail(f"{self._path} cannot be written: {error.strerror or error}")
            return False
        return True

    def add(self, answer: bytes) -> None:
        """A file's answer as it came; of CSV a line for each row: JSON has no line ends of its own within a text."""
        assert self._file is not None  # noqa: S101 - it was begun
        self._file.write(b" ".join(answer.split(b"\n")).strip() + b"\n" if self._ends_lines else answer)

    def finish(self) -> None:
        if self.item.state != FAILED and self._file is not None and self._part is not None:
            self._file.close()
            try:
                self._part.replace(self._path)
                self.item.state, self.item.location = SUCCESSFUL, self._location
            except OSError as error:
                self.item.fail(f"{self._path} cannot be written: {error.strerror or error}")
        self.drop()

    def drop(self) -> None:
        self.is_over = True
        if self._file is not None and self._part is not None:
            self._file.close()
            self._part.unlink(missing_ok=True)


def _rows(path: Path, rule: Rule) -> Iterator[_Request]:
    """Raises BadRow, OSError, UnicodeDecodeError, csv.Error."""
    # Spreadsheets put a mark before UTF-8.
    with path.open(encoding="utf-8-sig", newline="") as file:
        number = 0
        for row in csv.reader(file, strict=True):
            if not row:
                continue
            number += 1
            try:
                made = rule.body(row)
            except BadRow as error:
                header = "; a header is a row like all others" if number == 1 else ""
                raise BadRow(f"row {number}: {error}{header}") from error
            body = json.dumps(made, ensure_ascii=False).encode()
            yield _Request(f"row {number}: ", lambda body=body: ("application/json", body))  # type: ignore[misc]
        if not number:
            raise BadRow("expected rows, got none")


def _form(name: str, path: Path) -> tuple[str, bytes]:
    """A form with one file (RFC 7578). Raises OSError."""
    boundary = secrets.token_hex(16)
    kind = mimetypes.guess_type(path.name)[0] or "application/octet-stream"
    head = (
        f"--{boundary}\r\n"
        f'Content-Disposition: form-data; name="{form_name(name)}"; filename="{form_name(path.name)}"\r\n'
        f"Content-Type: {kind}\r\n\r\n"
    )
    body = b"".join([head.encode("utf-8", "surrogateescape"), path.read_bytes(), f"\r\n--{boundary}--\r\n".encode()])
    return f"multipart/form-data; boundary={boundary}", body


def _limited(answer: Answer, most: int) -> bytes:
    """No more than the beginning. Raises NoAnswer."""
    data = bytearray()
    while len(data) < most and (piece := answer.read()):
        data += piece
    return bytes(data[:most])


def summary(items: list[Item]) -> Mapping[str, int]:
    return {
        "files": len(items), "successful": sum(item.state == SUCCESSFUL for item in items),
        "failed": sum(item.state == FAILED for item in items), "requests": sum(item.requests for item in items),
        "retries": sum(item.retries for item in items),
    }  # fmt: skip
