"""Inference with sparse weights on a CPU: formats, layers in them, and the choice between them."""
