"""Synthetic corpus: phantoms with findings, voxel masks, reports and labels. Everything in it is simulated."""
