"""Every option of `servekit run`, in one table: a flag, a SERVEKIT_ variable, sometimes a platform's variable.

A flag beats a variable, which beats the platform's variable, which beats the default; each value remembers where it
came from, and the start-up log says so in one line.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any, Literal

from servekit import __version__
from servekit.contract import IMAGE_FORMATS, DrainBudget, Limits, Platform
from servekit.errors import ConfigError
from servekit.launch.board import MAX_WORKERS
from servekit.launch.cpus import usable_cpus
from servekit.launch.drain import resolve_budget
from servekit.launch.target import Target, is_archive, locate, lone_archive

PREFIX = "SERVEKIT_"
MAX_AUTO_WORKERS = 4
MEBIBYTE = 1024 * 1024
GIBIBYTE = 1024 * MEBIBYTE
MAX_MODEL_BYTES = 20 * GIBIBYTE
# What the decoders know how to read.
# Kubernetes sets it in every pod.
POD_VARIABLE = "KUBERNETES_SERVICE_HOST"
WHOLE = re.compile(r"[0-9]{1,18}")
LEVELS = ("debug", "info", "warning", "error", "critical")
# Not options, but not typing errors either.
INTERNAL = frozenset(PREFIX + name for name in ("WORKERS_EFFECTIVE", "CPUS_EFFECTIVE", "TURNS"))


@dataclass(frozen=True, slots=True)
class Option:
    """`convert` turns text into a value, raising ValueError with what was expected; `default` is text too."""

    name: str
    convert: Callable[[str], Any]
    default: str | None
    help: str
    metavar: str

    @property
    def flag(self) -> str:
        return "--" + self.name.replace("_", "-")

    @property
    def variable(self) -> str:
        return PREFIX + self.name.upper()


def _whole(low: int, high: int) -> Callable[[str], int]:
    def convert(text: str) -> int:
        if not WHOLE.fullmatch(text.strip()) or not low <= int(text) <= high:
            raise ValueError(f"a whole number from {low} to {high}")
        return int(text)

    return convert


def _seconds(low: float, high: float) -> Callable[[str], float]:
    def convert(text: str) -> float:
        wrong = ValueError(f"a number of seconds from {low:g} to {high:g}")
        try:
            value = float(text)
        except ValueError:
            raise wrong from None
        if not low <= value <= high:
            raise wrong
        return value

    return convert


def _choice(*names: str) -> Callable[[str], str]:
    def convert(text: str) -> str:
        if text.strip().lower() not in names:
            raise ValueError(f"one of {', '.join(names)}")
        return text.strip().lower()

    return convert


def _switch(text: str) -> bool:
    values = {"on": True, "true": True, "1": True, "yes": True, "off": False, "false": False, "0": False, "no": False}
    if text.strip().lower() not in values:
        raise ValueError("on or off")
    return values[text.strip().lower()]


def _workers(text: str) -> int | Literal["auto"]:
    if text.strip().lower() == "auto":
        return "auto"
    if not WHOLE.fullmatch(text.strip()) or not 1 <= int(text) <= MAX_WORKERS:
        raise ValueError(f"auto or a whole number from 1 to {MAX_WORKERS}")
    return int(text)


def _host(text: str) -> str:
    if not text.strip() or any(character.isspace() for character in text.strip()):
        raise ValueError("an address to listen on, such as 0.0.0.0")
    return text.strip()


def _formats(text: str) -> tuple[str, ...]:
    names = tuple(dict.fromkeys(name.strip().upper() for name in text.split(",") if name.strip()))
    unknown = [name for name in names if name not in IMAGE_FORMATS]
    if unknown or not names:
        raise ValueError(f"some of {', '.join(IMAGE_FORMATS).lower()}, separated by commas")
    return names


def _directory(text: str) -> str:
    # Workers do not run where the command was typed.
    return str(Path(text).absolute())


def _directories(text: str) -> tuple[str, ...]:
    paths = [Path(name).absolute() for name in text.split(os.pathsep) if name]
    if not paths or not all(path.is_dir() for path in paths):
        raise ValueError(f"directories that exist, with {os.pathsep} between them")
    return tuple(map(str, paths))


OPTIONS: tuple[Option, ...] = (
    Option("platform", str, "auto", "sagemaker, modelarts, modzy, all of them on one port, or auto", "NAME"),
    Option("host", _host, "0.0.0.0", "address to listen on", "ADDRESS"),  # noqa: S104 - the platforms' contract
    Option("port", _whole(1, 65535), "8080", "port to listen on", "PORT"),
    Option("workers", _workers, "auto", "worker processes, sharing the weights of large ONNX models", "N|auto"),
    Option("worker", _choice("uvicorn", "gevent"), "uvicorn", "kind of worker process", "uvicorn|gevent"),
    Option("model_dir", str, None, "directory that `load` receives, or an archive of it (.tar.gz, .tgz, .tar)", "DIR"),
    Option("max_model_bytes", _whole(1, 2**50), str(MAX_MODEL_BYTES), "most that a model archive may hold", "BYTES"),
    Option("files_roots", _directories, "/", "directories that Modzy's jobs may use, with : between them", "DIR:..."),
    Option("cache_dir", _directory, None, "directory for copies of models whose weights workers share", "DIR"),
    Option("drain_s", _seconds(0, 3600), None, "seconds to go on accepting after SIGTERM", "SECONDS"),
    Option("finish_s", _seconds(0, 3600), None, "seconds to finish requests after that", "SECONDS"),
    Option("keep_alive_s", _seconds(1, 3600), "200", "seconds an idle connection is kept open", "SECONDS"),
    Option("request_timeout_s", _seconds(0.01, 86400), "60", "seconds until a request is answered 504", "SECONDS"),
    Option("startup_timeout_s", _seconds(1, 86400), "600", "seconds a worker may take to load its model", "SECONDS"),
    Option("header_timeout_s", _seconds(0.1, 600), "10", "seconds a request's head may take to arrive", "SECONDS"),
    Option("body_timeout_s", _seconds(0.1, 86400), "120", "seconds a request's body may take to arrive", "SECONDS"),
    Option("min_body_bytes_per_s", _whole(0, 2**40), "1024", "slowest body, after its first 10 seconds; 0: any", "N"),
    Option("write_timeout_s", _seconds(0.1, 86400), "30", "seconds a caller may take none of its reply", "SECONDS"),
    Option("max_connections", _whole(1, 2**20), "1000", "most connections of a worker", "N"),
    Option("max_body_bytes", _whole(1, 2**40), str(64 * MEBIBYTE), "largest request body", "BYTES"),
    Option("max_bodies_bytes", _whole(1, 2**44), None, "most that a worker holds of large bodies at once", "BYTES"),
    Option("max_chunks", _whole(1, 2**40), "65536", "most chunks of a request body", "N"),
    Option("max_array_bytes", _whole(1, 2**44), str(256 * MEBIBYTE), "largest array that a body may hold", "BYTES"),
    Option("max_rows", _whole(1, 2**40), "1000000", "most rows of a request", "N"),
    # orjson itself ends at 1024.
    Option("max_json_depth", _whole(1, 1024), "100", "deepest nesting of the value of a Json input", "N"),
    Option("max_form_parts", _whole(1, 2**20), "100", "most parts of a form", "N"),
    Option("max_form_field_bytes", _whole(1, 2**40), str(MEBIBYTE), "largest field of a form that is no file", "BYTES"),
    Option("max_image_pixels", _whole(1, 2**40), "50000000", "most pixels of an image", "N"),
    Option("max_body_pixels", _whole(1, 2**40), "200000000", "most pixels of all images of a request", "N"),
    Option("image_formats", _formats, "png,jpeg,webp", "which are read, of these and bmp, gif, tiff", "NAMES"),
    Option("max_header_bytes", _whole(1024, 2**24), "65536", "largest request head", "BYTES"),
    Option("max_headers", _whole(8, 10_000), "100", "most header fields of a request", "N"),
    Option("nan", _choice("error", "null"), "error", "NaN in JSON replies: refuse, or write null", "error|null"),
    Option("docs", _switch, "off", "serve /docs and /openapi.json", "on|off"),
    Option("admin_port", _whole(1, 65535), None, "second port, which has /metrics and /docs to itself", "PORT"),
    Option("fast_lane", _switch, "on", "answer the platform's routes without an ASGI task (uvicorn workers)", "on|off"),
    Option("metrics", _switch, "on", "count, and serve the numbers of all workers at /metrics", "on|off"),
    Option("access_log", _switch, "on", "a log line per request", "on|off"),
    Option("log_lines_per_s", _whole(0, 10**9), "100", "lines about requests, per second and worker; 0: all", "N"),
    Option("log_format", _choice("auto", "json", "text"), "auto", "text on a terminal, else JSON", "auto|json|text"),
    Option("log_level", _choice(*LEVELS), "info", "least level logged", "|".join(LEVELS)),
)  # fmt: skip
BY_NAME = {option.name: option for option in OPTIONS}


@dataclass(frozen=True, slots=True)
class Value:
    value: Any
    origin: str


@dataclass(frozen=True, slots=True)
class Settings:
    """What was chosen. `origins` says for each option why; `unknown` are SERVEKIT_ variables that mean nothing."""

    target: Target
    platform: str
    platforms: tuple[str, ...]
    model_dir: Path
    host: str
    port: int
    workers: int
    worker: Literal["uvicorn", "gevent"]
    drain: DrainBudget
    keep_alive_s: float
    request_timeout_s: float
    startup_timeout_s: float
    header_timeout_s: float
    body_timeout_s: float
    min_body_bytes_per_s: int
    write_timeout_s: float
    max_connections: int
    max_body_bytes: int
    max_bodies_bytes: int
    max_chunks: int
    max_array_bytes: int
    max_rows: int
    max_json_depth: int
    max_form_parts: int
    max_form_field_bytes: int
    max_image_pixels: int
    max_body_pixels: int
    image_formats: tuple[str, ...]
    max_header_bytes: int
    max_headers: int
    max_model_bytes: int
    files_roots: tuple[str, ...]
    nan: Literal["error", "null"]
    docs: bool
    admin_port: int | None
    fast_lane: bool
    metrics: bool
    access_log: bool
    log_lines_per_s: int
    log_format: Literal["auto", "json", "text"]
    log_level: str
    survives_failed_load: bool
    environ: Mapping[str, str] = field(repr=False)
    origins: Mapping[str, str] = field(default_factory=dict)
    unknown: tuple[str, ...] = ()
    cache_dir: str | None = None

    @property
    def body_limits(self) -> Limits:
        """What a body may cost once it is here."""
        return Limits(**{item.name: getattr(self, item.name) for item in fields(Limits) if hasattr(self, item.name)})

    def summary(self) -> str:
        """The start-up line: what was chosen and why."""
        drain = f"{self.drain.linger_s:g}+{self.drain.finish_s:g}+{self.drain.margin_s:g}s"
        shown: dict[str, Any] = {
            "target": self.target.text,
            "platform": self.platform,
            "host": self.host,
            "port": self.port,
            "workers": self.workers,
            "worker": self.worker,
            "model_dir": self.model_dir,
            "drain": drain,
            "request_timeout_s": f"{self.request_timeout_s:g}",
            "max_body_bytes": self.max_body_bytes,
        }
        chosen = " ".join(f"{name}={value} ({self.origins.get(name, 'default')})" for name, value in shown.items())
        return f"servekit {__version__}: {chosen}"


def resolve(
    flags: Mapping[str, str | None],
    environ: Mapping[str, str],
    known: Mapping[str, Platform],
    cwd: Path,
    *,
    undetected: str = "all",
) -> Settings:
    """Settings from flags (by option name, and `target`), variables and defaults. Raises ConfigError.

    undetected: the platform where nobody names one and the variables of none are there.
    """
    platform = _platform(flags, environ, known, undetected)
    names = tuple(known) if platform.value == "all" else (platform.value,)
    platforms = [known[name] for name in names]
    values = {option.name: _value(option, flags, environ, platforms) for option in OPTIONS if option.name != "platform"}
    drain, drain_origin = _drain(values, platforms, environ)
    _refuse_contradictions(values, platforms)
    workers, workers_origin = _worker_count(values["workers"], platforms)
    target_text, target_origin = _target_text(flags, environ)
    model_dir, model_dir_origin = _model_dir(values["model_dir"], platforms, cwd, values["max_model_bytes"].value)
    target = locate(target_text, model_dir, cwd)
    if target_text is None:
        target_origin = "model directory"
    origins = {name: value.origin for name, value in values.items()}
    origins |= {
        "platform": platform.origin,
        "target": target_origin,
        "workers": workers_origin,
        "drain": drain_origin,
        "model_dir": model_dir_origin,
    }
    plain = {name: value.value for name, value in values.items() if name not in ("workers", "drain_s", "finish_s")}
    plain["model_dir"] = model_dir or target.directory
    plain["max_bodies_bytes"] = _bodies(values)
    variables = {option.variable for option in OPTIONS} | {PREFIX + "TARGET"} | INTERNAL
    return Settings(
        target=target,
        platform=platform.value,
        platforms=names,
        workers=workers,
        drain=drain,
        # Several platforms on one port: a dead model must end the process if any of them demands it.
        survives_failed_load=all(item.survives_failed_load for item in platforms),
        environ=dict(environ),
        origins=origins,
        unknown=tuple(sorted(name for name in environ if name.startswith(PREFIX) and name not in variables)),
        **plain,
    )


def _value(
    option: Option, flags: Mapping[str, str | None], environ: Mapping[str, str], platforms: list[Platform]
) -> Value:
    text = flags.get(option.name)
    if text is not None:
        return Value(_convert(option.convert, text, option.flag, option.name), option.flag)
    # Container images set variables to "" to unset them.
    if environ.get(option.variable):
        return Value(_convert(option.convert, environ[option.variable], option.variable, option.name), option.variable)
    for platform in platforms:
        for variable, convert in platform.variables.get(option.name, ()):
            if environ.get(variable):
                value = _translate(convert, environ[variable], variable, option.name)
                return Value(_convert(option.convert, str(value), variable, option.name), variable)
    return Value(None if option.default is None else option.convert(option.default), "default")


def _convert(convert: Callable[[str], Any], text: str, origin: str, name: str) -> Any:
    try:
        return convert(text)
    except ValueError as error:
        raise ConfigError(f"{name}: expected {error}, got {text!r} (from {origin})") from error


def _translate(convert: Callable[[str], Any], text: str, variable: str, name: str) -> Any:
    """A platform's own conversion, whose complaint is a sentence of its own."""
    try:
        return convert(text)
    except ValueError as error:
        raise ConfigError(f"{name}: {variable} is {text!r}: {error}") from error


def _platform(
    flags: Mapping[str, str | None], environ: Mapping[str, str], known: Mapping[str, Platform], undetected: str
) -> Value:
    option = BY_NAME["platform"]
    asked = _value(option, flags, environ, [])
    name = asked.value.strip().lower()
    if name == "auto":
        return _detect(environ, known, undetected)
    if name != "all" and name not in known:
        raise ConfigError(f"platform: expected {', '.join(known)}, all or auto, got {name!r} (from {asked.origin})")
    return Value(name, asked.origin)


def _detect(environ: Mapping[str, str], known: Mapping[str, Platform], undetected: str) -> Value:
    """The platform whose own variables are set; `undetected` when there are none; no guess when several are."""
    found: dict[str, str] = {}
    for name, platform in known.items():
        for pattern in platform.detect:
            for variable in sorted(environ):
                hit = variable.startswith(pattern[:-1]) if pattern.endswith("*") else variable == pattern
                if hit and environ[variable]:
                    found.setdefault(name, variable)
    if len(found) > 1:
        signs = ", ".join(f"{variable} says {name}" for name, variable in found.items())
        raise ConfigError(f"platform: auto cannot decide: {signs}; pass --platform or set SERVEKIT_PLATFORM")
    if found:
        [(name, variable)] = found.items()
        return Value(name, f"auto: {variable} is set")
    return Value(undetected, "auto: no platform's variables are set")


def _drain(
    values: Mapping[str, Value], platforms: list[Platform], environ: Mapping[str, str]
) -> tuple[DrainBudget, str]:
    in_pod = bool(environ.get(POD_VARIABLE))
    origin = platforms[0].name if len(platforms) == 1 else f"all, {POD_VARIABLE} is set" if in_pod else "all"
    asked = [values[name].origin for name in ("drain_s", "finish_s") if values[name].value is not None]
    budget = resolve_budget(
        platforms, linger_s=values["drain_s"].value, finish_s=values["finish_s"].value, in_pod=in_pod
    )
    return budget, ", ".join(asked) or origin


def _refuse_contradictions(values: Mapping[str, Value], platforms: list[Platform]) -> None:
    """Of what was asked for; the defaults fit."""
    if values["admin_port"].value == values["port"].value:
        raise ConfigError(
            f"admin_port: expected another port than {values['port'].value} (from {values['port'].origin}), "
            f"got the same (from {values['admin_port'].origin})"
        )
    limit, finish = values["request_timeout_s"], values["finish_s"]
    if finish.value is not None and limit.origin != "default" and limit.value > finish.value:
        raise ConfigError(
            f"request_timeout_s: {limit.value:g} s (from {limit.origin}) for a request, but only {finish.value:g} s "
            f"(from {finish.origin}) to finish those accepted last: raise --finish-s or lower --request-timeout-s"
        )
    kept = values["keep_alive_s"]
    for platform in platforms:
        if kept.value < platform.min_keep_alive_s:
            raise ConfigError(
                f"keep_alive_s: expected at least {platform.min_keep_alive_s:g} s, since {platform.name} reuses idle "
                f"connections for that long and requests would be lost, got {kept.value:g} (from {kept.origin})"
            )


def _bodies(values: Mapping[str, Value]) -> int:
    """What a worker may hold of bodies: at least one of the largest."""
    largest, asked = values["max_body_bytes"].value, values["max_bodies_bytes"]
    if asked.value is None:
        return max(256 * MEBIBYTE, 4 * int(largest))
    if asked.value < largest:
        raise ConfigError(
            f"max_bodies_bytes: expected at least max_body_bytes, which is {largest}, "
            f"got {asked.value} (from {asked.origin})"
        )
    return int(asked.value)


def _worker_count(asked: Value, platforms: list[Platform]) -> tuple[int, str]:
    if asked.value != "auto":
        return asked.value, asked.origin
    if len(platforms) == 1 and platforms[0].default_workers is not None:
        return platforms[0].default_workers, f"auto: {platforms[0].name}"
    cpus = usable_cpus()
    return min(cpus, MAX_AUTO_WORKERS), f"auto: {cpus} CPUs"


def _target_text(flags: Mapping[str, str | None], environ: Mapping[str, str]) -> tuple[str | None, str]:
    if flags.get("target"):
        return flags["target"], "argument"
    if environ.get(PREFIX + "TARGET"):
        return environ[PREFIX + "TARGET"], PREFIX + "TARGET"
    return None, "model directory"


def _model_dir(asked: Value, platforms: list[Platform], cwd: Path, max_bytes: int) -> tuple[Path | None, str]:
    if asked.value is not None:
        ours = asked.origin.startswith(("--", PREFIX))
        path = (cwd / asked.value).resolve()
        if path.is_dir() and not ours:
            return _unpacked(path, asked.origin, max_bytes)
        if is_archive(path):
            return _unpack(path, asked.origin, max_bytes)
        # A platform's variable may name a directory that is only there when there is model data.
        if path.is_dir() or not ours:
            return (path, asked.origin) if path.is_dir() else (None, "target's directory")
        raise ConfigError(
            f"model_dir: expected a directory or a .tar.gz file, got {asked.value!r} (from {asked.origin})"
        )
    for platform in platforms:
        for name in platform.model_dirs:
            if _has_entries(Path(name)):
                return _unpacked(Path(name), f"{platform.name}'s model directory", max_bytes)
    return None, "target's directory"


def _unpacked(directory: Path, origin: str, max_bytes: int) -> tuple[Path, str]:
    """A platform's model directory, or what the archive holds that is all there is in it.

    SageMaker unpacks model.tar.gz itself, but not where model data is delivered uncompressed file by file, and nobody
    does where a container is tried by hand with the folder that the archive was uploaded from.
    """
    archive = lone_archive(directory)
    return (directory, origin) if archive is None else _unpack(archive, origin, max_bytes)


def _unpack(archive: Path, origin: str, max_bytes: int) -> tuple[Path, str]:
    from servekit.launch.archive import unpack  # most starts do without

    return unpack(archive, max_bytes), f"{origin}, unpacked from {archive.name}"


def _has_entries(directory: Path) -> bool:
    try:
        with os.scandir(directory) as entries:
            return any(entries)
    except OSError:
        return False
