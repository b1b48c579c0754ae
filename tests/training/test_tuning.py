"""Fine-tuning on small things: only what is meant to learn does, it learns, and what it learned is what files say."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from PIL import Image
from tests.fixtures import tiny_bundle

from aquatint.base.errors import UserError
from aquatint.base.noise import Noise
from aquatint.families import TINY, TINY_XL
from aquatint.nets.lora import Change, attach
from aquatint.pipelines.bundle import Bundle
from aquatint.pipelines.encode import tell
from aquatint.pipelines.micro import with_micro
from aquatint.pipelines.prompt import parse
from aquatint.pipelines.request import Request
from aquatint.training.loop import Run, train
from aquatint.training.objectives.diffusion import Aim, Denoising
from aquatint.training.recipe import Moment, Optim, Recipe, Share
from aquatint.training.tuning import Full, Inversion, LoRA, full, inversion, lora
from aquatint.weights.embeddings import fit_embedding, open_embedding, save_embedding
from aquatint.weights.lora_writer import save_lora
from aquatint.weights.loras import fit, open_lora

FAST = Optim(lr=1e-2, warmup=2)


@pytest.fixture
def data(tmp_path: Path) -> str:
    folder = tmp_path / "pictures"
    folder.mkdir()
    for index in range(3):
        Image.new("RGB", (64, 64), (80 * index, 20, 120)).save(folder / f"{index}.png")
    return str(folder)


def weights(bundle: Bundle) -> dict[str, torch.Tensor]:
    nets = {"unet": bundle.unet, "text": bundle.text, "autoencoder": bundle.autoencoder}
    return {f"{part}.{name}": t.clone() for part, net in nets.items() for name, t in net.state_dict().items()}


def errors(recipe: Recipe) -> float:
    """The recipe's loss over 64 samples of other numbers than it learns from."""

    batches = [recipe.batch(Moment(10_000 + step, 0.0), Share()) for step in range(16)]
    with torch.no_grad():
        found = [
            next(recipe.objective.losses(batch, Moment(0, 0.0), Noise([9] * 4, range(4 * step, 4 * step + 4)))).value
            for step, batch in enumerate(batches)
        ]
    return float(torch.stack(found).mean())


@pytest.mark.parametrize("text", [False, True])
def test_a_lora_learns_and_the_model_stays(text: bool, data: str, tmp_path: Path) -> None:
    bundle = tiny_bundle()
    before = weights(bundle)
    tuned = lora(bundle, LoRA(data=data, words="a red apple", steps=40, rank=4, reach="all", text=text, optim=FAST))
    first = errors(tuned.recipe)
    learned = tuned.learned(train(tuned.recipe, tmp_path / "run"))
    assert errors(tuned.recipe) < 0.97 * first
    assert all(torch.equal(tensor, before[name]) for name, tensor in weights(bundle).items())
    assert set(learned.adapters) == ({"unet", "text"} if text else {"unet"})
    for net, adapters in learned.adapters.items():
        attached = attach(getattr(bundle, net), {name: [Change(adapter)] for name, adapter in adapters.items()})
        for name in adapters:
            assert not torch.equal(attached.get_parameter(name), before[f"{net}.{name}"]), name


def test_a_word_learns_alone(data: str, tmp_path: Path) -> None:
    bundle = tiny_bundle()
    before = weights(bundle)
    settings = Inversion(data=data, word="zorb", like="apple", vectors=2, steps=30, optim=FAST)
    tuned = inversion(bundle, settings)
    numbers = sum(weight.numel() for weight in tuned.recipe.objective.players["unet"].parameters())
    assert numbers == 2 * TINY.text.width
    first = errors(tuned.recipe)
    (vectors,) = tuned.learned(train(tuned.recipe, tmp_path / "run")).vectors["zorb"]
    assert errors(tuned.recipe) < first
    assert all(torch.equal(tensor, before[name]) for name, tensor in weights(bundle).items())
    start = bundle.text.words.weight[bundle.tokenizer.ids("apple")].mean(dim=0)
    assert vectors.shape == (2, TINY.text.width)
    assert (vectors - start).abs().max() > 0.01


@pytest.mark.parametrize("text", [False, True])
def test_the_whole_net_learns(text: bool, data: str, tmp_path: Path) -> None:
    bundle = tiny_bundle()
    before = weights(bundle)
    optim = replace(FAST, lr=1e-3)
    tuned = full(bundle, Full(data=data, words="a red apple", steps=20, text=text, optim=optim))
    nets = tuned.learned(train(tuned.recipe, tmp_path / "run")).nets
    assert set(nets) == ({"unet", "text"} if text else {"unet"})
    moved = {name.split(".")[0] for name, tensor in weights(bundle).items() if not torch.equal(tensor, before[name])}
    assert moved == set(nets)
    assert not any(weight.requires_grad for net in nets.values() for weight in net.parameters())


@pytest.mark.parametrize("kind", ["lora", "inversion", "full"])
def test_both_encoders_of_stable_diffusion_xl(kind: str, data: str, tmp_path: Path) -> None:
    bundle = tiny_bundle(TINY_XL)
    assert bundle.text2 is not None
    how: dict[str, object] = {"data": data, "words": "a zorb", "steps": 12, "optim": FAST}
    if kind == "lora":
        tuned = lora(bundle, LoRA(**how, text=True))  # type: ignore[arg-type]
    elif kind == "inversion":
        tuned = inversion(bundle, Inversion(**how, word="zorb"))  # type: ignore[arg-type]
    else:
        tuned = full(bundle, Full(**how | {"optim": replace(FAST, lr=1e-3)}, text=True))  # type: ignore[arg-type]
    first = errors(tuned.recipe)
    learned = tuned.learned(train(tuned.recipe, tmp_path / "run"))
    assert errors(tuned.recipe) < first
    if kind == "lora":
        assert set(learned.adapters) == {"unet", "text", "text2"}
        path = save_lora(tmp_path / "xl.safetensors", learned.adapters, TINY_XL)
        assert set(fit(open_lora(path), TINY_XL).adapters) == {"unet", "text", "text2"}
    elif kind == "inversion":
        assert [row.shape for row in learned.vectors["zorb"]] == [
            (1, TINY_XL.text.width),
            (1, bundle.text2.config.width),
        ]
        path = save_embedding(tmp_path / "zorb.safetensors", "zorb", learned.vectors["zorb"])
        found = fit_embedding(open_embedding(path), TINY_XL)["zorb"]
        assert all(torch.equal(one, other) for one, other in zip(found, learned.vectors["zorb"], strict=True))
    else:
        assert set(learned.nets) == {"unet", "text", "text2"}


LONG = ("red apples, two cats, a blue background, " * 5 + "in the snow, ") * 3 + "at night, two cats"


@pytest.mark.parametrize("words", ["a zorb", LONG, LONG.replace(",", " of"), "a, " + LONG.replace(",", "")])
def test_the_net_is_told_what_painting_tells_it(words: str, data: str) -> None:
    """Texts and sizes of a training batch reach the net of Stable Diffusion XL as those of a request do."""
    bundle = tiny_bundle(TINY_XL)
    recipe = lora(bundle, LoRA(data=data, words=words, silent=0.0, flip=False, chunks=4)).recipe
    objective = recipe.objective
    assert isinstance(objective, Denoising)
    with torch.no_grad():
        said = objective.tell(recipe.batch(Moment(0, 0.0), Share()))
    asked = Request(words, width=64, height=64).resolved(TINY_XL)
    (told,) = with_micro(tell(bundle, parse(words, "a1111", steps=4), parse("", "a1111", steps=4)), asked, TINY_XL)
    ((_, wanted),) = told.positives
    assert wanted.vector is not None
    torch.testing.assert_close(said.tokens[:1], wanted.context, rtol=0, atol=1e-5)
    torch.testing.assert_close(said.pooled[:1], wanted.vector, rtol=0, atol=1e-5)


def test_a_run_goes_on_to_the_bit_and_only_with_its_own_settings(data: str, tmp_path: Path) -> None:
    settings = LoRA(data=data, words="a red apple", steps=8, optim=FAST, text=True)
    whole = lora(tiny_bundle(), settings)
    wanted = whole.learned(train(whole.recipe, tmp_path / "whole")).adapters
    cut = Run(lora(tiny_bundle(), settings).recipe, tmp_path / "cut")
    (tmp_path / "cut").mkdir()
    for _ in range(3):
        cut.take_step(cut.moment)
    cut.save()
    again = lora(tiny_bundle(), settings)
    found = again.learned(train(again.recipe, tmp_path / "cut")).adapters
    for net, rows in wanted.items():
        for name, adapter in rows.items():
            assert torch.equal(adapter.up, found[net][name].up)  # type: ignore[attr-defined]
    for change, told in (({"seed": 1}, "another seed"), ({"rank": 2}, "another settings")):
        with pytest.raises(UserError, match=told):
            Run(lora(tiny_bundle(), replace(settings, **change)).recipe, tmp_path / "cut")  # type: ignore[arg-type]
    with pytest.raises(UserError, match='recipe "lora"'):
        Run(full(tiny_bundle(), Full(data=data, words="x")).recipe, tmp_path / "cut")


def test_pictures_of_the_class_are_half_of_a_batch(data: str, tmp_path: Path) -> None:
    (tmp_path / "class").mkdir()
    Image.new("RGB", (64, 64), "white").save(tmp_path / "class" / "0.png")
    settings = LoRA(
        data=data, words="a sks apple", prior=str(tmp_path / "class"), prior_words="an apple", prior_weight=0.5
    )
    bundle = tiny_bundle()
    recipe = lora(bundle, replace(settings, silent=0.0)).recipe

    batch = recipe.batch(Moment(3, 0.0), Share())
    assert batch["counts"].tolist() == [1.0, 1.0, 0.5, 0.5]
    said = bundle.tokenizer(["a sks apple", "an apple"])
    assert [bool((row == said[0]).all()) for row in batch["ids"]] == [True, True, False, False]
    assert [bool((row == said[1]).all()) for row in batch["ids"]] == [False, False, True, True]
    parts = [recipe.batch(Moment(3, 0.0), Share(rank, 2)) for rank in (0, 1)]
    together = torch.cat([part["latents"] for part in parts])
    assert sorted(map(float, together.sum(dim=(1, 2, 3)))) == sorted(map(float, batch["latents"].sum(dim=(1, 2, 3))))


@pytest.mark.parametrize("kind", ["lora", "full"])
def test_recomputing_changes_nothing(kind: str, data: str, tmp_path: Path) -> None:
    found = []
    for again in (False, True):
        how: dict[str, object] = {"data": data, "words": "a zorb", "steps": 2, "optim": FAST, "text": True}
        if kind == "lora":
            tuned = lora(tiny_bundle(), LoRA(**how, recompute=again))  # type: ignore[arg-type]
        else:
            tuned = full(tiny_bundle(), Full(**how, recompute=again))  # type: ignore[arg-type]
        found.append(train(tuned.recipe, tmp_path / str(again))["unet"].state_dict())
    assert all(torch.equal(tensor, found[1][name]) for name, tensor in found[0].items())


def test_a_batch_in_parts_is_the_same_batch(data: str, tmp_path: Path) -> None:
    found = []
    for parts in (1, 4):
        settings = LoRA(data=data, words="a zorb", steps=3, batch=8, parts=parts, optim=FAST)
        found.append(train(lora(tiny_bundle(), settings).recipe, tmp_path / str(parts))["unet"].state_dict())
    for name, tensor in found[0].items():
        torch.testing.assert_close(found[1][name], tensor, rtol=1e-3, atol=1e-5)


def test_pictures_of_two_shapes_are_learned_in_buckets(data: str, tmp_path: Path) -> None:
    for index in range(3):
        Image.new("RGB", (64, 256), (0, 90 * index, 40)).save(Path(data) / f"tall{index}.png")
    settings = LoRA(data=data, words="a zorb", steps=4, size=128, buckets=True, optim=FAST, held=data)
    recipe = lora(tiny_bundle(), settings).recipe
    shapes = {tuple(recipe.batch(Moment(step, 0.0), Share())["latents"].shape) for step in range(8)}
    assert shapes == {(4, 4, 16, 16), (4, 4, 32, 8)}
    halves = [recipe.batch(Moment(1, 0.0), Share(rank, 2))["latents"] for rank in (0, 1)]
    assert torch.equal(torch.cat(halves), recipe.batch(Moment(1, 0.0), Share())["latents"])
    train(recipe, tmp_path / "run")
    with pytest.raises(UserError, match="buckets with a prior"):
        replace(settings, prior=data, prior_words="x")


def test_held_pictures_are_looked_at_and_not_learned_from(data: str, tmp_path: Path) -> None:
    held = tmp_path / "held"
    held.mkdir()
    for index in range(5):
        Image.new("RGB", (64, 64), (0, 60 * index, 200)).save(held / f"{index}.png")
    settings = LoRA(data=data, words="a zorb", steps=9, look=4, optim=FAST)
    alone = train(lora(tiny_bundle(), settings).recipe, tmp_path / "alone")["unet"].state_dict()
    recipe = lora(tiny_bundle(), replace(settings, held=str(held))).recipe
    watched = train(recipe, tmp_path / "watched")["unet"].state_dict()
    assert all(torch.equal(tensor, watched[name]) for name, tensor in alone.items())
    lines = [json.loads(line) for line in (tmp_path / "watched" / "log.jsonl").read_text().splitlines()]
    seen = [line for line in lines if "held" in line]
    assert [line["step"] for line in seen] == [4, 8, 9]
    assert all(f"held, t {low}-{low + 99}" in seen[0] for low in range(0, 1000, 100))
    assert seen[0]["held"] != seen[1]["held"]


@pytest.mark.parametrize(
    ("wrong", "told"),
    [
        ({"steps": 0}, "steps = 0"),
        ({"batch": 5000}, "batch = 5000"),
        ({"silent": 1.5}, "silent = 1.5"),
        ({"silent": float("nan")}, "silent = nan"),
        ({"unseen": -0.1}, "unseen = -0.1"),
        ({"size": 100}, "size = 100"),
        ({"recompute": True, "compile": True}, "recompute and compile"),
        ({"prior": "x"}, "one is missing"),
        ({"prior": "x", "prior_words": "y", "batch": 3}, "An even number"),
    ],
)
def test_settings_out_of_range(wrong: dict[str, object], told: str) -> None:
    with pytest.raises(UserError, match=told):
        LoRA(data="x", **wrong)  # type: ignore[arg-type]


def test_aims_out_of_range() -> None:
    for wrong in ({"offset": 2.0}, {"perturb": float("nan")}, {"huber": -1.0}, {"prediction": "noise"}):
        with pytest.raises(UserError):
            Aim(**wrong)  # type: ignore[arg-type]


def test_what_is_not_trained_here_is_refused(data: str) -> None:
    bundle = tiny_bundle()
    for family, told in (
        (replace(TINY, unet=replace(TINY.unet, guidance=256)), "not trained here"),
        (replace(TINY, unet=replace(TINY.unet, channels_in=7)), "takes 7 channels"),
    ):
        with pytest.raises(UserError, match=told):
            lora(replace(bundle, family=family), LoRA(data=data, words="x"))
    with pytest.raises(UserError, match="is no word"):
        inversion(bundle, Inversion(data=data, word="zorb", like=" "))
