"""A preference study: of two pictures, one from each of two models, which looks more real?

    python -m data.vote ls/samples.npy sigmoid/samples.npy --out vote.html  # A and B, as --sample wrote them
    python -m data.vote --count votes*.csv                                  # the files that voters send back

vote.html is one page that needs no network: send it to people. Each sees all pairs, in a random order and
with random sides. The page keeps the votes, and offers them as a CSV file at any time.
"""

import base64
import csv
import hashlib
import io
import json
import math
import re
from collections import defaultdict
from pathlib import Path
from typing import NamedTuple

import numpy as np
from PIL import Image

from data import DataError, make_parser, one_line_errors
from data.runs import at_least, new_file, wilson, write_file
from data.score import load_samples

TEMPLATE = Path(__file__).with_name("vote.html")
LARGEST_PAGE = 20_000_000  # bytes
COLUMNS = ["study", "voter", "pair", "left", "chosen"]


def first_is_a(study: str, pair: int) -> bool:
    """Whether the first picture of a pair comes from A.

    The lowest bit of a hash's first byte decides, so the page need not say which is A.
    """
    return hashlib.sha256(f"{study} {pair}".encode()).digest()[0] % 2 == 0


# ---------------------------------------------------------------- making the page
def encode(picture: np.ndarray) -> str:
    """uint8 [size, size, 3] or grey [size, size] -> a lossless WebP file in base64."""
    file = io.BytesIO()
    Image.fromarray(picture).save(file, "WEBP", lossless=True, method=2)
    return base64.b64encode(file.getvalue()).decode("ascii")


def make_page(a: np.ndarray, b: np.ndarray, pairs: int = 200, seed: int = 0) -> tuple[str, str]:
    """Pictures of two models, uint8 [n, size, size, 3] or grey [n, size, size] -> (name of the study, page).

    Takes `pairs` pictures of each at random, none twice. DataError: too few of them, A and B of different
    sizes, or a page above 20 MB. The study's name is a hash of the pictures and the number of pairs.
    """
    if a.shape[1:] != b.shape[1:]:
        raise DataError(f"A holds pictures of shape {a.shape[1:]}, B of {b.shape[1:]}: they must be alike")
    fewest = min(len(a), len(b))
    if fewest < pairs:
        there = f"A has {len(a):,} pictures and B {len(b):,}"
        raise DataError(f"{there}, too few for {pairs:,} pairs: sample more, or --pairs {fewest}")
    rng = np.random.default_rng(seed)
    a = a[rng.permutation(len(a))[:pairs]]
    b = b[rng.permutation(len(b))[:pairs]]
    study = f"{hashlib.sha256(a.tobytes() + b.tobytes()).hexdigest()[:12]}-{pairs}"
    template = TEMPLATE.read_text("utf-8")
    length = len(template) + 100  # more than the study's name and the brackets of the list
    shown = []
    for pair in range(pairs):
        from_a, from_b = encode(a[pair]), encode(b[pair])
        if first_is_a(study, pair):
            shown.append([from_a, from_b])
        else:
            shown.append([from_b, from_a])
        length += len(from_a) + len(from_b) + len('["", ""], ')
        if length > LARGEST_PAGE:
            advice = f"--pairs {pair}" if pair else "the pictures are too large"
            raise DataError(f"{pairs:,} pairs make a page above {LARGEST_PAGE / 1e6:g} MB: {advice}")
    return study, template.replace("STUDY", json.dumps({"id": study, "pairs": shown}))


# ---------------------------------------------------------------- counting
class Vote(NamedTuple):
    """One row of a CSV file. `left` and `chosen` are pictures of the pair, 0 the first and 1 the second."""

    study: str
    voter: str
    pair: int
    left: int
    chosen: int


def read_vote(row: list[str]) -> Vote:
    """A row of a CSV file. DataError says what is wrong with it."""
    if len(row) != len(COLUMNS):
        raise DataError(f"{len(row)} columns instead of {len(COLUMNS)}")
    study, voter, pair, left, chosen = row
    if not re.fullmatch("[0-9a-f]{12}-[1-9][0-9]{0,5}", study):
        raise DataError(f"{study[:40]!r} is not the name of a study")
    if not re.fullmatch("[0-9a-f]{8}", voter):
        raise DataError(f"{voter[:40]!r} is not the name of a voter")
    pairs = int(study.split("-")[1])
    if not re.fullmatch("[0-9]{1,6}", pair) or int(pair) >= pairs:
        raise DataError(f"pair {pair[:40]!r}, but the study has pairs 0 to {pairs - 1}")
    if left not in ("0", "1") or chosen not in ("0", "1"):
        raise DataError(f"left {left[:40]!r}, chosen {chosen[:40]!r}: both must be 0 or 1")
    return Vote(study, voter, int(pair), int(left), int(chosen))


def read_file(path: str) -> list[Vote]:
    """The votes in one CSV file. DataError names the file, and the line if one is to blame."""
    try:
        with open(path, encoding="utf-8-sig", newline="") as file:
            rows = list(csv.reader(file, strict=True))
    except OSError as error:
        raise DataError(f"{path} cannot be read: {error.strerror}") from error
    except (UnicodeDecodeError, csv.Error) as error:
        raise DataError(f"{path} is not a CSV file of votes: {error}") from error
    if not rows or rows[0] != COLUMNS:
        raise DataError(f"{path} is not a CSV file of votes: its first line must be {','.join(COLUMNS)}")
    found = []
    for line, row in enumerate(rows[1:], 2):
        if not row:  # an empty line, as some programs leave at the end
            continue
        try:
            found.append(read_vote(row))
        except DataError as error:
            raise DataError(f"{path}, line {line}: {error}") from error
    return found


def read_votes(paths: list[str]) -> list[Vote]:
    """The votes in CSV files.

    DataError if there are none, if they are of two studies, or if a voter judged a pair twice.
    """
    votes = []
    found_in = {}
    for path in paths:
        for vote in read_file(path):
            if votes and vote.study != votes[0].study:
                raise DataError(f"{path} holds votes of study {vote.study}, {paths[0]} of {votes[0].study}")
            judged = (vote.voter, vote.pair)
            if judged in found_in:
                where = f"in {found_in[judged]} and in {path}"
                raise DataError(f"voter {vote.voter} judged pair {vote.pair} twice, {where}: leave one out")
            found_in[judged] = path
            votes.append(vote)
    if not votes:
        raise DataError(f"there is no vote in {', '.join(paths)}")
    return votes


def count(votes: list[Vote]) -> dict[str, np.ndarray]:
    """Counts for each judged pair, a dict of int arrays [pairs].

    `votes`; `A chosen`; `A left` (A was on the left); `left chosen`; `comparisons` (pairs of voters who both
    judged it); `agreements` (how many of those chose the same picture).
    """
    by_pair = defaultdict(list)
    for vote in votes:
        by_pair[vote.pair].append(vote)
    rows = []
    for pair, of_pair in by_pair.items():
        picture_of_a = 0 if first_is_a(votes[0].study, pair) else 1
        n = len(of_pair)
        for_a = sum(vote.chosen == picture_of_a for vote in of_pair)
        row = {
            "votes": n,
            "A chosen": for_a,
            "A left": sum(vote.left == picture_of_a for vote in of_pair),
            "left chosen": sum(vote.chosen == vote.left for vote in of_pair),
            "comparisons": math.comb(n, 2),
            "agreements": math.comb(for_a, 2) + math.comb(n - for_a, 2),
        }
        rows.append(row)
    return {name: np.array([row[name] for row in rows]) for name in rows[0]}


def interval(hits: np.ndarray, trials: np.ndarray) -> tuple[float, float]:
    """95% interval of the share of hits among trials, int [pairs] each.

    With one trial per pair it is Wilson's. Several trials of a pair depend on each other: then pairs are
    resampled (percentile bootstrap), which holds for new pairs, not for new voters, and is too narrow for few
    pairs. If all trials agree, resampling would find no error at all: then it is Wilson's over pairs.
    """
    if trials.max() == 1:
        return wilson(int(hits.sum()), int(trials.sum()))
    if hits.sum() in (0, trials.sum()):
        return wilson(int((hits > 0).sum()), len(hits))
    rng = np.random.default_rng(0)
    chosen = rng.integers(len(hits), size=(2000, len(hits)))
    low, high = np.quantile(hits[chosen].sum(1) / trials[chosen].sum(1), (0.025, 0.975))
    return float(low), float(high)


def share_text(hits: np.ndarray, trials: np.ndarray) -> str:
    """The share of hits among trials, int [pairs] each, in per cent with its 95% interval."""
    low, high = interval(hits, trials)
    return f"{hits.sum() / trials.sum():.1%} (95% interval {low:.1%} to {high:.1%})"


def report(votes: list[Vote]) -> str:
    """What `count` finds, in words."""
    found = count(votes)
    n = found["votes"]
    voters = len({vote.voter for vote in votes})
    lines = [f"{len(votes)} votes of {voters} voters on {len(n)} pairs; the intervals are over pairs"]
    lines.append(f"A looked more real in {share_text(found['A chosen'], n)}")
    shared = found["comparisons"] > 0
    if shared.any():
        agree = share_text(found["agreements"][shared], found["comparisons"][shared])
        lines.append(f"two voters on the same pair agreed in {agree}; {shared.sum()} pairs are shared")
    else:
        lines.append("agreement: no pair was judged by two voters")
    # The sides are drawn for each vote, so these are independent.
    on_left = int(found["A left"].sum())
    low, high = wilson(on_left, len(votes))
    lines.append(f"A stood on the left in {on_left / len(votes):.1%} (95% interval {low:.1%} to {high:.1%})")
    if not low <= 0.5 <= high:
        lines.append(
            "warning: the interval does not contain 50%; with a fair draw that happens in 1 study of 20"
        )
    lines.append(f"the left picture was chosen in {share_text(found['left chosen'], n)}")
    return "\n".join(lines)


# ---------------------------------------------------------------- command line
def main(argv: list[str] | None = None) -> None:
    """The command line. Bad input: one line and exit code 2."""
    parser = make_parser("data.vote", "A preference study: which of two pictures looks more real?")
    add = parser.add_argument
    add(
        "samples", nargs="*", metavar="SAMPLES", help="two samples.npy, of A and of B, as --sample wrote them"
    )
    add("--out", type=new_file(".html"), default="vote.html", help="the page")
    add("--pairs", type=at_least(1), default=200, help="pairs of pictures, one of A and one of B")
    add("--seed", type=at_least(0), default=0, help="which pictures are taken follows from it")
    add("--count", nargs="+", metavar="CSV", help="count the votes in these files instead")
    args = parser.parse_args(argv)
    with one_line_errors("data.vote", sizes="--pairs"):
        if args.count:
            if args.samples:
                parser.error("--count takes CSV files only")
            votes = read_votes(args.count)
            print(f"study {votes[0].study}")
            print(report(votes))
            return
        if len(args.samples) != 2:
            parser.error("give two samples.npy, of A and of B, or --count and CSV files")
        a, b = (load_samples(path) for path in args.samples)
        study, page = make_page(a, b, args.pairs, args.seed)
        with write_file(args.out) as file:
            file.write(page.encode("utf-8"))
        print(f"{args.out}: study {study}, {args.pairs} pairs, {len(page) / 1e6:.1f} MB")
        print(f"A is {args.samples[0]}, B is {args.samples[1]}; the page does not say so")


if __name__ == "__main__":
    main()
