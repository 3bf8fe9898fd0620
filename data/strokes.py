"""Toy characters: every class a fixed arrangement of strokes, every sample another drawing of it. No font."""

from typing import NamedTuple

import numpy as np

from data import DataError

SIZE = 28


class Part(NamedTuple):
    """A part of a character: its place in the unit square (y points down), its usual number of strokes."""

    left: float
    top: float
    width: float
    height: float
    strokes: int


LAYOUTS = [
    [  # one part
        Part(left=0, top=0, width=1, height=1, strokes=4),
    ],
    [  # left and right
        Part(left=0, top=0, width=0.4, height=1, strokes=3),
        Part(left=0.52, top=0, width=0.48, height=1, strokes=3),
    ],
    [  # top and bottom
        Part(left=0, top=0, width=1, height=0.4, strokes=3),
        Part(left=0, top=0.52, width=1, height=0.48, strokes=3),
    ],
    [  # left, top right and bottom right
        Part(left=0, top=0, width=0.36, height=1, strokes=2),
        Part(left=0.48, top=0, width=0.52, height=0.42, strokes=2),
        Part(left=0.48, top=0.56, width=0.52, height=0.44, strokes=2),
    ],
]
# Three points (x, y) that two lines join, in per cent of the part.
STROKES = [
    [(5, 10), (50, 8), (95, 5)],  # horizontal strokes
    [(12, 37), (50, 35), (88, 33)],
    [(12, 65), (50, 63), (85, 62)],
    [(0, 96), (50, 94), (99, 92)],
    [(50, 0), (50, 50), (49, 99)],  # vertical strokes
    [(14, 8), (14, 50), (16, 95)],
    [(84, 8), (84, 98), (66, 86)],  # with a hook
    [(14, 10), (88, 6), (84, 94)],  # corners
    [(22, 20), (22, 92), (95, 92)],
    [(55, 0), (40, 60), (0, 99)],  # falling to the left and to the right
    [(46, 35), (65, 72), (99, 98)],
    [(30, 0), (38, 10), (46, 22)],  # dots
    [(78, 2), (68, 13), (58, 24)],
    [(24, 56), (32, 67), (40, 80)],
]
STROKES = np.array(STROKES) / 100  # [stroke, point, x and y]

MIDDLES = np.arange(SIZE, dtype=np.float32) + 0.5
CENTRES = np.stack(np.meshgrid(MIDDLES, MIDDLES))[:, None, None]  # of the pixels: [x and y, 1, 1, SIZE, SIZE]


def draw(seed: int, label: int, sample: int) -> np.ndarray:
    """Drawing number `sample` of class `label`, a function of the three: uint8 [28, 28], background 255."""
    strokes = arrange(np.random.default_rng([seed, label, 0]))
    rng = np.random.default_rng([seed, label, 1 + sample])
    lines = write(strokes, rng)
    darkness = rng.uniform(0.5, 0.9)
    thickness = rng.uniform(0.9, 1.6)
    ink = darkness * (thickness - distance_to(lines)).clip(0, 1)
    return (255 * (1 - ink)).round().astype(np.uint8)


def arrange(rng: np.random.Generator) -> np.ndarray:
    """A new class: the points of its 3 to 9 strokes [strokes, 3, x and y], in the unit square or nearly."""
    parts = []
    for part in LAYOUTS[rng.integers(len(LAYOUTS))]:
        number = part.strokes + rng.integers(-1, 2)
        points = rng.choice(STROKES, number, replace=False)
        points = points + rng.normal(0, 0.03, points.shape)
        parts.append(points * (part.width, part.height) + (part.left, part.top))
    return np.concatenate(parts)


def write(strokes: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """The strokes as a hand writes them: float32 [x and y, strokes, 3], in pixels."""
    points = strokes.transpose(2, 0, 1)
    points = points + rng.normal(0, 0.025, (2, points.shape[1], 1)) + rng.normal(0, 0.015, points.shape)
    x, y = points
    slant, tilt = rng.normal(0.06, 0.08, 2)
    points = np.stack([x - slant * y, y - tilt * x])
    # Stretched until it fills the picture but for small margins: real handwriting is cut out tightly, too.
    low, high = points.min((1, 2), keepdims=True), points.max((1, 2), keepdims=True)
    before, after = rng.uniform(1, 3.5, (2, 2, 1, 1))  # margins: left and above, right and below
    points = before + (points - low) / (high - low) * (SIZE - (before + after))
    return points.astype(np.float32)


def distance_to(lines: np.ndarray) -> np.ndarray:
    """Distance of every pixel's centre from the nearest line [SIZE, SIZE]. lines: [x and y, strokes, 3]."""
    starts = lines[:, :, :2, None, None]  # two lines per stroke: [x and y, strokes, 2, 1, 1]
    directions = np.diff(lines, axis=2)[..., None, None]
    away = CENTRES - starts
    along = (away * directions).sum(0) / (directions**2).sum(0)  # 0 at the start of the line, 1 at its end
    nearest = along.clip(0, 1) * directions
    return np.sqrt(((away - nearest) ** 2).sum(0).min((0, 1)))


def draw_all(classes: int, split: str) -> tuple[np.ndarray, np.ndarray]:
    """Pictures uint8 [n, 28, 28] and labels int64 [n].

    split: "train", 10 to 100 drawings of each class; "test", other ones, a fifth as many.
    """
    if classes > 3740:  # as many as HWDB1.0 has
        raise DataError(f"toy strokes have 3,740 classes at most, not {classes}")
    samples = min(max(10, 10_000 // classes), 100)
    if split == "train":
        numbers = range(samples)
    else:
        numbers = range(samples, samples + samples // 5)
    pictures = [draw(0, label, number) for label in range(classes) for number in numbers]
    return np.stack(pictures), np.repeat(np.arange(classes), len(numbers))
