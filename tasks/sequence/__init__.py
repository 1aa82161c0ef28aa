"""Recurrent networks on made-up sequences."""
