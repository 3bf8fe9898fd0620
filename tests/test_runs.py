"""What every script promises about a run: exact resume, signals, several processes, one line for bad input.

A process that must really die is forked from a server that has imported torch already: that takes
milliseconds instead of seconds. `python lsgan_...py` and torchrun themselves are started once each.
"""

import argparse
import contextlib
import errno
import gc
import importlib.util
import inspect
import io
import json
import multiprocessing
import os
import pickle
import random
import re
import resource
import shutil
import signal
import subprocess
import sys
import threading
import time
import zipfile
from pathlib import Path

import lmdb
import numpy as np
import pytest
import torch
from conftest import Killed, at_call, contents, die, finish, free_port, refused, same, wait_for
from matplotlib.figure import Figure
from PIL import Image
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.data import DataLoader, Dataset

import lsgan_scenes as scenes
from data import DataError, Output, one_line_errors, runs

SCRIPTS = {  # the smallest run of each, with three steps an epoch
    "lsgan_scenes": "--size 16 --width 2 --z-dim 4 --batch-size 4 --limit 12 --gpu -1",
    "lsgan_cond_chars": "--classes 2 --width 4 --z-dim 4 --batch-size 64 --gpu -1",
}
ROOT = Path(__file__).parent.parent
EVERY = "--log-every 2 --sample-every 3 --save-every 2".split()
SERVER = multiprocessing.get_context("forkserver")
SERVER.set_forkserver_preload(["torch", "torchvision.utils"])


@pytest.fixture(autouse=True)
def same_handlers_afterwards():
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)}
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


@pytest.fixture(params=SCRIPTS)
def script(request):
    return importlib.import_module(request.param)


def slow(*values):
    return pytest.param(*values, marks=pytest.mark.slow)


shell = pytest.mark.parametrize(  # torch is imported anew; test_project.py does that with every script, too
    "script", ["lsgan_scenes", slow("lsgan_cond_chars")], indirect=True
)


@pytest.fixture
def run(script, call):
    """run(flag, ...) -> (exit code, stdout, stderr) of the script's smallest run, in this process."""
    return lambda *flags: call(script.main, *SCRIPTS[script.__name__].split(), *flags)


@pytest.fixture
def with_workers(monkeypatch):
    """Pictures are then read by two data workers, which such small data would not need."""
    monkeypatch.setattr(scenes, "IN_MEMORY", 0)
    return "--workers", 2


@pytest.fixture(autouse=True)
def surroundings(tmp_path, monkeypatch):
    """A working directory of the test's own, so that stray files are seen, and no curves, which are slow."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(runs, "save_curves", no_curves)


save_curves = runs.save_curves  # itself


def no_curves(path, rows):
    pass


def state(folder, name="last.pt"):
    """A checkpoint; its log without the last two columns, which are times."""
    checkpoint = torch.load(folder / name, weights_only=True)
    checkpoint["log"] = [row.split(",")[:-2] for row in checkpoint["log"]]
    return checkpoint


def same_run(folder, other):
    """Whether two run directories are equal, but for times."""
    logs = [[row.split(",")[:-2] for row in (f / "log.csv").read_text().split()] for f in (folder, other)]
    grids = [{path.name: path.read_bytes() for path in f.glob("samples/*")} for f in (folder, other)]
    return same(state(folder), state(other)) and logs[0] == logs[1] and grids[0] == grids[1]


def script_call(script, *flags):
    """(exit code, stdout, stderr) of a command line in this process, without the smallest run's flags."""
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        try:
            script.main([str(flag) for flag in flags])
            code = 0
        except SystemExit as stop:
            code = stop.code
    return code, out.getvalue(), err.getvalue()


# ---------------------------------------------------------------- resume
@pytest.mark.parametrize(
    "flags, where, n",
    [
        ("", "train_step", 6),
        ("--amp", "fsync", 6),  # the new checkpoint is written, but not under its name
        ("--ema 0.9", "replace", 6),
    ],
)
def test_resumed_equals_uninterrupted(script, run, tmp_path, monkeypatch, flags, where, n):
    check_resume(script, run, tmp_path, monkeypatch, flags.split(), where, n)


@pytest.mark.parametrize("flags, where, n", [("", "replace", 6), ("--amp --augment 1", "train_step", 4)])
@pytest.mark.parametrize("script", ["lsgan_scenes"], indirect=True)
def test_resumed_equals_uninterrupted_with_workers(
    script, run, tmp_path, monkeypatch, with_workers, flags, where, n
):
    check_resume(script, run, tmp_path, monkeypatch, [*flags.split(), *with_workers], where, n)


def check_resume(script, run, tmp_path, monkeypatch, flags, where, n):
    flags = *flags, *EVERY, "--steps", 7
    assert run(*flags, "--out", tmp_path / "whole")[0] == 0
    with monkeypatch.context() as patch, pytest.raises(Killed):
        at_call(patch, script if where == "train_step" else os, where, n, die)
        run(*flags, "--out", tmp_path / "run")
    assert 0 < state(tmp_path / "run")["step"] < 6
    assert run(*flags, "--out", tmp_path / "run", "--resume")[0] == 0
    assert same_run(tmp_path / "run", tmp_path / "whole")
    assert not list(tmp_path.rglob("*.tmp"))


def test_killed_between_a_kept_checkpoint_and_the_last(run, tmp_path, monkeypatch):
    flags = "--save-every", 2, "--keep-every", 2, "--steps", 6, "--out"
    assert run(*flags, tmp_path / "whole")[0] == 0
    saves = at_call(monkeypatch, runs, "save_checkpoint", 3, die)  # 1: the beginning, 2 and 3: step 2
    with pytest.raises(Killed):
        run(*flags, tmp_path / "run")
    assert len(saves) == 3
    monkeypatch.undo()
    assert run(*flags, tmp_path / "run", "--resume")[0] == 0
    for name in ("step_00000002.pt", "step_00000004.pt", "step_00000006.pt", "last.pt"):
        assert same(state(tmp_path / "run", name), state(tmp_path / "whole", name))


def test_a_checkpoint_is_read_when_no_other_process_can_write_it(run, tmp_path, monkeypatch):
    """Else a run that is resumed while the old one is being stopped would lose the old one's last steps."""
    tried = []

    def start_another():
        with pytest.raises(DataError, match="another process"), runs.open_run(tmp_path / "run", last):
            tried.append("opened")
        tried.append("refused")

    last = str(tmp_path / "run/last.pt")
    assert run("--steps", 1, "--out", tmp_path / "run")[0] == 0
    at_call(monkeypatch, runs, "restore", 1, start_another)
    assert run("--steps", 2, "--resume", last)[0] == 0
    assert tried == ["refused"]


def test_resuming_a_finished_run_says_how_to_go_on(run, tmp_path):
    assert run("--steps", 2, "--out", tmp_path / "run")[0] == 0
    code, out, _ = run("--resume", "--out", tmp_path / "run")
    assert code == 0 and "has made all 2 steps; --steps N makes more" in out


def test_run_killed_before_its_first_checkpoint_can_be_repeated(run, tmp_path, monkeypatch):
    for name in ("fsync", "replace"):
        with monkeypatch.context() as patch, pytest.raises(Killed):
            at_call(patch, os, name, 1, die)
            run("--steps", 1, "--out", tmp_path / "run")
    assert run("--steps", 1, "--out", tmp_path / "run")[0] == 0


def test_more_steps_extend_a_finished_run(run, tmp_path):
    flags = "--log-every", 1, "--sample-every", 3
    assert run(*flags, "--steps", 6, "--out", tmp_path / "whole")[0] == 0
    assert run(*flags, "--steps", 3, "--out", tmp_path / "run")[0] == 0
    assert run("--resume", "--steps", 6, "--out", tmp_path / "run")[0] == 0  # the other flags are remembered
    assert same_run(tmp_path / "run", tmp_path / "whole")


def test_older_checkpoint_goes_on_elsewhere(script, run, tmp_path):
    old, new = tmp_path / "old", tmp_path / "new"
    assert run("--keep-every", 2, "--log-every", 1, "--steps", 5, "--out", old)[0] == 0
    assert {path.name for path in old.glob("*.pt")} == {f"step_0000000{k}.pt" for k in (2, 4, 5)} | {
        "last.pt"
    }
    before = contents(tmp_path)
    assert refused(script, run("--resume", old / "step_00000002.pt"), "--out")
    assert contents(tmp_path) == before
    assert run("--resume", old / "step_00000002.pt", "--out", new)[0] == 0
    assert same(state(old), state(new)) and (new / "step_00000004.pt").exists()
    assert {"old": False} | {f"old/{path}": value for path, value in contents(old).items()} == before


def test_other_settings_of_a_resumed_run_change_nothing(run, tmp_path):
    assert run("--steps", 4, "--out", tmp_path / "whole")[0] == 0
    assert run("--steps", 2, "--out", tmp_path / "run")[0] == 0
    free = "--log-every 3 --sample-every 1 --save-every 1 --keep-every 3 --steps 4".split()
    assert run("--resume", tmp_path / "run/last.pt", *free)[0] == 0
    for name in ("G", "D", "opt_g", "opt_d"):
        assert same(state(tmp_path / "run")[name], state(tmp_path / "whole")[name])


@pytest.mark.parametrize("rank, said", [(0, "--lr 0.1, was 0.2\n"), (1, "")])
def test_of_several_processes_one_prints_the_changes(as_rank, capsys, rank, said):
    as_rank(rank)
    runs.print_changes({"lr": 0.2, "seed": 0}, {"lr": 0.1, "seed": 0})
    assert capsys.readouterr().out == said


@pytest.mark.parametrize("rank, lines", [(0, 2), (1, 0)])
def test_of_several_processes_one_says_what_it_resumes(tmp_path, as_rank, capsys, rank, lines):
    as_rank(rank)
    runs.save_checkpoint(tmp_path / "last.pt", {}, args={}, step=3, log=[], data="of others")
    args = argparse.Namespace(resume=str(tmp_path / "last.pt"), steps=3, data="mine")
    assert runs.restore(args, {}, "of mine") == (3, [])
    out = capsys.readouterr().out
    assert out.count("\n") == out.count("last.pt") == lines


CHANGES = [
    ("loss", "sigmoid"),
    ("a", -1.0),
    ("b", 2.0),
    ("c", 0.0),
    ("lr", 1e-05),
    ("beta1", 0.9),
    ("batch_size", 6),
    ("seed", 1),
    ("amp", True),
    ("save_every", 7),
]


@pytest.mark.parametrize("name, value", CHANGES)
def test_a_given_flag_wins_on_resume_and_the_change_is_printed(script, run, tmp_path, name, value):
    assert run("--steps", 1, "--out", tmp_path / "run")[0] == 0
    before = state(tmp_path / "run")["args"]
    flag = f"--{name.replace('_', '-')}"
    change = [flag] if value is True else [flag, value]
    resume = "--resume", tmp_path / "run/last.pt", "--gpu", -1
    unchanged = "--batch-size", before["batch_size"], "--lr", before["lr"]  # given again: no change
    code, out, _ = script_call(script, *resume, *unchanged, *change, "--steps", 3)
    assert code == 0
    changes = [line for line in out.splitlines() if ", was " in line]
    assert sorted(changes) == sorted([f"{flag} {value}, was {before[name]}", "--steps 3, was 1"])
    after = state(tmp_path / "run")["args"]
    assert after == {**before, name: value, "steps": 3}
    assert json.loads((tmp_path / "run/args.json").read_text()) == after
    assert state(tmp_path / "run")["step"] == 3


@pytest.mark.parametrize(
    "changes", [{}, {"lr": 1e-5, "beta1": 0.25, "a": -0.5, "b": 2.0, "c": 0.5}, {"loss": "sigmoid"}]
)
def test_changed_settings_take_effect(script, run, tmp_path, monkeypatch, changes):
    assert run("--steps", 1, "--out", tmp_path / "run")[0] == 0
    expected = {**state(tmp_path / "run")["args"], **changes}
    seen = []
    train_step = script.train_step

    def noted(*args, **kwargs):
        seen.append(inspect.signature(train_step).bind(*args, **kwargs).arguments)
        return train_step(*args, **kwargs)

    monkeypatch.setattr(script, "train_step", noted)
    flags = [word for name, value in changes.items() for word in (f"--{name}", value)]
    resume = "--resume", tmp_path / "run/last.pt", "--gpu", -1, "--steps", 2
    assert script_call(script, *resume, *flags)[0] == 0
    (step,) = seen
    for name in ("loss", "a", "b", "c", "amp"):
        assert step[name] == expected[name], name
    for optimizer in (step["opt_g"], step["opt_d"]):
        (group,) = optimizer.param_groups
        assert group["lr"] == expected["lr"]
        assert group["betas"] == (expected["beta1"], 0.999)
        assert all(values["step"] == 2 for values in optimizer.state.values())  # its averages go on


OTHER_NETWORKS = [
    ("lsgan_scenes", "--width 8"),
    ("lsgan_scenes", "--size 32"),
    ("lsgan_scenes", "--z-dim 8"),
    ("lsgan_scenes", "--ema 0.9"),
    ("lsgan_cond_chars", "--width 8"),
    ("lsgan_cond_chars", "--z-dim 8"),
    ("lsgan_cond_chars", "--ema 0.9"),
]


@pytest.mark.parametrize("script, change", OTHER_NETWORKS, indirect=["script"])
def test_other_networks_than_the_checkpoints_say_why_it_does_not_load(script, run, tmp_path, change):
    run("--steps", 0, "--out", tmp_path / "run")
    before = contents(tmp_path)
    answer = script_call(script, "--resume", tmp_path / "run/last.pt", "--gpu", -1, *change.split())
    reason = "holds no ema" if "ema" in change else "size mismatch"
    assert refused(script, answer, str(tmp_path / "run/last.pt"), reason)
    assert contents(tmp_path) == before


def make_photos(folder, values):
    folder.mkdir()
    for value in values:
        png(folder / f"{value}.png", value)


@pytest.mark.parametrize("script", ["lsgan_scenes"], indirect=True)
def test_fine_tuning_on_other_data(script, run, tmp_path):
    make_photos(tmp_path / "mine", range(5))
    assert run("--steps", 2, "--out", tmp_path / "run")[0] == 0
    before = contents(tmp_path)
    resume = "--resume", tmp_path / "run/last.pt", "--gpu", -1, "--steps", 4, "--lr", 1e-4
    code, out, _ = script_call(script, *resume, "--data", tmp_path / "mine", "--out", tmp_path / "tuned")
    assert code == 0
    assert f"--data {tmp_path / 'mine'}, was rooms" in out
    assert state(tmp_path / "tuned")["step"] == 4
    assert before.items() <= contents(tmp_path).items()


@pytest.mark.parametrize("script", ["lsgan_scenes"], indirect=True)
def test_data_that_changed_before_a_resume_are_named(script, run, tmp_path):
    data = tmp_path / "data"
    make_photos(data, range(6))
    flags = "--data", data, "--out", tmp_path / "run"
    assert run(*flags, "--steps", 1)[0] == 0
    assert "note:" not in run(*flags, "--steps", 2, "--resume")[1]
    (data / "1.png").unlink()
    code, out, _ = run(*flags, "--steps", 3, "--resume")
    assert code == 0 and "was trained on other data than" in out
    assert "note:" not in run(*flags, "--steps", 4, "--resume")[1]  # said once


def test_run_directory_in_use(script, run, tmp_path, monkeypatch):
    assert run("--steps", 1, "--out", tmp_path / "run")[0] == 0
    (tmp_path / "notes").mkdir()
    (tmp_path / "notes/mine.txt").write_text("mine")
    before = contents(tmp_path)
    assert refused(script, run("--steps", 1, "--out", tmp_path / "run"), str(tmp_path / "run"), "--resume")
    assert refused(script, run("--steps", 1, "--out", tmp_path / "notes"), "notes", "--out")
    assert refused(script, run("--resume", tmp_path / "run/last.pt", "--out", tmp_path / "notes"), "notes")
    assert contents(tmp_path) == before
    with monkeypatch.context() as patch:  # said before the data are read, which can take minutes
        patch.setattr(script, "open_data", None)
        assert refused(script, run("--out", tmp_path / "notes"), "notes is not empty")


def test_default_run_directory(script, run, tmp_path):
    assert run("--steps", 1, "--seed", 3)[0] == 0
    data = script.parse_args([]).data
    assert [path.name for path in (tmp_path / "runs").iterdir()] == [f"{script.__name__}-{data}-ls-seed3"]
    assert run("--steps", 2, "--seed", 3, "--resume")[0] == 0


# ---------------------------------------------------------------- processes
def child(name, flags, output, environment, record, in_memory):
    """In a process of its own, the leader of its group: a command line whose output goes to a file."""
    os.setsid()
    multiprocessing.set_start_method("fork", force=True)  # of data workers: not another server
    os.environ.update(environment)
    with open(output, "w") as file:
        os.dup2(file.fileno(), 1)
        os.dup2(file.fileno(), 2)
    runs.save_curves = no_curves
    script, steps, collectives = importlib.import_module(name), [], []
    script.IN_MEMORY = in_memory
    train_step = script.train_step

    def recorded(G, D, *more, **settings):
        losses = train_step(G, D, *more, **settings)
        weights = [p.detach().clone() for net in (G, D) for p in net.parameters()]
        steps.append(([x for x in more if isinstance(x, torch.Tensor)], weights, len(collectives)))
        return losses

    if record:
        script.train_step = recorded
        for collective in ("all_reduce", "all_gather", "broadcast", "barrier"):
            note_calls(runs.dist, collective, collectives)
    try:
        script.main(flags)
    finally:
        if record:
            torch.save(steps, record)


def note_calls(module, name, calls):
    function = getattr(module, name)

    def noted(*args, **kwargs):
        calls.append(name)
        return function(*args, **kwargs)

    setattr(module, name, noted)


def start(script, *flags, output, environment=(), record=None, in_memory=2e9):
    flags = [*SCRIPTS[script.__name__].split(), *map(str, flags)]
    output.unlink(missing_ok=True)
    arguments = script.__name__, flags, output, dict(environment), record, in_memory
    process = SERVER.Process(target=child, args=arguments)
    process.start()
    return process


def start_two(script, *flags, folder):
    """As torchrun does it; outputs in 0.txt and 1.txt, inputs and weights of each step in 0.rec, 1.rec."""
    common = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": free_port(), "GLOO_SOCKET_IFNAME": "lo"}
    common |= {"WORLD_SIZE": "2"}
    return [
        start(
            script,
            *flags,
            output=folder / f"{rank}.txt",
            environment={**common, "RANK": rank, "LOCAL_RANK": rank},
            record=folder / f"{rank}.rec",
        )
        for rank in "01"
    ]


KILLS = [("lsgan_scenes", 3), ("lsgan_cond_chars", 0), *(slow(s, k) for s in SCRIPTS for k in range(4, 24))]


@pytest.mark.parametrize("script, seed", KILLS, indirect=["script"])
def test_killed_at_a_random_moment(script, run, tmp_path, seed):
    moment = random.Random(seed)
    flags = "--log-every 1 --save-every 2 --sample-every 5".split()
    flags += [["--no-amp"], ["--amp"], ["--ema", "0.9"]][seed % 3]
    in_memory = 2e9
    if script is scenes and seed % 2:
        flags += ["--workers", "2"]
        in_memory = 0
    output, killed, whole = tmp_path / "out.txt", tmp_path / "killed", tmp_path / "whole"
    victim = start(script, *flags, "--steps", 100_000, "--out", killed, output=output, in_memory=in_memory)
    wait_for(f"step {moment.randint(1, 12)} ", output, victim)
    time.sleep(moment.uniform(0, 0.2))
    os.killpg(victim.pid, signal.SIGKILL)
    assert finish(victim) == [-signal.SIGKILL]
    steps = "--steps", state(killed)["step"] + 5
    assert run(*flags, *steps, "--out", whole)[0] == 0
    assert run(*flags, *steps, "--out", killed, "--resume")[0] == 0
    assert same_run(killed, whole)


@pytest.mark.parametrize("number, code", [(signal.SIGINT, 130), (signal.SIGTERM, 143), (signal.SIGHUP, 129)])
def test_signal_saves_and_stops(script, run, tmp_path, monkeypatch, number, code):
    check_signal(script, run, tmp_path, monkeypatch, number, code, [])


@pytest.mark.parametrize("number, code", [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
@pytest.mark.parametrize("script", ["lsgan_scenes"], indirect=True)
def test_signal_saves_and_stops_with_workers(script, run, tmp_path, monkeypatch, with_workers, number, code):
    check_signal(script, run, tmp_path, monkeypatch, number, code, with_workers)


def check_signal(script, run, tmp_path, monkeypatch, number, code, flags):
    flags = *flags, "--steps", 5, "--out"
    signal.signal(signal.SIGHUP, signal.SIG_DFL)  # the tests may run under nohup
    handlers = signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)
    with monkeypatch.context() as patch:
        at_call(patch, script, "train_step", 3, lambda: os.kill(os.getpid(), number))
        result = run(*flags, tmp_path / "run")
    assert result[0] == code and not result[2]
    assert state(tmp_path / "run")["step"] == 3
    assert handlers == (signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM))
    assert run(*flags, tmp_path / "whole")[0] == run(*flags, tmp_path / "run", "--resume")[0] == 0
    assert same_run(tmp_path / "run", tmp_path / "whole")


@pytest.mark.parametrize("script", ["lsgan_scenes"], indirect=True)
def test_ctrl_c_reaches_the_loop_alone(script, tmp_path):
    """Workers that die of it would end the run before it is saved."""
    output = tmp_path / "out.txt"
    flags = "--steps 100000 --log-every 1 --workers 2 --out".split()
    process = start(script, *flags, tmp_path / "run", output=output, in_memory=0)
    wait_for("step 3 ", output, process)
    workers = children(process.pid)
    assert len(workers) >= 2
    os.killpg(process.pid, signal.SIGINT)  # a terminal's Ctrl-C: the whole group gets it
    assert finish(process) == [130]
    assert "Traceback" not in output.read_text()
    last = re.findall(r"^step (\d+) ", output.read_text(), re.MULTILINE)[-1]
    assert state(tmp_path / "run")["step"] == int(last)
    deadline = time.monotonic() + 60
    while any(Path(f"/proc/{worker}").exists() for worker in workers):  # soon no worker is left
        assert time.monotonic() < deadline
        time.sleep(0.1)


def test_a_second_ctrl_c_interrupts_a_loop_that_hangs():
    signal.signal(signal.SIGINT, signal.default_int_handler)  # the tests may run in the background
    with pytest.raises(KeyboardInterrupt), runs.catch_signals() as caught:
        os.kill(os.getpid(), signal.SIGINT)
        assert caught == [signal.SIGINT]
        os.kill(os.getpid(), signal.SIGINT)


@pytest.fixture
def torchrun(monkeypatch):
    for name in ("RANK", "WORLD_SIZE", "LOCAL_RANK", "MASTER_ADDR"):
        monkeypatch.setenv(name, "1")
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "8")


def test_torchrun_says_how_many_processes_it_started(torchrun):
    assert runs.local_processes() == 8


def test_torchrun_gives_ctrl_c_twice(torchrun):
    with runs.catch_signals() as caught:
        os.kill(os.getpid(), signal.SIGINT)
        os.kill(os.getpid(), signal.SIGINT)
    assert caught == [signal.SIGINT, signal.SIGINT]


def test_nohup_is_respected():
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    with runs.catch_signals() as caught:
        os.kill(os.getpid(), signal.SIGHUP)
    assert not caught and signal.getsignal(signal.SIGHUP) == signal.SIG_IGN


def children(pid):
    return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


def test_ctrl_c_before_training_is_no_error(script, run, tmp_path, monkeypatch):
    def interrupt(*args):
        raise KeyboardInterrupt

    monkeypatch.setattr(script, "make_networks", interrupt)
    assert run("--out", tmp_path / "run")[::2] == (130, "")
    assert not contents(tmp_path)


def test_main_in_a_thread(script, tmp_path):
    """As in a notebook's background job: only the main thread may handle signals."""
    errors = []

    def main():
        try:
            script.main([*SCRIPTS[script.__name__].split(), "--steps", "2", "--out", str(tmp_path / "run")])
        except BaseException as error:
            errors.append(error)

    thread = threading.Thread(target=main)
    thread.start()
    thread.join()
    assert not errors
    assert state(tmp_path / "run")["step"] == 2


def test_local_rank_alone_is_not_torchrun(run, tmp_path, monkeypatch):
    """Some schedulers of clusters set it for every process."""
    monkeypatch.setenv("LOCAL_RANK", "0")
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "8")
    assert runs.local_processes() == 1
    assert run("--steps", 1, "--out", tmp_path / "run")[0] == 0


def test_two_processes(script, run, tmp_path):
    flags = "--log-every 2 --sample-every 15 --save-every 4 --out".split()
    output, broken, whole = tmp_path / "0.txt", tmp_path / "broken", tmp_path / "whole"

    # SIGTERM, which only one of the two receives
    processes = start_two(script, *flags, broken, "--steps", 100_000, folder=tmp_path)
    wait_for("step 2 ", output, processes[0])
    os.kill(processes[1].pid, signal.SIGTERM)
    assert finish(*processes) == [143, 143]
    stopped = state(broken)["step"]
    assert stopped >= 2

    # SIGKILL for both
    processes = start_two(script, *flags, broken, "--resume", folder=tmp_path)
    wait_for(f"step {stopped + 2} ", output, processes[0])
    for process in processes:
        os.killpg(process.pid, signal.SIGKILL)
    assert finish(*processes) == [-signal.SIGKILL] * 2
    steps = state(broken)["step"] + 6
    assert finish(*start_two(script, *flags, broken, "--resume", "--steps", steps, folder=tmp_path)) == [0, 0]

    # equals a run without interruption, whose inputs are those of a single process
    assert finish(*start_two(script, *flags, whole, "--steps", steps, folder=tmp_path)) == [0, 0]
    assert same_run(broken, whole)
    assert "statistics" in output.read_text()
    records = [torch.load(tmp_path / f"{rank}.rec") for rank in "01"]
    from_one = []

    def train_step(*args, **settings):
        from_one.append([x for x in args if isinstance(x, torch.Tensor)])
        return torch.zeros(4)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(script, "train_step", train_step)
        assert run(*flags, tmp_path / "one", "--steps", steps)[0] == 0
    assert len(from_one) == len(records[0]) == len(records[1]) == steps
    for inputs, (half, weights, _), (other_half, other_weights, _) in zip(from_one, *records):
        assert same(inputs, [torch.cat(halves) for halves in zip(half, other_half)])
        assert same(weights, other_weights)  # the same weights at every step

    # one collective for D's gradients and one for G's; at log lines one for losses and one for signals, too
    counts = [collectives for _, _, collectives in records[0]]
    between = [after - before for before, after in zip(counts, counts[1:])]  # from step to step, from 1 to 2
    assert between[1::2] == [4] * len(between[1::2])
    assert between[2::2] == [2] * len(between[2::2])


@shell
def test_torchrun(script, tmp_path):
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2"]
    torchrun += ["--master-addr", "127.0.0.1", "--master-port", free_port(), ROOT / f"{script.__name__}.py"]
    flags = "--steps 3 --log-every 1 --out".split()
    command = [*torchrun, *SCRIPTS[script.__name__].split(), *flags, tmp_path / "torchrun"]
    environment = {**os.environ, "GLOO_SOCKET_IFNAME": "lo"}
    subprocess.run(command, env=environment, check=True, capture_output=True, timeout=300)
    processes = start_two(script, *flags, tmp_path / "run", folder=tmp_path)
    assert finish(*processes) == [0, 0]
    assert same_run(tmp_path / "run", tmp_path / "torchrun")


def test_two_processes_need_an_even_batch(script, tmp_path):
    processes = start_two(script, "--batch-size", 5, "--out", tmp_path / "run", folder=tmp_path)
    assert finish(*processes)[0] == 2
    message = "--batch-size 5 must be a multiple of the number of processes, 2, and at least 2 for each"
    assert message in (tmp_path / "0.txt").read_text()
    assert not (tmp_path / "run").exists()


# ---------------------------------------------------------------- what goes wrong in training
def test_numbers_that_are_not_finite_are_never_saved(script, run, tmp_path):
    code, _, err = run("--lr", "1e30", "--log-every", 1, "--out", tmp_path / "run")
    assert code == 1 and err.count("\n") == 1
    assert err.startswith("step 1:") and str(tmp_path / "run/last.pt") in err
    good = state(tmp_path / "run")
    assert good["step"] == 0 and all(tensor.isfinite().all() for tensor in good["G"].values())


def test_a_whole_number_that_pytorch_cannot_hold_is_refused():
    assert runs.at_least(0)(str(2**63 - 1)) == 2**63 - 1
    for number in (2**63, 10**400):
        with pytest.raises(argparse.ArgumentTypeError, match="is too large"):
            runs.at_least(0)(str(number))


def test_large_numbers_are_finite():
    """Their squares are not, so a norm would not do."""
    assert runs.all_finite([torch.full((3,), 1e30), torch.zeros(2)])
    for number in (float("inf"), float("nan")):
        assert not runs.all_finite([torch.zeros(2), torch.tensor([0, number])])


@pytest.mark.parametrize("net", [0, 1])
def test_weights_that_are_not_finite_are_never_saved(script, run, tmp_path, monkeypatch, net):
    train_step = script.train_step

    def poisoned(*args, **settings):
        losses = train_step(*args, **settings)
        first = next(args[net].parameters())
        if args[2 + net].state[first]["step"] == 5:
            torch.nn.init.constant_(first[0], float("inf"))
        return losses  # these are still finite

    monkeypatch.setattr(script, "train_step", poisoned)
    flags = "--steps", 9, "--log-every", 5, "--save-every", 2, "--out", tmp_path / "run"
    code, _, err = run(*flags)
    assert code == 1 and err.startswith("step 5:") and err.count("\n") == 1
    good = state(tmp_path / "run")
    assert good["step"] == 4
    assert all(tensor.isfinite().all() for name in "GD" for tensor in good[name].values())
    monkeypatch.setattr(script, "train_step", train_step)
    assert run(*flags, "--resume")[0] == 0


def test_collapse_is_reported(script, run, tmp_path, monkeypatch):
    generate = script.generate
    for spread, collapsed in ((1, True), (80, False)):

        def fakes(*args, spread=spread):
            noise = torch.randn(generate(*args).shape, generator=torch.Generator().manual_seed(0))
            return (128 + spread * noise).clamp(0, 255).byte()

        monkeypatch.setattr(script, "generate", fakes)
        code, out, _ = run("--steps", 1, "--out", tmp_path / str(spread))
        assert code == 0 and ("step 1: warning" in out) == collapsed


@pytest.mark.parametrize("share, collapsed", [(0.08, True), (0.12, False)])
def test_collapse_is_less_than_a_tenth_of_the_real_variation(script, capsys, share, collapsed):
    noise = torch.randn(64, 8, 8, 3, generator=torch.Generator().manual_seed(0))
    reals, fakes = 100 + 20 * noise, 100 + share * 20 * noise
    script.warn_of_collapse(7, fakes, reals)
    assert ("step 7: warning" in capsys.readouterr().out) == collapsed


def test_disk_full_while_saving(script, run, tmp_path, monkeypatch):
    def full():
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    flags = *EVERY, "--steps", 7, "--out"
    with monkeypatch.context() as patch:
        at_call(patch, os, "fsync", 6, full)  # at step 4
        assert refused(script, run(*flags, tmp_path / "run"), "No space left", "last.pt", "is kept")
    assert state(tmp_path / "run")["step"] == 2
    assert not list(tmp_path.rglob("*.tmp"))
    assert run(*flags, tmp_path / "run", "--resume")[0] == run(*flags, tmp_path / "whole")[0] == 0
    assert same_run(tmp_path / "run", tmp_path / "whole")


def test_file_size_limit_reached_while_saving(script, run, tmp_path):
    flags = "--steps", 1, "--out"
    assert run(*flags, tmp_path / "whole")[0] == 0
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    size = (tmp_path / "whole/last.pt").stat().st_size
    resource.setrlimit(resource.RLIMIT_FSIZE, (size - 1, limits[1]))
    try:  # the first checkpoint is smaller, as Adam has no state yet
        result = run(*flags, tmp_path / "run")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert refused(script, result, str(tmp_path / "run"))
    assert state(tmp_path / "run")["step"] == 0 and not list(tmp_path.rglob("*.tmp"))


@pytest.mark.parametrize("room", [0, 100, 5_000, 100_000, 200_000, 400_000])
def test_disk_full_in_the_middle_of_a_checkpoint(tmp_path, room):
    """A DataError wherever it happens: after some failed writes PyTorch raises a RuntimeError of its own."""
    nets = {"net": torch.nn.ModuleList(torch.nn.Linear(100, 300) for _ in range(4))}  # 480 kB
    path = tmp_path / "last.pt"
    runs.save_checkpoint(path, nets, step=1)
    before = path.read_bytes()
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (room, limits[1]))
    try:
        with pytest.raises(DataError, match="last.pt cannot be written"):
            runs.save_checkpoint(path, nets, step=2)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert path.read_bytes() == before and os.listdir(tmp_path) == ["last.pt"]


def test_a_fault_while_saving_keeps_its_traceback(tmp_path, monkeypatch):
    def broken(*_):
        raise RuntimeError("ours")

    monkeypatch.setattr(torch, "save", broken)
    with pytest.raises(RuntimeError, match="ours"):
        runs.save_checkpoint(tmp_path / "last.pt", {}, step=1)


# ---------------------------------------------------------------- bad input
BAD_FLAGS = [
    ("--gpu 99", "there is no GPU 99", "--gpu -1"),
    ("--gpu -2", "there is no GPU -2", "--gpu -1"),
    ("--batch-size 0", "argument --batch-size: must be at least 2, not 0"),
    ("--batch-size 1", "argument --batch-size: must be at least 2, not 1"),
    ("--batch-size 64.5", "argument --batch-size: '64.5' is not a whole number"),
    ("--lr nan", "argument --lr: must be finite, not nan"),
    ("--lr inf", "argument --lr"),
    ("--lr -1", "argument --lr: must be at least 0, not -1"),
    ("--lr fast", "argument --lr: 'fast' is not a number"),
    ("--beta1 1", "argument --beta1: must be less than 1, not 1"),
    ("--beta1 nan", "argument --beta1"),
    ("--a nan", "argument --a: must be finite, not nan"),
    ("--b inf", "argument --b: must be finite, not inf"),
    ("--c zero", "argument --c: 'zero' is not a number"),
    ("--data=", "argument --data: must not be empty"),
    ("--ema 1", "argument --ema: must be less than 1, not 1"),
    ("--seed -1", "argument --seed: must be at least 0, not -1"),
    ("--width 0", "argument --width: must be at least 1, not 0"),
    ("--log-every 0", "argument --log-every"),
    ("--steps 1e6", "argument --steps: '1e6' is not a whole number"),
    ("--loss hinge", "--loss", "hinge"),
    ("--fit stretch", "--fit", "stretch"),
    ("--z 3", "--z 3"),
    ("--n 0", "argument --n: must be at least 1, not 0"),
    ("--out=", "argument --out: must not be empty"),
    ("--resume", "there is no checkpoint", "run/last.pt"),
    ("--resume nowhere.pt", "there is no checkpoint nowhere.pt"),
    ("--resume=", "argument --resume: must not be empty"),
    ("--sample nowhere.pt", "there is no checkpoint nowhere.pt"),
    ("--sample=", "argument --sample: must not be empty"),
    ("--resume a.pt --sample b.pt", "--sample", "not allowed with", "--resume"),
    ("--width 1000000000000000", "out of memory", "--batch-size, ", "--width, --z-dim or --n"),
    ("--z-dim 100000000000000000000", "argument --z-dim: 100000000000000000000 is too large"),
]
OWN_BAD_FLAGS = {
    "lsgan_scenes": [
        ("--size 40", "argument --size: must be a multiple of 16, not 40"),
        ("--size 0", "argument --size: must be at least 1, not 0"),
        ("--limit -1", "argument --limit: must be at least 0, not -1"),
        ("--workers -1", "argument --workers"),
        ("--augment -1", "argument --augment: must be at least 0, not -1"),
        ("--augment 2", "argument --augment: must be at most 1, not 2"),
        ("--batch-size 13", "--batch-size 13 is larger than the data: 12 pictures"),
        ("--data nowhere/bedroom", "nowhere/bedroom", "nowhere/bedroom_train_lmdb"),
    ],
    "lsgan_cond_chars": [
        ("--classes -1", "argument --classes: must be at least 0, not -1"),
        ("--classes 3741", "3,740 classes at most", "3741"),
        ("--charset big5", "--charset", "big5"),
        ("--text 永", "--text", "--sample"),
        ("--text= --sample nowhere.pt", "--text", "must not be empty"),
        ("--batch-size 201", "--batch-size 201 is larger than the data: 200 pictures"),
        ("--data nowhere/hwdb1.0", "nowhere/hwdb1.0", "python -m data.download hwdb1.0"),
    ],
}


@pytest.mark.parametrize(
    "script, flags, words",
    [(name, flags, words) for name in SCRIPTS for flags, *words in BAD_FLAGS + OWN_BAD_FLAGS[name]],
    indirect=["script"],
)
def test_bad_flag(script, run, tmp_path, flags, words):
    assert refused(script, run("--out", tmp_path / "run", *flags.split()), *words)
    assert not contents(tmp_path)


def test_checkpoints_that_there_are_are_named(script, run, tmp_path):
    """--resume alone looks for the default run, which is not always the one that was started."""
    assert run("--steps", 0, "--seed", 5)[0] == 0
    (run_directory,) = (tmp_path / "runs").iterdir()
    assert refused(script, run("--resume"), "there is no checkpoint", f"there are runs/{run_directory.name}")


def test_a_line_break_in_a_name_does_not_break_the_line(script, run):
    assert refused(script, run("--resume", "no\nwhere.pt"), "there is no checkpoint no where.pt")


@shell
def test_bad_input_from_the_shell(script, tmp_path):
    command = [sys.executable, ROOT / f"{script.__name__}.py", "--data", "nowhere", "--out", tmp_path / "run"]
    done = subprocess.run([*command, "--gpu", "-1"], capture_output=True, text=True, timeout=300)
    assert refused(script, (done.returncode, done.stdout, done.stderr), "nowhere")
    assert not contents(tmp_path)


def test_which_gpu_is_picked(monkeypatch):
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(torch.cuda, "set_device", lambda gpu: None)
    assert runs.pick_device(None) == torch.device("cuda:0")
    assert runs.pick_device(1) == torch.device("cuda:1")
    assert runs.pick_device(-1) == torch.device("cpu")
    monkeypatch.setenv("RANK", "5")  # alone it may come from a scheduler
    assert runs.pick_device(None) == torch.device("cuda:0")
    monkeypatch.setenv("WORLD_SIZE", "6")  # as torchrun does on the second process of the third machine
    monkeypatch.setenv("LOCAL_RANK", "1")
    monkeypatch.setenv("MASTER_ADDR", "127.0.0.1")
    assert runs.pick_device(None) == torch.device("cuda:1")


@pytest.mark.parametrize("flag, tf32", [("--tf32", True), ("--no-tf32", False)])
def test_tf32_is_as_the_flag_says(script, run, tmp_path, arithmetic, flag, tf32):
    torch.backends.cudnn.allow_tf32 = torch.backends.cuda.matmul.allow_tf32 = not tf32
    torch.backends.cudnn.deterministic = False
    assert run("--steps", 0, flag, "--out", tmp_path / "run")[0] == 0
    assert torch.backends.cudnn.allow_tf32 == torch.backends.cuda.matmul.allow_tf32 == tf32
    assert torch.backends.cudnn.deterministic


@pytest.mark.parametrize("tf32, said", [(True, "in TF32; --no-tf32 turns that off"), (False, "in float32\n")])
def test_a_run_on_a_gpu_says_its_precision(tf32, said, capsys):
    args = argparse.Namespace(steps=5, tf32=tf32)
    runs.print_start(Path("run"), 3, 0, args, 1, torch.device("cuda"))
    assert said in capsys.readouterr().out


def test_gpu_under_torchrun(script, run, tmp_path, monkeypatch):
    for name, value in (
        ("RANK", "0"),
        ("WORLD_SIZE", "1"),
        ("LOCAL_RANK", "0"),
        ("MASTER_ADDR", "127.0.0.1"),
    ):
        monkeypatch.setenv(name, value)
    assert refused(script, run("--gpu", 0, "--out", tmp_path / "run"), "torchrun", "--gpu -1")


def test_only_the_cores_that_the_process_may_use_are_counted():
    if not hasattr(os, "sched_setaffinity"):
        pytest.skip("needs Linux")
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {min(before)})
    try:
        assert runs.available_cores() == 1
    finally:
        os.sched_setaffinity(0, before)
    assert runs.available_cores() == len(before)


@pytest.mark.parametrize("place", ["file/run", "file", "/proc/run"])
def test_unwritable_output(script, run, tmp_path, place):
    (tmp_path / "file").write_text("not a folder")
    before = contents(tmp_path)
    assert refused(script, run("--steps", 1, "--out", tmp_path / place), place)
    assert contents(tmp_path) == before


class Evil:
    """Unpickling it makes a file."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return open, (str(self.path), "w")


def half(path):
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


BAD_FILES = {  # what happens to the file, and what the answer says
    "empty": (lambda path, evil: path.write_bytes(b""), "cut off, damaged, or not a checkpoint"),
    "first half": (lambda path, evil: half(path), "cut off, damaged, or not a checkpoint"),
    "one byte short": (lambda path, evil: path.write_bytes(path.read_bytes()[:-1]), "cut off"),
    "random bytes": (lambda path, evil: path.write_bytes(random.Random(0).randbytes(10_000)), "cut off"),
    "text": (lambda path, evil: path.write_text("not a checkpoint\n"), "not a checkpoint"),
    "zip file": (lambda path, evil: zipfile.ZipFile(path, "w").close(), "not a checkpoint"),
    "malicious pickle": (lambda path, evil: path.write_bytes(pickle.dumps(evil)), "not a checkpoint"),
    "malicious checkpoint": (lambda path, evil: torch.save(evil, path), "not a checkpoint"),
    "a list": (lambda path, evil: torch.save([0, 1], path), "not a checkpoint of a run"),
    "a folder": (lambda path, evil: path.unlink() or path.mkdir(), "there is no checkpoint"),
}


@pytest.mark.parametrize("flag", ["--resume", "--sample"])
@pytest.mark.parametrize("damage", BAD_FILES)
def test_file_that_is_no_checkpoint(script, run, tmp_path, damage, flag):
    assert run("--steps", 0, "--out", tmp_path / "run")[0] == 0
    last = tmp_path / "run/last.pt"
    spoil, reason = BAD_FILES[damage]
    spoil(last, Evil(tmp_path / "evil"))
    before = contents(tmp_path)
    assert refused(script, run(flag, last, "--steps", 0), str(last), reason)
    assert contents(tmp_path) == before


@pytest.mark.parametrize("name", ["args", "step", "G", "log"])
def test_nothing_in_a_checkpoint_is_unpickled(script, run, tmp_path, name):
    assert run("--steps", 0, "--out", tmp_path / "run")[0] == 0
    last = tmp_path / "run/last.pt"
    torch.save({**torch.load(last), name: Evil(tmp_path / "evil")}, last)
    assert refused(script, run("--resume", last), "not a checkpoint")
    assert not (tmp_path / "evil").exists()


BAD_PARTS = {  # what is done to a checkpoint's dict, and what the answer names
    "weights alone": (lambda good: good.update(args=good.pop("G")) or good.pop("step"), "not a checkpoint"),
    "no step": (lambda good: good.pop("step"), "not a checkpoint of a run"),
    "no log": (lambda good: good.pop("log"), "not a checkpoint of a run"),
    "learning rate as text": (lambda good: good["args"].update(lr="fast"), "--lr", "fast"),
    "learning rate as list": (lambda good: good["args"].update(lr=[1, 2]), "--lr"),
    "learning rate as dict": (lambda good: good["args"].update(lr={"G": 1}), "--lr"),
    "learning rate that is true": (lambda good: good["args"].update(lr=True), "--lr"),
    "width with a fraction": (lambda good: good["args"].update(width=2.5), "--width"),
    "loss of another version": (lambda good: good["args"].update(loss="hinge"), "--loss", "hinge"),
    "batch size as tensor": (lambda good: good["args"].update(batch_size=torch.zeros(2)), "--batch-size"),
    "seed below 0": (lambda good: good["args"].update(seed=-1), "--seed"),
    "no networks": (lambda good: good.pop("G"), "holds no G"),
    "networks as list": (lambda good: good.update(G=[1]), "holds no G"),
    "other networks": (lambda good: good.update(G=good["D"]), "G", "Missing key"),
    "a layer less": (lambda good: good["D"].popitem(), "D", "Missing key"),
    "a weight as text": (lambda good: good["D"].update({next(iter(good["D"])): "x"}), "D"),
    "no optimizer": (lambda good: good.pop("opt_d"), "holds no opt_d"),
}


@pytest.fixture(scope="module")
def good_checkpoints(tmp_path_factory):
    """{script: bytes of a checkpoint after one step}."""
    found = {}
    for name, flags in SCRIPTS.items():
        out = tmp_path_factory.mktemp("good")
        with contextlib.redirect_stdout(io.StringIO()), pytest.MonkeyPatch.context() as patch:
            patch.setattr(runs, "save_curves", no_curves)
            importlib.import_module(name).main([*flags.split(), "--steps", "1", "--out", str(out)])
        found[name] = (out / "last.pt").read_bytes()
    return found


@pytest.mark.parametrize("damage", BAD_PARTS)
def test_checkpoint_with_a_part_missing_or_of_a_wrong_type(script, good_checkpoints, tmp_path, damage):
    last = tmp_path / "last.pt"
    good = torch.load(io.BytesIO(good_checkpoints[script.__name__]))
    spoil, *words = BAD_PARTS[damage]
    spoil(good)
    torch.save(good, last)
    before = contents(tmp_path)
    answer = script_call(script, "--resume", last, "--gpu", -1, "--steps", 2)
    assert refused(script, answer, *words)
    assert contents(tmp_path) == before


def test_flipped_bits_are_found(script, good_checkpoints, tmp_path):
    """Refused in one line, or the same values, if nothing reads that bit. PyTorch alone would not see it."""
    good = good_checkpoints[script.__name__]
    whole = torch.load(io.BytesIO(good))
    places = random.Random(0)
    found = 0
    for _ in range(60):
        data = bytearray(good)
        data[places.randrange(len(data))] ^= 1 << places.randrange(8)
        (tmp_path / "last.pt").write_bytes(data)
        try:
            checkpoint = runs.load_checkpoint(tmp_path / "last.pt")
        except DataError as error:
            assert str(tmp_path / "last.pt") in str(error)
            found += 1
        else:
            assert same(checkpoint, whole)
    assert found > 20


def test_a_renamed_script_takes_the_checkpoints_of_the_original(script, good_checkpoints, tmp_path):
    (tmp_path / "last.pt").write_bytes(good_checkpoints[script.__name__])
    (tmp_path / "my_gan.py").write_text(Path(script.__file__).read_text())
    spec = importlib.util.spec_from_file_location("my_gan", tmp_path / "my_gan.py")
    renamed = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(renamed)
    assert script_call(renamed, "--resume", tmp_path / "last.pt", "--gpu", -1, "--steps", 2)[0] == 0
    assert state(tmp_path)["step"] == 2


def test_the_other_scripts_checkpoint_is_refused(script, run, good_checkpoints, tmp_path):
    (other,) = set(SCRIPTS) - {script.__name__}
    (tmp_path / "last.pt").write_bytes(good_checkpoints[other])
    data = script.parse_args([]).data
    for flag in ("--resume", "--sample"):
        answer = run(flag, tmp_path / "last.pt", "--data", data)
        assert refused(script, answer, str(tmp_path / "last.pt"))


def test_samples_into_something_that_is_no_folder(script, run, good_checkpoints, tmp_path):
    (tmp_path / "last.pt").write_bytes(good_checkpoints[script.__name__])
    (tmp_path / "file").write_text("mine")
    for place in ("file", "file/samples"):
        answer = script_call(script, "--sample", tmp_path / "last.pt", "--gpu", -1, "--out", tmp_path / place)
        assert refused(script, answer, str(tmp_path / place), "cannot be made")


def test_several_processes_do_not_write_the_same_samples(script, good_checkpoints, torchrun, tmp_path):
    (tmp_path / "last.pt").write_bytes(good_checkpoints[script.__name__])
    answer = script_call(script, "--sample", tmp_path / "last.pt", "--gpu", -1)
    assert refused(script, answer, "without torchrun")
    assert not (tmp_path / "samples.npy").exists()


def test_a_checkpoint_does_not_choose_where_files_are_written(script, good_checkpoints, tmp_path):
    checkpoint = torch.load(io.BytesIO(good_checkpoints[script.__name__]))
    elsewhere = str(tmp_path / "elsewhere")
    checkpoint["args"] |= {"out": elsewhere, "resume": elsewhere, "sample": elsewhere, "gpu": 7}
    (tmp_path / "run").mkdir()
    torch.save(checkpoint, tmp_path / "run/last.pt")
    resume = "--resume", tmp_path / "run/last.pt", "--gpu", -1, "--steps", 2
    assert script_call(script, *resume)[0] == 0
    assert script_call(script, "--sample", tmp_path / "run/last.pt", "--gpu", -1)[0] == 0
    assert state(tmp_path / "run")["step"] == 2 and (tmp_path / "run/samples.npy").exists()
    assert [path.name for path in tmp_path.iterdir()] == ["run"]


# ---------------------------------------------------------------- bad data
def png(path, value, cut=0):
    Image.fromarray(np.random.default_rng(value).integers(0, 256, (20, 20, 3), np.uint8)).save(path)
    path.write_bytes(path.read_bytes()[: -cut or None])


def make_lmdb(folder, values):
    with lmdb.open(str(folder), map_size=2**20) as env, env.begin(write=True) as txn:
        for i, value in enumerate(values):
            txn.put(b"%040x" % i, value)


BAD_DATA = {
    "empty folder": lambda data: None,
    "no pictures": lambda data: (data / "notes.txt").write_text("notes"),
    "damaged pictures": lambda data: [(data / f"{i}.png").write_text("no picture") for i in range(5)],
    "empty LMDB": lambda data: make_lmdb(data, []),
    "LMDB without pictures": lambda data: make_lmdb(data, [b"no picture"] * 20),
    "no LMDB": lambda data: (data / "data.mdb").write_bytes(random.Random(0).randbytes(20_000)),
    "empty file as LMDB": lambda data: (data / "data.mdb").write_bytes(b""),
    "damaged .gnt file": lambda data: (data / "001.gnt").write_bytes(b"no characters"),
    "folder of a class": lambda data: (data / "永").mkdir() or (data / "永/1.png").write_text("no picture"),
}


@pytest.mark.parametrize("damage", BAD_DATA)
def test_bad_data(script, run, tmp_path, damage):
    data = tmp_path / "data"
    data.mkdir()
    BAD_DATA[damage](data)
    before = contents(tmp_path)
    code, out, err = run("--data", data, "--out", tmp_path / "run")
    last = err.splitlines()[-1] + "\n"  # there may be a count of damaged pictures before
    assert refused(script, (code, out, last), str(data))
    after = {path: value for path, value in contents(tmp_path).items() if "/keys-" not in path}
    assert {**after, "data/lock.mdb": 0} == {**before, "data/lock.mdb": 0}


@pytest.mark.parametrize("cores, processes, workers", [(8, 1, 8), (64, 1, 16), (64, 8, 8), (2, 8, 1)])
def test_processes_share_the_cores_for_their_workers(monkeypatch, cores, processes, workers):
    monkeypatch.setattr(runs, "available_cores", lambda: cores)
    monkeypatch.setattr(runs, "local_processes", lambda: processes)
    assert runs.default_workers() == workers


@pytest.mark.parametrize("script", ["lsgan_scenes"], indirect=True)
def test_a_killed_data_worker_is_one_line(script, run, tmp_path, monkeypatch, with_workers):
    with monkeypatch.context() as patch:
        at_call(patch, script, "train_step", 3, lambda: multiprocessing.active_children()[0].kill())
        gc.disable()  # PyTorch's signal handler raises; within Hypothesis's callback of gc that would be lost
        try:
            result = run(*with_workers, "--steps", 100_000, "--save-every", 2, "--out", tmp_path / "x")
        finally:
            gc.enable()
    code, out, err = result
    # A thread of Python's may speak as well, of a batch that was just being handed over.
    ours = "".join(line for line in err.splitlines(keepends=True) if line.startswith(script.__name__))
    assert refused(script, (code, out, ours), "DataLoader worker", "; try --workers 0")
    assert state(tmp_path / "x")["step"] >= 2


@pytest.mark.parametrize("in_memory", [2e9, 0])
@pytest.mark.parametrize("script", ["lsgan_scenes"], indirect=True)
def test_truncated_pictures_are_replaced(run, tmp_path, monkeypatch, in_memory):
    monkeypatch.setattr(scenes, "IN_MEMORY", in_memory)
    (tmp_path / "data").mkdir()
    for i in range(6):
        png(tmp_path / f"data/{i}.png", i, cut=300 if i == 3 else 0)
    flags = "--data", tmp_path / "data", "--batch-size", 3, "--steps", 4, "--workers", 2
    assert run(*flags, "--out", tmp_path / "run")[0] == 0


@pytest.mark.parametrize("script", ["lsgan_scenes"], indirect=True)
@pytest.mark.parametrize(
    "broken, files, workers, reason",
    [
        (301, 1000, 2, "nor does any other of 100 that were tried"),
        (0, 18, 2, "Too many open files"),
        slow(0, 30, 8, "Too many"),
    ],
)
def test_the_process_ends_after_an_error_in_a_data_worker(script, tmp_path, broken, files, workers, reason):
    """The real process: 300 broken pictures in a row, or too few files that it may open at once."""
    make_photos(tmp_path / "data", range(20))
    for i in range(broken):
        (tmp_path / f"data/x{i}.png").write_text("no picture")
    (tmp_path / "read_by_workers.py").write_text(
        f"import sys\nsys.path.insert(0, {str(ROOT)!r})\n"
        "import lsgan_scenes\nlsgan_scenes.IN_MEMORY = 0\nlsgan_scenes.main()\n"
    )
    flags = f"--size 16 --width 2 --z-dim 4 --batch-size 4 --gpu -1 --workers {workers}"
    command = f"ulimit -n {files}; exec {sys.executable} read_by_workers.py {flags} --data {tmp_path}/data"
    done = subprocess.run(["bash", "-c", command], capture_output=True, text=True, timeout=200)
    assert done.returncode > 0
    assert reason in done.stderr


@pytest.mark.parametrize("processes", [1, 2])
@pytest.mark.parametrize("script", ["lsgan_scenes", "stability_grid"])
def test_workers_that_could_fill_the_shared_memory_are_refused(script, processes, tmp_path, monkeypatch):
    """A worker that does loses its batch, and the run would wait for it for ever."""
    module = __import__(script)
    make_photos(tmp_path / "data", range(20))
    monkeypatch.setattr(module, "IN_MEMORY", 0)
    monkeypatch.setattr(runs, "local_processes", lambda: processes)
    workers, batch = 3 * processes, 4 * 16 * 16 * 3
    for free, opens in ((2 * workers * batch, True), (2 * workers * batch - 1, False)):
        monkeypatch.setattr(shutil, "disk_usage", lambda path, free=free: argparse.Namespace(free=free))
        args = module.parse_args(f"--data {tmp_path}/data --size 16 --batch-size 4 --workers 3".split())
        given = (args, torch.device("cpu"), 1)[: 3 if script == "lsgan_scenes" else 2]
        if opens:
            assert len(module.open_data(*given)[0]) == 20
        else:
            with pytest.raises(DataError, match=f"{workers} data workers need .* --workers N uses fewer"):
                module.open_data(*given)


# ---------------------------------------------------------------- one run directory, one process
def test_a_run_directory_belongs_to_one_process(tmp_path):
    with runs.open_run(tmp_path / "run", None):
        with pytest.raises(DataError, match="another process is running"):
            with runs.open_run(tmp_path / "run", None):
                pass
    with runs.open_run(tmp_path / "run", None):  # free again, and still empty
        pass


def test_a_run_that_goes_on_is_not_resumed(script, run, tmp_path):
    output, last = tmp_path / "out.txt", tmp_path / "run/last.pt"
    flags = "--log-every 1 --save-every 1 --steps 100000 --out".split()
    process = start(script, *flags, tmp_path / "run", output=output)
    wait_for("step 3 ", output, process)
    assert refused(script, run("--resume", last), "another process is running", "run")
    os.kill(process.pid, signal.SIGTERM)
    assert finish(process) == [143]
    steps = state(tmp_path / "run")["step"] + 2
    assert run("--resume", last, "--steps", steps)[0] == 0
    rows = [int(row.split(",")[0]) for row in (tmp_path / "run/log.csv").read_text().split()[1:]]
    assert rows == list(range(1, steps + 1))


# ---------------------------------------------------------------- surroundings
def test_first_row_after_the_first_step(script, run, tmp_path):
    """A run of the paper's size on a CPU would print nothing for minutes."""
    code, out, _ = run("--steps", 7, "--log-every", 5, "--out", tmp_path / "run")
    assert code == 0 and "\nstep 1  d_loss" in out
    rows = [row.split(",")[0] for row in (tmp_path / "run/log.csv").read_text().split()]
    assert rows == ["step", "1", "5", "7"]


def test_an_error_in_the_code_keeps_its_traceback(script, run, tmp_path, monkeypatch):
    def typo(*args, **settings):
        open("nope")

    monkeypatch.setattr(script, "train_step", typo)
    with pytest.raises(FileNotFoundError):
        run("--steps", 2, "--out", tmp_path / "run")


class Faulty(Dataset):
    """Pictures whose reader has a bug."""

    def __len__(self):
        return 1

    def __getitem__(self, index):
        raise RuntimeError("a bug")


def test_an_error_in_the_code_of_a_data_worker_keeps_its_traceback():
    with pytest.raises(RuntimeError, match="(?s)in DataLoader worker process 0.*Traceback.*a bug"):
        with one_line_errors("x.py"):
            list(DataLoader(Faulty(), num_workers=1))


@pytest.mark.parametrize(
    "end", ["exited unexpectedly with exit code 1. Details are lost", "is killed by signal: Killed"]
)
def test_a_data_worker_that_died_is_one_line(capsys, end):
    with pytest.raises(SystemExit, match="2"), one_line_errors("x.py"):
        raise RuntimeError(f"DataLoader worker (pid 7) {end}. ")
    assert capsys.readouterr().err == f"x.py: error: DataLoader worker (pid 7) {end}; try --workers 0\n"


OUT_OF_MEMORY = [
    MemoryError(800),
    torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB"),
    RuntimeError("[enforce fail at alloc_cpu.cpp:127] err == 0. DefaultCPUAllocator: can't allocate memory"),
]


@pytest.mark.parametrize("error", OUT_OF_MEMORY, ids=lambda error: type(error).__name__)
@pytest.mark.parametrize(
    "sizes, line",
    [
        ({}, "x.py: error: out of memory\n"),
        ({"sizes": "--n"}, "x.py: error: out of memory: use smaller settings, such as --n\n"),
    ],
)
def test_out_of_memory_names_the_flags_that_there_are(capsys, error, sizes, line):
    with pytest.raises(SystemExit, match="2"), one_line_errors("x.py", **sizes):
        raise error
    assert capsys.readouterr().err == line


def test_steps_without_a_log_line_do_not_wait_for_the_device(script, run, tmp_path, monkeypatch):
    """On a GPU, whatever reads a number there waits until all work that was given to it is done."""
    check_waiting(script, run, tmp_path, monkeypatch)


@pytest.mark.parametrize("script", ["lsgan_scenes"], indirect=True)
def test_augmented_steps_do_not_wait_for_the_device(script, run, tmp_path, monkeypatch):
    check_waiting(script, run, tmp_path, monkeypatch, "--augment", 1)


def check_waiting(script, run, tmp_path, monkeypatch, *flags):
    train_step, reads = script.train_step, Reads()
    steps = 0

    def watched(*args, **settings):
        nonlocal steps
        steps += 1
        if steps == 2:
            reads.start(monkeypatch)
        losses = train_step(*args, **settings)
        if steps == 5:
            reads.stop()
        return losses

    monkeypatch.setattr(script, "train_step", watched)
    every = "--log-every 100 --sample-every 100 --save-every 100 --steps 6".split()
    assert run(*every, *flags, "--out", tmp_path / "run")[0] == 0
    assert reads.operations > 100  # of which
    assert reads.found == []


class Reads(TorchDispatchMode):
    """Notes what brings numbers from a device to Python: .item(), bool(tensor), .cpu(), .tolist(), ..."""

    READERS = "cpu item tolist numpy __bool__ __int__ __float__ __index__ __array__".split()

    def __init__(self):
        super().__init__()
        self.found, self.operations, self.patch = [], 0, None

    def start(self, monkeypatch):
        self.patch = pytest.MonkeyPatch()
        for name in self.READERS:
            self.patch.setattr(torch.Tensor, name, self.noted(name, getattr(torch.Tensor, name)))
        self.__enter__()

    def stop(self):
        self.__exit__(None, None, None)
        self.patch.undo()

    def noted(self, name, method):
        def read(tensor, *args, **kwargs):
            self.found.append(name)
            return method(tensor, *args, **kwargs)

        return read

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        self.operations += 1
        if any(word in str(function) for word in ("_local_scalar_dense", "is_nonzero", "nonzero", "equal.")):
            self.found.append(str(function))
        return function(*args, **(kwargs or {}))


# ---------------------------------------------------------------- average of weights, animation
def test_average_equals_the_recursion_worked_by_hand(script, run, tmp_path, monkeypatch):
    """G's weights and its running statistics, from those after the first step on. It is shorter at first."""
    train_step, states = script.train_step, []

    def noted(G, *more, **settings):
        losses = train_step(G, *more, **settings)
        states.append({name: value.clone().double() for name, value in G.state_dict().items()})
        return losses

    monkeypatch.setattr(script, "train_step", noted)
    assert run("--ema", 0.26, "--lr", 0.01, "--steps", 4, "--out", tmp_path / "run")[0] == 0
    expected = states[0]
    for decay, moved in zip([2 / 11, 3 / 12, 0.26], states[1:]):  # 4 / 13 is above 0.26
        expected = {name: decay * value + (1 - decay) * moved[name] for name, value in expected.items()}
    checkpoint = state(tmp_path / "run")
    averages = {name: value for name, value in checkpoint["ema"].items() if name != "n_averaged"}
    assert averages.keys() == {f"module.{name}" for name in expected}
    buffers = 0
    for name, value in expected.items():
        average = averages[f"module.{name}"]
        if average.is_floating_point():
            torch.testing.assert_close(average.double(), value, rtol=1e-5, atol=1e-7)
            assert not torch.equal(average, checkpoint["G"][name]) or not value.any()
            buffers += "running" in name
    assert buffers >= 4


def test_pictures_come_from_the_average(script, run, tmp_path, monkeypatch):
    drawn, generate = [], script.generate

    def noted(G, *more):
        drawn.append({name: value.clone() for name, value in G.state_dict().items()})
        return generate(G, *more)

    monkeypatch.setattr(script, "generate", noted)
    assert run("--ema", 0.5, "--lr", 0.01, "--steps", 3, "--out", tmp_path / "run")[0] == 0
    checkpoint = torch.load(tmp_path / "run/last.pt")
    average = {
        name.removeprefix("module."): value
        for name, value in checkpoint["ema"].items()
        if name != "n_averaged"
    }
    assert same(drawn[-1], average) and not same(drawn[-1], checkpoint["G"])
    drawn.clear()
    assert script_call(script, "--sample", tmp_path / "run/last.pt", "--gpu", -1)[0] == 0
    assert drawn and all(same(weights, average) for weights in drawn)
    drawn.clear()
    sample = "--sample", tmp_path / "run/last.pt", "--gpu", -1, "--out", tmp_path / "plain", "--ema", 0
    assert script_call(script, *sample)[0] == 0  # G itself
    assert drawn and all(same(weights, checkpoint["G"]) for weights in drawn)


def test_log_counts_pictures_a_second_and_goes_on_counting_seconds(tmp_path, monkeypatch):
    clock = [100.0]
    monkeypatch.setattr(runs.time, "perf_counter", lambda: clock[0])
    rows = [runs.LOG_HEADER]
    log = runs.Log(tmp_path, rows, step=0, steps=30, batch_size=64)
    clock[0] += 4
    log.write(10, torch.tensor([1.0, 2.0, 3.0, 4.0]))
    clock[0] += 1000  # the run stopped here and was resumed later
    log = runs.Log(tmp_path, rows, step=10, steps=30, batch_size=64)
    clock[0] += 2
    log.write(30, torch.tensor([1.0, 2.0, 3.0, 4.0]))
    assert rows[1:] == ["10,1,2,3,4,160,4\n", "30,1,2,3,4,640,6\n"]  # 10 * 64 / 4, 20 * 64 / 2
    assert (tmp_path / "log.csv").read_text() == "".join(rows[1:])


@pytest.fixture
def curves_of(tmp_path, monkeypatch):
    """{name: points [n, 2]} of the curves that are drawn of a log's rows."""
    drawn = []
    monkeypatch.setattr(Figure, "savefig", lambda figure, file, format: drawn.append(figure))

    def draw(rows):
        save_curves(tmp_path / "curves.png", [runs.LOG_HEADER, *rows])
        return {line.get_label(): line.get_xydata() for axes in drawn[-1].axes for line in axes.lines}

    return draw


def test_curves_are_those_of_the_log(curves_of):
    lines = curves_of(["10,1,2,3,4,160,4\n", "30,5,6,7,8,640,6\n"])
    assert {name: points.tolist() for name, points in lines.items()} == {
        "d_loss": [[10, 1], [30, 5]],
        "g_loss": [[10, 2], [30, 6]],
        "d_real": [[10, 3], [30, 7]],
        "d_fake": [[10, 4], [30, 8]],
    }


def test_curves_of_a_long_log_are_means_of_stretches(curves_of):
    rows = [f"{step},{step % 2},0,0,0,1,1\n" for step in range(1, 2501)]
    points = curves_of(rows)["d_loss"]
    assert points.shape == (1000, 2) and (np.diff(points[:, 0]) > 0).all()
    assert points[0].tolist() == [2, 2 / 3]  # steps 1 to 3
    assert points[-1].tolist() == [2499.5, 0.5]  # the last two
    assert len(curves_of(rows[:1000])["d_loss"]) == 1000


def test_progress_is_of_bounded_length_and_size(tmp_path):
    (tmp_path / "samples").mkdir()
    for i in range(60):
        picture = Image.new("RGB", (1000, 500), (4 * i, 0, 255 - 4 * i))
        picture.save(tmp_path / f"samples/step_{i:08}.png")
    runs.save_progress(tmp_path / "samples")
    with Image.open(tmp_path / "progress.webp") as film:
        assert film.n_frames == 12 and film.size == (334, 167)  # a third
        colours = []
        for frame in range(12):
            film.seek(frame)
            colours.append(film.convert("RGB").getpixel((160, 80))[0])
    assert colours[0] < 10 and colours[-1] > 225 and colours == sorted(colours)  # from the first to the last
    assert (tmp_path / "progress.webp").stat().st_size < 1e6


def test_a_damaged_grid_is_left_out_of_the_progress(tmp_path, capsys):
    (tmp_path / "samples").mkdir()
    bad = tmp_path / "samples/step_00000001.png"
    Image.effect_noise((64, 64), 50).save(bad)
    whole = bad.read_bytes()
    for damaged in (b"no picture", whole[:-100], whole.replace(b"IDAT", b"IDAX")):
        bad.write_bytes(damaged)
        runs.save_progress(tmp_path / "samples")
        assert not (tmp_path / "progress.webp").exists() and str(bad) in capsys.readouterr().out
    for i in (2, 3):
        Image.new("RGB", (8, 8), (99 * i, 0, 0)).save(tmp_path / f"samples/step_{i:08}.png")
    runs.save_progress(tmp_path / "samples")
    with Image.open(tmp_path / "progress.webp") as film:
        assert film.n_frames == 2


def test_a_run_leaves_its_progress_and_curves(script, run, tmp_path, monkeypatch):
    drawn = []
    monkeypatch.setattr(runs, "save_curves", lambda *given: drawn.append(given))
    assert run("--steps", 4, "--sample-every", 2, "--lr", 0.1, "--out", tmp_path / "run")[0] == 0
    with Image.open(tmp_path / "run/progress.webp") as film:
        assert film.n_frames == 2
    ((path, rows),) = drawn
    assert path == tmp_path / "run/curves.png" and "".join(rows) == (tmp_path / "run/log.csv").read_text()
    assert run("--steps", 0, "--out", tmp_path / "nothing")[0] == 0
    assert not (tmp_path / "nothing/progress.webp").exists()


# ---------------------------------------------------------------- terminals, names
def test_terminal_that_knows_ascii_only(script, tmp_path, monkeypatch):
    out = io.TextIOWrapper(io.BytesIO(), encoding="ascii")
    err = io.TextIOWrapper(io.BytesIO(), encoding="ascii")
    monkeypatch.setattr(sys, "stdout", out)
    monkeypatch.setattr(sys, "stderr", err)
    script.main([*SCRIPTS[script.__name__].split(), "--steps", "1", "--out", str(tmp_path / "永")])
    with pytest.raises(SystemExit, match="2"):
        script.main(["--resume", str(tmp_path / "和.pt")])
    out.flush()
    err.flush()
    assert b"\\u6c38: " in out.buffer.getvalue()
    assert b"there is no checkpoint" in err.buffer.getvalue() and b"\\u548c.pt" in err.buffer.getvalue()
    assert state(tmp_path / "永")["step"] == 1


def test_names_that_are_not_utf_8(script, run, tmp_path):
    data = tmp_path / os.fsdecode(b"photos \xff")
    for name in "永和":
        (data / name).mkdir(parents=True)
        for i in range(4):
            png(data / name / f"{i}.png", i)
    flags = "--data", data, "--batch-size", 3
    assert run(*flags, "--steps", 1)[0] == 0
    (folder,) = (tmp_path / "runs").iterdir()
    assert json.loads((folder / "args.json").read_text())["data"] == str(data)
    assert run("--resume", folder / "last.pt", "--steps", 2, *flags)[0] == 0
    assert state(folder)["step"] == 2


def test_a_terminal_that_is_closed_does_not_end_a_run():
    terminal, inside = os.openpty()
    with os.fdopen(inside, "w") as stream:
        os.close(terminal)
        output = Output(stream)
        for _ in range(2):
            output.write("step 1\n")
            output.flush()


@shell
@pytest.mark.parametrize("ending", ["2>&-", ">&-", "| true", "> /dev/full"])
def test_closed_output_does_not_end_a_run(script, tmp_path, ending):
    words = [sys.executable, ROOT / f"{script.__name__}.py", *SCRIPTS[script.__name__].split()]
    flags = f"--steps 5 --log-every 1 --out {tmp_path}/run"
    command = f"set -o pipefail; {' '.join(map(str, words))} {flags} {ending}"
    done = subprocess.run(["bash", "-c", command], capture_output=True, text=True, timeout=300)
    assert (done.returncode, done.stderr) == (0, "")
    assert state(tmp_path / "run")["step"] == 5
