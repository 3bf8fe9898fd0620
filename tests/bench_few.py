"""What generated characters add to a few real ones: the paper proposes such a generator as a benchmark.

    OMP_NUM_THREADS=1 python tests/bench_few.py runs/.../last.pt [--data hwdb1.0] [--real 1 2 5] [--gpu 0]

A classifier sees --real characters of each class, of training writers, 64 in each step; another one sees as
many of them and 64 generated ones besides. Printed: its accuracy on characters of held-out
writers, the mean over seeds and their range. The generator has itself seen all training writers: this asks
whether its samples carry what the few real ones lack, and not whether a GAN saves collecting characters.
"""

import argparse
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import numpy as np
import torch
from bench_readability import draw, load_generators
from tqdm import tqdm

from data import runs
from data.characters import open_characters
from data.score import Labelled, Network, count_correct, features, fetch


def draw_generated(checkpoint, saved, classes, n, device):
    """n generated characters of every class."""
    generators = load_generators(checkpoint, runs.load_checkpoint(checkpoint))
    G = generators.get("average", generators["weights"])
    labels = torch.arange(classes).repeat_interleave(n)
    return Labelled(draw(G, saved["z_dim"], labels, 0, device), labels)


def draw_real(data, n, seed):
    """n characters of every class, or all there are. With the same seed a larger n contains a smaller one."""
    order = torch.from_numpy(np.random.default_rng(seed).permutation(len(data.labels)))
    rows = torch.cat([order[data.labels[order] == y][:n] for y in range(len(data.class_names))])
    return Labelled(data.pictures[rows], data.labels[rows])


def train(parts, classes, steps, seed, device):
    """data.score's classifier; a batch has 64 pictures of each part."""
    random = np.random.default_rng(seed)
    net = Network(28, 128, classes, seed).to(device)
    optimizer = torch.optim.AdamW(net.parameters(), weight_decay=0.05)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, max_lr=4e-3, total_steps=steps)
    for _ in range(steps):
        drawn = [random.integers(len(part.labels), size=64) for part in parts]
        x = torch.cat([fetch(part.pictures, rows, device) for part, rows in zip(parts, drawn)])
        y = torch.cat([part.labels[rows] for part, rows in zip(parts, drawn)]).to(device)
        logits = net.head(net(x.roll(tuple(random.integers(-1, 2, size=2)), (2, 3))))
        loss = torch.nn.functional.cross_entropy(logits, y, label_smoothing=0.1)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
    return net


def mean_and_range(shares):
    return f"{np.mean(shares):.1%} ({min(shares):.1%} to {max(shares):.1%})"


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("checkpoint")
    parser.add_argument("--data", help="unset: as in the checkpoint")
    parser.add_argument("--real", type=int, nargs="+", default=[1, 2, 5, 10, 20, 80])
    for flag, default in (("generated", 100), ("steps", 400), ("seeds", 2), ("gpu", -1)):
        parser.add_argument(f"--{flag}", type=int, default=default)
    args = parser.parse_args()
    device, checkpoint = runs.pick_device(args.gpu), runs.load_checkpoint(args.checkpoint)
    saved, class_names = checkpoint["args"], checkpoint["class_names"]
    settings = args.data or saved["data"], saved["charset"], saved["classes"] or None, saved["fit"]
    data, test = (open_characters(*settings, split) for split in ("train", "test"))
    if data.class_names != class_names:
        sys.exit("these are not the classes of the checkpoint")
    classes = len(class_names)
    print(f"{classes} classes, {args.generated} generated each, {args.steps} steps, {args.seeds} seeds")
    generated = draw_generated(args.checkpoint, saved, classes, args.generated, device)
    print("| real, a class | accuracy with these alone | with generated ones |\n|---|---|---|")
    for n in args.real:
        alone, together = [], []
        for seed in tqdm(range(args.seeds), leave=False, disable=None):
            real = draw_real(data, n, seed)
            for parts, shares in (([real], alone), ([real, generated], together)):
                net = train(parts, classes, args.steps, seed, device)
                hits = count_correct(net, features(test.pictures, net, device), test.labels)
                shares.append(hits / len(test.labels))
        print(f"| {n} | {mean_and_range(alone)} | {mean_and_range(together)} |", flush=True)


if __name__ == "__main__":
    main()
