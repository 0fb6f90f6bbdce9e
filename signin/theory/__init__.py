"""The student-teacher experiments of "Sign-In to the Lottery" (arXiv 2504.12801), run and measured.

`neuron` trains single neurons, many at a time; `flow` follows their gradient flow for one input;
`network` trains small networks; `tables` and `sweeps` count successes; `figures` and `portraits`
draw. Everything is float64, on one thread, from explicit seeds.
"""
