"""From run folders to tables and pictures. Imports nothing of the code that trains."""
