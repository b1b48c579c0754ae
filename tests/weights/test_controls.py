"""Files of controls: every spelling comes back bit for bit, and what does not fit is refused in words."""

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from tests.weights import control_files
from tests.weights.control_files import TOWER, adapter, control, prompt, spelled, spellings, table, tower, write
from tests.weights.models import SMALL
from torch import nn

from aquatint.base.errors import UserError
from aquatint.families import SD15, SD21, TINY, Family
from aquatint.nets.blocks import sinusoids
from aquatint.nets.control import AdapterConfig, ControlConfig, ControlNet, T2IAdapter
from aquatint.nets.picture_prompt import PictureConfig, PicturePrompt, crossings
from aquatint.nets.text import ImageConfig, ImageTower
from aquatint.nets.unet import Stage, UNetConfig
from aquatint.weights import control_names
from aquatint.weights.control_writer import FORMATS, save_control
from aquatint.weights.controls import build, fit, open_control
from aquatint.weights.keymap import from_theirs, hollow, pairs, to_theirs
from aquatint.weights.towers import build_tower, open_tower

XL = UNetConfig(
    stages=(Stage(16, 1, depth=0), Stage(32, 2, depth=2), Stage(48, 3, depth=3)),
    middle=3, context=40, vector=56, linear=True, groups=8,
)  # fmt: skip
# All latents an eighth of the picture, as hints have it; nobody makes controls for the refiner.
FAMILIES = {
    name: replace(row, autoencoder=SMALL["SD15"].autoencoder)
    for name, row in {**SMALL, "XL": replace(SMALL["SD15"], unet=XL)}.items()
    if name not in ("SD15_INPAINT", "SDXL_REFINER", "TINY_XL")
}
NETS: dict[str, Callable[[Family], nn.Module]] = {
    "controlnet": control,
    "controlnet of one channel": lambda family: control(family, channels=1),
    "t2i": adapter,
    "ip": prompt,
    "ip plus": lambda family: prompt(family, plus=True),
}
# Stable Diffusion XL's U-Net, for the names and shapes of its controls.
SDXL = UNetConfig(
    stages=(Stage(320, 5, depth=0), Stage(640, 10, depth=2), Stage(1280, 20, depth=10)),
    middle=10, context=2048, vector=2816, linear=True,
)  # fmt: skip


def same(one: nn.Module, two: nn.Module) -> bool:
    a, b = one.state_dict(), two.state_dict()
    return list(a) == list(b) and all(torch.equal(a[name], b[name]) for name in a)


@pytest.mark.parametrize("kind", NETS)
@pytest.mark.parametrize("name", FAMILIES)
def test_there_and_back_is_the_same(name: str, kind: str) -> None:
    net = NETS[kind](FAMILIES[name])
    ours = net.state_dict()
    for places in spellings(net).values():
        rows = table(net, places)
        theirs = to_theirs(rows, ours)
        again = from_theirs(rows, theirs)
        assert set(again) == set(ours)
        assert all(torch.equal(again[key], ours[key]) for key in ours)
        assert len(theirs) == len(rows)


@pytest.mark.parametrize("kind", NETS)
@pytest.mark.parametrize("name", FAMILIES)
def test_every_spelling_opens(name: str, kind: str, tmp_path: Path) -> None:
    net = NETS[kind](FAMILIES[name])
    for number, way in enumerate(spellings(net)):
        file = open_control(write(tmp_path / f"{number}.safetensors", net, way))
        assert file.kind == kind.split(" ")[0]
        found = fit(file, FAMILIES[name])
        assert not found.left_over
        assert same(build(found), net), way


@pytest.mark.parametrize("kind", NETS)
def test_pickles_open(kind: str, tmp_path: Path) -> None:
    """As TencentARC and lllyasviel publish them; an IP-Adapter's .bin has a dict within a dict."""
    net = NETS[kind](SMALL["SD15"])
    (places, *_) = spellings(net).values()
    names = spelled(net, places)
    if kind.startswith("ip"):
        nested: dict[str, dict[str, torch.Tensor]] = {}
        for name, tensor in names.items():
            part, _, inner = name.partition(".")
            nested.setdefault(part, {})[inner] = tensor
        torch.save(nested, tmp_path / "a.bin")
    else:
        torch.save(names, tmp_path / "a.bin")
    assert same(build(fit(open_control(tmp_path / "a.bin"), SMALL["SD15"])), net)


def test_folders_open(tmp_path: Path) -> None:
    net = control(SMALL["SD15"])
    write(tmp_path / "diffusion_pytorch_model.safetensors", net, "diffusers")
    assert same(build(fit(open_control(tmp_path), SMALL["SD15"])), net)
    config = tmp_path / "config.json"
    config.write_text('{"_class_name": "ControlNetModel", "attention_head_dim": [4, 4, 4, 4]}')
    made = build(fit(open_control(tmp_path), SMALL["SD15"]))
    assert isinstance(made, ControlNet)
    assert [stage.heads for stage in made.config.stages] == [4, 4, 4, 4]
    for text, told in (
        ('{"_class_name": "ControlNetModel", "global_pool_conditions": true}', "global_pool_conditions"),
        ('{"_class_name": "ControlNetModel", "controlnet_conditioning_channel_order": "bgr"}', "channel_order"),
        ('{"_class_name": "ControlNetModel", "attention_head_dim": 5}', "heads"),
        ('{"_class_name": "UNet2DConditionModel"}', "UNet2DConditionModel"),
    ):
        config.write_text(text)
        with pytest.raises(UserError, match=told):
            fit(open_control(tmp_path), SMALL["SD15"])


def test_shards_open_and_all_of_them_count(tmp_path: Path) -> None:
    net = control(SMALL["SD15"])
    whole = load_file(write(tmp_path / "whole.safetensors", net, "diffusers"))
    names = sorted(whole)
    halves = {"a.safetensors": names[::2], "b.safetensors": names[1::2]}
    digests = []
    for factor in (1.0, 2.0):
        for file, rows in halves.items():
            save_file({name: whole[name] * (factor if file[0] == "b" else 1.0) for name in rows}, tmp_path / file)
        table = {name: file for file, rows in halves.items() for name in rows}
        index = tmp_path / "diffusion_pytorch_model.safetensors.index.json"
        index.write_text(json.dumps({"weight_map": table}))
        digests.append(open_control(tmp_path).digest)
        assert same(build(fit(open_control(tmp_path), SMALL["SD15"])), net) == (factor == 1.0)
    assert digests[0] != digests[1]


def test_a_whole_checkpoint_beside_a_controlnet(tmp_path: Path) -> None:
    """The first ControlNets were published with the model that they were trained beside."""
    net = control(SMALL["SD15"])
    more = {"model.diffusion_model.out.2.weight": torch.ones(1), "betas": torch.ones(3), "logvar": torch.ones(3)}
    found = fit(open_control(write(tmp_path / "a.safetensors", net, "original", more)), SMALL["SD15"])
    assert same(build(found), net)
    assert sum(map(len, found.left_over.values())) == 3


def test_fewer_transformers_than_the_unet(tmp_path: Path) -> None:
    """ControlNets for XL are published in smaller sizes: the file's own depths count."""
    family = FAMILIES["XL"]
    stages = tuple(replace(stage, depth=min(stage.depth, 1)) for stage in XL.stages)
    net = control(replace(family, unet=replace(XL, stages=stages, middle=1)))
    for way in spellings(net):
        assert same(build(fit(open_control(write(tmp_path / f"{way}.safetensors", net, way)), family)), net)


@pytest.mark.parametrize("kind", NETS)
def test_another_family_is_refused(kind: str, tmp_path: Path) -> None:
    for made, wanted in (("SD15", "XL"), ("XL", "SD15"), ("SD15", "TINY")):
        for way in spellings(NETS[kind](FAMILIES[made])):
            path = write(tmp_path / "a.safetensors", NETS[kind](FAMILIES[made]), way)
            with pytest.raises(UserError, match="made for"):
                fit(open_control(path), FAMILIES[wanted])


def test_the_family_is_named(tmp_path: Path) -> None:
    """Widths of the text tell the published families apart."""
    names = {768: "Stable Diffusion 1", 1024: "Stable Diffusion 2", 2048: "Stable Diffusion XL"}
    for width, kind in names.items():
        unet = replace(SMALL["SD15"].unet, context=width)
        for net in (control(replace(SMALL["SD15"], unet=unet)), prompt(replace(SMALL["SD15"], unet=unet))):
            file = open_control(write(tmp_path / "a.safetensors", net))
            assert file.made_for == kind
            with pytest.raises(UserError, match=kind):
                fit(file, SMALL["SD15"])


@pytest.mark.parametrize("kind", NETS)
def test_damage_is_told(kind: str, tmp_path: Path) -> None:
    family = SMALL["SD15"]
    path = write(tmp_path / "a.safetensors", NETS[kind](family))
    whole = load_file(path)
    last = [name for name in whole if name.endswith(".bias")][-1]
    for change, told in (
        ({last: None}, "missing"),
        ({last: torch.ones(3)}, "do not fit"),
        ({last: whole[last].to(torch.int64)}, "stored as I64"),
        ({"surprise.weight": torch.ones(3)}, "have no place"),
    ):
        rows = {name: tensor for name, tensor in (whole | change).items() if tensor is not None}
        if kind.startswith("controlnet") and "surprise.weight" in change:
            rows = {name.removeprefix("control_model."): tensor for name, tensor in rows.items()}
        save_file(rows, path)
        with pytest.raises(UserError, match=told):
            fit(open_control(path), family)
    save_file(whole | {last: torch.full_like(whole[last], float("nan"))}, path)
    with pytest.raises(UserError, match="not finite"):
        build(fit(open_control(path), family))


@pytest.mark.parametrize("kind", [*NETS, "tower"])
def test_any_odd_shape_is_told(kind: str, tmp_path: Path) -> None:
    """Whatever tensor is gone, or of whatever shape, it is a UserError and takes no memory."""
    path = tmp_path / "a.safetensors"
    whole = load_file(write(path, tower() if kind == "tower" else NETS[kind](TINY)))
    shapes = ((), (0,), (1,), (2**20, 0), (2**40, 0, 3, 3), (3, 0, 2**50), (1, 2, 3, 4, 5), None)
    telling = ("hint_block", "embed", "conv_in", "body.", "proj", "latents", "layers.0.", "attn2.to_k", ".to_k_ip")
    names = [name for name in whole if name.endswith(("weight", "latents")) and any(mark in name for mark in telling)]
    names = names[:: max(1, len(names) // 8)]
    for number, name in enumerate(names):
        for shape in shapes[number % 2 :: 2]:
            rows = {other: tensor for other, tensor in whole.items() if other != name}
            save_file(rows | ({} if shape is None else {name: torch.ones(shape)}), path)
            with pytest.raises(UserError):
                build_tower(open_tower(path)) if kind == "tower" else build(fit(open_control(path), TINY))


@pytest.mark.parametrize(
    ("names", "told"),
    [
        (["lora_controlnet", "input_hint_block.0.weight"], "Control-LoRA"),
        (["difference", "control_model.input_hint_block.0.weight"], "difference"),
        (["image_proj.proj.3.weight", "ip_adapter.1.to_k_ip.weight"], "whole faces"),
        (["image_proj.proj.0.weight", "image_proj.norm.weight", "ip_adapter.1.to_k_ip.weight"], "FaceID"),
        (["image_proj.perceiver_resampler.proj_in.weight"], "FaceID plus"),
        (["lora_unet_x.lora_down.weight"], "LoRA"),
        (["vision_model.embeddings.class_embedding"], "image encoder"),
        (["model.diffusion_model.input_blocks.0.0.weight"], "checkpoint"),
        (["adapter.body.0.in_conv.weight", "adapter.body.0.resnets.0.block1.weight"], "light"),
        (["surprise"], "no control"),
    ],
)
def test_other_files_are_named(names: list[str], told: str, tmp_path: Path) -> None:
    save_file({name: torch.ones(1) for name in names}, tmp_path / "a.safetensors")
    with pytest.raises(UserError, match=told):
        open_control(tmp_path / "a.safetensors")


def test_paths_that_lead_nowhere(tmp_path: Path) -> None:
    for opens in (open_control, open_tower):
        with pytest.raises(UserError, match="no file"):
            opens(tmp_path / "none.safetensors")
        with pytest.raises(UserError, match="folder"):
            opens(tmp_path)


# Read off the published files' key lists.
SD15_CONTROL = {
    "control_model.time_embed.0.weight": (1280, 320),
    "control_model.input_blocks.0.0.weight": (320, 4, 3, 3),
    "control_model.input_blocks.11.0.out_layers.3.weight": (1280, 1280, 3, 3),
    "control_model.input_blocks.1.1.transformer_blocks.0.attn2.to_k.weight": (320, 768),
    "control_model.input_hint_block.0.weight": (16, 3, 3, 3),
    "control_model.input_hint_block.4.weight": (32, 16, 3, 3),
    "control_model.input_hint_block.8.weight": (96, 32, 3, 3),
    "control_model.input_hint_block.12.weight": (256, 96, 3, 3),
    "control_model.input_hint_block.14.weight": (320, 256, 3, 3),
    "control_model.zero_convs.0.0.weight": (320, 320, 1, 1),
    "control_model.zero_convs.11.0.bias": (1280,),
    "control_model.middle_block.2.in_layers.2.weight": (1280, 1280, 3, 3),
    "control_model.middle_block_out.0.weight": (1280, 1280, 1, 1),
}
SD15_CONTROL_DIFFUSERS = {
    "controlnet_cond_embedding.conv_in.weight": (16, 3, 3, 3),
    "controlnet_cond_embedding.blocks.5.weight": (256, 96, 3, 3),
    "controlnet_cond_embedding.conv_out.bias": (320,),
    "controlnet_down_blocks.11.weight": (1280, 1280, 1, 1),
    "controlnet_mid_block.bias": (1280,),
    "down_blocks.0.attentions.0.proj_in.weight": (320, 320, 1, 1),
    "down_blocks.2.downsamplers.0.conv.weight": (1280, 1280, 3, 3),
    "time_embedding.linear_1.weight": (1280, 320),
}
SDXL_CONTROL = {
    "add_embedding.linear_1.weight": (1280, 2816),
    "controlnet_down_blocks.8.weight": (1280, 1280, 1, 1),
    "down_blocks.2.attentions.1.transformer_blocks.9.attn2.to_k.weight": (1280, 2048),
}
SD15_ADAPTER = {
    "conv_in.weight": (320, 192, 3, 3),
    "body.0.block1.weight": (320, 320, 3, 3),
    "body.1.block2.bias": (320,),
    "body.2.in_conv.weight": (640, 320, 1, 1),
    "body.4.in_conv.bias": (1280,),
    "body.7.block2.weight": (1280, 1280, 1, 1),
}
SD15_PROMPT = {
    "image_proj.proj.weight": (3072, 1024),
    "image_proj.norm.weight": (768,),
    "ip_adapter.1.to_k_ip.weight": (320, 768),
    "ip_adapter.11.to_v_ip.weight": (1280, 768),
    "ip_adapter.13.to_k_ip.weight": (1280, 768),  # the way up's first
    "ip_adapter.29.to_k_ip.weight": (320, 768),
    "ip_adapter.31.to_v_ip.weight": (1280, 768),  # the middle's
}
SDXL_PLUS = {
    "image_proj.latents": (1, 16, 1280),
    "image_proj.proj_in.weight": (1280, 1280),
    "image_proj.proj_out.weight": (2048, 1280),
    "image_proj.norm_out.bias": (2048,),
    "image_proj.layers.3.0.norm1.weight": (1280,),
    "image_proj.layers.0.0.to_kv.weight": (2560, 1280),
    "image_proj.layers.0.1.0.weight": (1280,),
    "image_proj.layers.0.1.1.weight": (5120, 1280),
    "image_proj.layers.0.1.3.weight": (1280, 5120),
    "ip_adapter.1.to_k_ip.weight": (640, 2048),
    "ip_adapter.139.to_v_ip.weight": (1280, 2048),
}
BIGG = {
    "vision_model.embeddings.class_embedding": (1664,),
    "vision_model.embeddings.patch_embedding.weight": (1664, 3, 14, 14),
    "vision_model.embeddings.position_embedding.weight": (257, 1664),
    "vision_model.encoder.layers.47.mlp.fc1.weight": (8192, 1664),
    "vision_model.pre_layrnorm.bias": (1664,),
    "visual_projection.weight": (1280, 1664),
}


def widths(unet: UNetConfig) -> tuple[int, ...]:
    return tuple(width for _, width in crossings(unet))


CONTROL = ControlConfig(SD15.unet)
PLUS = PictureConfig(widths(SDXL), 2048, 1280, 16, 4, 1280)
TOWERS = ImageConfig(224, 14, 1664, 48, 16, "gelu", projection=1280, hidden=8192)


@pytest.mark.parametrize(
    ("make", "places", "expected", "count"),
    [
        (lambda: ControlNet(CONTROL), control_names.original_control(CONTROL), SD15_CONTROL, 340),
        (lambda: ControlNet(CONTROL), control_names.diffusers_control(CONTROL), SD15_CONTROL_DIFFUSERS, 340),
        (
            lambda: ControlNet(ControlConfig(SDXL)),
            control_names.diffusers_control(ControlConfig(SDXL), SDXL_CONTROL),
            SDXL_CONTROL,
            844,
        ),
        (lambda: T2IAdapter(AdapterConfig()), control_names.original_adapter(AdapterConfig()), SD15_ADAPTER, 38),
        (
            lambda: PicturePrompt(PictureConfig(widths(SD15.unet))),
            control_names.picture_prompt(PictureConfig(widths(SD15.unet))),
            SD15_PROMPT,
            4 + 2 * 16,
        ),
        (lambda: PicturePrompt(PLUS), control_names.picture_prompt(PLUS), SDXL_PLUS, 7 + 4 * 11 + 2 * 70),
        (lambda: ImageTower(TOWERS), control_names.tower(TOWERS), BIGG, 520 + 256),
    ],
    ids=["original", "diffusers", "XL", "t2i", "ip", "ip plus XL", "bigG"],
)
def test_the_published_names_and_shapes(make, places, expected, count) -> None:
    ours = {name: tuple(tensor.shape) for name, tensor in hollow(make).state_dict().items()}
    made = {pair.theirs: pair.turn.shapes([ours[name] for name in pair.ours])[0] for pair in pairs(places, ours)}
    assert {name: made.get(name) for name in expected} == expected
    assert len(made) == count


class TestTower:
    @pytest.mark.parametrize("way", ["transformers", "bare"])
    def test_opens(self, way: str, tmp_path: Path) -> None:
        net = tower()
        path = write(tmp_path / "model.safetensors", net, way, {"logit_scale": torch.ones(())})
        (tmp_path / "config.json").write_text('{"vision_config": {"num_attention_heads": 1, "hidden_act": "gelu"}}')
        for at in (path, tmp_path):
            file = open_tower(at)
            assert file.config == TOWER
            assert same(build_tower(file), net)
        (tmp_path / "config.json").write_text('{"num_attention_heads": 2, "hidden_act": "quick_gelu"}')
        assert (open_tower(tmp_path).config.heads, open_tower(tmp_path).config.activation) == (2, "quick_gelu")

    @pytest.mark.parametrize(
        "text", ['{"num_attention_heads": 5}', '{"hidden_act": "os.system"}', '{"layer_norm_eps": 1e-6}', "[]", "{"]
    )
    def test_bad_documents(self, text: str, tmp_path: Path) -> None:
        write(tmp_path / "model.safetensors", tower())
        (tmp_path / "config.json").write_text(text)
        with pytest.raises(UserError):
            open_tower(tmp_path)

    @pytest.mark.parametrize(
        ("width", "patch", "heads"), [(768, 32, 12), (1024, 14, 16), (1280, 14, 16), (1664, 14, 16)]
    )
    def test_heads_of_the_published_towers(self, width: int, patch: int, heads: int, tmp_path: Path) -> None:
        """ViT-H's heads are 80 numbers wide and bigG's 104, which no shape tells."""
        net = ImageTower(ImageConfig(2 * patch, patch, width, 1, heads, projection=8, hidden=16))
        found = open_tower(write(tmp_path / "a.safetensors", net)).config
        assert (found.heads, found.size) == (heads, 2 * patch)
        assert found.activation == ("gelu" if width > 1024 else "quick_gelu")

    def test_damage(self, tmp_path: Path) -> None:
        path = write(tmp_path / "a.safetensors", tower())
        whole = load_file(path)
        for change, told in (
            ({"vision_model.post_layernorm.bias": None}, "missing"),
            ({"vision_model.pre_layrnorm.weight": torch.ones(3)}, "does not fit"),
            ({"surprise": torch.ones(3)}, "no place"),
            ({"visual_projection.weight": None}, "no image encoder"),
            ({"vision_model.embeddings.patch_embedding.weight": torch.ones(3)}, "too few sides"),
            ({"visual_projection.weight": whole["visual_projection.weight"] / 0}, "not finite"),
        ):
            save_file({name: tensor for name, tensor in (whole | change).items() if tensor is not None}, path)
            with pytest.raises(UserError, match=told):
                build_tower(open_tower(path))


def test_families_that_share_shapes() -> None:
    """The order of IP-Adapter's numbers: down, up, middle."""
    names = [name for name, _ in crossings(TINY.unet)]
    assert names == [
        "descent.0.cells.0.attend.layers.0",
        "ascent.1.cells.0.attend.layers.0",
        "ascent.1.cells.1.attend.layers.0",
        "middle.first.attend.layers.0",
    ]
    assert len(widths(SD15.unet)) == len(widths(SD21.unet)) == 16
    assert len(widths(SDXL)) == 70
    assert control_files.TOWER.hidden == 80


@pytest.mark.parametrize("format", FORMATS)
@pytest.mark.parametrize("name", ["SD15", "SD21", "SDXL", "TINY"])
def test_what_is_written_opens_again(name: str, format: str, tmp_path: Path) -> None:
    family = replace(SMALL[name], autoencoder=SMALL["SD15"].autoencoder)
    net = control(family)
    path = save_control(tmp_path / ("a.safetensors" if format == "original" else "a"), net, family, format)
    assert same(build(fit(open_control(path), family)), net)
    with pytest.raises(UserError, match="exists"):
        save_control(path, net, family, format)


def test_a_written_folder_is_what_diffusers_reads(tmp_path: Path) -> None:
    from diffusers import ControlNetModel

    for name in ("SD15", "SDXL"):
        family = SMALL[name]
        net = control(family)
        path = save_control(tmp_path / name, net, family, "diffusers")
        theirs, report = ControlNetModel.from_pretrained(path, output_loading_info=True)
        assert not any(report.values()), report
        x, t, context = torch.randn(2, 4, 8, 8), torch.tensor([3.0, 700.0]), torch.randn(2, 7, family.unet.context)
        picture = torch.rand(2, 3, 64, 64)
        more, vector = {}, None
        if family.unet.vector:
            pooled, numbers = torch.randn(2, family.unet.vector - 6 * 256), torch.tensor([[64.0, 64, 0, 0, 64, 64]] * 2)
            more = {"added_cond_kwargs": {"text_embeds": pooled, "time_ids": numbers}}
            vector = torch.cat([pooled, sinusoids(numbers.flatten(), 256).view(2, -1)], dim=1)
        with torch.no_grad():
            wanted = theirs(x, t, context, picture, return_dict=False, **more)
            found = net(x, t, context, vector, net.prepare(picture))
        for ours, other in zip([*found[0], found[1]], [*wanted[0], wanted[1]], strict=True):
            torch.testing.assert_close(ours, other, rtol=1e-4, atol=1e-4)


def test_a_controlnet_with_a_value_that_is_not_finite_is_not_written(tmp_path: Path) -> None:
    net = control(SMALL["SD15"])
    net.zero.weight[0, 0] = float("nan")
    with pytest.raises(UserError, match=r"middle_block_out.0.weight.*finite"):
        save_control(tmp_path / "a.safetensors", net, SMALL["SD15"])
    assert not list(tmp_path.iterdir())
