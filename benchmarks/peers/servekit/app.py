"""The predictors that servekit serves: one class for each workload."""

import benchwork
import numpy as np

from servekit import Batching, Image, Json, Predictor, Tensor
from servekit.backends.onnx import Session

BATCHING = Batching(max_size=benchwork.MAX_BATCH)


class Echo(Predictor):
    inputs = {"x": Json()}
    outputs = {"y": Json()}
    batching = BATCHING

    def predict(self, x):
        return x


class Net(Predictor):
    outputs = {"y": Tensor("float32", (None,))}
    batching = BATCHING

    def load(self, model_dir):
        self.session = Session(benchwork.FIXTURES / f"{benchwork.WORKLOAD}.onnx")

    def predict(self, x):
        return self.session.run({"x": x})["y"]


class Tiny(Net):
    inputs = {"x": Tensor("float32", (4,))}
    outputs = {"y": Tensor("float32", (3,))}


class Digits(Net):
    inputs = {"x": Tensor("float32", (784,))}
    outputs = {"y": Tensor("float32", (10,))}


class Work(Predictor):
    outputs = {"y": Tensor("float32", (3,))}
    batching = BATCHING

    def load(self, model_dir):
        self.model = benchwork.model()

    def predict(self, x):
        return self.model(x)


class Npy(Work):
    inputs = {"x": Tensor("float32", (3, 224, 224))}


class Jpeg(Work):
    inputs = {"x": Image("RGB", 224, 224)}

    def predict(self, x):
        return self.model(np.asarray(x, np.float32))


class Slow(Work):
    inputs = {"x": Tensor("float32", (4,))}


class Poison(Slow):
    pass


class Overload(Slow):
    pass


class Large(Predictor):
    """400 MB of weights, shared between the workers as `Session` does it by itself."""

    inputs = {"x": Tensor("float32", (5774,))}
    outputs = {"y": Tensor("float32", (5774,))}
    batching = BATCHING

    def load(self, model_dir):
        self.session = Session(benchwork.FIXTURES / "large.onnx")

    def predict(self, x):
        return self.session.run({"x": x})["y"]


class LargePrivate(Large):
    """The same with weights of its own in each worker: onnxruntime used directly."""

    def load(self, model_dir):
        self.net = benchwork.net(benchwork.FIXTURES / "large.onnx")

    def predict(self, x):
        return self.net(x)
