"""Images with what is known of them, and where they come from."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from nnunetv2.utilities.plans_handling.plans_handler import PlansManager
from tqdm import tqdm

from nnssl.data.folders import nnunet_folder, read_dataset_json, read_plans
from nnssl.data.pool import Pool, body_positions, read_pool
from nnssl.data.store import open_case
from nnssl.data.subjects import read_subjects
from nnssl.errors import NnsslError, did_you_mean
from nnssl.evaluate.classify.recipe import Recipe, make_recipe
from nnssl.evaluate.labels import Kind, join_twins, read_target

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Data:
    """Images with their target.

    Attributes:
        names: of the images.
        images: (N, S, C, *spatial); S slices of a case for 2D encoders, else 1.
        values: texts for classes, floats for a quantity.
        groups: patient of each.
        kind: of the target.
    """

    names: tuple[str, ...]
    images: torch.Tensor
    values: np.ndarray
    groups: tuple[str, ...]
    kind: Kind

    @property
    def known(self) -> np.ndarray:
        """All classes in order; for a quantity its mean and standard deviation."""
        if self.kind == "classes":
            return np.unique(self.values)
        return np.array([self.values.mean(), max(float(self.values.std()), 1e-12)])

    def part(self, rows: Sequence[int] | np.ndarray) -> Data:
        """Some of the images."""
        index = np.asarray(rows, dtype=int)
        return Data(
            tuple(self.names[i] for i in index),
            self.images[torch.as_tensor(index)],
            self.values[index],
            tuple(self.groups[i] for i in index),
            self.kind,
        )


@dataclass(frozen=True)
class Labelled:
    """What is known of a set of images before any of them is read.

    Attributes:
        names: of the images that have a value.
        values: texts for classes, floats for a quantity.
        groups: patient of each.
        kind: of the target.
        digests: name -> digest of its voxels, where known.
    """

    names: tuple[str, ...]
    values: np.ndarray
    groups: tuple[str, ...]
    kind: Kind
    digests: Mapping[str, str]


class Source:
    """Labelled images that are read as an encoder's input, each once.

    Args:
        plans, configuration, dataset_json: that say how they are preprocessed.
        known: their names and values.
    """

    def __init__(
        self, plans: dict[str, Any], configuration: str, dataset_json: Mapping[str, Any], known: Labelled
    ) -> None:
        self.plans, self.configuration, self.dataset_json = plans, configuration, dataset_json
        self.known = known
        self._row = {name: i for i, name in enumerate(known.names)}
        self._kept: dict[str, np.ndarray] = {}
        self._recipe: Recipe | None = None

    def recipe(self, stride: Sequence[int]) -> Recipe:
        """How they are read for an encoder of a total stride: the same whichever of them are used."""
        raise NotImplementedError

    def image(self, name: str, recipe: Recipe) -> np.ndarray:
        """(S, C, *spatial) of one."""
        raise NotImplementedError

    def read(self, names: Sequence[str], recipe: Recipe) -> Data:
        """The images of these names, in this order.

        Raises:
            NnsslError: one has no value.
        """
        missing = [name for name in names if name not in self._row]
        if missing:
            raise NnsslError(f"{missing[0]} is no image with a value ({len(missing)} such)")
        if recipe != self._recipe:
            self._recipe, self._kept = recipe, {}
        wanted = [name for name in names if name not in self._kept]
        for name in tqdm(wanted, desc="reading images", disable=None, leave=False):
            self._kept[name] = self.image(name, recipe)
        rows = [self._row[name] for name in names]
        groups = tuple(self.known.groups[i] for i in rows)
        images = torch.from_numpy(np.stack([self._kept[name] for name in names]))
        return Data(tuple(names), images, self.known.values[rows], groups, self.known.kind)


class Cases(Source):
    """Preprocessed cases of a configuration with a column of a table.

    Args:
        dataset: folder name of the dataset.
        plans_name, configuration: its plans.
        labels, target, group: see `nnssl.evaluate.labels.read_target`.

    Raises:
        NnsslError: nothing is preprocessed, or the table does not fit.
    """

    def __init__(
        self, dataset: str, plans_name: str, configuration: str, labels: Path, target: str, group: str | None
    ) -> None:
        plans = known_plans(dataset, plans_name, configuration)
        root = nnunet_folder("nnUNet_preprocessed") / dataset
        self.pool: Pool = read_pool(root, PlansManager(plans).get_configuration(configuration).data_identifier)
        self.place = {case.name: i for i, case in enumerate(self.pool.cases)}
        cases = list(self.place)
        found = read_target(labels, target, cases, read_subjects(nnunet_folder("nnUNet_raw") / dataset, cases), group)
        digests = {c.name: c.digest for c in self.pool.cases if c.digest}
        found, twins = join_twins(found, digests)
        for case, other in twins:
            log.warning("%s has the same voxels as %s: they count as one patient", case, other)
        known = Labelled(found.cases, found.values, found.groups, found.kind, digests)
        super().__init__(plans, configuration, read_dataset_json(root / "dataset.json"), known)

    def recipe(self, stride: Sequence[int]) -> Recipe:
        shapes = [case.shape for case in self.pool.cases]
        body = all(case.body for case in self.pool.cases)
        return make_recipe(self.plans, self.configuration, self.dataset_json, shapes, stride, body)

    def image(self, name: str, recipe: Recipe) -> np.ndarray:
        index = self.place[name]
        voxels = np.asarray(open_case(self.pool.image_path(index))[:], dtype=np.float32)
        return recipe.network_input(voxels, body_positions(self.pool, index) if recipe.body else None)


def known_plans(dataset: str, plans_name: str, configuration: str) -> dict[str, Any]:
    """A dataset's plans, if they have the configuration.

    Raises:
        NnsslError: they have not.
    """
    plans = read_plans(dataset, plans_name)
    there = list(plans["configurations"])
    if configuration not in there:
        raise NnsslError(
            f"configuration '{configuration}' is not in {plans_name} of {dataset}."
            f"{did_you_mean(configuration, there)} There are: {', '.join(there)}"
        )
    return plans


def check_classes(training: Sequence[str], answered: Sequence[str]) -> None:
    """Refuse training images that cannot teach the classes of others.

    Raises:
        NnsslError: one class only, or one that no training image shows.
    """
    known = set(training)
    unseen = sorted(set(answered) - known)
    if unseen:
        raise NnsslError(
            f"none of {len(training)} training images shows class '{unseen[0]}', which the others show: draw more of them"
        )
    if len(known) < 2:
        raise NnsslError(f"all {len(training)} training images show one class: draw more of them")
