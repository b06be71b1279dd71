"""Camera, canvas, light and textures that everything is drawn with."""
