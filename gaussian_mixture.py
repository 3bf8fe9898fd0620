"""LSGAN on a mixture of eight Gaussians, many seeds at once: Figure 8 as a table with counts.

    python gaussian_mixture.py --seeds 2 --steps 5000 --out runs/look   # a first look, minutes on a laptop
    python gaussian_mixture.py                      # Figure 8, ten times; an hour or two on one core
    python gaussian_mixture.py --resume             # go on where it stopped, or just draw again

Differences from the authors' code: losses are means over the batch (theirs, but for D's cross entropy, are
sums; Adam does not notice). All seeds and losses train as one network. Everything random is seeded.
"""

import contextlib
import io
import os
import signal
import sys
from argparse import ArgumentDefaultsHelpFormatter, ArgumentParser, BooleanOptionalAction, Namespace
from pathlib import Path

os.environ.setdefault("GOMP_SPINCOUNT", "3000")  # threads that wait soon leave their core to others
import numpy as np
import torch
import torch.nn.functional as F
from matplotlib.figure import Figure
from torch import Tensor, nn
from tqdm import tqdm

LOSSES = {"ls": (0.0, 1.0, 1.0), "ls-110": (-1.0, 1.0, 0.0), "sigmoid": None}  # Eq. 2's a, b, c: Eq. 9, Eq. 8
MEASURES = ["d_loss", "g_loss", "modes", "basins", "high_quality", "divergence"]
INIT_G, INIT_D, BATCHES, EVALUATION = range(4)  # independent streams of random numbers
BATCH, CHUNK = 512, 10  # points a step, the authors'; steps drawn at once


# ---------------------------------------------------------------- settings
def parse_args(argv: list[str] | None = None, saved: dict | None = None) -> Namespace:
    """Flags -> Namespace. `saved`, a checkpoint's arguments, are the defaults and may not be contradicted."""
    parser = ArgumentParser(formatter_class=ArgumentDefaultsHelpFormatter, allow_abbrev=False)
    parser.error = fail
    add = parser.add_argument
    add("--layout", choices=["ring", "grid"], default="ring", help="how the modes lie")
    add("--modes", type=int, default=8, help="number of modes, for a grid a square number")
    add("--radius", type=float, default=1.0, help="of the ring; half the side of the grid")
    add("--std", type=float, default=0.01, help="standard deviation of a mode")
    add("--doubled-mode", action=BooleanOptionalAction, default=True, help="top of the ring: twice as likely")
    add("--z-dim", type=int, default=256, help="dimension of the noise z")
    add("--losses", default="ls,sigmoid", help=f"any of {','.join(LOSSES)}, trained side by side")
    add("--updates", choices=["simultaneous", "alternating"], default="simultaneous", help="of D and G")
    add("--lr-d", type=float, default=1e-4, help="Adam's learning rate for D")
    add("--lr-g", type=float, default=1e-3, help="Adam's learning rate for G")
    add("--beta1", type=float, default=0.5, help="Adam's first decay rate")
    add("--steps", type=int, default=40_000, help="steps in all; a larger value extends a finished run")
    add("--seed", type=int, default=0, help="everything random follows from it")
    add("--seeds", type=int, default=10, help="train this many seeds, the first of which is --seed")
    add("--gpu", type=int, help="number of the GPU; -1: the CPU; unset: GPU 0 if there is one")
    add("--out", help="run directory; unset: runs/<script>-<data>-<loss>-seed<k>")
    add("--resume", nargs="?", const=True, metavar="FILE", help="go on from the run's last.pt, or FILE")
    add("--measure-every", type=int, default=500, help="steps between measures and saves of last.pt")
    args = parser.parse_args(argv, Namespace(**(saved or {})))

    at_least = dict.fromkeys("lr_d lr_g beta1 seed".split(), 0) | {"modes": 2, "radius": 1e-6, "std": 1e-6}
    at_least |= dict.fromkeys("z_dim steps seeds measure_every".split(), 1)
    for name, least in at_least.items():
        if not getattr(args, name) >= least:
            fail(f"--{name.replace('_', '-')} must be at least {least}")
    if not args.beta1 < 1:
        fail("--beta1 must be less than 1")
    if args.layout == "grid" and round(args.modes**0.5) ** 2 != args.modes:
        fail(f"--modes must be a square number for a grid; {args.modes} is not")
    if not set(args.losses.split(",")) <= set(LOSSES):
        fail(f"--losses {args.losses}: not all are among {', '.join(LOSSES)}")
    for name, value in (saved or {}).items():
        if getattr(args, name) != value and name not in ("steps", "measure_every"):
            fail(f"--{name.replace('_', '-')} is {value} in the checkpoint and cannot change")
    default_out = f"runs/{Path(__file__).stem}-{args.layout}-{args.losses}-seed{args.seed}"
    if args.resume is True:
        args.resume = str(Path(args.out or default_out, "last.pt"))
    args.out = args.out or (str(Path(args.resume).parent) if args.resume else default_out)
    return args


def fail(message: object) -> None:
    """Ends the program because of bad input: one line, exit code 2."""
    print(f"{Path(__file__).name}: error: {' '.join(str(message).split())}", file=sys.stderr)
    sys.exit(2)


def pick_device(gpu: int | None) -> torch.device:
    """--gpu N: that GPU; -1: the CPU; None: GPU 0, under torchrun the local rank's, or else the CPU."""
    count = torch.cuda.device_count()
    if gpu is None:
        gpu = int(os.environ.get("LOCAL_RANK", 0)) if count else -1
        if not count:
            print("no GPU found: running on the CPU")
    elif gpu != -1 and "LOCAL_RANK" in os.environ:
        fail("under torchrun the local rank chooses the GPU; only --gpu -1 (the CPU) may be given")
    if gpu == -1:
        return torch.device("cpu")
    if not 0 <= gpu < count:
        found = ", ".join(f"{i} ({torch.cuda.get_device_name(i)})" for i in range(count)) or "none"
        fail(f"there is no GPU {gpu}; GPUs found: {found}; --gpu -1 runs on the CPU")
    torch.cuda.set_device(gpu)
    return torch.device("cuda", gpu)


# ---------------------------------------------------------------- randomness and data
def rng(seed: int, stream: int, step: int) -> np.random.Generator:
    """A private generator: randomness is a function of (seed, stream, step), so there is no state to save."""
    return np.random.default_rng(np.random.SeedSequence([seed, stream, step]))


def torch_rng(seed: int, stream: int, step: int, device="cpu") -> torch.Generator:
    """The same for torch, which draws several times as fast, and on the device."""
    return torch.Generator(device).manual_seed(int(rng(seed, stream, step).integers(2**32)))


def mixture(layout="ring", modes=8, radius=1.0, doubled=True) -> tuple[Tensor, Tensor]:
    """Centres [modes, 2] and probabilities [modes]. `doubled`: the top of a ring is twice as likely as the
    others, as in the authors' code, where linspace(0, 2 pi, 9) meets it at both ends."""
    weights = torch.ones(modes)
    if layout == "grid":
        line = torch.linspace(-radius, radius, round(modes**0.5))
        return torch.cartesian_prod(line, line), weights / modes
    weights[0] += doubled
    angles = torch.arange(modes) * (2 * torch.pi / modes)
    return radius * torch.stack([angles.sin(), angles.cos()], 1), weights / weights.sum()


def draw_batches(seeds: range, start: int, stop: int, z_dim: int, target: tuple, n: int = BATCH):
    """Yields real [seeds, n, 2] and normal z [seeds, n, z_dim] for the steps start + 1 ... stop: functions of
    seed and step. `target`: the modes' centres [modes, 2], probabilities [modes] and standard deviation."""
    centres, weights, std = target
    real = torch.empty(len(seeds), CHUNK, n, 2, device=centres.device)
    z = torch.empty(len(seeds), CHUNK, n, z_dim, device=centres.device)
    for step in range(start, stop):
        for s, seed in enumerate(seeds if step % CHUNK == 0 or step == start else ()):
            generator = torch_rng(seed, BATCHES, step // CHUNK, centres.device)
            modes = torch.multinomial(weights, CHUNK * n, replacement=True, generator=generator)
            real[s].normal_(generator=generator).mul_(std).add_(centres[modes].view_as(real[s]))
            z[s].normal_(generator=generator)
        yield real[:, step % CHUNK], z[:, step % CHUNK]


# ---------------------------------------------------------------- networks
class Linear(nn.Module):
    """Linear layers side by side, ordered (loss, seed): x [models, B, n_in] -> [models, B, n_out]. A seed's
    orthogonal weights, gain 1.4, come from its generator and are the same for every loss; biases 0."""

    def __init__(self, n_in: int, n_out: int, losses: int, generators: list[torch.Generator]):
        super().__init__()
        weights = [nn.init.orthogonal_(torch.empty(n_in, n_out), 1.4, g) for g in generators]
        self.weight = nn.Parameter(torch.stack(weights).repeat(losses, 1, 1))
        self.bias = nn.Parameter(torch.zeros(len(self.weight), 1, n_out))

    def forward(self, x: Tensor) -> Tensor:
        return torch.baddbmm(self.bias, x, self.weight)


class Generator(nn.Sequential):
    """z [models, B, z_dim] -> points [models, B, 2]. Authors' code: stability_comparison/mixture_gaussian."""

    def __init__(self, losses: int = 1, seeds: range = range(1), z_dim: int = 256):
        init = losses, [torch_rng(seed, INIT_G, 0) for seed in seeds]
        hidden = Linear(z_dim, 128, *init), nn.Tanh(), Linear(128, 128, *init), nn.Tanh()
        super().__init__(*hidden, Linear(128, 2, *init))


class Discriminator(nn.Sequential):
    """points [models, B, 2] -> D(x) [losses, seeds, B], any real number: no sigmoid."""

    def __init__(self, losses: int = 1, seeds: range = range(1)):
        init = losses, [torch_rng(seed, INIT_D, 0) for seed in seeds]
        hidden = Linear(2, 128, *init), nn.Tanh(), Linear(128, 128, *init), nn.Tanh()
        super().__init__(*hidden, Linear(128, 1, *init), nn.Flatten(1), nn.Unflatten(0, (losses, len(seeds))))


# ---------------------------------------------------------------- loss and training step
def gan_loss(d_real: Tensor, d_fake: Tensor, loss: str = "ls") -> tuple[Tensor, Tensor]:
    """What D and G minimise, each [seeds], from D's answers [seeds, B]: Eq. 2; sigmoid: Eq. 1's cross
    entropy of logits, for G the non-saturating -log sigmoid(D(G(z)))."""
    if loss == "sigmoid":
        return (F.softplus(-d_real) + F.softplus(d_fake)).mean(1), F.softplus(-d_fake).mean(1)
    a, b, c = LOSSES[loss]
    return 0.5 * ((d_real - b) ** 2 + (d_fake - a) ** 2).mean(1), 0.5 * ((d_fake - c) ** 2).mean(1)


def train_step(G, D, opt_g, opt_d, real, z, losses=("ls",), updates="simultaneous") -> Tensor:
    """Updates all models; real [seeds, B, 2] and z [seeds, B, z_dim] serve every loss. Returns d_loss and
    g_loss as [losses, seeds, 2], on the device."""
    real, fake = real.repeat(len(losses), 1, 1), G(z.repeat(len(losses), 1, 1))
    d_real, d_fake = D(real), D(fake)
    d_loss, g_loss = zip(*map(gan_loss, d_real, d_fake, losses))
    opt_d.zero_grad()
    torch.cat(d_loss).sum().backward(inputs=list(D.parameters()), retain_graph=True)  # models do not mix: sum
    if updates == "alternating":
        opt_d.step()
        _, g_loss = zip(*map(gan_loss, d_real, D(fake), losses))
    opt_g.zero_grad()
    torch.cat(g_loss).sum().backward(inputs=list(G.parameters()))
    if updates == "simultaneous":  # as the authors: both gradients before either step
        opt_d.step()
    opt_g.step()
    return torch.stack([torch.stack(d_loss), torch.stack(g_loss)], -1).detach()


# ---------------------------------------------------------------- measures and figures
@torch.no_grad()
def generate(G: Generator, seeds: range, n: int = 5120) -> Tensor:
    """Points [losses, seeds, n, 2], from the same z at every step."""
    models, z_dim, _ = G[0].weight.shape
    z = torch.empty(len(seeds), n, z_dim, device=G[0].weight.device)
    for s, seed in enumerate(seeds):
        z[s].normal_(generator=torch_rng(seed, EVALUATION, 0, z.device))
    return G(z.repeat(models // len(seeds), 1, 1)).unflatten(0, (-1, len(seeds)))


def measure(points: Tensor, centres: Tensor, weights: Tensor, std: float) -> Tensor:
    """points [..., n, 2] -> [..., 4]: modes with n/125 points (20 of 2,500) within 3 std; those with as many
    within half the way to the next mode (basins); share of points within 3 std of a mode, 0.989 at best; the
    Kullback-Leibler divergence, in nats, of how points fall on nearest modes from `weights`."""
    distance, mode = torch.cdist(points, centres, compute_mode="donot_use_mm_for_euclid_dist").min(-1)
    member, fine = F.one_hot(mode, len(centres)), distance <= 3 * std
    near = distance <= F.pdist(centres).min() / 2
    counts = torch.stack([(member * inside[..., None]).sum(-2) for inside in (fine, near)], -1)
    covered = (counts * 125 >= points.shape[-2]).sum(-2)
    share = member.float().mean(-2)
    divergence = torch.xlogy(share, share / weights).sum(-1, keepdim=True)
    return torch.cat([covered, fine.float().mean(-1, keepdim=True), divergence], -1)


def write_results(out: Path, losses: list[str], seeds: range, step: int, values: Tensor, modes: int) -> None:
    """Of values [losses, seeds, measures]: results.csv as they are; table.md with counts of seeds, their 95 %
    Wilson intervals, and the mean, least and largest of each measure."""
    rows = [["step", "loss", "seed", *MEASURES]]
    table = [["loss", f"all {modes} modes", "all basins", "one basin or none", *MEASURES[2:]], ["---"] * 8]
    for loss, of_seeds in zip(losses, values):
        for seed, measures in zip(seeds, of_seeds.tolist()):
            rows.append([step, loss, seed, *(f"{value:.6g}" for value in measures)])
        columns, cells = of_seeds.T[2:], [loss]
        for hits in (columns[0] == modes, columns[1] == modes, columns[1] <= 1):
            k, n, z2 = int(hits.sum()), len(seeds), 1.96**2
            middle, half = (k + z2 / 2) / (n + z2), (z2 * (k * (n - k) / n + z2 / 4)) ** 0.5 / (n + z2)
            cells.append(f"{k}/{n} ({abs(middle - half):.0%} to {middle + half:.0%})")
        table.append(cells + [f"{c.mean():.3g} ({c.min():.3g} to {c.max():.3g})" for c in columns])
    for name, lines, between in (("results.csv", rows, ","), ("table.md", table, " | ")):
        with write_file(out / name) as file:
            np.savetxt(file, lines, "%s", between)


def draw_curves(path: Path, losses: list[str], values: dict[int, Tensor]) -> None:
    """The measures over steps: median of the seeds, least to largest shaded."""
    figure = Figure(figsize=(12, 2.8), layout="constrained")
    steps, history = list(values), torch.stack(list(values.values()))
    for axes, name, column in zip(figure.subplots(1, 4), MEASURES[2:], history.unbind(-1)[2:]):
        for loss, seeds in zip(losses, column.unbind(1)):
            axes.plot(steps, seeds.median(1).values, label=loss)
            axes.fill_between(steps, seeds.amin(1), seeds.amax(1), alpha=0.2)
        axes.set(xlabel="step", title=name)
    axes.legend()
    with write_file(path) as file:
        figure.savefig(file)


def draw_density(path: Path, losses: list[str], points: dict[object, Tensor], limit: float) -> None:
    """Figure 8 for the first seed, from {step: points [losses, seeds, n, 2]}, a column each. The kernel's
    width is Scott's: std * n**(-1/6) along each axis, many times a mode's."""
    figure = Figure(figsize=(1.2 * len(points), 1.3 * len(losses)), layout="constrained")
    columns = figure.subplots(len(losses), len(points), squeeze=False)[::-1].T  # the regular GAN above
    grid = torch.linspace(-limit, limit, 200)
    for (step, of_step), column in zip(points.items(), columns):
        for loss, xy, axes in zip(losses, of_step[:, 0], column):
            widths = xy.std(0).clamp_min(1e-6) * len(xy) ** (-1 / 6)
            x, y = torch.exp(-0.5 * ((grid[:, None] - xy.T[:, None]) / widths[:, None, None]) ** 2)
            axes.contourf(grid, grid, y @ x.T, levels=30, cmap="Greens")
            axes.set(xlabel=step, ylabel=loss, xticks=[], yticks=[], aspect="equal")
            axes.label_outer()
    with write_file(path) as file:
        figure.savefig(file)


# ---------------------------------------------------------------- checkpoint
@contextlib.contextmanager
def write_file(path: Path):
    """`with write_file(path) as file`: whatever happens, `path` is then whole, the old file or the new."""
    yield (buffer := io.BytesIO())
    temporary = path.with_name(path.name + ".tmp")
    with open(temporary, "wb") as file:
        file.write(buffer.getbuffer())
        file.flush()
        os.fsync(file.fileno())
    os.replace(temporary, path)


def save_checkpoint(path: Path, objects: dict, **values) -> None:
    """Writes the states of `objects` (networks and optimisers) and plain values, in one dict."""
    states = {name: item.state_dict() for name, item in objects.items()}
    with write_file(path) as file:
        torch.save({"script": Path(__file__).stem, **values, **states}, file)


def load_checkpoint(path: Path | str, objects: dict) -> dict:
    """Reads what save_checkpoint wrote, never running code from it, and gives `objects` their states."""
    if not Path(path).exists():
        fail(f"there is no checkpoint {path}")
    try:
        checkpoint = torch.load(path, map_location="cpu", weights_only=True)
        for name, item in objects.items():
            item.load_state_dict(checkpoint[name])
        if checkpoint["script"] == Path(__file__).stem:
            return {"args": dict(checkpoint["args"]), "step": checkpoint["step"], "log": checkpoint["log"]}
    except Exception:  # a damaged file fails in any way it likes
        pass
    fail(f"{path} is damaged, or not a checkpoint of {Path(__file__).name}")


# ---------------------------------------------------------------- train
def train(args: Namespace) -> None:
    """Trains as `args` says and fills the run directory args.out."""
    device, out = pick_device(args.gpu), Path(args.out)
    torch.set_float32_matmul_precision("highest")  # no TF32: a mode is 0.01 wide
    losses, seeds = args.losses.split(","), range(args.seed, args.seed + args.seeds)
    centres, weights = mixture(args.layout, args.modes, args.radius, args.doubled_mode)
    target = centres.to(device), weights.to(device), args.std

    G, D = Generator(len(losses), seeds, args.z_dim).to(device), Discriminator(len(losses), seeds).to(device)
    opt_g = torch.optim.Adam(G.parameters(), args.lr_g, betas=(args.beta1, 0.999), fused=True)
    opt_d = torch.optim.Adam(D.parameters(), args.lr_d, betas=(args.beta1, 0.999), fused=True)
    state = {"G": G, "D": D, "opt_g": opt_g, "opt_d": opt_d}

    start, log = 0, {"values": {}, "points": {0: generate(G, seeds)[:, [0]].cpu()}}
    if args.resume:
        checkpoint = load_checkpoint(args.resume, state)
        start, log = checkpoint["step"], checkpoint["log"]
        if start >= args.steps and max(log["values"], default=0) != args.steps:
            fail(f"--steps {args.steps} is too few: {args.resume} is at step {start}")
    in_place = args.resume and Path(args.resume).resolve() == (out / "last.pt").resolve()
    if not in_place and out.exists() and set(os.listdir(out)) - {"last.pt.tmp"}:
        fail(f"{out} is in use: --resume goes on with the run in it, --out FOLDER starts another")
    out.mkdir(parents=True, exist_ok=True)
    kept = {k: v for k, v in vars(args).items() if k not in ("gpu", "out", "resume")}
    save_checkpoint(out / "last.pt", state, args=kept, step=start, log=log)  # resumable from now on
    print(f"{out}: {len(losses)} losses x {len(seeds)} seeds, from step {start} to {args.steps} on {device}")

    batches = draw_batches(seeds, start, args.steps, args.z_dim, target)
    bar = tqdm(batches, total=args.steps, initial=start, unit=" steps", disable=None)
    stop: list[int] = []
    with contextlib.ExitStack() as old_handlers:
        for n in (signal.SIGINT, signal.SIGTERM):
            old_handlers.callback(signal.signal, n, signal.signal(n, lambda n, frame: stop.append(n)))
        for step, (real, z) in enumerate(bar, start + 1):
            values = train_step(G, D, opt_g, opt_d, real, z, losses, args.updates)
            due = step % args.measure_every == 0 or step == args.steps
            if not (due or stop):
                continue  # nothing up to here waits for the device
            if not torch.nn.utils.get_total_norm([values, *G.parameters(), *D.parameters()]).isfinite():
                sys.exit(f"step {step}: loss or weights not finite; last good checkpoint: {out / 'last.pt'}")
            if due:
                points = generate(G, seeds)
                log["values"][step] = torch.cat([values, measure(points[:, :, :2500], *target)], -1).cpu()
                basins = log["values"][step][..., 3].mean(1).tolist()
                text = "basins hit: " + ", ".join(f"{loss} {n:.2f}" for loss, n in zip(losses, basins))
                bar.set_postfix_str(text) if not bar.disable else print(f"step {step}  {text}", flush=True)
            if step % (10 * args.measure_every) == 0 or step == args.steps:
                log["points"][step] = points[:, [0]].cpu()  # of the first seed: Figure 8
            save_checkpoint(out / "last.pt", state, args=kept, step=step, log=log)
            if stop:
                sys.exit(128 + stop[0])  # 130: Ctrl-C, 143: SIGTERM

    write_results(out, losses, seeds, args.steps, log["values"][args.steps], args.modes)
    draw_curves(out / "curves.png", losses, log["values"])
    real, _ = next(draw_batches(seeds[:1], 0, 1, 1, target, n=5120))
    points = {**log["points"], "target": real.cpu().expand(len(losses), -1, -1, -1)}
    draw_density(out / "figure8.png", losses, points, 4 * args.radius)
    print((out / "table.md").read_text())


def main(argv: list[str] | None = None) -> None:
    """Runs the command line `argv`; by default the program's own."""
    args = parse_args(argv)
    try:
        if args.resume:
            args = parse_args(argv, saved=load_checkpoint(args.resume, {})["args"])
        train(args)
    except KeyboardInterrupt:  # outside the training loop, which saves first
        sys.exit(130)
    except OSError as error:
        fail(error)


if __name__ == "__main__":
    main()
