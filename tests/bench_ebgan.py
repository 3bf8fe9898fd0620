"""Figure 5 of the paper: LSGAN, the regular GAN and EBGAN on the same data, z and seeds. Prints a table.

    python tests/bench_ebgan.py --data lsun/bedroom --size 64 --steps 20000 --gpu 0
    python -m data.vote runs/ebgan/LSGAN-seed0/samples.npy runs/ebgan/GAN-seed0/samples.npy --out vote.html

EBGAN is Zhao, Mathieu and LeCun 2016 (arXiv 1609.03126); Eq. and Sec. below are theirs. This is also the
worked example of pasting: `Generator` and `init_weights` are lsgan_scenes.py's as they are, `train_step` is
its short form, the auto-encoder and its two losses are new. The other two columns are lsgan_scenes.py itself.

Not theirs: G and the first weights are LSGAN's, z has as many numbers as LSGAN's, and there is no
pulling-away term (Sec. 2.4). At other sizes than 64x64 the margin has to grow with the side, as energies do.
"""

import itertools
import sys
from argparse import Namespace
from collections.abc import Iterator
from functools import partial
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import numpy as np
import torch
import torch.nn.functional as F
from matplotlib.figure import Figure
from torch import Tensor, nn
from torchvision.utils import make_grid
from tqdm import tqdm

import lsgan_scenes as scenes
from data import DataError, make_parser, one_line_errors, runs
from data.images import decode_all, open_images
from data.runs import at_least, multiple_of, some_of
from data.score import compare, features, load_classifier, make_extractor, split_train_test

SYSTEMS = ["LSGAN", "GAN", "EBGAN"]
MEASURES = ["FID", "KID", "precision", "recall"]


# ---------------------------------------------------------------- pasted from lsgan_scenes.py as it is
class Generator(nn.Sequential):
    """z [B, z_dim] -> images [B, 3, size, size] in [-1, 1]. Figure 3a; authors' code: vgg.py.

    size: a multiple of 16. width: channels of the last hidden layer; scales all others.
    """

    def __init__(self, size: int = 112, width: int = 64, z_dim: int = 1024):
        def deconv_block(c_in, c_out, stride):
            # output_padding: so that stride 2 doubles the size
            deconv = nn.ConvTranspose2d(c_in, c_out, 3, stride, padding=1, output_padding=stride - 1)
            return deconv, nn.BatchNorm2d(c_out), nn.ReLU(inplace=True)

        if size % 16:
            raise ValueError(f"size must be a multiple of 16, not {size}")
        w = width
        s = size // 16
        super().__init__(  # shapes at the paper's sizes
            nn.Linear(z_dim, 4 * w * s * s),
            nn.Unflatten(1, (4 * w, s, s)),  # 256 x 7 x 7
            nn.BatchNorm2d(4 * w),
            nn.ReLU(inplace=True),
            *deconv_block(4 * w, 4 * w, stride=2),  # 256 x 14 x 14
            *deconv_block(4 * w, 4 * w, stride=1),  # 256 x 14 x 14
            *deconv_block(4 * w, 4 * w, stride=2),  # 256 x 28 x 28
            *deconv_block(4 * w, 4 * w, stride=1),  # 256 x 28 x 28
            *deconv_block(4 * w, 2 * w, stride=2),  # 128 x 56 x 56
            *deconv_block(2 * w, w, stride=2),  # 64 x 112 x 112
            nn.ConvTranspose2d(w, 3, 3, stride=1, padding=1),  # 3 x 112 x 112
            nn.Tanh(),
        )


def init_weights(net: nn.Module, generator: torch.Generator | None = None) -> None:
    """Normal weights of std 0.02, for Conv2d truncated at two std; biases 0. Authors' code: ops.py."""
    for module in net.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.trunc_normal_(module.weight, std=0.02, a=-0.04, b=0.04, generator=generator)
        elif isinstance(module, (nn.ConvTranspose2d, nn.Linear, nn.Embedding)):
            nn.init.normal_(module.weight, std=0.02, generator=generator)
        if getattr(module, "bias", None) is not None:
            nn.init.zeros_(module.bias)


# ---------------------------------------------------------------- EBGAN
class AutoEncoder(nn.Module):
    """images [B, 3, size, size] in [-1, 1] -> their energy D(x) [B]: ||Dec(Enc(x)) - x||, Sec. 2.3.

    The pictures' side is a multiple of 8. The energy is at least 0, and low for what looks like the training
    pictures.
    """

    def __init__(self, width: int = 64):
        def conv_block(c_in, c_out):
            conv = nn.Conv2d(c_in, c_out, 4, stride=2, padding=1)
            return conv, nn.BatchNorm2d(c_out), nn.LeakyReLU(0.2, inplace=True)

        def deconv_block(c_in, c_out):
            deconv = nn.ConvTranspose2d(c_in, c_out, 4, stride=2, padding=1)
            return deconv, nn.BatchNorm2d(c_out), nn.LeakyReLU(0.2, inplace=True)

        w = width
        super().__init__()
        self.encode = nn.Sequential(  # shapes at 64x64
            nn.Conv2d(3, w, 4, stride=2, padding=1),  # 64 x 32 x 32, no BN
            nn.LeakyReLU(0.2, inplace=True),
            *conv_block(w, 2 * w),  # 128 x 16 x 16
            *conv_block(2 * w, 4 * w),  # 256 x 8 x 8
        )
        self.decode = nn.Sequential(
            *deconv_block(4 * w, 2 * w),  # 128 x 16 x 16
            *deconv_block(2 * w, w),  # 64 x 32 x 32
            nn.ConvTranspose2d(w, 3, 4, stride=2, padding=1),  # 3 x 64 x 64
        )

    def forward(self, images: Tensor) -> Tensor:
        return (self.decode(self.encode(images)) - images).flatten(1).norm(dim=1)


def discriminator_loss(d_real: Tensor, d_fake: Tensor, margin: float) -> Tensor:
    """What D minimizes, Eq. 1: D(x) + [m - D(G(z))]^+. Fakes above the margin m are left alone."""
    return d_real.mean() + F.relu(margin - d_fake).mean()


def generator_loss(d_fake: Tensor) -> Tensor:
    """What G minimizes, Eq. 2: D(G(z))."""
    return d_fake.mean()


def train_step(G, D, opt_g, opt_d, real, z, margin) -> Tensor:
    """Updates D, then G with the same z. Returns d_loss, g_loss, mean D(x), mean D(G(z)), on the device."""
    fake = G(z)  # for both updates: G does not change in between
    d_real = D(real)  # real and fake pictures apart: each has its own BN statistics
    d_fake = D(fake.detach())
    d_loss = discriminator_loss(d_real, d_fake, margin)
    opt_d.zero_grad()
    d_loss.backward()
    opt_d.step()

    D.requires_grad_(False)  # only the gradient of D's input is needed now
    g_loss = generator_loss(D(fake))
    opt_g.zero_grad()
    g_loss.backward()
    opt_g.step()
    D.requires_grad_(True)
    return torch.stack([d_loss, g_loss, d_real.mean(), d_fake.mean()]).detach()


# ---------------------------------------------------------------- training, the same for all three
def train(
    system: str, seed: int, pictures: Tensor, args: Namespace
) -> Iterator[tuple[int, nn.Module, Tensor]]:
    """Trains one system on pictures, uint8 [n, size, size, 3]. At every evaluation: (step, G, losses)."""
    device = pictures.device
    G = Generator(args.size, args.width, args.z_dim)
    if system == "EBGAN":
        D = AutoEncoder(args.width)
        lr = args.ebgan_lr
        update = partial(train_step, margin=args.margin)
    else:
        D = scenes.Discriminator(args.size, args.width)
        lr = args.lr
        update = partial(scenes.train_step, loss={"LSGAN": "ls", "GAN": "sigmoid"}[system])
    init_weights(G, scenes.torch_rng(seed, scenes.INIT_G))
    init_weights(D, scenes.torch_rng(seed, scenes.INIT_D))
    G.to(device, memory_format=torch.channels_last)
    D.to(device, memory_format=torch.channels_last)
    opt_g = torch.optim.Adam(G.parameters(), lr, betas=(0.5, 0.999), fused=True)
    opt_d = torch.optim.Adam(D.parameters(), lr, betas=(0.5, 0.999), fused=True)
    order = scenes.batch_order(len(pictures), args.batch_size, seed, 0)
    batches = scenes.load_batches(pictures, order, device)
    steps = tqdm(range(1, args.steps + 1), f"{system} {seed}", leave=False, disable=None)
    for step, batch in zip(steps, batches):
        real = batch.permute(0, 3, 1, 2) / 127.5 - 1  # [B, 3, size, size] in [-1, 1], channels_last
        z = runs.to_device(scenes.noise(args.batch_size, args.z_dim, seed, scenes.Z, step), device)
        losses = update(G, D, opt_g, opt_d, real, z)
        if scenes.due(step, args.eval_every, args.steps):
            yield step, G, losses


def draw(G: nn.Module, n: int, z_dim: int, device: torch.device) -> Tensor:
    """n pictures, uint8 [n, size, size, 3], from the same z for every system, seed and step."""
    parts = []
    for start in range(0, n, 64):
        z = scenes.noise(64, z_dim, 0, scenes.SAMPLE, start // 64)
        parts.append(scenes.generate(G, z.to(device)))
    return torch.cat(parts)[:n]


def save_samples(folder: Path, pictures: Tensor) -> None:
    """Writes samples.npy, as --sample does: data.score and data.vote read it."""
    folder.mkdir(exist_ok=True)
    with runs.write_file(folder / "samples.npy") as file:
        np.save(file, pictures.cpu().numpy())


# ---------------------------------------------------------------- scores and the figure
def best_and_last(rows: list[dict]) -> dict[str, list[dict]]:
    """The rows of one system -> of every seed the one with the least KID, and the last one."""
    found = {"best": [], "last": []}
    for seed in sorted({row["seed"] for row in rows}):
        of_seed = [row for row in rows if row["seed"] == seed]
        found["best"].append(min(of_seed, key=lambda row: row["KID"]))
        found["last"].append(of_seed[-1])
    return found


def show(values: list[float]) -> str:
    """The mean over seeds, and the standard deviation if there are several."""
    if len(values) == 1:
        return f"{values[0]:.3g}"
    return f"{np.mean(values):.3g} ± {np.std(values, ddof=1):.2g}"


def print_table(rows: list[dict], systems: list[str]) -> None:
    print(f"| system | checkpoint | {' | '.join(MEASURES)} |\n|---|---|---|---|---|---|")
    for system in systems:
        chosen = best_and_last([row for row in rows if row["system"] == system])
        for which, of_seeds in chosen.items():
            steps = ", ".join(str(row["step"]) for row in of_seeds)
            scores = " | ".join(show([row[name] for row in of_seeds]) for name in MEASURES)
            print(f"| {system} | {which}: step {steps} | {scores} |")


def save_figure(path: Path, shown: dict, rows: list[dict], systems: list[str], title: str) -> None:
    """Figure 5: a column for each system, its best checkpoint above the last. shown: see score_systems."""
    figure = Figure(figsize=(4 * len(systems), 9.6), layout="constrained")
    figure.suptitle(title, fontsize=9)
    axes = figure.subplots(2, len(systems), squeeze=False)
    for column, system in enumerate(systems):
        chosen = best_and_last([row for row in rows if row["system"] == system])
        for row, which in enumerate(("best", "last")):
            grid = make_grid(shown[system, which].permute(0, 3, 1, 2), nrow=4, pad_value=255)
            axes[row, column].imshow(grid.permute(1, 2, 0).numpy())
            axes[row, column].set(title=f"{system}, {which} checkpoint", xticks=[], yticks=[])
            scores = [f"{name} {show([of_seed[name] for of_seed in chosen[which]])}" for name in MEASURES]
            axes[row, column].set_xlabel(f"{scores[0]}   {scores[1]}\n{scores[2]}   {scores[3]}")
    with runs.write_file(path) as file:
        figure.savefig(file, format="png", dpi=120)


# ---------------------------------------------------------------- command line
def seeds(text: str) -> list[int]:
    """An argparse type: whole numbers with commas between them."""
    return [at_least(0)(number) for number in text.split(",")]


def parse_args(argv: list[str] | None = None) -> Namespace:
    parser = make_parser("bench_ebgan.py", "Figure 5: LSGAN, the regular GAN and EBGAN side by side")
    add = parser.add_argument
    add("--data", default="rooms", help="as for lsgan_scenes.py")
    add("--limit", type=at_least(1), help="use only so many pictures, spread evenly; unset: all")
    add("--size", type=multiple_of(16), default=64, help="side of the pictures")
    add("--width", type=at_least(1), default=64, help="channels of the first layers; others scale with it")
    add("--z-dim", type=at_least(1), default=1024, help="dimension of the noise z")
    add("--batch-size", type=at_least(2), default=64, help="pictures a step")
    add("--steps", type=at_least(1), default=20_000, help="steps of each training")
    add("--lr", type=at_least(0, float), default=1e-3, help="learning rate of LSGAN and the regular GAN")
    add("--ebgan-lr", type=at_least(0, float), default=1e-3, help="learning rate of EBGAN")
    add("--margin", type=at_least(0, float), default=80.0, help="EBGAN: m; its paper has 80 for bedrooms")
    add("--systems", type=some_of(SYSTEMS), default=SYSTEMS, help="columns of the figure")
    add("--seeds", type=seeds, default=[0, 1, 2], help="the pictures shown are those of the first")
    add("--eval-every", type=at_least(1), default=1000, help="steps between evaluations")
    add("--n", type=at_least(200), default=2000, help="generated pictures of an evaluation")
    add("--extractor", choices=["random", "classifier", "inception"], default="random", help="of features")
    add("--gpu", type=int, help="number of the GPU; -1: the CPU; unset: GPU 0 if there is one")
    add("--out", default="runs/ebgan", help="folder for figure5.png, scores.csv and samples")
    return parser.parse_args(argv)


def score_systems(args: Namespace, pictures: Tensor, extractor: nn.Module) -> tuple[list[dict], dict]:
    """Trains every system with every seed and scores it on the way; keeps the best samples of each.

    Returns a row of measures for each evaluation; and 16 pictures of the first seed for the figure, by
    (system, "best" or "last"), uint8 [16, size, size, 3].
    """
    device = pictures.device
    real = features(pictures, extractor, device)
    rows = []
    shown = {}
    for seed, system in itertools.product(args.seeds, args.systems):
        least = float("inf")
        for step, G, losses in train(system, seed, pictures, args):
            fakes = draw(G, args.n, args.z_dim, device)
            found = compare(features(fakes, extractor, device), real)
            scores = {name: found[name] for name in MEASURES}
            rows.append({"system": system, "seed": seed, "step": step} | scores)
            _, _, d_real, d_fake = losses.tolist()
            text = "  ".join(f"{name} {value:.4g}" for name, value in scores.items())
            where = f"{system} {seed}  step {step}"
            print(f"{where}  D(x) {d_real:.4g}  D(G(z)) {d_fake:.4g}  {text}", flush=True)
            if scores["KID"] < least:
                least = scores["KID"]
                save_samples(Path(args.out) / f"{system}-seed{seed}", fakes)
                if seed == args.seeds[0]:
                    shown[system, "best"] = fakes[:16]
            if seed == args.seeds[0]:
                shown[system, "last"] = fakes[:16]
    return rows, shown


def main(argv: list[str] | None = None) -> None:
    """The program; argv is by default sys.argv[1:]."""
    with one_line_errors("bench_ebgan.py", sizes="--batch-size, --size or --width"):
        args = parse_args(argv)
        device = runs.pick_device(args.gpu)
        runs.set_arithmetic(tf32=True)
        images = open_images(args.data, args.size, limit=args.limit)
        if len(images) < args.batch_size:
            raise DataError(f"--batch-size {args.batch_size} is more than the {len(images)} pictures")
        pictures = decode_all(images).to(device)
        if args.extractor == "classifier":
            extractor = load_classifier(*split_train_test(pictures, images.labels), device)
        else:
            extractor = make_extractor(args.extractor, args.size)
        out = Path(args.out)
        with runs.open_run(out, None):
            rows, shown = score_systems(args, pictures, extractor)
            with runs.write_file(out / "scores.csv") as file:
                lines = [",".join(rows[0])] + [",".join(map(str, row.values())) for row in rows]
                file.write(("\n".join(lines) + "\n").encode())
            title = f"{Path(args.data).name}, {len(pictures):,} pictures, {args.size}x{args.size}, "
            title += f"width {args.width}, {args.steps:,} steps, seeds {args.seeds}; "
            title += f"scores: {extractor.title}"
            save_figure(out / "figure5.png", shown, rows, args.systems, title)
        print_table(rows, args.systems)


if __name__ == "__main__":
    main()
