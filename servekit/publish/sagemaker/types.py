"""The media types of a model, as servekit's SageMaker door reads and writes them."""

from __future__ import annotations

from pathlib import Path

from servekit.signature import Image, Signature

# Of `image/*`, what callers really send.
PICTURES = ("image/png", "image/jpeg")
FORM = "multipart/form-data"
BY_ENDING = {
    ".json": "application/json",
    ".jsonl": "application/jsonlines",
    ".jsonlines": "application/jsonlines",
    ".csv": "text/csv",
    ".txt": "text/plain",
    ".npy": "application/x-npy",
    ".npz": "application/x-npz",
    ".png": "image/png",
    ".jpg": "image/jpeg",
    ".jpeg": "image/jpeg",
    ".gif": "image/gif",
    ".webp": "image/webp",
    ".bmp": "image/bmp",
    ".tif": "image/tiff",
    ".tiff": "image/tiff",
}


def content_types(signature: Signature) -> tuple[str, ...]:
    """Most natural first. Without forms, whose type says of each request what its boundary is."""
    from servekit.codecs import v2
    from servekit.codecs.decode import accepted_types

    found: list[str] = []
    for kind in accepted_types(signature):
        if kind == "image/*":
            found += PICTURES
        elif kind not in (FORM, v2.BINARY):
            found.append(kind)
    return tuple(dict.fromkeys(found))


def response_types(signature: Signature) -> tuple[str, ...]:
    """Most natural first. Without Triton's, whose parameter is different for each answer."""
    from servekit.codecs import v2
    from servekit.codecs.encode import offered_types

    return tuple(dict.fromkeys(kind for kind in offered_types(signature) if kind != v2.BINARY))


def of_sample(file: Path, signature: Signature | None) -> str:
    """What a batch transform says of the sample: by the name's ending, else what the model likes best."""
    kind = BY_ENDING.get(file.suffix.lower())
    if kind is None and signature is not None:
        kind = next((kind for kind in content_types(signature) if not kind.startswith("image/")), None)
        if isinstance(next(iter(signature.inputs.values())), Image) and len(signature.inputs) == 1:
            kind = "application/octet-stream"
    return kind or "application/octet-stream"
