"""The documents of diffusers folders as they were published, and what stands in a request's defaults for them."""

from dataclasses import replace
from typing import Any

import pytest

from aquatint.base.errors import UserError
from aquatint.diffusion.grids import GRIDS
from aquatint.diffusion.samplers import SAMPLERS
from aquatint.families import (
    SD15,
    SD15_INPAINT,
    SD15_LCM,
    SD15_PIX2PIX,
    SD21,
    SD21_DEPTH,
    SD21_INPAINT,
    SD21_V,
    SDXL,
    SDXL_INPAINT,
    SDXL_REFINER,
)
from aquatint.weights import assembly, folder
from aquatint.weights.diffusers import pairs
from aquatint.weights.keymap import shapes

CROSS_DOWN = ["CrossAttnDownBlock2D"] * 3 + ["DownBlock2D"]
CROSS_UP = ["UpBlock2D"] + ["CrossAttnUpBlock2D"] * 3
UNET = {
    "_class_name": "UNet2DConditionModel",
    "_diffusers_version": "0.6.0",
    "act_fn": "silu",
    "attention_head_dim": 8,
    "block_out_channels": [320, 640, 1280, 1280],
    "center_input_sample": False,
    "cross_attention_dim": 768,
    "down_block_types": CROSS_DOWN,
    "downsample_padding": 1,
    "flip_sin_to_cos": True,
    "freq_shift": 0,
    "in_channels": 4,
    "layers_per_block": 2,
    "mid_block_scale_factor": 1,
    "norm_eps": 1e-05,
    "norm_num_groups": 32,
    "out_channels": 4,
    "sample_size": 64,
    "up_block_types": CROSS_UP,
}
UNET21 = UNET | {
    "_diffusers_version": "0.10.0.dev0",
    "attention_head_dim": [5, 10, 20, 20],
    "cross_attention_dim": 1024,
    "dual_cross_attention": False,
    "num_class_embeds": None,
    "only_cross_attention": False,
    "sample_size": 96,
    "upcast_attention": True,
    "use_linear_projection": True,
}
VAE = {
    "_class_name": "AutoencoderKL",
    "act_fn": "silu",
    "block_out_channels": [128, 256, 512, 512],
    "down_block_types": ["DownEncoderBlock2D"] * 4,
    "in_channels": 3,
    "latent_channels": 4,
    "layers_per_block": 2,
    "norm_num_groups": 32,
    "out_channels": 3,
    "sample_size": 512,
    "up_block_types": ["UpDecoderBlock2D"] * 4,
}
TEXT = {
    "_name_or_path": "openai/clip-vit-large-patch14",
    "architectures": ["CLIPTextModel"],
    "attention_dropout": 0.0,
    "bos_token_id": 0,
    "dropout": 0.0,
    "eos_token_id": 2,
    "hidden_act": "quick_gelu",
    "hidden_size": 768,
    "initializer_factor": 1.0,
    "initializer_range": 0.02,
    "intermediate_size": 3072,
    "layer_norm_eps": 1e-05,
    "max_position_embeddings": 77,
    "model_type": "clip_text_model",
    "num_attention_heads": 12,
    "num_hidden_layers": 12,
    "pad_token_id": 1,
    "torch_dtype": "float32",
    "transformers_version": "4.22.0.dev0",
    "vocab_size": 49408,
}
TEXT21 = TEXT | {
    "hidden_act": "gelu",
    "hidden_size": 1024,
    "intermediate_size": 4096,
    "num_attention_heads": 16,
    "num_hidden_layers": 23,
    "projection_dim": 512,
}
PNDM = {
    "_class_name": "PNDMScheduler",
    "beta_end": 0.012,
    "beta_schedule": "scaled_linear",
    "beta_start": 0.00085,
    "clip_sample": False,
    "num_train_timesteps": 1000,
    "set_alpha_to_one": False,
    "skip_prk_steps": True,
    "steps_offset": 1,
    "trained_betas": None,
}
DDIM = PNDM | {"_class_name": "DDIMScheduler", "prediction_type": "v_prediction"}
EULER_A = PNDM | {"_class_name": "EulerAncestralDiscreteScheduler", "prediction_type": "epsilon"}
LCM = DDIM | {"_class_name": "LCMScheduler", "prediction_type": "epsilon", "original_inference_steps": 50}


def documents(unet: dict[str, Any], text: dict[str, Any], scheduler: dict[str, Any] | None) -> dict[str, Any]:
    made = {"unet/config.json": unet, "vae/config.json": VAE, "text_encoder/config.json": text}
    return made | ({} if scheduler is None else {"scheduler/scheduler_config.json": scheduler})


@pytest.mark.parametrize(
    ("row", "unet", "text", "scheduler", "pad", "sampler"),
    [
        (SD15, UNET, TEXT, PNDM, "end", "plms"),
        (SD15_INPAINT, UNET | {"in_channels": 9}, TEXT, DDIM | {"prediction_type": "epsilon"}, "end", "ddim"),
        (SD15_PIX2PIX, UNET | {"in_channels": 8}, TEXT, EULER_A, "end", "euler_a"),
        (SD15_LCM, UNET | {"time_cond_proj_dim": 256}, TEXT, LCM, "end", "lcm"),
        (SD21, UNET21 | {"sample_size": 64}, TEXT21, PNDM, "zero", "plms"),
        (SD21_INPAINT, UNET21 | {"sample_size": 64, "in_channels": 9}, TEXT21, PNDM, "zero", "plms"),
        (SD21_DEPTH, UNET21 | {"sample_size": 64, "in_channels": 5}, TEXT21, PNDM, "zero", "plms"),
        (SD21_V, UNET21, TEXT21, DDIM, "zero", "ddim"),
    ],
    ids=["SD15", "SD15_INPAINT", "SD15_PIX2PIX", "SD15_LCM", "SD21", "SD21_INPAINT", "SD21_DEPTH", "SD21_V"],
)
def test_published_folders(
    row: Any, unet: dict[str, Any], text: dict[str, Any], scheduler: dict[str, Any], pad: str, sampler: str
) -> None:
    family, notes = assembly.family(documents(unet, text, scheduler), pad)
    assert (family.name, family.unet, family.autoencoder, family.text) == (
        row.name,
        row.unet,
        row.autoencoder,
        row.text,
    )
    assert (family.schedule, family.prediction) == (row.schedule, row.prediction)
    assert (family.defaults.width, family.defaults.height) == (row.defaults.width, row.defaults.height)
    assert family.defaults.sampler == sampler
    assert notes == []


UNET_XL = UNET | {
    "_diffusers_version": "0.19.0.dev0",
    "addition_embed_type": "text_time",
    "addition_embed_type_num_heads": 64,
    "addition_time_embed_dim": 256,
    "attention_head_dim": [5, 10, 20],
    "block_out_channels": [320, 640, 1280],
    "class_embed_type": None,
    "class_embeddings_concat": False,
    "conv_in_kernel": 3,
    "conv_out_kernel": 3,
    "cross_attention_dim": 2048,
    "cross_attention_norm": None,
    "down_block_types": ["DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"],
    "dual_cross_attention": False,
    "encoder_hid_dim": None,
    "encoder_hid_dim_type": None,
    "mid_block_only_cross_attention": None,
    "mid_block_type": "UNetMidBlock2DCrossAttn",
    "num_attention_heads": None,
    "num_class_embeds": None,
    "only_cross_attention": False,
    "projection_class_embeddings_input_dim": 2816,
    "resnet_out_scale_factor": 1.0,
    "resnet_skip_time_act": False,
    "resnet_time_scale_shift": "default",
    "sample_size": 128,
    "time_cond_proj_dim": None,
    "time_embedding_act_fn": None,
    "time_embedding_dim": None,
    "time_embedding_type": "positional",
    "timestep_post_act": None,
    "transformer_layers_per_block": [1, 2, 10],
    "up_block_types": ["CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"],
    "upcast_attention": None,
    "use_linear_projection": True,
}
UNET_REFINER = UNET_XL | {
    "attention_head_dim": [6, 12, 24, 24],
    "block_out_channels": [384, 768, 1536, 1536],
    "cross_attention_dim": 1280,
    "down_block_types": ["DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D", "DownBlock2D"],
    "projection_class_embeddings_input_dim": 2560,
    "transformer_layers_per_block": 4,
    "up_block_types": ["UpBlock2D", "CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"],
}
BIG_G = TEXT | {
    "architectures": ["CLIPTextModelWithProjection"],
    "hidden_act": "gelu",
    "hidden_size": 1280,
    "intermediate_size": 5120,
    "num_attention_heads": 20,
    "num_hidden_layers": 32,
    "projection_dim": 1280,
}
EULER_XL = PNDM | {
    "_class_name": "EulerDiscreteScheduler",
    "interpolation_type": "linear",
    "prediction_type": "epsilon",
    "sample_max_value": 1.0,
    "timestep_spacing": "leading",
    "use_karras_sigmas": False,
}
VAE_XL = VAE | {"force_upcast": True, "sample_size": 1024, "scaling_factor": 0.13025}


def documents_xl(unet: dict[str, Any], *, first: bool, pipeline: str, blank: bool) -> dict[str, Any]:
    made = {
        "model_index.json": {"_class_name": pipeline, "force_zeros_for_empty_prompt": blank},
        "unet/config.json": unet,
        "vae/config.json": VAE_XL,
        "text_encoder_2/config.json": BIG_G,
        "scheduler/scheduler_config.json": EULER_XL,
    }
    return made | ({"text_encoder/config.json": TEXT | {"projection_dim": 768}} if first else {})


BASE = documents_xl(UNET_XL, first=True, pipeline="StableDiffusionXLPipeline", blank=True)
REFINER = documents_xl(UNET_REFINER, first=False, pipeline="StableDiffusionXLImg2ImgPipeline", blank=False)


@pytest.mark.parametrize(
    ("row", "made"),
    [(SDXL, BASE), (SDXL_INPAINT, BASE | {"unet/config.json": UNET_XL | {"in_channels": 9}}), (SDXL_REFINER, REFINER)],
    ids=["SDXL", "SDXL_INPAINT", "SDXL_REFINER"],
)
def test_published_folders_of_stable_diffusion_xl(row: Any, made: dict[str, Any]) -> None:
    family, notes = assembly.family(made, "end", "zero")
    assert family == row
    assert notes == []
    bare = {name: document for name, document in made.items() if name != "model_index.json"}
    assert assembly.family(bare, "end", "zero")[0] == row
    index = made["model_index.json"]
    other = bare | {"model_index.json": index | {"force_zeros_for_empty_prompt": not row.blank}}
    assert assembly.family(other, "end", "zero")[0] == replace(row, name="custom", blank=not row.blank)


@pytest.mark.parametrize(
    ("changed", "told"),
    [
        ({"text_encoder_2/config.json": None}, "no text_encoder_2"),
        ({"text_encoder/config.json": None}, "width is 1280"),
        ({"unet/config.json": UNET}, "none of Stable Diffusion XL's"),
        ({"unet/config.json": UNET_XL | {"projection_class_embeddings_input_dim": 2815}}, "takes 2815"),
        ({"unet/config.json": UNET_XL | {"addition_time_embed_dim": 128}}, "addition_time_embed_dim"),
        ({"model_index.json": {"_class_name": "StableDiffusionPipeline"}}, "for StableDiffusionPipeline"),
        ({"text_encoder_2/config.json": BIG_G | {"num_hidden_layers": 1}}, "one layer"),
    ],
)
def test_parts_of_other_models_are_refused(changed: dict[str, Any], told: str) -> None:
    made = {name: document for name, document in (BASE | changed).items() if document is not None}
    with pytest.raises(UserError, match=told):
        assembly.family(made, "end", "zero")


def test_notes_tell_what_was_assumed() -> None:
    family, notes = assembly.family(documents(UNET, TEXT, None), "end")
    assert family == SD15
    assert "no scheduler_config.json" in notes[0]
    family, notes = assembly.family(
        documents(UNET, TEXT, PNDM | {"_class_name": "DPMSolverSinglestepScheduler"}), "end"
    )
    assert family.defaults.sampler == "plms"
    assert "DPMSolverSinglestepScheduler has no sampler of the same kind here" in notes[0]


def test_a_net_that_takes_a_vector() -> None:
    """A projected class embedding, as in Stable Diffusion 2's unCLIP, is our `vector`."""
    config = folder.unet(UNET | {"class_embed_type": "projection", "projection_class_embeddings_input_dim": 96})
    assert config.vector == 96
    names = {pair.theirs: pair.ours for pair in pairs(config)}
    assert names["class_embedding.linear_1.weight"] == ("vector.enter.weight",)
    assert shapes(config)["vector.enter.weight"] == (1280, 96)
    assert folder.unet(folder.unet_document(config, 64)) == config


@pytest.mark.parametrize("kind", ["text", "image", "image_hint"])
def test_conditions_that_are_not_read_are_refused(kind: str) -> None:
    with pytest.raises(UserError, match="addition_embed_type"):
        folder.unet(UNET | {"addition_embed_type": kind})


def defaults(scheduler: dict[str, Any], unet: dict[str, Any] = UNET21, **index: Any) -> tuple[Any, list[str]]:
    made = documents(unet, TEXT21 if unet["cross_attention_dim"] == 1024 else TEXT, scheduler)
    pad = "zero" if unet["cross_attention_dim"] == 1024 else "end"
    return assembly.family(made | ({"model_index.json": index} if index else {}), pad)


def test_every_scheduler_has_its_sampler_and_grid() -> None:
    base = {name: PNDM[name] for name in ("beta_start", "beta_end", "beta_schedule")}
    for kind, sampler in assembly.SCHEDULERS.items():
        family, notes = defaults(base | {"_class_name": kind})
        assert family.defaults.sampler == (sampler or "plms")
        assert bool(notes) == (sampler is None)
        assert family.defaults.sampler in SAMPLERS
        assert family.defaults.grid in GRIDS
    found = {
        kind: defaults(base | {"_class_name": kind, **more})[0].defaults.grid
        for kind, more in (
            ("EulerDiscreteScheduler", {}),
            ("HeunDiscreteScheduler", {"timestep_spacing": "leading"}),
            ("DDIMScheduler", {}),  # diffusers' own defaults: leading, and set_alpha_to_one
            ("DDIMParallelScheduler", {"set_alpha_to_one": False}),
            ("PNDMScheduler", {}),
            ("DPMSolverMultistepScheduler", {"use_karras_sigmas": True}),
            ("LCMScheduler", {}),
            ("TCDScheduler", {"timestep_spacing": "trailing"}),
        )
    }
    assert list(found.values()) == [
        "linspace", "ddim_uniform", "ddim_uniform", "leading", "leading", "karras", "lcm", "lcm",
    ]  # fmt: skip
    sde = base | {"_class_name": "DPMSolverMultistepScheduler", "algorithm_type": "sde-dpmsolver++"}
    assert defaults(sde)[0].defaults.sampler == "dpmpp_2m_sde"


def test_distilled_models_are_known_by_their_schedulers() -> None:
    turbo = EULER_A | {"_class_name": "EulerDiscreteScheduler", "timestep_spacing": "trailing"}
    family, notes = defaults(turbo)
    assert (family.name, family.defaults.steps, family.defaults.guidance) == ("SD_TURBO", 4, 1.0)
    assert "Turbo" in notes[0]
    family, notes = defaults(turbo | {"prediction_type": "v_prediction"})
    assert (family.name, family.defaults.guidance, notes) == ("SD21_V", 7.5, [])
    family, _ = defaults(LCM, UNET)
    assert (family.name, family.defaults.steps, family.defaults.guidance) == ("SD15", 4, 1.0)
    family, _ = defaults(LCM, UNET | {"time_cond_proj_dim": 256})
    assert (family.name, family.defaults.steps, family.defaults.guidance) == ("SD15_LCM", 4, 8.0)
    _, notes = defaults(LCM | {"original_inference_steps": 100}, UNET)
    assert "another number of times than 50" in notes[0]


def test_offsets_are_kept_where_the_pipeline_keeps_them() -> None:
    zero = PNDM | {"steps_offset": 0}
    pix2pix = "StableDiffusionInstructPix2PixPipeline"
    assert defaults(zero, UNET)[0].schedule.offset == 1
    assert defaults(zero, UNET, _class_name="StableDiffusionPipeline")[0].schedule.offset == 1
    family, notes = defaults(zero, UNET, _class_name=pix2pix)
    assert (family.schedule.offset, notes) == (0, [])
    assert assembly.documents(family)["scheduler/scheduler_config.json"]["steps_offset"] == 0
    family, notes = defaults(PNDM | {"steps_offset": 7}, UNET, _class_name=pix2pix)
    assert family.schedule.offset == 1
    assert "steps_offset = 7" in notes[0]


def test_a_depth_estimator_is_passed_over_with_a_note() -> None:
    index = {"_class_name": "StableDiffusionDepth2ImgPipeline", "depth_estimator": ["transformers", "DPTForDepth"]}
    _, notes = defaults(PNDM, UNET21 | {"in_channels": 5}, **index)
    assert "depth estimator is not read" in notes[0]
