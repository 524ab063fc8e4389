"""Losses: plain functions and modules on tensors, no method or trainer in sight."""

from __future__ import annotations

from nnssl.losses.masked_mse import masked_mse

__all__ = ["masked_mse"]
