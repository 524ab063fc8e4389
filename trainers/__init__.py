"""nnU-Net trainers: pretraining (a base and one class per method) and fine-tuning."""

from __future__ import annotations

from nnssl.trainers.finetune import (
    nnUNetTrainer_SSLFrozenEncoder,
    nnUNetTrainer_SSLSawtooth,
    nnUNetTrainer_SSLScratch,
    nnUNetTrainer_SSLWarmup,
)
from nnssl.trainers.methods import TRAINERS
from nnssl.trainers.pretraining import nnsslTrainer

globals().update({cls.__name__: cls for cls in TRAINERS.values()})

__all__ = [
    "nnUNetTrainer_SSLFrozenEncoder",
    "nnUNetTrainer_SSLSawtooth",
    "nnUNetTrainer_SSLScratch",
    "nnUNetTrainer_SSLWarmup",
    "nnsslTrainer",
    *(cls.__name__ for cls in TRAINERS.values()),
]
