"""An import from sources to a raw dataset: all of it, or nothing."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

from nnssl.data.folders import nnunet_folder
from nnssl.data.importing.channels import decide_channels
from nnssl.data.importing.convert import CANNOT_WRITE, ENDING, Wish, convert
from nnssl.data.importing.find import Selection, find_images
from nnssl.data.importing.items import Converted, Item
from nnssl.data.importing.naming import CaseNames, SubjectNames, frame_name
from nnssl.data.importing.orientation import KEEP
from nnssl.data.importing.pool_folder import Pool, new_pool, open_pool
from nnssl.data.importing.report import Report, read_mapping
from nnssl.data.parallel import run_cases
from nnssl.errors import NnsslError


@dataclass(frozen=True)
class ImportOptions:
    """What an import is asked to do; see `nnssl_import -h`."""

    sources: tuple[str, ...]
    dataset_id: int
    name: str | None
    channels: tuple[str, ...] | None
    selection: Selection = field(default_factory=Selection)
    frames: int | None = None
    link: bool = False
    orientation: str = KEEP
    keep_names: bool = False
    add: bool = False
    mapping: Path | None = None
    processes: int = 1


def run_import(options: ImportOptions) -> tuple[Path, Report]:
    """Import the sources into a new raw dataset, or add them to one.

    Returns:
        The dataset's folder, and what was done.

    Raises:
        NnsslError: a source is missing, the dataset exists, or nothing was usable. Nothing has been written then.
    """
    raw = nnunet_folder("nnUNet_raw", create=True)
    pool = open_pool(raw, options.dataset_id, options.name) if options.add else None
    pool = pool or new_pool(raw, options.dataset_id, options.name)
    if options.mapping:
        _check_mapping(options.mapping, raw)
    named = ",".join(options.channels) if options.channels else None
    found = find_images(options.sources, named, options.selection, options.processes)
    report = Report(found, pool.before)
    channels = decide_channels(options.channels, found, pool.channels, report.notes)
    if not found.items:
        raise NnsslError(report.nothing("no image was found"))
    with _temporary_folder(pool.folder) as text:
        fresh, staging = Path(text) / "new", Path(text) / "dataset"
        fresh.mkdir()
        (staging / "imagesTr").mkdir(parents=True)
        labels = options.selection.include_labels
        wish = Wish(str(fresh), channels, options.orientation, options.frames, options.link, labels)
        work = partial(convert, wish=wish)
        results, failures = run_cases(work, list(enumerate(found.items)), options.processes, "import")
        full = next((reason for reason in failures.values() if reason.startswith(CANNOT_WRITE)), None)
        if full:
            raise NnsslError(
                f"{raw}: {full}; is the disk full? Nothing is left behind, repeat the import with more room"
            )
        _name_cases(found.items, results, failures, pool, options, report, staging / "imagesTr")
        if not report.cases:
            raise NnsslError(report.nothing("nothing was taken"))
        pool.finish(staging, channels, report)
    if options.mapping:
        report.write_mapping(options.mapping)
    return pool.folder, report


def _temporary_folder(target: Path) -> tempfile.TemporaryDirectory[str]:
    """A hidden folder beside the target, so that putting the result in place is one rename."""
    try:
        return tempfile.TemporaryDirectory(prefix=f".{target.name}.import-", dir=target.parent)
    except OSError as error:
        raise NnsslError(f"nnUNet_raw={target.parent} cannot be written to ({error.strerror})") from error


def _check_mapping(path: Path, raw: Path) -> None:
    """Before an hour of work, not after it."""
    if raw.resolve() in path.resolve().parents:
        raise NnsslError(f"--mapping {path} lies in nnUNet_raw; it may name patients, so keep it elsewhere")
    read_mapping(path)


def _name_cases(
    items: Sequence[Item],
    results: dict[int, Converted],
    failures: dict[int, str],
    pool: Pool,
    options: ImportOptions,
    report: Report,
    images: Path,
) -> None:
    """Number what the workers wrote, in the order of the items, and drop what is there already."""
    datasets = {item.dataset for item in items if item.dataset}
    if len(datasets) == 1 and pool.before is None:
        datasets = set()  # only what is merged must be told apart
    names = CaseNames(pool.name, datasets, options.keep_names, pool.case_names())
    subjects = SubjectNames(datasets, pool.subjects.values())
    digests = dict(pool.digests)
    for i, item in enumerate(items):
        if i in failures:
            report.left_out(item, failures[i])
            continue
        fresh = [w for w in results[i].written if w.digest not in digests]
        case = names.next(item) if fresh else ""
        for w in results[i].written:
            if w.digest in digests:
                report.duplicate(item, w, digests[w.digest])
                for file in w.files:
                    Path(file).unlink()
                continue
            name = frame_name(case, w.frame, w.frames)
            digests[w.digest] = name
            for c, file in enumerate(w.files):
                Path(file).rename(images / f"{name}_{c:04d}{ENDING}")
            report.take(item, w, name, subjects.name(item, case, w.frames))
        for frame, reason in results[i].failed:
            report.left_out(item, reason, frame)
