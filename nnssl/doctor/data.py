"""Every preprocessed file of a dataset, read and compared with its checksum."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from tqdm import tqdm

from nnssl.data.checksums import damaged_files, has_checksums
from nnssl.data.folders import nnunet_folder, resolve_dataset
from nnssl.data.pool import read_pool
from nnssl.data.store import PREPROCESS_AGAIN, CaseReader
from nnssl.doctor.findings import Finding, ok, problem, warning
from nnssl.errors import MissingError, NnsslError

ENDING = "_pool.json"
SHOWN = 20


def find(dataset: str) -> str:
    """Folder name of a dataset that has a pool's index.

    Raises:
        NnsslError: there is no such dataset, or none of it is preprocessed.
    """
    name = resolve_dataset(dataset, "nnUNet_preprocessed")
    root = nnunet_folder("nnUNet_preprocessed") / name
    if not list(root.glob(f"*{ENDING}")):
        raise MissingError(f"{root} holds no cases that nnssl preprocessed: run nnssl_plan_and_preprocess -d {name}")
    return name


def stored_cases(name: str) -> Iterator[Finding]:
    """What is found in each configuration of a dataset (its folder name) that has a pool's index."""
    root = nnunet_folder("nnUNet_preprocessed") / name
    for index in sorted(root.glob(f"*{ENDING}")):
        yield from _of_configuration(root, index.name.removesuffix(ENDING), f"data of {name}")


def _of_configuration(root: Path, identifier: str, about: str) -> Iterator[Finding]:
    try:
        pool = read_pool(root, identifier)
    except NnsslError as error:
        yield problem(f"{about}, {identifier}", str(error), "run nnssl_plan_and_preprocess for it again")
        return
    wrong: list[str] = []
    reader = CaseReader(keep_open=1)
    for i in tqdm(range(len(pool)), desc=identifier, unit="case", disable=None, leave=False):
        found = damaged_files(pool, i)
        if not found:
            try:
                reader.crop(pool.image_path(i), (0, 0, 0), pool.cases[i].shape)
            except NnsslError as error:
                found = [str(error)]
        wrong += found
    without = sum(not has_checksums(case) for case in pool.cases)
    for line in wrong[:SHOWN]:
        yield problem(f"{about}, {identifier}", line, PREPROCESS_AGAIN)
    if len(wrong) > SHOWN:
        yield problem(f"{about}, {identifier}", f"{len(wrong) - SHOWN} more files are damaged", PREPROCESS_AGAIN)
    if without:
        yield warning(
            f"{about}, {identifier}",
            f"{without} of {len(pool)} cases have no checksum (an earlier version wrote them); they can be read",
            "nnssl_plan_and_preprocess --clean makes them, if it matters",
        )
    if not wrong and not without:
        yield ok(f"{about}, {identifier}", f"{len(pool)} cases read, every file as it was written")
