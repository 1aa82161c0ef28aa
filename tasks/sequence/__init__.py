"""Recurrent networks on generated sequences."""
