"""Calls -> effects. No event loop in here: `start` returns at once, `done` is called later from any thread.

`done` receives a thunk. The door runs it on its own side, off the model's thread: it encodes the answer and returns
the value of the call, or raises the ServeError to answer with.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Hashable, Mapping, Sequence
from typing import Any, Literal, Protocol

import numpy as np

from servekit import codecs
from servekit.codecs import Decoded, Limits, packed
from servekit.codecs.packed import Reader
from servekit.contract import (
    Call,
    Describe,
    Description,
    Encoded,
    Infer,
    InferFiles,
    Live,
    Load,
    Measure,
    Readiness,
    Ready,
    State,
    Stop,
    Written,
)
from servekit.engine import files, policy
from servekit.engine.batcher import Batcher
from servekit.engine.lifecycle import Lifecycle
from servekit.engine.loader import Loader
from servekit.engine.model import USER_ERRORS, Model
from servekit.engine.roots import Root, job_roots
from servekit.engine.stats import Snapshot, Stats
from servekit.engine.ticket import Batch, Packed, Piece, Results, Ticket
from servekit.errors import CallerError, LoadFailed, NotFound, NotReady, PredictFailed, ServeError
from servekit.predictor import Context
from servekit.signature import Image

logger = logging.getLogger("servekit.engine")

Thunk = Callable[[], Any]
Done = Callable[[Thunk], None]

# Below this a body is decoded where it arrives: handing it to a thread costs more than parsing it.
INLINE_BODY_BYTES = 64 * 1024
MAX_NEGOTIATED = 64
# What asyncio, and uvloop, say to who starts a loop where one runs.
LOOP_IS_RUNNING = "running event loop"


class Fleet(Protocol):
    """All worker processes of this server, as one of them sees it."""

    def ready(self) -> bool:
        """Has every worker loaded its model?"""

    def draining(self) -> bool: ...

    def states(self) -> Mapping[str, int]:
        """How many workers are in which state."""

    def stop(self) -> None:
        """End the whole server with exit code 0."""


class Alone:
    """The fleet of a process that has no siblings and no supervisor."""

    def ready(self) -> bool:
        return True

    def draining(self) -> bool:
        return False

    def states(self) -> Mapping[str, int]:
        return {}

    def stop(self) -> None:
        logger.info("stop requested; nothing supervises this process")


class Performer:
    """Owns one model: its loader, its queue and what it may cost."""

    def __init__(
        self,
        model: Model,
        loader: Loader,
        lifecycle: Lifecycle,
        *,
        limits: Limits,
        description: Description,
        fleet: Fleet,
        roots: Sequence[Root] | None = None,
        nan: Literal["error", "null"] = "error",
        stats: Stats | None = None,
        measure: Callable[[Snapshot, Mapping[str, int], str | None], Encoded] | None = None,
    ) -> None:
        """roots: where jobs may name directories; default: wherever `job_roots` allows.
        stats: where batches are counted. measure: writes down what the workers' `stats` hold.
        """
        self.model = model
        self.signature = model.signature
        self.loader = loader
        self.lifecycle = lifecycle
        self.limits = limits
        self.description = description
        self.fleet = fleet
        self.roots = job_roots() if roots is None else roots
        self._nan = nan
        self._stats = stats
        self._measure = measure
        self._negotiated: dict[tuple[str | None, str, str], str] = {}
        self.batcher = Batcher(model.batching, run=self._run, run_async=self._run_async if model.is_async else None)
        self._slow_to_decode = model.decodes or any(isinstance(spec, Image) for spec in model.signature.inputs.values())

    # --- doors ---

    def shortcut(self, call: Infer) -> tuple[str, Reader, Hashable] | None:
        """(media type of the answer, reader of the bodies, what may share a batch) for requests like `call`, whatever
        their bodies; None when they need the general path. Raises ServeError."""
        if not self.model.packs:
            return None
        media_type = codecs.negotiate(call, self.signature)
        read = packed.reader(call, media_type, self.signature, self.limits)
        if read is None:
            return None
        return media_type, read, (None, (self.model.packed_key,))

    def blocks(self, call: Call) -> bool:
        """May `start` take long enough that a door should run it in a thread?"""
        if isinstance(call, Infer):
            return self._slow_to_decode or len(call.body) > INLINE_BODY_BYTES
        return isinstance(call, (InferFiles, Measure))

    def start(self, call: Call, context: Context, done: Done) -> Ticket | None:
        """Begin `call`. Raises ServeError for what is known at once; otherwise `done` is called exactly once.

        The ticket, if there is one, lets the door end the request early.
        """
        match call:
            case Infer():
                return self._infer(call, context, done)
            case InferFiles():
                return self._infer_files(call, context, done)
            case Ready() | Live():
                readiness = self.readiness()
                done(lambda: readiness)
            case Describe():
                done(lambda: self.description)
            case Measure():
                if self._stats is None or self._measure is None:
                    raise NotFound("nothing is measured")
                measured = self._measure(self._stats.snapshot(), self.fleet.states(), call.accept)
                done(lambda: measured)
            case Load():
                self.loader.load(lambda error: done(_raising(error) if error else self.readiness))
            case Stop():
                done(lambda: None)
        return None

    def readiness(self) -> Readiness:
        """What this process and its siblings can say of themselves."""
        state = self.lifecycle.state
        if self.fleet.draining() and state is State.READY:
            state = State.DRAINING
        if state is State.FAILED:
            return Readiness(state, False, "the model failed to load")
        if not self.loader.loaded:
            return Readiness(state, False, "the model is loading")
        if not self.fleet.ready():
            return Readiness(state, False, "another worker is still loading its model")
        return Readiness(state, True)

    # --- inference ---

    def _infer(self, call: Infer, context: Context, done: Done) -> Ticket:
        self._require_model()
        media_type = self._negotiate(call)
        decoded = codecs.decode(call, self.signature, self.limits)

        def answer(columns: dict[str, Any]) -> Encoded:
            body, whole_type = codecs.answer(
                media_type, decoded.form, columns, decoded.rows, self.signature, nan=self._nan
            )
            return Encoded(body, whole_type, tuple(context.response_headers.items()))

        return self._predict(decoded, context, done, answer)

    def _negotiate(self, call: Infer) -> str:
        """The media type of the answer; most callers send the same few headers. Raises ServeError."""
        # Without its parameters: one of them is a length.
        asked = (call.accept, call.default_accept, (call.content_type or "").partition(";")[0])
        known = self._negotiated.get(asked)
        if known is None:
            known = codecs.negotiate(call, self.signature)
            if len(self._negotiated) < MAX_NEGOTIATED:
                self._negotiated[asked] = known
        return known

    def _infer_files(self, call: InferFiles, context: Context, done: Done) -> Ticket | None:
        """The order of the steps is a contract (Modzy checks it): output directory, model, inputs, outputs."""
        files.make_output_dir(call.output_dir, self.roots)

        def write(columns: dict[str, Any]) -> Written:
            return files.write_outputs(call, self.signature, columns, self.roots)

        def blamed(thunk: Thunk) -> None:
            def outcome() -> Any:
                try:
                    return thunk()
                except ServeError as error:
                    raise files.blame(error, call) from error

            done(outcome)

        def loaded(error: LoadFailed | None) -> None:
            if error is not None:
                done(_raising(error))
                return
            try:
                decoded = files.read_inputs(call, self.signature, self.limits, self.roots)
            except ServeError as refused:
                done(_raising(refused))
                return
            try:
                self._predict(decoded, context, blamed, write)
            except ServeError as refused:
                done(_raising(files.blame(refused, call)))

        if self.loader.loaded:
            loaded(None)
        else:
            self.loader.load(loaded)
        return None

    def _require_model(self) -> None:
        if not self.loader.loaded:
            state = self.lifecycle.state
            raise NotReady("the model failed to load" if state is State.FAILED else "the model is still loading")

    def _predict(
        self, decoded: Decoded, context: Context, done: Done, answer: Callable[[dict[str, Any]], Any]
    ) -> Ticket:
        columns = self.model.decode_items(decoded.columns, decoded.rows, context)
        cuts = cut(columns, decoded.rows, self.batcher.max_size)

        def finished(parts: list[Results], error: ServeError | None) -> None:
            if error is not None:
                done(_raising(error))
            else:
                done(lambda: answer(self.model.output_columns(parts, context)))

        ticket = Ticket(context, len(cuts), finished)
        alone = self.model.one_request_per_batch
        ticket.pieces = [
            Piece(ticket, i, rows, part, (ticket if alone else None, key)) for i, (rows, part, key) in enumerate(cuts)
        ]
        self.batcher.submit(ticket.pieces)
        return ticket

    # --- batches ---

    def _run(self, batch: Batch) -> None:
        """Run a batch; if it fails, its halves, until the requests at fault are alone."""
        try:
            columns = self.model.predict(batch)
        except USER_ERRORS as error:
            if isinstance(error, RuntimeError) and LOOP_IS_RUNNING in str(error) and self.batcher.leave_loop():
                # It runs an event loop of its own, and cannot do that on ours. This batch waits for a thread, once.
                logger.info("predict needs a thread of its own: %s", error)
                thread = threading.Thread(target=self._run, args=(batch,), name="servekit-predict-once")
                thread.start()
                thread.join()
                return
            # A predictor may raise anything; it is logged where it is answered.
            for half in self._failed(batch, error):
                self._run(half)
            return
        self._succeeded(batch, columns)

    async def _run_async(self, batch: Batch) -> None:
        try:
            columns = await self.model.predict_async(batch)
        except USER_ERRORS as error:
            # A predictor may raise anything; it is logged where it is answered.
            for half in self._failed(batch, error):
                await self._run_async(half)
            return
        self._succeeded(batch, columns)

    def _failed(self, batch: Batch, error: BaseException) -> list[Batch]:
        """The halves to run again; none when the fault is found."""
        batch.failed = True
        pieces = batch.pieces
        # What predict returned was wrong for the whole batch: its halves would be wrong in the same way.
        if not self.model.batching.isolate_failures or len(pieces) < 2 or isinstance(error, PredictFailed):
            _fail(pieces, error)
            return []
        return [
            Batch(pieces[part], sum(piece.rows for piece in pieces[part]), batch.reason, self.batcher.now_s())
            for part in policy.halves(len(pieces))
        ]

    def _succeeded(self, batch: Batch, columns: dict[str, Any]) -> None:
        batch.model_s = self.batcher.now_s() - batch.started_s
        pieces = batch.pieces
        if self._stats is not None:
            started_s = batch.started_s
            self._stats.batch(
                batch.reason, batch.rows, batch.model_s, [started_s - piece.arrived_s for piece in pieces]
            )
        texts: list[bytes] | None = None
        if self.model.packs:
            [column] = columns.values()
            texts = packed.row_texts(column)
        short = []
        start = 0
        for piece in pieces:
            rows = piece.rows
            stop = start + rows
            if isinstance(piece, Packed):
                frame = piece.frame
                if texts is None or not frame.prefix:
                    self._encode(piece, {name: column[start:stop] for name, column in columns.items()})
                elif rows == 1:
                    piece.body = frame.prefix + texts[start] + frame.suffix
                else:
                    piece.body = frame.prefix + frame.between.join(texts[start:stop]) + frame.suffix
                short.append(piece)
            else:
                piece.batch = batch
                part = columns
                if len(pieces) > 1:
                    part = {name: column[start:stop] for name, column in columns.items()}
                piece.ticket.piece_done(piece.index, part)
            start = stop
        if short:
            short[0].answered(short)

    def _encode(self, piece: Packed, columns: dict[str, Any]) -> None:
        """The answer of a packed request in another type than JSON, or one that JSON may not be able to carry."""
        frame = piece.frame
        try:
            piece.body = codecs.encode(frame.media_type, frame.form, columns, piece.rows, self.signature, nan=self._nan)
        except ServeError as error:
            piece.error = error


def cut(columns: dict[str, Any], rows: int, max_size: int) -> list[tuple[int, dict[str, Any], tuple[Any, ...]]]:
    """Consecutive rows of equal shape, at most `max_size` at a time, as (rows, columns, shape key)."""
    ragged = [name for name, column in columns.items() if isinstance(column, list) and _is_array(column[0])]
    if not ragged:
        key = tuple(_shape(column) for column in columns.values())
        if rows <= max_size:
            return [(rows, columns, key)]
        return [
            (min(max_size, rows - i), {name: column[i : i + max_size] for name, column in columns.items()}, key)
            for i in range(0, rows, max_size)
        ]
    cuts = []
    start = 0
    while start < rows:
        shapes = [_shape(columns[name][start][np.newaxis]) for name in ragged]
        stop = start + 1
        while (
            stop < rows
            and stop - start < max_size
            and [_shape(columns[name][stop][np.newaxis]) for name in ragged] == shapes
        ):
            stop += 1
        part = {
            name: np.stack(column[start:stop]) if name in ragged else column[start:stop]
            for name, column in columns.items()
        }
        cuts.append((stop - start, part, tuple(_shape(column) for column in part.values())))
        start = stop
    return cuts


def _is_array(item: Any) -> bool:
    return isinstance(item, np.ndarray)


def _shape(column: Any) -> tuple[Any, ...] | None:
    """What two columns must share to stand in one batch; lists always can."""
    return (column.dtype.str, *column.shape[1:]) if isinstance(column, np.ndarray) else None


def _fail(pieces: Sequence[Piece | Packed], error: BaseException) -> None:
    if isinstance(error, (CallerError, PredictFailed)):
        failure: ServeError = error
    else:
        failure = PredictFailed(f"the predictor raised {type(error).__name__} on this request", cause=error)
    for piece in pieces:
        piece.fail(failure)


def _raising(error: ServeError) -> Thunk:
    def thunk() -> Any:
        raise error

    return thunk
