"""What is measured: a server behind a URL, or a target that is served here; and the one request that is sent to it."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from servekit.bench import tried
from servekit.bench.batches import counts
from servekit.bench.figures import Setting
from servekit.bench.load import Aim
from servekit.contract import Platform, Reply
from servekit.dispatch import TIMING_HEADER
from servekit.errors import ConfigError, ServeError
from servekit.launch.platforms import installed
from servekit.parity import forms, runner, samples
from servekit.parity.answers import NotExpressible
from servekit.parity.samples import Sample
from servekit.parity.served import HOST, Served, ask, ready_path
from servekit.signature import Signature, Tensor, Text

DEFAULT_PLATFORM = "sagemaker"
SHOWN_BYTES = 500
MAX_PATH_CHARS = 2000


class WrongAnswer(ServeError):
    """The first request was not answered 2xx: a load of such requests would measure nothing."""


@dataclass(frozen=True, slots=True)
class Ask:
    """The request that is sent again and again. words: what it is."""

    method: str
    path: str
    headers: tuple[tuple[str, str], ...]
    body: bytes
    words: str

    def message(self, host: str, port: int, *extra: tuple[str, str]) -> bytes:
        name = f"[{host}]" if ":" in host else host
        headers = [("Host", f"{name}:{port}"), *self.headers, *extra]
        if self.body or self.method != "GET":
            headers.append(("Content-Length", str(len(self.body))))
        head = "".join(f"{key}: {value}\r\n" for key, value in headers)
        return f"{self.method} {self.path} HTTP/1.1\r\n{head}\r\n".encode("latin-1") + self.body


@dataclass(frozen=True, slots=True)
class Local:
    """A target, as it is served here."""

    what: runner.Subject
    platform: str
    site: forms.Site
    ready: str
    ask: Ask

    @contextmanager
    def serve(self, setting: Setting) -> Iterator[Served]:
        """A real `servekit run` with this setting. Raises NotServing, ConfigError."""
        options: list[str] = ["--model-dir", str(self.what.model_dir)]
        if setting.workers is not None:
            options += ["--workers", str(setting.workers)]
        target, environ = self.what.text, {}
        if setting.max_size is not None:
            values = {"max_size": setting.max_size, "max_delay_ms": setting.max_delay_ms or 0.0}
            environ = tried.environ(self.what.text, self.what.model_dir, Path.cwd(), values)
            target = tried.TARGET
        with Served(target, self.platform, self.ready, *options, environ=environ) as server:
            yield server


def is_url(text: str) -> bool:
    return text.startswith(("http://", "https://"))


def at_url(text: str, platform: str | None, sample: Path | None, content_type: str | None) -> tuple[str, int, Ask]:
    """Host, port and request for a server that runs already. Raises ConfigError."""
    try:
        parts = urlsplit(text)
        port = parts.port or 80
    except ValueError:
        parts, port = urlsplit(""), 0
    target = parts.path + (f"?{parts.query}" if parts.query else "")
    plain = target.isascii() and target.isprintable() and " " not in target and len(target) <= MAX_PATH_CHARS
    if parts.scheme != "http" or not parts.hostname or parts.fragment or parts.username is not None or not plain:
        raise ConfigError(f"URL: expected http://HOST[:PORT][/PATH] of a server, got {text!r:.200}")
    if platform is not None and target in ("", "/"):
        target = _default_path(platform)
    if sample is None:
        if platform is not None:
            raise ConfigError(
                "--sample: expected a file with the body to send; without it only a URL with a path is got"
            )
        return parts.hostname, port, Ask("GET", target or "/", (), b"", f"GET {target or '/'}")
    given = samples.lone(sample, content_type)
    headers = (("Content-Type", given.content_type), ("Accept", "*/*"))
    words = f"{given.name}, {len(given.body)} bytes of {given.content_type}"
    return parts.hostname, port, Ask("POST", target or "/", headers, given.body, words)


def local(
    text: str, platform: str | None, sample: Path | None, content_type: str | None, model_dir: Path | None,
    folder: Path,
) -> Local:  # fmt: skip
    """A target and its request. folder: for the files of jobs. Raises ConfigError, LoadFailed."""
    name = (platform or DEFAULT_PLATFORM).strip().lower()
    known: Mapping[str, Platform] = installed()
    if name not in known:
        raise ConfigError(f"--platform: expected one of {', '.join(known)}, got {platform!r}")
    what = runner.subject(text, model_dir, Path.cwd())
    site, parts = runner.site(what, known[name], name)
    routes = [route for mount in parts.dispatcher.mounted for route in mount.routes]
    given = zeros(what.signature) if sample is None else samples.lone(sample, content_type)
    request = _request(site, given, folder)
    words = f"{given.name}, {len(given.body)} bytes of {given.content_type}"
    return Local(what, name, site, ready_path(routes), replace(request, words=words))


def aim(host: str, port: int, what: Ask, timeout_s: float) -> Aim:
    """Sends the request once, and looks at what comes. Raises NotServing, WrongAnswer."""
    reply = ask(host, port, what.method, what.path, what.headers, what.body, timeout_s=timeout_s)
    if not 200 <= reply.status < 300:
        shown = reply.body[:SHOWN_BYTES].decode("utf-8", "replace")
        raise WrongAnswer(f"the first request ({what.words}) was answered {reply.status}: {' '.join(shown.split())}")
    timed = b""
    if counts(host, port) is None:
        extra = (TIMING_HEADER, "1")
        probe = ask(host, port, what.method, what.path, (*what.headers, extra), what.body, timeout_s=timeout_s)
        timed = what.message(host, port, extra) if _header(probe, TIMING_HEADER) else b""
    sized = _header(reply, "Content-Length") or _header(reply, "Transfer-Encoding")
    return Aim(host, port, what.message(host, port), timed, not sized, timeout_s)


def local_aim(port: int, what: Ask, timeout_s: float) -> Aim:
    return aim(HOST, port, what, timeout_s)


def zeros(signature: Signature) -> Sample:
    """A request of zeros, as a model is warmed up with. Raises ConfigError where there is nothing natural to send."""
    row: dict[str, Any] = {}
    for name, spec in signature.inputs.items():
        if isinstance(spec, Text):
            row[name] = "text"
        elif isinstance(spec, Tensor):
            row[name] = _nested(spec)
        else:
            raise ConfigError(f"--sample: expected a file with a request, since the input {name} is {spec}")
    body = json.dumps({"instances": [row]}).encode()
    return Sample("zeros", body, "application/json")


def _nested(spec: Tensor) -> Any:
    value: Any = {"bool": False, "str": ""}.get(spec.dtype, 0)
    for size in reversed(spec.shape):
        value = [value] * (1 if size is None else size)
    return value


def _request(site: forms.Site, sample: Sample, folder: Path) -> Ask:
    files = site.files
    if files is None:
        sent = forms.request(site, sample)
        if isinstance(sent, NotExpressible):
            raise ConfigError(f"--sample {sample.name}: not expressible on {site.platform}: {sent.reason}")
        return Ask("POST", sent.path, sent.headers, sent.body, "")
    jobs = forms.jobs(site, files, sample)
    if isinstance(jobs, NotExpressible):
        raise ConfigError(f"--sample {sample.name}: not expressible on {site.platform}: {jobs.reason}")
    if len(jobs) > 1:
        raise ConfigError(f"--sample {sample.name}: expected one row for {site.platform}, got {len(jobs)}")
    forms.write(jobs[0], folder / "in")
    # All jobs write the same results: each file is put in its place whole.
    body = forms.job(folder / "in", folder / "out")
    return Ask("POST", site.route.path, (("Content-Type", "application/json"),), body, "")


def _default_path(platform: str) -> str:
    paths = {"sagemaker": "/invocations", "modelarts": "/", "modzy": "/run"}
    path = paths.get(platform.strip().lower())
    if path is None:
        raise ConfigError(f"--platform: expected one of {', '.join(paths)}, or the path in the URL, got {platform!r}")
    return path


def _header(reply: Reply, name: str) -> str:
    return next((value for key, value in reply.headers if key.lower() == name.lower()), "")
