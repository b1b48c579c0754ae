"""Replay profiles: what each fills in, what it leaves, and the random numbers that come of it."""

from dataclasses import replace

import pytest
import torch
from tests.fixtures import tiny_bundle

from aquatint.base.errors import UserError
from aquatint.base.noise import PRIOR, STEP
from aquatint.base.replay import noise_from, torch_cuda
from aquatint.diffusion.samplers import SAMPLERS
from aquatint.families import SD15
from aquatint.pipelines.generate import generate
from aquatint.pipelines.profiles import PROFILES, replayed
from aquatint.pipelines.request import Request
from aquatint.pipelines.stream import Stream

SHAPE = (4, 8, 8)


@pytest.mark.parametrize("profile", PROFILES)
@pytest.mark.parametrize("sampler", SAMPLERS)
def test_every_sampler_can_be_painted_in_every_way(profile: str, sampler: str) -> None:
    for request in replayed(Request("a cat", sampler=sampler, steps=10), profile):
        request.resolved(SD15)
        assert replayed(request, profile) == (request,)  # what was filled in stays


def test_what_a_request_says_stays() -> None:
    said = Request("a cat", sampler="dpm_2", grid="beta", noise="cpu", grammar="plain", options=(("discard", 0.0),))
    for profile in PROFILES:
        (request,) = replayed(said, profile)
        assert (request.grid, request.noise, request.grammar) == ("beta", "cpu", "plain")
        assert dict(request.options)["discard"] == 0.0
    assert replayed(said, "aquatint") == (said,)
    with pytest.raises(UserError, match="forge"):
        replayed(said, "forge")


def test_batches() -> None:
    request = Request("a cat", seeds=(7, 8, 9))
    assert [one.seeds for one in replayed(request, "a1111")] == [(7, 8, 9)]
    assert [one.seeds for one in replayed(request, "diffusers")] == [(7, 8, 9)]
    parts = replayed(request, "comfyui")
    assert [(one.seeds, one.stream) for one in parts] == [((7,), Stream(place, 3)) for place in range(3)]
    apart = replace(request, seeds=(7, 9))
    assert [one.seeds for one in replayed(apart, "comfyui")] == [(7, 9)]


@pytest.mark.parametrize("shape", [SHAPE, (4, 9, 7)])
def test_a_stream_is_what_one_generator_gives_a_batch(shape: tuple[int, ...]) -> None:
    generator = torch.Generator().manual_seed(7)
    first, second = (torch.randn((3, *shape), generator=generator) for _ in range(2))
    for place in range(3):
        noise = noise_from("cpu", [7], place=place, of=3)
        torch.testing.assert_close(noise.normal(shape, draw=PRIOR)[0], first[place], rtol=0, atol=2e-6)
        torch.testing.assert_close(noise.normal(shape, draw=STEP, step=0)[0], second[place], rtol=0, atol=2e-6)


def test_comfyui_on_a_card() -> None:
    noise = noise_from("cpu+nv", [7])
    generator = torch.Generator().manual_seed(7)
    torch.testing.assert_close(noise.normal(SHAPE)[0], torch.randn(SHAPE, generator=generator), rtol=0, atol=2e-6)
    for step in range(3):  # the card's own generator, from its beginning, with the same seed
        assert torch.equal(noise.normal(SHAPE, draw=STEP, step=step)[0].flatten(), torch_cuda(7, 256, step))


def test_comfyui_on_the_cpu_seeds_steps_with_one_more() -> None:
    generator = torch.Generator().manual_seed(8)
    noise = noise_from("cpu", [7], delta=1)
    for step in range(3):
        drawn, expected = noise.normal(SHAPE, draw=STEP, step=step)[0], torch.randn(SHAPE, generator=generator)
        torch.testing.assert_close(drawn, expected, rtol=0, atol=2e-6)


def test_a_stream_is_painted_alone_as_in_its_batch() -> None:
    bundle = tiny_bundle()
    parts = replayed(Request("a red apple", seeds=(7, 8, 9), sampler="euler_a", steps=2), "comfyui")
    drawn = []
    for one in parts:
        *_, last = generate(bundle, one)
        assert last.picture is not None
        assert last.picture.request.stream == one.stream
        drawn.append(last.picture.image.tobytes())
    assert len(set(drawn)) == 3
    *_, last = generate(bundle, parts[1])
    assert last.picture is not None
    assert last.picture.image.tobytes() == drawn[1]


@pytest.mark.parametrize("value", [-1, 3, 256, True])
def test_a_place_outside_its_batch(value: int) -> None:
    with pytest.raises(UserError, match="stream"):
        Stream(value, 3)


def test_our_own_noise_knows_no_streams() -> None:
    with pytest.raises(UserError, match="stream"):
        Request("a cat", stream=Stream(0, 2))
    with pytest.raises(UserError, match="16 x 16"):
        noise_from("cpu", [1]).normal((4, 1, 1))
