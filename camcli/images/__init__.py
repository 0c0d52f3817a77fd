"""Pictures: finding them, decoding them, and the geometry between picture, view and map."""
