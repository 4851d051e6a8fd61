"""`servekit publish modzy` and `servekit images modzy`, as processes, against the emulated platform, which calls a real
server of a small predictor."""

from __future__ import annotations

import json
import os
import re
import secrets
import shlex
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import chdir
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx2
import pytest
from click.testing import CliRunner
from emulated import API_KEY, Emulator, emulate
from saved import CONFIG, save
from serving import clean_environ, script

from servekit.cli import main

PREDICTOR = """
from servekit import Predictor, Tensor


class Mean(Predictor):
    inputs = {"x": Tensor("float32", (4,))}
    outputs = {"mean": Tensor("float32", ())}

    def load(self, model_dir):
        if (model_dir / "broken").exists():
            raise RuntimeError("the weights are not what they were")

    def predict(self, x):
        return x.mean(axis=1)
"""
MODEL_YAML = """
version: 1.0.0
description: {summary: The mean of four numbers}
inputs: {x.json: {acceptedMediaTypes: [application/json], maxSize: 1M}}
outputs: {results.json: {mediaType: application/json, maxSize: 1M}}
"""
IMAGE = "registry.example.com/team/mean"
PASSWORD = "example-registry-password"  # noqa: S105 - opens nothing
A, B = f"sha256:{'a' * 64}", f"sha256:{'b' * 64}"
TIMEOUT_S = 60.0
MEBIBYTE = 1024 * 1024


@dataclass(frozen=True)
class Ended:
    code: int
    out: str
    err: str

    @property
    def document(self) -> dict[str, Any]:
        """With --json standard output is one object, whatever happens."""
        document = json.loads(self.out)
        assert isinstance(document, dict)
        return document


@dataclass
class Place:
    """A project, and the platform that it is published on. Whatever a command says, the key is not in it."""

    folder: Path
    emulator: Emulator
    environ: dict[str, str] = field(default_factory=dict)

    def command(self, *arguments: str) -> list[str]:
        return [script("servekit"), *arguments]

    def variables(self, **more: str) -> dict[str, str]:
        kept = {name: text for name, text in clean_environ().items() if not name.startswith("MODZY_")}
        own = {
            "HOME": str(self.folder.parent / "nobody"),
            "MODZY_API_KEY": API_KEY,
            "SERVEKIT_MODZY_ENDPOINT": self.emulator.url,
        }
        return kept | own | more

    def run(self, *arguments: str, process: bool = False, **more: str) -> Ended:
        """Within this process, which starts faster, unless `process` says otherwise."""
        variables = self.variables(**more)
        if process:
            done = subprocess.run(
                self.command(*arguments), cwd=self.folder, env=variables, capture_output=True, text=True,
                stdin=subprocess.DEVNULL, timeout=TIMEOUT_S,
            )  # fmt: skip
            ended = Ended(done.returncode, done.stdout, done.stderr)
        else:
            # None takes a variable away.
            env: dict[str, str | None] = {**dict.fromkeys(os.environ.keys() - variables.keys()), **variables}
            with chdir(self.folder):
                result = CliRunner().invoke(main, arguments, env=env)
            if result.exception is not None and not isinstance(result.exception, SystemExit):
                raise result.exception
            ended = Ended(result.exit_code, result.stdout, result.stderr)
        for said in (ended.out, ended.err):
            assert API_KEY not in said
            assert API_KEY.partition(".")[2] not in said
            assert PASSWORD not in said
        return ended

    def publish(
        self, name: str, *arguments: str, image: str = f"{IMAGE}:1.0.0", digest: str = A, process: bool = False,
        **more: str,
    ) -> Ended:  # fmt: skip
        digests = () if image.endswith(".tar") or not digest else ("--digest", digest)
        about = () if "--target" in arguments else ("--model-yaml", "mean.yaml")
        whole = ("publish", "modzy", image, "--model-name", name, *digests, *about, *arguments)
        return self.run(*whole, process=process, **more)

    def get(self, path: str) -> Any:
        answer = httpx2.get(f"{self.emulator.url}/api{path}", headers={"Authorization": f"ApiKey {API_KEY}"})
        assert answer.status_code == 200, answer.text
        return answer.json()

    def models(self, name: str) -> list[dict[str, Any]]:
        return [model for model in self.get("/models") if model["name"] == name]

    def asked(self, since: int) -> list[str]:
        """What the platform was asked to do since then: the requests that are not GET."""
        lines = re.findall(r"^servekit: (\S+) (?:/api/models)?(\S*) \d+$", self.emulator.log[since:], re.MULTILINE)
        return [f"{method} {path.rpartition('/')[2]}" for method, path in lines if method not in ("GET", "DELETE")]


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Place]:
    folder = tmp_path_factory.mktemp("mean")
    (folder / "requirements.txt").write_text("")
    (folder / "predictor.py").write_text(PREDICTOR)
    (folder / "x.json").write_text("[1, 2, 3, 4]")
    (folder / "mean.yaml").write_text(MODEL_YAML)
    command = shlex.join([script("servekit"), "run", str(folder / "predictor.py"), "--platform", "modzy"])
    with emulate("modzy", "--command", command) as emulator:
        yield Place(folder, emulator)


@pytest.fixture
def name(place: Place) -> str:
    """Of a model that no other test has."""
    place.emulator.no_faults()
    return f"mean-{secrets.token_hex(4)}"


def version_of(place: Place, ended: Ended) -> dict[str, Any]:
    document = place.get(f"/models/{ended.document['model_id']}/versions/{ended.document['version']}")
    assert isinstance(document, dict)
    return document


# --- the whole way ---


def test_a_linked_image_becomes_an_active_version_and_a_repeated_publish_continues(place: Place, name: str) -> None:
    arguments = ("--target", "predictor.py", "--sample", "x.json", "--tags", "one, two", "--json")
    ended = place.publish(name, *arguments, process=True)
    assert ended.code == 0, ended.err
    outcome = ended.document
    assert (outcome["ok"], outcome["status"], outcome["version"]) == (True, "active", "1.0.0")
    assert outcome["container_image"]["registryHost"] == "registry.example.com"
    assert outcome["result"]["results.json"] == {"data": {"result": {"mean": 2.5}, "explanation": None, "drift": None}}
    assert outcome["url"] == f"{place.emulator.url}/models/{outcome['model_id']}/1.0.0"

    version = version_of(place, ended)
    assert version["status"] == "active"
    assert [entry["name"] for entry in version["inputs"]] == ["x.json"]
    assert version["timeout"] == {"run": 60000, "status": 60000}
    assert version["requirement"] == {"requirementId": 1}
    assert version["versionHistory"] == f"servekit image {A}"
    model = place.get(f"/models/{outcome['model_id']}")
    assert model["tags"] == ["one", "two"]
    sample = place.get(f"/models/{outcome['model_id']}/versions/1.0.0/sample-input")
    assert sample["input"]["sources"]["0001"] == {"x.json": "data:application/json;base64,WzEsIDIsIDMsIDRd"}
    output = place.get(f"/models/{outcome['model_id']}/versions/1.0.0/sample-output")
    assert output["results"]["0001"]["status"] == "SUCCESSFUL"

    since = len(place.emulator.log)
    again = place.publish(name, *arguments)
    assert again.code == 0, again.err
    assert again.document["model_id"] == outcome["model_id"]
    assert "active already" in again.err
    # Nothing is made, linked or tested once more.
    assert place.asked(since) == [f"PATCH {outcome['model_id']}", "PATCH 1.0.0"]

    other = place.publish(name, *arguments, digest=B)
    assert other.code == 6
    assert other.document["error"]["kind"] == "refused"
    assert "another image already" in other.document["error"]["message"]
    assert "raise the version" in other.document["error"]["hint"]

    next_one = place.publish(name, *arguments, "--version", "1.1.0", digest=B)
    assert next_one.code == 0, next_one.err
    assert next_one.document["model_id"] == outcome["model_id"]
    assert place.get(f"/models/{outcome['model_id']}")["versions"] == ["1.0.0", "1.1.0"]
    assert [model["modelId"] for model in place.models(name)] == [outcome["model_id"]]


def test_a_tar_is_uploaded_and_known_again_by_its_digest(place: Place, name: str) -> None:
    digest = save(place.folder / "upload.tar", layer_bytes=300_000)
    size = (place.folder / "upload.tar").stat().st_size
    ended = place.publish(name, "--sample", "x.json=x.json", "--json", image="upload.tar", process=True)
    assert ended.code == 0, ended.err
    assert ended.document["digests"] == [digest]
    assert ended.document["container_image"]["containerImageSize"] == size
    assert version_of(place, ended)["versionHistory"] == f"servekit image {digest}"
    assert re.search(r"^upload +100 % of 0\.3 MiB$", ended.err, re.MULTILINE)

    since = len(place.emulator.log)
    assert place.publish(name, "--sample", "x.json", image="upload.tar").code == 0
    assert "POST container-image" not in place.asked(since)


def test_the_images_object_is_shown_as_a_table_and_as_json(place: Place, name: str) -> None:
    made = place.publish(name, "--no-run-test", "--no-activate", "--json", "--registry-form", "manifest")
    assert made.code == 0, made.err
    assert made.document["status"] == "not activated"
    table = place.run("images", "modzy", "show", "--model-name", name, "--version", "1.0.0")
    assert table.code == 0, table.err
    assert re.search(r"^uploadPercentage +100$", table.out, re.MULTILINE)
    assert re.search(r"^repositoryNamespace +team$", table.out, re.MULTILINE)
    machine = place.run(
        "images", "modzy", "show", "--model-id", made.document["model_id"], "--version", "1.0.0", "--json"
    )
    image = machine.document["container_image"]
    assert (image["registryHost"], image["repositoryName"]) == ("registry.example.com", "mean:1.0.0")
    assert image["loadStatus"] == "3: Completed (100%)"


def test_the_registrys_password_is_sent_and_not_said(place: Place, name: str) -> None:
    (place.folder / "registry.json").write_text(json.dumps({"username": "somebody", "password": PASSWORD}))
    # The platform repeats what it was sent.
    place.emulator.faults("status", method="POST", path=".*/container-image", status=400,
                          message=f"pull access denied for somebody:{PASSWORD}")  # fmt: skip
    ended = place.publish(name, "--no-run-test", "--registry-credentials-file", "registry.json", "--json")
    assert ended.code == 6
    assert "pull access denied for somebody:***" in ended.document["error"]["message"]


def test_without_a_digest_a_publish_works_once(place: Place, name: str) -> None:
    arguments = ("--no-run-test", "--no-activate", "--json")
    first = place.publish(name, *arguments, digest="", PATH="/nonexistent")
    assert first.code == 0, first.err
    assert "its digest is not known" in first.err
    again = place.publish(name, *arguments, digest="", PATH="/nonexistent")
    assert again.code == 6
    assert "nobody here knows the digest" in again.document["error"]["message"]


def test_an_image_for_arm_is_activated_without_a_run_test(place: Place, name: str) -> None:
    save(place.folder / "arm.tar", config={**CONFIG, "architecture": "arm64"})
    ended = place.publish(name, "--json", image="arm.tar")
    assert ended.code == 0, ended.err
    assert ended.document["status"] == "active"
    assert version_of(place, ended)["requirement"] == {"requirementId": -99}
    assert "runs no sample on such images" in ended.err


# --- tests that fail ---


def test_a_load_test_that_fails_shows_the_technical_information(place: Place, name: str) -> None:
    broken = place.folder / "broken-model"
    broken.mkdir()
    (broken / "predictor.py").write_text(PREDICTOR)
    (broken / "broken").write_text("")
    command = shlex.join([script("servekit"), "run", str(broken / "predictor.py"), "--platform", "modzy"])
    with emulate("modzy", "--command", command) as emulator:
        elsewhere = Place(place.folder, emulator)
        ended = elsewhere.publish(name, "--sample", "x.json", "--json")
        assert ended.code == 10
        error = ended.document["error"]
        assert error["kind"] == "failed"
        assert "load test failed" in error["message"]
        assert '"statusCode": 500' in error["details"]
        assert error["details"] in ended.err
        assert [made["certain"] for made in ended.document["made"]] == [True, True]
        assert "is there  container image" in ended.err

        (broken / "broken").unlink()  # the load is tried again by itself
        since = len(emulator.log)
        again = elsewhere.publish(name, "--sample", "x.json", "--json")
        assert again.code == 0, again.err
        assert [request for request in elsewhere.asked(since) if request.startswith("POST")] == [
            "POST load-process", "POST testInput", "POST run-process",
        ]  # fmt: skip


def test_a_run_test_that_fails_shows_the_error_and_the_technical_information(place: Place, name: str) -> None:
    (place.folder / "bad.json").write_text("[1, 2]")
    ended = place.publish(name, "--sample", "bad.json", "--json")
    assert ended.code == 10
    error = ended.document["error"]
    assert "the run test failed at step 5, Completed: " in error["message"]
    assert '"statusCode": 422' in error["details"]

    again = place.publish(name, "--sample", "x.json", "--json")
    assert again.code == 0, again.err
    assert "passed before" in again.err


def test_an_image_that_the_platform_cannot_take_can_be_given_again(place: Place, name: str) -> None:
    place.emulator.faults("create-failed", method="POST", path=".*/container-image", message="manifest unknown")
    ended = place.publish(name, "--no-run-test", "--no-activate", "--json")
    assert ended.code == 10
    assert "FAILED: manifest unknown" in ended.document["error"]["message"]
    assert ended.document["error"]["details"] == "manifest unknown"
    # Also another one: the platform has none.
    again = place.publish(name, "--no-run-test", "--no-activate", digest=B)
    assert again.code == 0, again.err


# --- a bad day ---


def test_answers_that_get_lost_make_nothing_twice(place: Place, name: str) -> None:
    since = len(place.emulator.log)
    place.emulator.faults("lost-answer", method="POST", path="/api/models")
    place.emulator.faults("lost-answer", method="POST", path=".*/container-image")
    place.emulator.faults("status", method="PATCH", status=429, headers={"retry-after": "0"})
    ended = place.publish(name, "--no-run-test", "--no-activate", "--json")
    assert ended.code == 0, ended.err
    assert len(place.models(name)) == 1
    assert ended.err.count("the answer got lost, but it is there") == 2
    assert "answered 429; trying again" in ended.err
    assert place.asked(since).count("POST container-image") <= 1


def test_of_two_images_that_are_published_at_once_one_is_refused(place: Place, name: str) -> None:
    arguments = ("--no-load-test", "--no-run-test", "--no-activate", "--json")
    place.emulator.faults("slow", method="GET", path=".*/container-image", seconds=1.5)
    begun = begin(place, f"{IMAGE}:1.0.0", "--digest", A, "--model-name", name, *arguments)
    begun.until("image     the platform")
    # While the first one waits, somebody else's takes its place.
    identifier = place.models(name)[0]["modelId"]
    change = {"versionHistory": f"servekit image {B}"}
    headers = {"Authorization": f"ApiKey {API_KEY}"}
    httpx2.patch(f"{place.emulator.url}/api/models/{identifier}/versions/1.0.0", json=change, headers=headers)
    out, err = begun.process.communicate(timeout=TIMEOUT_S)
    assert begun.process.returncode == 6, err
    assert f"another image already ({B})" in json.loads(out)["error"]["message"]


def test_a_login_page_in_place_of_an_answer_is_no_success(place: Place, name: str) -> None:
    arguments = ("--no-load-test", "--no-run-test", "--no-activate", "--json")
    place.emulator.faults("not-json", method="PATCH", path=".*/versions/[^/]*")
    ended = place.publish(name, *arguments)
    assert (ended.code, ended.document["error"]["kind"]) == (9, "not_understood"), ended.err
    place.emulator.faults("not-json", method="POST", path=".*/container-image")
    again = place.publish(name, *arguments)
    assert again.code == 0, again.err
    assert "expected JSON, got text/html" in again.err  # and it was linked then
    assert again.document["container_image"]["registryHost"] == "registry.example.com"


def test_an_answer_of_the_load_test_that_got_lost_is_looked_for(place: Place, name: str) -> None:
    place.emulator.faults("lost-answer", method="POST", path=".*/load-process")
    ended = place.publish(name, "--no-run-test", "--no-activate")
    assert ended.code == 0, ended.err
    assert "load      passed" in ended.err


@pytest.mark.parametrize(
    ("fault", "more", "code", "said", "hint"),
    [
        ("status", {"status": 403}, 4, "403", "Data Scientist"),
        ("status", {"status": 500}, 7, "500", "try again later"),
        ("not-json", {}, 9, "expected JSON, got text/html", "--endpoint"),
    ],
)
def test_each_kind_of_failure_has_its_exit_code_and_next_step(
    place: Place, published: str, fault: str, more: dict[str, Any], code: int, said: str, hint: str
) -> None:
    place.emulator.no_faults()
    place.emulator.faults(fault, method="POST", path=".*/load-process", **more)
    ended = place.publish(published, "--sample", "x.json", "--no-activate", "--json")
    assert ended.code == code, ended.err
    assert said in ended.document["error"]["message"]
    assert hint in ended.document["error"].get("hint", "")


@pytest.fixture(scope="module")
def published(place: Place) -> str:
    """A model whose version has its image, and no test yet."""
    made = f"mean-{secrets.token_hex(4)}"
    ended = place.publish(made, "--no-load-test", "--no-run-test", "--no-activate")
    assert ended.code == 0, ended.err
    return made


# --- broken off ---


@dataclass
class Begun:
    """A command that is still running, with what it has said so far."""

    process: subprocess.Popen[str]
    said: str = ""

    def until(self, start: str) -> None:
        """Until a line begins so."""
        assert self.process.stderr is not None
        for line in self.process.stderr:
            self.said += line
            if line.startswith(start):
                return
        raise AssertionError(f"it ended before it said {start!r}: {self.said}")

    def interrupt(self) -> Ended:
        self.process.send_signal(signal.SIGINT)
        out, err = self.process.communicate(timeout=TIMEOUT_S)
        return Ended(self.process.returncode, out, self.said + err)


def begin(place: Place, *arguments: str) -> Begun:
    process = subprocess.Popen(
        place.command("publish", "modzy", *arguments, "--model-yaml", "mean.yaml"), cwd=place.folder,
        env=place.variables(), stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    return Begun(process)


@pytest.fixture(scope="module")
def large(place: Place) -> str:
    """More than what fits between two sockets."""
    save(place.folder / "large.tar", layer_bytes=64 * MEBIBYTE)
    return "large.tar"


def test_an_upload_that_breaks_is_said_and_sent_again_by_the_same_command(place: Place, name: str, large: str) -> None:
    arguments = ("--no-run-test", "--no-load-test", "--no-activate", "--json")
    place.emulator.faults("close", method="POST", path=".*/container-image")
    ended = place.publish(name, *arguments, image=large)
    assert ended.code == 8, ended.err
    assert ended.document["error"]["hint"] == "the same command sends it again"
    assert [made["certain"] for made in ended.document["made"]] == [True, False]
    assert "unknown   container image" in ended.err
    assert "servekit images modzy show --model-id" in ended.err

    again = place.publish(name, *arguments, image=large)
    assert again.code == 0, again.err
    assert again.document["container_image"]["containerImageSize"] == (place.folder / large).stat().st_size
    assert len(place.models(name)) == 1


def test_the_answer_to_an_upload_that_got_lost_does_not_send_it_again(place: Place, name: str) -> None:
    save(place.folder / "lost.tar", layer_bytes=1000)
    place.emulator.faults("lost-answer", method="POST", path=".*/container-image")
    ended = place.publish(name, "--no-run-test", "--no-load-test", "--no-activate", image="lost.tar")
    assert ended.code == 0, ended.err
    assert "the answer got lost, but the image is there" in ended.err


def test_ctrl_c_in_an_upload_says_what_is_there_and_what_is_not_known(place: Place, name: str, large: str) -> None:
    place.emulator.faults("slow", method="POST", path=".*/container-image", seconds=3)
    begun = begin(place, large, "--model-name", name, "--no-run-test", "--json")
    begun.until("upload")
    ended = begun.interrupt()
    assert ended.code == 130
    assert ended.document["error"]["kind"] == "interrupted"
    assert [(made["what"], made["certain"]) for made in ended.document["made"]] == [
        ("model", True), ("container image", False),
    ]  # fmt: skip
    assert "Traceback" not in ended.err


def test_waiting_is_left_by_ctrl_c_or_for_lack_of_time_and_goes_on_later(place: Place, name: str) -> None:
    with emulate("modzy", "--advance-s", "600") as emulator:
        elsewhere = Place(place.folder, emulator)
        begun = begin(
            elsewhere, f"{IMAGE}:1.0.0", "--digest", A, "--model-name", name, "--no-run-test", "--no-activate"
        )
        begun.until("image     the platform")
        ended = begun.interrupt()
        assert ended.code == 130
        assert re.search(r"^is there +model .*; the same command goes on from there$", ended.err, re.MULTILINE)
        assert "unknown" not in ended.err

        later = elsewhere.publish(name, "--no-run-test", "--wait-s", "0", "--json")
        assert later.code == 11
        assert "goes on from here" in later.document["error"]["hint"]
        assert elsewhere.asked(0).count("POST container-image") == 1


# --- memory ---

MEASURED = """
import atexit, pathlib, re
from servekit.cli import main

def tell():
    status = pathlib.Path("/proc/self/status").read_text()
    pathlib.Path("peak").write_text(re.search(r"VmHWM:\\s+(\\d+) kB", status)[1])

atexit.register(tell)
main()
"""


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="the peak of a process is read from /proc")
def test_a_large_file_is_uploaded_with_flat_memory(place: Place, name: str) -> None:
    peaks = []
    for i, layer_bytes in enumerate((1000, 300 * MEBIBYTE)):
        save(place.folder / "flat.tar", layer_bytes=layer_bytes)
        ended = subprocess.run(
            [sys.executable, "-c", MEASURED, "publish", "modzy", "flat.tar", "--model-name", f"{name}-{i}",
             "--model-yaml", "mean.yaml", "--no-load-test", "--no-run-test", "--no-activate"],
            cwd=place.folder, env=place.variables(), capture_output=True, text=True, timeout=TIMEOUT_S,
        )  # fmt: skip
        assert ended.returncode == 0, ended.stderr
        peaks.append(int((place.folder / "peak").read_text()) // 1024)
    # Much less than the file, and much more than the noise.
    assert peaks[1] - peaks[0] < 64


# --- what is refused here, before the platform hears of it ---


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ((f"{IMAGE}:1.0.0",), "--model-name: expected the name of the model, or --model-id, got neither"),
        ((f"{IMAGE}:1.0.0", "--model-name", " "), "--model-name: expected 1 to 200 printable characters"),
        ((f"{IMAGE}:1.0.0", "--model-id", "../x"), "--model-id: expected letters, digits"),
        ((IMAGE, "--model-name", "m"), f"IMAGE '{IMAGE}': expected a tag"),
        (("https://x/y:1", "--model-name", "m"), "without a scheme such as https://"),
        (("missing.tar", "--model-name", "m"), "TAR 'missing.tar': no such file"),
        ((f"{IMAGE}:1.0.0", "--model-name", "m", "--digest", "sha256:1"), "--digest: expected sha256: and 64 digits"),
        ((f"{IMAGE}:1.0.0", "--model-name", "m", "--digest", A, "--version", "1.0"), "--version: expected three integers"),
        ((f"{IMAGE}:1.0.0", "--model-name", "m", "--digest", A), "--sample: expected a file for x.json"),
        ((f"{IMAGE}:1.0.0", "--model-name", "m", "--digest", A, "--sample", "none"), "--sample 'none': no such file"),
        ((f"{IMAGE}:1.0.0", "--model-name", "m", "--digest", A, "--sample", "y=none"), "expected NAME=FILE, with a NAME of x.json"),
        ((f"{IMAGE}:1.0.0", "--model-name", "m", "--digest", A, "--sample", "x.json", "--sample", "x.json"), "expected one file for x.json, got two"),
        ((f"{IMAGE}:1.0.0", "--model-name", "m", "--digest", A, "--target", "."), "expected one of --model-yaml and --target"),
        ((f"{IMAGE}:1.0.0", "--model-name", "m", "--digest", A, "--sample", "x.json", "--endpoint", "http://modzy.example.com"), "--endpoint: expected https, got 'http://modzy.example.com'"),
        ((f"{IMAGE}:1.0.0", "--model-name", "m", "--digest", A, "--no-run-test", "--profile", "none"), "--profile 'none'"),
    ],
)  # fmt: skip
def test_wrong_options_end_with_2_and_one_line(
    place: Place, arguments: tuple[str, ...], said: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(place.folder)
    for variable, text in place.variables().items():
        monkeypatch.setenv(variable, text)
    ended = CliRunner().invoke(main, ["publish", "modzy", "--model-yaml", "mean.yaml", *arguments])
    assert ended.exit_code == 2
    assert said in ended.stderr
    assert len([line for line in ended.stderr.splitlines() if line.startswith("servekit: ")]) == 1
    assert ended.stdout == ""


def test_nobody_is_asked_for_what_is_not_there(place: Place, name: str) -> None:
    wrong_key = place.publish(name, "--no-run-test", MODZY_API_KEY="AKEXAMPLE.not-the-body")
    assert wrong_key.code == 3
    assert "check MODZY_API_KEY" in wrong_key.err
    no_key = place.publish(name, "--no-run-test", MODZY_API_KEY="")
    assert no_key.code == 3
    assert "no API key" in no_key.err
    no_model = place.run("publish", "modzy", f"{IMAGE}:1", "--digest", A, "--model-id", "nosuchone1", "--version",
                         "1.0.0", "--no-run-test", "--model-yaml", "mean.yaml")  # fmt: skip
    assert no_model.code == 5
    assert "there is no model nosuchone1" in no_model.err
    no_image = place.run("images", "modzy", "show", "--model-name", name, "--version", "1.0.0", "--json")
    assert (no_image.code, no_image.document["error"]["kind"]) == (5, "not_found")
