"""The family: README commands parse, what several scripts share is the same text, scripts can be copied."""

import argparse
import ast
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text()
SCRIPTS = [path.stem for path in sorted(ROOT.glob("*.py"))]
HELPERS = "fail pick_device rng init_weights save_grid save_checkpoint load_checkpoint".split()
MAY_DIFFER = {"--lr", "--z-dim", "--batch-size", "--size", "--width", "--steps"}  # in their defaults only


def functions(script):
    source = (ROOT / f"{script}.py").read_text()
    found = {n.name: ast.get_source_segment(source, n) for n in ast.parse(source).body if hasattr(n, "name")}
    return {name: text.replace("runs.write_file", "write_file") for name, text in found.items()}


def constants(script):
    """{first name: text} of the assignments at the top level."""
    source = (ROOT / f"{script}.py").read_text()
    found = [n for n in ast.parse(source).body if isinstance(n, ast.Assign)]
    return {
        ast.unparse(n.targets[0]).strip("(").split(",")[0]: ast.get_source_segment(source, n) for n in found
    }


def flags(script, monkeypatch):
    """{flag: (help, default)} of a script's command line."""
    found = {}
    add_argument = argparse._ActionsContainer.add_argument

    def note(self, *names, **options):
        found[names[-1]] = (options.get("help"), options.get("default"))
        return add_argument(self, *names, **options)

    module = __import__(script)
    with monkeypatch.context() as patch:
        patch.setattr(argparse._ActionsContainer, "add_argument", note)
        module.parse_args([])
    found.pop("--help", None)
    return found


def commands():
    """Every command of the README that runs one of our programs, as a list of words."""
    blocks = re.findall(r"^```sh\n(.*?)^```$", README, re.DOTALL | re.MULTILINE)
    lines = [
        part for block in blocks for line in block.splitlines() for part in line.split("#")[0].split("&&")
    ]
    for line in lines + re.findall(r"`(python [^`]+)`", README):
        words = shlex.split(line)
        if any(w.endswith(".py") or w.startswith("data.") for w in words):
            yield words


def test_helpers_are_the_same_text_in_every_script():
    for helper in HELPERS:
        texts = {functions(s)[helper]: s for s in SCRIPTS if helper in functions(s)}
        assert len(texts) <= 1, f"{helper} differs between {sorted(texts.values())}"


def test_flags_have_the_same_help_and_default_in_every_script(monkeypatch):
    seen = {}
    for script in SCRIPTS:
        for flag, (help, default) in flags(script, monkeypatch).items():
            first, first_help, first_default = seen.setdefault(flag, (script, help, default))
            if flag != "--data":  # each script reads other data
                assert help == first_help, f"{flag}: {script} and {first} explain it differently"
            if flag not in MAY_DIFFER | {"--data", "--workers"}:
                assert default == first_default, f"{flag}: {script} and {first} have different defaults"


def test_sizes():
    for path in [*ROOT.glob("*.py"), *(ROOT / "data").glob("*.py")]:
        limit = 150 if path.parent.name == "data" else 390 if path.stem == "gaussian_mixture" else 400
        assert len(path.read_text().splitlines()) <= limit, path


@pytest.mark.parametrize("words", list(commands()), ids=" ".join)
def test_commands_of_the_readme_parse(words, monkeypatch, capsys):
    at = next(i for i, w in enumerate(words) if w.endswith(".py") or w.startswith("data."))
    name, arguments = words[at], words[at + 1 :]
    if name.startswith("tests/"):
        assert (ROOT / name).exists()
        return
    module = __import__(name.removesuffix(".py"), fromlist=["main"])
    assert (ROOT / f"{name.removesuffix('.py').replace('.', '/')}.py").exists()

    def stop(self, args=None, namespace=None):
        parse(self, args, namespace)
        raise KeyError("parsed")

    parse = argparse.ArgumentParser.parse_args
    monkeypatch.setattr(argparse.ArgumentParser, "parse_args", stop)
    with pytest.raises(KeyError, match="parsed"):
        module.main(arguments)


def test_ci_takes_its_line_from_the_readme():
    line = re.search(r"^python3 -m venv \.venv-test.*$", README, re.MULTILINE)[0]
    pattern = re.search(r"grep -m 1 -o '(.*)' README.md", (ROOT / ".ci" / "run").read_text())[1]
    assert re.search(pattern, README)[0] == line
    assert line.endswith("python -m pytest -q")


@pytest.mark.parametrize("script", SCRIPTS)
def test_script_runs_alone_in_an_empty_folder(script, tmp_path):
    shutil.copy(ROOT / f"{script}.py", tmp_path)
    if script != "gaussian_mixture":
        shutil.copytree(ROOT / "data", tmp_path / "data", ignore=shutil.ignore_patterns("__pycache__"))
    tiny = {
        "lsgan_scenes": "--size 16 --width 2 --batch-size 4 --steps 1 --workers 0",
        "lsgan_cond_chars": "--width 8 --classes 5 --batch-size 4 --steps 1 --workers 0",
        "gaussian_mixture": "--seeds 1 --steps 2",
        "stability_grid": "--size 16 --width 2 --batch-size 4 --steps 1 --seeds 1",
    }[script]
    command = [sys.executable, f"{script}.py", *tiny.split(), "--gpu", "-1"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert list(tmp_path.glob("runs/*/*")), done.stdout


PICTURES = (
    "discriminator_loss generator_loss",
    """
G, D, z, y = Generator(32, 8, 9), Discriminator(32, 8), torch.rand(6, 9), []
""",
)
PASTED = {  # what goes along with the networks, and how they are made
    "lsgan_scenes": PICTURES,
    "stability_grid": PICTURES,
    "lsgan_cond_chars": (
        "discriminator_loss generator_loss",
        """
G, D, z, y = Generator(3, 8), Discriminator(3, 8), torch.rand(6, 1024), [torch.arange(3).repeat(2)]
""",
    ),
    "gaussian_mixture": (
        "LOSSES INIT_G rng torch_rng Linear gan_loss",
        """
G, D, z, y = Generator(), Discriminator(), torch.rand(1, 6, 256), []
def discriminator_loss(d_real, d_fake): return gan_loss(d_real[0], d_fake[0])[0]
def generator_loss(d_fake): return gan_loss(d_fake[0], d_fake[0])[1]
""",
    ),
}
IMPORTS = """
import numpy as np, torch, torch.nn.functional as F
from torch import Tensor, nn
"""
STEP = """
fake = G(z, *y)
loss = discriminator_loss(D(torch.rand_like(fake), *y), D(fake.detach(), *y)) + generator_loss(D(fake, *y))
loss.sum().backward()
assert all(p.grad is not None for p in (*G.parameters(), *D.parameters()))
"""


@pytest.mark.parametrize("script", SCRIPTS)
def test_networks_and_loss_paste_into_a_fresh_file(script):
    names, made = PASTED[script]
    parts = functions(script) | constants(script)
    pasted = [parts[name] for name in [*names.split(), "Generator", "Discriminator"]]
    exec("\n\n".join([IMPORTS, *pasted, made, STEP]), {})
