# SPDX-License-Identifier: Apache-2.0
"""Every number of a training run."""

from __future__ import annotations

from dataclasses import dataclass, field


@dataclass(frozen=True)
class TrainConfig:
    """A training run. Field names are the flags of ``enaf train``; the metadata is their help text."""

    backbone: str = field(default="fsrcnn", metadata={"help": "backbone name"})
    scale: int = field(default=4, metadata={"help": "upscaling factor"})
    seed: int = field(default=0, metadata={"help": "seed of weights and samples"})
    patch_size: int = field(default=32, metadata={"help": "side of a training patch in LR pixels"})
    resample_share: float = field(default=0.4, metadata={"help": "share of patches from resized images"})
    resample_low: float = field(default=0.5, metadata={"help": "smallest resizing factor"})
    resample_high: float = field(default=2.5, metadata={"help": "largest resizing factor"})
    validation_images: int = field(
        default=12, metadata={"help": "training images held out where --validation is absent"}
    )
    optimizer: str = field(default="soap", metadata={"help": "adam (the paper's) or soap (several times fewer steps)"})
    ema_decay: float = field(default=0.999, metadata={"help": "decay of the averaged weights that are kept"})
    gradient_clip: float = field(default=1.0, metadata={"help": "largest gradient norm; 0 = none"})
    precision: str = field(
        default="bfloat16",
        metadata={"help": "of the backbone's arithmetic: float32 or bfloat16 (weights stay float32)"},
    )
    warmup_steps: int = field(default=200, metadata={"help": "steps of linear warm-up of the learning rate"})
    final_learning_rate: float = field(default=1e-8, metadata={"help": "end of the cosine schedule"})

    backbone_steps: int = field(default=16_000, metadata={"help": "phase 1: steps"})
    backbone_batch: int = field(default=16, metadata={"help": "phase 1: patches a step"})
    backbone_learning_rate: float = field(default=3e-3, metadata={"help": "phase 1: learning rate"})
    backbone_l2_share: float = field(
        default=1.0, metadata={"help": "phase 1: last share of the steps on squared error"}
    )

    exits_steps: int = field(default=36_000, metadata={"help": "phase 2: steps"})
    exits_batch: int = field(default=16, metadata={"help": "phase 2: patches a step"})
    exits_learning_rate: float = field(default=3e-3, metadata={"help": "phase 2: learning rate of the early exits"})
    exits_backbone_learning_rate: float = field(
        default=1.5e-3, metadata={"help": "phase 2: learning rate of the pre-trained parts (paper: 1e-8)"}
    )
    exits_l2_share: float = field(default=1.0, metadata={"help": "phase 2: last share of the steps on squared error"})
    exits_full_weight: float = field(
        default=2.0, metadata={"help": "phase 2: weight of the full exit's loss, early exits have 1 (paper: 1)"}
    )

    estimator: str = field(default="gain", metadata={"help": "estimator: paper or gain"})
    estimator_resample_share: float = field(default=0.6, metadata={"help": "phase 3: share from resized images"})
    estimator_resample_low: float = field(default=0.7, metadata={"help": "phase 3: smallest resizing factor"})
    estimator_resample_high: float = field(default=4.0, metadata={"help": "phase 3: largest resizing factor"})
    estimator_patches: int = field(default=60_000, metadata={"help": "phase 3: patches whose exits are computed once"})
    estimator_steps: int = field(default=20_000, metadata={"help": "phase 3: steps"})
    estimator_batch: int = field(default=128, metadata={"help": "phase 3: patches a step"})
    estimator_learning_rate: float = field(default=1e-3, metadata={"help": "phase 3: learning rate"})

    log_every: int = field(default=50, metadata={"help": "steps between log lines"})
    validate_every: int = field(default=2_000, metadata={"help": "steps between validations on full images"})
    checkpoint_every: int = field(default=500, metadata={"help": "steps between checkpoints"})

    def __post_init__(self) -> None:
        for name, least in (("patch_size", 4), ("backbone_batch", 1), ("exits_batch", 1), ("estimator_batch", 1)):
            if getattr(self, name) < least:
                raise ValueError(f"{name}: expected at least {least}, got {getattr(self, name)}")
        if self.optimizer not in ("adam", "soap"):
            raise ValueError(f"optimizer: expected adam or soap, got {self.optimizer!r}")
        if self.precision not in ("float32", "bfloat16"):
            raise ValueError(f"precision: expected float32 or bfloat16, got {self.precision!r}")
        for prefix in ("", "estimator_"):
            low, high = getattr(self, f"{prefix}resample_low"), getattr(self, f"{prefix}resample_high")
            if not 0 < low <= high:
                raise ValueError(f"{prefix}resample_low: expected 0 < low <= high, got {low}, {high}")
