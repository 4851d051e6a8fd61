"""Iris flowers: a table of four measurements in, the species out."""

from pathlib import Path

import numpy as np

from servekit import Predictor, Tensor, Text
from servekit.backends.onnx import Session

SPECIES = np.array(["setosa", "versicolor", "virginica"])
MODEL = Path(__file__).with_name("model.onnx")


class Iris(Predictor):
    inputs = {
        "sepal_length": Tensor("float32"),
        "sepal_width": Tensor("float32"),
        "petal_length": Tensor("float32"),
        "petal_width": Tensor("float32"),
    }
    outputs = {"species": Text(), "probability": Tensor("float32")}

    def load(self, model_dir):
        own = Path(model_dir, "model.onnx")
        self.session = Session(own if own.is_file() else MODEL)

    def predict(self, sepal_length, sepal_width, petal_length, petal_width):
        """Four (N,) float32 columns in centimetres."""
        table = np.stack([sepal_length, sepal_width, petal_length, petal_width], axis=1)
        probabilities = self.session.run({"table": table})["probabilities"]
        return {"species": SPECIES[probabilities.argmax(axis=1)], "probability": probabilities.max(axis=1)}
