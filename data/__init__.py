"""What the four scripts share: readers of their data, the bookkeeping of a run, and tools for both."""

import contextlib
import os
import sys
from argparse import ArgumentDefaultsHelpFormatter, ArgumentParser
from collections.abc import Iterator

OUT_OF_MEMORY = ("out of memory", "allocate memory", "overflow")  # words in the errors of PyTorch and CUDA


class DataError(Exception):
    """Bad input. Its message is one line for the user, who did nothing wrong in Python."""

    def __init__(self, message: str):
        # A DataLoader worker wraps its traceback around the message: take what stands behind its last name.
        _, _, message = str(message).rpartition("data.DataError: ")
        super().__init__(" ".join(message.split()))


def make_parser(prog: str, description: str) -> ArgumentParser:
    """A parser that shows defaults in --help and answers bad input with one line and exit code 2."""
    parser = ArgumentParser(
        prog, description=description, formatter_class=ArgumentDefaultsHelpFormatter, allow_abbrev=False
    )
    parser.error = lambda message: fail(prog, message)
    return parser


def fail(prog: str, message: object) -> None:
    """Ends the program because of bad input: one line, exit code 2."""
    print(f"{prog}: error: {' '.join(str(message).split())}", file=sys.stderr)
    sys.exit(2)


@contextlib.contextmanager
def one_line_errors(prog: str, again: str = "") -> Iterator[None]:
    """Inside, bad input ends the program with one line and exit code 2; Ctrl-C with exit code 130.

    A DataError is bad input, and so is a size that memory cannot hold, or a data worker that is killed. Any
    other error is one of the code and keeps its traceback. again: what the user can do after Ctrl-C.
    """
    make_output_safe()
    try:
        yield
    except DataError as error:
        fail(prog, error)
    except KeyboardInterrupt:
        if again:
            print(f"{prog}: interrupted; {again}", file=sys.stderr)
        sys.exit(130)
    except (MemoryError, RuntimeError) as error:
        reason = str(error)
        if isinstance(error, MemoryError) or any(words in reason.lower() for words in OUT_OF_MEMORY):
            fail(prog, f"out of memory: lower --batch-size, --width or --size ({reason.partition('. ')[0]})")
        if "DataLoader worker" in reason:
            fail(prog, f"{reason.strip(' .')}; --workers 0 reads without any")
        raise


def make_output_safe() -> None:
    """Lets output go to a terminal that knows ASCII only, and to one that has been closed."""
    for name in ("stdout", "stderr"):
        stream = getattr(sys, name)
        if stream is None:
            setattr(sys, name, open(os.devnull, "w"))
        elif hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="backslashreplace")
