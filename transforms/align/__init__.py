"""When each word is said: one backend a file behind `stage.Aligner`."""
