"""Paint one picture with the carried model and save it with its metadata."""

import aquatint

bundle = aquatint.load()
picture = bundle.paint("a cat in a meadow", seed=7)
print(picture.save("cat.png"))
