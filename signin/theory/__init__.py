"""The student-teacher experiments of "Sign-In to the Lottery" (arXiv 2504.12801).

`neuron` trains many single neurons at a time; `flow` solves the gradient flow for one input;
`network` trains small networks; `tables` and `sweeps` compute fractions of runs that learn;
`figures` and `portraits` draw. All computations are in float64, on one thread, with fixed seeds.
"""
