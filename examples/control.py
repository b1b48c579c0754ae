"""Steer one picture by another: the edges of the first, shown to a ControlNet. Run: python examples/control.py

The pocket model has no trained ControlNet. This makes an untrained one, whose last layers are zero as on the first day
of training (Zhang et al. 2023), so that it changes no bit yet; a trained file is opened and named in the same way.
"""

import torch
from safetensors.torch import save_file

import aquatint
from aquatint.nets.control import ControlConfig, ControlNet
from aquatint.pipelines.preprocess import PREPROCESSORS
from aquatint.weights.control_names import original_control
from aquatint.weights.keymap import pairs, to_theirs

bundle = aquatint.load()
cat = bundle.paint("a cat in a meadow", seed=4)
PREPROCESSORS["canny"](cat.image).save("edges.png")

config = ControlConfig(bundle.unet.config)
net = ControlNet(config)
with torch.no_grad():
    for last in (*net.zeros.parameters(), *net.zero.parameters()):
        last.zero_()
state = net.state_dict()
names = pairs(original_control(config), {name: tuple(tensor.shape) for name, tensor in state.items()})
save_file(to_theirs(names, state), "untrained.safetensors")

steered = aquatint.load(controls=["untrained.safetensors"])
edges = aquatint.Control("untrained", aquatint.given("edges.png"), weight=0.9, end=0.8)
panda = steered.paint("a panda in the snow", seed=4, controls=(edges,))
print(panda.save("panda.png"), [file.name for file in panda.record.files])
assert panda.image.tobytes() == bundle.paint("a panda in the snow", seed=4).image.tobytes()
