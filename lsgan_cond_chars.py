"""Conditional LSGAN on Chinese characters: the networks of Figure 4 trained with Equation 10 (Figure 9).

    python lsgan_cond_chars.py --data hwdb1.0 --gpu 0 --graph              # the paper's run
    python lsgan_cond_chars.py --data hwdb1.0 --gpu 0 --graph --resume     # go on where it stopped
    python lsgan_cond_chars.py --sample runs/lsgan_cond_chars-hwdb1.0-ls-seed0/last.pt --text 永和九年 --n 4
    torchrun --nproc-per-node 8 lsgan_cond_chars.py --data hwdb1.0         # the same run on eight GPUs
    python lsgan_cond_chars.py --classes 20 --width 32 --batch-size 32 --lr 5e-4 --steps 4000  # toys

One H200 trains on 6,840 images a second at batch 64 (float32 with TF32, without --graph). docs/speed.md and
docs/results.md have the conditions and what came out. Characters are squashed to squares, as in the authors'
code; --fit pad pads. Everything from Generator to train_step needs PyTorch alone: copy it into your project.

Differences from the authors' code (github.com/xudonmao/LSGAN): losses are means over the batch, theirs are
sums (a constant factor hardly matters to Adam). One G forward serves both updates, so G's running BN
statistics are updated once a step, not twice; our running variance is the unbiased one, theirs the biased. In
layers of stride 2 the extra row and column of padding are at the top and left, where TensorFlow's SAME has
them at the bottom and right: the same networks rotated by 180 degrees.
D's first layer has 256 channels as in the paper, 257 in theirs. Without .gnt files named Test a fifth of
the writers, or of the files of each class, is held out; theirs trains on all.
"""

import math
import os
from argparse import BooleanOptionalAction, Namespace
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn
from torchvision.utils import save_image
from tqdm import tqdm

from data import DataError, make_parser, one_line_errors, runs
from data.characters import Characters, open_characters
from data.runs import at_least, below_one, finite, not_empty

SIZES = "--batch-size, --width, --z-dim or --n"  # what decides how much memory a run takes
# Streams of random numbers: CLASSES chooses what grids and samples show, ORDER shuffles an epoch
INIT_G, INIT_D, Z, GRID, SAMPLE, CLASSES, ORDER = 0, 1, 2, 3, 4, 5, 1000


# ---------------------------------------------------------------- settings
def parse_args(argv: list[str] | None = None) -> Namespace:
    """Parses argv, by default sys.argv[1:]. With --resume or --sample the checkpoint gives the defaults."""
    parser = make_parser(Path(__file__).name, "Conditional LSGAN on Chinese characters (Figures 4 and 9)")
    add = parser.add_argument_group("data").add_argument
    add("--data", type=not_empty, default="strokes", help="hwdb1.0, a folder of classes, or toy strokes")
    add("--fit", choices=["squash", "pad"], default="squash", help="how a picture becomes square")
    add("--charset", choices=["level1", "all"], default="level1", help="GB2312 level 1, or every character")
    add("--classes", type=at_least(0), default=0, help="the N most frequent classes; 0: all (strokes: 100)")
    add = parser.add_argument_group("model").add_argument
    add("--width", type=at_least(1), default=256, help="channels of D's first layer; scales all others")
    add("--z-dim", type=at_least(1), default=1024, help="dimension of the noise z")
    add = parser.add_argument_group("loss").add_argument
    add("--loss", choices=["ls", "sigmoid"], default="ls", help="least squares, or the regular GAN's loss")
    add("--a", type=finite, default=0.0, help="least squares: D's target for fake (-1 in Eq. 8)")
    add("--b", type=finite, default=1.0, help="least squares: D's target for real (1 in Eq. 8)")
    add("--c", type=finite, default=1.0, help="least squares: G's target for fake (0 in Eq. 8)")
    add = parser.add_argument_group("optimizer").add_argument
    add("--lr", type=at_least(0, float), default=2e-4, help="learning rate, for G and D")
    add("--beta1", type=below_one, default=0.5, help="Adam's first decay rate")
    add("--batch-size", type=at_least(2), default=64, help="batch size, over all processes together")
    add("--steps", type=at_least(0), default=1_000_000, help="number of training steps")
    add("--ema", type=below_one, default=0.0, help="decay of an average of G's weights, for pictures; 0: off")
    run = parser.add_argument_group("run")
    add = run.add_argument
    add("--seed", type=at_least(0), default=0, help="random seed")
    add("--gpu", type=int, help="GPU index; -1: the CPU; unset: GPU 0 if there is one")
    add("--tf32", action=BooleanOptionalAction, default=True, help="TF32 in float32 layers on GPUs")
    add("--amp", action=BooleanOptionalAction, default=False, help="bfloat16 forward passes")
    add("--compile", action=BooleanOptionalAction, default=False, help="torch.compile both networks")
    add("--graph", action=BooleanOptionalAction, default=False, help="run the step as one CUDA graph")
    add("--out", type=not_empty, help="run directory; unset: one under runs/, or the checkpoint's")
    add("--n", type=at_least(1), default=64, help="number of pictures for --sample")
    add("--text", type=not_empty, help="text for --sample to write, one class per character, in --n rows")
    add("--log-every", type=at_least(1), default=50, help="steps between rows of log.csv")
    add("--sample-every", type=at_least(1), default=1000, help="steps between grids in samples/")
    add("--save-every", type=at_least(1), default=10_000, help="steps between saves of last.pt")
    add("--keep-every", type=at_least(0), default=0, help="steps between step_N.pt files; 0: none")
    add = run.add_mutually_exclusive_group().add_argument
    add("--resume", nargs="?", const=True, type=not_empty, metavar="FILE", help="continue last.pt, or FILE")
    add("--sample", type=not_empty, metavar="FILE", help="write pictures from a checkpoint, no training")

    def default_out(args: Namespace) -> str:
        data = Path(os.path.abspath(args.data)).name
        return f"runs/{Path(__file__).stem}-{data}-{args.loss}-seed{args.seed}"

    args = runs.parse_args(parser, argv, default_out)
    if args.text and not args.sample:
        parser.error("--text needs the checkpoint that is to write it: --sample FILE")
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
    pictures: Tensor, labels: Tensor, order: Iterator[Tensor]
) -> Iterator[tuple[Tensor, Tensor]]:
    """Yields batches, uint8 [B, 28, 28] and int64 [B], from pictures and labels that are on the device."""
    for indices in order:
        indices = runs.to_device(indices, pictures.device)
        # index_select: faster than [] on a CPU
        yield pictures.index_select(0, indices), labels.index_select(0, indices)


# ---------------------------------------------------------------- networks
class Generator(nn.Module):
    """z [B, z_dim], labels y [B] -> images [B, 1, 28, 28] in [0, 1]. Figure 4a; authors' code: mcgan.py.

    width: size of Phi(y); the layers have half as many channels.
    """

    def __init__(self, classes: int = 3740, width: int = 256, z_dim: int = 1024):
        super().__init__()
        w = (width + 1) // 2  # 128: half of width, rounded up
        self.phi = nn.Embedding(classes, width)
        self.phi_bias = nn.Parameter(torch.zeros(width))
        self.fc1 = nn.Linear(z_dim + width, w * 7 * 7)
        self.bn1 = nn.BatchNorm1d(w * 7 * 7)
        self.deconv2 = nn.ConvTranspose2d(w, w, 5, stride=2, padding=2, output_padding=1)
        self.bn2 = nn.BatchNorm2d(w)
        self.deconv3 = nn.ConvTranspose2d(w, 1, 5, stride=2, padding=2, output_padding=1)

    def forward(self, z: Tensor, y: Tensor) -> Tensor:
        phi_y = self.phi(y) + self.phi_bias  # [B, 256]: a linear layer on the one-hot label
        h = self.fc1(torch.cat([z, phi_y], 1))
        h = F.relu(self.bn1(h)).unflatten(1, (-1, 7, 7))  # 128 x 7 x 7
        h = F.relu(self.bn2(self.deconv2(h)))  # 128 x 14 x 14
        return self.deconv3(h).sigmoid()  # 1 x 28 x 28


class LastLinear(nn.Linear):
    """D's last layer: in float32 under autocast too, as bfloat16 is too coarse for the losses."""

    def forward(self, x: Tensor) -> Tensor:
        with torch.autocast(x.device.type, enabled=False):
            return super().forward(x.to(self.weight.dtype))


class Discriminator(nn.Module):
    """images [B, 1, 28, 28] in [0, 1], labels y [B] -> D(x|y) [B], any real number. Figure 4b.

    Authors' code: mcgan.py. width: size of Phi(y) and channels of the first layer; scales all others.
    """

    def __init__(self, classes: int = 3740, width: int = 256):
        super().__init__()
        w, w2, w3 = width, 5 * width // 4, 4 * width  # 256, 320, 1024
        self.phi = nn.Embedding(classes, w)
        self.phi_bias = nn.Parameter(torch.zeros(w))
        self.conv1 = nn.Conv2d(1, w, 5, stride=2, padding=2)
        self.conv2 = nn.Conv2d(2 * w, w2, 5, stride=2, padding=2)
        self.bn2 = nn.BatchNorm2d(w2)
        self.fc3 = nn.Linear(w2 * 7 * 7 + w, w3)
        self.bn3 = nn.BatchNorm1d(w3)
        self.fc4 = LastLinear(w3 + w, 1)  # no sigmoid: least squares regresses onto a and b

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        phi_y = self.phi(y) + self.phi_bias  # [B, 256]: a linear layer on the one-hot label
        h = F.leaky_relu(self.conv1(x), 0.2)  # 256 x 14 x 14, no BN
        phi_map = phi_y[:, :, None, None].expand(-1, -1, 14, 14)  # the same at every pixel
        h = self.conv2(torch.cat([h, phi_map], 1))
        h = F.leaky_relu(self.bn2(h), 0.2)  # 320 x 7 x 7
        h = self.fc3(torch.cat([h.flatten(1), phi_y], 1))
        h = F.leaky_relu(self.bn3(h), 0.2)  # 1024
        return self.fc4(torch.cat([h, phi_y], 1)).squeeze(1)


def init_weights(net: nn.Module, generator: torch.Generator | None = None) -> None:
    """Normal weights of std 0.02, for Conv2d truncated at two std; biases 0. Authors' code: ops.py."""
    for module in net.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.trunc_normal_(module.weight, std=0.02, a=-0.04, b=0.04, generator=generator)
        elif isinstance(module, (nn.ConvTranspose2d, nn.Linear, nn.Embedding)):
            nn.init.normal_(module.weight, std=0.02, generator=generator)
        if getattr(module, "bias", None) is not None:
            nn.init.zeros_(module.bias)


# ---------------------------------------------------------------- loss
def discriminator_loss(d_real: Tensor, d_fake: Tensor, a=0.0, b=1.0, loss="ls") -> Tensor:
    """What D minimizes. ls: the first line of Eq. 10. sigmoid: Eq. 1, the cross entropy of logits."""
    if loss == "ls":
        return 0.5 * (d_real - b).square().mean() + 0.5 * (d_fake - a).square().mean()
    if loss == "sigmoid":
        return F.softplus(-d_real).mean() + F.softplus(d_fake).mean()
    raise ValueError(f"loss must be ls or sigmoid, not {loss!r}")


def generator_loss(d_fake: Tensor, c=1.0, loss="ls") -> Tensor:
    """What G minimizes. ls: the second line of Eq. 10. sigmoid: the non-saturating -log sigmoid(D(G(z)))."""
    if loss == "ls":
        return 0.5 * (d_fake - c).square().mean()
    if loss == "sigmoid":
        return F.softplus(-d_fake).mean()
    raise ValueError(f"loss must be ls or sigmoid, not {loss!r}")


# ---------------------------------------------------------------- training step
def train_step(G, D, opt_g, opt_d, real, z, y, loss="ls", a=0.0, b=1.0, c=1.0, amp=False) -> Tensor:
    """Updates D, then G with the same z and y. Returns d_loss, g_loss, mean D(x|y), mean D(G(z|y)|y).

    real: [B, 1, 28, 28] in [0, 1]. z: [B, z_dim]. y: [B], the classes of the real pictures, and of the fake
    ones too. With loss="sigmoid" the means are of sigmoid(D). amp: bfloat16 forward passes; the losses are in
    float32 if D ends in a LastLinear. All of D's parameters require gradients afterwards.
    """
    with torch.autocast(real.device.type, torch.bfloat16, enabled=amp):
        fake = G(z, y)  # for both updates: G does not change in between
        d_real = D(real, y)  # real and fake pictures apart: each has its own BN statistics
        d_fake = D(fake.detach(), y)
    d_loss = discriminator_loss(d_real, d_fake, a, b, loss)
    opt_d.zero_grad()
    d_loss.backward()
    opt_d.step()

    D.requires_grad_(False)  # only the gradient of D's input is needed now
    with torch.autocast(real.device.type, torch.bfloat16, enabled=amp):
        d_fake_for_g = D(fake, y)
    g_loss = generator_loss(d_fake_for_g, c, loss)
    opt_g.zero_grad()
    g_loss.backward()
    opt_g.step()
    D.requires_grad_(True)

    if loss == "sigmoid":
        d_real, d_fake = d_real.sigmoid(), d_fake.sigmoid()
    return torch.stack([d_loss, g_loss, d_real.mean(), d_fake.mean()]).detach()


# ---------------------------------------------------------------- sampling and figures
@torch.no_grad()
def generate(G: nn.Module, z: Tensor, y: Tensor) -> Tensor:
    """uint8 pictures [n, H, W, channels] on the CPU, in eval mode: each depends on its own z and y only."""
    was_training = G.training
    G.eval()
    images = G.forward(z, y)  # stays eager where G.compile() was called
    G.train(was_training)
    return (images * 255).round().clamp(0, 255).byte().permute(0, 2, 3, 1).cpu()


def save_grid(pictures: Tensor, path: Path, columns: int = 8) -> None:
    """Writes uint8 pictures [n, H, W, channels] as one PNG."""
    with runs.write_file(path) as file:
        save_image(pictures.permute(0, 3, 1, 2) / 255, file, format="png", nrow=columns, pad_value=1)


def choose_grid(
    characters: Characters, args: Namespace, device: torch.device
) -> tuple[Tensor, Tensor, Tensor]:
    """For the grids: 64 random real characters, uint8 [64, 28, 28, 1], and for each a z and its class."""
    indices = torch.from_numpy(rng(args.seed, CLASSES).integers(len(characters.labels), size=64))
    reals = characters.pictures[indices].unsqueeze(-1)
    z = noise(64, args.z_dim, args.seed, GRID, 0)
    return reals, z.to(device), characters.labels[indices].to(device)


def alternate_rows(reals: Tensor, fakes: Tensor) -> Tensor:
    """For a grid of 16 columns: rows of real pictures, below each the generated ones of the same classes."""
    rows = []
    for real_row, fake_row in zip(reals.split(16), fakes.split(16)):
        rows += [real_row, fake_row]
    return torch.cat(rows)


def warn_of_collapse(step: int, fakes: Tensor, reals: Tensor) -> None:
    """Warns if generated pictures [n, H, W, channels] vary less than a tenth as much as real ones."""
    if fakes.float().std(0).mean() < 0.1 * reals.float().std(0).mean():
        tqdm.write(f"step {step}: warning: the samples hardly differ: G has collapsed or is untrained")


def sample(args: Namespace) -> None:
    """--sample: writes samples.npy, uint8 [n, 28, 28, 1], labels.npy, int64 [n], and grid.png (the first 64).

    With --text of k characters: n rows of that text, a z for each row, so n * k pictures; grid.png shows the
    first 64 rows. A label is an index into the checkpoint's "class_names".
    """
    out = Path(args.out)
    for name in ("samples.npy", "labels.npy", "grid.png"):
        if os.path.exists(out / name):
            raise DataError(f"{out / name} exists; --out FOLDER writes elsewhere")
    device = runs.pick_device(args.gpu)
    runs.set_arithmetic(args.tf32)
    class_names = load_class_names(args.sample)
    with torch.random.fork_rng(devices=[]):  # new layers draw from the global generator
        G = Generator(len(class_names), args.width, args.z_dim)
    if args.ema:
        averaged = AveragedModel(G)
        runs.load_checkpoint(args.sample, {"ema": averaged})
        G = averaged.module
    else:
        runs.load_checkpoint(args.sample, {"G": G})
    G.to(device)
    padded_n = math.ceil(args.n / 64) * 64  # whole batches of 64, cut to n below
    y = choose_labels(args, class_names, padded_n)  # [padded_n, k]
    runs.make_folder(out)
    pictures = torch.empty(*y.shape, 28, 28, 1, dtype=torch.uint8)
    for i in tqdm(range(0, padded_n, 64), unit_scale=64, unit=" rows", disable=None):
        # Always 64, so that a picture does not depend on --n: other batch sizes round differently.
        z = noise(64, args.z_dim, args.seed, SAMPLE, i // 64).to(device)
        for column in range(y.shape[1]):
            pictures[i : i + 64, column] = generate(G, z, y[i : i + 64, column].to(device))
    pictures, y = pictures[: args.n], y[: args.n]
    with runs.write_file(out / "samples.npy") as file:
        np.save(file, pictures.flatten(0, 1).numpy())
    with runs.write_file(out / "labels.npy") as file:
        np.save(file, y.flatten().numpy())
    columns = len(args.text) if args.text else 8
    save_grid(pictures[:64].flatten(0, 1), out / "grid.png", columns)
    print(f"wrote {out / 'samples.npy'} ({y.numel()} pictures), {out / 'labels.npy'} and {out / 'grid.png'}")


def load_class_names(path: str) -> list[str]:
    """The names of a checkpoint's classes."""
    class_names = runs.load_checkpoint(path).get("class_names")
    if not isinstance(class_names, list) or not all(isinstance(name, str) for name in class_names):
        raise DataError(f"{path} is not a checkpoint of characters: it has no class names")
    return class_names


def choose_labels(args: Namespace, class_names: list[str], n: int) -> Tensor:
    """Class ids, int64: with --text of k characters [n, k], that text n times.

    Without it [n, 1]: all classes in a random order, repeated as needed.
    """
    if not args.text:
        order = torch.from_numpy(rng(args.seed, CLASSES).permutation(len(class_names)))
        repeated = order.repeat(n // len(class_names) + 1)
        return repeated[:n].unsqueeze(1)
    unknown = [repr(character) for character in dict.fromkeys(args.text) if character not in class_names]
    if unknown:
        known = " ".join(class_names[:20]) + (" ..." if len(class_names) > 20 else "")
        classes = f"the {len(class_names)} classes of {args.sample}: {known}"
        raise DataError(f"--text: {', '.join(unknown)} not among {classes}")
    return torch.tensor([class_names.index(character) for character in args.text]).repeat(n, 1)


# ---------------------------------------------------------------- train
def ema_with_warm_up(decay: float) -> Callable:
    """An exponential moving average whose decay warms up, for AveragedModel's multi_avg_fn.

    The first update copies G; the n-th after it has the decay min(decay, (1 + n) / (10 + n)), which is
    TensorFlow's rule (num_updates). With the full decay from the start the first step's weights and
    BN statistics would last too long: after 1,000 updates of decay 0.999 they would be 37% of the average.
    """

    def update(averages: list[Tensor], values: list[Tensor], updates: Tensor) -> None:
        n = int(updates)
        average = get_ema_multi_avg_fn(min(decay, (1 + n) / (10 + n)))
        average(averages, values, n)

    return update


def make_networks(args: Namespace, classes: int, device: torch.device, world: int) -> dict:
    """G, D and their optimizers, and with --ema the average of G, as at the beginning of a run."""
    # fork_rng: new layers draw from the global generator, which is left as it was.
    with torch.random.fork_rng(devices=[]):
        G = Generator(classes, args.width, args.z_dim)
        D = Discriminator(classes, args.width)
    init_weights(G, torch_rng(args.seed, INIT_G))
    init_weights(D, torch_rng(args.seed, INIT_D))
    if world > 1 and device.type == "cuda":  # so that N GPUs compute what one would
        G = nn.SyncBatchNorm.convert_sync_batchnorm(G)
        D = nn.SyncBatchNorm.convert_sync_batchnorm(D)
    G.to(device, memory_format=torch.channels_last)
    D.to(device, memory_format=torch.channels_last)
    opt_g = torch.optim.Adam(G.parameters(), args.lr, betas=(args.beta1, 0.999), fused=True)
    opt_d = torch.optim.Adam(D.parameters(), args.lr, betas=(args.beta1, 0.999), fused=True)
    state = {"G": G, "D": D, "opt_g": opt_g, "opt_d": opt_d}
    if args.ema:
        state["ema"] = AveragedModel(G, multi_avg_fn=ema_with_warm_up(args.ema), use_buffers=True)
    if world > 1:  # instead of DistributedDataParallel: see runs.average_gradients
        opt_g.register_step_pre_hook(runs.average_gradients)
        opt_d.register_step_pre_hook(runs.average_gradients)
    if args.compile:
        G.compile()
        D.compile()
    return state


def open_data(args: Namespace, world: int) -> Characters:
    """The characters. DataError if the batch size does not fit them, or if --resume finds other classes."""
    characters = open_characters(args.data, args.charset, args.classes or None, args.fit)
    n = len(characters.labels)
    runs.check_batch_size(args.batch_size, world, n)
    if args.resume and load_class_names(args.resume) != characters.class_names:
        classes = f"the {len(characters.class_names)} classes of {args.data}"
        raise DataError(f"{classes} are not those of {args.resume}")
    return characters


def make_update(args: Namespace, state: dict, device: torch.device) -> Callable[..., Tensor]:
    """update(real, z, y): train_step with this run's settings; with --graph captured as a CUDA graph."""
    G, D, opt_g, opt_d = state["G"], state["D"], state["opt_g"], state["opt_d"]
    settings = {"loss": args.loss, "a": args.a, "b": args.b, "c": args.c, "amp": args.amp}
    update = partial(train_step, G, D, opt_g, opt_d, **settings)
    if args.graph:
        return runs.Graph(update, [opt_g, opt_d], device)
    return update


def due(step: int, every: int, last: int) -> bool:
    """True at every multiple of `every` and at the last one; never if every is 0."""
    return every > 0 and (step % every == 0 or step == last)


def train(args: Namespace) -> None:
    """Trains G and D with the settings in args, and writes checkpoints, log and grids to args.out."""
    device = runs.pick_device(args.gpu, args.graph)
    rank, world = runs.join_processes(device)
    runs.set_arithmetic(args.tf32)

    characters = open_data(args, world)
    pictures, labels = characters.pictures.to(device), characters.labels.to(device)
    state = make_networks(args, len(characters.class_names), device, world)
    G, D = state["G"], state["D"]
    shown = state["ema"].module if args.ema else G  # the network that pictures come from
    reals, grid_z, grid_y = choose_grid(characters, args, device)
    share = runs.own_share(args.batch_size, rank, world)
    out = Path(args.out)

    with runs.open_run(out, args.resume, rank), runs.catch_signals() as caught:
        start, log_rows = runs.restore(args, state, characters.fingerprint)
        order = batch_order(len(pictures), args.batch_size, args.seed, start)
        own_order = (indices[share] for indices in order)
        batches = load_batches(pictures, labels, own_order)
        update = make_update(args, state, device)  # after restore: see runs.Graph

        def save(name: str, step: int) -> None:
            runs.check_finite(step, out, [*G.parameters(), *D.parameters()])
            runs.save_checkpoint(
                out / name,
                state,
                args=runs.saved_args(args),
                step=step,
                log=log_rows,
                data=characters.fingerprint,
                class_names=characters.class_names,
            )

        if rank == 0:
            save("last.pt", start)  # first of all, so that a run stopped at any moment can be resumed
            runs.write_args_and_log(out, args, log_rows)
            runs.print_start(out, len(pictures), start, args, world, device)
        log = runs.Log(out, log_rows, start, args.steps, args.batch_size, rank)  # appends to log_rows

        for step in range(start + 1, args.steps + 1):
            batch, y = next(batches)
            real = batch.unsqueeze(1) / 255  # [B, 1, 28, 28] in [0, 1]
            z = noise(args.batch_size, args.z_dim, args.seed, Z, step)[share]
            losses = update(real, runs.to_device(z, device), y)
            if args.ema:
                state["ema"].update_parameters(G)
            log.bar.update()
            # Nothing up to here waits for the device, except --ema, which reads its number of updates.

            if step == 1 or due(step, args.log_every, args.steps):
                losses = runs.average(losses)
                runs.check_finite(step, out, [losses, *G.parameters(), *D.parameters()])
                log.write(step, losses)

            if rank == 0 and due(step, args.sample_every, args.steps):
                fakes = generate(shown, grid_z, grid_y)
                save_grid(alternate_rows(reals, fakes), out / "samples" / f"step_{step:08}.png", columns=16)
                warn_of_collapse(step, fakes, reals)

            if rank == 0 and due(step, args.keep_every, args.steps):
                save(f"step_{step:08}.pt", step)

            stopped = runs.agree_to_stop(caught, step, args.log_every, device)
            if rank == 0 and (stopped or due(step, args.save_every, args.steps)):
                # After this step's grid and step_N.pt, which a run resumed from here would not make again
                save("last.pt", step)
                runs.save_curves(out / "curves.png", log_rows)
                runs.save_progress(out / "samples")

            if stopped:
                runs.exit_stopped(stopped, step, out)


def main(argv: list[str] | None = None) -> None:
    """The command line; argv is by default sys.argv[1:]."""
    with one_line_errors(Path(__file__).name, sizes=SIZES):
        args = parse_args(argv)
        if args.sample:
            sample(args)
        else:
            runs.check_unused(Path(args.out), args.resume)  # at once: to read the data can take minutes
            train(args)


if __name__ == "__main__":
    main()
