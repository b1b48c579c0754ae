"""The CPU kernels: right against float64 at every shape and instruction set, the same bits however they are run."""

import ctypes
import itertools
from collections.abc import Callable

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from aquatint.base.errors import UserError
from aquatint.base.noise import Noise
from aquatint.engines.kernels.attend import attend
from aquatint.engines.kernels.build import found
from aquatint.engines.kernels.conv import Winograd, convolve
from aquatint.engines.kernels.library import Attention, Convolution, Norm, Shape, address, library
from aquatint.engines.kernels.norm import norm_silu

pytestmark = pytest.mark.skipif(found().library is None, reason=found().reason)
ISAS = range(found().library.aquatint_isa() + 1) if found().library else range(1)
# count, inside, outside, height, width: one channel, fewer than a vector has, more than are summed in one go, odd ones;
# pictures smaller than a tile, of whole tiles and not, of more tiles than a block has
SHAPES = [
    (1, 1, 1, 1, 1), (2, 3, 4, 5, 7), (1, 4, 3, 9, 2), (1, 16, 32, 4, 4), (3, 33, 31, 2, 3), (1, 48, 70, 13, 11),
    (1, 321, 17, 3, 8), (2, 700, 40, 6, 5), (1, 8, 96, 33, 41), (1, 5, 3, 70, 66), (4, 17, 35, 16, 16),
]  # fmt: skip
LIMIT = {4: 5e-6, 2: 1e-6}  # of the rms


def numbers(*shape: int, draw: int = 0) -> Tensor:
    return Noise(range(shape[0])).normal(shape[1:], draw=draw)


def picture(*shape: int, draw: int = 0) -> Tensor:
    return numbers(*shape, draw=draw).contiguous(memory_format=torch.channels_last)


def off(got: Tensor, want: Tensor) -> float:
    """The rms of the difference in that of what is wanted."""
    return float((got.double() - want).norm() / want.norm())


def layer(inside: int, outside: int, tile: int, isa: int | None = None) -> tuple[Winograd, Tensor, Tensor]:
    weight, bias = numbers(outside, inside, 3, 3, draw=1) / (3 * inside**0.5), numbers(outside, draw=2)
    return Winograd(weight, bias, tile, isa=isa), weight, bias


@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("tile", LIMIT)
@pytest.mark.parametrize("isa", ISAS)
def test_a_convolution_is_right(shape: tuple[int, ...], tile: int, isa: int) -> None:
    count, inside, outside, height, width = shape
    conv, weight, bias = layer(inside, outside, tile, isa)
    x, add, each = (
        picture(count, inside, height, width),
        picture(count, outside, height, width),
        numbers(count, outside),
    )
    want = F.conv2d(x.double(), weight.double(), bias.double(), padding=1)
    got = conv(x)
    assert got.is_contiguous(memory_format=torch.channels_last)
    assert off(got, want) < LIMIT[tile]
    assert off(conv(x, add, each), want + add + each[:, :, None, None]) < LIMIT[tile]
    plain = Winograd(weight.contiguous(memory_format=torch.channels_last), None, tile, isa=isa)
    assert off(plain(x.contiguous()), want - bias[:, None, None]) < 1.5 * LIMIT[tile]


@pytest.mark.parametrize(("tile", "isa"), [*itertools.product(LIMIT, ISAS)])
def test_a_convolution_has_the_same_bits_on_any_number_of_threads_and_in_a_batch(tile: int, isa: int) -> None:
    for inside, outside, height, width in ((20, 70, 29, 30), (330, 3, 9, 10), (9, 40, 90, 97), (6, 600, 28, 28)):
        conv, *_ = layer(inside, outside, tile, isa)
        x, each = picture(3, inside, height, width), numbers(3, outside)
        add = picture(3, outside, height, width, draw=3)
        once = conv(x, add, each, threads=1)
        for threads in (2, 3, 5):
            assert conv(x, add, each, threads=threads).equal(once)
        for i in range(3):
            assert conv(x[i : i + 1], add[i : i + 1], each[i : i + 1], threads=1).equal(once[i : i + 1])


def guarded(count: int, guard: float) -> tuple[Tensor, Callable[[], bool]]:
    """Memory of so many floats between two guards, and whether these are still whole."""
    outer = torch.full((count + 64,), guard)
    return outer[32 : 32 + count], lambda: bool((outer[:32] == guard).all() and (outer[32 + count :] == guard).all())


@pytest.mark.parametrize(("tile", "isa", "threads"), [*itertools.product(LIMIT, ISAS, (1, 3))])
def test_a_convolution_stays_within_its_memory(tile: int, isa: int, threads: int) -> None:
    for count, inside, outside, height, width in ((1, 1, 1, 1, 1), (2, 7, 33, 6, 9), (1, 40, 5, 35, 34)):
        conv, weight, _ = layer(inside, outside, tile, isa)
        shape = Shape(tile, count, height, width, inside, outside)
        sizes = {
            "x": count * height * width * inside,
            "packed": library().aquatint_packed(isa, ctypes.byref(shape)),
            "y": count * height * width * outside,
            "workspace": library().aquatint_conv_workspace(isa, ctypes.byref(shape), threads),
        }
        memory = {name: guarded(size, float("inf") if name == "x" else 12345.0) for name, size in sizes.items()}
        given = picture(count, inside, height, width)
        memory["x"][0].copy_(given.permute(0, 2, 3, 1).reshape(-1))
        places = {name: address(inner) for name, (inner, _) in memory.items()}
        strides = (ctypes.c_long * 4)(*weight.stride())
        library().aquatint_pack(isa, ctypes.byref(shape), address(weight), strides, places["packed"], threads)
        task = Convolution(shape, bias=address(conv.bias), step=outside, **places)
        library().aquatint_conv(isa, ctypes.byref(task), threads)
        got = memory["y"][0].view(count, height, width, outside).permute(0, 3, 1, 2)
        assert got.equal(conv(given))  # which infinities around x would have spoilt
        assert [name for name, (_, whole) in memory.items() if not whole()] == []


def test_a_thread_has_memory_of_its_own() -> None:
    from concurrent.futures import ThreadPoolExecutor

    jobs = [(layer(8 + i, 40, 4)[0], picture(1, 8 + i, 20 + i, 31, draw=i)) for i in range(6)]
    alone = [conv(x) for conv, x in jobs]
    with ThreadPoolExecutor(3) as pool:
        for _ in range(5):
            assert all(map(torch.equal, pool.map(lambda job: job[0](job[1]), jobs), alone))


NORMS = [(1, 2, 1, 1, 1), (2, 6, 3, 5, 7), (1, 70, 7, 9, 2), (3, 33, 3, 1, 5), (1, 320, 32, 8, 8), (1, 16, 4, 90, 70)]


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize(("count", "channels", "groups", "height", "width"), NORMS)
def test_a_norm_is_right(count: int, channels: int, groups: int, height: int, width: int, isa: int) -> None:
    x = picture(count, channels, height, width) * 3 + 20 * numbers(count, channels, 1, 1, draw=3)
    weight, bias = numbers(channels, draw=1), numbers(channels, draw=2)
    want = F.group_norm(x.double(), groups, weight.double(), bias.double(), 1e-5)
    for silu, right in ((True, F.silu(want)), (False, want)):
        got = norm_silu(x, groups, weight, bias, 1e-5, silu, isa=isa)
        torch.testing.assert_close(got.double(), right, rtol=2e-6, atol=4e-6)
        for threads in (2, 3):
            assert norm_silu(x, groups, weight, bias, 1e-5, silu, threads=threads, isa=isa).equal(got)
        for i in range(count):
            assert norm_silu(x[i : i + 1], groups, weight, bias, 1e-5, silu, isa=isa).equal(got[i : i + 1])
    bare = norm_silu(x, groups, None, None, 1e-5, False, isa=isa)
    torch.testing.assert_close(bare.double(), F.group_norm(x.double(), groups, eps=1e-5), rtol=2e-6, atol=4e-6)


@pytest.mark.parametrize("isa", ISAS)
def test_a_norm_of_numbers_far_from_nought(isa: int) -> None:
    """Sums of squares in float32 would leave nothing of the variance; silu is right wherever float32 has numbers."""
    x = picture(1, 8, 40, 50) + 4096.0
    want = F.group_norm(x.double(), 2, eps=1e-6)
    assert off(norm_silu(x, 2, None, None, 1e-6, False, isa=isa), want) < 1e-6
    bias = torch.tensor([-1000.0, -104.0, -60.0, -1e-8, 0.0, 1e-8, 60.0, 3e38])
    y = norm_silu(torch.zeros(1, 8, 1, 1), 1, torch.ones(8), bias, 1e-5, isa=isa).flatten()
    torch.testing.assert_close(y.double(), F.silu(bias.double()), rtol=1e-6, atol=1e-30)
    assert norm_silu(torch.full((1, 2, 1, 1), torch.nan), 1, None, None, 1e-5, isa=isa).isnan().all()


@pytest.mark.parametrize(("isa", "threads"), [*itertools.product(ISAS, (1, 3))])
def test_a_norm_stays_within_its_memory_and_may_stay_in_place(isa: int, threads: int) -> None:
    for count, channels, groups, pixels in ((1, 1, 1, 1), (2, 18, 3, 50), (1, 33, 33, 300)):
        x = picture(count, channels, pixels, 1)
        task = Norm(count, pixels, channels, groups, True, 1e-5)
        memory = [guarded(x.numel(), 1e30), guarded(library().aquatint_norm_workspace(isa, ctypes.byref(task)), 7.0)]
        memory[0][0].copy_(x.permute(0, 2, 3, 1).reshape(-1))
        task.x = task.y = address(memory[0][0])
        task.workspace = address(memory[1][0])
        library().aquatint_norm(isa, ctypes.byref(task), threads)
        got = memory[0][0].view(count, pixels, 1, channels).permute(0, 3, 1, 2)
        assert got.equal(norm_silu(x, groups, None, None, 1e-5, isa=isa))
        assert all(whole() for _, whole in memory)


def test_what_the_kernels_do_not_take_is_said() -> None:
    conv, weight, bias = layer(6, 5, 4)
    x = picture(2, 6, 4, 4)
    wrong: list[Callable[[], object]] = [
        lambda: Winograd(weight, bias, 3),
        lambda: Winograd(weight[:, :, :2]),
        lambda: Winograd(weight[:0]),
        lambda: Winograd(weight.half()),
        lambda: Winograd(weight, bias[1:]),
        lambda: Winograd(weight, isa=ISAS[-1] + 1),
        lambda: conv(x[:, :5]),
        lambda: conv(x.double()),
        lambda: conv(x, add=x),
        lambda: conv(x, each=bias[None]),
        lambda: conv(x, threads=0),
        lambda: conv(x.clone().requires_grad_()),
        lambda: norm_silu(x, 4, None, None, 1e-5),
        lambda: norm_silu(x.half(), 3, None, None, 1e-5),
        lambda: norm_silu(x, 3, bias, None, 1e-5),
    ]
    for call in wrong:
        with pytest.raises(Exception) as caught:  # noqa: PT011 (the tests' checker of annotations finds some)
            call()
        assert isinstance(caught.value, UserError) or "beartype" in type(caught.value).__module__
    with torch.no_grad():
        assert conv(x.clone().requires_grad_()).equal(conv(x))
    assert conv(x[:0]).shape == (0, 5, 4, 4)
    assert norm_silu(x[:0], 3, None, None, 1e-5).shape == (0, 6, 4, 4)


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize("tile", LIMIT)
def test_a_convolution_that_keeps_nothing_has_the_same_bits(tile: int, isa: int) -> None:
    for inside, outside in ((5, 100), (40, 33), (33, 257)):
        conv, weight, bias = layer(inside, outside, tile, isa)
        x, each = picture(2, inside, 9, 13), numbers(2, outside)
        add = picture(2, outside, 9, 13, draw=3)
        for bytes_at_once in (1, 4 * 36 * inside * 64, 2**27):
            made = convolve(weight, bias, tile, x, add, each, isa=isa, at_once=bytes_at_once)
            assert made.equal(conv(x, add, each))
    assert Winograd.bytes_of(weight, tile) == Winograd(weight, None, tile).packed.nbytes


# pictures, heads, queries, keys, width: one of each, fewer than a vector or a strip has, whole blocks of keys and not
ATTENTIONS = [
    (1, 1, 1, 1, 1), (2, 3, 5, 7, 3), (1, 2, 33, 126, 40), (2, 1, 31, 127, 17), (1, 3, 64, 300, 80),
    (1, 1, 70, 77, 160),
]  # fmt: skip


def rows(pictures: int, heads: int, length: int, width: int, draw: int = 0) -> Tensor:
    """As a net lays them: [picture, row, head, width], seen as [picture, head, row, width]."""
    return numbers(pictures, length, heads * width, draw=draw).unflatten(2, (heads, width)).transpose(1, 2)


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize("shape", ATTENTIONS, ids=str)
def test_attention_is_right_and_has_the_same_bits_on_any_number_of_threads_and_in_a_batch(
    shape: tuple[int, ...], isa: int
) -> None:
    pictures, heads, queries, keys, width = shape
    q, k, v = (rows(pictures, heads, length, width, i) for i, length in enumerate((queries, keys, keys)))
    got = attend(q, k, v, isa=isa)
    want = F.scaled_dot_product_attention(q.double(), k.double(), v.double())
    assert off(got, want) < 2e-6
    assert got.transpose(1, 2).is_contiguous()
    for threads in (1, 2, 3, 5):
        assert attend(q, k, v, threads=threads, isa=isa).equal(got)
    for i in range(pictures):
        assert attend(*(x[i : i + 1] for x in (q, k, v)), isa=isa).equal(got[i : i + 1])
    dense = [x.contiguous() for x in (q, k, v)]
    assert attend(*dense, isa=isa).equal(got)
    assert attend(*(x.mT.contiguous().mT for x in dense), isa=isa).equal(got)


@pytest.mark.parametrize("isa", ISAS)
def test_attention_of_scores_that_are_far_apart(isa: int) -> None:
    """The largest comes first, last or between; what is 2^-126 of it and less counts for nothing."""
    for place in (0, 200, 399):
        k = torch.zeros(1, 1, 400, 4)
        k[..., place, :] = 1e4
        q, v = torch.full((1, 1, 3, 4), 10.0), rows(1, 1, 400, 4)
        torch.testing.assert_close(attend(q, k, v, isa=isa), v[:, :, place : place + 1].expand(1, 1, 3, 4))
    far = rows(1, 1, 300, 8) * 30
    want = F.scaled_dot_product_attention(far.double(), far.double(), far.double())
    assert off(attend(far, far, far, isa=isa), want) < 1e-5


@pytest.mark.parametrize("isa", ISAS)
def test_attention_keeps_what_is_not_a_number_to_its_own_query(isa: int) -> None:
    q, k, v = (rows(1, 1, 40, 8, i) for i in range(3))
    q[0, 0, 5, 2] = torch.nan
    wrong = attend(q, k, v, isa=isa).isnan().any(dim=3).flatten()
    assert wrong.nonzero().flatten().tolist() == [5]
    k[0, 0, 7, 1] = torch.nan
    assert attend(q, k, v, isa=isa).isnan().all()
    nothing = torch.zeros(1, 1, 0, 8)
    assert attend(q, nothing, nothing, isa=isa).isnan().all()
    assert attend(nothing, k, v, isa=isa).shape == (1, 1, 0, 8)


@pytest.mark.parametrize(("isa", "threads"), [*itertools.product(ISAS, (1, 3))])
def test_attention_stays_within_its_memory(isa: int, threads: int) -> None:
    for pictures, heads, queries, keys, width in ((1, 1, 1, 1, 1), (2, 2, 35, 129, 5)):
        given = {
            name: rows(pictures, heads, length, width, i)
            for i, (name, length) in enumerate({"q": queries, "k": keys, "v": keys}.items())
        }
        work = Attention(pictures, heads, queries, keys, width)
        sizes = {name: x.numel() for name, x in given.items()} | {"y": pictures * queries * heads * width}
        memory = {name: guarded(size, float("inf") if name in given else 12345.0) for name, size in sizes.items()}
        for name, x in given.items():
            inner = memory[name][0]
            inner.copy_(x.transpose(1, 2).reshape(-1))
            setattr(work, name, address(inner))
            setattr(work, f"{name}_strides", (ctypes.c_long * 3)(*x.stride()[:3]))
        size = library().aquatint_attention_workspace(isa, ctypes.byref(work), threads)
        memory["workspace"] = guarded(size, 12345.0)
        work.y, work.workspace = (address(memory[name][0]) for name in ("y", "workspace"))
        library().aquatint_attention(isa, ctypes.byref(work), threads)
        got = memory["y"][0].view(pictures, queries, heads, width).transpose(1, 2)
        assert got.equal(attend(*given.values(), isa=isa))  # which infinities around q, k, v would have spoilt
        assert [name for name, (_, whole) in memory.items() if not whole()] == []


def test_attention_refuses_what_it_cannot_do() -> None:
    x = rows(1, 2, 5, 4)
    for q, k, v in ((x.double(), x, x), (x, x.half(), x), (x, x, x.clone().requires_grad_())):
        with pytest.raises(UserError, match=r"float32 \(|A gradient for v"):
            attend(q, k, v)
