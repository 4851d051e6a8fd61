"""Handwritten digits: a picture of any size in, the digit out."""

from pathlib import Path

import numpy as np

from servekit import Batching, Image, Predictor, Tensor
from servekit.backends.onnx import Session

MODEL = Path(__file__).with_name("model.onnx")
# The share of border pixels that is paper at least, even where a stroke touches the border.
PAPER = 0.9


class Digits(Predictor):
    inputs = {"images": Image("L", 28, 28)}
    outputs = {"mnist_result": Tensor("int64", ())}
    batching = Batching(max_size=64)

    def load(self, model_dir):
        own = Path(model_dir, "model.onnx")
        self.session = Session(own if own.is_file() else MODEL)

    def predict(self, images):
        """images: (N, 28, 28) float32, 0 to 255 -> (N,) int64."""
        return self.session.run({"images": white_on_black(images)})["scores"].argmax(axis=1)


def white_on_black(images):
    """As MNIST has them, strokes of 255 on a ground of 0, whatever ink and paper were: (N, 28, 28), 0 to 255."""
    # The border is paper. Ink is darker or lighter than it, whichever is further away.
    paper = np.median(border(images), axis=1)
    darkest, lightest = images.min(axis=(1, 2)), images.max(axis=(1, 2))
    dark_ink = paper - darkest > lightest - paper
    images = np.where(dark_ink[:, None, None], 255 - images, images)
    ground = np.quantile(border(images), PAPER, axis=1)[:, None, None]
    contrast = images.max(axis=(1, 2), keepdims=True) - ground
    return (np.clip((images - ground) / np.maximum(contrast, 1), 0, 1) * 255).astype(np.float32)


def border(images):
    """The outermost pixels of each image: (N, 112)."""
    return np.concatenate([images[:, (0, -1), :], images[:, :, (0, -1)].transpose(0, 2, 1)], axis=1).reshape(-1, 112)
