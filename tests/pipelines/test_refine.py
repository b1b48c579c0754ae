"""A second model that goes on where the first one stops: who is asked when, what is told to whom, what is recorded."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from tests.fixtures import tiny_bundle
from tests.pipelines.test_adapted_xl import REFINER
from torch import Tensor

from aquatint.base import config
from aquatint.base.counted import Counted
from aquatint.base.errors import UserError
from aquatint.diffusion.grids import GRIDS
from aquatint.diffusion.schedule import NoiseSchedule
from aquatint.families import TINY, TINY_XL, Family
from aquatint.nets.unet import UNet
from aquatint.pipelines.bundle import Bundle, load, save
from aquatint.pipelines.generate import generate
from aquatint.pipelines.infotext import infotext, parse_infotext
from aquatint.pipelines.micro import Micro
from aquatint.pipelines.picture import Picture
from aquatint.pipelines.record import record_from
from aquatint.pipelines.refine import Refine, check_refiner, refiner_of
from aquatint.pipelines.request import Request

SCHEDULE = NoiseSchedule(TINY_XL.schedule)


class Listening(UNet):
    """A U-Net that remembers at which times it was asked, and of which vector."""

    def forward(self, x: Tensor, t: Tensor, context: Tensor, vector: Tensor | None = None) -> Tensor:
        self.heard.append((float(t[0]), vector))  # type: ignore[operator, union-attr]
        return super().forward(x, t, context, vector)


def listening(family: Family) -> Bundle:
    bundle = tiny_bundle(family, seed=len(family.texts))
    net = Listening(family.unet)
    net.load_state_dict(bundle.unet.state_dict())
    net.heard = []  # type: ignore[assignment]
    return replace(bundle, unet=net.eval())


@pytest.fixture
def both() -> Bundle:
    return replace(listening(TINY_XL), refiner=listening(REFINER))


def heard(bundle: Bundle | None) -> list[Any]:
    assert bundle is not None
    return bundle.unet.heard  # type: ignore[return-value]


def painted(bundle: Bundle, request: Request) -> list[Picture]:
    return [progress.picture for progress in generate(bundle, request) if progress.picture is not None]


@pytest.mark.parametrize(("after", "count"), [(0.8, 8), (0.5, 5), (0.15, 1)])
def test_each_is_asked_at_its_own_times(both: Bundle, after: float, count: int) -> None:
    painted(both, Request("two cats", steps=10, refine=Refine(after)))
    times = [float(level.t) for level in GRIDS["ddim_uniform"](SCHEDULE, 10)[:-1]]
    assert [t for t, _ in heard(both)] == times[:count]
    assert [t for t, _ in heard(both.refiner)] == times[count:]


@pytest.mark.parametrize("sampler", ["euler", "heun", "dpmpp_2m", "euler_a_cfg_pp"])
@pytest.mark.parametrize("prompt", ["two cats", "two [cats:apples:0.3]", "[cats:apples:0.9]", "a cat AND snow"])
def test_every_sampler_and_prompts_that_change(both: Bundle, sampler: str, prompt: str) -> None:
    request = Request(prompt, steps=6, sampler=sampler, grid="ddim_uniform", seeds=(1, 2), refine=Refine(0.6))
    first, second = painted(both, request)
    assert painted(both, request.alone(2))[0].image.tobytes() == second.image.tobytes()
    assert first.image.tobytes() != second.image.tobytes()
    assert min(t for t, _ in heard(both)) >= 400 > max(t for t, _ in heard(both.refiner))


def test_what_the_refiner_is_told(both: Bundle) -> None:
    micro = Micro(original=(30, 20), crop=(5, 6), target=(70, 80))
    request = Request("two cats", micro=micro, clip_skip=1, refine=Refine(0.5, 7.0, 1.0))
    refiner, told = refiner_of(both, request.resolved(TINY_XL))
    assert refiner is both.refiner
    assert told.micro == Micro(original=(30, 20), crop=(5, 6), aesthetic=7.0, negative_aesthetic=1.0)
    assert told.micro.numbers(REFINER, 64, 64) == (20, 30, 6, 5, 7.0)
    assert told.refine is None
    assert told.clip_skip is None
    painted(both, request)
    assert {vector.shape for _, vector in heard(both.refiner)} == {(2, REFINER.unet.vector)}


def test_without_a_word_of_it_nothing_changes(both: Bundle) -> None:
    plain = painted(replace(both, refiner=None), Request("two cats"))[0]
    assert painted(both, Request("two cats"))[0].image.tobytes() == plain.image.tobytes()
    assert not heard(both.refiner)
    assert painted(both, Request("two cats", refine=Refine()))[0].image.tobytes() != plain.image.tobytes()


def test_the_same_model_twice_is_the_model_once() -> None:
    """A base that is its own refiner paints what it paints alone, to the last bit."""
    family = replace(TINY_XL, blank=False)
    bundle = tiny_bundle(family)
    twice = replace(bundle, refiner=bundle)
    alone = painted(bundle, Request("two cats", "snow"))[0]
    assert painted(twice, Request("two cats", "snow", refine=Refine(0.5)))[0].image.tobytes() == alone.image.tobytes()


def test_it_is_in_the_record(both: Bundle) -> None:
    bundle = replace(both, refiner=replace(both.refiner, name="fine", counted=Counted("ab" * 32)))  # type: ignore[type-var]
    picture = painted(bundle, Request("two cats", refine=Refine(0.6, aesthetic=5.0)))[0]
    record = record_from(config.to_json(picture.record))
    assert record.request.refine == Refine(0.6, aesthetic=5.0)
    assert [(file.kind, file.name, file.sha256) for file in record.files] == [("refiner", "fine", "ab" * 32)]
    settings = parse_infotext(infotext(picture.record)).settings
    assert settings["Refiner"] == "fine [ababababab]"
    assert settings["Refiner switch at"] == "0.6"
    assert not painted(bundle, Request("two cats"))[0].record.files


@pytest.mark.parametrize("after", [0.0, 1.0, -1.0, float("nan")])
def test_shares_out_of_range(after: float) -> None:
    with pytest.raises(UserError, match="refine after"):
        Refine(after)


def test_what_cannot_be_refined(both: Bundle) -> None:
    with pytest.raises(UserError, match="aesthetic"):
        Refine(0.8, aesthetic=101.0)
    with pytest.raises(UserError, match="without a refiner"):
        generate(replace(both, refiner=None), Request("two cats", refine=Refine()))
    with pytest.raises(UserError, match="leaves none to the refiner"):
        generate(both, Request("two cats", refine=Refine(0.9995)))
    inpainter = tiny_bundle(replace(TINY_XL, unet=replace(TINY_XL.unet, channels_in=9)))
    with pytest.raises(UserError, match="shown a picture or a mask"):
        generate(replace(inpainter, refiner=both.refiner), Request("two cats", refine=Refine()))


def test_models_that_do_not_go_together(tmp_path: Path) -> None:
    check_refiner(TINY_XL, REFINER)
    for other, told in (
        (TINY, "other latents"),
        (replace(REFINER, schedule=replace(REFINER.schedule, zero_terminal=True)), "other schedule"),
        (replace(REFINER, unet=replace(REFINER.unet, channels_in=9)), "other channels in"),
    ):
        with pytest.raises(UserError, match=told):
            check_refiner(TINY_XL, other)
    base, tiny = save(tiny_bundle(TINY_XL), tmp_path / "base"), save(tiny_bundle(), tmp_path / "tiny")
    refiner = save(tiny_bundle(REFINER), tmp_path / "refiner", "diffusers")
    assert load(base, refiner=refiner, device="cpu").refiner is not None
    with pytest.raises(UserError, match="TINY cannot refine TINY_XL"):
        load(base, refiner=tiny, device="cpu")
