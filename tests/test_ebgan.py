"""EBGAN, pasted together from lsgan_scenes.py: energy and losses by hand, Figure 5 by the command line."""

import ast
import csv
import math
from pathlib import Path

import bench_ebgan as ebgan
import numpy as np
import pytest
import torch
from PIL import Image

import lsgan_scenes as scenes

TINY = [
    "--data",
    "rooms",
    "--limit",
    "256",
    "--size",
    "16",
    "--width",
    "4",
    "--z-dim",
    "8",
    "--batch-size",
    "8",
]
TINY += ["--steps", "2", "--gpu", "-1"]


def sources(module):
    """{name: text} of the classes and functions of a module."""
    text = Path(module.__file__).read_text()
    return {n.name: ast.get_source_segment(text, n) for n in ast.parse(text).body if hasattr(n, "name")}


@pytest.mark.parametrize("name", ["Generator", "init_weights"])
def test_what_is_pasted_is_the_text_of_the_script(name):
    assert sources(ebgan)[name] == sources(scenes)[name]


def test_energy_is_the_norm_of_what_the_auto_encoder_misses():
    D = ebgan.AutoEncoder(width=4)
    images = torch.rand(5, 3, 16, 16) * 2 - 1
    energy = D(images)
    assert energy.shape == (5,)
    assert (energy > 0).all()
    D.encode = D.decode = torch.nn.Identity()
    assert D(images).tolist() == [0] * 5
    D.decode = torch.nn.Threshold(threshold=9, value=0.5)  # grey, whatever the picture is
    black = torch.full((5, 3, 16, 16), -1.0)
    assert D(black).tolist() == pytest.approx([1.5 * math.sqrt(3 * 16 * 16)] * 5)


def test_discriminator_loss_by_hand():
    d_real, d_fake = torch.tensor([1.0, 3.0]), torch.tensor([2.0, 9.0])
    # Eq. 1 with m = 5: the mean of 1 and 3, and the mean of 5 - 2 and 0.
    assert ebgan.discriminator_loss(d_real, d_fake, margin=5.0).item() == 2 + 1.5
    assert ebgan.generator_loss(d_fake).item() == 5.5  # Eq. 2


def test_margin_switches_the_fake_term_off():
    d_fake = torch.tensor([4.9, 5.1], requires_grad=True)
    ebgan.discriminator_loss(torch.zeros(2), d_fake, margin=5.0).backward()
    assert d_fake.grad.tolist() == [-0.5, 0]


def test_training_lowers_the_energy_of_real_pictures_below_that_of_fake_ones():
    torch.manual_seed(0)
    G, D = ebgan.Generator(16, 4, z_dim=8), ebgan.AutoEncoder(4)
    opt_g = torch.optim.Adam(G.parameters(), 1e-3, betas=(0.5, 0.999))
    opt_d = torch.optim.Adam(D.parameters(), 1e-2, betas=(0.5, 0.999))
    real = torch.linspace(-1, 1, 16).expand(8, 3, 16, 16)
    before = [p.detach().clone() for p in G.parameters()]
    for _ in range(60):
        losses = ebgan.train_step(G, D, opt_g, opt_d, real, torch.rand(8, 8) * 2 - 1, margin=20.0)
    d_loss, g_loss, d_real, d_fake = losses.tolist()
    assert d_real < d_fake
    assert not any(torch.equal(p, q) for p, q in zip(before, G.parameters()))
    assert all(p.requires_grad for p in D.parameters())


@pytest.mark.parametrize("flag, values", [("--margin", (0.001, 1000)), ("--ebgan-lr", (0.001, 0.01))])
def test_flags_of_ebgan_take_effect(flag, values):
    found = []
    for value in values:
        args = ebgan.parse_args([*TINY, flag, str(value)])
        images = ebgan.open_images(args.data, args.size, limit=args.limit)
        ((_, G, _),) = ebgan.train("EBGAN", 0, ebgan.decode_all(images), args)
        found.append(G[0].weight.detach().clone())
    assert not torch.equal(*found)


def test_best_is_the_least_kid():
    rows = [
        {"system": "LSGAN", "seed": 0, "step": step, "KID": kid}
        for step, kid in ((1, 3.0), (2, 1.0), (3, 2.0))
    ]
    found = ebgan.best_and_last(rows)
    assert [row["step"] for row in found["best"]] == [2] and [row["step"] for row in found["last"]] == [3]


def test_other_columns_are_the_script_itself(tmp_path, call):
    for system, loss in (("LSGAN", "ls"), ("GAN", "sigmoid")):
        out = tmp_path / loss
        assert call(scenes.main, *TINY, "--loss", loss, "--seed", 3, "--out", out)[0] == 0
        expected = torch.load(out / "last.pt", weights_only=True)["G"]
        args = ebgan.parse_args(TINY)
        images = ebgan.open_images(args.data, args.size, limit=args.limit)
        ((step, G, _),) = ebgan.train(system, 3, ebgan.decode_all(images), args)
        assert step == 2
        for name, tensor in G.state_dict().items():
            assert torch.equal(tensor, expected[name]), name


def test_command_line_draws_figure_5(tmp_path, call):
    out = tmp_path / "figure"
    code, printed, _ = call(ebgan.main, *TINY, "--seeds", "0", "--n", 200, "--out", out)
    assert code == 0
    assert "| EBGAN | last: step 2 |" in printed
    with open(out / "scores.csv") as file:
        rows = list(csv.DictReader(file))
    assert [(row["system"], row["step"]) for row in rows] == [("LSGAN", "2"), ("GAN", "2"), ("EBGAN", "2")]
    with Image.open(out / "figure5.png") as picture:
        width, height = picture.size
    assert width > height > 1000
    for system in ebgan.SYSTEMS:
        samples = np.load(out / f"{system}-seed0" / "samples.npy")
        assert samples.shape == (200, 16, 16, 3)
        assert samples.dtype == np.uint8


def test_bad_flags_are_refused_in_one_line(tmp_path, call):
    for flags, words in (
        (["--systems", "WGAN"], "'WGAN' is not one of LSGAN, GAN, EBGAN"),
        (["--seeds", "0,-1"], "must be at least 0"),
        (["--batch-size", "300"], "--batch-size 300 is more than the 256 pictures"),
        (["--margin", "-1"], "must be at least 0"),
    ):
        code, _, err = call(ebgan.main, *TINY, *flags, "--out", tmp_path / "figure")
        assert code == 2
        assert words in err
        assert err.count("\n") == 1
