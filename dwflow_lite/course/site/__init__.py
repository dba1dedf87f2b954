"""The site that a run writes beside its notebooks: frame, home, glossary, reference and search, all static files."""
