"""Does it run on CUDA, and as the CPU has it: every network, whole trajectories, the noise's bits, the public door.

    PYTHONPATH=src python benchmarks/cuda_parity.py --out FOLDER --seconds 60
    PYTHONPATH=src python benchmarks/cuda_parity.py --out FOLDER --device cpu --toy     # a rehearsal

The reference is the CPU's float32. Differences are root mean square and largest, in standard deviations of the
reference. Networks have random weights, but POCKET, which has the package's own. float32 is told apart from TF32, which
aquatint leaves off. Pictures are compared in steps of 1/255.
"""

import copy
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from safetensors.torch import save_file
from torch import Tensor, nn

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT))

from benchmarks.rungs import Again, engine_of  # noqa: E402
from benchmarks.timebox import Box, Row, off, options, settle  # noqa: E402
from tests.fixtures import tiny_bundle  # noqa: E402

import aquatint  # noqa: E402
from aquatint.base import runtime  # noqa: E402
from aquatint.base.noise import Noise  # noqa: E402
from aquatint.engines.choice import choose_engine  # noqa: E402
from aquatint.engines.cuda import Cuda  # noqa: E402
from aquatint.engines.plain import prepare  # noqa: E402
from aquatint.families import FAMILIES, Family  # noqa: E402
from aquatint.nets.adapters import LowRank  # noqa: E402
from aquatint.nets.autoencoder import Autoencoder  # noqa: E402
from aquatint.nets.text import TextEncoder  # noqa: E402
from aquatint.nets.unet import UNet  # noqa: E402
from aquatint.pipelines.adapted import with_embeddings  # noqa: E402
from aquatint.pipelines.bundle import Bundle  # noqa: E402
from aquatint.pipelines.control import Control  # noqa: E402
from aquatint.pipelines.edit import Edit  # noqa: E402
from aquatint.pipelines.given import given  # noqa: E402
from aquatint.pipelines.guiding import Apg, FreeU, Guiding, Interval, Pag, Sag, Threshold  # noqa: E402
from aquatint.pipelines.hires import Hires  # noqa: E402
from aquatint.pipelines.lora import Lora  # noqa: E402
from aquatint.pipelines.shelf import shelf  # noqa: E402
from aquatint.pipelines.steering import open_controls  # noqa: E402
from aquatint.pipelines.tiling import Decoding, Tiling  # noqa: E402
from aquatint.pipelines.variation import Variation  # noqa: E402
from aquatint.weights.adapter_names import nets  # noqa: E402
from aquatint.weights.keymap import shapes  # noqa: E402
from aquatint.weights.lora_writer import save_lora  # noqa: E402

KINDS = {
    "float32": (torch.float32, False),
    "float32, TF32": (torch.float32, True),
    "bfloat16": (torch.bfloat16, False),
    "float16": (torch.float16, False),
}
WALKS = ("dpmpp_2m", "euler_a", "dpmpp_2m_sde", "ddim", "pndm")
PROMPT = "a red apple on a blue background"
Call = Callable[[Any], Tensor]  # a network -> what it says of inputs that are the same everywhere


@contextmanager
def computing(tf32: bool) -> Iterator[None]:
    """Without gradients, float32 shortened to TF32 or not, in products and in convolutions."""
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("high" if tf32 else "highest")
    try:
        with torch.no_grad(), torch.backends.cudnn.flags(enabled=True, benchmark=False, allow_tf32=tf32):
            yield
    finally:
        torch.set_float32_matmul_precision(before)


def random_weights(kind: Callable[[Any], nn.Module], config: Any, device: torch.device) -> nn.Module:
    """A network with torch's own starting weights (nothing in them is zero but norms' shifts), made on the device."""
    torch.manual_seed(1)
    with torch.device(device):
        net = kind(config).eval().requires_grad_(False)
        for part in net.modules():
            if isinstance(part, nn.GroupNorm | nn.LayerNorm):
                part.weight.uniform_(0.5, 1.5)
                part.bias.uniform_(-0.5, 0.5)
    return net


def inputs(family: Family, side: int, rows: int = 2) -> dict[str, Tensor]:
    """What the networks of a family are asked about, on the CPU: latents of this side, text, ids, a picture."""
    noise = Noise(range(rows))
    net = family.unet
    vector = {"vector": noise.normal((net.vector,), draw=3)} if net.vector else {}
    return {
        "x": noise.normal((net.channels_in, side, side)),
        "t": torch.linspace(20.0, 980.0, rows),
        "context": noise.normal((77, net.context), draw=1),
        "picture": (2 * noise.uniform((3, 8 * side, 8 * side), draw=2) - 1)[:1],
        "ids": noise.integers((77,), family.text.vocabulary, draw=4),
        **vector,
    }


def questions(family: Family, given_: dict[str, Tensor], device: torch.device) -> dict[str, Call]:
    """Each network's question, on a device."""
    at = {name: value.to(device) for name, value in given_.items()}

    def text(net: TextEncoder) -> Tensor:
        said = net(at["ids"])
        return torch.cat([said.tokens.flatten(1), said.pooled.flatten(1)], dim=1)

    asked: dict[str, Call] = {
        "unet": lambda net: net(at["x"], at["t"], at["context"], at.get("vector")),
        "decode": lambda net: net.decode(at["x"][:1, : family.autoencoder.latents]),
        "encode": lambda net: net.encode(at["picture"]),
        "text": text,
    }
    return asked | ({"text2": text} if family.text2 else {})


def networks(name: str, device: torch.device) -> Iterator[tuple[str, nn.Module]]:
    """The networks of a family, one after the other, on the device in float32: only one is in memory."""
    family = FAMILIES[name]
    if name == "POCKET":
        bundle = aquatint.load(device=str(device), dtype="float32", engine="torch")
        parts: dict[str, Any] = {"unet": bundle.unet, "autoencoder": bundle.autoencoder, "text": bundle.text}
        yield from parts.items()
        return
    yield "unet", random_weights(UNet, family.unet, device)
    yield "autoencoder", random_weights(Autoencoder, family.autoencoder, device)
    for place, config in zip(("text", "text2"), family.texts, strict=False):
        yield place, random_weights(TextEncoder, config, device)


def nets_of(name: str, side: int, box: Box) -> Iterator[Row]:
    """Every network of a family in every number format, against the CPU's float32."""
    family, device = FAMILIES[name], box.device
    given_ = inputs(family, side)
    here, there = questions(family, given_, torch.device("cpu")), questions(family, given_, device)
    for place, net in networks(name, device):
        asked = ("decode", "encode") if place == "autoencoder" else (place,)
        reference = copy.deepcopy(net).to("cpu")
        prepare(reference), prepare(net)
        with computing(False):
            want = {question: here[question](reference) for question in asked}
        del reference
        for kind, (dtype, tf32) in KINDS.items():
            changed = net if dtype is torch.float32 else copy.deepcopy(net).to(dtype)
            for question in asked:
                with computing(tf32):
                    got = there[question](changed)
                    settle(device)
                yield {"network": f"{name} {question}", "numbers": kind, **off(got, want[question])}


def engines(name: str, side: int, box: Box) -> Iterator[Row]:
    """The engine's U-Net and autoencoder, against the CPU's float32; whether bits repeat, and without a graph too."""
    family, device = FAMILIES[name], box.device
    given_ = inputs(family, side)
    here, there = questions(family, given_, torch.device("cpu")), questions(family, given_, device)
    nets = ((place, net) for place, net in networks(name, device) if place in ("unet", "autoencoder"))
    for place, net in nets:
        asked = ("decode", "encode") if place == "autoencoder" else (place,)
        with computing(False):
            want = {question: here[question](copy.deepcopy(net).to("cpu")) for question in asked}
        for kind, (dtype, tf32) in KINDS.items():
            if tf32:
                continue
            card, changed = engine_of(device, dtype), copy.deepcopy(net).to(dtype)
            card.prepare(changed)
            for question in asked:
                with computing(False):
                    ways = (card, card, Cuda(Again(), card.compiler)) if question == "unet" else (card, card)
                    quick = [way.quick(changed) if question == "unet" else changed for way in ways]
                    got = [there[question](way) for way in quick]
                    settle(device)
                row = {"network": f"{name} {question}", "numbers": kind, **off(got[0], want[question])}
                yield {**row, "same": all(it.equal(got[0]) for it in got), "engine": card.name}


def noise_bits(box: Box) -> Iterator[Row]:
    """Whether the noise has the CPU's bits."""
    makers: dict[str, Callable[..., Tensor]] = {
        "normal": lambda noise, shape, **at: noise.normal(shape, **at),
        "uniform": lambda noise, shape, **at: noise.uniform(shape, **at),
        "integers": lambda noise, shape, **at: noise.integers(shape, 1000, **at),
    }
    seeds, pictures = (0, 1, 2**32 + 5, 2**63, 2**64 - 1), (0, 7, 2**33, 1, 2**64 - 1)
    shapes = ((1,), (3, 5), (4, 63, 65), (4, 128, 128), (16, 97))
    for name, make in makers.items():
        same = total = 0
        for shape in shapes:
            for step, draw in ((0, 0), (17, 1), (2**32 - 1, 12)):
                noise = Noise(seeds, pictures)
                here, there = (make(noise, shape, step=step, draw=draw, device=d) for d in ("cpu", box.device))
                assert there.device.type == box.device.type, f"drawn on {there.device}"
                same += int((here.view(torch.uint8) == there.cpu().view(torch.uint8)).all())
                total += 1
        yield {"draw": name, "of the CPU's bits": f"{same} of {total} draws", "same": same == total}


def pixels(bundle: Bundle, **wishes: Any) -> np.ndarray:
    """A painted picture's bytes."""
    return np.asarray(bundle.paint(**({"prompt": PROMPT, "seed": 11} | wishes)).image).astype(int)


def between(name: str, here: np.ndarray, there: np.ndarray) -> Row:
    """How far two pictures are apart."""
    apart = np.abs(here - there)
    return {
        "what": name,
        "largest": int(apart.max()),
        "mean": float(apart.mean()),
        "same pixels": float((apart == 0).mean()),
    }


def walks(box: Box, toy: bool) -> Iterator[Row]:
    """The pocket model's whole trajectories through the public door, and a picture painted twice."""
    how: dict[str, Any] = {"steps": 2 if toy else 12, "width": 64 if toy else 256, "height": 64 if toy else 256}
    here = aquatint.load(device="cpu", dtype="float32")
    there = {name: aquatint.load(device=str(box.device), dtype=name) for name in ("float32", "bfloat16", "float16")}
    for sampler in WALKS[: 2 if toy else None]:
        want = pixels(here, sampler=sampler, **how)
        for name, bundle in there.items():
            if name == "float32" or sampler == WALKS[0]:
                yield between(f"{sampler}, {name}", want, pixels(bundle, sampler=sampler, **how))
    for name, bundle in there.items():
        once, again = pixels(bundle, **how), pixels(bundle, **how)
        yield between(f"painted twice, {name}", once, again)
        two = [
            p.picture for p in aquatint.generate(bundle, aquatint.Request(PROMPT, seeds=(3, 11), **how)) if p.picture
        ]
        yield between(f"alone and as one of two, {name}", once, np.asarray(two[1].image).astype(int))
    usual = aquatint.load(device=str(box.device))
    yield {**between(f"the usual number format, {usual.key.dtype}", pixels(here, **how), pixels(usual, **how))}


def moved(bundle: Bundle, device: torch.device, dtype: torch.dtype = torch.float32) -> Bundle:
    """A copy of a bundle on a device, prepared as `aquatint.load` prepares one."""
    names = ["unet", "autoencoder", "text", *(["text2"] if bundle.text2 else [])]
    nets: dict[str, Any] = {name: copy.deepcopy(getattr(bundle, name)).to(device, dtype) for name in names}
    engine = choose_engine("kernels" if device.type == "cuda" else "torch", device, dtype)
    engine.prepare(nets["unet"], often=True), engine.prepare(nets["autoencoder"])
    return replace(bundle, device=device, dtype=dtype, engine=engine, **nets)


def wishes() -> dict[str, dict[str, Any]]:
    """One request for each thing that one may ask for."""
    picture = given(aquatint.load(device="cpu").paint("a green star", seed=5, steps=2, width=64, height=64).image)
    mask = np.zeros((64, 64), np.uint8)
    mask[16:48, 16:48] = 255
    white = given(Image.fromarray(mask))
    guidings = {
        "interval": Guiding(interval=Interval(0.25, 0.75)),
        "threshold": Guiding(threshold=Threshold(0.9, limit=0.5)),
        "mimic": Guiding(threshold=Threshold(mimic=2.0)),
        "apg": Guiding(apg=Apg(norm=2.0)),
        "perp_neg": Guiding(perp_neg=1.0),
        "pag": Guiding(pag=Pag()),
        "sag": Guiding(sag=Sag()),
        "freeu": Guiding(freeu=FreeU()),
    }
    plain: dict[str, dict[str, Any]] = {f"sampler {name}": {"sampler": name} for name in aquatint.SAMPLERS}
    plain |= {f"guiding {name}": {"guiding": value} for name, value in guidings.items()}
    return plain | {
        "image to image": {"edit": Edit(picture, strength=0.6)},
        "inpaint": {"edit": Edit(picture, mask=white)},
        "inpaint from noise": {"edit": Edit(picture, mask=white, strength=1.0, fill="noise")},
        "hires, latent": {"hires": Hires(scale=1.5, steps=2)},
        "hires, lanczos": {"hires": Hires(scale=1.5, steps=2, upscaler="lanczos")},
        "tiling": {"width": 96, "tiling": Tiling(64, 64, 32, "gaussian")},
        "seamless": {"seamless": "both"},
        "decoding by tiles": {"width": 128, "height": 128, "decoding": Decoding(tile=64)},
        "variation": {"variation": Variation(seed=9, strength=0.3, width=48, height=64)},
        "weights in the prompt": {"prompt": "a (red:1.3) apple [in the snow] AND two cats :0.5"},
        "scheduled prompt": {"prompt": "[a red apple:two cats:0.5]"},
        "clip skip": {"clip_skip": 2},
        "rescale": {"rescale": 0.7},
        "noise of torch's CPU": {"noise": "cpu"},
        "noise of torch's CUDA": {"noise": "nv"},
    }


def doors(box: Box, toy: bool) -> Iterator[Row]:
    """Everything that one may ask of TINY, and all but the samplers of TINY_XL: float32, and float16 beside it.

    A sampler that chooses its own steps (dpm_adaptive) may leave the CPU's path at a rounding.
    """
    for family in ("TINY", "TINY_XL"):
        here = tiny_bundle(FAMILIES[family])
        for encoder, _ in here.encoders:
            encoder.norm.bias.data += 0.1  # else tokens have a mean of 0, which the prompt's weights divide by
        there, half = moved(here, box.device), moved(here, box.device, torch.float16)
        for name, wish in list(wishes().items())[-3 if toy else 0 :]:
            if name.startswith("sampler") and family == "TINY_XL":
                continue
            size = {"width": 64, "height": 64, "steps": 4, **wish}
            try:
                row = between(f"{family}, {name}", pixels(here, **size), pixels(there, **size))
                row["float16"] = int(np.abs(pixels(half, **size) - pixels(there, **size)).max())
                yield row
            except Exception as error:
                yield {"what": f"{family}, {name}", "failed": f"{type(error).__name__}: {str(error)[:160]}"}
        latents = Noise([1]).normal((4, 8, 8))
        shown = (np.asarray(bundle.preview(latents.to(bundle.device))).astype(int) for bundle in (here, there))
        yield between(f"{family}, preview", *shown)


def adapters(box: Box) -> Iterator[Row]:
    """A LoRA, an embedding, each kind of control; and what is saved from the device, opened on the CPU."""
    from tests.weights import control_files

    family = FAMILIES["TINY"]
    here = tiny_bundle(family)
    size: dict[str, Any] = {"width": 64, "height": 64, "steps": 4}
    picture = given(here.paint("two cats", seed=5, **size).image)
    kinds = {"controlnet": control_files.control, "t2i": control_files.adapter, "ip": control_files.prompt}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        save_lora(folder / "ink.safetensors", low_rank(family), family)
        save_file({"emb_params": Noise([3]).normal((2, family.text.width))[0]}, folder / "inky.safetensors")
        files = [control_files.write(folder / f"{kind}.safetensors", make(family)) for kind, make in kinds.items()]
        opened = open_controls(files, control_files.write(folder / "tower.safetensors", control_files.tower()))
        sides = []
        for bundle in (here, moved(here, box.device)):
            controls = opened.built(family, bundle.device, torch.float32, bundle.engine)
            whole = replace(bundle, controls=controls, shelf=shelf([folder / "ink.safetensors"]))
            sides.append(with_embeddings(whole, [folder / "inky.safetensors"]))
        wished: dict[str, dict[str, Any]] = {
            f"control {kind}": {"controls": (Control(kind, picture),)} for kind in kinds
        }
        wished |= {"LoRA": {"loras": (Lora("ink", 0.7),)}, "embedding": {"prompt": "a red inky apple"}}
        for what, wish in wished.items():
            yield between(what, *(pixels(bundle, **size, **wish) for bundle in sides))
        again = [aquatint.load(aquatint.save(b, folder / f"model{n}"), device="cpu") for n, b in enumerate(sides)]
        yield between("saved and opened again", *(pixels(bundle, **size) for bundle in (here, again[1])))
        yield {"what": "digest of what was saved", "same": again[0].digest == again[1].digest}


def low_rank(family: Family) -> dict[str, dict[str, Any]]:
    """A LoRA of rank 2 for the U-Net's self-attention."""
    made = {}
    for index, (name, shape) in enumerate(shapes(nets(family)["unet"]).items()):
        if ".among." in name and len(shape) == 2:
            noise = Noise([index])
            down, up = noise.normal((2, shape[1]))[0], noise.normal((shape[0], 2), draw=1)[0]
            made[name] = LowRank(down, up, scale=0.2)
    return {"unet": made}


def main(words: Sequence[str] | None = None) -> Box:
    """Measure, print, write."""
    given_ = options(__doc__ or "", 60).parse_args(words)
    box = Box("CUDA parity", given_)
    runtime.keep_pages()
    side = 8 if given_.toy else 32
    box.run(
        {
            "noise": partial(noise_bits, box),
            "nets TINY": partial(nets_of, "TINY", 8, box),
            "nets TINY_XL": partial(nets_of, "TINY_XL", 8, box),
            "nets POCKET": partial(nets_of, "POCKET", 8 if given_.toy else 16, box),
            "walks": partial(walks, box, given_.toy),
            **({} if given_.toy else {"nets SD15": partial(nets_of, "SD15", side, box)}),
            **{f"engine {name}": partial(engines, name, 8, box) for name in ("TINY", "TINY_XL", "POCKET")},
            **({} if given_.toy else {"engine SD15": partial(engines, "SD15", side, box)}),
            "adapters": partial(adapters, box),
            "doors": partial(doors, box, given_.toy),
        }
    )
    return box


if __name__ == "__main__":
    main()
