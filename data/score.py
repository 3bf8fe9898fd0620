"""Scores generated pictures against real ones: FID, KID, precision, recall, and how readable characters are.

    python -m data.score samples/samples.npy --data lsun/bedroom --extractor random
    python -m data.score runs/x/step_*/samples.npy --data lsun/bedroom --extractor random --curve curve.png
    python -m data.score samples/samples.npy --data photos --extractor random --neighbours nearest.png
    python -m data.score samples/samples.npy --data hwdb1.0 --extractor classifier   # beside labels.npy

Several files make one table, a row each, and the lowest KID is marked. torch-fidelity does the sums. No
distance means anything without the name of its feature extractor:

inception    torch-fidelity's, downloaded
classifier   a small network trained here on the labels of the data (minutes on a CPU; hours for 3,740
             classes) and kept in ~/.cache/lsgan
random       that network, untrained
"""

import hashlib
import re
import sys
from argparse import Namespace
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from filelock import FileLock
from torch import Tensor, nn
from torch.utils.data import Dataset, Subset
from torchvision.utils import save_image
from tqdm import tqdm

from data import DataError, is_out_of_memory, make_parser, one_line_errors
from data.characters import open_characters
from data.images import cache_path, decode_all, open_images
from data.runs import at_least, load_checkpoint, new_file, not_empty, save_checkpoint, wilson, write_file

FEATURES = {"random": 64, "classifier": 128, "inception": 2048}  # feature extractor: number of features
PICTURES_PER_FEATURE = 4  # with fewer, FID is mostly bias
KID_SUBSET_SIZE = 200  # pictures; KID needs that many on either side
LEAST_STEPS = 400  # of the classifier's training: half a minute to two minutes on a CPU
IN_MEMORY = 2e9  # bytes of decoded real pictures that are kept in memory; more are read as they are needed
Pictures = np.ndarray | Tensor | Dataset  # uint8 [n, H, W, 3], or grey [n, H, W]
Device = torch.device | str


# ---------------------------------------------------------------- feature extractors
class Network(nn.Module):
    """uint8 pictures [b, 3, size, size] -> features [b, d]; `head` makes them logits [b, classes]."""

    def __init__(self, size: int, d: int, classes: int = 1, seed: int = 0, width: int = 32):
        super().__init__()
        # fork_rng: new layers draw from the global generator, which is left as it was.
        with torch.random.fork_rng(devices=[]):
            shrink = max(1, size // 28)  # larger pictures cost little more than 28x28
            c_in, layers = 3, []
            for factor, stride in ((1, shrink), (1, 1), (2, 2), (2, 1), (4, 2), (4, 1)):
                c_out = factor * width
                kernel = max(3, 2 * stride - 1)
                conv = nn.Conv2d(c_in, c_out, kernel, stride, padding=kernel // 2, bias=False)
                layers += [conv, nn.BatchNorm2d(c_out), nn.ReLU()]
                c_in = c_out
            layers += [
                nn.AdaptiveMaxPool2d(3),
                nn.Flatten(),
                nn.Linear(3 * 3 * c_in, d, bias=False),
                nn.BatchNorm1d(d),
            ]
            self.body = nn.Sequential(*layers)
            self.head = nn.Linear(d, classes, bias=False)
        generator = torch.Generator().manual_seed(seed)
        for weight in self.body.parameters():
            if weight.dim() > 1:
                nn.init.kaiming_normal_(weight, generator=generator)
        nn.init.normal_(self.head.weight, std=0.02, generator=generator)

    def forward(self, x: Tensor) -> Tensor:
        return self.body(x.float() / 127.5 - 1)


def make_extractor(name: str, size: int, seed: int = 0) -> nn.Module:
    """name: inception (any size), or random, for pictures of size x size; load_classifier makes the third.

    Its `title` is printed with the scores. Raises DataError if Inception cannot be had.
    """
    if name == "random":
        net = Network(size, FEATURES[name], seed=seed)
        net.head = None
        net.title = f"random, {FEATURES[name]} features, seed {seed}"
        return net
    try:
        from torch_fidelity import feature_extractor_inceptionv3 as inception
    except ImportError as error:
        raise DataError(f"Inception needs torch-fidelity: pip install torch-fidelity ({error})") from error
    try:
        net = inception.FeatureExtractorInceptionV3("inception-v3-compat", ["2048"], verbose=False)
    except Exception as error:  # a damaged file can raise almost any exception
        if isinstance(error, NameError) or is_out_of_memory(error):
            raise
        url = inception.URL_INCEPTION_V3
        place = Path(torch.hub.get_dir(), "checkpoints", Path(url).name)
        raise DataError(f"Inception's weights cannot be loaded ({error}): get {url} as {place}") from error
    net.head = net.fc
    net.title = f"inception, {FEATURES[name]} features"
    return net


def fetch(pictures: Pictures, indices: np.ndarray, device: Device = "cpu") -> Tensor:
    """Some of the pictures -> uint8 [b, 3, H, W]; grey ones have three equal channels."""
    batch = torch.as_tensor(pictures[indices]).to(device)
    if batch.dim() == 3:
        batch = batch[..., None]
    return batch.permute(0, 3, 1, 2).expand(-1, 3, -1, -1)


def features(pictures: Pictures, extractor: nn.Module, device: Device = "cpu") -> Tensor:
    """Pictures -> float64 [n, d] on the CPU, in eval mode."""
    extractor.to(device).eval()  # not in inference mode: weights moved there could never be trained again
    parts = []
    with torch.inference_mode():
        for start in tqdm(range(0, len(pictures), 200), desc="features", leave=False, disable=None):
            output = extractor(fetch(pictures, np.arange(start, min(start + 200, len(pictures))), device))
            if isinstance(output, tuple):  # Inception's
                output = output[0]
            parts.append(output.double().cpu())
    return torch.cat(parts)


# ---------------------------------------------------------------- classifier
class Labelled(NamedTuple):  # data.characters' Characters will do as well
    pictures: Pictures
    labels: Tensor | np.ndarray  # int64 [n]


def split_train_test(pictures: Pictures, labels: np.ndarray | None) -> tuple[Labelled, Labelled]:
    """Pictures and their labels -> four fifths to train a classifier on, and one fifth held out."""
    if labels is None or not labels.any() or len(labels) < 5:
        raise DataError(
            "the classifier needs at least 5 labelled pictures of 2 classes: use --extractor random"
        )
    held_out = np.arange(len(labels)) % 5 == 4
    # A Subset looks up many indices at once, as these pictures want it, if its own indices are an array.
    train, test = np.flatnonzero(~held_out), np.flatnonzero(held_out)
    return Labelled(Subset(pictures, train), labels[train]), Labelled(Subset(pictures, test), labels[test])


def train_classifier(train: Labelled, width: int, steps: int, device: Device = "cpu") -> Network:
    """A network of that width that tells the labels apart, after so many steps of AdamW with 128 pictures."""
    rng = np.random.default_rng(0)
    labels = torch.as_tensor(train.labels)
    classes = int(labels.max()) + 1
    size = fetch(train.pictures, np.arange(1)).shape[-1]
    net = Network(size, FEATURES["classifier"], classes, width=width).to(
        device, memory_format=torch.channels_last
    )
    print(f"training a classifier of {classes:,} classes in {steps:,} steps", file=sys.stderr)
    optimizer = torch.optim.AdamW(net.parameters(), weight_decay=0.05)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, max_lr=4e-3, total_steps=steps)
    for _ in tqdm(range(steps), "classifier", leave=False, disable=None):
        indices = rng.integers(len(labels), size=128)
        shift = tuple(rng.integers(-1, 2, size=2))  # by a pixel, or not
        x = fetch(train.pictures, indices, device).roll(shift, (2, 3))
        y = labels[indices].to(device)
        loss = nn.functional.cross_entropy(net.head(net(x)), y, label_smoothing=0.1)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
    return net


def load_classifier(train: Labelled, test: Labelled, device: Device = "cpu") -> Network:
    """The classifier of this data: from ~/.cache/lsgan, or else trained now and kept there.

    Of several processes that ask at once, one trains and the others wait for it. `correct`: how many of
    `test`, which it was not trained on, it gets right.
    """
    some = fetch(train.pictures, np.linspace(0, len(train.labels) - 1, 64).astype(int)).numpy()
    classes = int(train.labels.max()) + 1
    made_of = hashlib.sha1(np.asarray(train.labels).tobytes() + some.tobytes()).hexdigest()
    path = cache_path(f"classifier-{made_of[:16]}.pt")  # the labels and 64 pictures tell data apart
    width = 64 if classes > 1000 else 32
    net = Network(some.shape[-1], FEATURES["classifier"], classes, width=width)
    lock = FileLock(f"{path}.lock")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        lock.acquire()
    except OSError:
        pass  # where no lock can be made, each process trains its own
    try:
        if not read_classifier(path, net):
            net = train_classifier(train, width, max(LEAST_STEPS, 8 * classes), device)
            keep_classifier(path, net)
    finally:
        lock.release()
    net.correct = count_correct(net, features(test.pictures, net, device), test.labels)
    n = len(test.labels)
    net.title = f"classifier, {net.correct / n:.1%} right on {n:,} held-out pictures"
    return net


def read_classifier(path: Path, net: Network) -> bool:
    """Gives `net` the weights that were kept; False if there are none, or they are damaged."""
    try:
        load_checkpoint(path, {"net": net})
    except DataError:
        return False
    return True


def keep_classifier(path: Path, net: Network) -> None:
    try:
        save_checkpoint(path, {"net": net}, args={}, step=0, log=[])
    except DataError as error:
        print(f"the classifier is not kept for the next time: {error}", file=sys.stderr)


def logits_of(x: Tensor, head: nn.Linear) -> Tensor:
    """Features [n, d], float64 on the CPU -> logits [n, classes], the same."""
    return x @ head.weight.detach().double().cpu().T


def count_correct(net: Network, x: Tensor, labels: Tensor | np.ndarray, k: int = 1) -> int:
    """For how many of the features x [n, d] the label is among the k largest logits of `net`."""
    correct = 0
    for part, y in zip(x.split(4096), torch.as_tensor(labels).split(4096)):
        logits = logits_of(part, net.head)
        top = logits.topk(min(k, logits.shape[1])).indices
        correct += int((top == y[:, None]).sum())
    return correct


# ---------------------------------------------------------------- measures
def compare(fake: Tensor, real: Tensor, head: nn.Linear | None = None) -> dict[str, float]:
    """Features [n, d] of generated and of real pictures -> FID, KID, precision, recall, diversity.

    FID (Heusel et al. 2017): nan for fewer than 4 d pictures, where it is mostly bias. KID (Binkowski et al.
    2018): mean over 100 subsets of 200, DataError for fewer pictures. Precision, recall (Kynkaanniemi et
    al. 2019): 3 nearest neighbours, at most 10,000 pictures. Diversity: root mean square distance of two
    generated pictures' features, over that of two real ones'. With `head`, which makes logits of features:
    IS, the Inception Score (Salimans et al. 2016), a mean over 10 parts.
    """
    try:
        from torch_fidelity import metric_fid, metric_isc, metric_kid, metric_prc
    except ImportError as error:
        raise DataError(f"scores need torch-fidelity: pip install torch-fidelity ({error})") from error
    least, enough = min(len(fake), len(real)), PICTURES_PER_FEATURE * fake.shape[1]
    if least < KID_SUBSET_SIZE:
        needed = f"KID needs {KID_SUBSET_SIZE} pictures on both sides, FID {enough:,}"
        raise DataError(f"{needed}; here are {len(fake):,} generated, {len(real):,} real")

    found = {"FID": float("nan")}
    if least >= enough:
        statistics = [metric_fid.fid_features_to_statistics(x) for x in (fake, real)]
        fid = metric_fid.fid_statistics_to_metric(*statistics, verbose=False)
        found["FID"] = fid[metric_fid.KEY_METRIC_FID]
    kid = metric_kid.kid_features_to_metric(fake, real, kid_subset_size=KID_SUBSET_SIZE, verbose=False)
    found["KID"] = kid[metric_kid.KEY_METRIC_KID_MEAN]
    some = [x[np.linspace(0, len(x) - 1, min(len(x), 10_000)).astype(int)] for x in (fake, real)]
    prc = metric_prc.prc_features_to_metric(*some, prc_batch_size=1000, save_cpu_ram=True, verbose=False)
    found["precision"] = prc[metric_prc.KEY_METRIC_PRECISION]
    found["recall"] = prc[metric_prc.KEY_METRIC_RECALL]
    if head is not None:
        scores = metric_isc.isc_features_to_metric(logits_of(fake, head))
        found["IS"] = scores[metric_isc.KEY_METRIC_ISC_MEAN]
    found["diversity"] = float((fake.var(0).sum() / real.var(0).sum()).sqrt())
    return found


def readability(samples: np.ndarray, labels: np.ndarray, net: Network, test: Labelled, device="cpu") -> dict:
    """How well `net`, trained on real characters, reads generated ones: uint8 [n, 28, 28] and class ids [n].

    test: real ones of held-out writers. Shares are (share, low, high), with the 95% Wilson interval. The
    diversity in a class is the root mean square pixel distance of two of its pictures, over that of two real
    ones; nan if no class has two of both.
    """
    fake_features = features(samples, net, device)
    ids = np.unique(labels)
    n, n_test = len(labels), len(test.labels)
    found = {"read by": net.title, "classes": f"{len(ids):,} of {net.head.out_features:,}"}
    found["top-1, real"] = (net.correct / n_test, *wilson(net.correct, n_test))
    for k in (1, 5):
        correct = count_correct(net, fake_features, labels, k)
        found[f"top-{k}, generated"] = (correct / n, *wilson(correct, n))

    real_pictures, real_labels = np.asarray(test.pictures), np.asarray(test.labels)
    spread, real_spread = 0.0, 0.0
    for i in ids:
        fake, real = samples[labels == i], real_pictures[real_labels == i]
        if min(len(fake), len(real)) > 1:
            spread += fake.var(0, ddof=1).sum()
            real_spread += real.var(0, ddof=1).sum()
    found["diversity in a class"] = float(spread / real_spread) ** 0.5 if real_spread else float("nan")
    return found


# ---------------------------------------------------------------- neighbours
def nearest(x: Tensor, train: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """The k nearest rows of train [n, d] to each row of x [m, d]: distances and indices, [m, k] each."""
    near = [torch.cdist(part, train).topk(k, largest=False) for part in x.split(100)]
    return torch.cat([part.values for part in near]), torch.cat([part.indices for part in near])


def leave_one_out_distances(train: Tensor) -> Tensor:
    """Distances of training pictures (at most 2,000, evenly spread), each to the nearest of all the others.

    train: features [n, d]. Raises DataError if there are too many duplicates to detect copies.
    """
    some = np.linspace(0, len(train) - 1, min(len(train), 2000)).astype(int)
    distances = nearest(train[some], train, 2)[0][:, 1]  # [:, 0] is the picture itself
    if torch.quantile(distances, 0.05) <= 1e-3 * distances.median():
        raise DataError("more than 5% of the real pictures are duplicates: remove them")
    return distances


def copying(fake: Tensor, train: Tensor, leave_one_out: Tensor) -> dict[str, float | tuple]:
    """How near generated pictures are to training pictures, and how near these are to each other.

    fake, train: features [n, d]. leave_one_out: leave_one_out_distances(train). The share (share, low, high)
    is of those generated pictures that are nearer to a training picture than 95% of the training pictures are
    to the rest: new real pictures give 5% on average, copies 100%. (With a classifier that has learned its
    training pictures by heart, new ones give more.) The 95% interval joins two errors as independent ones:
    that of the share, and that of the limit, which is itself estimated from distances. The least of these
    come in pairs, as two pictures are each other's nearest: where both are measured, they count as one.
    """
    distances = nearest(fake, train, 1)[0][:, 0]
    limit = torch.quantile(leave_one_out, 0.05)
    hits, n = int((distances < limit).sum()), len(distances)
    share = hits / n
    low, high = wilson(hits, n)
    measured = len(leave_one_out)
    independent = measured / (1 + measured / len(train))
    limit_error = 1.96 * (0.05 * 0.95 / independent) ** 0.5
    low = max(share - np.hypot(share - low, limit_error), 0.0)
    high = min(share + np.hypot(high - share, limit_error), 1.0)
    return {
        "distance to training": float(distances.median()),
        "distance between real pictures": float(leave_one_out.median()),
        "nearer than 95% of real pictures": (share, float(low), float(high)),
    }


def add_neighbours(
    rows: list[dict],
    samples: list[np.ndarray],
    sample_features: list[Tensor],
    real: Pictures,
    real_features: Tensor,
) -> Tensor | None:
    """Adds what `copying` finds to the rows. Returns pictures of the best row's samples: uint8 [32, 3, H, W].

    samples: sets of generated pictures, a row each. real: what the generator was trained on. The pictures:
    the eight of the best set that lie nearest to real ones, each in front of the three nearest of these. If
    copies cannot be detected, prints why and returns None.
    """
    try:
        leave_one_out = leave_one_out_distances(real_features)
    except DataError as error:
        print(f"data.score: --neighbours: {error}", file=sys.stderr)
        return None
    for row, fake in zip(rows, sample_features):
        row.update(copying(fake, real_features, leave_one_out))
    best = best_of(rows)
    distances, indices = nearest(sample_features[best], real_features, 3)
    shown = []
    for i in distances[:, 0].argsort()[:8].tolist():
        shown.append(fetch(samples[best], np.array([i])))
        shown.append(fetch(real, indices[i].numpy()))
    return torch.cat(shown)


# ---------------------------------------------------------------- files
def load_array(path: Path | str) -> np.ndarray:
    """The array in a .npy file, mapped; DataError if there is none."""
    try:
        # Never unpickles, and fails if the file is shorter than its header says
        return np.lib.format.open_memmap(path, mode="r")
    except Exception as error:  # a damaged file can raise almost any exception
        reason = getattr(error, "strerror", None) or "damaged, or of another kind"
        raise DataError(f"{path} is not an array that --sample wrote ({reason})") from error


def load_samples(path: Path | str) -> np.ndarray:
    """What a script's --sample wrote -> uint8 [n, size, size, 3], or grey [n, 28, 28]."""
    samples = load_array(path)
    if samples.shape[3:] == (1,):
        samples = samples[..., 0]
    shape = samples.shape[1:]
    is_grey = shape == (28, 28)
    is_colour = len(shape) == 3 and shape[0] == shape[1] and shape[2] == 3
    if samples.dtype != np.uint8 or not samples.size or not (is_grey or is_colour):
        raise DataError(f"{path}: {samples.dtype} {samples.shape}, not uint8 (n, S, S, 3) or (n, 28, 28)")
    return samples


def load_labels(path: Path | str, n: int, classes: int) -> np.ndarray:
    """The class ids that --sample wrote beside its samples -> int64 [n]."""
    labels = load_array(path)
    if labels.dtype.kind not in "iu" or labels.shape != (n,):
        raise DataError(f"{path} holds {labels.dtype} {labels.shape}, not {n:,} class ids")
    if labels.min() < 0 or labels.max() >= classes:
        raise DataError(
            f"{path} holds ids {labels.min()} to {labels.max()}, but the data have {classes:,} classes:"
            " give --classes as to the script"
        )
    if labels.max() < classes - 1 and len(np.unique(labels)) < n:  # all of the script's classes are there
        print(
            f"{path} holds ids {labels.min()} to {labels.max()}, and the data have {classes:,} classes;"
            " if the script was given --classes, give it here too",
            file=sys.stderr,
        )
    return labels.astype(np.int64)


# ---------------------------------------------------------------- table and curve
def show(value: float | str | tuple) -> str:
    if isinstance(value, tuple):
        return "{:.1%}, 95% interval {:.1%} to {:.1%}".format(*value)
    if isinstance(value, str):
        return value
    return "-" if np.isnan(value) else f"{value:.4g}"


def best_of(rows: list[dict]) -> int:
    """Index of the row with the lowest KID. FID would prefer larger sets, as its bias falls with size."""
    return min(range(len(rows)), key=lambda i: rows[i]["KID"])


def print_scores(paths: list[Path], rows: list[dict]) -> None:
    """What is equal in all rows as a list, then the rest as a table with a row for each file.

    Of a single row everything is equal, so all of it is in the list.
    """
    best = best_of(rows)
    texts = [{name: show(value) for name, value in row.items()} for row in rows]
    names = list(texts[0])
    same = [name for name in names if all(text[name] == texts[0][name] for text in texts)]
    for name in same:
        print(f"{name:34}{texts[0][name]}")
    if len(rows) == 1:
        return
    columns = [name for name in names if name not in same]
    table = [["samples", *columns, ""]]
    for i, (path, text) in enumerate(zip(paths, texts)):
        table.append([str(path), *(text[name] for name in columns), "<- best" if i == best else ""])
    widths = [max(map(len, column)) for column in zip(*table)]
    for line in table:
        print("  ".join(cell.ljust(width) for cell, width in zip(line, widths)).rstrip())


def curve_positions(paths: list[Path]) -> tuple[list[tuple[Path, str]], list[int], str]:
    """For a curve: the line of each file, as (run, what its folder's name ends in), its x, the axis's label.

    x is the step if all the files' folders are named like step_00001000 or step_00001000-average, else the
    file's number.
    """
    folders = [path.absolute().parent for path in paths]
    matches = [re.fullmatch(r"step_(\d+)(.*)", folder.name) for folder in folders]
    if all(matches):
        lines = [(folder.parent, match[2]) for folder, match in zip(folders, matches)]
        return lines, [int(match[1]) for match in matches], "step"
    return [(folder.parent, "") for folder in folders], list(range(1, len(paths) + 1)), "file"


def plain_text(name: str) -> str:
    """A file's name as matplotlib can show it: without formulas, and without bytes that are no text."""
    return name.encode("utf-8", "backslashreplace").decode().replace("$", r"\$")


def save_curve(paths: list[Path], rows: list[dict], out: Path) -> None:
    """Draws KID, precision, recall and readability over steps or files: a line for each run.

    Weights and averages of a run (step_00001000 and step_00001000-average) are two lines.
    """
    from matplotlib.figure import Figure

    names = [name for name in ("KID", "precision", "recall", "top-1, generated") if name in rows[0]]
    lines, positions, xlabel = curve_positions(paths)
    curves: dict[tuple[Path, str], list[tuple[int, dict]]] = {}
    for line, position, row in zip(lines, positions, rows):
        curves.setdefault(line, []).append((position, row))
    figure = Figure(figsize=(4 * len(names), 3.4), layout="constrained")
    figure.suptitle(rows[0]["extractor"], fontsize=9)
    panels = figure.subplots(1, len(names), squeeze=False)[0]
    for axes, name in zip(panels, names):
        for scored in curves.values():
            scored.sort(key=lambda scores: scores[0])
            x = [position for position, _ in scored]
            values = [row[name] for _, row in scored]
            if name == "top-1, generated":
                values = [share for share, low, high in values]
            axes.plot(x, values, marker=".")
        axes.set(xlabel=xlabel, title=name)
    labels = [plain_text(run.name + ending) for run, ending in curves]
    panels[-1].legend(panels[-1].lines, labels, fontsize=7)
    with write_file(out) as file:
        figure.savefig(file, format="png")


# ---------------------------------------------------------------- command line
def parse_args(argv: list[str] | None = None) -> Namespace:
    parser = make_parser("data.score", "Scores generated pictures against real ones.")
    add = parser.add_argument
    add("samples", nargs="+", type=Path, help="samples.npy of --sample; for characters, beside labels.npy")
    add("--data", type=not_empty, required=True, help="the real pictures, as given to the script")
    add("--extractor", choices=["inception", "classifier", "random"], required=True, help="feature extractor")
    add("--fit", default="squash", help="as given to the script")
    add("--limit", type=at_least(0), default=0, help="pictures: use so many real ones, spread evenly; 0: all")
    add("--classes", type=at_least(0), default=0, help="characters: as given to the script")
    add("--charset", default="level1", help="characters: as given to the script")
    add("--curve", type=new_file(".png"), metavar="FILE", help="write a PNG of the scores over steps")
    add(
        "--neighbours",
        type=new_file(".png"),
        metavar="FILE",
        help="how many samples are copies of training pictures? and a PNG of the nearest",
    )
    return parser.parse_args(argv)


def open_sets(paths: list[Path]) -> list[np.ndarray]:
    """load_samples of each path. Raises DataError unless all pictures have one size."""
    sets = [load_samples(path) for path in paths]
    first = sets[0].shape[1:]
    for path, samples in zip(paths, sets):
        if samples.shape[1:] != first:
            raise DataError(f"one size a table: {path} has {samples.shape[1:]}, {paths[0]} has {first}")
    return sets


def check_enough(sets: list[np.ndarray], n_real: int) -> None:
    """Raises DataError if KID would fail, before anything takes time."""
    fewest = min(n_real, *(len(samples) for samples in sets))
    if fewest < KID_SUBSET_SIZE:
        raise DataError(f"KID needs {KID_SUBSET_SIZE} pictures on both sides; here are {fewest:,}")


def score_set(fake: Tensor, real: Tensor, net: nn.Module) -> dict[str, float | str]:
    """A row of the table: the extractor and the numbers of pictures, then what compare() finds.

    fake, real: their features by `net`.
    """
    counts = f"{len(fake):,} generated, {len(real):,} real"
    scores = compare(fake, real, net.head)
    if np.isnan(scores["FID"]):
        counts += f" (FID needs {PICTURES_PER_FEATURE * fake.shape[1]:,} of each)"
    return {"extractor": net.title, "pictures": counts} | scores


def score_pictures(
    args: Namespace, sets: list[np.ndarray], device: Device
) -> tuple[list[dict], Tensor | None]:
    """A row of scores for each set of pictures, uint8 [n, size, size, 3]: against those it was trained on.

    With --neighbours also what add_neighbours shows.
    """
    if args.classes or args.charset != "level1":
        raise DataError("--classes and --charset are for characters; of pictures --limit uses fewer")
    size = sets[0].shape[1]
    images = open_images(args.data, size, args.fit, args.limit or None)
    check_enough(sets, len(images))
    real = decode_all(images) if images.nbytes <= IN_MEMORY else images
    if args.extractor == "classifier":
        net = load_classifier(*split_train_test(real, images.labels), device)
    else:
        net = make_extractor(args.extractor, size)
    real_features = features(real, net, device)
    fakes = [features(samples, net, device) for samples in sets]
    rows = [score_set(fake, real_features, net) for fake in fakes]
    shown = None
    if args.neighbours:
        if args.limit and images.source.n > args.limit:
            print(f"data.score: --neighbours sees {args.limit:,} pictures, not the others", file=sys.stderr)
        shown = add_neighbours(rows, sets, fakes, real, real_features)
    return rows, shown


def score_characters(
    args: Namespace, sets: list[np.ndarray], device: Device
) -> tuple[list[dict], Tensor | None]:
    """A row of scores for each set of characters, uint8 [n, 28, 28]: against those of held-out writers.

    The classifier always judges how readable they are, whatever --extractor is. With --neighbours also what
    add_neighbours shows.
    """
    if args.limit:
        raise DataError("--limit is for pictures; of characters --classes uses fewer")
    settings = args.data, args.charset, args.classes or None, args.fit
    train, test = (open_characters(*settings, split) for split in ("train", "test"))
    check_enough(sets, len(test.labels))
    labels = []
    for path, samples in zip(args.samples, sets):
        labels.append(load_labels(path.with_name("labels.npy"), len(samples), len(train.class_names)))
    reader = load_classifier(train, test, device)
    net = reader if args.extractor == "classifier" else make_extractor(args.extractor, 28)
    real_features = features(test.pictures, net, device)
    fakes = [features(samples, net, device) for samples in sets]
    rows = [score_set(fake, real_features, net) for fake in fakes]
    for row, samples, y in zip(rows, sets, labels):
        row.update(readability(samples, y, reader, test, device))
    shown = None
    if args.neighbours:
        trained_on = features(train.pictures, net, device)
        shown = add_neighbours(rows, sets, fakes, train.pictures, trained_on)
    return rows, shown


def main(argv: list[str] | None = None) -> None:
    """The program; argv is by default sys.argv[1:]."""
    args = parse_args(argv)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    with one_line_errors("data.score", sizes="--limit (pictures) or --classes (characters)"):
        sets = open_sets(args.samples)
        score = score_pictures if sets[0].ndim == 4 else score_characters
        rows, neighbours = score(args, sets, device)
        print_scores(args.samples, rows)
        if neighbours is not None:
            with write_file(args.neighbours) as file:
                save_image(neighbours / 255, file, format="png", nrow=4, pad_value=1)
            print(f"wrote {args.neighbours}", file=sys.stderr)
        if args.curve:
            save_curve(args.samples, rows, args.curve)
            print(f"wrote {args.curve}", file=sys.stderr)


if __name__ == "__main__":
    main()
