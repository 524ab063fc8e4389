"""What was measured, as a table and as JSON."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

from nnssl.benchmark.clock import PARTS
from nnssl.benchmark.machine import describe_device, matmul_peak, step_precision
from nnssl.benchmark.measure import Comparison, Measured
from nnssl.trainers.monitor import duration
from nnssl.trainers.pretraining import nnsslTrainer
from nnssl.transfer.provenance import package_versions


def as_json(
    candidates: Sequence[Measured],
    comparisons: Sequence[Comparison],
    common: Sequence[str],
    rounds: int,
    steps: int,
    read: bool,
) -> dict[str, Any]:
    """Everything of a measurement. Times are milliseconds, memory bytes, rates per second."""
    trainer = candidates[0].trainer
    machine = _machine(trainer)
    return {
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
    tflops = m.flops / m.compute_seconds / 1e12
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
        "peak_memory": m.memory,
        "tflop_per_step": round(m.flops / 1e12, 6),
        "tflops": round(tflops, 4),
        "share_of_peak": round(tflops / peak, 4),
        "data_wait": round(m.data_wait, 4),
        "schedule_steps": total,
        "schedule_hours": round(m.step_seconds * total / 3600, 6),
        "rounds_ms": [_ms(sum(r.values())) for r in m.rounds],
    }


def _ms(seconds: float) -> float:
    return round(1000 * seconds, 3)


def as_lines(found: dict[str, Any]) -> list[str]:
    """The table of a measurement, from its JSON."""
    machine, data = found["machine"], found["data"]
    patch = "x".join(str(n) for n in data["patch"])
    reading = "read in every step" if data["read_in_every_step"] else "one batch, not read again (--no-data)"
    head = [
        f"machine  {machine['name']} ({machine['device']}), {machine['threads']} thread(s), torch "
        f"{found['versions']['torch']}, {machine['precision']}{', compiled' if machine['compiled'] else ''}; "
        f"fastest matrix product {machine['matmul_peak_tflops']:.3g} TFLOP/s",
        f"data     {data['dataset']}, {data['configuration']}, patch {patch}, {data['channels']} channel(s), "
        f"{data['cases']} cases; {reading}",
        *([f"settings {' '.join(found['set'])}"] if found["set"] else []),
        f"timing   medians of {found['rounds']} rounds of {found['steps_per_round']} step(s), in turns; ms per step",
        "",
    ]
    titles = ["method", "setting", "batch", "samples/s", "ms", *PARTS, "memory", "TFLOP/s", "of peak", "data_wait"]
    rows = [_row(s) for s in found["settings"]]
    widths = [max(len(row[i]) for row in [titles, *rows]) for i in range(len(titles))]
    table = [
        "  ".join(text.ljust(w) if i < 2 else text.rjust(w) for i, (text, w) in enumerate(zip(row, widths)))
        for row in [titles, *rows]
    ]
    ends = [
        f"{_name(s)}: {s['schedule_hours']:.1f} hours for {s['schedule_steps']:,} steps "
        f"({duration(s['schedule_hours'] * 3600)})"
        for s in found["settings"]
    ]
    return [*head, *table, "", *ends, *(_verdict(c) for c in found["comparisons"])]


def _name(s: dict[str, Any]) -> str:
    return f"{s['method']} {s['set']}".strip()


def _row(s: dict[str, Any]) -> list[str]:
    memory = "-" if s["peak_memory"] is None else f"{s['peak_memory'] / 2**30:.2f} GiB"
    return [
        s["method"],
        s["set"],
        str(s["batch_size"]),
        f"{s['samples_per_s']:.2f}",
        f"{s['ms_per_step']:.1f}",
        *(f"{s['ms'][part]:.1f}" for part in PARTS),
        memory,
        f"{s['tflops']:.3g}",
        f"{100 * s['share_of_peak']:.0f} %",
        f"{100 * s['data_wait']:.0f} %",
    ]


def _verdict(c: dict[str, Any]) -> str:
    first, second = c["ms_per_sample"]
    return (
        f"{c['method']} {c['first']} against {c['second']}: {first:.1f} and {second:.1f} ms per sample, "
        f"ratio {c['ratio']:.2f} ({c['ratio_low']:.2f}-{c['ratio_high']:.2f} in single rounds)"
    )
