"""One correct server for each platform, in plain Flask. The model adds numbers: {"x": [1, 2]} -> {"y": 3}."""

from __future__ import annotations

import json
import os
import sys
import threading
import time
from pathlib import Path
from typing import Any

from door import Door
from flask import Flask, Response, jsonify, request
from werkzeug.exceptions import HTTPException

PREDICTS_S = 0.02
MAX_BODY_BYTES = 32 * 1024 * 1024


class Refused(Exception):
    """status, and what is wrong in words."""

    def __init__(self, status: int, text: str) -> None:
        super().__init__(text)
        self.status, self.text = status, text


class Server(Door):
    """What the platforms' servers have in common."""

    platform = ""
    # The clause that is broken, and files that describe the container.
    breaks: str | None = None
    files: dict[str, str] = {}  # noqa: RUF012 - data of a class
    loads_s = 0.0
    max_body_bytes = MAX_BODY_BYTES

    def __init__(self, port: int) -> None:
        super().__init__(port)
        self.loaded = threading.Event()
        self.app = Flask(__name__)
        self.app.config["MAX_CONTENT_LENGTH"] = self.max_body_bytes
        self.app.register_error_handler(Refused, lambda error: self.refusal(error.status, error.text))
        self.app.register_error_handler(HTTPException, lambda error: self.refusal(error.code or 500, error.name))
        self.app.register_error_handler(Exception, lambda error: self.refusal(500, "server error"))
        self.routes()
        self.start_loading()

    def start_loading(self) -> None:
        threading.Thread(target=self.load, daemon=True).start()

    def routes(self) -> None:
        raise NotImplementedError

    def load(self) -> None:
        time.sleep(self.loads_s)
        self.loaded.set()

    def application(self, environ: dict[str, Any], start_response: Any) -> Any:
        return self.app(environ, start_response)

    def refusal(self, status: int, text: str) -> Response:
        return answer(status, {"error": text})

    def say(self) -> None:
        print(f"serving on {self.port}", flush=True)

    # --- the model ---

    def read(self, body: bytes) -> Any:
        try:
            numbers = json.loads(body)["x"]
            return [float(number) for number in numbers]
        except (ValueError, TypeError, KeyError) as error:
            raise Refused(400, f"expected an object with a list x: {error}") from error

    def predict(self, numbers: Any) -> Any:
        time.sleep(PREDICTS_S)
        return {"y": sum(numbers)}


def answer(status: int, document: Any) -> Response:
    reply = jsonify(document)
    reply.status_code = status
    return reply


class SageMaker(Server):
    platform = "sagemaker"

    def routes(self) -> None:
        self.app.add_url_rule("/ping", "ping", lambda: self.ping(), methods=["GET", "POST"])
        self.app.add_url_rule("/invocations", "invocations", lambda: self.invocations(), methods=["POST"])
        self.app.add_url_rule("/execution-parameters", "parameters", lambda: self.parameters(), methods=["GET"])

    def ping(self) -> Any:
        return answer(200 if self.loaded.is_set() else 503, {})

    def invocations(self) -> Any:
        if not self.loaded.is_set():
            raise Refused(503, "not loaded yet")
        if request.mimetype != "application/json":
            raise Refused(415, "expected application/json")
        return answer(200, self.predict(self.read(request.get_data())))

    def parameters(self) -> Any:
        return answer(200, {"MaxConcurrentTransforms": 4, "BatchStrategy": "SINGLE_RECORD", "MaxPayloadInMB": 6})


class ModelArts(Server):
    platform = "modelarts"
    # The tests' terms have two seconds for the platform's sixty.
    linger_s = 2.2

    def routes(self) -> None:
        self.app.add_url_rule("/health", "health", lambda: self.health(), methods=["GET"])
        self.app.add_url_rule("/", "predictions", lambda: self.predictions(), methods=["POST"])

    def health(self) -> Any:
        return answer(200 if self.loaded.is_set() else 503, {"health": "true" if self.loaded.is_set() else "false"})

    def predictions(self) -> Any:
        if not self.loaded.is_set():
            raise Refused(503, "not loaded yet")
        if request.mimetype != "application/json":
            raise Refused(415, "expected application/json")
        return answer(200, self.predict(self.read(request.get_data())))

    def refusal(self, status: int, text: str) -> Response:
        return answer(status, {"error_code": f"GALLERY.{status}", "error_msg": text})


WORDS = {
    200: "OK", 202: "Accepted", 400: "Bad Request", 404: "Not Found", 405: "Method Not Allowed",
    413: "Request Entity Too Large", 415: "Unsupported Media Type", 422: "Unprocessable Entity",
    500: "Internal Server Error",
}  # fmt: skip


class Modzy(Server):
    platform = "modzy"

    def start_loading(self) -> None:
        """Within the first /status."""

    def routes(self) -> None:
        self.app.add_url_rule("/status", "status", lambda: self.status(), methods=["GET"])
        self.app.add_url_rule("/run", "run", lambda: self.do(), methods=["POST"])
        self.app.add_url_rule("/shutdown", "shutdown", lambda: self.shutdown(), methods=["POST"])

    def form(self, status: int, message: str, **more: Any) -> Response:
        return answer(status, {"statusCode": status, "status": WORDS.get(status, "Error"), "message": message} | more)

    def refusal(self, status: int, text: str) -> Response:
        return self.form(status, text, technicalInformation=text)

    def status(self) -> Any:
        if not self.loaded.is_set():
            self.load()
        return self.form(200, "ready")

    def do(self) -> Any:
        job = self.job()
        folder = self.output_folder(job["output"])
        result = self.predict(self.input(Path(job["input"])))
        self.write(folder, result)
        return self.form(200, "success")

    def job(self) -> dict[str, Any]:
        try:
            job = json.loads(request.get_data())
        except ValueError:
            job = None
        if not isinstance(job, dict):
            raise Refused(400 if request.mimetype == "application/json" else 415, "expected a JSON object")
        if job.get("type") != "file":
            raise Refused(400, "type: expected file")
        for key in ("input", "output"):
            if not isinstance(job.get(key), str):
                raise Refused(400, f"{key}: expected a folder")
        return job

    def output_folder(self, place: str) -> Path:
        try:
            os.makedirs(place, exist_ok=True)  # noqa: PTH103 - as the template does
        except OSError as error:
            raise Refused(400, "output: cannot be made") from error
        return Path(place)

    def input(self, folder: Path) -> Any:
        file = folder / "x.json"
        if not file.is_file():
            raise Refused(400, "x.json: no such file")
        return self.read(file.read_bytes())

    def read(self, body: bytes) -> Any:
        try:
            return super().read(body)
        except Refused as error:
            raise Refused(422, error.text) from error

    def write(self, folder: Path, result: Any) -> None:
        (folder / "results.json").write_text(json.dumps({"data": {"result": result}}))

    def shutdown(self) -> Any:
        threading.Timer(0.1, self.tell).start()
        return self.form(202, "exiting")


def main() -> None:
    """NAME PORT: serve one of the gallery, or a correct one."""
    import wrong

    server = wrong.BY_NAME[sys.argv[1]](int(sys.argv[2]))
    server.say()
    server.run()
