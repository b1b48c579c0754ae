"""Pictures of ComfyUI as requests of ours: from the graph that painted them (`prompt`), or the one on its screen.

A graph is walked from the picture that was saved, upwards: the samplers, their conditionings, latents and model. Kinds
of nodes that are not known are passed through where one of their inputs has the right name, and told.
"""

from dataclasses import replace
from typing import Any

from aquatint.base import config
from aquatint.base.errors import UserError
from aquatint.pipelines.comfygraph import read_prompt, read_screen
from aquatint.pipelines.comfynodes import latents_of, model_of, said_by, steers_of, steps_of, stretch_of
from aquatint.pipelines.comfypasses import SAMPLING, passes_of, second_pass
from aquatint.pipelines.foreign import Notes, Reading, Start, note_sampler
from aquatint.pipelines.profiles import replayed
from aquatint.pipelines.request import Request
from aquatint.pipelines.stream import LARGEST, Stream


def read_comfyui(prompt: str | None, workflow: str | None = None) -> Reading:
    """What ComfyUI wrote into a picture, as a Reading; UserError where it leads to nothing that we can paint."""
    graph = read_prompt(prompt) if prompt is not None else read_screen(workflow or "")
    passes = passes_of(graph)
    if not passes:
        raise UserError("The ComfyUI graph has no sampler of its own kinds.", f"One of {', '.join(SAMPLING)}.")
    notes, words, (sampler, *later) = Notes(), dict[str, Any](), passes
    steps_of(graph, sampler, words, notes)
    said_by(graph, sampler, words, notes)
    model = model_of(graph, sampler, words, notes)
    batch, start = latents_of(graph, sampler, words, notes)
    steers = steers_of(graph, sampler, notes)
    if later and start is None:
        second_pass(graph, sampler, later[0], words, notes)
    for node in later[0 if start else 1 :]:
        notes.ignore(node.kind, "", "no further pass is painted")
    stretch, steps = stretch_of(graph, sampler, words.get("steps", 20)), words.get("steps", 20)
    if stretch != (0, steps) and "refine" not in words:
        notes.change("start_at_step, end_at_step", f"{stretch[0]}, {stretch[1]}", "all steps are made")
    start = _strong(start, words, notes)
    seed = words.pop("seed", 0)
    if batch > 1:
        notes.change("batch_size", batch, "the file does not say which of them it is; the first is painted")
    (request,) = replayed(config.from_data(Request, words | {"seeds": (seed,)}), "comfyui")
    request = replace(request, stream=Stream(0, min(batch, LARGEST))) if batch > 1 else request
    note_sampler(notes, "sampler", words.get("sampler", "euler"), request)
    notes.honour("seed", seed)
    return Reading("ComfyUI", "comfyui", request, notes.account(), model, start=start, steers=steers)


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
