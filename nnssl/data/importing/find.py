"""What lies in the sources: images by kind, datasets, DICOM series, and what is none of these."""

from __future__ import annotations

import fnmatch
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from tqdm import tqdm

from nnssl.data.importing.datasets import dataset_items, find_source, is_dataset, stem_of
from nnssl.data.importing.dicom_headers import is_dicom
from nnssl.data.importing.dicom_reading import read_headers
from nnssl.data.importing.dicom_series import series_to_items
from nnssl.data.importing.items import DICOM, META, NIFTI, NRRD, Found, Item, LeftOut
from nnssl.data.subjects import NAMES
from nnssl.errors import NnsslError

KINDS = {".nii.gz": NIFTI, ".nii": NIFTI, ".nrrd": NRRD, ".nhdr": NRRD, ".mha": META, ".mhd": META}
LABEL_FOLDERS = ("labelsTr", "labelsTs", "labelsVal", "gt_segmentations")
NOT_LOOKED_INTO = ("__MACOSX",)
MANY_SERIES = 5
"""So many volumes of one patient make one wonder."""


@dataclass(frozen=True)
class Selection:
    """Which files of the sources are looked at.

    `include` and `exclude` are patterns like `*_t1.nii.gz`, compared with the file name and with the path below the
    source; `with_test` also takes imagesTs of datasets, `include_labels` also folders of labels.
    """

    include: tuple[str, ...] = ()
    exclude: tuple[str, ...] = ()
    with_test: bool = False
    include_labels: bool = False

    def takes(self, relative: str) -> bool:
        """Whether a path (with `/`) below a source is to be looked at."""
        name = relative.rpartition("/")[2]

        def matches(patterns: tuple[str, ...]) -> bool:
            return any(fnmatch.fnmatchcase(name, p) or fnmatch.fnmatchcase(relative, p) for p in patterns)

        return (not self.include or matches(self.include)) and not matches(self.exclude)


@dataclass(frozen=True)
class _Source:
    path: Path
    label: str  # how paths in it begin in the report, empty for a single source

    def name(self, path: Path) -> str:
        relative = path.relative_to(self.path).as_posix() if path != self.path else path.name
        return f"{self.label}/{relative}" if self.label else relative


def find_images(sources: Sequence[str], channel: str | None, selection: Selection, processes: int) -> Found:
    """Everything in the sources, in a fixed order: source by source, by path; a series where its first file lies.

    Args:
        sources: folders, files, or numbers and names of datasets in nnUNet_raw.
        channel: what images outside datasets show; None is an error if there are any.
        selection: which files.
        processes: workers that read DICOM headers.

    Raises:
        NnsslError: a source does not exist, or `channel` is needed.
    """
    return _Search(selection).run([find_source(text) for text in sources], channel, processes)


class _Search:
    """One look through all sources."""

    def __init__(self, selection: Selection) -> None:
        self.selection = selection
        self.found = Found()
        self.order: dict[str, int] = {}  # real path -> when it was met; nothing is taken twice
        self.placed: list[tuple[int, Item]] = []
        self.dicom: list[Path] = []
        self.dicom_names: dict[Path, str] = {}

    def run(self, paths: Sequence[Path], channel: str | None, processes: int) -> Found:
        for path in paths:
            source = _Source(path, (path.name or str(path)) if len(paths) > 1 else "")
            with tqdm(desc="files", unit="file", disable=None, leave=False) as bar:
                for entry in _walk(source, self.selection, self.found):
                    self.meet(entry, source)
                    bar.update()
        loose = next((item.shown for _, item in self.placed if not item.dataset), None)
        if channel is None and (self.dicom or loose):
            example = loose or self.dicom_names[self.dicom[0]]
            raise NnsslError(f"--channel is needed: what does {example} show? For example --channel CT or --channel MR")
        if self.dicom:
            self.series(channel or "", processes, paths[0] if paths[0].is_dir() else paths[0].parent)
        self.found.items = [item for _, item in sorted(self.placed, key=lambda pair: pair[0])]
        return self.found

    def meet(self, path: Path, source: _Source) -> None:
        real = os.path.realpath(path)
        if real in self.order:
            return
        self.order[real] = len(self.order)
        if path.is_dir():
            self.dataset(path, source)
            return
        name = source.name(path)
        if not self.selection.takes(name):
            return
        kind = next((k for ending, k in KINDS.items() if path.name.lower().endswith(ending)), "")
        if kind:
            item = Item(kind, ((str(path),),), name, name, stem_of(path), subject=_subject(path, source))
            self.placed.append((self.order[real], item))
        elif self.is_dicom(path, name):
            self.dicom.append(path)
            self.dicom_names[path] = name
        else:
            ending = path.suffix.lower() or "no ending"
            self.found.other_files[ending] = self.found.other_files.get(ending, 0) + 1

    def is_dicom(self, path: Path, name: str) -> bool:
        try:
            return is_dicom(path)
        except OSError as error:
            self.found.left_out.append(LeftOut("file", name, name, f"cannot be opened ({error.strerror})"))
            return False

    def dataset(self, folder: Path, source: _Source) -> None:
        try:
            items, names = dataset_items(folder, self.selection.with_test)
        except NnsslError as error:
            if folder == source.path:
                raise
            where = source.name(folder)  # one of many below the source must not stop the others
            self.found.left_out.append(LeftOut("dataset", where, where, str(error).replace(f"{folder}/", "")))
            return
        label, n = folder.name, 2
        while label in self.found.channel_names:
            label, n = f"{folder.name} ({n})", n + 1
        self.found.channel_names[label] = names
        chosen = [item for item in items if self.selection.takes(item.where.partition("/")[2])]
        self.placed += [(self.order[os.path.realpath(folder)], item) for item in chosen]
        if not self.selection.with_test and (folder / "imagesTs").is_dir():
            self.found.notes.append(f"{folder.name}: imagesTs is not taken (--with-test takes it)")

    def series(self, channel: str, processes: int, root: Path) -> None:
        headers, failures = read_headers(self.dicom, processes)
        items, left_out = series_to_items(headers, channel, root)
        for item in items:
            first = min(self.order[os.path.realpath(file)] for frame in item.files for file in frame)
            self.placed.append((first, item))
        people = {item.subject for item in items}
        if len(items) >= MANY_SERIES and len(people) == 1 and people != {""}:
            self.found.notes.append(
                f"all {len(items)} DICOM volumes have the same patient number: "
                "if an anonymiser put it there, delete subjects.csv"
            )
        self.found.left_out += left_out
        for reason, files in sorted(failures.items()):
            where = f"{len(files)} DICOM file(s)"
            shown = f"{where}, the first: {self.dicom_names[files[0]]}"
            self.found.left_out.append(LeftOut(DICOM, where, shown, reason))


def _walk(source: _Source, selection: Selection, found: Found) -> Iterator[Path]:
    """Files below a source, and folders that are datasets, sorted. Links to folders are followed, circles are not."""
    if source.path.is_file():
        yield source.path
        return
    entered: set[str] = set()

    def unreadable(error: OSError) -> None:
        where = source.name(Path(error.filename))
        found.left_out.append(LeftOut("folder", where, where, f"cannot be opened ({error.strerror})"))

    for text, folders, files in os.walk(source.path, followlinks=True, onerror=unreadable):
        folder = Path(text)
        real = os.path.realpath(folder)
        if real in entered:
            folders.clear()
            continue
        entered.add(real)
        if is_dataset(folder):
            folders.clear()
            yield folder
            continue
        hidden = [n for n in (*folders, *files) if n.startswith(".") or n in NOT_LOOKED_INTO]
        if hidden:
            found.other_files["hidden"] = found.other_files.get("hidden", 0) + len(hidden)
        if not selection.include_labels:
            for name in sorted(set(folders) & set(LABEL_FOLDERS)):
                where = source.name(folder / name)
                found.left_out.append(LeftOut("folder", where, where, "a folder of labels"))
                folders.remove(name)
        folders[:] = sorted(n for n in folders if n not in hidden)
        yield from (folder / n for n in sorted(files) if n not in hidden and (folder / n).is_file())
        for name in files:
            if name not in hidden and not (folder / name).exists():
                where = source.name(folder / name)
                found.left_out.append(LeftOut("file", where, where, "a dangling link"))


def _subject(path: Path, source: _Source) -> str:
    """Key of the subject from names that follow BIDS, in the file or a folder above it, or ACDC; empty if they do not."""
    for pattern in NAMES:
        if match := pattern.match(stem_of(path)):
            return f"{source.path}|{match.group(1)}"
    folder = next((part for part in reversed(path.parent.parts) if part.startswith("sub-")), "")
    return f"{source.path}|{folder}" if folder else ""
