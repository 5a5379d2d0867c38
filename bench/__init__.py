"""Measurements of the running product. Quote ratios within one run: machines are shared and noisy."""
