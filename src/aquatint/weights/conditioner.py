"""Stable Diffusion XL's two text encoders and the numbers beside them: found in files of both layouts, and written."""

from collections.abc import Collection
from dataclasses import replace
from typing import Any

from aquatint.base.errors import UserError
from aquatint.families import AESTHETIC, MICRO, MICRO_WIDTH, SDXL, SIZES, Defaults, Family
from aquatint.nets.text import TextConfig
from aquatint.nets.unet import UNetConfig
from aquatint.weights import compvis, diffusers, folder
from aquatint.weights.folder import Document


def of_documents(documents: Document, unet: UNetConfig, pad: str, pad2: str) -> dict[str, Any]:
    """The fields of a family that a folder's JSON says of its encoders: "text" alone, or Stable Diffusion XL's.

    pad, pad2   how the first and the second tokenizer fill up
    """
    large = documents["unet/config.json"].get("addition_embed_type") is not None
    pads = {diffusers.FOLDERS["text"]: pad, diffusers.SECOND: pad2}
    there = {name: f"{name}/config.json" for name in pads if f"{name}/config.json" in documents}
    if large != (diffusers.SECOND in there):
        lack = "no" if large else "a"
        raise UserError(
            f"its U-Net takes {'' if large else 'none of '}Stable Diffusion XL's added conditions, and there is {lack} "
            "text_encoder_2.",
            "Parts of one model.",
        )
    pipeline = str(documents.get("model_index.json", {}).get("_class_name", ""))
    if pipeline and ("XL" in pipeline) != large:
        raise UserError(
            f"model_index.json is for {pipeline[:60]}, and its U-Net {'takes' if large else 'takes none of'} Stable "
            "Diffusion XL's added conditions.",
            "Parts of one model.",
        )
    texts = [folder.text(documents[document], pads[name]) for name, document in there.items()]
    if not large:
        return {"text": texts[0]}
    says = documents.get("model_index.json", {}).get("force_zeros_for_empty_prompt")
    return fields([read(text) for text in texts], unet, says)


def fields(texts: list[TextConfig], unet: UNetConfig, blank: Any) -> dict[str, Any]:
    """text, text2, micro and blank of a family with these encoders.

    blank   as model_index.json says it; where nothing does, as the base has it (zeros) and the refiner (none)
    """
    pooled = texts[-1].projection or texts[-1].width
    micro = SIZES if unet.vector - pooled == MICRO_WIDTH * sum(MICRO[name] for name in SIZES) else AESTHETIC
    return {
        "text": texts[0],
        "text2": texts[1] if len(texts) > 1 else None,
        "micro": micro,
        "blank": blank if isinstance(blank, bool) else micro == SIZES,
    }


def defaults(said: Defaults) -> Defaults:
    """What a folder's scheduler says, with Stable Diffusion XL's guidance; its Euler ends clean where PNDM does not."""
    clean = said.grid == "leading" and said.sampler not in ("plms", "pndm", "ddim")
    grid = SDXL.defaults.grid if clean else said.grid
    return replace(said, guidance=SDXL.defaults.guidance, grid=grid)


def read(text: TextConfig) -> TextConfig:
    """The encoder, read as Stable Diffusion XL reads it: at the layer before the last, not normed."""
    if text.layers < 2:
        raise UserError("its text encoder has one layer.", "Two or more: the one before the last is read.")
    return replace(text, skip=SDXL.text.skip, normed=SDXL.text.normed)


def prefixes(names: Collection[str]) -> list[str]:
    """What the names of Stable Diffusion XL's text encoders begin with, in order; none in another family's file."""
    words = {"transformer.text_model.": "embeddings.token_embedding.weight", "model.": "token_embedding.weight"}
    every = [(f"{compvis.CONDITIONER}{place}.{inner}", word) for place in (0, 1) for inner, word in words.items()]
    return [prefix for prefix, word in every if prefix + word in names]


def index(
    made: Family, head: dict[str, Any], classes: dict[str, Any], *, inpaints: bool
) -> tuple[dict[str, Any], dict[str, Any]]:
    """model_index.json's head and components for a family of Stable Diffusion XL's, from those of the others."""
    aesthetic = "aesthetic" in made.micro
    kind = "Inpaint" if inpaints else "Img2Img" if aesthetic else ""
    head = {
        "_class_name": f"StableDiffusionXL{kind}Pipeline",
        "_diffusers_version": head["_diffusers_version"],
        "force_zeros_for_empty_prompt": made.blank,
    }
    if kind:
        head["requires_aesthetics_score"] = aesthetic
    second = {"text_encoder_2": ["transformers", "CLIPTextModelWithProjection"], "tokenizer_2": classes["tokenizer"]}
    gone = {"safety_checker", *(() if made.text2 else ("text_encoder", "tokenizer"))}
    kept: dict[str, Any] = {name: row for name, row in classes.items() if name not in gone}
    if not made.text2:
        kept |= {"text_encoder": [None, None], "tokenizer": [None, None]}
    return head, kept | second


def unsayable(made: Family) -> str:
    """What neither layout can say of the encoders of a family; empty if nothing."""
    projected = [bool(text.projection) for text in made.texts]
    if not made.micro:
        if made.text2 or made.blank or (made.text.skip, made.text.normed) != (0, True):
            return "its text encoder is read otherwise than Stable Diffusion 1's and 2's"
        return "its text encoder ends in a projection" if projected[0] else ""
    if made.micro not in (SIZES, AESTHETIC) or projected != [False, True][-len(projected) :]:
        return "its vector is not what Stable Diffusion XL's or its refiner's is"
    if any(read(text) != text for text in made.texts):
        return "its text encoders are read otherwise than Stable Diffusion XL's"
    return ""
