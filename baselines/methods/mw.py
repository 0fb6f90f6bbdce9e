"""m ⊙ w: a random mask trained as θ = m ⊙ w, never rescaled.

"Sign-In to the Lottery" (arXiv 2504.12801), Table 11: what the factors are worth without Sign-In's
rescaling. With Sign-In it *is* `random` with Sign-In.
"""

from __future__ import annotations

from baselines.methods.random_pai import Random


class Mw(Random):
    """A fixed random mask, trained by two factors."""

    name = "mw"
    paper = "Gadhikar et al. 2025, Table 11"
    variants = ({},)
    factorised = True
