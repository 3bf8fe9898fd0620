"""Toy rooms: interiors in one-point perspective, so that the scenes script trains without a download.

A room is a list of coloured polygons in 3-D, painted back to front and multiplied by light. x points right, y up
from the floor, z away from the camera; one unit is about 1.4 m. Colours are RGB in 0..1.
"""

from colorsys import hsv_to_rgb

import numpy as np
from PIL import Image, ImageDraw

# Day, morning, sunset, night: upper sky, lower sky, hills, light everywhere, light of the window, of the lamp.
MOODS = (
    ((0.40, 0.66, 1.0), (0.84, 0.94, 1.0), (0.42, 0.62, 0.32), (0.66, 0.68, 0.72), (0.40, 0.38, 0.34), (0, 0, 0)),
    ((0.62, 0.80, 1.0), (1.0, 0.92, 0.74), (0.50, 0.60, 0.36), (0.62, 0.60, 0.60), (0.50, 0.42, 0.28), (0, 0, 0)),
    ((0.70, 0.45, 0.66), (1.0, 0.66, 0.36), (0.36, 0.26, 0.36), (0.5, 0.44, 0.48), (0.6, 0.36, 0.2), (0.4, 0.3, 0.1)),
    ((0.16, 0.24, 0.60), (0.36, 0.44, 0.80), (0.10, 0.14, 0.26), (0.34, 0.35, 0.5), (0.2, 0.22, 0.4), (0.9, 0.6, 0.3)),
)
# Boxes in painting order: material, x0, x1, y0, y1, and how far front and back are from the back wall.
BED = (
    ("wood", -0.58, 0.58, 0.00, 0.72, 0.08, 0.00),
    ("wood", -0.54, 0.54, 0.06, 0.22, 1.40, 0.08),
    ("pale", -0.52, 0.52, 0.22, 0.36, 1.38, 0.08),
    ("cloth", -0.55, 0.55, 0.14, 0.40, 1.36, 0.60),
    ("pale", -0.46, -0.04, 0.36, 0.46, 0.40, 0.12),
    ("pale", 0.04, 0.46, 0.36, 0.46, 0.40, 0.12),
)
SOFA = (
    ("cloth", -0.75, 0.75, 0.05, 0.64, 0.28, 0.06),
    ("cloth", -0.75, 0.75, 0.05, 0.32, 0.78, 0.28),
    ("cloth", -0.80, -0.62, 0.05, 0.46, 0.80, 0.06),
    ("cloth", 0.62, 0.80, 0.05, 0.46, 0.80, 0.06),
    ("accent", -0.56, -0.24, 0.34, 0.60, 0.40, 0.30),
    ("accent", 0.24, 0.56, 0.34, 0.60, 0.40, 0.30),
)
TABLE = (
    ("wood", -0.50, -0.45, 0.00, 0.50, 0.50, 0.45),
    ("wood", 0.45, 0.50, 0.00, 0.50, 0.50, 0.45),
    ("cloth", -0.80, -0.50, 0.26, 0.32, 0.85, 0.55),
    ("cloth", -0.84, -0.78, 0.00, 0.72, 0.85, 0.55),
    ("cloth", 0.50, 0.80, 0.26, 0.32, 0.85, 0.55),
    ("cloth", 0.78, 0.84, 0.00, 0.72, 0.85, 0.55),
    ("wood", -0.50, -0.45, 0.00, 0.50, 1.00, 0.95),
    ("wood", 0.45, 0.50, 0.00, 0.50, 1.00, 0.95),
    ("wood", -0.56, 0.56, 0.50, 0.56, 1.05, 0.42),
    ("accent", -0.08, 0.06, 0.56, 0.74, 0.76, 0.66),
)


def _quad(colour, x0, x1, y0, y1, z0, z1):
    """An axis-parallel rectangle: one of the three pairs is equal."""
    if x0 == x1:
        return colour, ((x0, y0, z0), (x0, y0, z1), (x0, y1, z1), (x0, y1, z0))
    return colour, ((x0, y0, z0), (x1, y0, z0), (x1, y1, z1), (x0, y1, z1))


def _shade(colour, factor):
    return tuple(c * factor for c in colour)


def _box(colour, x0, x1, y0, y1, z0, z1):
    """Sides, top, front: in this order each hides what a viewer in front of the box cannot see."""
    side = _shade(colour, 0.7)
    return [
        _quad(side, x0, x0, y0, y1, z0, z1),
        _quad(side, x1, x1, y0, y1, z0, z1),
        _quad(_shade(colour, 1.1), x0, x1, y1, y1, z0, z1),
        _quad(_shade(colour, 0.88), x0, x1, y0, y1, z0, z0),
    ]


def _scene(rng):
    """Faces (colour, 3-D corners) back to front, lights (x, y, z, radius, colour), eye (x, y)."""

    def between(low, high):
        return low + (high - low) * rng.random()

    def paint(hue, saturation, value):
        return hsv_to_rgb(hue % 1, between(*saturation), between(*value))

    w, h, depth = between(1.0, 1.35), between(1.65, 2.0), between(2.2, 3.0)
    eye = between(-0.35, 0.35), between(0.85, 1.15)
    sky, haze, hills, ambient, sun, glow = MOODS[int(4 * rng.random())]
    hue = rng.random()
    wall = paint(hue, (0.05, 0.4), (0.75, 0.95))
    floor = paint(between(0.04, 0.11), (0.2, 0.6), (0.35, 0.75))
    accent = paint(between(0, 1), (0.5, 0.85), (0.5, 0.95))
    colours = {
        "wood": paint(between(0.03, 0.1), (0.3, 0.7), (0.25, 0.8)),
        "pale": paint(0.12, (0.02, 0.12), (0.9, 1.0)),
        "cloth": paint(hue + between(0.3, 0.7), (0.3, 0.8), (0.35, 0.9)),
        "accent": accent,
    }
    # The shell: ceiling, floor, walls, each with a skirting board.
    near = 0.6
    faces = [
        _quad((0.95, 0.95, 0.93), -w, w, h, h, near, depth),
        _quad(floor, -w, w, 0, 0, near, depth),
    ]
    trim = colours["pale"]
    dado = _shade(wall, between(0.6, 0.9)) if rng.random() < 0.35 else wall
    for x0, x1, z0, z1, k in ((-w, -w, near, depth, 0.82), (w, w, near, depth, 0.9), (-w, w, depth, depth, 1.0)):
        faces.append(_quad(_shade(wall, k), x0, x1, 0, h, z0, z1))
        faces.append(_quad(_shade(dado, k), x0, x1, 0, 0.55, z0, z1))
        faces.append(_quad(_shade(trim, k), x0, x1, 0, 0.09, z0, z1))
    # The window, in the back wall or in the left one; `at` takes a place along the wall and a height.
    back = rng.random() < 0.5
    if back:
        at = lambda s, y: (s, y, depth)
        middle, dx, dz = between(-0.45, 0.45), between(-0.4, 0.4), between(-1.2, -0.5)
        s0, s1 = middle - between(0.3, 0.5), middle + between(0.3, 0.5)
    else:
        at = lambda s, y: (-w, y, s)
        dx, dz = between(0.6, 1.1), between(-0.3, 0.3)
        s0, s1 = between(1.2, 1.4), depth - between(0.2, 0.4)
    y0, y1 = between(0.6, 0.8), between(1.4, 1.55)

    def pane(colour, s0, s1, y0, y1):
        return colour, (at(s0, y0), at(s1, y0), at(s1, y1), at(s0, y1))

    faces.append(pane(trim, s0 - 0.05, s1 + 0.05, y0 - 0.06, y1 + 0.05))
    mid = (s0 + s1) / 2
    for a, b in ((s0, mid - 0.02), (mid + 0.02, s1)):
        split = y0 + (y1 - y0) * 0.5
        faces.append(pane(haze, a, b, y0, y1))
        faces.append(pane(sky, a, b, split, y1))
        faces.append(pane(hills, a, b, y0, y0 + 0.15))
        # Sunlight follows (dx, -1, dz) through the pane to the floor.
        patch = [(x + dx * y, 0, z + dz * y) for x, y, z in pane(None, a, b, y0, y1)[1]]
        patch = [(min(max(x, -w), w), y, min(max(z, near), depth)) for x, y, z in patch]
        faces.append((tuple(f * 1.15 + 0.45 * s for f, s in zip(floor, sun)), patch))
    curtain = colours["cloth"] if rng.random() < 0.5 else accent
    if rng.random() < 0.7:
        faces.append(pane(curtain, s0 - 0.18, s0 + 0.06, 0.12, y1 + 0.12))
        faces.append(pane(curtain, s1 - 0.06, s1 + 0.18, 0.12, y1 + 0.12))
    for k in range(1, 10):
        x = w * (k / 5 - 1)
        faces.append(_quad(_shade(floor, 0.85), x - 0.008, x + 0.008, 0, 0, near, depth))
    x = between(-0.3, 0.3)
    kind = (BED, SOFA, TABLE)[int(3 * rng.random())]
    for material, a, b, low, high, front, rear in kind:
        faces += _box(colours[material], x + a, x + b, low, high, depth - front, depth - rear)
    window = at(mid, (y0 + y1) / 2)
    lights = [(0, 1, depth, 2.0, ambient), (*window, 1.2, sun), (x + 0.8, 1, depth - 0.4, 0.8, glow)]
    return faces, lights, eye, h


def room(seed: int, index: int, size: int) -> np.ndarray:
    """Room `index` of `seed` (both >= 0) as uint8 RGB `[size, size, 3]`: a pure function, one scene at all sizes."""
    rng = np.random.default_rng([seed, index])
    faces, lights, (eye_x, eye_y), height = _scene(rng)
    scale = max(2, 192 // size)  # painted larger, then averaged: smooth edges
    half = size * scale / 2
    drop = height / 2

    def project(x, y, z):
        # The camera's shifted lens keeps the room's opening at z = 1 in place wherever the eye is.
        return half * (1 + eye_x + (x - eye_x) / z), half * (1 + drop - eye_y - (y - eye_y) / z)

    image = Image.new("RGB", (size * scale, size * scale))
    draw = ImageDraw.Draw(image)
    for colour, corners in faces:
        fill = tuple(int(255 * min(c, 1)) for c in colour)
        draw.polygon([project(*corner) for corner in corners], fill=fill)
    pixels = np.asarray(image.reduce(scale))
    line = (np.arange(size, dtype=np.float32) + 0.5) * scale
    rows, columns = [], []
    for x, y, z, radius, colour in lights:
        u, v = project(x, y, z)
        r = radius * half
        rows.append(np.exp(-(((line - v) / r) ** 2)))
        columns.append(np.outer(np.exp(-(((line - u) / r) ** 2)), colour).ravel())
    light = np.stack(rows, 1) @ np.stack(columns)
    pixels = np.minimum(pixels * light.reshape(size, size, 3), 255).astype(np.uint8)
    return np.ascontiguousarray(pixels[:, ::-1]) if rng.random() < 0.5 else pixels
