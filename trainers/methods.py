"""One trainer class per method, so that `nnUNetv2_train ... -tr nnsslTrainer_SparK` reaches it. They only name the method.

The classes are made from the table of methods, those of installed packages included: a new method needs no line here.
"""

from __future__ import annotations

from nnssl.trainers.pretraining import nnsslTrainer

from nnssl.errors import NnsslError
from nnssl.methods import get_method, method_table

PREFIX = "nnsslTrainer_"


def _trainer_class(name: str, method: str, base: type[nnsslTrainer] = nnsslTrainer) -> type[nnsslTrainer]:
    return type(
        name, (base,), {"method_name": method, "__module__": __name__, "__doc__": f"Pretraining with {method}."}
    )


TRAINERS: dict[str, type[nnsslTrainer]] = {
    method: _trainer_class(PREFIX + entry.partition(":")[2], method) for method, entry in method_table().items()
}
globals().update({cls.__name__: cls for cls in TRAINERS.values()})  # where pickle and nnU-Net look for them
__all__ = ["PREFIX", "TRAINERS", "trainer_for", *(cls.__name__ for cls in TRAINERS.values())]


def trainer_for(method: str, run_name: str | None = None) -> type[nnsslTrainer]:
    """Trainer class for a method by name; for a sum `a+b`, made on the spot.

    nnU-Net names a results folder after the trainer class; a run with a name gets a class of that name.
    """
    get_method(method)  # an unknown method is an error that lists the known ones
    if method in TRAINERS:
        base = TRAINERS[method]
    else:
        table = method_table()
        base = _trainer_class(PREFIX + "Plus".join(table[m].partition(":")[2] for m in method.split("+")), method)
    if run_name is None:
        return base
    if "__" in run_name or not run_name.replace("_", "").replace("-", "").isalnum():
        raise NnsslError(f"--name {run_name}: use letters, digits, '-' and single '_'")
    return _trainer_class(f"{base.__name__}_{run_name}", method, base)
