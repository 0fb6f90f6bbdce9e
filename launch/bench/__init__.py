"""What it costs: `signbench bench`."""
