"""Sheets of a preference study for a judge who looks at pictures, such as a vision-language model.

    python -m data.vote ls.npy regular.npy --pairs 100 --out study.html
    python tests/bench_pairs.py study.html --judge 1 --out sheets1    # a folder of sheet1.png and so on
    python tests/bench_pairs.py study.html --judge 1 --answers one.csv --out votes1.csv
    python -m data.vote --count votes1.csv votes2.csv

Every judge has an order and sides of its own. For each pair it writes which picture looks more real, in a
line such as 17,left. These answers become votes like those that people send back.
"""

import base64
import io
import json
import re
import sys
from pathlib import Path
from typing import NamedTuple

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import numpy as np
from bench_eyes import read_words
from PIL import Image, ImageDraw, ImageFont

from data import DataError, make_parser, one_line_errors
from data.runs import at_least, make_folder, write_file
from data.vote import COLUMNS

PAIRS_A_SHEET = 20
SIDE = 144  # of a picture, in pixels


class Study(NamedTuple):
    """id: its name. pairs: for each pair its two pictures, WebP files in base64."""

    id: str
    pairs: list[list[str]]


def read_study(page: Path) -> Study:
    """The study in a page of data.vote."""
    try:
        found = re.search(r'\{"id": .*?\]\]\}', page.read_text("utf-8"))
    except OSError as error:
        raise DataError(f"{page} cannot be read ({error.strerror})") from error
    if not found:
        raise DataError(f"{page} is not a page of data.vote")
    return Study(**json.loads(found[0]))


def shown_to(judge: int, n: int) -> list[tuple[int, int]]:
    """In the order in which this judge sees n pairs: the pair, and which of its pictures is on the left."""
    rng = np.random.default_rng(judge)
    return [(int(pair), int(left)) for pair, left in zip(rng.permutation(n), rng.integers(2, size=n))]


def decode(picture: str) -> Image.Image:
    """A picture of a study, enlarged."""
    image = Image.open(io.BytesIO(base64.b64decode(picture)))
    return image.convert("RGB").resize((SIDE, SIDE), Image.Resampling.BICUBIC)


def draw_sheet(study: Study, shown: list[tuple[int, int]], first: int) -> Image.Image:
    """Pairs under each other in two columns, each with its number, from `first` on."""
    half = (len(shown) + 1) // 2
    width, height = 2 * SIDE + 60, SIDE + 12
    sheet = Image.new("RGB", (2 * width, half * height), "white")
    draw = ImageDraw.Draw(sheet)
    font = ImageFont.load_default(24)
    for i, (pair, left) in enumerate(shown):
        x, y = i // half * width, i % half * height
        draw.text((x + 6, y + SIDE // 2 - 12), str(first + i), "black", font)
        sheet.paste(decode(study.pairs[pair][left]), (x + 48, y))
        sheet.paste(decode(study.pairs[pair][1 - left]), (x + 52 + SIDE, y))
    return sheet


def to_votes(study: Study, judge: int, answers: list[str]) -> str:
    """The answers as a CSV file for data.vote --count."""
    lines = [",".join(COLUMNS)]
    for (pair, left), side in zip(shown_to(judge, len(study.pairs)), answers):
        chosen = left if side == "left" else 1 - left
        lines.append(f"{study.id},{judge:08x},{pair},{left},{chosen}")
    return "\n".join(lines) + "\n"


def main(argv: list[str] | None = None) -> None:
    """Writes the sheets; with --answers the votes."""
    parser = make_parser("bench_pairs.py", "Sheets of a preference study for a judge")
    parser.add_argument("page", type=Path, help="the page of data.vote")
    parser.add_argument("--judge", type=at_least(1), required=True, help="order and sides follow from it")
    parser.add_argument("--answers", type=Path, metavar="CSV", help="turn these into votes")
    parser.add_argument("--out", type=Path, required=True, help="folder for the sheets, or CSV file of votes")
    args = parser.parse_args(argv)
    with one_line_errors("bench_pairs.py"):
        study = read_study(args.page)
        n = len(study.pairs)
        if args.answers:
            votes = to_votes(study, args.judge, read_words(args.answers, n, ("left", "right")))
            with write_file(args.out) as file:
                file.write(votes.encode())
            return
        make_folder(args.out)
        shown = shown_to(args.judge, n)
        for i, start in enumerate(range(0, n, PAIRS_A_SHEET), 1):
            sheet = draw_sheet(study, shown[start : start + PAIRS_A_SHEET], start + 1)
            sheet.save(args.out / f"sheet{i}.png")


if __name__ == "__main__":
    main()
