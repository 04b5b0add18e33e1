"""The report's pictures, as SVG that takes its colours from the page: it is light or dark as the page is."""
