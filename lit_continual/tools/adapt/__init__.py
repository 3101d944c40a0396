"""A trained network is adapted to one study: a denoiser to its noise, a segmenter to a few annotated slices."""
