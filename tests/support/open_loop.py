"""Requests that are sent when they are due, whatever became of those before: what many independent callers do."""

from __future__ import annotations

import asyncio
import json
import time
from dataclasses import dataclass

from load import prediction


@dataclass(frozen=True, slots=True)
class Offered:
    """status: 0 when there was none in time, or a wrong answer. seconds: from when it was due."""

    status: int
    seconds: float
    headers: bytes = b""


def offer(port: int, per_s: float, seconds: float, deadline_s: float) -> list[Offered]:
    """Send so many requests a second, each on a connection of its own; give up on each after `deadline_s`."""
    return asyncio.run(_offer(port, per_s, seconds, deadline_s))


async def _offer(port: int, per_s: float, seconds: float, deadline_s: float) -> list[Offered]:
    began_s = time.monotonic()
    tasks = []
    for number in range(1, int(per_s * seconds) + 1):
        due_s = began_s + number / per_s
        await asyncio.sleep(max(0.0, due_s - time.monotonic()))
        tasks.append(asyncio.ensure_future(_one(port, number, due_s, deadline_s)))
    return await asyncio.gather(*tasks)


async def _one(port: int, number: int, due_s: float, deadline_s: float) -> Offered:
    writer: asyncio.StreamWriter | None = None
    try:
        async with asyncio.timeout(max(0.0, due_s + deadline_s - time.monotonic())):
            reader, writer = await asyncio.open_connection("127.0.0.1", port)
            writer.write(prediction(number))
            head = await reader.readuntil(b"\r\n\r\n")
            length = next(int(line[15:]) for line in head.lower().split(b"\r\n") if line.startswith(b"content-length:"))
            body = await reader.readexactly(length)
    except (TimeoutError, OSError, asyncio.IncompleteReadError):
        return Offered(0, time.monotonic() - due_s)
    finally:
        if writer is not None:
            writer.close()
    status = int(head[9:12])
    if status == 200 and json.loads(body)["predictions"] != [number + 1]:
        status = 0
    return Offered(status, time.monotonic() - due_s, head)
