"""Benchmarks whose numbers stand in docs/results.md work."""

import re
from pathlib import Path

import bench_classes
import bench_eyes
import bench_gpu
import numpy as np
import pytest
from PIL import Image

from data import score

TINY = "--quick --gpu -1 --size 16 --width 2".split()


def test_bench_gpu_prints_all_rows(call):
    code, out, _ = call(bench_gpu.main, *TINY)
    lines = out.splitlines()
    assert (
        code == 0 and lines[0].startswith("| CPU, torch ") and lines[1] == "| --- | --- | --- | --- | --- |"
    )
    table = [line.strip("| ").split(" | ") for line in lines[2:]]
    names = [cells[0] for cells in table]
    assert len(set(names)) == len(names)

    ours = []
    for precision in ("float32", "bfloat16"):
        ours += [precision, f"{precision}, one graph", f"{precision}, compiled"]
    for batch_size in (2, 4):
        for way in (*ours, "obvious, float32", "obvious, bfloat16", "dcgan, float32"):
            names.remove(f"scenes 16x16, batch {batch_size}, {way}")
    for batch_size in (2, 4):
        for way in (*ours, "float32, y as plain maps", "obvious, float32", "dcgan, float32"):
            names.remove(f"characters, 3,740 classes, batch {batch_size}, {way}")
    rest = [name.split(", ")[:2] for name in names]
    assert rest[:3] == [["scenes 16x16", "limit of the arithmetic"]] * 2 + [
        ["scenes 16x16", "limit of the memory"]
    ]
    assert [name.split(",")[0] for name in names[3:]] == ["mixture"] * 4 + ["grid 16x16"] * 2 + [
        "scenes 16x16"
    ] * 4
    for line in lines[2:]:
        assert any(unit in line for unit in ("images/s", "seed-steps/s", "cells x steps/s", "of the time"))


# ---------------------------------------------------------------- bench_eyes
def test_kappa_worked_by_hand():
    """Agreement 3/4; by chance 1/2 * 1/4 + 1/2 * 3/4 = 1/2; so (3/4 - 1/2) / (1 - 1/2)."""
    first, second = ["learned", "learned", "degraded", "degraded"], ["learned", *["degraded"] * 3]
    assert bench_eyes.kappa(first, second) == bench_eyes.kappa(second, first) == 0.5
    assert bench_eyes.kappa(first, first) == 1
    assert bench_eyes.kappa(["learned"] * 4, first) == 0
    assert np.isnan(bench_eyes.kappa(["learned"] * 4, ["learned"] * 4))  # chance agrees as well


def test_judges_see_each_cell_once_and_are_compared_by_number(call, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    rows = ["setting,optimizer,loss,seed,verdict\n"]
    words = ["learned", "degraded", "collapsed", "diverged"]
    for seed, word in enumerate(words):
        samples = Path(f"grid/bn_g-adam-ls-seed{seed}/samples")
        samples.mkdir(parents=True)
        for step in (1, 2):
            Image.new("L", (8, 8), 100 * (step - 1) + seed).save(samples / f"step_{step:08}.png")
        rows.append(f"bn_g,adam,ls,{seed},{word}\n")
    Path("grid/results.csv").write_text("".join(rows))
    assert call(bench_eyes.main, "grid", "--out", "eyes")[0] == 0
    shown = [int(np.asarray(Image.open(f"eyes/0{i}.png"))[0, 0]) - 100 for i in range(1, 5)]
    assert sorted(shown) == [0, 1, 2, 3] and shown != [0, 1, 2, 3]  # the last pictures, in another order

    eye = [words[seed] for seed in shown]
    Path("a.csv").write_text("".join(f"0{i},{word}\n" for i, word in enumerate(eye, 1)))
    Path("b.csv").write_text("".join(f"{i},learned\n" for i in (3, 1, 2, 4)))
    code, out, _ = call(bench_eyes.main, "grid", "--judges", "a.csv", "b.csv")
    assert code == 0 and "| a | 1 | 1 | 1 | 1 |" in out and "| b | 4 | 0 | 0 | 0 |" in out
    assert re.search(r"rule, a: agree in 4/4 .* kappa 1.00", out)
    assert re.search(r"rule, b: agree in 1/4 .* kappa 0.00", out)
    Path("b.csv").write_text("1,learned\n")
    code, _, err = call(bench_eyes.main, "grid", "--judges", "b.csv")
    assert code == 2 and "for each of 1 to 4" in err


@pytest.mark.parametrize("grid", ["nothing", "empty"])
def test_grids_that_are_not_there(call, tmp_path, grid):
    (tmp_path / "empty").mkdir()
    code, _, err = call(bench_eyes.main, tmp_path / grid, "--out", tmp_path / "eyes")
    assert code == 2 and "results.csv cannot be read" in err and not (tmp_path / "eyes").exists()


# ---------------------------------------------------------------- bench_classes
def grey_pictures(n, grey, seed):
    """n pictures of about this grey level, uint8 [n, 16, 16, 3]."""
    noise = np.random.default_rng(seed).integers(0, 40, (n, 16, 16, 3))
    return (grey + noise).astype(np.uint8)


@pytest.fixture
def dark_and_bright(tmp_path, monkeypatch):
    """A folder of 40 dark and 40 bright pictures, and a classifier that learns them in 40 steps."""
    monkeypatch.setattr(score, "LEAST_STEPS", 40)
    for seed, (name, grey) in enumerate((("bright", 200), ("dark", 20))):
        (tmp_path / "data" / name).mkdir(parents=True)
        for i, picture in enumerate(grey_pictures(40, grey, seed)):
            Image.fromarray(picture).save(tmp_path / "data" / name / f"{i:02}.png")
    return tmp_path / "data"


def test_the_share_of_pictures_that_are_read_as_their_class(call, tmp_path, dark_and_bright):
    np.save(tmp_path / "dark.npy", grey_pictures(20, 20, 2))
    np.save(tmp_path / "mostly_dark.npy", np.r_[grey_pictures(5, 200, 3), grey_pictures(15, 20, 4)])
    sets = f"dark={tmp_path / 'dark.npy'}", f"bright={tmp_path / 'mostly_dark.npy'}"
    code, out, _ = call(bench_classes.main, *sets, "--data", dark_and_bright)
    assert code == 0 and "100.0% right on 16 held-out pictures" in out
    assert "| dark | 100% (84% to 100%) | 100% (68% to 100%) | dark |" in out
    assert "| bright | 25% (11% to 47%) | 100% (68% to 100%) | dark |" in out


def test_a_class_that_the_data_does_not_have(call, tmp_path, dark_and_bright):
    np.save(tmp_path / "a.npy", grey_pictures(2, 20, 2))
    code, _, err = call(bench_classes.main, f"dusk={tmp_path / 'a.npy'}", "--data", dark_and_bright)
    assert code == 2 and "dusk is not a class of" in err
    code, _, err = call(bench_classes.main, "dusk", "--data", dark_and_bright)
    assert code == 2 and "must be CLASS=FILE" in err
