# SPDX-License-Identifier: Apache-2.0
"""Every number of a training run."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

PHASES = ("backbone", "exits", "estimator")

_LARGER = {
    "backbone_steps": 60_000,
    "backbone_learning_rate": 2e-3,
    "exits_steps": 40_000,
    "exits_learning_rate": 2e-3,
    "exits_backbone_learning_rate": 1e-3,
}
RECIPES: dict[str, dict[str, Any]] = {"carn": _LARGER, "srresnet": _LARGER, "light": _LARGER}
"""What a backbone wants other than the defaults, which are FSRCNN's."""

_CELL = 4
"""LR pixels per side of an estimator's cell; ``enaf.estimator`` has it too, but with torch, which help comes without."""
_LEAST = {
    "patch_size": _CELL,
    **dict.fromkeys(("backbone_batch", "exits_batch", "estimator_batch", "estimator_patches"), 1),
    **dict.fromkeys(("log_every", "validate_every", "checkpoint_every"), 1),
    **dict.fromkeys(("backbone_steps", "exits_steps", "estimator_steps", "warmup_steps"), 0),
    **dict.fromkeys(("estimator_resample_sharpness", "estimator_resample_noise"), 0),
}


@dataclass(frozen=True)
class TrainConfig:
    """A training run. Field names are the flags of ``enaf train``; the metadata is their help text."""

    backbone: str = field(default="fsrcnn", metadata={"help": "backbone name"})
    scale: int = field(default=4, metadata={"help": "upscaling factor"})
    phases: str = field(
        default=",".join(PHASES), metadata={"help": "phases to train; what a phase left out would train stays"}
    )
    seed: int = field(default=0, metadata={"help": "seed of weights and samples"})
    patch_size: int = field(default=32, metadata={"help": "side of a training patch in LR pixels"})
    resample_share: float = field(default=0.4, metadata={"help": "share of patches from resized images"})
    resample_low: float = field(default=0.5, metadata={"help": "smallest resizing factor"})
    resample_high: float = field(default=2.5, metadata={"help": "largest resizing factor"})
    mixed_share: float = field(default=0.0, metadata={"help": "share of patches that are the weighted mean of two"})
    recoloured_share: float = field(default=0.0, metadata={"help": "share of patches whose channels change places"})
    validation_images: int = field(
        default=12, metadata={"help": "training images held out where --validation is absent"}
    )
    optimizer: str = field(default="soap", metadata={"help": "adam (the paper's) or soap (several times fewer steps)"})
    ema_decay: float = field(default=0.999, metadata={"help": "decay of the averaged weights that are kept"})
    gradient_clip: float = field(default=1.0, metadata={"help": "largest gradient norm; 0 = none"})
    loss: str = field(default="psnr", metadata={"help": "psnr (mean over the images) or l1 (the paper's)"})
    teacher: str = field(default="", metadata={"help": "model whose full exit is part of the targets; empty: none"})
    teacher_weight: float = field(
        default=0.8, metadata={"help": "its share of the target, the photograph has the rest"}
    )
    precision: str = field(
        default="bfloat16",
        metadata={"help": "of the backbone's arithmetic: float32 or bfloat16 (weights stay float32)"},
    )
    compile: bool = field(
        default=False, metadata={"help": "torch.compile the backbone phases: a slow start, then faster"}
    )
    warmup_steps: int = field(default=200, metadata={"help": "steps of linear warm-up of the learning rate"})
    final_learning_rate: float = field(default=1e-8, metadata={"help": "end of the cosine schedule"})

    backbone_steps: int = field(default=10_000, metadata={"help": "phase 1: steps"})
    backbone_batch: int = field(default=16, metadata={"help": "phase 1: patches a step"})
    backbone_learning_rate: float = field(default=3e-3, metadata={"help": "phase 1: learning rate"})

    exits_steps: int = field(default=28_000, metadata={"help": "phase 2: steps"})
    exits_batch: int = field(default=16, metadata={"help": "phase 2: patches a step"})
    exits_learning_rate: float = field(default=3e-3, metadata={"help": "phase 2: learning rate of the early exits"})
    exits_backbone_learning_rate: float = field(
        default=1.5e-3, metadata={"help": "phase 2: learning rate of the pre-trained parts (paper: 1e-8)"}
    )
    exits_full_weight: float = field(
        default=2.0, metadata={"help": "phase 2: weight of the full exit's loss, early exits have 1 (paper: 1)"}
    )

    estimator: str = field(default="gain", metadata={"help": "estimator: paper or gain"})
    estimator_resample_share: float = field(default=0.6, metadata={"help": "phase 3: share from resized images"})
    estimator_resample_low: float = field(default=0.6, metadata={"help": "phase 3: smallest resizing factor"})
    estimator_resample_high: float = field(default=2.5, metadata={"help": "phase 3: largest resizing factor"})
    estimator_resample_sharpness: float = field(
        default=0.8, metadata={"help": "phase 3: largest change of the details of resized images, as a share of them"}
    )
    estimator_resample_noise: float = field(
        default=2.5, metadata={"help": "phase 3: largest noise of resized images, 8-bit levels"}
    )
    estimator_patches: int = field(default=40_000, metadata={"help": "phase 3: patches whose exits are computed once"})
    estimator_steps: int = field(default=10_000, metadata={"help": "phase 3: steps"})
    estimator_batch: int = field(default=128, metadata={"help": "phase 3: patches a step"})
    estimator_learning_rate: float = field(default=1e-3, metadata={"help": "phase 3: learning rate"})

    log_every: int = field(default=50, metadata={"help": "steps between log lines"})
    validate_every: int = field(default=2_000, metadata={"help": "steps between validations on full images"})
    checkpoint_every: int = field(default=500, metadata={"help": "steps between checkpoints"})

    @classmethod
    def of(cls, backbone: str, **settings: Any) -> TrainConfig:
        """The recipe of a backbone, with other settings where they are given."""
        return cls(**{"backbone": backbone, **RECIPES.get(backbone, {}), **settings})

    def __post_init__(self) -> None:
        if not self.phases or [name for name in PHASES if name in self.phases.split(",")] != self.phases.split(","):
            raise ValueError(f"phases: expected some of {','.join(PHASES)} in this order, got {self.phases!r}")
        for name, least in _LEAST.items():
            if not getattr(self, name) >= least:  # also where a value is not a number
                raise ValueError(f"{name}: expected at least {least}, got {getattr(self, name)}")
        for name in ("resample_share", "estimator_resample_share", "mixed_share", "recoloured_share", "teacher_weight"):
            if not 0 <= getattr(self, name) <= 1:
                raise ValueError(f"{name}: expected a share between 0 and 1, got {getattr(self, name)}")
        if not 0 <= self.ema_decay < 1:
            raise ValueError(f"ema_decay: expected 0 <= ema_decay < 1, got {self.ema_decay}")
        # The estimator of the paper leaves out what is over; no other phase has cells.
        if "estimator" in self.phases.split(",") and self.estimator != "paper" and self.patch_size % _CELL:
            raise ValueError(f"patch_size: expected a multiple of {_CELL} for the estimator, got {self.patch_size}")
        if self.optimizer not in ("adam", "soap"):
            raise ValueError(f"optimizer: expected adam or soap, got {self.optimizer!r}")
        if self.loss not in ("psnr", "l1"):
            raise ValueError(f"loss: expected psnr or l1, got {self.loss!r}")
        if self.precision not in ("float32", "bfloat16"):
            raise ValueError(f"precision: expected float32 or bfloat16, got {self.precision!r}")
        for prefix in ("", "estimator_"):
            low, high = getattr(self, f"{prefix}resample_low"), getattr(self, f"{prefix}resample_high")
            if not 0 < low <= high:
                raise ValueError(f"{prefix}resample_low: expected 0 < low <= high, got {low}, {high}")
