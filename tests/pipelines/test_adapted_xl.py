"""Adapters on Stable Diffusion XL: LoRAs on the U-Net and both text encoders, words with vectors for each encoder."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from tests.fixtures import tiny_bundle
from tests.pipelines.test_adapted import bits, digest, noise, painted

from aquatint.base.errors import UserError
from aquatint.families import TINY_XL
from aquatint.nets.adapters import LowRank
from aquatint.pipelines.adapted import adapted, extracted, merged, with_embeddings
from aquatint.pipelines.bundle import Bundle, load, save
from aquatint.pipelines.lora import Lora
from aquatint.pipelines.shelf import shelf
from aquatint.weights.adapter_names import nets
from aquatint.weights.keymap import shapes
from aquatint.weights.lora_writer import save_lora
from aquatint.weights.loras import Adapters, fit, open_lora

NETS = ("unet", "text", "text2")
REFINER = replace(
    TINY_XL,
    text=TINY_XL.text2 or TINY_XL.text,
    text2=None,
    micro=("original", "crop", "aesthetic"),
    unet=replace(TINY_XL.unet, context=24, vector=1320),
)


def adapters(*wanted: str) -> Adapters:
    made: Adapters = {}
    for net in wanted:
        for seed, (name, shape) in enumerate(shapes(nets(TINY_XL)[net]).items()):
            if len(shape) == 2 and (".among." in name or "vector" in name):
                adapter = LowRank(noise(2, shape[1], seed=seed), noise(shape[0], 2, seed=seed + 1), scale=0.1)
                made.setdefault(net, {})[name] = adapter
    return made


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("loras")
    for net in NETS:
        save_lora(folder / f"{net}.safetensors", adapters(net), TINY_XL)
    for dialect in ("kohya", "diffusers"):
        save_lora(folder / f"{dialect}.safetensors", adapters(*NETS), TINY_XL, dialect)
    return folder


@pytest.fixture
def bundle(folder: Path) -> Bundle:
    return replace(tiny_bundle(TINY_XL), shelf=shelf(folder=folder))


def test_names_are_those_of_other_programs(folder: Path) -> None:
    kohya, diffusers = (set(load_file(folder / f"{name}.safetensors")) for name in ("kohya", "diffusers"))
    assert {name.split("_text_model")[0] for name in kohya if "_te" in name} == {"lora_te1", "lora_te2"}
    assert "lora_te2_text_model_encoder_layers_2_self_attn_q_proj.lora_down.weight" in kohya
    assert "lora_unet_add_embedding_linear_1.lora_up.weight" in kohya
    assert "text_encoder_2.text_model.encoder.layers.0.self_attn.out_proj.lora_A.weight" in diffusers
    assert {name.split(".")[0] for name in diffusers} == {"unet", "text_encoder", "text_encoder_2"}


@pytest.mark.parametrize("dialect", ["kohya", "diffusers"])
def test_every_layer_of_all_three_nets_is_found(dialect: str, folder: Path) -> None:
    found = fit(open_lora(folder / f"{dialect}.safetensors"), TINY_XL)
    assert found.account.complete
    assert found.account.matched == {net: len(rows) for net, rows in adapters(*NETS).items()}
    assert "second text encoder" in str(found.account)


def test_each_net_counts_and_the_bundle_stays(bundle: Bundle) -> None:
    assert bundle.text2 is not None
    whole = digest(bundle.unet, bundle.text, bundle.text2)
    plain = bits(painted(bundle))
    seen = {bits(painted(bundle, loras=(Lora(net),))) for net in NETS}
    assert len(seen | {plain}) == 4
    assert bits(painted(bundle, loras=(Lora("kohya"),))) not in seen
    for net in ("text", "text2"):
        assert bits(painted(bundle, loras=(Lora(net, 1.0, 0.0),))) == plain
    assert bits(painted(bundle, loras=(Lora("kohya", 1.0, 0.0),))) == bits(painted(bundle, loras=(Lora("unet"),)))
    assert bits(painted(bundle)) == plain
    assert digest(bundle.unet, bundle.text, bundle.text2) == whole


def test_both_dialects_and_the_merged_model_are_the_same(bundle: Bundle, tmp_path: Path) -> None:
    one, two = (adapted(bundle, [Lora(name)]).bundle for name in ("kohya", "diffusers"))
    for net in NETS:
        for (name, first), second in zip(
            getattr(one, net).state_dict().items(), getattr(two, net).state_dict().values(), strict=True
        ):
            assert torch.allclose(first, second, atol=1e-6), name
    made = merged(bundle, [Lora("kohya")])
    again = load(save(made, tmp_path / "merged", "diffusers"), device="cpu", dtype="float32", threads=1)
    assert again.digest == made.digest != bundle.digest
    plain = load(save(bundle, tmp_path / "plain"), device="cpu", dtype="float32", threads=1)
    plain = replace(plain, shelf=bundle.shelf)
    assert bits(painted(again)) == bits(painted(plain, loras=(Lora("kohya"),)))
    found = extracted(bundle, made, 2)
    assert set(found.adapters) == set(NETS)
    assert found.kept > 0.999


def test_a_second_encoders_layers_have_no_place_elsewhere(folder: Path) -> None:
    with pytest.raises(UserError, match="second text encoder, which TINY_XL has not"):
        fit(open_lora(folder / "text2.safetensors"), REFINER)


@pytest.fixture
def words(tmp_path: Path) -> Callable[..., Path]:
    def write(**tensors: torch.Tensor) -> Path:
        save_file(tensors, tmp_path / "ink.safetensors")
        return tmp_path / "ink.safetensors"

    return write


def test_a_word_with_vectors_for_each_encoder(bundle: Bundle, words: Callable[..., Path]) -> None:
    first, second = noise(2, 32, seed=1), noise(2, 24, seed=2)
    one = with_embeddings(bundle, [words(clip_l=first, clip_g=second)])
    plain = bundle.encode_text(["a ink cat"])
    said = one.encode_text(["a ink cat"])
    assert not torch.equal(said.context[..., :32], plain.context[..., :32])
    assert not torch.equal(said.context[..., 32:], plain.context[..., 32:])
    assert not torch.equal(said.vector, plain.vector)  # type: ignore[arg-type]
    other = replace(one, embeddings={"ink": (first, second + 1)})
    changed = other.encode_text(["a ink cat"])
    assert torch.equal(changed.context[..., :32], said.context[..., :32])
    assert not torch.equal(changed.context[..., 32:], said.context[..., 32:])
    picture = painted(one, "a ink cat")
    assert bits(picture) != bits(painted(bundle, "a ink cat"))
    assert [(file.kind, file.name) for file in picture.record.files] == [("embedding", "ink")]


def test_words_of_other_families_are_refused(bundle: Bundle, words: Callable[..., Path]) -> None:
    for tensors, told in (
        ({"clip_l": noise(2, 32, seed=1)}, "TINY_XL: 32, 24"),
        ({"clip_g": noise(2, 24, seed=1)}, "second text encoder"),
        ({"emb_params": noise(2, 32, seed=1)}, "TINY_XL"),
        ({"clip_l": noise(2, 32, seed=1), "clip_g": noise(3, 24, seed=1)}, "Equally many"),
    ):
        with pytest.raises(UserError, match=told):
            with_embeddings(bundle, [words(**tensors)])


def test_the_refiner_takes_its_encoders_vectors(words: Callable[..., Path]) -> None:
    one = with_embeddings(tiny_bundle(REFINER), [words(clip_l=noise(2, 32, seed=1), clip_g=noise(2, 24, seed=2))])
    assert [tuple(row.shape) for row in one.embeddings["ink"]] == [(2, 24)]
