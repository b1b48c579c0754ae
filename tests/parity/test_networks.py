"""Whole networks against diffusers and transformers: same random weights (through our key maps), same output."""

from dataclasses import replace

import pytest
import torch

pytest.importorskip("diffusers")
pytest.importorskip("transformers")

from tests.parity.peers import (
    Comparison,
    autoencoder_twins,
    compare_autoencoder,
    compare_image,
    compare_text,
    compare_unet,
    difference,
    image_twins,
    noise,
    prompts,
    text_twins,
    unet_twins,
)

from aquatint.families import (
    FAMILIES,
    POCKET,
    SD15,
    SD15_INPAINT,
    SD15_LCM,
    SD15_PIX2PIX,
    SD21,
    SD21_DEPTH,
    SDXL,
    SDXL_REFINER,
    TINY,
    Family,
)
from aquatint.nets.attention import set_attention
from aquatint.nets.autoencoder import AutoencoderConfig
from aquatint.nets.text import ImageConfig, TextConfig
from aquatint.nets.unet import Stage, UNetConfig

# Stable Diffusion's shapes at an eighth of the width or less; everything else as in the family.
SMALL = {
    "SD15": replace(
        SD15.unet, stages=(Stage(32, 4), Stage(64, 4), Stage(96, 4), Stage(96, 4, depth=0)), context=48
    ),
    "SD21": replace(
        SD21.unet, stages=(Stage(32, 1), Stage(64, 2), Stage(96, 3), Stage(96, 3, depth=0)), context=64
    ),
    "deep": UNetConfig(  # as Stable Diffusion XL: no attention at full size, then more and more of it
        stages=(Stage(32, 1, depth=0), Stage(64, 2, depth=2), Stage(96, 3, depth=3)),
        middle=3, context=40, vector=56, linear=True,
    ),
    "narrow": UNetConfig(stages=(Stage(16, 2), Stage(32, 1)), blocks=1, context=8, groups=4),
    "POCKET": POCKET.unet,
    "TINY": TINY.unet,
}  # fmt: skip
# Stable Diffusion XL's depths and heads of 64 numbers, at a tenth of the width; what it is told beside pooled text.
XL = {
    "SDXL": (
        replace(
            SDXL.unet,
            stages=(Stage(32, 1, depth=0), Stage(64, 1, depth=2), Stage(128, 2, depth=10)),
            context=56,
            vector=24 + 1536,
        ),
        (720.0, 1280.0, 8.0, 16.0, 768.0, 1024.0),
    ),
    "SDXL_REFINER": (
        replace(
            SDXL_REFINER.unet,
            stages=(Stage(32, 1, depth=0), Stage(64, 1, depth=4), Stage(128, 2, depth=4), Stage(128, 2, depth=0)),
            context=48,
            vector=24 + 1280,
        ),
        (720.0, 1280.0, 8.0, 16.0, 6.0),
    ),
}
SMALL["inpaint"] = replace(SMALL["SD15"], channels_in=SD15_INPAINT.unet.channels_in)
SMALL["pix2pix"] = replace(SMALL["SD15"], channels_in=SD15_PIX2PIX.unet.channels_in)
SMALL["depth"] = replace(SMALL["SD21"], channels_in=SD21_DEPTH.unet.channels_in)
SMALL["LCM"] = replace(SMALL["SD15"], guidance=SD15_LCM.unet.guidance)
SMALL["odd guidance"] = replace(SMALL["narrow"], guidance=9)

KL = {
    "SD": AutoencoderConfig(encoder=(32, 64, 64, 64), decoder=(32, 64, 64, 64)),
    "no middle attention": AutoencoderConfig((16, 32), (16, 32), groups=8, middle_attention=False),
    "wide latents": AutoencoderConfig((16, 32), (16, 32), blocks=1, groups=8, latents=16, scale=1.5305, shift=0.0609),
    "TINY": TINY.autoencoder,
}
TEXT = {
    "CLIP-L": replace(SD15.text, width=48, layers=3, heads=4, vocabulary=600),
    "OpenCLIP-H": replace(SD21.text, width=64, layers=3, heads=4, vocabulary=600),
    "projected": TextConfig(width=48, layers=2, heads=4, vocabulary=600, projection=32),
    "POCKET": POCKET.text,
    "CLIP-L of XL": replace(SDXL.text, width=48, layers=3, heads=4, vocabulary=600),
    "OpenCLIP bigG": replace(SDXL_REFINER.text, width=64, layers=3, heads=4, vocabulary=600, projection=40),
}
IMAGE = ImageConfig(size=32, patch=8, width=48, layers=3, heads=4, projection=24)


def check(found: Comparison) -> None:
    assert found.difference.within, found


@torch.no_grad()
def test_the_comparison_can_fail() -> None:
    """Agreement to the last bit is what we find; one weight of the peer turned by a thousandth must show."""
    ours, theirs = unet_twins(SMALL["SD15"])
    x, t, context = noise(1, 4, 8, 8), torch.tensor([500.0]), noise(1, 7, 48)
    before = difference(ours(x, t, context), theirs(x, t, context).sample)
    weight = theirs.mid_block.attentions[0].transformer_blocks[0].attn2.to_k.weight
    theirs.mid_block.attentions[0].transformer_blocks[0].attn2.to_k.weight = torch.nn.Parameter(weight * 1.001)
    after = difference(ours(x, t, context), theirs(x, t, context).sample)
    assert before.within
    assert not after.within


class TestUNet:
    @pytest.mark.parametrize("name", SMALL)
    def test_small(self, name: str) -> None:
        check(compare_unet(name, SMALL[name], (16, 16), tokens=11))

    @pytest.mark.parametrize("name", XL)
    def test_stable_diffusion_xl(self, name: str) -> None:
        config, numbers = XL[name]
        check(compare_unet(name, config, (16, 16), tokens=11, numbers=numbers))
        check(compare_unet(name, config, (13, 22), batch=1, tokens=154, numbers=numbers))

    @pytest.mark.parametrize("size", [(65, 47), (9, 8), (17, 31), (2, 3), (8, 3)])
    @pytest.mark.parametrize("name", ["SD15", "SD21"])
    def test_odd_sizes(self, name: str, size: tuple[int, int]) -> None:
        check(compare_unet(name, SMALL[name], size, batch=1, tokens=7))

    @pytest.mark.parametrize("tokens", [1, 154])
    def test_other_lengths_of_text(self, tokens: int) -> None:
        check(compare_unet("SD15", SMALL["SD15"], (8, 8), tokens=tokens))

    @torch.no_grad()
    def test_every_input_matters(self) -> None:
        """A parity of two nets that both ignore the text would be worth little."""
        ours, _ = unet_twins(SMALL["deep"])
        x, t, context, vector = noise(1, 4, 8, 8), torch.tensor([500.0]), noise(1, 7, 40), noise(1, 56)
        base = ours(x, t, context, vector)
        for changed in (
            (-x, t, context, vector),
            (x, t / 2, context, vector),
            (x, t, -context, vector),
            (x, t, context, -vector),
        ):
            assert difference(ours(*changed), base).rms > 0.01

    @torch.no_grad()
    def test_attention_written_out(self) -> None:
        ours, theirs = unet_twins(SMALL["SD15"])
        x, t, context = noise(2, 4, 16, 16), torch.tensor([981.0, 3.0]), noise(2, 77, 48)
        fused = ours(x, t, context)
        set_attention(ours, "written_out")
        assert difference(ours(x, t, context), fused).within
        assert difference(ours(x, t, context), theirs(x, t, context).sample).within

    def test_gradients(self) -> None:
        """Training sees the same function: gradients of the weights, in float64, equal the peer's."""
        ours, theirs = unet_twins(SMALL["narrow"])
        ours.double().requires_grad_(True)
        theirs.double().requires_grad_(True)
        x, context, t = noise(1, 4, 8, 8).double(), noise(1, 5, 8).double(), torch.tensor([500.0], dtype=torch.float64)
        aim = noise(1, 4, 8, 8, seed=9).double()
        for output in (ours(x, t, context), theirs(x, t, context).sample):
            (output - aim).square().mean().backward()
        assert ours.enter.weight.grad is not None
        assert torch.allclose(ours.enter.weight.grad, theirs.conv_in.weight.grad, rtol=1e-6, atol=1e-9)
        assert all(weight.grad is not None and weight.grad.abs().max() > 0 for weight in ours.parameters())
        ours_total = sum(weight.grad.square().sum() for weight in ours.parameters())
        theirs_total = sum(weight.grad.square().sum() for weight in theirs.parameters())
        assert torch.isclose(ours_total, theirs_total, rtol=1e-9)


class TestAutoencoder:
    @pytest.mark.parametrize("size", [(64, 64), (40, 72)])
    @pytest.mark.parametrize("name", KL)
    def test_small(self, name: str, size: tuple[int, int]) -> None:
        for found in compare_autoencoder(name, KL[name], size, batch=2):
            check(found)

    @torch.no_grad()
    def test_posterior(self) -> None:
        ours, theirs = autoencoder_twins(KL["SD"])
        pictures = noise(2, 3, 32, 40)
        posterior, reference = ours.posterior(pictures), theirs.encode(pictures).latent_dist
        assert difference(posterior.mean, reference.mean).within
        assert difference(posterior.log_variance, reference.logvar).within
        assert torch.allclose(posterior.kl(), reference.kl(), rtol=1e-5)
        assert torch.equal(ours.encode(pictures), posterior.mean * 0.18215)
        ours.quant.weight.mul_(1e3)  # the log-variance is kept within bounds, and so is the peer's
        posterior, reference = ours.posterior(pictures), theirs.encode(pictures).latent_dist
        assert posterior.log_variance.min() == -30.0
        assert posterior.log_variance.max() == 20.0
        assert difference(posterior.log_variance, reference.logvar).rms < 1e-3

    @torch.no_grad()
    def test_attention_written_out(self) -> None:
        ours, _ = autoencoder_twins(KL["SD"])
        latents = noise(1, 4, 8, 8)
        fused = ours.decode(latents)
        set_attention(ours, "written_out")
        assert difference(ours.decode(latents), fused).within


class TestText:
    @pytest.mark.parametrize("name", TEXT)
    def test_small(self, name: str) -> None:
        check(compare_text(name, TEXT[name], batch=6))

    @pytest.mark.parametrize("name", TEXT)
    @torch.no_grad()
    def test_pooled(self, name: str) -> None:
        """At the first end token, also where end tokens pad; projected where there is a projection."""
        ours, theirs = text_twins(TEXT[name])
        ids = prompts(TEXT[name], 6)
        reference = theirs(ids)
        pooled = reference.text_embeds if TEXT[name].projection else reference.pooler_output
        assert difference(ours(ids).pooled, pooled).within

    @pytest.mark.parametrize("skip", [0, 1, 2])
    @torch.no_grad()
    def test_skip(self, skip: int) -> None:
        """ "Clip skip": an earlier layer's output under the final norm, as Stable Diffusion's tools have it."""
        ours, theirs = text_twins(TEXT["CLIP-L"])
        ids = prompts(TEXT["CLIP-L"], 3)
        reference = theirs(ids, output_hidden_states=True)
        found = ours(ids, skip=skip)
        earlier = theirs.final_layer_norm(reference.hidden_states[-1 - skip])
        assert difference(found.tokens, earlier).within
        assert difference(found.pooled, reference.pooler_output).within
        if skip:
            assert difference(found.tokens, reference.last_hidden_state).rms > 0.1

    @torch.no_grad()
    def test_attention_written_out(self) -> None:
        ours, _ = text_twins(TEXT["CLIP-L"])
        ids = prompts(TEXT["CLIP-L"], 3)
        fused = ours(ids).tokens
        set_attention(ours, "written_out")
        assert difference(ours(ids).tokens, fused).within

    @torch.no_grad()
    def test_causal(self) -> None:
        """A token hears nothing of what comes after it."""
        ours, _ = text_twins(TEXT["CLIP-L"])
        ids = prompts(TEXT["CLIP-L"], 1)
        changed = ids.clone()
        changed[0, 40:] = 5
        before, after = ours(ids).tokens, ours(changed).tokens
        assert torch.equal(before[:, :40], after[:, :40])
        assert not torch.allclose(before[:, 40:], after[:, 40:])


class TestImageTower:
    def test_small(self) -> None:
        check(compare_image("CLIP", IMAGE))

    @torch.no_grad()
    def test_every_state(self) -> None:
        ours, theirs = image_twins(IMAGE)
        pictures = noise(2, 3, 32, 32)
        reference = theirs(pictures, output_hidden_states=True).hidden_states
        states = ours.states(pictures)
        assert len(states) == len(reference) == IMAGE.layers + 1
        for found, expected in zip(states, reference, strict=True):
            assert difference(found, expected).within


@pytest.mark.full
class TestFullShapes:
    """The published shapes; `benchmarks/parity.py` makes the table of these."""

    @pytest.mark.parametrize("family", [SD15, SD15_INPAINT, SD15_LCM, SD21], ids=lambda family: family.name)
    def test_unet(self, family: Family) -> None:
        check(compare_unet(family.name, family.unet, (64, 64)))

    def test_autoencoder(self) -> None:
        for found in compare_autoencoder("SD15", SD15.autoencoder, (512, 512)):
            check(found)

    @pytest.mark.parametrize("name", XL)
    def test_unet_of_stable_diffusion_xl(self, name: str) -> None:
        """10.3 GB of weights, which both sides share, and their passes."""
        check(compare_unet(name, FAMILIES[name].unet, (32, 32), batch=1, numbers=XL[name][1]))

    @pytest.mark.parametrize("family", [SD15, SD21, SDXL, SDXL_REFINER], ids=lambda family: family.name)
    def test_text(self, family: Family) -> None:
        check(compare_text(family.name, family.text))

    def test_image_tower(self) -> None:
        check(compare_image("CLIP ViT-B/32", ImageConfig()))
