"""Tables, plots and text from what was measured."""
