"""LSGAN in two dimensions: the gradients of the losses (Figures 1 and 2), and eight Gaussians (Figure 8).

    python gaussian_mixture.py --figure 1      # what each loss does with fakes far beyond the real points
    python gaussian_mixture.py --figure 2      # the losses as curves
    python gaussian_mixture.py --seeds 2 --steps 5000 --out runs/look   # a first look at Figure 8, minutes
    python gaussian_mixture.py                 # Figure 8, ten seeds; an hour or two on one core
    python gaussian_mixture.py --resume        # go on where it stopped, or just draw again

Figure 1 takes half a minute, Figure 2 a second. Figure 8 comes with counts: table.md, results.csv and
curves.png beside figure8.png. All losses and seeds train side by side as one batched network, each as it
would alone, up to rounding. If any model becomes non-finite, the whole run stops.

Differences from the authors' code: losses are means over the batch (theirs are sums, except D's cross
entropy; a constant factor hardly matters to Adam). Their two updates run without a fixed order; --updates
chooses one. Their code stops at 35,000 steps. Everything random is seeded.
"""

import json
from argparse import BooleanOptionalAction, Namespace
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from torch import Tensor, nn
from tqdm import tqdm

from data import DataError, make_parser, one_line_errors, runs
from data.runs import at_least, below_one, between, not_empty, some_of

MODES = 8
BATCH = 512  # points a step, the authors'
CHUNK = 10  # steps whose data are drawn at once: fewer launches on a GPU
MEASURED = 2500  # points of a model for measure()
DRAWN = 5120  # points of a panel of Figure 8
MIN_POINTS = 20  # a mode is hit if this many of MEASURED points lie on it
SNAPSHOT_EVERY = 5000  # steps between the columns of Figure 8, as in the authors' code
MEASURES = ["d_loss", "g_loss", "modes", "share", "basins", "divergence"]  # the last four: see measure()
FIXED = ("losses", "seed", "seeds", "z_dim", "radius", "std", "doubled_mode")  # --resume may not change them
COLOURS = {"ls": "tab:red", "ls-110": "tab:purple", "sigmoid": "tab:blue"}
INIT_G, INIT_D, BATCHES, EVALUATION, FIGURE1, TARGET = range(6)  # independent streams of random numbers


# ---------------------------------------------------------------- settings
def parse_args(argv: list[str] | None = None) -> Namespace:
    """Parses argv, by default sys.argv[1:]. With --resume the checkpoint gives the defaults."""
    parser = make_parser(Path(__file__).name, "LSGAN in two dimensions (Figures 1, 2 and 8)")
    add = parser.add_argument
    add("--figure", type=int, choices=[1, 2, 8], default=8, help="of the paper; 8 trains GANs")
    add = parser.add_argument_group("data").add_argument
    add("--radius", type=between(1e-6, 1e6, float), default=1.0, help="of the ring of modes")
    add("--std", type=between(1e-6, 1e6, float), default=0.01, help="standard deviation of a mode")
    add("--doubled-mode", action=BooleanOptionalAction, default=True, help="top mode twice as likely")
    add = parser.add_argument_group("model").add_argument
    add("--z-dim", type=at_least(1), default=256, help="dimension of the noise z")
    add = parser.add_argument_group("loss").add_argument
    names = list(LOSSES)
    add("--losses", type=some_of(names), default="ls,sigmoid", help=f"any of {','.join(names)}")
    add = parser.add_argument_group("optimizer").add_argument
    add(
        "--updates",
        choices=["simultaneous", "alternating"],
        default="simultaneous",
        help="order of D's and G's updates",
    )
    add("--lr-d", type=at_least(0, float), default=1e-4, help="Adam's learning rate for D")
    add("--lr-g", type=at_least(0, float), default=1e-3, help="Adam's learning rate for G")
    add("--beta1", type=below_one, default=0.5, help="Adam's first decay rate")
    add("--steps", type=at_least(1), default=40_000, help="number of training steps")
    add = parser.add_argument_group("run").add_argument
    add("--seed", type=at_least(0), default=0, help="random seed")
    add("--seeds", type=at_least(1), default=10, help="train this many seeds, the first of which is --seed")
    add("--gpu", type=int, help="GPU index; -1: the CPU; unset: GPU 0 if there is one")
    add("--graph", action=BooleanOptionalAction, default=False, help="run the step as one CUDA graph")
    add("--out", type=not_empty, help="run directory; unset: one under runs/, or the checkpoint's")
    add("--measure-every", type=at_least(1), default=500, help="steps between measures and saves of last.pt")
    add("--resume", nargs="?", const=True, type=not_empty, metavar="FILE", help="continue last.pt, or FILE")

    def default_out(args: Namespace) -> str:
        if args.figure != 8:
            return f"runs/{Path(__file__).stem}-figure{args.figure}"
        return f"runs/{Path(__file__).stem}-ring-{','.join(args.losses)}-seed{args.seed}"

    args = runs.parse_args(parser, argv, default_out)
    if args.resume and args.figure != 8:
        parser.error(f"--figure {args.figure} trains nothing that --resume could go on with")
    if args.std < 1e-5 * args.radius:
        parser.error("--std must be at least 1e-5 of --radius: float32 would round the modes to a few points")
    return args


# ---------------------------------------------------------------- randomness
def rng(seed: int, stream: int, step: int = 0) -> np.random.Generator:
    """A new generator: randomness is a function of (seed, stream, step), so there is no state to save."""
    # NumPy splits integers of 2**32 or more into two words, and pads short seeds with zeros. Without the 1 at
    # the end [2**32, 5, 0] would be the same seed as [0, 1, 5].
    return np.random.default_rng([seed, stream, step, 1])


def torch_rng(seed: int, stream: int, step: int = 0, device: torch.device | str = "cpu") -> torch.Generator:
    """The same for PyTorch, which draws several times as fast, and on the device."""
    return torch.Generator(device).manual_seed(int(rng(seed, stream, step).integers(2**32)))


# ---------------------------------------------------------------- data
class Mixture(NamedTuple):
    """Gaussians in the plane, of one standard deviation."""

    centres: Tensor  # [modes, 2]
    weights: Tensor  # [modes]: their probabilities
    std: float


def make_mixture(radius=1.0, std=0.01, doubled=True) -> Mixture:
    """A ring of modes; by default the mixture of Figure 8.

    doubled: the top mode is twice as likely as the others, as in the authors' code, where
    linspace(0, 2 pi, 9) meets it at both ends. The paper does not say so.
    """
    weights = torch.ones(MODES)
    if doubled:
        weights[0] = 2
    angles = torch.arange(MODES) * (2 * torch.pi / MODES)
    centres = radius * torch.stack([angles.sin(), angles.cos()], 1)
    return Mixture(centres, weights / weights.sum(), std)


def sample_mixture(target: Mixture, n: int, generator: torch.Generator) -> Tensor:
    """Points [n, 2]. The generator is on the device of the mixture."""
    modes = torch.multinomial(target.weights, n, replacement=True, generator=generator)
    noise = torch.randn(n, 2, generator=generator, device=target.centres.device)
    return target.centres[modes] + target.std * noise


def draw_chunk(seeds: range, chunk: int, z_dim: int, target: Mixture, batch: int) -> tuple[Tensor, Tensor]:
    """Real points [seeds, CHUNK, batch, 2] and normal z [seeds, CHUNK, batch, z_dim] of CHUNK steps.

    chunk: 0 for the first CHUNK steps of a run, 1 for the next, and so on.
    """
    device = target.centres.device
    real = torch.empty(len(seeds), CHUNK, batch, 2, device=device)
    z = torch.empty(len(seeds), CHUNK, batch, z_dim, device=device)
    for s, seed in enumerate(seeds):
        generator = torch_rng(seed, BATCHES, chunk, device)
        real[s] = sample_mixture(target, CHUNK * batch, generator).view(CHUNK, batch, 2)
        z[s].normal_(generator=generator)
    return real, z


def draw_batches(
    seeds: range, start: int, stop: int, z_dim: int, target: Mixture, batch: int = BATCH
) -> Iterator[tuple[Tensor, Tensor]]:
    """Yields real [seeds, batch, 2] and z [seeds, batch, z_dim] for the steps start + 1 ... stop.

    They are functions of seed, step and kind of device, and are drawn on the device of the mixture.
    """
    for done in range(start, stop):  # steps done so far
        if done == start or done % CHUNK == 0:
            real, z = draw_chunk(seeds, done // CHUNK, z_dim, target, batch)
        yield real[:, done % CHUNK], z[:, done % CHUNK]


# ---------------------------------------------------------------- networks
class BatchedLinear(nn.Module):
    """`models` linear layers side by side: x [models, B, n_in] -> [models, B, n_out]."""

    def __init__(self, models: int, n_in: int, n_out: int):
        super().__init__()
        self.weight = nn.Parameter(torch.full((models, n_in, n_out), torch.nan))  # init_weights fills it
        self.bias = nn.Parameter(torch.zeros(models, 1, n_out))

    def forward(self, x: Tensor) -> Tensor:
        return torch.baddbmm(self.bias, x, self.weight)


class Generator(nn.Sequential):
    """z [models, B, z_dim] -> points [models, B, 2]. Authors' code: stability_comparison/mixture_gaussian."""

    def __init__(self, models: int = 1, z_dim: int = 256):
        super().__init__(
            BatchedLinear(models, z_dim, 128),
            nn.Tanh(),
            BatchedLinear(models, 128, 128),
            nn.Tanh(),
            BatchedLinear(models, 128, 2),
        )


class Discriminator(nn.Sequential):
    """Points [models, B, 2] -> D(x) [models, B], any real number. Authors' code: as above."""

    def __init__(self, models: int = 1):
        super().__init__(
            BatchedLinear(models, 2, 128),
            nn.Tanh(),
            BatchedLinear(models, 128, 128),
            nn.Tanh(),
            BatchedLinear(models, 128, 1),  # no sigmoid: least squares regresses onto a and b
            nn.Flatten(1),
        )


def init_weights(net: nn.Module, generators: list[torch.Generator] | None = None) -> None:
    """Orthogonal weights of gain 1.4, as in the authors' code; biases 0.

    generators: one for each model; None: the global one for all.
    """
    for layer in net.modules():
        if isinstance(layer, BatchedLinear):
            models = len(layer.weight)
            for weight, generator in zip(layer.weight.data, generators or [None] * models, strict=True):
                nn.init.orthogonal_(weight, gain=1.4, generator=generator)
            nn.init.zeros_(layer.bias)


# ---------------------------------------------------------------- loss
LOSSES = {  # the labels a, b, c of Eq. 2
    "ls": (0.0, 1.0, 1.0),  # Eq. 9
    "ls-110": (-1.0, 1.0, 0.0),  # Eq. 8
    "sigmoid": None,  # the cross entropy has none
}


def discriminator_loss(d_real: Tensor, d_fake: Tensor, loss: str = "ls") -> Tensor:
    """What D minimizes, [models], from D's outputs [models, B] (logits for the sigmoid loss).

    ls and ls-110: the first line of Eq. 2. sigmoid: Eq. 1, the cross entropy of logits.
    """
    if loss == "sigmoid":
        return F.softplus(-d_real).mean(-1) + F.softplus(d_fake).mean(-1)
    a, b, _ = LOSSES[loss]
    return 0.5 * (d_real - b).square().mean(-1) + 0.5 * (d_fake - a).square().mean(-1)


def generator_loss(d_fake: Tensor, loss: str = "ls") -> Tensor:
    """What G minimizes, [models], from D's outputs [models, B] (logits for the sigmoid loss).

    ls and ls-110: the second line of Eq. 2. sigmoid: the non-saturating -log sigmoid(D(G(z))).
    """
    if loss == "sigmoid":
        return F.softplus(-d_fake).mean(-1)
    _, _, c = LOSSES[loss]
    return 0.5 * (d_fake - c).square().mean(-1)


# ---------------------------------------------------------------- training step
def train_step(G, D, opt_g, opt_d, real, z, losses=("ls",), updates="simultaneous") -> Tensor:
    """Updates all models. Returns d_loss and g_loss of each, [models, 2], on the device.

    G and D hold a model for each loss and seed: first those of the first loss, a model for each seed, and so
    on. real [seeds, B, 2] and z [seeds, B, z_dim] serve every loss. updates: "simultaneous" computes both
    gradients before either step; "alternating" steps D first, so G's gradient is that of the updated D.
    """
    if updates not in ("simultaneous", "alternating"):
        raise ValueError(f"updates must be simultaneous or alternating, not {updates!r}")
    n = len(losses)
    fake = G(z.repeat(n, 1, 1))
    d_real = D(real.repeat(n, 1, 1)).chunk(n)  # [seeds, B] for each loss
    d_fake = D(fake).chunk(n)
    d_loss = torch.cat([discriminator_loss(*outputs) for outputs in zip(d_real, d_fake, losses)])  # [models]
    opt_d.zero_grad()
    # No model's loss depends on another's weights: the gradient of the sum holds that of each. inputs: G gets
    # no gradient of D's loss. retain_graph: simultaneous updates go back through the same D(fake) for G.
    d_loss.sum().backward(inputs=list(D.parameters()), retain_graph=True)
    if updates == "alternating":
        opt_d.step()
        d_fake = D(fake).chunk(n)

    g_loss = torch.cat([generator_loss(*outputs) for outputs in zip(d_fake, losses)])
    opt_g.zero_grad()
    g_loss.sum().backward(inputs=list(G.parameters()))
    if updates == "simultaneous":
        opt_d.step()
    opt_g.step()
    return torch.stack([d_loss, g_loss], -1).detach()


# ---------------------------------------------------------------- samples and measures
@torch.no_grad()
def generate(G: Generator, seeds: range, n: int = DRAWN) -> Tensor:
    """Points [losses, seeds, n, 2], from the same z at every step."""
    models, z_dim, _ = G[0].weight.shape
    device = G[0].weight.device
    z = torch.empty(len(seeds), n, z_dim, device=device)
    for s, seed in enumerate(seeds):
        z[s].normal_(generator=torch_rng(seed, EVALUATION, device=device))
    points = G(z.repeat(models // len(seeds), 1, 1))
    return points.unflatten(0, (-1, len(seeds)))


def points_of_first_seed(G: Generator, seeds: range) -> Tensor:
    """For Figure 8: points [losses, DRAWN, 2], on the CPU."""
    return generate(G, seeds)[:, 0].cpu().clone()  # a view would be saved with the points of all seeds


def measure(points: Tensor, target: Mixture) -> Tensor:
    """Points [..., MEASURED, 2] -> [..., 4], how well they follow the mixture:

    modes: how many modes have at least MIN_POINTS points within 3 std;
    share: the share of points within 3 std of a mode; 0.989 for true ones;
    basins: the same within half the smallest distance between two modes; with the default mixture an
        untrained generator, a blob over everything, has them all;
    divergence: KL(shares of the points by their nearest mode || weights), in nats.
    """
    # By matrix products, cdist's default, a distance may be wrong by 1e-4.
    distances = torch.cdist(points, target.centres, compute_mode="donot_use_mm_for_euclid_dist")
    nearest_distance, nearest = distances.min(-1)
    one_hot = F.one_hot(nearest, len(target.centres)).float()  # [..., n, modes]

    def modes_within(radius) -> Tensor:
        within = nearest_distance <= radius
        points_per_mode = (one_hot * within[..., None]).sum(-2)
        return (points_per_mode >= MIN_POINTS).sum(-1).float()

    modes = modes_within(3 * target.std)
    share = (nearest_distance <= 3 * target.std).float().mean(-1)
    basins = modes_within(F.pdist(target.centres).min() / 2)
    shares = one_hot.mean(-2)
    divergence = torch.xlogy(shares, shares / target.weights).sum(-1)
    return torch.stack([modes, share, basins, divergence], -1)


def spread(values: Tensor) -> str:
    """Mean, minimum and maximum of values [n], as text."""
    return f"{values.mean():.3g} ({values.min():.3g} to {values.max():.3g})"


def write_results(path: Path, losses: list[str], seeds: range, measures: dict[int, Tensor]) -> None:
    """A CSV file from {step: measures [losses, seeds, 6]}: a row for each step, loss and seed."""
    lines = [",".join(["step", "loss", "seed", *MEASURES])]
    for step, values in measures.items():
        for loss, of_loss in zip(losses, values.tolist()):
            for seed, numbers in zip(seeds, of_loss):
                cells = [str(step), loss, str(seed), *(f"{number:.6g}" for number in numbers)]
                lines.append(",".join(cells))
    with runs.write_file(path) as file:
        file.write(("\n".join(lines) + "\n").encode())


def write_table(path: Path, losses: list[str], seeds: range, step: int, values: Tensor) -> None:
    """A table in Markdown of the measures [losses, seeds, 6] at one step."""
    n = len(seeds)
    which = f"seeds {seeds[0]} to {seeds[-1]}" if n > 1 else f"seed {seeds[0]}"
    columns = [
        "loss",
        f"all {MODES} modes hit",
        "modes hit",
        "share of points within 3 std",
        "all basins",
        "one basin or none",
        "basins",
        "KL to the mixture's weights, nats",
    ]
    lines = [
        f"Step {step}, {which}. Counts are of seeds, with 95% Wilson intervals; the rest are means over",
        f"seeds (minimum to maximum). A mode is hit if at least {MIN_POINTS} of {MEASURED:,} points lie",
        f"within 3 standard deviations of it; its basin, if at least {MIN_POINTS} lie within half the",
        "smallest distance between two modes. With the default mixture and z an untrained generator covers",
        "all basins, so basins show what was lost, not what was learned.",
        "",
        f"| {' | '.join(columns)} |",
        "|---" * len(columns) + "|",
    ]
    for loss, of_loss in zip(losses, values):
        column = dict(zip(MEASURES, of_loss.T))
        cells = [
            loss,
            runs.count_text(int((column["modes"] == MODES).sum()), n),
            spread(column["modes"]),
            spread(column["share"]),
            runs.count_text(int((column["basins"] == MODES).sum()), n),
            runs.count_text(int((column["basins"] <= 1).sum()), n),
            spread(column["basins"]),
            spread(column["divergence"]),
        ]
        lines.append(f"| {' | '.join(cells)} |")
    with runs.write_file(path) as file:
        file.write(("\n".join(lines) + "\n").encode())


# ---------------------------------------------------------------- figures
def save_figure(figure: Figure, path: Path, **settings) -> None:
    """Writes a figure as PNG, and makes its folder. settings: those of savefig."""
    runs.make_folder(path.parent)
    with runs.write_file(path) as file:
        figure.savefig(file, format="png", **settings)
    print(f"wrote {path}")


# ---------------------------------------------------------------- Figure 8
def draw_curves(path: Path, losses: list[str], measures: dict[int, Tensor]) -> None:
    """The measures over steps: median of the seeds, the middle half of them shaded."""
    titles = {
        "modes": "modes hit, within 3 std",
        "share": "share of points within 3 std",
        "basins": "basins (untrained: all)",
        "divergence": "divergence",
    }
    figure = Figure(figsize=(12, 2.8), layout="constrained")
    history = torch.stack(list(measures.values()))  # [steps, losses, seeds, measures]
    marker = "." if len(history) == 1 else None  # a line of one point would be invisible
    for axes, (name, title) in zip(figure.subplots(1, 4), titles.items()):
        column = history[..., MEASURES.index(name)]
        for i, loss in enumerate(losses):
            quarter, median, three_quarters = column[:, i].quantile(torch.tensor([0.25, 0.5, 0.75]), dim=1)
            axes.plot(list(measures), median, label=loss, color=COLOURS[loss], marker=marker)
            axes.fill_between(list(measures), quarter, three_quarters, alpha=0.2, color=COLOURS[loss])
        axes.set(xlabel="step", title=title, ylim=(0, None))
    axes.legend()
    save_figure(figure, path)


def density(points: Tensor, grid: Tensor) -> Tensor:
    """Gaussian kernel estimate at (x, y) = (grid[j], grid[i]) -> [i, j], not normalized.

    The kernel's width is Scott's, std * n**(-1/6) along each axis, which for points on several modes is many
    times the width of a mode; but at least the grid's spacing, or points on one mode would fall in between.
    """
    width_x, width_y = (points.std(0) * len(points) ** (-1 / 6)).clamp_min(grid[1] - grid[0])
    kernel_x = torch.exp(-0.5 * ((grid[:, None] - points[:, 0]) / width_x) ** 2)  # [grid, n]
    kernel_y = torch.exp(-0.5 * ((grid[:, None] - points[:, 1]) / width_y) ** 2)
    return kernel_y @ kernel_x.T


def draw_figure8(path: Path, losses: list[str], points: dict[int | str, Tensor], radius: float) -> None:
    """Figure 8 from {step or "target": points [losses, n, 2]} of the first seed, a column for each.

    Two rows for each loss, in reverse order of `losses`, so that by default the regular GAN is on top as in
    the paper: the kernel estimate, and the points themselves, which show what the wide kernel hides. Axes:
    +-4 radii, as the authors', and +-1.6.
    """
    figure = Figure(figsize=(1.2 * len(points), 2.5 * len(losses)), layout="constrained")
    rows = figure.subplots(2 * len(losses), len(points), squeeze=False)
    grid = torch.linspace(-4 * radius, 4 * radius, 200)
    for column, (step, of_step) in enumerate(points.items()):
        for i, loss in enumerate(losses):
            row = 2 * (len(losses) - 1 - i)
            above, below = rows[row, column], rows[row + 1, column]
            above.contourf(grid, grid, density(of_step[i], grid), levels=30, cmap="Greens")
            above.set(ylabel=f"{loss}\ndensity", xlabel=step)
            below.scatter(*of_step[i, :MEASURED].T, s=0.3, color=COLOURS[loss], linewidths=0)
            below.set(ylabel=f"{loss}\npoints, zoomed", xlabel=step)
            below.set(xlim=(-1.6 * radius, 1.6 * radius), ylim=(-1.6 * radius, 1.6 * radius))
    for axes in rows.flat:
        axes.set(xticks=[], yticks=[], aspect="equal")
        axes.label_outer()
    save_figure(figure, path, dpi=120)


# ---------------------------------------------------------------- Figures 1 and 2
# Figure 1: D learns to tell real points from near fakes. Far fakes lie beyond the real points, where D takes
# them for real. D never sees them in training: the figure asks which way G's loss pushes them.
CLOUD_CENTRES = {"real": (0.0, 0.0), "near": (-1.2, -0.6), "far": (3.0, 1.5)}
CLOUD_STD = 0.6

# Three losses of G, each as: the loss that its D is trained with, and G's loss of a fake for which D says d.
GENERATOR_LOSSES = {
    "sigmoid, non-saturating": ("sigmoid", lambda d: F.softplus(-d)),  # -log sigmoid(d)
    "sigmoid, saturating (Eq. 1)": ("sigmoid", lambda d: -F.softplus(d)),  # log(1 - sigmoid(d))
    "least squares (Eq. 2)": ("ls", lambda d: 0.5 * (d - 1) ** 2),
}


def draw_cloud(name: str, n: int, generator: torch.Generator) -> Tensor:
    """Points [n, 2] around the centre of that name."""
    return torch.tensor(CLOUD_CENTRES[name]) + CLOUD_STD * torch.randn(n, 2, generator=generator)


def linear_discriminator() -> nn.Module:
    """Points [1, B, 2] -> D(x) = w.x + bias, [1, B]; its boundary is a straight line."""
    return nn.Sequential(BatchedLinear(1, 2, 1), nn.Flatten(1))


def train_discriminators(make: Callable, lr: float, seed: int) -> dict[str, nn.Module]:
    """A D for each loss, made by `make`, trained for 2,000 steps of 128 real and 128 near points. No G.

    lr, the learning rate, falls to 0.
    """
    steps = 2000
    trained = {}
    for loss in ("ls", "sigmoid"):
        D = make()
        init_weights(D, [torch_rng(seed, INIT_D)])
        optimizer = torch.optim.Adam(D.parameters(), lr)
        schedule = torch.optim.lr_scheduler.LinearLR(
            optimizer, start_factor=1, end_factor=0, total_iters=steps
        )
        generator = torch_rng(seed, FIGURE1, 1)  # both losses see the same points
        for _ in range(steps):
            real = draw_cloud("real", 128, generator)
            near = draw_cloud("near", 128, generator)
            d_loss = discriminator_loss(D(real[None]), D(near[None]), loss)
            optimizer.zero_grad()
            d_loss.backward()
            optimizer.step()
            schedule.step()
        trained[loss] = D
    return trained


def arrows(D: nn.Module, points: Tensor, loss_of_fake: Callable) -> Tensor:
    """Minus the gradient of G's loss at the fakes [n, 2]: where gradient descent would move each."""
    points = points.clone().requires_grad_()
    losses = loss_of_fake(D(points[None])[0])  # [n], one for each point
    (gradient,) = torch.autograd.grad(losses.sum(), points)
    return -gradient


def figure1_numbers(discriminators: dict[str, nn.Module], near: Tensor, far: Tensor) -> dict[str, dict]:
    """For each loss of G: D's mean outputs, mean lengths of arrows, share of far ones towards the data."""
    to_real = torch.tensor(CLOUD_CENTRES["real"]) - far
    numbers = {}
    for title, (loss, loss_of_fake) in GENERATOR_LOSSES.items():
        D = discriminators[loss]
        far_arrows = arrows(D, far, loss_of_fake)
        near_length = arrows(D, near, loss_of_fake).norm(dim=1).mean().item()
        far_length = far_arrows.norm(dim=1).mean().item()
        numbers[title] = {
            "D near": D(near[None]).mean().item(),
            "D far": D(far[None]).mean().item(),
            "arrow near": near_length,
            "arrow far": far_length,
            "far / near": far_length / near_length,
            "towards real": ((far_arrows * to_real).sum(1) > 0).float().mean().item(),
        }
    return numbers


def figure1(args: Namespace) -> dict[str, dict]:
    """Prints Figure 1's numbers and draws figure1.png. Returns {D: {G's loss: {name: number}}}."""
    generator = torch_rng(args.seed, FIGURE1)
    clouds = {name: draw_cloud(name, 500, generator) for name in CLOUD_CENTRES}
    linear = train_discriminators(linear_discriminator, 0.03, args.seed)
    deep = train_discriminators(Discriminator, 0.002, args.seed)
    numbers = {
        "linear D": figure1_numbers(linear, clouds["near"], clouds["far"]),
        "D with two hidden layers": figure1_numbers(deep, clouds["near"], clouds["far"]),
    }
    for name, rows in numbers.items():
        print_table(name, rows)
    draw_figure1(Path(args.out, "figure1.png"), linear, clouds, numbers["linear D"])
    return numbers


def print_table(title: str, rows: dict[str, dict]) -> None:
    """Prints {row: {column: number}}."""
    columns = list(next(iter(rows.values())))
    print(f"{title:28}" + "".join(f"{column:>14}" for column in columns))
    for name, row in rows.items():
        print(f"{name:28}" + "".join(f"{row[column]:14.3g}" for column in columns))
    print()


def draw_figure1(path: Path, discriminators: dict[str, nn.Module], clouds: dict, numbers: dict) -> None:
    """A panel for each loss of G. Each scales its arrows so that those of near fakes average 0.6."""
    figure = Figure(figsize=(12, 3.5), layout="constrained")
    panels = figure.subplots(1, 3)
    for axes, (title, (loss, loss_of_fake)) in zip(panels, GENERATOR_LOSSES.items()):
        D, row = discriminators[loss], numbers[title]
        draw_plane(axes, D, loss)
        axes.scatter(*clouds["real"][:150].T, s=22, marker="+", linewidths=0.8, color="dimgrey")
        for name, colour in (("near", "tab:blue"), ("far", "magenta")):
            points = clouds[name][:10]
            steps = 0.6 / row["arrow near"] * arrows(D, points, loss_of_fake)
            style = {"angles": "xy", "scale_units": "xy", "scale": 1, "width": 0.006, "color": colour}
            axes.quiver(*points.T, *steps.T, **style)
            axes.scatter(*points.T, s=24, color=colour, zorder=3)
        axes.text(0.7, -2.3, "real", color="dimgrey")
        axes.text(-3.3, -2.8, "near fakes", color="tab:blue")
        axes.text(4, -0.4, "far fakes", color="magenta")
        axes.set_title(f"{title}\n{in_words(row)}")
        axes.set(xlim=(-3.5, 6.9), ylim=(-3, 4.6), aspect="equal", xticks=[], yticks=[])
    save_figure(figure, path, bbox_inches="tight")


def in_words(row: dict) -> str:
    """What far fakes do, by the numbers of figure1_numbers."""
    if row["far / near"] < 0.01:
        return f"far fakes stay: {row['far / near']:.6f} x a near fake's step"
    if row["towards real"] > 0.5:
        return f"far fakes turn back: {row['far / near']:.1f} x a near fake's step"
    return f"far fakes move away: {row['far / near']:.1f} x a near fake's step"


def draw_plane(axes: Axes, D: nn.Module, loss: str) -> None:
    """D's boundary, where its output is half-way between real and fake; the real side is tinted."""
    line = torch.linspace(-4, 7, 200)
    with torch.no_grad():
        outputs = D(torch.cartesian_prod(line, line)[None]).view(200, 200).T  # [y, x], as contour wants
    boundary = 0.5 if loss == "ls" else 0.0
    axes.contourf(line, line, outputs, levels=[boundary, float("inf")], colors="tab:green", alpha=0.1)
    axes.contour(line, line, outputs, levels=[boundary], colors="tab:green")
    style = {"color": "tab:green", "rotation": -63, "rotation_mode": "anchor"}  # along the boundary
    axes.text(-2.8, 4.2, "D's boundary", **style)
    if loss == "ls":
        axes.contour(line, line, outputs, levels=[1.0], colors="tab:green", linestyles="dashed")
        axes.text(-1.35, 4.2, "D = 1: no step", **style)


def loss_curve(outputs: Tensor, loss_of_fake: Callable) -> tuple[Tensor, Tensor]:
    """G's loss for a single fake, and its derivative, at each of D's outputs [n] for it; both [n]."""
    outputs = outputs.clone().requires_grad_()
    values = loss_of_fake(outputs)
    (slopes,) = torch.autograd.grad(values.sum(), outputs)
    return values.detach(), slopes


def figure2(args: Namespace) -> None:
    """Draws figure2.png: G's loss over D's output for a fake as in the paper, and the slope beside it."""
    figure = Figure(figsize=(11, 3.6), layout="constrained")
    left, right = figure.subplots(1, 2)
    outputs = torch.linspace(-6, 8, 281)
    for (title, (loss, loss_of_fake)), line in zip(GENERATOR_LOSSES.items(), ("-", ":", "-")):
        values, slopes = loss_curve(outputs, loss_of_fake)
        left.plot(outputs, values, line, color=COLOURS[loss], label=title)
        right.plot(outputs, slopes.abs(), line, color=COLOURS[loss], label=title)
    left.set(title="what a fake adds to G's loss", xlabel="D's output for the fake", ylim=(-4, 6))
    right.set(
        title="steepness: how hard it pulls at the fake", xlabel="D's output for the fake", ylim=(-0.1, 4)
    )
    style = {"ha": "center", "va": "center", "fontsize": "small"}
    right.text(5.9, 0.5, "non-saturating: flat for all\nfakes that D takes for real", **style)
    right.text(-4.1, 0.5, "saturating: flat for all\nfakes that D finds out", **style)
    right.text(1, 3.4, "least squares: flat\nat one point only", **style)
    left.legend()
    save_figure(figure, Path(args.out, "figure2.png"), bbox_inches="tight")


# ---------------------------------------------------------------- train
def due(step: int, every: int, last: int) -> bool:
    """True at every multiple of `every` and at the last one; never if every is 0."""
    return every > 0 and (step % every == 0 or step == last)


def make_networks(args: Namespace, device: torch.device) -> dict:
    """All models and their optimizers, as at the beginning of a run.

    A seed's weights are the same for every loss.
    """
    models = len(args.losses) * args.seeds
    G = Generator(models, args.z_dim)
    D = Discriminator(models)
    seeds = list(range(args.seed, args.seed + args.seeds)) * len(args.losses)  # one for each model
    init_weights(G, [torch_rng(seed, INIT_G) for seed in seeds])
    init_weights(D, [torch_rng(seed, INIT_D) for seed in seeds])
    G.to(device)
    D.to(device)
    opt_g = torch.optim.Adam(G.parameters(), args.lr_g, betas=(args.beta1, 0.999), fused=True)
    opt_d = torch.optim.Adam(D.parameters(), args.lr_d, betas=(args.beta1, 0.999), fused=True)
    return {"G": G, "D": D, "opt_g": opt_g, "opt_d": opt_d}


def restore(args: Namespace, state: dict) -> tuple[int, dict]:
    """The step that a run goes on from and its log so far; loads the checkpoint into `state`.

    log: "measures", {step: [losses, seeds, 6]}, and for Figure 8 "points" of the first seed,
    {step: [losses, DRAWN, 2]}.
    """
    if not args.resume:
        return 0, {"measures": {}, "points": {}}
    saved = runs.load_checkpoint(args.resume)
    if "updates" not in saved["args"]:  # no other script has --updates
        raise DataError(f"{args.resume} is not a checkpoint of this script")
    runs.check_unchanged(args, saved["args"], FIXED)
    step, log = saved["step"], saved["log"]
    runs.load_checkpoint(args.resume, state)
    # table.md needs measures at the last step; a run that a signal stopped has none there.
    if step > args.steps or (step == args.steps and step not in log["measures"]):
        raise DataError(f"--steps must be more than {step}, where {args.resume} is, not {args.steps}")
    return step, log


def show(bar: tqdm, step: int, losses: list[str], values: Tensor) -> None:
    """Shows modes hit and their share of points, means over seeds of values [losses, seeds, measures]."""
    texts = []
    for loss, of_loss in zip(losses, values.mean(1)):
        mean = dict(zip(MEASURES, of_loss.tolist()))
        texts.append(f"{loss}: {mean['modes']:.1f} modes hit, {mean['share']:.1%} of points within 3 std")
    text = "; ".join(texts)
    if bar.disable:
        print(f"step {step}  {text}", flush=True)
    else:
        bar.set_postfix_str(text)


def train(args: Namespace) -> None:
    """Trains as `args` says and fills the run directory args.out."""
    device = runs.pick_device(args.gpu, args.graph)
    runs.set_arithmetic(tf32=False)  # a mode is 0.01 wide
    out = Path(args.out)
    losses, seeds = args.losses, range(args.seed, args.seed + args.seeds)
    centres, weights, std = make_mixture(args.radius, args.std, args.doubled_mode)
    target = Mixture(centres.to(device), weights.to(device), std)

    state = make_networks(args, device)
    G, D, opt_g, opt_d = state["G"], state["D"], state["opt_g"], state["opt_d"]

    with runs.open_run(out, args.resume), runs.catch_signals() as caught:
        start, log = restore(args, state)
        if not args.resume:
            log["points"][0] = points_of_first_seed(G, seeds)

        def save(step: int) -> None:
            runs.save_checkpoint(out / "last.pt", state, args=runs.saved_args(args), step=step, log=log)

        batches = draw_batches(seeds, start, args.steps, args.z_dim, target)
        update = partial(train_step, G, D, opt_g, opt_d, losses=losses, updates=args.updates)
        if args.graph:
            update = runs.Graph(update, [opt_g, opt_d], device)
        save(start)  # first of all, so that a run stopped at any moment can be resumed
        with runs.write_file(out / "args.json") as file:
            file.write(json.dumps(runs.saved_args(args), indent=1).encode())
        print(f"{out}: {len(losses)} losses x {len(seeds)} seeds, step {start} to {args.steps}, on {device}")

        bar = tqdm(batches, total=args.steps, initial=start, unit=" steps", disable=None)
        for step, (real, z) in enumerate(bar, start + 1):
            step_losses = update(real, z)
            # Up to here nothing waits for the device.

            stopped = caught[0] if caught else 0  # read once, as a signal may come at any moment
            measured = due(step, args.measure_every, args.steps)
            if stopped or measured:
                runs.check_finite(step, out, [step_losses, *G.parameters(), *D.parameters()])

            if measured:
                points = generate(G, seeds, MEASURED)
                by_seed = step_losses.unflatten(0, (len(losses), len(seeds)))
                values = torch.cat([by_seed, measure(points, target)], -1)
                log["measures"][step] = values.cpu()
                show(bar, step, losses, log["measures"][step])

            if due(step, SNAPSHOT_EVERY, args.steps):
                log["points"][step] = points_of_first_seed(G, seeds)

            if stopped or measured:
                save(step)

            if stopped:
                runs.exit_stopped(stopped, step, out)

        measures = log["measures"]
        write_results(out / "results.csv", losses, seeds, measures)
        write_table(out / "table.md", losses, seeds, args.steps, measures[args.steps])
        draw_curves(out / "curves.png", losses, measures)
        real = sample_mixture(target, DRAWN, torch_rng(args.seed, TARGET, device=device)).cpu()
        points = {**log["points"], "target": real.expand(len(losses), -1, -1)}  # the same for every loss
        draw_figure8(out / "figure8.png", losses, points, args.radius)
        print((out / "table.md").read_text())


def main(argv: list[str] | None = None) -> None:
    """The program; argv is by default sys.argv[1:]."""
    with one_line_errors(Path(__file__).name, sizes="--seeds or --z-dim"):
        args = parse_args(argv)
        if args.figure == 1:
            figure1(args)
        elif args.figure == 2:
            figure2(args)
        else:
            train(args)


if __name__ == "__main__":
    main()
