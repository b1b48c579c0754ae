"""Deep features reused: the way in two parts is the way, a first answer is the net's own, a later one is by formula."""

from dataclasses import replace

import pytest
import torch
from tests.fixtures import tiny_with
from tests.parity.peers import noise, randomise
from tests.weights import control_files
from torch import Tensor

from aquatint.base.errors import UserError
from aquatint.families import TINY
from aquatint.nets.control import Control, Controlled, controlled
from aquatint.nets.freeu import freed
from aquatint.nets.perturbed import perturbed
from aquatint.nets.picture_prompt import prompted
from aquatint.nets.reuse import Kept, check_skips, reusing
from aquatint.nets.unet import Stage, UNet, descend, embed

FAMILY = tiny_with(unet=replace(TINY.unet, stages=(Stage(16, 2), Stage(32, 4, depth=0), Stage(32, 4))))
SKIPS = FAMILY.unet.skips
X, T, CONTEXT = noise(2, 4, 13, 10), torch.tensor([900.0, 900.0]), noise(2, 7, FAMILY.unet.context, seed=2)
SIZES = (16, 13, 10), (32, 4, 3), (32, 4, 3)  # of features: a stage without attention hands its own on, halved
LATER = 0.9 * X + 0.3 * noise(2, 4, 13, 10, seed=3), torch.tensor([800.0, 800.0])


@pytest.fixture(scope="module")
def unet() -> UNet:
    net = UNet(FAMILY.unet).eval().requires_grad_(False)
    randomise(net)
    return net


def steered(unet: UNet) -> Controlled:
    """With a ControlNet, a T2I-Adapter's features at every level and one for the middle, and tokens of a picture."""
    net = control_files.control(FAMILY, 1)
    features = [noise(1, *size, seed=index) for index, size in enumerate((*SIZES, SIZES[-1]))]
    hint = torch.rand(1, 3, 13 * 8, 10 * 8, generator=torch.Generator().manual_seed(5))
    seen = prompted(unet, [(control_files.prompt(FAMILY, 4), 0.6)])
    return controlled(seen, [Control(net, net.prepare(hint), 0.7)], [(features, 0.5)], pictures=4)


NETS = {
    "plain": lambda unet: unet,
    "controlled": steered,
    "FreeU": lambda unet: freed(unet, (1.2, 1.4), (0.9, 0.2)),
    "perturbed": lambda unet: perturbed(unet, ["middle"]),
}


def told(name: str) -> Tensor:
    return torch.cat([CONTEXT, noise(2, 4, FAMILY.unet.context, seed=9)], 1) if name == "controlled" else CONTEXT


def test_how_many_skips_there_are(unet: UNet) -> None:
    _, skips = descend(unet, unet.enter(X), embed(unet, T, None), CONTEXT)
    assert len(skips) == SKIPS == 6


@pytest.mark.parametrize("count", range(1, SKIPS))
def test_the_way_in_two_parts(unet: UNet, count: int) -> None:
    """The first skips alone are those of the whole way, with features too; and the way up goes on where it was left."""
    features = [noise(2, *size) for size in SIZES]
    time = embed(unet, T, None)
    x, skips = descend(unet, unet.enter(X), time, CONTEXT, features)
    _, some = descend(unet, unet.enter(X), time, CONTEXT, features, count)
    assert len(some) == count
    assert all(map(torch.equal, some, skips))
    whole, rest = unet.ascend(x, list(skips), time, CONTEXT), list(skips)
    part = unet.ascend(x, rest, time, CONTEXT, left=count)
    assert len(rest) == count
    assert torch.equal(unet.ascend(part, some, time, CONTEXT), whole)


@pytest.mark.parametrize("name", NETS)
def test_the_first_answer_is_the_nets_own(unet: UNet, name: str) -> None:
    net, context = NETS[name](unet), told(name)
    wanted = net(X, T, context)
    for count in (1, SKIPS - 1):
        kept: Kept = {}
        answer = reusing(net, count, kept)
        assert torch.equal(answer(X, T, context, None), wanted)
        assert len(kept) == 1
        assert torch.equal(answer(X, T, context, None), wanted)  # the same features for the same picture
        kept.clear()
        assert torch.equal(answer(X, T, context, None), wanted)


@pytest.mark.parametrize("name", ["plain", "controlled"])
@pytest.mark.parametrize("count", [1, 4])
def test_a_later_answer_has_the_features_of_the_first(unet: UNet, name: str, count: int) -> None:
    net, context = NETS[name](unet), told(name)
    whole = net if isinstance(net, Controlled) else Controlled(net)
    first, later = whole.down(X, T, context), whole.down(*LATER, context)
    deep = whole.unet.ascend(first.x, first.skips, first.time, first.context, count)
    wanted = whole.unet.head(whole.unet.ascend(deep, later.skips[:count], later.time, later.context))
    answer = reusing(net, count, {})
    answer(X, T, context, None)
    found = answer(*LATER, context, None)
    assert torch.equal(found, wanted)
    assert not torch.equal(found, net(*LATER, context))


def test_what_is_computed(unet: UNet) -> None:
    """At one skip a later answer asks one cell and no middle; of a ControlNet its entrance."""
    asked: list[str] = []
    net = steered(unet)
    beside = net.controls[0].net
    parts = {"cell": [cell for way in (net.unet.descent, net.unet.ascent) for part in way for cell in part.cells]}  # type: ignore[union-attr]
    parts |= {"middle": [net.unet.middle], "beside": [*beside.descent[0].cells, beside.middle]}  # type: ignore[union-attr]
    for kind, modules in parts.items():
        for module in modules:
            module.register_forward_hook(lambda *_, kind=kind: asked.append(kind))
    answer = reusing(net, 1, {})
    answer(X, T, told("controlled"), None)
    assert {kind: asked.count(kind) for kind in parts} == {"cell": 3 + SKIPS, "middle": 1, "beside": 2}
    asked.clear()
    answer(*LATER, told("controlled"), None)
    assert len(asked) == 3 + SKIPS + 3  # another tensor: another prompt, for all that it knows
    context = told("controlled")
    answer(X, T, context, None)
    asked.clear()
    answer(*LATER, context, None)
    assert asked == ["cell"]


def test_two_prompts_and_two_nets_do_not_meet(unet: UNet) -> None:
    kept: Kept = {}
    other, weak = noise(2, 7, FAMILY.unet.context, seed=8), perturbed(unet, ["middle"])
    answers = [reusing(net, 1, kept) for net in (unet, weak)]
    for answer in answers:
        for context in (CONTEXT, other):
            answer(X, T, context, None)
    assert len(kept) == 4
    for answer, net in zip(answers, (unet, weak), strict=True):
        for context in (CONTEXT, other):
            assert torch.equal(answer(X, T, context, None), net(X, T, context))


def test_it_answers_in_the_callers_precision() -> None:
    net = UNet(FAMILY.unet).eval().requires_grad_(False)
    randomise(net)
    answer = reusing(net.to(torch.bfloat16), 2, {})
    assert answer(X, T, CONTEXT, None).dtype == answer(*LATER, CONTEXT, None).dtype == torch.float32


@pytest.mark.parametrize("count", [0, SKIPS, -1])
def test_skips_out_of_range(unet: UNet, count: int) -> None:
    with pytest.raises(UserError, match=f"1 to {SKIPS - 1}"):
        reusing(unet, count, {})
    check_skips(unet.config, SKIPS - 1)
