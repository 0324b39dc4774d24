"""Parts of the Slicer panel. Only files here that show something import qt; nothing here imports torch."""
