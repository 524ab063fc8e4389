"""The optional `"nnssl"` block of a plans file: what `nnUNetv2_train` has no flag for."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from nnssl.errors import NnsslError, did_you_mean


class FinetuneSettings(BaseModel):
    """Settings of the fine-tuning trainers; None = the trainer's documented default."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    num_epochs: int | None = Field(None, ge=1)
    num_iterations_per_epoch: int | None = Field(None, ge=1)
    num_val_iterations_per_epoch: int | None = Field(None, ge=1)
    initial_lr: float | None = Field(None, gt=0)
    optimizer: Literal["sgd", "adamw"] | None = None
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
