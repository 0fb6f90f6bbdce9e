"""Inference with sparse weights: formats, layers in them, and the choice between them."""
