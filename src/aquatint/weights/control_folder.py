"""The config.json beside a ControlNet of diffusers': what of it must be as we compute, and the heads, which no shape
tells."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from aquatint.weights.folder import UNET, Fields

_FIELDS = Fields(
    "config.json",
    ("ControlNetModel",),
    fixed={
        **{name: allowed for name, allowed in UNET.fixed.items() if name not in ("class_embed_type",)},
        "mid_block_type": ("UNetMidBlock2DCrossAttn", "UNetMidBlock2D"),
        "controlnet_conditioning_channel_order": ("rgb",),
        "global_pool_conditions": (False,),
        "encoder_hid_dim": (None,),
        "num_class_embeds": (None,),
    },
    read={"attention_head_dim": 8, "num_attention_heads": None},
    inert=frozenset(),
    open=True,  # widths and depths are told by the tensors
)


@dataclass(frozen=True)
class ControlFolder:
    """The schema of a ControlNet's config.json."""

    fields: Fields

    def heads(self, document: Mapping[str, Any], stages: int) -> list[int] | None:
        """The heads of each stage; None where there is no document. UserError for what is computed otherwise here."""
        if not document:
            return None
        values = self.fields.values(document)
        name = "attention_head_dim" if values["num_attention_heads"] is None else "num_attention_heads"
        return self.fields.wholes(values, name, stages)


CONTROLNET = ControlFolder(_FIELDS)
