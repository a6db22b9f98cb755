"""Ranks that are processes with a GPU each, what they time and what they print."""

from __future__ import annotations

import os
import socket
import statistics
import traceback
from typing import Callable, Sequence

import torch
import torch.distributed as dist
import torch.multiprocessing as mp

SAMPLES, REPLAYS = 11, 10


def run(main: Callable, args) -> int:
    """`main(args)` on two ranks: those of torchrun, or processes started here. 0 if none failed."""
    if "RANK" in os.environ:
        _rank(int(os.environ["LOCAL_RANK"]), main, args, None)
        return 0
    for name in ("GLOO_SOCKET_IFNAME", "NCCL_SOCKET_IFNAME"):
        os.environ.setdefault(name, "lo")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        address = f"tcp://127.0.0.1:{free.getsockname()[1]}"
    try:
        mp.spawn(_rank, (main, args, address), nprocs=2)
    except mp.ProcessExitedException as error:
        return error.exit_code or 1
    return 0


def _rank(local_rank: int, main: Callable, args, address: str | None) -> None:
    torch.cuda.set_device(local_rank)
    where = dict(init_method=address, rank=local_rank, world_size=2) if address else {}
    dist.init_process_group(
        "cpu:gloo,cuda:nccl", device_id=torch.device("cuda", local_rank), **where
    )
    try:
        main(args)
    except Exception:
        traceback.print_exc()
        print(f"\nFAIL on rank {dist.get_rank()}", flush=True)
        os._exit(1)  # the others wait for this rank: whoever started them ends them
    dist.destroy_process_group()


def all_of(value: float) -> list[float]:
    """`value` of every rank."""
    mine = torch.tensor([value], dtype=torch.float64)
    out = [torch.empty_like(mine) for _ in range(dist.get_world_size())]
    dist.all_gather(out, mine)
    return [float(each) for each in out]


def captured(call: Callable[[], None]) -> torch.cuda.CUDAGraph:
    """`call` in a graph of its own memory."""
    graph = torch.cuda.CUDAGraph()
    # NCCL's watchdog looks at events meanwhile.
    with torch.cuda.graph(graph, capture_error_mode="thread_local"):
        call()
    return graph


def time_of(replay: Callable[[], None], calls: int) -> float:
    """Microseconds of one of the `calls` calls in a replay: of the slower rank, median."""
    begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    slowest = []
    for sample in range(-1, SAMPLES):  # the first one warms up
        torch.cuda.synchronize()
        all_of(0)
        replay()  # brings the GPUs together
        begin.record()
        for _ in range(REPLAYS):
            replay()
        end.record()
        end.synchronize()
        microseconds = begin.elapsed_time(end) * 1000 / REPLAYS / calls
        slow = max(all_of(microseconds))
        if sample >= 0:
            slowest.append(slow)
    return statistics.median(slowest)


def times_after(late_us: int, replay: Callable[[], None], calls: int) -> list[float]:
    """Microseconds of a call in each of many replays, of which the last rank begins so late."""
    marks = [torch.cuda.Event(enable_timing=True) for _ in range(41)]
    torch.cuda.synchronize()
    all_of(0)
    if dist.get_rank() == dist.get_world_size() - 1:
        torch.cuda._sleep(late_us * 2000)  # cycles, of about half a nanosecond
    marks[0].record()
    for each in marks[1:]:
        replay()
        each.record()
    torch.cuda.synchronize()
    return [a.elapsed_time(b) * 1000 / calls for a, b in zip(marks, marks[1:])]


def say(text: str = "") -> None:
    """On rank 0."""
    if dist.get_rank() == 0:
        print(text, flush=True)


def table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """The first column to the left, numbers to the right."""
    widths = [max(len(line[c]) for line in [head, *rows]) for c in range(len(head))]
    for line in [head, *rows]:
        cells = [line[0].ljust(widths[0]), *(c.rjust(w) for c, w in zip(line[1:], widths[1:]))]
        say("  " + "  ".join(cells))
