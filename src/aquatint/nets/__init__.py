"""The networks, as plain torch modules. Nothing here has heard of noise levels, files or prompts."""
