"""Does --amp cost quality? Trains lsgan_scenes.py with and without it, scores the last checkpoints: a table.

    python tests/bench_amp.py --seeds 0,1,2 --size 32 --width 16 --z-dim 64 --lr 5e-4 --steps 1600

All flags but ours go to lsgan_scenes.py. --emulate computes what --amp does with float32 arithmetic, for CPUs
without bfloat16 units, where --amp takes eight times as long: what goes into and comes out of a layer, and
the gradients of both, are rounded to bfloat16.
"""

import contextlib
import itertools
import sys
from argparse import Namespace
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import numpy as np
import torch
import torch.nn.functional as F
from bench_ebgan import MEASURES, seeds, show
from torch import Tensor
from torch.overrides import TorchFunctionMode

import lsgan_scenes as scenes
from data import make_parser, one_line_errors
from data.images import decode_all, open_images
from data.runs import at_least
from data.score import compare, features, make_extractor


class Rounded(torch.autograd.Function):
    """Float32 numbers rounded to bfloat16, and their gradients too."""

    @staticmethod
    def forward(ctx, x: Tensor) -> Tensor:
        return x.bfloat16().float()

    @staticmethod
    def backward(ctx, gradient: Tensor) -> Tensor:
        return gradient.bfloat16().float()


class Bfloat16(TorchFunctionMode):
    """Inside, layers compute what they do under torch.autocast in bfloat16, with float32 arithmetic."""

    LAYERS = {torch.conv2d, torch.conv_transpose2d, F.linear}
    OUTPUT_ONLY = {F.batch_norm, torch.tanh}  # weights stay float32; what comes in is rounded already

    def __torch_function__(self, func, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        if func in self.LAYERS and args[1].shape[0] > 1:  # not D's last layer: see LastLinear
            args = [Rounded.apply(x) if isinstance(x, Tensor) else x for x in args]
            return Rounded.apply(func(*args, **kwargs))
        if func in self.OUTPUT_ONLY:
            return Rounded.apply(func(*args, **kwargs))
        return func(*args, **kwargs)


def train(flags: list, emulate: bool) -> None:
    """Runs lsgan_scenes.py with these flags, in emulated bfloat16 if asked for."""
    original = scenes.train_step

    def rounded_step(*args, **settings):
        with Bfloat16():
            return original(*args, **settings)

    try:
        if emulate:
            scenes.train_step = rounded_step
        scenes.main(flags)
    finally:
        scenes.train_step = original


def parse_args(argv: list[str] | None = None) -> tuple[Namespace, list[str]]:
    """Our flags, and those for lsgan_scenes.py."""
    parser = make_parser("bench_amp.py", "Does --amp cost quality? Other flags go to lsgan_scenes.py")
    add = parser.add_argument
    add("--seeds", type=seeds, default=[0, 1, 2], help="comma between them")
    add("--emulate", action="store_true", help="bfloat16 by rounding, for CPUs without it")
    add("--n", type=at_least(200), default=2000, help="generated pictures of a score")
    add("--runs", default="runs/amp", help="folder for the runs")
    return parser.parse_known_args(argv)


def main(argv: list[str] | None = None) -> None:
    """The program; argv is by default sys.argv[1:]."""
    with one_line_errors("bench_amp.py"):
        compare_precisions(*parse_args(argv))


def compare_precisions(args: Namespace, flags: list[str]) -> None:
    """Trains every seed in both precisions and prints the scores; flags are those for lsgan_scenes.py."""
    settings = scenes.parse_args(flags)
    extractor = make_extractor("random", settings.size)
    images = open_images(settings.data, settings.size, settings.fit, settings.limit or None)
    real = features(decode_all(images), extractor)
    scores = {"float32": [], "bfloat16": []}
    for seed, precision in itertools.product(args.seeds, scores):
        out = Path(args.runs, f"{precision}-seed{seed}")
        emulate = args.emulate and precision == "bfloat16"
        amp = "--amp" if precision == "bfloat16" and not emulate else "--no-amp"
        with contextlib.redirect_stdout(sys.stderr):
            train([*flags, amp, "--seed", str(seed), "--out", str(out)], emulate)
            gpu = [] if settings.gpu is None else ["--gpu", str(settings.gpu)]
            sample = ["--sample", str(out / "last.pt"), "--n", str(args.n), "--out", str(out / "samples")]
            scenes.main([*sample, *gpu])
        fakes = np.load(out / "samples/samples.npy")
        row = compare(features(fakes, extractor), real)
        scores[precision].append(row)
        print(f"{precision} {seed}  " + "  ".join(f"{name} {row[name]:.4g}" for name in MEASURES), flush=True)
    print(f"| {extractor.title} | {' | '.join(MEASURES)} |\n|---|---|---|---|---|")
    for precision, rows in scores.items():
        print(f"| {precision} | " + " | ".join(show([row[name] for row in rows]) for name in MEASURES) + " |")


if __name__ == "__main__":
    main()
