"""What a study compares: a YAML file of initialisations, label counts and seeds on one target."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator

from nnssl.errors import MissingError, NnsslError
from nnssl.evaluate import LARGEST_SEED
from nnssl.evaluate.classify.settings import TrainingSettings
from nnssl.files import atomic_path, check_number, read_json, read_yaml

FORMAT = 1
"""Of study.json."""
Unit = Literal["case", "patient", "slice"]
Schedule = Literal["warmup", "sawtooth", "frozen", "scratch", "nnunet"]
NAME = r"^[A-Za-z0-9][A-Za-z0-9_.+-]{0,60}$"


SEED = "{seed}"
OF_SCRATCH = ("lr", "optimizer", "warmup", "decay_power", "average", "head")
"""Settings that a training from scratch has too."""


class Initialisation(BaseModel):
    """One row of the comparison: where the weights come from and how they are trained further.

    `None` is the trainer's documented default.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    schedule: Schedule = Field("warmup", description="the trainer; nnunet is the stock nnUNetTrainer as it is")
    init: str | None = Field(
        None,
        description="pretrained weights: any file that nnssl reads, {seed} in it stands for the seed; none = from scratch",
    )
    decoder: Literal["pretrained", "fresh"] | None = Field(None, description="default: pretrained if the file has one")
    key_prefix: str | None = None
    channel_map: str | None = None
    min_coverage: float | None = Field(None, ge=0, le=1)
    lr: float | None = Field(None, gt=0, description="peak learning rate")
    optimizer: Literal["sgd", "adamw"] | None = None
    warmup: float | None = Field(None, ge=0, lt=1, description="ramp, as a share of all steps")
    decay_power: float | None = Field(None, gt=0, description="exponent of the decay after the ramp; nnU-Net's is 0.9")
    average: float | None = Field(None, ge=0, description="power of the weights' average; 0 = off")
    layer_decay: float | None = Field(None, gt=0, le=1)
    new_layers_lr: float | None = Field(None, gt=0, description="factor on the rate of what is not pretrained")
    rescale: bool | None = Field(None, description="bring pretrained kernels to the size of fresh ones")
    head: Literal["fitted", "random"] | None = Field(None, description="segmentation layers at the start")
    freeze_stages: int | None = Field(None, ge=0)

    @model_validator(mode="after")
    def _consistent(self) -> Initialisation:
        if self.schedule in ("scratch", "nnunet"):
            taken = {"schedule", *(OF_SCRATCH if self.schedule == "scratch" else ())}
            given = [k for k in self.model_dump(exclude_none=True) if k not in taken]
            if given:
                raise ValueError(f"schedule {self.schedule} takes no {given[0]}")
        elif self.init is None:
            raise ValueError(f"schedule {self.schedule} needs init: a file of weights")
        return self

    def weights_of(self, seed: int) -> str | None:
        """The file of a seed: `{seed}` in `init` gives every draw a pretraining of its own."""
        return None if self.init is None else self.init.replace(SEED, str(seed))

    def sources(self, seeds: Sequence[int]) -> dict[str, str]:
        """Seed -> file; one entry, named `all`, if every draw starts from the same weights; empty from scratch."""
        if self.init is None:
            return {}
        if SEED not in self.init:
            return {"all": self.init}
        return {str(seed): self.init.replace(SEED, str(seed)) for seed in seeds}


class Classification(TrainingSettings):
    """What is classified, or which quantity is predicted, and how: `classify` of a study file.

    Attributes:
        labels: CSV file, see `nnssl_classify --labels`.
        target: column with the class or quantity.
        group: column with the patient; None = what the dataset knows of its subjects.
        npz: MedMNIST-style file instead of a table.
        select: weights after the last step; with `best` the labels of the validation images help every count alike.
    """

    labels: str | None = None
    target: str | None = None
    group: str | None = None
    npz: str | None = None
    select: Literal["best", "last"] = "last"

    @model_validator(mode="after")
    def _one_source(self) -> Classification:
        if (self.labels is None) == (self.npz is None):
            raise ValueError("classify needs labels (a CSV file, with target) or npz, one of the two")
        if (self.labels is None) != (self.target is None):
            raise ValueError("classify: labels and target (a column) belong together")
        return self


class StudyConfig(BaseModel):
    """A study, complete: what `nnssl_study run` executes."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    name: str = Field(pattern=NAME, description="for titles and folders")
    task: Literal["segmentation", "classification"] = "segmentation"
    classify: Classification | None = Field(None, description="for task classification")
    dataset: str = Field(description="the labelled target, planned and preprocessed")
    plans: str = "nnsslPlans"
    configuration: str
    control: str = Field(description="the initialisation that the others are compared with")
    inits: dict[str, Initialisation] = Field(min_length=1)
    counts: list[int] = Field(min_length=1, description="labelled cases, patients or slices to train on")
    unit: Unit = "case"
    seeds: list[int] = Field(min_length=1, description="each draws other cases; the same for every initialisation")
    steps: int = Field(ge=1, description="optimiser steps of every cell, whatever the count")
    evaluate_every: int = Field(ge=1, description="steps between two points of a learning curve")
    training: list[str] = Field(min_length=1, description="cases that subsets are drawn from")
    validation: list[str] = Field(description="whole cases of the learning curves")
    test: list[str] = Field(min_length=1, description="whole cases of the final figures")
    batch_size: int | None = Field(None, ge=1, description="default: the plans'")
    tolerance_mm: float = Field(2.0, gt=0, description="of the normalised surface Dice")
    mirroring: bool = Field(False, description="test-time mirroring of the final predictions, as nnU-Net does; slow")
    keep_weights: bool = Field(False, description="keep checkpoint_final.pth of every cell")

    @field_validator("counts", "seeds")
    @classmethod
    def _distinct(cls, value: list[int]) -> list[int]:
        if len(set(value)) < len(value):
            raise ValueError("a number stands twice")
        if any(v < 0 for v in value):
            raise ValueError("numbers must not be negative")
        if any(v > LARGEST_SEED for v in value):
            raise ValueError(f"numbers must not be larger than {LARGEST_SEED}")
        return value

    @model_validator(mode="before")
    @classmethod
    def _without_steps(cls, values: Any) -> Any:
        """Models on frozen features are fitted, not trained step by step."""
        task = values.get("classify") if isinstance(values, Mapping) else None
        if isinstance(task, Mapping) and task.get("method") in ("linear", "mlp", "knn"):
            return {"validation": [], **values, "steps": 1, "evaluate_every": 1}
        return values

    @property
    def unit_name(self) -> str:
        """What is counted, in words: an image, where the images of a file are the cases."""
        return "image" if self.unit == "case" and self.classify is not None and self.classify.npz else self.unit

    @property
    def stepwise(self) -> bool:
        """Whether its trainings have steps and learning curves."""
        return self.classify is None or self.classify.method == "finetune"

    @model_validator(mode="after")
    def _task(self) -> StudyConfig:
        if (self.task == "classification") != (self.classify is not None):
            raise ValueError("task classification and a classify block belong together")
        if self.classify is None:
            if not self.validation:
                raise ValueError("validation names no case: the learning curves need at least one")
            return self
        if self.unit == "slice":
            raise ValueError("unit slice is for segmentation; a classification counts cases or patients")
        if self.batch_size is not None:
            raise ValueError("batch_size of a classification stands in its classify block")
        for name, init in self.inits.items():
            given = set(init.model_dump(exclude_none=True)) - {"schedule", "init", "lr"}
            if init.schedule not in ("scratch", "warmup") or given:
                wrong = next(iter(sorted(given)), f"schedule {init.schedule}")
                raise ValueError(f"inits.{name}: a classification takes init, lr and schedule scratch, not {wrong}")
            if init.lr is not None and not self.stepwise:
                raise ValueError(f"inits.{name}: lr is for method finetune")
        return self

    @model_validator(mode="after")
    def _consistent(self) -> StudyConfig:
        if min(self.counts) < 1:
            raise ValueError("counts begin at 1")
        if self.control not in self.inits:
            raise ValueError(f"control '{self.control}' is none of inits: {', '.join(self.inits)}")
        for name in self.inits:
            if not _is_name(name):
                raise ValueError(f"'{name}' cannot be the name of an initialisation: letters, digits and _ . + - only")
        parts = {"training": self.training, "validation": self.validation, "test": self.test}
        for first, second in (("training", "validation"), ("training", "test"), ("validation", "test")):
            both = sorted(set(parts[first]) & set(parts[second]))
            if both:
                raise ValueError(f"{both[0]} is in {first} and in {second}")
        if self.steps % self.evaluate_every:
            raise ValueError(f"steps ({self.steps}) must be a multiple of evaluate_every ({self.evaluate_every})")
        return self


def _is_name(text: str) -> bool:
    import re

    return re.match(NAME, text) is not None


def read_study(path: Path) -> StudyConfig:
    """Read and check a study file.

    Raises:
        NnsslError: missing, not YAML, or a value is wrong; one line that names it.
    """
    if not path.is_file():
        raise MissingError(f"{path} does not exist: `nnssl_study init ... -o {path.name}` writes one")
    return parse_study(_with_places(read_yaml(path, str(path))), str(path))


def _with_places(content: Mapping[str, Any]) -> dict[str, Any]:
    """Environment variables put into the sources of weights: `$nnUNet_results/...` is right on every machine."""
    inits = content.get("inits")
    if not isinstance(inits, Mapping):
        return dict(content)
    rows = {
        name: {**row, "init": os.path.expandvars(row["init"])}
        if isinstance(row, Mapping) and isinstance(row.get("init"), str)
        else row
        for name, row in inits.items()
    }
    return {**content, "inits": rows}


def parse_study(content: Mapping[str, Any], where: str) -> StudyConfig:
    """A study from its settings; errors are one line."""
    if not isinstance(content, Mapping) or not all(isinstance(key, str) for key in content):
        raise NnsslError(f"{where} is damaged: a study is 'key: value' lines")
    try:
        return StudyConfig(**content)
    except ValidationError as error:
        first = error.errors()[0]
        key = ".".join(str(p) for p in first["loc"])
        message = first["msg"].removeprefix("Value error, ")
        raise NnsslError(f"{where}: {key + ': ' if key else ''}{message}") from None


def recorded_study(path: Path) -> StudyConfig:
    """The study that a folder's study.json holds.

    Raises:
        NnsslError: damaged, or of a newer format.
    """
    content = read_json(path)
    check_number(content, "format", FORMAT, path)
    if not isinstance(content, Mapping) or "study" not in content:
        raise NnsslError(f"{path} is damaged: it holds no study. Begin again with another -o, or bring the file back")
    return parse_study(content["study"], str(path))


def write_study(study: StudyConfig, path: Path) -> None:
    """Write a study with every default, as YAML."""
    text = yaml.safe_dump(study.model_dump(exclude_none=True), sort_keys=False, width=120, allow_unicode=True)
    with atomic_path(path) as temporary:
        temporary.write_text(text, encoding="utf-8")
