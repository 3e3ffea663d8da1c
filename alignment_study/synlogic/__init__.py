"""Verifiers of the 27 tasks of SynLogic-Easy (arXiv 2505.19641), a pure function each (`games.GAMES`)."""
