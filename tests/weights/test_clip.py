"""A whole CLIP opens from both layouts, and gives transformers' own vectors; what is not whole is refused by name."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from tests.parity.peers import difference, noise, randomise

from aquatint.base.errors import UserError
from aquatint.nets.tokenizer import Tokenizer
from aquatint.weights.clip import Clip, open_clip

TEXT = {
    "hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4, "vocab_size": 600,
    "max_position_embeddings": 77, "eos_token_id": 599, "bos_token_id": 598, "pad_token_id": 599,
}  # fmt: skip
IMAGE = {
    "hidden_size": 48, "intermediate_size": 96, "num_hidden_layers": 2, "num_attention_heads": 3, "image_size": 32,
    "patch_size": 8,
}  # fmt: skip


def peer(activation: str = "quick_gelu", projection: int = 24, text: Any = None, image: Any = None) -> Any:
    from transformers import CLIPConfig, CLIPModel

    more = {"hidden_act": activation}
    made = CLIPConfig(
        text_config=(text or TEXT) | more, vision_config=(image or IMAGE) | more, projection_dim=projection
    )
    model = CLIPModel(made).eval()
    randomise(model)
    return model


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    peer().save_pretrained(tmp_path / "clip")
    Tokenizer.train(["a cat in the snow and two red circles"], 600).save(tmp_path / "clip")
    return tmp_path / "clip"


def same(ours: Clip, theirs: Any, positions: int = 77) -> None:
    ids, pictures = ours.tokenizer(["a cat", "two red circles in the snow"]), noise(2, 3, *[ours.image.config.size] * 2)
    with torch.no_grad():
        assert difference(ours.text(ids).pooled, vector(theirs.get_text_features(input_ids=ids))).within
        assert difference(ours.image(pictures), vector(theirs.get_image_features(pixel_values=pictures))).within


def vector(found: Any) -> torch.Tensor:
    """transformers 5 gives an object where 4 gave the tensor."""
    return found if isinstance(found, torch.Tensor) else found.pooler_output


@pytest.mark.parametrize("activation", ["quick_gelu", "gelu"])
def test_transformers_clip_gives_the_same_vectors(activation: str, folder: Path) -> None:
    theirs = peer(activation)
    theirs.save_pretrained(folder)
    same(open_clip(folder), theirs)


def open_clip_names(state: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """transformers' state dict by OpenCLIP's names, written out apart from our key maps."""
    plain = {
        "text_model.embeddings.token_embedding.weight": "token_embedding.weight",
        "text_model.embeddings.position_embedding.weight": "positional_embedding",
        "text_model.final_layer_norm.weight": "ln_final.weight",
        "text_model.final_layer_norm.bias": "ln_final.bias",
        "vision_model.embeddings.class_embedding": "visual.class_embedding",
        "vision_model.embeddings.patch_embedding.weight": "visual.conv1.weight",
        "vision_model.embeddings.position_embedding.weight": "visual.positional_embedding",
        "vision_model.pre_layrnorm.weight": "visual.ln_pre.weight",
        "vision_model.pre_layrnorm.bias": "visual.ln_pre.bias",
        "vision_model.post_layernorm.weight": "visual.ln_post.weight",
        "vision_model.post_layernorm.bias": "visual.ln_post.bias",
        "logit_scale": "logit_scale",
    }
    made = {new: state[old] for old, new in plain.items()}
    made["text_projection"], made["visual.proj"] = (
        state[f"{half}_projection.weight"].T.contiguous() for half in ("text", "visual")
    )
    inner = {"layer_norm1": "ln_1", "layer_norm2": "ln_2", "mlp.fc1": "mlp.c_fc", "mlp.fc2": "mlp.c_proj"}
    for half, start in (("text_model", ""), ("vision_model", "visual.")):
        for layer in range(2):
            old, new = f"{half}.encoder.layers.{layer}", f"{start}transformer.resblocks.{layer}"
            for leaf in ("weight", "bias"):
                made |= {f"{new}.{b}.{leaf}": state[f"{old}.{a}.{leaf}"] for a, b in inner.items()}
                made[f"{new}.attn.out_proj.{leaf}"] = state[f"{old}.self_attn.out_proj.{leaf}"]
                three = [state[f"{old}.self_attn.{name}_proj.{leaf}"] for name in "qkv"]
                made[f"{new}.attn.in_proj_{leaf}"] = torch.cat(three)
    return made


@pytest.mark.parametrize("quick", [True, False])
@pytest.mark.parametrize("file", ["open_clip_model.safetensors", "open_clip_pytorch_model.bin"])
def test_open_clips_names_give_the_same_vectors(quick: bool, file: str, folder: Path) -> None:
    theirs = peer("quick_gelu" if quick else "gelu")
    state = open_clip_names(theirs.state_dict())
    for name in ("model.safetensors", "config.json"):
        (folder / name).unlink()
    said = {"vision_cfg": {"head_width": 16}, "text_cfg": {"heads": 4}} | ({"quick_gelu": True} if quick else {})
    (folder / "open_clip_config.json").write_text(json.dumps({"model_cfg": said}))
    if file.endswith(".bin"):
        torch.save(state, folder / file)
    else:
        save_file(state, folder / file)
    same(open_clip(folder), theirs)


def test_the_comparison_can_fail(folder: Path) -> None:
    theirs = peer()
    theirs.visual_projection.weight.data.mul_(1.001)
    with pytest.raises(AssertionError):
        same(open_clip(folder), theirs)


@pytest.mark.parametrize("lost", ["text_projection.weight", "vision_model.post_layernorm.bias", "logit_scale"])
def test_what_is_missing_is_named(lost: str, folder: Path) -> None:
    state = load_file(folder / "model.safetensors")
    del state[lost]
    save_file(state, folder / "model.safetensors")
    if lost == "logit_scale":  # which only training needs
        open_clip(folder)
        return
    with pytest.raises(UserError, match=lost):
        open_clip(folder)


def test_strange_folders_are_refused(folder: Path, tmp_path: Path) -> None:
    state = load_file(folder / "model.safetensors")
    for change, told in (
        (lambda: save_file(state | {"extra": torch.zeros(1)}, folder / "model.safetensors"), "extra has no place"),
        (lambda: save_file({"a": torch.zeros(1)}, folder / "model.safetensors"), "missing"),
        (lambda: (folder / "config.json").write_text('{"text_config": 3}'), "no text_config"),
        (lambda: (folder / "config.json").write_text("[]"), "JSON object"),
        (lambda: (folder / "config.json").unlink(), "with its JSON"),
        (lambda: (folder / "model.safetensors").write_bytes(b"x" * 99), "safetensors"),
    ):
        change()
        with pytest.raises(UserError, match=told):
            open_clip(folder)
    with pytest.raises(UserError, match="is no folder"):
        open_clip(tmp_path / "nowhere")
    bad = state["visual_projection.weight"].clone()
    bad[0, 0] = float("nan")
    peer().save_pretrained(folder)
    save_file(state | {"visual_projection.weight": bad}, folder / "model.safetensors")
    with pytest.raises(UserError, match="not finite"):
        open_clip(folder)


def test_another_models_tokenizer_is_refused(folder: Path) -> None:
    for name in ("tokenizer.json", "merges.txt", "vocab.json"):
        (folder / name).unlink(missing_ok=True)
    with pytest.raises(UserError, match="49,408 tokens"):
        open_clip(folder)


@pytest.mark.full
def test_clip_l_at_its_full_size(tmp_path: Path) -> None:
    text = TEXT | {"hidden_size": 768, "intermediate_size": 3072, "num_hidden_layers": 12, "num_attention_heads": 12}
    text |= {"vocab_size": 49408, "eos_token_id": 49407, "bos_token_id": 49406}
    image = {
        "hidden_size": 1024, "intermediate_size": 4096, "num_hidden_layers": 24, "num_attention_heads": 16,
        "image_size": 224, "patch_size": 14,
    }  # fmt: skip
    theirs = peer("quick_gelu", 768, text, image)
    theirs.save_pretrained(tmp_path)
    same(open_clip(tmp_path), theirs)
