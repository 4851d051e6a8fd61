"""From an image to an active version of a model, in the order of the vendor's page; what is there already is kept.

A repeated publish looks first: the model by its name or identifier, the version by its number, the image by the digests
that a line of the version's release notes has, the tests by what the platform says of them. It goes on where the one
before ended, and refuses to put another image under a version that has one.
"""

from __future__ import annotations

import base64
import shlex
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

from servekit.publish.archive import Saved
from servekit.publish.failures import Busy, Failed, Missing, NotUnderstood, PublishError, Refused, Unreachable
from servekit.publish.modzy import digests, objects
from servekit.publish.modzy.client import Client
from servekit.publish.modzy.credentials import Registry
from servekit.publish.modzy.metadata import Metadata, chosen
from servekit.publish.modzy.upload import Form
from servekit.publish.polling import once, until
from servekit.publish.report import Report

State = TypeVar("State")

# Small images come soon; each look is later than the one before.
EVERY_S = 0.2
# A gateway gave up on the answer, the platform perhaps not on the test.
LOST = frozenset({502, 504})
TAR = "application/x-tar"
MEBIBYTE = 1024 * 1024
# A sample that is shown at the model's page; a longer one is only named.
MAX_SHOWN_BYTES = 32 * 1024
AGAIN = "the same command goes on from here; --wait-s lets it wait longer"
# What a result has, as the vendor's client passes it on.
RESULT_KEYS = (
    "status", "engine", "error", "startTime", "endTime", "updateTime", "inputSize", "elapsedTime", "results.json",
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Linked:
    """url: as the platform is told; text: as the user says it."""

    url: str
    text: str
    registry: Registry | None = None


@dataclass(frozen=True, slots=True)
class Plan:
    """identifier: of a model that is there, or ""; then name is needed. digests: none when nobody knows them.

    requirement: None: the smallest machine that is large enough. samples: files by the name of the input.
    where: the options that lead a command to the same platform.
    """

    name: str
    identifier: str
    version: str
    image: Linked | Saved
    digests: frozenset[str]
    metadata: Metadata
    run_timeout_s: float
    status_timeout_s: float
    requirement: int | None = None
    tags: tuple[str, ...] = ()
    samples: Mapping[str, Path] = field(default_factory=dict)
    load_test: bool = True
    run_test: bool = True
    activate: bool = True
    wait_s: float = 3600.0
    where: tuple[str, ...] = ()


def publish(client: Client, plan: Plan, report: Report) -> dict[str, Any]:
    """What became of it. Raises PublishError."""
    return _Publishing(client, plan, report, time.monotonic() + plan.wait_s).run()


def find(client: Client, name: str) -> objects.Model | None:
    """The model of this name. Raises Refused when there are several."""
    found = client.named(name)
    if len(found) > 1:
        identifiers = ", ".join(model.identifier for model in found[:10])
        raise Refused(f"there are {len(found)} models named {name!r}: {identifiers}", hint="choose one by --model-id")
    return found[0] if found else None


class _Publishing:
    def __init__(self, client: Client, plan: Plan, report: Report, end_s: float) -> None:
        self.client = client
        self.plan = plan
        self.report = report
        self.end_s = end_s
        self.identifier = plan.identifier
        self.name = plan.name
        self.document: dict[str, Any] = {}

    @property
    def show(self) -> str:
        which = ("--model-id", self.identifier) if self.identifier else ("--model-name", self.plan.name)
        words = ("servekit", "images", "modzy", "show", *which, "--version", self.plan.version, *self.plan.where)
        return shlex.join(words)

    def run(self) -> dict[str, Any]:
        created = self._model()
        before = self._version(created)
        give = self._is_to_be_given(before)
        self._describe(sent=not give)
        if give:
            self._give()
            self._describe(sent=True)
        image = self._arrive()
        if before.active and not give:
            self.report.say("version", f"{self.plan.version} is active already: not tested again")
            return self._outcome("active", image)
        if self.plan.load_test:
            self._load(objects.Steps() if give else before.load)
        result = self._test(objects.Steps() if give else before.run) if self.plan.run_test else objects.Steps()
        if give:
            self._check_ours()
        # The tests may have put in what the container says of itself.
        self._describe(sent=True)
        status = self._activate() if self.plan.activate else "not activated"
        return self._outcome(status, image, result)

    # --- the model and its version ---

    def _model(self) -> bool:
        """Was it made just now, with the version?"""
        plan = self.plan
        if self.identifier:
            try:
                model = self.client.model(self.identifier)
            except Missing as error:
                raise Missing(
                    f"there is no model {self.identifier}", status=error.status,
                    hint="check --model-id; without it a model is made, or found by --model-name",
                ) from error  # fmt: skip
            self.name = model.name or self.name
            self.report.say("model", f"{self.name} ({model.identifier})")
            return False
        found = find(self.client, plan.name)
        if found is not None:
            self.identifier = found.identifier
            self.report.say("model", f"{plan.name} ({found.identifier}) is there already")
            return False
        with self.report.making("model", plan.name, look=self.show) as made:
            model = once(
                lambda: self.client.create_model(plan.name, plan.version), lambda: find(self.client, plan.name),
                tell=self._tell,
            )  # fmt: skip
            made.name = f"{plan.name} ({model.identifier})"
        self.identifier = model.identifier
        self.report.say("model", f"{plan.name} ({model.identifier}) made")
        return True

    def _version(self, created: bool) -> objects.Version:
        version = self.plan.version
        found = self.client.version(self.identifier, version)
        if found is not None:
            if not created:
                self.report.say("version", f"{version} is there already, {found.status or 'status not told'}")
            return found
        with self.report.making("version", f"{self.identifier} {version}", look=self.show):
            made = once(
                lambda: self._created_version(version), lambda: self.client.version(self.identifier, version),
                tell=self._tell,
            )  # fmt: skip
        self.report.say("version", f"{version} made")
        return made

    def _created_version(self, version: str) -> objects.Version:
        try:
            self.client.create_version(self.identifier, version)
        except Refused:
            # Somebody may have made it a moment ago.
            found = self.client.version(self.identifier, version)
            if found is None:
                raise
            return found
        return objects.Version(version)

    def _is_to_be_given(self, version: objects.Version) -> bool:
        """Does the platform still need the image? Raises Refused when it has another."""
        image = version.container_image
        if image.absent:
            # The version may leave out what its own route tells.
            linked = self._linked()
            if linked is None:
                return True
            image = linked
        if image.failed:
            return True  # that one it does not have
        note = digests.noted(version.history)
        if note is None or not note.digests & self.plan.digests:
            self._refuse(note)
        assert note is not None  # noqa: S101 - else it is refused
        if image.there:
            return False
        # A link is one request; an upload that was not told to be complete may have ended anywhere.
        return not note.sent and isinstance(self.plan.image, Saved)

    def _check_ours(self) -> None:
        """Raises Refused when somebody has published another image under this version meanwhile: nothing is locked."""
        found = self.client.version(self.identifier, self.plan.version)
        note = None if found is None else digests.noted(found.history)
        if note is not None and not note.digests & self.plan.digests:
            self._refuse(note)

    def _refuse(self, note: digests.Note | None) -> None:
        version = self.plan.version
        if not self.plan.digests:
            raise Refused(
                f"version {version} has an image already, and nobody here knows the digest of this one",
                hint="name it by --digest sha256:..., or publish under another --version",
            )
        has = "an image already, of which the release notes name no digest"
        if note is not None:
            has = f"another image already ({', '.join(sorted(note.digests))})"
        raise Refused(
            f"version {version} has {has}; this is {', '.join(sorted(self.plan.digests))}",
            hint="an image under a version stays: raise the version (model.yaml, pyproject.toml or --version)",
        )

    def _describe(self, *, sent: bool) -> None:
        """The model's texts, and the version's metadata as a whole: PATCH overwrites."""
        plan, metadata = self.plan, self.plan.metadata
        if "requirement" not in self.document:
            tags = plan.tags or metadata.tags
            model = {"description": metadata.summary} if metadata.summary else {}
            whole: dict[str, Any] = model | ({"tags": list(tags)} if tags else {})
            if whole:
                self.client.change_model(self.identifier, whole)
            identifier = plan.requirement
            if identifier is None:
                identifier = chosen(metadata, self.client.requirements())
            self.report.say("machine", f"requirement {identifier}")
            self.document = {
                **metadata.document,
                "requirement": {"requirementId": identifier},
                "timeout": {"run": _milliseconds(plan.run_timeout_s), "status": _milliseconds(plan.status_timeout_s)},
            }
        history = digests.with_note(metadata.release_notes, plan.digests, sent=sent)
        self.client.change_version(self.identifier, plan.version, {**self.document, "versionHistory": history})

    # --- the image ---

    def _give(self) -> None:
        image = self.plan.image
        what = f"{self.identifier} {self.plan.version}"
        with self.report.making("container image", what, look=self.show):
            if isinstance(image, Saved):
                self._upload(image)
                return
            self.report.say("image", f"linking {image.url}")
            linked = image
            once(
                lambda: self.client.link(self.identifier, self.plan.version, linked.url, linked.registry),
                self._linked,
                tell=self._tell,
            )

    def _linked(self) -> objects.ContainerImage | None:
        try:
            found = self.client.container_image(self.identifier, self.plan.version)
        except Missing:
            return None
        return None if found.absent else found

    def _upload(self, saved: Saved) -> None:
        form = Form(saved.path, saved.nbytes, TAR)
        size = f"of {saved.nbytes / MEBIBYTE:.1f} MiB"
        drawn = self.report.bars and not self.report.as_json
        sent_bytes = 0
        with self.report.bar("upload", f"{saved.path.name}, {saved.nbytes / MEBIBYTE:.1f} MiB") as advance:

            def sent(nbytes: int) -> None:
                nonlocal sent_bytes
                sent_bytes = nbytes
                # In a log, words that change are a line each.
                words = f"{nbytes / MEBIBYTE:.1f} {size}" if drawn else size
                advance(100 * nbytes / max(saved.nbytes, 1), words)

            try:
                self.client.upload(self.identifier, self.plan.version, form, sent)
                return
            except (Busy, Unreachable, NotUnderstood) as error:
                lost = error
        if sent_bytes == saved.nbytes and lost.status is None and self._linked() is not None:
            self._tell("the answer got lost, but the image is there")
            return
        lost.hint = "the same command sends it again"
        raise lost

    def _arrive(self) -> objects.ContainerImage:
        """Wait until the platform has the image."""

        def look() -> objects.ContainerImage:
            image = self.client.container_image(self.identifier, self.plan.version)
            if image.others and not image.understood:
                raise NotUnderstood(
                    "the container image has neither a percentage nor an uploadStatus, but "
                    f"{', '.join(sorted(image.document()))}"
                )
            return image

        with self.report.bar("image", "the platform takes it in") as advance:
            image = self._until(
                look, lambda image: image.there or image.failed, "the container image",
                lambda image: advance(image.done or 0, image.upload_status or ""),
            )  # fmt: skip
        if image.failed:
            raise Failed(
                f"the platform could not take the image: {image.upload_status or 'no reason given'}",
                hint="check the reference and --registry-credentials-file; the same command tries again",
                details=image.technical_information,
            )
        return image

    # --- the tests ---

    def _load(self, before: objects.Steps) -> None:
        """/status of the container, called by the platform."""
        if before.passed:
            self.report.say("load", "passed before")
            return
        lost: PublishError | None = None
        with self.report.bar("load", "the platform asks for /status") as advance:
            try:
                answered = self.client.load(self.identifier, self.plan.version, self.plan.status_timeout_s)
            except (Busy, Unreachable) as error:
                if error.status not in {None, *LOST} or error.details:
                    raise _failed("the load test", error) from error
                lost, answered = error, objects.Steps()
            except PublishError as error:
                raise _failed("the load test", error) from error
            found = answered if answered.failed else self._loaded(advance, lost)
        if found.failed:
            raise Failed(
                f"the load test failed: {found.words or 'no step told'}",
                hint="run the image with `docker run` and look at its log and GET /status; then raise the version",
                details=found.technical_information,
            )
        self.report.say("load", "passed")

    def _loaded(self, advance: Callable[[float, str], None], lost: PublishError | None) -> objects.Steps:
        def look() -> objects.Steps:
            version = self.client.version(self.identifier, self.plan.version)
            found = version.load if version is not None else objects.Steps()
            if found == objects.Steps():
                image = self.client.container_image(self.identifier, self.plan.version)
                found = objects.Steps(
                    name=image.load_status or "", percentage=image.load_percentage,
                    technical_information=image.technical_information,
                )  # fmt: skip
            if not found.failed and found.percentage is None:
                if lost is not None:
                    raise lost
                # It was answered, and there is nothing more to wait for.
                return objects.Steps(step=found.step, name=found.name, percentage=objects.DONE)
            return found

        return self._until(
            look, lambda found: found.ended, "the load test", lambda found: advance(found.percentage or 0, found.words)
        )

    def _test(self, before: objects.Steps) -> objects.Steps:
        """/run of the container with the samples, called by the platform."""
        if before.passed:
            self.report.say("run", "passed before")
            return before
        identifier, version = self.identifier, self.plan.version
        for name, path in self.plan.samples.items():
            form = Form(path, path.stat().st_size, self._media_type(name))
            self.client.put_input(identifier, version, name, form)
        with self.report.bar("run", "the platform runs the sample") as advance:
            try:
                answered = self.client.run(identifier, version, self.plan.status_timeout_s + self.plan.run_timeout_s)
            except PublishError as error:
                raise _failed("the run test", error) from error
            found = answered
            if not answered.failed:
                found = self._until(
                    lambda: self.client.run_state(identifier, version), lambda found: found.ended, "the run test",
                    lambda found: advance(found.percentage or 0, found.words),
                )  # fmt: skip
        if found.failed:
            said = found.result.get("error") or found.status or found.name or "no reason given"
            raise Failed(
                f"the run test failed at {found.words or 'a step that is not told'}: {said}",
                hint="try the sample on this machine with `servekit run --platform modzy`; then raise the version",
                details=found.technical_information,
            )
        self.report.say("run", f"passed{f': {found.status}' if found.status else ''}")
        self.client.put_sample(identifier, version, "input", self._sample_input())
        self.client.put_sample(identifier, version, "output", self._sample_output(found))
        return found

    def _media_type(self, name: str) -> str:
        accepted = self.plan.metadata.media_types.get(name, "").split(",")[0].strip()
        return accepted if accepted and "*" not in accepted else "application/octet-stream"

    def _sample_input(self) -> dict[str, Any]:
        """A job as it would be sent; what is too long to be read is only named."""
        shown: dict[str, str] = {}
        for name, path in self.plan.samples.items():
            if path.stat().st_size > MAX_SHOWN_BYTES:
                shown[name] = f"data:{self._media_type(name)};base64,<{path.name}>"
            else:
                content = base64.b64encode(path.read_bytes()).decode()
                shown[name] = f"data:{self._media_type(name)};base64,{content}"
        model = {"identifier": self.identifier, "version": self.plan.version}
        return {"model": model, "input": {"type": "embedded", "sources": {"0001": shown}}}

    def _sample_output(self, found: objects.Steps) -> dict[str, Any]:
        result = {key: found.result.get(key) for key in RESULT_KEYS} | dict(found.result)
        return {"jobIdentifier": "<uuid>", "total": 1, "completed": 1, "failed": 0, "finished": True,
                "results": {"0001": result}}  # fmt: skip

    # --- the end ---

    def _activate(self) -> str:
        self.client.change_version(self.identifier, self.plan.version, {"status": "active"})

        def look() -> str:
            version = self.client.version(self.identifier, self.plan.version)
            # One that does not say was told, and did not refuse.
            return "active" if version is None or version.active or not version.status else version.status

        status = self._until(
            look, lambda status: status == "active" or objects.is_failing(status), "the activation", lambda _: None
        )
        if status != "active":
            raise Failed(f"the version was not activated: the platform says {status}", hint=AGAIN)
        self.report.say("version", f"{self.plan.version} is active")
        return status

    def _outcome(
        self, status: str, image: objects.ContainerImage, result: objects.Steps | None = None
    ) -> dict[str, Any]:
        return {
            "model_id": self.identifier,
            "model_name": self.name,
            "version": self.plan.version,
            "status": status,
            "digests": sorted(self.plan.digests),
            "container_image": image.document(),
            "result": dict(result.result) if result is not None else {},
        }

    def _until(
        self, look: Callable[[], State], ended: Callable[[State], bool], what: str, seen: Callable[[State], None]
    ) -> State:
        return until(
            look, ended, limit_s=max(0.0, self.end_s - time.monotonic()), what=f"{what} of {self.plan.version}",
            resume=AGAIN, seen=seen, every_s=EVERY_S,
        )  # fmt: skip

    def _tell(self, text: str) -> None:
        self.report.say("again", text)


def _milliseconds(seconds: float) -> int:
    return max(1, round(seconds * 1000))


def _failed(what: str, error: PublishError) -> PublishError:
    """A refusal with troubleshooting details is a test that failed, whatever its code."""
    if not error.details:
        return error
    return Failed(
        f"{what} failed: {error.message}", hint="see what the platform says below; then raise the version",
        status=error.status, code=error.code, request_id=error.request_id, details=error.details,
    )  # fmt: skip
