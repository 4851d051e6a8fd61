"""Predictors made from model files."""

import os

# onnxruntime reports home by default; a served model must call nobody. It reads this when it is imported.
os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")
