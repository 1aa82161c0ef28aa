"""Results that others have published or recorded elsewhere, read as runs of this suite."""
