"""What Stable Diffusion XL is told beside the text: numbers, blank negatives, and what a record keeps of them."""

from dataclasses import replace
from typing import Any

import pytest
import torch
from tests.fixtures import tiny_bundle

from aquatint.base import config
from aquatint.base.errors import UserError
from aquatint.families import SDXL, SDXL_REFINER, TINY, TINY_XL
from aquatint.pipelines.bundle import Bundle
from aquatint.pipelines.encode import tell
from aquatint.pipelines.generate import generate
from aquatint.pipelines.micro import Micro, embedded, with_micro
from aquatint.pipelines.picture import Picture
from aquatint.pipelines.prompt import parse
from aquatint.pipelines.record import record_from
from aquatint.pipelines.request import Request


@pytest.fixture(scope="module")
def bundle() -> Bundle:
    return tiny_bundle(TINY_XL)


def painted(bundle: Bundle, request: Request) -> list[Picture]:
    return [progress.picture for progress in generate(bundle, request) if progress.picture is not None]


def told(bundle: Bundle, request: Request) -> Any:
    resolved = request.resolved(bundle.family)
    prompts = parse(request.prompt, steps=4), parse(request.negative, steps=4, negative=True)
    return with_micro(tell(bundle, *prompts), resolved, bundle.family)[0]


def test_the_vector_is_pooled_text_and_numbers(bundle: Bundle) -> None:
    row = told(bundle, Request("two cats", "at night", width=128, height=64))
    ((_, cond),) = row.positives
    assert cond.context.shape == (1, 77, 32 + 24)
    pooled = bundle.encode_text(["at night", "two cats"]).vector
    assert pooled is not None
    assert torch.equal(row.negative.vector[:, :40], pooled[:1])
    assert torch.equal(cond.vector[:, :40], pooled[1:])
    assert torch.equal(cond.vector[:, 40:], embedded((64, 128, 0, 0, 64, 128)))
    assert cond.vector.shape == (1, TINY_XL.unet.vector)


def test_tokens_are_those_before_the_last_layer_without_the_norm(bundle: Bundle) -> None:
    for encoder, words in bundle.encoders:
        ids = words(["two cats"])
        with torch.no_grad():
            x = encoder.words(ids) + encoder.places.weight
            for layer in encoder.layers[:-1]:
                x = layer(x)
            assert torch.equal(encoder(ids).tokens, x)
            assert torch.equal(encoder(ids).pooled, encoder(ids, skip=0).pooled)
    assert [words.pad for _, words in bundle.encoders] == ["end", "zero"]


@pytest.mark.parametrize(
    ("family", "negative", "micro", "blank"),
    [
        (TINY_XL, "", None, True),
        (TINY_XL, "", Micro(blank=False), False),
        (TINY_XL, " ", None, False),
        (TINY_XL, "a", None, False),
        (TINY_XL, "a", Micro(blank=True), False),  # it is not empty
        (replace(TINY_XL, blank=False), "", None, False),
        (replace(TINY_XL, blank=False), "", Micro(blank=True), True),
    ],
)
def test_an_empty_negative(bundle: Bundle, family: Any, negative: str, micro: Micro | None, blank: bool) -> None:
    row = told(replace(bundle, family=family), Request("two cats", negative, micro=micro))
    assert (not row.negative.context.any()) == blank
    assert (not row.negative.vector[:, :40].any()) == blank
    assert row.negative.vector[:, 40:].any()
    assert row.positives[0][1].context.any()


def test_every_number_counts_and_none_is_the_usual(bundle: Bundle) -> None:
    """One request, and a change of each field: no two pictures are alike but those that say the usual."""
    torch.nn.init.normal_(bundle.unet.vector.enter.weight, std=0.2, generator=torch.Generator().manual_seed(0))  # type: ignore[union-attr]
    plain = painted(bundle, Request("two cats"))[0].image.tobytes()
    usual = Micro(original=(64, 64), crop=(0, 0), target=(64, 64), blank=True)
    assert painted(bundle, Request("two cats", micro=usual))[0].image.tobytes() == plain
    assert painted(bundle, Request("two cats", micro=Micro()))[0].image.tobytes() == plain
    changed = (Micro(original=(640, 64)), Micro(crop=(200, 0)), Micro(crop=(0, 200)), Micro(target=(64, 8)))
    seen = {painted(bundle, Request("two cats", micro=micro))[0].image.tobytes() for micro in changed}
    seen.add(painted(bundle, Request("two cats", micro=Micro(blank=False)))[0].image.tobytes())
    assert len(seen | {plain}) == 6


def test_a_picture_does_not_depend_on_its_company(bundle: Bundle) -> None:
    request = Request("two cats", seeds=(3, 7, 5), micro=Micro(crop=(5, 9)))
    alone = painted(bundle, request.alone(7))[0]
    assert painted(bundle, request)[1].image.tobytes() == alone.image.tobytes()
    again = record_from(config.to_json(alone.record)).request
    assert again.micro == request.micro
    assert painted(bundle, again)[0].image.tobytes() == alone.image.tobytes()


@pytest.mark.parametrize(
    ("made", "said"),
    [
        ({"original": (0, 5)}, "original"),
        ({"crop": (-1, 5)}, "crop"),
        ({"target": (5, 70_000)}, "target"),
        ({"crop": (True, 1)}, "crop"),
        ({"aesthetic": float("nan")}, "aesthetic"),
        ({"negative_aesthetic": 101}, "negative_aesthetic"),
    ],
)
def test_numbers_out_of_range(made: dict[str, Any], said: str) -> None:
    with pytest.raises(UserError, match=said):
        Micro(**made)


def test_a_family_that_is_not_told_refuses() -> None:
    with pytest.raises(UserError, match="micro crop for TINY"):
        Request("a cat", micro=Micro(crop=(1, 1))).resolved(TINY)
    with pytest.raises(UserError, match="micro blank for TINY"):
        Request("a cat", micro=Micro(blank=True)).resolved(TINY)
    with pytest.raises(UserError, match="micro aesthetic for SDXL"):
        Request("a cat", micro=Micro(negative_aesthetic=3.0)).resolved(SDXL)
    with pytest.raises(UserError, match="micro target for SDXL_REFINER"):
        Request("a cat", micro=Micro(target=(3, 4))).resolved(SDXL_REFINER)
    assert Request("a cat", micro=Micro(aesthetic=3.0)).resolved(SDXL_REFINER).width == 1024
    with pytest.raises(UserError, match="clip_skip = 3"):
        Request("a cat", clip_skip=3).resolved(TINY_XL)
