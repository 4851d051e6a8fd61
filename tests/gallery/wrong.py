"""The gallery: servers that are wrong in one way each. `breaks` is the clause that names the fault."""

from __future__ import annotations

import json
import os
import sys
import threading
import time
from pathlib import Path
from typing import Any

from correct import ModelArts, Modzy, Refused, SageMaker, Server, answer
from flask import Response, request

BY_NAME: dict[str, type[Server]] = {"sagemaker": SageMaker, "modelarts": ModelArts, "modzy": Modzy}
TRACEBACK = 'Traceback (most recent call last):\n  File "model.py", line 7, in predict\nKeyError: x\n'


def wrong(kind: type[Server]) -> type[Server]:
    BY_NAME[kind.__name__] = kind
    return kind


# --- SageMaker: the start -----------------------------------------------------------------------------------------


@wrong
class SageMakerListensOnAnotherPort(SageMaker):
    breaks = "SM-01"

    def run(self) -> None:
        self.port = 0
        super().run()


@wrong
class SageMakerIsNeverReady(SageMaker):
    breaks = "SM-01"

    def load(self) -> None:
        pass


@wrong
class SageMakerEndsAtOnce(SageMaker):
    breaks = "SM-01"

    def run(self) -> None:
        sys.exit("no model in /opt/ml/model")


@wrong
class SageMakerIsUnhealthyWith200ButFor(SageMaker):
    """It says 200 from the first moment, and loads for another second."""

    breaks = "SM-02"
    loads_s = 1.0

    def ping(self) -> Any:
        return answer(200, {"status": "Healthy" if self.loaded.is_set() else "Unhealthy"})


@wrong
class SageMakerAsksTheModelInPing(SageMaker):
    """A deep check that takes longer than a ping may."""

    breaks = "SM-03"
    asked = False

    def ping(self) -> Any:
        if self.asked:
            time.sleep(1.4)
        self.asked = self.loaded.is_set()
        return super().ping()


@wrong
class SageMakerHasOneThreadForAll(SageMaker):
    """A ping waits for predictions."""

    breaks = "SM-04"
    turn = threading.Lock()

    def ping(self) -> Any:
        with self.turn:
            return super().ping()

    def predict(self, numbers: Any) -> Any:
        with self.turn:
            time.sleep(0.4)
            return super().predict(numbers)


# --- SageMaker: the work ------------------------------------------------------------------------------------------


@wrong
class SageMakerFailsAlways(SageMaker):
    breaks = "SM-05"

    def predict(self, numbers: Any) -> Any:
        raise RuntimeError("no such layer")


@wrong
class SageMakerServesAnotherPath(SageMaker):
    breaks = "SM-05"

    def invocations(self) -> Any:
        raise Refused(404, "did you mean /predict?")


@wrong
class SageMakerRefusesUnknownHeaders(SageMaker):
    breaks = "SM-06"

    def invocations(self) -> Any:
        if "X-Amzn-SageMaker-Something-New" in request.headers:
            raise Refused(400, "unknown header")
        return super().invocations()


@wrong
class SageMakerIsSlow(SageMaker):
    breaks = "SM-07"

    def predict(self, numbers: Any) -> Any:
        time.sleep(1.7)
        return super().predict(numbers)


@wrong
class SageMakerCallsJsonHtml(SageMaker):
    breaks = "SM-08"

    def invocations(self) -> Any:
        return json.dumps(super().invocations().get_json())


@wrong
class SageMakerAnswers200WithAnErrorBody(SageMaker):
    breaks = "SM-09"

    def refusal(self, status: int, text: str) -> Response:
        return answer(200 if status == 400 else status, {"error": text})


@wrong
class SageMakerAnswers500ForBadInput(SageMaker):
    breaks = "SM-10"

    def read(self, body: bytes) -> Any:
        return json.loads(body)["x"]


@wrong
class SageMakerHangsUpOnBadInput(SageMaker):
    breaks = "SM-10"
    bad = False

    def read(self, body: bytes) -> Any:
        try:
            return super().read(body)
        except Refused:
            self.bad = True
            raise

    def drops(self, began_s: float) -> bool:
        bad, self.bad = self.bad, False
        return bad


@wrong
class SageMakerAnswersErrorsAtLength(SageMaker):
    breaks = "SM-11"

    def refusal(self, status: int, text: str) -> Response:
        return answer(status, {"error": text * 200})


@wrong
class SageMakerAnswersWithATraceback(SageMaker):
    breaks = "SM-12"

    def refusal(self, status: int, text: str) -> Response:
        return Response(TRACEBACK + text, status, content_type="text/plain")


@wrong
class SageMakerRefusesCustomAttributes(SageMaker):
    breaks = "SM-13"

    def invocations(self) -> Any:
        if "X-Amzn-SageMaker-Custom-Attributes" in request.headers:
            raise Refused(400, "unknown header")
        return super().invocations()


@wrong
class SageMakerAnswersLongAttributes(SageMaker):
    breaks = "SM-13"

    def invocations(self) -> Any:
        reply = super().invocations()
        reply.headers["X-Amzn-SageMaker-Custom-Attributes"] = "a" * 2000
        return reply


@wrong
class SageMakerFailsForAnUnknownAccept(SageMaker):
    breaks = "SM-14"

    def invocations(self) -> Any:
        writers = {"application/json": answer, "*/*": answer}
        kind = request.headers.get("Accept", "*/*").split(";")[0]
        return writers[kind](200, super().invocations().get_json())


@wrong
class SageMakerWantsAnAccept(SageMaker):
    breaks = "SM-14"

    def invocations(self) -> Any:
        if request.headers.get("Accept") == "*/*":
            raise Refused(406, "which one?")
        return super().invocations()


@wrong
class SageMakerTakesOneMegabyte(SageMaker):
    breaks = "SM-15"
    max_body_bytes = 100_000


@wrong
class SageMakerTakesTenMegabytes(SageMaker):
    """Ten of twenty-five; the tests' terms have smaller numbers."""

    breaks = "SM-16"
    max_body_bytes = 800_000


@wrong
class SageMakerDiesOfLargeBodies(SageMaker):
    breaks = "SM-16"

    def invocations(self) -> Any:
        if (request.content_length or 0) > 800_000:
            print("MemoryError", flush=True)
            os._exit(137)
        return super().invocations()


@wrong
class SageMakerReadsBeforeItRefuses(SageMaker):
    breaks = "SM-17"
    refuses_before_reading = False


@wrong
class SageMakerReadsNoChunks(SageMaker):
    breaks = "SM-18"
    reads_chunks = False


@wrong
class SageMakerAcceptsFewConnections(SageMaker):
    breaks = "SM-19"
    max_connections = 14
    backlog = 4


@wrong
class SageMakerServesOthersParameters(SageMaker):
    breaks = "SM-23"

    def parameters(self) -> Any:
        return answer(200, {"max_concurrent_transforms": 4, "batch_strategy": "SINGLE_RECORD", "max_payload_in_mb": 6})


@wrong
class SageMakerPromisesTooMuch(SageMaker):
    breaks = "SM-23"

    def parameters(self) -> Any:
        return answer(200, {"MaxConcurrentTransforms": 50, "BatchStrategy": "SINGLE_RECORD", "MaxPayloadInMB": 6})


@wrong
class SageMakerTakesPingsByGetOnly(SageMaker):
    breaks = "SM-24"

    def ping(self) -> Any:
        if request.method == "POST":
            raise Refused(405, "GET only")
        return super().ping()


@wrong
class SageMakerAnswers200Everywhere(SageMaker):
    breaks = "SM-25"

    def refusal(self, status: int, text: str) -> Response:
        return super().refusal(200 if status == 404 else status, text)


@wrong
class SageMakerClosesEveryConnection(SageMaker):
    breaks = "SM-26"
    keeps_alive = False


@wrong
class SageMakerFailsInACrowd(SageMaker):
    breaks = "SM-27"
    inside = 0

    def predict(self, numbers: Any) -> Any:
        self.inside += 1
        try:
            if self.inside > 6:
                raise RuntimeError("CUDA out of memory")
            time.sleep(0.05)
            return super().predict(numbers)
        finally:
            self.inside -= 1


@wrong
class SageMakerLogsNothing(SageMaker):
    breaks = "SM-28"

    def say(self) -> None:
        pass


@wrong
class SageMakerComparesTheWholeType(SageMaker):
    breaks = "SM-29"

    def invocations(self) -> Any:
        if request.content_type != "application/json" and request.mimetype == "application/json":
            raise Refused(415, "expected application/json")
        return super().invocations()


# --- SageMaker: the end -------------------------------------------------------------------------------------------


@wrong
class SageMakerDropsWhatItBegan(SageMaker):
    breaks = "SM-20"

    def on_sigterm(self) -> None:
        os._exit(0)


@wrong
class SageMakerIgnoresSigterm(SageMaker):
    breaks = "SM-21"
    handles_sigterm = False


@wrong
class SageMakerExitsWith1(SageMaker):
    breaks = "SM-22"
    exit_code = 1


# --- ModelArts ------------------------------------------------------------------------------------------------------


@wrong
class ModelArtsHasNoHealthCheck(ModelArts):
    breaks = "MA-01"

    def health(self) -> Any:
        raise Refused(404, "did you mean /healthz?")


@wrong
class ModelArtsIsReadyTooEarly(ModelArts):
    breaks = "MA-02"
    loads_s = 1.0

    def health(self) -> Any:
        return answer(200, {"health": "true"})


@wrong
class ModelArtsAsksTheModelInItsHealthCheck(ModelArts):
    breaks = "MA-03"
    asked = False

    def health(self) -> Any:
        if self.asked:
            time.sleep(1.4)
        self.asked = self.loaded.is_set()
        return super().health()


@wrong
class ModelArtsHasOneThreadForAll(ModelArts):
    breaks = "MA-04"
    turn = threading.Lock()

    def health(self) -> Any:
        with self.turn:
            return super().health()

    def predict(self, numbers: Any) -> Any:
        with self.turn:
            time.sleep(0.4)
            return super().predict(numbers)


@wrong
class ModelArtsFailsAlways(ModelArts):
    breaks = "MA-05"

    def predict(self, numbers: Any) -> Any:
        raise RuntimeError("no such layer")


@wrong
class ModelArtsIsSlow(ModelArts):
    breaks = "MA-06"

    def predict(self, numbers: Any) -> Any:
        time.sleep(1.7)
        return super().predict(numbers)


@wrong
class ModelArtsClosesIdleConnections(ModelArts):
    """After two seconds, as gunicorn does by default; the tests' terms have smaller numbers."""

    breaks = "MA-07"
    keep_alive_s = 0.5


@wrong
class ModelArtsClosesEveryConnection(ModelArts):
    breaks = "MA-07"
    keeps_alive = False


@wrong
class ModelArtsAnnouncesToClose(ModelArts):
    breaks = "MA-07"
    more_headers = (("Keep-Alive", "timeout=1"),)


@wrong
class ModelArtsTakesOneMegabyte(ModelArts):
    breaks = "MA-08"
    max_body_bytes = 100_000


@wrong
class ModelArtsReadsBeforeItRefuses(ModelArts):
    breaks = "MA-09"
    refuses_before_reading = False


@wrong
class ModelArtsReadsNoChunks(ModelArts):
    breaks = "MA-10"
    reads_chunks = False


@wrong
class ModelArtsAnswers200WithAnErrorBody(ModelArts):
    breaks = "MA-11"

    def refusal(self, status: int, text: str) -> Response:
        reply = super().refusal(status, text)
        reply.status_code = 200 if status == 400 else status
        return reply


@wrong
class ModelArtsAnswers500ForBadInput(ModelArts):
    breaks = "MA-12"

    def read(self, body: bytes) -> Any:
        return json.loads(body)["x"]


@wrong
class ModelArtsHasErrorsOfItsOwn(ModelArts):
    breaks = "MA-13"

    def refusal(self, status: int, text: str) -> Response:
        return answer(status, {"code": status, "detail": text})


@wrong
class ModelArtsAnswersWithATraceback(ModelArts):
    breaks = "MA-14"

    def refusal(self, status: int, text: str) -> Response:
        return answer(status, {"error_code": "GALLERY.1", "error_msg": TRACEBACK})


@wrong
class ModelArtsCallsJsonHtml(ModelArts):
    breaks = "MA-15"

    def predictions(self) -> Any:
        return json.dumps(super().predictions().get_json())


@wrong
class ModelArtsIsHealthyInPlainText(ModelArts):
    breaks = "MA-16"

    def health(self) -> Any:
        return ("OK", super().health().status_code)


@wrong
class ModelArtsAnswers200Everywhere(ModelArts):
    breaks = "MA-17"

    def refusal(self, status: int, text: str) -> Response:
        return super().refusal(200 if status in (404, 405) else status, text)


@wrong
class ModelArtsLogsNothing(ModelArts):
    breaks = "MA-18"

    def say(self) -> None:
        pass


@wrong
class ModelArtsFailsInACrowd(ModelArts):
    breaks = "MA-19"
    inside = 0

    def predict(self, numbers: Any) -> Any:
        self.inside += 1
        try:
            if self.inside > 6:
                raise RuntimeError("CUDA out of memory")
            time.sleep(0.05)
            return super().predict(numbers)
        finally:
            self.inside -= 1


@wrong
class ModelArtsDropsWhatItBegan(ModelArts):
    """It serves on after SIGTERM, but not those that came before."""

    breaks = "MA-20"

    def drops(self, began_s: float) -> bool:
        return began_s < self.told_s < time.monotonic()


@wrong
class ModelArtsEndsTooEarly(ModelArts):
    breaks = "MA-21"
    linger_s = 0.0


@wrong
class ModelArtsIgnoresSigterm(ModelArts):
    breaks = "MA-22"
    handles_sigterm = False


@wrong
class ModelArtsExitsWith1(ModelArts):
    breaks = "MA-23"
    exit_code = 1


@wrong
class ModelArtsComparesTheWholeType(ModelArts):
    breaks = "MA-24"

    def predictions(self) -> Any:
        if request.content_type != "application/json" and request.mimetype == "application/json":
            raise Refused(415, "expected application/json")
        return super().predictions()


CONFIG = {
    "model_algorithm": "sums", "model_type": "Image",
    "apis": [{"url": "/", "method": "post", "request": {"Content-type": "application/json"}}],
    "health": {"url": "/health", "protocol": "http", "initial_delay_seconds": "12", "timeout_seconds": "10"},
}  # fmt: skip


@wrong
class ModelArtsDeclaresNumbersAsNumbers(ModelArts):
    breaks = "MA-30"
    files = {"config.json": json.dumps(CONFIG | {"health": {"url": "/health", "timeout_seconds": 10}})}  # noqa: RUF012


@wrong
class ModelArtsDeclaresWhatIsNotThere(ModelArts):
    breaks = "MA-31"
    files = {  # noqa: RUF012
        "config.json": json.dumps(CONFIG | {"apis": [*CONFIG["apis"], {"url": "/v1/sums", "method": "post"}]})  # type: ignore[misc]
    }


# --- Modzy: the start -----------------------------------------------------------------------------------------------


@wrong
class ModzyIgnoresItsVariable(Modzy):
    breaks = "MZ-01"

    def run(self) -> None:
        self.port = 0
        super().run()


@wrong
class ModzyIsReadyTooEarly(Modzy):
    breaks = "MZ-02"
    loads_s = 1.0

    def status(self) -> Any:
        threading.Thread(target=self.load, daemon=True).start()
        return self.form(200, "ready")

    def do(self) -> Any:
        if not self.loaded.is_set():
            raise Refused(500, "no model")
        return super().do()


@wrong
class ModzySaysNotYet(Modzy):
    breaks = "MZ-03"
    loads_s = 0.5

    def start_loading(self) -> None:
        threading.Thread(target=self.load, daemon=True).start()

    def status(self) -> Any:
        return super().status() if self.loaded.is_set() else self.refusal(500, "loading")


@wrong
class ModzyNamesFieldsInSnakeCase(Modzy):
    breaks = "MZ-04"

    def status(self) -> Any:
        super().status()
        return answer(200, {"status_code": 200, "status": "OK", "message": "ready"})


@wrong
class ModzyWritesItsStatusAsText(Modzy):
    breaks = "MZ-04"

    def status(self) -> Any:
        super().status()
        return answer(200, {"statusCode": "200", "status": "OK", "message": "ready"})


@wrong
class ModzySaysItsCharset(Modzy):
    breaks = "MZ-05"

    def form(self, status: int, message: str, **more: Any) -> Response:
        reply = super().form(status, message, **more)
        reply.headers["Content-Type"] = "application/json; charset=utf-8"
        return reply


@wrong
class ModzyAnswers404InHtml(Modzy):
    breaks = "MZ-06"

    def refusal(self, status: int, text: str) -> Response:
        return Response(f"<h1>{text}</h1>", 404) if status == 404 else super().refusal(status, text)


@wrong
class ModzyAnswers404For405(Modzy):
    breaks = "MZ-06"

    def refusal(self, status: int, text: str) -> Response:
        return super().refusal(404 if status == 405 else status, text)


# --- Modzy: the work ------------------------------------------------------------------------------------------------


@wrong
class ModzyFailsAlways(Modzy):
    breaks = "MZ-07"

    def predict(self, numbers: Any) -> Any:
        raise RuntimeError("no such layer")


@wrong
class ModzyAnswersWithItsResult(Modzy):
    breaks = "MZ-08"

    def do(self) -> Any:
        super().do()
        return answer(200, {"y": 3})


@wrong
class ModzyWritesNothing(Modzy):
    breaks = "MZ-09"

    def write(self, folder: Path, result: Any) -> None:
        # A folder is made all the same, with what nobody asked for.
        if folder.name == "there":
            super().write(folder, result)


MANIFEST = """\
specification: '0.3'
type: file
name: sums
version: 1.0.0
author: the gallery
description: {summary: adds numbers}
inputs:
  x.json: {acceptedMediaTypes: [application/json], maxSize: 1M, description: numbers}
outputs:
  results.json: {mediaType: application/json, maxSize: 1M, description: their sum}
resources: {memory: {size: 512M}, cpu: {count: 1}, gpu: {count: 0}}
timeout: {status: 20s, run: 20s}
"""


@wrong
class ModzyWritesAnotherName(Modzy):
    breaks = "MZ-09"
    files = {"model.yaml": MANIFEST}  # noqa: RUF012

    def write(self, folder: Path, result: Any) -> None:
        (folder / "result.json").write_text(json.dumps(result))


@wrong
class ModzyLitters(Modzy):
    breaks = "MZ-10"

    def input(self, folder: Path) -> Any:
        numbers = super().input(folder)
        (folder / "x.json.cache").write_text("seen")
        return numbers


@wrong
class ModzyWantsItsFolder(Modzy):
    breaks = "MZ-11"

    def output_folder(self, place: str) -> Path:
        if not Path(place).is_dir():
            raise Refused(400, "output: no such folder")
        return Path(place)


@wrong
class ModzyRefusesTextWith400(Modzy):
    breaks = "MZ-12"

    def refusal(self, status: int, text: str) -> Response:
        return super().refusal(400 if status == 415 else status, text)


@wrong
class ModzyTakesAnyType(Modzy):
    breaks = "MZ-13"

    def job(self) -> dict[str, Any]:
        try:
            return super().job()
        except Refused as error:
            if error.text.startswith("type"):
                job: dict[str, Any] = json.loads(request.get_data())
                return job
            raise


@wrong
class ModzyFailsWithoutAnOutput(Modzy):
    breaks = "MZ-13"

    def job(self) -> dict[str, Any]:
        try:
            return super().job()
        except Refused as error:
            raise Refused(500 if error.text.startswith("output") else error.status, error.text) from error


@wrong
class ModzyFailsWithoutItsInput(Modzy):
    breaks = "MZ-14"

    def input(self, folder: Path) -> Any:
        return self.read((folder / "x.json").read_bytes())


@wrong
class ModzyFailsWithoutItsFolder(Modzy):
    breaks = "MZ-15"

    def output_folder(self, place: str) -> Path:
        os.makedirs(place, exist_ok=True)  # noqa: PTH103 - as the template does
        return Path(place)


@wrong
class ModzyAnswers200WithAnErrorBody(Modzy):
    breaks = "MZ-16"

    def refusal(self, status: int, text: str) -> Response:
        return self.form(200, f"error: {text}") if status == 422 else super().refusal(status, text)


@wrong
class ModzyAnswers500ForBadInput(Modzy):
    breaks = "MZ-17"

    def read(self, body: bytes) -> Any:
        return json.loads(body)["x"]


@wrong
class ModzyRefusesInPlainText(Modzy):
    breaks = "MZ-18"

    def refusal(self, status: int, text: str) -> Response:
        if status in (404, 405):
            return super().refusal(status, text)
        return Response(
            json.dumps({"error": text, "technicalInformation": text}), status, content_type="application/json"
        )


@wrong
class ModzyExplainsNothing(Modzy):
    breaks = "MZ-19"

    def refusal(self, status: int, text: str) -> Response:
        return self.form(status, text)


@wrong
class ModzyRefusesWhatItDoesNotKnow(Modzy):
    breaks = "MZ-24"

    def job(self) -> dict[str, Any]:
        job = super().job()
        if set(job) - {"type", "input", "output"}:
            raise Refused(400, "unknown key")
        return job


@wrong
class ModzyInsistsOnItsType(Modzy):
    breaks = "MZ-25"

    def job(self) -> dict[str, Any]:
        job = super().job()
        if request.mimetype != "application/json":
            raise Refused(415, "expected application/json")
        return job


@wrong
class ModzyIsSlow(Modzy):
    breaks = "MZ-26"

    def predict(self, numbers: Any) -> Any:
        time.sleep(1.7)
        return super().predict(numbers)


@wrong
class ModzyHasOneThreadForAll(Modzy):
    breaks = "MZ-27"
    turn = threading.Lock()

    def status(self) -> Any:
        with self.turn:
            return super().status()

    def predict(self, numbers: Any) -> Any:
        with self.turn:
            time.sleep(0.4)
            return super().predict(numbers)


@wrong
class ModzyAnswersWithATraceback(Modzy):
    breaks = "MZ-28"

    def refusal(self, status: int, text: str) -> Response:
        return self.form(status, text, technicalInformation=TRACEBACK)


@wrong
class ModzyLogsNothing(Modzy):
    breaks = "MZ-29"

    def say(self) -> None:
        pass


@wrong
class ModzyHasHalfAManifest(Modzy):
    breaks = "MZ-30"
    files = {"model.yaml": MANIFEST.replace("resources", "needs")}  # noqa: RUF012


@wrong
class ModzyComparesTheWholeType(Modzy):
    breaks = "MZ-31"

    def job(self) -> dict[str, Any]:
        job = super().job()
        if "charset" in (request.content_type or ""):
            raise Refused(415, "expected application/json")
        return job


# --- Modzy: the end -------------------------------------------------------------------------------------------------


@wrong
class ModzyExitsWith143(Modzy):
    breaks = "MZ-20"
    exit_code = 143


@wrong
class ModzyStaysAfterShutdown(Modzy):
    breaks = "MZ-21"

    def shutdown(self) -> Any:
        return self.form(202, "exiting")


@wrong
class ModzyAnswersShutdownWith200(Modzy):
    breaks = "MZ-22"

    def shutdown(self) -> Any:
        super().shutdown()
        return self.form(200, "bye")


@wrong
class ModzyDropsWhatItBegan(Modzy):
    breaks = "MZ-23"

    def shutdown(self) -> Any:
        threading.Timer(0.2, os._exit, [0]).start()
        return self.form(202, "exiting")
