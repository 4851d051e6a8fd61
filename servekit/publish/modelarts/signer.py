"""SDK-HMAC-SHA256: how a request to Huawei Cloud proves that its sender has the secret key.

The vendor's own signer is in a package that pins a database driver, so this is ours; it is held equal to the vendor's
by tests on random requests (docs/adr/0013-control-planes.md).
"""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from urllib.parse import quote

from servekit.publish.http import Query, Request
from servekit.publish.secrets import Secret

ALGORITHM = "SDK-HMAC-SHA256"
DATE_FORM = "%Y%m%dT%H%M%SZ"
# The header says so instead of the hash for bodies that are neither of these.
HASHED_TYPES = ("application/json", "application/bson")
UNSIGNED = "UNSIGNED-PAYLOAD"
CONTENT_HASH = "x-sdk-content-sha256"


@dataclass(frozen=True, slots=True)
class KeyPair:
    """security_token: with temporary keys only."""

    access_key: str
    secret_key: Secret
    security_token: Secret | None = None


def now() -> datetime:
    return datetime.now(UTC)


@dataclass(frozen=True, slots=True)
class Signer:
    """What a Transport calls before each request: from the request to the headers that prove it."""

    keys: KeyPair
    project_id: str = ""
    clock: Callable[[], datetime] = now

    def __call__(self, request: Request) -> dict[str, str]:
        headers = {"host": request.host, "x-sdk-date": self.clock().strftime(DATE_FORM)}
        if self.project_id:
            headers["x-project-id"] = self.project_id
        if self.keys.security_token:
            headers["x-security-token"] = self.keys.security_token.reveal()
        signed = dict(headers)
        content_type = request.headers.get("content-type")
        if content_type is not None:
            signed["content-type"] = content_type
            if not content_type.startswith(HASHED_TYPES):
                headers[CONTENT_HASH] = signed[CONTENT_HASH] = UNSIGNED
        return headers | {"authorization": authorisation(self.keys, request, signed)}


def authorisation(keys: KeyPair, request: Request, headers: Mapping[str, str]) -> str:
    """The header's value; `headers` are those that are signed, with x-sdk-date among them."""
    canonical = canonical_request(request.method, request.path, request.query, headers, request.body)
    date = next(value for name, value in headers.items() if name.lower() == "x-sdk-date")
    return (
        f"{ALGORITHM} Access={keys.access_key}, SignedHeaders={';'.join(_signed(headers))}, "
        f"Signature={signature(keys.secret_key, date, canonical)}"
    )


def signature(secret_key: Secret, date: str, canonical: str) -> str:
    """One HMAC with the key as it is: nothing is derived from it, unlike in AWS' way."""
    text = f"{ALGORITHM}\n{date}\n{hashlib.sha256(canonical.encode()).hexdigest()}"
    return hmac.new(secret_key.reveal().encode(), text.encode(), hashlib.sha256).hexdigest()


def canonical_request(method: str, path: str, query: Query, headers: Mapping[str, str], body: bytes) -> str:
    """path and query are not quoted."""
    lower = {name.lower(): str(value).strip() for name, value in headers.items()}
    names = _signed(headers)
    return "\n".join(
        (
            method.upper(),
            _path(path),
            "&".join(f"{_quoted(name)}={_quoted(value)}" for name, value in sorted(query)),
            *(f"{name}:{lower[name]}" for name in names),
            "",
            ";".join(names),
            _body_hash(lower, body),
        )
    )


def _path(path: str) -> str:
    """Each part quoted by itself, and a slash at the end whether the request has one or not."""
    quoted = "/".join(map(_quoted, path.split("/")))
    return quoted if quoted.endswith("/") else f"{quoted}/"


def _signed(headers: Mapping[str, str]) -> list[str]:
    # Servers drop headers with an underscore, so they are not signed.
    return sorted(name.lower() for name in headers if "_" not in name)


def _body_hash(headers: Mapping[str, str], body: bytes) -> str:
    if body and CONTENT_HASH in headers:
        return headers[CONTENT_HASH]
    return hashlib.sha256(body).hexdigest()


def _quoted(text: str) -> str:
    return quote(text, safe="~")
