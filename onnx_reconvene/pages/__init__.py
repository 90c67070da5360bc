"""Pages to look at: HTML that needs no network and no script, readable in light and dark, with plots as SVG in it."""

from onnx_reconvene.pages.charts import check_plots

__all__ = ["check_plots"]
