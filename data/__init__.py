"""Readers and tools for the data of the four scripts: the only thing that the scripts share."""


class DataError(Exception):
    """Bad input: one line fit for the user."""
