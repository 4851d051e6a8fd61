"""From the address of an image to an image that ModelArts can use: once, however often it is asked for."""

from __future__ import annotations

import shlex
from dataclasses import dataclass, replace

from servekit.publish import polling
from servekit.publish.failures import Failed, Missing, Refused
from servekit.publish.modelarts import errors, images
from servekit.publish.modelarts.client import ModelArts
from servekit.publish.modelarts.images import Image, Registration
from servekit.publish.report import Report

# Most registrations take a second.
EVERY_S = 0.25
# Its work within is not told.
PERCENTAGES = {"INIT": 20, "CREATING": 60, "ACTIVE": 100}


@dataclass(frozen=True, slots=True)
class Wish:
    """digest: of the image behind the tag, or "" where nobody knows it. replace: register it anew where it differs."""

    registration: Registration
    digest: str = ""
    replace: bool = False

    def check(self, *, ascend: bool = True) -> None:
        """Raises ConfigError that names the field."""
        self.registration.check(ascend=ascend)
        self.described()

    def described(self) -> Registration:
        if not self.digest:
            return self.registration
        return replace(
            self.registration, description=images.described(self.registration.description or "", self.digest)
        )


@dataclass(frozen=True, slots=True)
class Place:
    """The options that a command needs to come to the same place again, for the words that name it."""

    options: tuple[str, ...]

    def command(self, *words: str) -> str:
        return shlex.join(("servekit", *words, *self.options))


def publish(client: ModelArts, wish: Wish, report: Report, place: Place, *, wait_s: float) -> Image:
    """The image, active. Raises PublishError."""
    found = find(client, wish.registration)
    if found is not None:
        found = _continued(client, found, wish, report)
    if found is None:
        found = register(client, wish, report, place)
    if wait_s <= 0:
        return found
    return wait(client, found, report, place, wait_s=wait_s)


def find(client: ModelArts, registration: Registration) -> Image | None:
    """By its address: the platform's filters take its name and namespace."""
    parsed = images.check_path(registration.swr_path)
    candidates = client.images(
        name=parsed.name, namespace=parsed.namespace, workspace_id=registration.workspace_id or ""
    )
    found = [each for each in candidates if each.swr_path == registration.swr_path and each.state != images.DELETED]
    # Several would be the platform's fault; the newest is meant.
    return max(found, key=lambda each: each.create_at or 0, default=None)


def register(client: ModelArts, wish: Wish, report: Report, place: Place) -> Image:
    """Exactly once, although answers get lost."""
    registration = wish.described()
    path = registration.swr_path
    with report.making("image", path, look=place.command("images", "modelarts", "show", path)) as made:
        try:
            found = polling.once(
                lambda: client.register(registration), lambda: find(client, registration),
                tell=lambda text: report.say("register", text),
            )  # fmt: skip
        except Refused as error:
            there = find(client, registration) if errors.is_taken(error) else None
            if there is None:
                raise
            if _differ(there, wish):
                raise _other(there, wish, status=error.status) from error
            report.say("register", "it is registered already, by somebody who was faster")
            found = there
        made.name = f"{path} ({found.id})"
        made.undo = place.command("images", "modelarts", "delete", found.id)
    report.say("register", f"{path} is registered: {found.id}")
    return found


def _continued(client: ModelArts, found: Image, wish: Wish, report: Report) -> Image | None:
    """What is there, if it is the same; None once it has been removed to make room."""
    differs = _differ(found, wish)
    broken = found.state in images.FAILED
    if not differs and not broken:
        if wish.digest and not found.digest:
            report.say("register", "it was registered without a digest; it is taken for the same image")
        report.say("register", f"{found.swr_path} is registered already: {found.id}, {found.status or 'state unknown'}")
        return found
    if not wish.replace:
        if broken:
            raise _failed(found)
        raise _other(found, wish)
    report.say("register", f"the registration {found.id} is removed; SWR keeps the image")
    try:
        client.delete(found.id)
    except Missing:
        report.say("register", "it was gone already")
    return None


def _differ(found: Image, wish: Wish) -> bool:
    return bool(wish.digest and found.digest and found.digest != wish.digest)


def _other(found: Image, wish: Wish, status: int | None = None) -> Refused:
    return Refused(
        f"{found.swr_path} is registered ({found.id}) with another digest: {found.digest}; this is {wish.digest}",
        hint="push every build under a tag of its own; or --replace removes the registration and makes a new one "
        "(SWR keeps the image)",
        status=status,
    )


def wait(client: ModelArts, image: Image, report: Report, place: Place, *, wait_s: float) -> Image:
    show = place.command("images", "modelarts", "show", image.id)
    with report.bar("image", image.swr_path or image.id) as advance:

        def seen(state: Image) -> None:
            words = state.status or "state unknown"
            if state.status_message:
                words += f": {state.status_message}"
            advance(PERCENTAGES.get(state.state, 40), words)

        ended = polling.until(
            lambda: client.show(image.id),
            lambda state: not state.going,
            limit_s=wait_s,
            what=f"image {image.swr_path or image.id}",
            resume=f"the same command goes on waiting; {show} shows it",
            seen=seen,
            every_s=EVERY_S,
        )
    if ended.state != images.READY:
        raise _failed(ended)
    return ended


def _failed(image: Image) -> Failed:
    reason = image.status_message or "no reason given"
    return Failed(
        f"image {image.swr_path or image.id}: {image.status}: {reason}",
        hint="once its cause is removed, the same command with --replace registers it anew",
    )
