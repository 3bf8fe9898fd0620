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
import torch

import lsgan_scenes

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text()
PAGES = [ROOT / "README.md", *sorted(ROOT.glob("docs/*.md"))]
SCRIPTS = [path.stem for path in sorted(ROOT.glob("*.py"))]

# Functions and classes of several scripts are the same text in each, but for these
OWN = "parse_args Generator Discriminator train_step make_networks make_update sample open_data train".split()
OWN += ["draw_curves"]
EXCEPTIONS = {  # of these scripts, because ...
    "load_batches": ["lsgan_cond_chars"],  # it has labels
    "generate": ["lsgan_cond_chars", "gaussian_mixture"],  # classes, points
    "torch_rng": ["gaussian_mixture"],  # on a device
    "init_weights": ["gaussian_mixture"],  # many models at once
    "discriminator_loss": ["gaussian_mixture"],  # a loss for each model
    "generator_loss": ["gaussian_mixture"],
    "main": ["gaussian_mixture", "stability_grid"],
}

# Flags of several scripts have the same help and default, but for these
OTHER_DEFAULT = {"--data", "--lr", "--z-dim", "--batch-size", "--size", "--width", "--steps"}
OTHER_HELP = {"--data", "--batch-size"}  # each script reads other data; the grid has a batch for each cell


def without_docstring(node):
    """A function's or class's text, formatted anew."""
    copy = ast.parse(ast.unparse(node)).body[0]
    if ast.get_docstring(copy):
        del copy.body[0]
    return ast.unparse(copy)


def definitions(script):
    """{name: (text, syntax tree)} of the functions and classes at the top level."""
    source = (ROOT / f"{script}.py").read_text()
    nodes = [node for node in ast.parse(source).body if isinstance(node, (ast.FunctionDef, ast.ClassDef))]
    return {node.name: (ast.get_source_segment(source, node), node) for node in nodes}


def constants(script):
    """{first name: text} of the assignments at the top level."""
    source = (ROOT / f"{script}.py").read_text()
    found = [node for node in ast.parse(source).body if isinstance(node, ast.Assign)]
    return {
        ast.unparse(node.targets[0]).strip("(").split(",")[0]: ast.get_source_segment(source, node)
        for node in found
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


def commands(page):
    """Every command on a page that runs one of our programs, as a list of words."""
    text = page.read_text()
    lines = []
    for block in re.findall(r"^```sh\n(.*?)^```$", text, re.DOTALL | re.MULTILINE):
        for line in block.splitlines():
            lines += re.split("&&|;", line.split("#")[0])
    for line in lines + re.findall(r"`(python [^`]+)`", text):
        words = shlex.split(line.replace("$s", "0"))  # the seed in `for s in 0 1 2`
        if any(word.endswith(".py") or word.startswith("data.") for word in words):
            yield words


COMMANDS = [words for page in PAGES for words in commands(page)]


def test_what_several_scripts_define_is_the_same_text_in_each():
    found = {}
    for script in SCRIPTS:
        for name, (text, node) in definitions(script).items():
            if name in OWN or script in EXCEPTIONS.get(name, []):
                continue
            if name.endswith("_loss"):  # which name their equations
                text = without_docstring(node)
            first, first_text = found.setdefault(name, (script, text))
            assert text == first_text, f"{name} differs between {first} and {script}"
    shared = "rng torch_rng noise batch_order init_weights discriminator_loss generator_loss save_grid due"
    for name in shared.split():
        assert sum(name in definitions(script) for script in SCRIPTS) >= 3, name


def test_flags_have_the_same_help_and_default_in_every_script(monkeypatch):
    seen = {}
    for script in SCRIPTS:
        for flag, (help, default) in flags(script, monkeypatch).items():
            first, first_help, first_default = seen.setdefault(flag, (script, help, default))
            if flag not in OTHER_HELP:
                assert help == first_help, f"{flag}: {script} and {first} explain it differently"
            if flag not in OTHER_DEFAULT:
                assert default == first_default, f"{flag}: {script} and {first} have different defaults"


@pytest.mark.parametrize("path", [*ROOT.glob("*.py"), *ROOT.glob("data/*.py")], ids=lambda path: path.name)
def test_no_program_needs_its_docstrings(path):
    """python -OO takes them away."""
    assert "__doc__" not in path.read_text()


def anchors(page):
    """The anchors of a page's headings, as GitHub makes them."""
    headings = re.findall(r"^#+ (.+)$", re.sub(r"```.*?```", "", page.read_text(), flags=re.S), re.M)
    return {re.sub(r"[^\w -]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_local_links_lead_somewhere(page):
    links = re.findall(r"\]\(([^)\s]+)\)", page.read_text())
    local = [link for link in links if not link.startswith("http")]
    assert local
    for link in local:
        file, _, anchor = link.partition("#")
        target = (page.parent / file).resolve() if file else page
        assert target.exists(), link
        assert not anchor or anchor in anchors(target), link


@pytest.mark.parametrize("words", COMMANDS, ids=" ".join)
def test_commands_of_the_readme_parse(words, monkeypatch, capsys):
    at = next(i for i, w in enumerate(words) if w.endswith(".py") or w.startswith("data."))
    name, arguments = words[at], words[at + 1 :]
    if name.startswith("tests/"):
        assert (ROOT / name).exists()
        return
    module = __import__(name.removesuffix(".py").replace("/", "."), fromlist=["main"])
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


def python_blocks():
    return re.findall(r"^```python\n(.*?)^```$", README, re.DOTALL | re.MULTILINE)


def test_the_losses_in_the_readme_are_those_of_the_script():
    names = {}
    exec(python_blocks()[0], names)
    d_real, d_fake = torch.tensor([1.0, 3.0]), torch.tensor([0.0, 2.0])
    for targets in ({}, {"a": -1.0, "b": 1.0}):
        expected = lsgan_scenes.discriminator_loss(d_real, d_fake, *targets.values())
        assert torch.equal(names["discriminator_loss"](d_real, d_fake, **targets), expected)
    for c in ((), (0.0,)):
        assert torch.equal(names["generator_loss"](d_fake, *c), lsgan_scenes.generator_loss(d_fake, *c))


def test_the_step_in_the_readme_trains_as_the_script_does():
    names = {}
    exec(python_blocks()[0], names)
    trained = []
    for train_step in (names["train_step"], lsgan_scenes.train_step):
        G, D = lsgan_scenes.Generator(16, 4, 4).double(), lsgan_scenes.Discriminator(16, 4).double()
        for net in (G, D):
            lsgan_scenes.init_weights(net, torch.Generator().manual_seed(0))
        opt_g, opt_d = torch.optim.SGD(G.parameters(), 1.0), torch.optim.SGD(D.parameters(), 1.0)
        for step in range(2):
            real = lsgan_scenes.noise(6, 3 * 16 * 16, 0, 1, step).view(6, 3, 16, 16).double()
            z = lsgan_scenes.noise(6, 4, 0, 2, step).double()
            train_step(G, D, opt_g, opt_d, real, z)
        trained.append([*G.parameters(), *D.parameters()])
    torch.testing.assert_close(*trained)


@pytest.mark.parametrize("ema", [0, 0.5])
def test_the_interpolation_in_the_readme_runs(ema, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    tiny = f"--size 16 --width 2 --batch-size 4 --limit 12 --steps 2 --ema {ema} --gpu -1 --out ."
    lsgan_scenes.main(tiny.split())
    names = {}
    exec(python_blocks()[1], names)
    pictures = names["pictures"]
    assert pictures.dtype == torch.uint8 and pictures.shape == (8, 16, 16, 3)
    expected = torch.load("last.pt")["ema" if ema else "G"]
    weights = names["G"].state_dict()
    assert weights.keys() == expected.keys()
    assert all(torch.equal(weights[name], expected[name]) for name in weights)


@pytest.mark.parametrize("script", SCRIPTS)
def test_script_runs_alone_in_an_empty_folder(script, tmp_path):
    shutil.copy(ROOT / f"{script}.py", tmp_path)
    shutil.copytree(ROOT / "data", tmp_path / "data", ignore=shutil.ignore_patterns("__pycache__"))
    tiny = {
        "lsgan_scenes": "--size 16 --width 2 --batch-size 4 --limit 12 --steps 1",
        "lsgan_cond_chars": "--width 8 --classes 5 --batch-size 4 --steps 1",
        "gaussian_mixture": "--seeds 1 --steps 2",
        "stability_grid": "--size 32 --width 2 --batch-size 4 --steps 1 --seeds 1",
    }[script]
    command = [sys.executable, f"{script}.py", *tiny.split(), "--gpu", "-1"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert list(tmp_path.glob("runs/*/*")), done.stdout


PASTED = {  # beside Generator, Discriminator and train_step; how they are called
    "lsgan_scenes": (
        "LastLinear init_weights discriminator_loss generator_loss augment",
        """
G, D = Generator(size=16, width=2, z_dim=4), Discriminator(size=16, width=2)
real, z, more = torch.rand(6, 3, 16, 16), torch.rand(6, 4), {"u": torch.rand(2, 6, 8)}
""",
    ),
    "lsgan_cond_chars": (
        "LastLinear init_weights discriminator_loss generator_loss",
        """
G, D = Generator(classes=3, width=4, z_dim=4), Discriminator(classes=3, width=4)
real, z, more = torch.rand(6, 1, 28, 28), torch.rand(6, 4), {"y": torch.arange(3).repeat(2)}
""",
    ),
    "stability_grid": (
        "init_weights init_gamma discriminator_loss generator_loss TFRMSprop",
        """
G, D = Generator(size=16, width=2, z_dim=4), Discriminator(size=16, width=2)
real, z, more = torch.rand(6, 3, 16, 16), torch.rand(6, 4), {}
""",
    ),
    "gaussian_mixture": (
        "LOSSES BatchedLinear init_weights discriminator_loss generator_loss",
        """
G, D = Generator(models=2, z_dim=4), Discriminator(models=2)
real, z, more = torch.rand(2, 6, 2), torch.rand(2, 6, 4), {}
""",
    ),
}
IMPORTS = """
import torch
import torch.nn.functional as F
from torch import Tensor, nn
"""
STEPS = """
before = [p.detach().clone() for p in (*G.parameters(), *D.parameters())]
opt_g, opt_d = torch.optim.Adam(G.parameters(), 1e-3), torch.optim.Adam(D.parameters(), 1e-3)
for step in range(2):
    losses = train_step(G, D, opt_g, opt_d, real, z, **more)
assert losses.isfinite().all()
after = [*G.parameters(), *D.parameters()]
assert all(not torch.equal(p, q) for p, q in zip(before, after))
"""
INIT = """
for net in (G, D):
    init_weights(net, torch.Generator().manual_seed(0))
"""
INIT_GAMMA = """
    init_gamma(net, torch.Generator().manual_seed(0))
"""


@pytest.mark.parametrize("script", SCRIPTS)
def test_networks_loss_and_step_paste_into_a_fresh_file(script):
    """With torch alone: no numpy, nothing of data/, no other name of the script."""
    names, made = PASTED[script]
    parts = {name: text for name, (text, _) in definitions(script).items()} | constants(script)
    pasted = [parts[name] for name in [*names.split(), "Generator", "Discriminator", "train_step"]]
    init = INIT
    if script == "gaussian_mixture":  # a generator for each model, or the global one
        init = INIT.replace(", torch.Generator().manual_seed(0)", "")
    elif script == "stability_grid":
        init = INIT.rstrip() + INIT_GAMMA
    exec("\n\n".join([IMPORTS, *pasted, made, init, STEPS]), {})


@pytest.mark.parametrize("script", SCRIPTS)
def test_networks_to_train_step_need_pytorch_alone(script):
    """README: copy everything from Generator, in the mixture from BatchedLinear, to train_step."""
    found = definitions(script)
    first = "BatchedLinear" if script == "gaussian_mixture" else "Generator"
    lines = (ROOT / f"{script}.py").read_text().splitlines()
    imports = [line for line in lines if line.startswith(("import torch", "from torch import"))]
    pasted = lines[found[first][1].lineno - 1 : found["train_step"][1].end_lineno]
    names = {}
    exec("\n".join([*imports, *pasted]), names)
    if script == "gaussian_mixture":
        G, D = names["Generator"](1, 8), names["Discriminator"](1)
        inputs = torch.rand(1, 4, 2), torch.rand(1, 4, 8)
    elif script == "lsgan_cond_chars":
        G, D = names["Generator"](4, 8, 8), names["Discriminator"](4, 8)
        inputs = torch.rand(4, 1, 28, 28), torch.rand(4, 8), torch.arange(4)
    else:
        G, D = names["Generator"](32, 4, 8), names["Discriminator"](32, 4)
        inputs = torch.rand(4, 3, 32, 32), torch.rand(4, 8)
    names["init_weights"](G)
    names["init_weights"](D)
    losses = names["train_step"](G, D, *(torch.optim.Adam(net.parameters()) for net in (G, D)), *inputs)
    assert losses.isfinite().all()
