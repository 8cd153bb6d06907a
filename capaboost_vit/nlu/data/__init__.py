"""Where texts and their labels come from."""

from .protocols import PROTOCOLS
from .spec import open_texts
from .split import TextData, TextSplit

__all__ = ["PROTOCOLS", "TextData", "TextSplit", "open_texts"]
