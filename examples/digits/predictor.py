"""Handwritten digits: a picture of any size in, the digit out."""

from pathlib import Path

import numpy as np

from servekit import Batching, Image, Predictor, Tensor
from servekit.backends.onnx import Session

MODEL = Path(__file__).with_name("model.onnx")
BRIGHT = 127.5


class Digits(Predictor):
    inputs = {"images": Image("L", 28, 28)}
    outputs = {"mnist_result": Tensor("int64", ())}
    batching = Batching(max_size=64)

    def load(self, model_dir):
        own = Path(model_dir, "model.onnx")
        self.session = Session(own if own.is_file() else MODEL)

    def predict(self, images):
        """images: (N, 28, 28) float32, 0 to 255 -> (N,) int64."""
        # MNIST is white on black; paper is the other way round. The border tells which it is.
        border = np.concatenate([images[:, (0, -1), :], images[:, :, (0, -1)].transpose(0, 2, 1)], axis=1)
        on_paper = border.mean(axis=(1, 2)) > BRIGHT
        images = np.where(on_paper[:, None, None], 255 - images, images)
        return self.session.run({"images": images})["scores"].argmax(axis=1)
