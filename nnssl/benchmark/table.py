"""What was measured, for a terminal, from its JSON."""

from __future__ import annotations

import textwrap
from typing import Any

from nnssl.benchmark.clock import PARTS
from nnssl.trainers.monitor import duration

TITLES = ("method", "setting", "batch", "samples/s", "ms", *PARTS, "memory", "TFLOP/s", "of peak", "data_wait")
_INDENT = 9


def as_lines(found: dict[str, Any], width: int) -> list[str]:
    """Head, table, hours of the whole schedule, ratios.

    Args:
        found: see nnssl.benchmark.report.as_json.
        width: columns; where the table does not fit, every setting gets a few lines instead of a row.
    """
    rows = [list(TITLES), *(_row(s) for s in found["settings"])]
    widths = [max(len(row[i]) for row in rows) for i in range(len(TITLES))]
    table = [
        "  ".join(text.ljust(w) if i < 2 else text.rjust(w) for i, (text, w) in enumerate(zip(row, widths)))
        for row in rows
    ]
    if len(table[0]) > width:
        table = [line for row in rows[1:] for line in _block(dict(zip(TITLES, row)))]
    ends = [
        f"{_name(s)}: {s['schedule_hours']:.1f} hours for {s['schedule_steps']:,} steps "
        f"({duration(s['schedule_hours'] * 3600)})"
        for s in found["settings"]
    ]
    verdicts = [_verdict(c) for c in found["comparisons"]]
    return [
        *(line for text in _head(found) for line in _wrapped(text, width)),
        "",
        *table,
        "",
        *(line for text in (*ends, *verdicts) for line in _wrapped(text, width)),
    ]


def _head(found: dict[str, Any]) -> list[str]:
    machine, data = found["machine"], found["data"]
    patch = "x".join(str(n) for n in data["patch"])
    reading = "read in every step" if data["read_in_every_step"] else "one batch, not read again (--no-data)"
    return [
        f"machine  {machine['name']} ({machine['device']}), {machine['threads']} thread(s), torch "
        f"{found['versions']['torch']}, {machine['precision']}{', compiled' if machine['compiled'] else ''}; "
        f"fastest matrix product {machine['matmul_peak_tflops']:.3g} TFLOP/s",
        f"data     {data['dataset']}, {data['configuration']}, patch {patch}, {data['channels']} channel(s), "
        f"{data['cases']} cases; {reading}",
        *([f"settings {' '.join(found['set'])}"] if found["set"] else []),
        f"timing   medians of {found['rounds']} rounds of {found['steps_per_round']} step(s), in turns; ms per step",
    ]


def _wrapped(text: str, width: int) -> list[str]:
    return textwrap.wrap(text, max(width, 40), subsequent_indent=" " * _INDENT, break_on_hyphens=False)


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
        "-" if s["tflops"] is None else f"{s['tflops']:.3g}",
        "-" if s["tflops"] is None else f"{100 * s['share_of_peak']:.0f} %",
        f"{100 * s['data_wait']:.0f} %",
    ]


def _block(row: dict[str, str]) -> list[str]:
    """A setting's row, below each other."""
    return [
        f"{row['method']} {row['setting']}".strip(),
        f"  batch {row['batch']}, {row['samples/s']} samples/s, {row['ms']} ms per step",
        "  ms: " + ", ".join(f"{part} {row[part]}" for part in PARTS),
        f"  memory {row['memory']}, {row['TFLOP/s']} TFLOP/s, {row['of peak']} of peak, data_wait {row['data_wait']}",
    ]


def _verdict(c: dict[str, Any]) -> str:
    first, second = c["ms_per_sample"]
    return (
        f"{c['method']} {c['first']} against {c['second']}: {first:.1f} and {second:.1f} ms per sample, "
        f"ratio {c['ratio']:.2f} ({c['ratio_low']:.2f}-{c['ratio_high']:.2f} in single rounds)"
    )
