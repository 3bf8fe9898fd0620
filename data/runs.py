"""The bookkeeping of a run: its arguments, device, directory, files, checkpoints, signals and processes."""

import atexit
import contextlib
import json
import math
import os
import shlex
import shutil
import signal
import sys
import threading
import time
import zipfile
from argparse import ArgumentParser, ArgumentTypeError, Namespace
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import BinaryIO, NoReturn

import filelock
import numpy as np
import torch
import torch.distributed as dist
from PIL import Image
from torch import Tensor
from tqdm import tqdm

from data import DataError, is_out_of_memory

LOG_COLUMNS = ("step", "d_loss", "g_loss", "d_real", "d_fake", "images_per_second", "seconds")
LOG_HEADER = ",".join(LOG_COLUMNS) + "\n"
# Arguments that no checkpoint keeps
NOT_SAVED = {"gpu", "out", "quick", "resume", "sample", "n", "text"}


# ---------------------------------------------------------------- arguments
def whole_number(text: str) -> int:
    """An argparse type: any whole number."""
    try:
        number = int(text)
    except ValueError:
        raise ArgumentTypeError(f"{text!r} is not a whole number") from None
    if abs(number) >= 2**63:  # PyTorch takes no larger ones
        raise ArgumentTypeError(f"{text} is too large")
    return number


def finite(text: str) -> float:
    """An argparse type: any number but nan, inf and -inf."""
    try:
        number = float(text)
    except ValueError:
        raise ArgumentTypeError(f"{text!r} is not a number") from None
    if not math.isfinite(number):
        raise ArgumentTypeError(f"must be finite, not {text}")
    return number


def at_least(least: float, kind: type = int) -> Callable[[str], float]:
    """An argparse type: a whole number, or with kind=float any finite one, that is not below `least`."""
    convert = whole_number if kind is int else finite

    def parse(text: str) -> float:
        number = convert(text)
        if number < least:
            raise ArgumentTypeError(f"must be at least {least}, not {text}")
        return number

    return parse


def below_one(text: str) -> float:
    """An argparse type: at least 0, below 1."""
    number = at_least(0, float)(text)
    if number >= 1:
        raise ArgumentTypeError(f"must be less than 1, not {text}")
    return number


def between(least: float, most: float, kind: type = int) -> Callable[[str], float]:
    """An argparse type: as at_least, and not above `most`."""

    def parse(text: str) -> float:
        number = at_least(least, kind)(text)
        if number > most:
            raise ArgumentTypeError(f"must be at most {most:g}, not {text}")
        return number

    return parse


def multiple_of(divisor: int) -> Callable[[str], int]:
    """An argparse type: a positive multiple of `divisor`."""

    def parse(text: str) -> int:
        number = at_least(1)(text)
        if number % divisor:
            raise ArgumentTypeError(f"must be a multiple of {divisor}, not {text}")
        return number

    return parse


def some_of(known: list[str]) -> Callable[[str], list[str]]:
    """An argparse type: comma-separated names from `known`, none of them twice."""

    def parse(text: str) -> list[str]:
        names = text.split(",")
        for name in names:
            if name not in known:
                raise ArgumentTypeError(f"{name!r} is not one of {', '.join(known)}")
            if names.count(name) > 1:
                raise ArgumentTypeError(f"{name!r} is given twice")
        return names

    return parse


def not_empty(text: str) -> str:
    """An argparse type: a non-empty string."""
    if not text:
        raise ArgumentTypeError("must not be empty")
    return text


def new_file(ending: str) -> Callable[[str], Path]:
    """An argparse type: a file to be written, with this ending, in a folder that exists."""

    def parse(text: str) -> Path:
        path = Path(text)
        if path.suffix != ending:
            raise ArgumentTypeError(f"must end in {ending}, not {text!r}")
        if not os.path.isdir(path.parent):
            raise ArgumentTypeError(f"there is no folder {path.parent}")
        return path

    return parse


def parse_args(
    parser: ArgumentParser, argv: list[str] | None, default_out: Callable[[Namespace], str]
) -> Namespace:
    """Parses a script's command line, and fills in args.out.

    With --resume or --sample the checkpoint's arguments come first and the given ones after them, so that
    what is given wins; with --resume the changes are printed. default_out: the run directory that follows
    from arguments.
    """
    argv = sys.argv[1:] if argv is None else [str(word) for word in argv]
    given = parser.parse_args(argv)
    if vars(given).get("sample") and started_by_torchrun():
        parser.error("--sample runs in a single process: start it without torchrun")
    if given.resume is True:
        given.resume = str(Path(given.out or default_out(given), "last.pt"))
    checkpoint = given.resume or vars(given).get("sample")
    if not checkpoint:
        given.out = given.out or default_out(given)
        return given

    saved = as_flags(load_checkpoint(checkpoint)["args"], vars(given))
    before = parser.parse_args(saved)
    args = parser.parse_args(saved + argv)
    args.resume = given.resume
    args.out = args.out or str(Path(checkpoint).parent)
    if args.resume:
        print_changes(saved_args(before), saved_args(args))
    return args


def print_changes(before: dict, after: dict) -> None:
    """A line for each argument of a resumed run that is not the checkpoint's."""
    for name in after:
        old, new = before[name], after[name]
        if isinstance(new, list):
            old, new = ",".join(old), ",".join(new)
        if new != old:
            print_once(f"--{name.replace('_', '-')} {new}, was {old}")


def check_unchanged(args: Namespace, saved: dict, names: Iterable[str]) -> None:
    """DataError if an argument of a resumed run, one of these names, is not the checkpoint's."""
    for name in names:
        if getattr(args, name) != saved.get(name):
            flag = name.replace("_", "-")
            raise DataError(f"--{flag} is {saved.get(name)} in {args.resume} and cannot change")


def as_flags(saved: dict, known: dict) -> list[str]:
    """Saved arguments as flags of a command line, so that argparse checks those of a resumed run too."""
    flags = []
    for name, value in saved.items():
        flag = f"--{name}".replace("_", "-")
        if name in NOT_SAVED or name not in known or value is None:
            continue
        if value is True:
            flags.append(flag)
        elif value is False:
            flags.append(f"--no-{flag[2:]}")
        elif isinstance(value, list):
            flags.append(f"{flag}={','.join(map(str, value))}")
        else:
            flags.append(f"{flag}={value}")
    return flags


def saved_args(args: Namespace) -> dict:
    """The arguments that a checkpoint keeps."""
    return {name: value for name, value in vars(args).items() if name not in NOT_SAVED}


# ---------------------------------------------------------------- device and processes
def started_by_torchrun() -> bool:
    """Whether this is one of torchrun's processes. A cluster's scheduler sets some of these, but not all."""
    return all(name in os.environ for name in ("RANK", "WORLD_SIZE", "LOCAL_RANK", "MASTER_ADDR"))


def print_once(text: str) -> None:
    """Prints what every process would print alike: of several that torchrun started, rank 0 does so."""
    if not started_by_torchrun() or os.environ["RANK"] == "0":
        print(text)


def pick_device(gpu: int | None, graph: bool = False) -> torch.device:
    """--gpu N: that GPU; -1: the CPU; None: GPU 0, under torchrun the local rank's, or else the CPU.

    Raises DataError if there is no such GPU, or with graph (--graph) if that leaves the CPU.
    """
    count = torch.cuda.device_count()
    if graph and (gpu == -1 or count == 0):
        raise DataError("--graph needs a GPU; --no-graph runs without it")
    if gpu == -1:
        return torch.device("cpu")
    if gpu is None:
        if count == 0:
            print_once("no GPU found: running on the CPU")
            return torch.device("cpu")
        gpu = int(os.environ["LOCAL_RANK"]) if started_by_torchrun() else 0
    elif started_by_torchrun():
        raise DataError("under torchrun the local rank chooses the GPU; only --gpu -1 (the CPU) may be given")
    if not 0 <= gpu < count:
        found = ", ".join(f"{i} ({torch.cuda.get_device_name(i)})" for i in range(count)) or "none"
        raise DataError(f"there is no GPU {gpu}; GPUs found: {found}; --gpu -1 runs on the CPU")
    torch.cuda.set_device(gpu)
    return torch.device("cuda", gpu)


def set_arithmetic(tf32: bool) -> None:
    """Makes cuDNN deterministic. tf32: float32 layers compute with 10 bits of mantissa, much faster."""
    torch.backends.cudnn.deterministic = True  # a resumed run equals an uninterrupted one
    torch.backends.cudnn.allow_tf32 = tf32  # convolutions
    torch.backends.cuda.matmul.allow_tf32 = tf32  # linear layers


def to_device(tensor: Tensor, device: torch.device) -> Tensor:
    """The tensor on the device. A GPU copies it from pinned memory, so that the program need not wait."""
    if device.type == "cpu":
        return tensor
    return tensor.pin_memory().to(device, non_blocking=True)


def from_workers(loader: Iterable) -> Iterator:
    """The batches of a DataLoader. If a worker dies, PyTorch's own error about that is raised."""
    try:
        yield from loader
    except (ConnectionError, EOFError):
        time.sleep(1)  # meanwhile PyTorch's signal handler raises the better error
        raise


class Graph:
    """A training step as one CUDA graph: one launch instead of hundreds, for steps bound by their launches.

    step: takes tensors on the GPU, always of the same shapes; steps the optimizers, whose states must not be
    loaded afterwards; returns a tensor. The first three calls are eager and warm up: they create the
    optimizers' states and initialize the libraries. The fourth is captured, and from then on every call
    copies its arguments to the captured inputs and replays the kernels. DataError with several processes.
    """

    def __init__(self, step: Callable[..., Tensor], optimizers: Iterable, device: torch.device):
        if dist.is_initialized() and dist.get_world_size() > 1:
            raise DataError("--graph needs a single process")
        for optimizer in optimizers:
            for group in optimizer.param_groups:
                group["capturable"] = True
            for state in optimizer.state.values():
                if "step" in state:  # in a loaded state it may be on the CPU
                    state["step"] = state["step"].to(device)
        self.step = step
        self.graph = torch.cuda.CUDAGraph()
        self.stream = torch.cuda.Stream(device)
        self.calls = 0

    def __call__(self, *inputs: Tensor) -> Tensor:
        self.calls += 1
        if self.calls <= 3:
            self.stream.wait_stream(torch.cuda.current_stream())
            with torch.cuda.stream(self.stream):
                output = self.step(*inputs)
            torch.cuda.current_stream().wait_stream(self.stream)
            return output
        if self.calls == 4:
            self.inputs = [tensor.clone() for tensor in inputs]
            # A capture computes nothing. thread_local: other threads may pin memory meanwhile.
            with torch.cuda.graph(self.graph, capture_error_mode="thread_local"):
                self.output = self.step(*self.inputs)
        for static, new in zip(self.inputs, inputs, strict=True):
            static.copy_(new)
        self.graph.replay()
        return self.output.clone()


def join_processes(device: torch.device) -> tuple[int, int]:
    """(rank, number of processes): (0, 1), unless torchrun started this process as one of several."""
    if not started_by_torchrun():
        return 0, 1
    if device.type == "cuda":
        dist.init_process_group("nccl", device_id=device)
    else:
        dist.init_process_group("gloo")
    atexit.register(dist.destroy_process_group)
    if device.type == "cpu" and dist.get_rank() == 0:
        print("on CPUs each process has batch normalization statistics of its own")
    return dist.get_rank(), dist.get_world_size()


def check_batch_size(batch_size: int, world: int, n: int) -> None:
    """DataError unless n pictures fill a batch, and `world` processes share it, each with 2 or more."""
    if batch_size > n:
        raise DataError(f"--batch-size {batch_size} is larger than the data: {n} pictures")
    if batch_size % world or batch_size < 2 * world:
        raise DataError(
            f"--batch-size {batch_size} must be a multiple of the number of processes, {world},"
            " and at least 2 for each"
        )


def average_gradients(optimizer: torch.optim.Optimizer, args: tuple = (), kwargs: dict | None = None) -> None:
    """For optimizer.register_step_pre_hook: the mean of all processes' gradients, in one collective.

    DistributedDataParallel does not fit: D runs three times a step, once with frozen weights.
    """
    gradients = [p.grad for group in optimizer.param_groups for p in group["params"]]
    flat = torch.cat([gradient.flatten() for gradient in gradients])
    dist.all_reduce(flat)
    flat /= dist.get_world_size()
    for gradient, mean in zip(gradients, flat.split([gradient.numel() for gradient in gradients])):
        gradient.copy_(mean.view(gradient.shape))


def own_share(batch_size: int, rank: int, world: int) -> slice:
    """Where the process of this rank finds its part of a batch."""
    part = batch_size // world
    return slice(rank * part, (rank + 1) * part)


def average(values: Tensor) -> Tensor:
    """The mean of all processes' values, in place."""
    if dist.is_initialized():
        dist.all_reduce(values)
        values /= dist.get_world_size()
    return values


@contextlib.contextmanager
def catch_signals() -> Iterator[list[int]]:
    """Inside, SIGINT, SIGTERM and SIGHUP do not interrupt: their numbers are appended to the list.

    A second Ctrl-C does interrupt, as the loop may hang and never look at the list; but not under torchrun,
    whose processes get each Ctrl-C twice. SIGHUP, a closed terminal, stays ignored under nohup.
    """
    caught = []
    if threading.current_thread() is not threading.main_thread():
        yield caught  # Python lets only the main thread set handlers
        return

    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    if hasattr(signal, "SIGHUP") and signal.getsignal(signal.SIGHUP) != signal.SIG_IGN:
        before[signal.SIGHUP] = signal.getsignal(signal.SIGHUP)

    def remember(number, frame):
        caught.append(number)
        if number == signal.SIGINT and not started_by_torchrun():
            signal.signal(number, before[number])

    for number in before:
        signal.signal(number, remember)
    try:
        yield caught
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def agree_to_stop(caught: list[int], step: int, every: int, device: torch.device) -> int:
    """The signal that this process or another one has caught; 0 if there is none.

    Processes compare only every `every` steps, as that waits for all of them.
    """
    number = max(caught, default=0)
    if not dist.is_initialized():
        return number
    if step % every:
        return 0
    agreed = torch.tensor(number, device=device)
    dist.all_reduce(agreed, dist.ReduceOp.MAX)
    return int(agreed)


def exit_stopped(number: int, step: int, out: Path) -> NoReturn:
    """Ends the program after a signal; the exit code is 130 for Ctrl-C, 143 for SIGTERM, 129 for SIGHUP."""
    if not dist.is_initialized() or dist.get_rank() == 0:
        tqdm.write(f"stopped at step {step}; --resume {shlex.quote(str(out / 'last.pt'))} goes on")
    wait_for_all()  # rank 0 has been saving, and torchrun ends all processes when the first one has left
    sys.exit(128 + number)


def available_cores() -> int:
    """The cores that this process may use, by its affinity; a quota, as of docker --cpus, is not seen."""
    if hasattr(os, "sched_getaffinity"):  # Linux
        return len(os.sched_getaffinity(0))
    return os.cpu_count()


def local_processes() -> int:
    """How many processes torchrun has started on this machine; 1 without it."""
    return int(os.environ.get("LOCAL_WORLD_SIZE", 1)) if started_by_torchrun() else 1


def default_workers() -> int:
    """Data workers of one process: its share of this machine's cores, from 1 to 16."""
    return min(max(available_cores() // local_processes(), 1), 16)


def check_shared_memory(workers: int | None, batch_bytes: int) -> None:
    """Raises DataError if the batches of data workers may not fit into the free shared memory.

    A worker that finds no room for its batch loses it, and the run would wait for ever. workers: of each
    process, None for the default; each has up to two batches of this size on their way.
    """
    shared = "/dev/shm"
    if not os.path.isdir(shared):  # not Linux
        return
    total = local_processes() * (default_workers() if workers is None else workers)
    needed, free = 2 * total * batch_bytes, shutil.disk_usage(shared).free
    if needed > free:
        raise DataError(
            f"{total} data workers need up to {needed / 1e6:,.0f} MB of shared memory, and"
            f" {shared} has {free / 1e6:,.0f} MB: --workers N uses fewer, docker run --shm-size makes more"
        )


def leave_process_group(worker: int) -> None:
    """For DataLoader's worker_init_fn: Ctrl-C in a terminal then reaches the training loop alone."""
    if hasattr(os, "setpgid"):
        os.setpgid(0, 0)


# ---------------------------------------------------------------- run directory and files
def check_unused(out: Path, resume: str | None) -> None:
    """Raises DataError if something is in the run directory, unless that is the run to be resumed."""
    if resume and Path(resume).resolve() == (out / "last.pt").resolve():
        return
    try:
        found = set(os.listdir(out)) if out.exists() else set()
    except OSError as error:
        raise DataError(f"the run directory {out} cannot be read ({error.strerror})") from error
    if found - {".lock", "last.pt.tmp"}:  # a run killed before its first last.pt leaves these
        raise DataError(
            f"{out} is not empty: --resume goes on from its last.pt, --out FOLDER starts another run"
        )


@contextlib.contextmanager
def open_run(out: Path, resume: str | None, rank: int = 0) -> Iterator[None]:
    """Makes the run directory and keeps other runs out of it. Of several processes, rank 0 does so for all.

    Raises DataError if it cannot be made, if another process runs in it, or if something is in it already,
    unless that is the run to be resumed. Read its checkpoint inside: before, another process may still be
    writing it.
    """
    if rank > 0:
        wait_for_all()
        yield
        return
    check_unused(out, resume)  # before a lock file is put into somebody's folder
    try:
        out.mkdir(parents=True, exist_ok=True)
        lock = filelock.FileLock(out / ".lock")
        lock.acquire(timeout=0)
    except filelock.Timeout:
        raise DataError(f"another process is running in {out}; --out FOLDER starts another run") from None
    except OSError as error:
        raise DataError(f"the run directory {out} cannot be written ({error.strerror})") from error
    try:
        check_unused(out, resume)  # another process may have been faster
        wait_for_all()
        yield
    finally:
        lock.release()


def wait_for_all() -> None:
    """Waits until the other processes, if there are any, are here too."""
    if dist.is_initialized():
        dist.barrier()


def make_folder(path: Path) -> None:
    """Makes a folder, and those above it, unless it is there. DataError if it cannot be made."""
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise DataError(f"the folder {path} cannot be made ({error.strerror})") from error


def lock_file(file: BinaryIO, writer: str) -> None:
    """Locks an open file until it is closed. writer: the program's name, for the message.

    Raises DataError if another process holds the lock, or if the file system has no locks; then an empty file
    is removed.
    """
    import fcntl  # which Windows lacks; the training scripts do not need it

    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        raise DataError(f"another {writer} is writing {file.name}") from None
    except OSError as error:
        if os.path.getsize(file.name) == 0:
            os.unlink(file.name)
        raise DataError(f"{file.name} cannot be locked ({error.strerror})") from error


@contextlib.contextmanager
def write_file(path: Path) -> Iterator[BinaryIO]:
    """`with write_file(path) as file`: `path` is always complete, the old file or the new one.

    If the block raises, nothing is written. DataError if the file cannot be written. Two processes must not
    write the same file at once.
    """
    temporary = path.with_name(path.name + ".tmp")
    try:
        with open(temporary, "wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except OSError as error:
        reason = error.strerror or error
        raise DataError(f"{path} cannot be written ({reason}); what was there is kept") from error
    finally:
        with contextlib.suppress(OSError):
            temporary.unlink()  # after os.replace it is no longer there


def write_args_and_log(out: Path, args: Namespace, rows: list[str]) -> None:
    """Writes args.json and log.csv and makes the folder samples/.

    A resumed run's log.csv then ends where its checkpoint does.
    """
    make_folder(out / "samples")
    with write_file(out / "args.json") as file:
        file.write(json.dumps(saved_args(args), indent=1).encode())
    with write_file(out / "log.csv") as file:
        file.write("".join(rows).encode())


def save_checkpoint(path: Path, objects: dict, **values) -> None:
    """Writes the states of `objects` (networks and optimizers) and plain values, in one dict."""
    states = {name: item.state_dict() for name, item in objects.items()}
    with write_file(path) as file:
        try:
            torch.save({**values, **states}, file)
        except RuntimeError as error:
            # After a failed write PyTorch still tries to finish the archive; that error hides the OSError.
            if isinstance(error.__context__, OSError):
                raise error.__context__ from None
            raise


def load_checkpoint(path: Path | str, objects: dict | None = None) -> dict:
    """Reads what save_checkpoint wrote, runs no code from it, and gives `objects` their states.

    Learning rates and the like stay as the optimizers have them. Raises DataError that says what is wrong.
    """
    checkpoint = read_checkpoint(Path(path))
    for name, item in (objects or {}).items():
        if not isinstance(checkpoint.get(name), dict):
            raise DataError(f"{path} holds no {name}: another script or another setting wrote it")
        state = checkpoint[name]
        if isinstance(item, torch.optim.Optimizer):
            own_settings = item.state_dict()["param_groups"]
            item.load_state_dict({**state, "param_groups": own_settings})
            continue
        try:
            item.load_state_dict(state)
        except RuntimeError as error:  # its tensors have other names or shapes
            if is_out_of_memory(error):
                raise
            reason = " ".join(str(error).split())[:300]
            raise DataError(
                f"{path} does not fit {name}: another script wrote it, or other sizes were given ({reason})"
            ) from None
    return checkpoint


def read_checkpoint(path: Path) -> dict:
    """The whole dict in a checkpoint, its tensors on the CPU. DataError if it is missing or damaged."""
    if not os.path.isfile(path):
        message = f"there is no checkpoint {path}"
        others = sorted(map(str, Path("runs").glob("*/last.pt")))
        if others:
            message += f"; there are {', '.join(others)}"
        raise DataError(message)
    try:
        with zipfile.ZipFile(path) as archive:
            damaged = archive.testzip()  # torch.load does not look at checksums
    except Exception as error:  # a damaged file can raise almost any exception
        raise DataError(f"{path} is cut off, damaged, or not a checkpoint ({error})") from None
    if damaged:
        raise DataError(f"{path} is damaged: {damaged} has a wrong checksum")
    try:
        checkpoint = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:
        if is_out_of_memory(error):
            raise
        reason = str(error).partition("\n")[0]
        raise DataError(f"{path} is damaged, or not a checkpoint ({reason})") from None
    if not isinstance(checkpoint, dict) or not {"args", "step", "log"} <= checkpoint.keys():
        raise DataError(f"{path} is not a checkpoint of a run")
    return checkpoint


def restore(args: Namespace, objects: dict, data: str) -> tuple[int, list[str]]:
    """The step that a run goes on from and the rows of its log so far; `objects` get their states.

    Without --resume that is step 0. data: the fingerprint of the data. Prints a line if the checkpoint was
    made with other data, which is allowed.
    """
    if not args.resume:
        return 0, [LOG_HEADER]
    checkpoint = load_checkpoint(args.resume, objects)
    step = checkpoint["step"]
    if step > args.steps:
        raise DataError(f"--steps {args.steps} is less than step {step} of {args.resume}")
    if checkpoint.get("data") not in (None, data):
        print_once(f"note: {args.resume} was trained on other data than {args.data}")
    if step == args.steps:
        print_once(f"{args.resume} has made all {step} steps; --steps N makes more")
    return step, checkpoint["log"]


# ---------------------------------------------------------------- log and tables
def wilson(k: int, n: int) -> tuple[float, float]:
    """95% Wilson interval of a probability, after k hits in n > 0 trials."""
    z, p = 1.959964, k / n
    scale = 1 + z**2 / n
    centre = (p + z**2 / (2 * n)) / scale
    half = z * (p * (1 - p) / n + z**2 / (4 * n**2)) ** 0.5 / scale
    return max(centre - half, 0.0), min(centre + half, 1.0)


def count_text(k: int, n: int) -> str:
    """k of n as text, with the 95% Wilson interval."""
    low, high = wilson(k, n)
    return f"{k}/{n} ({low:.0%} to {high:.0%})"


def all_finite(tensors: list[Tensor]) -> bool:
    """Whether no tensor holds nan or infinity. Waits for the device, once."""
    return bool(torch.stack([tensor.isfinite().all() for tensor in tensors]).all())


def check_finite(step: int, out: Path, tensors: list[Tensor]) -> None:
    """Ends the program, with one line and exit code 1, unless all are finite. Waits for the device."""
    if all_finite(tensors):
        return
    if not dist.is_initialized() or dist.get_rank() == 0:  # all processes have the same losses and weights
        tqdm.write(
            f"step {step}: loss or weights not finite; last good checkpoint: {out / 'last.pt'}", sys.stderr
        )
    sys.exit(1)


def print_start(out: Path, n: int, step: int, args: Namespace, world: int, device: torch.device) -> None:
    """What a run says first: its folder, n pictures, steps, device and precision, and the log's columns."""
    where = device if world == 1 else f"{world} x {device.type}"
    print(f"{out}: {n} pictures, step {step} to {args.steps}, on {where}")
    if device.type == "cuda":
        print("float32 layers compute in " + ("TF32; --no-tf32 turns that off" if args.tf32 else "float32"))
    print("d_real, d_fake: D's mean output (with --loss sigmoid, after a sigmoid)")


class Log:
    """A run's log.csv, also printed or shown on a progress bar. Of several processes only rank 0 does so."""

    def __init__(self, out: Path, rows: list[str], step: int, steps: int, batch_size: int, rank: int = 0):
        self.path = out / "log.csv"
        self.rows = rows
        self.batch_size = batch_size
        self.rank = rank
        # disable: None shows a bar on a terminal only
        self.bar = tqdm(total=steps, initial=step, unit=" steps", disable=True if rank > 0 else None)
        self.last_step = step
        self.last_time = time.perf_counter()
        self.start_time = self.last_time
        if len(rows) > 1:
            self.start_time -= float(rows[-1].split(",")[-1])  # what the run had taken before it was resumed

    def write(self, step: int, losses: Tensor) -> None:
        """Adds a row, of losses [4] that train_step returned. Waits for the device."""
        if self.rank > 0:
            return
        values = losses.tolist()
        now = time.perf_counter()
        speed = (step - self.last_step) * self.batch_size / (now - self.last_time)
        self.last_step, self.last_time = step, now
        row = [*values, speed, now - self.start_time]
        self.rows.append(",".join([str(step), *(f"{value:.7g}" for value in row)]) + "\n")
        try:
            with open(self.path, "a") as file:
                file.write(self.rows[-1])
        except OSError as error:
            raise DataError(f"{self.path} cannot be written ({error.strerror})") from error
        text = "  ".join(f"{name} {value:.4g}" for name, value in zip(LOG_COLUMNS[1:-1], row[:-1]))
        if self.bar.disable:
            print(f"step {step}  {text}", flush=True)
        else:
            self.bar.set_postfix_str(text)


def save_curves(path: Path, rows: list[str], points: int = 1000) -> None:
    """Draws the rows of a log, header first, as a PNG: the losses, and D's mean answers to real and fake.

    A log of more than `points` rows is cut into that many stretches, of which the means are drawn.
    """
    from matplotlib.figure import Figure  # slow to import

    values = np.loadtxt(rows[1:], delimiter=",", ndmin=2)
    if len(values) > points:
        values = np.stack([stretch.mean(0) for stretch in np.array_split(values, points)])
    columns = dict(zip(LOG_COLUMNS, values.T))
    figure = Figure(figsize=(10, 3.2))
    figure.subplots_adjust(left=0.06, right=0.98, bottom=0.16, top=0.95)  # layout="constrained" is slow
    for axes, names in zip(figure.subplots(1, 2), [("d_loss", "g_loss"), ("d_real", "d_fake")]):
        for name in names:
            axes.plot(columns["step"], columns[name], label=name, linewidth=0.8)
        axes.set_xlabel("step")
        axes.legend(loc="upper right")  # "best" is slow
    with write_file(path) as file:
        figure.savefig(file, format="png")


def save_progress(samples: Path, frames: int = 12, side: int = 480) -> None:
    """Animates a run's grids as progress.webp beside samples/.

    At most `frames` frames, each reduced by a whole factor to at most `side` pixels.
    """
    paths = sorted(samples.glob("step_*.png"))
    if not paths:
        return
    chosen = sorted({round(i) for i in np.linspace(0, len(paths) - 1, frames)})
    pictures = []
    for i in chosen:
        try:
            with Image.open(paths[i]) as picture:
                pictures.append(picture.reduce(math.ceil(max(picture.size) / side)))
        except Exception as error:  # a damaged file can raise almost any exception; that is not worth a run
            tqdm.write(f"{paths[i]} is not in progress.webp: {error}")
    if not pictures:
        return
    with write_file(samples.with_name("progress.webp")) as file:
        pictures[0].save(file, "webp", save_all=True, append_images=pictures[1:], duration=300, loop=0)
