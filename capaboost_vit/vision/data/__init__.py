"""Where images come from, and what is wrong with them."""

from .check import DataReport, check_data
from .image import EXTENSIONS, decode, to_rgb
from .scan import unreadable
from .sheet import draw_contact_sheet
from .spec import open_data
from .split import ImageData, Split

__all__ = [
    "EXTENSIONS",
    "DataReport",
    "ImageData",
    "Split",
    "check_data",
    "decode",
    "draw_contact_sheet",
    "open_data",
    "to_rgb",
    "unreadable",
]
