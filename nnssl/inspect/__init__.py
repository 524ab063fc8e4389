"""A dataset at a glance: what was imported, planned and will be trained on."""

from __future__ import annotations
