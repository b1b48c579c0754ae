"""Pictures of other programs: what is read, what is told, and that nothing hostile does more than be refused."""

import json
import time
from contextlib import suppress
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from aquatint.base.errors import UserError
from aquatint.pipelines.a1111 import read_a1111
from aquatint.pipelines.comfyui import read_comfyui
from aquatint.pipelines.foreign import Account, Reading
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


def test_a_second_pass_is_left_out() -> None:
    second = json.loads(changed(n5={"width": 1024}))["3"] | {}
    second["inputs"]["latent_image"] = ["21", 0]
    up = {"class_type": "LatentUpscale", "inputs": {"samples": ["3", 0], "width": 1024, "height": 1536}}
    reading = read_comfyui(changed(n20=second, n21=up, n8={"samples": ["20", 0]}))
    assert (reading.request.width, reading.request.height) == (512, 768)
    assert names(reading.account.ignored) == {"second sampler"}


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
    assert names(reading.account.ignored) == {"FreeU_V2", "ControlNetApplyAdvanced"}
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
        text, began = chain(count, ring=ring), time.thread_time()  # not the clock: other tests run beside this one
        with pytest.raises(UserError):
            read_comfyui(text)
        seconds.append(time.thread_time() - began)
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
