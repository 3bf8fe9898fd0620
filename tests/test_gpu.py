"""What only a GPU can show. Without one these tests are skipped; `pytest -m gpu` runs nothing else."""

import os
import shutil
import subprocess
import sys
import threading
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import same
from PIL import Image

import gaussian_mixture
import lsgan_cond_chars
import lsgan_scenes
import stability_grid
from data import score

ROOT = Path(__file__).parent.parent
pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU"),
    pytest.mark.filterwarnings("ignore"),  # the compiler warns of its own doings
]
SMALL = {
    "lsgan_scenes": "--size 32 --width 16 --z-dim 32 --batch-size 32 --limit 400",
    "lsgan_cond_chars": "--classes 10 --width 32 --z-dim 32 --batch-size 32",
    "gaussian_mixture": "--seeds 2 --measure-every 100",
    "stability_grid": "--size 32 --width 16 --z-dim 32 --batch-size 32 --seeds 1 --sample-every 100",
}


def run(script, *flags, folder):
    """The script's small run in a process of its own; what it printed."""
    command = [sys.executable, ROOT / f"{script}.py", *SMALL[script].split(), *map(str, flags)]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def state(path):
    """A checkpoint; its log without the last two columns, which are times."""
    checkpoint = torch.load(path, map_location="cpu", weights_only=True)
    checkpoint["log"] = [row.split(",")[:-2] for row in checkpoint["log"]]
    return checkpoint


@pytest.mark.parametrize("script", SMALL)
def test_200_steps_in_float32(script, tmp_path):
    assert "cuda" in run(script, "--steps", 200, "--gpu", 0, folder=tmp_path)


@pytest.mark.parametrize("flag", ["--amp", "--compile", "--no-tf32"])
@pytest.mark.parametrize("script", ["lsgan_scenes", "lsgan_cond_chars"])
def test_200_steps_with(script, flag, tmp_path):
    """They do not compute what plain steps do, but nearly so: the first step's losses agree."""
    if flag == "--compile" and shutil.which("g++") is None:
        pytest.skip("torch.compile needs a compiler")
    found = {}
    for out, flags in (("plain", []), ("other", [flag])):
        run(script, "--steps", 200, "--gpu", 0, *flags, "--out", out, folder=tmp_path)
        found[out] = state(tmp_path / out / "last.pt")
    assert not same(found["plain"]["G"], found["other"]["G"])
    first = [[float(value) for value in found[out]["log"][1][1:3]] for out in ("plain", "other")]
    assert first[0] == pytest.approx(first[1], rel=0.05)  # d_loss and g_loss of step 1


@pytest.mark.parametrize("script", ["lsgan_scenes", "lsgan_cond_chars"])
@pytest.mark.parametrize("flags", ["--no-amp", "--amp", "--ema 0.9"])
def test_killed_and_resumed_equals_uninterrupted(script, flags, tmp_path):
    flags = *flags.split(), "--steps", 400, "--save-every", 50, "--log-every", 50, "--gpu", 0
    run(script, *flags, "--out", "whole", folder=tmp_path)
    command = [
        sys.executable,
        ROOT / f"{script}.py",
        *SMALL[script].split(),
        *map(str, flags),
        "--out",
        "run",
    ]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT}  # no terminal: it prints lines, no bar
    victim = subprocess.Popen(command, cwd=tmp_path, text=True, **pipes)
    too_long = threading.Timer(300, victim.kill)
    too_long.start()
    for line in victim.stdout:
        if line.startswith("step 150 "):
            break
    time.sleep(0.05)
    victim.kill()
    victim.communicate()
    too_long.cancel()
    assert 0 < state(tmp_path / "run/last.pt")["step"] < 400
    run(script, "--resume", "run/last.pt", "--gpu", 0, folder=tmp_path)
    assert same(state(tmp_path / "run/last.pt"), state(tmp_path / "whole/last.pt"))


@pytest.mark.parametrize(
    "script, more",
    [
        ("lsgan_scenes", "--augment 1"),
        ("lsgan_scenes", "--amp --ema 0.9"),
        ("lsgan_cond_chars", "--no-amp"),
        ("lsgan_cond_chars", "--amp"),
        ("gaussian_mixture", ""),
    ],
)
def test_a_graph_computes_what_plain_steps_do(script, more, tmp_path):
    for flag in ("--graph", "--no-graph"):
        flags = "--steps", 100, "--gpu", 0, *more.split(), flag, "--out", flag.strip("-")
        run(script, *flags, folder=tmp_path)
    found = [torch.load(tmp_path / out / "last.pt", weights_only=True) for out in ("graph", "no-graph")]
    for name in {"G", "D", "ema"} & found[0].keys():
        assert same(found[0][name], found[1][name])


def test_a_run_goes_on_as_a_graph_and_without(tmp_path):
    run("lsgan_cond_chars", "--steps", 20, "--gpu", 0, "--out", "run", folder=tmp_path)
    resume = "lsgan_cond_chars", "--resume", "run/last.pt"
    for steps, flag in ((40, "--graph"), (60, "--no-graph")):
        run(*resume, "--steps", steps, flag, folder=tmp_path)
    run("lsgan_cond_chars", "--steps", 60, "--gpu", 0, "--out", "whole", folder=tmp_path)
    found, whole = state(tmp_path / "run/last.pt"), state(tmp_path / "whole/last.pt")
    assert same([found["G"], found["D"]], [whole["G"], whole["D"]])
    run(*resume, "--steps", 80, "--no-graph", "--gpu", -1, folder=tmp_path)
    assert state(tmp_path / "run/last.pt")["step"] == 80


def test_the_cells_of_a_grid_as_graphs(tmp_path):
    flags = "--gpu", 0, "--rmsprop", "torch", "--out"
    run("stability_grid", "--steps", 100, *flags, "grid", "--graph", folder=tmp_path)
    run("stability_grid", "--steps", 200, *flags, "grid", "--graph", "--resume", folder=tmp_path)
    run("stability_grid", "--steps", 200, *flags, "plain", folder=tmp_path)
    cells = sorted(path.parent.name for path in tmp_path.glob("plain/*/last.pt"))
    assert len(cells) == 8
    for cell in cells:
        found = [
            torch.load(tmp_path / out / cell / "last.pt", weights_only=True) for out in ("grid", "plain")
        ]
        assert same([found[0]["G"], found[0]["D"]], [found[1]["G"], found[1]["D"]]), cell


@pytest.mark.parametrize("graph", ["--graph", "--no-graph"])
def test_pictures_from_workers_give_the_weights_of_pictures_on_the_device(graph, tmp_path, monkeypatch):
    words = [*SMALL["lsgan_scenes"].split(), "--steps", "60", "--gpu", "0", graph, "--workers", "2", "--out"]
    lsgan_scenes.main([*words, str(tmp_path / "device")])
    monkeypatch.setattr(lsgan_scenes, "IN_MEMORY", 0)
    lsgan_scenes.main([*words, str(tmp_path / "workers")])
    found = [state(tmp_path / out / "last.pt") for out in ("device", "workers")]
    assert same([found[0]["G"], found[0]["D"]], [found[1]["G"], found[1]["D"]])


def one_step(device, dtype):
    """Weights after a step of a small scenes network, from the same weights, pictures and z on any device."""
    G, D = lsgan_scenes.Generator(32, 16, 32), lsgan_scenes.Discriminator(32, 16)
    lsgan_scenes.init_weights(G, torch.Generator().manual_seed(0))
    lsgan_scenes.init_weights(D, torch.Generator().manual_seed(1))
    G.to(device, dtype, memory_format=torch.channels_last)
    D.to(device, dtype, memory_format=torch.channels_last)
    opt_g, opt_d = (torch.optim.SGD(net.parameters(), lr=0.1) for net in (G, D))
    generator = torch.Generator().manual_seed(2)
    real = torch.rand(16, 3, 32, 32, generator=generator).to(device, dtype) * 2 - 1
    z = torch.rand(16, 32, generator=generator).to(device, dtype) * 2 - 1
    losses = lsgan_scenes.train_step(G, D, opt_g, opt_d, real, z)
    return [tensor.detach().cpu().double() for tensor in (losses, *G.parameters(), *D.parameters())]


def test_a_step_on_the_gpu_equals_one_on_the_cpu(arithmetic):
    torch.backends.cudnn.allow_tf32 = torch.backends.cuda.matmul.allow_tf32 = False
    exact = one_step("cpu", torch.float64)
    for on_cpu, on_gpu in zip(exact, one_step("cuda", torch.float64)):
        torch.testing.assert_close(on_gpu, on_cpu, rtol=1e-9, atol=1e-12)
    # In float32 a ReLU may change sides by the last bit, and a few weights with it; not the four means.
    torch.testing.assert_close(one_step("cuda", torch.float32)[0], exact[0], rtol=1e-3, atol=1e-5)


def test_a_checkpoint_goes_on_on_the_other_device(tmp_path):
    run("lsgan_scenes", "--steps", 20, "--gpu", 0, "--out", "run", folder=tmp_path)
    for steps, gpu in ((22, -1), (40, 0)):
        run("lsgan_scenes", "--resume", "run/last.pt", "--steps", steps, "--gpu", gpu, folder=tmp_path)
        adam = state(tmp_path / "run/last.pt")["opt_g"]["state"]
        assert {int(of_one["step"]) for of_one in adam.values()} == {steps}  # its state went along


@pytest.mark.parametrize("script", ["lsgan_scenes", "lsgan_cond_chars"])
def test_samples_are_those_of_the_cpu_within_two_grey_levels(script, tmp_path):
    run(script, "--steps", 200, "--gpu", 0, "--out", "run", folder=tmp_path)
    pictures = {}
    for gpu in (-1, 0):
        flags = "--sample", "run/last.pt", "--gpu", gpu, "--no-tf32", "--out", f"samples{gpu}"
        run(script, *flags, folder=tmp_path)
        pictures[gpu] = np.load(tmp_path / f"samples{gpu}/samples.npy").astype(int)
    assert np.abs(pictures[0] - pictures[-1]).max() <= 2


@pytest.mark.parametrize(
    "script, flags, calls",  # calls: of train_step in a step
    [
        (lsgan_scenes, "--log-every 50 --sample-every 50", 1),
        (lsgan_scenes, "--log-every 50 --sample-every 50 --augment 1 --amp", 1),
        (lsgan_cond_chars, "--log-every 50 --sample-every 50", 1),
        (lsgan_cond_chars, "--log-every 50 --sample-every 50 --amp", 1),
        (gaussian_mixture, "--measure-every 50", 1),
        (stability_grid, "--sample-every 50", 8),
    ],
)
def test_a_plain_step_never_waits_for_the_gpu(script, flags, calls, tmp_path, monkeypatch):
    train_step, made = script.train_step, []

    def watched(*args, **settings):
        step = len(made) // calls + 1
        made.append(1)
        # From the third step on; a step without a log row begins and ends in this mode.
        torch.cuda.set_sync_debug_mode("error" if 3 <= step < 40 else "default")
        return train_step(*args, **settings)

    monkeypatch.setattr(script, "train_step", watched)
    words = [*SMALL[script.__name__].split(), *flags.split()]
    try:
        script.main([*words, "--steps", "50", "--gpu", "0", "--out", str(tmp_path / "run")])
    finally:
        torch.cuda.set_sync_debug_mode("default")
    assert len(made) == 50 * calls


def test_two_processes_on_one_gpu(tmp_path):
    """Their mean gradient is that of one process with both halves, here of D without batch normalization."""
    program = """
import os, torch, torch.distributed as dist
from data import runs
dist.init_process_group("gloo")
rank = dist.get_rank()
torch.manual_seed(0)
net = torch.nn.Linear(3, 1).cuda()
torch.nn.init.constant_(net.weight, 0.5)
opt = torch.optim.SGD(net.parameters(), lr=1.0)
opt.register_step_pre_hook(runs.average_gradients)
x = torch.arange(12.0).view(4, 3).cuda()
net(x[2 * rank : 2 * rank + 2]).square().mean().backward()
opt.step()
whole = torch.nn.Linear(3, 1).cuda()
torch.nn.init.constant_(whole.weight, 0.5)
whole.bias.data.copy_(net.bias.data + net.bias.grad)
whole(x).square().mean().backward()
torch.testing.assert_close(net.weight.grad, whole.weight.grad)
"""
    (tmp_path / "two.py").write_text(program)
    command = [
        sys.executable,
        "-m",
        "torch.distributed.run",
        "--standalone",
        "--local-addr",
        "127.0.0.1",  # the machine's own name need not be known to it
        "--nproc-per-node",
        "2",
        "two.py",
    ]
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "GLOO_SOCKET_IFNAME": "lo"}
    subprocess.run(command, cwd=tmp_path, env=environment, check=True, timeout=300)


def test_score_on_the_gpu(tmp_path):
    run("lsgan_scenes", "--steps", 20, "--gpu", 0, "--out", "run", folder=tmp_path)
    flags = "--sample", "run/last.pt", "--n", 300, "--gpu", 0, "--out", "samples"
    run("lsgan_scenes", *flags, folder=tmp_path)
    score.main([str(tmp_path / "samples/samples.npy"), "--data", "rooms", "--extractor", "random"])


def test_a_grid_of_one_seed_on_labelled_pictures(tmp_path):
    """1,200 of them, as the classifier has 128 features."""
    random = np.random.default_rng(0)
    for name, contrast in (("flat", 10), ("noisy", 200)):
        (tmp_path / "pictures" / name).mkdir(parents=True)
        for i in range(600):
            pixels = random.integers(contrast, size=(32, 32, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(tmp_path / "pictures" / name / f"{i}.png")
    flags = "--data", "pictures", "--settings", "bn", "--optimizers", "adam", "--steps", 100, "--gpu", 0
    printed = run("stability_grid", *flags, "--out", "grid", folder=tmp_path)
    assert "classifier" in printed
    assert (tmp_path / "grid/table.md").read_text().count("bn adam") == 2  # ls, sigmoid
