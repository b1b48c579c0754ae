"""A picture's file paints it again, from our record and from the infotext alone (reliability.md, N7)."""

import hashlib
import random
from dataclasses import replace

import pytest
from tests.fixtures import tiny_bundle

from aquatint.base import images
from aquatint.base.errors import UserError
from aquatint.base.replay import SOURCES
from aquatint.diffusion.grids import GRIDS
from aquatint.diffusion.samplers import SAMPLERS
from aquatint.families import TINY
from aquatint.pipelines import metadata
from aquatint.pipelines.bundle import Bundle
from aquatint.pipelines.generate import generate
from aquatint.pipelines.infotext import parse_infotext, request_from
from aquatint.pipelines.picture import Picture
from aquatint.pipelines.prompt import GRAMMARS
from aquatint.pipelines.record import record_from
from aquatint.pipelines.request import Request
from aquatint.pipelines.stream import Stream

WORDS = ["a red apple", "two (cats:1.3)", "[snow:night:0.5]", "at night", "ünïcödé, 日本", '"quoted": x, y', "a\nb"]


@pytest.fixture(scope="module")
def bundle() -> Bundle:
    return tiny_bundle()


def wish(number: int) -> Request:
    """The number-th random request that TINY can paint."""
    chance = random.Random(number)
    while True:
        noise = chance.choice(sorted(SOURCES))
        sampler = chance.choice([None, *SAMPLERS])
        options = SAMPLERS[sampler].options if sampler else {}
        try:
            request = Request(
                ", ".join(chance.sample(WORDS, chance.randint(1, 3))),
                chance.choice(["", "blurry", "a: b, c"]),
                width=chance.choice([None, 64, 72]),
                height=chance.choice([None, 64, 56]),
                seeds=(chance.getrandbits(chance.choice([8, 32, 64])),),
                steps=chance.randint(1, 5),
                sampler=sampler,
                grid=chance.choice([None, *GRIDS]),
                guidance=chance.choice([None, 1.0, 3.3, chance.uniform(0, 20)]),
                rescale=chance.choice([None, chance.random()]),
                eta=chance.random() if "eta" in options and chance.random() < 0.5 else None,
                options=(("start", chance.choice([0.0, 1.0])),) if chance.random() < 0.3 else (),
                noise=noise,
                ensd=chance.choice([0, 31337]) if noise != "aquatint" else 0,
                stream=Stream(chance.randrange(3), 3) if noise != "aquatint" and chance.random() < 0.3 else None,
                grammar=chance.choice(sorted(GRAMMARS)),
                clip_skip=chance.choice([None, 1, 2]),
            )
            request.resolved(TINY)
        except UserError:
            continue
        return request


def paint(bundle: Bundle, request: Request) -> Picture | None:
    try:
        *_, last = generate(bundle, request)
    except UserError:  # a grid that these steps or this schedule do not suit
        return None
    return last.picture


def digest(picture: Picture | None) -> str:
    assert picture is not None
    return hashlib.sha256(picture.image.tobytes()).hexdigest()


def check(bundle: Bundle, numbers: range) -> None:
    done = 0
    for number in numbers:
        picture = paint(bundle, wish(number))
        if picture is None:
            continue
        found = metadata.find(images.decode(picture.encode("png")))
        assert found.record is not None
        assert found.infotext is not None
        wanted = digest(picture)
        assert digest(paint(bundle, record_from(found.record).request)) == wanted
        read = request_from(parse_infotext(found.infotext))
        scaled = picture.request.sampler == "ddim_cfg_pp"  # its CFG scale is 12.5 times the guidance, to 12 digits
        assert scaled or digest(paint(bundle, read)) == wanted
        other = replace(read, seeds=((read.seeds[0] + 1) % 2**64,))
        assert digest(paint(bundle, other)) != wanted  # or the check is blind
        done += 1
    assert done > len(numbers) // 2


def test_twenty_pictures_again(bundle: Bundle) -> None:
    check(bundle, range(20))


@pytest.mark.slow
def test_five_hundred_pictures_again(bundle: Bundle) -> None:
    check(bundle, range(1_000, 1_800))
