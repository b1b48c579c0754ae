"""What the networks promise on their own: shapes, number formats, rows, and the two ways of computing attention."""

import pytest
import torch

from aquatint.base.errors import UserError
from aquatint.families import FAMILIES, POCKET, TINY
from aquatint.nets.attention import ATTENTIONS, Attention, attention_weights, set_attention
from aquatint.nets.autoencoder import Autoencoder
from aquatint.nets.text import ImageConfig, ImageTower, TextEncoder
from aquatint.nets.unet import UNet


@torch.no_grad()
@pytest.mark.parametrize("family", [POCKET, TINY], ids=lambda family: family.name)
def test_shapes_from_a_text_to_a_picture(family) -> None:
    ids = torch.full((2, 77), family.text.vocabulary - 1)
    encoded = TextEncoder(family.text)(ids)
    assert encoded.tokens.shape == (2, 77, family.text.width)
    assert encoded.pooled.shape == (2, family.text.projection or family.text.width)
    latents = UNet(family.unet)(torch.randn(2, 4, 8, 6), torch.tensor([3.0, 999.0]), encoded.tokens)
    assert latents.shape == (2, 4, 8, 6)
    autoencoder = Autoencoder(family.autoencoder)
    assert autoencoder.config.factor == 8
    pictures = autoencoder.decode(latents)
    assert pictures.shape == (2, 3, 64, 48)
    assert autoencoder.encode(pictures).shape == latents.shape


@torch.no_grad()
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float64])
def test_a_net_casts_inside_and_answers_in_the_callers_format(dtype: torch.dtype) -> None:
    torch.manual_seed(0)
    unet, autoencoder = UNet(TINY.unet), Autoencoder(TINY.autoencoder)
    x, t, context = torch.randn(1, 4, 8, 8), torch.tensor([999.0]), torch.randn(1, 77, 32)
    pictures = torch.randn(1, 3, 32, 32)
    exact = unet(x, t, context), autoencoder.decode(x), autoencoder.encode(pictures)
    unet.to(dtype)
    autoencoder.to(dtype)
    rough = unet(x, t, context), autoencoder.decode(x), autoencoder.encode(pictures)
    for a, b in zip(exact, rough, strict=True):
        assert b.dtype == torch.float32
        assert 0 < (a - b).square().mean().sqrt() < 0.03 * a.std()


@pytest.mark.parametrize(
    ("name", "unet", "autoencoder", "text"),
    [
        ("SD15", 859_520_964, 83_653_863, 123_060_480),
        ("SD15_INPAINT", 859_535_364, 83_653_863, 123_060_480),
        ("SD21", 865_910_724, 83_653_863, 340_387_840),
        ("SD21_V", 865_910_724, 83_653_863, 340_387_840),
    ],
)
def test_published_sizes(name: str, unet: int, autoencoder: int, text: int) -> None:
    """The parameters of the checkpoints as published."""
    family = FAMILIES[name]
    with torch.device("meta"):
        nets = UNet(family.unet), Autoencoder(family.autoencoder), TextEncoder(family.text)
    assert [sum(weight.numel() for weight in net.parameters()) for net in nets] == [unet, autoencoder, text]


@torch.no_grad()
@pytest.mark.parametrize("causal", [False, True])
def test_attention_both_ways(causal: bool) -> None:
    torch.manual_seed(0)
    q, k, v = torch.randn(3, 2, 4, 9, 16).unbind(0)
    weights = attention_weights(q, k, causal)
    assert torch.allclose(weights.sum(dim=-1), torch.ones(2, 4, 9), atol=1e-6)
    assert (weights.triu(1).abs().max() == 0) == causal
    ways = [attend(q, k, v, causal) for attend in ATTENTIONS.values()]
    assert torch.allclose(ways[0], ways[1], atol=1e-6)


def test_set_attention() -> None:
    unet = UNet(TINY.unet)
    set_attention(unet, "written_out")
    assert {m.attend for m in unet.modules() if isinstance(m, Attention)} == {ATTENTIONS["written_out"]}
    with pytest.raises(UserError, match='Did you mean "fused"'):
        set_attention(unet, "fussed")


@torch.no_grad()
def test_each_row_is_alone() -> None:
    """A row's answer does not depend on who shares the batch."""
    torch.manual_seed(0)
    unet = UNet(TINY.unet)
    x, t, context = torch.randn(3, 4, 8, 8), torch.tensor([1.0, 500.0, 999.0]), torch.randn(3, 77, 32)
    together = unet(x, t, context)
    for row in range(3):
        alone = unet(x[row : row + 1], t[row : row + 1], context[row : row + 1])
        assert torch.allclose(together[row : row + 1], alone, atol=1e-5)
    tower = ImageTower(ImageConfig(size=32, patch=8, width=16, layers=1, heads=2, projection=8))
    pictures = torch.randn(3, 3, 32, 32)
    assert torch.allclose(tower(pictures)[:1], tower(pictures[:1]), atol=1e-5)


@torch.no_grad()
def test_text_skip_out_of_range() -> None:
    encoder = TextEncoder(TINY.text)
    with pytest.raises(AssertionError, match="left out"):
        encoder(torch.zeros(1, 77, dtype=torch.int64), skip=TINY.text.layers)


@torch.no_grad()
def test_posterior() -> None:
    torch.manual_seed(0)
    posterior = Autoencoder(TINY.autoencoder).posterior(torch.randn(2, 3, 32, 32))
    eps = torch.randn_like(posterior.mean)
    assert torch.allclose(
        (posterior.sample(eps) - posterior.mean).std(), posterior.log_variance.exp().mean().sqrt(), rtol=0.2
    )
    assert (posterior.kl() > 0).all()
    still = posterior._replace(mean=torch.zeros(2, 4, 4, 4), log_variance=torch.zeros(2, 4, 4, 4))
    assert torch.equal(still.kl(), torch.zeros(2))
