"""What is done to a record: one stage a file, or a folder where a stage has several model backends. Imports `schemas` only."""
