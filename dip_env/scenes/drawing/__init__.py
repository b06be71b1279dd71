"""How a procedural scene is drawn: camera, figures, props, ground and photographic finish."""
