"""The pool: which preprocessed cases there are to pretrain on, and where they lie."""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from nnssl.data.checked import check_pool_index, check_splits
from nnssl.data.store import BODY_SUFFIX, PREPROCESS_AGAIN, case_shape
from nnssl.data.thinning import KeptSlices
from nnssl.errors import MissingError, NnsslError
from nnssl.files import check_number, read_json, write_json

FORMAT = 1
RUN_ONLY = ("dataset",)
"""What a run adds to a case; not in the index."""


@dataclass(frozen=True, slots=True)
class PoolCase:
    """One case of a pool.

    Attributes:
        name: local to this machine; never leaves in an exported file.
        folder: below the dataset's preprocessed folder.
        shape: (Z, Y, X) after preprocessing.
        labelled: whether nnU-Net may train on it.
        digest: of the raw voxels; empty when nnU-Net's own command preprocessed the case.
        body: number of stored body positions; 0 = crops are placed uniformly.
        subject: shared by the scans or frames of one person; empty when nothing is known. Stays on this machine, too.
        dataset: where a pool has been joined from several; else empty.
        checksum: of its files, see nnssl.data.checksums; empty where an earlier version or nnU-Net wrote them.
    """

    name: str
    folder: str
    shape: tuple[int, ...]
    labelled: bool
    digest: str = ""
    body: int = 0
    subject: str = ""
    dataset: str = ""
    checksum: str = ""


@dataclass(frozen=True)
class Pool:
    """The cases of one configuration, of one dataset or joined from several (see nnssl.data.joining).

    Attributes:
        root: the dataset's preprocessed folder; of a joined pool the folder that holds them all.
        cases: in the order of their names; of a joined pool by dataset first.
        origin: see `origin_of`; empty when nnU-Net's own command preprocessed them.
        weights: how often each case is drawn in relation to the others, all above 0; empty = all alike. A run sets it.
        kept: the slices that 2D crops are taken from; None = all. A run sets it.
    """

    root: Path
    cases: tuple[PoolCase, ...]
    origin: str = ""
    weights: tuple[float, ...] = ()
    kept: KeptSlices | None = field(default=None, compare=False)

    def __len__(self) -> int:
        return len(self.cases)

    def image_path(self, index: int) -> Path:
        """The case's .b2nd file."""
        case = self.cases[index]
        return self.root / case.folder / f"{case.name}.b2nd"

    def body_path(self, index: int) -> Path:
        """The case's (K, 3) body positions."""
        case = self.cases[index]
        return self.root / case.folder / f"{case.name}{BODY_SUFFIX}"

    def subset(self, names: set[str]) -> Pool:
        """The cases with these names, in pool order. For one dataset's pool, before a run sets weights."""
        return Pool(self.root, tuple(c for c in self.cases if c.name in names), self.origin)

    @property
    def joined(self) -> bool:
        """Whether the pool was joined from several datasets."""
        return any(c.dataset for c in self.cases)

    @cached_property
    def signature(self) -> str:
        """Changes when the cases, their shapes, or what a run draws from them changes."""
        what: list[Any] = [(c.name, c.shape, c.digest) for c in self.cases]
        if self.joined:
            what.append([c.dataset for c in self.cases])
        if self.weights:
            what.append(self.weights)
        if self.kept is not None:
            what.append(self.kept.signature)
        return hashlib.blake2b(repr(what).encode(), digest_size=16).hexdigest()

    @property
    def digests(self) -> list[str]:
        """Voxel digests of the cases, sorted, so that nothing can be told from their order."""
        return sorted(c.digest for c in self.cases if c.digest)


def cases_by_dataset(pool: Pool) -> dict[str, int]:
    """Number of cases of each dataset in a pool, by its name; by an empty name in a pool of one dataset."""
    return dict(Counter(case.dataset for case in pool.cases))


def index_path(root: Path, data_identifier: str) -> Path:
    """Where a pool's index lies: beside the data folder, which nnU-Net wants free of other files."""
    return root / f"{data_identifier}_pool.json"


def write_pool(pool: Pool, data_identifier: str) -> None:
    """Write the index of a pool."""
    cases = [{k: v for k, v in asdict(c).items() if k not in RUN_ONLY} for c in pool.cases]
    content = {"format": FORMAT, "origin": pool.origin, "cases": cases}
    write_json(content, index_path(pool.root, data_identifier))


def case_of(entry: Mapping[str, Any]) -> PoolCase:
    """A case as an index or a record holds it; keys of later versions are passed over."""
    known = {f.name for f in fields(PoolCase)}
    return PoolCase(**{k: v for k, v in entry.items() if k in known} | {"shape": tuple(entry["shape"])})


def read_pool(root: Path, data_identifier: str) -> Pool:
    """Read a pool's index; without one, take the folder as nnU-Net's own preprocessing left it."""
    path = index_path(root, data_identifier)
    if path.is_file():
        content = read_json(path)
        check_number(content, "format", FORMAT, path)  # first, as a newer one may hold anything
        check_pool_index(content, path)
        cases = tuple(case_of(c) for c in content["cases"])
        origin = content.get("origin", "")
    else:
        cases, origin = tuple(_list_folder(root, data_identifier)), ""
    if not cases:
        raise MissingError(
            f"no preprocessed cases in {root / data_identifier}: run nnssl_plan_and_preprocess for this dataset "
            "and configuration first"
        )
    return Pool(root, cases, origin)


def origin_of(fingerprint: Mapping[str, Any], plans: Mapping[str, Any], configuration: Mapping[str, Any]) -> str:
    """Digest of what preprocessed cases are made from: the raw files, and all that the plans say of preprocessing."""
    return _digest((fingerprint["nnssl"]["source"], recipe_of(plans, configuration)))


PER_IMAGE = ("ZScoreNormalization", "NoNormalization", "RescaleTo01Normalization", "RGBTo01Normalization")
"""nnU-Net's normalisations that look at one image only; a grown pool does not change what they give."""


def recipe_of(plans: Mapping[str, Any], configuration: Mapping[str, Any]) -> str:
    """Digest of all that the plans say of preprocessing."""
    schemes = configuration["normalization_schemes"]
    pool_wide = plans["foreground_intensity_properties_per_channel"]
    return _digest(
        (
            plans["transpose_forward"],
            plans["image_reader_writer"],
            {str(c): pool_wide.get(str(c)) for c, scheme in enumerate(schemes) if scheme not in PER_IMAGE},
            {k: configuration.get(k) for k in ("spacing", "normalization_schemes", "use_mask_for_norm")},
            {k: v for k, v in sorted(configuration.items()) if k.startswith("resampling_fn_data")},
        )
    )


def _digest(content: Any) -> str:
    return hashlib.blake2b(json.dumps(content, sort_keys=True).encode(), digest_size=16).hexdigest()


def check_origin(
    pool: Pool, fingerprint: Mapping[str, Any] | None, plans: Mapping[str, Any], configuration: Mapping[str, Any]
) -> None:
    """Refuse cases that were preprocessed from other raw data or for other plans than those there are now."""
    known = fingerprint is not None and "nnssl" in fingerprint
    if pool.origin and known and pool.origin != origin_of(fingerprint, plans, configuration):  # type: ignore[arg-type]
        raise NnsslError(
            f"the preprocessed cases in {pool.root / configuration['data_identifier']} were made from other raw data or "
            "other plans than there are now: run nnssl_plan_and_preprocess for this configuration again"
        )


def _list_folder(root: Path, data_identifier: str) -> list[PoolCase]:
    folder = root / data_identifier
    if not folder.is_dir():
        return []
    files = sorted(p for p in folder.glob("*.b2nd") if not p.name.endswith("_seg.b2nd"))
    return [PoolCase(p.name.removesuffix(".b2nd"), data_identifier, case_shape(p)[1:], True) for p in files]


def split_pool(pool: Pool, fold: str | int, splits: list[dict[str, Any]] | None) -> tuple[Pool, Pool]:
    """Training and validation part of a pool.

    `all`: everything trains, and validation looks at the same cases, as in nnU-Net. A number: the validation cases of
    that fold of nnU-Net's split are kept out of pretraining, and so are all other scans of their subjects; other cases
    without labels always train. Without a split the labelled cases are split as nnU-Net will split them, and a pool
    without any labels like that by subject. A case of an unknown subject is alone.

    Args:
        pool: all cases.
        fold: `"all"` or 0, 1, ...
        splits: content of splits_final.json, if there is one.
    """
    if fold == "all":
        return pool, pool
    if splits is None:
        splits = _own_splits(pool, fold)
    if not 0 <= int(fold) < len(splits):
        raise NnsslError(f"fold {fold} does not exist: the split has folds 0 to {len(splits) - 1}, or use 'all'")
    held_out = {str(n) for n in splits[int(fold)]["val"]}
    validation = pool.subset(held_out)
    subjects = {c.subject for c in validation.cases if c.subject}
    training = pool.subset({c.name for c in pool.cases if c.name not in held_out and c.subject not in subjects})
    if not len(validation) or not len(training):
        further = len(pool) - len(validation) - len(training)
        said = f" ({further} are further scans of validation subjects: a split by subject holds out fewer)"
        raise NnsslError(
            f"fold {fold} leaves {len(training)} training and {len(validation)} validation cases"
            f"{said if further else ''}: use 'all'"
        )
    return training, validation


def _own_splits(pool: Pool, fold: str | int) -> list[dict[str, Any]]:
    """Five folds with nnU-Net's seed, for a pool without splits_final.json."""
    from nnunetv2.utilities.crossval_split import generate_crossval_split

    labelled = [c for c in pool.cases if c.labelled]
    members: dict[str, list[str]] = {}
    first: dict[str, str] = {}
    for case in sorted(labelled or pool.cases, key=lambda c: c.name):
        # labelled cases one by one, as nnU-Net will: what its fold validates on must be held out here, too
        together = case.subject if not labelled else ""
        members.setdefault(first.setdefault(together, case.name) if together else case.name, []).append(case.name)
    if len(members) < 5:
        cases = sum(len(names) for names in members.values())
        what = "cases" if cases == len(members) else "subjects"
        raise NnsslError(f"fold {fold} needs at least 5 {what} to split, there are {len(members)}: use fold 'all'")
    return [
        {part: [name for key in split[part] for name in members[str(key)]] for part in ("train", "val")}
        for split in generate_crossval_split(list(members), seed=12345, n_splits=5)
    ]


def read_splits(root: Path) -> list[dict[str, Any]] | None:
    """nnU-Net's splits_final.json of a dataset, or None."""
    path = root / "splits_final.json"
    return check_splits(read_json(path), path) if path.is_file() else None


def body_positions(pool: Pool, index: int) -> np.ndarray | None:
    """(K, 3) int32 body positions of a case, memory-mapped; None when there are none.

    Raises:
        NnsslError: their file is missing or damaged.
    """
    if not pool.cases[index].body:
        return None
    path = pool.body_path(index)
    try:
        found = np.load(path, mmap_mode="r", allow_pickle=False)
    except Exception as error:  # a damaged header leads NumPy's parser anywhere
        raise NnsslError(f"{path} cannot be read ({type(error).__name__}): {PREPROCESS_AGAIN}") from error
    if found.ndim != 2 or found.shape[1] != 3 or found.dtype != np.int32 or not len(found):
        raise NnsslError(f"{path} is damaged (shape {found.shape}, {found.dtype}): {PREPROCESS_AGAIN}")
    return found
