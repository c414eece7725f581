"""Who speaks: embeddings of voices (`encoder`), their groups within a recording (`clustering`), in the pipeline (`stage`)."""
