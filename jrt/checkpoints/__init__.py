"""The embedded models (`jrt/tiny-...`), one folder each; `jrt.training` holds the recipes that are their only
source."""
