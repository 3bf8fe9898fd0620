"""Intervals and tests for docs/results.md, from the results.csv of a stability grid or of a mixture.

    python tests/bench_stats.py runs/grid64
    python tests/bench_stats.py runs/gaussian_mixture-ring-ls,sigmoid-seed0
    python tests/bench_stats.py --counts 19 20 16 20

A grid: for each setting and optimizer how often each verdict was given to LS and to the regular GAN, with
Fisher's exact test, and their FIDs at the end, with Wilcoxon's signed-rank test over the seeds (Fisher's does
not use that both losses of a seed share pictures and z). With --scores also the means of FID and, where there
is one, Inception Score at the end and at each run's scored step of lowest FID, with Welch's interval of the
difference.
A mixture: for each loss the seeds with all modes and all basins at the last step, and medians with quartiles
over the seeds; then LS against each other loss, basins by Fisher's test, modes and points by Wilcoxon's.
--counts K N K N: Fisher's exact test of K of N against K of N.
An interval of a count is Wilson's, of 95%. All tests are two-sided.
"""

import csv
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import numpy as np
from scipy.stats import fisher_exact, ttest_ind, wilcoxon

from data import DataError, make_parser, one_line_errors
from data.judge import VERDICTS
from data.runs import at_least, count_text
from stability_grid import Cell, folder


def fisher(k: int, n: int, other_k: int, other_n: int) -> float:
    """The p value of k of n against other_k of other_n."""
    return fisher_exact([[k, n - k], [other_k, other_n - other_k]]).pvalue


def read_rows(run: Path) -> list[dict[str, str]]:
    """The rows of a run's results.csv."""
    try:
        text = (run / "results.csv").read_text()
    except OSError as error:
        raise DataError(f"{run / 'results.csv'} cannot be read ({error.strerror})") from error
    rows = list(csv.DictReader(text.splitlines()))
    if not rows:
        raise DataError(f"{run / 'results.csv'} has no rows")
    return rows


def read_cell(row: dict[str, str]) -> Cell:
    """The cell of a row of a grid's results.csv."""
    return Cell(row["setting"], row["optimizer"], row["loss"], int(row["seed"]))


def column(rows: list[dict[str, str]], name: str) -> np.ndarray:
    return np.array([float(row[name]) for row in rows])


def median_and_quartiles(values: np.ndarray) -> str:
    low, middle, high = np.quantile(values, [0.25, 0.5, 0.75])
    return f"{middle:.3g} ({low:.3g} to {high:.3g})"


# ---------------------------------------------------------------- stability grid
def compare_losses(ls: list[dict[str, str]], regular: list[dict[str, str]]) -> list[str]:
    """Lines about the same seeds of both losses, in the same order."""
    n = len(ls)
    lines = ["| verdict | LS | regular | Fisher's p |", "|---|---|---|---|"]
    for word in VERDICTS:
        counts = [sum(row["verdict"] == word for row in rows) for rows in (ls, regular)]
        texts = [count_text(k, n) for k in counts]
        lines.append(f"| {word} | {texts[0]} | {texts[1]} | {fisher(counts[0], n, counts[1], n):.2g} |")
    # A run whose scores are not finite ranks as the worst.
    of_ls, of_regular = (np.nan_to_num(column(rows, "FID"), nan=np.inf) for rows in (ls, regular))
    for name, fid in (("LS", of_ls), ("regular", of_regular)):
        lines.append(f"FID, {name}: median {np.median(fid):.3g}, {fid.min():.3g} to {fid.max():.3g}")
    lower = int((of_regular < of_ls).sum())
    p = wilcoxon(np.minimum(of_ls, 1e9), np.minimum(of_regular, 1e9)).pvalue  # inf - inf would be nan
    lines.append(f"FID is lower for the regular GAN in {lower} of {n} seeds; Wilcoxon's p {p:.2g}")
    return lines


def best_row(run: Path, row: dict[str, str]) -> dict[str, str]:
    """Of the scored steps in the log of a cell, which is a row of results.csv, the one of lowest FID."""
    with open(folder(run, read_cell(row)) / "log.csv", newline="") as file:
        return min(csv.DictReader(file), key=lambda scored: np.nan_to_num(float(scored["FID"]), nan=np.inf))


def compare_scores(run: Path, ls: list[dict[str, str]], regular: list[dict[str, str]]) -> list[str]:
    """A table of mean scores at the last and at the best step. Scores of runs that are not finite are nan."""
    lines = ["| | LS | regular | difference, 95% interval (Welch) | p |", "|---|---|---|---|---|"]
    best = [[best_row(run, row) for row in rows] for rows in (ls, regular)]
    for step, (of_ls, of_regular) in (("last", (ls, regular)), ("best", best)):
        for name in ("IS", "FID"):
            a, b = column(of_ls, name), column(of_regular, name)
            if name == "IS" and np.isnan([*a, *b]).all():  # not a classifier's features
                continue
            test = ttest_ind(a, b, equal_var=False)
            low, high = test.confidence_interval()
            cells = [f"{x.mean():.4g} ± {x.std(ddof=1):.2g}" for x in (a, b)]
            difference = f"{a.mean() - b.mean():.2g} ({low:.2g} to {high:.2g})"
            lines.append(f"| {name}, {step} | {' | '.join(cells)} | {difference} | {test.pvalue:.2g} |")
    return lines


def about_grid(rows: list[dict[str, str]], run: Path, scores: bool) -> list[str]:
    """Lines about each setting and optimizer; seeds of which only one loss is finished are left out."""
    lines = []
    for setting, optimizer in dict.fromkeys((row["setting"], row["optimizer"]) for row in rows):
        here = [row for row in rows if (row["setting"], row["optimizer"]) == (setting, optimizer)]
        ls = {row["seed"]: row for row in here if row["loss"] == "ls"}
        regular = {row["seed"]: row for row in here if row["loss"] == "sigmoid"}
        seeds = [seed for seed in ls if seed in regular]
        if not seeds:
            raise DataError(f"{setting}, {optimizer}: no seed of which both losses are finished")
        lines.append(f"{setting}, {optimizer}, seeds {', '.join(seeds)}")
        pairs = [ls[seed] for seed in seeds], [regular[seed] for seed in seeds]
        lines += compare_losses(*pairs)
        if scores:
            lines += compare_scores(run, *pairs)
    return lines


# ---------------------------------------------------------------- mixture
def describe_loss(rows: list[dict[str, str]], last: int, modes: int) -> list[str]:
    """A loss's cells in the table: counts of seeds, then medians with quartiles over seeds."""
    at_end = [row for row in rows if int(row["step"]) == last]
    late = [row for row in rows if int(row["step"]) >= last * 3 // 4]
    lost = {row["seed"] for row in late if float(row["basins"]) < modes}
    n = len(at_end)
    all_modes = int((column(at_end, "modes") == modes).sum())
    all_basins = int((column(at_end, "basins") == modes).sum())
    cells = [count_text(k, n) for k in (all_modes, all_basins, n - len(lost))]
    for name in ("modes", "share", "basins", "divergence"):
        cells.append(median_and_quartiles(column(at_end, name)))
    return cells


def compare_with_ls(ls: list[dict[str, str]], other: list[dict[str, str]], modes: int) -> str:
    """The p values of two losses' rows at the last step, whose seeds are the same and in the same order."""
    counts = [int((column(rows, "basins") == modes).sum()) for rows in (ls, other)]
    found = [f"all basins, Fisher's p {fisher(counts[0], len(ls), counts[1], len(other)):.2g}"]
    for name in ("modes", "share"):
        found.append(f"{name}, Wilcoxon's p {wilcoxon(column(ls, name), column(other, name)).pvalue:.2g}")
    return "; ".join(found)


def about_mixture(rows: list[dict[str, str]], modes: int) -> list[str]:
    """A table of the losses at the last step, then LS against each other loss."""
    last = max(int(row["step"]) for row in rows)
    lines = [
        f"step {last}",
        f"| loss | all {modes} modes | all basins | all basins from step {last * 3 // 4} on | modes"
        " | share of points within 3 std | basins | divergence |",
        "|---" * 8 + "|",
    ]
    at_end = {}
    for loss in dict.fromkeys(row["loss"] for row in rows):
        of_loss = [row for row in rows if row["loss"] == loss]
        at_end[loss] = [row for row in of_loss if int(row["step"]) == last]
        lines.append(f"| {' | '.join([loss, *describe_loss(of_loss, last, modes)])} |")
    for loss in at_end:
        if "ls" in at_end and loss != "ls":
            lines.append(f"ls against {loss}: {compare_with_ls(at_end['ls'], at_end[loss], modes)}")
    return lines


def main(argv: list[str] | None = None) -> None:
    parser = make_parser("bench_stats.py", "Intervals and tests from results.csv")
    add = parser.add_argument
    add("runs", nargs="*", type=Path, help="run directories of stability_grid.py or gaussian_mixture.py")
    add("--counts", nargs=4, type=at_least(0), metavar=("K", "N", "K", "N"), help="K of N against K of N")
    add("--scores", action="store_true", help="of a grid: means of FID and Inception Score, last and best")
    add("--modes", type=at_least(1), default=8, help="of the mixture")
    args = parser.parse_args(argv)
    with one_line_errors("bench_stats.py"):
        if args.counts:
            k, n, other_k, other_n = args.counts
            if k > n or other_k > other_n:
                raise DataError(f"--counts: {k} of {n}, {other_k} of {other_n}")
            print(f"{count_text(k, n)} against {count_text(other_k, other_n)}:", end=" ")
            print(f"Fisher's p {fisher(k, n, other_k, other_n):.2g}")
        for run in args.runs:
            rows = read_rows(run)
            if "verdict" in rows[0]:
                lines = about_grid(rows, run, args.scores)
            else:
                lines = about_mixture(rows, args.modes)
            print("\n".join([str(run), *lines]))


if __name__ == "__main__":
    main()
