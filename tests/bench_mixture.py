"""Seconds a seed and step: the batched network of gaussian_mixture.py against the plain loop over modules.

    python tests/bench_mixture.py            # CPU, one thread
    python tests/bench_mixture.py --gpu 0

Both train the least squares and the regular GAN with simultaneous updates at the authors' sizes, draws of z
and data included. The plain loop is what one writes first: model after model, nn.Linear, a forward pass
of D for each loss, gradients of D computed in G's backward pass and thrown away, Adam as it comes. On the CPU
the processor's time counts, so that other work on the machine disturbs little.
"""

import argparse
import sys
import time
from functools import partial
from pathlib import Path

import torch
import torch.nn.functional as F
from interleave import median_seconds
from torch import nn

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import gaussian_mixture as gm
from data import runs

LOSSES = ["ls", "sigmoid"]


def batched(seeds, device, change=lambda update: update):
    """Yields after each step of all models. change: what to make of the step, a function of real and z."""
    centres, weights, std = gm.make_mixture()
    target = gm.Mixture(centres.to(device), weights.to(device), std)
    models = list(seeds) * 2
    G, D = gm.Generator(len(models)), gm.Discriminator(len(models))
    gm.init_weights(G, [gm.torch_rng(seed, gm.INIT_G) for seed in models])
    gm.init_weights(D, [gm.torch_rng(seed, gm.INIT_D) for seed in models])
    G.to(device)
    D.to(device)
    opt_g = torch.optim.Adam(G.parameters(), 1e-3, betas=(0.5, 0.999), fused=True)
    opt_d = torch.optim.Adam(D.parameters(), 1e-4, betas=(0.5, 0.999), fused=True)
    update = change(partial(gm.train_step, G, D, opt_g, opt_d, losses=LOSSES))
    for real, z in gm.draw_batches(seeds, 0, 10**9, 256, target):
        update(real, z)
        yield


def mlp(n_in, n_out):
    return nn.Sequential(
        nn.Linear(n_in, 128), nn.Tanh(), nn.Linear(128, 128), nn.Tanh(), nn.Linear(128, n_out)
    )


def plain(device):
    """Yields after each step of one model of each loss."""
    models = []
    for loss in LOSSES:
        G, D = mlp(256, 2).to(device), mlp(2, 1).to(device)
        opt_g = torch.optim.Adam(G.parameters(), 1e-3, betas=(0.5, 0.999))
        opt_d = torch.optim.Adam(D.parameters(), 1e-4, betas=(0.5, 0.999))
        models.append((loss, G, D, opt_g, opt_d))
    centres = gm.make_mixture().centres.to(device)
    one, zero = torch.ones(512, 1, device=device), torch.zeros(512, 1, device=device)
    while True:
        for loss, G, D, opt_g, opt_d in models:
            cost = F.mse_loss if loss == "ls" else F.binary_cross_entropy_with_logits
            real = centres[torch.randint(8, (512,), device=device)]
            real = real + 0.01 * torch.randn(512, 2, device=device)
            fake = G(torch.randn(512, 256, device=device))
            g_loss = cost(D(fake), one)
            opt_g.zero_grad()
            g_loss.backward()
            d_loss = cost(D(real), one) + cost(D(fake.detach()), zero)
            opt_d.zero_grad()
            d_loss.backward()
            opt_g.step()
            opt_d.step()
        yield


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--gpu", type=int, default=-1, help="number of the GPU; -1: the CPU")
    parser.add_argument(
        "--seeds", type=int, nargs="+", default=[1, 10, 30], help="sizes of the batched network"
    )
    parser.add_argument("--rounds", type=int, default=15)
    args = parser.parse_args()
    device = runs.pick_device(args.gpu)
    if device.type == "cpu":
        torch.set_num_threads(1)

    clock = time.perf_counter if device.type == "cuda" else time.process_time
    steps = 10  # a round, so that each holds one draw of a chunk
    loops = {f"batched, {n} seeds": (n, batched(range(n), device)) for n in args.seeds}
    loops["plain loop"] = 1, plain(device)

    def run(loop):
        for _ in range(steps):
            next(loop)
        if device.type == "cuda":
            torch.cuda.synchronize()

    ways = {name: partial(run, loop) for name, (_, loop) in loops.items()}
    seconds = median_seconds(ways, args.rounds, clock, warm_up=2)
    medians = {name: seconds[name] / steps / n for name, (n, _) in loops.items()}
    print(f"{device}, {torch.get_num_threads()} threads, torch {torch.__version__}; medians of {args.rounds}")
    print("| way | ms a seed and step, both losses | 40,000 steps of ten seeds, minutes | against plain |")
    print("|---|---|---|---|")
    for name, median in medians.items():
        ratio = medians["plain loop"] / median
        print(f"| {name} | {1e3 * median:.2f} | {median * 400_000 / 60:.0f} | {ratio:.2f}x |")


if __name__ == "__main__":
    main()
