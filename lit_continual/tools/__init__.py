"""What is done with a checkpoint or a data set, without a config: init, predict, adapt, kse, export."""
