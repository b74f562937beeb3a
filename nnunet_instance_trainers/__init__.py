"""Instance-aware trainers, losses and tools for an unmodified nnU-Net v2.

Importing this package is cheap: torch and nnU-Net are loaded by the subpackages that need them.
"""

__all__ = ["__version__"]

__version__ = "0.1.0"
