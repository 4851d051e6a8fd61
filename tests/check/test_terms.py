"""The clauses are well made, and their judgements on files, images and answers are right. No server is needed."""

from __future__ import annotations

import importlib.util
import inspect
import json
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pytest

from servekit.check import runner, scenarios
from servekit.launch.platforms import installed
from servekit.platforms.modelarts import terms as modelarts
from servekit.platforms.modzy import terms as modzy
from servekit.platforms.sagemaker import terms as sagemaker
from servekit.terms import Ask, Asks, Clause, Image, Named, Sample, Seen, Terms, which

ROOT = Path(__file__).parents[2]
PREFIXES = {"sagemaker": "SM", "modelarts": "MA", "modzy": "MZ"}
HOSTS = {
    "sagemaker": "https://docs.aws.amazon.com/", "modelarts": "https://support.huaweicloud.com/",
    "modzy": "https://docs.modzy.com/",
}  # fmt: skip


def terms_of(name: str) -> Terms:
    terms = installed()[name].terms
    assert terms is not None
    return terms()


CLAUSES = [(name, clause) for name in PREFIXES for clause in terms_of(name).clauses]


@pytest.mark.parametrize(("platform", "clause"), CLAUSES, ids=[clause.id for _, clause in CLAUSES])
def test_a_clause_is_well_made(platform: str, clause: Clause) -> None:
    prefix, _, number = clause.id.partition("-")
    assert (prefix, len(number), number.isdigit()) == (PREFIXES[platform], 2, True)
    assert clause.page.startswith(HOSTS[platform])
    assert clause.title[-1] != "."
    assert clause.says.endswith(".")
    assert clause.fix
    if isinstance(clause.test, Named):
        # Named so that it is found, and with parameters that it has.
        known = scenarios.find(clause.test.scenario)
        inspect.signature(known.run).bind(None, **clause.test.parameters)
    else:
        asks = clause.test.asks if isinstance(clause.test, Asks) else (clause.test,)
        assert asks
        assert all(isinstance(ask, Ask) and ask.expect.text for ask in asks)


@pytest.mark.parametrize("platform", PREFIXES)
def test_numbers_are_given_once(platform: str) -> None:
    ids = [clause.id for clause in terms_of(platform).clauses]
    assert len(ids) == len(set(ids))


def test_the_page_of_clauses_is_up_to_date() -> None:
    spec = importlib.util.spec_from_file_location("clauses", ROOT / "scripts" / "clauses.py")
    assert spec is not None
    assert spec.loader is not None
    clauses = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(clauses)
    assert clauses.PAGE.read_text() == clauses.page(), "run python scripts/clauses.py"


def test_a_server_imports_none_of_it() -> None:
    """What only `servekit check` needs costs a server's start nothing."""
    import subprocess
    import sys

    look = (
        "import sys, servekit.platforms.sagemaker, servekit.platforms.modelarts, servekit.platforms.modzy;"
        "print([name for name in sys.modules if name.endswith('.terms') or name.startswith('servekit.check')])"
    )
    ended = subprocess.run([sys.executable, "-c", look], capture_output=True, text=True, check=True)
    assert ended.stdout.strip() == "[]"


# --- config.json ----------------------------------------------------------------------------------------------------

CONFIG: dict[str, Any] = {
    "model_algorithm": "image_classification", "model_type": "Image",
    "apis": [
        {
            "protocol": "http", "url": "/v1/read", "method": "post",
            "request": {
                "Content-type": "multipart/form-data",
                "data": {"type": "object", "properties": {"picture": {"type": "file"}}},
            },
        },
        {"url": "/info", "method": "GET"},
    ],
    "health": {"url": "/healthz", "protocol": "http", "initial_delay_seconds": "12", "timeout_seconds": "10"},
}  # fmt: skip


def changed(**changes: Any) -> bytes:
    return json.dumps({key: value for key, value in (CONFIG | changes).items() if value is not ...}).encode()


def test_right_configurations_are_taken() -> None:
    assert modelarts.complaint_about(changed()) is None
    assert modelarts.complaint_about(changed(apis=..., health=...)) is None
    assert modelarts.complaint_about((ROOT / "examples" / "digits" / "config.json").read_bytes()) is None


@pytest.mark.parametrize(
    ("body", "said"),
    [
        (b"{", "no JSON"),
        (b"[]", "JSON that is no object"),
        (b"\xff", "no JSON"),
        (b"[" * 100_000, "no JSON"),
        (changed(model_algorithm=...), "model_algorithm None"),
        (changed(model_algorithm="7th"), "model_algorithm '7th'"),
        (changed(model_algorithm="a" * 37), "model_algorithm"),
        (changed(model_type=...), "model_type None"),
        (changed(dependencies=[]), "dependencies"),
        (changed(apis={}), "apis, which is to be a list"),
        (changed(apis=[7]), "apis, which is to be a list"),
        (changed(apis=[{"url": "predict"}]), "apis[0].url 'predict'"),
        (changed(apis=[{"url": "/a b"}]), "apis[0].url '/a b'"),
        (changed(apis=[{}, {"method": "put"}]), "apis[1].method 'put'"),
        (changed(apis=[{"request": []}]), "apis[0].request, which"),
        (changed(apis=[{"request": {"Content-type": "text/csv"}}]), "apis[0].request.Content-type 'text/csv'"),
        (changed(health="/health"), "health, which is to be an object"),
        (changed(health={"protocol": "http"}), "health.url None"),
        (changed(health={"url": "/health", "timeout_seconds": 10}), "health.timeout_seconds 10"),
    ],
)
def test_wrong_configurations_are_named(body: bytes, said: str) -> None:
    assert (modelarts.complaint_about(body) or "").startswith(said)


def test_modelarts_is_asked_where_its_configuration_says() -> None:
    plain = terms_of("modelarts")
    assert plain.adapted is not None
    terms = plain.adapted(plain, {"config.json": changed()})
    assert terms.probe.path == "/healthz"
    send = terms.predict(Sample(b"\x89PNG", "image/png", {"seven.png": b"\x89PNG"}))
    assert (send.method, send.path) == ("POST", "/v1/read")
    assert dict(send.headers)["Content-Type"].startswith("multipart/form-data; boundary=")
    assert b'name="picture"; filename="seven.png"' in send.body
    asked = {clause.id: clause.test.send for clause in terms.clauses if isinstance(clause.test, Ask)}
    assert asked["MA-03"] == terms.probe
    assert asked["MA-05"] is terms.predict
    assert modelarts.routes_of(changed()) == [("GET", "/healthz"), ("POST", "/v1/read"), ("GET", "/info")]


def test_a_name_cannot_break_the_form() -> None:
    send = terms_of("modelarts").predict(Sample(b"", "image/png", {'a"; x="\ud800': b""}))
    assert b'name="a%22; x=%22?"; filename="a%22; x=%22?"\r\nContent-Type: image/png\r\n' in send.body


@pytest.mark.parametrize("body", [b"{", b"7", b'{"health": 7, "apis": 7}', b'{"apis": [7], "health": {"url": 7}}'])
def test_a_configuration_that_cannot_be_read_changes_nothing(body: bytes) -> None:
    plain = terms_of("modelarts")
    assert plain.adapted is not None
    terms = plain.adapted(plain, {"config.json": body})
    assert terms.probe.path == "/health"
    assert terms.predict(Sample(b"{}")).path == "/"


# --- model.yaml -----------------------------------------------------------------------------------------------------

MANIFEST = (ROOT / "examples" / "digits" / "model.yaml").read_text()


def test_right_manifests_are_taken_and_their_outputs_are_looked_for() -> None:
    assert modzy.complaint_about(MANIFEST.encode()) is None
    plain = terms_of("modzy")
    assert plain.adapted is not None
    assert plain.adapted(plain, {"model.yaml": MANIFEST.encode()}).outputs == ("results.json",)
    assert plain.adapted(plain, {"model.yaml": b"inputs: ["}).outputs == ()
    assert plain.adapted(plain, {}).outputs == ()


@pytest.mark.parametrize(
    ("times", "status_s", "run_s"),
    [
        ("{status: 5m, run: 90s}", 300.0, 90.0),
        ("{status: 500ms, run: 1h}", 0.5, 3600.0),
        ("{status: 0s, run: soon}", 60.0, 60.0),
        ("{run: [7]}", 60.0, 60.0),
        ("7", 60.0, 60.0),
    ],
)
def test_a_manifest_s_own_times_count(times: str, status_s: float, run_s: float) -> None:
    plain = terms_of("modzy")
    assert plain.adapted is not None
    assert "{status: 20s, run: 20s}" in MANIFEST
    body = MANIFEST.replace("{status: 20s, run: 20s}", times)
    terms = plain.adapted(plain, {"model.yaml": body.encode()})
    assert (terms.start.ready_within_s, terms.probe_within_s, terms.answer_within_s) == (status_s, status_s, run_s)
    tests = {clause.id: clause.test for clause in terms.clauses}
    assert tests["MZ-27"] == Named("probe_while_busy", {"within_s": status_s})
    assert isinstance(tests["MZ-26"], Ask)
    assert tests["MZ-26"].expect.text == f"within {run_s:g} s"


@pytest.mark.parametrize(
    ("body", "said"),
    [
        ("inputs: [", "model.yaml: expected YAML"),
        ("7", "model.yaml: expected a mapping"),
        (MANIFEST.replace("'0.3'", "'9'"), "specification '9'"),
        (MANIFEST.replace("type: file", "type: grpc"), "type 'grpc'"),
        (MANIFEST.replace("resources:", "needs:"), "no resources"),
        (MANIFEST.replace("outputs:", "results:"), "no inputs or no outputs"),
    ],
)
def test_wrong_manifests_are_named(body: str, said: str) -> None:
    assert (modzy.complaint_about(body.encode()) or "").startswith(said)


# --- answers --------------------------------------------------------------------------------------------------------


def seen(status: int, document: Any, content_type: str = "application/json") -> Seen:
    body = document if isinstance(document, bytes) else json.dumps(document).encode()
    return Seen(status, (("content-type", content_type),), body, 0.01)


def complaint_of(platform: str, clause: str, answer: Seen) -> str | None:
    [found] = [known for known in terms_of(platform).clauses if known.id == clause]
    assert isinstance(found.test, Ask)
    return found.test.expect.complaint(answer)


GOOD = {"MaxConcurrentTransforms": 8, "BatchStrategy": "MULTI_RECORD", "MaxPayloadInMB": 6}


@pytest.mark.parametrize(
    ("status", "document", "said"),
    [
        (200, GOOD, None),
        (404, {}, None),
        (500, b"<html>", None),
        (200, b"<html>", "a body that is no JSON"),
        (200, [], "JSON that is no object"),
        (200, GOOD | {"MaxPayloadInMB": "6"}, "MaxPayloadInMB '6'"),
        (200, GOOD | {"MaxPayloadInMB": True}, "MaxPayloadInMB True"),
        (200, GOOD | {"MaxConcurrentTransforms": -1}, "MaxConcurrentTransforms -1"),
        (200, GOOD | {"BatchStrategy": "MultiRecord"}, "BatchStrategy 'MultiRecord'"),
        (200, GOOD | {"MaxPayloadInMB": 13}, "MaxConcurrentTransforms * MaxPayloadInMB = 104"),
    ],
)
def test_execution_parameters(status: int, document: Any, said: str | None) -> None:
    found = complaint_of("sagemaker", "SM-23", seen(status, document))
    assert found is None if said is None else (found or "").startswith(said)


READY = {"statusCode": 200, "status": "OK", "message": "ready"}


@pytest.mark.parametrize(
    ("status", "document", "said"),
    [
        (200, READY, None),
        (200, READY | {"more": 1}, None),
        (422, {"statusCode": 422, "status": "Unprocessable Entity", "message": "x"}, None),
        (422, {"statusCode": 422, "status": "Unprocessable Content", "message": "x"}, "status 'Unprocessable Content'"),
        (200, READY | {"statusCode": "200"}, "statusCode '200' with status 200"),
        (500, READY, "statusCode 200 with status 500"),
        (200, READY | {"message": ""}, "message ''"),
        (200, {"statusCode": 200}, "no status, message"),
        (200, b"ready", "a body that is no JSON"),
        (200, b"[]", "JSON that is no object"),
    ],
)
def test_modzy_s_form(status: int, document: Any, said: str | None) -> None:
    found = complaint_of("modzy", "MZ-04", seen(status, document))
    assert found is None if said is None else (found or "").startswith(said)


# --- images ---------------------------------------------------------------------------------------------------------


@dataclass
class Facts:
    """What an image says of itself."""

    entry: Sequence[str] = ()
    cmd: Sequence[str] = ()
    env: Mapping[str, str] = field(default_factory=lambda: {"PATH": "/usr/local/bin:/usr/bin:/bin"})
    label: Mapping[str, str] = field(default_factory=dict)
    ports: Sequence[int] = ()
    who: str = ""
    size: int = 1
    files: Collection[str] = ()

    def labels(self) -> Mapping[str, str]:
        return self.label

    def entrypoint(self) -> Sequence[str]:
        return self.entry

    def command(self) -> Sequence[str]:
        return self.cmd

    def user(self) -> str:
        return self.who

    def environ(self) -> Mapping[str, str]:
        return self.env

    def exposed_ports(self) -> Sequence[int]:
        return self.ports

    def working_directory(self) -> str:
        return "/"

    def nbytes(self) -> int:
        return self.size

    def read(self, path: str) -> bytes | None:
        return b"" if path in self.files else None

    def is_executable(self, path: str) -> bool:
        return path in self.files


SHELL = ("/bin/sh", "-c", "python server.py")
BATCH = ("/usr/bin/python3", "/usr/bin/java", "/usr/bin/zip")


@pytest.mark.parametrize(
    ("platform", "clause", "image", "kept"),
    [
        ("sagemaker", "SM-40", Facts(files=["/usr/local/bin/serve"]), True),
        ("sagemaker", "SM-40", Facts(files=["/opt/serve"]), False),
        ("sagemaker", "SM-40", Facts(env={"PATH": "/opt"}, files=["/opt/serve"]), True),
        ("sagemaker", "SM-40", Facts(env={}, files=["/usr/bin/serve"]), True),
        ("sagemaker", "SM-40", Facts(entry=["python"]), True),
        ("sagemaker", "SM-41", Facts(entry=SHELL), False),
        ("sagemaker", "SM-41", Facts(entry=["python", "server.py"]), True),
        ("sagemaker", "SM-41", Facts(cmd=SHELL), True),
        ("sagemaker", "SM-42", Facts(entry=["/sbin/tini", "--", "serve"]), False),
        ("sagemaker", "SM-42", Facts(entry=["dumb-init", "serve"]), True),
        ("sagemaker", "SM-43", Facts(label={sagemaker.BIND_TO_PORT: "true"}), True),
        ("sagemaker", "SM-43", Facts(label={sagemaker.BIND_TO_PORT: "yes"}), False),
        ("modelarts", "MA-40", Facts(cmd=["sh", "/home/run.sh"], files=["/home/run.sh"]), True),
        ("modelarts", "MA-40", Facts(cmd=["/bin/sh", "-c", "/bin/sh /home/run.sh"], files=["/home/run.sh"]), True),
        ("modelarts", "MA-40", Facts(cmd=["sh", "/home/run.sh"]), False),
        ("modelarts", "MA-40", Facts(cmd=["python"], files=["/home/run.sh"]), False),
        ("modelarts", "MA-41", Facts(files=BATCH), True),
        ("modelarts", "MA-41", Facts(files=BATCH[:2]), False),
        ("modelarts", "MA-42", Facts(size=51 * 1000**3), False),
        ("modelarts", "MA-42", Facts(size=49 * 1000**3), True),
        ("modelarts", "MA-43", Facts(who="1000:100"), True),
        ("modelarts", "MA-43", Facts(), False),
        ("modzy", "MZ-40", Facts(cmd=SHELL), False),
        ("modzy", "MZ-40", Facts(), False),
        ("modzy", "MZ-40", Facts(cmd=["./entrypoint.sh"]), True),
        ("modzy", "MZ-41", Facts(env={"PSC_MODEL_PORT": "8080"}, ports=[8080]), True),
        ("modzy", "MZ-41", Facts(env={"PSC_MODEL_PORT": "8080"}, ports=[80]), False),
        ("modzy", "MZ-41", Facts(ports=[80]), False),
        ("modzy", "MZ-42", Facts(who="0:0"), False),
        ("modzy", "MZ-42", Facts(who="modzy"), True),
    ],
)
def test_images(platform: str, clause: str, image: Image, kept: bool) -> None:
    [found] = [known for known in terms_of(platform).clauses if known.id == clause]
    assert isinstance(found.test, Named)
    assert (found.test.parameters["complaint"](image) is None) is kept


def test_programs_are_found_in_the_order_of_the_path() -> None:
    image = Facts(env={"PATH": "relative:/a/:/b"}, files=["/b/serve", "/a/serve", "relative/serve"])
    assert which(image, "serve") == "/a/serve"


# --- what is spoilt -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("sample", "body"),
    [
        (Sample(b"{}", "application/json"), b'{"servekit-check": '),
        (Sample(b"{}", "application/json; charset=utf-8"), b'{"servekit-check": '),
        (Sample(b"{}", "application/vnd.x+json"), b'{"servekit-check": '),
        (Sample(b"\x89PNG", "image/png"), b"servekit-check"),
        (Sample(b"1,2", "text/csv"), None),
        (Sample(b"any", "application/octet-stream"), None),
    ],
)
def test_only_what_no_model_can_take_is_called_bad(sample: Sample, body: bytes | None) -> None:
    found = scenarios.spoilt(sample)
    assert (found.body if found is not None else None) == body


def test_files_are_spoilt_by_what_is_in_them() -> None:
    files = {"a.txt": b"any text", "b": b'{"x": 1}', "c": b"\xff\xd8\xff\xe0"}
    found = scenarios.spoilt(Sample(b"any text", "text/plain", files))
    assert found is not None
    assert found.files == {"a.txt": b"any text", "b": b'{"servekit-check": ', "c": b"servekit-check"}
    assert scenarios.spoilt(Sample(b"any", "text/plain", {"a.txt": b"any text"})) is None


def test_findings_of_what_was_not_tried_are_there() -> None:
    terms = terms_of("sagemaker")
    found = runner.whole(replace(terms, clauses=terms.clauses[:3]), [])
    assert [finding.clause.id for finding in found] == ["SM-01", "SM-02", "SM-03"]
    assert {finding.verdict.reason for finding in found} == {runner.INTERRUPTED}
