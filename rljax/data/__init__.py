"""Data on the device: replay buffers."""
