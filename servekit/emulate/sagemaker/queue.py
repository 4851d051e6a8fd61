"""InvokeEndpointAsync: requests that wait, results and failures as files in the folder that stands for S3.

Source: developer guide, "Asynchronous inference"; the service's model.
"""

from __future__ import annotations

import asyncio
import os
import time
from collections import OrderedDict
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any

from servekit.check.wire import NoAnswer
from servekit.emulate.sagemaker import fields
from servekit.emulate.sagemaker.endpoint import Endpoint
from servekit.emulate.sagemaker.errors import NO_STATUS, model_error
from servekit.emulate.sagemaker.fields import Given
from servekit.emulate.sagemaker.pool import Pool
from servekit.emulate.sagemaker.storage import BadLocation, Folder, replacing
from servekit.emulate.server import say
from servekit.publish.failures import line

MAX_BYTES = 1024 * 1024 * 1024
MAX_INLINE_BYTES = 128_000
MAX_WAITING = 1000
# Of which the emulator can still tell.
KEPT = 2000
MAX_ERROR_BYTES = 64 * 1024


@dataclass(frozen=True, slots=True)
class Terms:
    """output, failures: s3:// prefixes. ttl_s, timeout_s: where the request says nothing."""

    folder: Folder
    output: str = "s3://servekit-async/output"
    failures: str = "s3://servekit-async/failures"
    concurrent: int = 4
    ttl_s: float = 21600.0
    timeout_s: float = 900.0


@dataclass(slots=True)
class Job:
    """inline: the request itself, where it came in the call."""

    id: str
    given: Given
    log: str
    inline: bytes | None
    output: str
    failure: str
    asked_s: float
    ttl_s: float
    timeout_s: float
    state: str = "Queued"
    reason: str = ""
    headers: dict[str, str] = field(default_factory=dict)

    def document(self) -> dict[str, Any]:
        return {
            "inferenceId": self.id, "state": self.state, "reason": self.reason,
            "inputLocation": self.given.values.get("InputLocation"), "outputLocation": self.output,
            "failureLocation": self.failure, "responseHeaders": self.headers,
        }  # fmt: skip


class Failed(Exception):
    """The message is what the failure file says."""


class Queue:
    def __init__(self, terms: Terms, endpoint: Endpoint) -> None:
        self.terms, self._endpoint = terms, endpoint
        self._waiting: asyncio.Queue[Job] = asyncio.Queue(MAX_WAITING)
        self._threads = ThreadPoolExecutor(terms.concurrent, thread_name_prefix="async")
        self._jobs: OrderedDict[str, Job] = OrderedDict()
        self._count = 0

    def put(self, job: Job) -> bool:
        """False when too many wait already."""
        try:
            self._waiting.put_nowait(job)
        except asyncio.QueueFull:
            return False
        self._count += 1
        self._jobs[f"{self._count} {job.id}"] = job
        while len(self._jobs) > KEPT:
            self._jobs.popitem(last=False)
        return True

    def documents(self) -> list[dict[str, Any]]:
        return [job.document() for job in self._jobs.values()]

    def close(self) -> None:
        self._threads.shutdown(wait=False, cancel_futures=True)

    async def work(self) -> None:
        """Until it is cancelled."""
        async with asyncio.TaskGroup() as group:
            for _ in range(self.terms.concurrent):
                group.create_task(self._worker())

    async def _worker(self) -> None:
        loop = asyncio.get_running_loop()
        while True:
            job = await self._waiting.get()
            try:
                # The queue is what a request waits in while there is no instance.
                left_s = job.asked_s + job.ttl_s - time.monotonic()
                await asyncio.wait_for(self._endpoint.in_service(), max(0.0, left_s))
                if time.monotonic() >= job.asked_s + job.ttl_s:
                    raise TimeoutError
            except TimeoutError:
                text = f"the request waited longer than its time to live of {job.ttl_s:g} s"
                await loop.run_in_executor(self._threads, self._fail, job, "Expired", text)
                continue
            job.state = "InProgress"
            await loop.run_in_executor(self._threads, self._perform, job, self._endpoint.pool)

    # --- in a thread ---

    def _perform(self, job: Job, pool: Pool) -> None:
        try:
            self._invoke(job, pool)
        except (Failed, BadLocation) as error:
            self._fail(job, "Failed", str(error))
        except OSError as error:
            self._fail(job, "Failed", f"{error.strerror or error}: {error.filename or ''}".rstrip(": "))
        finally:
            job.inline = None

    def _invoke(self, job: Job, pool: Pool) -> None:
        if job.inline is not None:
            self._send(job, pool, job.inline, len(job.inline))
            return
        path = self.terms.folder.path(job.given.values["InputLocation"])
        if not path.is_file():
            raise Failed(f"{job.given.values['InputLocation']}: there is no such object")
        with path.open("rb") as file:
            size = os.fstat(file.fileno()).st_size
            if size > MAX_BYTES:
                raise Failed(f"{job.given.values['InputLocation']}: expected at most {MAX_BYTES} bytes, got {size}")
            self._send(job, pool, file, size)

    def _send(self, job: Job, pool: Pool, body: Any, size: int) -> None:
        try:
            with pool.send(
                "POST", "/invocations", job.given.headers, body, length=size, timeout_s=job.timeout_s
            ) as answer:
                if not 200 <= answer.status < 300:
                    said = b""
                    while len(said) < MAX_ERROR_BYTES and (data := answer.read()):
                        said += data
                    text = said.decode("utf-8", "replace")
                    raise Failed(f"{model_error(answer.status, text, job.log).message}\n{text}")
                job.headers, wrong = fields.returned(answer.headers)
                for what in wrong:
                    say(what)
                if kind := answer.headers.get("content-type"):
                    job.headers["Content-Type"] = kind
                with replacing(self.terms.folder.path(job.output)) as file:
                    size = 0
                    while data := answer.read():
                        size += len(data)
                        if size > MAX_BYTES:
                            raise Failed(f"the container's answer is larger than {MAX_BYTES} bytes")
                        file.write(data)
        except NoAnswer as error:
            limit = f" ({job.timeout_s:g} s)" if error.kind == "timeout" else ""
            text = f"{error.message}{limit}"
            raise Failed(model_error(NO_STATUS, text, job.log).message) from error
        job.state = "Completed"
        say(f"async {job.id}: Completed, {job.output}")

    def _fail(self, job: Job, state: str, reason: str) -> None:
        first = reason.partition("\n")[0]
        try:
            with replacing(self.terms.folder.path(job.failure)) as file:
                file.write(reason.encode())
        except (OSError, BadLocation) as error:
            first += f"; and {job.failure} cannot be written: {error}"
        job.state, job.reason = state, first
        say(line(f"async {job.id}: {state}: {first}"))
