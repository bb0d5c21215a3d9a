"""One results folder becomes one self-contained HTML page."""
