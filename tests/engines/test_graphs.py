"""A net by graphs: the same numbers, from what it is given now, for what it is now; held against a traced double."""

import gc
import weakref
from collections.abc import Callable

import pytest
import torch
from tests.engines.traced import Traced
from torch import Tensor, nn

from aquatint.base.noise import Noise
from aquatint.diffusion.denoisers import Conditioning, guided
from aquatint.diffusion.prediction import PREDICTIONS
from aquatint.diffusion.schedule import Level
from aquatint.engines.cuda import Cuda
from aquatint.engines.graphs import CudaRecorder, Graphs, Recorder
from aquatint.families import FAMILIES
from aquatint.nets.adapters import Difference
from aquatint.nets.control import controlled
from aquatint.nets.freeu import freed
from aquatint.nets.lora import Change, attach
from aquatint.nets.perturbed import perturbed, watched
from aquatint.nets.unet import UNet
from aquatint.pipelines.guided import Nets
from aquatint.training.start import start

pytestmark = pytest.mark.usefixtures("still")


@pytest.fixture
def still():
    with torch.no_grad():
        yield


@pytest.fixture
def recorder() -> Traced:
    return Traced()


@pytest.fixture
def engine(recorder: Traced) -> Cuda:
    return Cuda(recorder)


def unet(family: str = "TINY") -> UNet:
    net = UNet(FAMILIES[family].unet).eval()
    start(net, 3)
    for part in net.modules():  # what begins at zero would hide much
        if isinstance(part, nn.Conv2d | nn.Linear):
            part.weight += 0.05 * torch.ones_like(part.weight).cumsum(0).sin()
    return net


def asked(
    draw: int = 0, side: int = 8, rows: int = 2, tokens: int = 7, family: str = "TINY"
) -> tuple[Tensor | None, ...]:
    noise, config = Noise(range(rows)), FAMILIES[family].unet
    vector = noise.normal((config.vector,), draw=draw + 2) if config.vector else None
    times = torch.linspace(20.0 + draw, 980.0, rows)
    return (
        noise.normal((4, side, side), draw=draw),
        times,
        noise.normal((tokens, config.context), draw=draw + 1),
        vector,
    )


def near(got: Tensor, want: Tensor) -> bool:
    return bool((got - want).abs().max() < 1e-5 * want.abs().max())


@pytest.mark.parametrize("family", ["TINY", "TINY_XL"])
def test_the_same_numbers_from_whatever_is_given(family: str, engine: Cuda, recorder: Traced) -> None:
    net = unet(family)
    quick = engine.quick(net)
    first, second = asked(family=family), asked(10, family=family)
    answers = [quick(*given) for given in (first, second, first)]
    assert recorder.recorded == 2  # the text's part and the rest, once
    assert near(answers[0], net(*first))
    assert near(answers[1], net(*second))
    assert not near(answers[0], answers[1])
    assert answers[2].equal(answers[0])
    assert len({answer.data_ptr() for answer in answers}) == 3


def test_the_text_is_projected_again_only_when_it_is_another(engine: Cuda, recorder: Traced) -> None:
    net = unet()
    quick, (x, t, context, _) = engine.quick(net), asked()
    for count, given in ((2, context), (3, context), (4, context)):
        quick(x, t + count, given)
        assert recorder.replays == count
    same = context.clone()
    assert near(quick(x, t, same), net(x, t, context))
    assert recorder.replays == 6
    same *= 2  # the same tensor, with other numbers
    assert near(quick(x, t, same), net(x, t, same))
    assert recorder.replays == 8


def test_a_graph_for_each_shape_and_setting_and_few_are_kept(recorder: Traced) -> None:
    calls: list[int] = []

    def net(x: Tensor, t: Tensor, context: Tensor, vector: Tensor | None) -> Tensor:
        calls.append(x.shape[2])
        return x * context.mean() + t[:, None, None, None]

    quick = Graphs(recorder, lambda net: None, most=2).of(net)
    for side in (4, 6, 4, 6):
        assert near(quick(*asked(side=side)), net(*asked(side=side)))
    assert (recorder.recorded, recorder.replays) == (2, 4)
    quick(*asked(side=4, tokens=8))  # the third: the one that was used last before the last goes
    quick(*asked(side=6))
    assert recorder.recorded == 3
    quick(*asked(side=4))
    assert recorder.recorded == 4
    with torch.backends.cudnn.flags(enabled=True, benchmark=not torch.backends.cudnn.benchmark):
        quick(*asked(side=4))
    assert recorder.recorded == 5
    assert len(calls) == 4 + 5


def test_what_was_changed_in_a_net_is_seen_when_it_is_next_asked_for(engine: Cuda, recorder: Traced) -> None:
    net, given = unet(), asked()
    before = engine.quick(net)(*given)
    assert engine.quick(net)(*given).equal(before)
    assert recorder.recorded == 2

    def written(net: UNet) -> None:
        net.enter.weight.mul_(1.5)  # the same memory: the graph reads it anyway

    def replaced(net: UNet) -> None:
        net.leave.weight = nn.Parameter(net.leave.weight * 1.5)

    def moved(net: UNet) -> None:
        net.middle.second.conv1.weight.data = net.middle.second.conv1.weight.data * 1.5

    def exchanged(net: UNet) -> None:
        net.descent[0].cells[0].res.conv2 = nn.Conv2d(
            *net.descent[0].cells[0].res.conv2.weight.shape[1::-1], 3, padding=1
        )

    for change, again in ((written, 0), (replaced, 2), (moved, 2), (exchanged, 2)):
        count = recorder.recorded
        change(net)
        after = engine.quick(net)(*given)
        assert recorder.recorded == count + again
        assert near(after, net(*given))
        assert not near(after, before)
        before = after


def test_an_attached_net_has_its_own_graphs_and_the_bare_one_keeps_its(engine: Cuda, recorder: Traced) -> None:
    bare, given = unet(), asked()
    before = engine.quick(bare)(*given)
    for name in ("middle.first.attend.layers.0.among.v.weight", "descent.1.cells.0.res.time.weight", "leave.weight"):
        weight = bare.get_parameter(name)
        on = attach(bare, {name: [Change(Difference(0.3 * weight.sin()))]})
        assert near(engine.quick(on)(*given), on(*given))
        assert not near(on(*given), before)
        assert engine.quick(bare)(*given).equal(before)
    assert recorder.recorded == 8
    assert len(engine.graphs.kept) == 2
    del on
    gc.collect()
    assert list(engine.graphs.kept) == [bare]


def test_graphs_do_not_keep_a_net_alive(engine: Cuda) -> None:
    net = unet()
    engine.quick(net)(*asked())
    gone = weakref.ref(net)
    del net
    gc.collect()
    assert gone() is None
    wrapped = controlled(unet())
    engine.quick(wrapped)(*asked())
    gone = weakref.ref(wrapped)
    del wrapped
    gc.collect()
    assert gone() is None


def test_nets_of_other_kinds_are_recorded_too(engine: Cuda, recorder: Traced) -> None:
    bare, given = unet(), asked()
    free = freed(bare, (1.2, 1.3), (0.8, 0.7))
    nets: list[Callable[..., Tensor]] = [controlled(bare), perturbed(bare, ["middle"]), free]
    for net in nets:
        count = recorder.recorded
        assert near(engine.quick(net)(*given), net(*given))
        assert recorder.recorded > count


def test_what_cannot_be_recorded_is_done_without_a_graph(recorder: Traced) -> None:
    def looking(x: Tensor, t: Tensor, context: Tensor, vector: Tensor | None) -> Tensor:
        return x * float(context.mean())

    quick = Graphs(recorder, lambda net: None).of(looking)
    for draw in (0, 5, 0):
        assert quick(*asked(draw)).equal(looking(*asked(draw)))
    assert recorder.recorded == recorder.replays == 0


def test_a_gradient_is_the_nets_own(engine: Cuda, recorder: Traced) -> None:
    net, (x, t, context, vector) = unet(), asked()
    with torch.enable_grad():
        x = x.requires_grad_()
        engine.quick(net)(x, t, context, vector).sum().backward()
    assert x.grad is not None
    assert recorder.recorded == 0


def test_a_guided_step_by_graphs(engine: Cuda) -> None:
    net = unet()
    x, _, context, _ = asked(rows=1)
    conds = Conditioning(context), Conditioning(context.flip(1))
    for at in (Level(0.5, 0.8, 500.0), Level(0.9, 0.4, 100.5)):
        got, want = (guided(n, PREDICTIONS["epsilon"], *conds, 7.5)(x, at) for n in (engine.quick(net), net))
        assert near(got, want)


def test_the_net_that_is_watched_is_left_alone(engine: Cuda, recorder: Traced) -> None:
    plain = unet()
    twin, seen = watched(plain)
    nets = Nets(plain, perturbed(plain, ["middle"]), twin, 3.0, seen).quick(engine.quick)
    for count in (1, 2):
        nets.watched(*asked())
        assert len(seen) == count
    assert recorder.recorded == 0
    assert near(nets.plain(*asked()), plain(*asked()))
    assert nets.weak is not None
    assert not near(nets.weak(*asked()), plain(*asked()))
    assert recorder.recorded == 4
    alone = Nets(plain, None, plain, 3.0).quick(engine.quick)
    assert alone.watched is alone.plain
    assert alone.weak is None


def test_both_recorders_are_recorders() -> None:
    assert isinstance(Traced(), Recorder)
    assert isinstance(CudaRecorder(torch.device("cuda")), Recorder)
