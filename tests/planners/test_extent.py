"""A case whose size at the plans' spacing is absurd is refused before it is resampled."""

from __future__ import annotations

import pytest
from nnssl.planners.preprocess import _check_extent

from nnssl.data import memory
from nnssl.data.parallel import Failure


def test_a_spacing_that_would_make_it_larger_than_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(memory, "usable_memory", lambda: 2**30)
    _check_extent((10, 100, 100), (5.0, 1.0, 1.0), (0, 1, 2), (1.0, 1.0, 1.0))
    with pytest.raises(Failure, match="resampled to the plans' spacing, 50000x1000x1000 voxels"):
        _check_extent((10, 100, 100), (5000.0, 10.0, 10.0), (0, 1, 2), (1.0, 1.0, 1.0))


def test_a_spacing_that_would_leave_nothing() -> None:
    with pytest.raises(Failure, match=r"2 voxel\(s\) of 0.1 mm along Z are nothing at the plans' 3 mm"):
        _check_extent((2, 100, 100), (0.1, 1.0, 1.0), (0, 1, 2), (3.0, 1.0, 1.0))
    _check_extent((2, 100, 100), (0.1, 1.0, 1.0), (0, 1, 2), (1.0, 1.0))  # slices stay as they are
