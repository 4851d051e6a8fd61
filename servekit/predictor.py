"""The interface between a model and servekit: what a user writes."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, MutableMapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar

from servekit.errors import ConfigError
from servekit.signature import Json, Spec


@dataclass(frozen=True, slots=True)
class Batching:
    """How requests are put together into one call of `predict`.

    max_size: rows in one call, at most.
    max_delay_ms: how long an idle model waits for more rows. 0 (the default) means a batch closes as soon as the
        model is free: under load batches fill by themselves.
    max_queue: rows that may wait; more are refused at once (503 with Retry-After). Default 16 * max_size * concurrency,
        at least 256.
    concurrency: calls of `predict` that may run at the same time in one worker, in threads (`async def predict`: as
        tasks). Default 1, for an async predictor 64.
    isolate_failures: when `predict` raises on a batch, run its halves again until the request at fault is found, so
        that the others get their answers. Turn it off for a `predict` with side effects.
    max_batch_ms: batches are kept so small that a call of `predict` is expected to take no longer, as learned from the
        batches before. Default: only `max_size` counts.
    inline: whether `predict` may run on the server's event loop, which saves a change of threads. Default: it is
        learned; a model runs there while its batches take less than 2 ms. False for a `predict` that may wait for
        something, True for one that never does.
    """

    max_size: int = 32
    max_delay_ms: float = 0.0
    max_queue: int | None = None
    concurrency: int | None = None
    isolate_failures: bool = True
    max_batch_ms: float | None = None
    inline: bool | None = None

    def __post_init__(self) -> None:
        for name in ("max_size", "max_queue", "concurrency"):
            value = getattr(self, name)
            optional = name != "max_size" and value is None
            if not optional and (isinstance(value, bool) or not isinstance(value, int) or value < 1):
                raise ConfigError(f"Batching({name}={value!r}): expected a whole number >= 1")
        if (
            isinstance(self.max_delay_ms, bool)
            or not isinstance(self.max_delay_ms, (int, float))
            or not (0 <= self.max_delay_ms <= 60_000)
        ):
            raise ConfigError(f"Batching(max_delay_ms={self.max_delay_ms!r}): expected 0 to 60000 milliseconds")
        limit = self.max_batch_ms
        if limit is not None and (isinstance(limit, bool) or not isinstance(limit, (int, float)) or not limit > 0):
            raise ConfigError(f"Batching(max_batch_ms={limit!r}): expected a number of milliseconds above 0")
        if self.inline not in (None, True, False):
            raise ConfigError(f"Batching(inline={self.inline!r}): expected True, False or None")


class Headers(MutableMapping[str, str]):
    """HTTP headers: names match in any case and are kept as first written (RFC 9110, 5.1)."""

    __slots__ = ("_items",)

    def __init__(self, items: Mapping[str, str] | None = None) -> None:
        self._items: dict[str, tuple[str, str]] = {}
        self.update(items or {})

    def __getitem__(self, name: str) -> str:
        return self._items[name.lower()][1]

    def __setitem__(self, name: str, value: str) -> None:
        self._items[name.lower()] = (name, value)

    def __delitem__(self, name: str) -> None:
        del self._items[name.lower()]

    def __iter__(self) -> Iterator[str]:
        return (name for name, _ in self._items.values())

    def __len__(self) -> int:
        return len(self._items)

    def __repr__(self) -> str:
        return f"Headers({dict(self)!r})"


@dataclass(slots=True)
class Context:
    """One request, as far as a predictor may care.

    headers: the request's headers.
    response_headers: set entries to send them back. On SageMaker `X-Amzn-SageMaker-Custom-Attributes` is returned as
        it came unless it is set here.
    platform: "sagemaker", "modelarts", "modzy", ...
    deadline_s: when the caller gives up, on the clock of `time.monotonic()`.
    """

    headers: Headers = field(default_factory=Headers)
    response_headers: Headers = field(default_factory=Headers)
    platform: str = ""
    request_id: str = ""
    deadline_s: float = float("inf")

    def remaining_s(self) -> float:
        """Seconds until the deadline; negative once it has passed."""
        return self.deadline_s - time.monotonic()


class Predictor:
    """A model behind a fixed signature. Subclass it, declare `inputs` and `outputs`, write `predict`.

    predict(self, <one parameter per input, by name>) receives each input stacked along a leading batch dimension and
    returns one of
      - an array (N, ...), when there is one output;
      - a dict of output name to array or list of N;
      - a list with one result per row: the value when there is one output, else a dict by output name.
    It may be `async def` for models that wait. A further parameter `context` receives the request's `Context` (such
    a predictor is called once per request); `contexts` receives a list with the Context of each row.

    Optional, per item:
      decode(self, item[, context]) -> item    before the batch; `item` is the input's value, or a dict of them
      encode(self, result[, context]) -> result   after the batch; `result` is the output's value, or a dict of them
    and, after `load`,
      warm_up(self) -> None    instead of the built-in warm-up, which predicts on zeros when all inputs are arrays.

    Raise `servekit.InvalidInput` in `decode` or `predict` to blame the caller: the text is sent with a 400.
    """

    inputs: ClassVar[Mapping[str, Spec]] = {}
    outputs: ClassVar[Mapping[str, Spec]] = {"prediction": Json()}
    batching: ClassVar[Batching] = Batching()

    def load(self, model_dir: Path) -> None:
        """Load the model from `model_dir`. Called once per worker process, in a thread, after the fork."""

    def predict(self, *args: Any, **kwargs: Any) -> Any:  # noqa: ARG002 - subclasses choose the parameters
        """Predict on a batch."""
        raise ConfigError(f"{type(self).__name__} does not define predict")
