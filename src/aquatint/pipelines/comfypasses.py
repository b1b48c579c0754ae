"""Second passes of ComfyUI's graphs: over an enlarged picture, as Hires; by a second model on one path, as Refine."""

import re
from collections.abc import Iterable
from typing import Any

from aquatint.base import config
from aquatint.base.errors import UserError
from aquatint.diffusion.grids import visited
from aquatint.diffusion.names import grid_named
from aquatint.diffusion.schedule import NoiseSchedule
from aquatint.families import SDXL
from aquatint.pipelines.comfygraph import Graph, Node, along, linked, upwards, value_of
from aquatint.pipelines.comfynodes import model_of, name_of, said_by, steps_of, stretch_of
from aquatint.pipelines.foreign import Notes
from aquatint.pipelines.hires import MOST_STEPS, Hires
from aquatint.pipelines.refine import Refine

SAMPLING = ("KSampler", "KSamplerAdvanced", "SamplerCustom", "SamplerCustomAdvanced")
# What enlarges between two passes, and what its method is called here; None for what is taken in its place.
_LATENT = {"bilinear": "latent", "nearest-exact": "latent_nearest_exact", "bicubic": "latent_bicubic"}
_PIXELS = {"lanczos": "lanczos", "nearest-exact": "nearest"}
_ENLARGING = {
    "LatentUpscale": (_LATENT, "latent"),
    "LatentUpscaleBy": (_LATENT, "latent"),
    "ImageScale": (_PIXELS, "lanczos"),
    "ImageScaleBy": (_PIXELS, "lanczos"),
}
_PASSED = ("VAEDecode", "VAEEncode", "VAEDecodeTiled", "VAEEncodeTiled", "Reroute")
_UP = ("samples", "pixels", "image")
_ENDLESS = 100_000  # pixels; what is larger than Hires takes is refused there


def passes_of(graph: Graph) -> list[Node]:
    """The samplers that lead to the picture that was saved, the first of them first."""
    ends = [name for name, node in graph.items() if node.link("images") is not None]
    near = next((name for name in upwards(graph, ends or list(graph)) if graph[name].kind in SAMPLING), None)
    if near is None:
        return []
    earlier = upwards(graph, linked(graph[near], ("latent_image",)))
    return [graph[name] for name in earlier if graph[name].kind in SAMPLING][::-1] + [graph[near]]


def second_pass(graph: Graph, first: Node, second: Node, words: dict[str, Any], notes: Notes) -> None:
    """What the second sampler does, as the field "hires" or "refine" of the words of the first; or told as left out.

    words   of the first pass: steps, seed, size, texts; "denoise" among them
    """
    own, told = dict[str, Any](), Notes()
    steps_of(graph, second, own, told)
    begin, end = stretch_of(graph, second, own.get("steps", 20))
    between = _between(graph, first, second)
    enlarging = [node for node in between if node.kind in _ENLARGING or node.kind == "ImageUpscaleWithModel"]
    if not enlarging and begin and _goes_on(graph, first, words, begin):
        _refine(graph, second, words, begin, notes)
        return
    if not words.get("width") or not words.get("height") or end < own.get("steps", 20) or not enlarging:
        notes.ignore(second.kind, "", "it is no pass over an enlarged picture, nor one that ends a path of steps")
        return
    made = max(end - begin, 1)
    strength = own["denoise"] if not begin else made / own["steps"] + 1e-9
    hires: dict[str, Any] = {"strength": strength, "steps": made}
    hires |= _enlarged(graph, enlarging[::-1], words, notes)
    for name in ("sampler", "grid", "guidance"):
        if name in own and own[name] != words.get(name):
            hires[name] = own[name]
    hires |= _texts(graph, second, words, notes)
    try:
        config.from_data(Hires, hires)
    except UserError as error:
        notes.ignore(second.kind, "", error.got)
        return
    words["hires"] = hires
    notes.honour("second pass", f"{made} steps from strength {strength:.3g}")
    notes.changed += told.changed
    for node in between:
        if node not in enlarging and node.kind not in _PASSED:
            notes.ignore(node.kind, "", "it is passed over")
    if own.get("seed", words.get("seed")) != words.get("seed"):
        notes.change("seed of the second pass", own["seed"], "it is that of the first")
    _one_model(graph, first, second, notes)


def _between(graph: Graph, first: Node, second: Node) -> list[Node]:
    """The nodes between two samplers, the nearest to the second first."""
    found = []
    for node in along(graph, second.link("latent_image"), _UP):
        if node is first:
            break
        found.append(node)
    return found


def _goes_on(graph: Graph, first: Node, words: dict[str, Any], begin: int) -> bool:
    """Whether the first sampler stops, with the noise that is left, where the second begins."""
    _, end = stretch_of(graph, first, words.get("steps", 20))
    return end == begin and first.inputs.get("return_with_leftover_noise") == "enable"


def _refine(graph: Graph, second: Node, words: dict[str, Any], begin: int, notes: Notes) -> None:
    """Two models on one path. The share counts times, so it is one between the last of the base and the refiner's."""
    steps, refine = words.get("steps", 20), dict[str, Any]()
    for name in linked(second, ("positive",)):
        beauty = value_of(graph, graph[name], "ascore", (int, float)) if name in graph else None
        refine |= {} if beauty is None else {"aesthetic": float(beauty)}
    try:
        if not begin < steps <= MOST_STEPS:
            raise UserError(f"It begins at step {begin} of {steps}.")
        grid = grid_named(words.get("grid", "normal")) or "linspace"
        levels = visited(grid, NoiseSchedule(SDXL.schedule), steps, {})
        refine["after"] = 1 - (float(levels[begin - 1].t) + float(levels[begin].t)) / 2 / SDXL.schedule.steps
        config.from_data(Refine, refine)
    except UserError as error:
        notes.ignore(second.kind, "", error.got)
        return
    words["refine"] = refine
    notes.honour("start_at_step", begin)


def _enlarged(graph: Graph, nodes: Iterable[Node], words: dict[str, Any], notes: Notes) -> dict[str, Any]:
    """Size and upscaler of the second pass, from the nodes between, in the order in which they work."""
    width, height, by = float(words["width"]), float(words["height"]), ""
    for node in nodes:
        if node.kind == "ImageUpscaleWithModel":
            by, factor = _by_model(graph, node)
            width, height = min(width * factor, _ENDLESS), min(height * factor, _ENDLESS)
            continue
        known, usual = _ENLARGING[node.kind]
        method = value_of(graph, node, "upscale_method", str) or "bilinear"
        if not by:
            by = known.get(method, usual)
            if method not in known:
                notes.change("upscale_method", method, f"{usual} is taken")
        width, height = _resized(graph, node, width, height, notes)
    return {"width": int(width) // 8 * 8, "height": int(height) // 8 * 8, "upscaler": by or "latent"}


def _resized(graph: Graph, node: Node, width: float, height: float, notes: Notes) -> tuple[float, float]:
    """The size after one node; latents are scaled in latents."""
    scale = value_of(graph, node, "scale_by", (int, float))
    if scale is not None:
        unit, scale = 8 if node.kind == "LatentUpscaleBy" else 1, min(max(float(scale), 0.0), 100.0)
        return min(round(width / unit * scale) * unit, _ENDLESS), min(round(height / unit * scale) * unit, _ENDLESS)
    wide, high = (min(max(value_of(graph, node, name, int) or 0, 0), _ENDLESS) for name in ("width", "height"))
    if wide and high and wide * height != high * width and node.inputs.get("crop") != "center":
        notes.change("crop", "disabled", "what would be stretched is cut instead")
    if not wide and not high:
        return width, height
    return wide or width * high / max(height, 1), high or height * wide / max(width, 1)


def _by_model(graph: Graph, node: Node) -> tuple[str, int]:
    """(the upscaler's name, how many times it enlarges): from its file's name; most enlarge four times."""
    holders = [graph[name] for name in linked(node, ("upscale_model",)) if name in graph]
    name = name_of((value_of(graph, holders[0], "model_name", str) if holders else None) or "")
    said = re.search(r"(?:^|[^0-9])([1-8])x|x([1-8])(?:$|[^0-9])", name, re.IGNORECASE)
    return name or "an upscaler", int(said.group(1) or said.group(2)) if said else 4


def _texts(graph: Graph, second: Node, words: dict[str, Any], notes: Notes) -> dict[str, Any]:
    """Prompt and negative of the second pass, where they are others."""
    own = dict[str, Any]()
    try:
        said_by(graph, second, own, Notes())
    except UserError:
        notes.change("prompt of the second pass", "", "that of the first is said")
        return {}
    return {name: own[name] for name in ("prompt", "negative") if own[name] != words[name]}


def _one_model(graph: Graph, first: Node, second: Node, notes: Notes) -> None:
    """Both passes are painted by the first one's model."""
    rows = [dict[str, Any](), dict[str, Any]()]
    names = [model_of(graph, node, row, Notes()) for node, row in zip((first, second), rows, strict=True)]
    if names[0] != names[1] or rows[0] != rows[1]:
        notes.change("model of the second pass", names[1], "the first one's model and LoRAs paint both")
