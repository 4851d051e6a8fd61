"""model.tar.gz and the sample in S3, at places that their content gives them: the same file is sent once."""

from __future__ import annotations

import gzip
import hashlib
import io
import tarfile
import threading
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

from servekit.errors import ConfigError
from servekit.publish.failures import Forbidden, Missing, PublishError, Refused
from servekit.publish.report import Report
from servekit.publish.sagemaker import fields
from servekit.publish.sagemaker.aws import Account, explained

GZIP = b"\x1f\x8b"
CHUNK_BYTES = 1024 * 1024
MEBIBYTE = 1024 * 1024
# boto3's own, until a file would have more parts than S3 takes.
PART_BYTES, MAX_PARTS = 8 * MEBIBYTE, 9_000
THREADS = 4
DIGEST_CHARS = 16
DIGEST_NAME = "sha256"
MAX_OBJECT_BYTES = 5 * 1024**4
# Batch transform: MaxPayloadInMB.
MAX_SAMPLE_BYTES = 100 * MEBIBYTE


@dataclass(frozen=True, slots=True)
class Bucket:
    """owner: the account that it must belong to, "" for any."""

    name: str
    region: str
    owner: str = ""

    def asked(self) -> dict[str, Any]:
        return {"Bucket": self.name, **({"ExpectedBucketOwner": self.owner} if self.owner else {})}


@dataclass(frozen=True, slots=True)
class File:
    """content: in place of what the file itself holds."""

    path: Path
    sha256: str
    size: int
    content: bytes | None = None

    def open(self) -> IO[bytes]:
        return self.path.open("rb") if self.content is None else io.BytesIO(self.content)


def archive(option: str, name: str) -> File:
    """A model.tar.gz of this machine. Raises ConfigError."""
    path = Path(name)
    if not path.name.endswith((".tar.gz", ".tgz")):
        raise ConfigError(f"{option} {name!r}: expected a .tar.gz: `servekit build --artifact model.tar.gz` makes one")
    found = _file(option, path, MAX_OBJECT_BYTES)
    try:
        with path.open("rb") as file:
            start = file.read(len(GZIP))
    except OSError as error:
        raise ConfigError(f"{option} {name!r}: {error.strerror}") from error
    if start != GZIP:
        raise ConfigError(f"{option} {name!r}: expected gzip, got a file that begins with {start!r}")
    return found


def sample(option: str, name: str) -> File:
    return _file(option, Path(name), MAX_SAMPLE_BYTES)


def packed(file: File) -> File:
    """As SamplePayloadUrl wants it: one .tar.gz. Same file, same bytes."""
    if file.path.name.endswith((".tar.gz", ".tgz")):
        return file
    raw = io.BytesIO()
    with (
        gzip.GzipFile(filename="", mode="wb", fileobj=raw, mtime=0) as zipped,
        tarfile.open(fileobj=zipped, mode="w", format=tarfile.PAX_FORMAT) as tar,
        file.open() as opened,
    ):
        member = tarfile.TarInfo(file.path.name)
        member.size = file.size
        member.mode = 0o644
        tar.addfile(member, opened)
    content = raw.getvalue()
    return File(file.path, hashlib.sha256(content).hexdigest(), len(content), content)


def _file(option: str, path: Path, limit: int) -> File:
    try:
        if not path.is_file():
            raise ConfigError(f"{option} {str(path)!r}: no such file")
        size = path.stat().st_size
        if not 0 < size <= limit:
            raise ConfigError(f"{option} {str(path)!r}: expected 1 to {limit} bytes, got {size}")
        with path.open("rb") as file:
            return File(path, hashlib.file_digest(file, "sha256").hexdigest(), size)
    except OSError as error:
        raise ConfigError(f"{option} {str(path)!r}: {error.strerror}") from error


def default_bucket(account: Account) -> str:
    """As SageMaker's own SDK names it."""
    return f"sagemaker-{account.region}-{account.id}"


def bucket(account: Account, name: str, *, own: bool) -> Bucket:
    """own: it has a name that anybody could have taken before. Raises Missing, Forbidden, Refused."""
    found = Bucket(name, "", account.id if own else "")
    try:
        with explained(f"bucket {name}"):
            answer = account.s3.head_bucket(**found.asked())
            region = answer.get("BucketRegion") or (
                account.s3.get_bucket_location(**found.asked()).get("LocationConstraint") or "us-east-1"
            )
    except Missing as error:
        error.hint = f"name one that is there by --bucket, or make it: aws s3 mb s3://{name} --region {account.region}"
        raise
    except Forbidden as error:
        error.hint = "is it another account's? name one of your own by --bucket"
        raise
    return Bucket(name, "eu-west-1" if region == "EU" else region, found.owner)


def check_region(found: Bucket, region: str) -> None:
    if found.region != region:
        raise Refused(
            f"bucket {found.name} is in {found.region}: expected one in {region}, where the model package is to be",
            hint="name another one by --bucket, or another --region",
        )


def warn_of_the_public(account: Account, found: Bucket, report: Report) -> None:
    """Nothing keeps this bucket from being opened to everybody: said, not refused."""
    try:
        with explained(f"bucket {found.name}"):
            block = account.s3.get_public_access_block(**found.asked())["PublicAccessBlockConfiguration"]
    except PublishError as error:
        if error.code != "NoSuchPublicAccessBlockConfiguration":
            return  # nobody may ask, or nobody can tell
        block = {}
    if not (block and all(block.values())):
        report.say("warning", f"bucket {found.name} does not block public access: who can list it can take the model")


def upload(account: Account, place: Bucket, file: File, prefix: str, name: str, report: Report) -> str:
    """The object's URL."""
    key = "/".join(part for part in (prefix, file.sha256[:DIGEST_CHARS], name) if part)
    url = f"s3://{place.name}/{key}"
    if len(url) > fields.MAX_URL_CHARS:
        raise ConfigError(f"--prefix: expected an URL of at most {fields.MAX_URL_CHARS} characters, got {len(url)}")
    if _is_there(account, place, key, file):
        report.say("upload", f"{url} is there already")
        return url
    with (
        report.making("object", url, look=f"aws s3 ls {url}") as made,
        report.bar("upload", f"{url}, {_size(file.size)}") as advance,
    ):
        _send(account, place, key, file, advance)
        if not _is_there(account, place, key, file):
            raise Refused(f"{url}: it is not what was sent: did {file.path} change meanwhile?", hint="try again")
        advance(100, "sent")
        made.undo = f"aws s3 rm {url}"
    return url


def _send(account: Account, place: Bucket, key: str, file: File, advance: Any) -> None:
    from boto3.s3.transfer import TransferConfig

    part = max(PART_BYTES, -(-file.size // MAX_PARTS))
    config = TransferConfig(multipart_threshold=part, multipart_chunksize=part, max_concurrency=THREADS)
    sent, lock = 0, threading.Lock()

    def count(nbytes: int) -> None:
        nonlocal sent
        # In the threads that send; a part that is sent again is taken back first.
        with lock:
            sent = max(0, sent + nbytes)
            # The same words each time: a log gets a line when they change.
            advance(min(99.0, 100.0 * sent / file.size), f"of {_size(file.size)}")

    more: dict[str, Any] = {"Metadata": {DIGEST_NAME: file.sha256}}
    if place.owner:
        more["ExpectedBucketOwner"] = place.owner
    try:
        with explained(f"s3://{place.name}/{key}"), file.open() as opened:
            account.s3.upload_fileobj(opened, place.name, key, ExtraArgs=more, Callback=count, Config=config)
    except OSError as error:
        raise ConfigError(f"{str(file.path)!r}: {error.strerror or error}") from error


def _is_there(account: Account, place: Bucket, key: str, file: File) -> bool:
    try:
        with explained(f"s3://{place.name}/{key}"):
            answer = account.s3.head_object(Key=key, **place.asked())
    except Missing:
        return False
    return answer["ContentLength"] == file.size and answer.get("Metadata", {}).get(DIGEST_NAME) == file.sha256


def _size(nbytes: int) -> str:
    return f"{nbytes} bytes" if nbytes < MEBIBYTE else f"{nbytes / MEBIBYTE:.1f} MiB"
