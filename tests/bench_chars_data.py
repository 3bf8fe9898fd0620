"""How fast GNT files are read, and how much memory all of HWDB1.0 takes. Prints tables.

    LSGAN_DATA=... OMP_NUM_THREADS=1 python tests/bench_chars_data.py [--memory]

Characters a second of one core: CPU time, medians of interleaved rounds. The obvious loop reads a record with
numpy, resizes it with PIL, collects arrays in a list and stacks them. `--memory` writes 1,680,258 records
into a temporary folder (30 MB) and reports the memory of a process that reads them; its bitmaps are 2x3.
"""

import contextlib
import io
import math
import os
import shutil
import statistics
import struct
import subprocess
import sys
import tempfile
import time
import zipfile
from pathlib import Path

import numpy as np
from PIL import Image

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from data.characters import LEVEL1, count_samples, open_characters, read_samples, split_files

ROUNDS = 5
HWDB10 = 1_680_258


def obvious(folder):
    pictures = []
    for path in sorted(folder.glob("*.gnt")):
        with open(path, "rb") as file:
            while header := file.read(10):
                _, tag, width, height = struct.unpack("<I2sHH", header)
                tag.decode("gb2312")
                bitmap = np.frombuffer(file.read(width * height), np.uint8).reshape(height, width)
                pictures.append(np.array(Image.fromarray(bitmap).resize((28, 28), Image.Resampling.BILINEAR)))
    return np.stack(pictures)


def quiet(*args, **kwargs):
    with contextlib.redirect_stdout(io.StringIO()):
        return open_characters(*args, **kwargs)


def handwriting(folder):
    """The real writers of LSGAN_DATA, or noise of their mean size."""
    real = Path(os.environ.get("LSGAN_DATA", "")) / "hanzi" / "hwdb1.1_100x100"
    if real.exists():
        print(f"real handwriting from {real}")
        for path in sorted(real.glob("*.gnt"))[:50]:
            shutil.copy(path, folder)
        return
    print("no LSGAN_DATA: noise in bitmaps of 58x74")
    rng = np.random.default_rng(0)
    for writer in range(50):
        with open(folder / f"{writer:03d}-f.gnt", "wb") as file:
            for character in LEVEL1[:100]:
                header = struct.pack("<I2sHH", 10 + 58 * 74, character.encode("gb2312"), 58, 74)
                file.write(header + rng.bytes(58 * 74))


def speed(root):
    folder, packed = root / "gnt", root / "Gnt1.0TrainPart1.zip"
    folder.mkdir()
    handwriting(folder)
    with zipfile.ZipFile(packed, "w", zipfile.ZIP_DEFLATED) as archive:
        for path in sorted(folder.glob("*.gnt")):
            archive.write(path, path.name)
    files = sum(split_files(folder), [])
    everything = dict.fromkeys(LEVEL1)
    ways = {
        "headers and pixels, not resized": lambda: count_samples(files).total(),
        "parse and resize, squash": lambda: sum(1 for _ in read_samples(files, everything, "squash")),
        "parse and resize, pad": lambda: sum(1 for _ in read_samples(files, everything, "pad")),
        "the obvious loop": lambda: len(obvious(folder)),
        "open_characters (both passes)": lambda: len(quiet(str(folder))),
        "open_characters, zip file": lambda: len(quiet(str(packed))),
    }
    rates = {name: [] for name in ways}
    for _ in range(ROUNDS):
        for name, way in ways.items():
            start = time.process_time()
            count = way()
            rates[name].append(count / (time.process_time() - start))
    base = statistics.median(rates["the obvious loop"])
    for name, values in rates.items():
        rate = statistics.median(values)
        print(f"{name:34} {rate:9,.0f} characters/s/core   {rate / base:5.2f} x the obvious loop")


def memory(root):
    folder = root / "all"
    folder.mkdir()
    rng = np.random.default_rng(0)
    characters = LEVEL1[:3740]
    header = {c: struct.pack("<I2sHH", 16, c.encode("gb2312"), 2, 3) for c in characters}
    per_file = math.ceil(HWDB10 / 449)
    for writer in range(450):  # one small file more, released as Test: all others are for training
        count = min(per_file, HWDB10 - writer * per_file) if writer < 449 else 1
        data = b"".join(header[characters[i % 3740]] + rng.bytes(6) for i in range(count))
        (folder / ("test.gnt" if writer == 449 else f"{writer:03d}-f.gnt")).write_bytes(data)
    start = time.perf_counter()
    subprocess.run([sys.executable, __file__, "--peak", str(folder)], check=True)
    print(f"{time.perf_counter() - start:.0f} s")


def resident(kind):
    """GB of this process: VmHWM, the peak; RssAnon, without the pages of shared libraries."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 / 1e9 for line in lines if line.startswith(kind))


if __name__ == "__main__":
    if "--peak" in sys.argv:
        kinds = "VmHWM", "RssAnon"
        before = [resident(kind) for kind in kinds]
        dataset = open_characters(sys.argv[-1])
        dataset[np.arange(64)]
        print(f"{len(dataset):,} pictures, {dataset.pictures.nbytes / 1e9:.3f} GB")
        for kind, start in zip(kinds, before):
            print(f"{kind}: {start:.3f} GB with PyTorch imported, {resident(kind):.3f} GB with the data")
    else:
        with tempfile.TemporaryDirectory() as name:
            (memory if "--memory" in sys.argv else speed)(Path(name))
