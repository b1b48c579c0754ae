"""Making nets: the loop, the objectives, the data."""
