"""Amazon SageMaker: real-time, asynchronous and serverless endpoints, batch transform, Marketplace model packages."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from servekit.contract import DrainBudget, Platform
from servekit.platforms._variables import seconds, whole
from servekit.platforms.sagemaker.container import container
from servekit.platforms.sagemaker.contract import render_error, routes

if TYPE_CHECKING:
    from servekit.terms import Terms

MEBIBYTE = 1024 * 1024
# Batch transform's MaxPayloadInMB=0 means "no limit"; asynchronous endpoints send at most 1 GB.
UNLIMITED_BYTES = 1024 * MEBIBYTE


def _payload_bytes(text: str) -> int:
    """MaxPayloadInMB counts in MiB, as the vendor's own toolkit does."""
    return whole(text) * MEBIBYTE or UNLIMITED_BYTES


def _log_level(text: str) -> str:
    """The vendor's SDK sets a number such as 10; people write names."""
    names = {10: "debug", 20: "info", 30: "warning", 40: "error", 50: "critical"}
    return names[min(names, key=lambda level: abs(level - whole(text)))] if text.isdigit() else text.lower()


def _base_dir(text: str) -> str:
    return f"{text.rstrip('/')}/model"


def _terms() -> Terms:
    from servekit.platforms.sagemaker.terms import TERMS

    return TERMS


VARIABLES: dict[str, tuple[tuple[str, Any], ...]] = {
    "port": (("SAGEMAKER_BIND_TO_PORT", whole),),
    "max_body_bytes": (("SAGEMAKER_MAX_PAYLOAD_IN_MB", _payload_bytes),),
    "workers": (("SAGEMAKER_MODEL_SERVER_WORKERS", whole),),
    "request_timeout_s": (("SAGEMAKER_MODEL_SERVER_TIMEOUT_SECONDS", seconds),),
    "model_dir": (("SAGEMAKER_MODEL_PATH", str), ("SM_MODEL_DIR", str), ("SAGEMAKER_BASE_DIR", _base_dir)),
    "log_level": (("SAGEMAKER_CONTAINER_LOG_LEVEL", _log_level),),
}

platform = Platform(
    name="sagemaker",
    routes=routes,
    render_error=render_error,
    # SIGKILL follows SIGTERM after 30 s (developer guide, "Custom Inference Code with Hosting Services").
    drain=DrainBudget(linger_s=8, finish_s=18, margin_s=2, kill_s=30),
    detect=("SAGEMAKER_*",),
    variables=VARIABLES,
    model_dirs=("/opt/ml/model",),
    container=container,
    terms=_terms,
)
