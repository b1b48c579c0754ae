"""Watch pictures come about: a Progress after every step, previews from latents, a Picture at the end of each."""

import aquatint

bundle = aquatint.load()
request = aquatint.Request(prompt="a red circle on a blue background", seeds=(1, 2), steps=8)
for progress in aquatint.generate(bundle, request):
    print(f"picture {progress.number + 1}, step {progress.index} of {progress.total}")
    if progress.picture:
        print(progress.picture.save(f"circle-{progress.seed}.png"))
