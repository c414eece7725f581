"""Speech to text: one backend a file behind `stage.Recogniser`."""
