"""Shipped searches."""
