"""The image in Elastic Container Registry: there already, or pushed there by an engine of this machine."""

from __future__ import annotations

import base64
import json
import re
from dataclasses import dataclass
from typing import Any

from servekit.errors import ConfigError
from servekit.publish import engine
from servekit.publish.engine import LocalImage
from servekit.publish.failures import Missing, NotUnderstood, Refused
from servekit.publish.reference import Reference, parse
from servekit.publish.report import Report
from servekit.publish.sagemaker import fields
from servekit.publish.sagemaker.aws import Account, explained, is_there, said
from servekit.publish.secrets import Secret

HOST = re.compile(
    r"(?P<account>\d{12})\.dkr[.-]ecr(?:-fips)?\.(?P<region>[a-z0-9-]+)\.(?:amazonaws\.com(?:\.cn|\.eu)?|on\.aws|on\.amazonwebservices\.com\.cn)"
)
SINGLE = frozenset(
    ["application/vnd.docker.distribution.manifest.v2+json", "application/vnd.oci.image.manifest.v1+json"]
)
MEBIBYTE = 1024 * 1024


@dataclass(frozen=True, slots=True)
class Wanted:
    """
    source: as the engine knows it. account, region: of the registry; "" for the caller's own.
    tag, digest: one of them is there.
    """

    source: str
    repository: str
    tag: str
    digest: str = ""
    account: str = ""
    region: str = ""

    def asked(self) -> dict[str, str]:
        return {"imageDigest": self.digest} if self.digest else {"imageTag": self.tag}

    def __str__(self) -> str:
        return f"{self.repository}@{self.digest}" if self.digest else f"{self.repository}:{self.tag}"


@dataclass(frozen=True, slots=True)
class Image:
    """In the registry. uri: with the digest, so that it stays this one. size_bytes: packed; 0 where it is not said."""

    uri: str
    digest: str
    size_bytes: int = 0
    media_type: str = ""


def wanted(image: str, repository: str | None) -> Wanted:
    """From IMAGE and --repository to a place in a registry."""
    reference = parse(image)
    found = HOST.fullmatch(reference.registry)
    if found is None and reference.digest:
        raise ConfigError(f"IMAGE {image!r}: expected a tag: what is pushed gets its digest from the registry")
    if found is not None and repository is not None and repository != reference.repository:
        raise ConfigError(
            f"--repository {repository!r}: expected {reference.repository!r}, as IMAGE has it, or nothing"
        )
    place = fields.repository("--repository", repository or reference.repository)
    tag = reference.tag or ("" if reference.digest else "latest")
    account, region = (found["account"], found["region"]) if found is not None else ("", "")
    return Wanted(image, place, tag, reference.digest, account, region)


def hand_over(
    account: Account, place: Wanted, local: LocalImage | None, *, push: bool, create: bool, report: Report
) -> Image:
    """Raises Missing with the commands to type where nothing here can push, and what AWS and the engine say."""
    uri = repository(account, place, create=create and push, report=report)
    found = look(account, place, uri)
    if not push or local is None:
        if found is None:
            raise _nothing_to_push(place, uri, push=push)
        report.say("image", f"{found.uri} is in ECR already")
        return _single(found)
    if found is not None and _same(account, place, found, local):
        report.say("image", f"{found.uri} is in ECR already, the same as {place.source} here")
        return _single(found)
    if place.digest:
        raise Missing(
            f"IMAGE: {uri} has no {place.digest}",
            hint="name it by a tag to push it: its digest comes from the registry",
        )
    if found is not None:
        _check_mutable(account, place, uri, found)
        report.say("image", f"{uri}:{place.tag} is another image now ({found.digest}); the tag moves")
    with report.making(
        "image", f"{uri}:{place.tag}", look=f"aws ecr describe-images --repository-name {place.repository}"
    ):
        digest = _push(account, place, uri, report)
        confirmed = look(account, Wanted(place.source, place.repository, "", digest, place.account), uri)
        if confirmed is None:
            raise NotUnderstood(
                f"{uri} has no {digest}, which was just pushed", hint="is the repository in this account and region?"
            )
    report.say("image", confirmed.uri)
    return _single(confirmed)


def repository(account: Account, place: Wanted, *, create: bool, report: Report) -> str:
    """Its URI, without a tag."""
    what = f"repository {place.repository}"
    asked: dict[str, Any] = {"repositoryNames": [place.repository]}
    if place.account:
        asked["registryId"] = place.account
    try:
        with explained(f"{what} in ECR"):
            found = account.ecr.describe_repositories(**asked)["repositories"][0]
    except Missing as error:
        if not create or place.account not in ("", account.id):
            error.hint = f"--create-repository makes it, or name another one by --repository; this is {account.region}"
            raise
    else:
        return said(found, "repositoryUri", what)
    look_at = f"aws ecr describe-repositories --repository-names {place.repository} --region {account.region}"
    with report.making("repository", place.repository, look=look_at) as made:
        try:
            with explained(f"{what} in ECR"):
                answer = account.ecr.create_repository(
                    repositoryName=place.repository, imageScanningConfiguration={"scanOnPush": True}
                )
        except Refused as error:
            if not (is_there(error) or error.code == "RepositoryAlreadyExistsException"):
                raise
            return repository(account, place, create=False, report=report)
        made.undo = f"aws ecr delete-repository --repository-name {place.repository} --region {account.region}"
    return said(answer["repository"], "repositoryUri", what)


def look(account: Account, place: Wanted, uri: str) -> Image | None:
    asked: dict[str, Any] = {"repositoryName": place.repository, "imageIds": [place.asked()]}
    if place.account:
        asked["registryId"] = place.account
    try:
        with explained(f"image {place} in ECR"):
            details = account.ecr.describe_images(**asked)["imageDetails"]
    except Missing as error:
        if error.code == "ImageNotFoundException":
            return None
        raise
    if not details:
        return None
    detail = details[0]
    digest = said(detail, "imageDigest", f"image {place} in ECR")
    return Image(
        f"{uri}@{digest}", digest, int(detail.get("imageSizeInBytes") or 0), detail.get("imageManifestMediaType") or ""
    )


def resolved(account: Account, image: str) -> str:
    """An image of ECR as `deploy` has it: with its digest, so that a tag that moved makes another model."""
    place = wanted(image, None)
    if not place.region:
        raise ConfigError(
            f"IMAGE {image!r}: expected an image in ECR such as 123456789012.dkr.ecr.{account.region}.amazonaws.com/"
            "digits:1.0, or the ARN of a model package: `servekit publish sagemaker` makes both"
        )
    if place.region != account.region:
        raise ConfigError(f"IMAGE {image!r}: expected one in {account.region}, where the endpoint is to be")
    if place.digest:
        return image
    reference = parse(image)
    uri = f"{reference.registry}/{reference.repository}"
    found = look(account, place, uri)
    if found is None:
        raise Missing(f"IMAGE: {uri} has no tag {place.tag}", hint="`servekit publish sagemaker` pushes it")
    return _single(found).uri


# --- pushing ---


def _push(account: Account, place: Wanted, uri: str, report: Report) -> str:
    asked: dict[str, Any] = {"registryIds": [place.account]} if place.account else {}
    with explained("the login of ECR"):
        data = account.ecr.get_authorization_token(**asked)["authorizationData"]
    token = said(data[0] if data else {}, "authorizationToken", "the login of ECR")
    Secret(token)
    try:
        user, colon, password = base64.b64decode(token, validate=True).decode().partition(":")
    except ValueError:
        colon = user = password = ""
    if not colon:
        raise NotUnderstood("the login of ECR: expected USER:PASSWORD in base64")
    return engine.push(place.source, _destination(uri, place.tag), user, Secret(password), report)


def _destination(uri: str, tag: str) -> Reference:
    return parse(f"{uri}:{tag}", option="the repository's URI")


def _same(account: Account, place: Wanted, found: Image, local: LocalImage) -> bool:
    """By the digest of its configuration, which a push does not change."""
    if local.id == found.digest:
        return True
    asked: dict[str, Any] = {"registryId": place.account} if place.account else {}
    with explained(f"image {place} in ECR"):
        images = account.ecr.batch_get_image(
            repositoryName=place.repository, imageIds=[{"imageDigest": found.digest}],
            acceptedMediaTypes=sorted(SINGLE), **asked,
        )["images"]  # fmt: skip
    try:
        manifest = json.loads(images[0].get("imageManifest", "")) if images else {}
    except (ValueError, RecursionError):
        return False
    config = manifest.get("config") if isinstance(manifest, dict) else None
    return isinstance(config, dict) and config.get("digest") == local.id


def _check_mutable(account: Account, place: Wanted, uri: str, found: Image) -> None:
    asked: dict[str, Any] = {"registryId": place.account} if place.account else {}
    with explained(f"repository {place.repository} in ECR"):
        details = account.ecr.describe_repositories(repositoryNames=[place.repository], **asked)["repositories"][0]
    if details.get("imageTagMutability") == "IMMUTABLE":
        raise Refused(
            f"{uri}:{place.tag} is another image already ({found.digest}), and the repository keeps its tags",
            hint="give the new image a tag of its own: `docker tag`, or `servekit build -t`",
        )


def _single(image: Image) -> Image:
    """SageMaker takes one image, not a list of them for several machines."""
    if image.media_type and image.media_type not in SINGLE:
        raise Refused(
            f"{image.uri} is an index ({image.media_type}), of which SageMaker takes none",
            hint="push one image: `servekit build` makes such, and so does docker buildx with --provenance=false",
        )
    return image


def _nothing_to_push(place: Wanted, uri: str, *, push: bool) -> Missing:
    target = f"{uri}@{place.digest}" if place.digest else f"{uri}:{place.tag}"
    if not push:
        return Missing(f"{target} is not in ECR", hint="without --no-push it is pushed from here")
    try:
        engine.engines()
        why = f"no engine here has the image {place.source}"
    except engine.NoEngine as error:
        why = error.message
    host = uri.partition("/")[0]
    return Missing(
        f"{target} is not in ECR, and {why}",
        hint="push it where the image is, then publish it with --no-push",
        details=(
            f"  aws ecr get-login-password | docker login --username AWS --password-stdin {host}\n"
            f"  docker tag {place.source} {target}\n"
            f"  docker push {target}"
        ),
    )


def describe(local: LocalImage) -> str:
    return f"{local.architecture or 'unknown architecture'}, {local.size_bytes / MEBIBYTE:.0f} MiB, {local.engine.name}"
