"""What the nodes of ComfyUI's graphs say: steps and sampler, the texts, the model with its LoRAs, the latents."""

from dataclasses import replace
from typing import Any

from aquatint.base.errors import UserError
from aquatint.diffusion.names import grid_named, sampler_named
from aquatint.pipelines.comfygraph import Graph, Node, along, linked, value_of
from aquatint.pipelines.foreign import Notes, Start, Steer, shown

MOST_LORAS = 64
_TEXTS = {"CLIPTextEncode": "text", "CLIPTextEncodeSDXL": "text_g", "CLIPTextEncodeSDXLRefiner": "text"}
CONTROLS = ("ControlNetApply", "ControlNetApplyAdvanced", "ControlNetApplySD3", "ACN_AdvancedControlNetApply")
MOST_CONTROLS = 16
_ALONG = ("conditioning", "conditioning_1", "conditioning_to", "positive", "negative")
_ALONG_POSITIVE = ("positive", *_ALONG)
_LATENTS = ("EmptyLatentImage", "EmptySD3LatentImage", "SDXLEmptyLatentSizePicker+")


def steps_of(graph: Graph, sampler: Node, words: dict[str, Any], notes: Notes) -> None:
    """Seed, steps, guidance, sampler and grid."""
    number = (int, float)
    parts = [
        sampler,
        *(graph[link] for link in linked(sampler, ("sampler", "sigmas", "noise", "guider")) if link in graph),
    ]
    for node in parts:
        for key, field, kinds in (
            ("seed", "seed", int),
            ("noise_seed", "seed", int),
            ("steps", "steps", int),
            ("cfg", "guidance", number),
            ("sampler_name", "sampler", str),
            ("scheduler", "grid", str),
            ("denoise", "denoise", number),
        ):
            value = value_of(graph, node, key, kinds)
            if value is not None and field not in words:
                words[field] = value
                if field not in ("seed", "sampler", "denoise"):
                    notes.honour(key, value)
    words["denoise"] = min(1.0, max(0.0, float(words.get("denoise", 1.0))))
    if "sampler" not in words and len(parts) > 1:
        notes.change("sampler", ", ".join(node.kind for node in parts[1:]), "Euler is taken")
    _named(words, notes)


def _named(words: dict[str, Any], notes: Notes) -> None:
    """Sampler and grid by our names, or none."""
    if words.get("sampler") == "uni_pc":
        words |= {"sampler": "unipc", "options": [["bh", 1.0]]}
    if (name := words.get("sampler")) is not None and sampler_named(name) is None:
        notes.change("sampler_name", words.pop("sampler"), "there is no such sampler here; Euler is taken")
    if str(words.get("sampler")).endswith("_gpu"):
        words["noise"] = "cpu+nv+nvtree"
    if (name := words.get("grid")) is not None and grid_named(name) is None:
        notes.change("scheduler", words.pop("grid"), "there is none of that name; normal is taken")


def stretch_of(graph: Graph, sampler: Node, steps: int) -> tuple[int, int]:
    """The steps from which and before which a sampler works: (0, steps) unless it says otherwise."""
    begin, end = (value_of(graph, sampler, key, int) for key in ("start_at_step", "end_at_step"))
    begin = min(max(begin or 0, 0), steps)
    return begin, steps if end is None else min(max(end, begin), steps)


def said_by(graph: Graph, sampler: Node, words: dict[str, Any], notes: Notes) -> None:
    """Prompt and negative, and the layer of the text encoder that is read."""
    holders = [sampler, *(graph[link] for link in linked(sampler, ("guider",)) if link in graph)]
    for field, inputs in (("prompt", ("positive", "conditioning")), ("negative", ("negative",))):
        links = [link for node in holders for link in linked(node, inputs)]
        text = None
        for node in along(
            graph, links[0] if links else None, _ALONG_POSITIVE if field == "prompt" else ("negative", *_ALONG)
        ):
            if node.kind in _TEXTS:
                text = value_of(graph, node, _TEXTS[node.kind], str)
                _layer(graph, node, words, notes)
                break
            if node.kind == "ConditioningZeroOut":
                text = ""
                notes.change(node.kind, field, "an empty text is said in its place")
                break
            if node.kind not in CONTROLS:
                _passed(node, notes)
        if text is None and field == "prompt":
            raise UserError("The ComfyUI graph's prompt is not a text in a CLIPTextEncode.", "A plain text.")
        words[field] = text or ""
        notes.honour(field, text or "")


def steers_of(graph: Graph, sampler: Node, notes: Notes) -> tuple[Steer, ...]:
    """The controls on the way from the text to the sampler, the first that was applied first."""
    holders = [sampler, *(graph[link] for link in linked(sampler, ("guider",)) if link in graph)]
    links = [link for node in holders for link in linked(node, ("positive", "conditioning"))]
    chain = [node for node in along(graph, links[0] if links else None, _ALONG_POSITIVE) if node.kind in CONTROLS]
    return tuple(steer for node in chain[::-1][:MOST_CONTROLS] if (steer := _steer(graph, node, notes)) is not None)


def _steer(graph: Graph, node: Node, notes: Notes) -> Steer | None:
    """One control; None where its numbers are none that can be used."""
    number, loader = (int, float), graph.get(node.link("control_net") or "")
    file = (value_of(graph, loader, "control_net_name", str) if loader else None) or ""
    weight, start, end = (
        float(usual if (value := value_of(graph, node, key, number)) is None else value)
        for key, usual in (("strength", 1.0), ("start_percent", 0.0), ("end_percent", 1.0))
    )
    steer = Steer(name_of(file), "", weight, start, end)
    try:
        steer.check()
    except UserError as error:
        notes.ignore(node.kind, file, error.got)
        return None
    picture, makers = "", []
    for above in along(graph, node.link("image"), ("image", "pixels", "samples")):
        if above.kind == "LoadImage":
            picture = shown(above.inputs.get("image"))
        elif above.kind != "Reroute":
            makers.append(above.kind)
    if makers:
        notes.change(", ".join(makers[:5]), "", "it is not repeated: give the hint that it made")
    if (start, end) != (0, 1):
        notes.change("start_percent, end_percent", f"{start:g}, {end:g}", "they count steps here, noise there")
    return replace(steer, image=picture)


def name_of(path: str) -> str:
    """A file's name without folders and ending, from a path of either kind."""
    return path.replace("\\", "/").rpartition("/")[2].rpartition(".")[0].strip()[:200]


def _passed(node: Node, notes: Notes) -> None:
    """A node between sampler and text, of which nothing is repeated."""
    if node.kind == "Reroute":
        return
    second = [name for name in ("conditioning_2", "conditioning_from") if name in node.inputs]
    why = "only the first of its conditionings is said" if second else "it is passed over"
    notes.ignore(node.kind, "", why)


def _layer(graph: Graph, node: Node, words: dict[str, Any], notes: Notes) -> None:
    for above in along(graph, node.link("clip"), ("clip",)):
        if above.kind == "CLIPSetLastLayer" and "clip_skip" not in words:
            layer = value_of(graph, above, "stop_at_clip_layer", int)
            if layer is not None and layer < 0:
                words["clip_skip"] = -layer
                notes.honour("stop_at_clip_layer", layer)


def model_of(graph: Graph, sampler: Node, words: dict[str, Any], notes: Notes) -> str:
    """The checkpoint's name; LoRAs on the way to it."""
    holders = [sampler, *(graph[link] for link in linked(sampler, ("guider",)) if link in graph)]
    links = [link for node in holders for link in linked(node, ("model",))]
    loras: list[dict[str, Any]] = []
    for node in along(graph, links[0] if links else None, ("model",)):
        if "Checkpoint" in node.kind or node.kind == "UNETLoader":
            name = value_of(graph, node, "ckpt_name", str) or value_of(graph, node, "unet_name", str) or ""
            words["loras"] = loras[::-1]
            return shown(name)
        if node.kind in ("LoraLoader", "LoraLoaderModelOnly"):
            _lora(graph, node, loras, notes)
        elif node.kind == "RescaleCFG":
            words["rescale"] = value_of(graph, node, "multiplier", (int, float))
            notes.honour(node.kind, words["rescale"])
        elif node.kind != "Reroute":
            notes.ignore(node.kind, "", "the model is not changed in this way here")
    words["loras"] = loras[::-1]
    return ""


def _lora(graph: Graph, node: Node, loras: list[dict[str, Any]], notes: Notes) -> None:
    """One LoRA of the chain, by its file's name."""
    path = value_of(graph, node, "lora_name", str) or ""
    name = name_of(path)
    number = (int, float)
    weight, text = (value_of(graph, node, key, number) for key in ("strength_model", "strength_clip"))
    strengths = [1.0 if weight is None else float(weight), 0.0 if text is None else float(text)]
    if name and len(loras) < MOST_LORAS and all(abs(strength) <= 100 for strength in strengths):
        loras.append({"name": name, "weight": strengths[0], "text_weight": strengths[1]})
    else:
        notes.ignore(node.kind, path, "its name or its strength is none that can be used")


def latents_of(graph: Graph, sampler: Node, words: dict[str, Any], notes: Notes) -> tuple[int, Start | None]:
    """(pictures in the batch, the picture that is painted over); sizes go to the words."""
    masked, batch = False, 1
    for node in along(graph, sampler.link("latent_image"), ("samples", "pixels", "image")):
        if node.kind in _LATENTS or {"width", "height", "batch_size"} <= node.inputs.keys():
            for key in ("width", "height"):
                words[key] = value_of(graph, node, key, int)
                notes.honour(key, words[key])
            batch = value_of(graph, node, "batch_size", int) or 1
            return max(batch, 1), None
        masked |= "mask" in node.inputs
        if node.kind == "LoadImage":
            notes.change(
                "LoadImage", node.inputs.get("image"), "its latents were drawn at random; here they are the mean"
            )
            return 1, Start(shown(node.inputs.get("image")), mask=masked)
        if node.kind not in ("VAEEncode", "Reroute", "SetLatentNoiseMask"):
            notes.ignore(node.kind, "", "the latents are not changed in this way here")
    notes.change("latent_image", "", "nobody can tell what it began from; the model's usual size is taken")
    return 1, None
