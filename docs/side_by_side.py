"""The first pictures of several sources side by side, each source under its title: rooms.png, photos64.webp.

    python docs/side_by_side.py rooms.png --size 32 "real=rooms" "seed 0=samples0/samples.npy"

A source is a samples.npy of --sample, or anything that --data of lsgan_scenes.py takes.
"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import numpy as np
import torch
from PIL import Image, ImageDraw, ImageFont

from data import DataError, make_parser, one_line_errors, runs
from data.images import open_images
from data.runs import at_least

SIDE = 128  # pixels of each picture in the output; whole multiples of --size stay sharp
GAP = 4  # white pixels between two pictures
MARGIN = 24  # and between two sources
TITLE = 32  # height of the titles


def load_samples(path: str, size: int) -> np.ndarray:
    """The pictures of a samples.npy, uint8 [n, size, size, 3]."""
    try:
        pictures = np.load(path, mmap_mode="r")
    except (OSError, ValueError) as error:
        raise DataError(f"cannot read {path}: {error}") from None
    if pictures.shape[1:] != (size, size, 3):
        raise DataError(f"{path} has pictures of shape {pictures.shape[1:]}, not {(size, size, 3)}")
    return pictures


def load(source: str, count: int, size: int) -> np.ndarray:
    """The first pictures of a source, uint8 [count, size, size, 3]."""
    pictures = load_samples(source, size) if source.endswith(".npy") else open_images(source, size)
    if len(pictures) < count:
        raise DataError(f"{source} has {len(pictures)} pictures, --count is {count}")
    return np.asarray(pictures[torch.arange(count)])


def tile(pictures: np.ndarray, columns: int) -> np.ndarray:
    """One picture of rows and columns: uint8 [height, width, 3]."""
    zoom = max(1, SIDE // pictures.shape[1])
    pictures = pictures.repeat(zoom, 1).repeat(zoom, 2)
    pictures = np.pad(pictures, ((0, 0), (0, GAP), (0, GAP), (0, 0)), constant_values=255)
    count, height, width, _ = pictures.shape
    grid = pictures.reshape(count // columns, columns, height, width, 3).transpose(0, 2, 1, 3, 4)
    return grid.reshape(count // columns * height, columns * width, 3)


def parse_args(argv=None):
    parser = make_parser("side_by_side.py", "Pictures of several sources side by side")
    add = parser.add_argument
    add("out", type=Path, help="picture to write: .png, or .webp (lossy, smaller)")
    add("sources", nargs="+", metavar="TITLE=SOURCE", help="samples.npy, or what --data takes")
    add("--size", type=at_least(1), default=32, help="side of the pictures")
    add("--count", type=at_least(1), default=6, help="pictures of each source, a multiple of --columns")
    add("--columns", type=at_least(1), default=2, help="columns of each source")
    args = parser.parse_args(argv)
    if args.out.suffix not in (".png", ".webp"):
        parser.error(f"{args.out} must end in .png or .webp")
    if args.count % args.columns:
        parser.error(f"--count {args.count} is not a multiple of --columns {args.columns}")
    for source in args.sources:
        if "=" not in source:
            parser.error(f"{source!r} is not TITLE=SOURCE")
    return args


def main(argv=None) -> None:
    with one_line_errors("side_by_side.py"):
        args = parse_args(argv)
        titles, tiles = [], []
        for titled_source in args.sources:
            title, source = titled_source.split("=", 1)
            titles.append(title)
            tiles.append(tile(load(source, args.count, args.size), args.columns))
        height, width, _ = tiles[0].shape
        picture = Image.new("RGB", (len(tiles) * (width + MARGIN) - MARGIN, TITLE + height), "white")
        draw = ImageDraw.Draw(picture)
        font = ImageFont.load_default(20)
        for i, (title, pictures) in enumerate(zip(titles, tiles)):
            left = i * (width + MARGIN)
            draw.text((left + width // 2, TITLE // 2), title, "black", font, anchor="mm")
            picture.paste(Image.fromarray(pictures), (left, TITLE))
        with runs.write_file(args.out) as file:
            picture.save(file, args.out.suffix[1:], quality=80)


if __name__ == "__main__":
    main()
