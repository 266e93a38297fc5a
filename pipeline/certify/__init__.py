"""What holds of a model on one device: checks of one signature, each a line of the certificate."""
