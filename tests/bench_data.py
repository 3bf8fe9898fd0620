"""How fast pictures are read, beside torchvision's LSUN reader: `LSGAN_DATA=... python tests/bench_data.py`.

One process and one thread. The routes take turns on the same pictures; medians over the rounds, in processor
time, which a busy machine disturbs less than the clock. The table of threads (one run each, by the clock) and
the last line (processor time) are no medians. LSGAN_DATA names a folder that has
lsun/bedroom_train_lmdb; without it toy rooms of 384x256 are written as WebP. Prints tables, never fails.
"""

import io
import os
import statistics
import sys
import tempfile
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import lmdb
import numpy as np
import torch
from PIL import Image
from torchvision import transforms
from torchvision.datasets import LSUNClass

from data import images as images_module
from data.images import decode_all, open_images
from data.prepare import prepare
from data.rooms import room

SIZE, BATCH, ROUNDS = 112, 64, 9
PICTURES, KEYS = 448, 1_000_000


def write_lmdb(folder, values):
    folder.mkdir()
    with lmdb.open(str(folder), map_size=1 << 31) as env, env.begin(write=True) as txn:
        for key, value in values:
            txn.put(key, value)
    return str(folder)


def recoded(value, kind):
    buffer = io.BytesIO()
    Image.open(io.BytesIO(value)).convert("RGB").save(buffer, kind, quality=85)
    return buffer.getvalue()


def photos():
    """The values of an LSUN-like LMDB: shorter side 256."""
    if "LSGAN_DATA" in os.environ:
        path = os.path.join(os.environ["LSGAN_DATA"], "lsun/bedroom_train_lmdb")
        with lmdb.open(path, readonly=True, lock=False) as env, env.begin() as txn:
            return [value for _, (_, value) in zip(range(PICTURES), txn.cursor())]
    buffers = [io.BytesIO() for _ in range(PICTURES)]
    for i, buffer in enumerate(buffers):
        Image.fromarray(room(0, i, 256)).resize((384, 256)).save(buffer, "WEBP", quality=85)
    return [buffer.getvalue() for buffer in buffers]


def medians(routes, items):
    """Milliseconds per picture of each route, interleaved."""
    times = {name: [] for name in routes}
    for i in range(ROUNDS + 1):
        for name, route in routes.items():
            chosen = items[i % len(items)]
            start = time.process_time()
            route(chosen)
            times[name].append((time.process_time() - start) / len(chosen) * 1e3)
    return {name: statistics.median(values[1:]) for name, values in times.items()}  # the first warms up


def table(title, result):
    reference = next(iter(result.values()))
    print(f"\n{title}\n| route | ms per picture | pictures/s | ratio |\n|---|---|---|---|")
    for name, value in result.items():
        print(f"| {name} | {value:.4f} | {1e3 / value:,.0f} | {reference / value:.2f} |")


def bench_reading(folder, kind):
    values = [recoded(v, "JPEG") for v in photos()] if kind == "JPEG" else photos()
    spec = write_lmdb(folder / f"{kind}_lmdb", [(f"{i:040x}".encode(), v) for i, v in enumerate(values)])
    direct = {fit: open_images(spec, SIZE, fit) for fit in ("squash", "crop")}
    prepare(spec, SIZE)
    array = open_images(spec, SIZE)
    steps = [transforms.Resize(SIZE), transforms.CenterCrop(SIZE), transforms.ToTensor()]
    theirs = LSUNClass(spec + os.sep, transform=transforms.Compose(steps))
    theirs.env.close()  # py-lmdb opens a file once in a process: reopened for each turn, which takes 0.1 ms
    items = [np.random.default_rng(i).permutation(PICTURES)[:BATCH] for i in range(7)]

    def torchvision(chosen):
        torch.stack([theirs[int(i)][0] for i in chosen])

    def pillow(chosen):
        for i in chosen:
            Image.open(io.BytesIO(values[i])).load()

    def with_env(chosen):
        with lmdb.open(spec, readonly=True, lock=False, readahead=False) as theirs.env:
            torchvision(chosen)

    routes = {
        "torchvision LSUNClass, Resize, CenterCrop, ToTensor": with_env,
        "Pillow's decoder alone": pillow,
        "open_images, squash": direct["squash"].__getitem__,
        "open_images, crop": direct["crop"].__getitem__,
        "prepared array": array.__getitem__,
    }
    table(f"{kind} values, batches of {BATCH} at {SIZE}x{SIZE}, one core", medians(routes, items))
    return direct["squash"]


def bench_threads(images):
    print("\n| decode_all, threads | seconds | pictures/s |\n|---|---|---|")
    cores = images_module.available_cores
    for threads in (1, 2, 4):
        images_module.available_cores = lambda n=threads: n
        start = time.perf_counter()
        decode_all(images)
        seconds = time.perf_counter() - start
        print(f"| {threads} | {seconds:.2f} | {len(images) / seconds:,.0f} |")
    images_module.available_cores = cores


def bench_keys(folder):
    value = recoded(photos()[0], "WEBP")
    keys = np.random.default_rng(0).bytes(20 * KEYS).hex()
    keys = sorted(keys[i : i + 40].encode() for i in range(0, len(keys), 40))
    spec = write_lmdb(folder / "keys_lmdb", [(key, value if i == 0 else b"") for i, key in enumerate(keys)])
    times = []
    for _ in range(2):
        start = time.process_time()
        found = open_images(spec, SIZE)
        times.append(time.process_time() - start)
    print(f"\n{len(found):,} keys: opened in {times[0]:.2f} s the first time, {times[1]:.2f} s after that")


def main():
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        os.chdir(folder)  # torchvision leaves its list of keys in the working directory
        os.environ["XDG_CACHE_HOME"] = folder
        images = bench_reading(Path(folder), "WEBP")
        bench_reading(Path(folder), "JPEG")
        bench_threads(images)
        bench_keys(Path(folder))


if __name__ == "__main__":
    main()
