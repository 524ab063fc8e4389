"""A classifier on new cases: images with nnU-Net's names, a dataset, or an npz file."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import numpy as np
import torch
from nnunetv2.utilities.plans_handling.plans_handler import PlansManager
from tqdm import tqdm

from nnssl.data.folders import all_raw_cases, image_files, nnunet_folder, read_dataset_json, read_plans, resolve_dataset
from nnssl.data.images import read_case
from nnssl.data.npz import as_volumes
from nnssl.data.parallel import one_line
from nnssl.data.pool import body_positions, read_pool, recipe_of
from nnssl.data.store import open_case
from nnssl.errors import MissingError, NnsslError
from nnssl.evaluate.classify.model import BATCH, Model
from nnssl.evaluate.classify.npz import check_fits, check_images, preprocessed, read_arrays, untransposed
from nnssl.evaluate.classify.recipe import Recipe

Reader = Callable[[], np.ndarray]
"""() -> (S, C, *spatial)."""


@dataclass(frozen=True)
class NewCases:
    """Cases to answer.

    Attributes:
        readers: name -> its image as the network's input; a case that cannot be used raises.
        origin: what they are, in words.
    """

    readers: dict[str, Reader]
    origin: str


def find_cases(text: str, recipe: Recipe) -> NewCases:
    """The cases that a user means.

    Args:
        text: a folder of images `CASE_0000<ending>`, an npz file, or the number or name of a dataset.
        recipe: of the classifier.

    Raises:
        NnsslError: there are none, or they are of another kind than the classifier's.
    """
    path = Path(text).expanduser()
    if path.suffix == ".npz":
        return _npz(path, recipe)
    if path.is_dir():
        ending = recipe.dataset_json["file_ending"]
        found = image_files(path, ending)
        if not found:
            raise MissingError(f"no images like CASE_0000{ending} in {path}: the classifier was trained on such files")
        return NewCases({n: partial(_raw, f, recipe) for n, f in found.items()}, f"images in {path}")
    if not text.isdecimal() and not text.startswith("Dataset"):
        raise MissingError(f"{text} is no folder, no npz file, and no number or name of a dataset")
    try:
        return _preprocessed(resolve_dataset(text, "nnUNet_preprocessed"), recipe)
    except (NnsslError, KeyError):  # not preprocessed, or otherwise: then its images, as they came
        name = resolve_dataset(text)
        folder = nnunet_folder("nnUNet_raw") / name
        cases = all_raw_cases(folder, read_dataset_json(folder / "dataset.json"))
        return NewCases({c.name: partial(_raw, c.images, recipe) for c in cases}, f"raw images of {name}")


def predict(model: Model, cases: NewCases, device: torch.device) -> tuple[list[str], np.ndarray, dict[str, str]]:
    """Answers to new cases; one that cannot be read or preprocessed does not stop the others.

    Returns:
        Names; (N, classes) probabilities or (N,) quantities; case -> reason for those without an answer.
    """
    names, answers, failed = list[str](), list[np.ndarray](), dict[str, str]()
    for part, images in _batches(cases, failed):
        names += part
        answers.append(model.answers(images, device))
    width = (0, len(model.known)) if model.kind == "classes" else (0,)
    return names, np.concatenate(answers) if answers else np.zeros(width), failed


def _batches(cases: NewCases, failed: dict[str, str]) -> Iterator[tuple[list[str], torch.Tensor]]:
    names, rows = list[str](), list[np.ndarray]()
    for name, read in tqdm(cases.readers.items(), desc="cases", disable=None, leave=False):
        try:
            image = read()
        except Exception as error:  # whatever one file is, the other cases want their answers
            failed[name] = one_line(error)
            continue
        names.append(name)
        rows.append(image)
        if len(rows) == BATCH:
            yield names, torch.from_numpy(np.stack(rows))
            names, rows = [], []
    if rows:
        yield names, torch.from_numpy(np.stack(rows))


def _raw(files: tuple[str, ...], recipe: Recipe) -> np.ndarray:
    """An image as it came, with the checks and steps of preprocessing."""
    reader = PlansManager(recipe.plans).image_reader_writer_class()
    data, properties = read_case(files, reader, len(recipe.dataset_json["channel_names"]), check_files=True)
    return recipe.network_input(*recipe.preprocess(data, properties["spacing"]))


def _preprocessed(dataset: str, recipe: Recipe) -> NewCases:
    """Cases that were preprocessed exactly as the recipe says; else an error."""
    plans = read_plans(dataset, str(recipe.plans["plans_name"]))
    manager = PlansManager(plans).get_configuration(recipe.configuration)
    if recipe_of(plans, dict(manager.configuration)) != recipe_of(recipe.plans, recipe.settings):
        raise NnsslError(f"{dataset} is preprocessed otherwise")
    pool = read_pool(nnunet_folder("nnUNet_preprocessed") / dataset, manager.data_identifier)

    def read(index: int) -> np.ndarray:
        image = np.asarray(open_case(pool.image_path(index))[:], dtype=np.float32)
        return recipe.network_input(image, body_positions(pool, index) if recipe.body else None)

    return NewCases(
        {case.name: partial(read, i) for i, case in enumerate(pool.cases)}, f"preprocessed cases of {dataset}"
    )


def _npz(path: Path, recipe: Recipe) -> NewCases:
    """Every array of images in a file; those of a split are called after it."""
    plain = replace(recipe, plans=untransposed(recipe.plans))
    found: dict[str, Reader] = {}
    arrays = read_arrays(path)
    for key, images in arrays.items():
        if not key.endswith("images"):
            continue
        check_images(path, key, images)
        volumes = as_volumes(images)
        check_fits(path, volumes, recipe.plans, recipe.configuration, len(recipe.dataset_json["channel_names"]))
        start = key.removesuffix("images").rstrip("_") or "image"
        found |= {f"{start}_{i}": partial(preprocessed, image, plain) for i, image in enumerate(volumes)}
    if not found:
        raise NnsslError(f"{path} holds no array 'images' or '..._images'")
    return NewCases(found, f"images in {path}")
