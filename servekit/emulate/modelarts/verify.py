"""Is this request signed with the secret key? An own reading of the vendor's rules, apart from servekit's signer.

    Authorization: SDK-HMAC-SHA256 Access=KEY, SignedHeaders=a;b, Signature=HEX

What is signed: the method, the path with `/` at its end, the sorted query, the named headers, and the body's hash.
"""

from __future__ import annotations

import hashlib
import hmac
import re
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime
from urllib.parse import quote, unquote

ALGORITHM = "SDK-HMAC-SHA256"
DATE_FORMAT = "%Y%m%dT%H%M%SZ"
MAX_SKEW_S = 15 * 60
UNSIGNED = "UNSIGNED-PAYLOAD"
REQUIRED = ("host", "x-sdk-date")
AUTHORIZATION = re.compile(
    rf"{ALGORITHM} Access=(?P<access>[^,\s]+), ?SignedHeaders=(?P<names>[^,\s]+), ?Signature=(?P<signature>[0-9a-f]+)"
)
HIDDEN = ("x-security-token", "x-auth-token")


class NotSigned(Exception):
    """The message says why, as the platform's gateway words it."""


def check(
    method: str,
    raw_path: bytes,
    raw_query: bytes,
    headers: Sequence[tuple[bytes, bytes]],
    body: bytes,
    *,
    secret_of: Callable[[str], str | None],
    now: datetime,
) -> None:
    """raw_path, raw_query: as they came, quoted. secret_of: from an access key to its secret key.

    Raises NotSigned.
    """
    values = _values(headers)
    found = AUTHORIZATION.fullmatch(values.get("authorization", ""))
    if found is None:
        raise NotSigned(_form(values.get("authorization", "")))
    names = found["names"].split(";")
    _check_date(values.get("x-sdk-date", ""), now)
    missing = next((name for name in (*REQUIRED, *names) if name not in names or name not in values), None)
    if missing is not None or names != sorted(set(names)):
        raise NotSigned(f"verify aksk signature fail, SignedHeaders: {missing or 'not sorted'}")
    declared = values.get("x-sdk-content-sha256", "") if body else ""
    digest = hashlib.sha256(body).hexdigest()
    if declared not in ("", UNSIGNED) and not hmac.compare_digest(declared.lower().encode(), digest.encode()):
        raise NotSigned("verify aksk signature fail, x-sdk-content-sha256 is not the body's hash")
    secret = secret_of(found["access"])
    if secret is None:
        raise NotSigned(f"ak {found['access']} not exist")
    canonical = "\n".join(
        [
            method.upper(),
            _path(raw_path),
            _query(raw_query),
            *(f"{name}:{values[name]}" for name in names),
            "",
            ";".join(names),
            declared or digest,
        ]
    )
    to_sign = "\n".join([ALGORITHM, values["x-sdk-date"], hashlib.sha256(canonical.encode()).hexdigest()])
    expected = hmac.new(secret.encode(), to_sign.encode(), hashlib.sha256).hexdigest()
    if not hmac.compare_digest(expected, found["signature"]):
        raise NotSigned(f"verify aksk signature fail, canonicalRequest:{_shown(canonical)}")


def same(given: str, expected: str) -> bool:
    """In a time that does not tell how much of it is right."""
    return hmac.compare_digest(given.encode(), expected.encode())


def fingerprint(token: str) -> str:
    """Under which a token is remembered: who reads the state cannot use it."""
    return hashlib.sha256(token.encode("utf-8", "replace")).hexdigest()


def _values(headers: Sequence[tuple[bytes, bytes]]) -> Mapping[str, str]:
    values: dict[str, str] = {}
    for raw_name, raw in headers:
        name, value = raw_name.decode("latin-1").lower(), raw.decode("utf-8", "replace").strip()
        values[name] = f"{values[name]},{value}" if name in values else value
    return values


def _form(authorization: str) -> str:
    if not authorization:
        return "x-auth-token and authorization not found"
    if "Credential=" in authorization:
        return (
            f"authorization: a form with Credential=, such as older pages print, is not taken here; expected "
            f"{ALGORITHM} Access=..., SignedHeaders=..., Signature=..."
        )
    return f"authorization: expected {ALGORITHM} Access=..., SignedHeaders=..., Signature=..."


def _check_date(text: str, now: datetime) -> None:
    try:
        signed = datetime.strptime(text, DATE_FORMAT).replace(tzinfo=UTC)
    except ValueError as error:
        raise NotSigned(
            f"calc aksk signature fail: x-sdk-date: expected YYYYMMDDTHHMMSSZ, got {text[:40]!r}"
        ) from error
    if abs((now - signed).total_seconds()) > MAX_SKEW_S:
        raise NotSigned(
            f"calc aksk signature fail:signature expired, signature time:{text},server time:{now.strftime(DATE_FORMAT)}"
        )


def _path(raw: bytes) -> str:
    segments = unquote(raw.decode("latin-1")).split("/")
    path = "/".join(quote(segment, safe="~") for segment in segments)
    return path if path.endswith("/") else f"{path}/"


def _query(raw: bytes) -> str:
    pairs = [pair.partition("=") for pair in raw.decode("latin-1").split("&") if pair]
    decoded = sorted((unquote(name), unquote(value)) for name, _, value in pairs)
    return "&".join(f"{quote(name, safe='~')}={quote(value, safe='~')}" for name, value in decoded)


def _shown(canonical: str) -> str:
    """In one line, as the gateway shows it; without a token."""
    lines = [
        f"{line.partition(':')[0]}:***" if line.partition(":")[0] in HIDDEN else line for line in canonical.split("\n")
    ]
    return "|".join(lines)
