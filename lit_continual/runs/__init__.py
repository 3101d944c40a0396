"""What a run and a checkpoint are on disk: one definition, one writer, one reader."""
