"""What a GPU makes of the four scripts, as one Markdown table. Run by hand; never fails.

    python tests/bench_gpu.py                                  # every part
    LSGAN_DATA=... python tests/bench_gpu.py --part data       # one part; each takes less than ten minutes
    python tests/bench_gpu.py --quick --gpu -1 --size 16 --width 4    # does this script work? on the CPU

The ways to do the same take turns; medians of the rounds, after a first round that is left out. "Obvious" is
the loop of bench_scenes.py and bench_chars.py: G runs twice, D's weight gradients are computed in the G step
and thrown away, memory is contiguous, Adam as PyTorch has it by default. "dcgan" is written like that example
of pytorch/examples, see dcgan_step. Both have TF32, as ours, but not ours' deterministic convolutions.

Idle is the share of a step's time in which no kernel runs: 1 minus the sum of the kernels' times, by
torch.profiler, over the time of a step without the profiler. The limits are computed, from the operations
of a step (2 FLOP a MAC), an estimate of the bytes it moves, and the card's data sheet.
"""

import argparse
import contextlib
import io
import os
import shutil
import statistics
import sys
import tempfile
import time
from argparse import Namespace
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import NamedTuple

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import bench_chars
import bench_mixture
import bench_scenes
import bench_training
import lmdb
import torch
from PIL import Image
from torch.autograd import DeviceType
from torch.profiler import ProfilerActivity, profile
from torch.utils.flop_counter import FlopCounterMode

import lsgan_cond_chars as chars
import lsgan_scenes as scenes
import stability_grid as grid
from data import prepare, runs
from data.rooms import room

# Bytes that a bfloat16 step of scenes moves for each picture of 112x112 at width 64: G's and three times D's
# outputs of layers, 2.9 million numbers, each written or read 14 or 15 times forward and backward. Estimated.
BYTES = 84e6
HEADER = ["", "against the obvious loop", "of the arithmetic limit", "GPU idle"]


class Measured(NamedTuple):
    """Medians: seconds of a step; the share of them without a kernel, None on the CPU."""

    seconds: float
    idle: float | None


# ---------------------------------------------------------------- measuring
def synchronize(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def time_steps(step: Callable, n: int, device: torch.device) -> float:
    """Seconds that one of n steps takes."""
    synchronize(device)
    start = time.perf_counter()
    for _ in range(n):
        step()
    synchronize(device)
    return (time.perf_counter() - start) / n


def time_kernels(step: Callable, n: int, device: torch.device) -> float:
    """Seconds of kernels and copies on the GPU in one of n steps."""
    with profile(activities=[ProfilerActivity.CUDA], acc_events=True) as profiler:
        time_steps(step, n, device)
    microseconds = 0.0
    for event in profiler.events():
        if event.device_type == DeviceType.CUDA and not event.is_user_annotation:
            microseconds += event.time_range.elapsed_us()
    return microseconds / 1e6 / n


def measure(ways: dict[str, Callable], args: Namespace, device: torch.device) -> dict[str, Measured]:
    """Lets the ways take turns, args.steps steps each in every round."""
    seconds = {name: [] for name in ways}
    for _ in range(args.rounds + 1):
        for name, step in ways.items():
            seconds[name].append(time_steps(step, args.steps, device))
    measured = {}
    for name, step in ways.items():
        median = statistics.median(seconds[name][1:])  # the first round warms up
        print(f"{name}: {1000 * median:.2f} ms a step", file=sys.stderr)
        idle = None
        if device.type == "cuda":
            idle = max(0.0, 1 - time_kernels(step, args.steps, device) / median)
            print(f"{name}: GPU idle {idle:.0%}", file=sys.stderr)
        measured[name] = Measured(median, idle)
    return measured


def row(
    name: str, value: str, ratio: float | None = None, limit: float | None = None, idle=None
) -> list[str]:
    """A row of the table. ratio: against the obvious loop. limit and idle: shares."""
    return [
        name,
        value,
        "" if ratio is None else f"{ratio:.2f}x",
        "" if limit is None else f"{limit:.0%}",
        "" if idle is None else f"{idle:.0%}",
    ]


# ---------------------------------------------------------------- ways to make a step
def dcgan_step(G, D, opt_g, opt_d, real, z, *y) -> None:
    """The loop of pytorch/examples' dcgan, with least squares. y: labels, if the networks take any.

    G runs once, but D's weight gradients are computed in the G step and thrown away, real and fake pictures
    go backward one after the other, memory is contiguous, Adam as PyTorch has it by default, and five .item()
    a step, each of which waits for the GPU, read what the loop prints.
    """
    opt_d.zero_grad()
    d_real = D(real, *y)
    loss_real = 0.5 * (d_real - 1).square().mean()
    loss_real.backward()
    d_real.mean().item()
    fake = G(z, *y)
    d_fake = D(fake.detach(), *y)
    loss_fake = 0.5 * d_fake.square().mean()
    loss_fake.backward()
    d_fake.mean().item()
    opt_d.step()

    opt_g.zero_grad()
    d_fake = D(fake, *y)
    g_loss = 0.5 * (d_fake - 1).square().mean()
    g_loss.backward()
    d_fake.mean().item()
    opt_g.step()
    (loss_real + loss_fake).item()
    g_loss.item()


def as_it_comes(step: Callable, *inputs) -> None:
    """A step of a loop that does not ask for convolutions that always give the same."""
    torch.backends.cudnn.deterministic = False
    step(*inputs)
    torch.backends.cudnn.deterministic = True


def compiled(networks: tuple, device: torch.device) -> tuple:
    """Networks and optimizers as with --compile; on the CPU, where that takes minutes, as they are."""
    if device.type == "cuda":
        for net in networks[:2]:
            net.compile()
    return networks


def as_graph(update: Callable, device: torch.device) -> Callable:
    """A step as with --graph; on the CPU, which has none, as it is. update: a partial train_step."""
    if device.type == "cuda":
        return runs.Graph(update, update.args[2:4], device)
    return update


def our_ways(
    make: Callable, train_step: Callable, inputs: tuple, args: Namespace, device: torch.device
) -> dict[str, Callable]:
    """The script's own step, plain, as a graph and compiled. make: networks and optimizers."""
    ways = {}
    for precision, amp in (("float32", False), ("bfloat16", True)):
        graph = as_graph(partial(train_step, *make(), amp=amp), device)
        ways[precision] = partial(train_step, *make(), *inputs, amp=amp)
        ways[f"{precision}, one graph"] = partial(graph, *inputs)
        if args.compiled:
            networks = compiled(make(), device)
            ways[f"{precision}, compiled"] = partial(train_step, *networks, *inputs, amp=amp)
    return ways


def count_macs(train_step: Callable, make: Callable, inputs: tuple) -> float:
    """Multiplications and additions (one MAC a pair) of a step, for each picture."""
    with FlopCounterMode(display=False) as counter:
        train_step(*make(), *inputs)
    return counter.get_total_flops() / 2 / len(inputs[0])


def limit_of(way: str, macs: float, args: Namespace) -> float:
    """Pictures a second that the card's arithmetic allows, in the precision of that way."""
    peak = args.peak_bf16 if "bfloat16" in way else args.peak_tf32
    return peak / (2 * macs)


def picture_rows(what: str, ways: dict, batch_size: int, macs: float, args, device) -> Iterator[list[str]]:
    """Rows in images/s: a row for each way."""
    measured = measure(ways, args, device)
    obvious = measured["obvious, float32"].seconds
    for way, (seconds, idle) in measured.items():
        speed = batch_size / seconds
        name = f"{what}, batch {batch_size}, {way}"
        yield row(name, f"{speed:,.0f} images/s", obvious / seconds, speed / limit_of(way, macs, args), idle)


# ---------------------------------------------------------------- parts
def scenes_part(args: Namespace, device: torch.device) -> Iterator[list[str]]:
    """The step of lsgan_scenes.py at batch 64 and 256, and what limits it."""
    runs.set_arithmetic(tf32=True)
    sizes = Namespace(size=args.size or 112, width=args.width or 64)
    ours = partial(bench_scenes.make, sizes, device, True)
    theirs = partial(bench_scenes.make, sizes, device, False)
    what = f"scenes {sizes.size}x{sizes.size}"
    for batch_size in args.scenes_batches:
        start_compiling_anew(device)
        pictures = torch.randint(256, (batch_size, sizes.size, sizes.size, 3), dtype=torch.uint8).to(device)
        real = pictures.permute(0, 3, 1, 2) / 127.5 - 1  # channels_last
        z = scenes.noise(batch_size, 1024, 0, scenes.Z, 1).to(device)
        ways = our_ways(ours, scenes.train_step, (real, z), args, device)
        for name, amp in (("obvious, float32", False), ("obvious, bfloat16", True)):
            step = bench_scenes.obvious_step
            ways[name] = partial(as_it_comes, step, *theirs(), real.contiguous(), z, amp)
        ways["dcgan, float32"] = partial(as_it_comes, dcgan_step, *theirs(), real.contiguous(), z)
        macs = count_macs(scenes.train_step, ours, (real, z))
        yield from picture_rows(what, ways, batch_size, macs, args, device)

    for precision, peak in (("float32 (TF32)", args.peak_tf32), ("bfloat16", args.peak_bf16)):
        name = f"{what}, limit of the arithmetic, {precision}: {macs / 1e9:.2g} GMAC an image"
        yield row(name, f"{peak / (2 * macs):,.0f} images/s")
    moved = BYTES * (sizes.size / 112) ** 2 * sizes.width / 64
    name = f"{what}, limit of the memory, bfloat16: about {moved / 1e6:.2g} MB an image"
    yield row(name, f"{args.bandwidth / moved:,.0f} images/s")


def chars_part(args: Namespace, device: torch.device) -> Iterator[list[str]]:
    """The step of lsgan_cond_chars.py with 3,740 classes at batch 64 and 512."""
    runs.set_arithmetic(tf32=True)
    sizes = Namespace(classes=3740, width=args.width or 256)
    ours = partial(bench_chars.make, sizes, device, True)
    theirs = partial(bench_chars.make, sizes, device, False)
    for batch_size in args.chars_batches:
        start_compiling_anew(device)
        real = torch.rand(batch_size, 1, 28, 28).to(device)
        z = chars.noise(batch_size, 1024, 0, chars.Z, 1).to(device)
        y = torch.randint(sizes.classes, [batch_size]).to(device)
        inputs = real, z, y
        ways = our_ways(ours, chars.train_step, inputs, args, device)
        ways["obvious, float32"] = partial(as_it_comes, bench_chars.obvious_step, *theirs(), *inputs)
        ways["dcgan, float32"] = partial(as_it_comes, dcgan_step, *theirs(), *inputs)
        macs = count_macs(chars.train_step, ours, inputs)
        yield from picture_rows("characters, 3,740 classes", ways, batch_size, macs, args, device)


def start_compiling_anew(device: torch.device) -> None:
    """Otherwise the second batch size would be compiled with dynamic shapes, and some ways not at all."""
    if device.type == "cuda":
        torch.compiler.reset()
        torch._dynamo.config.recompile_limit = 64


def mixture_part(args: Namespace, device: torch.device) -> Iterator[list[str]]:
    """The loop of gaussian_mixture.py, draws included. A seed-step is a step of one seed with both losses."""
    runs.set_arithmetic(tf32=False)
    few, many = args.mixture_seeds
    obvious_loop = "mixture, obvious loop over models"
    graph = bench_mixture.batched(range(few), device, partial(as_graph, device=device))
    loops = {  # seeds, and the loop that trains them
        f"mixture, {few} seeds": (few, bench_mixture.batched(range(few), device)),
        f"mixture, {many} seeds": (many, bench_mixture.batched(range(many), device)),
        f"mixture, {few} seeds, one graph": (few, graph),
        obvious_loop: (1, bench_mixture.plain(device)),
    }
    measured = measure({name: partial(next, loop) for name, (_, loop) in loops.items()}, args, device)
    obvious_speed = 1 / measured[obvious_loop].seconds
    for name, (seconds, idle) in measured.items():
        speed = loops[name][0] / seconds
        yield row(name, f"{speed:,.0f} seed-steps/s", speed / obvious_speed, idle=idle)


def grid_part(args: Namespace, device: torch.device) -> Iterator[list[str]]:
    """The eight cells of one seed of stability_grid.py, side by side as the script trains them."""
    runs.set_arithmetic(tf32=True)
    size, width = args.size or 64, args.width or 64
    with tempfile.TemporaryDirectory() as out:
        flags = f"--size {size} --width {width} --seeds 1 --out {out}"
        grid_args = grid.parse_args(flags.split())
        cells = [grid.start_cell(cell, grid_args, device) for cell in grid.list_cells(grid_args)]
    batch_size = grid_args.batch_size
    real = torch.rand(batch_size, size, size, 3, device=device).permute(0, 3, 1, 2) * 2 - 1
    z = grid.noise(batch_size, grid_args.z_dim, 0, grid.Z, 1).to(device)

    def step(updates: list[Callable]) -> None:
        for update in updates:
            update(real, z)

    plain = [run.update for run in cells]
    name = f"grid {size}x{size}, batch {batch_size}, {len(cells)} cells"
    ways = {name: partial(step, plain)}
    ways[f"{name}, one graph each"] = partial(step, [as_graph(update, device) for update in plain])
    for way, (seconds, idle) in measure(ways, args, device).items():
        yield row(way, f"{len(cells) / seconds:,.0f} cells x steps/s", idle=idle)


def data_part(args: Namespace, device: torch.device) -> Iterator[list[str]]:
    """How long the loop of lsgan_scenes.py, as it is, waits for data: LSGAN_DATA's photos, or toy rooms."""
    size, width = args.size or 112, args.width or 64
    flags = f"--size {size} --width {width} --batch-size 64 --gpu {args.gpu} --steps {args.loop_steps}"
    flags = flags.split()
    for what in ("log", "sample", "save"):
        flags.append(f"--{what}-every={args.loop_steps}")
    workers = runs.default_workers()
    rows = []
    with tempfile.TemporaryDirectory() as folder, contextlib.redirect_stdout(sys.stderr):
        spec = f"{folder}/pictures"
        if "LSGAN_DATA" in os.environ and not args.quick:
            shutil.copytree(Path(os.environ["LSGAN_DATA"], "lsun/bedroom_train_lmdb"), f"{spec}_train_lmdb")
        else:
            write_rooms(Path(f"{spec}_train_lmdb"), args.pictures)
        array = str(prepare.prepare(spec, size, out=f"{folder}/prepared.npy"))
        places = [
            ("on the device", spec, None, []),
            ("LMDB, 2 workers", spec, 2, []),
            (f"LMDB, {workers} workers (the default)", spec, workers, []),
            (f"prepared array, {workers} workers", array, workers, []),
        ]
        if device.type == "cuda":
            places += [
                ("on the device, one graph", spec, None, ["--graph"]),
                (f"prepared array, {workers} workers, one graph", array, workers, ["--graph"]),
                ("on the device, bfloat16, one graph", spec, None, ["--graph", "--amp"]),
            ]
        for name, data, number, more in places:
            share, _, steps_per_second, _ = bench_training.bench(data, flags + more, number)
            speed = f"{64 * steps_per_second:,.0f} images/s, waits for data {share:.1%} of the time"
            rows.append(row(f"scenes {size}x{size}, batch 64, {name}", speed))
    yield from rows  # not before: in there stdout is not the table's


def write_rooms(folder: Path, n: int) -> None:
    """An LMDB of n toy rooms as LSUN's are: WebP, the shorter side 256."""
    folder.mkdir()
    with lmdb.open(str(folder), map_size=1 << 31) as env, env.begin(write=True) as transaction:
        for i in range(n):
            buffer = io.BytesIO()
            Image.fromarray(room(0, i, 256)).resize((384, 256)).save(buffer, "WEBP", quality=85)
            transaction.put(f"{i:08}".encode(), buffer.getvalue())


PARTS = {
    "scenes": scenes_part,
    "chars": chars_part,
    "mixture": mixture_part,
    "grid": grid_part,
    "data": data_part,
}


def parse_args(argv: list[str] | None) -> Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__.partition("\n")[0], formatter_class=argparse.ArgumentDefaultsHelpFormatter
    )
    add = parser.add_argument
    add("--part", choices=list(PARTS), nargs="+", default=list(PARTS), help="only these")
    add("--gpu", type=int, default=0, help="number of the GPU; -1: the CPU, to try this script")
    add("--size", type=runs.multiple_of(16), help="side of the pictures; unset: the paper's")
    add("--width", type=runs.at_least(1), help="channels of D's first layer; unset: the paper's")
    add("--rounds", type=runs.at_least(1), default=7, help="turns of each way, of which the median counts")
    add(
        "--quick",
        action="store_true",
        help="one round of one small step: shows that this script works, no more",
    )
    add(
        "--compiled",
        action=argparse.BooleanOptionalAction,
        default=True,
        help="with the ways that take minutes to compile",
    )
    add("--peak-tf32", type=float, default=495e12, help="FLOP/s of the card, dense, in TF32")
    add("--peak-bf16", type=float, default=989e12, help="FLOP/s of the card, dense, in bfloat16")
    add("--bandwidth", type=float, default=3.35e12, help="bytes/s of the card's memory (H100; H200: 4.8e12)")
    args = parser.parse_args(argv)
    args.steps = 20  # of a round; the mixture draws data for ten at once
    args.scenes_batches = (64, 256)
    args.chars_batches = (64, 512)
    args.mixture_seeds = (10, 100)
    args.loop_steps = 500
    args.pictures = 2000
    if args.quick:
        args.rounds, args.steps = 1, 1
        args.scenes_batches = args.chars_batches = (2, 4)
        args.mixture_seeds = (1, 2)
        args.loop_steps = bench_training.WARM_UP + 4
        args.pictures = 64
    return args


def main(argv: list[str] | None = None) -> None:
    """Prints the table of the parts that `argv` names."""
    args = parse_args(argv)
    device = runs.pick_device(args.gpu)
    torch.manual_seed(0)
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else "CPU"
    print_row([f"{name}, torch {torch.__version__}", *HEADER])
    print_row(["---"] * (len(HEADER) + 1))
    for part in args.part:
        for cells in PARTS[part](args, device):
            print_row(cells)
        if device.type == "cuda":
            torch.cuda.empty_cache()


def print_row(cells: list[str]) -> None:
    print(f"| {' | '.join(cells)} |", flush=True)


if __name__ == "__main__":
    main()
