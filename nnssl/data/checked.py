"""What must stand in the JSON files that are read, and of which type: a wrong value is one line, not a traceback later.

Only what nnssl uses is asked for; other keys are anybody's. Values are checked, not changed.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, TypeVar

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, TypeAdapter, ValidationError

from nnssl.errors import NnsslError
from nnssl.files import read_json

T = TypeVar("T")


def _plain_name(text: str) -> str:
    if not text or text in (".", "..") or any(c in text for c in "/\\\0\n"):
        raise ValueError("must be a plain name, without separators of folders")
    return text


def _no_word(value: Any) -> Any:
    if isinstance(value, (str, bool)):
        raise ValueError("must be a number")
    return value


def _word(value: Any) -> Any:
    if not isinstance(value, str) or not value:
        raise ValueError(f'{value!r} is no name of a channel: write it as in {{"0": "CT"}}')
    return value


def _whole(value: Any) -> Any:
    """What is checked is handed on as it was written, and 8.0 is no length of an array."""
    if type(value) is not int:
        raise ValueError("must be a whole number")
    return value


Name = Annotated[str, AfterValidator(_plain_name)]
ChannelName = Annotated[str, BeforeValidator(_word)]
Length = Annotated[float, BeforeValidator(_no_word), Field(gt=0, lt=1e6, allow_inf_nan=False)]
Whole = Annotated[int, BeforeValidator(_whole)]
Edge = Annotated[Whole, Field(ge=1, le=100_000)]
Axes = Annotated[list[Annotated[Whole, Field(ge=0, le=2)]], Field(min_length=3, max_length=3)]
Digest = Annotated[str, Field(max_length=1000)]


class _Open(BaseModel):
    """Keys that are not named here are anybody's."""

    model_config = ConfigDict(extra="allow")


class _Architecture(_Open):
    network_class_name: Annotated[str, Field(min_length=1)]
    arch_kwargs: dict[str, Any]
    requires_import: list[str] = Field(alias="_kw_requires_import")


class _Configuration(_Open):
    inherits_from: str | None = None
    data_identifier: Name | None = None
    batch_size: Annotated[Whole, Field(ge=1, le=10**6)] | None = None
    patch_size: Annotated[list[Edge], Field(min_length=2, max_length=3)] | None = None
    spacing: Annotated[list[Length], Field(min_length=2, max_length=3)] | None = None
    normalization_schemes: Annotated[list[str], Field(min_length=1)] | None = None
    use_mask_for_norm: list[bool | None] | None = None
    architecture: _Architecture | None = None


class _Intensity(_Open):
    mean: float
    std: float
    percentile_00_5: float
    percentile_99_5: float


class _Plans(_Open):
    dataset_name: Name
    plans_name: Name
    transpose_forward: Axes
    transpose_backward: Axes
    image_reader_writer: str
    configurations: Annotated[dict[str, _Configuration], Field(min_length=1)]
    foreground_intensity_properties_per_channel: dict[str, _Intensity]


class _Fold(_Open):
    train: list[str]
    val: list[str]


class _Ours(_Open):
    source: Digest | None = None
    reader: str = ""
    cases: dict[Name, Digest]
    skipped: dict[str, str] = Field(default_factory=dict)


class _Fingerprint(_Open):
    spacings: list[Annotated[list[Length], Field(min_length=3, max_length=3)]]
    shapes_after_crop: list[Annotated[list[Edge], Field(min_length=3, max_length=3)]]
    foreground_intensity_properties_per_channel: dict[str, _Intensity]
    nnssl: _Ours | None = None


class _Description(_Open):
    channel_names: Annotated[dict[str, ChannelName], Field(min_length=1)]
    labels: Annotated[dict[str, Any], Field(min_length=1)]
    file_ending: Annotated[str, AfterValidator(_plain_name)]
    dataset: dict[str, Any] | None = None


class _PoolCase(_Open):
    name: Name
    folder: Name
    shape: Annotated[list[Edge], Field(min_length=3, max_length=3)]
    labelled: bool
    digest: Digest = ""
    body: Annotated[Whole, Field(ge=0, le=10**9)] = 0
    subject: str = ""
    checksum: str = ""


class _PoolIndex(_Open):
    format: Whole
    origin: Digest = ""
    cases: list[_PoolCase]


def checked(kind: Any, content: T, where: Path | str, mend: str) -> T:
    """The content as it is, if it has a kind's form.

    Args:
        kind: a type for pydantic.
        content: of a JSON file.
        where: the file, for the message.
        mend: what to do.

    Raises:
        NnsslError: the first value that is wrong, and where.
    """
    try:
        TypeAdapter(kind).validate_python(content)
    except ValidationError as error:
        first = error.errors()[0]
        key = ".".join(str(p)[:60] for p in first["loc"][:6])
        message = first["msg"].removeprefix("Value error, ")
        raise NnsslError(f"{where} is damaged: {key + ': ' if key else ''}{message[:200]}. {mend}") from None
    except RecursionError:
        raise NnsslError(f"{where} is damaged: nested too deeply. {mend}") from None
    return content


def check_plans(content: Any, where: Path | str) -> dict[str, Any]:
    """Plans in nnU-Net's schema, of nnssl or of nnU-Net itself.

    Raises:
        NnsslError: a value that is needed is missing or wrong.
    """
    mend = "Plan the dataset again"
    plans = checked(_Plans, content, where, mend)
    for axes in (plans["transpose_forward"], plans["transpose_backward"]):
        if sorted(axes) != [0, 1, 2]:
            raise NnsslError(f"{where} is damaged: {axes} is no order of three axes. {mend}")
    configurations: Mapping[str, Any] = plans["configurations"]
    for name in configurations:
        seen, at = [name], configurations[name].get("inherits_from")
        while at is not None:
            if at not in configurations or at in seen:
                raise NnsslError(f"{where} is damaged: configuration '{name}' inherits from '{at}'. {mend}")
            seen.append(at)
            at = configurations[at].get("inherits_from")
    properties = plans["foreground_intensity_properties_per_channel"]
    if not all(math.isfinite(v) for p in properties.values() for v in p.values() if isinstance(v, (int, float))):
        raise NnsslError(f"{where} is damaged: intensity properties that are no numbers. {mend}")
    return plans


def check_configuration(configuration: Mapping[str, Any], where: str) -> None:
    """A configuration with all that it inherits: what training needs of it is there.

    Raises:
        NnsslError: the first key that is missing.
    """
    needed = ("data_identifier", "batch_size", "patch_size", "spacing", "normalization_schemes", "architecture")
    for key in needed:
        if configuration.get(key) is None:
            raise NnsslError(f"{where} is damaged: it has no '{key}'. Plan the dataset again")
    if len(configuration["spacing"]) > len(configuration["patch_size"]):
        raise NnsslError(f"{where} is damaged: more spacings than axes of the patch. Plan the dataset again")


def read_fingerprint(path: Path) -> dict[str, Any]:
    """A dataset's fingerprint, nnssl's or nnU-Net's own.

    Raises:
        NnsslError: damaged.
    """
    return checked(_Fingerprint, read_json(path), path, "Delete it and run nnssl_plan_and_preprocess again")


def check_splits(content: Any, where: Path | str) -> list[dict[str, Any]]:
    """Content of splits_final.json.

    Raises:
        NnsslError: damaged.
    """
    return checked(list[_Fold], content, where, 'It holds a list of {"train": [cases], "val": [cases]}')


def check_description(content: Any, where: Path | str) -> dict[str, Any]:
    """Content of dataset.json, with its defaults filled in.

    Raises:
        NnsslError: damaged.
    """
    checked(_Description, content, where, "See nnU-Net's dataset format")
    for name, entry in (content.get("dataset") or {}).items():
        images = entry.get("images") if isinstance(entry, dict) else None
        if not (isinstance(images, list) and images and all(isinstance(i, str) and "\0" not in i for i in images)):
            raise NnsslError(f"{where} is damaged: dataset.{name} lists no images. See nnU-Net's dataset format")
        if not isinstance(entry.get("label"), (str, type(None))):
            raise NnsslError(
                f"{where} is damaged: the label of dataset.{name} is no file. See nnU-Net's dataset format"
            )
        checked(Name, name, f"{where}, dataset", "A case's name is the name of a file")
    return content


def check_pool_index(content: Any, where: Path | str) -> dict[str, Any]:
    """Content of a pool's index.

    Raises:
        NnsslError: damaged.
    """
    return checked(_PoolIndex, content, where, "Run nnssl_plan_and_preprocess for this configuration again")


def check_pool_case(content: Any, where: Path | str) -> dict[str, Any]:
    """One case of a pool, as a record holds it.

    Raises:
        NnsslError: damaged.
    """
    return checked(_PoolCase, content, where, "Run nnssl_plan_and_preprocess again")
