"""What is measured on a network: sign flips, operations, sharpness."""
