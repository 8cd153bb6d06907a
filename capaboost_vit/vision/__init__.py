"""timm models: anatomy, registered names, adapter files, summaries, image data; runs on images."""
