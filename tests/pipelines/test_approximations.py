"""Approximations of a request: nothing where neutral, the same in any company, with all else, recorded, refused."""

import math
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from tests.fixtures import tiny_bundle, tiny_with
from tests.pipelines.test_adapted_xl import REFINER
from tests.pipelines.test_control import HINT, steered
from tests.weights import control_files
from tests.weights.control_files import write

from aquatint.base.errors import UserError
from aquatint.diffusion.samplers import SAMPLERS
from aquatint.families import TINY, TINY_XL
from aquatint.nets.unet import Stage
from aquatint.pipelines.approximations import Approximations, Reuse, label
from aquatint.pipelines.bundle import Bundle
from aquatint.pipelines.control import Control
from aquatint.pipelines.edit import Edit
from aquatint.pipelines.generate import generate
from aquatint.pipelines.given import given
from aquatint.pipelines.guiding import Apg, FreeU, Guiding, Interval, Pag, Sag
from aquatint.pipelines.hires import Hires
from aquatint.pipelines.infotext import infotext, parse_infotext, request_from
from aquatint.pipelines.picture import Picture
from aquatint.pipelines.record import record_from
from aquatint.pipelines.refine import Refine
from aquatint.pipelines.request import Request
from aquatint.pipelines.tiling import Decoding, Tiling

NEUTRAL = {
    "nothing": Approximations(),
    "reuse": Approximations(Reuse(1, 2)),
    "merge": Approximations(merge=0.0),
}
KINDS = {
    "reuse": Approximations(Reuse(2)),
    "merge": Approximations(merge=0.5),
    "both": Approximations(Reuse(3, 2), 0.25),
}
BOTH = KINDS["both"]
OPTIONS = {"dpm_adaptive": (("atol", 1.0), ("rtol", 1.0))}  # or it would take hundreds of steps
SOME = ("euler_cfg_pp",)


@pytest.fixture(scope="module")
def bundle() -> Bundle:
    return tiny_bundle()


def wish(**wishes: Any) -> Request:
    usual = {"prompt": "a red apple", "negative": "two cats", "steps": 4, "guidance": 9.0, "seeds": (3,)}
    return Request(**(usual | wishes))


def painted(bundle: Bundle, request: Request) -> list[Picture]:
    return [progress.picture for progress in generate(bundle, request) if progress.picture]


def bits(bundle: Bundle, request: Request) -> list[bytes]:
    return [picture.image.tobytes() for picture in painted(bundle, request)]


def counts(bundle: Bundle, request: Request) -> list[tuple[int, int]]:
    """Step by step: rows that go through the U-Net, and those of them that go through its middle."""
    asked = Counter[str]()
    hooks = [
        part.register_forward_hook(lambda _, given, out, name=name: asked.update({name: len(given[0])}))
        for name, part in (("outer", bundle.unet.enter), ("middle", bundle.unet.middle))
    ]
    found = []
    for _ in generate(bundle, request):
        found.append((asked["outer"], asked["middle"]))
        asked.clear()
    for hook in hooks:
        hook.remove()
    return found


@pytest.mark.parametrize("kind", NEUTRAL)
def test_neutral_is_the_same_picture(bundle: Bundle, kind: str) -> None:
    request = wish(sampler="heun", steps=2)
    assert bits(bundle, replace(request, approximations=NEUTRAL[kind])) == bits(bundle, request)
    assert label(wish(approximations=NEUTRAL[kind])) is None


def check_sampler(bundle: Bundle, sampler: str) -> None:
    request = wish(sampler=sampler, guidance=None, steps=3, options=OPTIONS.get(sampler, ()))
    made = [bits(bundle, replace(request, approximations=kind))[0] for kind in (None, *KINDS.values())]
    assert len(set(made)) == len(made)


@pytest.mark.parametrize("sampler", SOME)
def test_samplers(bundle: Bundle, sampler: str) -> None:
    """Finite to the end (generate refuses what is not), and no two pictures the same."""
    check_sampler(bundle, sampler)


@pytest.mark.slow
@pytest.mark.parametrize("sampler", [name for name in SAMPLERS if name not in SOME])
def test_every_other_sampler(bundle: Bundle, sampler: str) -> None:
    check_sampler(bundle, sampler)


@pytest.mark.slow
def test_it_comes_near(bundle: Bundle) -> None:
    """Nearer with more that is computed, and far from another seed's picture."""

    def x0(**wishes: Any) -> torch.Tensor:
        *_, last = generate(bundle, wish(guidance=3.0, **wishes))
        assert last.x0 is not None
        return last.x0

    exact = x0()
    far = float((x0(seeds=(4,)) - exact).norm())
    for coarse, fine in ((Reuse(4), Reuse(2)), (Reuse(2, 1), Reuse(2, 3))):
        errors = [float((x0(approximations=Approximations(how)) - exact).norm()) for how in (coarse, fine)]
        assert 0 < errors[1] < errors[0] < 0.1 * far
    assert 0 < float((x0(approximations=Approximations(merge=0.25)) - exact).norm()) < 0.1 * far


@pytest.mark.parametrize(
    ("wishes", "wanted"),
    [
        ({}, [(2, 2), (2, 0), (2, 2), (2, 0)]),
        ({"guidance": 1.0}, [(1, 1), (1, 0), (1, 1), (1, 0)]),
        # the pair and the prompt alone have each their own, and keep nothing for the next two steps
        ({"guiding": Guiding(Interval(0.25, 0.75))}, [(1, 1), (2, 2), (2, 2), (1, 1)]),
        ({"guiding": Guiding(Interval(0.5, 1.0))}, [(1, 1), (1, 0), (2, 2), (2, 0)]),
        ({"guiding": Guiding(pag=Pag())}, [(3, 3), (3, 0), (3, 3), (3, 0)]),
        ({"prompt": "a red apple AND two cats"}, [(3, 3), (3, 0), (3, 3), (3, 0)]),
        ({"prompt": "[a red apple|two cats]"}, [(2, 2)] * 4),
        ({"sampler": "dpm_2"}, [(4, 4), (4, 0), (4, 4), (2, 0)]),
        ({"sampler": "heun"}, [(4, 2), (4, 2), (4, 2), (2, 0)]),
        ({"sampler": "heun", "guiding": Guiding(freeu=FreeU(), apg=Apg())}, [(4, 2), (4, 2), (4, 2), (2, 0)]),
    ],
)
def test_what_a_step_costs(bundle: Bundle, wishes: dict[str, Any], wanted: list[tuple[int, int]]) -> None:
    """Copies share a hook that was there before."""
    assert counts(bundle, wish(approximations=KINDS["reuse"], **wishes)) == wanted


@pytest.mark.parametrize("sampler", ["ddim", pytest.param("dpmpp_2s_a", marks=pytest.mark.slow)])
def test_a_picture_does_not_depend_on_its_company(bundle: Bundle, sampler: str) -> None:
    request = wish(sampler=sampler, steps=3, seeds=(5, 6), approximations=BOTH, guiding=Guiding(pag=Pag()))
    alone = [found for seed in (5, 6) for found in bits(bundle, request.alone(seed))]
    assert bits(bundle, request) == alone
    assert len(set(alone)) == 2


@pytest.mark.slow
def test_two_requests_on_one_bundle_do_not_meet(bundle: Bundle) -> None:
    requests = [wish(approximations=BOTH), wish(approximations=KINDS["reuse"], sampler="dpmpp_2m")]
    alone, plain = [bits(bundle, request)[0] for request in requests], bits(bundle, wish())
    steps = zip(*[generate(bundle, request) for request in requests], strict=True)
    assert [step.picture.image.tobytes() for pair in steps for step in pair if step.picture] == alone
    assert bits(bundle, wish()) == plain


def test_with_controls(bundle: Bundle, tmp_path: Path) -> None:
    """A ControlNet, an adapter and a picture as prompt, one of them only for a while: it begins anew where it ends."""
    write(tmp_path / "canny.safetensors", control_files.control(TINY, 1))
    write(tmp_path / "sketch.safetensors", control_files.adapter(TINY, 3))
    write(tmp_path / "style.safetensors", control_files.prompt(TINY, 4))
    write(tmp_path / "clip.safetensors", control_files.tower())
    steers = steered(bundle, tmp_path, ("canny", "sketch", "style"))
    controls = (Control("canny", HINT, end=0.25), Control("sketch", HINT), Control("style", HINT))
    request = wish(controls=controls, approximations=KINDS["reuse"])
    exact = bits(steers, replace(request, approximations=None))
    assert bits(steers, request) not in (exact, bits(bundle, replace(request, controls=())))
    assert bits(steers, replace(request, approximations=Approximations(Reuse(1)))) == exact
    assert counts(steers, request) == [(2, 2), (2, 2), (2, 2), (2, 0)]


def test_with_edits_and_masks(bundle: Bundle) -> None:
    """What the mask leaves out keeps its bits."""
    picture = Image.effect_noise((64, 64), 90).convert("RGB")
    mask = Image.new("L", (64, 64), 0)
    mask.paste(255, (0, 0, 32, 64))
    request = wish(edit=Edit(given(picture), mask=given(mask), strength=1.0, blur=0.0), approximations=BOTH)
    found = painted(bundle, request)[0].image
    assert found.tobytes() != painted(bundle, replace(request, approximations=None))[0].image.tobytes()
    assert found.crop((32, 0, 64, 64)).tobytes() == picture.crop((32, 0, 64, 64)).tobytes()


def test_with_an_inpainting_net() -> None:
    bundle = tiny_bundle(tiny_with(unet=replace(TINY.unet, channels_in=9)))
    picture, mask = Image.effect_noise((64, 64), 90).convert("RGB"), Image.new("L", (64, 64), 255)
    edit = Edit(given(picture), mask=given(mask), strength=1.0)
    assert bits(bundle, wish(steps=2, edit=edit, approximations=BOTH)) != bits(bundle, wish(steps=2, edit=edit))


def test_with_a_second_pass(bundle: Bundle) -> None:
    """Each pass has its own steps and features, and another size."""
    request = wish(hires=Hires(scale=1.5, steps=3), approximations=KINDS["reuse"])
    assert counts(bundle, request) == [(2, 2), (2, 0), (2, 2), (2, 0), (2, 2), (2, 0), (2, 2)]
    merged = bits(bundle, replace(request, approximations=KINDS["merge"]))
    assert merged != bits(bundle, replace(request, approximations=None))


def test_with_a_refiner() -> None:
    """It computes its own features when it takes over."""
    both = replace(tiny_bundle(TINY_XL), refiner=tiny_bundle(REFINER, seed=1))
    assert both.refiner is not None
    request = Request("two cats", steps=8, refine=Refine(0.6), approximations=Approximations(Reuse(3), 0.5))
    assert [middle for _, middle in counts(both.refiner, replace(request, refine=None))] == [2, 0, 0, 2, 0, 0, 2, 0]
    assert [middle for _, middle in counts(both, request)][:5] == [2, 0, 0, 2, 0]


@pytest.mark.slow
def test_windows_are_merged_each_alone(bundle: Bundle) -> None:
    request = wish(steps=2, width=96, tiling=Tiling(64, 64, 32), approximations=KINDS["merge"])
    assert bits(bundle, request) != bits(bundle, replace(request, approximations=None))
    one = wish(steps=2, tiling=Tiling(64, 64, 32), approximations=BOTH)
    assert bits(bundle, one) == bits(bundle, replace(one, tiling=None))


def test_the_record_paints_the_picture_again(bundle: Bundle) -> None:
    picture = painted(bundle, wish(approximations=BOTH))[0]
    record = record_from(picture.metadata()["aquatint"])
    assert record.request.approximations == BOTH
    assert bits(bundle, record.request) == [picture.image.tobytes()]
    read = request_from(parse_infotext(infotext(picture.record)))
    assert read.approximations == BOTH
    assert bits(bundle, read) == [picture.image.tobytes()]


def test_labels() -> None:
    request = wish(approximations=Approximations(Reuse(3), 0.5), decoding=Decoding(tiny=True))
    assert label(request) == (
        "deep features are computed every 3 steps; 50 % of the pixels are merged in self-attention; "
        "the tiny autoencoder decodes"
    )
    assert label(wish(decoding=Decoding(tile=64))) is None


@pytest.mark.parametrize(
    ("made", "told"),
    [
        (lambda: Reuse(0), "approximations.reuse.every = 0"),
        (lambda: Reuse(1_001), "from 1 to 1000"),
        (lambda: Reuse(2, 0), "approximations.reuse.skips = 0"),
        (lambda: Approximations(merge=0.8), "A number from 0 to 0.75"),
        (lambda: Approximations(merge=-0.1), "approximations.merge"),
        (lambda: Approximations(merge=math.nan), "approximations.merge = nan"),
    ],
)
def test_values_out_of_range(made: Any, told: str) -> None:
    with pytest.raises(UserError, match=told):
        made()


def test_what_cannot_be_is_refused_before_painting(bundle: Bundle) -> None:
    reuse = KINDS["reuse"]
    for wishes, told in (
        ({"approximations": Approximations(Reuse(2, 4))}, "below 4 skips.*1 to 3"),
        ({"approximations": reuse, "guiding": Guiding(sag=Sag())}, "guiding.sag together with approximations.reuse"),
        ({"approximations": reuse, "width": 96, "tiling": Tiling(64, 64, 32)}, "tiling together with approx"),
    ):
        with pytest.raises(UserError, match=told):
            generate(bundle, wish(**wishes))
    blind = tiny_bundle(tiny_with(unet=replace(TINY.unet, stages=(Stage(16, 2, depth=0), Stage(32, 2, depth=0)))))
    with pytest.raises(UserError, match="no self-attention to merge"):
        generate(blind, wish(approximations=KINDS["merge"]))
    assert bits(bundle, wish(approximations=Approximations(Reuse(1), 0.5), guiding=Guiding(sag=Sag())))
