"""Strategies of fine-tuning: one file each, found by its name."""
