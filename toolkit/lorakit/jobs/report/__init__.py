"""The job `report`: a finished comparison, read back as tables and drawn. Nothing here reads a model."""
