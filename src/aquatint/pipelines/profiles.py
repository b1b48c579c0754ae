"""How other programs would paint a request: whose noise, which grid and start, how words are weighed, what a batch is.

    for one in replayed(Request("a cat", seeds=(7,), sampler="Euler a"), "a1111"): ...

A profile is a function from request to requests. It fills in what the request leaves open, in that program's way, and
leaves what the request says; of noise and grammar, whose defaults are ours, it takes these for open.
docs/reproduction.md tells how near that comes for each of them.
"""

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import TypeAlias

from aquatint.base.errors import unknown
from aquatint.diffusion.grids import options_of
from aquatint.diffusion.samplers import SAMPLERS
from aquatint.pipelines.request import Request
from aquatint.pipelines.stream import Stream

Profile: TypeAlias = Callable[[Request], tuple[Request, ...]]


def replayed(request: Request, profile: str) -> tuple[Request, ...]:
    """The request as the named program means it: one request, or one for each picture; UserError for another name."""
    if profile not in PROFILES:
        raise unknown("replay profile", profile, PROFILES)
    return PROFILES[profile](request)


def a1111(request: Request) -> tuple[Request, ...]:
    """AUTOMATIC1111's web UI, 1.9 and later, on a card: its "Automatic" schedule for each sampler.

    Seeds of a batch count up, as ours do. Its own k-diffusion samplers start from sigma * noise.
    """
    name = request.sampler or "euler"
    options = {"start": 1.0 if name in _TIMED else 0.0}
    options |= {"discard": 1.0} if name in ("dpm_2", "dpm_2_a", "dpmpp_3m_sde") else {}
    options |= {"bh": 1.0} if name == "unipc" else {}
    noise = "nv+tree" if SAMPLERS[name].path else "nv"
    return (_filled(request, name, _AUTOMATIC.get(name, "linspace"), noise, "a1111", options),)


def comfyui(request: Request) -> tuple[Request, ...]:
    """ComfyUI on a card: the first noise from torch's CPU generator, that of steps from the card's, seeded alike.
    Brownian paths are the CPU generator's too; those of its samplers called _gpu are the noise "cpu+nv+nvtree".

    Several seeds in a row are one batch of the first of them, drawn from one stream: picture i behind the others.
    """
    name = request.sampler or "euler"
    options = {"start": 1.0} | ({"discard": 1.0} if name in ("dpm_2", "dpm_2_a", "unipc") else {})
    noise = "cpu+nv+cputree" if SAMPLERS[name].path else "cpu+nv"
    one = _filled(request, name, "linspace", noise, "comfy", options)
    first, count = request.seeds[0], len(request.seeds)
    if count == 1 or request.stream is not None or request.seeds != tuple(range(first, first + count)):
        return (one,)
    return tuple(replace(one, seeds=(first,), stream=Stream(place, count)) for place in range(count))


def diffusers(request: Request) -> tuple[Request, ...]:
    """diffusers with a CPU generator for each picture, its schedulers as their constructors leave them."""
    name = request.sampler or "plms"
    options = {"order": 2.0} if name in ("unipc", "deis") else {}
    return (_filled(request, name, _SPACING.get(name, "linspace"), "cpu", "plain", options),)


def aquatint(request: Request) -> tuple[Request, ...]:
    """As we paint it: unchanged."""
    return (request,)


# A1111's samplers by time instead of by sigma, which start from unit noise.
_TIMED = ("ddim", "plms", "ddim_cfg_pp", "unipc")
_AUTOMATIC = {
    "ddim": "leading",
    "plms": "leading",
    "ddim_cfg_pp": "leading",
    "unipc": "sgm_uniform",
    "lcm": "lcm",
    "dpmpp_2m": "karras",
    "dpmpp_sde": "karras",
    "dpmpp_2s_a": "karras",
    "dpm_2": "karras",
    "dpm_2_a": "karras",
    "restart": "karras",
    "dpmpp_2m_sde": "exponential",
    "dpmpp_2m_sde_heun": "exponential",
    "dpmpp_3m_sde": "exponential",
}
# diffusers' default spacing; its multistep solvers' "linspace" leaves the last time out, which we call sgm_uniform.
_SPACING = {
    "ddim": "leading",
    "plms": "leading",
    "pndm": "leading",
    "ddpm": "leading",
    "dpmpp_2m": "sgm_uniform",
    "unipc": "sgm_uniform",
    "deis": "sgm_uniform",
    "sa_solver": "sgm_uniform",
    "lcm": "lcm",
    "tcd": "lcm",
}


def _filled(
    request: Request, sampler: str, grid: str, noise: str, grammar: str, options: Mapping[str, float]
) -> Request:
    """The request with these where it says nothing, and with those options that sampler and grid take."""
    said = dict(request.options)
    row, grid = SAMPLERS[sampler], request.grid or grid
    takes = {*row.options, *options_of(grid)}
    takes |= {"start"} if options.get("start") != row.start else set()
    return replace(
        request,
        sampler=sampler,
        grid=grid,
        noise=noise if request.noise == "aquatint" else request.noise,
        grammar=grammar if request.grammar == "a1111" else request.grammar,
        options=tuple(({name: value for name, value in options.items() if name in takes} | said).items()),
    )


PROFILES: dict[str, Profile] = {"a1111": a1111, "comfyui": comfyui, "diffusers": diffusers, "aquatint": aquatint}
