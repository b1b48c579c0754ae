"""ComfyUI's graphs: nodes with inputs, read from `prompt` or from the screen's `workflow`, and walked upwards.

Every node is seen once in a walk, so that rings and chains of any length end, in linear time.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from aquatint.base.errors import UserError
from aquatint.pipelines.foreign import parse_json

MOST = 10_000  # nodes
_LITERALS = ("value", "text", "string", "prompt", "int", "float", "seed", "number")
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
    "LatentUpscale": ("upscale_method", "width", "height", "crop"),
    "LatentUpscaleBy": ("upscale_method", "scale_by"),
    "ImageScale": ("upscale_method", "width", "height", "crop"),
    "ImageScaleBy": ("upscale_method", "scale_by"),
    "UpscaleModelLoader": ("model_name",),
    "ControlNetLoader": ("control_net_name",),
    "ControlNetApply": ("strength",),
    "ControlNetApplyAdvanced": ("strength", "start_percent", "end_percent"),
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


def read_prompt(text: str) -> Graph:
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


def read_screen(text: str) -> Graph:
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


def linked(node: Node, names: tuple[str, ...] | None = None) -> list[str]:
    """The nodes that inputs lead to."""
    found = (node.link(name) for name in (node.inputs if names is None else names))
    return [name for name in found if name is not None]


def upwards(graph: Graph, begin: list[str]) -> Iterator[str]:
    """The nodes above, each once, the nearest first."""
    waiting, seen = list(dict.fromkeys(begin)), set(begin)
    for name in waiting:  # it grows meanwhile
        if name not in graph:
            continue
        yield name
        for other in linked(graph[name]):
            if other not in seen:
                seen.add(other)
                waiting.append(other)


def along(graph: Graph, name: str | None, inputs: tuple[str, ...]) -> Iterator[Node]:
    """The chain of nodes that leads up through the first of these inputs that is there; each node once."""
    seen: set[str] = set()
    while name is not None and name in graph and name not in seen:
        seen.add(name)
        node = graph[name]
        yield node
        name = next((link for link in map(node.link, inputs) if link is not None), None)
        if name is None and node.kind == "Reroute":
            name = next(iter(linked(node)), None)


def value_of(graph: Graph, node: Node, name: str, kinds: type | tuple[type, ...]) -> Any:
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
