"""Names that plans may have: plans lie among nnU-Net's own files and must not replace them."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from nnssl.errors import NnsslError
from nnssl.files import read_json

RESERVED = re.compile(r"dataset|splits_final|dataset_fingerprint.*|.*_(pool|report|thinning)", re.IGNORECASE)
"""Other JSON files of a preprocessed dataset."""


def check_plans_name(name: str, flag: str) -> None:
    """Whether plans may be called so.

    Args:
        name: of the plans.
        flag: of the command, for the message.

    Raises:
        NnsslError: it is no plain name, or another file's.
    """
    if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9_.+-]*", name) or "__" in name or name.endswith(".json"):
        raise NnsslError(
            f"{flag} {name}: a name of plans has letters, digits and single '_', '-', '+' or '.', and no folder or ending, "
            f"for example {flag} myPlans"
        )
    if RESERVED.fullmatch(name):
        raise NnsslError(f"{flag} {name}: {name}.json is another file of the dataset; take another name")


def check_not_nnunets(path: Path, flag: str) -> None:
    """Refuse to replace plans that nnssl has not written.

    Args:
        path: of the plans to write.
        flag: of the command, for the message.

    Raises:
        NnsslError: there are such plans.
    """
    if path.is_file() and not _ours(read_json(path)):
        raise NnsslError(
            f"{flag} {path.stem}: {path} was not written by nnssl, and models may need it; take another name"
        )


def _ours(plans: Any) -> bool:
    """Whether nnssl wrote plans: they hold an entry of ours, or their planner is none of nnU-Net's."""
    if not isinstance(plans, Mapping):
        return False
    if any(str(key).startswith("nnssl") for key in plans):
        return True
    planner = str(plans.get("experiment_planner_used") or "")
    return bool(planner) and not _is_nnunets(planner)


def _is_nnunets(planner: str) -> bool:
    import nnunetv2
    from nnunetv2.utilities.find_class_by_name import recursive_find_python_class

    where = Path(nnunetv2.__path__[0]) / "experiment_planning"
    return recursive_find_python_class(str(where), planner, "nnunetv2.experiment_planning") is not None
