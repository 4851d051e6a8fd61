"""Jobs, which carry items of input files to the container, and their results."""

from __future__ import annotations

import asyncio
import base64
import binascii
import json
import time
import uuid
from collections.abc import Mapping, Sequence
from typing import Any
from urllib.parse import quote

from starlette.responses import Response

from servekit.emulate.bodies import NotAnObject, parsed, whole
from servekit.emulate.modzy.calls import Call, Handler, Refused, World, instant
from servekit.emulate.modzy.container import ContainerFailed
from servekit.emulate.modzy.models import KIND as MODEL_KIND
from servekit.emulate.modzy.models import VERSION, page, sort
from servekit.emulate.modzy.trials import container, inlined
from servekit.emulate.store import Document
from servekit.emulate.uploads import one_file

KIND, INPUT, OUTPUT = "job", "job-input", "job-output"
OPEN, SUBMITTED, IN_PROGRESS = "OPEN", "SUBMITTED", "IN_PROGRESS"
COMPLETED, CANCELED = "COMPLETED", "CANCELED"
PENDING = (OPEN, SUBMITTED, IN_PROGRESS)
MAX_BODY_BYTES = 64 * 1024 * 1024
MAX_INPUT_BYTES = 64 * 1024 * 1024
MAX_ITEMS = 1000
MAX_INPUTS = 100
MAX_NAME_CHARS = 200
# As the platform words it, and what its own client makes of that.
CHUNK, MAX_CHUNK_BYTES = "1M", 1_000_000
TEXT_TYPES = (".json", ".txt", ".csv", ".xml", ".html", ".md", ".yaml", ".yml")


# --- a job's life ---


async def submit(world: World, call: Call) -> Any:
    """With its inputs, or without: then it is open, and they follow."""
    try:
        document = parsed(await whole(call.request, MAX_BODY_BYTES))
    except NotAnObject as error:
        raise Refused(400, str(error)) from error
    version = _active_version(world, document.get("model"))
    explain = document.get("explain", False)
    if not isinstance(explain, bool):
        raise Refused(400, f"explain: expected true or false, got {str(explain)[:40]!r}")
    inputs = _inputs(document["input"]) if document.get("input") is not None else None
    model = world.store.get(MODEL_KIND, version["model"]) or {}
    now_s = world.now_s()
    job: Document = {
        "jobIdentifier": str(uuid.uuid4()), "status": OPEN, "explain": explain, "items": {}, "results": {},
        "failures": {}, "failure": call.failure, "base": str(call.request.base_url).rstrip("/"),
        "model": {"identifier": version["model"], "version": version["version"], "name": model.get("name", "")},
        "created_s": now_s, "submitted_s": None, "ended_s": None,
    }  # fmt: skip
    for item, files in (inputs or {}).items():
        job["items"][item] = sorted(files)
        for name, content in files.items():
            world.store.put_file(INPUT, _key(job, item, name), content)
    world.store.put(KIND, job["jobIdentifier"], job)
    if inputs is not None:
        _start(world, job)
    return shown(world, job)


async def append(world: World, call: Call) -> Any:
    """A piece of one input file of an open job."""
    job = found(world, call)
    item, name = _name("item", call.parameters["item"]), _name("input", call.parameters["input"])
    if job["status"] != OPEN:
        raise Refused(400, f"The job {job['jobIdentifier']} takes no more inputs: it is {job['status']}")
    piece = (await one_file(call.request, MAX_CHUNK_BYTES)).content
    # Another request may have come in between.
    job = found(world, call)
    names = job["items"].setdefault(item, [])
    if name not in names:
        names.append(name)
    if len(job["items"]) > MAX_ITEMS or len(names) > MAX_INPUTS:
        raise Refused(413, f"expected at most {MAX_ITEMS} items of {MAX_INPUTS} inputs")
    key = _key(job, item, name)
    if len(world.store.get_file(INPUT, key) or b"") + len(piece) > MAX_INPUT_BYTES:
        raise Refused(413, f"the input {name!r} is too large: expected at most {MAX_INPUT_BYTES} bytes")
    world.store.append_file(INPUT, key, piece)
    world.store.put(KIND, job["jobIdentifier"], job)
    return shown(world, job)


async def close(world: World, call: Call) -> Any:
    job = found(world, call)
    if job["status"] != OPEN:
        raise Refused(400, f"The job {job['jobIdentifier']} is not open: it is {job['status']}")
    if not job["items"]:
        raise Refused(400, f"The job {job['jobIdentifier']} has no inputs")
    _start(world, job)
    return shown(world, job)


async def cancel(world: World, call: Call) -> Any:
    job = found(world, call)
    if job["status"] not in PENDING:
        raise Refused(400, f"The job {job['jobIdentifier']} has ended already: it is {job['status']}")
    _end(world, job, CANCELED)
    return shown(world, job)


async def show(world: World, call: Call) -> Any:
    return shown(world, found(world, call))


async def history(world: World, call: Call) -> Any:
    query = call.query
    status = query.get("status", "all").lower()
    if status not in ("all", "pending", "terminated"):
        raise Refused(400, f"status: expected all, pending or terminated, got {status[:40]!r}")
    jobs = [shown(world, job) for job in world.store.all(KIND)]
    if status != "all":
        jobs = [job for job in jobs if (job["status"] in PENDING) == (status == "pending")]
    if "model" in query:
        wanted = query["model"].lower()
        jobs = [job for job in jobs if any(wanted in str(job["model"][key]).lower() for key in job["model"])]
    for argument, before in (("startDate", False), ("endDate", True)):
        if argument in query:
            edge = query[argument]
            jobs = [job for job in jobs if (job["createdAt"][: len(edge)] <= edge if before else
                                            job["createdAt"][: len(edge)] >= edge)]  # fmt: skip
    return page(sort(jobs, query, "createdAt"), query)


async def features(world: World, call: Call) -> Any:  # noqa: ARG001 - as every handler
    return {"inputChunkMaximumSize": CHUNK, "maximumInputChunks": MAX_INPUT_BYTES // MAX_CHUNK_BYTES,
            "maxInputsPerJob": MAX_ITEMS, "hoursDeleteInput": 24}  # fmt: skip


def found(world: World, call: Call) -> Document:
    job = world.store.get(KIND, call.parameters["job"])
    if job is None:
        raise Refused(404, f"The job {call.parameters['job'][:60]} does not exist")
    return job


def shown(world: World, job: Document) -> Document:
    total, completed, failed = len(job["items"]), len(job["results"]), len(job["failures"])
    prefix, dot, _ = world.api_key.partition(".")
    ended_s = job["ended_s"] or world.now_s()
    return {
        "jobIdentifier": job["jobIdentifier"], "status": job["status"], "model": job["model"],
        "explain": job["explain"], "totalInputs": total, "total": total, "completed": completed, "failed": failed,
        "pending": total - completed - failed, "jobType": "batch", "accessKey": prefix if dot else "",
        "jobInputs": [{"identifier": item} for item in job["items"]], "createdAt": instant(job["created_s"]),
        "submittedAt": instant(job["submitted_s"] or job["created_s"]), "updatedAt": instant(ended_s),
        "hoursDeleteInput": 24, "imageClassificationModel": False,
        "elapsedTime": int((ended_s - job["created_s"]) * 1000),
    }  # fmt: skip


# --- the work ---


def resume(world: World) -> None:
    """After a restart: what was submitted goes on, and what ran is run again."""
    for job in world.store.all(KIND):
        if job["status"] in (SUBMITTED, IN_PROGRESS):
            world.begin(_work(world, job["jobIdentifier"]))


def _start(world: World, job: Document) -> None:
    job |= {"status": SUBMITTED, "submitted_s": world.now_s()}
    world.store.put(KIND, job["jobIdentifier"], job)
    world.begin(_work(world, job["jobIdentifier"]))


def _end(world: World, job: Document, status: str) -> None:
    job |= {"status": status, "ended_s": world.now_s()}
    world.store.put(KIND, job["jobIdentifier"], job)
    world.store.delete_files(INPUT, f"{job['jobIdentifier']}/")


async def _work(world: World, key: str) -> None:
    await asyncio.sleep(world.advance_s)
    job = world.store.get(KIND, key)
    if job is None or job["status"] not in (SUBMITTED, IN_PROGRESS):
        return
    job["status"] = IN_PROGRESS
    world.store.put(KIND, key, job)
    for item in job["items"]:
        if item in job["results"] or item in job["failures"]:
            continue
        outcome, answer = await _one(world, job, item)
        # It may have been canceled in the meantime.
        now = world.store.get(KIND, key)
        if now is None or now["status"] != IN_PROGRESS:
            return
        now[outcome][item] = answer
        job = now
        world.store.put(KIND, key, job)
    _end(world, job, COMPLETED)


async def _one(world: World, job: Document, item: str) -> tuple[str, Document]:
    """To which of the two lists an item goes, and as what."""
    began_s, started = world.now_s(), time.monotonic()
    try:
        if job["failure"]:
            raise ContainerFailed(job["failure"], job["failure"])
        version = world.store.get(VERSION, f"{job['model']['identifier']}/{job['model']['version']}")
        if version is None:
            raise ContainerFailed("the version was removed")
        inputs = _checked(world, job, item, version)
        fetched = time.monotonic()
        await container(world).status(version["timeout"].get("status", 60000) / 1000)
        outputs = [output["name"] for output in version["outputs"]] or ["results.json"]
        answered = await container(world).run(inputs, outputs, version["timeout"].get("run", 60000) / 1000)
    except ContainerFailed as error:
        failure = {
            "error": error.text, "status": "FAILED", "startTime": instant(began_s), "endTime": instant(world.now_s()),
            "technicalInformation": error.technical or error.text,
        }  # fmt: skip
        return "failures", failure
    result: Document = {
        "status": "SUCCESSFUL", "engine": "emulated", "inputFetching": _ms(fetched - started), "outputUploading": 0,
        "modelLatency": _ms(time.monotonic() - fetched), "queueTime": _ms(began_s - (job["submitted_s"] or began_s)),
        "startTime": instant(began_s), "updateTime": instant(world.now_s()), "endTime": instant(world.now_s()),
        "voting": {"up": 0, "down": 0},
    }  # fmt: skip
    for name, content in answered.items():
        world.store.put_file(OUTPUT, _key(job, item, name), content)
        result[name] = inlined(content) if _is_text(name, content) else _address(job, item, name)
    return "results", result


def _checked(world: World, job: Document, item: str, version: Document) -> dict[str, bytes]:
    declared = {entry["name"]: entry for entry in version["inputs"]}
    given = job["items"][item]
    for name in declared:
        if name not in given:
            raise ContainerFailed(f"the input {name!r} is missing; the item has {', '.join(given)}")
    inputs = {}
    for name in given:
        if declared and name not in declared:
            raise ContainerFailed(f"the model has no input {name!r}; it has {', '.join(declared)}")
        content = world.store.get_file(INPUT, _key(job, item, name)) or b""
        most = declared.get(name, {}).get("maximumSize") or MAX_INPUT_BYTES
        if len(content) > most:
            raise ContainerFailed(f"the input {name!r} has {len(content)} bytes, and its maximumSize is {most}")
        inputs[name] = content
    return inputs


def _is_text(name: str, content: bytes) -> bool:
    if not name.lower().endswith(TEXT_TYPES):
        return False
    try:
        content.decode()
    except UnicodeDecodeError:
        return False
    return True


def _address(job: Document, item: str, name: str) -> str:
    return f"{job['base']}/api/results/{job['jobIdentifier']}/{quote(item, safe='')}/{quote(name, safe='')}"


def _ms(seconds: float) -> int:
    return max(0, int(seconds * 1000))


# --- results ---


async def results(world: World, call: Call) -> Any:
    """Not there as long as nothing has begun."""
    job = found(world, call)
    if job["status"] in (OPEN, SUBMITTED):
        raise Refused(404, f"The job {job['jobIdentifier']} has no results yet: it is {job['status']}")
    total = len(job["items"])
    return {
        "jobIdentifier": job["jobIdentifier"], "total": total, "completed": len(job["results"]),
        "failed": len(job["failures"]), "finished": job["status"] not in PENDING, "explained": job["explain"],
        "submittedByKey": shown(world, job)["accessKey"], "results": job["results"], "failures": job["failures"],
    }  # fmt: skip


async def output(world: World, call: Call) -> Any:
    job = found(world, call)
    content = world.store.get_file(OUTPUT, _key(job, call.parameters["item"], call.parameters["output"]))
    if content is None:
        raise Refused(404, f"The job {job['jobIdentifier']} has no such output")
    return Response(content, media_type="application/octet-stream")


# --- what is asked ---


def _active_version(world: World, model: Any) -> Document:
    if not isinstance(model, dict):
        raise Refused(400, f"model: expected an object with identifier and version, got {type(model).__name__}")
    identifier, number = model.get("identifier"), model.get("version")
    version = world.store.get(VERSION, f"{identifier}/{number}")
    if version is None:
        raise Refused(404, f"The version {str(number)[:40]} of the model {str(identifier)[:40]} does not exist")
    if version["status"] != "active":
        raise Refused(400, f"The version {number} of the model {identifier} is not active: it is {version['status']}")
    return version


def _inputs(asked: Any) -> dict[str, dict[str, bytes]]:
    if not isinstance(asked, dict) or asked.get("type") not in ("text", "embedded"):
        kind = asked.get("type") if isinstance(asked, dict) else type(asked).__name__
        raise Refused(400, f"input.type: the emulator takes text and embedded, and open jobs; got {str(kind)[:40]!r}")
    sources = asked.get("sources")
    if not isinstance(sources, dict) or not 0 < len(sources) <= MAX_ITEMS:
        raise Refused(400, f"input.sources: expected an object of 1 to {MAX_ITEMS} items")
    found: dict[str, dict[str, bytes]] = {}
    for item, files in sources.items():
        if not isinstance(files, dict) or not 0 < len(files) <= MAX_INPUTS:
            raise Refused(400, f"input.sources.{_name('item', item)}: expected an object of 1 to {MAX_INPUTS} inputs")
        found[_name("item", item)] = {
            _name("input", name): _content(asked["type"], name, value) for name, value in files.items()
        }
    return found


def _content(kind: str, name: str, value: Any) -> bytes:
    if not isinstance(value, str):
        raise Refused(400, f"input {name[:60]!r}: expected a text, got {type(value).__name__}")
    if kind == "text":
        return value.encode("utf-8", "replace")
    head, comma, data = value.partition(",")
    if not comma or not head.startswith("data:") or not head.endswith(";base64"):
        raise Refused(400, f"input {name[:60]!r}: expected data:TYPE;base64,..., got {head[:40]!r}")
    try:
        return base64.b64decode(data, validate=True)
    except (binascii.Error, ValueError) as error:
        raise Refused(400, f"input {name[:60]!r}: the base64 cannot be read: {error}") from error


def _name(what: str, name: str) -> str:
    if not 0 < len(name) <= MAX_NAME_CHARS or not name.isprintable() or "/" in name or name in (".", ".."):
        raise Refused(400, f"{what}: expected a name without slashes of at most {MAX_NAME_CHARS} characters, "
                      f"got {name[:60]!r}")  # fmt: skip
    return name


def _key(job: Mapping[str, Any], item: str, name: str) -> str:
    return f"{job['jobIdentifier']}/{json.dumps([item, name])}"


JOB = "/jobs/{job}"
TABLE: Sequence[tuple[str, str, Handler]] = (
    ("POST", "/jobs", submit),
    ("GET", "/jobs/history", history),
    ("GET", "/jobs/features", features),
    ("GET", JOB, show),
    ("DELETE", JOB, cancel),
    ("POST", f"{JOB}/close", close),
    ("POST", f"{JOB}/{{item}}/{{input}}", append),
    ("GET", "/results/{job}", results),
    ("GET", "/results/{job}/{item}/{output}", output),
)
