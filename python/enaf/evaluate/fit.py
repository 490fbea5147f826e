# SPDX-License-Identifier: Apache-2.0
"""What the peers' policies learn from training images: a table from edge scores to PSNR, and a classifier of difficulty."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
import torch.nn.functional as F
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from enaf.adaptive import AdaptiveNetwork
from enaf.checkpoint import check_tensors
from enaf.estimator import Estimator, create_estimator
from enaf.whole_file import write_whole
from enaf_ext import ops
from enaf_ext.grid import PatchGrid

from .protocol import PROTOCOLS, values
from .record import ImageRecord
from .sets import Crop, ImageSet, Progress, find_sets, measure_set, silent, weights_sha256

FORMAT = "enaf-policies-1"
BINS = 32
CLASSES = 3
IMAGES = 300
STEPS, CLASSIFIER_BATCH, LEARNING_RATE = 1500, 64, 1e-3


@dataclass(frozen=True)
class Fit:
    """Learned for one model.

    Attributes:
        edges: (B,) mean edge score of each bin, ascending; the bins hold equally many patches.
        table: (B, E) mean PSNR of every exit in each bin, dB.
        classifier: ClassSR's class module, (n, 3, P, P) to (n, 3) logits from easy to hard.
        weights_sha256: of the model.
        data_sha256: of the training images.
        patches: how many there were.
    """

    edges: Tensor
    table: Tensor
    classifier: Estimator
    weights_sha256: str
    data_sha256: str
    patches: int

    def looked_up_db(self, edge_score: Tensor) -> Tensor:
        """(N, E): PSNR of every exit, interpolated linearly between bins and constant beyond the outermost."""
        above = torch.searchsorted(self.edges, edge_score).clamp(1, len(self.edges) - 1)
        low, high = self.edges[above - 1], self.edges[above]
        share = ((edge_score - low) / (high - low).clamp_min(1e-6)).clamp(0, 1)[:, None]
        return self.table[above - 1] * (1 - share) + self.table[above] * share

    @torch.inference_mode()
    def classes(self, lr: Tensor, grid: PatchGrid) -> Tensor:
        """(N,) int64, 0 = easy to 2 = hard, of an image (3, h, w) uint8."""
        return self.classifier.on_grid(values(lr[None]), grid).argmax(dim=1)

    def save(self, path: Path) -> None:
        """Write atomically."""
        classifier = {
            f"classifier.{name}": tensor.contiguous() for name, tensor in self.classifier.state_dict().items()
        }
        header = {
            "format": FORMAT,
            "weights_sha256": self.weights_sha256,
            "data_sha256": self.data_sha256,
            "patches": str(self.patches),
        }
        write_whole(path, save({"edges": self.edges, "table": self.table, **classifier}, metadata=header))

    @classmethod
    def load(cls, path: Path, weights_sha256: str) -> Fit:
        """What ``save`` wrote.

        Raises:
            ValueError: no such file, another kind of file, or one that was fitted for another model.
        """
        try:
            with safe_open(path, framework="pt") as file:
                header = file.metadata() or {}
                tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118  # not a mapping
        except (OSError, SafetensorError) as error:
            raise ValueError(f"policies: {path} is not a readable file of `enaf fit` ({error})") from None
        if header.get("format") != FORMAT:
            raise ValueError(f"policies: {path}: expected format {FORMAT!r}, got {header.get('format')!r}")
        if header["weights_sha256"] != weights_sha256:
            raise ValueError(f"policies: {path} was fitted for other weights; run `enaf fit` for this model")
        classifier = create_estimator("paper", CLASSES).eval()
        prefix = "classifier."
        state = {name.removeprefix(prefix): t for name, t in tensors.items() if name.startswith(prefix)}
        check_tensors(classifier.state_dict(), state, str(path))
        classifier.load_state_dict(state)
        return cls(
            edges=tensors["edges"],
            table=tensors["table"],
            classifier=classifier,
            weights_sha256=weights_sha256,
            data_sha256=header["data_sha256"],
            patches=int(header["patches"]),
        )


def fit_to_folder(
    model: AdaptiveNetwork,
    data: str | os.PathLike[str],
    images: int = IMAGES,
    crop: Crop | None = None,
    progress: Progress = silent,
) -> Fit:
    """Learn both on training images; unreadable ones and those smaller than a patch are left out.

    Args:
        model: the model whose patches are to be routed.
        data: folder of images, see ``find_sets``.
        images: use so many, evenly spread over the folder.
        crop: see ``read_original``.
        progress: wraps images and steps, to show how far it is.

    Raises:
        ValueError: no such folder, or fewer than 100 patches in it.
    """
    paths = [path for found in find_sets(data) for path in found.paths]
    chosen = ImageSet("fit", paths[:: max(1, len(paths) // max(1, images))][:images])
    measured = measure_set(model, chosen, PROTOCOLS["paper"], crop, progress=progress)
    return fit_policies(measured.records, weights_sha256(model), measured.sha256, progress)


def fit_policies(
    records: Sequence[ImageRecord],
    weights_sha256: str,
    data_sha256: str,
    progress: Progress = silent,
    seed: int = 0,
) -> Fit:
    """Learn both from measured training images.

    The table holds means over bins of equally many patches. The classes are the thirds of the patches by the PSNR of the full
    exit, as ClassSR divides them; the classifier has ClassSR's architecture and learns them by cross-entropy (ours: theirs
    is trained together with the branches).

    Args:
        records: training images.
        weights_sha256: of the model that was measured.
        data_sha256: of the images.
        progress: wraps the steps of the classifier's training, to show how far it is.
        seed: of the classifier's training.

    Raises:
        ValueError: fewer than 100 patches.
    """
    edge_score = torch.cat([record.edge_score for record in records])
    psnr_db = torch.cat([record.psnr_db for record in records])
    if len(edge_score) < 100:
        raise ValueError(f"data: expected at least 100 patches to fit on, got {len(edge_score)}")
    order = edge_score.argsort(stable=True)
    bins = order.tensor_split(min(BINS, len(order) // 10))
    return Fit(
        edges=torch.stack([edge_score[chosen].mean() for chosen in bins]),
        table=torch.stack([psnr_db[chosen].mean(dim=0) for chosen in bins]),
        classifier=_train_classifier(records, psnr_db[:, -1], progress, seed),
        weights_sha256=weights_sha256,
        data_sha256=data_sha256,
        patches=len(edge_score),
    )


def _train_classifier(records: Sequence[ImageRecord], full_db: Tensor, progress: Progress, seed: int) -> Estimator:
    patches = torch.cat([ops.unfold_patches(record.lr[None], record.grid) for record in records])
    hardness = torch.empty(len(full_db), dtype=torch.int64)
    for index, chosen in enumerate(full_db.argsort(descending=True, stable=True).tensor_split(CLASSES)):
        hardness[chosen] = index
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        classifier = create_estimator("paper", CLASSES)
    generator = torch.Generator().manual_seed(seed)
    optimiser = torch.optim.Adam(classifier.parameters(), LEARNING_RATE)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, STEPS)
    for _ in progress(range(STEPS), "classifier"):
        chosen = torch.randint(len(patches), (CLASSIFIER_BATCH,), generator=generator)
        batch = values(patches[chosen])
        batch = batch.flip(-1) if torch.rand((), generator=generator) < 0.5 else batch
        batch = batch.rot90(int(torch.randint(4, (), generator=generator)), (-2, -1))
        loss = F.cross_entropy(classifier(batch), hardness[chosen])
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        schedule.step()
    return classifier.eval()
