"""Slow and obvious: an encoder in which hidden positions really do not exist.

Features of a sample are a dictionary from position to vector; a position that is hidden has no entry. Written with loops
and class names only, independent of nnssl.networks. float64, with gradients.
"""

from __future__ import annotations

import itertools
from typing import Any

import torch

Points = list[dict[tuple[int, ...], torch.Tensor]]
"""Per sample: position -> (C,)."""


class SparseOracle:
    """Runs one encoder on one batch of masks."""

    def __init__(self, visible: torch.Tensor) -> None:
        self.visible = visible

    def encode(self, encoder: Any, x: torch.Tensor) -> list[torch.Tensor]:
        """Every stage's output as a dense tensor with zeros where there is no entry."""
        self.size = tuple(x.shape[2:])
        points: Points = [{p: x[(b, slice(None), *p)] for p in self.alive(b)} for b in range(x.shape[0])]
        if getattr(encoder, "stem", None) is not None:
            points = self.run(encoder.stem, points)
        out = []
        for stage in encoder.stages:
            points = self.run(stage, points)
            out.append(self.dense(points))
        return out

    def alive(self, sample: int) -> list[tuple[int, ...]]:
        """Visible positions at the present resolution."""
        grid = self.visible.shape[2:]
        everywhere = itertools.product(*(range(n) for n in self.size))
        blocks = {p: tuple(i * g // n for i, g, n in zip(p, grid, self.size)) for p in everywhere}
        return [p for p, block in blocks.items() if self.visible[(sample, 0, *block)]]

    def dense(self, points: Points) -> torch.Tensor:
        """(B, C, *spatial)."""
        some = next(iter(points[0].values()))
        samples = []
        for entries in points:
            everywhere = itertools.product(*(range(n) for n in self.size))
            rows = [entries.get(p, torch.zeros_like(some)) for p in everywhere]
            samples.append(torch.stack(rows, dim=1).reshape(-1, *self.size))
        return torch.stack(samples)

    def run(self, module: Any, points: Points) -> Points:
        """One module, whatever it is."""
        kind = type(module).__name__
        if kind == "Sequential":
            for child in module:
                points = self.run(child, points)
            return points
        if kind == "StackedConvBlocks":
            return self.run(module.convs, points)
        if kind == "StackedResidualBlocks":
            return self.run(module.blocks, points)
        if kind == "ConvDropoutNormReLU":
            return self.run(module.all_modules, points)
        if kind in ("BasicBlockD", "BottleneckD"):
            return self.residual(module, points)
        if kind.startswith("Conv"):
            return self.conv(module, points)
        if kind.startswith("AvgPool"):
            return self.pool(module, points)
        if kind.startswith("InstanceNorm"):
            return [self.norm(module, [entries])[0] for entries in points]
        if kind.startswith("BatchNorm"):
            return self.norm(module, points)
        if kind == "function":
            return points
        return [{p: module(v.clone()) for p, v in entries.items()} for entries in points]

    def residual(self, block: Any, points: Points) -> Points:
        """Both kinds of residual block."""
        size = self.size
        shortcut = self.run(block.skip, points)
        self.size = size
        for name in ("conv1", "conv2", "conv3"):
            if hasattr(block, name):
                points = self.run(getattr(block, name), points)
        if block.apply_se:
            points = self.excite(block.squeeze_excitation, points)
        summed = [{p: v + shortcut[b][p] for p, v in entries.items()} for b, entries in enumerate(points)]
        return self.run(block.nonlin3 if hasattr(block, "conv3") else block.nonlin2, summed)

    def excite(self, module: Any, points: Points) -> Points:
        """Squeeze-excitation, 2D only."""
        out: Points = []
        for entries in points:
            mean = torch.stack(list(entries.values())).mean(0)
            hidden = module.act(self.matrix(module.fc1) @ mean + module.fc1.bias)
            gate = module.gate(self.matrix(module.fc2) @ hidden + module.fc2.bias)
            out.append({p: v * gate for p, v in entries.items()})
        return out

    @staticmethod
    def matrix(conv: Any) -> torch.Tensor:
        """Weight of a 1x1 convolution."""
        return conv.weight.flatten(1)

    def conv(self, module: Any, points: Points) -> Points:
        """Sum over those neighbours that exist."""
        self.size = tuple(n // s for n, s in zip(self.size, module.stride))
        out: Points = []
        for b, entries in enumerate(points):
            out.append({})
            for p in self.alive(b):
                value = module.weight.new_zeros(module.out_channels) if module.bias is None else module.bias
                for k in itertools.product(*(range(n) for n in module.kernel_size)):
                    q = tuple(i * s + j - pad for i, s, j, pad in zip(p, module.stride, k, module.padding))
                    if q in entries:
                        value = value + module.weight[(slice(None), slice(None), *k)] @ entries[q]
                out[b][p] = value
        return out

    def pool(self, module: Any, points: Points) -> Points:
        """Mean over those positions of the window that exist."""
        stride = module.stride if isinstance(module.stride, (list, tuple)) else [module.stride] * len(self.size)
        self.size = tuple(n // s for n, s in zip(self.size, stride))
        out: Points = []
        for b, entries in enumerate(points):
            out.append({})
            for p in self.alive(b):
                window = itertools.product(*(range(i * s, i * s + s) for i, s in zip(p, stride)))
                out[b][p] = torch.stack([entries[q] for q in window if q in entries]).mean(0)
        return out

    def norm(self, module: Any, points: Points) -> Points:
        """Statistics of all entries that are given."""
        values = torch.stack([v for entries in points for v in entries.values()])
        mean, variance = values.mean(0), values.var(0, unbiased=False)
        scale = module.weight / (variance + module.eps).sqrt()
        return [{p: (v - mean) * scale + module.bias for p, v in entries.items()} for entries in points]
