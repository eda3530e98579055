"""The command ``crossknn``."""
