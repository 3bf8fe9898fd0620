"""Toy rooms: a function of seed and index, one scene at every size, all different, built like bedrooms."""

import random

import numpy as np
import pytest

from data.rooms import BACK_WALL, CLOTHS, HOURS, WALLS, Canvas, choose_scene, room


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


def test_no_two_rooms_are_alike(rooms):
    flat = rooms.reshape(1000, -1).astype(np.float32)
    squares = (flat**2).sum(1)
    distances = squares[:, None] + squares - 2 * flat @ flat.T
    np.fill_diagonal(distances, np.inf)
    assert distances.min() / flat.shape[1] > 6**2  # grey levels; they have much in common
    assert rooms.std(0).mean() > 30
    assert (rooms.std((1, 2, 3)) > 25).all()  # none is empty


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
    blanket = seen_at(rooms, scenes, lambda scene: (scene.bed_x, 0.56, BACK_WALL - 1.4))
    pillow = seen_at(rooms, scenes, lambda scene: (scene.bed_x - 0.4, 0.72, BACK_WALL - 0.4))
    assert (pillow.sum(1) > blanket.sum(1)).mean() > 0.97
    cloth = np.array([scene.cloth for scene in scenes])
    same = blanket.argmax(1) == cloth.argmax(1)
    assert same.mean() > 0.85  # the others are in the warm light of lamp or sunset

    sky = seen_at(rooms, scenes, lambda scene: (scene.window_x + 0.3, 1.8, BACK_WALL))
    hours = np.array([HOURS.index(scene.hour) for scene in scenes])
    assert (sky[hours == 0].argmax(1) == 2).all()  # blue by day,
    assert (sky[hours == 1].argmax(1) == 0).all()  # red at sunset,
    assert sky[hours == 2].max() < 130 < sky[hours == 0].max(1).min()  # dark at night


def test_there_are_several_kinds_of_wall_and_bed_at_all_hours(scenes):
    def nearest(kinds, colour):
        return int(np.square(np.array(kinds) - colour).sum(1).argmin())

    found = {
        (nearest(WALLS, scene.wall), nearest(CLOTHS, scene.cloth), HOURS.index(scene.hour))
        for scene in scenes
    }
    assert len(found) == len(WALLS) * len(CLOTHS) * len(HOURS) == 48  # in all combinations


def test_colours_are_natural(scenes):
    """No wall of any hue at all: pale walls, cloths that are darker or stronger."""
    walls, cloths = np.array([[scene.wall, scene.cloth] for scene in scenes]).swapaxes(0, 1)
    assert (walls.max(1) - walls.min(1)).max() < 0.4 and walls.max(1).min() > 0.7
    assert (cloths.max(1) - cloths.min(1)).min() > 0.1 and cloths.min(1).max() < 0.5


def test_light_varies(rooms):
    brightness = rooms.mean((1, 2, 3))
    assert 40 < brightness.min() and brightness.max() < 220 and brightness.std() > 10
    warmth = (rooms[:, :4, :, 0].astype(float) - rooms[:, :4, :, 2]).mean((1, 2))
    assert (warmth > 20).mean() > 0.2 and (warmth < 5).mean() > 0.2  # sunset, and day or night


def test_bad_numbers_are_refused():
    with pytest.raises(ValueError):
        room(0, -1, 32)
