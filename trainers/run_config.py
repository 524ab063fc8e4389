"""The settings of a pretraining run: typed, with ranges, from flags, a file and `--set`, and nowhere else."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

import yaml
from nnssl.trainers.precision import MemoryFormat, Precision
from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator

from nnssl.data.weights import Balance
from nnssl.errors import MissingError, NnsslError, did_you_mean
from nnssl.files import parse_yaml, read_yaml
from nnssl.methods import Method, get_method
from nnssl.methods.base import OptimizerName

CONFIG_FORMAT = 1
"""Of config.json."""
LONGEST = 200
"""Letters of a value or a parser's words in a message."""


class RunConfig(BaseModel):
    """Everything about a run but the data and the plans. What is None is filled in by `resolved`."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    method: str = Field(description="method name")
    options: dict[str, Any] = Field(default_factory=dict, description="the method's own hyper-parameters")
    epochs: int = Field(1000, ge=1, description="epochs")
    iterations: int = Field(250, ge=1, description="optimiser steps per epoch")
    val_iterations: int = Field(10, ge=1, description="validation batches per epoch, always the same crops and masks")
    batch_size: int | None = Field(None, ge=1, description="crops per step over all GPUs; default: the plans'")
    lr: float | None = Field(None, gt=0, description="peak learning rate; default: the method's")
    optimizer: OptimizerName | None = Field(None, description="default: the method's")
    momentum: float | None = Field(None, ge=0, lt=1, description="of sgd and lars; default: the method's")
    weight_decay: float | None = Field(None, ge=0, description="default: the method's")
    schedule: Literal["poly", "cosine"] | None = Field(None, description="default: the method's")
    warmup: float | None = Field(None, ge=0, lt=1, description="share of all steps; default: the method's")
    clip: float | None = Field(None, gt=0, description="largest gradient norm; default: the method's")
    seed: int = Field(0, ge=0, description="of initialisation, crops, views and masks")
    body_share: float = Field(0.5, ge=0, le=1, description="share of crops centred on the body")
    with_datasets: list[str] = Field(default_factory=list, description="further datasets whose cases are in the pool")
    dataset_weights: list[float] | None = Field(
        None, description="one per dataset, the run's own first; default: all 1"
    )
    case_weights: str | None = Field(None, description="CSV file with the columns case and weight; default: all 1")
    balance: Balance = Field("case", description="what is drawn evenly before weights")
    thin_slices: int | None = Field(
        None, ge=0, le=20, description="2D: leave out slices that differ from a kept one in at most so many of 63 bits"
    )
    workers: int | None = Field(None, ge=0, description="reading processes per GPU; default: from the processors")
    save_every: int = Field(10, ge=1, description="epochs between checkpoints")
    executor: Literal["auto", "tiles", "dense"] = Field(
        "auto", description="how a sparse encoder is computed; auto measures which way is faster"
    )
    precision: Precision = Field("auto", description="of convolutions: bfloat16 or float16 on a GPU, float32 elsewhere")
    memory_format: MemoryFormat = Field("auto", description="order of weights in memory: channels_last on a GPU")
    freeze_biases: bool = Field(False, description="leave out the biases that a norm takes off again")
    accumulate: int = Field(1, ge=1, description="parts that a batch is worked through in, one after the other")
    checkpointing: bool = Field(False, description="compute stages again for the backward pass")
    cache: float | str = Field(
        "none", description="keep cases unpacked in memory: GiB on this machine; auto: if the pool fits; none"
    )
    readahead: int = Field(
        4, ge=0, description="batches of each reading process whose files are named to the system beforehand"
    )
    init: str | None = Field(None, description="encoder.pth to start from instead of random weights")
    decoder: Literal["fresh", "pretrained"] | None = Field(
        None, description="decoder in nnunet_init.pth; default: pretrained if the method trains nnU-Net's decoder"
    )

    nonfinite_steps: int = Field(
        3,
        ge=1,
        description="steps in a row without finite numbers after which the run goes back to an earlier checkpoint",
    )
    on_collapse: Literal["warn", "stop"] = Field(
        "warn", description="what to do when the method's health has been bad for three epochs in a row"
    )
    snapshots: list[int] = Field(default_factory=list, description="steps after which the encoder is also written")

    @field_validator("snapshots", mode="before")
    @classmethod
    def _steps(cls, value: Any) -> Any:
        return [value] if isinstance(value, int) and not isinstance(value, bool) else value

    @model_validator(mode="after")
    def _within(self) -> RunConfig:
        total = self.epochs * self.iterations
        for step in self.snapshots:
            if not 0 <= step <= total:
                raise ValueError(f"snapshot at step {step}: the run has steps 0 to {total}")
        return self

    @field_validator("with_datasets", mode="before")
    @classmethod
    def _names(cls, value: Any) -> Any:
        """`--set with_datasets=501` and `=501,502` are numbers to YAML."""
        values = value if isinstance(value, list | tuple) else [value]
        return [f"{v:03d}" if isinstance(v, int) and not isinstance(v, bool) else v for v in values]

    @field_validator("cache")
    @classmethod
    def _room(cls, value: float | str) -> float | str:
        if value not in ("auto", "none") and not (isinstance(value, float) and 0 < value < math.inf):
            raise ValueError("give auto, none, or the GiB of memory that may be used")
        return value

    @field_validator("dataset_weights", mode="before")
    @classmethod
    def _list(cls, value: Any) -> Any:
        return [value] if isinstance(value, int | float) else value

    @field_validator("dataset_weights")
    @classmethod
    def _positive(cls, value: list[float] | None) -> list[float] | None:
        if value is not None and not all(math.isfinite(v) and v > 0 for v in value):
            raise ValueError("every dataset's weight must be above 0; leave a dataset out of --with instead")
        return value

    def resolved(self, plans_batch_size: int, width: int | None = None) -> RunConfig:
        """The same run with every default written out.

        Args:
            plans_batch_size: for runs that name none.
            width: features of the network's first stage, which some default rates depend on; None = as the rate was found.
        """
        method = get_method(self.method)
        advice = method.optimisation
        if advice.width is not None and width is not None:
            advice = replace(advice, lr=advice.lr * min(1.0, advice.width / width))
        return self.model_copy(
            update={
                "batch_size": self.batch_size or plans_batch_size,
                "options": method_config(method, self.options).model_dump(),
                **{
                    key: getattr(advice, key) if getattr(self, key) is None else getattr(self, key)
                    for key in ("lr", "optimizer", "momentum", "weight_decay", "schedule", "warmup", "clip")
                },
            }
        )


def _put(values: dict[str, Any], key: str, value: Any) -> None:
    """`spark.mask_ratio` is an option of one part of a composite.

    Raises:
        NnsslError: the key is no text, as YAML allows.
    """
    if not isinstance(key, str):
        raise NnsslError(f"{_shown(key)} is no name of a setting: names are words")
    part, dot, rest = key.partition(".")
    there = values.get(part)
    there = there if isinstance(there, Mapping) else {}  # a single value is replaced by what comes later
    if dot:
        values[part] = {**there, rest: value}
    elif isinstance(value, Mapping):
        values[key] = {**there, **value}
    else:
        values[key] = value


def _shown(value: object, form: Callable[[object], str] = str) -> str:
    """For a message: one line that is no longer than a line."""
    try:
        text = " ".join(form(value).split())
    except ValueError:  # Python writes no integer of thousands of digits
        text = "a number of thousands of digits"
    return text if len(text) <= LONGEST else f"{text[:LONGEST]} ..."


def method_config(method: type[Method], options: Mapping[str, Any]) -> Any:
    """A method's own config from its options; errors are one line."""
    return _validated(method.Config, options)


def make_run_config(method: str, flags: Mapping[str, Any], file: Path | None, sets: Iterable[str]) -> RunConfig:
    """Put a run's settings together; later sources win: file, `--set`, flags.

    Args:
        method: name.
        flags: command-line values; None = not given.
        file: YAML with the same keys as `--set`, method options at the top level or under `options`.
        sets: `key=value` texts; a key is a run setting or one of the method's options.
    """
    cls = get_method(method)
    values: dict[str, Any] = {}
    for key, value in [*_from_file(file), *(_from_text(text) for text in sets)]:
        for name, setting in value.items() if key == "options" and isinstance(value, Mapping) else [(key, value)]:
            _put(values, name, setting)
    values.update({k: v for k, v in flags.items() if v is not None})
    if values.pop("method", method) != method:
        raise NnsslError(f"the settings are for another method than -m {method}; -m alone chooses the method")
    run_keys, method_keys = set(RunConfig.model_fields) - {"method", "options"}, set(cls.Config.model_fields)
    for key in values:
        if key not in run_keys | method_keys:
            known = ", ".join(sorted(method_keys)) + "; of the run: " + ", ".join(sorted(run_keys))
            raise NnsslError(
                f"unknown setting '{_shown(key)}'.{did_you_mean(key, run_keys | method_keys)} Settings of {method}: {known}"
            )
    options = {k: v for k, v in values.items() if k in method_keys}
    method_config(cls, options)
    return _validated(
        RunConfig, {"method": method, "options": options, **{k: values[k] for k in values if k in run_keys}}
    )


def restored_run_config(saved: Mapping[str, Any]) -> RunConfig:
    """A run's settings as its checkpoint or config.json holds them."""
    if not isinstance(saved, Mapping):
        raise NnsslError("the run's settings are damaged: they are no list of names and values")
    return _validated(RunConfig, saved)


def _from_file(file: Path | None) -> list[tuple[str, Any]]:
    if file is None:
        return []
    if not file.is_file():
        raise MissingError(f"--config {file} does not exist")
    return list(read_yaml(file, f"--config {file}").items())


def _from_text(text: str) -> tuple[str, Any]:
    key, equals, value = text.partition("=")
    if not equals or not key.strip():
        raise NnsslError(f"--set {_shown(text)}: write it as key=value")
    if "," in value and not value.lstrip().startswith("["):
        value = f"[{value}]"
    try:
        return key.strip(), parse_yaml(value)
    except (yaml.YAMLError, ValueError) as error:
        raise NnsslError(f"--set {_shown(text)}: the value cannot be read") from error


def _validated(cls: type[BaseModel], values: Mapping[str, Any]) -> Any:
    try:
        return cls(**values)
    except ValidationError as error:
        first = error.errors()[0]
        key = ".".join(str(p) for p in first["loc"] if isinstance(p, str))
        message = first["msg"].removeprefix("Value error, ")
        message = message[0].lower() + message[1:]
        raise NnsslError(f"{_shown(key)}={_shown(first['input'], repr)}: {message}" if key else message) from None
