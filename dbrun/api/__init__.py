"""The public Python API: what `import dbrun` offers, and what the verbs of the command line are made of."""
