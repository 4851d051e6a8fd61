"""Inference on files: read the inputs of one item, write its outputs whole or not at all.

Callers name directories, never files. What they name is opened by the rules of `engine/roots.py`, and every size is
checked before the bytes are read. Outputs are written aside and renamed: a link in the place of one is replaced, not
followed.
"""

from __future__ import annotations

import os
import secrets
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from servekit import codecs
from servekit.codecs import ITEM, Decoded, Limits
from servekit.contract import InferFiles, InputFile, Written
from servekit.engine.roots import Root, open_file, open_under, reason
from servekit.errors import InvalidInput, PredictFailed, ServeError, Unprocessable
from servekit.signature import Json, Signature, Spec, Tensor

if TYPE_CHECKING:
    from servekit.codecs import Column


WRITE = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC


def make_output_dir(path: str, roots: Sequence[Root]) -> None:
    """Create `path` with its parents if it is absent. Raises InvalidInput."""
    with open_under(roots, path, "output", make=True):
        return


def read_inputs(call: InferFiles, signature: Signature, limits: Limits, roots: Sequence[Root]) -> Decoded:
    """One item from the input files.

    Raises InvalidInput when the directory may not be used, or a file is missing or is not a readable regular file;
    Unprocessable when what it holds is not what the input declares.
    """
    with open_under(roots, call.input_dir, "input") as directory:
        bodies = [(file, _read(directory, call.input_dir, file, limits)) for file in call.inputs]
    items: dict[str, Any] = {}
    for file, body in bodies:
        try:
            if file.input is None:
                items.update(codecs.decode_json_item(body, signature, limits))
            else:
                spec = signature.inputs[file.input]
                items[file.input] = codecs.decode_file(spec, file.input, body, file.media_types, file.filename, limits)
        except ServeError as error:
            raise Unprocessable(f"{file.filename}: {error.message}", cause=error) from error
    return Decoded(1, {name: _column(item, signature.inputs[name]) for name, item in items.items()}, ITEM)


def write_outputs(call: InferFiles, signature: Signature, columns: dict[str, Column], roots: Sequence[Root]) -> Written:
    """Write every output file of one item; readers see the old file or the whole new one. Raises ServeError."""
    result = codecs.result_object(signature, columns, 0)
    bodies = []
    for file in call.outputs:
        if file.output is None:
            body = codecs.encode_output(Json(), call.summary(result), "application/json")
        else:
            body = codecs.encode_output(signature.outputs[file.output], columns[file.output][0], file.media_type)
        bodies.append((file.filename, body))
    with open_under(roots, call.output_dir, "output") as directory:
        written: list[tuple[str, str]] = []
        try:
            for filename, body in bodies:
                temporary = f".servekit-{secrets.token_hex(8)}"
                written.append((temporary, filename))
                _write(directory, temporary, body)
            for temporary, filename in written:
                os.replace(temporary, filename, src_dir_fd=directory, dst_dir_fd=directory)
        except OSError as error:
            raise PredictFailed(f"output: cannot write to {call.output_dir!r}: {reason(error)}", cause=error) from error
        finally:
            for temporary, _ in written:
                _remove(directory, temporary)
    return Written(tuple(str(Path(call.output_dir, filename)) for filename, _ in bodies))


def blame(error: ServeError, call: InferFiles) -> ServeError:
    """An error of the predictor, in the words of the file contract: is it the input's fault, or a file's?

    What blames the caller means that the input is unusable. An OSError about one of the job's files, or about none in
    particular, is about the job; about any other file it is the model's own.
    """
    if isinstance(error, InvalidInput):
        return Unprocessable(error.message, cause=error.cause or error)
    cause = error.cause
    if isinstance(error, PredictFailed) and isinstance(cause, OSError):
        ours = {os.path.realpath(Path(call.input_dir, file.filename)) for file in call.inputs}
        ours |= {os.path.realpath(Path(call.output_dir, file.filename)) for file in call.outputs}
        if cause.filename is None or os.path.realpath(os.fsdecode(cause.filename)) in ours:
            return InvalidInput(str(cause) or "a file of the job cannot be used", cause=cause)
    return error


def _read(directory: int, directory_path: str, file: InputFile, limits: Limits) -> bytes:
    path = str(Path(directory_path, file.filename))
    limit = min(limits.max_array_bytes, limits.max_array_bytes if file.max_bytes is None else file.max_bytes)
    descriptor, size = open_file(directory, file.filename, path, "input")
    with os.fdopen(descriptor, "rb") as opened:
        if size > limit:
            raise Unprocessable(f"{file.filename}: expected at most {limit} bytes, got {size}")
        # One byte more than allowed shows a file that grew since.
        body = opened.read(limit + 1)
    if len(body) > limit:
        raise Unprocessable(f"{file.filename}: expected at most {limit} bytes, got more")
    return body


def _write(directory: int, filename: str, body: bytes) -> None:
    descriptor = os.open(filename, WRITE, 0o666, dir_fd=directory)
    with os.fdopen(descriptor, "wb") as opened:
        opened.write(body)


def _remove(directory: int, filename: str) -> None:
    try:
        os.unlink(filename, dir_fd=directory)
    except FileNotFoundError:
        return  # it was renamed into place


def _column(item: Any, spec: Spec) -> Column:
    if isinstance(spec, Tensor):
        # One value of an array without dimensions is no array, and of texts no numpy value at all.
        item = np.asarray(item, object if spec.dtype == "str" else spec.dtype)
    return item[np.newaxis] if isinstance(item, np.ndarray) else [item]
