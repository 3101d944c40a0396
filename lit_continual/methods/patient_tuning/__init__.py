"""Patient tuning: a segmenter is tuned on a few annotated slices of the patient that it is to segment."""
