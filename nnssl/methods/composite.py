"""Several methods on one encoder: a weighted sum of their losses. `-m spark+simclr --set weights=1,0.1`.

Every part is an ordinary method built on the same network, so what two parts train (the encoder, and nnU-Net's decoder
where both reconstruct) is one object. What is exported is that object, never a part's momentum teacher.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import torch
from pydantic import Field, create_model, model_validator
from torch import nn

from nnssl.errors import NnsslError
from nnssl.losses import Ranks
from nnssl.methods.base import CropBatch, Exported, Losses, Method, MethodConfig, Views
from nnssl.views import Geometry


class CompositeConfig(MethodConfig):
    """Options of every composite; the options of a part stand under its name (`--set spark.mask_ratio=0.7`)."""

    weights: list[float] | None = Field(None, description="weight of each part's loss, in order; default: 1 each")

    @model_validator(mode="before")
    @classmethod
    def _keep_defaults(cls, values: Any) -> Any:
        """One option of a part leaves the part's other defaults, which a preset may have chosen, as they are."""
        if not isinstance(values, Mapping):
            return values
        defaults = {
            k: f.default.model_dump() for k, f in cls.model_fields.items() if isinstance(f.default, MethodConfig)
        }
        given = {k: {**defaults[k], **v} for k, v in values.items() if k in defaults and isinstance(v, Mapping)}
        return {**values, **given}


class Composite(Method):
    """Base of composites. Subclasses (made by `composite`) set `parts` and a `Config` with one field per part."""

    parts: ClassVar[tuple[type[Method], ...]]
    config: CompositeConfig

    def __init__(self, unet: nn.Module, geometry: Geometry, channels: int, config: MethodConfig) -> None:
        super().__init__(unet, geometry, channels, config)
        weights = self.config.weights if self.config.weights is not None else [1.0] * len(self.parts)
        if len(weights) != len(self.parts) or min(weights) < 0:
            raise NnsslError(
                f"weights={weights}: give {len(self.parts)} numbers >= 0, one for each part of {self.name}"
            )
        self.weights = weights
        self.encoder: nn.Module = unet.encoder  # type: ignore[assignment]
        self.members = nn.ModuleList(p(unet, geometry, channels, getattr(config, p.name)) for p in self.parts)

    def read_size(self) -> tuple[int, ...]:
        """The smallest crop that serves every part."""
        sizes = [m.read_size() for m in self._methods()]
        dim = max(len(size) for size in sizes)
        padded = [(1,) * (dim - len(size)) + size for size in sizes]
        return tuple(max(axis) for axis in zip(*padded))

    @property
    def wants_partner(self) -> bool:
        """Whether any part does."""
        return any(m.wants_partner for m in self._methods())

    def assign_ranks(self, ranks: Ranks) -> None:
        """Tell every part."""
        super().assign_ranks(ranks)
        for m in self._methods():
            m.assign_ranks(ranks)

    def views(self, crops: CropBatch, generator: torch.Generator) -> Views:
        """The parts' views under `part/name`; each part sees its own draw of the same crops."""
        made: Views = {}
        for m in self._methods():
            made |= {f"{m.name}/{k}": v for k, v in m.views(_cut(crops, m.read_size()), generator).items()}
        return made

    def forward(self, views: Views) -> Losses:
        """Weighted sum of the parts' totals."""
        totals, terms = list[torch.Tensor](), dict[str, torch.Tensor]()
        for weight, m in zip(self.weights, self._methods()):
            losses = m(_of(views, m.name))
            totals.append(weight * losses.total)
            terms[f"{m.name}/loss"] = losses.total.detach()
            terms |= {f"{m.name}/{k}": v for k, v in losses.terms.items()}
        return Losses(sum(totals[1:], totals[0]), terms)

    def exported(self) -> Exported:
        """The shared encoder, with the decoder if a part trains nnU-Net's."""
        decoders = [m.exported().decoder for m in self._methods()]
        return Exported(self.encoder, next((d for d in decoders if d is not None), None))

    def after_step(self, progress: float) -> None:
        """Every part's."""
        for m in self._methods():
            m.after_step(progress)

    def diagnostics(self) -> dict[str, float]:
        """Every part's, under `part/name`."""
        return {f"{m.name}/{k}": v for m in self._methods() for k, v in m.diagnostics().items()}

    def advice(self, cases: int, batch_size: int) -> list[str]:
        """Every part's, with its name."""
        return [f"{m.name}: {line}" for m in self._methods() for line in m.advice(cases, batch_size)]

    def health(self, row: Mapping[str, float]) -> list[str]:
        """Every part's, with its name."""
        return [f"{m.name}: {line}" for m in self._methods() for line in m.health(_of(row, m.name))]

    @torch.no_grad()
    def preview(self, views: Views) -> dict[str, torch.Tensor]:
        """Every part's pictures."""
        return {f"{m.name}: {k}": v for m in self._methods() for k, v in m.preview(_of(views, m.name)).items()}

    def _methods(self) -> list[Method]:
        return list(self.members)  # type: ignore[arg-type]


def composite(
    parts: Sequence[type[Method]],
    name: str | None = None,
    weights: list[float] | None = None,
    options: Mapping[str, Mapping[str, Any]] | None = None,
) -> type[Composite]:
    """A composite method class.

    Args:
        parts: method classes, each at most once.
        name: default: the parts' names joined by `+`.
        weights: default weights.
        options: default options of parts, by part name.
    """
    names = [p.name for p in parts]
    if len(set(names)) < len(names) or any(issubclass(p, Composite) for p in parts):
        raise NnsslError(f"{'+'.join(names)}: name different methods, none of them a composite itself")
    fields: dict[str, Any] = {p.name: (p.Config, p.Config(**(options or {}).get(p.name, {}))) for p in parts}
    fields["weights"] = (list[float] | None, Field(weights, description="weight of each part's loss, in order"))
    name = name or "+".join(names)
    return type(
        "Plus".join(p.__name__ for p in parts),
        (Composite,),
        {
            "__doc__": f"Weighted sum of {', '.join(names)}.",
            "__module__": __name__,
            "name": name,
            "parts": tuple(parts),
            "Config": create_model(f"{name}_config", __base__=CompositeConfig, **fields),
            "optimisation": parts[0].optimisation,
            "crops_alone": all(p.crops_alone for p in parts),
            "citation": "; ".join(dict.fromkeys(c for p in parts for c in p.citation.split("; "))),
        },
    )


def _of(named: Mapping[str, Any], part: str) -> dict[str, Any]:
    """The entries that belong to a part, with the part's own names (`val_part/x` becomes `val_x`)."""
    return {k.replace(f"{part}/", "", 1): v for k, v in named.items() if k.startswith((f"{part}/", f"val_{part}/"))}


def _cut(crops: CropBatch, size: tuple[int, ...]) -> CropBatch:
    """The middle of each crop, at the size a part wants; of a stack of slices, the first one of the image for a 2D part."""
    images, inside = crops.images, crops.inside
    if tuple(images.shape[2:]) == size:
        return crops
    if images.ndim - 2 > len(size):
        first = inside[:, 0, 0].clamp(max=images.shape[2] - 1)
        images = images[torch.arange(len(images), device=images.device), :, first]
        inside = inside[:, 1:]
    low = [(n - s) // 2 for n, s in zip(images.shape[2:], size)]
    box = (slice(None), slice(None), *(slice(a, a + s) for a, s in zip(low, size)))
    images = images[box]
    offset = torch.tensor(low).to(inside.device, non_blocking=True)[None, :, None]
    limit = torch.tensor(size).to(inside.device, non_blocking=True)[None, :, None]
    inside = (inside - offset).clamp(min=0).minimum(limit)
    partner = None if crops.partner is None else _cut(crops.partner, size)
    return CropBatch(images, inside, crops.case, partner)
