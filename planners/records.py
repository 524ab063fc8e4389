"""Which cases of a configuration are done: a small record per case, so that work can stop, go on, and be shared out."""

from __future__ import annotations

import hashlib
from dataclasses import asdict, dataclass
from pathlib import Path

from nnssl.data.checked import check_pool_case
from nnssl.data.pool import PoolCase, case_of
from nnssl.data.store import is_complete
from nnssl.files import read_json, write_json

SUFFIX = "_records"


@dataclass(frozen=True)
class Records:
    """Records of the preprocessed cases of one configuration.

    A record counts only while its key is the case's key now (same raw files, same plans) and the case's files are there.

    Attributes:
        root: the dataset's preprocessed folder.
        identifier: the configuration's data identifier; the records lie in a folder beside its data.
    """

    root: Path
    identifier: str

    @property
    def folder(self) -> Path:
        return self.root / f"{self.identifier}{SUFFIX}"

    @property
    def claims(self) -> Path:
        """Folder of the claims on cases that are in work; apart, because a claim looks through its folder."""
        return self.folder / "claims"

    def lock(self, name: str) -> Path:
        """The claim on a case, see nnssl.data.claims."""
        return self.claims / f"{name}.lock"

    def read(self, name: str, key: str) -> PoolCase | None:
        """The case as it was stored, or None when it must be preprocessed (again)."""
        path = self.folder / f"{name}.json"
        if not path.is_file():
            return None
        try:
            content = read_json(path)
            case = case_of(check_pool_case(content["case"], path))
        except (OSError, ValueError, KeyError, TypeError, AttributeError):  # a damaged record is as good as none
            return None
        done = content.get("key") == key and is_complete(self.root / case.folder / name)
        return case if done else None

    def write(self, case: PoolCase, key: str) -> None:
        """Remember a case whose files are all written."""
        write_json({"key": key, "case": asdict(case)}, self.folder / f"{case.name}.json")

    def forget(self, name: str) -> None:
        """Before a case's files are touched: what a killed process leaves behind must not look finished."""
        (self.folder / f"{name}.json").unlink(missing_ok=True)

    def names(self) -> set[str]:
        """Cases that have a record."""
        return {p.stem for p in self.folder.glob("*.json")} if self.folder.is_dir() else set()


def case_key(recipe: str, signature: str, labelled: bool, folder: str) -> str:
    """What a stored case is made from.

    Args:
        recipe: digest of all that the plans say of preprocessing.
        signature: of the raw files.
        labelled: whether the case is stored with its label.
        folder: where it is stored.
    """
    return hashlib.blake2b(repr((recipe, signature, labelled, folder)).encode(), digest_size=16).hexdigest()
