"""`servekit emulate modzy-jobs`: directories of items in, outputs and the platform's document of results out."""

from __future__ import annotations

import asyncio
import json
import shlex
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from serving import clean_environ, script
from told import CLOSE, NOT_HTTP, Asked, Said, Told, told

from servekit.check.subject import Command, at_url
from servekit.emulate.modzy.runner import Job, NeverReady, Runner
from servekit.publish.modzy.metadata import of_body
from servekit.terms import Start

ROOT = Path(__file__).parents[2]
COMMAND = [sys.executable, "-c", "from servekit.cli.emulate_modzy import modzy_jobs as run; run()"]
ONE = b"""
inputs: {image: {maxSize: 10}}
outputs: {results.json: {}}
timeout: {status: 5s, run: 5s}
"""
TWO = b"""
inputs: {input.txt: {}, config.json: {}}
outputs: {results.json: {}, said.txt: {}, sound.wav: {}}
timeout: {status: 200ms, run: 1s}
"""
Work = Callable[[Path, Path], None]


def dto(status: int, message: str) -> Said:
    document = {"statusCode": status, "status": "as it is", "message": message}
    return Said(status, json.dumps(document).encode(), {"Content-Type": "application/json"})


def answering(work: Work) -> Callable[[Asked], Said]:
    """A container that does its work on the directories of an item."""

    def answer(asked: Asked) -> Said:
        if asked.path == "/run":
            job = json.loads(asked.body)
            try:
                work(Path(job["input"]), Path(job["output"]))
            except ValueError as error:
                return dto(422, str(error))
        return dto(200, "ready")

    return answer


def written(**files: str) -> Work:
    def work(source: Path, target: Path) -> None:
        for name, text in files.items():
            (target / name.replace("__", ".")).write_text(text)

    return work


@pytest.fixture
def container() -> Iterator[Told]:
    with told(answering(written(results__json='{"data": 1}'))) as server:
        yield server


@pytest.fixture
def items(tmp_path: Path) -> Path:
    made = tmp_path / "items"
    made.mkdir()
    return made


def given(items: Path, **files: str) -> None:
    """Files by `item/name`, `/` written as `__`."""
    for name, text in files.items():
        path = items.joinpath(*name.split("__"))
        path.parent.mkdir(exist_ok=True)
        path.write_text(text)


def job(items: Path, model: bytes, **more: Any) -> Job:
    return Job(items, items.parent / "out", of_body(model), **more)


def done(server: Told, items: Path, model: bytes = ONE, **more: Any) -> dict[str, Any]:
    """The document that is written."""

    async def work(runner: Runner) -> None:
        await runner.prepare()
        await runner.run(lambda percentage, words: None)

    with closing(at_url(server.url)) as subject, closing(Runner(job(items, model, **more), subject)) as runner:
        asyncio.run(work(runner))
        document: dict[str, Any] = json.loads(runner.write().read_bytes())
    assert document == runner.document()
    return document


def outputs(items: Path) -> dict[str, str]:
    folder = items.parent / "out" / "items"
    return {str(path.relative_to(folder)): path.read_text() for path in folder.rglob("*") if path.is_file()}


def test_items_are_directories_or_files_and_each_has_fresh_ones(container: Told, items: Path, tmp_path: Path) -> None:
    given(items, a__image="one", b="two", ä__image="three")
    shared = tmp_path / "shared"
    shared.mkdir()

    def work(source: Path, target: Path) -> None:
        assert list(target.iterdir()) == []
        (file,) = source.iterdir()
        (target / "results.json").write_text(json.dumps({"was": [file.name, file.read_text()]}))
        (target / "unasked").write_text("x")

    container.answer = answering(work)
    (items.parent / "out/items/a").mkdir(parents=True)
    (items.parent / "out/items/a/stale").write_text("of an earlier job")
    document = done(container, items, files=shared)
    assert {name: result["results.json"] for name, result in document["results"].items()} == {
        "a": {"was": ["image", "one"]}, "b": {"was": ["image", "two"]}, "ä": {"was": ["image", "three"]},
    }  # fmt: skip
    assert outputs(items) == {
        "a/results.json": '{"was": ["image", "one"]}', "b/results.json": '{"was": ["image", "two"]}',
        "ä/results.json": '{"was": ["image", "three"]}',
    }  # fmt: skip
    jobs = [json.loads(asked.body) for asked in container.asked if asked.path == "/run"]
    assert {key for sent in jobs for key in sent} == {"type", "input", "output"}
    assert len({sent["output"] for sent in jobs}) == 3
    assert list(shared.iterdir()) == []
    assert [asked.path for asked in container.asked] == ["/status", "/run", "/run", "/run"]


def test_the_document_is_the_platforms(container: Told, items: Path) -> None:
    given(items, a__image="one", bad__image="x" * 11)
    document = done(container, items)
    result, failure = document["results"].pop("a"), document["failures"].pop("bad")
    assert document.pop("jobIdentifier").count("-") == 4
    assert document == {
        "total": 2, "completed": 1, "failed": 1, "finished": True, "explained": False, "results": {}, "failures": {}
    }  # fmt: skip
    for moment in ("startTime", "updateTime", "endTime"):
        assert result.pop(moment)[-5:] == "+0000"
    for span in ("inputFetching", "outputUploading", "modelLatency", "queueTime"):
        assert result.pop(span) >= 0
    assert result == {
        "status": "SUCCESSFUL", "engine": "emulated", "voting": {"up": 0, "down": 0}, "results.json": {"data": 1}
    }  # fmt: skip
    assert failure["status"] == "FAILED"
    assert failure["error"] == "the input 'image' has more than 10 bytes, its maxSize in model.yaml"


def test_several_inputs_and_outputs(container: Told, items: Path) -> None:
    given(items, file="x")
    for name, text in (("a/input.txt", "x"), ("a/config.json", "{}"), ("half/input.txt", "x"), ("more/input.txt", "x"),
                       ("more/config.json", "{}"), ("more/other", "x"), ("none/.keep", "")):  # fmt: skip
        (items / name).parent.mkdir(exist_ok=True)
        (items / name).write_text(text)
    container.answer = answering(written(results__json="[1]", said__txt="hello", sound__wav="RIFF"))
    document = done(container, items, TWO)
    (result,) = document["results"].values()
    assert {name: result[name] for name in ("results.json", "said.txt", "sound.wav")} == {
        "results.json": [1], "said.txt": "hello", "sound.wav": "items/a/sound.wav",
    }  # fmt: skip
    assert {name: failure["error"] for name, failure in document["failures"].items()} == {
        "file": "expected a directory with input.txt, config.json, got a file",
        "half": "the input 'config.json' is missing; the item has input.txt",
        "more": "the model has no input 'other'; it has input.txt, config.json",
        "none": "the input 'input.txt' is missing; the item has .keep",
    }
    assert len([asked for asked in container.asked if asked.path == "/run"]) == 1


def refuses(source: Path, target: Path) -> None:
    raise ValueError("image: expected a picture")


def linked(source: Path, target: Path) -> None:
    (target / "results.json").symlink_to("/etc/hostname")


@pytest.mark.parametrize(
    ("answer", "said"),
    [
        (answering(refuses), "image: expected a picture"),
        (lambda asked: dto(500 if asked.path == "/run" else 200, "server error"), "server error"),
        (lambda asked: dto(202 if asked.path == "/run" else 200, "later"), "later"),
        (answering(written()), "the container said success, and the output 'results.json' is missing"),
        (answering(linked), "the container said success, and the output 'results.json' is missing"),
        (answering(written(results__json="{'a': 1}")), "the output 'results.json' is no JSON: "),
        (answering(written(results__json='{"a": NaN}')), "the output 'results.json' is no JSON: NaN is no JSON"),
        (lambda asked: Said(CLOSE) if asked.path == "/run" else dto(200, "ready"), "/run answered with no HTTP"),
        (lambda asked: Said(NOT_HTTP) if asked.path == "/run" else dto(200, "ready"), "/run answered with no HTTP"),
        (lambda asked: Said(200, b"fine") if asked.path == "/run" else dto(200, "ready"), "/run answered 200 with no"),
    ],
    ids=["422", "500", "202", "no output", "a link", "no JSON", "NaN", "closed", "no HTTP", "plain text"],
)
def test_what_a_container_does_wrong_fails_its_item(
    answer: Callable[[Asked], Said], said: str, container: Told, items: Path
) -> None:
    given(items, a__image="one")
    container.answer = answer
    document = done(container, items)
    assert (document["completed"], document["failed"], document["finished"]) == (0, 1, True)
    assert document["failures"]["a"]["error"].startswith(said)
    assert document["failures"]["a"]["technicalInformation"]
    assert outputs(items) == {}


def test_a_late_item_fails_and_the_others_go_on(container: Told, items: Path) -> None:
    for name in ("a", "b"):
        given(items, **{f"{name}__input.txt": name, f"{name}__config.json": "{}"})
    release = threading.Event()

    def work(source: Path, target: Path) -> None:
        if (source / "input.txt").read_text() == "a":
            release.wait(20)
            return
        written(results__json="1", said__txt="x", sound__wav="x")(source, target)

    container.answer = answering(work)
    document = done(container, items, TWO)
    release.set()
    assert document["failures"]["a"]["error"] == "/run did not answer within 1 s (timeout.run)"
    assert list(document["results"]) == ["b"]


@pytest.mark.parametrize(
    ("answer", "said"),
    [
        (dto(500, "no weights"), "/status answered 500: no weights"),
        (dto(404, "not found"), "/status answered 404: not found"),
        (Said(NOT_HTTP), "/status answered with no HTTP"),
    ],
)
def test_without_status_nothing_is_run(answer: Said, said: str, container: Told, items: Path) -> None:
    given(items, a__image="one")
    container.answer = lambda asked: answer
    with pytest.raises(NeverReady, match=said):
        done(container, items)
    assert {asked.path for asked in container.asked} == {"/status"}


def test_status_has_so_long(container: Told, items: Path) -> None:
    given(items, a="one")
    release = threading.Event()

    def late(asked: Asked) -> Said:
        release.wait(20)
        return dto(200, "ready")

    container.answer = late
    with pytest.raises(NeverReady, match=r"took too long \(timeout\.status: 0\.2 s\)"):
        done(container, items, TWO)
    release.set()


@pytest.mark.parametrize(
    ("code", "ready_within_s", "said"),
    [
        ("print('no weights'); raise SystemExit(7)", 20.0, "the container ended with 7 before it answered /status"),
        ("import time; time.sleep(60)", 0.3, "/status did not answer: Connection refused"),
    ],
)
def test_a_container_that_never_listens(code: str, ready_within_s: float, said: str, items: Path) -> None:
    given(items, a__image="one")
    command = Command(shlex.join([sys.executable, "-c", code]), Start(port_variable="PSC_MODEL_PORT"))
    with (
        closing(command) as subject,
        closing(Runner(job(items, ONE, ready_within_s=ready_within_s), subject)) as runner,
        pytest.raises(NeverReady, match=said),
    ):
        asyncio.run(runner.prepare())


# --- the command ---


def run(*options: str | Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [*COMMAND, *map(str, options)], env=clean_environ(), capture_output=True, text=True, timeout=90, check=False
    )


def test_a_job_of_a_real_predictor(items: Path) -> None:
    picture = (ROOT / "examples/digits/seven.png").read_bytes()
    (items / "seven").mkdir()
    (items / "seven" / "images").write_bytes(picture)
    (items / "also.png").write_bytes(picture)
    (items / "text").write_text("seven")
    out = items.parent / "out"
    container = shlex.join(
        [script("servekit"), "run", str(ROOT / "examples/digits/predictor.py"), "--platform", "modzy"]
    )
    ended = run(
        "--input", items, "--output", out, "--model-yaml", ROOT / "examples/digits/model.yaml", "--command", container,
        "--json",
    )  # fmt: skip
    assert ended.returncode == 1, ended.stderr
    said = json.loads(ended.stdout)
    assert (said["ok"], said["exit_code"], said["total"], said["completed"], said["failed"]) == (False, 1, 3, 2, 1)
    assert said["shutdown"] == {"status": 202, "exit_code": 0}
    assert said["results"]["seven"]["results.json"]["data"]["result"] == {"mnist_result": 7}
    assert "expected an image" in said["failures"]["text"]["error"]
    document = json.loads((out / "results.json").read_bytes())
    assert document == {name: said[name] for name in document}
    assert json.loads((out / "items/also.png/results.json").read_bytes())["data"]["result"] == {"mnist_result": 7}


def test_what_is_interrupted_says_so(container: Told, items: Path) -> None:
    given(items, a__image="one", b__image="two")
    came, release = threading.Event(), threading.Event()
    (items.parent / "model.yaml").write_bytes(ONE)

    def work(source: Path, target: Path) -> None:
        if (source / "image").read_text() == "two":
            came.set()
            release.wait(30)
        written(results__json="1")(source, target)

    container.answer = answering(work)
    words = ["--input", items, "--output", items.parent / "out", "--model-yaml", items.parent / "model.yaml"]
    process = subprocess.Popen(
        [*COMMAND, *map(str, words), "--container", container.url, "--json"], env=clean_environ(),
        stdout=subprocess.PIPE, text=True,
    )  # fmt: skip
    try:
        assert came.wait(30)
        process.send_signal(signal.SIGINT)
        printed, _ = process.communicate(timeout=30)
    finally:
        release.set()
        process.kill()
        process.wait()
    said = json.loads(printed)
    assert process.returncode == said["exit_code"] == 130
    assert (said["reason"], said["completed"], said["failed"], said["finished"]) == ("interrupted", 1, 0, False)


@pytest.mark.parametrize(
    ("model", "more", "said"),
    [
        (ONE, {"output": "{items}/out"}, "expected a folder outside of the input's"),
        (ONE, {"input": "{items}/none"}, "expected a folder with a directory for each item"),
        (ONE, {"input": "{items}/empty"}, "expected a directory for each item, got an empty folder"),
        (ONE, {"files": "{items}/none"}, "expected a directory that the container sees under the same path"),
        (ONE, {"command": "x"}, "expected --container, --image or --command, and one of them only"),
        (b"inputs: []", {}, "model.yaml: inputs: expected a mapping"),
        (b"outputs: {results.json: {}}", {}, "model.yaml: inputs: expected at least one file"),
        (ONE.replace(b"run: 5s", b"run: soon"), {}, "model.yaml: timeout.run: expected a time"),
    ],
)
def test_a_wrong_option_is_one_line(
    model: bytes, more: dict[str, str], said: str, items: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from servekit.cli.emulate_modzy import modzy_jobs

    given(items, a__image="one")
    (items / "empty").mkdir()
    (items.parent / "model.yaml").write_bytes(model)
    options = {
        "input": str(items), "output": str(items.parent / "out"), "model-yaml": str(items.parent / "model.yaml"),
        "container": "http://127.0.0.1:9",
    } | {name: text.replace("{items}", str(items)) for name, text in more.items()}  # fmt: skip
    with pytest.raises(SystemExit) as ended:
        modzy_jobs.main([word for name, text in options.items() for word in (f"--{name}", text)])
    said_lines = capsys.readouterr().err
    assert ended.value.code == 2
    assert said in said_lines
    assert said_lines.count("\n") == 1
