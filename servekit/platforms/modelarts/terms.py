"""ModelArts' contract as clauses that `servekit check` tries.

Source: Huawei Cloud, "Specifications for Custom Images Used for Importing Models", "Specifications for Editing a Model
Configuration File", and the pages on accessing services and on their failures. Numbers of clauses are for ever.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from servekit.platforms.modelarts.config import FORM_TYPE, JSON_TYPE, MODEL_ALGORITHM, URL
from servekit.terms import (
    Ask,
    Asks,
    Clause,
    Image,
    Level,
    Named,
    Sample,
    Send,
    Start,
    Terms,
    json_object,
    no_traceback,
    status,
    status_from,
    which,
    within,
)

GUIDE = "https://support.huaweicloud.com/intl/en-us/usermanual-standard-modelarts/"
IMAGES = f"{GUIDE}inference-modelarts-0128.html"
SPECIFICATION = f"{GUIDE}modelarts_23_0219.html"
CONFIG = "https://support.huaweicloud.com/eu/inference-modelarts/inference-modelarts-0056.html"
ACCESS = f"{GUIDE}inference-modelarts-0105.html"
TROUBLE = "https://support.huaweicloud.com/intl/en-us/trouble-modelarts/"
CLOSED = f"{TROUBLE}modelarts_13_0219.html"
BREAKER = f"{TROUBLE}modelarts_13_0218.html"
TIMEOUT = f"{TROUBLE}modelarts_13_0221.html"
DEPLOYING = f"{TROUBLE}modelarts_13_0195.html"
CODES = f"{TROUBLE}modelarts_13_0216.html"

HEALTH = Send("GET", "/health")
OK = status_from(200, 299)
RUN = "/home/run.sh"
REQUEST_BYTES = 12 * 1000 * 1000
ABSURD_BYTES = 2**40
MAX_IMAGE_BYTES = 50 * 1000**3
MA_USER = "1000:100"
BOUNDARY = "servekit-check-boundary"
PROBE_NUMBERS = ("initial_delay_seconds", "timeout_seconds", "period_seconds", "failure_threshold")


def predict(sample: Sample) -> Send:
    return _prediction(sample, "/", ())


def _prediction(sample: Sample, path: str, fields: tuple[str, ...]) -> Send:
    """JSON as it is; files as a form, since the platform takes no other type. fields: what config.json calls them."""
    kind = sample.content_type.partition(";")[0].strip().lower()
    if kind in (JSON_TYPE, FORM_TYPE) or not sample.files:
        return Send("POST", path, (("Content-Type", sample.content_type),), sample.body)
    parts = []
    for name, content in sample.files.items():
        field = fields[0] if len(fields) == len(sample.files) == 1 else name
        disposition = f'form-data; name="{form_name(field)}"; filename="{form_name(name)}"'
        head = f"Content-Disposition: {disposition}\r\nContent-Type: {kind}"
        parts.append(
            b"--" + BOUNDARY.encode() + b"\r\n" + head.encode(errors="replace") + b"\r\n\r\n" + content + b"\r\n"
        )
    body = b"".join(parts) + b"--" + BOUNDARY.encode() + b"--\r\n"
    return Send("POST", path, (("Content-Type", f"{FORM_TYPE}; boundary={BOUNDARY}"),), body)


def form_name(name: str) -> str:
    """As browsers write it into a form."""
    return name.replace('"', "%22").replace("\r", "%0D").replace("\n", "%0A")


# --- config.json ---


def _document(body: bytes) -> Mapping[str, Any]:
    """Empty for what cannot be read: that is MA-30's business."""
    try:
        document = json.loads(body)
    except (ValueError, RecursionError):
        return {}
    return document if isinstance(document, dict) else {}


def _apis(document: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    apis = document.get("apis")
    return [api for api in apis if isinstance(api, dict)] if isinstance(apis, list) else []


def _route(api: Mapping[str, Any]) -> tuple[str, str]:
    return str(api.get("method", "post")).upper(), str(api.get("url", "/"))


def _health_url(document: Mapping[str, Any]) -> str:
    health = document.get("health")
    url = health.get("url", "/health") if isinstance(health, dict) else "/health"
    return url if isinstance(url, str) and URL.fullmatch(url) else "/health"


def routes_of(body: bytes) -> list[tuple[str, str]]:
    document = _document(body)
    if not document:
        return []
    apis = [route for route in map(_route, _apis(document)) if URL.fullmatch(route[1])]
    return [("GET", _health_url(document)), *(apis or [("POST", "/")])]


def complaint_about(body: bytes) -> str | None:
    """What the platform does not take in a config.json."""
    try:
        document = json.loads(body)
    except (ValueError, RecursionError) as error:
        return f"no JSON: {error}"
    if not isinstance(document, dict):
        return "JSON that is no object"
    algorithm, kind = document.get("model_algorithm"), document.get("model_type")
    if not isinstance(algorithm, str) or not MODEL_ALGORITHM.fullmatch(algorithm):
        return f"model_algorithm {algorithm!r}, which is to be 1 to 36 characters from a letter on, none of &!'\"<>="
    if not isinstance(kind, str) or not kind:
        return f"model_type {kind!r}, which is to be Image"
    if "dependencies" in document and kind == "Image":
        return "dependencies, which a custom image must not have"
    apis = document.get("apis", [])
    if not isinstance(apis, list) or not all(isinstance(api, dict) for api in apis):
        return "apis, which is to be a list of objects"
    for number, api in enumerate(apis):
        found = _complaint_about_api(api)
        if found is not None:
            return f"apis[{number}].{found}"
    return _complaint_about_health(document)


def _complaint_about_api(api: Mapping[str, Any]) -> str | None:
    method, url = api.get("method", "post"), api.get("url", "/")
    if not isinstance(method, str) or method.lower() not in ("post", "get"):
        return f"method {method!r}, which is to be post or get"
    if not isinstance(url, str) or not URL.fullmatch(url):
        return f"url {url!r}, which is to be a path of letters, digits and -._~:"
    request = api.get("request", {})
    if not isinstance(request, dict):
        return "request, which is to be an object"
    kind = next((request[key] for key in request if key.lower() == "content-type"), JSON_TYPE)
    if kind not in (JSON_TYPE, FORM_TYPE):
        return f"request.Content-type {kind!r}, which is to be {JSON_TYPE} or {FORM_TYPE}"
    return None


def _complaint_about_health(document: Mapping[str, Any]) -> str | None:
    health = document.get("health")
    if health is None:
        return None
    if not isinstance(health, dict):
        return "health, which is to be an object"
    url = health.get("url")
    if not isinstance(url, str) or not URL.fullmatch(url):
        return f"health.url {url!r}, which is to be a path such as /health"
    for key in PROBE_NUMBERS:
        value = health.get(key)
        if value is not None and not (isinstance(value, str) and value.isdigit()):
            return f'health.{key} {value!r}, which is to be a number as a string, such as "12"'
    return None


def _adapted(terms: Terms, files: Mapping[str, bytes]) -> Terms:
    """Health check and predictions at the URLs that config.json gives them."""
    document = _document(files.get("config.json", b""))
    if not document:
        return terms
    probe = Send("GET", _health_url(document))
    api = next((api for api in _apis(document) if _route(api)[0] == "POST" and URL.fullmatch(_route(api)[1])), {})
    path, fields = _route(api)[1], _file_fields(api)

    def adapted_predict(sample: Sample) -> Send:
        return _prediction(sample, path, fields)

    def moved(ask: Ask) -> Ask:
        send = probe if ask.send == HEALTH else ask.send
        return replace(ask, send=adapted_predict if send is predict else send)

    def there(clause: Clause) -> Clause:
        return replace(clause, test=moved(clause.test)) if isinstance(clause.test, Ask) else clause

    return replace(terms, probe=probe, predict=adapted_predict, clauses=tuple(map(there, terms.clauses)))


def _file_fields(api: Mapping[str, Any]) -> tuple[str, ...]:
    request = api.get("request")
    data = request.get("data") if isinstance(request, dict) else None
    properties = data.get("properties") if isinstance(data, dict) else None
    if not isinstance(properties, dict):
        return ()
    return tuple(
        name for name, schema in properties.items() if isinstance(schema, dict) and schema.get("type") == "file"
    )


# --- the image ---


def _boots_from_run_sh(image: Image) -> str | None:
    words = [*image.entrypoint(), *image.command()]
    if not any(RUN in word for word in words):
        return f"it starts {words}"
    return f"no file {RUN} in it" if image.read(RUN) is None else None


def _has_batch_packages(image: Image) -> str | None:
    wanted = (("python3", "python"), ("java",), ("zip",))
    missing = [names[0] for names in wanted if not any(which(image, name) for name in names)]
    return f"no {', '.join(missing)} on its PATH" if missing else None


def _is_small_enough(image: Image) -> str | None:
    nbytes = image.nbytes()
    return f"{nbytes / 1000**3:.1f} GB" if nbytes > MAX_IMAGE_BYTES else None


def _is_ma_user(image: Image) -> str | None:
    user = image.user()
    return None if user in (MA_USER, "1000", "ma-user", "ma-user:ma-group", "1000:ma-group", "ma-user:100") else (
        f"USER {user!r}"
    )  # fmt: skip


CLAUSES = (
    Clause(
        "MA-01", Level.MUST, "GET /health says 200 within 20 minutes of the start",
        "The platform asks for health on port 8080, and gives a deployment up after 20 minutes.",
        DEPLOYING, "listen on 0.0.0.0:8080, and answer the health check of config.json with 200",
        Named("becomes_ready"),
    ),
    Clause(
        "MA-02", Level.MUST, "a container that says 200 to /health can predict",
        "A healthy container gets requests.",
        SPECIFICATION, "answer /health with 503 until the model is loaded in every worker",
        Named("ready_means_ready"),
    ),
    Clause(
        "MA-03", Level.MUST, "/health is answered within 10 s",
        "A health check has a time limit, and a container that fails it gets no more requests.",
        CONFIG, "let /health ask for nothing that can wait: not the model, not the network",
        Ask(HEALTH, status(200) & within(10)),
    ),
    Clause(
        "MA-04", Level.MUST, "/health is answered within 10 s while the model works",
        "A health check has a time limit, also while predictions run.",
        CONFIG, "answer /health from a thread or an event loop that predictions cannot occupy",
        Named("probe_while_busy", {"within_s": 10.0}),
    ),
    Clause(
        "MA-05", Level.MUST, "a good request is answered with success",
        "The dispatcher hands the container's answer on as it is.",
        SPECIFICATION, "answer predictions with 200, at the URL that config.json gives",
        Ask(predict, OK),
    ),
    Clause(
        "MA-06", Level.MUST, "a prediction takes at most 40 s",
        "The public gateway waits for 40 seconds.",
        TIMEOUT, "predict faster, or use an asynchronous service",
        Ask(predict, within(40), predicts=True),
    ),
    Clause(
        "MA-07", Level.MUST, "an idle connection stays open for 200 s",
        "The dispatcher keeps connections, and expects a keep-alive of 200 seconds; when the container closes one "
        "first, the request that comes next is lost with ModelArts.4503. The specification calls it optional, and asks "
        "for it where a rolling upgrade must lose nothing.",
        CLOSED, "keep them for 200 s; gunicorn: --keep-alive 200 -k gevent; uvicorn: --timeout-keep-alive 200"
        "; Node: server.keepAliveTimeout = 200000",
        Named("keeps_connections", {"idle_s": 200.0}),
    ),
    Clause(
        "MA-08", Level.MUST, "a body of 12 MB is taken",
        "A request has at most 12 MB.",
        ACCESS, "raise the server's limit for bodies",
        Named("takes_bodies_of", {"nbytes": REQUEST_BYTES}),
    ),
    Clause(
        "MA-09", Level.MAY, "a body of absurd length is refused before it is read",
        "No request of the platform is longer than 50 MB.",
        ACCESS, "compare Content-Length with a limit, and answer 413 before reading",
        Named("refuses_absurd_bodies", {"nbytes": ABSURD_BYTES, "within_s": 5.0}),
    ),
    Clause(
        "MA-10", Level.MAY, "a body in chunks is taken like any other",
        "How the dispatcher sends bodies is not said.",
        ACCESS, "use a server that reads chunked bodies, and do not count on Content-Length",
        Named("same_in_chunks"),
    ),
    Clause(
        "MA-11", Level.MUST, "an error is not hidden in a success",
        "The dispatcher counts successes and failures by status, and batch services keep what comes with 200.",
        ACCESS, "answer what is not a prediction with 4xx or 5xx",
        Named("refuses_bad_input"),
    ),
    Clause(
        "MA-12", Level.MUST, "bad input is answered with 4xx",
        "Many server errors make the dispatcher cut the container off for a while.",
        BREAKER, "catch what reading the request raises, and answer 400 or 415",
        Named("blames_the_caller"),
    ),
    Clause(
        "MA-13", Level.MAY, "an error has error_code and error_msg",
        "The platform's own errors are JSON objects with these keys, and clients look for them.",
        CODES, 'answer errors with {"error_code": "...", "error_msg": "..."}',
        Named("refuses_in_form", {"form": json_object(keys=("error_code", "error_msg"))}),
    ),
    Clause(
        "MA-14", Level.MAY, "the answer to bad input holds no traceback",
        "The caller gets the container's body.",
        CODES, "write tracebacks to the log, and one line to the caller",
        Named("refuses_in_form", {"form": no_traceback()}),
    ),
    Clause(
        "MA-15", Level.SHOULD, "an answer's Content-Type is that of its body",
        "config.json declares application/json unless it says otherwise, and the caller gets the container's type.",
        CONFIG, "set Content-Type on every answer; frameworks call a text `text/html` unless told otherwise",
        Named("says_what_it_sends"),
    ),
    Clause(
        "MA-16", Level.MAY, "the body of /health is a JSON object with `health`",
        'The specification\'s example answers {"health": "true"}.',
        SPECIFICATION, 'answer {"health": "true"}',
        Ask(HEALTH, json_object(keys=("health",))),
    ),
    Clause(
        "MA-17", Level.MAY, "what is not there is answered with 404",
        "The routes of the container are those of config.json.",
        SPECIFICATION, "route by path and method",
        Asks((Ask(Send("GET", "/servekit-check/nothing"), status(404, 405)),)),
    ),
    Clause(
        "MA-18", Level.SHOULD, "it writes a log to its standard output or standard error",
        "What a container logs must go to standard output; of standard error nothing is said.",
        SPECIFICATION, "log to standard output",
        Named("writes_a_log"),
    ),
    Clause(
        "MA-19", Level.MUST, "predictions at the same time are all answered",
        "The dispatcher sends requests as they come, several at a time.",
        ACCESS, "serve several requests at a time, or let them wait for each other; refuse with 429 or 503 only",
        Named("answers_all"),
    ),
    Clause(
        "MA-20", Level.MUST, "requests on their way at SIGTERM are answered",
        "All requests that were received must be finished before the container ends, so that a rolling upgrade loses "
        "none; the specification calls it optional.",
        SPECIFICATION, "on SIGTERM, finish what was begun; a run.sh must trap the signal, or `exec` the server",
        Named("finishes_what_it_began"),
    ),
    Clause(
        "MA-21", Level.MUST, "it serves on for 60 s after SIGTERM",
        "The dispatcher sends requests for up to 60 seconds after SIGTERM, which a rolling upgrade must not lose; the "
        "specification calls it optional.",
        SPECIFICATION, "on SIGTERM, go on accepting for 60 seconds, then stop the server",
        Named("serves_on", {"seconds": 60.0}),
    ),
    Clause(
        "MA-22", Level.MUST, "it ends within 90 s of SIGTERM",
        "What was begun may take 90 seconds at most.",
        SPECIFICATION, "on SIGTERM, end by yourself; PID 1 must get the signal",
        Named("ends_in_time"),
    ),
    Clause(
        "MA-23", Level.MAY, "its exit code after SIGTERM is 0",
        "A container that was told to end has not failed.",
        SPECIFICATION, "handle SIGTERM, and exit with 0 (143 is what a shell makes of the signal)",
        Named("exits_with", {"codes": (0, 143)}),
    ),
    Clause(
        "MA-24", Level.SHOULD, "a Content-Type with a charset is taken like one without",
        "The dispatcher hands the caller's Content-Type on, with its parameters.",
        ACCESS, "cut the header at the semicolon before you compare it",
        Named("takes_parameters"),
    ),
    Clause(
        "MA-30", Level.MUST, "config.json is one that the platform takes",
        "The import of a model fails with ModelArts.3015 or 3016 when its config.json is wrong.",
        CONFIG, "correct what is named; `servekit build` writes one that fits the predictor",
        Named("file_is_right", {"name": "config.json", "complaint": complaint_about}),
    ),
    Clause(
        "MA-31", Level.MUST, "the routes of config.json are served",
        "The container's URLs must be those of config.json.",
        SPECIFICATION, "serve what config.json declares, with the same method and path",
        Named("serves_what_it_declares", {"name": "config.json", "routes": routes_of}),
    ),
    Clause(
        "MA-40", Level.SHOULD, "it starts from /home/run.sh",
        "Batch services need this boot file, started by CMD.",
        SPECIFICATION, 'write CMD ["sh", "/home/run.sh"]',
        Named("image_is_right", {"complaint": _boots_from_run_sh, "expected": f"{RUN}, and a CMD that starts it"}),
    ),
    Clause(
        "MA-41", Level.MAY, "it has what batch services need: Python, Java, zip",
        "Batch services need Python, a JRE or JDK, and zip in the image; real-time services do not.",
        SPECIFICATION, "install python3, default-jre-headless and zip; `servekit build --batch` does",
        Named("image_is_right", {"complaint": _has_batch_packages, "expected": "python3, java and zip on its PATH"}),
    ),
    Clause(
        "MA-42", Level.MUST, "it is not larger than 50 GB",
        "A custom image has at most 50 GB; older regions and Open Telekom Cloud take 30 GB.",
        SPECIFICATION, "leave out what serving does not need: caches, training data, other models",
        Named("image_is_right", {"complaint": _is_small_enough, "expected": "at most 50 GB"}),
    ),
    Clause(
        "MA-43", Level.MAY, "its user is ma-user, 1000:100",
        "Custom engines run as this user; what it cannot write to, it cannot write to there.",
        IMAGES, "write USER 1000:100, and make what the server writes writable for it",
        Named("image_is_right", {"complaint": _is_ma_user, "expected": f"USER {MA_USER}"}),
    ),
)  # fmt: skip

TERMS = Terms(
    start=Start(port=8080, ready_within_s=1200.0),
    probe=HEALTH,
    ready=status(200),
    predict=predict,
    answered=OK,
    probe_within_s=10.0,
    answer_within_s=40.0,
    kill_after_s=90.0,
    clauses=CLAUSES,
    files=("config.json",),
    places=("/home/mind/model", "/opt/project", "/home"),
    adapted=_adapted,
)
