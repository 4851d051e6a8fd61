"""Huawei Cloud ModelArts (and Open Telekom Cloud): custom images as real-time and batch services."""

from __future__ import annotations

from typing import TYPE_CHECKING

from servekit.contract import DrainBudget, Platform
from servekit.platforms.modelarts.container import container
from servekit.platforms.modelarts.contract import render_error, routes

if TYPE_CHECKING:
    from servekit.terms import Terms


def _terms() -> Terms:
    from servekit.platforms.modelarts.terms import TERMS

    return TERMS


platform = Platform(
    name="modelarts",
    routes=routes,
    render_error=render_error,
    # Image specification, "Processing SIGTERM signals": serve on for 60 s, be gone after at most 90 s.
    drain=DrainBudget(linger_s=60, finish_s=28, margin_s=2, kill_s=90),
    detect=("MODELARTS_*",),
    model_dirs=("/home/mind/model",),
    files=("config.json",),
    # Image specification: the dispatcher pools connections; gunicorn is to be run with a keep-alive of 200 s.
    min_keep_alive_s=200.0,
    container=container,
    terms=_terms,
)
