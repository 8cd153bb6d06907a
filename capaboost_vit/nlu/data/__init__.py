"""Where texts and their labels come from."""

from .spec import open_texts
from .split import PROTOCOLS, TextData, TextSplit

__all__ = ["PROTOCOLS", "TextData", "TextSplit", "open_texts"]
