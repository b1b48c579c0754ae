"""The law of key maps: from(to(w)) = w bit for bit, for every format, family and spelling; and the names themselves."""

from collections.abc import Callable

import pytest
import torch
from tests.weights.models import EVERY

from aquatint.families import FAMILIES, SD15, SD21, SDXL, SDXL_REFINER, Family
from aquatint.weights import Opened, compvis, diffusers
from aquatint.weights.formats import FORMATS
from aquatint.weights.keymap import Config, Pair, config_of, empty, from_theirs, parts_of, shapes, to_theirs

# Names whose presence makes a reader take a format's older spellings.
SPELLINGS = {
    "as written": (),
    "transformers 5": ("embeddings.token_embedding.weight",),
    "diffusers 0.11": ("encoder.mid_block.attentions.0.query.weight",),
    "no text_model": (compvis.OLD_HUGGING + "embeddings.token_embedding.weight",),
    "CLIP by transformers": (compvis.HUGGING + "embeddings.token_embedding.weight",),
    "OpenCLIP": (compvis.OPEN_CLIP + "token_embedding.weight",),
}


def every_map(config: Config) -> dict[tuple[str, ...], list[Pair]]:
    """All different maps of a config, by their names."""
    maps = [module.pairs(config, names) for module in (diffusers, compvis) for names in SPELLINGS.values()]
    maps.append(compvis.pairs(config, (), ema=True))
    maps.append(diffusers.pairs(config, added=True))
    maps += [compvis.pairs(config, (), text=compvis.conditioner(SDXL, part)) for part in ("text", "text2")]
    return {tuple(pair.theirs for pair in pairs): pairs for pairs in maps}


@pytest.mark.parametrize(("name", "part"), [(name, part) for name, row in EVERY.items() for part in parts_of(row)])
def test_there_and_back_is_the_same(name: str, part: str, models: Callable[[str], Opened]) -> None:
    config, ours = config_of(EVERY[name], part), models(name).nets[part].state_dict()
    maps = every_map(config)
    attends, vector = EVERY[name].autoencoder.middle_attention, bool(EVERY[name].unet.vector)
    assert len(maps) == {"unet": 3 + vector, "autoencoder": 3 if attends else 2, "text": 7, "text2": 7}[part]
    for pairs in maps.values():
        theirs = to_theirs(pairs, ours)
        again = from_theirs(pairs, theirs)
        assert set(again) == set(ours)
        assert all(torch.equal(again[key], ours[key]) for key in ours)
        assert to_theirs(pairs, again).keys() == theirs.keys()
        for pair in pairs:
            allowed = pair.turn.shapes([tuple(ours[key].shape) for key in pair.ours])
            assert tuple(theirs[pair.theirs].shape) == allowed[0], pair.theirs


def test_the_law_would_notice_a_wrong_turn(models: Callable[[str], Opened]) -> None:
    ours = models("SD21").text.state_dict()
    pairs = compvis.pairs(EVERY["SD21"].text)
    swapped = [
        pair._replace(ours=(pair.ours[1], pair.ours[0], *pair.ours[2:])) if len(pair.ours) == 3 else pair
        for pair in pairs
    ]
    again = from_theirs(swapped, to_theirs(pairs, ours))
    assert not all(torch.equal(again[key], ours[key]) for key in ours)


@pytest.mark.parametrize(("row", "part"), [(row, part) for row in FAMILIES.values() for part in parts_of(row)])
def test_every_tensor_has_one_place_at_full_size(row: Family, part: str) -> None:
    names = shapes(config_of(row, part))
    for pairs in every_map(config_of(row, part)).values():
        assert sorted(name for pair in pairs for name in pair.ours) == sorted(names)
        assert len({pair.theirs for pair in pairs}) == len(pairs)


def test_counts() -> None:
    assert len(diffusers.pairs(SD15.unet)) == len(compvis.pairs(SD15.unet)) == 686
    assert len(diffusers.pairs(SD15.autoencoder)) == 248
    assert len(diffusers.pairs(SD15.text)) == 196
    assert len(diffusers.pairs(SDXL.unet)) == len(compvis.pairs(SDXL.unet)) == 1680
    assert len(compvis.pairs(SDXL_REFINER.unet)) == 1220
    assert len(diffusers.pairs(SDXL_REFINER.text)) == 517
    assert len(compvis.pairs(SD21.text)) == 372 - 2 * 2 * 23  # three projections in one, weights and biases


def test_native_names_are_the_nets_own() -> None:
    for row in (SD15, SDXL):
        for part in parts_of(row):
            pairs = FORMATS["native"].pairs(row, part, None, ema=False)
            assert [pair.theirs for pair in pairs] == [f"{part}.{name}" for name in shapes(config_of(row, part))]


# Read off the published checkpoints' key lists: what must come out, and of which shape, whatever our tables say.
SD15_FILE = {
    "model.diffusion_model.time_embed.0.weight": (1280, 320),
    "model.diffusion_model.time_embed.2.bias": (1280,),
    "model.diffusion_model.input_blocks.0.0.weight": (320, 4, 3, 3),
    "model.diffusion_model.input_blocks.1.0.in_layers.0.weight": (320,),
    "model.diffusion_model.input_blocks.1.0.emb_layers.1.weight": (320, 1280),
    "model.diffusion_model.input_blocks.1.1.proj_in.weight": (320, 320, 1, 1),
    "model.diffusion_model.input_blocks.1.1.transformer_blocks.0.attn1.to_out.0.bias": (320,),
    "model.diffusion_model.input_blocks.2.1.transformer_blocks.0.attn2.to_k.weight": (320, 768),
    "model.diffusion_model.input_blocks.3.0.op.weight": (320, 320, 3, 3),
    "model.diffusion_model.input_blocks.4.0.skip_connection.weight": (640, 320, 1, 1),
    "model.diffusion_model.input_blocks.8.1.transformer_blocks.0.ff.net.0.proj.weight": (10240, 1280),
    "model.diffusion_model.input_blocks.11.0.out_layers.3.weight": (1280, 1280, 3, 3),
    "model.diffusion_model.middle_block.1.transformer_blocks.0.norm3.weight": (1280,),
    "model.diffusion_model.middle_block.2.in_layers.2.weight": (1280, 1280, 3, 3),
    "model.diffusion_model.output_blocks.2.1.conv.weight": (1280, 1280, 3, 3),
    "model.diffusion_model.output_blocks.5.2.conv.weight": (1280, 1280, 3, 3),
    "model.diffusion_model.output_blocks.8.2.conv.bias": (640,),
    "model.diffusion_model.output_blocks.11.0.skip_connection.weight": (320, 640, 1, 1),
    "model.diffusion_model.output_blocks.11.1.transformer_blocks.0.norm1.bias": (320,),
    "model.diffusion_model.out.0.weight": (320,),
    "model.diffusion_model.out.2.weight": (4, 320, 3, 3),
    "first_stage_model.encoder.down.0.downsample.conv.weight": (128, 128, 3, 3),
    "first_stage_model.encoder.down.1.block.0.nin_shortcut.weight": (256, 128, 1, 1),
    "first_stage_model.encoder.mid.attn_1.q.weight": (512, 512, 1, 1),
    "first_stage_model.decoder.mid.block_2.conv2.bias": (512,),
    "first_stage_model.decoder.up.0.block.0.conv1.weight": (128, 256, 3, 3),
    "first_stage_model.decoder.up.3.upsample.conv.weight": (512, 512, 3, 3),
    "first_stage_model.quant_conv.weight": (8, 8, 1, 1),
    "first_stage_model.post_quant_conv.bias": (4,),
    "cond_stage_model.transformer.text_model.embeddings.position_embedding.weight": (77, 768),
    "cond_stage_model.transformer.text_model.encoder.layers.11.self_attn.q_proj.weight": (768, 768),
    "cond_stage_model.transformer.text_model.encoder.layers.0.mlp.fc1.weight": (3072, 768),
    "cond_stage_model.transformer.text_model.final_layer_norm.bias": (768,),
}
SD21_FILE = {
    "model.diffusion_model.input_blocks.1.1.proj_in.weight": (320, 320),
    "model.diffusion_model.input_blocks.2.1.transformer_blocks.0.attn2.to_k.weight": (320, 1024),
    "cond_stage_model.model.positional_embedding": (77, 1024),
    "cond_stage_model.model.token_embedding.weight": (49408, 1024),
    "cond_stage_model.model.transformer.resblocks.22.attn.in_proj_weight": (3072, 1024),
    "cond_stage_model.model.transformer.resblocks.0.attn.in_proj_bias": (3072,),
    "cond_stage_model.model.transformer.resblocks.0.attn.out_proj.weight": (1024, 1024),
    "cond_stage_model.model.transformer.resblocks.5.ln_2.weight": (1024,),
    "cond_stage_model.model.transformer.resblocks.5.mlp.c_proj.weight": (1024, 4096),
    "cond_stage_model.model.ln_final.weight": (1024,),
}


SDXL_FILE = {
    "model.diffusion_model.label_emb.0.0.weight": (1280, 2816),
    "model.diffusion_model.label_emb.0.2.bias": (1280,),
    "model.diffusion_model.input_blocks.2.0.in_layers.2.weight": (320, 320, 3, 3),
    "model.diffusion_model.input_blocks.4.1.proj_in.weight": (640, 640),
    "model.diffusion_model.input_blocks.4.1.transformer_blocks.1.attn2.to_k.weight": (640, 2048),
    "model.diffusion_model.input_blocks.8.1.transformer_blocks.9.ff.net.2.weight": (1280, 5120),
    "model.diffusion_model.middle_block.1.transformer_blocks.9.norm3.bias": (1280,),
    "model.diffusion_model.output_blocks.2.2.conv.weight": (1280, 1280, 3, 3),
    "model.diffusion_model.output_blocks.5.2.conv.weight": (640, 640, 3, 3),
    "model.diffusion_model.output_blocks.8.0.skip_connection.weight": (320, 640, 1, 1),
    "first_stage_model.decoder.up.3.upsample.conv.weight": (512, 512, 3, 3),
    "conditioner.embedders.0.transformer.text_model.encoder.layers.11.self_attn.q_proj.weight": (768, 768),
    "conditioner.embedders.0.transformer.text_model.final_layer_norm.bias": (768,),
    "conditioner.embedders.1.model.positional_embedding": (77, 1280),
    "conditioner.embedders.1.model.text_projection": (1280, 1280),
    "conditioner.embedders.1.model.token_embedding.weight": (49408, 1280),
    "conditioner.embedders.1.model.transformer.resblocks.9.mlp.c_proj.bias": (1280,),
    "conditioner.embedders.1.model.transformer.resblocks.31.attn.in_proj_weight": (3840, 1280),
    "conditioner.embedders.1.model.ln_final.weight": (1280,),
}
REFINER_FILE = {
    "model.diffusion_model.label_emb.0.0.weight": (1536, 2560),
    "model.diffusion_model.input_blocks.0.0.weight": (384, 4, 3, 3),
    "model.diffusion_model.input_blocks.4.1.transformer_blocks.3.attn2.to_k.weight": (768, 1280),
    "model.diffusion_model.input_blocks.11.0.in_layers.2.weight": (1536, 1536, 3, 3),
    "model.diffusion_model.middle_block.1.transformer_blocks.3.norm1.weight": (1536,),
    "model.diffusion_model.output_blocks.2.1.conv.weight": (1536, 1536, 3, 3),
    "model.diffusion_model.output_blocks.11.0.out_layers.3.weight": (384, 384, 3, 3),
    "conditioner.embedders.0.model.transformer.resblocks.31.attn.in_proj_bias": (3840,),
    "conditioner.embedders.0.model.text_projection": (1280, 1280),
}
FILES = {"SD15": SD15_FILE, "SD21": SD21_FILE, "SDXL": SDXL_FILE, "SDXL_REFINER": REFINER_FILE}


@pytest.mark.parametrize(("row", "expected"), [(FAMILIES[name], names) for name, names in FILES.items()], ids=FILES)
def test_the_single_files_names_and_shapes(row: Family, expected: dict[str, tuple[int, ...]]) -> None:
    made = {}
    for part in parts_of(row):
        config = config_of(row, part)
        ours, pairs = shapes(config), FORMATS["compvis"].pairs(row, part, None, ema=False)
        made |= {pair.theirs: pair.turn.shapes([ours[name] for name in pair.ours])[0] for pair in pairs}
    assert {name: made.get(name) for name in expected} == expected


def test_averaged_names() -> None:
    assert compvis.averaged("model.diffusion_model.time_embed.0.weight") == "model_ema.diffusion_modeltime_embed0weight"
    averaged = compvis.pairs(SD15.unet, (), ema=True)
    assert len({pair.theirs for pair in averaged}) == 686  # no two names become one when the dots go


def test_an_empty_net_takes_no_memory_and_no_randomness() -> None:
    state = torch.get_rng_state()
    net = empty(SD15.text)
    assert torch.equal(state, torch.get_rng_state())
    assert all(tensor.is_meta for tensor in net.state_dict().values())
