"""What `make bench` measures: one module per part, each a function that returns figures beside their references."""
