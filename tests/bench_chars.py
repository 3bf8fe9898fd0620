"""The training step of lsgan_cond_chars.py against the obvious loop, on a CPU (on a GPU: bench_gpu.py).

    OMP_NUM_THREADS=1 python tests/bench_chars.py [--width 256] [--batch-size 64] [--rounds 5]

The obvious loop: one-hot labels and a matrix product, two G forwards, D's weight gradients computed and
thrown away in the G step, Adam as it comes, contiguous memory; all in float32. tests/test_chars.py shows that
it computes the same. The ways take turns; medians.
"""

import argparse
import sys
from functools import partial
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import torch
from interleave import median_seconds
from test_chars import obvious_step

import lsgan_cond_chars as chars


def make(args, device, ours):
    nets = chars.Generator(args.classes, args.width), chars.Discriminator(args.classes, args.width)
    for net, stream in zip(nets, (chars.INIT_G, chars.INIT_D)):
        chars.init_weights(net, chars.torch_rng(0, stream))
        net.to(device, memory_format=torch.channels_last if ours else torch.contiguous_format)
    settings = {"lr": 2e-4, "betas": (0.5, 0.999)} | ({"fused": True} if ours else {})
    return *nets, *(torch.optim.Adam(net.parameters(), **settings) for net in nets)


def main():
    parser = argparse.ArgumentParser()
    for flag, default in (("classes", 3740), ("width", 256), ("batch-size", 64), ("rounds", 5)):
        parser.add_argument(f"--{flag}", type=int, default=default)
    args = parser.parse_args()
    device = torch.device("cpu")
    torch.manual_seed(0)
    real = torch.rand(args.batch_size, 1, 28, 28)
    z = chars.noise(args.batch_size, 1024, 0, chars.Z, 1)
    y = torch.randint(args.classes, [args.batch_size])
    inputs = real, z, y
    ways = {
        "obvious loop": partial(obvious_step, *make(args, device, ours=False), *inputs),
        "ours": partial(chars.train_step, *make(args, device, True), *inputs),
        "ours, --amp": partial(chars.train_step, *make(args, device, True), *inputs, amp=True),
    }
    medians = median_seconds(ways, args.rounds)
    sizes = f"{args.classes} classes, width {args.width}, batch {args.batch_size}, {args.rounds} rounds"
    print(f"{sizes}, {torch.get_num_threads()} threads, torch {torch.__version__}")
    for name, median in medians.items():
        ratio = medians["obvious loop"] / median
        print(f"{name:24} {median:8.4f} s/step {args.batch_size / median:8.1f} images/s {ratio:6.2f}x")


if __name__ == "__main__":
    main()
