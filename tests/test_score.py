"""Scores: what they say of planted cases, what they refuse, and the classifier that is trained once."""

import io
import os
import pickle
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image, ImageFilter

from data import DataError, extractors, score
from data.characters import open_characters
from data.extractors import Labelled, Network, features, halves, load_classifier, make_extractor
from data.rooms import room

METRICS = ("FID", "KID", "KID std", "precision", "recall", "diversity")


@pytest.fixture(scope="module")
def rooms():
    return np.stack([room(0, index, 32) for index in range(520)])


@pytest.fixture(scope="module")
def seen(rooms):
    """Features of real pictures, and of what a generator might make."""
    net = make_extractor("random", 32)
    blurred = [Image.fromarray(picture).filter(ImageFilter.GaussianBlur(1)) for picture in rooms[260:]]
    made = {
        "more real": rooms[260:],
        "blurred": np.stack(blurred),
        "noise": np.random.default_rng(0).integers(0, 256, (260, 32, 32, 3), np.uint8),
        "one picture": np.repeat(rooms[-1:], 260, axis=0),
    }
    return {"real": features(rooms[:260], net)} | {name: features(x, net) for name, x in made.items()}


@pytest.fixture
def untrained(monkeypatch):
    """Training takes no time and is counted."""
    calls = []

    def train(labelled, device):
        calls.append(1)
        return Network(labelled.pictures[np.arange(1)].shape[1], 128, int(labelled.labels.max()) + 1)

    monkeypatch.setattr(extractors, "train_classifier", train)
    return calls


@pytest.fixture(scope="module")
def reader(tmp_path_factory):
    """A classifier of three toy characters, and the drawings held out from it."""
    train, test = (open_characters("strokes", classes=3, split=split) for split in ("train", "test"))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(extractors, "LEAST_STEPS", 24)
        return load_classifier(train, test, str(tmp_path_factory.mktemp("reader") / "strokes")), test


def run(capsys, *argv):
    """The one line on stderr that a bad command line ends in."""
    with pytest.raises(SystemExit) as stop:
        score.main([str(word) for word in argv])
    line = capsys.readouterr().err
    assert stop.value.code == 2 and line.startswith("data.score: error: ") and line.count("\n") == 1, line
    return line


# ---------------------------------------------------------------- measures
def test_wilson_interval_of_the_papers_counts():
    # by hand: (k + z^2/2 -+ z sqrt(k (n - k) / n + z^2/4)) / (n + z^2), z = 1.959964, z^2 = 3.841459
    assert score.wilson(5, 10) == pytest.approx((0.236593, 0.763407), abs=1e-6)
    assert score.wilson(0, 10) == pytest.approx((0, 3.841459 / 13.841459), abs=1e-6)
    assert score.wilson(1, 1) == pytest.approx((1 / 4.841459, 1), abs=1e-6)


def test_a_set_scores_perfectly_against_itself(seen):
    found = score.compare(seen["real"], seen["real"])
    assert tuple(found) == METRICS
    assert abs(found["FID"]) < 1e-6 and abs(found["KID"]) < 0.01
    assert found["precision"] == found["recall"] == found["diversity"] == 1


def test_noise_is_worse_than_blurred_is_worse_than_real(seen):
    real, blurred, noise = (score.compare(seen[x], seen["real"]) for x in ("more real", "blurred", "noise"))
    for measure in ("FID", "KID"):
        assert noise[measure] > 10 * blurred[measure] > 0
        assert blurred[measure] > real[measure]
    assert noise["precision"] == noise["recall"] == 0 and real["recall"] > 0.5


def test_one_picture_repeated_has_no_recall_and_no_diversity(seen):
    found = score.compare(seen["one picture"], seen["real"])
    assert found["recall"] == 0 and found["diversity"] < 1e-6 and found["KID"] > 0.1


def test_inception_score_of_certain_answers_is_the_number_of_classes(seen):
    # exp of the mean KL(p(y|x), p(y)): 4 classes equally often and beyond doubt; then no idea of any
    fake, head = torch.eye(4).repeat(500, 1).double() * 100, torch.nn.Linear(4, 4, bias=False)
    torch.nn.init.eye_(head.weight)
    # each of the 10 parts of 200 shuffled rows has about 50 of each class
    assert score.compare(fake, fake, head)["IS"] == pytest.approx(4, abs=0.05)
    assert score.compare(fake / 1e6, fake, head)["IS"] == pytest.approx(1, abs=1e-6)
    assert "IS" not in score.compare(fake, fake)


def test_too_few_pictures_are_named_with_what_it_takes(seen, rooms):
    for fake, real in ((199, 260), (260, 199)):
        with pytest.raises(DataError, match="KID needs 200 .* FID 256; .* 199 "):
            score.compare(seen["noise"][:fake], seen["real"][:real])
    found = score.compare(seen["more real"][:255], seen["real"])
    assert np.isnan(found["FID"]) and abs(found["KID"]) < 1
    found = score.score(rooms[:255], rooms[260:], make_extractor("random", 32))
    assert found["FID (random)"] == "needs 256 pictures on both sides"
    assert found["pictures"] == "255 generated, 260 real"


def test_without_torch_fidelity_one_line_says_how_to_get_it(seen, monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "torch_fidelity", None)
    with pytest.raises(DataError, match="pip install torch-fidelity"):
        score.compare(seen["real"], seen["real"])
    with pytest.raises(DataError, match="pip install torch-fidelity"):
        make_extractor("inception", 32)


# ---------------------------------------------------------------- extractors
def test_features_depend_on_the_seed_and_on_nothing_else(rooms):
    torch.manual_seed(1)
    one = features(rooms[:6], make_extractor("random", 32, seed=7))
    torch.manual_seed(2)
    two = features(rooms[:3], make_extractor("random", 32, seed=7))  # nor on the other pictures
    assert one.shape == (6, 64) and one.dtype == torch.float64
    torch.testing.assert_close(one[:3], two, rtol=1e-4, atol=1e-5)
    assert (one - features(rooms[:6], make_extractor("random", 32, seed=8))).abs().max() > 0.1


@pytest.mark.parametrize("size", [16, 28, 64, 112])
def test_any_size_and_grey_pictures(size):
    grey = np.random.default_rng(0).integers(0, 256, (3, size, size), np.uint8)
    net = make_extractor("random", size)
    colour = features(np.repeat(grey[..., None], 3, axis=3), net)
    torch.testing.assert_close(features(grey, net), colour, rtol=1e-4, atol=1e-4)


def test_inception_that_cannot_be_had_is_one_line(monkeypatch):
    inception = pytest.importorskip("torch_fidelity.feature_extractor_inceptionv3")

    def offline(*args, **kwargs):
        raise OSError("no network")

    monkeypatch.setattr(inception, "FeatureExtractorInceptionV3", offline)
    with pytest.raises(DataError, match=r"no network.*get https://.*\.pth into .*checkpoints"):
        make_extractor("inception", 32)


def labelled(rooms, n=10):
    return Labelled(rooms[:n], np.arange(n) % 2), Labelled(rooms[n : n + 4], np.arange(4) % 2)


def test_the_classifier_is_trained_once_and_kept_beside_the_data(rooms, tmp_path, untrained):
    spec = str(tmp_path / "photos")
    first = load_classifier(*labelled(rooms), spec)
    second = load_classifier(*labelled(rooms), spec)
    assert len(untrained) == 1 and first.title == second.title
    assert torch.equal(features(rooms[:5], first), features(rooms[:5], second))
    (kept,) = tmp_path.iterdir()
    assert kept.name.startswith("photos_classifier_") and kept.suffix == ".pt"
    load_classifier(*labelled(rooms, 12), spec)
    load_classifier(*labelled(255 - rooms), spec)
    assert len(untrained) == len(list(tmp_path.iterdir())) == 3


def malicious(path):
    class Bomb:
        def __reduce__(self):
            return (Path.touch, (path,))

    return pickle.dumps(Bomb())


@pytest.mark.parametrize("damage", ["empty", "cut", "bytes", "another", "malicious"])
def test_a_damaged_classifier_is_trained_again(rooms, tmp_path, untrained, damage):
    load_classifier(*labelled(rooms), str(tmp_path / "photos"))
    (kept,) = tmp_path.iterdir()
    other = io.BytesIO()
    torch.save({"step": 3}, other)
    whole = kept.read_bytes()
    kept.write_bytes(
        {
            "empty": b"",
            "cut": whole[: len(whole) // 2],
            "bytes": bytes(range(256)),
            "another": other.getvalue(),
            "malicious": malicious(tmp_path / "was run"),
        }[damage]
    )
    load_classifier(*labelled(rooms), str(tmp_path / "photos"))
    load_classifier(*labelled(rooms), str(tmp_path / "photos"))
    assert len(untrained) == 2 and list(tmp_path.iterdir()) == [kept]


def test_a_classifier_that_cannot_be_kept_still_serves(rooms, tmp_path, untrained, capsys):
    net = load_classifier(*labelled(rooms), str(tmp_path / "not there" / "photos"))
    assert "cannot be kept" in capsys.readouterr().err and net.title.endswith("4 held-out pictures")


def test_halves_keep_one_fifth_away_from_training(rooms):
    class Pictures:
        labels = np.arange(20) // 10

        def __len__(self):
            return 20

        def __getitem__(self, indices):
            return torch.from_numpy(rooms[indices])

    train, test = halves(Pictures())
    assert len(train.labels) == 16 and test.labels.tolist() == [0, 0, 1, 1]
    assert np.array_equal(test.pictures[np.arange(4)], rooms[[4, 9, 14, 19]])
    for labels in (None, np.zeros(20, int)):  # one class, a folder in a folder, is none
        Pictures.labels = labels
        with pytest.raises(DataError, match="labelled pictures"):
            halves(Pictures())


# ---------------------------------------------------------------- readability
def test_real_characters_are_read_like_real_characters(reader):
    net, test = reader
    found = score.readability(test.pictures, test.labels, net, test)
    assert (
        found["top-1, real"]
        == found["top-1, generated"]
        == (
            net.hits / len(test),
            *score.wilson(net.hits, len(test)),
        )
    )
    assert found["top-1, real"][0] > 0.9 and found["top-5, generated"][0] == 1
    assert found["diversity in a class"] == pytest.approx(1) and found["classes"] == "3 of 3"


def test_wrong_labels_are_read_by_chance(reader):
    net, test = reader
    wrong = np.random.default_rng(0).permutation(test.labels)
    low, high = score.readability(test.pictures, wrong, net, test)["top-1, generated"][1:]
    assert low < 1 / 3 < high


def test_one_drawing_a_class_is_readable_and_not_diverse(reader):
    net, test = reader
    firsts = np.array([np.flatnonzero(test.labels == label)[0] for label in range(2)]).repeat(5)
    found = score.readability(test.pictures[firsts], test.labels[firsts], net, test)
    assert found["diversity in a class"] == 0 and found["classes"] == "2 of 3"


def test_diversity_in_a_class_is_the_root_mean_square_distance(reader):
    net, test = reader
    fake, real = (test.pictures[test.labels == 2][part].astype(float) for part in (slice(6), slice(None)))
    found = score.readability(test.pictures[test.labels == 2][:6], np.full(6, 2), net, test)

    def mean_square(x):
        distances = ((x[:, None] - x[None]) ** 2).sum((2, 3))
        return distances.sum() / (len(x) * (len(x) - 1))

    expected = (mean_square(fake) / mean_square(real)) ** 0.5
    assert found["diversity in a class"] == pytest.approx(expected, rel=1e-5)


@pytest.mark.slow
@pytest.mark.skipif("LSGAN_DATA" not in os.environ, reason="LSGAN_DATA names no folder with real data")
def test_real_handwriting_is_learned(tmp_path):
    spec = Path(os.environ["LSGAN_DATA"], "hanzi", "hwdb1.1_100x100")
    train, test = (open_characters(str(spec), split=split) for split in ("train", "test"))
    net = load_classifier(train, test, str(tmp_path / "hanzi"))
    assert net.hits / len(test) > 0.93, net.title


# ---------------------------------------------------------------- command line
def test_the_table_names_the_extractor(rooms, tmp_path, capsys):
    np.save(tmp_path / "samples.npy", rooms[:200])
    score.main([str(tmp_path / "samples.npy"), "--data", "rooms", "--limit", "200", "--extractor", "random"])
    lines = capsys.readouterr().out.splitlines()
    assert "random, 64 features, seed 0" in lines[0] and "200 generated, 200 real" in lines[1]
    assert "needs 256 pictures on both sides" in lines[2] and lines[3].startswith("KID (random) ")
    assert len(lines) == 8 and all("(random)" in line for line in lines[2:])


def test_characters_are_scored_and_read(tmp_path, capsys, monkeypatch, untrained):
    monkeypatch.chdir(tmp_path)
    drawn = open_characters("strokes", classes=12)
    np.save("samples.npy", drawn.pictures[::5, :, :, None])
    np.save("labels.npy", drawn.labels[::5])
    score.main(["samples.npy", "--data", "strokes", "--classes", "12", "--extractor", "classifier"])
    table = capsys.readouterr().out
    assert "KID (classifier)" in table and "12 of 12" in table and "top-5, generated" in table
    command = ["samples.npy", "--data", "strokes", "--extractor", "random", "--classes"]
    assert "not 240 class ids below 11" in run(capsys, *command, 11)
    np.save("labels.npy", drawn.labels[::10])
    assert "not 240 class ids" in run(capsys, *command, 12)
    Path("labels.npy").unlink()
    assert "labels.npy" in run(capsys, *command, 12)


def npy(array, **kwargs):
    file = io.BytesIO()
    np.save(file, array, **kwargs)
    return file.getvalue()


GOOD = np.random.default_rng(0).integers(0, 256, (4, 32, 32, 3), np.uint8)
BAD = {
    "not there": (None, "No such file"),
    "empty file": (b"", "damaged"),
    "text": (b"samples\n", "damaged"),
    "cut": (npy(GOOD)[:-1], "damaged"),
    "more claimed than there is": (npy(GOOD).replace(b"(4, 32", b"(10**9, 32"), "damaged"),
    "far more claimed": (npy(GOOD).replace(b"(4, 32, 32, 3), }   ", b"(4, 32, 32, 3000000000)"), "damaged"),
    "objects": (npy(np.array([{}, None]), allow_pickle=True), "damaged"),
    "NaN": (npy(np.full((4, 32, 32, 3), np.nan)), "float64"),
    "not square": (npy(GOOD[:, 1:]), "(4, 31, 32, 3)"),
    "channels first": (npy(GOOD.transpose(0, 3, 1, 2)), "(4, 3, 32, 32)"),
    "one picture": (npy(GOOD[0]), "(32, 32, 3)"),
    "a number": (npy(np.uint8(3)), "()"),
    "grey of another size": (npy(GOOD[..., 0]), "(4, 32, 32)"),
    "none": (npy(GOOD[:0]), "(0, 32, 32, 3)"),
    "all the same": (npy(np.repeat(GOOD[:1], 4, axis=0)), "holds one picture, 4 times"),
}


@pytest.mark.parametrize("name", BAD)
def test_bad_samples_are_one_line(tmp_path, capsys, name):
    content, expected = BAD[name]
    path = tmp_path / "samples.npy"
    if content is not None:
        path.write_bytes(content)
    line = run(capsys, path, "--data", "rooms", "--extractor", "random")
    assert expected in line and str(path) in line


def test_samples_are_never_unpickled(tmp_path, capsys):
    (tmp_path / "samples.npy").write_bytes(malicious(tmp_path / "was run"))
    run(capsys, tmp_path / "samples.npy", "--data", "rooms", "--extractor", "random")
    assert not (tmp_path / "was run").exists()


def test_bad_arguments_are_one_line(tmp_path, capsys):
    path = tmp_path / "samples.npy"
    path.write_bytes(npy(GOOD))
    assert "--extractor" in run(capsys, path, "--data", "rooms")
    assert "invalid choice" in run(capsys, path, "--data", "rooms", "--extractor", "vgg")
    assert "nowhere" in run(capsys, path, "--data", tmp_path / "nowhere", "--extractor", "random")
    assert "labelled" in run(capsys, path, "--data", "rooms", "--extractor", "classifier")
    assert "KID needs 200" in run(capsys, path, "--data", "rooms", "--limit", 9, "--extractor", "random")
