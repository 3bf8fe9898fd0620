"""lsgan_scenes.py against the paper, the authors' settings, and sums done by hand."""

import copy
import inspect
import math
import random
import re
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from conftest import contents, opened_with, same
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from torch import nn

import lsgan_scenes as scenes
from lsgan_scenes import Discriminator, Generator, discriminator_loss, generator_loss

TINY = "--size 16 --width 2 --z-dim 4 --batch-size 4 --limit 12 --gpu -1".split()
SMALL = {"size": 16, "width": 2}


# ---------------------------------------------------------------- networks
@pytest.mark.parametrize("net, count", [(Generator, 15_591_427), (Discriminator, 4_333_441)])
def test_parameter_count(net, count):
    with torch.device("meta"):
        assert sum(p.numel() for p in net().parameters()) == count


@pytest.mark.parametrize(
    "net, layers, shape",
    [
        (Generator, (nn.Unflatten, nn.ConvTranspose2d), (2, 1024)),
        (Discriminator, nn.Conv2d, (2, 3, 112, 112)),
    ],
)
def test_shapes_are_those_in_the_comments(net, layers, shape):
    commented = re.findall(r"# (\d+) x (\d+) x (\d+)", inspect.getsource(net))
    shapes = []
    x = torch.zeros(shape)
    for layer in net():
        x = layer(x)
        if isinstance(layer, layers):
            shapes.append(x.shape)
    assert [(2, *map(int, comment)) for comment in commented] == shapes
    assert x.shape == ((2, 3, 112, 112) if net is Generator else (2,))


@pytest.mark.parametrize("size, width, z_dim", [(16, 2, 4), (48, 3, 5), (128, 8, 7)])
def test_other_sizes(size, width, z_dim):
    images = Generator(size, width, z_dim)(torch.zeros(2, z_dim))
    assert images.shape == (2, 3, size, size)
    assert Discriminator(size, width)(images).shape == (2,)


def test_discriminator_is_unbounded():
    torch.manual_seed(0)
    D = Discriminator(**SMALL)
    linear = D[-2]
    assert isinstance(linear, nn.Linear) and isinstance(D[-1], nn.Flatten)
    x = torch.randn(8, 3, 16, 16)
    before = D(x)
    with torch.no_grad():
        linear.weight *= 1000
        linear.bias *= 1000
    assert torch.allclose(D(x), 1000 * before)
    assert D(x).min() < -1 and D(x).max() > 1


def turn(tensor):
    """By 180 degrees."""
    return tensor.flip(-1, -2)


def tf_conv(x, weight, stride):
    """tf.nn.conv2d with SAME padding: what is odd about the padding goes after, not before."""
    kernel, n = weight.shape[-1], x.shape[-1]
    total = max((math.ceil(n / stride) - 1) * stride + kernel - n, 0)
    before, after = total // 2, total - total // 2
    return F.conv2d(F.pad(x, (before, after, before, after)), weight, stride=stride)


def tf_deconv(x, weight, stride):
    """tf.nn.conv2d_transpose with SAME padding: by definition the gradient of tf_conv."""
    n = x.shape[-1] * stride
    image = torch.zeros(len(x), weight.shape[1], n, n, dtype=x.dtype, requires_grad=True)
    return torch.autograd.grad(tf_conv(image, weight, stride), image, x)[0]


@pytest.mark.parametrize("net, tf", [(Generator(**SMALL), tf_deconv), (Discriminator(**SMALL), tf_conv)])
def test_padding_is_tensorflows_turned_by_180_degrees(net, tf):
    torch.manual_seed(0)
    layers = [m for m in net if isinstance(m, (nn.Conv2d, nn.ConvTranspose2d))]
    assert len(layers) == (7 if tf is tf_deconv else 4)
    for layer in layers:
        layer.double()
        layer.bias.data.zero_()
        for n in (2, 6, 8):
            x = torch.randn(2, layer.in_channels, n, n, dtype=torch.float64)
            ours, theirs = turn(layer(turn(x))), tf(x, turn(layer.weight), layer.stride[0])
            assert torch.allclose(ours, theirs, rtol=0, atol=1e-12)


def test_initial_weights():
    nets = Generator(), Discriminator()
    for net, stream in zip(nets, (scenes.INIT_G, scenes.INIT_D)):
        scenes.init_weights(net, scenes.torch_rng(0, stream))
    for layer in (layer for net in nets for layer in net if hasattr(layer, "weight")):
        weight = layer.weight.detach()
        assert not layer.bias.any()
        if isinstance(layer, nn.BatchNorm2d):
            assert (weight == 1).all()
            assert (layer.eps, layer.momentum) == (1e-5, 0.1)  # TensorFlow's decay 0.9
            continue
        noise = 4 * 0.02 / math.sqrt(weight.numel())
        assert abs(weight.mean()) < noise
        if isinstance(layer, nn.Conv2d):  # the deviation of a normal distribution cut at two sigma is 0.8796
            assert weight.abs().max() <= 0.04
            assert abs(weight.std() - 0.8796 * 0.02) < noise
        else:
            assert abs(weight.std() - 0.02) < noise
            assert weight.abs().max() > 0.04


@pytest.mark.parametrize("ema", [0, 0.9])
def test_a_run_begins_with_the_initial_weights_of_its_seed(call, tmp_path, ema):
    flags = *TINY, "--seed", 3, "--ema", ema, "--steps", 0, "--out", tmp_path / "run"
    assert call(scenes.main, *flags)[0] == 0
    saved = torch.load(tmp_path / "run/last.pt", weights_only=True)
    sizes = [saved["args"][name] for name in ("size", "width", "z_dim")]
    for name, net, stream in (
        ("G", Generator(*sizes), scenes.INIT_G),
        ("D", Discriminator(*sizes[:2]), scenes.INIT_D),
    ):
        scenes.init_weights(net, scenes.torch_rng(3, stream))
        assert same(saved[name], net.state_dict())
    assert scenes.INIT_G != scenes.INIT_D


def test_initial_weights_follow_from_the_seed_alone():
    def weights(seed):
        net = Discriminator(**SMALL)
        scenes.init_weights(net, scenes.torch_rng(seed, scenes.INIT_D))
        return nn.utils.parameters_to_vector(net.parameters())

    first = weights(0)
    torch.manual_seed(1234)
    assert torch.equal(first, weights(0))
    assert not torch.equal(first, weights(1))


# ---------------------------------------------------------------- loss
@pytest.mark.parametrize(
    "settings, d_loss, g_loss",
    [
        ({"a": 0, "b": 1, "c": 1}, 0.5 * (0 + 4) / 2 + 0.5 * (0 + 4) / 2, 0.5 * (1 + 1) / 2),
        ({"a": -1, "b": 1, "c": 0}, 0.5 * (0 + 4) / 2 + 0.5 * (1 + 9) / 2, 0.5 * (0 + 4) / 2),
    ],
)
def test_least_squares_by_hand(settings, d_loss, g_loss):
    d_real, d_fake = torch.tensor([1.0, 3.0]), torch.tensor([0.0, 2.0])
    assert discriminator_loss(d_real, d_fake, settings["a"], settings["b"]).item() == d_loss
    assert generator_loss(d_fake, settings["c"]).item() == g_loss


def test_mean_of_squares_not_square_of_means():
    answers = torch.tensor([-1.0, 1.0])  # mean 0, mean square 1
    assert discriminator_loss(answers, answers, a=0, b=0).item() == 1
    assert generator_loss(answers, c=0).item() == 0.5


def test_sigmoid_cross_entropy_by_hand():
    d_real = torch.tensor([0, math.log(3)], dtype=torch.float64)  # sigmoid: 1/2, 3/4
    d_fake = -d_real  # 1/2, 1/4
    entropy = -(math.log(1 / 2) + math.log(3 / 4)) / 2
    assert discriminator_loss(d_real, d_fake, loss="sigmoid").item() == pytest.approx(2 * entropy, rel=1e-12)
    assert generator_loss(d_fake, loss="sigmoid").item() == pytest.approx(
        -(math.log(1 / 2) + math.log(1 / 4)) / 2, rel=1e-12
    )
    far = torch.tensor([1e4])  # no overflow
    assert discriminator_loss(-far, far, loss="sigmoid").item() == 2e4


COUNTS = st.lists(st.tuples(st.integers(0, 9), st.integers(0, 9)), min_size=2, max_size=8).filter(
    lambda pairs: all(sum(column) for column in zip(*pairs))
)


class Densities:
    """p_data and p_g on a few points, as samples: each point as often as its two counts say."""

    def __init__(self, pairs):
        self.counts = torch.tensor([pair for pair in pairs if sum(pair)]).T
        self.p_data, self.p_g = self.counts / self.counts.sum(1, keepdim=True).double()

    def samples(self, D):
        return (D.repeat_interleave(count) for count in self.counts)

    def optimal(self, a, b):
        return (b * self.p_data + a * self.p_g) / (self.p_data + self.p_g)  # Eq. 5


@given(COUNTS, st.floats(-3, 3), st.floats(-3, 3))
@settings(max_examples=30, deadline=None)
def test_equation_5_is_the_best_discriminator(pairs, a, b):
    points = Densities(pairs)
    D = torch.zeros(len(points.p_data), dtype=torch.float64, requires_grad=True)
    (slope,) = torch.autograd.grad(discriminator_loss(*points.samples(D), a, b), D, create_graph=True)
    (curvature,) = torch.autograd.grad(slope.sum(), D)  # no answer influences another's slope
    assert (curvature > 0).all()
    best = D - slope / curvature  # the loss is quadratic: one step of Newton's method
    assert torch.allclose(best, points.optimal(a, b), atol=1e-12)


@given(COUNTS, st.floats(-3, 3))
@settings(max_examples=30, deadline=None)
def test_equation_7_is_the_pearson_divergence(pairs, c):
    points = Densities(pairs)
    a, b = c - 1, c + 1  # b - c = 1, b - a = 2
    on_real, on_fake = points.samples(points.optimal(a, b))
    ours = 2 * (generator_loss(on_real, c) + generator_loss(on_fake, c))
    both = points.p_data + points.p_g
    pearson = ((2 * points.p_g - both) ** 2 / both).sum()
    assert ours.item() == pytest.approx(pearson.item(), abs=1e-12)


@pytest.mark.parametrize("loss", ["LS", -1.0])  # -1.0: a third argument too many, meant as a target
def test_an_unknown_loss_is_no_other_loss(loss):
    answers = torch.zeros(2)
    with pytest.raises(ValueError, match="must be ls or sigmoid"):
        discriminator_loss(answers, answers, 0.0, 1.0, loss)
    with pytest.raises(ValueError, match="must be ls or sigmoid"):
        generator_loss(answers, 1.0, loss)


def test_balance_as_the_readme_says():
    half = torch.full((4,), 0.5)  # Eq. 5 with p_data = p_g and 0/1/1
    assert discriminator_loss(half, half).item() == 0.25
    assert generator_loss(half).item() == 0.125
    readme = (Path(__file__).parent.parent / "README.md").read_text()
    assert "`d_loss` is 0.25 and `g_loss` is 0.125" in " ".join(readme.split())


# ---------------------------------------------------------------- training step
LOSSES = {
    "ls": {"loss": "ls", "a": 0.0, "b": 1.0, "c": 1.0},
    "ls-110": {"loss": "ls", "a": -1.0, "b": 1.0, "c": 0.0},
    "other targets": {"loss": "ls", "a": -0.5, "b": 2.0, "c": 0.25},
    "sigmoid": {"loss": "sigmoid", "a": 0.0, "b": 1.0, "c": 1.0},
}


def obvious_step(G, D, opt_g, opt_d, real, z, loss, a, b, c):
    """The step of every tutorial: G runs twice. Returns D's gradients, before the G step adds to them."""
    bce = F.binary_cross_entropy_with_logits
    d_real, d_fake = D(real), D(G(z).detach())
    ones, zeros = torch.ones_like(d_real), torch.zeros_like(d_real)
    if loss == "ls":
        d_loss = 0.5 * F.mse_loss(d_real, b * ones) + 0.5 * F.mse_loss(d_fake, a * ones)
    else:
        d_loss = bce(d_real, ones) + bce(d_fake, zeros)
    opt_d.zero_grad()
    d_loss.backward()
    d_grads = [p.grad.clone() for p in D.parameters()]
    opt_d.step()
    d_fake = D(G(z))
    g_loss = 0.5 * F.mse_loss(d_fake, c * ones) if loss == "ls" else bce(d_fake, ones)
    opt_g.zero_grad()
    g_loss.backward()
    opt_g.step()
    return d_grads, torch.stack([d_loss, g_loss]).detach()


def make_nets():
    nets = Generator(**SMALL, z_dim=4).double(), Discriminator(**SMALL).double()
    for net, stream in zip(nets, (scenes.INIT_G, scenes.INIT_D)):
        scenes.init_weights(net, scenes.torch_rng(0, stream))
    return *nets, *(torch.optim.Adam(net.parameters(), 1e-3, betas=(0.5, 0.999)) for net in nets)


@pytest.mark.parametrize("loss", LOSSES)
def test_step_equals_the_obvious_two_forward_loop(loss):
    ours, theirs = make_nets(), make_nets()
    torch.manual_seed(0)
    for step in range(1, 6):
        real, z = torch.rand(6, 3, 16, 16).double() * 2 - 1, torch.rand(6, 4).double() * 2 - 1
        report = scenes.train_step(*ours, real, z, **LOSSES[loss])
        d_grads, losses = obvious_step(*theirs, real, z, **LOSSES[loss])
        assert torch.allclose(report[:2], losses, rtol=1e-10)
        G, D = ours[:2]
        # D's gradients are those of its own step: the G step has added nothing
        for ours_, theirs_ in zip((p.grad for p in D.parameters()), d_grads):
            assert torch.allclose(ours_, theirs_, rtol=1e-9, atol=1e-14)
        for p, q in zip(G.parameters(), theirs[0].parameters()):
            assert torch.allclose(p.grad, q.grad, rtol=1e-9, atol=1e-14)
        for net, other in zip(ours[:2], theirs[:2]):
            for p, q in zip(net.parameters(), other.parameters()):
                assert torch.allclose(p, q, rtol=1e-9, atol=1e-9)  # a millionth of Adam's step
        assert all(p.requires_grad for p in D.parameters())
        assert G[2].num_batches_tracked == step  # the one difference: G's running statistics move once
        assert theirs[0][2].num_batches_tracked == 2 * step


@pytest.mark.parametrize("loss", ["ls", "sigmoid"])
def test_what_a_step_reports(loss):
    G, D, opt_g, opt_d = make_nets()
    real, z = torch.rand(6, 3, 16, 16).double() * 2 - 1, torch.rand(6, 4).double() * 2 - 1
    with torch.no_grad():
        d_real, d_fake = copy.deepcopy(D)(real), copy.deepcopy(D)(copy.deepcopy(G)(z))
    d_loss, g_loss, mean_real, mean_fake = scenes.train_step(G, D, opt_g, opt_d, real, z, loss=loss)
    assert torch.isclose(d_loss, discriminator_loss(d_real, d_fake, loss=loss))
    if loss == "sigmoid":
        d_real, d_fake = d_real.sigmoid(), d_fake.sigmoid()
    assert torch.isclose(mean_real, d_real.mean()) and torch.isclose(mean_fake, d_fake.mean())
    assert g_loss.isfinite() and not d_loss.requires_grad


@pytest.mark.slow  # the compiler takes a minute, and warns of its own doings
@pytest.mark.filterwarnings("ignore")
@pytest.mark.skipif(shutil.which("g++") is None, reason="torch.compile needs a compiler")
def test_compiled_networks_give_equal_losses():
    plain, compiled = make_nets(), make_nets()
    for net in compiled[:2]:
        net.compile()
    for step in range(1, 9):
        real = torch.from_numpy(scenes.rng(0, 9, step).random((6, 3, 16, 16))) * 2 - 1
        z = scenes.noise(6, 4, 0, scenes.Z, step).double()
        assert torch.allclose(
            scenes.train_step(*compiled, real, z), scenes.train_step(*plain, real, z), rtol=1e-6
        )


def test_amp_computes_layers_in_bfloat16_and_losses_in_float32():
    G, D, opt_g, opt_d = make_nets()
    G.float(), D.float()
    seen, in_g = [], []
    for layer in (G[0], G[-2]):
        layer.register_forward_hook(lambda layer, inputs, output: in_g.append(output.dtype))
    for layer in (D[0], D[-2]):
        layer.register_forward_hook(lambda layer, inputs, output: seen.append(output.dtype))
    report = scenes.train_step(G, D, opt_g, opt_d, torch.rand(6, 3, 16, 16), torch.rand(6, 4), amp=True)
    assert in_g == [torch.bfloat16] * 2
    assert seen == [torch.bfloat16, torch.float32] * 3 and report.dtype == torch.float32


# ---------------------------------------------------------------- augmentation
def pictures(n=6, size=16):
    return torch.rand(n, 3, size, size, generator=torch.Generator().manual_seed(0)) * 2 - 1


def numbers(n, **given):
    """Eight numbers a picture that change nothing at strength 1, but for those that are given."""
    values = {"brightness": 0.5, "saturation": 0.5, "contrast": 0.5, "flip": 0.9, "down": 0.5, "right": 0.5}
    values |= {"hole_y": 5.0, "hole_x": 5.0}  # outside of the picture
    values |= given
    return torch.tensor([list(values.values())] * n)


def test_augment_at_strength_0_changes_nothing():
    u = scenes.augment_numbers(200, 0, 1)[0]
    images = pictures(200)
    torch.testing.assert_close(scenes.augment(images, u, 0.0), images, rtol=0, atol=1e-6)
    assert not torch.allclose(scenes.augment(images, u, 1.0), images, atol=0.1)


def test_augment_passes_gradients_to_every_pixel_that_is_seen():
    images = pictures().requires_grad_()
    u = scenes.augment_numbers(6, 0, 1)[0]
    scenes.augment(images, u).square().sum().backward()
    assert torch.isfinite(images.grad).all()
    assert (images.grad.abs().sum((1, 2, 3)) > 0).all()  # every picture
    images.grad = None
    scenes.augment(
        images, numbers(6, down=0.995)
    ).sum().backward()  # two rows down: two rows leave the picture
    torch.testing.assert_close(images.grad[:, :, -2:], torch.zeros(6, 3, 2, 16))
    torch.testing.assert_close(images.grad[:, :, :-2], torch.ones(6, 3, 14, 16))


def test_augment_gradients_agree_with_differences():
    images = pictures(2, 8).double().requires_grad_()
    assert torch.autograd.gradcheck(
        lambda x: scenes.augment(x, scenes.augment_numbers(2, 0, 3)[0].double(), 0.5), images
    )


@pytest.mark.parametrize("u, pixels", [(0.0, -2), (0.25, -1), (0.5, 0), (0.75, 1), (0.999999, 2)])
def test_augment_shifts_by_whole_pixels_up_to_an_eighth(u, pixels):
    images = pictures()  # 16 x 16
    down, right = scenes.augment(images, numbers(6, down=u)), scenes.augment(images, numbers(6, right=u))
    expected = torch.zeros_like(images)
    if pixels >= 0:
        expected[:, :, pixels:] = images[:, :, : 16 - pixels]
    else:
        expected[:, :, :pixels] = images[:, :, -pixels:]
    torch.testing.assert_close(down, expected)
    turned = scenes.augment(images.transpose(2, 3), numbers(6, down=u)).transpose(2, 3)
    torch.testing.assert_close(right, turned)


def test_augment_shifts_in_all_directions_equally_often():
    u = scenes.augment_numbers(5000, 0, 1)[0]
    u[:, [0, 1, 2, 3, 6, 7]] = numbers(1)[:, [0, 1, 2, 3, 6, 7]]
    image = torch.zeros(5000, 3, 16, 16)
    image[:, :, 8, 8] = 1
    seen = scenes.augment(image, u)[:, 0].sum(0)
    # Colour is neutral here, so that the one white pixel stays white; it comes to 5 x 5 places.
    assert (seen[6:11, 6:11] > 130).all() and (seen[6:11, 6:11] < 270).all()  # 200 each
    assert seen.sum() == pytest.approx(5000, abs=1)


def test_augment_mirrors_half_of_the_pictures():
    images = pictures()
    torch.testing.assert_close(scenes.augment(images, numbers(6, flip=0.499)), images.flip(3))
    torch.testing.assert_close(scenes.augment(images, numbers(6, flip=0.501)), images)


def test_augment_colours_as_diffaugment_does():
    images = pictures()
    torch.testing.assert_close(scenes.augment(images, numbers(6, brightness=0.0)), images - 0.5)
    grey = scenes.augment(images, numbers(6, saturation=0.0))
    torch.testing.assert_close(grey, images.mean(1, keepdim=True).expand(6, 3, 16, 16))
    flat = scenes.augment(images, numbers(6, contrast=0.0))
    torch.testing.assert_close(flat.mean((1, 2, 3)), images.mean((1, 2, 3)))
    torch.testing.assert_close(flat.std((1, 2, 3)), images.std((1, 2, 3)) / 2)


def test_augment_at_half_strength_does_half_of_it():
    images = pictures()

    def half(**given):
        return scenes.augment(images, numbers(6, **given), 0.5)

    torch.testing.assert_close(half(brightness=0.0), images - 0.25)
    grey = images.mean(1, keepdim=True)
    torch.testing.assert_close(half(saturation=0.0), (grey + images) / 2)
    torch.testing.assert_close(half(contrast=0.0).std((1, 2, 3)), 0.75 * images.std((1, 2, 3)))
    torch.testing.assert_close(half(down=0.995)[:, :, 1:], images[:, :, :-1])  # one row instead of two
    torch.testing.assert_close(half(flip=0.249), images.flip(3))  # a quarter of the pictures
    torch.testing.assert_close(half(flip=0.251), images)
    hole = half(hole_y=0.5, hole_x=0.5) == 0
    assert hole[:, :, 6:10, 6:10].all() and hole.sum() == 6 * 3 * 4 * 4  # a quarter of the side


def test_augment_cuts_out_a_square_of_half_the_side():
    hole = scenes.augment(pictures(), numbers(6, hole_y=0.5, hole_x=0.5)) == 0
    expected = torch.zeros(16, 16, dtype=torch.bool)
    expected[4:12, 4:12] = True
    assert (hole == expected).all()
    assert (scenes.augment(pictures(), numbers(6, hole_y=0.0, hole_x=0.0)) == 0)[
        :, :, :4, :4
    ].all()  # cut off by the edge


def test_augment_is_a_function_of_seed_and_step():
    images = pictures()

    def seen(seed, step):
        return scenes.augment(images, scenes.augment_numbers(6, seed, step)[0])

    assert torch.equal(seen(0, 1), seen(0, 1))
    assert not torch.equal(seen(0, 1), seen(0, 2))
    assert not torch.equal(seen(0, 1), seen(1, 1))
    one, two = seen(0, 1)[:2]
    assert not torch.allclose(one - images[0], two - images[1], atol=0.1)  # each picture its own


def test_augment_of_a_batch_is_that_of_its_parts():
    """So several processes can share a batch."""
    images, u = pictures(), scenes.augment_numbers(6, 0, 1)[0]
    torch.testing.assert_close(scenes.augment(images, u)[2:4], scenes.augment(images[2:4], u[2:4]))


def test_augment_numbers_are_new_for_real_and_fake_and_every_step():
    u = scenes.augment_numbers(6, 0, 3)
    assert u.shape == (2, 6, 8) and u.min() >= 0 and u.max() < 1
    assert torch.equal(u, scenes.augment_numbers(6, 0, 3))
    others = u[0].flip(0), u[1], scenes.augment_numbers(6, 0, 4)[0], scenes.augment_numbers(6, 1, 3)[0]
    assert not any(torch.equal(u[0], other) for other in others)


def test_processes_share_the_random_numbers_of_a_step():
    args = scenes.parse_args(["--augment", "0.5", "--batch-size", "6"])
    device = torch.device("cpu")
    z, u = scenes.draw_noise(args, 3, slice(None), device)
    assert torch.equal(u, scenes.augment_numbers(6, 0, 3))
    halves = [scenes.draw_noise(args, 3, share, device) for share in (slice(0, 3), slice(3, 6))]
    assert torch.equal(torch.cat([half[0] for half in halves]), z)
    assert torch.equal(torch.cat([half[1] for half in halves], 1), u)
    for at_step_3, at_step_4 in zip((z, u), scenes.draw_noise(args, 4, slice(None), device)):
        assert not torch.equal(at_step_3, at_step_4)


def test_a_step_augments_real_and_fake_pictures(monkeypatch):
    """With numbers of their own; and G's gradient passes through."""
    seen, augment = [], scenes.augment

    def noted(images, u, strength):
        images = augment(images, u, strength)
        seen.append(images.detach().clone())
        return images

    monkeypatch.setattr(scenes, "augment", noted)
    G, D, opt_g, opt_d = make_nets()
    answered = []
    D.register_forward_pre_hook(lambda net, inputs: answered.append(inputs[0].detach().clone()))
    real, z = torch.rand(6, 3, 16, 16).double() * 2 - 1, torch.rand(6, 4).double() * 2 - 1
    u = scenes.augment_numbers(6, 0, 1).double()
    with torch.no_grad():
        fake = copy.deepcopy(G)(z)
    scenes.train_step(G, D, opt_g, opt_d, real, z, u=u, augment_strength=0.5)
    torch.testing.assert_close(seen, [augment(real, u[0], 0.5), augment(fake, u[1], 0.5)])
    torch.testing.assert_close(answered, [seen[0], seen[1], seen[1]])
    assert all(p.grad.abs().sum() > 0 for p in G.parameters() if p.ndim > 1)


# ---------------------------------------------------------------- pictures
class Constant(nn.Module):
    """A generator that answers with the images it was given."""

    def __init__(self, images):
        super().__init__()
        self.images = images

    def forward(self, z):
        return self.images


def test_known_values_give_known_pixels(tmp_path):
    values = torch.tensor([-1.0, -0.5, 0.0, 0.5, 1.0, -1.5, 2.0])
    channels = torch.stack([values, -values, torch.zeros(7)])  # red, green, blue
    pictures = scenes.generate(Constant(channels.reshape(1, 3, 1, 7).expand(9, 3, 2, 7)), None)
    assert pictures.dtype == torch.uint8 and pictures.shape == (9, 2, 7, 3)
    red = [0, 64, 128, 191, 255, 0, 255]
    green = [255, 191, 128, 64, 0, 255, 0]
    assert pictures[0, 0].tolist() == [[r, g, 128] for r, g in zip(red, green)]

    scenes.save_grid(pictures, tmp_path / "grid.png")
    grid = np.asarray(Image.open(tmp_path / "grid.png"))
    assert grid.shape == (2 * (2 + 2) + 2, 8 * (7 + 2) + 2, 3)  # rows of eight, two white pixels between
    expected = np.full_like(grid, 255)
    for i in range(9):
        top, left = 2 + 4 * (i // 8), 2 + 9 * (i % 8)
        expected[top : top + 2, left : left + 7] = pictures[0].numpy()
    expected[6:8, 11:] = grid[6:8, 11:]  # places that stay empty
    assert (grid == expected).all()
    assert (tmp_path / "grid.png").read_bytes()[:8] == b"\x89PNG\r\n\x1a\n"
    assert [path.name for path in tmp_path.iterdir()] == ["grid.png"]


def test_all_bytes_survive_the_way_to_the_network_and_back(monkeypatch, tmp_path, call):
    files = (np.arange(4 * 16 * 16 * 3) % 257 % 256).astype(np.uint8).reshape(4, 16, 16, 3)  # no two alike
    np.save(tmp_path / "files.npy", files)
    seen = []

    def train_step(G, D, opt_g, opt_d, real, z, u=None, **loss):
        assert real.is_contiguous(memory_format=torch.channels_last)
        seen.append((real, z))
        return torch.zeros(4)

    monkeypatch.setattr(scenes, "train_step", train_step)
    flags = *TINY, "--data", tmp_path / "files.npy", "--steps", 1, "--out", tmp_path / "run"
    assert call(scenes.main, *flags)[0] == 0
    ((real, z),) = seen
    assert real.shape == (4, 3, 16, 16) and real.min() == -1 and real.max() == 1
    assert torch.equal(z, scenes.noise(4, 4, 0, scenes.Z, 1))
    pictures = scenes.generate(Constant(real), None)
    assert set(np.unique(pictures)) == set(range(256))
    scenes.save_grid(pictures[:1], tmp_path / "one.png")
    assert (np.asarray(Image.open(tmp_path / "one.png")) == pictures[0].numpy()).all()
    assert sorted(p.numpy().tobytes() for p in pictures) == sorted(f.tobytes() for f in files)


def test_samples_do_not_depend_on_their_batch():
    G, D, opt_g, opt_d = make_nets()
    torch.manual_seed(0)
    for _ in range(3):  # moves the running statistics
        scenes.train_step(G, D, opt_g, opt_d, torch.rand(6, 3, 16, 16).double(), torch.rand(6, 4).double())
    before = copy.deepcopy(G.state_dict())
    z = torch.rand(6, 4).double() * 2 - 1
    together = scenes.generate(G, z)
    assert torch.equal(together[2:3], scenes.generate(G, z[2:3]))
    assert torch.equal(together, scenes.generate(G, torch.cat([z, 3 * z]))[:6])
    assert G.training
    assert all(torch.equal(before[name], value) for name, value in G.state_dict().items())


def test_sample_from_a_checkpoint(call, tmp_path):
    run, last = tmp_path / "run", tmp_path / "run/last.pt"
    wide = "--width", 8  # with 2 channels a few z end in dead units, and in equal pictures
    assert call(scenes.main, *TINY, *wide, "--steps", 3, "--out", run)[0] == 0
    checkpoint = torch.load(last)
    for weight in checkpoint["G"].values():
        weight *= 20 if weight.ndim == 4 else 1  # colours instead of an untrained network's gray
    torch.save(checkpoint, last)
    for n in (3, 70):
        assert call(scenes.main, "--sample", last, "--n", n, "--gpu", -1, "--out", tmp_path / str(n))[0] == 0
    few, many = (np.load(tmp_path / n / "samples.npy") for n in ("3", "70"))
    assert few.dtype == np.uint8 and few.shape == (3, 16, 16, 3) and many.shape == (70, 16, 16, 3)
    assert (few == many[:3]).all()  # a picture does not depend on --n
    assert len(np.unique(many, axis=0)) == 70
    grid = np.asarray(Image.open(tmp_path / "70/grid.png"))
    assert grid.shape == (8 * 18 + 2, 8 * 18 + 2, 3)
    assert (grid[2:18, 20:36] == many[1]).all()

    before = contents(tmp_path)
    assert call(scenes.main, "--sample", last, "--gpu", -1, "--out", tmp_path / "3")[0] == 2
    assert contents(tmp_path) == before
    assert call(scenes.main, "--sample", last, "--n", 3, "--gpu", -1, "--seed", 1)[0] == 0  # beside it
    assert not np.array_equal(np.load(run / "samples.npy"), few)


# ---------------------------------------------------------------- randomness
def test_noise_follows_from_seed_stream_and_step():
    z = scenes.noise(1000, 100, 3, scenes.Z, 7)
    assert z.dtype == torch.float32 and z.shape == (1000, 100)
    assert -1 <= z.min() < -0.999 and 0.999 < z.max() < 1
    assert abs(z.mean()) < 0.01 and abs(z.var() - 1 / 3) < 0.01  # uniform(-1, 1)
    assert torch.equal(z, scenes.noise(1000, 100, 3, scenes.Z, 7))
    others = [
        (4, scenes.Z, 7),
        (3, scenes.GRID, 7),
        (3, scenes.Z, 8),
        (7, scenes.Z, 3),
        (2**40 + 3, scenes.Z, 7),
    ]
    for key in others:
        assert (
            abs(torch.corrcoef(torch.stack([z.flatten(), scenes.noise(1000, 100, *key).flatten()]))[0, 1])
            < 0.02
        )
    streams = [scenes.INIT_G, scenes.INIT_D, scenes.Z, scenes.GRID, scenes.SAMPLE]
    streams += [scenes.AUGMENT, scenes.ORDER]
    assert len(set(streams)) == len(streams)


def test_no_stream_is_another_with_zeros_at_its_end():
    """numpy pads what it makes a generator of with zeros: [0, 1] and [0, 1, 0] give the same numbers."""
    streams = [(seed, stream, step) for seed in range(3) for stream in range(3) for step in range(3)]
    firsts = {float(scenes.rng(*key).random()) for key in streams}
    firsts |= {float(np.random.default_rng([seed, stream]).random()) for seed, stream, _ in streams}
    assert len(firsts) == 27 + 9


@given(st.data())
@settings(max_examples=30, deadline=None)
def test_batches(data):
    batch, length = data.draw(st.integers(1, 12)), data.draw(st.integers(12, 40))
    seed = data.draw(st.integers(0, 2**40))
    epoch = length // batch
    steps = 2 * epoch + 1

    def batches(start):
        order = scenes.batch_order(length, batch, seed, start)
        return [indices.tolist() for _, indices in zip(range(start, steps), order)]

    whole = batches(0)
    first, second = (sum(whole[i * epoch : (i + 1) * epoch], []) for i in range(2))
    assert len(whole) == steps
    for order in (first, second):  # no picture twice, and only the last partial batch is left out
        assert len(set(order)) == epoch * batch and set(order) <= set(range(length))
    assert first != second or length < 4
    start = data.draw(st.integers(0, steps))
    assert batches(start) == whole[start:]


@pytest.mark.parametrize("workers", [0, 2, None])
def test_batches_do_not_depend_on_where_pictures_are(workers):
    images = scenes.open_images("rooms", 16, limit=10)
    device = torch.device("cpu")

    def batches(pictures, workers):
        order = scenes.batch_order(10, 3, 0, 1)
        loader = scenes.load_batches(pictures, order, device, workers)
        return torch.stack([batch for _, batch in zip(range(8), loader)])

    in_memory = scenes.decode_all(images)
    expected = [in_memory[i] for _, i in zip(range(8), scenes.batch_order(10, 3, 0, 1))]
    assert torch.equal(batches(in_memory, workers), torch.stack(expected))
    assert torch.equal(batches(images, workers), torch.stack(expected))


@pytest.mark.parametrize("in_memory", [2e9, 0])
def test_a_run_leaves_the_global_generators_alone(call, tmp_path, monkeypatch, in_memory):
    monkeypatch.setattr(scenes, "IN_MEMORY", in_memory)
    torch.manual_seed(5)
    np.random.seed(5)
    before = torch.get_rng_state(), np.random.get_state(), random.getstate()
    flags = *TINY, "--workers", 2, "--augment", 1, "--ema", 0.9, "--steps", 4
    for name in ("first", "second"):  # twice in one process
        assert call(scenes.main, *flags, "--out", tmp_path / name)[0] == 0
    assert call(scenes.main, "--sample", tmp_path / "first/last.pt", "--n", 3, "--gpu", -1)[0] == 0
    assert torch.equal(torch.get_rng_state(), before[0])
    assert all(np.array_equal(x, y) for x, y in zip(np.random.get_state(), before[1]))
    assert random.getstate() == before[2]


def test_fit_and_limit_reach_the_reader(call, monkeypatch, tmp_path):
    opened = opened_with(monkeypatch, scenes, "open_images")
    flags = f"--data {tmp_path} --size 48 --fit crop --limit 9 --gpu -1 --out {tmp_path}/run"
    assert call(scenes.main, *flags.split())[0] == 2
    assert opened == [(str(tmp_path), 48, "crop", 9)]


def test_defaults_are_the_authors():
    args = scenes.parse_args([])
    assert (args.size, args.width, args.z_dim, args.fit) == (112, 64, 1024, "squash")
    assert (args.lr, args.beta1, args.batch_size, args.steps) == (1e-3, 0.5, 64, 1_000_000)
    assert (args.loss, args.a, args.b, args.c) == ("ls", 0, 1, 1)
    assert (args.ema, args.augment, args.amp) == (0, 0, False)


def test_graph_needs_a_gpu(tmp_path, call):
    code, _, err = call(scenes.main, *TINY, "--steps", 1, "--graph", "--out", tmp_path / "run")
    assert (code, err.count("\n")) == (2, 1)
    assert "--graph needs a GPU" in err
    assert not (tmp_path / "run").exists()
