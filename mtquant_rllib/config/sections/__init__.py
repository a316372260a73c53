"""One file a section of the settings: its fields, their ranges and what they mean."""
