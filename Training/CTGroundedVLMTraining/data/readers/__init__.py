"""Readers of public data sets and plain folders: each makes manifest rows, labels and notes on what it left out."""
