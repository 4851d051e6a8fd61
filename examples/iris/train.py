"""Fit a logistic regression to the iris data that scikit-learn carries, and write it as ONNX.

pip install scikit-learn onnx
python examples/iris/train.py --output examples/iris/model.onnx
"""

from __future__ import annotations

import argparse

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper
from sklearn.datasets import load_iris
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import cross_val_score

OPSET = 17
IR_VERSION = 8


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", default="model.onnx")
    arguments = parser.parse_args()

    table, species = load_iris(return_X_y=True)
    regression = LogisticRegression(max_iter=1000)
    print(f"accuracy, five-fold cross-validation: {cross_val_score(regression, table, species, cv=5).mean():.3f}")
    regression.fit(table, species)

    graph = helper.make_graph(
        [
            helper.make_node("Gemm", ["table", "weights", "bias"], ["logits"]),
            helper.make_node("Softmax", ["logits"], ["probabilities"], axis=1),
        ],
        "iris",
        [helper.make_tensor_value_info("table", TensorProto.FLOAT, ["batch", 4])],
        [helper.make_tensor_value_info("probabilities", TensorProto.FLOAT, ["batch", 3])],
        [
            numpy_helper.from_array(regression.coef_.T.astype(np.float32), "weights"),
            numpy_helper.from_array(regression.intercept_.astype(np.float32), "bias"),
        ],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", OPSET)], ir_version=IR_VERSION)
    onnx.checker.check_model(model)
    onnx.save(model, arguments.output)


if __name__ == "__main__":
    main()
