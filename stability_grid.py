"""How stable is LSGAN? Settings x optimizers x losses x seeds, each judged by a rule: Figure 7, with counts.

    python stability_grid.py --quick                                # toy rooms, twelve minutes on two cores
    python stability_grid.py --data lsun/bedroom --gpu 0            # the paper's settings, ten seeds
    python stability_grid.py --data lsun/bedroom --gpu 0 --resume   # go on where it stopped
    python stability_grid.py --data cifar10 --size 32 --settings bn --optimizers adam   # ten models a loss
    torchrun --nproc-per-node 2 stability_grid.py --quick --gpu -1  # cells are dealt to the processes

A cell is one run: a setting, an optimizer, a loss and a seed. Settings: bn_g has no batch normalization in G,
bn_gd in neither network, bn has it in both. Writes table.md, figure7.png, results.csv (a row for each
finished cell), args.json, a folder for each cell with its log.csv, last.pt and samples/, and a last.pt of the
grid, from which --resume goes on.

With the features of a classifier, which needs labels, the rule agrees with two vision-language models at
64x64 (kappa 0.8), but not at 32x32 (0.3), the size of --quick, where it calls too few cells learned. Data
without labels get random features, a poor guide.

Needs pictures of 32x32 or more: 512 of them, 1,024 with a classifier of their labels, 16,384 with Inception.

Differences from the authors' code: they sum the least-squares loss over the batch and average the sigmoid
loss; we average both. Adam hardly notices; for RMSProp (TensorFlow's rule) we multiply the gradients of least
squares by the batch size. One G forward serves both updates; our running BN variance is the unbiased one; the
extra row and column of padding are at the top and left, not at the bottom and right. For bn_gd with RMSProp
their code uses ls-110, the paper ls. Their code stops at 5,000,000 steps and the paper gives no number; our
default is 20,000. Below 64 pixels the networks have three stages, not four. Every epoch is a new permutation
of the data; theirs uses a shuffle buffer of 10,000 pictures.
"""

import atexit
import json
import math
import os
import shlex
import sys
from argparse import BooleanOptionalAction, Namespace
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from datetime import timedelta
from functools import partial
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
import torch.distributed as dist
import torch.nn.functional as F
from PIL import Image
from torch import Tensor, nn
from torch.utils.data import DataLoader
from torchvision.utils import save_image
from tqdm import tqdm

from data import DataError, make_parser, one_line_errors, runs
from data.images import Images, decode_all, open_images
from data.judge import VERDICTS, Judge, choose_extractor
from data.runs import at_least, below_one, multiple_of, not_empty, some_of
from data.score import FEATURES

IN_MEMORY = 2e9  # bytes of decoded pictures that a run keeps on its device; larger data are read by workers
# Independent streams of random numbers
INIT_G, INIT_D, Z, FIXED_Z = range(4)
ORDER = 1000  # far from the others, so that adding a stream does not change it
SETTINGS = {  # (G has BN, D has BN); the first two are the paper's BN_G and BN_GD
    "bn_g": (False, True),
    "bn_gd": (False, False),
    "bn": (True, True),
}
LOSSES = {  # keyword arguments of train_step
    "ls": {"loss": "ls", "a": 0.0, "b": 1.0, "c": 1.0},  # Eq. 9
    "ls-110": {"loss": "ls", "a": -1.0, "b": 1.0, "c": 0.0},  # Eq. 8
    "sigmoid": {"loss": "sigmoid"},  # Eq. 1
}
PAPER = {  # section 4.3, judged by eye
    ("bn_g", "adam", "ls"): "5/10 relatively good",
    ("bn_g", "adam", "sigmoid"): "0/10, severe mode collapse",
    ("bn_g", "rmsprop", "ls"): "learns",
    ("bn_g", "rmsprop", "sigmoid"): "learns",
    ("bn_gd", "adam", "ls"): "slight mode collapse",
    ("bn_gd", "adam", "sigmoid"): "slight mode collapse",
    ("bn_gd", "rmsprop", "ls"): "better than sigmoid",
    ("bn_gd", "rmsprop", "sigmoid"): "slight mode collapse",
}
FIXED = (  # arguments that --resume may not change: all cells of a grid are made and judged alike
    "fit",
    "limit",
    "extractor",
    "size",
    "width",
    "z_dim",
    "rmsprop",
    "lr",
    "beta1",
    "batch_size",
    "tf32",
)
# The defaults with --quick
QUICK = dict(size=32, width=16, z_dim=64, lr=1e-3, batch_size=16, steps=1600, seeds=2, sample_every=400)


# ---------------------------------------------------------------- settings
def parse_args(argv: list[str] | None = None) -> Namespace:
    """Parses argv, by default sys.argv[1:]. With --resume the checkpoint gives the defaults.

    Raises DataError for a --resume that is not the last.pt in --out.
    """
    parser = make_parser(
        Path(__file__).name, "How stable is LSGAN? A grid of runs, judged by a rule (Figure 7)"
    )
    add = parser.add_argument_group("data").add_argument
    add("--data", type=not_empty, default="rooms", help="lsun/bedroom, a folder, cifar10, or toy rooms")
    add("--fit", choices=["squash", "crop"], default="squash", help="how a picture becomes square")
    add("--limit", type=at_least(0), default=0, help="use only this many pictures, evenly spaced; 0: all")
    add("--workers", type=at_least(0), help="data workers per process; unset: its share of cores")
    add = parser.add_argument_group("grid").add_argument
    add(
        "--settings",
        type=some_of(list(SETTINGS)),
        default="bn_g,bn_gd",
        help="any of bn (batch normalization in G and D), bn_g (none in G), bn_gd (none in either)",
    )
    add("--optimizers", type=some_of(["adam", "rmsprop"]), default="adam,rmsprop", help="any of adam,rmsprop")
    add("--losses", type=some_of(list(LOSSES)), default="ls,sigmoid", help=f"any of {','.join(LOSSES)}")
    add("--seeds", type=at_least(1), default=10, help="train this many seeds, the first of which is --seed")
    add("--extractor", choices=list(FEATURES), help="for FID; unset: classifier where there are labels")
    add("--quick", action="store_true", help=f"short for {' '.join(runs.as_flags(QUICK, known=QUICK))}")
    add = parser.add_argument_group("model").add_argument
    add("--size", type=multiple_of(16), default=64, help="side of the pictures, a multiple of 16")
    add("--width", type=at_least(1), default=64, help="channels of D's first layer; scales all others")
    add("--z-dim", type=at_least(1), default=1024, help="dimension of the noise z")
    add = parser.add_argument_group("optimizer").add_argument
    add("--rmsprop", choices=["tf", "torch"], default="tf", help="TensorFlow's RMSProp, or PyTorch's")
    add("--lr", type=at_least(0, float), default=2e-4, help="learning rate, for G and D")
    add("--beta1", type=below_one, default=0.5, help="Adam's first decay rate")
    add("--batch-size", type=at_least(1), default=64, help="batch size of each cell")
    add("--steps", type=at_least(1), default=20_000, help="number of training steps")
    add = parser.add_argument_group("run").add_argument
    add("--seed", type=at_least(0), default=0, help="random seed")
    add("--gpu", type=int, help="GPU index; -1: the CPU; unset: GPU 0 if there is one")
    add("--tf32", action=BooleanOptionalAction, default=True, help="TF32 in float32 layers on GPUs")
    add("--graph", action=BooleanOptionalAction, default=False, help="run the step as one CUDA graph")
    add("--out", type=not_empty, help="run directory; unset: one under runs/, or the checkpoint's")
    add("--sample-every", type=at_least(1), default=1000, help="steps between grids in samples/")
    add("--resume", nargs="?", const=True, type=not_empty, metavar="FILE", help="continue last.pt, or FILE")

    def default_out(args: Namespace) -> str:
        data, losses = Path(os.path.abspath(args.data)).name, ",".join(args.losses)
        return f"runs/{Path(__file__).stem}-{data}-{losses}-seed{args.seed}"

    argv = sys.argv[1:] if argv is None else argv
    if "--quick" in argv:
        parser.set_defaults(**QUICK)
    args = runs.parse_args(parser, argv, default_out)
    if args.resume and Path(args.resume).resolve() != Path(args.out, "last.pt").resolve():
        raise DataError(
            f"--resume goes on in a grid's folder, from its last.pt: not {args.resume} in {args.out}"
        )
    return args


# ---------------------------------------------------------------- randomness
def rng(seed: int, stream: int, step: int = 0) -> np.random.Generator:
    """A new generator: randomness is a function of (seed, stream, step), so there is no state to save."""
    # NumPy splits integers of 2**32 or more into two words, and pads short seeds with zeros. Without the 1 at
    # the end [2**32, 5, 0] would be the same seed as [0, 1, 5].
    return np.random.default_rng([seed, stream, step, 1])


def torch_rng(seed: int, stream: int, step: int = 0) -> torch.Generator:
    """The same for PyTorch."""
    return torch.Generator().manual_seed(int(rng(seed, stream, step).integers(2**32)))


def noise(n: int, dim: int, seed: int, stream: int, step: int) -> Tensor:
    """Noise z [n, dim], uniform(-1, 1); drawn on the CPU, so the same on every device."""
    return torch.from_numpy(rng(seed, stream, step).random((n, dim), dtype=np.float32) * 2 - 1)


# ---------------------------------------------------------------- data
def batch_order(n: int, batch_size: int, seed: int, start: int) -> Iterator[Tensor]:
    """Yields the picture indices, int64 [batch_size], of step start + 1, start + 2, and so on, endlessly.

    Every epoch is a new permutation of the n pictures, a function of (seed, epoch), and drops its last
    partial batch; batch_size is n or less. So the batch of a step does not depend on where training started.
    """
    steps_per_epoch = n // batch_size
    epoch, skip = divmod(start, steps_per_epoch)
    while True:
        order = rng(seed, ORDER, epoch).permutation(n)[: steps_per_epoch * batch_size]
        batches = torch.from_numpy(order).view(steps_per_epoch, batch_size)
        yield from batches[skip:]
        epoch, skip = epoch + 1, 0


def load_batches(
    pictures: Tensor | Images, order: Iterator[Tensor], device: torch.device, workers: int | None = None
) -> Iterator[Tensor]:
    """Yields batches, uint8 [B, size, size, 3] on the device: indexed there, or read by worker processes."""
    if isinstance(pictures, Tensor):
        for indices in order:
            yield pictures.index_select(0, runs.to_device(indices, device))  # faster than [] on a CPU
        return
    loader = DataLoader(
        pictures,
        sampler=(indices.numpy() for indices in order),  # tensors would be sent with a file descriptor each
        batch_size=None,  # one item of the sampler is a whole batch
        num_workers=runs.default_workers() if workers is None else workers,
        pin_memory=device.type == "cuda",
        worker_init_fn=runs.leave_process_group,
        generator=torch.Generator(),  # or the loader would draw from the global one
    )
    for batch in runs.from_workers(loader):
        yield batch.to(device, non_blocking=True)


# ---------------------------------------------------------------- networks
class Generator(nn.Sequential):
    """z [B, z_dim] -> images [B, 3, size, size] in [-1, 1]. DCGAN's; authors' code: stability_comparison.

    size: a multiple of 16. bn: batch normalization; off by default, as in the paper's BN_G.
    """

    def __init__(self, size: int = 64, width: int = 64, z_dim: int = 1024, bn: bool = False):
        if size % 16:
            raise ValueError(f"size must be a multiple of 16, not {size}")
        stages = 4 if size >= 64 else 3
        side = size // 2**stages
        channels = [width * 2**i for i in reversed(range(stages))] + [3]  # 512, 256, 128, 64, 3
        layers = [
            nn.Linear(z_dim, channels[0] * side * side),
            nn.Unflatten(1, (channels[0], side, side)),  # 512 x 4 x 4
        ]
        for c_in, c_out in zip(channels, channels[1:]):
            if bn:
                layers.append(nn.BatchNorm2d(c_in))
            layers.append(nn.ReLU(inplace=True))
            # 256 x 8 x 8, 128 x 16 x 16, 64 x 32 x 32, 3 x 64 x 64
            layers.append(nn.ConvTranspose2d(c_in, c_out, 5, stride=2, padding=2, output_padding=1))
        super().__init__(*layers, nn.Tanh())


class Discriminator(nn.Sequential):
    """images [B, 3, size, size] in [-1, 1] -> D(x) [B], any real number. DCGAN's, like the generator.

    size: a multiple of 16. bn: batch normalization; on by default, as in the paper's BN_G.
    """

    def __init__(self, size: int = 64, width: int = 64, bn: bool = True):
        if size % 16:
            raise ValueError(f"size must be a multiple of 16, not {size}")
        stages = 4 if size >= 64 else 3
        side = size // 2**stages
        channels = [width * 2**i for i in range(stages)]  # 64, 128, 256, 512
        layers = [
            nn.Conv2d(3, width, 5, stride=2, padding=2),  # 64 x 32 x 32, no BN
            nn.LeakyReLU(0.2, inplace=True),
        ]
        for c_in, c_out in zip(channels, channels[1:]):
            # 128 x 16 x 16, 256 x 8 x 8, 512 x 4 x 4
            layers.append(nn.Conv2d(c_in, c_out, 5, stride=2, padding=2))
            if bn:
                layers.append(nn.BatchNorm2d(c_out))
            layers.append(nn.LeakyReLU(0.2, inplace=True))
        super().__init__(
            *layers,
            nn.Flatten(),
            nn.Linear(channels[-1] * side * side, 1),  # no sigmoid: least squares regresses onto a and b
            nn.Flatten(0),
        )


def init_weights(net: nn.Module, generator: torch.Generator | None = None) -> None:
    """Normal weights of std 0.02, for Conv2d truncated at two std; biases 0. Authors' code: ops.py."""
    for module in net.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.trunc_normal_(module.weight, std=0.02, a=-0.04, b=0.04, generator=generator)
        elif isinstance(module, (nn.ConvTranspose2d, nn.Linear, nn.Embedding)):
            nn.init.normal_(module.weight, std=0.02, generator=generator)
        if getattr(module, "bias", None) is not None:
            nn.init.zeros_(module.bias)


def init_gamma(net: nn.Module, generator: torch.Generator | None = None) -> None:
    """Batch normalization's gamma N(1, 0.02), as in the authors' code for this figure."""
    for module in net.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.normal_(module.weight, 1, 0.02, generator=generator)


# ---------------------------------------------------------------- loss
def discriminator_loss(d_real: Tensor, d_fake: Tensor, a=0.0, b=1.0, loss="ls") -> Tensor:
    """What D minimizes. ls: the first line of Eq. 2. sigmoid: Eq. 1, the cross entropy of logits."""
    if loss == "ls":
        return 0.5 * (d_real - b).square().mean() + 0.5 * (d_fake - a).square().mean()
    if loss == "sigmoid":
        return F.softplus(-d_real).mean() + F.softplus(d_fake).mean()
    raise ValueError(f"loss must be ls or sigmoid, not {loss!r}")


def generator_loss(d_fake: Tensor, c=1.0, loss="ls") -> Tensor:
    """What G minimizes. ls: the second line of Eq. 2. sigmoid: the non-saturating -log sigmoid(D(G(z)))."""
    if loss == "ls":
        return 0.5 * (d_fake - c).square().mean()
    if loss == "sigmoid":
        return F.softplus(-d_fake).mean()
    raise ValueError(f"loss must be ls or sigmoid, not {loss!r}")


# ---------------------------------------------------------------- optimizers
class TFRMSprop(torch.optim.Optimizer):
    """RMSProp by TensorFlow's rule: ms <- 0.9 ms + 0.1 g**2, then p <- p - lr g / sqrt(ms + 1e-10).

    g is `scale` times the gradient. ms starts at 1, so that about 100 steps are small ones, and unlike with
    PyTorch's rule (ms starts at 0, epsilon is outside the root) the size of the gradients matters. For a loss
    that the authors sum and we average over the batch, scale is the batch size.
    """

    def __init__(self, params, lr: float = 2e-4, decay: float = 0.9, eps: float = 1e-10, scale: float = 1.0):
        super().__init__(params, dict(lr=lr, decay=decay, eps=eps, scale=scale))

    @torch.no_grad()
    def step(self) -> None:
        for group in self.param_groups:
            for p in group["params"]:
                if p.grad is None:
                    continue
                if "mean_square" not in self.state[p]:
                    self.state[p]["mean_square"] = torch.ones_like(p)
                mean_square = self.state[p]["mean_square"]
                grad = group["scale"] * p.grad
                mean_square.mul_(group["decay"]).addcmul_(grad, grad, value=1 - group["decay"])
                p.addcdiv_(grad, (mean_square + group["eps"]).sqrt(), value=-group["lr"])


def make_optimizer(params, name="adam", lr=2e-4, beta1=0.5, rmsprop="tf", scale=1.0) -> torch.optim.Optimizer:
    """Adam, or RMSProp by TensorFlow's rule (for scale see TFRMSprop) or by PyTorch's (decay 0.99)."""
    if name == "adam":
        return torch.optim.Adam(params, lr, betas=(beta1, 0.999), fused=True)
    if name != "rmsprop":
        raise ValueError(f"name must be adam or rmsprop, not {name!r}")
    if rmsprop == "tf":
        return TFRMSprop(params, lr, scale=scale)
    if rmsprop == "torch":
        return torch.optim.RMSprop(params, lr)
    raise ValueError(f"rmsprop must be tf or torch, not {rmsprop!r}")


# ---------------------------------------------------------------- training step
def train_step(G, D, opt_g, opt_d, real, z, loss="ls", a=0.0, b=1.0, c=1.0) -> Tensor:
    """Updates D, then G with the same z. Returns d_loss, g_loss, mean D(x), mean D(G(z)), on the device.

    real: [B, 3, size, size] in [-1, 1]. z: [B, z_dim]. With loss="sigmoid" the means are of sigmoid(D).
    """
    fake = G(z)  # for both updates: G does not change in between
    d_real = D(real)  # real and fake pictures apart: each has its own BN statistics
    d_fake = D(fake.detach())
    d_loss = discriminator_loss(d_real, d_fake, a, b, loss)
    opt_d.zero_grad()
    d_loss.backward()
    opt_d.step()

    D.requires_grad_(False)  # only the gradient of D's input is needed now
    g_loss = generator_loss(D(fake), c, loss)
    opt_g.zero_grad()
    g_loss.backward()
    opt_g.step()
    D.requires_grad_(True)

    if loss == "sigmoid":
        d_real, d_fake = d_real.sigmoid(), d_fake.sigmoid()
    return torch.stack([d_loss, g_loss, d_real.mean(), d_fake.mean()]).detach()


# ---------------------------------------------------------------- sampling and figures
@torch.no_grad()
def generate(G: nn.Module, z: Tensor) -> Tensor:
    """uint8 pictures [n, H, W, channels] on the CPU, in eval mode: each depends on its own z only."""
    was_training = G.training
    G.eval()
    images = G.forward(z)  # stays eager where G.compile() was called
    G.train(was_training)
    return ((images + 1) * 127.5).round().clamp(0, 255).byte().permute(0, 2, 3, 1).cpu()


def save_grid(pictures: Tensor, path: Path, columns: int = 8) -> None:
    """Writes uint8 pictures [n, H, W, channels] as one PNG."""
    with runs.write_file(path) as file:
        save_image(pictures.permute(0, 3, 1, 2) / 255, file, format="png", nrow=columns, pad_value=1)


# ---------------------------------------------------------------- cells
STEP_VALUES = ("d_loss", "g_loss", "d_real", "d_fake")  # what train_step returns
COLUMNS = ("step", *STEP_VALUES, "FID", "KID", "IS", "precision", "recall", "diversity")


class Cell(NamedTuple):
    """One run of the grid."""

    setting: str
    optimizer: str
    loss: str
    seed: int


@dataclass(eq=False)  # so that list.remove compares identity
class Run:
    """A cell in training. update: train_step of real and z. rows: the lines of its log.csv, header first."""

    cell: Cell
    folder: Path
    state: dict  # G, D, opt_g, opt_d
    update: Callable[[Tensor, Tensor], Tensor]
    step: int
    rows: list[str]
    losses: Tensor | None = None  # of the last step


def folder(out: Path | str, cell: Cell) -> Path:
    """The folder of a cell."""
    return Path(out, f"{cell.setting}-{cell.optimizer}-{cell.loss}-seed{cell.seed}")


def start_cell(cell: Cell, args: Namespace, device: torch.device) -> Run:
    """A new cell, or the one saved in its folder."""
    g_has_bn, d_has_bn = SETTINGS[cell.setting]
    with torch.random.fork_rng(devices=[]):  # new layers draw weights from the global generator
        G = Generator(args.size, args.width, args.z_dim, g_has_bn)
        D = Discriminator(args.size, args.width, d_has_bn)
    for net, stream in ((G, INIT_G), (D, INIT_D)):
        generator = torch_rng(cell.seed, stream)
        init_weights(net, generator)
        init_gamma(net, generator)
        net.to(device, memory_format=torch.channels_last)
    # Over a batch the authors average the sigmoid loss and sum least squares; we average both.
    scale = 1 if cell.loss == "sigmoid" else args.batch_size
    opt_g = make_optimizer(G.parameters(), cell.optimizer, args.lr, args.beta1, args.rmsprop, scale)
    opt_d = make_optimizer(D.parameters(), cell.optimizer, args.lr, args.beta1, args.rmsprop, scale)
    state = {"G": G, "D": D, "opt_g": opt_g, "opt_d": opt_d}
    step, rows = 0, [",".join(COLUMNS) + "\n"]
    path = folder(args.out, cell) / "last.pt"
    if path.exists():
        checkpoint = runs.load_checkpoint(path, state)
        step, rows = checkpoint["step"], checkpoint["log"]

    update = partial(train_step, G, D, opt_g, opt_d, **LOSSES[cell.loss])
    if args.graph:
        update = runs.Graph(update, [opt_g, opt_d], device)
    runs.make_folder(path.parent / "samples")
    run = Run(cell, path.parent, state, update, step, rows)
    if step > 0:
        write_log(run)  # a kill may have come between checkpoint and log
    return run


def generate_all(G: nn.Module, z: Tensor) -> Tensor:
    """generate() in parts of 512, for any number of z: uint8 [n, size, size, 3]."""
    return torch.cat([generate(G, part) for part in z.split(512)])


def is_finite(run: Run) -> bool:
    """Whether the last losses and all weights are finite. Waits for the device."""
    parameters = [*run.state["G"].parameters(), *run.state["D"].parameters()]
    return runs.all_finite([run.losses, *parameters])


def save_cell(run: Run, args: Namespace) -> None:
    """Writes the cell's last.pt, from which start_cell goes on."""
    runs.save_checkpoint(
        run.folder / "last.pt", run.state, args=runs.saved_args(args), step=run.step, log=run.rows
    )


def write_log(run: Run) -> None:
    with runs.write_file(run.folder / "log.csv") as file:
        file.write("".join(run.rows).encode())


def add_row(run: Run, measured: dict[str, float]) -> None:
    """Adds the losses and what was measured at this step to the log, nan for what was not, and shows it."""
    found = dict(zip(STEP_VALUES, run.losses.tolist())) | measured
    row, shown = [str(run.step)], [run.folder.name, f"step {run.step}"]
    for name in COLUMNS[1:]:
        value = found.get(name, math.nan)
        row.append(f"{value:.7g}")
        if not math.isnan(value):
            shown.append(f"{name} {value:.4g}")
    run.rows.append(",".join(row) + "\n")
    tqdm.write("  ".join(shown))


def record(run: Run, fixed_z: Tensor, judge: Judge, args: Namespace) -> bool:
    """Judges the pictures of fixed_z, saves the cell and adds to its log. False if the cell is not finite.

    The checkpoint, which holds the log too, is written before log.csv; start_cell mends that after a kill.
    """
    finite = is_finite(run)
    if finite:
        fakes = generate_all(run.state["G"], fixed_z)
        save_grid(fakes[:64], run.folder / "samples" / f"step_{run.step:08}.png")
        add_row(run, judge.measure(fakes))
        save_cell(run, args)
    else:  # the last good checkpoint stays
        add_row(run, {})
    write_log(run)
    return finite


def train_cells(
    cells: list[Cell],
    args: Namespace,
    pictures: Tensor | Images,
    judge: Judge,
    device: torch.device,
    caught: list[int],
) -> None:
    """Trains the cells of one seed together, so that they share pictures and z.

    Stops early once `caught` holds a signal.
    """
    active = [start_cell(cell, args, device) for cell in cells]  # all; later those that are still finite
    seed = cells[0].seed
    start = min(run.step for run in active)
    order = batch_order(len(pictures), args.batch_size, seed, start)
    batches = load_batches(pictures, order, device, args.workers)
    fixed_z = noise(judge.n, args.z_dim, seed, FIXED_Z, 0).to(device)
    steps = range(start + 1, args.steps + 1)
    bar = tqdm(steps, f"seed {seed}", args.steps, initial=start, unit=" steps", disable=None)

    for step, batch in zip(bar, batches):
        real = batch.permute(0, 3, 1, 2) / 127.5 - 1  # [B, 3, size, size] in [-1, 1], channels_last
        z = runs.to_device(noise(args.batch_size, args.z_dim, seed, Z, step), device)
        behind = [run for run in active if run.step < step]  # after a kill some cells may be ahead
        for run in behind:
            run.losses = run.update(real, z)
            run.step = step
        # Up to here nothing waits for the device.

        stopped = bool(caught)  # read once: a signal between the two tests below would stop without saving
        if due(step, args.sample_every, args.steps):
            for run in behind:
                if not record(run, fixed_z, judge, args):
                    active.remove(run)
        elif stopped:
            for run in behind:
                if is_finite(run):
                    save_cell(run, args)
        if stopped or not active:
            return


# ---------------------------------------------------------------- report
def finished(out: Path, cells: list[Cell], steps: int) -> dict[Cell, np.ndarray]:
    """The logs of those cells that have made all steps or are not finite: arrays, a field for each column."""
    logs = {}
    for cell in cells:
        path = folder(out, cell) / "log.csv"
        if path.exists():
            log = np.genfromtxt(path, delimiter=",", names=True, ndmin=1)
            # FID is nan if losses or weights were not finite. (Too few pictures do not get past Judge.)
            if log.size and (log["step"][-1] >= steps or np.isnan(log["FID"][-1])):
                logs[cell] = log
    return logs


def unique(items: Iterable) -> list:
    """Each item once, in the order of their first appearance."""
    return list(dict.fromkeys(items))


def make_table(logs: dict[Cell, np.ndarray], verdicts: dict[Cell, str]) -> str:
    """Markdown: a line for each setting, optimizer and loss.

    How many seeds got which verdict (learned with its 95% Wilson interval), mean and standard deviation of
    the scores over the seeds whose scores are finite, and what the paper says.
    """
    scores = ["FID"]
    if any(np.isfinite(log["IS"][-1]) for log in logs.values()):
        scores.append("IS")
    lines = [["setting, optimizer, loss", *VERDICTS, *scores, "the paper"]]
    lines.append(["---"] * len(lines[0]))
    for setting, optimizer, loss in unique(cell[:3] for cell in logs):
        group = [cell for cell in logs if cell[:3] == (setting, optimizer, loss)]
        found = [verdicts[cell] for cell in group]
        learned = runs.count_text(found.count("learned"), len(found))
        others = [str(found.count(word)) for word in VERDICTS if word != "learned"]
        means = [mean_and_deviation([logs[cell][name][-1] for cell in group]) for name in scores]
        claim = PAPER.get((setting, optimizer, loss), "")
        lines.append([f"{setting} {optimizer} {loss}", learned, *others, *means, claim])
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


def mean_and_deviation(values: list[float]) -> str:
    """'mean ± standard deviation' of the finite values, with '(k of n)' if some are not; '-' if none is."""
    finite = [value for value in values if math.isfinite(value)]
    if not finite:
        return "-"
    text = f"{np.mean(finite):.3g}"
    if len(finite) > 1:
        text += f" ± {np.std(finite, ddof=1):.2g}"
    if len(finite) < len(values):
        text += f" ({len(finite)} of {len(values)})"
    return text


def write_report(out: Path, cells: list[Cell], steps: int, judge: Judge, about: str) -> tuple[str, int]:
    """Writes results.csv, table.md and figure7.png about the cells that are finished.

    Returns the table and how many cells are not finished. about: a line about data and settings for the head
    of table.md.
    """
    logs = finished(out, cells, steps)
    missing = len(cells) - len(logs)
    if not logs:
        return "no cell is finished yet", missing
    verdicts = {cell: judge.verdict_of(log) for cell, log in logs.items()}
    table = make_table(logs, verdicts)
    text = f"{about}\n\n{judge.describe()}\n\n{table}"
    if missing:
        text += f"\nNot counted: {missing} unfinished cells.\n"
    with runs.write_file(out / "table.md") as file:
        file.write(text.encode("utf-8", "backslashreplace"))
    with runs.write_file(out / "results.csv") as file:
        file.write(make_results(logs, verdicts).encode())
    draw_figure7(out, logs, verdicts)
    return table, missing


def make_results(logs: dict[Cell, np.ndarray], verdicts: dict[Cell, str]) -> str:
    """CSV: a row for each finished cell, with its verdict and the last row of its log."""
    rows = [[*Cell._fields, "verdict", *COLUMNS]]
    for cell, log in logs.items():
        values = [f"{log[name][-1]:.10g}" for name in COLUMNS]
        rows.append([*cell, verdicts[cell], *values])
    return "".join(",".join(map(str, row)) + "\n" for row in rows)


TITLES = {  # what Figure 7 calls the settings, optimizers and losses
    "bn_g": "no BN in G",
    "bn_gd": "no BN at all",
    "bn": "BN in both",
    "adam": "Adam",
    "rmsprop": "RMSProp",
    "ls": "LS",
    "ls-110": "LS (Eq. 8)",
    "sigmoid": "regular",
}


def draw_figure7(out: Path, logs: dict[Cell, np.ndarray], verdicts: dict[Cell, str]) -> None:
    """A row for each setting and optimizer: each loss's best and worst seed, then FID and diversity."""
    from matplotlib.figure import Figure  # slow to import

    rows = unique((cell.setting, cell.optimizer) for cell in logs)
    losses = [loss for loss in LOSSES if any(cell.loss == loss for cell in logs)]
    figure = Figure(figsize=(5 * len(losses) + 5, 2.7 * len(rows)), layout="constrained")
    panels = figure.subplots(len(rows), 2 * len(losses) + 2, squeeze=False)
    for (setting, optimizer), axes in zip(rows, panels):
        fid, diversity = axes[-2:]
        for i, loss in enumerate(losses):
            group = [cell for cell in logs if cell[:3] == (setting, optimizer, loss)]  # a cell for each seed
            group.sort(key=lambda cell: np.nan_to_num(logs[cell]["FID"][-1], nan=np.inf))  # best first
            best, worst = axes[2 * i], axes[2 * i + 1]
            best.axis("off")
            worst.axis("off")
            if group:
                show_samples(best, "best", out, group[0], verdicts)
            if len(group) > 1:
                show_samples(worst, "worst", out, group[-1], verdicts)
            draw_curves(fid, "FID", logs, group, f"C{i}")
            draw_curves(diversity, "diversity", logs, group, f"C{i}")
        for panel, name in ((fid, "FID"), (diversity, "diversity")):
            panel.set(xlabel="step", ylabel=name)
            # Above the axes, where it hides no curve
            panel.legend(loc="lower center", bbox_to_anchor=(0.5, 1), ncols=3, fontsize=8, frameon=False)
        fid.set_yscale("log")
    with runs.write_file(out / "figure7.png") as file:
        figure.savefig(file, format="png")


def show_samples(axes, which: str, out: Path, cell: Cell, verdicts: dict[Cell, str]) -> None:
    """A quarter of the last grid that a cell made while finite, with its verdict. which: best or worst."""
    paths = sorted(folder(out, cell).glob("samples/*.png"))
    if paths:
        with Image.open(paths[-1]) as grid:
            half = grid.width // 2  # the grid is square
            axes.imshow(grid.crop((0, 0, half, half)))
    run = ", ".join(TITLES[name] for name in cell[:3])
    axes.set_title(f"{run}\n{which} (seed {cell.seed}): {verdicts[cell]}", fontsize=8)


def draw_curves(axes, name: str, logs: dict[Cell, np.ndarray], cells: list[Cell], color: str) -> None:
    """A column of the logs over steps, a line for each of these cells, which have one loss."""
    for i, cell in enumerate(cells):
        label = TITLES[cell.loss] if i == 0 else None  # once in the legend
        marker = "." if len(logs[cell]) == 1 else None  # a line of one point would be invisible
        axes.plot(logs[cell]["step"], logs[cell][name], color=color, label=label, marker=marker)


# ---------------------------------------------------------------- train
def due(step: int, every: int, last: int) -> bool:
    """True at every multiple of `every` and at the last one; never if every is 0."""
    return every > 0 and (step % every == 0 or step == last)


def open_data(args: Namespace, device: torch.device) -> tuple[Tensor | Images, np.ndarray | None, str]:
    """The pictures, their labels if they have any, and their fingerprint.

    Up to IN_MEMORY bytes of pictures are decoded onto the device; more are returned as Images.
    """
    images = open_images(args.data, args.size, args.fit, args.limit or None)
    if args.batch_size > len(images):
        raise DataError(f"--batch-size {args.batch_size} is larger than the data: {len(images)} pictures")
    if images.nbytes <= IN_MEMORY:
        return decode_all(images).to(device), images.labels, images.fingerprint
    runs.check_shared_memory(args.workers, args.batch_size * images.nbytes // len(images))
    return images, images.labels, images.fingerprint


def list_cells(args: Namespace) -> list[Cell]:
    """All cells of the grid, in the order of its tables."""
    cells = []
    for setting in args.settings:
        for optimizer in args.optimizers:
            for loss in args.losses:
                for seed in range(args.seed, args.seed + args.seeds):
                    cells.append(Cell(setting, optimizer, loss, seed))
    return cells


def check_resume(args: Namespace) -> dict:
    """The checkpoint of --resume. Raises DataError if no grid with these arguments can go on from it."""
    checkpoint = runs.load_checkpoint(args.resume)
    if "limits" not in checkpoint:  # of another script, or of a cell
        raise DataError(f"{args.resume} is not the last.pt of a grid")
    runs.check_unchanged(args, checkpoint["args"], FIXED)
    steps = checkpoint["args"]["steps"]
    if args.steps < steps:
        raise DataError(f"--steps {args.steps} is less than the {steps} of {args.resume}")
    left_out = set(list_cells(Namespace(**checkpoint["args"]))) - set(list_cells(args))
    if left_out:
        raise DataError(
            f"these flags leave out {len(left_out)} of the cells of {args.resume}; --resume only adds"
        )
    return checkpoint


def check_limits(limits: list[float], saved: list[float], path: str) -> None:
    """Raises DataError unless the rule's limits are those that the checkpoint `path` holds.

    They differ if the classifier was trained again on another machine, and so has other features.
    """
    if not np.allclose(limits, saved, rtol=0.01):
        raise DataError(
            f"the cells of {path} were judged by other features: the rule's limits are {limits[0]:.3g} and"
            f" {limits[1]:.3g} here, {saved[0]:.3g} and {saved[1]:.3g} there"
        )


def join_processes() -> tuple[int, int]:
    """(rank, number of processes): (0, 1), unless torchrun started this process as one of several."""
    if not runs.started_by_torchrun():
        return 0, 1
    # gloo with GPUs too, as the processes only wait for each other, but for hours
    dist.init_process_group("gloo", timeout=timedelta(days=30))
    atexit.register(dist.destroy_process_group)
    return dist.get_rank(), dist.get_world_size()


def train(args: Namespace) -> None:
    """Trains as `args` says and fills the run directory args.out. Raises DataError for unreadable data.

    Several processes deal the cells out among them; when all are done, rank 0 reports on them. If one dies,
    the others end with an error, and --resume goes on.
    """
    device = runs.pick_device(args.gpu, args.graph)
    runs.set_arithmetic(args.tf32)
    checkpoint = check_resume(args) if args.resume else None  # no weights: each cell has its own checkpoint
    pictures, labels, fingerprint = open_data(args, device)
    args.extractor = choose_extractor(args.extractor, pictures, labels)
    judge = Judge(pictures, labels, args.extractor, args.size, device)
    limits = [judge.fid_learned, judge.fid_degraded]
    if checkpoint:
        if checkpoint["data"] != fingerprint:
            raise DataError(f"the data of {args.data} are not those of {args.resume}, and cannot change")
        check_limits(limits, checkpoint["limits"], args.resume)
    cells = list_cells(args)
    out = Path(args.out)
    rank, world = join_processes()

    with runs.open_run(out, args.resume, rank), runs.catch_signals() as caught:
        saved = runs.saved_args(args)
        flags = shlex.join(runs.as_flags(saved, known=saved))
        about = f"{len(pictures):,} pictures, {device.type}, torch {torch.__version__}, {flags}"
        if rank == 0:
            # Arguments only, for --resume: the weights are in the cells' own checkpoints.
            runs.save_checkpoint(
                out / "last.pt", {}, args=saved, step=0, log=[], data=fingerprint, limits=limits
            )
            with runs.write_file(out / "args.json") as file:
                file.write(json.dumps(saved, indent=1).encode())
            print(f"{out}: {about}\n{judge.describe()}", flush=True)
        runs.wait_for_all()  # no cell is trained before last.pt is there

        done = finished(out, cells, args.steps)
        todo = [cell for cell in cells[rank::world] if cell not in done]
        for seed in sorted({cell.seed for cell in todo}):
            if rank == 0:
                write_report(out, cells, args.steps, judge, about)  # on what is finished so far
            mine = [cell for cell in todo if cell.seed == seed]
            train_cells(mine, args, pictures, judge, device, caught)
            if caught:
                break

        runs.wait_for_all()
        if rank == 0:
            table, missing = write_report(out, cells, args.steps, judge, about)
            print(table)
            if missing:
                print(f"stopped; --resume {shlex.quote(str(out / 'last.pt'))} goes on")
        if caught:
            sys.exit(128 + caught[0])  # 130: Ctrl-C, 143: SIGTERM, 129: SIGHUP


def main(argv: list[str] | None = None) -> None:
    """The program; argv is by default sys.argv[1:]."""
    with one_line_errors(
        Path(__file__).name,
        sizes="--batch-size, --size, --width or --z-dim, or fewer --settings, --optimizers or --losses",
    ):
        args = parse_args(argv)
        runs.check_unused(Path(args.out), args.resume)  # at once: to read the data can take minutes
        train(args)


if __name__ == "__main__":
    main()
