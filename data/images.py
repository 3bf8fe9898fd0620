"""Pictures for training, in whole batches: LSUN LMDBs, folders, prepared arrays, CIFAR-10 and toy rooms."""

import contextlib
import functools
import hashlib
import io
import json
import os
import shlex
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from itertools import islice
from pathlib import Path

import lmdb
import numpy as np
import torch
import torchvision  # also loads its decoders, torch.ops.image
from filelock import FileLock
from PIL import Image, ImageOps, UnidentifiedImageError
from torch import Tensor
from torch.nn import functional as F
from tqdm import tqdm

from data import DataError, warn_if_folder_exists
from data.rooms import room
from data.runs import available_cores, print_once, write_file

BATCH = 64  # pictures that a thread of decode_all reads together
UNCHANGED = 0  # for torchvision's decoders: the channels that are in the file
END = b"\n"  # appended to every key in the NumPy array, because NumPy drops trailing zero bytes
NOT_FILES = ("/proc", "/sys", "/dev")  # what is there only looks like files
# Pillow names these, but reads them with other programs only, or not at all
NO_PICTURES = {".bufr", ".emf", ".eps", ".grib", ".h5", ".hdf", ".mpeg", ".mpg", ".ps", ".wmf"}
_lock = threading.Lock()
_open_lmdbs = {}  # folder -> (environment, how many use it now)


# ---------------------------------------------------------------- what the scripts call
def open_images(spec: str, size: int, fit: str = "squash", limit: int | None = None) -> "Images":
    """Find pictures: `dataset[indices]` -> uint8 tensor [len(indices), size, size, 3], RGB.

    spec: an LMDB directory (`lsun/bedroom` finds `lsun/bedroom_train_lmdb`), a folder (of folders) of
    pictures, an array of data.prepare, `cifar10` (downloaded if need be), or `rooms` (toys, drawn on demand).
    fit: `squash` = bilinear, no crop, as the authors do (convert_lsun.py); `crop` = shorter side to size,
    then the centre. EXIF turns are applied (LSUN has none), transparent parts become white.
    limit: so many, evenly spread, so that data sorted by class keep all but their smallest classes.

    An array prepared from the same pictures, at this size and fit, is used if it stands beside them (they may
    be gone). Raises DataError if there are no pictures or they cannot be read.
    """
    source = find_source(spec, size)
    path = prepared_path(spec, size, fit)
    if os.path.exists(path):  # unlike Path.exists, False for a name that is too long
        problem = find_problem(path, source, size, limit) if source else None
        if problem:
            again = f"rm {shlex.quote(str(path))}; python -m data.prepare {shlex.quote(spec)}"
            again += f" --size {size} --fit {fit}"
            print(f"data: not using {path}, as {problem}; to make it again: {again}", file=sys.stderr)
        else:
            source = Array(path, size)
            print(f"data: using {path}", file=sys.stderr)
            # If the pictures it was made from are gone, it may hold fewer of them than are asked for.
            if source.limit is not None and (limit is None or limit > source.limit):
                print(f"data: it holds {source.limit:,} pictures only", file=sys.stderr)
    if source is None:
        looked = f"looked for pictures in {spec}, {spec}_train_lmdb/data.mdb and {path}"
        hint = "; python -m data.download lsun CATEGORY gets LSUN" if "lsun" in spec.lower() else ""
        raise DataError(f"no pictures at {spec} ({looked}){hint}")
    if isinstance(source, Array) and source.fit not in (None, fit):
        raise DataError(f"{source.path} was prepared with --fit {source.fit}, not {fit}")
    return Images(source, size, fit, limit)


def prepared_path(spec: str, size: int, fit: str) -> Path:
    """Where the prepared array of spec stands: lsun/bedroom_112_squash.npy beside lsun/bedroom_train_lmdb."""
    path = Path(os.path.abspath(spec))
    name = path.name
    if name.endswith("_lmdb"):
        name = name.removesuffix("_lmdb").removesuffix("_train")
    return path.parent / f"{name}_{size}_{fit}.npy"


def find_problem(path: Path, source: "Source", size: int, limit: int | None) -> str | None:
    """Why the prepared array in path cannot stand for the pictures of source; None if it can."""
    try:
        array = Array(path, size)
    except DataError as error:
        return str(error)
    json_file = path.with_suffix(".json")
    if not json_file.exists():
        return f"{json_file.name} beside it is missing"
    if array.fingerprint != source.fingerprint:
        return "the pictures have changed since it was made"
    if array.limit not in (None, limit):
        return f"it was made with --limit {array.limit}"
    return None


class Images(torch.utils.data.Dataset):
    """Pictures that are read when asked for; see open_images.

    labels: int64 [n], and classes: the sorted names, of CIFAR-10, of data whose keys or paths all are
    CLASS/..., and of arrays prepared from these; else None.
    fingerprint: of the source. nbytes: of all of them, decoded.
    bad: indices of the pictures that did not decode in this process, and were replaced by the next that did.
    """

    def __init__(self, source: "Source", size: int, fit: str, limit: int | None = None):
        if fit not in ("squash", "crop"):
            raise DataError(f"pictures are made square by squash or crop, not by {fit}")
        if size < 1:
            raise DataError(f"the size of pictures must be at least 1, not {size}")
        if limit is not None and limit < 1:
            raise DataError(f"the limit must be at least 1 picture, not {limit}")
        self.source, self.size, self.fit = source, size, fit
        n = source.n
        count = n if limit is None else min(limit, n)
        self.rows = np.arange(count) * n // count  # evenly spread
        self.labels, self.classes = None, None
        if source.labels is not None:
            kept, self.labels = np.unique(source.labels[self.rows], return_inverse=True)
            self.classes = [source.classes[label] for label in kept]
        self.fingerprint = source.fingerprint
        self.nbytes = len(self.rows) * size * size * 3
        self.bad = set()
        if source.unread:
            print(f"data: {source.path}: {n:,} pictures; not read: {source.unread}", file=sys.stderr)
        self[[0]]  # data that are not pictures fail here, before a run has begun

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, indices) -> Tensor:
        batch = torch.empty(len(indices), self.size, self.size, 3, dtype=torch.uint8)
        with self.source.reading() as read:
            for picture, index in zip(batch, indices):
                if not -len(self) <= index < len(self):
                    raise IndexError(f"there is no picture {index}, there are {len(self):,}")
                picture.copy_(self._picture(read, int(index) % len(self)))  # counts from the end if negative
        return batch

    def _picture(self, read: Callable, index: int) -> Tensor:
        """Picture `index`, or the first after it in the source that decodes."""
        problem = None
        tries = min(100, self.source.n)
        for k in range(tries):
            row = (self.rows[index] + k) % self.source.n
            value = read(row)
            try:
                pixels = decode(value)
            except (NameError, MemoryError):  # a mistake in this code, or too little memory
                raise
            except Exception as error:  # a damaged file can raise almost any exception
                name = f"{self.source.path}: {self.source.name(row)}"
                problem = problem or f"{name} does not decode ({error})"
                continue
            if problem:
                with _lock:  # of several threads, one reports
                    if not self.bad:
                        print(
                            f"data: {problem}; the next one stands in for it; more like it are not reported",
                            file=sys.stderr,
                        )
                    self.bad.add(index)
            return fit_picture(pixels, self.size, self.fit)
        raise DataError(f"{problem}, nor does any other of {tries} that were tried: are these pictures?")


def decode_all(images: Images) -> Tensor:
    """All pictures, uint8 [n, size, size, 3], decoded now; says how long it took."""
    pictures = torch.empty(len(images), images.size, images.size, 3, dtype=torch.uint8)

    def put(start, batch):
        pictures[start : start + len(batch)] = batch

    began = time.perf_counter()
    read_all(images, put)
    seconds = time.perf_counter() - began
    print_once(f"data: {len(images):,} pictures decoded in {seconds:.1f} s, {images.nbytes / 1e6:,.0f} MB")
    return pictures


def read_all(images: Images, put: Callable[[int, Tensor], None]) -> None:
    """Calls put(start, batch) for batches of all the pictures, from several threads at once, in any order.

    Raises what put raises, and DataError for pictures that do not decode.
    """

    def read(start):
        batch = images[range(start, min(start + BATCH, len(images)))]
        put(start, batch)
        return len(batch)

    pool = ThreadPoolExecutor(available_cores())
    try:
        with tqdm(total=len(images), unit=" pictures", leave=False, disable=None) as bar:
            for n in pool.map(read, range(0, len(images), BATCH)):
                bar.update(n)
    finally:
        pool.shutdown(cancel_futures=True)  # after an error or Ctrl-C


# ---------------------------------------------------------------- pixels
def decode(value: bytes | np.ndarray) -> Tensor:
    """A picture file of any kind -> uint8 [height, width, 3], RGB. Pixels need no decoding."""
    if isinstance(value, np.ndarray):
        return torch.from_numpy(value)
    try:
        pixels = decode_by_torchvision(value)
    except (RuntimeError, AttributeError):  # a damaged file or a rare variant; a torchvision without decoders
        pixels = None
    return decode_by_pillow(value) if pixels is None else pixels


def decode_by_torchvision(value: bytes) -> Tensor | None:
    """JPEG and plain WebP; None for other kinds, where Pillow is about as fast.

    Calls the operators directly, because torchvision.io's functions issue a deprecation warning.
    """
    if value.startswith(b"\xff\xd8\xff"):
        pixels = torch.ops.image.decode_jpeg(as_tensor(value), UNCHANGED, True)  # True: turned as EXIF says
        if len(pixels) == 4:  # CMYK
            return None
    elif value[8:16] == b"WEBPVP8 ":  # that is, without alpha, EXIF or animation
        pixels = torch.ops.image.decode_webp(as_tensor(value), UNCHANGED)
    else:
        return None
    return pixels.expand(3, -1, -1).permute(1, 2, 0)  # grey has one channel


def as_tensor(value: bytes) -> Tensor:
    return torch.frombuffer(bytearray(value), dtype=torch.uint8)


def decode_by_pillow(value: bytes) -> Tensor:
    return torch.from_numpy(np.array(open_picture(value).convert("RGB")))


def open_picture(value: bytes) -> Image.Image:
    """Whatever Pillow reads, turned upright, composited on white, with 8 bits a channel.

    ValueError for other files, and for 32 bits a pixel, where nothing says which value is white.
    """
    try:
        image = Image.open(io.BytesIO(value))
    except UnidentifiedImageError:
        raise ValueError("Pillow does not know what it is") from None
    image.load()  # raises for damaged pixels; what exif_transpose raises below is about EXIF alone
    sixteen_bits = image.mode.startswith("I;16") or (image.mode == "I" and image.format in ("PNG", "PPM"))
    with contextlib.suppress(Exception):  # damaged EXIF can raise almost any; the picture may be fine
        ImageOps.exif_transpose(image, in_place=True)
    if sixteen_bits:
        return Image.fromarray((np.asarray(image) >> 8).astype(np.uint8))  # convert() would clip
    if image.mode in ("I", "F"):
        raise ValueError("its pixels have 32 bits: save it with 8 or 16")
    if image.has_transparency_data:
        return Image.alpha_composite(Image.new("RGBA", image.size, "white"), image.convert("RGBA"))
    return image


def fit_picture(pixels: Tensor, size: int, fit: str) -> Tensor:
    """uint8 [height, width, 3] -> [size, size, 3]."""
    height, width, _ = pixels.shape
    if height == width == size:
        return pixels
    if fit == "squash":
        return resize(pixels, size, size)
    shorter = min(height, width)  # becomes `size`, the other one is rounded as torchvision's Resize does
    picture = resize(pixels, size * height // shorter, size * width // shorter)
    height, width, _ = picture.shape
    top, left = round((height - size) / 2), round((width - size) / 2)
    return picture[top : top + size, left : left + size]


def resize(pixels: Tensor, height: int, width: int) -> Tensor:
    """By the bilinear filter of PIL, within one grey level, on uint8 [height, width, 3]."""
    batch = pixels[None].permute(0, 3, 1, 2)
    return F.interpolate(batch, (height, width), mode="bilinear", antialias=True)[0].permute(1, 2, 0)


# ---------------------------------------------------------------- where pictures come from
def find_source(spec: str, size: int) -> "Source | None":
    """What spec names (see open_images), or None. size: the side that an array must have."""
    path = Path(spec)
    try:
        for folder in (path, Path(f"{path}_train_lmdb"), Path(f"{path}_lmdb")):
            if (folder / "data.mdb").exists():
                return Lmdb(folder)
        if spec == "rooms":
            warn_if_folder_exists(spec)
            return Rooms(size)
        if spec == "cifar10":
            return Cifar10(path)
        if path.is_file():
            return Array(path, size)
        sets = sorted(path.glob("*_lmdb"))
        if sets:
            raise DataError(f"{path} holds data sets, name one of them: {', '.join(map(str, sets))}")
        if not path.exists():
            return None
        folder = Folder(path)
    except OSError as error:
        raise DataError(f"{spec} cannot be read ({error.strerror})") from error
    if folder.n == 0 and folder.unread:
        raise DataError(f"no pictures at {spec} that Pillow reads; not read: {folder.unread}")
    return folder if folder.n else None


class Source:
    """Numbered pictures. A kind of source has read(row), or a reading() of its own that holds a file open.

    n: how many there are. fingerprint: changes with the data, as far as that can be seen without reading
    everything. name(row): for messages. A Source can be pickled, and used after a fork.
    """

    path: Path
    n: int
    fingerprint: str
    labels: np.ndarray | None = None  # int64 [n]
    classes: list[str] | None = None
    unread: str = ""  # which files were passed over

    @contextlib.contextmanager
    def reading(self) -> Iterator[Callable[[int], bytes | np.ndarray]]:
        """A function: row -> an encoded picture, or pixels uint8 [height, width, 3]."""
        yield self.read

    def read(self, row: int) -> bytes | np.ndarray:
        raise NotImplementedError

    def name(self, row: int) -> str:
        return f"picture {row:,}"


class Rooms(Source):
    """10,000 toy rooms, drawn when asked for."""

    def __init__(self, size: int):
        self.path, self.fingerprint = Path("rooms"), "rooms"
        self.n, self.size = 10_000, size

    def read(self, row):
        return room(0, int(row), self.size)


class Cifar10(Source):
    """CIFAR-10's 50,000 training pictures, sorted by the names of their classes."""

    def __init__(self, path: Path):
        cifar10 = load_cifar10(path)
        names = [f"{cifar10.classes[label]}/{index}" for index, label in enumerate(cifar10.targets)]
        self.path, self.fingerprint = path, "cifar10"
        self.n = len(names)
        self.order = np.argsort(names)
        self.labels = np.array(cifar10.targets)[self.order]
        self.classes = cifar10.classes

    def read(self, row):
        return load_cifar10(self.path).data[self.order[row]]


@functools.cache
def load_cifar10(path: Path):
    """torchvision's data set, once in a process; downloaded if it is not there."""
    try:
        with contextlib.suppress(RuntimeError):  # if it is not there, or not whole
            return torchvision.datasets.CIFAR10(path)
        path.mkdir(parents=True, exist_ok=True)
        with FileLock(path / ".lock"):  # of several processes, one downloads it
            return torchvision.datasets.CIFAR10(path, download=True)
    except (OSError, RuntimeError) as error:
        raise DataError(f"CIFAR-10 is not in ./{path} and cannot be downloaded ({error})") from error


class Array(Source):
    """An array uint8 [n, size, size, 3] in a .npy file.

    fit: how data.prepare made the pictures square. limit: how many of them it was told to keep. Both None if
    unknown.
    """

    def __init__(self, path: Path, size: int):
        try:
            # Never unpickles, and fails if the file is shorter than its header says
            array = np.lib.format.open_memmap(path, mode="r")
        except OSError as error:
            raise DataError(f"{path} cannot be read ({error.strerror})") from error
        except Exception as error:  # a damaged file can raise almost any exception
            raise DataError(f"{path} is no folder, LMDB directory or whole array of data.prepare") from error
        if array.dtype != np.uint8 or array.shape[1:] != (size, size, 3) or not len(array):
            raise DataError(f"{path} is {array.dtype} {array.shape}, not uint8 (n, {size}, {size}, 3)")
        if not array.flags.c_contiguous:
            raise DataError(f"{path} is stored in Fortran order: save it with np.ascontiguousarray")
        self.path, self.n = path, len(array)
        self.size, self.offset = size, array.offset
        metadata = read_metadata(path.with_suffix(".json"), self.n)
        self.fingerprint = metadata.get("fingerprint") or file_fingerprint(path)
        self.fit, self.limit = metadata.get("fit"), metadata.get("limit")
        self.classes = metadata.get("classes")
        if self.classes:
            self.labels = np.array(metadata["labels"], np.int64)

    @contextlib.contextmanager
    def reading(self):
        length = self.size * self.size * 3
        try:
            file = open(self.path, "rb")
        except OSError as error:
            raise DataError(f"{self.path} cannot be read ({error.strerror})") from error
        with file:

            def read(row):
                # At once, not page after page as from a mapped file: 5 times as fast from the disk
                data = bytearray(os.pread(file.fileno(), length, self.offset + int(row) * length))
                if len(data) < length:
                    raise DataError(f"{self.path} has been cut off since it was opened")
                return np.frombuffer(data, np.uint8).reshape(self.size, self.size, 3)

            yield read


def read_metadata(path: Path, n: int) -> dict:
    """What data.prepare wrote beside an array of n pictures; {} if it wrote nothing."""
    try:
        metadata = json.loads(path.read_text("utf-8"))
        if metadata.get("count", n) != n:
            raise ValueError(f"it is about {metadata['count']} pictures, the array has {n:,}")
        if not isinstance(metadata.get("limit"), int | None):
            raise ValueError("limit is no number")
        classes = metadata.get("classes")
        if not isinstance(classes, list | None):
            raise ValueError("classes is no list")
        if classes:
            labels = np.array(metadata["labels"])
            if labels.shape != (n,) or labels.dtype.kind != "i":
                raise ValueError(f"there are not {n:,} labels")
            if labels.min() < 0 or labels.max() >= len(classes):
                raise ValueError(f"a label is not one of {len(classes):,} classes")
    except FileNotFoundError:
        return {}
    except Exception as error:  # a damaged file can raise almost any exception
        raise DataError(
            f"{path} is damaged, or of another array ({error}):"
            " move it away, and make the array again if you need its labels"
        ) from error
    return metadata


class Folder(Source):
    """The picture files below a folder, sorted by their paths."""

    def __init__(self, path: Path):
        self.path = path
        extensions = picture_extensions()
        names, unread = [], Counter()
        digest = hashlib.sha1()
        for name, stat in sorted(find_files(path)):
            extension = os.path.splitext(name)[1].lower()
            if stat is None:
                unread["that are no regular files"] += 1
            elif extension in extensions:
                names.append(os.fsencode(name))
                digest.update(b"%s %d %d\n" % (names[-1], stat.st_size, stat.st_mtime_ns))
            else:
                unread[extension or "without an extension"] += 1
        self.n, self.fingerprint = len(names), digest.hexdigest()
        self.names = np.array(names, "S")
        self.labels, self.classes = labels_from_paths(self.names)
        self.unread = ", ".join(f"{count:,} {kind}" for kind, count in unread.most_common())

    def name(self, row):
        return os.fsdecode(self.names[row])

    def read(self, row):
        path = self.path / self.name(row)
        try:
            return path.read_bytes()
        except OSError as error:
            raise DataError(f"{path} cannot be read ({error.strerror})") from error


def picture_extensions() -> set[str]:
    """Of the formats that Pillow reads: .jpg, .png, ..."""
    known = {extension for extension, kind in Image.registered_extensions().items() if kind in Image.OPEN}
    return known - NO_PICTURES


def find_files(top: Path) -> Iterator[tuple[str, os.stat_result | None]]:
    """Paths below `top` and their os.stat results (None: no regular file). Hidden ones are left out.

    Links to folders are followed when all real folders have been seen, and no folder is read twice. Raises
    OSError for a folder that cannot be read.
    """

    def fail(error: OSError) -> None:
        raise error

    seen, waiting = set(), [str(top)]
    while waiting:
        for here, folders, files in os.walk(waiting.pop(0), onerror=fail):
            stat = os.stat(here)
            if (stat.st_dev, stat.st_ino) in seen or os.path.realpath(here) in NOT_FILES:
                folders.clear()
                continue
            seen.add((stat.st_dev, stat.st_ino))
            folders[:] = [name for name in sorted(folders) if not name.startswith(".")]
            for path in [os.path.join(here, name) for name in folders]:
                if os.path.islink(path):
                    waiting.append(path)
            for path in [os.path.join(here, name) for name in files if not name.startswith(".")]:
                stat = os.stat(path) if os.path.isfile(path) else None
                yield os.path.relpath(path, top), stat


def labels_from_paths(names: np.ndarray) -> tuple[np.ndarray | None, list[str] | None]:
    """Labels int64 [n] and sorted classes of names CLASS/..., bytes; None if one has no class."""
    if not len(names) or not (np.char.find(names, b"/") > 0).all():
        return None, None
    classes, labels = np.unique([os.fsdecode(name.split(b"/")[0]) for name in names], return_inverse=True)
    return labels, classes.tolist()


# ---------------------------------------------------------------- LMDB
class Lmdb(Source):
    """The values of an LMDB, in the order of its keys."""

    def __init__(self, folder: Path):
        self.path = folder
        self.fingerprint = file_fingerprint(folder / "data.mdb")
        self.keys = load_keys(folder, self.fingerprint)
        self.n = len(self.keys)
        self.labels, self.classes = labels_from_paths(self.keys)

    def name(self, row):
        return os.fsdecode(self.keys[row].removesuffix(END))

    @contextlib.contextmanager
    def reading(self):
        with open_lmdb(self.path) as env:

            def read(row):
                try:
                    with env.begin() as txn:
                        value = txn.get(self.keys[row].removesuffix(END))
                except lmdb.Error as error:
                    raise DataError(f"{self.path}/data.mdb is damaged ({error}): get it again") from error
                if value is None:
                    raise DataError(f"{self.path}/data.mdb has lost {self.name(row)}: get it again")
                return value

            yield read


@contextlib.contextmanager
def open_lmdb(folder: Path) -> Iterator[lmdb.Environment]:
    """To be opened for each batch, which costs 0.1 ms: an open LMDB survives no fork and no pickling.

    A process may open a file once at a time, so that threads share what one of them has opened.
    """
    folder = folder.resolve()
    with _lock:
        env, users = _open_lmdbs.get(folder, (None, 0))
        if env is None:
            try:
                env = lmdb.open(str(folder), readonly=True, lock=False, readahead=False)
            except lmdb.Error as error:
                raise DataError(f"{folder}/data.mdb cannot be read as an LMDB ({error})") from error
        _open_lmdbs[folder] = env, users + 1
    try:
        yield env
    finally:
        with _lock:
            env, users = _open_lmdbs.pop(folder)
            if users == 1:
                env.close()
            else:
                _open_lmdbs[folder] = env, users - 1


def load_keys(folder: Path, fingerprint: str) -> np.ndarray:
    """All keys, bytes, each with END behind it: as listed by an earlier run, or now."""
    file = folder / "data.mdb"
    with open_lmdb(folder) as env:
        try:
            entries, page = env.stat()["entries"], env.stat()["psize"]
            whole, length = (env.info()["last_pgno"] + 1) * page, file.stat().st_size
            if length < whole:  # reading past the end would kill the process
                raise DataError(f"{file} is cut off: it has {length:,} of {whole:,} bytes")
            if not entries:
                raise DataError(f"{file} is an empty LMDB")
            cache = cache_path(f"keys-{fingerprint}.npz")
            keys = read_cached_keys(cache, entries)
            if keys is not None:
                return keys
            with env.begin() as txn:
                cursor = islice(txn.cursor().iternext(values=False), entries)  # damage may make it endless
                bar = tqdm(cursor, "listing keys", entries, unit="", leave=False, disable=None)
                keys = np.array([key + END for key in bar])
        except lmdb.Error as error:
            raise DataError(f"{file} is damaged ({error}): get it again") from error
    if len(keys) != entries:
        raise DataError(f"{file} is damaged (it has {len(keys):,} of {entries:,} keys): get it again")
    write_cached_keys(cache, keys)
    return keys


def cache_path(name: str) -> Path:
    """A file in the folder for what can be made again: ~/.cache/lsgan, or where XDG_CACHE_HOME says."""
    return Path(os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache"), "lsgan", name)


def read_cached_keys(cache: Path, entries: int) -> np.ndarray | None:
    """The list of keys in the cache, or None if it is not there, or damaged."""
    try:
        with open(cache, "rb") as file:
            keys = np.load(file)["keys"]  # which checks the file's checksum, and unpickles nothing
    except Exception:  # a damaged file can raise almost any exception
        return None
    return keys if keys.shape == (entries,) and keys.dtype.kind == "S" else None


def write_cached_keys(cache: Path, keys: np.ndarray) -> None:
    """Keeps the list of keys for the next run."""
    mine = cache.with_name(f"{os.getpid()}-{cache.name}")  # several processes may come here at once
    try:
        cache.parent.mkdir(parents=True, exist_ok=True)
        with write_file(mine) as file:
            np.savez(file, keys=keys)
        os.replace(mine, cache)
    except (OSError, DataError) as error:
        print(f"data: the list of {len(keys):,} keys is not kept: {error}", file=sys.stderr)


def file_fingerprint(path: Path) -> str:
    """A fingerprint of 64 samples of the file.

    The first sample has two pages, on most machines, one of which changes with every commit to an LMDB.
    """
    digest, length = hashlib.sha1(), path.stat().st_size
    with open(path, "rb") as file:
        for offset in range(0, length, length // 64 + 1):
            file.seek(offset)
            digest.update(file.read(8192))
    return digest.hexdigest()
