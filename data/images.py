"""Pictures for training, in whole batches: LSUN LMDBs, folders, prepared arrays, CIFAR-10 and toy rooms."""

import os
import sys
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageOps

from data import DataError
from data.sources import Source, find_source, list_array, reading


def open_images(spec: str, size: int, fit: str = "squash", limit: int | None = None) -> "Images":
    """Find pictures: `dataset[indices]` -> uint8 tensor [len(indices), size, size, 3], RGB.

    spec: an LMDB directory (`lsun/bedroom` finds `lsun/bedroom_train_lmdb`), a folder (of folders) of
    pictures, an array of data.prepare, `cifar10` (downloaded if need be), or `rooms` (toys, drawn on demand).
    fit: `squash` = PIL bilinear, no crop, as the authors do (convert_lsun.py); `crop` = shorter side to size,
    then the centre. EXIF turns are applied (LSUN has none), transparent parts become white.
    limit: so many, evenly spread: data sorted by class keep all their classes.

    An array prepared from the same pictures, at this size and fit, is used if it stands beside them (they may
    be gone). Raises DataError if there are no pictures or they cannot be read.
    """
    source, path = find_source(spec, size), prepared_path(spec, size, fit)
    if path.exists():
        array, problem = list_array(path, size), None
        if source and source.fingerprint != array.fingerprint:
            problem = "the pictures have changed since it was made"
        elif source and array.limit not in (None, limit):
            problem = f"it holds {array.limit:,} pictures only"
        again = f"to make it again: rm {path}; python -m data.prepare {spec} --size {size} --fit {fit}"
        print(
            f"data: not using {path}, {problem}; {again}" if problem else f"data: using {path}",
            file=sys.stderr,
        )
        source = source if problem else array
    if source is None:
        looked = f"looked for {spec}_train_lmdb/data.mdb, {path} and pictures below {spec}"
        raise DataError(f"no pictures at {spec} ({looked}); python -m data.download gets LSUN")
    return Images(source, size, fit, limit)


def prepared_path(spec: str, size: int, fit: str) -> Path:
    """Where the prepared array of spec stands: lsun/bedroom_112_squash.npy beside lsun/bedroom_train_lmdb."""
    path = Path(os.path.abspath(spec))
    return path.with_name(f"{path.name.removesuffix('_lmdb').removesuffix('_train')}_{size}_{fit}.npy")


class Images(torch.utils.data.Dataset):
    """Pictures that are read when asked for; see open_images.

    labels: int64 [n], and classes: the sorted names, if every key or path is CLASS/..., else None.
    bad: the places of those that did not decode in this process; the next one that does stood in.
    """

    def __init__(self, source: Source, size: int, fit: str, limit: int | None = None):
        if fit not in ("squash", "crop") or size < 1 or (limit is not None and limit < 1):
            raise DataError(
                f"fit must be squash or crop, size and limit at least 1: not {fit}, {size}, {limit}"
            )
        keys, n = source.keys, len(source.keys)
        self.keys = keys if limit is None or limit >= n else keys[np.arange(limit) * n // limit]
        self.source, self.size, self.fit = source._replace(keys=None), size, fit
        self.labels, self.classes, self.bad = None, None, set()
        if (np.char.find(self.keys, b"/") > 0).all():
            heads = [os.fsdecode(key.split(b"/")[0]) for key in self.keys]
            classes, self.labels = np.unique(heads, return_inverse=True)
            self.classes = classes.tolist()
        self[[0]]  # data that are not pictures fail here, before a run has begun

    def __len__(self) -> int:
        return len(self.keys)

    def __getitem__(self, indices) -> torch.Tensor:
        batch = np.empty((len(indices), self.size, self.size, 3), np.uint8)
        with reading(self.source, self.size) as read:
            for row, index in zip(batch, indices):
                row[:] = self._picture(read, range(len(self))[index])
        return torch.from_numpy(batch)

    def _picture(self, read, index):
        what = ""
        for other in range(index, index + 100):
            key = self.keys[other % len(self)]
            try:
                picture = fit_picture(read(key), self.size, self.fit)
            except Exception as error:  # Pillow's readers raise whatever they trip over
                what = what or f"{self.source.path}: {os.fsdecode(key)} does not decode ({error})"
                continue
            if what and not self.bad:
                print(f"data: {what}; the next one stands in, as for all like it", file=sys.stderr)
            self.bad |= {index} if what else set()
            return picture
        raise DataError(f"{what}, nor do the 99 after it: are these pictures?")


def fit_picture(image: Image.Image | np.ndarray, size: int, fit: str) -> np.ndarray:
    """Any PIL image -> uint8 [size, size, 3]. `crop` equals torchvision's Resize and CenterCrop."""
    if isinstance(image, np.ndarray):  # toy rooms and prepared arrays have their size
        return image
    ImageOps.exif_transpose(image, in_place=True)
    if image.has_transparency_data:
        image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image.convert("RGBA"))
    if image.mode.startswith("I"):  # 16 bits, which convert() would clip
        image = Image.fromarray((np.asarray(image) >> 8).astype(np.uint8))
    width, height = (
        (size, size) if fit == "squash" else (size * side // min(image.size) for side in image.size)
    )
    left, top = round((width - size) / 2), round((height - size) / 2)
    image = image if image.mode == "RGB" else image.convert("RGB")  # which would copy
    image = image.resize((width, height), Image.Resampling.BILINEAR)
    return np.asarray(image)[top : top + size, left : left + size]
