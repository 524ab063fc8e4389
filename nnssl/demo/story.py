"""The demonstration's steps: make data, run the commands a user would type, hand over to the report.

Every command is a child process whose output streams through and is kept in the folder `logs`. Nothing is mocked.
"""

from __future__ import annotations

import os
import shlex
import shutil
import subprocess
import sys
import time
from dataclasses import asdict, dataclass
from pathlib import Path

from nnssl import __version__
from nnssl.demo import report, synthetic
from nnssl.errors import NnsslError
from nnssl.files import read_json, write_json

POOL, TARGET = "Dataset901_DemoPool", "Dataset902_DemoTarget"
PLANS, CONFIGURATION = "nnsslPlans", "3d_fullres"
MARKER = "nnssl_demo.json"
# All that a demo writes: --overwrite deletes these and nothing else.
FOLDERS = ("nnUNet_raw", "nnUNet_preprocessed", "nnUNet_results", "validation_images", "predictions", "logs")
FILES = (report.CURVES, report.PREDICTION, report.NUMBERS, MARKER)
TRAINERS = {"from scratch": "nnUNetTrainer_SSLScratch", "pretrained": "nnUNetTrainer_SSLWarmup"}
# nnUNetv2_train prints hundreds of these for -pretrained_weights.
TENSOR_LIST = b" shape torch.Size("


@dataclass(frozen=True)
class Scale:
    """How much of everything; `iterations` are optimiser steps per epoch."""

    pool_cases: int
    train_cases: int
    val_cases: int
    pretrain_epochs: int
    pretrain_iterations: int
    pretrain_lr: float
    finetune_epochs: int
    finetune_iterations: int
    finetune_val_iterations: int
    finetune_lr: float
    minutes: str


FULL = Scale(40, 8, 12, 12, 100, 4e-3, 12, 20, 10, 3e-3, minutes="7 to 12")
QUICK = Scale(6, 2, 2, 2, 4, 4e-3, 2, 3, 1, 3e-3, minutes="1 to 2")


class Story:
    """Runs the demonstration in one folder.

    Args:
        root: output folder, as `prepare_folder` leaves it.
        scale: `FULL` or `QUICK`.
        device: cpu, cuda or mps.
        seed: seed of the synthetic data and of the pretraining.
    """

    n_steps = 9

    def __init__(self, root: Path, scale: Scale, device: str, seed: int = 0) -> None:
        self.root = root
        self.scale = scale
        self.device = device
        self.seed = seed
        self.started = time.monotonic()
        self.step = 0
        self.raw, self.preprocessed, self.results = (root / name for name in FOLDERS[:3])
        self.environment = child_environment(root)

    def run(self) -> None:
        """The whole demonstration, in order."""
        self._introduce()
        self._make_data()
        self._plan()
        weights = self._pretrain()
        self._train("pretrained", "-pretrained_weights", str(weights))
        self._train("from scratch")
        arms = [self._predict(name) for name in TRAINERS]
        self._announce("compare the two models")
        settings = {"seed": self.seed, "device": self.device, **asdict(self.scale)}
        report.write_report(self.root, arms, self.raw / TARGET, settings)
        minutes = (time.monotonic() - self.started) / 60
        report.print_report(self.root, arms, weights, minutes, self.scale.pool_cases, self.scale.train_cases)

    # ---------------------------------------------------------------- steps

    def _introduce(self) -> None:
        print(
            f"nnssl {__version__}: demonstration in {self.root}, about {self.scale.minutes} minutes on two CPU cores."
        )
        print("Every command below is real; to type it yourself, first set what nnU-Net reads:\n")
        for name in ("nnUNet_raw", "nnUNet_preprocessed", "nnUNet_results"):
            print(f"  export {name}={shlex.quote(self.environment[name])}")
        print('  export nnUNet_extTrainer="$(nnssl_plugin_path)"', flush=True)
        path = subprocess.run([find_program("nnssl_plugin_path")], capture_output=True, text=True, check=True).stdout
        self.environment["nnUNet_extTrainer"] = path.strip()

    def _make_data(self) -> None:
        s = self.scale
        self._announce("make synthetic images: torsos with a layered gland, one or two kidneys, and their lookalikes")
        synthetic.write_dataset(self.raw / POOL, self.seed, {"pool": s.pool_cases}, labelled=False)
        roles = {"train": s.train_cases, "val": s.val_cases}
        names = synthetic.write_dataset(self.raw / TARGET, self.seed, roles, labelled=True)
        training, validation = names[: s.train_cases], names[s.train_cases :]
        write_json([{"train": training, "val": validation}], self.raw / TARGET / "splits_final.json")
        images = self.root / "validation_images"
        images.mkdir()
        for name in validation:
            file = f"{name}_0000{synthetic.FILE_ENDING}"
            shutil.copy(self.raw / TARGET / "imagesTr" / file, images / file)
        print(f"{POOL}: {s.pool_cases} images without labels")
        print(f"{TARGET}: {s.train_cases} labelled images for training, {s.val_cases} for validation (not in the pool)")

    def _plan(self) -> None:
        """Plan and preprocess the target, then the pool in the same way; shorten the target's training."""
        s, plan = self.scale, "nnssl_plan_and_preprocess"
        self._command("plan_target", plan, "-d", "902", "--size", "S", "-c", CONFIGURATION, "-np", "2")
        like = ("-d", "901", "--like", "902", "--like-plans", PLANS, "--size", "S")
        self._command("plan_pool", plan, *like, "-c", CONFIGURATION, "-np", "2")
        file = self.preprocessed / TARGET / f"{PLANS}.json"
        block = {
            "num_epochs": s.finetune_epochs,
            "num_iterations_per_epoch": s.finetune_iterations,
            "num_val_iterations_per_epoch": s.finetune_val_iterations,
            "initial_lr": s.finetune_lr,
            "optimizer": "adamw",
        }
        write_json({**read_json(file), "nnssl": block}, file)
        print(f"\nnnU-Net trains for 1000 epochs; for this demonstration {file.name} of {TARGET} now says instead:")
        print(f'  "nnssl": {block}')

    def _pretrain(self) -> Path:
        """Run the self-supervised stage; returns the weights for nnU-Net."""
        s = self.scale
        length = ("--epochs", str(s.pretrain_epochs), "--iterations", str(s.pretrain_iterations))
        rate = ("--lr", str(s.pretrain_lr), "--seed", str(self.seed))
        where = ("901", CONFIGURATION, "-m", "masked_region")
        self._command("pretrain", "nnssl_pretrain", *where, *length, *rate, "-device", self.device)
        folder = self.results / POOL / f"nnsslTrainer_MaskedRegion__{PLANS}__{CONFIGURATION}" / "fold_all"
        self._expect(folder / "encoder.pth")
        return self._expect(folder / "nnunet_init.pth")

    def _train(self, name: str, *extra: str) -> None:
        where = ("902", CONFIGURATION, "0", "-p", PLANS, "-tr", TRAINERS[name])
        self._command(f"train_{name}", "nnUNetv2_train", *where, *extra, "-device", self.device)

    def _predict(self, name: str) -> report.Arm:
        """Predict the validation images with a model; returns how it learned and how well it does."""
        output = self.root / "predictions" / name.replace(" ", "_")
        files = ("-i", str(self.root / "validation_images"), "-o", str(output))
        model = ("-d", "902", "-c", CONFIGURATION, "-f", "0", "-p", PLANS, "-tr", TRAINERS[name])
        options = ("--disable_tta", "-npp", "1", "-nps", "1", "-device", self.device)
        self._command(f"predict_{name}", "nnUNetv2_predict", *files, *model, *options)
        folder = self.results / TARGET / f"{TRAINERS[name]}__{PLANS}__{CONFIGURATION}" / "fold_0"
        checkpoint = self._expect(folder / "checkpoint_final.pth")
        return report.read_arm(name, checkpoint, output, self.raw / TARGET, self.scale.finetune_iterations)

    # ---------------------------------------------------------------- commands

    def _announce(self, what: str) -> None:
        self.step += 1
        seconds = int(time.monotonic() - self.started)
        line = f"[{self.step}/{self.n_steps}] after {seconds // 60}:{seconds % 60:02d} min"
        print(f"\n{line} {'-' * (78 - len(line))}\n{what}\n", flush=True)

    def _command(self, log_name: str, program: str, *arguments: str) -> None:
        """Run a command, let its output through and keep it; stop the demonstration if the command fails."""
        typed = shlex.join([program, *arguments])
        self._announce(f"$ {typed}")
        log = self.root / "logs" / f"{self.step:02d}_{log_name.replace(' ', '_')}.log"
        log.parent.mkdir(exist_ok=True)
        code = run_and_copy([find_program(program), *arguments], self.environment, log)
        if code:
            raise NnsslError(
                f"the demonstration stopped: `{typed}` ended with exit code {code}; its output is in {log}"
            )

    def _expect(self, file: Path) -> Path:
        if not file.is_file():
            raise NnsslError(f"the demonstration stopped: {file} is missing; see the last file in {self.root / 'logs'}")
        return file


def prepare_folder(root: Path, overwrite: bool) -> None:
    """Make the output folder, or empty one that an earlier demo filled.

    Raises:
        NnsslError: the folder holds something else, or a demo and `overwrite` is not given.
    """
    if root.exists() and not root.is_dir():
        raise NnsslError(f"{root} is a file: choose another folder with -o")
    if root.is_dir() and any(root.iterdir()):
        if not (root / MARKER).is_file():
            raise NnsslError(f"{root} is not empty and holds no demonstration: choose another folder with -o")
        if not overwrite:
            raise NnsslError(f"{root} holds a demonstration already: add --overwrite, or choose another folder with -o")
        for name in FOLDERS:
            shutil.rmtree(root / name, ignore_errors=True)
        for name in FILES:
            (root / name).unlink(missing_ok=True)
    root.mkdir(parents=True, exist_ok=True)
    write_json({"made_by": "nnssl_demo", "version": __version__}, root / MARKER)


def child_environment(root: Path) -> dict[str, str]:
    """What the commands read: nnU-Net's three folders inside `root`, few processes, no compilation, no uploads."""
    folders = {name: str((root / name).resolve()) for name in FOLDERS[:3]}
    settings = {
        "nnUNet_n_proc_DA": "1",
        "nnUNet_def_n_proc": "2",
        "nnUNet_compile": "f",
        "nnUNet_wandb_enabled": "0",
        "MPLBACKEND": "agg",
        "PYTHONUNBUFFERED": "1",
        "PYTHONIOENCODING": "utf-8",
    }
    # OpenMP threads that spin while they wait make a busy machine ten times slower: let them sleep.
    return {"OMP_WAIT_POLICY": "PASSIVE", **os.environ, **folders, **settings}


def find_program(name: str) -> str:
    """Full path of a command: the one beside this Python (the same environment) before any on PATH."""
    found = shutil.which(name, path=str(Path(sys.executable).parent)) or shutil.which(name)
    if found is None:
        raise NnsslError(f"the command {name} is neither beside {sys.executable} nor on PATH: install nnssl with pip")
    return found


def run_and_copy(command: list[str], environment: dict[str, str], log: Path) -> int:
    """Run a command; what it prints goes line by line to `log` and, but for lists of tensors, to the terminal.

    Returns:
        The command's exit code.
    """
    hidden = 0
    with (
        log.open("wb") as file,
        subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT) as child,
    ):
        assert child.stdout is not None
        try:
            for line in child.stdout:
                file.write(line)
                file.flush()
                if TENSOR_LIST in line:
                    hidden += 1
                else:
                    print(line.decode("utf-8", "replace"), end="", flush=True)
        except BaseException:  # Ctrl-C included: the child must not go on alone
            child.terminate()
            raise
        code = child.wait()
    if hidden:
        print(f"({hidden} lines that name one loaded tensor each are only in {log})")
    return code
