"""One nursery for all tests: it imports nnU-Net once."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.reliability.harness import Nursery


@pytest.fixture(scope="session")
def nursery(planned: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Nursery]:
    root = tmp_path_factory.mktemp("nursery")
    for name in ("raw", "preprocessed"):
        (root / name).symlink_to(planned / name)
    nursery = Nursery(root)
    yield nursery
    nursery.close()
