"""What the tests share: one thread, the real data's folder, and a command line run in this process."""

import os
import re
import socket
import time
from pathlib import Path

import pytest

os.environ.setdefault("OMP_NUM_THREADS", "1")  # before anything imports torch
import torch

from data import DataError


@pytest.fixture(autouse=True)
def cache(monkeypatch, tmp_path_factory) -> Path:
    """The folder of caches, one for all tests: none of them writes to the user's."""
    folder = tmp_path_factory.getbasetemp() / "cache"
    monkeypatch.setenv("XDG_CACHE_HOME", str(folder))
    return folder


@pytest.fixture(autouse=True)
def seed():
    """Gives every test the same random numbers, whichever ran before it."""
    torch.manual_seed(0)


@pytest.fixture
def arithmetic():
    """Restores afterwards what runs.set_arithmetic sets; monkeypatch cannot delete these attributes."""
    cudnn, matmul = torch.backends.cudnn, torch.backends.cuda.matmul
    before = cudnn.deterministic, cudnn.allow_tf32, matmul.allow_tf32
    yield
    cudnn.deterministic, cudnn.allow_tf32, matmul.allow_tf32 = before


@pytest.fixture
def real_data() -> Path:
    """The folder of real pictures and characters that LSGAN_DATA names; skips the test without it."""
    if "LSGAN_DATA" not in os.environ:
        pytest.skip("needs real data: set LSGAN_DATA to its folder")
    return Path(os.environ["LSGAN_DATA"])


@pytest.fixture
def as_rank(monkeypatch):
    """as_rank(1) makes this process look like the second of two that torchrun started on a machine."""

    def as_rank(rank):
        monkeypatch.setenv("RANK", str(rank))
        monkeypatch.setenv("LOCAL_RANK", str(rank))
        monkeypatch.setenv("WORLD_SIZE", "2")
        monkeypatch.setenv("MASTER_ADDR", "127.0.0.1")

    return as_rank


@pytest.fixture
def call(capsys):
    """call(main, flag, ...) -> (exit code, stdout, stderr) of that command line, run in this process."""

    def call(main, *flags):
        capsys.readouterr()
        try:
            code = main([str(flag) for flag in flags])
        except SystemExit as stop:
            code = stop.code
        out, err = capsys.readouterr()
        if isinstance(code, str):  # sys.exit(text), as the interpreter treats it
            code, err = 1, f"{err}{code}\n"
        return code or 0, out, err

    return call


class Killed(BaseException):
    """Stands for the end of the process."""


def die():
    raise Killed


def at_call(monkeypatch, owner, name, n, action):
    """Does `action` at the n-th call of owner.name, just before what the call does. Returns the calls."""
    original, calls = getattr(owner, name), []

    def wrapper(*args, **kwargs):
        calls.append(1)
        if len(calls) == n:
            action()
        return original(*args, **kwargs)

    monkeypatch.setattr(owner, name, wrapper)
    return calls


def opened_with(monkeypatch, module, name):
    """Replaces module.name, which reads data, by a function that fails. Returns the arguments it gets."""
    opened = []

    def note(*args):
        opened.append(args)
        raise DataError("noted")

    monkeypatch.setattr(module, name, note)
    return opened


def contents(folder):
    """What is below a folder: path -> the bytes of a file, False for a folder. Hidden files are left out."""
    found = Path(folder).rglob("[!.]*")  # locks are hidden
    return {str(path.relative_to(folder)): path.is_file() and path.read_bytes() for path in found}


def refused(script, result, *words):
    """Whether bad input was answered as it should be: one line that holds `words`, exit code 2."""
    code, _, err = result
    assert code == 2
    assert re.fullmatch(rf"{script.__name__}\.py: error: .+\n", err), err
    assert all(word in err for word in words), err
    return True


def wait_for(text, output, process):
    """Waits until a process has written `text` to the file `output`."""
    deadline = time.monotonic() + 300
    while not (output.exists() and text in output.read_text()):
        assert process.is_alive() and time.monotonic() < deadline, output.read_text()
        time.sleep(0.002)


def finish(*processes):
    """Waits for processes, and returns their exit codes."""
    for process in processes:
        process.join(300)
        if process.is_alive():
            process.kill()
            process.join()
    return [process.exitcode for process in processes]


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return str(probe.getsockname()[1])


def same(x, y):
    """Whether two checkpoints, or parts of them, are equal bit for bit."""
    if isinstance(x, dict):
        return x.keys() == y.keys() and all(same(x[key], y[key]) for key in x)
    if isinstance(x, (list, tuple)):
        return len(x) == len(y) and all(map(same, x, y))
    return torch.equal(x, y) if isinstance(x, torch.Tensor) else x == y
