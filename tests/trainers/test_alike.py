from __future__ import annotations

import copy
from typing import Any

import pytest
from nnssl.trainers.alike import Planned, check_planned_alike

from nnssl.errors import NnsslError


def planned(name: str, scheme: str = "CTNormalization") -> dict[str, Any]:
    return {
        "name": name,
        "plans": {
            "transpose_forward": [0, 1, 2],
            "foreground_intensity_properties_per_channel": {
                "0": {"mean": 99.5, "std": 40.0, "percentile_00_5": -20.0, "percentile_99_5": 300.0, "max": 3000.0}
            },
        },
        "configuration": {
            "patch_size": [32, 64, 64],
            "spacing": [3.0, 0.8, 0.8],
            "normalization_schemes": [scheme],
            "use_mask_for_norm": [False],
            "resampling_fn_data": "resample",
            "resampling_fn_data_kwargs": {"order": 3},
            "batch_size": 4,
        },
        "dataset_json": {"channel_names": {"0": "CT"}},
    }


def check(ours: dict[str, Any], theirs: dict[str, Any]) -> None:
    check_planned_alike(Planned(**ours), Planned(**theirs))


@pytest.mark.parametrize(
    ("where", "value", "said"),
    [
        (
            ("configuration", "patch_size"),
            [32, 64, 48],
            "patch_size is 32x64x64 in the first and 32x64x48 in the second",
        ),
        (("configuration", "spacing"), [3.0, 0.8, 0.9], "spacing is 3x0.8x0.8 in the first and 3x0.8x0.9"),
        (("configuration", "normalization_schemes"), ["ZScoreNormalization"], "normalization_schemes"),
        (("configuration", "use_mask_for_norm"), [True], "use_mask_for_norm"),
        (("configuration", "resampling_fn_data_kwargs"), {"order": 1}, "resampling_fn_data_kwargs"),
        (("plans", "transpose_forward"), [2, 0, 1], "axis order"),
        (("plans", "foreground_intensity_properties_per_channel", "0", "mean"), 98.0, "'mean' of channel 0"),
        (("plans", "foreground_intensity_properties_per_channel", "0", "percentile_99_5"), 301.0, "'percentile_99_5'"),
        (("dataset_json", "channel_names"), {"0": "CT", "1": "PET"}, "number of channels is 1 in the first and 2"),
    ],
)
def test_the_first_difference_is_named(where: tuple[str, ...], value: Any, said: str) -> None:
    theirs = planned("Dataset502_B")
    part = theirs
    for key in where[:-1]:
        part = part[key]
    part[where[-1]] = value
    with pytest.raises(NnsslError) as caught:
        check(planned("Dataset501_A"), theirs)
    assert said in str(caught.value)
    assert "--like Dataset501_A" in str(caught.value)


def test_what_does_not_reach_a_crop_may_differ() -> None:
    theirs = planned("Dataset502_B")
    theirs["configuration"] |= {"batch_size": 9, "spacing": [3.0, 0.8, 0.8 + 1e-9]}
    theirs["plans"]["foreground_intensity_properties_per_channel"]["0"]["max"] = 2000.0
    theirs["dataset_json"]["channel_names"]["0"] = "ct"
    check(planned("Dataset501_A"), theirs)


def test_statistics_do_not_matter_to_normalisations_of_one_image() -> None:
    ours, theirs = (planned(name, "ZScoreNormalization") for name in ("Dataset501_A", "Dataset502_B"))
    theirs["plans"]["foreground_intensity_properties_per_channel"]["0"]["mean"] = 5.0
    check(ours, theirs)


def test_channels_in_another_order_are_refused() -> None:
    ours = planned("Dataset501_A", "ZScoreNormalization")
    ours["configuration"] |= {"normalization_schemes": ["ZScoreNormalization"] * 2, "use_mask_for_norm": [False] * 2}
    ours["dataset_json"]["channel_names"] = {"0": "T1", "1": "T2"}
    theirs = copy.deepcopy(ours)
    theirs["dataset_json"]["channel_names"] = {"0": "T2", "1": "T1"}
    with pytest.raises(NnsslError, match="in another order"):
        check(ours, theirs)


def test_the_advice_names_the_target_that_the_first_followed() -> None:
    ours, theirs = planned("Dataset501_A"), planned("Dataset502_B")
    ours["plans"]["nnssl_like"] = {"dataset_name": "Dataset027_ACDC"}
    theirs["configuration"]["spacing"] = [1.0, 1.0, 1.0]
    with pytest.raises(NnsslError, match="-d Dataset502_B --like Dataset027_ACDC"):
        check(ours, theirs)
