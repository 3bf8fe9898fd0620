"""How readable generated characters of every class are: a classifier's verdict over kept checkpoints.

    python tests/bench_readability.py runs/x/step_*.pt --data hwdb1.0 --worst worst.png

For thousands of classes on a CPU: like data.score, but with a narrower classifier that is trained for fewer
steps. One picture of every class (--each), by the weights and, if the run has it, by their average. Prints
the classifier's own accuracy on held-out writers, then a table. --worst draws the ten classes that the last
checkpoint writes worst: four real pictures above four generated ones.
"""

import argparse
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import torch
import torch.nn.functional as F
from torch.optim.swa_utils import AveragedModel
from torchvision.utils import save_image

import lsgan_cond_chars as chars
from data import one_line_errors, runs
from data.characters import open_characters
from data.score import count_correct, features, logits_of, train_classifier


def load_generators(path, checkpoint):
    """{name: generator} of a checkpoint: the weights, and with --ema their average."""
    saved = checkpoint["args"]
    sizes = len(checkpoint["class_names"]), saved["width"], saved["z_dim"]
    G = chars.Generator(*sizes)
    runs.load_checkpoint(path, {"G": G})
    found = {"weights": G}
    if saved["ema"]:
        average = AveragedModel(chars.Generator(*sizes))
        runs.load_checkpoint(path, {"ema": average})
        found["average"] = average.module
    return found


def draw(G, z_dim, labels, seed, device):
    """A picture of each label, uint8 [n, 28, 28]."""
    G.to(device)
    pictures = []
    for i, y in enumerate(labels.split(64)):
        z = chars.noise(64, z_dim, seed, chars.SAMPLE, i)[: len(y)]
        pictures.append(chars.generate(G, z.to(device), y.to(device))[..., 0])
    return torch.cat(pictures)


def share(correct, n):
    low, high = runs.wilson(correct, n)
    return f"{correct / n:.1%} ({100 * low:.1f} to {100 * high:.1f})"


def draw_worst(path, net, pictures, labels, test, class_names, device):
    """The ten classes with the lowest mean log-probability of the right answer."""
    logits = logits_of(features(pictures, net, device), net.head)
    right = logits.log_softmax(1).gather(1, labels[:, None])[:, 0]
    of_class = torch.zeros(len(class_names), dtype=torch.float64).index_add(0, labels, right)
    worst = of_class.argsort()[:10]
    print("worst:", *(class_names[y] for y in worst.tolist()))
    rows = []
    for source, source_labels in ((test.pictures, test.labels), (pictures, labels)):
        chosen = [source[source_labels == y][:4] for y in worst]
        # White where a class has fewer than four.
        chosen = [F.pad(of_one, (0, 0, 0, 0, 0, 4 - len(of_one)), value=255) for of_one in chosen]
        rows += [torch.stack([of_one[k] for of_one in chosen]) for k in range(4)]
    with runs.write_file(path) as file:
        grid = torch.cat(rows)[:, None] / 255
        save_image(grid, file, format="png", nrow=10, pad_value=1)


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("checkpoints", nargs="+", type=Path)
    parser.add_argument("--data", help="unset: as in the first checkpoint")
    parser.add_argument("--worst", type=Path, help="PNG of the ten worst classes of the last checkpoint")
    for flag, default in (("width", 32), ("steps", 4000), ("each", 1), ("seed", 0), ("gpu", -1)):
        parser.add_argument(f"--{flag}", type=int, default=default)
    args = parser.parse_args()
    device = runs.pick_device(args.gpu)
    first = runs.load_checkpoint(args.checkpoints[0])
    saved, class_names = first["args"], first["class_names"]
    settings = args.data or saved["data"], saved["charset"], saved["classes"] or None, saved["fit"]
    train, test = (open_characters(*settings, split) for split in ("train", "test"))
    if train.class_names != class_names:
        sys.exit("these are not the classes of the checkpoint")
    net = train_classifier(train, args.width, args.steps, device)
    seen = features(test.pictures, net, device)
    real = [share(count_correct(net, seen, test.labels, k), len(test.labels)) for k in (1, 5)]
    print(f"{len(class_names):,} classes; classifier of width {args.width}, {args.steps:,} steps of 128")
    print("| step | G | top-1 (95% interval) | top-5 |\n|---|---|---|---|")
    print(f"| real, {len(test.labels):,} of held-out writers | - | {real[0]} | {real[1]} |", flush=True)

    labels = torch.arange(len(class_names)).repeat_interleave(args.each)
    for path in args.checkpoints:
        checkpoint = runs.load_checkpoint(path)
        for name, G in load_generators(path, checkpoint).items():
            pictures = draw(G, saved["z_dim"], labels, args.seed, device)
            seen = features(pictures, net, device)
            top = [share(count_correct(net, seen, labels, k), len(labels)) for k in (1, 5)]
            print(f"| {checkpoint['step']:,} | {name} | {top[0]} | {top[1]} |", flush=True)
    if args.worst:
        labels = torch.arange(len(class_names)).repeat_interleave(max(4, args.each))
        last = args.checkpoints[-1]
        generators = load_generators(last, runs.load_checkpoint(last))
        G = generators.get("average", generators["weights"])
        pictures = draw(G, saved["z_dim"], labels, args.seed, device)
        draw_worst(args.worst, net, pictures, labels, test, class_names, device)


if __name__ == "__main__":
    with one_line_errors("bench_readability"):
        main()
