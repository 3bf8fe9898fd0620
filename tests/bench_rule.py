"""Is the rule of the stability grid right about cases whose answer is known? A table, for each extractor.

    python tests/bench_rule.py --data natural --size 64

The cases are real pictures of this data, made worse in known ways. The same ones are the grid's tests.
"""

import math
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import numpy as np
import torch
from torch import Tensor

import stability_grid as grid
from data import make_parser, one_line_errors
from data.images import Images, open_images
from data.judge import Judge, blur, choose_extractor, verdict
from data.runs import multiple_of


def make_judge(images: Images, kind: str | None = None) -> Judge:
    """A judge by `kind` of features; None: the grid's choice for this data. The CPU is fast enough."""
    kind = choose_extractor(kind, images, images.labels)
    return Judge(images, images.labels, kind, images.size, torch.device("cpu"))


def planted(n: int, pictures: Tensor) -> dict[str, Tensor]:
    """What a cell might end with: n pictures each, uint8 [n, size, size, 3], made from real ones [n, ...]."""
    rng = np.random.default_rng(0)
    size = pictures.shape[1]
    one = pictures[:1].expand(n, -1, -1, -1)
    few = pictures[:: math.ceil(len(pictures) / 8)]
    G = grid.Generator(size, 16, 64)
    grid.init_weights(G, grid.torch_rng(0, grid.INIT_G))
    return {
        "real pictures": pictures,
        "a light lattice over them": add_lattice(pictures, 10),
        "a heavy lattice over them": add_lattice(pictures, 25),
        "blurred to 24x24 pixels": blur(pictures, 24),
        "blurred to 16x16 pixels": blur(pictures, 16),
        "blurred to 8x8 pixels": blur(pictures, 8),
        "blurred to 4x4 pixels": blur(pictures, 4),
        "blurred to 2x2 pixels": blur(pictures, 2),
        "8 pictures, repeated": few[torch.arange(n) % len(few)],
        "copies of one picture": one,
        "copies with little noise": whole(one + torch.from_numpy(rng.integers(0, 6, one.shape))),
        "noise": torch.from_numpy(rng.integers(0, 256, one.shape, dtype=np.uint8)),
        "untrained generator": grid.generate(G, grid.noise(n, 64, 7, grid.FIXED_Z, 0)),
    }


def whole(pictures: Tensor) -> Tensor:
    """Grey levels of any range, as uint8."""
    return pictures.clamp(0, 255).byte()


def add_lattice(pictures: Tensor, grey_levels: int) -> Tensor:
    """A checkerboard of 2x2 pixels that are lighter and darker by so many grey levels."""
    cell = torch.arange(pictures.shape[1]) // 2
    sign = 1 - 2 * ((cell[:, None] + cell) % 2)  # 1 and -1, [size, size]
    return whole(pictures + grey_levels * sign[:, :, None])


def main(argv: list[str] | None = None) -> None:
    """Prints the table."""
    parser = make_parser("bench_rule.py", "The rule of the stability grid, on cases whose answer is known")
    parser.add_argument("--data", default="rooms", help="as for stability_grid.py")
    parser.add_argument("--size", type=multiple_of(16), default=32, help="side of the pictures")
    args = parser.parse_args(argv)
    images = open_images(args.data, args.size)
    labelled = images.labels is not None and images.labels.any()
    print("| extractor | case | FID | diversity | verdict |\n| --- | --- | --- | --- | --- |")
    for kind in ["random", "classifier"] if labelled else ["random"]:
        judge = make_judge(images, kind)
        # None of those that the judge compares with: equal pictures would look better than other real ones.
        others = np.setdiff1d(np.arange(len(images)), judge.reference)
        some = np.random.default_rng(1).permutation(others)[: judge.n]
        for name, pictures in planted(judge.n, images[some]).items():
            found = judge.measure(pictures)
            fid, diversity = found["FID"], found["diversity"]
            word = verdict(fid, diversity, judge.fid_learned, judge.fid_degraded)
            print(f"| {kind} | {name} | {fid:.3g} | {diversity:.2f} | {word} |", flush=True)


if __name__ == "__main__":
    with one_line_errors("bench_rule.py"):
        main()
