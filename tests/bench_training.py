"""The training loop of lsgan_scenes.py as it is: what it does besides training, and whether its memory grows.

    LSGAN_DATA=... python tests/bench_training.py --size 64 --width 16 --batch-size 32 --steps 2000 [--gpu 0]

For the photos of LSGAN_DATA as an LMDB, the same prepared, and toy rooms; without LSGAN_DATA toy rooms only.
Each held in memory, as data of up to 2 GB are, then read in the training process and by two workers.
Waiting is the time spent in the loader. The rest is outside the loader and train_step: z, the progress bar,
this benchmark's look at the memory. Both are shares of the time from the end of step 10 to the last step. On
a GPU, where train_step returns before its work is done, they are those of the program, not of the GPU:
compare the images/s with those of data on the device. Memory is what the process holds at that step, without
data workers (/proc, so Linux only).
"""

import argparse
import os
import resource
import shutil
import sys
import tempfile
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import torch

import lsgan_scenes as scenes
from data import prepare

WARM_UP = 10


def watch(loader, seen, last):
    """The loader's batches; appends to `seen` for each: time before and after waiting, memory in MB.

    On a GPU the program runs ahead; before the first and the last batch that count it waits for the GPU.
    """
    batches = iter(loader)
    while True:
        if torch.cuda.is_available() and len(seen) in (WARM_UP, last - 1):
            torch.cuda.synchronize()
        before = time.perf_counter()
        batch = next(batches, None)
        after = time.perf_counter()
        if batch is None:
            return
        resident_pages = int(Path("/proc/self/statm").read_text().split()[1])
        memory = resident_pages * resource.getpagesize() / 1e6
        seen.append((before, after, memory))
        yield batch


def bench(data, flags, workers):
    """workers: None for data in memory. Shares of waiting and of the rest, steps/s, MB at three steps."""
    seen, in_steps = [], []
    load_batches, in_memory, train_step = scenes.load_batches, scenes.IN_MEMORY, scenes.train_step

    def timed_step(*args, **settings):
        start = time.perf_counter()
        losses = train_step(*args, **settings)
        in_steps.append(time.perf_counter() - start)
        return losses

    last = scenes.parse_args(flags).steps
    scenes.load_batches = lambda *args: watch(load_batches(*args), seen, last)
    scenes.train_step = timed_step
    if workers is not None:
        flags = [*flags, "--workers", str(workers)]
        scenes.IN_MEMORY = 0
    out = tempfile.mkdtemp()
    try:
        scenes.main([*flags, "--data", data, "--out", out])
    finally:
        scenes.load_batches, scenes.IN_MEMORY, scenes.train_step = load_batches, in_memory, train_step
        shutil.rmtree(out)
    timed = seen[WARM_UP:]
    whole = timed[-1][0] - timed[0][0]
    waited = sum(after - before for before, after, _ in timed[:-1])
    marks = [round(seen[step - 1][2]) for step in (len(seen) // 10, len(seen) // 2, len(seen))]
    rest = whole - waited - sum(in_steps[WARM_UP:-1])
    return waited / whole, rest / whole, (len(timed) - 1) / whole, marks


def main():
    parser = argparse.ArgumentParser()
    for flag, value in ("size", 112), ("width", 64), ("batch-size", 64), ("steps", 100), ("gpu", -1):
        parser.add_argument(f"--{flag}", type=int, default=value)
    args = parser.parse_args()
    if args.steps < WARM_UP + 2:
        parser.error(f"--steps must be at least {WARM_UP + 2}")
    flags = [f"--{name.replace('_', '-')}={value}" for name, value in vars(args).items()]
    flags += [f"--{name}-every={args.steps}" for name in ("log", "sample", "save")]
    print(
        " ".join(flags[:4]), f"{torch.get_num_threads()} threads, torch {torch.__version__}", file=sys.stderr
    )
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        datasets = {"toy rooms": "rooms"}
        if "LSGAN_DATA" in os.environ:
            spec = f"{folder}/bedroom"
            shutil.copytree(Path(os.environ["LSGAN_DATA"], "lsun/bedroom_train_lmdb"), f"{spec}_train_lmdb")
            prepared = prepare.prepare(spec, args.size, out=f"{folder}/prepared.npy")
            datasets = {"prepared array": str(prepared), "LMDB, WebP": spec} | datasets
        for name, data in datasets.items():
            for where, workers in (("in memory", None), ("no worker", 0), ("2 workers", 2)):
                waiting, rest, steps_per_second, marks = bench(data, flags, workers)
                speed = args.batch_size * steps_per_second
                memory = " ".join(f"{mark:,}" for mark in marks)
                rows.append(f"| {name} | {where} | {speed:,.0f} | {waiting:.2%} | {rest:.2%} | {memory} |")
    print(
        "| data | read | images/s | waiting for data | the rest | MB after a tenth, half, all of the steps |"
    )
    print("|---|---|---|---|---|---|")
    print("\n".join(rows))


if __name__ == "__main__":
    main()
