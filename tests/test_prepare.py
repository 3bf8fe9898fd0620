"""data.prepare: the same pixels as without it, and never half an array."""

import errno
import fcntl
import json
import multiprocessing
import os
import resource
import signal
import subprocess
import sys
import time
from collections import namedtuple
from pathlib import Path

import numpy as np
import pytest
from test_images import cache, numbered, pixels, write_lmdb, write_pictures

from data import DataError, images, prepare
from data.images import open_images

N = 23
__all__ = ["cache"]  # a fixture


@pytest.fixture(autouse=True)
def small_batches(monkeypatch):
    monkeypatch.setattr(images, "BATCH", 2)


@pytest.fixture
def spec(tmp_path):
    write_lmdb(tmp_path / "x_train_lmdb", numbered(N))
    return str(tmp_path / "x")


def run(spec, *options):
    prepare.main([spec, "--size", "16", *options])


def refused(capsys, spec, *options, code=2):
    """The one line on stderr of a command that ends with `code`."""
    with pytest.raises(SystemExit) as caught:
        run(spec, *options)
    assert caught.value.code == code
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 1 and lines[0].startswith("data.prepare: ")
    return lines[0]


def names(tmp_path):
    return sorted(path.name for path in tmp_path.iterdir() if path.is_file())


def kind(dataset):
    return type(dataset.source).__name__


COMPLETE = ["x_16_squash.json", "x_16_squash.npy"]


def test_the_array_holds_the_pictures_and_is_used(tmp_path, spec, capsys):
    direct = pixels(open_images(spec, 16))
    run(spec)
    assert names(tmp_path) == COMPLETE
    np.testing.assert_array_equal(np.load(tmp_path / "x_16_squash.npy"), direct)
    capsys.readouterr()
    dataset = open_images(spec, 16)
    assert f"using {tmp_path / 'x_16_squash.npy'}" in capsys.readouterr().err
    np.testing.assert_array_equal(pixels(dataset), direct)
    assert dataset.fingerprint == images.find_source(spec, 16).fingerprint


def test_the_json_says_what_it_holds(tmp_path):
    spec = write_pictures(tmp_path / "x", ["b/1.png", "a/1.png", "a/2.png"])
    run(spec, "--fit", "crop")
    metadata = json.loads((tmp_path / "x_16_crop.json").read_text())
    assert metadata.pop("fingerprint")
    assert metadata == {
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
    assert kind(after) == "Array" and kind(before) == "Folder"
    assert after.classes == before.classes and after.labels.tolist() == before.labels.tolist()


def test_replaced_pictures_are_counted(tmp_path):
    values = numbered(N)
    for i in (0, 1, 9, 22):  # one that the main process meets too, neighbours, the last
        values[f"{i:040x}"] = b"junk"
    run(write_lmdb(tmp_path / "x_lmdb", values))
    assert json.loads((tmp_path / "x_16_squash.json").read_text())["replaced"] == 4


def test_limit(tmp_path, spec):
    run(spec, "--limit", "5")
    assert json.loads((tmp_path / "x_16_squash.json").read_text())["limit"] == 5
    assert kind(open_images(spec, 16, limit=5)) == "Array"
    assert kind(open_images(spec, 16)) == "Lmdb"
    expected = pixels(open_images(spec, 16))[np.arange(5) * N // 5]
    np.testing.assert_array_equal(np.load(tmp_path / "x_16_squash.npy"), expected)


def test_a_limit_of_0_is_no_limit(tmp_path, spec):
    run(spec, "--limit", "0")
    assert json.loads((tmp_path / "x_16_squash.json").read_text())["limit"] is None


@pytest.mark.parametrize("words", [["", "--size", "16"], ["rooms", "--out", ""]])
def test_an_unset_variable_of_the_shell_is_no_folder(words, tmp_path, monkeypatch, capsys):
    """It would be the current one."""
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit) as caught:
        prepare.main(words)
    assert caught.value.code == 2 and "must not be empty" in capsys.readouterr().err
    assert not names(tmp_path)


def test_a_limit_above_the_data_is_no_limit(tmp_path, spec):
    run(spec, "--limit", "1000")
    assert kind(open_images(spec, 16)) == "Array"


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
    assert "is damaged or holds other pictures" in line and "--out" in line
    assert (tmp_path / "x_16_squash.npy").stat() == before
    run(spec, "--limit", "5", "--out", str(tmp_path / "few.npy"))
    assert len(open_images(str(tmp_path / "few.npy"), 16)) == 5


def test_a_cut_off_array_is_not_complete(tmp_path, spec, capsys):
    run(spec)
    os.truncate(tmp_path / "x_16_squash.npy", 2000)
    assert "is damaged or holds other pictures" in refused(capsys, spec)


@pytest.mark.parametrize("content", ["", "{", "[1]", "3", "[" * 100_000])
def test_a_damaged_json_is_one_line(tmp_path, spec, capsys, content):
    run(spec)
    (tmp_path / "x_16_squash.json").write_text(content)
    assert "is damaged or holds other pictures" in refused(capsys, spec)


# ---------------------------------------------------------------- interruptions


def at_batch(monkeypatch, n, action):
    """Does `action` when the n-th batch is asked for. Only one thread reads."""
    read, calls = images.Images.__getitem__, []

    def acting(self, indices):
        calls.append(indices)
        if len(calls) == n + 1:  # the first call is the check of the first picture
            action()
        return read(self, indices)

    monkeypatch.setattr(images, "available_cores", lambda: 1)
    monkeypatch.setattr(images.Images, "__getitem__", acting)


def stop():
    raise KeyboardInterrupt


def in_child(function, *arguments):
    """A forked process: it has the test's patches, and starting it costs nothing."""
    child = multiprocessing.get_context("fork").Process(target=function, args=arguments)
    child.start()
    return child


def assert_complete(tmp_path, spec):
    """The whole array is there, and equal to the pictures read without it."""
    assert names(tmp_path) == COMPLETE
    images_without = images.Images(images.find_source(spec, 16), 16, "squash")
    np.testing.assert_array_equal(np.load(tmp_path / "x_16_squash.npy"), pixels(images_without))


@pytest.mark.parametrize("batch", [1, 5, 12])
def test_ctrl_c_leaves_nothing(tmp_path, spec, monkeypatch, capsys, batch):
    with monkeypatch.context() as patch:
        at_batch(patch, batch, stop)
        assert "interrupted" in refused(capsys, spec, code=130)
    assert not names(tmp_path) and kind(open_images(spec, 16)) == "Lmdb"
    run(spec)
    assert_complete(tmp_path, spec)


def test_killed_at_random_moments(tmp_path, spec, monkeypatch):
    fit = images.fit_picture
    monkeypatch.setattr(images, "fit_picture", lambda *a: time.sleep(0.01) or fit(*a))
    for pause in np.random.default_rng(0).uniform(0.02, 0.3, 5):
        child = in_child(run, spec)
        time.sleep(pause)
        child.kill()
        child.join()
        if (tmp_path / "x_16_squash.npy").exists():  # what has the name is whole
            assert_complete(tmp_path, spec)
    run(spec)
    assert_complete(tmp_path, spec)


def test_killed_between_the_last_picture_and_the_final_name(tmp_path, spec, monkeypatch):
    with monkeypatch.context() as patch:
        patch.setattr(prepare.os, "replace", lambda *a: os.kill(os.getpid(), signal.SIGKILL))
        child = in_child(run, spec)
        child.join()
    assert child.exitcode == -signal.SIGKILL and "x_16_squash.npy" not in names(tmp_path)
    run(spec)
    assert_complete(tmp_path, spec)


def test_an_old_part_is_overwritten(tmp_path, spec):
    (tmp_path / "x_16_squash.npy.part").write_bytes(os.urandom(100_000))
    run(spec)
    assert_complete(tmp_path, spec)


def test_full_disk(tmp_path, spec, capsys):
    def limited():
        resource.setrlimit(resource.RLIMIT_FSIZE, (5000, 5000))
        line = refused(capsys, spec)
        assert "cannot be written" in line and "--out writes in another place" in line

    child = in_child(limited)
    child.join()
    assert child.exitcode == 0 and not names(tmp_path)
    run(spec)
    assert_complete(tmp_path, spec)


def test_disk_that_fills_up_at_the_end(tmp_path, spec, monkeypatch, capsys):
    write = prepare.write_file

    def full(path):
        if path.name == "x_16_squash.json":
            raise DataError(f"{path} cannot be written ({os.strerror(errno.ENOSPC)})")
        return write(path)

    with monkeypatch.context() as patch:
        patch.setattr(prepare, "write_file", full)
        assert "No space left on device" in refused(capsys, spec)
    assert not names(tmp_path)
    run(spec)
    assert_complete(tmp_path, spec)


def test_too_little_space_is_seen_before_anything_is_written(tmp_path, spec, monkeypatch, capsys):
    usage = namedtuple("usage", "total used free")
    monkeypatch.setattr(prepare.shutil, "disk_usage", lambda path: usage(10**6, 10**6 - 5000, 5000))
    line = refused(capsys, spec)
    assert "--limit" in line and "--out" in line and not names(tmp_path)


def test_somebody_elses_json_is_not_overwritten(tmp_path, spec, capsys):
    theirs = tmp_path / "x_16_squash.json"
    theirs.write_text('{"mine": 1}')
    assert "x_16_squash.json exists and was not written by data.prepare" in refused(capsys, spec)
    assert theirs.read_text() == '{"mine": 1}' and names(tmp_path) == ["x_16_squash.json"]


def test_a_folder_called_train_has_an_array_of_its_own():
    """Only an LMDB's name loses its _train."""
    assert images.prepared_path("faces_train", 8, "squash") == Path.cwd() / "faces_train_8_squash.npy"
    for spec in ("lsun/bedroom", "lsun/bedroom_train_lmdb"):
        assert images.prepared_path(spec, 8, "squash") == Path.cwd() / "lsun/bedroom_8_squash.npy"


def test_a_file_system_without_locks_is_named(tmp_path, spec, monkeypatch, capsys):
    def flock(*args):
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(fcntl, "flock", flock)
    assert "cannot be locked (No locks available)" in refused(capsys, spec)
    assert not names(tmp_path)


def test_two_at_once(tmp_path, spec, capsys, monkeypatch):
    reader, writer = os.pipe()

    def wait():
        os.write(writer, b"x")
        time.sleep(60)

    with monkeypatch.context() as patch:
        at_batch(patch, 3, wait)
        child = in_child(run, spec)
    os.read(reader, 1)
    assert "another data.prepare is writing" in refused(capsys, spec)
    child.kill()
    child.join()
    run(spec)
    assert_complete(tmp_path, spec)


def test_another_that_finishes_just_before_keeps_its_array(tmp_path, spec, capsys, monkeypatch):
    """Our open file was its .part and has got its final name before we lock it."""
    run(spec)
    array, part = tmp_path / "x_16_squash.npy", tmp_path / "x_16_squash.npy.part"
    content = array.read_bytes()
    array.unlink()
    flock = fcntl.flock

    def late(file, how):
        part.write_bytes(content)
        part.rename(array)
        flock(file, how)

    monkeypatch.setattr(fcntl, "flock", late)
    assert "run the same command again" in refused(capsys, spec)
    assert array.read_bytes() == content


def test_nothing_is_left_of_a_second_run_that_finds_the_array_complete(tmp_path, spec, monkeypatch):
    """It finds that out when it has the lock."""
    run(spec)
    before, found = names(tmp_path), []
    is_complete = prepare.is_complete
    monkeypatch.setattr(
        prepare, "is_complete", lambda *a: found.append(1) or len(found) > 1 and is_complete(*a)
    )
    run(spec)
    assert len(found) == 2 and names(tmp_path) == before


@pytest.mark.parametrize("gone", [False, True])
def test_source_changed_while_it_was_read(tmp_path, monkeypatch, capsys, gone):
    spec = write_pictures(tmp_path / "x", [f"{i}.png" for i in range(N)])

    def change():
        path = tmp_path / "x" / "0.png"
        if gone:
            path.unlink()
        else:
            os.utime(path, (1, 1))

    at_batch(monkeypatch, 12, change)
    assert "changed while they were read" in refused(capsys, spec)
    assert not names(tmp_path)


# ---------------------------------------------------------------- bad input


def test_missing_source(tmp_path, capsys):
    assert f"no pictures at {tmp_path}/y" in refused(capsys, f"{tmp_path}/y")


@pytest.mark.parametrize(
    "options", [("--fit", "stretch"), ("--size", "x"), ("--size", "0"), ("--limit", "-1"), ("--lim", "3")]
)
def test_bad_options(spec, capsys, options):
    refused(capsys, spec, *options)


def test_out_must_be_an_array(tmp_path, spec, capsys):
    assert "must end in .npy" in refused(capsys, spec, "--out", str(tmp_path / "folder"))


def test_folder_that_cannot_be_written(tmp_path, spec, capsys):
    assert "cannot be written (No such file or directory)" in refused(
        capsys, spec, "--out", str(tmp_path / "no" / "x.npy")
    )


def test_an_api_error_is_a_data_error(tmp_path):
    with pytest.raises(DataError, match="no pictures at"):
        prepare.prepare(str(tmp_path), 16)


def test_without_docstrings(tmp_path, spec):
    """python -OO strips them: no text may come from there."""
    command = [sys.executable, "-OO", "-m", "data.prepare", spec, "--size", "16"]
    done = subprocess.run(command, cwd=Path(prepare.__file__).parents[1], capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")
    assert_complete(tmp_path, spec)
