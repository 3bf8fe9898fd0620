"""The stability grid: networks, TensorFlow's RMSProp, verdicts, and cells that neither disturb nor repeat."""

import ast
import csv
import io
import itertools
import math
import multiprocessing
import os
import random
import re
import shutil
import signal
import sys
import time
from pathlib import Path

import bench_eyes
import bench_rejudge
import bench_stats
import numpy as np
import pytest
import torch
from bench_rule import make_judge, planted
from conftest import Killed, at_call, contents, die, finish, free_port, opened_with, refused, same, wait_for
from PIL import Image
from torch import nn

import stability_grid as grid
from data import DataError, runs
from data.images import open_images
from data.judge import RULE, Judge, blur, choose_extractor, verdict
from data.score import make_extractor
from stability_grid import Cell, folder, write_report

SMALL = "--size 16 --width 2 --z-dim 4 --batch-size 4 --limit 12 --workers 0 --gpu -1".split()
CELLS = [
    (setting, optimizer, loss)
    for setting in ("bn_g", "bn_gd")
    for optimizer in ("adam", "rmsprop")
    for loss in ("ls", "sigmoid")
]
SERVER = multiprocessing.get_context("forkserver")
SERVER.set_forkserver_preload(["stability_grid"])


class QuickJudge:
    """In place of the Judge, whose features take seconds: judges by the brightness of 8 pictures."""

    n, fid_learned, fid_degraded = 8, 1.0, 10.0

    def __init__(self, *_):
        pass

    def measure(self, pictures):
        names = ("FID", "KID", "IS", "precision", "recall", "diversity")
        return dict.fromkeys(names, float(pictures.double().mean()) / 255 + 0.1)

    def verdict_of(self, log):
        return Judge.verdict_of(self, log)

    def describe(self):
        return "judged by brightness"


@pytest.fixture
def run(call, monkeypatch, tmp_path):
    """run(flag, ...) -> (exit code, stdout, stderr) of a tiny grid in tmp_path/out, in this process."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(grid, "Judge", QuickJudge)
    monkeypatch.setattr(grid, "choose_extractor", any_extractor)
    monkeypatch.setattr(grid, "draw_figure7", no_figure)

    def run(*flags, out="out"):
        return call(grid.main, *SMALL, "--out", out, *" ".join(map(str, flags)).split())

    return run


def any_extractor(*_):
    return "random"  # for any number of pictures


def no_figure(*_):
    pass


def same_grid(out, other):
    """Whether two folders, of grids or of cells, are equal bit for bit, but for how they were called."""
    first, second = contents(out), contents(other)
    how_called = {"last.pt", "args.json", "table.md"} if "args.json" in first else set()
    paths = first.keys() - how_called
    checkpoints = {path for path in paths if Path(path).name == "last.pt"}
    if not checkpoints or paths != second.keys() - how_called:
        return False
    for path in checkpoints:
        pair = [torch.load(Path(folder, path), weights_only=True) for folder in (out, other)]
        if not same({**pair[0], "args": 0}, {**pair[1], "args": 0}):
            return False
    return all(first[path] == second[path] for path in paths - checkpoints)


def results(out="out"):
    with open(Path(out, "results.csv")) as file:
        return list(csv.DictReader(file))


# ---------------------------------------------------------------- networks
def count(net):
    return sum(p.numel() for p in net.parameters())


def test_parameter_counts():
    assert count(grid.Generator()) == 12_702_851  # authors' code: no batch normalization in G
    assert count(grid.Generator(bn=True)) == 12_702_851 + 2 * (512 + 256 + 128 + 64)
    assert count(grid.Discriminator()) == 4_316_545
    assert count(grid.Discriminator(bn=False)) == 4_314_753
    kernel = 5 * 5
    assert count(grid.Generator(32)) == (1024 + 1) * 4096 + sum(
        kernel * i * o + o for i, o in ((256, 128), (128, 64), (64, 3))
    )
    assert count(grid.Discriminator(32, bn=False)) == 4097 + sum(
        kernel * i * o + o for i, o in ((3, 64), (64, 128), (128, 256))
    )


@pytest.mark.parametrize("size", [16, 32, 48, 64, 96])
def test_shapes(size):
    G, D = grid.Generator(size, 2, 4, bn=True), grid.Discriminator(size, 2)
    images = G(torch.rand(3, 4) * 2 - 1)
    assert images.shape == (3, 3, size, size) and images.abs().max() <= 1
    assert D(images).shape == (3,)
    assert G[1].unflattened_size[1] == {16: 2, 32: 4, 48: 6, 64: 4, 96: 6}[size]


def start(setting="bn_g", optimizer="adam", loss="ls", seed=0, flags=()):
    args = grid.parse_args([*SMALL, "--out", "no such folder", *flags])
    return grid.start_cell(Cell(setting, optimizer, loss, seed), args, torch.device("cpu")).state


def test_settings_differ_in_normalization_only():
    def norms(net):
        return [m for m in net if isinstance(m, nn.BatchNorm2d)]

    states = {setting: start(setting) for setting in grid.SETTINGS}
    found = {setting: (len(norms(s["G"])), len(norms(s["D"]))) for setting, s in states.items()}
    assert found == {"bn_g": (0, 2), "bn_gd": (0, 0), "bn": (3, 2)}
    assert not isinstance(states["bn_g"]["D"][1], nn.BatchNorm2d)  # nor after D's first layer
    for name in "GD":
        weights = [[m.weight for m in s[name] if hasattr(m, "stride")] for s in states.values()]
        assert all(same(weights[0], other) for other in weights[1:])
    gamma = start(flags=["--width", "64"])["D"][3].weight
    assert abs(gamma.mean() - 1) < 0.01 and 0.01 < gamma.std() < 0.03


def test_cells_of_a_seed_begin_with_the_same_weights():
    one, other = start(loss="ls"), start(optimizer="rmsprop", loss="sigmoid")
    assert all(same(one[name].state_dict(), other[name].state_dict()) for name in "GD")
    assert not same(one["G"].state_dict(), start(seed=1)["G"].state_dict())


# ---------------------------------------------------------------- optimizers
@pytest.mark.parametrize("summed", [True, False])
@pytest.mark.parametrize("size", [1e-1, 1e-3, 1e-5, 1e-7])
def test_rmsprop_is_tensorflows(summed, size):
    batch, rng, weights = 64, np.random.default_rng(0), np.zeros(100)
    mean_square = np.ones(100)  # TensorFlow's rule, on the gradient of the authors' loss
    p = nn.Parameter(torch.zeros(100))
    optimizer = grid.make_optimizer([p], "rmsprop", 2e-4, scale=batch if summed else 1)
    for _ in range(200):
        mean_gradient = size * rng.normal(size=100) * np.logspace(-2, 2, 100)
        gradient = mean_gradient * (batch if summed else 1)
        mean_square = 0.9 * mean_square + 0.1 * gradient**2
        weights -= 2e-4 * gradient / np.sqrt(mean_square + 1e-10)
        p.grad = torch.from_numpy(mean_gradient).float()
        optimizer.step()
    np.testing.assert_allclose(p.detach().numpy(), weights, rtol=1e-3, atol=1e-6 * np.abs(weights).max())


def test_rmsprop_of_pytorch_and_adam():
    p = [nn.Parameter(torch.zeros(2))]
    torch_rule = start(optimizer="rmsprop", flags=["--rmsprop", "torch"])["opt_g"].param_groups[0]
    assert (torch_rule["alpha"], torch_rule["eps"], torch_rule["lr"]) == (0.99, 1e-8, 2e-4)
    assert start(flags=["--lr", "1e-3"])["opt_d"].param_groups[0]["lr"] == 1e-3
    adam = grid.make_optimizer(p).param_groups[0]
    assert (adam["betas"], adam["lr"], adam["eps"]) == ((0.5, 0.999), 2e-4, 1e-8)


@pytest.mark.parametrize("loss, scale", [("ls", 4), ("ls-110", 4), ("sigmoid", 1)])
def test_only_least_squares_counts_as_summed(loss, scale):
    optimizer = start(optimizer="rmsprop", loss=loss)["opt_d"]
    assert isinstance(optimizer, grid.TFRMSprop) and optimizer.param_groups[0]["scale"] == scale


def test_losses_have_their_targets(monkeypatch):
    d_real, d_fake = torch.tensor([0.5, 1.0]), torch.tensor([0.0, -2.0])
    found = {}
    for name, settings in grid.LOSSES.items():
        g_settings = {key: value for key, value in settings.items() if key in ("loss", "c")}
        d_settings = {key: value for key, value in settings.items() if key in ("loss", "a", "b")}
        found[name] = (
            grid.discriminator_loss(d_real, d_fake, **d_settings).item(),
            grid.generator_loss(d_fake, **g_settings).item(),
        )
    assert found["ls"] == pytest.approx((0.5 * 0.125 + 0.5 * 2, 0.5 * 5))
    assert found["ls-110"] == pytest.approx((0.5 * 0.125 + 0.5 * 1, 0.5 * 2))
    log = np.log
    expected = (log(1 + np.exp(-0.5)) + log(1 + np.exp(-1)) + log(2) + log(1 + np.exp(-2))) / 2
    assert found["sigmoid"] == pytest.approx((expected, (log(2) + log(1 + np.exp(2))) / 2))


def test_networks_losses_and_step_paste_into_a_file_with_torch_alone():
    source = Path(grid.__file__).read_text()
    names = "Generator Discriminator init_weights discriminator_loss generator_loss TFRMSprop train_step"
    parts = {
        node.name: ast.get_source_segment(source, node)
        for node in ast.parse(source).body
        if hasattr(node, "name")
    }
    imports = "import torch, torch.nn.functional as F\nfrom torch import Tensor, nn"
    pasted = {}
    exec("\n\n".join([imports, *(parts[name] for name in names.split())]), pasted)
    G, D = pasted["Generator"](16, 2, 4), pasted["Discriminator"](16, 2)
    for net in (G, D):
        pasted["init_weights"](net, torch.Generator().manual_seed(0))
    opt_g, opt_d = (pasted["TFRMSprop"](net.parameters(), scale=3) for net in (G, D))
    before = [p.clone() for p in (*G.parameters(), *D.parameters())]
    for _ in range(2):
        losses = pasted["train_step"](G, D, opt_g, opt_d, torch.zeros(3, 3, 16, 16), torch.ones(3, 4))
    assert losses.shape == (4,) and losses.isfinite().all()
    assert not any(torch.equal(p, q) for p, q in zip(before, (*G.parameters(), *D.parameters())))


# ---------------------------------------------------------------- cells among others
def test_cell_among_others_equals_cell_alone(run):
    """Bit for bit: cells share nothing but pictures and z, and each makes the same sums in the same order."""
    flags = "--steps 4 --sample-every 2"
    assert run(flags, "--seeds 2")[0] == 0
    assert (
        run(flags, "--seed 1 --seeds 1 --settings bn_g --optimizers rmsprop --losses sigmoid", out="alone")[0]
        == 0
    )
    cell = Cell("bn_g", "rmsprop", "sigmoid", 1)
    assert same_grid(folder("out", cell), folder("alone", cell))
    assert len(results()) == 16 and len(results("alone")) == 1


def test_cells_share_pictures_and_noise_but_seeds_do_not(run, monkeypatch):
    inputs, losses = [], []
    original = grid.train_step

    def spy(G, D, opt_g, opt_d, real, z, **settings):
        inputs.append((real.sum().item(), z.sum().item()))
        losses.append(settings)
        return original(G, D, opt_g, opt_d, real, z, **settings)

    monkeypatch.setattr(grid, "train_step", spy)
    assert run("--steps 2 --seeds 2 --settings bn --optimizers adam --losses ls,ls-110,sigmoid")[0] == 0
    assert len(inputs) == 12 and len(set(inputs)) == 4
    assert all(len(set(inputs[i : i + 3])) == 1 for i in range(0, 12, 3))
    assert losses == [grid.LOSSES[name] for name in ("ls", "ls-110", "sigmoid")] * 4


def test_what_a_run_leaves_behind(run):
    code, out, err = run(
        "--steps 3 --sample-every 2 --seeds 2 --losses ls,ls-110 --optimizers adam --settings bn"
    )
    assert code == 0 and not err
    cells = {f"bn-adam-{loss}-seed{seed}" for loss in ("ls", "ls-110") for seed in (0, 1)}
    assert {path.name for path in Path("out").glob("[!.]*")} == cells | {
        *("last.pt", "args.json", "results.csv", "table.md")
    }
    samples = {"samples", "samples/step_00000002.png", "samples/step_00000003.png"}
    assert contents("out/bn-adam-ls-seed0").keys() == {"last.pt", "log.csv"} | samples
    rows = results()
    assert [(row["setting"], row["optimizer"], row["loss"], row["seed"], row["step"]) for row in rows] == [
        ("bn", "adam", loss, seed, "3") for loss in ("ls", "ls-110") for seed in "01"
    ]
    table = Path("out/table.md").read_text()
    assert (
        "judged by brightness" in table
        and "--steps=3" in table
        and table.endswith(out[out.index("| setting, optimizer") :][:-1])
    )


# ---------------------------------------------------------------- resume
FLAGS = "--steps 4 --sample-every 2 --seeds 2 --losses ls --workers"


@pytest.mark.parametrize("where, n", [("train_step", 11), ("train_step", 25), ("fsync", 7), ("replace", 10)])
def test_resumed_equals_uninterrupted(run, monkeypatch, where, n):
    assert run(FLAGS, 0, out="whole")[0] == 0
    with monkeypatch.context() as patch, pytest.raises(Killed):
        at_call(patch, grid if where == "train_step" else os, where, n, die)
        run(FLAGS, 0)
    assert run(FLAGS, 0, "--resume")[0] == 0
    assert same_grid("out", "whole") and not list(Path("out").rglob("*.tmp"))


def test_resume_goes_on_with_what_is_missing(run, monkeypatch):
    assert run(FLAGS, 0)[0] == 0
    before = contents("out")
    for name in ("last.pt", "log.csv"):
        os.remove(folder("out", Cell("bn_gd", "adam", "ls", 1)) / name)
    steps = at_call(monkeypatch, grid, "train_step", 0, None)
    assert run("--resume")[0] == 0
    assert len(steps) == 4  # of that one cell
    after = contents("out")
    changed = {path for path in before if after[path] != before[path]}
    assert changed <= {"last.pt", "table.md", "bn_gd-adam-ls-seed1/last.pt"}  # which hold the flags given


def test_more_steps_and_seeds_extend_a_finished_grid(run):
    assert run("--steps 4 --sample-every 2 --seeds 3 --losses ls", out="whole")[0] == 0
    assert run("--steps 2 --sample-every 2 --seeds 2 --losses ls")[0] == 0
    assert run("--resume --steps 4 --seeds 3")[0] == 0
    assert same_grid("out", "whole")


def test_number_of_workers_changes_nothing(run):
    assert run(FLAGS, 0, "--settings bn_g")[0] == run(FLAGS, 2, "--settings bn_g", out="other")[0] == 0
    assert same_grid("out", "other")


@pytest.mark.parametrize("number, code", [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_signal_saves_and_stops(run, monkeypatch, number, code):
    assert run(FLAGS, 0, out="whole")[0] == 0
    with monkeypatch.context() as patch:
        at_call(patch, grid, "train_step", 18, lambda: os.kill(os.getpid(), number))
        result = run(FLAGS, 0)
    assert result[0] == code and not result[2]
    assert (
        torch.load(folder("out", Cell("bn_g", "adam", "ls", 1)) / "last.pt", weights_only=True)["step"] == 1
    )
    assert len(results()) == 4  # the first seed is finished
    assert run(FLAGS, 0, "--resume")[0] == 0
    assert same_grid("out", "whole")


def test_signal_during_the_last_report_does_not_cut_it_off(run, monkeypatch):
    make_table = grid.make_table

    def interrupted(*args):
        os.kill(os.getpid(), signal.SIGTERM)
        return make_table(*args)

    monkeypatch.setattr(grid, "make_table", interrupted)
    code, out, err = run("--steps 1 --seeds 1 --settings bn_g --optimizers adam")
    assert code == 143 and not err and "stopped" not in out
    assert len(results()) == 2 and not list(Path("out").rglob("*.tmp"))


def test_unknown_optimizers_are_refused():
    for name, rmsprop in (("sgd", "tf"), ("rmsprop", "keras")):
        with pytest.raises(ValueError, match="must be"):
            grid.make_optimizer([torch.nn.Parameter(torch.ones(1))], name, rmsprop=rmsprop)


# ---------------------------------------------------------------- processes
def child(flags, output, environment):
    """In a process of its own, the leader of its group: a command line whose output goes to a file."""
    os.setsid()
    os.environ.update(environment)
    with open(output, "w") as file:
        os.dup2(file.fileno(), 1)
        os.dup2(file.fileno(), 2)
    grid.Judge, grid.choose_extractor, grid.draw_figure7 = QuickJudge, any_extractor, no_figure
    grid.main(flags)


def launch(*flags, output, environment=()):
    process = SERVER.Process(target=child, args=([*SMALL, *flags], output, dict(environment)))
    process.start()
    return process


@pytest.mark.parametrize("seed", [0, *(pytest.param(k, marks=pytest.mark.slow) for k in range(1, 12))])
def test_killed_at_a_random_moment(run, tmp_path, seed):
    moment = random.Random(seed)
    # Many more steps than those it is killed at, or it may be done before
    flags = "--steps 60 --sample-every 2 --seeds 2 --losses ls --optimizers adam".split()
    victim = launch(*flags, "--workers", "2", "--out", "out", output=tmp_path / "out.txt")
    wait_for(f"seed{moment.randint(0, 1)}  step {2 * moment.randint(1, 6)} ", tmp_path / "out.txt", victim)
    time.sleep(moment.uniform(0, 0.1))
    os.killpg(victim.pid, signal.SIGKILL)
    assert finish(victim) == [-signal.SIGKILL]
    assert run(*flags, out="whole")[0] == 0
    assert run(*flags, "--resume --workers 0")[0] == 0
    assert same_grid("out", "whole")


def launch_ranks(tmp_path, *flags, n=2):
    """A process for each rank, as torchrun starts them, and the files that their output goes to."""
    outputs = [tmp_path / f"{rank}.txt" for rank in range(n)]
    common = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": free_port(), "GLOO_SOCKET_IFNAME": "lo"}
    ranks = []
    for rank, output in enumerate(outputs):
        environment = common | {"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": str(n)}
        ranks.append(launch(*flags, "--out", "out", output=output, environment=environment))
    return ranks, outputs


SHARED = "--steps 4 --sample-every 2 --seeds 2 --losses ls".split()


def test_processes_share_the_cells(run, tmp_path):
    ranks, outputs = launch_ranks(tmp_path, *SHARED)
    assert finish(*ranks) == [0, 0], "".join(output.read_text() for output in outputs)
    assert run(*SHARED, out="whole")[0] == 0
    assert same_grid("out", "whole")  # results.csv is whole too
    texts = [output.read_text() for output in outputs]
    trained = [set(re.findall(r"^(bn\S+)", text, re.MULTILINE)) for text in texts]
    assert len(trained[0]) == len(trained[1]) == 4 and not trained[0] & trained[1]
    assert "| bn_gd rmsprop ls | " in texts[0] and "| bn_gd rmsprop ls | " not in texts[1]


LONGER = "--steps 16 --sample-every 2 --seeds 2 --losses ls".split()


def test_processes_go_on_where_they_were_stopped(run, tmp_path):
    ranks, outputs = launch_ranks(tmp_path, *LONGER)
    wait_for("seed1  step 2 ", outputs[1], ranks[1])
    for rank in ranks:
        os.kill(rank.pid, signal.SIGTERM)
    assert finish(*ranks) == [143, 143]
    assert "stopped; --resume out/last.pt goes on" in outputs[0].read_text()
    ranks, outputs = launch_ranks(tmp_path, *LONGER, "--resume")
    assert finish(*ranks) == [0, 0]
    assert run(*LONGER, out="whole")[0] == 0
    assert same_grid("out", "whole")


def test_if_a_process_dies_no_other_waits_for_ever(run, tmp_path):
    ranks, outputs = launch_ranks(tmp_path, *LONGER)
    wait_for("seed1  step 2 ", outputs[1], ranks[1])
    os.killpg(ranks[1].pid, signal.SIGKILL)
    codes = finish(*ranks)
    assert codes[0] > 0 and codes[1] == -signal.SIGKILL
    assert run(*LONGER, "--resume")[0] == 0
    assert run(*LONGER, out="whole")[0] == 0
    assert same_grid("out", "whole")


def test_a_setting_given_twice_is_refused_by_every_process(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    ranks, outputs = launch_ranks(tmp_path, *SHARED, "--settings", "bn_g,bn_g")
    assert finish(*ranks) == [2, 2]
    for output in outputs:
        assert re.fullmatch(r"stability_grid\.py: error: .*'bn_g' is given twice\n", output.read_text())
    assert not Path("out").exists()


@pytest.fixture
def begun(run):
    """A grid that was killed before its first cell; what is in its folder."""
    assert run(*SHARED)[0] == 0
    for path in Path("out").glob("bn*"):
        shutil.rmtree(path)
    return contents("out")


def test_every_process_refuses_the_folder_of_another_grid(begun, tmp_path):
    """Even if that grid was started with the same arguments."""
    ranks, outputs = launch_ranks(tmp_path, *SHARED)
    assert finish(*ranks) == [2, 2]
    for output in outputs:
        assert re.fullmatch(r"stability_grid\.py: error: out is not empty: .*\n", output.read_text())
    assert contents("out") == begun


def test_if_rank_0_finds_another_process_at_work_no_rank_trains(begun, tmp_path):
    with runs.open_run(Path("out"), "out/last.pt"):
        ranks, outputs = launch_ranks(tmp_path, "--resume")
        codes = finish(*ranks)
    assert codes[0] == 2 and codes[1] > 0
    last = outputs[0].read_text().splitlines()[-1]
    assert re.fullmatch(r"stability_grid\.py: error: another process is running in out; .*", last)
    assert contents("out") == begun


def test_without_a_checkpoint_of_the_grid_no_rank_trains(run, tmp_path):
    Path("out/last.pt.tmp").mkdir(parents=True)  # so that rank 0 cannot write
    ranks, outputs = launch_ranks(tmp_path, *SHARED)
    codes = finish(*ranks)
    assert codes[0] == 2 and codes[1] > 0
    assert "out/last.pt cannot be written" in outputs[0].read_text()
    assert not list(Path("out").glob("bn*"))


# ---------------------------------------------------------------- verdicts
KNOWN = {  # what must become of bench_rule's cases
    "real pictures": {"learned"},
    "a light lattice over them": {"learned"},
    "a heavy lattice over them": {"learned", "degraded", "diverged"},  # features differ about it
    "blurred to 24x24 pixels": {"learned"},
    "blurred to 8x8 pixels": {"degraded"},
    "blurred to 2x2 pixels": {"diverged", "collapsed"},
    "8 pictures, repeated": {"degraded", "collapsed", "diverged"},
    "copies of one picture": {"collapsed"},
    "copies with little noise": {"collapsed"},
    "noise": {"diverged"},
    "untrained generator": {"collapsed"},
}


def verdicts_of(judge, cases):
    found = {}
    for name, pictures in cases.items():
        scores = judge.measure(pictures)
        found[name] = verdict(scores["FID"], scores["diversity"], judge.fid_learned, judge.fid_degraded)
    return found


def check_planted(judge, dataset, known):
    """Made from pictures that the judge neither compares with nor makes its limits of."""
    used = np.linspace(0, len(dataset) - 1, 2 * judge.n).astype(int)
    free = np.setdiff1d(np.arange(len(dataset)), used)
    pictures = dataset[np.random.default_rng(1).permutation(free)[: judge.n]]
    found = verdicts_of(judge, planted(judge.n, pictures))
    for name, words in known.items():
        assert found[name] in words, name


def test_blur():
    pictures = torch.from_numpy(np.random.default_rng(0).integers(0, 256, (600, 32, 32, 3), dtype=np.uint8))
    assert torch.equal(blur(pictures, 32), pictures)
    means = pictures.float().mean((1, 2))
    blurred = blur(pictures, 1)
    assert blurred.dtype == torch.uint8 and blurred.shape == pictures.shape
    assert torch.equal(blurred, means.round().byte()[:, None, None].expand_as(pictures))
    steps = torch.tensor([0, 0, 100, 100], dtype=torch.uint8).expand(1, 4, 4)[..., None].expand(1, 4, 4, 3)
    assert blur(steps, 2)[0, 0, :, 0].tolist() == [0, 25, 75, 100]  # bilinear: between 0 and 100


def test_planted_verdicts_on_toy_rooms():
    dataset = open_images("rooms", 32)
    judge = make_judge(dataset)
    assert judge.n == 512 and "random, 64" in judge.describe()
    check_planted(judge, dataset, KNOWN)


def test_planted_verdicts_on_photos(real_data):
    dataset = open_images(str(real_data / "natural_train_lmdb"), 32)
    check_planted(make_judge(dataset, "random"), dataset, KNOWN)


@pytest.mark.slow
def test_planted_verdicts_on_natural_scenes(real_data):
    dataset = open_images(str(real_data / "natural_train_lmdb"), 64)
    check_planted(make_judge(dataset, "random"), dataset, KNOWN)
    # To the classifier all noise looks alike.
    by_classifier = KNOWN | {"noise": {"diverged", "collapsed"}}
    check_planted(make_judge(dataset, "classifier"), dataset, by_classifier)


@pytest.mark.slow
def test_planted_verdicts_by_the_classifier(real_data, tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    dataset = open_images(str(real_data / "cifar10"), 32)
    judge = make_judge(dataset)
    assert "classifier" in judge.describe()
    # To the classifier all noise looks alike.
    check_planted(judge, dataset, KNOWN | {"noise": {"diverged", "collapsed"}})
    three = dataset[np.random.default_rng(1).permutation(np.flatnonzero(dataset.labels < 3))[: judge.n]]
    # The rule sees blur and sameness, not missing kinds of pictures.
    assert verdicts_of(judge, {"3 of 10 classes": three})["3 of 10 classes"] in {"learned", "degraded"}


def test_data_that_the_rule_cannot_judge(tmp_path):
    """Grey pictures and noise in turn: blurred, the noise lies nearer to the grey."""
    pictures = torch.full((1024, 32, 32, 3), 127, dtype=torch.uint8)
    pictures[1::2] = torch.from_numpy(np.random.default_rng(0).integers(0, 256, (512, 32, 32, 3)))
    with pytest.raises(DataError, match="does not suit these data"):
        Judge(pictures, None, "random", 32, torch.device("cpu"))
    with pytest.raises(DataError, match="--size 16 is below 32"):  # blurring to 16x16 changes nothing
        Judge(open_images("rooms", 16, limit=1024), None, "random", 16, torch.device("cpu"))


def test_what_the_rule_cannot_judge_leaves_no_folder(call, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    assert refused(grid, call(grid.main, *"--size 16 --limit 1024 --gpu -1 --out out".split()), "below 32")
    assert not Path("out").exists()


def test_a_mean_is_of_the_finite_values_and_says_so():
    nan = math.nan
    assert grid.mean_and_deviation([3.0, 5.0]) == "4 ± 1.4"
    assert grid.mean_and_deviation([3.0, nan, 5.0]) == "4 ± 1.4 (2 of 3)"
    assert grid.mean_and_deviation([nan, 3.0]) == "3 (1 of 2)"
    assert grid.mean_and_deviation([3.0]) == "3"
    assert grid.mean_and_deviation([nan]) == "-"


def test_rule():
    def found(fid, diversity=1.0):
        return verdict(fid, diversity, fid_learned=1.0, fid_degraded=10.0)

    assert [found(fid) for fid in (-0.1, 1.0)] == ["learned"] * 2
    assert [found(fid) for fid in (1.1, 10.0)] == ["degraded"] * 2
    assert found(10.1) == "diverged"
    assert [found(fid, 0.49) for fid in (0.1, 5.0, 100.0)] == ["collapsed"] * 3
    assert found(0.1, 0.5) == "learned"
    for fid, diversity in ((math.nan, math.nan), (0.1, math.nan), (math.nan, 0.1), (math.inf, 0.1)):
        assert found(fid, diversity) == "diverged"


def test_fit_and_limit_reach_the_reader(call, monkeypatch, tmp_path):
    opened = opened_with(monkeypatch, grid, "open_images")
    flags = f"--data {tmp_path} --size 48 --fit crop --limit 700 --gpu -1 --out {tmp_path}/out"
    assert call(grid.main, *flags.split())[0] == 2
    assert opened == [(str(tmp_path), 48, "crop", 700)]


def test_too_few_pictures_to_judge(call, tmp_path):
    """That is said before anything is written."""
    code, _, err = call(grid.main, "--quick", "--limit", 511, "--gpu", -1, "--out", tmp_path / "grid")
    assert code == 2 and re.search("511 pictures.* 512", err)
    assert not (tmp_path / "grid").exists()


@pytest.mark.parametrize("kind, n", [("random", 512), ("classifier", 1024), ("inception", 16_384)])
def test_how_many_pictures_an_extractor_needs(kind, n):
    assert choose_extractor(kind, range(n), None) == kind
    with pytest.raises(DataError, match=f"{n - 1:,} pictures.* takes {n:,}"):
        choose_extractor(kind, range(n - 1), None)


def test_what_the_paper_says_of_each_cell():
    """Section 4.3. BN_G with Adam: LSGAN in 5 of 10 runs, the regular GAN in none."""
    says = {cell: grid.PAPER[cell] for cell in grid.PAPER if cell[2] in ("ls", "sigmoid")}
    assert len(says) == 8
    assert says["bn_g", "adam", "ls"].startswith("5/10") and says["bn_g", "adam", "sigmoid"].startswith(
        "0/10"
    )
    assert says["bn_g", "rmsprop", "ls"] == says["bn_g", "rmsprop", "sigmoid"] == "learns"
    assert says["bn_gd", "adam", "ls"] == says["bn_gd", "adam", "sigmoid"] == "slight mode collapse"
    assert says["bn_gd", "rmsprop", "sigmoid"] == "slight mode collapse"
    assert "better" in says["bn_gd", "rmsprop", "ls"]


def write_log(path, rows):
    """A cell's log.csv; rows: step, FID, IS and diversity. The other columns are nan."""
    lines = [",".join(grid.COLUMNS)]
    for row in rows:
        values = dict(zip(("step", "FID", "IS", "diversity"), row))
        lines.append(",".join(str(values.get(name, math.nan)) for name in grid.COLUMNS))
    (path / "log.csv").write_text("\n".join(lines) + "\n")


def test_table_counts_with_intervals_beside_the_papers_claims(tmp_path):
    cells = [Cell("bn_g", "adam", loss, seed) for loss in ("ls", "sigmoid") for seed in range(10)]
    cells.append(Cell("bn", "adam", "ls-110", 0))
    for setting, optimizer, loss, seed in cells:
        fid = 0.1 if loss == "ls" and seed < 5 else 5.0 if seed < 9 else float("nan")
        path = folder(tmp_path, Cell(setting, optimizer, loss, seed))
        (path / "samples").mkdir(parents=True)
        write_log(path, [(5, 9, math.nan, 1), (10, fid, math.nan, 0.1 if seed == 8 else 1)])
        pictures = torch.full((64, 16, 16, 3), 20 * seed, dtype=torch.uint8)
        grid.save_grid(pictures, path / "samples/step_00000010.png")
    unfinished = Cell("bn_gd", "adam", "ls", 0)
    folder(tmp_path, unfinished).mkdir()
    write_log(folder(tmp_path, unfinished), [(5, 9, math.nan, 1)])
    table, missing = write_report(tmp_path, [*cells, unfinished], 10, QuickJudge(), "about")
    assert missing == 1
    lines = table.splitlines()
    assert (
        lines[2]
        == "| bn_g adam ls | 5/10 (24% to 76%) | 3 | 1 | 1 | 2.28 ± 2.6 (9 of 10) | 5/10 relatively good |"
    )
    assert lines[3].startswith("| bn_g adam sigmoid | 0/10 (0% to 28%) | 8 | 1 | 1 |")
    assert lines[3].endswith("| 0/10, severe mode collapse |")
    assert lines[4] == "| bn adam ls-110 | 0/1 (0% to 79%) | 1 | 0 | 0 | 5 |  |" and len(lines) == 5
    assert len(results(tmp_path)) == 21
    assert (tmp_path / "figure7.png").stat().st_size > 10_000
    text = (tmp_path / "table.md").read_text()
    assert "about" in text and "Not counted: 1 unfinished cells." in text
    for cell, score in zip(cells, range(2, 12)):  # labelled data have an Inception Score
        write_log(folder(tmp_path, cell), [(10, 0.2, score, 1)])
    table, missing = write_report(tmp_path, cells[:10], 10, QuickJudge(), "about")
    assert missing == 0 and "Not counted" not in (tmp_path / "table.md").read_text()
    lines = table.splitlines()
    assert lines[0].endswith("| diverged | FID | IS | the paper |")
    assert lines[2].endswith("| 0 | 0 | 0 | 0.2 ± 0 | 6.5 ± 3 | 5/10 relatively good |")


def test_figure_7_shows_the_seeds_of_lowest_and_of_highest_fid(tmp_path, monkeypatch):
    shown = {}
    monkeypatch.setattr(
        grid, "show_samples", lambda axes, which, out, cell, verdicts: shown.update({which: cell})
    )
    cells = [Cell("bn_g", "adam", "ls", seed) for seed in range(4)]
    for cell, fid in zip(cells, (3, math.nan, 0.5, 20)):
        folder(tmp_path, cell).mkdir()
        write_log(folder(tmp_path, cell), [(10, fid, 1, 1)])
    logs = grid.finished(tmp_path, cells, 10)
    grid.draw_figure7(tmp_path, logs, dict.fromkeys(cells, "learned"))
    assert (shown["best"].seed, shown["worst"].seed) == (2, 1)  # one that is not finite is the worst


def test_real_judge_in_a_real_grid(call, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    flags = (
        "--size 32 --width 2 --z-dim 4 --batch-size 4 --steps 1 --seeds 1 --workers 0 --gpu -1 --limit 512"
    )
    code, out, _ = call(
        grid.main, *flags.split(), "--settings", "bn_g", "--optimizers", "adam", "--out", "out"
    )
    assert code == 0 and "random, 64 features" in out and "blurred to 16x16 pixels" in out
    assert {row["verdict"] for row in results()} <= {"diverged", "collapsed"}
    assert Path("out/figure7.png").exists()


# ---------------------------------------------------------------- bench_rejudge
class OtherJudge(QuickJudge):
    """Finds FIDs of 5, 6, 7, ... in the order in which it is asked."""

    fids = itertools.count(5)

    def measure(self, pictures):
        return super().measure(pictures) | {"FID": next(self.fids), "diversity": 1.0}


def test_a_grid_is_judged_again_from_its_checkpoints(run, call, monkeypatch):
    def init_large(net, generator):
        for parameter in net.parameters():
            torch.nn.init.normal_(parameter, std=0.5, generator=generator)

    monkeypatch.setattr(grid, "init_weights", init_large)  # colours instead of an untrained network's grey
    assert run("--steps 2 --seeds 2 --losses ls --settings bn_g,bn --optimizers adam")[0] == 0
    before = results()
    for row, (picture, _, _) in zip(before, bench_eyes.read_cells([Path("out")])):
        redrawn = bench_rejudge.last_pictures(Path("out"), bench_stats.read_cell(row), 8)
        grid.save_grid(redrawn, Path("redrawn.png"))
        assert Path("redrawn.png").read_bytes() == picture.read_bytes()

    monkeypatch.setattr(bench_rejudge, "make_judge", lambda images, kind: OtherJudge())
    command = bench_rejudge.main, "out", "--data", "rooms", "--out", "again"
    assert call(*command)[0] == 0
    after = results("again")
    assert [row["verdict"] for row in before] == ["learned"] * 4
    assert [row["FID"] for row in after] == ["5", "6", "7", "8"]
    assert [row["verdict"] for row in after] == ["degraded"] * 4
    assert [row["d_loss"] for row in after] == [row["d_loss"] for row in before]
    assert len(bench_eyes.read_cells([Path("again")])) == 4

    code, _, err = call(*command)
    assert code == 2 and "again is there already" in err
    again = bench_rejudge.main, "out", "--data", "rooms", "--out", "more"
    for picture in folder("out", Cell("bn", "adam", "ls", 1)).glob("samples/*"):
        picture.unlink()
    code, _, err = call(*again)
    assert code == 2 and "has no pictures" in err and not Path("more").exists()


def test_a_grid_is_judged_again_on_its_own_data_only(run, call, tmp_path):
    assert run("--steps 1 --seeds 1 --losses ls --settings bn_g --optimizers adam")[0] == 0
    Image.new("RGB", (20, 20)).save(tmp_path / "other.png")
    code, _, err = call(bench_rejudge.main, "out", "--data", tmp_path, "--out", "again")
    assert code == 2 and "not the data of the grid" in err
    assert not Path("again").exists()


def test_diverged_cell_ends_alone(run, monkeypatch):
    original = grid.train_step

    def explode(G, D, opt_g, opt_d, real, z, loss, **targets):
        losses = original(G, D, opt_g, opt_d, real, z, loss, **targets)
        return (
            losses * float("nan")
            if loss == "sigmoid" and calls.append(1) is None and len(calls) > 2
            else losses
        )

    calls = []
    monkeypatch.setattr(grid, "train_step", explode)
    assert run("--steps 6 --sample-every 2 --seeds 1 --settings bn_g --optimizers adam")[0] == 0
    found = {row["loss"]: row for row in results()}
    assert found["sigmoid"]["verdict"] == "diverged" and found["sigmoid"]["step"] == "4"
    assert found["ls"]["step"] == "6" and len(calls) == 4
    checkpoint = torch.load(folder("out", Cell("bn_g", "adam", "sigmoid", 0)) / "last.pt", weights_only=True)
    assert checkpoint["step"] == 2  # the last good one
    assert run("--resume")[0] == 0 and len(calls) == 4


# ---------------------------------------------------------------- bad input
@pytest.mark.parametrize(
    "flags, words",
    [
        ("--settings bn_x", "--settings bn_x bn_g, bn_gd, bn"),
        ("--optimizers sgd", "--optimizers adam rmsprop"),
        ("--losses ls,hinge", "--losses sigmoid ls-110"),
        ("--size 20", "--size 16"),
        ("--steps 0", "--steps"),
        ("--seeds 0", "--seeds"),
        ("--lr nan", "--lr"),
        ("--beta1 1", "--beta1 1"),
        ("--beta1 inf", "--beta1"),
        ("--settings bn_g,bn_g", "--settings bn_g twice"),
        ("--resume=", "--resume"),
        ("--rmsprop keras", "--rmsprop tf"),
        ("--batch-size 13", "--batch-size 12"),
        ("--data nowhere", "nowhere"),
        ("--gpu 9", "GPU 9 --gpu"),
        ("--sample-ever 5", "--sample-ever"),
        ("--resume", "out/last.pt"),
        ("--resume other/last.pt", "no checkpoint other/last.pt"),
    ],
)
def test_bad_flags(run, flags, words):
    assert refused(grid, run(flags), *words.split())
    assert not Path("out").exists()


def test_run_directory_in_use(run):
    assert run("--steps 1 --seeds 1")[0] == 0
    before = contents("out")
    assert refused(grid, run("--steps 1 --seeds 1"), "out", "--resume", "--out")
    assert contents("out") == before


def test_a_grid_resumed_with_fewer_steps_is_refused_and_stays_as_it_was(run):
    assert run("--steps 2 --seeds 1")[0] == 0
    before = contents("out")
    assert refused(grid, run("--steps 1 --seeds 1 --resume"), "--steps 1 is less than the 2 of out/last.pt")
    assert contents("out") == before


def test_graph_without_a_gpu_leaves_nothing(run):
    assert refused(grid, run("--graph --steps 1"), "--graph needs a GPU")
    assert not Path("out").exists()


def test_on_resume_a_given_flag_wins_and_the_change_is_printed(run):
    assert run("--steps 2 --seeds 1 --losses ls --optimizers rmsprop --settings bn_g")[0] == 0
    code, out, _ = run("--resume --steps 4 --settings bn_g,bn")
    assert code == 0 and "--steps 4, was 2\n" in out and "--settings bn_g,bn, was bn_g\n" in out
    assert {row["setting"] for row in results()} == {"bn_g", "bn"}
    for setting in ("bn_g", "bn"):  # both what went on and what is new
        assert torch.load(f"out/{setting}-rmsprop-ls-seed0/last.pt", weights_only=True)["step"] == 4


FIXED = "--size 32|--fit crop|--limit 11|--extractor inception|--rmsprop torch|--width 4|--z-dim 5|--lr 0.1"
FIXED += "|--beta1 0.4|--batch-size 5|--no-tf32"


@pytest.mark.parametrize("flag", FIXED.split("|"))
def test_on_resume_what_finished_cells_rest_on_cannot_change(run, flag):
    assert run("--steps 1 --seeds 1")[0] == 0
    before = contents("out")
    name = flag.split()[0].replace("--no-", "--")
    assert refused(grid, run(f"--resume {flag}"), name, "cannot change")
    assert contents("out") == before


@pytest.mark.parametrize("damage", ["empty", "cut", "random", "flipped bit", "pickle"])
@pytest.mark.parametrize("name", ["last.pt", "bn_g-adam-ls-seed0/last.pt"])
def test_damaged_checkpoint(run, name, damage):
    assert run("--steps 2 --sample-every 1 --seeds 1 --losses ls --settings bn_g --optimizers adam")[0] == 0
    path = Path("out", name)
    os.remove("out/bn_g-adam-ls-seed0/log.csv")  # in flight
    data = bytearray(path.read_bytes())
    if damage == "pickle":
        torch.save({"args": os.system}, path)
    elif damage == "flipped bit":
        data[data.index(b"batch_size")] ^= 1  # not in padding, where it would do no harm
        path.write_bytes(data)
    else:
        path.write_bytes({"empty": b"", "cut": data[: len(data) // 2], "random": os.urandom(500)}[damage])
    assert refused(grid, run("--resume"), name, "damaged")


def test_a_grid_goes_on_in_its_own_folder_only(run):
    assert run("--steps 1 --seeds 1 --losses ls --settings bn_g --optimizers adam")[0] == 0
    assert refused(grid, run("--resume out/last.pt", out="other"), "out/last.pt", "other")
    assert not Path("other").exists()


def test_a_checkpoint_of_something_else_is_no_grid(run):
    assert run("--steps 1 --seeds 1 --losses ls --settings bn_g --optimizers adam")[0] == 0
    cell = "out/bn_g-adam-ls-seed0"
    assert refused(grid, run("--resume", out=cell), "last.pt is not the last.pt of a grid")
    Path("scenes").mkdir()
    runs.save_checkpoint(Path("scenes/last.pt"), {}, args={"loss": "ls", "lr": 1e-4}, step=3, log=[])
    before = contents("scenes")
    assert refused(grid, run("--resume", out="scenes"), "not the last.pt of a grid")
    assert contents("scenes") == before


def test_resume_leaves_out_no_cell(run):
    assert run("--steps 1 --seeds 2 --losses ls,sigmoid --settings bn_g --optimizers adam")[0] == 0
    before = contents("out")
    for flags, n in (("--seeds 1", 2), ("--seed 1", 2), ("--losses ls", 2), ("--settings bn", 4)):
        assert refused(grid, run(f"--resume {flags}"), f"leave out {n} of the cells of out/last.pt")
        assert contents("out") == before


def test_on_resume_the_rule_cannot_change(run):
    """As if the classifier had been trained again on another machine."""
    assert run("--steps 1 --seeds 1 --losses ls --settings bn_g --optimizers adam")[0] == 0
    checkpoint = torch.load("out/last.pt", weights_only=True)
    learned, degraded = checkpoint["limits"]
    torch.save({**checkpoint, "limits": [learned, 1.001 * degraded]}, "out/last.pt")  # rounding
    assert run("--resume")[0] == 0
    torch.save({**checkpoint, "limits": [1.1 * learned, degraded]}, "out/last.pt")
    before = contents("out")
    assert refused(grid, run("--resume"), "the cells of out/last.pt were judged by other features")
    assert contents("out") == before


def test_on_resume_the_data_cannot_change(run):
    flags = "--steps 1 --seeds 1 --losses ls --settings bn_g --optimizers adam"
    assert run(flags)[0] == 0
    assert run("--resume")[0] == 0
    checkpoint = torch.load("out/last.pt", weights_only=True)
    torch.save({**checkpoint, "data": "of others"}, "out/last.pt")
    before = contents("out")
    assert refused(grid, run("--resume"), "the data of rooms are not those of out/last.pt")
    assert contents("out") == before


def test_out_of_memory_names_the_flags(run, monkeypatch):
    assert refused(grid, run("--steps 1 --width 100000"), "out of memory", "--width", "--batch-size")  # truly
    for error in (torch.OutOfMemoryError("CUDA out of memory. Tried to allocate"), MemoryError()):

        def full(*_, error=error, **__):
            raise error

        monkeypatch.setattr(grid, "train_step", full)
        result = run("--steps 1", out=type(error).__name__)
        assert refused(grid, result, "out of memory", "--batch-size", "--width") and "()" not in result[2]
    monkeypatch.setattr(grid, "train_step", lambda *_, **__: 1 + torch.zeros(2) @ torch.zeros(3))
    with pytest.raises(RuntimeError):  # a fault of ours stays visible
        run("--steps 1", out="other")


def test_quick_is_short_for_flags_which_others_override():
    quick = grid.parse_args(["--quick"])
    assert (quick.size, quick.width, quick.z_dim, quick.lr, quick.batch_size) == (32, 16, 64, 1e-3, 16)
    assert (quick.steps, quick.seeds, quick.sample_every) == (1600, 2, 400)
    for words in (["--quick", "--steps", "7"], ["--steps", "7", "--quick"]):
        given = grid.parse_args(words)
        assert given.steps == 7 and given.width == 16
    plain = grid.parse_args([])
    assert (plain.size, plain.width, plain.z_dim, plain.lr, plain.batch_size) == (64, 64, 1024, 2e-4, 64)
    assert (plain.settings, plain.optimizers) == (["bn_g", "bn_gd"], ["adam", "rmsprop"])
    assert plain.losses == ["ls", "sigmoid"] and plain.rmsprop == "tf" and plain.seeds == 10
    assert plain.steps == 20_000


@pytest.mark.parametrize("flags", ["--resume", "--quick --resume", "--quick --quick --resume"])
def test_a_quick_grid_resumes(run, flags):
    """With --quick or without it: the checkpoint has the settings."""
    tiny = "--size 16 --width 2 --z-dim 4 --batch-size 4 --steps 1 --seeds 1"
    assert run("--quick", tiny)[0] == 0
    code, out, err = run(flags, "--steps 2")
    assert code == 0 and "was" not in out.replace("--steps 2, was 1", ""), err


def test_labels_choose_the_classifier(monkeypatch):
    pictures, asked = torch.zeros(2000, 32, 32, 3, dtype=torch.uint8), []
    monkeypatch.setattr("data.judge.load_classifier", lambda *given: asked.append(given) or die())
    labels = np.arange(2000) % 2
    kind = choose_extractor(None, pictures, labels)
    with pytest.raises(Killed):
        Judge(pictures, labels, kind, 32, torch.device("cpu"))
    assert len(asked[0][0].labels) == 1600 and len(asked[0][1].labels) == 400


def test_a_terminal_that_knows_ascii_only(run, monkeypatch):
    terminal = io.TextIOWrapper(io.BytesIO(), "ascii")
    monkeypatch.setattr(sys, "stdout", terminal)
    flags = "--steps 1 --seeds 2 --losses ls --settings bn_g --optimizers adam --out out".split()
    grid.main([*SMALL, *flags])
    terminal.flush()
    assert rb"\xb1" in terminal.buffer.getvalue()
    assert "±" in Path("out/table.md").read_text("utf-8")


def test_without_docstrings(run, monkeypatch):
    """As under python -OO: no text may come from them."""
    monkeypatch.setattr(grid, "__doc__", None)
    for item in (verdict, grid.train, grid.main, Judge, Judge.describe):
        monkeypatch.setattr(item, "__doc__", None)
    assert run("--help")[0] == 0
    judge = Judge.__new__(Judge)
    judge.n, judge.fid_real, judge.fid_learned, judge.fid_degraded = 8, 0.1, 1.0, 10.0
    judge.extractor = make_extractor("random", 16)
    assert RULE in judge.describe()
