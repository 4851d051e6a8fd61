"""SageMaker's contract as clauses that `servekit check` tries.

Source: AWS developer guide, "Custom Inference Code with Hosting Services", "... with Batch Transform", "Use Your Own
Inference Code"; API reference, InvokeEndpoint. Numbers of clauses are for ever.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import replace

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
    at_most,
    is_shell_form,
    no_traceback,
    status,
    status_from,
    which,
    within,
)

GUIDE = "https://docs.aws.amazon.com/sagemaker/latest/dg/"
HOSTING = f"{GUIDE}your-algorithms-inference-code.html"
BATCH = f"{GUIDE}your-algorithms-batch-code.html"
LOGGING = f"{GUIDE}logging-cloudwatch.html"
PIPELINE = f"{GUIDE}inference-pipeline-real-time.html"
ASYNC = f"{GUIDE}async-inference.html"
INVOKE = "https://docs.aws.amazon.com/sagemaker/latest/APIReference/API_runtime_InvokeEndpoint.html"
TRANSFORM = "https://docs.aws.amazon.com/sagemaker/latest/APIReference/API_CreateTransformJob.html"
SELLER = "https://docs.aws.amazon.com/marketplace/latest/userguide/"
PRICING = f"{SELLER}machine-learning-pricing.html"
LIMITS = f"{SELLER}ml-service-restrictions-and-limits.html"

PING = Send("GET", "/ping")
OK = status_from(200, 299)
NOT_SERVERS_FAULT = status_from(200, 499)
BIND_TO_PORT = "com.amazonaws.sagemaker.capabilities.accept-bind-to-port"
ATTRIBUTES = "X-Amzn-SageMaker-Custom-Attributes"
MAX_ATTRIBUTES_CHARS = 1024
MAX_MESSAGE_BYTES = 2048
REQUEST_BYTES = 6 * 1024 * 1024
LARGE_REQUEST_BYTES = 25 * 1000 * 1000
ABSURD_BYTES = 2**40
MAX_PRODUCT_MB = 100


def predict(sample: Sample) -> Send:
    return Send("POST", "/invocations", (("Content-Type", sample.content_type),), sample.body)


def _with(*headers: tuple[str, str]) -> Callable[[Sample], Send]:
    def send(sample: Sample) -> Send:
        plain = predict(sample)
        return replace(plain, headers=(*plain.headers, *headers))

    return send


def _attributes(seen: Seen) -> str | None:
    value = seen.header(ATTRIBUTES.lower())
    if value is None or (len(value) <= MAX_ATTRIBUTES_CHARS and re.fullmatch(r"[\x20-\x7e]*", value)):
        return None
    return f"{len(value)} characters of {ATTRIBUTES}"


def _parameters(seen: Seen) -> str | None:
    """The platform takes anything but 200 for "there are none"."""
    if seen.status != 200:
        return None
    try:
        document = seen.json()
    except ValueError:
        return f"a body that is no JSON: {seen.body[:80]!r}"
    if not isinstance(document, dict):
        return f"JSON that is no object: {seen.body[:80]!r}"
    product = 1
    for name in ("MaxConcurrentTransforms", "MaxPayloadInMB"):
        number = document.get(name)
        if not isinstance(number, int) or isinstance(number, bool) or number < 0:
            return f"{name} {number!r}"
        product *= number
    if document.get("BatchStrategy") not in ("SINGLE_RECORD", "MULTI_RECORD"):
        return f"BatchStrategy {document.get('BatchStrategy')!r}"
    return f"MaxConcurrentTransforms * MaxPayloadInMB = {product}" if product > MAX_PRODUCT_MB else None


def _takes_serve(image: Image) -> str | None:
    if image.entrypoint() or which(image, "serve") is not None:
        return None
    return "no ENTRYPOINT, and no executable `serve` on its PATH"


def _exec_form(image: Image) -> str | None:
    words = image.entrypoint()
    return f"ENTRYPOINT {list(words)}" if is_shell_form(words) else None


def _no_tini(image: Image) -> str | None:
    words = image.entrypoint()
    return f"ENTRYPOINT {list(words)}" if words and words[0].rpartition("/")[2] == "tini" else None


def _binds_to_port(image: Image) -> str | None:
    value = image.labels().get(BIND_TO_PORT)
    return None if value == "true" else f"the label is {value!r}"


CLAUSES = (
    Clause(
        "SM-01", Level.MUST, "GET /ping says 200 within eight minutes of the start",
        "Creating the endpoint fails unless the container answers pings with 200 within eight minutes.",
        HOSTING, "listen on 0.0.0.0:8080 and answer /ping; load the model faster, or raise "
        "ContainerStartupHealthCheckTimeoutInSeconds (at most 3600)",
        Named("becomes_ready"),
    ),
    Clause(
        "SM-02", Level.MUST, "a container that says 200 to /ping can predict",
        "200 means that the container is ready to take requests.",
        HOSTING, "answer /ping with 503 until the model is loaded in every worker",
        Named("ready_means_ready"),
    ),
    Clause(
        "SM-03", Level.MUST, "/ping is answered within 2 s",
        "A ping attempt is over after 2 seconds.",
        HOSTING, "let /ping ask for nothing that can wait: not the model, not the network",
        Ask(PING, status(200) & within(2)),
    ),
    Clause(
        "SM-04", Level.MUST, "/ping is answered within 2 s while the model works",
        "A ping attempt is over after 2 seconds, also while predictions run; an instance that fails is replaced.",
        HOSTING, "answer /ping from a thread or an event loop that predictions cannot occupy",
        Named("probe_while_busy", {"within_s": 2.0}),
    ),
    Clause(
        "SM-05", Level.MUST, "POST /invocations answers a good request with success",
        "The answer to a prediction has status 200.",
        HOSTING, "answer predictions with 200",
        Ask(predict, OK),
    ),
    Clause(
        "SM-06", Level.MUST, "headers that nobody knows do no harm",
        "The platform may add headers.",
        HOSTING, "ignore headers that you do not know",
        Ask(_with(("X-Amzn-SageMaker-Something-New", "1"), ("X-Forwarded-Port", "8443")), OK, predicts=True),
    ),
    Clause(
        "SM-07", Level.MUST, "a prediction takes at most 60 s",
        "A real-time container has 60 seconds for a request; later answers reach nobody.",
        HOSTING, "predict faster, or deploy as an asynchronous endpoint",
        Ask(predict, within(60), predicts=True),
    ),
    Clause(
        "SM-08", Level.SHOULD, "an answer's Content-Type is that of its body",
        "The caller and data capture get the container's Content-Type.",
        INVOKE, "set Content-Type on every answer; frameworks call a text `text/html` unless told otherwise",
        Named("says_what_it_sends"),
    ),
    Clause(
        "SM-09", Level.MUST, "an error is not hidden in a success",
        "The platform knows of a failure by its status only: 2xx is handed on, written to batch results, and billed.",
        PRICING, "answer what is not a prediction with 4xx or 5xx",
        Named("refuses_bad_input"),
    ),
    Clause(
        "SM-10", Level.SHOULD, "bad input is answered with 4xx",
        "The caller reads the container's status as OriginalStatusCode, and tells by it whose fault it was.",
        INVOKE, "catch what reading the request raises, and answer 400 or 415",
        Named("blames_the_caller"),
    ),
    Clause(
        "SM-11", Level.SHOULD, "the answer to bad input is at most 2048 bytes",
        "The caller gets an error's body as OriginalMessage, which is cut.",
        INVOKE, "say what is wrong in a line or two",
        Named("refuses_in_form", {"form": at_most(MAX_MESSAGE_BYTES)}),
    ),
    Clause(
        "SM-12", Level.MAY, "the answer to bad input holds no traceback",
        "The caller gets an error's body.",
        INVOKE, "write tracebacks to the log, and one line to the caller",
        Named("refuses_in_form", {"form": no_traceback()}),
    ),
    Clause(
        "SM-13", Level.MUST, "custom attributes do no harm, and those in the answer are within the limits",
        "Custom attributes are optional both ways, at most 1024 visible US-ASCII characters.",
        INVOKE, f"take requests with {ATTRIBUTES}, and set it on an answer to short plain text only",
        Ask(_with((ATTRIBUTES, "c000b4f9-df62-4c85-a0bf-7c525f9104a4")),
            OK & Expectation(f"at most {MAX_ATTRIBUTES_CHARS} visible characters of {ATTRIBUTES}", _attributes),
            predicts=True),
    ),
    Clause(
        "SM-14", Level.SHOULD, "an Accept that asks for anything, or for what it cannot give, is no server error",
        "A caller's Accept reaches the container as it is.",
        INVOKE, "answer `*/*` with the default form, and what you cannot give with it, too, or with 406",
        Asks((
            Ask(_with(("Accept", "*/*")), OK, predicts=True),
            Ask(_with(("Accept", "application/json;q=0.5, */*;q=0.1")), OK, predicts=True),
            Ask(_with(("Accept", "application/x-servekit-check")), NOT_SERVERS_FAULT, predicts=True),
        )),
    ),
    Clause(
        "SM-15", Level.MUST, "a body of 6 MB is taken",
        "InvokeEndpoint takes bodies of up to 6,291,456 bytes, and so does a batch transform by default.",
        INVOKE, "raise the server's limit for bodies",
        Named("takes_bodies_of", {"nbytes": REQUEST_BYTES}),
    ),
    Clause(
        "SM-16", Level.SHOULD, "a body of 25 MB is taken",
        "Real-time requests have at most 25 MB.",
        LIMITS, "raise the server's limit for bodies",
        Named("takes_bodies_of", {"nbytes": LARGE_REQUEST_BYTES, "shorter": REQUEST_BYTES}),
    ),
    Clause(
        "SM-17", Level.MAY, "a body of absurd length is refused before it is read",
        "No request of the platform is longer than 1 GB.",
        ASYNC, "compare Content-Length with a limit, and answer 413 before reading",
        Named("refuses_absurd_bodies", {"nbytes": ABSURD_BYTES, "within_s": 5.0}),
    ),
    Clause(
        "SM-18", Level.SHOULD, "a body in chunks is taken like any other",
        "With MaxPayloadInMB=0 a batch transform sends bodies in chunks, without Content-Length.",
        TRANSFORM, "use a server that reads chunked bodies, and do not count on Content-Length",
        Named("same_in_chunks"),
    ),
    Clause(
        "SM-19", Level.MUST, "a connection is accepted within 250 ms",
        "The container must accept socket connections within 250 milliseconds.",
        HOSTING, "accept in a thread or event loop of its own, with a backlog of 128 or more",
        Named("accepts_in_time", {"within_s": 0.25}),
    ),
    Clause(
        "SM-20", Level.MUST, "requests on their way at SIGTERM are answered",
        "After SIGTERM a container has 30 seconds before SIGKILL, which are there to finish what was begun.",
        HOSTING, "on SIGTERM, stop accepting and finish what was begun; PID 1 must get the signal (exec form, `exec`)",
        Named("finishes_what_it_began"),
    ),
    Clause(
        "SM-21", Level.MUST, "it ends within 30 s of SIGTERM",
        "After SIGTERM a container has 30 seconds before SIGKILL.",
        HOSTING, "on SIGTERM, end by yourself; PID 1 must get the signal (exec form, `exec`)",
        Named("ends_in_time"),
    ),
    Clause(
        "SM-22", Level.MAY, "its exit code after SIGTERM is 0",
        "A container that was told to end has not failed.",
        HOSTING, "handle SIGTERM, and exit with 0 (143 is what a shell makes of the signal)",
        Named("exits_with", {"codes": (0, 143)}),
    ),
    Clause(
        "SM-23", Level.SHOULD, "GET /execution-parameters, where it is there, says what batch transform reads",
        "With 200 it gives MaxConcurrentTransforms, BatchStrategy and MaxPayloadInMB; the product is at most 100 MB.",
        BATCH, 'answer {"MaxConcurrentTransforms": 4, "BatchStrategy": "MULTI_RECORD", "MaxPayloadInMB": 6}, or 404',
        Ask(Send("GET", "/execution-parameters"), Expectation("the three parameters, or no 200", _parameters)),
    ),
    Clause(
        "SM-24", Level.MAY, "POST /ping is answered like GET",
        "The developer guide has spoken of both methods.",
        HOSTING, "answer both",
        Ask(Send("POST", "/ping"), status(200)),
    ),
    Clause(
        "SM-25", Level.MAY, "what is not there is answered with 404, and GET /invocations with 405",
        "The container listens to /ping and /invocations.",
        HOSTING, "route by path and method",
        Asks((
            Ask(Send("GET", "/servekit-check/nothing"), status(404)),
            Ask(Send("GET", "/invocations"), status(404, 405)),
        )),
    ),
    Clause(
        "SM-26", Level.MAY, "a connection takes several requests",
        "The guide leaves it to HTTP/1.1; a new connection for each request costs time.",
        HOSTING, "speak HTTP/1.1, and answer with Content-Length or in chunks",
        Named("keeps_connections", {"idle_s": 1.0}),
    ),
    Clause(
        "SM-27", Level.MUST, "predictions at the same time are all answered",
        "An endpoint sends requests as they come, several at a time.",
        HOSTING, "serve several requests at a time, or let them wait for each other; refuse with 429 or 503 only",
        Named("answers_all"),
    ),
    Clause(
        "SM-28", Level.MAY, "it writes a log to its standard output or standard error",
        "Both become the endpoint's log, and nothing else does.",
        LOGGING, "log to standard output",
        Named("writes_a_log"),
    ),
    Clause(
        "SM-29", Level.SHOULD, "a Content-Type with a charset is taken like one without",
        "The caller's Content-Type reaches the container as it is, with its parameters.",
        INVOKE, "cut the header at the semicolon before you compare it",
        Named("takes_parameters"),
    ),
    Clause(
        "SM-40", Level.MUST, "`docker run IMAGE serve` starts the server",
        "The platform runs the image with the argument `serve`.",
        HOSTING, "put an executable `serve` on PATH and set no ENTRYPOINT, or set one that takes the argument",
        Named("image_is_right", {"complaint": _takes_serve, "expected": "an ENTRYPOINT, or `serve` on its PATH"}),
    ),
    Clause(
        "SM-41", Level.MUST, "its ENTRYPOINT has the exec form",
        "Only then process 1 gets SIGTERM, and the argument `serve` gets through.",
        HOSTING, 'write ENTRYPOINT ["program", "argument"]',
        Named("image_is_right", {"complaint": _exec_form, "expected": "no shell in front"}),
    ),
    Clause(
        "SM-42", Level.MUST, "its ENTRYPOINT is not tini",
        "The guide says that tini cannot be the entry point: it is confused by the arguments `train` and `serve`.",
        HOSTING, "start the server itself; let it, or a script that ends in `exec`, be process 1",
        Named("image_is_right", {"complaint": _no_tini, "expected": "another ENTRYPOINT"}),
    ),
    Clause(
        "SM-43", Level.MAY, "it has the label accept-bind-to-port",
        "Inference pipelines and endpoints of several containers refuse images without it.",
        PIPELINE, f"listen on SAGEMAKER_BIND_TO_PORT, and set LABEL {BIND_TO_PORT}=true",
        Named("image_is_right", {"complaint": _binds_to_port, "expected": f"{BIND_TO_PORT}=true"}),
    ),
)  # fmt: skip

TERMS = Terms(
    start=Start(arguments=("serve",), read_only=("/opt/ml/model",), port=8080, ready_within_s=480.0),
    probe=PING,
    ready=status(200),
    predict=predict,
    answered=OK,
    probe_within_s=2.0,
    answer_within_s=60.0,
    kill_after_s=30.0,
    clauses=CLAUSES,
)
