"""What saving costs a run at the paper's size: `python tests/bench_save.py [--folder /mnt/disk]`.

Prints a table, medians of five after one to warm up: last.pt of networks and optimizers, curves.png of a log
of 20,000 rows of noise, progress.webp of 1,000 grids of toy rooms. A run of 1,000,000 steps ends with that
many. The share is of the time of 10,000 steps, after which all three are written, if a step takes 8 ms, as
it may on an H100.
"""

import argparse
import statistics
import sys
import tempfile
import time
from functools import partial
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import numpy as np
import torch

import lsgan_scenes as scenes
from data import runs
from data.rooms import room

ROWS, GRIDS, ROUNDS = 20_000, 1000, 5
SECONDS = 10_000 * 0.008


def median_seconds(save) -> float:
    seconds = []
    for _ in range(ROUNDS + 1):
        start = time.perf_counter()
        save()
        seconds.append(time.perf_counter() - start)
    return statistics.median(seconds[1:])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--folder", help="where to write; unset: the system's folder for temporary files")
    args = parser.parse_args()
    settings = scenes.parse_args(["--out", "unused"])
    state = scenes.make_networks(settings, torch.device("cpu"), world=1)
    inputs = torch.zeros(2, 3, settings.size, settings.size), torch.zeros(2, settings.z_dim)
    scenes.train_step(*state.values(), *inputs)  # fills the optimizers' states
    with tempfile.TemporaryDirectory(dir=args.folder) as folder:
        folder = Path(folder)
        rows = [runs.LOG_HEADER]
        for i, values in enumerate(np.random.default_rng(0).random((ROWS, 4)), 1):
            rows.append(",".join([str(50 * i), *(f"{value:.7g}" for value in values), "6000", str(i)]) + "\n")
        (folder / "samples").mkdir()
        rooms = torch.from_numpy(np.stack([room(0, i, settings.size) for i in range(64)]))
        for i in range(GRIDS):
            grid = rooms.roll(i, 0)  # none equals the one before
            scenes.save_grid(grid, folder / f"samples/step_{i:08}.png")
        saves = {
            "last.pt": partial(runs.save_checkpoint, folder / "last.pt", state, log=rows),
            "curves.png": partial(runs.save_curves, folder / "curves.png", rows),
            "progress.webp": partial(runs.save_progress, folder / "samples"),
        }
        print("| file | size | seconds | share |\n|---|---|---|---|")
        whole = 0.0
        for name, save in saves.items():
            seconds = median_seconds(save)
            whole += seconds
            size = (folder / name).stat().st_size / 1e6
            print(f"| {name} | {size:.1f} MB | {seconds:.2f} | {seconds / SECONDS:.1%} |", flush=True)
        print(f"| all | | {whole:.2f} | {whole / SECONDS:.1%} |")


if __name__ == "__main__":
    main()
