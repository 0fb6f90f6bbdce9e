"""What makes signs flip: Sign-In, counting flips, and transplants of signs between networks."""

from baselines.engine.product import Product
from signin.sign_in import SignIn
from signin.signs import agreement, count_flips
from signin.transplant import transplant_weights

__all__ = ["Product", "SignIn", "agreement", "count_flips", "transplant_weights"]
