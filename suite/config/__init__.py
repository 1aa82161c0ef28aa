"""What was asked for: words typed become a Plan."""
