"""VoCo: where in the crop is this piece? (Wu, Zhuang and Chen 2024, CVPR, arXiv 2402.17300.)

The crop is tiled by a grid of base cells. Pieces of a cell's size are cut out anywhere, and their embeddings must be as
similar to each cell's as the share of their volume that lies in it. The cells' embeddings for this come from a momentum
teacher; a second term keeps the student's own embeddings of different cells apart.

The projector's norm is over the batch, which here is all pieces of all crops. Pieces of one crop have much in common; a
norm that looks at one piece alone leaves it there, all cosines start near 1, and the student runs away from the teacher
instead of telling cells apart.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import ClassVar

import torch
from pydantic import Field
from torch import nn

from nnssl.losses.similarity import cosine_matrix
from nnssl.losses.volume_contrast import cell_similarity, overlap_loss
from nnssl.methods.base import CropBatch, Exported, Losses, MethodConfig, Optimisation, Views
from nnssl.methods.joint_embedding import JointEmbedding
from nnssl.networks import Pooling, total_stride
from nnssl.networks.heads import HeadNorm, MLPHead
from nnssl.networks.momentum import MomentumCopy
from nnssl.views import Geometry, flip, inside_box, random_flips, random_intensity, random_spatial
from nnssl.views.grid_crops import bounding_box, cut, divide, grid_cells, grid_overlap, random_places

ALIKE = 0.9
Gather = Callable[[torch.Tensor], torch.Tensor]


class VoCoConfig(MethodConfig):
    """Options of `-m voco`."""

    grid: int = Field(2, ge=2, le=4, description="cells per axis; thick slices and short axes are not divided")
    queries: int = Field(2, ge=1, description="pieces per crop whose place is asked for")
    separation: float = Field(1.0, gt=0, description="weight of the term that keeps cells apart")
    momentum: float = Field(0.9, ge=0, lt=1, description="of the teacher")
    hidden: int = Field(512, ge=1, description="width of the projector's hidden layer")
    out: int = Field(128, ge=2, description="width of the embedding")
    head_norm: HeadNorm = Field("batch", description="norm in the projector, over all pieces of all crops")
    pooling: Pooling = Field("avgmax", description="of the deepest stage: mean, maximum, or both side by side")
    p_flip: float = Field(0.0, ge=0, le=1, description="probability of mirroring the whole crop, per axis")
    p_rotation: float = Field(0.0, ge=0, le=1, description="probability of rotating the whole crop")
    p_scaling: float = Field(0.0, ge=0, le=1, description="probability of scaling the whole crop by 0.7-1.4")
    p_query_flip: float = Field(0.0, ge=0, le=1, description="probability of mirroring a query by itself, per axis")
    p_intensity: float = Field(
        0.5, ge=0, le=1, description="probability of each change of a query's brightness, contrast, gamma"
    )
    p_noise: float = Field(0.2, ge=0, le=1, description="probability of Gaussian noise, per query")
    p_blur: float = Field(0.2, ge=0, le=1, description="probability of Gaussian blur, per query")


class VoCo(JointEmbedding):
    """Overlap prediction by similarity, with a momentum teacher for the cells."""

    name: ClassVar[str] = "voco"
    Config: ClassVar[type[MethodConfig]] = VoCoConfig
    optimisation: ClassVar[Optimisation] = Optimisation(lr=1e-3, weight_decay=1e-4)
    citation: ClassVar[str] = (
        "Wu, Zhuang and Chen 2024, VoCo: a simple-yet-effective volume contrastive learning framework for 3D medical image "
        "analysis, CVPR"
    )
    config: VoCoConfig  # type: ignore[assignment]  # it has none of the options for making two views

    def __init__(self, unet: nn.Module, geometry: Geometry, channels: int, config: MethodConfig) -> None:
        super().__init__(unet, geometry, channels, config)
        c = self.config
        stride = total_stride(unet.encoder)  # type: ignore[arg-type]
        self.cells, self.cell = divide(geometry, stride, c.grid)
        self.projector = MLPHead(self.backbone.width, c.hidden, c.out, norm=c.head_norm)
        self.teacher_backbone = MomentumCopy(self.backbone)
        self.teacher_projector = MomentumCopy(self.projector)

    @property
    def wants_partner(self) -> bool:
        """Never: a place in one crop is no place in another."""
        return False

    def read_size(self) -> tuple[int, ...]:
        """The grid: the patch, less what does not divide into cells."""
        return tuple(k * n for k, n in zip(self.cells, self.cell))

    def views(self, crops: CropBatch, generator: torch.Generator) -> Views:
        """Cells, queries and the answer.

        Queries lie at random places in validation too: that is the task, and the generator makes them the same ones every
        time. They lie within the image as far as they fit.

        Returns:
            `bases` (B, N, C, *cell), `scored` (B, N) bool, cells that are not all padding, `queries` (B, Q, C, *cell),
            `place` (B, Q, dim) their first voxels, `overlap` (B, Q, N) the share of each query in each cell.
        """
        c, size = self.config, self.read_size()
        x, inside = crops.images, inside_box(crops.inside, size)
        if self.training:
            around = Geometry(size, self.geometry.spacing)
            x, inside = random_spatial(
                x, inside, around, generator, p_flip=c.p_flip, p_rotation=c.p_rotation, p_scaling=c.p_scaling
            )
        place = random_places(bounding_box(inside), self.cell, size, c.queries, generator)
        queries = torch.stack([self._query(x, inside, place[:, q], generator) for q in range(c.queries)], dim=1)
        return {
            "bases": grid_cells(x, self.cells),
            "scored": grid_cells(inside, self.cells).flatten(2).any(2),
            "queries": queries,
            "place": place,
            "overlap": grid_overlap(place, self.cell, self.cells),
        }

    def forward(self, views: Views) -> Losses:
        """Overlap loss of the student's queries with the teacher's cells, plus `separation` times the cells' similarity."""
        gather = self.ranks.gather
        overlap, scored = gather(views["overlap"]), gather(views["scored"].long()).bool()
        z_cells, z_queries, t_cells = self._embed(views, gather)
        best = overlap.argmax(2)
        self._watch(z_queries[:, 0], t_cells[torch.arange(len(t_cells), device=best.device), best[:, 0]])
        predicted = cosine_matrix(z_queries, t_cells).clamp(min=0)
        overlap_part = overlap_loss(predicted, overlap, scored)
        similarity = cell_similarity(z_cells, scored)
        answered = predicted.detach()
        counts = scored[:, None].expand_as(answered)
        terms = {
            "overlap_loss": overlap_part.detach(),
            "cell_similarity": similarity.detach(),
            "overlap_error": ((answered - overlap).abs() * counts).sum() / counts.sum().clamp(min=1),
            "place_accuracy": (answered.masked_fill(~counts, -1).argmax(2) == best).float().mean(),
        }
        return Losses(overlap_part + self.config.separation * similarity, terms)

    def after_step(self, progress: float) -> None:
        """The teacher follows."""
        self.teacher_backbone.update(self.backbone, self.config.momentum)
        self.teacher_projector.update(self.projector, self.config.momentum)

    def exported(self) -> Exported:
        """The student's encoder; projector and teacher are thrown away."""
        return Exported(self.backbone.encoder)

    def health(self, row: Mapping[str, float]) -> list[str]:
        """Says so when all cells look alike: the answer then does not depend on the place."""
        found = super().health(row)
        similarity = row.get("val_cell_similarity", 0.0)
        if similarity > ALIKE:
            found.append(
                f"all cells of a crop have the same embedding (val_cell_similarity {similarity:.2f}, healthy is near 0): "
                "try head_norm=batch if it was changed, a larger momentum, or a lower --lr"
            )
        return found

    @torch.no_grad()
    def preview(self, views: Views) -> dict[str, torch.Tensor]:
        """The first query, the crop at the query's depth in its cells, and there the true and the answered overlap."""
        _, z_queries, t_cells = self._embed(views, _as_it_is)
        predicted = cosine_matrix(z_queries, t_cells).clamp(min=0)[:, 0]
        depth = views["place"][:, 0, 0] + self.cell[0] // 2 if len(self.cell) == 3 else None
        crop = _join(views["bases"], self.cells)
        lines = torch.zeros_like(crop, dtype=torch.bool)
        for axis, (n, k) in enumerate(zip(self.cell, self.cells), start=2):
            if not (axis == 2 and depth is not None):  # a line across the depth would hide a whole slice
                for i in range(1, k):
                    lines.select(axis, i * n).fill_(True)
        low, high = crop.amin(), crop.amax()

        def drawn(share: torch.Tensor) -> torch.Tensor:
            """(B, N) as a picture, 0 as dark and 1 as bright as the crops get."""
            flat = (low + share * (high - low)).view(*share.shape, 1, *[1] * len(self.cell))
            return _join(flat.expand(*share.shape, *views["bases"].shape[2:]), self.cells)

        pictures = {
            "crop and cells": crop.masked_fill(lines, torch.nan),
            "overlap with the query": drawn(views["overlap"][:, 0]),
            "network's answer": drawn(predicted),
        }
        if depth is not None:
            pictures = {k: _slice(v, depth) for k, v in pictures.items()}
        return {"query": views["queries"][:, 0], **pictures}

    def _embed(self, views: Views, gather: Gather) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Student's cells (B, N, D) and queries (B, Q, D), teacher's cells (B, N, D)."""
        cells = views["bases"].shape[1]
        pieces = torch.cat([views["bases"], views["queries"]], dim=1)
        z = _each(self.projector, gather(_each(self.backbone, pieces)))
        t = _each(self.teacher_projector, gather(_each(self.teacher_backbone, views["bases"])))
        return z[:, :cells], z[:, cells:], t

    def _query(
        self, x: torch.Tensor, inside: torch.Tensor, place: torch.Tensor, generator: torch.Generator
    ) -> torch.Tensor:
        """Cut out one piece of every crop, (B, C, *cell). In training it is changed, so that it cannot be found by eye."""
        c = self.config
        query = cut(x, place, self.cell)
        if not self.training:
            return query
        flips = random_flips(len(query), len(self.cell), generator, c.p_query_flip)
        query, image = flip(query, flips), flip(cut(inside, place, self.cell), flips)
        return random_intensity(
            query, image, generator, p=c.p_intensity, p_noise=c.p_noise, p_blur=c.p_blur, geometry=self.geometry
        )


def _each(network: nn.Module, pieces: torch.Tensor) -> torch.Tensor:
    """Apply a network to P pieces of every crop: (B, P, ...) -> (B, P, D)."""
    return network(pieces.flatten(0, 1)).unflatten(0, pieces.shape[:2])


def _as_it_is(x: torch.Tensor) -> torch.Tensor:
    return x


def _join(pieces: torch.Tensor, cells: tuple[int, ...]) -> torch.Tensor:
    """(B, N, C, *cell) -> (B, C, *spatial): the way back from `grid_cells`."""
    dim = len(cells)
    x = pieces.unflatten(1, cells).movedim(1 + dim, 1)  # (B, C, *cells, *cell)
    order = (0, 1, *(a for k in range(2, 2 + dim) for a in (k, k + dim)))
    return x.permute(order).reshape(*x.shape[:2], *(k * n for k, n in zip(cells, pieces.shape[3:])))


def _slice(x: torch.Tensor, depth: torch.Tensor) -> torch.Tensor:
    """One slice of every crop, (B, C, D, H, W) -> (B, C, 1, H, W)."""
    return x[torch.arange(len(x), device=x.device), :, depth][:, :, None]
