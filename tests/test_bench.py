"""The benchmark that waits for a GPU works."""

import bench_gpu

TINY = "--quick --gpu -1 --size 16 --width 2".split()


def test_bench_gpu_prints_all_rows(call):
    code, out, _ = call(bench_gpu.main, *TINY)
    lines = out.splitlines()
    assert (
        code == 0 and lines[0].startswith("| CPU, torch ") and lines[1] == "| --- | --- | --- | --- | --- |"
    )
    table = [line.strip("| ").split(" | ") for line in lines[2:]]
    names = [cells[0] for cells in table]
    assert len(set(names)) == len(names)

    ours = []
    for precision in ("float32", "bfloat16"):
        ours += [precision, f"{precision}, one graph", f"{precision}, compiled"]
    for batch_size in (2, 4):
        for way in (*ours, "obvious, float32", "obvious, bfloat16", "dcgan, float32"):
            names.remove(f"scenes 16x16, batch {batch_size}, {way}")
    for batch_size in (2, 4):
        for way in (*ours, "float32, y as plain maps", "obvious, float32", "dcgan, float32"):
            names.remove(f"characters, 3,740 classes, batch {batch_size}, {way}")
    rest = [name.split(", ")[:2] for name in names]
    assert rest[:3] == [["scenes 16x16", "limit of the arithmetic"]] * 2 + [
        ["scenes 16x16", "limit of the memory"]
    ]
    assert [name.split(",")[0] for name in names[3:]] == ["mixture"] * 4 + ["grid 16x16"] * 2 + [
        "scenes 16x16"
    ] * 4
    for line in lines[2:]:
        assert any(unit in line for unit in ("images/s", "seed-steps/s", "cells x steps/s", "of the time"))
