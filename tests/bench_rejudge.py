"""Judges the cells of a finished stability grid again, by today's rule and the classifier's features.

    python tests/bench_rejudge.py runs/grid64rms --data natural --out runs/grid64rms-again

Draws the last pictures of every cell from its last.pt. Writes results.csv and the cells' last grids of
pictures into --out, which bench_stats.py (without --scores) and bench_eyes.py read as they read the grid.
"""

import csv
import io
import shutil
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from bench_eyes import read_cells
from bench_rule import make_judge
from bench_stats import read_cell, read_rows
from torch import Tensor

import stability_grid as grid
from data import DataError, make_parser, one_line_errors
from data.images import Images, open_images
from data.judge import Judge, verdict
from data.runs import load_checkpoint, make_folder, write_file
from stability_grid import Cell, folder


def open_same_data(checkpoint: dict, data: str) -> Images:
    """The grid's pictures, opened as it did. checkpoint: the grid's. DataError if these are others."""
    args = checkpoint["args"]
    images = open_images(data, args["size"], args["fit"], args["limit"] or None)
    if images.fingerprint != checkpoint["data"]:
        raise DataError(f"{data}: not the data of the grid")
    return images


def last_pictures(run: Path, cell: Cell, n: int) -> Tensor:
    """What the cell's generator makes of n of the grid's fixed z: uint8 [n, size, size, 3]."""
    path = folder(run, cell) / "last.pt"
    args = load_checkpoint(path)["args"]
    G = grid.Generator(args["size"], args["width"], args["z_dim"], bn=grid.SETTINGS[cell.setting][0])
    load_checkpoint(path, {"G": G})
    return grid.generate_all(G, grid.noise(n, args["z_dim"], cell.seed, grid.FIXED_Z, 0))


def judge_again(run: Path, rows: list[dict[str, str]], judge: Judge) -> list[dict[str, str]]:
    """The rows with new verdicts and scores. Cells that were not finite keep theirs."""
    judged = []
    for row in rows:
        cell = read_cell(row)
        if row["FID"] != "nan":
            measured = judge.measure(last_pictures(run, cell, judge.n))
            row = row | {name: f"{value:.7g}" for name, value in measured.items() if name in row}
            limits = judge.fid_learned, judge.fid_degraded
            row["verdict"] = verdict(measured["FID"], measured["diversity"], *limits)
        print(*cell, row["FID"], row["verdict"], flush=True)
        judged.append(row)
    return judged


def write_grid(rows: list[dict[str, str]], pictures: list[Path], out: Path) -> None:
    """Copies a grid of pictures for each row, then writes results.csv."""
    for row, picture in zip(rows, pictures):
        samples = folder(out, read_cell(row)) / "samples"
        make_folder(samples)
        shutil.copyfile(picture, samples / picture.name)
    text = io.StringIO()
    writer = csv.DictWriter(text, rows[0].keys(), lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    with write_file(out / "results.csv") as file:
        file.write(text.getvalue().encode())


def main(argv: list[str] | None = None) -> None:
    """Judges all cells, then writes."""
    parser = make_parser("bench_rejudge.py", "Judges the cells of a finished stability grid again")
    parser.add_argument("run", type=Path, help="run directory of stability_grid.py")
    parser.add_argument("--data", required=True, help="the grid's data, with labels")
    parser.add_argument("--out", type=Path, required=True, help="a folder that is not there yet")
    args = parser.parse_args(argv)
    with one_line_errors("bench_rejudge.py"):
        if args.out.exists():
            raise DataError(f"{args.out} is there already")
        rows = read_rows(args.run)
        pictures = [picture for picture, _, _ in read_cells([args.run])]
        images = open_same_data(load_checkpoint(args.run / "last.pt"), args.data)
        judge = make_judge(images, "classifier")
        print(judge.describe())
        write_grid(judge_again(args.run, rows, judge), pictures, args.out)


if __name__ == "__main__":
    main()
