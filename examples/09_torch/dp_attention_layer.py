#!/usr/bin/env python3
"""Tutorial 9: PyTorch. Needs PyTorch and two GPUs that reach each other's memory.

    dp_attention_layer.py --library build/examples/09_torch/libdpgather_torch.so
    torchrun --nproc-per-node 2 dp_attention_layer.py --library ...

Checks gather and combine against torch.distributed's all-gather and reduce-scatter, bit for bit;
times both in CUDA graphs; then one data-parallel attention layer before and after. Exit code: 0
when all is right, 1 when not, 77 without PyTorch or GPUs.
"""

from __future__ import annotations

import argparse
import os
import sys

# Before NCCL is loaded: no multicast objects, and graphs of one communicator never mix with its
# calls outside them, which makes NCCL's graphs faster.
os.environ.setdefault("NCCL_NVLS_ENABLE", "0")
os.environ.setdefault("NCCL_GRAPH_MIXING_SUPPORT", "0")

try:
    import torch
except ImportError:
    print("skipped: no PyTorch")
    sys.exit(77)

import torch.distributed as dist

import checks
import dpgather_torch
import ranks
from layer import Exact, Layer, Padded

CALLS = 20  # of each kind in a timed graph


def splits(sizes: list[int]) -> list[tuple[int, int]]:
    """Equal rows, and eight to one."""
    return [(n, n) for n in sizes] + [(n, n // 8) for n in sizes]


def name(split: tuple[int, ...]) -> str:
    return "+".join(str(rows) for rows in split)


def verdict(ratios: list[float]) -> str:
    faster = sum(ratio < 1 for ratio in ratios)
    return (
        f"dpgather took less time in {faster} of {len(ratios)} splits, "
        f"{min(ratios):.2f} to {max(ratios):.2f} times torch.distributed's"
    )


def time_collectives(dp: dpgather_torch.DpGather, args: argparse.Namespace) -> None:
    """Gather and combine: one graph for all splits, beside a graph for each padded size."""
    most, world = max(args.sizes), dist.get_world_size()
    make = dict(dtype=torch.bfloat16, device="cuda")
    local, out = (torch.zeros(most, args.hidden, **make) for _ in "12")
    slots = torch.zeros(most * world, args.hidden, **make)

    def ours(size: int) -> None:
        for _ in range(CALLS):
            dp.gather(local, size)
            dp.combine(dp.combine_input(size), out, size)

    def padded(longest: int) -> None:
        every = slots[: longest * world]
        for _ in range(CALLS):
            dist.all_gather_into_tensor(every, local[:longest])
            dist.reduce_scatter_tensor(out[:longest], every)

    for n in args.sizes:  # NCCL connects for a size when it first comes
        padded(n)
    torch.cuda.synchronize()
    graph = ranks.captured(lambda: ours(0))
    twins = {n: ranks.captured(lambda n=n: padded(n)) for n in args.sizes}
    rows, ratios = [], []
    for split in splits(args.sizes):
        step = dp.begin_step(split)
        new = ranks.time_of(graph.replay, CALLS)
        sized = ranks.captured(lambda: ours(step.size))
        fitting = ranks.time_of(sized.replay, CALLS)
        sized.reset()
        old = ranks.time_of(twins[max(split)].replay, CALLS)
        ratios.append(new / old)
        rows.append(
            [name(split), str(sum(split)), str(max(split) * world)]
            + [f"{each:.2f}" for each in (old, new, new / old, fitting)]
        )
    for each in (graph, *twins.values()):
        each.reset()
    ranks.say(
        f"\ngather + combine, us in replayed graphs, rows of {args.hidden} bf16; torch.distributed: "
        "all-gather and\nreduce-scatter, a graph for each size of the longest rank; dpgather: one "
        "graph for all splits"
    )
    head = ["rows by rank", "real", "padded", "torch.distributed", "dpgather", "ratio"]
    ranks.table([*head, "in a graph of its size"], rows)
    ranks.say(verdict(ratios))


def compare_layers(dp: dpgather_torch.DpGather, args: argparse.Namespace) -> None:
    """One layer before and after: results equal, times of both."""
    layer = Layer(dp.rank, args.hidden, args.inner, max(args.sizes))
    out = layer.buffers.out
    rows, ratios = [], []
    for split in splits(args.sizes):
        step = dp.begin_step(split)
        before = Padded(layer, max(split))
        after = Exact(layer, dp, step.own_size, step.size)
        for each in (before, after):  # loads kernels, connects NCCL
            each()
            torch.cuda.synchronize()
        graphs = [ranks.captured(before), ranks.captured(after)]
        found = []
        for graph in graphs:
            out.fill_(7)
            graph.replay()
            dp.wait(60)
            found.append(out[: split[dp.rank]].clone())
        checks.must(torch.equal(*found), f"layer of {split}: results differ")
        checks.must(not split[dp.rank] or bool(found[0].any()), f"layer of {split}: only zeros")
        old, new = (ranks.time_of(graph.replay, 1) for graph in graphs)
        ratios.append(new / old)
        rows.append(
            [name(split), f"{before.longest}, {len(split) * before.longest}"]
            + [f"{step.own_size}, {step.size}", f"{old:.1f}", f"{new:.1f}", f"{new / old:.2f}"]
        )
        for graph in graphs:
            graph.reset()
    ranks.say(
        f"\na layer: attention on own rows, gather, FFN of {args.hidden} x {args.inner} a rank on all "
        'rows, combine; us in replayed graphs;\n"rows": of rank 0\'s attention, of the FFN. Outputs '
        "are equal, bit for bit"
    )
    head = ["rows by rank", "before: rows", "after: rows", "before", "after", "ratio"]
    ranks.table(head, rows)
    ranks.say(verdict(ratios))


def main(args: argparse.Namespace) -> None:
    checks.must(dist.get_world_size() == 2, "two ranks: of more, NCCL rounds sums on the way")
    dpgather_torch.load(args.library)
    most = max(args.sizes)
    group = dist.group.WORLD
    dp = dpgather_torch.DpGather(group, args.hidden, args.rows)
    steps = checks.splits_of(args.rows, args.steps)
    compared = checks.results(dp, args.rows, args.hidden, steps)
    ranks.say(
        f"{torch.cuda.get_device_name()}, PyTorch {torch.__version__}, NCCL "
        f"{'.'.join(map(str, torch.cuda.nccl.version()))}\n"
        f"{len(steps)} splits in one graph and eager: {compared} values of rank 0 equal "
        "torch.distributed's, tails are zero"
    )
    sentences = checks.refusals(dp, args.rows, args.hidden)
    ranks.say(f"{len(sentences)} wrong calls refused, nothing written, e.g.\n  {sentences[0]}")
    checks.pad_guard(dp)
    ranks.say("the pad guard pads and restores, after an exception and in a graph too")
    dp.check()
    dp.close()
    ranks.say(f"a rank that does not come:\n  {checks.late_rank(group, args.hidden)}")

    # Pads are left in, as torch.distributed leaves them.
    dp = dpgather_torch.DpGather(group, args.hidden, most, clean_tails=False)
    usual, *after = checks.lateness(dp, most, args.hidden)
    ranks.say(
        f"a rank that was late once: calls take {usual} us before, {', '.join(after)} us after it "
        "was 0.1, 0.5, 2 ms late"
    )
    time_collectives(dp, args)
    compare_layers(dp, args)
    dp.check()
    dp.close()
    ranks.say("\nPASS")


def parsed() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--library", help="libdpgather_torch.so")
    parser.add_argument("--hidden", type=int, default=7168, help="bf16 elements of a row")
    parser.add_argument("--inner", type=int, default=2048, help="inner dimension of a rank's FFN")
    parser.add_argument("--rows", type=int, default=64, help="most rows of a rank in the checks")
    parser.add_argument("--steps", type=int, default=100, help="splits to check")
    parser.add_argument(
        "--sizes", type=int, nargs="+", default=[1, 8, 32, 128, 512], help="rows to time"
    )
    return parser.parse_args()


if __name__ == "__main__":
    arguments = parsed()
    if torch.cuda.device_count() < 2 or not torch.cuda.can_device_access_peer(0, 1):
        print(
            f"skipped: needs 2 GPUs that reach each other's memory, {torch.cuda.device_count()} seen"
        )
        sys.exit(77)
    sys.exit(ranks.run(main, arguments))
