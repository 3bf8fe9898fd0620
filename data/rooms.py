"""Toy rooms in one-point perspective, so that the scripts train without a download; every tenth has a cat.

A room is boxes (a wall is a flat one), painted back to front, then multiplied by light. x points right, y up,
z away from the camera, with 0 on the floor; one unit is about 1.4 m.
"""

from colorsys import hsv_to_rgb

import numpy as np
from PIL import Image, ImageDraw

# Day, morning, sunset, night: RGB (%) of upper sky, lower sky, hills, light everywhere, of window, of lamp.
MOODS = """40 68 99 84 94 99 42 62 32 74 76 80 40 38 34 0 0 0
62 80 99 99 92 74 50 60 36 72 70 68 50 42 30 0 0 0
74 50 70 99 70 40 36 26 36 62 58 60 50 32 20 30 20 9
20 28 65 40 48 85 10 14 24 46 47 58 20 22 40 70 50 30"""
MOODS = np.array(MOODS.split(), float).reshape(4, 6, 3) / 100
# Materials: the least and the greatest hue, saturation and value (%).
MATERIALS = """wall 0 100 5 45 75 95, dado 0 100 5 30 60 90, floor 4 11 20 60 50 85, wood 3 10 30 70 30 85,
cloth 0 100 30 80 40 90, accent 0 100 40 80 55 95, leaf 25 40 60 60 40 70, fur 7 7 0 80 20 100,
pale 10 10 3 5 97 97, light 12 12 25 25 100 100, dark 5 5 30 30 20 25"""
# Pieces: boxes back to front, each a material and x0 x1 y0 y1 z0 z1 in 1/20. A box inside out is a room.
PIECES = """room: wall 20 -20 20 0 20 5, dado 20 -20 6 0 20 5, pale 20 -20 1 0 20 5, pale -20 20 20 20 5 20,
floor -20 20 0 0 5 20, shade -15 -14.8 0 0 5 20, shade -9 -8.8 0 0 5 20, shade -3 -2.8 0 0 5 20,
shade 3 3.2 0 0 5 20, shade 9 9.2 0 0 5 20, shade 15 15.2 0 0 5 20;
window: pale -12 12 15 31 0 0, haze -11 11 16 30 0 0, sky -11 11 23 30 0 0, hills -11 11 16 19 0 0,
pale -.4 .4 16 30 0 0, accent -15 -10 2 32 0 0, accent 10 15 2 32 0 0;
sun: sun -10 -.5 0 0 -30 -16, sun .5 10 0 0 -30 -16;
picture: dark -6 6 20 28 0 0, pale -5.5 5.5 20.5 27.5 0 0, cloth -4 4 22 26 0 0, accent -3 0 22 25 0 0;
bed: shade -14 14 0 0 -28 0, wood -12 12 0 14 -2 0, wood -11 11 1 4 -28 -2, pale -11 11 4 7 -28 -2,
pale -9 -1 7 9 -8 -3, pale 1 9 7 9 -8 -3, cloth -12 12 3 8 -27 -12;
sofa: accent -18 18 0 0 -31 -8, pale -16 16 0 0 -29 -10, cloth -15 15 1 13 -6 -1, cloth -15 15 1 6 -16 -6,
accent -11 -5 6 11 -8 -6, accent 5 11 6 11 -8 -6, cloth -17 -12 1 9 -16 -1, cloth 12 17 1 9 -16 -1,
wood -7 7 0 4 -26 -20;
table: shade -12 12 0 0 -20 -8, cloth -16 -9 0 6 -18 -9, cloth -17 -16 0 15 -18 -9, cloth 9 16 0 6 -18 -9,
cloth 16 17 0 15 -18 -9, wood -10 -8 0 10 -20 -9, wood 8 10 0 10 -20 -9, wood -12 12 10 11 -21 -8;
shelf: wood -8 0 0 29 -22 -4, dark -8 -8 2 9 -21 -5, cloth -8 -8 2 7 -20 -12, dark -8 -8 11 18 -21 -5,
accent -8 -8 11 16 -20 -15, pale -8 -8 11 15 -14 -10, dark -8 -8 20 27 -21 -5, cloth -8 -8 20 25 -17 -6;
lamp: dark -7 -1 0 .5 -7 -1, dark -4.4 -3.6 0 20 -4.4 -3.6, light -8 0 19 25 -8 0;
plant: accent -7 -1 0 5 -7 -1, dark -4.4 -3.6 5 9 -4.4 -3.6, leaf -9 0 9 17 -9 0, leaf -7 -1 17 21 -7 -1;
cat: fur -2 2 0 3 -2 0, fur -2 2 3 5 -3 -1, fur -2 -1 5 6 -2 -1, fur 1 2 5 6 -2 -1, fur 2 5 0 1 -2 -1"""
# Corners of a box's left, right, lower, upper and front face, as places in x0 x1 y0 y1 z0 z1.
FACES = "024034035025 124125135134 024025125124 034134135035 024124134034"
FACES = np.array([list(map(int, face)) for face in FACES.split()]).reshape(5, 4, 3)
SHADES = np.array([0.86, 0.74, 0.96, 1, 0.92])[:, None]
RADII = np.array([2.6, 1.1, 0.8])[:, None, None]  # of the lights, in halves of the picture


def _table(text):
    """The names and the numbers [n, 3, 2] of "name number ..., name number ..."."""
    names, *numbers = zip(*(row.split() for row in text.split(",")))
    return names, np.array(numbers, float).T.reshape(-1, 3, 2)


NAMES, RANGES = _table(MATERIALS)
PIECES = {piece.strip(): _table(boxes) for piece, boxes in (text.split(":") for text in PIECES.split(";"))}


def _scene(rng):
    """Height; boxes [n, x0 x1 y0 y1 z0 z1]; their RGB [n, 3]; lights [3, x y z r g b]."""
    w, height, depth = rng.uniform((1.15, 1.7, 2.2), (1.45, 2, 2.9))
    mood, back = MOODS[rng.integers(4)], rng.random() < 0.5
    hsv = rng.uniform(RANGES[..., 0], RANGES[..., 1]) / 100
    palette = {name: np.array(hsv_to_rgb(*colour)) for name, colour in zip(NAMES, hsv.tolist())}
    palette |= {"sun": 1.15 * palette["floor"] + mood[4] / 2, "shade": 0.7 * palette["floor"]}
    palette |= {"sky": mood[0], "haze": mood[1], "hills": mood[2]}
    # The window is in the back wall and a picture on the left one, or the other way round.
    spots = (rng.uniform(0.8 - w, w - 0.8), depth), (-w, depth - rng.uniform(0.8, 0.95))
    window, picture = spots if back else spots[::-1]
    size = np.array([rng.uniform(0.7, 1.05), rng.uniform(0.95, 1.08), 1])
    plan = [  # piece, its place x, z, its scale, whether it is turned to face right
        ("room", 0, 0, (w, height, depth), False),
        ("window", *window, size, not back),
        ("sun", *window, size * (1, 1, rng.uniform(0.6, 1)), not back),
        ("picture", *picture, rng.uniform(0.9, 1.2), back),
        (("shelf", "lamp", "plant")[rng.integers(3)], w, depth, 1, False),
        (("bed", "sofa", "table")[rng.integers(3)], rng.uniform(0.9 - w, w - 1.3), depth, 1, False),
        ("cat", rng.uniform(-0.5, 0.5), 1.2, 1, False),
    ]
    boxes, colours = [], []
    for piece, x, z, scale, turned in plan if rng.random() < 0.1 else plan[:-1]:
        names, shape = PIECES[piece]
        shape = shape / 20 * np.reshape(scale, (-1, 1))
        if turned:
            shape = shape[:, ::-1] * ((-1,), (1,), (1,))
        boxes.append(shape + ((x,), (0,), (z,)))
        colours.extend(palette[name] for name in names)
    lights = (0, 1, depth, *mood[3]), (window[0], 1.2, window[1], *mood[4]), (w - 0.2, 1.2, depth, *mood[5])
    return height, np.concatenate(boxes).reshape(-1, 6), np.array(colours), np.array(lights, np.float32)


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
    x, y = np.exp(-np.square(away / RADII)).astype(np.float32).swapaxes(0, 1)  # [3, size] each
    light = y.T @ (x[:, :, None] * lights[:, None, 3:]).reshape(3, -1)
    pixels = np.minimum(np.asarray(image.reduce(scale)) * light.reshape(size, size, 3), 255).astype(np.uint8)
    return pixels[:, ::-1].copy() if mirrored else pixels
