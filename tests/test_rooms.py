"""Toy rooms: a function of seed and index, one scene at every size, all different, built like bedrooms."""

import random

import numpy as np
import pytest

from data.rooms import BACK_WALL, BLANKETS, HOURS, WALLS, Canvas, blend, choose_scene, room


@pytest.fixture(scope="module")
def rooms():
    return np.stack([room(0, index, 32) for index in range(1000)])


@pytest.fixture(scope="module")
def scenes():
    """What those rooms show."""
    return [choose_scene(np.random.default_rng([0, index, 1])) for index in range(1000)]


def seen_at(pictures, scenes, find):
    """float [n, 3]: each picture's pixel where the point find(scene) -> (x, y, z) is seen."""
    pixels = []
    for picture, scene in zip(pictures, scenes):
        from_left, from_top = Canvas(len(picture)).project(*find(scene))
        pixels.append(picture[int(from_top), int(from_left)])
    return np.array(pixels, float)


def test_a_room_is_a_function_of_seed_and_index(rooms):
    again = [room(0, index, 32) for index in (999, 5, 0)]  # in another order
    assert np.array_equal(again, rooms[[999, 5, 0]])
    assert not np.array_equal(room(1, 5, 32), rooms[5])


def test_global_generators_are_neither_used_nor_moved(rooms):
    np.random.seed(1)
    random.seed(1)
    numpy_state, python_state = np.random.get_state(), random.getstate()
    assert np.array_equal(room(0, 7, 32), rooms[7])
    assert python_state == random.getstate()
    assert all(np.array_equal(a, b) for a, b in zip(numpy_state, np.random.get_state()))


@pytest.mark.parametrize("size", [16, 32, 48, 64, 112, 128, 256])
def test_any_size_shows_the_same_scene(size):
    for index in range(20):
        picture, large = room(0, index, size), room(0, index, size * 2)
        assert (picture.dtype, picture.shape) == (np.uint8, (size, size, 3))
        assert picture.flags.c_contiguous and picture.flags.writeable
        small = large.reshape(size, 2, size, 2, 3).mean((1, 3))
        assert np.abs(small - picture).mean() < 7  # grey levels, mostly grain; other rooms are 40 apart


def test_rooms_differ_and_none_is_empty(rooms):
    assert rooms.std(0).mean() > 15  # grey levels; the grain's are 4
    assert (rooms.std((1, 2, 3)) > 25).all()


def test_a_room_has_a_pale_ceiling_a_wooden_floor_and_corners(rooms):
    pictures = rooms.astype(float)
    ceiling, floor = pictures[:, 0, 10:22].mean(1), pictures[:, -1, [2, 3, -4, -3]].mean(1)
    assert (ceiling.mean(1) > floor.mean(1)).mean() > 0.97
    red, green, blue = floor.T
    assert ((red > green) & (green > blue)).mean() > 0.97 and (ceiling.min(1) / ceiling.max(1)).mean() > 0.8
    # The edges of the side walls run to the middle: down the middle the ceiling ends early, at the side late.
    mean = pictures.mean((0, 3))
    edges = np.abs(np.diff(mean[:6], axis=0)).argmax(0)
    assert edges[5] > edges[0] and edges[-6] > edges[-1]
    assert np.abs(mean - mean[:, ::-1]).mean() < 4  # left and right are equally likely


def test_a_room_has_a_bed_with_white_pillows_below_its_window(rooms, scenes):
    blanket = seen_at(rooms, scenes, lambda scene: (scene.bed, 0.56, BACK_WALL - 1.4))
    pillow = seen_at(rooms, scenes, lambda scene: (scene.bed - 0.4, 0.72, BACK_WALL - 0.4))
    assert (pillow.sum(1) > blanket.sum(1)).mean() > 0.97
    colour = np.array([scene.blanket for scene in scenes])
    same = blanket.argmax(1) == colour.argmax(1)
    assert same.mean() > 0.8  # the others are in the warm light of lamp or sunset

    sky = seen_at(rooms, scenes, lambda scene: (scene.bed + 0.3, 1.8, BACK_WALL))
    hours = nearest([hour.sky for hour in HOURS], [scene.hour.sky for scene in scenes])
    blue = sky[:, 2] - sky[:, 0]
    assert blue[hours == 0].mean() > 20 and blue[hours == 1].mean() < -50  # blue by day, red at sunset,
    assert sky[hours == 2].mean() < 90 < sky[hours == 1].mean() < sky[hours == 0].mean()  # dark at night


def nearest(kinds, colours):
    """The place in `kinds` that is nearest to each colour: int [n]."""
    squares = np.square(np.array(colours)[:, None] - np.array(kinds)).sum(2)
    return squares.argmin(1)


def test_there_are_several_kinds_of_wall_and_bed_at_all_hours(scenes):
    walls = nearest(WALLS, [scene.wall for scene in scenes])
    blankets = nearest(BLANKETS, [scene.blanket for scene in scenes])
    hours = nearest([hour.sky for hour in HOURS], [scene.hour.sky for scene in scenes])
    assert len(set(zip(walls, blankets, hours))) == 4 * 4 * 3  # all combinations


def test_scenes_vary_continuously(scenes):
    """No two share a colour or an hour, and those in between two kinds are as likely as the kinds."""
    for name in ("bed", "hour", "wall", "blanket"):
        assert len({str(getattr(scene, name)) for scene in scenes}) > 990
    skies = np.sort([scene.hour.sky[2] for scene in scenes])
    assert np.diff(skies).max() < 0.02


def test_blend():
    kinds = [(0.0, 0.0, 0.0), (1.0, 0.5, 0.0), (0.0, 0.0, 1.0)]
    assert blend(kinds, 1.0).tolist() == [1, 0.5, 0]
    assert blend(kinds, 0.25).tolist() == [0.25, 0.125, 0]
    assert blend(kinds[::-1], 2.75).tolist() == [0, 0, 0.75]  # after the last comes the first


def test_colours_are_natural(scenes):
    """No wall of any hue at all: pale walls, blankets that are darker or stronger."""
    walls = np.array([scene.wall for scene in scenes])
    blankets = np.array([scene.blanket for scene in scenes])
    assert (walls.max(1) - walls.min(1)).max() < 0.2 and walls.max(1).min() > 0.8
    assert (blankets.max(1) - blankets.min(1)).min() > 0.1 and blankets.min(1).max() < 0.5


def test_light_varies(rooms):
    brightness = rooms.mean((1, 2, 3))
    assert 40 < brightness.min() and brightness.max() < 220 and brightness.std() > 10
    warmth = (rooms[:, :4, :, 0].astype(float) - rooms[:, :4, :, 2]).mean((1, 2))
    assert (warmth > 35).mean() > 0.2 and (warmth < 20).mean() > 0.2  # sunset, and day or night


def test_bad_numbers_are_refused():
    with pytest.raises(ValueError):
        room(0, -1, 32)
