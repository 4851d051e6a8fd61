"""The client for users' own tests, with predictors as users write them."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest

from servekit import Batching, Context, Image, InvalidInput, Json, Predictor, Tensor, Text
from servekit.errors import ConfigError, LoadFailed
from servekit.testing import Client

HELLO = Path(__file__).parents[1] / "examples" / "hello"


class Hooks(Predictor):
    """Words in, their lengths doubled out, with both hooks and the context."""

    inputs: ClassVar = {"word": Text()}
    outputs: ClassVar = {"length": Tensor("int64"), "by": Text()}
    batching = Batching(max_size=4)

    def load(self, model_dir: Path) -> None:
        self.factor = int((model_dir / "factor.txt").read_text())

    def decode(self, item: str, context: Context) -> int:
        if not item:
            raise InvalidInput("word: expected a word, got nothing")
        if "?" in item:
            raise ValueError("no questions")
        return len(item)

    def predict(self, word: Any) -> Any:
        assert isinstance(word, np.ndarray)
        return word * self.factor

    def encode(self, result: Any, context: Context) -> dict[str, Any]:
        context.response_headers["X-By"] = context.platform
        return {"length": int(result), "by": context.platform}


@pytest.fixture
def model_dir(tmp_path: Path) -> Path:
    (tmp_path / "factor.txt").write_text("2")
    return tmp_path


@pytest.mark.parametrize(
    ("platform", "path", "body", "expected"),
    [
        ("sagemaker", "/invocations", {"instances": ["abc", "de"]}, {"predictions": [{"length": 6, "by": "sagemaker"}, {"length": 4, "by": "sagemaker"}]}),
        ("modelarts", "/", {"req_data": [{"word": "abc"}]}, {"resp_data": [{"length": 6, "by": "modelarts"}]}),
    ],
)  # fmt: skip
def test_hooks_on_platforms(platform: str, path: str, body: Any, expected: Any, model_dir: Path) -> None:
    with Client(Hooks, platform=platform, model_dir=model_dir) as client:
        reply = client.post(path, json=body)
        assert reply.json() == expected
        assert reply.headers["x-by"] == platform
        for word, says in (("", "word: expected a word, got nothing"), ("eh?", "no questions")):
            refused = client.post(path, json={"instances": ["fine", word]})
            assert refused.status_code == 400
            assert says in refused.text


def test_hooks_on_modzy(model_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> None:
    job_dir = tmp_path_factory.mktemp("job")
    (job_dir / "word.txt").write_text("abc")
    with Client(Hooks, platform="modzy", model_dir=model_dir) as client:
        job = {"type": "file", "input": str(job_dir), "output": str(job_dir)}
        assert client.post("/run", json=job).status_code == 200
    assert json.loads((job_dir / "results.json").read_bytes())["data"]["result"] == {"length": 6, "by": "modzy"}


def test_jobs_stay_below_the_roots(model_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> None:
    inside, outside = tmp_path_factory.mktemp("inside"), tmp_path_factory.mktemp("outside")
    for directory in (inside, outside):
        (directory / "word.txt").write_text("abc")
    with Client(Hooks, platform="modzy", model_dir=model_dir, files_roots=[inside]) as client:
        for directory, status in ((inside, 200), (outside, 400)):
            job = {"type": "file", "input": str(directory), "output": str(directory)}
            assert client.post("/run", json=job).status_code == status


class Waits(Predictor):
    inputs: ClassVar = {"x": Tensor("float64")}
    outputs: ClassVar = {"y": Tensor("float64")}

    async def predict(self, x: Any) -> Any:
        await asyncio.sleep(0)
        return x + 1


def test_coroutine_predictors() -> None:
    with Client(Waits, platform="sagemaker") as client:
        assert client.post("/invocations", json=[1, 2]).json() == {"predictions": [2.0, 3.0]}


class Mirror(Predictor):
    inputs: ClassVar = {"picture": Image("RGB", 2, 3)}
    outputs: ClassVar = {"picture": Image("RGB")}

    def predict(self, picture: Any) -> Any:
        assert picture.dtype == np.float32
        return picture[:, :, ::-1]


def test_a_picture_in_and_out() -> None:
    pixels = np.arange(18).reshape(1, 2, 3, 3).tolist()
    with Client(Mirror, platform="sagemaker") as client:
        reply = client.post("/invocations", json={"picture": pixels[0]})
        assert reply.headers["content-type"] == "image/png"
        again = client.post("/invocations", content=reply.content, headers={"Content-Type": "image/png"})
        back = client.post(
            "/invocations", content=again.content, headers={"Content-Type": "image/png", "Accept": "application/json"}
        )
        assert set(back.json()) == {"picture"}


def test_a_folder_as_target_and_a_server_that_still_starts() -> None:
    with Client(HELLO, platform="sagemaker", wait=False) as client:
        assert client.get("/ping").status_code == 503
        early = client.post("/invocations", content=b"x")
        assert (early.status_code, early.headers["retry-after"]) == (503, "1")


class Broken(Predictor):
    inputs: ClassVar = {"x": Json()}

    def load(self, model_dir: Path) -> None:
        raise OSError("no weights")

    def predict(self, x: Any) -> Any:
        return x


def test_a_failed_load_raises_where_the_platform_would_end_the_process() -> None:
    with pytest.raises(LoadFailed, match="no weights"):
        Client(Broken, platform="sagemaker")
    with Client(Broken, platform="modzy") as client:
        reply = client.get("/status")
        assert (reply.status_code, reply.json()["technicalInformation"]) == (500, "OSError: no weights")


class NoPredict(Predictor):
    inputs: ClassVar = {"x": Json()}


@pytest.mark.parametrize(("target", "says"), [(NoPredict, "does not define predict"), ("nowhere.py", "no such file")])
def test_mistakes_are_told(target: Any, says: str) -> None:
    with pytest.raises(ConfigError, match=says):
        Client(target, platform="sagemaker")
