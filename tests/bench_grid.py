"""Ways for the cells of the stability grid to share a machine: cell-steps a second, in one interleaved run.

    OMP_NUM_THREADS=1 python tests/bench_grid.py             # one thread a process
    python tests/bench_grid.py --size 64 --width 64 --batch-size 64 --steps 3 --gpu 0

All cells are bn_gd with Adam and differ in their seeds, which every way can do. The median over the rounds;
pictures are ready in memory. `graphs` needs a GPU.
"""

import argparse
import multiprocessing
import sys
from functools import partial
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import torch
import torch.nn.functional as F
from interleave import median_seconds
from torch.func import functional_call, grad, stack_module_state, vmap

import stability_grid as grid
from data import runs


def make(seed, args, device, optimizer=True):
    """One cell of the script: G, D and, unless not wanted, their optimizers."""
    G = grid.Generator(args.size, args.width, args.z_dim)
    D = grid.Discriminator(args.size, args.width, bn=False)
    for net, stream in ((G, grid.INIT_G), (D, grid.INIT_D)):
        grid.init_weights(net, grid.torch_rng(seed, stream))
        net.to(device, memory_format=torch.channels_last)
    optimizers = [grid.make_optimizer(net.parameters()) for net in (G, D)] if optimizer else []
    return [G, D, *optimizers]


def draw(cells, args, device):
    """Pictures [cells, B, 3, size, size] and z [cells, B, z_dim]: what they are does not matter here."""
    real = torch.rand(cells, args.batch_size, args.size, args.size, 3, device=device) * 2 - 1
    return real.permute(0, 1, 4, 2, 3), torch.rand(cells, args.batch_size, args.z_dim, device=device) * 2 - 1


def one_after_another(args, device):
    """Each cell makes all its steps before the next one begins."""
    cells = [make(k, args, device) for k in range(args.cells)]
    real, z = draw(args.cells, args, device)

    def run():
        for k, cell in enumerate(cells):
            for _ in range(args.steps):
                grid.train_step(*cell, real[k], z[k])

    return run


def side_by_side(args, device):
    """As the script does it: at each step every cell makes one."""
    cells = [make(k, args, device) for k in range(args.cells)]
    real, z = draw(args.cells, args, device)

    def run():
        for _ in range(args.steps):
            for k, cell in enumerate(cells):
                grid.train_step(*cell, real[k], z[k])

    return run


def work(args, device, cells, threads, start, end):
    torch.set_num_threads(threads)
    runs.set_arithmetic(tf32=True)
    args.cells = cells
    run = side_by_side(args, device)
    run()
    while True:  # until the benchmark ends, and with it its daemons
        start.wait()
        run()
        if device.type == "cuda":
            torch.cuda.synchronize()  # the parent's would not wait for this process
        end.wait()


def two_processes(args, device):
    """Half of the cells in each of two processes, as under torchrun."""
    context = multiprocessing.get_context("spawn")
    start, end = context.Barrier(3), context.Barrier(3)
    for cells in (args.cells // 2, args.cells - args.cells // 2):
        context.Process(
            target=work, args=(args, device, cells, torch.get_num_threads(), start, end), daemon=True
        ).start()

    def run():
        start.wait()
        end.wait()

    return run


def stack_weights(copies):
    """One network in several copies -> a list of (module, stacked weight, stacked bias), or of (module,)."""
    net = []
    for modules in zip(*copies):
        if not list(modules[0].parameters()):
            net.append((modules[0],))
            continue
        join = torch.stack if isinstance(modules[0], torch.nn.Linear) else torch.cat
        weight, bias = join([m.weight for m in modules]), join([m.bias for m in modules])
        net.append((modules[0], weight.detach().requires_grad_(), bias.detach().requires_grad_()))
    return net


def forward_grouped(net, x, cells):
    """A net of stack_weights at x [cells, B, features]; between convolutions [B, cells * channels, H, W]."""
    for module, *stacked in net:
        if isinstance(module, torch.nn.Linear):
            weight, bias = stacked
            x = torch.baddbmm(bias[:, None], x, weight.mT)
        elif isinstance(module, torch.nn.Unflatten):
            x = x.unflatten(2, module.unflattened_size).transpose(0, 1).flatten(1, 2)
            x = x.contiguous(memory_format=torch.channels_last)
        elif isinstance(module, torch.nn.ConvTranspose2d):
            x = F.conv_transpose2d(x, *stacked, stride=2, padding=2, output_padding=1, groups=cells)
        elif isinstance(module, torch.nn.Conv2d):
            x = F.conv2d(x, *stacked, stride=2, padding=2, groups=cells)
        elif isinstance(module, torch.nn.Flatten) and x.dim() == 4:
            x = x.unflatten(1, (cells, -1)).transpose(0, 1).flatten(2)
        elif isinstance(module, torch.nn.Flatten):
            x = x.flatten(1)
        else:
            x = module(x)
    return x


def grouped(args, device):
    """All cells as one network: convolutions in groups, one a cell; linear layers as batched products."""
    cells = [make(k, args, device, False) for k in range(args.cells)]
    real, z = draw(args.cells, args, device)
    G, D = (stack_weights(copies) for copies in zip(*cells))
    opt_g, opt_d = (grid.make_optimizer([p for _, *stacked in net for p in stacked]) for net in (G, D))
    real = real.transpose(0, 1).flatten(1, 2).contiguous(memory_format=torch.channels_last)

    def run():
        for _ in range(args.steps):
            fake = forward_grouped(G, z, args.cells)
            d_real = forward_grouped(D, real, args.cells)
            d_fake = forward_grouped(D, fake.detach(), args.cells)
            opt_d.zero_grad()
            (0.5 * (d_real - 1).square().mean(1) + 0.5 * d_fake.square().mean(1)).sum().backward()
            opt_d.step()
            frozen = [(module, *(p.detach() for p in stacked)) for module, *stacked in D]
            opt_g.zero_grad()
            (0.5 * (forward_grouped(frozen, fake, args.cells) - 1).square().mean(1)).sum().backward()
            opt_g.step()

    return run


def vmapped(args, device):
    """torch.func.vmap over cells with stacked weights."""
    cells = [make(k, args, device, False) for k in range(args.cells)]
    real, z = draw(args.cells, args, device)
    nets = [cell[:2] for cell in cells]
    G, _ = stack_module_state([g for g, _ in nets])
    D, _ = stack_module_state([d for _, d in nets])
    optimizers = [grid.make_optimizer(params.values()) for params in (G, D)]
    for net in nets[0]:
        for module in net:
            if hasattr(module, "inplace"):
                module.inplace = False

    def d_loss(d, real, fake):
        d_real, d_fake = (functional_call(nets[0][1], d, (x,)) for x in (real, fake))
        return grid.discriminator_loss(d_real, d_fake)

    def g_loss(g, d, z):
        return grid.generator_loss(functional_call(nets[0][1], d, (functional_call(nets[0][0], g, (z,)),)))

    def update(params, grads, optimizer):
        for name, p in params.items():
            p.grad = grads[name]
        optimizer.step()

    def run():  # G runs twice a step: vmap keeps no graph between its calls
        for _ in range(args.steps):
            with torch.no_grad():
                fake = vmap(lambda g, z: functional_call(nets[0][0], g, (z,)))(G, z)
            update(D, vmap(grad(d_loss))(D, real, fake), optimizers[1])
            update(G, vmap(grad(g_loss))(G, D, z), optimizers[0])

    return run


def graphs(args, device):
    """A captured step of each cell, replayed on a stream of its own. Only on a GPU."""
    cells = [make(k, args, device) for k in range(args.cells)]
    real, z = draw(args.cells, args, device)
    for cell in cells:
        for optimizer in cell[2:]:
            optimizer.param_groups[0]["capturable"] = True
    streams = [torch.cuda.Stream() for _ in cells]
    captured = []
    for k, cell in enumerate(cells):
        with torch.cuda.stream(streams[k]):
            for _ in range(3):  # warm up, as capture demands
                grid.train_step(*cell, real[k], z[k])
        torch.cuda.synchronize()
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph, stream=streams[k]):
            grid.train_step(*cell, real[k], z[k])
        captured.append(graph)

    def run():
        for _ in range(args.steps):
            for graph, stream in zip(captured, streams):
                with torch.cuda.stream(stream):
                    graph.replay()

    return run


WAYS = (one_after_another, side_by_side, two_processes, grouped, vmapped, graphs)


def main():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    for name, value in dict(cells=8, size=32, width=16, z_dim=64, batch_size=16, steps=5, rounds=5).items():
        add(f"--{name.replace('_', '-')}", type=int, default=value)
    add("--gpu", type=int, default=-1)
    add("--ways", default=",".join(way.__name__ for way in WAYS))
    args = parser.parse_args()
    device = runs.pick_device(args.gpu)
    runs.set_arithmetic(tf32=True)

    def finish(run):
        run()
        if device.type == "cuda":
            torch.cuda.synchronize()

    ways = {}
    for way in WAYS:
        if way.__name__ in args.ways.split(",") and (way is not graphs or device.type == "cuda"):
            ways[way.__name__] = partial(finish, way(args, device))
    medians = median_seconds(ways, args.rounds)
    print(f"{vars(args)}\ntorch {torch.__version__}, {torch.get_num_threads()} threads a process, {device}")
    base = next(iter(medians.values()))
    for name, seconds in medians.items():
        speed = args.cells * args.steps / seconds
        print(f"{name:20}{speed:10.1f} cell-steps/s {base / seconds:6.2f}x")


if __name__ == "__main__":
    main()
