"""One file for each interface that providers have: requests to bytes, bytes to completions. Pure."""
