"""What must hold, against torch.distributed and against plain indexing."""

from __future__ import annotations

import random
import statistics
from typing import Callable

import torch
import torch.distributed as dist

from dpgather_torch import Batch, DpGather
from ranks import captured, time_of, times_after

Splits = list[list[int]]


class Failed(AssertionError):
    """A check that does not hold."""


def must(holds: bool, what: str) -> None:
    if not holds:
        raise Failed(f"rank {dist.get_rank()}: {what}")


def splits_of(max_rows: int, steps: int) -> Splits:
    """Corners, then at random: a quarter of the ranks idle, a quarter full. Alike on all ranks."""
    ranks, dice = dist.get_world_size(), random.Random(1)
    out = [[0] * ranks, [max_rows] * ranks, [1] * ranks]
    for r in range(ranks):
        out.append([max_rows if r == s else 0 for s in range(ranks)])
        out.append([0 if r == s else max_rows for s in range(ranks)])
    while len(out) < steps:
        kinds = [
            (0, max_rows, dice.randint(0, max_rows))[min(dice.randint(0, 3), 2)]
            for _ in range(ranks)
        ]
        out.append(kinds)
    return out[:steps]


class Twin:
    """The same step over torch.distributed: slots padded to the longest rank."""

    def __init__(self, hidden: int, dtype: torch.dtype = torch.bfloat16) -> None:
        self.hidden, self.dtype = hidden, dtype
        # What this rank adds to a row is the row times this: sums are rounded, ranks differ.
        dice = torch.Generator("cuda").manual_seed(100 + dist.get_rank())
        self.factor = torch.randn(hidden, generator=dice, device="cuda").to(dtype)

    def __call__(self, local: torch.Tensor, split: list[int]) -> tuple[torch.Tensor, torch.Tensor]:
        """All real rows, and this rank's sums."""
        longest, mine = max(max(split), 1), split[dist.get_rank()]
        slot = torch.zeros(longest, self.hidden, dtype=self.dtype, device="cuda")
        slot[:mine] = local[:mine]
        slots = torch.empty(len(split) * longest, self.hidden, dtype=self.dtype, device="cuda")
        dist.all_gather_into_tensor(slots, slot)
        sums = torch.empty_like(slot)
        dist.reduce_scatter_tensor(sums, slots * self.factor)
        real = [slots[r * longest : r * longest + rows] for r, rows in enumerate(split)]
        return torch.cat(real), sums[:mine]


def fill(local: torch.Tensor, step: int) -> None:
    """Other rows in every step and on every rank."""
    dice = torch.Generator("cuda").manual_seed(1000 * step + dist.get_rank())
    local.copy_(torch.randn(local.shape, generator=dice, device="cuda"))


def results(dp: DpGather, max_rows: int, hidden: int, splits: Splits) -> int:
    """One graph for all splits, and calls outside graphs; answers how many values were compared."""
    rank, twin = dp.rank, Twin(hidden)
    local, out = (torch.zeros(max_rows, hidden, dtype=torch.bfloat16, device="cuda") for _ in "12")
    seen = torch.empty(dp.sizes[-1], hidden, dtype=torch.bfloat16, device="cuda")
    counts = [torch.empty_like(each) for each in dp.counts]

    def step(size: int) -> None:
        rows = dp.gather(local, size)
        seen[: rows.size(0)].copy_(rows)
        addends = dp.combine_input(size)
        torch.mul(rows, twin.factor, out=addends)
        dp.combine(addends, out, size)
        for to, live in zip(counts, dp.counts):
            to.copy_(live)

    dp.begin_step(splits[1])
    step(0)  # loads PyTorch's kernels
    torch.cuda.synchronize()
    graph = captured(lambda: step(0))
    compared = 0
    for i, split in enumerate(splits):
        fill(local, i)
        rows, sums = twin(local, split)
        for in_graph in (True, False):
            seen.fill_(7)
            out.fill_(7)
            # Some engines know the rows of all, others ask.
            agreed = dp.begin_step(split if i % 2 else split[rank], graph=in_graph)
            must(agreed.total == sum(split) and agreed.in_graph == in_graph, f"step {i}: {agreed}")
            if in_graph:
                graph.replay()
            else:
                step(0)
            dp.wait(60)
            total, mine = sum(split), split[rank]
            tail = seen[total:] if in_graph else seen[total : agreed.global_rows]
            where = f"step {i} {split} {'in the graph' if in_graph else 'eager'}"
            must(torch.equal(seen[:total], rows), f"{where}: gathered rows differ")
            must(not tail.any(), f"{where}: the gathered tail is not zero")
            must(torch.equal(out[:mine], sums), f"{where}: sums differ")
            must(not out[mine:].any(), f"{where}: the tail of the sums is not zero")
            offsets = [sum(split[:r]) for r in range(len(split) + 1)]
            for has, wants in zip(counts, (split, offsets, total)):
                must(has.tolist() == wants, f"{where}: counts are {has.tolist()}, not {wants}")
            compared += seen[:total].numel() + tail.numel() + out.numel()
    graph.reset()
    return compared


def refused(what: str, says: str, call: Callable[[], object]) -> str:
    """The sentence that `call` is refused with."""
    try:
        call()
    except RuntimeError as error:
        sentence = str(error).splitlines()[0]
        must(says in sentence, f"{what}: {sentence!r} does not say {says!r}")
        return sentence
    raise Failed(f"rank {dist.get_rank()}: {what} was not refused")


def refusals(dp: DpGather, max_rows: int, hidden: int) -> list[str]:
    """All ranks do the same wrong thing; then the right one works. Answers the sentences."""
    make = dict(dtype=torch.bfloat16, device="cuda")
    local, out = torch.ones(max_rows, hidden, **make), torch.full((max_rows, hidden), 7.0, **make)
    rows = min(3, max_rows)
    dp.begin_step(rows)
    gathered, addends = dp.gather(local), dp.combine_input()
    torch.cuda.synchronize()
    addends.copy_(gathered)
    before = gathered.clone()

    def combine(to: torch.Tensor) -> Callable[[], object]:
        return lambda: dp.combine(addends, to)

    def too_small() -> None:
        def call() -> None:
            local.add_(0)  # PyTorch warns of empty graphs
            dp.gather(local[: max_rows - 1])

        captured(call)

    wrong = [
        ("another type", "unsupported_type", lambda: dp.gather(local.float())),
        ("a type without a name", "unsupported_type", lambda: dp.gather(local.bool())),
        ("columns first", "shape_mismatch", lambda: dp.gather(local.t().contiguous().t())),
        ("another width", "shape_mismatch", lambda: dp.gather(local[:, 8:])),
        ("one dimension", "shape_mismatch", lambda: dp.gather(local[0])),
        ("host memory", "wrong_memory", lambda: dp.gather(local.cpu())),
        ("rows missing", "count_changed", lambda: dp.gather(local[: rows - 1])),
        ("output too short", "count_changed", combine(out[: rows - 1])),
        ("output of another type", "unsupported_type", combine(out.half())),
        ("output in host memory", "wrong_memory", combine(out.cpu())),
        ("output among the addends", "aliasing", combine(addends)),
        ("no such input", "count_out_of_range", lambda: dp.combine_input(which=2)),
        ("too many rows", "count_out_of_range", lambda: dp.begin_step(max_rows + 1)),
        ("fewer than none", "count_out_of_range", lambda: dp.begin_step(-1)),
        ("rows of too few ranks", "bad_group", lambda: dp.begin_step([1])),
        ("no room for every replay", "count_changed", too_small),
    ]
    sentences = [refused(*each) for each in wrong]
    torch.cuda.synchronize()
    must(torch.equal(gathered, before) and bool((out == 7).all()), "a refused call has written")
    dp.begin_step(rows)
    dp.combine(addends, out)
    dp.wait(60)
    must(bool((out[:rows] == dist.get_world_size()).all()), "after refusals: wrong sums")
    return sentences


def pad_guard(dp: DpGather) -> None:
    """Pads, restores, also when the forward raises; host copies; in a graph by live counts."""
    capacity, real, padded = 8, 3, 6
    ids = torch.arange(1, capacity + 1, device="cuda")
    positions = torch.arange(1, 3 * capacity + 1, device="cuda").view(3, capacity)
    lengths = torch.arange(11, 11 + capacity, device="cuda", dtype=torch.int32)
    everything = [ids, positions, lengths, lengths.cpu()]
    before = [each.clone() for each in everything]
    batch = Batch(input_ids=ids, positions=positions, sequence_lengths=[lengths, everything[3]])

    def is_padded(tensors: list[torch.Tensor], n: int) -> bool:
        for now, was, pad in zip(tensors, before, (0, 0, 1, 1)):
            wants = was.clone()
            wants[..., n:padded] = pad
            if not torch.equal(now, wants):
                return False
        return True

    with batch.pad(real=real, padded=padded):
        must(is_padded(everything, real), f"the batch is not padded: {everything}")
    must(is_padded(everything, padded), "the batch is not restored")
    try:
        with batch.pad(real=real, padded=padded):
            raise KeyError("in the forward")
    except KeyError:
        pass
    must(is_padded(everything, padded), "the batch is not restored after an exception")
    refused("padded beyond capacity", "capacity_exceeded", batch.pad(9, 3).__enter__)
    refused("real above padded", "count_out_of_range", batch.pad(2, 3).__enter__)
    refused("an unknown kind", "no kind", lambda: Batch(nonsense=ids))
    must(is_padded(everything, padded), "a refused pad has written")

    on_gpu, seen = everything[:3], [torch.empty_like(each) for each in everything[:3]]
    live = Batch(input_ids=ids, positions=positions, sequence_lengths=lengths)

    def step() -> None:
        with live.pad(padded=padded, live=dp.own_rows):
            for to, each in zip(seen, on_gpu):
                to.copy_(each)

    graph = captured(step)
    for rows in (4, 0, 6, 1):
        dp.begin_step(rows)
        graph.replay()
        torch.cuda.synchronize()
        must(is_padded(seen, rows), f"the graph did not pad {rows} rows: {seen}")
        must(is_padded(on_gpu, padded), f"the graph did not restore: {on_gpu}")
    graph.reset()


def lateness(dp: DpGather, max_rows: int, hidden: int) -> list[str]:
    """A rank that is late once delays that call, not those after it."""
    rows, calls = min(32, max_rows), 20
    size = min(each for each in dp.sizes if each >= rows * dist.get_world_size())
    local, out = (torch.ones(max_rows, hidden, dtype=torch.bfloat16, device="cuda") for _ in "12")

    def step() -> None:
        for _ in range(calls):
            dp.gather(local, size)
            dp.combine(dp.combine_input(size), out, size)

    dp.begin_step([rows] * dist.get_world_size())
    graph = captured(step)
    usual = time_of(graph.replay, calls)
    found = [f"{usual:.1f}"]
    for late_us in (100, 500, 2000):
        after = statistics.median(times_after(late_us, graph.replay, calls)[1:])
        must(after < 3 * usual, f"calls take {after:.1f} us after a late one, else {usual:.1f}")
        found.append(f"{after:.1f}")
    graph.reset()
    return found


def late_rank(group: dist.ProcessGroup, hidden: int) -> str:
    """Rank 0 gathers, the others never do: it hears who is missing, and so does every later call."""
    dp = DpGather(group, hidden, max_rows=4)
    dp.set_timeout(0.2)
    dp.begin_step([1] * dist.get_world_size())
    sentence = ""
    if dp.rank == 0:
        local = torch.ones(4, hidden, dtype=torch.bfloat16, device="cuda")
        dp.gather(local)
        sentence = refused("a rank that does not come", "timeout: rank 1", lambda: dp.wait(10))
        refused("the call after it", "poisoned", lambda: dp.gather(local))
    dp.close()
    return sentence
