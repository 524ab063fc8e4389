"""Walks a pickle with inert stand-ins for every name that it holds: nothing of the file is run, and no size is believed.

What torch's own `weights_only` reader lets through is much less than pickle, and still enough to fill the memory from a
kilobyte: calls whose answer is larger than what they are given, one after another or again and again. So calls are let
through only in the form in which torch and NumPy write them.
"""

from __future__ import annotations

import pickle
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from math import prod
from typing import Any, BinaryIO, ClassVar

from nnssl.nesting import DEEPEST, extent

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
_ENCODE, _DTYPE = "_codecs.encode", "numpy.dtype"
_NUMPY = {f"numpy.{core}.multiarray.scalar" for core in ("core", "_core")} | {_DTYPE}
_NUMPY |= {f"numpy.dtypes.{kind}DType" for kind in ("Bool", "Float16", "Float32", "Float64", "Int32", "Int64")}
_PLAIN = {
    "collections.OrderedDict", "collections.defaultdict", "collections.Counter", "torch.Size", "torch.device",
    "torch._utils._rebuild_parameter", "torch.nn.parameter.Parameter", _ENCODE, "builtins.set",
    "__builtin__.set", "builtins.dict", "__builtin__.dict",
}  # fmt: skip
_DTYPES = {f"torch.{name}" for name in ("float16", "bfloat16", "float32", "float64", "int8", "uint8", "int16")}
_DTYPES |= {"torch.int32", "torch.int64", "torch.bool"}
KNOWN = {*_STORAGES, *_REBUILD, *_NUMPY, *_PLAIN, *_DTYPES}
"""Names that weights and their plain companions need. Anything else in a file is a reason to refuse it."""

LARGEST = 2**62
"""No number of values is larger; torch's own sizes are 64-bit."""
SPARE = 2**20
"""What calls and references may repeat in a small file before it counts."""


@dataclass(frozen=True)
class Storage:
    """A storage that a pickle declares: its record, its number of values, and bytes of each."""

    record: str
    numel: int
    itemsize: int


@dataclass
class Scan:
    """What a file's pickle names and declares.

    Attributes:
        names: that it calls or mentions.
        storages: by record.
        wrong: what it declares and may not.
        handed: lengths of all texts, lists and dictionaries that its calls are given.
    """

    names: set[str] = field(default_factory=set)
    storages: dict[str, Storage] = field(default_factory=dict)
    wrong: list[str] = field(default_factory=list)
    handed: int = 0

    @property
    def foreign(self) -> list[str]:
        """Names of what is neither a tensor nor a plain value."""
        return sorted(self.names - KNOWN)


class _Inert:
    """Stands for an object of a file: takes everything, does nothing but remember it."""

    length = 0
    inside: list[Any]

    def __new__(cls, *args: Any, **kwargs: Any) -> _Inert:
        self = object.__new__(cls)
        self.inside = list(args)
        self.length = sum(_length(a) for a in args)
        return self

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        pass

    def __call__(self, *args: Any, **kwargs: Any) -> _Inert:
        return _Inert(*args)

    def _take(self, *values: Any) -> None:
        self.inside += values
        self.length += 1

    def __setstate__(self, state: Any) -> None:
        self.inside.append(state)
        self.length += _length(state)

    def __setitem__(self, key: Any, value: Any) -> None:
        self._take(key, value)

    def append(self, value: Any) -> None:
        self._take(value)

    def extend(self, values: Iterable[Any]) -> None:
        for value in values:
            self._take(value)

    def add(self, value: Any) -> None:
        self._take(value)


def _length(value: Any) -> int:
    if isinstance(value, _Inert):
        return value.length
    return len(value) if isinstance(value, (str, bytes, list, tuple, dict, set, frozenset)) else 0


class _Bounded:
    """A part of a file that is not asked for more bytes than there are: room for them would be made first.

    Args:
        file: to read.
        left: bytes from here to its end.
    """

    def __init__(self, file: BinaryIO, left: int) -> None:
        self.file, self.left, self.used = file, left, 0

    def read(self, size: int) -> bytes:
        if size > self.left - self.used:
            raise EOFError("it ends too early")
        found = self.file.read(size)
        self.used += len(found)
        return found

    def readline(self) -> bytes:
        found = self.file.readline(self.left - self.used)
        self.used += len(found)
        return found


class _Walker(pickle._Unpickler):
    """The interpreter's own pickle in Python, not in C: the one in C lets a file choose the size of its memo table."""

    # makes room for as many bytes as the file says; torch writes protocol 2, which has none of these
    dispatch: ClassVar[dict[int, Any]] = {
        k: v
        for k, v in pickle._Unpickler.dispatch.items()
        if k not in (pickle.BYTEARRAY8[0], pickle.NEXT_BUFFER[0], pickle.READONLY_BUFFER[0])
    }

    def __init__(self, file: _Bounded, scan: Scan) -> None:
        super().__init__(file)
        self.scan = scan

    def find_class(self, module: str, name: str) -> Any:
        full, scan = f"{module}.{name}", self.scan
        scan.names.add(full)
        watch: dict[str, Callable[..., None]] = dict.fromkeys(_REBUILD, self._tensor)
        watch |= {_DTYPE: self._dtype, _ENCODE: self._encode}
        check = watch.get(full)

        class Named(_Inert):
            source = full

            def __new__(cls, *args: Any, **kwargs: Any) -> Any:  # a pickle may leave out __init__
                if check:
                    check(*args)
                made = super().__new__(cls, *args)
                scan.handed += made.length
                return made

        return Named

    def persistent_load(self, pid: Any) -> Any:
        kind, record, numel = getattr(pid[1], "source", "?"), str(pid[2]), _count(pid[4])
        if pid[0] != "storage" or kind not in _STORAGES:
            self.scan.wrong.append(f"a storage of unknown kind {kind}")
            return _Inert()
        storage = Storage(record, numel, _STORAGES[kind])
        if self.scan.storages.setdefault(record, storage) != storage:
            self.scan.wrong.append(f"storage {record[:20]} twice, with different sizes")
        return storage

    def _tensor(self, storage: Any, offset: Any, size: Any, stride: Any = (), *rest: Any) -> None:
        sizes, strides = [_count(n) for n in size], [_count(n) for n in stride]
        declared = max(prod(sizes), sum((n - 1) * s for n, s in zip(sizes, strides)) + 1 if all(sizes) else 0)
        if isinstance(storage, Storage) and declared + _count(offset) > storage.numel:
            shape = "x".join(str(n) for n in sizes[:8])
            self.scan.wrong.append(f"a tensor of {shape} values in a storage of {storage.numel:,}")

    def _dtype(self, code: Any = "", *rest: Any) -> None:
        # a scalar of one of these has 16 bytes at most; a type like V1000000000 would allocate as many
        if str(code).lstrip("<>|=") not in {f"{k}{n}" for k in "fiub" for n in (1, 2, 4, 8)} | {"f16"}:
            self.scan.wrong.append(f"a NumPy value of type {str(code)[:20]}")

    def _encode(self, text: Any = None, coding: Any = None, *rest: Any) -> None:
        # how protocol 2 writes bytes; of another coding the answer is longer than the text, and can be coded again
        if not isinstance(text, str) or coding != "latin1" or rest:
            self.scan.wrong.append(f"bytes in the coding {str(coding)[:20]} and not as torch writes them")


def _count(value: Any) -> int:
    """A number of values."""
    if type(value) is not int or not 0 <= value < LARGEST:
        raise pickle.UnpicklingError("a size that is no number of values")
    return value


def walk(file: BinaryIO, size: int, scan: Scan, times: int = 1) -> Any:
    """Walk one pickle, or several that follow one another.

    Args:
        file: at the beginning of the first.
        size: bytes that are left of it.
        scan: takes what is found.
        times: pickles.

    Returns:
        The content of the last one: plain values, and stand-ins for the rest.

    Raises:
        Exception: of whatever kind, where it is damaged.
    """
    content = None
    for _ in range(times):
        part = _Bounded(file, size)
        content = _Walker(part, scan).load()
        size -= part.used
        limit = 4 * part.used + SPARE
        if scan.handed > limit:
            scan.wrong.append(f"calls with {scan.handed:,} values in {part.used:,} bytes")
        unfolded, depth = extent(content)
        if unfolded > limit:
            scan.wrong.append(f"lists in one another that unfold to {unfolded:,} values or more")
        if depth > DEEPEST:
            scan.wrong.append(f"lists or dictionaries more than {DEEPEST} deep")
    return content
