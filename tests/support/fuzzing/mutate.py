"""Inputs made of the corpus, each from a number: the same number gives the same input for ever."""

from __future__ import annotations

import random
import re
from collections.abc import Callable

from fuzzing.corpus import BODY, CHUNKED, CLOSE, CORPUS, GET, HIDDEN, HOST, IN_CHUNKS, LENGTH, WHOLE

SEEDS = [case.data for case in CORPUS if 0 < len(case.data) <= 4096]
GOOD = [WHOLE, IN_CHUNKS, GET + b"\r\n", WHOLE + IN_CHUNKS, WHOLE + GET + b"\r\n" + WHOLE]
TOKENS = [
    b"\r",
    b"\n",
    b"\r\n",
    b"\n\r",
    b"\r\n\r\n",
    b"\r\r\n",
    b"\0",
    b" ",
    b"\t",
    b"\x0b",
    b"\x7f",
    b"\x80",
    b"\xff",
    b":",
    b";",
    b",",
    b"+",
    b"-",
    b"0",
    b"0x",
    b"%00",
    b"%0d%0a",
    b"..",
    b"//",
    b"#",
    b"?",
    b"0\r\n\r\n",
    b"ffffffffffffffff",
    b"99999999999999999999",
    b"HTTP/1.1",
    b"chunked",
    b"X-A: a\r\n",
    b"Expect: 100-continue\r\n",
    b"Transfer-Encoding: identity\r\n",
    b"Content-Length: 0\r\n",
    b"Content-Length: 3\r\n",
    b"X-Request-Id: 7\r\n",
    b"Accept: text/csv\r\n",
    HOST,
    LENGTH,
    CHUNKED,
    CLOSE,
    BODY,
    HIDDEN,
    WHOLE,
]
SPLITS = re.compile(rb"(?<=\n)|(?<=[: ;,])")

Mutation = Callable[[random.Random, bytearray], None]


def _at(chance: random.Random, data: bytearray) -> int:
    """A place, rather at the edge of a word or line than within one."""
    if chance.random() < 0.5:
        edges = [match.start() for match in SPLITS.finditer(bytes(data[:4096]))]
        if edges:
            return chance.choice(edges)
    return chance.randint(0, len(data))


def flip(chance: random.Random, data: bytearray) -> None:
    for _ in range(chance.choice((1, 1, 1, 2, 4, 8))):
        if data:
            data[chance.randrange(len(data))] ^= 1 << chance.randrange(8)


def insert(chance: random.Random, data: bytearray) -> None:
    at = _at(chance, data)
    data[at:at] = chance.choice(TOKENS)


def overwrite(chance: random.Random, data: bytearray) -> None:
    at, token = _at(chance, data), chance.choice(TOKENS)
    data[at : at + len(token)] = token


def run(chance: random.Random, data: bytearray) -> None:
    """A long run of one byte."""
    at = _at(chance, data)
    length = chance.choice((10, 100, 1000, 1000, 9000, 70_000))
    data[at:at] = chance.choice((b"a", b"0", b" ", b"\0", b"\r\n", b",", b"X: a\r\n"))[:6] * length


def drop(chance: random.Random, data: bytearray) -> None:
    at = _at(chance, data)
    del data[at : at + chance.choice((1, 1, 2, 4, 16, 64))]


def repeat(chance: random.Random, data: bytearray) -> None:
    start = _at(chance, data)
    data[start:start] = data[start : start + chance.choice((1, 2, 8, 32, 128))]


def cut(chance: random.Random, data: bytearray) -> None:
    del data[chance.randint(0, len(data)) :]


def splice(chance: random.Random, data: bytearray) -> None:
    """The start of this, the end of another."""
    other = bytearray(chance.choice(SEEDS))
    del data[_at(chance, data) :]
    data += other[_at(chance, other) :]


def append(chance: random.Random, data: bytearray) -> None:
    data += chance.choice(SEEDS if chance.random() < 0.3 else GOOD)


def prepend(chance: random.Random, data: bytearray) -> None:
    data[0:0] = chance.choice(GOOD)


def digits(chance: random.Random, data: bytearray) -> None:
    """Another number in the place of one."""
    numbers = list(re.finditer(rb"[0-9a-f]*[0-9][0-9a-f]*", bytes(data[:8192])))
    if not numbers:
        return
    found = chance.choice(numbers)
    value = int(found[0], 16) if len(found[0]) < 16 else 0
    texts = [b"%d" % (value + 1), b"%x" % max(0, value - 1), b"%d" % (2**64 + value % 2**32), b"0" + found[0]]
    data[found.start() : found.end()] = chance.choice([*texts, b"-1", b"+" + found[0], b"0", b""])


def case(chance: random.Random, data: bytearray) -> None:
    at = _at(chance, data)
    data[at : at + 16] = data[at : at + 16].swapcase()


def swap_lines(chance: random.Random, data: bytearray) -> None:
    lines = bytes(data).split(b"\r\n")
    if len(lines) > 2:
        one, other = chance.randrange(len(lines)), chance.randrange(len(lines))
        lines[one], lines[other] = lines[other], lines[one]
        data[:] = b"\r\n".join(lines)


MUTATIONS: tuple[Mutation, ...] = (
    flip,
    insert,
    insert,
    insert,
    overwrite,
    run,
    drop,
    repeat,
    cut,
    splice,
    append,
    prepend,
    digits,
    digits,
    case,
    swap_lines,
)


def packets(chance: random.Random, data: bytes) -> list[bytes]:
    """The input in one piece, or torn in several."""
    kind = chance.random()
    if kind < 0.5 or len(data) < 2:
        return [data]
    if kind < 0.6 and len(data) <= 400:
        return [data[i : i + 1] for i in range(len(data))]
    places = sorted(chance.randrange(1, len(data)) for _ in range(chance.choice((1, 1, 2, 3, 7))))
    return [data[start:stop] for start, stop in zip([0, *places], [*places, len(data)], strict=True) if start < stop]


def input_of(seed: int, number: int) -> list[bytes]:
    """Input `number`, as the packets that it is sent in."""
    chance = random.Random(f"{seed}/{number}")  # noqa: S311 - chance that can be repeated is the point
    data = bytearray(chance.choice(GOOD if chance.random() < 0.4 else SEEDS))
    for _ in range(chance.choice((0, 1, 1, 1, 2, 2, 3, 5))):
        chance.choice(MUTATIONS)(chance, data)
    if chance.random() < 0.4:
        # A server that has lost its place in the stream answers this in a way that shows.
        data += WHOLE.replace(HOST, HOST + CLOSE + b"X-Request-Id: probe-%d\r\n" % number, 1)
    return packets(chance, bytes(data[:300_000]))
