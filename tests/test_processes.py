"""Several processes take the same steps as one."""

import multiprocessing

import torch
import torch.distributed as dist
from torch import nn

from data import runs
from lsgan_scenes import train_step

SERVER = multiprocessing.get_context("forkserver")
SERVER.set_forkserver_preload(["torch"])
STEPS, BATCH = 3, 4


def plain_networks():
    """G, D without batch normalization, as each process has its own statistics, and SGD: unlike Adam's, its
    steps are as long as the gradients. The inputs [steps, batch, features] of all steps."""
    torch.manual_seed(0)
    G = nn.Sequential(nn.Linear(3, 8), nn.Tanh(), nn.Linear(8, 5))
    D = nn.Sequential(nn.Linear(5, 8), nn.Tanh(), nn.Linear(8, 1), nn.Flatten(0))
    opt_g = torch.optim.SGD(G.parameters(), 0.3)
    opt_d = torch.optim.SGD(D.parameters(), 0.3)
    return G, D, opt_g, opt_d, torch.randn(STEPS, BATCH, 5), torch.randn(STEPS, BATCH, 3)


def one_of_two(rank, folder):
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{folder}/store", rank=rank, world_size=2)
    G, D, opt_g, opt_d, real, z = plain_networks()
    opt_g.register_step_pre_hook(runs.average_gradients)
    opt_d.register_step_pre_hook(runs.average_gradients)
    half = slice(rank * BATCH // 2, (rank + 1) * BATCH // 2)
    for step in range(STEPS):
        train_step(G, D, opt_g, opt_d, real[step, half], z[step, half])
    torch.save([*G.parameters(), *D.parameters()], f"{folder}/{rank}.pt")
    dist.destroy_process_group()


def test_two_processes_with_half_a_batch_each_step_like_one(tmp_path, monkeypatch):
    monkeypatch.setenv("GLOO_SOCKET_IFNAME", "lo")
    processes = [SERVER.Process(target=one_of_two, args=(rank, tmp_path)) for rank in range(2)]
    try:
        for process in processes:
            process.start()
        for process in processes:
            process.join(300)
    finally:
        for process in processes:
            process.kill()  # if one has died, the other waits for it
    assert [process.exitcode for process in processes] == [0, 0]

    G, D, opt_g, opt_d, real, z = plain_networks()
    start = [p.detach().clone() for p in (*G.parameters(), *D.parameters())]
    for step in range(STEPS):
        train_step(G, D, opt_g, opt_d, real[step], z[step])
    whole = [p.detach() for p in (*G.parameters(), *D.parameters())]
    for rank in range(2):
        for halves, one, before in zip(torch.load(tmp_path / f"{rank}.pt"), whole, start):
            moved = (one - before).abs().max()
            assert moved > 1e-3
            torch.testing.assert_close(halves, one, rtol=0, atol=1e-4 * moved.item())
