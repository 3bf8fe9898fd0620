"""Toy rooms: a function of seed and index, one scene at every size, all different, and built like rooms."""

import random

import numpy as np
import pytest

from data.rooms import room


@pytest.fixture(scope="module")
def rooms():
    return np.stack([room(0, index, 32) for index in range(1000)])


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
        assert np.abs(small - picture).mean() < 3  # grey levels; other rooms are ten times as far


def test_no_two_rooms_are_alike(rooms):
    flat = rooms.reshape(1000, -1).astype(np.float32)
    squares = (flat**2).sum(1)
    distances = squares[:, None] + squares - 2 * flat @ flat.T
    np.fill_diagonal(distances, np.inf)
    assert distances.min() / flat.shape[1] > 15**2  # grey levels
    assert rooms.std(0).mean() > 30
    assert (rooms.std((1, 2, 3)) > 15).all()  # none is empty


def test_a_room_has_a_pale_ceiling_a_wooden_floor_and_corners(rooms):
    pictures = rooms.astype(float)
    ceiling, floor = pictures[:, 0, 10:22].mean(1), pictures[:, -1, [2, 3, -4, -3]].mean(1)
    assert (ceiling.mean(1) > floor.mean(1)).mean() > 0.97
    red, green, blue = floor.T
    assert ((red > green) & (red > blue)).mean() > 0.75 and (ceiling.min(1) / ceiling.max(1)).mean() > 0.8
    # The edges of the side walls run to the middle: down the middle the ceiling ends early, at the side late.
    mean = pictures.mean((0, 3))
    edges = np.abs(np.diff(mean[:16], axis=0)).argmax(0)
    assert edges[15] > edges[5] and edges[16] > edges[-6]
    assert np.abs(mean - mean[:, ::-1]).mean() < 4  # left and right are equally likely


def test_light_and_colours_vary(rooms):
    brightness = rooms.mean((1, 2, 3))
    assert 40 < brightness.min() and brightness.max() < 220 and brightness.std() > 10
    warmth = (rooms[:, :4, :, 0].astype(float) - rooms[:, :4, :, 2]).mean((1, 2))
    assert (warmth > 20).mean() > 0.2 and (warmth < -5).mean() > 0.1  # sunset and night on the ceiling
    walls = rooms[:, 14, [2, -3]].astype(float).mean(1)
    assert all(np.bincount(walls.argmax(1), minlength=3) > 100)  # reddish, greenish and bluish walls


def test_bad_numbers_are_refused():
    with pytest.raises(ValueError):
        room(0, -1, 32)
