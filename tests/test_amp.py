"""bench_amp.py: that its bfloat16 by rounding is what --amp computes, layer by layer."""

import bench_amp
import pytest
import torch
from conftest import at_call

import lsgan_scenes as scenes


def networks():
    G, D = scenes.Generator(32, 8, 16), scenes.Discriminator(32, 8)
    for net, seed in ((G, 0), (D, 1)):
        scenes.init_weights(net, torch.Generator().manual_seed(seed))
    return G, D


def gradients(G, D, real, z, amp, rounded):
    """The losses of a step, and the gradients of all weights, in one vector each."""
    opt_g, opt_d = (torch.optim.SGD(net.parameters(), lr=0.0) for net in (G, D))
    if rounded:
        with bench_amp.Bfloat16():
            losses = scenes.train_step(G, D, opt_g, opt_d, real, z)
    else:
        losses = scenes.train_step(G, D, opt_g, opt_d, real, z, amp=amp)
    return losses, torch.cat([p.grad.flatten() for p in G.parameters()])


@pytest.mark.parametrize(
    "make_layer, shape",
    [
        (lambda: torch.nn.Conv2d(4, 8, 5, 2, 2), (2, 4, 8, 8)),
        (lambda: torch.nn.ConvTranspose2d(4, 8, 3, 2, 1, 1), (2, 4, 8, 8)),
        (lambda: torch.nn.Linear(16, 8), (4, 16)),
    ],
    ids=["conv", "deconv", "linear"],
)
def test_a_layer_is_rounded_as_by_autocast(make_layer, shape):
    layer = make_layer()
    x = torch.randn(shape, generator=torch.Generator().manual_seed(0), requires_grad=True)
    found = []
    for mode in (torch.autocast("cpu", torch.bfloat16), bench_amp.Bfloat16()):
        with mode:
            y = layer(x).float()
        found.append((y, *torch.autograd.grad(y.square().sum(), [x, layer.weight])))
    for by_autocast, by_rounding in zip(*found):
        unit = 2**-7 * by_autocast.abs().max()  # bfloat16 has 8 bits of mantissa
        assert (by_rounding - by_autocast).abs().max() <= 3 * unit  # kernels may round partial sums as well
    assert not torch.equal(found[1][0], layer(x))


def test_the_error_of_a_step_is_as_large_as_with_autocast():
    generator = torch.Generator().manual_seed(0)
    real = torch.rand(16, 3, 32, 32, generator=generator) * 2 - 1
    z = torch.rand(16, 16, generator=generator) * 2 - 1
    plain, amp, rounded = (
        gradients(*networks(), real, z, *how) for how in ((False, False), (True, False), (False, True))
    )
    error_of_amp = (amp[1] - plain[1]).norm()
    error_of_rounded = (rounded[1] - plain[1]).norm()
    assert 0.8 < error_of_rounded / error_of_amp < 1.25
    assert not torch.equal(rounded[0], plain[0])


def test_gradients_are_rounded_too():
    x = torch.tensor([1.0, 2.0], requires_grad=True)
    (bench_amp.Rounded.apply(x) * (1 + 2**-12)).sum().backward()
    assert x.grad.tolist() == [1, 1]  # bfloat16 has 8 bits of mantissa


def test_last_layer_stays_in_float32():
    x, weight = torch.full((1, 1), 1 + 2**-12), torch.ones(1, 1)
    with bench_amp.Bfloat16():
        assert torch.nn.functional.linear(x, weight).item() == 1 + 2**-12
        assert torch.nn.functional.linear(x, weight.expand(2, 1))[0, 0].item() == 1


@pytest.mark.parametrize("flag", [[], ["--emulate"]])
def test_table(flag, tmp_path, call, monkeypatch):
    entered = at_call(monkeypatch, bench_amp.Bfloat16, "__enter__", 0, None)
    tiny = "--size 16 --width 4 --z-dim 8 --batch-size 8 --limit 256 --steps 2 --gpu -1".split()
    ours = "--n", 200, "--seeds", 0, "--runs", tmp_path / "runs"
    code, out, _ = call(bench_amp.main, *tiny, *ours, *flag)
    assert code == 0
    assert out.splitlines()[-2].startswith("| float32 | ")
    assert out.splitlines()[-1].startswith("| bfloat16 | ")
    assert len(entered) == (2 if flag else 0)  # steps


def test_bad_input_is_refused_in_one_line(tmp_path, call):
    for flags in (["--data", tmp_path / "nowhere"], ["--seeds", "x"], ["--unknown", 1]):
        code, _, err = call(bench_amp.main, *flags, "--gpu", -1, "--steps", 1, "--runs", tmp_path / "runs")
        assert code == 2
        assert "error: " in err
        assert err.count("\n") == 1
