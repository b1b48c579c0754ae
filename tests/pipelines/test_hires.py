"""Hires in one request: sizes, steps, noise, words of each pass; neutral settings, company, records, refusals."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from tests.fixtures import tiny_bundle, tiny_with
from tests.weights.upscaler_files import new_layout
from torch.nn import functional as F

from aquatint.base import config
from aquatint.base.errors import UserError
from aquatint.base.noise import PRIOR, Noise
from aquatint.base.replay import noise_from
from aquatint.diffusion.grids import visited
from aquatint.diffusion.schedule import NoiseSchedule
from aquatint.families import TINY
from aquatint.pipelines.bundle import Bundle
from aquatint.pipelines.edit import Edit
from aquatint.pipelines.enlarge import WAYS, latents_to, picture_to
from aquatint.pipelines.generate import generate
from aquatint.pipelines.given import given
from aquatint.pipelines.hires import LATENT_NAMES, PIXEL_NAMES, Hires, second
from aquatint.pipelines.infotext import infotext, parse_infotext, request_from
from aquatint.pipelines.picture import Picture
from aquatint.pipelines.request import Request
from aquatint.pipelines.tools import with_tools
from aquatint.pipelines.variation import Variation


@pytest.fixture(scope="module")
def upscaler_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("upscalers") / "sharp-x4.pth"
    torch.save({"params_ema": new_layout(blocks=1)}, path)
    return path


@pytest.fixture(scope="module")
def bundle(upscaler_file: Path) -> Bundle:
    return with_tools(tiny_bundle(), [upscaler_file])


def painted(bundle: Bundle, hires: Hires | None, **wishes: object) -> Picture:
    wishes = {"steps": 3, "seeds": (7,), "hires": hires} | wishes
    *_, last = generate(bundle, Request("a cat", **wishes))  # type: ignore[arg-type]
    assert last.picture is not None
    return last.picture


def bits(picture: Picture) -> bytes:
    return picture.image.tobytes()


class TestPasses:
    @pytest.mark.parametrize("upscaler", [*LATENT_NAMES, *PIXEL_NAMES, "sharp-x4"])
    def test_every_upscaler_paints_at_the_new_size(self, bundle: Bundle, upscaler: str) -> None:
        assert painted(bundle, Hires(scale=1.5, upscaler=upscaler)).image.size == (96, 96)

    def test_upscalers_differ(self, bundle: Bundle) -> None:
        made = {name: bits(painted(bundle, Hires(upscaler=name))) for name in [*LATENT_NAMES, *PIXEL_NAMES, "sharp-x4"]}
        assert len(set(made.values())) >= len(made) - 1  # at twice the size the two nearest are one

    def test_progress_counts_both(self, bundle: Bundle) -> None:
        seen = list(generate(bundle, Request("a cat", steps=3, seeds=(1, 2), hires=Hires(steps=2))))
        assert [(step.index, step.total, step.number) for step in seen] == [
            (index, 5, number) for number in (0, 1) for index in (1, 2, 3, 4, 5)
        ]
        sizes = [tuple(step.x0.shape[2:]) for step in seen[:5] if step.x0 is not None]
        assert sizes == [(8, 8)] * 3 + [(16, 16)] * 2

    def test_steps_are_made_at_the_end_of_a_longer_grid(self, bundle: Bundle) -> None:
        """As A1111 counts: 6 steps at strength 0.6 are the last of 10."""
        resolved = Request("a cat", steps=3, hires=Hires(steps=6, strength=0.6)).resolved(bundle.family)
        found = second(resolved, bundle.family)
        assert found is not None
        assert (found[0].steps, found[1], found[0].made, resolved.total) == (6, 10, 6, 9)
        assert (found[0].width, found[0].height) == (128, 128)

    @pytest.mark.parametrize("noise", ["aquatint", "cpu"])
    def test_it_begins_where_it_should(self, bundle: Bundle, noise: str) -> None:
        """By hand: the first pass's latents, F.interpolate, noise of the new size, mixed at the level that is due."""
        wishes = {"steps": 3, "seeds": (7,), "grid": "trailing", "noise": noise}
        *_, small = generate(bundle, Request("a cat", **wishes))  # type: ignore[arg-type]
        assert small.x0 is not None
        seen: list[torch.Tensor] = []
        hook = bundle.unet.register_forward_pre_hook(lambda module, args: seen.append(args[0][:1].clone()))
        try:
            painted(bundle, Hires(steps=4, strength=0.8), **wishes)
        finally:
            hook.remove()
        eps = Noise((7,), (1,)).normal((4, 16, 16), draw=PRIOR)
        if noise == "cpu":
            eps = torch.randn(4, 16, 16, generator=torch.Generator().manual_seed(7))[None]
        level = visited("trailing", NoiseSchedule(bundle.family.schedule), 5, {})[-5]
        expected = level.mix(F.interpolate(small.x0, size=(16, 16), mode="bilinear"), eps)
        torch.testing.assert_close(seen[3], expected, rtol=0, atol=2e-6)
        assert len(seen) == 7

    def test_its_noise_is_its_own(self) -> None:
        first, later = (noise_from("aquatint", (7,), turn=turn) for turn in (0, 1))
        for draw in (0, 1, 9, 12):
            one, two = (noise.normal((4, 8, 8), draw=draw, step=3) for noise in (first, later))
            assert torch.corrcoef(torch.stack([one.flatten(), two.flatten()]))[0, 1].abs() < 0.25
            assert not torch.equal(one, two)
        replayed = [noise_from("cpu", (7,), turn=turn).normal((4, 8, 8)) for turn in (0, 1)]
        assert torch.equal(*replayed)  # the web UI seeds its generator anew

    def test_words_and_ways_of_its_own(self, bundle: Bundle) -> None:
        plain = bits(painted(bundle, Hires()))
        for other in (
            Hires(prompt="two cats"),
            Hires(negative="night"),
            Hires(sampler="Euler a"),
            Hires(grid="karras"),
            Hires(guidance=2.0),
            Hires(strength=0.4),
        ):
            assert bits(painted(bundle, other)) != plain
        alike = Hires(prompt="a cat", negative="", sampler="ddim", grid="leading", guidance=7.5, steps=3)
        assert bits(painted(bundle, alike)) == plain

    def test_options_that_the_second_sampler_has_not_are_left(self, bundle: Bundle) -> None:
        picture = painted(bundle, Hires(sampler="heun"), sampler="ddim", eta=0.5, options=())
        assert picture.image.size == (128, 128)
        assert painted(bundle, Hires(sampler="euler_cfg_pp"), guidance=5.0).image.size == (128, 128)

    def test_a_net_that_is_shown_more_is_shown_it_twice(self) -> None:
        inpainter = tiny_bundle(tiny_with(unet=replace(TINY.unet, channels_in=9)))
        assert painted(inpainter, Hires()).image.size == (128, 128)


class TestLaws:
    def test_neutral_is_none(self, bundle: Bundle) -> None:
        plain = bits(painted(bundle, None))
        for upscaler in ("latent", "latent_bicubic_antialiased", "lanczos", "sharp-x4"):
            assert bits(painted(bundle, Hires(scale=1.0, strength=0.0, upscaler=upscaler))) == plain

    def test_no_strength_only_enlarges(self, bundle: Bundle) -> None:
        seen = list(generate(bundle, Request("a cat", steps=3, hires=Hires(strength=0.0))))
        assert [(step.index, step.total) for step in seen] == [(1, 3), (2, 3), (3, 3)]
        assert seen[-1].picture is not None
        assert seen[-1].picture.image.size == (128, 128)

    def test_a_picture_does_not_depend_on_its_company(self, bundle: Bundle) -> None:
        for sampler in ("ddim", "euler_a"):
            request = Request("a cat", seeds=(5, 7, 9), steps=3, hires=Hires(), sampler=sampler)
            together = [step.picture for step in generate(bundle, request) if step.picture]
            assert bits(together[1]) == bits(painted(bundle, Hires(), sampler=sampler))

    def test_the_record_repeats_it(self, bundle: Bundle) -> None:
        hires = Hires(scale=1.5, upscaler="sharp-x4", steps=2, prompt="two cats, in the snow", guidance=3.0)
        first = painted(bundle, hires, noise="nv", variation=None)
        back = config.from_json(type(first.record), config.to_json(first.record)).request
        assert back == first.request
        *_, last = generate(bundle, back)
        assert last.picture is not None
        assert last.picture.encode() == first.encode()
        (file,) = first.record.files
        assert (file.kind, file.name) == ("upscaler", "sharp-x4")

    def test_the_infotext_is_the_web_uis(self, bundle: Bundle) -> None:
        hires = Hires(
            scale=1.5,
            upscaler="latent_nearest_exact",
            strength=0.55,
            steps=2,
            sampler="euler_a",
            grid="karras",
            prompt="two cats, in the snow",
            negative="night",
            guidance=3.0,
        )
        text = infotext(painted(bundle, hires).record)
        settings = parse_infotext(text).settings
        assert settings["Denoising strength"] == "0.55"
        assert settings["Size"] == "64x64"
        mine = {key: value for key, value in settings.items() if key.startswith("Hires")}
        assert mine == {
            "Hires sampler": "Euler a",
            "Hires schedule type": "Karras",
            "Hires CFG Scale": "3",
            "Hires prompt": "two cats, in the snow",
            "Hires negative prompt": "night",
            "Hires upscale": "1.5",
            "Hires steps": "2",
            "Hires upscaler": "Latent (nearest-exact)",
        }
        assert request_from(parse_infotext(text)).hires == hires
        sized = Hires(width=96, upscaler="lanczos")
        text = infotext(painted(bundle, sized).record)
        assert "Hires resize: 96x0, Hires upscaler: Lanczos" in text
        assert request_from(parse_infotext(text)).hires == sized
        others = "a cat\nSteps: 20, Sampler: Euler, Seed: 1, Size: 512x512, Denoising strength: 0.4, Hires upscale: 2"
        assert request_from(parse_infotext(others)).hires == Hires(scale=2.0, strength=0.4)
        same = f"{others}, Hires sampler: Use same sampler, Hires schedule type: Automatic"
        assert request_from(parse_infotext(same)).hires == Hires(scale=2.0, strength=0.4)

    def test_variations_turn_both_passes(self, bundle: Bundle) -> None:
        end = painted(bundle, Hires(), variation=Variation(99, 1.0)).image
        other = painted(bundle, Hires(), seeds=(99,)).image
        assert np.abs(np.asarray(end).astype(int) - np.asarray(other)).max() <= 1


class TestSizes:
    @pytest.mark.parametrize(
        ("hires", "size", "covered", "kept"),
        [
            (Hires(), (512, 768), (1024, 1536), (1024, 1536)),
            (Hires(scale=1.5), (520, 512), (776, 768), (776, 768)),  # 780 is no multiple of 8
            (Hires(width=1024), (512, 768), (1024, 1536), (1024, 1536)),
            (Hires(height=1024), (512, 768), (680, 1024), (680, 1024)),
            (Hires(width=1024, height=1024), (512, 768), (1024, 1536), (1024, 1024)),
            (Hires(width=1024, height=1024), (768, 512), (1536, 1024), (1024, 1024)),
        ],
    )
    def test_they_are_the_web_uis(
        self, hires: Hires, size: tuple[int, int], covered: tuple[int, int], kept: tuple[int, int]
    ) -> None:
        assert hires.sizes(*size) == (covered, kept)

    def test_what_covers_is_cut_in_the_middle(self, bundle: Bundle) -> None:
        for upscaler in ("latent", "lanczos"):
            hires = Hires(width=128, height=64, upscaler=upscaler, strength=0.0)
            assert painted(bundle, hires).image.size == (128, 64)

    @pytest.mark.parametrize("way", WAYS)
    def test_latents_are_interpolated_as_torch_does(self, way: str) -> None:
        x = torch.randn(1, 4, 12, 8, generator=torch.Generator().manual_seed(0))
        mode, smooth = WAYS[way]
        theirs = F.interpolate(x, size=(18, 16), mode=mode, antialias=smooth)
        assert torch.equal(latents_to(x, 18, 16, way), theirs)

    @pytest.mark.parametrize("way", [*WAYS, "lanczos"])
    def test_edges_that_meet_are_enlarged_so(self, way: str) -> None:
        """Rolled by whole latents of both sizes, the enlarged one is rolled too."""
        x = torch.randn(1, 3, 12, 8, generator=torch.Generator().manual_seed(0)).clamp(-1, 1)

        def large(x: torch.Tensor, meets: tuple[bool, bool]) -> torch.Tensor:
            if way in WAYS:
                return latents_to(x, 18, 16, way, meets)
            picture = Image.fromarray(((x[0] + 1) * 127.5).round().byte().permute(1, 2, 0).numpy())
            made = np.asarray(picture_to(picture, 16, 18, way, meets)).astype(np.float32)
            return torch.from_numpy(made).permute(2, 0, 1)[None] / 127.5 - 1

        rolled = large(x.roll((4, 3), (2, 3)), (True, True))
        torch.testing.assert_close(rolled, large(x, (True, True)).roll((6, 6), (2, 3)), rtol=0, atol=1e-5)
        if "nearest" not in way:
            assert not torch.allclose(
                large(x.roll((4, 3), (2, 3)), (False, False)), large(x, (False, False)).roll((6, 6), (2, 3)), atol=0.01
            )


@pytest.mark.parametrize(
    ("wishes", "told"),
    [
        ({"scale": 0.5}, "hires scale"),
        ({"scale": 17.0}, "hires scale"),
        ({"scale": 2.0, "width": 512}, "scale and a size"),
        ({"width": 100}, "multiple of 8"),
        ({"strength": 1.1}, "hires strength"),
        ({"strength": float("nan")}, "hires strength"),
        ({"steps": 0}, "hires steps"),
        ({"guidance": -1.0}, "hires guidance"),
        ({"sampler": "dpmpp2m"}, "hires sampler"),
        ({"grid": "kerras"}, "hires grid"),
        ({"upscaler": "../x.pth"}, "hires upscaler"),
        ({"upscaler": ""}, "hires upscaler"),
    ],
)
def test_what_is_out_of_range_is_refused(wishes: dict[str, object], told: str) -> None:
    with pytest.raises(UserError, match=told):
        Hires(**wishes)  # type: ignore[arg-type]


def test_what_cannot_be_is_refused_before_painting(bundle: Bundle) -> None:
    edit = Edit(given(Image.new("RGB", (64, 64))))
    for wishes, told in (
        ({"hires": Hires(), "edit": edit}, "hires together with edit"),
        ({"hires": Hires(upscaler="sharp-x5")}, 'sharp-x4"'),
        ({"hires": Hires(upscaler="unheard")}, "load"),
        ({"hires": Hires(scale=16.0), "width": 512, "height": 512}, "width = 8192"),
        ({"hires": Hires(steps=900, strength=0.1)}, "hires steps 900"),
    ):
        with pytest.raises(UserError, match=told):
            generate(bundle, Request("a cat", **wishes))  # type: ignore[arg-type]
