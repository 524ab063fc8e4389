"""Fine-tuning trainers for nnU-Net's unmodified `nnUNetv2_train`.

They leave the architecture to the plans and write `trainer_name = "nnUNetTrainer"` into their checkpoints, so that
`nnUNetv2_predict` on a machine without nnssl runs their models.
"""

from __future__ import annotations

import time
from contextlib import AbstractContextManager, nullcontext
from functools import partial
from pathlib import Path
from typing import Any, ClassVar

import torch
from nnssl.trainers import schedule
from nnssl.trainers.averaging import WeightAverage
from nnssl.trainers.finetune_groups import frozen_part, layered_groups
from nnssl.trainers.finetune_head import BATCHES, fit_heads
from nnssl.trainers.finetune_init import brings_decoder, load_into, seen_in_pretraining
from nnssl.trainers.finetune_settings import check_fits, settings_from_plans
from nnssl.trainers.optimisers import make_optimizer, set_lr
from nnssl.trainers.pools import fingerprint_of
from nnunetv2.training.nnUNetTrainer.nnUNetTrainer import nnUNetTrainer
from torch import nn
from torch._dynamo import OptimizedModule

from nnssl.errors import NnsslError
from nnssl.transfer import LoadReport, target_of, torch_files

ADAMW_LR = 1e-3
"""Peak rate of every trainer under AdamW unless the plans say otherwise; nnU-Net's 1e-2 is SGD's."""


class nnUNetTrainer_SSLBase(nnUNetTrainer):
    """What the four share; not to be used by itself.

    Subclasses set the peak rate, and `schedule`: (fractional epoch, epochs) -> (factor on the peak rate, encoder learns).
    The rate moves every iteration: with the short trainings of few labels, an epoch is too coarse for a ramp.
    """

    peak_lr: ClassVar[float] = 1e-3
    expects_pretrained: ClassVar[bool] = True
    stage_of: ClassVar[Any] = staticmethod(schedule.finetune_warmup)

    def __init__(
        self,
        plans: dict,
        configuration: str,
        fold: int | str,
        dataset_json: dict,
        device: torch.device = torch.device("cuda"),  # noqa: B008  nnU-Net's signature
    ) -> None:
        super().__init__(plans, configuration, fold, dataset_json, device)
        self.settings = settings_from_plans(plans)
        adamw = self.settings.optimizer == "adamw"
        self.initial_lr = self.settings.initial_lr or (ADAMW_LR if adamw else self.peak_lr)
        for name in ("num_epochs", "num_iterations_per_epoch", "num_val_iterations_per_epoch"):
            if getattr(self.settings, name) is not None:
                setattr(self, name, getattr(self.settings, name))
        self._iteration = 0
        self._frozen_now: set[int] = set()
        self._initial: dict[str, torch.Tensor] | None = None
        self.load_report: LoadReport | None = None
        self._average: WeightAverage | None = None

    def initialize(self) -> None:
        """As nnU-Net; remembers a sample of the fresh weights, to tell later whether any were replaced."""
        teeth = type(self).stage_of is schedule.finetune_sawtooth
        check_fits(self.settings, self.num_epochs, None, teeth)
        super().initialize()
        check_fits(self.settings, self.num_epochs, len(self._unet().encoder.stages), teeth)
        self._initial = {k: v.detach().flatten()[:64].clone() for k, v in self._unet().named_parameters()}
        if self.settings.average:
            self._average = WeightAverage(self._unet(), self.settings.average)
        if self.is_ddp:
            for parameter in self._unet().encoder.parameters():
                parameter.register_hook(partial(self._stop_frozen_gradient, id(parameter)))

    def configure_optimizers(self) -> tuple[torch.optim.Optimizer, Any]:
        """One optimiser over all parameters for all stages, so that momentum outlives a stage."""
        name = self.settings.optimizer or "sgd"
        asked = self.settings
        new_lr = asked.new_layers_lr or 1.0
        new_decoder = new_lr != 1 and asked.init is not None and not brings_decoder(asked)
        groups = layered_groups(self._unet(), asked.layer_decay or 1.0, self.weight_decay, new_lr, new_decoder)
        optimizer = make_optimizer(name, groups, self.initial_lr)
        optimizer.register_step_pre_hook(self._drop_frozen_gradients)
        return optimizer, _EpochSchedule(self)

    # ---------------------------------------------------------------- schedule

    def stage(self, epoch: float) -> tuple[float, bool]:
        """Learning rate and whether the encoder learns, at a fractional epoch. Pure, so a resume lands right."""
        factor, encoder_learns = self.stage_of(
            epoch, self.num_epochs, self.settings.warmup_epochs, self.settings.decay_power or 0.9
        )
        return self.initial_lr * factor, encoder_learns

    def on_train_epoch_start(self) -> None:
        """Announce the stage of the epoch."""
        self._iteration = 0
        self._set_stage()
        super().on_train_epoch_start()
        if not self._encoder_learns:
            self.print_to_log_file("the encoder is frozen in this epoch")
        still = frozen_part(self._unet(), self.settings.freeze_stages or 0)[1]
        for part in still if self._encoder_learns else [self._unet().encoder]:
            for module in part.modules():  # running statistics must not drift while frozen
                if isinstance(module, nn.modules.batchnorm._BatchNorm):
                    module.eval()

    def train_step(self, batch: dict) -> dict:
        """nnU-Net's step at this iteration's rate."""
        self._set_stage()
        self._iteration += 1
        outputs = super().train_step(batch)
        if self._average is not None:
            self._average.update()
        return outputs

    def evaluated_weights(self) -> AbstractContextManager[None]:
        """Inside, the network holds the weights that this training would hand over now."""
        return nullcontext() if self._average is None else self._average.in_place()

    def on_validation_epoch_start(self) -> None:
        """Validate what is handed over."""
        if self._average is not None:
            self._average.exchange()
        super().on_validation_epoch_start()

    def on_validation_epoch_end(self, val_outputs: list[dict]) -> None:
        """As nnU-Net; then the weights that learn return."""
        super().on_validation_epoch_end(val_outputs)
        if self._average is not None:
            self._average.exchange()

    def on_train_end(self) -> None:
        """The average, if one is kept, is the result."""
        if self._average is not None:
            self._average.exchange()
            self._average = None
        super().on_train_end()

    def _set_stage(self) -> None:
        # the middle of the step: a ramp neither starts at zero nor overshoots
        epoch = self.current_epoch + (self._iteration + 0.5) / self.num_iterations_per_epoch
        lr, self._encoder_learns = self.stage(epoch)
        set_lr(self.optimizer, lr)
        self._frozen_now = frozen = {id(p) for p in self._frozen()}
        if not self.is_ddp:  # DDP counts on every parameter's gradient: there it is zero for clipping, then dropped
            for parameter in self._unet().encoder.parameters():
                parameter.requires_grad_(id(parameter) not in frozen)

    def _frozen(self) -> list[nn.Parameter]:
        """Encoder parameters that do not learn at this moment."""
        if not self._encoder_learns:
            return list(self._unet().encoder.parameters())
        return frozen_part(self._unet(), self.settings.freeze_stages or 0)[0]

    def _stop_frozen_gradient(self, parameter: int, gradient: torch.Tensor) -> torch.Tensor | None:
        return torch.zeros_like(gradient) if parameter in self._frozen_now else None

    def _drop_frozen_gradients(self, *_: Any) -> None:
        for parameter in self._frozen():
            parameter.grad = None

    # ---------------------------------------------------------------- data, log, checkpoints

    def do_split(self) -> tuple[list[str], list[str]]:
        """nnU-Net's split, the training part narrowed to `train_cases` if the plans name any."""
        training, validation = super().do_split()
        wanted = self.settings.train_cases
        if wanted is None:
            return training, validation
        missing = sorted(set(wanted) - set(training))
        if missing:
            raise NnsslError(
                f'train_cases of the plans\' "nnssl" block: {", ".join(missing[:5])} not among the training cases of '
                f"fold {self.fold}"
            )
        return list(wanted), validation

    def on_train_start(self) -> None:
        """As nnU-Net; then say what came from the plans' block and how much of the network is pretrained."""
        if not self.was_initialized:
            self.initialize()
        if self.current_epoch == 0:  # before nnU-Net starts its data workers, which an error would leave behind
            self._load_named_weights()
            self._report_pretrained()
        super().on_train_start()
        if self.current_epoch == 0 and self.settings.head == "fitted":
            self._fit_heads()
        taken = self.settings.taken()
        self.print_to_log_file(f'from the plans\' "nnssl" block: {taken}' if taken else 'no "nnssl" block in the plans')
        self.print_to_log_file(
            f"{self.num_epochs} epochs of {self.num_iterations_per_epoch} iterations, peak learning rate "
            f"{self.initial_lr:g}, optimizer {self.settings.optimizer or 'sgd'}"
        )

    def _load_named_weights(self) -> None:
        """Load and fit the weights that the plans' block names, unless this trainer is the control from scratch."""
        init = self.settings.init
        if init is None:
            return
        if not self.expects_pretrained:
            self.print_to_log_file(f"the control from scratch leaves {Path(init).name} of the plans' block alone")
            return
        if self._replaced()["encoder"][0]:
            raise NnsslError(
                f'-pretrained_weights is given, and the plans\' "nnssl" block names {Path(init).name}: take one of them out'
            )
        fingerprint = fingerprint_of(self.plans_manager.dataset_name)
        plans, configuration = self.plans_manager.plans, self.configuration_manager.configuration
        target = target_of(plans, configuration, self.dataset_json, fingerprint)
        report, provenance = load_into(self._unet(), self.settings, target)
        self.print_to_log_file(f"pretrained weights from {init}:", *(f"\n{line}" for line in report.lines()))
        self.load_report = report
        seen = seen_in_pretraining(provenance, fingerprint, self.do_split()[1])
        if seen:
            self.print_to_log_file(
                f"WARNING: pretraining saw {len(seen)} of this fold's validation cases, or other scans of their patients, "
                f"without labels (as {seen[0]}); their scores say less about new patients. "
                "Pretrain with the same fold (nnssl_pretrain -f FOLD)"
            )

    def _fit_heads(self) -> None:
        """Start from segmentation layers that suit the features; on several ranks the first one's count."""
        began = time.monotonic()
        manager = self.label_manager
        batches = (next(self.dataloader_train) for _ in range(BATCHES))
        dice = fit_heads(self._unet(), batches, self.device, manager.has_regions, manager.ignore_label)
        if self.is_ddp:
            for parameter in self._unet().decoder.seg_layers.parameters():
                torch.distributed.broadcast(parameter.data, 0)
        self.head_seconds = time.monotonic() - began
        shown = ", ".join("left as it was, too few labelled voxels" if d is None else f"{d:.3f}" for d in dice)
        self.print_to_log_file(
            f"segmentation layers fitted in {self.head_seconds:.1f} s, soft Dice on {BATCHES} batches, finest first: {shown}"
        )

    def _replaced(self) -> dict[str, list[int]]:
        """Weight tensors of encoder and decoder: how many are no longer as they were initialised, and of how many."""
        assert self._initial is not None
        replaced = {"encoder": [0, 0], "decoder": [0, 0]}
        for key, parameter in self._unet().named_parameters():
            counts = replaced[key.split(".")[0]]
            # biases and norms start from constants, so a loaded one may look fresh: weights tell
            if parameter.ndim > 1 and ".seg_layers." not in key:
                counts[1] += 1
                counts[0] += int(not torch.equal(parameter.detach().flatten()[:64], self._initial[key]))
        return replaced

    def _report_pretrained(self) -> None:
        """Compare with the fresh initialisation: loading weights, or not, is never silent."""
        replaced = self._replaced()
        said = ", ".join(f"{part}: {n} of {total} weight tensors" for part, (n, total) in replaced.items())
        self.print_to_log_file(f"not from this run's own initialisation: {said}")
        if self.expects_pretrained and replaced["encoder"][0] == 0:
            self.print_to_log_file(
                "WARNING: no pretrained encoder was loaded; give -pretrained_weights nnunet_init.pth, or name the weights "
                "with nnssl_plan_finetune --init (or use nnUNetTrainer_SSLScratch for a control)"
            )
        if not self.expects_pretrained and replaced["encoder"][0]:
            raise NnsslError(
                "nnUNetTrainer_SSLScratch is the control from scratch: leave -pretrained_weights out, or use "
                "nnUNetTrainer_SSLWarmup"
            )

    def save_checkpoint(self, filename: str) -> None:
        """nnU-Net's checkpoint under nnU-Net's trainer name, written atomically."""
        if self.local_rank != 0 or self.disable_checkpointing:
            return
        learning = {k: v.detach().cpu().clone() for k, v in self._unet().state_dict().items()}
        weights = learning
        # what others read is the average
        if self._average is not None and Path(filename).name != "checkpoint_latest.pth":
            with self._average.in_place():
                weights = {k: v.detach().cpu().clone() for k, v in self._unet().state_dict().items()}
        content = {
            "network_weights": weights,
            "nnssl_learning": None if weights is learning else learning,
            "nnssl_average": self._average.state_dict() if self._average is not None else None,
            "optimizer_state": self.optimizer.state_dict(),
            "grad_scaler_state": self.grad_scaler.state_dict() if self.grad_scaler is not None else None,
            "logging": self.logger.get_checkpoint(),
            "_best_ema": self._best_ema,
            "current_epoch": self.current_epoch + 1,
            "init_args": self.my_init_kwargs,
            "trainer_name": "nnUNetTrainer",
            "inference_allowed_mirroring_axes": self.inference_allowed_mirroring_axes,
        }
        torch_files.save(content, filename)

    def load_checkpoint(self, filename_or_checkpoint: dict | str) -> None:
        """As nnU-Net, and the average of the weights with it."""
        super().load_checkpoint(filename_or_checkpoint)
        if self._average is None:
            return
        self._average = WeightAverage(self._unet(), self.settings.average or 0.0)
        checkpoint = filename_or_checkpoint
        if not isinstance(checkpoint, dict):  # the user's own training, read as nnU-Net itself has just read it
            checkpoint = torch.load(checkpoint, map_location=self.device, weights_only=False)
        if checkpoint.get("nnssl_average") is not None:
            self._average.load_state_dict(checkpoint["nnssl_average"])
        elif self.current_epoch < self.num_epochs:
            self.print_to_log_file("WARNING: the checkpoint holds no average of the weights: it begins anew")
        if checkpoint.get("nnssl_learning") is not None:
            self._unet().load_state_dict(checkpoint["nnssl_learning"])

    def _unet(self) -> Any:
        """The bare network, whatever wraps it; when nnU-Net asks for the optimiser, DDP does not yet."""
        network = self.network
        if isinstance(network, nn.parallel.DistributedDataParallel):
            network = network.module
        return network._orig_mod if isinstance(network, OptimizedModule) else network


class _EpochSchedule:
    """nnU-Net steps a scheduler once per epoch; ours moves per iteration, so this only answers the call."""

    def __init__(self, trainer: nnUNetTrainer_SSLBase) -> None:
        self._trainer = trainer

    def step(self, current_epoch: int | None = None) -> None:
        """Nothing to do: `_set_stage` has set the rate of this very iteration."""


class nnUNetTrainer_SSLWarmup(nnUNetTrainer_SSLBase):
    """The default for pretrained weights: the whole network ramps up to 1e-3 over the first 5 %, then poly."""


class nnUNetTrainer_SSLSawtooth(nnUNetTrainer_SSLBase):
    """The decoder first (ramp and decay), then the whole network (ramp and decay), peak 1e-3."""

    stage_of: ClassVar[Any] = staticmethod(schedule.finetune_sawtooth)


class nnUNetTrainer_SSLFrozenEncoder(nnUNetTrainer_SSLBase):
    """The decoder alone on a frozen encoder: shows what the encoder knows; a diagnosis, not a recipe."""

    stage_of: ClassVar[Any] = staticmethod(schedule.finetune_frozen)


class nnUNetTrainer_SSLScratch(nnUNetTrainer_SSLBase):
    """The matched control: nnU-Net from scratch (peak 1e-2, poly), with the same settings block as the others."""

    peak_lr: ClassVar[float] = 1e-2
    expects_pretrained: ClassVar[bool] = False
    stage_of: ClassVar[Any] = staticmethod(schedule.from_scratch)
