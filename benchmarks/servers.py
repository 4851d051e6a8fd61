"""What is compared: servekit, its peers as their own documentation shows them, and two limits."""

from __future__ import annotations

from collections.abc import Callable

from benchmarks.nouns import Place, Server, Target

NETS = ("tiny", "digits")
Command = Callable[[Place], list[str]]
PYTHON_MODELS = ("slow", "poison", "overload")
CLASSES = {
    "echo": "Echo",
    "tiny": "Tiny",
    "digits": "Digits",
    "npy": "Npy",
    "jpeg": "Jpeg",
    "slow": "Slow",
    "poison": "Poison",
    "overload": "Overload",
    "large": "Large",
    "large-private": "LargePrivate",
}


def _targets(path: str, workloads: tuple[str, ...], form: str = "instances") -> dict[str, Target]:
    bodies = {"npy": Target("npy", path, "application/x-npy"), "jpeg": Target("jpeg", path, "image/jpeg")}
    return {workload: bodies.get(workload) or Target(form, path) for workload in workloads}


def _servekit(*options: str) -> Command:
    def command(place: Place) -> list[str]:
        target = f"{place.folder / 'app.py'}:{CLASSES[place.workload]}"
        return [
            str(place.bin / "servekit"),
            *["run", target, "--platform", "sagemaker", "--host", "127.0.0.1", "--port", str(place.port)],
            *["--workers", str(place.workers)],
            *(["--request-timeout-s", "1"] if place.workload == "overload" else []),
            *["--drain-s", "0", "--finish-s", "2"],  # a drain that lasts is not what is measured
            *options,
        ]

    return command


def _python(script: str) -> Command:
    return lambda place: [str(place.bin / "python"), str(place.folder / script)]


def _fastapi(place: Place) -> list[str]:
    return [
        str(place.bin / "uvicorn"),
        *["app:app", "--host", "127.0.0.1", "--port", str(place.port), "--workers", str(place.workers)],
        "--no-access-log",
    ]


ALL = ("echo", "tiny", "digits", "npy", "jpeg", *PYTHON_MODELS)
# Where the limit of the HTTP side says something about a server with a model behind it.
LIMITED = ("tiny", "digits", "npy")
# The server that `--against` names; it has an environment of its own.
REVISION = "servekit-revision"
SERVEKIT = _targets("/invocations", (*ALL, "large", "large-private"))

SERVERS: tuple[Server, ...] = (
    Server("servekit", "servekit", "servekit", _servekit(), SERVEKIT, "/ping", role="subject"),
    Server(
        "servekit-asgi",
        "servekit, --no-fast-lane",
        "servekit",
        _servekit("--no-fast-lane"),
        SERVEKIT,
        "/ping",
        workers=(2,),
        role="variant",
    ),
    Server(
        "servekit-quiet",
        "servekit, --no-metrics --no-access-log",
        "servekit",
        _servekit("--no-metrics", "--no-access-log"),
        _targets("/invocations", ("tiny",)),
        "/ping",
        workers=(1,),
        role="control",
    ),
    Server(
        REVISION,
        "servekit, the earlier revision",
        "servekit",
        _servekit(),
        _targets("/invocations", LIMITED),
        "/ping",
        workers=(1,),
        role="control",
    ),
    Server(
        "fastapi",
        "FastAPI + onnxruntime",
        "fastapi",
        _fastapi,
        _targets("/predict", ALL),
        "/health",
        workers=(2,),
    ),
    Server(
        "fastapi-async",
        "FastAPI + onnxruntime, async def",
        "fastapi",
        _fastapi,
        _targets("/predict", NETS),
        "/health",
        workers=(2,),
        environ={"BENCH_ASYNC": "1"},
    ),
    Server(
        "mosec",
        "mosec, README",
        "mosec",
        lambda place: [
            *[str(place.bin / "python"), "app.py", "--address", "127.0.0.1", "--port", str(place.port)],
            *["--timeout", "10000", "--capacity", "4096"],
        ],
        _targets("/inference", ALL),
        "/",
    ),
    Server(
        "mosec-tuned",
        "mosec, tuned",
        "mosec",
        lambda place: [
            *[str(place.bin / "python"), "app.py", "--address", "127.0.0.1", "--port", str(place.port)],
            *["--timeout", "10000", "--capacity", "4096"],
        ],
        _targets("/inference", ALL),
        "/",
        environ={"BENCH_TUNED": "1"},
    ),
    Server(
        "litserve", "LitServe", "litserve", _python("app.py"), _targets("/predict", NETS), "/health", slow_start=True
    ),
    Server(
        "litserve-zmq",
        "LitServe, zmq",
        "litserve",
        _python("app.py"),
        _targets("/predict", NETS),
        "/health",
        environ={"BENCH_ZMQ": "1"},
        slow_start=True,
    ),
    Server(
        "bentoml",
        "BentoML",
        "bentoml",
        lambda place: [
            str(place.bin / "bentoml"),
            *["serve", "service:Inference", "--host", "127.0.0.1", "--port", str(place.port)],
        ],
        _targets("/predict", NETS),
        "/readyz",
        slow_start=True,
    ),
    Server(
        "mlserver",
        "MLServer",
        "mlserver",
        _python("start.py"),
        _targets("/v2/models/net/infer", NETS, "v2"),
        "/v2/models/net/ready",
        slow_start=True,
    ),
    Server("ray", "Ray Serve", "ray", _python("app.py"), _targets("/predict", NETS), "/-/healthz", slow_start=True),
    Server(
        "pytriton",
        "Triton (PyTriton)",
        "pytriton",
        _python("app.py"),
        _targets("/v2/models/net/infer", NETS, "v2"),
        "/v2/models/net/ready",
        slow_start=True,
        system_python=True,
    ),
    Server(
        "uvicorn-asgi",
        "limit: ASGI app that reads the body",
        "uvicorn",
        _python("app.py"),
        _targets("/", LIMITED),
        "/",
        role="limit",
    ),
    Server(
        "uvicorn-protocol",
        "limit: protocol that reads the body",
        "uvicorn",
        _python("app.py"),
        _targets("/", LIMITED),
        "/",
        environ={"BENCH_PROTOCOL": "1"},
        role="limit",
    ),
)
BY_NAME = {server.name: server for server in SERVERS}
CORE = ("servekit", "fastapi", "mosec", "mosec-tuned")
