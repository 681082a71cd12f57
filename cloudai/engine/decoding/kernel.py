# pyright: reportUnknownParameterType=false, reportMissingParameterType=false
# pyright: reportUnknownVariableType=false, reportUnknownMemberType=false
# pyright: reportUnknownArgumentType=false, reportUntypedFunctionDecorator=false
# pyright: reportMissingImports=false
"""Attention of one new token a text over pages, in Triton: keys are read where they lie, and as
many as each text has, so that one captured graph serves texts of any lengths.

Long texts are split among several programs, whose parts are put together afterwards (as in
Flash-Decoding, Dao et al. 2023). The new key and value are written on the way.
"""

from __future__ import annotations

from typing import Any

import torch
import triton
import triton.language as tl


@triton.jit
def _part(
    q, k_new, v_new, keys, values, table, order, places, out, sums, maxima,
    q_row, k_row, k_head, v_row, v_head, width, scale,
    HEADS: tl.constexpr, SHARED: tl.constexpr, GROUP: tl.constexpr, DIM: tl.constexpr,
    WIDE: tl.constexpr, PAGE: tl.constexpr, SPLITS: tl.constexpr, WINDOW: tl.constexpr,
    CAP: tl.constexpr, FUSED: tl.constexpr,
):  # fmt: skip
    row = tl.program_id(0)
    head = tl.program_id(1)
    split = tl.program_id(2)
    seat = tl.load(order + row)
    place = tl.load(places + row)
    first = place * 0
    if WINDOW > 0:
        first = tl.maximum(place - WINDOW + 1, 0)
    low = first // PAGE
    high = place // PAGE + 1
    each = tl.cdiv(high - low, SPLITS)
    start = low + split * each
    end = tl.minimum(start + each, high)

    dims = tl.arange(0, WIDE)
    in_dim = dims < DIM
    group = tl.arange(0, GROUP)
    q_at = q + row * q_row + (head * SHARED + group)[:, None] * DIM + dims[None, :]
    queries = tl.load(q_at, mask=(group < SHARED)[:, None] & in_dim[None, :], other=0.0)
    fresh_k = tl.load(k_new + row * k_row + head * k_head + dims, mask=in_dim, other=0.0)
    fresh_v = tl.load(v_new + row * v_row + head * v_head + dims, mask=in_dim, other=0.0)

    most = tl.full([GROUP], -float("inf"), tl.float32)
    total = tl.zeros([GROUP], tl.float32)
    found = tl.zeros([GROUP, WIDE], tl.float32)
    for at in range(start, end):
        page = tl.load(table + seat * width + at).to(tl.int64)
        spots = tl.arange(0, PAGE)
        here = at * PAGE + spots
        lie = (page * HEADS + head) * PAGE * DIM + spots[:, None] * DIM + dims[None, :]
        seen = (here <= place) & (here >= first)
        inside = seen[:, None] & in_dim[None, :]
        k = tl.load(keys + lie, mask=inside, other=0.0)
        if FUSED:
            k = tl.where((here == place)[:, None], fresh_k[None, :], k)
        scores = tl.dot(queries, tl.trans(k), input_precision="ieee") * scale
        if CAP > 0:
            scores = CAP * (2 * tl.sigmoid(2 * scores / CAP) - 1)
        scores = tl.where(seen[None, :], scores, -float("inf"))
        now = tl.maximum(most, tl.max(scores, 1))
        shrink = tl.exp(most - now)
        chances = tl.exp(scores - now[:, None])
        v = tl.load(values + lie, mask=inside, other=0.0)
        if FUSED:
            v = tl.where((here == place)[:, None], fresh_v[None, :], v)
        total = total * shrink + tl.sum(chances, 1)
        found = found * shrink[:, None] + tl.dot(chances.to(v.dtype), v, input_precision="ieee")
        most = now
    last = place // PAGE
    if FUSED and (last >= start) & (last < end):
        page = tl.load(table + seat * width + last).to(tl.int64)
        lie = (page * HEADS + head) * PAGE * DIM + (place % PAGE) * DIM + dims
        tl.store(keys + lie, fresh_k, mask=in_dim)
        tl.store(values + lie, fresh_v, mask=in_dim)

    query = (row * HEADS + head) * SHARED + group
    if SPLITS == 1:
        at = out + query[:, None] * DIM + dims[None, :]
        given = (found / total[:, None]).to(out.dtype.element_ty)
        tl.store(at, given, mask=(group < SHARED)[:, None] & in_dim[None, :])
    else:
        mine = query * SPLITS + split
        at = out + mine[:, None] * DIM + dims[None, :]
        tl.store(at, found, mask=(group < SHARED)[:, None] & in_dim[None, :])
        tl.store(sums + mine, total, mask=group < SHARED)
        tl.store(maxima + mine, most, mask=group < SHARED)


@triton.jit
def _write(
    k_new, v_new, keys, values, table, order, places,
    k_row, k_head, v_row, v_head, width,
    HEADS: tl.constexpr, DIM: tl.constexpr, WIDE: tl.constexpr, PAGE: tl.constexpr,
):  # fmt: skip
    row = tl.program_id(0)
    head = tl.program_id(1)
    place = tl.load(places + row)
    page = tl.load(table + tl.load(order + row) * width + place // PAGE).to(tl.int64)
    dims = tl.arange(0, WIDE)
    inside = dims < DIM
    lie = (page * HEADS + head) * PAGE * DIM + (place % PAGE) * DIM + dims
    k = tl.load(k_new + row * k_row + head * k_head + dims, mask=inside, other=0.0)
    v = tl.load(v_new + row * v_row + head * v_head + dims, mask=inside, other=0.0)
    tl.store(keys + lie, k, mask=inside)
    tl.store(values + lie, v, mask=inside)


@triton.jit
def _whole(parts, sums, maxima, out, DIM: tl.constexpr, WIDE: tl.constexpr, SPLITS: tl.constexpr):
    query = tl.program_id(0)
    splits = tl.arange(0, SPLITS)
    dims = tl.arange(0, WIDE)
    in_dim = dims < DIM
    maximum = tl.load(maxima + query * SPLITS + splits)
    shrink = tl.exp(maximum - tl.max(maximum, 0))
    total = tl.sum(tl.load(sums + query * SPLITS + splits) * shrink, 0)
    at = parts + (query * SPLITS + splits)[:, None] * DIM + dims[None, :]
    found = tl.load(at, mask=in_dim[None, :] & (shrink > 0)[:, None], other=0.0)
    whole = tl.sum(found * shrink[:, None], 0) / total
    tl.store(out + query * DIM + dims, whole.to(out.dtype.element_ty), mask=in_dim)


@triton.jit
def _least(row, width, most, wanted, MASS: tl.constexpr, BLOCK: tl.constexpr):
    """The least bound that the tokens up to it are as many, or have the mass, that is wanted;
    seven bounds are tried at once."""
    low = tl.full([], -1, tl.int32)
    high = tl.full([], 0x7F800000, tl.int32)
    tried = tl.arange(0, 8)
    while high - low > 1:
        step = (high - low + 7) // 8
        bounds = tl.minimum(low + (tried + 1) * step, high)
        sums = tl.zeros([8], tl.float32)
        for start in range(0, width, BLOCK):
            at = start + tl.arange(0, BLOCK)
            score = tl.load(row + at, mask=at < width, other=-float("inf"))
            bits = (-score).to(tl.int32, bitcast=True) & 0x7FFFFFFF
            weight = (at < width).to(tl.float32)
            if MASS:
                weight = tl.where(bits <= most, tl.exp(score), 0.0)
            sums += tl.sum(tl.where(bits[:, None] <= bounds[None, :], weight[:, None], 0.0), 0)
        short = tl.sum((sums < wanted).to(tl.int32), 0)
        low_now = low + short * step
        high = tl.minimum(low + (short + 1) * step, high)
        low = tl.minimum(low_now, high - 1)
    return high


@triton.jit
def _cut(scaled, table, out, width, columns, BLOCK: tl.constexpr):
    row = tl.program_id(0)
    scores = scaled + row.to(tl.int64) * width
    top_p = tl.load(table + row * columns + 1)
    top_k = tl.load(table + row * columns + 2)
    most = tl.full([], 0x7F800000, tl.int32)
    if top_k > 0:
        most = _least(scores, width, most, top_k, False, BLOCK)
    bound = most
    if top_p < 1:
        sums = tl.zeros([BLOCK], tl.float32)
        for start in range(0, width, BLOCK):
            at = start + tl.arange(0, BLOCK)
            score = tl.load(scores + at, mask=at < width, other=-float("inf"))
            bits = (-score).to(tl.int32, bitcast=True) & 0x7FFFFFFF
            sums += tl.where(bits <= most, tl.exp(score), 0.0)
        bound = tl.minimum(most, _least(scores, width, most, tl.sum(sums, 0) * top_p, True, BLOCK))
    tl.store(out + row, bound)


def cut(scaled: Any, table: Any) -> Any:
    """Of each row the bits of the least likely score that top_k and then top_p keep
    (``sampling.choose``), of shape (rows, 1). ``scaled`` has scores of 0 or less."""
    rows, width = scaled.shape
    scaled, table = scaled.contiguous(), table.contiguous()
    out = torch.empty(rows, 1, dtype=torch.int32, device=scaled.device)
    run: Any = _cut
    run[(rows,)](scaled, table, out, width, table.shape[1], BLOCK=1024, num_warps=8)
    return out


def splits_of(rows: int, heads: int, programs: int) -> int:
    """Among how many programs a text is split, so that there are about so many: a power of 2."""
    wanted = programs // (rows * heads)
    return min(16, 1 << max(0, wanted.bit_length() - 1)) if wanted else 1


def decode(
    q: Any, k: Any, v: Any, keys: Any, values: Any, table: Any, order: Any, places: Any,
    scale: float, window: int, softcap: float, programs: int,
) -> Any:  # fmt: skip
    """What new tokens see: one of each row, or all of one row, which may be of several texts and
    several of one. Of shape (rows, tokens, heads, dim).

    Parameters
    ----------
    q, k, v: of the new tokens, (rows, heads, tokens, dim). keys, values: (pages, heads, page, dim).
    table: the pages of each seat. order, places: each row's seat, and where its token stands.
    window: how many tokens back a layer sees, 0: all. softcap: 0: none.
    programs: how many shall run at once.
    """
    several, every, tokens, dim = q.shape
    _, heads, page, _ = keys.shape
    rows, shared = several * tokens, every // heads
    # From here on a row is a token.
    q, axis = q.transpose(1, 2).contiguous(), 0 if tokens == 1 else 2
    if k.stride(3) != 1 or v.stride(3) != 1:
        k, v = k.contiguous(), v.contiguous()
    strides = k.stride(axis), k.stride(1), v.stride(axis), v.stride(1)
    wide = triton.next_power_of_2(dim)
    fused = tokens == 1  # else a token's keys may be needed before its own turn
    if not fused:
        write: Any = _write
        write[(rows, heads)](
            k, v, keys, values, table, order, places, *strides, table.stride(0),
            HEADS=heads, DIM=dim, WIDE=wide, PAGE=page,
        )  # fmt: skip
    splits = splits_of(rows, heads, programs)
    out = torch.empty(several, tokens, every, dim, dtype=q.dtype, device=q.device)
    parts, sums, maxima = out, out, out
    if splits > 1:
        parts = torch.empty(rows * every * splits, dim, dtype=torch.float32, device=q.device)
        sums = torch.empty(rows * every * splits, dtype=torch.float32, device=q.device)
        maxima = torch.empty_like(sums)
    part: Any = _part
    whole: Any = _whole
    part[(rows, heads, splits)](
        q, k, v, keys, values, table, order, places, parts, sums, maxima,
        every * dim, *strides, table.stride(0), scale,
        HEADS=heads, SHARED=shared, GROUP=max(16, triton.next_power_of_2(shared)), DIM=dim,
        WIDE=wide, PAGE=page, SPLITS=splits, WINDOW=window, CAP=softcap,
        FUSED=fused,
    )  # fmt: skip
    if splits > 1:
        whole[(rows * every,)](parts, sums, maxima, out, DIM=dim, WIDE=wide, SPLITS=splits)
    return out
