"""The correct servers as an ordinary server runs them: `gunicorn --worker-class gthread plain:sagemaker`."""

from __future__ import annotations

import os
import signal
import threading
from typing import Any

from correct import ModelArts, Modzy, SageMaker


class ModzyUnderGunicorn(Modzy):
    def shutdown(self) -> Any:
        # As the vendor's template does: the supervisor ends its workers.
        threading.Timer(0.1, os.kill, [os.getppid(), signal.SIGTERM]).start()
        return self.form(202, "exiting")


def sagemaker(environ: dict[str, Any], start_response: Any) -> Any:
    return _sagemaker.app(environ, start_response)


def modelarts(environ: dict[str, Any], start_response: Any) -> Any:
    return _modelarts.app(environ, start_response)


def modzy(environ: dict[str, Any], start_response: Any) -> Any:
    return _modzy.app(environ, start_response)


_sagemaker, _modelarts, _modzy = SageMaker(0), ModelArts(0), ModzyUnderGunicorn(0)
