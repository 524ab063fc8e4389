"""Network sizes: M, L and XL are nnU-Net's residual-encoder presets, S is for CPUs and tiny sets."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class SizePreset:
    """What a planner needs to know of a size.

    Attributes:
        gpu_memory_gb: memory target of nnU-Net's planner.
        reference_3d, reference_2d: feature-map voxels that fit into it (nnU-Net's unit for network cost).
        base_features: channels of the first stage.
        max_features_3d, max_features_2d: cap per stage.
        blocks_encoder, blocks_decoder: residual blocks and decoder convolutions per stage.
        max_batch_3d, max_batch_2d: nnU-Net fills the memory, which gives batches of 58 and 1618 for images as small as
            Hippocampus; a batch beyond these no longer helps pretraining or fine-tuning.
    """

    gpu_memory_gb: float
    reference_3d: float
    reference_2d: float
    base_features: int = 32
    max_features_3d: int = 320
    max_features_2d: int = 512
    blocks_encoder: tuple[int, ...] = (1, 3, 4, *(6,) * 10)
    blocks_decoder: tuple[int, ...] = (1,) * 12
    max_batch_3d: int = 16
    max_batch_2d: int = 64


SIZES: dict[str, SizePreset] = {
    # Reference values of S: a 64x64x64 patch, or a 2D patch of 256x256, at batch 2 and 12 in about 1.5 GB.
    "S": SizePreset(
        gpu_memory_gb=1.5,
        reference_3d=3.2e7,
        reference_2d=1.2e7,
        base_features=16,
        max_features_3d=128,
        max_features_2d=256,
        blocks_encoder=(1, 1, *(2,) * 11),
        max_batch_3d=4,
        max_batch_2d=16,
    ),
    "M": SizePreset(gpu_memory_gb=8, reference_3d=6.8e8, reference_2d=1.35e8),
    "L": SizePreset(gpu_memory_gb=24, reference_3d=2.1e9, reference_2d=3.8e8),
    "XL": SizePreset(gpu_memory_gb=40, reference_3d=3.6e9, reference_2d=5.6e8),
}
