"""Networks as graphs, out: ONNX, TorchScript and the archives of torch.export."""
