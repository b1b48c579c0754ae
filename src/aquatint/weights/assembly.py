"""What holds a diffusers folder together: model_index.json, the scheduler, and from all its JSON a family, and back."""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from aquatint.base.errors import UserError
from aquatint.diffusion.grids import LCM_TIMES
from aquatint.diffusion.schedule import ScheduleConfig
from aquatint.families import SD15, SD15_LCM, Defaults, Family
from aquatint.weights import conditioner, description, diffusers, folder
from aquatint.weights.folder import Document, Fields

# Which of our samplers a folder's scheduler stands for; None where we have none, and the family's default is kept.
SCHEDULERS: dict[str, str | None] = {
    "PNDMScheduler": "pndm",
    "DDIMScheduler": "ddim",
    "DDPMScheduler": "ddpm",
    "LCMScheduler": "lcm",
    "TCDScheduler": "tcd",
    "DDIMParallelScheduler": "ddim",
    "DDPMParallelScheduler": "ddpm",
    "LMSDiscreteScheduler": "lms",
    "EulerDiscreteScheduler": "euler",
    "EulerAncestralDiscreteScheduler": "euler_a",
    "HeunDiscreteScheduler": "heun",
    "DPMSolverMultistepScheduler": "dpmpp_2m",
    "DEISMultistepScheduler": "deis",
    "UniPCMultistepScheduler": "unipc",
    "KDPM2DiscreteScheduler": "dpm_2",
    "KDPM2AncestralDiscreteScheduler": "dpm_2_a",
    "DPMSolverSDEScheduler": "dpmpp_sde",
    "SASolverScheduler": "sa_solver",
    "DPMSolverSinglestepScheduler": None,
}
# Schedulers whose steps are "leading" where nothing else is said, with what they take set_alpha_to_one for then (None:
# they always end clean). All others are "linspace", and end clean.
LEADING = {"PNDMScheduler": False, "DDIMScheduler": True, "DDIMParallelScheduler": True} | dict.fromkeys(
    ("DDPMScheduler", "DDPMParallelScheduler", "LCMScheduler", "TCDScheduler")
)
DISTILLED = ("LCMScheduler", "TCDScheduler")  # these visit some of the times of the teacher's 50 steps
# The kinds of pipeline, by what their U-Net is shown (Family.sees); those of the first two rows take steps_offset for 1
# whatever the scheduler says, as diffusers does.
CORRECTED = {
    "nothing": ("StableDiffusionPipeline", "StableDiffusionImg2ImgPipeline", "StableDiffusionPipelineSafe"),
    "mask": ("StableDiffusionInpaintPipeline", "StableDiffusionInpaintPipelineLegacy"),
}
OTHERS = {
    "picture": ("StableDiffusionInstructPix2PixPipeline",),
    "depth": ("StableDiffusionDepth2ImgPipeline",),
    "guidance": ("LatentConsistencyModelPipeline", "LatentConsistencyModelImg2ImgPipeline"),
    "large": ("StableDiffusionXLPipeline", "StableDiffusionXLImg2ImgPipeline", "StableDiffusionXLInpaintPipeline"),
}
PIPELINES = tuple(name for kinds in (CORRECTED, OTHERS) for names in kinds.values() for name in names)
COMPONENTS = {
    "unet": ("UNet2DConditionModel",),
    "vae": ("AutoencoderKL",),
    "text_encoder": ("CLIPTextModel", "CLIPTextModelWithProjection"),
    "text_encoder_2": ("CLIPTextModelWithProjection",),
    "tokenizer": ("CLIPTokenizer", "CLIPTokenizerFast"),
    "tokenizer_2": ("CLIPTokenizer", "CLIPTokenizerFast"),
    "scheduler": tuple(SCHEDULERS),
}
SCHEDULES = {"scaled_linear": "scaled_linear", "linear": "linear", "squaredcos_cap_v2": "cosine"}
PREDICTIONS = {"epsilon": "epsilon", "v_prediction": "v", "sample": "sample"}
SPACINGS = ("leading", "trailing", "linspace")
# Fields beyond these say how a scheduler steps. That is for the request to say here, so they are let pass.
SCHEDULER = Fields(
    "scheduler/scheduler_config.json",
    tuple(SCHEDULERS),
    fixed={"trained_betas": (None,)},
    read={
        "num_train_timesteps": 1000,
        "beta_start": 0.0001,
        "beta_end": 0.02,
        "beta_schedule": "linear",
        "prediction_type": "epsilon",
        "rescale_betas_zero_snr": False,
        "timestep_spacing": None,
        "steps_offset": 0,
        "set_alpha_to_one": None,
        "skip_prk_steps": False,
        "algorithm_type": None,
        "original_inference_steps": LCM_TIMES,
        "use_karras_sigmas": False,
        "use_exponential_sigmas": False,
    },
    inert=frozenset(),
    open=True,
)


def check_index(index: Document) -> None:
    """Whether model_index.json describes a pipeline and components that are read here."""
    kind = index.get("_class_name")
    if kind not in PIPELINES:
        raise UserError(f"model_index.json is for {str(kind)[:60]!r}.", f"Known: {', '.join(PIPELINES)}.")
    for component, allowed in COMPONENTS.items():
        row = index.get(component)
        name = row[1] if isinstance(row, list) and len(row) == 2 else None
        if name is not None and name not in allowed:
            raise UserError(
                f"model_index.json has {str(name)[:60]!r} for {component}.", f"Known: {', '.join(allowed)}."
            )


def family(documents: Document, pad: str, pad2: str = "zero") -> tuple[Family, list[str]]:
    """The family that the folder's JSON describes, and what there is to say about it.

    documents   "unet/config.json" and so on; the scheduler's may be missing
    pad, pad2   how the folder's tokenizers fill up, "end" or "zero"
    """
    notes: list[str] = []
    unet = folder.unet(documents["unet/config.json"])
    autoencoder = folder.autoencoder(documents["vae/config.json"])
    encoders = conditioner.of_documents(documents, unet, pad, pad2)
    scheduler = documents.get("scheduler/scheduler_config.json")
    if scheduler is None:
        notes.append("no scheduler_config.json: Stable Diffusion 1's schedule and epsilon are taken")
        schedule, prediction, defaults = SD15.schedule, "epsilon", SD15.defaults
    else:
        schedule, prediction, defaults = _scheduler(scheduler, notes)
        schedule = _offset(schedule, scheduler, documents, notes)
        defaults = _few(defaults, scheduler, prediction, schedule, notes)
        if unet.guidance:
            defaults = replace(SD15_LCM.defaults, sampler=defaults.sampler, grid=defaults.grid)
    size = documents["unet/config.json"].get("sample_size")
    if type(size) is int and 1 <= size * autoencoder.factor <= description.WIDEST and size * autoencoder.factor >= 8:
        defaults = replace(defaults, width=size * autoencoder.factor, height=size * autoencoder.factor)
    if "micro" in encoders:
        defaults = conditioner.defaults(defaults)
    if documents.get("model_index.json", {}).get("depth_estimator", [None])[0] is not None:
        notes.append("its depth estimator is not read: give a depth map")
    rest: dict[str, Any] = {"schedule": schedule, "prediction": prediction, "defaults": defaults}
    made = Family("custom", unet, autoencoder, **encoders, **rest)
    return description.known(description.check(made)), notes


def _scheduler(document: Document, notes: list[str]) -> tuple[ScheduleConfig, str, Defaults]:
    values = SCHEDULER.values(document)
    for name, known in (("beta_schedule", SCHEDULES), ("prediction_type", PREDICTIONS)):
        if not isinstance(values[name], str) or values[name] not in known:
            raise UserError(
                f"scheduler_config.json has {name} = {str(values[name])[:60]}.", f"Known: {', '.join(known)}."
            )
    schedule = ScheduleConfig(
        kind=SCHEDULES[values["beta_schedule"]],
        start=SCHEDULER.number(values, "beta_start"),
        end=SCHEDULER.number(values, "beta_end"),
        steps=SCHEDULER.whole(values, "num_train_timesteps") or 0,
        zero_terminal=values["rescale_betas_zero_snr"] is True,
    )
    kind = document.get("_class_name", "PNDMScheduler")
    sampler = SCHEDULERS[kind]
    if sampler is None:
        notes.append(f"{kind} has no sampler of the same kind here: {SD15.defaults.sampler} is the default")
        sampler = SD15.defaults.sampler
    if kind == "PNDMScheduler" and values["skip_prk_steps"] is True:
        sampler = "plms"
    if values["algorithm_type"] == "sde-dpmsolver++":
        sampler = "dpmpp_2m_sde"
    grid = _grid(kind, values)
    if kind in DISTILLED and values["original_inference_steps"] != LCM_TIMES:
        notes.append(f"its scheduler picks from another number of times than {LCM_TIMES}, which are taken")
    return schedule, PREDICTIONS[values["prediction_type"]], replace(SD15.defaults, sampler=sampler, grid=grid)


def _grid(kind: str, values: Mapping[str, Any]) -> str:
    """Our grid for a scheduler's settings: with which times, and ending where."""
    for name in ("karras", "exponential"):
        if values[f"use_{name}_sigmas"] is True:
            return name
    if kind in DISTILLED:
        return "lcm"
    spacing = values["timestep_spacing"]
    spacing = spacing if spacing in SPACINGS else "leading" if kind in LEADING else "linspace"
    if spacing != "leading":
        return spacing
    usual = LEADING.get(kind)
    clean = usual is None or (values["set_alpha_to_one"] if type(values["set_alpha_to_one"]) is bool else usual)
    return "ddim_uniform" if clean else "leading"


def _offset(schedule: ScheduleConfig, document: Document, documents: Document, notes: list[str]) -> ScheduleConfig:
    """The schedule with the scheduler's steps_offset, unless its pipeline takes 1 whatever that is."""
    said = SCHEDULER.whole(SCHEDULER.values(document), "steps_offset")
    pipeline = documents.get("model_index.json", {}).get("_class_name")
    if said == 1 or not any(pipeline in names for names in OTHERS.values()):
        return schedule
    if said != 0:
        notes.append(f"its scheduler has steps_offset = {str(said)[:20]}: 1 is taken")
        return schedule
    return replace(schedule, offset=0)


def _few(
    defaults: Defaults, document: Document, prediction: str, schedule: ScheduleConfig, notes: list[str]
) -> Defaults:
    """Few steps and no guidance, if the scheduler is one that only distilled models have."""
    kind = document.get("_class_name")
    turbo = kind in ("EulerDiscreteScheduler", "EulerAncestralDiscreteScheduler") and defaults.grid == "trailing"
    if kind in DISTILLED or (turbo and prediction == "epsilon" and not schedule.zero_terminal):
        if turbo:
            notes.append(
                f"{kind} with trailing steps is how Turbo models are published: 4 steps, no guidance by default"
            )
        return replace(defaults, steps=4, guidance=1.0)
    return defaults


def documents(made: Family) -> dict[str, dict[str, Any]]:
    """All JSON of the folder for a family, by file name; a UserError where the layout has no words for it."""
    if reason := unsayable(made):
        raise UserError(
            f"{made.name} cannot be written as a diffusers folder: {reason}.", "", "Write the native format."
        )
    size = made.defaults.width // made.autoencoder.factor
    classes = {
        "feature_extractor": [None, None],
        "image_encoder": [None, None],
        "safety_checker": [None, None],
        "scheduler": ["diffusers", (scheduler := scheduler_document(made))["_class_name"]],
        "text_encoder": ["transformers", "CLIPTextModel"],
        "tokenizer": ["transformers", "CLIPTokenizer"],
        "unet": ["diffusers", "UNet2DConditionModel"],
        "vae": ["diffusers", "AutoencoderKL"],
    }
    pipeline = (CORRECTED | OTHERS)["guidance" if made.unet.guidance else made.sees][0]
    head = {"_class_name": pipeline, "_diffusers_version": folder.VERSION, "requires_safety_checker": False}
    if made.micro:
        head, classes = conditioner.index(made, head, classes, inpaints=made.sees == "mask")
    elif made.sees == "depth":
        classes["depth_estimator"] = [None, None]
        del classes["image_encoder"], classes["safety_checker"], head["requires_safety_checker"]
    places = diffusers.folders(made)
    return {
        "model_index.json": dict(sorted({**head, **classes}.items())),
        "unet/config.json": folder.unet_document(made.unet, size, added=bool(made.micro)),
        "vae/config.json": folder.autoencoder_document(made.autoencoder, made.defaults.width),
        f"{places['text']}/config.json": folder.text_document(made.text),
        **({f"{places['text2']}/config.json": folder.text_document(made.text2)} if made.text2 else {}),
        "scheduler/scheduler_config.json": scheduler,
    }


def unsayable(made: Family) -> str:
    """What a diffusers folder, or a single file without our description, cannot say of a family; empty if nothing."""
    unet, autoencoder = made.unet, made.autoencoder
    if autoencoder.encoder != autoencoder.decoder:
        return "its autoencoder's encoder and decoder have different widths"
    if not (autoencoder.groups and unet.groups):
        return "it has blocks without norms"
    if not unet.middle or (unet.stages[-1].depth and unet.stages[-1].depth != unet.middle):
        return "its middle has another number of transformer layers than its last stage"
    if made.sees == "unknown":
        return f"its U-Net takes {unet.channels_in} channels, which no pipeline does"
    return conditioner.unsayable(made)


def scheduler_document(made: Family) -> dict[str, Any]:
    """scheduler_config.json: the scheduler of the default sampler, or DDIM's where that one lacks what is needed."""
    schedule, defaults = made.schedule, made.defaults
    names = {sampler: kind for kind, sampler in reversed(SCHEDULERS.items()) if sampler} | {"plms": "PNDMScheduler"}
    kind = names.get(defaults.sampler, "DDIMScheduler")
    if schedule.zero_terminal or made.prediction == "sample":
        kind = "DDIMScheduler"
    values: dict[str, Any] = {
        "_class_name": kind,
        "_diffusers_version": folder.VERSION,
        "num_train_timesteps": schedule.steps,
        "beta_start": schedule.start,
        "beta_end": schedule.end,
        "beta_schedule": {ours: theirs for theirs, ours in SCHEDULES.items()}[schedule.kind],
        "prediction_type": {ours: theirs for theirs, ours in PREDICTIONS.items()}[made.prediction],
        "timestep_spacing": "trailing" if defaults.grid == "turbo" else _spacing(defaults.grid),
        "trained_betas": None,
        "steps_offset": schedule.offset,
    }
    clean = defaults.grid == "ddim_uniform"
    if kind == "PNDMScheduler":
        values |= {"set_alpha_to_one": clean, "skip_prk_steps": defaults.sampler == "plms"}
    elif kind == "DDIMScheduler":
        values |= {"set_alpha_to_one": clean, "clip_sample": False, "rescale_betas_zero_snr": schedule.zero_terminal}
    elif kind in DISTILLED:
        values |= {"clip_sample": False, "original_inference_steps": LCM_TIMES}
    elif defaults.grid in ("karras", "exponential"):
        values[f"use_{defaults.grid}_sigmas"] = True
    return dict(sorted(values.items()))


def _spacing(grid: str) -> str:
    return grid if grid in SPACINGS else "leading"
