"""The training step of lsgan_scenes.py against the obvious loop, on a CPU (on a GPU: bench_gpu.py).

    OMP_NUM_THREADS=1 python tests/bench_scenes.py --size 112 --width 64 --batch-size 64 --rounds 5

The obvious loop is the one that tutorials write, on the same networks: two G forwards, D's weight gradients
computed in the G step and thrown away, contiguous memory, Adam as PyTorch has it by default. The ways take
turns; medians.
"""

import argparse
import sys
from functools import partial
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import torch
from interleave import median_seconds

import lsgan_scenes as scenes


def obvious_step(G, D, opt_g, opt_d, real, z, amp):
    autocast = torch.autocast(real.device.type, torch.bfloat16, enabled=amp)
    with autocast:
        d_real, d_fake = D(real), D(G(z).detach())
    opt_d.zero_grad()
    scenes.discriminator_loss(d_real, d_fake).backward()
    opt_d.step()
    with autocast:
        d_fake = D(G(z))
    opt_g.zero_grad()
    scenes.generator_loss(d_fake).backward()
    opt_g.step()


def make(args, device, ours):
    nets = scenes.Generator(args.size, args.width), scenes.Discriminator(args.size, args.width)
    memory_format = torch.channels_last if ours else torch.contiguous_format
    for net, stream in zip(nets, (scenes.INIT_G, scenes.INIT_D)):
        scenes.init_weights(net, scenes.torch_rng(0, stream))
        net.to(device, memory_format=memory_format)
    settings = {"lr": 1e-3, "betas": (0.5, 0.999)} | ({"fused": True} if ours else {})
    return *nets, *(torch.optim.Adam(net.parameters(), **settings) for net in nets)


def main():
    parser = argparse.ArgumentParser()
    for flag, value in ("--size", 112), ("--width", 64), ("--batch-size", 64), ("--rounds", 5):
        parser.add_argument(flag, type=int, default=value)
    args = parser.parse_args()
    device = torch.device("cpu")
    z = scenes.noise(args.batch_size, 1024, 0, scenes.Z, 1)
    pictures = torch.randint(256, (args.batch_size, args.size, args.size, 3), dtype=torch.uint8)
    real = pictures.permute(0, 3, 1, 2) / 127.5 - 1  # channels_last
    copied = real.contiguous()
    ways = {}
    for name, amp in (("float32", False), ("bfloat16", True)):
        ways[f"ours, {name}"] = partial(scenes.train_step, *make(args, device, True), real, z, amp=amp)
        ways[f"obvious, {name}"] = partial(obvious_step, *make(args, device, False), copied, z, amp)
    medians = median_seconds(ways, args.rounds)
    print(f"{args.size}x{args.size}, width {args.width}, batch {args.batch_size}", end="")
    print(f", {torch.get_num_threads()} threads")
    print("| step | images/s | against obvious, float32 |\n|---|---|---|")
    for name, median in medians.items():
        print(f"| {name} | {args.batch_size / median:.0f} | {medians['obvious, float32'] / median:.2f}x |")


if __name__ == "__main__":
    main()
