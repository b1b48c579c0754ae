"""ESRGAN files as others write them, and ESRGAN's arithmetic written out over their names, apart from our net."""

import torch
from torch import Tensor
from torch.nn import functional as F

State = dict[str, Tensor]


def conv(generator: torch.Generator, inside: int, outside: int) -> tuple[Tensor, Tensor]:
    """A convolution's weight and bias, at a scale that keeps activations alive."""
    weight = torch.randn(outside, inside, 3, 3, generator=generator) / (9 * inside) ** 0.5
    return weight, 0.1 * torch.randn(outside, generator=generator)


def new_layout(blocks: int = 2, width: int = 16, growth: int = 8, fold: int = 1, seed: int = 0) -> State:
    """Real-ESRGAN's names."""
    generator, state = torch.Generator().manual_seed(seed), State()

    def put(name: str, inside: int, outside: int) -> None:
        state[f"{name}.weight"], state[f"{name}.bias"] = conv(generator, inside, outside)

    put("conv_first", 3 * fold**2, width)
    for block in range(blocks):
        for rdb in (1, 2, 3):
            for k in range(1, 6):
                put(f"body.{block}.rdb{rdb}.conv{k}", width + (k - 1) * growth, growth if k < 5 else width)
    for name in ("conv_body", "conv_up1", "conv_up2", "conv_hr"):
        put(name, width, width)
    put("conv_last", width, 3)
    return state


def second_layout(state: State) -> State:
    """The same weights under the names of ESRGAN's second release."""
    swaps = {
        "body.": "RRDB_trunk.",
        ".rdb": ".RDB",
        "conv_body": "trunk_conv",
        "conv_up": "upconv",
        "conv_hr": "HRconv",
    }
    made = State()
    for name, tensor in state.items():
        for before, after in swaps.items():
            if before != "body." or name.startswith(before):
                name = name.replace(before, after)
        made[name] = tensor
    return made


def old_layout(state: State, doublings: int = 2) -> State:
    """The same weights under the numbers of ESRGAN's first release, with as many doublings."""
    blocks = 1 + max(int(name.split(".")[1]) for name in state if name.startswith("body."))
    end = 2 + 3 * doublings  # two layers more, and the last of them, are the fine one and the end
    places = {"conv_first": "model.0", "conv_body": f"model.1.sub.{blocks}"}
    places |= {f"conv_up{k}": f"model.{3 * k}" for k in range(1, doublings + 1)}
    places |= {"conv_hr": f"model.{end}", "conv_last": f"model.{end + 2}"}
    made = State()
    for name, tensor in state.items():
        module, _, part = name.rpartition(".")
        if module.startswith("body."):
            _, block, rdb, inner = module.split(".")
            made[f"model.1.sub.{block}.{rdb.upper()}.{inner}.0.{part}"] = tensor
        elif module in places:
            made[f"{places[module]}.{part}"] = tensor
    return made


def enlarged(state: State, x: Tensor, fold: int = 1, doublings: int = 2) -> Tensor:
    """ESRGAN over pictures in [0, 1], from Real-ESRGAN's names."""

    def at(name: str, y: Tensor) -> Tensor:
        return F.conv2d(y, state[f"{name}.weight"], state[f"{name}.bias"], padding=1)

    def bent(y: Tensor) -> Tensor:
        return torch.where(y > 0, y, 0.2 * y)

    if fold > 1:
        b, c, h, w = x.shape
        x = x.reshape(b, c, h // fold, fold, w // fold, fold).permute(0, 1, 3, 5, 2, 4)
        x = x.reshape(b, c * fold**2, h // fold, w // fold)
    start = at("conv_first", x)
    y = start
    for block in range(1 + max(int(name.split(".")[1]) for name in state if name.startswith("body."))):
        inside = y
        for rdb in (1, 2, 3):
            begin, name = y, f"body.{block}.rdb{rdb}.conv"
            one = bent(at(f"{name}1", y))
            two = bent(at(f"{name}2", torch.cat([y, one], 1)))
            three = bent(at(f"{name}3", torch.cat([y, one, two], 1)))
            four = bent(at(f"{name}4", torch.cat([y, one, two, three], 1)))
            y = begin + 0.2 * at(f"{name}5", torch.cat([y, one, two, three, four], 1))
        y = inside + 0.2 * y
    y = start + at("conv_body", y)
    for k in range(1, doublings + 1):
        y = bent(at(f"conv_up{k}", y.repeat_interleave(2, dim=2).repeat_interleave(2, dim=3)))
    return at("conv_last", bent(at("conv_hr", y)))


def compact_layout(layers: int = 3, width: int = 12, scale: int = 4, seed: int = 0) -> State:
    """The small net's names."""
    generator, state = torch.Generator().manual_seed(seed), State()
    for index in range(layers + 1):
        made = conv(generator, width if index else 3, width)
        state[f"body.{2 * index}.weight"], state[f"body.{2 * index}.bias"] = made
        state[f"body.{2 * index + 1}.weight"] = torch.rand(width, generator=generator)
    last = 2 * layers + 2
    state[f"body.{last}.weight"], state[f"body.{last}.bias"] = conv(generator, width, 3 * scale**2)
    return state


def compact_enlarged(state: State, x: Tensor, scale: int) -> Tensor:
    """The small net over pictures in [0, 1]."""
    y, last = x, max(int(name.split(".")[1]) for name in state)
    for index in range(0, last, 2):
        y = F.conv2d(y, state[f"body.{index}.weight"], state[f"body.{index}.bias"], padding=1)
        y = torch.where(y > 0, y, y * state[f"body.{index + 1}.weight"][:, None, None])
    y = F.conv2d(y, state[f"body.{last}.weight"], state[f"body.{last}.bias"], padding=1)
    b, _, h, w = y.shape
    y = y.reshape(b, 3, scale, scale, h, w).permute(0, 1, 4, 2, 5, 3).reshape(b, 3, h * scale, w * scale)
    return y + x.repeat_interleave(scale, dim=2).repeat_interleave(scale, dim=3)
