"""The training step of lsgan_cond_chars.py against the obvious loop. Prints a table, never fails.

    OMP_NUM_THREADS=1 python tests/bench_chars.py [--width 256] [--batch-size 64] [--rounds 5] [--gpu 0]

The obvious loop: one-hot labels and a matrix product, y as 256 maps through a plain convolution, two G
forwards, D's weight gradients computed and thrown away in the G step, Adam as it comes, contiguous memory.
tests/test_chars.py shows that it computes the same. Seconds a step: medians of interleaved rounds.
"""

import argparse
import statistics
import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import torch
import torch.nn.functional as F
from test_chars import obvious_d, obvious_step

import lsgan_cond_chars as chars
from data import runs


class ObviousD(chars.Discriminator):
    def forward(self, x, y):
        return obvious_d(self, x, F.one_hot(y, self.phi.num_embeddings).to(x.dtype))


def make(args, device, ours, discriminator=chars.Discriminator):
    nets = chars.Generator(args.classes, args.width), discriminator(args.classes, args.width)
    for net, stream in zip(nets, (chars.INIT_G, chars.INIT_D)):
        chars.init_weights(net, chars.torch_rng(0, stream))
        net.to(device, memory_format=torch.channels_last if ours else torch.contiguous_format)
    settings = {"lr": 2e-4, "betas": (0.5, 0.999)} | ({"fused": True} if ours else {})
    return *nets, *(torch.optim.Adam(net.parameters(), **settings) for net in nets)


def main():
    parser = argparse.ArgumentParser()
    for flag, default in (("classes", 3740), ("width", 256), ("batch-size", 64), ("rounds", 5), ("gpu", -1)):
        parser.add_argument(f"--{flag}", type=int, default=default)
    args = parser.parse_args()
    device = runs.pick_device(args.gpu)
    runs.set_arithmetic(tf32=True)
    torch.manual_seed(0)
    real = torch.rand(args.batch_size, 1, 28, 28).to(device)
    z = chars.noise(args.batch_size, 1024, 0, chars.Z, 1).to(device)
    y = torch.randint(args.classes, [args.batch_size]).to(device)
    cases = {
        "obvious loop": (obvious_step, make(args, device, ours=False), {}),
        "ours, D as in the loop": (chars.train_step, make(args, device, True, ObviousD), {}),
        "ours": (chars.train_step, make(args, device, True), {}),
        "ours, --amp": (chars.train_step, make(args, device, True), {"amp": True}),
    }
    seconds = {name: [] for name in cases}
    for _ in range(args.rounds + 1):  # the first one warms up
        for name, (step, nets, options) in cases.items():
            start = time.perf_counter()
            step(*nets, real, z, y, **options).cpu()  # waits for the device
            seconds[name].append(time.perf_counter() - start)
    medians = {name: statistics.median(times[1:]) for name, times in seconds.items()}
    sizes = f"{args.classes} classes, width {args.width}, batch {args.batch_size}, {args.rounds} rounds"
    print(f"{sizes}, {device}, {torch.get_num_threads()} threads, torch {torch.__version__}")
    for name, median in medians.items():
        ratio = medians["obvious loop"] / median
        print(f"{name:24} {median:8.4f} s/step {args.batch_size / median:8.1f} images/s {ratio:6.2f}x")


if __name__ == "__main__":
    main()
