"""The function of every network: outputs and input gradients, with weights from a formula, are as recorded.

Recorded at commit 6105c66: given the same weights, its networks for pictures agree with the authors'
TensorFlow code to float64's rounding. A slope, an epsilon, a padding, a missing layer or labels concatenated
in another order show here, even where training hides them.
"""

import importlib
import math

import numpy as np
import pytest
import torch

import gaussian_mixture
import lsgan_cond_chars
import lsgan_scenes
import stability_grid


def wave(shape, phase: float) -> torch.Tensor:
    """Numbers without a pattern, in [-1, 1], float64: the k-th is cos(k**2 + phase)."""
    k = torch.arange(math.prod(shape), dtype=torch.float64)
    return torch.cos(k**2 + phase).view(shape)


@torch.no_grad()
def fill(net: torch.nn.Module) -> torch.nn.Module:
    """Makes `net` float64; its parameters and buffers become a function of their place and shape alone."""
    for place, (name, tensor) in enumerate(net.double().state_dict().items()):
        values = wave(tensor.shape, place)
        if name.endswith("num_batches_tracked"):
            continue
        if name.endswith("running_var"):
            tensor.copy_(1 + 0.5 * values)
        elif name.endswith("weight") and tensor.ndim == 1:  # batch normalization's gamma
            tensor.copy_(1 + 0.3 * values)
        elif tensor.ndim == 1:
            tensor.copy_(0.5 * values)
        else:
            tensor.copy_(4 / tensor.numel() ** 0.5 * values)
    return net


def digest(tensor: torch.Tensor) -> list[float]:
    """A weighted sum, then the first, the middle and the last number."""
    flat = tensor.detach().flatten()
    total = (flat * wave(flat.shape, 0.5)).sum()
    return [x.item() for x in (total, flat[0], flat[len(flat) // 2], flat[-1])]


def digests(net: torch.nn.Module, x: torch.Tensor, *labels: torch.Tensor) -> list[list[float]]:
    """Of the output and of a weighted sum's gradient at x: in train mode, then, with the running statistics
    that this forward pass has moved, in eval mode."""
    x.requires_grad_()
    found = []
    for training in (True, False):
        output = net.train(training)(x, *labels)
        (gradient,) = torch.autograd.grad((output * wave(output.shape, 1.5)).sum(), x)
        found += [digest(output), digest(gradient)]
    return found


# ---------------------------------------------------------------- the networks, small
Z = (4, 5)  # shape of a batch of z, and of its labels where there are some
LABELS = torch.tensor([2, 0, 3, 3])


def scenes_g():
    return digests(fill(lsgan_scenes.Generator(size=32, width=4, z_dim=5)), wave(Z, 0))


def scenes_d():
    return digests(fill(lsgan_scenes.Discriminator(size=32, width=4)), wave((4, 3, 32, 32), 0))


def chars_g():
    return digests(fill(lsgan_cond_chars.Generator(classes=4, width=6, z_dim=5)), wave(Z, 0), LABELS)


def chars_d():
    return digests(fill(lsgan_cond_chars.Discriminator(classes=4, width=6)), wave((4, 1, 28, 28), 0), LABELS)


def grid_g(size, bn):
    return digests(fill(stability_grid.Generator(size=size, width=3, z_dim=5, bn=bn)), wave(Z, 0))


def grid_d(size, bn):
    return digests(fill(stability_grid.Discriminator(size=size, width=3, bn=bn)), wave((4, 3, size, size), 0))


def mixture_g():
    return digests(fill(gaussian_mixture.Generator(models=2, z_dim=5)), wave((2, 4, 5), 0))


def mixture_d():
    return digests(fill(gaussian_mixture.Discriminator(models=2)), wave((2, 4, 2), 0))


NETWORKS = {
    "scenes G": scenes_g,
    "scenes D": scenes_d,
    "characters G": chars_g,
    "characters D": chars_d,
    "grid G": lambda: grid_g(32, bn=False),
    "grid G, BN": lambda: grid_g(32, bn=True),
    "grid D": lambda: grid_d(32, bn=False),
    "grid D, BN": lambda: grid_d(32, bn=True),
    "grid G, 64 pixels": lambda: grid_g(64, bn=False),
    "grid G, 64 pixels, BN": lambda: grid_g(64, bn=True),
    "grid D, 64 pixels": lambda: grid_d(64, bn=False),
    "grid D, 64 pixels, BN": lambda: grid_d(64, bn=True),
    "mixture G": mixture_g,
    "mixture D": mixture_d,
}

RECORDED = {  # four digests each: output and gradient in train mode, then in eval mode
    "scenes G": [
        [80.675888636, 0.6576198145, 0.76035983293, -0.1888345042],
        [-29.915043382, -0.67239497344, -25.189370356, -6.4870177737],
        [5.7576532289, 0.70720537082, 0.7081258539, 0.65059905904],
        [0.17282497357, 0.015785773681, -0.011034210062, -0.003231245464],
    ],
    "scenes D": [
        [1.6769634988, 1.0115982553, 0.35133864859, -1.0910886886],
        [0.86934139254, -0.0031739242533, -0.015873889875, 0.0012402539329],
        [1.0112983067, -1.5377143195, -1.9476112184, -2.0972152404],
        [0.10220285566, -0.0010258038251, -0.01213302565, 1.6238035686e-06],
    ],
    "characters G": [
        [-5.5423620976, 0.27885630764, 0.044418235126, 0.50686405688],
        [8.9116036183, 1.320906832, -0.71543730561, -2.6714554342],
        [-2.7596008669, 0.40669837055, 0.42691172499, 0.46565873533],
        [-0.14543138561, 0.065626842844, -0.30972142372, 0.044190961775],
    ],
    "characters D": [
        [0.32517932214, -1.4321184319, -1.2933535488, -1.4221855182],
        [-3.4741815048, 0.021145113638, 0.060081262527, -0.0028491686941],
        [-1.9434309293, 4.2830659866, 4.4118001636, 5.1194256089],
        [-0.62731777296, -0.0011487459706, -0.007784476646, -0.0016612632146],
    ],
    "grid G": [
        [30.288304165, 0.29620693912, 0.30038003224, -0.15310510334],
        [-0.72240727948, -0.11450076108, -0.38667036321, 0.29084811179],
        [30.288304165, 0.29620693912, 0.30038003224, -0.15310510334],
        [-0.72240727948, -0.11450076108, -0.38667036321, 0.29084811179],
    ],
    "grid G, BN": [
        [1.879060625, -0.3264050112, -0.29772547541, 0.36017046793],
        [-15.466164435, 0.42300374793, 0.41067602191, 0.82400012688],
        [3.6036234372, -0.76595259345, -0.76382141863, 0.53364706311],
        [-1.5820766996, 0.011415738431, 0.67429995494, 0.23705611999],
    ],
    "grid D": [
        [-1.3052892012, 1.7025881871, 2.4599544101, 2.4166577361],
        [-0.22286593854, 0.0016493159355, -0.0094756365566, 0.00053719737621],
        [-1.3052892012, 1.7025881871, 2.4599544101, 2.4166577361],
        [-0.22286593854, 0.0016493159355, -0.0094756365566, 0.00053719737621],
    ],
    "grid D, BN": [
        [3.1581600811, 0.83044460041, 1.0436791922, -2.717292289],
        [-1.6007471953, -0.0035968524094, -0.0010608074851, 0.0025236696571],
        [4.0554458467, -0.88569065172, -1.6193667059, -4.7634622486],
        [0.225962264, 0.00079357770891, 0.024884057778, 0.00057143563508],
    ],
    "grid G, 64 pixels": [
        [33.974894595, -0.28970403488, -0.28721292989, 0.44611926192],
        [0.27225993198, 0.10603306768, -0.054957201273, 0.20715053074],
        [33.974894595, -0.28970403488, -0.28721292989, 0.44611926192],
        [0.27225993198, 0.10603306768, -0.054957201273, 0.20715053074],
    ],
    "grid G, 64 pixels, BN": [
        [75.022923264, -0.65031721743, -0.51136790615, 0.018812792131],
        [-12.107142771, 0.74218479261, 11.341860975, -0.70026023889],
        [-34.151017489, -0.59321111875, -0.59002848863, 0.017713659656],
        [-0.94812586537, -0.47155745297, 0.0038433301074, -0.51787681595],
    ],
    "grid D, 64 pixels": [
        [0.17411487926, 1.2046704427, 0.78954242013, 0.77622491928],
        [0.10225713502, -0.00024294725489, 0.001560020584, -9.9583849358e-06],
        [0.17411487926, 1.2046704427, 0.78954242013, 0.77622491928],
        [0.10225713502, -0.00024294725489, 0.001560020584, -9.9583849358e-06],
    ],
    "grid D, 64 pixels, BN": [
        [1.1632497872, 3.2568561581, -0.37890939125, 1.7265121549],
        [0.96938004275, 0.0096132578653, 0.034192657691, -0.00018250814391],
        [-1.7533326344, 6.1538857976, 5.5268007202, 6.4592145883],
        [-1.4022231145, 0.00067637359976, 0.0057792720983, -1.6216309445e-05],
    ],
    "mixture G": [
        [-0.41543915834, 0.60390169075, -1.7414186812, 0.48946273564],
        [0.036710945116, -0.0068904818579, 0.0056334393543, 0.036757543751],
        [-0.41543915834, 0.60390169075, -1.7414186812, 0.48946273564],
        [0.036710945116, -0.0068904818579, 0.0056334393543, 0.036757543751],
    ],
    "mixture D": [
        [5.0647382946, 2.9460771834, 4.4228608899, 4.4173149772],
        [0.12484619633, -0.00044630625378, 0.010581547599, 0.0079726256555],
        [5.0647382946, 2.9460771834, 4.4228608899, 4.4173149772],
        [0.12484619633, -0.00044630625378, 0.010581547599, 0.0079726256555],
    ],
}


@pytest.mark.parametrize("name", NETWORKS)
def test_function_is_the_recorded_one(name):
    for found, recorded in zip(NETWORKS[name](), RECORDED[name], strict=True):
        assert found == pytest.approx(recorded, rel=1e-9, abs=1e-12)


# ---------------------------------------------------------------- what training hides, too
TINY = {  # the smallest run of each script, and where its checkpoint lies
    "lsgan_scenes": ("--size 16 --width 2 --z-dim 4 --batch-size 4 --limit 8", "last.pt"),
    "lsgan_cond_chars": ("--classes 5 --width 4 --z-dim 4 --batch-size 8", "last.pt"),
    "stability_grid": (
        "--size 32 --width 2 --z-dim 4 --batch-size 4 --limit 512"
        " --seeds 1 --settings bn_g --optimizers adam --losses ls",
        "bn_g-adam-ls-seed0/last.pt",
    ),
    "gaussian_mixture": ("--z-dim 4 --seeds 1 --losses ls", "last.pt"),
}


@pytest.mark.parametrize("name", TINY)
def test_adam_follows_beta1(name, call, tmp_path):
    flags, checkpoint = TINY[name]
    script = importlib.import_module(name)
    more = "--beta1", 0.3, "--steps", 1, "--gpu", -1, "--out", tmp_path / "run"
    assert call(script.main, *flags.split(), *more)[0] == 0
    saved = torch.load(tmp_path / "run" / checkpoint)
    for optimizer in ("opt_g", "opt_d"):
        assert [group["betas"] for group in saved[optimizer]["param_groups"]] == [(0.3, 0.999)]


def test_sampled_characters_lie_in_the_order_of_their_labels(call, tmp_path):
    flags, _ = TINY["lsgan_cond_chars"]
    run = tmp_path / "run"
    assert call(lsgan_cond_chars.main, *flags.split(), "--steps", 1, "--gpu", -1, "--out", run)[0] == 0
    saved = torch.load(run / "last.pt")
    for name in ("phi.weight", "deconv2.weight", "deconv3.weight"):  # so that labels show in the pictures
        saved["G"][name] *= 30
    torch.save(saved, run / "last.pt")
    n = 70  # more than the 64 that are drawn at once
    sample = "--sample", run / "last.pt", "--n", n, "--gpu", -1, "--out", tmp_path / "sample"
    assert call(lsgan_cond_chars.main, *sample)[0] == 0
    pictures = np.load(tmp_path / "sample/samples.npy").astype(int)
    labels = np.load(tmp_path / "sample/labels.npy")

    G = lsgan_cond_chars.Generator(classes=5, width=4, z_dim=4)
    G.load_state_dict(saved["G"])
    z = torch.cat([lsgan_cond_chars.noise(64, 4, 0, lsgan_cond_chars.SAMPLE, chunk) for chunk in (0, 1)])[:n]
    for y in range(5):  # pictures of this class, whose label is right for some and wrong for the others
        drawn = lsgan_cond_chars.generate(G, z, torch.full((n,), y)).numpy().astype(int)
        equal = np.abs(pictures - drawn).max((1, 2, 3)) <= 1
        assert equal.tolist() == (labels == y).tolist()


@pytest.mark.parametrize("script", [lsgan_scenes, stability_grid])
@pytest.mark.parametrize("net", ["Generator", "Discriminator"])
def test_a_size_that_the_layers_cannot_make(script, net):
    """100 would become 96."""
    with pytest.raises(ValueError, match="a multiple of 16, not 100"):
        getattr(script, net)(100, 2)
