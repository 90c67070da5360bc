"""How long networks run in onnxruntime: measured layer by layer, kept in tables, predicted from widths."""
