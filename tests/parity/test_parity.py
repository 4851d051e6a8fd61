"""The same samples through every platform, good ones and bad ones."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from cases import npy, png

from servekit.contract import DrainBudget, Infer, Platform, Reply, Request, Route, Site
from servekit.errors import ConfigError, ServeError
from servekit.launch.platforms import installed
from servekit.parity import report, runner, samples
from servekit.parity.answers import Answered, Failed, NotExpressible
from servekit.parity.runner import Compared

PREDICTORS = Path(__file__).with_name("judged.py")
ALL = {"sagemaker", "modelarts", "modzy"}


def folder(path: Path, files: Mapping[str, Any]) -> Path:
    """Files by name: bytes, text, or what becomes JSON."""
    path.mkdir(exist_ok=True)
    for name, content in files.items():
        if isinstance(content, bytes):
            (path / name).write_bytes(content)
        else:
            (path / name).write_text(content if isinstance(content, str) else json.dumps(content))
    return path


def asked(name: str, path: Path, *, platforms: set[str] = ALL, **options: Any) -> dict[str, Compared]:
    what = runner.subject(f"{PREDICTORS}:{name}", None, path)
    chosen = {name: platform for name, platform in installed().items() if name in platforms}
    return {found.sample.name: found for found in runner.run(what, chosen, samples.read(path), **options)}


def rows(compared: Compared) -> list[Any]:
    """What all platforms that can express it answered."""
    assert compared.equal, compared.complaints
    answers = [outcome for outcome in compared.outcomes.values() if not isinstance(outcome, NotExpressible)]
    assert answers
    assert all(isinstance(outcome, Answered) for outcome in answers), compared.outcomes
    return answers[0].rows  # type: ignore[union-attr]


def kinds(compared: Compared) -> set[str]:
    assert compared.equal, compared.complaints
    failed = [outcome for outcome in compared.outcomes.values() if not isinstance(outcome, NotExpressible)]
    assert all(isinstance(outcome, Failed) for outcome in failed), compared.outcomes
    return set(frozenset.intersection(*(outcome.kinds for outcome in failed)))  # type: ignore[union-attr]


def silent(compared: Compared) -> set[str]:
    return {name for name, outcome in compared.outcomes.items() if isinstance(outcome, NotExpressible)}


@pytest.fixture(scope="module")
def sums(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Compared]:
    table = np.array([[1, 2, 3, 4], [0.5, 0.5, 0.5, 0.5]], np.float32)
    path = folder(
        tmp_path_factory.mktemp("samples"),
        {
            "instances.json": {"instances": [[1, 2, 3, 4], [0.5, 0.5, 0.5, 0.5]]},
            "req_data.json": {"data": {"req_data": [{"x": [1, 2, 3, 4]}]}},
            "columns.json": {"inputs": {"x": [[1, 2, 3, 4]]}},
            "list.json": [[1, 2, 3, 4]],
            "item.json": {"x": [1, 2, 3, 4]},
            "table.csv": "1,2,3,4\n0.5,0.5,0.5,0.5\n",
            "lines.jsonl": "[1,2,3,4]\n[0.5,0.5,0.5,0.5]\n",
            "array.npy": npy(table),
            "shape.json": {"instances": [[1, 2, 3, 4], [1, 2]]},
            "text.json": {"x": ["a", 1, 2, 3]},
            "broken.json": "{",
            "empty.json": "",
            "other.json": {"y": 1},
            "words.csv": "a,b,c,d\n",
            "poison.json": {"instances": [[666, 0, 0, 0]]},
            "unwanted.json": {"x": [13, 0, 0, 0]},
            "odd.json": {"x": [99, 0, 0, 0]},
            "nan.json": {"x": [-1, 0, 0, 0]},
            "page.xml": "<a/>",
            "page.meta.yaml": "content_type: application/xml\nexpect: unsupported_media_type\n",
            "out.csv": "1,2,3,4\n-1,0,0,0\n",
            "out.meta.yaml": "accept: text/csv\nabout: CSV has NaN\n",
            "want.json": {"x": [1, 2, 3, 4]},
            "want.meta.json": {"accept": "audio/ogg"},
        },
    )
    return asked("Sum", path)


@pytest.mark.parametrize("name", ["instances.json", "table.csv", "lines.jsonl", "array.npy"])
def test_two_rows_in_every_form(sums: dict[str, Compared], name: str) -> None:
    assert rows(sums[name]) == [{"total": 10.0}, {"total": 2.0}]
    assert not silent(sums[name])


@pytest.mark.parametrize("name", ["req_data.json", "columns.json", "list.json", "item.json"])
def test_one_row_in_every_form(sums: dict[str, Compared], name: str) -> None:
    assert rows(sums[name]) == [{"total": 10.0}]
    assert not silent(sums[name])


@pytest.mark.parametrize(
    ("name", "kind", "without"),
    [
        ("shape.json", "invalid_input", set()),
        ("text.json", "invalid_input", set()),
        ("broken.json", "invalid_input", set()),
        ("empty.json", "invalid_input", set()),
        ("other.json", "invalid_input", {"modzy"}),
        ("words.csv", "invalid_input", {"modzy"}),
        ("poison.json", "predict_failed", set()),
        ("odd.json", "predict_failed", set()),
        ("unwanted.json", "invalid_input", set()),
        ("nan.json", "unprocessable", set()),
        ("page.xml", "unsupported_media_type", {"modzy"}),
        ("want.json", "not_acceptable", {"modzy"}),
    ],
)
def test_bad_samples_fail_in_one_way(sums: dict[str, Compared], name: str, kind: str, without: set[str]) -> None:
    assert kinds(sums[name]) == {kind}
    assert silent(sums[name]) == without
    for platform in without:
        assert f"not expressible on {platform}: " in "\n".join(report.details(sums[name]))


def test_an_answer_in_another_type_is_read(sums: dict[str, Compared]) -> None:
    [first, second] = rows(sums["out.csv"])
    assert first == {"total": 10.0}
    assert np.isnan(second["total"])
    assert silent(sums["out.csv"]) == {"modzy"}


def test_several_inputs(tmp_path: Path) -> None:
    found = asked(
        "Pair",
        folder(
            tmp_path,
            {
                "rows.json": {"instances": [{"a": 1, "b": [0.5]}, {"a": 2, "b": [0.5, 1]}]},
                "fraction.json": {"a": 1.5, "b": [1]},
                "missing.json": {"a": 1},
                "unknown.json": {"a": 1, "b": [], "c": 2},
                "bare.json": {"instances": [[1, 2]]},
            },
        ),
    )
    assert rows(found["rows.json"]) == [{"sum": 1.5, "label": "1+1"}, {"sum": 3.5, "label": "2+2"}]
    for name in ("fraction.json", "missing.json", "unknown.json", "bare.json"):
        assert kinds(found[name]) == {"invalid_input"}
    assert silent(found["unknown.json"]) == {"modzy"}
    assert silent(found["bare.json"]) == {"modzy"}
    assert not silent(found["missing.json"])


def test_pictures_texts_and_files(tmp_path: Path) -> None:
    found = asked(
        "Noted",
        folder(
            tmp_path / "noted",
            {
                "grey.png": png(16, 8, value=200),
                "note.txt": "grüße",
                "cut.png": png(16, 8, truncate=True),
                "good.meta.yaml": "files: {picture: grey.png, note: note.txt}\n",
                "bad.meta.yaml": "files: {picture: cut.png, note: note.txt}\nexpect: invalid_input\n",
                "half.meta.yaml": "files: {picture: grey.png}\n",
            },
        ),
    )
    assert set(found) == {"good", "bad", "half"}
    assert rows(found["good"]) == [{"mean": 200, "note": "GRÜSSE"}]
    assert kinds(found["bad"]) == kinds(found["half"]) == {"invalid_input"}
    assert not any(map(silent, found.values()))

    found = asked(
        "Upper",
        folder(
            tmp_path / "upper",
            {
                "a.txt": "ä b\nc",
                "b.json": {"text": "x"},
                "c.txt": b"\xff\xfe",
                "d.txt": b"gr\xfcn",
                "d.meta.yaml": "content_type: text/plain; charset=latin-1",
            },
        ),
    )
    assert rows(found["a.txt"]) == [{"upper": "Ä B\nC"}]
    assert rows(found["b.json"]) == [{"upper": "X"}]
    assert kinds(found["c.txt"]) == {"invalid_input"}
    assert rows(found["d.txt"]) == [{"upper": "GRÜN"}]
    assert not any(map(silent, found.values()))

    found = asked(
        "Turned", folder(tmp_path / "turned", {"a.bin": b"\0\1", "b.json": {"instances": ["AAE="]}, "c.json": '"AAE="'})
    )
    assert rows(found["a.bin"]) == rows(found["b.json"]) == [{"file": "QUFFPQ=="}]
    assert kinds(found["c.json"]) == {"invalid_input"}


def test_any_json(tmp_path: Path) -> None:
    files = {"a.json": {"value": {"k": [1, None]}}, "b.json": [{"k": 1}, 2], "c.json": {"k": {"l": 1}}, "d.json": "7"}
    files["e.json"] = {"inputs": {"value": [{"k": 1}, None]}}
    found = asked("Anything", folder(tmp_path, files))
    assert rows(found["a.json"]) == [{"echo": {"k": [1, None]}}]
    assert rows(found["b.json"]) == [{"echo": {"k": 1}}, {"echo": 2}]
    assert rows(found["c.json"]) == [{"echo": {"k": {"l": 1}}}]
    assert rows(found["d.json"]) == [{"echo": 7}]
    assert rows(found["e.json"]) == [{"echo": {"k": 1}}, {"echo": None}]
    assert not any(map(silent, found.values()))


def test_the_form_of_config_json_and_the_files_of_model_yaml(tmp_path: Path) -> None:
    config = {
        "model_algorithm": "a", "model_type": "Image",
        "apis": [
            {
                "url": "/both", "method": "post",
                "request": {
                    "Content-type": "multipart/form-data",
                    "data": {"type": "object", "properties": {"a": {"type": "number"}, "b": {"type": "string"}}},
                },
            }
        ],
    }  # fmt: skip
    model = folder(tmp_path / "model", {"config.json": config})
    what = runner.subject(f"{PREDICTORS}:Pair", model, tmp_path)
    site, _ = runner.site(what, installed()["modelarts"], "modelarts")
    assert (site.route.path, site.takes_forms) == ("/both", True)
    path = folder(
        tmp_path / "s", {"item.json": {"a": 1, "b": [0.5, 1]}, "rows.json": {"instances": [{"a": 1, "b": [1]}] * 2}}
    )
    found = {each.sample.name: each for each in runner.run(what, installed(), samples.read(path))}
    assert rows(found["item.json"]) == [{"sum": 2.5, "label": "1+2"}]
    assert rows(found["rows.json"]) == [{"sum": 2.0, "label": "1+1"}] * 2


def _own_form(error: ServeError, _request: Request) -> Reply:
    return Reply(error.status, b"no", "text/plain")


def _own_routes(_site: Site) -> tuple[Route, ...]:
    def parse(request: Request) -> Infer:
        return Infer(request.body, request.header(b"content-type"), request.header(b"accept"))

    def render(_request: Request, _call: Any, value: Any) -> Reply:
        return Reply(200, value.body, value.media_type)

    return (Route(("POST",), "/own", parse, render, takes_body=True),)


def test_a_plug_in_is_asked_on_its_own_route_and_its_statuses_are_read(tmp_path: Path) -> None:
    own = Platform("moon", _own_routes, _own_form, DrainBudget(0, 1, 1, None))
    silent_one = Platform("dark", lambda _site: (), _own_form, DrainBudget(0, 1, 1, None))
    path = folder(tmp_path, {"a.json": {"x": [1, 2, 3, 4]}, "b.json": {"x": []}, "c.json": {"x": [-1, 0, 0, 0]}})
    what = runner.subject(f"{PREDICTORS}:Sum", None, path)
    platforms = {"sagemaker": installed()["sagemaker"], "moon": own, "dark": silent_one}
    a, b, c = runner.run(what, platforms, samples.read(path))
    assert rows(a) == [{"total": 10.0}]
    assert kinds(b) == {"invalid_input"}
    assert kinds(c) == {"unprocessable"}
    assert silent(a) == {"dark"}
    assert "takes a body by POST" in "\n".join(report.details(a))


def test_a_platform_that_is_treated_in_another_way_is_found(tmp_path: Path) -> None:
    path = folder(tmp_path, {"a.json": {"x": 1}, "b.json": {"x": 13}})
    found = asked("Partial", path)
    assert not found["a.json"].equal
    assert any("y: " in text and "modzy" in text for text in found["a.json"].complaints)
    assert not found["b.json"].equal
    assert "DIFFERS b.json" in report.line(found["b.json"])
    assert asked("Partial", path, tolerance=0.5)["a.json"].equal
    assert asked("Partial", path, platforms={"sagemaker", "modelarts"})["a.json"].equal


def test_what_a_sample_expects_is_held_against_it(tmp_path: Path) -> None:
    path = folder(tmp_path, {"a.json": {"x": [1, 2, 3]}, "a.meta.yaml": "expect: ok\n"})
    found = asked("Sum", path)["a.json"]
    assert [text.split(":")[0] for text in found.complaints] == ["modelarts", "modzy", "sagemaker"]
    assert "expected ok, got invalid_input" in found.complaints[0]


def test_real_servers_say_the_same(tmp_path: Path, sums: dict[str, Compared]) -> None:
    path = folder(tmp_path, {"instances.json": {"instances": [[1, 2, 3, 4], [0.5, 0.5, 0.5, 0.5]]}, "broken.json": "{"})
    found = asked("Sum", path, served=True)
    for name in ("instances.json", "broken.json"):
        assert found[name].equal
        assert {type(outcome) for outcome in found[name].outcomes.values()} == {
            type(outcome) for outcome in sums[name].outcomes.values()
        }
    assert rows(found["instances.json"]) == rows(sums["instances.json"])


@pytest.mark.parametrize(
    ("files", "says"),
    [
        ({}, "got none"),
        ({"a.what": ""}, "a.what: expected an ending of .json"),
        ({"a.meta.yaml": "accept: x\n"}, "expected a file a.json"),
        ({"a.json": "1", "a.meta.yaml": "["}, "a.meta.yaml: expected YAML or JSON"),
        ({"a.json": "1", "a.meta.yaml": "- 1\n"}, "a.meta.yaml: expected some of the keys"),
        ({"a.json": "1", "a.meta.yaml": "colour: red\n"}, "'colour': expected one of the keys"),
        ({"a.json": "1", "a.meta.yaml": "accept: 7\n"}, "accept: expected a text"),
        ({"a.json": "1", "a.meta.yaml": 'accept: "a\\nb"\n'}, "accept: expected a text in one line"),
        ({"a.json": "1", "a.meta.yaml": "accept: ü\n"}, "accept: expected a text"),
        ({"a.meta.yaml": "files: {x: ../a.json}\n"}, "files.x: expected the name of a file beside it"),
        ({"a.meta.yaml": "files: {}\n"}, "files: expected input: FILE"),
    ],
)
def test_wrong_samples_are_refused_by_name(tmp_path: Path, files: dict[str, str], says: str) -> None:
    with pytest.raises(ConfigError) as refused:
        samples.read(folder(tmp_path, files))
    assert says in refused.value.message


def test_a_link_out_of_the_directory_is_refused(tmp_path: Path) -> None:
    (tmp_path / "secret.json").write_text("1")
    (folder(tmp_path / "s", {}) / "a.json").symlink_to(tmp_path / "secret.json")
    with pytest.raises(ConfigError, match="leads out of it"):
        samples.read(tmp_path / "s")


def test_yaml_and_json_say_the_same(tmp_path: Path) -> None:
    meta = {"accept": "text/csv", "expect": "ok"}
    one = samples.read(folder(tmp_path / "a", {"a.json": "1", "a.meta.json": meta}))
    other = samples.read(folder(tmp_path / "b", {"a.json": "1", "a.meta.yml": yaml.safe_dump(meta)}))
    assert one == other


ODDS: tuple[Any, ...] = (2.5, 1e300, True, None, "", "\ud83d\ude00", [], {}, [[1, 2]], {"x": 1}, 2**64, [1, "a", 2, 3])


@pytest.mark.parametrize(
    ("name", "good"), [("Sum", {"x": [1, 2, 3, 4]}), ("Pair", {"a": 1, "b": [1, 2]}), ("Anything", {"value": {"k": 1}})]
)
def test_odd_values_in_every_place_mean_the_same_everywhere(tmp_path: Path, name: str, good: dict[str, Any]) -> None:
    given: list[Any] = [good, *ODDS]
    for odd in ODDS:
        for key in good:
            row = good | {key: odd}
            given += [
                row,
                {"instances": [good, row]},
                {"data": {"req_data": [row]}},
                {"inputs": {n: [row[n]] for n in row}},
            ]
        given += [{"instances": [odd]}, good | {"other": odd}, [odd, odd]]
    found = [
        samples.Sample(str(i), json.dumps(document).encode(), "application/json") for i, document in enumerate(given)
    ]
    what = runner.subject(f"{PREDICTORS}:{name}", None, tmp_path)
    compared = runner.run(what, installed(), found)
    assert [(each.sample.body, each.complaints) for each in compared if not each.equal] == []
    # Most of them get through to every platform, as good ones and as bad ones.
    everywhere = [each for each in compared if not silent(each)]
    assert len(everywhere) > len(given) / 2
    seen = {type(outcome) for each in everywhere for outcome in each.outcomes.values()}
    assert seen == ({Answered} if name == "Anything" else {Answered, Failed})
