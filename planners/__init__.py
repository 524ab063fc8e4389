"""Fingerprint, plans and preprocessing in nnU-Net's formats for datasets whose cases need not be labelled."""

from __future__ import annotations

from nnssl.planners.fingerprint import extract_fingerprint
from nnssl.planners.like import plan_like
from nnssl.planners.options import PlannerOptions
from nnssl.planners.planner import nnsslPlanner
from nnssl.planners.preprocess import nnsslPreprocessor
from nnssl.planners.registry import PLANNERS, get_planner
from nnssl.planners.sizes import SIZES, SizePreset

__all__ = [
    "PLANNERS",
    "SIZES",
    "PlannerOptions",
    "SizePreset",
    "extract_fingerprint",
    "get_planner",
    "nnsslPlanner",
    "nnsslPreprocessor",
    "plan_like",
]
