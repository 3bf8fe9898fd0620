"""data.prepare: the same pixels as without it, whatever interrupts it, and never half an array."""

import contextlib
import errno
import json
import multiprocessing
import os
import resource
import signal
import time
from collections import namedtuple

import numpy as np
import pytest
from test_images import numbered, pixels, squash, write_lmdb, write_pictures

from data import DataError, images, prepare
from data.images import open_images

N = 23  # pictures in most tests, with batches of 2 that are made safe after every 4


@pytest.fixture(autouse=True)
def small_batches(monkeypatch):
    monkeypatch.setattr(prepare, "BATCH", 2)
    monkeypatch.setattr(prepare, "SAFE_EVERY", 4)


@pytest.fixture
def spec(tmp_path):
    write_lmdb(tmp_path / "x_train_lmdb", numbered(N))
    return str(tmp_path / "x")


def run(spec, *options):
    prepare.main([spec, "--size", "16", "--workers", "0", *options])


def refused(capsys, spec, *options, code=2):
    """The one line on stderr of a command that ends with `code`."""
    with pytest.raises(SystemExit) as caught:
        run(spec, *options)
    assert caught.value.code == code
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 1 and lines[0].startswith("data.prepare: ")
    return lines[0]


def expected():
    return np.stack([squash(value, 16) for value in numbered(N).values()])


def names(tmp_path):
    return sorted(path.name for path in tmp_path.iterdir() if path.is_file())


COMPLETE = ["x_16_squash.json", "x_16_squash.npy"]


@pytest.mark.parametrize("workers", ["0", "2"])
def test_the_array_holds_the_pictures_and_is_used(tmp_path, spec, workers, capsys):
    direct = pixels(open_images(spec, 16))
    run(spec, "--workers", workers)
    assert names(tmp_path) == COMPLETE
    array = np.load(tmp_path / "x_16_squash.npy")
    np.testing.assert_array_equal(array, direct)
    np.testing.assert_array_equal(array, expected())
    assert f"{N} pictures" in capsys.readouterr().out
    dataset = open_images(spec, 16)
    assert f"using {tmp_path / 'x_16_squash.npy'}" in capsys.readouterr().err
    np.testing.assert_array_equal(pixels(dataset), direct)


def test_the_json_says_what_it_holds(tmp_path):
    spec = write_pictures(tmp_path / "x", ["b/1.png", "a/1.png", "a/2.png"])
    run(spec, "--fit", "crop")
    about = json.loads((tmp_path / "x_16_crop.json").read_text())
    assert about.pop("fingerprint")
    assert about == {
        "source": spec,
        "size": 16,
        "fit": "crop",
        "count": 3,
        "limit": None,
        "replaced": 0,
        "classes": ["a", "b"],
        "labels": [0, 0, 1],
    }
    before = open_images(spec, 16, "squash")
    after = open_images(spec, 16, "crop")
    assert after.source.kind == "array" and before.source.kind == "folder"
    assert after.classes == before.classes and after.labels.tolist() == before.labels.tolist()


@pytest.mark.parametrize("workers", ["0", "2"])
def test_replaced_pictures_are_counted_over_all_workers(tmp_path, workers):
    values = numbered(N)
    for i in (0, 1, 9, 22):  # one that the main process meets too, neighbours, the last
        values[f"{i:040x}"] = b"junk"
    run(write_lmdb(tmp_path / "x_lmdb", values), "--workers", workers)
    assert json.loads((tmp_path / "x_16_squash.json").read_text())["replaced"] == 4


def test_limit(tmp_path, spec):
    run(spec, "--limit", "5")
    assert json.loads((tmp_path / "x_16_squash.json").read_text())["limit"] == 5
    assert open_images(spec, 16, limit=5).source.kind == "array"
    assert open_images(spec, 16).source.kind == "lmdb"
    np.testing.assert_array_equal(np.load(tmp_path / "x_16_squash.npy"), expected()[np.arange(5) * N // 5])


def test_a_limit_above_the_data_is_no_limit(tmp_path, spec):
    run(spec, "--limit", "1000")
    assert open_images(spec, 16).source.kind == "array"


def test_toy_rooms(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    run("rooms", "--limit", "3")
    assert np.load(tmp_path / "rooms_16_squash.npy").shape == (3, 16, 16, 3)


# ---------------------------------------------------------------- nothing is overwritten


def test_a_finished_array_is_left_alone(tmp_path, spec, capsys):
    run(spec)
    before = (tmp_path / "x_16_squash.npy").stat()
    run(spec)
    assert "complete" in capsys.readouterr().out.splitlines()[-1]
    assert (tmp_path / "x_16_squash.npy").stat() == before


@pytest.mark.parametrize("change", ["limit", "source", "no json"])
def test_an_array_of_something_else_is_never_overwritten(tmp_path, spec, capsys, change):
    run(spec)
    before = (tmp_path / "x_16_squash.npy").stat()
    if change == "source":
        write_lmdb(tmp_path / "x_train_lmdb", numbered(N + 1))
    if change == "no json":
        (tmp_path / "x_16_squash.json").unlink()
    line = refused(capsys, spec, *(("--limit", "5") if change == "limit" else ()))
    assert "exists and holds other pictures" in line and "--out" in line
    assert (tmp_path / "x_16_squash.npy").stat() == before
    run(spec, "--limit", "5", "--out", str(tmp_path / "few.npy"))
    assert len(open_images(str(tmp_path / "few.npy"), 16)) == 5


# ---------------------------------------------------------------- interruptions


def fail_at(monkeypatch, call, error):
    """Reading fails with `error` at its `call`-th batch."""
    read, calls = prepare.Counted.__getitem__, []

    def failing(self, indices):
        calls.append(indices)
        if len(calls) == call:
            raise error
        return read(self, indices)

    monkeypatch.setattr(prepare.Counted, "__getitem__", failing)
    return calls


@pytest.mark.parametrize("call", range(1, 13))
def test_an_interrupted_run_goes_on_where_it_was_safe(tmp_path, spec, monkeypatch, capsys, call):
    fail_at(monkeypatch, call, KeyboardInterrupt())
    assert "interrupted" in refused(capsys, spec, code=130)
    assert not set(names(tmp_path)) & set(COMPLETE)
    assert open_images(spec, 16).source.kind == "lmdb"
    calls = fail_at(monkeypatch, 0, None)
    run(spec)
    assert calls[0][0] == (call - 1) // 2 * 4  # two batches are made safe together
    assert names(tmp_path) == COMPLETE
    np.testing.assert_array_equal(np.load(tmp_path / "x_16_squash.npy"), expected())


def in_child(function, *arguments):
    """A forked process: it has the test's patches, and starting it costs nothing."""
    child = multiprocessing.get_context("fork").Process(target=function, args=arguments)
    child.start()
    return child


@pytest.mark.parametrize("workers", ["0", "2"])
def test_killed_at_random_moments(tmp_path, spec, monkeypatch, workers):
    """Only the main process is killed: its workers live on for a while, and must not be in the way."""
    fit = images.fit_picture
    monkeypatch.setattr(images, "fit_picture", lambda *a: time.sleep(0.005) or fit(*a))

    def group(*arguments):
        os.setsid()
        run(*arguments)

    children = []
    for pause in np.random.default_rng(0).uniform(0.05, 0.2, 5):
        children.append(in_child(group, spec, "--workers", workers))
        time.sleep(pause)
        children[-1].kill()
        children[-1].join()
    run(spec)
    for child in children:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(child.pid, signal.SIGKILL)
    assert names(tmp_path) == COMPLETE
    np.testing.assert_array_equal(np.load(tmp_path / "x_16_squash.npy"), expected())


def test_killed_between_the_last_picture_and_the_final_name(tmp_path, spec, monkeypatch):
    monkeypatch.setattr(prepare.Path, "rename", lambda *a: os.kill(os.getpid(), signal.SIGKILL))
    child = in_child(run, spec)
    child.join()
    monkeypatch.undo()
    assert child.exitcode == -signal.SIGKILL and "x_16_squash.npy" not in names(tmp_path)
    monkeypatch.setattr(prepare.Counted, "__getitem__", None)  # nothing is read again
    run(spec)
    assert names(tmp_path) == COMPLETE
    np.testing.assert_array_equal(np.load(tmp_path / "x_16_squash.npy"), expected())


@pytest.mark.parametrize("left", [0, 100, 2000])
def test_a_part_that_lost_its_end_is_begun_again(tmp_path, spec, monkeypatch, capsys, left):
    fail_at(monkeypatch, 9, KeyboardInterrupt())
    refused(capsys, spec, code=130)
    os.truncate(tmp_path / "x_16_squash.npy.part", left)
    fail_at(monkeypatch, 0, None)
    run(spec)
    np.testing.assert_array_equal(np.load(tmp_path / "x_16_squash.npy"), expected())


def test_full_disk(tmp_path, spec, capsys):
    def limited():
        resource.setrlimit(resource.RLIMIT_FSIZE, (5000, 5000))
        with pytest.raises(SystemExit) as caught:
            run(spec)
        assert caught.value.code == 2
        assert "File too large; what is done is kept" in capsys.readouterr().err

    child = in_child(limited)
    child.join()
    assert child.exitcode == 0 and not set(names(tmp_path)) & set(COMPLETE)
    run(spec)
    np.testing.assert_array_equal(np.load(tmp_path / "x_16_squash.npy"), expected())


def test_disk_that_fills_up_at_the_end(tmp_path, spec, monkeypatch, capsys):
    write = prepare.write_file

    def full(path):
        if path.name == "x_16_squash.json":
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(path))
        return write(path)

    monkeypatch.setattr(prepare, "write_file", full)
    assert "No space left on device" in refused(capsys, spec)
    assert not set(names(tmp_path)) & set(COMPLETE)
    monkeypatch.undo()
    run(spec)
    np.testing.assert_array_equal(np.load(tmp_path / "x_16_squash.npy"), expected())


def test_too_little_space_is_seen_before_anything_is_written(tmp_path, spec, monkeypatch, capsys):
    usage = namedtuple("usage", "total used free")
    monkeypatch.setattr(prepare.shutil, "disk_usage", lambda path: usage(10**6, 10**6 - 5000, 5000))
    line = refused(capsys, spec)
    assert "--limit" in line and "--out" in line and not names(tmp_path)


def test_two_at_once(tmp_path, spec, capsys, monkeypatch):
    reader, writer = os.pipe()

    def waiting(self, indices):
        os.write(writer, b"x")
        time.sleep(60)

    with monkeypatch.context() as patch:
        patch.setattr(prepare.Counted, "__getitem__", waiting)
        child = in_child(run, spec)
    os.read(reader, 1)
    assert "another data.prepare" in refused(capsys, spec)
    child.kill()
    child.join()
    run(spec)


# ---------------------------------------------------------------- a source that changes


@pytest.mark.parametrize("kind", ["lmdb", "folder"])
def test_source_changed_between_kill_and_resume(tmp_path, monkeypatch, capsys, kind):
    if kind == "lmdb":
        spec = write_lmdb(tmp_path / "x_train_lmdb", numbered(N))
    else:
        spec = write_pictures(tmp_path / "x", [f"{i}.png" for i in range(N)])
    fail_at(monkeypatch, 9, KeyboardInterrupt())
    refused(capsys, spec, code=130)
    if kind == "lmdb":
        write_lmdb(tmp_path / "x_train_lmdb", {f"{3:040x}": b"other"})
    else:
        os.utime(tmp_path / "x" / "3.png", (1, 1))
    fail_at(monkeypatch, 0, None)
    assert "begun with other pictures" in refused(capsys, spec)
    assert not set(names(tmp_path)) & set(COMPLETE)


@pytest.mark.parametrize("gone", [False, True])
def test_source_changed_while_it_was_read(tmp_path, monkeypatch, capsys, gone):
    spec = write_pictures(tmp_path / "x", [f"{i}.png" for i in range(N)])
    read = prepare.Counted.__getitem__

    def changing(self, indices):
        batch = read(self, indices)
        for path in (tmp_path / "x").iterdir() if indices[-1] == N - 1 else ():
            path.unlink() if gone else os.utime(path, (1, 1))
        return batch

    monkeypatch.setattr(prepare.Counted, "__getitem__", changing)
    assert "changed while they were read" in refused(capsys, spec)
    assert not set(names(tmp_path)) & set(COMPLETE)


# ---------------------------------------------------------------- bad input


def test_missing_source(tmp_path, capsys):
    assert f"no pictures at {tmp_path}/y" in refused(capsys, f"{tmp_path}/y")


@pytest.mark.parametrize(
    "options", [("--fit", "stretch"), ("--size", "x"), ("--size", "0"), ("--limit", "0"), ("--lim", "3")]
)
def test_bad_options(spec, capsys, options):
    refused(capsys, spec, *options)


def test_out_must_be_an_array(tmp_path, spec, capsys):
    assert "must end in .npy" in refused(capsys, spec, "--out", str(tmp_path / "folder"))


def test_folder_that_cannot_be_written(tmp_path, spec, capsys):
    assert "No such file or directory" in refused(capsys, spec, "--out", str(tmp_path / "no" / "x.npy"))


def test_an_api_error_is_a_data_error(tmp_path):
    with pytest.raises(DataError, match="no pictures at"):
        prepare.prepare(str(tmp_path), 16)
