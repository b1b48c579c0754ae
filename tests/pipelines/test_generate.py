"""Painting: one picture a seed, the same bits in any company, checked at every stage, cancelled by closing."""

import hashlib
from dataclasses import replace

import pytest
import torch
from tests.fixtures import tiny_bundle

from aquatint.base.errors import UserError
from aquatint.families import SD15_INPAINT, TINY
from aquatint.pipelines.bundle import Bundle, NonFiniteError
from aquatint.pipelines.generate import generate
from aquatint.pipelines.infotext import parse_infotext, request_from
from aquatint.pipelines.picture import Picture
from aquatint.pipelines.record import record_from
from aquatint.pipelines.request import Request


@pytest.fixture(scope="module")
def bundle() -> Bundle:
    return tiny_bundle()


def pictures(bundle: Bundle, request: Request) -> list[Picture]:
    return [progress.picture for progress in generate(bundle, request) if progress.picture]


def digest(picture: Picture) -> str:
    return hashlib.sha256(picture.image.tobytes()).hexdigest()


def test_the_file_is_the_same_too(bundle: Bundle) -> None:
    request = Request("a red apple", seeds=(1, 2), steps=2)
    assert pictures(bundle, request)[1].encode() == pictures(bundle, request.alone(2))[0].encode()


def test_every_wish_changes_the_picture(bundle: Bundle) -> None:
    plain = Request("a red apple", steps=2, sampler="ddim")
    other = [
        replace(plain, prompt="two cats"),
        replace(plain, negative="two cats"),
        replace(plain, seeds=(2**63,)),
        replace(plain, steps=3),
        replace(plain, sampler="heun"),
        replace(plain, grid="karras"),
        replace(plain, guidance=1.0),
        replace(plain, guidance=3.0),
        replace(plain, rescale=0.7),
        replace(plain, eta=1.0),
        replace(plain, width=72),
    ]
    seen = {digest(pictures(bundle, request)[0]) for request in (plain, *other)}
    assert len(seen) == 1 + len(other)


def test_other_weights_paint_another_picture(bundle: Bundle) -> None:
    request = Request("a red apple", steps=2)
    assert digest(pictures(bundle, request)[0]) != digest(pictures(tiny_bundle(seed=1), request)[0])


def test_progress(bundle: Bundle) -> None:
    course = list(generate(bundle, Request("a red apple", seeds=(8, 9), steps=3)))
    assert [(p.index, p.total, p.number, p.count, p.seed) for p in course] == [
        (1, 3, 0, 2, 8),
        (2, 3, 0, 2, 8),
        (3, 3, 0, 2, 8),
        (1, 3, 1, 2, 9),
        (2, 3, 1, 2, 9),
        (3, 3, 1, 2, 9),
    ]
    assert [p.picture is not None for p in course] == [False, False, True] * 2
    assert all(p.x0 is not None and p.x0.shape == (1, 4, 8, 8) for p in course)
    picture = course[-1].picture
    assert picture is not None
    assert picture.image.size == (64, 64)
    assert set(picture.seconds) == {"text", "steps", "decode"}


def test_the_record_paints_the_picture_again(bundle: Bundle) -> None:
    request = Request("a red apple", "two cats", seeds=(3, 4), steps=2, sampler="euler_a", width=72, rescale=0.3)
    picture = pictures(bundle, request)[1]
    record = record_from(picture.metadata()["aquatint"])
    assert record == picture.record
    assert record.seed == 4
    assert digest(pictures(bundle, record.request)[0]) == digest(picture)
    assert record.model == bundle.model
    assert record.key == bundle.key


def test_nothing_of_the_caller_is_touched(bundle: Bundle) -> None:
    torch.manual_seed(0)
    expected = torch.rand(3)
    torch.manual_seed(0)
    threads = torch.get_num_threads()
    course = generate(bundle, Request("a red apple", steps=2))
    first = next(course)
    assert torch.is_grad_enabled()
    assert torch.get_num_threads() == threads
    assert first.x0 is not None
    assert not first.x0.requires_grad
    list(course)
    assert torch.equal(torch.rand(3), expected)


def test_the_callers_threads_and_random_state_do_not_matter(bundle: Bundle) -> None:
    request = Request("a red apple", steps=2)
    before = torch.get_num_threads()
    seen = set()
    for threads in (1, 2, 3):
        torch.manual_seed(threads)
        torch.set_num_threads(threads)
        seen.add(digest(pictures(bundle, request)[0]))
    torch.set_num_threads(before)
    assert len(seen) == 1


def test_two_requests_on_one_bundle_do_not_meet(bundle: Bundle) -> None:
    requests = [Request("a red apple", steps=3, sampler="plms"), Request("two cats", steps=3, sampler="euler_a")]
    alone = [digest(pictures(bundle, request)[0]) for request in requests]
    courses = [generate(bundle, request) for request in requests]
    steps = [step for pair in zip(*courses, strict=True) for step in pair]
    assert [digest(step.picture) for step in steps if step.picture] == alone


def test_closing_cancels(bundle: Bundle) -> None:
    asked = []
    hook = bundle.unet.register_forward_hook(lambda *_: asked.append(1))
    course = generate(bundle, Request("a red apple", steps=50, sampler="ddim"))
    next(course)
    course.close()
    hook.remove()
    assert len(asked) == 1
    assert list(course) == []


@pytest.mark.parametrize(
    ("wishes", "says"),
    [
        ({"sampler": "heun", "eta": 0.5}, "takes no eta"),
        ({"steps": 1000, "grid": "leading"}, "1 to 999"),
    ],
)
def test_what_the_model_cannot_do_is_refused_before_painting(
    bundle: Bundle, wishes: dict[str, object], says: str
) -> None:
    with pytest.raises(UserError, match=says):
        generate(bundle, Request("a red apple", **wishes))  # type: ignore[arg-type]


@pytest.mark.parametrize("part", ["text", "unet", "autoencoder"])
def test_no_picture_from_values_that_are_no_numbers(part: str) -> None:
    bundle = tiny_bundle()
    for value in (float("nan"), float("inf")):
        net = getattr(bundle, part)
        last = {"text": "norm", "unet": "leave", "autoencoder": "decoder.leave"}[part]
        with torch.no_grad():
            net.get_submodule(last).bias.view(-1)[0] = value  # one value of one channel is enough
        with pytest.raises(NonFiniteError, match="not finite"):
            bundle.paint("a red apple", steps=2)


def test_a_late_infinity_names_its_step(bundle: Bundle) -> None:
    calls = []

    def spoil(module: object, args: object, output: torch.Tensor) -> torch.Tensor:
        calls.append(1)
        return output * float("inf") if len(calls) == 3 else output

    hook = bundle.unet.register_forward_hook(spoil)
    with pytest.raises(NonFiniteError, match=r"U-Net \(step 3\)"):
        bundle.paint("a red apple", steps=4, sampler="ddim")
    hook.remove()


def test_half_precision_names_the_way_out() -> None:
    bundle = replace(tiny_bundle(), dtype=torch.float16)
    assert "--dtype float32" in str(NonFiniteError("decoder", bundle))


def test_an_inpainting_model_paints_from_nothing() -> None:
    family = replace(TINY, unet=replace(TINY.unet, channels_in=SD15_INPAINT.unet.channels_in))
    assert tiny_bundle(family).paint("a red apple", steps=2).image.size == (64, 64)


def test_a_model_that_takes_pooled_text() -> None:
    family = replace(TINY, unet=replace(TINY.unet, vector=TINY.text.width))
    bundle = tiny_bundle(family)
    assert digest(bundle.paint("a red apple", steps=2)) != digest(bundle.paint("two cats", steps=2))


def test_the_noise_of_other_programs(bundle: Bundle) -> None:
    """The first latents are what that program's generator gives, and the infotext says whose they are."""
    pictures = {}
    for source, word in (("aquatint", None), ("cpu", "CPU"), ("nv", "NV")):
        *_, last = generate(bundle, Request("a cat", seeds=(7,), steps=2, sampler="euler_a", noise=source))
        assert last.picture is not None
        pictures[source] = last.picture.image.tobytes()
        told = parse_infotext(last.picture.metadata()["parameters"])
        assert told.settings.get("RNG") == word
        assert request_from(told).noise == source
    assert len(set(pictures.values())) == 3
    *_, moved = generate(bundle, Request("a cat", seeds=(7,), steps=2, sampler="euler_a", noise="cpu", ensd=31337))
    assert moved.picture is not None
    assert moved.picture.image.tobytes() != pictures["cpu"]
    assert parse_infotext(moved.picture.metadata()["parameters"]).settings["ENSD"] == "31337"
    with pytest.raises(UserError, match="ensd = 5"):
        Request("a cat", ensd=5)
    theirs = parse_infotext("a cat\nSteps: 2, Sampler: Euler a, CFG scale: 7, Seed: 7, Size: 64x64, Version: v1.10.1")
    assert request_from(theirs).noise == "nv"
