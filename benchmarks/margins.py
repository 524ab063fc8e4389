"""What the margins of tiles cost, and whether other ways would be cheaper: two convolutions per stage, forward, in turns.

  python benchmarks/margins.py [--patch 48 48 48] [--features 16 32 64 128] [--batch 2] [--hidden 0.75] [--rounds 7]
      [--device cpu]

Two convolutions of kernel 3 that follow each other, as in a residual block, on the tiles of each stage:

  now     a margin of one position is read in front of each
  wide    one margin of two positions is read in front of both; the first one then computes the margin of the second, too.
          Not a whole block: the norm between them would have to leave the margin out, and hidden positions be zeroed again
  dense   the same on the whole map, masked after each

Prints milliseconds of `now`, the share of it that is reading margins, and the others as multiples of it: median, smallest
and largest of the rounds.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from statistics import median

import torch
from torch.nn import functional

from nnssl.networks.tile_copy import gather_tiles, with_margin
from nnssl.networks.tile_index import NeighbourRows, TileIndex


def main() -> None:
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--patch", type=int, nargs="+", default=[48, 48, 48])
    p.add_argument("--features", type=int, nargs="+", default=[16, 32, 64, 128])
    p.add_argument("--batch", type=int, default=2)
    p.add_argument("--hidden", type=float, default=0.75)
    p.add_argument("--rounds", type=int, default=7)
    p.add_argument("--device", default="cpu")
    a = p.parse_args()
    device, block = torch.device(a.device), 2 ** (len(a.features) - 1)
    grid = [n // block for n in a.patch]
    blocks = torch.Size(grid).numel()
    count = max(1, round(blocks * (1 - a.hidden)))
    draw = torch.Generator().manual_seed(0)
    order = torch.stack([torch.randperm(blocks, generator=draw) for _ in range(a.batch)])
    visible = (order < count).view(a.batch, 1, *grid).to(device)
    around = NeighbourRows(TileIndex(visible, count))
    print(
        f"torch {torch.__version__}, {device}, {torch.get_num_threads()} thread(s), patch {a.patch}, {a.hidden:.0%} hidden"
    )
    print("stage  tile  channels   now ms  of it margins    wide / now           dense / now")
    for stage, channels in enumerate(a.features):
        ways = _ways(around, visible, [n // 2**stage for n in a.patch], channels, block // 2**stage, device)
        seconds: dict[str, list[float]] = {name: [] for name in ways}
        for number in range(a.rounds + 1):
            for name, way in ways.items():
                taken = _timed(way, device)
                if number:  # the first round fills caches
                    seconds[name].append(taken)
        now = seconds["now"]
        read, wide, dense = ([t / n for t, n in zip(seconds[name], now)] for name in ("margins", "wide", "dense"))
        print(
            f"{stage:<6} {block // 2**stage:<5} {channels:<8} {1000 * median(now):8.1f}  {median(read):11.0%}    "
            f"{_range(wide)}     {_range(dense)}",
            flush=True,
        )


def _ways(
    around: NeighbourRows, visible: torch.Tensor, size: list[int], channels: int, tile: int, device: torch.device
) -> dict[str, Callable[[], torch.Tensor]]:
    dim = len(size)
    convolve = {2: functional.conv2d, 3: functional.conv3d}[dim]
    weight = torch.randn(channels, channels, *[3] * dim, device=device)
    whole = torch.randn(visible.shape[0], channels, *size, device=device)
    tiles = gather_tiles(whole, around.index)
    mask = visible
    for axis in range(2, dim + 2):
        mask = mask.repeat_interleave(tile, axis)
    one, two = (around.rows([tile] * dim, [n] * dim, [n] * dim) for n in (1, 2))

    def read(x: torch.Tensor) -> torch.Tensor:
        return with_margin(x, one, [tile + 2] * dim)

    return {
        "now": lambda: convolve(read(convolve(read(tiles), weight)), weight),
        "margins": lambda: (read(tiles), read(tiles))[1],
        "wide": lambda: convolve(convolve(with_margin(tiles, two, [tile + 4] * dim), weight), weight),
        "dense": lambda: convolve(convolve(whole, weight, padding=1) * mask, weight, padding=1) * mask,
    }


@torch.no_grad()
def _timed(way: Callable[[], torch.Tensor], device: torch.device) -> float:
    wait = torch.cuda.synchronize if device.type == "cuda" else (lambda: None)
    wait()
    begin = time.perf_counter()
    way()
    wait()
    return time.perf_counter() - begin


def _range(values: list[float]) -> str:
    return f"{median(values):.2f} ({min(values):.2f}-{max(values):.2f})"


if __name__ == "__main__":
    main()
