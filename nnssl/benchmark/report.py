"""What was measured, as JSON."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

from nnssl.benchmark.clock import PARTS
from nnssl.benchmark.machine import describe_device, matmul_peak, step_precision
from nnssl.benchmark.measure import Comparison, Measured
from nnssl.trainers.pretraining import nnsslTrainer
from nnssl.transfer.provenance import package_versions

FORMAT = 1


def as_json(
    candidates: Sequence[Measured],
    comparisons: Sequence[Comparison],
    common: Sequence[str],
    rounds: int,
    steps: int,
    read: bool,
) -> dict[str, Any]:
    """Everything of a measurement; documentation/reference/files.md describes it."""
    trainer = candidates[0].trainer
    machine = _machine(trainer)
    return {
        "format": FORMAT,
        "versions": package_versions(),
        "machine": machine,
        "data": {
            "dataset": trainer.plans_manager.dataset_name,
            "configuration": trainer.configuration_name,
            "cases": len(trainer.train_pool),
            "channels": trainer.num_input_channels,
            "patch": [int(n) for n in trainer.configuration_manager.patch_size],
            "read_in_every_step": read,
        },
        "set": list(common),
        "rounds": rounds,
        "steps_per_round": steps,
        "settings": [_settings(m, machine["matmul_peak_tflops"]) for m in candidates],
        "comparisons": [
            {
                "method": c.first.trainer.run.method,
                "first": c.first.label,
                "second": c.second.label,
                "ms_per_sample": [_ms(sum_over(c.first)), _ms(sum_over(c.second))],
                "ratio": round(c.ratio, 4),
                "ratio_low": round(c.low, 4),
                "ratio_high": round(c.high, 4),
            }
            for c in comparisons
        ],
    }


def sum_over(measured: Measured) -> float:
    """Median seconds per crop."""
    return measured.step_seconds / measured.batch_size


def _machine(trainer: nnsslTrainer) -> dict[str, Any]:
    precision = step_precision(trainer)
    return {
        "device": trainer.device.type,
        "name": describe_device(trainer.device),
        "threads": torch.get_num_threads(),
        "precision": str(precision).removeprefix("torch."),
        "matmul_peak_tflops": round(matmul_peak(trainer.device, precision) / 1e12, 4),
        "compiled": bool(trainer._do_i_compile()),
    }


def _settings(m: Measured, peak: float) -> dict[str, Any]:
    run = m.trainer.run
    tflop = None if m.flops is None else m.flops / 1e12
    tflops = None if tflop is None else tflop / m.compute_seconds
    total = run.epochs * run.iterations
    return {
        "method": run.method,
        "set": m.label,
        "batch_size": m.batch_size,
        "executor": run.executor,
        "workers": m.trainer._workers(),
        "samples_per_s": round(m.batch_size / m.step_seconds, 3),
        "ms_per_step": _ms(m.step_seconds),
        "ms": {part: _ms(m.seconds(part)) for part in PARTS},
        "parameters": sum(p.numel() for p in m.trainer.method.parameters() if p.requires_grad),
        "peak_memory": m.memory,
        "tflop_per_step": None if tflop is None else round(tflop, 6),
        "tflops": None if tflops is None else round(tflops, 4),
        "share_of_peak": None if tflops is None else round(tflops / peak, 4),
        "data_wait": round(m.data_wait, 4),
        "schedule_steps": total,
        "schedule_hours": round(m.step_seconds * total / 3600, 6),
        "rounds_ms": [_ms(sum(r.values())) for r in m.rounds],
    }


def _ms(seconds: float) -> float:
    return round(1000 * seconds, 3)
