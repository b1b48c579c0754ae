"""What becomes of a prompt: chunks, weights, changes; then the picture. Run: python examples/prompts.py"""

import aquatint
from aquatint.pipelines.account import account_of

PROMPT = "a (cat:1.4) in the snow [in a meadow::0.5] <lora:ink:0.8>"

bundle = aquatint.load()
account = account_of(bundle, PROMPT, steps=6)
for scene in account.parts[0].scenes:
    words = [f"{token.text.strip()}({token.weight:g})" for chunk in scene.chunks for token in chunk]
    print(f"steps {scene.first} to {scene.last}: {' '.join(words)}")
for tag in account.tags:
    print(f"{tag.kind}: {tag.name}, weight {tag.weight:g}")
bundle.paint(PROMPT, seed=7, steps=6).save("cat.png")
