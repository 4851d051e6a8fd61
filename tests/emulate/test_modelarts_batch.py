"""`servekit emulate modelarts-batch`: what a container is sent for files and rows, and the files that come of it."""

from __future__ import annotations

import email.policy
import json
import os
import shlex
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator, Mapping
from contextlib import closing
from email.parser import BytesParser
from pathlib import Path
from typing import Any

import pytest
from serving import clean_environ, script
from told import CLOSE, NOT_HTTP, Asked, Said, Told, told

from servekit.check.subject import at_url
from servekit.emulate.modelarts import mapping
from servekit.emulate.modelarts.batch import MAX_FILE_BYTES, Batch, Item, Job, NeverReady, form_field
from servekit.emulate.modelarts.declared import Api, Health, read
from servekit.errors import ConfigError

ROOT = Path(__file__).parents[2]
NUMBER: dict[str, Any] = {"type": "number"}
RESPONSE = {"Content-type": "application/json", "data": {"type": "object", "properties": {}}}


def config(data: Any, **more: Any) -> dict[str, Any]:
    """With one route, whose request is `data`."""
    request = {"Content-type": "multipart/form-data", "data": data}
    return {
        "model_type": "Image",
        "apis": [{"url": "/", "method": "post", "request": request, "response": RESPONSE}],
    } | more


def api(data: Any) -> Api:
    return read(json.dumps(config(data)).encode()).apis[0]


PICTURE = api({"type": "object", "properties": {"images": {"type": "file"}}})


def rows(**leaves: Mapping[str, Any]) -> dict[str, Any]:
    """The schema of a table, as the vendor's pages have it."""
    row = {"type": "object", "properties": leaves}
    table = {"type": "object", "properties": {"req_data": {"type": "array", "items": [row]}}}
    return {"type": "object", "properties": {"data": table}}


# --- the mapping rule ---

VENDORS = rows(**{f"input_{i + 1}": NUMBER | {"index": i} for i in range(4)})
KINDS = {
    "type": "object",
    "properties": {
        "name": {"type": "string", "index": 1},
        "count": {"type": "integer", "index": 0},
        "good": {"type": "boolean", "index": 2},
        "nested": {"type": "object", "properties": {"deep": {"type": "array", "items": [NUMBER | {"index": 3}]}}},
    },
}


@pytest.mark.parametrize(
    ("rule", "row", "expected"),
    [
        (VENDORS, "5.1,3.5,1.4,0.2",
         '{"data": {"req_data": [{"input_1": 5.1, "input_2": 3.5, "input_3": 1.4, "input_4": 0.2}]}}'),
        (VENDORS, " 1,-2 ,1e3,+.5", '{"data": {"req_data": [{"input_1": 1, "input_2": -2, "input_3": 1000.0, '
         '"input_4": 0.5}]}}'),
        (VENDORS, "1,2", '{"data": {"req_data": [{"input_1": 1, "input_2": 2}]}}'),
        (KINDS, "7,a b,TRUE,0.5",
         '{"name": "a b", "count": 7, "good": true, "nested": {"deep": [0.5]}}'),
        (rows(a=NUMBER | {"index": -1}, b=NUMBER, c=NUMBER | {"index": "0"}, d=NUMBER | {"index": 0}), "9",
         '{"data": {"req_data": [{"d": 9}]}}'),
        ({"properties": {"x": {"items": {"type": "number", "index": 0}}}}, "9", '{"x": [9]}'),
        ({"type": "array", "item": [NUMBER | {"index": 1}, NUMBER | {"index": 0}]}, "9,8", "[8, 9]"),
        ({"type": "object", "properties": {"x": {"type": "array", "items": [NUMBER | {"index": 5}]}, "y":
          NUMBER | {"index": 0}}}, "9", '{"x": [], "y": 9}'),
    ],
    ids=["the vendor's", "spaces and exponents", "too few columns", "kinds and nesting", "left out", "without types",
         "as an array", "nothing left of an array"],
)  # fmt: skip
def test_a_rule_makes_a_body_of_a_row(rule: Any, row: str, expected: str) -> None:
    assert json.dumps(mapping.parse(rule).body(row.split(","))) == expected


@pytest.mark.parametrize(
    ("rule", "row", "said"),
    [
        (VENDORS, "a,1,1,1", r"column 0 is data\.req_data\[0\]\.input_1: expected a number, got 'a'"),
        (VENDORS, "1,nan,1,1", "column 1 .*expected a number, got 'nan'"),
        (VENDORS, "1,1e999,1,1", "column 1 .*expected a number, got '1e999'"),
        (VENDORS, "1,,1,1", "column 1 .*expected a number, got ''"),
        (VENDORS, "1,1_0,1,1", "column 1 .*expected a number, got '1_0'"),
        (KINDS, "7.5,a,true,1", "column 0 is count: expected a whole number, got '7.5'"),
        (KINDS, "7,a,1,1", "column 2 is good: expected true or false, got '1'"),
    ],
)
def test_a_value_of_another_kind_is_no_row(rule: Any, row: str, said: str) -> None:
    with pytest.raises(mapping.BadRow, match=said):
        mapping.parse(rule).body(row.split(","))


def deep(levels: int) -> Any:
    schema: Any = NUMBER | {"index": 0}
    for _ in range(levels):
        schema = {"type": "object", "properties": {"x": schema}}
    return schema


@pytest.mark.parametrize(
    ("rule", "said"),
    [
        ([], "the mapping rule: expected an object with a type, got"),
        (NUMBER | {"index": 0}, "expected an object or an array"),
        (rows(a=NUMBER), 'expected an "index" from 0 in its leaves, got none'),
        (rows(a={"type": "file", "index": 0}), r"a\.type: expected one of object, array, string, .*got \"file\""),
        ({"type": "object", "properties": []}, "properties: expected an object"),
        ({"type": "array"}, r"\[0\]: expected an object with a type, got null"),
        (deep(40), "at most 32 objects and arrays in each other"),
    ],
)
def test_a_wrong_rule_says_what_was_expected(rule: Any, said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        mapping.parse(rule)


# --- a batch, against a container in this process ---


@pytest.fixture
def container() -> Iterator[Told]:
    with told() as server:
        yield server


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    made = tmp_path / "in"
    made.mkdir()
    return made


def batch(server: Told, folder: Path, *, rule: Any = None, **options: Any) -> list[Item]:
    """Its results are in `out` beside the input."""
    settings: dict[str, Any] = {
        "input": folder, "output": folder.parent / "out", "api": PICTURE, "task": "t", "health": Health(),
        "ready_within_s": 5.0, "rule": mapping.parse(rule) if rule is not None else None,
    }  # fmt: skip
    with closing(at_url(server.url)) as subject, closing(Batch(Job(**settings | options), subject)) as work:
        work.prepare()
        work.run(lambda percentage, words: None)
    return work.items


def files(folder: Path) -> dict[str, str]:
    return {
        str(path.relative_to(folder)): path.read_text() for path in sorted(folder.rglob("*")) if path.is_file()
    }  # fmt: skip


def echoed_form(asked: Asked) -> Said:
    """What a parser of forms that is not ours finds in it."""
    head = f"Content-Type: {asked.headers.get('content-type', '')}\r\n\r\n".encode()
    message = BytesParser(policy=email.policy.HTTP).parsebytes(head + asked.body)
    parts = [
        [part.get_param("name", header="content-disposition"), part.get_filename(), part.get_content_type(),
         bytes(part.get_payload(decode=True)).decode("latin-1")]
        for part in message.iter_parts()
    ]  # fmt: skip
    return Said(body=json.dumps(parts).encode())


def test_a_file_is_a_form_with_its_name(container: Told, folder: Path) -> None:
    container.answer = echoed_form
    (folder / "1.jpg").write_bytes(b"\xff\xd8\r\n--picture\0")
    (folder / "deep").mkdir()
    (folder / "deep" / "2.unknown").write_bytes(b"")
    (folder / 'ä "q".png').write_bytes(b"png")
    batch(container, folder)
    assert files(folder.parent / "out") == {
        "infer-result-t.manifest":
            '{"source": "1.jpg", "result": "SUCCESSFUL", "inference-loc": "infer-result/1.jpg_result.txt"}\n'
            '{"source": "deep/2.unknown", "result": "SUCCESSFUL", "inference-loc": '
            '"infer-result/deep/2.unknown_result.txt"}\n'
            '{"source": "ä \\"q\\".png", "result": "SUCCESSFUL", "inference-loc": '
            '"infer-result/ä \\"q\\".png_result.txt"}\n',
        "infer-result/1.jpg_result.txt":
            '[["images", "1.jpg", "image/jpeg", "\\u00ff\\u00d8\\r\\n--picture\\u0000"]]',
        "infer-result/deep/2.unknown_result.txt": '[["images", "2.unknown", "application/octet-stream", ""]]',
        'infer-result/ä "q".png_result.txt': '[["images", "\\u00e4 %22q%22.png", "image/png", "png"]]',
    }  # fmt: skip
    assert [(asked.method, asked.path) for asked in container.asked] == [("GET", "/health"), *[("POST", "/")] * 3]
    assert container.connections == 1


@pytest.mark.parametrize("concurrent", [1, 4])
def test_a_row_is_a_body_and_its_answer_a_line(concurrent: int, container: Told, folder: Path) -> None:
    container.answer = lambda asked: Said(body=b'{\n "was": %s\n}\n' % (asked.body or b"0"))
    (folder / "a.csv").write_bytes(b'\xef\xbb\xbf1,"x, ""y"""\r\n\r\n2,z\r\n')
    (folder / "b.CSV").write_text("\n".join(f"{i},r" for i in range(20)))
    rule = {"type": "object", "properties": {"n": NUMBER | {"index": 0}, "s": {"type": "string", "index": 1}}}
    batch(container, folder, rule=rule, concurrent=concurrent)
    assert files(folder.parent / "out") == {
        "infer-result-t.manifest":
            '{"source": "a.csv", "result": "SUCCESSFUL", "inference-loc": "infer-result/a.csv_result.txt"}\n'
            '{"source": "b.CSV", "result": "SUCCESSFUL", "inference-loc": "infer-result/b.CSV_result.txt"}\n',
        "infer-result/a.csv_result.txt":
            '{  "was": {"n": 1, "s": "x, \\"y\\""} }\n'
            '{  "was": {"n": 2, "s": "z"} }\n',
        "infer-result/b.CSV_result.txt":
            "".join(f'{{  "was": {{"n": {i}, "s": "r"}} }}\n' for i in range(20)),
    }  # fmt: skip
    sent = [asked for asked in container.asked if asked.method == "POST"]
    # Whatever config.json declares: its samples map rows to JSON under multipart/form-data.
    assert {asked.headers["content-type"] for asked in sent} == {"application/json"}
    assert len(sent) == 22


def test_a_manifest_names_the_files(container: Told, folder: Path) -> None:
    bucket = folder.parent / "obs" / "bucket"
    (bucket / "deep").mkdir(parents=True)
    (bucket / "deep" / "1.jpg").write_text("one")
    (folder / "1.jpg").write_text("two")
    (folder.parent / "secret").write_text("no")
    (folder / "link").symlink_to(folder.parent / "secret")
    sources = [
        "obs://bucket/deep/1.jpg", "s3://bucket/deep/1.jpg", "1.jpg", "obs://bucket/none.jpg", "https://host/1.jpg",
        "../secret", "/etc/hostname", "link", "obs://bucket", "obs://bucket/../../secret",
    ]  # fmt: skip
    (folder.parent / "out/infer-result").mkdir(parents=True)
    (folder.parent / "out/infer-result/none.jpg_result.txt").write_text("of an earlier job")
    listed = folder / "input.manifest"
    listed.write_text("\n".join(json.dumps({"source": source, "more": 1}) for source in sources) + "\n\n")
    container.answer = lambda asked: Said(body=b"%d" % len(asked.body.splitlines()))
    items = batch(container, listed, output=folder.parent / "out", obs=folder.parent / "obs")
    assert [(item.source, item.state, item.reason.replace(str(folder.parent), "...")) for item in items] == [
        ("obs://bucket/deep/1.jpg", "SUCCESSFUL", ""),
        ("s3://bucket/deep/1.jpg", "FAILED", "deep/1.jpg_result.txt is the result of an earlier line already"),
        ("1.jpg", "SUCCESSFUL", ""),
        ("obs://bucket/none.jpg", "FAILED", "there is no file .../obs/bucket/none.jpg"),
        ("https://host/1.jpg", "FAILED",
         "expected obs://BUCKET/FILE, or a file beside the manifest: nothing is fetched here"),
        ("../secret", "FAILED", "expected a file's name, without '.' and '..' in its path"),
        ("/etc/hostname", "FAILED", "expected a file's name, without '.' and '..' in its path"),
        ("link", "FAILED", "leads out of .../in"),
        ("obs://bucket", "FAILED", "expected a file's name, without '.' and '..' in its path"),
        ("obs://bucket/../../secret", "FAILED", "expected a file's name, without '.' and '..' in its path"),
    ]  # fmt: skip
    assert sorted(files(folder.parent / "out")) == [
        "infer-result-t.manifest", "infer-result/1.jpg_result.txt", "infer-result/deep/1.jpg_result.txt"
    ]  # fmt: skip
    assert len(container.bodies()) == 2


def test_without_a_folder_for_obs_its_files_fail(container: Told, folder: Path) -> None:
    (folder / "input.manifest").write_text('{"source": "obs://bucket/1.jpg"}')
    items = batch(container, folder / "input.manifest", output=folder.parent / "out")
    assert [item.reason for item in items] == [
        "name the folder that stands for OBS with --obs; its folders are the buckets"
    ]


def script_of(*answers: Said) -> Any:
    """One after another to the POSTs; the last one stays."""
    left = list(answers)
    return lambda asked: Said() if asked.method == "GET" else left.pop(0) if len(left) > 1 else left[0]


BUSY, BAD = Said(503, b"busy"), Said(400, b'{"error_msg":\n"no picture"}')


@pytest.mark.parametrize(
    ("answers", "retries", "state", "reason", "requests"),
    [
        ([BUSY, Said(429), Said()], 2, "SUCCESSFUL", "", 3),
        ([BUSY], 1, "FAILED", "the container said 503: busy", 2),
        ([Said(CLOSE), Said()], 1, "SUCCESSFUL", "", 2),
        ([Said(CLOSE)], 0, "FAILED", "the connection was closed before the end of the answer", 1),
        ([Said(NOT_HTTP)], 0, "FAILED", "what came is no HTTP/1.1 answer: BadStatusLine", 1),
        ([Said(body=b"half", length=9, then_close=True)], 0, "FAILED",
         "the connection was closed 5 bytes before the end of the answer", 1),
        ([BAD], 3, "FAILED", 'the container said 400: {"error_msg": "no picture"}', 1),
        ([Said(302, b"")], 3, "FAILED", "the container said 302", 1),
        ([Said(201, b"made")], 3, "SUCCESSFUL", "", 1),
    ],
)  # fmt: skip
def test_what_may_pass_is_tried_again(
    answers: list[Said], retries: int, state: str, reason: str, requests: int, container: Told, folder: Path
) -> None:
    container.answer = script_of(*answers)
    (folder / "1.jpg").write_text("x")
    (item,) = batch(container, folder, retries=retries)
    assert (item.state, item.reason, item.requests, item.retries) == (state, reason, requests, requests - 1)
    assert len(container.bodies()) == requests
    assert (folder.parent / "out/infer-result/1.jpg_result.txt").exists() == (state == "SUCCESSFUL")


def test_an_answer_that_is_late_is_none(container: Told, folder: Path) -> None:
    (folder / "1.jpg").write_text("x")
    release = threading.Event()

    def late(asked: Asked) -> Said:
        if asked.method == "POST":
            release.wait(20)
        return Said()

    container.answer = late
    (item,) = batch(container, folder, retries=0, timeout_s=0.1)
    release.set()
    assert (item.state, item.reason) == ("FAILED", "no answer within 0.1 s")


def test_one_bad_file_does_not_stop_the_others(container: Told, folder: Path) -> None:
    out = folder.parent / "out"
    (out / "infer-result").mkdir(parents=True)
    for name, body in (
        ("bad.csv", "1\nx\n3"), ("binary.csv", b"\xff\xfe"), ("empty.csv", "\n"), ("good.csv", "1\n2"),
        ("header.csv", "width\n1"), ("picture.jpg", "x"), ("quotes.csv", '"1'), ("refused.csv", "1\n13\n2"),
    ):  # fmt: skip
        (folder / name).write_bytes(body if isinstance(body, bytes) else body.encode())
        (out / "infer-result" / f"{name}_result.txt").write_text("of an earlier job")
    with (folder / "large.csv").open("wb") as large:
        os.truncate(large.fileno(), MAX_FILE_BYTES + 1)
    container.answer = lambda asked: BAD if asked.body == b'{"x": 13}' else Said(body=asked.body)
    items = batch(container, folder, rule={"type": "object", "properties": {"x": NUMBER | {"index": 0}}})
    assert {item.name: item.reason for item in items} == {
        "bad.csv": "row 2: column 0 is x: expected a number, got 'x'",
        "binary.csv": "cannot be read: 'utf-8' codec can't decode byte 0xff in position 0: invalid start byte",
        "empty.csv": "expected rows, got none",
        "good.csv": "",
        "header.csv": "row 1: column 0 is x: expected a number, got 'width'; a header is a row like all others",
        "large.csv": f"it has {MAX_FILE_BYTES + 1} bytes: expected at most {MAX_FILE_BYTES}",
        "picture.jpg": "expected a name that ends with .csv",
        "quotes.csv": "cannot be read: unexpected end of data",
        "refused.csv": 'row 2: the container said 400: {"error_msg": "no picture"}',
    }
    left = {path.name: path.read_text() for path in (out / "infer-result").iterdir()}
    assert left == {"good.csv_result.txt": '{"x": 1}\n{"x": 2}\n'}


def test_it_waits_for_the_health_check(container: Told, folder: Path) -> None:
    (folder / "1.jpg").write_text("x")
    probes = [Said(503), Said(404), Said()]
    container.answer = lambda asked: probes.pop(0) if asked.path == "/well" else Said()
    (item,) = batch(container, folder, health=Health("/well"))
    assert (item.state, probes) == ("SUCCESSFUL", [])
    container.answer = lambda asked: Said(503)
    with pytest.raises(NeverReady, match=r"was not ready within 0\.3 s: GET /health: expected 200, got 503"):
        batch(container, folder, ready_within_s=0.3)


@pytest.mark.parametrize(
    ("data", "said"),
    [
        ({"type": "object", "properties": {}}, "exactly one parameter.*got none"),
        ({"type": "object", "properties": {"a": {"type": "file"}, "b": {"type": "file"}}}, "exactly one.*got a, b"),
        ({"type": "object", "properties": {"a": {"type": "string"}}}, "exactly one parameter"),
        (None, r"ModelArts\.3514"),
    ],
)
def test_a_file_needs_the_one_parameter(data: Any, said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        form_field(api(data))


# --- the command ---

COMMAND = [sys.executable, "-c", "from servekit.cli.emulate_modelarts import modelarts_batch as run; run()"]
GOOD = config({"type": "object", "properties": {"images": {"type": "file"}}})


def command(*options: str | Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [*COMMAND, *map(str, options)], env=clean_environ(), capture_output=True, text=True, timeout=90, check=False
    )


def options(folder: Path, document: Any, **more: str | Path) -> list[str | Path]:
    (folder.parent / "config.json").write_text(json.dumps(document))
    given = {"input": folder, "output": folder.parent / "out", "config": folder.parent / "config.json"} | more
    return [word for name, value in given.items() for word in (f"--{name.replace('_', '-')}", value)]


def test_rows_of_a_real_predictor(folder: Path) -> None:
    names = ("sepal_length", "sepal_width", "petal_length", "petal_width")
    (folder / "sample.csv").write_bytes((ROOT / "examples/iris/sample.csv").read_bytes())
    (folder / "train.csv").write_text("sepal_length,sepal_width,petal_length,petal_width\n5.1,3.5,1.4,0.2\n")
    document = config(rows(**dict.fromkeys(names, NUMBER)), health={"url": "/health"})
    rule = folder.parent / "rule.json"
    rule.write_text(json.dumps({"mapping_rule": rows(**{n: NUMBER | {"index": i} for i, n in enumerate(names)})}))
    run = shlex.join([script("servekit"), "run", str(ROOT / "examples/iris"), "--platform", "modelarts"])
    ended = command(
        *options(folder, document, mapping_type="csv", mapping_rule=rule, task_id="t", concurrent="2"),
        "--command", f"{run} --port {{port}}", "--json",
    )  # fmt: skip
    assert ended.returncode == 1, ended.stderr
    said = json.loads(ended.stdout)
    assert (said["ok"], said["files"], said["successful"], said["failed"], said["retries"]) == (False, 2, 1, 1, 0)
    assert said["results"][1] == {
        "source": "train.csv", "result": "FAILED", "error_message":
        "row 1: column 0 is data.req_data[0].sepal_length: expected a number, got 'sepal_length'; a header is a row "
        "like all others",
    }  # fmt: skip
    out = folder.parent / "out"
    assert Path(said["manifest"]) == out / "infer-result-t.manifest"
    lines = (out / "infer-result/sample.csv_result.txt").read_text().splitlines()
    species = [json.loads(line)["data"]["resp_data"][0]["species"] for line in lines]
    assert species == ["setosa", "versicolor", "virginica"]


def test_a_container_that_ends_was_never_ready(folder: Path) -> None:
    (folder / "1.jpg").write_text("x")
    gone = shlex.join([sys.executable, "-c", "print('no weights'); raise SystemExit(7)"])
    ended = command(*options(folder, GOOD), "--command", gone)
    assert ended.returncode == 3, ended.stderr
    assert "no weights" in ended.stderr
    assert "the container ended with 7 before it was ready" in ended.stderr
    assert ended.stdout.startswith("0 of 1 files succeeded, 0 failed; 0 requests")


def test_what_is_interrupted_leaves_nothing_half_written(container: Told, folder: Path) -> None:
    for name in ("1.jpg", "2.jpg"):
        (folder / name).write_text("x")
    came, release = threading.Event(), threading.Event()

    def second_waits(asked: Asked) -> Said:
        if len(container.bodies()) == 2:
            came.set()
            release.wait(30)
        return Said(body=b"done")

    container.answer = second_waits
    words = map(str, options(folder, GOOD, container=container.url))
    process = subprocess.Popen([*COMMAND, *words, "--json"], env=clean_environ(), stdout=subprocess.PIPE, text=True)
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
    assert (said["reason"], said["successful"], said["failed"]) == ("interrupted", 1, 0)
    assert files(folder.parent / "out") == {"infer-result/1.jpg_result.txt": "done"}


INDEXED = {"type": "object", "properties": {"x": NUMBER | {"index": 0}}}


@pytest.mark.parametrize(
    ("document", "more", "said"),
    [
        (GOOD, {"mapping_rule": "config.json"}, "--mapping-rule: expected --mapping-type csv, too"),
        (GOOD, {"mapping_type": "csv"}, "--mapping-rule: expected a file"),
        (GOOD, {"mapping_type": "csv", "mapping_rule": "nothing"}, "--mapping-rule nothing: expected a JSON file"),
        (config(INDEXED), {}, 'needs exactly one parameter, with "type": "file"; got x'),
        (GOOD, {"output": "{in}/out"}, "expected a folder outside of the input's"),
        (GOOD, {"req_uri": "/other"}, "--req-uri /other: expected one of config.json's routes: POST /"),
        (GOOD, {"task_id": "../t"}, "--task-id '../t': expected at most 64 letters"),
        (GOOD, {"container": "ftp://host"}, "URL: expected http://HOST[:PORT]"),
        ([], {}, "config.json: expected an object, got []"),
        (config(INDEXED) | {"health": {"timeout_seconds": "soon"}}, {}, "health.timeout_seconds: expected a number"),
    ],
)
def test_a_wrong_option_is_one_line(
    document: Any, more: dict[str, str], said: str, folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from servekit.cli.emulate_modelarts import modelarts_batch

    (folder / "1.jpg").write_text("x")
    given = {name: text.replace("{in}", str(folder)) for name, text in more.items()}
    with pytest.raises(SystemExit) as ended:
        modelarts_batch.main(
            [str(word) for word in options(folder, document, **{"container": "http://127.0.0.1:9"} | given)]
        )
    written = capsys.readouterr().err
    assert ended.value.code == 2
    assert said in written
    assert written.count("\n") == 1
