"""Scores generated pictures against real ones: FID, KID, precision, recall, and how readable characters are.

    python -m data.score runs/x/samples.npy --data lsun/bedroom --extractor random
    python -m data.score runs/y/samples.npy --data hwdb1.0 --extractor classifier  # characters and labels.npy

torch-fidelity does the sums. No distance means anything without its feature extractor (data/extractors.py).
"""

from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from data import DataError, make_parser, one_line_errors
from data.characters import open_characters
from data.extractors import Labelled, Network, count_hits, features, halves, load_classifier, make_extractor
from data.images import open_images


def compare(fake: Tensor, real: Tensor, head: torch.nn.Linear | None = None) -> dict[str, float]:
    """Features [n, d] of generated and of real pictures -> FID, KID, KID std, precision, recall, diversity.

    KID: mean and deviation over 100 subsets of 200, DataError for fewer. FID: nan for fewer than 4 d, where
    it is mostly bias. Precision, recall: 3 nearest neighbours, at most 10,000 pictures. Diversity: root mean
    square distance of two generated pictures, over that of two real ones. With `head`, which makes logits of
    features: IS, the Inception Score, a mean over 10 parts.
    """
    try:
        from torch_fidelity import metric_fid, metric_isc, metric_kid, metric_prc
    except ImportError as error:
        raise DataError(f"scores need torch-fidelity: pip install torch-fidelity ({error})") from error
    found, least, enough = {"FID": float("nan")}, min(len(fake), len(real)), 4 * fake.shape[1]
    if least < 200:
        here = f"{len(fake):,} generated, {len(real):,} real"
        raise DataError(f"KID needs 200 pictures on both sides, FID {enough:,}; here are {here}")
    if least >= enough:
        statistics = [metric_fid.fid_features_to_statistics(x) for x in (fake, real)]
        (found["FID"],) = metric_fid.fid_statistics_to_metric(*statistics, verbose=False).values()
    kid = metric_kid.kid_features_to_metric(fake, real, kid_subset_size=200, verbose=False)
    found["KID"], found["KID std"] = kid.values()
    some = [x[np.linspace(0, len(x) - 1, min(len(x), 10_000)).astype(int)] for x in (fake, real)]
    prc = metric_prc.prc_features_to_metric(*some, prc_batch_size=1000, save_cpu_ram=True, verbose=False)
    found["precision"], found["recall"], _ = prc.values()
    if head is not None:
        logits = fake @ head.weight.detach().double().cpu().T
        found["IS"], _ = metric_isc.isc_features_to_metric(logits).values()
    return found | {"diversity": float((fake.var(0).sum() / real.var(0).sum()).sqrt())}


def score(samples, real, extractor: torch.nn.Module, device="cpu") -> dict[str, float | str]:
    """Pictures, uint8 [n, H, W, 3] or grey [n, H, W], arrays or datasets -> figures that name it."""
    fake, real = features(samples, extractor, device), features(real, extractor, device)
    kind, found = extractor.title.split(",")[0], compare(fake, real, extractor.head)
    if np.isnan(found["FID"]):
        found["FID"] = f"needs {4 * fake.shape[1]:,} pictures on both sides"
    about = {"extractor": extractor.title, "pictures": f"{len(fake):,} generated, {len(real):,} real"}
    return about | {f"{name} ({kind})": value for name, value in found.items()}


def wilson(k: int, n: int) -> tuple[float, float]:
    """95 % Wilson interval of a share, of which k of n were seen."""
    z, p = 1.959964, k / n
    centre, half = p + z**2 / (2 * n), z * (p * (1 - p) / n + z**2 / (4 * n**2)) ** 0.5
    return (centre - half) / (1 + z**2 / n), (centre + half) / (1 + z**2 / n)


def readability(samples, labels: np.ndarray, net: Network, test: Labelled, device="cpu") -> dict:
    """How well `net`, trained on real characters, reads generated ones: uint8 [n, 28, 28] and class ids [n].

    test: real ones of held-out writers. Shares are (share, low, high). The diversity in a class is the root
    mean square pixel distance of two of its pictures, over that of two real ones.
    """
    seen, ids, spread = features(samples, net, device), np.unique(labels), torch.zeros(2)
    found = {"read by": net.title, "classes": f"{len(ids):,} of {net.head.out_features:,}"}
    right = {"top-1, real": (net.hits, len(test.labels))}
    right |= {f"top-{k}, generated": (count_hits(net, seen, labels, k), len(labels)) for k in (1, 5)}
    found |= {name: (k / n, *wilson(k, n)) for name, (k, n) in right.items()}
    for i in ids:
        two = samples[labels == i], test.pictures[test.labels == i]
        if min(map(len, two)) > 1:
            spread += torch.tensor([pictures.var(0, ddof=1).sum() for pictures in two])
    return found | {"diversity in a class": float((spread[0] / spread[1]).sqrt())}


def load_array(path: Path | str) -> np.ndarray:
    """The array in a .npy file, mapped; DataError if there is none."""
    try:
        return np.lib.format.open_memmap(path, mode="r")  # unpickles nothing and believes no header
    except Exception as error:  # a damaged file fails in any way it likes
        reason = getattr(error, "strerror", None) or "damaged, or of another kind"
        raise DataError(f"{path} is not an array that --sample wrote ({reason})") from error


def load_samples(path: Path | str) -> np.ndarray:
    """What a script's --sample wrote -> uint8 [n, size, size, 3], or grey [n, 28, 28]."""
    samples = load_array(path)
    samples = samples[..., 0] if samples.shape[3:] == (1,) else samples
    shape = list(samples.shape[1:])
    if samples.dtype != np.uint8 or not samples.size or (shape != [28, 28] and shape != [*shape[:1] * 2, 3]):
        raise DataError(f"{path}: {samples.dtype} {samples.shape}, not uint8 (n, S, S, 3) or (n, 28, 28)")
    if not any((picture != samples[0]).any() for picture in samples):
        raise DataError(f"{path} holds one picture, {len(samples):,} times")
    return samples


def load_labels(path: Path | str, n: int, classes: int) -> np.ndarray:
    """The class ids that --sample wrote beside its samples -> int64 [n]."""
    labels = load_array(path)
    if labels.dtype.kind not in "iu" or labels.shape != (n,) or labels.min() < 0 or labels.max() >= classes:
        raise DataError(f"{path} holds {labels.dtype} {labels.shape}, not {n:,} class ids below {classes:,}")
    return labels.astype(np.int64)


def main(argv: list[str] | None = None) -> None:
    """The command line: exit code 2 and one line for what is wrong."""
    parser = make_parser("data.score", __doc__)
    add = parser.add_argument
    add("samples", help="samples.npy, from a script's --sample; for characters beside labels.npy")
    add("--data", required=True, help="the real pictures, as given to the script")
    add("--extractor", choices=["inception", "classifier", "random"], required=True, help="of the features")
    add("--fit", default="squash", help="as given to the script")
    add("--limit", type=int, default=0, help="use so many real pictures, spread evenly; 0: all")
    add("--classes", type=int, default=0, help="characters: as given to the script")
    add("--charset", default="level1", help="characters: as given to the script")
    args = parser.parse_args(argv)
    device, reading = "cuda" if torch.cuda.is_available() else "cpu", {}
    with one_line_errors(parser, "nothing was written"):
        samples = load_samples(args.samples)
        if samples.ndim == 3:
            settings = args.data, args.charset, args.classes or None, args.fit
            train, test = (open_characters(*settings, split) for split in ("train", "test"))
            labels = Path(args.samples).with_name("labels.npy")
            labels = load_labels(labels, len(samples), len(train.table))
            real, net = test.pictures, load_classifier(train, test, args.data, device)
            reading = readability(samples, labels, net, test, device)
        else:
            real = open_images(args.data, samples.shape[1], args.fit, args.limit or None)
            if args.extractor == "classifier":
                net = load_classifier(*halves(real), args.data, device)
        if args.extractor != "classifier":
            net = make_extractor(args.extractor, samples.shape[1])
        for name, value in (score(samples, real, net, device) | reading).items():
            if isinstance(value, tuple):
                value = "{:.1%}, 95 % interval {:.1%} to {:.1%}".format(*value)
            print(f"{name:24}{value:.4g}" if isinstance(value, float) else f"{name:24}{value}")


if __name__ == "__main__":
    main()
