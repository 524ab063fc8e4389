"""One trainer class per method, so that `nnUNetv2_train ... -tr nnsslTrainer_X` reaches it. They only name the method."""

from __future__ import annotations

from nnssl.trainers.pretraining import nnsslTrainer

from nnssl.errors import NnsslError
from nnssl.methods import get_method


class nnsslTrainer_MaskedRegion(nnsslTrainer):
    """Masked region prediction."""

    method_name = "masked_region"


def trainer_for(method: str, run_name: str | None = None) -> type[nnsslTrainer]:
    """Trainer class for a method by name, from this module or, for a method of another package, made on the spot.

    nnU-Net names a results folder after the trainer class; a run with a name gets a class of that name.
    """
    get_method(method)  # an unknown method is an error that lists the known ones
    class_name = "nnsslTrainer_" + "".join(word.capitalize() for word in method.replace("-", "_").split("_"))
    base = globals().get(class_name)
    if base is None:
        base = type(class_name, (nnsslTrainer,), {"method_name": method, "__module__": __name__})
    if run_name is None:
        return base
    if "__" in run_name or not run_name.replace("_", "").replace("-", "").isalnum():
        raise NnsslError(f"--name {run_name}: use letters, digits, '-' and single '_'")
    return type(f"{class_name}_{run_name}", (base,), {"__module__": __name__})
