"""The smallest predictor: a text in, two texts out, as on the AWS Marketplace page about inference images."""

from servekit import Predictor, Text


class Hello(Predictor):
    inputs = {"text": Text()}
    outputs = {"prediction": Text(), "text": Text()}

    def predict(self, text):
        """text: a list of N str."""
        return {"prediction": ["a"] * len(text), "text": text}
