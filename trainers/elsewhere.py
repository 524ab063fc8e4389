"""nnU-Net's folders in another place for a while: its constructors make folders, and measurements must leave none."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def folders_below(root: Path | str, variables: Sequence[str]) -> Iterator[None]:
    """Point some of nnUNet_raw, nnUNet_preprocessed and nnUNet_results to folders below `root`, which are made."""
    before = {v: os.environ.get(v) for v in variables}
    for variable in before:
        folder = Path(root) / variable.removeprefix("nnUNet_")
        folder.mkdir(exist_ok=True)
        os.environ[variable] = str(folder)
    try:
        yield
    finally:
        for variable, value in before.items():
            if value is None:
                del os.environ[variable]
            else:
                os.environ[variable] = value
