"""Decode and resize once: `python -m data.prepare lsun/bedroom --size 112` -> lsun/bedroom_112_squash.npy.

The array is uint8 [n, size, size, 3]; the .json beside it says what it holds. A script that is given the same
--data, --size and --fit uses it. What was cut off goes on when the same command runs again.
"""

import fcntl
import json
import os
import shutil
from pathlib import Path

import numpy as np
from torch.utils.data import DataLoader, Dataset
from tqdm import tqdm

from data import DataError, make_parser, one_line_errors
from data.images import Images, prepared_path
from data.runs import ignore_signals, write_file
from data.sources import find_source, read_json

BATCH, SAFE_EVERY = 64, 512  # pictures: read together, and made safe on the disk together
HEADER = 128  # bytes of a .npy file before its numbers
AGAIN = "what is done is kept, run the same command again to continue"


class Counted(Dataset):
    """Batches, each with the number of pictures replaced in it: a worker's own count never leaves it."""

    def __init__(self, images: Images):
        self.images = images

    def __getitem__(self, indices):
        return self.images[indices], len(self.images.bad.intersection(indices))


def prepare(
    spec: str,
    size: int,
    fit: str = "squash",
    limit: int | None = None,
    workers: int = 0,
    out: str | None = None,
) -> Path:
    """Write the array of the pictures that spec names (see images.open_images); its path.

    While it grows it is called .npy.part, and .npy.part.json says how much of it is safe. DataError: bad
    input, too little space, another array in its place, pictures that changed. OSError: the disk is full.
    """
    source, path = find_source(spec, size), Path(out or prepared_path(spec, size, fit))
    if source is None or path.suffix != ".npy":
        raise DataError(f"{path} must end in .npy" if source else f"no pictures at {spec}")
    images, part = Images(source, size, fit, limit), Path(f"{path}.part")
    n, length = len(images), HEADER + len(images) * size * size * 3
    about = {"fingerprint": source.fingerprint, "size": size, "fit": fit, "count": n}
    about["limit"] = None if n == len(source.keys) else n
    if path.exists():
        if not about.items() <= read_json(path.with_suffix(".json")).items():
            raise DataError(f"{path} exists and holds other pictures: rm {path}, or give another --out")
        print(f"{path} is complete")
        return path
    free = shutil.disk_usage(path.parent).free + (part.stat().st_size if part.exists() else 0)
    print(f"{path}: {n:,} pictures, {length / 1e9:.3g} GB ({free / 1e9:.3g} GB are free)", flush=True)
    if length > free:
        raise DataError(f"too little space in {path.parent}: --limit takes fewer, --out another place")
    replaced = _write_part(part, images, about, workers)
    after = find_source(spec, size)
    if after is None or after.fingerprint != source.fingerprint:
        raise DataError(f"the pictures changed while they were read: rm {part}* and start again")
    labels = None if images.labels is None else images.labels.tolist()
    about |= {"source": str(source.path), "replaced": replaced, "classes": images.classes, "labels": labels}
    with write_file(path.with_suffix(".json")) as file:
        file.write(json.dumps(about).encode())
    part.rename(path)
    Path(f"{part}.json").unlink()
    print(f"{path}: complete, {replaced} pictures did not decode and were replaced")
    return path


def _write_part(part, images, about, workers):
    n, progress, fresh = len(images), Path(f"{part}.json"), about | {"done": 0, "replaced": 0}
    with open(part, "ab") as file:
        try:
            fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)  # unlike flock's, not inherited by workers
        except BlockingIOError:
            raise DataError(f"another data.prepare is writing {part}") from None
        safe = read_json(progress) or fresh
        if not about.items() <= safe.items():
            raise DataError(f"{part} was begun with other pictures or options: rm {part}* to start again")
        each = images.size**2 * 3
        if file.tell() < HEADER + safe["done"] * each:  # not the file that the progress is about
            safe = fresh
        file.truncate(HEADER + safe["done"] * each if safe["done"] else 0)
        if not safe["done"]:
            shape = {"descr": "|u1", "fortran_order": False, "shape": (n, images.size, images.size, 3)}
            np.lib.format.write_array_header_1_0(file, shape)
        done, replaced = safe["done"], safe["replaced"]
        batches = (np.arange(start, min(start + BATCH, n)) for start in range(done, n, BATCH))
        loader = DataLoader(
            Counted(images),
            sampler=batches,
            batch_size=None,
            num_workers=workers,
            worker_init_fn=ignore_signals,
        )
        with tqdm(total=n, initial=done, unit=" pictures", disable=None) as bar:
            for batch, bad in loader:
                file.write(batch.numpy())
                done, replaced = done + len(batch), replaced + bad
                bar.update(len(batch))
                if done % SAFE_EVERY == 0 or done == n:
                    file.flush()
                    os.fsync(file.fileno())
                    with write_file(progress) as note:
                        note.write(json.dumps(about | {"done": done, "replaced": replaced}).encode())
    return replaced


def main(argv: list[str] | None = None) -> None:
    """The command line: exit code 2 and one line for what is wrong, 130 for Ctrl-C."""
    parser = make_parser("data.prepare", __doc__)
    add = parser.add_argument
    add("spec", help="LMDB directory, folder of pictures, cifar10 or rooms")
    add("--size", type=int, default=112, help="side in pixels")
    add("--fit", choices=("squash", "crop"), default="squash", help="how a picture becomes square")
    add("--limit", type=int, help="only so many pictures, evenly spread; unset: all")
    add("--workers", type=int, default=os.cpu_count(), help="processes that read")
    add("--out", help="another .npy file than the one that the scripts find")
    args = parser.parse_args(argv)
    if args.workers < 0:
        parser.error("--workers must be at least 0")
    with one_line_errors(parser, AGAIN):
        prepare(**vars(args))


if __name__ == "__main__":
    main()
