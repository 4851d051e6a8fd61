"""Requests to a control plane: bounded in time and size, tried again where that is safe, and never redirected.

urllib3 does the work. What is decided here: TLS is verified; plain http is for this machine, unless the user says
otherwise; 429 and 5xx are tried again with growing pauses and jitter, other refusals are not; a request that makes
something is tried again only when the platform says that it did nothing.
"""

from __future__ import annotations

import importlib.util
import ipaddress
import json
import urllib.request
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import IO, TYPE_CHECKING, Any, Self
from urllib.parse import quote, unquote, urlencode, urlsplit

from servekit import __version__
from servekit.errors import ConfigError
from servekit.publish.failures import NotUnderstood, PublishError, Unreachable, of_status
from servekit.publish.secrets import Secret

if TYPE_CHECKING:
    import urllib3
    from urllib3.util.retry import Retry

CONNECT_TIMEOUT_S = 10.0
READ_TIMEOUT_S = 60.0
ATTEMPTS = 5
BACKOFF_S = 0.5
MAX_BACKOFF_S = 20.0
MAX_RETRY_AFTER_S = 60
MAX_ANSWER_BYTES = 16 * 1024 * 1024
CHUNK_BYTES = 64 * 1024
BUSY = frozenset({429, 500, 502, 503, 504})
# The platform says that it did not begin.
NOT_BEGUN = frozenset({429, 503})
READING = frozenset({"GET", "HEAD", "PUT", "DELETE", "OPTIONS"})

Query = Sequence[tuple[str, str]]
Body = bytes | IO[bytes] | Iterable[bytes]


@dataclass(frozen=True, slots=True)
class Request:
    """As it is signed: path is not quoted, and may hold a `/` at its end; query in the order of its sending."""

    method: str
    host: str
    path: str
    query: Query
    headers: Mapping[str, str]
    body: bytes


@dataclass(frozen=True, slots=True)
class Answer:
    """headers: names in lower case."""

    status: int
    headers: Mapping[str, str]
    body: bytes

    def json(self) -> Any:
        """Raises NotUnderstood. An empty body is {}."""
        if not self.body.strip():
            return {}
        try:
            return json.loads(self.body)
        except (ValueError, RecursionError) as error:
            start = self.body[:200].decode("utf-8", "replace")
            raise NotUnderstood(
                f"expected JSON, got {self.headers.get('content-type', 'no content type')} with status {self.status} "
                f"that begins with {start!r}",
                hint="check that --endpoint names the platform's API: a proxy or login page may answer in its place",
                status=self.status,
            ) from error

    def document(self) -> dict[str, Any]:
        """A JSON object. Raises NotUnderstood."""
        value = self.json()
        if not isinstance(value, dict):
            raise NotUnderstood(f"expected a JSON object, got {type(value).__name__}", status=self.status)
        return value


@dataclass(frozen=True, slots=True)
class Said:
    """What a platform's error body says."""

    text: str = ""
    code: str = ""
    request_id: str = ""
    hint: str = ""
    details: str = ""


def said_nothing(answer: Answer) -> Said:
    return Said(answer.body[:500].decode("utf-8", "replace"))


def no_headers(request: Request) -> Mapping[str, str]:  # noqa: ARG001 - some platform's request needs none
    return {}


def say_nothing(text: str) -> None:  # noqa: ARG001 - for who wants to be told nothing
    return


@dataclass(frozen=True, slots=True)
class Transport:
    """
    endpoint: `https://host[:port][/path]`, before every path.
    authorise: from a request to the headers that prove who asks.
    explain: from an answer that is no success to what it says.
    tell: is told, in a line, why a request is tried again.
    """

    endpoint: str
    authorise: Callable[[Request], Mapping[str, str]] = no_headers
    explain: Callable[[Answer], Said] = said_nothing
    tell: Callable[[str], None] = say_nothing
    attempts: int = ATTEMPTS
    read_timeout_s: float = READ_TIMEOUT_S
    _pools: dict[str, urllib3.PoolManager] = field(default_factory=dict, repr=False)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        for pool in self._pools.values():
            pool.clear()
        self._pools.clear()

    def call(
        self,
        method: str,
        path: str,
        *,
        query: Query = (),
        document: Any = None,
        body: Body | None = None,
        headers: Mapping[str, str] | None = None,
        repeatable: bool | None = None,
        read_timeout_s: float | None = None,
    ) -> Answer:
        """A success (2xx), whole. path is not quoted.

        document: is sent as JSON. body: bytes, or a file or iterable that is streamed, and sent once only; then
        `headers` needs its Content-Type, and Content-Length unless it is to be chunked.
        repeatable: doing it twice is doing it once; default: all but POST and PATCH are.
        Raises PublishError of the kind that fits.
        """
        content = json.dumps(document).encode() if document is not None else body
        sent = {"accept": "application/json", "user-agent": f"servekit/{__version__}", **_lower(headers)}
        if document is not None:
            sent["content-type"] = "application/json"
        parts = urlsplit(self.endpoint)
        whole = content if isinstance(content, bytes) else b""
        request = Request(method, parts.netloc, parts.path.rstrip("/") + path, tuple(query), sent, whole)
        sent |= _lower(self.authorise(request))
        _check_headers(sent)
        streamed = content is not None and not isinstance(content, bytes)
        answer = self._send(
            request, sent, content,
            retries=self._retries(method in READING if repeatable is None else repeatable, streamed=streamed),
            read_timeout_s=read_timeout_s or self.read_timeout_s,
        )  # fmt: skip
        if not 200 <= answer.status < 300:
            raise self._error(method, path, answer)
        return answer

    def _send(
        self, request: Request, headers: Mapping[str, str], content: Body | None, *, retries: Retry,
        read_timeout_s: float,
    ) -> Answer:  # fmt: skip
        import urllib3

        parts = urlsplit(self.endpoint)
        url = f"{parts.scheme}://{parts.netloc}{quote(request.path, safe='/~')}"
        if request.query:
            url += f"?{urlencode(request.query, quote_via=quote, safe='~')}"
        what = f"{request.method} {request.path} at {parts.netloc}"
        try:
            pool = self._pool(url)
            if pool.proxy is not None:
                what += f" through the proxy {pool.proxy.host}:{pool.proxy.port}"
            response = pool.request(
                request.method, url, body=content, headers=headers, retries=retries, redirect=False,
                timeout=urllib3.Timeout(connect=CONNECT_TIMEOUT_S, read=read_timeout_s), preload_content=False,
            )  # fmt: skip
            try:
                answer = Answer(response.status, _lower(response.headers), _read(response, what))
            except BaseException:
                response.close()
                raise
            response.release_conn()
        except urllib3.exceptions.HTTPError as error:
            raise _unreachable(error, what, parts.netloc) from error
        except OSError as error:
            raise Unreachable(f"{what}: {error.strerror or error}") from error
        return answer

    def _retries(self, repeatable: bool, *, streamed: bool) -> Retry:
        from urllib3.util.retry import Retry

        tell = self.tell

        class Told(Retry):
            def increment(
                self, method: str | None = None, url: str | None = None, response: Any = None,
                error: Exception | None = None, *rest: Any, **named: Any,
            ) -> Self:  # fmt: skip
                left = super().increment(method, url, response, error, *rest, **named)
                why = f"answered {response.status}" if response is not None else "could not be reached"
                tell(f"{urlsplit(url or '').path}: the platform {why}; trying again")
                return left

        if streamed:
            return Told(total=0, raise_on_status=False)
        return Told(
            total=self.attempts - 1,
            # What was sent may have been done, whatever became of the answer.
            read=None if repeatable else 0,
            other=None if repeatable else 0,
            redirect=0,
            allowed_methods=None,
            status_forcelist=BUSY if repeatable else NOT_BEGUN,
            backoff_factor=BACKOFF_S,
            backoff_max=MAX_BACKOFF_S,
            backoff_jitter=BACKOFF_S,
            retry_after_max=MAX_RETRY_AFTER_S,
            raise_on_status=False,
            raise_on_redirect=False,
        )

    def _pool(self, url: str) -> urllib3.PoolManager:
        if "pool" not in self._pools:
            parts = urlsplit(url)
            proxy = None
            if not is_loopback(parts.hostname or "") and not urllib.request.proxy_bypass(parts.hostname or ""):
                proxy = urllib.request.getproxies().get(parts.scheme)
            self._pools["pool"] = _pool_of(proxy, parts.scheme)
        return self._pools["pool"]

    def _error(self, method: str, path: str, answer: Answer) -> PublishError:
        if 300 <= answer.status < 400:
            return NotUnderstood(
                f"{method} {path}: the endpoint answered with a redirect ({answer.status}) to "
                f"{answer.headers.get('location', 'nowhere')}, which is not followed with credentials in hand",
                hint="name the endpoint that it leads to by --endpoint, if you trust it",
                status=answer.status,
            )
        said = self.explain(answer)
        text = said.text or "no reason given"
        code = f" [{said.code}]" if said.code else ""
        kind = of_status(answer.status)
        return kind(
            f"{method} {path}: {answer.status}{code}: {text}",
            hint=said.hint or _hint(answer.status),
            status=answer.status,
            code=said.code,
            request_id=said.request_id,
            details=said.details,
        )


def check_installed(extra: str) -> None:
    """Raises ConfigError where the package that a Transport needs is not there."""
    if importlib.util.find_spec("urllib3") is None:
        raise ConfigError(f'the package urllib3 is not installed: pip install "servekit[{extra}]"')


def check_endpoint(option: str, endpoint: str, *, insecure_http: bool) -> str:
    """As it is used. Raises ConfigError."""
    try:
        parts = urlsplit(endpoint)
        port = parts.port
    except ValueError:
        parts, port = urlsplit(""), None
    if parts.scheme not in ("http", "https") or not parts.hostname or parts.query or parts.fragment or port == 0:
        raise ConfigError(f"{option}: expected https://HOST[:PORT][/PATH], got {_without_password(endpoint)!r}")
    if parts.username is not None or parts.password is not None:
        raise ConfigError(f"{option}: expected a URL without a user and password, got {_without_password(endpoint)!r}")
    if parts.scheme == "http" and not insecure_http and not is_loopback(parts.hostname):
        raise ConfigError(
            f"{option}: expected https, got {endpoint!r}: over plain http everybody on the way reads the credentials; "
            "--insecure-http allows it"
        )
    return endpoint.rstrip("/")


def _pool_of(proxy: str | None, scheme: str) -> urllib3.PoolManager:
    """proxy: as the environment has it, `[http://][USER:PASSWORD@]HOST:PORT`. Raises ConfigError."""
    import urllib3

    if not proxy:
        return urllib3.PoolManager()
    url = proxy if "://" in proxy else f"http://{proxy}"
    headers = None
    try:
        parts = urlsplit(url)
        if parts.username is not None:
            # urllib3 leaves out what the URL says of it.
            password = Secret(unquote(parts.password or ""))
            headers = urllib3.make_headers(proxy_basic_auth=f"{unquote(parts.username)}:{password.reveal()}")
        return urllib3.ProxyManager(url, proxy_headers=headers)
    except (ValueError, urllib3.exceptions.HTTPError):
        raise ConfigError(
            f"{scheme.upper()}_PROXY: expected http://[USER:PASSWORD@]HOST:PORT or https://..., got "
            f"{_without_password(proxy)[:200]!r}"
        ) from None


def is_loopback(host: str) -> bool:
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return False


def _without_password(url: str) -> str:
    _, at, rest = url.rpartition("@")
    return f"***@{rest}" if at else url


def _check_headers(headers: Mapping[str, str]) -> None:
    """What else refuses them shows them."""
    for name, value in headers.items():
        if not value.isascii() or not value.isprintable():
            raise ConfigError(
                f"the header {name}: expected printable ASCII characters alone: there are others in the credentials"
            )


def _lower(headers: Mapping[str, str] | None) -> dict[str, str]:
    return {} if headers is None else {name.lower(): value for name, value in headers.items()}


def _read(response: urllib3.BaseHTTPResponse, what: str) -> bytes:
    chunks, size = [], 0
    for chunk in _stream(response):
        size += len(chunk)
        if size > MAX_ANSWER_BYTES:
            raise NotUnderstood(
                f"{what}: expected an answer of at most {MAX_ANSWER_BYTES} bytes", status=response.status
            )
        chunks.append(chunk)
    return b"".join(chunks)


def _stream(response: urllib3.BaseHTTPResponse) -> Iterator[bytes]:
    yield from response.stream(CHUNK_BYTES, decode_content=True)


def _unreachable(error: Exception, what: str, host: str) -> PublishError:
    """The innermost cause says most."""
    import urllib3

    reasons: list[BaseException] = []
    cause: BaseException | None = error
    while cause is not None and cause not in reasons:
        reasons.append(cause)
        inner = getattr(cause, "reason", None)
        cause = inner if isinstance(inner, BaseException) else cause.__cause__ or cause.__context__
    exceptions = urllib3.exceptions
    if any(isinstance(reason, (exceptions.IncompleteRead, exceptions.DecodeError)) for reason in reasons):
        return NotUnderstood(f"{what}: the answer was cut off or damaged", hint="try again")
    if any(isinstance(reason, exceptions.SSLError) for reason in reasons):
        return Unreachable(
            f"{what}: its TLS certificate is not good: {reasons[-1]}",
            hint="if a proxy or a private cloud has an authority of its own, name its file in SSL_CERT_FILE",
        )
    if any(isinstance(reason, exceptions.NameResolutionError) for reason in reasons):
        return Unreachable(f"{what}: no such host", hint=f"check --region and --endpoint: {host} has no address")
    refused = any(isinstance(reason, exceptions.NewConnectionError) for reason in reasons)
    if any(isinstance(reason, exceptions.ConnectTimeoutError) for reason in reasons) and not refused:
        return Unreachable(
            f"{what}: no connection within {CONNECT_TIMEOUT_S:g} s", hint="check the network and proxies"
        )
    if any(isinstance(reason, exceptions.TimeoutError) for reason in reasons) and not refused:
        return Unreachable(f"{what}: no answer in time", hint="try again; --json shows what is there already")
    last = reasons[-1]
    text = last.strerror if isinstance(last, OSError) and last.strerror else str(last)
    return Unreachable(f"{what}: {text}", hint="check the network, and --endpoint")


def _hint(status: int) -> str:
    if status == 401:
        return "the credentials are missing, wrong or expired"
    if status == 403:
        return "ask whoever manages the account for this right"
    return "try again later" if of_status(status).exit_code == 7 else ""
