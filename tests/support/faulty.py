"""Predictors that keep a ledger of what they ran, and that break when they are told to."""

from __future__ import annotations

import ctypes
import os
import sys
import time
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from servekit import Batching, Predictor, Tensor

HANG, EXIT, SYS_EXIT, SEGFAULT, NO_MEMORY, LEAK = range(-1, -7, -1)
LEAK_BYTES = 32 * 1024 * 1024


class Counted(Predictor):
    """The successor of a number; what it ran is in the file that LEDGER names."""

    inputs: ClassVar = {"x": Tensor("int64", ())}
    outputs: ClassVar = {"y": Tensor("int64", ())}

    def load(self, model_dir: Path) -> None:
        self._ledger = os.open(os.environ["LEDGER"], os.O_WRONLY | os.O_APPEND | os.O_CREAT)

    def predict(self, x: Any) -> Any:
        # One write, so that lines of several processes do not mix.
        os.write(self._ledger, b"".join(b"%d\n" % number for number in x.tolist()))
        return x + 1


class Fragile(Counted):
    """Loads as long as `weights.bin` is there; as slowly as the file `load_s` says."""

    def load(self, model_dir: Path) -> None:
        super().load(model_dir)
        slowly = model_dir / "load_s"
        time.sleep(float(slowly.read_text()) if slowly.exists() else 0.0)
        (model_dir / "weights.bin").read_bytes()


class SlowImport(Counted):
    """Holds up the whole process while it is made, as a long import does."""

    def __init__(self) -> None:
        ctypes.PyDLL(None).sleep(6)  # without letting go of the interpreter


class Slow(Counted):
    """Takes as many milliseconds as the number says, several at a time."""

    batching = Batching(max_size=1, concurrency=16, inline=False)

    def predict(self, x: Any) -> Any:
        time.sleep(int(x[0]) / 1000)
        return super().predict(x)


class Working(Counted):
    """Takes long enough for something to be under way at any moment."""

    batching = Batching(max_size=4, inline=False)

    def predict(self, x: Any) -> Any:
        time.sleep(0.005)
        return super().predict(x)


class Leaking(Counted):
    """Forgets a kibibyte for each request."""

    def load(self, model_dir: Path) -> None:
        super().load(model_dir)
        self._lost: list[bytearray] = []

    def predict(self, x: Any) -> Any:
        self._lost += [bytearray(os.urandom(16) * 64) for _ in range(len(x))]
        return super().predict(x)


class Faulty(Counted):
    """A negative number is an order."""

    batching = Batching(max_size=1, concurrency=4, isolate_failures=False, inline=False)

    def load(self, model_dir: Path) -> None:
        super().load(model_dir)
        self._lost: list[Any] = []

    def predict(self, x: Any) -> Any:
        order = int(x[0])
        if order < 0:
            os.write(self._ledger, b"%d\n" % order)
        if order == HANG:
            time.sleep(1e6)
        elif order == EXIT:
            os._exit(3)
        elif order == SYS_EXIT:
            sys.exit(3)
        elif order == SEGFAULT:
            ctypes.string_at(8)
        elif order == NO_MEMORY:
            raise MemoryError
        elif order == LEAK:
            self._lost.append(np.ones(LEAK_BYTES, np.uint8))
        return super().predict(x)


class Decodes(Counted):
    """Hangs in a hook where a number is negative."""

    def decode(self, item: Any) -> Any:
        if item < 0:
            time.sleep(1e6)
        return item


class Encodes(Counted):
    """Hangs in a hook where a number is negative."""

    def encode(self, result: Any) -> Any:
        if result <= 0:
            time.sleep(1e6)
        return result


class Inline(Faulty):
    """Says that it never waits, and so runs on the event loop."""

    batching = Batching(max_size=1, isolate_failures=False, inline=True)
