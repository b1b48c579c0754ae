"""Files that we write load in diffusers, and files that diffusers writes load here, with equal weights."""

import os
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

os.environ.setdefault("HF_HUB_OFFLINE", "1")
diffusers = pytest.importorskip("diffusers")
transformers = pytest.importorskip("transformers")

from aquatint.base.counted import Counted  # noqa: E402
from aquatint.families import SD15, SD15_INPAINT, SD21, SD21_V, Family  # noqa: E402
from aquatint.nets.autoencoder import Autoencoder  # noqa: E402
from aquatint.nets.text import TextEncoder  # noqa: E402
from aquatint.nets.tokenizer import Tokenizer  # noqa: E402
from aquatint.nets.unet import Stage, UNet  # noqa: E402
from aquatint.weights import Opened, open_model, save  # noqa: E402
from aquatint.weights.diffusers import pairs  # noqa: E402
from aquatint.weights.keymap import config_of, shapes, to_theirs  # noqa: E402

VOCABULARY = 600


def small(family: Family) -> Family:
    """The family with few channels and few words."""
    unet = replace(
        family.unet, stages=(Stage(32, 2), Stage(64, 4), Stage(64, 4, depth=0)), blocks=1, context=32, groups=8
    )
    return replace(
        family,
        name="custom",
        unet=unet,
        autoencoder=replace(family.autoencoder, encoder=(16, 32), decoder=(16, 32), blocks=1, groups=8),
        text=replace(family.text, width=32, layers=2, heads=2, vocabulary=VOCABULARY),
        defaults=replace(family.defaults, width=64, height=64),
    )


def model(family: Family) -> Opened:
    generator = torch.Generator().manual_seed(1)
    nets = UNet(family.unet), Autoencoder(family.autoencoder), TextEncoder(family.text)
    for net in nets:
        for tensor in net.state_dict().values():
            tensor.copy_(torch.randn(tensor.shape, generator=generator) * 0.1)
    words = Tokenizer.train(["a red cat", "two blue circles"], VOCABULARY, pad=family.text.pad)
    return Opened(family, *nets, words, "small", Counted())


def theirs_of(pipeline: Any) -> dict[str, dict[str, torch.Tensor]]:
    parts = {"unet": pipeline.unet, "autoencoder": pipeline.vae, "text": pipeline.text_encoder}
    return {part: net.state_dict() for part, net in parts.items()}


def assert_same(opened: Opened, pipeline: Any) -> None:
    for part, theirs in theirs_of(pipeline).items():
        ours = getattr(opened, part).state_dict()
        expected = to_theirs(pairs(config_of(opened.family, part), theirs), ours)
        assert set(expected) == {name for name in theirs if not name.endswith("position_ids")}, part
        for name, tensor in expected.items():
            assert torch.equal(tensor, theirs[name]), name


FAMILIES = {row.name: small(row) for row in (SD15, SD15_INPAINT, SD21, SD21_V)}


@pytest.fixture(params=["SD15", "SD21_V"])
def opened(request: pytest.FixtureRequest) -> Opened:
    return model(FAMILIES[request.param])


def pipeline_of(path: Path, opened: Opened, **options: Any) -> Any:
    return diffusers.StableDiffusionPipeline.from_pretrained(path, local_files_only=True, **options)


def test_our_folder_in_diffusers(opened: Opened, tmp_path: Path) -> None:
    save(opened, tmp_path / "model", "diffusers")
    pipeline = pipeline_of(tmp_path / "model", opened)
    assert_same(opened, pipeline)
    others = model(FAMILIES["SD15_INPAINT"])
    save(others, tmp_path / "inpaint", "diffusers")
    inpainter = diffusers.StableDiffusionInpaintPipeline.from_pretrained(tmp_path / "inpaint", local_files_only=True)
    assert_same(others, inpainter)
    says = pipeline.scheduler.config.prediction_type
    assert says == {"v": "v_prediction"}.get(opened.family.prediction, opened.family.prediction)
    words = ["a cat", "two dogs!"]
    ids = pipeline.tokenizer(words, padding="max_length", max_length=77, truncation=True, return_tensors="pt").input_ids
    if opened.family.text.pad == "end":  # where "!" pads, transformers reads a written "!" as padding
        assert torch.equal(ids, opened.tokenizer(words))


def test_our_shards_and_variant_in_diffusers(tmp_path: Path) -> None:
    opened = model(FAMILIES["SD21"])
    save(opened, tmp_path / "model", "diffusers", variant="fp16", shard_size=2**20)
    names = {path.name for path in (tmp_path / "model/unet").iterdir()}
    assert "diffusion_pytorch_model.safetensors.index.fp16.json" in names
    assert any(name.startswith("diffusion_pytorch_model.fp16-00001-of-") for name in names)
    pipeline = pipeline_of(tmp_path / "model", opened, variant="fp16", dtype=torch.float16)
    again = open_model(tmp_path / "model", variant="fp16", dtype=torch.float16)
    assert_same(again, pipeline)


@pytest.mark.parametrize("sharded", [False, True])
def test_their_folder_here(opened: Opened, sharded: bool, tmp_path: Path) -> None:
    save(opened, tmp_path / "ours", "diffusers")
    pipeline = pipeline_of(tmp_path / "ours", opened)
    options = {"max_shard_size": "300KB", "variant": "fp16"} if sharded else {}
    pipeline.save_pretrained(tmp_path / "theirs", **options)
    if sharded:
        assert list((tmp_path / "theirs/unet").glob("*.index.fp16.json"))
    again = open_model(tmp_path / "theirs")
    assert_same(again, pipeline)
    assert again.family == opened.family


def test_their_own_model_here(tmp_path: Path) -> None:
    """A pipeline that diffusers and transformers made from nothing, with their own way of writing tokenizers."""
    family = FAMILIES["SD15"]
    torch.manual_seed(0)
    unet = diffusers.UNet2DConditionModel(
        block_out_channels=(32, 64, 64),
        down_block_types=("CrossAttnDownBlock2D", "CrossAttnDownBlock2D", "DownBlock2D"),
        up_block_types=("UpBlock2D", "CrossAttnUpBlock2D", "CrossAttnUpBlock2D"),
        layers_per_block=1,
        cross_attention_dim=32,
        attention_head_dim=(2, 4, 4),
        norm_num_groups=8,
        sample_size=32,
    )
    vae = diffusers.AutoencoderKL(
        block_out_channels=(16, 32),
        down_block_types=("DownEncoderBlock2D",) * 2,
        up_block_types=("UpDecoderBlock2D",) * 2,
        norm_num_groups=8,
    )
    config = transformers.CLIPTextConfig(
        hidden_size=32, intermediate_size=128, num_hidden_layers=2, num_attention_heads=2
    )
    Tokenizer.packaged().save(tmp_path / "words")
    pipeline = diffusers.StableDiffusionPipeline(
        unet=unet,
        vae=vae,
        text_encoder=transformers.CLIPTextModel(config),
        tokenizer=transformers.CLIPTokenizer.from_pretrained(tmp_path / "words"),
        scheduler=diffusers.PNDMScheduler(
            beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear", skip_prk_steps=True, steps_offset=1
        ),
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )
    pipeline.save_pretrained(tmp_path / "model")
    again = open_model(tmp_path / "model")
    assert_same(again, pipeline)
    assert again.family == replace(family, text=replace(family.text, vocabulary=49408), defaults=again.family.defaults)
    assert again.family.defaults.sampler == "plms"
    assert again.tokenizer.vocabulary == 49408


@pytest.mark.parametrize("name", ["SD15", "SD21"])
def test_our_single_file_in_diffusers(name: str, tmp_path: Path) -> None:
    opened = model(FAMILIES[name])
    save(opened, tmp_path / "config", "diffusers")
    save(opened, tmp_path / "model.safetensors", "compvis")
    for weights in (tmp_path / "config").rglob("*.safetensors"):
        weights.unlink()
    pipeline = diffusers.StableDiffusionPipeline.from_single_file(
        str(tmp_path / "model.safetensors"), config=str(tmp_path / "config"), local_files_only=True
    )
    assert_same(opened, pipeline)


@pytest.mark.parametrize("row", [SD15, SD15_INPAINT, SD21, SD21_V], ids=lambda row: row.name)
def test_names_and_shapes_at_full_size(row: Family) -> None:
    """The published configs give diffusers' nets the tensors that our pairs name, each of the same shape."""
    from aquatint.weights import assembly

    documents = assembly.documents(row)
    with torch.device("meta"):
        unet = diffusers.UNet2DConditionModel.from_config(documents["unet/config.json"])
        vae = diffusers.AutoencoderKL.from_config(documents["vae/config.json"])
        text = transformers.CLIPTextModel(transformers.CLIPTextConfig(**documents["text_encoder/config.json"]))
    for part, net in (("unet", unet), ("autoencoder", vae), ("text", text)):
        config = config_of(row, part)
        ours = shapes(config)
        theirs = {name: tuple(tensor.shape) for name, tensor in net.state_dict().items()}
        named = {pair.theirs: pair.turn.shapes([ours[name] for name in pair.ours])[0] for pair in pairs(config, theirs)}
        assert named == theirs, part
