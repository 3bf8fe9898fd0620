"""Feature extractors for data.score, each with a `title` to stand beside every figure made with it.

`inception`: torch-fidelity's, downloaded. `classifier`: a small network trained here on the labels of the
data (minutes on a CPU; hours for 3,740 classes) and kept beside them. `random`: that network untrained.
"""

import os
import sys
import zlib
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils.data import Dataset, Subset
from tqdm import tqdm

from data import DataError
from data.runs import write_file

Pictures, Device = np.ndarray | Dataset, torch.device | str
LEAST_STEPS = 400  # half a minute to two minutes on a CPU


class Labelled(NamedTuple):  # data.characters' Characters will do as well
    pictures: Pictures
    labels: np.ndarray  # int64 [n]


class Network(nn.Module):
    """uint8 pictures [b, 3, size, size] -> features [b, d]; `head` makes them logits [b, classes]."""

    def __init__(self, size: int, d: int, classes: int = 1, seed: int = 0):
        super().__init__()
        w = 64 if classes > 1000 else 32
        shrink = max(1, size // 28)  # larger pictures cost little more than 28x28
        before, layers = 3, []
        for width, stride in ((w, shrink), (w, 1), (2 * w, 2), (2 * w, 1), (4 * w, 2), (4 * w, 1)):
            kernel = max(3, 2 * stride - 1)
            conv = nn.Conv2d(before, width, kernel, stride, padding=kernel // 2, bias=False)
            layers += [conv, nn.BatchNorm2d(width), nn.ReLU()]
            before = width
        layers += [nn.AdaptiveMaxPool2d(3), nn.Flatten(), nn.Linear(36 * w, d, bias=False), nn.BatchNorm1d(d)]
        self.body, self.head = nn.Sequential(*layers), nn.Linear(d, classes, bias=False)
        generator = torch.Generator().manual_seed(seed)
        for weight in self.body.parameters():
            if weight.dim() > 1:
                nn.init.kaiming_normal_(weight, generator=generator)
        nn.init.normal_(self.head.weight, std=0.02, generator=generator)

    def forward(self, x: Tensor) -> Tensor:
        return self.body(x.float() / 127.5 - 1)


def fetch(pictures: Pictures, indices: np.ndarray, device: Device = "cpu") -> Tensor:
    """Some of the pictures, uint8 [n, H, W, 3] or grey [n, H, W] -> uint8 [b, 3, H, W]."""
    batch = torch.as_tensor(pictures[indices]).to(device)
    return (batch if batch.dim() == 4 else batch[..., None]).permute(0, 3, 1, 2).expand(-1, 3, -1, -1)


@torch.inference_mode()
def features(pictures: Pictures, extractor: nn.Module, device: Device = "cpu") -> Tensor:
    """Pictures, uint8 [n, H, W, 3] or grey [n, H, W], an array or a dataset -> float64 [n, d] on the CPU."""
    extractor.to(device).eval()
    found = []
    for start in tqdm(range(0, len(pictures), 200), desc="features", leave=False, disable=None):
        output = extractor(fetch(pictures, np.arange(start, min(start + 200, len(pictures))), device))
        found.append((output[0] if isinstance(output, tuple) else output).double().cpu())
    return torch.cat(found)


@torch.inference_mode()
def count_hits(net: Network, found: Tensor, labels: np.ndarray, k: int = 1) -> int:
    """For how many of the features [n, d] the label is among the k classes that `net` holds most likely."""
    weight, hits = net.head.weight.double().cpu(), 0
    for part, y in zip(found.split(4096), torch.as_tensor(labels).split(4096)):
        hits += int(((part @ weight.T).topk(min(k, len(weight))).indices == y[:, None]).sum())
    return hits


def train_classifier(train: Labelled, device: Device = "cpu") -> Network:
    """A network that tells the labels apart, after 128 pictures in each of 8 steps a class."""
    random, classes = np.random.default_rng(0), int(train.labels.max()) + 1
    net = Network(fetch(train.pictures, np.arange(1)).shape[-1], 128, classes).to(device)
    steps = max(LEAST_STEPS, 8 * classes)
    print(f"training a classifier of {classes:,} classes in {steps:,} steps", file=sys.stderr)
    optimizer = torch.optim.AdamW(net.parameters(), weight_decay=0.05)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, max_lr=4e-3, total_steps=steps)
    for _ in tqdm(range(steps), leave=False, disable=None):
        indices = random.integers(len(train.labels), size=128)
        x = fetch(train.pictures, indices, device).roll(tuple(random.integers(-1, 2, size=2)), (2, 3))
        y = torch.as_tensor(train.labels[indices]).to(device)
        loss = nn.functional.cross_entropy(net.head(net(x)), y, label_smoothing=0.1)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
    return net


def load_classifier(train: Labelled, test: Labelled, spec: str, device: Device = "cpu") -> Network:
    """Trained before on this data and kept beside it, or trained now.

    `hits`: its right answers on `test`, which it was not trained on.
    """
    some = np.asarray(train.pictures[np.linspace(0, len(train.labels) - 1, 16).astype(int)])
    made_of = zlib.crc32(train.labels.tobytes() + some.tobytes())
    path = Path(f"{os.path.abspath(spec)}_classifier_{made_of:08x}.pt")  # other data, other file
    net = Network(some.shape[1], 128, int(train.labels.max()) + 1)
    try:
        net.load_state_dict(torch.load(path, map_location="cpu", weights_only=True))
    except Exception:  # it is not there, or damaged in whatever way: train
        net = train_classifier(train, device)
        try:
            with write_file(path) as file:
                torch.save(net.state_dict(), file)
        except OSError as error:
            print(f"the classifier cannot be kept in {path} ({error})", file=sys.stderr)
    net.hits, n = count_hits(net, features(test.pictures, net, device), test.labels), len(test.labels)
    net.title = f"classifier, {net.hits / n:.1%} right on {n:,} held-out pictures"
    return net


def halves(dataset: Dataset) -> tuple[Labelled, Labelled]:
    """open_images' pictures and labels -> four fifths to train a classifier on, and one fifth held out."""
    if dataset.labels is None or not dataset.labels.any() or len(dataset) < 5:
        raise DataError("the classifier needs labelled pictures, 5 of 2 classes: use --extractor random")
    fifth = np.arange(len(dataset)) % 5 == 4
    rows = np.flatnonzero(~fifth), np.flatnonzero(fifth)
    return tuple(Labelled(Subset(dataset, part), dataset.labels[part]) for part in rows)


def make_extractor(name: str, size: int, seed: int = 0) -> nn.Module:
    """name: inception (any size), or random, for pictures of size x size; load_classifier makes the third."""
    if name == "random":
        net = Network(size, 64, seed=seed)
        net.head, net.title = None, f"random, 64 features, seed {seed}"
        return net
    try:
        from torch_fidelity import feature_extractor_inceptionv3 as inception

        net = inception.FeatureExtractorInceptionV3("inception-v3-compat", ["2048"], verbose=False)
    except ImportError as error:
        raise DataError(f"Inception needs torch-fidelity: pip install torch-fidelity ({error})") from error
    except (OSError, RuntimeError) as error:
        where = f"get {inception.URL_INCEPTION_V3} into {torch.hub.get_dir()}/checkpoints"
        raise DataError(f"Inception's weights cannot be downloaded ({error}): {where}") from error
    net.head, net.title = net.fc, "inception, 2048 features"
    return net
