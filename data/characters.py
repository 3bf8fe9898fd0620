"""Handwritten Chinese characters as 28x28 grey pictures with class ids, all in memory (Fig. 4 and 9)."""

import io
import struct
import zipfile
from collections import Counter
from collections.abc import Callable, Iterator
from functools import partial
from itertools import groupby
from pathlib import Path
from typing import BinaryIO

import numpy as np
import torch
from PIL import Image, ImageOps
from tqdm import tqdm

from data import DataError, strokes

LEVEL1 = "".join(bytes((0xB0 + i // 94, 0xA1 + i % 94)).decode("gb2312") for i in range(3755))
Files = list[tuple[str, Callable[[], BinaryIO]]]  # name, function that opens it


class Characters(torch.utils.data.TensorDataset):
    """`dataset[indices]` -> uint8 [b, 28, 28] (background 255), int64 class ids [b]; `table` names them."""

    def __init__(self, pictures: np.ndarray, labels: np.ndarray, table: list[str]):
        super().__init__(torch.from_numpy(pictures), torch.from_numpy(labels))
        self.pictures, self.labels, self.table = pictures, labels, table


def open_characters(
    spec: str, charset: str = "level1", classes: int | None = None, fit: str = "squash", split: str = "train"
) -> Characters:
    """Read all characters of `spec` into memory, 784 bytes each, and print what was found.

    spec: a folder of `.gnt` files or of zip files of them (CASIA-HWDB), one such file, a folder of pictures
    per class, or "strokes" (toys). charset: of `.gnt` files keep the characters of GB2312 "level1", or "all".
    classes: keep the N with most train samples. fit: "squash" to 28x28 (authors: convert_icdar.py) or "pad"
    to a square first. split: "train", or "test" for held-out writers; both have the class ids of the training
    files, in the order of their GBK codes. DataError for anything that is wrong with the data.
    """
    if fit not in ("squash", "pad") or charset not in ("level1", "all") or split not in ("train", "test"):
        raise DataError(f"no such fit, charset or split: {fit}, {charset}, {split}")
    if classes is not None and classes < 1:
        raise DataError(f"classes must be at least 1, not {classes}")
    if spec == "strokes":  # the characters in their class table are mere names
        pictures, labels = strokes.draw_all(classes or 100, split)
        print(f"strokes: {len(labels):,} drawings of {labels[-1] + 1:,} classes to {split} on")
        return Characters(pictures, labels, list(LEVEL1[: labels[-1] + 1]))
    train, test = find_files(Path(spec))
    counts = Counter(name for name, _ in read_samples(train))
    names = sorted(counts, key=lambda name: name.encode("gb18030", errors="backslashreplace"))
    if charset == "level1" and train[0][0].endswith(".gnt"):
        names = [name for name in names if name in LEVEL1]
    frequent = sorted(names, key=counts.get, reverse=True)[:classes]  # sorted() keeps ties in order
    ids = {name: label for label, name in enumerate(sorted(frequent, key=names.index))}
    labels, pixels = [], bytearray()  # grows in place: no picture is ever held twice
    for name, picture in read_samples(train if split == "train" else test, ids, fit):
        labels.append(ids[name])
        pixels += picture
    found = f"{spec}: {len(labels):,} samples of {len(ids):,} classes to {split} on"
    if not labels or len(ids) < (classes or 1):
        raise DataError(f"{found}, but asked for {classes or 'all'} classes of charset {charset}")
    print(f"{found} (other classes: {len(counts) - len(ids)}; files: {len(train)}, held out: {len(test)})")
    return Characters(np.frombuffer(pixels, np.uint8).reshape(-1, 28, 28), np.array(labels), list(ids))


def find_files(path: Path) -> tuple[Files, Files]:
    """-> files to train on, files held out: released as Test, else the last fifth by name (of each class)."""
    if not path.exists():
        raise DataError(f"nothing at {path.absolute()}; `python -m data.download hwdb1.0` gets HWDB1.0")
    found = [(str(file), partial(open, file, "rb", 0)) for file in (sorted(path.rglob("[!.]*")) or [path])]
    files = [file for file in found if file[0].endswith(".gnt")]
    files += [member for name, _ in found if name.endswith(".zip") for member in zip_members(name)]
    files.sort(key=lambda file: Path(file[0]).name)
    if len({Path(name).name for name, _ in files}) < len(files):
        raise DataError(f"{path} has .gnt files of equal name (unpacked and zipped?): keep one of each")
    start = len(str(path if path.is_dir() else path.parent))
    held_out = {name for name, _ in files if any(test in name[start:].lower() for test in ("test", "tst"))}
    if not files:
        endings = tuple(Image.registered_extensions())
        files = [f for f in found if Path(f[0]).parent.parent == path and f[0].lower().endswith(endings)]
    if not held_out:
        for _, group in groupby(files, key=lambda file: file[0].endswith(".gnt") or Path(file[0]).parent):
            names = [name for name, _ in group]
            held_out.update(names[1:][-max(1, len(names) // 5) :])
    train = [file for file in files if file[0] not in held_out]
    if not train:
        raise DataError(f"nothing to train on in {path}: no .gnt files, zip files of them, or class folders")
    return train, [file for file in files if file[0] in held_out]


def zip_members(path: str) -> Iterator[tuple[str, Callable]]:
    """Name and opener of the `.gnt` files in a zip file, which is never unpacked."""
    try:
        archive = zipfile.ZipFile(path)
    except Exception as error:  # a damaged file fails in any way it likes
        raise DataError(f"{path}: {error}") from error
    for member in archive.infolist():
        name = f"{path}/{member.filename}"
        if name.endswith((".alz", ".zip")):
            raise DataError(f"{name!r}: unpack this too (.alz: with `unalz`), then move {path} away")
        if name.endswith(".gnt") and "__MACOSX" not in name:
            if member.file_size > 20 * member.compress_size:  # handwriting shrinks to a third or a quarter
                raise DataError(f"zip bomb {name!r}: {member.file_size} bytes in {member.compress_size}")
            yield name, partial(archive.open, member)


def read_samples(files: Files, wanted: dict | None = None, fit: str = "") -> Iterator[tuple[str, bytes]]:
    """Yield (class name, 28x28 bytes) of the samples of wanted classes; None: names of all."""
    for name, open_file in tqdm(files, unit="file", leave=False, disable=None):
        try:
            with io.BufferedReader(open_file(), 1 << 20) as stream:
                folder, gnt = Path(name).parent.name, name.endswith(".gnt")
                for label, picture in read_gnt(stream) if gnt else [(folder, Image.open(stream))]:
                    if wanted is None or label in wanted:
                        yield label, shrink(picture, fit) if wanted else b""
        except Exception as error:  # as above
            raise DataError(f"{name!r}: {error}") from error


def read_gnt(stream: BinaryIO) -> Iterator[tuple[str, Image.Image]]:
    """Yield (character, grey picture) for each record; ValueError with the offset where one is unsound.

    A record, little endian: uint32 size (10 + width * height), 2 tag bytes, uint16 width and height, pixels.
    The tag is GBK, or one ASCII byte and 0; one that is neither becomes a character of the private use area.
    """
    offset = 0
    while header := stream.read(10):
        size, tag, width, height = struct.unpack("<I2sHH", header.ljust(10, b"\0"))
        sound = size == 10 + width * height > 10 and max(width, height) <= 4096
        pixels = stream.read(width * height) if sound else b""
        if not sound or len(pixels) < width * height:
            raise ValueError(f"byte {offset}: damaged or cut off record (size {size}, {width}x{height})")
        name = tag.rstrip(b"\0").decode("gb18030", errors="replace")
        name = name if len(name) == 1 and name != "\ufffd" else chr(0xF0000 + int.from_bytes(tag, "big"))
        yield name, Image.frombuffer("L", (width, height), pixels, "raw", "L", 0, 1)
        offset += size


def shrink(picture: Image.Image, fit: str) -> bytes:
    """Any picture -> 28x28 grey bytes by PIL's bilinear filter; what is transparent turns white."""
    if picture.mode != "L":
        white = Image.new("RGBA", picture.size, "white")
        picture = Image.alpha_composite(white, picture.convert("RGBA")).convert("L")
    if fit == "pad":
        picture = ImageOps.pad(picture, [max(picture.size)] * 2, color=255)
    return picture.resize((28, 28), Image.BILINEAR).tobytes()
