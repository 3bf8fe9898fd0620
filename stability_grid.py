"""How stable is LSGAN? Settings x optimizers x losses x seeds, each judged by a rule: Figure 7, with counts.

    python stability_grid.py --quick                                # toy rooms, seven minutes on a CPU
    python stability_grid.py --data lsun/bedroom --gpu 0            # the paper's settings; --resume goes on
    python stability_grid.py --data cifar10 --size 32 --settings bn --optimizers adam   # ten models' scores
    torchrun --nproc-per-node 2 stability_grid.py --quick --gpu -1  # cells are dealt to the processes

Settings: bn_g has no batch normalization in G, bn_gd in neither network, bn has it in both. Writes table.md,
figure7.png, results.csv (a row for each setting, optimizer, loss and seed: a cell), and a folder for each.

Differences from the authors' code: losses are means over the batch; where theirs are sums, RMSProp makes up
for it. bn_gd with RMSProp: theirs took ls-110, though the paper says ls. Everything random is seeded.
"""

import json
import os
import sys
import time
from argparse import ArgumentDefaultsHelpFormatter, ArgumentParser, Namespace
from itertools import groupby, product
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
from data.verdict import FEATURES, Judge, finished, folder, write_report

SETTINGS = {"bn_g": (False, True), "bn_gd": (False, False), "bn": (True, True)}  # batch norm in G, in D
LOSSES = {  # --losses: the loss, D's targets a for fake and b for real, G's target c for fake
    "ls": ("ls", 0.0, 1.0, 1.0),  # Eq. 9
    "ls-110": ("ls", -1.0, 1.0, 0.0),  # Eq. 8
    "sigmoid": ("sigmoid", 0.0, 1.0, 1.0),  # Eq. 1
}
COLUMNS = "step d_loss g_loss d_real d_fake FID KID IS precision recall diversity".split()
QUICK = dict(size=32, width=16, z_dim=64, lr=1e-3, batch_size=16, steps=1600, seeds=2, sample_every=400)


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
    add = parser.add_argument_group("grid").add_argument
    add("--settings", default="bn_g,bn_gd", help=f"any of {','.join(SETTINGS)}")
    add("--optimizers", default="adam,rmsprop", help="any of adam,rmsprop")
    add("--losses", default="ls,sigmoid", help=f"any of {','.join(LOSSES)}, trained side by side")
    add("--seeds", type=int, default=10, help="train this many seeds, the first of which is --seed")
    add("--extractor", choices=FEATURES, help="of the features; unset: classifier if there are labels")
    add("--quick", action="store_true", help=f"a small grid: {QUICK}")
    add = parser.add_argument_group("model").add_argument
    add("--size", type=int, default=64, help="side of the pictures, a multiple of 16")
    add("--width", type=int, default=64, help="channels of D's first layer; all others scale with it")
    add("--z-dim", type=int, default=1024, help="dimension of the noise z")
    add = parser.add_argument_group("optimiser").add_argument
    add("--rmsprop", choices=["tf", "torch"], default="tf", help="TensorFlow's RMSProp, or PyTorch's")
    add("--lr", type=float, default=2e-4, help="learning rate, for G and D")
    add("--beta1", type=float, default=0.5, help="Adam's first decay rate")
    add("--batch-size", type=int, default=64, help="pictures a step, whatever the number of processes")
    add("--steps", type=int, default=20_000, help="steps in all; a larger value extends a finished run")
    add = parser.add_argument_group("run").add_argument
    add("--seed", type=int, default=0, help="everything random follows from it")
    add("--gpu", type=int, help="number of the GPU; -1: the CPU; unset: GPU 0 if there is one")
    add("--out", help="run directory; unset: runs/<script>-<data>-<loss>-seed<k>")
    add("--resume", nargs="?", const=True, metavar="FILE", help="go on from the run's last.pt, or FILE")
    add("--sample-every", type=int, default=1000, help="steps between grids in samples/")
    if "--quick" in (sys.argv if argv is None else argv):
        parser.set_defaults(**QUICK)
    args = parser.parse_args(argv, Namespace(**(saved or {})))

    at_least = dict.fromkeys("limit workers lr beta1 seed".split(), 0)
    at_least |= dict.fromkeys("size width z_dim batch_size steps seeds sample_every".split(), 1)
    for name, least in at_least.items():
        if not getattr(args, name) >= least:
            fail(f"--{name.replace('_', '-')} must be at least {least}")
    if args.size % 16:
        fail(f"--size must be a multiple of 16; {args.size} is not")
    for name, known in ("settings", SETTINGS), ("optimizers", ("adam", "rmsprop")), ("losses", LOSSES):
        if not set(getattr(args, name).split(",")) <= set(known):
            fail(f"--{name} {getattr(args, name)}: each must be one of {', '.join(known)}")
    for name, value in (saved or {}).items():
        if getattr(args, name) != value and name not in ("steps", "seeds", "workers", "sample_every"):
            fail(f"--{name.replace('_', '-')} is {value} in the checkpoint and cannot change")
    default_out = f"runs/{Path(__file__).stem}-{Path(args.data).name}-{args.losses}-seed{args.seed}"
    if args.resume is True:
        args.resume = str(Path(args.out or default_out, "last.pt"))
    args.out = args.out or (str(Path(args.resume).parent) if args.resume else default_out)
    if args.resume and Path(args.resume) != Path(args.out, "last.pt"):
        fail(f"--resume takes a grid's last.pt and goes on in its folder: not {args.resume} in {args.out}")
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
INIT_G, INIT_D, Z, GRID = range(4)  # independent streams; runs.load_batches has its own


def rng(seed: int, stream: int, step: int) -> np.random.Generator:
    """A private generator: randomness is a function of (seed, stream, step), so there is no state to save."""
    return np.random.default_rng(np.random.SeedSequence([seed, stream, step]))


def noise(n: int, z_dim: int, seed: int, stream: int, step: int) -> Tensor:
    """z [n, z_dim], uniform(-1, 1); drawn on the CPU, so the same on every device."""
    return torch.from_numpy(rng(seed, stream, step).random((n, z_dim), dtype=np.float32) * 2 - 1)


# ---------------------------------------------------------------- networks
class Generator(nn.Sequential):
    """z [B, z_dim] -> images [B, 3, size, size] in [-1, 1]. DCGAN's; authors' code: stability_comparison."""

    def __init__(self, size: int = 64, width: int = 64, z_dim: int = 1024, bn: bool = False):
        stages = 4 if size >= 64 else 3
        widths, s = [width * 2**i for i in reversed(range(stages))] + [3], size >> stages
        layers = [nn.Linear(z_dim, widths[0] * s * s), nn.Unflatten(1, (widths[0], s, s))]  # 512 x 4 x 4
        for c_in, c_out in zip(widths, widths[1:]):  # 256 x 8 x 8, 128 x 16 x 16, 64 x 32 x 32, 3 x 64 x 64
            norm = [nn.BatchNorm2d(c_in)] if bn else []
            deconv = nn.ConvTranspose2d(c_in, c_out, 5, stride=2, padding=2, output_padding=1)
            layers += [*norm, nn.ReLU(inplace=True), deconv]
        super().__init__(*layers, nn.Tanh())


class Discriminator(nn.Sequential):
    """images [B, 3, size, size] in [-1, 1] -> D(x) [B], any real number. DCGAN's, like the generator."""

    def __init__(self, size: int = 64, width: int = 64, bn: bool = True):
        stages = 4 if size >= 64 else 3
        widths, s, layers = [3] + [width * 2**i for i in range(stages)], size >> stages, []
        for c_in, c_out in zip(widths, widths[1:]):  # 64 x 32 x 32, 128 x 16 x 16, 256 x 8 x 8, 512 x 4 x 4
            norm = [nn.BatchNorm2d(c_out)] if bn and layers else []  # never in the first layer
            conv = nn.Conv2d(c_in, c_out, 5, stride=2, padding=2)
            layers += [conv, *norm, nn.LeakyReLU(0.2, inplace=True)]
        linear = nn.Linear(c_out * s * s, 1)  # no sigmoid: least squares regresses onto a and b
        super().__init__(*layers, nn.Flatten(), linear, nn.Flatten(0))


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
def make_optimizer(params, name="adam", lr=2e-4, beta1=0.5, rmsprop="tf", scale=1) -> torch.optim.Optimizer:
    """Adam, or RMSProp: PyTorch's, or TensorFlow's as if gradients were `scale` times as large.

    TensorFlow's mean square starts at 1, so that 100 steps are small, and its epsilon of 1e-10 is inside the
    root. So the size of gradients matters: where the authors sum what we average, scale is the batch size.
    """
    params, epsilon = list(params), 1e-10 / scale**2
    if name == "adam":
        return torch.optim.Adam(params, lr, betas=(beta1, 0.999), fused=True)
    if rmsprop == "torch":
        return torch.optim.RMSprop(params, lr, foreach=True)
    optimizer = torch.optim.RMSprop(params, lr, alpha=0.9, eps=0, foreach=True)
    for p in params:  # square_avg is TensorFlow's mean square plus epsilon, over scale**2
        start = torch.full_like(p, scale**-2 + epsilon)
        optimizer.state[p] = {"step": torch.tensor(0.0), "square_avg": start}

    def keep_epsilon(*_):  # a step is about to multiply it by 0.9
        torch._foreach_add_([state["square_avg"] for state in optimizer.state.values()], epsilon / 9)

    optimizer.register_step_pre_hook(keep_epsilon)
    return optimizer


def train_step(G, D, opt_g, opt_d, real, z, loss="ls", a=0.0, b=1.0, c=1.0) -> Tensor:
    """Updates D, then G with the same z. Returns d_loss, g_loss, mean D(x), mean D(G(z)), on the device."""
    fake = G(z)  # for both updates: G does not change in between
    d_real, d_fake = D(real), D(fake.detach())  # each its own BN statistics
    d_loss = discriminator_loss(d_real, d_fake, loss, a, b)
    opt_d.zero_grad()
    d_loss.backward()
    opt_d.step()

    D.requires_grad_(False)  # only the gradient of D's input is needed now
    g_loss = generator_loss(D(fake), loss, c)
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
    """uint8 pictures [n, H, W, channels], in eval mode: none depends on the others of its batch."""
    G.eval()
    images = G(z)
    G.train()
    return ((images + 1) * 127.5).round().clamp(0, 255).byte().permute(0, 2, 3, 1).cpu()


def save_grid(pictures: Tensor, path: Path, columns: int = 8) -> None:
    """Writes uint8 pictures [n, H, W, channels] as one PNG."""
    with runs.write_file(path) as file:
        save_image(pictures.permute(0, 3, 1, 2) / 255, file, format="png", nrow=columns, pad_value=1)


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
def start_cell(cell: tuple, args: Namespace, device: torch.device) -> Namespace:
    """A cell at its beginning, or as its checkpoint has it: networks and optimisers, step, log."""
    setting, optimizer, loss, seed = cell
    bn_g, bn_d = SETTINGS[setting]
    G, D = Generator(args.size, args.width, args.z_dim, bn_g), Discriminator(args.size, args.width, bn_d)
    run = Namespace(state={"G": G, "D": D}, step=0, log=[",".join(COLUMNS) + "\n"])
    scale = 1 if loss == "sigmoid" else args.batch_size  # the authors average this loss and sum the other
    for name, net, stream in ("opt_g", G, INIT_G), ("opt_d", D, INIT_D):
        init_weights(net, rng(seed, stream, 0))
        for module in net.modules():
            if isinstance(module, nn.BatchNorm2d):  # as the authors do here, but not for scenes
                gamma = rng(seed, stream, module.num_features).normal(1, 0.02, module.num_features)
                module.weight.data = torch.from_numpy(gamma).float()
        params = net.to(device, memory_format=torch.channels_last).parameters()
        run.state[name] = make_optimizer(params, optimizer, args.lr, args.beta1, args.rmsprop, scale)
    if (path := folder(args.out, cell) / "cell.pt").exists():
        checkpoint = load_checkpoint(path, run.state)
        run.step, run.log = checkpoint["step"], checkpoint["log"]
        if run.step > args.steps:
            fail(f"--steps {args.steps} lies behind step {run.step} of {path}")
    return run


def train_cells(cells: list[tuple], args: Namespace, dataset, judge: Judge, device, stop: list[int]) -> None:
    """Trains cells of one seed side by side, as they share pictures and z, until `stop` holds a signal."""
    live = {cell: start_cell(cell, args, device) for cell in cells}
    seed, first = cells[0][-1], min(run.step for run in live.values())
    z_grid = noise(judge.n, args.z_dim, seed, GRID, 0).to(device)
    loader = runs.load_batches(dataset, args.batch_size, seed, first, args.steps, workers=args.workers)
    bar = tqdm(loader, f"seed {seed}", args.steps, initial=first, unit=" steps", disable=None)
    for step, pictures in enumerate(bar, first + 1):
        real = pictures.to(device, non_blocking=True).permute(0, 3, 1, 2) / 127.5 - 1  # channels_last
        z = noise(args.batch_size, args.z_dim, seed, Z, step).to(device, non_blocking=True)
        due = {cell: run for cell, run in live.items() if run.step < step}  # all, but after a kill amid saves
        for cell, run in due.items():
            run.losses = train_step(*run.state.values(), real, z, *LOSSES[cell[2]])
            run.step = step
        draws = step % args.sample_every == 0 or step == args.steps
        for cell, run in due.items() if draws or stop else ():  # nothing up to here waits for the device
            G, D, path = run.state["G"], run.state["D"], folder(args.out, cell)
            norm = torch.nn.utils.get_total_norm([*G.parameters(), *D.parameters()])
            good = bool((run.losses.sum() + norm).isfinite())
            (path / "samples").mkdir(parents=True, exist_ok=True)
            row = dict.fromkeys(COLUMNS, np.nan) | dict(zip(COLUMNS, [step, *run.losses.tolist()]))
            if draws and good:
                fakes = generate(G, z_grid)
                save_grid(fakes[:64], path / f"samples/step_{step:08}.png")
                row |= judge.measure(fakes)
            if draws or not good:
                run.log.append(",".join(f"{row[name]:.7g}" for name in COLUMNS) + "\n")
                tqdm.write("  ".join([path.name, *(f"{name} {row[name]:.4g}" for name in COLUMNS)]))
                with runs.write_file(path / "log.csv") as file:
                    file.write("".join(run.log).encode())
            if good:
                save_checkpoint(path / "cell.pt", run.state, args=vars(args), step=step, log=run.log)
            else:
                del live[cell]  # diverged; the last good checkpoint stays
        if stop or not live:
            return


def train(args: Namespace) -> None:
    """Trains as `args` says and fills the run directory args.out. Raises DataError for unreadable data."""
    device = pick_device(args.gpu)
    rank, world = runs.join_processes(device)
    torch.backends.cudnn.deterministic = True  # a resumed run equals an uninterrupted one
    dataset = open_images(args.data, args.size, args.fit, args.limit or None)
    if args.batch_size > len(dataset):
        fail(f"--batch-size {args.batch_size} is larger than the data: {len(dataset)} pictures")
    if rank > 0:
        dist.barrier()  # rank 0 comes first: it trains the classifier and makes the run directory
    judge = Judge(dataset, args.data, args.extractor, device)
    init_weights(G := Generator(args.size, args.width, args.z_dim), rng(args.seed, INIT_G, 0))
    judge.untrained = judge.measure(generate(G, noise(judge.n, args.z_dim, args.seed, GRID, 0)))["FID"]
    out, kept = Path(args.out), {k: v for k, v in vars(args).items() if k not in ("gpu", "out", "resume")}
    about = f"{len(dataset):,} pictures on {device} with torch {torch.__version__}: {kept}"
    if rank == 0:
        runs.start_run(out, args.resume)
        save_checkpoint(out / "last.pt", {}, args=kept, step=0, log=[])
        (out / "args.json").write_text(json.dumps(kept, indent=1, ensure_ascii=False), "utf-8")
        print(f"{out}: {about}\n{judge.describe()}")
    if rank == 0 and world > 1:
        dist.barrier()
    keys = list(product(*(names.split(",") for names in (args.settings, args.optimizers, args.losses))))
    cells = [(*key, args.seed + i) for i, key in product(range(args.seeds), keys)]
    todo = [cell for cell in cells[rank::world] if not finished(out, [cell], args.steps)]
    with runs.catch_signals() as stop:
        for _, mine in groupby(todo, key=lambda cell: cell[-1]):
            train_cells(list(mine), args, dataset, judge, device, stop)
            if rank == 0:
                write_report(out, cells, args.steps, judge, about)
            if stop:
                break
        while rank == 0 and world > 1 and not stop and len(finished(out, cells, args.steps)) < len(cells):
            time.sleep(1)  # for the cells of the other processes
    if rank == 0:
        print(write_report(out, cells, args.steps, judge, about))
    if stop:
        sys.exit(128 + stop[0])  # 130: Ctrl-C, 143: SIGTERM


def main(argv: list[str] | None = None) -> None:
    """Runs the command line `argv`; by default the program's own."""
    args = parse_args(argv)
    try:
        if args.resume:
            args = parse_args(argv, saved=load_checkpoint(args.resume, {})["args"])
        train(args)
    except KeyboardInterrupt:  # outside the training loop, which saves first
        sys.exit(130)
    except (DataError, OSError) as error:
        fail(str(error).splitlines()[-1])  # a data worker's error comes with its traceback
    except (MemoryError, RuntimeError) as error:
        if not any(words in repr(error) for words in ("MemoryError", "can't allocate memory")):
            raise
        fail("out of memory: lower --batch-size or --width, or train fewer --settings or --losses at a time")


if __name__ == "__main__":
    main()
