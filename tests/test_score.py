"""Scores: what they say of planted cases and of copies, what they refuse, and the classifier that is kept."""

import io
import multiprocessing
import pickle
import re
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import opened_with
from matplotlib.axes import Axes
from PIL import Image, ImageFilter
from torch import nn

from data import DataError, score
from data.characters import open_characters
from data.rooms import room
from data.score import Labelled, Network, features, load_classifier, make_extractor, split_train_test

METRICS = ("FID", "KID", "precision", "recall", "diversity")


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


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    """The folder of classifiers that are kept, empty at first."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path / "cache" / "lsgan"


def kept(cache):
    return sorted(cache.glob("*.pt"))


@pytest.fixture
def untrained(monkeypatch):
    """Training takes no time and is counted."""
    calls = []

    def train(labelled, *_):
        calls.append(1)
        return Network(labelled.pictures[np.arange(1)].shape[1], 128, int(labelled.labels.max()) + 1)

    monkeypatch.setattr(score, "train_classifier", train)
    return calls


@pytest.fixture(scope="module")
def reader(tmp_path_factory):
    """A classifier of three toy characters, and the drawings held out from it."""
    train, test = (open_characters("strokes", classes=3, split=split) for split in ("train", "test"))
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.mktemp("reader")))
        patch.setattr(score, "LEAST_STEPS", 24)
        net = load_classifier(train, test)
    return net, Labelled(np.asarray(test.pictures), np.asarray(test.labels))


def refused(capsys, *argv):
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
    assert found["recall"] == 0 and found["diversity"] < 1e-6 and found["KID"] > 0.05


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
    net = make_extractor("random", 32)
    found = score.score_set(features(rooms[260:515], net), seen["real"], net)
    assert np.isnan(found["FID"])
    assert found["pictures"] == "255 generated, 260 real (FID needs 256 of each)"


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


def test_extractors_leave_the_global_generator_alone():
    before = torch.get_rng_state()
    make_extractor("random", 32)
    Network(28, 128, 10)
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize("size", [16, 28, 64, 112])
def test_any_size_and_grey_pictures(size):
    grey = np.random.default_rng(0).integers(0, 256, (3, size, size), np.uint8)
    net = make_extractor("random", size)
    colour = features(np.repeat(grey[..., None], 3, axis=3), net)
    torch.testing.assert_close(features(grey, net), colour, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("error", [OSError("no network"), pickle.UnpicklingError("a web page")])
def test_inception_that_cannot_be_had_is_one_line(monkeypatch, error):
    inception = pytest.importorskip("torch_fidelity.feature_extractor_inceptionv3")

    def fail(*args, **kwargs):
        raise error

    monkeypatch.setattr(inception, "FeatureExtractorInceptionV3", fail)
    with pytest.raises(DataError, match=rf"{error}.*get https://.*\.pth as .*/checkpoints/.*\.pth"):
        make_extractor("inception", 32)


def labelled(rooms, n=10):
    return Labelled(rooms[:n], np.arange(n) % 2), Labelled(rooms[n : n + 4], np.arange(4) % 2)


def test_the_classifier_is_trained_once_and_kept_in_the_users_cache(rooms, cache, untrained):
    first = load_classifier(*labelled(rooms))
    second = load_classifier(*labelled(rooms))
    assert len(untrained) == 1 and first.title == second.title
    assert torch.equal(features(rooms[:5], first), features(rooms[:5], second))
    assert len(kept(cache)) == 1
    load_classifier(*labelled(rooms, 12))  # other data, other classifiers
    load_classifier(*labelled(255 - rooms))
    assert len(untrained) == len(kept(cache)) == 3


def test_arrays_and_tensors_of_the_same_data_have_one_classifier(rooms, cache, untrained):
    for train, test in (labelled(rooms), labelled(torch.from_numpy(rooms))):
        load_classifier(train, test)
        load_classifier(Labelled(train.pictures, torch.as_tensor(train.labels)), test)
    assert len(untrained) == len(kept(cache)) == 1


class Bomb:
    """Makes a file when it is unpickled."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return (Path.touch, (self.path,))


def malicious(path):
    return pickle.dumps(Bomb(path))


@pytest.mark.parametrize("damage", ["empty", "cut", "bytes", "flipped bit", "another", "malicious"])
def test_a_damaged_classifier_is_trained_again(rooms, cache, tmp_path, untrained, damage):
    load_classifier(*labelled(rooms))
    (path,) = kept(cache)
    other, bomb = io.BytesIO(), io.BytesIO()
    torch.save({"step": 3}, other)
    torch.save(Bomb(tmp_path / "was run"), bomb)
    whole = path.read_bytes()
    flipped = bytearray(whole)
    flipped[len(whole) // 2] ^= 1  # among the weights
    path.write_bytes(
        {
            "empty": b"",
            "cut": whole[: len(whole) // 2],
            "bytes": bytes(range(256)),
            "flipped bit": flipped,
            "another": other.getvalue(),
            "malicious": bomb.getvalue(),
        }[damage]
    )
    load_classifier(*labelled(rooms))
    load_classifier(*labelled(rooms))
    assert len(untrained) == 2 and kept(cache) == [path] and not (tmp_path / "was run").exists()


def test_a_classifier_that_cannot_be_kept_serves(rooms, cache, untrained, capsys):
    cache.parent.write_text("a file where the folder should be")
    net = load_classifier(*labelled(rooms))
    assert capsys.readouterr().err.count("not kept") == 1 and len(untrained) == 1
    assert net.title.endswith("4 held-out pictures") and features(rooms[:5], net).shape == (5, 128)


def test_features_leave_the_network_trainable(rooms):
    net = make_extractor("random", 32)
    # a move makes new tensors, as one to a GPU does; in inference mode they could never take part in training
    net.to = lambda device: net._apply(torch.clone)
    features(rooms[:2], net)
    net(torch.zeros(2, 3, 32, 32)).sum().backward()
    assert not any(p.is_inference() for p in net.parameters())


def load_at_once(rooms, started):
    """In a process of its own: waits until all are there, then asks for the classifier."""

    def train(*_):
        print("training", file=sys.stderr, flush=True)
        time.sleep(1)
        return Network(32, 128, 2)

    score.train_classifier = train
    torch.set_num_threads(1)
    started.wait()
    load_classifier(*labelled(rooms))


def test_processes_that_ask_at_once_train_one_classifier(rooms, cache, capfd):
    context = multiprocessing.get_context("fork")
    started = context.Barrier(2)
    both = [context.Process(target=load_at_once, args=(rooms, started)) for _ in range(2)]
    for process in both:
        process.start()
    for process in both:
        process.join(300)
    assert [process.exitcode for process in both] == [0, 0]
    assert capfd.readouterr().err.count("training") == 1 and len(kept(cache)) == 1


def test_split_keeps_one_fifth_away_from_training(rooms):
    train, test = split_train_test(rooms[:20], np.arange(20) // 10)
    assert len(train.labels) == 16 and test.labels.tolist() == [0, 0, 1, 1]
    assert np.array_equal(test.pictures[np.arange(4)], rooms[[4, 9, 14, 19]])
    for labels in (None, np.zeros(20, int)):  # one class, a folder in a folder, is none
        with pytest.raises(DataError, match="labelled pictures"):
            split_train_test(rooms[:20], labels)


# ---------------------------------------------------------------- readability
def test_real_characters_are_read_like_real_characters(reader):
    net, test = reader
    found = score.readability(test.pictures, test.labels, net, test)
    assert (
        found["top-1, real"]
        == found["top-1, generated"]
        == (
            net.correct / len(test.labels),
            *score.wilson(net.correct, len(test.labels)),
        )
    )
    assert found["top-1, real"][0] > 0.9 and found["top-5, generated"][0] == 1
    assert found["diversity in a class"] == pytest.approx(1) and found["classes"] == "3 of 3"


def test_top_1_and_top_5_count_labels_among_so_many_largest_logits():
    class Reads(nn.Module):
        """The ten logits of a picture are its first ten pixels."""

        def __init__(self):
            super().__init__()
            self.head = nn.Linear(10, 10, bias=False)
            nn.init.eye_(self.head.weight)
            self.title, self.correct = "by hand", 1

        def forward(self, x):
            return x[:, 0, 0, :10].float()

    pictures = np.zeros((10, 28, 28), np.uint8)
    pictures[:, 0, :10] = np.arange(10, 0, -1)  # class 0 has the largest logit, class 9 the smallest
    test = score.Labelled(pictures, np.arange(10))
    found = score.readability(pictures, np.arange(10), Reads(), test)
    assert (found["top-1, generated"][0], found["top-5, generated"][0]) == (0.1, 0.5)


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


def test_diversity_needs_two_pictures_of_a_class(reader):
    net, test = reader
    firsts = np.array([np.flatnonzero(test.labels == label)[0] for label in range(2)])
    found = score.readability(test.pictures[firsts], test.labels[firsts], net, test)
    assert np.isnan(found["diversity in a class"])


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
def test_real_handwriting_is_learned(real_data):
    spec = real_data / "hanzi" / "hwdb1.1_100x100"
    train, test = (open_characters(str(spec), split=split) for split in ("train", "test"))
    net = load_classifier(train, test)
    assert net.correct / len(test.labels) > 0.93, net.title


# ---------------------------------------------------------------- copies
def share_of_copies(fake, train):
    net = make_extractor("random", 32)
    real = features(train, net)
    found = score.copying(features(fake, net), real, score.leave_one_out_distances(real))
    return found["nearer than 95% of real pictures"]


def test_a_generator_that_copies_is_caught(rooms):
    train, noise = rooms[:300], np.random.default_rng(0).integers(-3, 4, (300, 32, 32, 3))
    share, low, _ = share_of_copies((train + noise).clip(0, 255).astype(np.uint8), train)
    assert share > 0.95 and low > 0.9


def test_one_copy_in_five_is_caught(rooms):
    fake = np.concatenate([rooms[:40], rooms[300:460]])
    share, low, _ = share_of_copies(fake, rooms[:300])
    assert share >= 0.2 and low > 0.1


def test_held_out_real_pictures_are_no_copies(rooms):
    share, low, high = share_of_copies(rooms[300:], rooms[:300])
    assert low < 0.05 < high and share < 0.1


@pytest.mark.parametrize("n, least", [(200, 176), (1000, 186)])
def test_the_interval_of_copies_holds_5_percent_for_an_honest_generator(n, least):
    """The leave-one-out distances set the limit: they are a sample too, and for small n the larger doubt."""
    rng, held = np.random.default_rng(0), 0
    for _ in range(200):
        fake, train = torch.from_numpy(rng.normal(size=(1000, 8))), torch.from_numpy(rng.normal(size=(n, 8)))
        found = score.copying(fake, train, score.leave_one_out_distances(train))
        _, low, high = found["nearer than 95% of real pictures"]
        held += low <= 0.05 <= high
    # 95% but for chance, and for training pictures, which have one fewer to be near to. It would be 167 and
    # 180 if the least distances, which come in pairs, all counted as independent.
    assert held >= least


def test_an_untrained_generator_copies_nothing(rooms):
    noise = np.random.default_rng(0).integers(0, 256, (200, 32, 32, 3), np.uint8)
    assert share_of_copies(noise, rooms[:300])[0] == 0


def test_real_pictures_that_are_there_twice_hide_copies_and_are_named(rooms):
    with pytest.raises(DataError, match="duplicates"):
        share_of_copies(rooms[:20], np.concatenate([rooms[:200], rooms[:100]]))


def test_neighbours_show_the_copied_picture(rooms, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("photos").mkdir()
    for i, picture in enumerate(rooms[:260]):
        Image.fromarray(picture).save(f"photos/{i:03}.png")
    fake = np.concatenate([rooms[260:459], rooms[7:8]])
    np.save("samples.npy", fake)
    command = "samples.npy --data photos --extractor random --neighbours near.png"
    score.main(command.split())
    assert re.search(r"nearer than 95% of real pictures +\d.*% interval", capsys.readouterr().out)
    with Image.open("near.png") as image:
        grid = np.asarray(image)
    assert grid.shape == (8 * 34 + 2, 4 * 34 + 2, 3)
    assert (grid[2:34, 2:34] == rooms[7]).all() and (grid[2:34, 36:68] == rooms[7]).all()

    Path("near.png").unlink()
    Path("near.png").mkdir()  # the scores are not lost if the picture cannot be written
    with pytest.raises(SystemExit):
        score.main([*command.split(), "--limit", "250"])
    out, err = capsys.readouterr()
    assert "nearer than 95% of real pictures" in out and "near.png cannot be written" in err
    assert "--neighbours sees 250 pictures, not the others" in err  # there are 260


# ---------------------------------------------------------------- command line
def table_lines(capsys):
    """What was printed, but for what the reader says of the data."""
    return [line for line in capsys.readouterr().out.splitlines() if not line.startswith("data: ")]


def test_the_table_names_the_extractor(rooms, tmp_path, capsys):
    np.save(tmp_path / "samples.npy", rooms[:200])
    score.main([str(tmp_path / "samples.npy"), "--data", "rooms", "--limit", "200", "--extractor", "random"])
    lines = table_lines(capsys)
    assert lines[0].startswith("extractor ") and lines[0].endswith("random, 64 features, seed 0")
    assert lines[1].endswith("200 generated, 200 real (FID needs 256 of each)")
    assert lines[2].split() == ["FID", "-"]
    assert [line[:20].rstrip() for line in lines[2:]] == list(METRICS)


def test_characters_are_scored_and_read(tmp_path, capsys, monkeypatch, untrained):
    monkeypatch.chdir(tmp_path)
    drawn = open_characters("strokes", classes=12)
    pictures, labels = np.asarray(drawn.pictures), np.asarray(drawn.labels)
    np.save("samples.npy", pictures[::5, :, :, None])
    np.save("labels.npy", labels[::5])
    score.main(["samples.npy", "--data", "strokes", "--classes", "12", "--extractor", "classifier"])
    table = capsys.readouterr().out
    assert table.count("classifier, ") == 2  # the extractor and the reader
    assert "12 of 12" in table and "top-5, generated" in table
    command = ["samples.npy", "--data", "strokes", "--extractor", "random", "--classes"]
    assert "ids 0 to 11, but the data have 11 classes" in refused(capsys, *command, 11)
    score.main([*command, "13"])
    assert "ids 0 to 11, and the data have 13 classes; if the script" in capsys.readouterr().err
    np.save("labels.npy", labels[::10])
    assert "not 240 class ids" in refused(capsys, *command, 12)
    Path("labels.npy").unlink()
    assert "labels.npy" in refused(capsys, *command, 12)


def test_many_files_make_one_table_and_a_curve(rooms, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    fakes = {100: np.random.default_rng(0).integers(0, 256, (260, 32, 32, 3), np.uint8)}
    fakes |= {900: rooms[260:], 2000: rooms[260:] // 2}
    paths = []
    for step, fake in fakes.items():
        paths.append(Path(f"run/step_{step:08}/samples.npy"))
        paths[-1].parent.mkdir(parents=True)
        np.save(paths[-1], fake)
    drawn = []
    monkeypatch.setattr(Axes, "plot", lambda self, x, y, **_: drawn.append((x, y)))
    monkeypatch.setattr(Axes, "legend", lambda *_, **__: None)
    score.main([*map(str, paths), *"--data rooms --limit 260 --extractor random --curve curve.png".split()])
    lines = table_lines(capsys)
    assert lines[0].startswith("extractor") and "260 generated, 260 real" in lines[1]
    header, *rows = (re.split(r"  +", line) for line in lines[2:])
    assert header[:3] == ["samples", "FID", "KID"]
    assert [row[0] for row in rows] == [str(path) for path in paths]
    assert [row[-1] for row in rows].index("<- best") == 1 and lines[4].endswith("<- best")
    assert float(rows[1][2]) == min(float(row[2]) for row in rows)
    assert [x for x, _ in drawn] == [[100, 900, 2000]] * 3  # KID, precision, recall
    assert drawn[0][1] == pytest.approx([float(row[2]) for row in rows], rel=1e-3)
    with Image.open("curve.png") as curve:
        assert curve.width > 500


@pytest.mark.parametrize("name", ["c$_$x", "_hidden", "two  blanks", "caf\udce9"])
def test_a_curve_of_a_folder_with_an_odd_name(tmp_path, monkeypatch, name):
    texts = []
    monkeypatch.setattr(Axes, "legend", lambda self, lines, labels, **_: texts.extend(labels))
    rows = [{"extractor": "random", "KID": 1.0, "precision": 0.5, "recall": 0.5}]
    score.save_curve([tmp_path / name / "step_1/samples.npy"], rows, tmp_path / "curve.png")
    assert texts == [name.replace("$", r"\$").replace("\udce9", r"\udce9")]
    monkeypatch.undo()
    score.save_curve([tmp_path / name / "step_1/samples.npy"], rows, tmp_path / "curve.png")
    with Image.open(tmp_path / "curve.png") as curve:
        assert curve.width > 500


def test_files_of_folders_without_a_step_stand_side_by_side():
    """A number in a folder's name need not be a step: here it is the seed."""
    paths = [Path(f"runs/lsgan_scenes-rooms-ls-seed{seed}/samples.npy") for seed in (7, 3)]
    lines, positions, label = score.curve_positions(paths)
    assert (positions, label) == ([1, 2], "file") and lines[0] == lines[1]


def test_weights_and_averages_of_a_run_are_two_lines_of_a_curve():
    paths = [Path(f"run/step_0000{step}{ending}/samples.npy") for step in "12" for ending in ("", "-average")]
    lines, positions, label = score.curve_positions(paths)
    assert (positions, label) == ([1, 1, 2, 2], "step")
    assert lines[0] == lines[2] != lines[1] == lines[3]


def test_kid_ranks_not_fid_which_prefers_the_larger_set():
    rows = [{"KID": 0.1, "FID": 3.0}, {"KID": 0.2, "FID": 2.0}, {"KID": 0.3, "FID": float("nan")}]
    assert score.best_of(rows) == 0


def test_a_collapsed_checkpoint_is_a_row_like_others(rooms, tmp_path, capsys):
    for name, fake in (("collapsed", np.repeat(rooms[:1], 200, axis=0)), ("good", rooms[300:500])):
        np.save(tmp_path / f"{name}.npy", fake)
    paths = [str(tmp_path / f"{name}.npy") for name in ("collapsed", "good")]
    score.main([*paths, *"--data rooms --limit 200 --extractor random".split()])
    collapsed, good = table_lines(capsys)[-2:]
    assert "collapsed.npy" in collapsed and "best" not in collapsed
    assert "good.npy" in good and good.endswith("<- best")


def test_files_of_several_sizes_make_no_table(tmp_path, capsys):
    np.save(tmp_path / "a.npy", GOOD)
    np.save(tmp_path / "b.npy", GOOD[:, :16, :16])
    line = refused(capsys, tmp_path / "a.npy", tmp_path / "b.npy", "--data", "rooms", "--extractor", "random")
    assert "b.npy" in line and "(16, 16, 3)" in line


def test_without_docstrings(capsys, monkeypatch):
    """As under python -OO: no text may come from them."""
    monkeypatch.setattr(score, "__doc__", None)
    with pytest.raises(SystemExit) as stop:
        score.main(["--help"])
    assert stop.value.code == 0 and "--neighbours" in capsys.readouterr().out


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
}


@pytest.mark.parametrize("name", BAD)
def test_bad_samples_are_one_line(tmp_path, capsys, name):
    content, expected = BAD[name]
    path = tmp_path / "samples.npy"
    if content is not None:
        path.write_bytes(content)
    line = refused(capsys, path, "--data", "rooms", "--extractor", "random")
    assert expected in line and str(path) in line


def test_data_without_labels_have_no_classifier(rooms, tmp_path, capsys):
    path = tmp_path / "samples.npy"
    np.save(path, rooms[:200])
    line = refused(capsys, path, "--data", "rooms", "--limit", 200, "--extractor", "classifier")
    assert "labelled" in line


def test_too_few_pictures_are_refused_before_a_classifier_is_trained(tmp_path, capsys, untrained):
    np.save(tmp_path / "samples.npy", np.zeros((100, 28, 28, 1), np.uint8))
    np.save(tmp_path / "labels.npy", np.zeros(100, int))
    command = tmp_path / "samples.npy", "--data", "strokes", "--classes", 3, "--extractor", "classifier"
    assert "KID needs 200 pictures on both sides" in refused(capsys, *command) and not untrained


def test_files_with_equal_scores_are_named(rooms, tmp_path, capsys):
    for name in "ab":
        np.save(tmp_path / f"{name}.npy", rooms[:200])
    paths = [str(tmp_path / f"{name}.npy") for name in "ab"]
    score.main([*paths, *"--data rooms --limit 200 --extractor random".split()])
    printed = capsys.readouterr().out
    assert all(path in printed for path in paths)


def test_samples_are_never_unpickled(tmp_path, capsys):
    (tmp_path / "samples.npy").write_bytes(malicious(tmp_path / "was run"))
    refused(capsys, tmp_path / "samples.npy", "--data", "rooms", "--extractor", "random")
    assert not (tmp_path / "was run").exists()


def test_flags_for_the_other_kind_of_data_are_refused(tmp_path, capsys):
    np.save(tmp_path / "pictures.npy", GOOD)
    np.save(tmp_path / "characters.npy", np.zeros((4, 28, 28), np.uint8))
    for flags in (["--classes", 5], ["--charset", "all"], ["--charset", "foo"]):
        line = refused(capsys, tmp_path / "pictures.npy", *"--data rooms --extractor random".split(), *flags)
        assert "--classes and --charset are for characters; of pictures --limit" in line
    command = tmp_path / "characters.npy", *"--data strokes --extractor random --limit 5".split()
    assert "--limit is for pictures; of characters --classes" in refused(capsys, *command)


def test_out_of_memory_names_flags_that_it_has(tmp_path, capsys, monkeypatch):
    def full(paths):
        raise MemoryError

    monkeypatch.setattr(score, "open_sets", full)
    line = refused(capsys, tmp_path / "samples.npy", "--data", "rooms", "--extractor", "random")
    named = set(re.findall("--[a-z]+", line))
    assert "out of memory" in line and named == {"--limit", "--classes"}
    for flag in named:
        score.parse_args([*"samples.npy --data rooms --extractor random".split(), flag, "3"])


def test_bad_arguments_are_one_line(tmp_path, capsys):
    path = tmp_path / "samples.npy"
    path.write_bytes(npy(GOOD))
    assert "--extractor" in refused(capsys, path, "--data", "rooms")
    assert "invalid choice" in refused(capsys, path, "--data", "rooms", "--extractor", "vgg")
    assert "nowhere" in refused(capsys, path, "--data", tmp_path / "nowhere", "--extractor", "random")
    assert "KID needs 200" in refused(capsys, path, "--data", "rooms", "--limit", 9, "--extractor", "random")


def test_flags_reach_the_reader_of_pictures(call, monkeypatch, tmp_path):
    opened = opened_with(monkeypatch, score, "open_images")
    np.save(tmp_path / "samples.npy", np.zeros((200, 48, 48, 3), np.uint8))
    flags = f"{tmp_path}/samples.npy --data photos --fit crop --limit 9 --extractor random"
    assert call(score.main, *flags.split())[0] == 2
    assert opened == [("photos", 48, "crop", 9)]


def test_flags_reach_the_reader_of_characters(call, monkeypatch, tmp_path):
    opened = opened_with(monkeypatch, score, "open_characters")
    np.save(tmp_path / "samples.npy", np.zeros((200, 28, 28, 1), np.uint8))
    flags = f"{tmp_path}/samples.npy --data gnt --charset all --classes 9 --fit pad --extractor random"
    assert call(score.main, *flags.split())[0] == 2
    assert opened == [("gnt", "all", 9, "pad", "train")]
