"""Every fault of the gallery is found by the clause that names it, and by no other; correct servers have none."""

from __future__ import annotations

import importlib.util
import shlex
import subprocess
import sys
from collections.abc import Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from serving import free_port, script

from servekit.check import runner
from servekit.check.subject import Command, at_url
from servekit.check.trial import Result, Trial, Verdict
from servekit.launch.platforms import installed
from servekit.terms import Ask, Clause, Named, Sample, Terms, status, within

HERE = Path(__file__).parent
SAMPLE = Sample(b'{"x": [1, 2]}', "application/json", {"x.json": b'{"x": [1, 2]}'})
AT_ONCE = 12
MAX_S = 280
# What takes long on a platform takes less here, and nothing else is different.
NUMBERS: dict[str, dict[str, Any]] = {
    "probe_while_busy": {"within_s": 1.0, "seconds": 0.8},
    "answers_all": {"seconds": 0.5},
    "refuses_absurd_bodies": {"within_s": 1.5},
    "keeps_connections": {"idle_s": 1.5},
    "serves_on": {"seconds": 2.0},
}
BODIES = {6 * 1024 * 1024: 400_000, 25_000_000: 1_600_000, 12_000_000: 400_000}
LIMITS_S = {"SM-03": 1.0, "SM-07": 1.2, "MA-03": 1.0, "MA-06": 1.2, "MZ-26": 1.2}
KILLS_AFTER_S = {"sagemaker": 4.0, "modelarts": 6.0, "modzy": 4.0}


def gallery() -> dict[str, Any]:
    if importlib.util.find_spec("flask") is None:
        return {}
    sys.path.insert(0, str(HERE))
    try:
        import wrong
    finally:
        sys.path.remove(str(HERE))
    return dict(wrong.BY_NAME)


SERVERS = gallery()
CORRECT = [
    f"{kind}{platform}" for kind in ("", "gunicorn ", "servekit ") for platform in ("sagemaker", "modelarts", "modzy")
]
FAULTS = sorted(name for name, server in SERVERS.items() if server.breaks is not None)
pytestmark = [
    pytest.mark.skipif(not SERVERS, reason="needs Flask"),
    pytest.mark.slow,
    pytest.mark.timeout(300),
]


def quick(name: str, files: Mapping[str, bytes]) -> Terms:
    """The platform's terms for a container with these files, with smaller numbers."""
    given = installed()[name].terms
    assert given is not None
    terms = given()
    if terms.adapted is not None:
        terms = terms.adapted(terms, files)
    return replace(
        terms, clauses=tuple(map(_shortened, terms.clauses)), answer_within_s=10.0, kill_after_s=KILLS_AFTER_S[name]
    )


def _shortened(clause: Clause) -> Clause:
    match clause.test:
        case Named() as named:
            parameters = {**named.parameters, **NUMBERS.get(named.scenario, {})}
            if named.scenario == "keeps_connections":
                parameters["idle_s"] = min(named.parameters["idle_s"], parameters["idle_s"])
            for key in ("nbytes", "shorter"):
                if parameters.get(key) in BODIES:
                    parameters[key] = BODIES[parameters[key]]
            return replace(clause, test=replace(named, parameters=parameters))
        case Ask() as ask if clause.id in LIMITS_S:
            limit = within(LIMITS_S[clause.id])
            return replace(clause, test=replace(ask, expect=limit if ask.predicts else status(200) & limit))
    return clause


PREDICTOR = """
from servekit import Predictor, Tensor


class Sum(Predictor):
    inputs = {"x": Tensor("float32", (2,))}
    outputs = {"y": Tensor("float32", ())}

    def predict(self, x):
        return x.sum(axis=1)
"""
SERVEKITS_SAMPLE = Sample(b'{"instances": [[1, 2]]}', "application/json", {"x.json": b"[1, 2]"})
# The vendor's own example of a run.sh, with two seconds for its sixty.
RUN_SH = """
trap 'sleep 2.2; kill -15 "$server"' TERM
"$@" &
server=$!
wait "$server"
wait "$server"
"""


def clause_kind(clause: Clause) -> str:
    return clause.test.scenario if isinstance(clause.test, Named) else ""


def judge(name: str) -> dict[str, Verdict]:
    """One of the gallery."""
    server = SERVERS[name]
    files = {file: text.encode() for file, text in server.files.items()}
    return tried(server.platform, [sys.executable, str(HERE), name, "{port}"], SAMPLE, files)


def judge_servekit(platform: str, folder: Path) -> dict[str, Verdict]:
    (folder / "predictor.py").write_text(PREDICTOR)
    words = [script("servekit"), "run", str(folder / "predictor.py"), "--platform", platform, "--port", "{port}"]
    drain = ["--drain-s", "2.5" if platform == "modelarts" else "0", "--finish-s", "2"]
    return tried(platform, words + drain, SERVEKITS_SAMPLE, {})


def judge_gunicorn(platform: str) -> dict[str, Verdict]:
    words = [
        *(script("gunicorn"), "--chdir", str(HERE), "--bind", "127.0.0.1:{port}", "--worker-class", "gthread"),
        *("--threads", "32", "--keep-alive", "200", "--graceful-timeout", "2", f"plain:{platform}"),
    ]
    boot = ["sh", "-c", RUN_SH, "run.sh"] if platform == "modelarts" else []
    return tried(platform, [*boot, *words], SAMPLE, {})


def tried(platform: str, words: list[str], sample: Sample, files: Mapping[str, bytes]) -> dict[str, Verdict]:
    port = free_port()
    terms = quick(platform, files)
    command = shlex.join(word.replace("{port}", str(port)) for word in words)
    with closing(Command(command, replace(terms.start, port_variable=""), port=port)) as subject:
        trial = Trial(subject, terms, sample, files=files, wait_s=20.0 if "Never" not in command else 2.0)
        return {finding.clause.id: finding.verdict for finding in runner.run(trial)}


@pytest.fixture(scope="module")
def judged(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Mapping[str, Future[dict[str, Verdict]]]]:
    """All that tests ask for, several at a time: most of the time is waiting."""
    here = [item for item in request.session.items if item.path == request.path]
    asked = [item.callspec.params["name"] for item in here if "judged" in item.fixturenames]
    folders = tmp_path_factory.mktemp("predictors")
    with ThreadPoolExecutor(AT_ONCE) as pool:
        yield {name: pool.submit(_judge, name, folders) for name in asked}


def _judge(name: str, folders: Path) -> dict[str, Verdict]:
    kind, _, platform = name.partition(" ")
    if kind == "gunicorn":
        return judge_gunicorn(platform)
    if kind == "servekit":
        (folders / platform).mkdir()
        return judge_servekit(platform, folders / platform)
    return judge(name)


def in_words(verdicts: Mapping[str, Verdict]) -> list[str]:
    return [
        f"{name}: sent {verdict.sent}; got {verdict.got}; expected {verdict.expected}"
        for name, verdict in verdicts.items()
        if verdict.result is Result.BROKEN
    ]


@pytest.mark.parametrize("name", FAULTS)
def test_a_fault_is_found_by_the_clause_that_names_it(
    name: str, judged: Mapping[str, Future[dict[str, Verdict]]]
) -> None:
    verdicts = judged[name].result(MAX_S)
    broken = [clause for clause, verdict in verdicts.items() if verdict.result is Result.BROKEN]
    assert broken == [SERVERS[name].breaks], in_words(verdicts)


def test_what_runs_already_is_judged_and_goes_on() -> None:
    """Files are handed over on this machine, and a stranger's server is not told to end."""
    port = free_port()
    process = subprocess.Popen([sys.executable, str(HERE), "modzy", str(port)], stdout=subprocess.DEVNULL)
    try:
        with closing(at_url(f"http://127.0.0.1:{port}")) as subject:
            trial = Trial(subject, quick("modzy", {}), SAMPLE, wait_s=20.0)
            verdicts = {finding.clause.id: finding.verdict for finding in runner.run(trial)}
        assert in_words(verdicts) == []
        assert verdicts["MZ-09"].result is Result.KEPT
        ends = ("MZ-20", "MZ-21", "MZ-22", "MZ-23")
        assert {verdicts[clause].result for clause in ends} == {Result.NOT_CHECKED}
        assert process.poll() is None
        assert subject.folder is not None
        assert not subject.folder.exists()
    finally:
        process.kill()
        process.wait()


@pytest.mark.parametrize("platform", ["sagemaker", "modelarts", "modzy"])
def test_the_gallery_is_as_large_as_a_platform_s_clauses(platform: str) -> None:
    found = {server.breaks for server in SERVERS.values() if server.platform == platform}
    named = {clause.id for clause in quick(platform, {}).clauses if "image" not in clause_kind(clause)}
    assert named - found == set()


@pytest.mark.parametrize("name", CORRECT)
def test_a_correct_server_has_none(name: str, judged: Mapping[str, Future[dict[str, Verdict]]]) -> None:
    verdicts = judged[name].result(MAX_S)
    assert in_words(verdicts) == []
    # What needs an image or a file cannot be tried here; all else was.
    left = {clause for clause, verdict in verdicts.items() if verdict.result is Result.NOT_CHECKED}
    assert all("it needs the" in verdicts[clause].reason for clause in left), left
