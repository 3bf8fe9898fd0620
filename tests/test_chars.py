"""lsgan_cond_chars.py against the paper, the authors' settings, and the obvious way to write it."""

import copy
import inspect
import math
import random
import re
from functools import partial

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from conftest import contents, opened_with, same
from PIL import Image
from torch import nn

import lsgan_cond_chars as chars
from data.characters import open_characters
from lsgan_cond_chars import Discriminator, Generator, discriminator_loss, generator_loss

TINY = "--classes 6 --width 4 --z-dim 4 --batch-size 8 --gpu -1".split()
SMALL = {"classes": 5, "width": 4}
SHAPE = re.compile(r"# (\d+ x \d+[x\d ]*)")


# ---------------------------------------------------------------- the obvious way
def map_labels(net, one_hot):
    """Phi of Eq. 10, as the paper says it: a linear map of one-hot vectors [B, classes]."""
    return F.linear(one_hot, net.phi.weight.T, net.phi_bias)


def obvious_g(G, z, one_hot):
    h = torch.cat([z, map_labels(G, one_hot)], 1)
    h = F.relu(G.bn1(G.fc1(h))).view(len(h), -1, 7, 7)
    return torch.sigmoid(G.deconv3(F.relu(G.bn2(G.deconv2(h)))))


def obvious_d(D, x, one_hot):
    y = map_labels(D, one_hot)
    h = F.leaky_relu(D.conv1(x), 0.2)
    h = torch.cat([h, y[:, :, None, None].expand(-1, -1, *h.shape[2:])], 1)
    h = F.leaky_relu(D.bn2(D.conv2(h)), 0.2).flatten(1)
    h = F.leaky_relu(D.bn3(D.fc3(torch.cat([h, y], 1))), 0.2)
    return D.fc4(torch.cat([h, y], 1))[:, 0]


def obvious_step(G, D, opt_g, opt_d, real, z, y, loss="ls", a=0.0, b=1.0, c=1.0):
    """One-hot labels, y as maps, G runs twice, D's weight gradients in the G step are thrown away."""
    bce = F.binary_cross_entropy_with_logits
    one_hot = F.one_hot(y, G.phi.num_embeddings).to(real.dtype)
    d_real, d_fake = obvious_d(D, real, one_hot), obvious_d(D, obvious_g(G, z, one_hot).detach(), one_hot)
    ones, zeros = torch.ones_like(d_real), torch.zeros_like(d_real)
    if loss == "ls":
        d_loss = 0.5 * F.mse_loss(d_real, b * ones) + 0.5 * F.mse_loss(d_fake, a * ones)
    else:
        d_loss = bce(d_real, ones) + bce(d_fake, zeros)
    opt_d.zero_grad()
    d_loss.backward()
    opt_d.step()
    d_fake = obvious_d(D, obvious_g(G, z, one_hot), one_hot)
    g_loss = 0.5 * F.mse_loss(d_fake, c * ones) if loss == "ls" else bce(d_fake, ones)
    opt_g.zero_grad()
    g_loss.backward()
    opt_g.step()
    return torch.stack([d_loss, g_loss]).detach()


def make_nets():
    nets = Generator(**SMALL, z_dim=4).double(), Discriminator(**SMALL).double()
    for net, stream in zip(nets, (chars.INIT_G, chars.INIT_D)):
        chars.init_weights(net, chars.torch_rng(0, stream))
    return *nets, *(torch.optim.Adam(net.parameters(), 1e-3, betas=(0.5, 0.999)) for net in nets)


def make_batch(step=0):
    """real, z, y of six pictures; class 3 is not among them."""
    generator = torch.Generator().manual_seed(step)
    real = torch.rand(6, 1, 28, 28, generator=generator, dtype=torch.float64)
    z = torch.rand(6, 4, generator=generator, dtype=torch.float64) * 2 - 1
    return real, z, torch.tensor([0, 1, 2, 4, 0, 2])


# ---------------------------------------------------------------- networks
@pytest.mark.parametrize("net, count", [(Generator, 9_417_857), (Discriminator, 21_384_129)])
def test_parameter_count(net, count):
    with torch.device("meta"):
        assert sum(p.numel() for p in net().parameters()) == count


@pytest.mark.parametrize("net, inputs", [(Generator, (2, 1024)), (Discriminator, (2, 1, 28, 28))])
def test_shapes_are_those_in_the_comments(net, inputs, monkeypatch):
    net, shapes = net(), []

    def note(function, x, *args):
        shapes.append(tuple(x.shape[1:]))
        return function(x, *args)

    for name in ("relu", "leaky_relu"):
        monkeypatch.setattr(F, name, partial(note, getattr(F, name)))
    output = net(torch.zeros(inputs), torch.zeros(2, dtype=torch.long))
    comments = SHAPE.findall(inspect.getsource(type(net)))
    commented = [tuple(map(int, comment.split("x"))) for comment in comments]
    if isinstance(net, Generator):
        assert commented == [(128, 7, 7), (128, 14, 14), (1, 28, 28)]
        assert shapes == [(128 * 7 * 7,), commented[1]] and output.shape == (2, *commented[2])
    else:
        assert commented == [(256, 14, 14), (320, 7, 7)]
        assert shapes == [commented[0], commented[1], (1024,)] and output.shape == (2,)


@pytest.mark.parametrize("width", [1, 6, 64])
def test_all_layers_scale_with_the_width(width):
    y = torch.zeros(2, dtype=torch.long)
    images = Generator(3, width, 5)(torch.zeros(2, 5), y)
    assert images.shape == (2, 1, 28, 28)
    D = Discriminator(3, width)
    assert D(images, y).shape == (2,)
    assert D.conv1.out_channels == width and D.phi.embedding_dim == width


def test_discriminator_is_unbounded():
    D, (real, _, y) = make_nets()[1], make_batch()
    before = D(real, y)
    with torch.no_grad():
        D.fc4.weight *= 1e4
    after = D(real, y)
    assert torch.allclose(after, 1e4 * before) and after.abs().max() > 1


@pytest.mark.parametrize("net", [0, 1], ids=["G", "D"])
@pytest.mark.parametrize("training", [True, False], ids=["train", "eval"])
def test_networks_equal_the_obvious_ones(net, training):
    """The label map is a product with one-hot vectors, and y's maps go through a plain convolution."""
    ours = make_nets()[net].train(training)
    theirs = copy.deepcopy(ours)
    with torch.no_grad():
        for p, q in zip(ours.parameters(), theirs.parameters()):
            p.add_(torch.randn(p.shape, generator=torch.Generator().manual_seed(p.numel())))  # biases too
            q.copy_(p)
    real, z, y = make_batch()
    x = (z, real)[net].requires_grad_()
    output = ours(x, y)
    expected = (obvious_g, obvious_d)[net](theirs, x, F.one_hot(y, 5).double())
    assert torch.allclose(output, expected, rtol=0, atol=1e-12 * expected.abs().max().item())
    weights = torch.randn(output.shape, generator=torch.Generator().manual_seed(0)).double()
    gradients = torch.autograd.grad((output * weights).sum(), [x, *ours.parameters()])
    expected = torch.autograd.grad((expected * weights).sum(), [x, *theirs.parameters()])
    for ours_, theirs_ in zip(gradients, expected):
        assert torch.allclose(ours_, theirs_, rtol=0, atol=1e-11 * theirs_.abs().max().item() + 1e-13)
    phi = gradients[1 + [name for name, _ in ours.named_parameters()].index("phi.weight")]
    assert phi.shape == (5, 4) and not phi[3].any() and phi[[0, 1, 2, 4]].any(1).all()


def test_initial_weights():
    nets = Generator(50), Discriminator(50)
    for net, stream in zip(nets, (chars.INIT_G, chars.INIT_D)):
        chars.init_weights(net, chars.torch_rng(0, stream))
        assert not net.phi_bias.any()
    for layer in (layer for net in nets for layer in net.modules() if hasattr(layer, "weight")):
        weight = layer.weight.detach()
        assert isinstance(layer, nn.Embedding) or not layer.bias.any()
        if isinstance(layer, (nn.BatchNorm1d, nn.BatchNorm2d)):
            assert (weight == 1).all()
            assert (layer.eps, layer.momentum) == (1e-5, 0.1)  # TensorFlow's decay 0.9
            continue
        cut = 0.8796 if isinstance(layer, nn.Conv2d) else 1  # a normal distribution cut at two sigma
        assert abs(weight.std() - cut * 0.02) < 4 * 0.02 / math.sqrt(weight.numel())
        assert (weight.abs().max() <= 0.04) == isinstance(layer, nn.Conv2d)
    assert not torch.equal(nets[0].phi.weight, nets[1].phi.weight)  # one map for G, another for D


def test_a_run_begins_with_the_initial_weights_of_its_seed(call, tmp_path):
    assert call(chars.main, *TINY, "--seed", 3, "--steps", 0, "--out", tmp_path / "run")[0] == 0
    saved = torch.load(tmp_path / "run/last.pt", weights_only=True)
    classes, width, z_dim = len(saved["class_names"]), saved["args"]["width"], saved["args"]["z_dim"]
    for name, net, stream in (
        ("G", Generator(classes, width, z_dim), chars.INIT_G),
        ("D", Discriminator(classes, width), chars.INIT_D),
    ):
        chars.init_weights(net, chars.torch_rng(3, stream))
        assert same(saved[name], net.state_dict())
    assert chars.INIT_G != chars.INIT_D


# ---------------------------------------------------------------- loss and training step
def test_losses_by_hand():
    d_real, d_fake = torch.tensor([1.0, 3.0]), torch.tensor([0.0, 2.0])
    assert discriminator_loss(d_real, d_fake).item() == 0.5 * (0 + 4) / 2 + 0.5 * (0 + 4) / 2  # Eq. 10
    assert generator_loss(d_fake).item() == 0.5 * (1 + 1) / 2
    assert discriminator_loss(d_real, d_fake, a=-1.0).item() == 0.5 * (0 + 4) / 2 + 0.5 * (1 + 9) / 2
    assert generator_loss(d_fake, c=0.0).item() == 0.5 * (0 + 4) / 2
    entropy = -(math.log(1 / 2) + math.log(3 / 4)) / 2
    logits = torch.tensor([0.0, math.log(3)])  # sigmoid: 1/2, 3/4
    assert discriminator_loss(logits, -logits, loss="sigmoid").item() == pytest.approx(2 * entropy)
    assert generator_loss(logits, loss="sigmoid").item() == pytest.approx(entropy)


LOSSES = {
    "ls": {"loss": "ls", "a": 0.0, "b": 1.0, "c": 1.0},
    "ls-110": {"loss": "ls", "a": -1.0, "b": 1.0, "c": 0.0},
    "other targets": {"loss": "ls", "a": -0.5, "b": 2.0, "c": 0.25},
    "sigmoid": {"loss": "sigmoid", "a": 0.0, "b": 1.0, "c": 1.0},
}


@pytest.mark.parametrize("loss", LOSSES)
def test_step_equals_the_obvious_two_forward_loop(loss):
    ours, theirs = make_nets(), make_nets()
    for step in range(1, 6):
        batch = make_batch(step)
        report = chars.train_step(*ours, *batch, **LOSSES[loss])
        losses = obvious_step(*theirs, *batch, **LOSSES[loss])
        assert torch.allclose(report[:2], losses, rtol=1e-10)
        for net, other in zip(ours[:2], theirs[:2]):
            for p, q in zip(net.parameters(), other.parameters()):
                assert torch.allclose(p, q, rtol=1e-9, atol=1e-9)  # a millionth of Adam's step
        assert all(p.requires_grad for p in ours[1].parameters())
        assert ours[0].bn1.num_batches_tracked == step  # the one difference: these move once, not twice
        assert theirs[0].bn1.num_batches_tracked == 2 * step


@pytest.mark.parametrize("loss", ["ls", "sigmoid"])
def test_what_a_step_reports(loss):
    G, D, opt_g, opt_d = make_nets()
    real, z, y = make_batch()
    with torch.no_grad():
        d_real, d_fake = copy.deepcopy(D)(real, y), copy.deepcopy(D)(copy.deepcopy(G)(z, y), y)
    d_loss, g_loss, mean_real, mean_fake = chars.train_step(G, D, opt_g, opt_d, real, z, y, loss=loss)
    assert torch.isclose(d_loss, discriminator_loss(d_real, d_fake, loss=loss))
    if loss == "sigmoid":
        d_real, d_fake = d_real.sigmoid(), d_fake.sigmoid()
    assert torch.isclose(mean_real, d_real.mean()) and torch.isclose(mean_fake, d_fake.mean())
    assert not torch.isclose(mean_real, mean_fake)
    assert g_loss.isfinite() and not d_loss.requires_grad


def test_amp_computes_layers_in_bfloat16_and_losses_in_float32():
    G, D, opt_g, opt_d = make_nets()
    G.float(), D.float()
    seen, in_g = [], []
    for layer in (G.fc1, G.deconv3):
        layer.register_forward_hook(lambda layer, inputs, output: in_g.append(output.dtype))
    for layer in (D.conv1, D.fc4):
        layer.register_forward_hook(lambda layer, inputs, output: seen.append(output.dtype))
    real, z, y = make_batch()
    report = chars.train_step(G, D, opt_g, opt_d, real.float(), z.float(), y, amp=True)
    assert in_g == [torch.bfloat16] * 2
    assert seen == [torch.bfloat16, torch.float32] * 3 and report.dtype == torch.float32


# ---------------------------------------------------------------- pictures
class Constant(nn.Module):
    """A generator that answers with the images it was given."""

    def __init__(self, images):
        super().__init__()
        self.images = images

    def forward(self, z, y):
        return self.images


def test_known_values_give_known_pixels():
    values = torch.tensor([0.0, 0.25, 0.5, 1.0, -0.1, 1.1])  # 1 is white
    pictures = chars.generate(Constant(values.expand(2, 1, 3, 6)), None, None)
    assert pictures.dtype == torch.uint8 and pictures.shape == (2, 3, 6, 1)
    assert pictures[0, 0, :, 0].tolist() == [0, 64, 128, 255, 0, 255]


def note_steps(monkeypatch):
    """Calls of train_step, which then does nothing."""
    seen = []

    def train_step(G, D, opt_g, opt_d, real, z, y, **loss):
        seen.append((real, z, y))
        return torch.zeros(4)

    monkeypatch.setattr(chars, "train_step", train_step)
    return seen


def test_a_step_gets_pictures_in_0_to_1_with_their_own_labels(monkeypatch, tmp_path, call):
    seen = note_steps(monkeypatch)
    assert call(chars.main, *TINY, "--steps", 20, "--out", tmp_path / "run")[0] == 0
    data = open_characters("strokes", classes=6)
    labels = {picture.numpy().tobytes(): int(label) for picture, label in zip(data.pictures, data.labels)}
    assert len(seen) == 20 and len({y for _, _, ys in seen for y in ys.tolist()}) == 6
    for step, (real, z, y) in enumerate(seen, 1):
        assert real.shape == (8, 1, 28, 28) and real.max() == 1 and 0 <= real.min() < 0.5
        assert real.median() == 1  # the background is white, and white is 1
        assert torch.equal(z, chars.noise(8, 4, 0, chars.Z, step))
        pictures = chars.generate(Constant(real), None, None)  # exactly the bytes of the data
        assert [labels[picture.numpy().tobytes()] for picture in pictures] == y.tolist()


def test_grids_show_real_above_generated(monkeypatch, tmp_path, call):
    generated = {}

    def generate(G, z, y):
        generated[len(generated)] = z, y
        return y.byte().view(-1, 1, 1, 1).expand(-1, 28, 28, 1)  # a gray that tells the class

    monkeypatch.setattr(chars, "generate", generate)
    flags = "--steps", 2, "--sample-every", 1, "--out", tmp_path / "run"
    assert call(chars.main, *TINY, *flags)[0] == 0
    assert all(torch.equal(*pair) for pair in zip(generated[0], generated[1]))  # fixed z and y
    first, second = (np.asarray(Image.open(tmp_path / f"run/samples/step_0000000{i}.png")) for i in (1, 2))
    assert (first == second).all()
    cells = first[2:, 2:, 0].reshape(8, 30, 16, 30).transpose(0, 2, 1, 3)[:, :, :28, :28]
    data = open_characters("strokes", classes=6)
    labels = {picture.numpy().tobytes(): int(label) for picture, label in zip(data.pictures, data.labels)}
    for real, fake in zip(cells[0::2].reshape(64, 28, 28), cells[1::2].reshape(64, 28, 28)):
        assert (fake == labels[real.tobytes()]).all()
    assert len(set(generated[0][1].tolist())) == 6
    assert call(chars.main, *TINY, "--steps", 1, "--seed", 1, "--out", tmp_path / "other")[0] == 0
    assert generated[0][1].tolist() != generated[2][1].tolist()


@pytest.fixture
def trained(tmp_path, call):
    """A checkpoint whose pictures depend visibly on z and on y."""
    run = tmp_path / "run"
    assert call(chars.main, *TINY, "--steps", 3, "--out", run)[0] == 0
    checkpoint = torch.load(run / "last.pt")
    for name, weight in checkpoint["G"].items():
        weight *= 20 if name in ("phi.weight", "deconv2.weight", "deconv3.weight") else 1
    torch.save(checkpoint, run / "last.pt")
    return run / "last.pt"


def test_text_is_written_by_one_hand_a_row(trained, tmp_path, call):
    class_names = torch.load(trained)["class_names"]
    assert class_names == open_characters("strokes", classes=6).class_names
    text = class_names[4] + class_names[1] + class_names[4]
    flags = "--sample", trained, "--gpu", -1, "--n", 5
    assert call(chars.main, *flags, "--text", text, "--out", tmp_path / "text")[0] == 0
    pictures, labels = (np.load(tmp_path / "text" / name) for name in ("samples.npy", "labels.npy"))
    assert pictures.dtype == np.uint8 and pictures.shape == (15, 28, 28, 1)
    assert labels.dtype == np.int64 and labels.tolist() == [4, 1, 4] * 5
    rows = pictures.reshape(5, 3, 28, 28)
    assert (rows[:, 0] == rows[:, 2]).all()  # same hand, same character
    assert (rows[:, 0] != rows[:, 1]).any((1, 2)).all()  # same hand, other character
    assert (rows[1:, 0] != rows[:-1, 0]).any((1, 2)).all()  # another hand
    grid = np.asarray(Image.open(tmp_path / "text/grid.png"))
    assert grid.shape == (5 * 30 + 2, 3 * 30 + 2, 3) and (grid[32:60, 32:60, 0] == rows[1, 1]).all()

    G = Generator(6, 4, 4)
    G.load_state_dict(torch.load(trained)["G"])
    z = chars.noise(64, 4, 0, chars.SAMPLE, 0)[:5]
    expected = chars.generate(G, z, torch.tensor([1] * 5))[..., 0].numpy()
    assert np.abs(rows[:, 1].astype(int) - expected).max() <= 1


def test_samples_without_text_are_of_every_class_as_often(trained, tmp_path, call):
    labels, pictures = {}, {}
    for n, seed in ((3, 0), (70, 0), (70, 1)):
        out = tmp_path / f"{n}-{seed}"
        flags = "--sample", trained, "--gpu", -1, "--n", n, "--seed", seed
        assert call(chars.main, *flags, "--out", out)[0] == 0
        pictures[n, seed], labels[n, seed] = np.load(out / "samples.npy"), np.load(out / "labels.npy")
        assert pictures[n, seed].shape == (n, 28, 28, 1) and len(np.unique(pictures[n, seed], axis=0)) == n
    assert (pictures[3, 0] == pictures[70, 0][:3]).all()  # a picture does not depend on --n
    assert np.bincount(labels[70, 0]).tolist().count(12) == 4  # 70 = 4 * 12 + 2 * 11
    assert labels[3, 0].tolist() == labels[70, 0][:3].tolist() and len(set(labels[3, 0])) == 3
    assert labels[70, 0].tolist() != labels[70, 1].tolist()

    before = contents(tmp_path)
    for name in ("samples.npy", "labels.npy", "grid.png"):
        (tmp_path / f"only-{name}").mkdir()
        (tmp_path / f"only-{name}" / name).touch()
        code, _, error = call(chars.main, *flags, "--out", tmp_path / f"only-{name}")
        assert code == 2 and f"{name} exists" in error
    assert before.items() <= contents(tmp_path).items()


def test_unknown_characters_are_named(trained, call):
    before = contents(trained.parent)
    class_names = "".join(torch.load(trained)["class_names"])
    known = class_names[0]
    code, out, error = call(chars.main, "--sample", trained, "--text", f"{known}龘x{known}", "--gpu", -1)
    assert (code, out) == (2, "")
    reason = f"--text: '龘', 'x' not among the 6 classes of {trained}: {' '.join(class_names)}"
    assert error.startswith(f"lsgan_cond_chars.py: error: {reason}") and error.count("\n") == 1
    assert contents(trained.parent) == before


# ---------------------------------------------------------------- class names
def write_classes(folder, names):
    for i, name in enumerate(names):
        (folder / name).mkdir(parents=True, exist_ok=True)
        for k in range(5):
            Image.new("L", (20, 30), 40 * i + 8 * k).save(folder / name / f"{k}.png")


def test_resume_needs_the_classes_of_the_checkpoint(tmp_path, call):
    data, run = tmp_path / "data", tmp_path / "run"
    write_classes(data, "一丁七")
    flags = "--data", data, *TINY[2:], "--out", run
    assert call(chars.main, *flags, "--steps", 2)[0] == 0
    assert torch.load(run / "last.pt")["class_names"] == ["丁", "七", "一"]  # by GBK code
    before = contents(run)
    (data / "七").rename(data / "万")  # as many classes, but others
    code, _, error = call(chars.main, *flags, "--steps", 3, "--resume")
    assert code == 2 and error.count("\n") == 1
    assert f"the 3 classes of {data} are not those of {run / 'last.pt'}" in error
    write_classes(data, "丁七一")
    code, _, error = call(chars.main, *flags, "--steps", 3, "--resume")
    assert code == 2 and "4 classes" in error and error.count("\n") == 1
    assert contents(run) == before
    for path in (data / "万").iterdir():
        path.unlink()
    (data / "万").rmdir()
    assert call(chars.main, *flags, "--steps", 3, "--resume")[0] == 0


def test_real_handwriting(real_data, tmp_path, call):
    run = tmp_path / "run"
    flags = "--data", real_data / "hanzi/hwdb1.1_100x100", "--width", 4, "--batch-size", 8, "--gpu", -1
    code, out, _ = call(chars.main, *flags, "--steps", 2, "--out", run)
    assert code == 0 and "100 classes" in out
    assert call(chars.main, "--sample", run / "last.pt", "--text", "一丁七万", "--n", 2, "--gpu", -1)[0] == 0
    assert np.load(run / "samples.npy").shape == (8, 28, 28, 1)


@pytest.mark.parametrize("damage", ["missing", "of numbers", "a text"])
def test_class_names_of_a_wrong_type(trained, call, damage):
    checkpoint = torch.load(trained)
    checkpoint["class_names"] = {"missing": None, "of numbers": [1, 2, 3, 4, 5, 6], "a text": 7}[damage]
    torch.save(checkpoint, trained)
    for flags in (["--sample", trained], ["--sample", trained, "--text", "永"], ["--resume", trained]):
        code, _, error = call(chars.main, *flags, "--gpu", -1, "--steps", 4)
        assert code == 2 and error.count("\n") == 1, error
        assert str(trained) in error


def test_pictures_removed_before_a_resume_are_named(tmp_path, call):
    data, run = tmp_path / "data", tmp_path / "run"
    write_classes(data, "一丁七")
    flags = "--data", data, *TINY[2:], "--out", run
    assert call(chars.main, *flags, "--steps", 1)[0] == 0
    assert "note:" not in call(chars.main, *flags, "--steps", 2, "--resume")[1]
    (data / "一/3.png").unlink()
    code, out, _ = call(chars.main, *flags, "--steps", 3, "--resume")
    assert code == 0 and "was trained on other data than" in out


def test_a_run_leaves_the_global_generators_alone(call, tmp_path):
    torch.manual_seed(5)
    np.random.seed(5)
    before = torch.get_rng_state(), np.random.get_state(), random.getstate()
    for name in ("first", "second"):  # twice in one process
        assert call(chars.main, *TINY, "--ema", 0.9, "--steps", 4, "--out", tmp_path / name)[0] == 0
    assert call(chars.main, "--sample", tmp_path / "first/last.pt", "--n", 3, "--gpu", -1)[0] == 0
    assert torch.equal(torch.get_rng_state(), before[0])
    assert all(np.array_equal(x, y) for x, y in zip(np.random.get_state(), before[1]))
    assert random.getstate() == before[2]


def test_batches_follow_from_seed_and_step():
    pictures = torch.arange(10)[:, None, None].expand(10, 28, 28).byte()
    labels = torch.arange(10) + 100

    def batches(start):
        order = chars.batch_order(10, 4, 0, start)
        loader = chars.load_batches(pictures, labels, order)
        return [(batch[:, 0, 0].tolist(), y.tolist()) for _, (batch, y) in zip(range(start, 7), loader)]

    whole = batches(0)
    assert all([i + 100 for i in batch] == y for batch, y in whole)  # each picture with its label
    assert len({i for batch, _ in whole[:2] for i in batch}) == 8  # an epoch: two batches without repetition
    assert [batches(start) for start in range(8)] == [whole[start:] for start in range(8)]


def test_charset_classes_and_fit_reach_the_reader(call, monkeypatch, tmp_path):
    opened = opened_with(monkeypatch, chars, "open_characters")
    flags = f"--data {tmp_path} --charset all --classes 9 --fit pad --gpu -1 --out {tmp_path}/run"
    assert call(chars.main, *flags.split())[0] == 2
    assert opened == [(str(tmp_path), "all", 9, "pad")]


def test_defaults_are_the_authors():
    args = chars.parse_args([])
    assert (args.width, args.z_dim, args.fit, args.charset) == (256, 1024, "squash", "level1")
    assert (args.lr, args.beta1, args.batch_size, args.steps) == (2e-4, 0.5, 64, 1_000_000)
    assert (args.loss, args.a, args.b, args.c) == ("ls", 0, 1, 1)
    assert (args.ema, args.amp) == (0, False)


def test_graph_needs_a_gpu(tmp_path, call):
    code, _, err = call(chars.main, *TINY, "--steps", 1, "--graph", "--out", tmp_path / "run")
    assert (code, err.count("\n")) == (2, 1)
    assert "--graph needs a GPU" in err
    assert not (tmp_path / "run").exists()


def test_checkpoint_of_a_graph_goes_on_on_the_cpu(tmp_path, call):
    """Its Adam is capturable, which is about GPUs only."""
    for name in ("plain", "graph"):
        assert call(chars.main, *TINY, "--steps", 2, "--out", tmp_path / name)[0] == 0
    checkpoint = torch.load(tmp_path / "graph/last.pt", weights_only=True)
    checkpoint["args"]["graph"] = True
    for name in ("opt_g", "opt_d"):
        checkpoint[name]["param_groups"][0]["capturable"] = True
    torch.save(checkpoint, tmp_path / "graph/last.pt")
    for name in ("plain", "graph"):
        flags = "--resume", tmp_path / name / "last.pt", "--steps", 4, "--no-graph", "--gpu", -1
        assert call(chars.main, *flags)[0] == 0
    plain, graph = (torch.load(tmp_path / name / "last.pt", weights_only=True) for name in ("plain", "graph"))
    for name in ("G", "D"):
        assert same(plain[name], graph[name])
