"""The five stages that build an environment, one file each (arXiv 2508.08791, Fig. 2):

decompose → document → integrate → scale → deploy; `pipeline` runs them, `backends` writes what they ask for.
"""
