"""data.images: which pictures are found, which pixels come out, and one line for everything that is wrong."""

import errno
import faulthandler
import io
import json
import multiprocessing
import os
import pickle
import shutil
import signal
import sys
from pathlib import Path

import filelock
import lmdb
import numpy as np
import pytest
import torch
from conftest import at_call
from PIL import Image, ImageOps
from torch.utils.data import DataLoader
from torchvision import datasets, transforms

from data import DataError, images
from data.images import decode_all, fit_picture, open_images
from data.prepare import prepare

REAL = os.environ.get("LSGAN_DATA")
needs_real = pytest.mark.skipif(not REAL, reason="LSGAN_DATA names no folder with real pictures")


def picture(seed, width=40, height=30, mode="RGB"):
    colours = np.random.default_rng(seed).integers(0, 256, (3, 4, 3), np.uint8)
    return Image.fromarray(colours).resize((width, height), Image.Resampling.BICUBIC).convert(mode)


def encode(image, kind):
    buffer = io.BytesIO()
    image.save(buffer, kind)
    return buffer.getvalue()


def write_lmdb(folder, values):
    folder.mkdir(parents=True, exist_ok=True)
    with lmdb.open(str(folder), map_size=1 << 26) as env, env.begin(write=True) as txn:
        for key, value in values.items():
            txn.put(key.encode(), value)
    return str(folder)


def numbered(n, kind="WEBP"):
    return {f"{i:040x}": encode(picture(i), kind) for i in range(n)}


def write_pictures(folder, names):
    for i, name in enumerate(names):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        picture(i).save(folder / name)
    return str(folder)


def squash(value, size):
    """The authors' pixels, by the obvious way."""
    return np.asarray(Image.open(io.BytesIO(value)).convert("RGB").resize((size, size), Image.BILINEAR))


def assert_close(pictures, expected):
    """Equal but for the rounding of another implementation of the same filter."""
    assert pictures.shape == expected.shape
    assert np.abs(pictures.astype(int) - expected).max() <= 1


def fitted(image, size, fit):
    """fit_picture for a PIL image."""
    return fit_picture(torch.from_numpy(np.array(image)), size, fit).numpy()


@pytest.fixture(autouse=True)
def cache(tmp_path_factory, monkeypatch):
    """An empty cache folder of the test's own."""
    folder = tmp_path_factory.mktemp("cache")
    monkeypatch.setenv("XDG_CACHE_HOME", str(folder))
    return folder / "lsgan"


def pixels(dataset):
    return dataset[range(len(dataset))].numpy()


# ---------------------------------------------------------------- what comes out


@pytest.mark.parametrize("kind", ["JPEG", "WEBP", "PNG"])
def test_lmdb_gives_squashed_pixels_in_the_order_of_the_keys(tmp_path, kind):
    values = numbered(5, kind)
    write_lmdb(tmp_path / "bedroom_train_lmdb", values)
    dataset = open_images(str(tmp_path / "bedroom"), 16)
    batch = dataset[np.array([3, 0, 4])]
    assert batch.dtype == torch.uint8 and batch.shape == (3, 16, 16, 3) and batch.is_contiguous()
    assert len(dataset) == 5 and dataset.labels is None and dataset.classes is None
    expected = [squash(value, 16) for value in values.values()]
    assert_close(batch.numpy(), np.stack(expected)[[3, 0, 4]])


@pytest.mark.parametrize("spec", ["bedroom", "bedroom_train", "bedroom_train_lmdb"])
def test_every_name_of_an_lmdb_finds_it(tmp_path, spec):
    write_lmdb(tmp_path / "bedroom_train_lmdb", numbered(3))
    assert len(open_images(str(tmp_path / spec), 16)) == 3


def test_labels_are_key_prefixes(tmp_path):
    values = {f"{name}/{i:05}": encode(picture(i), "PNG") for name in ("dog", "cat") for i in range(3)}
    dataset = open_images(write_lmdb(tmp_path / "pets_train_lmdb", values), 16)
    assert dataset.classes == ["cat", "dog"]
    assert dataset.labels.dtype == np.int64 and dataset.labels.tolist() == [0, 0, 0, 1, 1, 1]


def test_labels_are_folders_whatever_their_language(tmp_path):
    spec = write_pictures(tmp_path / "pictures", ["永/a.png", "cat/deep/b.jpg", "cat/c.webp", "永/D.JPG"])
    dataset = open_images(spec, 16)
    assert dataset.classes == ["cat", "永"] and dataset.labels.tolist() == [0, 0, 1, 1]
    (tmp_path / "pictures" / ".hidden.png").write_bytes(b"x")
    (tmp_path / "pictures" / "notes.txt").write_text("no picture")
    picture(9).save(tmp_path / "pictures" / "loose.png")  # a picture of no class
    dataset = open_images(spec, 16)
    assert len(dataset) == 5 and dataset.labels is None


def test_limit_is_spread_over_all_classes(tmp_path):
    spec = write_pictures(tmp_path / "x", [f"{c}/{i}.png" for c in "abc" for i in range(10)])
    dataset = open_images(spec, 16, limit=6)
    assert dataset.labels.tolist() == [0, 0, 1, 1, 2, 2]
    np.testing.assert_array_equal(pixels(dataset), pixels(open_images(spec, 16))[::5])
    assert len(open_images(spec, 16, limit=1000)) == 30


@pytest.mark.parametrize("mode", ["1", "L", "P", "LA", "RGBA", "CMYK", "YCbCr"])
def test_every_mode_becomes_rgb(tmp_path, mode):
    path = tmp_path / {"CMYK": "x.tif", "YCbCr": "x.jpg"}.get(mode, "x.png")
    picture(0, 33, 57, mode).save(path)
    assert_close(pixels(open_images(str(tmp_path), 16))[0], squash(path.read_bytes(), 16))


@pytest.mark.parametrize("mode", ["L", "CMYK", "RGB"])
def test_every_kind_of_jpeg_becomes_rgb(tmp_path, mode):
    picture(0, 33, 57, mode).save(tmp_path / "x.jpg", quality=95)
    assert_close(pixels(open_images(str(tmp_path), 16))[0], squash((tmp_path / "x.jpg").read_bytes(), 16))


def test_sixteen_bits_are_scaled_and_not_clipped(tmp_path):
    for ending in ("png", "tif", "pgm"):
        Image.fromarray(np.full((8, 8), 0x8000, np.uint16)).save(tmp_path / f"x.{ending}")
    assert (pixels(open_images(str(tmp_path), 16)) == 128).all()


@pytest.mark.parametrize("kind", [np.int32, np.float32])
def test_thirty_two_bits_are_refused_and_not_black(tmp_path, kind):
    Image.fromarray(np.full((8, 8), 200, kind)).save(tmp_path / "x.tif")
    assert "x.tif does not decode (its pixels have 32 bits: save it with 8 or 16)" in complaint(tmp_path)


@pytest.mark.parametrize("ending", ["png", "webp"])
def test_transparent_parts_become_white(tmp_path, ending):
    image = picture(0).convert("RGBA")
    image.putalpha(0)
    image.save(tmp_path / f"x.{ending}")
    assert (pixels(open_images(str(tmp_path), 16)) == 255).all()


@pytest.mark.parametrize("ending", ["png", "jpg", "webp"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_turns_are_applied(tmp_path, ending, orientation):
    exif = Image.Exif()
    exif[0x0112] = orientation
    picture(0).save(tmp_path / f"x.{ending}", exif=exif)
    turned = ImageOps.exif_transpose(Image.open(tmp_path / f"x.{ending}"))
    upright = np.asarray(turned.convert("RGB").resize((16, 16), Image.BILINEAR))
    assert_close(pixels(open_images(str(tmp_path), 16))[0], upright)


@pytest.mark.parametrize("ending", ["png", "jpg", "webp"])
def test_damaged_exif_does_not_cost_the_picture(tmp_path, ending):
    picture(0).save(tmp_path / f"x.{ending}", exif=b"Exif\0\0no exif at all")
    dataset = open_images(str(tmp_path), 16)
    with Image.open(tmp_path / f"x.{ending}") as image:
        upright = np.asarray(image.convert("RGB").resize((16, 16), Image.BILINEAR))
    assert_close(pixels(dataset)[0], upright)
    assert not dataset.bad


@pytest.mark.parametrize("width, height", [(1, 1), (1, 300), (16, 16), (17, 16), (640, 333)])
@pytest.mark.parametrize("fit", ["squash", "crop"])
def test_any_size_fits(width, height, fit):
    assert fitted(picture(1, width, height), 16, fit).shape == (16, 16, 3)


SIZES = [(40, 30), (31, 57), (385, 256), (29, 29), (113, 112), (9, 14)]


@pytest.mark.parametrize("width, height", SIZES)
def test_squash_is_pils_bilinear_filter_within_one_grey_level(width, height):
    image = picture(2, width, height)
    assert_close(fitted(image, 16, "squash"), np.asarray(image.resize((16, 16), Image.BILINEAR)))
    assert_close(fitted(image, 112, "squash"), np.asarray(image.resize((112, 112), Image.BILINEAR)))


@pytest.mark.parametrize("width, height", SIZES)
def test_crop_is_torchvisions_of_pil_within_one_grey_level(width, height):
    image = picture(2, width, height)
    for size in (16, 112):
        steps = transforms.Compose([transforms.Resize(size), transforms.CenterCrop(size)])
        assert_close(fitted(image, size, "crop"), np.asarray(steps(image)))


def test_rooms():
    dataset = open_images("rooms", 32)
    assert len(dataset) == 10_000
    batch = dataset[[7, 8]]
    assert batch.shape == (2, 32, 32, 3)
    from data.rooms import room

    np.testing.assert_array_equal(batch[0].numpy(), room(0, 7, 32))


def test_cifar10(tmp_path, monkeypatch):
    class Fake:
        classes, targets = ["airplane", "cat"], [1, 0, 1]
        data = np.arange(3, dtype=np.uint8).repeat(32 * 32 * 3).reshape(3, 32, 32, 3)

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(images, "load_cifar10", lambda path: Fake)
    dataset = open_images("cifar10", 32)
    assert dataset.classes == ["airplane", "cat"] and dataset.labels.tolist() == [0, 1, 1]
    assert pixels(dataset)[:, 0, 0, 0].tolist() == [1, 0, 2]

    write_lmdb(tmp_path / "cifar10_train_lmdb", {"cat/00000": encode(picture(0), "PNG")})
    assert open_images("cifar10", 32).classes == ["cat"]


def test_cifar10_is_downloaded_by_one_process_at_a_time(tmp_path, monkeypatch):
    locked = []

    def dataset(path, download=False):
        if not download:
            raise RuntimeError("Dataset not found")
        with pytest.raises(filelock.Timeout):
            filelock.FileLock(path / ".lock").acquire(timeout=0)
        locked.append(path)

    monkeypatch.setattr("torchvision.datasets.CIFAR10", dataset)
    images.load_cifar10(tmp_path / "cifar10")
    assert locked == [tmp_path / "cifar10"]


def test_cifar10_without_a_network(tmp_path, monkeypatch):
    def offline(*args, **options):
        raise RuntimeError("no\nnetwork")

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("torchvision.datasets.CIFAR10", offline)
    assert "CIFAR-10 is not in ./cifar10 and cannot be downloaded (no network)" in complaint("cifar10")


# ---------------------------------------------------------------- real photos


def real_lmdb(tmp_path, name):
    """The real data under a folder of the test's own, where the list of keys may be written."""
    folder = tmp_path / f"{name}_train_lmdb"
    folder.mkdir()
    (folder / "data.mdb").symlink_to(Path(REAL, f"lsun/{name}_train_lmdb/data.mdb").resolve())
    return str(folder)


@needs_real
@pytest.mark.filterwarnings(
    "ignore::pytest.PytestUnraisableExceptionWarning"
)  # torchvision leaves a file open
@pytest.mark.parametrize("fit", ["squash", "crop"])
def test_real_photos_equal_torchvisions_reader(tmp_path, monkeypatch, fit):
    root = real_lmdb(tmp_path, "bedroom")
    monkeypatch.chdir(tmp_path)  # torchvision leaves its cache in the working directory
    resize = transforms.Resize((112, 112)) if fit == "squash" else transforms.Resize(112)
    theirs = datasets.LSUNClass(root, transform=transforms.Compose([resize, transforms.CenterCrop(112)]))
    indices = range(0, len(theirs), 20)
    expected = np.stack([np.asarray(theirs[i][0]) for i in indices])
    theirs.env.close()
    dataset = open_images(root, 112, fit)
    assert len(dataset) == 529
    assert_close(dataset[indices].numpy(), expected)


# ---------------------------------------------------------------- workers


ORDER = [np.array([5, 1, 2]), np.array([0, 7, 7]), np.array([4, 3, 6])]


def batches(dataset, workers, **options):
    loader = DataLoader(dataset, sampler=ORDER, batch_size=None, num_workers=workers, **options)
    return torch.stack(list(loader))


@pytest.mark.parametrize("kind", ["lmdb", "array", "folder"])
def test_workers_give_the_batches_of_the_main_process(tmp_path, kind):
    spec = str(tmp_path / "x.npy")
    np.save(spec, np.random.default_rng(0).integers(0, 256, (8, 16, 16, 3), np.uint8))
    if kind == "lmdb":
        spec = write_lmdb(tmp_path / "bedroom_train_lmdb", numbered(8))
    elif kind == "folder":
        spec = write_pictures(tmp_path / "x", [f"{i}.png" for i in range(8)])
    dataset = open_images(spec, 16)
    assert torch.equal(batches(dataset, 2), batches(dataset, 0))
    assert torch.equal(batches(pickle.loads(pickle.dumps(dataset)), 2), batches(dataset, 0))


def test_spawned_worker(tmp_path):
    dataset = open_images(write_lmdb(tmp_path / "bedroom_train_lmdb", numbered(8)), 16)
    assert torch.equal(batches(dataset, 1, multiprocessing_context="spawn"), batches(dataset, 0))


def test_workers_do_not_copy_a_mapped_array(tmp_path):
    np.save(tmp_path / "x.npy", np.zeros((1000, 16, 16, 3), np.uint8))
    dataset = open_images(str(tmp_path / "x.npy"), 16)
    assert len(pickle.dumps(dataset)) < 50_000  # the pictures have 768,000


def test_an_error_in_a_worker_is_still_one_line(tmp_path):
    dataset = open_images(write_lmdb(tmp_path / "x_train_lmdb", numbered(2)), 16)
    (tmp_path / "x_train_lmdb" / "data.mdb").write_bytes(b"gone")
    text = ""
    try:  # and not pytest.raises, which would keep the worker alive with the traceback
        list(DataLoader(dataset, sampler=[np.array([0])], batch_size=None, num_workers=1))
    except DataError as error:
        text = str(error)
    assert text.startswith(str(tmp_path)) and "\n" not in text


# ---------------------------------------------------------------- pictures that do not decode


@pytest.mark.parametrize("kind", ["JPEG", "WEBP", "PNG"])
def test_truncated_pictures_are_replaced_counted_and_reported_once(tmp_path, kind, capsys):
    values = numbered(6, kind)
    keys = list(values)
    for i, bad in ((2, values[keys[2]][:-40]), (3, b""), (5, b"junk" * 50)):
        values[keys[i]] = bad
    dataset = open_images(write_lmdb(tmp_path / "x_lmdb", values), 16)
    batch = pixels(dataset)
    for index, stand_in in ((2, 4), (3, 4), (5, 0)):
        assert_close(batch[index], squash(values[keys[stand_in]], 16))
    pixels(dataset)
    assert len(dataset.bad) == 3
    said = capsys.readouterr().err.splitlines()
    assert len(said) == 1 and keys[2] in said[0] and "does not decode" in said[0]


def test_a_picture_with_a_damaged_byte_is_replaced(tmp_path):
    """Pillow raises once for it. Asked again, it takes what could not be decoded for black."""
    noise = np.random.default_rng(0).integers(0, 256, (60, 60, 3), np.uint8)
    whole = encode(Image.fromarray(noise), "PNG")
    damaged = bytearray(whole)
    damaged[len(whole) // 2] ^= 0xFF
    dataset = open_images(write_lmdb(tmp_path / "x_lmdb", {"0": bytes(damaged), "1": whole}), 16)
    assert torch.equal(dataset[[0]], dataset[[1]]) and dataset.bad == {0}


def test_a_stand_in_is_the_next_picture_of_the_source_whatever_the_limit(tmp_path):
    values = numbered(9)
    values[list(values)[3]] = b"junk"
    spec = write_lmdb(tmp_path / "x_lmdb", values)
    assert torch.equal(open_images(spec, 16, limit=3)[[1]], open_images(spec, 16)[[4]])


def test_a_file_that_cannot_be_read_is_no_damaged_picture(tmp_path):
    dataset = open_images(write_pictures(tmp_path / "photos", ["a.png", "b.png", "c.png"]), 16)
    (tmp_path / "photos" / "b.png").unlink()
    with pytest.raises(DataError, match=r"b\.png cannot be read \(No such file or directory\)"):
        pixels(dataset)


def test_an_array_that_is_cut_off_later_is_named(tmp_path):
    np.save(tmp_path / "x.npy", np.zeros((3, 16, 16, 3), np.uint8))
    dataset = open_images(str(tmp_path / "x.npy"), 16)
    os.truncate(tmp_path / "x.npy", 1000)
    with pytest.raises(DataError, match=r"x\.npy has been cut off"):
        pixels(dataset)


@pytest.mark.parametrize("error", [NameError, MemoryError])
def test_what_is_not_a_pictures_fault_is_raised(tmp_path, monkeypatch, error):
    dataset = open_images(write_lmdb(tmp_path / "x_lmdb", numbered(3)), 16)

    def broken(value):
        raise error

    monkeypatch.setattr(images, "decode", broken)
    with pytest.raises(error):
        pixels(dataset)


def test_only_pictures_that_were_asked_for_are_counted(tmp_path):
    values = numbered(4)
    values[f"{1:040x}"] = values[f"{2:040x}"] = b"junk"
    dataset = open_images(write_lmdb(tmp_path / "x_lmdb", values), 16)
    dataset[[1, 1]]  # meets 2 as well
    assert len(dataset.bad) == 1
    dataset[[2]]
    assert len(dataset.bad) == 2


def test_a_file_that_is_no_picture_is_replaced(tmp_path):
    write_pictures(tmp_path, ["a.png", "b.png"])
    (tmp_path / "a.png").write_text("no picture")
    dataset = open_images(str(tmp_path), 16)
    batch = pixels(dataset)
    assert len(dataset.bad) == 1 and (batch[0] == batch[1]).all()


def test_an_index_out_of_range_is_no_broken_picture(tmp_path):
    dataset = open_images(write_lmdb(tmp_path / "x_lmdb", numbered(3)), 16)
    for index in (3, -4):
        with pytest.raises(IndexError, match=f"there is no picture {index}, there are 3"):
            dataset[[index]]
    np.testing.assert_array_equal(dataset[[-1, -3]], dataset[[2, 0]])


# ---------------------------------------------------------------- the list of keys


def test_keys_are_listed_once_and_nothing_is_written_beside_the_lmdb(tmp_path, monkeypatch, cache):
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    spec = write_lmdb(tmp_path / "x_lmdb", numbered(4))
    (tmp_path / "x_lmdb" / "lock.mdb").unlink()
    open_images(spec, 16)
    assert os.listdir(spec) == ["data.mdb"] and not os.listdir(tmp_path / "elsewhere")
    assert len(list(cache.iterdir())) == 1
    monkeypatch.setattr(images, "write_file", None)  # would fail if the keys were listed again
    assert len(open_images(spec, 16)) == 4


class Bomb:
    """Makes a file when it is unpickled."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return (Path.touch, (self.path,))


def damage(name, content, bomb):
    """A damaged list of keys."""
    buffer = io.BytesIO()
    if name == "pickle":
        return pickle.dumps(bomb)
    if name == "other array":
        np.savez(buffer, keys=np.zeros(4))
        return buffer.getvalue()
    if name == "objects":
        np.savez(buffer, keys=np.array([bomb] * 4))
        return buffer.getvalue()
    if name == "flipped bit":
        middle = content.index(b"00002\n")
        return content[:middle] + b"1" + content[middle + 1 :]
    return {"empty": b"", "cut": content[:-40], "noise": os.urandom(500)}[name]


@pytest.mark.parametrize("name", ["empty", "cut", "noise", "pickle", "other array", "objects", "flipped bit"])
def test_a_damaged_list_of_keys_is_made_again(tmp_path, cache, name):
    spec = write_lmdb(tmp_path / "x_lmdb", numbered(4))
    before = pixels(open_images(spec, 16))
    (file,) = cache.iterdir()
    content = file.read_bytes()
    file.write_bytes(damage(name, content, Bomb(tmp_path / "was run")))
    np.testing.assert_array_equal(pixels(open_images(spec, 16)), before)
    assert np.load(file)["keys"].shape == (4,) and not (tmp_path / "was run").exists()


def test_keys_may_end_in_zero_bytes(tmp_path):
    values = {f"{i}\0": encode(picture(i), "PNG") for i in range(3)} | {"0": encode(picture(9), "PNG")}
    dataset = open_images(write_lmdb(tmp_path / "x_lmdb", values), 16)
    expected = [squash(values[key], 16) for key in ("0", "0\0", "1\0", "2\0")]
    assert_close(pixels(dataset), np.stack(expected))
    assert not dataset.bad


def test_a_changed_lmdb_is_listed_again(tmp_path):
    spec = write_lmdb(tmp_path / "x_lmdb", numbered(4))
    first = open_images(spec, 16)
    expected = pixels(first)
    write_lmdb(tmp_path / "x_lmdb", numbered(7))
    assert len(open_images(spec, 16)) == 7
    shutil.rmtree(tmp_path / "x_lmdb")
    write_lmdb(tmp_path / "x_lmdb", {f"{i + 9:040x}": v for i, v in enumerate(numbered(4).values())})
    again = open_images(spec, 16)
    assert again.fingerprint != first.fingerprint
    assert (pixels(again) == expected).all() and len(again.bad) == 0


def test_a_cache_that_cannot_be_written_only_costs_time(tmp_path, monkeypatch, capsys):
    spec = write_lmdb(tmp_path / "x_lmdb", numbered(4))

    def refuse(path):
        raise PermissionError(13, "Permission denied", str(path))

    monkeypatch.setattr(images, "write_file", refuse)
    assert len(open_images(spec, 16)) == 4
    assert "list of 4 keys is not kept" in capsys.readouterr().err


# ---------------------------------------------------------------- prepared arrays


def save_array(tmp_path, spec, pictures, **metadata):
    """An array as data.prepare leaves it for `spec`, 16x16 and squashed."""
    path = images.prepared_path(spec, 16, "squash")
    np.save(path, pictures)
    path.with_suffix(".json").write_text(
        json.dumps({"limit": None, "classes": None, "labels": None, **metadata})
    )
    return path


def test_a_prepared_array_is_used_and_outlives_its_source(tmp_path, capsys):
    write_lmdb(tmp_path / "x_train_lmdb", numbered(4))
    spec = str(tmp_path / "x")
    marked = np.full((4, 16, 16, 3), 77, np.uint8)
    path = save_array(tmp_path, spec, marked, fingerprint=images.find_source(spec, 16).fingerprint)
    assert (pixels(open_images(spec, 16)) == 77).all()
    assert f"using {path}" in capsys.readouterr().err
    assert (pixels(open_images(spec, 16, "crop")) != 77).any()
    shutil.rmtree(tmp_path / "x_train_lmdb")
    assert (pixels(open_images(spec + "_train_lmdb", 16, limit=2)) == 77).all()


def test_a_prepared_array_of_other_pictures_is_not_used(tmp_path, capsys):
    write_lmdb(tmp_path / "x_train_lmdb", numbered(4))
    spec = str(tmp_path / "x")
    path = save_array(tmp_path, spec, np.zeros((4, 16, 16, 3), np.uint8), fingerprint="another")
    assert pixels(open_images(spec, 16)).any()
    said = capsys.readouterr().err
    assert "changed" in said and f"rm {path}; python -m data.prepare {spec} --size 16 --fit squash" in said


def test_a_prepared_array_without_its_json_is_not_used(tmp_path, capsys):
    write_lmdb(tmp_path / "x_train_lmdb", numbered(4))
    path = prepare(str(tmp_path / "x"), 16)
    path.with_suffix(".json").unlink()
    capsys.readouterr()
    assert len(open_images(str(tmp_path / "x"), 16)) == 4
    said = capsys.readouterr().err
    assert f"not using {path}, as x_16_squash.json beside it is missing; to make it again:" in said


@pytest.mark.parametrize("limit, used", [(None, False), (3, False), (2, True), (1, False)])
def test_a_part_is_only_used_for_the_same_part(tmp_path, capsys, limit, used):
    write_lmdb(tmp_path / "x_train_lmdb", numbered(4))
    spec, part = str(tmp_path / "x"), np.zeros((2, 16, 16, 3), np.uint8)
    save_array(tmp_path, spec, part, limit=2, fingerprint=images.find_source(spec, 16).fingerprint)
    assert pixels(open_images(spec, 16, limit=limit)).any() != used
    assert ("not using" in capsys.readouterr().err) != used


def test_an_array_given_by_name(tmp_path):
    array = np.random.default_rng(0).integers(0, 256, (6, 16, 16, 3), np.uint8)
    np.save(tmp_path / "own.npy", array)
    np.testing.assert_array_equal(pixels(open_images(str(tmp_path / "own.npy"), 16, limit=3)), array[::2])


def test_an_array_of_squashed_pictures_cannot_be_cropped(tmp_path):
    path = save_array(tmp_path, str(tmp_path / "x"), np.zeros((3, 16, 16, 3), np.uint8), fit="squash")
    assert len(open_images(str(path), 16, "squash")) == 3
    assert complaint(path, fit="crop") == f"{path} was prepared with --fit squash, not crop"


def test_labels_of_a_prepared_array(tmp_path):
    array = np.zeros((3, 16, 16, 3), np.uint8)
    path = save_array(tmp_path, str(tmp_path / "x"), array, classes=["猫", "犬"], labels=[1, 0, 1])
    dataset = open_images(str(path), 16)
    assert dataset.classes == ["犬", "猫"] or dataset.classes == ["猫", "犬"]
    assert [dataset.classes[label] for label in dataset.labels] == ["犬", "猫", "犬"]


def test_an_npz_is_no_array(tmp_path):
    np.savez(tmp_path / "x.npz", np.zeros((2, 16, 16, 3), np.uint8))
    assert "is no folder, LMDB directory or whole array" in complaint(tmp_path / "x.npz")


def test_an_array_that_goes_away_is_one_line(tmp_path):
    np.save(tmp_path / "x.npy", np.zeros((2, 16, 16, 3), np.uint8))
    dataset = open_images(str(tmp_path / "x.npy"), 16)
    (tmp_path / "x.npy").unlink()
    with pytest.raises(DataError, match="x.npy cannot be read"):
        dataset[[0]]


def test_an_array_in_fortran_order_is_refused(tmp_path):
    np.save(tmp_path / "x.npy", np.asfortranarray(np.zeros((2, 16, 16, 3), np.uint8)))
    assert "Fortran" in complaint(tmp_path / "x.npy")


DAMAGED_JSON = {
    "no JSON": "{",
    "deep": "[" * 100_000,
    "no dict": "[1]",
    "of another array": '{"count": 6}',
    "limit": '{"limit": "many"}',
    "no labels": '{"classes": ["a"]}',
    "too few labels": '{"classes": ["a"], "labels": [0, 0]}',
    "too many labels": '{"classes": ["a"], "labels": [0, 0, 0, 0]}',
    "out of range": '{"classes": ["a"], "labels": [0, 1, 0]}',
    "negative": '{"classes": ["a"], "labels": [0, -1, 0]}',
    "no numbers": '{"classes": ["a"], "labels": ["a", "a", "a"]}',
    "fractions": '{"classes": ["a"], "labels": [0.5, 0, 0]}',
    "no classes": '{"classes": 3, "labels": [0, 0, 0]}',
    "classes that are no list": '{"classes": {"a": 1}, "labels": [0, 0, 0]}',
}


@pytest.mark.parametrize("content", DAMAGED_JSON.values(), ids=DAMAGED_JSON)
def test_a_damaged_json_beside_an_array_is_named(tmp_path, capsys, content):
    np.save(tmp_path / "x_16_squash.npy", np.zeros((3, 16, 16, 3), np.uint8))
    (tmp_path / "x_16_squash.json").write_text(content)
    said = complaint(tmp_path / "x_16_squash.npy")
    assert said.startswith(f"{tmp_path}/x_16_squash.json is damaged") and len(said) < 500
    write_lmdb(tmp_path / "x_lmdb", numbered(3))  # the pictures themselves are still there: they will do
    assert pixels(open_images(str(tmp_path / "x"), 16)).any()
    assert "not using" in capsys.readouterr().err


def test_the_cache_is_in_the_users_home_unless_told_otherwise(monkeypatch, tmp_path):
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.delenv("XDG_CACHE_HOME")
    assert images.cache_path("x") == tmp_path / ".cache/lsgan/x"
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "other"))
    assert images.cache_path("x") == tmp_path / "other/lsgan/x"


def test_the_fingerprint_follows_the_pictures_and_not_their_place(tmp_path):
    write_lmdb(tmp_path / "x_lmdb", numbered(4))
    shutil.copytree(tmp_path / "x_lmdb", tmp_path / "y_lmdb")
    first, moved = open_images(str(tmp_path / "x"), 16), open_images(str(tmp_path / "y"), 32)
    assert isinstance(first.fingerprint, str) and first.fingerprint == moved.fingerprint
    np.save(tmp_path / "z.npy", np.zeros((2, 16, 16, 3), np.uint8))
    array = open_images(str(tmp_path / "z.npy"), 16).fingerprint
    np.save(tmp_path / "z.npy", np.ones((2, 16, 16, 3), np.uint8))
    assert array != open_images(str(tmp_path / "z.npy"), 16).fingerprint
    spec = write_pictures(tmp_path / "photos", ["a.png", "b.png"])
    folder = open_images(spec, 16).fingerprint
    (tmp_path / "photos" / "b.png").unlink()
    assert folder != open_images(spec, 16).fingerprint


# ---------------------------------------------------------------- all at once


@pytest.mark.parametrize("kind", ["lmdb", "array", "folder", "rooms"])
def test_decode_all_gives_the_pictures_of_the_dataset(tmp_path, kind, capsys):
    n = 150  # more than two batches
    spec = "rooms"
    if kind == "lmdb":
        spec = write_lmdb(tmp_path / "bedroom_train_lmdb", numbered(n))
    elif kind == "folder":
        spec = write_pictures(tmp_path / "x", [f"{i}.png" for i in range(n)])
    elif kind == "array":
        spec = str(tmp_path / "x.npy")
        np.save(spec, np.random.default_rng(0).integers(0, 256, (n, 16, 16, 3), np.uint8))
    dataset = open_images(spec, 16, limit=n)
    pictures = decode_all(dataset)
    assert pictures.dtype == torch.uint8 and pictures.shape == (n, 16, 16, 3)
    assert pictures.nbytes == dataset.nbytes
    np.testing.assert_array_equal(pictures.numpy(), pixels(dataset))
    out = capsys.readouterr().out
    assert out.count("\n") == 1 and "150 pictures decoded in" in out


@pytest.mark.parametrize("rank, lines", [(0, 1), (1, 0)])
def test_of_several_processes_one_says_how_long_decoding_took(as_rank, capsys, rank, lines):
    as_rank(rank)
    decode_all(open_images("rooms", 16, limit=3))
    assert capsys.readouterr().out.count("3 pictures decoded in") == lines


def test_decode_all_counts_bad_pictures_and_reports_one(tmp_path, capsys):
    values = numbered(200)
    for i in range(0, 200, 4):
        values[f"{i:040x}"] = b"junk"
    dataset = open_images(write_lmdb(tmp_path / "x_lmdb", values), 16)
    decode_all(dataset)
    assert len(dataset.bad) == 50 and capsys.readouterr().err.count("does not decode") == 1


def test_decode_all_ends_at_the_first_error(tmp_path, monkeypatch):
    values = {f"{i:040x}": b"junk" for i in range(5000)} | {f"{0:040x}": encode(picture(0), "PNG")}
    dataset = open_images(write_lmdb(tmp_path / "x_lmdb", values), 16)
    batches = at_call(monkeypatch, images.Images, "__getitem__", 0, None)
    monkeypatch.setattr(images, "available_cores", lambda: 4)
    with pytest.raises(DataError, match="are these pictures"):
        decode_all(dataset)
    assert len(batches) < 40  # of 79


# ---------------------------------------------------------------- LMDBs in one process


def test_an_lmdb_can_be_open_twice_in_a_process(tmp_path):
    spec = write_lmdb(tmp_path / "x_lmdb", numbered(4))
    (tmp_path / "y_lmdb").symlink_to(spec)
    first, second = open_images(spec, 16), open_images(str(tmp_path / "y_lmdb"), 16)
    with first.source.reading() as one, second.source.reading() as two:
        assert one(0) == two(0)
    assert (pixels(first) == pixels(second)).all()
    assert not images._open_lmdbs


def test_an_lmdb_that_another_library_has_open_is_not_called_damaged(tmp_path):
    spec = write_lmdb(tmp_path / "x_lmdb", numbered(4))
    with lmdb.open(spec, readonly=True, lock=False):
        assert "already open in this process" in complaint(spec)
    assert len(open_images(spec, 16)) == 4


@pytest.mark.parametrize("content", ["zeros", "noise"])
@pytest.mark.parametrize("part", range(4))
def test_an_lmdb_with_damage_in_its_middle(tmp_path, content, part):
    """In a process of its own, as liblmdb aborts some. Never an endless loop, nor another error than ours."""
    spec = write_lmdb(tmp_path / "x_lmdb", numbered(300, "JPEG"))
    file = tmp_path / "x_lmdb" / "data.mdb"
    with open(file, "r+b") as data:
        length = os.path.getsize(file) // 8
        data.seek(length * (2 * part + 1))
        data.write(bytes(length) if content == "zeros" else np.random.default_rng(part).bytes(length))

    def read():
        faulthandler.disable()  # liblmdb's aborts are no news
        try:
            decode_all(open_images(spec, 16))
        except DataError as error:
            sys.exit(2 if "\n" not in str(error) else 3)

    child = multiprocessing.get_context("fork").Process(target=read)
    child.start()
    child.join(100)
    assert child.exitcode in (0, 2, -signal.SIGABRT, -signal.SIGSEGV, -signal.SIGBUS)


# ---------------------------------------------------------------- folders as they are


def test_what_is_no_regular_file_is_passed_over(tmp_path, capsys):
    spec = write_pictures(tmp_path / "x", ["a.png", "b.png"])
    os.mkfifo(tmp_path / "x" / "pipe.png")
    (tmp_path / "x" / "gone.png").symlink_to("nowhere")
    (tmp_path / "x" / "system").symlink_to("/proc")
    assert len(open_images(spec, 16)) == 2
    assert "not read: 2 that are no regular files" in capsys.readouterr().err


def test_proc_itself_holds_no_pictures():
    assert "no pictures at /proc" in complaint("/proc")


def test_links_to_folders_are_followed_once(tmp_path):
    spec = write_pictures(tmp_path / "x", ["a/1.png", "b/2.png"])
    write_pictures(tmp_path / "elsewhere", ["3.png"])
    (tmp_path / "x" / "c").symlink_to(tmp_path / "elsewhere")
    (tmp_path / "x" / "loop").symlink_to(".")
    (tmp_path / "x" / "a" / "again").symlink_to("../b")
    dataset = open_images(spec, 16)
    assert dataset.classes == ["a", "b", "c"] and len(dataset) == 3


def test_a_folder_that_cannot_be_read_is_one_line(tmp_path, monkeypatch):
    spec = write_pictures(tmp_path / "x", ["a/1.png", "b/2.png"])
    scandir = os.scandir

    def locked(path):
        if str(path).endswith("/b"):
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), path)
        return scandir(path)

    monkeypatch.setattr(os, "scandir", locked)
    assert "cannot be read (Permission denied)" in complaint(spec)


def test_a_command_in_a_message_can_be_pasted(tmp_path, capsys):
    """Although there is a space in the name."""
    spec = write_pictures(tmp_path / "My Photos", ["a.png", "b.png"])
    prepared = tmp_path / "My Photos_16_squash.npy"
    np.save(prepared, np.zeros((2, 16, 16, 3), np.uint8))
    open_images(spec, 16)
    said = capsys.readouterr().err
    assert f"rm '{prepared}'; python -m data.prepare '{spec}' --size 16" in said


def test_a_part_that_was_prepared_says_so_when_the_pictures_are_gone(tmp_path, capsys):
    spec = write_pictures(tmp_path / "x", [f"{name}.png" for name in "abcd"])
    prepare(spec, 16, limit=3)
    shutil.rmtree(spec)
    assert len(open_images(spec, 16)) == 3
    assert "it holds 3 pictures only" in capsys.readouterr().err
    open_images(spec, 16, limit=3)
    assert "only" not in capsys.readouterr().err


def test_files_that_are_not_read_are_counted_by_kind(tmp_path, capsys):
    spec = write_pictures(tmp_path / "x", ["a.png", "b.JPG"])
    for name in ("1.NEF", "2.nef", "3.heic", "README", "film.mpg", "weights.h5"):
        (tmp_path / "x" / name).write_bytes(b"content")
    open_images(spec, 16)
    said = capsys.readouterr().err
    assert "2 pictures; not read: 2 .nef, 1 .heic, 1 without an extension, 1 .mpg, 1 .h5" in said
    write_pictures(tmp_path / "y", ["a.png"])
    open_images(str(tmp_path / "y"), 16)
    assert "not read" not in capsys.readouterr().err


def test_a_folder_that_is_named_like_the_toys(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    open_images("rooms", 16, limit=3)
    assert "toy rooms" not in capsys.readouterr().err
    write_pictures(tmp_path / "rooms", ["a.png"])
    open_images("rooms", 16, limit=3)
    assert "using the toy rooms; the folder of that name is ./rooms" in capsys.readouterr().err
    assert len(open_images("./rooms", 16)) == 1


def test_a_folder_of_other_files_says_so(tmp_path):
    (tmp_path / "1.NEF").write_bytes(b"content")
    assert f"no pictures at {tmp_path} that Pillow reads; not read: 1 .nef" in complaint(tmp_path)


def test_names_that_are_not_utf8(tmp_path):
    folder = os.fsencode(tmp_path) + b"/x/\xff\xfe"
    os.makedirs(folder)
    picture(1).save(folder + b"/\xe9.png")
    dataset = open_images(str(tmp_path / "x"), 16)
    assert dataset.classes == ["\udcff\udcfe"] and not dataset.bad
    assert len(open_images(os.fsdecode(folder), 16)) == 1


# ---------------------------------------------------------------- bad input: one line that helps


def complaint(spec, size=16, **options):
    with pytest.raises(DataError) as caught:
        open_images(str(spec), size, **options)
    text = str(caught.value)
    assert text and "\n" not in text
    return text


def test_download_is_named_for_lsun_only(tmp_path):
    assert "python -m data.download lsun" in complaint(tmp_path / "LSUN" / "bedrom")
    assert "data.download" not in complaint(tmp_path / "my_fotos")


def test_missing_path(tmp_path):
    text = complaint(tmp_path / "lsun" / "bedroom")
    assert f"no pictures at {tmp_path}/lsun/bedroom" in text
    assert "bedroom_train_lmdb/data.mdb" in text and "bedroom_16_squash.npy" in text


def test_empty_folder(tmp_path):
    assert f"no pictures at {tmp_path}" in complaint(tmp_path)


def test_parent_of_lmdbs_names_them(tmp_path):
    for name in ("kitchen", "bedroom"):
        write_lmdb(tmp_path / f"{name}_train_lmdb", numbered(1))
    assert complaint(tmp_path).endswith(f"{tmp_path}/bedroom_train_lmdb, {tmp_path}/kitchen_train_lmdb")


def test_empty_lmdb(tmp_path):
    assert "is an empty LMDB" in complaint(write_lmdb(tmp_path / "x_lmdb", {}))


def test_lmdb_of_something_else(tmp_path):
    text = complaint(write_lmdb(tmp_path / "x_lmdb", {str(i): b"text" for i in range(300)}))
    assert "are these pictures?" in text


@pytest.mark.parametrize("content", [b"", b"junk", os.urandom(20_000)])
def test_data_mdb_that_is_no_lmdb(tmp_path, content):
    (tmp_path / "data.mdb").write_bytes(content)
    assert "cannot be read as an LMDB" in complaint(tmp_path)


def test_lmdb_cut_off_by_a_broken_download(tmp_path):
    write_lmdb(tmp_path / "x_lmdb", numbered(50))
    file = tmp_path / "x_lmdb" / "data.mdb"
    os.truncate(file, file.stat().st_size // 2)
    assert "is cut off" in complaint(tmp_path / "x_lmdb")


@pytest.mark.parametrize("content", [b"", b"text", b"\x93NUMPY\x01\x00v\x00{'descr': '|u1', 'fortran_"])
def test_a_file_is_no_data_set(tmp_path, content):
    (tmp_path / "file.npy").write_bytes(content)
    assert "is no folder, LMDB directory or whole array" in complaint(tmp_path / "file.npy")


def test_array_of_another_size(tmp_path):
    np.save(tmp_path / "x.npy", np.zeros((2, 16, 16, 3), np.uint8))
    assert "(2, 16, 16, 3), not uint8 (n, 32, 32, 3)" in complaint(tmp_path / "x.npy", 32)
    np.save(tmp_path / "x.npy", np.zeros((2, 16, 16, 3)))
    assert "float64" in complaint(tmp_path / "x.npy")


@pytest.mark.parametrize(
    "options, text",
    [
        ({"fit": "stretch"}, "by squash or crop, not by stretch"),
        ({"size": 0}, "size of pictures must be at least 1, not 0"),
        ({"limit": 0}, "limit must be at least 1 picture, not 0"),
        ({"limit": -3}, "limit must be at least 1 picture, not -3"),
    ],
)
def test_impossible_options(tmp_path, options, text):
    write_pictures(tmp_path, ["a.png"])
    assert text in complaint(tmp_path, **{"size": 16, **options})


def test_what_pillow_does_not_know_is_said_without_addresses(tmp_path):
    (tmp_path / "a.png").write_bytes(b"text")
    assert "a.png does not decode (Pillow does not know what it is)" in complaint(tmp_path)
