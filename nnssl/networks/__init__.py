"""Networks: the plans' U-Net and what pretraining adds to it. Needs torch and dynamic_network_architectures only."""

from __future__ import annotations

from nnssl.networks.checkpointing import checkpoint_stages
from nnssl.networks.dense_masked import DenseMasked
from nnssl.networks.densify import Densify
from nnssl.networks.executor import Executor, ExecutorMaker
from nnssl.networks.light_decoder import LightDecoder
from nnssl.networks.pooled import PooledEncoder, Pooling, pool
from nnssl.networks.reconstruction import ReconstructionUNet
from nnssl.networks.sparse import check_grid, check_supported, encode_sparse, encode_visible
from nnssl.networks.sub_voxel import spread_voxels
from nnssl.networks.tile_sparse import TileSparse
from nnssl.networks.timm_unet import TimmEncoder, TimmUNet
from nnssl.networks.unet import build_unet, decoder_features, drop_segmentation_layers, total_stride
from nnssl.networks.voxel_head import VoxelHead

__all__ = [
    "DenseMasked",
    "Densify",
    "Executor",
    "ExecutorMaker",
    "LightDecoder",
    "PooledEncoder",
    "Pooling",
    "ReconstructionUNet",
    "TileSparse",
    "TimmEncoder",
    "TimmUNet",
    "VoxelHead",
    "build_unet",
    "check_grid",
    "check_supported",
    "checkpoint_stages",
    "decoder_features",
    "drop_segmentation_layers",
    "encode_sparse",
    "encode_visible",
    "pool",
    "spread_voxels",
    "total_stride",
]
