"""The seconds between SIGTERM and the platform's kill, checked as a sum before anything starts."""

from __future__ import annotations

from collections.abc import Sequence

from servekit.contract import DrainBudget, Platform
from servekit.errors import ConfigError

# With several platforms on one port nobody knows who will stop the container: fit into the shortest known kill.
SHARED = DrainBudget(linger_s=8, finish_s=18, margin_s=2, kill_s=30)
# The same in a pod, whose end its service learns of a little later than the pod itself; the default grace is 30 s.
KUBERNETES = DrainBudget(linger_s=10, finish_s=18, margin_s=2, kill_s=30)
MIN_FINISH_S = 1.0


def resolve_budget(
    platforms: Sequence[Platform], *, linger_s: float | None, finish_s: float | None, in_pod: bool = False
) -> DrainBudget:
    """The platform's budget with the user's numbers in place. Raises ConfigError with the sum spelled out.

    in_pod: with several platforms on one port, Kubernetes stops the container.
    With only `linger_s` given, the time to finish shrinks as far as it must to fit.
    """
    base = platforms[0].drain if len(platforms) == 1 else KUBERNETES if in_pod else SHARED
    linger = base.linger_s if linger_s is None else linger_s
    finish = base.finish_s if finish_s is None else finish_s
    if base.kill_s is None:
        return DrainBudget(linger, finish, base.margin_s, None)
    if finish_s is None and linger + finish + base.margin_s > base.kill_s:
        finish = max(MIN_FINISH_S, base.kill_s - base.margin_s - linger)
    total = linger + finish + base.margin_s
    if total > base.kill_s:
        name = platforms[0].name if len(platforms) == 1 else "all platforms on one port"
        raise ConfigError(
            f"drain: {linger:g} s to linger + {finish:g} s to finish + {base.margin_s:g} s margin = {total:g} s, "
            f"but {name} kills the container {base.kill_s:g} s after SIGTERM: lower --drain-s or --finish-s"
        )
    return DrainBudget(linger, finish, base.margin_s, base.kill_s)
