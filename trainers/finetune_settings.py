"""The optional `"nnssl"` block of a plans file: what `nnUNetv2_train` has no flag for."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from nnssl.errors import NnsslError, did_you_mean


class FinetuneSettings(BaseModel):
    """Settings of the fine-tuning trainers; None = the trainer's documented default.

    Attributes:
        num_epochs, num_iterations_per_epoch, num_val_iterations_per_epoch, initial_lr, optimizer: as their names say.
        warmup_epochs: ramp of the whole network, in epochs.
        decay_power: exponent of the decay after the ramp, (1 - progress)^power; None = nnU-Net's 0.9.
        average: evaluate and keep the average of the weights instead of the last ones; the number is the power of
            `nnssl.trainers.averaging`, 0 = off.
        layer_decay: factor on the learning rate from each encoder stage to the one before it; 1 = none.
        new_layers_lr: factor on the learning rate of what `init` does not cover (segmentation layers, a fresh decoder).
        rescale: bring the kernels of `init` that stand before a norm to the size of fresh ones; see
            `nnssl.transfer.adapt.rescale`.
        head: `fitted` sets the segmentation layers by a linear fit on the pretrained features before the first step, see
            `nnssl.trainers.finetune_head`; `random` leaves nnU-Net's initialisation.
        freeze_stages: how many stages of the encoder, from the input, never learn; the stem goes with the first.
        init: file of pretrained weights that the trainer loads and fits by itself.
        key_prefix: `OLD[=NEW]`, for names in a plain state dict, see `nnssl.transfer.reading.read_weights`.
        decoder: take the decoder from that file too; None = if it has one.
        channel_map: for each channel of the target the file's channel (from 0), or `mean`.
        min_coverage: share of the encoder that must come from the file.
        seed: of what is initialised beside it.
        train_cases: train on these only.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    num_epochs: int | None = Field(None, ge=1)
    num_iterations_per_epoch: int | None = Field(None, ge=1)
    num_val_iterations_per_epoch: int | None = Field(None, ge=1)
    initial_lr: float | None = Field(None, gt=0)
    optimizer: Literal["sgd", "adamw"] | None = None
    warmup_epochs: float | None = Field(None, ge=0)
    decay_power: float | None = Field(None, gt=0)
    average: float | None = Field(None, ge=0)
    layer_decay: float | None = Field(None, gt=0, le=1)
    new_layers_lr: float | None = Field(None, gt=0)
    rescale: bool | None = None
    head: Literal["fitted", "random"] | None = None
    freeze_stages: int | None = Field(None, ge=0)
    init: str | None = None
    key_prefix: str | None = None
    decoder: Literal["pretrained", "fresh"] | None = None
    channel_map: str | None = None
    min_coverage: float | None = Field(None, ge=0, le=1)
    seed: int | None = Field(None, ge=0)
    train_cases: list[str] | None = Field(None, min_length=1)

    def taken(self) -> dict[str, Any]:
        """What the block sets."""
        return {k: v for k, v in self.model_dump().items() if v is not None}


def settings_from_plans(plans: Mapping[str, Any]) -> FinetuneSettings:
    """Read the block; unknown keys and bad values are one clear line."""
    block = plans.get("nnssl", {})
    if not isinstance(block, Mapping):
        raise NnsslError('the plans\' "nnssl" entry must be an object like {"num_epochs": 150}')
    known = set(FinetuneSettings.model_fields)
    for key in block:
        if key not in known:
            raise NnsslError(
                f"unknown key '{key}' in the plans' \"nnssl\" block.{did_you_mean(key, known)} "
                f"Keys: {', '.join(sorted(known))}"
            )
    try:
        return FinetuneSettings(**block)
    except ValidationError as error:
        first = error.errors()[0]
        raise NnsslError(
            f'"nnssl" block of the plans: {".".join(str(p) for p in first["loc"])}={first["input"]!r}: {first["msg"]}'
        ) from None


def check_fits(settings: FinetuneSettings, epochs: int, stages: int | None, sawtooth: bool) -> None:
    """Refuse settings that a training cannot keep to.

    Args:
        settings: of the block.
        epochs: of the training.
        stages: of the network's encoder; None = not known yet.
        sawtooth: whether the decoder learns alone first, which takes as long as the ramp.

    Raises:
        NnsslError: the ramp does not end before the training does, or more stages are to be frozen than there are.
    """
    ramp = settings.warmup_epochs or 0.0
    if ramp and (2 * ramp if sawtooth else ramp) >= epochs:
        alone = f" and {ramp:g} before it for the decoder alone" if sawtooth else ""
        raise NnsslError(
            f"warmup_epochs={ramp:g}: a ramp of {ramp:g} epochs{alone} leaves nothing of a training of {epochs}: "
            "shorten it (--warmup), or train longer (--epochs)"
        )
    if stages is not None and (settings.freeze_stages or 0) > stages:
        raise NnsslError(f"freeze_stages={settings.freeze_stages}: the encoder has {stages} stages (--freeze-stages)")
