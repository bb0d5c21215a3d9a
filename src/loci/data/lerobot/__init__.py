"""Datasets in LeRobot's v3.0 format: read, written, checked."""
