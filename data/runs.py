"""What a training run needs around its method: batches in a seeded order, whole files, curves."""

import contextlib
import io
import os
import signal
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset


def load_batches(
    dataset: Dataset, batch_size: int, seed: int, start: int, stop: int, share=slice(None), workers=0
):
    """A DataLoader of whole batches, one for each of the steps start + 1 ... stop.

    Every epoch is a new permutation, a function of (seed, epoch), and drops its last partial batch, so the batch of a
    step depends on neither the start nor `workers`. `share` is the slice of each batch that this process takes.
    """
    per_epoch = len(dataset) // batch_size

    def indices():
        for step in range(start, stop):
            epoch, i = divmod(step, per_epoch)
            if i == 0 or step == start:
                order = np.random.default_rng(np.random.SeedSequence([seed, 1000, epoch])).permutation(
                    len(dataset)
                )
            yield order[i * batch_size : (i + 1) * batch_size][share]

    return DataLoader(
        dataset,
        sampler=indices(),
        batch_size=None,  # the dataset hands over whole batches
        num_workers=workers,
        pin_memory=torch.cuda.is_available(),
        worker_init_fn=ignore_signals,
        generator=torch.Generator(),  # or the loader would draw from the global one
    )


def ignore_signals(worker: int) -> None:
    """Ctrl-C and a group's SIGTERM reach the data workers too, but it is the training loop that answers."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)


@contextlib.contextmanager
def write_file(path: Path) -> Iterator[io.BytesIO]:
    """`with write_file(path) as file`: whatever happens, `path` is whole afterwards, the old file or the new one."""
    temporary = path.with_name(path.name + ".tmp")
    buffer = io.BytesIO()
    yield buffer
    try:
        with open(temporary, "wb") as file:
            file.write(buffer.getbuffer())
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except OSError:
        temporary.unlink(missing_ok=True)
        raise


def save_curves(log: Path) -> None:
    """Draws a run's log.csv as curves.png beside it: the losses, and D's mean answers to real and fake."""
    from matplotlib.figure import Figure

    rows = np.genfromtxt(log, delimiter=",", names=True, ndmin=1)
    figure = Figure(figsize=(10, 3.2), layout="constrained")
    for axes, names in zip(figure.subplots(1, 2), [("d_loss", "g_loss"), ("d_real", "d_fake")]):
        for name in names:
            axes.plot(rows["step"], rows[name], label=name, linewidth=0.8)
        axes.set_xlabel("step")
        axes.legend()
    with write_file(log.with_name("curves.png")) as file:
        figure.savefig(file, format="png")
