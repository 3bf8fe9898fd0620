"""Where pictures come from: finds what a `--data` names, lists its pictures and reads them one by one."""

import contextlib
import functools
import glob
import hashlib
import io
import json
import os
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

import lmdb
import numpy as np
from PIL import Image

from data import DataError
from data.rooms import room
from data.runs import write_file


class Source(NamedTuple):
    kind: str  # lmdb, folder, array, cifar10 or rooms
    path: Path
    keys: np.ndarray  # bytes, one a picture: LMDB keys, paths inside the folder, CLASS/INDEX or INDEX
    fingerprint: str | None  # changes with the pictures
    limit: int | None = None  # of a prepared array that holds so many only


def find_source(spec: str, size: int) -> Source | None:
    """What spec names (see images.open_images), or None; `size` is what an array must have."""
    _mapped.cache_clear()  # a file may have been made again
    path = Path(spec)
    for folder in (path, Path(f"{path}_train_lmdb"), Path(f"{path}_lmdb")):
        if (folder / "data.mdb").exists():
            return _list_lmdb(folder)
    if spec == "rooms":
        return Source("rooms", path, np.arange(10_000).astype("S"), "rooms")
    if spec == "cifar10":
        return _list_cifar10(path)
    if path.is_file():
        return list_array(path, size)
    if sets := sorted(path.glob("*_lmdb")):
        raise DataError(f"{path} holds data sets, name one of them: {', '.join(map(str, sets))}")
    return _list_folder(path)


@contextlib.contextmanager
def reading(source: Source, size: int) -> Iterator[Callable]:
    """A function: key -> PIL image, or an array [size, size, 3] where there is nothing to decode.

    To be opened for each batch, which costs 0.1 ms: an open LMDB survives no fork and no pickling.
    """
    if source.kind == "lmdb":
        with _open_lmdb(source.path) as env, env.begin() as txn:
            yield lambda key: Image.open(io.BytesIO(txn.get(key)))
    elif source.kind == "folder":
        yield lambda key: Image.open(io.BytesIO((source.path / os.fsdecode(key)).read_bytes()))
    elif source.kind == "array":
        yield lambda key: _mapped(source.path)[int(key.split(b"/")[-1])]
    elif source.kind == "cifar10":
        yield lambda key: Image.fromarray(_load_cifar10(source.path).data[int(key.split(b"/")[-1])])
    else:
        yield lambda key: room(0, int(key), size)


@functools.cache
def _mapped(path: Path) -> np.ndarray:
    return np.asarray(np.load(path, mmap_mode="r"))  # as np.memmap it would be slow to index


def _open_lmdb(folder: Path) -> lmdb.Environment:
    try:
        return lmdb.open(str(folder), readonly=True, lock=False, readahead=False)
    except lmdb.Error as error:
        raise DataError(f"{folder}/data.mdb cannot be read as an LMDB ({error})") from error


def _list_lmdb(folder: Path) -> Source:
    file, digest = folder / "data.mdb", hashlib.sha1()
    length = file.stat().st_size
    with open(file, "rb") as data:  # samples: every commit changes one of the first two pages
        for offset in range(0, length, length // 64 + 1):
            data.seek(offset)
            digest.update(data.read(8192))
    cache = folder / f"keys-{digest.hexdigest()[:8]}.npy"  # another LMDB has another name
    with _open_lmdb(folder) as env, env.begin() as txn:
        entries, whole = env.stat()["entries"], (env.info()["last_pgno"] + 1) * env.stat()["psize"]
        if length < whole:  # reading past the end would kill the process
            raise DataError(f"{file} is cut off: it has {length:,} of {whole:,} bytes")
        if not entries:
            raise DataError(f"{file} is an empty LMDB")
        if cache.exists():
            return Source("lmdb", folder, np.load(cache, mmap_mode="r"), digest.hexdigest())
        width = max(map(len, txn.cursor().iternext(values=False)))
        keys = np.fromiter(txn.cursor().iternext(values=False), f"S{width}", entries)
    try:
        mine = cache.with_suffix(f".{os.getpid()}")  # the processes of torchrun come here at once
        with write_file(mine) as out:
            np.save(out, keys)
        os.replace(mine, cache)
    except OSError as error:
        print(f"data: the list of {entries:,} keys is not kept: {error}", file=sys.stderr)
    return Source("lmdb", folder, keys, digest.hexdigest())


@functools.cache
def _load_cifar10(path: Path):
    from torchvision.datasets import CIFAR10  # slow to import, for each worker too

    try:
        return CIFAR10(path, download=True)
    except (OSError, RuntimeError) as error:
        raise DataError(f"CIFAR-10 is not in ./{path} and cannot be downloaded ({error})") from error


def _list_cifar10(path: Path) -> Source:
    cifar10 = _load_cifar10(path)
    keys = [f"{cifar10.classes[label]}/{index}" for index, label in enumerate(cifar10.targets)]
    return Source("cifar10", path, np.array(sorted(keys), "S"), "cifar10")


def _list_folder(folder: Path) -> Source | None:
    endings = {ending for ending, name in Image.registered_extensions().items() if name in Image.OPEN}
    keys, digest = [], hashlib.sha1()
    for key in sorted(glob.glob("**/*.*", root_dir=folder, recursive=True)):
        if os.path.splitext(key)[1].lower() in endings:
            about = os.lstat(folder / key)
            keys.append(os.fsencode(key))
            digest.update(b"%s %d %d\n" % (keys[-1], about.st_size, about.st_mtime_ns))
    return Source("folder", folder, np.array(keys), digest.hexdigest()) if keys else None


def list_array(path: Path, size: int) -> Source:
    try:
        array, about = np.load(path, mmap_mode="r"), read_json(path.with_suffix(".json"))
    except (OSError, ValueError, EOFError) as error:
        raise DataError(f"{path} is no folder, LMDB directory or whole array of data.prepare") from error
    if array.dtype != np.uint8 or array.shape[1:] != (size, size, 3) or not len(array):
        raise DataError(f"{path} is {array.dtype} {array.shape}, not uint8 (n, {size}, {size}, 3)")
    keys = np.arange(len(array)).astype("S")
    if names := about.get("classes"):
        keys = [os.fsencode(f"{names[label]}/{index}") for index, label in enumerate(about["labels"])]
    return Source("array", path, np.array(keys), about.get("fingerprint"), about.get("limit"))


def read_json(path: Path) -> dict:
    return json.loads(path.read_text()) if path.exists() else {}
