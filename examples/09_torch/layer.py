"""One data-parallel attention layer, before (torch.distributed, padded) and after (dpgather).

Numbers are such that every order of summation gives the same sums: small whole activations, weights
of -1, 0 and 1, probabilities in 128ths. So cuBLAS may choose its algorithms by the number of rows,
and results can still be compared bit for bit.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
import torch.distributed as dist
import torch.nn.functional as F

from dpgather_torch import DpGather

HEAD, CONTEXT = 128, 128


class Buffers(NamedTuple):
    """A rank's rows, all of `max_rows`."""

    x: torch.Tensor  # input
    h: torch.Tensor  # after the attention
    out: torch.Tensor


class Layer:
    """Attention on the rank's own rows, one key and value head as in MLA and MQA; a gated FFN whose
    inner dimension is sharded over the ranks."""

    def __init__(self, rank: int, hidden: int, inner: int, max_rows: int) -> None:
        def whole(low: int, high: int, seed: int, *shape: int) -> torch.Tensor:
            dice = torch.Generator("cuda").manual_seed(seed)
            made = torch.randint(low, high + 1, shape, generator=dice, device="cuda")
            return made.to(torch.bfloat16)

        def sparse(seed: int, *shape: int) -> torch.Tensor:
            return whole(-1, 1, seed, *shape) * (whole(0, 2, seed + 1, *shape) == 0)

        # Partial sums in bf16 would be rounded by the algorithm.
        torch.backends.cuda.matmul.allow_bf16_reduced_precision_reduction = False
        self.keys = whole(-1, 1, 10 + rank, max_rows, CONTEXT, HEAD)
        self.values = whole(-4, 4, 20 + rank, max_rows, CONTEXT, HEAD)
        self.w_in = sparse(30 + 2 * rank, hidden, 2 * inner)
        self.w_out = sparse(50 + 2 * rank, inner, hidden)
        self.buffers = Buffers(
            whole(-2, 2, 70 + rank, max_rows, hidden),
            *(torch.zeros(max_rows, hidden, dtype=torch.bfloat16, device="cuda") for _ in "12"),
        )

    def attention(self, rows: int) -> None:
        x = self.buffers.x[:rows]
        scores = x.view(rows, -1, HEAD) @ self.keys[:rows].transpose(1, 2)
        share = torch.softmax(scores.float() / 16, -1).mul_(128).round_().to(x.dtype).div_(128)
        mixed = (share @ self.values[:rows]).view(rows, -1)
        torch.round(x + mixed, out=self.buffers.h[:rows])

    def ffn(self, rows: torch.Tensor, out: torch.Tensor) -> None:
        gate, up = (rows @ self.w_in).chunk(2, -1)
        torch.matmul(F.relu(gate) * up, self.w_out, out=out)


class Padded:
    """Before: every rank padded to the longest, as engines do in graphs over NCCL."""

    def __init__(self, layer: Layer, longest: int) -> None:
        self.layer, self.longest = layer, longest
        hidden = layer.buffers.x.size(1)
        shape = (longest * dist.get_world_size(), hidden)
        self.rows = torch.zeros(shape, dtype=torch.bfloat16, device="cuda")
        self.addends = torch.zeros_like(self.rows)

    def __call__(self) -> None:
        mine = self.layer.buffers
        self.layer.attention(self.longest)
        dist.all_gather_into_tensor(self.rows, mine.h[: self.longest])
        self.layer.ffn(self.rows, out=self.addends)
        dist.reduce_scatter_tensor(mine.out[: self.longest], self.addends)


class Exact:
    """After: attention on this rank's rows, the FFN on those of all, each in its captured size."""

    def __init__(self, layer: Layer, dp: DpGather, own_size: int, size: int) -> None:
        self.layer, self.dp, self.own_size, self.size = layer, dp, own_size, size

    def __call__(self) -> None:
        mine = self.layer.buffers
        if self.own_size:
            self.layer.attention(self.own_size)
        rows = self.dp.gather(mine.h, self.size)
        addends = self.dp.combine_input(self.size)
        self.layer.ffn(rows, out=addends)
        self.dp.combine(addends, mine.out, self.size)
