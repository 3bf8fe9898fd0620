"""Does the rule of the stability grid agree with the eye? Blind pictures for judges, then Cohen's kappa.

    python tests/bench_eyes.py runs/grid64 --out eyes             # the pictures, without their names
    python tests/bench_eyes.py runs/grid64 --judges a.csv b.csv   # what two judges say of them, and the rule

A judge sees the last grid of each cell as 01.png, 02.png, ... in a random order, and writes a line for each:
01,degraded. The words are the rule's: learned, degraded, collapsed, diverged.
"""

import csv
import shutil
import sys
from collections import Counter
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import numpy as np

from data import DataError, make_parser, one_line_errors
from data.runs import at_least, count_text, make_folder
from stability_grid import VERDICTS, Cell, folder


def read_cells(grids: list[Path]) -> list[tuple[Path, str]]:
    """The last picture and the verdict of every finished cell of these grids."""
    cells = []
    for grid in grids:
        try:
            text = (grid / "results.csv").read_text()
        except OSError as error:
            raise DataError(f"{grid / 'results.csv'} cannot be read ({error.strerror})") from error
        for row in csv.DictReader(text.splitlines()):
            cell = Cell(row["setting"], row["optimizer"], row["loss"], row["seed"])
            pictures = sorted(folder(grid, cell).glob("samples/*.png"))
            if not pictures:
                raise DataError(f"{folder(grid, cell)} has no pictures")
            cells.append((pictures[-1], row["verdict"]))
    return cells


def write_pictures(cells: list[tuple[Path, str]], out: Path) -> None:
    """Copies the pictures under numbers."""
    make_folder(out)
    for i, (path, _) in enumerate(cells, 1):
        shutil.copyfile(path, out / f"{i:02}.png")


def read_words(path: Path, n: int) -> list[str]:
    """A judge's words about the pictures 1 to n, in this order."""
    words = {}
    for number, word in csv.reader(path.read_text().splitlines()):
        words[int(number)] = word.strip()
    if sorted(words) != list(range(1, n + 1)) or not set(words.values()) <= set(VERDICTS):
        raise DataError(f"{path} must hold one of {', '.join(VERDICTS)} for each of 1 to {n}")
    return [words[i] for i in range(1, n + 1)]


def kappa(first: list[str], second: list[str]) -> float:
    """Cohen's kappa of two raters: 1 if they always agree, 0 if no more often than by chance."""
    n = len(first)
    agreed = sum(a == b for a, b in zip(first, second)) / n
    counts, others = Counter(first), Counter(second)
    by_chance = sum(counts[word] * others[word] for word in counts) / n**2
    return (agreed - by_chance) / (1 - by_chance) if by_chance < 1 else float("nan")


def interval(first: list[str], second: list[str], draws: int = 2000) -> tuple[float, float]:
    """A 95 % interval of kappa: the bootstrap over pictures."""
    rng = np.random.default_rng(0)
    found = []
    for _ in range(draws):
        some = rng.integers(len(first), size=len(first))
        found.append(kappa([first[i] for i in some], [second[i] for i in some]))
    return tuple(np.nanquantile(found, [0.025, 0.975]))


def compare(names: list[str], ratings: list[list[str]]) -> str:
    """A table of how often each word was used, then agreement and kappa of every two."""
    lines = ["| | " + " | ".join(VERDICTS) + " |", "| --- " * (len(VERDICTS) + 1) + "|"]
    for name, words in zip(names, ratings):
        lines.append(f"| {name} | " + " | ".join(str(words.count(word)) for word in VERDICTS) + " |")
    for i, name in enumerate(names):
        for other, words in list(zip(names, ratings))[i + 1 :]:
            agreed = sum(a == b for a, b in zip(ratings[i], words))
            low, high = interval(ratings[i], words)
            lines.append(
                f"{name}, {other}: agree in {count_text(agreed, len(words))},"
                f" kappa {kappa(ratings[i], words):.2f} ({low:.2f} to {high:.2f})"
            )
    return "\n".join(lines)


def main(argv: list[str] | None = None) -> None:
    """Writes the pictures; with --judges prints how far judges and rule agree."""
    parser = make_parser("bench_eyes.py", "The stability grid's rule against the eye")
    parser.add_argument("grids", nargs="+", type=Path, help="run directories of stability_grid.py")
    parser.add_argument("--seed", type=at_least(0), default=0, help="of the order of the pictures")
    add = parser.add_mutually_exclusive_group(required=True).add_argument
    add("--out", type=Path, help="folder for the pictures")
    add("--judges", nargs="+", type=Path, metavar="CSV", help="a file of words for each judge")
    args = parser.parse_args(argv)
    with one_line_errors("bench_eyes.py"):
        cells = read_cells(args.grids)
        order = np.random.default_rng(args.seed).permutation(len(cells))
        cells = [cells[i] for i in order]
        if args.out:
            write_pictures(cells, args.out)
        else:
            ratings = [[verdict for _, verdict in cells]]
            ratings += [read_words(path, len(cells)) for path in args.judges]
            print(compare(["rule", *(path.stem for path in args.judges)], ratings))


if __name__ == "__main__":
    main()
