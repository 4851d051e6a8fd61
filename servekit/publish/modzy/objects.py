"""What Modzy's API answers with: typed where its pages say so, kept and shown where they do not.

Sources: the pages of the container image, the model versions and the run test, and what the vendor's own client reads.
Two keys have two spellings in the wild, and everything may be missing: what is missing is None.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from servekit.publish.failures import printable

# Open sets: others are shown as they come.
UPLOAD_STATUSES = ("Uploading container image", "Loading model 'x'", "Checking status endpoint")
RUN_STEPS = ("Loading model", "Fetching inputs", "Submitting inputs", "Recording outputs", "Completed")
VERSION_STATUSES = ("partial", "active", "inactive")
DONE = 100.0
# A status holds a model's name in quotes, which may be any word.
QUOTED = re.compile(r"'[^']*'|\"[^\"]*\"")
FAILING = re.compile(r"\b(?:fail(?:ed|ure|ing)?|error(?:ed|s)?|exception|rejected|timed ?out)\b", re.IGNORECASE)
TECHNICAL = "technicalinformation"
MAX_DEPTH = 20
MAX_TEXTS = 50


@dataclass(frozen=True, slots=True)
class Steps:
    """loadStatus and runStatus: the step that a test is at. result: of a run test, else empty."""

    step: str = ""
    name: str = ""
    percentage: float | None = None
    technical_information: str = ""
    result: Mapping[str, Any] = field(default_factory=dict)
    others: Mapping[str, Any] = field(default_factory=dict)

    @property
    def words(self) -> str:
        """`step 2, Submitting inputs`"""
        return ", ".join(part for part in (f"step {self.step}" if self.step else "", self.name) if part)

    @property
    def status(self) -> str:
        """Of the run: SUCCESSFUL, FAILED, or what else the platform says."""
        return _text(self.result.get("status")) or ""

    @property
    def failed(self) -> bool:
        return bool(self.technical_information or is_failing(self.status) or is_failing(self.name))

    @property
    def ended(self) -> bool:
        return self.failed or (self.percentage is not None and self.percentage >= DONE)

    @property
    def passed(self) -> bool:
        return self.ended and not self.failed


@dataclass(frozen=True, slots=True)
class ContainerImage:
    """The container image object, with the `percentage` that the vendor's client goes by."""

    upload_status: str | None = None
    load_status: str | None = None
    upload_percentage: float | None = None
    load_percentage: float | None = None
    nbytes: int | None = None
    registry_host: str | None = None
    repository_namespace: str | None = None
    image_prefix: str | None = None
    repository_name: str | None = None
    percentage: float | None = None
    technical_information: str = ""
    others: Mapping[str, Any] = field(default_factory=dict)

    @property
    def done(self) -> float | None:
        """How much of the image the platform has, from 0 to 100; None where it does not say."""
        return self.percentage if self.percentage is not None else self.upload_percentage

    @property
    def absent(self) -> bool:
        """The version has no image, nor is one on its way."""
        told = (self.upload_status, self.nbytes, self.registry_host, self.repository_name, self.done)
        return not any(told) and not self.technical_information

    @property
    def failed(self) -> bool:
        # What is told of an image that is there is about a test of it.
        return is_failing(self.upload_status) or (bool(self.technical_information) and (self.done or 0) < DONE)

    @property
    def there(self) -> bool:
        return not self.failed and self.done is not None and self.done >= DONE

    @property
    def understood(self) -> bool:
        return self.done is not None or self.upload_status is not None

    def document(self) -> dict[str, Any]:
        """In the vendor's words; what is not known is left out, what is unknown to us is there."""
        known = {
            "uploadStatus": self.upload_status,
            "loadStatus": self.load_status,
            "uploadPercentage": self.upload_percentage,
            "loadPercentage": self.load_percentage,
            "containerImageSize": self.nbytes,
            "registryHost": self.registry_host,
            "repositoryNamespace": self.repository_namespace,
            "imagePrefix": self.image_prefix,
            "repositoryName": self.repository_name,
            "percentage": self.percentage,
            "technicalInformation": self.technical_information or None,
        }
        return {key: value for key, value in known.items() if value is not None} | dict(self.others)


@dataclass(frozen=True, slots=True)
class Version:
    """status: partial, active, inactive, or what else the platform says; "" where it does not say."""

    version: str
    status: str = ""
    history: str = ""
    container_image: ContainerImage = field(default_factory=ContainerImage)
    load: Steps = field(default_factory=Steps)
    run: Steps = field(default_factory=Steps)

    @property
    def active(self) -> bool:
        return self.status.lower() == "active"


@dataclass(frozen=True, slots=True)
class Model:
    """name: "" where the list of models leaves it out."""

    identifier: str
    name: str = ""


@dataclass(frozen=True, slots=True)
class Requirement:
    """A size of machine that the account may use. gpus: None where the platform does not say."""

    identifier: int
    cpus: float | None
    memory_bytes: int | None
    gpus: int | None = None
    name: str = ""

    def __str__(self) -> str:
        parts = [
            f"{self.cpus:g} CPU" if self.cpus is not None else "",
            f"{self.memory_bytes / 2**30:.1f} GiB" if self.memory_bytes is not None else "",
            f"{self.gpus} GPU" if self.gpus else "",
        ]
        return f"{self.identifier} ({', '.join(part for part in parts if part) or self.name or 'size not told'})"


# --- reading ---

CONTAINER_KEYS = frozenset({
    "uploadStatus", "loadStatus", "uploadPercentage", "loadPercentage", "containerImageSize", "registryHost",
    "repositoryNamespace", "repositoryNameSpace", "imagePrefix", "repositoryName", "percentage", "technicalInformation",
})  # fmt: skip
STEPS_KEYS = frozenset({"step", "stepName", "percentage", "result", "technicalInformation"})


def container_image(document: Any) -> ContainerImage:
    document = document if isinstance(document, dict) else {}
    load = document.get("loadStatus")
    # A text by the page, an object at the version.
    tested = steps(load) if isinstance(load, dict) else Steps()
    load_percentage = number(document.get("loadPercentage"))
    nbytes = number(document.get("containerImageSize"))
    return ContainerImage(
        upload_status=_text(document.get("uploadStatus")),
        load_status=tested.words or None if isinstance(load, dict) else _text(load),
        upload_percentage=number(document.get("uploadPercentage")),
        load_percentage=tested.percentage if load_percentage is None else load_percentage,
        nbytes=None if nbytes is None else int(nbytes),
        registry_host=_text(document.get("registryHost")),
        repository_namespace=_text(document.get("repositoryNamespace") or document.get("repositoryNameSpace")),
        image_prefix=_text(document.get("imagePrefix")),
        repository_name=_text(document.get("repositoryName")),
        percentage=number(document.get("percentage")),
        technical_information=technical_information(document),
        others=clean({key: value for key, value in document.items() if key not in CONTAINER_KEYS}),
    )


def steps(document: Any) -> Steps:
    document = document if isinstance(document, dict) else {}
    result = document.get("result")
    return Steps(
        step=_text(document.get("step")) or "",
        name=_text(document.get("stepName")) or "",
        percentage=number(document.get("percentage")),
        technical_information=technical_information(document),
        result=clean(result) if isinstance(result, dict) else {},
        others=clean({key: value for key, value in document.items() if key not in STEPS_KEYS}),
    )


def version(document: Mapping[str, Any], name: str) -> Version:
    status = _text(document.get("status"))
    if status is None and isinstance(document.get("isActive"), bool):
        status = "active" if document["isActive"] else "inactive"
    return Version(
        version=_text(document.get("version")) or name,
        status=status or "",
        history=_text(document.get("versionHistory")) or "",
        container_image=container_image(document.get("containerImage")),
        load=steps(document.get("loadStatus")),
        run=steps(document.get("runStatus")),
    )


def model(document: Any) -> Model | None:
    """identifier by the vendor's client, modelId by the pages. None when there is neither."""
    if not isinstance(document, dict):
        return None
    identifier = document.get("identifier") or document.get("modelId")
    return Model(identifier, _text(document.get("name")) or "") if isinstance(identifier, str) else None


def requirement(document: Any) -> Requirement | None:
    """None for one that is not to be used, or has no number."""
    if not isinstance(document, dict) or _text(document.get("status")) not in (None, "ACTIVE"):
        return None
    identifier = document.get("requirementId")
    if not isinstance(identifier, int) or isinstance(identifier, bool):
        return None
    gpus = number(document.get("gpuUnits", document.get("gpuUnitsAmount")))
    memory = amount(document.get("memoryAmount"))
    return Requirement(
        identifier,
        cpus=amount(document.get("cpuAmount")),
        memory_bytes=None if memory is None else int(memory),
        gpus=None if gpus is None else int(gpus),
        name=_text(document.get("name")) or "",
    )


AMOUNT = re.compile(r"(\d{1,15}(?:\.\d{1,9})?)\s*(m|[KMGT]i?)?B?", re.IGNORECASE)


def amount(value: Any) -> float | None:
    """`500m`, `2`, `1Gi`, `512M`, as Kubernetes writes them."""
    found = None if isinstance(value, bool) or value is None else AMOUNT.fullmatch(str(value).strip())
    if found is None:
        return None
    count, unit = float(found[1]), found[2] or ""
    if unit == "m":
        return count / 1000
    return count * float((1024 if unit.endswith("i") else 1000) ** " KMGT".index(unit[:1].upper() or " "))


def number(value: Any) -> float | None:
    """Also of a text such as `45` or `45%`."""
    if isinstance(value, bool):
        return None
    if isinstance(value, str):
        value = value.strip().removesuffix("%")
    try:
        found = float(value)
    except (TypeError, ValueError, OverflowError):
        return None
    if not abs(found) < float("inf"):
        return None
    return int(found) if found.is_integer() else found


def technical_information(document: Any) -> str:
    """The troubleshooting details, wherever they sit in an answer; several are put below each other."""
    texts = [text for text in _technical(document, MAX_DEPTH) if text.strip()]
    return "\n".join(dict.fromkeys(texts[:MAX_TEXTS]))


def is_failing(status: str | None) -> bool:
    return FAILING.search(QUOTED.sub("", status or "").replace("_", " ")) is not None


def clean(value: Any, depth: int = MAX_DEPTH) -> Any:
    """Without secrets and control characters; what lies deeper than anybody reads is left out."""
    if isinstance(value, str):
        return printable(value)
    if isinstance(value, (dict, list)) and depth == 0:
        return "..."
    if isinstance(value, dict):
        return {printable(str(key)): clean(part, depth - 1) for key, part in value.items()}
    if isinstance(value, list):
        return [clean(part, depth - 1) for part in value]
    return value


def _technical(value: Any, depth: int) -> Iterator[str]:
    if depth == 0:
        return
    if isinstance(value, dict):
        for key, part in value.items():
            if key.replace("_", "").lower() == TECHNICAL:
                yield from _texts(part)
            else:
                yield from _technical(part, depth - 1)
    elif isinstance(value, list):
        for part in value:
            yield from _technical(part, depth - 1)


def _texts(value: Any) -> Iterator[str]:
    if value is None:
        return
    if isinstance(value, list):
        for part in value:
            yield from _texts(part)
    else:
        yield value if isinstance(value, str) else repr(value)


def _text(value: Any) -> str | None:
    """As a printable line; numbers, too."""
    if isinstance(value, bool) or not isinstance(value, (str, int, float)):
        return None
    return printable(str(value))
