"""Toy bedrooms in one-point perspective, so that the scripts train without a download.

Lengths are metres: x points right from the middle of the room, y up from the floor, z away from the picture
plane. Colours are RGB from 0 to 1.
"""

from typing import NamedTuple

import numpy as np
from PIL import Image, ImageDraw

Colour = tuple[float, float, float]
Range = tuple[float, float]

VIEW = 3.0  # width and height of the square of the picture plane that is the picture
VIEW_MIDDLE = 1.15  # height of its middle above the floor
EYE_X, EYE_Y = 0.0, 1.9
EYE_DISTANCE = 2.2  # from the eye to the picture plane
WIDTH, HEIGHT = 4.0, 2.7  # of every room: rooms of many shapes would look blurred at 32x32
BACK_WALL = 2.1  # z of the back wall
GRAIN = 6.0  # standard deviation in grey levels: without it D would tell generated walls by their noise

# Every room has one kind of wall and of cloth, slightly varied.
WALLS = [
    (0.94, 0.88, 0.76),  # cream
    (0.76, 0.85, 0.94),  # pale blue
    (0.79, 0.89, 0.76),  # pale green
    (0.95, 0.81, 0.79),  # rose
]
CLOTHS = [
    (0.70, 0.30, 0.26),  # red
    (0.30, 0.44, 0.68),  # blue
    (0.34, 0.54, 0.42),  # green
    (0.84, 0.70, 0.38),  # yellow
]
FLOOR = (0.68, 0.52, 0.37)
WOOD = (0.48, 0.33, 0.22)
CEILING = (0.93, 0.92, 0.90)
WHITE = (0.96, 0.95, 0.92)


class Hour(NamedTuple):
    """What is seen through the window, and the light: everywhere, round the window, round the lamp."""

    sky: Colour
    land: Colour
    daylight: Colour
    window_light: Colour
    lamplight: Colour


HOURS = [
    Hour(  # day
        sky=(0.50, 0.75, 0.98),
        land=(0.40, 0.62, 0.34),
        daylight=(0.86, 0.86, 0.86),
        window_light=(0.22, 0.22, 0.20),
        lamplight=(0.00, 0.00, 0.00),
    ),
    Hour(  # sunset
        sky=(0.98, 0.66, 0.44),
        land=(0.50, 0.38, 0.38),
        daylight=(0.82, 0.76, 0.71),
        window_light=(0.14, 0.08, 0.03),
        lamplight=(0.04, 0.03, 0.01),
    ),
    Hour(  # night
        sky=(0.18, 0.24, 0.50),
        land=(0.12, 0.15, 0.28),
        daylight=(0.56, 0.57, 0.64),
        window_light=(0.00, 0.01, 0.04),
        lamplight=(0.30, 0.23, 0.12),
    ),
]


class Scene(NamedTuple):
    """All that is random in a room."""

    bed_x: float  # of its middle
    window_x: float  # of its middle
    hour: Hour
    brightness: float  # of all light
    wall: Colour
    cloth: Colour  # of the blanket
    floor: Colour
    wood: Colour  # of the bed


def choose_scene(rng: np.random.Generator) -> Scene:
    """A room with the window above the head of the bed, more or less."""
    bed_x = rng.uniform(-0.6, 0.6)
    return Scene(
        bed_x=bed_x,
        window_x=bed_x + rng.uniform(-0.2, 0.2),
        hour=HOURS[rng.integers(len(HOURS))],
        brightness=rng.uniform(0.9, 1.05),
        wall=vary(WALLS[rng.integers(len(WALLS))], rng),
        cloth=vary(CLOTHS[rng.integers(len(CLOTHS))], rng),
        floor=shade(FLOOR, rng.uniform(0.85, 1.1)),
        wood=shade(WOOD, rng.uniform(0.8, 1.2)),
    )


def vary(colour: Colour, rng: np.random.Generator) -> Colour:
    """The colour, a little lighter or darker and a little off."""
    varied = np.array(colour) * rng.uniform(0.92, 1.04) + rng.uniform(-0.03, 0.03, 3)
    red, green, blue = varied.clip(0, 1)
    return red, green, blue


def shade(colour: Colour, factor: float) -> Colour:
    """The colour times `factor`."""
    red, green, blue = colour
    return red * factor, green * factor, blue * factor


class Canvas:
    """A square picture, `pixels` wide, to be painted from the back to the front with rectangles."""

    def __init__(self, pixels: int):
        self.pixels = pixels
        self.image = Image.new("RGB", (pixels, pixels))
        self.draw = ImageDraw.Draw(self.image)

    def project(self, x: float, y: float, z: float) -> tuple[float, float]:
        """Where a point is seen: pixels from the left and from the top."""
        shrink = EYE_DISTANCE / (EYE_DISTANCE + z)
        seen_x = EYE_X + (x - EYE_X) * shrink  # on the picture plane, in metres
        seen_y = EYE_Y + (y - EYE_Y) * shrink
        from_left = VIEW / 2 + seen_x
        from_top = VIEW / 2 - (seen_y - VIEW_MIDDLE)
        return from_left * self.pixels / VIEW, from_top * self.pixels / VIEW

    def paint(self, corners: list[tuple[float, float, float]], colour: Colour) -> None:
        """A polygon with these corners (x, y, z)."""
        red, green, blue = colour
        places = [self.project(x, y, z) for x, y, z in corners]
        self.draw.polygon(places, fill=(int(255 * red), int(255 * green), int(255 * blue)))

    def front(self, x: Range, y: Range, z: float, colour: Colour) -> None:
        """A rectangle that faces us."""
        (left, right), (low, high) = x, y
        self.paint([(left, low, z), (right, low, z), (right, high, z), (left, high, z)], colour)

    def side(self, x: float, y: Range, z: Range, colour: Colour) -> None:
        """A rectangle that faces left or right."""
        (low, high), (near, far) = y, z
        self.paint([(x, low, near), (x, high, near), (x, high, far), (x, low, far)], colour)

    def flat(self, x: Range, y: float, z: Range, colour: Colour) -> None:
        """A rectangle that faces up or down."""
        (left, right), (near, far) = x, z
        self.paint([(left, y, near), (right, y, near), (right, y, far), (left, y, far)], colour)

    def box(self, x: Range, y: Range, z: Range, colour: Colour) -> None:
        """A box that stands below the eye: the side that is seen, if one is, its top and its front."""
        if EYE_X < x[0]:
            self.side(x[0], y, z, shade(colour, 0.78))
        if EYE_X > x[1]:
            self.side(x[1], y, z, shade(colour, 0.78))
        self.flat(x, y[1], z, colour)
        self.front(x, y, z[0], shade(colour, 0.86))


def paint_walls(canvas: Canvas, scene: Scene) -> None:
    """The back wall, the side walls, ceiling and floor."""
    x, y = (-WIDTH / 2, WIDTH / 2), (0, HEIGHT)
    z = (-1.2, BACK_WALL)  # from in front of the picture plane, so that they reach the edges of the picture
    canvas.front(x, y, BACK_WALL, scene.wall)
    canvas.side(x[0], y, z, shade(scene.wall, 0.84))
    canvas.side(x[1], y, z, shade(scene.wall, 0.84))
    canvas.flat(x, HEIGHT, z, CEILING)
    canvas.flat(x, 0, z, scene.floor)


def paint_window(canvas: Canvas, scene: Scene) -> None:
    """A window in the back wall, with a view."""
    x = scene.window_x
    canvas.front((x - 0.90, x + 0.90), (1.15, 2.40), BACK_WALL, WHITE)  # frame
    canvas.front((x - 0.80, x + 0.80), (1.15, 2.30), BACK_WALL, scene.hour.sky)
    canvas.front((x - 0.80, x + 0.80), (1.15, 1.50), BACK_WALL, scene.hour.land)
    canvas.front((x - 0.03, x + 0.03), (1.15, 2.30), BACK_WALL, WHITE)  # the bar in its middle


def paint_bed(canvas: Canvas, scene: Scene) -> None:
    """A double bed, its head at the back wall."""
    x = scene.bed_x
    canvas.box((x - 0.85, x + 0.85), (0, 1.0), (BACK_WALL - 0.08, BACK_WALL), scene.wood)  # headboard
    canvas.box((x - 0.85, x + 0.85), (0.1, 0.5), (BACK_WALL - 2.1, BACK_WALL - 0.08), WHITE)  # mattress
    canvas.box((x - 0.75, x - 0.04), (0.5, 0.72), (BACK_WALL - 0.6, BACK_WALL - 0.1), WHITE)  # pillows
    canvas.box((x + 0.04, x + 0.75), (0.5, 0.72), (BACK_WALL - 0.6, BACK_WALL - 0.1), WHITE)
    canvas.box((x - 0.89, x + 0.89), (0.15, 0.56), (BACK_WALL - 2.1, BACK_WALL - 0.9), scene.cloth)  # blanket


def light(canvas: Canvas, scene: Scene, size: int) -> np.ndarray:
    """The light [size, size, 3] by which the picture is multiplied."""
    centres = (np.arange(size, dtype=np.float32) + 0.5) * canvas.pixels / size  # in pixels of the canvas
    radius = canvas.pixels / 2

    def glow(x: float, y: float, colour: Colour) -> np.ndarray:
        """Round the point (x, y) of the back wall."""
        from_left, from_top = canvas.project(x, y, BACK_WALL)
        across = np.exp(-(((centres - from_left) / radius) ** 2))
        down = np.exp(-(((centres - from_top) / radius) ** 2))
        return down[:, None, None] * (across[:, None] * np.array(colour, np.float32))

    window_glow = glow(scene.window_x, 1.6, scene.hour.window_light)
    lamp_glow = glow(scene.bed_x, 1.0, scene.hour.lamplight)  # at the head of the bed
    return scene.brightness * (np.array(scene.hour.daylight, np.float32) + window_glow + lamp_glow)


def room(seed: int, index: int, size: int) -> np.ndarray:
    """Room `index` of `seed` (both >= 0), uint8 RGB [size, size, 3]: pure, the same scene at any size."""
    scene = choose_scene(np.random.default_rng([seed, index, 1]))
    scale = max(2, 192 // size)  # painted larger, then averaged: smooth edges
    canvas = Canvas(size * scale)
    paint_walls(canvas, scene)
    paint_window(canvas, scene)
    paint_bed(canvas, scene)
    pixels = np.asarray(canvas.image.reduce(scale)) * light(canvas, scene, size)
    grain = np.random.default_rng([seed, index, 2]).standard_normal((size, size, 3), np.float32)
    return (pixels + GRAIN * grain).clip(0, 255).astype(np.uint8)
