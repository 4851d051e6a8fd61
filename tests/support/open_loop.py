"""Requests that are sent when they are due, whatever became of those before: what many independent callers do."""

from __future__ import annotations

import asyncio
import json
import time
from dataclasses import dataclass

from load import Outcome, prediction


@dataclass(frozen=True, slots=True)
class Offered:
    """What became of one request. status: 0 where no reply came. All times are on one clock.

    TIMEOUT says that the caller gave up: too late for it, and no fault of a server on a machine that stalls. REFUSED,
    RESET, EOF and WRONG are the server's faults on any machine.
    """

    outcome: Outcome
    status: int
    due_s: float
    sent_s: float
    ended_s: float
    headers: bytes = b""

    @property
    def seconds(self) -> float:
        """From when it was due."""
        return self.ended_s - self.due_s


def offer(port: int, per_s: float, seconds: float, patience_s: float) -> list[Offered]:
    """Send so many requests a second, each on a connection of its own; give up on each after `patience_s`."""
    return asyncio.run(_offer(port, per_s, seconds, patience_s))


async def _offer(port: int, per_s: float, seconds: float, patience_s: float) -> list[Offered]:
    began_s = time.monotonic()
    tasks = []
    for number in range(1, int(per_s * seconds) + 1):
        due_s = began_s + number / per_s
        await asyncio.sleep(max(0.0, due_s - time.monotonic()))
        tasks.append(asyncio.ensure_future(_one(port, number, due_s, patience_s)))
    return await asyncio.gather(*tasks)


async def _one(port: int, number: int, due_s: float, patience_s: float) -> Offered:
    writer: asyncio.StreamWriter | None = None
    sent_s = time.monotonic()

    def became(outcome: Outcome, status: int = 0, head: bytes = b"") -> Offered:
        return Offered(outcome, status, due_s, sent_s, time.monotonic(), head)

    try:
        async with asyncio.timeout(max(0.0, due_s + patience_s - time.monotonic())):
            reader, writer = await asyncio.open_connection("127.0.0.1", port)
            sent_s = time.monotonic()
            writer.write(prediction(number))
            head = await reader.readuntil(b"\r\n\r\n")
            length = next(int(line[15:]) for line in head.lower().split(b"\r\n") if line.startswith(b"content-length:"))
            body = await reader.readexactly(length)
    except ConnectionRefusedError:
        return became(Outcome.REFUSED)
    except (ConnectionResetError, BrokenPipeError):
        return became(Outcome.RESET)
    except asyncio.IncompleteReadError:
        return became(Outcome.EOF)
    except TimeoutError:
        return became(Outcome.TIMEOUT)
    finally:
        if writer is not None:
            writer.close()
    status = int(head[9:12])
    if status != 200:
        return became(Outcome.STATUS, status, head)
    right = json.loads(body)["predictions"] == [number + 1]
    return became(Outcome.OK if right else Outcome.WRONG, status, head)
