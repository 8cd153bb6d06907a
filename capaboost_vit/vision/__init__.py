"""timm models: anatomy, registered names, adapter files, summaries, image data."""

# first of all: importing timm registers our names, which imports the modules of this package, none of them half done
import timm as timm
