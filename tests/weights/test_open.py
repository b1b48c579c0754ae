"""Opening and saving: the same model comes back from every format, mapped and not copied, checked and summed."""

import hashlib
import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, safe_open, save_file
from tests.weights.models import ODD, SMALL, random_model, same_weights

from aquatint.base.errors import UserError
from aquatint.families import POCKET
from aquatint.weights import Opened, inspect, open_model, plan, save
from aquatint.weights import open as opening
from aquatint.weights.store import TensorFile
from aquatint.weights.verify import verify

CASES = [(name, kind) for name in SMALL for kind in ("diffusers", "compvis")]
CASES += [("SD15", "native"), ("SD21_V", "native"), ("TINY", "native file")]


@pytest.mark.parametrize(("name", "kind"), CASES)
def test_save_then_open_is_the_same_model(
    name: str, kind: str, models: Callable[[str], Opened], tmp_path: Path
) -> None:
    model = models(name)
    path = tmp_path / ("model.safetensors" if kind in ("native file", "compvis") else "model")
    assert save(model, path, kind.split()[0]) == path
    again = open_model(path)
    assert same_weights(again, model)
    assert again.tokenizer.merges == model.tokenizer.merges
    assert again.tokenizer.pad == model.tokenizer.pad == again.family.text.pad
    assert replace(again.family, name="", defaults=model.family.defaults) == replace(model.family, name="")
    assert again.family.defaults.width == 64
    assert again.name == path.name
    assert not any(parameter.requires_grad for parameter in again.unet.parameters())
    assert not again.unet.training
    if kind != "diffusers":
        assert again.family == model.family


def test_a_model_has_one_digest_in_every_format(saved: Callable[[str], Path]) -> None:
    digests = {open_model(saved(kind)).digest for kind in ("native", "diffusers", "compvis")}
    assert len(digests) == 1
    assert len(digests.pop()) == 64


def test_the_pocket_model_goes_to_shards_and_back(models: Callable[[str], Opened], tmp_path: Path) -> None:
    model = models("POCKET")
    path = save(model, tmp_path / "pocket", dtype=torch.float16, shard_size=200_000)
    shards = sorted(path.glob("*.safetensors"))
    assert len(shards) > 3
    assert all(shard.stat().st_size < 300_000 for shard in shards)
    assert json.loads((path / "model.safetensors.index.json").read_text())["metadata"]["total_size"] == sum(
        2 * tensor.numel() for part in (model.unet, model.autoencoder, model.text) for tensor in part.parameters()
    )
    again = open_model(path)
    assert again.unet.enter.weight.dtype == torch.float32
    assert torch.equal(again.unet.enter.weight, model.unet.enter.weight.half().float())
    assert again.family == model.family
    assert inspect(path).parts[0].dtypes == {"F16": len(model.unet.state_dict())}
    assert set(json.loads((path / "manifest.json").read_text())) >= {shards[0].name, "tokenizer/merges.txt"}


def test_the_carried_model_is_opened_without_a_name(
    models: Callable[[str], Opened], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(opening.resources, "files", lambda package: tmp_path)
    with pytest.raises(UserError, match="carries no model"):
        open_model()
    save(models("POCKET"), tmp_path / "pocket", dtype=torch.float16, shard_size=200_000)
    again = open_model()
    assert again.name == "pocket"
    assert again.tokenizer.merges == models("POCKET").tokenizer.merges
    assert inspect().complete


def test_float32_weights_are_the_mapped_file(tiny: Opened, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """No parameter has memory of its own: each begins inside the mapping of the file that it came from."""
    path = save(tiny, tmp_path / "model.safetensors", "compvis")
    mapped: list[TensorFile] = []
    made = TensorFile.__init__

    def remember(self: TensorFile, path: Path) -> None:
        made(self, path)
        mapped.append(self)

    monkeypatch.setattr(TensorFile, "__init__", remember)
    again = open_model(path)
    (file,) = mapped
    begin = torch.frombuffer(file._mapped.bytes, dtype=torch.uint8).data_ptr()
    for net in (again.unet, again.autoencoder, again.text):
        for name, parameter in net.named_parameters():
            assert begin < parameter.data_ptr() < begin + file.size, name
    again.unet.enter.weight.data.fill_(7.0)  # a private mapping: the file is not written to
    assert same_weights(open_model(path), tiny)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_opening_in_another_number_format(dtype: torch.dtype, saved: Callable[[str], Path], tiny: Opened) -> None:
    again = open_model(saved("compvis"), dtype=dtype)
    assert all(parameter.dtype == dtype for parameter in again.unet.parameters())
    assert torch.equal(again.text.words.weight, tiny.text.words.weight.to(dtype))
    assert again.digest == open_model(saved("compvis")).digest


def test_weights_stored_in_any_float_format_are_read(
    tiny: Opened, saved: Callable[[str], Path], tmp_path: Path
) -> None:
    file = load_file(saved("compvis"))
    kinds = [torch.float64, torch.float16, torch.bfloat16, torch.float8_e4m3fn, torch.float8_e5m2]
    mixed = {name: value.to(kinds[index % len(kinds)]) for index, (name, value) in enumerate(sorted(file.items()))}
    header = {"aquatint": safe_open(saved("native") / "model.safetensors", "pt").metadata()["aquatint"]}
    description = json.loads(header["aquatint"]) | {"digest": ""}
    save_file(mixed, tmp_path / "mixed.safetensors", {"aquatint": json.dumps(description)})
    shutil.copytree(saved("compvis").with_suffix(".tokenizer"), tmp_path / "mixed.tokenizer")
    with pytest.raises(UserError, match="is damaged"):
        open_model(tmp_path / "mixed.safetensors")
    found = plan.find(tmp_path / "mixed.safetensors", source="mixed")
    nets = opening._nets(found, torch.float32, opening.as_it_is)
    assert nets["unet"].time.enter.bias.dtype == torch.float32  # type: ignore[union-attr]
    stored = mixed["model.diffusion_model.time_embed.0.weight"]
    assert torch.equal(nets["unet"].time.enter.weight, stored.float())  # type: ignore[union-attr]


def test_digests_tell_models_apart(tiny: Opened, tmp_path: Path) -> None:
    one = open_model(save(tiny, tmp_path / "one"))
    changed = random_model(tiny.family)
    changed.autoencoder.quant.bias.data[3] = torch.nextafter(changed.autoencoder.quant.bias[3], torch.tensor(1.0))
    two = open_model(save(changed, tmp_path / "two"))
    assert one.digest != two.digest  # one bit of one weight
    assert open_model(tmp_path / "one", prediction="v").digest != one.digest  # it paints something else
    renamed = replace(tiny, family=replace(tiny.family, name="renamed", defaults=POCKET.defaults))
    assert open_model(save(renamed, tmp_path / "three")).digest == one.digest


def bare(path: Path, metadata: dict[str, str] | None = None) -> str:
    """A single file whose shapes tell the family and whose header promises nothing of ours; its digest."""
    whole = path.with_name(f"whole-{path.stem}.safetensors")
    if not whole.exists():
        save(random_model(ODD), whole, "compvis")
    tensors = load_file(whole)
    save_file(tensors, path, metadata) if path.suffix == ".safetensors" else torch.save({"state_dict": tensors}, path)
    return open_model(whole).digest


@pytest.mark.parametrize("kind", ["safetensors", "ckpt"])
def test_a_digest_counted_later_is_that_of_the_file(kind: str, models: Callable[[str], Opened], tmp_path: Path) -> None:
    """It is counted aside, or when somebody asks, whatever became of the nets meanwhile."""
    path = tmp_path / f"model.{kind}"
    known = bare(path)
    changed, aside = open_model(path), open_model(path)
    for parameter in changed.unet.parameters():
        parameter.data.add_(1.0)
    aside.counted.begin()
    assert changed.digest == aside.digest == known


def test_verifying_reads_everything(saved: Callable[[str], Path], tmp_path: Path) -> None:
    path = tmp_path / "model.safetensors"
    known = bare(path)
    body = path.read_bytes()
    body = body[8 + int.from_bytes(body[:8], "little") :]
    bare(path, {"modelspec.hash_sha256": "0x" + hashlib.sha256(body).hexdigest()})
    assert verify(path) == {"digest": known, "sha256": hashlib.sha256(path.read_bytes()).hexdigest()}
    bare(path, {"modelspec.hash_sha256": "0x" + "ab" * 32})
    with pytest.raises(UserError, match="its header says abababab"):
        verify(path)
    assert verify(saved("diffusers")).keys() == {"digest"}


def test_a_flipped_bit_is_noticed(saved: Callable[[str], Path], tmp_path: Path) -> None:
    for kind, name in (("native", "model/model.safetensors"), ("compvis", "model.safetensors")):
        folder = tmp_path / kind
        source = saved(kind)
        if source.is_dir():
            shutil.copytree(source, folder / "model")
        else:
            folder.mkdir()
            shutil.copy(source, folder)
            shutil.copytree(source.with_suffix(".tokenizer"), folder / "model.tokenizer")
        data = bytearray((folder / name).read_bytes())
        data[-1001] ^= 1
        (folder / name).write_bytes(data)
        with pytest.raises(UserError, match="is damaged: its weights are not those"):
            open_model(folder / name.split("/")[0])


def test_saving_twice_gives_the_same_bytes(tiny: Opened, saved: Callable[[str], Path], tmp_path: Path) -> None:
    save(tiny, tmp_path / "again.safetensors", "compvis")
    assert (tmp_path / "again.safetensors").read_bytes() == saved("compvis").read_bytes()


def test_the_tokenizer_is_looked_for(tiny: Opened, saved: Callable[[str], Path], tmp_path: Path) -> None:
    alone = tmp_path / "alone.safetensors"
    shutil.copy(saved("compvis"), alone)
    with pytest.raises(UserError, match="no tokenizer of that size"):
        open_model(alone)
    tiny.tokenizer.save(tmp_path / "words")
    assert open_model(alone, tokenizer=tmp_path / "words").tokenizer.merges == tiny.tokenizer.merges
    random_model(SMALL["TINY"]).tokenizer.save(tmp_path / "tokenizer")  # a stranger's, of another size
    with pytest.raises(UserError, match="no tokenizer of that size"):
        open_model(alone)  # it is passed over
    with pytest.raises(UserError, match="1024 tokens, and the text encoder 600"):
        open_model(alone, tokenizer=tmp_path / "tokenizer")
    shutil.copytree(tmp_path / "words", tmp_path / "alone.tokenizer")
    assert open_model(alone).tokenizer.merges == tiny.tokenizer.merges


def test_an_inspection_reads_no_weights(saved: Callable[[str], Path], monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(self: TensorFile, name: str) -> torch.Tensor:
        raise AssertionError(name)

    monkeypatch.setattr(TensorFile, "tensor", refuse)
    for kind in ("native", "diffusers", "compvis"):
        shown = inspect(saved(kind))
        assert shown.complete
        assert shown.format == kind
        data = json.loads(json.dumps(shown.data()))
        assert data["parts"]["unet"]["found"] == data["parts"]["unet"]["needed"] == 686
        assert data["family"]["text"]["width"] == 24
        assert "686 of 686 tensors" in str(shown)


@pytest.mark.parametrize("format", ["native", "diffusers", "compvis"])
def test_weights_laid_out_on_the_way_are_those_laid_out_afterwards(format: str, saved: Callable[[str], Path]) -> None:
    from aquatint.engines import plain

    plainly, prepared = open_model(saved(format)), open_model(saved(format), lay=plain.laid)
    assert prepared.digest == plainly.digest
    kernels = 0
    for part in ("unet", "autoencoder", "text"):
        before = getattr(prepared, part).state_dict()
        plain.prepare(getattr(plainly, part))
        for name, tensor in getattr(plainly, part).state_dict().items():
            assert torch.equal(before[name], tensor)
            assert before[name].stride() == tensor.stride()
            kernels += tensor.ndim == 4 and not tensor.is_contiguous()
    assert kernels > 30
