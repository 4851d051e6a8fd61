"""Modzy's v1 contract as clauses that `servekit check` tries.

Source: Modzy documentation, "Container image" and "Container specification (REST)"; Modzy's Python model template.
Numbers of clauses are for ever.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

from servekit.errors import ConfigError
from servekit.platforms.modzy.contract import JSON, STATUS_TEXT
from servekit.terms import (
    Ask,
    Asks,
    Clause,
    Expectation,
    Image,
    Level,
    Named,
    Sample,
    Seen,
    Send,
    Start,
    Terms,
    is_shell_form,
    media_type,
    no_traceback,
    status,
    within,
)

REST = "https://docs.modzy.com/docs/container-specifications-rest"
IMAGES = "https://docs.modzy.com/reference/container-image"
TESTS = "https://docs.modzy.com/reference/tests"

STATUS = Send("GET", "/status")
SHUTDOWN = Send("POST", "/shutdown")
VARIABLE = "PSC_MODEL_PORT"
FIELDS = ("statusCode", "status", "message")
NOT_THERE = "servekit-check-nothing"
LIMIT_S = 60.0
DURATION = re.compile(r"([0-9]{1,6})(ms|s|m|h)")
SECONDS = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0}
NEEDED = ("name", "version", "author", "description", "resources", "timeout")


def predict(sample: Sample) -> Send:
    return _run({"type": "file", "input": sample.input, "output": sample.output})


def _run(job: Any, content_type: str = JSON) -> Send:
    return Send("POST", "/run", (("Content-Type", content_type),), json.dumps(job).encode())


def _changed(**changes: Any) -> Callable[[Sample], Send]:
    """The job with other values; None leaves a key out."""

    def send(sample: Sample) -> Send:
        job = {"type": "file", "input": sample.input, "output": sample.output} | changes
        return _run({key: value for key, value in job.items() if value is not None})

    return send


def _without_files(sample: Sample) -> Send:
    return predict(replace(sample, input=f"{sample.input}/{NOT_THERE}"))


def _as_text(sample: Sample) -> Send:
    return replace(predict(sample), headers=(("Content-Type", "text/plain"),))


def _form(seen: Seen) -> str | None:
    """The three fields, and what they say is true."""
    try:
        document = seen.json()
    except ValueError:
        return f"a body that is no JSON: {seen.body[:80]!r}"
    if not isinstance(document, dict):
        return f"JSON that is no object: {seen.body[:80]!r}"
    missing = [key for key in FIELDS if key not in document]
    if missing:
        return f"no {', '.join(missing)}"
    if document["statusCode"] != seen.status:
        return f"statusCode {document['statusCode']!r} with status {seen.status}"
    words = STATUS_TEXT.get(seen.status)
    if words is not None and document["status"] != words:
        return f"status {document['status']!r} for {seen.status}, which is {words!r}"
    if not isinstance(document["message"], str) or not document["message"]:
        return f"message {document['message']!r}"
    return None


def _no_parameters(seen: Seen) -> str | None:
    kind = seen.header("content-type") or ""
    return f"Content-Type {kind!r}" if kind.partition(";")[0].strip().lower() == JSON and kind != JSON else None


def _explains(seen: Seen) -> str | None:
    if seen.status < 400:
        return None
    try:
        document = seen.json()
    except ValueError:
        return None
    return None if isinstance(document, dict) and document.get("technicalInformation") else "no technicalInformation"


FORM = Expectation("statusCode, status and message that say the same as the answer's status", _form)
EXACT = media_type(JSON, exact=True)
PLAIN = Expectation(f"{JSON} without parameters, where it is JSON", _no_parameters)
READY = status(200)


def complaint_about(body: bytes) -> str | None:
    """What the platform does not take in a model.yaml."""
    import yaml

    from servekit.platforms.modzy.manifest import read

    try:
        manifest = read(body)
    except ConfigError as error:
        return error.message
    document = yaml.safe_load(body)
    if str(document.get("specification")) not in ("0.3", "0.4"):
        return f"specification {document.get('specification')!r}, which is to be '0.3'"
    if document.get("type") != "file":
        return f"type {document.get('type')!r}, which is to be file"
    missing = [key for key in NEEDED if key not in document]
    if missing:
        return f"no {', '.join(missing)}"
    if not manifest.inputs or not manifest.outputs:
        return "no inputs or no outputs"
    return None


def _adapted(terms: Terms, files: Mapping[str, bytes]) -> Terms:
    """The outputs and the time limits of model.yaml."""
    from servekit.platforms.modzy.manifest import read

    body = files.get("model.yaml")
    if body is None:
        return terms
    try:
        outputs = tuple(read(body).outputs)
    except ConfigError:
        return terms
    status_s, run_s = _limit_s(body, "status"), _limit_s(body, "run")
    if status_s is not None:
        start = replace(terms.start, ready_within_s=status_s)
        busy = Named("probe_while_busy", {"within_s": status_s})
        terms = _with_test(replace(terms, start=start, probe_within_s=status_s), "MZ-27", busy)
    if run_s is not None:
        terms = _with_test(replace(terms, answer_within_s=run_s), "MZ-26", Ask(predict, within(run_s), predicts=True))
    return replace(terms, outputs=outputs)


def _limit_s(body: bytes, name: str) -> float | None:
    """None where model.yaml has none that can be read, such as 60s."""
    import yaml

    times = yaml.safe_load(body).get("timeout")
    found = DURATION.fullmatch(str(times.get(name))) if isinstance(times, dict) else None
    return int(found[1]) * SECONDS[found[2]] if found is not None and int(found[1]) else None


def _with_test(terms: Terms, name: str, test: Ask | Named) -> Terms:
    clauses = (replace(clause, test=test) if clause.id == name else clause for clause in terms.clauses)
    return replace(terms, clauses=tuple(clauses))


def _exec_form(image: Image) -> str | None:
    words = list(image.entrypoint() or image.command())
    if not words:
        return "neither ENTRYPOINT nor CMD"
    return f"it starts {words}" if is_shell_form(words) else None


def _exposes_its_port(image: Image) -> str | None:
    port = image.environ().get(VARIABLE)
    exposed = list(image.exposed_ports())
    if port is None:
        return f"no {VARIABLE} in its environment"
    return None if port in map(str, exposed) else f"{VARIABLE}={port}, and EXPOSE {exposed}"


def _is_not_root(image: Image) -> str | None:
    user = image.user()
    return f"USER {user!r}" if user.partition(":")[0] in ("", "0", "root") else None


CLAUSES = (
    Clause(
        "MZ-01", Level.MUST, "GET /status says 200 within a minute of the start, or the time of model.yaml",
        "The platform loads a model by its /status route, and gives up after the time of model.yaml, such as 60 s.",
        TESTS, f"listen on the port of {VARIABLE}, load the model within the call, and answer 200",
        Named("becomes_ready"),
    ),
    Clause(
        "MZ-02", Level.MUST, "a container that says 200 to /status can predict",
        "200 means that the model is loaded.",
        REST, "answer /status when the model is loaded, not before",
        Named("ready_means_ready"),
    ),
    Clause(
        "MZ-03", Level.SHOULD, "/status waits for the model to be loaded, and does not say `not yet`",
        "The route loads the model within the call; its answers are 200 and 500 only.",
        REST, "load within the call, or let the call wait for the loading",
        Named("waits_with_its_answer"),
    ),
    Clause(
        "MZ-04", Level.MUST, "/status answers with statusCode, status and message",
        "Every answer is an object with these three.",
        REST, 'answer {"statusCode": 200, "status": "OK", "message": "ready"}',
        Ask(STATUS, FORM),
    ),
    Clause(
        "MZ-05", Level.MUST, "the Content-Type is exactly application/json",
        "All routes answer application/json; the template's tests compare the whole value.",
        IMAGES, "set the header yourself: no charset behind it",
        Asks((
            Ask(STATUS, EXACT),
            Ask(predict, EXACT),
            Ask(Send("GET", f"/{NOT_THERE}"), PLAIN),
            Ask(_changed(type="servekit-check"), PLAIN),
        )),
    ),
    Clause(
        "MZ-06", Level.MUST, "404 and 405 have the same form",
        "Every answer is an object with statusCode, status and message, also where there is no route.",
        REST, "give the framework handlers for 404 and 405 that answer in this form",
        Asks((
            Ask(Send("GET", f"/{NOT_THERE}"), status(404) & FORM),
            Ask(Send("GET", "/run"), status(405) & FORM),
            Ask(Send("POST", "/status"), status(405) & FORM),
        )),
    ),
    Clause(
        "MZ-07", Level.MUST, "POST /run answers a good job with 200",
        "200 says that the results are written.",
        REST, 'answer {"statusCode": 200, "status": "OK", "message": "success"}',
        Ask(predict, status(200)),
    ),
    Clause(
        "MZ-08", Level.MUST, "/run answers with statusCode, status and message",
        "Every answer is an object with these three.",
        REST, 'answer {"statusCode": 200, "status": "OK", "message": "success"}',
        Ask(predict, FORM, predicts=True),
    ),
    Clause(
        "MZ-09", Level.MUST, "the results are in the output folder",
        "The platform collects the files that model.yaml names, usually results.json, from the folder of the job.",
        REST, "write every declared output into the job's `output` folder before you answer 200; answer 500 otherwise",
        Named("writes_results"),
    ),
    Clause(
        "MZ-10", Level.SHOULD, "the input folder stays as it was",
        "A job's input and output folders are its own.",
        REST, "write into the job's `output` folder, and temporary files elsewhere",
        Named("writes_nowhere_else"),
    ),
    Clause(
        "MZ-11", Level.SHOULD, "an output folder that is not there is made",
        "The template makes it, with its parents.",
        REST, "make the folder: os.makedirs(output, exist_ok=True)",
        Named("makes_the_folder"),
    ),
    Clause(
        "MZ-12", Level.MUST, "what is no JSON, and does not say to be, is refused with 415",
        "415 is for a job of another media type.",
        REST, "answer 415 when the body is no JSON object and its type is not application/json",
        Asks((
            Ask(Send("POST", "/run", (("Content-Type", "text/plain"),), b"servekit-check"), status(415)),
            Ask(Send("POST", "/run", (("Content-Type", "application/octet-stream"),), b"\x00\x01"), status(415)),
        )),
    ),
    Clause(
        "MZ-13", Level.MUST, "a malformed job is refused with 400",
        "400 is for a job that is malformed: its type is to be `file`, its input and output are folders.",
        REST, "check that the job is an object, its type, then input, then output",
        Asks((
            Ask(Send("POST", "/run", (("Content-Type", JSON),), b'{"type": '), status(400)),
            Ask(Send("POST", "/run", (("Content-Type", JSON),)), status(400)),
            Ask(Send("POST", "/run", (("Content-Type", JSON),), b"[]"), status(400)),
            Ask(_changed(type="servekit-check"), status(400)),
            Ask(_changed(type=None), status(400)),
            Ask(_changed(input=None), status(400)),
            Ask(_changed(input=7), status(400)),
            Ask(_changed(output=None), status(400)),
        )),
    ),
    Clause(
        "MZ-14", Level.MUST, "a job without its input files is refused with 400",
        "400 is for files that are not there, too.",
        REST, "look for every declared input before you predict",
        Ask(_without_files, status(400), predicts=True),
    ),
    Clause(
        "MZ-15", Level.SHOULD, "an output folder that cannot be made is refused with 400",
        "400 is for folders that cannot be used.",
        REST, "make the folder before you predict, and answer 400 when that fails",
        Ask(_changed(output=f"/dev/null/{NOT_THERE}"), status(400), predicts=True),
    ),
    Clause(
        "MZ-16", Level.MUST, "an error is not hidden in a success",
        "The platform knows of a failure by its status only.",
        REST, "answer 422 when the model cannot use its input",
        Named("refuses_bad_input"),
    ),
    Clause(
        "MZ-17", Level.SHOULD, "input that cannot be used is answered with 422",
        "422 says that the input is wrong, 500 that the model is.",
        REST, "catch what reading the input raises (the template: ValueError), and answer 422",
        Named("blames_the_caller", {"statuses": (422, 400)}),
    ),
    Clause(
        "MZ-18", Level.MUST, "errors of /run have the same form",
        "Every answer is an object with statusCode, status and message, also that to a job which is refused.",
        REST, 'answer {"statusCode": 400, "status": "Bad Request", "message": "what is wrong"}',
        Asks((
            Ask(Send("POST", "/run", (("Content-Type", JSON),), b"[]"), FORM),
            Ask(Send("POST", "/run", (("Content-Type", "text/plain"),), b"servekit-check"), FORM),
            Ask(_changed(type="servekit-check"), FORM),
            Ask(_without_files, FORM),
        )),
    ),
    Clause(
        "MZ-19", Level.MAY, "errors carry technicalInformation",
        "An exception is to come with this field, for those who look for its cause.",
        IMAGES, "add technicalInformation to errors",
        Ask(_changed(type="servekit-check"), Expectation("technicalInformation", _explains)),
    ),
    Clause(
        "MZ-20", Level.MUST, "it ends with exit code 0 after POST /shutdown",
        "The process must end with exit code 0.",
        REST, "on /shutdown, stop the server and exit with 0; an entry script must `exec` the server",
        Named("exits_with", {"codes": (0,)}),
    ),
    Clause(
        "MZ-21", Level.MUST, "it ends within 30 s of POST /shutdown",
        "The process must end.",
        REST, "on /shutdown, stop the server",
        Named("ends_in_time"),
    ),
    Clause(
        "MZ-22", Level.SHOULD, "/shutdown is answered with 202 in the same form, if at all",
        "The connection may be dropped; an answer says 202.",
        REST, 'answer {"statusCode": 202, "status": "Accepted", "message": "exiting"}',
        Named("confirms_its_end", {"expect": status(202) & FORM}),
    ),
    Clause(
        "MZ-23", Level.MAY, "a job that runs at /shutdown is finished",
        "Nothing is said of it; a result that was paid for should not be lost.",
        REST, "finish what was begun before you exit",
        Named("finishes_what_it_began"),
    ),
    Clause(
        "MZ-24", Level.MAY, "a job's other keys are ignored",
        "A job may say `explain`, also to models that cannot.",
        REST, "read type, input and output, and ignore the rest",
        Ask(_changed(explain=True), status(200), predicts=True),
    ),
    Clause(
        "MZ-25", Level.MAY, "a good job that says to be text is taken",
        "The template reads the body as JSON whatever its type is.",
        REST, "read the body as JSON first, and look at its type when that fails",
        Ask(_as_text, status(200), predicts=True),
    ),
    Clause(
        "MZ-26", Level.MUST, "a job takes at most 60 s, or the time of model.yaml",
        "The platform ends a container whose job takes longer than model.yaml says; 60 s is the usual time.",
        TESTS, "predict faster, or raise timeout.run in model.yaml",
        Ask(predict, within(LIMIT_S), predicts=True),
    ),
    Clause(
        "MZ-27", Level.SHOULD, "/status is answered within 60 s, or the time of model.yaml, also while jobs run",
        "A call of /status has the time that model.yaml gives it.",
        TESTS, "answer /status from a thread that jobs cannot occupy",
        Named("probe_while_busy", {"within_s": LIMIT_S}),
    ),
    Clause(
        "MZ-28", Level.MAY, "an error holds no traceback",
        "Whoever runs a job gets the message.",
        IMAGES, "write tracebacks to the log, and one line into the answer",
        Named("refuses_in_form", {"form": no_traceback()}),
    ),
    Clause(
        "MZ-29", Level.MAY, "it writes a log to its standard output or standard error",
        "The template logs to standard error, unbuffered.",
        REST, "log to standard error, and set PYTHONUNBUFFERED=1",
        Named("writes_a_log"),
    ),
    Clause(
        "MZ-30", Level.MUST, "model.yaml is one that the platform takes",
        "It names the model, its files, its resources and its time limits.",
        REST, "correct what is named; `servekit build` writes one that fits the predictor",
        Named("file_is_right", {"name": "model.yaml", "complaint": complaint_about}),
    ),
    Clause(
        "MZ-31", Level.SHOULD, "a job whose Content-Type has a charset is taken like one without",
        "415 is for another media type, and a charset makes no other one.",
        REST, "cut the header at the semicolon before you compare it",
        Named("takes_parameters"),
    ),
    Clause(
        "MZ-40", Level.SHOULD, "it starts in the exec form",
        "The server must get signals, and its exit code must become the container's.",
        REST, 'write ENTRYPOINT ["program"] or CMD ["program"]; a script ends in `exec program`',
        Named("image_is_right", {"complaint": _exec_form, "expected": "no shell in front"}),
    ),
    Clause(
        "MZ-41", Level.SHOULD, f"it sets {VARIABLE}, and exposes that port",
        "The template's image does both.",
        REST, f"write ENV {VARIABLE}=8080 and EXPOSE 8080",
        Named("image_is_right", {"complaint": _exposes_its_port, "expected": f"ENV {VARIABLE} and EXPOSE"}),
    ),
    Clause(
        "MZ-42", Level.MAY, "its user is not root",
        "The template's newer image has a user of its own.",
        REST, "write USER 1000",
        Named("image_is_right", {"complaint": _is_not_root, "expected": "another USER than root"}),
    ),
)  # fmt: skip

TERMS = Terms(
    start=Start(port=80, port_variable=VARIABLE, ready_within_s=LIMIT_S),
    probe=STATUS,
    ready=READY,
    predict=predict,
    answered=status(200),
    probe_within_s=LIMIT_S,
    answer_within_s=LIMIT_S,
    kill_after_s=30.0,
    clauses=CLAUSES,
    stop=SHUTDOWN,
    moves_files=True,
    files=("model.yaml",),
    places=("/opt/project", "/opt/app", "/app"),
    adapted=_adapted,
)
