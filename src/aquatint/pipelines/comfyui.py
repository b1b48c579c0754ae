"""Pictures of ComfyUI as requests of ours: from the graph that painted them (`prompt`), or the one on its screen.

A graph is walked from the picture that was saved, upwards: the sampler, its two conditionings, its latents and its
model. Every node is seen once in each of these walks, so that rings and chains of any length end, in linear time.
Kinds of nodes that are not known are passed through where one of their inputs has the right name, and told.
"""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

from aquatint.base import config
from aquatint.base.errors import UserError
from aquatint.diffusion.names import grid_named, sampler_named
from aquatint.pipelines.foreign import Notes, Reading, Start, note_sampler, parse_json, shown
from aquatint.pipelines.profiles import replayed
from aquatint.pipelines.request import Request
from aquatint.pipelines.stream import LARGEST, Stream

MOST = 10_000  # nodes
MOST_LORAS = 64
SAMPLING = ("KSampler", "KSamplerAdvanced", "SamplerCustom", "SamplerCustomAdvanced")
_TEXTS = {"CLIPTextEncode": "text", "CLIPTextEncodeSDXL": "text_g", "CLIPTextEncodeSDXLRefiner": "text"}
_ALONG = ("conditioning", "conditioning_1", "conditioning_to", "positive", "negative")
_LITERALS = ("value", "text", "string", "prompt", "int", "float", "seed", "number")
_LATENTS = ("EmptyLatentImage", "EmptySD3LatentImage", "SDXLEmptyLatentSizePicker+")
# What stands in a node of the screen's graph, in its order.
_WIDGETS = {
    "KSampler": ("seed", "", "steps", "cfg", "sampler_name", "scheduler", "denoise"),
    "KSamplerAdvanced": (
        "add_noise", "noise_seed", "", "steps", "cfg", "sampler_name", "scheduler", "start_at_step", "end_at_step",
        "return_with_leftover_noise",
    ),
    "SamplerCustom": ("add_noise", "noise_seed", "", "cfg"),
    "KSamplerSelect": ("sampler_name",),
    "BasicScheduler": ("scheduler", "steps", "denoise"),
    "RandomNoise": ("noise_seed", ""),
    "CLIPTextEncode": ("text",),
    "CLIPSetLastLayer": ("stop_at_clip_layer",),
    "EmptyLatentImage": ("width", "height", "batch_size"),
    "CheckpointLoaderSimple": ("ckpt_name",),
    "LoraLoader": ("lora_name", "strength_model", "strength_clip"),
    "LoraLoaderModelOnly": ("lora_name", "strength_model"),
    "VAELoader": ("vae_name",),
    "LoadImage": ("image", ""),
    "RescaleCFG": ("multiplier",),
    "VAEEncodeForInpaint": ("grow_mask_by",),
}  # fmt: skip


@dataclass(frozen=True)
class Node:
    """A node: its kind, and its inputs, each a value or a link to another node."""

    kind: str
    inputs: dict[str, Any]

    def link(self, name: str) -> str | None:
        """The node that an input leads to; None for a value, or nothing."""
        value = self.inputs.get(name)
        if isinstance(value, list) and len(value) == 2 and isinstance(value[0], str | int):
            return str(value[0])
        return None


Graph = dict[str, Node]


def read_comfyui(prompt: str | None, workflow: str | None = None) -> Reading:
    """What ComfyUI wrote into a picture, as a Reading; UserError where it leads to nothing that we can paint."""
    graph = _graph(prompt) if prompt is not None else _screen(workflow or "")
    found = _sampler(graph)
    if found is None:
        raise UserError("The ComfyUI graph has no sampler of its own kinds.", f"One of {', '.join(SAMPLING)}.")
    notes = Notes()
    sampler, later = found
    if later:
        notes.ignore("second sampler", later, "the first of its passes is painted, and no other")
    words: dict[str, Any] = {}
    _steps(graph, sampler, words, notes)
    _said(graph, sampler, words, notes)
    model = _model(graph, sampler, words, notes)
    batch, start = _latents(graph, sampler, words, notes)
    start = _strong(start, words, notes)
    seed = words.pop("seed", 0)
    if batch > 1:
        notes.change("batch_size", batch, "the file does not say which of them it is; the first is painted")
    (request,) = replayed(config.from_data(Request, words | {"seeds": (seed,)}), "comfyui")
    request = replace(request, stream=Stream(0, min(batch, LARGEST))) if batch > 1 else request
    note_sampler(notes, "sampler", words.get("sampler", "euler"), request)
    notes.honour("seed", seed)
    return Reading("ComfyUI", "comfyui", request, notes.account(), model, start=start)


def _strong(start: Start | None, words: dict[str, Any], notes: Notes) -> Start | None:
    """How far from its picture. ComfyUI makes all the steps, of a grid that is longer by the strength."""
    strength, made = words.pop("denoise"), words.get("steps")
    if start is None:
        if strength < 1:
            notes.ignore("denoise", strength, "there is no picture under it")
        return None
    if strength == 1 or not made:
        return replace(start, strength=1.0)
    words["steps"] = int(made / max(strength, 0.001))
    return replace(start, strength=min(1.0, made / words["steps"] + 1e-9))


def _graph(text: str) -> Graph:
    """The graph of a `prompt`: {"3": {"class_type": ..., "inputs": {...}}, ...}; what is no node is passed over."""
    data = parse_json(text, "The ComfyUI prompt")
    if not isinstance(data, dict) or len(data) > MOST:
        raise UserError("The ComfyUI prompt is no graph.", f"An object of at most {MOST:,} nodes.")
    nodes = {}
    for name, node in data.items():
        kind, inputs = (node.get("class_type"), node.get("inputs")) if isinstance(node, dict) else (None, None)
        if isinstance(kind, str) and isinstance(inputs, dict):
            nodes[name] = Node(kind, inputs)
    return nodes


def _screen(text: str) -> Graph:
    """The graph of a `workflow`, as the screen shows it: nodes with links by number and values without names."""
    data = parse_json(text, "The ComfyUI workflow")
    nodes, links = (data.get("nodes"), data.get("links")) if isinstance(data, dict) else (None, None)
    if not isinstance(nodes, list) or len(nodes) > MOST or (links is not None and not isinstance(links, list)):
        raise UserError("The ComfyUI workflow is no graph.", f"An object with a list of at most {MOST:,} nodes.")
    ends = {row[0]: [str(row[1]), row[2]] for row in links or () if _is_link(row)}
    graph = {}
    for node in nodes:
        if not isinstance(node, dict) or not isinstance(node.get("type"), str):
            continue
        values, inputs = node.get("widgets_values"), dict[str, Any]()
        if isinstance(values, dict):
            inputs |= {name: value for name, value in values.items() if isinstance(name, str)}
        elif isinstance(values, list):
            names = _WIDGETS.get(node["type"], ())[: len(values)]
            inputs |= {name: value for name, value in zip(names, values[: len(names)], strict=True) if name}
        for slot in node["inputs"] if isinstance(node.get("inputs"), list) else ():
            if isinstance(slot, dict) and isinstance(slot.get("name"), str) and _known(slot.get("link"), ends):
                inputs[slot["name"]] = ends[slot["link"]]
        graph[str(node.get("id"))] = Node(node["type"], inputs)
    return graph


def _is_link(row: Any) -> bool:
    return isinstance(row, list) and len(row) >= 5 and isinstance(row[0], int) and isinstance(row[1], str | int)


def _known(link: Any, ends: dict[Any, Any]) -> bool:
    return isinstance(link, int) and link in ends


def _sampler(graph: Graph) -> tuple[Node, str] | None:
    """The sampler of the first pass to the picture that was saved, and the kind of a later one that there is."""
    ends = [name for name, node in graph.items() if node.link("images") is not None]
    near = next((name for name in _upwards(graph, ends or list(graph)) if graph[name].kind in SAMPLING), None)
    if near is None:
        return None
    earlier = _upwards(graph, _linked(graph[near], ("latent_image",)))
    chain = [graph[name] for name in earlier if graph[name].kind in SAMPLING]
    return (chain[-1], graph[near].kind) if chain else (graph[near], "")


def _linked(node: Node, names: tuple[str, ...] | None = None) -> list[str]:
    """The nodes that inputs lead to."""
    found = (node.link(name) for name in (node.inputs if names is None else names))
    return [name for name in found if name is not None]


def _upwards(graph: Graph, begin: list[str]) -> Iterator[str]:
    """The nodes above, each once, the nearest first."""
    waiting, seen = list(dict.fromkeys(begin)), set(begin)
    for name in waiting:  # it grows meanwhile
        if name not in graph:
            continue
        yield name
        for other in _linked(graph[name]):
            if other not in seen:
                seen.add(other)
                waiting.append(other)


def _along(graph: Graph, name: str | None, inputs: tuple[str, ...]) -> Iterator[Node]:
    """The chain of nodes that leads up through the first of these inputs that is there; each node once."""
    seen: set[str] = set()
    while name is not None and name in graph and name not in seen:
        seen.add(name)
        node = graph[name]
        yield node
        name = next((link for link in map(node.link, inputs) if link is not None), None)
        if name is None and node.kind == "Reroute":
            name = next(iter(_linked(node)), None)


def _value(graph: Graph, node: Node, name: str, kinds: type | tuple[type, ...]) -> Any:
    """An input's value, also where a node that only holds a value gives it; None if there is none of these kinds."""
    for _ in range(20):
        value = node.inputs.get(name)
        if isinstance(value, kinds) and not isinstance(value, bool):
            return value if not isinstance(value, int) or abs(value) < 2**64 else None
        link = node.link(name)
        if link is None or link not in graph:
            return None
        node = graph[link]
        name = next((key for key in (name, *_LITERALS) if key in node.inputs), "")
        name = name or next(iter(key for key, one in node.inputs.items() if isinstance(one, kinds)), "")
    return None


def _steps(graph: Graph, sampler: Node, words: dict[str, Any], notes: Notes) -> None:
    """Seed, steps, guidance, sampler and grid."""
    number = (int, float)
    parts = [
        sampler,
        *(graph[link] for link in _linked(sampler, ("sampler", "sigmas", "noise", "guider")) if link in graph),
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
            value = _value(graph, node, key, kinds)
            if value is not None and field not in words:
                words[field] = value
                if field not in ("seed", "sampler", "denoise"):
                    notes.honour(key, value)
    words["denoise"] = min(1.0, max(0.0, float(words.get("denoise", 1.0))))
    if "sampler" not in words and len(parts) > 1:
        notes.change("sampler", ", ".join(node.kind for node in parts[1:]), "Euler is taken")
    _named(words, notes)
    begins, ends = (_value(graph, sampler, key, int) for key in ("start_at_step", "end_at_step"))
    if begins or (ends is not None and ends < words.get("steps", 0)):
        notes.change("start_at_step, end_at_step", f"{begins}, {ends}", "all steps are made")


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


def _said(graph: Graph, sampler: Node, words: dict[str, Any], notes: Notes) -> None:
    """Prompt and negative, and the layer of the text encoder that is read."""
    holders = [sampler, *(graph[link] for link in _linked(sampler, ("guider",)) if link in graph)]
    for field, inputs in (("prompt", ("positive", "conditioning")), ("negative", ("negative",))):
        links = [link for node in holders for link in _linked(node, inputs)]
        text = None
        for node in _along(graph, links[0] if links else None, (field.replace("prompt", "positive"), *_ALONG)):
            if node.kind in _TEXTS:
                text = _value(graph, node, _TEXTS[node.kind], str)
                _layer(graph, node, words, notes)
                break
            if node.kind == "ConditioningZeroOut":
                text = ""
                notes.change(node.kind, field, "an empty text is said in its place")
                break
            _passed(node, notes)
        if text is None and field == "prompt":
            raise UserError("The ComfyUI graph's prompt is not a text in a CLIPTextEncode.", "A plain text.")
        words[field] = text or ""
        notes.honour(field, text or "")


def _passed(node: Node, notes: Notes) -> None:
    """A node between sampler and text, of which nothing is repeated."""
    if node.kind == "Reroute":
        return
    second = [name for name in ("conditioning_2", "conditioning_from") if name in node.inputs]
    why = "only the first of its conditionings is said" if second else "it is passed over"
    notes.ignore(node.kind, "", why)


def _layer(graph: Graph, node: Node, words: dict[str, Any], notes: Notes) -> None:
    for above in _along(graph, node.link("clip"), ("clip",)):
        if above.kind == "CLIPSetLastLayer" and "clip_skip" not in words:
            layer = _value(graph, above, "stop_at_clip_layer", int)
            if layer is not None and layer < 0:
                words["clip_skip"] = -layer
                notes.honour("stop_at_clip_layer", layer)


def _model(graph: Graph, sampler: Node, words: dict[str, Any], notes: Notes) -> str:
    """The checkpoint's name; LoRAs on the way to it."""
    holders = [sampler, *(graph[link] for link in _linked(sampler, ("guider",)) if link in graph)]
    links = [link for node in holders for link in _linked(node, ("model",))]
    loras: list[dict[str, Any]] = []
    for node in _along(graph, links[0] if links else None, ("model",)):
        if "Checkpoint" in node.kind or node.kind == "UNETLoader":
            name = _value(graph, node, "ckpt_name", str) or _value(graph, node, "unet_name", str) or ""
            words["loras"] = loras[::-1]
            return shown(name)
        if node.kind in ("LoraLoader", "LoraLoaderModelOnly"):
            _lora(graph, node, loras, notes)
        elif node.kind == "RescaleCFG":
            words["rescale"] = _value(graph, node, "multiplier", (int, float))
            notes.honour(node.kind, words["rescale"])
        elif node.kind != "Reroute":
            notes.ignore(node.kind, "", "the model is not changed in this way here")
    words["loras"] = loras[::-1]
    return ""


def _lora(graph: Graph, node: Node, loras: list[dict[str, Any]], notes: Notes) -> None:
    """One LoRA of the chain, by its file's name."""
    path = _value(graph, node, "lora_name", str) or ""
    name = path.replace("\\", "/").rpartition("/")[2].rpartition(".")[0].strip()[:200]
    number = (int, float)
    weight, text = (_value(graph, node, key, number) for key in ("strength_model", "strength_clip"))
    strengths = [1.0 if weight is None else float(weight), 0.0 if text is None else float(text)]
    if name and len(loras) < MOST_LORAS and all(abs(strength) <= 100 for strength in strengths):
        loras.append({"name": name, "weight": strengths[0], "text_weight": strengths[1]})
    else:
        notes.ignore(node.kind, path, "its name or its strength is none that can be used")


def _latents(graph: Graph, sampler: Node, words: dict[str, Any], notes: Notes) -> tuple[int, Start | None]:
    """(pictures in the batch, the picture that is painted over); sizes go to the words."""
    masked, batch = False, 1
    for node in _along(graph, sampler.link("latent_image"), ("samples", "pixels", "image")):
        if node.kind in _LATENTS or {"width", "height", "batch_size"} <= node.inputs.keys():
            for key in ("width", "height"):
                words[key] = _value(graph, node, key, int)
                notes.honour(key, words[key])
            batch = _value(graph, node, "batch_size", int) or 1
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
