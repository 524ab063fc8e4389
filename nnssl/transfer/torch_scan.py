"""What a torch file declares, read without running or allocating anything that it asks for.

`torch.load(weights_only=True)` runs no code, but it believes the sizes in a file. Here the pickle is walked with inert
stand-ins for every name it holds, and what it declares is compared with the bytes that are there.
"""

from __future__ import annotations

import pickle
import zipfile
from collections.abc import Callable
from dataclasses import dataclass, field
from math import prod
from pathlib import Path
from typing import Any, BinaryIO, cast

from nnssl.errors import NnsslError

LEGACY_MAGIC = 0x1950A86A20F9469CFC6C
_ITEMSIZE = {
    "Bool": 1, "Byte": 1, "Char": 1, "Untyped": 1, "Half": 2, "BFloat16": 2, "Short": 2, "Float": 4, "Int": 4,
    "Double": 8, "Long": 8, "ComplexFloat": 8, "ComplexDouble": 16,
}  # fmt: skip
_STORAGES = {
    f"{module}.{name}Storage": size
    for name, size in _ITEMSIZE.items()
    for module in ("torch", "torch.cuda", "torch.storage")
}
_REBUILD = {"torch._utils._rebuild_tensor", "torch._utils._rebuild_tensor_v2"}
_NUMPY = {f"numpy.{core}.multiarray.scalar" for core in ("core", "_core")} | {"numpy.dtype"}
_NUMPY |= {f"numpy.dtypes.{kind}DType" for kind in ("Bool", "Float16", "Float32", "Float64", "Int32", "Int64")}
_PLAIN = {
    "collections.OrderedDict", "collections.defaultdict", "collections.Counter", "torch.Size", "torch.device",
    "torch._utils._rebuild_parameter", "torch.nn.parameter.Parameter", "_codecs.encode", "builtins.set",
    "__builtin__.set", "builtins.dict", "__builtin__.dict",
}  # fmt: skip
_DTYPES = {f"torch.{name}" for name in ("float16", "bfloat16", "float32", "float64", "int8", "uint8", "int16")}
_DTYPES |= {"torch.int32", "torch.int64", "torch.bool"}
KNOWN = {*_STORAGES, *_REBUILD, *_NUMPY, *_PLAIN, *_DTYPES}
"""Names that weights and their plain companions need. Anything else in a file is a reason to refuse it."""


@dataclass(frozen=True)
class _Storage:
    """A storage that a pickle declares: its record, its number of values, and bytes of each."""

    record: str
    numel: int
    itemsize: int


@dataclass
class Scan:
    """What a file's pickle names and declares."""

    names: set[str] = field(default_factory=set)
    storages: dict[str, _Storage] = field(default_factory=dict)
    wrong: list[str] = field(default_factory=list)

    @property
    def foreign(self) -> list[str]:
        """Names of what is neither a tensor nor a plain value."""
        return sorted(self.names - KNOWN)


class _Inert:
    """Stands for an object of a file: takes everything, does nothing."""

    def __new__(cls, *args: Any, **kwargs: Any) -> _Inert:
        return object.__new__(cls)

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        pass

    def __call__(self, *args: Any, **kwargs: Any) -> _Inert:
        return _Inert()

    def __setstate__(self, state: Any) -> None:
        pass

    def __setitem__(self, key: Any, value: Any) -> None:
        pass

    def append(self, value: Any) -> None:
        pass

    def extend(self, values: Any) -> None:
        pass

    def add(self, value: Any) -> None:
        pass


class _Walker(pickle._Unpickler):
    """The interpreter's own pickle in Python, not in C: the one in C lets a file choose the size of its memo table."""

    def __init__(self, file: BinaryIO, scan: Scan) -> None:
        super().__init__(file)
        self.scan = scan

    def find_class(self, module: str, name: str) -> Any:
        full = f"{module}.{name}"
        self.scan.names.add(full)
        watch: dict[str, Callable[..., None]] = dict.fromkeys(_REBUILD, self._tensor)
        watch["numpy.dtype"] = self._dtype
        check = watch.get(full)

        class Named(_Inert):
            source = full

            def __init__(self, *args: Any, **kwargs: Any) -> None:
                if check:
                    check(*args)

        return Named

    def persistent_load(self, pid: Any) -> Any:
        kind, record, numel = getattr(pid[1], "source", "?"), str(pid[2]), int(pid[4])
        if pid[0] != "storage" or kind not in _STORAGES:
            self.scan.wrong.append(f"a storage of unknown kind {kind}")
            return _Inert()
        storage = _Storage(record, numel, _STORAGES[kind])
        self.scan.storages[record] = storage
        return storage

    def _tensor(self, storage: Any, offset: int, size: Any, *rest: Any) -> None:
        declared = prod(int(n) for n in size)
        if isinstance(storage, _Storage) and declared + int(offset) > storage.numel:
            shape = "x".join(str(n) for n in size)
            self.scan.wrong.append(f"a tensor of {shape} values in a storage of {storage.numel:,}")

    def _dtype(self, code: Any = "", *rest: Any) -> None:
        # a scalar of one of these has 16 bytes at most; a type like V1000000000 would allocate as many
        if str(code).lstrip("<>|=") not in {f"{k}{n}" for k in "fiub" for n in (1, 2, 4, 8)} | {"f16"}:
            self.scan.wrong.append(f"a NumPy value of type {str(code)[:20]}")


def scan_torch_file(path: Path) -> Scan:
    """Walk a torch file's pickle and compare what it declares with the bytes that are there.

    Raises:
        NnsslError: the file is damaged, no torch file, or declares more than it holds.
    """
    size = path.stat().st_size
    try:
        scan = _scan_zip(path, size) if zipfile.is_zipfile(path) else _scan_legacy(path, size)
    except NnsslError:
        raise
    except Exception as error:  # a foreign file leads a parser wherever its bytes point
        raise NnsslError(f"{path} is damaged or not a torch file ({' '.join(str(error).split())[:120]})") from error
    if scan.wrong and not scan.foreign:
        raise NnsslError(f"{path} declares {scan.wrong[0]}, more than it may hold: damaged or made to harm, refused")
    return scan


def _scan_zip(path: Path, size: int) -> Scan:
    with zipfile.ZipFile(path) as archive:
        entries = {e.filename: e for e in archive.infolist()}
        pickles = [name for name in entries if name.endswith("data.pkl") and name.count("/") == 1]
        if len(pickles) != 1:
            raise NnsslError(f"{path} is an archive, but not a torch file (it holds {_some(list(entries))})")
        root = pickles[0].removesuffix("data.pkl")
        if f"{root}constants.pkl" in entries:
            raise NnsslError(
                f"{path} is a TorchScript program: save its weights with torch.save(model.state_dict(), FILE)"
            )
        declared = sum(e.file_size for e in archive.infolist())
        if declared > size or any(e.compress_type != zipfile.ZIP_STORED for e in archive.infolist()):
            raise NnsslError(
                f"{path}: its entries unpack to {declared / 2**20:,.1f} MiB, the file has {size / 2**20:,.1f}; torch does "
                "not compress, so this is not a file of weights: refused"
            )
        scan = Scan()
        with archive.open(pickles[0]) as file:
            _Walker(cast(BinaryIO, file), scan).load()
        for storage in scan.storages.values():
            entry = entries.get(f"{root}data/{storage.record}")
            there = entry.file_size if entry else 0
            if storage.numel * storage.itemsize > there:
                scan.wrong.append(
                    f"{storage.numel:,} values of {storage.itemsize} bytes where there are {there:,} bytes"
                )
    return scan


def _scan_legacy(path: Path, size: int) -> Scan:
    """torch's format until 1.5: magic number, protocol, system, content and storage keys pickled one after another."""
    scan = Scan()
    with path.open("rb") as file:
        if file.read(1) != b"\x80":
            raise NnsslError(f"{path} is damaged or not a torch file")
        file.seek(0)
        first = _Walker(file, scan).load()
        if first == LEGACY_MAGIC:
            for _ in range(3):
                _Walker(file, scan).load()
        elif not scan.foreign:
            raise NnsslError(f"{path} is damaged or not a torch file (a pickle, but not of torch)")
    total = sum(s.numel * s.itemsize for s in scan.storages.values())
    if total > size:
        scan.wrong.append(f"tensors of {total:,} bytes in a file of {size:,}")
    return scan


def _some(names: list[str]) -> str:
    return ", ".join(sorted(names)[:3]) + (", ..." if len(names) > 3 else "")
