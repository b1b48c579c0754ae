"""The theory of diffusion: levels of noise, predictions, denoisers, samplers. Takes any callable as a net."""
