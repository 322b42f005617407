"""The configs that come with the package, by name.

An installation has them here. In a checkout they are the files of `configs/` at its top, where this leads.
"""

from pathlib import Path

__path__ = [str(Path(__file__).parents[2] / "configs")]
