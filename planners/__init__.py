"""Fingerprint, plans and preprocessing in nnU-Net's formats for datasets whose cases need not be labelled."""

from __future__ import annotations

from nnssl.planners.fingerprint import extract_fingerprint
from nnssl.planners.like import plan_like
from nnssl.planners.planner import PLANNERS, nnsslPlanner
from nnssl.planners.preprocess import nnsslPreprocessor
from nnssl.planners.sizes import SIZES, SizePreset

__all__ = [
    "PLANNERS",
    "SIZES",
    "SizePreset",
    "extract_fingerprint",
    "nnsslPlanner",
    "nnsslPreprocessor",
    "plan_like",
]
