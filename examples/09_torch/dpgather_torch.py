"""dpgather for PyTorch: the rows of all data-parallel ranks before the FFN, each rank's own rows,
summed, after it; exactly the real rows, in captured graphs too.

    dpgather_torch.load("libdpgather_torch.so")
    dp = dpgather_torch.DpGather(group, hidden=7168, max_rows=512)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):                  # before any count is known
        rows = dp.gather(local)                    # a view of the arena, [rows of all ranks, hidden]
        addends = dp.combine_input()               # of the arena too: nothing is copied
        ffn(rows, out=addends)
        dp.combine(addends, out)
    # each step:
    dp.begin_step(rows_of_this_rank)               # counts to where kernels read them
    graph.replay()

For processes of one host whose GPUs reach each other's memory. Calls run on PyTorch's current
stream. Wrong input raises RuntimeError with the library's sentence; nothing was written then.
"""

from __future__ import annotations

import contextlib
import pathlib
from typing import Iterator, NamedTuple, Sequence

import torch
import torch.distributed as dist


def load(library: str | pathlib.Path | None = None) -> None:
    """Loads the extension; by itself it looks beside this file."""
    if library is None:
        library = pathlib.Path(__file__).parent / "libdpgather_torch.so"
    torch.classes.load_library(str(library))


class Step(NamedTuple):
    """What all ranks agreed on. Units: rows."""

    in_graph: bool  # all ranks can replay graphs, and there is one of `size`
    total: int  # real rows of all ranks
    global_rows: int  # with tails
    offset: int  # this rank's first row among the gathered ones
    size: int  # captured size that holds the total: which graph to replay
    own_size: int  # captured size that holds this rank's rows


class Counts(NamedTuple):
    """Device memory at fixed addresses, read by kernels as they run: views, not copies."""

    rows: torch.Tensor  # int32 [ranks]
    offsets: torch.Tensor  # int64 [ranks + 1]
    total: torch.Tensor  # int64 []


class DpGather:
    """One rank's channel. Constructing and `close` are collective over the group.

    group: a process group with a CPU backend ("cpu:gloo,cuda:nccl"); it carries 64 bytes a step.
    sizes: rows of a rank that graphs are captured for; SGLang's up to `max_rows` by default.
    clean_tails: rows that are not real are zeroed, else left as they are.
    timeout: seconds for which a rank waits for the others.
    Sums are bf16's; rows of other types can be gathered, not combined.
    """

    def __init__(
        self,
        group: dist.ProcessGroup,
        hidden: int,
        max_rows: int,
        dtype: torch.dtype = torch.bfloat16,
        sizes: Sequence[int] = (),
        device: int | None = None,
        clean_tails: bool = True,
        timeout: float = 30.0,
    ) -> None:
        if device is None:
            device = torch.cuda.current_device()
        self._dp = torch.classes.dpgather.DpGather(
            group.group_name, hidden, dtype, max_rows, list(sizes), device, clean_tails, timeout
        )
        self.rank = dist.get_rank(group)
        self.counts = Counts(*self._dp.counts())
        self.own_rows = self.counts.rows[self.rank : self.rank + 1]
        self.sizes: list[int] = self._dp.sizes()

    def begin_step(self, rows: int | Sequence[int], graph: bool = True) -> Step:
        """Once a step, outside graphs: this rank has `rows` rows. Collective over the CPU group;
        a list has the rows of every rank, as engines know them, and needs no exchange. Nobody
        waits for a GPU."""
        if isinstance(rows, int):
            agreed = self._dp.begin_step(rows, graph)
        else:
            agreed = self._dp.begin_known_step(list(rows), graph)
        return Step(bool(agreed[0]), *agreed[1:])

    def gather(self, local: torch.Tensor, size: int = 0) -> torch.Tensor:
        """The rows of all ranks, [global rows, hidden], rank after rank. The view is valid until
        this rank's next call starts. `local`: [at least this rank's rows, hidden]; in a capture
        it holds the rows of every replay.

        `size`: in a capture, which of `sizes` it is for, by default the largest; all calls of a
        capture have the same. Outside, the shape is the step's."""
        return self._dp.gather(local, size)

    def combine_input(self, size: int = 0, which: int = 0) -> torch.Tensor:
        """Where an FFN writes what it adds to each row, so that nothing is copied. A combine right
        after a combine takes the other one, `which=1`."""
        return self._dp.combine_input(size, which)

    def combine(self, addends: torch.Tensor, out: torch.Tensor, size: int = 0) -> torch.Tensor:
        """This rank's rows of the sum over all ranks, into `out`."""
        return self._dp.combine(addends, out, size)

    def check(self) -> None:
        """Raises what kernels have found, in graphs too. No CUDA call."""
        self._dp.check()

    def wait(self, timeout: float) -> None:
        """Waits for the current stream and raises what its calls have found."""
        self._dp.wait(timeout)

    def set_timeout(self, timeout: float) -> None:
        """Of the calls from now on, those of captured graphs too."""
        self._dp.set_timeout(timeout)

    def close(self) -> None:
        """When graphs are gone (`CUDAGraph.reset`). Views stay readable, calls raise."""
        self._dp.close()


class Batch:
    """The tensors of a batch, padded for a step and restored on every way out.

        batch = Batch(input_ids=ids, positions=positions, sequence_lengths=[lengths, on_host])
        with batch.pad(real=3, padded=4):
            forward()

    Keywords are the kinds of `dpgather::batch_tensor`, which say what pads hold: an engine that
    has several tensors of a kind gives a list. CPU tensors are padded at once."""

    def __init__(self, device: int | None = None, **tensors: torch.Tensor | Sequence[torch.Tensor]):
        if device is None:
            device = torch.cuda.current_device()
        kinds, flat = [], []
        for kind, given in tensors.items():
            for each in [given] if isinstance(given, torch.Tensor) else given:
                kinds.append(kind)
                flat.append(each)
        self._batch = torch.classes.dpgather.Batch(kinds, flat, device)

    @contextlib.contextmanager
    def pad(
        self,
        padded: int,
        real: int | None = None,
        tokens_per_request: int = 1,
        live: torch.Tensor | None = None,
    ) -> Iterator[None]:
        """Units: requests. `live`: this rank's rows in device memory (`DpGather.own_rows`) instead
        of `real`, in a captured graph."""
        if (real is None) == (live is None):
            raise ValueError("dpgather: pad takes real or live")
        self._batch.pad(real or 0, padded, tokens_per_request, live)
        try:
            yield
        finally:
            self._batch.restore()
