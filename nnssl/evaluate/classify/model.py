"""A trained classifier: how images become its input, its network, and the file it is kept in."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from nnssl.errors import NnsslError
from nnssl.evaluate.classify import finetune, frozen
from nnssl.evaluate.classify.network import Classifier
from nnssl.evaluate.classify.recipe import Recipe
from nnssl.evaluate.classify.settings import TrainingSettings
from nnssl.evaluate.labels import Kind
from nnssl.files import check_number
from nnssl.networks import build_unet
from nnssl.transfer import torch_files
from nnssl.transfer.architecture import check_names

FORMAT = 1
KEY = "nnssl_classifier"
BATCH = 16


@dataclass(frozen=True)
class Model:
    """A trained classifier.

    Attributes:
        recipe: how a case becomes its input.
        settings: how it was trained.
        kind: of the target.
        target: name of the target.
        known: classes in the order of the answers; of a quantity mean and standard deviation in training.
        network: encoder, and the head of a fine-tuned one.
        arrays: the model on frozen features; None where the network was fine-tuned.
        origin: where the encoder came from, and what it was trained on.
    """

    recipe: Recipe
    settings: TrainingSettings
    kind: Kind
    target: str
    known: np.ndarray
    network: Classifier
    arrays: frozen.Arrays | None
    origin: dict[str, Any]

    def answers(self, images: torch.Tensor, device: torch.device) -> np.ndarray:
        """Answers to images (N, S, C, *spatial): (N, classes) probabilities in the order of `known`, or (N,) quantities."""
        network = self.network.to(device)
        if self.arrays is None:
            return finetune.answers(finetune.outputs(network, images, device, BATCH), self.kind, self.known)
        return frozen.answers(self.arrays, features(network, images, device))


@torch.no_grad()
def features(network: Classifier, images: torch.Tensor, device: torch.device) -> np.ndarray:
    """(N, features) of the encoder in evaluation mode."""
    network.eval()
    return torch.cat([network.features(x.to(device)).float().cpu() for x in images.split(BATCH)]).numpy()


def write_model(model: Model, path: Path) -> None:
    """Write a classifier: tensors and plain values only, no names of cases or files."""
    settings = {k: v for k, v in model.settings.model_dump().items() if k != "init"}
    state = {k: v.detach().cpu().clone() for k, v in model.network.state_dict().items()}
    content = {
        KEY: FORMAT,
        "recipe": model.recipe.as_dict(),
        "settings": {k: v for k, v in settings.items() if k in TrainingSettings.model_fields},
        "kind": model.kind,
        "target": model.target,
        "known": [v.item() for v in model.known],
        "levels": list(model.network.levels),
        "network": state if model.arrays is None else {k: v for k, v in state.items() if k.startswith("encoder.")},
        "arrays": None if model.arrays is None else {k: _to_file(v) for k, v in model.arrays.items()},
        "origin": model.origin,
    }
    torch_files.save(content, path)


def read_model(path: Path) -> Model:
    """Read a classifier.

    Raises:
        NnsslError: missing, damaged, no classifier, or of a newer format.
    """
    content = torch_files.load(path)
    if KEY not in content:
        raise NnsslError(f"{path} is no classifier: give the model.pth that nnssl_classify wrote")
    check_number(content, KEY, FORMAT, path)
    try:
        return _model_of(content, str(path))
    except (LookupError, ArithmeticError, TypeError, ValueError, AttributeError, RuntimeError) as error:
        # what a foreign or edited file lacks shows only where it is used
        raise NnsslError(f"{path} is a damaged classifier: {' '.join(str(error).split())[:200]}") from error


def _model_of(content: Mapping[str, Any], where: str) -> Model:
    recipe = Recipe.from_dict(content["recipe"])
    architecture = recipe.settings["architecture"]
    check_names(architecture, where)
    known = np.array(content["known"])
    settings = TrainingSettings(**content["settings"])
    encoder = build_unet(architecture, len(recipe.dataset_json["channel_names"]), 1).encoder
    outputs = len(known) if content["kind"] == "classes" else 1
    network = Classifier(encoder, content["levels"], settings.pooling, outputs)  # type: ignore[arg-type]
    head = {} if content["arrays"] is None else {k: v for k, v in network.state_dict().items() if "encoder." not in k}
    network.load_state_dict({**head, **content["network"]})
    network.eval().requires_grad_(False)
    arrays = None if content["arrays"] is None else {k: _from_file(v) for k, v in content["arrays"].items()}
    origin = dict(content["origin"])
    return Model(recipe, settings, content["kind"], content["target"], known, network, arrays, origin)


def _to_file(value: Any) -> Any:
    if isinstance(value, np.ndarray):
        return torch.from_numpy(np.ascontiguousarray(value))
    if isinstance(value, list):
        return [_to_file(v) for v in value]
    return value.item() if isinstance(value, np.generic) else value


def _from_file(value: Any) -> Any:
    if isinstance(value, torch.Tensor):
        return value.numpy()
    return [_from_file(v) for v in value] if isinstance(value, list) else value
