"""Networks that solve differential equations."""
