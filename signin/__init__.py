"""Sign-In: a re-parameterisation that helps signs flip, and what can be said about signs."""

from baselines.engine.product import Product
from signin.sign_in import SignIn

__all__ = ["Product", "SignIn"]
