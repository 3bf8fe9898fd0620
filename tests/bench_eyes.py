"""Does the rule of the stability grid agree with the eye? Blind pictures for judges, then Cohen's kappa.

    python tests/bench_eyes.py runs/grid64 --out eyes --data natural  # the pictures, without their names
    python tests/bench_eyes.py runs/grid64 --judges a.csv b.csv       # how far two judges and the rule agree

A judge sees the last grid of each cell as 01.png, 02.png, ... in a random order, and writes a line for each:
01,degraded. The words are the rule's: learned, degraded, collapsed, diverged. With --data, 64 real pictures
are written beside them, as photos.png. The tables: how often rule and judges used each word.
"""

import csv
import itertools
import shutil
import sys
from collections import Counter
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import numpy as np
import torch
from bench_stats import read_cell, read_rows

from data import DataError, make_parser, one_line_errors
from data.images import open_images
from data.judge import VERDICTS
from data.runs import at_least, count_text, make_folder
from stability_grid import folder, save_grid


def read_cells(grids: list[Path]) -> list[tuple[Path, str, str]]:
    """The last picture, the group ("bn_g adam ls") and the verdict of every finished cell of these grids."""
    cells = []
    for grid in grids:
        for row in read_rows(grid):
            cell = read_cell(row)
            pictures = sorted(folder(grid, cell).glob("samples/*.png"))
            if not pictures:
                raise DataError(f"{folder(grid, cell)} has no pictures")
            cells.append((pictures[-1], " ".join(cell[:3]), row["verdict"]))
    return cells


def write_pictures(paths: list[Path], out: Path) -> None:
    """Copies the pictures under numbers."""
    make_folder(out)
    for i, path in enumerate(paths, 1):
        shutil.copyfile(path, out / f"{i:02}.png")


def write_photos(data: str, size: int, path: Path) -> None:
    """A grid of 64 real pictures, drawn at random."""
    images = open_images(data, size)
    chosen = np.random.default_rng(0).permutation(len(images))[:64]
    save_grid(torch.as_tensor(images[chosen]), path)


def read_words(path: Path, n: int, known: tuple[str, ...] = VERDICTS) -> list[str]:
    """A judge's words, each one of `known`, about what it saw as 1 to n, in this order."""
    try:
        rows = [(int(number), word.strip()) for number, word in csv.reader(path.read_text().splitlines())]
    except OSError as error:
        raise DataError(f"{path} cannot be read ({error.strerror})") from error
    except ValueError:
        raise DataError(f"{path} must hold lines such as 01,{known[1]} and nothing else") from None
    rows.sort()
    numbers = [number for number, _ in rows]
    words = [word for _, word in rows]
    if numbers != list(range(1, n + 1)) or not set(words) <= set(known):
        raise DataError(f"{path} must hold one of {', '.join(known)} for each of 1 to {n}")
    return words


def kappa(first: list[str], second: list[str]) -> float:
    """Cohen's kappa of two raters: 1 if they always agree, 0 if no more often than by chance."""
    n = len(first)
    agreed = sum(a == b for a, b in zip(first, second)) / n
    counts, others = Counter(first), Counter(second)
    by_chance = sum(counts[word] * others[word] for word in counts) / n**2
    return (agreed - by_chance) / (1 - by_chance) if by_chance < 1 else float("nan")


def interval(first: list[str], second: list[str], draws: int = 2000) -> tuple[float, float]:
    """A 95% interval of kappa: the bootstrap over pictures."""
    rng = np.random.default_rng(0)
    found = []
    for _ in range(draws):
        some = rng.integers(len(first), size=len(first))
        found.append(kappa([first[i] for i in some], [second[i] for i in some]))
    return tuple(np.nanquantile(found, [0.025, 0.975]))


def count_words(names: list[str], ratings: list[list[str]], groups: list[str]) -> list[str]:
    """A table of how often each word was used, for each setting, optimizer and loss."""
    lines = ["| | cells | " + " | ".join(VERDICTS) + " |", "| --- " * (len(VERDICTS) + 2) + "|"]
    for name, words in zip(names, ratings):
        for group in sorted(set(groups)):
            of_group = [word for word, its_group in zip(words, groups) if its_group == group]
            counts = [str(of_group.count(word)) for word in VERDICTS]
            lines.append(f"| {name} | {group} | {' | '.join(counts)} |")
    return lines


def compare(names: list[str], ratings: list[list[str]]) -> list[str]:
    """Agreement and kappa of every two."""
    lines = []
    for (name, words), (other_name, other_words) in itertools.combinations(zip(names, ratings), 2):
        agreed = sum(a == b for a, b in zip(words, other_words))
        low, high = interval(words, other_words)
        lines.append(
            f"{name}, {other_name}: agree in {count_text(agreed, len(words))},"
            f" kappa {kappa(words, other_words):.2f} ({low:.2f} to {high:.2f})"
        )
    return lines


def merge_failures(words: list[str]) -> list[str]:
    """Collapsed and diverged as one word: judges use either for one lattice that fills every picture."""
    return ["failed" if word in ("collapsed", "diverged") else word for word in words]


def main(argv: list[str] | None = None) -> None:
    """Writes the pictures; with --judges prints how far judges and rule agree."""
    parser = make_parser("bench_eyes.py", "The stability grid's rule against the eye")
    parser.add_argument("grids", nargs="+", type=Path, help="run directories of stability_grid.py")
    parser.add_argument("--seed", type=at_least(0), default=0, help="of the order of the pictures")
    parser.add_argument("--data", help="real pictures to show beside them, for --out")
    parser.add_argument("--size", type=at_least(1), default=64, help="of the real pictures")
    add = parser.add_mutually_exclusive_group(required=True).add_argument
    add("--out", type=Path, help="folder for the pictures")
    add("--judges", nargs="+", type=Path, metavar="CSV", help="a file of words for each judge")
    args = parser.parse_args(argv)
    with one_line_errors("bench_eyes.py"):
        cells = read_cells(args.grids)
        order = np.random.default_rng(args.seed).permutation(len(cells))
        cells = [cells[i] for i in order]
        if args.out:
            write_pictures([path for path, _, _ in cells], args.out)
            if args.data:
                write_photos(args.data, args.size, args.out / "photos.png")
            return
        names = ["rule", *(path.stem for path in args.judges)]
        ratings = [[verdict for _, _, verdict in cells]]
        ratings += [read_words(path, len(cells)) for path in args.judges]
        groups = [group for _, group, _ in cells]
        print("\n".join(count_words(names, ratings, groups) + compare(names, ratings)))
        print("collapsed and diverged as one word:")
        print("\n".join(compare(names, [merge_failures(words) for words in ratings])))


if __name__ == "__main__":
    main()
