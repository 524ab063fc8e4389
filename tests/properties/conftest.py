"""How many examples: few and always the same ones, or (`NNSSL_PROPERTIES=thorough`) many new ones."""

from __future__ import annotations

import os

from hypothesis import HealthCheck, settings

COMMON = {
    "deadline": None,
    "database": None,
    "suppress_health_check": [HealthCheck.too_slow, HealthCheck.data_too_large],
}
settings.register_profile("quick", max_examples=25, derandomize=True, **COMMON)
settings.register_profile("thorough", max_examples=300, print_blob=True, **COMMON)
settings.load_profile(os.environ.get("NNSSL_PROPERTIES", "quick"))
