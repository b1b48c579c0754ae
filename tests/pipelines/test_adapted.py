"""LoRAs and embeddings in pictures: what they change, what they leave, what is recorded."""

import hashlib
import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from tests.fixtures import tiny_bundle
from torch import Tensor, nn

from aquatint.base import config
from aquatint.base.errors import UserError
from aquatint.families import TINY
from aquatint.nets.adapters import Adapter, Decomposed, LowRank
from aquatint.pipelines.adapted import adapted, extracted, merged, notes, with_embeddings
from aquatint.pipelines.bundle import Bundle, load, save
from aquatint.pipelines.generate import generate
from aquatint.pipelines.lora import Lora, checked
from aquatint.pipelines.picture import Picture
from aquatint.pipelines.record import record_from
from aquatint.pipelines.request import Request
from aquatint.pipelines.shelf import shelf
from aquatint.weights.adapter_names import nets
from aquatint.weights.keymap import shapes
from aquatint.weights.lora_writer import save_lora
from aquatint.weights.loras import Adapters

NAMES = ("ink", "oil", "wax")


def noise(*shape: int, seed: int) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed + sum(shape)))


def adapters(seed: int, *, dora: bool = False) -> Adapters:
    made: Adapters = {}
    for net, family in nets(TINY).items():
        for name, shape in shapes(family).items():
            if ".among." in name and len(shape) == 2:
                adapter: Adapter = LowRank(noise(2, shape[1], seed=seed), noise(shape[0], 2, seed=seed + 1), scale=0.2)
                adapter = Decomposed(adapter, noise(shape[0], seed=seed).abs()) if dora else adapter
                made.setdefault(net, {})[name] = adapter
    return made


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("loras")
    for seed, name in enumerate(NAMES):
        save_lora(folder / f"{name}.safetensors", adapters(seed, dora=name == "wax"), TINY)
    (folder / "deep").mkdir()
    save_lora(folder / "deep" / "down.safetensors", adapters(9), TINY)
    return folder


@pytest.fixture
def bundle(folder: Path) -> Bundle:
    return replace(tiny_bundle(), shelf=shelf(folder=folder))


def digest(*modules: nn.Module) -> str:
    sums = hashlib.sha256()
    for module in modules:
        for tensor in module.state_dict().values():
            sums.update(tensor.numpy().tobytes())
    return sums.hexdigest()


def painted(bundle: Bundle, prompt: str = "a red apple", **wishes: object) -> Picture:
    *_, last = generate(bundle, Request(prompt, steps=2, **wishes))  # type: ignore[arg-type]
    assert last.picture is not None
    return last.picture


def bits(picture: Picture) -> bytes:
    return picture.image.tobytes()


def test_a_lora_changes_the_picture_and_not_the_bundle(bundle: Bundle) -> None:
    before, plain = digest(bundle.unet, bundle.text), bits(painted(bundle))
    assert bits(painted(bundle, loras=(Lora("ink"),))) != plain
    with pytest.raises(UserError):
        painted(bundle, loras=(Lora("ink"), Lora("nobody")))
    assert bits(painted(bundle)) == plain
    assert digest(bundle.unet, bundle.text) == before


def test_weight_zero_is_without_bit_for_bit(bundle: Bundle) -> None:
    plain = bits(painted(bundle))
    assert bits(painted(bundle, loras=(Lora("ink", 0.0), Lora("wax", -0.0)))) == plain
    assert bits(painted(bundle, loras=(Lora("ink", 1.0, 0.0),))) != bits(painted(bundle, loras=(Lora("ink", 1.0),)))
    assert bits(painted(bundle, loras=(Lora("ink", 0.0, 1.0),))) != plain


def test_the_order_does_not_matter(bundle: Bundle) -> None:
    loras = Lora("ink", 0.7), Lora("oil", -0.4), Lora("wax", 0.3), Lora("ink", 0.1)
    first = painted(bundle, loras=loras)
    assert bits(painted(bundle, loras=loras[::-1])) == bits(first)
    assert bits(painted(bundle, loras=(loras[2], loras[0], loras[3], loras[1]))) == bits(first)
    assert bits(painted(bundle, loras=loras[:3])) != bits(first)


def test_tags_are_loras(bundle: Bundle) -> None:
    tagged = painted(bundle, "a red apple <lora:ink:0.5:0.25><lyco:down:2>")
    named = painted(bundle, "a red apple ", loras=(Lora("ink", 0.5, 0.25), Lora("down", 2.0)))
    assert bits(tagged) == bits(named)
    assert tagged.record.files == named.record.files
    with pytest.raises(UserError, match='Did you mean "ink"'):
        painted(bundle, "a red apple <lora:inc>")
    bare = tiny_bundle()
    request = Request("a red apple <lora:ink>")
    assert bits(painted(bare, "a red apple <lora:ink>")) == bits(painted(bare, "a red apple"))
    assert notes(bare, request) == ['The LoRA "ink" is left out: no file or folder of LoRAs was given.']
    assert not notes(bundle, request)
    assert not notes(bare, replace(request, grammar="plain"))


@pytest.mark.parametrize(
    "name", ["../ink", "deep/down", "/etc/passwd", "a\\b", "", " ", "x\0", "n" * 300, "a/", " ink"]
)
def test_names_are_not_paths(name: str) -> None:
    with pytest.raises(UserError, match="without folder"):
        Lora(name)


@pytest.mark.parametrize("name", ["..", ".", "~", "*", "ink.safetensors", "INK", "deep"])
def test_names_never_leave_the_folder(bundle: Bundle, name: str) -> None:
    with pytest.raises(UserError, match="is not known"):
        painted(bundle, loras=(Lora(name),))


def test_links_out_of_the_folder_are_refused(bundle: Bundle, folder: Path, tmp_path: Path) -> None:
    (tmp_path / "out.safetensors").symlink_to(folder / "ink.safetensors")
    (tmp_path / "twin").mkdir()
    for name in ("a", "twin/a"):
        (tmp_path / f"{name}.safetensors").write_bytes((folder / "ink.safetensors").read_bytes())
    away = replace(bundle, shelf=shelf(folder=tmp_path))
    with pytest.raises(UserError, match="leads out"):
        painted(away, loras=(Lora("out"),))
    with pytest.raises(UserError, match="may be"):
        painted(away, loras=(Lora("a"),))


@pytest.mark.parametrize(
    "wishes",
    [
        {"weight": float("nan")},
        {"weight": 1e9},
        {"weight": "1"},
        {"weight": True},
        {"text_weight": float("inf")},
        {"blocks": (("IN01",),)},
        {"blocks": (("IN01", 1.0), ("in01", 2.0))},
    ],
)
def test_odd_strengths(wishes: dict[str, object]) -> None:
    with pytest.raises(UserError):
        config.from_data(Lora, {"name": "ink", **wishes})


def test_odd_lists() -> None:
    for loras in ("ink", 5, [5], Lora("ink"), ["x"] * 65):
        with pytest.raises(UserError):
            checked(loras)
    assert checked(["ink", Lora("oil")]) == (Lora("ink"), Lora("oil"))


def test_blocks(bundle: Bundle) -> None:
    whole = adapted(bundle, (Lora("ink"),)).bundle.unet.state_dict()
    half = adapted(bundle, (Lora("ink", blocks=(("m00", 0.0),)),)).bundle.unet.state_dict()
    base = bundle.unet.state_dict()
    for name in adapters(0)["unet"]:
        assert torch.equal(half[name], base[name] if name.startswith("middle.") else whole[name])
    with pytest.raises(UserError, match="IN77"):
        painted(bundle, loras=(Lora("ink", blocks=(("IN77", 1.0),)),))


def test_records_name_files_by_digest(bundle: Bundle, folder: Path) -> None:
    picture = painted(bundle, "an apple <lora:oil>", loras=(Lora("ink", 0.5),))
    files = {file.name: file for file in picture.record.files}
    for name in ("ink", "oil"):
        data = (folder / f"{name}.safetensors").read_bytes()
        assert files[name].sha256 == hashlib.sha256(data).hexdigest()
        tensors = data[8 + int.from_bytes(data[:8], "little") :]
        assert files[name].hash == hashlib.sha256(tensors).hexdigest()
    text = config.to_json(picture.record)
    assert record_from(text) == picture.record
    assert str(folder) not in text
    said = picture.metadata()["parameters"]
    assert f'Lora hashes: "ink: {files["ink"].hash[:12]}, oil: {files["oil"].hash[:12]}"' in said
    assert "files" in json.loads(text)


def test_partial_is_asked_for(bundle: Bundle, tmp_path: Path) -> None:
    path = save_lora(tmp_path / "half.safetensors", adapters(0), TINY)
    from safetensors.torch import load_file

    save_file({**load_file(path), "lora_unet_nowhere.alpha": torch.ones(1)}, path)
    with pytest.raises(UserError, match="no layer of TINY"):
        painted(replace(bundle, shelf=shelf([path])), loras=(Lora("half"),))
    lenient = replace(bundle, shelf=shelf([path], partial=True))
    assert painted(lenient, loras=(Lora("half"),)).record.files
    assert notes(lenient, Request("a", loras=(Lora("half"),))) == ['"half": unet.nowhere is no layer of TINY.']


def test_shelves(tmp_path: Path, folder: Path) -> None:
    with pytest.raises(UserError, match="no file"):
        shelf([tmp_path / "nowhere.safetensors"])
    with pytest.raises(UserError, match="no folder"):
        shelf(folder=tmp_path / "nowhere")
    with pytest.raises(UserError, match="Two files"):
        shelf([folder / "ink.safetensors", tmp_path / ".." / folder.name / "ink.safetensors", folder])
    assert not shelf()
    assert shelf([folder / "ink.safetensors"]).find("ink") == folder / "ink.safetensors"
    with pytest.raises(UserError, match="None was opened"):
        shelf().find("ink")


def test_merged_is_a_model_of_its_own(bundle: Bundle, tmp_path: Path) -> None:
    loras = Lora("ink", 0.5), Lora("wax", 0.3)
    made = merged(bundle, loras)
    assert digest(made.unet, made.text) == digest(
        *[getattr(adapted(bundle, loras).bundle, net) for net in ("unet", "text")]
    )
    ours = {tensor.data_ptr() for tensor in bundle.unet.state_dict().values()}
    assert not ours & {tensor.data_ptr() for tensor in made.unet.state_dict().values()}
    again = load(save(made, tmp_path / "model"), device="cpu", threads=1)
    assert again.digest == made.digest != bundle.digest
    assert bits(painted(made)) == bits(painted(bundle, loras=loras))
    assert digest(again.unet, again.text) == digest(made.unet, made.text)
    assert made.name == "tiny+ink+wax"


def test_extracted_leads_back(bundle: Bundle, tmp_path: Path) -> None:
    tuned = merged(bundle, (Lora("ink", 0.5),))
    found = extracted(bundle, tuned, 2)
    assert found.kept > 1 - 1e-6
    assert not found.left
    save_lora(tmp_path / "back.safetensors", found.adapters, TINY)
    back = adapted(replace(bundle, shelf=shelf([tmp_path / "back.safetensors"])), (Lora("back"),)).bundle
    for name, tensor in tuned.unet.state_dict().items():
        assert torch.allclose(back.unet.state_dict()[name], tensor, atol=1e-5)
    assert extracted(bundle, tuned, 1).kept < found.kept
    with pytest.raises(UserError, match="same weights"):
        extracted(bundle, bundle, 2)


def test_embeddings_are_words(tmp_path: Path) -> None:
    bare = tiny_bundle()
    save_file({"emb_params": noise(2, 32, seed=0)}, tmp_path / "inky.safetensors")
    save_file({"<b>": noise(1, 32, seed=1)}, tmp_path / "b.safetensors")
    bundle = with_embeddings(bare, [tmp_path / "inky.safetensors", tmp_path / "b.safetensors"])
    assert set(bundle.embeddings) == {"inky", "b", "<b>"}
    assert not bare.embeddings
    picture = painted(bundle, "a red inky apple")
    assert bits(picture) != bits(painted(bare, "a red inky apple"))
    assert bits(painted(bundle, "a red apple")) == bits(painted(bare, "a red apple"))
    (file,) = picture.record.files
    assert (file.kind, file.name) == ("embedding", "inky")
    assert file.sha256 == hashlib.sha256((tmp_path / "inky.safetensors").read_bytes()).hexdigest()
    assert f'TI hashes: "inky: {file.sha256[:12]}"' in picture.metadata()["parameters"]
    assert not painted(bundle, "a red apple").record.files
    assert painted(bundle, "an apple", negative="inky").record.files == (file,)
    (tmp_path / "other").mkdir()
    save_file({"emb_params": noise(2, 32, seed=5)}, tmp_path / "other" / "inky.safetensors")
    with pytest.raises(UserError, match="Two files teach"):
        with_embeddings(bundle, [tmp_path / "other" / "inky.safetensors"])
    save_file({"emb_params": noise(2, 768, seed=5)}, tmp_path / "wide.safetensors")
    with pytest.raises(UserError, match="width 768"):
        with_embeddings(bare, [tmp_path / "wide.safetensors"])
