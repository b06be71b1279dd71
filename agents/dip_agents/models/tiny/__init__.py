"""The bundled tiny vision-language model."""
