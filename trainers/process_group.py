"""One process of several: where it stands, how it joins the others, and what it says when they are gone.

The numbers come from the environment, as torchrun (and `-num_gpus`) sets it: RANK, WORLD_SIZE, LOCAL_RANK, LOCAL_WORLD_SIZE,
MASTER_ADDR, MASTER_PORT.
"""

from __future__ import annotations

import hashlib
import os
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, TypeVar

import torch
from torch import distributed as dist

from nnssl.disk import user_error
from nnssl.errors import USER_ERROR, NnsslError

PATIENCE_SECONDS = 600.0
"""How long a process waits for the others unless `--rank-timeout` says otherwise: longer than a first compilation and than
writing a checkpoint to a slow folder."""
REASON_SECONDS = 1.0
T = TypeVar("T")
_REASON = "reason"
_SIGNS = ("third_party/gloo", "nccl", "connection reset by peer", "connection closed by peer")


class LostContact(NnsslError):
    """Another process of the run died or does not answer; the run can be continued."""

    exit_code = 3


@dataclass(frozen=True)
class Place:
    """Which process this is.

    Attributes:
        rank: among all processes; 0 logs and writes.
        world: number of all processes.
        local_rank: among those of this machine; the number of its GPU.
        local_world: number of those of this machine.
    """

    rank: int
    world: int
    local_rank: int
    local_world: int

    @classmethod
    def from_environment(cls) -> Place | None:
        """As torchrun says, or None where nothing started this process as one of several.

        Raises:
            NnsslError: the variables are incomplete or contradict each other.
        """
        if "RANK" not in os.environ or "WORLD_SIZE" not in os.environ:
            return None
        names = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE")
        text = {n: os.environ.get(n, {"LOCAL_RANK": "0", "LOCAL_WORLD_SIZE": "1"}.get(n, "")) for n in names}
        said = ", ".join(f"{n}={v}" for n, v in text.items())
        if not all(v.isdecimal() for v in text.values()):
            raise NnsslError(
                f"{said}: these variables are torchrun's and must be whole numbers; unset them or use torchrun"
            )
        place = cls(*(int(v) for v in text.values()))
        if not (place.rank < place.world and place.local_rank < place.local_world <= place.world):
            raise NnsslError(
                f"{said}: these variables are torchrun's and contradict each other; unset them or use torchrun"
            )
        missing = [n for n in ("MASTER_ADDR", "MASTER_PORT") if n not in os.environ]
        if missing:
            raise NnsslError(
                f"{said}, but {' and '.join(missing)} not: let torchrun start the processes, or unset RANK and WORLD_SIZE"
            )
        return place

    def check(self, device: torch.device) -> None:
        """Refuse more processes than GPUs, and GPUs without NCCL.

        Raises:
            NnsslError: with the number of both.
        """
        if device.type == "mps" and self.world > 1:
            raise NnsslError("several processes need cuda or cpu: -device mps has one")
        if device.type != "cuda":
            return
        gpus = torch.cuda.device_count()
        if self.local_world > gpus:
            raise NnsslError(
                f"{self.local_world} processes on this machine, but {gpus} GPU(s): start no more processes than GPUs "
                "(torchrun --nproc_per_node, -num_gpus; CUDA_VISIBLE_DEVICES hides GPUs)"
            )
        if self.world > 1 and not dist.is_nccl_available():
            raise NnsslError("several GPUs need NCCL, and this build of torch has none: install torch's CUDA build")


def processes_here(world: int) -> int:
    """Processes of the run on this machine; `world` of them where nothing says (nnUNetv2_train starts its own)."""
    return int(os.environ.get("LOCAL_WORLD_SIZE") or world)


@contextmanager
def joined(place: Place, device: torch.device, patience: float) -> Iterator[None]:
    """Be one of several processes while inside; errors are said by one process, others leave with the same exit code.

    A disk's error is one to mend, as in a command of one process.

    Args:
        place: this process.
        device: of the training. Small talk of the processes goes by gloo in any case, so that it never waits for a GPU.
        patience: seconds to wait for the others, when joining and later.

    Raises:
        LostContact: another process is gone or does not answer. What was saved is valid.
        NnsslError: the disk is full, read-only, forbidden or silent.
    """
    limit = timedelta(seconds=patience)
    try:
        store, rank, world = next(dist.rendezvous("env://", timeout=limit))
        backend = "cpu:gloo,cuda:nccl" if device.type == "cuda" else "gloo"
        group_store = dist.PrefixStore("nnssl", store)
        dist.init_process_group(backend, store=group_store, rank=rank, world_size=world, timeout=limit)
    except (RuntimeError, ValueError) as error:
        raise LostContact(
            f"process {place.rank} of {place.world} did not find the others at "
            f"{os.environ.get('MASTER_ADDR')}:{os.environ.get('MASTER_PORT')} within {patience:g} s ({_short(error)}): do "
            "all run, and do firewall and network interface (GLOO_SOCKET_IFNAME, NCCL_SOCKET_IFNAME) let them talk?"
        ) from error
    try:
        yield
    except SystemExit:  # stopped on request, all together
        dist.destroy_process_group()
        raise
    except Exception as error:
        if _is_loss(error):
            time.sleep(REASON_SECONDS)  # who left with a reason is just saying it
            if (code := _reason(store)) is not None:
                raise SystemExit(code) from error
            known: NnsslError | None = LostContact(
                f"process {place.rank} of {place.world} lost contact with the others: one of them ended, or did not answer "
                f"within {patience:g} s ({_short(error)}). The checkpoints are valid: the same command with --c goes on"
            )
        else:
            known = user_error(error)
        if known is None:
            raise
        _say_once(store, known)
        _linger(place, device)
        if known is error:
            raise
        raise known from error
    dist.destroy_process_group()


def by_the_first(work: Callable[[], T]) -> T:
    """What process 0 makes of `work`, which it alone does; `work()` where there are not several processes.

    An error that a user can mend is raised on all of them: none begins to compute, where a GPU would make it wait for one
    that has left.

    Args:
        work: returns something that can be pickled.

    Raises:
        NnsslError: the error of process 0.
    """
    if not dist.is_initialized() or dist.get_world_size() == 1:
        return work()
    found: list[Any] = [None, None]
    if dist.get_rank() == 0:
        try:
            found[0] = work()
        except Exception as error:
            known = user_error(error)
            if known is None or known.exit_code != USER_ERROR:
                raise
            found[1] = str(known)
    dist.broadcast_object_list(found, src=0)
    if found[1] is not None:
        raise NnsslError(found[1])
    return found[0]


def agree(facts: Mapping[str, Any], advice: str) -> None:
    """All processes must have found the same; without several processes there is nothing to compare.

    Args:
        facts: by name, plain values.
        advice: what to do when they differ.

    Raises:
        NnsslError: on every process, naming the first that found something else.
    """
    if not dist.is_initialized() or dist.get_world_size() == 1:
        return
    everyone: list[Any] = [None] * dist.get_world_size()
    dist.all_gather_object(everyone, dict(facts))
    for key in facts:
        for rank, found in enumerate(everyone):
            if found[key] != everyone[0][key]:
                raise NnsslError(
                    f"the processes of this run differ: {key} is {found[key]} for process {rank} and {everyone[0][key]} for "
                    f"process 0. {advice}"
                )


class LaggingVote:
    """Processes tell each other the greatest number among theirs, one call behind, so that no step waits for an answer."""

    def __init__(self, device: torch.device) -> None:
        by_gloo = "gloo" in str(dist.get_backend_config())
        self._device = torch.device("cpu") if by_gloo else device
        self._sent: torch.Tensor | None = None
        self._work: Any = None

    def __call__(self, number: int) -> int:
        """Send this process' number; returns the greatest that any process sent in the call before (0 the first time)."""
        greatest = self.last()
        self._sent = torch.tensor(float(number), device=self._device)
        self._work = dist.all_reduce(self._sent, dist.ReduceOp.MAX, async_op=True)
        return greatest

    def meet(self) -> None:
        """Wait until all processes are here: launchers take the first to leave for a failure, and kill the others."""
        self.last()
        self(0)
        self.last()

    def last(self) -> int:
        """The answer that is under way, 0 if none is."""
        if self._sent is None:
            return 0
        self._work.wait()
        answer, self._sent = int(self._sent.item()), None
        return answer


def _is_loss(error: Exception) -> bool:
    """torch has no class of its own for a peer that is gone: gloo raises a bare RuntimeError, also inside of backward."""
    text = str(error).lower()
    return isinstance(error, RuntimeError) and (isinstance(error, dist.DistError) or any(s in text for s in _SIGNS))


def _short(error: BaseException) -> str:
    """The part of torch's message that says something: without source files and advice for torch's developers."""
    line = str(error).splitlines()[0].split("] ", 1)[-1] if str(error) else type(error).__name__
    return line.split(". This is typically")[0][:160]


def _say_once(store: dist.Store, error: NnsslError) -> None:
    """Leave quietly if another process has said the same; a store that went down with its process knows nothing."""
    digest = hashlib.blake2b(str(error).encode(), digest_size=8).hexdigest()
    kind = "lost" if isinstance(error, LostContact) else digest
    try:
        if not isinstance(error, LostContact):
            store.set(_REASON, str(error.exit_code))
        first = store.add(f"said {kind}", 1) == 1
    except RuntimeError:
        first = True
    if not first:
        raise SystemExit(error.exit_code) from error


def _reason(store: dist.Store) -> int | None:
    """Exit code of a process that has said why it left, None where none has."""
    try:
        return int(store.get(_REASON)) if store.check([_REASON]) else None
    except RuntimeError:
        return None


def _linger(place: Place, device: torch.device) -> None:
    """Where no launcher keeps the store, the first process does: the others must be able to read there why it leaves."""
    if place.rank == 0 and os.environ.get("TORCHELASTIC_USE_AGENT_STORE") != "True":
        if device.type != "cuda":  # the others notice now; NCCL might wait for a process that is gone
            dist.destroy_process_group()
        time.sleep(3 * REASON_SECONDS)
