"""Headers of many DICOM files, read by workers: a file that crashes GDCM is lost alone."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

from nnssl.data.importing.dicom_headers import Header, read_header
from nnssl.data.parallel import Failure, run_cases

AT_ONCE = 200

Answer = tuple[list[Header], list[tuple[Path, str]]]


def read_piece(paths: Sequence[Path]) -> Answer:
    """Headers of some files, and those that are no images with the reason."""
    headers, failures = [], []
    for path in paths:
        try:
            headers.append(read_header(path))
        except Failure as error:
            failures.append((path, str(error)))
        except OSError as error:
            failures.append((path, f"cannot be opened ({error.strerror})"))
    return headers, failures


def read_headers(
    paths: Sequence[Path], processes: int, read: Callable[[Sequence[Path]], Answer] = read_piece
) -> tuple[list[Header], dict[str, list[Path]]]:
    """Headers of images in the order of their paths, and reason -> files that are none.

    Args:
        paths: DICOM files.
        processes: workers.
        read: what a worker does with a piece of `paths`.
    """
    pieces = [paths[i : i + AT_ONCE] for i in range(0, len(paths), AT_ONCE)]
    results, lost = run_cases(read, pieces, processes, "DICOM headers (200 files each)")
    answers = list(results.values())
    failures: dict[str, list[Path]] = {}
    single = [path for i in lost for path in pieces[i]]
    if single:
        again, crashed = run_cases(read, [[path] for path in single], processes, "DICOM headers, file by file")
        answers += again.values()
        failures = {"reading its header ends in a crash": [single[i] for i in sorted(crashed)]} if crashed else {}
    for _, bad in answers:
        for path, reason in bad:
            failures.setdefault(reason, []).append(path)
    headers = sorted((h for good, _ in answers for h in good), key=lambda h: h.path)
    return headers, {reason: sorted(files) for reason, files in failures.items()}
