"""The two tests of a version: can its container be loaded, and does it answer a sample."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from starlette.responses import Response

from servekit.emulate.bodies import value
from servekit.emulate.modzy.calls import Call, Handler, Refused, World, instant
from servekit.emulate.modzy.container import Container, ContainerFailed
from servekit.emulate.modzy.models import ONE, VERSION, found, is_arm, save, shown_image
from servekit.emulate.store import Document
from servekit.emulate.uploads import one_file

SAMPLE = "sample"
MAX_SAMPLE_BYTES = 64 * 1024 * 1024
LOAD_STEPS = ("Starting container", "Checking status endpoint", "Completed")
RUN_STEPS = ("Loading model", "Fetching inputs", "Submitting inputs", "Recording outputs", "Completed")
NO_CONTAINER = "this emulator has no container to call: start it with --container URL or --command COMMAND"


async def load(world: World, call: Call) -> Any:
    """Ends when the test has: its answer is the outcome. Empty, as the platform's."""
    version = found(world, call)
    if (shown_image(world, version) or {}).get("uploadPercentage") != 100:
        raise Refused(400, "The container image is not there yet: its upload has not ended")
    _load_step(world, version, 1)
    if not is_arm(version):
        try:
            if call.failure:
                raise ContainerFailed(call.failure, call.failure)
            await container(world).status(version["timeout"].get("status", 60000) / 1000)
        except ContainerFailed as error:
            version = found(world, call)
            version["load"] = {"step": 2, "stepName": f"FAILED: {error.text}", "percentage": 50}
            save(world, version)
            raise Refused(400, f"The load test failed: {error.text}", error.technical or error.text) from error
    _load_step(world, found(world, call), 3)
    return Response(status_code=200)


async def show_load(world: World, call: Call) -> Any:
    version = found(world, call)
    if version["load"] is None:
        raise Refused(404, "No load test has been started")
    return version["load"]


def _load_step(world: World, version: Document, step: int) -> None:
    percentage = (step - 1) * 100 // (len(LOAD_STEPS) - 1)
    version["load"] = {"step": step, "stepName": LOAD_STEPS[step - 1], "percentage": percentage}
    save(world, version)


async def put_sample(world: World, call: Call) -> Any:
    version = found(world, call)
    names = [item["name"] for item in version["inputs"]]
    name = call.query.get("name", "")
    if name not in names:
        raise Refused(400, f"name: expected one of the version's inputs, {names}, got {name[:60]!r}")
    uploaded = await one_file(call.request, MAX_SAMPLE_BYTES)
    world.store.put_file(SAMPLE, f"{version['model']}/{version['version']}/{name}", uploaded.content)
    return {"name": name, "size": len(uploaded.content)}


async def run(world: World, call: Call) -> Any:
    """Begins; its steps are polled."""
    version = found(world, call)
    if (version["load"] or {}).get("percentage") != 100:
        raise Refused(400, "The load test has not passed yet")
    inputs = {}
    for item in version["inputs"]:
        content = world.store.get_file(SAMPLE, f"{version['model']}/{version['version']}/{item['name']}")
        if content is None:
            raise Refused(400, f"The sample of the input {item['name']!r} is missing: POST testInput?name=...")
        inputs[item["name"]] = content
    if not inputs:
        raise Refused(400, "The version declares no inputs")
    _run_step(world, version, 1)
    world.begin(_run(world, version, inputs, call.failure))
    return Response(status_code=200)


async def show_run(world: World, call: Call) -> Any:
    version = found(world, call)
    if version["run"] is None:
        raise Refused(404, "No run test has been started")
    return version["run"]


def _run_step(world: World, version: Document, step: int, result: Document | None = None) -> None:
    percentage = (step - 1) * 100 // (len(RUN_STEPS) - 1)
    kept = world.store.get(VERSION, f"{version['model']}/{version['version']}")
    if kept is None:
        return
    kept["run"] = {"step": step, "stepName": RUN_STEPS[step - 1], "percentage": percentage, "result": result}
    save(world, kept)


async def _run(world: World, version: Document, inputs: dict[str, bytes], failure: str | None) -> None:
    began_s = world.now_s()
    outputs = [item["name"] for item in version["outputs"]] or ["results.json"]
    limits = version["timeout"]
    result: Document = {
        "status": "SUCCESSFUL", "engine": "emulated", "error": None, "startTime": instant(began_s),
        "inputSize": sum(map(len, inputs.values())), "results.json": None,
    }  # fmt: skip
    try:
        if failure:
            raise ContainerFailed(failure, failure)
        await container(world).status(limits.get("status", 60000) / 1000)
        _run_step(world, version, 3)
        answered = await container(world).run(inputs, outputs, limits.get("run", 60000) / 1000)
        for name, content in answered.items():
            result[name] = inlined(content)
    except ContainerFailed as error:
        result |= {"status": "FAILED", "error": error.text, "technicalInformation": error.technical or error.text}
    ended_s = world.now_s()
    result |= {
        "endTime": instant(ended_s), "updateTime": instant(ended_s), "elapsedTime": int((ended_s - began_s) * 1000),
    }  # fmt: skip
    _run_step(world, version, len(RUN_STEPS), result)


def abandon(world: World) -> None:
    """After a restart: nobody goes on with a run test that was cut off."""
    for version in world.store.all(VERSION):
        if version["run"] is not None and version["run"]["result"] is None:
            error = "the platform was restarted while the test ran; start it again"
            _run_step(world, version, len(RUN_STEPS), {"status": "FAILED", "error": error})


def container(world: World) -> Container:
    if world.container is None:
        raise ContainerFailed("there is no container to call", NO_CONTAINER)
    return world.container


def inlined(content: bytes) -> Any:
    """JSON as it is, all else as text."""
    try:
        return value(content)
    except ValueError:
        return content.decode(errors="replace")


TABLE: Sequence[tuple[str, str, Handler]] = (
    ("POST", f"{ONE}/load-process", load),
    ("GET", f"{ONE}/load-process", show_load),
    ("POST", f"{ONE}/testInput", put_sample),
    ("POST", f"{ONE}/run-process", run),
    ("GET", f"{ONE}/run-process", show_run),
)
