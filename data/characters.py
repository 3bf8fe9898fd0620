"""Handwritten Chinese characters as 28x28 grey pictures with class ids, all in memory (Fig. 4 and 9)."""

import hashlib
import io
import re
import struct
import sys
import zipfile
from collections import Counter, defaultdict
from collections.abc import Callable, Container, Iterator
from functools import cache, partial
from pathlib import Path
from typing import BinaryIO, NamedTuple

import torch
from PIL import Image, ImageOps
from torch import Tensor
from torch.utils.data import Dataset
from tqdm import tqdm

from data import DataError, strokes, warn_if_folder_exists
from data.images import find_files, open_picture, picture_extensions
from data.runs import print_once

# GB2312 level 1: the 3,755 most frequent characters
LEVEL1 = "".join(bytes((0xB0 + i // 94, 0xA1 + i % 94)).decode("gb2312") for i in range(3755))


class Characters(Dataset):
    """`dataset[indices]` -> pictures, labels.

    pictures: uint8 [n, 28, 28], background 255. labels: class ids, int64 [n], indices into class_names.
    fingerprint: changes with the pictures.
    """

    def __init__(self, pictures: Tensor, labels: Tensor, class_names: list[str]):
        self.pictures, self.labels, self.class_names = pictures, labels, class_names
        self.fingerprint = hashlib.sha1(pictures.numpy()).hexdigest()

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, indices) -> tuple[Tensor, Tensor]:
        return self.pictures[indices], self.labels[indices]


class File(NamedTuple):
    name: str  # path; of a file in a zip file the zip file's path / its name there
    place: str  # path below the folder that the user named
    size: int  # bytes
    open: Callable[[], BinaryIO]

    @property
    def is_gnt(self) -> bool:
        return self.name.lower().endswith(".gnt")

    @property
    def folder(self) -> str:
        return Path(self.name).parent.name


def open_characters(
    spec: str, charset: str = "level1", classes: int | None = None, fit: str = "squash", split: str = "train"
) -> Characters:
    """Read all characters of `spec` into memory, 784 bytes each, and print what was found.

    spec: a folder of `.gnt` files or of zip files of them (CASIA-HWDB), one such file, a folder of pictures
    per class, or "strokes" (toys). charset: of `.gnt` files keep the characters of GB2312 "level1", or "all".
    classes: keep this many, those with most training samples. fit: "squash" to 28x28 (authors:
    convert_icdar.py) or "pad" to a square first. split: "train", or "test" for held-out writers; both have
    the class ids of the training files, in the order of their GBK codes. For "strokes" only classes (None:
    100) and split matter. Raises DataError for anything that is wrong with the data.
    """
    check_one_of("fit", fit, ("squash", "pad"))
    check_one_of("charset", charset, ("level1", "all"))
    check_one_of("split", split, ("train", "test"))
    if classes is not None and classes < 1:
        raise DataError(f"classes must be at least 1, not {classes}")
    if spec == "strokes":
        warn_if_folder_exists(spec)
        return draw_strokes(classes or 100, split)

    try:
        train, test = split_files(Path(spec))
    except OSError as error:
        raise DataError(f"{spec} cannot be read ({error.strerror})") from error
    counts = count_samples(train)
    is_gnt = train[0].is_gnt
    class_names = choose_classes(counts, classes, charset if is_gnt else "all")
    ids = {name: label for label, name in enumerate(class_names)}
    labels, pixels = [], bytearray()  # a list of pictures would need twice the memory when they are joined
    for name, picture in read_samples(train if split == "train" else test, ids, fit):
        labels.append(ids[name])
        pixels += picture

    found = f"{spec}: {len(labels):,} samples of {len(class_names):,} classes to {split} on"
    if split == "test" and not test:
        raise DataError(f"{found}: too few files to hold any out for testing")
    if split == "test" and class_names and not labels:
        raise DataError(f"{found}: the held-out files have none of the classes of the others")
    if not labels or len(class_names) < (classes or 1):
        of_charset = f" of charset {charset}" if is_gnt else ""
        raise DataError(f"{found}, but asked for {classes or 'all'} classes{of_charset}")
    missing = set(range(len(class_names))) - set(labels)
    if split == "train" and missing:
        raise DataError(f"{spec}: no picture of class {class_names[min(missing)]} decodes")
    other = len(counts) - len(ids)
    print_once(f"{found} (other classes: {other}; files: {len(train)}, held out: {len(test)})")
    pictures = torch.frombuffer(pixels, dtype=torch.uint8).view(-1, 28, 28)
    return Characters(pictures, torch.tensor(labels), class_names)


def check_one_of(name: str, value: str, known: tuple[str, ...]) -> None:
    if value not in known:
        raise DataError(f"{name} must be {' or '.join(known)}, not {value}")


def draw_strokes(classes: int, split: str) -> Characters:
    """Toy characters. The class names are real characters that the drawings do not resemble."""
    pictures, labels = strokes.draw_all(classes, split)
    print_once(f"strokes: {len(labels):,} drawings of {classes:,} classes to {split} on")
    return Characters(torch.as_tensor(pictures), torch.as_tensor(labels), list(LEVEL1[:classes]))


def choose_classes(counts: Counter, classes: int | None, charset: str) -> list[str]:
    """The most frequent classes of the charset, sorted by their GBK codes; these decide ties too."""
    names = sorted(counts, key=lambda name: name.encode("gb18030", errors="backslashreplace"))
    if charset == "level1":
        names = [name for name in names if name in LEVEL1]
    frequent = set(sorted(names, key=counts.get, reverse=True)[:classes])
    return [name for name in names if name in frequent]


# ---------------------------------------------------------------- files
def split_files(path: Path) -> tuple[list[File], list[File]]:
    """-> files to train on, files held out: released as Test, else the last fifth by name (of each class)."""
    if not path.exists():
        raise DataError(f"nothing at {path.absolute()}; `python -m data.download hwdb1.0` gets HWDB1.0")
    found = list_files(path)
    gnt_files = list_gnt(path, found)  # one per writer
    pictures = list_pictures(found)
    if gnt_files:
        if pictures:
            print(f"{len(pictures):,} pictures are skipped, as there are .gnt files", file=sys.stderr)
        test = [file for file in gnt_files if is_test(file.place)]
        if not test:
            return hold_out_a_fifth(gnt_files)
        train = [file for file in gnt_files if not is_test(file.place)]
        if not train:
            raise DataError(f"nothing to train on in {path}: by their names all files are test files")
        return train, test

    classes = defaultdict(list)
    for file in pictures:
        classes[file.folder].append(file)
    if not classes:
        raise DataError(f"nothing to train on in {path}: no .gnt files, zip files of them, or class folders")
    skipped = len(found) - len(pictures)
    if skipped:
        print(f"{skipped:,} files are skipped: they are not pictures in a class folder", file=sys.stderr)
    train, test = [], []
    for of_class in classes.values():
        first, last = hold_out_a_fifth(of_class)
        train += first
        test += last
    return train, test


def hold_out_a_fifth(files: list[File]) -> tuple[list[File], list[File]]:
    """Splits off the last fifth, at least one file; a single file stays in the first part."""
    n = len(files)
    held_out = max(n // 5, 1) if n > 1 else 0
    return files[: n - held_out], files[n - held_out :]


def is_test(place: str) -> bool:
    """Whether a path names a test set, as HWDBTest and HWDB1.0tst_gnt do; not as part of a word."""
    words = re.findall("[A-Z]?[a-z]+|[A-Z]+(?![a-z])", place)
    return any(word.lower() in ("test", "tst") for word in words)


def list_files(path: Path) -> list[File]:
    """All regular files below a folder, by their paths; or the one file that path is."""
    if path.is_file():
        return [File(str(path), path.name, path.stat().st_size, partial(open, path, "rb"))]
    files = []
    for place, stat in sorted(find_files(path), key=lambda found: found[0].split("/")):
        if stat is not None:
            name = str(path / place)
            files.append(File(name, place, stat.st_size, partial(open, name, "rb")))
    return files


def list_gnt(path: Path, found: list[File]) -> list[File]:
    """The `.gnt` files among those found and in the zip files among them, by their names without folders.

    DataError if one in a zip file is there a second time, unpacked or in another zip file.
    """
    files = [file for file in found if file.is_gnt]
    zipped = []
    for file in found:
        if file.name.lower().endswith(".zip"):
            zipped += list_zip(file)
    files = sorted(files + zipped, key=lambda file: Path(file.name).name)
    counts = Counter(Path(file.name).name for file in files)
    if any(counts[Path(file.name).name] > 1 for file in zipped):
        raise DataError(f"{path} has .gnt files of equal name (unpacked and zipped?): keep one of each")
    return files


def list_zip(file: File) -> list[File]:
    """The `.gnt` files in a zip file, which is never unpacked."""
    try:
        archive = zipfile.ZipFile(file.name)
    except Exception as error:  # a damaged file can raise almost any exception
        raise DataError(f"{file.name}: {error}") from error
    files = []
    for member in archive.infolist():
        name = f"{file.name}/{member.filename}"
        extension = name.lower()[-4:]
        if extension in (".alz", ".zip"):
            raise DataError(f"{name!r}: unpack this too (.alz: with `unalz`), then move {file.name} away")
        if extension == ".gnt" and "__MACOSX" not in name:
            if member.file_size > 20 * member.compress_size:  # handwriting shrinks to a third or a quarter
                raise DataError(f"zip bomb {name!r}: {member.file_size} bytes in {member.compress_size}")
            place = f"{file.place}/{member.filename}"
            files.append(File(name, place, member.file_size, partial(archive.open, member)))
    return files


def list_pictures(found: list[File]) -> list[File]:
    """The pictures in class folders."""
    extensions = tuple(picture_extensions())
    return [file for file in found if file.place.count("/") == 1 and file.name.lower().endswith(extensions)]


# ---------------------------------------------------------------- samples
def count_samples(files: list[File]) -> Counter:
    """How many samples there are of each class name. DataError for a damaged .gnt file."""
    counts = Counter()
    for file in tqdm(files, unit="file", leave=False, disable=None):
        if file.is_gnt:
            counts.update(name for name, _ in read_gnt_file(file))
        else:
            counts[file.folder] += 1
    return counts


def read_samples(files: list[File], wanted: Container[str], fit: str) -> Iterator[tuple[str, bytes]]:
    """Yield (class name, 28x28 bytes) of the samples of wanted classes.

    A damaged .gnt file is a DataError. A damaged picture in a class folder is left out, which is reported.
    """
    damaged = []
    for file in tqdm(files, unit="file", leave=False, disable=None):
        if file.is_gnt:
            for name, picture in read_gnt_file(file):
                if name in wanted:
                    yield name, shrink(picture, fit)
        elif file.folder in wanted:
            try:
                with file.open() as stream:
                    picture = shrink(open_picture(stream.read()).convert("L"), fit)
            except (NameError, MemoryError):  # a mistake in this code, or too little memory
                raise
            except Exception as error:  # a damaged file can raise almost any exception
                damaged.append(f"{file.name} ({error})")
                continue
            yield file.folder, picture
    if damaged:
        print(f"{len(damaged):,} pictures do not decode and are left out: {damaged[0]}, ...", file=sys.stderr)


def read_gnt_file(file: File) -> Iterator[tuple[str, Image.Image]]:
    """Yield (character, grey picture) for each record of a .gnt file. DataError if it is damaged."""
    try:
        with io.BufferedReader(file.open(), 1 << 20) as stream:  # twice as fast for files in a zip file
            used = 0
            for name, picture in read_gnt(stream):
                used += 10 + picture.width * picture.height
                yield name, picture
            if used != file.size:
                raise ValueError(f"it has {used:,} bytes, not the {file.size:,} that it should have")
    except (NameError, MemoryError):  # a mistake in this code, or too little memory
        raise
    except Exception as error:  # a damaged zip file can raise almost any exception
        raise DataError(f"{file.name!r}: {error}") from error


def read_gnt(stream: BinaryIO) -> Iterator[tuple[str, Image.Image]]:
    """Yield (character, grey picture) for each record; ValueError with the offset where one is unsound.

    A record, little endian: uint32 size (10 + width * height), 2 tag bytes, uint16 width and height, pixels.
    The tag is GBK, or one ASCII byte and 0; one that is neither becomes a character of the private use area.
    """
    offset = 0
    while header := stream.read(10):
        if len(header) < 10:
            raise ValueError(f"byte {offset}: cut off record")
        size, tag, width, height = struct.unpack("<I2sHH", header)
        if not (0 < width <= 4096 and 0 < height <= 4096 and size == 10 + width * height):
            raise ValueError(f"byte {offset}: damaged record (size {size}, {width}x{height})")
        pixels = stream.read(width * height)
        if len(pixels) < width * height:
            raise ValueError(f"byte {offset}: cut off record (size {size}, {width}x{height})")
        yield name_of(tag), Image.frombuffer("L", (width, height), pixels, "raw", "L", 0, 1)
        offset += size


@cache
def name_of(tag: bytes) -> str:
    """The character that a tag of two bytes stands for."""
    name = tag.rstrip(b"\0").decode("gb18030", errors="replace")
    if len(name) == 1 and name != "\ufffd":
        return name
    return chr(0xF0000 + int.from_bytes(tag, "big"))


def shrink(picture: Image.Image, fit: str) -> bytes:
    """A grey picture -> 28x28 bytes by PIL's bilinear filter."""
    if fit == "pad":
        side = max(picture.size)
        picture = ImageOps.pad(picture, (side, side), color=255)
    return picture.resize((28, 28), Image.Resampling.BILINEAR).tobytes()
