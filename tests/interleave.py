"""For benchmarks: how long each of several ways takes, if they take turns."""

import statistics
import time
from collections.abc import Callable


def median_seconds(
    ways: dict[str, Callable], rounds: int, clock: Callable[[], float] = time.perf_counter, warm_up: int = 1
) -> dict[str, float]:
    """{way: median seconds of a call}. The ways take turns, so that what slows the machine slows all of them.

    A way takes no arguments and waits for its device itself. The first `warm_up` rounds do not count.
    """
    seconds = {name: [] for name in ways}
    for _ in range(warm_up + rounds):
        for name, way in ways.items():
            start = clock()
            way()
            seconds[name].append(clock() - start)
    return {name: statistics.median(times[warm_up:]) for name, times in seconds.items()}
