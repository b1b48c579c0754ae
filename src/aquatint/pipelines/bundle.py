"""A Bundle: the networks, their tokenizers and their family, ready to paint."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from PIL import Image
from torch import Tensor

from aquatint import weights
from aquatint.base import images, runtime
from aquatint.base.counted import Counted
from aquatint.base.errors import UserError
from aquatint.diffusion.denoisers import Conditioning
from aquatint.engines.choice import Engine, choose_engine
from aquatint.families import Family
from aquatint.nets.autoencoder import Autoencoder
from aquatint.nets.text import TextEncoder
from aquatint.nets.tokenizer import Tokenizer
from aquatint.nets.unet import UNet
from aquatint.pipelines.account import account_of
from aquatint.pipelines.adapted import with_embeddings
from aquatint.pipelines.encode import encode
from aquatint.pipelines.picture import Picture
from aquatint.pipelines.preview import Preview, fit
from aquatint.pipelines.record import File, Model
from aquatint.pipelines.refine import check_refiner
from aquatint.pipelines.request import Request
from aquatint.pipelines.shelf import Shelf, shelf
from aquatint.pipelines.steering import Controls, open_controls
from aquatint.pipelines.tools import with_tools
from aquatint.pipelines.vocabulary import Vocabulary
from aquatint.weights.open import as_it_is
from aquatint.weights.safety import OpenedChecker, open_safety
from aquatint.weights.tiny import Tiny
from aquatint.weights.values import file_of


@dataclass(frozen=True)
class Bundle:
    """Networks on one device, and what is known of them. Painting changes nothing in it.

    name, counted  for people, and the sha256 of the weights, counted when it is needed ("" if unknown)
    device, dtype  where the nets are and what they compute in; latents between steps are float32
    threads        how many threads share one operation while it paints;  engine: what runs the nets
    vocabulary     the words that a small model knows; None for a model that claims them all
    embeddings   words that were learned since (textual inversion): name -> word vectors [n, width] of each encoder
    learned      the files that they are from
    shelf        LoRAs that a request may name;  controls: ControlNets and their like
    upscalers    files of upscalers that a request may name;  tiny: a tiny autoencoder, for previews and quick decoding
    refiner      a second model, which goes on where a request says so (pipelines/refine.py)
    notes, texts   what was assumed when it was opened; the texts that came with the weights (modelspec.*)
    file           the sha256 of the one file that the weights are from, for records; None: they name none
    safety         the safety checker that requests may ask
    """

    unet: UNet
    autoencoder: Autoencoder
    text: TextEncoder
    tokenizer: Tokenizer
    family: Family
    name: str
    counted: Counted = field(default_factory=Counted)
    device: torch.device = field(default_factory=lambda: torch.device("cpu"))
    dtype: torch.dtype = torch.float32
    threads: int = field(default_factory=runtime.choose_threads)
    engine: Engine = field(default_factory=Engine)
    vocabulary: Vocabulary | None = None
    embeddings: Mapping[str, tuple[Tensor, ...]] = field(default_factory=dict)
    learned: Mapping[str, File] = field(default_factory=dict)
    shelf: Shelf = field(default_factory=Shelf)
    controls: Controls = field(default_factory=Controls)
    upscalers: Mapping[str, Path] = field(default_factory=dict)
    tiny: Tiny | None = None
    notes: tuple[str, ...] = ()
    texts: Mapping[str, str] = field(default_factory=dict)
    text2: TextEncoder | None = None
    tokenizer2: Tokenizer | None = None
    file: Counted | None = None
    safety: OpenedChecker | None = None
    refiner: "Bundle | None" = None

    @property
    def model(self) -> Model:
        """Which weights these are, for records; whoever asks first may wait for the digests."""
        return Model(self.name, self.digest, self.family.name, self.file.value if self.file else "")

    @property
    def digest(self) -> str:
        """The sha256 of the weights."""
        return self.counted.value

    def count(self) -> None:
        """Begin to count the digests that records need, aside: nobody is to wait for them when a picture is done."""
        self.counted.begin()
        if self.file is not None:
            self.file.begin()

    @property
    def key(self) -> runtime.Key:
        """What this bundle's pictures depend on besides weights and request."""
        return runtime.key(self.device, self.dtype, self.threads, self.engine.name)

    def latent_shape(self, width: int, height: int) -> tuple[int, int, int]:
        """(channels, height, width) of the latents of a picture of this size in pixels."""
        factor = self.autoencoder.config.factor
        return self.autoencoder.config.latents, height // factor, width // factor

    @property
    def encoders(self) -> tuple[tuple[TextEncoder, Tokenizer], ...]:
        """The text encoders, each with its tokenizer; the net is told all their tokens, side by side."""
        first = (self.text, self.tokenizer)
        return (first,) if self.text2 is None or self.tokenizer2 is None else (first, (self.text2, self.tokenizer2))

    def encode_text(
        self, prompts: Sequence[str], *, grammar: str = "a1111", clip_skip: int | None = None
    ) -> Conditioning:
        """Texts -> what the U-Net is told: context [b, n * 77, d], and their pooled vectors if it takes them; float32.

        n is the chunks that the longest text needs. See pipelines/encode.py.
        """
        return encode(self, prompts, grammar, clip_skip)

    def encode(self, pictures: Image.Image | Sequence[Image.Image]) -> Float[Tensor, "b c h8 w8"]:
        """Pictures of one size, sides multiples of 8 -> latents (the posterior's mean), float32."""
        with runtime.exact(self.device, self.threads):
            return self.autoencoder.encode(images.to_tensor(pictures).to(self.device))

    def decode(self, latents: Float[Tensor, "b c h8 w8"]) -> list[Image.Image]:
        """Latents -> pictures, one after the other, so that none depends on its company."""
        with runtime.exact(self.device, self.threads):
            return [picture for row in latents.split(1) for picture in images.to_pictures(self._decoded(row))]

    def preview(self, latents: Float[Tensor, "1 c h8 w8"]) -> Image.Image:
        """A quick picture of unfinished latents: the tiny autoencoder's where there is one, else one pixel a latent.

        The first call without one fits the map (one encoding).
        """
        if self.tiny is None:
            return self._preview(latents)
        with runtime.exact(self.device, self.threads):
            return images.to_pictures(torch.nan_to_num(self.tiny.net.decode(latents)))[0]

    def paint(self, prompt: str, *, seed: int = 0, **wishes: Any) -> Picture:
        """One picture: `bundle.paint("a cat under a rainbow", seed=7, steps=20)`; wishes are fields of Request."""
        from aquatint.pipelines.generate import generate  # which knows what a Bundle is

        if "seeds" in wishes:
            raise UserError("paint(seeds=...).", "paint(seed=...) makes one picture.", "generate() makes many.")
        *_, last = generate(self, Request(prompt, seeds=(seed,), **wishes))
        assert last.picture is not None, "a request's last progress brings its picture"
        return last.picture

    def note(self, prompt: str, grammar: str = "a1111") -> str | None:
        """What the prompt says that this model cannot hear: words it has not learned, what its grammar cannot read."""
        account = account_of(self, prompt, grammar)
        unknown = self.vocabulary.note(account.words) if self.vocabulary else None
        return " ".join(part for part in (unknown, *account.told()) if part) or None

    @cached_property
    def _preview(self) -> Preview:
        with runtime.exact(self.device, self.threads):
            return fit(self.autoencoder, self.device)

    def _decoded(self, latents: Float[Tensor, "1 c h8 w8"]) -> Float[Tensor, "1 3 h w"]:
        return finite(self.autoencoder.decode(latents), "decoder", self)


class NonFiniteError(UserError):
    """A network gave a value that is not a number or not finite; no picture is made from such."""

    def __init__(self, place: str, bundle: Bundle) -> None:
        half = bundle.dtype is not torch.float32
        super().__init__(
            f'The {place} of "{bundle.name}" gave values that are not finite numbers.',
            "Sound weights, and numbers within the range of the dtype.",
            "Try --dtype float32 (dtype=...)." if half else "The weights are probably damaged: fetch them again.",
        )


def finite(x: Tensor, place: str, bundle: Bundle) -> Tensor:
    """x itself, or NonFiniteError."""
    if not bool(torch.isfinite(x).all()):
        raise NonFiniteError(place, bundle)
    return x


def load(
    source: str | Path | None = None,
    *,
    device: str = "auto",
    dtype: str = "auto",
    threads: int | None = None,
    engine: str | Engine = "auto",
    memory: int | str | None = None,
    loras: Sequence[str | Path] | Mapping[str, Path] = (),
    lora_folder: str | Path | None = None,
    embeddings: Sequence[str | Path] = (),
    partial: bool = False,
    controls: Sequence[str | Path] | Mapping[str, Path] = (),
    image_encoder: str | Path | None = None,
    hashed: bool = True,
    safety: str | Path | None = None,
    upscalers: Sequence[str | Path] | Mapping[str, Path] = (),
    tiny: str | Path | None = None,
    refiner: str | Path | None = None,
    **options: Any,
) -> Bundle:
    """Open a model and put it where it can paint; without a source, the pocket model that the package carries.

    source    a single file, a folder, or a hub id ("owner/name")
    device    auto, cpu, cuda, cuda:1, mps, xpu;  dtype: auto, float32, float16, bfloat16
    threads   that share one operation (AQUATINT_THREADS; else as many as torch would take)
    engine    auto, torch, kernels or fp8 (engines/choice.py): whose kernels compute (AQUATINT_ENGINE); part of the key
    memory    bytes, or "6GB": how much the process may take, which the kernels are the quicker for (docs/speed.md)
    loras, lora_folder   files that requests may name as Lora("name"), and a folder of more for tags in prompts; partial
              also takes files whose layers do not all fit
    embeddings           textual inversions, whose names are words of prompts then
    controls             ControlNets, T2I-Adapters and IP-Adapters that requests may name; image_encoder is what the
              last look with: CLIP's image half, as a file or folder
    hashed    whether the sha256 of a single file goes into records (infotext's "Model hash"): seconds for 4 GB, once
    safety    the folder or file of a safety checker, for requests that ask it
    upscalers, tiny      files that Hires and `aquatint upscale` may name; a tiny autoencoder (docs/enlarging.md)
    refiner   a second model, opened as plainly, that requests may end with: Stable Diffusion XL's
    options   of weights.open_model: ema, variant, revision, prediction, tokenizer

    Raises UserError for a source that is not there, not whole, or not Stable Diffusion.
    """
    where = runtime.choose_device(device)
    kind, count = runtime.choose_dtype(dtype, where), runtime.choose_threads(threads)
    memory = runtime.read_bytes(memory) if isinstance(memory, str) else memory
    runs = choose_engine(engine, where, kind, memory)
    then = None if refiner is None else load(refiner, device=device, dtype=dtype, threads=threads, engine=runs)
    ready = shelf(loras, lora_folder, partial=partial)
    steers = open_controls(controls, image_encoder)
    checker = None if safety is None else open_safety(safety)
    runtime.keep_pages()
    lay = runs.lay if where.type == "cpu" else as_it_is
    opened = weights.open_model(source, dtype=kind, lay=lay, **options)
    bundle = _run_by(runs, _placed(opened, where, kind, count))
    runtime.return_pages()
    if then is not None:
        check_refiner(opened.family, then.family)
    beside: dict[str, Any] = {"shelf": ready, "controls": steers.built(opened.family, where, kind, runs)}
    beside |= {"safety": checker, "refiner": then}
    file = file_of(opened.file) if hashed and opened.file else None
    return with_tools(with_embeddings(replace(bundle, file=file, **beside), embeddings), upscalers, tiny)


def _run_by(engine: Engine, bundle: Bundle) -> Bundle:
    """The bundle with its nets prepared for an engine."""
    engine.leave_room((bundle.unet, bundle.autoencoder, bundle.text, bundle.text2))
    engine.prepare(bundle.unet, often=True)
    for net in (bundle.autoencoder.encoder, bundle.autoencoder.decoder):
        engine.prepare(net)
    return replace(bundle, engine=engine)


def _placed(opened: weights.Opened, device: torch.device, dtype: torch.dtype, threads: int) -> Bundle:
    """What was opened, where it can paint."""
    return Bundle(
        unet=opened.unet.to(device),
        autoencoder=opened.autoencoder.to(device),
        text=opened.text.to(device),
        tokenizer=opened.tokenizer,
        family=opened.family,
        name=opened.name,
        counted=opened.counted,
        device=device,
        dtype=dtype,
        threads=threads,
        vocabulary=Vocabulary.from_json(opened.vocabulary) if opened.vocabulary else None,
        notes=opened.notes,
        texts=opened.metadata,
        text2=None if opened.text2 is None else opened.text2.to(device),
        tokenizer2=opened.tokenizer2,
    )


def save(bundle: Bundle, path: str | Path, format: str = "native", **options: Any) -> Path:
    """Write a bundle's model in a format that `load` reads: "native", "diffusers" or "compvis"; returns the path.

    options   of weights.save: dtype, variant, shard_size, said. A vocabulary goes into a native folder only.
    """
    parts = (bundle.family, bundle.unet, bundle.autoencoder, bundle.text, bundle.tokenizer)
    known = bundle.vocabulary.to_json() if bundle.vocabulary else ""
    second = (bundle.text2, bundle.tokenizer2)
    opened = weights.Opened(*parts, bundle.name, bundle.counted, bundle.notes, bundle.texts, known, *second)
    return weights.save(opened, path, format, **options)
