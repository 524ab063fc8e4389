from __future__ import annotations

import numpy as np

from nnssl.data.images import voxel_digest


def test_digest_sees_voxels_and_shape_only() -> None:
    data = np.random.default_rng(0).standard_normal((1, 4, 5, 6)).astype(np.float32)
    assert voxel_digest(data) == voxel_digest(np.asfortranarray(data).copy())
    changed = data.copy()
    changed[0, 1, 2, 3] += 1e-3
    assert voxel_digest(changed) != voxel_digest(data)
    assert voxel_digest(data.reshape(1, 5, 4, 6)) != voxel_digest(data)
