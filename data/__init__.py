"""Readers and tools for the data of the four scripts: the only thing that the scripts share."""


class DataError(Exception):
    """Bad input: one line fit for the user, even when a data worker has wrapped a traceback around it."""

    def __init__(self, message: str):
        super().__init__(" ".join(message.rpartition("data.DataError: ")[2].split()))
