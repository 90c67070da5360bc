"""A portfolio: many cuts of one network side by side, with what each costs and what it keeps."""
