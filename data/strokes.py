"""Toy characters: every class a fixed arrangement of strokes, every sample another drawing of it. No font."""

import numpy as np

from data import DataError

LAYOUTS = (  # one to three parts: left, top, width, height in the unit square (y down), number of strokes
    ((0, 0, 1, 1, 4),),
    ((0, 0, 0.4, 1, 3), (0.52, 0, 0.48, 1, 3)),
    ((0, 0, 1, 0.4, 3), (0, 0.52, 1, 0.48, 3)),
    ((0, 0, 0.36, 1, 2), (0.48, 0, 0.52, 0.42, 2), (0.48, 0.56, 0.52, 0.44, 2)),
)
STROKES = (  # horizontals, verticals, corners, falling strokes, dots: x y of three points, per cent of a part
    "05 10 50 08 95 05  12 37 50 35 88 33  12 65 50 63 85 62  00 96 50 94 99 92  50 00 50 50 49 99 "
    "14 08 14 50 16 95  84 08 84 98 66 86  14 10 88 06 84 94  22 20 22 92 95 92  55 00 40 60 00 99 "
    "46 35 65 72 99 98  30 00 38 10 46 22  78 02 68 13 58 24  24 56 32 67 40 80"
)
STROKES = np.array(STROKES.split(), float).reshape(-1, 3, 2) / 100
PIXELS = np.mgrid[0.5:28, 0.5:28][::-1].reshape(2, 1, 1, 784).astype(np.float32)  # x and y of their centres


def draw(seed: int, label: int, sample: int) -> np.ndarray:
    """Drawing number `sample` of class `label`, a function of the three: uint8 [28, 28], background 255."""
    rng, points = np.random.default_rng([seed, label, 0]), []
    for left, top, width, height, strokes in LAYOUTS[rng.integers(len(LAYOUTS))]:
        part = rng.choice(STROKES, strokes + rng.integers(-1, 2), replace=False)
        points.append((part + rng.normal(0, 0.03, part.shape)) * (width, height) + (left, top))
    points = np.concatenate(points).transpose(2, 0, 1)[..., None]  # [x and y, 3 to 9 strokes, 3 points, 1]
    rng = np.random.default_rng([seed, label, 1 + sample])
    points = points + rng.normal(0, 0.025, (2, points.shape[1], 1, 1)) + rng.normal(0, 0.015, points.shape)
    points = points - rng.normal(0.06, 0.08, (2, 1, 1, 1)) * points[::-1]  # slant and tilt
    low, high = points.min((1, 2), keepdims=True), points.max((1, 2), keepdims=True)
    margins = rng.uniform(1, 3.5, (2, 2, 1, 1, 1))  # small: real handwriting is cut out tightly, too
    points = np.float32(margins[0] + (points - low) / (high - low) * (28 - margins.sum(0)))
    away, line = PIXELS - points[:, :, :2], np.diff(points, axis=2)  # [2, strokes, 2, 784 and 1]
    along = ((away * line).sum(0) / (line**2).sum(0)).clip(0, 1)
    distance = np.sqrt(((away - along * line) ** 2).sum(0).min((0, 1)))
    ink = rng.uniform(0.5, 0.9) * (rng.uniform(0.9, 1.6) - distance).clip(0, 1)
    return (255 * (1 - ink)).round().astype(np.uint8).reshape(28, 28)


def draw_all(classes: int, split: str) -> tuple[np.ndarray, np.ndarray]:
    """Pictures uint8 [n, 28, 28] and labels int64 [n]: 10 to 100 drawings a class, a fifth for `test`."""
    if classes > 3740:
        raise DataError(f"toy strokes have 3,740 classes at most, not {classes}")
    samples = min(max(10, 10_000 // classes), 100)
    numbers = range(samples) if split == "train" else range(samples, samples + samples // 5)
    pictures = [draw(0, label, number) for label in range(classes) for number in numbers]
    return np.stack(pictures), np.repeat(np.arange(classes), len(numbers))
