"""Judges the runs of stability_grid.py: the rule that calls one learned, degraded, collapsed or diverged."""

import math

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils.data import Subset

from data import DataError
from data.images import Images
from data.score import (
    FEATURES,
    PICTURES_PER_FEATURE,
    compare,
    features,
    load_classifier,
    make_extractor,
    split_train_test,
)

VERDICTS = ("learned", "degraded", "collapsed", "diverged")
RULE = (
    "The first that fits counts. Diverged: not finite. Collapsed: diversity below 0.5 (pictures differ less"
    " than half as much as real ones). Learned: FID at most that of real pictures blurred to 16x16 pixels."
    " Degraded: at most that of real pictures blurred to 4x4 pixels. Diverged: the rest. So one flat"
    " colour is collapsed, varied noise diverged."
)


def verdict(fid: float, diversity: float, fid_learned: float, fid_degraded: float) -> str:
    """Applies RULE: one of VERDICTS.

    fid, diversity: of generated pictures, as data.score.compare gives them. fid_learned, fid_degraded: the
    FID of real pictures blurred to 16x16 and to 4x4 pixels.
    """
    if not (math.isfinite(fid) and math.isfinite(diversity)):
        return "diverged"
    if diversity < 0.5:
        return "collapsed"
    if fid <= fid_learned:
        return "learned"
    if fid <= fid_degraded:
        return "degraded"
    return "diverged"


def blur(pictures: Tensor, side: int) -> Tensor:
    """Averages uint8 pictures [n, size, size, 3] to side x side pixels, then enlarges them (bilinear)."""
    blurred = []
    for part in pictures.split(512):  # as floats they take four times the memory
        x = part.permute(0, 3, 1, 2).float()
        x = F.interpolate(x, side, mode="area")
        x = F.interpolate(x, pictures.shape[1], mode="bilinear")
        blurred.append(x.round().clamp(0, 255).byte().permute(0, 2, 3, 1))
    return torch.cat(blurred)


def choose_extractor(kind: str | None, pictures: Tensor | Images, labels: np.ndarray | None) -> str:
    """The extractor's name in FEATURES: `kind`, or if that is None the one that suits the data.

    Raises DataError if the data are too few for Judge, which compares real pictures with others.
    """
    if kind is None:
        several_classes = labels is not None and labels.any()  # of one class, all labels are 0
        kind = "classifier" if several_classes else "random"
    least = 2 * PICTURES_PER_FEATURE * FEATURES[kind]
    if len(pictures) < least:
        least_of_all = 2 * PICTURES_PER_FEATURE * FEATURES["random"]
        other = "" if kind == "random" else f", by --extractor random {least_of_all:,}"
        raise DataError(
            f"the data are {len(pictures):,} pictures; to judge cells by {FEATURES[kind]:,} {kind} features"
            f" takes {least:,}{other}"
        )
    return kind


class Judge:
    """Judges a cell by comparing n of its pictures with n real ones.

    reference: indices of the real ones. fid_real: the FID of n other real pictures. fid_learned and
    fid_degraded: the FIDs of those n, blurred to 16x16 and to 4x4 pixels.
    """

    def __init__(
        self,
        pictures: Tensor | Images,
        labels: np.ndarray | None,
        kind: str,
        size: int,
        device: torch.device,
    ):
        """pictures: uint8 [N, size, size, 3]. labels: [N], for a classifier. kind: from choose_extractor.

        Raises DataError if size is below 32, or if the three FIDs are not in that order: the data are odd.
        """
        if size < 32:
            raise DataError(f"--size {size} is below 32: the rule compares with pictures blurred to 16x16")
        if kind == "classifier":
            self.extractor = load_classifier(*split_train_test(pictures, labels), device)
        else:
            self.extractor = make_extractor(kind, size)
        self.device = device
        # choose_extractor has seen to it that there are 2n pictures.
        self.n = max(PICTURES_PER_FEATURE * FEATURES[kind], min(len(pictures) // 2, 512))
        indices = np.linspace(0, len(pictures) - 1, 2 * self.n).astype(int)
        self.reference = indices[::2]
        self.real_features = features(Subset(pictures, self.reference), self.extractor, device)
        others = pictures[indices[1::2]].cpu()
        self.fid_real = self.measure(others)["FID"]
        self.fid_learned = self.measure(blur(others, 16))["FID"]
        self.fid_degraded = self.measure(blur(others, 4))["FID"]
        if not self.fid_real < self.fid_learned < self.fid_degraded:
            raise DataError(
                "the rule does not suit these data: the FIDs of other real pictures, and of these blurred to"
                f" 16x16 and to 4x4 pixels, must rise, but are {self.fid_real:.3g}, {self.fid_learned:.3g}"
                f" and {self.fid_degraded:.3g}"
            )

    def measure(self, pictures: Tensor | Subset) -> dict[str, float]:
        """What data.score.compare says of n pictures, uint8 [n, size, size, 3]."""
        found = features(pictures, self.extractor, self.device)
        return compare(found, self.real_features, self.extractor.head)

    def verdict_of(self, log: np.ndarray) -> str:
        """What became of a cell, one of VERDICTS, by the last row of its log."""
        return verdict(log["FID"][-1], log["diversity"][-1], self.fid_learned, self.fid_degraded)

    def describe(self) -> str:
        """As text: the number of pictures, the extractor, the FIDs to compare with, and RULE."""
        return (
            f"{self.n:,} pictures a cell against as many real ones, by {self.extractor.title}. FID: other"
            f" real pictures {self.fid_real:.3g}, blurred to 16x16 pixels {self.fid_learned:.3g},"
            f" to 4x4 {self.fid_degraded:.3g}. {RULE}"
        )
