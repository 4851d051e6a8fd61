"""A multi-model endpoint: models are loaded when they are first asked for, and unloaded when there is no room.

Source: developer guide, "Contract for Custom Containers to Serve Multiple Models", "Invoke a Multi-Model Endpoint".
"""

from __future__ import annotations

import asyncio
import hashlib
import json
from collections import OrderedDict
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from urllib.parse import quote

from servekit.check.wire import NoAnswer
from servekit.emulate.sagemaker.errors import NO_STATUS, PlatformError, invalid, model_error, not_ready
from servekit.emulate.sagemaker.pool import Pool
from servekit.emulate.server import say
from servekit.errors import ConfigError

# The caller waits as long as for any answer; the platform goes on to load for so long.
LOAD_S = 360.0
LOADS_AT_ONCE = 8
ALREADY_THERE, NOT_FOUND, NO_ROOM = 409, 404, 507
MAX_ERROR_BYTES = 64 * 1024
JSON = (("Content-Type", "application/json"),)


class Models:
    """folder: has a folder for each TargetModel, as the platform unpacks it."""

    def __init__(self, folder: Path) -> None:
        """Raises ConfigError."""
        if not folder.is_dir():
            raise ConfigError(f"--multi-model {folder}: expected a folder that has a folder for each model")
        self._folder = folder.resolve()
        self._threads = ThreadPoolExecutor(LOADS_AT_ONCE, thread_name_prefix="load")
        # By name, those that were asked for last at the end; of this pool's container.
        self._loads: OrderedDict[str, asyncio.Task[None]] = OrderedDict()
        self._pool: Pool | None = None

    async def loaded(self, target: str, pool: Pool, log: str, wait_s: float) -> str:
        """The path that invokes it. Raises PlatformError."""
        folder = self._folder / target.lstrip("/")
        if not self._has(folder):
            raise invalid(f"TargetModel {target!r}: there is no such folder in {self._folder.name}")
        if pool is not self._pool:
            # A new container has no models.
            self._pool, self._loads = pool, OrderedDict()
        # The container must not make anything of the name.
        name = hashlib.sha256(target.encode()).hexdigest()[:32]
        if name not in self._loads:
            self._loads[name] = asyncio.create_task(self._load(name, str(folder), pool, log))
            # Nobody may be left who waits for it.
            self._loads[name].add_done_callback(lambda task: task.cancelled() or task.exception())
        self._loads.move_to_end(name)
        load = self._loads[name]
        try:
            await asyncio.wait_for(asyncio.shield(load), wait_s)
        except TimeoutError:
            raise not_ready(f"TargetModel {target!r} is still being loaded: wait and try again") from None
        except PlatformError:
            if self._loads.get(name) is load:
                del self._loads[name]
            raise
        return f"/models/{name}/invoke"

    def _has(self, folder: Path) -> bool:
        try:
            return self._folder in folder.resolve().parents and folder.is_dir()
        except OSError:  # such as a name that is too long for one
            return False

    def forget(self, path: str) -> None:
        """The container says that it does not have it: the next call loads it again."""
        self._loads.pop(path.split("/")[2], None)

    def close(self) -> None:
        self._threads.shutdown(wait=False, cancel_futures=True)

    async def _load(self, name: str, url: str, pool: Pool, log: str) -> None:
        """Raises PlatformError."""
        body = json.dumps({"model_name": name, "url": url}).encode()
        while True:
            status, text = await self._asked("POST", "/models", body, pool, log)
            if 200 <= status < 300 or status == ALREADY_THERE:
                say(f"model {name} is loaded: {url}")
                return
            # The one that was asked for least recently goes.
            other = next((key for key, task in self._loads.items() if key != name and task.done()), None)
            if status != NO_ROOM or other is None:
                raise model_error(status, text, log)
            del self._loads[other]
            say(f"there is no room for model {name}: model {other} is unloaded")
            status, text = await self._asked("DELETE", f"/models/{quote(other)}", b"", pool, log)
            if not 200 <= status < 300 and status != NOT_FOUND:
                raise model_error(status, text, log)

    async def _asked(self, method: str, path: str, body: bytes, pool: Pool, log: str) -> tuple[int, str]:
        def ask() -> tuple[int, str]:
            try:
                with pool.send(method, path, JSON if body else (), body, timeout_s=LOAD_S) as answer:
                    data = b""
                    while len(data) < MAX_ERROR_BYTES and (piece := answer.read()):
                        data += piece
                    return answer.status, data.decode("utf-8", "replace")
            except NoAnswer as error:
                raise model_error(NO_STATUS, f"{method} {path}: {error.message}", log) from error

        return await asyncio.get_running_loop().run_in_executor(self._threads, ask)
