"""Benchmarks whose numbers stand in docs/results.md work."""

import re
from pathlib import Path

import bench_classes
import bench_eyes
import bench_gpu
import bench_pairs
import bench_stats
import numpy as np
import pytest
from PIL import Image

from data import score, vote

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
        for way in (*ours, "obvious, float32", "dcgan, float32"):
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
    assert call(bench_eyes.main, "grid", "--out", "eyes", "--data", "rooms", "--size", 16)[0] == 0
    assert np.asarray(Image.open("eyes/photos.png")).shape == (146, 146, 3)  # 8 x 8 of 16 pixels, frames of 2
    shown = [int(np.asarray(Image.open(f"eyes/0{i}.png"))[0, 0]) - 100 for i in range(1, 5)]
    assert sorted(shown) == [0, 1, 2, 3] and shown != [0, 1, 2, 3]  # the last pictures, in another order

    eye = [words[seed] for seed in shown]
    Path("a.csv").write_text("".join(f"0{i},{word}\n" for i, word in enumerate(eye, 1)))
    Path("b.csv").write_text("".join(f"{i},learned\n" for i in (3, 1, 2, 4)))
    code, out, _ = call(bench_eyes.main, "grid", "--judges", "a.csv", "b.csv")
    assert (
        code == 0
        and "| a | bn_g adam ls | 1 | 1 | 1 | 1 |" in out
        and "| b | bn_g adam ls | 4 | 0 | 0 | 0 |" in out
    )
    assert re.search(r"rule, a: agree in 4/4 .* kappa 1.00", out)
    assert re.search(r"rule, b: agree in 1/4 .* kappa 0.00", out)
    Path("b.csv").write_text("1,diverged\n2,collapsed\n3,diverged\n4,collapsed\n")
    first, merged = call(bench_eyes.main, "grid", "--judges", "b.csv")[1].split("as one word")
    agreed = sum(words[seed] == word for seed, word in zip(shown, ["diverged", "collapsed"] * 2))
    assert f"rule, b: agree in {agreed}/4" in first and "rule, b: agree in 2/4" in merged
    for text in ("1,learned\n", "1,learned\n" * 4, "1,learned\n2,learned\n3,learned\n4,good\n"):
        Path("b.csv").write_text(text)
        code, _, err = call(bench_eyes.main, "grid", "--judges", "b.csv")
        assert code == 2 and "for each of 1 to 4" in err
    for text in ("number,word\n1,learned\n", "1,learned\n\n", "1\n"):
        Path("b.csv").write_text(text)
        code, _, err = call(bench_eyes.main, "grid", "--judges", "b.csv")
        assert code == 2 and "lines such as 01,degraded" in err
    code, _, err = call(bench_eyes.main, "grid", "--judges", "c.csv")
    assert code == 2 and "c.csv cannot be read" in err


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


# ---------------------------------------------------------------- bench_stats
def test_fishers_exact_test_by_hand(call):
    """3 of 3 against 0 of 3: of the 20 ways to choose 3 of 6, this one and its mirror image; p = 2/20."""
    code, out, _ = call(bench_stats.main, "--counts", 3, 3, 0, 3)
    assert code == 0 and out == "3/3 (44% to 100%) against 0/3 (0% to 56%): Fisher's p 0.1\n"
    code, _, err = call(bench_stats.main, "--counts", 4, 3, 0, 3)
    assert code == 2 and "4 of 3" in err


def test_a_grid_is_compared_over_the_seeds_of_both_losses(call, tmp_path):
    """FID 1 to 5 for LS, 0.9 times that for the regular GAN: all five signs agree, p = 2 / 2**5."""
    rows = ["setting,optimizer,loss,seed,verdict,FID"]
    for seed in range(1, 6):
        rows.append(f"bn_g,adam,ls,{seed},{'learned' if seed < 3 else 'diverged'},{seed}")
        rows.append(f"bn_g,adam,sigmoid,{seed},learned,{0.9 * seed}")
    rows.append("bn_g,adam,ls,6,learned,0.1")  # its partner is not finished
    (tmp_path / "results.csv").write_text("\n".join(rows))
    code, out, _ = call(bench_stats.main, tmp_path)
    assert code == 0 and "bn_g, adam, seeds 1, 2, 3, 4, 5\n" in out
    assert "| learned | 2/5 (12% to 77%) | 5/5 (57% to 100%) | 0.17 |" in out  # 2 * C(5, 2) / C(10, 3) = 1/6
    assert "FID, LS: median 3, 1 to 5\n" in out
    assert "FID is lower for the regular GAN in 5 of 5 seeds; Wilcoxon's p 0.062\n" in out


def test_runs_that_are_not_finite_rank_as_the_worst(call, tmp_path):
    """Seed 1 of LS and seed 2 of both have no FID. The signed ranks are 1, 2, 3, 4 for LS the higher one."""
    rows = ["setting,optimizer,loss,seed,verdict,FID"]
    for seed, ls, regular in ((1, "nan", 1), (2, "nan", "nan"), (3, 5, 1), (4, 5, 2), (5, 5, 3)):
        rows.append(f"bn_g,adam,ls,{seed},learned,{ls}")
        rows.append(f"bn_g,adam,sigmoid,{seed},learned,{regular}")
    (tmp_path / "results.csv").write_text("\n".join(rows))
    code, out, _ = call(bench_stats.main, tmp_path)
    assert code == 0 and "FID, LS: median 5, 5 to inf\n" in out
    assert "FID is lower for the regular GAN in 4 of 5 seeds; Wilcoxon's p 0.12\n" in out  # 2 / 2**4


def test_scores_are_compared_at_the_last_and_at_the_best_step(call, tmp_path):
    """IS at the end: 1, 2, 3 against 0, 1, 2, so 1 apart with a standard error of sqrt(2/3) and 4 degrees of
    freedom, of which Student's 97.5% quantile is 2.776: the interval is 1 - 2.267 to 1 + 2.267."""
    rows = ["setting,optimizer,loss,seed,verdict,FID,IS"]
    for seed in range(3):
        for loss, IS, FID in (("ls", seed + 1, seed + 9), ("sigmoid", seed, seed + 8)):
            rows.append(f"bn,adam,{loss},{seed},learned,{FID},{IS}")
            log = f"step,FID,IS\n100,nan,8\n200,{seed + 4},{seed + 7}\n300,{FID},{IS}\n"
            cell = tmp_path / f"bn-adam-{loss}-seed{seed}"
            cell.mkdir()
            (cell / "log.csv").write_text(log)
    (tmp_path / "results.csv").write_text("\n".join(rows))
    code, out, _ = call(bench_stats.main, tmp_path, "--scores")
    assert code == 0 and "| IS, last | 2 ± 1 | 1 ± 1 | 1 (-1.3 to 3.3) | 0.29 |\n" in out
    assert "| FID, best | 5 ± 1 | 5 ± 1 | 0 (-2.3 to 2.3) | 1 |\n" in out


def test_a_mixture_is_judged_at_its_last_step_and_in_its_last_quarter(call, tmp_path):
    rows = ["step,loss,seed,modes,share,basins,divergence"]
    for step in (10, 15, 20):
        for seed in range(4):
            lost = step == 15 and seed == 0  # within the last quarter, and back at the end
            rows.append(f"{step},ls,{seed},{seed},{seed / 10},{2 if lost else 8},0")
            rows.append(f"{step},sigmoid,{seed},8,1,{8 if step == 10 else 1},0")
    (tmp_path / "results.csv").write_text("\n".join(rows))
    code, out, _ = call(bench_stats.main, tmp_path)
    ls, regular = (
        next(line for line in out.splitlines() if line.startswith(f"| {x}")) for x in ("ls", "sig")
    )
    assert code == 0 and "step 20\n" in out
    assert ls.startswith(
        "| ls | 0/4 (0% to 49%) | 4/4 (51% to 100%) | 3/4 (30% to 95%) | 1.5 (0.75 to 2.25) |"
    )
    assert regular.startswith(
        "| sigmoid | 4/4 (51% to 100%) | 0/4 (0% to 49%) | 0/4 (0% to 49%) | 8 (8 to 8) |"
    )
    assert "ls against sigmoid: all basins, Fisher's p 0.029;" in out  # 2 / C(8, 4)


def test_a_run_without_results(call, tmp_path):
    code, _, err = call(bench_stats.main, tmp_path)
    assert code == 2 and "results.csv cannot be read" in err
    (tmp_path / "results.csv").write_text("step,loss\n")
    code, _, err = call(bench_stats.main, tmp_path)
    assert code == 2 and "results.csv has no rows" in err


# ---------------------------------------------------------------- bench_pairs
@pytest.mark.parametrize("judge", [1, 2])
def test_a_judge_of_sheets_votes_for_what_it_chose(call, tmp_path, monkeypatch, judge):
    """It takes the brighter picture of each pair, which is always B's."""
    monkeypatch.chdir(tmp_path)
    np.save("a.npy", grey_pictures(30, 20, 0))
    np.save("b.npy", grey_pictures(30, 200, 1))
    assert call(vote.main, "a.npy", "b.npy", "--pairs", 25, "--out", "study.html")[0] == 0
    assert call(bench_pairs.main, "study.html", "--judge", judge, "--out", "sheets")[0] == 0
    answers = []
    for name, rows in (("sheet1.png", 10), ("sheet2.png", 3)):
        sheet = np.asarray(Image.open(f"sheets/{name}"))
        for x in (0, sheet.shape[1] // 2):
            for row in range(rows):
                pair = sheet[156 * row : 156 * row + 144, x + 48 : x + 52 + 2 * 144].astype(int)
                left, right = pair[:, :144].mean(), pair[:, 148:].mean()
                answers.append("left" if left > right else "right")
    answers = answers[:25]
    assert len(set(answers)) == 2
    Path("one.csv").write_text("".join(f"{i},{side}\n" for i, side in enumerate(answers, 1)))
    command = "study.html", "--judge", judge, "--answers", "one.csv", "--out", "votes.csv"
    assert call(bench_pairs.main, *command)[0] == 0
    out = call(vote.main, "--count", "votes.csv")[1]
    assert "25 votes of 1 voters on 25 pairs" in out and "A looked more real in 0.0%" in out


@pytest.mark.parametrize(
    "answers", ["", "1,left\n", "1,left\n2,up\n", "1,left\n1,left\n", "one,left\n2,left\n"]
)
def test_answers_that_are_not_whole_are_refused(call, tmp_path, monkeypatch, answers):
    monkeypatch.chdir(tmp_path)
    np.save("a.npy", grey_pictures(2, 20, 0))
    assert call(vote.main, "a.npy", "a.npy", "--pairs", 2, "--out", "study.html")[0] == 0
    Path("one.csv").write_text(answers)
    code, _, err = call(
        bench_pairs.main, "study.html", "--judge", 1, "--answers", "one.csv", "--out", "votes.csv"
    )
    assert code == 2 and "one.csv must hold" in err and not Path("votes.csv").exists()
