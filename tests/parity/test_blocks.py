"""Every block of the networks against its counterpart in diffusers or transformers, with the same random weights."""

import pytest
import torch
from tests.parity.peers import difference, noise, pour, randomise
from torch import Tensor, nn

from aquatint.nets import autoencoder, blocks, text
from aquatint.nets.attention import Attention

pytest.importorskip("diffusers")
pytest.importorskip("transformers")

from diffusers.models.attention import BasicTransformerBlock, FeedForward
from diffusers.models.attention_processor import Attention as TheirAttention
from diffusers.models.downsampling import Downsample2D
from diffusers.models.embeddings import TimestepEmbedding, Timesteps
from diffusers.models.resnet import ResnetBlock2D
from diffusers.models.transformers.transformer_2d import Transformer2DModel
from diffusers.models.unets.unet_2d_blocks import DownEncoderBlock2D, UNetMidBlock2D, UpDecoderBlock2D
from diffusers.models.upsampling import Upsample2D
from transformers import CLIPTextConfig, CLIPVisionConfig
from transformers.models.clip.modeling_clip import CLIPMLP, CLIPEncoderLayer, CLIPTextEmbeddings, CLIPVisionEmbeddings

RES = {"norm1": "norm1", "conv1": "conv1", "norm2": "norm2", "conv2": "conv2"}
ATTENTION = {"q": "to_q", "k": "to_k", "v": "to_v", "out": "to_out.0"}
FEED = {"enter": "net.0.proj", "leave": "net.2"}
CLIP_ATTENTION = {"q": "q_proj", "k": "k_proj", "v": "v_proj", "out": "out_proj"}


def under(ours: str, theirs: str, names: dict[str, str]) -> dict[str, str]:
    """A table of names, one storey further down on both sides."""
    return {f"{ours}.{inner}": f"{theirs}.{outer}" for inner, outer in names.items()}


LAYER = {
    **{f"norm{n}": f"norm{n}" for n in (1, 2, 3)},
    **under("among", "attn1", ATTENTION),
    **under("across", "attn2", ATTENTION),
    **under("feed", "ff", FEED),
}


def twins(ours: nn.Module, theirs: nn.Module, names: dict[str, str]) -> None:
    """Random weights for ours, and the same for theirs."""
    randomise(ours)
    pour(ours, theirs.eval(), names)


def agree(ours: Tensor, theirs: Tensor) -> None:
    found = difference(ours.detach(), theirs.detach())
    assert found.within, found


class TestResBlock:
    @pytest.mark.parametrize(("inside", "outside"), [(32, 32), (32, 48), (80, 32)])
    @pytest.mark.parametrize("size", [(8, 8), (9, 5)])
    def test_with_time(self, inside: int, outside: int, size: tuple[int, int]) -> None:
        ours = blocks.ResBlock(inside, outside, time=64, groups=16, eps=1e-5)
        theirs = ResnetBlock2D(in_channels=inside, out_channels=outside, temb_channels=64, groups=16, eps=1e-5)
        twins(ours, theirs, RES | {"time": "time_emb_proj"} | ({"skip": "conv_shortcut"} if inside != outside else {}))
        x, time = noise(2, inside, *size), noise(2, 64, seed=2)
        agree(ours(x, time), theirs(x, time))

    @pytest.mark.parametrize(("inside", "outside"), [(32, 32), (32, 64)])
    def test_without_time(self, inside: int, outside: int) -> None:
        ours = blocks.ResBlock(inside, outside, time=None, groups=32, eps=1e-6)
        theirs = ResnetBlock2D(in_channels=inside, out_channels=outside, temb_channels=None, groups=32, eps=1e-6)
        twins(ours, theirs, RES | ({"skip": "conv_shortcut"} if inside != outside else {}))
        x = noise(2, inside, 8, 6)
        agree(ours(x), theirs(x, None))

    def test_epsilon_counts(self) -> None:
        """On nearly constant pictures the norm's epsilon shows: 1e-5 in the U-Net, 1e-6 in the autoencoder."""
        for eps in (1e-5, 1e-6):
            ours = blocks.ResBlock(32, 32, time=None, groups=32, eps=eps)
            theirs = ResnetBlock2D(in_channels=32, temb_channels=None, groups=32, eps=eps)
            twins(ours, theirs, RES)
            x = 2e-3 * noise(1, 32, 8, 8)
            agree(ours(x), theirs(x, None))


class TestSizes:
    @pytest.mark.parametrize("size", [(8, 8), (9, 7), (64, 5)])
    def test_shrink(self, size: tuple[int, int]) -> None:
        ours, theirs = blocks.Shrink(32), Downsample2D(32, use_conv=True, padding=1, name="op")
        twins(ours, theirs, {"conv": "conv"})
        x = noise(2, 32, *size)
        assert ours(x).shape[2:] == ((size[0] + 1) // 2, (size[1] + 1) // 2)
        agree(ours(x), theirs(x))

    @pytest.mark.parametrize("size", [(8, 8), (10, 6)])
    def test_shrink_even(self, size: tuple[int, int]) -> None:
        ours, theirs = blocks.Shrink(32, even=True), Downsample2D(32, use_conv=True, padding=0, name="op")
        twins(ours, theirs, {"conv": "conv"})
        x = noise(2, 32, *size)
        assert ours(x).shape[2:] == (size[0] // 2, size[1] // 2)
        agree(ours(x), theirs(x))

    @pytest.mark.parametrize("target", [None, (15, 9), (16, 10)])
    def test_grow(self, target: tuple[int, int] | None) -> None:
        ours, theirs = blocks.Grow(32), Upsample2D(32, use_conv=True)
        twins(ours, theirs, {"conv": "conv"})
        x = noise(2, 32, 8, 5)
        agree(ours(x, target), theirs(x, output_size=target))


class TestTime:
    def test_sinusoids(self) -> None:
        t = torch.tensor([0.0, 1.0, 37.0, 500.25, 981.0, 999.0])
        for width in (32, 320):
            agree(blocks.sinusoids(t, width), Timesteps(width, flip_sin_to_cos=True, downscale_freq_shift=0)(t))

    def test_perceptron(self) -> None:
        ours, theirs = blocks.Perceptron(32, 128), TimestepEmbedding(32, 128)
        twins(ours, theirs, {"enter": "linear_1", "leave": "linear_2"})
        x = noise(3, 32)
        agree(ours(x), theirs(x))


@pytest.mark.filterwarnings("ignore:.*Transformer2DModelOutput:FutureWarning")
class TestTransformer:
    @pytest.mark.parametrize("context", [None, 24])
    @pytest.mark.parametrize("heads", [1, 2, 8])
    def test_attention(self, context: int | None, heads: int) -> None:
        ours = Attention(32, context, heads=heads)
        theirs = TheirAttention(32, cross_attention_dim=context, heads=heads, dim_head=32 // heads)
        twins(ours, theirs, ATTENTION)
        x, other = 2.0 * noise(2, 20, 32), None if context is None else 2.0 * noise(2, 7, context, seed=2)
        agree(ours(x, other), theirs(x, encoder_hidden_states=other))

    def test_gated_feed(self) -> None:
        ours, theirs = blocks.GatedFeed(32), FeedForward(32, activation_fn="geglu")
        twins(ours, theirs, FEED)
        x = noise(2, 9, 32)
        agree(ours(x), theirs(x))

    def test_layer(self) -> None:
        ours = blocks.TransformerLayer(32, 24, heads=4)
        theirs = BasicTransformerBlock(32, 4, 8, cross_attention_dim=24, activation_fn="geglu")
        twins(ours, theirs, LAYER)
        x, context = noise(2, 20, 32), noise(2, 7, 24, seed=2)
        agree(ours(x, context), theirs(x, encoder_hidden_states=context))

    @pytest.mark.parametrize("linear", [False, True])
    @pytest.mark.parametrize("depth", [1, 2])
    @pytest.mark.parametrize("size", [(6, 6), (7, 3)])
    def test_transformer2d(self, linear: bool, depth: int, size: tuple[int, int]) -> None:
        ours = blocks.Transformer2d(32, 24, heads=4, depth=depth, groups=16, linear=linear)
        theirs = Transformer2DModel(
            4, 8, in_channels=32, num_layers=depth, cross_attention_dim=24, norm_num_groups=16,
            use_linear_projection=linear,
        )  # fmt: skip
        names = {"norm": "norm", "enter": "proj_in", "leave": "proj_out"}
        for index in range(depth):
            names |= under(f"layers.{index}", f"transformer_blocks.{index}", LAYER)
        twins(ours, theirs, names)
        x, context = noise(2, 32, *size), noise(2, 7, 24, seed=2)
        agree(ours(x, context), theirs(x, encoder_hidden_states=context).sample)


class TestAutoencoderBlocks:
    CONFIG = autoencoder.AutoencoderConfig(encoder=(16, 32), decoder=(16, 32), blocks=2, groups=8)

    @pytest.mark.parametrize("attention", [True, False])
    def test_middle(self, attention: bool) -> None:
        config = autoencoder.AutoencoderConfig((16, 32), (16, 32), groups=8, middle_attention=attention)
        ours = autoencoder.Middle(config, 32)
        theirs = UNetMidBlock2D(
            32, temb_channels=None, resnet_groups=8, resnet_eps=1e-6, attention_head_dim=32, add_attention=attention
        )
        names = under("first", "resnets.0", RES) | under("second", "resnets.1", RES)
        if attention:
            names |= under("attend.among", "attentions.0", ATTENTION) | {"attend.norm": "attentions.0.group_norm"}
        twins(ours, theirs, names)
        x = noise(2, 32, 6, 5)
        agree(ours(x), theirs(x))

    @pytest.mark.parametrize("last", [True, False])
    def test_level_down(self, last: bool) -> None:
        level = autoencoder.Encoder(self.CONFIG).levels[1 if last else 0]
        inside, outside = (16, 32) if last else (16, 16)
        theirs = DownEncoderBlock2D(
            inside, outside, num_layers=2, resnet_groups=8, resnet_eps=1e-6, add_downsample=not last,
            downsample_padding=0,
        )  # fmt: skip
        names = under("blocks.0", "resnets.0", RES) | under("blocks.1", "resnets.1", RES)
        names |= {"blocks.0.skip": "resnets.0.conv_shortcut"} if last else {"resize.conv": "downsamplers.0.conv"}
        twins(level, theirs, names)
        x = noise(2, inside, 8, 6)
        agree(level(x), theirs(x))

    @pytest.mark.parametrize("last", [True, False])
    def test_level_up(self, last: bool) -> None:
        level = autoencoder.Decoder(self.CONFIG).levels[1 if last else 0]
        inside, outside = (32, 16) if last else (32, 32)
        theirs = UpDecoderBlock2D(
            inside, outside, num_layers=3, resnet_groups=8, resnet_eps=1e-6, add_upsample=not last, temb_channels=None
        )
        names = {}
        for index in range(3):
            names |= under(f"blocks.{index}", f"resnets.{index}", RES)
        names |= {"blocks.0.skip": "resnets.0.conv_shortcut"} if last else {"resize.conv": "upsamplers.0.conv"}
        twins(level, theirs, names)
        x = noise(2, inside, 4, 3)
        agree(level(x), theirs(x))


class TestText:
    @pytest.mark.parametrize("activation", ["quick_gelu", "gelu"])
    def test_feed(self, activation: str) -> None:
        ours = text.Feed(32, 4, activation)
        theirs = CLIPMLP(CLIPTextConfig(hidden_size=32, intermediate_size=128, hidden_act=activation))
        twins(ours, theirs, {"enter": "fc1", "leave": "fc2"})
        x = noise(2, 9, 32)
        agree(ours(x), theirs(x))

    @pytest.mark.parametrize("activation", ["quick_gelu", "gelu"])
    @pytest.mark.parametrize("causal", [True, False])
    def test_layer(self, activation: str, causal: bool) -> None:
        ours = text.Layer(32, 4, 4, activation, causal=causal)
        config = CLIPTextConfig(hidden_size=32, intermediate_size=128, num_attention_heads=4, hidden_act=activation)
        config._attn_implementation = "eager"
        theirs = CLIPEncoderLayer(config)
        names = {"norm1": "layer_norm1", "norm2": "layer_norm2", "feed.enter": "mlp.fc1", "feed.leave": "mlp.fc2"}
        twins(ours, theirs, names | under("among", "self_attn", CLIP_ATTENTION))
        x = noise(2, 9, 32)
        mask = torch.full((9, 9), -torch.inf).triu(1)[None, None] if causal else None
        agree(ours(x), theirs(x, mask))

    def test_embedding(self) -> None:
        ours = text.TextEncoder(text.TextConfig(width=32, layers=1, heads=2, vocabulary=50))
        randomise(ours)
        theirs = CLIPTextEmbeddings(CLIPTextConfig(hidden_size=32, num_attention_heads=2, vocab_size=50))
        theirs.token_embedding.load_state_dict(ours.words.state_dict())
        theirs.position_embedding.load_state_dict(ours.places.state_dict())
        ids = torch.randint(0, 50, (2, 77), generator=torch.Generator().manual_seed(1))
        agree(ours.words(ids) + ours.places.weight, theirs(ids))

    def test_patches(self) -> None:
        ours = text.ImageTower(text.ImageConfig(size=32, patch=8, width=32, layers=1, heads=2, projection=8))
        randomise(ours)
        theirs = CLIPVisionEmbeddings(
            CLIPVisionConfig(hidden_size=32, num_attention_heads=2, image_size=32, patch_size=8)
        )
        theirs.load_state_dict(
            {
                "class_embedding": ours.summary,
                "patch_embedding.weight": ours.patches.weight,
                "position_embedding.weight": ours.places.weight,
            }
        )
        pictures = noise(2, 3, 32, 32)
        agree(ours.states(pictures)[0], ours.norm1(theirs(pictures)))
