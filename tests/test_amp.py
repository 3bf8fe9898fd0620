"""bench_amp.py: that its bfloat16 by rounding is what --amp computes."""

import bench_amp
import pytest
import torch

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


def test_rounding_is_what_autocast_does():
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
    torch.testing.assert_close(rounded[0], amp[0], rtol=0.02, atol=0.002)


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
def test_table(flag, tmp_path, call):
    tiny = "--size 16 --width 4 --z-dim 8 --batch-size 8 --limit 256 --steps 2 --gpu -1".split()
    ours = "--n", 200, "--seeds", 0, "--runs", tmp_path / "runs"
    code, out, _ = call(bench_amp.main, *tiny, *ours, *flag)
    assert code == 0
    assert out.splitlines()[-2].startswith("| float32 | ")
    assert out.splitlines()[-1].startswith("| bfloat16 | ")


def test_bad_input_is_refused_in_one_line(tmp_path, call):
    for flags in (["--data", tmp_path / "nowhere"], ["--seeds", "x"], ["--unknown", 1]):
        code, _, err = call(bench_amp.main, *flags, "--gpu", -1, "--steps", 1, "--runs", tmp_path / "runs")
        assert code == 2
        assert "error: " in err
        assert err.count("\n") == 1
