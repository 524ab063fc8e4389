"""Features of many cases in one file, with names and where they come from."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from nnssl.data.npz_files import load_npz
from nnssl.errors import NnsslError
from nnssl.evaluate.features import Extractor, Per
from nnssl.files import atomic_path, check_number, parse_json

FORMAT = 1


@dataclass(frozen=True)
class Embedding:
    """Features of cases or slices.

    Attributes:
        features: (rows, features).
        cases: of each row.
        slices: of each row, -1 for whole cases.
        names: of the features.
        about: encoder, dataset, plans, levels; plain values.
    """

    features: np.ndarray
    cases: tuple[str, ...]
    slices: np.ndarray
    names: tuple[str, ...]
    about: dict[str, Any]


def embed(extractor: Extractor, cases: Sequence[str], read: Any, per: Per, about: dict[str, Any]) -> Embedding:
    """Features of cases; those of a 2D encoder are averaged over slices unless rows are slices.

    Args:
        extractor: frozen encoder.
        cases: names.
        read: name -> (C, Z, Y, X).
        per: a row per case or per slice.
        about: for the file.
    """
    if per == "slice" and not extractor.flat:
        raise NnsslError("--per slice needs a 2D configuration: a 3D encoder sees no single slices")
    rows, names, numbers = [], [], []
    for case in tqdm(cases, desc="features", unit="case", dynamic_ncols=True):
        found = extractor(read(case))
        found = found if per == "slice" else found.mean(0, keepdims=True)
        rows.append(found)
        names += [case] * len(found)
        numbers += list(range(len(found))) if per == "slice" else [-1]
    table = np.concatenate(rows).astype(np.float32)
    return Embedding(table, tuple(names), np.array(numbers), tuple(extractor.names()), {"format": FORMAT, **about})


def write_embedding(embedding: Embedding, path: Path) -> None:
    """Write an npz that needs no pickle, or a parquet table.

    Raises:
        NnsslError: another ending, or pyarrow is missing.
    """
    if path.suffix == ".npz":
        with atomic_path(path) as temporary, temporary.open("wb") as file:
            np.savez_compressed(
                file,
                features=embedding.features,
                case=np.array(embedding.cases),
                slice=embedding.slices,
                feature_names=np.array(embedding.names),
                about=np.array(json.dumps(embedding.about)),
            )
        return
    if path.suffix != ".parquet":
        raise NnsslError(f"-o {path}: the ending says the format, .npz or .parquet")
    try:
        import pyarrow
        import pyarrow.parquet
    except ImportError as error:
        raise NnsslError("parquet needs pyarrow (pip install pyarrow); .npz needs nothing") from error
    columns = {"case": list(embedding.cases), "slice": embedding.slices}
    columns |= {name: embedding.features[:, i] for i, name in enumerate(embedding.names)}
    table = pyarrow.table(columns).replace_schema_metadata({"nnssl": json.dumps(embedding.about)})
    with atomic_path(path) as temporary:
        pyarrow.parquet.write_table(table, temporary)


def read_embedding(path: Path) -> Embedding:
    """Read an npz of `write_embedding`.

    Raises:
        NnsslError: missing, no such file, or of a newer format.
    """
    arrays = load_npz(path)
    try:
        about = parse_json(str(arrays["about"]))
        check_number(about, "format", FORMAT, path)
        return Embedding(
            arrays["features"],
            tuple(str(c) for c in arrays["case"]),
            arrays["slice"],
            tuple(str(n) for n in arrays["feature_names"]),
            dict(about),
        )
    except NnsslError:
        raise
    except (ValueError, KeyError, TypeError) as error:
        raise NnsslError(f"{path} is no embedding that nnssl_embed wrote as .npz") from error
