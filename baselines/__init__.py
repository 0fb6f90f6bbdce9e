"""Methods that reach a sparse network, and the few pieces that they share."""
