"""The parts that the scripts share."""
