"""Tables: the paper's, and comparisons of any runs."""
