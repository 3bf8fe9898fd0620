"""LSGAN on scenes at 112x112: the networks of Figure 3 trained with Equation 2 (Figures 5 and 6).

    python lsgan_scenes.py --data lsun/bedroom --gpu 0                     # the paper's run
    python lsgan_scenes.py --data lsun/bedroom --gpu 0 --resume            # go on where it stopped
    python lsgan_scenes.py --sample runs/lsgan_scenes-bedroom-ls-seed0/last.pt --n 64
    torchrun --nproc-per-node 8 lsgan_scenes.py --data lsun/bedroom        # the same run on eight GPUs
    python lsgan_scenes.py --size 32 --width 24 --batch-size 32 --z-dim 64 --beta1 0 --ema 0.999 --steps 4500

One H200 trains on 6,070 images a second at batch 64 (float32 with TF32), and on 3,770 if 16 workers read them
from an LMDB. docs/speed.md and docs/results.md have the conditions and what came out. Pictures are squashed
to squares, as in the authors' code; --fit crop crops them. Everything from Generator to train_step needs
PyTorch alone: copy it into your project.

Differences from the authors' code (github.com/xudonmao/LSGAN): losses are means over the batch, theirs are
sums (a constant factor hardly matters to Adam). One G forward serves both updates, so G's running BN
statistics are updated once a step, not twice; our running variance is the unbiased one, theirs the biased. In
layers of stride 2 the extra row and column of padding are at the top and left, where TensorFlow's SAME has
them at the bottom and right: the same networks rotated by 180 degrees. We shuffle all data every epoch; they
shuffle within a buffer of 1,000 pictures.
"""

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
from torch.utils.data import DataLoader
from torchvision.utils import save_image
from tqdm import tqdm

from data import DataError, make_parser, one_line_errors, runs
from data.images import Images, decode_all, open_images
from data.runs import at_least, below_one, between, finite, multiple_of, not_empty

IN_MEMORY = 2e9  # bytes of decoded pictures that a run keeps on its device; larger data are read by workers
SIZES = "--batch-size, --size, --width, --z-dim or --n"  # what decides how much memory a run takes
# Independent streams of random numbers; ORDER shuffles an epoch
INIT_G, INIT_D, Z, GRID, SAMPLE, AUGMENT, ORDER = 0, 1, 2, 3, 4, 5, 1000


# ---------------------------------------------------------------- settings
def parse_args(argv: list[str] | None = None) -> Namespace:
    """Parses argv, by default sys.argv[1:]. With --resume or --sample the checkpoint gives the defaults."""
    parser = make_parser(Path(__file__).name, "LSGAN on scenes at 112x112 (Figures 3, 5 and 6)")
    add = parser.add_argument_group("data").add_argument
    add("--data", type=not_empty, default="rooms", help="lsun/bedroom, a folder, cifar10, or toy rooms")
    add("--fit", choices=["squash", "crop"], default="squash", help="how a picture becomes square")
    add("--limit", type=at_least(0), default=0, help="use only this many pictures, evenly spaced; 0: all")
    add("--workers", type=at_least(0), help="data workers per process; unset: its share of cores")
    add("--augment", type=between(0, 1, float), default=0.0, help="DiffAugment and flips: strength, 0 to 1")
    add = parser.add_argument_group("model").add_argument
    add("--size", type=multiple_of(16), default=112, help="side of the pictures, a multiple of 16")
    add("--width", type=at_least(1), default=64, help="channels of D's first layer; scales all others")
    add("--z-dim", type=at_least(1), default=1024, help="dimension of the noise z")
    add = parser.add_argument_group("loss").add_argument
    add("--loss", choices=["ls", "sigmoid"], default="ls", help="least squares, or the regular GAN's loss")
    add("--a", type=finite, default=0.0, help="least squares: D's target for fake (-1 in Eq. 8)")
    add("--b", type=finite, default=1.0, help="least squares: D's target for real (1 in Eq. 8)")
    add("--c", type=finite, default=1.0, help="least squares: G's target for fake (0 in Eq. 8)")
    add = parser.add_argument_group("optimizer").add_argument
    add("--lr", type=at_least(0, float), default=1e-3, help="learning rate, for G and D")
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

    return runs.parse_args(parser, argv, default_out)


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


def augment_numbers(batch_size: int, seed: int, step: int) -> Tensor:
    """Random numbers for `augment`, of the real and the fake images of a step: uniform(0, 1), [2, B, 8]."""
    return torch.from_numpy(rng(seed, AUGMENT, step).random((2, batch_size, 8), dtype=np.float32))


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
    """z [B, z_dim] -> images [B, 3, size, size] in [-1, 1]. Figure 3a; authors' code: vgg.py.

    size: a multiple of 16. width: channels of the last hidden layer; scales all others.
    """

    def __init__(self, size: int = 112, width: int = 64, z_dim: int = 1024):
        def deconv_block(c_in, c_out, stride):
            # output_padding: so that stride 2 doubles the size
            deconv = nn.ConvTranspose2d(c_in, c_out, 3, stride, padding=1, output_padding=stride - 1)
            return deconv, nn.BatchNorm2d(c_out), nn.ReLU(inplace=True)

        if size % 16:
            raise ValueError(f"size must be a multiple of 16, not {size}")
        w = width
        s = size // 16
        super().__init__(  # shapes at the paper's sizes
            nn.Linear(z_dim, 4 * w * s * s),
            nn.Unflatten(1, (4 * w, s, s)),  # 256 x 7 x 7
            nn.BatchNorm2d(4 * w),
            nn.ReLU(inplace=True),
            *deconv_block(4 * w, 4 * w, stride=2),  # 256 x 14 x 14
            *deconv_block(4 * w, 4 * w, stride=1),  # 256 x 14 x 14
            *deconv_block(4 * w, 4 * w, stride=2),  # 256 x 28 x 28
            *deconv_block(4 * w, 4 * w, stride=1),  # 256 x 28 x 28
            *deconv_block(4 * w, 2 * w, stride=2),  # 128 x 56 x 56
            *deconv_block(2 * w, w, stride=2),  # 64 x 112 x 112
            nn.ConvTranspose2d(w, 3, 3, stride=1, padding=1),  # 3 x 112 x 112
            nn.Tanh(),
        )


class LastLinear(nn.Linear):
    """D's last layer: in float32 under autocast too, as bfloat16 is too coarse for the losses."""

    def forward(self, x: Tensor) -> Tensor:
        with torch.autocast(x.device.type, enabled=False):
            return super().forward(x.to(self.weight.dtype))


class Discriminator(nn.Sequential):
    """images [B, 3, size, size] in [-1, 1] -> D(x) [B], any real number. Figure 3b; authors' code: vgg.py.

    size: a multiple of 16. width: channels of the first layer; scales all others.
    """

    def __init__(self, size: int = 112, width: int = 64):
        def conv_block(c_in, c_out):
            conv = nn.Conv2d(c_in, c_out, 5, stride=2, padding=2)
            return conv, nn.BatchNorm2d(c_out), nn.LeakyReLU(0.2, inplace=True)

        if size % 16:
            raise ValueError(f"size must be a multiple of 16, not {size}")
        w = width
        s = size // 16
        super().__init__(  # shapes at the paper's sizes
            nn.Conv2d(3, w, 5, stride=2, padding=2),  # 64 x 56 x 56, no BN
            nn.LeakyReLU(0.2, inplace=True),
            *conv_block(w, 2 * w),  # 128 x 28 x 28
            *conv_block(2 * w, 4 * w),  # 256 x 14 x 14
            *conv_block(4 * w, 8 * w),  # 512 x 7 x 7
            nn.Flatten(),
            LastLinear(8 * w * s * s, 1),  # no sigmoid: least squares regresses onto a and b
            nn.Flatten(0),  # [B, 1] -> [B]
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


# ---------------------------------------------------------------- augmentation
def augment(images: Tensor, u: Tensor, strength: float = 1.0) -> Tensor:
    """DiffAugment (Zhao et al. 2020) and flips, for real and fake alike, so that D cannot memorize pictures.

    images: [B, C, size, size] in [-1, 1]. u: [B, 8], uniform(0, 1), the random numbers of each image.
    strength: 0 leaves the images as they are, up to rounding; 1 gives the ranges in the comments, which are
    DiffAugment's, and flips half of the images. Differentiable with respect to the images.
    """
    n, size = images.shape[0], images.shape[-1]
    brightness, saturation, contrast, flip, down, right, cutout_y, cutout_x = u.unbind(1)  # [B] each

    # Brightness +-0.5, saturation 0 to 2, contrast 0.5 to 1.5.
    images = images + strength * (brightness - 0.5)[:, None, None, None]
    grey = images.mean(1, keepdim=True)
    images = grey + (1 + strength * (2 * saturation - 1))[:, None, None, None] * (images - grey)
    mean = images.mean((1, 2, 3), keepdim=True)
    images = mean + (1 + strength * (contrast - 0.5))[:, None, None, None] * (images - mean)

    # Shifts by whole pixels, up to an eighth of the picture, and left-right flips of half of the pictures.
    # rows[b, i]: which row of the padded image b becomes row i of the result; columns likewise.
    max_shift = round(strength * size / 8)
    padded = F.pad(images, [max_shift] * 4).permute(0, 2, 3, 1)
    pixel = torch.arange(size, device=images.device)
    top = 2 * max_shift - (down * (2 * max_shift + 1)).long()  # [B], 0 to 2 * max_shift, equally likely
    left = 2 * max_shift - (right * (2 * max_shift + 1)).long()
    rows = top[:, None] + pixel
    columns = left[:, None] + pixel
    flipped = flip[:, None] < strength / 2
    columns = torch.where(flipped, columns.flip(1), columns)
    batch_index = torch.arange(n, device=images.device)
    images = padded[batch_index[:, None, None], rows[:, :, None], columns[:, None, :]].permute(0, 3, 1, 2)

    # Cutout: a grey square, half the picture's side, with its centre anywhere in the picture.
    centre_y = size * cutout_y
    centre_x = size * cutout_x
    cutout_rows = (pixel + 0.5 - centre_y[:, None]).abs() < strength * size / 4  # [B, size]
    cutout_columns = (pixel + 0.5 - centre_x[:, None]).abs() < strength * size / 4
    cutout = cutout_rows[:, None, :, None] & cutout_columns[:, None, None, :]
    return images.masked_fill(cutout, 0)


# ---------------------------------------------------------------- training step
def train_step(
    G, D, opt_g, opt_d, real, z, u=None, loss="ls", a=0.0, b=1.0, c=1.0, amp=False, augment_strength=1.0
) -> Tensor:
    """Updates D, then G with the same z. Returns d_loss, g_loss, mean D(x), mean D(G(z)), on the device.

    real: [B, 3, size, size] in [-1, 1]. z: [B, z_dim]. u: None, or random numbers [2, B, 8], uniform(0, 1),
    for `augment` of the real and of the fake images, with augment_strength. With loss="sigmoid" the means are
    of sigmoid(D). amp: bfloat16 forward passes; the losses are in float32 if D ends in a LastLinear. All of
    D's parameters require gradients afterwards.
    """
    with torch.autocast(real.device.type, torch.bfloat16, enabled=amp):
        fake = G(z)  # for both updates: G does not change in between
        if u is not None:
            real = augment(real, u[0], augment_strength)
            fake = augment(fake, u[1], augment_strength)
        d_real = D(real)  # real and fake pictures apart: each has its own BN statistics
        d_fake = D(fake.detach())
    d_loss = discriminator_loss(d_real, d_fake, a, b, loss)
    opt_d.zero_grad()
    d_loss.backward()
    opt_d.step()

    D.requires_grad_(False)  # only the gradient of D's input is needed now
    with torch.autocast(real.device.type, torch.bfloat16, enabled=amp):
        d_fake_for_g = D(fake)
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


def warn_of_collapse(step: int, fakes: Tensor, reals: Tensor) -> None:
    """Warns if generated pictures [n, H, W, channels] vary less than a tenth as much as real ones."""
    if fakes.float().std(0).mean() < 0.1 * reals.float().std(0).mean():
        tqdm.write(f"step {step}: warning: the samples hardly differ: G has collapsed or is untrained")


def sample(args: Namespace) -> None:
    """--sample: writes samples.npy, uint8 [n, size, size, 3], and the first 64 pictures as grid.png."""
    out = Path(args.out)
    for name in ("samples.npy", "grid.png"):
        if os.path.exists(out / name):
            raise DataError(f"{out / name} exists; --out FOLDER writes elsewhere")
    device = runs.pick_device(args.gpu)
    runs.set_arithmetic(args.tf32)
    with torch.random.fork_rng(devices=[]):  # new layers draw from the global generator
        G = Generator(args.size, args.width, args.z_dim)
    if args.ema:
        averaged = AveragedModel(G)
        runs.load_checkpoint(args.sample, {"ema": averaged})
        G = averaged.module
    else:
        runs.load_checkpoint(args.sample, {"G": G})
    G.to(device)
    runs.make_folder(out)
    pictures = torch.empty(args.n, args.size, args.size, 3, dtype=torch.uint8)
    for i in tqdm(range(0, args.n, 64), unit_scale=64, unit=" images", disable=None):
        # Always 64, so that a picture does not depend on --n: other batch sizes round differently.
        z = noise(64, args.z_dim, args.seed, SAMPLE, i // 64)
        pictures[i : i + 64] = generate(G, z.to(device))[: args.n - i]
    with runs.write_file(out / "samples.npy") as file:
        np.save(file, pictures.numpy())
    save_grid(pictures[:64], out / "grid.png")
    print(f"wrote {out / 'samples.npy'} ({args.n} pictures) and {out / 'grid.png'}")


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


def make_networks(args: Namespace, device: torch.device, world: int) -> dict:
    """G, D and their optimizers, and with --ema the average of G, as at the beginning of a run."""
    # fork_rng: new layers draw from the global generator, which is left as it was.
    with torch.random.fork_rng(devices=[]):
        G = Generator(args.size, args.width, args.z_dim)
        D = Discriminator(args.size, args.width)
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


def open_data(args: Namespace, device: torch.device, world: int) -> tuple[Tensor | Images, str]:
    """The pictures and their fingerprint: up to IN_MEMORY bytes decoded onto the device; else Images."""
    images = open_images(args.data, args.size, args.fit, args.limit or None)
    runs.check_batch_size(args.batch_size, world, len(images))
    if images.nbytes <= IN_MEMORY:
        return decode_all(images).to(device), images.fingerprint
    runs.check_shared_memory(args.workers, args.batch_size // world * 3 * args.size**2)
    return images, images.fingerprint


def make_update(args: Namespace, state: dict, device: torch.device) -> Callable[..., Tensor]:
    """update(real, z), or with --augment update(real, z, u): train_step with this run's settings.

    With --graph it is captured as a CUDA graph.
    """
    G, D, opt_g, opt_d = state["G"], state["D"], state["opt_g"], state["opt_d"]
    settings = {"loss": args.loss, "a": args.a, "b": args.b, "c": args.c, "amp": args.amp}
    update = partial(train_step, G, D, opt_g, opt_d, augment_strength=args.augment, **settings)
    if args.graph:
        return runs.Graph(update, [opt_g, opt_d], device)
    return update


def draw_noise(args: Namespace, step: int, share: slice, device: torch.device) -> list[Tensor]:
    """This process's share of what is random in a step: z [B, z_dim]; with --augment also u [2, B, 8]."""
    drawn = [noise(args.batch_size, args.z_dim, args.seed, Z, step)[share]]
    if args.augment:
        drawn.append(augment_numbers(args.batch_size, args.seed, step)[:, share])
    return [runs.to_device(numbers, device) for numbers in drawn]


def due(step: int, every: int, last: int) -> bool:
    """True at every multiple of `every` and at the last one; never if every is 0."""
    return every > 0 and (step % every == 0 or step == last)


def train(args: Namespace) -> None:
    """Trains G and D with the settings in args, and writes checkpoints, log and grids to args.out."""
    device = runs.pick_device(args.gpu, args.graph)
    rank, world = runs.join_processes(device)
    runs.set_arithmetic(args.tf32)

    pictures, fingerprint = open_data(args, device, world)
    state = make_networks(args, device, world)
    G, D = state["G"], state["D"]
    shown = state["ema"].module if args.ema else G  # the network that pictures come from
    grid_z = noise(64, args.z_dim, args.seed, GRID, 0).to(device)
    share = runs.own_share(args.batch_size, rank, world)
    out = Path(args.out)

    with runs.open_run(out, args.resume, rank), runs.catch_signals() as caught:
        start, log_rows = runs.restore(args, state, fingerprint)
        order = batch_order(len(pictures), args.batch_size, args.seed, start)
        own_order = (indices[share] for indices in order)
        batches = load_batches(pictures, own_order, device, args.workers)
        update = make_update(args, state, device)  # after restore: see runs.Graph

        def save(name: str, step: int) -> None:
            runs.check_finite(step, out, [*G.parameters(), *D.parameters()])
            runs.save_checkpoint(
                out / name, state, args=runs.saved_args(args), step=step, log=log_rows, data=fingerprint
            )

        if rank == 0:
            save("last.pt", start)  # first of all, so that a run stopped at any moment can be resumed
            runs.write_args_and_log(out, args, log_rows)
            runs.print_start(out, len(pictures), start, args, world, device)
        log = runs.Log(out, log_rows, start, args.steps, args.batch_size, rank)  # appends to log_rows

        for step in range(start + 1, args.steps + 1):
            batch = next(batches)
            real = batch.permute(0, 3, 1, 2) / 127.5 - 1  # [B, 3, size, size] in [-1, 1], channels_last
            losses = update(real, *draw_noise(args, step, share, device))
            if args.ema:
                state["ema"].update_parameters(G)
            log.bar.update()
            # Nothing up to here waits for the device, except --ema, which reads its number of updates.

            if step == 1 or due(step, args.log_every, args.steps):
                losses = runs.average(losses)
                runs.check_finite(step, out, [losses, *G.parameters(), *D.parameters()])
                log.write(step, losses)

            if rank == 0 and due(step, args.sample_every, args.steps):
                fakes = generate(shown, grid_z)
                save_grid(fakes, out / "samples" / f"step_{step:08}.png")
                warn_of_collapse(step, fakes, batch)

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
