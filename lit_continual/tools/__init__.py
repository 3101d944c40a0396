"""What a checkpoint is used for without training a stream: predict, adapt, score kernels."""
