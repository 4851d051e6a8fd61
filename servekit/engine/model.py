"""A predictor instance, bound to its signature: loading, warm-up, and one batch at a time."""

from __future__ import annotations

import inspect
import logging
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from servekit.codecs import packed
from servekit.engine import current
from servekit.engine.results import columns_of, encoded_columns, rows_of
from servekit.engine.ticket import Batch, Packed, Piece, Results
from servekit.errors import ConfigError, InvalidInput, LoadFailed, PredictFailed, ServeError
from servekit.predictor import Context, Predictor
from servekit.signature import Image, Signature, Tensor

if TYPE_CHECKING:
    from servekit.codecs import Column

logger = logging.getLogger("servekit.engine")

# What a free dimension is warmed up with; images of any size get the usual size of a classifier.
WARM_UP_DIM = 1
WARM_UP_IMAGE_DIM = 224
# What a user's code may raise: `sys.exit()` in it must end one request, not silently the thread that runs it.
USER_ERRORS = (Exception, SystemExit)


class Model:
    """Checks the predictor's declaration when it is made; raises ConfigError with what is wrong."""

    def __init__(self, predictor: Predictor) -> None:
        self.predictor = predictor
        self.name = type(predictor).__name__
        self.signature = Signature(predictor.inputs, predictor.outputs)
        self.batching = predictor.batching
        self.is_async = inspect.iscoroutinefunction(predictor.predict)
        self._context_argument = self._check_predict()
        self._decode = _hook(predictor, "decode")
        self._encode = _hook(predictor, "encode")
        # Requests of such a model can be kept as packed bytes from the door to the batch.
        self.packs = packed.fits(self.signature) and not (
            self.is_async or self.decodes or self.encodes or self._context_argument
        )

        # (name, dtype, shape of a row) of the one output whose every result has the same.
        self._expected: tuple[str, Any, tuple[int | None, ...]] | None = None
        for name, spec in self.signature.outputs.items():
            if self.packs and isinstance(spec, Tensor) and None not in spec.shape:
                self._expected = (name, np.dtype(spec.dtype), spec.shape)

    @property
    def packed_key(self) -> tuple[Any, ...]:
        """(dtype, *shape) of a row of packed requests."""
        [spec] = self.signature.inputs.values()
        return (np.dtype(spec.dtype).str, *spec.shape) if isinstance(spec, Tensor) else ()

    @property
    def decodes(self) -> bool:
        return self._decode is not None

    @property
    def encodes(self) -> bool:
        return self._encode is not None

    @property
    def one_request_per_batch(self) -> bool:
        return self._context_argument == "context"

    def _check_predict(self) -> str | None:
        """The name of the parameter that receives contexts; ConfigError when predict does not take the inputs."""
        if type(self.predictor).predict is Predictor.predict:
            raise ConfigError(f"{self.name} does not define predict({', '.join(self.signature.inputs)})")
        parameters = inspect.signature(self.predictor.predict).parameters
        named = [
            name
            for name, parameter in parameters.items()
            if parameter.kind in (inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.KEYWORD_ONLY)
        ]
        takes_any = any(parameter.kind is inspect.Parameter.VAR_KEYWORD for parameter in parameters.values())
        asked = [name for name in ("context", "contexts") if name in named and name not in self.signature.inputs]
        missing = [name for name in self.signature.inputs if name not in named]
        required = [name for name in named if parameters[name].default is inspect.Parameter.empty]
        unknown = [name for name in required if name not in self.signature.inputs and name not in asked]
        if (missing and not takes_any) or unknown:
            raise ConfigError(
                f"{self.name}.predict takes ({', '.join(named)}): expected one parameter for each declared input, "
                f"({', '.join(self.signature.inputs)})"
            )
        return asked[0] if asked else None

    # --- loading ---

    def load(self, model_dir: Path) -> None:
        """Load, raising LoadFailed with the cause."""
        try:
            self.predictor.load(model_dir)
        except ServeError as error:
            raise LoadFailed(error.message, cause=error.cause or error) from error
        except USER_ERRORS as error:
            raise LoadFailed(str(error) or type(error).__name__, cause=error) from error

    def warm_up(self) -> None:
        """Predict once, so that the first request pays nothing; raises LoadFailed when the model cannot."""
        hook = getattr(self.predictor, "warm_up", None)
        try:
            if hook is not None:
                hook()
                return
            columns = _zeros(self.signature)
            if columns is None or self.is_async or self.decodes or self._context_argument:
                return
            returned = self.predictor.predict(**columns)
            if self._encode is None:
                columns_of(returned, 1, self.signature)
        except InvalidInput as error:
            # The model runs; it only dislikes zeros.
            logger.debug("warm-up input refused by the predictor: %s", error.message)
        except USER_ERRORS as error:
            raise LoadFailed(
                f"the warm-up prediction failed: {str(error) or type(error).__name__} (define warm_up() to choose "
                "another input)",
                cause=error,
            ) from error

    # --- items ---

    def decode_items(self, columns: dict[str, Column], rows: int, context: Context) -> dict[str, Column]:
        """Apply the `decode` hook to each row. Raises InvalidInput with the hook's words when it raises ValueError."""
        if self._decode is None:
            return columns
        only = self.signature.only_input
        items = []
        with current.requests(context.request_id):
            for i in range(rows):
                item = columns[only[0]][i] if only else {name: column[i] for name, column in columns.items()}
                try:
                    items.append(self._decode(item, context))
                except ServeError:
                    raise
                except ValueError as error:
                    raise InvalidInput(str(error) or "the item could not be decoded", cause=error) from error
                except USER_ERRORS as error:
                    raise PredictFailed("the predictor failed to decode this item", cause=error) from error
        if only:
            return {only[0]: _stack(items)}
        return {name: _stack([item[name] for item in items]) for name in self.signature.inputs}

    def output_columns(self, parts: Sequence[Results], context: Context) -> dict[str, Column]:
        """The results of one request as one column per output, after the `encode` hook."""
        if self._encode is None:
            if len(parts) == 1:
                return parts[0]
            return {name: join([part[name] for part in parts]) for name in self.signature.outputs}
        encode = self._encode
        rows = [row for part in parts for row in part["rows"]]
        try:
            with current.requests(context.request_id):
                return encoded_columns(rows, lambda result: encode(result, context), self.signature)
        except ServeError:
            raise
        except USER_ERRORS as error:
            raise PredictFailed("the predictor failed to encode its result", cause=error) from error

    # --- one batch ---

    def predict(self, batch: Batch) -> dict[str, Any]:
        """The results of a batch as columns over all its rows.

        Raises what `predict` raises, or PredictFailed for what it returned.
        """
        arguments = self._arguments(batch)
        token = current.current.set(batch.pieces)
        try:
            return self._columns(self.predictor.predict(**arguments), batch)
        finally:
            current.current.reset(token)

    async def predict_async(self, batch: Batch) -> dict[str, Any]:
        """The same for a predictor whose `predict` is a coroutine function."""
        arguments = self._arguments(batch)
        with current.requests(*batch.pieces):
            return self._columns(await self.predictor.predict(**arguments), batch)

    def _arguments(self, batch: Batch) -> dict[str, Any]:
        pieces = batch.pieces
        if self.packs:
            [(name, spec)] = self.signature.inputs.items()
            return {name: _unpacked(pieces, name, spec)}
        arguments: dict[str, Any] = {
            name: join([piece.columns[name] for piece in pieces]) for name in self.signature.inputs
        }
        if self._context_argument == "context":
            arguments["context"] = pieces[0].ticket.context
        elif self._context_argument == "contexts":
            arguments["contexts"] = [piece.ticket.context for piece in pieces for _ in range(piece.rows)]
        return arguments

    def _columns(self, returned: Any, batch: Batch) -> dict[str, Any]:
        if self._encode is None:
            expected = self._expected
            if expected is not None:
                # Exactly as declared, which is what `columns_of` would find out at length.
                name, dtype, shape = expected
                found = (
                    returned[name] if type(returned) is dict and len(returned) == 1 and name in returned else returned
                )
                if type(found) is np.ndarray and found.dtype == dtype and found.shape == (batch.rows, *shape):
                    return {name: found}
            return columns_of(returned, batch.rows, self.signature)
        return {"rows": rows_of(returned, batch.rows)}


def _unpacked(pieces: Sequence[Piece | Packed], name: str, spec: Any) -> NDArray[Any]:
    """One array of all rows, from packed requests and others; the predictor may write to it."""
    buffers: list[Any] = []
    for piece in pieces:
        if isinstance(piece, Packed):
            buffers += piece.parts
        else:
            buffers.append(_bytes_of(piece.columns[name], spec))
    return np.frombuffer(bytearray().join(buffers), spec.dtype).reshape(-1, *spec.shape)


def _bytes_of(column: Any, spec: Any) -> memoryview:
    return np.ascontiguousarray(column, spec.dtype).reshape(-1).view(np.uint8).data


def join(columns: Sequence[Column]) -> Column:
    """Columns one after the other: arrays of one shape as an array, anything else as a list."""
    if len(columns) == 1:
        return columns[0]
    if all(isinstance(column, np.ndarray) for column in columns):
        arrays = [column for column in columns if isinstance(column, np.ndarray)]
        if len({array.shape[1:] for array in arrays}) == 1:
            return np.concatenate(arrays)
    return [item for column in columns for item in column]


def _stack(items: list[Any]) -> Column:
    """Items as a column: arrays and numbers of one shape are stacked."""
    if all(isinstance(item, (np.ndarray, np.generic, int, float)) for item in items) and (
        len({np.shape(item) for item in items}) == 1
    ):
        return np.asarray(items)
    return items


def _zeros(signature: Signature) -> dict[str, Column] | None:
    """One row of zeros per input; None when an input is not an array."""
    columns: dict[str, Column] = {}
    for name, spec in signature.inputs.items():
        if isinstance(spec, Image):
            shape = tuple(WARM_UP_IMAGE_DIM if dim is None else dim for dim in spec.shape)
            columns[name] = np.zeros((1, *shape), np.float32)
        elif isinstance(spec, Tensor) and spec.dtype != "str":
            shape = tuple(WARM_UP_DIM if dim is None else dim for dim in spec.shape)
            columns[name] = np.zeros((1, *shape), spec.dtype)
        else:
            return None
    return columns


def _hook(predictor: Predictor, name: str) -> Callable[[Any, Context], Any] | None:
    """The per-item hook as hook(item, context), whether or not it asks for the context."""
    hook = getattr(predictor, name, None)
    if hook is None:
        return None
    if not callable(hook) or inspect.iscoroutinefunction(hook):
        raise ConfigError(f"{type(predictor).__name__}.{name}: expected a plain method {name}(self, item[, context])")
    parameters = list(inspect.signature(hook).parameters)
    if len(parameters) == 1:
        return lambda item, _context: hook(item)
    if len(parameters) == 2:
        return lambda item, context: hook(item, context)
    raise ConfigError(
        f"{type(predictor).__name__}.{name} takes ({', '.join(parameters)}): expected (item) or (item, context)"
    )
