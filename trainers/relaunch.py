"""Whether this start of the processes belongs to a run that has begun already: then the run goes on, or must be there.

torchrun counts its restarts after a death (TORCHELASTIC_RESTART_COUNT), but not those after machines joined or left. So a
run remembers which torchrun processes, one per machine, it was started by: after such a change at least one of them is
still there, and a later call of torchrun is other processes, also where its `--rdzv-id` is the same.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from torch import distributed as dist

from nnssl.data.claims import process_identity
from nnssl.errors import NnsslError
from nnssl.files import read_json, write_json

FILE = "torchrun.json"


@dataclass(frozen=True)
class Launch:
    """A start of all processes by torchrun.

    Attributes:
        identifier: `--rdzv-id`.
        agents: the torchrun processes, one per machine.
        restarts: as torchrun counts them, the most of any machine.
    """

    identifier: str
    agents: Sequence[str]
    restarts: int

    def goes_on(self, folder: Path) -> bool:
        """Whether the same torchrun began the run in this folder, as far as its own count does not say so.

        The name alone says it only in a job that SLURM has queued again: people give the same to one call after the other.
        """
        try:
            before = read_json(folder / FILE)
        except (OSError, NnsslError):  # no such run, or what is left of another
            return False
        if not isinstance(before, Mapping) or not isinstance(before.get("agents"), list):
            return False
        same_job = queued_again() and before.get("identifier") == self.identifier
        return same_job or bool(set(self.agents) & set(map(str, before["agents"])))

    def write(self, folder: Path) -> None:
        """Remember it with the run."""
        write_json(asdict(self), folder / FILE)


def this_launch() -> Launch | None:
    """What torchrun says of this start, the same on all processes, which must all ask; None where it was not torchrun."""
    if not dist.is_initialized() or "TORCHELASTIC_RUN_ID" not in os.environ:
        return None
    mine = (process_identity(os.getppid()), int(os.environ.get("TORCHELASTIC_RESTART_COUNT") or 0))
    everyone: list[Any] = [None] * dist.get_world_size()
    dist.all_gather_object(everyone, mine)
    agents = sorted({agent for agent, _ in everyone})
    return Launch(os.environ["TORCHELASTIC_RUN_ID"], agents, max(count for _, count in everyone))


def queued_again() -> bool:
    """Whether SLURM has started this job before."""
    count = os.environ.get("SLURM_RESTART_COUNT", "")
    return count.isdecimal() and int(count) > 0


def refuse_an_empty_disk(folder: Path) -> None:
    """A job that was started before must find runs where it left them: the folder of a disk that is not mounted is empty.

    Args:
        folder: of a run that is to be continued and is not there. Where there are others, it may be the next of several
            that a job does one after the other.

    Raises:
        NnsslError: nnUNet_results holds nothing of any dataset.
    """
    results = folder.parents[2]
    if not any(results.glob("Dataset*")):
        raise NnsslError(
            f"this job was started before, and now nnUNet_results={results} is empty: mount the disk that belongs there. If "
            "no run had begun, submit the job anew"
        )
