"""What the four scripts share: readers of their data, the bookkeeping of a run, and tools for both."""

import contextlib
import errno
import os
import sys
from argparse import Action, ArgumentDefaultsHelpFormatter, ArgumentParser
from collections.abc import Iterator
from typing import NoReturn, TextIO

# Words in the RuntimeErrors of PyTorch and CUDA
OUT_OF_MEMORY = ("out of memory", "allocate memory", "calculation overflowed", "multiplication overflow")
# The pipe's reader is gone, the terminal is, or the disk with the output is full
OUTPUT_LOST = (errno.EPIPE, errno.EIO, errno.ENOSPC, errno.EDQUOT)


class DataError(Exception):
    """Bad input. Its message is one line for the user, shown without a traceback."""

    def __init__(self, message: str):
        # A DataLoader worker puts its traceback before the message: keep what follows the error's name.
        _, _, message = str(message).rpartition("data.DataError: ")
        super().__init__(one_line(message))


class HelpFormatter(ArgumentDefaultsHelpFormatter):
    """Shows defaults in --help, apart from None: the help of such a flag says what it means to be unset."""

    def _get_help_string(self, action: Action) -> str | None:
        return action.help if action.default is None else super()._get_help_string(action)


def make_parser(prog: str, description: str) -> ArgumentParser:
    """A parser that shows defaults in --help and answers bad input with one line and exit code 2."""
    parser = ArgumentParser(prog, description=description, formatter_class=HelpFormatter, allow_abbrev=False)
    parser.error = lambda message: fail(prog, message)
    return parser


def one_line(message: str) -> str:
    """The stripped lines of a message, joined by spaces. Spaces within a line stay: a path may have them."""
    return " ".join(line.strip() for line in message.strip().splitlines())


def is_out_of_memory(error: BaseException) -> bool:
    """Whether there is too little memory, on the device or the host, or a size overflows."""
    words = str(error).lower()
    return isinstance(error, MemoryError) or any(known in words for known in OUT_OF_MEMORY)


def fail(prog: str, message: object) -> NoReturn:
    """Ends the program because of bad input: one line, exit code 2."""
    print(f"{prog}: error: {one_line(str(message))}", file=sys.stderr)
    sys.exit(2)


@contextlib.contextmanager
def one_line_errors(prog: str, again: str = "", sizes: str = "") -> Iterator[None]:
    """Inside, bad input ends the program with one line and exit code 2; Ctrl-C with exit code 130.

    A DataError is bad input, and so is a size that memory cannot hold, or a data worker that is killed. Any
    other error is a bug and keeps its traceback. again: what the user can do after Ctrl-C. sizes: the flags
    that decide how much memory the program takes.
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
        if is_out_of_memory(error):
            advice = f": use smaller settings, such as {sizes}" if sizes else ""
            fail(prog, f"out of memory{advice}")
        reason = str(error)
        if reason.startswith("DataLoader worker"):  # one died; an error in one starts with "Caught"
            fail(prog, f"{reason.strip(' .')}; try --workers 0")
        raise


def warn_if_folder_exists(spec: str) -> None:
    """Warns that `spec` means the toy data if a folder of that name exists."""
    if os.path.isdir(spec):
        print(f"data: using the toy {spec}; the folder of that name is ./{spec}", file=sys.stderr)


def make_output_safe() -> None:
    """Makes printing safe.

    Characters the terminal cannot show are escaped; a closed terminal or pipe and a full disk are ignored.
    """
    for name in ("stdout", "stderr"):
        stream = getattr(sys, name)
        if stream is None:
            setattr(sys, name, open(os.devnull, "w"))
        elif hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="backslashreplace")
            if not isinstance(stream, Output):
                setattr(sys, name, Output(stream))


class Output:
    """A text stream that drops its output once nobody can take it, instead of raising an OSError."""

    def __init__(self, stream: TextIO):
        self.stream = stream

    def __getattr__(self, name: str) -> object:
        return getattr(self.stream, name)

    def write(self, text: str) -> int:
        with self.without_reader():
            self.stream.write(text)
        return len(text)

    def flush(self) -> None:
        with self.without_reader():
            self.stream.flush()

    @contextlib.contextmanager
    def without_reader(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            if error.errno not in OUTPUT_LOST:
                raise
            with open(os.devnull, "w") as nowhere:
                os.dup2(nowhere.fileno(), self.stream.fileno())
