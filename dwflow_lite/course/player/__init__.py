"""The player: one page, opened from disk, in which a reader moves time and networks are decoded in the browser."""
