"""Conditional LSGAN on Chinese characters: the networks of Figure 4 trained with Equation 10 (Figure 9).

    python lsgan_cond_chars.py --classes 20 --width 32 --batch-size 32 --lr 5e-4 --steps 4000  # toys, minutes
    python lsgan_cond_chars.py --data hwdb1.0 --gpu 0                 # the paper's run; --resume goes on
    python lsgan_cond_chars.py --sample runs/lsgan_cond_chars-hwdb1.0-ls-seed0/last.pt --text 永和九年 --n 4
    torchrun --nproc-per-node 8 lsgan_cond_chars.py --data hwdb1.0    # the same run on eight GPUs

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
from data.characters import open_characters


# ---------------------------------------------------------------- settings
def parse_args(argv: list[str] | None = None, saved: dict | None = None) -> Namespace:
    """Flags -> Namespace. `saved`, a checkpoint's arguments, are the defaults and may not be contradicted."""
    parser = ArgumentParser(formatter_class=ArgumentDefaultsHelpFormatter, allow_abbrev=False)
    parser.error = fail
    add = parser.add_argument_group("data").add_argument
    add("--data", default="strokes", help=".gnt or zip files (hwdb1.0), folder per class, or toy strokes")
    add("--fit", choices=["squash", "pad"], default="squash", help="how a picture becomes square")
    add("--charset", choices=["level1", "all"], default="level1", help="GB2312 level 1, or every character")
    add("--classes", type=int, default=0, help="use only the so many most frequent classes; 0: all")
    add("--workers", type=int, default=0, help="processes that read data; 0: read in this one")
    add = parser.add_argument_group("model").add_argument
    add("--width", type=int, default=256, help="channels of D's first layer; all others scale with it")
    add("--z-dim", type=int, default=1024, help="dimension of the noise z")
    add = parser.add_argument_group("loss").add_argument
    add("--loss", choices=["ls", "sigmoid"], default="ls", help="least squares, or the regular GAN's loss")
    add("--a", type=float, default=0.0, help="least squares: D's target for fake (-1 in Eq. 8)")
    add("--b", type=float, default=1.0, help="least squares: D's target for real (1 in Eq. 8)")
    add("--c", type=float, default=1.0, help="least squares: G's target for fake (0 in Eq. 8)")
    add = parser.add_argument_group("optimiser").add_argument
    add("--lr", type=float, default=2e-4, help="learning rate, for G and D")
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
    add("--text", help="characters for --sample to write, in --n rows, each by another hand")
    add("--log-every", type=int, default=50, help="steps between rows of log.csv")
    add("--sample-every", type=int, default=1000, help="steps between grids in samples/")
    add("--save-every", type=int, default=1000, help="steps between saves of last.pt")
    add("--keep-every", type=int, default=0, help="steps between checkpoints that stay; 0: only the last")
    args = parser.parse_args(argv, Namespace(**(saved or {})))

    at_least = dict.fromkeys("classes workers lr beta1 steps seed keep_every".split(), 0)
    at_least |= dict.fromkeys("width z_dim batch_size n log_every sample_every save_every".split(), 1)
    for name, least in at_least.items():
        if not getattr(args, name) >= least:
            fail(f"--{name.replace('_', '-')} must be at least {least}")
    if not args.beta1 < 1:
        fail("--beta1 must be less than 1")
    if args.text is not None and not (args.text and args.sample):
        fail("--text needs a character or more, and the checkpoint that is to write them: --sample FILE")
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
INIT_G, INIT_D, Z, GRID, SAMPLE, CLASSES = range(6)  # independent streams; runs.load_batches has its own


def rng(seed: int, stream: int, step: int) -> np.random.Generator:
    """A private generator: randomness is a function of (seed, stream, step), so there is no state to save."""
    return np.random.default_rng(np.random.SeedSequence([seed, stream, step]))


def noise(n: int, z_dim: int, seed: int, stream: int, step: int) -> Tensor:
    """z [n, z_dim], uniform(-1, 1); drawn on the CPU, so the same on every device."""
    return torch.from_numpy(rng(seed, stream, step).random((n, z_dim), dtype=np.float32) * 2 - 1)


# ---------------------------------------------------------------- networks
class Generator(nn.Module):
    """z [B, z_dim], labels y [B] -> images [B, 1, 28, 28] in [0, 1]. Figure 4a; authors' code: mcgan.py."""

    def __init__(self, classes: int = 3740, width: int = 256, z_dim: int = 1024):
        super().__init__()
        w = (width + 1) // 2
        self.phi, self.phi_bias = nn.Embedding(classes, width), nn.Parameter(torch.zeros(width))
        self.fc1, self.bn1 = nn.Linear(z_dim + width, w * 7 * 7), nn.BatchNorm1d(w * 7 * 7)
        self.deconv2 = nn.ConvTranspose2d(w, w, 5, stride=2, padding=2, output_padding=1)
        self.bn2 = nn.BatchNorm2d(w)
        self.deconv3 = nn.ConvTranspose2d(w, 1, 5, stride=2, padding=2, output_padding=1)

    def forward(self, z: Tensor, y: Tensor) -> Tensor:
        y = self.phi(y) + self.phi_bias  # Phi(y): a linear map of the one-hot vector, which is never made
        h = F.relu(self.bn1(self.fc1(torch.cat([z, y], 1)))).unflatten(1, (-1, 7, 7))  # 128 x 7 x 7
        h = F.relu(self.bn2(self.deconv2(h)))  # 128 x 14 x 14
        return self.deconv3(h).sigmoid()  # 1 x 28 x 28


class Discriminator(nn.Module):
    """images [B, 1, 28, 28] in [0, 1], labels y [B] -> D(x|y) [B], any real number. Figure 4b; mcgan.py."""

    def __init__(self, classes: int = 3740, width: int = 256):
        super().__init__()
        w, w2, w3 = width, 5 * width // 4, 4 * width
        self.phi, self.phi_bias = nn.Embedding(classes, w), nn.Parameter(torch.zeros(w))
        self.conv1 = nn.Conv2d(1, w, 5, stride=2, padding=2)  # 256 as in the paper; in the code 257
        self.conv2, self.bn2 = nn.Conv2d(2 * w, w2, 5, stride=2, padding=2), nn.BatchNorm2d(w2)
        self.fc3, self.bn3 = nn.Linear(w2 * 7 * 7 + w, w3), nn.BatchNorm1d(w3)
        self.fc4 = nn.Linear(w3 + w, 1)  # no sigmoid: least squares regresses onto a and b

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        y = self.phi(y) + self.phi_bias
        h = F.leaky_relu(self.conv1(x), 0.2)  # 256 x 14 x 14, no BN
        # conv2 of h and y as constant maps in half the time: a tap adds the same wherever it meets such a map
        kernel_h, kernel_y = self.conv2.weight.chunk(2, dim=1)
        taps = torch.einsum("bi,oikl->bokl", y, kernel_y).flatten(2)  # 320 x 25
        inside = F.unfold(torch.ones_like(h[:1, :1]), 5, padding=2, stride=2)  # 25 x 49: 1 or 0
        h = F.conv2d(h, kernel_h, self.conv2.bias, 2, padding=2) + (taps @ inside).unflatten(2, (7, 7))
        h = F.leaky_relu(self.bn2(h), 0.2)  # 320 x 7 x 7
        h = F.leaky_relu(self.bn3(self.fc3(torch.cat([h.flatten(1), y], 1))), 0.2)  # 1024
        return self.fc4(torch.cat([h, y], 1)).flatten(0)


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
    """What D minimises. ls: the first line of Eq. 10. sigmoid: Eq. 1, the cross entropy of logits."""
    if loss == "ls":
        return 0.5 * (d_real - b).square().mean() + 0.5 * (d_fake - a).square().mean()
    return F.softplus(-d_real).mean() + F.softplus(d_fake).mean()


def generator_loss(d_fake: Tensor, loss="ls", c=1.0) -> Tensor:
    """What G minimises. ls: the second line of Eq. 10. sigmoid: the non-saturating -log sigmoid(D(G(z)))."""
    return 0.5 * (d_fake - c).square().mean() if loss == "ls" else F.softplus(-d_fake).mean()


# ---------------------------------------------------------------- training step
def train_step(G, D, opt_g, opt_d, real, z, y, loss="ls", a=0.0, b=1.0, c=1.0, amp=False) -> Tensor:
    """Updates D, then G with the same z and y. Returns d_loss, g_loss, mean D(x), D(G(z)), on the device."""
    autocast = torch.autocast(real.device.type, torch.bfloat16, enabled=amp)
    with autocast:
        fake = G(z, y)  # for both updates: G does not change in between
        d_real, d_fake = D(real, y).to(real.dtype), D(fake.detach(), y).to(real.dtype)  # own BN statistics
    d_loss = discriminator_loss(d_real, d_fake, loss, a, b)
    opt_d.zero_grad()
    d_loss.backward()
    runs.average_gradients(D)
    opt_d.step()

    D.requires_grad_(False)  # only the gradient of D's input is needed now
    with autocast:
        g_loss = generator_loss(D(fake, y).to(real.dtype), loss, c)
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
def generate(G: nn.Module, z: Tensor, y: Tensor) -> Tensor:
    """uint8 pictures [n, H, W, channels], in eval mode: none depends on the others of its batch."""
    G.eval()
    images = G.forward(z, y)  # not G(z, y): past --compile
    G.train()
    return (images * 255).round().clamp(0, 255).byte().permute(0, 2, 3, 1).cpu()


def save_grid(pictures: Tensor, path: Path, columns: int = 8) -> None:
    """Writes uint8 pictures [n, H, W, channels] as one PNG."""
    with runs.write_file(path) as file:
        save_image(pictures.permute(0, 3, 1, 2) / 255, file, format="png", nrow=columns, pad_value=1)


def sample(args: Namespace) -> None:
    """--sample: samples.npy, uint8 [n, 28, 28, 1], labels.npy, int64 [n], and the first 64 as grid.png."""
    out, table, text = Path(args.out), args.table, args.text or ""
    if old := [name for name in ("samples.npy", "labels.npy", "grid.png") if (out / name).exists()]:
        fail(f"{out / old[0]} exists; --out FOLDER writes elsewhere")
    if unknown := "".join(c for c in text if c not in table):
        fail(f"--text: {unknown!r} not among the {len(table)} classes of {args.sample}")
    labels = [table.index(c) for c in text] or rng(args.seed, CLASSES, 0).permutation(len(table))
    y = torch.from_numpy(np.resize(labels, (args.n, len(text) or 1)))  # np.resize repeats them
    G = Generator(len(table), args.width, args.z_dim)
    load_checkpoint(args.sample, {"G": G})
    G.to(device := pick_device(args.gpu))
    rows = []
    for i in tqdm(range(0, args.n, 64), unit_scale=64, unit=" images", disable=None):
        z = noise(64, args.z_dim, args.seed, SAMPLE, i // 64)[: args.n - i].to(device)
        rows.append(torch.stack([generate(G, z, column.to(device)) for column in y[i : i + 64].T], 1))
    out.mkdir(parents=True, exist_ok=True)
    for name, array in (("samples.npy", torch.cat(rows).flatten(0, 1)), ("labels.npy", y.flatten())):
        with runs.write_file(out / name) as file:
            np.save(file, array.numpy())
    save_grid(rows[0].flatten(0, 1), out / "grid.png", columns=len(text) or 8)
    print(f"wrote {out / 'samples.npy'} ({y.numel()} pictures), labels.npy and grid.png")


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

    dataset = open_characters(args.data, args.charset, args.classes or None, args.fit)
    n, size, classes = len(dataset), args.batch_size, len(dataset.table)
    if args.resume and dataset.table != args.table:
        fail(f"the {classes} classes of {args.data} are not the {len(args.table)} of the checkpoint")
    args.table = dataset.table
    if size % world or not 2 * world <= size <= n:
        fail(f"--batch-size {size}: each of {world} processes needs as many, at least 2, of {n} pictures")
    share = slice(rank * size // world, (rank + 1) * size // world)
    shown, shown_y = dataset[rng(args.seed, CLASSES, 0).integers(n, size=64)]

    G, D = Generator(classes, args.width, args.z_dim), Discriminator(classes, args.width)
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
    kept = {k: v for k, v in vars(args).items() if k not in ("gpu", "out", "resume", "sample", "n", "text")}

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
        for step, (pictures, labels) in enumerate(loader, before + 1):
            real = pictures.to(device, non_blocking=True).unsqueeze(1) / 255
            z = noise(args.batch_size, args.z_dim, args.seed, Z, step)[share].to(device, non_blocking=True)
            y = labels.to(device, non_blocking=True)
            losses = train_step(G, D, opt_g, opt_d, real, z, y, args.loss, args.a, args.b, args.c, args.amp)
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
                fakes = generate(G, noise(64, args.z_dim, args.seed, GRID, 0).to(device), shown_y.to(device))
                rows = torch.stack([x.reshape(4, 16, 28, 28, 1) for x in (shown, fakes)], 1)  # real on top
                save_grid(rows.flatten(0, 2), out / "samples" / f"step_{step:08}.png", columns=16)
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
