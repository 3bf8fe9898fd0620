"""What a training run needs around its method: batches in a seeded order, whole files, curves."""

import atexit
import contextlib
import io
import os
import signal
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
import torch.distributed as dist
from torch import nn
from torch.utils.data import DataLoader, Dataset

from data import DataError

ORDER = 1000  # a stream of random numbers that no script uses for anything else


def load_batches(
    dataset: Dataset, batch_size: int, seed: int, start: int, stop: int, share=slice(None), workers: int = 0
) -> DataLoader:
    """Whole batches, `share` of each for this process, one for each of the steps start + 1 ... stop.

    Every epoch is a new permutation, a function of (seed, epoch), and drops its last partial batch. So the
    batch of a step depends neither on where training started nor on the number of workers.
    """
    per_epoch = len(dataset) // batch_size

    def indices():
        for step in range(start, stop):
            epoch, i = divmod(step, per_epoch)
            if i == 0 or step == start:
                generator = np.random.default_rng(np.random.SeedSequence([seed, ORDER, epoch]))
                order = generator.permutation(len(dataset))
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


def join_processes(device: torch.device) -> tuple[int, int]:
    """(rank, number of processes): (0, 1), unless torchrun started this process as one of several."""
    if "LOCAL_RANK" not in os.environ:
        return 0, 1
    dist.init_process_group("nccl" if device.type == "cuda" else "gloo")
    atexit.register(dist.destroy_process_group)
    if device.type == "cpu" and dist.get_rank() == 0:
        print("on CPUs each process has batch normalisation statistics of its own")
    return dist.get_rank(), dist.get_world_size()


def average_gradients(net: nn.Module) -> None:
    """With several processes: one flat all_reduce. DDP does not fit, as D runs thrice a step, once frozen."""
    if dist.is_initialized():
        grads = [p.grad for p in net.parameters()]
        flat = torch.cat([grad.reshape(-1) for grad in grads]) / dist.get_world_size()
        dist.all_reduce(flat)
        for grad, mean in zip(grads, flat.split([grad.numel() for grad in grads])):
            grad.copy_(mean.view(grad.shape))


@contextlib.contextmanager
def catch_signals() -> Iterator[list[int]]:
    """Inside, SIGINT and SIGTERM do not interrupt: their numbers are appended to the list.

    A data worker that is killed, as by lack of memory, interrupts wherever the loop is: DataError.
    """
    caught = []
    old = {n: signal.signal(n, lambda n, frame: caught.append(n)) for n in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield caught
    except RuntimeError as error:
        if "DataLoader worker" not in str(error):
            raise
        raise DataError(f"{str(error).strip(' .')}; --workers 0 reads without any") from error
    finally:
        for number, handler in old.items():
            signal.signal(number, handler)


def start_run(out: Path, resume: str | None) -> None:
    """Makes the run directory. Raises DataError if something is in it, but for the run that is resumed."""
    in_place = resume and Path(resume).resolve() == (out / "last.pt").resolve()
    if not in_place and out.exists() and set(os.listdir(out)) - {"last.pt.tmp"}:
        raise DataError(f"{out} is in use: --resume goes on with the run in it, --out FOLDER starts another")
    out.mkdir(parents=True, exist_ok=True)


@contextlib.contextmanager
def write_file(path: Path) -> Iterator[io.BytesIO]:
    """`with write_file(path) as file`: whatever happens, `path` is then whole, the old file or the new."""
    temporary = path.with_name(path.name + ".tmp")
    buffer = io.BytesIO()
    yield buffer
    try:
        with open(temporary, "wb") as file:
            file.write(buffer.getbuffer())
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except OSError as error:
        temporary.unlink(missing_ok=True)
        raise OSError(error.errno, error.strerror, str(path)) from error


def write_row(path: Path, log: list[str], row: list[float]) -> str:
    """Adds a row to `log`, whose first line is the header, and to the file; returns it in words."""
    log.append(",".join([str(row[0]), *(f"{value:.7g}" for value in row[1:])]) + "\n")
    with open(path, "a") as file:
        file.write(log[-1])
    names = log[0].split(",")
    return f"step {row[0]}  " + "  ".join(f"{n} {v:.4g}" for n, v in zip(names[1:-1], row[1:-1]))


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
