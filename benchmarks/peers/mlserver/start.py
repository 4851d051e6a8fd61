"""Writes MLServer's two settings files beside the runtime and starts it."""

import json
import os
import shutil
import sys
import tempfile
from pathlib import Path

import benchwork

folder = Path(tempfile.mkdtemp(prefix="mlserver-"))
shutil.copy(Path(__file__).with_name("runtime.py"), folder / "runtime.py")
(folder / "settings.json").write_text(
    json.dumps(
        {
            "host": "127.0.0.1",
            "http_port": benchwork.PORTS[0],
            "grpc_port": benchwork.PORTS[1],
            "metrics_port": benchwork.PORTS[2],
            "parallel_workers": 0 if benchwork.WORKERS == 1 else benchwork.WORKERS,
            "debug": False,
        }
    )
)
(folder / "model-settings.json").write_text(
    json.dumps(
        {
            "name": "net",
            "implementation": "runtime.Inference",
            "max_batch_size": benchwork.MAX_BATCH,
            "max_batch_time": 0.002,
        }
    )
)
os.environ["PYTHONPATH"] = f"{folder}{os.pathsep}{os.environ.get('PYTHONPATH', '')}"
os.execv(Path(sys.executable).with_name("mlserver"), ["mlserver", "start", str(folder)])  # noqa: S606
