"""Figure 6: which kind of scene does a classifier see in generated pictures?

    python tests/bench_classes.py forest=forest/samples.npy sea=sea/samples.npy --data natural

Each CLASS=FILE is a samples.npy of a run that was trained on that class alone. The classifier is the one of
data.score, trained on all classes of --data. Prints for each file the share of pictures that it reads as
their class, with a 95% interval over the pictures, the same for held-out real ones, and the class that it
reads most often.
"""

import argparse
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import numpy as np

from data import DataError, one_line_errors, runs
from data.images import decode_all, open_images
from data.score import features, load_classifier, load_samples, logits_of, split_train_test


def parse_set(text):
    """An argparse type: CLASS=FILE -> (CLASS, FILE)."""
    name, equals, path = text.partition("=")
    if not name or not equals or not path:
        raise argparse.ArgumentTypeError(f"must be CLASS=FILE, not {text!r}")
    return name, Path(path)


def read_classes(pictures, net, device):
    """The classifier's class of each picture, int64 [n]."""
    logits = logits_of(features(pictures, net, device), net.head)
    return logits.argmax(1).numpy()


def share(hits):
    """The share of hits, bool [n], with its 95% interval."""
    low, high = runs.wilson(int(hits.sum()), len(hits))
    return f"{hits.mean():.0%} ({low:.0%} to {high:.0%})"


def print_table(args):
    """A row for each of args.sets. DataError if one is not of a class of args.data, or of another size."""
    device = runs.pick_device(args.gpu)
    sets = [(name, load_samples(path)) for name, path in args.sets]
    sizes = {samples.shape[1] for _, samples in sets}
    if len(sizes) > 1:
        raise DataError(f"one size a table, not {sorted(sizes)}")
    images = open_images(args.data, sizes.pop())
    for name, _ in sets:
        if name not in (images.classes or []):
            raise DataError(f"{name} is not a class of {args.data}: {images.classes}")
    train, test = split_train_test(decode_all(images), images.labels)
    net = load_classifier(train, test, device)
    seen_in_real = read_classes(test.pictures, net, device)

    print(net.title)
    print("| class | generated, read as it | held out, read as it | generated are most often read as |")
    print("|---|---|---|---|")
    for name, samples in sets:
        label = images.classes.index(name)
        seen = read_classes(samples, net, device)
        real = seen_in_real[np.asarray(test.labels) == label] == label
        most = images.classes[np.bincount(seen).argmax()]
        print(f"| {name} | {share(seen == label)} | {share(real)} | {most} |", flush=True)


def main(argv=None):
    parser = argparse.ArgumentParser()
    parser.add_argument("sets", nargs="+", type=parse_set, metavar="CLASS=FILE")
    parser.add_argument("--data", required=True, help="all classes, as CLASS/PICTURE")
    parser.add_argument("--gpu", type=int, default=-1)
    args = parser.parse_args(argv)
    with one_line_errors("bench_classes.py"):
        print_table(args)


if __name__ == "__main__":
    main()
