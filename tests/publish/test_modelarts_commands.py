"""The real commands as processes, against the emulated control plane as a process."""

from __future__ import annotations

import json
import os
import pty
import re
import signal
import subprocess
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import chdir, suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import httpx2
import pytest
from click.testing import CliRunner
from emulated import ACCESS_KEY, PROJECT_ID, SECRET_KEY, Emulator, emulate
from modelarts_example import EXAMPLE_PATH, EXAMPLE_REQUEST, EXAMPLE_RESPONSE
from projects import project
from serving import clean_environ, script

from servekit.cli import main

DIGEST, OTHER = f"sha256:{'a1' * 32}", f"sha256:{'b2' * 32}"
IMAGES = f"/v1/{PROJECT_ID}/images"
ONE_IMAGE = f"{IMAGES}/[0-9a-f-]+"
MAX_S = 60


@pytest.fixture(scope="module")
def emulator() -> Iterator[Emulator]:
    with emulate("modelarts") as running:
        yield running


@pytest.fixture
def environ(emulator: Emulator, tmp_path: Path) -> Iterator[dict[str, str]]:
    """A home of its own, so that nobody's credentials count."""
    yield {
        "HOME": str(tmp_path),
        "XDG_CACHE_HOME": str(tmp_path / "cache"),
        "SERVEKIT_MODELARTS_ENDPOINT": emulator.url,
        "SERVEKIT_MODELARTS_REGION": "cn-north-4",
        "SERVEKIT_MODELARTS_PROJECT_ID": PROJECT_ID,
        "HUAWEICLOUD_SDK_AK": ACCESS_KEY,
        "HUAWEICLOUD_SDK_SK": SECRET_KEY,
    }
    emulator.no_faults()


@pytest.fixture
def path(request: pytest.FixtureRequest) -> str:
    """An address of each test's own: they share the emulator."""
    name = re.sub(r"[^a-z0-9]+", "-", request.node.name.lower()).strip("-")
    return f"swr.cn-north-4.myhuaweicloud.com/team/{name}:1.0.0"


def start(environ: Mapping[str, str], *arguments: str, cwd: Path | None = None) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [script("servekit"), *arguments], env=clean_environ(environ), cwd=cwd, text=True, stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE, stderr=subprocess.PIPE,
    )  # fmt: skip


def run(
    environ: Mapping[str, str], *arguments: str, code: int = 0, cwd: Path | None = None, process: bool = False
) -> subprocess.CompletedProcess[str]:
    """Within this process, which starts faster, unless `process` says otherwise."""
    if process:
        started = start(environ, *arguments, cwd=cwd)
        out, err = started.communicate(timeout=MAX_S)
        status = started.returncode
    else:
        none = {name: None for name in os.environ if name not in clean_environ()}
        with chdir(cwd or Path.cwd()):
            done = CliRunner().invoke(main, arguments, env={**none, **environ})
        out, err, status = done.stdout, done.stderr, done.exit_code
    assert status == code, f"{out}\n{err}"
    secrets = [environ.get(name, "") for name in ("HUAWEICLOUD_SDK_SK", "OS_PASSWORD")]
    assert not [secret for secret in secrets if secret and secret in out + err]
    return subprocess.CompletedProcess(arguments, status, out, err)


def as_json(environ: Mapping[str, str], *arguments: str, code: int = 0, process: bool = False) -> dict[str, Any]:
    done = run(environ, *arguments, "--json", code=code, process=process)
    document: dict[str, Any] = json.loads(done.stdout)
    assert document["ok"] is (code == 0)
    assert document.get("exit_code", 0) == code
    return document


def registered(emulator: Emulator, path: str) -> list[dict[str, Any]]:
    """Asked directly: a process takes longer than a test may."""
    user = {"name": ACCESS_KEY, "password": SECRET_KEY, "domain": {"name": "domain"}}
    identity = {"methods": ["password"], "password": {"user": user}}
    auth = {"auth": {"identity": identity, "scope": {"project": {"id": PROJECT_ID}}}}
    token = httpx2.post(f"{emulator.url}/v3/auth/tokens", json=auth).headers["X-Subject-Token"]
    listed = httpx2.get(f"{emulator.url}{IMAGES}", params={"type": "DEDICATED"}, headers={"X-Auth-Token": token})
    return [image for image in listed.json()["data"] if image["swr_path"] == path]


# --- publish ---


def test_publish_registers_once_and_waits(emulator: Emulator, environ: dict[str, str], path: str) -> None:
    first = as_json(
        environ, "publish", "modelarts", path, "--digest", DIGEST, "--description", "Digits", "--arch", "arm64",
        "--resource-category", "CPU", "--services", "SSH", "--visibility", "PRIVATE", "--workspace-id", "0",
        process=True,
    )  # fmt: skip
    image = first["image"]
    assert image["status"] == "ACTIVE"
    assert image["service_type"] == "INFERENCE"
    assert (image["arch"], image["resource_categories"], image["dev_services"]) == ("aarch64", ["CPU"], ["SSH"])
    assert image["description"] == f"Digits [servekit {DIGEST}]"
    assert first["digest"] == DIGEST
    assert first["made"][0]["certain"] is True
    again = run(environ, "publish", "modelarts", path, "--digest", DIGEST)
    assert again.stdout == f"{image['id']}\n"
    assert "is registered already" in again.stderr
    assert [each["id"] for each in registered(emulator, path)] == [image["id"]]


def test_a_digest_may_stand_in_the_name(environ: dict[str, str], path: str) -> None:
    assert as_json(environ, "publish", "modelarts", f"{path}@{DIGEST}")["digest"] == DIGEST


def test_another_digest_needs_replace(emulator: Emulator, environ: dict[str, str], path: str) -> None:
    first = as_json(environ, "publish", "modelarts", path, "--digest", DIGEST)["image"]
    refused = as_json(environ, "publish", "modelarts", path, "--digest", OTHER, code=6)["error"]
    assert f"with another digest: {DIGEST}" in refused["message"]
    assert "--replace" in refused["hint"]
    second = as_json(environ, "publish", "modelarts", path, "--digest", OTHER, "--replace")["image"]
    assert second["id"] != first["id"]
    assert [each["id"] for each in registered(emulator, path)] == [second["id"]]


def test_somebody_who_was_faster_with_another_digest_is_told(
    emulator: Emulator, environ: dict[str, str], path: str
) -> None:
    run(environ, "publish", "modelarts", path, "--digest", OTHER)
    # What a second one sees that looked before the first one had registered.
    nothing = {"current": 1, "data": [], "pages": 0, "size": 0, "total": 0}
    emulator.faults("status", method="GET", path=IMAGES, status=200, body=nothing)
    document = as_json(environ, "publish", "modelarts", path, "--digest", DIGEST, code=6)
    assert f"with another digest: {OTHER}" in document["error"]["message"]
    assert "made" not in document
    emulator.faults("status", method="GET", path=IMAGES, status=200, body=nothing)
    done = run(environ, "publish", "modelarts", path, "--digest", OTHER)
    assert "by somebody who was faster" in done.stderr
    assert len(registered(emulator, path)) == 1


def test_a_failed_registration_shows_the_platforms_reason(
    emulator: Emulator, environ: dict[str, str], path: str
) -> None:
    emulator.faults("create-failed", method="POST", path=IMAGES, message="layer 3 cannot be unpacked")
    failed = as_json(environ, "publish", "modelarts", path, "--digest", DIGEST, code=10)
    assert "CREATE_FAILED: layer 3 cannot be unpacked" in failed["error"]["message"]
    assert failed["made"][0]["certain"] is True
    still = run(environ, "publish", "modelarts", path, "--digest", DIGEST, code=10)
    assert "--replace registers it anew" in still.stderr
    repaired = as_json(environ, "publish", "modelarts", path, "--digest", DIGEST, "--replace")["image"]
    assert repaired["status"] == "ACTIVE"
    assert len(registered(emulator, path)) == 1


def test_without_waiting_the_state_is_told(environ: dict[str, str], path: str) -> None:
    image = as_json(environ, "publish", "modelarts", path, "--digest", DIGEST, "--wait-s", "0")["image"]
    assert image["status"] in ("INIT", "CREATING", "ACTIVE")


def test_an_unknown_state_is_shown_and_waited_for(emulator: Emulator, environ: dict[str, str], path: str) -> None:
    strange = {"id": "x", "status": "UNPACKING", "status_message": "half of it", "level": 7}
    emulator.faults("status", method="GET", path=ONE_IMAGE, status=200, body=strange)
    done = run(environ, "publish", "modelarts", path, "--digest", DIGEST)
    assert "UNPACKING: half of it" in done.stderr
    assert "ACTIVE" in done.stderr


def test_too_little_time_is_an_end_of_its_own(emulator: Emulator, environ: dict[str, str], path: str) -> None:
    going = {"id": "x", "status": "CREATING"}
    emulator.faults("status", method="GET", path=ONE_IMAGE, status=200, body=going, times=0)
    error = as_json(environ, "publish", "modelarts", path, "--digest", DIGEST, "--wait-s", "0.1", code=11)["error"]
    assert "has not ended within 0.1 s" in error["message"]
    assert "the same command goes on waiting" in error["hint"]


# --- what goes wrong on the way ---


def test_a_lost_answer_leaves_exactly_one_image(emulator: Emulator, environ: dict[str, str], path: str) -> None:
    emulator.faults("lost-answer", method="POST", path=IMAGES)
    done = run(environ, "publish", "modelarts", path, "--digest", DIGEST)
    assert "the answer got lost, but it is there" in done.stderr
    assert len(registered(emulator, path)) == 1


@pytest.mark.parametrize("kind", ["truncate", "not-json"])
def test_a_damaged_answer_to_a_registration_leaves_exactly_one_image(
    emulator: Emulator, environ: dict[str, str], path: str, kind: str
) -> None:
    emulator.faults(kind, method="POST", path=IMAGES)
    run(environ, "publish", "modelarts", path, "--digest", DIGEST)
    assert len(registered(emulator, path)) == 1


def test_a_busy_platform_is_tried_again(emulator: Emulator, environ: dict[str, str], path: str) -> None:
    emulator.faults("status", method="POST", path=IMAGES, status=429)
    emulator.faults("status", method="GET", path=ONE_IMAGE, status=503)
    emulator.faults("close", method="GET", path=IMAGES)
    done = run(environ, "publish", "modelarts", path, "--digest", DIGEST)
    assert done.stderr.count("trying again") == 3
    assert len(registered(emulator, path)) == 1


def test_a_slow_platform_is_waited_for(emulator: Emulator, environ: dict[str, str], path: str) -> None:
    emulator.faults("slow", method="POST", path=IMAGES, seconds=0.3)
    run(environ, "publish", "modelarts", path, "--digest", DIGEST)


@pytest.mark.parametrize(
    ("status", "code", "next_step"),
    [(400, 6, "correct the field"), (401, 3, "HUAWEICLOUD_SDK_AK"), (403, 4, "ask whoever manages"), (404, 5, "check")],
)
def test_each_documented_status_has_its_exit_code(
    emulator: Emulator, environ: dict[str, str], path: str, status: int, code: int, next_step: str
) -> None:
    emulator.faults("status", method="POST", path=IMAGES, status=status)
    document = as_json(environ, "publish", "modelarts", path, "--digest", DIGEST, code=code)
    assert document["error"]["status"] == status
    assert next_step in document["error"]["hint"]
    assert "made" not in document
    assert registered(emulator, path) == []


@pytest.mark.parametrize(("fault", "said"), [("truncate", "cut off or damaged"), ("not-json", "expected JSON, got")])
def test_an_answer_that_is_none(emulator: Emulator, environ: dict[str, str], fault: str, said: str) -> None:
    emulator.faults(fault, method="GET", path=IMAGES)
    assert said in as_json(environ, "images", "modelarts", "list", code=9)["error"]["message"]


def test_an_error_that_repeats_the_secrets_does_not_show_them(emulator: Emulator, environ: dict[str, str]) -> None:
    token = "temporary-token-of-ada"  # noqa: S105 - nobody's
    body = {"error_code": "ModelArts.0104", "error_msg": f"you sent {SECRET_KEY} and {token}\x1b[2J"}
    emulator.faults("status", method="GET", path=IMAGES, status=400, body=body, times=2)
    environ["HUAWEICLOUD_SDK_SECURITY_TOKEN"] = token
    for more in ([], ["--json"]):
        done = run(environ, "images", "modelarts", "list", *more, code=6, process=True)
        assert "you sent *** and ***" in done.stdout + done.stderr
        assert token not in done.stdout + done.stderr
        assert "\x1b" not in done.stdout + done.stderr


def test_a_wrong_secret_key(environ: dict[str, str]) -> None:
    environ["HUAWEICLOUD_SDK_SK"] = "not-the-secret-key"
    error = as_json(environ, "images", "modelarts", "list", code=3, process=True)["error"]
    assert error["code"] == "APIGW.0301"
    assert "check the access key and secret key" in error["hint"]
    assert "canonicalRequest" not in error["message"]


def test_a_wrong_clock(emulator: Emulator, environ: dict[str, str]) -> None:
    emulator.faults("skew", method="GET", path=IMAGES, seconds=3600)
    assert "set this machine's clock" in as_json(environ, "images", "modelarts", "list", code=3)["error"]["hint"]


def test_no_credentials_at_all(environ: dict[str, str]) -> None:
    del environ["HUAWEICLOUD_SDK_AK"], environ["HUAWEICLOUD_SDK_SK"]
    assert "no credentials: set" in as_json(environ, "images", "modelarts", "list", code=3)["error"]["message"]


def test_plain_http_is_for_this_machine(environ: dict[str, str]) -> None:
    environ["SERVEKIT_MODELARTS_ENDPOINT"] = "http://modelarts.example.com"
    message = as_json(environ, "images", "modelarts", "list", code=2)["error"]["message"]
    assert "SERVEKIT_MODELARTS_ENDPOINT: expected https" in message
    assert "--insecure-http" in message


# --- Ctrl-C ---


def taken(emulator: Emulator) -> None:
    """Wait until the fault that was asked for has found its request."""
    deadline_s = time.monotonic() + MAX_S
    while httpx2.get(f"{emulator.url}/_emulate/faults").json():
        assert time.monotonic() < deadline_s
        time.sleep(0.02)


def interrupted(process: subprocess.Popen[str]) -> tuple[dict[str, Any], str]:
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=MAX_S)
    assert process.returncode == 130, f"{out}\n{err}"
    document: dict[str, Any] = json.loads(out)
    assert document["error"]["kind"] == "interrupted"
    return document, err


def test_an_interrupt_during_the_registration_says_that_it_may_be_there(
    emulator: Emulator, environ: dict[str, str], path: str
) -> None:
    emulator.faults("slow", method="POST", path=IMAGES, seconds=0.5)
    process = start(environ, "publish", "modelarts", path, "--digest", DIGEST, "--json")
    taken(emulator)
    document, err = interrupted(process)
    (made,) = document["made"]
    assert made["certain"] is False
    assert f"image {path} may be there or not; this tells: servekit images modelarts show {path}" in err
    run(environ, "publish", "modelarts", path, "--digest", DIGEST)
    assert len(registered(emulator, path)) == 1


def test_an_interrupt_while_it_waits_says_what_is_there(emulator: Emulator, environ: dict[str, str], path: str) -> None:
    emulator.faults("slow", method="GET", path=ONE_IMAGE, seconds=5)
    process = start(environ, "publish", "modelarts", path, "--digest", DIGEST, "--json")
    taken(emulator)
    document, err = interrupted(process)
    (image,) = registered(emulator, path)
    (made,) = document["made"]
    assert made["certain"] is True
    assert f"to remove it: servekit images modelarts delete {image['id']}" in err
    assert "the same command goes on from there" in err
    assert as_json(environ, "publish", "modelarts", path, "--digest", DIGEST)["image"]["id"] == image["id"]


# --- tokens ---


def test_a_token_is_bought_once_kept_and_bought_again_when_it_has_ended(
    emulator: Emulator, environ: dict[str, str], tmp_path: Path
) -> None:
    del environ["HUAWEICLOUD_SDK_AK"], environ["HUAWEICLOUD_SDK_SK"]
    environ |= {"OS_USERNAME": ACCESS_KEY, "OS_PASSWORD": SECRET_KEY, "OS_USER_DOMAIN_NAME": "domain"}
    run(environ, "images", "modelarts", "list", process=True)
    (kept,) = (tmp_path / "cache" / "servekit" / "modelarts-tokens").iterdir()
    first = json.loads(kept.read_text())["token"]
    # IAM does not answer any more, so that the second command must have it from the file.
    emulator.faults("status", method="POST", path="/v3/auth/tokens", status=403, times=0)
    done = run(environ, "images", "modelarts", "list", "--json", process=True)
    assert first not in done.stdout + done.stderr
    emulator.no_faults()
    emulator.faults("status", method="GET", path=IMAGES, status=401)
    run(environ, "images", "modelarts", "list")
    assert json.loads(kept.read_text())["token"] != first
    emulator.faults("status", method="GET", path=IMAGES, status=401, times=2)
    assert as_json(environ, "images", "modelarts", "list", code=3)["error"]["status"] == 401


def test_a_password_does_not_go_to_another_cloud(environ: dict[str, str]) -> None:
    del environ["HUAWEICLOUD_SDK_AK"], environ["HUAWEICLOUD_SDK_SK"]
    environ |= {"OS_USERNAME": ACCESS_KEY, "OS_PASSWORD": SECRET_KEY, "OS_USER_DOMAIN_NAME": "domain"}
    environ["SERVEKIT_MODELARTS_ENDPOINT"] = "https://modelarts.example.com"
    assert "--iam-endpoint: expected" in as_json(environ, "images", "modelarts", "list", code=2)["error"]["message"]


def test_a_wrong_password(environ: dict[str, str], tmp_path: Path) -> None:
    del environ["HUAWEICLOUD_SDK_AK"], environ["HUAWEICLOUD_SDK_SK"]
    environ |= {"OS_USERNAME": ACCESS_KEY, "OS_PASSWORD": "not-the-password", "OS_USER_DOMAIN_NAME": "domain"}
    error = as_json(environ, "images", "modelarts", "list", "--auth", "token", code=3)["error"]
    assert "IAM does not accept the user or the password" in error["message"]
    assert not (tmp_path / "cache").exists()


# --- images ---


def test_the_pages_example_is_replayed_exactly(environ: dict[str, str]) -> None:
    seen: list[tuple[str, dict[str, str], Any]] = []

    class Page(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            seen.append((self.path, dict(self.headers), body))
            answer = json.dumps(EXAMPLE_RESPONSE).encode()
            self.send_response(200, "OK")
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(answer)))
            self.end_headers()
            self.wfile.write(answer)

        def log_message(self, *arguments: Any) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Page) as server:
        threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()
        environ["SERVEKIT_MODELARTS_ENDPOINT"] = f"http://127.0.0.1:{server.server_port}"
        done = as_json(
            environ, "images", "modelarts", "register", EXAMPLE_PATH, "--arch", "X86_64", "--description", "",
            "--resource-category", "CPU", process=True,
        )  # fmt: skip
        server.shutdown()
    assert done["image"] == EXAMPLE_RESPONSE
    ((path, headers, body),) = seen
    assert path == IMAGES
    assert body == EXAMPLE_REQUEST
    assert headers["content-type"] == "application/json"
    assert headers["authorization"].startswith("SDK-HMAC-SHA256 Access=AKEXAMPLE, SignedHeaders=")


def test_images_are_listed_shown_and_removed(emulator: Emulator, environ: dict[str, str], path: str) -> None:
    image_id = run(environ, "images", "modelarts", "register", path).stdout.strip()
    again = run(environ, "images", "modelarts", "register", path)
    assert (again.stdout, "is registered already" in again.stderr) == (f"{image_id}\n", True)
    listed = run(environ, "images", "modelarts", "list", "--namespace", "team").stdout
    header, *rows = listed.splitlines()
    assert header.split() == ["ID", "NAME", "STATUS", "ARCH", "SIZE", "CREATED"]
    assert [row for row in rows if image_id in row]
    name = path.partition("/team/")[2].partition(":")[0]
    assert as_json(environ, "images", "modelarts", "list", "--name", name)["images"][0]["id"] == image_id
    assert f"team/{name}" in run(environ, "images", "modelarts", "list", "--groups").stdout
    assert as_json(environ, "images", "modelarts", "list", "--type", "BUILD_IN")["images"][0]["type"] == "BUILD_IN"
    shown = run(environ, "images", "modelarts", "show", path, "--sync").stdout
    assert image_id in shown
    assert as_json(environ, "images", "modelarts", "show", image_id)["image"]["swr_path"] == path
    refused = as_json(environ, "images", "modelarts", "delete", image_id, code=2)
    assert "--yes: expected, where nobody is there" in refused["error"]["message"]
    removed = as_json(environ, "images", "modelarts", "delete", path, "--yes", "--force")
    assert removed["image"]["status"] == "DELETED"
    run(environ, "images", "modelarts", "register", path)
    emulator.faults("lost-answer", method="DELETE", path=ONE_IMAGE)
    assert as_json(environ, "images", "modelarts", "delete", path, "--yes")["deleted"] is True
    assert registered(emulator, path) == []
    gone = as_json(environ, "images", "modelarts", "show", image_id, code=5)["error"]
    assert "there is no such image" in gone["message"]
    assert as_json(environ, "images", "modelarts", "delete", path, "--yes", code=5)["error"]["kind"] == "not_found"


@pytest.mark.parametrize("cloud", ["huawei", "otc"])
def test_force_goes_as_the_clouds_pages_say(environ: dict[str, str], cloud: str) -> None:
    seen: list[tuple[str, bytes]] = []

    class Page(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.answer({"id": "a", "swr_path": EXAMPLE_PATH})

        def do_DELETE(self) -> None:
            seen.append((self.path, self.rfile.read(int(self.headers.get("Content-Length", 0)))))
            self.send_response(204)
            self.end_headers()

        def answer(self, document: Any) -> None:
            content = json.dumps(document).encode()
            self.send_response(200)
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)

        def log_message(self, *arguments: Any) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Page) as server:
        threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()
        environ["SERVEKIT_MODELARTS_ENDPOINT"] = f"http://127.0.0.1:{server.server_port}"
        run(environ, "images", "modelarts", "delete", "a", "--yes", "--cloud", cloud, "--force")
        server.shutdown()
    forced = (f"{IMAGES}/a?force=true", b"") if cloud == "otc" else (f"{IMAGES}/a", b'{"is_force": true}')
    assert seen == [forced]


# --- a terminal ---


def on_a_terminal(environ: Mapping[str, str], *arguments: str, typed: str, after: str) -> tuple[int, str, str]:
    """Exit code, standard output, and what the terminal has shown; `typed` is entered once it shows `after`."""
    ours, theirs = pty.openpty()
    with os.fdopen(ours, "rb+", buffering=0) as terminal:
        process = subprocess.Popen(
            ["setsid", "--ctty", "--wait", script("servekit"), *arguments], env=clean_environ(environ), stdin=theirs,
            stdout=subprocess.PIPE, stderr=theirs,
        )  # fmt: skip
        os.close(theirs)
        shown = ""
        with suppress(OSError):  # the other side is closed at the end
            while piece := terminal.read(4096):
                before, shown = shown, shown + piece.decode()
                if after in shown and after not in before:
                    terminal.write(f"{typed}\n".encode())
        out = process.communicate(timeout=MAX_S)[0].decode()
    return process.returncode, out, shown


def test_a_person_is_asked_before_something_is_removed(emulator: Emulator, environ: dict[str, str], path: str) -> None:
    image_id = run(environ, "images", "modelarts", "register", path).stdout.strip()
    delete = ["images", "modelarts", "delete", path]
    code, out, shown = on_a_terminal(environ, *delete, typed="n", after="[y/N]")
    assert (code, out) == (0, "nothing removed\n")
    assert f"Remove the registration of {path} ({image_id})?" in shown
    assert len(registered(emulator, path)) == 1
    code, out, _ = on_a_terminal(environ, *delete, typed="y", after="[y/N]")
    assert (code, out) == (0, f"{image_id}\n")
    assert registered(emulator, path) == []


def test_a_person_sees_a_bar_and_types_a_password_that_is_not_shown(environ: dict[str, str], path: str) -> None:
    del environ["HUAWEICLOUD_SDK_SK"]
    publish = ["publish", "modelarts", path, "--digest", DIGEST]
    code, _, shown = on_a_terminal(environ, *publish, typed=SECRET_KEY, after=f"secret key of {ACCESS_KEY}: ")
    assert code == 0, shown
    assert SECRET_KEY not in shown
    assert "100%" in shown
    assert "ACTIVE" in shown


# --- models and services ---


def test_a_model_and_a_service_of_the_first_generation(environ: dict[str, str], path: str, tmp_path: Path) -> None:
    root = project(tmp_path / "digits", {"pyproject.toml": '[project]\nname = "digits"\nversion = "1.2.3"\n'})
    name = path.partition("/team/")[2].partition(":")[0][:40]
    steps = [
        "publish", "modelarts", path, "--digest", DIGEST, "--target", str(root), "--model-name", name, "--deploy", "v1",
        "--service-name", name,
    ]  # fmt: skip
    process = start(environ, *steps, "--json", cwd=root)
    out, err = process.communicate(timeout=MAX_S)
    assert process.returncode == 0, err
    document = json.loads(out)
    assert document["model"]["model_status"] == "published"
    assert document["model"]["model_version"] == "1.2.3"
    assert document["service"]["status"] == "running"
    assert document["service"]["access_address"].startswith("http")
    again = run(environ, *steps, cwd=root).stdout.splitlines()
    assert again[:3] == [document["image"]["id"], document["model"]["model_id"], document["service"]["service_id"]]
    other = run(environ, "publish", "modelarts", path.replace("1.0.0", "2.0.0"), "--digest", OTHER, "--create-model",
                "--model-name", name, "--model-version", "1.2.3", cwd=tmp_path, code=6)  # fmt: skip
    assert "of another image" in other.stderr
    run(environ, "undeploy", "modelarts", name, "--api", "v1", "--yes")
    assert as_json(environ, "undeploy", "modelarts", name, "--api", "v1", "--yes", code=5)["error"]["status"] == 404


def test_a_service_of_the_second_generation_straight_of_the_image(
    emulator: Emulator, environ: dict[str, str], path: str
) -> None:
    name = path.partition("/team/")[2].partition(":")[0][:40]
    arguments = [
        "deploy",
        "modelarts",
        path,
        "--service-name",
        name,
        "--cpu",
        "2",
        "--memory-mb",
        "4096",
        "--env",
        "A=b",
    ]
    document = as_json(environ, *arguments)
    assert document["service"]["status"] == "RUNNING"
    service_id = document["service"]["id"]
    undeploy = ["undeploy", "modelarts", service_id, "--api", "v2"]
    place = ["--region", "cn-north-4", "--project-id", PROJECT_ID]
    assert document["made"][0]["command"] == " ".join(["servekit", *undeploy, *place])
    again = run(environ, *arguments)
    assert again.stdout.splitlines()[0] == document["service"]["id"]
    assert again.stdout.splitlines()[1].startswith("http")
    assert "is there" in again.stderr
    run(environ, "deploy", "modelarts", path.replace(":1", ":2"), "--service-name", name, "--flavor", "x", code=6)
    emulator.faults("lost-answer", method="POST", path="/v2/.*/services/delete")
    run(environ, "undeploy", "modelarts", document["service"]["id"], "--yes")


def test_a_deployment_that_fails_shows_the_platforms_reason(
    emulator: Emulator, environ: dict[str, str], path: str
) -> None:
    emulator.faults("create-failed", method="POST", path="/v2/.*/services", message="the port is shut")
    arguments = ["deploy", "modelarts", path, "--service-name", "shut", "--flavor", "small"]
    error = as_json(environ, *arguments, code=10)["error"]
    assert "the port is shut" in error["message"]
    assert "servekit undeploy modelarts" in error["hint"]


# --- bad input ---


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["publish", "modelarts", "digits:1"], "swr_path: expected registry"),
        (["publish", "modelarts", "swr.x.com/team/digits:1.0", "--arch", "mips"], "arch: expected one of"),
        (["publish", "modelarts", "swr.x.com/team/digits:1.0", "--description", "x" * 513], "description: expected"),
        (["publish", "modelarts", "swr.x.com/team/digits:1.0", "--resource-category", "TPU"], "resource_category: exp"),
        (["publish", "modelarts", "swr.x.com/team/digits:1.0", "--service-type", "X"], "service_type: expected"),
        (["publish", "modelarts", "swr.x.com/team/digits:1.0", "--services", "FTP"], "services: expected"),
        (["publish", "modelarts", "swr.x.com/team/digits:1.0", "--visibility", "X"], "visibility: expected"),
        (["publish", "modelarts", "swr.x.com/team/digits:1.0", "--workspace-id", "X"], "workspace_id: expected"),
        (["publish", "modelarts", "swr.x.com/team/digits:1.0", "--origin", "X"], "origin: expected"),
        (["publish", "modelarts", "swr.x.com/team/digits:1.0", "--digest", "1"], "--digest: expected sha256:"),
        (["publish", "modelarts", f"swr.x.com/t/digits:1.0@{DIGEST}", "--digest", OTHER], "--digest: expected"),
        (["publish", "modelarts", "swr.x.com/team/digits:1.0", "--region", "X"], "--region: expected"),
        (["publish", "modelarts", "swr.x.com/team/digits:1.0", "--project-id", "a/b"], "--project-id: expected"),
        (["publish", "modelarts", "swr.x.com/team/digits:1.0", "--deploy", "v2"], "--flavor: expected"),
        (["publish", "modelarts", "swr.x.com/t/digits:1.0", "--region", "eu-de", "--resource-category", "ASCEND"],
         "resource_category: expected CPU or GPU"),
        (["publish", "modelarts", "swr.x.com/team/digits:1.0-x", "--create-model"], "model_version: expected"),
        (["deploy", "modelarts"], "expected an IMAGE, or a --model-id"),
        (["deploy", "modelarts", "--model-id", "a/b"], "--model-id: expected"),
        (["deploy", "modelarts", "swr.x.com/team/digits:1.0", "--flavor", "f", "--env", "1=2"], "--env '1': expected"),
        (["images", "modelarts", "show", "a b"], "IMAGE: expected"),
        (["undeploy", "modelarts", "../x", "--yes"], "SERVICE: expected"),
        (["images", "modelarts", "list", "--endpoint", ""], "--endpoint: expected a value"),
        (["publish", "modelarts", "swr.x.com/team/digits:1.0", "--push", "--endpoint", "https://private.example.com"],
         "--swr-endpoint: expected, beside"),
    ],
)  # fmt: skip
def test_bad_input_is_refused_before_anything_is_asked(
    arguments: list[str], said: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.chdir(tmp_path)
    for name, value in {
        # Nobody listens there: a request would be another error.
        "SERVEKIT_MODELARTS_ENDPOINT": "http://127.0.0.1:9", "SERVEKIT_MODELARTS_REGION": "cn-north-4",
        "SERVEKIT_MODELARTS_PROJECT_ID": PROJECT_ID, "HUAWEICLOUD_SDK_AK": ACCESS_KEY, "HUAWEICLOUD_SDK_SK": SECRET_KEY,
    }.items():  # fmt: skip
        monkeypatch.setenv(name, value)
    done = CliRunner().invoke(main, [*arguments, "--json"])
    assert done.exit_code == 2, done.output
    assert json.loads(done.stdout)["error"]["kind"] == "usage"
    assert said in done.stderr
