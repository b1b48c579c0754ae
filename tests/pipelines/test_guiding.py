"""Guidance of a request: checked when made, the same picture in any company, nothing at neutral strength, recorded."""

import hashlib
import math
from collections import Counter
from dataclasses import replace
from typing import Any

import pytest
from tests.fixtures import tiny_bundle, tiny_with

from aquatint.base import config
from aquatint.base.errors import UserError
from aquatint.diffusion.samplers import SAMPLERS
from aquatint.families import TINY
from aquatint.pipelines.bundle import Bundle
from aquatint.pipelines.generate import generate
from aquatint.pipelines.guiding import Apg, FreeU, Guiding, Interval, Pag, Sag, Threshold
from aquatint.pipelines.guiding_words import guiding_from, words_of
from aquatint.pipelines.infotext import parse_infotext, request_from
from aquatint.pipelines.record import record_from
from aquatint.pipelines.request import Request

KINDS = {
    "interval": Guiding(interval=Interval(0.25, 0.75)),
    "threshold": Guiding(threshold=Threshold(0.9, limit=0.5)),
    "mimic": Guiding(threshold=Threshold(mimic=2.0)),
    "apg": Guiding(apg=Apg(norm=2.0)),
    "perp_neg": Guiding(perp_neg=1.0),
    "pag": Guiding(pag=Pag()),
    "sag": Guiding(sag=Sag()),
    "freeu": Guiding(freeu=FreeU()),
}
ALL = Guiding(
    Interval(0.0, 0.8),
    Threshold(0.9, limit=2.0),
    Apg(),
    0.7,
    Pag(2.0, ("descent.0", "middle")),
    Sag(),
    FreeU(version=1),
)
NEUTRAL = {
    "nothing": Guiding(),
    "interval": Guiding(interval=Interval()),
    "threshold": Guiding(threshold=Threshold(limit=1e6)),
    "mimic": Guiding(threshold=Threshold(mimic=20.0)),
    "apg": Guiding(apg=Apg(1.0, 0.0, 0.0)),
    "pag": Guiding(pag=Pag(0.0)),
    "sag": Guiding(sag=Sag(0.0)),
    "freeu": Guiding(freeu=FreeU(1, 1, 1, 1)),
}
UNGUIDED: dict[Request, list[str]] = {}  # what the neutral kinds are held against, painted once
PROMPTS = ("a red apple", "a red apple AND two cats :0.5", "[a red apple:two cats:0.5]")


@pytest.fixture(scope="module")
def bundle() -> Bundle:
    return tiny_bundle()


def digests(bundle: Bundle, request: Request) -> list[str]:
    done = [progress.picture for progress in generate(bundle, request) if progress.picture]
    return [hashlib.sha256(picture.image.tobytes()).hexdigest() for picture in done]


def wish(**wishes: Any) -> Request:
    usual = {"prompt": "a red apple", "negative": "two cats", "steps": 4, "guidance": 20.0, "seeds": (3,)}
    return Request(**(usual | wishes))


def unchecked(value: Any, **fields: Any) -> None:
    """Its own checks on other values, as in production, where no type checker stands before them."""
    for name, field in fields.items():
        object.__setattr__(value, name, field)
    value.__post_init__()


@pytest.mark.parametrize("kind", KINDS)
def test_each_paints_another_picture(bundle: Bundle, kind: str) -> None:
    assert digests(bundle, wish(guiding=KINDS[kind])) != digests(bundle, wish())


@pytest.mark.parametrize("kind", NEUTRAL)
def test_neutral_strength_is_the_same_picture(bundle: Bundle, kind: str) -> None:
    rows: list[tuple[str, str, float]] = [("ddim", prompt, 20.0) for prompt in PROMPTS] + [
        ("heun", PROMPTS[1], 20.0),
        ("ddim", PROMPTS[0], 1.0),
    ]
    rows += [] if kind in ("mimic", "apg") else [("euler_cfg_pp", prompt, 0.8) for prompt in PROMPTS]
    for sampler, prompt, guidance in rows:
        guiding = Guiding(threshold=Threshold(mimic=guidance)) if kind == "mimic" else NEUTRAL[kind]
        request = wish(prompt=prompt, sampler=sampler, guidance=guidance, rescale=0.3, steps=2)
        known = UNGUIDED.get(request) or UNGUIDED.setdefault(request, digests(bundle, request))
        assert digests(bundle, replace(request, guiding=guiding)) == known


def test_perp_neg_of_weight_zero_is_no_negative(bundle: Bundle) -> None:
    for prompt in PROMPTS:
        without = digests(bundle, wish(prompt=prompt, negative=""))
        assert digests(bundle, wish(prompt=prompt, guiding=Guiding(perp_neg=0.0))) == without
        assert digests(bundle, wish(prompt=prompt)) != without


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_every_sampler_with_every_kind(bundle: Bundle, sampler: str) -> None:
    """Finite to the end (generate refuses what is not), and no two pictures the same."""
    seen = Counter[str]()
    kinds = {**KINDS, "all": ALL}
    if SAMPLERS[sampler].pair:
        for name in ("apg", "mimic", "all"):
            with pytest.raises(UserError, match="guiding"):
                generate(bundle, wish(sampler=sampler, guiding=kinds.pop(name)))
    options = (("atol", 1.0), ("rtol", 1.0)) if sampler == "dpm_adaptive" else ()  # or it would take hundreds of steps
    for guiding in (None, *kinds.values()):
        seen.update(digests(bundle, wish(sampler=sampler, steps=2, options=options, guiding=guiding)))
    assert len(seen) >= len(kinds)  # of two steps an interval may leave out none that this sampler asks at


@pytest.mark.parametrize(("sampler", "prompt"), [("heun", PROMPTS[0]), ("ddim", PROMPTS[1]), ("dpm_fast", PROMPTS[2])])
def test_a_picture_does_not_depend_on_its_company(bundle: Bundle, sampler: str, prompt: str) -> None:
    request = wish(prompt=prompt, sampler=sampler, seeds=(5, 6), steps=3, guiding=ALL)
    alone = [digest for seed in (5, 6) for digest in digests(bundle, request.alone(seed))]
    assert digests(bundle, request) == alone
    assert len(set(alone)) == 2


def test_two_requests_on_one_bundle_do_not_meet(bundle: Bundle) -> None:
    requests = [wish(guiding=ALL), wish(prompt="two cats", guiding=ALL, sampler="dpmpp_2m")]
    alone = [digests(bundle, request)[0] for request in requests]
    courses = [generate(bundle, request) for request in requests]
    steps = [step for pair in zip(*courses, strict=True) for step in pair]
    done = [hashlib.sha256(step.picture.image.tobytes()).hexdigest() for step in steps if step.picture]
    assert done == alone


def test_the_bundle_stays_as_it_is(bundle: Bundle) -> None:
    before = digests(bundle, wish())
    course = generate(bundle, wish(guiding=ALL))
    next(course)
    course.close()
    assert digests(bundle, wish()) == before


@pytest.mark.parametrize(
    ("guiding", "guidance", "rows"),
    [
        (None, 5.0, [2, 2, 2, 2]),
        (Guiding(interval=Interval(0.25, 0.75)), 5.0, [1, 2, 2, 1]),
        (Guiding(pag=Pag()), 5.0, [3, 3, 3, 3]),
        (Guiding(pag=Pag()), 1.0, [2, 2, 2, 2]),
        (Guiding(sag=Sag()), 5.0, [3, 3, 3, 3]),
        (Guiding(perp_neg=1.0), 5.0, [3, 3, 3, 3]),
        (Guiding(perp_neg=1.0), 1.0, [1, 1, 1, 1]),
        (replace(ALL, interval=Interval(0.5, 1.0)), 5.0, [1, 1, 5, 5]),
        (Guiding(apg=Apg(), threshold=Threshold(), freeu=FreeU()), 5.0, [2, 2, 2, 2]),
    ],
)
def test_what_a_step_costs(bundle: Bundle, guiding: Guiding | None, guidance: float, rows: list[int]) -> None:
    """Rows of latents that go through the U-Net, step by step. Copies share a hook that was there before."""
    asked: list[int] = []
    hook = bundle.unet.enter.register_forward_hook(lambda _, given, out: asked.append(len(given[0])))
    counts = []
    for _ in generate(bundle, wish(guiding=guiding, guidance=guidance)):
        counts.append(sum(asked))
        asked.clear()
    hook.remove()
    assert counts == rows


def test_the_record_paints_the_picture_again(bundle: Bundle) -> None:
    *_, last = generate(bundle, wish(guiding=ALL))
    assert last.picture is not None
    record = record_from(last.picture.metadata()["aquatint"])
    assert record.request.guiding == ALL
    assert digests(bundle, record.request) == digests(bundle, wish(guiding=ALL))


@pytest.mark.parametrize("guiding", [*KINDS.values(), ALL, None], ids=[*KINDS, "all", "none"])
def test_infotext(bundle: Bundle, guiding: Guiding | None) -> None:
    *_, last = generate(bundle, wish(steps=2, guiding=guiding))
    assert last.picture is not None
    info = parse_infotext(last.picture.metadata()["parameters"])
    assert request_from(info).guiding == guiding
    assert guiding_from({key: str(value) for key, value in words_of(guiding).items() if value is not None}) == guiding


def test_infotexts_of_others() -> None:
    """Keys as Forge and AUTOMATIC1111 1.10 write them."""
    text = (
        "a cat\nSteps: 20, Sampler: Euler a, CFG scale: 12, Seed: 1, Size: 512x512, Skip Early CFG: 0.1, "
        "freeu_enabled: True, freeu_b1: 1.01, freeu_b2: 1.02, freeu_s1: 0.99, freeu_s2: 0.95, freeu_start: 0, "
        "freeu_end: 1, sag_enabled: True, sag_scale: 0.5, sag_blur_sigma: 2, dynthres_enabled: True, "
        "dynthres_mimic_scale: 7, dynthres_threshold_percentile: 1, dynthres_mimic_mode: Constant, Version: f2.0.1"
    )
    assert request_from(parse_infotext(text)).guiding == Guiding(
        Interval(0.1, 1.0), Threshold(1.0, 7.0), sag=Sag(0.5, 2.0), freeu=FreeU(1.01, 1.02, 0.99, 0.95)
    )
    for odd in ("sag_scale: high", "sag_scale: inf", "sag_scale: nan", "freeu_b1: 1e9", "FreeU Version: 1e400"):
        wrong = text.replace("sag_scale: 0.5", odd) if "sag" in odd else text.replace("freeu_b1: 1.01", odd)
        with pytest.raises(UserError):
            request_from(parse_infotext(wrong))


@pytest.mark.parametrize(
    ("made", "named"),
    [
        (lambda: Interval(0.5, 0.5), "guiding.interval"),
        (lambda: Interval(-0.1, 1.0), "guiding.interval.start"),
        (lambda: Interval(0.0, math.nan), "guiding.interval.end"),
        (lambda: Threshold(1.5), "guiding.threshold.percentile"),
        (lambda: Threshold(mimic=math.inf), "guiding.threshold.mimic"),
        (lambda: Threshold(limit=0), "guiding.threshold.limit"),
        (lambda: unchecked(Apg(), eta="0"), "guiding.apg.eta"),
        (lambda: Apg(norm=-1), "guiding.apg.norm"),
        (lambda: Apg(momentum=-1), "guiding.apg.momentum"),
        (lambda: Pag(True), "guiding.pag.scale"),
        (lambda: Pag(3.0, ()), "guiding.pag.layers"),
        (lambda: Pag(3.0, ("mid",)), "guiding.pag.layers"),
        (lambda: Pag(3.0, ("descent.1\n",)), "guiding.pag.layers"),
        (lambda: Sag(blur=0.0), "guiding.sag.blur"),
        (lambda: unchecked(Sag(), scale=None), "guiding.sag.scale"),
        (lambda: unchecked(Guiding(), pag=3.0), "guiding.pag"),
        (lambda: unchecked(Pag(), layers="middle"), "guiding.pag.layers"),
        (lambda: FreeU(b1=math.nan), "guiding.freeu.b1"),
        (lambda: FreeU(version=3), "guiding.freeu.version"),
        (lambda: FreeU(version=True), "guiding.freeu.version"),
        (lambda: Guiding(perp_neg=-1.0), "guiding.perp_neg"),
        (lambda: Guiding(apg=Apg(), threshold=Threshold(mimic=7.0)), "guiding.apg and guiding.threshold.mimic"),
    ],
)
def test_bad_values_name_their_field(made: Any, named: str) -> None:
    with pytest.raises(UserError, match=named.replace(".", r"\.")):
        made()


def test_plain_data_is_read_strictly() -> None:
    data = {"prompt": "a cat", "guiding": {"pag": {"scale": 2, "layers": ["middle"]}, "perp_neg": 1}}
    assert config.from_data(Request, data).guiding == Guiding(pag=Pag(2.0), perp_neg=1.0)
    for odd in ({"pag": 3}, {"sag": {"sigma": 1}}, {"apg": {"eta": "nan"}}, [], "pag"):
        with pytest.raises(UserError):
            config.from_data(Request, {"prompt": "a cat", "guiding": odd})


@pytest.mark.parametrize(
    ("guiding", "says"),
    [
        (Guiding(pag=Pag(layers=("descent.1",))), 'no self-attention in "descent.1"'),
        (Guiding(pag=Pag(layers=("middle", "ascent.7"))), 'no self-attention in "ascent.7"'),
    ],
)
def test_what_the_net_cannot_do_is_refused_before_painting(bundle: Bundle, guiding: Guiding, says: str) -> None:
    with pytest.raises(UserError, match=says):
        generate(bundle, wish(guiding=guiding))


def test_a_middle_without_attention() -> None:
    flat = tiny_bundle(tiny_with(unet=replace(TINY.unet, middle=0)))
    for guiding in (Guiding(sag=Sag()), Guiding(pag=Pag())):
        with pytest.raises(UserError, match="self-attention"):
            generate(flat, wish(guiding=guiding))
    assert digests(flat, wish(guiding=Guiding(pag=Pag(layers=("descent.0",)))))
