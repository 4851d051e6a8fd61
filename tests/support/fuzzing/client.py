"""Sends inputs over many connections at once and collects what comes back until the server closes."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterable, Sequence

from fuzzing.judge import Outcome

# No connection may be left without an answer or an end for longer.
PATIENCE_S = 12.0
MAX_REPLY_BYTES = 4 * 1024 * 1024


async def exchange(port: int, packets: Sequence[bytes], *, number: int = 0, patience_s: float = PATIENCE_S) -> Outcome:
    """Send the packets on one connection, read until the server closes it."""
    # Many addresses of one's own: one alone runs out of ports while the closed connections are remembered.
    source = f"127.0.{number // 250 % 250}.{number % 250 + 2}"
    reader, writer = await asyncio.open_connection("127.0.0.1", port, local_addr=(source, 0))
    got = bytearray()
    reset = ended = False
    sending = asyncio.create_task(_send(writer, packets))
    try:
        async with asyncio.timeout(patience_s):
            while len(got) < MAX_REPLY_BYTES and (piece := await reader.read(65536)):
                got += piece
            ended = True
    except TimeoutError:
        ended = False
    except ConnectionError:
        ended = reset = True
    finally:
        sending.cancel()
        writer.transport.abort()
    await asyncio.gather(sending, return_exceptions=True)
    return Outcome(bytes(got), ended, reset)


async def _send(writer: asyncio.StreamWriter, packets: Sequence[bytes]) -> None:
    for packet in packets:
        try:
            writer.write(packet)
            await writer.drain()
        except ConnectionError:
            return  # the server has closed, which its reply explains
        # So that the server may read this one before the next comes.
        await asyncio.sleep(0 if len(packets) > 16 else 0.001)


async def each(
    port: int,
    inputs: Iterable[tuple[int, Sequence[bytes]]],
    use: Callable[[int, bytes, Outcome], bool],
    *,
    connections: int = 256,
    patience_s: float = PATIENCE_S,
    exchange: Callable[..., Awaitable[Outcome]] = exchange,
) -> None:
    """Send all inputs, `connections` at a time; `use(number, bytes, outcome)` says whether to go on."""
    rows = iter(inputs)
    going = True

    async def work() -> None:
        nonlocal going
        for number, packets in rows:
            outcome = await exchange(port, packets, number=number, patience_s=patience_s)
            going = use(number, b"".join(packets), outcome) and going
            if not going:
                return

    async with asyncio.TaskGroup() as group:
        for _ in range(connections):
            group.create_task(work())
