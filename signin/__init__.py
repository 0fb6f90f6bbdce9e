"""What makes signs flip: Sign-In and HAM, counting flips, transplants between networks."""

from baselines.engine.product import Product
from signin.ham import HAM
from signin.sign_in import SignIn
from signin.signs import agreement, count_flips
from signin.transplant import transplant_weights

__all__ = ["HAM", "Product", "SignIn", "agreement", "count_flips", "transplant_weights"]
