"""What other programs call our samplers and grids; each name is read, and A1111's is the one that infotexts get."""

from typing import NamedTuple


class Names(NamedTuple):
    """What A1111, ComfyUI, diffusers, and InvokeAI or kohya call one thing; empty where they have not got it."""

    a1111: str
    comfyui: str = ""
    diffusers: str = ""
    others: tuple[str, ...] = ()


def sampler_named(text: str) -> tuple[str, str | None] | None:
    """(our sampler, our grid or None) for a name of anybody's: "DPM++ 2M Karras" is ("dpmpp_2m", "karras").

    A1111 before 1.9 and InvokeAI name the grid within the sampler; None for a name that nobody uses.
    """
    name = _plain(text)
    if name in _SAMPLERS:
        return _SAMPLERS[name], None
    for ending, grid in _ENDINGS.items():
        if name.endswith(ending) and name.removesuffix(ending) in _SAMPLERS:
            return _SAMPLERS[name.removesuffix(ending)], grid
    return None


def grid_named(text: str) -> str | None:
    """Our grid for a name of anybody's; None for a name that nobody uses."""
    return _GRIDS.get(_plain(text))


def _plain(text: str) -> str:
    return " ".join(text.casefold().split())


SAMPLER_NAMES: dict[str, Names] = {
    "ddim": Names("DDIM", "ddim", "DDIMScheduler"),
    "plms": Names("PLMS", "", "PNDMScheduler"),
    "pndm": Names("PNDM"),
    "lms": Names("LMS", "lms", "LMSDiscreteScheduler", ("k_lms",)),
    "euler": Names("Euler", "euler", "EulerDiscreteScheduler", ("k_euler",)),
    "euler_a": Names("Euler a", "euler_ancestral", "EulerAncestralDiscreteScheduler", ("k_euler_a",)),
    "heun": Names("Heun", "heun", "HeunDiscreteScheduler", ("k_heun",)),
    "dpmpp_2m": Names("DPM++ 2M", "dpmpp_2m", "DPMSolverMultistepScheduler", ("dpmsolver++",)),
    "dpm_2": Names("DPM2", "dpm_2", "KDPM2DiscreteScheduler", ("kdpm_2", "k_dpm_2")),
    "dpm_2_a": Names("DPM2 a", "dpm_2_ancestral", "KDPM2AncestralDiscreteScheduler", ("kdpm_2_a", "k_dpm_2_a")),
    "dpmpp_2s_a": Names("DPM++ 2S a", "dpmpp_2s_ancestral"),
    "dpmpp_sde": Names("DPM++ SDE", "dpmpp_sde", "DPMSolverSDEScheduler", ("dpmpp_sde_gpu",)),
    "dpmpp_2m_sde": Names("DPM++ 2M SDE", "dpmpp_2m_sde", "", ("dpmpp_2m_sde_gpu",)),
    "dpmpp_2m_sde_heun": Names("DPM++ 2M SDE Heun", "dpmpp_2m_sde_heun", "", ("dpmpp_2m_sde_heun_gpu",)),
    "dpmpp_3m_sde": Names("DPM++ 3M SDE", "dpmpp_3m_sde", "", ("dpmpp_3m_sde_gpu",)),
    "unipc": Names("UniPC", "uni_pc_bh2", "UniPCMultistepScheduler"),
    "deis": Names("DEIS", "deis", "DEISMultistepScheduler"),
    "ipndm": Names("IPNDM", "ipndm", "IPNDMScheduler"),
    "ipndm_v": Names("IPNDM_V", "ipndm_v"),
    "res_multistep": Names("Res Multistep", "res_multistep"),
    "gradient_estimation": Names("Gradient Estimation", "gradient_estimation"),
    "er_sde": Names("ER SDE", "er_sde"),
    "ddpm": Names("DDPM", "ddpm", "DDPMScheduler"),
    "lcm": Names("LCM", "lcm", "LCMScheduler"),
    "tcd": Names("TCD", "", "TCDScheduler"),
    "heunpp2": Names("HeunPP2", "heunpp2"),
    "dpm_fast": Names("DPM fast", "dpm_fast"),
    "dpm_adaptive": Names("DPM adaptive", "dpm_adaptive"),
    "restart": Names("Restart"),
    "seeds_2": Names("SEEDS 2", "seeds_2"),
    "seeds_3": Names("SEEDS 3", "seeds_3"),
    "sa_solver": Names("SA Solver", "sa_solver", "SASolverScheduler"),
    "sa_solver_pece": Names("SA Solver PECE", "sa_solver_pece"),
    "res_multistep_a": Names("Res Multistep a", "res_multistep_ancestral"),
    "ddim_cfg_pp": Names("DDIM CFG++"),
    "euler_cfg_pp": Names("Euler CFG++", "euler_cfg_pp"),
    "euler_a_cfg_pp": Names("Euler a CFG++", "euler_ancestral_cfg_pp"),
    "dpmpp_2m_cfg_pp": Names("DPM++ 2M CFG++", "dpmpp_2m_cfg_pp"),
    "dpmpp_2s_a_cfg_pp": Names("DPM++ 2S a CFG++", "dpmpp_2s_ancestral_cfg_pp"),
    "res_multistep_cfg_pp": Names("Res Multistep CFG++", "res_multistep_cfg_pp"),
    "res_multistep_a_cfg_pp": Names("Res Multistep a CFG++", "res_multistep_ancestral_cfg_pp"),
    "gradient_estimation_cfg_pp": Names("Gradient Estimation CFG++", "gradient_estimation_cfg_pp"),
}
GRID_NAMES: dict[str, Names] = {
    "leading": Names("Leading"),
    "trailing": Names("Trailing"),
    "linspace": Names("Uniform", "normal", "", ("linspace",)),
    "karras": Names("Karras", "karras"),
    "exponential": Names("Exponential", "exponential"),
    "polyexponential": Names("Polyexponential"),
    "ddim_uniform": Names("DDIM", "ddim_uniform"),
    "sgm_uniform": Names("SGM Uniform", "sgm_uniform"),
    "simple": Names("Simple", "simple"),
    "beta": Names("Beta", "beta"),
    "kl_optimal": Names("KL Optimal", "kl_optimal"),
    "align_your_steps": Names("Align Your Steps", "", "", ("ays", "ays sd15")),
    "align_your_steps_xl": Names("Align Your Steps SDXL", "", "", ("ays sdxl",)),
    "linear_quadratic": Names("Linear Quadratic", "linear_quadratic"),
    "lcm": Names("LCM Times"),
    "turbo": Names("Turbo"),
}


def _table(rows: dict[str, Names]) -> dict[str, str]:
    """Every spelling of every row -> our name; ours go first."""
    spelled: dict[str, str] = {}
    for name, names in rows.items():
        for spelling in (*names[:3], *names.others):
            if spelling:
                assert spelled.get(_plain(spelling), name) == name, f"{spelling} is two of ours"
                spelled[_plain(spelling)] = name
    return spelled | {name: name for name in rows}


_SAMPLERS, _GRIDS = _table(SAMPLER_NAMES), _table(GRID_NAMES)
_ENDINGS = {" karras": "karras", " exponential": "exponential", " polyexponential": "polyexponential", "_k": "karras"}
