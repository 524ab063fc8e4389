"""A reading process that dies: one line, exit code 3, a valid checkpoint, and --c goes on."""

from __future__ import annotations

import pytest
import torch
from nnssl.trainers.readers import LostReader, readers_watched
from torch.utils.data import DataLoader, Dataset


class Deadly(Dataset[int]):
    """Its reading process is killed by a signal, or leaves."""

    def __init__(self, how: str) -> None:
        self.how = how

    def __len__(self) -> int:
        return 3

    def __getitem__(self, index: int) -> int:
        import os
        import signal

        if index == 2 and self.how == "leave":
            os._exit(7)
        if index == 2:
            os.kill(os.getpid(), getattr(signal, self.how))
        return index


@pytest.mark.parametrize(
    ("how", "said"),
    [
        ("SIGKILL", "was killed, as the system does when memory runs out"),
        ("SIGBUS", r"was ended by a bus error: shared memory \(/dev/shm"),
        ("SIGSEGV", "was ended by signal: Segmentation fault"),
        ("leave", "was ended unexpectedly"),
    ],
)
def test_torchs_words_are_understood(how: str, said: str) -> None:
    """Words of torch's own that no documentation promises: this test says when they change."""
    with pytest.raises(LostReader, match=said) as caught, readers_watched(4):
        list(DataLoader(Deadly(how), batch_size=None, num_workers=1))
    assert caught.value.exit_code == 3
    assert "--set workers=2" in str(caught.value) and "\n" not in str(caught.value)


def test_other_errors_pass() -> None:
    with pytest.raises(RuntimeError, match="mat1 and mat2"), readers_watched(1):
        torch.zeros(2, 3) @ torch.zeros(2, 3)
