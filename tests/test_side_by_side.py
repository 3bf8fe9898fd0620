"""docs/side_by_side.py, which makes the composite pictures of the docs."""

import runpy
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from data.images import open_images

MAIN = runpy.run_path(str(Path(__file__).parent.parent / "docs" / "side_by_side.py"))["main"]


def test_each_source_has_its_pictures_in_rows(tmp_path):
    samples = np.random.default_rng(0).integers(0, 256, size=(8, 16, 16, 3), dtype=np.uint8)
    np.save(tmp_path / "samples.npy", samples)
    out = tmp_path / "out.png"
    flags = ["--size", "16", "--count", "6", "--columns", "2"]
    MAIN([str(out), "real=rooms", f"seed 0={tmp_path}/samples.npy", *flags])
    picture = np.asarray(Image.open(out))

    def shown(source, row, column):  # 16 pixels are enlarged to 128, 4 between two, 24 between two sources
        top, left = 32 + row * 132, source * (2 * 132 + 24) + column * 132
        return picture[top : top + 128 : 8, left : left + 128 : 8]

    real = open_images("rooms", 16)[torch.arange(6)].numpy()
    for i in range(6):
        np.testing.assert_array_equal(shown(0, i // 2, i % 2), real[i])
        np.testing.assert_array_equal(shown(1, i // 2, i % 2), samples[i])
    assert picture[:32].min() < 50  # the titles


def test_webp_shows_the_same_and_is_smaller(tmp_path):
    for name in ("out.png", "out.webp"):
        MAIN([str(tmp_path / name), "real=rooms"])
    png, webp = (Image.open(tmp_path / name).convert("RGB") for name in ("out.png", "out.webp"))
    assert np.abs(np.asarray(png, float) - np.asarray(webp, float)).mean() < 4  # grey levels of 255
    assert (tmp_path / "out.webp").stat().st_size < (tmp_path / "out.png").stat().st_size / 2


def test_another_kind_of_file_is_refused(tmp_path, capsys):
    with pytest.raises(SystemExit) as stop:
        MAIN([str(tmp_path / "out.gif"), "real=rooms"])
    assert stop.value.code == 2
    assert "must end in .png or .webp" in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    "flags, message",
    [
        (["rooms"], "TITLE=SOURCE"),
        (["real=rooms", "--count", "5"], "multiple of --columns"),
        (["seed 0=nothing.npy"], "cannot read nothing.npy"),
        (["real=rooms", "--count", "20000"], "rooms has 10000 pictures"),
    ],
)
def test_bad_input_is_one_line(tmp_path, capsys, monkeypatch, flags, message):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit) as stop:
        MAIN(["out.png", *flags])
    assert stop.value.code == 2
    error = capsys.readouterr().err
    assert message in error and error.count("\n") == 1
    assert not list(tmp_path.iterdir())


def test_samples_of_another_size_are_refused(tmp_path, capsys):
    np.save(tmp_path / "samples.npy", np.zeros((6, 8, 8, 3), np.uint8))
    with pytest.raises(SystemExit):
        MAIN([str(tmp_path / "out.png"), f"a={tmp_path}/samples.npy", "--size", "16"])
    assert "(8, 8, 3), not (16, 16, 3)" in capsys.readouterr().err
