"""Batch transform: what the output files hold, byte for byte, and what happens when something goes wrong.

The expected bytes are written from the pages that describe SplitType, BatchStrategy, AssembleWith and DataProcessing. The
container answers `<` and `>` around what it got, with long runs of a character shortened to its number.
"""

from __future__ import annotations

import gzip
import json
import os
import signal
import struct
import subprocess
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from sagemaker_emulated import COMMANDS, emulator, odd_container, real_container, running
from serving import clean_environ

from servekit.cli.emulate_sagemaker import transform

ROOT = Path(__file__).resolve().parents[2]


@dataclass(frozen=True)
class Container:
    url: str
    folder: Path

    def will(self, what: str, parameters: str | None = None) -> None:
        """Answer so from now on, and forget what was asked."""
        (self.folder / "do").write_text(what)
        (self.folder / "calls").unlink(missing_ok=True)
        (self.folder / "parameters").unlink(missing_ok=True)
        if parameters is not None:
            (self.folder / "parameters").write_text(parameters)

    @property
    def calls(self) -> list[dict[str, object]]:
        path = self.folder / "calls"
        return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []

    @property
    def bodies(self) -> list[str]:
        return [str(call["body"]) for call in self.calls]


@pytest.fixture(scope="module")
def container(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Container]:
    folder = tmp_path_factory.mktemp("container")
    with running(folder) as url:
        yield Container(url, folder)


@dataclass(frozen=True)
class Done:
    code: int
    out: str
    err: str
    files: dict[str, bytes]

    @property
    def document(self) -> dict[str, object]:
        found: dict[str, object] = json.loads(self.out)
        return found


@dataclass(frozen=True)
class Runner:
    """The command, in this process: a start of Python for each row of a table would cost a minute."""

    container: Container
    folder: Path
    captured: pytest.CaptureFixture[str]

    def __call__(self, objects: dict[str, bytes], *options: str, url: str | None = None) -> Done:
        for name, content in objects.items():
            path = self.folder / "in" / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(content)
        out = self.folder / "out"
        command = ["--input", str(self.folder / "in"), "--output", str(out), "--container", url or self.container.url]
        with pytest.raises(SystemExit) as end:
            transform.main([*command, *options])
        said = self.captured.readouterr()
        files = {path.relative_to(out).as_posix(): path.read_bytes() for path in out.rglob("*") if path.is_file()}
        return Done(int(end.value.code or 0), said.out, said.err, files)


@pytest.fixture
def run(container: Container, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Runner:
    return Runner(container, tmp_path, capsys)


# --- every combination of split, strategy and assembly ---------------------------------------------------------------

# At 1 MB for a request two records of 400,000 bytes fit in one, and three do not.
LINES = b"a" * 400_000 + b"\n" + b"b" * 400_000 + b"\n" + b"c" * 400_000 + b"\n"
# The last line need not have an end; an empty line is a record.
SHORT = b"x\n\ny"
MAGIC = b"\n#\xd7\xce"


def recordio(data: bytes) -> bytes:
    return MAGIC + struct.pack("<I", len(data)) + data + b"\0" * (-len(data) % 4)


FRAMES = recordio(b"a" * 400_001) + recordio(b"b" * 400_000) + recordio(b"c" * 400_000)
COMBINATIONS = {
    ("None", "SingleRecord", "None"): [
        (SHORT, b"<x\n\ny>"),
        (FRAMES[400_012:], b"<\n#\xd7\xce\x80\x1a\x06\x00b400000\n#\xd7\xce\x80\x1a\x06\x00c400000>"),
    ],
    ("None", "SingleRecord", "Line"): [
        (SHORT, b"<x\n\ny>\n"),
        (FRAMES[400_012:], b"<\n#\xd7\xce\x80\x1a\x06\x00b400000\n#\xd7\xce\x80\x1a\x06\x00c400000>\n"),
    ],
    ("None", "MultiRecord", "None"): [
        (SHORT, b"<x\n\ny>"),
        (FRAMES[400_012:], b"<\n#\xd7\xce\x80\x1a\x06\x00b400000\n#\xd7\xce\x80\x1a\x06\x00c400000>"),
    ],
    ("None", "MultiRecord", "Line"): [
        (SHORT, b"<x\n\ny>\n"),
        (FRAMES[400_012:], b"<\n#\xd7\xce\x80\x1a\x06\x00b400000\n#\xd7\xce\x80\x1a\x06\x00c400000>\n"),
    ],
    ("Line", "SingleRecord", "None"): [
        (LINES, b"<a400000><b400000><c400000>"),
        (SHORT, b"<x><><y>"),
    ],
    ("Line", "SingleRecord", "Line"): [
        (LINES, b"<a400000>\n<b400000>\n<c400000>\n"),
        (SHORT, b"<x>\n<>\n<y>\n"),
    ],
    ("Line", "MultiRecord", "None"): [
        (LINES, b"<a400000\nb400000\n><c400000\n>"),
        (SHORT, b"<x\n\ny>"),
    ],
    ("Line", "MultiRecord", "Line"): [
        (LINES, b"<a400000\nb400000\n>\n<c400000\n>\n"),
        (SHORT, b"<x\n\ny>\n"),
    ],
    ("RecordIO", "SingleRecord", "None"): [
        (FRAMES, b"<a400001><b400000><c400000>"),
    ],
    ("RecordIO", "SingleRecord", "Line"): [
        (FRAMES, b"<a400001>\n<b400000>\n<c400000>\n"),
    ],
    ("RecordIO", "MultiRecord", "None"): [
        (FRAMES, b"<\n#\xd7\xce\x81\x1a\x06\x00a400001\0\0\0\n#\xd7\xce\x80\x1a\x06\x00b400000>"
                 b"<\n#\xd7\xce\x80\x1a\x06\x00c400000>"),
    ],
    ("RecordIO", "MultiRecord", "Line"): [
        (FRAMES, b"<\n#\xd7\xce\x81\x1a\x06\x00a400001\0\0\0\n#\xd7\xce\x80\x1a\x06\x00b400000>\n"
                 b"<\n#\xd7\xce\x80\x1a\x06\x00c400000>\n"),
    ],
}  # fmt: skip


@pytest.mark.parametrize(("split", "strategy", "assembly"), COMBINATIONS)
def test_split_strategy_and_assembly(run: Runner, split: str, strategy: str, assembly: str) -> None:
    run.container.will("squeeze")
    cases = COMBINATIONS[split, strategy, assembly]
    done = run(
        {f"{number}/object": given for number, (given, _) in enumerate(cases)},
        "--split-type", split, "--batch-strategy", strategy, "--assemble-with", assembly, "--max-payload-mb", "1",
        "--max-concurrent", "3",
    )  # fmt: skip
    assert done.code == 0, done.err
    assert done.files == {f"{number}/object.out": expected for number, (_, expected) in enumerate(cases)}


# --- limits --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("split", "given", "why"),
    [
        ("None", b"a" * 1_048_577, "the object: expected at most 1048576 bytes (MaxPayload), got 1048577; split it"),
        ("Line", b"ok\n" + b"a" * 1_048_577, "record 2: expected at most 1048576 bytes (MaxPayload), got 1048577"),
        ("Line", b"ok\n" + b"a" * 3_000_000, "record 2: expected at most 1048576 bytes (MaxPayload), got more"),
        ("RecordIO", recordio(b"ok") + recordio(b"a" * 1_048_577), "record 2: expected at most 1048576 bytes"),
        ("RecordIO", b"no frame of RecordIO", "record 1: expected a frame of RecordIO, got 6e6f206672616d65"),
        ("RecordIO", recordio(b"whole")[:-2], "record 1: the object ends within a frame"),
        ("RecordIO", MAGIC, "record 1: the object ends within a frame"),
        ("RecordIO", MAGIC + struct.pack("<I", (1 << 29) | 4) + b"half", "record 1: the object ends within a record"),
        ("RecordIO", MAGIC + struct.pack("<I", (3 << 29) | 4) + b"tail", "record 1: expected a frame of RecordIO"),
    ],
)
@pytest.mark.parametrize("strategy", ["SingleRecord", "MultiRecord"])
def test_an_object_that_cannot_be_sent_fails_by_itself(
    run: Runner, split: str, strategy: str, given: bytes, why: str
) -> None:
    run.container.will("squeeze")
    good = recordio(b"fine") if split == "RecordIO" else b"fine"
    done = run(
        {"bad": given, "good": good}, "--split-type", split, "--batch-strategy", strategy, "--max-payload-mb", "1"
    )
    assert done.code == 1
    assert list(done.files) == ["good.out"]
    assert f"failed    bad: {why}" in done.err
    assert done.out.startswith("1 of 2 objects completed, 1 failed;")


def test_a_record_of_the_limit_is_taken(run: Runner) -> None:
    run.container.will("squeeze")
    options = ("--split-type", "Line", "--batch-strategy", "SingleRecord", "--max-payload-mb", "1")
    assert run({"object": b"a" * 1_048_576 + b"\nb"}, *options).files == {"object.out": b"<a1048576><b>"}


def test_a_record_of_recordio_in_parts_is_one(run: Runner) -> None:
    """The magic number in a record is what it was cut at."""

    def part(which: int, data: bytes) -> bytes:
        return MAGIC + struct.pack("<I", which << 29 | len(data)) + data + b"\0" * (-len(data) % 4)

    run.container.will("squeeze")
    given = part(1, b"begi") + part(2, b"mid") + part(3, b"end") + recordio(b"next")
    options = ("--split-type", "RecordIO", "--batch-strategy", "SingleRecord")
    assert run({"object": given}, *options).files == {"object.out": b"<begi" + MAGIC + b"mid" + MAGIC + b"end><next>"}


@pytest.mark.parametrize(
    ("split", "strategy", "requests"),
    [("None", "MultiRecord", 1), ("Line", "MultiRecord", 1), ("Line", "SingleRecord", 3)],
)
def test_no_limit_is_sent_in_chunks(run: Runner, split: str, strategy: str, requests: int) -> None:
    run.container.will("squeeze")
    given = b"a" * 3_000_000 + b"\nb\nc\n"
    done = run(
        {"object": given}, "--split-type", split, "--batch-strategy", strategy, "--max-payload-mb", "0",
        "--assemble-with", "Line",
    )  # fmt: skip
    single = b"<a3000000>\n<b>\n<c>\n"
    assert done.files == {"object.out": single if requests == 3 else b"<a3000000\nb\nc\n>\n"}
    assert [call["headers"].get("transfer-encoding") for call in run.container.calls] == ["chunked"] * requests  # type: ignore[attr-defined]


def test_an_empty_object(run: Runner) -> None:
    run.container.will("squeeze")
    assert run({"whole": b""}, "--split-type", "None").files == {"whole.out": b"<>"}
    run.container.will("squeeze")
    assert run({"whole": b""}, "--split-type", "Line").files == {"whole.out": b""}
    assert run.container.calls == []


def test_gzip_is_unpacked_first(run: Runner) -> None:
    run.container.will("squeeze")
    done = run(
        {"a.gz": gzip.compress(LINES), "cut.gz": gzip.compress(LINES)[:-20], "plain": b"plain"},
        "--compression-type", "gzip", "--split-type", "line", "--batch-strategy", "SingleRecord",
    )  # fmt: skip
    assert done.code == 1
    assert done.files == {"a.gz.out": b"<a400000><b400000><c400000>"}
    assert "failed    cut.gz: Compressed file ended" in done.err
    assert "failed    plain: Not a gzipped file" in done.err


# --- parameters ----------------------------------------------------------------------------------------------------

SAID = '{"MaxConcurrentTransforms": 7, "BatchStrategy": "SINGLE_RECORD", "MaxPayloadInMB": 11}'
LARGE = '{"MaxConcurrentTransforms": 30, "BatchStrategy": "MULTI_RECORD", "MaxPayloadInMB": 6}'


@pytest.mark.parametrize(
    ("said", "options", "expected"),
    [
        (None, (), (1, "MultiRecord", 6)),
        (SAID, (), (7, "SingleRecord", 11)),
        (SAID, ("--max-concurrent", "0"), (7, "SingleRecord", 11)),
        (SAID, ("--max-concurrent", "2", "--batch-strategy", "MultiRecord"), (2, "MultiRecord", 11)),
        (SAID, ("--max-payload-mb", "0"), (7, "SingleRecord", 0)),
        (SAID, ("--max-payload-mb", "50"), (2, "SingleRecord", 50)),
        (LARGE, (), (16, "MultiRecord", 6)),
        ("[1]", (), (1, "MultiRecord", 6)),
        ("no JSON", (), (1, "MultiRecord", 6)),
        ('{"MaxPayloadInMB": 20}', (), (1, "MultiRecord", 20)),
    ],
)
def test_the_job_says_else_the_container_else_the_platform(
    run: Runner, said: str | None, options: tuple[str, ...], expected: tuple[int, str, int]
) -> None:
    run.container.will("squeeze", said)
    done = run({"object": b"1\n2\n"}, "--split-type", "Line", "--json", *options)
    assert done.code == 0, done.err
    assert done.document["parameters"] == dict(zip(("concurrent", "strategy", "payload_mb"), expected, strict=True))
    assert len(run.container.calls) == (2 if expected[1] == "SingleRecord" else 1)


@pytest.mark.parametrize(
    ("said", "options", "why"),
    [
        ('{"MaxPayloadInMB": "6"}', (), "MaxPayloadInMB: expected a number from 0 to 100, got '6'"),
        ('{"BatchStrategy": "MultiRecord"}', (), "BatchStrategy: expected SINGLE_RECORD or MULTI_RECORD, got 'Multi"),
        (None, ("--max-concurrent", "11", "--max-payload-mb", "10"), "expected at most 100 in all"),
    ],
)
def test_parameters_that_the_platform_would_not_take(
    run: Runner, said: str | None, options: tuple[str, ...], why: str
) -> None:
    run.container.will("squeeze", said)
    done = run({"object": b"1"}, *options)
    assert done.code == 2
    assert why in done.err
    assert done.files == {}


def test_headers_and_order(run: Runner) -> None:
    """Many at once, and the results in the order of the records."""
    run.container.will("squeeze")
    given = b"".join(b"%d\n" % number for number in range(300))
    done = run(
        {"object": given}, "--split-type", "Line", "--batch-strategy", "SingleRecord", "--assemble-with", "Line",
        "--max-concurrent", "8", "--content-type", "text/csv", "--accept", "text/plain",
    )  # fmt: skip
    assert done.files == {"object.out": b"".join(b"<%d>\n" % number for number in range(300))}
    calls = run.container.calls
    assert len(calls) == 300
    seen = [call["headers"] for call in calls]
    assert {(head["content-type"], head["accept"]) for head in seen} == {("text/csv", "text/plain")}  # type: ignore[index]
    # The connections are kept.
    assert sum(call["request_on_connection"] == 1 for call in calls) <= 8
    assert done.out.startswith("1 of 1 objects completed, 0 failed; 300 records, 300 requests, 0 of them again; 8 at")


def test_a_line_end_too_many_is_noted(run: Runner) -> None:
    run.container.will("lines %d")
    done = run({"a": b"xx\nyyy\n", "b": b"z"}, "--split-type", "Line", "--assemble-with", "Line")
    assert done.files == {"a.out": b"2\n3\n\n", "b.out": b"1\n\n"}
    assert done.err.count("AssembleWith Line adds another") == 1


# --- what goes wrong -------------------------------------------------------------------------------------------------


def test_a_bad_record_fails_its_object_and_no_other(run: Runner) -> None:
    run.container.will("refuse 400 bad")
    done = run(
        {"1.csv": b"a\nb\n", "sub/2.csv": b"a\nbad\nc\n", "3.csv": b"d\n"}, "--split-type", "Line", "--batch-strategy",
        "SingleRecord", "--json",
    )  # fmt: skip
    assert done.code == 1
    assert done.files == {"1.csv.out": b"ab", "3.csv.out": b"d"}
    found = {str(thing["name"]): thing for thing in done.document["objects"]}  # type: ignore[attr-defined]
    assert list(found) == ["1.csv", "3.csv", "sub/2.csv"]
    assert found["sub/2.csv"]["state"] == "Failed"
    assert found["sub/2.csv"]["reason"] == "record 2: the container said 400: a bad record"
    assert found["sub/2.csv"]["output"] is None
    assert found["1.csv"]["state"] == "Completed"
    # A client's error is not tried again.
    assert sum("bad" in body for body in run.container.bodies) == 1


def test_an_earlier_result_does_not_outlive_a_failure(run: Runner) -> None:
    run.container.will("squeeze")
    assert run({"object": b"bad"}).files == {"object.out": b"<bad>"}
    run.container.will("refuse 400 bad")
    assert run({"object": b"bad"}).files == {}


@pytest.mark.parametrize(
    ("what", "options", "code", "requests", "why"),
    [
        ("flaky 503 2", (), 0, 3, ""),
        ("flaky 429 1", (), 0, 2, ""),
        ("flaky 500 9", ("--retries", "1"), 1, 2, "the container said 500: fine"),
        ("flaky 503 1", ("--retries", "0"), 1, 1, "the container said 503: fine"),
        ("status 413 too large", (), 1, 1, "the container said 413: too large"),
        ("close", ("--retries", "1"), 1, 2, "the connection was closed before the end of the answer"),
        ("cut", ("--retries", "0"), 1, 1, "the connection was closed 96 bytes before the end of the answer"),
        ("sleep 5", ("--retries", "1", "--timeout-s", "0.2"), 1, 2, "no answer within 0.2 s"),
    ],
)
def test_retries(run: Runner, what: str, options: tuple[str, ...], code: int, requests: int, why: str) -> None:
    run.container.will(what)
    done = run({"object": b"1"}, "--json", *options)
    assert done.code == code
    [thing] = done.document["objects"]  # type: ignore[misc]
    assert (thing["requests"], thing["retries"]) == (requests, requests - 1)
    assert thing["reason"] == (f"the object: {why}" if why else "")
    assert done.files == ({} if code else {"object.out": b"fine"})


def test_wrong_folders(run: Runner, tmp_path: Path) -> None:
    empty = tmp_path / "in"
    empty.mkdir()
    assert "expected files, got an empty folder" in run({}).err
    done = run({"a": b"1"}, "--output", str(tmp_path / "in" / "out"))
    assert (done.code, done.files) == (2, {})
    assert "expected a folder outside of the input's" in done.err
    assert "expected a folder or a file" in run({}, "--input", str(tmp_path / "absent")).err
    (tmp_path / "file").write_bytes(b"")
    assert "expected a folder, got a file" in run({"a": b"1"}, "--output", str(tmp_path / "file")).err
    done = run({}, "--input", str(tmp_path / "absent"), "--json")
    assert done.document["ok"] is False
    assert done.document["exit_code"] == 2


def test_a_result_cannot_be_a_folder_too(run: Runner) -> None:
    done = run({"a": b"1", "a.out/b": b"2"})
    assert (done.code, done.files) == (2, {})
    assert "'a.out/b': its folder has the name of another object's result, 'a.out'" in done.err


def test_what_came_before_a_failing_disk_is_told(run: Runner) -> None:
    run.container.will("squeeze")
    # A folder stands where the last result goes: it cannot be written, whoever runs this.
    (run.folder / "out" / "7.out").mkdir(parents=True)
    done = run({str(number): b"1" for number in range(1, 8)}, "--json")
    assert done.code == 1
    assert "7.out" in str(done.document["reason"])
    assert done.files["1.out"] == b"<1>"
    assert not [name for name in done.files if name.endswith(".part")]
    assert done.document["objects"][0]["state"] == "Completed"  # type: ignore[index]


def test_a_name_that_is_no_text(run: Runner) -> None:
    run.container.will("squeeze")
    name = os.fsdecode(b"\xff")
    done = run({name: b"1"}, "--json")
    assert done.files == {f"{name}.out": b"<1>"}
    assert done.document["objects"][0]["name"] == "\\udcff"  # type: ignore[index]


def test_one_file_is_an_object(run: Runner, tmp_path: Path) -> None:
    run.container.will("squeeze")
    (tmp_path / "alone.txt").write_bytes(b"1")
    assert run({}, "--input", str(tmp_path / "alone.txt")).files == {"alone.txt.out": b"<1>"}


# --- filters and joins -----------------------------------------------------------------------------------------------

CSV = ("--content-type", "text/csv", "--accept", "text/csv")
LINES_OF_JSON = ("--content-type", "application/jsonlines", "--accept", "application/jsonlines")
ONE_JSON = ("--content-type", "application/json", "--accept", "application/json")
BY_LINE = ("--split-type", "Line", "--assemble-with", "Line")
ROWS = b'1,2,3,4,5,6\n7,8,"9,0",10,11,12\n'


@pytest.mark.parametrize(
    ("given", "answer", "options", "sent", "expected"),
    [
        # The examples of the page.
        (b"1,2,3\n", "1", (*CSV, *BY_LINE, "--join", "Input"), "1,2,3\n", b"1,2,3,1\n"),
        (b'{"key":1}\n', '{"label":1}', (*LINES_OF_JSON, *BY_LINE, "--join", "Input"), '{"key":1}\n',
         b'{"key":1,"SageMakerOutput":{"label":1}}\n'),
        (b"[1]\n", '{"label":1}', (*LINES_OF_JSON, *BY_LINE, "--join", "Input"), "[1]\n",
         b'{"SageMakerInput":[1],"SageMakerOutput":{"label":1}}\n'),
        (b"id1,2,3,4,5\n", "0.5", (*CSV, *BY_LINE, "--join", "Input", "--input-filter", "$[1:]"), "2,3,4,5\n",
         b"id1,2,3,4,5,0.5\n"),
        (b'{"id":7,"features":[1,2]}\n', "0.5",
         (*LINES_OF_JSON, *BY_LINE, "--join", "Input", "--input-filter", "$.features", "--output-filter",
          "$['id','SageMakerOutput']"), "[1,2]\n", b'{"id":7,"SageMakerOutput":0.5}\n'),
        # Ranges count their end in: $[1:4] is the second to the fifth column, [:5] the first to the sixth.
        (b"0,1,2,3,4,5,6\n", "x", (*CSV, *BY_LINE, "--input-filter", "$[1:4]"), "1,2,3,4\n", b"x\n"),
        (b"0,1,2,3,4,5,6\n", "x", (*CSV, *BY_LINE, "--input-filter", "$[:5]"), "0,1,2,3,4,5\n", b"x\n"),
        (b"0,1,2,3,4,5,6\n", "x", (*CSV, *BY_LINE, "--input-filter", "$[5:]"), "5,6\n", b"x\n"),
        # Rows and indexes.
        (b"1,2,3\n", "a,b", (*CSV, *BY_LINE, "--join", "Input", "--output-filter", "$[0,-1]"), "1,2,3\n", b"1,b\n"),
        (b"1,2,3\n", "a", (*CSV, *BY_LINE, "--join", "Input", "--output-filter", "$[3]"), "1,2,3\n", b"a\n"),
        (b'"a,b",2\n', '"c ""d"""', (*CSV, *BY_LINE, "--join", "Input"), '"a,b",2\n', b'"a,b",2,"c ""d"""\n'),
        (b"1,2,3\n", "a,b,c", (*CSV, *BY_LINE, "--output-filter", "$[1:]"), "1,2,3\n", b"b,c\n"),
        # A record by itself has no line end.
        (b"1,2\n", "x", (*CSV, *BY_LINE, "--join", "Input", "--batch-strategy", "SingleRecord"), "1,2", b"1,2,x\n"),
        # A whole object of JSON.
        (b'{\n "key": 1\n}', '{"label": 1}', (*ONE_JSON, "--join", "Input"), '{\n "key": 1\n}',
         b'{"key":1,"SageMakerOutput":{"label":1}}'),
        (b"[[1], [2]]", "[3, 4]", (*ONE_JSON, "--join", "Input"), "[[1], [2]]",
         b'{"SageMakerInput":[[1],[2]],"SageMakerOutput":[3,4]}'),
        (b'{"a":{"b":[1,2]}}', '{"c":{"d":5,"e":6}}', (*ONE_JSON, "--input-filter", "$.a.b[1]", "--output-filter", "$.c.*"),
         "2", b"[5,6]"),
        (b'{"SageMakerOutput":"mine","k":1}', "2", (*ONE_JSON, "--join", "Input"), '{"SageMakerOutput":"mine","k":1}',
         b'{"SageMakerOutput":2,"k":1}'),
        # Half of a character, and a field that is longer than Python's csv takes unasked.
        (rb'{"a":"\ud800"}', "1", (*ONE_JSON, "--join", "Input"), r'{"a":"\ud800"}', rb'{"a":"\ud800","SageMakerOutput":1}'),
        (b"1," + b"w" * 140_000 + b"\n", "x", (*CSV, *BY_LINE, "--join", "Input", "--input-filter", "$[0]"), "1\n",
         b"1," + b"w" * 140_000 + b",x\n"),
        (b'{"field1":{"child1":1,"child2":2,"c":3}}', "0", (*ONE_JSON, "--input-filter", "$.field1.['child1','child2']"),
         '{"child1":1,"child2":2}', b"0"),
        ('{"ü":"é"}'.encode(), '"x"', (*ONE_JSON, "--join", "Input"), '{"Ã¼":"Ã©"}', '{"ü":"é","SageMakerOutput":"x"}'.encode()),
    ],
)  # fmt: skip
def test_filters_and_joins(
    run: Runner, given: bytes, answer: str, options: tuple[str, ...], sent: str, expected: bytes
) -> None:
    run.container.will(f"constant {answer}")
    done = run({"object": given}, *options)
    assert done.code == 0, done.err
    assert run.container.bodies == [sent]
    assert done.files == {"object.out": expected}


def test_mini_batches_are_joined_line_by_line(run: Runner) -> None:
    """lines: the length of each line that the container got."""
    run.container.will("lines %d")
    done = run({"a": ROWS, "b": b"1,2,3\n"}, *CSV, *BY_LINE, "--join", "Input", "--input-filter", "$[0,1,2]")
    assert done.code == 0, done.err
    assert run.container.bodies == ['1,2,3\n7,8,"9,0"\n', "1,2,3\n"]
    assert done.files == {"a.out": b'1,2,3,4,5,6,5\n7,8,"9,0",10,11,12,9\n', "b.out": b"1,2,3,5\n"}
    assert "note" not in done.err


@pytest.mark.parametrize(
    ("given", "answer", "options", "why"),
    [
        (b"1\n2\n", "one", (*CSV, *BY_LINE, "--join", "Input"), "records 1 to 2: the container answered 2 records with 1 l"),
        (b"1,2\n", "x", (*CSV, *BY_LINE, "--input-filter", "$[2]"), "record 1: $[2]: there is no index 2 in 2 elements"),
        (b"1,2\n", "x", (*CSV, *BY_LINE, "--output-filter", "$[0:2]"), "record 1: $[0:2]: there is no index 2 in 1 elem"),
        (b'"1\n', "x", (*CSV, *BY_LINE, "--input-filter", "$[0]"), "record 1: expected text/csv: unexpected end of data"),
        (b'{"a":1}\n{"b":2}\n', "{}", (*LINES_OF_JSON, *BY_LINE, "--input-filter", "$.a"), "record 2: $.a: there is no 'a'"),
        (b"[1]\n", "{}", (*LINES_OF_JSON, *BY_LINE, "--input-filter", "$.a"), "record 1: $.a: expected an object that has 'a'"),
        (b"{\n", "{}", (*LINES_OF_JSON, *BY_LINE, "--input-filter", "$.a"), "record 1: expected application/jsonlines: Exp"),
        (b"{}\n", "<html>", (*LINES_OF_JSON, *BY_LINE, "--join", "Input"), "record 1: expected application/jsonlines: Exp"),
        (b'{"a":1}\n', "{}", (*LINES_OF_JSON, *BY_LINE, "--input-filter", "$.a[0]"), "record 1: $.a[0]: expected a list, got a n"),
        (b'{"a":"\xff"}\n', "{}", (*LINES_OF_JSON, *BY_LINE, "--input-filter", "$.a"), "record 1: expected UTF-8"),
    ],
)  # fmt: skip
def test_records_that_do_not_fit_the_filter(
    run: Runner, given: bytes, answer: str, options: tuple[str, ...], why: str
) -> None:
    run.container.will(f"constant {answer}")
    done = run({"object": given}, *options)
    assert (done.code, done.files) == (1, {})
    assert f"failed    object: {why}" in done.err


@pytest.mark.parametrize(
    ("options", "why"),
    [
        (("--join", "Input"), "expected --content-type and --accept to be the same"),
        (("--join", "Input", "--content-type", "text/csv", "--accept", "application/json", *BY_LINE), "to be the same"),
        (("--join", "Input", "--content-type", "image/png", "--accept", "image/png"), "one of text/csv, application/json"),
        (("--join", "Input", *CSV), "text/csv has a record in each line: expected --split-type Line"),
        (("--join", "Input", *CSV, "--split-type", "Line"), "to be the same, Line or None, got Line and None"),
        (("--join", "Input", *ONE_JSON, "--split-type", "RecordIO"), "to be the same, Line or None, got RecordIO"),
        (("--input-filter", "$.a", *CSV, *BY_LINE), "--input-filter '$.a': a row of CSV has indexes only"),
        (("--input-filter", "a", *CSV, *BY_LINE), "expected $, the record, at its beginning"),
        (("--output-filter", "$[0:2,5:]", *CSV, *BY_LINE), "takes one range such as [1:5], or indexes such as [0,2], not"),
        (("--output-filter", "$['account_id']", *LINES_OF_JSON, *BY_LINE), "the platform takes no '_'"),
        (("--output-filter", "$..a", *LINES_OF_JSON, *BY_LINE), "expected .name, ['name','name'], [0,1], [1:5] or * at"),
        (("--output-filter", "$['a','b'].c", *LINES_OF_JSON, *BY_LINE), "expected nothing behind several names"),
        (("--output-filter", "$['a','b.c']", *LINES_OF_JSON, *BY_LINE), "expected .name, ['name','name']"),
        (("--output-filter", "$" + ".a" * 32, *LINES_OF_JSON, *BY_LINE), "expected at most 63 characters, got 65"),
        (("--accept", "téxt/csv"), "--accept: expected at most 256 visible ASCII characters, got 'téxt/csv'"),
        (("--output-filter", "$[", *LINES_OF_JSON, *BY_LINE), "expected .name, ['name','name']"),
    ],
)  # fmt: skip
def test_processing_that_the_platform_would_not_take(run: Runner, options: tuple[str, ...], why: str) -> None:
    run.container.will("squeeze")
    done = run({"object": b"1"}, *options)
    assert (done.code, done.files) == (2, {})
    assert why in done.err
    assert run.container.calls == []


def test_the_end_of_a_range_is_noted(run: Runner) -> None:
    run.container.will("constant x")
    assert "'$[0:1]': its end counts in" in run({"object": b"1,2,3"}, *CSV, *BY_LINE, "--input-filter", "$[0:1]").err


# --- as processes ----------------------------------------------------------------------------------------------------


def test_a_container_is_started_with_the_jobs_variables(tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "a").write_bytes(b"1\n2\n")
    done = emulator(
        "sagemaker-transform", "--input", str(tmp_path / "in"), "--output", str(tmp_path / "out"), "--command",
        odd_container(tmp_path), "--split-type", "Line", "--batch-strategy", "SingleRecord", "--max-concurrent", "2",
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    [start] = (tmp_path / "starts").read_text().splitlines()
    assert json.loads(start) == {
        "SAGEMAKER_BATCH": "true", "SAGEMAKER_BATCH_STRATEGY": "SINGLE_RECORD", "SAGEMAKER_MAX_CONCURRENT_TRANSFORMS": "2",
    }  # fmt: skip


def test_a_real_container(tmp_path: Path) -> None:
    """A servekit server: its own /execution-parameters, its own answers in CSV, joined with what was sent."""
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "flowers.csv").write_bytes(b"first,5.1,3.5,1.4,0.2\nsecond,6.7,3.0,5.2,2.3\n")
    (tmp_path / "in" / "bad.csv").write_bytes(b"third,5.1,3.5,1.4,0.2\nfourth,wide,3.0,5.2,2.3\n")
    done = emulator(
        "sagemaker-transform", "--input", str(tmp_path / "in"), "--output", str(tmp_path / "out"), "--command",
        real_container(ROOT / "examples" / "iris"), *CSV, *BY_LINE, "--join", "Input", "--input-filter", "$[1:]",
        "--output-filter", "$[0,5]", "--json",
    )  # fmt: skip
    assert done.returncode == 1, done.stderr
    assert (tmp_path / "out" / "flowers.csv.out").read_bytes() == b"first,setosa\nsecond,virginica\n"
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["flowers.csv.out"]
    document = json.loads(done.stdout)
    assert document["parameters"]["strategy"] == "MultiRecord"
    failed = document["objects"][0]
    assert failed["name"] == "bad.csv"
    assert "the container said 400" in failed["reason"]


def test_a_container_that_ends_at_once(tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "a").write_bytes(b"1")
    done = emulator(
        "sagemaker-transform", "--input", str(tmp_path / "in"), "--output", str(tmp_path / "out"), "--command",
        "sh -c 'echo no model; exit 4'",
    )  # fmt: skip
    assert done.returncode == 3
    assert "container no model" in done.stderr
    assert "stopped   the container ended with 4 before it was ready" in done.stderr


def test_ctrl_c_leaves_nothing_half_done(tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "a").write_bytes(b"1")
    (tmp_path / "in" / "b").write_bytes(b"2")
    (tmp_path / "do").write_text("sleep 60")
    process = subprocess.Popen(
        [*COMMANDS["sagemaker-transform"], "--input", str(tmp_path / "in"), "--output", str(tmp_path / "out"),
         "--command", odd_container(tmp_path), "--json"],
        env=clean_environ(), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    deadline_s = time.monotonic() + 60
    while not (tmp_path / "calls").exists():
        assert process.poll() is None
        assert time.monotonic() < deadline_s
        time.sleep(0.02)
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=30)
    assert process.returncode == 130, err
    document = json.loads(out)
    assert document["reason"] == "interrupted"
    assert {thing["state"] for thing in document["objects"]} <= {"InProgress", "Waiting"}
    assert [path for path in (tmp_path / "out").rglob("*") if path.is_file()] == []
    # Its container is gone, too.
    pids = subprocess.run(["pgrep", "-f", str(tmp_path)], capture_output=True, text=True)
    assert pids.stdout == ""
