"""From the form a source carries to the form this project reads: `convert(folder of fetched files, target)`, one file each.

A converter reads what `fetch` put into a folder and writes `target`, a file or a folder that does not exist yet. It imports
what it needs inside, runs no code from the source, and unpickles nothing but tensors (`torch.load(weights_only=True)`).
"""
