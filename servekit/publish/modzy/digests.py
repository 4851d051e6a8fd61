"""Is it the same image? By its digests: the image's id, and those that registries gave to its manifest.

The platform keeps none of them. A line of the version's release notes does, so that a repeated publish knows what it
has sent before.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass

from servekit.publish.engine import local_image
from servekit.publish.reference import DIGEST, Reference

MAX_DIGESTS = 8
# Being sent: nobody knows yet whether the platform has it.
MARK = "servekit image"
SENDING = ", being sent"
NOTE = re.compile(rf"^{MARK}(?P<digests>(?: sha256:[0-9a-f]{{64}})+)(?P<sending>{SENDING})?$", re.MULTILINE)


@dataclass(frozen=True, slots=True)
class Note:
    """What the release notes say of the image. sent: the platform has said that it took it."""

    digests: frozenset[str]
    sent: bool


def noted(history: str) -> Note | None:
    found = None
    for found in NOTE.finditer(history.replace("\r", "")):  # noqa: B007 - the last one is ours
        pass
    if found is None:
        return None
    return Note(frozenset(found["digests"].split()), sent=found["sending"] is None)


def with_note(release_notes: str, digests: Iterable[str], *, sent: bool) -> str:
    """The release notes with the line about the image as their last."""
    text = NOTE.sub("", release_notes).rstrip()
    known = sorted(digests)[:MAX_DIGESTS]
    if not known:
        return text
    note = f"{MARK} {' '.join(known)}{'' if sent else SENDING}"
    return f"{text}\n\n{note}" if text else note


def local(reference: Reference) -> tuple[frozenset[str], str]:
    """The digests of an image that an engine of this machine has, and its architecture; none where none has it."""
    image = local_image(str(reference))
    if image is None:
        return frozenset(), ""
    # Of the same image, another repository may hold another manifest, which says nothing about this one.
    pairs = [text.rpartition("@") for text in image.repo_digests]
    here = [digest for repository, _, digest in pairs if repository.endswith(reference.repository)]
    return frozenset(digest for digest in (image.id, *here) if DIGEST.fullmatch(digest)), image.architecture
