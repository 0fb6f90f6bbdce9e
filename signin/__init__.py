"""Sign-In: the product storage, and what can be said about signs."""

from signin.product import Product

__all__ = ["Product"]
