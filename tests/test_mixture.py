"""gaussian_mixture.py: the authors' setting, batched training equal to separate training, measures, runs."""

import math
import multiprocessing
import os
import pickle
import random
import re
import signal
import time
import zipfile
from pathlib import Path

import matplotlib
import numpy as np
import pytest
import torch
import torch.nn.functional as F
from conftest import Killed, at_call, contents, die, finish, refused, same, wait_for
from matplotlib.axes import Axes
from matplotlib.image import imread
from torch import nn

import gaussian_mixture as gm
from data import runs

LOSSES = ["ls", "ls-110", "sigmoid"]
TARGET = gm.make_mixture()
SERVER = multiprocessing.get_context("forkserver")  # imports torch once, then each process takes milliseconds
SERVER.set_forkserver_preload(["torch", "matplotlib.figure"])
TINY = "--seeds 2 --losses ls,sigmoid --gpu -1 --measure-every 2".split()


@pytest.fixture
def run(call):
    """run(flag, ...) -> (exit code, stdout, stderr) of the smallest run, in this process."""
    return lambda *flags: call(gm.main, *TINY, *flags)


@pytest.fixture(autouse=True)
def surroundings(tmp_path, monkeypatch, request):
    """A working directory of the test's own. No figures, but where they are the subject: they are slow."""
    monkeypatch.chdir(tmp_path)
    if "figure" not in request.node.name:
        monkeypatch.setattr(gm, "draw_curves", lambda *args: None)
        monkeypatch.setattr(gm, "draw_figure8", lambda *args: None)
        monkeypatch.setattr(gm, "generate", lambda G, seeds, n=0: generate(G, seeds, n=250))


generate = gm.generate


def networks(seeds, losses):
    """G, D and their optimizers as train() makes them, in float64."""
    args = gm.parse_args(["--losses", ",".join(losses)])
    args.seed, args.seeds = seeds.start, len(seeds)
    state = gm.make_networks(args, torch.device("cpu"))
    state["G"].double()  # keeps the parameters that the optimizers hold
    state["D"].double()
    return state["G"], state["D"], state["opt_g"], state["opt_d"]


def adam(net, lr):
    return torch.optim.Adam(net.parameters(), lr, betas=(0.5, 0.999), fused=True)


def batches(seeds, steps, n=16):
    for real, z in gm.draw_batches(seeds, 0, steps, 256, TARGET, batch=n):
        yield real.double(), z.double()


# ---------------------------------------------------------------- the authors' setting
def test_parameter_counts():
    assert sum(p.numel() for p in gm.Generator().parameters()) == 49_666
    assert sum(p.numel() for p in gm.Discriminator().parameters()) == 17_025


def test_defaults_are_the_authors():
    args = gm.parse_args([])
    assert (gm.MODES, args.radius, args.std, args.doubled_mode) == (8, 1.0, 0.01, True)
    assert (args.z_dim, gm.BATCH, args.lr_d, args.lr_g, args.beta1) == (256, 512, 1e-4, 1e-3, 0.5)
    assert (args.updates, args.seeds, gm.SNAPSHOT_EVERY) == ("simultaneous", 10, 5000)


def test_each_network_has_its_own_learning_rate():
    G, D, opt_g, opt_d = networks(range(1), ["ls"])
    for net, optimizer, lr in ((G, opt_g, 1e-3), (D, opt_d, 1e-4)):
        (group,) = optimizer.param_groups
        assert group["lr"] == lr and group["betas"] == (0.5, 0.999)
        assert all(mine is theirs for mine, theirs in zip(net.parameters(), group["params"], strict=True))


def test_modes_are_those_of_linspace_with_its_end():
    angles = np.linspace(0, 2 * math.pi, 9)
    theirs = np.stack([np.sin(angles), np.cos(angles)], 1)
    centres, weights, _ = gm.make_mixture()
    assert np.allclose(centres, theirs[:8], atol=1e-6) and np.allclose(theirs[8], theirs[0])
    assert torch.allclose(weights, torch.tensor([2.0] + 7 * [1.0]) / 9)


def test_other_mixtures():
    assert torch.allclose(gm.make_mixture(doubled=False).weights, torch.full((8,), 1 / 8))
    assert torch.allclose(gm.make_mixture(radius=2.0).centres, 2 * TARGET.centres)


def test_initial_weights_are_orthogonal_of_gain_1_4_and_biases_zero():
    for net in networks(range(3), LOSSES)[:2]:
        for layer in list(net)[:5:2]:
            weight = layer.weight if layer.weight.shape[1] < layer.weight.shape[2] else layer.weight.mT
            identity = torch.eye(weight.shape[1]).double().expand(9, -1, -1)
            assert torch.allclose(weight @ weight.mT, 1.4**2 * identity, atol=1e-4)
            assert not layer.bias.any()


def test_without_generators_the_global_one_initializes():
    """So that pasted networks need no more than init_weights(G)."""
    G, other = gm.Generator(3), gm.Generator(3)
    gm.init_weights(G, [torch.Generator().manual_seed(0)] * 3)  # one for all models
    torch.manual_seed(0)
    gm.init_weights(other)
    assert same(G.state_dict(), other.state_dict())
    assert not torch.allclose(other[0].weight[0], other[0].weight[1])


def test_losses_of_a_seed_start_equal_and_seeds_differ():
    for net in networks(range(3), LOSSES)[:2]:
        weight = net[2].weight.unflatten(0, (3, 3))  # loss, seed
        assert torch.equal(weight[0], weight[1]) and torch.equal(weight[0], weight[2])
        assert not torch.allclose(weight[0, 0], weight[0, 1])


def both_losses(d_real, d_fake, loss):
    return gm.discriminator_loss(d_real, d_fake, loss).item(), gm.generator_loss(d_fake, loss).item()


def test_loss_by_hand():
    d_real, d_fake = torch.tensor([[3.0, 1.0]]), torch.tensor([[0.0, -1.0]])
    by_hand = 0.5 * (4 + 0) / 2 + 0.5 * (0 + 1) / 2, 0.5 * (1 + 4) / 2
    assert both_losses(d_real, d_fake, "ls") == by_hand
    by_hand = 0.5 * (4 + 0) / 2 + 0.5 * (1 + 0) / 2, 0.5 * (0 + 1) / 2
    assert both_losses(d_real, d_fake, "ls-110") == by_hand
    d_loss, g_loss = both_losses(d_real, d_fake, "sigmoid")
    log = math.log
    by_hand = (log(1 + math.exp(-3)) + log(1 + math.exp(-1)) + log(2) + log(1 + math.exp(-1))) / 2
    assert d_loss == pytest.approx(by_hand)
    assert g_loss == pytest.approx((log(2) + log(1 + math.exp(1))) / 2)


PASTED = """
import torch
import torch.nn.functional as F
from torch import Tensor, nn

{parts}

generators = [torch.Generator().manual_seed(k) for k in (0, 1, 0, 1)]
G, D = Generator(models=4, z_dim=16), Discriminator(models=4)
init_weights(G, generators)
init_weights(D, generators)
before = [p.clone() for net in (G, D) for p in net.parameters()]
opt_g = torch.optim.Adam(G.parameters(), 1e-3, betas=(0.5, 0.999))
opt_d = torch.optim.Adam(D.parameters(), 1e-4, betas=(0.5, 0.999))
for updates in ("simultaneous", "alternating"):
    real, z = torch.randn(2, 8, 2, generator=generators[0]), torch.randn(2, 8, 16, generator=generators[1])
    losses = train_step(G, D, opt_g, opt_d, real, z, ("ls", "sigmoid"), updates)
"""


def test_networks_losses_and_step_paste_into_a_fresh_file():
    source = Path(gm.__file__).read_text()
    names = "BatchedLinear|Generator|Discriminator|init_weights|LOSSES"
    names += "|discriminator_loss|generator_loss|train_step"
    definition = rf"^(?:class |def )?(?:{names})\b.*?(?=^[^\s}}])"  # up to the next line that begins another
    found = re.findall(definition, source + "\n#", re.DOTALL | re.MULTILINE)
    assert len(found) == 8
    space = {}
    exec(PASTED.format(parts="\n".join(found)), space)
    assert space["losses"].shape == (4, 2) and space["losses"].isfinite().all()
    after = [p for net in (space["G"], space["D"]) for p in net.parameters()]
    assert not any(torch.equal(p, q) for p, q in zip(space["before"], after))


# ---------------------------------------------------------------- batched training
def plain_networks(net, m):
    """Model m of a batched network as an ordinary one."""
    layers = []
    for part in net:
        if isinstance(part, gm.BatchedLinear):
            layers.append(nn.Linear(*part.weight.shape[1:]).double())
            layers[-1].weight.data.copy_(part.weight[m].T)
            layers[-1].bias.data.copy_(part.bias[m, 0])
        elif isinstance(part, nn.Tanh):
            layers.append(nn.Tanh())
    return nn.Sequential(*layers)


def plain_step(G, D, opt_g, opt_d, real, z, loss, updates):
    """The obvious loop: a forward pass for each loss, G's and D's gradients one after the other."""
    a, b, c = gm.LOSSES[loss] or (0.0, 1.0, 1.0)

    def cost(answer, goal):
        if loss == "sigmoid":
            return F.binary_cross_entropy_with_logits(answer, torch.full_like(answer, goal))
        return 0.5 * F.mse_loss(answer, torch.full_like(answer, goal))

    def update_d():
        opt_d.zero_grad()
        (cost(D(real), b) + cost(D(G(z).detach()), a)).backward()

    def update_g():
        opt_g.zero_grad()
        cost(D(G(z)), c).backward(inputs=list(G.parameters()))  # or D's gradients would change too

    if updates == "alternating":
        update_d()
        opt_d.step()
        update_g()
    else:
        update_g()
        update_d()
        opt_d.step()
    opt_g.step()


@pytest.mark.parametrize("updates", ["simultaneous", "alternating"])
def test_step_equals_the_plain_loop(updates):
    seeds = range(5, 7)
    G, D, opt_g, opt_d = networks(seeds, LOSSES)
    plain = [[plain_networks(net, m) for net in (G, D)] for m in range(6)]
    plain = [(g, d, adam(g, 1e-3), adam(d, 1e-4)) for g, d in plain]
    for real, z in batches(seeds, 5):
        gm.train_step(G, D, opt_g, opt_d, real, z, LOSSES, updates)
        for m, model in enumerate(plain):
            plain_step(*model, real[m % 2], z[m % 2], LOSSES[m // 2], updates)
    for m, model in enumerate(plain):
        for net, plain_net in zip((G, D), model):
            for ours, theirs in zip(net.parameters(), plain_net.parameters()):
                both = [(ours, theirs), (ours.grad, theirs.grad)]
                for x, y in ((x[m].flatten(), y.mT.flatten() if y.ndim == 2 else y) for x, y in both):
                    assert torch.allclose(x, y, rtol=1e-9, atol=1e-13)


def test_updates_differ():
    weights = []
    for updates in ("simultaneous", "alternating"):
        G, D, opt_g, opt_d = networks(range(1), ["ls"])
        for real, z in batches(range(1), 2):
            gm.train_step(G, D, opt_g, opt_d, real, z, ["ls"], updates)
        weights.append(G[2].weight)
    assert not torch.allclose(*weights, rtol=0, atol=1e-6)


def test_losses_returned_are_those_of_each_model():
    G, D, opt_g, opt_d = networks(range(2), LOSSES)
    real, z = next(batches(range(2), 1))
    d_real, d_fake = D(real.repeat(3, 1, 1)), D(G(z.repeat(3, 1, 1)))  # [losses * seeds, B]
    losses = gm.train_step(G, D, opt_g, opt_d, real, z, LOSSES)
    for model, values in enumerate(losses.tolist()):
        loss = LOSSES[model // 2]
        one = both_losses(d_real[model : model + 1], d_fake[model : model + 1], loss)
        assert values == pytest.approx(one)


def test_seed_alone_equals_the_seed_among_others():
    found = []
    for seeds in (range(4, 5), range(17)):
        G, D, opt_g, opt_d = networks(seeds, ["ls"])
        for real, z in batches(seeds, 200, n=8):
            gm.train_step(G, D, opt_g, opt_d, real, z, ["ls"])
        found.append([p[seeds.index(4)] for net in (G, D) for p in net.parameters()])
    for alone, among in zip(*found):
        assert (alone - among).abs().max() < 1e-10


def test_batch_depends_on_seed_and_step_alone():
    whole = list(gm.draw_batches(range(3), 0, 25, 8, TARGET, batch=4))  # views of one buffer: compare at once
    for start in (0, 7, 10):
        for step, parts in enumerate(gm.draw_batches(range(2, 3), start, 25, 8, TARGET, batch=4), start):
            again = next(gm.draw_batches(range(3), step, step + 1, 8, TARGET, batch=4))
            assert all(torch.equal(part[0], other[2]) for part, other in zip(parts, again))
    assert len(whole) == 25


def test_batches_have_the_right_distribution():
    real, z = next(gm.draw_batches(range(1), 0, 1, 2, TARGET, batch=100_000))
    assert abs(z.mean()) < 0.01 and abs(z.std() - 1) < 0.01
    distance, mode = torch.cdist(real[0], TARGET.centres).min(1)
    assert torch.allclose(mode.bincount() / 100_000, TARGET.weights, atol=0.005)
    assert distance.square().mean().sqrt().item() == pytest.approx(0.01 * math.sqrt(2), rel=0.01)


def test_samples_are_the_same_at_every_call_and_differ_between_seeds():
    G = networks(range(2), ["ls", "sigmoid"])[0].float()
    points = generate(G, range(2), n=10)
    assert points.shape == (2, 2, 10, 2) and torch.equal(points, generate(G, range(2), n=10))
    for weight in G.parameters():
        weight.data[:] = weight.data[0].clone()
    assert not torch.allclose(*generate(G, range(2), n=10)[0])


# ---------------------------------------------------------------- measures
def real_points(n):
    return gm.sample_mixture(TARGET, n, torch.Generator().manual_seed(0))


def test_true_samples_score_the_ceiling():
    modes, share, basins, divergence = gm.measure(real_points(250_000), TARGET).tolist()
    assert (modes, basins) == (8, 8)
    assert share == pytest.approx(1 - math.exp(-4.5), abs=1e-3)  # 98.9%
    assert divergence < 1e-3
    assert gm.measure(real_points(2500), TARGET)[[0, 2]].tolist() == [8, 8]


def test_generator_stuck_on_one_mode_scores_one():
    points = TARGET.centres[3] + 0.01 * torch.randn(2500, 2, generator=torch.Generator().manual_seed(0))
    modes, share, basins, divergence = gm.measure(points, TARGET).tolist()
    assert (modes, basins) == (1, 1) and share > 0.98
    assert divergence == pytest.approx(math.log(9))
    points = TARGET.centres[0].expand(2500, 2)
    assert gm.measure(points, TARGET).tolist() == pytest.approx([1, 1, 1, math.log(9 / 2)])


def test_ring_has_all_basins_and_few_points_of_high_quality():
    angles = torch.linspace(0, 2 * math.pi, 2500)
    ring = torch.stack([angles.sin(), angles.cos()], 1)
    modes, share, basins, divergence = gm.measure(ring, TARGET).tolist()
    assert basins == 8 and share == pytest.approx(8 * 0.06 / (2 * math.pi), abs=0.01)
    assert divergence == pytest.approx(
        sum(math.log(1 / 8 / w) / 8 for w in TARGET.weights.tolist()), abs=1e-3
    )


def test_a_mode_needs_20_points_of_2500():
    rest = torch.zeros(2500, 2)  # in the middle, in no basin
    for n, covered in ((19, 0), (20, 1)):
        points = rest.clone()
        points[:n] = TARGET.centres[5] + torch.tensor([0.0, 0.029])
        assert gm.measure(points, TARGET)[[0, 2]].tolist() == [covered, covered]
        points[:n] = TARGET.centres[5] + torch.tensor([0.0, 0.031])
        assert gm.measure(points, TARGET)[[0, 2]].tolist() == [0, covered]


def test_basins_reach_half_way_to_the_next_mode():
    half = math.sin(math.pi / 8)
    for factor, basins in ((0.99, 1), (1.01, 0)):
        points = TARGET.centres[0] * (1 + factor * half) * torch.ones(2500, 1)
        assert gm.measure(points, TARGET)[2] == basins


def test_measures_are_taken_of_each_model():
    points = torch.stack([real_points(2500), torch.zeros(2500, 2)]).view(2, 1, 2500, 2)
    together = gm.measure(points, TARGET)
    assert together.shape == (2, 1, 4)
    assert torch.equal(together[1, 0], gm.measure(points[1, 0], TARGET))


def test_untrained_generator_has_every_basin_and_no_mode():
    """Why the strict counts lead: basins alone say nothing of what was learned."""
    G = networks(range(5), ["ls"])[0].float()
    modes, share, basins, _ = gm.measure(generate(G, range(5))[0, :, :2500], TARGET).T
    assert basins.tolist() == [8] * 5
    assert modes.tolist() == [0] * 5 and share.max() < 0.01


def test_results_and_table(tmp_path):
    values = torch.zeros(2, 10, 6)
    ls = dict(zip(gm.MEASURES, values[0].T))
    ls["modes"][:5], ls["basins"][:], ls["share"][:] = 8, 8, torch.linspace(0, 0.9, 10)
    losses, seeds = ["ls", "sigmoid"], range(3, 13)
    gm.write_results(tmp_path / "results.csv", losses, seeds, {500: values, 1000: values})
    results = (tmp_path / "results.csv").read_text().splitlines()
    assert results[0] == "step,loss,seed,d_loss,g_loss,modes,share,basins,divergence"
    assert results[1] == "500,ls,3,0,0,8,0,8,0" and results[20] == "500,sigmoid,12,0,0,0,0,0,0"
    assert results[21] == "1000,ls,3,0,0,8,0,8,0" and len(results) == 41

    gm.write_table(tmp_path / "table.md", losses, seeds, 500, values)
    caption, _, table = (tmp_path / "table.md").read_text().partition("\n\n")
    assert caption.startswith("Step 500, seeds 3 to 12.") and "untrained" in caption
    head, rule, ls, sigmoid = [line.strip("| ").split(" | ") for line in table.splitlines()]
    assert rule == ["---|" * 7 + "---"] and len(head) == len(ls) == 8
    assert head[-1] == "KL to the mixture's weights, nats"
    assert head[1:4] == ["all 8 modes hit", "modes hit", "share of points within 3 std"]  # strict counts lead
    assert ls[:4] == ["ls", "5/10 (24% to 76%)", "4 (0 to 8)", "0.45 (0 to 0.9)"]
    assert ls[4:7] == ["10/10 (72% to 100%)", "0/10 (0% to 28%)", "8 (8 to 8)"]  # as statsmodels has them
    assert sigmoid[:2] == ["sigmoid", "0/10 (0% to 28%)"]
    assert sigmoid[4:6] == ["0/10 (0% to 28%)", "10/10 (72% to 100%)"]


# ---------------------------------------------------------------- figures
def green(picture, row, column, rows, columns):
    """How dark a panel of a figure is, between 0 and 1."""
    height, width = picture.shape[0] // rows, picture.shape[1] // columns
    panel = picture[row * height : (row + 1) * height, column * width : (column + 1) * width]
    return 1 - panel[height // 4 :, width // 4 :, 0].mean()


def test_figure_has_the_regular_gan_above_lsgan(tmp_path):
    spread, point = torch.randn(2000, 2), 0.01 * torch.randn(2000, 2)
    points = torch.stack([point, spread])  # [losses, n, 2]
    gm.draw_figure8(tmp_path / "figure.png", ["ls", "sigmoid"], {0: points, "target": points}, radius=1.0)
    picture = imread(tmp_path / "figure.png")
    for kind in (0, 1):  # the kernel estimate, the points themselves
        assert green(picture, kind, 0, 4, 2) > 2 * green(picture, 2 + kind, 0, 4, 2)


def test_the_kernel_estimate_hides_whether_points_lie_on_modes():
    """A ring and eight modes look much alike in it; so Figure 8 shows the points, too."""
    angles = 2 * math.pi * torch.rand(2500, generator=torch.Generator().manual_seed(0))
    ring = torch.stack([angles.sin(), angles.cos()], 1)
    target = gm.make_mixture(doubled=False)
    modes = gm.sample_mixture(target, 2500, torch.Generator().manual_seed(0))
    grid = torch.linspace(-4, 4, 50)
    assert F.cosine_similarity(*(gm.density(xy, grid).flatten() for xy in (ring, modes)), 0) > 0.9


def test_density_shows_a_cloud_that_lies_between_the_points_of_the_grid():
    """A generator that has collapsed onto one mode, or beside it, is a spot, not nothing."""
    grid = torch.linspace(-4, 4, 200)
    noise = torch.randn(2500, 2, generator=torch.Generator().manual_seed(0))
    cloud = torch.tensor([0.313, 0.777]) + 1e-3 * noise
    shown = gm.density(cloud, grid)
    assert 4 < (shown > shown.max() / 10).sum() < 40
    y, x = divmod(int(shown.argmax()), 200)
    assert abs(grid[x] - 0.313) < 0.04 and abs(grid[y] - 0.777) < 0.04


def test_figures_of_a_run(run, tmp_path):
    code, out, err = run("--steps", 4, "--seed", 3, "--out", tmp_path / "run")
    assert code == 0, err
    names = {"figure8.png", "curves.png", "table.md", "results.csv", "last.pt", "args.json"}
    assert {path.name for path in (tmp_path / "run").iterdir()} - {".lock"} == names
    assert "\n| sigmoid | 0/2" in out


@pytest.fixture(scope="module")
def figure1(tmp_path_factory):
    """Figure 1's folder and its numbers."""
    folder = tmp_path_factory.mktemp("figure1")
    with matplotlib.rc_context({"savefig.format": "pdf"}):
        return folder, gm.figure1(gm.parse_args(["--figure", "1", "--out", str(folder / "new")]))


def test_figure_1_far_fakes_stay_with_cross_entropy_and_turn_back_with_least_squares(figure1):
    """The claim of Figure 1. All steps relative to those of near fakes, as Adam does not see their scale."""
    for forms in figure1[1].values():
        cross_entropy, least_squares = forms["sigmoid, non-saturating"], forms["least squares (Eq. 2)"]
        assert cross_entropy["far / near"] < 1e-4
        assert least_squares["far / near"] > 100 * cross_entropy["far / near"]
        assert least_squares["towards real"] == 1
    linear, deep = (forms["least squares (Eq. 2)"]["far / near"] for forms in figure1[1].values())
    assert deep < 0.5 < 1 < linear  # with a deeper D, far fakes move back much less than near ones
    assert (figure1[0] / "new/figure1.png").stat().st_size < 120_000


def test_every_figure_is_a_png_whatever_the_users_matplotlibrc_says(run, call, figure1):
    with matplotlib.rc_context({"savefig.format": "pdf"}):
        assert run("--steps", 1, "--out", "run")[0] == call(gm.main, "--figure", 2, "--out", "run")[0] == 0
    paths = [
        figure1[0] / "new/figure1.png",
        *(Path("run", name) for name in ("curves.png", "figure8.png", "figure2.png")),
    ]
    assert all(path.read_bytes().startswith(b"\x89PNG") for path in paths)


def test_figure_1_saturating_form_drives_far_fakes_away(figure1):
    """Equation 1 as it stands does not vanish there: it saturates on the other side of the boundary."""
    for forms in figure1[1].values():
        assert forms["sigmoid, saturating (Eq. 1)"]["far / near"] > 1
        assert forms["sigmoid, saturating (Eq. 1)"]["towards real"] == 0


def test_figure_1_arrows_are_the_steps_of_single_samples():
    D = nn.Sequential(gm.BatchedLinear(1, 2, 1), nn.Flatten(1))
    D[0].weight.data[:] = torch.tensor([[2.0], [0.0]])  # D(x) = 2 x_0
    points = torch.tensor([[3.0, 1.0], [0.25, 0.0], [0.5, -1.0]])
    steps = gm.arrows(D, points, gm.GENERATOR_LOSSES["least squares (Eq. 2)"][1])
    assert steps.tolist() == [[-10, 0], [1, 0], [0, 0]]  # -(D(x) - 1) * 2
    steps = gm.arrows(D, points, gm.GENERATOR_LOSSES["sigmoid, non-saturating"][1])
    assert torch.allclose(steps[:, 0], 2 * torch.sigmoid(-2 * points[:, 0]))
    steps = gm.arrows(D, points, gm.GENERATOR_LOSSES["sigmoid, saturating (Eq. 1)"][1])
    assert torch.allclose(steps[:, 0], 2 * torch.sigmoid(2 * points[:, 0]))


def test_figure_1_draws_each_step_in_its_direction(tmp_path, monkeypatch):
    drawn = []
    monkeypatch.setattr(Axes, "quiver", lambda axes, x, y, u, v, **style: drawn.append((x, u)))
    D = nn.Sequential(gm.BatchedLinear(1, 2, 1), nn.Flatten(1))
    D[0].weight.data[:] = torch.tensor([[1.0], [0.0]])  # D(x) = x_0: least squares draws all to x_0 = 1
    clouds = {name: gm.draw_cloud(name, 20, torch.Generator().manual_seed(0)) for name in gm.CLOUD_CENTRES}
    numbers = gm.figure1_numbers({"ls": D, "sigmoid": D}, clouds["near"], clouds["far"])
    gm.draw_figure1(tmp_path / "figure1.png", {"ls": D, "sigmoid": D}, clouds, numbers)
    x, step = map(torch.cat, zip(*drawn[-2:]))  # of the last panel: least squares, near and far
    assert torch.equal(step > 0, x < 1)
    assert "turn back" in gm.in_words(numbers["least squares (Eq. 2)"])
    assert "stay" in gm.in_words({"far / near": 0.001, "towards real": 0.0})
    assert "away" in gm.in_words({"far / near": 2.0, "towards real": 0.0})


def test_figure_of_curves_has_the_median_and_the_middle_half(tmp_path, monkeypatch):
    bands = []
    monkeypatch.setattr(Axes, "fill_between", lambda axes, x, low, high, **style: bands.append((low, high)))
    seeds = torch.arange(5.0)[:, None].expand(-1, len(gm.MEASURES))  # every measure is 0, 1, 2, 3, 4
    gm.draw_curves(tmp_path / "curves.png", ["ls"], {0: seeds[None], 500: seeds[None]})
    assert len(bands) == 4
    assert all(low.tolist() == [1, 1] and high.tolist() == [3, 3] for low, high in bands)


def test_figure_2_least_squares_is_flat_at_one_point_cross_entropy_for_all_large_answers(tmp_path):
    answers = torch.linspace(-10, 10, 201)
    for name in ("sigmoid", "ls"):
        values = [g_loss(answers).mean() for loss, g_loss in gm.GENERATOR_LOSSES.values() if loss == name]
        assert torch.allclose(values[0], gm.generator_loss(answers, name))  # the loss that training uses
    flat = {}
    for form, (_, g_loss) in gm.GENERATOR_LOSSES.items():
        values, slopes = gm.loss_curve(answers, g_loss)
        assert torch.allclose(values.diff() / 0.1, (slopes[1:] + slopes[:-1]) / 2, atol=0.01)
        flat[form] = answers[slopes.abs() < 0.01].tolist()
    assert flat["least squares (Eq. 2)"] == pytest.approx([1.0], abs=1e-5)
    assert min(flat["sigmoid, non-saturating"]) < 5 and max(flat["sigmoid, non-saturating"]) == 10
    assert min(flat["sigmoid, saturating (Eq. 1)"]) == -10 and max(flat["sigmoid, saturating (Eq. 1)"]) > -5


def test_figure_2_is_drawn(call, finished, tmp_path):
    assert call(gm.main, "--figure", 2)[0] == call(gm.main, "--figure", 2)[0] == 0  # again over the old one
    assert imread(tmp_path / "runs/gaussian_mixture-figure2/figure2.png").std() > 0
    result = call(gm.main, "--figure", 2, "--resume", finished / "last.pt")
    assert refused(gm, result, "--figure 2", "--resume")
    (tmp_path / "file").write_text("mine")
    assert refused(gm, call(gm.main, "--figure", 2, "--out", "file/new"), "file/new")


# ---------------------------------------------------------------- runs
@pytest.mark.parametrize("updates", ["simultaneous", "alternating"])
def test_flags_of_the_mixture_reach_the_training(run, monkeypatch, updates):
    seen = {}
    train_step, draw_batches, set_arithmetic = gm.train_step, gm.draw_batches, runs.set_arithmetic

    def noted_step(*args, **settings):
        seen.update(settings)
        return train_step(*args, **settings)

    def noted_batches(seeds, start, steps, z_dim, target):
        seen.update(target=target)
        return draw_batches(seeds, start, steps, z_dim, target)

    monkeypatch.setattr(gm, "train_step", noted_step)
    monkeypatch.setattr(gm, "draw_batches", noted_batches)
    monkeypatch.setattr(runs, "set_arithmetic", lambda tf32: seen.update(tf32=tf32) or set_arithmetic(tf32))
    flags = "--radius 2 --std 0.1 --no-doubled-mode --steps 1 --updates".split()
    assert run(*flags, updates)[0] == 0
    assert (seen["updates"], seen["losses"], seen["tf32"]) == (updates, ["ls", "sigmoid"], False)
    expected = gm.make_mixture(2.0, 0.1, False)
    assert all(map(np.array_equal, seen["target"], expected))


def state(folder):
    return torch.load(folder / "last.pt", weights_only=True)


def same_run(folder, other):
    files = ("results.csv", "table.md")
    texts = [[(f / name).read_text() for name in files] for f in (folder, other)]
    return texts[0] == texts[1] and same(state(folder), state(other))


def test_results_have_a_row_for_each_loss_and_seed(run, tmp_path):
    assert run("--steps", 5, "--seed", 7, "--out", tmp_path / "run")[0] == 0
    results = [line.split(",") for line in (tmp_path / "run/results.csv").read_text().splitlines()]
    assert results[0] == ["step", "loss", "seed", *gm.MEASURES]
    rows = [[step, k, s] for step in "245" for k in ("ls", "sigmoid") for s in "78"]
    assert [row[:3] for row in results[1:]] == rows
    log = state(tmp_path / "run")["log"]
    assert list(log["measures"]) == [2, 4, 5] and list(log["points"]) == [0, 5]
    last = [[f"{v:.6g}" for v in row] for row in log["measures"][5].flatten(0, 1).tolist()]
    assert last == [row[3:] for row in results[-4:]]


@pytest.mark.parametrize("where, n", [("train_step", 6), ("fsync", 3), ("replace", 6), ("train_step", 13)])
def test_resumed_equals_uninterrupted(run, tmp_path, monkeypatch, where, n):
    flags = "--steps", 14, "--measure-every", 3
    assert run(*flags, "--out", tmp_path / "whole")[0] == 0
    with monkeypatch.context() as patch, pytest.raises(Killed):
        at_call(patch, gm if where == "train_step" else os, where, n, die)
        run(*flags, "--out", tmp_path / "run")
    assert state(tmp_path / "run")["step"] < 14
    assert run(*flags, "--out", tmp_path / "run", "--resume")[0] == 0
    assert same_run(tmp_path / "run", tmp_path / "whole")
    assert not list(tmp_path.rglob("*.tmp"))


def child(flags, output):
    """The script's command line in a process of its own, which prints to the file `output`."""
    with open(output, "w") as file:
        os.dup2(file.fileno(), 1)
    gm.main([str(flag) for flag in flags])


@pytest.mark.parametrize("seed", [0, *(pytest.param(k, marks=pytest.mark.slow) for k in range(1, 12))])
def test_killed_at_a_random_moment(run, tmp_path, monkeypatch, seed):
    monkeypatch.setattr(gm, "generate", generate)  # as many points as in the other process
    moment, output = random.Random(seed), tmp_path / "out.txt"
    victim = SERVER.Process(target=child, args=([*TINY, "--out", tmp_path / "killed"], output))
    victim.start()
    wait_for(f"step {2 * moment.randint(1, 6)} ", output, victim)
    time.sleep(moment.uniform(0, 0.1))
    victim.kill()
    assert finish(victim) == [-signal.SIGKILL]
    flags = "--steps", state(tmp_path / "killed")["step"] + 6, "--out"
    assert run(*flags, tmp_path / "killed", "--resume")[0] == run(*flags, tmp_path / "whole")[0] == 0
    assert same_run(tmp_path / "killed", tmp_path / "whole")


def test_run_killed_before_its_first_checkpoint_can_be_repeated(run, tmp_path, monkeypatch):
    with monkeypatch.context() as patch, pytest.raises(Killed):
        at_call(patch, os, "replace", 1, die)
        run("--steps", 1, "--out", tmp_path / "run")
    assert run("--steps", 1, "--out", tmp_path / "run")[0] == 0


@pytest.mark.parametrize("number, code", [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_signal_saves_and_stops(run, tmp_path, monkeypatch, number, code):
    flags = "--steps", 7, "--measure-every", 5, "--out"
    handlers = signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)
    with monkeypatch.context() as patch:
        at_call(patch, gm, "train_step", 3, lambda: os.kill(os.getpid(), number))
        result = run(*flags, tmp_path / "run")
    assert result[0] == code and not result[2]
    assert state(tmp_path / "run")["step"] == 3
    result = run("--steps", 3, "--out", tmp_path / "run", "--resume")
    assert refused(gm, result, "--steps must be more than 3")
    assert handlers == (signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM))
    assert run(*flags, tmp_path / "whole")[0] == run(*flags, tmp_path / "run", "--resume")[0] == 0
    assert same_run(tmp_path / "run", tmp_path / "whole")


def test_a_signal_that_comes_late_in_a_step_saves_no_broken_weights(run, tmp_path, monkeypatch):
    def stop_and_generate(*args):
        if G:
            os.kill(os.getpid(), signal.SIGINT)
        return generate(*args)

    def break_weights(net, *args, **settings):
        losses = train_step(net, *args, **settings)
        G.append(net)
        with torch.no_grad():
            next(net.parameters()).fill_(float("nan"))
        return losses

    G, generate, train_step = [], gm.generate, gm.train_step
    monkeypatch.setattr(gm, "SNAPSHOT_EVERY", 1)  # steps 1, 2, ... call generate and are not measured
    monkeypatch.setattr(gm, "generate", stop_and_generate)
    monkeypatch.setattr(gm, "train_step", break_weights)
    assert run("--steps", 7, "--measure-every", 5, "--out", tmp_path / "run")[0] == 1
    saved = state(tmp_path / "run")
    assert saved["step"] == 0 and all(value.isfinite().all() for value in saved["G"].values())


def test_more_steps_extend_a_finished_run(run, call, tmp_path):
    assert run("--steps", 6, "--out", tmp_path / "whole")[0] == 0
    assert run("--steps", 4, "--out", tmp_path / "run")[0] == 0
    resume = gm.main, "--resume", tmp_path / "run/last.pt", "--gpu", -1, "--steps"
    assert refused(gm, call(*resume, 3), "--steps must be more than 4")
    assert call(*resume, 6)[0] == 0
    for name in ("G", "D", "opt_g", "opt_d"):
        assert same(state(tmp_path / "run")[name], state(tmp_path / "whole")[name])
    assert (tmp_path / "run/results.csv").read_text() == (tmp_path / "whole/results.csv").read_text()
    assert same(state(tmp_path / "run")["log"]["measures"], state(tmp_path / "whole")["log"]["measures"])


def test_checkpoint_goes_on_elsewhere(run, tmp_path):
    assert run("--steps", 2, "--out", tmp_path / "old")[0] == 0
    before = contents(tmp_path / "old")
    answer = run("--steps", 4, "--resume", tmp_path / "old/last.pt", "--out", tmp_path / "new")
    assert answer[0] == 0 and state(tmp_path / "new")["step"] == 4
    assert contents(tmp_path / "old") == before


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """A finished run that the tests only read."""
    folder = tmp_path_factory.mktemp("finished") / "run"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(gm, "draw_curves", lambda *args: None)
        patch.setattr(gm, "draw_figure8", lambda *args: None)
        gm.main([*TINY, "--steps", "1", "--out", str(folder)])
    return folder


@pytest.mark.parametrize(
    "change",
    [
        "--losses ls",
        "--losses sigmoid,ls",
        "--seed 1",
        "--seeds 3",
        "--z-dim 8",
        "--radius 2",
        "--std 0.1",
        "--no-doubled-mode",
    ],
)
def test_resume_cannot_change_the_models_or_the_mixture(call, finished, change):
    before = contents(finished)
    answer = call(gm.main, "--resume", finished / "last.pt", "--gpu", -1, "--steps", 2, *change.split())
    assert refused(gm, answer, change.split()[0].replace("--no-", "--"), "cannot change")
    assert contents(finished) == before


def test_resume_with_a_given_flag_goes_on_with_it_and_says_so(run, call, finished, tmp_path):
    resume = gm.main, "--resume", finished / "last.pt", "--gpu", -1, "--out", tmp_path / "new", "--steps", 2
    changes = "--updates alternating --lr-d 0 --lr-g 0 --beta1 0.9"
    code, out, err = call(*resume, *changes.split())
    assert code == 0, err
    for line in ("--lr-g 0.0, was 0.001", "--updates alternating, was simultaneous"):
        assert line + "\n" in out
    assert "--seeds" not in out and "--losses" not in out
    assert same(state(tmp_path / "new")["G"], state(finished)["G"])  # the rate that is given, 0, is in force
    assert state(tmp_path / "new")["args"]["updates"] == "alternating"


def test_a_checkpoint_with_arguments_that_are_no_more_resumes(call, finished, tmp_path):
    old = state(finished)
    torch.save({**old, "args": {**old["args"], "layout": "ring", "modes": 8}}, tmp_path / "old.pt")
    assert call(gm.main, "--resume", tmp_path / "old.pt", "--gpu", -1, "--steps", 2, "--out", "new")[0] == 0
    assert state(Path("new"))["step"] == 2


def test_run_directory_in_use(run, finished, tmp_path):
    (tmp_path / "notes").mkdir()
    (tmp_path / "notes/mine.txt").write_text("mine")
    before = contents(tmp_path), contents(finished)
    assert refused(gm, run("--steps", 1, "--out", finished), str(finished), "--resume")
    assert refused(gm, run("--steps", 1, "--out", tmp_path / "notes"), "notes", "--out")
    assert refused(gm, run("--resume", finished / "last.pt", "--out", tmp_path / "notes"), "notes")
    assert (contents(tmp_path), contents(finished)) == before
    assert not (tmp_path / "notes/.lock").exists()


def test_default_run_directory(run, tmp_path):
    assert run("--steps", 1, "--seed", 3)[0] == 0
    assert [path.name for path in Path("runs").iterdir()] == ["gaussian_mixture-ring-ls,sigmoid-seed3"]
    assert run("--steps", 2, "--seed", 3, "--resume")[0] == 0


BAD = "--radius 0|--std 0|--std nan|--lr-g -1|--seeds 0|--steps 0|--measure-every 0|--z-dim 0"
BAD += "|--seed -1|--losses ls,mse|--losses ls,|--updates both|--steps many|--step 3"
BAD += "|--gpu 99|--gpu -2|--beta1 1|--beta1 nan|extra|--radius 1e38|--std inf|--std 1e7"
BAD += "|--std 1e-6|--losses ls,ls|--figure 3|--out |--resume "


@pytest.mark.parametrize("flags", BAD.split("|"))
def test_bad_flags(run, tmp_path, flags):
    assert refused(gm, run(*flags.split(" ")), flags.split()[0].lstrip("-").split("-")[-1])
    assert not list(tmp_path.iterdir())


class Evil:
    def __reduce__(self):
        return open, ("stolen", "w")


def damage(path, how, finished):
    whole = (finished / "last.pt").read_bytes()
    if how == "another script's":
        whole = torch.load(finished / "last.pt", weights_only=True)
        torch.save({**whole, "args": {"data": "rooms", "size": 112}, "log": ["step,d_loss\n"]}, path)
    elif how == "malicious":
        with zipfile.ZipFile(path, "w") as file:
            file.writestr("archive/data.pkl", pickle.dumps(Evil()))
            file.writestr("archive/version", "3")
    else:
        bad = {"truncated": whole[: len(whole) // 2], "empty": b"", "random": os.urandom(5000)}
        path.write_bytes(bad[how])


@pytest.mark.parametrize("how", ["another script's", "malicious", "truncated", "empty", "random"])
def test_bad_checkpoint(run, tmp_path, finished, how):
    (tmp_path / "run").mkdir()
    damage(tmp_path / "run/last.pt", how, finished)
    before = contents(tmp_path)
    assert refused(gm, run("--resume", tmp_path / "run/last.pt"), "run/last.pt")
    assert contents(tmp_path) == before


def test_missing_checkpoint(run, tmp_path):
    assert refused(gm, run("--resume", tmp_path / "none.pt"), "there is no checkpoint", "none.pt")
    assert refused(gm, run("--resume"), "runs/gaussian_mixture-ring-ls,sigmoid-seed0/last.pt")


def test_output_that_cannot_be_written(run, tmp_path):
    (tmp_path / "file").write_text("mine")
    assert refused(gm, run("--steps", 1, "--out", tmp_path / "file/run"), "file/run")
    assert (tmp_path / "file").read_text() == "mine"


def test_disk_full_while_saving(run, tmp_path, monkeypatch):
    def full():
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        at_call(patch, os, "fsync", 4, full)
        assert refused(gm, run("--steps", 8, "--out", tmp_path / "run"), "No space left")
    assert state(tmp_path / "run")["step"] == 2
    assert run("--steps", 8, "--out", tmp_path / "run", "--resume")[0] == 0


def test_not_finite(run, tmp_path):
    code, _, err = run("--steps", 6, "--lr-g", "1e38", "--lr-d", "1e38", "--out", tmp_path / "run")
    assert code == 1 and "step 2" in err and "last.pt" in err
    assert state(tmp_path / "run")["step"] == 0


def test_nothing_uses_global_generators(run, tmp_path):
    states = torch.get_rng_state(), np.random.get_state()[1].copy()
    assert run("--steps", 2, "--out", tmp_path / "run")[0] == 0
    assert torch.equal(states[0], torch.get_rng_state()) and (states[1] == np.random.get_state()[1]).all()


def test_graph_needs_a_gpu(run, tmp_path):
    result = run("--steps", 1, "--gpu", -1, "--graph", "--out", tmp_path / "run")
    assert refused(gm, result, "--graph needs a GPU")
    assert not (tmp_path / "run").exists()


def test_a_network_without_init_weights_is_not_silently_dead():
    """All zeros would never train: tanh(0) = 0 passes no gradient to a weight."""
    assert gm.Generator(2, 4)(torch.ones(2, 3, 4)).isnan().all()


def test_an_order_of_updates_that_does_not_exist():
    nets = [None] * 4  # refused before they are looked at
    with pytest.raises(ValueError, match="simultaneous or alternating"):
        gm.train_step(*nets, torch.zeros(1, 2, 2), torch.zeros(1, 2, 4), updates="alternate")
