"""Experience on the device: replay buffers, datasets, and the files that these come from."""
