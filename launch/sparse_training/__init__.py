"""Training with sparse products on a CPU: a linear layer's products, and where they are used."""
