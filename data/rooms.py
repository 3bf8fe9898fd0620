"""Toy rooms in one-point perspective, so that the scripts train without a download.

A room is boxes (a wall is a flat one), painted back to front, then multiplied by light. x points right, y up,
z away from the camera, with 0 on the floor; one unit is about 1.4 m.
"""

from colorsys import hsv_to_rgb

import numpy as np
from PIL import Image, ImageDraw

# Morning, day, sunset, night: RGB (%) of upper sky, lower sky, hills, light everywhere, light of the window.
MOODS = """62 80 99 99 92 74 50 60 36 72 70 68 50 42 30
40 68 99 84 94 99 42 62 32 74 76 80 40 38 34
74 50 70 99 70 40 36 26 36 62 58 60 50 32 20
20 28 65 40 48 85 10 14 24 46 47 58 20 22 40"""
MOODS = np.array(MOODS.split(), float).reshape(4, 5, 3) / 100
MATERIALS = {  # the least and the greatest hue, saturation and value (%)
    "wall": (0, 100, 5, 45, 75, 95),
    "floor": (4, 11, 20, 60, 50, 85),
    "wood": (3, 10, 30, 70, 30, 85),
    "cloth": (0, 100, 30, 80, 40, 90),
    "pale": (10, 10, 3, 5, 97, 97),
}
# Boxes, back to front: material and x0 x1 y0 y1 z0 z1 in 1/20, z from the back wall. A room is inside out.
PIECES = {
    "room": "wall 20 -20 20 0 0 -15, pale -20 20 20 20 -15 0, floor -20 20 0 0 -15 0",
    "window": "pale -12 12 13 31 0 0, haze -10 10 15 29 0 0, sky -10 10 22 29 0 0, hills -10 10 15 18 0 0",
    "sun": "sun -10 10 0 0 -30 -16",
    "bed": "wood -12 12 0 14 -2 0, pale -11 11 0 7 -28 -2, pale -9 9 7 9 -8 -3, cloth -12 12 2 8 -27 -11",
    "sofa": "cloth -15 15 1 13 -6 0, cloth -15 15 1 6 -16 -6, cloth -18 -13 1 9 -16 0, cloth 13 18 1 9 -16 0",
}
# Corners of a box's left, right, lower, upper and front face, as places in x0 x1 y0 y1 z0 z1.
FACES = "024034035025 124125135134 024025125124 034134135035 024124134034"
FACES = np.array([list(map(int, face)) for face in FACES.split()]).reshape(5, 4, 3)
SHADES = np.array([0.86, 0.74, 0.96, 1, 0.92])[:, None]  # of these faces
RADII = np.array([2.6, 1.1])[:, None, None]  # of the lights, in halves of the picture


def _scene(rng):
    """Height; boxes [n, x0 x1 y0 y1 z0 z1]; their RGB [n, 3]; lights [2, x y z r g b]."""
    w, height, depth = rng.uniform((1.15, 1.7, 2.2), (1.45, 2, 2.9))
    ranges, hour, late = np.array(list(MATERIALS.values())), rng.integers(3), rng.random()
    mood = (1 - late) * MOODS[hour] + late * MOODS[hour + 1]
    hsv = rng.uniform(ranges[:, ::2], ranges[:, 1::2]) / 100
    palette = {name: np.array(hsv_to_rgb(*colour)) for name, colour in zip(MATERIALS, hsv)}
    palette |= dict(zip(("sky", "haze", "hills"), mood)) | {"sun": 1.15 * palette["floor"] + mood[4] / 2}
    window, wide, high = rng.uniform((0.8 - w, 0.7, 0.95), (w - 0.8, 1.05, 1.08))
    plan = [  # piece, its place at the back wall, its scale in x, y and z
        ("room", 0, (w, height, depth)),
        ("window", window, (wide, high, 1)),
        ("sun", window, (wide, 1, rng.uniform(0.6, 1))),
        (("bed", "sofa")[rng.integers(2)], rng.uniform(0.9 - w, w - 0.9), (1, 1, 1)),
    ]
    boxes, colours = [], []
    for piece, x, scale in plan:
        for box in PIECES[piece].split(","):
            material, *numbers = box.split()
            boxes.append(np.array(numbers, float) / 20 * np.repeat(scale, 2) + (x, x, 0, 0, depth, depth))
            colours.append(palette[material])
    lights = (0, 1, depth, *mood[3]), (window, 1.2, depth, *mood[4])
    return height, np.array(boxes), np.array(colours), np.array(lights, np.float32)


def room(seed: int, index: int, size: int) -> np.ndarray:
    """Room `index` of `seed` (both >= 0), uint8 RGB [size, size, 3]: pure, the same scene at any size."""
    rng = np.random.default_rng([seed, index])
    mirrored, eye = rng.random() < 0.5, rng.uniform((-0.35, 0.85), (0.35, 1.15))
    height, boxes, colours, lights = _scene(rng)
    scale = max(2, 192 // size)  # painted larger, then averaged: smooth edges
    half = size * scale / 2

    def project(points):  # the lens shifts against the eye, so that the room at z = 1 fills the picture
        seen = eye + (points[..., :2] - eye) / points[..., 2:]
        return half * (1 + (1, -1) * (seen - (0, height / 2)))

    corners = project(boxes[:, FACES])  # [n, 5, 4, x and y]
    seen = np.linalg.det(corners[:, :, 2:] - corners[:, :, :2]) < 0  # faces that are not turned away
    fills = np.minimum(255 * SHADES * colours[:, None], 255).astype(int)
    image = Image.new("RGB", (size * scale, size * scale))
    draw = ImageDraw.Draw(image)
    for face, fill in zip(corners[seen].reshape(-1, 8).tolist(), fills[seen].tolist()):
        draw.polygon(face, tuple(fill))
    # A light is a round glow in the picture, a column times a row: their sum is one product of matrices.
    away = (np.arange(0.5, size) * scale - project(lights[:, :3])[..., None]) / half
    x, y = np.exp(-np.square(away / RADII)).astype(np.float32).swapaxes(0, 1)  # [2, size] each
    light = y.T @ (x[:, :, None] * lights[:, None, 3:]).reshape(2, -1)
    pixels = np.minimum(np.asarray(image.reduce(scale)) * light.reshape(size, size, 3), 255).astype(np.uint8)
    return pixels[:, ::-1].copy() if mirrored else pixels
