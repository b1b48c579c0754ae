"""Pictures of other programs: what is read, what is told, and that nothing hostile does more than be refused."""

import json
import time
from contextlib import suppress
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from aquatint.base.errors import UserError
from aquatint.diffusion.grids import visited
from aquatint.diffusion.schedule import NoiseSchedule
from aquatint.families import SDXL
from aquatint.pipelines.a1111 import read_a1111
from aquatint.pipelines.comfyui import read_comfyui
from aquatint.pipelines.foreign import Account, Reading, Steer
from aquatint.pipelines.hires import Hires
from aquatint.pipelines.invokeai import read_invokeai, read_sd_metadata
from aquatint.pipelines.metadata import Found
from aquatint.pipelines.reading import read_foreign
from aquatint.pipelines.stream import Stream

GRAPH: dict[str, Any] = {
    "3": {
        "class_type": "KSampler",
        "inputs": {
            "seed": 156680208700286,
            "steps": 20,
            "cfg": 8,
            "sampler_name": "euler_ancestral",
            "scheduler": "normal",
            "denoise": 1,
            "model": ["10", 0],
            "positive": ["6", 0],
            "negative": ["7", 0],
            "latent_image": ["5", 0],
        },
    },
    "4": {"class_type": "CheckpointLoaderSimple", "inputs": {"ckpt_name": "v1-5-pruned-emaonly.safetensors"}},
    "5": {"class_type": "EmptyLatentImage", "inputs": {"width": 512, "height": 768, "batch_size": 1}},
    "6": {"class_type": "CLIPTextEncode", "inputs": {"text": "a (red:1.2) apple", "clip": ["9", 0]}},
    "7": {"class_type": "CLIPTextEncode", "inputs": {"text": "blurry", "clip": ["9", 0]}},
    "8": {"class_type": "VAEDecode", "inputs": {"samples": ["3", 0], "vae": ["4", 2]}},
    "9": {"class_type": "CLIPSetLastLayer", "inputs": {"stop_at_clip_layer": -2, "clip": ["10", 1]}},
    "10": {
        "class_type": "LoraLoader",
        "inputs": {
            "lora_name": "styles\\ink.safetensors",
            "strength_model": 0.8,
            "strength_clip": 0.5,
            "model": ["4", 0],
            "clip": ["4", 1],
        },
    },
    "11": {"class_type": "SaveImage", "inputs": {"filename_prefix": "ComfyUI", "images": ["8", 0]}, "is_changed": None},
}


def changed(**nodes: Any) -> str:
    """GRAPH with inputs of nodes replaced: n3={"seed": 1}; a whole node where it has a class."""
    graph = json.loads(json.dumps(GRAPH))
    for name, inputs in nodes.items():
        if "class_type" in inputs:
            graph[name.removeprefix("n")] = inputs
        else:
            graph[name.removeprefix("n")]["inputs"] |= inputs
    return json.dumps(graph)


def names(rows: Any) -> set[str]:
    return {said.name for said in rows}


def test_a_comfyui_graph() -> None:
    reading = read_comfyui(json.dumps(GRAPH))
    request = reading.request
    assert (request.prompt, request.negative, request.grammar) == ("a (red:1.2) apple", "blurry", "comfy")
    assert (request.width, request.height, request.seeds, request.steps) == (512, 768, (156680208700286,), 20)
    assert (request.sampler, request.grid, request.guidance, request.clip_skip) == ("euler_a", "linspace", 8.0, 2)
    assert (request.noise, request.stream, dict(request.options)) == ("cpu+nv", None, {"start": 1.0})
    (lora,) = request.loras
    assert (lora.name, lora.strengths) == ("ink", (0.8, 0.5))
    assert (reading.program, reading.model) == ("ComfyUI", "v1-5-pruned-emaonly.safetensors")
    assert not reading.account.changed
    assert not reading.account.ignored
    assert {"prompt", "negative", "seed", "steps", "cfg", "sampler"} <= names(reading.account.honoured)


def test_nan_in_a_graph_is_read() -> None:
    assert read_comfyui(json.dumps(GRAPH).replace('"is_changed": null', '"is_changed": [NaN]')).request.steps == 20


def test_a_graph_of_a_batch() -> None:
    reading = read_comfyui(changed(n5={"batch_size": 4}))
    assert reading.request.stream == Stream(0, 4)
    assert names(reading.account.changed) == {"batch_size"}


def test_samplers_that_leave_a_sigma_out() -> None:
    assert dict(read_comfyui(changed(n3={"sampler_name": "dpm_2"})).request.options) == {"discard": 1.0, "start": 1.0}
    unipc = read_comfyui(changed(n3={"sampler_name": "uni_pc"})).request
    assert (unipc.sampler, dict(unipc.options)) == ("unipc", {"bh": 1.0, "discard": 1.0})
    assert dict(read_comfyui(changed(n3={"sampler_name": "uni_pc_bh2"})).request.options) == {"discard": 1.0}


def test_what_is_not_known_is_replaced_and_told() -> None:
    reading = read_comfyui(changed(n3={"sampler_name": "best", "scheduler": "odd"}))
    assert (reading.request.sampler, reading.request.grid) == ("euler", "linspace")
    assert {"sampler_name", "scheduler"} <= names(reading.account.changed)


@pytest.mark.parametrize(("name", "noise"), [("dpmpp_sde", "cpu+nv+cputree"), ("dpmpp_sde_gpu", "cpu+nv+nvtree")])
def test_samplers_with_a_brownian_path(name: str, noise: str) -> None:
    reading = read_comfyui(changed(n3={"sampler_name": name}, n5={"batch_size": 2}))
    request = reading.request
    assert (request.sampler, request.noise, request.stream) == ("dpmpp_sde", noise, Stream(0, 2))
    assert names(reading.account.changed) == {"batch_size"}
    reading = read_invokeai(json.dumps(INVOKE | {"scheduler": "dpmpp_sde_k"}))
    assert "Brownian" in reading.account.changed[0].why


def test_a_picture_under_it() -> None:
    image = {"class_type": "LoadImage", "inputs": {"image": "cat.png"}}
    encode = {"class_type": "VAEEncode", "inputs": {"pixels": ["12", 0], "vae": ["4", 2]}}
    reading = read_comfyui(changed(n3={"denoise": 0.5}, n5=encode, n12=image))
    assert reading.start is not None
    assert reading.start.name == "cat.png"
    assert reading.request.steps == 40  # ComfyUI makes all 20, of a grid of 40
    assert int(reading.request.steps * reading.start.strength) == 20
    masked = {"class_type": "SetLatentNoiseMask", "inputs": {"samples": ["13", 0], "mask": ["12", 1]}}
    reading = read_comfyui(changed(n5=masked, n13=encode, n12=image))
    assert reading.start is not None
    assert (reading.start.mask, reading.start.strength) == (True, 1.0)


def second(**inputs: Any) -> dict[str, Any]:
    """A KSampler after node 3, over what node 21 makes of its latents."""
    again: dict[str, Any] = json.loads(json.dumps(GRAPH["3"]))
    again["inputs"] |= {"latent_image": ["21", 0], "denoise": 0.5, "steps": 14} | inputs
    return again


UP = {"samples": ["3", 0], "upscale_method": "nearest-exact", "width": 1024, "height": 1536, "crop": "disabled"}


def node(kind: str, **inputs: Any) -> dict[str, Any]:
    return {"class_type": kind, "inputs": inputs}


def test_a_second_pass_over_larger_latents() -> None:
    nodes = {"n20": second(), "n21": node("LatentUpscale", **UP), "n8": {"samples": ["20", 0]}}
    reading = read_comfyui(changed(**nodes))
    request = reading.request
    assert (request.width, request.height, request.steps) == (512, 768, 20)
    wanted = Hires(width=1024, height=1536, upscaler="latent_nearest_exact", strength=0.5, steps=14)
    assert request.hires == wanted
    assert not reading.account.changed
    assert not reading.account.ignored
    assert "second pass" in names(reading.account.honoured)

    by = node("LatentUpscaleBy", samples=["3", 0], upscale_method="bislerp", scale_by=1.15)
    other = second(seed=3, sampler_name="dpmpp_2m", scheduler="karras", cfg=5, positive=["40", 0])
    text = node("CLIPTextEncode", text="more leaves", clip=["9", 0])
    reading = read_comfyui(changed(**nodes | {"n20": other, "n21": by, "n40": text}))
    hires = reading.request.hires
    assert hires is not None
    assert (hires.width, hires.height, hires.upscaler) == (592, 880, "latent")  # 64 * 1.15 -> 74, 96 * 1.15 -> 110
    assert (hires.sampler, hires.grid, hires.guidance, hires.prompt) == ("dpmpp_2m", "karras", 5.0, "more leaves")
    assert hires.negative is None
    assert names(reading.account.changed) == {"upscale_method", "seed of the second pass"}


def test_a_second_pass_over_larger_pixels() -> None:
    nodes = {
        "n20": second(latent_image=["27", 0]),
        "n21": node("VAEDecode", samples=["3", 0], vae=["4", 2]),
        "n22": node("UpscaleModelLoader", model_name="up/RealESRGAN_x2plus.pth"),
        "n23": node("ImageUpscaleWithModel", upscale_model=["22", 0], image=["21", 0]),
        "n26": node("ImageScaleBy", image=["23", 0], upscale_method="area", scale_by=0.75),
        "n27": node("VAEEncode", pixels=["26", 0], vae=["4", 2]),
        "n8": {"samples": ["20", 0]},
    }
    reading = read_comfyui(changed(**nodes))
    assert reading.request.hires == Hires(width=768, height=1152, upscaler="RealESRGAN_x2plus", strength=0.5, steps=14)
    assert not reading.account.ignored
    scaled = node("ImageScale", image=["21", 0], upscale_method="lanczos", width=800, height=0, crop="disabled")
    hires = read_comfyui(changed(**nodes | {"n26": scaled})).request.hires
    assert hires is not None
    assert (hires.width, hires.height, hires.upscaler) == (800, 1200, "lanczos")


def test_a_second_pass_that_is_none_here_is_left_out() -> None:
    nodes = {"n20": second(), "n8": {"samples": ["20", 0]}}
    for between in (
        node("Reroute", samples=["3", 0]),
        node("LatentUpscaleBy", samples=["3", 0], scale_by=1e300),
        node("LatentUpscale", samples=["3", 0], width=2**63, height=8),
        node("ImageUpscaleWithModel", image=["3", 0]) | {},
    ):
        reading = read_comfyui(changed(**nodes | {"n21": between}, n5={"width": 4096, "height": 4096}))
        assert reading.request.hires is None
        assert "KSampler" in names(reading.account.ignored)
    third = second(latent_image=["20", 0])
    both = {"n21": node("LatentUpscale", **UP), "n30": third, "n8": {"samples": ["30", 0]}}
    reading = read_comfyui(changed(**nodes | both))
    assert reading.request.hires is not None
    assert names(reading.account.ignored) == {"KSampler"}


def test_base_and_refiner_on_one_path() -> None:
    staged = {"add_noise": "enable", "steps": 25, "start_at_step": 0, "end_at_step": 20}
    base = node("KSamplerAdvanced", **GRAPH["3"]["inputs"] | staged | {"return_with_leftover_noise": "enable"})
    refiner = node("KSamplerAdvanced", **second(latent_image=["3", 0])["inputs"] | staged)
    told = node("CLIPTextEncodeSDXLRefiner", ascore=7.0, text="a (red:1.2) apple", clip=["9", 0])
    refiner["inputs"] |= {"add_noise": "disable", "start_at_step": 20, "end_at_step": 10_000, "positive": ["40", 0]}
    nodes = {"n3": base, "n20": refiner, "n40": told, "n8": {"samples": ["20", 0]}}
    reading = read_comfyui(changed(**nodes))
    refine = reading.request.refine
    assert refine is not None
    assert refine.aesthetic == 7.0
    assert not reading.account.changed
    schedule = NoiseSchedule(SDXL.schedule)
    for grid in ("normal", "karras", "sgm_uniform"):
        base["inputs"]["scheduler"] = refiner["inputs"]["scheduler"] = grid
        request = read_comfyui(changed(**nodes)).request
        assert request.refine is not None
        assert request.grid is not None
        levels = visited(request.grid, schedule, 25, {})
        assert request.refine.level(levels, schedule) is levels[20]
    for odd in ({"steps": 10**9}, {"start_at_step": 19}):
        refiner["inputs"] |= odd
        base["inputs"] |= {"steps": odd["steps"]} if "steps" in odd else {}
        with suppress(UserError):
            assert read_comfyui(changed(**nodes)).request.refine is None


def test_controls_of_other_programs() -> None:
    nodes = {
        "n31": node(
            "ControlNetApplyAdvanced",
            positive=["6", 0],
            negative=["7", 0],
            control_net=["32", 0],
            image=["33", 0],
            strength=0.8,
            start_percent=0.0,
            end_percent=0.6,
        ),
        "n32": node("ControlNetLoader", control_net_name="sd15/canny.pth"),
        "n33": node("Canny", image=["34", 0], low_threshold=0.4, high_threshold=0.8),
        "n34": node("LoadImage", image="photo.png"),
        "n3": {"positive": ["31", 0], "negative": ["31", 1]},
    }
    reading = read_comfyui(changed(**nodes))
    assert reading.steers == (Steer("canny", "photo.png", 0.8, 0.0, 0.6),)
    assert names(reading.account.changed) == {"Canny", "start_percent, end_percent"}
    assert not reading.account.ignored
    nodes["n31"]["inputs"]["strength"] = 1e9
    reading = read_comfyui(changed(**nodes))
    assert (reading.steers, names(reading.account.ignored)) == ((), {"ControlNetApplyAdvanced"})

    row = {"control_model": {"name": "canny"}, "image": {"image_name": "photo.png"}, "resize_mode": "just_resize"}
    row |= {"control_weight": 0.8, "begin_step_percent": 0.1, "end_step_percent": 0.6, "control_mode": "more_control"}
    reading = read_invokeai(json.dumps(INVOKE | {"controlnets": [row, 7, row | {"control_weight": [1, 2]}]}))
    assert reading.steers[0] == Steer("canny", "photo.png", 0.8, 0.1, 0.6, fit="stretch")
    assert len(reading.steers) == 2
    assert names(reading.account.ignored) == {"controlnets", "vae"}
    assert "controlnets control_mode" in names(reading.account.changed)


A_LINE = "a cat\nSteps: 20, Sampler: Euler, CFG scale: 7, Seed: 1, Size: 512x512, "


NEW = """ControlNet 0: "Module: canny, Model: control_canny [d14c016b], Weight: 0.8, Resize Mode: Just Resize,
Processor Res: 512, Threshold A: 90, Threshold B: 180, Guidance Start: 0.1, Guidance End: 0.6, Pixel Perfect: False,
Control Mode: My prompt is more important", Version: v1.10.1"""
OLD = """ControlNet 0: "preprocessor: canny, model: control_canny [d14c016b], weight: 0.8, starting/ending: (0.1, 0.6),
resize mode: Just Resize, pixel perfect: True, control mode: My prompt is more important, threshold a: 90,
threshold b: 180\""""
OLDEST = """ControlNet-0 Enabled: True, ControlNet-0 Module: canny, ControlNet-0 Model: control_canny [d14c016b],
ControlNet-0 Weight: 0.8, ControlNet-0 Guidance Start: 0.1, ControlNet-0 Guidance End: 0.6,
ControlNet-0 Resize Mode: Just Resize, ControlNet-0 Threshold A: 90, ControlNet-0 Threshold B: 180,
ControlNet-0 Control Mode: My prompt is more important"""


@pytest.mark.parametrize("text", [NEW, OLD, OLDEST])
def test_controls_of_a1111_in_three_spellings(text: str) -> None:
    reading = read_a1111(A_LINE + text.replace("\n", " "))
    (steer,) = reading.steers
    options = (("low", 90.0), ("high", 180.0))
    assert steer == Steer("control_canny", "", 0.8, 0.1, 0.6, "canny", options, "stretch")
    assert names(reading.account.changed) == {"ControlNet 0 preprocessor", "ControlNet 0 control mode"}
    assert not reading.account.ignored


def test_controls_of_a1111_that_cannot_be() -> None:
    for odd in (
        "Weight: x",
        "Weight: 1e99",
        "Guidance Start: 0.9, Guidance End: 0.1",
        "Module: canny, Threshold A: -5",
    ):
        reading = read_a1111(f'{A_LINE}ControlNet 1: "Model: some, {odd}"')
        assert reading.steers == ()
        assert names(reading.account.ignored) == {"ControlNet 1"}
    (steer,) = read_a1111(f'{A_LINE}ControlNet 0: "Module: openpose_full, Model: some"').steers
    assert (steer.preprocess, steer.weight) == ("none", 1.0)


def test_nodes_between_are_passed_and_told() -> None:
    free = {"class_type": "FreeU_V2", "inputs": {"model": ["10", 0], "b1": 1.3}}
    control = {
        "class_type": "ControlNetApplyAdvanced",
        "inputs": {"positive": ["6", 0], "negative": ["7", 0], "strength": 1.0},
    }
    reading = read_comfyui(
        changed(n3={"model": ["30", 0], "positive": ["31", 0], "negative": ["31", 1]}, n30=free, n31=control)
    )
    assert (reading.request.prompt, reading.request.negative) == ("a (red:1.2) apple", "blurry")
    assert names(reading.account.ignored) == {"FreeU_V2"}
    text = {"class_type": "PrimitiveString", "inputs": {"value": "two cats"}}
    assert read_comfyui(changed(n6={"text": ["40", 0]}, n40=text)).request.prompt == "two cats"


def test_a_custom_sampler() -> None:
    nodes = {
        "n3": {
            "class_type": "SamplerCustom",
            "inputs": {
                "add_noise": True,
                "noise_seed": 7,
                "cfg": 5,
                "model": ["4", 0],
                "positive": ["6", 0],
                "negative": ["7", 0],
                "sampler": ["50", 0],
                "sigmas": ["51", 0],
                "latent_image": ["5", 0],
            },
        },
        "n50": {"class_type": "KSamplerSelect", "inputs": {"sampler_name": "dpmpp_2m"}},
        "n51": {"class_type": "BasicScheduler", "inputs": {"scheduler": "karras", "steps": 15, "denoise": 1.0}},
    }
    request = read_comfyui(changed(**nodes)).request
    assert (request.sampler, request.grid, request.steps, request.seeds) == ("dpmpp_2m", "karras", 15, (7,))


WORKFLOW = {
    "nodes": [
        {"id": 1, "type": "CheckpointLoaderSimple", "widgets_values": ["m.safetensors"], "inputs": []},
        {"id": 2, "type": "CLIPTextEncode", "widgets_values": ["a cat"], "inputs": [{"name": "clip", "link": 1}]},
        {"id": 3, "type": "CLIPTextEncode", "widgets_values": [""], "inputs": [{"name": "clip", "link": 2}]},
        {"id": 4, "type": "EmptyLatentImage", "widgets_values": [64, 64, 1]},
        {
            "id": 5,
            "type": "KSampler",
            "widgets_values": [9, "randomize", 8, 7.5, "euler", "karras", 1],
            "inputs": [
                {"name": "model", "link": 3},
                {"name": "positive", "link": 4},
                {"name": "negative", "link": 5},
                {"name": "latent_image", "link": 6},
            ],
        },
        {"id": 6, "type": "VAEDecode", "inputs": [{"name": "samples", "link": 7}, {"name": "vae", "link": 8}]},
        {"id": 7, "type": "SaveImage", "widgets_values": ["x"], "inputs": [{"name": "images", "link": 9}]},
    ],
    "links": [
        [1, 1, 1, 2, 0, "CLIP"],
        [2, 1, 1, 3, 0, "CLIP"],
        [3, 1, 0, 5, 0, "MODEL"],
        [4, 2, 0, 5, 1, "CONDITIONING"],
        [5, 3, 0, 5, 2, "CONDITIONING"],
        [6, 4, 0, 5, 3, "LATENT"],
        [7, 5, 0, 6, 0, "LATENT"],
        [8, 1, 2, 6, 1, "VAE"],
        [9, 6, 0, 7, 0, "IMAGE"],
    ],
}


def test_the_graph_on_the_screen() -> None:
    reading = read_comfyui(None, json.dumps(WORKFLOW))
    request = reading.request
    assert (request.prompt, request.width, request.seeds, request.steps) == ("a cat", 64, (9,), 8)
    assert (request.guidance, request.sampler, request.grid, reading.model) == (7.5, "euler", "karras", "m.safetensors")


INVOKE = {
    "generation_mode": "txt2img",
    "positive_prompt": "a cat",
    "negative_prompt": "blurry",
    "width": 512,
    "height": 512,
    "seed": 5,
    "rand_device": "cpu",
    "cfg_scale": 7.5,
    "cfg_rescale_multiplier": 0,
    "steps": 30,
    "scheduler": "euler_a",
    "clip_skip": 1,
    "model": {"key": "x", "name": "dreamshaper", "base": "sd-1"},
    "loras": [{"model": {"name": "ink"}, "weight": 0.7}],
    "vae": {"name": "mse"},
    "controlnets": [],
    "app_version": "5.0.0",
}


def test_invokeai() -> None:
    reading = read_invokeai(json.dumps(INVOKE))
    request = reading.request
    assert (request.prompt, request.negative, request.grammar) == ("a cat", "blurry", "plain")
    assert (request.sampler, request.grid, request.clip_skip, request.seeds) == ("euler_a", "linspace", 2, (5,))
    assert (request.noise, 5 + request.ensd) == ("cpu+nv", 5 ^ 0xFFFFFFFF)
    assert [lora.name for lora in request.loras] == ["ink"]
    assert reading.model == "dreamshaper"
    assert names(reading.account.ignored) == {"vae"}
    assert read_invokeai(json.dumps(INVOKE | {"generation_mode": "img2img", "strength": 0.6})).start is not None


def test_invokeai_2() -> None:
    data = {
        "model": "stable diffusion",
        "model_weights": "stable-diffusion-1.5",
        "app_id": "invoke-ai/InvokeAI",
        "image": {
            "prompt": [{"prompt": "a cat [blurry] asleep", "weight": 1.0}],
            "steps": 50,
            "cfg_scale": 7.5,
            "height": 512,
            "width": 512,
            "seed": 42,
            "type": "txt2img",
            "sampler": "k_lms",
            "perlin": 0.2,
        },
    }
    reading = read_sd_metadata(json.dumps(data))
    request = reading.request
    assert (request.prompt, request.negative, request.sampler, request.seeds) == (
        "a cat asleep",
        "blurry",
        "lms",
        (42,),
    )
    assert (reading.model, names(reading.account.ignored)) == ("stable-diffusion-1.5", {"perlin"})


A1111 = """photo of a (castle:1.2), <lora:detail:0.8>
Negative prompt: blurry
Steps: 30, Sampler: DPM++ 2M SDE, Schedule type: Automatic, CFG scale: 6.5, Seed: 31, Face restoration: CodeFormer, \
Size: 512x768, Model hash: 6ce0161689, Model: v1-5, Denoising strength: 0.55, Clip skip: 2, ENSD: 31337, \
Hires upscale: 2, Hires upscaler: Latent, ADetailer model: face_yolov8n.pt, Lora hashes: "detail: 7c6bad76eb54", \
Version: v1.10.1"""


def test_an_infotext_of_a1111() -> None:
    reading = read_a1111(A1111)
    request = reading.request
    assert (request.sampler, request.grid) == ("dpmpp_2m_sde", "exponential")
    assert (request.noise, request.ensd) == ("nv+tree", 31337)  # its path is the card's
    assert dict(request.options) == {"start": 0.0}
    assert (reading.model, reading.model_hash) == ("v1-5", "6ce0161689")
    assert dict(reading.lora_hashes) == {"detail": "7c6bad76eb54"}
    assert reading.start is None
    ignored = {said.name: said.why for said in reading.account.ignored}
    assert set(ignored) == {"Face restoration", "ADetailer model"}
    assert request.hires == Hires(scale=2.0, upscaler="latent", strength=0.55)
    assert not reading.account.changed
    assert {"Steps", "Seed", "Size", "CFG scale", "Clip skip", "ENSD", "RNG"} <= names(reading.account.honoured)


@pytest.mark.parametrize(
    ("line", "sampler", "grid", "options"),
    [
        ("Sampler: DPM++ 2M Karras, Version: v1.6.0", "dpmpp_2m", "karras", {"start": 0.0}),
        ("Sampler: DPM++ 2M, Version: v1.6.0", "dpmpp_2m", "linspace", {"start": 0.0}),
        ("Sampler: DPM++ 2M, Schedule type: Automatic, Version: v1.9.0", "dpmpp_2m", "karras", {"start": 0.0}),
        ("Sampler: DPM2 a, Schedule type: Automatic", "dpm_2_a", "karras", {"discard": 1.0}),
        ("Sampler: Euler a, Schedule type: Automatic", "euler_a", "linspace", {}),
        ("Sampler: DDIM", "ddim", "leading", {}),
        ("Sampler: UniPC", "unipc", "sgm_uniform", {"bh": 1.0}),
        ("Sampler: Euler, Sigma churn: 0.5, Schedule type: Karras, Schedule rho: 5", "euler", "karras",
         {"s_churn": 0.5, "rho": 5.0}),
    ],
)  # fmt: skip
def test_a1111s_schedules(line: str, sampler: str, grid: str, options: dict[str, float]) -> None:
    request = read_a1111(f"a\nSteps: 20, {line}, CFG scale: 7, Seed: 1, Size: 64x64").request
    assert (request.sampler, request.grid, dict(request.options)) == (sampler, grid, options)


def test_a1111_over_a_picture() -> None:
    text = "a\nSteps: 20, Sampler: Euler, CFG scale: 7, Seed: 1, Size: 64x64, Denoising strength: 0.75, Mask blur: 4"
    reading = read_a1111(text + ", Inpaint area: Only masked, Masked area padding: 32, Masked content: latent noise")
    assert reading.start is not None
    assert int(20 * reading.start.strength) == 16  # A1111 makes int(0.75 * 20) + 1
    start = reading.start
    assert (start.mask, start.blur, start.masked, start.padding, start.fill) == (True, 4.0, True, 32, "noise")


def test_who_is_read_first() -> None:
    texts = {"prompt": json.dumps(GRAPH), "invokeai_metadata": json.dumps(INVOKE)}

    def read(**changes: Any) -> str:
        reading = read_foreign(Found(None, A1111, False, (), texts | changes))
        assert reading is not None
        return reading.program

    assert read() == "ComfyUI"
    assert read(prompt="{}") == "InvokeAI"
    assert read(prompt="{}", invokeai_metadata="[]") == "AUTOMATIC1111"
    assert read_foreign(Found(None, None, False)) is None
    with pytest.raises(UserError, match="no sampler"):
        read_foreign(Found(None, None, False, (), {"prompt": "{}"}))


LEAVES = st.sampled_from(
    [None, True, 0, -1, 7, 10**30, 10**400, 1e308, -0.5, 0.3, "", "x", "euler", "\x00", "é" * 300, ["3", 0], ["3"],
     [3, 3], ["99", 0], [[["3", 0]]], {"3": {}}, float("inf")]
)  # fmt: skip
KEYS = sorted({key for node in GRAPH.values() for key in node["inputs"]} | {"conditioning", "clip", "width", "value"})
KINDS = sorted({node["class_type"] for node in GRAPH.values()} | {"LoadImage", "ConditioningCombine", "Reroute", ""})
NODES = st.fixed_dictionaries(
    {
        "class_type": st.sampled_from(KINDS) | LEAVES,
        "inputs": st.dictionaries(st.sampled_from(KEYS), LEAVES, max_size=8) | LEAVES,
    }
)


def total(read: Any, text: str) -> None:
    """A Reading that can be told and written, or a UserError."""
    with suppress(UserError):
        reading = read(text)
        assert isinstance(reading, Reading)
        assert isinstance(reading.account, Account)
        assert all(len(said.value) <= 200 for said in reading.account.honoured)


def fuzz_comfyui(changes: dict[str, Any], extra: dict[str, Any]) -> None:
    graph = json.loads(json.dumps(GRAPH))
    for (name, key), value in changes.items():
        graph[name]["inputs"][key] = value
    total(read_comfyui, json.dumps(graph | extra))


CHANGES = st.dictionaries(st.tuples(st.sampled_from(sorted(GRAPH)), st.sampled_from(KEYS)), LEAVES, max_size=4)
EXTRA = st.dictionaries(st.sampled_from([*GRAPH, "50", "99"]), NODES | LEAVES, max_size=4)
INVOKES = st.dictionaries(st.sampled_from([*INVOKE, "strength", "image", "odd"]), LEAVES, max_size=5)
KEYS_OF_A1111 = "Steps|Sampler|CFG scale|Seed|Size|Denoising strength|Mask blur|Clip skip|Sigma churn|Schedule rho"
KEYS_OF_A1111 += "|Lora hashes|Hires upscale|Version|ENSD|RNG"
VALUES = ["", "1", "-1", "1e999", "nan", "9" * 5000, "DPM++ 2M", "512x", "x", "aquatint 9", '"', "True"]
LINES = st.lists(
    st.tuples(st.sampled_from(KEYS_OF_A1111.split("|")), st.sampled_from(VALUES) | st.text(max_size=8)), max_size=8
)
ON_SCREEN = ["nodes", "links", "id", "type", "inputs", "name", "link", "widgets_values"]


def deeper(inner: Any) -> Any:
    return st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(ON_SCREEN), inner, max_size=4)


def fuzz_all(changes: Any, extra: Any, invoke: Any, lines: Any, text: str) -> None:
    fuzz_comfyui(changes, extra)
    total(read_invokeai, json.dumps(INVOKE | invoke))
    total(read_sd_metadata, json.dumps({"image": INVOKE | {"prompt": "x"} | invoke} | invoke))
    total(read_a1111, "a cat\n" + ", ".join(f"{key}: {value}" for key, value in lines))
    for read in (read_a1111, read_comfyui, read_invokeai, read_sd_metadata, lambda text: read_comfyui(None, text)):
        total(read, text)


@settings(max_examples=200, deadline=None)
@given(CHANGES, EXTRA, INVOKES, LINES, st.text(max_size=60))
def test_nothing_raises_but_user_errors(changes: Any, extra: Any, invoke: Any, lines: Any, text: str) -> None:
    fuzz_all(changes, extra, invoke, lines, text)


@pytest.mark.slow
@settings(max_examples=25_000, deadline=None)  # nine readings each: 225,000 in all
@given(CHANGES, EXTRA, INVOKES, LINES, st.text(max_size=60))
def test_nothing_raises_but_user_errors_at_length(changes: Any, extra: Any, invoke: Any, lines: Any, text: str) -> None:
    fuzz_all(changes, extra, invoke, lines, text)


@settings(max_examples=200, deadline=None)
@given(st.recursive(LEAVES, deeper))
def test_any_screen_is_read_or_refused(data: Any) -> None:
    total(lambda text: read_comfyui(None, text), json.dumps(data))
    total(lambda text: read_comfyui(None, text), json.dumps(WORKFLOW | {"links": data}))
    total(lambda text: read_comfyui(None, text), json.dumps({"nodes": [data] * 3, "links": WORKFLOW["links"]}))


def chain(count: int, *, ring: bool) -> str:
    """A graph whose model, conditioning and latents go through `count` nodes, or round and round."""
    graph = json.loads(json.dumps(GRAPH))
    for index in range(count):
        above = str(1000 + (index + 1) % count if ring else 1001 + index)
        inputs = {key: [above, 0] for key in ("model", "conditioning", "samples", "clip", "any")}
        graph[str(1000 + index)] = {"class_type": "Reroute", "inputs": inputs}
    graph["3"]["inputs"] |= {"model": ["1000", 0], "latent_image": ["1000", 0], "positive": ["1000", 0]}
    return json.dumps(graph)


@pytest.mark.parametrize("ring", [False, True])
def test_long_chains_and_rings_end_in_linear_time(ring: bool) -> None:
    seconds = []
    for count in (1_000, 8_000):
        text, took = chain(count, ring=ring), []
        for _ in range(3):
            began = time.thread_time()  # not the clock, and the best of three: other tests run beside this one
            with pytest.raises(UserError):
                read_comfyui(text)
            took.append(time.thread_time() - began)
        seconds.append(min(took))
    assert seconds[1] < 32 * seconds[0]  # eight times as long; 64 would be its square


@pytest.mark.parametrize("text", ["[" * 100_000, '{"a":' * 100_000, "9" * 5000, '{"3": ' + "9" * 5000 + "}", "[]", "1"])
def test_hostile_json(text: str) -> None:
    for read in (read_comfyui, read_invokeai, read_sd_metadata, lambda text: read_comfyui(None, text)):
        with pytest.raises(UserError):
            read(text)
    with pytest.raises(UserError, match="At most"):
        read_invokeai(" " * (9 * 2**20))


def test_deep_values_are_not_spelled_out() -> None:
    deep = "[" * 900 + "]" * 900
    reading = read_invokeai(json.dumps(INVOKE)[:-1] + f', "odd": {deep}}}')
    assert "a list of 1" in [said.value for said in reading.account.ignored]


ODD_VALUES = (None, -1, 0, 2**63, 1e308, -0.5, "x", "", [], ["3", 0], ["20", 0], {"a": 1}, True)


def test_graphs_of_two_passes_with_any_one_value_replaced() -> None:
    """Whatever stands in one place, there is a reading, or a UserError."""
    pixels = {
        "n21": node("VAEDecode", samples=["3", 0], vae=["4", 2]),
        "n22": node("UpscaleModelLoader", model_name="up/RealESRGAN_x2plus.pth"),
        "n23": node("ImageUpscaleWithModel", upscale_model=["22", 0], image=["21", 0]),
        "n24": node("ImageScaleBy", image=["23", 0], upscale_method="area", scale_by=0.75),
        "n25": node("ImageScale", image=["24", 0], upscale_method="area", width=640, height=0, crop="disabled"),
        "n20": second(latent_image=["25", 0], positive=["31", 0]),
    }
    staged = {"steps": 25, "start_at_step": 0, "end_at_step": 20, "return_with_leftover_noise": "enable"}
    stages = {
        "n3": node("KSamplerAdvanced", **GRAPH["3"]["inputs"] | staged),
        "n20": node("KSamplerAdvanced", **GRAPH["3"]["inputs"] | {"start_at_step": 20, "latent_image": ["3", 0]}),
    }
    inputs = {"control_net": ["32", 0], "image": ["34", 0], "strength": 0.8, "start_percent": 0.0, "end_percent": 0.6}
    control = {
        "n31": node("ControlNetApplyAdvanced", positive=["6", 0], negative=["7", 0], **inputs),
        "n32": node("ControlNetLoader", control_net_name="sd15/canny.pth"),
        "n34": node("LoadImage", image="photo.png"),
    }
    read = 0
    for nodes in (pixels, stages):
        graph = json.loads(changed(**control | nodes, n8={"samples": ["20", 0]}))
        for row in graph.values():
            for name, kept in list(row["inputs"].items()):
                for odd in ODD_VALUES:
                    row["inputs"][name] = odd
                    with suppress(UserError):
                        read_comfyui(json.dumps(graph))
                        read += 1
                row["inputs"][name] = kept
    assert read > 500
