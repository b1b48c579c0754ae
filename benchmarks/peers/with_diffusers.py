"""diffusers: its pipeline from its own folder, channels last (its faster way on a CPU), eager or compiled."""

from typing import Any

import torch
from benchmarks.peers.worker import GUIDANCE, NEGATIVE, PROMPT, SEED, Asked, Work, given, sample, serve, started
from diffusers import EulerDiscreteScheduler, StableDiffusionPipeline


class Painter:
    """An opened pipeline."""

    def __init__(self, asked: Asked) -> None:
        torch.set_num_threads(asked.threads)
        torch.set_grad_enabled(False)
        folder = asked.folder / "diffusers"
        pipe: Any = StableDiffusionPipeline.from_pretrained(folder, local_files_only=True, torch_dtype=torch.float32)
        pipe.scheduler = EulerDiscreteScheduler.from_config(pipe.scheduler.config)
        pipe.set_progress_bar_config(disable=True)
        for net in (pipe.unet, pipe.vae):
            net.eval().to(memory_format=torch.channels_last)
        if "compiled" in asked.more:  # at the first calls
            torch._inductor.config.freezing = True
            pipe.unet.forward = torch.compile(pipe.unet.forward)
            pipe.vae.decoder.forward = torch.compile(pipe.vae.decoder.forward)
        self.pipe, self.asked, self.given = pipe, asked, given(asked.size)
        self.x, self.told = torch.from_numpy(self.given.x), torch.from_numpy(self.given.told)
        self.scale = pipe.vae.config.scaling_factor

    def step(self) -> torch.Tensor:
        """eps of a guided step, both rows in one batch."""
        both = torch.cat([self.x, self.x]).to(memory_format=torch.channels_last)
        without, with_ = self.pipe.unet(both, 500, encoder_hidden_states=self.told, return_dict=False)[0].chunk(2)
        return without + GUIDANCE * (with_ - without)

    def text(self) -> torch.Tensor:
        """Negative and prompt -> what the U-Net is told."""
        how = {"padding": "max_length", "max_length": 77, "return_tensors": "pt"}
        return self.pipe.text_encoder(self.pipe.tokenizer([NEGATIVE, PROMPT], **how).input_ids)[0]

    def decoded(self) -> torch.Tensor:
        """Latents -> pixels in [-1, 1]."""
        z = (self.x / self.scale).to(memory_format=torch.channels_last)
        return self.pipe.vae.decode(z, return_dict=False)[0]

    def encode(self) -> torch.Tensor:
        """Bytes -> latents."""
        pixels = torch.from_numpy(self.given.pixels).permute(0, 3, 1, 2).float() / 127.5 - 1
        return self.pipe.vae.encode(pixels, return_dict=False)[0].mean * self.scale

    def picture(self) -> None:
        """From prompt to PNG."""
        made = self.pipe(
            PROMPT, negative_prompt=NEGATIVE, width=self.asked.size, height=self.asked.size,
            num_inference_steps=self.asked.steps, guidance_scale=GUIDANCE,
            generator=torch.Generator().manual_seed(SEED),
        )  # fmt: skip
        made.images[0].save(self.asked.folder / "diffusers.png")

    def check(self) -> list[float]:
        """What the nets say of the inputs that all sides get."""
        return sample(*(x.contiguous().numpy() for x in (self.step(), self.decoded(), self.encode(), self.text())))

    def work(self) -> Work:
        """The pieces."""
        return {
            "picture": self.picture,
            "guided step": self.step,
            "text": self.text,
            "decode": lambda: self.pipe.image_processor.postprocess(self.decoded()),
            "encode": self.encode,
            "check": self.check,
        }


if __name__ == "__main__":
    asked = started()
    serve(asked, Painter(asked).work())
