"""Toy characters: reproducible, all classes different, dark ink on white that fills the picture."""

import numpy as np
import pytest

from data import DataError
from data.strokes import draw, draw_all

# seed, class and sample -> the sum of the drawing's ink, 255 a black pixel
RECORDED = {
    (0, 0, 0): 13_962,
    (0, 5, 7): 26_428,
    (0, 3739, 99): 23_813,
    (1, 5, 7): 30_970,
    (2, 1000, 119): 15_290,
}


def test_a_drawing_is_a_function_of_seed_class_and_sample():
    picture = draw(0, 5, 7)
    assert (picture.dtype, picture.shape) == (np.uint8, (28, 28))
    np.random.seed(1)
    assert np.array_equal(picture, draw(0, 5, 7))
    others = [draw(1, 5, 7), draw(0, 6, 7), *(draw(0, 5, sample) for sample in range(20))]
    assert len({other.tobytes() for other in others}) == 22


def test_drawings_stay_those_of_the_published_figures():
    """Figures and results name a class by its number; other drawings would be other data."""
    ink = [int((255 - draw(seed, label, sample).astype(int)).sum()) for seed, label, sample in RECORDED]
    assert ink == pytest.approx(list(RECORDED.values()), abs=30)  # a few roundings


def test_ink_is_dark_and_smooth_on_white_and_fills_the_picture():
    pictures = np.stack([draw(0, label, 0) for label in range(200)])
    assert (pictures[:, [0, 0, -1, -1], [0, -1, 0, -1]] == 255).mean() > 0.95
    assert (pictures.min((1, 2)) < 140).all()
    ink = (pictures < 255).mean((1, 2))
    assert 0.1 < np.quantile(ink, 0.05) and np.quantile(ink, 0.95) < 0.6
    for axis in (1, 2):  # from edge to edge
        reach = (pictures < 200).any(axis)
        assert reach[:, :7].any(1).all() and reach[:, -7:].any(1).all()
    greys = np.array([len(np.unique(picture)) for picture in pictures])
    assert greys.min() > 20  # not two colours: edges are smooth


def test_all_3740_classes_differ():
    means = np.stack([draw(0, label, 0) for label in range(3740)]).reshape(3740, -1).astype(np.float32)
    squares = (means**2).sum(1)
    distances = squares[:, None] + squares - 2 * means @ means.T
    np.fill_diagonal(distances, np.inf)
    assert np.sqrt(distances.min() / 784) > 15  # grey levels


def test_a_class_is_recognized_by_its_drawings():
    """Other drawings are nearest to the mean of their own class, mostly."""
    train, labels = draw_all(30, "train")
    assert (train.shape, labels.dtype) == ((3_000, 28, 28), np.int64)
    means = np.stack([train[labels == k].mean(0).ravel() for k in range(30)])
    test, labels = draw_all(30, "test")
    assert np.bincount(labels).tolist() == [20] * 30
    guess = ((means**2).sum(1) - 2.0 * test.reshape(-1, 784) @ means.T).argmin(1)
    assert 0.7 < (guess == labels).mean() < 1
    spread = train[:100].std(0).max()
    assert spread > 40  # drawings of one class vary


def test_train_and_test_drawings_are_others():
    train, test = (draw_all(2, split)[0] for split in ("train", "test"))
    assert not {p.tobytes() for p in train} & {p.tobytes() for p in test}


def test_more_classes_than_there_are_is_an_error():
    with pytest.raises(DataError, match="3,740"):
        draw_all(3741, "train")
