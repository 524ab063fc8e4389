"""Every format of weights into every kind of target: loaded, fine-tuned by nnUNetv2_train, predicted by nnUNetv2_predict.

    python documentation/results/transfer/matrix.py DATA WORK

DATA holds Dataset004_Hippocampus, Dataset027_ACDC and Dataset050_SarcomaCT as nnU-Net's raw folder does. WORK gets all
else. Finished cells are skipped, so the script goes on after an interruption. To be started in the repository's root.
"""

from __future__ import annotations

import argparse
import csv
import json
import multiprocessing
import os
import shutil
import sys
import traceback
from dataclasses import replace
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
FIELDS = ("source", "target", "outcome", "covered", "how", "encoder", "detail")
LIKE = "planned with --like FILE"


def prepare(data: Path, work: Path) -> tuple[Path, Path, Path]:
    """nnU-Net's folders in WORK; set before nnU-Net is imported."""
    folders = [work / n for n in ("raw", "preprocessed", "results")]
    for name, folder in zip(("nnUNet_raw", "nnUNet_preprocessed", "nnUNet_results"), folders):
        folder.mkdir(parents=True, exist_ok=True)
        os.environ[name] = str(folder)
    os.environ |= {
        "HF_HUB_CACHE": str(work / "hub"),
        "HF_HUB_OFFLINE": "1",
        "nnUNet_n_proc_DA": "1",
        "nnUNet_compile": "f",
    }
    from nnssl.nnunet_plugin import __file__ as plugin

    os.environ["nnUNet_extTrainer"] = str(Path(plugin).parent)
    sys.path.insert(0, str(HERE.parents[2]))
    return folders[0], folders[1], folders[2]


def call(module: str, *arguments: str, function: str = "main") -> None:
    """A command's entry point in this process."""
    import importlib

    sys.argv = [module.rsplit(".", 1)[-1], *arguments]
    try:
        getattr(importlib.import_module(module), function)()
    except SystemExit as leaving:
        if leaving.code:
            raise RuntimeError(f"{' '.join(sys.argv[:1])} left with {leaving.code}") from leaving


def cell(source: tuple[str, str], target: Any, like: bool) -> dict[str, str]:
    """One cell: what happened. Runs in a process of its own."""
    from nnssl.trainers.finetune_plan import finetune_plans
    from targets import STEPS, shrink

    from nnssl.data.folders import resolve_dataset
    from nnssl.errors import NnsslError

    row = dict.fromkeys(FIELDS, "") | {"source": source[0], "target": LIKE if like else target.name}
    dataset = resolve_dataset(target.dataset, "nnUNet_preprocessed")
    folder = Path(os.environ["nnUNet_preprocessed"]) / dataset
    plans = target.plans
    try:
        if like:
            from nnssl.cli.plan_and_preprocess import build_parser, main_with

            plans = "likePlans"
            main_with(
                build_parser().parse_args(["-d", str(target.dataset), "--like", source[1], "-p", plans, "-np", "1"])
            )
            planned = json.loads((folder / f"{plans}.json").read_text())["configurations"]
            if target.configuration not in planned:  # a 2D file plans a 2D target
                target = replace(target, configuration="2d", patch=(64, 64))
            shrink(folder / f"{plans}.json", target.configuration, target.patch)
        report = finetune_plans(dataset, plans, "matrixPlans", {"init": source[1], **STEPS}, target.configuration, True)
    except NnsslError as error:
        return row | {"outcome": "refused", "detail": " ".join(str(error).split())[:300]}
    assert report is not None
    row |= {
        "covered": f"{report.encoder_coverage:.3f}",
        "how": "; ".join(sorted({h for s in report.how.values() for h in s})),
    }
    row["encoder"] = same_function(source[1], folder / "matrixPlans.json", target.configuration, bool(report.adapted))
    where = ("-p", "matrixPlans", "-tr", "nnUNetTrainer_SSLWarmup", "-device", "cpu")
    call(
        "nnunetv2.run.run_training",
        str(target.dataset),
        target.configuration,
        "0",
        *where,
        function="run_training_entry",
    )
    return row | {"outcome": "adapted" if report.adapted else "loaded", "detail": predicted(dataset, target, where)}


def predicted(dataset: str, target: Any, where: tuple[str, ...]) -> str:
    """Stock prediction of one image with the model; what is wrong with it, or nothing."""
    raw, work = Path(os.environ["nnUNet_raw"]) / dataset, Path(os.environ["nnUNet_results"]) / "prediction"
    shutil.rmtree(work, ignore_errors=True)
    (work / "in").mkdir(parents=True)
    case = sorted((raw / "labelsTr").glob("*.nii.gz"))[0].name.removesuffix(".nii.gz")
    for image in (raw / "imagesTr").glob(f"{case}_*.nii.gz"):
        shutil.copyfile(image, work / "in" / image.name)
    files = ("-i", str(work / "in"), "-o", str(work / "out"), "-npp", "1", "-nps", "1", "--disable_tta")
    about = ("-d", str(target.dataset), "-c", target.configuration, "-f", "0")
    module = "nnunetv2.inference.predict_from_raw_data"
    call(module, *files, *about, *where, function="predict_entry_point")
    if not (work / "out" / f"{case}.nii.gz").is_file():
        raise RuntimeError("nnUNetv2_predict wrote no segmentation")
    return ""


def same_function(source: str, plans: Path, configuration: str, adapted: bool) -> str:
    """Whether the target's encoder computes what the file's network does, bit for bit; only where nothing was adapted."""
    import torch
    from nnssl.trainers.finetune_init import adapted as fitted
    from nnssl.trainers.finetune_settings import settings_from_plans
    from nnunetv2.utilities.plans_handling.plans_handler import PlansManager

    from nnssl.data.folders import read_dataset_json
    from nnssl.networks import build_unet, total_stride
    from nnssl.transfer import target_of
    from nnssl.transfer.reading import read_weights

    weights = read_weights(source)
    if adapted:
        return "not compared: adapted"
    if weights.architecture is None or not weights.architecture["arch_kwargs"]:
        return "not compared: the file does not describe its network"
    content = PlansManager(str(plans))
    target = target_of(content.plans, content.get_configuration(configuration).configuration,
                       read_dataset_json(plans.parent / "dataset.json"), None)  # fmt: skip
    state, _, _ = fitted(settings_from_plans(content.plans), target)
    ours, theirs = (build_unet(a, target.channels, 2).eval() for a in (target.architecture, weights.architecture))
    ours.load_state_dict(state, strict=False)
    theirs.load_state_dict(dict(weights.tensors), strict=False)
    stride = [max(a, b) for a, b in zip(total_stride(ours.encoder), total_stride(theirs.encoder))]
    x = torch.randn(1, target.channels, *(2 * s for s in stride), generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        pairs = list(zip(ours.encoder(x), theirs.encoder(x)))
    if not all(torch.equal(a, b) for a, b in pairs):
        differ = weights.architecture["arch_kwargs"].get("strides") != target.architecture["arch_kwargs"].get("strides")
        return "differs: strides" if differ else "differs"
    return f"equal, {len(pairs)} stages"


def _child(connection: Any, *arguments: Any) -> None:
    try:
        connection.send(cell(*arguments))
    except Exception as error:  # a cell that breaks is a row of the table
        traceback.print_exc()
        connection.send({"outcome": "FAILED", "detail": f"{type(error).__name__}: {str(error)[:200]}"})


def run_cell(source: tuple[str, str], target: Any, like: bool, timeout: float) -> dict[str, str]:
    """A cell in a copy of this process, which has imported everything."""
    ours, theirs = multiprocessing.Pipe()
    process = multiprocessing.get_context("fork").Process(target=_child, args=(theirs, source, target, like))
    process.start()
    row: dict[str, str] = {"outcome": "FAILED", "detail": f"no answer within {timeout:g} s"}
    if ours.poll(timeout):
        row = ours.recv()
        process.join()
    process.kill()
    base = dict.fromkeys(FIELDS, "") | {"source": source[0], "target": LIKE if like else target.name}
    return base | row


def main() -> None:
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("data", type=Path)
    p.add_argument("work", type=Path)
    p.add_argument("--table", type=Path, default=HERE / "matrix.csv")
    p.add_argument("--only", help="rows whose name holds this")
    p.add_argument("--timeout", type=float, default=600)
    a = p.parse_args()
    raw, preprocessed, results = prepare(a.data.resolve(), a.work.resolve())
    import torch
    from sources import make_sources
    from targets import TARGETS, make_raw, plan

    torch.set_num_threads(1)
    make_raw(a.data, raw)
    for target in TARGETS:
        plan(target, preprocessed)
    sources = make_sources(a.work.resolve() / "sources", preprocessed, results)
    done = {(r["source"], r["target"]) for r in csv.DictReader(a.table.open())} if a.table.is_file() else set()
    hippocampus = next(t for t in TARGETS if t.name == "Hippocampus")
    cells = [(s, t, False) for s in sources.items() for t in TARGETS] + [
        (s, hippocampus, True) for s in sources.items()
    ]
    for source, target, like in cells:
        if (source[0], LIKE if like else target.name) in done or (a.only and a.only not in source[0]):
            continue
        row = run_cell(source, target, like, a.timeout)
        new = not a.table.is_file()
        with a.table.open("a", newline="") as file:
            writer = csv.DictWriter(file, FIELDS)
            if new:
                writer.writeheader()
            writer.writerow(row)
        print(f"### {row['source']} -> {row['target']}: {row['outcome']} {row['detail']}", flush=True)


if __name__ == "__main__":
    main()
