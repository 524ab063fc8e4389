"""How a case becomes the network's input: decided once per training, kept with the model, the same for new cases."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from nnunetv2.utilities.plans_handling.plans_handler import PlansManager

from nnssl.data.spacing import crop_spacing
from nnssl.evaluate.classify.images import MOST_SLICES, body_centre, common_size, fit, slices_of
from nnssl.planners.preprocess import nnsslPreprocessor
from nnssl.views import Geometry


@dataclass(frozen=True)
class Recipe:
    """How a case becomes the network's input.

    Attributes:
        plans: nnU-Net's plans.
        configuration: the one in them.
        dataset_json: `channel_names`, `labels`, `file_ending`.
        size: voxels per axis; two numbers for a 2D encoder.
        slices: of each case, for a 2D encoder; else 1.
        body: images larger than `size` are cut around the body's middle instead of their own.
    """

    plans: dict[str, Any]
    configuration: str
    dataset_json: dict[str, Any]
    size: tuple[int, ...]
    slices: int
    body: bool

    @property
    def flat(self) -> bool:
        """Whether the encoder is 2D."""
        return len(self.size) == 2

    @property
    def settings(self) -> dict[str, Any]:
        """The configuration, inheritance resolved."""
        return dict(PlansManager(self.plans).get_configuration(self.configuration).configuration)

    @property
    def geometry(self) -> Geometry:
        """For augmentation; the slices of a case are a stack so thick that nothing mixes them."""
        spacing = tuple(float(s) for s in crop_spacing(self.settings))
        if self.flat:
            return Geometry((self.slices, *self.size), (1000 * max(spacing), *spacing[-2:]))
        return Geometry(self.size, spacing)

    def preprocess(self, data: np.ndarray, spacing: Sequence[float]) -> tuple[np.ndarray, np.ndarray]:
        """nnU-Net's own preprocessing.

        Args:
            data: (C, Z, Y, X) raw.
            spacing: (Z, Y, X) in mm.

        Returns:
            (C, Z, Y, X), and positions in the body (K, 3).

        Raises:
            Failure: the case is not usable.
        """
        plans = PlansManager(self.plans)
        configuration = plans.get_configuration(self.configuration)
        properties = {"spacing": list(spacing)}
        found = nnsslPreprocessor().prepare(data, None, properties, plans, configuration, self.dataset_json)
        return found[0], found[2]

    def network_input(self, image: np.ndarray, body: np.ndarray | None) -> np.ndarray:
        """(C, Z, Y, X) preprocessed -> (S, C, *spatial), S slices for a 2D encoder, else 1."""
        centre = body_centre(body) if self.body else None
        if self.flat:
            middle = None if centre is None else centre[1:]
            return np.stack([fit(s, self.size, middle) for s in slices_of(image, self.slices)])
        return fit(image, self.size, centre)[None]

    def as_dict(self) -> dict[str, Any]:
        """Plain values, for a file."""
        return {**asdict(self), "size": list(self.size)}

    @classmethod
    def from_dict(cls, content: Mapping[str, Any]) -> Recipe:
        """What `as_dict` gave."""
        return cls(**{**content, "size": tuple(content["size"])})


def make_recipe(
    plans: dict[str, Any],
    configuration: str,
    dataset_json: Mapping[str, Any],
    shapes: Sequence[Sequence[int]],
    stride: Sequence[int],
    body: bool,
) -> Recipe:
    """The recipe for images of the given shapes.

    Args:
        plans, configuration, dataset_json: see `Recipe`.
        shapes: (Z, Y, X) of the images after preprocessing.
        stride: total stride of the encoder.
        body: whether it is known of all of them where the body is.
    """
    kept = {k: dataset_json[k] for k in ("channel_names", "labels", "file_ending") if k in dataset_json}
    if len(stride) == 3:
        return Recipe(plans, configuration, kept, common_size(shapes, stride), 1, body)
    slices = int(max(1, min(MOST_SLICES, np.median([s[0] for s in shapes]))))
    return Recipe(plans, configuration, kept, common_size([s[1:] for s in shapes], stride), slices, body)
