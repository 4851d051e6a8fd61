"""Modzy: model containers of the v1 (REST, files) specification."""

from __future__ import annotations

from typing import TYPE_CHECKING

from servekit.contract import DrainBudget, Platform
from servekit.platforms._variables import whole
from servekit.platforms.modzy.container import container
from servekit.platforms.modzy.contract import render_error, routes

if TYPE_CHECKING:
    from servekit.terms import Terms


def _terms() -> Terms:
    from servekit.platforms.modzy.terms import TERMS

    return TERMS


platform = Platform(
    name="modzy",
    routes=routes,
    render_error=render_error,
    # Traffic stops with /shutdown, so there is nothing to linger for; the specification names no kill.
    drain=DrainBudget(linger_s=0, finish_s=10, margin_s=2, kill_s=None),
    detect=("PSC_*",),
    variables={"port": (("PSC_MODEL_PORT", whole),)},
    files=("model.yaml",),
    survives_failed_load=True,
    # The platform scales by containers; the reference runs one model instance in each.
    default_workers=1,
    container=container,
    terms=_terms,
)
