"""The planners by name."""

from __future__ import annotations

from nnssl.planners.acdc import nnsslPlannerACDC
from nnssl.planners.ct import nnsslPlannerCT
from nnssl.planners.planner import nnsslPlanner

from nnssl.errors import NnsslError, did_you_mean

PLANNERS: dict[str, type[nnsslPlanner]] = {
    "nnsslPlanner": nnsslPlanner,
    "nnsslPlannerACDC": nnsslPlannerACDC,
    "nnsslPlannerCT": nnsslPlannerCT,
}


def get_planner(name: str) -> type[nnsslPlanner]:
    """Planner class by name."""
    if name not in PLANNERS:
        raise NnsslError(f"unknown planner '{name}'.{did_you_mean(name, PLANNERS)} Planners: {', '.join(PLANNERS)}")
    return PLANNERS[name]
