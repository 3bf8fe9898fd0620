"""What became of the cells of the stability grid: measured, judged by a rule, shown in a table and a figure.

A cell is one run: (setting, optimizer, loss, seed).
"""

import math
from itertools import product
from pathlib import Path

import numpy as np
from PIL import Image
from torch.utils.data import Subset

from data import DataError
from data.extractors import Device, Pictures, features, halves, load_classifier, make_extractor
from data.images import Images
from data.runs import write_file
from data.score import compare, wilson

VERDICTS = ("learned", "degraded", "collapsed", "diverged")
FEATURES = {"random": 64, "classifier": 128, "inception": 2048}
PAPER = {  # section 4.2, judged by eye: least squares, sigmoid
    ("bn_g", "adam"): ("5/10 relatively good", "0/10, severe mode collapse"),
    ("bn_g", "rmsprop"): ("learns", "learns"),
    ("bn_gd", "adam"): ("slight mode collapse", "slight mode collapse"),
    ("bn_gd", "rmsprop"): ("better than sigmoid", "slight mode collapse"),
}


def verdict(fid: float, diversity: float, real: float, untrained: float) -> str:
    """The rule. Height is the logarithm of a cell's FID, on a scale from 0 for other
    real pictures to 1 for an untrained generator. Below 0.3 a cell has learned, below 0.6 it is degraded;
    above, or if anything is not finite, it has diverged (noise lies at 0.65 or higher). Below 0.95 it has
    collapsed instead if its diversity is below 0.5: its pictures differ, root mean square, less than half as
    much as real ones.
    """
    height = math.log(max(fid, 1e-9) / real) / math.log(untrained / real)
    if height < 0.95 and diversity < 0.5:
        return "collapsed"
    return "learned" if height < 0.3 else "degraded" if height < 0.6 else "diverged"


class Judge:
    """Compares `n` pictures with n real ones. Raises DataError for fewer than 8 real pictures a feature.

    kind: of extractor, a name in FEATURES; None: classifier if the data have labels, else random. Of 2 n real
    pictures, spread over the dataset, one half is what others are compared with, the other half's FID is
    `real`. For the caller to set: `untrained`, the FID of an untrained generator.
    """

    def __init__(self, dataset: Images, spec: str, kind: str | None = None, device: Device = "cpu"):
        kind = kind or ("random" if dataset.labels is None or not dataset.labels.any() else "classifier")
        if len(dataset) < (least := 8 * FEATURES[kind]):
            have = f"{spec} has {len(dataset):,} pictures"
            raise DataError(f"{have}: to judge cells by {FEATURES[kind]:,} {kind} features takes {least:,}")
        if kind == "classifier":
            self.extractor = load_classifier(*halves(dataset), spec, device)
        else:
            self.extractor = make_extractor(kind, dataset.size)
        self.device, self.n = device, max(4 * FEATURES[kind], min(len(dataset) // 2, 512))
        some = np.linspace(0, len(dataset) - 1, 2 * self.n).astype(int)
        self.features = features(Subset(dataset, some[::2]), self.extractor, device)
        self.real = max(self.measure(Subset(dataset, some[1::2]))["FID"], 1e-9)

    def measure(self, pictures: Pictures) -> dict[str, float]:
        """What data.score.compare says of pictures: uint8 [n, H, W, 3], an array, a tensor or a dataset."""
        return compare(features(pictures, self.extractor, self.device), self.features, self.extractor.head)

    def verdict(self, log: np.ndarray) -> str:
        """What became of a cell, by the last row of its log."""
        return verdict(log["FID"][-1], log["diversity"][-1], self.real, self.untrained)

    def describe(self) -> str:
        """What all verdicts rest on."""
        by = f"{self.n:,} pictures a cell against as many real ones, by {self.extractor.title}"
        ends = f"other real pictures {self.real:.3g}, an untrained generator {self.untrained:.3g}"
        return f"{by}. FID: {ends}. {' '.join(verdict.__doc__.split())}"


def folder(out: Path | str, cell: tuple) -> Path:
    """Where the files of a cell are."""
    return Path(out, "{}-{}-{}-seed{}".format(*cell))


def finished(out: Path | str, cells: list[tuple], steps: int) -> dict[tuple, np.ndarray]:
    """The logs of those cells that have made all steps or diverged: arrays with a field for each column."""
    logs = {}
    for cell in cells:
        if (path := folder(out, cell) / "log.csv").exists():
            log = np.genfromtxt(path, delimiter=",", names=True, ndmin=1)
            if log["step"][-1] >= steps or np.isnan(log["FID"][-1]):
                logs[cell] = log
    return logs


def write_report(out: Path | str, cells: list[tuple], steps: int, judge: Judge, about: str) -> str:
    """Writes results.csv, table.md and figure7.png about the cells that are finished; returns the table."""
    logs = finished(out, cells, steps)
    if not logs:
        return "no cell is finished yet"
    verdicts = {cell: judge.verdict(log) for cell, log in logs.items()}
    results = [("setting", "optimizer", "loss", "seed", "verdict", *next(iter(logs.values())).dtype.names)]
    results += [(*cell, verdicts[cell], *log[-1].item()) for cell, log in logs.items()]
    scores = ["FID", "IS"] if np.nansum([log["IS"][-1] for log in logs.values()]) else ["FID"]
    table = [("cell", *VERDICTS, *scores, "the paper"), ["---"] * (6 + len(scores))]
    for key in dict.fromkeys(cell[:3] for cell in logs):
        ends = [log[-1] for cell, log in logs.items() if cell[:3] == key]
        counts = [sum(v == word for cell, v in verdicts.items() if cell[:3] == key) for word in VERDICTS]
        low, high = wilson(counts[0], len(ends))
        learned = f"{counts[0]}/{len(ends)} ({low:.0%} to {high:.0%})"
        found = [[end[name] for end in ends] for name in scores]
        spread = [f"{np.mean(x):.3g}" + (f" ± {np.std(x, ddof=1):.2g}" if x[1:] else "") for x in found]
        claim = PAPER.get(key[:2], ("", ""))[key[2] == "sigmoid"]
        table.append((" ".join(key), learned, *counts[1:], *spread, claim))
    text = "".join(f"| {' | '.join(map(str, row))} |\n" for row in table)
    lines = "".join(",".join(map(str, row)) + "\n" for row in results)
    for name, content in ("results.csv", lines), ("table.md", f"{about}\n\n{judge.describe()}\n\n{text}"):
        with write_file(Path(out, name)) as file:
            file.write(content.encode())
    draw_figure7(out, logs, verdicts)
    return text


def draw_figure7(out: Path | str, logs: dict[tuple, np.ndarray], verdicts: dict[tuple, str]) -> None:
    """Each cell's best and worst seed, then FID and diversity over steps, a line for each seed."""
    from matplotlib.figure import Figure

    rows, losses = (list(dict.fromkeys(cell[part] for cell in logs)) for part in (slice(2), 2))
    figure = Figure(figsize=(5 * len(losses) + 5, 2.7 * len(rows)), layout="constrained")
    panels = figure.subplots(len(rows), 2 * len(losses) + 2, squeeze=False)
    for axes in panels[:, :-2].flat:
        axes.axis("off")
    for (i, row), (j, loss) in product(enumerate(rows), enumerate(losses)):
        cells = [cell for cell in logs if cell[:3] == (*row, loss)]
        cells.sort(key=lambda cell: np.nan_to_num(logs[cell]["FID"][-1], nan=np.inf))
        for axes, cell in zip(panels[i, 2 * j :], [*cells[:1], *cells[1:][-1:]]):
            for path in sorted(folder(out, cell).glob("samples/*.png"))[-1:]:
                grid = Image.open(path)
                axes.imshow(grid.crop((0, 0, grid.width // 2, grid.width // 2)))
            axes.set_title(f"{' '.join(cell[:3])}\nseed {cell[3]}: {verdicts[cell]}", fontsize=8)
        for axes, name in zip(panels[i, -2:], ("FID", "diversity")):
            for cell in cells:
                label = loss if cell == cells[0] else None
                axes.plot(logs[cell]["step"], logs[cell][name], f"C{j}", label=label)
            axes.set(xlabel="step", yscale="log" if name == "FID" else "linear")
            axes.set_title(f"{' '.join(row)}: {name}", fontsize=8)
            if cells:
                axes.legend()
    with write_file(Path(out, "figure7.png")) as file:
        figure.savefig(file, format="png")
