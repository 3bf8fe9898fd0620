"""Readers and tools for the data of the four scripts: the only thing that the scripts share."""

import contextlib
import os
from argparse import ArgumentDefaultsHelpFormatter, ArgumentParser
from collections.abc import Iterator

os.environ.setdefault("GOMP_SPINCOUNT", "3000")  # for data.score: before it imports torch


class DataError(Exception):
    """Bad input: one line fit for the user, even when a data worker has wrapped a traceback around it."""

    def __init__(self, message: str):
        super().__init__(" ".join(message.rpartition("data.DataError: ")[2].split()))


def make_parser(prog: str, about: str) -> ArgumentParser:
    """For a command line whose errors are one line and exit code 2. about: its docstring."""
    about, formatter = about.split("\n")[0], ArgumentDefaultsHelpFormatter
    parser = ArgumentParser(prog, description=about, formatter_class=formatter, allow_abbrev=False)
    parser.error = lambda message: parser.exit(2, f"{prog}: error: {message}\n")
    return parser


@contextlib.contextmanager
def one_line_errors(parser: ArgumentParser, again: str) -> Iterator[None]:
    """Inside, bad input and a failing disk end in one line, Ctrl-C too. again: what the user can do then."""
    try:
        yield
    except DataError as error:
        parser.error(error)
    except OSError as error:
        parser.error(f"{error}; {again}")
    except KeyboardInterrupt:
        parser.exit(130, f"{parser.prog}: interrupted; {again}\n")
