"""Windows, seamless edges, tiles and the tiny autoencoder in requests: neutral ones change nothing, the rest is so."""

from dataclasses import replace
from pathlib import Path

import diffusers
import numpy as np
import pytest
import torch
from PIL import Image
from tests.fixtures import tiny_bundle, tiny_with
from tests.parity.peers import noise, randomise
from tests.weights.upscaler_files import new_layout

from aquatint.base import config
from aquatint.base.errors import UserError
from aquatint.families import TINY
from aquatint.nets.tiny import TinyAutoencoder
from aquatint.pipelines.bundle import Bundle
from aquatint.pipelines.edit import Edit
from aquatint.pipelines.generate import generate
from aquatint.pipelines.given import given
from aquatint.pipelines.hires import Hires
from aquatint.pipelines.infotext import infotext, parse_infotext, request_from
from aquatint.pipelines.picture import Picture
from aquatint.pipelines.request import Request
from aquatint.pipelines.tiling import Decoding, Tiling
from aquatint.pipelines.tools import decoded, tileable, with_tools


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny autoencoder in `taesd` (of the published depths, an eighth of the widths), and an upscaler."""
    made = tmp_path_factory.mktemp("tools")
    peer = diffusers.AutoencoderTiny(encoder_block_out_channels=(8,) * 4, decoder_block_out_channels=(8,) * 4)
    randomise(peer)
    peer.save_pretrained(made / "taesd")
    torch.save(new_layout(blocks=1), made / "x4.pth")
    return made


@pytest.fixture(scope="module")
def bundle(folder: Path) -> Bundle:
    return with_tools(tiny_bundle(), [folder / "x4.pth"], folder / "taesd")


def painted(bundle: Bundle, **wishes: object) -> Picture:
    *_, last = generate(bundle, Request("a cat", **({"steps": 3, "seeds": (7,)} | wishes)))  # type: ignore[arg-type]
    assert last.picture is not None
    return last.picture


def bits(picture: Picture) -> bytes:
    return picture.image.tobytes()


def off(one: Image.Image, two: Image.Image) -> int:
    return int(np.abs(np.asarray(one).astype(int) - np.asarray(two)).max())


def apart(one: Picture, two: Picture) -> int:
    return off(one.image, two.image)


class TestWindows:
    def test_one_window_is_none(self, bundle: Bundle) -> None:
        for tiling in (Tiling(), Tiling(64, 64), Tiling(128, 256, 32, "gaussian")):
            assert bits(painted(bundle, tiling=tiling)) == bits(painted(bundle))

    def test_the_net_is_asked_about_windows_in_order(self, bundle: Bundle) -> None:
        seen: list[tuple[int, ...]] = []
        hook = bundle.unet.register_forward_pre_hook(lambda module, args: seen.append(tuple(args[0].shape)))
        try:
            picture = painted(bundle, width=128, height=64, steps=1, tiling=Tiling(64, 64, 32))
        finally:
            hook.remove()
        assert picture.image.size == (128, 64)
        assert seen == [(2, 4, 8, 8)] * 3

    @pytest.mark.parametrize("sampler", ["ddim", "euler_cfg_pp"])
    def test_a_picture_does_not_depend_on_its_company(self, bundle: Bundle, sampler: str) -> None:
        wishes = {"width": 96, "height": 64, "tiling": Tiling(64, 64), "sampler": sampler}
        request = Request("a cat", seeds=(5, 7), steps=3, **wishes)  # type: ignore[arg-type]
        together = [step.picture for step in generate(bundle, request) if step.picture]
        assert bits(together[1]) == bits(painted(bundle, **wishes))

    def test_windows_join_in_the_second_pass(self, bundle: Bundle) -> None:
        whole, parts = (painted(bundle, hires=Hires(), tiling=tiling) for tiling in (None, Tiling()))
        assert parts.image.size == (128, 128)
        assert bits(whole) != bits(parts)

    def test_with_an_edit(self, bundle: Bundle) -> None:
        photo = given(painted(bundle, width=128).image)
        picture = painted(bundle, edit=Edit(photo, strength=0.7), tiling=Tiling(64, 64))
        assert picture.image.size == (128, 64)

    def test_a_net_that_is_shown_more_is_refused(self) -> None:
        inpainter = tiny_bundle(tiny_with(unet=replace(TINY.unet, channels_in=9)))
        assert painted(inpainter, tiling=Tiling()).image.size == (64, 64)
        with pytest.raises(UserError, match="tiling"):
            generate(inpainter, Request("a cat", width=128, tiling=Tiling()))


class TestSeamless:
    @pytest.mark.parametrize("seamless", ["x", "y", "both"])
    def test_edges_meet(self, bundle: Bundle, seamless: str) -> None:
        """Across an edge that meets, neighbours differ as they do where latents meet inside."""
        picture = painted(bundle, seamless=seamless, width=128, height=96)
        assert bits(picture) != bits(painted(bundle, width=128, height=96))
        pixels = np.asarray(picture.image).astype(float)
        for axis, name in enumerate("yx"):
            if seamless in (name, "both"):
                apart = np.abs(pixels - np.roll(pixels, 1, axis)).mean(axis=(1 - axis, 2))
                assert apart[0] < 1.5 * apart[8::8].mean()

    def test_the_picture_of_rolled_noise_is_rolled(self, bundle: Bundle, monkeypatch: pytest.MonkeyPatch) -> None:
        """The law, through sampler, guidance and decoder."""
        from aquatint.pipelines import generate as module

        plain = painted(bundle, seamless="both", sampler="dpmpp_2m")
        own = module.first_noise
        monkeypatch.setattr(module, "first_noise", lambda *args, **more: own(*args, **more).roll((2, 4), (2, 3)))
        rolled = painted(bundle, seamless="both", sampler="dpmpp_2m")
        expected = np.roll(np.asarray(plain.image).astype(int), (16, 32), (0, 1))
        assert np.abs(np.asarray(rolled.image) - expected).max() <= 1
        without = painted(bundle, sampler="dpmpp_2m")
        assert np.abs(np.asarray(without.image) - expected).max() > 20

    def test_the_bundle_is_as_it_was(self, bundle: Bundle) -> None:
        before = bits(painted(bundle))
        painted(bundle, seamless="both")
        assert bits(painted(bundle)) == before

    @pytest.mark.parametrize("upscaler", ["latent", "lanczos", "x4"])
    def test_with_a_second_pass(self, bundle: Bundle, upscaler: str) -> None:
        assert painted(bundle, seamless="both", hires=Hires(upscaler=upscaler)).image.size == (128, 128)

    def test_the_infotext_keeps_it(self, bundle: Bundle) -> None:
        for seamless, said in (("both", "True"), ("x", "X"), ("y", "Y")):
            text = infotext(painted(bundle, seamless=seamless).record)
            assert f"Tiling: {said}" in text
            assert request_from(parse_infotext(text)).seamless == seamless
        assert "Tiling" not in infotext(painted(bundle).record)

    def test_together_with_windows_it_is_refused(self) -> None:
        with pytest.raises(UserError, match="tiling together with seamless"):
            Request("a cat", seamless="x", tiling=Tiling())
        with pytest.raises(UserError, match="seamless"):
            config.from_data(Request, {"prompt": "a cat", "seamless": "z"})


class TestDecoding:
    def test_neutral_is_none(self, bundle: Bundle) -> None:
        assert bits(painted(bundle, decoding=Decoding())) == bits(painted(bundle))

    @pytest.mark.parametrize("seamless", [None, "both"])
    def test_tiles_change_nothing_but_rounding(self, bundle: Bundle, seamless: str | None) -> None:
        size = {"width": 200, "height": 136, "seamless": seamless}
        assert apart(painted(bundle, **size), painted(bundle, decoding=Decoding(64), **size)) <= 1
        large = {"hires": Hires(upscaler="lanczos"), "seamless": seamless, "steps": 1}
        assert apart(painted(bundle, **large), painted(bundle, decoding=Decoding(64), **large)) <= 2

    def test_an_edit_is_encoded_by_tiles_too(self, bundle: Bundle) -> None:
        photo = given(painted(bundle, width=200, height=136).image)
        edit = {"edit": Edit(photo, strength=0.5), "steps": 2}
        assert apart(painted(bundle, **edit), painted(bundle, decoding=Decoding(64), **edit)) <= 2

    def test_the_tiny_decoder_paints_and_is_recorded(self, bundle: Bundle) -> None:
        picture = painted(bundle, decoding=Decoding(tiny=True))
        assert bits(picture) != bits(painted(bundle))
        (file,) = picture.record.files
        assert (file.kind, file.name) == ("tiny", "taesd")
        back = config.from_json(type(picture.record), config.to_json(picture.record)).request
        assert bits(painted(bundle, decoding=back.decoding)) == bits(picture)
        assert not painted(bundle).record.files

    @pytest.mark.parametrize("seamless", [None, "both"])
    def test_the_tiny_decoder_by_tiles(
        self, bundle: Bundle, seamless: str | None, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """Of latents so large that no tile sees all of them: a decoded pixel depends on 20 of them on each side."""
        meets = (seamless is not None,) * 2
        on, latents = tileable(bundle, meets), noise(1, 4, 41, 64)
        whole, tiled = (decoded(on, latents, Decoding(tile, tiny=True), meets) for tile in (0, 128))
        assert np.asarray(whole).std() > 5
        assert off(whole, tiled) <= 1
        monkeypatch.setattr(TinyAutoencoder, "reach", 2)  # the control: tiles that see too little are noticed
        assert off(whole, decoded(on, latents, Decoding(128, tiny=True), meets)) > 3

    def test_the_tiny_decoders_tiles_are_a_requests(self, bundle: Bundle) -> None:
        size = {"width": 200, "height": 136, "steps": 1}
        assert apart(*(painted(bundle, decoding=Decoding(tile, tiny=True), **size) for tile in (0, 64))) <= 1

    def test_previews_are_the_tiny_autoencoders(self, bundle: Bundle) -> None:
        latents = torch.zeros(1, 4, 8, 8)
        assert bundle.preview(latents).size == (64, 64)
        assert replace(bundle, tiny=None).preview(latents).size == (8, 8)

    def test_what_is_not_there_is_refused(self, bundle: Bundle, folder: Path) -> None:
        with pytest.raises(UserError, match="no tiny autoencoder"):
            generate(tiny_bundle(), Request("a cat", decoding=Decoding(tiny=True)))
        with pytest.raises(UserError, match="no file"):
            with_tools(bundle, [folder / "x5.pth"])
        (folder / "lanczos.pth").write_bytes((folder / "x4.pth").read_bytes())
        with pytest.raises(UserError, match="taken"):
            with_tools(bundle, [folder / "lanczos.pth"])
        other = tiny_bundle(
            tiny_with(autoencoder=replace(TINY.autoencoder, latents=8), unet=replace(TINY.unet, channels_in=8))
        )
        with pytest.raises(UserError, match="4 channels"):
            with_tools(other, tiny=folder / "taesd")


@pytest.mark.parametrize(
    ("make", "told"),
    [
        (lambda: Tiling(60, 64), "tiling width"),
        (lambda: Tiling(64, 64, 64), "overlap"),
        (lambda: Tiling(64, 64, 12), "overlap"),
        (lambda: config.from_data(Tiling, {"weights": "odd"}), "weights"),
        (lambda: Decoding(63), "tile"),
        (lambda: Decoding(68), "tile"),
        (lambda: config.from_data(Decoding, {"tiny": 1}), "tiny"),
    ],
)
def test_what_is_out_of_range_is_refused(make: object, told: str) -> None:
    with pytest.raises(UserError, match=told):
        make()  # type: ignore[operator]
