"""LSGAN on scenes at 112x112: the networks of Figure 3 trained with Equation 2 (Figures 5 and 6).

    python lsgan_scenes.py --size 32 --width 24 --batch-size 16 --z-dim 64 --lr 2e-4 --steps 5000  # toys
    python lsgan_scenes.py --data lsun/bedroom --gpu 0                     # the paper's run
    python lsgan_scenes.py --data lsun/bedroom --gpu 0 --resume            # go on where it stopped
    python lsgan_scenes.py --sample runs/lsgan_scenes-bedroom-ls-seed0/last.pt --n 64
    torchrun --nproc-per-node 8 lsgan_scenes.py --data lsun/bedroom        # the same run on eight GPUs

Differences from the authors' code: losses are means over the batch (theirs are sums; Adam does not notice).
One G forward serves both updates, so G's running BN statistics move once a step, not twice. SAME padding is
TensorFlow's turned by 180 degrees, equivalent as initial weights are i.i.d. Everything random is seeded.
"""

import json
import os
import sys
import time
from argparse import ArgumentDefaultsHelpFormatter, ArgumentParser, BooleanOptionalAction, Namespace
from pathlib import Path

os.environ.setdefault("GOMP_SPINCOUNT", "3000")  # threads that wait soon leave their core to the data workers
import numpy as np
import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor, nn
from torchvision.utils import save_image
from tqdm import tqdm

from data import DataError, runs
from data.images import open_images


# ---------------------------------------------------------------- settings
def parse_args(argv: list[str] | None = None, saved: dict | None = None) -> Namespace:
    """Flags -> Namespace. `saved`, a checkpoint's arguments, are the defaults and may not be contradicted."""
    parser = ArgumentParser(formatter_class=ArgumentDefaultsHelpFormatter, allow_abbrev=False)
    parser.error = fail
    add = parser.add_argument_group("data").add_argument
    add("--data", default="rooms", help="LSUN LMDB (lsun/bedroom), folder of pictures, cifar10, or toy rooms")
    add("--fit", choices=["squash", "crop"], default="squash", help="how a picture becomes square")
    add("--limit", type=int, default=0, help="use only so many pictures, spread evenly; 0: all")
    add("--workers", type=int, default=2, help="processes that read data; 0: read in this one")
    add = parser.add_argument_group("model").add_argument
    add("--size", type=int, default=112, help="side of the pictures, a multiple of 16")
    add("--width", type=int, default=64, help="channels of D's first layer; all others scale with it")
    add("--z-dim", type=int, default=1024, help="dimension of the noise z")
    add = parser.add_argument_group("loss").add_argument
    add("--loss", choices=["ls", "sigmoid"], default="ls", help="least squares, or the regular GAN's loss")
    add("--a", type=float, default=0.0, help="least squares: D's target for fake (-1 in Eq. 8)")
    add("--b", type=float, default=1.0, help="least squares: D's target for real (1 in Eq. 8)")
    add("--c", type=float, default=1.0, help="least squares: G's target for fake (0 in Eq. 8)")
    add = parser.add_argument_group("optimiser").add_argument
    add("--lr", type=float, default=1e-3, help="learning rate, for G and D")
    add("--beta1", type=float, default=0.5, help="Adam's first decay rate")
    add("--batch-size", type=int, default=64, help="pictures a step, whatever the number of processes")
    add("--steps", type=int, default=1_000_000, help="steps in all; a larger value extends a finished run")
    add = parser.add_argument_group("run").add_argument
    add("--seed", type=int, default=0, help="everything random follows from it")
    add("--gpu", type=int, help="number of the GPU; -1: the CPU; unset: GPU 0 if there is one")
    add("--amp", action=BooleanOptionalAction, help="bfloat16 forward passes; unset: on GPUs made for it")
    add("--compile", action=BooleanOptionalAction, default=False, help="torch.compile both networks")
    add("--out", help="run directory; unset: runs/<script>-<data>-<loss>-seed<k>")
    add("--resume", nargs="?", const=True, metavar="FILE", help="go on from the run's last.pt, or FILE")
    add("--sample", metavar="FILE", help="write grid.png and samples.npy from a checkpoint, no training")
    add("--n", type=int, default=64, help="number of pictures for --sample")
    add("--log-every", type=int, default=50, help="steps between rows of log.csv")
    add("--sample-every", type=int, default=1000, help="steps between grids in samples/")
    add("--save-every", type=int, default=1000, help="steps between saves of last.pt")
    add("--keep-every", type=int, default=0, help="steps between checkpoints that stay; 0: only the last")
    args = parser.parse_args(argv, Namespace(**(saved or {})))

    at_least = dict.fromkeys("limit workers lr beta1 steps seed keep_every".split(), 0)
    at_least |= dict.fromkeys("size width z_dim batch_size n log_every sample_every save_every".split(), 1)
    for name, least in at_least.items():
        if not getattr(args, name) >= least:
            fail(f"--{name.replace('_', '-')} must be at least {least}")
    if not args.beta1 < 1:
        fail("--beta1 must be less than 1")
    if args.size % 16:
        fail(f"--size must be a multiple of 16, as D halves it four times; {args.size} is not")
    for name, value in (saved or {}).items():
        free = ("steps", "workers", "compile", "log_every", "sample_every", "save_every", "keep_every")
        if getattr(args, name) != value and name not in free and not (args.sample and name == "seed"):
            fail(f"--{name.replace('_', '-')} is {value} in the checkpoint and cannot change")
    default_out = f"runs/{Path(__file__).stem}-{Path(args.data).name}-{args.loss}-seed{args.seed}"
    if args.resume is True:
        args.resume = str(Path(args.out or default_out, "last.pt"))
    checkpoint = args.sample or args.resume
    args.out = args.out or (str(Path(checkpoint).parent) if checkpoint else default_out)
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


# ---------------------------------------------------------------- randomness
INIT_G, INIT_D, Z, GRID, SAMPLE = range(5)  # independent streams; runs.load_batches has its own


def rng(seed: int, stream: int, step: int) -> np.random.Generator:
    """A private generator: randomness is a function of (seed, stream, step), so there is no state to save."""
    return np.random.default_rng(np.random.SeedSequence([seed, stream, step]))


def noise(n: int, z_dim: int, seed: int, stream: int, step: int) -> Tensor:
    """z [n, z_dim], uniform(-1, 1); drawn on the CPU, so the same on every device."""
    return torch.from_numpy(rng(seed, stream, step).random((n, z_dim), dtype=np.float32) * 2 - 1)


# ---------------------------------------------------------------- networks
class Generator(nn.Sequential):
    """z [B, z_dim] -> images [B, 3, size, size] in [-1, 1]. Figure 3a; authors' code: vgg.py."""

    def __init__(self, size: int = 112, width: int = 64, z_dim: int = 1024):
        def deconv(c_in, c_out, stride):
            conv = nn.ConvTranspose2d(c_in, c_out, 3, stride, padding=1, output_padding=stride - 1)
            return conv, nn.BatchNorm2d(c_out), nn.ReLU(inplace=True)

        w, s = width, size // 16
        super().__init__(  # shapes at the paper's sizes
            nn.Linear(z_dim, 4 * w * s * s),
            nn.Unflatten(1, (4 * w, s, s)),  # 256 x 7 x 7
            nn.BatchNorm2d(4 * w),
            nn.ReLU(inplace=True),
            *deconv(4 * w, 4 * w, stride=2),  # 256 x 14 x 14
            *deconv(4 * w, 4 * w, stride=1),  # 256 x 14 x 14
            *deconv(4 * w, 4 * w, stride=2),  # 256 x 28 x 28
            *deconv(4 * w, 4 * w, stride=1),  # 256 x 28 x 28
            *deconv(4 * w, 2 * w, stride=2),  # 128 x 56 x 56
            *deconv(2 * w, w, stride=2),  # 64 x 112 x 112
            nn.ConvTranspose2d(w, 3, 3, stride=1, padding=1),  # 3 x 112 x 112
            nn.Tanh(),
        )


class Discriminator(nn.Sequential):
    """images [B, 3, size, size] in [-1, 1] -> D(x) [B], any real number. Figure 3b; authors' code: vgg.py."""

    def __init__(self, size: int = 112, width: int = 64):
        def conv(c_in, c_out):
            conv = nn.Conv2d(c_in, c_out, 5, stride=2, padding=2)
            return conv, nn.BatchNorm2d(c_out), nn.LeakyReLU(0.2, inplace=True)

        w, s = width, size // 16
        super().__init__(  # shapes at the paper's sizes
            nn.Conv2d(3, w, 5, stride=2, padding=2),  # 64 x 56 x 56, no BN
            nn.LeakyReLU(0.2, inplace=True),
            *conv(w, 2 * w),  # 128 x 28 x 28
            *conv(2 * w, 4 * w),  # 256 x 14 x 14
            *conv(4 * w, 8 * w),  # 512 x 7 x 7
            nn.Flatten(),
            nn.Linear(8 * w * s * s, 1),  # no sigmoid: least squares regresses onto a and b
            nn.Flatten(0),
        )


def init_weights(net: nn.Module, generator: np.random.Generator) -> None:
    """Weights N(0, 0.02), a convolution's cut at two sigma; biases 0. Authors' code: ops.py."""
    torch_generator = torch.Generator().manual_seed(int(generator.integers(2**32)))
    for module in net.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.trunc_normal_(module.weight, std=0.02, a=-0.04, b=0.04, generator=torch_generator)
        elif isinstance(module, (nn.ConvTranspose2d, nn.Linear, nn.Embedding)):
            nn.init.normal_(module.weight, std=0.02, generator=torch_generator)
        if getattr(module, "bias", None) is not None:
            nn.init.zeros_(module.bias)


# ---------------------------------------------------------------- loss
def discriminator_loss(d_real: Tensor, d_fake: Tensor, loss="ls", a=0.0, b=1.0) -> Tensor:
    """What D minimises. ls: the first line of Eq. 2. sigmoid: Eq. 1, the cross entropy of logits."""
    if loss == "ls":
        return 0.5 * (d_real - b).square().mean() + 0.5 * (d_fake - a).square().mean()
    return F.softplus(-d_real).mean() + F.softplus(d_fake).mean()


def generator_loss(d_fake: Tensor, loss="ls", c=1.0) -> Tensor:
    """What G minimises. ls: the second line of Eq. 2. sigmoid: the non-saturating -log sigmoid(D(G(z)))."""
    return 0.5 * (d_fake - c).square().mean() if loss == "ls" else F.softplus(-d_fake).mean()


# ---------------------------------------------------------------- training step
def train_step(G, D, opt_g, opt_d, real, z, loss="ls", a=0.0, b=1.0, c=1.0, amp=False) -> Tensor:
    """Updates D, then G with the same z. Returns d_loss, g_loss, mean D(x), mean D(G(z)), on the device."""
    autocast = torch.autocast(real.device.type, torch.bfloat16, enabled=amp)
    with autocast:
        fake = G(z)  # for both updates: G does not change in between
        d_real, d_fake = D(real).to(real.dtype), D(fake.detach()).to(real.dtype)  # each its own BN statistics
    d_loss = discriminator_loss(d_real, d_fake, loss, a, b)
    opt_d.zero_grad()
    d_loss.backward()
    runs.average_gradients(D)
    opt_d.step()

    D.requires_grad_(False)  # only the gradient of D's input is needed now
    with autocast:
        g_loss = generator_loss(D(fake).to(real.dtype), loss, c)
    opt_g.zero_grad()
    g_loss.backward()
    runs.average_gradients(G)
    opt_g.step()
    D.requires_grad_(True)
    if loss == "sigmoid":
        d_real, d_fake = d_real.sigmoid(), d_fake.sigmoid()
    return torch.stack([d_loss, g_loss, d_real.mean(), d_fake.mean()]).detach()


# ---------------------------------------------------------------- sampling and figures
@torch.no_grad()
def generate(G: nn.Module, z: Tensor) -> Tensor:
    """uint8 pictures [n, H, W, channels], in eval mode: none depends on the others of its batch."""
    G.eval()
    images = G.forward(z)  # not G(z): past --compile
    G.train()
    return ((images + 1) * 127.5).round().clamp(0, 255).byte().permute(0, 2, 3, 1).cpu()


def save_grid(pictures: Tensor, path: Path, columns: int = 8) -> None:
    """Writes uint8 pictures [n, H, W, channels] as one PNG."""
    with runs.write_file(path) as file:
        save_image(pictures.permute(0, 3, 1, 2) / 255, file, format="png", nrow=columns, pad_value=1)


def sample(args: Namespace) -> None:
    """--sample: samples.npy, uint8 [n, size, size, 3], and the first 64 pictures as grid.png."""
    out = Path(args.out)
    if old := [name for name in ("samples.npy", "grid.png") if (out / name).exists()]:
        fail(f"{out / old[0]} exists; --out FOLDER writes elsewhere")
    G = Generator(args.size, args.width, args.z_dim)
    load_checkpoint(args.sample, {"G": G})
    G.to(device := pick_device(args.gpu))
    pictures = torch.empty(args.n, args.size, args.size, 3, dtype=torch.uint8)
    for i in tqdm(range(0, args.n, 64), unit_scale=64, unit=" images", disable=None):
        z = noise(64, args.z_dim, args.seed, SAMPLE, i // 64)[: args.n - i]
        pictures[i : i + 64] = generate(G, z.to(device))
    out.mkdir(parents=True, exist_ok=True)
    with runs.write_file(out / "samples.npy") as file:
        np.save(file, pictures.numpy())
    save_grid(pictures[:64], out / "grid.png")
    print(f"wrote {out / 'samples.npy'} ({args.n} pictures) and {out / 'grid.png'}")


# ---------------------------------------------------------------- checkpoint
def save_checkpoint(path: Path, objects: dict, **values) -> None:
    """Writes the states of `objects` (networks and optimisers) and plain values, in one dict."""
    states = {name: item.state_dict() for name, item in objects.items()}
    with runs.write_file(path) as file:
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
    """Trains as `args` says and fills the run directory args.out. Raises DataError for unreadable data."""
    device = pick_device(args.gpu)
    rank, world = runs.join_processes(device)
    if args.amp is None:
        args.amp = device.type == "cuda" and torch.cuda.is_bf16_supported(including_emulation=False)
    torch.backends.cudnn.deterministic = True  # a resumed run equals an uninterrupted one

    dataset = open_images(args.data, args.size, args.fit, args.limit or None)
    n, size = len(dataset), args.batch_size
    if size % world or not 2 * world <= size <= n:
        fail(f"--batch-size {size}: each of {world} processes needs as many, at least 2, of {n} pictures")
    share = slice(rank * size // world, (rank + 1) * size // world)

    G, D = Generator(args.size, args.width, args.z_dim), Discriminator(args.size, args.width)
    for net, stream in ((G, INIT_G), (D, INIT_D)):
        init_weights(net, rng(args.seed, stream, 0))
        if world > 1 and device.type == "cuda":
            nn.SyncBatchNorm.convert_sync_batchnorm(net)  # in place: N GPUs equal one
        net.to(device, memory_format=torch.channels_last)
        if args.compile:
            net.compile()
    opt_g = torch.optim.Adam(G.parameters(), args.lr, betas=(args.beta1, 0.999), fused=True)
    opt_d = torch.optim.Adam(D.parameters(), args.lr, betas=(args.beta1, 0.999), fused=True)
    state = {"G": G, "D": D, "opt_g": opt_g, "opt_d": opt_d}

    out, step, log = Path(args.out), 0, ["step,d_loss,g_loss,d_real,d_fake,images_per_second,seconds\n"]
    if args.resume:
        checkpoint = load_checkpoint(args.resume, state)
        step, log = checkpoint["step"], checkpoint["log"]
        if step > args.steps:
            fail(f"--steps {args.steps} lies behind step {step} of {args.resume}")
    for tensor in (*G.state_dict().values(), *D.state_dict().values()) if world > 1 else ():
        dist.broadcast(tensor, 0)
    kept = {k: v for k, v in vars(args).items() if k not in ("gpu", "out", "resume", "sample", "n")}

    def save(name):
        save_checkpoint(out / name, state, args=kept, step=step, log=log)

    if rank == 0:
        runs.start_run(out, args.resume)
        save("last.pt")  # first of all, so that a run stopped at any moment can be resumed
        (out / "samples").mkdir(exist_ok=True)
        (out / "args.json").write_text(json.dumps(kept, indent=1, ensure_ascii=False), "utf-8")
        (out / "log.csv").write_text("".join(log))
        print(f"{out}: {n} pictures, from step {step} to {args.steps} on {world} x {device}")
        print("d_loss, g_loss: 0/1/1 balances at 0.25, 0.125; d_real, d_fake: mean D, of sigmoid sigmoid(D)")
    loader = runs.load_batches(dataset, args.batch_size, args.seed, step, args.steps, share, args.workers)
    bar = tqdm(total=args.steps, initial=step, unit=" steps", disable=rank > 0 or None)
    before, then = step, time.perf_counter()
    begin = then - float(log[-1].split(",")[-1] if len(log) > 1 else 0)
    with bar, runs.catch_signals() as stop:
        for step, pictures in enumerate(loader, before + 1):
            real = pictures.to(device, non_blocking=True).permute(0, 3, 1, 2) / 127.5 - 1  # channels_last
            z = noise(args.batch_size, args.z_dim, args.seed, Z, step)[share].to(device, non_blocking=True)
            losses = train_step(G, D, opt_g, opt_d, real, z, args.loss, args.a, args.b, args.c, args.amp)
            bar.update()

            every = (args.log_every, args.sample_every, args.save_every, args.keep_every)
            logs, draws, saves, keeps = (n > 0 and (step % n == 0 or step == args.steps) for n in every)
            if not (logs or draws or saves or keeps or (stop and world == 1)):
                continue  # nothing up to here waits for the device
            norm = torch.nn.utils.get_total_norm([*G.parameters(), *D.parameters()])
            report = torch.cat([losses, norm[None], losses.new_tensor([len(stop)])])
            if world > 1:
                dist.all_reduce(report)
            if not report.isfinite().all():
                sys.exit(f"step {step}: loss or weights not finite; last good checkpoint: {out / 'last.pt'}")
            *values, norm, stopped = (report / world).tolist()
            if rank == 0 and logs:
                now = time.perf_counter()
                row = [step, *values, (step - before) * args.batch_size / (now - then), now - begin]
                text, before, then = runs.write_row(out / "log.csv", log, row), step, now
                bar.set_postfix_str(text) if not bar.disable else print(text, flush=True)
            if rank == 0 and draws:
                fakes = generate(G, noise(64, args.z_dim, args.seed, GRID, 0).to(device))
                save_grid(fakes, out / "samples" / f"step_{step:08}.png")
                if fakes.float().std(0).mean() < 0.1 * pictures.float().std(0).mean():
                    print(f"step {step}: warning: the samples hardly differ: G has collapsed or is untrained")
            if rank == 0 and (saves or stopped):
                save("last.pt")
                runs.save_curves(out / "log.csv")
            if rank == 0 and keeps:
                save(f"step_{step:08}.pt")
            if stopped:
                sys.exit(128 + (stop or [15])[0])  # 130: Ctrl-C, 143: SIGTERM, perhaps another process's


def main(argv: list[str] | None = None) -> None:
    """Runs the command line `argv`; by default the program's own."""
    args = parse_args(argv)
    try:
        if args.sample or args.resume:
            args = parse_args(argv, saved=load_checkpoint(args.sample or args.resume, {})["args"])
        sample(args) if args.sample else train(args)
    except KeyboardInterrupt:  # outside the training loop, which saves first
        sys.exit(130)
    except (DataError, OSError) as error:
        fail(str(error).splitlines()[-1])  # a data worker's error comes with its traceback


if __name__ == "__main__":
    main()
