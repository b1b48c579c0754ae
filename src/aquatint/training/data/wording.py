"""What is said of a picture when it is shown: tags shuffled and dropped, templates, silence, all drawn by number."""

from dataclasses import dataclass

from aquatint.base.errors import UserError
from aquatint.base.noise import CAPTION, Noise

SILENT, FRAME, TAGS, SHUFFLED = range(4)  # steps of CAPTION's draws


@dataclass(frozen=True, kw_only=True)
class Wording:
    """How captions vary from one showing to the next.

    silent      share of the showings without a caption, for classifier-free guidance
    templates   one of these around the caption, which stands for {}: "a photo of {}"
    shuffle     whether a caption is a list of tags between separators, in any order
    drop        share of the tags that are left out
    keep        so many tags at the start stay where they are
    """

    silent: float = 0.0
    templates: tuple[str, ...] = ("{}",)
    shuffle: bool = False
    drop: float = 0.0
    keep: int = 0
    separator: str = ","

    def __post_init__(self) -> None:
        for name in ("silent", "drop"):
            if not 0 <= getattr(self, name) <= 1:
                raise UserError(f"{name} = {getattr(self, name):g}.", "0 to 1.")
        if not self.templates or any(template.count("{}") != 1 for template in self.templates):
            raise UserError(f"The templates {', '.join(self.templates)[:100]}.", "Texts that hold {} once.")
        if not self.separator or self.keep < 0:
            raise UserError(f'separator "{self.separator}", keep {self.keep}.', "A text, and a number from 0.")

    def say(self, caption: str, seed: int, sample: int) -> str:
        """The words of the showing with this number, a function of (caption, seed, sample)."""
        noise = Noise([seed], [sample])
        if self.silent and float(noise.uniform((1,), step=SILENT, draw=CAPTION)) < self.silent:
            return ""
        if self.shuffle or self.drop:
            caption = self._tags(caption, noise)
        if len(self.templates) == 1:
            return self.templates[0].replace("{}", caption)
        frame = int(noise.integers((1,), len(self.templates), step=FRAME, draw=CAPTION))
        return self.templates[frame].replace("{}", caption)

    def _tags(self, caption: str, noise: Noise) -> str:
        tags = [tag.strip() for tag in caption.split(self.separator) if tag.strip()]
        fixed, free = tags[: self.keep], tags[self.keep :]
        if not free:
            return f"{self.separator} ".join(fixed)
        drawn = noise.uniform((len(free),), step=TAGS, draw=CAPTION)[0].tolist()
        order = noise.uniform((len(free),), step=SHUFFLED, draw=CAPTION)[0].argsort(stable=True).tolist()
        places = order if self.shuffle else range(len(free))
        return f"{self.separator} ".join([*fixed, *(free[place] for place in places if drawn[place] >= self.drop)])
