"""The patch inside the median image, to scale, as SVG."""

from __future__ import annotations

from html import escape

from nnssl.inspect.plan_facts import ConfigurationFacts
from nnssl.inspect.words import number

WIDTH, GAP, TEXT = 150.0, 46.0, 34.0
"""Pixels: longest edge of a drawing, room between two of them, and room for the words below."""


def draw_patch(configuration: ConfigurationFacts) -> str:
    """Outline of the median image and of one patch in its middle, for each pair of axes; lengths in mm.

    A patch that is larger than the image is padded there: it stands out.
    """
    patch, median = configuration.patch_mm, configuration.median_mm
    pairs = [(0, 1)] if len(patch) == 2 else [(1, 2), (0, 2), (0, 1)]
    names = ("slices", "rows", "columns")[-len(patch) :]
    scale = WIDTH / max(*patch, *median)
    parts, left = [], 8.0
    height = max(max(patch[r], median[r]) for r, _ in pairs) * scale
    for rows, columns in pairs:
        box = max(patch[columns], median[columns]) * scale, height
        parts.append(_rectangle(left, box, (median[columns] * scale, median[rows] * scale), "image"))
        parts.append(_rectangle(left, box, (patch[columns] * scale, patch[rows] * scale), "patch"))
        words = f"{names[rows]} {number(patch[rows])} of {number(median[rows])} mm"
        more = f"{names[columns]} {number(patch[columns])} of {number(median[columns])} mm"
        for i, line in enumerate((words, more)):
            parts.append(f'<text x="{left:.1f}" y="{height + 22 + 13 * i:.1f}">{escape(line)}</text>')
        left += max(box[0], 150.0) + GAP
    title = f"patch of {configuration.name} inside the median image"
    return (
        f'<svg class="patch" role="img" viewBox="0 0 {left - GAP + 8:.0f} {height + TEXT + 12:.0f}" '
        f'width="{left - GAP + 8:.0f}"><title>{escape(title)}</title>{"".join(parts)}</svg>'
    )


def _rectangle(left: float, box: tuple[float, float], size: tuple[float, float], css: str) -> str:
    """A rectangle (width, height) in the middle of a box."""
    x, y = left + (box[0] - size[0]) / 2, 4 + (box[1] - size[1]) / 2
    return f'<rect class="{css}" x="{x:.1f}" y="{y:.1f}" width="{size[0]:.1f}" height="{size[1]:.1f}"/>'
