"""The nouns that every room shares: what comes in, what is asked for, what goes out.

A platform's contract is a pure translation between these: `Route.parse` turns a whole `Request` into a `Call`
that names an effect, `Route.render` turns the value of that effect into a whole `Reply`, and
`Platform.render_error` does the same for an error. No sockets, clocks, files or models here.
"""

from __future__ import annotations

import enum
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from servekit.containers import Container, Product
    from servekit.errors import ServeError
    from servekit.signature import Signature
    from servekit.terms import Terms

# --- what comes in ---------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Request:
    """One whole HTTP request.

    `headers` stay raw until asked for: names lower-case, both sides bytes, duplicates kept, in order of arrival.
    `path` is percent-decoded and holds no query; `query` is the raw text behind the question mark.
    `peer` is the address of the other end of the connection, "" when there is none.
    """

    method: str
    path: str
    query: str = ""
    headers: Sequence[tuple[bytes, bytes]] = ()
    body: bytes = b""
    id: str = ""
    peer: str = ""

    def header(self, name: bytes) -> str | None:
        """The value of the first header called `name` (lower-case), or None."""
        for key, value in self.headers:
            if key == name:
                return value.decode("latin-1")
        return None


# --- what is asked for -----------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Envelope:
    """Where the rows lie in a JSON object, and where the results go in the answer.

    rows_at, results_at: the keys to walk, outermost first; an empty `rows_at` is a bare list.
    columns: the value at `rows_at` is an object of input name -> batch, not a list of rows.
    echo: top-level keys that are copied into the answer when the request had them.
    results_as_objects: each result is always an object by output names, even when there is one output.
    """

    rows_at: tuple[str, ...]
    results_at: tuple[str, ...]
    columns: bool = False
    echo: tuple[str, ...] = ()
    results_as_objects: bool = False


INSTANCES = Envelope(("instances",), ("predictions",))
BARE_LIST = Envelope((), ("predictions",))
COLUMNS = Envelope(("inputs",), ("outputs",), columns=True)
COMMON_ENVELOPES = (INSTANCES, COLUMNS, BARE_LIST)


@dataclass(frozen=True, slots=True)
class Infer:
    """Predict on the rows in `body`, answer in a media type that `accept` allows.

    content_type, accept: as the caller sent them, None when absent.
    envelopes: the JSON forms that this route understands, first match wins.
    fields: extra named values (query arguments), used by form bodies for inputs that the body does not name.
    default_accept: what `accept` means when it is absent or `*/*`.
    """

    body: bytes
    content_type: str | None
    accept: str | None
    envelopes: tuple[Envelope, ...] = COMMON_ENVELOPES
    fields: tuple[tuple[str, str], ...] = ()
    default_accept: str = "application/json"


@dataclass(frozen=True, slots=True)
class InputFile:
    """A file that holds the value of the input called `input`, or a JSON object of all inputs when None."""

    filename: str
    input: str | None
    media_types: tuple[str, ...] = ()
    max_bytes: int | None = None


@dataclass(frozen=True, slots=True)
class OutputFile:
    """A file to write: the output called `output` as `media_type`, or the platform's summary of all when None."""

    filename: str
    output: str | None
    media_type: str = "application/json"


@dataclass(frozen=True, slots=True)
class InferFiles:
    """Predict on files of `input_dir`, write the results under `output_dir` (absolute paths).

    summary: turns the result (an object by output names, or a list of them) into the document that is written to
    output files that name no output.
    """

    input_dir: str
    output_dir: str
    inputs: tuple[InputFile, ...]
    outputs: tuple[OutputFile, ...]
    summary: Callable[[Any], Any]


@dataclass(frozen=True, slots=True)
class Ready:
    """Can this server take work? Value: `Readiness`."""


@dataclass(frozen=True, slots=True)
class Live:
    """Is the process alive? That it answers is the answer; value: `Readiness`, whose state may be any."""


@dataclass(frozen=True, slots=True)
class Describe:
    """What does this server offer? Value: `Description`."""


@dataclass(frozen=True, slots=True)
class Measure:
    """What have the workers done so far? Value: `Encoded`, in a form that `accept` prefers."""

    accept: str | None = None


@dataclass(frozen=True, slots=True)
class Load:
    """Wait until the model is loaded; try again if the last attempt failed. Value: `Readiness`, or LoadFailed."""


@dataclass(frozen=True, slots=True)
class Stop:
    """End the server with exit code 0, after this call has been answered. Value: None."""


Call = Infer | InferFiles | Ready | Live | Describe | Measure | Load | Stop


# --- the values of the effects ---------------------------------------------------------------------------------


class State(enum.Enum):
    """The life of a server. `engine/lifecycle.py` holds the allowed moves."""

    STARTING = "starting"
    WARMING = "warming"
    READY = "ready"
    DRAINING = "draining"
    STOPPED = "stopped"
    FAILED = "failed"


@dataclass(frozen=True, slots=True)
class Readiness:
    """`ready` is False while any worker still loads; `reason` says why in words fit for a caller."""

    state: State
    ready: bool
    reason: str = ""


@dataclass(frozen=True, slots=True)
class Description:
    """What a platform may want to know about this server."""

    workers: int
    max_batch_rows: int
    max_body_bytes: int
    takes_rows: bool


@dataclass(frozen=True, slots=True)
class Encoded:
    """An answer that is ready to send."""

    body: bytes
    media_type: str
    headers: tuple[tuple[str, str], ...] = ()


@dataclass(frozen=True, slots=True)
class Written:
    """The files that an InferFiles wrote, in order."""

    paths: tuple[str, ...]


# --- what goes out ---------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Reply:
    """One whole HTTP reply; the door adds Content-Length, the request id and hop-by-hop headers.

    media_type "" sends no Content-Type (for an empty body).
    """

    status: int
    body: bytes = b""
    media_type: str = "application/json"
    headers: tuple[tuple[str, str], ...] = ()


# --- a platform ------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Site:
    """What a platform's routes may depend on, read once at start.

    files: the bytes of those of `Platform.files` that exist, by the name the platform gave.
    """

    signature: Signature
    files: Mapping[str, bytes] = field(default_factory=dict)
    environ: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Route:
    """One method set on one path.

    render gets the request, the call and the value of its effect.
    local_only: refuse (404) callers that are not on this machine when several platforms share the port.
    takes_body: the schema shows a request body.
    reads: names (lower-case) of the headers that parse and render look at, if parse only hands the body on and render
        only wraps the encoded answer. Such a route is translated once for all requests that agree in their target and
        these headers. None: parse and render are called for every request.
    """

    methods: tuple[str, ...]
    path: str
    parse: Callable[[Request], Call]
    render: Callable[[Request, Call, Any], Reply]
    summary: str = ""
    local_only: bool = False
    takes_body: bool = False
    reads: frozenset[bytes] | None = None


# What can be read. Decoders of the last three have long been a source of holes and few callers send them, so that they
# are on where somebody asks for them.
IMAGE_FORMATS = ("PNG", "JPEG", "WEBP", "BMP", "GIF", "TIFF")


@dataclass(frozen=True, slots=True)
class Limits:
    """What a body may cost. Sizes are checked before memory is taken.

    max_array_bytes also bounds what one body expands to (npz members, images after resize). max_image_pixels bounds one
    picture as its file's head has it, max_body_pixels all pictures of one body: small files may claim many pixels.
    """

    max_array_bytes: int = 256 * 1024 * 1024
    max_image_pixels: int = 50_000_000
    max_body_pixels: int = 200_000_000
    image_formats: tuple[str, ...] = IMAGE_FORMATS[:3]
    max_form_parts: int = 100
    max_form_field_bytes: int = 1024 * 1024
    max_rows: int = 1_000_000
    max_json_depth: int = 100


@dataclass(frozen=True, slots=True)
class DrainBudget:
    """Seconds between SIGTERM and the platform's kill: go on accepting, then finish, then a margin.

    linger_s + finish_s + margin_s must not exceed kill_s (None: the platform names no limit).
    """

    linger_s: float
    finish_s: float
    margin_s: float
    kill_s: float | None


@dataclass(frozen=True, slots=True)
class Platform:
    """One hosting platform: its routes and the numbers of its life cycle.

    routes: the routes for a site; raises ConfigError (with the reason) when the site's files cannot be served.
    render_error: a whole reply for an error, also for unknown routes and methods.
    detect: names of environment variables that only this platform sets (a trailing `*` matches a prefix).
    variables: option name (`port`, `workers`, `model_dir`, `max_body_bytes`, `request_timeout_s`,
        `log_level`, ...) -> ((variable, convert), ...), first one set wins; convert raises
        ValueError on a bad value.
    model_dirs: where the platform puts the model; the first that exists is used.
    files: names of files in the model directory (or beside the target) that `routes` wants to read.
    survives_failed_load: a failed load is answered, and tried again, instead of ending the process.
    default_workers: None means one for each usable CPU.
    min_keep_alive_s: the platform reuses idle connections for so long; a server that closes them sooner loses requests.
    container: what the platform demands of an image; None when it takes any.
    terms: gives what `servekit check` tries, which a server never needs; None when there are none.
    """

    name: str
    routes: Callable[[Site], tuple[Route, ...]]
    render_error: Callable[[ServeError, Request], Reply]
    drain: DrainBudget
    detect: tuple[str, ...] = ()
    variables: Mapping[str, tuple[tuple[str, Callable[[str], Any]], ...]] = field(default_factory=dict)
    model_dirs: tuple[str, ...] = ()
    files: tuple[str, ...] = ()
    survives_failed_load: bool = False
    default_workers: int | None = None
    min_keep_alive_s: float = 0.0
    container: Callable[[Product], Container] | None = None
    terms: Callable[[], Terms] | None = None
