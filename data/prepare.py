"""Decode and resize once: `python -m data.prepare lsun/bedroom --size 112` -> lsun/bedroom_112_squash.npy.

The array is uint8 [n, size, size, 3]; the .json beside it says what it holds. A script that is given the same
--data, --size and --fit uses it.
"""

import contextlib
import errno
import json
import os
import shlex
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

import numpy as np

from data import DataError, make_parser, one_line_errors
from data.images import Array, Images, find_source, prepared_path, read_all
from data.runs import at_least, lock_file, not_empty, write_file


def prepare(spec: str, size: int, fit: str = "squash", limit: int = 0, out: str | None = None) -> Path:
    """Write the array of the pictures that spec names (see images.open_images), and return its path.

    While it grows it is called .npy.part. DataError: bad input, too little space, another array in its place,
    pictures that changed meanwhile.
    """
    source = find_source(spec, size)
    path = Path(out or prepared_path(spec, size, fit))
    if source is None:
        raise DataError(f"no pictures at {spec}")
    if path.suffix != ".npy":
        raise DataError(f"{path} must end in .npy")
    images = Images(source, size, fit, limit or None)
    n = len(images)
    metadata = {"fingerprint": source.fingerprint, "size": size, "fit": fit, "count": n}
    metadata["limit"] = None if n == source.n else n
    if is_complete(path, metadata):
        return path
    check_json_is_ours(path.with_suffix(".json"))

    with open_part(path, images.nbytes) as part:
        if is_complete(path, metadata):  # another process was faster
            return path
        write_pictures(part, images)
        after = find_source(spec, size)
        if after is None or after.fingerprint != source.fingerprint:
            raise DataError("the pictures changed while they were read: start again")
        metadata |= {"source": str(source.path), "replaced": len(images.bad), "classes": images.classes}
        metadata["labels"] = None if images.labels is None else images.labels.tolist()
        with write_file(path.with_suffix(".json")) as file:
            file.write(json.dumps(metadata).encode())
        os.replace(part.name, path)
    print(f"{path}: complete, {len(images.bad)} pictures did not decode and were replaced")
    return path


def is_complete(path: Path, metadata: dict) -> bool:
    """Whether the array is there already; says so if it is. DataError if it is damaged or holds others."""
    if not os.path.exists(path):
        return False
    try:
        Array(path, metadata["size"])  # raises DataError if it is cut off
        there = json.loads(path.with_suffix(".json").read_text())
        same = all(there[name] == value for name, value in metadata.items())
    except (DataError, OSError, ValueError, RecursionError, LookupError, TypeError):
        same = False
    if not same:
        raise DataError(
            f"{path} is damaged or holds other pictures: rm {shlex.quote(str(path))}, or give another --out"
        )
    print(f"{path} is complete")
    return True


def check_json_is_ours(path: Path) -> None:
    """DataError if path, where the array's metadata go, is a file that data.prepare did not write."""
    if not os.path.lexists(path):
        return
    try:
        ours = "fingerprint" in path.read_text(errors="replace")
    except OSError:  # a folder, or not for us to read
        ours = False
    if not ours:
        raise DataError(
            f"{path} exists and was not written by data.prepare: move it away, or give another --out"
        )


@contextlib.contextmanager
def open_part(path: Path, length: int) -> Iterator[BinaryIO]:
    """The empty file `path`.part, for this process alone. If it has not got its final name, it is removed."""
    part = Path(f"{path}.part")
    try:
        part.touch()
        file = open(part, "r+b")  # "wb" would empty the file of a process that holds the lock
    except OSError as error:
        raise DataError(f"{part} cannot be written ({error.strerror})") from error
    with file:
        lock_file(file, "data.prepare")
        # Between open and flock another process may have finished, and given this very file its final name.
        if not part.exists() or not os.path.samestat(os.fstat(file.fileno()), part.stat()):
            raise DataError(f"another data.prepare has just finished with {part}: run the same command again")
        try:
            file.truncate(0)  # what a killed process left
            free = shutil.disk_usage(path.parent).free
            print(f"{path}: {length / 1e9:.3g} GB ({free / 1e9:.3g} GB are free)", flush=True)
            if length > free:
                raise DataError(
                    f"too little space in {path.parent}: --limit takes fewer, --out another place"
                )
            yield file
        finally:
            part.unlink(missing_ok=True)


def write_pictures(part: BinaryIO, images: Images) -> None:
    """Writes the array and waits until it is on the disk.

    Threads finish in any order, so each batch is written at its own offset. A mapped file would kill the
    process when the disk is full.
    """
    shape = (len(images), images.size, images.size, 3)
    header = {"descr": "|u1", "fortran_order": False, "shape": shape}
    np.lib.format.write_array_header_1_0(part, header)
    part.flush()
    begin = part.tell()
    bytes_per_picture = images.size**2 * 3

    def put(start, batch):
        pixels = batch.numpy().tobytes()
        if os.pwrite(part.fileno(), pixels, begin + start * bytes_per_picture) < len(pixels):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    try:
        read_all(images, put)
        os.fsync(part.fileno())
    except OSError as error:
        raise DataError(
            f"{part.name} cannot be written ({error.strerror}); --out writes in another place"
        ) from error


def main(argv: list[str] | None = None) -> None:
    """The command line. Bad input: one line and exit code 2. Ctrl-C: exit code 130."""
    parser = make_parser("data.prepare", "Decode and resize pictures once, for faster training.")
    add = parser.add_argument
    add("spec", type=not_empty, help="LMDB directory, folder of pictures, cifar10 or rooms")
    add("--size", type=at_least(1), default=112, help="side in pixels")
    add("--fit", choices=("squash", "crop"), default="squash", help="how a picture becomes square")
    add("--limit", type=at_least(0), default=0, help="use only this many pictures, evenly spaced; 0: all")
    add(
        "--out", type=not_empty, help="write this .npy file instead; the scripts do not find it by themselves"
    )
    args = parser.parse_args(argv)
    with one_line_errors("data.prepare", "nothing is kept", "--size"):
        prepare(**vars(args))


if __name__ == "__main__":
    main()
